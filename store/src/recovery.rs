//! What opening a store does about a crash: decide what is true, remove the rest, replay the log.
//!
//! Invariants
//! - the table decides what is sealed; the log has everything at or above the table's position
//! - nothing is removed that cannot be made again: files without an Add come from the log, indexes from the files,
//!   checkpoints from the table's log, and a torn table entry only when the log still has all it stood for
//! - damage to what was durable is an error that names the file, and nothing is changed
//!
//! | left by a crash | told by | done |
//! | --- | --- | --- |
//! | rows, ids, bodies without an Add | not in the table | removed |
//! | torn newest entry of the table's log | not whole JSON, or without its last line | removed, if the log reaches back |
//! | torn checkpoint | no Parquet footer | removed with `_last_checkpoint` |
//! | sealed frames in the log | below the table's position | skipped |
//! | text index without a file, or unfinished | name | removed |
//! | file without a text index, or with one of an older version | name, version | built behind the start |
//! | id sidecar that is gone or damaged | name, checksums | built again from its file when it is first needed |

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use threadline_schemas::encoding;
use uuid::Uuid;

use crate::{
    StoreError,
    appender::tail_row,
    blocks::CheckedFile,
    columnar, durable,
    files::{Delivery, SealedFile, sealed_among},
    layout::Layout,
    log::{LogError, LogReader, Recovery},
    store::Core,
    table::{RecordsTable, entry_path, is_whole_entry, sealed_below_at},
};

/// Makes the table's own log readable again after a power cut, then opens or creates the table.
pub(crate) async fn open_table(layout: &Layout, checkpoint_interval: u64) -> Result<RecordsTable, StoreError> {
    if layout.delta_log().is_dir() {
        drop_torn_checkpoints(layout)?;
        drop_torn_entry(layout).await?;
    }
    match RecordsTable::open(layout).await? {
        Some(table) => Ok(table),
        None => {
            // Without a table every file below would be removed as an orphan.
            if has_parquet(layout)? && log_begin(layout)? != Some(0) {
                let path = layout.delta_log();
                return Err(StoreError::Damaged { path, what: "the table's log is gone, but its files are there" });
            }
            RecordsTable::create(layout, checkpoint_interval).await
        }
    }
}

/// Removes the newest entry of the table's log when it is torn and the write-ahead log still has what it stood for.
async fn drop_torn_entry(layout: &Layout) -> Result<(), StoreError> {
    let mut versions = Vec::new();
    for path in list(&layout.delta_log())? {
        let name = file_name(&path);
        match name.strip_suffix(".json").map(str::parse::<u64>) {
            Some(Ok(version)) => versions.push(version),
            // What the object store was writing before its rename.
            _ if name.contains(".json") || name.contains("#") => durable::remove_file(&path)?,
            _ => {}
        }
    }
    let Some(newest) = versions.into_iter().max() else { return Ok(()) };
    let path = entry_path(layout, newest as i64);
    let bytes = fs::read(&path).map_err(StoreError::io("read", &path))?;
    if is_whole_entry(&bytes) {
        return Ok(());
    }
    if layout.delta_log().join(format!("{newest:020}.checkpoint.parquet")).is_file() {
        // Written after the entry was synced, so this is damage; the checkpoint says all that the entry said.
        tracing::error!(version = newest, "an entry of the table's log is damaged; its checkpoint is read instead");
        return Ok(());
    }
    let before = match newest.checked_sub(1) {
        Some(version) => sealed_below_at(layout, version).await?,
        None => 0,
    };
    if !log_begins_at(layout, before)? {
        let log_begins = log_begin(layout)?.unwrap_or(0);
        return Err(StoreError::TableCorrupt { version: newest, log_begins, path });
    }
    tracing::warn!(
        version = newest,
        bytes = bytes.len(),
        "removed a torn entry of the table's log; its rows are sealed again"
    );
    Ok(durable::remove_file(&path)?)
}

/// A checkpoint without a footer was being written when the power went.
fn drop_torn_checkpoints(layout: &Layout) -> Result<(), StoreError> {
    let last = layout.delta_log().join("_last_checkpoint");
    let mut torn = Vec::new();
    for path in list(&layout.delta_log())? {
        let name = file_name(&path);
        if name.contains(".checkpoint") && name.ends_with(".parquet") && !has_footer(&path) {
            torn.push(path);
        }
    }
    let last_is_torn = fs::read(&last).is_ok_and(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).is_err());
    if !torn.is_empty() || last_is_torn {
        tracing::warn!(checkpoints = torn.len(), "removed torn checkpoints of the table");
        // First the pointer: a crash here leaves checkpoints that nobody is pointed at.
        durable::remove_file(&last)?;
        torn.iter().try_for_each(|path| durable::remove_file(path))?;
    }
    Ok(())
}

fn has_footer(path: &Path) -> bool {
    CheckedFile::open(path, None).is_ok_and(|file| columnar::open(&file, path).is_ok())
}

/// Whether the write-ahead log has every frame from `offset` on.
fn log_begins_at(layout: &Layout, offset: u64) -> Result<bool, StoreError> {
    Ok(log_begin(layout)?.map_or(offset == 0, |first| first <= offset))
}

/// First offset that the write-ahead log still has.
fn log_begin(layout: &Layout) -> Result<Option<u64>, StoreError> {
    if !layout.log().is_dir() {
        return Ok(None);
    }
    match LogReader::open(&layout.log())?.frames(0).next() {
        Some(Err(LogError::Trimmed { first_offset, .. })) => Ok(Some(first_offset)),
        Some(Err(error)) => Err(error.into()),
        Some(Ok(_)) => Ok(Some(0)),
        None => Ok(None),
    }
}

fn has_parquet(layout: &Layout) -> Result<bool, StoreError> {
    Ok(!data_files(layout)?.is_empty())
}

/// The Parquet files below `records`, without the checkpoints of the table's log.
fn data_files(layout: &Layout) -> Result<Vec<PathBuf>, StoreError> {
    let mut found = Vec::new();
    for path in list(&layout.records())? {
        if path != layout.delta_log() && path.is_dir() {
            walk(&path, &mut found)?;
        }
    }
    found.retain(|path| path.extension().is_some_and(|e| e == "parquet"));
    Ok(found)
}

/// Removes what no live file has. Refuses before anything is removed when a live file is gone: what looks like an orphan
/// may be what a damaged table fails to name.
pub(crate) fn remove_orphans(layout: &Layout, files: &[Arc<SealedFile>]) -> Result<(), StoreError> {
    for file in files {
        if !file.path.is_file() {
            return Err(StoreError::Damaged { path: file.path.clone(), what: "a sealed file is gone" });
        }
    }
    let bodies_gone = files.iter().filter(|file| file.has_bodies && !layout.bodies(file.id).is_file()).count();
    if bodies_gone > 0 {
        tracing::error!(files = bodies_gone, "payloads beside sealed rows are gone, nothing is cleared up");
        return Ok(());
    }
    let paths: HashSet<&Path> = files.iter().map(|file| file.path.as_path()).collect();
    let ids: HashSet<Uuid> = files.iter().map(|file| file.id).collect();
    let mut orphans = data_files(layout)?;
    orphans.retain(|path| !paths.contains(path.as_path()));
    for path in list(&layout.sidecars())? {
        let known = Uuid::parse_str(file_name(&path).split('.').next().unwrap_or_default());
        if !known.is_ok_and(|id| ids.contains(&id)) {
            orphans.push(path);
        }
    }
    for path in &orphans {
        fs::remove_file(path).map_err(StoreError::io("remove", path))?;
    }
    if !orphans.is_empty() {
        tracing::warn!(files = orphans.len(), "removed files of a seal that was not committed");
    }
    for path in list(&layout.text_indexes())? {
        if !Uuid::parse_str(&file_name(&path)).is_ok_and(|id| ids.contains(&id)) {
            fs::remove_dir_all(&path).map_err(StoreError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Puts the frames that are not sealed into the tail. Blocking.
pub(crate) fn replay(core: &Core, recovery: &Recovery) -> Result<(), StoreError> {
    let (files, sealed_below) = {
        let state = core.shared.lock();
        (Arc::clone(&state.files), state.sealed_below)
    };
    if recovery.first_offset > sealed_below {
        let dir = core.layout.log();
        return Err(LogError::Trimmed { dir, offset: sealed_below, first_offset: recovery.first_offset }.into());
    }
    let mut replayed = 0u64;
    for frame in core.log.frames(sealed_below) {
        let (offset, payload) = frame?;
        let record = encoding::decode(&payload);
        let record = record.map_err(|source| StoreError::Frame { dir: core.layout.log(), offset, source })?;
        // A batch whose outcome was unknown to its sender may be here beside its repetition.
        if !sealed_among(&core.files, &files, &[Delivery::of(&record)])?.is_empty() {
            continue;
        }
        replayed += 1;
        let content = record.content_digest();
        core.shared.restore(tail_row(offset, record, payload.len(), content));
    }
    if replayed > 0 {
        tracing::info!(records = replayed, "replayed the log");
    }
    Ok(())
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = fs::read_dir(dir).map_err(StoreError::io("list", dir))?;
    entries.map(|entry| entry.map(|e| e.path()).map_err(StoreError::io("list", dir))).collect()
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) -> Result<(), StoreError> {
    for path in list(dir)? {
        if path.is_dir() { walk(&path, found)? } else { found.push(path) }
    }
    Ok(())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
