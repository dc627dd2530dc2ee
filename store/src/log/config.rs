//! Limits of the log, and the switch that lets a test show that durability is really tested.
//!
//! Invariants
//! - `check` refuses limits under which an append could never succeed
//! - anything but `Durability::Synced` is asked for by the environment alone, and said loudly

use super::{LogError, frame::FRAME_HEADER_BYTES, segment::SEGMENT_HEADER_BYTES};

/// No segment may be configured larger: what a reader will ever be asked to believe.
pub const SEGMENT_BYTES_LIMIT: u64 = 1 << 30;

/// Environment variable that selects a control which must lose data: `ack-before-write` or `no-sync`.
const CONTROL_VARIABLE: &str = "THREADLINE_DURABILITY_CONTROL";

/// When an append is acknowledged. [`Durability::Synced`] is the only mode for users; the others are the controls of
/// the crash tests, which prove nothing unless these lose data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// After `fdatasync`.
    #[default]
    Synced,
    /// Before anything is written, as a program with its own buffer would. Loses under `kill -9`.
    AckBeforeWrite,
    /// After the write, without any sync of data. Loses under a power cut.
    NoSync,
}

impl Durability {
    /// What `THREADLINE_DURABILITY_CONTROL` asks for; `Synced` when it is not set.
    pub fn from_env() -> Result<Durability, LogError> {
        match std::env::var(CONTROL_VARIABLE) {
            Err(_) => Ok(Durability::Synced),
            Ok(value) => match value.as_str() {
                "ack-before-write" => Ok(Durability::AckBeforeWrite),
                "no-sync" => Ok(Durability::NoSync),
                _ => Err(LogError::Config {
                    what: "THREADLINE_DURABILITY_CONTROL is neither ack-before-write nor no-sync",
                }),
            },
        }
    }
}

/// Limits of one log directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Partition number written into each segment. Default 0.
    pub partition: u32,
    /// Largest segment file. Default 64 MiB, at most [`SEGMENT_BYTES_LIMIT`].
    pub segment_bytes_max: u64,
    /// Space is claimed in steps of this size, so that most group commits do not change the file's size. Default 8 MiB.
    pub preallocate_bytes: u64,
    /// How long a group waits for as many batches as the last group had. A lone appender never waits. Default 2.
    pub group_commit_max_wait_ms: u64,
    /// A group is written once it has this many bytes. Default 1 MiB.
    pub group_commit_bytes_max: u64,
    /// Largest payload. Default 32 MiB.
    pub frame_bytes_max: u64,
    /// Appends wait while this many bytes are queued. Default 64 MiB.
    pub queue_bytes_max: u64,
    /// Offset below which everything is in the table already: an empty directory starts here, a log that ends below it
    /// refuses to open, and segments wholly below it are not verified. Default 0.
    pub sealed_below: u64,
    /// When an append is acknowledged.
    pub durability: Durability,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            partition: 0,
            segment_bytes_max: 64 << 20,
            preallocate_bytes: 8 << 20,
            group_commit_max_wait_ms: 2,
            group_commit_bytes_max: 1 << 20,
            frame_bytes_max: 32 << 20,
            queue_bytes_max: 64 << 20,
            sealed_below: 0,
            durability: Durability::Synced,
        }
    }
}

impl LogConfig {
    pub(super) fn check(&self) -> Result<(), LogError> {
        let overhead = SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES as u64;
        let problem = if self.segment_bytes_max > SEGMENT_BYTES_LIMIT {
            "segment_bytes_max is above 1 GiB"
        } else if self.frame_bytes_max == 0 {
            "frame_bytes_max is 0"
        } else if self.frame_bytes_max.saturating_add(overhead) > self.segment_bytes_max {
            "frame_bytes_max does not fit into segment_bytes_max"
        } else if self.preallocate_bytes == 0 {
            "preallocate_bytes is 0"
        } else if self.group_commit_bytes_max == 0 {
            "group_commit_bytes_max is 0"
        } else if self.queue_bytes_max == 0 {
            "queue_bytes_max is 0"
        } else {
            return Ok(());
        };
        Err(LogError::Config { what: problem })
    }

    pub(super) fn warn_of_control(&self) {
        if self.durability != Durability::Synced {
            tracing::warn!(
                durability = ?self.durability,
                "THIS LOG LOSES ACKNOWLEDGED EVENTS ON PURPOSE: {CONTROL_VARIABLE} is set, for crash tests only"
            );
        }
    }
}
