//! The way in: records become frames, are deduplicated, made durable, and visible.
//!
//! Invariants
//! - an append returns `Ok` only after the log synced its frames and they are in the tail (or, for a spool, synced in the
//!   inbox, from which every snapshot reads)
//! - one path for direct appends, drained spools and replay decides whether an event is stored already
//! - a caller that gives up (drops the future) does not leave an event half way: the rest runs in a task of its own
//! - the salt of a record is drawn once, before its first frame, so that replay gives the same leaf

use std::{collections::HashSet, ops::Range, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use threadline_schemas::{Record, encoding};
use uuid::Uuid;

use crate::{
    AppendError, StoreConfig, StoreError,
    conflict::{conflict, without_content},
    files::{Delivery, sealed_among},
    inbox::{InboxError, Spool},
    layout::Layout,
    sidecar::Content,
    stages::Stage,
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
    /// Records whose event was stored before, saying the same. A spool finds them later, when it is drained.
    pub duplicates: usize,
    /// Records whose event was stored before and says something else. The first one stays; what came now is kept as a
    /// `rejected` record that names the event.
    pub conflicts: usize,
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
                let frames = {
                    let _encoding = core.log.stages().at_work(Stage::Encode);
                    frames(records, &core.config)?
                };
                let wait = Duration::from_millis(core.config.append_wait_max_ms);
                append_all(core, frames, Some(wait)).await
            }
            Way::Spool(spool, config) => {
                let frames = frames(records, config)?;
                let accepted = frames.len();
                for batch in batches(&frames, config) {
                    spool.append(frames[batch].iter().map(|frame| frame.bytes.clone()).collect()).await?;
                }
                Ok(Receipt { accepted, ..Receipt::default() })
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
    pub(crate) content: Content,
}

impl Frame {
    /// A record and its encoded form.
    pub(crate) fn new(record: Record, bytes: Bytes) -> Frame {
        Frame { content: record.content_digest(), record, bytes }
    }

    fn delivery(&self) -> Delivery {
        Delivery { event: self.record.event_id, content: self.content }
    }
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
    Ok(Frame::new(record, bytes.into()))
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
        let Batch { accepted, conflicts } = append_waiting(core, batch, wait).await?;
        receipt.accepted += accepted;
        receipt.conflicts += conflicts.len();
        receipt.duplicates += total - accepted - conflicts.len();
        if !conflicts.is_empty() {
            keep_conflicts(core, conflicts, wait).await?;
        }
    }
    Ok(receipt)
}

/// Keeps what conflicts as records of their own. One that was kept before is not kept again.
async fn keep_conflicts(core: &Arc<Core>, conflicts: Vec<Frame>, wait: Option<Duration>) -> Result<(), AppendError> {
    let kept = conflicts.into_iter().map(|Frame { record, content, .. }| {
        tracing::warn!(event = %record.event_id, "an event id came again with other content");
        let record = conflict(record, &content);
        match frame(record.clone(), &core.config) {
            Err(AppendError::TooLarge { .. }) => frame(without_content(record, &content), &core.config),
            other => other,
        }
    });
    let kept = kept.collect::<Result<Vec<Frame>, _>>()?;
    let ranges = batches(&kept, &core.config);
    let mut kept = kept.into_iter();
    for range in ranges {
        append_waiting(core, kept.by_ref().take(range.len()).collect(), wait).await?;
    }
    Ok(())
}

/// What became of one batch.
#[derive(Debug, Default)]
struct Batch {
    accepted: usize,
    conflicts: Vec<Frame>,
}

/// Appends one batch once there is room for it.
async fn append_waiting(core: &Arc<Core>, batch: Vec<Frame>, wait: Option<Duration>) -> Result<Batch, AppendError> {
    let bytes = batch.iter().map(|frame| cost(frame.bytes.len())).sum();
    let room = core.shared.reserve(bytes);
    let permits = match wait {
        Some(wait) => tokio::time::timeout(wait, room).await.map_err(|_| AppendError::Overloaded)?,
        None => room.await,
    };
    let permits = permits.ok_or(AppendError::Closed)?;
    let task = tokio::spawn(append_batch(Arc::clone(core), batch, permits));
    task.await.map_err(|_| AppendError::Unknown(Box::new(StoreError::Closed)))?
}

/// Appends what is new of one batch.
async fn append_batch(core: Arc<Core>, batch: Vec<Frame>, permits: u32) -> Result<Batch, AppendError> {
    let shared = &core.shared;
    let wanted: Vec<Delivery> = batch.iter().map(Frame::delivery).collect();
    let Sorted { new, conflicts } = match sort_out(&core, &wanted).await {
        Ok(sorted) => sorted,
        Err(error) => {
            shared.release(permits as usize);
            return Err(error.into());
        }
    };
    let (mut fresh, mut conflicting) = (Vec::with_capacity(new.len()), Vec::new());
    for (index, frame) in batch.into_iter().enumerate() {
        if new.binary_search(&index).is_ok() {
            fresh.push(frame);
        } else if conflicts.binary_search(&index).is_ok() {
            conflicting.push(frame);
        }
    }
    if fresh.is_empty() {
        shared.release(permits as usize);
        return Ok(Batch { accepted: 0, conflicts: conflicting });
    }
    let claimed: Vec<Uuid> = fresh.iter().map(|frame| frame.record.event_id).collect();

    let ticket = shared.depart(|| core.log.next_offset());
    match core.log.append(fresh.iter().map(|frame| frame.bytes.clone()).collect()).await {
        Ok(offsets) => {
            let rows = offsets.zip(fresh);
            let rows = rows.map(|(offset, f)| tail_row(offset, f.record, f.bytes.len(), f.content));
            shared.arrive(ticket, rows.collect(), permits);
            Ok(Batch { accepted: claimed.len(), conflicts: conflicting })
        }
        Err(error) => {
            shared.fail(ticket, claimed, permits);
            Err(error.into())
        }
    }
}

/// Indexes of a batch, ascending. What is in neither list is stored already.
#[derive(Debug)]
struct Sorted {
    /// Claimed now, stored nowhere.
    new: Vec<usize>,
    /// Stored, or first in the same batch, with other content.
    conflicts: Vec<usize>,
}

/// Claims what is stored nowhere, and tells repetitions from conflicts.
async fn sort_out(core: &Arc<Core>, wanted: &[Delivery]) -> Result<Sorted, StoreError> {
    let (mut new, mut conflicts, files) = core.shared.claim_settled(wanted).await;
    if new.is_empty() || files.is_empty() {
        return Ok(Sorted { new, conflicts });
    }
    let claimed: Vec<Uuid> = new.iter().map(|index| wanted[*index].event).collect();
    // Also what came second in this very batch: the first of it may turn out to be the one that conflicts.
    let looked_for: Vec<Delivery> = new.iter().chain(&conflicts).map(|index| wanted[*index]).collect();
    let reading = Arc::clone(core);
    let look = move || {
        let _deduplicating = reading.log.stages().at_work(Stage::Deduplicate);
        sealed_among(&reading.files, &files, &looked_for)
    };
    let sealed = tokio::task::spawn_blocking(look).await;
    match sealed.unwrap_or(Err(StoreError::Closed)) {
        Ok(sealed) if sealed.is_empty() => Ok(Sorted { new, conflicts }),
        Ok(sealed) => {
            let same: HashSet<(Uuid, Content)> =
                sealed.iter().filter(|known| known.same).map(|known| (known.event, known.content)).collect();
            let stored: HashSet<Uuid> = sealed.iter().map(|known| known.event).collect();
            conflicts.extend(new.iter().filter(|index| stored.contains(&wanted[**index].event)));
            conflicts.retain(|index| !same.contains(&(wanted[*index].event, wanted[*index].content)));
            conflicts.sort_unstable();
            new.retain(|index| !stored.contains(&wanted[*index].event));
            core.shared.unclaim(stored);
            Ok(Sorted { new, conflicts })
        }
        Err(error) => {
            core.shared.unclaim(claimed);
            Err(error)
        }
    }
}

/// A record with its place in the log.
pub(crate) fn tail_row(offset: u64, mut record: Record, bytes: usize, content: Content) -> TailRow {
    record.log_position = Some(format!("{PARTITION}/{offset}"));
    TailRow { offset: Some(offset), record: Arc::new(record), bytes: bytes as u32, content }
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
