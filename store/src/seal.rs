//! The seal: turns acknowledged records into Parquet files and one commit of the table. This file holds the commit order.
//!
//! ```text
//! take rows of the tail below offset N          memory only
//!  1 large payloads        sidecars/<uuid>.bodies        what other columns hold is taken out of `raw` first
//!  2 rows                  records/…/<uuid>.parquet     sorted by session, time
//!  3 ids                   sidecars/<uuid>.ids           with the checksums of the rows' file
//!    (ledger tiles         ledger/…                     their place: the commit makes them true together with the rows)
//!  4 sync                  all of the above and every directory above them
//!  5 commit                ONE Delta commit: Adds, and position N      <- the records are sealed
//!  6 sync                  the commit and its directories              <- the log is not needed any more
//!  7 checkpoint            now and then
//!  8 publish               files in, rows out of the tail, in one step
//!  9 trim                  log segments below N
//! then, behind the commit: text index per file
//! ```
//!
//! Invariants
//! - until step 6 is done, the log still has every frame at or above the position of the last synced commit
//! - a file holds one tenant and at most `seal_rows_max` rows and about `seal_bytes_max` bytes
//! - readers take a record from the tail or from a file, never from both: publishing is one step under the lock, and a
//!   reader in another process drops from the log what the table's position covers
//!
//! Not here: when to seal (`sealer`), what a crash left behind (`recovery`).

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    path::PathBuf,
    sync::Arc,
};

use chrono::{NaiveDate, Utc};
use threadline_schemas::{Record, residue};
use uuid::Uuid;

use crate::{
    StoreError,
    blocks::Blocks,
    bodies::Bodies,
    columnar, durable,
    faults::Step,
    files::{Digests, SealedFile},
    sidecar,
    stages::Stage,
    state::cost,
    store::Core,
    table::{RecordsTable, new_file_path},
    tail::TailRow,
};

/// Encoded bytes of rows that are made into columns at once.
const PART_BYTES_MAX: usize = 4 << 20;

/// Rows of a file in file order.
pub(crate) type Rows = Arc<Vec<Arc<Record>>>;

/// A file that was just written.
#[derive(Debug)]
struct Sealed {
    file: Arc<SealedFile>,
    held: HeldRows,
}

/// Rows in memory.
#[derive(Debug)]
pub(crate) struct HeldRows {
    pub(crate) rows: Rows,
    /// What they take, as the tail counts it.
    pub(crate) bytes: usize,
}

/// Holds the one committing handle of the table.
#[derive(Debug)]
pub(crate) struct Seal {
    core: Arc<Core>,
    table: RecordsTable,
    /// Files whose rows are at hand.
    fresh: Vec<Sealed>,
    /// Files that the indexer knows of.
    handed_over: HashSet<Uuid>,
}

impl Seal {
    pub(crate) fn new(core: Arc<Core>, table: RecordsTable) -> Seal {
        Seal { core, table, fresh: Vec::new(), handed_over: HashSet::new() }
    }

    /// The live files that were not returned by this before, with their rows where they are at hand. What a failed attempt
    /// committed after all is among them, and files whose index turned out to be damaged.
    pub(crate) fn unindexed(&mut self) -> Vec<(Arc<SealedFile>, Option<HeldRows>)> {
        let mut fresh: HashMap<Uuid, HeldRows> =
            self.fresh.drain(..).map(|sealed| (sealed.file.id, sealed.held)).collect();
        let files = Arc::clone(&self.core.shared.lock().files);
        for broken in self.core.files.broken_texts() {
            self.handed_over.remove(&broken);
        }
        let new = files.iter().filter(|file| self.handed_over.insert(file.id));
        new.map(|file| (Arc::clone(file), fresh.remove(&file.id))).collect()
    }

    /// Seals everything that is acknowledged now. After an error the records are still in the log and in the tail, and
    /// the next call tries again.
    pub(crate) async fn seal(&mut self) -> Result<(), StoreError> {
        let core = Arc::clone(&self.core);
        let (below, rows) = {
            let state = core.shared.lock();
            let below = state.sealable_below(core.log.next_offset());
            (below, state.tail.below(below))
        };
        if rows.is_empty() {
            return Ok(());
        }

        // A crash anywhere up to the commit leaves files that no Add names. Opening the store removes them, and the rows
        // come from the log again.
        let writing = Arc::clone(&core);
        let written = tokio::task::spawn_blocking(move || write_files(&writing, rows)).await;
        let sealed = written.map_err(|_| StoreError::Closed)??;

        let committing = core.log.stages().at_work(Stage::Commit);
        let added: Vec<SealedFile> = sealed.iter().map(|sealed| (*sealed.file).clone()).collect();
        let committed = match self.commit(&added, below).await {
            Ok(committed) => committed,
            Err(error) => {
                // Nobody knows whether the commit is there. The next attempt reads the table again and sees.
                self.remove_uncommitted(&added).await;
                return Err(error);
            }
        };
        if !committed {
            // An earlier attempt had gone through although it came back as an error: its files are the true ones.
            self.remove_uncommitted(&added).await;
        }
        self.fresh = if committed { sealed } else { Vec::new() };
        // A crash here, before the sync, may leave the commit, a torn commit or none. The log still has the frames:
        // opening the store removes a torn entry and seals them again, or finds the position and skips them.
        core.faults.before(Step::SyncCommit)?;
        self.table.sync_entry()?;
        core.faults.after(Step::SyncCommit)?;

        // A crash here leaves frames in the log that are sealed: the position in the table says so, replay skips them.
        if self.table.wants_checkpoint(core.config.checkpoint_interval) {
            let result = self.checkpoint().await;
            // It only saves reading. A torn one is dropped when the store is opened.
            if let Err(error) = result {
                tracing::warn!(error = &error as &dyn std::error::Error, "no checkpoint of the table");
            }
        }

        core.faults.before(Step::Publish)?;
        let freed = core.shared.lock().publish(self.table.files(), self.table.version(), self.table.sealed_below());
        core.shared.release(freed);
        core.faults.after(Step::Publish)?;

        // A crash here leaves log segments that hold sealed frames only; the next trim takes them.
        core.faults.before(Step::Trim)?;
        core.log.trim(self.table.sealed_below()).await?;
        drop(committing);
        core.faults.after(Step::Trim)?;
        Ok(())
    }

    async fn commit(&mut self, added: &[SealedFile], below: u64) -> Result<bool, StoreError> {
        self.core.faults.before(Step::Commit)?;
        let committed = self.table.commit(added, below).await?;
        self.core.faults.after(Step::Commit)?;
        Ok(committed)
    }

    async fn checkpoint(&self) -> Result<(), StoreError> {
        self.core.faults.before(Step::Checkpoint)?;
        self.table.checkpoint().await?;
        self.core.faults.after(Step::Checkpoint)
    }

    /// Removes files of a failed attempt, unless the table turns out to have them. Leaving them does no harm.
    async fn remove_uncommitted(&mut self, added: &[SealedFile]) {
        if self.table.refresh().await.is_err() {
            return;
        }
        let live: Vec<Uuid> = self.table.files().iter().map(|file| file.id).collect();
        for file in added.iter().filter(|file| !live.contains(&file.id)) {
            remove_files(&self.core, file);
        }
    }
}

/// Removes a file that is not in the table, and what belongs to it.
fn remove_files(core: &Core, file: &SealedFile) {
    for path in [file.path.clone(), core.layout.ids(file.id), core.layout.bodies(file.id)] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a file of a failed seal stays");
            }
            _ => {}
        }
    }
}

/// Steps 1 to 4 for all files of a seal.
fn write_files(core: &Core, rows: Vec<TailRow>) -> Result<Vec<Sealed>, StoreError> {
    let _held = core.hold();
    let date = Utc::now().date_naive();
    let mut paths = Vec::new();
    let mut sealed = Vec::new();
    let written: Result<(), StoreError> =
        file_rows(rows, core.config.seal_rows_max, core.config.seal_bytes_max).into_iter().try_for_each(|rows| {
            sealed.push(write_file(core, date, rows, &mut paths)?);
            Ok(())
        });
    let synced = written.and_then(|()| {
        core.faults.before(Step::SyncFiles)?;
        let _syncing = core.log.stages().at_work(Stage::FileSync);
        durable::sync_files_below(core.layout.root(), paths.iter().map(PathBuf::as_path))?;
        core.faults.after(Step::SyncFiles)
    });
    match synced {
        Ok(()) => Ok(sealed),
        Err(error) => {
            // Space may be what is missing.
            for path in &paths {
                if let Err(error) = fs::remove_file(path)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::warn!(path = %path.display(), %error, "a file of a failed seal stays");
                }
            }
            Err(error)
        }
    }
}

/// Rows per file: one tenant, at most so many rows and about so many bytes.
fn file_rows(rows: Vec<TailRow>, rows_max: usize, bytes_max: u64) -> Vec<Vec<TailRow>> {
    let mut by_tenant: BTreeMap<String, Vec<TailRow>> = BTreeMap::new();
    for row in rows {
        match by_tenant.get_mut(&row.record.tenant) {
            Some(rows) => rows.push(row),
            None => {
                by_tenant.insert(row.record.tenant.clone(), vec![row]);
            }
        }
    }
    let mut files = Vec::new();
    for rows in by_tenant.into_values() {
        let (mut file, mut bytes) = (Vec::new(), 0);
        for row in rows {
            let size = u64::from(row.bytes);
            if !file.is_empty() && (file.len() >= rows_max || bytes + size > bytes_max) {
                files.push(std::mem::take(&mut file));
                bytes = 0;
            }
            bytes += size;
            file.push(row);
        }
        files.push(file);
    }
    files
}

/// Steps 1 to 3 for one file. `paths` gets every file that may exist afterwards, also when this fails.
fn write_file(
    core: &Core,
    date: NaiveDate,
    mut rows: Vec<TailRow>,
    paths: &mut Vec<PathBuf>,
) -> Result<Sealed, StoreError> {
    let layout = &core.layout;
    let stages = core.log.stages();
    let at_work = stages.at_work(Stage::Arrange);
    let id = Uuid::now_v7();
    let offsets = rows.iter().filter_map(|row| row.offset);
    let offsets = offsets.clone().min().unwrap_or(0)..offsets.max().map_or(0, |last| last + 1);
    rows.sort_by(|a, b| columnar::order(&a.record, &b.record));
    let tenant = rows[0].record.tenant.clone();
    let path = new_file_path(layout, &tenant, date, id);

    core.faults.before(Step::Bodies)?;
    let mut bodies = Bodies::new(layout.bodies(id));
    paths.push(layout.bodies(id));
    // What is left of the rows that gave something to the bodies file.
    let mut lightened: HashMap<usize, Record> = HashMap::new();
    for (place, row) in rows.iter().enumerate().filter(|(_, row)| Bodies::wants(&row.record)) {
        let mut record = Record::clone(&row.record);
        record.raw = residue::reduce(&record);
        bodies.take_from(&mut record)?;
        lightened.insert(place, record);
    }
    bodies.finish()?;
    if bodies.is_empty() {
        paths.pop();
    }
    core.faults.after(Step::Bodies)?;
    drop(at_work);

    let at_work = stages.at_work(Stage::Rows);
    core.faults.before(Step::Rows)?;
    durable::create_dirs(path.parent().unwrap_or(layout.root()))?;
    paths.push(path.clone());
    let mut file = columnar::Writer::create(&path)?;
    let (mut part, mut raws) = (Vec::new(), Vec::new());
    let mut part_bytes = 0;
    for (place, row) in rows.iter().enumerate() {
        let (record, bytes) = match lightened.remove(&place) {
            // Little is left of it.
            Some(record) => (Cow::Owned(record), 0),
            None => (Cow::Borrowed(&*row.record), row.bytes as usize),
        };
        part_bytes += bytes;
        raws.push(match &record {
            Cow::Owned(reduced) => reduced.raw.clone(),
            Cow::Borrowed(record) => residue::reduce(record),
        });
        part.push(record);
        if part.len() == columnar::PART_ROWS_MAX || part_bytes >= PART_BYTES_MAX {
            file.write(&part, &raws)?;
            part.clear();
            raws.clear();
            part_bytes = 0;
        }
    }
    if !part.is_empty() {
        file.write(&part, &raws)?;
    }
    let bytes = file.finish()?;
    core.faults.after(Step::Rows)?;
    drop(at_work);

    let at_work = stages.at_work(Stage::Ids);
    core.faults.before(Step::Ids)?;
    let (blocks, rows_digest) = Blocks::of_file(&path)?;
    let mut ids = sidecar::Builder::new(id);
    rows.iter().for_each(|row| ids.add(&row.record, Some(&row.content)));
    paths.push(layout.ids(id));
    let ids_digest = sidecar::write(&layout.ids(id), &ids.finish(&blocks))?;
    let digests = Digests {
        rows: rows_digest,
        ids: ids_digest,
        bodies: match bodies.is_empty() {
            true => None,
            false => Some(Blocks::of_file(&layout.bodies(id))?.1),
        },
    };
    core.faults.after(Step::Ids)?;
    drop(at_work);

    // Ledger tiles go here: leaves are `threadline_schemas::leaf::hash` of `rows`, in log order per tenant; tile files
    // are written before the sync below, and the tree size goes into the Add's tags, so that the commit covers both.

    let times = rows.iter().map(|row| row.record.time_unix_nano);
    let file = SealedFile {
        id,
        path,
        tenant,
        rows: rows.len() as u32,
        bytes,
        min_time_unix_nano: times.clone().min().unwrap_or(0),
        max_time_unix_nano: times.max().unwrap_or(0),
        offsets,
        has_bodies: !bodies.is_empty(),
        raw_is_reduced: true,
        digests: Some(digests),
    };
    let bytes = rows.iter().map(|row| cost(row.bytes as usize) as usize).sum();
    let rows = Arc::new(rows.into_iter().map(|row| row.record).collect());
    Ok(Sealed { file: Arc::new(file), held: HeldRows { rows, bytes } })
}
