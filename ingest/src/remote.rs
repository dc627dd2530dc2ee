//! Records for a server elsewhere (`--to URL`): first into a synced outbox of our own, then over HTTP until they are there.
//! Taps, `watch` and `import` use it alike.
//!
//! Invariants
//! - [`Outbox::append`] returns once the records are synced here; the server may be away for as long as the disk lasts
//! - while the disk is full, records go to the server without the outbox, behind all that is in it; appending then returns
//!   once the server has them. A run that begins on a full disk has no outbox until there is room for one
//! - a record leaves the outbox only after the server answered 2xx for it; what is sent twice is stored once, because the
//!   delivery key travels as the event's `id`
//! - every record bears who collected it and its number within this run (`threadline.stream`, `threadline.sequence`): the
//!   receiver makes a `gap` record of numbers that never come (`streams`)
//! - one process owns an outbox; what a process left behind for the same server is taken over by the next one, and one that
//!   was killed gets its `gap` record then
//! - of each run a note stands outside of its outbox: what was recorded and is neither sent nor there any more becomes a
//!   `gap` record with its count, also when somebody deleted the outbox or shortened its log
//! - a batch that the server refuses for good (4xx) is halved down to the one record at fault, which is logged by id and
//!   dropped, so that it does not block the rest
//!
//! On disk, below the state directory: `collector.json` (who we are), `match.key`, `outbox/<uuid>/` (a spool of the store),
//! `streams/<uuid>` (the note, see `note`).

mod identity;
mod note;
mod sender;
#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use reqwest::Url;
use threadline_schemas::{Collector, Record, encoding};
use threadline_store::inbox::{End, Inbox, InboxError, Removal, Spool, SpoolDrain};
use threadline_store::log::LogConfig;
use threadline_store::{AppendError, Receipt, StoreError};
use tokio::sync::{Mutex, watch};
use tokio::task::{AbortHandle, JoinSet};
use uuid::Uuid;

use self::identity::Identity;
use self::note::{Claim, Meta, Note};
use self::sender::{Sender, Stream};
use crate::pipeline::{Destination, Pipeline, PipelineConfig};
use crate::streams::{self, Lost, Marker};

/// Bytes that are synced at once, unless one record alone has more.
const APPEND_BYTES_MAX: usize = 4 << 20;
/// How long the server may take, per step forward, for what finds no room on the disk: more than the sender's longest wait.
const PASSING_PATIENCE: Duration = Duration::from_secs(10);

/// Where records are sent.
#[derive(Clone)]
pub struct Target {
    url: Url,
    token: Option<Arc<str>>,
    authorities: Vec<reqwest::Certificate>,
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
    /// A token would travel in the clear.
    #[error("a token is sent to another machine over https only")]
    PlainToken,
    /// Not a certificate.
    #[error("the certificate authority is not a PEM certificate")]
    Authority,
    /// The HTTP client could not be made.
    #[error("cannot make an HTTP client")]
    Client(#[source] reqwest::Error),
    /// A file of the state directory.
    #[error("cannot use {}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The spool.
    #[error("cannot use the outbox")]
    Spool(#[from] InboxError),
    /// What an earlier run lost could not be noted.
    #[error("cannot record what an earlier run lost")]
    Append(#[from] AppendError),
    /// A redaction rule.
    #[error(transparent)]
    Redact(#[from] crate::redact::RedactError),
}

impl Target {
    /// The server at `url`, such as `https://threadline.example:7700`; the token it asks for; a certificate authority (PEM)
    /// to trust beside the public ones.
    ///
    /// # Errors
    /// When the URL cannot be used, and when the token would go to another machine in the clear.
    pub fn new(url: &str, token: Option<String>, authority: Option<&[u8]>) -> Result<Self, OutboxError> {
        let base = Url::parse(url).map_err(|_| OutboxError::Url)?;
        let is_plain = base.username().is_empty() && base.password().is_none() && base.query().is_none();
        if !matches!(base.scheme(), "http" | "https") || !is_plain {
            return Err(OutboxError::Url);
        }
        if base.scheme() == "http" && token.is_some() && !is_loopback(&base) {
            return Err(OutboxError::PlainToken);
        }
        let path = format!("{}/api/v1/events", base.path().trim_end_matches('/'));
        let url = base.join(&path).map_err(|_| OutboxError::Url)?;
        let authorities = match authority.map(reqwest::Certificate::from_pem_bundle) {
            None => Vec::new(),
            Some(Ok(certificates)) if !certificates.is_empty() => certificates,
            Some(_) => return Err(OutboxError::Authority),
        };
        Ok(Target { url, token: token.map(Arc::from), authorities })
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        None => false,
    }
}

/// Who collects.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Which collector it is.
    pub collector: Collector,
    /// The source, such as the name of an MCP server.
    pub source_name: String,
}

/// What became of the records of an outbox so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Offsets below are with the server, or refused by it.
    done: u64,
    /// Records that the server has.
    pub sent: u64,
    /// Of them, those that it had before.
    pub duplicates: u64,
    /// Records that it refused for good.
    pub refused: u64,
}

impl Delivery {
    fn with(self, other: Delivery) -> Delivery {
        Delivery {
            done: self.done.max(other.done),
            sent: self.sent + other.sent,
            duplicates: self.duplicates + other.duplicates,
            refused: self.refused + other.refused,
        }
    }
}

/// A synced queue of records and the task that sends them.
#[derive(Debug)]
pub struct Outbox {
    state: PathBuf,
    meta: Meta,
    /// What is on disk; nothing while there was no room for it.
    kept: OnceLock<Kept>,
    marker: Marker,
    /// Number of the next record.
    next: Mutex<u64>,
    /// Offset behind the last record that was appended.
    news: watch::Sender<u64>,
    delivery: watch::Receiver<Delivery>,
    /// For the task that will send.
    telling: std::sync::Mutex<Option<watch::Sender<Delivery>>>,
    /// What went to the server without the outbox.
    passed: std::sync::Mutex<Delivery>,
    sender: Arc<Sender>,
    /// Outboxes of earlier processes on their way.
    left: Mutex<JoinSet<()>>,
}

/// The part of an outbox that is on disk, and the task that sends from it.
#[derive(Debug)]
struct Kept {
    spool: Spool,
    drain: SpoolDrain,
    note: Arc<Note>,
    sending: AbortHandle,
}

/// A pipeline to a server elsewhere, and its outbox. Fingerprints are made under the key of `state`.
///
/// # Errors
/// When the state directory cannot be used; a server that is away is no error.
pub async fn pipeline(
    state: &Path,
    target: Target,
    origin: &Origin,
) -> Result<(Arc<Pipeline>, Arc<Outbox>), OutboxError> {
    let key = match identity::match_key(state) {
        Err(error) if is_full(&error) => {
            tracing::warn!("the disk is full: fingerprints of this run are under a key of its own and match no others");
            identity::passing_key(state)?
        }
        key => key?,
    };
    let outbox = Outbox::open(state, target, origin).await?;
    let destination = Destination::Remote(Arc::clone(&outbox));
    Ok((Arc::new(Pipeline::with(destination, key, PipelineConfig::default())?), outbox))
}

impl Outbox {
    /// Opens a new outbox below `state` and starts sending; also what earlier processes left there for the same server.
    ///
    /// # Errors
    /// When the directory cannot be used. A server that is away is no error.
    pub async fn open(state: &Path, target: Target, origin: &Origin) -> Result<Arc<Outbox>, OutboxError> {
        let id = match Identity::of(state) {
            // Nothing of this run stays here, so neither does its name.
            Err(error) if is_full(&error) => Uuid::new_v4(),
            identity => identity?.id,
        };
        let server = target.url.to_string();
        let meta = Meta::new(id, origin, &server);
        let (done, delivery) = watch::channel(Delivery::default());
        let outbox = Arc::new(Outbox {
            state: state.to_path_buf(),
            marker: meta.marker(),
            meta,
            kept: OnceLock::new(),
            next: Mutex::new(0),
            news: watch::Sender::new(0),
            delivery,
            telling: std::sync::Mutex::new(Some(done)),
            passed: std::sync::Mutex::default(),
            sender: Arc::new(Sender::new(target)?),
            left: Mutex::default(),
        });
        match outbox.keep(0) {
            Ok(_) => {}
            Err(error) if is_full(&error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "no room for an outbox: records go to the server at once");
            }
            Err(error) => return Err(error),
        }
        let inbox = match Inbox::at(&state.join("outbox")).map_err(OutboxError::from) {
            // So there is nothing of earlier runs either.
            Err(error) if is_full(&error) => return Ok(outbox),
            inbox => inbox?,
        };
        if let Err(error) = inbox.sweep() {
            tracing::warn!(error = &error as &dyn std::error::Error, "what interrupted spools left stays");
        }
        outbox.report_lost(state, &inbox, &server).await?;
        outbox.take_over(state, &inbox, &server).await?;
        Ok(outbox)
    }

    /// The part on disk, made when there is none yet; the records before `next` are with the server then.
    fn keep(&self, next: u64) -> Result<&Kept, OutboxError> {
        if let Some(kept) = self.kept.get() {
            return Ok(kept);
        }
        let inbox = Inbox::at(&self.state.join("outbox"))?;
        // The note first: a crash between the two leaves a note that says nothing was recorded.
        let note = Arc::new(Note::create(&self.state, self.meta.clone())?);
        note.recorded(next);
        note.sent(next);
        let drain = inbox.spool(self.meta.stream);
        let spool = match Spool::create_in(&inbox, drain.id(), &self.meta.source_name, log_config()) {
            Ok(spool) => spool,
            Err(error) => {
                // What there is of it holds nothing, and would be in the way of the next attempt.
                note.remove();
                if let Err(error) = std::fs::remove_dir_all(drain.dir())
                    && error.kind() != ErrorKind::NotFound
                {
                    tracing::warn!(%error, "what there is of an outbox stays");
                }
                return Err(error.into());
            }
        };
        let stream = Stream::new(drain.clone(), Some(Arc::clone(&note)));
        let telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        let sending = Arc::clone(&self.sender).send_own(stream, self.news.subscribe(), telling);
        let kept = Kept { spool, drain, note, sending: tokio::spawn(sending).abort_handle() };
        Ok(self.kept.get_or_init(|| kept))
    }

    /// Makes records durable here; they are sent in the background.
    pub(crate) async fn append(&self, records: Vec<Record>) -> Result<Receipt, AppendError> {
        let accepted = records.len();
        // Held over the append, so that numbers stand in the order of the log and only what is durable has one.
        let mut next = self.next.lock().await;
        let mut records = records.into_iter();
        loop {
            let (mut frames, mut bytes, mut sequence) = (Vec::new(), 0, *next);
            for mut record in records.by_ref() {
                self.marker.mark(&mut record, sequence);
                sequence += 1;
                let frame = Bytes::from(encoding::encode(&record));
                bytes += frame.len();
                frames.push(frame);
                if bytes > APPEND_BYTES_MAX {
                    break;
                }
            }
            if frames.is_empty() {
                return Ok(Receipt { accepted, ..Receipt::default() });
            }
            let appended = match self.keep(*next) {
                Ok(kept) => kept.spool.append(frames.clone()).await.map_err(AppendError::from),
                // Whatever else is wrong with the place, too, the server may take it.
                Err(_) => Err(AppendError::NoSpace),
            };
            match appended {
                // The receiver lives as long as the sending task.
                Ok(range) => {
                    self.news.send_replace(range.end);
                }
                Err(AppendError::NoSpace) => self.pass(&frames, sequence).await?,
                Err(error) => return Err(error),
            }
            *next = sequence;
            if let Some(kept) = self.kept.get() {
                kept.note.recorded(sequence);
            }
        }
    }

    /// Has the server take what finds no room here: once it has all that is, so that the order stays.
    async fn pass(&self, frames: &[Bytes], sequence: u64) -> Result<(), AppendError> {
        let mut delivery = Delivery::default();
        let is_empty = self.flush(PASSING_PATIENCE).await;
        if !is_empty || !self.sender.pass(frames, PASSING_PATIENCE, &mut delivery).await {
            return Err(AppendError::NoSpace);
        }
        if let Some(kept) = self.kept.get() {
            kept.note.sent(sequence);
        }
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        *passed = passed.with(delivery);
        Ok(())
    }

    /// Why the server takes nothing, with what to do about it; `None` while it does.
    pub fn trouble(&self) -> Option<String> {
        self.sender.trouble().map(|trouble| trouble.to_string())
    }

    /// What became of the records so far.
    pub fn delivery(&self) -> Delivery {
        self.delivery.borrow().with(*self.passed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until everything appended so far is with the server, for as long as it goes on within `patience`; whether it is.
    pub async fn flush(&self, patience: Duration) -> bool {
        let end = *self.news.borrow();
        let mut delivery = self.delivery.clone();
        while delivery.borrow_and_update().done < end {
            match tokio::time::timeout(patience, delivery.changed()).await {
                Ok(Ok(())) => {}
                // The server is away, or the sending task has ended.
                Ok(Err(_)) | Err(_) => return false,
            }
        }
        true
    }

    /// Marks the end of the run and waits as [`Outbox::flush`] does, also for what earlier processes left. What is sent by
    /// then is gone from the disk, the rest is left to the next run. Says whether everything is with the server.
    ///
    /// # Errors
    /// When the end cannot be marked and something is left: the run then looks as if it had been killed.
    pub async fn close(&self, patience: Duration) -> Result<bool, AppendError> {
        let Some(Kept { spool, drain, note, sending }) = self.kept.get() else {
            // Everything went to the server at once.
            return Ok(true);
        };
        // First, so that whoever gives up on the waiting does not leave the sign of a killed process.
        let marked = spool.mark_end().await;
        let mut is_sent = self.flush(patience).await;
        if is_sent {
            let mut left = self.left.lock().await;
            let finishing = async { while left.join_next().await.is_some() {} };
            if tokio::time::timeout(patience, finishing).await.is_err() {
                tracing::warn!("what earlier runs left is not all sent; the next run goes on with it");
            }
            // They may have had something to tell.
            is_sent = self.flush(patience).await;
        }
        let closed = spool.close().await;
        if is_sent {
            // Or it looks once more into what is removed now, and takes that for damage.
            sending.abort();
            // Not only where the disk had room for the mark that it was sent.
            if matches!(drain.remove(), Ok(Removal::Removed)) {
                note.remove();
                return Ok(true);
            }
        }
        marked.and(closed).map_err(StoreError::from)?;
        Ok(is_sent)
    }

    /// Makes a `gap` record of what earlier runs recorded and neither sent nor have any more.
    async fn report_lost(&self, state: &Path, inbox: &Inbox, server: &str) -> Result<(), OutboxError> {
        for note in note::claim_all(state)? {
            if note.meta.server != server || inbox.spool(note.meta.stream).dir().exists() {
                continue;
            }
            match self.append(note.lost("the outbox is gone").into_iter().collect()).await {
                // The note stays for the next run.
                Err(AppendError::NoSpace) => continue,
                told => told?,
            };
            // A crash before this repeats the record under the same id.
            note.remove();
        }
        Ok(())
    }

    /// Sends outboxes that nobody owns.
    async fn take_over(self: &Arc<Self>, state: &Path, inbox: &Inbox, server: &str) -> Result<(), OutboxError> {
        for spool in inbox.spools()? {
            if spool.id() == self.meta.stream || spool.owner_alive().unwrap_or(true) {
                continue;
            }
            let note = match Note::claim(state, spool.id())? {
                Claim::Taken => continue,
                Claim::Ours(note) if note.meta.server != server => continue,
                Claim::Ours(note) => Some(Arc::new(*note)),
                // Somebody removed the note: what is there is sent all the same.
                Claim::None => None,
            };
            self.left.lock().await.spawn(finish(Arc::clone(&self.sender), Arc::downgrade(self), spool, note));
        }
        Ok(())
    }
}

/// Sends what another process left behind, tells how it ended, and removes it.
async fn finish(sender: Arc<Sender>, outbox: std::sync::Weak<Outbox>, spool: SpoolDrain, note: Option<Arc<Note>>) {
    let (done, _delivery) = watch::channel(Delivery::default());
    let sent = sender.drain(&mut Stream::new(spool.clone(), note.clone()), &done).await;
    let finishing = async {
        let mut signs = Vec::new();
        let mut is_damaged = false;
        if let Err(error) = sent {
            tracing::error!(spool = %spool.id(), error = &error as &dyn std::error::Error, "an outbox cannot be read");
            signs.extend(note.as_ref().and_then(|note| note.lost("the outbox is damaged")));
            is_damaged = true;
        } else {
            match spool.end("default")? {
                End::Open => return Ok(()),
                End::Closed => {}
                End::Abandoned(gap) => signs.push(*gap),
            }
            // A log that lost its end, or all of it, reads as one that holds less.
            signs.extend(note.as_ref().and_then(|note| note.lost("the outbox holds fewer")));
        }
        let Some(outbox) = outbox.upgrade() else { return Ok(()) };
        outbox.append(signs).await?;
        // A crash before this repeats the signs under the same ids.
        if is_damaged {
            spool.set_aside()?;
        } else {
            spool.remove_if_finished()?;
        }
        if let Some(note) = note {
            note.remove();
        }
        Ok::<(), OutboxError>(())
    };
    if let Err(error) = finishing.await {
        tracing::warn!(spool = %spool.id(), error = &error as &dyn std::error::Error, "an outbox that was sent stays");
    }
}

impl Note {
    /// What was recorded and not sent, as a `gap` record; `None` when everything was.
    fn lost(&self, reason: &'static str) -> Option<Record> {
        let counts = self.counts();
        let lost = Lost { marker: self.meta.marker(), from: counts.sent, to: counts.recorded, reason };
        (counts.recorded > counts.sent)
            .then(|| streams::gap(&lost, &self.meta.source_name, Utc::now().timestamp_micros()))
    }
}

/// Whether the disk has no room.
fn is_full(error: &OutboxError) -> bool {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let kinds = causes.filter_map(|error| error.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    kinds.into_iter().any(|kind| matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
}

fn log_config() -> LogConfig {
    LogConfig { segment_bytes_max: 40 << 20, preallocate_bytes: 256 << 10, ..LogConfig::default() }
}

/// A state directory, as `threadline doctor` sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Records that are not with their server yet, by server.
    pub records: std::collections::BTreeMap<String, u64>,
    /// Identity of this collector, if it ever sent something.
    pub collector: Option<Uuid>,
}

/// What waits in a state directory to be sent; changes nothing.
///
/// # Errors
/// When the directory cannot be read.
pub fn waiting(state: &Path) -> Result<Waiting, OutboxError> {
    let mut waiting = Waiting { collector: identity::existing(state)?, ..Waiting::default() };
    for (meta, counts) in note::read_all(state)? {
        let left = counts.recorded.saturating_sub(counts.sent);
        if left > 0 {
            *waiting.records.entry(meta.server).or_default() += left;
        }
    }
    Ok(waiting)
}
