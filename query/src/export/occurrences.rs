//! Which records make one event: a request and the answer that the same observer saw are one.
//!
//! A call waits for its result; one that is still alone at the end, or pushed out by
//! [`WAITING_MAX`] others or [`WAITING_BYTES_MAX`], is told as unanswered. Records of other observers of the same call stay events of
//! their own.

use std::collections::{BTreeMap, HashMap};

use threadline_schemas::ocsf::{Occurrence, SessionFacts};
use threadline_schemas::{Kind, Record};

use crate::forward::pairs::pair;

use super::payload_bytes;

/// Calls that wait for their results.
const WAITING_MAX: usize = 10_000;
/// Bytes of payload that wait with them.
const WAITING_BYTES_MAX: usize = 32 << 20;

/// What is told of a stream of records, in order.
#[derive(Debug, Default)]
pub(super) struct Occurrences {
    waiting: HashMap<String, u64>,
    calls: BTreeMap<u64, (String, Record, SessionFacts)>,
    bytes: usize,
    next: u64,
}

/// One thing to tell.
#[derive(Debug)]
pub(super) struct Told {
    record: Record,
    request: Option<Record>,
    session: SessionFacts,
}

impl Told {
    pub(super) fn occurrence(&self) -> Occurrence<'_> {
        Occurrence { request: self.request.as_ref(), session: Some(&self.session), ..Occurrence::of(&self.record) }
    }
}

impl Occurrences {
    /// What these records complete; `sessions` has what is known of the session of each.
    pub(super) fn tell(&mut self, records: &[Record], sessions: &[SessionFacts]) -> Vec<Told> {
        let mut told = Vec::with_capacity(records.len());
        for (at, record) in records.iter().cloned().enumerate() {
            let session = sessions.get(at).cloned().unwrap_or_default();
            let pair = pair(&record);
            match (record.kind, pair) {
                (Kind::Call, Some(pair)) if record.outcome.is_none() && record.duration_nano.is_none() => {
                    self.next += 1;
                    self.bytes += payload_bytes(&record);
                    self.waiting.insert(pair.clone(), self.next);
                    self.calls.insert(self.next, (pair, record, session));
                    while self.calls.len() > WAITING_MAX || self.bytes > WAITING_BYTES_MAX {
                        let Some((number, (pair, oldest, session))) = self.calls.pop_first() else { break };
                        self.bytes -= payload_bytes(&oldest);
                        if self.waiting.get(&pair) == Some(&number) {
                            self.waiting.remove(&pair);
                        }
                        told.push(Told { record: oldest, request: None, session });
                    }
                }
                (Kind::Result, Some(pair)) => {
                    let request = self.waiting.remove(&pair).and_then(|number| self.calls.remove(&number));
                    let request = request.map(|(_, request, _)| request);
                    self.bytes -= request.as_ref().map_or(0, payload_bytes);
                    told.push(Told { record, request, session });
                }
                _ => told.push(Told { record, request: None, session }),
            }
        }
        told
    }

    /// The calls that nobody answered.
    pub(super) fn rest(&mut self) -> Vec<Told> {
        self.waiting.clear();
        let calls = std::mem::take(&mut self.calls);
        self.bytes = 0;
        calls.into_values().map(|(_, record, session)| Told { record, request: None, session }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: Kind, id: &str) -> Record {
        let mut record = Record::new("t", &format!("own:{kind}{id}"), kind);
        record.tool_call_id = Some(id.into());
        record
    }

    #[test]
    fn a_call_and_its_result_are_one_and_an_unanswered_call_is_told_at_the_end() {
        let mut occurrences = Occurrences::default();
        let records = vec![
            record(Kind::Call, "1"),
            record(Kind::Call, "2"),
            record(Kind::Prompt, "p"),
            record(Kind::Result, "1"),
        ];
        let told = occurrences.tell(&records, &[]);
        let shown: Vec<_> = told.iter().map(|told| (told.record.kind, told.request.is_some())).collect();
        assert_eq!(shown, [(Kind::Prompt, false), (Kind::Result, true)]);
        let rest = occurrences.rest();
        assert_eq!(rest.iter().map(|told| told.record.kind).collect::<Vec<_>>(), [Kind::Call]);
    }
}
