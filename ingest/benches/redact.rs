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
