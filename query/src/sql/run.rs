//! One query, planned and executed where it is called.
//!
//! Not here: limits from outside (time, memory of the process), which callers put around it.

use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use futures::StreamExt;
use threadline_store::Snapshot;

use super::links_table::LinksTable;
use super::{ANSWER_BYTES_MAX, Limits, cell, failure, searched};
use crate::engine::{Engine, answer, completeness};
use crate::error::QueryError;
use crate::model::{Answer, Completeness, Table};

/// Functions that make much out of nothing while a query is planned, before any memory pool sees it. The worker's own
/// limit holds whatever is missing here.
const REMOVED_FUNCTIONS: &[&str] = &[
    "repeat",
    "lpad",
    "rpad",
    "space",
    "array_repeat",
    "list_repeat",
    "array_resize",
    "list_resize",
    "range",
    "generate_series",
    "arrow_cast",
    "arrow_try_cast",
];

/// Runs `query`, which the guard has let through.
pub(super) async fn run(engine: &Arc<Engine>, query: &str, limits: Limits) -> Result<Answer<Table>, QueryError> {
    let snapshot = engine.snapshot().await?;
    let context = context(limits)?;
    let ours = async {
        context.register_table("records", snapshot.table_provider()?).map_err(failure::plain)?;
        let links = LinksTable::new(Arc::clone(engine), limits.links_rows_max);
        context.register_table("links", Arc::new(links)).map_err(failure::plain)?;
        execute(&context, &snapshot, query, limits).await
    };
    match ours.await {
        Err(QueryError::Unread { file: None, reason }) => Err(failure::name_file(&snapshot, reason).await),
        other => other,
    }
}

async fn execute(
    context: &SessionContext,
    snapshot: &Snapshot,
    query: &str,
    limits: Limits,
) -> Result<Answer<Table>, QueryError> {
    let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let frame = context.sql_with_options(query, options).await.map_err(failure::of)?;
    let asked = frame.logical_plan().clone();
    let plan = frame.create_physical_plan().await.map_err(failure::of)?;
    let columns = plan.schema().fields().iter().map(|field| field.name().clone()).collect();
    let mut table = Table { columns, rows: Vec::new() };
    let mut stream = execute_stream(Arc::clone(&plan), context.task_ctx()).map_err(failure::of)?;
    let mut room = cell::Room { rows: limits.rows_max, bytes: ANSWER_BYTES_MAX };
    let mut rows_cut = 0u64;
    // Rows beyond the limit are counted for half of the time at most.
    let counting = tokio::time::Instant::now() + Duration::from_millis(limits.time_ms / 2);
    let mut all_counted = true;
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(failure::of)?;
        let taken = cell::append(&batch, &mut table.rows, &mut room)?;
        rows_cut += (batch.num_rows() - taken) as u64;
        if rows_cut > 0 && tokio::time::Instant::now() > counting {
            all_counted = false;
            break;
        }
    }
    let mut completeness = completeness(snapshot);
    completeness.rows_searched = searched::rows(&asked, &plan, snapshot, all_counted);
    say_cut(&mut completeness, rows_cut, table.rows.len(), all_counted);
    Ok(answer(table, None, completeness))
}

fn say_cut(completeness: &mut Completeness, rows_cut: u64, shown: usize, all_counted: bool) {
    completeness.rows_cut = rows_cut;
    if rows_cut > 0 {
        let least = if all_counted { "" } else { "at least " };
        completeness.reasons.push(format!(
            "{least}{rows_cut} rows beyond the first {shown} are not shown; add LIMIT and OFFSET or narrow the query"
        ));
    }
}

fn context(limits: Limits) -> Result<SessionContext, QueryError> {
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(limits.pool_bytes)))
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .build_arc()
        .map_err(failure::plain)?;
    let session = SessionConfig::new().with_information_schema(true).with_target_partitions(2);
    let context = SessionContext::new_with_config_rt(session, runtime);
    for name in REMOVED_FUNCTIONS {
        context.deregister_udf(name);
    }
    Ok(context)
}
