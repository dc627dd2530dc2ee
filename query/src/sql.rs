//! Read-only SQL over one snapshot: tables `records` and `links`.
//!
//! ```text
//! guard (text) -> permit -> worker process: plan, execute, answer as JSON -> passed on byte for byte
//!                              └ killed at the time limit, ended by its memory limit; the permit goes back when it is gone
//! ```
//!
//! Invariants
//! - text is checked before the parser ([`guard`]); only one query statement is planned, no DDL, DML, COPY, SET
//! - no table but ours: no catalog, object store or file function is registered
//! - planning and execution share nothing with the server but the disk: their memory and time are bounded from
//!   outside ([`worker`]), whatever an expression, a plan or the engine does; the pool inside bounds what the engine
//!   itself accounts for and gives the better message
//! - `sql_at_once_max` queries run, those that are still ending included; further ones are refused at once
//! - time, rows and bytes of an answer are bounded, and an answer says what it left out
//!
//! Without a worker program ([`crate::EngineConfig::sql_worker`]) a query runs on threads of its own in this process,
//! under the same limits but for memory that the engine does not account for.
//!
//! Not here: writing, parameters, sessions of their own.

mod cell;
mod failure;
pub mod guard;
mod links_table;
mod run;
mod searched;
mod thread;
pub mod worker;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::engine::Engine;
use crate::error::QueryError;
use crate::model::{Answer, SqlQuestion, Table};
pub(crate) use failure::error_file;

/// Bytes of JSON in one answer's rows.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// What one query may take.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(crate) struct Limits {
    /// Rows of the answer.
    rows_max: usize,
    /// Time until the answer.
    time_ms: u64,
    /// Memory that the engine accounts for.
    pool_bytes: usize,
    /// Memory of the worker process.
    process_bytes: u64,
    /// Records up to which the table `links` is offered.
    links_rows_max: u64,
}

impl Engine {
    /// Runs one query in this process, on threads of its own.
    pub async fn sql(self: &Arc<Self>, question: &SqlQuestion) -> Result<Answer<Table>, QueryError> {
        let (limits, permit) = self.admit(question)?;
        self.sql_here(question, limits, permit).await
    }

    /// The answer to one query as JSON: from a worker process where one is configured.
    pub(crate) async fn sql_json(self: &Arc<Self>, question: &SqlQuestion) -> Result<Bytes, QueryError> {
        let (limits, permit) = self.admit(question)?;
        match &self.config().sql_worker {
            Some(program) => worker::ask(program, question, limits, permit).await,
            None => {
                let answer = self.sql_here(question, limits, permit).await?;
                Ok(crate::api::text(&answer).ok_or(QueryError::Interrupted)?.into())
            }
        }
    }

    fn admit(&self, question: &SqlQuestion) -> Result<(Limits, OwnedSemaphorePermit), QueryError> {
        guard::check(&question.query)?;
        guard::check_start(&question.query)?;
        let config = self.config();
        let permit = self.sql_permit().ok_or(QueryError::Busy { at_once: config.sql_at_once_max })?;
        let limits = Limits {
            rows_max: question.limit.unwrap_or(usize::MAX).min(config.sql_rows_max),
            time_ms: question.timeout_ms.unwrap_or(u64::MAX).clamp(1, config.sql_timeout_ms),
            pool_bytes: config.sql_bytes_max,
            process_bytes: config.sql_process_bytes_max,
            links_rows_max: config.sql_links_rows_max,
        };
        Ok((limits, permit))
    }

    /// The caller has its answer at the limit; the permit goes back when the threads are done.
    async fn sql_here(
        self: &Arc<Self>,
        question: &SqlQuestion,
        limits: Limits,
        permit: OwnedSemaphorePermit,
    ) -> Result<Answer<Table>, QueryError> {
        let receiver = thread::start(Arc::clone(self), question.query.clone(), limits, Some(permit))?;
        match tokio::time::timeout(Duration::from_millis(limits.time_ms), receiver).await {
            Ok(answer) => answer.map_err(|_| QueryError::Interrupted)?,
            Err(_) => Err(QueryError::Timeout { limit_ms: limits.time_ms }),
        }
    }
}

#[cfg(test)]
mod tests;
