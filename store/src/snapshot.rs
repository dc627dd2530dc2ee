//! A snapshot: one version of the table plus the hot tail, as of one moment.
//!
//! Invariants
//! - immutable; two reads of one snapshot agree
//! - an event is in it once: in a sealed file or in the tail
//! - answers about keys are compared with the rows themselves, so a collision of hashes never gets out
//!
//! Not here: how a moment is caught (`reader`), full text (`search`), SQL (`provider`).

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{Arc, OnceLock},
};

use arrow::array::RecordBatch;
use chrono::{DateTime, Utc};
use datafusion::catalog::TableProvider;
use threadline_schemas::Record;
use threadline_schemas::columns::{BODY_INLINE_BYTES_MAX, COLUMNS};

use crate::{
    StoreError, columnar,
    files::{Files, SealedFile, by_file},
    lookup::{KeyQuery, Wanted},
    provider::RecordsProvider,
    search::{TextHits, TextQuery, search},
    store::blocking,
    tail::Chunk,
};

/// Where a row is within one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    /// Index into [`Snapshot::files`]; [`RowId::TAIL`] is the tail.
    pub file: u32,
    /// Row of the file, or index into [`Snapshot::tail`].
    pub row: u32,
}

impl RowId {
    /// The `file` of rows in the tail.
    pub const TAIL: u32 = u32::MAX;
}

/// See the head of this file. Clones are the same snapshot.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(crate) inner: Arc<View>,
}

/// What a snapshot holds.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) access: Arc<Files>,
    pub(crate) files: Arc<Vec<Arc<SealedFile>>>,
    pub(crate) chunks: Vec<Arc<Chunk>>,
    table_version: i64,
    read_at: DateTime<Utc>,
    unread: u64,
    tail: OnceLock<Vec<Arc<Record>>>,
}

impl Snapshot {
    pub(crate) fn new(
        access: Arc<Files>,
        table_version: i64,
        files: Arc<Vec<Arc<SealedFile>>>,
        chunks: Vec<Arc<Chunk>>,
        read_at: DateTime<Utc>,
        unread: u64,
    ) -> Snapshot {
        let inner = View { access, files, chunks, table_version, read_at, unread, tail: OnceLock::new() };
        Snapshot { inner: Arc::new(inner) }
    }

    /// Records that wait in the inbox and are not in it: there were too many to read.
    pub fn unread_rows(&self) -> u64 {
        self.inner.unread
    }

    /// The data directory.
    pub fn data_dir(&self) -> &std::path::Path {
        self.inner.access.data_dir()
    }

    /// Version of the Delta table; -1 while there is none.
    pub fn table_version(&self) -> i64 {
        self.inner.table_version
    }

    /// The moment from which on nothing newer is guaranteed to be in it.
    pub fn read_at(&self) -> DateTime<Utc> {
        self.inner.read_at
    }

    /// Rows in sealed files.
    pub fn sealed_rows(&self) -> u64 {
        self.inner.files.iter().map(|file| u64::from(file.rows)).sum()
    }

    /// Rows that are acknowledged and not sealed.
    pub fn tail_rows(&self) -> u64 {
        self.inner.tail_rows().into()
    }

    /// Files that a text search has to scan.
    pub fn files_without_text_index(&self) -> u64 {
        self.inner.files.iter().filter(|file| !self.inner.access.has_text(file)).count() as u64
    }

    /// The sealed files, in the order of the log.
    pub fn files(&self) -> &[Arc<SealedFile>] {
        &self.inner.files
    }

    /// The tail, in the order in which appends finished.
    pub fn tail(&self) -> &[Arc<Record>] {
        self.inner.tail()
    }

    /// The rows that match any of `keys`, ascending and distinct.
    pub async fn rows_with_keys(&self, keys: &[KeyQuery]) -> Result<Vec<RowId>, StoreError> {
        let view = Arc::clone(&self.inner);
        let wanted = Wanted::new(keys);
        blocking(move || view.rows_with_keys(&wanted)).await
    }

    /// The records that match any of `keys`, whole, in the order of their rows.
    pub async fn records_with_keys(&self, keys: &[KeyQuery]) -> Result<Vec<Record>, StoreError> {
        let view = Arc::clone(&self.inner);
        let wanted = Wanted::new(keys);
        blocking(move || view.records_with_keys(&wanted)).await
    }

    /// The records of `rows`, whole, in the order of `rows`.
    pub async fn records(&self, rows: &[RowId]) -> Result<Vec<Record>, StoreError> {
        self.records_reduced(rows, |_| {}).await
    }

    /// The same, each reduced to what its reader wants before the next one is read. A record may have many megabytes.
    pub async fn records_reduced(
        &self,
        rows: &[RowId],
        reduce: impl Fn(&mut Record) + Send + 'static,
    ) -> Result<Vec<Record>, StoreError> {
        let view = Arc::clone(&self.inner);
        let rows = rows.to_vec();
        blocking(move || view.records(&rows, None, &reduce)).await
    }

    /// The records of `rows` one after another, reduced by `reduce`, until what they say they weigh is more than
    /// `weight_max`; so there may be fewer than `rows`. Fast where `rows` ascend.
    pub async fn records_within(
        &self,
        rows: &[RowId],
        weight_max: usize,
        reduce: impl Fn(&mut Record) -> usize + Send + 'static,
    ) -> Result<Vec<Record>, StoreError> {
        let view = Arc::clone(&self.inner);
        let rows = rows.to_vec();
        blocking(move || {
            let (mut records, mut weight) = (Vec::new(), 0);
            view.each_record(&rows, &mut |mut record| {
                weight += reduce(&mut record);
                records.push(record);
                if weight > weight_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            Ok(records)
        })
        .await
    }

    /// The same without the payloads that make a record large: no `raw` and `arguments`, and no text, result or attributes
    /// over 64 KiB. For questions about many records at once.
    pub async fn records_light(&self, rows: &[RowId]) -> Result<Vec<Record>, StoreError> {
        let view = Arc::clone(&self.inner);
        let rows = rows.to_vec();
        blocking(move || view.records(&rows, Some(&light_columns()), &lighten)).await
    }

    /// Columns of one sealed file in row order, in batches. A column that the file lacks is null; payloads over 64 KiB are
    /// null, and `bodies` says so.
    pub async fn file_columns(&self, file: u32, columns: &[&str]) -> Result<Vec<RecordBatch>, StoreError> {
        let view = Arc::clone(&self.inner);
        let columns: Vec<String> = columns.iter().map(|name| (*name).to_string()).collect();
        blocking(move || {
            let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
            let sealed = view.file(file)?;
            let batches = view.access.columns(sealed, None, Some(&columns))?;
            let arranged = batches.iter().map(|batch| columnar::arrange(batch, &columns));
            arranged.collect::<Result<_, _>>().map_err(|source| StoreError::Arrow { file: sealed.id, source })
        })
        .await
    }

    /// Full text search; what counts as a hit is written at [`TextQuery`]. Newest first. Files without an index and the
    /// tail are scanned, so nothing is missed.
    pub async fn search(&self, query: &TextQuery) -> Result<TextHits, StoreError> {
        let view = Arc::clone(&self.inner);
        let query = query.clone();
        blocking(move || search(&view, &query)).await
    }

    /// The table `records` for DataFusion: the sealed files and the tail of this snapshot.
    pub fn table_provider(&self) -> Result<Arc<dyn TableProvider>, StoreError> {
        Ok(Arc::new(RecordsProvider::new(Arc::clone(&self.inner))))
    }
}

impl View {
    pub(crate) fn file(&self, file: u32) -> Result<&Arc<SealedFile>, StoreError> {
        self.files.get(file as usize).ok_or(StoreError::NoSuchRow { file, row: 0 })
    }

    fn tail_rows(&self) -> u32 {
        self.chunks.iter().map(|chunk| chunk.rows.len() as u32).sum()
    }

    pub(crate) fn tail(&self) -> &[Arc<Record>] {
        self.tail.get_or_init(|| {
            self.chunks.iter().flat_map(|chunk| chunk.rows.iter().map(|row| Arc::clone(&row.record))).collect()
        })
    }

    fn rows_with_keys(&self, wanted: &Wanted) -> Result<Vec<RowId>, StoreError> {
        let mut found = Vec::new();
        for (index, file) in (0..).zip(self.files.iter()) {
            found.extend(self.rows_in_file(file, wanted)?.into_iter().map(|row| RowId { file: index, row }));
        }
        let mut first = 0;
        for chunk in &self.chunks {
            let rows = rows_in_chunk(chunk, wanted);
            found.extend(rows.into_iter().map(|row| RowId { file: RowId::TAIL, row: first + row }));
            first += chunk.rows.len() as u32;
        }
        Ok(found)
    }

    fn records_with_keys(&self, wanted: &Wanted) -> Result<Vec<Record>, StoreError> {
        let mut found = Vec::new();
        for file in self.files.iter() {
            let rows = self.access.candidates(file, wanted.probes())?;
            if rows.is_empty() {
                continue;
            }
            self.access.each_record(file, Some(&rows), None, |record| {
                found.extend(Some(record).filter(|record| wanted.matches(record)));
                Ok(ControlFlow::Continue(()))
            })?;
        }
        for chunk in &self.chunks {
            let rows = rows_in_chunk(chunk, wanted);
            found.extend(rows.into_iter().map(|row| Record::clone(&chunk.rows[row as usize].record)));
        }
        Ok(found)
    }

    /// Rows of one file that bear any of the keys.
    pub(crate) fn rows_in_file(&self, file: &SealedFile, wanted: &Wanted) -> Result<Vec<u32>, StoreError> {
        let mut rows = self.access.candidates(file, wanted.probes())?;
        if rows.is_empty() {
            return Ok(rows);
        }
        let records = self.access.records(file, Some(&rows), Some(Wanted::COLUMNS))?;
        let mut records = records.iter();
        rows.retain(|_| records.next().is_some_and(|record| wanted.matches(record)));
        Ok(rows)
    }

    fn each_record(&self, rows: &[RowId], take: &mut dyn FnMut(Record) -> ControlFlow<()>) -> Result<(), StoreError> {
        let tail = self.tail();
        for run in rows.chunk_by(|a, b| a.file == b.file && a.row < b.row) {
            let file = run[0].file;
            if file == RowId::TAIL {
                for id in run {
                    let record = tail.get(id.row as usize).ok_or(StoreError::NoSuchRow { file, row: id.row })?;
                    if take(Record::clone(record)).is_break() {
                        return Ok(());
                    }
                }
                continue;
            }
            let sealed = self.file(file)?;
            let wanted: Vec<u32> = run.iter().map(|id| id.row).collect();
            if let Some(row) = wanted.last().filter(|row| **row >= sealed.rows) {
                return Err(StoreError::NoSuchRow { file, row: *row });
            }
            let mut broke = false;
            self.access.each_record(sealed, Some(&wanted), None, |record| {
                let flow = take(record);
                broke = flow.is_break();
                Ok(flow)
            })?;
            if broke {
                return Ok(());
            }
        }
        Ok(())
    }

    fn records(
        &self,
        rows: &[RowId],
        columns: Option<&[&str]>,
        reduce: &dyn Fn(&mut Record),
    ) -> Result<Vec<Record>, StoreError> {
        let mut records: Vec<Option<Record>> = vec![None; rows.len()];
        let tail = self.tail();
        for (place, id) in rows.iter().enumerate().filter(|(_, id)| id.file == RowId::TAIL) {
            records[place] = tail.get(id.row as usize).map(|record| reduced(record, reduce));
        }
        let sealed = rows.iter().filter(|id| id.file != RowId::TAIL);
        for (file, wanted) in by_file(sealed.map(|id| (id.file, id.row))) {
            let sealed = self.file(file)?;
            if let Some(row) = wanted.last().filter(|row| **row >= sealed.rows) {
                return Err(StoreError::NoSuchRow { file, row: *row });
            }
            let mut places: HashMap<u32, Vec<usize>> = HashMap::new();
            for (place, id) in rows.iter().enumerate().filter(|(_, id)| id.file == file) {
                places.entry(id.row).or_default().push(place);
            }
            let mut read = wanted.iter();
            self.access.each_record(sealed, Some(&wanted), columns, |mut record| {
                reduce(&mut record);
                let places = read.next().and_then(|row| places.get(row)).map_or(&[][..], Vec::as_slice);
                if let [first @ .., last] = places {
                    first.iter().for_each(|place| records[*place] = Some(record.clone()));
                    records[*last] = Some(record);
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        let whole = rows.iter().zip(records);
        whole.map(|(id, record)| record.ok_or(StoreError::NoSuchRow { file: id.file, row: id.row })).collect()
    }
}

/// Rows of a part of the tail that bear any of the keys, ascending.
fn rows_in_chunk(chunk: &Chunk, wanted: &Wanted) -> Vec<u32> {
    let mut rows: Vec<u32> = wanted.probes().iter().flat_map(|probe| chunk.candidates(*probe)).copied().collect();
    rows.sort_unstable();
    rows.dedup();
    rows.retain(|row| wanted.matches(&chunk.rows[*row as usize].record));
    rows
}

fn reduced(record: &Record, reduce: &dyn Fn(&mut Record)) -> Record {
    let mut record = record.clone();
    reduce(&mut record);
    record
}

/// Payloads that [`Snapshot::records_light`] leaves out; without `bodies` none is put back.
const HEAVY_COLUMNS: &[&str] = &["raw", "arguments", "bodies"];

fn light_columns() -> Vec<&'static str> {
    COLUMNS.iter().map(|column| column.name).filter(|name| !HEAVY_COLUMNS.contains(name)).collect()
}

/// As a sealed row is read with [`light_columns`].
fn lighten(record: &mut Record) {
    let inline = |text: &String| text.len() <= BODY_INLINE_BYTES_MAX;
    (record.raw, record.arguments) = (None, None);
    record.attributes = record.attributes.take().filter(inline);
    record.text = record.text.take().filter(inline);
    record.result = record.result.take().filter(inline);
}
