//! Reads the batches of one segment file and says how its data end.
//!
//! Invariants
//! - a batch is returned whole or not at all: every header, payload and offset checked, last frame present
//! - an ending is `Corrupt` only with proof that the missing frame was durable once: a later frame that was written
//!   after a sync which covered it. Frames of one unsynced group prove nothing about each other, because a power cut
//!   may keep the second page of a write and lose the first
//! - memory is bounded by the file: a length is used only after its header's checksum held and the file is that long
//!
//! Not here: what follows from an ending (`log::recover` truncates or refuses, `log::reader` stops or reports).

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rustix::fs::{SeekFrom, seek};

use super::{
    Corruption, LogError,
    frame::{FRAME_HEADER_BYTES, FrameHeader},
    segment::SegmentHeader,
};

/// Bytes read at a time; one read serves many frames.
const WINDOW_BYTES: usize = 256 * 1024;

/// Frames that were appended together.
#[derive(Debug)]
pub(super) struct Batch {
    /// Offset and payload of each.
    pub(super) frames: Vec<(u64, Bytes)>,
    /// Where the next batch starts in the file.
    pub(super) next_byte: u64,
    /// Offset of the next batch.
    pub(super) next_offset: u64,
}

/// Why there is no batch at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nothing was written here.
    Clean,
    /// A write that never became durable: bytes that are no whole batch.
    Torn,
    /// A frame that was durable is damaged or missing.
    Corrupt {
        /// Offset of the damaged frame.
        offset: u64,
        /// Where in the file.
        byte: u64,
        /// What is wrong with it.
        what: Corruption,
    },
}

/// What one place in the file holds.
enum Place {
    Frame(FrameHeader),
    Nothing,
    Bad(Corruption),
}

/// A segment file with a window of it in memory.
#[derive(Debug)]
pub(super) struct SegmentScan {
    file: File,
    path: PathBuf,
    header: SegmentHeader,
    window: Vec<u8>,
    window_start: u64,
}

impl SegmentScan {
    /// Scans `file`, whose header was checked already.
    pub(super) fn new(file: File, path: PathBuf, header: SegmentHeader) -> SegmentScan {
        SegmentScan { file, path, header, window: Vec::new(), window_start: 0 }
    }

    /// The file's own statement about itself.
    pub(super) fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Drops what is in memory, because a live writer may have gone on.
    pub(super) fn forget(&mut self) {
        self.window.clear();
    }

    /// The batch at `byte`, whose first frame has to be `offset`.
    pub(super) fn batch(&mut self, byte: u64, offset: u64) -> Result<Result<Batch, Ending>, LogError> {
        let mut frames = Vec::new();
        let (mut at, mut next) = (byte, offset);
        let what = loop {
            let header = match self.place(at)? {
                Place::Frame(header) => header,
                Place::Nothing if frames.is_empty() => break None,
                Place::Nothing => break Some(Corruption::Incomplete),
                Place::Bad(what) => break Some(what),
            };
            if header.offset != next {
                // A header of this segment in the wrong place: no torn write looks like that.
                return Ok(Err(Ending::Corrupt { offset: next, byte: at, what: Corruption::OffsetGap }));
            }
            let start = at + FRAME_HEADER_BYTES as u64;
            let payload = self.bytes(start, header.payload_bytes as usize)?;
            if !header.matches(payload) {
                break Some(Corruption::Payload);
            }
            frames.push((next, Bytes::copy_from_slice(payload)));
            at = start + u64::from(header.payload_bytes);
            next += 1;
            if header.ends_batch {
                return Ok(Ok(Batch { frames, next_byte: at, next_offset: next }));
            }
        };
        let ending = if self.proof_after(at, offset)? {
            Ending::Corrupt { offset: next, byte: at, what: what.unwrap_or(Corruption::Missing) }
        } else if what.is_some() || self.data_after(at)? {
            Ending::Torn
        } else {
            Ending::Clean
        };
        Ok(Err(ending))
    }

    /// What is at `byte`, as far as the header tells.
    fn place(&mut self, byte: u64) -> Result<Place, LogError> {
        let salt = self.header.salt;
        let head = self.bytes(byte, FRAME_HEADER_BYTES)?;
        if head.iter().all(|b| *b == 0) {
            return Ok(Place::Nothing);
        }
        let Ok(head) = <&[u8; FRAME_HEADER_BYTES]>::try_from(head) else {
            return Ok(Place::Bad(Corruption::Incomplete));
        };
        let Some(header) = FrameHeader::decode(head, salt) else {
            return Ok(Place::Bad(Corruption::FrameHeader));
        };
        let end = byte + FRAME_HEADER_BYTES as u64 + u64::from(header.payload_bytes);
        let in_window = end <= self.window_start + self.window.len() as u64;
        Ok(if !in_window && end > self.file_bytes()? {
            Place::Bad(Corruption::Incomplete)
        } else {
            Place::Frame(header)
        })
    }

    /// Whether a frame after `byte` was written when `offset` was durable already.
    ///
    /// Looks at every byte position, because the damage may hide where the next frame starts. Headers alone decide
    /// (they cannot be forged from inside a payload), so the cost stays linear whatever the bytes are.
    fn proof_after(&mut self, byte: u64, offset: u64) -> Result<bool, LogError> {
        let salt = self.header.salt;
        let mut from = byte + 1;
        while let Some(start) = self.next_data(from)? {
            let chunk = self.bytes(start, WINDOW_BYTES)?;
            if chunk.len() < FRAME_HEADER_BYTES {
                return Ok(false);
            }
            // No header is all zeros, and what was only preallocated mostly is: leave the zeros at the end out.
            let used = (nonzero_end(chunk) + FRAME_HEADER_BYTES).min(chunk.len());
            let found = chunk[..used].windows(FRAME_HEADER_BYTES).any(|head| {
                // The flag bit and any length, then a plausible offset: cheap, and rules out zeros and most payloads.
                let later = u64::from_le_bytes([8, 9, 10, 11, 12, 13, 14, 15].map(|i| head[i]));
                later > offset
                    && later - offset <= u64::from(u32::MAX)
                    && <&[u8; FRAME_HEADER_BYTES]>::try_from(head)
                        .ok()
                        .and_then(|head| FrameHeader::decode(head, salt))
                        .is_some_and(|frame| frame.durable_below() > offset)
            });
            if found {
                return Ok(true);
            }
            // The last bytes may be the front of a header that goes on in the next chunk.
            from = start + (chunk.len() - FRAME_HEADER_BYTES + 1) as u64;
        }
        Ok(false)
    }

    /// Whether anything but zeros follows.
    fn data_after(&mut self, byte: u64) -> Result<bool, LogError> {
        let mut from = byte;
        while let Some(start) = self.next_data(from)? {
            let chunk = self.bytes(start, WINDOW_BYTES)?;
            if chunk.is_empty() {
                return Ok(false);
            }
            if nonzero_end(chunk) > 0 {
                return Ok(true);
            }
            from = start + chunk.len() as u64;
        }
        Ok(false)
    }

    /// Where the next written page starts at or after `byte`: skips what was only preallocated.
    fn next_data(&self, byte: u64) -> Result<Option<u64>, LogError> {
        match seek(&self.file, SeekFrom::Data(byte)) {
            Ok(at) => Ok(Some(at.max(byte))),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            // A file system that does not know its holes: read everything up to the end.
            Err(rustix::io::Errno::INVAL) => Ok((byte < self.file_bytes()?).then_some(byte)),
            Err(e) => Err(LogError::read(&self.path, e.into())),
        }
    }

    /// Bytes of the file as it is now.
    pub(super) fn file_bytes(&self) -> Result<u64, LogError> {
        let metadata = self.file.metadata();
        metadata.map(|m| m.len()).map_err(|e| LogError::read(&self.path, e))
    }

    /// Up to `want` bytes at `at`; fewer only where the file ends.
    fn bytes(&mut self, at: u64, want: usize) -> Result<&[u8], LogError> {
        let have = self.window_start + self.window.len() as u64;
        let inside = at >= self.window_start && at + want as u64 <= have;
        if !inside {
            self.fill(at, want.max(WINDOW_BYTES)).map_err(|e| LogError::read(&self.path, e))?;
        }
        let from = ((at - self.window_start) as usize).min(self.window.len());
        let to = (from + want).min(self.window.len());
        Ok(&self.window[from..to])
    }

    fn fill(&mut self, at: u64, want: usize) -> io::Result<()> {
        let rest = self.file.metadata()?.len().saturating_sub(at);
        let want = usize::try_from(rest).unwrap_or(usize::MAX).min(want);
        self.window.clear();
        self.window.resize(want, 0);
        self.window_start = at;
        let mut filled = 0;
        while filled < want {
            match self.file.read_at(&mut self.window[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.window.clear();
                    return Err(e);
                }
            }
        }
        self.window.truncate(filled);
        // One frame of 32 MiB must not keep that much memory for the rest of the scan.
        if self.window.capacity() > 4 * WINDOW_BYTES && want <= WINDOW_BYTES {
            self.window.shrink_to(WINDOW_BYTES);
        }
        Ok(())
    }
}

/// Where the zeros at the end of `bytes` begin.
fn nonzero_end(bytes: &[u8]) -> usize {
    const BLOCK: [u8; 4096] = [0; 4096];
    let blocks = bytes.rchunks(BLOCK.len());
    let zeros: usize = blocks.take_while(|block| **block == BLOCK[..block.len()]).map(<[u8]>::len).sum();
    let rest = &bytes[..bytes.len() - zeros];
    rest.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1)
}
