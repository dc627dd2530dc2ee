//! Sealed files and what is read of them: rows, ids, bodies.
//!
//! Invariants
//! - a sealed file never changes, so everything cached here is keyed by its id and never stale
//! - reading is blocking; callers on an async task go through `spawn_blocking`

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use arrow::array::RecordBatch;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use threadline_schemas::{Record, columns::from_batch, residue};
use uuid::Uuid;

use crate::{
    StoreError,
    bodies::BodyDirectory,
    cache::Cache,
    columnar,
    layout::Layout,
    sidecar::{self, IdFilter, IdTable, Probe},
    text::TextIndex,
};

/// One Parquet file of the table, with what its Add action says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedFile {
    /// Names the file and everything that belongs to it; caches may use it as a key.
    pub id: Uuid,
    /// Where it is.
    pub path: PathBuf,
    /// The tenant of all its rows.
    pub tenant: String,
    /// Rows.
    pub rows: u32,
    /// Size of the Parquet file.
    pub bytes: u64,
    /// Smallest `time_unix_nano`.
    pub min_time_unix_nano: i64,
    /// Largest `time_unix_nano`.
    pub max_time_unix_nano: i64,
    /// Log offsets that its rows came from; other files may hold rows from in between.
    pub offsets: Range<u64>,
    /// Whether some payloads are in a bodies file.
    pub has_bodies: bool,
    /// Whether `raw` is stored without what other columns hold; files of format 1 have it whole.
    pub raw_is_reduced: bool,
}

/// Access to the sealed files of one data directory, with bounded caches.
#[derive(Debug)]
pub(crate) struct Files {
    layout: Layout,
    footers: Cache<ArrowReaderMetadata>,
    filters: Cache<IdFilter>,
    tables: Cache<IdTable>,
    bodies: Cache<BodyDirectory>,
    texts: Cache<TextIndex>,
    /// Files that were seen with a text index, which stays.
    indexed: Mutex<HashSet<Uuid>>,
}

/// Open text indexes, whose memory maps cost address space and descriptors more than memory.
const TEXT_INDEXES_MAX: u64 = 256;

impl Files {
    pub(crate) fn new(layout: Layout, cache_bytes_max: u64) -> Files {
        Files {
            layout,
            footers: Cache::new(cache_bytes_max / 4),
            filters: Cache::new(cache_bytes_max / 4),
            tables: Cache::new(cache_bytes_max * 7 / 16),
            bodies: Cache::new(cache_bytes_max / 16),
            texts: Cache::new(TEXT_INDEXES_MAX),
            indexed: Mutex::default(),
        }
    }

    /// Whether the filter lets any of `probes` through; false means that the file holds none of them.
    pub(crate) fn may_contain(&self, file: &SealedFile, probes: &[Probe]) -> Result<bool, StoreError> {
        let filter = self.filter(file)?;
        Ok(probes.iter().any(|probe| filter.may_contain(*probe)))
    }

    fn filter(&self, file: &SealedFile) -> Result<Arc<IdFilter>, StoreError> {
        self.filters.get(file.id, || {
            let filter = sidecar::read_filter(&self.layout.ids(file.id))?;
            let weight = filter.weight();
            Ok((filter, weight))
        })
    }

    fn table(&self, file: &SealedFile) -> Result<Arc<IdTable>, StoreError> {
        self.tables.get(file.id, || {
            let table = IdTable::read(&self.layout.ids(file.id))?;
            let weight = table.weight();
            Ok((table, weight))
        })
    }

    /// Candidate rows for any of `probes`, ascending and distinct.
    pub(crate) fn candidates(&self, file: &SealedFile, probes: &[Probe]) -> Result<Vec<u32>, StoreError> {
        if !self.may_contain(file, probes)? {
            return Ok(Vec::new());
        }
        let (filter, table) = (self.filter(file)?, self.table(file)?);
        let mut rows = Vec::new();
        for probe in probes.iter().filter(|probe| filter.may_contain(**probe)) {
            let found = table.rows(*probe);
            rows.extend(found.ok_or_else(|| self.damaged_ids(file, "a posting list is malformed"))?);
        }
        rows.sort_unstable();
        rows.dedup();
        match rows.last() {
            Some(row) if *row >= file.rows => Err(self.damaged_ids(file, "it names rows that the file does not have")),
            _ => Ok(rows),
        }
    }

    /// Which of `ids` the file holds.
    pub(crate) fn events_in(&self, file: &SealedFile, ids: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
        let filter = self.filter(file)?;
        let mut found = Vec::new();
        for id in ids.iter().filter(|id| filter.may_contain(Probe::Event(**id))) {
            // An answer about an event is exact, see the sidecar.
            let rows = self.table(file)?.rows(Probe::Event(*id));
            if !rows.ok_or_else(|| self.damaged_ids(file, "its events are malformed"))?.is_empty() {
                found.push(*id);
            }
        }
        Ok(found)
    }

    fn damaged_ids(&self, file: &SealedFile, what: &'static str) -> StoreError {
        StoreError::Damaged { path: self.layout.ids(file.id), what }
    }

    fn footer(&self, file: &SealedFile) -> Result<Arc<ArrowReaderMetadata>, StoreError> {
        self.footers.get(file.id, || {
            let footer = columnar::open(&file.path)?;
            let weight = footer.metadata().memory_size() as u64;
            Ok((footer, weight))
        })
    }

    /// Columns of rows in file order, as they are stored; all rows without `rows` (ascending, distinct).
    fn stored_columns(
        &self,
        file: &SealedFile,
        rows: Option<&[u32]>,
        columns: Option<&[&str]>,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        let footer = self.footer(file)?;
        columnar::read(&file.path, &footer, rows, columns)
    }

    /// Columns of rows in file order, `raw` as it was received; others may come with them.
    pub(crate) fn columns(
        &self,
        file: &SealedFile,
        rows: Option<&[u32]>,
        columns: Option<&[&str]>,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        let batches = self.stored_columns(file, rows, with_sources(file, columns).as_deref())?;
        if !wants_raw(file, columns) {
            return Ok(batches);
        }
        let restored = batches.iter().map(columnar::with_raw_restored).collect::<Result<_, _>>();
        restored.map_err(|source| StoreError::Arrow { file: file.id, source })
    }

    /// Records of rows (ascending, distinct), payloads put back and `raw` as it was received; with `columns`, what is not
    /// needed for them has its absent value.
    pub(crate) fn records(
        &self,
        file: &SealedFile,
        rows: Option<&[u32]>,
        columns: Option<&[&str]>,
    ) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        for batch in self.stored_columns(file, rows, with_sources(file, columns).as_deref())? {
            records.extend(from_batch(&batch).map_err(|source| StoreError::Arrow { file: file.id, source })?);
        }
        if file.has_bodies && records.iter().any(|r| r.bodies.is_some()) {
            let bodies = self.bodies.get(file.id, || {
                let directory = BodyDirectory::open(&self.layout.bodies(file.id))?;
                let weight = directory.weight();
                Ok::<_, StoreError>((directory, weight))
            })?;
            records.iter_mut().try_for_each(|record| bodies.put_back(record))?;
        }
        if wants_raw(file, columns) {
            for record in &mut records {
                if let Some(stored) = record.raw.take() {
                    let raw = residue::restore(&stored, record);
                    let malformed = |_| StoreError::Damaged { path: file.path.clone(), what: RAW_MALFORMED };
                    record.raw = Some(raw.map_err(malformed)?);
                }
            }
        }
        Ok(records)
    }

    /// The text index of a file, if it has one.
    pub(crate) fn text(&self, file: &SealedFile) -> Result<Option<Arc<TextIndex>>, StoreError> {
        if !self.has_text(file) {
            return Ok(None);
        }
        let path = self.layout.text(file.id);
        self.texts.get(file.id, || TextIndex::open(&path, file.rows).map(|index| (index, 1))).map(Some)
    }

    pub(crate) fn has_text(&self, file: &SealedFile) -> bool {
        let mut indexed = self.indexed.lock().unwrap_or_else(PoisonError::into_inner);
        indexed.contains(&file.id) || (self.layout.text(file.id).is_dir() && indexed.insert(file.id))
    }
}

const RAW_MALFORMED: &str = "the raw bytes of a row refer to what is not there";

/// Whether reading these columns takes restoring `raw`.
fn wants_raw(file: &SealedFile, columns: Option<&[&str]>) -> bool {
    file.raw_is_reduced && columns.is_none_or(|columns| columns.contains(&"raw"))
}

/// The columns, with those that `raw` refers to where it is among them.
fn with_sources<'a>(file: &SealedFile, columns: Option<&[&'a str]>) -> Option<Vec<&'a str>> {
    let mut names = columns?.to_vec();
    if wants_raw(file, columns) {
        columnar::raw_columns().chain(["bodies"]).for_each(|name| names.push(name));
    }
    Some(names)
}

/// Which of `ids` are sealed in `files`.
pub(crate) fn sealed_among(access: &Files, files: &[Arc<SealedFile>], ids: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
    let mut found = Vec::new();
    // The newest files first: a delivery is most often repeated soon.
    for file in files.iter().rev() {
        found.extend(access.events_in(file, ids)?);
    }
    Ok(found)
}

/// Groups `(file, row)` pairs by file, rows ascending and distinct.
pub(crate) fn by_file(rows: impl IntoIterator<Item = (u32, u32)>) -> BTreeMap<u32, Vec<u32>> {
    let mut grouped: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (file, row) in rows {
        grouped.entry(file).or_default().push(row);
    }
    for rows in grouped.values_mut() {
        rows.sort_unstable();
        rows.dedup();
    }
    grouped
}

/// Where each wanted row stands among rows that were read in ascending order.
pub(crate) fn places(rows: &[u32]) -> HashMap<u32, usize> {
    rows.iter().enumerate().map(|(place, row)| (*row, place)).collect()
}
