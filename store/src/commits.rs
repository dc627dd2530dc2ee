//! The commits of `records`, one after the other: what a consumer that follows the table reads.
//!
//! Invariants
//! - a commit is what its entry of the table's log added as new data, in the order of the entry; files that a later commit
//!   only rewrites (`dataChange` false) are no new data and left out
//! - a commit is given only after its entry is synced, by us if nobody else did: what was given does not vanish with the
//!   power
//! - no lock is taken; versions have no holes, so a version that is not there is not committed yet
//!
//! Not here: the hot tail. What is acknowledged is committed within seconds.

use std::{fs, io, ops::Range, path::Path, sync::Arc};

use deltalake_core::kernel::Action;
use threadline_schemas::{Record, columns::COLUMNS};

use crate::{
    StoreConfig, StoreError, durable,
    files::{Files, SealedFile},
    layout::Layout,
    store::blocking,
    table::{entry_path, is_whole_entry, sealed_file},
};

/// What one commit added.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Version of the table.
    pub version: i64,
    /// When it was committed, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// The files it added, in its own order.
    pub files: Vec<Arc<SealedFile>>,
}

impl Commit {
    /// Rows of all its files.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|file| u64::from(file.rows)).sum()
    }
}

/// Reads commits of a data directory. Clones share their caches.
#[derive(Debug, Clone)]
pub struct Commits {
    layout: Layout,
    files: Arc<Files>,
}

impl Commits {
    /// Over a data directory, beside a running store or without one.
    pub fn open(dir: &Path) -> Result<Commits, StoreError> {
        let layout = Layout::open(dir)?;
        let files = Arc::new(Files::new(layout.clone(), StoreConfig::default().cache_bytes_max / 4, false));
        Ok(Commits { layout, files })
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        self.layout.root()
    }

    /// The commit of `version`; `None` while there is none.
    pub async fn read(&self, version: i64) -> Result<Option<Commit>, StoreError> {
        let layout = self.layout.clone();
        blocking(move || read(&layout, version)).await
    }

    /// Rows of a committed file in file order, without the bytes received (`raw`).
    pub async fn rows(&self, file: &Arc<SealedFile>, rows: Range<u32>) -> Result<Vec<Record>, StoreError> {
        let columns = COLUMNS.iter().map(|column| column.name).filter(|name| *name != "raw").collect();
        self.rows_of(file, rows, columns).await
    }

    /// The same with nothing but these columns.
    pub async fn rows_of(
        &self,
        file: &Arc<SealedFile>,
        rows: Range<u32>,
        columns: Vec<&'static str>,
    ) -> Result<Vec<Record>, StoreError> {
        let (access, file) = (Arc::clone(&self.files), Arc::clone(file));
        let rows: Vec<u32> = (rows.start..rows.end.min(file.rows)).collect();
        let is_empty = rows.is_empty();
        let read = move || access.records(&file, Some(&rows), Some(&columns));
        if is_empty { Ok(Vec::new()) } else { blocking(read).await }
    }
}

fn read(layout: &Layout, version: i64) -> Result<Option<Commit>, StoreError> {
    let path = entry_path(layout, version);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(StoreError::io("read", &path))?,
    };
    if !is_whole_entry(&bytes) {
        // Torn by a power cut: whoever opens the store removes it or says that it is damaged.
        return Ok(None);
    }
    // The sealer syncs it too, a moment after others can see it.
    durable::sync_files_below(layout.root(), [path.as_path()])?;
    let mut commit = Commit { version, time_ms: 0, files: Vec::new() };
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let damaged = |_| StoreError::Damaged { path: path.clone(), what: "an action of it is not understood" };
        match serde_json::from_slice::<Action>(line).map_err(damaged)? {
            Action::Add(add) if add.data_change => {
                commit.files.push(Arc::new(sealed_file(layout.records().join(&add.path), &add)?));
            }
            Action::CommitInfo(info) => commit.time_ms = info.timestamp.unwrap_or(0),
            _ => {}
        }
    }
    Ok(Some(commit))
}
