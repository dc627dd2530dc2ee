//! Where the way of a record to the disk spends its time: seconds at work per stage, for `/metrics` and the bench.
//!
//! Invariants
//! - time is that of the clock while a stage is at work, waiting for its disk included, waiting for other stages not; on
//!   busy cores it holds what the stage waited for a core, too
//! - stages of different threads run beside each other, so their sum may exceed the time that passed
//!
//! Not here: time per record, or of reading.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// A stage, in the order in which a record passes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Records to frames of the log: salt, content digest, bytes. On the appenders' threads.
    Encode,
    /// Telling new events from those that are stored. On the appenders' threads.
    Deduplicate,
    /// Frames with their checksums into the log's file. On the log's thread.
    LogWrite,
    /// `fdatasync` of the log. On the log's thread.
    LogSync,
    /// Order of the rows of a file, residue of `raw`, large payloads. On the sealer's thread, as what follows.
    Arrange,
    /// Arrow columns, Parquet pages.
    Rows,
    /// Checksums and digest of the rows' file, the id sidecar.
    Ids,
    /// Syncing files and directories.
    FileSync,
    /// The entry of the table and its sync, checkpoints, publishing, trimming the log.
    Commit,
    /// The text index of a sealed file, its sync included. On the indexer's thread.
    Text,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Stage; 10] = [
        Stage::Encode,
        Stage::Deduplicate,
        Stage::LogWrite,
        Stage::LogSync,
        Stage::Arrange,
        Stage::Rows,
        Stage::Ids,
        Stage::FileSync,
        Stage::Commit,
        Stage::Text,
    ];

    /// Its name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Encode => "encode",
            Stage::Deduplicate => "deduplicate",
            Stage::LogWrite => "log_write",
            Stage::LogSync => "log_sync",
            Stage::Arrange => "arrange",
            Stage::Rows => "rows",
            Stage::Ids => "ids",
            Stage::FileSync => "file_sync",
            Stage::Commit => "commit",
            Stage::Text => "text",
        }
    }
}

/// Time at work per stage since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct Stages {
    nanoseconds: [AtomicU64; Stage::ALL.len()],
}

impl Stages {
    /// Counts the time from now until the returned value is dropped.
    pub(crate) fn at_work(&self, stage: Stage) -> AtWork<'_> {
        AtWork { counter: &self.nanoseconds[stage as usize], since: Instant::now() }
    }

    pub(crate) fn times(&self) -> Vec<(Stage, Duration)> {
        Stage::ALL.iter().map(|s| (*s, Duration::from_nanos(self.nanoseconds[*s as usize].load(Relaxed)))).collect()
    }
}

/// A stage at work.
#[derive(Debug)]
pub(crate) struct AtWork<'s> {
    counter: &'s AtomicU64,
    since: Instant,
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.counter.fetch_add(self.since.elapsed().as_nanos() as u64, Relaxed);
    }
}
