//! The table `links`: every placement, put together when a query reads it.
//!
//! Listed whether it can be read or not; where the store is too large for it, reading says so.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;

use super::cell;
use super::guard::refused;
use crate::engine::Engine;
use crate::error::QueryError;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct LinksTable {
    engine: Arc<Engine>,
    rows_max: u64,
}

impl LinksTable {
    pub(super) fn new(engine: Arc<Engine>, rows_max: u64) -> LinksTable {
        LinksTable { engine, rows_max }
    }

    async fn batches(&self) -> Result<Vec<arrow::array::RecordBatch>, QueryError> {
        let walk = self.engine.walk().await?;
        let rows = walk.index.rows_indexed();
        if rows > self.rows_max {
            return Err(refused(
                format!("the table links is offered up to {} records, and {rows} are stored", self.rows_max),
                "read GET /api/v1/links (or `threadline links`), or ask for one session there",
            ));
        }
        let mut batches = Vec::new();
        for step in 0..walk.steps() {
            batches.push(cell::placements(&walk.step(step).await?)?);
        }
        Ok(batches)
    }
}

#[async_trait]
impl TableProvider for LinksTable {
    fn schema(&self) -> SchemaRef {
        cell::placement_schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let batches = self.batches().await.map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(MemorySourceConfig::try_new_exec(&[batches], self.schema(), projection.cloned())?)
    }
}
