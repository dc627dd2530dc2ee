//! Payloads over 64 KiB, kept beside the rows of a sealed file by their digest.
//!
//! Invariants
//! - a body is stored once per file, however many rows have it; its bytes are checked against the digest on every read
//! - a row whose payload is here has a null in that column and `{"field":{"sha256":…,"bytes":…}}` in `bodies`
//! - a file without large payloads has no bodies file
//! - one body is in memory at a time: each goes to the file as it comes
//!
//! On disk, little-endian: `"TLBODY" | version u16 = 1`, then the bodies, each one zstd frame, then the directory:
//! `sha256 (32 bytes) | offset u64 | stored bytes u64 | bytes u64` ascending by digest, then
//! `directory offset u64 | entries u32 | crc32c u32` of the directory with these two numbers.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use threadline_schemas::{Record, columns::BODY_INLINE_BYTES_MAX, residue};

use crate::StoreError;

const MAGIC: &[u8; 6] = b"TLBODY";
const VERSION: u16 = 1;
const HEAD_BYTES: u64 = 8;
const ENTRY_BYTES: usize = 56;
const FOOT_BYTES: u64 = 16;
const ZSTD_LEVEL: i32 = 1;

/// What a row's `bodies` column says of one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct BodyRef {
    sha256: String,
    bytes: u64,
}

/// Where a body stands in its file.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    stored: u64,
    bytes: u64,
}

/// Large payloads on their way from records to a new bodies file, which begins with the first of them.
#[derive(Debug)]
pub(crate) struct Bodies {
    path: PathBuf,
    file: Option<File>,
    end: u64,
    by_digest: BTreeMap<[u8; 32], Place>,
}

impl Bodies {
    /// Nothing yet, and no file.
    pub(crate) fn new(path: PathBuf) -> Bodies {
        Bodies { path, file: None, end: HEAD_BYTES, by_digest: BTreeMap::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_digest.is_empty()
    }

    /// Whether `record` may have something for the file.
    pub(crate) fn wants(record: &Record) -> bool {
        let texts = [&record.arguments, &record.attributes, &record.result, &record.text];
        texts.into_iter().flatten().any(|text| text.len() > BODY_INLINE_BYTES_MAX)
            || record.raw.as_ref().is_some_and(|raw| {
                raw.len() > BODY_INLINE_BYTES_MAX / 2 && residue::stored_bytes_max(raw) > BODY_INLINE_BYTES_MAX
            })
    }

    /// Moves the large payloads of `record` out of it, into the file.
    pub(crate) fn take_from(&mut self, record: &mut Record) -> Result<(), StoreError> {
        let mut refs = BTreeMap::new();
        let texts = [
            ("arguments", &mut record.arguments),
            ("attributes", &mut record.attributes),
            ("result", &mut record.result),
            ("text", &mut record.text),
        ];
        for (field, payload) in texts {
            if let Some(text) = payload.take_if(|text| text.len() > BODY_INLINE_BYTES_MAX) {
                refs.insert(field, self.keep(&text.into_bytes())?);
            }
        }
        if let Some(raw) = record.raw.take_if(|raw| raw.len() > BODY_INLINE_BYTES_MAX) {
            refs.insert("raw", self.keep(&raw)?);
        }
        record.bodies = (!refs.is_empty()).then(|| serde_json::to_string(&refs).expect("texts and numbers"));
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<BodyRef, StoreError> {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        let body = BodyRef { sha256: hex::encode(digest), bytes: bytes.len() as u64 };
        if !self.by_digest.contains_key(&digest) {
            let place = self.append(bytes).map_err(StoreError::io("write", &self.path))?;
            self.by_digest.insert(digest, place);
        }
        Ok(body)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<Place> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let mut file = File::options().write(true).create_new(true).mode(0o600).open(&self.path)?;
                file.write_all(MAGIC)?;
                file.write_all(&VERSION.to_le_bytes())?;
                none.insert(file)
            }
        };
        let stored = zstd::bulk::compress(bytes, ZSTD_LEVEL)?;
        file.write_all(&stored)?;
        let place = Place { offset: self.end, stored: stored.len() as u64, bytes: bytes.len() as u64 };
        self.end += place.stored;
        Ok(place)
    }

    /// Ends the file, if there is one, with its directory; syncing is the caller's part.
    pub(crate) fn finish(&mut self) -> Result<(), StoreError> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        let mut directory = Vec::with_capacity(self.by_digest.len() * ENTRY_BYTES + FOOT_BYTES as usize);
        for (digest, place) in &self.by_digest {
            directory.extend_from_slice(digest);
            for number in [place.offset, place.stored, place.bytes] {
                directory.extend_from_slice(&number.to_le_bytes());
            }
        }
        directory.extend_from_slice(&self.end.to_le_bytes());
        directory.extend_from_slice(&(self.by_digest.len() as u32).to_le_bytes());
        directory.extend_from_slice(&crc32c::crc32c(&directory).to_le_bytes());
        file.write_all(&directory).map_err(StoreError::io("write", &self.path))
    }
}

/// Where the bodies of one sealed file are.
#[derive(Debug)]
pub(crate) struct BodyDirectory {
    file: File,
    path: PathBuf,
    entries: Vec<u8>,
}

impl BodyDirectory {
    /// Reads and checks the directory.
    pub(crate) fn open(path: &Path) -> Result<BodyDirectory, StoreError> {
        let damaged = |what| StoreError::Damaged { path: path.to_path_buf(), what };
        let read = |e| StoreError::io("read", path)(e);
        let file = File::open(path).map_err(StoreError::io("open", path))?;
        let size = file.metadata().map_err(read)?.len();
        if size < HEAD_BYTES + FOOT_BYTES {
            return Err(damaged("it is cut off"));
        }
        let mut head = [0; HEAD_BYTES as usize];
        file.read_exact_at(&mut head, 0).map_err(read)?;
        let version = u16::from_le_bytes([head[6], head[7]]);
        if head[..6] != *MAGIC {
            return Err(damaged("it is no bodies file"));
        }
        if version > VERSION {
            let (found, known) = (version.into(), VERSION.into());
            return Err(StoreError::NewerFormat { path: path.to_path_buf(), found, known });
        }
        let mut foot = [0; FOOT_BYTES as usize];
        file.read_exact_at(&mut foot, size - FOOT_BYTES).map_err(read)?;
        let start = u64_le(&foot[..8]);
        let count = u32::from_le_bytes(foot[8..12].try_into().expect("four bytes"));
        let crc = u32::from_le_bytes(foot[12..].try_into().expect("four bytes"));
        let bytes = u64::from(count) * ENTRY_BYTES as u64;
        if start.checked_add(bytes) != Some(size - FOOT_BYTES) {
            return Err(damaged("the directory has a wrong length"));
        }
        let mut entries = vec![0; bytes as usize];
        file.read_exact_at(&mut entries, start).map_err(read)?;
        if crc32c::crc32c_append(crc32c::crc32c(&entries), &foot[..12]) != crc {
            return Err(damaged("the directory fails its checksum"));
        }
        Ok(BodyDirectory { file, path: path.to_path_buf(), entries })
    }

    /// Bytes it takes in memory.
    pub(crate) fn weight(&self) -> u64 {
        self.entries.len() as u64 + 128
    }

    /// Puts the large payloads of `record` back into it.
    pub(crate) fn put_back(&self, record: &mut Record) -> Result<(), StoreError> {
        let Some(json) = record.bodies.take() else { return Ok(()) };
        let malformed = || self.damaged("a row's list of bodies is not understood");
        let refs: BTreeMap<String, BodyRef> = serde_json::from_str(&json).map_err(|_| malformed())?;
        for (field, body) in refs {
            let bytes = self.read(&body)?;
            let text = |bytes| String::from_utf8(bytes).map(Some).map_err(|_| self.damaged("a text body is not UTF-8"));
            match field.as_str() {
                "arguments" => record.arguments = text(bytes)?,
                "attributes" => record.attributes = text(bytes)?,
                "result" => record.result = text(bytes)?,
                "text" => record.text = text(bytes)?,
                "raw" => record.raw = Some(bytes),
                _ => return Err(malformed()),
            }
        }
        Ok(())
    }

    fn read(&self, body: &BodyRef) -> Result<Vec<u8>, StoreError> {
        let mut digest = [0; 32];
        hex::decode_to_slice(&body.sha256, &mut digest).map_err(|_| self.damaged("a digest is not understood"))?;
        let (entries, _) = self.entries.as_chunks::<ENTRY_BYTES>();
        let found = entries.binary_search_by(|entry| entry[..32].cmp(&digest));
        let entry = &entries[found.map_err(|_| self.damaged("a body is missing"))?];
        let (offset, stored, bytes) = (u64_le(&entry[32..40]), u64_le(&entry[40..48]), u64_le(&entry[48..]));
        if bytes != body.bytes {
            return Err(self.damaged("a body has another length than its row says"));
        }
        let mut packed = vec![0; stored as usize];
        self.file.read_exact_at(&mut packed, offset).map_err(StoreError::io("read", &self.path))?;
        let unpacked = zstd::bulk::decompress(&packed, bytes as usize);
        let unpacked = unpacked.map_err(|_| self.damaged("a body cannot be unpacked"))?;
        if <[u8; 32]>::from(Sha256::digest(&unpacked)) != digest {
            return Err(self.damaged("a body fails its digest"));
        }
        Ok(unpacked)
    }

    fn damaged(&self, what: &'static str) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), what }
    }
}

fn u64_le(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use threadline_schemas::Kind;

    use super::*;

    fn large() -> Record {
        let mut record = Record::new("t", "api:1", Kind::Result);
        record.result = Some("é".repeat(BODY_INLINE_BYTES_MAX));
        record.text = Some("short".into());
        record.raw = Some(vec![0xFF; BODY_INLINE_BYTES_MAX + 1]);
        record
    }

    #[test]
    fn payloads_come_back_and_equal_ones_are_stored_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.bodies");
        let mut bodies = Bodies::new(path.clone());
        let mut rows = [large(), large(), Record::new("t", "api:2", Kind::Log)];
        rows.iter_mut().for_each(|row| bodies.take_from(row).unwrap());
        assert_eq!((rows[0].result.is_none(), rows[0].text.as_deref()), (true, Some("short")));
        assert_eq!(rows[2].bodies, None);
        bodies.finish().unwrap();
        let directory = BodyDirectory::open(&path).unwrap();
        assert_eq!(directory.entries.len(), 2 * ENTRY_BYTES);
        rows.iter_mut().for_each(|row| directory.put_back(row).unwrap());
        assert_eq!(rows[1], large());
    }

    #[test]
    fn damage_is_noticed_or_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.bodies");
        let mut bodies = Bodies::new(path.clone());
        let mut row = large();
        bodies.take_from(&mut row).unwrap();
        bodies.finish().unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in [0, 6, 12, good.len() / 2, good.len() - 60, good.len() - 10, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            let mut row = row.clone();
            let read = BodyDirectory::open(&path).and_then(|directory| directory.put_back(&mut row));
            assert!(read.is_err() || row == large(), "byte {at} of {}", good.len());
        }
    }
}
