//! Facts: what closing over links needs to know about a record, in about 150 bytes.
//!
//! Invariants
//! - a fact keeps no payload; keys are 64-bit hashes (a collision needs about 2^32 distinct keys), the
//!   texts are read again from the record when they are shown
//! - the facts of a sealed file stand in row order, so position = row, and never change
//!
//! Not here: which keys are believed (`closure`).

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::judged::Judged;
use threadline_schemas::{Decision, Direction, Key, KeyKind, Kind, Outcome, Record, SourceKind, TimeQuality, stamp};

/// Keys of one record that are looked at; decoders give about a dozen, a sender of native events may give any number.
pub const KEYS_MAX: usize = 256;

/// Columns that [`Facts::push`] reads; everything else may be left out of a scan.
pub const COLUMNS: &[&str] = &[
    "event_id",
    "kind",
    "time_unix_nano",
    "time_quality",
    "source_kind",
    "source_name",
    "direction",
    "name",
    "server_name",
    "tool_name",
    "outcome",
    "duration_nano",
    "decision",
    "user_claimed",
    "user_authenticated",
    "agent_name",
    "conversation_id",
    "keys",
    "arguments_digest",
    "session_key",
];

/// A key, as a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FactKey {
    /// What it names.
    pub kind: KeyKind,
    /// Hash of its text form.
    pub hash: u64,
}

impl FactKey {
    /// The key of a text form; `None` when it is no key.
    pub fn of(text: &str) -> Option<FactKey> {
        let kind = Key::parse(text)?.kind;
        Some(FactKey { kind, hash: hash(text) })
    }
}

/// Index of a name in [`Facts::name`]; 0 = absent.
pub type NameId = u32;

/// One record, reduced.
#[derive(Debug, Clone)]
pub struct Fact {
    /// The record.
    pub event: uuid::Uuid,
    /// Nanoseconds since the Unix epoch.
    pub time: i64,
    /// Hash of the arguments digest; 0 = none.
    pub arguments: u64,
    /// Stamp of the session, from the strongest session-like key.
    pub session_key: NameId,
    /// The same from the next strongest one, for when the strongest is not believed.
    pub weaker_key: NameId,
    /// Emitter.
    pub source_name: NameId,
    /// Agent.
    pub agent: NameId,
    /// Claimed user.
    pub user_claimed: NameId,
    /// Authenticated user.
    pub user_authenticated: NameId,
    /// MCP server.
    pub server: NameId,
    /// Tool.
    pub tool: NameId,
    /// Host's conversation id.
    pub conversation: NameId,
    keys_from: u32,
    keys_count: u16,
    /// Record kind.
    pub kind: Kind,
    /// Side.
    pub source_kind: SourceKind,
    /// Frame direction.
    pub direction: Option<Direction>,
    /// Outcome.
    pub outcome: Option<Outcome>,
    /// Verdict.
    pub decision: Option<Decision>,
    /// Whether it says how it ended, or how long it took.
    pub is_over: bool,
    /// Whether the source, or a clock near it, said when (not ours for want of any).
    pub timed: bool,
    /// Whether it is a request that opens an MCP session.
    pub opens_session: bool,
}

/// The facts of one file, of the tail, or of a set of records.
#[derive(Debug, Clone)]
pub struct Facts {
    rows: Vec<Fact>,
    keys: Vec<FactKey>,
    names: Vec<Arc<str>>,
    known: HashMap<Arc<str>, NameId>,
}

impl Default for Facts {
    fn default() -> Self {
        Facts { rows: Vec::new(), keys: Vec::new(), names: vec![Arc::from("")], known: HashMap::new() }
    }
}

impl Facts {
    /// The facts of `records`, in order.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Facts {
        let mut facts = Facts::default();
        records.into_iter().for_each(|record| facts.push(record));
        facts
    }

    /// Adds one record (columns outside [`COLUMNS`] are not looked at).
    pub fn push(&mut self, record: &Record) {
        let keys_from = self.keys.len() as u32;
        self.keys.extend(record.keys.iter().take(KEYS_MAX).filter_map(|text| FactKey::of(text)));
        let fact = Fact {
            event: record.event_id,
            time: record.time_unix_nano,
            arguments: record.arguments_digest.as_deref().map_or(0, hash),
            session_key: self.intern(Some(&record.session_key)),
            weaker_key: self.intern(weaker_stamp(record).as_deref()),
            source_name: self.intern(Some(&record.source_name)),
            agent: self.intern(record.agent_name.as_deref()),
            user_claimed: self.intern(record.user_claimed.as_deref()),
            user_authenticated: self.intern(record.user_authenticated.as_deref()),
            server: self.intern(record.server_name.as_deref()),
            tool: self.intern(record.tool_name.as_deref()),
            conversation: self.intern(record.conversation_id.as_deref()),
            keys_from,
            keys_count: (self.keys.len() as u32 - keys_from) as u16,
            kind: record.kind,
            source_kind: record.source_kind,
            direction: record.direction,
            outcome: record.outcome,
            decision: record.decision,
            is_over: record.outcome.is_some() || record.duration_nano.is_some(),
            timed: is_timed(record),
            opens_session: record.name.as_deref() == Some("initialize")
                && record.direction == Some(Direction::ClientToServer),
        };
        self.rows.push(fact);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The fact at `row`.
    pub fn fact(&self, row: usize) -> &Fact {
        &self.rows[row]
    }

    /// The keys of a fact.
    pub fn keys(&self, fact: &Fact) -> &[FactKey] {
        &self.keys[fact.keys_from as usize..][..usize::from(fact.keys_count)]
    }

    /// The text of a name; empty for 0.
    pub fn name(&self, id: NameId) -> &str {
        &self.names[id as usize]
    }

    /// Memory it takes, roughly.
    pub fn bytes(&self) -> usize {
        let names: usize = self.names.iter().map(|name| 2 * name.len() + 64).sum();
        self.rows.capacity() * size_of::<Fact>() + self.keys.capacity() * size_of::<FactKey>() + names
    }

    /// Gives back what was only needed while building.
    pub fn finish(mut self) -> Self {
        self.rows.shrink_to_fit();
        self.keys.shrink_to_fit();
        self.known = HashMap::new();
        self
    }

    fn intern(&mut self, text: Option<&str>) -> NameId {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return 0 };
        if let Some(id) = self.known.get(text) {
            return *id;
        }
        let name: Arc<str> = Arc::from(text);
        let id = self.names.len() as NameId;
        self.names.push(name.clone());
        self.known.insert(name, id);
        id
    }
}

/// Several [`Facts`] read as one sequence of positions.
#[derive(Debug)]
pub struct FactView<'a> {
    blocks: Vec<&'a Facts>,
    starts: Vec<u32>,
    count: u32,
    judged: Option<&'a Judged>,
}

impl<'a> FactView<'a> {
    /// `blocks` one after another. More than 2^32 - 2 rows are not taken.
    pub fn new(blocks: Vec<&'a Facts>) -> Self {
        let mut starts = Vec::with_capacity(blocks.len());
        let mut count = 0u32;
        for block in &blocks {
            starts.push(count);
            count = count.saturating_add(block.len() as u32);
        }
        FactView { blocks, starts, count, judged: None }
    }

    /// The same with what is judged about its records.
    pub fn judged(mut self, judged: &'a Judged) -> Self {
        self.judged = Some(judged);
        self
    }

    /// Session that the record at a position is judged into.
    pub fn judged_session(&self, at: u32) -> Option<&'a str> {
        self.judged?.session(self.at(at).1.event).map(AsRef::as_ref)
    }

    /// What is judged about the records.
    pub fn judgements(&self) -> Option<&'a Judged> {
        self.judged
    }

    /// Whether anything is judged.
    pub fn has_judged(&self) -> bool {
        self.judged.is_some()
    }

    /// Positions in all.
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Block and row of a position.
    pub fn locate(&self, at: u32) -> (usize, u32) {
        let block = self.starts.partition_point(|start| *start <= at) - 1;
        // Empty blocks share their start with the next one; the last of them holds the position.
        (block, at - self.starts[block])
    }

    /// The fact at a position, with the block that knows its names.
    pub fn at(&self, at: u32) -> (&'a Facts, &'a Fact) {
        let (block, row) = self.locate(at);
        (self.blocks[block], self.blocks[block].fact(row as usize))
    }
}

/// Whether a record's time says when it happened, rather than when it was read.
pub fn is_timed(record: &Record) -> bool {
    matches!(record.time_quality, TimeQuality::Source | TimeQuality::Zero)
}

/// The kinds of key that name a session, strongest first, as `stamp` takes them.
pub const SESSION_KINDS: &[KeyKind] =
    &[KeyKind::Conversation, KeyKind::McpSession, KeyKind::Connection, KeyKind::Trace];

fn weaker_stamp(record: &Record) -> Option<String> {
    let of_kind = |kind: &KeyKind| {
        let is_kind = |key: &&String| key.strip_prefix(kind.as_str()).is_some_and(|rest| rest.starts_with(':'));
        record.keys.iter().find(is_kind)
    };
    SESSION_KINDS.iter().filter_map(of_kind).nth(1).map(|key| stamp::name("session", key))
}

/// The hash of a key's text form; the same in every process of this build.
pub fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_run_through_blocks_and_skip_empty_ones() {
        let mut record = Record::new("t", "api:1", Kind::Call);
        record.tool_name = Some("refund".into());
        record.keys = vec!["toolcall:a".into(), "no key".into()];
        let one = Facts::of([&record]).finish();
        let none = Facts::default();
        let view = FactView::new(vec![&none, &one, &none, &one]);
        assert_eq!(view.len(), 2);
        assert_eq!((view.locate(0), view.locate(1)), ((1, 0), (3, 0)));
        let (facts, fact) = view.at(1);
        assert_eq!((facts.name(fact.tool), facts.keys(fact).len()), ("refund", 1));
    }
}
