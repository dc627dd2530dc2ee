//! The hot tail: what is acknowledged and not sealed yet, in memory.
//!
//! Invariants
//! - an event id stands in the tail at most once
//! - chunks are immutable and shared with snapshots; a chunk's key index is built on the first lookup, not on append
//! - rows are in the order in which appends finished, which may differ from log order between concurrent appends
//!
//! Not here: the byte budget (the appender takes it before the log, the sealer gives it back), deduplication against
//! sealed files.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, OnceLock},
};

use threadline_schemas::Record;
use uuid::Uuid;

use crate::sidecar::{Content, Probe, key_hashes};

/// Rows of a full chunk.
const CHUNK_ROWS: usize = 2048;

/// One record of the tail.
#[derive(Debug, Clone)]
pub(crate) struct TailRow {
    /// Its place in the log; `None` for what is still in a spool.
    pub(crate) offset: Option<u64>,
    pub(crate) record: Arc<Record>,
    /// Encoded size, what it takes of the budget.
    pub(crate) bytes: u32,
    /// What it says.
    pub(crate) content: Content,
}

/// Rows that do not change any more.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) rows: Vec<TailRow>,
    index: OnceLock<HashMap<Probe, Vec<u32>>>,
}

impl Chunk {
    fn new(rows: Vec<TailRow>) -> Arc<Chunk> {
        Arc::new(Chunk { rows, index: OnceLock::new() })
    }

    /// Rows of this chunk that may match.
    pub(crate) fn candidates(&self, probe: Probe) -> &[u32] {
        let index = self.index.get_or_init(|| {
            let mut index: HashMap<Probe, Vec<u32>> = HashMap::new();
            for (row, entry) in (0..).zip(&self.rows) {
                let event = [Probe::Event(entry.record.event_id)];
                let keys = key_hashes(&entry.record).into_iter().map(Probe::Key);
                event.into_iter().chain(keys).for_each(|probe| index.entry(probe).or_default().push(row));
            }
            index
        });
        index.get(&probe).map_or(&[], Vec::as_slice)
    }
}

/// The tail as its owner keeps it.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    full: Vec<Arc<Chunk>>,
    open: Vec<TailRow>,
    ids: HashMap<Uuid, Content>,
    bytes: u64,
}

impl Tail {
    /// What the event says that has this id.
    pub(crate) fn content(&self, id: Uuid) -> Option<&Content> {
        self.ids.get(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Encoded bytes of all rows.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a row unless its event is there already.
    pub(crate) fn push(&mut self, row: TailRow) -> bool {
        match self.ids.entry(row.record.event_id) {
            Entry::Occupied(_) => return false,
            Entry::Vacant(place) => place.insert(row.content),
        };
        self.bytes += u64::from(row.bytes);
        self.open.push(row);
        if self.open.len() == CHUNK_ROWS {
            self.full.push(Chunk::new(std::mem::take(&mut self.open)));
        }
        true
    }

    /// The rows below an offset, in the order of the tail.
    pub(crate) fn below(&self, offset: u64) -> Vec<TailRow> {
        self.rows().filter(|row| row.offset.is_some_and(|o| o < offset)).cloned().collect()
    }

    /// Drops the rows below an offset; returns the bytes they held.
    pub(crate) fn drop_below(&mut self, offset: u64) -> u64 {
        let before = self.bytes;
        let rows: Vec<TailRow> = self.rows().filter(|row| row.offset.is_none_or(|o| o >= offset)).cloned().collect();
        *self = Tail::default();
        rows.into_iter().for_each(|row| {
            self.push(row);
        });
        before - self.bytes
    }

    fn rows(&self) -> impl Iterator<Item = &TailRow> {
        self.full.iter().flat_map(|chunk| &chunk.rows).chain(&self.open)
    }

    /// Everything, as a snapshot keeps it.
    pub(crate) fn chunks(&self) -> Vec<Arc<Chunk>> {
        let mut chunks = self.full.clone();
        if !self.open.is_empty() {
            chunks.push(Chunk::new(self.open.clone()));
        }
        chunks
    }
}

#[cfg(test)]
mod tests {
    use threadline_schemas::Kind;

    use super::*;

    fn row(n: u64) -> TailRow {
        let mut record = Record::new("t", &format!("api:{n}"), Kind::Log);
        record.keys = vec![format!("trace:{}", n / 1000)];
        TailRow { offset: Some(n), record: Arc::new(record), bytes: 10, content: [0; 32] }
    }

    #[test]
    fn rows_go_by_offset_and_snapshots_keep_what_they_have() {
        let mut tail = Tail::default();
        assert!((0..5000).all(|n| tail.push(row(n))));
        assert!(!tail.push(row(7)));
        let chunks = tail.chunks();
        assert_eq!(tail.below(4500).len(), 4500);
        assert_eq!(tail.drop_below(4500), 45_000);
        assert_eq!((tail.len(), tail.bytes()), (500, 5000));
        let there = |n| tail.content(row(n).record.event_id).is_some();
        assert!(!there(7) && there(4600));
        let trace = Probe::Key(crate::hash::hash(crate::hash::Domain::Typed, "trace:2"));
        let found: Vec<u64> = chunks
            .iter()
            .flat_map(|c| c.candidates(trace).iter().map(|r| c.rows[*r as usize].offset.unwrap()))
            .collect();
        assert_eq!(found, (2000..3000).collect::<Vec<_>>());
    }
}
