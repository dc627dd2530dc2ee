//! What holds for the records of every decoder.

use std::collections::HashSet;
use std::sync::LazyLock;

use threadline_schemas::decode::{Context, Line, LineDecoder};
use threadline_schemas::digest::MatchKey;
use threadline_schemas::json::{self, Json};
use threadline_schemas::{Collector, Key, Kind, Record, columns, display, encoding, leaf, stamp, wire};

/// What a collector tells the decoders.
pub(super) fn context() -> Context<'static> {
    static KEY: LazyLock<MatchKey> = LazyLock::new(|| MatchKey::new([3; 32]));
    Context {
        tenant: "default",
        collector: Collector::Import,
        observed_time_unix_us: 1_795_000_000_000_000,
        match_key: Some(&KEY),
    }
}

/// The records of the lines of a file, with the number of the line that was given when they came.
pub(super) fn of_lines(decoder: &mut dyn LineDecoder, bytes: &[u8]) -> Vec<Record> {
    let takes_empty = decoder.takes_empty_lines();
    let mut records = Vec::new();
    for (line, number) in bytes.split(|byte| *byte == b'\n').zip(1..) {
        if line.is_empty() && !takes_empty {
            continue;
        }
        let key = format!("file:f:{number}");
        let made = decoder.line(&context(), Line { bytes: line, file: Some("f"), number, delivery_key: &key });
        assert!(!made.is_empty() || decoder.is_holding(), "line {number} gives nothing");
        records.extend(made);
    }
    records.extend(decoder.finish(&context()));
    assert!(!decoder.is_holding(), "something is held after the end");
    records
}

/// A file of recorded frames, line by line.
pub(super) fn capture<D: LineDecoder>(decoder: impl Fn() -> D, bytes: &[u8], times: usize) {
    let records = of_lines(&mut decoder(), bytes);
    assert_eq!(records, of_lines(&mut decoder(), bytes));
    accounted(&records, bytes, false);
    sound(&records);
    bounded(&records, bytes.len(), 64 << 10, times);
}

/// Every line stands in exactly one record that carries it, byte for byte and in order.
pub(super) fn accounted(records: &[Record], bytes: &[u8], with_empty: bool) {
    let carried = records.iter().filter_map(|record| record.raw.as_deref());
    let stored = carried.flat_map(|raw| raw.split(|byte| *byte == b'\n'));
    let given = bytes.split(|byte| *byte == b'\n').filter(|line| with_empty || !line.is_empty());
    assert!(stored.eq(given), "the lines of the records are not those of the file");
}

/// What everything behind a decoder relies on.
pub(super) fn sound(records: &[Record]) {
    let mut ids = HashSet::new();
    for record in records {
        assert!(ids.insert(record.event_id), "two records are called {}", record.delivery_key);
        let mut stamped = record.clone();
        stamp::stamp(&mut stamped);
        let once = stamped.clone();
        stamp::stamp(&mut stamped);
        assert_eq!(stamped, once, "a second stamp changes something");
        for key in &stamped.keys {
            assert!(Key::parse(key).is_some(), "key {key:?} does not parse");
            assert!(key.len() <= 4096, "a key of {} bytes", key.len());
        }
        if let Some(attributes) = &record.attributes {
            let parsed = json::parse_within(attributes.as_bytes(), WIDE).expect("attributes are JSON");
            assert!(matches!(parsed.value, Json::Object(_)), "attributes are an object");
        }
        if record.kind == Kind::Rejected {
            assert!(record.text.as_deref().is_some_and(|reason| !reason.is_empty()), "rejected without a reason");
        }
        let encoded = encoding::encode(&stamped);
        assert_eq!(encoding::decode(&encoded).as_ref(), Ok(&stamped), "the log gives another record back");
        assert_eq!(leaf::hash(&stamped), leaf::hash(&once));
        if let Some(text) = &record.text {
            let shown = display::terminal(text, display::Lines::Show);
            assert!(!shown.chars().any(char::is_control), "a control character reaches the terminal");
        }
    }
    // What costs most, on a few.
    let few = &records[..records.len().min(16)];
    let batch = columns::to_batch(few).expect("records have columns");
    assert_eq!(columns::from_batch(&batch).expect("columns are records"), few, "the columns give other records back");
    few.iter().for_each(passed_on);
}

/// One collector sends it to another: what that one reads is the same.
fn passed_on(record: &Record) {
    let line = wire::write_event(record);
    let read = wire::read_event(&context(), line.as_bytes(), "batch:x:1").expect("what one writes another reads");
    let mut expected = record.clone();
    for name in ["event_id", "delivery_key", "decoder", "collector", "time_quality"] {
        // The receiver's own.
        match name {
            "event_id" => expected.event_id = read.event_id,
            "delivery_key" => expected.delivery_key.clone_from(&read.delivery_key),
            "decoder" => expected.decoder.clone_from(&read.decoder),
            "collector" => expected.collector = read.collector,
            _ => expected.time_quality = read.time_quality,
        }
    }
    if record.raw.is_none() {
        expected.raw.clone_from(&read.raw);
    }
    assert_eq!(read, expected, "the wire gives another record");
}

/// What is read back may be as deep as what was read, and the object around it.
const WIDE: json::Limits = json::Limits { depth_max: 140, nodes_max: 4_000_000 };

/// Bytes of all records against those of the input: `fixed` and `times` the input at most.
pub(super) fn bounded(records: &[Record], input: usize, fixed: usize, times: usize) {
    let given: usize = records.iter().map(|record| encoding::encode(record).len()).sum();
    let allowed = fixed + times * input;
    assert!(given <= allowed, "{} records of {given} bytes out of {input} bytes", records.len());
}
