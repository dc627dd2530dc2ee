//! The Parquet file of a seal: how rows are laid out, and how some of them are read back.
//!
//! Invariants
//! - rows stand by `session_key`, then time, then event id, so a session is a short run of rows
//! - pages hold at most 256 rows and have an index, so that reading one row decodes one page per column
//! - no dictionary over values that few rows share: reading one row would decode all of it
//! - no minimum or maximum of a payload column is written anywhere: statistics must not leak content
//! - a column that a file lacks, because an older version wrote it, reads as null
//! - `raw` is stored without what other columns of the row hold (`threadline_schemas::residue`)
//!
//! No bloom filters: the id sidecar answers what they would, for 2 bytes per row less.

use std::{borrow::Cow, cmp::Ordering, fs::File, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, RecordBatch, RecordBatchOptions, new_null_array},
    datatypes::{DataType, Field, Int64Type, Schema},
    error::ArrowError,
};
use parquet::{
    arrow::{
        ArrowWriter, ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
            RowSelection,
        },
    },
    basic::{Compression, Encoding, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::{KeyValue, PageIndexPolicy, ParquetMetaData},
        properties::{EnabledStatistics, WriterProperties},
    },
    schema::types::ColumnPath,
};
use threadline_schemas::{
    RECORD_VERSION, Record,
    columns::{COLUMNS, Role, schema, to_batch},
    residue::{self, ResidueError, SOURCES, Source, Values},
};
use uuid::Uuid;

use crate::{StoreError, blocks::CheckedFile};

const ZSTD_LEVEL: i32 = 1;
const PAGE_ROWS_MAX: usize = 128;
/// Rows encoded between two looks at the page size; bounds what a page of large payloads can grow to.
const WRITE_BATCH_ROWS: usize = 128;
/// Rows that are written at once.
pub(crate) const PART_ROWS_MAX: usize = 4096;
/// Rows per batch when a file is read.
const READ_BATCH_ROWS: usize = 4096;
/// Rows per batch when records are made one after another.
const READ_PART_ROWS: usize = 512;

/// The texts of the list `keys`.
const KEYS_PATH: [&str; 3] = ["keys", "list", "element"];

/// Key of the Parquet footer that holds the record version of the writer.
const RECORD_VERSION_KEY: &str = "threadline.record_version";

/// The order of rows within a file.
pub(crate) fn order(a: &Record, b: &Record) -> Ordering {
    let key = |r: &Record| (r.time_unix_nano, r.observed_time_unix_us, r.event_id);
    a.session_key.cmp(&b.session_key).then_with(|| key(a).cmp(&key(b)))
}

/// A new file of rows in the right order, given in parts: what is in memory are one part and the compressed pages.
pub(crate) struct Writer<'p> {
    path: &'p Path,
    file: File,
    parquet: ArrowWriter<File>,
}

impl<'p> Writer<'p> {
    /// Creates the file.
    pub(crate) fn create(path: &'p Path) -> Result<Writer<'p>, StoreError> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(StoreError::io("create", path))?;
        let handle = file.try_clone().map_err(StoreError::io("create", path))?;
        let parquet = properties().and_then(|properties| ArrowWriter::try_new(handle, schema(), Some(properties)));
        Ok(Writer { path, file, parquet: parquet.map_err(StoreError::parquet("write", path))? })
    }

    /// Adds rows, of which `raws` are the stored `raw`; at most [`PART_ROWS_MAX`] keep what the encoders hold small.
    pub(crate) fn write(&mut self, records: &[Cow<'_, Record>], raws: &[Option<Vec<u8>>]) -> Result<(), StoreError> {
        debug_assert!(records.len() <= PART_ROWS_MAX);
        let raw: ArrayRef = Arc::new(BinaryArray::from_iter(raws));
        let batch = to_batch(records).and_then(|batch| replace_raw(&batch, &raw));
        let batch = batch.map_err(|source| StoreError::Arrow { file: Uuid::nil(), source })?;
        self.parquet.write(&batch).map_err(StoreError::parquet("write", self.path))
    }

    /// Ends the file; syncing is the caller's part. Returns its size.
    pub(crate) fn finish(self) -> Result<u64, StoreError> {
        self.parquet.close().map_err(StoreError::parquet("write", self.path))?;
        Ok(self.file.metadata().map_err(StoreError::io("look at", self.path))?.len())
    }
}

fn properties() -> Result<WriterProperties, ParquetError> {
    let column = |name: &str| ColumnPath::from(name);
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_data_page_row_count_limit(PAGE_ROWS_MAX)
        .set_write_batch_size(WRITE_BATCH_ROWS)
        .set_max_row_group_row_count(Some(usize::MAX))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_key_value_metadata(Some(vec![KeyValue::new(RECORD_VERSION_KEY.into(), RECORD_VERSION.to_string())]));
    for name in COLUMNS.iter().filter(|c| c.role == Role::Payload).map(|c| c.name) {
        properties = properties
            .set_column_dictionary_enabled(column(name), false)
            .set_column_statistics_enabled(column(name), EnabledStatistics::None)
            .set_column_encoding(column(name), Encoding::DELTA_LENGTH_BYTE_ARRAY);
    }
    // Different in nearly every row, or shared by a few rows that stand together.
    for name in [
        "event_id",
        "delivery_key",
        "log_position",
        "redactions",
        "bodies",
        "trace_id",
        "span_id",
        "parent_span_id",
        "turn_id",
        "tool_call_id",
        "rpc_id",
        "turn_key",
        "call_key",
        "arguments_digest",
        "result_digest",
    ] {
        properties = properties
            .set_column_dictionary_enabled(column(name), false)
            .set_column_encoding(column(name), Encoding::DELTA_BYTE_ARRAY);
    }
    let keys = ColumnPath::new(KEYS_PATH.map(str::to_string).to_vec());
    properties = properties
        .set_column_dictionary_enabled(keys.clone(), false)
        .set_column_encoding(keys, Encoding::DELTA_LENGTH_BYTE_ARRAY);
    properties = properties
        .set_column_dictionary_enabled(column("leaf_salt"), false)
        .set_column_statistics_enabled(column("leaf_salt"), EnabledStatistics::None);
    // A few words of ours: nothing to gain, and a decompressor less to set up for each.
    for name in [
        "record_version",
        "time_quality",
        "source_kind",
        "collector",
        "kind",
        "direction",
        "outcome",
        "tool_is_error",
        "decision",
    ] {
        properties = properties.set_column_compression(column(name), Compression::UNCOMPRESSED);
    }
    for name in ["time", "observed_time", "time_unix_nano", "observed_time_unix_us", "duration_nano"] {
        properties = properties
            .set_column_dictionary_enabled(column(name), false)
            .set_column_encoding(column(name), Encoding::DELTA_BINARY_PACKED);
    }
    Ok(properties.build())
}

/// The footer and page index of a file.
pub(crate) fn open(file: &CheckedFile, path: &Path) -> Result<ArrowReaderMetadata, StoreError> {
    // The Arrow types come from the Parquet schema, not from what the writer noted, so that any version reads alike.
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
    ArrowReaderMetadata::load(file, options).map_err(StoreError::parquet("read", path))
}

/// Reads rows in file order: all of them, or those in `rows` (ascending, distinct). `columns` by name; what the file
/// lacks, or has no value of, is left out.
pub(crate) fn read(
    file: CheckedFile,
    path: &Path,
    footer: &ArrowReaderMetadata,
    rows: Option<&[u32]>,
    columns: Option<&[&str]>,
) -> Result<Vec<RecordBatch>, StoreError> {
    reader(file, path, footer, rows, columns, READ_BATCH_ROWS)?.collect()
}

/// The same, a few rows at a time.
pub(crate) fn read_parts(
    file: CheckedFile,
    path: &Path,
    footer: &ArrowReaderMetadata,
    rows: Option<&[u32]>,
    columns: Option<&[&str]>,
) -> Result<impl Iterator<Item = Result<RecordBatch, StoreError>>, StoreError> {
    reader(file, path, footer, rows, columns, READ_PART_ROWS)
}

fn reader(
    file: CheckedFile,
    path: &Path,
    footer: &ArrowReaderMetadata,
    rows: Option<&[u32]>,
    columns: Option<&[&str]>,
    batch_rows: usize,
) -> Result<impl Iterator<Item = Result<RecordBatch, StoreError>> + use<>, StoreError> {
    let build = || -> Result<ParquetRecordBatchReader, ParquetError> {
        let mut reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, footer.clone());
        reader = reader.with_batch_size(batch_rows);
        if let Some(rows) = rows {
            let ranges = rows.chunk_by(|a, b| a + 1 == *b).map(|run| run[0] as usize..run[run.len() - 1] as usize + 1);
            let total = footer.metadata().file_metadata().num_rows() as usize;
            reader = reader.with_row_selection(RowSelection::from_consecutive_ranges(ranges, total));
        }
        let fields = footer.schema().fields().iter().enumerate();
        let wanted = fields
            .filter(|(_, field)| columns.is_none_or(|columns| columns.contains(&field.name().as_str())))
            .map(|(root, _)| root);
        let has_value = has_value(footer.metadata());
        let roots = wanted.filter(|root| has_value.get(*root).is_none_or(|has| *has));
        let mask = ProjectionMask::roots(reader.parquet_schema(), roots.collect::<Vec<_>>());
        reader = reader.with_projection(mask);
        reader.build()
    };
    let reader = build().map_err(StoreError::parquet("read", path))?;
    let path = path.to_path_buf();
    Ok(reader.map(move |batch| batch.map_err(|error| StoreError::parquet("read", &path)(error.into()))))
}

/// Whether each column of the file has a value, as far as statistics tell; one without is read as one that the file lacks.
fn has_value(metadata: &ParquetMetaData) -> Vec<bool> {
    let schema = metadata.file_metadata().schema_descr();
    let mut has_value = vec![false; schema.root_schema().get_fields().len()];
    for group in metadata.row_groups() {
        for (leaf, column) in group.columns().iter().enumerate() {
            let nulls = column.statistics().and_then(|statistics| statistics.null_count_opt());
            if nulls.is_none_or(|nulls| i64::try_from(nulls) != Ok(group.num_rows())) {
                has_value[schema.get_column_root_idx(leaf)] = true;
            }
        }
    }
    has_value
}

/// The wanted columns in the wanted order, nulls for what the file lacks.
pub(crate) fn arrange(batch: &RecordBatch, columns: &[&str]) -> Result<RecordBatch, ArrowError> {
    let table = schema();
    let mut fields = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for name in columns {
        let known = table.field_with_name(name).ok();
        let array = match batch.column_by_name(name) {
            Some(array) => Arc::clone(array),
            None => new_null_array(known.map_or(&DataType::Null, |f| f.data_type()), batch.num_rows()),
        };
        let nullable = known.is_none_or(Field::is_nullable) || array.null_count() > 0;
        fields.push(Field::new(*name, array.data_type().clone(), nullable));
        arrays.push(array);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
}

/// Columns that restoring `raw` takes, in the order of [`restore_raw`], `raw` itself first.
pub(crate) fn raw_columns() -> impl Iterator<Item = &'static str> {
    ["raw", "keys"].into_iter().chain(SOURCES.iter().map(|source| source.name))
}

/// One row of the arrays that [`raw_columns`] names, without the first.
struct ArrayRow<'a> {
    arrays: &'a [ArrayRef],
    row: usize,
}

impl Values for ArrayRow<'_> {
    fn column(&self, source: &Source) -> Option<Cow<'_, str>> {
        let place = SOURCES.iter().position(|s| s.tag == source.tag)?;
        let array = self.arrays.get(place + 1).filter(|array| !array.is_null(self.row))?;
        if let Some(numbers) = array.as_primitive_opt::<Int64Type>() {
            return Some(numbers.value(self.row).to_string().into());
        }
        array.as_string_opt::<i32>().map(|texts| texts.value(self.row).into())
    }

    fn key(&self, index: usize) -> Option<Cow<'_, str>> {
        let keys = self.arrays.first()?.as_list_opt::<i32>()?.value(self.row);
        let keys = keys.as_string_opt::<i32>()?;
        (index < keys.len()).then(|| keys.value(index).to_string().into())
    }
}

/// `raw` as it was received, from the arrays that [`raw_columns`] names; null where it refers to a payload beside the row.
pub(crate) fn restore_raw(arrays: &[ArrayRef]) -> Result<BinaryArray, ArrowError> {
    let absent = || ArrowError::SchemaError("no column raw".into());
    let (raw, arrays) = arrays.split_first().ok_or_else(absent)?;
    let raw = raw.as_binary_opt::<i32>().ok_or_else(absent)?;
    let mut restored = BinaryBuilder::with_capacity(raw.len(), raw.value_data().len() * 2);
    for row in 0..raw.len() {
        let stored = (!raw.is_null(row)).then(|| residue::restore(raw.value(row), &ArrayRow { arrays, row }));
        match stored.transpose() {
            Ok(bytes) => restored.append_option(bytes),
            Err(ResidueError::Column(_)) => restored.append_null(),
            Err(error) => return Err(ArrowError::ExternalError(Box::new(error))),
        }
    }
    Ok(restored.finish())
}

/// A batch whose column `raw` is as it was received. It must have every column of [`raw_columns`] that the file has.
pub(crate) fn with_raw_restored(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let arrays = arrange(batch, &raw_columns().collect::<Vec<_>>())?;
    let raw: ArrayRef = Arc::new(restore_raw(arrays.columns())?);
    replace_raw(batch, &raw)
}

fn replace_raw(batch: &RecordBatch, raw: &ArrayRef) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        let column = if field.name() == "raw" { raw } else { column };
        Arc::clone(column)
    });
    let columns = columns.collect();
    RecordBatch::try_new(schema, columns)
}
