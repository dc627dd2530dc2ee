//! How far streams that are kept elsewhere (partitions of a Kafka topic) were read: a small file per reading process.
//!
//! Invariants
//! - a position is written only after the records before it are durable; [`Positions::save`] returns after its own sync
//! - it may be behind what is stored (a crash), never ahead: who starts from it reads some records again, whose ids are known
//! - one process writes a file, and holds its lock; a file whose process is gone is taken over by the next one that starts
//! - of several positions of one partition the one written last counts; counts of all files add up
//!
//! Not here: what the positions of the broker's own consumer group say (`ingest::kafka`).
//!
//! On disk: `kafka/<uuid>.json`, a list of [`StreamPosition`], beside `kafka/<uuid>.lock`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{StoreError, durable, layout::Layout, lock::try_lock};

/// Folder of the data directory.
const FOLDER: &str = "kafka";

/// Names one partition as one consumer group reads it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamName {
    /// Id of the cluster.
    pub cluster: String,
    /// Consumer group.
    pub group: String,
    /// Topic.
    pub topic: String,
    /// Partition of the topic.
    pub partition: i32,
}

/// How far a partition was read, and what was met on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamPosition {
    /// Which partition.
    #[serde(flatten)]
    pub stream: StreamName,
    /// Offset of the message to be read next: all before it are durable here.
    pub next: i64,
    /// End of the partition as the broker told it last, if it did.
    pub end: Option<i64>,
    /// Messages read.
    pub messages: u64,
    /// Of them, ones that could not be understood.
    pub rejected: u64,
    /// Of them, ones that were written to the dead-letter topic.
    pub dead_lettered: u64,
    /// When this was written, microseconds since the Unix epoch.
    pub updated_unix_us: i64,
}

impl StreamPosition {
    /// The beginning of `stream`.
    pub fn new(stream: StreamName) -> StreamPosition {
        StreamPosition { stream, next: 0, end: None, messages: 0, rejected: 0, dead_lettered: 0, updated_unix_us: 0 }
    }

    /// Messages that are in the topic and were not read yet, as far as the broker told.
    pub fn behind(&self) -> Option<u64> {
        self.end.map(|end| u64::try_from(end.saturating_sub(self.next)).unwrap_or(0))
    }

    /// Adds what another process wrote of the same partition.
    fn add(&mut self, other: &StreamPosition) {
        self.messages = self.messages.saturating_add(other.messages);
        self.rejected = self.rejected.saturating_add(other.rejected);
        self.dead_lettered = self.dead_lettered.saturating_add(other.dead_lettered);
        if other.updated_unix_us > self.updated_unix_us {
            (self.next, self.end, self.updated_unix_us) = (other.next, other.end, other.updated_unix_us);
        }
    }
}

/// The positions that this process writes.
#[derive(Debug)]
pub struct Positions {
    folder: PathBuf,
    path: PathBuf,
    own: BTreeMap<StreamName, StreamPosition>,
    /// Held as long as this lives.
    _lock: File,
}

impl Positions {
    /// A file of this process in the data directory `dir`, which takes over those whose processes are gone.
    ///
    /// # Errors
    /// When the files cannot be read, locked or written.
    pub fn create(dir: &Path) -> Result<Positions, StoreError> {
        let folder = Layout::create(dir)?.root().join(FOLDER);
        durable::create_dirs(&folder)?;
        let name = Uuid::new_v4().to_string();
        let path = folder.join(format!("{name}.json"));
        let lock = lock(&lock_of(&path))?.ok_or(StoreError::Moving)?;
        let mut own = BTreeMap::new();
        let mut left = Vec::new();
        for other in files(&folder)? {
            // Held by nobody any more.
            if let Some(lock) = lock_existing(&lock_of(&other))? {
                merge(&mut own, read(&other)?);
                left.push((other, lock));
            }
        }
        let positions = Positions { folder, path, own, _lock: lock };
        positions.write()?;
        // A crash here leaves them in two files: the next start counts them twice, and the positions stay right.
        for (other, _lock) in &left {
            durable::remove_file(other)?;
            durable::remove_file(&lock_of(other))?;
        }
        Ok(positions)
    }

    /// Where `stream` is to be read on, by what any process of this data directory wrote last.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn next(&self, stream: &StreamName) -> Result<Option<i64>, StoreError> {
        Ok(all_in(&self.folder)?.into_iter().find(|position| position.stream == *stream).map(|position| position.next))
    }

    /// What this process wrote of `stream`.
    pub fn own(&self, stream: &StreamName) -> Option<&StreamPosition> {
        self.own.get(stream)
    }

    /// Writes positions, whose records are durable; returns when the file is.
    ///
    /// # Errors
    /// When it could not be written: the old positions stay.
    pub fn save(&mut self, changed: Vec<StreamPosition>) -> Result<(), StoreError> {
        if changed.is_empty() {
            return Ok(());
        }
        self.own.extend(changed.into_iter().map(|position| (position.stream.clone(), position)));
        self.write()
    }

    fn write(&self) -> Result<(), StoreError> {
        let list: Vec<&StreamPosition> = self.own.values().collect();
        let bytes = serde_json::to_vec(&list).expect("plain fields");
        Ok(durable::write_atomic(&self.path, &bytes)?)
    }
}

/// Every partition that was read into the data directory `dir`, by name.
///
/// # Errors
/// When the files cannot be read.
pub fn positions(dir: &Path) -> Result<Vec<StreamPosition>, StoreError> {
    all_in(&dir.join(FOLDER))
}

fn all_in(folder: &Path) -> Result<Vec<StreamPosition>, StoreError> {
    let mut all = BTreeMap::new();
    for path in files(folder)? {
        match read(&path) {
            Ok(list) => merge(&mut all, list),
            // Taken over while we looked: it is in the other file.
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all.into_values().collect())
}

fn merge(all: &mut BTreeMap<StreamName, StreamPosition>, list: Vec<StreamPosition>) {
    for position in list {
        match all.get_mut(&position.stream) {
            Some(known) => known.add(&position),
            None => drop(all.insert(position.stream.clone(), position)),
        }
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(StoreError::io("list", folder))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(StoreError::io("list", folder))?.path();
        paths.extend(path.extension().is_some_and(|extension| extension == "json").then_some(path));
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<Vec<StreamPosition>, StoreError> {
    let bytes = fs::read(path).map_err(StoreError::io("read", path))?;
    let what = "it is not the JSON expected here; without it the positions of the consumer group count";
    serde_json::from_slice(&bytes).map_err(|_| StoreError::Damaged { path: path.into(), what })
}

fn lock_of(path: &Path) -> PathBuf {
    path.with_extension("lock")
}

/// `None` while another process holds it.
fn lock(path: &Path) -> Result<Option<File>, StoreError> {
    Ok(try_lock(path)?)
}

/// As [`lock`]; a lock file that is gone means that somebody else has just taken the positions over.
fn lock_existing(path: &Path) -> Result<Option<File>, StoreError> {
    if path.exists() { lock(path) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(partition: i32) -> StreamName {
        StreamName { cluster: "c".into(), group: "g".into(), topic: "t".into(), partition }
    }

    fn at(partition: i32, next: i64, updated_unix_us: i64) -> StreamPosition {
        let position = StreamPosition::new(stream(partition));
        StreamPosition { next, end: Some(100), messages: 10, rejected: 1, updated_unix_us, ..position }
    }

    fn shown(dir: &Path) -> Vec<(i32, i64, u64, Option<u64>)> {
        let all = positions(dir).unwrap();
        all.iter().map(|p| (p.stream.partition, p.next, p.messages, p.behind())).collect()
    }

    #[test]
    fn the_position_written_last_counts_and_counts_add_up() {
        let dir = tempfile::tempdir().unwrap();
        assert!(positions(dir.path()).unwrap().is_empty());
        let mut first = Positions::create(dir.path()).unwrap();
        first.save(vec![at(0, 50, 1), at(1, 7, 1)]).unwrap();
        let mut second = Positions::create(dir.path()).unwrap();
        assert_eq!(second.next(&stream(0)).unwrap(), Some(50));
        assert!(second.own(&stream(0)).is_none(), "the first one lives");
        // Lower, because the topic was made anew: written last, so it counts.
        second.save(vec![at(0, 3, 2)]).unwrap();
        assert_eq!(shown(dir.path()), [(0, 3, 20, Some(97)), (1, 7, 10, Some(93))]);
        assert_eq!(first.next(&stream(0)).unwrap(), Some(3));
        drop(first);
        drop(second);
        let third = Positions::create(dir.path()).unwrap();
        assert_eq!(third.own(&stream(0)).map(|position| position.next), Some(3));
        assert_eq!(shown(dir.path()), [(0, 3, 20, Some(97)), (1, 7, 10, Some(93))]);
        assert_eq!(files(&dir.path().join(FOLDER)).unwrap().len(), 1);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        drop(Positions::create(dir.path()).unwrap());
        let path = files(&dir.path().join(FOLDER)).unwrap().remove(0);
        fs::write(&path, b"[{\"topic\":").unwrap();
        for error in [positions(dir.path()).unwrap_err(), Positions::create(dir.path()).unwrap_err()] {
            assert!(error.to_string().contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
        }
    }
}
