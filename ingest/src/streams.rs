//! Numbers of records within the run of a collector elsewhere, and what their holes mean.
//!
//! A collector that sends to a server writes into the attributes of each record who it is, which run this is, and a number
//! that counts up from 0 without a hole ([`Marker`]). The receiving pipeline remembers the next number of each run; when
//! later ones come first, what stands between is lost and becomes a `gap` record with its count.
//!
//! Invariants
//! - the id of a gap comes from its run and range: seen twice, it is stored once
//! - a number is remembered only after its record is stored; what is sent again makes no gap
//! - memory: [`RUNS_MAX`] runs; the one that was quiet longest is forgotten
//!
//! Not here: a run that just stops. Its collector says at its next start what it recorded and could not send (`remote`).
//! After a restart of the receiver the first record of a run says where it stands.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::json;
use threadline_schemas::{Collector, Kind, Record, SourceKind};
use uuid::Uuid;

/// Runs that are remembered.
const RUNS_MAX: usize = 10_000;

const COLLECTOR: &str = "\"threadline.collector\":\"";
const STREAM: &str = "\"threadline.stream\":\"";
const SEQUENCE: &str = "\"threadline.sequence\":";
/// Bytes of attributes in which a marker stands; it is always at their beginning.
const MARKER_BYTES_MAX: usize = 400;

/// Which run of which collector a record comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) collector: Uuid,
    pub(crate) stream: Uuid,
    /// Which way the collector took it in; the receiver can only say `api`.
    pub(crate) via: Collector,
}

impl Marker {
    /// Puts the marker in front of the attributes of a record.
    pub(crate) fn mark(&self, record: &mut Record, sequence: u64) {
        let own = format!(
            "{COLLECTOR}{}\",{STREAM}{}\",{SEQUENCE}{sequence},\"threadline.via\":\"{}\",\"threadline.version\":\"{}\"",
            self.collector,
            self.stream,
            self.via,
            env!("CARGO_PKG_VERSION"),
        );
        let given = record.attributes.take().unwrap_or_default();
        let members = given.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).map(str::trim);
        record.attributes = Some(match members {
            Some("") => format!("{{{own}}}"),
            Some(members) => format!("{{{own},{members}}}"),
            None if given.is_empty() => format!("{{{own}}}"),
            // Attributes are an object; what is none is kept all the same.
            None => format!("{{{own},\"threadline.attributes\":{}}}", serde_json::Value::String(given)),
        });
    }

    /// The marker of a record and its number, if it bears one.
    pub(crate) fn of(record: &Record) -> Option<(Marker, u64)> {
        let text = record.attributes.as_deref()?;
        if !text.strip_prefix('{')?.starts_with(COLLECTOR) {
            return None;
        }
        let head = &text.as_bytes()[..text.len().min(MARKER_BYTES_MAX)];
        let head = String::from_utf8_lossy(head);
        let after = |name: &str| head.find(name).map(|at| &head[at + name.len()..]);
        let id = |name: &str| Uuid::try_parse(after(name)?.get(..36)?).ok();
        let digits = after(SEQUENCE)?;
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let via = after("\"threadline.via\":\"").and_then(|text| Collector::parse(text.split('"').next()?));
        let marker = Marker { collector: id(COLLECTOR)?, stream: id(STREAM)?, via: via.unwrap_or(Collector::Api) };
        Some((marker, digits[..end].parse().ok()?))
    }
}

/// Records that will not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) marker: Marker,
    /// Number of the first.
    pub(crate) from: u64,
    /// Number behind the last.
    pub(crate) to: u64,
    /// Why, in a few words.
    pub(crate) reason: &'static str,
}

/// The `gap` record. `source_name` is the source as its collector calls it.
pub(crate) fn gap(lost: &Lost, source_name: &str, observed_unix_us: i64) -> Record {
    let Lost { marker, from, to, reason } = lost;
    let last = to.saturating_sub(1);
    let records = to.saturating_sub(*from);
    let mut record = Record::new("default", &format!("own:stream:{}:{from}-{last}", marker.stream), Kind::Gap);
    record.set_time(None, observed_unix_us);
    record.collector = marker.via;
    record.source_kind = if marker.via == Collector::Tap { SourceKind::Wire } else { SourceKind::Threadline };
    record.source_name = source_name.into();
    record.server_name = (marker.via == Collector::Tap).then(|| source_name.into());
    record.decoder = "stream".into();
    record.name = Some("gap".into());
    record.error_type = Some("lost_in_transit".into());
    let what = if records == 1 { "1 record was".into() } else { format!("{records} records were") };
    record.text = Some(format!("{what} collected and did not arrive: {reason} (numbers {from} to {last})"));
    let attributes = json!({
        "reason": reason, "records": records, "from": from, "to": last,
        "stream": marker.stream, "collector": marker.collector, "via": marker.via.as_str(),
    });
    record.attributes = Some(attributes.to_string());
    record
}

/// The runs that a pipeline has heard of.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    runs: HashMap<Uuid, Run>,
    turn: u64,
}

#[derive(Debug)]
struct Run {
    /// Number that comes next.
    next: u64,
    /// When it was heard of last.
    turn: u64,
}

/// What the records of one batch say about their runs.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    next: HashMap<Uuid, u64>,
    pub(crate) lost: Vec<Record>,
}

impl Streams {
    /// What `records` say, and what is missing before or between them. Nothing is remembered yet.
    pub(crate) fn hear(&self, records: &[Record]) -> Heard {
        let mut heard = Heard::default();
        for (record, (marker, sequence)) in records.iter().filter_map(|record| Some((record, Marker::of(record)?))) {
            let known = heard.next.get(&marker.stream).copied();
            let known = known.or_else(|| self.lock().runs.get(&marker.stream).map(|run| run.next));
            let next = known.unwrap_or(sequence);
            if sequence > next {
                let lost = Lost { marker, from: next, to: sequence, reason: "later records of the run came first" };
                let mut gap = gap(&lost, &record.source_name, record.observed_time_unix_us);
                gap.tenant.clone_from(&record.tenant);
                heard.lost.push(gap);
            }
            heard.next.insert(marker.stream, next.max(sequence.saturating_add(1)));
        }
        heard
    }

    /// The records are stored.
    pub(crate) fn remember(&self, heard: Heard) {
        let mut known = self.lock();
        for (stream, next) in heard.next {
            known.turn += 1;
            let turn = known.turn;
            if known.runs.len() >= RUNS_MAX && !known.runs.contains_key(&stream) {
                let quietest = known.runs.iter().min_by_key(|(_, run)| run.turn).map(|(stream, _)| *stream);
                quietest.map(|stream| known.runs.remove(&stream));
            }
            let run = known.runs.entry(stream).or_insert(Run { next, turn });
            *run = Run { next: run.next.max(next), turn };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(stream: u128) -> Marker {
        Marker { collector: Uuid::from_u128(7), stream: Uuid::from_u128(stream), via: Collector::Tap }
    }

    fn record(stream: u128, sequence: u64) -> Record {
        let mut record = Record::new("default", &format!("tap:r:{sequence}"), Kind::Log);
        record.source_name = "orders".into();
        marker(stream).mark(&mut record, sequence);
        record
    }

    #[test]
    fn a_marker_is_read_back_whatever_stood_there() {
        for attributes in [None, Some("{}"), Some("{ \"a\": 1 }"), Some("[1]"), Some("{\"ä\":\"ü\"}")] {
            let mut record = Record::new("default", "tap:r:1", Kind::Log);
            record.attributes = attributes.map(str::to_string);
            assert_eq!(Marker::of(&record), None);
            marker(1).mark(&mut record, u64::MAX);
            assert_eq!(Marker::of(&record), Some((marker(1), u64::MAX)), "{attributes:?}");
            let text = record.attributes.unwrap();
            serde_json::from_str::<serde_json::Value>(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        }
        let mut forged = record(1, 1);
        forged.attributes = Some(format!("{{{COLLECTOR}{}", "ü".repeat(400)));
        assert_eq!(Marker::of(&forged), None);
    }

    fn lost(streams: &Streams, records: &[Record]) -> Vec<String> {
        let heard = streams.hear(records);
        let lost = heard.lost.iter().map(|gap| gap.delivery_key.rsplit(':').next().unwrap().to_string()).collect();
        streams.remember(heard);
        lost
    }

    #[test]
    fn holes_are_counted_once_and_repeats_are_none() {
        let streams = Streams::default();
        assert!(lost(&streams, &[record(1, 5), record(1, 6), record(2, 0)]).is_empty());
        assert_eq!(lost(&streams, &[record(1, 10), record(2, 1), record(1, 12)]), ["7-9", "11-11"]);
        assert!(lost(&streams, &[record(1, 6), record(1, 10), record(1, 13)]).is_empty());
        // What was not stored is heard again.
        let gap = streams.hear(&[record(2, 9)]).lost.pop().unwrap();
        assert_eq!(gap.text.as_deref().unwrap().split(':').next(), Some("7 records were collected and did not arrive"));
        assert_eq!(streams.hear(&[record(2, 9)]).lost[0].event_id, gap.event_id);
    }

    #[test]
    fn memory_is_bounded() {
        let streams = Streams::default();
        (0..RUNS_MAX as u128 + 10).for_each(|stream| drop(lost(&streams, &[record(stream, 0)])));
        assert_eq!(streams.lock().runs.len(), RUNS_MAX);
        assert_eq!(lost(&streams, &[record(RUNS_MAX as u128, 2)]), ["1-1"]);
        assert!(lost(&streams, &[record(0, 2)]).is_empty(), "the first was forgotten");
    }
}
