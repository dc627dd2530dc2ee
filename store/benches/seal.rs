//! Events through the whole store: to durable, to sealed and searchable, and back.
//!
//! Input: `support/generate.rs`, `THREADLINE_BENCH_EVENTS` events (default 20,000; figures worth quoting want
//! 1,000,000) handed over in batches of 500 by two appenders. Prints the machine, the input's shape, events/s and MB/s of
//! input, where the time went per stage and which stage limits, bytes on disk per input byte, peak memory, and p50 and
//! p99 of lookups and searches. *Warm*: everything read before. *Cold*: another reader process's state, and the pages of the data directory
//! dropped from the kernel's cache before each query.
//!
//! `THREADLINE_BENCH_KEEP=PATH` moves the data directory there instead of removing it.
//! `cargo bench -p threadline-store --bench seal`. The directory is made in `TMPDIR`; on a memory file system the figures
//! mean nothing.

// Standard output is the interface of a bench.
#![allow(clippy::print_stdout)]

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[path = "support/generate.rs"]
mod generate;

use std::{
    fs::{self, File},
    path::Path,
    time::{Duration, Instant},
};

use generate::{Generator, Random, SESSION_EVENTS, conversation};
use threadline_schemas::Record;
use threadline_store::{KeyQuery, Reader, Snapshot, Store, StoreConfig, TextQuery};

const BATCH: usize = 500;
const QUERIES_WARM: usize = 200;
const QUERIES_COLD: usize = 30;

fn main() {
    let events = std::env::var("THREADLINE_BENCH_EVENTS").ok().and_then(|v| v.parse().ok()).unwrap_or(20_000);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(run(events));
}

async fn run(events: usize) {
    print_machine();
    let (batches, input_bytes, sample) = input(events);
    let compressed = zstd::bulk::compress(&sample, 3).expect("zstd").len();
    println!(
        "input: {events} events, {input_bytes} bytes ({:.0} per event), zstd -3 of a sample {:.3}",
        input_bytes as f64 / events as f64,
        compressed as f64 / sample.len() as f64
    );
    let generated_peak = peak_bytes();

    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path(), StoreConfig::default()).await.expect("a store");
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let mut appends = Vec::new();
    for half in split(batches) {
        let appender = store.appender();
        appends.push(tokio::spawn(async move {
            for batch in half {
                while let Err(error) = appender.append(batch.clone()).await {
                    assert!(matches!(error, threadline_store::AppendError::Overloaded), "{error}");
                }
            }
        }));
    }
    for append in appends {
        append.await.expect("an appender");
    }
    report("durable", events, input_bytes, start.elapsed(), cpu_seconds() - cpu);
    store.seal_now().await.expect("a seal");
    report("sealed and searchable", events, input_bytes, start.elapsed(), cpu_seconds() - cpu);
    print_stages(&store, events, start.elapsed(), cpu_seconds() - cpu);
    println!(
        "peak memory: {} MiB, of which {} MiB before the store was opened (the input)",
        peak_bytes() >> 20,
        generated_peak >> 20
    );
    print_disk(dir.path(), events, input_bytes);

    let snapshot = store.reader().snapshot().await.expect("a snapshot");
    println!("{} files, table version {}", snapshot.files().len(), snapshot.table_version());
    queries(dir.path(), &snapshot, events).await;
    store.close().await.expect("a clean end");
    if let Some(keep) = std::env::var_os("THREADLINE_BENCH_KEEP") {
        fs::rename(dir.keep(), keep).expect("the directory in its new place");
    }
}

/// All events in batches, the bytes of their lines, and the first of those lines.
fn input(events: usize) -> (Vec<Vec<Record>>, u64, Vec<u8>) {
    let mut generator = Generator::new();
    let (mut batches, mut bytes, mut sample) = (Vec::new(), 0, Vec::new());
    while batches.len() * BATCH < events {
        let batch: Vec<Record> = (0..BATCH.min(events - batches.len() * BATCH))
            .map(|_| {
                let event = generator.event();
                bytes += event.line_bytes as u64;
                if sample.len() < 64 << 20 {
                    sample.extend_from_slice(event.record.raw.as_deref().unwrap_or_default());
                    sample.push(b'\n');
                }
                event.record
            })
            .collect();
        batches.push(batch);
    }
    (batches, bytes, sample)
}

fn split(batches: Vec<Vec<Record>>) -> [Vec<Vec<Record>>; 2] {
    let mut halves = [Vec::new(), Vec::new()];
    for (n, batch) in batches.into_iter().enumerate() {
        halves[n % 2].push(batch);
    }
    halves
}

async fn queries(dir: &Path, snapshot: &Snapshot, events: usize) {
    let sessions = (events / SESSION_EVENTS).max(1);
    let words = Generator::new().vocabulary;
    let mut random = Random(99);
    for cold in [false, true] {
        let count = if cold { QUERIES_COLD } else { QUERIES_WARM };
        let mut rows = 0;
        let mut times = Vec::new();
        for _ in 0..count {
            let key = KeyQuery::Any(conversation(random.below(sessions as u64) as usize));
            let reader = if cold { Some(outside(dir).await) } else { None };
            let snapshot = reader.as_ref().unwrap_or(snapshot);
            let start = Instant::now();
            rows += snapshot.records_with_keys(&[key]).await.expect("a lookup").len();
            times.push(start.elapsed());
        }
        let name = if cold { "cold" } else { "warm" };
        print_times(
            &format!("session of {SESSION_EVENTS} events, {name} ({:.1} rows)", rows as f64 / count as f64),
            times,
        );
        for (band, low, high) in [("common", 5, 50), ("middle", 500, 2000), ("rare", 20_000, 50_000)] {
            let mut times = Vec::new();
            let mut hits = 0;
            for _ in 0..count {
                let mut word = || words.word((low + random.below(high - low)) as usize).to_string();
                let query = TextQuery { terms: vec![word(), word()], limit: 20, ..TextQuery::default() };
                let reader = if cold { Some(outside(dir).await) } else { None };
                let snapshot = reader.as_ref().unwrap_or(snapshot);
                let start = Instant::now();
                let found = snapshot.search(&query).await.expect("a search");
                hits += snapshot.records(&found.rows).await.expect("records").len();
                times.push(start.elapsed());
            }
            print_times(
                &format!("two {band} words, newest 20 with rows, {name} ({:.1} rows)", hits as f64 / count as f64),
                times,
            );
        }
    }
}

/// A snapshot that shares nothing with earlier ones, its files out of the kernel's cache.
async fn outside(dir: &Path) -> Snapshot {
    for path in files(dir) {
        let file = File::open(path).expect("a file");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
    }
    let reader = Reader::open(dir).expect("a reader");
    Snapshot::clone(&*reader.snapshot().await.expect("a snapshot"))
}

fn print_times(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!("{what}: p50 {:.2} ms, p99 {:.2} ms", at(0.5), at(0.99));
}

fn report(what: &str, events: usize, bytes: u64, elapsed: Duration, cpu: f64) {
    let seconds = elapsed.as_secs_f64();
    println!(
        "{what}: {seconds:.2} s, {:.0} events/s, {:.1} MB/s; CPU {cpu:.2} s, {:.0} events/s per core",
        events as f64 / seconds,
        bytes as f64 / seconds / 1e6,
        events as f64 / cpu
    );
}

/// Time at work per stage, what a million events would take, and what limits: the stage with the most work while the cores
/// are busy, else the thread that was never idle.
fn print_stages(store: &Store, events: usize, elapsed: Duration, cpu: f64) {
    let times = store.stage_times();
    let (elapsed, total) = (elapsed.as_secs_f64(), times.iter().map(|(_, time)| time.as_secs_f64()).sum::<f64>());
    for (stage, time) in &times {
        let seconds = time.as_secs_f64();
        println!(
            "stage {:<11} {seconds:>6.2} s at work, {:>5.1} % of all stages, {:>6.2} s per million events",
            stage.as_str(),
            seconds / total * 100.0,
            seconds / events as f64 * 1e6
        );
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let Some((stage, time)) = times.iter().max_by_key(|(_, time)| *time) else { return };
    println!(
        "limit: stage {} with {:.0} % of the work of all stages; it was at work {:.0} % of the time; CPU {:.0} % busy ({cores} cores)",
        stage.as_str(),
        time.as_secs_f64() / total * 100.0,
        time.as_secs_f64() / elapsed * 100.0,
        cpu / elapsed / cores * 100.0
    );
}

fn print_disk(dir: &Path, events: usize, input: u64) {
    let mut total = 0;
    for part in ["records", "sidecars", "text", "log"] {
        let bytes: u64 = files(&dir.join(part)).iter().map(|p| fs::metadata(p).map_or(0, |m| m.len())).sum();
        if part != "log" {
            total += bytes;
        }
        println!("disk: {part} {:.1} bytes per event", bytes as f64 / events as f64);
    }
    println!(
        "disk without the log: {:.1} bytes per event, {:.3} of the input",
        total as f64 / events as f64,
        total as f64 / input as f64
    );
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) << 10
}

fn print_machine() {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu =
        cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("unknown").trim_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("machine: {cores} cores, {cpu}; directory {}", std::env::temp_dir().display());
    if cfg!(debug_assertions) {
        println!("THIS IS A DEBUG BUILD: the figures mean nothing");
    }
}
