//! Threads for one query: nothing that plans or executes runs on the threads that serve.
//!
//! Invariants
//! - they run at low priority, so that serving goes first
//! - planning has a stack that the deepest text which the guard lets through does not fill
//! - the permit is dropped after the last of them has ended
//!
//! Not here: a bound on memory that DataFusion does not account for ([`super::worker`]).

use std::sync::Arc;

use tokio::runtime::Builder;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{Limits, run};
use crate::engine::Engine;
use crate::error::QueryError;
use crate::model::{Answer, Table};

/// Stack of the planning thread; virtual, only what is used is taken.
pub(super) const PLANNING_STACK_BYTES: usize = 128 << 20;
/// Threads that execute.
const EXECUTING_THREADS: usize = 2;
/// Threads that read files.
const READING_THREADS_MAX: usize = 4;
/// Where 0 is usual and 19 the most patient.
const NICENESS: i32 = 10;

/// What a query gives in the end.
pub(super) type Outcome = Result<Answer<Table>, QueryError>;

/// Starts a query. Whoever drops the receiver ends it at its next step.
pub(super) fn start(
    engine: Arc<Engine>,
    query: String,
    limits: Limits,
    permit: Option<OwnedSemaphorePermit>,
) -> Result<oneshot::Receiver<Outcome>, QueryError> {
    let (mut sender, receiver) = oneshot::channel();
    let work = move || {
        lower_priority();
        let runtime = Builder::new_multi_thread()
            .worker_threads(EXECUTING_THREADS)
            .max_blocking_threads(READING_THREADS_MAX)
            .thread_name("sql")
            .enable_all()
            .build();
        let Ok(runtime) = runtime else { return };
        let outcome = runtime.block_on(async {
            tokio::select! {
                outcome = run::run(&engine, &query, limits) => Some(outcome),
                () = sender.closed() => None,
            }
        });
        // Waits for what cannot be interrupted.
        drop(runtime);
        // Before the answer, so that who asks again at once is not sent away.
        drop(permit);
        if let Some(outcome) = outcome {
            // Nobody waits any more when the time limit has passed.
            drop(sender.send(outcome));
        }
    };
    let thread = std::thread::Builder::new().name("sql-plan".into()).stack_size(PLANNING_STACK_BYTES);
    thread.spawn(work).map_err(|_| QueryError::Interrupted)?;
    Ok(receiver)
}

/// For this thread (on Linux; elsewhere for the process) and those that it starts.
fn lower_priority() {
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!("SQL runs at usual priority: {error}");
    }
}
