//! The table `records` for DataFusion: the sealed Parquet files of a snapshot, and its tail.
//!
//! Invariants
//! - an event is in the result once, because it is in the snapshot once
//! - filters go down into the Parquet reader (statistics, page index, row filters); files whose times a filter excludes
//!   are skipped by it
//!
//! Payloads over 64 KiB are null in sealed rows (`bodies` says so) and whole in the tail.

use std::sync::{Arc, OnceLock};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use async_trait::async_trait;
use datafusion::datasource::source::DataSourceExec;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{DFSchema, Result},
    datasource::{
        TableType,
        listing::PartitionedFile,
        memory::MemorySourceConfig,
        physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource},
    },
    execution::object_store::ObjectStoreUrl,
    logical_expr::{Expr, TableProviderFilterPushDown, utils::conjunction},
    physical_plan::{ExecutionPlan, union::UnionExec},
};
use threadline_schemas::columns::{schema, to_batch};

use crate::snapshot::View;

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
    fn groups(&self, partitions: usize) -> Vec<FileGroup> {
        let mut groups: Vec<(u64, Vec<PartitionedFile>)> = vec![(0, Vec::new()); partitions.max(1)];
        for file in self.view.files.iter() {
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
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
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
        let mut source = ParquetSource::new(schema()).with_pushdown_filters(true).with_enable_page_index(true);
        if let Some(filter) = conjunction(filters.to_vec()) {
            let schema = DFSchema::try_from(schema())?;
            source = source.with_predicate(state.create_physical_expr(filter, &schema)?);
        }
        // A limit below a filter that is not exact could drop hits.
        let limit = limit.filter(|_| filters.is_empty());
        let scan = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source))
            .with_file_groups(self.groups(state.config().target_partitions()))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        UnionExec::try_new(vec![DataSourceExec::from_data_source(scan), tail])
    }
}
