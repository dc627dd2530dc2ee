//! The durable, ordered input: a write-ahead log in preallocated segments with group commit.
//!
//! Invariants
//! - an append resolves only after `fdatasync` returned for its bytes, in a file and a directory that were synced
//! - a batch is all or nothing, also after a crash: readers see a batch with its last frame or not at all
//! - offsets count frames from 0 and are never used twice. They are dense, except that an append whose write or sync
//!   failed burns its offsets; the next segment declares that gap in its header
//! - a segment never exceeds `segment_bytes_max`; a batch never spans segments
//! - after a failed write or sync nothing is written to that file again: the log goes on in a new segment whose header
//!   says where the old one ends, which makes what the failed batch may have left there void
//! - one writer per directory (`flock` on `owner.lock`); readers need no lock, in this process or another
//!
//! Torn or corrupt. Each frame says up to which offset the log was durable when the frame was written. A place without
//! a whole batch is **corrupt** when that was durable once: a later frame says so, or a later segment begins behind it,
//! or a valid frame stands there with the wrong offset. Then opening fails and names segment, offset and byte. Else it
//! is a **torn tail**: only unacknowledged bytes can look like this, so they are cut off, counted and reported. One case
//! cannot be told apart: rot in the very last group, with nothing written after it. So what is cut off is kept beside the
//! segments, as `<offset, 20 digits>.torn`.
//!
//! A failed append. `LogError::NoSpace`, `Write` and `Sync` mean: not acknowledged. The batch is not visible in this
//! process, and void for everybody once a later append succeeded. When the process ends before that, the next opening
//! finds it whole (and keeps it, as a batch whose outcome was unknown) or not at all, never half.
//!
//! Not here: what a payload means, deduplication, when to trim (the sealer decides), ordering across partitions.
//!
//! On disk: `<first offset, 20 digits>.log`, see `log::segment` and `log::frame`. A directory holds one partition.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use threadline_store::log::{Log, LogConfig, LogReader};
//! let dir = tempfile::tempdir().unwrap();
//! let (log, recovery) = Log::open(dir.path(), LogConfig::default()).unwrap();
//! assert!(recovery.created);
//! let range = log.append(vec!["first".into(), "second".into()]).await.unwrap();
//! assert_eq!(range, 0..2);
//! let read = LogReader::open(dir.path()).unwrap().frames(1).next().unwrap().unwrap();
//! assert_eq!(read, (1, "second".into()));
//! log.close().await.unwrap();
//! # });
//! ```

mod config;
mod disk;
mod error;
mod frame;
#[cfg(test)]
mod model_tests;
mod queue;
mod reader;
mod recover;
mod scan;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fmt,
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use tokio::sync::oneshot;

pub use self::{
    config::{Durability, LogConfig, SEGMENT_BYTES_LIMIT},
    error::{Corruption, LogError},
    reader::{Frames, LogReader},
    recover::{Recovery, TornTail},
};
use self::{
    disk::Disk,
    frame::FRAME_HEADER_BYTES,
    queue::{Append, Request, Shared},
    segment::SEGMENT_HEADER_BYTES,
    writer::Writer,
};
use crate::{durable, lock::try_lock, stages::Stages};

/// File whose lock says that a directory has a writer.
pub const OWNER_LOCK: &str = "owner.lock";

/// A place in the log. Orders by partition, then offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The log partition: one directory of segments, or one partition of a Kafka topic.
    pub partition: u32,
    /// Sequence number of the frame within the partition, from 0.
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

/// The writing end of one log directory. Share it behind an `Arc`; dropping it lets queued appends finish.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    config: LogConfig,
    shared: Arc<Shared>,
}

impl Log {
    /// Opens or creates the log in `dir`, recovers it, and starts its writer thread. Blocks while it verifies.
    ///
    /// # Errors
    /// [`LogError::Locked`] when another process writes here, [`LogError::Corrupt`] when a durable frame is damaged,
    /// [`LogError::Behind`] when the log ends below `config.sealed_below`.
    pub fn open(dir: &Path, config: LogConfig) -> Result<(Log, Recovery), LogError> {
        durable::create_dirs(dir)?;
        let lock = lock_owner(dir)?;
        Log::open_locked(dir, config, lock, Disk::default())
    }

    /// Opens the log of a directory whose lock is held already.
    pub(crate) fn open_owned(dir: &Path, config: LogConfig, lock: File) -> Result<(Log, Recovery), LogError> {
        Log::open_locked(dir, config, lock, Disk::default())
    }

    fn open_locked(dir: &Path, config: LogConfig, lock: File, disk: Disk) -> Result<(Log, Recovery), LogError> {
        config.check()?;
        config.warn_of_control();
        let (state, recovery) = recover::recover(dir, &config)?;
        let shared = Arc::new(Shared::new(&config, state.end));
        Writer::start(dir, &config, disk, state, lock, Arc::clone(&shared))?;
        let log = Log { dir: dir.to_path_buf(), config, shared };
        Ok((log, recovery))
    }

    /// Appends a batch, all or nothing; resolves to its offsets once it is durable.
    ///
    /// Waits while more than `queue_bytes_max` are on their way. When the future is dropped after it was first polled,
    /// the batch may be written all the same.
    ///
    /// # Errors
    /// [`LogError::NoSpace`] when the disk is full: nothing was acknowledged, and a later append succeeds by itself
    /// once there is space. Other errors: see the head of this file.
    pub async fn append(&self, frames: Vec<Bytes>) -> Result<Range<u64>, LogError> {
        let bytes = self.check_batch(&frames)?;
        if frames.is_empty() {
            let next = self.next_offset();
            return Ok(next..next);
        }
        let room = self.shared.reserve(bytes).await?;
        let (reply, answer) = oneshot::channel();
        self.shared.push(Request::Append(Append { frames, bytes, reply: Some(reply), _room: room }))?;
        answer.await.map_err(|_| LogError::Closed)?
    }

    /// Every offset below this one is durable (or was burned by a failed append).
    pub fn next_offset(&self) -> u64 {
        self.shared.acknowledged()
    }

    /// The acknowledged frames from `from` on, as of now. Ending early is an error here, not the end of the data.
    pub fn frames(&self, from: u64) -> Frames {
        Frames::new(self.dir.clone(), from, Some(self.next_offset()))
    }

    /// Deletes whole segments that hold only offsets below `below`; returns how many. The last segment always stays,
    /// because it carries the next offset.
    pub async fn trim(&self, below: u64) -> Result<usize, LogError> {
        let (reply, answer) = oneshot::channel();
        self.shared.push(Request::Trim { below, reply })?;
        answer.await.map_err(|_| LogError::Closed)?
    }

    /// Whether appends are taken.
    pub fn is_open(&self) -> bool {
        !self.shared.is_closed()
    }

    /// Bytes of all segments, with what is preallocated.
    pub fn disk_bytes(&self) -> u64 {
        self.shared.disk_bytes()
    }

    /// Where the time goes, of the log and of whoever stores through it.
    pub(crate) fn stages(&self) -> &Arc<Stages> {
        &self.shared.stages
    }

    /// The log's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Finishes what is queued, gives preallocated space back, and releases the directory. Later appends fail with
    /// [`LogError::Closed`].
    pub async fn close(&self) -> Result<(), LogError> {
        let (reply, answer) = oneshot::channel();
        self.shared.push(Request::Close { reply })?;
        answer.await.map_err(|_| LogError::Closed)?
    }

    /// Ends of the log in `dir` that were cut off and are kept, oldest first.
    pub fn torn_ends(dir: &Path) -> Result<Vec<PathBuf>, LogError> {
        segment::list_torn(dir)
    }

    /// Bytes the batch takes in a segment, or why it never fits.
    fn check_batch(&self, frames: &[Bytes]) -> Result<u64, LogError> {
        let mut bytes = 0;
        for frame in frames {
            if frame.is_empty() {
                return Err(LogError::FrameEmpty);
            }
            if frame.len() as u64 > self.config.frame_bytes_max {
                return Err(LogError::FrameTooLarge {
                    bytes: frame.len() as u64,
                    bytes_max: self.config.frame_bytes_max,
                });
            }
            bytes += (FRAME_HEADER_BYTES + frame.len()) as u64;
        }
        let bytes_max = self.config.segment_bytes_max - SEGMENT_HEADER_BYTES;
        if bytes > bytes_max {
            return Err(LogError::BatchTooLarge { bytes, bytes_max });
        }
        Ok(bytes)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// Takes the lock that makes this process the writer of `dir`. The lock goes with the returned file.
pub(crate) fn lock_owner(dir: &Path) -> Result<File, LogError> {
    let path = dir.join(OWNER_LOCK);
    match try_lock(&path) {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(LogError::Locked { dir: dir.to_path_buf() }),
        Err(error) => Err(LogError::Lock { path, source: Arc::new(error.source) }),
    }
}
