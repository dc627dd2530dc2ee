//! How fast redaction reads: records of about 1 KB, most without a secret.
//!
//! Fixed input: a `tools/call` frame whose arguments are prose; one in fifty holds an `.env` line, one in fifty an
//! authorization header. Run with `cargo bench -p threadline-ingest --bench redact`.

use divan::counter::BytesCount;
use threadline_ingest::redact::{RedactConfig, Redactor};
use threadline_schemas::digest::MatchKey;
use threadline_schemas::{Kind, Record};

fn main() {
    divan::main();
}

fn records() -> Vec<Record> {
    (0..1000).map(record).collect()
}

fn record(index: usize) -> Record {
    let secret = match index % 50 {
        7 => "DEMO_KEY=dummy-demo-key-123\\n",
        23 => "curl -H 'Authorization: Bearer abcdef0123456789'",
        _ => "nothing to see",
    };
    let prose =
        "The order was shipped to the customer on Monday; see https://example.com/orders/1001 for details. ".repeat(3);
    let arguments = format!(r#"{{"path":"/srv/orders/{index}.json","content":"{prose}{secret}"}}"#);
    let mut record = Record::new("default", &format!("tap:bench:{index}"), Kind::Call);
    record.raw = Some(format!(r#"{{"jsonrpc":"2.0","id":{index},"method":"tools/call","params":{{"name":"write_file","arguments":{arguments}}}}}"#).into_bytes());
    record.arguments = Some(arguments);
    record
}

#[divan::bench]
fn thousand_records(bencher: divan::Bencher<'_, '_>) {
    let redactor = Redactor::new(MatchKey::new([1; 32]), &RedactConfig::default()).expect("the built-in rules compile");
    let bytes: usize = records()
        .iter()
        .map(|r| r.raw.as_ref().map_or(0, Vec::len) + r.arguments.as_ref().map_or(0, String::len))
        .sum();
    bencher
        .counter(BytesCount::new(bytes))
        .with_inputs(records)
        .bench_values(|mut records| records.iter_mut().map(|record| redactor.redact(record)).sum::<usize>());
}

/// Text made to be slow: what almost matches, again and again, 1 MiB each. Time has to grow with length, not its square.
const HOSTILE: &[&str] = &[
    "\"password\":\\'",
    "\"password\":\"",
    "A_KEY=\"",
    "A_KEY=abcdef ",
    "eyJaaaaaa.bb",
    "a://b:c",
    "-----BEGIN PRIVATE KEY-----",
    "bearer ",
    "\\\\\"\\",
    "{\"a\":\"",
    "[[\"cookie\",\"",
    "authorization: ",
    "\\u0041",
];

#[divan::bench(args = HOSTILE, sample_count = 3)]
fn hostile_mebibyte(bencher: divan::Bencher<'_, '_>, part: &str) {
    let redactor = Redactor::new(MatchKey::new([1; 32]), &RedactConfig::default()).expect("the built-in rules compile");
    let record = || {
        let mut record = Record::new("default", "own:1", Kind::Log);
        record.text = Some(part.repeat((1 << 20) / part.len()));
        record
    };
    bencher
        .counter(BytesCount::new(1usize << 20))
        .with_inputs(record)
        .bench_values(|mut record| redactor.redact(&mut record));
}
