//! Session reconstruction: records and links become turns, calls and named gaps.
//!
//! `assemble` decides which turn and call a record belongs to; `calls` merges the observations of one
//! call; `gaps` names what is missing or contradictory.
//!
//! Invariants
//! - every record of the session stands in exactly one turn, and in at most one call
//! - turns and calls are in order of time; clocks are shown raw, never corrected
//! - two calls are never told apart, or taken for one, by what they say: ids only
//!
//! Not here: which records belong to the session (`closure`), who belongs to whom (`links`).

mod assemble;
mod calls;
mod clocks;
mod floor;
mod gaps;
mod rounds;
mod tally;

use std::collections::BTreeMap;

use threadline_schemas::Record;

use crate::fact::is_timed;

use crate::line::{event_line, time_text};
use crate::links::{Contest, Links, links};
use crate::model::{Gap, Grade, Session, SessionSummary, Turn};
pub(crate) use assemble::{Assembly, assemble};
pub use floor::LeftOut;
pub(crate) use gaps::finding_text;
pub(crate) use tally::{Span, Tally, TallyRow, is_tool_use};

/// A session with the places of its records.
#[derive(Debug)]
pub struct Reconstruction {
    /// What the API answers.
    pub session: Session,
    /// Links that were judged rather than read.
    pub links_inferred: u64,
    /// MCP servers that a host called and no capture point saw.
    pub silent: Vec<String>,
    /// What is beyond the grade.
    pub left_out: LeftOut,
}

/// Which way a session is put together.
#[derive(Debug, Clone)]
pub struct Options {
    /// Weakest grade of link that is followed.
    pub grade_floor: Grade,
}

impl Default for Options {
    fn default() -> Self {
        Options { grade_floor: Grade::Inferred }
    }
}

/// Sorts the records of a session as everything here expects them: by time. A line that says no time
/// stands behind the line before it in its file, not at the time at which it was read.
pub fn sort(records: &mut [Record]) {
    let mut lines: BTreeMap<(&str, i64), i64> = BTreeMap::new();
    for record in records.iter().filter(|record| is_timed(record)) {
        if let (Some(file), Some(line)) = (record.origin_file.as_deref(), record.origin_line) {
            let time = lines.entry((file, line)).or_insert(record.time_unix_nano);
            *time = record.time_unix_nano.max(*time);
        }
    }
    let effective = |record: &Record| -> i64 {
        let place = record.origin_file.as_deref().zip(record.origin_line).filter(|_| !is_timed(record));
        let near = place.and_then(|(file, line)| {
            let before = lines.range((file, i64::MIN)..(file, line)).next_back();
            before.or_else(|| lines.range((file, line)..=(file, i64::MAX)).next()).map(|(_, time)| *time)
        });
        near.unwrap_or(record.time_unix_nano)
    };
    let mut from: Vec<usize> = (0..records.len()).collect();
    // Records are large: their places are sorted, and each record is moved once.
    from.sort_by_cached_key(|at| (effective(&records[*at]), crate::links::order(&records[*at])));
    arrange(records, from);
}

/// Puts into each place what stands at the place that `from` names for it.
fn arrange(records: &mut [Record], mut from: Vec<usize>) {
    for start in 0..from.len() {
        let mut at = start;
        while from[at] != start {
            let next = std::mem::replace(&mut from[at], at);
            records.swap(at, next);
            at = next;
        }
        from[at] = at;
    }
}

/// Reconstructs session `id` from its records, which are sorted ([`sort`]).
pub fn reconstruct(id: &str, records: &[Record], contest: &Contest, options: &Options) -> Reconstruction {
    let mut found = links(records, contest);
    drop_weak(&mut found, options.grade_floor);
    let assembly = assemble(records, &found);
    let calls = calls::calls(records, &found, &assembly);
    let gaps = gaps::gaps(records, &assembly, &calls, contest);
    let summary = summary(id, records, &assembly, &calls);
    let links_inferred = found.edges.iter().filter(|edge| edge.grade >= Grade::Inferred).count() + found.outside.len();
    let turns = turns(records, &found, &assembly, calls);
    Reconstruction {
        session: Session {
            summary,
            turns,
            gaps: gaps.named,
            grade_floor: options.grade_floor,
            clocks: clocks::clocks(records, contest),
        },
        links_inferred: links_inferred as u64,
        silent: gaps.silent,
        left_out: LeftOut::default(),
    }
}

/// Session `id` with only what links of the grade, or stronger ones, hold together.
pub fn at_grade(id: &str, mut records: Vec<Record>, contest: &Contest, options: &Options) -> Reconstruction {
    let whole = reconstruct(id, &records, contest, &Options::default());
    if options.grade_floor >= Options::default().grade_floor {
        return whole;
    }
    let (kept, left_out) = within(&records, contest, options.grade_floor);
    let mut kept = kept.into_iter();
    records.retain(|_| kept.next().unwrap_or(false));
    let mut built = reconstruct(id, &records, contest, options);
    built.session.gaps = whole.session.gaps;
    Reconstruction { silent: whole.silent, left_out, ..built }
}

/// Which of a session's records, which are sorted, links of the grade or stronger ones hold.
pub(crate) fn within(records: &[Record], contest: &Contest, floor: Grade) -> (Vec<bool>, LeftOut) {
    let mut found = links(records, contest);
    drop_weak(&mut found, Options::default().grade_floor);
    let assembly = assemble(records, &found);
    floor::kept(records, &found, &assembly, floor)
}

/// Totals only, for lists.
pub fn summarize(id: &str, records: &[Record], contest: &Contest) -> SessionSummary {
    let found = links(records, contest);
    let assembly = assemble(records, &found);
    let calls = calls::calls(records, &found, &assembly);
    summary(id, records, &assembly, &calls)
}

/// Takes away links weaker than `floor`.
pub(crate) fn drop_weak(links: &mut Links, floor: Grade) {
    let edges = std::mem::take(&mut links.edges);
    let mut moved = vec![None; edges.len()];
    for (at, edge) in edges.into_iter().enumerate() {
        if edge.grade <= floor {
            moved[at] = Some(links.edges.len());
            links.edges.push(edge);
        }
    }
    for parent in &mut links.parent {
        *parent = parent.and_then(|at| moved[at]);
    }
}

fn summary(id: &str, records: &[Record], assembly: &Assembly, calls: &[calls::Observed]) -> SessionSummary {
    let mut tally = Tally::default();
    records.iter().for_each(|record| tally.add(&TallyRow::from(record)));
    let mut summary = tally.summary(id);
    summary.prompts = assembly.turns.iter().filter(|turn| turn.prompt.is_some()).count() as u64;
    summary.calls = calls.len() as u64;
    let failed = |call: &&calls::Observed| call.call.outcome.as_deref() == Some("error");
    summary.errors = calls.iter().filter(failed).count() as u64;
    let denied = |call: &&calls::Observed| {
        call.call.outcome.as_deref() == Some("denied") || call.call.decision.as_deref() == Some("deny")
    };
    summary.denials = calls.iter().filter(denied).count() as u64;
    let first = assembly.turns.iter().find_map(|turn| records[turn.prompt?].text.as_deref());
    summary.title = threadline_schemas::display::cut(first.unwrap_or_default(), crate::line::EXCERPT_CHARS).0;
    summary
}

fn turns(records: &[Record], links: &Links, assembly: &Assembly, calls: Vec<calls::Observed>) -> Vec<Turn> {
    let mut calls_of: Vec<Vec<calls::Observed>> = assembly.turns.iter().map(|_| Vec::new()).collect();
    for call in calls {
        calls_of[call.turn].push(call);
    }
    let line = |at: usize| event_line(&records[at], links.parent_of(at).map(|edge| edge.link(records)));
    let turns = assembly.turns.iter().zip(calls_of).map(|(turn, calls)| {
        let mut span = Span::default();
        for record in turn.records.iter().map(|at| &records[*at]) {
            // What ended in a turn may have begun long before its prompt; that does not make the turn longer.
            span.add((record.time_unix_nano, record.span_unix_nano().1), is_timed(record));
        }
        let (from, to) = span.get();
        let events = turn.records.iter().filter(|at| assembly.call_of[**at].is_none() && Some(**at) != turn.prompt);
        Turn {
            id: turn.id.clone(),
            prompt: turn.prompt.map(line),
            prompt_text: turn.prompt.and_then(|at| records[at].text.clone()),
            start: time_text(from),
            end: time_text(to),
            calls: calls.into_iter().map(|observed| observed.call).collect(),
            events: events.map(|at| line(*at)).collect(),
        }
    });
    turns.collect()
}

/// Gaps with the one about a limit in front.
pub(crate) fn cut_gap(left_out: u64) -> Gap {
    Gap {
        kind: "recorder_gap".into(),
        description: format!(
            "{left_out} records of this session were not read: the session is larger than the limit of one answer"
        ),
        event_ids: Vec::new(),
        call_id: None,
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod captures;
