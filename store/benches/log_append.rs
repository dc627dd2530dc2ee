//! How fast appends become durable, beside a bare write and `fdatasync` loop on the same disk in the same run.
//!
//! Input: frames of 1 KiB of random bytes (fixed seed), in groups of 1, 10, 100 and 1,000. `log_one_appender` sends one
//! group after the other and waits for each; `log_concurrent` has that many appenders with one frame each in flight,
//! which group commit has to join; `raw` writes the same bytes into a preallocated file and syncs after each group.
//!
//! `log_read` reads 32,000 such frames back, checksums and all; a reader that starts in the middle of a segment reads it
//! from its start, so this is also what finding a position costs at most (a segment holds twice as many).
//!
//! `cargo bench -p threadline-store --bench log_append` prints seconds, bytes and items per second for each. The
//! directory is made in `TMPDIR`; on a memory file system the figures mean nothing.

// Standard output is the interface of a bench.
#![allow(clippy::print_stdout)]

use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

use bytes::Bytes;
use divan::{
    Bencher,
    counter::{BytesCount, ItemsCount},
};
use rustix::fs::{FallocateFlags, fallocate};
use threadline_store::log::{Log, LogConfig};

const FRAME_BYTES: usize = 1024;
const GROUPS: [usize; 4] = [1, 10, 100, 1000];
const FILE_BYTES: u64 = 512 << 20;

fn main() {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find(|l| l.starts_with("model name")).unwrap_or("cpu unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{cores} cores, {cpu}; directory {}; frames of {FRAME_BYTES} bytes", std::env::temp_dir().display());
    divan::main();
}

/// Bytes that do not compress, the same in every run.
fn frames(count: usize) -> Vec<Bytes> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..count).map(|_| (0..FRAME_BYTES).map(|_| next()).collect()).collect()
}

#[divan::bench(args = GROUPS, sample_count = 400, max_time = 4)]
fn raw(bencher: Bencher<'_, '_>, group: usize) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = File::create(dir.path().join("raw")).expect("a file");
    fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES).expect("space");
    file.sync_all().expect("a sync");
    let bytes = frames(group).concat();
    let mut at = 0;
    bencher.counter(BytesCount::new(bytes.len())).counter(ItemsCount::new(group)).bench_local(|| {
        if at + bytes.len() as u64 > FILE_BYTES {
            at = 0;
        }
        file.write_all_at(&bytes, at).expect("a write");
        file.sync_data().expect("a sync");
        at += bytes.len() as u64;
    });
}

fn log(dir: &std::path::Path) -> Arc<Log> {
    Arc::new(Log::open(dir, LogConfig::default()).expect("a log").0)
}

#[divan::bench(args = GROUPS, sample_count = 400, max_time = 4)]
fn log_one_appender(bencher: Bencher<'_, '_>, group: usize) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let log = log(dir.path());
    let frames = frames(group);
    bencher.counter(BytesCount::new(group * FRAME_BYTES)).counter(ItemsCount::new(group)).bench_local(|| {
        let range = runtime.block_on(log.append(frames.clone())).expect("an append");
        if range.start % 100_000 < group as u64 {
            runtime.block_on(log.trim(range.start)).expect("a trim");
        }
    });
    runtime.block_on(log.close()).expect("a close");
}

#[divan::bench(args = GROUPS, sample_count = 400, max_time = 4)]
fn log_concurrent(bencher: Bencher<'_, '_>, group: usize) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let log = log(dir.path());
    let frames = frames(group);
    bencher.counter(BytesCount::new(group * FRAME_BYTES)).counter(ItemsCount::new(group)).bench_local(|| {
        let appends = frames.iter().map(|frame| log.append(vec![frame.clone()]));
        let ranges = runtime.block_on(futures::future::try_join_all(appends)).expect("appends");
        if ranges[0].start % 100_000 < group as u64 {
            runtime.block_on(log.trim(ranges[0].start)).expect("a trim");
        }
    });
    runtime.block_on(log.close()).expect("a close");
}

#[divan::bench(sample_count = 20)]
fn log_read(bencher: Bencher<'_, '_>) {
    const COUNT: usize = 32_000;
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let log = log(dir.path());
    let frames = frames(1000);
    for _ in 0..COUNT / frames.len() {
        runtime.block_on(log.append(frames.clone())).expect("an append");
    }
    bencher.counter(BytesCount::new(COUNT * FRAME_BYTES)).counter(ItemsCount::new(COUNT)).bench_local(|| {
        let read = log.frames(0).map(|frame| frame.expect("a frame").1.len()).sum::<usize>();
        assert_eq!(read, COUNT * FRAME_BYTES);
    });
    runtime.block_on(log.close()).expect("a close");
}
