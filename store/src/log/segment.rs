//! One segment file: its name, its header, and listing those of a directory.
//!
//! Invariants
//! - a file with a segment's name has a whole, synced header: it gets that name by rename after its header was synced
//! - the name is the first offset, so sorting names sorts offsets, and name and header must agree
//! - `previous_end` is the authority on where the segment before ends: what that one holds from there on is void
//!
//! On disk, 64 bytes, little endian: `magic "TLINELOG" | version u32 | partition u32 | first offset u64 |
//! previous end u64 | created, microseconds since 1970, u64 | salt u32 | 16 zero bytes | crc32c of the 60 before u32`,
//! then frames (`log::frame`), then nothing or zeros.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{Corruption, LogError};

/// Bytes before the first frame.
pub(super) const SEGMENT_HEADER_BYTES: u64 = 64;
/// Format version of segment header and frames.
pub(super) const SEGMENT_VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"TLINELOG";
const SUFFIX: &str = ".log";
/// A segment whose header is not durable yet; recovery removes it.
pub(super) const UNFINISHED_SUFFIX: &str = ".new";
/// A copy of what was cut off the end.
const TORN_SUFFIX: &str = ".torn";

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// Log partition the segment belongs to.
    pub(super) partition: u32,
    /// Offset of its first frame.
    pub(super) first_offset: u64,
    /// Where the segment before it ends. Less than `first_offset` when appends failed in between.
    pub(super) previous_end: u64,
    /// When it was created, microseconds since 1970.
    pub(super) created_us: u64,
    /// Start value of the frame header checksums.
    pub(super) salt: u32,
}

impl SegmentHeader {
    /// The bytes at the start of the file.
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES as usize] {
        let mut out = [0; SEGMENT_HEADER_BYTES as usize];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.partition.to_le_bytes());
        out[16..24].copy_from_slice(&self.first_offset.to_le_bytes());
        out[24..32].copy_from_slice(&self.previous_end.to_le_bytes());
        out[32..40].copy_from_slice(&self.created_us.to_le_bytes());
        out[40..44].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(path: &Path, bytes: &[u8; 64]) -> Result<SegmentHeader, LogError> {
        let u32_at = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let version = u32_at(8);
        if &bytes[..8] == MAGIC && version != SEGMENT_VERSION {
            return Err(LogError::Version { segment: path.to_path_buf(), version });
        }
        let header = SegmentHeader {
            partition: u32_at(12),
            first_offset: u64_at(16),
            previous_end: u64_at(24),
            created_us: u64_at(32),
            salt: u32_at(40),
        };
        let named = first_offset_of(path);
        if &bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..60]) != u32_at(60) || named != Some(header.first_offset) {
            return Err(LogError::Corrupt {
                segment: path.to_path_buf(),
                offset: named.unwrap_or(header.first_offset),
                byte: 0,
                what: Corruption::SegmentHeader,
            });
        }
        Ok(header)
    }
}

/// Opens a segment for reading and checks its header. `Ok(None)` when the file is gone.
pub(super) fn open_segment(path: &Path) -> Result<Option<(File, SegmentHeader)>, LogError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(LogError::read(path, e)),
    };
    let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
    match file.read_exact_at(&mut bytes, 0) {
        // A file too short for its header is judged by the checksum of the zeros that are missing.
        Err(e) if e.kind() != ErrorKind::UnexpectedEof => Err(LogError::read(path, e)),
        _ => SegmentHeader::decode(path, &bytes).map(|header| Some((file, header))),
    }
}

/// Name of the segment that starts at `first_offset`.
pub(super) fn segment_path(dir: &Path, first_offset: u64) -> PathBuf {
    dir.join(format!("{first_offset:020}{SUFFIX}"))
}

fn first_offset_of(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// First offsets of the segments in `dir`, ascending. Other files are none of the log's business.
pub(super) fn list_segments(dir: &Path) -> Result<Vec<u64>, LogError> {
    let mut found = entries(dir)?.iter().filter_map(|path| first_offset_of(path)).collect::<Vec<_>>();
    found.sort_unstable();
    Ok(found)
}

/// Where what is cut off at `offset` is kept.
pub(super) fn torn_path(dir: &Path, offset: u64) -> PathBuf {
    dir.join(format!("{offset:020}{TORN_SUFFIX}"))
}

/// What was cut off and kept, oldest first.
pub(super) fn list_torn(dir: &Path) -> Result<Vec<PathBuf>, LogError> {
    let mut paths = entries(dir)?;
    paths.retain(|path| path.to_str().is_some_and(|path| path.ends_with(TORN_SUFFIX)));
    paths.sort_unstable();
    Ok(paths)
}

/// Segments whose creation was interrupted.
pub(super) fn list_unfinished(dir: &Path) -> Result<Vec<PathBuf>, LogError> {
    let mut paths = entries(dir)?;
    paths.retain(|path| {
        path.to_str()
            .and_then(|p| p.strip_suffix(UNFINISHED_SUFFIX))
            .is_some_and(|p| first_offset_of(Path::new(p)).is_some())
    });
    Ok(paths)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, LogError> {
    fs::read_dir(dir)
        .and_then(|entries| entries.map(|e| Ok(e?.path())).collect::<io::Result<_>>())
        .map_err(|e| LogError::read(dir, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_fixed_and_every_byte_of_it_is_checked() {
        let header = SegmentHeader {
            partition: 2,
            first_offset: 17,
            previous_end: 15,
            created_us: 1_800_000_000_000_000,
            salt: 0xdead_beef,
        };
        let good = header.encode();
        expect_test::expect!["544c494e454c4f4701000000020000001100000000000000 0f00000000000000"].assert_eq(&format!(
            "{} {}",
            hex::encode(&good[..24]),
            hex::encode(&good[24..32])
        ));
        let path = segment_path(Path::new("d"), 17);
        assert_eq!(SegmentHeader::decode(&path, &good).unwrap(), header);
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&path, &bad).is_err(), "bit {bit}");
        }
        assert!(SegmentHeader::decode(&segment_path(Path::new("d"), 18), &good).is_err());
    }

    #[test]
    fn only_segment_names_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "00000000000000000007.log",
            "00000000000000000000.log",
            "00000000000000000009.log.new",
            "7.log",
            "owner.lock",
            "0000000000000000000x.log",
            "99999999999999999999.log",
        ] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        assert_eq!(list_segments(dir.path()).unwrap(), [0, 7]);
        assert_eq!(list_unfinished(dir.path()).unwrap().len(), 1);
    }
}
