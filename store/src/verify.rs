//! Compares a data directory with the digests that its table has of it, and names what is damaged and what to do.
//!
//! Changes nothing and takes no lock; beside a running store, what is sealed meanwhile is not looked at. Reads every sealed
//! byte once. Not here: the log, which has checksums of its own and is verified whenever it is opened.

use std::path::{Path, PathBuf};

use crate::{
    StoreError,
    blocks::Blocks,
    files::SealedFile,
    layout::{self, Layout},
    store::blocking,
    table::RecordsTable,
    text::TextIndex,
};

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// What is damaged.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
    /// What the operator does now.
    pub next_step: &'static str,
}

/// What was looked at, and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verification {
    /// Files that are as they were written.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Sealed files of format 1, of which the table has no digest.
    pub without_digest: u64,
    /// What is not as it was written.
    pub damages: Vec<Damage>,
}

const RESTORE_ROWS: &str =
    "restore it from a backup; until then its rows are answered with an error that names it, all others as ever";
const RESTORE_BODIES: &str =
    "restore it from a backup; payloads over 64 KiB of its rows are gone otherwise, everything else stays readable";
const BUILT_AGAIN: &str = "nothing: it is built again from its Parquet file when the store is used next";
const INDEXED_AGAIN: &str =
    "remove this directory and start `threadline serve`: it is built again; until then searches scan";
const RESTORE_TABLE: &str = "restore it from a backup: it says which files hold the records; nothing was changed";
const RESTORE_KEY: &str = "restore it from a backup; without it nothing new is recorded here, because its digests would not meet those stored";

/// Verifies a data directory. `progress` hears of each file before it is read: its place, the number of files, its path.
pub async fn verify(
    dir: &Path,
    mut progress: impl FnMut(usize, usize, &Path) + Send + 'static,
) -> Result<Verification, StoreError> {
    let layout = Layout::open(dir)?;
    let mut found = Verification::default();
    if let Err(StoreError::MatchKeyGone { path } | StoreError::Damaged { path, .. }) = layout::read_match_key(&layout) {
        let what = "the key of match digests is gone or damaged".into();
        found.damages.push(Damage { path, what, next_step: RESTORE_KEY });
    }
    let table = match RecordsTable::open(&layout).await {
        Ok(Some(table)) => table,
        Ok(None) => return Ok(found),
        Err(error) => {
            let path = match &error {
                StoreError::Damaged { path, .. } => path.clone(),
                _ => layout.delta_log(),
            };
            found.damages.push(Damage { path, what: error.to_string(), next_step: RESTORE_TABLE });
            return Ok(found);
        }
    };
    blocking(move || {
        let files = table.files();
        for (n, file) in files.iter().enumerate() {
            progress(n, files.len(), &file.path);
            found.file(&layout, file);
        }
        Ok(found)
    })
    .await
}

impl Verification {
    fn file(&mut self, layout: &Layout, file: &SealedFile) {
        let (ids, bodies, text) = (layout.ids(file.id), layout.bodies(file.id), layout.text(file.id));
        match &file.digests {
            Some(digests) => {
                self.digest(&file.path, &digests.rows, RESTORE_ROWS);
                self.digest(&ids, &digests.ids, BUILT_AGAIN);
                if let Some(digest) = &digests.bodies {
                    self.digest(&bodies, digest, RESTORE_BODIES);
                }
            }
            None => {
                self.without_digest += 1;
                for (path, next_step) in [(&file.path, RESTORE_ROWS), (&bodies, RESTORE_BODIES)] {
                    if (path != &bodies || file.has_bodies) && !path.is_file() {
                        self.damaged(path, "it is gone", next_step);
                    }
                }
            }
        }
        // One that is not there yet is being built.
        if TextIndex::is_there(&text, file.rows)
            && let Err(error) = TextIndex::open(&text, file.rows).and_then(|index| index.compare())
        {
            self.damaged(&text, error.to_string(), INDEXED_AGAIN);
        }
    }

    fn digest(&mut self, path: &Path, expected: &[u8; 32], next_step: &'static str) {
        match Blocks::of_file(path) {
            Ok((blocks, digest)) if digest == *expected => {
                self.files += 1;
                self.bytes += blocks.file_bytes();
            }
            Ok(_) => self.damaged(path, "its SHA-256 is not the one in the table", next_step),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                self.damaged(path, format!("{error}{cause}"), next_step);
            }
        }
    }

    fn damaged(&mut self, path: &Path, what: impl Into<String>, next_step: &'static str) {
        self.damages.push(Damage { path: path.to_path_buf(), what: what.into(), next_step });
    }
}
