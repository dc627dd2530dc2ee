//! Which records make one event: a request and the answer that the same observer saw are one, told at the answer.
//!
//! Invariants
//! - every record is told: by itself, with its answer, or alone once its answer did not come within the deadline
//! - the id of an event depends on the records alone: a pair has the answer's id, a call without an answer its own; an
//!   answer that comes after the deadline is an event of its own beside the call's
//! - calls that ran into the deadline are told oldest first, so everything before [`Pairs::settled`] is done with, and
//!   reading from there again makes the same state
//! - at most [`WAITING_MAX`] calls wait, without the payloads that are over [`REQUEST_BYTES_MAX`]; more push the
//!   oldest out, which is told as having no result yet
//!
//! Not here: records of other observers of the same call; they are events of their own with the same correlation id.

use std::collections::{BTreeMap, HashMap};

use threadline_schemas::ocsf::SessionFacts;
use threadline_schemas::{Kind, Record};

use super::pages::{Row, weight};
use super::position::{Place, Position};

/// Calls that wait for their answers, per sink.
pub const WAITING_MAX: usize = 10_000;
/// Payload bytes of one waiting call; longer arguments are given by their digest alone.
pub const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// Answers that are remembered in case their calls come after them.
const ANSWERS_MAX: usize = 10_000;

/// What one event tells.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) record: Record,
    pub(super) request: Option<Record>,
    /// Where the record is.
    pub(super) at: Position,
    /// Where the request is.
    pub(super) request_at: Option<Position>,
    /// What was known of its session when it was told.
    pub(super) session: SessionFacts,
}

impl Told {
    pub(super) fn of(record: Record, at: Position) -> Told {
        Told { record, request: None, at, request_at: None, session: SessionFacts::default() }
    }
}

#[derive(Debug)]
struct Waiting {
    pair: String,
    at: Position,
    record: Record,
    committed_ms: i64,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Pairs {
    wait_ms: i64,
    waiting: BTreeMap<Place, Waiting>,
    by_pair: HashMap<String, Place>,
    answered: HashMap<String, Answer>,
}

/// How a call ended whose answer was told before it.
#[derive(Debug)]
struct Answer {
    outcome: Option<threadline_schemas::Outcome>,
    tool_is_error: Option<bool>,
    rpc_error_code: Option<i64>,
}

impl Pairs {
    /// `wait_ms`: how long a call waits for its answer, in commit time.
    pub(super) fn new(wait_ms: i64) -> Pairs {
        Pairs { wait_ms, waiting: BTreeMap::new(), by_pair: HashMap::new(), answered: HashMap::new() }
    }

    /// What this row completes.
    pub(super) fn take(&mut self, row: Row, committed_ms: i64, told: &mut Vec<Told>) {
        let Row { place, at, mut record } = row;
        let Some(pair) = pair(&record) else {
            return told.push(Told::of(record, at));
        };
        match record.kind {
            Kind::Call if record.outcome.is_none() && record.duration_nano.is_none() => {
                if let Some(answer) = self.answered.remove(&pair) {
                    // The answer stands before its call: clocks that disagree, or files loaded out of order.
                    record.outcome = answer.outcome;
                    (record.tool_is_error, record.rpc_error_code) = (answer.tool_is_error, answer.rpc_error_code);
                    return told.push(Told::of(record, at));
                }
                if weight(&record) > REQUEST_BYTES_MAX {
                    (record.arguments, record.text, record.attributes) = (None, None, None);
                }
                self.by_pair.insert(pair.clone(), place);
                self.waiting.insert(place, Waiting { pair, at, record, committed_ms });
                if self.waiting.len() > WAITING_MAX {
                    self.tell_oldest(told);
                }
            }
            Kind::Result => {
                let request = self.by_pair.remove(&pair).and_then(|place| self.waiting.remove(&place));
                if request.is_none() {
                    if self.answered.len() >= ANSWERS_MAX {
                        self.answered.clear();
                    }
                    let Record { outcome, tool_is_error, rpc_error_code, .. } = record;
                    self.answered.insert(pair, Answer { outcome, tool_is_error, rpc_error_code });
                }
                let (request, request_at) = request.map(|waiting| (waiting.record, waiting.at)).unzip();
                told.push(Told { request, request_at, ..Told::of(record, at) });
            }
            _ => told.push(Told::of(record, at)),
        }
    }

    /// The calls whose deadline has passed at `now_ms` of commit time.
    pub(super) fn expire(&mut self, now_ms: i64, told: &mut Vec<Told>) {
        while self.waiting.first_key_value().is_some_and(|(_, call)| now_ms - call.committed_ms >= self.wait_ms) {
            self.tell_oldest(told);
        }
    }

    /// Up to where every record is told: the oldest call that waits, else `read`.
    pub(super) fn settled(&self, read: Position) -> Position {
        self.waiting.first_key_value().map_or(read, |(_, call)| call.at)
    }

    fn tell_oldest(&mut self, told: &mut Vec<Told>) {
        let Some((place, call)) = self.waiting.pop_first() else { return };
        // A later call may have the same pair by now.
        if self.by_pair.get(&call.pair) == Some(&place) {
            self.by_pair.remove(&call.pair);
        }
        told.push(Told::of(call.record, call.at));
    }
}

/// What a request and its answer have in common at one observer.
pub(crate) fn pair(record: &Record) -> Option<String> {
    let id = match (&record.connection_id, &record.rpc_id) {
        (Some(connection), Some(id)) => format!("{connection}\u{0}{id}"),
        _ => record.tool_call_id.clone()?,
    };
    Some(format!("{}\u{0}{}\u{0}{}\u{0}{id}", record.tenant, record.source_kind, record.source_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: Kind, id: &str, row: u32) -> Row {
        let mut record = Record::new("t", &format!("own:{kind}{id}{row}"), kind);
        record.tool_call_id = Some(id.into());
        Row { place: Place { version: 1, file: 0, row }, at: Position { version: 1, file: None, row }, record }
    }

    fn shown(told: &[Told]) -> Vec<(Kind, u32, Option<u32>)> {
        told.iter().map(|told| (told.record.kind, told.at.row, told.request_at.map(|at| at.row))).collect()
    }

    #[test]
    fn a_call_is_told_with_its_answer_or_after_its_deadline() {
        let mut pairs = Pairs::new(1_000);
        let mut told = Vec::new();
        let read = Position { version: 1, file: None, row: 4 };
        for (kind, id, at) in
            [(Kind::Call, "a", 0), (Kind::Call, "b", 1), (Kind::Prompt, "p", 2), (Kind::Result, "b", 3)]
        {
            pairs.take(row(kind, id, at), 5_000, &mut told);
        }
        assert_eq!(shown(&told), [(Kind::Prompt, 2, None), (Kind::Result, 3, Some(1))]);
        assert_eq!(pairs.settled(read).row, 0);
        told.clear();
        pairs.expire(5_999, &mut told);
        assert!(told.is_empty());
        pairs.expire(6_000, &mut told);
        assert_eq!(shown(&told), [(Kind::Call, 0, None)]);
        assert_eq!(pairs.settled(read), read);
    }

    #[test]
    fn a_call_after_its_answer_says_how_it_ended() {
        let mut pairs = Pairs::new(1_000);
        let mut told = Vec::new();
        let mut answer = row(Kind::Result, "a", 0);
        answer.record.outcome = Some(threadline_schemas::Outcome::Ok);
        pairs.take(answer, 0, &mut told);
        pairs.take(row(Kind::Call, "a", 1), 0, &mut told);
        assert_eq!(shown(&told), [(Kind::Result, 0, None), (Kind::Call, 1, None)]);
        assert_eq!(told[1].record.outcome, Some(threadline_schemas::Outcome::Ok));
    }

    #[test]
    fn more_calls_than_may_wait_push_the_oldest_out() {
        let mut pairs = Pairs::new(1_000);
        let mut told = Vec::new();
        for at in 0..=WAITING_MAX as u32 {
            pairs.take(row(Kind::Call, &at.to_string(), at), 0, &mut told);
        }
        assert_eq!(shown(&told), [(Kind::Call, 0, None)]);
    }
}
