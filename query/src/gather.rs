//! Gathering: from any id to all records of its session, by following keys through the id sidecars.
//!
//! Records of other conversations are the border: they are read, because whether a key is contested
//! depends on them, and not followed. So the closure over what was gathered gives this session what
//! the closure over everything would.
//!
//! Invariants
//! - as of a moment, what was received later is as if it had never come: it is not followed and belongs to nothing
//! - at most [`Bounds::rows_max`] rows and [`Bounds::bytes_max`] bytes of payload are held; beyond that the
//!   answer says that it was cut

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use threadline_schemas::{Key, KeyKind, Record};
use threadline_store::{KeyQuery, RowId, Snapshot};
use uuid::Uuid;

use crate::closure::{Closure, Verdict, close};
use crate::engine::strip;
use crate::error::{QueryError, shown};
use crate::fact::{FactKey, FactView, Facts, KEYS_MAX};
use crate::judged::Judged;
use crate::line::time_text;
use crate::links::Contest;

/// An id that occurs in more conversations than this is not followed into each of them.
const CONVERSATIONS_MAX: usize = 16;

/// How much may be held while gathering.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Rows.
    pub(crate) rows_max: usize,
    /// Payload bytes.
    pub(crate) bytes_max: usize,
    /// Whether payloads are held at all: which records belong together does not depend on them.
    pub(crate) payloads: bool,
    /// Records received after this moment are left out, microseconds.
    pub(crate) known_at_us: Option<i64>,
}

/// What belongs to the session of an id.
#[derive(Debug)]
pub(crate) struct Gathered {
    /// Session id.
    pub(crate) id: String,
    /// Its records, sorted, without their raw bytes.
    pub(crate) records: Vec<Record>,
    /// Where each record is, by event id.
    pub(crate) places: HashMap<Uuid, RowId>,
    pub(crate) contest: Contest,
    /// Rows that were looked at.
    pub(crate) rows_seen: u64,
    /// Records that were received after the moment asked for, among those looked at.
    pub(crate) later: u64,
    /// Whether a bound ended the search.
    pub(crate) cut: bool,
}

impl Gathered {
    /// What an answer as of a moment says of itself.
    pub(crate) fn known_note(&self, known_at_us: Option<i64>) -> Option<String> {
        let at = time_text(known_at_us?.saturating_mul(1000));
        Some(match self.later {
            0 => format!("as known at {at}: none of its records was received later; links as they were judged then"),
            1 => format!("as known at {at}: 1 record received later is left out; links as they were judged then"),
            later => {
                format!("as known at {at}: {later} records received later are left out; links as they were judged then")
            }
        })
    }
}

/// Rows that bear `id` in any of its readings, and the readings.
pub(crate) async fn resolve(snapshot: &Snapshot, id: &str, judged: &Judged) -> Result<Vec<RowId>, QueryError> {
    let id = id.trim();
    let mut queries = Vec::new();
    let mut tried = Vec::new();
    if let Some(key) = Key::parse(id) {
        queries.push(KeyQuery::Typed(key.to_string()));
        tried.push("typed key");
    }
    queries.push(KeyQuery::Any(id.into()));
    tried.push("event id, stamp or bare value of any key");
    let lower = id.to_ascii_lowercase();
    if lower != id {
        queries.push(KeyQuery::Any(lower.clone()));
    }
    let fields: Vec<&str> = lower.split('-').collect();
    if let [_, trace, span, _] = fields[..]
        && trace.len() == 32
        && span.len() == 16
    {
        queries.push(KeyQuery::Typed(Key::scoped(KeyKind::Span, trace, span).to_string()));
        queries.push(KeyQuery::Typed(Key::scoped(KeyKind::ParentSpan, trace, span).to_string()));
        tried.push("traceparent");
    }
    if id.is_empty() {
        return Err(QueryError::not_found(id, &["nothing: the id is empty"]));
    }
    queries.extend(judged.members(id).iter().map(|event| KeyQuery::Any(event.to_string())));
    let rows = snapshot.rows_with_keys(&queries).await?;
    if rows.is_empty() { Err(QueryError::not_found(id, &tried)) } else { Ok(rows) }
}

/// The session of `id`.
pub(crate) async fn session_of(
    snapshot: &Snapshot,
    id: &str,
    bounds: Bounds,
    judged: Arc<Judged>,
) -> Result<Gathered, QueryError> {
    let seed = resolve(snapshot, id, &judged).await?;
    let mut heap = Heap { bounds, judged, ..Heap::default() };
    heap.read(snapshot, &seed).await?;
    if let (Some(first), true) = (heap.first_later_us, heap.records.is_empty()) {
        return Err(QueryError::NotYet { id: shown(id), first: time_text(first.saturating_mul(1000)) });
    }
    let seeds = heap.records.len();
    let conversations = heap.conversations();
    if conversations.len() > CONVERSATIONS_MAX {
        return Err(QueryError::several(id, conversations.into_values().collect()));
    }
    heap.home.extend(conversations.into_keys());
    loop {
        heap.follow(snapshot).await?;
        let closure = heap.close();
        let found: BTreeSet<u32> =
            (0..seeds).map(|at| closure.session_of[at]).filter(|at| *at != crate::closure::NONE).collect();
        let named = found.iter().copied().find(|at| closure.sessions[*at as usize].id == id);
        let session = match (named, found.len()) {
            (Some(session), _) => session,
            (None, 1) => found.first().copied().unwrap_or_default(),
            (None, 0) => return heap.alone(id, seeds),
            (None, _) => {
                let sessions = found.iter().map(|at| closure.sessions[*at as usize].id.clone()).collect();
                return Err(QueryError::several(id, sessions));
            }
        };
        let members: Vec<usize> = closure.sessions[session as usize].rows.iter().map(|at| *at as usize).collect();
        if heap.cut || !heap.widen(&members) {
            return Ok(heap.take(closure, session as usize));
        }
    }
}

/// What was read so far.
#[derive(Default)]
struct Heap {
    records: Vec<Record>,
    /// Where each of them is.
    places: HashMap<Uuid, RowId>,
    rows: HashSet<RowId>,
    /// Conversations whose records are followed, as key texts.
    home: BTreeSet<String>,
    followed: Vec<bool>,
    asked: HashSet<String>,
    bytes: usize,
    bounds: Bounds,
    cut: bool,
    judged: Arc<Judged>,
    /// Records that were received after the moment asked for, and when the first of them was.
    later: u64,
    first_later_us: Option<i64>,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { rows_max: 100_000, bytes_max: 16 << 20, payloads: true, known_at_us: None }
    }
}

impl Heap {
    /// Reads rows that are not here yet, in parts, up to the bounds.
    async fn read(&mut self, snapshot: &Snapshot, rows: &[RowId]) -> Result<(), QueryError> {
        const PART: usize = 500;
        let fresh: Vec<RowId> = rows.iter().copied().filter(|row| !self.rows.contains(row)).collect();
        for part in fresh.chunks(PART) {
            let room = self.bounds.rows_max.saturating_sub(self.records.len());
            if room == 0 || self.bytes > self.bounds.bytes_max {
                self.cut = true;
                return Ok(());
            }
            let part = &part[..part.len().min(room)];
            let payloads = self.bounds.payloads;
            let reduce = move |record: &mut Record| {
                record.raw = None;
                if !payloads {
                    record.shed_attributes();
                    record.arguments = None;
                    strip(record);
                }
                payload_bytes(record)
            };
            let weight_max = self.bounds.bytes_max.saturating_sub(self.bytes);
            let mut records = snapshot.records_within(part, weight_max, reduce).await?;
            self.rows.extend(&part[..records.len()]);
            let placed = records.iter().map(|record| record.event_id).zip(part.iter().copied());
            self.places.extend(placed);
            self.cut |= records.len() < part.len() || (room < PART && fresh.len() > room);
            self.leave_out_later(&mut records);
            self.bytes += records.iter().map(payload_bytes).sum::<usize>();
            self.followed.resize(self.followed.len() + records.len(), false);
            self.records.extend(records);
        }
        Ok(())
    }

    fn leave_out_later(&mut self, records: &mut Vec<Record>) {
        let Some(known_at_us) = self.bounds.known_at_us else { return };
        let is_known = |record: &Record| record.observed_time_unix_us <= known_at_us;
        for record in records.iter().filter(|record| !is_known(record)) {
            self.later += 1;
            let first =
                self.first_later_us.map_or(record.observed_time_unix_us, |us| us.min(record.observed_time_unix_us));
            self.first_later_us = Some(first);
        }
        records.retain(is_known);
    }

    /// Conversations of what is here: key text and session stamp.
    fn conversations(&self) -> HashMap<String, String> {
        let mut found = HashMap::new();
        for record in &self.records {
            if let Some(session) = self.judged.session(record.event_id) {
                found.insert(judged_home(session), session.to_string());
            } else if let Some(key) = keys(record, KeyKind::Conversation).next() {
                found.insert(key.to_string(), record.session_key.clone());
            }
        }
        found
    }

    /// Follows the keys of every record that is at home or has no conversation, until nothing new comes.
    async fn follow(&mut self, snapshot: &Snapshot) -> Result<(), QueryError> {
        loop {
            let mut wanted = Vec::new();
            for at in 0..self.records.len() {
                if self.followed[at] || !self.is_home(at) {
                    continue;
                }
                self.followed[at] = true;
                let record = &self.records[at];
                self.home.extend(self.homes(record));
                let mates =
                    self.judged.session(record.event_id).filter(|session| self.asked.insert(judged_home(session)));
                let mates = mates.map_or(&[][..], |session| self.judged.members(session));
                let paired = self.judged.parent_alone(record.event_id).into_iter();
                let paired = paired.chain(self.judged.children_alone(record.event_id).iter().copied());
                let paired: Vec<Uuid> = paired.filter(|event| self.asked.insert(event.to_string())).collect();
                wanted.extend(mates.iter().chain(&paired).map(|event| KeyQuery::Any(event.to_string())));
                for text in record
                    .keys
                    .iter()
                    .take(KEYS_MAX)
                    .filter(|text| Key::parse(text).is_some_and(|key| key.kind.joins()))
                {
                    if self.asked.insert(text.clone()) {
                        wanted.push(KeyQuery::Typed(text.clone()));
                    }
                }
            }
            if wanted.is_empty() || self.cut {
                return Ok(());
            }
            let rows = snapshot.rows_with_keys(&wanted).await?;
            self.read(snapshot, &rows).await?;
        }
    }

    fn is_home(&self, at: usize) -> bool {
        let mut homes = self.homes(&self.records[at]).into_iter().peekable();
        homes.peek().is_none() || homes.any(|home| self.home.contains(&home))
    }

    /// Conversations that a record is in: the judged one, else what it bears.
    fn homes(&self, record: &Record) -> Vec<String> {
        match self.judged.session(record.event_id) {
            Some(session) => vec![judged_home(session)],
            None => keys(record, KeyKind::Conversation).map(str::to_string).collect(),
        }
    }

    fn close(&self) -> Closure {
        let facts = Facts::of(&self.records);
        close(&FactView::new(vec![&facts]).judged(&self.judged))
    }

    /// Takes conversations of the session home that were border before; whether there were any.
    fn widen(&mut self, members: &[usize]) -> bool {
        let before = self.home.len();
        for at in members {
            let homes = self.homes(&self.records[*at]);
            self.home.extend(homes);
        }
        self.home.len() > before
    }

    fn take(mut self, closure: Closure, session: usize) -> Gathered {
        let mut contest = contest(&closure, session as u32, &|at| &self.records[at as usize]);
        contest.judged = Some(Arc::clone(&self.judged));
        let id = closure.sessions[session].id.clone();
        let rows_seen = self.records.len() as u64;
        let mut session_of = closure.session_of.iter();
        self.records.retain(|_| session_of.next() == Some(&(session as u32)));
        crate::session::sort(&mut self.records);
        let (records, places) = (self.records, self.places);
        Gathered { id, records, places, contest, rows_seen, later: self.later, cut: self.cut }
    }

    /// Records that share no session-like key with anything are shown by themselves.
    fn alone(self, id: &str, seeds: usize) -> Result<Gathered, QueryError> {
        let rows_seen = self.records.len() as u64;
        let mut records: Vec<Record> = self.records.into_iter().take(seeds).collect();
        let parsed = Uuid::parse_str(id.trim()).ok();
        if let Some(event) = parsed.filter(|event| records.iter().any(|record| record.event_id == *event)) {
            records.retain(|record| record.event_id == event);
        }
        crate::session::sort(&mut records);
        let Some(first) = records.first() else {
            return Err(QueryError::not_found(id, &["event id, stamp or bare value of any key"]));
        };
        let id = first.session_key.clone();
        let (contest, places) = (Contest::default(), self.places);
        Ok(Gathered { id, records, places, contest, rows_seen, later: self.later, cut: self.cut })
    }
}

/// What the closure found about keys that records of one session bear.
pub(crate) fn contest<'a>(closure: &Closure, session: u32, record: &dyn Fn(u32) -> &'a Record) -> Contest {
    let mut contest = Contest::default();
    let own = |at: &u32| closure.session_of[*at as usize] == session;
    for contested in &closure.contested {
        let text = contested
            .at
            .iter()
            .copied()
            .find(own)
            .and_then(|at| record(at).keys.iter().find(|text| FactKey::of(text) == Some(contested.key)).cloned());
        if let Some(text) = text {
            contest.keys.insert(text, contested.why);
        }
    }
    for judged in closure.judged.iter().filter(|judged| own(&judged.at)) {
        if let Verdict::Several(rivals) = &judged.verdict {
            let rivals = rivals.iter().map(|at| record(*at).event_id).collect();
            contest.rivals.insert(record(judged.at).event_id, rivals);
        }
    }
    contest
}

/// How a judged session stands among conversations.
fn judged_home(session: &str) -> String {
    format!("judged:{session}")
}

fn keys(record: &Record, kind: KeyKind) -> impl Iterator<Item = &str> {
    let is_kind = move |key: &&str| key.strip_prefix(kind.as_str()).is_some_and(|rest| rest.starts_with(':'));
    record.keys.iter().map(String::as_str).filter(is_kind)
}

fn payload_bytes(record: &Record) -> usize {
    let texts = [&record.text, &record.arguments, &record.result, &record.attributes];
    texts.iter().filter_map(|text| text.as_ref()).map(String::len).sum()
}

#[cfg(test)]
mod tests {
    use threadline_store::{Store, StoreConfig};

    use super::*;
    use crate::engine::{Engine, EngineConfig};
    use crate::testing::{call, captures, make};

    /// Recordings that share ids in one store, half sealed: what is gathered from an id is what the closure
    /// over everything says.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn gathering_agrees_with_the_closure_over_everything() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreConfig::default()).await.unwrap();
        let mut records = captures::records(&["claude-code", "codex/cx-1", "pysdk-orders-otlp"]);
        records.sort_by_key(|record| record.event_id);
        let tail = records.split_off(records.len() / 2);
        store.appender().append(records).await.unwrap();
        store.seal_now().await.unwrap();
        store.appender().append(tail).await.unwrap();
        let engine = Arc::new(Engine::new(store.reader(), EngineConfig::default()));
        let index = engine.indexed().await.unwrap();
        for closed in index.closure.sessions.iter().step_by(3) {
            let mut expected: Vec<Uuid> =
                index.snapshot.records(&index.rows(&closed.rows)).await.unwrap().iter().map(|r| r.event_id).collect();
            expected.sort_unstable();
            let event = expected[expected.len() / 2].to_string();
            for (id, payloads) in [(&event, true), (&closed.id, true), (&event, false)] {
                let bounds = Bounds { payloads, ..Bounds::default() };
                let gathered = session_of(&index.snapshot, id, bounds, Arc::default()).await.unwrap();
                let mut found: Vec<Uuid> = gathered.records.iter().map(|record| record.event_id).collect();
                found.sort_unstable();
                assert_eq!((&gathered.id, found == expected, gathered.cut), (&closed.id, true, false), "from {id}");
            }
        }
        store.close().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_id_of_several_sessions_names_them_and_nothing_is_found_without_saying_how() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreConfig::default()).await.unwrap();
        let mut records = call("a", "conv-a", "run-a", "toolu_1", 0);
        records.extend(call("b", "conv-b", "run-b", "toolu_1", 600_000));
        records.push(make("lonely", threadline_schemas::Kind::Log, 0).done());
        let lonely = records[8].event_id.to_string();
        store.appender().append(records).await.unwrap();
        let snapshot = store.reader().snapshot().await.unwrap();
        let of = async |id: &str, rows_max: usize| {
            session_of(&snapshot, id, Bounds { rows_max, ..Bounds::default() }, Arc::default()).await
        };
        match of("toolu_1", 1000).await {
            Err(QueryError::SeveralSessions { sessions, .. }) => assert_eq!(sessions.len(), 2),
            other => panic!("{other:?}"),
        }
        assert_eq!(of("run-b", 1000).await.unwrap().records.len(), 4);
        assert_eq!(of(&lonely, 1000).await.unwrap().records.len(), 1);
        assert!(of("run-b", 2).await.unwrap().cut);
        let bounds = Bounds { rows_max: 1000, bytes_max: 1, ..Bounds::default() };
        let gathered = session_of(&snapshot, "run-b", bounds, Arc::default()).await.unwrap();
        assert!(gathered.cut && gathered.records.len() < 4, "{}", gathered.records.len());
        let known_at = async |us: i64| {
            let bounds = Bounds { known_at_us: Some(us), ..Bounds::default() };
            session_of(&snapshot, "run-b", bounds, Arc::default()).await
        };
        let received = gathered.records[0].observed_time_unix_us;
        assert_eq!(known_at(received).await.unwrap().records.len(), 4);
        let early = known_at(received - 1).await.unwrap_err();
        assert!(matches!(&early, QueryError::NotYet { .. }), "{early}");
        match of("nobody", 1000).await {
            Err(QueryError::NotFound { tried, .. }) => assert_eq!(tried, ["event id, stamp or bare value of any key"]),
            other => panic!("{other:?}"),
        }
        store.close().await.unwrap();
    }
}
