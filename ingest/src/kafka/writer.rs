//! Stores batches: decode, dead letters, records, and only then says how far it is.
//!
//! Invariants
//! - [`Done`] moves after the records of a batch are durable and its dead letters acknowledged
//! - what cannot be stored or sent now is tried again until it can be, or until the stop

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use threadline_schemas::{Collector, Record};
use threadline_store::AppendError;
use tokio::sync::{mpsc, watch};

use super::batch::{Batch, Lease};
use super::config::Topic;
use super::dead_letters::{DeadLetter, DeadLetters};
use super::decode::Decoders;
use super::{KafkaError, Taken, gaps};
use crate::pipeline::Pipeline;

const WAIT_FIRST: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);

/// How far a lease is, and what was met since it was last asked.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reached {
    /// Offset behind the last durable message.
    pub(super) next: i64,
    pub(super) messages: u64,
    pub(super) rejected: u64,
    pub(super) dead_lettered: u64,
}

type Leases = Arc<Mutex<HashMap<Arc<Lease>, Reached>>>;

/// Tells how far the writer is.
#[derive(Debug)]
pub(super) struct Done {
    leases: Leases,
    batch: watch::Sender<u64>,
}

/// Asks how far the writer is.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    leases: Leases,
    batch: watch::Receiver<u64>,
}

/// Both ends.
pub(super) fn progress() -> (Done, Progress) {
    let leases = Leases::default();
    let (sender, receiver) = watch::channel(0);
    (Done { leases: Arc::clone(&leases), batch: sender }, Progress { leases, batch: receiver })
}

fn lock(leases: &Leases) -> MutexGuard<'_, HashMap<Arc<Lease>, Reached>> {
    leases.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Progress {
    /// How far `lease` is; its counts begin anew.
    pub(super) fn take(&self, lease: &Arc<Lease>) -> Option<Reached> {
        let mut leases = lock(&self.leases);
        let reached = leases.get_mut(lease)?;
        let next = reached.next;
        Some(std::mem::replace(reached, Reached { next, ..Reached::default() }))
    }

    pub(super) fn forget(&self, lease: &Arc<Lease>) {
        lock(&self.leases).remove(lease);
    }

    /// Whether the batch is durable before the time is over.
    pub(super) async fn wait(&self, batch: u64, time: Duration) -> bool {
        let mut done = self.batch.clone();
        matches!(tokio::time::timeout(time, done.wait_for(|done| *done >= batch)).await, Ok(Ok(_)))
    }
}

/// The task that stores.
pub(super) struct Writer {
    pipeline: Arc<Pipeline>,
    decoders: Option<Decoders>,
    dead_letters: Option<DeadLetters>,
    stop: watch::Receiver<bool>,
    taken: Taken,
}

/// A batch that was decoded.
struct Ready {
    records: Vec<Record>,
    letters: Vec<DeadLetter>,
    reached: HashMap<Arc<Lease>, Reached>,
    missing: u64,
}

impl Writer {
    pub(super) fn new(
        pipeline: Arc<Pipeline>,
        topics: Vec<Topic>,
        dead_letters: Option<DeadLetters>,
        stop: watch::Receiver<bool>,
    ) -> Writer {
        let decoders = Some(Decoders::new(topics));
        Writer { pipeline, decoders, dead_letters, stop, taken: Taken::default() }
    }

    pub(super) fn taken(&self) -> Taken {
        self.taken
    }

    /// Stores batches until there are no more, or until it was stopped and could not.
    pub(super) async fn run(&mut self, mut arriving: mpsc::Receiver<Batch>, done: Done) -> Result<(), KafkaError> {
        while let Some(batch) = arriving.recv().await {
            let number = batch.number;
            let ready = self.decode(batch).await?;
            if !self.bury(&ready.letters).await || !self.store(ready.records).await? {
                return Ok(());
            }
            self.taken.missing += ready.missing;
            let mut leases = lock(&done.leases);
            for (lease, reached) in ready.reached {
                self.taken.messages += reached.messages;
                self.taken.rejected += reached.rejected;
                self.taken.dead_lettered += reached.dead_lettered;
                let known = leases.entry(lease).or_default();
                known.next = reached.next;
                known.messages += reached.messages;
                known.rejected += reached.rejected;
                known.dead_lettered += reached.dead_lettered;
            }
            drop(leases);
            done.batch.send_replace(number);
        }
        Ok(())
    }

    /// Off the async threads, decoders with it.
    async fn decode(&mut self, batch: Batch) -> Result<Ready, KafkaError> {
        let mut decoders = self.decoders.take().ok_or(KafkaError::Interrupted)?;
        let (pipeline, has_dead_letters) = (Arc::clone(&self.pipeline), self.dead_letters.is_some());
        let work = move || {
            let ready = ready(batch, &mut decoders, &pipeline, has_dead_letters);
            (ready, decoders)
        };
        let (ready, decoders) = self.pipeline.compute(work).await.map_err(KafkaError::Append)?;
        self.decoders = Some(decoders);
        Ok(ready)
    }

    /// Whether all are acknowledged; `false` only after the stop.
    async fn bury(&mut self, letters: &[DeadLetter]) -> bool {
        let Some(dead_letters) = self.dead_letters.as_ref().filter(|_| !letters.is_empty()) else { return true };
        let mut wait = WAIT_FIRST;
        while !dead_letters.send(letters).await {
            if pause(&mut self.stop, &mut wait).await {
                return false;
            }
        }
        true
    }

    /// Whether all are durable; `false` only after the stop.
    async fn store(&mut self, records: Vec<Record>) -> Result<bool, KafkaError> {
        let mut wait = WAIT_FIRST;
        loop {
            match self.pipeline.submit(records.clone()).await {
                Ok(_) => return Ok(true),
                Err(error @ (AppendError::Closed | AppendError::TooLarge { .. })) => {
                    return Err(KafkaError::Append(error));
                }
                Err(error) => tracing::warn!(%error, "messages cannot be stored now; trying again"),
            }
            if pause(&mut self.stop, &mut wait).await {
                return Ok(false);
            }
        }
    }
}

/// Waits a while, longer each time; whether it was stopped.
async fn pause(stop: &mut watch::Receiver<bool>, wait: &mut Duration) -> bool {
    let stopped = tokio::time::timeout(*wait, stop.wait_for(|stop| *stop)).await;
    *wait = (*wait * 2).min(WAIT_MAX);
    // A sender that is gone is a stop too.
    stopped.is_ok()
}

fn ready(batch: Batch, decoders: &mut Decoders, pipeline: &Pipeline, has_dead_letters: bool) -> Ready {
    let context = pipeline.context(Collector::Kafka);
    let mut ready = Ready { records: Vec::new(), letters: Vec::new(), reached: HashMap::new(), missing: 0 };
    for message in batch.messages {
        let decoded = decoders.message(&context, &message);
        let reached = ready.reached.entry(Arc::clone(&message.lease)).or_default();
        reached.next = message.offset + 1;
        reached.messages += 1;
        if let Some(reason) = decoded.poison {
            reached.rejected += 1;
            if has_dead_letters && let Some(first) = decoded.records.first() {
                reached.dead_lettered += 1;
                ready.letters.push(DeadLetter { event_id: first.event_id, message, reason });
            }
        }
        ready.records.extend(decoded.records);
    }
    for missing in batch.missing {
        ready.records.push(gaps::gap(&context, &missing));
        ready.reached.entry(Arc::clone(&missing.lease)).or_default().next = missing.goes_on;
        ready.missing += missing.messages;
    }
    batch.over.iter().for_each(|lease| decoders.forget(lease));
    ready
}
