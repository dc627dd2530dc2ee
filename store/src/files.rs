//! Sealed files and what is read of them: rows, ids, bodies.
//!
//! Invariants
//! - a sealed file never changes, so everything cached here is keyed by its id and never stale
//! - reading is blocking; callers on an async task go through `spawn_blocking`
//! - every byte of a sealed file is compared with its checksum before it is decoded (`blocks`)
//! - what can be made from the rows again (ids, text) is, when it is damaged; rows and bodies are not guessed

use std::{
    collections::{BTreeMap, HashSet},
    ops::{ControlFlow, Range},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arrow::array::RecordBatch;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use threadline_schemas::{
    Record,
    columns::{self, from_batch},
    residue,
};
use uuid::Uuid;

use crate::{
    StoreError,
    blocks::{Blocks, CheckedFile},
    bodies::BodyDirectory,
    cache::Cache,
    columnar, durable,
    layout::Layout,
    sidecar::{self, Content, IdFilter, IdTable, Probe},
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
    /// What the table says its bytes are; nothing of a file of format 1.
    pub digests: Option<Digests>,
}

/// SHA-256 of a sealed file and of what is beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digests {
    /// The Parquet file.
    pub rows: [u8; 32],
    /// Its id sidecar.
    pub ids: [u8; 32],
    /// Its bodies file, where it has one.
    pub bodies: Option<[u8; 32]>,
}

/// Rows that are read at once to build a sidecar again, or to compare repeated events with.
const REBUILD_ROWS: usize = 4096;
const COMPARED_ROWS: usize = 1024;

/// Access to the sealed files of one data directory, with bounded caches.
#[derive(Debug)]
pub(crate) struct Files {
    layout: Layout,
    footers: Cache<ArrowReaderMetadata>,
    filters: Cache<IdFilter>,
    tables: Cache<IdTable>,
    bodies: Cache<BodyDirectory>,
    texts: Cache<TextIndex>,
    blocks: Cache<Blocks>,
    /// Sidecars that were built again.
    rebuilt: Cache<Vec<u8>>,
    /// Whether what is built again is written, too: only the sealing process changes anything.
    repairs: bool,
    rebuilding: Mutex<()>,
    /// Files that were seen with a text index.
    indexed: Mutex<HashSet<Uuid>>,
    /// Files whose text index was compared with its checksums.
    compared: Mutex<HashSet<Uuid>>,
    /// Files whose text index cannot be used.
    broken: Mutex<HashSet<Uuid>>,
}

/// Open text indexes, whose memory maps cost address space and descriptors more than memory.
const TEXT_INDEXES_MAX: u64 = 256;

impl Files {
    pub(crate) fn data_dir(&self) -> &std::path::Path {
        self.layout.root()
    }

    pub(crate) fn new(layout: Layout, cache_bytes_max: u64, repairs: bool) -> Files {
        Files {
            layout,
            footers: Cache::new(cache_bytes_max / 4),
            filters: Cache::new(cache_bytes_max / 4),
            tables: Cache::new(cache_bytes_max * 5 / 16),
            bodies: Cache::new(cache_bytes_max / 16),
            texts: Cache::new(TEXT_INDEXES_MAX),
            blocks: Cache::new(cache_bytes_max / 16),
            rebuilt: Cache::new(cache_bytes_max / 16),
            repairs,
            rebuilding: Mutex::default(),
            indexed: Mutex::default(),
            compared: Mutex::default(),
            broken: Mutex::default(),
        }
    }

    /// Whether the filter lets any of `probes` through; false means that the file holds none of them.
    pub(crate) fn may_contain(&self, file: &SealedFile, probes: &[Probe]) -> Result<bool, StoreError> {
        let filter = self.filter(file)?;
        Ok(probes.iter().any(|probe| filter.may_contain(*probe)))
    }

    fn filter(&self, file: &SealedFile) -> Result<Arc<IdFilter>, StoreError> {
        self.filters.get(file.id, || {
            let filter = self.sidecar(file, sidecar::read_filter)?;
            let weight = filter.weight();
            Ok((filter, weight))
        })
    }

    fn table(&self, file: &SealedFile) -> Result<Arc<IdTable>, StoreError> {
        self.tables.get(file.id, || {
            let table = self.sidecar(file, IdTable::read)?;
            let weight = table.weight();
            Ok((table, weight))
        })
    }

    /// The checksums of a file; none of a file of format 1.
    pub(crate) fn blocks(&self, file: &SealedFile) -> Result<Option<Arc<Blocks>>, StoreError> {
        if file.digests.is_none() {
            return Ok(None);
        }
        let blocks = self.blocks.get(file.id, || {
            let blocks = self.sidecar(file, sidecar::read_blocks)?;
            let weight = blocks.weight();
            Ok::<_, StoreError>((blocks, weight))
        });
        blocks.map(Some)
    }

    /// Reads a part of a sidecar; one that is damaged, missing or of an older format is built again from its file.
    fn sidecar<T>(
        &self,
        file: &SealedFile,
        read: impl Fn(&sidecar::Source) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let path = self.layout.ids(file.id);
        match read(&sidecar::Source::File(path.clone())) {
            Err(error @ (StoreError::Damaged { .. } | StoreError::Io { .. })) => {
                let _alone = lock(&self.rebuilding);
                let bytes = self.rebuilt.get(file.id, || {
                    tracing::warn!(
                        path = %path.display(),
                        error = &error as &dyn std::error::Error,
                        "an id sidecar is unusable, it is built again from its file"
                    );
                    let bytes = self.rebuild_sidecar(file)?;
                    if self.repairs
                        && let Err(error) = durable::write_atomic(&path, &bytes)
                    {
                        tracing::warn!(error = &error as &dyn std::error::Error, "it is kept in memory only");
                    }
                    let weight = bytes.len() as u64;
                    Ok::<_, StoreError>((bytes, weight))
                })?;
                read(&sidecar::Source::Memory(path, bytes))
            }
            other => other,
        }
    }

    /// The bytes of a sidecar, made from the Parquet file after that was compared with its digest.
    fn rebuild_sidecar(&self, file: &SealedFile) -> Result<Vec<u8>, StoreError> {
        let (blocks, digest) = Blocks::of_file(&file.path)?;
        if file.digests.as_ref().is_some_and(|digests| digests.rows != digest) {
            let what = "its digest is not the one in the table";
            return Err(StoreError::Damaged { path: file.path.clone(), what });
        }
        let footer = columnar::open(&CheckedFile::open(&file.path, None)?, &file.path)?;
        let mut builder = sidecar::Builder::new(file.id);
        let all: Vec<u32> = (0..file.rows).collect();
        for rows in all.chunks(REBUILD_ROWS) {
            let reader = CheckedFile::open(&file.path, None)?;
            for batch in columnar::read(reader, &file.path, &footer, Some(rows), None)? {
                let records = from_batch(&batch).map_err(|source| StoreError::Arrow { file: file.id, source })?;
                for mut record in records {
                    let content = self.complete(file, &mut record, true).map(|()| record.content_digest());
                    // A body that is gone takes the content tag with it, and nothing else.
                    builder.add(&record, content.as_ref().ok());
                }
            }
        }
        Ok(builder.finish(&blocks))
    }

    /// Candidate rows for any of `probes`, ascending and distinct.
    pub(crate) fn candidates(&self, file: &SealedFile, probes: &[Probe]) -> Result<Vec<u32>, StoreError> {
        if !self.may_contain(file, probes)? {
            return Ok(Vec::new());
        }
        let (filter, table) = (self.filter(file)?, self.table(file)?);
        let passed = probes.iter().filter(|probe| filter.may_contain(**probe));
        let mut rows: Vec<u32> = passed.flat_map(|probe| table.rows(*probe)).collect();
        rows.sort_unstable();
        rows.dedup();
        Ok(rows)
    }

    /// Which of the deliveries the file holds. Rows are read only where the content tag does not agree.
    pub(crate) fn events_in(&self, file: &SealedFile, wanted: &[Delivery]) -> Result<Vec<Known>, StoreError> {
        let filter = self.filter(file)?;
        let mut known = Vec::new();
        let mut unclear: Vec<(u32, &Delivery)> = Vec::new();
        for delivery in wanted.iter().filter(|wanted| filter.may_contain(Probe::Event(wanted.event))) {
            let table = self.table(file)?;
            let entries = table.events(delivery.event);
            if entries.is_empty() {
                continue;
            }
            let tag = sidecar::content_tag(file.id, &delivery.content);
            match entries.iter().any(|entry| entry.tag == tag) {
                true => known.push(delivery.known(true)),
                false => unclear.extend(entries.iter().map(|entry| (entry.row, delivery))),
            }
        }
        unclear.sort_unstable_by_key(|(row, _)| *row);
        for part in unclear.chunks(COMPARED_ROWS) {
            known.extend(self.compare(file, part)?);
        }
        Ok(known)
    }

    /// Compares deliveries with the rows that may hold them.
    fn compare(&self, file: &SealedFile, pairs: &[(u32, &Delivery)]) -> Result<Vec<Known>, StoreError> {
        let mut rows: Vec<u32> = pairs.iter().map(|(row, _)| *row).collect();
        rows.dedup();
        let mut records = Vec::with_capacity(rows.len());
        for batch in self.stored_columns(file, Some(&rows), None)? {
            records.extend(from_batch(&batch).map_err(|source| StoreError::Arrow { file: file.id, source })?);
        }
        let mut known = Vec::new();
        for (row, mut record) in rows.iter().zip(records) {
            let same_event = |pair: &&(u32, &Delivery)| pair.0 == *row && pair.1.event == record.event_id;
            let deliveries: Vec<&Delivery> = pairs.iter().filter(same_event).map(|(_, delivery)| *delivery).collect();
            if deliveries.is_empty() {
                continue;
            }
            let content = self.complete(file, &mut record, true).map(|()| record.content_digest());
            if let Err(error) = &content {
                // What cannot be read is not said to differ.
                tracing::warn!(error = error as &dyn std::error::Error, "a repeated event cannot be compared");
            }
            known.extend(
                deliveries.into_iter().map(|delivery| {
                    delivery.known(content.as_ref().map_or(true, |content| *content == delivery.content))
                }),
            );
        }
        Ok(known)
    }

    /// The sealed file, open, and compared with its checksums as it is read.
    pub(crate) fn checked(&self, file: &SealedFile) -> Result<CheckedFile, StoreError> {
        CheckedFile::open(&file.path, self.blocks(file)?)
    }

    /// Footer and page index.
    pub(crate) fn footer(&self, file: &SealedFile) -> Result<Arc<ArrowReaderMetadata>, StoreError> {
        self.footers.get(file.id, || {
            let footer = columnar::open(&self.checked(file)?, &file.path)?;
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
        columnar::read(self.checked(file)?, &file.path, &footer, rows, columns)
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
        self.each_record(file, rows, columns, |record| {
            records.push(record);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(records)
    }

    /// The same, one after another, until `take` breaks: the large payloads of one record are in memory at a time.
    pub(crate) fn each_record(
        &self,
        file: &SealedFile,
        rows: Option<&[u32]>,
        columns: Option<&[&str]>,
        mut take: impl FnMut(Record) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        let names = with_sources(file, columns);
        let restore = wants_raw(file, columns);
        let footer = self.footer(file)?;
        for batch in columnar::read_parts(self.checked(file)?, &file.path, &footer, rows, names.as_deref())? {
            let batch = batch?;
            for record in columns::records(&batch) {
                let mut record = record.map_err(|source| StoreError::Arrow { file: file.id, source })?;
                self.complete(file, &mut record, restore)?;
                if take(record)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Puts the payloads beside the row back, and with `restore` what was taken out of `raw`.
    fn complete(&self, file: &SealedFile, record: &mut Record, restore: bool) -> Result<(), StoreError> {
        if record.bodies.is_some() {
            let bodies = self.bodies.get(file.id, || {
                let directory = BodyDirectory::open(&self.layout.bodies(file.id))?;
                let weight = directory.weight();
                Ok::<_, StoreError>((directory, weight))
            })?;
            bodies.put_back(record)?;
        }
        if let Some(stored) = record.raw.take_if(|_| restore && file.raw_is_reduced) {
            let raw = residue::restore(&stored, record);
            let malformed = |_| StoreError::Damaged { path: file.path.clone(), what: RAW_MALFORMED };
            record.raw = Some(raw.map_err(malformed)?);
        }
        Ok(())
    }

    /// The text index of a file, if it has one that can be used. Its files are compared with their checksums the first
    /// time. An unusable one is left to the indexer and, until then, the file is scanned.
    pub(crate) fn text(&self, file: &SealedFile) -> Option<Arc<TextIndex>> {
        if !self.has_text(file) {
            return None;
        }
        let path = self.layout.text(file.id);
        let opened = self.texts.get(file.id, || {
            let index = TextIndex::open(&path, file.rows)?;
            if !lock(&self.compared).contains(&file.id) {
                index.compare()?;
                lock(&self.compared).insert(file.id);
            }
            Ok::<_, StoreError>((index, 1))
        });
        match opened {
            Ok(index) => Some(index),
            Err(error) => {
                tracing::warn!(
                    path = %path.display(),
                    error = &error as &dyn std::error::Error,
                    "a text index is unusable: its file is scanned, and indexed again after the next seal or start"
                );
                lock(&self.broken).insert(file.id);
                None
            }
        }
    }

    /// Whether there is an index, as far as is known without reading it.
    pub(crate) fn has_text(&self, file: &SealedFile) -> bool {
        if lock(&self.broken).contains(&file.id) {
            return false;
        }
        let path = self.layout.text(file.id);
        let mut indexed = lock(&self.indexed);
        indexed.contains(&file.id) || (TextIndex::is_there(&path, file.rows) && indexed.insert(file.id))
    }

    /// Files whose index was found unusable and not built again yet.
    pub(crate) fn broken_texts(&self) -> Vec<Uuid> {
        lock(&self.broken).iter().copied().collect()
    }

    /// The index of a file was built anew.
    pub(crate) fn text_built(&self, file: Uuid) {
        lock(&self.broken).remove(&file);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Sets of ids are consistent whenever the lock is free.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

/// An event that somebody delivers, and the digest of what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) event: Uuid,
    pub(crate) content: Content,
}

impl Delivery {
    pub(crate) fn of(record: &Record) -> Delivery {
        Delivery { event: record.event_id, content: record.content_digest() }
    }

    fn known(&self, same: bool) -> Known {
        Known { event: self.event, content: self.content, same }
    }
}

/// A delivery whose event is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) event: Uuid,
    /// What the delivery says.
    pub(crate) content: Content,
    /// Whether what is stored says the same.
    pub(crate) same: bool,
}

/// Which of the deliveries are sealed in `files`.
pub(crate) fn sealed_among(
    access: &Files,
    files: &[Arc<SealedFile>],
    wanted: &[Delivery],
) -> Result<Vec<Known>, StoreError> {
    let mut known = Vec::new();
    // The newest files first: a delivery is most often repeated soon.
    for file in files.iter().rev() {
        known.extend(access.events_in(file, wanted)?);
    }
    Ok(known)
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
