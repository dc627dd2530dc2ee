//! What passed and is not yet durable: between the pumps, which never wait for it, and the recorder.
//!
//! Invariants
//! - observations come out in the order in which their bytes were read, across all three streams: a pump takes a ticket
//!   before it forwards and enters the frames after, so a response never stands before its request
//! - a forward that hangs holds the others up for `ORDER_HOLD_MS` at most; its own frames then come later
//! - held bytes (`OBSERVATION_BYTES` per observation included, the batch at the recorder included) stay within
//!   `held_bytes_max` plus three gaps (one larger frame alone is let in when nothing waits); what does not fit is counted
//!   in a gap that stands where it would have stood
//! - `passed` = `recorded` + what gaps count, once the journal is drained
//!
//! Not here: retries (`recording`), splitting (`lines`).

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{
    Counts, OnRecordFailure,
    observation::{Direction, Event, Frame, Gap, GapReason, Observation},
    recording::{BATCH_MAX, Next, Queue},
};

const ORDER_HOLD_MS: u64 = 1_000;

/// What an observation is charged beside its bytes, so that floods of empty lines are bounded too.
pub(super) const OBSERVATION_BYTES: usize = 160;

#[derive(Debug)]
struct Entry {
    ticket: u64,
    time_unix_nano: i64,
    event: Event,
}

/// A read whose bytes are being forwarded.
#[derive(Debug)]
pub(super) struct Ticket {
    number: u64,
    direction: Direction,
    time_unix_nano: i64,
}

#[derive(Default)]
struct State {
    next_ticket: u64,
    next_sequence: u64,
    /// Ordered by ticket.
    queue: VecDeque<Entry>,
    forwarding: [Option<(u64, Instant)>; 3],
    held_bytes: usize,
    lost: [Option<(u64, Gap)>; 3],
    /// The recorder's last answer was an error.
    failing: bool,
    /// Gaps may be delivered: false between a rejection and the next success, so that a rejected gap does not spin.
    gaps_welcome: bool,
    closed: bool,
    passed: Counts,
    recorded: Counts,
}

pub(super) struct Journal {
    state: Mutex<State>,
    held_bytes_max: usize,
    on_record_failure: OnRecordFailure,
    ready: Notify,
    room: Condvar,
}

impl Journal {
    pub(super) fn new(held_bytes_max: usize, on_record_failure: OnRecordFailure) -> Self {
        let state = Mutex::new(State { gaps_welcome: true, ..State::default() });
        Self { state, held_bytes_max, on_record_failure, ready: Notify::new(), room: Condvar::new() }
    }

    /// Takes the place in the order for bytes just read. With `Block` it waits here, before they are forwarded, while the
    /// recorder fails or is behind; never for the server's log lines, since a full stderr pipe would hang the server.
    pub(super) fn begin(&self, direction: Direction, time_unix_nano: i64) -> Ticket {
        if self.may_block(direction) {
            let full = |state: &mut State| state.failing || state.held_bytes > self.held_bytes_max;
            drop(self.room.wait_while(self.lock(), full));
        }
        self.begin_at_once(direction, time_unix_nano)
    }

    /// The same without ever waiting.
    pub(super) fn begin_at_once(&self, direction: Direction, time_unix_nano: i64) -> Ticket {
        let mut state = self.lock();
        let number = state.take_ticket();
        state.forwarding[direction.index()] = Some((number, Instant::now()));
        Ticket { number, direction, time_unix_nano }
    }

    /// Enters the frames completed by the bytes of `ticket`, which have been forwarded.
    pub(super) fn finish(&self, ticket: &Ticket, frames: Vec<Frame>) {
        let mut state = self.lock();
        state.forwarding[ticket.direction.index()] = None;
        for frame in frames {
            state.passed.add(1, frame.length);
            // A gap that goes before it is paid for as well.
            let cost = frame.bytes.len() + 2 * OBSERVATION_BYTES;
            if self.may_block(frame.direction)
                || state.held_bytes == 0
                || state.held_bytes + cost <= self.held_bytes_max
            {
                state.flush_gap(frame.direction);
                state.enter(ticket.number, ticket.time_unix_nano, Event::Frame(frame));
            } else {
                state.lose(ticket.number, gap_of(&frame, ticket.time_unix_nano, GapReason::Overflow));
            }
        }
        drop(state);
        self.ready.notify_one();
    }

    /// Enters something other than a frame: few of these, always admitted.
    pub(super) fn push(&self, time_unix_nano: i64, event: Event) {
        let mut state = self.lock();
        let ticket = state.take_ticket();
        state.enter(ticket, time_unix_nano, event);
        drop(state);
        self.ready.notify_one();
    }

    /// No more will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_one();
    }

    /// Whether bytes of this stream were read and not yet taken by the receiver.
    pub(super) fn is_forwarding(&self, direction: Direction) -> bool {
        self.lock().forwarding[direction.index()].is_some()
    }

    /// Frames that passed, and those of them that are durable.
    pub(super) fn counts(&self) -> (Counts, Counts) {
        let state = self.lock();
        (state.passed, state.recorded)
    }

    fn may_block(&self, direction: Direction) -> bool {
        self.on_record_failure == OnRecordFailure::Block && direction != Direction::ServerStderr
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere must not stop the pumps; every change of the state is complete before the lock is given back.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue for Journal {
    type Observation = Observation;

    fn take(&self) -> Next<Observation> {
        let mut state = self.lock();
        let hold = Duration::from_millis(ORDER_HOLD_MS);
        let young = state.forwarding.iter().flatten().filter(|(_, since)| since.elapsed() < hold).min().copied();
        let until = young.map_or(u64::MAX, |(ticket, _)| ticket);
        // Only where all that is queued leaves with them: taking again and again must not pile gaps up.
        if (state.gaps_welcome && state.queue.is_empty())
            || (until == u64::MAX && (1..=BATCH_MAX).contains(&state.queue.len()))
        {
            Direction::ALL.into_iter().for_each(|direction| state.flush_gap(direction));
        }
        let count = state.queue.partition_point(|entry| entry.ticket < until).min(BATCH_MAX);
        if count > 0 {
            let entries: Vec<Entry> = state.queue.drain(..count).collect();
            return Next::Record(entries.into_iter().map(|entry| state.number(entry)).collect());
        }
        match young {
            Some((_, since)) if !state.queue.is_empty() => Next::Wait(Some(hold.saturating_sub(since.elapsed()))),
            _ if state.closed => Next::Finished,
            _ => Next::Wait(None),
        }
    }

    fn ready(&self) -> &Notify {
        &self.ready
    }

    fn recorded(&self, batch: &[Observation]) {
        let mut state = self.lock();
        state.release(batch);
        for frame in batch.iter().filter_map(Observation::frame) {
            state.recorded.add(1, frame.length);
        }
        state.failing = false;
        state.gaps_welcome = true;
        drop(state);
        self.room.notify_all();
    }

    fn failing(&self, batch: Vec<Observation>) -> Vec<Observation> {
        self.lock().failing = true;
        batch
    }

    fn rejected(&self, observation: Observation) {
        let mut state = self.lock();
        state.release(std::slice::from_ref(&observation));
        state.failing = false;
        let ticket = state.take_ticket();
        let time = observation.time_unix_nano;
        match observation.event {
            Event::Frame(frame) => state.lose(ticket, gap_of(&frame, time, GapReason::Rejected)),
            Event::Gap(gap) => {
                state.gaps_welcome = false;
                state.lose(ticket, gap);
            }
            Event::Started { .. } | Event::Closed { .. } | Event::Exited { .. } => {}
        }
        drop(state);
        self.room.notify_all();
    }
}

impl State {
    fn take_ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    fn enter(&mut self, ticket: u64, time_unix_nano: i64, event: Event) {
        self.held_bytes += cost(&event);
        let at = self.queue.partition_point(|entry| entry.ticket <= ticket);
        self.queue.insert(at, Entry { ticket, time_unix_nano, event });
    }

    fn lose(&mut self, ticket: u64, gap: Gap) {
        match &mut self.lost[gap.direction.index()] {
            Some((_, open)) => {
                open.frames += gap.frames;
                open.bytes += gap.bytes;
                open.from_unix_nano = open.from_unix_nano.min(gap.from_unix_nano);
                open.to_unix_nano = open.to_unix_nano.max(gap.to_unix_nano);
            }
            lost => *lost = Some((ticket, gap)),
        }
    }

    fn flush_gap(&mut self, direction: Direction) {
        if let Some((ticket, gap)) = self.lost[direction.index()].take() {
            self.enter(ticket, gap.to_unix_nano, Event::Gap(gap));
        }
    }

    fn number(&mut self, entry: Entry) -> Observation {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        Observation { sequence, time_unix_nano: entry.time_unix_nano, event: entry.event }
    }

    fn release(&mut self, batch: &[Observation]) {
        let held: usize = batch.iter().map(|observation| cost(&observation.event)).sum();
        assert!(held <= self.held_bytes, "released more than was held");
        self.held_bytes -= held;
    }
}

impl Observation {
    fn frame(&self) -> Option<&Frame> {
        match &self.event {
            Event::Frame(frame) => Some(frame),
            _ => None,
        }
    }
}

fn gap_of(frame: &Frame, time_unix_nano: i64, reason: GapReason) -> Gap {
    Gap {
        direction: frame.direction,
        frames: 1,
        bytes: frame.length,
        from_unix_nano: time_unix_nano,
        to_unix_nano: time_unix_nano,
        reason,
    }
}

fn cost(event: &Event) -> usize {
    let payload = match event {
        Event::Frame(frame) => frame.bytes.len(),
        _ => 0,
    };
    payload + OBSERVATION_BYTES
}

#[cfg(test)]
mod tests;
