//! A session at a grade: only what links of that grade, or a stronger one, hold together.
//!
//! | record | stays when |
//! | --- | --- |
//! | of a call | a link of the grade joins it, directly or over others, to the call's strongest witness that has such a link; a call in which no link is of the grade goes, unless it is a single record |
//! | of none | every link up its chain of parents is of the grade, and its parents stay |
//!
//! What goes is counted, not hidden: see [`LeftOut`]. Gaps are those of the whole session, because a record beyond
//! the grade is present all the same.

use std::collections::HashMap;

use threadline_schemas::Record;

use super::assemble::{Assembly, CallGroup};
use super::calls::strength;
use crate::links::Links;
use crate::model::Grade;

/// What a session at a grade does not show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Records.
    pub records: usize,
    /// Calls of which nothing is shown.
    pub calls: usize,
}

/// Which records stay, and what goes.
pub(super) fn kept(records: &[Record], links: &Links, assembly: &Assembly, floor: Grade) -> (Vec<bool>, LeftOut) {
    let mut kept = vec![false; records.len()];
    let mut left_out = LeftOut::default();
    for group in &assembly.calls {
        let members = witnesses(records, links, group, floor);
        left_out.calls += usize::from(members.is_empty());
        members.into_iter().for_each(|at| kept[at] = true);
    }
    for at in (0..records.len()).filter(|at| assembly.call_of[*at].is_none()) {
        kept[at] = links
            .ancestors(at)
            .all(|edge| edge.grade <= floor && (assembly.call_of[edge.to].is_none() || kept[edge.to]));
    }
    left_out.records = kept.iter().filter(|kept| !**kept).count();
    (kept, left_out)
}

/// The records of a call that links of the grade join, around the strongest of them.
fn witnesses(records: &[Record], links: &Links, group: &CallGroup, floor: Grade) -> Vec<usize> {
    if group.records.len() == 1 {
        return group.records.clone();
    }
    let places: HashMap<usize, usize> = group.records.iter().enumerate().map(|(place, at)| (*at, place)).collect();
    let mut part: Vec<usize> = (0..group.records.len()).collect();
    let mut joined = vec![false; part.len()];
    for at in &group.records {
        let Some(edge) = links.parent_of(*at).filter(|edge| edge.grade <= floor) else { continue };
        let (Some(child), Some(parent)) = (places.get(at).copied(), places.get(&edge.to).copied()) else { continue };
        (joined[child], joined[parent]) = (true, true);
        let (from, to) = (part[child], part[parent]);
        part.iter_mut().filter(|part| **part == from).for_each(|part| *part = to);
    }
    let strongest = (0..part.len()).filter(|place| joined[*place]).min_by_key(|place| {
        let own = group.records[*place];
        (strength(&records[own]), own)
    });
    let Some(strongest) = strongest else { return Vec::new() };
    (0..part.len()).filter(|place| part[*place] == part[strongest]).map(|place| group.records[place]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Options, at_grade};
    use super::*;
    use crate::links::Contest;
    use crate::testing::call;

    #[test]
    fn what_is_beyond_the_grade_is_left_out_and_counted() {
        let shown = |grade_floor: Grade| {
            let mut records = call("a", "conv", "run", "toolu_1", 0);
            super::super::sort(&mut records);
            let built = at_grade("s", records, &Contest::default(), &Options { grade_floor });
            let call = &built.session.turns[0].calls[0];
            let kinds: Vec<String> =
                call.records.iter().map(|record| format!("{} {}", record.source_kind, record.kind)).collect();
            format!(
                "{:?} {} records, {:?}: {}",
                call.grade,
                built.session.summary.records,
                built.left_out,
                kinds.join(", ")
            )
        };
        expect_test::expect![[r#"
            Proven 2 records, LeftOut { records: 2, calls: 0 }: wire call, wire result
            Matched 3 records, LeftOut { records: 1, calls: 0 }: host selection, wire call, wire result
            Claimed 4 records, LeftOut { records: 0, calls: 0 }: host selection, wire call, wire result, host result"#]]
        .assert_eq(&[Grade::Proven, Grade::Matched, Grade::Claimed].map(shown).join("\n"));
    }

    #[test]
    fn gaps_are_those_of_the_whole_session() {
        let gaps = |grade_floor| {
            let mut records = call("a", "conv", "run", "toolu_1", 0);
            super::super::sort(&mut records);
            let built = at_grade("s", records, &Contest::default(), &Options { grade_floor });
            built.session.gaps.iter().map(|gap| gap.kind.clone()).collect::<Vec<_>>()
        };
        assert_eq!(gaps(Grade::Proven), gaps(Grade::Inferred));
    }
}
