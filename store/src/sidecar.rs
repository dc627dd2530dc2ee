//! Id sidecar: from an event id or a key to the rows of one sealed file, without a time range.
//!
//! Invariants
//! - every event id, every key text, every bare value of a scoped key and every stamp of the file's rows is in it
//! - event ids are stored whole, so an answer about them is exact; keys are stored as hashes, so an answer about them is
//!   a set of candidates that the caller compares with the rows
//! - the filters have no false negatives
//!
//! On disk, little-endian: `"TLIDS\0" | version u16 = 1 | rows u32 | section count u32 = 5`, per section
//! `offset u64 | bytes u64 | crc32c u32`, then `crc32c u32` over all of that, then the sections:
//! ```text
//! 0 event filter   binary fuse 16 over the first 8 bytes (big-endian) of each event id
//! 1 key filter     binary fuse 8 over the key hashes
//! 2 events         event id (16 bytes) | row u32, ascending by id
//! 3 keys           hash u64 | place u32, ascending by hash; a place with its top bit set is the row itself
//! 4 postings       at a place: run count, then per run: rows skipped since the last run, rows in the run minus 1; all LEB128
//! ```
//! A filter is `seed u64 | segment length u32 | segment length mask u32 | segment count length u32 | fingerprints`.
//!
//! Rows of a session stand together in a file, so that the key of a session costs one run however many rows bear it.

mod filter;

use std::{
    fs::File,
    io::{self, Write},
    ops::Range,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use threadline_schemas::{Key, KeyKind, Record};
use uuid::Uuid;

pub(crate) use self::filter::IdFilter;
use crate::{
    StoreError,
    hash::{Domain, hash},
};

const MAGIC: &[u8; 6] = b"TLIDS\0";
const VERSION: u16 = 1;
const SECTIONS: usize = 5;
const HEADER_BYTES: usize = 16 + SECTIONS * 20 + 4;
const EVENT_BYTES: usize = 20;
const KEY_BYTES: usize = 12;
/// Marks a place that is a row.
const INLINE: u32 = 1 << 31;

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

/// Writes the sidecar of rows in file order; syncing is the caller's part.
pub(crate) fn write<'a>(path: &Path, records: impl IntoIterator<Item = &'a Record>) -> Result<(), StoreError> {
    let write = || -> io::Result<()> {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&encode(records))
    };
    write().map_err(StoreError::io("write", path))
}

/// The bytes of a sidecar for rows in file order.
fn encode<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<u8> {
    let mut events: Vec<(u128, u32)> = Vec::new();
    let mut rows_by_key: Vec<(u64, u32)> = Vec::new();
    for (row, record) in (0..).zip(records) {
        events.push((record.event_id.as_u128(), row));
        rows_by_key.extend(key_hashes(record).into_iter().map(|hash| (hash, row)));
    }
    events.sort_unstable();
    rows_by_key.sort_unstable();
    let keys: Vec<&[(u64, u32)]> = rows_by_key.chunk_by(|a, b| a.0 == b.0).collect();

    let mut event_heads: Vec<u64> = events.iter().map(|(id, _)| (id >> 64) as u64).collect();
    event_heads.dedup();
    let key_hashes: Vec<u64> = keys.iter().map(|rows| rows[0].0).collect();
    let event_section = events.iter().flat_map(|(id, row)| id.to_be_bytes().into_iter().chain(row.to_le_bytes()));
    let mut key_section = Vec::with_capacity(keys.len() * KEY_BYTES);
    let mut postings = Vec::new();
    for rows in &keys {
        let hash = rows[0].0;
        let place = match rows {
            [(_, row)] => row | INLINE,
            _ => {
                let place = postings.len() as u32;
                push_runs(rows, &mut postings);
                place
            }
        };
        key_section.extend_from_slice(&hash.to_le_bytes());
        key_section.extend_from_slice(&place.to_le_bytes());
    }
    let sections =
        [filter::encode16(&event_heads), filter::encode8(&key_hashes), event_section.collect(), key_section, postings];
    assemble(events.len() as u32, &sections)
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

fn push_runs(rows: &[(u64, u32)], out: &mut Vec<u8>) {
    let runs: Vec<&[(u64, u32)]> = rows.chunk_by(|a, b| a.1 + 1 == b.1).collect();
    push_varint(runs.len() as u32, out);
    let mut next = 0;
    for run in runs {
        let first = run[0].1;
        push_varint(first - next, out);
        push_varint(run.len() as u32 - 1, out);
        next = first + run.len() as u32;
    }
}

fn push_varint(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0u32;
    for shift in (0..32).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u32::from(byte & 0x7F).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A sidecar file whose header has been read.
struct Sections {
    file: File,
    path: PathBuf,
    rows: u32,
    sections: Vec<(Range<u64>, u32)>,
}

impl Sections {
    fn open(path: &Path) -> Result<Sections, StoreError> {
        let damaged = |what| StoreError::Damaged { path: path.to_path_buf(), what };
        let file = File::open(path).map_err(StoreError::io("open", path))?;
        let size = file.metadata().map_err(StoreError::io("read", path))?.len();
        let mut header = [0; HEADER_BYTES];
        match file.read_exact_at(&mut header, 0) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(damaged("the header is cut off")),
            other => other.map_err(StoreError::io("read", path))?,
        }
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        if header[..6] != *MAGIC {
            return Err(damaged("it is no id sidecar"));
        }
        let version = u16::from_le_bytes([header[6], header[7]]);
        if version > VERSION {
            let (found, known) = (version.into(), VERSION.into());
            return Err(StoreError::NewerFormat { path: path.to_path_buf(), found, known });
        }
        if crc32c::crc32c(&header[..HEADER_BYTES - 4]) != u32_at(HEADER_BYTES - 4) || u32_at(12) != SECTIONS as u32 {
            return Err(damaged("the header fails its checksum"));
        }
        let mut sections = Vec::with_capacity(SECTIONS);
        for at in (0..SECTIONS).map(|i| 16 + i * 20) {
            let (start, bytes) = (u64_at(at), u64_at(at + 8));
            let end = start.checked_add(bytes).filter(|end| *end <= size).ok_or_else(|| damaged("it is cut off"))?;
            sections.push((start..end, u32_at(at + 16)));
        }
        Ok(Sections { file, path: path.to_path_buf(), rows: u32_at(8), sections })
    }

    fn read(&self, index: usize) -> Result<Vec<u8>, StoreError> {
        let (range, crc) = &self.sections[index];
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.file.read_exact_at(&mut bytes, range.start).map_err(StoreError::io("read", &self.path))?;
        if crc32c::crc32c(&bytes) != *crc {
            return Err(self.damaged("a section fails its checksum"));
        }
        Ok(bytes)
    }

    fn damaged(&self, what: &'static str) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), what }
    }
}

/// Reads only the filters of a sidecar.
pub(crate) fn read_filter(path: &Path) -> Result<IdFilter, StoreError> {
    let sections = Sections::open(path)?;
    IdFilter::decode(&sections.read(0)?, &sections.read(1)?).ok_or_else(|| sections.damaged("a filter is malformed"))
}

/// The sorted tables of a sidecar, in memory.
#[derive(Debug)]
pub(crate) struct IdTable {
    rows: u32,
    events: Vec<u8>,
    keys: Vec<u8>,
    postings: Vec<u8>,
}

impl IdTable {
    /// Reads and checks the tables.
    pub(crate) fn read(path: &Path) -> Result<IdTable, StoreError> {
        let sections = Sections::open(path)?;
        let table = IdTable {
            rows: sections.rows,
            events: sections.read(2)?,
            keys: sections.read(3)?,
            postings: sections.read(4)?,
        };
        if table.events.len() != table.rows as usize * EVENT_BYTES || !table.keys.len().is_multiple_of(KEY_BYTES) {
            return Err(sections.damaged("a table has a wrong length"));
        }
        Ok(table)
    }

    /// Bytes it takes in memory.
    pub(crate) fn weight(&self) -> u64 {
        (self.events.len() + self.keys.len() + self.postings.len()) as u64
    }

    /// Candidate rows, ascending. `None`: the postings are malformed.
    pub(crate) fn rows(&self, probe: Probe) -> Option<Vec<u32>> {
        match probe {
            Probe::Event(id) => {
                let found = find(&self.events, EVENT_BYTES, |entry| entry[..16].cmp(id.as_bytes()));
                Some(found.map(|entry| vec![u32_le(&entry[16..])]).unwrap_or_default())
            }
            Probe::Key(hash) => {
                let Some(entry) = find(&self.keys, KEY_BYTES, |entry| u64_le(&entry[..8]).cmp(&hash)) else {
                    return Some(Vec::new());
                };
                let place = u32_le(&entry[8..]);
                if place & INLINE != 0 { Some(vec![place & !INLINE]) } else { self.runs(place) }
            }
        }
    }

    fn runs(&self, place: u32) -> Option<Vec<u32>> {
        let mut bytes = self.postings.get(place as usize..)?;
        let mut rows = Vec::new();
        let mut next = 0u32;
        for _ in 0..take_varint(&mut bytes)? {
            let first = next.checked_add(take_varint(&mut bytes)?)?;
            next = first.checked_add(take_varint(&mut bytes)?)?.checked_add(1)?;
            // Also what keeps a damaged run from filling the memory.
            if next > self.rows {
                return None;
            }
            rows.extend(first..next);
        }
        Some(rows)
    }
}

fn u32_le(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("the table's width"))
}

fn u64_le(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("the table's width"))
}

/// Binary search in a table of entries of one width.
fn find(table: &[u8], width: usize, order: impl Fn(&[u8]) -> std::cmp::Ordering) -> Option<&[u8]> {
    let (mut low, mut high) = (0, table.len() / width);
    while low < high {
        let middle = low + (high - low) / 2;
        let entry = &table[middle * width..(middle + 1) * width];
        match order(entry) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => return Some(entry),
        }
    }
    None
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

    fn write(records: &[Record]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.ids");
        std::fs::write(&path, encode(records)).unwrap();
        (dir, path)
    }

    #[test]
    fn empty_file() {
        let (_dir, path) = write(&[]);
        let table = IdTable::read(&path).unwrap();
        assert_eq!(table.rows(Probe::Event(Uuid::nil())), Some(vec![]));
        assert!(!read_filter(&path).unwrap().may_contain(Probe::Key(7)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn every_key_leads_to_its_rows(picks in proptest::collection::vec(proptest::collection::vec(0u8..12, 0..5), 1..80)) {
            let records: Vec<Record> = picks.iter().enumerate().map(|(n, picks)| {
                let keys: Vec<String> = picks.iter().map(|k| format!("rpc:c{}/{k}", k % 3)).collect();
                record(n, &keys)
            }).collect();
            let (_dir, path) = write(&records);
            let (table, filter) = (IdTable::read(&path).unwrap(), read_filter(&path).unwrap());
            for (row, record) in records.iter().enumerate() {
                let row = row as u32;
                prop_assert_eq!(table.rows(Probe::Event(record.event_id)), Some(vec![row]));
                for hash in key_hashes(record) {
                    prop_assert!(filter.may_contain(Probe::Key(hash)));
                    let expected: Vec<u32> = (0..).zip(&records).filter(|(_, r)| key_hashes(r).contains(&hash)).map(|(n, _)| n).collect();
                    prop_assert_eq!(table.rows(Probe::Key(hash)), Some(expected));
                }
            }
            prop_assert_eq!(table.rows(Probe::Event(Uuid::nil())), Some(vec![]));
        }
    }

    #[test]
    fn a_changed_byte_is_noticed_wherever_it_is() {
        let records: Vec<Record> =
            (0..40).map(|n| record(n, &[format!("toolcall:{n}"), "conversation:a".into()])).collect();
        let (_dir, path) = write(&records);
        let good = std::fs::read(&path).unwrap();
        for at in (0..HEADER_BYTES).chain((HEADER_BYTES..good.len()).step_by(7)) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            assert!(IdTable::read(&path).is_err() || read_filter(&path).is_err(), "byte {at}");
        }
        std::fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(IdTable::read(&path).is_err());
    }

    #[test]
    fn a_bare_value_finds_scoped_and_unscoped_keys_and_events() {
        let records = [record(0, &["rpc:c1/17".into()]), record(1, &["toolcall:17".into()]), record(2, &[])];
        let (_dir, path) = write(&records);
        let table = IdTable::read(&path).unwrap();
        let found = |value: &str| {
            let mut rows: Vec<u32> = probes_for_any(value).into_iter().flat_map(|p| table.rows(p).unwrap()).collect();
            rows.sort_unstable();
            rows
        };
        assert_eq!(found("17"), [0, 1]);
        assert_eq!(found(&records[2].event_id.to_string()), [2]);
        assert_eq!(found("s-0"), [0, 1, 2]);
        assert_eq!(found("nobody"), [0u32; 0]);
    }
}
