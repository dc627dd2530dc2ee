//! The thread that owns the active segment: writes groups, syncs, acknowledges, rotates, trims.
//!
//! Invariants
//! - the order is write, sync, acknowledge; the acknowledged offset moves only here, and only after the sync
//! - a file on which a write or sync failed is never written or synced again
//! - a new segment is visible under its name only with a whole, synced header
//!
//! Not here: grouping (`log::queue`), what an opening does (`log::recover`).

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::SystemTime,
};

use super::{
    Durability, LogConfig, LogError,
    disk::Disk,
    frame::FrameHeader,
    queue::{Append, Request, Shared, Turn},
    recover::{Active, LogState, Segment},
    segment::{SEGMENT_HEADER_BYTES, SegmentHeader, UNFINISHED_SUFFIX, segment_path},
};
use crate::stages::Stage;

/// What is encoded is written once it has this size.
const BUFFER_BYTES_MAX: usize = 4 << 20;
/// Larger payloads are written as they are, so that they are not in memory twice.
const COPIED_BYTES_MAX: usize = 1 << 20;

/// State of the writer thread; nobody else touches it.
pub(super) struct Writer {
    dir: PathBuf,
    config: LogConfig,
    disk: Disk,
    shared: Arc<Shared>,
    segments: Vec<Segment>,
    /// `None` when the next append has to begin a segment.
    active: Option<Active>,
    /// Where the last segment's valid data end: all below is durable or void.
    end: u64,
    /// The next offset to give out; above `end` when an append failed.
    next: u64,
    buffer: Vec<u8>,
    /// The last append failed.
    failing: bool,
    /// Held until nothing more will be written.
    lock: Option<File>,
}

/// Tells the appenders when the thread ends, however it ends.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Writer {
    /// Starts the thread that serves `shared`.
    pub(super) fn start(
        dir: &Path,
        config: &LogConfig,
        disk: Disk,
        state: LogState,
        lock: File,
        shared: Arc<Shared>,
    ) -> Result<(), LogError> {
        let mut writer = Writer {
            dir: dir.to_path_buf(),
            config: config.clone(),
            disk,
            segments: state.segments,
            active: state.active,
            end: state.end,
            next: state.end,
            buffer: Vec::new(),
            failing: false,
            shared,
            lock: Some(lock),
        };
        writer.count_disk_bytes();
        thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run())
            .map(drop)
            .map_err(|source| LogError::Thread { source: Arc::new(source) })
    }

    fn run(&mut self) {
        let _ended = Ended(Arc::clone(&self.shared));
        let mut closing = Vec::new();
        let mut last_group = 1;
        loop {
            match self.shared.take(last_group, self.next) {
                Turn::Group(group) => {
                    last_group = group.len();
                    self.commit(group);
                }
                Turn::Other(Request::Trim { below, reply }) => {
                    // A caller that no longer waits does not want the answer.
                    drop(reply.send(self.trim(below)));
                }
                Turn::Other(Request::Close { reply }) => {
                    self.shared.close();
                    closing.push(reply);
                }
                Turn::Other(Request::Append(append)) => self.commit(vec![append]),
                Turn::End => break,
            }
        }
        let released = self.release();
        // Before the answer, so that whoever closed the log can open it again. Said outright, because a process that is just
        // being started has a copy of the file until it becomes another program.
        if let Some(lock) = self.lock.take() {
            drop(lock.unlock());
        }
        for reply in closing {
            drop(reply.send(released.clone()));
        }
    }

    /// Makes a group durable, in as many parts as there are segments to fill.
    fn commit(&mut self, group: Vec<Append>) {
        let mut part = Vec::new();
        let mut part_bytes = 0;
        for append in group {
            let filled = self.active.as_ref().map_or(SEGMENT_HEADER_BYTES, |a| a.end_byte);
            let fits = filled + part_bytes + append.bytes <= self.config.segment_bytes_max;
            if !fits {
                self.commit_part(std::mem::take(&mut part), part_bytes);
                part_bytes = 0;
                // The old segment stays as it is if this fails: the next append begins a new one.
                self.seal();
            }
            part_bytes += append.bytes;
            part.push(append);
        }
        self.commit_part(part, part_bytes);
    }

    /// Writes, syncs and acknowledges batches that fit into the active segment together.
    fn commit_part(&mut self, part: Vec<Append>, bytes: u64) {
        if part.is_empty() {
            return;
        }
        let start = self.next;
        let result = self.write_part(&part, bytes);
        self.count_disk_bytes();
        let mut from = start;
        for append in part {
            let to = from + append.frames.len() as u64;
            if let Some(reply) = append.reply {
                let answer = result.as_ref().map(|()| from..to).map_err(LogError::clone);
                // An appender that gave up has no use for the answer.
                drop(reply.send(answer));
            }
            from = to;
        }
        // A full disk fails as long as senders try; one line says it.
        match (&result, self.failing) {
            (Err(error), false) => {
                tracing::error!(error = error as &dyn std::error::Error, "append failed, not acknowledged");
            }
            (Ok(()), true) => tracing::info!("appends succeed again"),
            _ => {}
        }
        self.failing = result.is_err();
    }

    fn write_part(&mut self, part: &[Append], bytes: u64) -> Result<(), LogError> {
        if self.active.is_none() {
            self.begin_segment()?;
        }
        self.claim(bytes)?;
        let (Some(active), Some(segment)) = (&mut self.active, self.segments.last()) else {
            return Err(LogError::Closed);
        };
        let writing = self.shared.stages.at_work(Stage::LogWrite);
        let frames: usize = part.iter().map(|a| a.frames.len()).sum();
        let first = self.next;
        // From here on bytes may be on the disk whatever comes back, so these offsets are spent.
        self.next += frames as u64;
        let step = |step| move |e| LogError::append(step, &segment.path, e);
        let mut at = active.end_byte;
        let write = |bytes: &[u8]| {
            self.disk.write(&segment.path, &active.file, at, bytes)?;
            at += bytes.len() as u64;
            Ok(())
        };
        let written = encode(part, active.salt, self.end, first, &mut self.buffer, write).map_err(step("write"));
        debug_assert!(written.is_err() || at == active.end_byte + bytes);
        drop(writing);
        // A crash here leaves a torn tail, or whole batches that nobody was told about.
        let syncing = self.shared.stages.at_work(Stage::LogSync);
        let synced = written.and_then(|()| match self.config.durability {
            Durability::NoSync => Ok(()),
            _ => self.disk.sync(&segment.path, &active.file).map_err(step("sync")),
        });
        drop(syncing);
        if let Err(error) = synced {
            // The kernel may have dropped the dirty pages: this file cannot be trusted with another write.
            self.active = None;
            return Err(error);
        }
        active.end_byte += bytes;
        self.end = self.next;
        self.shared.acknowledge(self.end);
        Ok(())
    }

    /// Claims space for `bytes` more. Nothing is written yet, so a full disk leaves the segment good.
    fn claim(&mut self, bytes: u64) -> Result<(), LogError> {
        let (Some(active), Some(segment)) = (&mut self.active, self.segments.last_mut()) else {
            return Err(LogError::Closed);
        };
        let need = active.end_byte + bytes;
        if need <= active.allocated {
            return Ok(());
        }
        let ahead = active.allocated + self.config.preallocate_bytes;
        let ahead = ahead.max(need).min(self.config.segment_bytes_max);
        let mut claimed = ahead;
        let mut result = self.disk.allocate(&active.file, active.allocated, ahead);
        if result.is_err() && ahead > need {
            // Perhaps there is room for just this.
            claimed = need;
            result = self.disk.allocate(&active.file, active.allocated, need);
        }
        result.map_err(|e| LogError::append("preallocate", &segment.path, e))?;
        active.allocated = claimed;
        segment.bytes = claimed;
        Ok(())
    }

    /// Creates the segment that starts at the next offset.
    fn begin_segment(&mut self) -> Result<(), LogError> {
        debug_assert!(self.segments.last().is_none_or(|s| s.first_offset < self.next));
        let path = segment_path(&self.dir, self.next);
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(UNFINISHED_SUFFIX);
        let unfinished = PathBuf::from(unfinished);
        let header = SegmentHeader {
            partition: self.config.partition,
            first_offset: self.next,
            previous_end: self.end,
            created_us: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64),
            salt: getrandom::u32().map_err(|e| LogError::append("create", &path, io::Error::other(e.to_string())))?,
        };
        let create = || -> io::Result<File> {
            let file = self.disk.create(&unfinished)?;
            self.disk.write(&unfinished, &file, 0, &header.encode())?;
            self.disk.sync(&unfinished, &file)?;
            // A crash here leaves an unfinished file, which the next opening removes.
            self.disk.rename(&unfinished, &path)?;
            // A crash here leaves the segment or not; it holds nothing yet.
            self.disk.sync_dir(&self.dir)?;
            Ok(file)
        };
        let file = create().map_err(|e| LogError::append("create", &path, e))?;
        self.segments.push(Segment { first_offset: self.next, path, bytes: SEGMENT_HEADER_BYTES });
        self.active =
            Some(Active { file, salt: header.salt, end_byte: SEGMENT_HEADER_BYTES, allocated: SEGMENT_HEADER_BYTES });
        // What a failed append left behind is void now, for every reader.
        self.end = self.next;
        self.shared.acknowledge(self.end);
        Ok(())
    }

    /// Stops writing to the active segment and gives its unused space back. One that is still empty (the append that
    /// began it failed) stays in use: it has room for any batch, and its successor would have the same name.
    fn seal(&mut self) {
        if self.active.as_ref().is_none_or(|a| a.end_byte == SEGMENT_HEADER_BYTES) {
            return;
        }
        if let Err(error) = self.release() {
            // Its frames are durable; only zeros too many are left.
            tracing::warn!(error = &error as &dyn std::error::Error, "segment keeps its preallocated space");
        }
        self.active = None;
    }

    /// Cuts the active segment to its data.
    fn release(&mut self) -> Result<(), LogError> {
        let (Some(active), Some(segment)) = (&mut self.active, self.segments.last_mut()) else {
            return Ok(());
        };
        self.disk
            .truncate(&active.file, active.end_byte)
            .map_err(|e| LogError::release("truncate", &segment.path, e))?;
        active.allocated = active.end_byte;
        segment.bytes = active.end_byte;
        if self.config.durability == Durability::NoSync {
            return Ok(());
        }
        self.disk.sync(&segment.path, &active.file).map_err(|e| LogError::append("sync", &segment.path, e))
    }

    /// Deletes segments below `below`, the oldest first, so that a crash never leaves a hole.
    fn trim(&mut self, below: u64) -> Result<usize, LogError> {
        let mut removed = 0;
        while self.segments.len() > 1 && self.segments[1].first_offset <= below {
            let path = &self.segments[0].path;
            self.disk
                .remove(path)
                .and_then(|()| self.disk.sync_dir(&self.dir))
                .map_err(|e| LogError::release("remove", path, e))?;
            self.segments.remove(0);
            removed += 1;
        }
        self.count_disk_bytes();
        Ok(removed)
    }

    fn count_disk_bytes(&self) {
        let bytes = self.segments.iter().map(|s| s.bytes).sum();
        self.shared.set_disk_bytes(bytes);
    }
}

/// Encodes batches behind each other and gives the bytes to `write`; `durable` is where the log was durable when they are written.
fn encode(
    part: &[Append],
    salt: u32,
    durable: u64,
    first: u64,
    buffer: &mut Vec<u8>,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    buffer.clear();
    let mut offset = first;
    for append in part {
        for (i, payload) in append.frames.iter().enumerate() {
            let header = FrameHeader {
                payload_bytes: payload.len() as u32,
                ends_batch: i + 1 == append.frames.len(),
                group: u32::try_from(offset - durable).unwrap_or(u32::MAX),
                offset,
                payload_crc: crc32c::crc32c(payload),
            };
            header.encode(salt, buffer);
            offset += 1;
            let is_large = payload.len() > COPIED_BYTES_MAX;
            if !is_large {
                buffer.extend_from_slice(payload);
            }
            if is_large || buffer.len() >= BUFFER_BYTES_MAX {
                write(buffer)?;
                buffer.clear();
            }
            if is_large {
                write(payload)?;
            }
        }
    }
    if buffer.is_empty() { Ok(()) } else { write(buffer) }
}
