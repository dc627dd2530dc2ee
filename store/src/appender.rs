//! The way in: records become frames, are deduplicated, made durable, and visible.
//!
//! Invariants
//! - an append returns `Ok` only after the log synced its frames and they are in the tail (or, for a spool, synced in the
//!   inbox, from which every snapshot reads)
//! - one path for direct appends, drained spools and replay decides whether an event is stored already
//! - a caller that gives up (drops the future) does not leave an event half way: the rest runs in a task of its own
//! - the salt of a record is drawn once, before its first frame, so that replay gives the same leaf

use std::{ops::Range, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use threadline_schemas::{Record, encoding};
use uuid::Uuid;

use crate::{
    AppendError, StoreConfig, StoreError,
    files::sealed_among,
    inbox::{InboxError, Spool},
    layout::Layout,
    state::cost,
    store::Core,
    table::PARTITION,
    tail::TailRow,
};

/// Most encoded bytes that go to the log as one batch.
const BATCH_BYTES_MAX: u64 = 4 << 20;

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Receipt {
    /// Records stored now.
    pub accepted: usize,
    /// Records whose event was stored before. A spool finds them later, when it is drained.
    pub duplicates: usize,
}

/// A handle for appending. Clones append to the same place.
#[derive(Debug, Clone)]
pub struct Appender {
    way: Way,
}

#[derive(Debug, Clone)]
enum Way {
    Direct(Arc<Core>),
    Spool(Arc<Spool>, StoreConfig),
}

impl Appender {
    pub(crate) fn direct(core: Arc<Core>) -> Appender {
        Appender { way: Way::Direct(core) }
    }

    /// For a collector process that does not hold the seal lock: a synced spool of its own in the inbox of `dir`, which is
    /// created when it is missing.
    pub fn spool(dir: &Path, source_name: &str, config: StoreConfig) -> Result<Appender, StoreError> {
        let layout = Layout::create(dir)?;
        let spool = Spool::create(layout.root(), source_name, config.log.clone())?;
        Ok(Appender { way: Way::Spool(Arc::new(spool), config) })
    }

    /// Makes records durable and findable. `leaf_salt` is drawn where it is absent; `bodies` and `log_position` are ours
    /// to set. Records whose event is stored already are counted and not stored again.
    ///
    /// # Errors
    /// See [`AppendError`]. When some batches of a large call went through before the error, sending all of it again
    /// counts those as duplicates.
    pub async fn append(&self, records: Vec<Record>) -> Result<Receipt, AppendError> {
        match &self.way {
            Way::Direct(core) => {
                let frames = frames(records, &core.config)?;
                let wait = Duration::from_millis(core.config.append_wait_max_ms);
                append_all(core, frames, Some(wait)).await
            }
            Way::Spool(spool, config) => {
                let frames = frames(records, config)?;
                let accepted = frames.len();
                for batch in batches(&frames, config) {
                    spool.append(frames[batch].iter().map(|frame| frame.bytes.clone()).collect()).await?;
                }
                Ok(Receipt { accepted, duplicates: 0 })
            }
        }
    }

    /// Lets go. A spool is marked as ended in order (without this its drainer makes a `gap` record) and left for the drainer; the store itself is closed by [`crate::Store::close`].
    pub async fn close(self) -> Result<(), AppendError> {
        match self.way {
            Way::Direct(_) => Ok(()),
            Way::Spool(spool, _) => spool.close().await.map_err(|error| StoreError::from(error).into()),
        }
    }
}

/// A record with the bytes it has in the log.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) record: Record,
    pub(crate) bytes: Bytes,
}

/// Encodes records for the log.
fn frames(records: Vec<Record>, config: &StoreConfig) -> Result<Vec<Frame>, AppendError> {
    records.into_iter().map(|record| frame(record, config)).collect()
}

/// Encodes one record, drawing its salt.
pub(crate) fn frame(mut record: Record, config: &StoreConfig) -> Result<Frame, AppendError> {
    record.bodies = None;
    record.log_position = None;
    if record.leaf_salt.is_none() {
        let mut salt = vec![0; 32];
        getrandom::fill(&mut salt).map_err(|e| AppendError::Unknown(Box::new(StoreError::Random(e))))?;
        record.leaf_salt = Some(salt);
    }
    let bytes = encoding::encode(&record);
    let max = config.log.frame_bytes_max;
    if bytes.len() as u64 > max {
        return Err(AppendError::TooLarge { bytes: bytes.len() as u64, max });
    }
    Ok(Frame { record, bytes: bytes.into() })
}

/// Cuts frames into batches that fit a segment and a part of the tail's budget.
fn batches(frames: &[Frame], config: &StoreConfig) -> Vec<Range<usize>> {
    let bytes_max = BATCH_BYTES_MAX.min(config.log.segment_bytes_max / 4).min(config.tail_bytes_max / 4);
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, frame) in frames.iter().enumerate() {
        let size = frame.bytes.len() as u64 + 64;
        if at > start && bytes + size > bytes_max {
            batches.push(start..at);
            (start, bytes) = (at, 0);
        }
        bytes += size;
    }
    if start < frames.len() {
        batches.push(start..frames.len());
    }
    batches
}

/// Appends frames batch by batch; `wait` bounds how long one batch waits for room in the tail.
pub(crate) async fn append_all(
    core: &Arc<Core>,
    frames: Vec<Frame>,
    wait: Option<Duration>,
) -> Result<Receipt, AppendError> {
    let mut receipt = Receipt::default();
    let lengths: Vec<usize> = batches(&frames, &core.config).into_iter().map(|range| range.len()).collect();
    let mut frames = frames.into_iter();
    for length in lengths {
        let batch: Vec<Frame> = frames.by_ref().take(length).collect();
        let total = batch.len();
        let bytes = batch.iter().map(|frame| cost(frame.bytes.len())).sum();
        let room = core.shared.reserve(bytes);
        let permits = match wait {
            Some(wait) => tokio::time::timeout(wait, room).await.map_err(|_| AppendError::Overloaded)?,
            None => room.await,
        };
        let permits = permits.ok_or(AppendError::Closed)?;
        let task = tokio::spawn(append_batch(Arc::clone(core), batch, permits));
        let accepted = task.await.map_err(|_| AppendError::Unknown(Box::new(StoreError::Closed)))??;
        receipt.accepted += accepted;
        receipt.duplicates += total - accepted;
    }
    Ok(receipt)
}

/// Appends what is new of one batch; returns how many that were.
async fn append_batch(core: Arc<Core>, batch: Vec<Frame>, permits: u32) -> Result<usize, AppendError> {
    let shared = &core.shared;
    let ids: Vec<Uuid> = batch.iter().map(|frame| frame.record.event_id).collect();
    let new = match unstored(&core, &ids).await {
        Ok(new) if new.is_empty() => {
            shared.release(permits as usize);
            return Ok(0);
        }
        Ok(new) => new,
        Err(error) => {
            shared.release(permits as usize);
            return Err(error.into());
        }
    };
    let mut wanted = new.iter().copied().peekable();
    let batch = batch.into_iter().enumerate().filter(|(index, _)| wanted.next_if_eq(index).is_some());
    let batch: Vec<Frame> = batch.map(|(_, frame)| frame).collect();
    let claimed: Vec<Uuid> = batch.iter().map(|frame| frame.record.event_id).collect();

    let ticket = shared.depart(|| core.log.next_offset());
    match core.log.append(batch.iter().map(|frame| frame.bytes.clone()).collect()).await {
        Ok(offsets) => {
            let rows = offsets.zip(batch).map(|(offset, frame)| tail_row(offset, frame.record, frame.bytes.len()));
            shared.arrive(ticket, rows.collect(), permits);
            Ok(claimed.len())
        }
        Err(error) => {
            shared.fail(ticket, claimed, permits);
            Err(error.into())
        }
    }
}

/// Claims the events of `ids` that are stored nowhere; returns their indexes, ascending.
async fn unstored(core: &Arc<Core>, ids: &[Uuid]) -> Result<Vec<usize>, StoreError> {
    let (mut new, files) = core.shared.claim_settled(ids).await;
    if new.is_empty() || files.is_empty() {
        return Ok(new);
    }
    let claimed: Vec<Uuid> = new.iter().map(|index| ids[*index]).collect();
    let reading = Arc::clone(core);
    let looked_for = claimed.clone();
    let sealed = tokio::task::spawn_blocking(move || sealed_among(&reading.files, &files, &looked_for)).await;
    match sealed.unwrap_or(Err(StoreError::Closed)) {
        Ok(sealed) => {
            new.retain(|index| !sealed.contains(&ids[*index]));
            core.shared.unclaim(sealed);
            Ok(new)
        }
        Err(error) => {
            core.shared.unclaim(claimed);
            Err(error)
        }
    }
}

/// A record with its place in the log.
pub(crate) fn tail_row(offset: u64, mut record: Record, bytes: usize) -> TailRow {
    record.log_position = Some(format!("{PARTITION}/{offset}"));
    TailRow { offset: Some(offset), record: Arc::new(record), bytes: bytes as u32 }
}

impl From<InboxError> for StoreError {
    fn from(error: InboxError) -> Self {
        match error {
            InboxError::Log(error) => StoreError::Log(error),
            InboxError::Durable(error) => StoreError::Durable(error),
            other => StoreError::Inbox(other),
        }
    }
}
