//! How fast each kind of source is decoded, on one core: MB of input per second.
//!
//! First a table by the CPU time of the thread, which other work on the machine does not change; then divan's samples by the
//! clock, for comparing two versions on a quiet machine.
//!
//! Fixed input: recorded traffic (`tests/captures`) for the built-in decoders; for profiles the lines of their samples
//! (`tests/profiles`) that are not refused, over and over until there is [`GENERATED_BYTES`] of them. Without redaction and
//! store. Run with `cargo bench -p threadline-schemas --bench decode`.

// The shape of the input belongs to the figures.
#![allow(clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use threadline_schemas::decode::otlp::{self, Encoding, Signal};
use threadline_schemas::decode::profile::{Catalogue, ProfileDecoder};
use threadline_schemas::decode::recognise::{self, Format};
use threadline_schemas::decode::{Context, Line, LineDecoder};
use threadline_schemas::digest::MatchKey;
use threadline_schemas::{Collector, Kind, Record};

/// Lines generated for a profile.
const GENERATED_BYTES: usize = 512 << 10;
/// CPU time of one figure.
const FIGURE_NANOS: u64 = 300_000_000;

static KEY: LazyLock<MatchKey> = LazyLock::new(|| MatchKey::new([3; 32]));

fn main() {
    for (name, _) in CAPTURES {
        let bytes: usize = files(name).iter().map(|(_, bytes)| bytes.len()).sum();
        println!("{name}: {} files, {bytes} bytes", files(name).len());
    }
    let machine = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = machine.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    println!("one core of{}, CPU time:", model.trim_start_matches(['\t', ':']));
    for name in CAPTURES.iter().map(|(name, _)| *name) {
        figure(name, &workload(name));
    }
    for name in profiles() {
        figure(&format!("profile {name}"), &profile_workload(&name));
    }
    divan::main();
}

/// Input of a kind, and what decodes it and gives the number of records.
struct Workload {
    bytes: usize,
    decode: Box<dyn Fn() -> usize>,
}

/// Nanoseconds that this thread was on a core.
fn cpu_nanos() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
}

/// Decodes for [`FIGURE_NANOS`] of CPU time and prints what came of it.
fn figure(name: &str, workload: &Workload) {
    let records = (workload.decode)();
    let Some(start) = cpu_nanos() else { return println!("{name}: this system does not tell a thread's CPU time") };
    let (mut rounds, mut nanos) = (0u64, 0);
    while nanos < FIGURE_NANOS {
        divan::black_box((workload.decode)());
        rounds += 1;
        nanos = cpu_nanos().unwrap_or(u64::MAX).saturating_sub(start);
    }
    let per_second = |count: usize| count as f64 * rounds as f64 / (nanos as f64 / 1e9);
    println!("{name:<36} {:>7.1} MB/s {:>9.0} records/s", per_second(workload.bytes) / 1e6, per_second(records));
}

fn context() -> Context<'static> {
    Context {
        tenant: "default",
        collector: Collector::Import,
        observed_time_unix_us: 1_795_000_000_000_000,
        match_key: Some(&KEY),
    }
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Folders of recorded traffic with the name of the decoder that is measured on them.
const CAPTURES: &[(&str, &str)] = &[
    ("mcp-stdio", "pysdk-filesystem-stdio"),
    ("mcp-http", "contextforge"),
    ("claude-code", "claude-code"),
    ("codex", "codex"),
    ("otlp-json", "codex"),
    ("otlp-protobuf", "pysdk-orders-otlp"),
    ("contextforge-log", "contextforge"),
    ("contextforge-tables", "contextforge"),
];

/// Every file below the folder of this decoder that is recognised as its.
fn files(decoder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = CAPTURES.iter().find(|(name, _)| *name == decoder).map_or("", |(_, folder)| folder);
    let mut waiting = vec![repository("tests/captures").join(folder)];
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(std::fs::read_dir(&path).expect("captures are there").map(|e| e.expect("readable").path()));
            continue;
        }
        let name = path.to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).expect("captures are readable");
        let head = &bytes[..bytes.len().min(recognise::HEAD_BYTES)];
        if recognise::recognise(&name, head).is_ok_and(|format| format.as_str() == decoder) {
            found.push((name, bytes));
        }
    }
    found.sort();
    found
}

fn lines(decoder: &mut dyn LineDecoder, bytes: &[u8]) -> Vec<Record> {
    let context = context();
    let mut records = Vec::new();
    for (bytes, number) in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).zip(1..) {
        records.extend(decoder.line(&context, Line { bytes, file: Some("f"), number, delivery_key: "file:f:1" }));
    }
    records.extend(decoder.finish(&context));
    records
}

#[divan::bench(args = CAPTURES.iter().map(|(name, _)| *name))]
fn recorded(bencher: Bencher<'_, '_>, name: &str) {
    let Workload { bytes, decode } = workload(name);
    bencher.counter(BytesCount::new(bytes)).counter(ItemsCount::new(decode())).bench_local(decode);
}

fn workload(name: &str) -> Workload {
    let files = files(name);
    assert!(!files.is_empty(), "no recorded file of {name}");
    let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let format = Format::parse(name).expect("a format of this name");
    let encoding = if name == "otlp-json" { Encoding::Json } else { Encoding::Protobuf };
    let decode = move || {
        let mut records = 0;
        for (file, bytes) in &files {
            records += match recognise::decoder(&format, file, "d") {
                Some(mut decoder) => lines(&mut *decoder, bytes).len(),
                None => {
                    let signal = recognise::otlp_signal(file, bytes).unwrap_or(Signal::Logs);
                    let decoded = otlp::decode_body(&context(), bytes, signal, encoding, Some(file));
                    decoded.map_or(0, |body| body.records.len())
                }
            };
        }
        records
    };
    Workload { bytes, decode: Box::new(decode) }
}

/// The lines of a sample that a profile reads, one by one, repeated.
fn generated(profile: &str) -> Vec<u8> {
    let sample = std::fs::read(repository("tests/profiles").join(format!("{profile}.log"))).expect("a sample");
    let mut decoder = decoder(profile);
    let read = lines(&mut decoder, &sample);
    let good: Vec<Vec<u8>> =
        read.into_iter().filter(|record| record.kind != Kind::Rejected).filter_map(|record| record.raw).collect();
    let mut bytes = Vec::with_capacity(GENERATED_BYTES + 4096);
    for line in good.iter().cycle().take_while({
        let mut total = 0;
        move |line| {
            total += line.len() + 1;
            total <= GENERATED_BYTES
        }
    }) {
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
    }
    bytes
}

fn decoder(profile: &str) -> ProfileDecoder {
    ProfileDecoder::new(Catalogue::shipped().get(profile).expect("a shipped profile").clone())
}

fn profiles() -> Vec<String> {
    let mut names: Vec<String> =
        Catalogue::shipped().profiles().iter().map(|profile| profile.name().to_string()).collect();
    names.sort();
    names
}

#[divan::bench(args = profiles())]
fn profile(bencher: Bencher<'_, '_>, name: &str) {
    let Workload { bytes, decode } = profile_workload(name);
    bencher.counter(BytesCount::new(bytes)).counter(ItemsCount::new(decode())).bench_local(decode);
}

fn profile_workload(name: &str) -> Workload {
    let (bytes, name) = (generated(name), name.to_string());
    Workload { bytes: bytes.len(), decode: Box::new(move || lines(&mut decoder(&name), &bytes).len()) }
}
