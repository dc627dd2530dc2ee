//! What forwarding costs: the mapping alone, records from sealed files to a synced file of JSON lines, and to a Kafka topic.
//!
//! Input: sessions of seven records (a prompt, a selection, a call with its result, a call without, a log line, a denial), about
//! 0.5 KiB each; `THREADLINE_BENCH_RECORDS` says how many (default 20,000). "Per core" is per second of this process's CPU
//! time, all threads counted (for Kafka also the client's); the rate by the clock has the waiting for disk and broker in
//! it, and what else the machine does.
//!
//! `cargo bench -p threadline-query --bench forward` prints figures; a debug build measures nothing. Kafka is a real broker
//! of `tests/kafka/broker`, left out where that was not fetched.

// Standard output is the interface of a bench.
#![allow(clippy::print_stdout)]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
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

/// A measurement that has begun.
struct Begun {
    at: Instant,
    cpu: f64,
}

impl Begun {
    fn now() -> Begun {
        Begun { at: Instant::now(), cpu: cpu_seconds() }
    }

    fn rate(&self, what: &str, events: usize, bytes: usize) {
        let (cpu, clock) = (cpu_seconds() - self.cpu, self.at.elapsed().as_secs_f64());
        let mebibytes = bytes as f64 / f64::from(1 << 20);
        println!(
            "{what:<38} {:>8.0} events/s per core {:>6.1} MiB/s per core {:>8.0} events/s by the clock",
            events as f64 / cpu,
            mebibytes / cpu,
            events as f64 / clock,
        );
    }
}

/// CPU time of this process, in hundredths of a second: fields 14 and 15 of `stat`, behind the name in brackets.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields = stat.rsplit(')').next().into_iter().flat_map(str::split_whitespace);
    fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>() / 100.0
}

fn main() {
    let records: usize =
        std::env::var("THREADLINE_BENCH_RECORDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let machine = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = machine.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    println!(
        "{records} records in {} sessions; {} cores of{}; {}",
        records.div_ceil(7),
        std::thread::available_parallelism().map_or(0, usize::from),
        model.trim_start_matches(['\t', ':']),
        if cfg!(debug_assertions) { "debug build" } else { "release build" }
    );
    let all: Vec<Record> = (0..records).map(record).collect();
    for &version in Version::ALL {
        let begun = Begun::now();
        let bytes: usize =
            all.iter().map(|record| to_text(&event(Occurrence::of(record), &Policy::default(), version)).len()).sum();
        begun.rate(&format!("mapping and validation, {version}"), records, bytes);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(sinks(all));
}

async fn sinks(records: Vec<Record>) {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::open(dir.path(), StoreConfig::default()).await.expect("a store");
    for part in records.chunks(1000) {
        store.appender().append(part.to_vec()).await.expect("records are taken");
    }
    store.close().await.expect("the store closes");
    for check_every in [16, 1, 0] {
        let own = format!("type = \"file\"\npath = \"out\"\ncheck_every = {check_every}\n");
        forward(dir.path(), &format!("sealed files to a file, check {check_every}"), &own, "").await;
    }
    let Some(broker) = Broker::start(&dir.path().join("broker")).await else {
        return println!("no Kafka: tests/kafka/broker fetch");
    };
    let own = "type = \"kafka\"\ntopic = \"ocsf\"\nallow_private = true\n";
    let properties = format!("[sink.librdkafka]\n\"bootstrap.servers\" = {:?}\n", broker.servers);
    forward(dir.path(), "sealed files to Kafka, check 16", own, &properties).await;
}

/// Forwards everything to a sink.
async fn forward(dir: &Path, what: &str, own: &str, below: &str) {
    let name = what.replace([' ', ','], "_");
    let common = "result_wait_s = 0\nbatch_events = 5000\nbatch_bytes = 8388608\n";
    let text = format!("[[sink]]\nname = \"{name}\"\n{own}{common}{below}");
    let mut config = Config::parse(&text, dir).expect("a configuration");
    let (_shutdown, until) = tokio::sync::watch::channel(false);
    let commits = Commits::open(dir).expect("commits");
    let worker = Worker::start(commits, config.sinks.remove(0), None, until).expect("a worker");
    let begun = Begun::now();
    let sent = worker.run_replay(&ReplayRequest::Versions { from: 0, to: i64::MAX }).await.expect("it forwards");
    let status = threadline_query::forward::statuses(dir).await.expect("a status");
    let bytes = status.iter().find(|sink| sink.name == name).map_or(0, |sink| sink.counts.bytes);
    begun.rate(what, sent as usize, bytes as usize);
}

/// A broker that ends with this process.
struct Broker {
    _script: Child,
    servers: String,
}

impl Broker {
    async fn start(dir: &Path) -> Option<Broker> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        if !root.join("target/kafka/complete").exists() {
            return None;
        }
        let [port, controller] = [0; 2].map(|port| {
            TcpListener::bind(("127.0.0.1", port)).and_then(|listener| listener.local_addr()).expect("a port").port()
        });
        let mut command = Command::new(root.join("tests/kafka/broker"));
        command.arg("run").arg(dir).args([port.to_string(), controller.to_string()]);
        let mut script = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bash is there");
        let mut line = String::new();
        BufReader::new(script.stdout.take().expect("a pipe")).read_line(&mut line).expect("its pid");
        let servers = format!("127.0.0.1:{port}");
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &servers).set("log_level", "2").create().expect("a client");
        let topic = NewTopic::new("ocsf", 4, TopicReplication::Fixed(1));
        // Until it is up.
        let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(90)));
        let made = admin.create_topics([&topic], &options).await.expect("the broker answers");
        assert_eq!(made, [Ok("ocsf".to_string())]);
        Some(Broker { _script: script, servers })
    }
}
