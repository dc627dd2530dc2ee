//! How long a session takes from an id, a page of the session list, and the index behind it.
//!
//! Input: sessions of 40 records (a prompt, 6 calls of choice, request, response, answer, and telemetry), fixed
//! seed, times spread over a day; about 1 KiB each. `THREADLINE_BENCH_RECORDS` says how many (default 20,000).
//! `cargo bench -p threadline-query --bench reconstruct_session` prints figures; a debug build measures nothing.

// Standard output is the interface of a bench.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use threadline_query::model::{SearchQuestion, SessionFilter};
use threadline_query::{Engine, EngineConfig, SessionOptions};
use threadline_schemas::{Collector, Direction, Key, KeyKind, Kind, Outcome, Record, SourceKind, stamp};
use threadline_store::{Store, StoreConfig};

const CALLS: usize = 6;
const RECORDS_PER_SESSION: usize = 40;
const LOOKUPS: usize = 200;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn words(&mut self, count: usize) -> String {
        const WORDS: &[&str] =
            &["order", "refund", "customer", "invoice", "shipped", "paid", "berlin", "urgent", "ticket", "status"];
        let mut word = || format!("{}{}", WORDS[self.next() as usize % WORDS.len()], self.next() % 97);
        (0..count).map(|_| word()).collect::<Vec<_>>().join(" ")
    }
}

fn record(session: usize, ordinal: usize, kind: Kind, ms: i64) -> Record {
    let mut record = Record::new("default", &format!("api:{session}/{ordinal}"), kind);
    record.set_time(Some(1_795_170_000_000_000_000 + (session as i64 * 4000 + ms) * 1_000_000), 1_795_170_000_000_000);
    record.collector = Collector::Tap;
    record.leaf_salt = Some(vec![7; 32]);
    record
}

fn host(record: &mut Record, session: usize) {
    record.source_kind = SourceKind::Host;
    record.source_name = "agent".into();
    record.decoder = "claude-code".into();
    record.conversation_id = Some(format!("conversation-{session}"));
    record.turn_id = Some(format!("turn-{session}"));
}

fn wire(record: &mut Record, session: usize, direction: Direction, id: usize) {
    record.source_kind = SourceKind::Wire;
    record.source_name = "orders".into();
    record.server_name = Some("orders".into());
    record.decoder = "mcp-stdio".into();
    record.direction = Some(direction);
    record.connection_id = Some(format!("run-{session}"));
    record.rpc_id = Some(id.to_string());
    record.add_key(Key::scoped(KeyKind::Rpc, &format!("run-{session}:client"), &id.to_string()));
}

fn session(session: usize, random: &mut Random) -> Vec<Record> {
    let mut records = vec![record(session, 0, Kind::Prompt, 0)];
    host(&mut records[0], session);
    records[0].text = Some(random.words(60));
    for call in 0..CALLS {
        let ms = 100 + call as i64 * 500;
        let kinds = [Kind::Selection, Kind::Decision, Kind::Call, Kind::Result, Kind::Result, Kind::Result];
        for (step, kind) in kinds.into_iter().enumerate() {
            let mut one = record(session, records.len(), kind, ms + step as i64 * 10);
            match step {
                2 => wire(&mut one, session, Direction::ClientToServer, call),
                3 => wire(&mut one, session, Direction::ServerToClient, call),
                _ => host(&mut one, session),
            }
            one.tool_call_id = Some(format!("toolu_{session}_{call}"));
            one.tool_name = Some("lookup_order".into());
            if step == 0 || step == 2 {
                one.arguments = Some(format!("{{\"order_id\":\"{}\"}}", random.words(40)));
            }
            if kind == Kind::Result {
                one.result = Some(format!("{{\"text\":\"{}\"}}", random.words(80)));
                one.outcome = Some(Outcome::Ok);
            }
            records.push(one);
        }
    }
    while records.len() < RECORDS_PER_SESSION {
        let mut one = record(session, records.len(), Kind::Completion, 3500);
        host(&mut one, session);
        one.text = Some(random.words(100));
        records.push(one);
    }
    records.iter_mut().for_each(stamp::stamp);
    records
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!("{what:<44} p50 {:>10.3?}  p99 {:>10.3?}  n {}", at(0.5), at(0.99), times.len());
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let wanted = std::env::var("THREADLINE_BENCH_RECORDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let sessions = usize::max(wanted / RECORDS_PER_SESSION, 1);
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path(), StoreConfig::default()).await.expect("a store");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for first in (0..sessions).step_by(50) {
        let records: Vec<Record> =
            (first..usize::min(first + 50, sessions)).flat_map(|at| session(at, &mut random)).collect();
        store.appender().append(records).await.expect("an append");
    }
    store.seal_now().await.expect("a seal");
    let files = store.reader().snapshot().await.expect("a snapshot").files().len();
    println!(
        "{} records in {sessions} sessions of {RECORDS_PER_SESSION}, {files} sealed files",
        sessions * RECORDS_PER_SESSION
    );

    let engine = Engine::new(store.reader(), EngineConfig::default());
    let mut times = Vec::new();
    for _ in 0..LOOKUPS {
        let id = format!("toolu_{}_{}", random.next() as usize % sessions, random.next() as usize % CALLS);
        let start = Instant::now();
        let answer = engine.session(&id, &SessionOptions::default()).await.expect("a session");
        times.push(start.elapsed());
        assert_eq!(answer.data.summary.records, RECORDS_PER_SESSION as u64);
        assert_eq!(answer.data.summary.calls, CALLS as u64);
    }
    report("session from a tool-call id, first time", vec![times.remove(0)]);
    report("session from a tool-call id", times);

    let start = Instant::now();
    engine.sources().await.expect("sources");
    report("session index, built", vec![start.elapsed()]);
    let mut times = Vec::new();
    let mut filter = SessionFilter::default();
    for _ in 0..20 {
        let start = Instant::now();
        let page = engine.sessions(&filter).await.expect("a page");
        times.push(start.elapsed());
        filter.cursor = page.next_cursor;
        if filter.cursor.is_none() {
            break;
        }
    }
    report("page of 100 sessions", times);

    let mut times = Vec::new();
    for _ in 0..LOOKUPS / 4 {
        let q = format!("order{} ticket{}", random.next() % 97, random.next() % 97);
        let start = Instant::now();
        engine.search(&SearchQuestion { q, limit: Some(50), ..SearchQuestion::default() }).await.expect("hits");
        times.push(start.elapsed());
    }
    report("two-term search, 50 hits", times);
    store.close().await.expect("a clean close");
}
