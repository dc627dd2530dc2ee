//! What sessions say of themselves, for records of them that do not: who, with which agent, in which conversation.
//!
//! Learned from committed files in their order, by ids that are equal, and never by judging: a record is of the
//! conversation that it names, else of the one that its tool call, JSON-RPC exchange, turn, trace or stdio process was named
//! in. A whole file is learned from before a row of it is told, because its rows stand by session and not by time. What is
//! named in a later file is not known earlier; an export of the session knows all of it.
//!
//! Invariants
//! - what two records say differently is not known: an id that is borne by two conversations, or two users, tells nothing;
//!   but whom a server names is asked only where nobody before it names anyone, because servers act under accounts of theirs
//! - an id tells of what happens within [`REACH_NANOS`] of its last record, because some programs begin again with their ids
//!   or have one trace for ever, and a tool call's or turn's tells only if it is long enough not to be chosen twice
//! - remembered are the ids and sessions that were seen last: [`KEYS_MAX`] of each and those of one file, twice; of a record
//!   one id of each kind, and no name longer than [`NAME_BYTES_MAX`]
//! - the same files in the same order make the same state; it is kept with the position up to which it was learned, so a
//!   restart changes nothing
//!
//! Not here: HTTP connections and MCP sessions, which gateways share between users; what correlation believes; chains
//! (`chained`), which are learned with it.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use threadline_schemas::decode::stdio_capture::DECODER;
use threadline_schemas::ocsf::SessionFacts;
use threadline_schemas::{Key, KeyKind, Record};
use uuid::Uuid;

use super::chained::{Chained, Gathered, Link};
use crate::chains::{self, CALL_KINDS, Id, Ids, SEVERAL};

/// Ids and sessions that are remembered, beside those of the file that is read.
pub(super) const KEYS_MAX: usize = 8_192;
/// Longest name that is carried over, bytes.
const NAME_BYTES_MAX: usize = 256;
/// Longest time between two records of one id, nanoseconds (one hour).
const REACH_NANOS: u64 = 3_600_000_000_000;
/// Keys of one record that are looked at.
const KEYS_PER_RECORD_MAX: usize = 32;

/// Columns that are learned from.
pub(super) const COLUMNS: &[&str] = &[
    "tenant",
    "keys",
    "decoder",
    "time_unix_nano",
    "conversation_id",
    "user_authenticated",
    "user_claimed",
    "agent_name",
    "client_name",
    "kind",
    "source_kind",
    "outcome",
    "duration_nano",
    "tool_name",
    "server_name",
];

/// What all who say something say.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Said<T> {
    #[default]
    Nothing,
    One(T),
    Several,
}

impl<T: Clone + PartialEq> Said<T> {
    pub(super) fn add(&mut self, said: Option<&T>) {
        let Some(said) = said else { return };
        match self {
            Said::Nothing => *self = Said::One(said.clone()),
            Said::One(known) if known == said => {}
            Said::One(_) | Said::Several => *self = Said::Several,
        }
    }

    pub(super) fn one(&self) -> Option<&T> {
        match self {
            Said::One(said) => Some(said),
            Said::Nothing | Said::Several => None,
        }
    }
}

/// A conversation, or a process that none was named for.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Session {
    conversation: Option<String>,
    authenticated: Said<String>,
    claimed: Said<String>,
    /// Who is claimed by servers and by what is behind them, under whose accounts they act.
    #[serde(default)]
    account: Said<String>,
    agent: Said<String>,
}

/// Which conversation an id was named in, and when it was seen last, nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Home {
    /// 0: none yet; [`SEVERAL`].
    conversation: u128,
    time: i64,
}

/// What was used last: everything since one moment, and what was used before that since another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recent<V> {
    young: HashMap<u128, V>,
    old: HashMap<u128, V>,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Recent { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<V: Default> Recent<V> {
    pub(super) fn get(&self, id: u128) -> Option<&V> {
        self.young.get(&id).or_else(|| self.old.get(&id))
    }

    pub(super) fn entry(&mut self, id: u128) -> &mut V {
        let old = &mut self.old;
        self.young.entry(id).or_insert_with(|| old.remove(&id).unwrap_or_default())
    }

    pub(super) fn forget(&mut self) {
        if self.young.len() > KEYS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
    }
}

/// See the head of this file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known {
    sessions: Recent<Session>,
    homes: Recent<Home>,
    chained: Chained,
}

/// What a file says, while it is read.
#[derive(Debug, Default)]
pub(super) struct File {
    /// What may say more once others are learned.
    open: Vec<Lesson>,
    gathered: Gathered,
}

/// What one record says.
#[derive(Debug)]
struct Lesson {
    ids: Vec<(KeyKind, u128)>,
    time: i64,
    /// Its id and name.
    conversation: Option<(u128, String)>,
    authenticated: Option<String>,
    claimed: Option<String>,
    /// Whether its source acts for others, so that the user may be an account of its own.
    acts_for_others: bool,
    agent: Option<String>,
}

/// A name, unless it is too long to be carried over.
pub(super) fn carried(name: &Option<String>) -> Option<String> {
    name.as_deref().filter(|name| !name.is_empty() && name.len() <= NAME_BYTES_MAX).map(str::to_string)
}

impl Lesson {
    fn of(record: &Record, keyed: &Keyed<'_>) -> Lesson {
        Lesson {
            ids: keyed.session.clone(),
            time: record.time_unix_nano,
            conversation: carried(&record.conversation_id).map(|name| (id_of_conversation(record, &name), name)),
            authenticated: carried(&record.user_authenticated),
            claimed: carried(&record.user_claimed),
            acts_for_others: record.source_kind.acts_for_others(),
            agent: carried(&record.agent_name).or_else(|| carried(&record.client_name)),
        }
    }

    fn is_open(&self) -> bool {
        self.conversation.is_none() && !self.ids.is_empty()
    }
}

/// A record's own place in the table, which tells it from others.
pub(super) fn place(file: Option<Uuid>, row: u32) -> Id {
    file.map_or(0, |file| file.as_u128()) ^ Id::from(row)
}

impl Known {
    /// A file is about to be learned from: what was not used for long is forgotten.
    pub(super) fn begin(&mut self) {
        self.sessions.forget();
        self.homes.forget();
        self.chained.begin();
    }

    /// Takes what a record of a file says; `place` is the record's own.
    pub(super) fn read(&mut self, record: &Record, place: Id, file: &mut File) {
        let keyed = Keyed::of(record);
        let lesson = Lesson::of(record, &keyed);
        self.learn(&lesson);
        file.open.extend(lesson.is_open().then_some(lesson));
        file.gathered.add(record, &keyed, place);
    }

    /// A file was read.
    pub(super) fn end(&mut self, file: File) {
        // What they are of may stand further down.
        file.open.iter().for_each(|lesson| self.learn(lesson));
        let homes = &self.homes;
        self.chained.learn(file.gathered, |id| is_of_several(homes, id));
    }

    /// Learns what a record says.
    fn learn(&mut self, lesson: &Lesson) {
        let own = lesson.conversation.as_ref().map(|(id, _)| *id);
        let conversation = own.or_else(|| self.conversation(&lesson.ids, lesson.time));
        for (_, id) in &lesson.ids {
            let home = self.homes.entry(*id);
            home.time = home.time.max(lesson.time);
            match conversation {
                Some(conversation) if home.conversation == 0 => home.conversation = conversation,
                Some(conversation) if home.conversation != conversation => home.conversation = SEVERAL,
                _ => {}
            }
        }
        // What is said in a conversation is said of it, else of the process.
        let process = || lesson.ids.iter().find(|(kind, _)| *kind == KeyKind::Connection).map(|(_, id)| *id);
        let Some(id) = conversation.or_else(process) else { return };
        let session = self.sessions.entry(id);
        if let Some((_, name)) = &lesson.conversation {
            session.conversation.get_or_insert_with(|| name.clone());
        }
        session.authenticated.add(lesson.authenticated.as_ref());
        let claimed = if lesson.acts_for_others { &mut session.account } else { &mut session.claimed };
        claimed.add(lesson.claimed.as_ref());
        session.agent.add(lesson.agent.as_ref());
    }

    /// What is known of the session, chain and call of a record.
    pub(super) fn of(&self, record: &Record, place: Id) -> SessionFacts {
        let keyed = Keyed::of(record);
        let mut facts = self.session(record, &keyed.session);
        self.chained.tell(&keyed.ids, place, |id| is_of_several(&self.homes, id), &mut facts);
        // What several conversations bear names a chain of each.
        let shared = [keyed.ids.trace, keyed.ids.turn].into_iter().find(|id| is_of_several(&self.homes, *id));
        if let Some((_, key)) = shared.and_then(|shared| keyed.named.iter().find(|(id, _)| *id == shared)) {
            let within = || chains::name(key, record.conversation_id.as_deref(), true);
            facts.chain = facts.chain.or_else(within);
        }
        facts
    }

    fn session(&self, record: &Record, ids: &[(KeyKind, u128)]) -> SessionFacts {
        let own = record.conversation_id.as_deref().filter(|name| !name.is_empty());
        let home = own.map(|name| id_of_conversation(record, name));
        let home = home.or_else(|| self.conversation(ids, record.time_unix_nano));
        let process = || ids.iter().find(|(kind, _)| *kind == KeyKind::Connection).map(|(_, id)| *id);
        let Some(session) = home.or_else(process).and_then(|id| self.sessions.get(id)) else {
            return SessionFacts { conversation: own.map(str::to_string), ..SessionFacts::default() };
        };
        let is_authenticated = session.authenticated != Said::Nothing;
        let nearest = [&session.authenticated, &session.claimed, &session.account];
        let user = nearest.into_iter().find(|said| **said != Said::Nothing).and_then(Said::one);
        SessionFacts {
            conversation: own.map(str::to_string).or_else(|| session.conversation.clone()),
            is_authenticated: is_authenticated && user.is_some(),
            user: user.cloned(),
            agent: session.agent.one().cloned(),
            ..SessionFacts::default()
        }
    }

    /// The one conversation that ids were named in.
    fn conversation(&self, ids: &[(KeyKind, u128)], time: i64) -> Option<u128> {
        let mut found = Said::Nothing;
        for (kind, id) in ids {
            let is_near = |home: &&Home| *kind == KeyKind::Connection || home.time.abs_diff(time) <= REACH_NANOS;
            match self.homes.get(*id).filter(is_near).map(|home| home.conversation) {
                None | Some(0) => {}
                Some(SEVERAL) => return None,
                Some(conversation) => found.add(Some(&conversation)),
            }
        }
        found.one().copied()
    }

    #[cfg(test)]
    pub(super) fn links(&self) -> usize {
        self.chained.0.young.len() + self.chained.0.old.len()
    }

    /// As it is written down.
    pub(super) fn kept(&self) -> Kept {
        let sessions = |map: &HashMap<u128, Session>| {
            sorted(map.iter().map(|(id, session)| KeptSession { id: hex(*id), session: session.clone() }).collect())
        };
        let homes = |map: &HashMap<u128, Home>| {
            sorted(map.iter().map(|(id, home)| (hex(*id), hex(home.conversation), home.time)).collect())
        };
        let links = |map: &HashMap<Id, Link>| {
            sorted(map.iter().map(|(id, link)| KeptLink { id: hex(*id), link: link.clone() }).collect())
        };
        Kept {
            sessions: [sessions(&self.sessions.young), sessions(&self.sessions.old)],
            homes: [homes(&self.homes.young), homes(&self.homes.old)],
            links: [links(&self.chained.0.young), links(&self.chained.0.old)],
        }
    }

    /// What was written down; `None` when it is not that.
    pub(super) fn of_kept(kept: Kept) -> Option<Known> {
        let number = |text: &str| u128::from_str_radix(text, 16).ok();
        let sessions = |list: Vec<KeptSession>| -> Option<HashMap<u128, Session>> {
            list.into_iter().map(|kept| Some((number(&kept.id)?, kept.session))).collect()
        };
        let homes = |list: Vec<KeptHome>| -> Option<HashMap<u128, Home>> {
            let home = |(id, conversation, time): KeptHome| {
                Some((number(&id)?, Home { conversation: number(&conversation)?, time }))
            };
            list.into_iter().map(home).collect()
        };
        let [young, old] = kept.sessions;
        let sessions = Recent { young: sessions(young)?, old: sessions(old)? };
        let [young, old] = kept.homes;
        let homes = Recent { young: homes(young)?, old: homes(old)? };
        let links = |list: Vec<KeptLink>| -> Option<HashMap<Id, Link>> {
            list.into_iter().map(|kept| Some((number(&kept.id)?, kept.link))).collect()
        };
        let [young, old] = kept.links;
        Some(Known { sessions, homes, chained: Chained(Recent { young: links(young)?, old: links(old)? }) })
    }
}

/// The same as it is written down, in one order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    sessions: [Vec<KeptSession>; 2],
    homes: [Vec<KeptHome>; 2],
    #[serde(default)]
    links: [Vec<KeptLink>; 2],
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct KeptSession {
    id: String,
    session: Session,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct KeptLink {
    id: String,
    link: Link,
}

/// Id, conversation, time.
type KeptHome = (String, String, i64);

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list
}

fn hex(id: u128) -> String {
    format!("{id:x}")
}

/// The ids of a record, one of each kind.
#[derive(Debug)]
pub(super) struct Keyed<'a> {
    /// Those that say which session it is of.
    session: Vec<(KeyKind, u128)>,
    /// Those that say which chain.
    pub(super) ids: Ids,
    /// The same with their keys.
    pub(super) named: Vec<(Id, &'a str)>,
}

impl Keyed<'_> {
    fn of(record: &Record) -> Keyed<'_> {
        let is_stdio = record.decoder == DECODER;
        let mut keyed = Keyed { session: Vec::new(), ids: Ids::default(), named: Vec::new() };
        let mut kinds: Vec<KeyKind> = Vec::new();
        for key in record.keys.iter().take(KEYS_PER_RECORD_MAX) {
            let Some((kind, value)) =
                key.split_once(':').and_then(|(kind, value)| Some((KeyKind::parse(kind)?, value)))
            else {
                continue;
            };
            if kinds.contains(&kind) {
                continue;
            }
            // What is short may be chosen again by somebody else: it tells in its own conversation.
            let is_known = !chains::is_local(kind, value);
            let tells_session = match kind {
                KeyKind::ToolCall | KeyKind::Turn | KeyKind::Rpc | KeyKind::Trace => is_known,
                // One process serves one client.
                KeyKind::Connection if is_stdio => true,
                KeyKind::RequestState => false,
                _ => continue,
            };
            kinds.push(kind);
            let own = |conversation: &str| id(record, &format!("{conversation}\u{0}{key}"));
            let own = record.conversation_id.as_deref().filter(|_| kind == KeyKind::ToolCall || !is_known).map(own);
            if is_known {
                let id = id(record, key);
                if tells_session {
                    keyed.session.push((kind, id));
                }
                if kind != KeyKind::Connection {
                    keyed.ids.add(kind, id);
                    keyed.named.push((id, key));
                }
            }
            if let Some(id) = own {
                match kind {
                    KeyKind::Turn => keyed.ids.turn = id,
                    _ => keyed.ids.calls[CALL_KINDS.len()] = id,
                }
                keyed.named.push((id, key));
            }
        }
        keyed
    }
}

fn is_of_several(homes: &Recent<Home>, id: Id) -> bool {
    homes.get(id).is_some_and(|home| home.conversation == SEVERAL)
}

fn id_of_conversation(record: &Record, name: &str) -> u128 {
    id(record, &Key::new(KeyKind::Conversation, name).to_string())
}

fn id(record: &Record, key: &str) -> u128 {
    let mut digest = Sha256::new();
    digest.update(record.tenant.as_bytes());
    digest.update([0]);
    digest.update(key.as_bytes());
    let digest: [u8; 32] = digest.finalize().into();
    let mut first = [0; 16];
    first.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use threadline_schemas::stamp::stamp;
    use threadline_schemas::{Kind, SourceKind};

    const CALL: &str = "toolu_0123456789abcdef";

    fn record(set: impl Fn(&mut Record)) -> Record {
        let mut record = Record::new("t", "own:1", Kind::Call);
        record.time_unix_nano = 1_784_900_000_000_000_000;
        set(&mut record);
        stamp(&mut record);
        record
    }

    fn said(user: &str, conversation: &str) -> Record {
        record(|r| {
            (r.user_claimed, r.conversation_id) = (Some(user.into()), Some(conversation.into()));
            r.agent_name = Some("claude-code".into());
        })
    }

    fn chosen(conversation: &str) -> Record {
        record(|r| (r.conversation_id, r.tool_call_id) = (Some(conversation.into()), Some(CALL.into())))
    }

    /// As the wire saw it: no conversation, no user.
    fn called(connection: &str, decoder: &str) -> Record {
        record(|r| {
            (r.connection_id, r.tool_call_id) = (Some(connection.into()), Some(CALL.into()));
            r.decoder = decoder.into();
        })
    }

    fn listed(connection: &str, decoder: &str) -> Record {
        record(|r| (r.connection_id, r.decoder) = (Some(connection.into()), decoder.into()))
    }

    fn shown(known: &Known, record: &Record) -> String {
        let facts = known.of(record, 0);
        let text = |name: &Option<String>| name.as_deref().unwrap_or("-").to_string();
        format!("{} {} {}", text(&facts.conversation), text(&facts.user), text(&facts.agent))
    }

    fn learned(records: &[Record]) -> Known {
        let mut known = Known::default();
        learn(&mut known, records);
        known
    }

    /// As one file.
    fn learn(known: &mut Known, records: &[Record]) {
        let mut file = File::default();
        known.begin();
        for (record, row) in records.iter().zip(0..) {
            known.read(record, place(Some(Uuid::nil()), row), &mut file);
        }
        known.end(file);
    }

    #[test]
    fn a_user_reaches_the_records_of_the_conversation_the_call_and_the_process_and_no_other() {
        let known = learned(&[said("ann", "c1"), chosen("c1"), called("p1", DECODER), called("h1", "mcp-http")]);
        let told = "c1 ann claude-code";
        assert_eq!(shown(&known, &chosen("c1")), told);
        assert_eq!(shown(&known, &called("p1", DECODER)), told);
        assert_eq!(shown(&known, &listed("p1", DECODER)), told);
        // A connection over HTTP may be a gateway's, for several users.
        assert_eq!(shown(&known, &listed("h1", "mcp-http")), "- - -");
        assert_eq!(shown(&known, &said("", "c2")), "c2 - -");
        let mut other = chosen("c1");
        other.tenant = "u".into();
        assert_eq!(shown(&known, &other), "c1 - -");
    }

    #[test]
    fn what_is_said_in_two_ways_is_not_known() {
        let known = learned(&[said("ann", "c1"), said("bob", "c1"), said("ann", "c2")]);
        assert_eq!(shown(&known, &chosen("c1")), "c1 - claude-code");
        // Two conversations bear the id of the call.
        let known = learned(&[said("ann", "c1"), said("bob", "c2"), chosen("c1"), chosen("c2")]);
        assert_eq!(shown(&known, &called("p1", DECODER)), "- - -");
        // What an authentication proved is not overruled by a claim.
        let proven = record(|r| {
            (r.user_authenticated, r.conversation_id) = (Some("ann@corp".into()), Some("c3".into()));
        });
        let known = learned(&[said("mallory", "c3"), proven]);
        assert!(known.of(&chosen("c3"), 0).is_authenticated);
        assert_eq!(shown(&known, &chosen("c3")), "c3 ann@corp claude-code");
    }

    #[test]
    fn what_conversations_share_gives_the_chain_of_each_another_name() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let prompt = |conversation: &str, turn: Option<&str>| {
            record(|r| {
                (r.kind, r.conversation_id) = (Kind::Prompt, Some(conversation.into()));
                (r.turn_id, r.trace_id) = (turn.map(Into::into), turn.is_none().then(|| trace.into()));
            })
        };
        for turn in [Some("1"), Some("0198c0de-0000-7000-8000-000000000007"), None] {
            let records = ["c1", "c2"].map(|conversation| prompt(conversation, turn));
            let known = learned(&records);
            let chain = |record: &Record| known.of(record, 0).chain;
            assert!(chain(&records[0]).is_some() && chain(&records[0]) != chain(&records[1]), "{turn:?}");
        }
        let known = learned(&[chosen("c1"), chosen("c2")]);
        assert_ne!(known.of(&chosen("c1"), 0).chain, known.of(&chosen("c2"), 0).chain);
        let alone = prompt("c1", None);
        assert_eq!(learned(std::slice::from_ref(&alone)).of(&alone, 0).chain.as_deref(), Some(trace));
    }

    #[test]
    fn the_account_of_a_server_is_the_user_only_where_nobody_else_is_named() {
        let account = record(|r| {
            (r.user_claimed, r.conversation_id) = (Some("svc".into()), Some("c1".into()));
            r.source_kind = SourceKind::Server;
        });
        assert_eq!(shown(&learned(&[said("ann", "c1"), account.clone()]), &chosen("c1")), "c1 ann claude-code");
        assert_eq!(shown(&learned(&[account]), &chosen("c1")), "c1 svc -");
    }

    #[test]
    fn ids_that_are_short_or_long_past_tell_nothing() {
        let short = |conversation: Option<&str>| {
            record(|r| (r.conversation_id, r.tool_call_id) = (conversation.map(Into::into), Some("call_1".into())))
        };
        let known = learned(&[said("ann", "c1"), short(Some("c1")), chosen("c1")]);
        assert_eq!(shown(&known, &short(None)), "- - -");
        let mut late = called("h1", "mcp-http");
        late.time_unix_nano += REACH_NANOS as i64 + 1;
        assert_eq!(shown(&known, &late), "- - -");
    }

    #[test]
    fn it_is_bounded_keeps_what_is_in_use_and_is_the_same_when_read_again() {
        let mut known = learned(&[said("ann", "c1"), chosen("c1"), called("p1", DECODER)]);
        for file in 0..40 {
            let mut records = Vec::new();
            for n in 0..1_000 {
                records.push(said("bob", &format!("other-{file}-{n}")));
                let mut call = chosen(&format!("other-{file}-{n}"));
                call.keys = vec![format!("toolcall:toolu_{file:08}{n:08}"), format!("turn:turn-of-{file:08}-{n:08}")];
                records.push(call);
            }
            records.push(called("p1", DECODER));
            learn(&mut known, &records);
            let links = &known.chained.0;
            for len in [
                known.sessions.young.len(),
                known.sessions.old.len(),
                known.homes.young.len(),
                links.young.len(),
                links.old.len(),
            ] {
                assert!(len <= KEYS_MAX + 3_000, "{len}");
            }
        }
        assert_eq!(shown(&known, &listed("p1", DECODER)), "c1 ann claude-code");
        assert_eq!(shown(&known, &chosen("other-0-7")), "other-0-7 - -");
        let text = serde_json::to_string(&known.kept()).unwrap();
        assert_eq!(Known::of_kept(serde_json::from_str(&text).unwrap()), Some(known));
    }
}
