//! Opening a log directory: verify what is there, cut off a torn tail, refuse corruption.
//!
//! Invariants
//! - every frame at or above `sealed_below` is verified before the log takes an append
//! - only the last segment is ever changed, and only behind its last whole batch
//! - what is kept is durable when this returns: a killed process leaves frames that were written but not synced
//!
//! A crash in here leaves a log that the next opening recovers in the same way.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::{
    Corruption, LogConfig, LogError,
    disk::Disk,
    scan::{Ending, SegmentScan},
    segment::{self, SEGMENT_HEADER_BYTES, SegmentHeader, list_segments, segment_path},
};
use crate::durable;

/// Torn ends that are kept; one is smaller than a segment.
const TORN_KEPT_MAX: usize = 4;

/// What opening found, for the operator and for counters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// There was no segment: the log is new (or its directory was lost).
    pub created: bool,
    /// First offset that can still be read.
    pub first_offset: u64,
    /// Offset of the next append.
    pub next_offset: u64,
    /// Segments found.
    pub segments: usize,
    /// Frames verified.
    pub frames: u64,
    /// What was cut off, if anything was.
    pub torn: Option<TornTail>,
    /// Segments removed whose creation had been interrupted.
    pub unfinished: usize,
}

/// Bytes at the end of the last segment that nothing proves to have been acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub segment: PathBuf,
    /// Offset that will be given out again.
    pub offset: u64,
    /// Where the tail began.
    pub byte: u64,
    /// Bytes from there to the end of the file, with what was only preallocated.
    pub bytes: u64,
    /// Where they are kept, without what was only preallocated; `None` when that failed.
    pub kept: Option<PathBuf>,
}

/// One segment as the writer keeps it in mind.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) first_offset: u64,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

/// The segment that takes appends.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) file: File,
    pub(super) salt: u32,
    /// Where the next frame goes.
    pub(super) end_byte: u64,
    /// Claimed up to here.
    pub(super) allocated: u64,
}

/// Where the writer goes on.
#[derive(Debug, Default)]
pub(super) struct LogState {
    /// All segments, oldest first; the last one is the active one, if any is.
    pub(super) segments: Vec<Segment>,
    pub(super) active: Option<Active>,
    /// Every offset below is durable or void.
    pub(super) end: u64,
}

/// Verifies the log in `dir` and makes it ready for appends.
pub(super) fn recover(dir: &Path, config: &LogConfig) -> Result<(LogState, Recovery), LogError> {
    let unfinished = segment::list_unfinished(dir)?;
    for path in &unfinished {
        // It never got its name, so nothing in it was acknowledged.
        durable::remove_file(path)?;
    }
    let firsts = list_segments(dir)?;
    let mut recovery = Recovery {
        created: firsts.is_empty(),
        first_offset: firsts.first().copied().unwrap_or(config.sealed_below),
        segments: firsts.len(),
        unfinished: unfinished.len(),
        ..Recovery::default()
    };
    let mut state = LogState { end: config.sealed_below, ..LogState::default() };
    for (i, first) in firsts.iter().enumerate() {
        let scan = open(dir, *first, config.partition)?;
        let next = match firsts.get(i + 1) {
            Some(next) => Some(*open(dir, *next, config.partition)?.header()),
            None => None,
        };
        let path = scan.path().to_path_buf();
        let bytes = match next {
            Some(next) => verify_older(scan, &next, config.sealed_below, &mut recovery)?,
            None => verify_last(scan, &mut state, &mut recovery)?,
        };
        state.segments.push(Segment { first_offset: *first, path, bytes });
    }
    if state.end < config.sealed_below {
        return Err(LogError::Behind {
            dir: dir.to_path_buf(),
            next_offset: state.end,
            sealed_below: config.sealed_below,
        });
    }
    recovery.next_offset = state.end;
    report(dir, &recovery);
    Ok((state, recovery))
}

fn open(dir: &Path, first: u64, partition: u32) -> Result<SegmentScan, LogError> {
    let path = segment_path(dir, first);
    let Some((file, header)) = segment::open_segment(&path)? else {
        // Only a second writer could have removed it, and we hold the lock.
        return Err(corrupt(&path, first, 0, Corruption::Missing));
    };
    if header.partition != partition {
        return Err(corrupt(&path, first, 0, Corruption::Partition));
    }
    Ok(SegmentScan::new(file, path, header))
}

fn corrupt(path: &Path, offset: u64, byte: u64, what: Corruption) -> LogError {
    LogError::Corrupt { segment: path.to_path_buf(), offset, byte, what }
}

/// A segment that has a successor has to be whole up to where the successor says that it ends.
fn verify_older(
    mut scan: SegmentScan,
    next: &SegmentHeader,
    sealed_below: u64,
    recovery: &mut Recovery,
) -> Result<u64, LogError> {
    let path = scan.path().to_path_buf();
    let first = scan.header().first_offset;
    let (mut byte, mut offset) = (SEGMENT_HEADER_BYTES, first);
    if next.previous_end < first || next.first_offset < next.previous_end {
        return Err(corrupt(&path, first, 0, Corruption::Chain));
    }
    let needed = next.first_offset > sealed_below;
    while needed && offset < next.previous_end {
        match scan.batch(byte, offset)? {
            Ok(batch) => {
                recovery.frames += batch.frames.len() as u64;
                (byte, offset) = (batch.next_byte, batch.next_offset);
            }
            Err(Ending::Corrupt { offset, byte, what }) => {
                return Err(corrupt(&path, offset, byte, what));
            }
            Err(Ending::Clean | Ending::Torn) => {
                return Err(corrupt(&path, offset, byte, Corruption::Missing));
            }
        }
    }
    if needed && offset > next.previous_end {
        return Err(corrupt(&path, offset, byte, Corruption::Chain));
    }
    scan.file_bytes()
}

/// The last segment may end in anything that was never acknowledged; that is cut off.
fn verify_last(mut scan: SegmentScan, state: &mut LogState, recovery: &mut Recovery) -> Result<u64, LogError> {
    let path = scan.path().to_path_buf();
    let header = *scan.header();
    let (mut byte, mut offset) = (SEGMENT_HEADER_BYTES, header.first_offset);
    let ending = loop {
        match scan.batch(byte, offset)? {
            Ok(batch) => {
                recovery.frames += batch.frames.len() as u64;
                (byte, offset) = (batch.next_byte, batch.next_offset);
            }
            Err(ending) => break ending,
        }
    };
    match ending {
        Ending::Clean => {}
        Ending::Torn => {
            let bytes = scan.file_bytes()? - byte;
            let kept = keep_torn(&path, offset, byte);
            recovery.torn = Some(TornTail { segment: path.clone(), offset, byte, bytes, kept });
        }
        Ending::Corrupt { offset, byte, what } => {
            return Err(corrupt(&path, offset, byte, what));
        }
    }
    let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|e| LogError::read(&path, e))?;
    // Cut before the sync, so that what follows the last batch is zeros when appends go on in this file.
    file.set_len(byte).map_err(|e| LogError::release("truncate", &path, e))?;
    file.sync_all().map_err(|e| LogError::append("sync", &path, e))?;
    // The process that created the segment may have died before it synced the directory.
    Disk::default().sync_dir(path.parent().unwrap_or(&path)).map_err(|e| LogError::append("sync", &path, e))?;
    state.end = offset;
    state.active = Some(Active { file, salt: header.salt, end_byte: byte, allocated: byte });
    Ok(byte)
}

/// Copies what is cut off beside the segment, so that it can be looked at: rot in the newest write looks the same. The
/// oldest copies go.
fn keep_torn(segment: &Path, offset: u64, byte: u64) -> Option<PathBuf> {
    let keep = || -> Result<PathBuf, LogError> {
        let mut file = File::open(segment).map_err(|e| LogError::read(segment, e))?;
        let mut tail = Vec::new();
        let read = file.seek(SeekFrom::Start(byte)).and_then(|_| file.read_to_end(&mut tail));
        read.map_err(|e| LogError::read(segment, e))?;
        tail.truncate(tail.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        let dir = segment.parent().unwrap_or(segment);
        let path = segment::torn_path(dir, offset);
        durable::write_atomic(&path, &tail)?;
        let kept = segment::list_torn(dir)?;
        for old in &kept[..kept.len().saturating_sub(TORN_KEPT_MAX)] {
            durable::remove_file(old)?;
        }
        Ok(path)
    };
    keep().inspect_err(|error| tracing::warn!(%error, "the torn end of the log is not kept")).ok()
}

fn report(dir: &Path, recovery: &Recovery) {
    let dir = dir.display();
    if let Some(torn) = &recovery.torn {
        tracing::warn!(
            segment = %torn.segment.display(), offset = torn.offset, byte = torn.byte, bytes = torn.bytes,
            kept = ?torn.kept,
            "cut off the end of the log: a crash tore it before it was acknowledged, or the newest write has rotted"
        );
    }
    tracing::debug!(
        %dir, segments = recovery.segments, frames = recovery.frames, next_offset = recovery.next_offset,
        "log recovered"
    );
}
