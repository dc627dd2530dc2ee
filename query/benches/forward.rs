//! What forwarding costs: the mapping alone, and records from sealed files to a synced file of JSON lines.
//!
//! Input: sessions of seven records (a prompt, a selection, a call with its result, a call without, a log line, a denial), about
//! 0.5 KiB each; `THREADLINE_BENCH_RECORDS` says how many (default 20,000). One task does one thing after the other, so the
//! figures are those of one core; those of the sink hold the syncs of the disk, too.
//! `cargo bench -p threadline-query --bench forward` prints figures; a debug build measures nothing.

// Standard output is the interface of a bench.
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::time::Instant;

use threadline_query::forward::{Config, ReplayRequest, Worker};
use threadline_schemas::ocsf::{Occurrence, Policy, Version, event, to_text};
use threadline_schemas::{Decision, Kind, Outcome, Record, SourceKind, stamp};
use threadline_store::{Commits, Store, StoreConfig};

fn record(number: usize) -> Record {
    let (session, step) = (number / 7, number % 7);
    let kinds = [Kind::Prompt, Kind::Selection, Kind::Call, Kind::Result, Kind::Call, Kind::Log, Kind::Decision];
    let mut record = Record::new("default", &format!("api:{number}"), kinds[step]);
    record.set_time(Some(1_795_170_000_000_000_000 + number as i64 * 1_000_000), 1_795_170_000_000_000);
    record.source_kind = SourceKind::Host;
    record.source_name = "agent".into();
    record.conversation_id = Some(format!("conversation-{session}"));
    record.tool_call_id = Some(format!("toolu-{session}-{}", step / 4));
    record.tool_name = Some("refund_order".into());
    record.server_name = Some("orders".into());
    record.user_claimed = Some("j.doe".into());
    record.text = Some("refund order 7 to the customer who complained about the late delivery ".repeat(3));
    record.arguments = Some("{\"order\":7,\"reason\":\"late\"}".into());
    record.outcome = (step == 3).then_some(Outcome::Ok);
    record.decision = (step == 6).then_some(Decision::Deny);
    record.leaf_salt = Some(vec![7; 32]);
    stamp::stamp(&mut record);
    record
}

fn rate(what: &str, events: usize, bytes: usize, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    let (events, mebibytes) = (events as f64 / seconds, bytes as f64 / seconds / f64::from(1 << 20));
    println!("{what:<34} {events:>10.0} events/s  {mebibytes:>7.1} MiB/s");
}

fn main() {
    let records: usize =
        std::env::var("THREADLINE_BENCH_RECORDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{records} records, {cores} cores, {}",
        if cfg!(debug_assertions) { "debug build" } else { "release build" }
    );
    let all: Vec<Record> = (0..records).map(record).collect();
    for &version in Version::ALL {
        let begun = Instant::now();
        let bytes: usize =
            all.iter().map(|record| to_text(&event(Occurrence::of(record), &Policy::default(), version)).len()).sum();
        rate(&format!("mapping and validation, {version}"), records, bytes, begun);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(file(all));
}

async fn file(records: Vec<Record>) {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::open(dir.path(), StoreConfig::default()).await.expect("a store");
    for part in records.chunks(1000) {
        store.appender().append(part.to_vec()).await.expect("records are taken");
    }
    store.close().await.expect("the store closes");
    for check_every in [16, 1, 0] {
        let text = format!(
            "[[sink]]\nname = \"lines{check_every}\"\ntype = \"file\"\npath = \"out\"\nresult_wait_s = 0\n\
             check_every = {check_every}\nbatch_events = 5000\nbatch_bytes = 8388608\n"
        );
        let mut config = Config::parse(&text, Path::new(dir.path())).expect("a configuration");
        let (_shutdown, until) = tokio::sync::watch::channel(false);
        let commits = Commits::open(dir.path()).expect("commits");
        let worker = Worker::start(commits, config.sinks.remove(0), None, until).expect("a worker");
        let begun = Instant::now();
        let sent = worker.run_replay(&ReplayRequest::Versions { from: 0, to: i64::MAX }).await.expect("it forwards");
        let path = dir.path().join(format!("out/lines{check_every}.jsonl"));
        let bytes = std::fs::metadata(path).map_or(0, |file| file.len() as usize);
        rate(&format!("sealed files to a file, check {check_every}"), sent as usize, bytes, begun);
    }
}
