//! Id sidecar: from an event id or a key to the rows of one sealed file, without a time range; and the file's checksums.
//!
//! Invariants
//! - every event id, every key text, every bare value of a scoped key and every stamp of the file's rows is in it
//! - an answer about events or keys is a set of candidates that the caller compares with the rows; only when an event's
//!   content tag agrees, too, is the row known to be the same delivery without a look at it
//! - the filters have no false negatives
//! - its bytes depend on the rows and the file's id alone, so that it can be built again as it was
//!
//! On disk, little-endian: `"TLIDS\0" | version u16 = 2 | rows u32 | section count u32 = 5`, per section
//! `offset u64 | bytes u64 | crc32c u32`, then `crc32c u32` over all of that, then the sections:
//! ```text
//! 0 event filter   binary fuse 16 over the first 8 bytes (big-endian) of each event id
//! 1 key filter     binary fuse 8 over the key hashes
//! 2 events         ascending by the first 5 bytes of the id: LEB128 of the difference to the last one | content tag u32 | row
//! 3 keys           ascending by the upper half of the hash: LEB128 of twice the difference to the last one, plus 1 where
//!                  several rows bear it; then the row, or: run count, then per run: rows skipped since the last run,
//!                  rows in the run minus 1; all LEB128
//! 4 blocks         the checksums of the Parquet file, see `blocks`
//! ```
//! A row is a u16 in files of up to 65,536 rows, else a u32. A filter is
//! `seed u64 | segment length u32 | segment length mask u32 | segment count length u32 | fingerprints`.
//! A content tag is the first 4 bytes of `SHA-256("threadline/content-tag/v1" 0x00 | file id | content digest)`: keyed by
//! the file's id, which nobody knows before it is sealed, so a content cannot be made to fit it. 0 stands for a row whose
//! content could not be read when the sidecar was built again.
//!
//! Rows of a session stand together in a file, so that the key of a session costs one run however many rows bear it.

mod filter;

use std::{
    fs::File,
    io::{self, Write},
    ops::Range,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use threadline_schemas::{Key, KeyKind, Record};
use uuid::Uuid;

pub(crate) use self::filter::IdFilter;
use crate::{
    StoreError,
    blocks::Blocks,
    hash::{Domain, hash},
};

const MAGIC: &[u8; 6] = b"TLIDS\0";
const VERSION: u16 = 2;
const SECTIONS: usize = 5;
const HEADER_BYTES: usize = 16 + SECTIONS * 20 + 4;
/// The tag of a row whose content is not known.
const UNKNOWN_TAG: u32 = 0;
/// Marks a place that is a row.
const INLINE: u32 = 1 << 31;

/// Digest of what a source said, see [`Record::content_digest`].
pub(crate) type Content = [u8; 32];

/// What a query asks for, as the sidecar knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Probe {
    /// Exactly this event.
    Event(Uuid),
    /// Rows that may bear the key with this hash.
    Key(u64),
}

/// Every hash under which a record is filed.
pub(crate) fn key_hashes(record: &Record) -> Vec<u64> {
    let mut hashes = Vec::with_capacity(record.keys.len() * 2 + 3);
    for text in &record.keys {
        hashes.push(hash(Domain::Typed, text));
        if let Some(Key { scope: Some(_), value, .. }) = Key::parse(text) {
            hashes.push(hash(Domain::Bare, &value));
        }
    }
    hashes.push(hash(Domain::Bare, &record.session_key));
    hashes.extend(record.turn_key.iter().chain(&record.call_key).map(|stamp| hash(Domain::Bare, stamp)));
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

/// Everything that a bare value may name: an event, a key of any kind, a stamp.
pub(crate) fn probes_for_any(value: &str) -> Vec<Probe> {
    let mut probes: Vec<Probe> = Uuid::parse_str(value).map(Probe::Event).into_iter().collect();
    let unscoped = KeyKind::ALL.iter().filter(|kind| !kind.scoped());
    probes.extend(unscoped.map(|kind| Probe::Key(hash(Domain::Typed, &Key::new(*kind, value).to_string()))));
    // A value that is too long for a key was replaced by its digest, whatever the kind.
    probes.push(Probe::Key(hash(Domain::Bare, &Key::new(KeyKind::Rpc, value).value)));
    probes
}

/// The tag under which a file keeps a content.
pub(crate) fn content_tag(file: Uuid, content: &Content) -> u32 {
    let mut digest = Sha256::new();
    digest.update(b"threadline/content-tag/v1\0");
    digest.update(file.as_bytes());
    digest.update(content);
    let digest: [u8; 32] = digest.finalize().into();
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]).max(UNKNOWN_TAG + 1)
}

/// Writes a sidecar; syncing is the caller's part. Returns its SHA-256.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<[u8; 32], StoreError> {
    let write = || -> io::Result<()> {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)
    };
    write().map_err(StoreError::io("write", path))?;
    Ok(Sha256::digest(bytes).into())
}

/// Collects what a sidecar says of rows in file order.
#[derive(Debug)]
pub(crate) struct Builder {
    file: Uuid,
    events: Vec<(u128, u32, u32)>,
    rows_by_key: Vec<(u64, u32)>,
}

impl Builder {
    pub(crate) fn new(file: Uuid) -> Builder {
        Builder { file, events: Vec::new(), rows_by_key: Vec::new() }
    }

    /// Adds the next row; `content` unless it cannot be read.
    pub(crate) fn add(&mut self, record: &Record, content: Option<&Content>) {
        let row = self.events.len() as u32;
        let tag = content.map_or(UNKNOWN_TAG, |content| content_tag(self.file, content));
        self.events.push((record.event_id.as_u128(), tag, row));
        self.rows_by_key.extend(key_hashes(record).into_iter().map(|hash| (hash, row)));
    }

    /// The bytes of the sidecar.
    pub(crate) fn finish(mut self, blocks: &Blocks) -> Vec<u8> {
        let rows = self.events.len() as u32;
        self.events.sort_unstable_by_key(|(id, _, row)| (*id, *row));
        self.rows_by_key.sort_unstable();
        let mut event_heads: Vec<u64> = self.events.iter().map(|(id, ..)| (id >> 64) as u64).collect();
        event_heads.dedup();
        let mut key_hashes: Vec<u64> = self.rows_by_key.iter().map(|(hash, _)| *hash).collect();
        key_hashes.dedup();
        let sections = [
            filter::encode16(&event_heads),
            filter::encode8(&key_hashes),
            encode_events(&self.events, rows),
            encode_keys(self.rows_by_key, rows),
            blocks.encode(),
        ];
        assemble(rows, &sections)
    }
}

/// Bytes of an event id that the table keeps.
fn event_prefix(id: u128) -> u64 {
    (id >> 88) as u64
}

/// The part of a hash that the table keeps.
fn key_prefix(hash: u64) -> u32 {
    (hash >> 32) as u32
}

fn push_row(row: u32, rows: u32, out: &mut Vec<u8>) {
    match rows <= 1 << 16 {
        true => out.extend_from_slice(&(row as u16).to_le_bytes()),
        false => out.extend_from_slice(&row.to_le_bytes()),
    }
}

fn take_row(rows: u32, bytes: &mut &[u8]) -> Option<u32> {
    if rows <= 1 << 16 {
        let (row, rest) = bytes.split_first_chunk::<2>()?;
        *bytes = rest;
        return Some(u16::from_le_bytes(*row).into());
    }
    take_u32(bytes)
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (value, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*value))
}

fn encode_events(events: &[(u128, u32, u32)], rows: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(events.len() * 10);
    let mut last = 0;
    for (id, tag, row) in events {
        let prefix = event_prefix(*id);
        push_varint(prefix - last, &mut out);
        out.extend_from_slice(&tag.to_le_bytes());
        push_row(*row, rows, &mut out);
        last = prefix;
    }
    out
}

fn encode_keys(rows_by_key: Vec<(u64, u32)>, rows: u32) -> Vec<u8> {
    let mut pairs: Vec<(u32, u32)> = rows_by_key.into_iter().map(|(hash, row)| (key_prefix(hash), row)).collect();
    pairs.sort_unstable();
    pairs.dedup();
    let mut out = Vec::with_capacity(pairs.len() * 5);
    let mut last = 0;
    for key in pairs.chunk_by(|a, b| a.0 == b.0) {
        let difference = u64::from(key[0].0 - last);
        last = key[0].0;
        match key {
            [(_, row)] => {
                push_varint(difference << 1, &mut out);
                push_row(*row, rows, &mut out);
            }
            _ => {
                push_varint(difference << 1 | 1, &mut out);
                push_runs(key, &mut out);
            }
        }
    }
    out
}

fn assemble(rows: u32, sections: &[Vec<u8>; SECTIONS]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + sections.iter().map(Vec::len).sum::<usize>());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&rows.to_le_bytes());
    out.extend_from_slice(&(SECTIONS as u32).to_le_bytes());
    let mut offset = HEADER_BYTES as u64;
    for section in sections {
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&(section.len() as u64).to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(section).to_le_bytes());
        offset += section.len() as u64;
    }
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    sections.iter().for_each(|section| out.extend_from_slice(section));
    out
}

fn push_runs(rows: &[(u32, u32)], out: &mut Vec<u8>) {
    let runs: Vec<&[(u32, u32)]> = rows.chunk_by(|a, b| a.1 + 1 == b.1).collect();
    push_varint(runs.len() as u64, out);
    let mut next = 0;
    for run in runs {
        let first = run[0].1;
        push_varint((first - next).into(), out);
        push_varint(run.len() as u64 - 1, out);
        next = first + run.len() as u32;
    }
}

fn push_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take_varint32(bytes: &mut &[u8]) -> Option<u32> {
    take_varint(bytes)?.try_into().ok()
}

/// Where the bytes of a sidecar are.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// On the disk.
    File(PathBuf),
    /// Built again, for the sidecar at this path.
    Memory(PathBuf, Arc<Vec<u8>>),
}

impl Source {
    fn path(&self) -> &Path {
        match self {
            Source::File(path) | Source::Memory(path, _) => path,
        }
    }

    fn damaged(&self, what: &'static str) -> StoreError {
        StoreError::Damaged { path: self.path().to_path_buf(), what }
    }
}

/// A sidecar whose header has been read.
struct Sections {
    source: Source,
    file: Option<File>,
    rows: u32,
    sections: Vec<(Range<u64>, u32)>,
}

impl Sections {
    fn open(source: &Source) -> Result<Sections, StoreError> {
        let (file, size) = match source {
            Source::Memory(_, bytes) => (None, bytes.len() as u64),
            Source::File(path) => {
                let file = File::open(path).map_err(StoreError::io("open", path))?;
                let size = file.metadata().map_err(StoreError::io("read", path))?.len();
                (Some(file), size)
            }
        };
        let mut sidecar = Sections { source: source.clone(), file, rows: 0, sections: Vec::new() };
        if size < HEADER_BYTES as u64 {
            return Err(source.damaged("the header is cut off"));
        }
        let header = sidecar.bytes(0..HEADER_BYTES as u64)?;
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        if header[..6] != *MAGIC {
            return Err(source.damaged("it is no id sidecar"));
        }
        let version = u16::from_le_bytes([header[6], header[7]]);
        if version < VERSION {
            return Err(source.damaged("it is of an older format"));
        }
        if crc32c::crc32c(&header[..HEADER_BYTES - 4]) != u32_at(HEADER_BYTES - 4) || u32_at(12) != SECTIONS as u32 {
            return Err(source.damaged("the header fails its checksum"));
        }
        if version > VERSION {
            let (found, known) = (version.into(), VERSION.into());
            return Err(StoreError::NewerFormat { path: source.path().to_path_buf(), found, known });
        }
        for at in (0..SECTIONS).map(|i| 16 + i * 20) {
            let (start, bytes) = (u64_at(at), u64_at(at + 8));
            let end = start.checked_add(bytes).filter(|end| *end <= size);
            let end = end.ok_or_else(|| source.damaged("it is cut off"))?;
            sidecar.sections.push((start..end, u32_at(at + 16)));
        }
        sidecar.rows = u32_at(8);
        Ok(sidecar)
    }

    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        match (&self.source, &self.file) {
            (Source::Memory(_, bytes), _) => Ok(bytes[range.start as usize..range.end as usize].to_vec()),
            (Source::File(path), Some(file)) => {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                file.read_exact_at(&mut bytes, range.start).map_err(StoreError::io("read", path))?;
                Ok(bytes)
            }
            (Source::File(_), None) => Err(self.source.damaged("it is not open")),
        }
    }

    fn read(&self, index: usize) -> Result<Vec<u8>, StoreError> {
        let (range, crc) = &self.sections[index];
        let bytes = self.bytes(range.clone())?;
        if crc32c::crc32c(&bytes) != *crc {
            return Err(self.source.damaged("a section fails its checksum"));
        }
        Ok(bytes)
    }
}

/// Reads only the filters of a sidecar.
pub(crate) fn read_filter(source: &Source) -> Result<IdFilter, StoreError> {
    let sections = Sections::open(source)?;
    IdFilter::decode(&sections.read(0)?, &sections.read(1)?).ok_or_else(|| source.damaged("a filter is malformed"))
}

/// Reads only the checksums of the Parquet file.
pub(crate) fn read_blocks(source: &Source) -> Result<Blocks, StoreError> {
    let sections = Sections::open(source)?;
    Blocks::decode(&sections.read(4)?).ok_or_else(|| source.damaged("the checksums of the file are malformed"))
}

/// An event as the table knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventEntry {
    prefix: u64,
    /// Content tag of the row.
    pub(crate) tag: u32,
    /// The row.
    pub(crate) row: u32,
}

/// The keys of [`IdTable`] and their runs.
type Keys = (Vec<(u32, u32)>, Vec<u32>);

/// The sorted tables of a sidecar, in memory.
#[derive(Debug)]
pub(crate) struct IdTable {
    events: Vec<EventEntry>,
    /// Half a hash, and a row or a place in `runs`.
    keys: Vec<(u32, u32)>,
    /// Per key of several rows: how many ranges, then their starts and ends.
    runs: Vec<u32>,
}

impl IdTable {
    /// Reads and checks the tables.
    pub(crate) fn read(source: &Source) -> Result<IdTable, StoreError> {
        let sections = Sections::open(source)?;
        let rows = sections.rows;
        let events = decode_events(&sections.read(2)?, rows);
        let events = events.ok_or_else(|| source.damaged("the table of events is malformed"))?;
        let keys = decode_keys(&sections.read(3)?, rows);
        let (keys, runs) = keys.ok_or_else(|| source.damaged("the table of keys is malformed"))?;
        Ok(IdTable { events, keys, runs })
    }

    /// Bytes it takes in memory.
    pub(crate) fn weight(&self) -> u64 {
        (size_of_val(&self.events[..]) + size_of_val(&self.keys[..]) + size_of_val(&self.runs[..])) as u64
    }

    /// Rows that may be the event's; nearly always none or one.
    pub(crate) fn events(&self, id: Uuid) -> &[EventEntry] {
        let prefix = event_prefix(id.as_u128());
        let start = self.events.partition_point(|entry| entry.prefix < prefix);
        let several = self.events[start..].iter().take_while(|entry| entry.prefix == prefix).count();
        &self.events[start..start + several]
    }

    /// Candidate rows, ascending.
    pub(crate) fn rows(&self, probe: Probe) -> Vec<u32> {
        match probe {
            Probe::Event(id) => {
                let mut rows: Vec<u32> = self.events(id).iter().map(|entry| entry.row).collect();
                rows.sort_unstable();
                rows
            }
            Probe::Key(hash) => {
                let Ok(at) = self.keys.binary_search_by_key(&key_prefix(hash), |(prefix, _)| *prefix) else {
                    return Vec::new();
                };
                let place = self.keys[at].1;
                if place & INLINE != 0 {
                    return vec![place & !INLINE];
                }
                let place = place as usize;
                let (ranges, _) = self.runs[place + 1..][..self.runs[place] as usize * 2].as_chunks::<2>();
                ranges.iter().flat_map(|[start, end]| *start..*end).collect()
            }
        }
    }
}

fn decode_events(mut bytes: &[u8], rows: u32) -> Option<Vec<EventEntry>> {
    let mut events = Vec::new();
    let mut prefix = 0u64;
    while !bytes.is_empty() {
        prefix = prefix.checked_add(take_varint(&mut bytes)?)?;
        let tag = take_u32(&mut bytes)?;
        let row = take_row(rows, &mut bytes).filter(|row| *row < rows)?;
        events.push(EventEntry { prefix, tag, row });
    }
    (events.len() as u64 == u64::from(rows)).then_some(events)
}

/// Every row that the result names is one of the file, so looking up needs no further checks.
fn decode_keys(mut bytes: &[u8], rows: u32) -> Option<Keys> {
    let (mut keys, mut runs) = (Vec::new(), Vec::new());
    let mut prefix = 0u32;
    while !bytes.is_empty() {
        let head = take_varint(&mut bytes)?;
        prefix = prefix.checked_add(u32::try_from(head >> 1).ok()?)?;
        if head & 1 == 0 {
            let row = take_row(rows, &mut bytes).filter(|row| *row < rows && *row < INLINE)?;
            keys.push((prefix, row | INLINE));
            continue;
        }
        let place = u32::try_from(runs.len()).ok().filter(|place| *place < INLINE)?;
        let count = take_varint32(&mut bytes)?;
        runs.push(count);
        let mut next = 0u32;
        for _ in 0..count {
            let start = next.checked_add(take_varint32(&mut bytes)?)?;
            next = start.checked_add(take_varint32(&mut bytes)?)?.checked_add(1).filter(|next| *next <= rows)?;
            runs.extend([start, next]);
        }
        keys.push((prefix, place));
    }
    Some((keys, runs))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use threadline_schemas::Kind;

    use super::*;

    fn record(n: usize, keys: &[String]) -> Record {
        let mut record = Record::new("t", &format!("api:{n}"), Kind::Call);
        record.keys = keys.to_vec();
        record.session_key = format!("s-{}", n / 3);
        record
    }

    /// The sidecar of rows, and the checksums of a file of 5 bytes.
    fn write(records: &[Record]) -> (tempfile::TempDir, PathBuf, Source) {
        let dir = tempfile::tempdir().unwrap();
        let (path, rows) = (dir.path().join("x.ids"), dir.path().join("x"));
        std::fs::write(&rows, "bytes").unwrap();
        let mut builder = Builder::new(Uuid::nil());
        records.iter().for_each(|record| builder.add(record, Some(&record.content_digest())));
        let bytes = builder.finish(&Blocks::of_file(&rows).unwrap().0);
        super::write(&path, &bytes).unwrap();
        (dir, path.clone(), Source::File(path))
    }

    #[test]
    fn empty_file() {
        let (_dir, _, source) = write(&[]);
        let table = IdTable::read(&source).unwrap();
        assert_eq!(table.rows(Probe::Event(Uuid::nil())), [0u32; 0]);
        assert!(!read_filter(&source).unwrap().may_contain(Probe::Key(7)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn every_key_leads_to_its_rows(picks in proptest::collection::vec(proptest::collection::vec(0u8..12, 0..5), 1..80)) {
            let records: Vec<Record> = picks.iter().enumerate().map(|(n, picks)| {
                let keys: Vec<String> = picks.iter().map(|k| format!("rpc:c{}/{k}", k % 3)).collect();
                record(n, &keys)
            }).collect();
            let (_dir, path, source) = write(&records);
            let (table, filter) = (IdTable::read(&source).unwrap(), read_filter(&source).unwrap());
            let bytes = Arc::new(std::fs::read(&path).unwrap());
            prop_assert_eq!(IdTable::read(&Source::Memory(path, bytes)).unwrap().keys, table.keys.clone());
            for (row, record) in records.iter().enumerate() {
                let row = row as u32;
                prop_assert_eq!(table.rows(Probe::Event(record.event_id)), vec![row]);
                let tag = content_tag(Uuid::nil(), &record.content_digest());
                prop_assert_eq!(table.events(record.event_id)[0].tag, tag);
                for hash in key_hashes(record) {
                    prop_assert!(filter.may_contain(Probe::Key(hash)));
                    let expected: Vec<u32> = (0..).zip(&records).filter(|(_, r)| key_hashes(r).contains(&hash)).map(|(n, _)| n).collect();
                    prop_assert_eq!(table.rows(Probe::Key(hash)), expected);
                }
            }
            prop_assert!(table.rows(Probe::Event(Uuid::nil())).is_empty());
        }
    }

    #[test]
    fn a_changed_byte_is_noticed_wherever_it_is() {
        let records: Vec<Record> =
            (0..40).map(|n| record(n, &[format!("toolcall:{n}"), "conversation:a".into()])).collect();
        let (_dir, path, source) = write(&records);
        let good = std::fs::read(&path).unwrap();
        for at in (0..HEADER_BYTES).chain((HEADER_BYTES..good.len()).step_by(7)) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            let noticed =
                IdTable::read(&source).is_err() || read_filter(&source).is_err() || read_blocks(&source).is_err();
            assert!(noticed, "byte {at}");
        }
        std::fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(read_blocks(&source).is_err());
    }

    #[test]
    fn rows_beyond_two_bytes() {
        let records: Vec<Record> = (0..3).map(|n| record(n, &[format!("toolcall:{n}")])).collect();
        let events: Vec<(u128, u32, u32)> = (0..3).map(|n| (u128::from(n) << 100, n + 1, 70_000 + n)).collect();
        let mut bytes = encode_events(&events, 1 << 17);
        assert!(decode_events(&bytes, 1 << 17).is_none(), "fewer events than rows");
        bytes = encode_keys(records.iter().map(|r| (key_hashes(r)[0], 70_000)).collect(), 1 << 17);
        let (keys, _) = decode_keys(&bytes, 1 << 17).unwrap();
        assert!(keys.iter().all(|(_, place)| *place == 70_000 | INLINE));
        assert!(decode_keys(&bytes, 70_000).is_none());
    }

    #[test]
    fn a_bare_value_finds_scoped_and_unscoped_keys_and_events() {
        let records = [record(0, &["rpc:c1/17".into()]), record(1, &["toolcall:17".into()]), record(2, &[])];
        let (_dir, _, source) = write(&records);
        let table = IdTable::read(&source).unwrap();
        let found = |value: &str| {
            let mut rows: Vec<u32> = probes_for_any(value).into_iter().flat_map(|p| table.rows(p)).collect();
            rows.sort_unstable();
            rows
        };
        assert_eq!(found("17"), [0, 1]);
        assert_eq!(found(&records[2].event_id.to_string()), [2]);
        assert_eq!(found("s-0"), [0, 1, 2]);
        assert_eq!(found("nobody"), [0u32; 0]);
    }
}
