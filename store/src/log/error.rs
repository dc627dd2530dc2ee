//! What can go wrong with the log, sorted by who must act.
//!
//! Invariants
//! - no message contains a byte of a payload
//! - `Clone`, because one failed sync fails every batch of its group

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::durable::DurableError;

/// What is wrong at a place that was durable once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Corruption {
    /// The segment's own header.
    #[error("the segment header is damaged")]
    SegmentHeader,
    /// A frame header fails its checksum.
    #[error("the frame header fails its checksum")]
    FrameHeader,
    /// A payload fails its checksum.
    #[error("the payload fails its checksum")]
    Payload,
    /// A valid frame with another offset than its place requires.
    #[error("another offset stands here")]
    OffsetGap,
    /// A batch without its end.
    #[error("the batch is cut off")]
    Incomplete,
    /// Nothing where acknowledged frames have to be.
    #[error("acknowledged frames are missing")]
    Missing,
    /// The segment belongs to another partition.
    #[error("the segment belongs to another partition")]
    Partition,
    /// Two segments do not follow each other.
    #[error("the next segment does not follow")]
    Chain,
}

/// A log operation that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// A limit makes no sense; the operator has to change it.
    #[error("log configuration: {what}")]
    Config {
        /// Which limit and why.
        what: &'static str,
    },
    /// A directory or file could not be made durable.
    #[error(transparent)]
    Durable(#[from] Arc<DurableError>),
    /// The lock file could not be used.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// Another writer has the directory.
    #[error("{} has a writer already", dir.display())]
    Locked {
        /// The log directory.
        dir: PathBuf,
    },
    /// A segment or directory could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The segment or directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The segment was written by another version of this program.
    #[error("segment {} has format version {version}, which this program does not know", segment.display())]
    Version {
        /// The segment.
        segment: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A frame that was durable is damaged. Nothing was changed; restore the segment or set it aside by hand.
    #[error("segment {} is corrupt at offset {offset}, byte {byte}: {what}", segment.display())]
    Corrupt {
        /// The segment.
        segment: PathBuf,
        /// First offset that cannot be read.
        offset: u64,
        /// Where that is in the file.
        byte: u64,
        /// What is wrong.
        what: Corruption,
    },
    /// The wanted offsets were trimmed: read the table again, then the log from the table's new position.
    #[error("offset {offset} was trimmed, the log in {} begins at {first_offset}", dir.display())]
    Trimmed {
        /// The log directory.
        dir: PathBuf,
        /// The wanted offset.
        offset: u64,
        /// The first one that is still there.
        first_offset: u64,
    },
    /// The log ends below what the table has sealed: its offsets would be used twice, and events lost.
    #[error("the log in {} ends at offset {next_offset}, but {sealed_below} is sealed already", dir.display())]
    Behind {
        /// The log directory.
        dir: PathBuf,
        /// Where the log ends.
        next_offset: u64,
        /// Where the table ends.
        sealed_below: u64,
    },
    /// The disk is full. Nothing was acknowledged; retry later.
    #[error("no space left for the log in {}", dir.display())]
    NoSpace {
        /// The log directory.
        dir: PathBuf,
        /// What the operating system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// A step of an append failed. Nothing was acknowledged.
    #[error("cannot {step} segment {}", segment.display())]
    Append {
        /// `create`, `preallocate`, `write` or `sync`.
        step: &'static str,
        /// The segment.
        segment: PathBuf,
        /// What the operating system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// A segment could not be cut to its length or removed.
    #[error("cannot {step} segment {}", segment.display())]
    Release {
        /// `truncate` or `remove`.
        step: &'static str,
        /// The segment.
        segment: PathBuf,
        /// What the operating system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The writer thread could not be started.
    #[error("cannot start the log's writer thread")]
    Thread {
        /// What the operating system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// A frame without a payload.
    #[error("a frame needs at least one byte")]
    FrameEmpty,
    /// A payload above the limit.
    #[error("a frame of {bytes} bytes is above the limit of {bytes_max}")]
    FrameTooLarge {
        /// Its size.
        bytes: u64,
        /// The limit, `frame_bytes_max`.
        bytes_max: u64,
    },
    /// A batch that fits into no segment; append it in parts.
    #[error("a batch of {bytes} bytes is above the limit of {bytes_max}")]
    BatchTooLarge {
        /// Its size with frame headers.
        bytes: u64,
        /// The limit that follows from `segment_bytes_max`.
        bytes_max: u64,
    },
    /// The log was closed, or its writer ended.
    #[error("the log is closed")]
    Closed,
}

impl LogError {
    pub(super) fn read(path: &Path, source: io::Error) -> LogError {
        LogError::Read { path: path.to_path_buf(), source: Arc::new(source) }
    }

    pub(super) fn append(step: &'static str, segment: &Path, source: io::Error) -> LogError {
        if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            return LogError::NoSpace {
                dir: segment.parent().unwrap_or(segment).to_path_buf(),
                source: Arc::new(source),
            };
        }
        LogError::Append { step, segment: segment.to_path_buf(), source: Arc::new(source) }
    }

    pub(super) fn release(step: &'static str, segment: &Path, source: io::Error) -> LogError {
        LogError::Release { step, segment: segment.to_path_buf(), source: Arc::new(source) }
    }

    /// Whether the same append may succeed later without anybody doing anything here.
    pub fn is_retryable(&self) -> bool {
        matches!(self, LogError::NoSpace { .. } | LogError::Append { .. })
    }
}

impl From<DurableError> for LogError {
    fn from(error: DurableError) -> LogError {
        LogError::Durable(Arc::new(error))
    }
}
