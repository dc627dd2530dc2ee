//! Checksums of a sealed Parquet file, block by block, and the reader that compares every byte it hands out with them.
//!
//! Invariants
//! - nothing is decoded that was not compared: footer, page index and pages go through [`CheckedFile`]
//! - a block that differs is an error that names the file; nothing of it is returned
//!
//! The checksums are a section of the id sidecar. The sidecar can be built again from the file, which is then compared as a
//! whole with the SHA-256 that the table has of it.
//!
//! Not here: who may have changed a file on purpose; CRCs do not stop that, digests in the table and the leaves do.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parquet::{
    errors::ParquetError,
    file::reader::{ChunkReader, Length},
};
use sha2::{Digest, Sha256};

use crate::StoreError;

/// Bytes under one checksum (4 KiB, a page of the kernel's cache; the checksums take a thousandth of the file).
const BLOCK_BYTES: u64 = 4096;

/// The checksums of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blocks {
    file_bytes: u64,
    crcs: Vec<u32>,
}

impl Blocks {
    /// Reads a file once: its checksums and its SHA-256.
    pub(crate) fn of_file(path: &Path) -> Result<(Blocks, [u8; 32]), StoreError> {
        let mut file = File::open(path).map_err(StoreError::io("open", path))?;
        let (mut digest, mut crcs, mut file_bytes) = (Sha256::new(), Vec::new(), 0);
        let mut chunk = vec![0; BLOCK_BYTES as usize * 64];
        loop {
            let mut filled = 0;
            while filled < chunk.len() {
                match file.read(&mut chunk[filled..]) {
                    Ok(0) => break,
                    Ok(bytes) => filled += bytes,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(StoreError::io("read", path)(error)),
                }
            }
            if filled == 0 {
                return Ok((Blocks { file_bytes, crcs }, digest.finalize().into()));
            }
            digest.update(&chunk[..filled]);
            crcs.extend(chunk[..filled].chunks(BLOCK_BYTES as usize).map(crc32c::crc32c));
            file_bytes += filled as u64;
        }
    }

    /// `file bytes u64 | crc32c u32 per block`, little-endian.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let crcs = self.crcs.iter().flat_map(|crc| crc.to_le_bytes());
        self.file_bytes.to_le_bytes().into_iter().chain(crcs).collect()
    }

    /// Reads what [`Blocks::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Blocks> {
        let (head, crcs) = bytes.split_first_chunk::<8>()?;
        let file_bytes = u64::from_le_bytes(*head);
        let (crcs, rest) = crcs.as_chunks::<4>();
        let whole = rest.is_empty() && crcs.len() as u64 == file_bytes.div_ceil(BLOCK_BYTES);
        whole.then(|| Blocks { file_bytes, crcs: crcs.iter().map(|crc| u32::from_le_bytes(*crc)).collect() })
    }

    /// Length of the file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Bytes it takes in memory.
    pub(crate) fn weight(&self) -> u64 {
        self.crcs.len() as u64 * 4 + 64
    }
}

/// Bytes of a file that are not what was written.
#[derive(Debug, thiserror::Error)]
#[error("{} is damaged: bytes {} to {} fail their checksum", path.display(), range.start, range.end)]
pub(crate) struct BlockDamage {
    path: PathBuf,
    range: Range<u64>,
}

/// An open file whose bytes are compared as they are read. Without checksums, as with files of format 1, they are not.
#[derive(Debug, Clone)]
pub(crate) struct CheckedFile {
    file: Arc<File>,
    path: Arc<Path>,
    bytes: u64,
    blocks: Option<Arc<Blocks>>,
}

impl CheckedFile {
    pub(crate) fn open(path: &Path, blocks: Option<Arc<Blocks>>) -> Result<CheckedFile, StoreError> {
        let file = File::open(path).map_err(StoreError::io("open", path))?;
        let bytes = file.metadata().map_err(StoreError::io("read", path))?.len();
        if blocks.as_ref().is_some_and(|blocks| blocks.file_bytes != bytes) {
            return Err(StoreError::Damaged {
                path: path.to_path_buf(),
                what: "it has another length than was written",
            });
        }
        Ok(CheckedFile { file: Arc::new(file), path: path.into(), bytes, blocks })
    }

    /// The bytes of a range that lies within the file.
    pub(crate) fn read(&self, range: Range<u64>) -> Result<Bytes, ParquetError> {
        if range.start > range.end || range.end > self.bytes {
            return Err(ParquetError::EOF(format!("{} ends before byte {}", self.path.display(), range.end)));
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let Some(blocks) = &self.blocks else { return self.read_unchecked(range) };
        let first = range.start / BLOCK_BYTES;
        let around = first * BLOCK_BYTES..range.end.next_multiple_of(BLOCK_BYTES).min(self.bytes);
        let bytes = self.read_unchecked(around.clone())?;
        let expected = blocks.crcs.get(first as usize..).unwrap_or_default();
        for (n, (block, crc)) in bytes.chunks(BLOCK_BYTES as usize).zip(expected).enumerate() {
            if checks() && crc32c::crc32c(block) != *crc {
                let start = around.start + n as u64 * BLOCK_BYTES;
                let damage = BlockDamage { path: self.path.to_path_buf(), range: start..start + block.len() as u64 };
                return Err(ParquetError::External(Box::new(damage)));
            }
        }
        let start = (range.start - around.start) as usize;
        Ok(bytes.slice(start..start + (range.end - range.start) as usize))
    }

    fn read_unchecked(&self, range: Range<u64>) -> Result<Bytes, ParquetError> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.file.read_exact_at(&mut bytes, range.start).map_err(|error| ParquetError::External(Box::new(error)))?;
        Ok(bytes.into())
    }
}

/// Always, but for the test that shows what would get through.
#[cfg(not(test))]
const fn checks() -> bool {
    true
}

#[cfg(test)]
fn checks() -> bool {
    !UNCHECKED.get()
}

#[cfg(test)]
thread_local! {
    /// Switches the comparison off on this thread.
    pub(crate) static UNCHECKED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

impl Length for CheckedFile {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for CheckedFile {
    // Page headers are read byte by byte, and every read compares a block.
    type T = BufReader<CheckedRead>;

    fn get_read(&self, start: u64) -> Result<BufReader<CheckedRead>, ParquetError> {
        let read = CheckedRead { file: self.clone(), at: start };
        Ok(BufReader::with_capacity(BLOCK_BYTES as usize, read))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.read(start..start.saturating_add(length as u64))
    }
}

/// Reads on from a place.
#[derive(Debug)]
pub(crate) struct CheckedRead {
    file: CheckedFile,
    at: u64,
}

impl Read for CheckedRead {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let end = self.at.saturating_add(out.len() as u64).min(self.file.bytes).max(self.at);
        let bytes = self.file.read(self.at..end).map_err(io::Error::other)?;
        out[..bytes.len()].copy_from_slice(&bytes);
        self.at = end;
        Ok(bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_is_noticed_wherever_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let good: Vec<u8> = (0..10_000u32).map(|n| (n * 7) as u8).collect();
        std::fs::write(&path, &good).unwrap();
        let (blocks, digest) = Blocks::of_file(&path).unwrap();
        assert_eq!(digest, <[u8; 32]>::from(Sha256::digest(&good)));
        assert_eq!(Blocks::decode(&blocks.encode()).as_ref(), Some(&blocks));
        assert_eq!(Blocks::decode(&blocks.encode()[..15]), None);
        let blocks = Arc::new(blocks);
        for at in [0, 4095, 4096, 9999] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            let file = CheckedFile::open(&path, Some(Arc::clone(&blocks))).unwrap();
            for range in [0..10_000, 4000..4200, 4096..8192, 9000..10_000, 10..10] {
                let block = at as u64 / BLOCK_BYTES;
                let touched =
                    !range.is_empty() && (range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES)).contains(&block);
                let read = file.read(range.clone());
                assert_eq!(read.is_err(), touched, "{at} {range:?}");
                if let Ok(bytes) = read {
                    assert_eq!(bytes, good[range.start as usize..range.end as usize]);
                }
            }
        }
        std::fs::write(&path, &good[1..]).unwrap();
        assert!(CheckedFile::open(&path, Some(blocks)).is_err());
    }
}
