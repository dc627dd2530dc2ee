//! A query in a process of its own, because nothing less bounds it: constant folding, regular expressions and window
//! functions take memory that the engine does not account for, and a computation that does not yield cannot be ended
//! inside a process.
//!
//! Invariants
//! - the asker has an answer at the time limit: the worker is killed then, and also when the asker is gone
//! - the permit is held until the worker is reaped; a worker whose server is gone sees its input end and stops
//! - a worker's private memory is at most `process_bytes` and its stack; it writes no core file
//! - at most [`REPLY_BYTES_MAX`] bytes of a reply are taken
//! - a worker without a reply is logged with its status and the end of what it said
//!
//! Between them: one line of JSON (a `Task`) on the worker's standard input, which stays open until the reply is
//! taken; then `A` and the answer, or `E` and a `Failure`, both JSON, on its standard output.

use std::ffi::OsString;
use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use threadline_schemas::display;
use threadline_store::Reader;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::failure::MEMORY_STEP;
use super::guard::refused;
use super::{ANSWER_BYTES_MAX, Limits, thread};
use crate::engine::{Engine, EngineConfig};
use crate::error::QueryError;
use crate::model::SqlQuestion;

/// Bytes of a reply: the rows, and room for the rest of the envelope.
const REPLY_BYTES_MAX: u64 = (ANSWER_BYTES_MAX + (2 << 20)) as u64;
/// Bytes of a task; the guard has bounded its query.
const TASK_BYTES_MAX: u64 = 1 << 20;
/// Bytes kept of the end of what a worker says on its standard error.
const LAST_WORDS_BYTES_MAX: usize = 4096;
/// How long a worker that gave no reply may take to end by itself, so that its own status is seen.
const DYING_MAX: Duration = Duration::from_secs(1);
/// Seconds of processor time beyond the time limit, for the case that nobody kills the worker.
const CPU_SLACK_SECONDS: u64 = 30;
/// What executing takes beside the query's own data: stacks of the threads.
const STACK_BYTES: u64 = thread::PLANNING_STACK_BYTES as u64 + (32 << 20);

/// The program that answers by calling [`serve`].
#[derive(Debug, Clone)]
pub struct Program {
    /// Executable.
    pub path: PathBuf,
    /// Arguments that make it call [`serve`] on the engine's data directory.
    pub arguments: Vec<OsString>,
    /// What to set in its environment: an allocator that reserves memory ahead must not, or the limit ends it.
    pub environment: Vec<(String, String)>,
}

#[derive(Serialize, Deserialize)]
struct Task {
    query: String,
    limits: Limits,
}

/// A [`QueryError`] that a worker may have.
#[derive(Serialize, Deserialize)]
enum Failure {
    Refused { reason: String, next_step: String },
    Failed { reason: String },
    Unread { file: Option<String>, reason: String },
    Interrupted,
}

/// Has `question` answered by a worker: JSON of the answer.
pub(super) async fn ask(
    program: &Program,
    question: &SqlQuestion,
    limits: Limits,
    permit: OwnedSemaphorePermit,
) -> Result<Bytes, QueryError> {
    let task = Task { query: question.query.clone(), limits };
    let line = serde_json::to_string(&task).map_err(|_| QueryError::Interrupted)? + "\n";
    let child = Command::new(&program.path)
        .arg0("threadline")
        .args(&program.arguments)
        .envs(program.environment.iter().map(|(name, value)| (name, value)))
        // A backtrace would come after the words that say why, and push them out of what is kept.
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let child = child.map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "cannot start an SQL worker");
        QueryError::Interrupted
    })?;
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(attend(child, line, limits, sender, permit));
    receiver.await.map_err(|_| QueryError::Interrupted)?
}

/// Sees a worker through to its end, whether somebody waits or not.
async fn attend(
    mut child: Child,
    line: String,
    limits: Limits,
    mut sender: oneshot::Sender<Result<Bytes, QueryError>>,
    permit: OwnedSemaphorePermit,
) {
    let limit = Duration::from_millis(limits.time_ms);
    let mut last_words = Vec::new();
    let outcome = tokio::select! {
        outcome = converse(&mut child, line, limits, &mut last_words) => Some(outcome),
        () = tokio::time::sleep(limit) => None,
        () = sender.closed() => None,
    };
    if let Some(Err(QueryError::Interrupted)) = outcome {
        let status = tokio::time::timeout(DYING_MAX, child.wait()).await;
        let status = status.ok().and_then(Result::ok).map(|status| status.to_string());
        let last_words = display::visible_bytes(&last_words, display::Lines::Show);
        tracing::error!(status, last_words, "an SQL worker gave no answer");
    }
    let Some(outcome) = outcome else {
        // The asker does not wait for the end of what it will not get.
        drop(sender.send(Err(QueryError::Timeout { limit_ms: limits.time_ms })));
        end(&mut child).await;
        return drop(permit);
    };
    end(&mut child).await;
    // Before the answer, so that who asks again at once is not sent away.
    drop(permit);
    drop(sender.send(outcome));
}

/// Kills a worker, if it still runs, and reaps it.
async fn end(child: &mut Child) {
    if let Err(error) = child.kill().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot end an SQL worker");
    }
}

async fn converse(
    child: &mut Child,
    line: String,
    limits: Limits,
    last_words: &mut Vec<u8>,
) -> Result<Bytes, QueryError> {
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(QueryError::Interrupted);
    };
    let mut reply = Vec::new();
    let give = async {
        // A worker that is gone already has said why, or will be found without a reply.
        let _gone: std::io::Result<()> = give(&mut stdin, &line).await;
    };
    let mut stdout = stdout.take(REPLY_BYTES_MAX);
    let (_, taken, ()) = tokio::join!(give, stdout.read_to_end(&mut reply), listen(stderr, last_words));
    drop(stdin);
    let whole = taken.is_ok() && (reply.len() as u64) < REPLY_BYTES_MAX;
    match reply.split_first() {
        Some((b'A', _)) if whole => Ok(Bytes::from(reply).slice(1..)),
        Some((b'E', failure)) if whole => match serde_json::from_slice(failure) {
            // A thread of its own died, and has said of what.
            Ok(Failure::Interrupted) | Err(_) => Err(died(last_words, limits)),
            Ok(failure) => Err(failure.into()),
        },
        _ => Err(died(last_words, limits)),
    }
}

/// Reads to the end, so that no worker waits for room to speak, and keeps the last of it: what it died of.
async fn listen(mut stderr: ChildStderr, last_words: &mut Vec<u8>) {
    let mut part = [0; 1024];
    while let Ok(bytes @ 1..) = stderr.read(&mut part).await {
        last_words.extend_from_slice(&part[..bytes]);
        last_words.drain(..last_words.len().saturating_sub(LAST_WORDS_BYTES_MAX));
    }
}

async fn give(stdin: &mut ChildStdin, line: &str) -> std::io::Result<()> {
    stdin.write_all(line.as_bytes()).await?;
    stdin.flush().await
}

/// Why a worker ended without a reply.
fn died(last_words: &[u8], limits: Limits) -> QueryError {
    let last_words = String::from_utf8_lossy(last_words);
    let about_memory = ["memory allocation of", "can't spawn", "Cannot allocate memory", "failed to spawn thread"];
    if about_memory.iter().any(|words| last_words.contains(words)) {
        let reason = format!("the query needs more memory than {} MiB", limits.process_bytes >> 20);
        return refused(reason, MEMORY_STEP);
    }
    if last_words.contains("overflowed its stack") {
        return refused("the query is nested too deeply".into(), "flatten it, or split it into several queries");
    }
    QueryError::Interrupted
}

/// The worker: answers the one task on standard input over the store in `data`.
pub fn serve(data: &Path) -> ExitCode {
    let mut line = String::new();
    let task = std::io::stdin().lock().take(TASK_BYTES_MAX).read_line(&mut line);
    let task = task.ok().and_then(|_| serde_json::from_str::<Task>(&line).ok());
    let Some(task) = task else { return ExitCode::FAILURE };
    bound(task.limits);
    end_with_the_asker();
    let reply = match answer(data, task) {
        Ok(text) => [b"A".as_slice(), text.as_bytes()].concat(),
        Err(error) => {
            let failure = serde_json::to_vec(&Failure::from(error)).unwrap_or_default();
            [b"E".as_slice(), &failure].concat()
        }
    };
    let mut out = std::io::stdout().lock();
    match out.write_all(&reply).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn answer(data: &Path, task: Task) -> Result<String, QueryError> {
    let config = EngineConfig { sql_worker: None, ..EngineConfig::default() };
    let engine = Arc::new(Engine::new(Reader::open(data)?, config));
    let receiver = thread::start(engine, task.query, task.limits, None)?;
    let answer = receiver.blocking_recv().map_err(|_| QueryError::Interrupted)??;
    crate::api::text(&answer).ok_or(QueryError::Interrupted)
}

/// Limits that hold whatever happens below. Where the system refuses one, the others still hold.
fn bound(limits: Limits) {
    let seconds = limits.time_ms / 1000 + CPU_SLACK_SECONDS;
    let bounds = [(Resource::Data, limits.process_bytes + STACK_BYTES), (Resource::Cpu, seconds), (Resource::Core, 0)];
    for (resource, most) in bounds {
        if let Err(error) = setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) }) {
            tracing::warn!("an SQL worker runs without its limit {resource:?}: {error}");
        }
    }
}

/// Input ends when the asker has its reply, or is gone.
fn end_with_the_asker() {
    std::thread::spawn(|| {
        let mut rest = [0; 64];
        while std::io::stdin().read(&mut rest).is_ok_and(|bytes| bytes > 0) {}
        std::process::exit(1);
    });
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::SqlRefused { reason, next_step } => Failure::Refused { reason, next_step },
            QueryError::SqlFailed { reason } => Failure::Failed { reason },
            QueryError::Unread { file, reason } => Failure::Unread { file, reason },
            QueryError::Store(error) => {
                Failure::Unread { file: super::failure::error_file(&error), reason: error.to_string() }
            }
            _ => Failure::Interrupted,
        }
    }
}

impl From<Failure> for QueryError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused { reason, next_step } => QueryError::SqlRefused { reason, next_step },
            Failure::Failed { reason } => QueryError::SqlFailed { reason },
            Failure::Unread { file, reason } => QueryError::Unread { file, reason },
            Failure::Interrupted => QueryError::Interrupted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(script: &str) -> Result<Bytes, QueryError> {
        let arguments = vec!["-c".into(), script.into()];
        let program = Program { path: "/bin/sh".into(), arguments, environment: Vec::new() };
        let question = SqlQuestion { query: "select 1".into(), limit: None, timeout_ms: None };
        let limits =
            Limits { rows_max: 1, time_ms: 60_000, pool_bytes: 1, process_bytes: 384 << 20, links_rows_max: 1 };
        let permits = Arc::new(tokio::sync::Semaphore::new(1));
        ask(&program, &question, limits, permits.acquire_owned().await.unwrap()).await
    }

    #[tokio::test]
    async fn what_a_worker_says_last_is_heard_however_much_it_says() {
        let warnings = "seq 100000 | sed 's/^/cannot allocate, warning /' >&2";
        let refused = asked(&format!("{warnings}; echo 'memory allocation of 8 bytes failed' >&2; exit 134")).await;
        assert!(
            matches!(&refused, Err(QueryError::SqlRefused { reason, .. }) if reason.contains("384 MiB")),
            "{refused:?}"
        );
        let died = asked(&format!("{warnings}; exit 3")).await;
        assert!(matches!(died, Err(QueryError::Interrupted)), "{died:?}");
        let panicked = asked(r#"echo 'OS can'"'"'t spawn worker thread' >&2; printf 'E"Interrupted"'"#).await;
        assert!(matches!(panicked, Err(QueryError::SqlRefused { .. })), "{panicked:?}");
        assert_eq!(asked("printf 'A1'").await.unwrap(), "1");
    }
}
