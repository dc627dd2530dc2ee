//! Between the appenders and the writer thread: a queue bounded in bytes.
//!
//! Invariants
//! - requests are served in the order in which they were pushed
//! - at most `queue_bytes_max` are queued (one batch may be larger; it then has the queue for itself)
//! - every request is answered, or its reply is dropped, also when the writer thread panics
//!
//! Shared between the appenders and the one writer thread: appenders push and read the counters, the writer takes and
//! sets them. The mutex is never held across an await or an I/O call.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Durability, LogConfig, LogError};
use crate::stages::Stages;

/// The answer to an append: its offsets.
pub(super) type Reply = oneshot::Sender<Result<Range<u64>, LogError>>;

/// A batch on its way to the disk.
#[derive(Debug)]
pub(super) struct Append {
    /// Its payloads, at least one.
    pub(super) frames: Vec<Bytes>,
    /// What it takes in a segment.
    pub(super) bytes: u64,
    /// Taken when answered.
    pub(super) reply: Option<Reply>,
    /// Room in the queue, given back when the batch is done.
    pub(super) _room: OwnedSemaphorePermit,
}

/// What the writer thread is asked to do.
#[derive(Debug)]
pub(super) enum Request {
    Append(Append),
    Trim { below: u64, reply: oneshot::Sender<Result<usize, LogError>> },
    Close { reply: oneshot::Sender<Result<(), LogError>> },
}

/// What the writer does next.
#[derive(Debug)]
pub(super) enum Turn {
    /// Commit these together.
    Group(Vec<Append>),
    /// Anything but an append.
    Other(Request),
    /// Closed, and nothing is left to do.
    End,
}

#[derive(Debug, Default)]
struct Queue {
    requests: VecDeque<Request>,
    closed: bool,
}

/// How a group is collected.
#[derive(Debug)]
struct Grouping {
    bytes_max: u64,
    wait: Duration,
    /// Wait out `wait` whatever came, and say yes at once: the control that must lose data.
    ack_before_write: bool,
}

/// State between appenders and writer.
#[derive(Debug)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    room: Arc<Semaphore>,
    room_max: u32,
    grouping: Grouping,
    acknowledged: AtomicU64,
    disk_bytes: AtomicU64,
    pub(super) stages: Arc<Stages>,
}

/// Queue room is counted in KiB, because permits are 32 bits wide.
const ROOM_UNIT_BYTES: u64 = 1024;

impl Shared {
    pub(super) fn new(config: &LogConfig, acknowledged: u64) -> Shared {
        let room = (config.queue_bytes_max / ROOM_UNIT_BYTES).clamp(1, u64::from(u32::MAX >> 4));
        let ack_before_write = config.durability == Durability::AckBeforeWrite;
        let wait_ms = match ack_before_write {
            true => 50,
            false => config.group_commit_max_wait_ms,
        };
        Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            room: Arc::new(Semaphore::new(room as usize)),
            room_max: room as u32,
            grouping: Grouping {
                bytes_max: config.group_commit_bytes_max,
                wait: Duration::from_millis(wait_ms),
                ack_before_write,
            },
            acknowledged: AtomicU64::new(acknowledged),
            disk_bytes: AtomicU64::new(0),
            stages: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing is left half done under this lock, so a panic elsewhere does not spoil it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the queue has room for `bytes`.
    pub(super) async fn reserve(&self, bytes: u64) -> Result<OwnedSemaphorePermit, LogError> {
        let units = bytes.div_ceil(ROOM_UNIT_BYTES).min(u64::from(self.room_max));
        Arc::clone(&self.room).acquire_many_owned(units as u32).await.map_err(|_| LogError::Closed)
    }

    pub(super) fn push(&self, request: Request) -> Result<(), LogError> {
        let mut queue = self.lock();
        if queue.closed {
            return Err(LogError::Closed);
        }
        queue.requests.push_back(request);
        drop(queue);
        self.wake.notify_one();
        Ok(())
    }

    /// No more requests; what is queued will be finished.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.room.close();
        self.wake.notify_one();
    }

    /// Drops what is queued: the writer is gone.
    pub(super) fn abandon(&self) {
        self.close();
        let left = std::mem::take(&mut self.lock().requests);
        drop(left);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    pub(super) fn acknowledge(&self, end: u64) {
        self.acknowledged.store(end, Ordering::Release);
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.disk_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn set_disk_bytes(&self, bytes: u64) {
        self.disk_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Blocks until there is something to do. `last_group` is how many batches the last group had: as many are likely
    /// to come again, so a group waits a little for them.
    pub(super) fn take(&self, last_group: usize, mut next_offset: u64) -> Turn {
        let mut queue = self.lock();
        while queue.requests.is_empty() {
            if queue.closed {
                return Turn::End;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let until = Instant::now() + self.grouping.wait;
        let (mut group, mut bytes) = (Vec::new(), 0);
        loop {
            while bytes < self.grouping.bytes_max {
                match queue.requests.pop_front() {
                    Some(Request::Append(mut append)) => {
                        bytes += append.bytes;
                        if self.grouping.ack_before_write {
                            answer_early(&mut append, &mut next_offset);
                        }
                        group.push(append);
                    }
                    Some(other) if group.is_empty() => return Turn::Other(other),
                    Some(other) => {
                        queue.requests.push_front(other);
                        return Turn::Group(group);
                    }
                    None => break,
                }
            }
            let enough = group.len() >= last_group && !self.grouping.ack_before_write;
            let left = until.saturating_duration_since(Instant::now());
            if enough || bytes >= self.grouping.bytes_max || queue.closed || left.is_zero() {
                return Turn::Group(group);
            }
            let woken = self.wake.wait_timeout(queue, left);
            queue = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What no log may do: says that a batch is safe while it is only in memory.
fn answer_early(append: &mut Append, next_offset: &mut u64) {
    let start = *next_offset;
    *next_offset += append.frames.len() as u64;
    if let Some(reply) = append.reply.take() {
        // The appender may have gone; there is nobody to tell then.
        drop(reply.send(Ok(start..*next_offset)));
    }
}
