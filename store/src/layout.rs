//! The data directory: where everything is, its format version, its keys, and the lock of the sealing process.
//!
//! ```text
//! format.json            on-disk format version of the whole directory
//! seal.lock              flock of the one sealing process, holds its pid
//! keys/match.key         32 random bytes for match digests and fingerprints
//! log/0/                 write-ahead log, partition 0
//! inbox/<uuid>/          spools of collector processes
//! kafka/<uuid>.json      how far partitions of Kafka topics were read
//! records/               Delta table: tenant=<t>/sealed_date=<d>/<uuid>.parquet, _delta_log/
//! sidecars/<uuid>.ids    id sidecar of a sealed file; <uuid>.bodies: its large payloads
//! text/<uuid>/           text index of a sealed file; derived, may be missing
//! ledger/                place for the tiles of the Merkle log
//! ```
//!
//! Invariants
//! - directories have mode 0700, files 0600
//! - a directory whose `format.json` says a newer version is refused, by readers too; an older one is raised to this
//!   version before anything is written
//! - `match.key` never changes once it exists; when it is gone while records are there, that is an error
//!
//! Format 2: `raw` of sealed rows refers to other columns. Files of format 1 stay as they are and stay readable.

use std::{
    fs::{self, File},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use threadline_schemas::digest::MatchKey;
use uuid::Uuid;

use crate::{StoreError, durable, inbox::Inbox, lock::try_lock, log::LogReader};

/// Version of the layout above and of every file format in it.
pub const FORMAT_VERSION: u32 = 2;

#[derive(Debug, Serialize, Deserialize)]
struct Format {
    /// Says what kind of directory this is.
    threadline: String,
    /// [`FORMAT_VERSION`] of the writer.
    format_version: u32,
    /// Distinguishes data directories; also names the transactions in the Delta log.
    store: Uuid,
}

/// An existing data directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
    /// Id of this data directory.
    pub(crate) store: Uuid,
    /// What `format.json` said when it was read.
    format_version: u32,
}

impl Layout {
    /// Opens the directory, creating it when it is missing or empty.
    pub(crate) fn create(root: &Path) -> Result<Layout, StoreError> {
        durable::create_dirs(root)?;
        let root = root.canonicalize().map_err(StoreError::io("find", root))?;
        let path = root.join("format.json");
        if !path.exists() {
            refuse_foreign(&root)?;
            let format = Format { threadline: "data".into(), format_version: FORMAT_VERSION, store: Uuid::new_v4() };
            create_once(&path, &serde_json::to_vec(&format).expect("three plain fields"))?;
        }
        let layout = Layout::open(&root)?;
        if layout.format_version < FORMAT_VERSION {
            // What is there stays readable; what is written from now on needs this version.
            let format = Format { threadline: "data".into(), format_version: FORMAT_VERSION, store: layout.store };
            durable::write_atomic(&path, &serde_json::to_vec(&format).expect("three plain fields"))?;
        }
        for dir in ["keys", "log", "inbox", "records", "sidecars", "text", "ledger"] {
            durable::create_dirs(&layout.root.join(dir))?;
        }
        Ok(layout)
    }

    /// Opens a directory that exists; changes nothing.
    pub(crate) fn open(root: &Path) -> Result<Layout, StoreError> {
        let root = root.canonicalize().map_err(StoreError::io("find", root))?;
        let path = root.join("format.json");
        let bytes = fs::read(&path).map_err(StoreError::io("read", &path))?;
        let format: Format = serde_json::from_slice(&bytes)
            .map_err(|_| StoreError::Damaged { path: path.clone(), what: "it is not the JSON expected here" })?;
        if format.format_version > FORMAT_VERSION {
            return Err(StoreError::NewerFormat { path, found: format.format_version, known: FORMAT_VERSION });
        }
        Ok(Layout { root, store: format.store, format_version: format.format_version })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("log/0")
    }
    pub(crate) fn inbox(&self) -> PathBuf {
        self.root.join("inbox")
    }
    pub(crate) fn records(&self) -> PathBuf {
        self.root.join("records")
    }
    pub(crate) fn delta_log(&self) -> PathBuf {
        self.root.join("records/_delta_log")
    }
    pub(crate) fn sidecars(&self) -> PathBuf {
        self.root.join("sidecars")
    }
    pub(crate) fn ids(&self, file: Uuid) -> PathBuf {
        self.root.join(format!("sidecars/{file}.ids"))
    }
    pub(crate) fn bodies(&self, file: Uuid) -> PathBuf {
        self.root.join(format!("sidecars/{file}.bodies"))
    }
    pub(crate) fn text_indexes(&self) -> PathBuf {
        self.root.join("text")
    }
    pub(crate) fn text(&self, file: Uuid) -> PathBuf {
        self.root.join(format!("text/{file}"))
    }

    /// Takes the lock of the sealing process. It goes with the returned file.
    pub(crate) fn lock(&self) -> Result<File, StoreError> {
        let path = self.root.join("seal.lock");
        let Some(mut file) = try_lock(&path)? else {
            let mut pid = String::new();
            // The pid is a courtesy: an unreadable one is reported as 0.
            let read = File::open(&path).and_then(|file| file.take(16).read_to_string(&mut pid)).is_ok();
            return Err(StoreError::Locked { pid: pid.trim().parse().ok().filter(|_| read).unwrap_or(0) });
        };
        let write = |file: &mut File| -> std::io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(StoreError::io("write", &path))?;
        Ok(file)
    }
}

/// What a creation that was cut off, a collector that came first, or a user who set things up may have left.
const BEFORE_US: [&str; 5] = ["inbox", "keys", "lost+found", "sources", "threadline.toml"];

/// A directory without `format.json` becomes a data directory only while there is nothing in it.
fn refuse_foreign(root: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(root).map_err(StoreError::io("list", root))?;
    for entry in entries {
        let name = entry.map_err(StoreError::io("list", root))?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("format.json") && !BEFORE_US.contains(&&*name) {
            return Err(StoreError::NotADataDirectory { path: root.to_path_buf() });
        }
    }
    Ok(())
}

/// The key for match digests and credential fingerprints of a data directory; made when there is none yet.
pub fn match_key(dir: &Path) -> Result<MatchKey, StoreError> {
    let layout = Layout::create(dir)?;
    let path = layout.root.join("keys/match.key");
    if !path.exists() {
        if holds_records(&layout)? {
            return Err(StoreError::MatchKeyGone { path });
        }
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(StoreError::Random)?;
        create_once(&path, &key)?;
    }
    read_match_key(&layout)
}

/// The key, which must be there if records are.
pub(crate) fn read_match_key(layout: &Layout) -> Result<MatchKey, StoreError> {
    let path = layout.root.join("keys/match.key");
    if !path.exists() && holds_records(layout)? {
        return Err(StoreError::MatchKeyGone { path });
    }
    let bytes = fs::read(&path).map_err(StoreError::io("read", &path))?;
    let bytes: [u8; 32] =
        bytes.try_into().map_err(|_| StoreError::Damaged { path, what: "a match key has 32 bytes" })?;
    Ok(MatchKey::new(bytes))
}

/// Whether anything was recorded here, sealed or not.
fn holds_records(layout: &Layout) -> Result<bool, StoreError> {
    let first_commit = layout.delta_log().join(format!("{:020}.json", 1));
    if first_commit.exists() {
        return Ok(true);
    }
    if layout.log().is_dir() && LogReader::open(&layout.log())?.frames(0).next().is_some() {
        return Ok(true);
    }
    let spools = Inbox::open(&layout.root)?.spools()?;
    Ok(spools.iter().any(|spool| spool.frames().is_ok_and(|mut frames| frames.next().is_some())))
}

/// Creates a small file that never changes. Several processes may try at once: the first link wins, the others' files go
/// away.
fn create_once(path: &Path, contents: &[u8]) -> Result<(), StoreError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}", Uuid::new_v4()));
    let candidate = path.with_file_name(name);
    durable::write_atomic(&candidate, contents)?;
    let linked = fs::hard_link(&candidate, path);
    durable::remove_file(&candidate)?;
    match linked {
        Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(StoreError::Io { step: "create", path: path.to_path_buf(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_and_a_foreign_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        Layout::create(dir.path()).unwrap();
        let path = dir.path().join("format.json");
        let text = fs::read_to_string(&path).unwrap().replace("\"format_version\":2", "\"format_version\":3");
        fs::write(&path, text).unwrap();
        assert!(matches!(Layout::create(dir.path()), Err(StoreError::NewerFormat { found: 3, known: 2, .. })));

        let foreign = tempfile::tempdir().unwrap();
        fs::write(foreign.path().join("thesis.txt"), "x").unwrap();
        assert!(matches!(Layout::create(foreign.path()), Err(StoreError::NotADataDirectory { .. })));
    }

    #[test]
    fn profiles_may_be_there_first() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sources")).unwrap();
        fs::write(dir.path().join("sources/x.toml"), "x").unwrap();
        assert!(Layout::create(dir.path()).is_ok());
    }

    #[test]
    fn the_match_key_stays() {
        let dir = tempfile::tempdir().unwrap();
        let first = match_key(dir.path()).unwrap().digest("test", b"x");
        assert_eq!(match_key(dir.path()).unwrap().digest("test", b"x"), first);
    }

    #[test]
    fn a_second_lock_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let held = layout.lock().unwrap();
        assert!(matches!(layout.lock(), Err(StoreError::Locked { pid }) if pid == std::process::id()));
        drop(held);
        layout.lock().unwrap();
    }
}
