//! Segments of the log, whole and damaged, against a second reading of the format that is as plain as can be.
//!
//! Input: steps of four bytes that build a segment (`flags, group, offset, length`; see [`build`]), the byte FF, then
//! steps of three bytes that damage it (`place u16, xor u8`).

use std::cell::RefCell;
use std::path::Path;

use bytes::Bytes;
use tempfile::TempDir;

use super::super::store_log::{Log, LogConfig, LogError, LogReader, Recovery};

const HEADER: usize = 64;
const FRAME_HEADER: usize = 24;
const ENDS_BATCH: u32 = 1 << 31;
const FIRST_OFFSET: u64 = 10;
const SALT: u32 = 0x5eed_cafe;

thread_local! {
    static DIR: TempDir = {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.expect("a folder")
    };
    static RUNTIME: RefCell<tokio::runtime::Runtime> =
        RefCell::new(tokio::runtime::Builder::new_current_thread().build().expect("a runtime"));
}

pub(super) fn run(bytes: &[u8]) {
    let segment = build(bytes);
    let expected = read_plainly(&segment);
    DIR.with(|dir| {
        for entry in std::fs::read_dir(dir.path()).expect("the folder is there") {
            std::fs::remove_file(entry.expect("an entry").path()).expect("it can be removed");
        }
        std::fs::write(dir.path().join(format!("{FIRST_OFFSET:020}.log")), &segment).expect("it can be written");
        check(dir.path(), &expected);
    });
}

fn check(dir: &Path, expected: &Plain) {
    let (frames, error) = read(dir);
    assert_eq!(frames, expected.frames, "other frames are read than stand there whole");
    assert_eq!(error.is_some(), expected.is_corrupt, "{error:?}");
    let (log, recovery) = match open(dir) {
        Ok(opened) => opened,
        Err(LogError::Corrupt { .. }) => {
            assert!(expected.is_corrupt, "what was never acknowledged is torn, not corrupt");
            // Nothing was changed: another opening says the same.
            assert!(matches!(open(dir), Err(LogError::Corrupt { .. })));
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert!(!expected.is_corrupt, "a damaged frame that was durable is passed over");
    let next = FIRST_OFFSET + expected.frames.len() as u64;
    assert_eq!((recovery.next_offset, recovery.frames), (next, expected.frames.len() as u64));
    assert_eq!(recovery.torn.is_some(), expected.is_torn);
    RUNTIME.with_borrow(|runtime| {
        let range = runtime.block_on(log.append(vec![Bytes::from_static(b"more")])).expect("it takes appends");
        assert_eq!(range, next..next + 1);
        runtime.block_on(log.close()).expect("it closes");
    });
    drop(log);
    let (mut frames, error) = read(dir);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(frames.pop(), Some((next, Bytes::from_static(b"more"))));
    assert_eq!(frames, expected.frames, "recovery lost or made up frames");
    let (_, recovery) = open(dir).expect("a recovered log opens");
    assert!(recovery.torn.is_none(), "it was recovered already");
}

/// Opens the log once nobody holds its lock: a process that another test starts has our files until it is its own program.
fn open(dir: &Path) -> Result<(Log, Recovery), LogError> {
    loop {
        match Log::open(dir, config()) {
            Err(LogError::Locked { .. }) => std::thread::yield_now(),
            opened => return opened,
        }
    }
}

fn config() -> LogConfig {
    LogConfig { preallocate_bytes: 4096, group_commit_max_wait_ms: 0, ..LogConfig::default() }
}

fn read(dir: &Path) -> (Vec<(u64, Bytes)>, Option<LogError>) {
    let mut frames = Vec::new();
    for frame in LogReader::open(dir).expect("the folder is there").frames(FIRST_OFFSET) {
        match frame {
            Ok(frame) => frames.push(frame),
            Err(error) => return (frames, Some(error)),
        }
    }
    (frames, None)
}

/// What a segment says, read without windows, holes or limits.
struct Plain {
    frames: Vec<(u64, Bytes)>,
    is_corrupt: bool,
    is_torn: bool,
}

struct PlainHeader {
    payload: usize,
    ends_batch: bool,
    offset: u64,
    durable_below: u64,
    crc: u32,
}

fn read_plainly(segment: &[u8]) -> Plain {
    let mut frames: Vec<(u64, Bytes)> = Vec::new();
    let mut batch = Vec::new();
    let (mut at, mut is_displaced) = (HEADER, false);
    let mut batch_starts = HEADER;
    while let Some(header) = header_at(segment, at) {
        let payload = segment.get(at + FRAME_HEADER..at + FRAME_HEADER + header.payload);
        let Some(payload) = payload else { break };
        if header.offset != FIRST_OFFSET + (frames.len() + batch.len()) as u64 {
            is_displaced = true;
            break;
        }
        if crc32c::crc32c(payload) != header.crc {
            break;
        }
        batch.push((header.offset, Bytes::copy_from_slice(payload)));
        at += FRAME_HEADER + header.payload;
        if header.ends_batch {
            frames.append(&mut batch);
            batch_starts = at;
        }
    }
    let wanted = FIRST_OFFSET + frames.len() as u64;
    let is_proof = |header: PlainHeader| header.durable_below > wanted && header.offset - wanted <= u64::from(u32::MAX);
    let is_proven = (at + 1..segment.len()).any(|at| header_at(segment, at).is_some_and(is_proof));
    let is_corrupt = is_displaced || is_proven;
    let rest = segment.get(batch_starts..).unwrap_or_default();
    Plain { frames, is_corrupt, is_torn: !is_corrupt && rest.iter().any(|byte| *byte != 0) }
}

fn header_at(segment: &[u8], at: usize) -> Option<PlainHeader> {
    let bytes = segment.get(at..at + FRAME_HEADER)?;
    let word = |from: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[from + i]));
    let (length, group) = (word(0), u64::from(word(4)));
    let offset = u64::from(word(8)) | u64::from(word(12)) << 32;
    let is_good = crc32c::crc32c_append(SALT, &bytes[..20]) == word(20) && length & !ENDS_BATCH > 0 && group <= offset;
    is_good.then(|| PlainHeader {
        payload: (length & !ENDS_BATCH) as usize,
        ends_batch: length & ENDS_BATCH != 0,
        offset,
        durable_below: offset - group,
        crc: word(16),
    })
}

/// A frame per step, where the last one ended. Flags: 1 the batch goes on, 2 the header's checksum is wrong, 4 the
/// payload's is, 8 the payload is shorter than said, 16 zeros stand before it, 32 the offset is another; the group is
/// that of the step, at most what is possible unless 64.
fn build(script: &[u8]) -> Vec<u8> {
    let end = script.chunks(4).position(|step| step[0] == 0xff).unwrap_or(script.len().div_ceil(4)) * 4;
    let steps = script.get(..end.min(script.len())).unwrap_or_default();
    let mut segment = segment_header().to_vec();
    for (next, step) in (FIRST_OFFSET..).zip(steps.chunks_exact(4).take(64)) {
        let number = (next - FIRST_OFFSET) as u8;
        let [flags, group, place, length] = [step[0], step[1], step[2], step[3]];
        if flags & 16 != 0 {
            segment.resize(segment.len() + usize::from(place) * 64, 0);
        }
        let payload: Vec<u8> = (0..usize::from(length) * usize::from(length)).map(|i| (i as u8) ^ number).collect();
        let offset = if flags & 32 != 0 { (next + u64::from(place)).saturating_sub(128) } else { next };
        let group =
            if flags & 64 != 0 { u64::from(group) } else { u64::from(group).min(offset - FIRST_OFFSET.min(offset)) };
        let said = payload.len() as u32 + u32::from(flags & 8 != 0) * 100;
        let start = segment.len();
        segment.extend_from_slice(&(said | if flags & 1 == 0 { ENDS_BATCH } else { 0 }).to_le_bytes());
        segment.extend_from_slice(&(group as u32).to_le_bytes());
        segment.extend_from_slice(&offset.to_le_bytes());
        segment.extend_from_slice(&(crc32c::crc32c(&payload) ^ u32::from(flags & 4 != 0)).to_le_bytes());
        let crc = crc32c::crc32c_append(SALT, &segment[start..]) ^ u32::from(flags & 2 != 0);
        segment.extend_from_slice(&crc.to_le_bytes());
        segment.extend_from_slice(&payload);
    }
    for step in script.get(end + 1..).unwrap_or_default().chunks_exact(3).take(8) {
        // The segment's own header has tests of its own.
        let room = segment.len() - HEADER;
        if room > 0 {
            segment[HEADER + usize::from(u16::from_le_bytes([step[0], step[1]])) % room] ^= step[2];
        }
    }
    segment
}

/// As written in `store/src/log/segment.rs`.
fn segment_header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(b"TLINELOG");
    header[8..12].copy_from_slice(&1u32.to_le_bytes());
    header[16..24].copy_from_slice(&FIRST_OFFSET.to_le_bytes());
    header[24..32].copy_from_slice(&FIRST_OFFSET.to_le_bytes());
    header[40..44].copy_from_slice(&SALT.to_le_bytes());
    let crc = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Whole segments, a torn one, one with durable damage, one with a hole.
pub(super) fn seeds(_: &Path) -> Vec<Vec<u8>> {
    let good: &[u8] = &[0, 0, 0, 2, 1, 0, 0, 3, 0, 1, 0, 9, 0, 0, 0, 1];
    let damaged = |damage: &[u8]| [good, &[0xff], damage].concat();
    vec![
        good.to_vec(),
        damaged(&[30, 0, 1]),
        damaged(&[200, 0, 255]),
        [good, &[4, 0, 0, 5]].concat(),
        [good, &[16, 0, 40, 5, 0, 1, 0, 255]].concat(),
        [good, &[1, 0, 0, 5, 8, 0, 0, 6]].concat(),
        [good, &[2, 0, 0, 5, 0, 0, 0, 4]].concat(),
        [good, &[32, 0, 130, 5]].concat(),
    ]
}
