//! Closure: which records belong to one session, from their keys alone.
//!
//! Two records that bear an equal joining key belong together, unless a guard says otherwise. A key
//! that a guard stops is *contested*: it joins nothing by itself and is reported.
//!
//! | step | key | joins | guard |
//! | --- | --- | --- | --- |
//! | 0 | judged session | every record that the linker placed in it | it is a conversation to all later steps |
//! | 1 | `conversation` | every bearer; several on one record are one conversation | none: the host says so itself |
//! | 2 | `rpc` | request and response of one connection | never two conversations |
//! | 3 | `toolcall` | to the conversation whose choice contains it in time | time, arguments digest, tool ([`toolcall`]) |
//! | 4 | `request-state`, `turn`, `request` | every bearer | never two conversations; `request` and `request-state` reach one hour |
//! | 4b | judged parent | a record that is judged below another, but into no session | never two conversations |
//! | 5 | `connection`, `mcp-session` | every bearer, when its records give evidence of at most one conversation | a session that is opened twice joins nothing |
//! | 6 | `trace` | every bearer | never two conversations; not over successive connections to one server (constant trace ids) |
//! | 7 | `connection` | what is left of a contested one, with itself | |
//!
//! Invariants
//! - a set of records never holds two conversations, whatever the order of records, keys or files
//! - what shares no believed key with anything and has no session-like key of its own is in no session
//! - a session's id is the stamp of its conversation, else of its MCP session, connection or trace
//!   (the smallest of the strongest kind), so it does not depend on what else is stored
//!
//! Not here: links between two records (`links`), or judging by content.

mod sets;
mod toolcall;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use threadline_schemas::KeyKind;

use crate::fact::{Fact, FactKey, FactView, NameId, SESSION_KINDS};
use sets::{Bearers, Sets};
pub(crate) use toolcall::plain;

/// "In no session" in [`Closure::session_of`].
pub const NONE: u32 = u32::MAX;

/// A request id or request state joins records at most this far apart (one hour).
const REQUEST_REACH_NANOS: i64 = 3_600_000_000_000;
/// A trace that joins more connections than this is taken for a constant.
const TRACE_CONNECTIONS_MAX: usize = 64;

/// What belongs together.
#[derive(Debug, Default)]
pub struct Closure {
    /// Sessions, by id.
    pub sessions: Vec<Closed>,
    /// For every position its index in `sessions`, or [`NONE`].
    pub session_of: Vec<u32>,
    /// Keys that stopped joining.
    pub contested: Vec<Contested>,
    /// Records whose tool-call id was contested, and what time and content said.
    pub judged: Vec<Judged>,
}

/// One session.
#[derive(Debug)]
pub struct Closed {
    /// Its id.
    pub id: String,
    /// Its records' positions, ascending.
    pub rows: Vec<u32>,
}

/// A key that joins nothing by itself.
#[derive(Debug)]
pub struct Contested {
    /// Which.
    pub key: FactKey,
    /// Why.
    pub why: Why,
    /// Its bearers' positions, ascending.
    pub at: Vec<u32>,
}

/// Why a key is contested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It occurs under several conversations.
    SeveralConversations,
    /// It occurs where its conversation says it was not: other time, arguments or tool.
    DoesNotFit,
    /// It occurs in successive connections to one server, or in too many.
    SeveralConnections,
    /// An MCP session was opened twice under it.
    OpenedTwice,
}

/// A record with a contested tool-call id.
#[derive(Debug)]
pub struct Judged {
    /// The record.
    pub at: u32,
    /// The key.
    pub key: FactKey,
    /// What was found.
    pub verdict: Verdict,
}

/// Where a record with a contested tool-call id belongs.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To exactly one conversation; a bearer of the key there.
    Fits(u32),
    /// To any of several; a bearer in each.
    Several(Vec<u32>),
    /// To none.
    No,
}

/// Closes over the joining keys of all records in view.
pub fn close(view: &FactView<'_>) -> Closure {
    let bearers = Bearers::of(view);
    let mut state = State { view, bearers: &bearers, sets: Sets::new(view.len()), out: Closure::default() };
    state.judged();
    state.conversations();
    state.join(KeyKind::Rpc, None);
    state.tool_calls();
    state.join(KeyKind::RequestState, Some(REQUEST_REACH_NANOS));
    state.join(KeyKind::Turn, None);
    state.join(KeyKind::Request, Some(REQUEST_REACH_NANOS));
    state.judged_pairs();
    state.connections();
    state.traces();
    state.remainders();
    state.finish()
}

struct State<'a> {
    view: &'a FactView<'a>,
    bearers: &'a Bearers,
    sets: Sets,
    out: Closure,
}

impl State<'_> {
    fn fact(&self, at: u32) -> &Fact {
        self.view.at(at).1
    }

    fn contest(&mut self, key: FactKey, why: Why, at: &[u32]) {
        self.out.contested.push(Contested { key, why, at: at.to_vec() });
    }

    /// What the linker placed in one session belongs together, and to no other.
    fn judged(&mut self) {
        if !self.view.has_judged() {
            return;
        }
        let mut first: HashMap<&str, u32> = HashMap::new();
        for at in 0..self.view.len() {
            if let Some(session) = self.view.judged_session(at) {
                let first = *first.entry(session).or_insert(at);
                self.sets.union(first, at);
            }
        }
        first.into_values().for_each(|at| self.sets.label(at));
    }

    /// What the linker placed below a parent without judging a session.
    fn judged_pairs(&mut self) {
        let Some(judged) = self.view.judgements().filter(|judged| judged.has_pairs()) else { return };
        let mut parents: HashMap<uuid::Uuid, u32> = HashMap::new();
        let all = || 0..self.view.len();
        for at in all() {
            let event = self.fact(at).event;
            if !judged.children_alone(event).is_empty() {
                parents.insert(event, at);
            }
        }
        let pairs: Vec<(u32, u32)> =
            all().filter_map(|at| Some((*parents.get(&judged.parent_alone(self.fact(at).event)?)?, at))).collect();
        for (parent, child) in pairs {
            let labels = self.labels(&[parent, child]);
            if labels.len() < 2 {
                self.sets.union(parent, child);
            }
        }
    }

    fn conversations(&mut self) {
        for (key, at) in self.bearers.runs(KeyKind::Conversation) {
            if self.labels(at).len() < 2 {
                at.iter().for_each(|other| self.sets.union(at[0], *other));
                continue;
            }
            // Several users bear this id, and the linker told them apart.
            let rest: Vec<u32> = at.iter().copied().filter(|at| self.sets.label_of(*at) == NONE).collect();
            rest.iter().for_each(|other| self.sets.union(rest[0], *other));
            self.contest(key, Why::SeveralConversations, at);
        }
        // Also a conversation of one record: what it touches belongs to it.
        for at in self.bearers.all(KeyKind::Conversation) {
            if self.sets.label_of(at) == NONE {
                self.sets.label(at);
            }
        }
    }

    fn tool_calls(&mut self) {
        for (key, at) in self.bearers.runs(KeyKind::ToolCall) {
            let judgement = toolcall::judge(self.view, &mut self.sets, at);
            if let Some(why) = judgement.contested {
                self.contest(key, why, at);
                let judged = judgement.verdicts.into_iter();
                self.out.judged.extend(judged.map(|(at, verdict)| Judged { at, key, verdict }));
            }
        }
    }

    /// Joins the bearers of every key of `kind` that meets at most one conversation.
    fn join(&mut self, kind: KeyKind, reach: Option<i64>) {
        let runs = self.bearers.runs(kind);
        let mut labelled = Vec::new();
        for (key, at) in runs {
            let labels = self.labels(at);
            match labels.len() {
                0 => self.join_near(key, at, reach),
                1 => labelled.push((key, at, labels)),
                _ => self.contest(key, Why::SeveralConversations, at),
            }
        }
        self.join_labelled(&labelled, reach);
    }

    /// Joins runs that meet one conversation, except members that other runs of the kind pull elsewhere.
    fn join_labelled(&mut self, runs: &[(FactKey, &[u32], BTreeSet<u32>)], reach: Option<i64>) {
        let mut pulls: HashMap<u32, BTreeSet<u32>> = HashMap::new();
        for (_, at, labels) in runs {
            for member in at.iter() {
                pulls.entry(self.sets.find(*member)).or_default().extend(labels);
            }
        }
        let torn: HashSet<u32> =
            pulls.into_iter().filter(|(_, labels)| labels.len() > 1).map(|(root, _)| root).collect();
        for (key, at, _) in runs {
            let (home, away): (Vec<u32>, Vec<u32>) = at.iter().partition(|at| self.sets.label_of(**at) != NONE);
            let Some(first) = home.first().copied() else { continue };
            home.iter().for_each(|other| self.sets.union(first, *other));
            let times = home.iter().map(|at| self.fact(*at).time);
            let (from, to) = times.fold((i64::MAX, i64::MIN), |(min, max), time| (min.min(time), max.max(time)));
            let mut refused = false;
            for at in away {
                let time = self.fact(at).time;
                let near =
                    reach.is_none_or(|reach| time >= from.saturating_sub(reach) && time <= to.saturating_add(reach));
                if near && !torn.contains(&self.sets.find(at)) {
                    self.sets.union(first, at);
                } else {
                    refused = true;
                }
            }
            if refused {
                self.contest(*key, Why::DoesNotFit, at);
            }
        }
    }

    /// Joins bearers that no conversation claims, as far as each is within `reach` of the next.
    fn join_near(&mut self, key: FactKey, at: &[u32], reach: Option<i64>) {
        let mut ordered: Vec<(i64, u32)> = at.iter().map(|at| (self.fact(*at).time, *at)).collect();
        ordered.sort_unstable();
        let mut broken = false;
        for pair in ordered.windows(2) {
            if reach.is_none_or(|reach| pair[1].0.saturating_sub(pair[0].0) <= reach) {
                self.sets.union(pair[0].1, pair[1].1);
            } else {
                broken = true;
            }
        }
        if broken {
            self.contest(key, Why::DoesNotFit, at);
        }
    }

    fn labels(&mut self, at: &[u32]) -> BTreeSet<u32> {
        at.iter().map(|at| self.sets.label_of(*at)).filter(|label| *label != NONE).collect()
    }

    /// Connections and MCP sessions: first what evidence each gives, its traces included, then the joins.
    fn connections(&mut self) {
        let traces: HashMap<FactKey, BTreeSet<u32>> =
            self.bearers.runs(KeyKind::Trace).map(|(key, at)| (key, self.labels(at))).collect();
        let mut judged = Vec::new();
        for kind in [KeyKind::McpSession, KeyKind::Connection] {
            for (key, at) in self.bearers.runs(kind) {
                let openings = at.iter().filter(|at| self.fact(**at).opens_session).count();
                let evidence = self.evidence(at, &traces);
                let why = match () {
                    () if kind == KeyKind::McpSession && openings > 1 => Some(Why::OpenedTwice),
                    () if evidence.len() > 1 => Some(Why::SeveralConversations),
                    () => None,
                };
                judged.push((key, at, evidence, why));
            }
        }
        let mut one = Vec::new();
        for (key, at, evidence, why) in judged {
            match why {
                Some(why) => self.contest(key, why, at),
                None if evidence.is_empty() => self.join_near(key, at, None),
                None => one.push((key, at, evidence)),
            }
        }
        // A connection whose only evidence is a trace has no member with the label yet.
        for (_, at, evidence) in &one {
            let members: BTreeSet<u32> = at.iter().map(|at| self.sets.find(*at)).collect();
            let unlabelled = members.iter().all(|root| self.sets.label_of(*root) == NONE);
            if unlabelled {
                at.iter().for_each(|other| self.sets.union(at[0], *other));
                evidence.iter().for_each(|label| self.sets.union(*label, at[0]));
            }
        }
        self.join_labelled(&one, None);
    }

    fn evidence(&mut self, at: &[u32], traces: &HashMap<FactKey, BTreeSet<u32>>) -> BTreeSet<u32> {
        let mut evidence = BTreeSet::new();
        for at in at {
            match self.sets.label_of(*at) {
                NONE => {
                    let (facts, fact) = self.view.at(*at);
                    let keys = facts.keys(fact).iter();
                    evidence
                        .extend(keys.filter_map(|key| traces.get(key)).filter(|labels| labels.len() == 1).flatten());
                }
                label => {
                    evidence.insert(label);
                }
            }
        }
        evidence
    }

    fn traces(&mut self) {
        let mut lives: HashMap<u64, (i64, i64, bool)> = HashMap::new();
        for (key, at) in self.bearers.runs(KeyKind::Connection) {
            let mut life = (i64::MAX, i64::MIN, false);
            for fact in at.iter().map(|at| self.fact(*at)) {
                life = (life.0.min(fact.time), life.1.max(fact.time), life.2 || fact.opens_session);
            }
            lives.insert(key.hash, life);
        }
        let mut labelled = Vec::new();
        for (key, at) in self.bearers.runs(KeyKind::Trace) {
            let labels = self.labels(at);
            if labels.len() > 1 {
                self.contest(key, Why::SeveralConversations, at);
            } else if self.is_constant(at, &lives) {
                self.contest(key, Why::SeveralConnections, at);
            } else if labels.is_empty() {
                self.join_near(key, at, None);
            } else {
                labelled.push((key, at, labels));
            }
        }
        self.join_labelled(&labelled, None);
    }

    /// Whether a trace id goes through connections that followed one another at one server: a program
    /// that starts a new trace per task would not do that, one with a constant trace id does.
    fn is_constant(&mut self, at: &[u32], lives: &HashMap<u64, (i64, i64, bool)>) -> bool {
        let mut connections: BTreeMap<u64, u64> = BTreeMap::new();
        for at in at.iter().copied() {
            if self.sets.label_of(at) != NONE {
                continue;
            }
            let (facts, fact) = self.view.at(at);
            let server = crate::fact::hash(facts.name(fact.server));
            let keys = facts.keys(fact).iter().filter(|key| key.kind == KeyKind::Connection);
            connections.extend(keys.map(|key| (key.hash, server)));
        }
        if connections.len() > TRACE_CONNECTIONS_MAX {
            return true;
        }
        let mut lives: Vec<(u64, (i64, i64, bool))> = connections
            .iter()
            .filter_map(|(key, server)| Some((*server, *lives.get(key)?)))
            .filter(|(_, life)| life.2)
            .collect();
        lives.sort_unstable();
        lives.windows(2).any(|pair| pair[0].0 == pair[1].0 && pair[0].1.1 < pair[1].1.0)
    }

    /// What no conversation claims of a contested connection stays together.
    fn remainders(&mut self) {
        let connections = self.out.contested.iter().filter(|contested| contested.key.kind == KeyKind::Connection);
        let rest: Vec<Vec<u32>> = connections.map(|contested| contested.at.clone()).collect();
        for mut at in rest {
            at.retain(|at| self.sets.label_of(*at) == NONE);
            at.iter().for_each(|other| self.sets.union(at[0], *other));
        }
    }

    fn finish(mut self) -> Closure {
        let nameless = self.out.contested.iter().map(|contested| contested.key);
        let nameless: HashSet<FactKey> =
            nameless.filter(|key| matches!(key.kind, KeyKind::Trace | KeyKind::McpSession)).collect();
        let mut groups: BTreeMap<u32, Group> = BTreeMap::new();
        for at in 0..self.view.len() {
            let group = groups.entry(self.sets.find(at)).or_default();
            group.rows.push(at);
            let (facts, fact) = self.view.at(at);
            let judged = self.view.judged_session(at).map(|session| (0, session));
            let stamped =
                || stamp_of(facts.keys(fact), fact, &nameless).map(|(class, stamp)| (class + 1, facts.name(stamp)));
            let Some((class, stamp)) = judged.or_else(stamped) else { continue };
            if group.id.as_ref().is_none_or(|(known, id)| (class, stamp) < (*known, id)) {
                group.id = Some((class, stamp.to_string()));
            }
        }
        let named = groups.into_values().filter_map(|group| Some(Closed { id: group.id?.1, rows: group.rows }));
        let mut sessions: Vec<Closed> = named.collect();
        sessions.sort_by(|a, b| a.id.cmp(&b.id));
        self.out.session_of = vec![NONE; self.view.len() as usize];
        for (index, session) in sessions.iter().enumerate() {
            session.rows.iter().for_each(|at| self.out.session_of[*at as usize] = index as u32);
        }
        self.out.sessions = sessions;
        self.out
    }
}

/// A set of records on its way to a session: its best stamp with its strength, and its rows.
#[derive(Default)]
struct Group {
    id: Option<(usize, String)>,
    rows: Vec<u32>,
}

/// The stamp that a record gives its session and its strength (the smaller the stronger), from the
/// strongest key that may name one.
fn stamp_of(keys: &[FactKey], fact: &Fact, nameless: &HashSet<FactKey>) -> Option<(usize, NameId)> {
    let first_of = |kind: &KeyKind| keys.iter().find(|key| key.kind == *kind);
    let present = SESSION_KINDS.iter().enumerate().filter_map(|(class, kind)| Some((class, first_of(kind)?)));
    let stamps = [fact.session_key, fact.weaker_key];
    present.zip(stamps).find(|((_, key), _)| !nameless.contains(key)).map(|((class, _), stamp)| (class, stamp))
}

#[cfg(test)]
mod tests;
