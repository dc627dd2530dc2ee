//! How forwarding stands, from what the sinks wrote down: for `forward status`, the page and `/metrics`.
//!
//! Lag is counted from the cursor to the newest commit by whoever asks, so it grows also when nobody forwards.

use std::path::Path;

use serde::{Deserialize, Serialize};
use threadline_store::Commits;
use utoipa::ToSchema;

use super::ForwardError;
use super::pages::Pages;
use super::position::Position;
pub use super::state::{Counts, DeadLetterLine, LastError};
use super::state::{Cursor, Doing, folder, newest_dead_letters, read_json};
use crate::engine::{Engine, answer, completeness};
use crate::error::QueryError;
use crate::model::Answer;

/// Commits that are looked at to count the lag; more are reported as "at least".
const LAG_COMMITS_MAX: i64 = 10_000;
/// Dead letters that an answer names.
pub const DEAD_LETTERS_SHOWN: usize = 100;

/// One sink, as it stands.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// Type of its receiver.
    pub kind: String,
    /// OCSF version of its events.
    pub ocsf_version: String,
    /// `delivering`, `idle`, `retrying`, `stopped`, or `not running`.
    pub state: String,
    /// Why, where something is wrong.
    pub reason: Option<String>,
    /// When the receiver last acknowledged something, RFC 3339.
    pub last_delivery: Option<String>,
    /// What went wrong last, also when it is over.
    pub last_error: Option<LastError>,
    /// Committed records that are not delivered yet.
    pub lag_rows: u64,
    /// Whether there are more than counted.
    pub lag_is_more: bool,
    /// Age of the oldest commit that is not delivered whole, seconds.
    pub lag_s: i64,
    /// Version of the table up to which everything is delivered.
    pub version: i64,
    /// What was counted since its beginning.
    #[serde(flatten)]
    pub counts: Counts,
    /// Dead letters.
    pub dead_letters: u64,
    /// The newest of them, 100 at most.
    pub newest_dead_letters: Vec<DeadLetterLine>,
}

/// Every sink that ever ran over this data directory, by name.
///
/// # Errors
/// When what a sink wrote down cannot be read.
pub async fn statuses(data: &Path) -> Result<Vec<SinkStatus>, ForwardError> {
    let mut names: Vec<String> = match std::fs::read_dir(data.join("forward")) {
        Err(_) => return Ok(Vec::new()),
        Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect(),
    };
    names.sort();
    let commits = Commits::open(data)?;
    let mut found = Vec::new();
    for name in names {
        found.extend(status(&commits, data, name).await?);
    }
    Ok(found)
}

impl Engine {
    /// Where records are forwarded to, and how far behind.
    pub async fn forward(&self) -> Result<Answer<Vec<SinkStatus>>, QueryError> {
        let snapshot = self.snapshot().await?;
        let found = statuses(snapshot.data_dir()).await.map_err(|error| QueryError::Forward(Box::new(error)))?;
        let mut completeness = completeness(&snapshot);
        completeness.notes.push("records that are not sealed yet are not forwarded yet, and not counted as lag".into());
        Ok(answer(found, None, completeness))
    }
}

async fn status(commits: &Commits, data: &Path, name: String) -> Result<Option<SinkStatus>, ForwardError> {
    let dir = folder(data, &name);
    let Some(cursor) = read_json(&dir.join("cursor.json"))? else { return Ok(None) };
    let Cursor { delivered, counts, last_delivery, last_error, .. } = cursor;
    let doing: Doing = read_json(&dir.join("status.json"))?.unwrap_or_default();
    let (dead_letters, newest_dead_letters) = newest_dead_letters(&dir, DEAD_LETTERS_SHOWN)?;
    let lag = lag(commits, delivered).await?;
    let is_over = matches!(doing.state.as_str(), "stopped" | "ended" | "");
    let state = match doing.state.as_str() {
        "stopped" => "stopped",
        _ if is_over || !is_alive(doing.pid) => "not running",
        state => state,
    };
    // Nobody forwards and nothing was delivered since: that is why.
    let unresolved = last_error.as_ref().filter(|error| last_delivery.as_ref().is_none_or(|at| *at < error.at));
    let unresolved = unresolved.filter(|_| state == "not running").map(|error| error.reason.clone());
    Ok(Some(SinkStatus {
        state: state.into(),
        name,
        kind: doing.kind,
        ocsf_version: doing.ocsf_version,
        reason: doing.reason.or(unresolved),
        last_delivery,
        last_error,
        lag_rows: lag.rows,
        lag_is_more: lag.is_more,
        lag_s: lag.oldest_ms.map_or(0, |ms| (chrono::Utc::now().timestamp_millis() - ms).max(0) / 1000),
        version: delivered.version,
        counts,
        dead_letters,
        newest_dead_letters,
    }))
}

#[derive(Debug, Default)]
struct Lag {
    rows: u64,
    is_more: bool,
    oldest_ms: Option<i64>,
}

async fn lag(commits: &Commits, delivered: Position) -> Result<Lag, ForwardError> {
    let mut lag = Lag::default();
    let place = Pages::place(commits, delivered).await?;
    for version in delivered.version.. {
        let Some(commit) = commits.read(version).await? else { break };
        let mut rows = commit.rows();
        if version == delivered.version {
            let done = commit.files.iter().take(place.file as usize).map(|file| u64::from(file.rows)).sum::<u64>();
            rows = rows.saturating_sub(done + u64::from(place.row));
        }
        if rows > 0 {
            lag.rows += rows;
            lag.oldest_ms.get_or_insert(commit.time_ms);
        }
        if version - delivered.version >= LAG_COMMITS_MAX {
            lag.is_more = true;
            break;
        }
    }
    Ok(lag)
}

fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// The newest version of the table; -1 while there is none.
pub fn newest_version(data: &Path) -> i64 {
    let Ok(entries) = std::fs::read_dir(data.join("records/_delta_log")) else { return -1 };
    let version = |name: String| name.strip_suffix(".json")?.parse::<i64>().ok();
    entries.flatten().filter_map(|entry| version(entry.file_name().into_string().ok()?)).max().unwrap_or(-1)
}
