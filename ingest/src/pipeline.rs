//! The one path of ingestion: decoded records are redacted, stamped and appended; only then are they acknowledged.
//!
//! ```text
//! collector -> decode -> submit: [room] -> redact -> fit -> stamp -> append (synced) -> receipt
//! ```
//!
//! Invariants
//! - nothing reaches the log unredacted or unstamped, whichever way it came in
//! - [`Pipeline::submit`] returns `Ok` only after the append did, that is when the records are durable and findable
//! - records of at most `in_flight_bytes_max` are between `submit` and its return; further callers wait
//! - a record too large for the log becomes a `rejected` record with its length and digest, it does not block the others
//!
//! Not here: decoding (`schemas::decode`), how records are kept (`store`).

mod metrics;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use threadline_schemas::decode::Context;
use threadline_schemas::digest::MatchKey;
use threadline_schemas::{Collector, Kind, Outcome, Record, SourceKind, stamp};
use threadline_store::{AppendError, Appender, Receipt};
use tokio::sync::{AcquireError, Semaphore};

use crate::redact::{RedactConfig, RedactError, Redactor};
use crate::remote::Outbox;
use crate::streams::Streams;

/// Batches above this size are redacted on a thread of their own.
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of records in one append, unless one record has more.
const PART_BYTES_MAX: usize = 8 << 20;

/// How long the end of a run waits for a server that says nothing.
const FLUSH_MAX: Duration = Duration::from_secs(3);

/// Unit of the semaphore that bounds what is in flight.
const ROOM_UNIT_BYTES: usize = 1024;

pub use metrics::PipelineMetrics;

/// What is counted apart of each kind of source.
const WHAT: [&str; 3] = ["record", "rejected", "gap"];
/// Counts by kind of source, then as in [`WHAT`].
type BySource<T> = [[T; WHAT.len()]; SourceKind::ALL.len()];

/// Settings of a pipeline.
#[derive(Debug, Clone)]
pub struct PipelineConfig {
    /// Tenant of every record that comes in here. Default `default`.
    pub tenant: String,
    /// Bytes of records that may be on their way to the log. Default 32 MiB.
    pub in_flight_bytes_max: usize,
    /// Payload of one record; more becomes `rejected`. Default 28 MiB, below the largest frame of the log.
    pub record_bytes_max: usize,
    /// What is redacted.
    pub redact: RedactConfig,
    /// Our clock, microseconds since the Unix epoch.
    pub clock: fn() -> i64,
}

impl Default for PipelineConfig {
    fn default() -> Self {
        PipelineConfig {
            tenant: "default".into(),
            in_flight_bytes_max: 32 << 20,
            record_bytes_max: 28 << 20,
            redact: RedactConfig::default(),
            clock: now_unix_us,
        }
    }
}

/// Where records go.
#[derive(Debug, Clone)]
pub enum Destination {
    /// A data directory, directly or through a spool in its inbox.
    Store(Appender),
    /// A server elsewhere, through a spool of our own.
    Remote(Arc<Outbox>),
}

/// What a pipeline did since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records stored.
    pub accepted: u64,
    /// Records that were stored before.
    pub duplicates: u64,
    /// Records of kind `rejected` among those submitted.
    pub rejected: u64,
    /// Secrets taken out.
    pub redactions: u64,
    /// Appends that failed.
    pub failed: u64,
    /// Records of kind `gap` among those stored.
    pub gaps: u64,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    duplicates: AtomicU64,
    rejected: AtomicU64,
    redactions: AtomicU64,
    failed: AtomicU64,
    by_source: BySource<AtomicU64>,
}

/// Redaction, stamps and append. Share it behind an `Arc`.
#[derive(Debug)]
pub struct Pipeline {
    destination: Destination,
    redactor: Arc<Redactor>,
    match_key: MatchKey,
    room: Semaphore,
    room_max: u32,
    /// One permit per core.
    cores: Semaphore,
    config: PipelineConfig,
    counters: Counters,
    /// Runs of collectors elsewhere.
    streams: Streams,
}

impl Pipeline {
    /// A pipeline with the default rules and limits.
    pub fn new(appender: Appender, match_key: MatchKey, tenant: String) -> Self {
        let config = PipelineConfig { tenant, ..PipelineConfig::default() };
        Self::with(Destination::Store(appender), match_key, config).expect("the built-in redaction rules compile")
    }

    /// A pipeline with settings of the user's.
    ///
    /// # Errors
    /// When a redaction rule cannot be used.
    pub fn with(destination: Destination, match_key: MatchKey, config: PipelineConfig) -> Result<Self, RedactError> {
        let redactor = Arc::new(Redactor::new(match_key.clone(), &config.redact)?);
        let room_max = u32::try_from(config.in_flight_bytes_max / ROOM_UNIT_BYTES).unwrap_or(u32::MAX >> 4).max(1);
        let room = Semaphore::new(room_max as usize);
        let cores = Semaphore::new(std::thread::available_parallelism().map_or(2, usize::from));
        let counters = Counters::default();
        let streams = Streams::default();
        Ok(Pipeline { destination, redactor, match_key, room, room_max, cores, config, counters, streams })
    }

    /// What a decoder is told, as of now. Match digests are made under the key of the data directory where the records end
    /// up; on the way to a server elsewhere they are left to it.
    pub fn context(&self, collector: Collector) -> Context<'_> {
        let is_ours = matches!(self.destination, Destination::Store(_));
        Context {
            tenant: &self.config.tenant,
            collector,
            observed_time_unix_us: (self.config.clock)(),
            match_key: is_ours.then_some(&self.match_key),
        }
    }

    /// The key for fingerprints of what is taken out before redaction.
    pub(crate) fn match_key(&self) -> &MatchKey {
        &self.match_key
    }

    /// Redacts, stamps and appends; waits while too much is in flight.
    ///
    /// # Errors
    /// See [`AppendError`]. The same records may be submitted again: what is stored already counts as duplicate.
    pub async fn submit(&self, records: Vec<Record>) -> Result<Receipt, AppendError> {
        if records.is_empty() {
            return Ok(Receipt::default());
        }
        let bytes = records.iter().map(Record::memory_bytes).sum::<usize>();
        let units = u32::try_from(bytes / ROOM_UNIT_BYTES + 1).unwrap_or(self.room_max).min(self.room_max);
        let _room = self.room.acquire_many(units).await.map_err(|_: AcquireError| AppendError::Closed)?;
        let heard = self.streams.hear(&records);
        let records = self.prepare(records, bytes).await?;
        let by_source = by_source(&records);
        let mut appended = self.append(records).await;
        if appended.is_ok() && !heard.lost.is_empty() {
            // No part of the receipt: whoever sent the records did not send these.
            let lost = heard.lost.clone().into_iter().map(stamped).collect();
            appended = self.append(lost).await.and(appended);
        }
        if appended.is_ok() {
            self.streams.remember(heard);
        }
        match &appended {
            Ok(receipt) => {
                self.counters.accepted.fetch_add(receipt.accepted as u64, Relaxed);
                self.counters.duplicates.fetch_add(receipt.duplicates as u64, Relaxed);
                let counters = self.counters.by_source.iter().flatten();
                counters.zip(by_source.iter().flatten()).for_each(|(counter, count)| {
                    counter.fetch_add(*count, Relaxed);
                });
            }
            Err(_) => {
                self.counters.failed.fetch_add(1, Relaxed);
            }
        }
        appended
    }

    /// Marks the end of a spool, or gives a server elsewhere a moment to take the rest; a store goes on.
    ///
    /// # Errors
    /// See [`AppendError`]: the spool then looks as if its collector had been killed.
    pub async fn close(&self) -> Result<(), AppendError> {
        match &self.destination {
            Destination::Store(appender) => appender.clone().close().await,
            Destination::Remote(outbox) => outbox.close(FLUSH_MAX).await.map(|is_sent| {
                if !is_sent {
                    let why = outbox.trouble().unwrap_or_else(|| "the server has not taken everything yet".into());
                    tracing::warn!("{why}; the next run that sends there takes the rest along");
                }
            }),
        }
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        let counters = &self.counters;
        Counts {
            accepted: counters.accepted.load(Relaxed),
            duplicates: counters.duplicates.load(Relaxed),
            rejected: counters.rejected.load(Relaxed),
            redactions: counters.redactions.load(Relaxed),
            failed: counters.failed.load(Relaxed),
            gaps: self.by_source().iter().map(|[.., gaps]| gaps).sum(),
        }
    }

    /// Records acknowledged, duplicates included.
    fn by_source(&self) -> BySource<u64> {
        let load = |counters: &[AtomicU64; WHAT.len()]| counters.each_ref().map(|counter| counter.load(Relaxed));
        self.counters.by_source.each_ref().map(load)
    }

    /// Runs work that takes a while on a thread for it, as many at once as there are cores: more would not be faster, and
    /// each thread keeps memory of its own.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, AppendError> {
        let _core = self.cores.acquire().await.map_err(|_: AcquireError| AppendError::Closed)?;
        // It can only fail when the runtime is shutting down (or the work panicked, which is our bug).
        tokio::task::spawn_blocking(work).await.map_err(|_| AppendError::Closed)
    }

    /// In parts, so that the copies which the log needs exist for one part at a time.
    async fn append(&self, records: Vec<Record>) -> Result<Receipt, AppendError> {
        let mut receipt = Receipt::default();
        let mut records = records.into_iter().peekable();
        while records.peek().is_some() {
            let mut bytes = 0;
            let part = std::iter::from_fn(|| {
                records.next_if(|record| {
                    bytes += record.memory_bytes();
                    bytes <= PART_BYTES_MAX || bytes == record.memory_bytes()
                })
            });
            let part = part.collect();
            let appended = match &self.destination {
                Destination::Store(appender) => appender.append(part).await,
                Destination::Remote(outbox) => outbox.append(part).await,
            }?;
            receipt.accepted += appended.accepted;
            receipt.duplicates += appended.duplicates;
            receipt.conflicts += appended.conflicts;
        }
        Ok(receipt)
    }

    async fn prepare(&self, mut records: Vec<Record>, bytes: usize) -> Result<Vec<Record>, AppendError> {
        let (redactor, record_bytes_max) = (Arc::clone(&self.redactor), self.config.record_bytes_max);
        let work = move || {
            let redactions = records.iter_mut().map(|record| prepare_record(record, &redactor, record_bytes_max)).sum();
            (records, redactions)
        };
        let (records, redactions): (Vec<Record>, usize) =
            if bytes <= INLINE_BYTES_MAX { work() } else { self.compute(work).await? };
        let rejected = records.iter().filter(|record| record.kind == Kind::Rejected).count();
        self.counters.redactions.fetch_add(redactions as u64, Relaxed);
        self.counters.rejected.fetch_add(rejected as u64, Relaxed);
        Ok(records)
    }
}

fn by_source(records: &[Record]) -> BySource<u64> {
    let mut counts = BySource::default();
    for record in records {
        let what = match record.kind {
            Kind::Rejected => 1,
            Kind::Gap => 2,
            _ => 0,
        };
        counts[record.source_kind as usize][what] += 1;
    }
    counts
}

/// The order that matters: what is too large is taken out of the redacted record, and stamps come last.
fn prepare_record(record: &mut Record, redactor: &Redactor, record_bytes_max: usize) -> usize {
    let redactions = redactor.redact(record);
    if record.memory_bytes() > record_bytes_max {
        reject_too_large(record);
    }
    stamp::stamp(record);
    redactions
}

fn stamped(mut record: Record) -> Record {
    stamp::stamp(&mut record);
    record
}

/// Keeps who, when and where from; the payloads give way to their length and digest.
fn reject_too_large(record: &mut Record) {
    let bytes = record.memory_bytes();
    let mut digest = Sha256::new();
    let raw = record.raw.take();
    let texts = [record.arguments.take(), record.result.take(), record.text.take(), record.attributes.take()];
    match raw {
        Some(raw) => digest.update(raw),
        None => texts.iter().flatten().for_each(|text| digest.update(text)),
    }
    record.kind = Kind::Rejected;
    record.outcome = Some(Outcome::Error);
    record.error_type = Some("too_large".into());
    record.text = Some(format!("record of {bytes} bytes is above the limit; its digest is kept"));
    let attributes = serde_json::json!({ "length": bytes, "sha256": hex::encode(digest.finalize()) });
    record.attributes = Some(attributes.to_string());
}

fn now_unix_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
