//! Read-only SQL over one snapshot: tables `records` and `links`.
//!
//! Invariants
//! - text is checked before the parser ([`guard`]); only one query statement is planned, no DDL, DML, COPY, SET
//! - no table but ours: no catalog, object store or file function is registered
//! - memory, time, rows and bytes of an answer are bounded, and an answer says what it left out
//! - planning runs on a thread with a large stack of its own, so a deep query cannot end the process
//!
//! Not here: writing, parameters, sessions of their own.

mod cell;
pub mod guard;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::catalog::MemTable;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use futures::StreamExt;
use threadline_schemas::display;
use threadline_store::Snapshot;

use crate::engine::{Engine, EngineConfig, answer, completeness};
use crate::error::QueryError;
use crate::model::{Answer, SqlQuestion, Table};
use guard::refused;

/// Stack of the planning thread; virtual, only what is used is taken.
const PLANNING_STACK_BYTES: usize = 128 << 20;
/// Bytes of JSON cells in one answer.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Words before which nothing is planned.
const QUERY_WORDS: &[&str] = &["select", "with", "values", "explain", "show", "describe", "table", "(", "from"];

impl Engine {
    /// Runs one query.
    pub async fn sql(&self, question: &SqlQuestion) -> Result<Answer<Table>, QueryError> {
        guard::check(&question.query)?;
        check_start(&question.query)?;
        let _permit = self.sql_permits().try_acquire().map_err(|_| QueryError::Busy)?;
        let config = self.config();
        let limit_ms = question.timeout_ms.unwrap_or(u64::MAX).clamp(1, config.sql_timeout_ms);
        let rows_max = question.limit.unwrap_or(usize::MAX).min(config.sql_rows_max);
        let snapshot = self.snapshot().await?;
        let run = self.run(&snapshot, question, rows_max, limit_ms);
        match tokio::time::timeout(Duration::from_millis(limit_ms), run).await {
            Ok(answer) => answer,
            Err(_) => Err(QueryError::Timeout { limit_ms }),
        }
    }

    async fn run(
        &self,
        snapshot: &Arc<Snapshot>,
        question: &SqlQuestion,
        rows_max: usize,
        limit_ms: u64,
    ) -> Result<Answer<Table>, QueryError> {
        let context = context(self.config())?;
        context.register_table("records", snapshot.table_provider()?).map_err(failed)?;
        if mentions_links(&question.query) {
            context.register_table("links", self.links_table().await?).map_err(failed)?;
        }
        let plan = plan(context.clone(), question.query.clone()).await?;
        let columns: Vec<String> = plan.schema().fields().iter().map(|field| field.name().clone()).collect();
        let mut stream = execute_stream(plan, context.task_ctx()).map_err(failed)?;
        let mut table = Table { columns, rows: Vec::new() };
        let (mut rows_cut, mut bytes) = (0u64, 0usize);
        // Rows beyond the limit are counted for half of the time that is left at most.
        let counting = tokio::time::Instant::now() + Duration::from_millis(limit_ms / 2);
        let mut all_counted = true;
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(failed)?;
            let room = if bytes > ANSWER_BYTES_MAX { 0 } else { rows_max.saturating_sub(table.rows.len()) };
            let taken = batch.num_rows().min(room);
            bytes += cell::append(&batch.slice(0, taken), &mut table.rows)?;
            rows_cut += (batch.num_rows() - taken) as u64;
            if rows_cut > 0 && tokio::time::Instant::now() > counting {
                all_counted = false;
                break;
            }
        }
        let mut completeness = completeness(snapshot);
        completeness.rows_cut = rows_cut;
        if rows_cut > 0 {
            let least = if all_counted { "" } else { "at least " };
            completeness.reasons.push(format!(
                "{least}{rows_cut} rows beyond the first {} are not shown; add LIMIT and OFFSET or narrow the query",
                table.rows.len()
            ));
        }
        Ok(answer(table, None, completeness))
    }

    /// Every placement as a table in memory, for stores small enough.
    async fn links_table(&self) -> Result<Arc<MemTable>, QueryError> {
        let walk = self.walk().await?;
        let rows = walk.index.rows_indexed();
        let max = self.config().sql_links_rows_max;
        if rows > max {
            return Err(refused(
                format!("the table links is offered up to {max} records, and {rows} are stored"),
                "read GET /api/v1/links (or `threadline links`), or ask for one session there",
            ));
        }
        let mut batches: Vec<RecordBatch> = Vec::new();
        for step in 0..walk.steps() {
            batches.push(cell::placements(&walk.step(step).await?)?);
        }
        MemTable::try_new(cell::placement_schema(), vec![batches]).map(Arc::new).map_err(failed)
    }
}

fn context(config: &EngineConfig) -> Result<SessionContext, QueryError> {
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(config.sql_bytes_max)))
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .build_arc()
        .map_err(failed)?;
    let session = SessionConfig::new().with_information_schema(true).with_target_partitions(2);
    let context = SessionContext::new_with_config_rt(session, runtime);
    // They make much out of nothing while the query is planned, before any memory limit sees it.
    for name in [
        "repeat",
        "lpad",
        "rpad",
        "array_repeat",
        "list_repeat",
        "array_resize",
        "list_resize",
        "range",
        "generate_series",
    ] {
        context.deregister_udf(name);
    }
    Ok(context)
}

/// Plans on a thread of its own with a large stack; work that the plan needs runs on this runtime.
async fn plan(context: SessionContext, sql: String) -> Result<Arc<dyn ExecutionPlan>, QueryError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let work = move || {
        let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let planned = runtime.block_on(async {
            let frame = context.sql_with_options(&sql, options).await?;
            frame.create_physical_plan().await
        });
        // Nobody waits any more when the query timed out.
        drop(sender.send(planned));
    };
    std::thread::Builder::new()
        .name("sql-plan".into())
        .stack_size(PLANNING_STACK_BYTES)
        .spawn(work)
        .map_err(|_| QueryError::Busy)?;
    receiver.await.map_err(|_| QueryError::Interrupted)?.map_err(failed)
}

/// DDL, DML, COPY and SET are refused by the planner as well; this says it in plain words.
fn check_start(sql: &str) -> Result<(), QueryError> {
    let mut text = sql.trim_start();
    while let Some(rest) = text.strip_prefix("--") {
        text = rest.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
    }
    let word: String =
        text.chars().take_while(|c| c.is_alphabetic() || *c == '(').collect::<String>().to_ascii_lowercase();
    let is_query = QUERY_WORDS.iter().any(|known| word.starts_with(known)) || text.starts_with("/*");
    if is_query {
        return Ok(());
    }
    Err(refused(
        "only one query is run here, and nothing that writes or sets".into(),
        "start with SELECT, WITH or EXPLAIN",
    ))
}

fn mentions_links(sql: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    sql.split(|c: char| !is_word(c)).any(|word| word.eq_ignore_ascii_case("links"))
}

/// What the engine says, cut and made visible. It may quote the query, which the asker knows.
fn failed(error: datafusion::error::DataFusionError) -> QueryError {
    let text = error.strip_backtrace();
    let (short, _) = display::cut(&text, 600);
    let short = display::visible(&short, display::Lines::Show);
    let next_step = match () {
        () if text.contains("not found") && text.contains("table") => {
            "the tables are records and links; SHOW TABLES lists them"
        }
        () if text.contains("No field named") => "SHOW COLUMNS FROM records lists the columns",
        () if text.contains("Resources exhausted") => {
            "ask for fewer rows or columns, or aggregate in smaller ranges of time"
        }
        () if text.contains("not supported") || text.contains("not allowed") => "only queries are run here",
        () => return QueryError::SqlFailed { reason: short },
    };
    QueryError::SqlRefused { reason: short, next_step: next_step.into() }
}

#[cfg(test)]
mod tests;
