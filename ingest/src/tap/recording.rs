//! Hands what waits to the recorder, batch after batch, and keeps trying while it fails. Also for the HTTP proxy, whose
//! observations are of another type.
//!
//! Invariants
//! - one batch is at the recorder at a time; a batch is released only after the recorder said that it is durable
//! - an unavailable recorder gets the same observations again, with waits from `retry_min` doubling to `retry_max`
//! - a rejected batch is halved until the observations that are refused stand alone; those become a gap

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tracing::{info, warn};

use super::observation::{Record, RecordError};

/// Observations that are taken at once. Small ones are many: as records they are ten times as large.
pub(crate) const BATCH_MAX: usize = 2_000;

/// What the recorder is to do next.
#[derive(Debug, PartialEq)]
pub(crate) enum Next<O> {
    Record(Vec<O>),
    /// Nothing that may be taken yet; look again after the time or a notification.
    Wait(Option<Duration>),
    Finished,
}

/// Where observations wait until they are durable.
pub(crate) trait Queue: Send + Sync {
    /// One thing seen.
    type Observation: Clone + Send;

    /// Everything that may be recorded now.
    fn take(&self) -> Next<Self::Observation>;
    /// Woken when there may be something to take.
    fn ready(&self) -> &Notify;
    /// These are durable.
    fn recorded(&self, batch: &[Self::Observation]);
    /// The recorder is failing; says what of the batch is to be tried again.
    fn failing(&self, batch: Vec<Self::Observation>) -> Vec<Self::Observation>;
    /// The recorder refused this one observation for good.
    fn rejected(&self, observation: Self::Observation);
}

/// Waits between attempts.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// After the first failure.
    pub min: Duration,
    /// At most.
    pub max: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { min: Duration::from_millis(20), max: Duration::from_millis(500) }
    }
}

/// Runs until the journal is closed and empty, then closes the recorder.
pub(crate) async fn record_all<Q: Queue>(journal: Arc<Q>, mut recorder: impl Record<Q::Observation>, retry: Retry) {
    loop {
        match journal.take() {
            Next::Record(batch) => record_batch(&*journal, &mut recorder, retry, batch).await,
            Next::Wait(None) => journal.ready().notified().await,
            Next::Wait(Some(time)) => {
                // Elapsed or notified: either way there is something to look at.
                drop(tokio::time::timeout(time, journal.ready().notified()).await);
            }
            Next::Finished => return recorder.close().await,
        }
    }
}

async fn record_batch<Q: Queue>(
    journal: &Q,
    recorder: &mut impl Record<Q::Observation>,
    retry: Retry,
    batch: Vec<Q::Observation>,
) {
    let mut wait = retry.min;
    let mut failures = 0_u32;
    let mut pending = vec![batch];
    while let Some(mut batch) = pending.pop() {
        match recorder.record(batch.clone()).await {
            Ok(()) => {
                journal.recorded(&batch);
                if failures > 0 {
                    info!(failures, "recording works again");
                }
                (wait, failures) = (retry.min, 0);
            }
            Err(RecordError::Unavailable(source)) => {
                if failures == 0 {
                    warn!(error = %source, observations = batch.len(), "recording fails, will retry");
                }
                failures = failures.saturating_add(1);
                let again = journal.failing(batch);
                if again.is_empty() {
                    continue;
                }
                pending.push(again);
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(retry.max);
            }
            Err(RecordError::Rejected(_)) if batch.len() > 1 => {
                let later = batch.split_off(batch.len() / 2);
                pending.push(later);
                pending.push(batch);
            }
            Err(RecordError::Rejected(source)) => {
                for observation in batch {
                    warn!(error = %source, "observation was rejected");
                    journal.rejected(observation);
                }
            }
        }
    }
}
