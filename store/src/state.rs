//! What the tasks of one open store share: the sealed files, the hot tail, and who is on the way into it.
//!
//! Invariants
//! - under the lock, every acknowledged record is either in a sealed file or in the tail, never in both, never in neither
//! - an event id that is being appended is claimed; a second appender of the same event waits for the outcome
//! - nothing is sealed past the offset at which an append may still be on its way ([`State::sealable_below`])
//!
//! Not here: any I/O. The lock is held for memory operations only, never across an await.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use threadline_schemas::Record;
use tokio::sync::{Notify, Semaphore};
use uuid::Uuid;

use crate::{
    files::{Delivery, SealedFile},
    tail::{Chunk, Tail, TailRow},
};

/// Bytes that one permit of the budget stands for.
const PERMIT_BYTES: u64 = 1024;
/// Allocations, reference counts and index entries of a row in memory.
const ROW_OVERHEAD_BYTES: usize = 512;

/// The sealed files of one moment.
pub(crate) type LiveFiles = Arc<Vec<Arc<SealedFile>>>;

/// What a row takes of the budget: its encoded size stands for its texts, the rest is the record and its places.
pub(crate) fn cost(encoded_bytes: usize) -> u64 {
    (encoded_bytes + size_of::<Record>() + ROW_OVERHEAD_BYTES) as u64
}

/// The part under the lock.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) table_version: i64,
    pub(crate) files: LiveFiles,
    pub(crate) tail: Tail,
    /// Frames below this offset are sealed.
    pub(crate) sealed_below: u64,
    /// Budget permits held by rows, per first offset of the append that took them.
    charged: BTreeMap<u64, u32>,
    claimed: HashSet<Uuid>,
    /// Appends on their way: ticket -> an offset that none of their frames will be below.
    in_flight: BTreeMap<u64, u64>,
    next_ticket: u64,
}

impl State {
    /// Offset below which every frame is in the tail; `next_offset` is the log's, read under this lock.
    pub(crate) fn sealable_below(&self, next_offset: u64) -> u64 {
        self.in_flight.values().copied().min().unwrap_or(next_offset).min(next_offset)
    }

    /// Makes sealed files visible and drops their rows from the tail, in one step; returns the permits to give back.
    pub(crate) fn publish(&mut self, files: &[Arc<SealedFile>], table_version: i64, sealed_below: u64) -> usize {
        self.files = Arc::new(files.to_vec());
        self.table_version = table_version;
        self.sealed_below = sealed_below;
        self.tail.drop_below(sealed_below);
        let kept = self.charged.split_off(&sealed_below);
        let freed = std::mem::replace(&mut self.charged, kept);
        freed.into_values().map(|permits| permits as usize).sum()
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Something came into the tail or a claim was settled.
    pub(crate) arrived: Notify,
    /// Claims were settled.
    settled: Notify,
    budget: Semaphore,
    budget_permits: u32,
}

/// What became of a wish to append some events.
enum Claim {
    /// The new ones are claimed now. The rest is in the tail already, or comes twice in the same call.
    Mine {
        /// Indexes of the events that are new.
        new: Vec<usize>,
        /// Indexes of the events that say other things than what is there under their ids.
        conflicts: Vec<usize>,
        /// The sealed files at the moment of the claim.
        files: LiveFiles,
    },
    /// Some are on their way by another append; ask again when it is settled.
    Wait,
}

impl Shared {
    pub(crate) fn new(tail_bytes_max: u64) -> Shared {
        let permits = (tail_bytes_max / PERMIT_BYTES).clamp(1, u64::from(u32::MAX >> 4)) as u32;
        Shared {
            state: Mutex::default(),
            arrived: Notify::new(),
            settled: Notify::new(),
            budget: Semaphore::new(permits as usize),
            budget_permits: permits,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves counters and maps that are each consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room in the tail; the permits are given back by [`State::publish`] or [`Shared::release`].
    pub(crate) async fn reserve(&self, bytes: u64) -> Option<u32> {
        // What is larger than the whole budget goes alone.
        let permits = bytes.div_ceil(PERMIT_BYTES).clamp(1, u64::from(self.budget_permits)) as u32;
        self.budget.acquire_many(permits).await.ok()?.forget();
        Some(permits)
    }

    pub(crate) fn release(&self, permits: usize) {
        self.budget.add_permits(permits);
    }

    /// Permits that no row and no append holds.
    pub(crate) fn room(&self) -> f64 {
        self.budget.available_permits() as f64 / f64::from(self.budget_permits)
    }

    /// Claims the events that are neither in the tail nor claimed. Among equal ids of one call the first counts.
    fn claim(&self, wanted: &[Delivery]) -> Claim {
        let mut state = self.lock();
        if wanted.iter().any(|delivery| state.claimed.contains(&delivery.event)) {
            return Claim::Wait;
        }
        let mut new: Vec<usize> = Vec::with_capacity(wanted.len());
        let mut conflicts = Vec::new();
        let mut first = HashMap::new();
        for (index, Delivery { event, content }) in wanted.iter().enumerate() {
            let there = state.tail.content(*event).or_else(|| first.get(event).copied());
            match there {
                Some(there) if there == content => {}
                Some(_) => conflicts.push(index),
                None => {
                    first.insert(*event, content);
                    new.push(index);
                }
            }
        }
        state.claimed.extend(first.into_keys());
        Claim::Mine { new, conflicts, files: Arc::clone(&state.files) }
    }

    /// Claims as soon as nobody else does: indexes of new events, of conflicting ones, and the sealed files.
    pub(crate) async fn claim_settled(&self, wanted: &[Delivery]) -> (Vec<usize>, Vec<usize>, LiveFiles) {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            // Registered before the look, so that a settling in between is not missed.
            settled.as_mut().enable();
            match self.claim(wanted) {
                Claim::Mine { new, conflicts, files } => return (new, conflicts, files),
                Claim::Wait => settled.await,
            }
        }
    }

    /// Gives claims up.
    pub(crate) fn unclaim(&self, ids: impl IntoIterator<Item = Uuid>) {
        let mut state = self.lock();
        ids.into_iter().for_each(|id| {
            state.claimed.remove(&id);
        });
        drop(state);
        self.settled.notify_waiters();
    }

    /// Announces an append whose frames will have offsets of at least what `next_offset` says now.
    pub(crate) fn depart(&self, next_offset: impl FnOnce() -> u64) -> u64 {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        let lowest = next_offset();
        state.in_flight.insert(ticket, lowest);
        ticket
    }

    /// The append is durable: its rows are visible from here on.
    pub(crate) fn arrive(&self, ticket: u64, rows: Vec<TailRow>, permits: u32) {
        let mut state = self.lock();
        state.in_flight.remove(&ticket);
        if let Some(first) = rows.first().and_then(|row| row.offset) {
            *state.charged.entry(first).or_default() += permits;
        }
        for row in rows {
            state.claimed.remove(&row.record.event_id);
            state.tail.push(row);
        }
        drop(state);
        self.settled.notify_waiters();
        self.arrived.notify_one();
    }

    /// A row that the log had when the store was opened. It takes of the budget what there is.
    pub(crate) fn restore(&self, row: TailRow) {
        let permits = self.budget.forget_permits(cost(row.bytes as usize).div_ceil(PERMIT_BYTES) as usize);
        let mut state = self.lock();
        if let Some(first) = row.offset {
            *state.charged.entry(first).or_default() += permits as u32;
        }
        state.tail.push(row);
    }

    /// The append failed.
    pub(crate) fn fail(&self, ticket: u64, ids: impl IntoIterator<Item = Uuid>, permits: u32) {
        self.lock().in_flight.remove(&ticket);
        self.release(permits as usize);
        self.unclaim(ids);
    }

    /// A consistent view: version, files and tail of one moment.
    pub(crate) fn view(&self) -> (i64, LiveFiles, Vec<Arc<Chunk>>) {
        let state = self.lock();
        (state.table_version, Arc::clone(&state.files), state.tail.chunks())
    }
}
