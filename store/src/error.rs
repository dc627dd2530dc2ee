//! What can go wrong, sorted by who must act. Messages name files, ids and offsets, never content.

use std::{io, path::PathBuf, sync::Arc};

use uuid::Uuid;

use crate::{blocks::BlockDamage, durable::DurableError, inbox::InboxError, log::LogError};

/// An operation of the store that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process seals this data directory.
    #[error("the data directory is in use by the process {pid}")]
    Locked {
        /// What the lock file says; 0 when it says nothing.
        pid: u32,
    },
    /// Written by a newer threadline.
    #[error("{} has on-disk format {found}, this build knows up to {known}: use a newer threadline", path.display())]
    NewerFormat {
        /// The file that says so.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest one known here.
        known: u32,
    },
    /// A directory that is no data directory, and not empty either.
    #[error("{} is not a threadline data directory and not empty", path.display())]
    NotADataDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {step} {}", path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Something could not be made durable.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The inbox or a spool.
    #[error(transparent)]
    Inbox(InboxError),
    /// The Delta table.
    #[error("cannot {step} the table of records")]
    Table {
        /// What was being done.
        step: &'static str,
        /// What the Delta library said.
        #[source]
        source: Box<deltalake_core::DeltaTableError>,
    },
    /// The newest entry of the Delta log is damaged, and what it said is not in the log any more.
    #[error("entry {version} of the table's log is damaged and the log below offset {log_begins} is gone: restore {}", path.display())]
    TableCorrupt {
        /// Version of the entry.
        version: u64,
        /// First offset that the write-ahead log still has.
        log_begins: u64,
        /// The entry.
        path: PathBuf,
    },
    /// A file of the table lacks what this program writes into its Add action.
    #[error("file {path} of the table was not written by threadline: {what}")]
    ForeignFile {
        /// Path as the table says.
        path: String,
        /// What is missing.
        what: &'static str,
    },
    /// The key of match digests is gone, and records were made with it.
    #[error(
        "{} is gone while records are stored: restore it from a backup. With another key, arguments, results and credentials of new records would never again match those stored",
        path.display()
    )]
    MatchKeyGone {
        /// Where it was.
        path: PathBuf,
    },
    /// A sealed file or what belongs to it is damaged.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A sealed file could not be written or read.
    #[error("cannot {step} {}", path.display())]
    Parquet {
        /// `write` or `read`.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// What the Parquet library said.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// Records and Arrow batches could not be converted into each other.
    #[error("cannot convert rows of {file}")]
    Arrow {
        /// The sealed file; nil for the tail.
        file: Uuid,
        /// What Arrow said.
        #[source]
        source: arrow::error::ArrowError,
    },
    /// A text index could not be built or read.
    #[error("cannot {step} the text index {}", path.display())]
    Text {
        /// `build`, `open` or `search`.
        step: &'static str,
        /// Its directory.
        path: PathBuf,
        /// What tantivy said.
        #[source]
        source: Box<tantivy::TantivyError>,
    },
    /// A frame of the log or of a spool is no record that this build understands.
    #[error("offset {offset} of {} does not hold a record", dir.display())]
    Frame {
        /// Log or spool.
        dir: PathBuf,
        /// The frame.
        offset: u64,
        /// Why.
        #[source]
        source: threadline_schemas::encoding::DecodeError,
    },
    /// Sealed data moved away while it was being read, again and again.
    #[error("the data directory changes faster than it can be read")]
    Moving,
    /// A row that the snapshot does not have.
    #[error("the snapshot has no row {row} in file {file}")]
    NoSuchRow {
        /// Index of the file; `u32::MAX` is the tail.
        file: u32,
        /// The row.
        row: u32,
    },
    /// What a collector spooled could not be appended to the log.
    #[error("cannot take what a collector spooled")]
    Append(#[source] Box<AppendError>),
    /// Draining failed; several callers may wait for it.
    #[error("cannot drain the inbox")]
    Drain(#[source] Arc<StoreError>),
    /// The disk of the data directory is full.
    #[error("no space left on the disk of {}", path.display())]
    NoSpace {
        /// The data directory.
        path: PathBuf,
    },
    /// The operating system gave no random bytes.
    #[error("no random bytes")]
    Random(#[source] getrandom::Error),
    /// A background task ended; the store has to be opened again.
    #[error("the store is closed")]
    Closed,
    /// Sealing failed; several callers may wait for it.
    #[error("cannot seal")]
    Seal(#[source] Arc<StoreError>),
    /// A fault that a test asked for.
    #[cfg(test)]
    #[error("fault asked for at {0}")]
    Fault(String),
}

impl StoreError {
    /// Names the step and the path of an I/O error.
    pub(crate) fn io(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.into();
        move |source| StoreError::Io { step, path, source }
    }

    /// Names the step of a Delta error.
    pub(crate) fn table(step: &'static str) -> impl FnOnce(deltalake_core::DeltaTableError) -> StoreError {
        move |source| StoreError::Table { step, source: Box::new(source) }
    }

    /// Names the step and the file of a Parquet error.
    pub(crate) fn parquet(
        step: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(parquet::errors::ParquetError) -> StoreError {
        let path = path.into();
        move |source| match is_block_damage(&source) {
            true => StoreError::Damaged { path, what: "its bytes fail their checksum" },
            false => StoreError::Parquet { step, path, source },
        }
    }

    /// Names the step and the directory of a tantivy error.
    pub(crate) fn text(
        step: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(tantivy::TantivyError) -> StoreError {
        let path = path.into();
        move |source| StoreError::Text { step, path, source: Box::new(source) }
    }
}

/// Whether the cause of a Parquet error is a checksum.
fn is_block_damage(error: &parquet::errors::ParquetError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<BlockDamage>() {
            return true;
        }
        // An I/O error hands its inner error out only so.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = inner.map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| error.source());
    }
    false
}

/// Why records were not acknowledged. A caller may send the same records again after any of these: what is stored
/// already counts as duplicate.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The disk is full. Nothing of this call is acknowledged; works again by itself once there is space.
    #[error(
        "no space left on the disk for what is recorded: nothing of this is acknowledged; free some and send it again"
    )]
    NoSpace,
    /// Sealing does not keep up and the tail is full; retry later.
    #[error("overloaded: too much is acknowledged and not sealed yet")]
    Overloaded,
    /// One record does not fit.
    #[error("a record of {bytes} bytes is above the limit of {max}")]
    TooLarge {
        /// Encoded size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// Whether the records are stored is not known.
    #[error("the append failed, its outcome is unknown")]
    Unknown(#[source] Box<StoreError>),
}

impl From<LogError> for AppendError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::NoSpace { .. } => AppendError::NoSpace,
            LogError::Closed => AppendError::Closed,
            LogError::FrameTooLarge { bytes, bytes_max } => AppendError::TooLarge { bytes, max: bytes_max },
            LogError::BatchTooLarge { bytes, bytes_max } => AppendError::TooLarge { bytes, max: bytes_max },
            other => AppendError::Unknown(Box::new(other.into())),
        }
    }
}

impl From<StoreError> for AppendError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Log(error) => error.into(),
            StoreError::Closed => AppendError::Closed,
            other => AppendError::Unknown(Box::new(other)),
        }
    }
}
