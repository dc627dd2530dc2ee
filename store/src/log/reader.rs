//! Reads a log without a lock, beside a live writer in this or another process, or after it died.
//!
//! Invariants
//! - frames come in offset order, each once, only from whole batches that passed their checksums
//! - a tail that is still being written, or was torn, ends the iteration without an error; calling `next` again looks
//!   again, so one `Frames` can follow a log
//! - damage to what was durable is an error that names segment, offset and byte; so is a trimmed offset; after an error
//!   the iteration is over
//!
//! Without a bound, a reader in another process may see frames whose sync has not returned yet. `Log::frames` bounds it
//! to what is acknowledged; whoever moves a durable mark has to use that, or a log that takes no more appends.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::{
    Corruption, LogError,
    scan::{Ending, SegmentScan},
    segment::{self, SEGMENT_HEADER_BYTES, list_segments, open_segment, segment_path},
};

/// How often a listing that a trim made stale is taken again.
const LISTINGS_MAX: usize = 8;

/// A log directory to read from.
#[derive(Debug, Clone)]
pub struct LogReader {
    dir: PathBuf,
}

impl LogReader {
    /// Opens the log in `dir`, which has to exist.
    pub fn open(dir: &Path) -> Result<LogReader, LogError> {
        list_segments(dir)?;
        Ok(LogReader { dir: dir.to_path_buf() })
    }

    /// The lowest offset that was not trimmed; 0 where nothing was written yet.
    pub fn first_offset(&self) -> Result<u64, LogError> {
        Ok(list_segments(&self.dir)?.first().copied().unwrap_or(0))
    }

    /// The frames from `from` on. Resumable: after `None`, a later call goes on where the log has grown.
    pub fn frames(&self, from: u64) -> Frames {
        Frames::new(self.dir.clone(), from, None)
    }
}

/// Iterator over offsets and payloads.
#[derive(Debug)]
pub struct Frames {
    dir: PathBuf,
    /// Next offset wanted.
    from: u64,
    /// Offsets from here on are not given out, and all below have to be there.
    until: Option<u64>,
    at: Option<Cursor>,
    ready: VecDeque<(u64, Bytes)>,
    failed: bool,
}

#[derive(Debug)]
struct Cursor {
    scan: SegmentScan,
    byte: u64,
    offset: u64,
    /// Where the segment ends, once a successor says so.
    end: Option<u64>,
}

/// The segment after the cursor's.
enum Next {
    /// There is none: the cursor is in the last segment.
    Last,
    /// Its first offset, and where it says that the cursor's segment ends.
    Segment { first: u64, previous_end: u64 },
}

impl Frames {
    pub(super) fn new(dir: PathBuf, from: u64, until: Option<u64>) -> Frames {
        Frames { dir, from, until, at: None, ready: VecDeque::new(), failed: false }
    }

    /// The offset that the next frame will have, unless a failed append burned it.
    pub fn next_offset(&self) -> u64 {
        self.from
    }

    /// Reads on until a wanted frame is ready; `false` at the end of the data.
    fn advance(&mut self) -> Result<bool, LogError> {
        while self.ready.is_empty() {
            if self.until.is_some_and(|until| self.from >= until) {
                return Ok(false);
            }
            if self.at.is_none() && !self.locate()? {
                return Ok(false);
            }
            let Some(at) = &mut self.at else {
                return Ok(false);
            };
            if at.end.is_some_and(|end| at.offset >= end) {
                self.follow()?;
                continue;
            }
            match at.scan.batch(at.byte, at.offset)? {
                Ok(batch) => {
                    (at.byte, at.offset) = (batch.next_byte, batch.next_offset);
                    let wanted = batch.frames.into_iter().filter(|f| f.0 >= self.from);
                    self.ready.extend(wanted);
                }
                Err(ending) => {
                    if !self.settle(ending)? {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Finds the segment that holds `from`; `false` when the log has none yet.
    fn locate(&mut self) -> Result<bool, LogError> {
        for _ in 0..LISTINGS_MAX {
            let firsts = list_segments(&self.dir)?;
            let Some(lowest) = firsts.first().copied() else {
                // Nothing was ever written here, but something is expected: it was lost with the directory.
                return self.until.map_or(Ok(false), |until| Err(self.trimmed(until)));
            };
            let Some(first) = firsts.iter().copied().rfind(|f| *f <= self.from) else {
                return Err(self.trimmed(lowest));
            };
            if self.enter(first)? {
                return Ok(true);
            }
            // The segment went away after it was listed.
        }
        Err(self.trimmed(self.from))
    }

    /// Puts the cursor at the start of a segment; `false` when the segment is gone.
    fn enter(&mut self, first: u64) -> Result<bool, LogError> {
        let path = segment_path(&self.dir, first);
        let Some((file, header)) = open_segment(&path)? else {
            return Ok(false);
        };
        let mut cursor =
            Cursor { scan: SegmentScan::new(file, path, header), byte: SEGMENT_HEADER_BYTES, offset: first, end: None };
        if let Next::Segment { previous_end, .. } = successor(&self.dir, &cursor)? {
            cursor.end = Some(previous_end);
        }
        self.at = Some(cursor);
        Ok(true)
    }

    /// The cursor's segment is read to its end: go to the next one.
    fn follow(&mut self) -> Result<(), LogError> {
        let Some(at) = &self.at else { return Ok(()) };
        let end = at.end;
        self.from = self.from.max(at.offset);
        match successor(&self.dir, at)? {
            // Another end than before: the segments in between were trimmed.
            Next::Segment { first, previous_end } if end == Some(previous_end) && self.enter(first)? => {
                // Offsets between the two were burned by appends that failed.
                self.from = self.from.max(first);
                Ok(())
            }
            _ => Err(self.trimmed(self.lowest()?)),
        }
    }

    /// There is no whole batch at the cursor. Says whether to read on.
    fn settle(&mut self, ending: Ending) -> Result<bool, LogError> {
        let Some(at) = &mut self.at else {
            return Ok(false);
        };
        // A live writer may have gone on since the bytes were read, so look at the next segment first and read again
        // after that: if the batch is still not there, it never will be.
        let next = successor(&self.dir, at)?;
        at.scan.forget();
        if at.scan.batch(at.byte, at.offset)?.is_ok() {
            return Ok(true);
        }
        let proven = match (next, ending) {
            (Next::Segment { previous_end, .. }, _) if previous_end <= at.offset => {
                at.end = Some(previous_end);
                return Ok(true);
            }
            (_, Ending::Corrupt { offset, byte, what }) => Some((offset, byte, what)),
            (Next::Segment { .. }, _) => Some((at.offset, at.byte, Corruption::Missing)),
            (Next::Last, _) => self.until.map(|_| (at.offset, at.byte, Corruption::Missing)),
        };
        let Some((offset, byte, what)) = proven else {
            at.scan.forget();
            return Ok(false);
        };
        let path = at.scan.path();
        if segment::open_segment(path)?.is_none() {
            // Trimmed while we read: what follows here was trimmed too.
            return Err(self.trimmed(self.lowest()?));
        }
        Err(LogError::Corrupt { segment: path.to_path_buf(), offset, byte, what })
    }

    fn lowest(&self) -> Result<u64, LogError> {
        let firsts = list_segments(&self.dir)?;
        Ok(firsts.first().copied().unwrap_or(self.from))
    }

    fn trimmed(&self, first_offset: u64) -> LogError {
        LogError::Trimmed { dir: self.dir.clone(), offset: self.from, first_offset }
    }
}

/// The segment after the cursor's, as the directory is now.
fn successor(dir: &Path, at: &Cursor) -> Result<Next, LogError> {
    for _ in 0..LISTINGS_MAX {
        let after = at.scan.header().first_offset;
        let Some(first) = list_segments(dir)?.into_iter().find(|f| *f > after) else {
            return Ok(Next::Last);
        };
        if let Some((_, header)) = open_segment(&segment_path(dir, first))? {
            return Ok(Next::Segment { first, previous_end: header.previous_end });
        }
    }
    Ok(Next::Last)
}

impl Iterator for Frames {
    type Item = Result<(u64, Bytes), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        match self.advance() {
            Ok(true) => {
                let frame = self.ready.pop_front()?;
                if self.until.is_some_and(|until| frame.0 >= until) {
                    self.ready.clear();
                    return None;
                }
                self.from = frame.0 + 1;
                Some(Ok(frame))
            }
            Ok(false) => None,
            Err(error) => {
                self.failed = true;
                self.ready.clear();
                Some(Err(error))
            }
        }
    }
}
