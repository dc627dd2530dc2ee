//! The inbox: spools that collectors write beside whoever holds the seal lock, and that the holder drains.
//!
//! Invariants
//! - what a spool has acknowledged is removed only after it was drained: nothing is lost, duplicates are possible (a crash
//!   between the append to the main log and the mark repeats what lies between; readers drop them by event id)
//! - a spool is written by the process that created it and by no other, never again after that one is gone
//! - a spool appears in the inbox whole, with its lock held, and disappears whole: both by rename
//! - directories have mode 0700, files 0600
//!
//! Not here: moving frames into the main log (the drainer does), what a frame means.
//!
//! On disk, below `<data dir>/inbox/<uuid>/`: the segments of a log (`crate::log`), `owner.lock`, `spool.json`
//! (`{"version":1,"source_name":…,"pid":…,"started_us":…,"closes":true}`), `drained` (`{"version":1,"drained":…}`, every
//! offset below is in the main log) and, once its owner ended in order, `closed` (`{"version":1}`). Names that start with a dot are spools in the making or on their way out; names that end
//! in `.corrupt` were set aside.

mod drain;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    ops::Range,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::drain::{End, Removal, SpoolDrain};
use crate::{
    durable::{self, DurableError},
    log::{Log, LogConfig, LogError, lock_owner},
};

const SPOOL_VERSION: u32 = 1;
const SPOOL_FILE: &str = "spool.json";
const DRAINED_FILE: &str = "drained";
const CLOSED_FILE: &str = "closed";
/// Held while a spool is made, so that the sweeper leaves it alone.
const CREATE_LOCK: &str = "create.lock";
const CORRUPT_SUFFIX: &str = ".corrupt";
/// Source names come from outside.
const SOURCE_NAME_BYTES_MAX: usize = 1024;
/// The files beside the segments are tiny; whatever is larger is not ours.
const SMALL_FILE_BYTES_MAX: u64 = 16 << 10;

/// Something about a spool failed.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// A file or directory could not be made durable.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// The spool's log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A file or directory of the inbox could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A lock file could not be used.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A small file is not what this program writes.
    #[error("{} is damaged or of another version", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The name of the source is too long.
    #[error("a source name of {bytes} bytes is above the limit of {SOURCE_NAME_BYTES_MAX}")]
    SourceName {
        /// Its length.
        bytes: usize,
    },
}

/// What a spool says about its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolInfo {
    /// The source whose records are in it. Comes from outside: escape it before showing it.
    pub source_name: String,
    /// Process id of the owner.
    pub pid: u32,
    /// When it was created, microseconds since 1970.
    pub started_us: u64,
}

/// `spool.json` as it stands on disk.
#[derive(Serialize, Deserialize)]
struct SpoolFile {
    version: u32,
    source_name: String,
    pid: u32,
    started_us: u64,
    /// Whether the owner marks its end; those of older programs did not.
    #[serde(default)]
    closes: bool,
}

/// `closed` as it stands on disk.
#[derive(Serialize, Deserialize)]
struct ClosedFile {
    version: u32,
}

/// `drained` as it stands on disk.
#[derive(Serialize, Deserialize)]
struct DrainedFile {
    version: u32,
    drained: u64,
}

/// The inbox of a data directory, as its drainer sees it.
#[derive(Debug, Clone)]
pub struct Inbox {
    dir: PathBuf,
}

impl Inbox {
    /// Opens or creates the inbox below `data_dir`.
    pub fn open(data_dir: &Path) -> Result<Inbox, InboxError> {
        Inbox::at(&data_dir.join("inbox"))
    }

    /// Opens or creates an inbox at a place of its own: what a collector keeps for a server elsewhere.
    pub fn at(dir: &Path) -> Result<Inbox, InboxError> {
        durable::create_dirs(dir)?;
        Ok(Inbox { dir: dir.to_path_buf() })
    }

    /// The spool of this name, whether or not it is there.
    pub fn spool(&self, id: Uuid) -> SpoolDrain {
        SpoolDrain::new(&self.dir, id)
    }

    /// The spools that are there, in the order of their names, which is the order of their creation.
    pub fn spools(&self) -> Result<Vec<SpoolDrain>, InboxError> {
        let ids = self.names()?.into_iter().filter_map(|name| Uuid::parse_str(&name).ok());
        Ok(ids.map(|id| self.spool(id)).collect())
    }

    /// How many spools were set aside because they are corrupt.
    pub fn set_aside(&self) -> Result<usize, InboxError> {
        Ok(self.names()?.iter().filter(|name| name.ends_with(CORRUPT_SUFFIX)).count())
    }

    /// Removes what interrupted creations and removals left behind; returns how many. Does nothing while a spool is
    /// being created.
    pub fn sweep(&self) -> Result<usize, InboxError> {
        let (lock, path) = create_lock(&self.dir)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(0),
            Err(TryLockError::Error(source)) => return Err(InboxError::Lock { path, source }),
        }
        let left = self.names()?.into_iter().filter(|name| name.starts_with('.'));
        let mut removed = 0;
        for name in left {
            remove_dir(&self.dir.join(name))?;
            removed += 1;
        }
        Ok(removed)
    }

    fn names(&self) -> Result<Vec<String>, InboxError> {
        let mut names = fs::read_dir(&self.dir)
            .and_then(|entries| {
                entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect::<io::Result<Vec<_>>>()
            })
            .map_err(|source| InboxError::Read { path: self.dir.clone(), source })?;
        names.sort_unstable();
        Ok(names)
    }
}

/// The writing end: one collector's own durable log, which somebody else drains.
#[derive(Debug)]
pub struct Spool {
    id: Uuid,
    log: Log,
    /// Disk use above which the owner looks for drained segments to delete.
    trim_above: AtomicU64,
    segment_bytes_max: u64,
}

impl Spool {
    /// Creates a spool in the inbox of `data_dir`. Blocks for a few syncs.
    pub fn create(data_dir: &Path, source_name: &str, config: LogConfig) -> Result<Spool, InboxError> {
        Spool::create_in(&Inbox::open(data_dir)?, Uuid::now_v7(), source_name, config)
    }

    /// The same in an inbox, under a name that nothing else has.
    pub fn create_in(inbox: &Inbox, id: Uuid, source_name: &str, config: LogConfig) -> Result<Spool, InboxError> {
        if source_name.len() > SOURCE_NAME_BYTES_MAX {
            return Err(InboxError::SourceName { bytes: source_name.len() });
        }
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let file = SpoolFile {
            version: SPOOL_VERSION,
            source_name: source_name.to_owned(),
            pid: std::process::id(),
            started_us: started.map_or(0, |d| d.as_micros() as u64),
            closes: true,
        };
        let (create, path) = create_lock(&inbox.dir)?;
        create.lock().map_err(|source| InboxError::Lock { path, source })?;
        let making = inbox.dir.join(format!(".{id}.new"));
        durable::create_dirs(&making)?;
        // Locked before it can be seen, so that no drainer ever takes it for an orphan.
        let owner = lock_owner(&making)?;
        write_json(&making.join(SPOOL_FILE), &file)?;
        // A crash here leaves a dot name, which the next sweep removes.
        let dir = inbox.dir.join(id.to_string());
        durable::rename(&making, &dir)?;
        drop(create);
        let segment_bytes_max = config.segment_bytes_max;
        let (log, _) = Log::open_owned(&dir, config, owner)?;
        Ok(Spool { id, log, trim_above: AtomicU64::new(segment_bytes_max), segment_bytes_max })
    }

    /// The spool's name in the inbox.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Appends a batch; durable when this returns.
    pub async fn append(&self, frames: Vec<Bytes>) -> Result<Range<u64>, LogError> {
        let range = self.log.append(frames).await?;
        let bytes = self.log.disk_bytes();
        if bytes > self.trim_above.load(Ordering::Relaxed) {
            // Only the owner deletes segments of a live spool; look again after another segment's worth.
            self.trim_above.store(bytes + self.segment_bytes_max, Ordering::Relaxed);
            if let Err(error) = self.trim_drained().await {
                tracing::warn!(spool = %self.id, error = &error as &dyn std::error::Error, "drained segments stay");
            }
        }
        Ok(range)
    }

    /// Deletes segments that were drained; happens by itself as the spool grows.
    pub async fn trim_drained(&self) -> Result<usize, InboxError> {
        let drained = read_drained(self.log.dir())?;
        let trimmed = self.log.trim(drained).await?;
        let bytes = self.log.disk_bytes();
        self.trim_above.store(bytes + self.segment_bytes_max, Ordering::Relaxed);
        Ok(trimmed)
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.log.disk_bytes()
    }

    /// Marks that its owner ends in order, whatever happens from here on.
    pub async fn mark_end(&self) -> Result<(), InboxError> {
        let path = self.log.dir().join(CLOSED_FILE);
        let marked = tokio::task::spawn_blocking(move || write_json(&path, &ClosedFile { version: SPOOL_VERSION }));
        // It can only fail to join when the runtime is shutting down: then the end is not marked.
        Ok(marked.await.unwrap_or(Ok(()))?)
    }

    /// Marks the end, finishes what is queued and lets go of the spool; the drainer removes it when it is drained.
    pub async fn close(&self) -> Result<(), InboxError> {
        // Before the lock goes, or the drainer could take this for the end of a killed process.
        let marked = self.mark_end().await;
        self.log.close().await?;
        marked
    }
}

fn create_lock(inbox: &Path) -> Result<(File, PathBuf), InboxError> {
    let path = inbox.join(CREATE_LOCK);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    match file {
        Ok(file) => Ok((file, path)),
        Err(source) => Err(InboxError::Lock { path, source }),
    }
}

/// Offset below which everything is drained; 0 when there is no mark yet.
fn read_drained(dir: &Path) -> Result<u64, InboxError> {
    let path = dir.join(DRAINED_FILE);
    match read_json::<DrainedFile>(&path)? {
        None => Ok(0),
        Some(file) if file.version == SPOOL_VERSION => Ok(file.drained),
        Some(_) => Err(InboxError::Damaged { path }),
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), DurableError> {
    let text = serde_json::to_vec(value).map_err(|e| DurableError {
        step: "encode",
        path: path.to_path_buf(),
        source: e.into(),
    })?;
    durable::write_atomic(path, &text)
}

/// A small JSON file; `None` when there is none.
fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, InboxError> {
    let failed = |source| InboxError::Read { path: path.to_path_buf(), source };
    let bytes = match fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
        Ok(m) if m.len() > SMALL_FILE_BYTES_MAX => Vec::new(),
        Ok(_) => fs::read(path).map_err(failed)?,
    };
    let value = serde_json::from_slice(&bytes).map_err(|_| InboxError::Damaged { path: path.to_path_buf() })?;
    Ok(Some(value))
}

fn remove_dir(path: &Path) -> Result<(), DurableError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(DurableError { step: "remove", path: path.to_path_buf(), source })
        }
        _ => durable::sync_dir(path.parent().unwrap_or(path)),
    }
}
