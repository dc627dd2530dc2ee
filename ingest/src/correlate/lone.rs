//! Pairs without a rival: a row and a column that have no candidate but each other.
//!
//! Nearly all of them are true, whatever the network between two sources is like. So what delays are in this estate is
//! learned from them before anything is placed; priors that are too narrow would refuse every pair that could correct them.

use std::collections::{BTreeMap, HashMap};

use super::likelihood::{median, robust};
use super::linker::Spread;
use super::names::Name;

/// Fewer differences than these teach nothing.
const LEAST: usize = 5;
/// A difference this many spreads away contradicts.
const CONTRADICTS: f64 = 2.0;
/// Median distance of two draws of a normal distribution with spread 1.
const NEIGHBOURS: f64 = 0.953_9;

/// The pairs whose row and column occur in no other.
pub(super) fn lone(pairs: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let (mut rows, mut columns): (HashMap<u32, u32>, HashMap<u32, u32>) = (HashMap::new(), HashMap::new());
    for (row, column) in pairs {
        *rows.entry(*row).or_default() += 1;
        *columns.entry(*column).or_default() += 1;
    }
    pairs.iter().copied().filter(|(row, column)| rows[row] == 1 && columns[column] == 1).collect()
}

/// What lone pairs say of a difference, where half of them contradict what was thought before; never narrower than that.
pub(super) fn widened(differences: Vec<f64>, before: Spread) -> Spread {
    let mut away: Vec<f64> = differences.iter().map(|difference| (difference - before.mean).abs()).collect();
    if differences.len() < LEAST || median(&mut away) <= CONTRADICTS * before.sd {
        return before;
    }
    let (mean, sd) = robust(differences, before.sd);
    Spread { mean, sd }
}

/// How much the offsets of lone pairs differ from one pair of a clock to the next, which steps and drift hardly touch.
/// `points`: (time, offset) by clock.
pub(super) fn unrest(points: BTreeMap<Name, Vec<(f64, f64)>>) -> Option<f64> {
    let mut steps: Vec<f64> = Vec::new();
    for mut points in points.into_values() {
        points.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        steps.extend(points.windows(2).map(|pair| (pair[1].1 - pair[0].1).abs()));
    }
    (steps.len() >= LEAST).then(|| median(&mut steps) / NEIGHBOURS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pairs_without_a_rival_count() {
        assert_eq!(lone(&[(1, 1), (2, 2), (2, 3), (4, 3), (5, 5)]), [(1, 1), (5, 5)]);
    }

    #[test]
    fn a_long_delay_is_learned_and_a_short_list_teaches_nothing() {
        let before = Spread { mean: 0.003, sd: 0.01 };
        let learned = widened(vec![0.08, 0.081, 0.079, 0.08, 0.08, 7.0], before);
        assert!((learned.mean - 0.08).abs() < 0.001 && learned.sd == 0.01, "{learned:?}");
        assert_eq!(widened(vec![0.08; 4], before).mean, 0.003);
    }

    #[test]
    fn unrest_does_not_see_a_step() {
        let at = |n: u32| (f64::from(n), if n < 20 { 0.0 } else { 5.0 } + if n.is_multiple_of(2) { 0.01 } else { 0.0 });
        let unrest = unrest(BTreeMap::from([(7, (0..40).map(at).collect())])).unwrap();
        assert!((unrest - 0.0105).abs() < 0.001, "{unrest}");
    }
}
