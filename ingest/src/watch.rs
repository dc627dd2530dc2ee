//! Follows growing and rotating transcript files in folders.
//!
//! Invariants
//! - nothing is read but what is named as asked for, and what was and has been renamed since
//! - only complete lines come out, in order, each once per run; a last line without line feed waits
//! - a file is the same file while device, inode, time of birth and first bytes (up to `PREFIX_BYTES_MAX`) are, whatever it is
//!   called now;
//!   a file that was cut or written anew is read from its beginning, and the batch says so
//! - unread bytes that are gone (cut, replaced, removed) are counted in [`Interruption`], as far as they were seen
//! - memory: one round holds at most `round_bytes_max` plus one line of `line_bytes_max`; at most `files_max` files are followed
//!
//! Polling, not notification: transcripts live on network and overlay file systems too, where notification is silent.
//!
//! Not here: where positions are kept. The caller stores [`Batch::position`] once the batch is durable, and gives the stored
//! ones back in [`WatchOptions::positions`].

mod file;
mod rounds;
mod walk;

use std::{
    collections::VecDeque,
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use threadline_schemas::limits::arrival::LINE_BYTES_MAX;
use tokio::task::JoinHandle;
use tracing::error;

use self::rounds::Rounds;
pub use crate::follow::follow;

/// Settings.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// Time between looks at the files. Default 200 ms.
    pub poll_interval: Duration,
    /// Every how many looks the folders are searched for new files. Default 5.
    pub rounds_per_walk: u32,
    /// What followed files in folders are called; a file named itself is followed whatever it is called. Default `jsonl`.
    pub extension: String,
    /// Where files that are there at the first look are read from, if no position is known. Files that appear later are
    /// always read from the beginning.
    pub start: Start,
    /// Where earlier runs stopped.
    pub positions: Vec<Position>,
    /// Bytes read from one file in one look. Default 1 MiB.
    pub batch_bytes_max: usize,
    /// Bytes read in one look. Default 16 MiB.
    pub round_bytes_max: usize,
    /// A longer line is passed over and told in [`Batch::oversized`]. Default 16 MiB.
    pub line_bytes_max: usize,
    /// Files followed; the ones found first win, and a warning says how many were left out. Default 10,000.
    pub files_max: usize,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_millis(200),
            rounds_per_walk: 5,
            extension: "jsonl".into(),
            start: Start::default(),
            positions: Vec::new(),
            batch_bytes_max: 1 << 20,
            round_bytes_max: 16 << 20,
            line_bytes_max: LINE_BYTES_MAX,
            files_max: 10_000,
        }
    }
}

/// Where to begin in a file that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With everything it holds.
    #[default]
    Beginning,
    /// With what comes from now on.
    End,
}

/// New lines of one file.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The file, as it is called now.
    pub path: PathBuf,
    /// Number of the first line, from 1. Lines passed over count.
    pub start_line: u64,
    /// Offset of the first line.
    pub start_offset: u64,
    /// The lines, without their line feeds.
    pub lines: Vec<Bytes>,
    /// A line that was too long, in place of which `lines` starts after it.
    pub oversized: Option<Oversized>,
    /// What happened to the file before these lines.
    pub interruption: Option<Interruption>,
    /// Where to go on: to be stored once this batch is durable.
    pub position: Position,
}

/// A line over `line_bytes_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oversized {
    /// Its number, from 1.
    pub line: u64,
    /// Where it starts.
    pub offset: u64,
    /// Its bytes, without line feed.
    pub length: u64,
}

/// A file that is not any more what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// What happened.
    pub kind: InterruptionKind,
    /// Bytes that had been seen to be there, but were not read as lines.
    pub unread_bytes: u64,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptionKind {
    /// It is shorter than what was read of it.
    Truncated,
    /// It begins with other bytes than before.
    Replaced,
    /// It is nowhere in the folders any more.
    Removed,
}

/// How far a file was read. `path` is for people and for files copied back: the file is known by the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The file, as it was called last; not exact where the name is not unicode.
    pub path: String,
    /// Device it is on.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// When it was made, since inodes are given again; 0 where the file system does not tell.
    pub born_unix_nano: i64,
    /// Bytes read: the next line starts here.
    pub offset: u64,
    /// Lines read.
    pub line: u64,
    /// Length of the beginning that is digested.
    pub prefix_length: u64,
    /// SHA-256 of the beginning, hexadecimal.
    pub prefix_sha256: String,
}

/// The files below some folders.
#[derive(Debug)]
pub struct Watch {
    poll_interval: Duration,
    state: State,
    ready: VecDeque<Batch>,
    next_round: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Idle(Box<Rounds>),
    Looking(JoinHandle<(Box<Rounds>, Round)>),
    Failed,
}

/// What one look found.
#[derive(Debug)]
pub struct Round {
    /// At most one batch per file.
    pub batches: Vec<Batch>,
    /// A bound was reached: there is more to read at once.
    pub has_more: bool,
}

impl Watch {
    /// Follows `paths`, files or folders; they need not exist yet.
    pub fn new(paths: Vec<PathBuf>, options: WatchOptions) -> Self {
        let poll_interval = options.poll_interval;
        let state = State::Idle(Box::new(Rounds::new(paths, options)));
        Self { poll_interval, state, ready: VecDeque::new(), next_round: None }
    }

    /// The next batch, when there is one. `None` only if following has failed for good. Cancel safe.
    pub async fn next(&mut self) -> Option<Batch> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Some(batch);
            }
            if let Some(time) = self.next_round {
                tokio::time::sleep_until(time.into()).await;
            }
            let has_more = self.look().await?;
            self.next_round = (!has_more).then(|| Instant::now() + self.poll_interval);
        }
    }

    /// One look at the files, now.
    pub async fn poll_once(&mut self) -> Vec<Batch> {
        // A look that fails is told once, by `next`.
        if self.look().await.is_none() {
            return Vec::new();
        }
        self.ready.drain(..).collect()
    }

    /// What is new in the files now; empty when nothing is. A line longer than what is read in one look takes several.
    pub async fn poll_new(&mut self) -> Vec<Batch> {
        while let Some(has_more) = self.look().await {
            if !has_more || !self.ready.is_empty() {
                return self.ready.drain(..).collect();
            }
        }
        Vec::new()
    }

    async fn look(&mut self) -> Option<bool> {
        if let State::Idle(_) = self.state
            && let State::Idle(mut rounds) = std::mem::replace(&mut self.state, State::Failed)
        {
            self.state = State::Looking(tokio::task::spawn_blocking(move || {
                let round = rounds.look();
                (rounds, round)
            }));
        }
        let State::Looking(task) = &mut self.state else { return None };
        match task.await {
            Ok((rounds, round)) => {
                self.state = State::Idle(rounds);
                self.ready.extend(round.batches);
                Some(round.has_more)
            }
            Err(error) => {
                error!(%error, "watching has failed");
                self.state = State::Failed;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
