//! Records for a server elsewhere (`--to URL`): first into a synced outbox of our own, then over HTTP until they are there.
//!
//! Invariants
//! - [`Outbox::append`] returns once the records are synced here; the server may be away for as long as the disk lasts
//! - a record leaves the outbox only after the server answered 2xx for it; what is sent twice is stored once, because the
//!   delivery key travels as the event's `id`
//! - one process owns an outbox; what a process left behind is taken over by the next one that finds it unowned
//! - a batch that the server refuses for good (4xx) is halved down to the one record at fault, which is logged by id and
//!   dropped, so that it does not block the rest
//!
//! On disk: `<state>/<uuid>/` is a log directory of the store with records in their log encoding.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::{StatusCode, Url, header};
use threadline_schemas::{Record, encoding, wire};
use threadline_store::log::{Log, LogConfig, LogError};
use threadline_store::{AppendError, Receipt};
use tokio::sync::watch;
use uuid::Uuid;

#[cfg(test)]
mod tests;

/// Events in one request.
const BATCH_EVENTS_MAX: usize = 500;
/// Bytes in one request, unless one event alone has more.
const BATCH_BYTES_MAX: usize = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const WAIT_FIRST: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Where records are sent.
#[derive(Clone)]
pub struct Target {
    url: Url,
    token: Option<Arc<str>>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target({})", self.url.host_str().unwrap_or_default())
    }
}

/// Why an outbox cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// Not a URL of a server.
    #[error("a server is named by an http or https URL without user and password")]
    Url,
    /// The HTTP client could not be made.
    #[error("cannot make an HTTP client")]
    Client(#[source] reqwest::Error),
    /// The state directory cannot be read.
    #[error("cannot list {}", dir.display())]
    List {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The log of the outbox.
    #[error("cannot open the outbox")]
    Log(#[source] LogError),
}

impl Target {
    /// The server at `url`, such as `https://threadline.example:7700`, and the token it asks for.
    pub fn new(url: &str, token: Option<String>) -> Result<Self, OutboxError> {
        let base = Url::parse(url).map_err(|_| OutboxError::Url)?;
        let is_plain = base.username().is_empty() && base.password().is_none() && base.query().is_none();
        if !matches!(base.scheme(), "http" | "https") || !is_plain {
            return Err(OutboxError::Url);
        }
        let path = format!("{}/api/v1/events", base.path().trim_end_matches('/'));
        let url = base.join(&path).map_err(|_| OutboxError::Url)?;
        Ok(Target { url, token: token.map(Arc::from) })
    }
}

/// A synced queue of records and the task that sends them.
#[derive(Debug)]
pub struct Outbox {
    log: Arc<Log>,
    /// Offsets below are with the server.
    sent: watch::Receiver<u64>,
    news: watch::Sender<u64>,
}

impl Outbox {
    /// Opens a new outbox below `state` and starts sending; also what earlier processes left there.
    ///
    /// # Errors
    /// When the directory cannot be used. A server that is away is no error.
    pub fn open(state: &Path, target: Target) -> Result<Outbox, OutboxError> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(OutboxError::Client)?;
        let sender = Arc::new(Sender { client, target });
        for left in left_behind(state)? {
            let sender = Arc::clone(&sender);
            tokio::spawn(async move { sender.send_left(&left).await });
        }
        let dir = state.join(Uuid::new_v4().to_string());
        let (log, _) = Log::open(&dir, log_config()).map_err(OutboxError::Log)?;
        let log = Arc::new(log);
        let (news, appended) = watch::channel(0);
        let (done, sent) = watch::channel(0);
        tokio::spawn(sender.send_all(Arc::clone(&log), appended, done));
        Ok(Outbox { log, sent, news })
    }

    /// Makes records durable here; they are sent in the background.
    pub(crate) async fn append(&self, records: Vec<Record>) -> Result<Receipt, AppendError> {
        let accepted = records.len();
        let mut batch: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        for record in &records {
            let frame = Bytes::from(encoding::encode(record));
            bytes += frame.len();
            batch.push(frame);
            if bytes > BATCH_BYTES_MAX {
                self.log.append(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
        }
        self.log.append(batch).await?;
        // The receiver lives as long as the sending task.
        self.news.send_replace(self.log.next_offset());
        Ok(Receipt { accepted, duplicates: 0 })
    }

    /// Waits until everything appended so far is with the server, at most `timeout`; whether it is.
    pub async fn flush(&self, timeout: Duration) -> bool {
        let end = self.log.next_offset();
        let mut sent = self.sent.clone();
        let arrived = tokio::time::timeout(timeout, async { sent.wait_for(|sent| *sent >= end).await.is_ok() });
        arrived.await.unwrap_or(false)
    }
}

fn log_config() -> LogConfig {
    LogConfig { segment_bytes_max: 40 << 20, preallocate_bytes: 256 << 10, ..LogConfig::default() }
}

/// Outboxes below `state`, owned or not.
fn left_behind(state: &Path) -> Result<Vec<PathBuf>, OutboxError> {
    let listed = |source| OutboxError::List { dir: state.to_path_buf(), source };
    let entries = match std::fs::read_dir(state) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(listed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(listed)?.path();
        let is_ours = path.file_name().and_then(|name| Uuid::try_parse(name.to_str()?).ok()).is_some();
        found.extend(is_ours.then_some(path));
    }
    Ok(found)
}

#[derive(Debug)]
struct Sender {
    client: reqwest::Client,
    target: Target,
}

/// What the server said to a batch.
enum Answer {
    Stored,
    /// It will say the same again.
    Refused(StatusCode),
    /// Try again later.
    Away,
}

impl Sender {
    /// Sends what is in the log and what is added to it, until the outbox is dropped.
    async fn send_all(self: Arc<Self>, log: Arc<Log>, mut appended: watch::Receiver<u64>, done: watch::Sender<u64>) {
        loop {
            if !self.drain(&log, &done).await || appended.changed().await.is_err() {
                return;
            }
        }
    }

    /// Sends an outbox that nobody owns, and removes it.
    async fn send_left(&self, dir: &Path) {
        let opening = {
            let dir = dir.to_path_buf();
            tokio::task::spawn_blocking(move || Log::open(&dir, log_config()))
        };
        let log = match opening.await {
            Ok(Ok((log, _))) => Arc::new(log),
            Ok(Err(LogError::Locked { .. })) | Err(_) => return,
            Ok(Err(error)) => {
                tracing::warn!(dir = %dir.display(), error = &error as &dyn std::error::Error, "an outbox cannot be opened");
                return;
            }
        };
        let (done, _sent) = watch::channel(0);
        if self.drain(&log, &done).await
            && log.close().await.is_ok()
            && let Err(error) = std::fs::remove_dir_all(dir)
        {
            tracing::warn!(dir = %dir.display(), %error, "an outbox that was sent cannot be removed");
        }
    }

    /// Sends all that is acknowledged; `false` when the log cannot be read.
    async fn drain(&self, log: &Arc<Log>, done: &watch::Sender<u64>) -> bool {
        loop {
            let from = *done.borrow();
            let reading = Arc::clone(log);
            let batch = match tokio::task::spawn_blocking(move || read_batch(&reading, from)).await {
                Ok(Ok(batch)) => batch,
                Ok(Err(error)) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "the outbox cannot be read");
                    return false;
                }
                Err(_) => return false,
            };
            if batch.next == from {
                return true;
            }
            self.deliver(&batch.events).await;
            if let Err(error) = log.trim(batch.next).await {
                // It only costs space: what is sent again counts as duplicate.
                tracing::warn!(error = &error as &dyn std::error::Error, "the outbox cannot be trimmed");
            }
            done.send_replace(batch.next);
        }
    }

    /// Returns once the server has every event that it does not refuse.
    async fn deliver(&self, events: &[Event]) {
        let mut waiting = vec![events];
        let mut wait = WAIT_FIRST;
        while let Some(batch) = waiting.pop() {
            match self.post(batch).await {
                Answer::Stored => wait = WAIT_FIRST,
                Answer::Away => {
                    waiting.push(batch);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(WAIT_MAX);
                }
                Answer::Refused(status) if batch.len() > 1 => {
                    tracing::debug!(%status, events = batch.len(), "batch refused, halving it");
                    let (first, second) = batch.split_at(batch.len() / 2);
                    waiting.extend([second, first]);
                }
                Answer::Refused(status) => {
                    let id = batch.first().map(|event| event.id.to_string());
                    tracing::error!(%status, event_id = id, "the server refuses a record; it is dropped");
                }
            }
        }
    }

    async fn post(&self, events: &[Event]) -> Answer {
        let body: String = events.iter().flat_map(|event| [event.line.as_str(), "\n"]).collect();
        let mut request =
            self.client.post(self.target.url.clone()).header(header::CONTENT_TYPE, "application/x-ndjson");
        if let Some(token) = &self.target.token {
            request = request.bearer_auth(token);
        }
        match request.body(body).send().await.map(|response| response.status()) {
            Ok(status) if status.is_success() => Answer::Stored,
            // Wrong or expired tokens and busy servers are put right by people and time.
            Ok(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) => Answer::Away,
            Ok(StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) => Answer::Away,
            Ok(status) if status.is_client_error() => Answer::Refused(status),
            Ok(status) => {
                tracing::debug!(%status, "the server cannot take records now");
                Answer::Away
            }
            Err(error) => {
                tracing::debug!(is_timeout = error.is_timeout(), "the server cannot be reached");
                Answer::Away
            }
        }
    }
}

/// An event on its way.
struct Event {
    id: Uuid,
    line: String,
}

struct Batch {
    events: Vec<Event>,
    /// Offset after the last frame.
    next: u64,
}

fn read_batch(log: &Log, from: u64) -> Result<Batch, LogError> {
    let mut batch = Batch { events: Vec::new(), next: from };
    let mut bytes = 0;
    for frame in log.frames(from) {
        let (offset, payload) = frame?;
        batch.next = offset + 1;
        match encoding::decode(&payload) {
            Ok(record) => {
                let line = wire::write_event(&record);
                bytes += line.len();
                batch.events.push(Event { id: record.event_id, line });
            }
            Err(error) => tracing::error!(offset, %error, "a frame of the outbox is no record; it is dropped"),
        }
        if batch.events.len() >= BATCH_EVENTS_MAX || bytes >= BATCH_BYTES_MAX {
            break;
        }
    }
    Ok(batch)
}
