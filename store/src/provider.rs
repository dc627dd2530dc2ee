//! The table `records` for DataFusion: the sealed Parquet files of a snapshot, and its tail.
//!
//! Invariants
//! - an event is in the result once, because it is in the snapshot once
//! - what is scanned is compared with the checksums of its file, as everything that is read (`blocks`)
//! - filters go down into the Parquet reader (statistics, page index, row filters); files whose times a filter excludes
//!   are skipped by it
//!
//! Payloads over 64 KiB are null in sealed rows (`bodies` says so) and whole in the tail; so is a `raw` that repeats one.
//! Otherwise `raw` is what was received: a projection above the scan puts back what the files leave out of it.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, SchemaRef},
};
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::datasource::source::DataSourceExec;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{DFSchema, DataFusionError, Result},
    datasource::{
        TableType,
        listing::PartitionedFile,
        memory::MemorySourceConfig,
        physical_plan::{FileGroup, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource},
    },
    execution::object_store::ObjectStoreUrl,
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TableProviderFilterPushDown,
        Volatility, utils::conjunction,
    },
    physical_expr::{PhysicalExpr, ScalarFunctionExpr, expressions::Column},
    physical_plan::{ExecutionPlan, metrics::ExecutionPlanMetricsSet, projection::ProjectionExec, union::UnionExec},
};
use futures::{FutureExt, future::BoxFuture};
use parquet::{
    arrow::{arrow_reader::ArrowReaderOptions, async_reader::AsyncFileReader},
    errors::ParquetError,
    file::metadata::ParquetMetaData,
};
use threadline_schemas::columns::{schema, to_batch};

use uuid::Uuid;

use crate::{
    StoreError,
    columnar::{raw_columns, restore_raw},
    files::{Files, SealedFile},
    snapshot::View,
};

/// Rows per batch of the tail.
const TAIL_BATCH_ROWS: usize = 4096;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct RecordsProvider {
    view: Arc<View>,
    tail: OnceLock<Vec<RecordBatch>>,
}

impl RecordsProvider {
    pub(crate) fn new(view: Arc<View>) -> RecordsProvider {
        RecordsProvider { view, tail: OnceLock::new() }
    }

    fn tail(&self) -> Result<&[RecordBatch]> {
        if let Some(batches) = self.tail.get() {
            return Ok(batches);
        }
        let mut batches = Vec::new();
        for part in self.view.tail().chunks(TAIL_BATCH_ROWS) {
            let records: Vec<_> = part.iter().map(|record| record.as_ref().clone()).collect();
            batches.push(to_batch(&records)?);
        }
        Ok(self.tail.get_or_init(|| batches))
    }

    /// One group of files per partition that the engine wants, about equal in bytes.
    fn groups(&self, partitions: usize, wanted: impl Fn(&SealedFile) -> bool) -> Vec<FileGroup> {
        let mut groups: Vec<(u64, Vec<PartitionedFile>)> = vec![(0, Vec::new()); partitions.max(1)];
        for file in self.view.files.iter().filter(|file| wanted(file)) {
            let lightest = groups.iter_mut().min_by_key(|(bytes, _)| *bytes);
            if let Some((bytes, files)) = lightest {
                *bytes += file.bytes;
                files.push(PartitionedFile::new(file.path.to_string_lossy(), file.bytes));
            }
        }
        groups.into_iter().filter(|(_, files)| !files.is_empty()).map(|(_, files)| FileGroup::new(files)).collect()
    }
}

#[async_trait]
impl TableProvider for RecordsProvider {
    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // The files do not have `raw` as filters mean it.
        let below = |filter: &&Expr| match filter.column_refs().iter().any(|column| column.name == "raw") {
            true => TableProviderFilterPushDown::Unsupported,
            false => TableProviderFilterPushDown::Inexact,
        };
        Ok(filters.iter().map(below).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let tail = MemorySourceConfig::try_new_exec(&[self.tail()?.to_vec()], schema(), projection.cloned())?;
        if self.view.files.is_empty() {
            return Ok(tail);
        }
        let scan = Scan { provider: self, state, filters, limit };
        let columns: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..schema().fields().len()).collect());
        let mut parts = Vec::new();
        if columns.iter().any(|index| schema().field(*index).name() == "raw") {
            parts.extend(scan.files(columns.clone(), |file| !file.raw_is_reduced)?);
            let sources = raw_columns().filter_map(|name| schema().index_of(name).ok());
            let mut with_sources = columns.clone();
            sources.for_each(|index| {
                if !with_sources.contains(&index) {
                    with_sources.push(index);
                }
            });
            if let Some(reduced) = scan.files(with_sources, |file| file.raw_is_reduced)? {
                parts.push(restored(reduced, &columns, state)?);
            }
        } else {
            parts.extend(scan.files(columns, |_| true)?);
        }
        parts.push(tail);
        UnionExec::try_new(parts)
    }
}

/// One question to the files.
struct Scan<'a> {
    provider: &'a RecordsProvider,
    state: &'a dyn Session,
    filters: &'a [Expr],
    limit: Option<usize>,
}

impl Scan<'_> {
    /// Reads columns of the wanted files as they are stored; `None` when there is no such file.
    fn files(
        &self,
        columns: Vec<usize>,
        wanted: impl Fn(&SealedFile) -> bool,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let groups = self.provider.groups(self.state.config().target_partitions(), wanted);
        if groups.is_empty() {
            return Ok(None);
        }
        let access = Arc::clone(&self.provider.view.access);
        let files = Arc::clone(&self.provider.view.files);
        let mut source = ParquetSource::new(schema())
            .with_pushdown_filters(true)
            .with_enable_page_index(true)
            .with_parquet_file_reader_factory(Arc::new(CheckedReaders { access, files }));
        if let Some(filter) = conjunction(self.filters.to_vec()) {
            let schema = DFSchema::try_from(schema())?;
            source = source.with_predicate(self.state.create_physical_expr(filter, &schema)?);
        }
        // A limit below a filter that is not exact could drop hits.
        let limit = self.limit.filter(|_| self.filters.is_empty());
        let scan = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source))
            .with_file_groups(groups)
            .with_projection_indices(Some(columns))?
            .with_limit(limit)
            .build();
        Ok(Some(DataSourceExec::from_data_source(scan)))
    }
}

/// Opens files so that every byte is compared with its checksum.
#[derive(Debug)]
struct CheckedReaders {
    access: Arc<Files>,
    files: Arc<Vec<Arc<SealedFile>>>,
}

impl ParquetFileReaderFactory for CheckedReaders {
    fn create_reader(
        &self,
        _: usize,
        file: PartitionedFile,
        _: Option<usize>,
        _: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let name = file.object_meta.location.filename().and_then(|name| name.strip_suffix(".parquet"));
        let id = name.and_then(|name| Uuid::parse_str(name).ok());
        let file = self.files.iter().find(|file| Some(file.id) == id).map(Arc::clone);
        let file = file.ok_or_else(|| DataFusionError::Internal("a scan of a file that is not in the table".into()))?;
        Ok(Box::new(CheckedReader { access: Arc::clone(&self.access), file }))
    }
}

/// Reads one file.
struct CheckedReader {
    access: Arc<Files>,
    file: Arc<SealedFile>,
}

impl CheckedReader {
    /// Runs file work off the async threads.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files, &SealedFile) -> parquet::errors::Result<T> + Send + 'static,
    ) -> BoxFuture<'static, parquet::errors::Result<T>> {
        let (access, file) = (Arc::clone(&self.access), Arc::clone(&self.file));
        async move {
            let done = tokio::task::spawn_blocking(move || work(&access, &file)).await;
            done.unwrap_or_else(|_| Err(ParquetError::General("the reading thread ended".into())))
        }
        .boxed()
    }
}

impl AsyncFileReader for CheckedReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        self.blocking(move |access, file| access.checked(file).map_err(external)?.read(range))
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        self.blocking(move |access, file| {
            let checked = access.checked(file).map_err(external)?;
            ranges.into_iter().map(|range| checked.read(range)).collect()
        })
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        self.blocking(move |access, file| Ok(Arc::clone(access.footer(file).map_err(external)?.metadata())))
    }
}

fn external(error: StoreError) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// `columns` of the table from a scan that has them and what `raw` refers to.
fn restored(scan: Arc<dyn ExecutionPlan>, columns: &[usize], state: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
    let scanned = scan.schema();
    let column = |name: &str| Ok::<_, DataFusionError>(Arc::new(Column::new_with_schema(name, &scanned)?) as Arc<_>);
    let arguments = raw_columns().map(column).collect::<Result<Vec<_>>>()?;
    let function = Arc::new(ScalarUDF::new_from_impl(RestoreRaw::new()));
    let options = Arc::new(state.config_options().clone());
    let raw = ScalarFunctionExpr::try_new(function, arguments, &scanned, options)?;
    let raw: Arc<dyn PhysicalExpr> = Arc::new(raw);
    let table = schema();
    let expressions = columns.iter().map(|index| {
        let name = table.field(*index).name();
        Ok(if name == "raw" { (Arc::clone(&raw), name.clone()) } else { (column(name)?, name.clone()) })
    });
    Ok(Arc::new(ProjectionExec::try_new(expressions.collect::<Result<Vec<_>>>()?, scan)?))
}

/// [`restore_raw`] as a function of the plan. Queries cannot name it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct RestoreRaw {
    signature: Signature,
}

impl RestoreRaw {
    fn new() -> RestoreRaw {
        RestoreRaw { signature: Signature::any(raw_columns().count(), Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for RestoreRaw {
    fn name(&self) -> &str {
        "restore_raw"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&arguments.args)?;
        Ok(ColumnarValue::Array(Arc::new(restore_raw(&arrays)?)))
    }
}
