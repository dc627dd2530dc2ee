//! What a tap saw, and the trait that makes it durable.
//!
//! Invariants
//! - sequences of one run start at 0 and have no holes; a retried batch keeps its numbers, so (run, sequence) is
//!   the delivery key of an observation
//! - a frame holds the bytes of its line without the line feed; wire = `bytes` + `\n` if `terminated`, unless `length` says
//!   that more passed than was kept
//!
//! Not here: what the bytes mean (they need not be JSON, nor UTF-8).

use std::{ffi::OsString, future::Future};

use bytes::Bytes;
use uuid::Uuid;

/// One of the three streams between a client and the server it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The server's standard input.
    ClientToServer,
    /// The server's standard output.
    ServerToClient,
    /// The server's standard error: its log lines, not protocol.
    ServerStderr,
}

impl Direction {
    /// All of them, in index order.
    pub const ALL: [Self; 3] = [Self::ClientToServer, Self::ServerToClient, Self::ServerStderr];

    /// The name that records carry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientToServer => "client_to_server",
            Self::ServerToClient => "server_to_client",
            Self::ServerStderr => "server_stderr",
        }
    }

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

/// One thing seen, numbered within its run.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Position in the run, from 0.
    pub sequence: u64,
    /// Our clock when it was seen: for a frame, when the read that completed it returned.
    pub time_unix_nano: i64,
    /// What was seen.
    pub event: Event,
}

/// What can be seen.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The server was started.
    Started {
        /// Identity of this run of the tap.
        run: Uuid,
        /// Program and arguments as given. May hold secrets: redact before storing.
        command: Vec<OsString>,
        /// Process id of the server.
        pid: u32,
    },
    /// A line passed.
    Frame(Frame),
    /// A stream ended.
    Closed {
        /// Which stream.
        direction: Direction,
        /// Which of its ends closed.
        by: End,
    },
    /// Frames passed that could not be recorded.
    Gap(Gap),
    /// The server ended.
    Exited {
        /// Its exit code, if it exited.
        code: Option<i32>,
        /// The signal that killed it, if one did.
        signal: Option<i32>,
    },
}

/// A line, as it passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it was going.
    pub direction: Direction,
    /// The line without its line feed; the beginning of it when it was over the limit.
    pub bytes: Bytes,
    /// Bytes of the line on the wire, without the line feed. More than `bytes.len()` only when it was over the limit.
    pub length: u64,
    /// Whether a line feed ended it: false only for what stands last in a stream.
    pub terminated: bool,
    /// Whether the receiver's end took all of it. False when that end had closed.
    pub delivered: bool,
    /// SHA-256 of the whole line, only when it was over the limit.
    pub sha256: Option<[u8; 32]>,
}

impl Frame {
    /// Whether only the beginning was kept.
    pub fn is_truncated(&self) -> bool {
        self.length > self.bytes.len() as u64
    }
}

/// Which end closed a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The writer: end of file.
    Source,
    /// The reader: broken pipe.
    Sink,
}

/// Frames that passed but are not in the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Which stream they were in.
    pub direction: Direction,
    /// How many lines.
    pub frames: u64,
    /// How many bytes, line feeds not counted.
    pub bytes: u64,
    /// When the first of them passed.
    pub from_unix_nano: i64,
    /// When the last of them passed.
    pub to_unix_nano: i64,
    /// Why.
    pub reason: GapReason,
}

/// Why frames are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// The recorder was behind or failing and the byte budget was used up.
    Overflow,
    /// The recorder refused them for good.
    Rejected,
}

impl GapReason {
    /// The name that records carry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::Rejected => "rejected",
        }
    }
}

/// Why a batch was not recorded: decides who must act.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Try the same batch again later.
    #[error("recorder is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Trying again cannot help; halves of the batch are tried, down to one observation.
    #[error("recorder rejected the batch")]
    Rejected(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Makes observations durable: of a tap, or of the HTTP proxy.
pub trait Record<O = Observation>: Send {
    /// Returns once the whole batch is durable. After [`RecordError::Unavailable`] the same observations come again with
    /// the same sequences, whether or not they were stored: recording must be idempotent by (run, sequence).
    fn record(&mut self, batch: Vec<O>) -> impl Future<Output = Result<(), RecordError>> + Send;

    /// The run ended in order and everything is recorded, or nothing ever will be: the place to mark the end.
    fn close(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}
