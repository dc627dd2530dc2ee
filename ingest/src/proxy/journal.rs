//! What passed and is not yet durable: between the exchanges, which never wait for it, and the recorder.
//!
//! Invariants
//! - an event is entered before the bytes it stands for go on, so nothing that they cause stands before it
//! - held bytes (queued, at the recorder, and request bodies in the making) stay within `held_bytes_max` plus one gap; with
//!   `Block` plus one event per exchange
//! - what does not fit is counted in a gap that stands where it would have stood
//! - `passed` = `recorded` + what gaps count, once the journal is drained
//!
//! Not here: retries (`tap::recording`).

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Counts;
use super::observation::{Event, Gap, GapReason, Observation, Whose};
use crate::tap::OnRecordFailure;
use crate::tap::recording::{BATCH_MAX, Next, Queue};

#[derive(Debug)]
struct State {
    next_sequence: u64,
    queue: VecDeque<(i64, Event)>,
    queued_bytes: usize,
    reserved_bytes: usize,
    lost: Option<Gap>,
    /// The recorder's last answer was an error.
    failing: bool,
    /// Gaps may be delivered: false between a rejection and the next success, so that a rejected gap does not spin.
    gaps_welcome: bool,
    closed: bool,
    /// Only what is small is still recorded: see [`Journal::give_up`].
    given_up: bool,
    passed: Counts,
    recorded: Counts,
}

#[derive(Debug)]
pub(super) struct Journal {
    state: Mutex<State>,
    held_bytes_max: usize,
    on_record_failure: OnRecordFailure,
    ready: Notify,
    room: Notify,
}

impl Journal {
    pub(super) fn new(held_bytes_max: usize, on_record_failure: OnRecordFailure) -> Self {
        let state = State {
            next_sequence: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            reserved_bytes: 0,
            lost: None,
            failing: false,
            gaps_welcome: true,
            closed: false,
            given_up: false,
            passed: Counts::default(),
            recorded: Counts::default(),
        };
        Journal {
            state: Mutex::new(state),
            held_bytes_max,
            on_record_failure,
            ready: Notify::new(),
            room: Notify::new(),
        }
    }

    /// Whether nothing may pass now. Only ever with `Block`.
    pub(super) fn is_blocked(&self) -> bool {
        let state = self.lock();
        self.on_record_failure == OnRecordFailure::Block
            && !state.closed
            && (state.failing || state.queued_bytes > self.held_bytes_max)
    }

    /// Waits until something may pass again.
    pub(super) async fn unblocked(&self) {
        loop {
            let changed = self.room.notified();
            if !self.is_blocked() {
                return;
            }
            changed.await;
        }
    }

    /// Enters an event; false when there was no room for it, which a gap will say.
    pub(super) fn push(&self, time_unix_nano: i64, event: Event) -> bool {
        let mut state = self.lock();
        let bytes = event.body_bytes();
        let cost = event.held_bytes();
        if matches!(event, Event::Exchange { .. }) {
            state.passed.add(1, bytes);
        }
        let held = state.queued_bytes + state.reserved_bytes;
        let fits = state.queued_bytes == 0 || held.saturating_add(cost) <= self.held_bytes_max;
        let must_fit = self.on_record_failure != OnRecordFailure::Block && !state.closed;
        let is_admitted = match event {
            Event::Exchange { number, sender, .. } if must_fit && !fits => {
                state.lose(Gap::one(bytes, time_unix_nano, GapReason::Overflow, Whose::Exchange(number, sender)));
                false
            }
            event => {
                state.flush_gap();
                state.enter(time_unix_nano, event);
                true
            }
        };
        drop(state);
        self.ready.notify_one();
        is_admitted
    }

    /// Counts bytes that passed and are in no event.
    pub(super) fn lose_late(&self, bytes: u64, time_unix_nano: i64, whose: Whose) {
        let mut state = self.lock();
        state.passed.add(1, bytes);
        state.lose(Gap::one(bytes, time_unix_nano, GapReason::Late, whose));
        drop(state);
        self.ready.notify_one();
    }

    /// Room for a body in the making; give it back with [`Journal::release`].
    pub(super) fn reserve(&self, bytes: usize) -> bool {
        let mut state = self.lock();
        let held = state.queued_bytes + state.reserved_bytes;
        let fits = held.saturating_add(bytes) <= self.held_bytes_max;
        state.reserved_bytes += if fits { bytes } else { 0 };
        fits
    }

    pub(super) fn release(&self, bytes: usize) {
        let mut state = self.lock();
        assert!(bytes <= state.reserved_bytes, "released more than was reserved");
        state.reserved_bytes -= bytes;
    }

    /// No more will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_one();
        self.room.notify_waiters();
    }

    /// What is not at the recorder by now becomes a gap, and so does what the recorder fails to take from here on: at the end
    /// of a run the count has to be there in time.
    pub(super) fn give_up(&self) {
        let mut state = self.lock();
        state.given_up = true;
        let queue = std::mem::take(&mut state.queue);
        let mut ends = Vec::new();
        for (time_unix_nano, event) in queue {
            state.queued_bytes -= event.held_bytes();
            if let Some(kept) = state.count(time_unix_nano, event, GapReason::Stopped) {
                ends.push((time_unix_nano, kept));
            }
        }
        let started = ends.iter().take_while(|(_, event)| matches!(event, Event::Started { .. })).count();
        let stopped = ends.split_off(started);
        ends.into_iter().for_each(|(time_unix_nano, event)| state.enter(time_unix_nano, event));
        state.flush_gap();
        stopped.into_iter().for_each(|(time_unix_nano, event)| state.enter(time_unix_nano, event));
        drop(state);
        self.ready.notify_one();
    }

    /// What passed, and what of it is durable.
    pub(super) fn counts(&self) -> (Counts, Counts) {
        let state = self.lock();
        (state.passed, state.recorded)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere must not stop the traffic; every change of the state is complete before the lock is given back.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue for Journal {
    type Observation = Observation;

    fn take(&self) -> Next<Observation> {
        let mut state = self.lock();
        // Only where all that is queued leaves with it: taking again and again must not pile gaps up.
        if (state.gaps_welcome && state.queue.is_empty()) || (1..=BATCH_MAX).contains(&state.queue.len()) {
            state.flush_gap();
        }
        let count = state.queue.len().min(BATCH_MAX);
        let entries: Vec<_> = state.queue.drain(..count).collect();
        if entries.is_empty() {
            return if state.closed { Next::Finished } else { Next::Wait(None) };
        }
        let number = |(time_unix_nano, event)| {
            let sequence = state.next_sequence;
            state.next_sequence += 1;
            Observation { sequence, time_unix_nano, event }
        };
        Next::Record(entries.into_iter().map(number).collect())
    }

    fn ready(&self) -> &Notify {
        &self.ready
    }

    fn recorded(&self, batch: &[Observation]) {
        let mut state = self.lock();
        state.leave(batch);
        for event in batch.iter().map(|observation| &observation.event) {
            if matches!(event, Event::Exchange { .. }) {
                state.recorded.add(1, event.body_bytes());
            }
        }
        state.failing = false;
        state.gaps_welcome = true;
        drop(state);
        self.room.notify_waiters();
    }

    fn failing(&self, batch: Vec<Observation>) -> Vec<Observation> {
        let mut state = self.lock();
        state.failing = true;
        if !state.given_up {
            return batch;
        }
        let (counted, kept): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|observation| matches!(observation.event, Event::Exchange { .. }));
        state.leave(&counted);
        for Observation { time_unix_nano, event, .. } in counted {
            state.count(time_unix_nano, event, GapReason::Stopped);
        }
        kept
    }

    fn rejected(&self, observation: Observation) {
        let mut state = self.lock();
        state.leave(std::slice::from_ref(&observation));
        state.failing = false;
        state.gaps_welcome &= !matches!(observation.event, Event::Gap(_));
        state.count(observation.time_unix_nano, observation.event, GapReason::Rejected);
        drop(state);
        self.room.notify_waiters();
    }
}

impl State {
    fn enter(&mut self, time_unix_nano: i64, event: Event) {
        self.queued_bytes += event.held_bytes();
        self.queue.push_back((time_unix_nano, event));
    }

    fn leave(&mut self, batch: &[Observation]) {
        let bytes: usize = batch.iter().map(|observation| observation.event.held_bytes()).sum();
        assert!(bytes <= self.queued_bytes, "released more than was held");
        self.queued_bytes -= bytes;
    }

    fn lose(&mut self, gap: Gap) {
        match &mut self.lost {
            Some(open) => open.add(gap),
            lost => *lost = Some(gap),
        }
    }

    /// Counts what will not be recorded; what has nothing to count is given back.
    fn count(&mut self, time_unix_nano: i64, event: Event, reason: GapReason) -> Option<Event> {
        match event {
            Event::Exchange { number, sender, .. } => {
                self.lose(Gap::one(event.body_bytes(), time_unix_nano, reason, Whose::Exchange(number, sender)));
                None
            }
            Event::Gap(gap) => {
                self.lose(gap);
                None
            }
            Event::Started { .. } | Event::Stopped => Some(event),
        }
    }

    fn flush_gap(&mut self) {
        if let Some(gap) = self.lost.take() {
            self.enter(gap.to_unix_nano, Event::Gap(gap));
        }
    }
}
