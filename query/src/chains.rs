//! Chains: what tells one story, from a prompt over a choice and a call to its effects, by equal ids.
//!
//! A chain is a turn (one prompt and what it led to) where ids lead to one, else a trace, else a call. Calls join the ids of
//! one call (`toolcall`, `rpc`, `request-state`); a call and a trace are of the turn that they are named with; what has no
//! turn is joined by its trace.
//!
//! Invariants
//! - what ids hold together does not depend on the order of records
//! - a chain never holds two turns: a call or trace that is named with two of them is contested and joins nothing, its
//!   records that name a turn are of that turn
//! - a chain is named by its trace, of several by the one that was seen first, those that are seen with the turn before
//!   others; without a trace by the stamp of its turn, else of its call
//! - an id that others may use too ([`is_local`]), or that they do use, names a chain only together with its conversation:
//!   chains of two conversations have two names
//!
//! Not here: which records there are, and what was named before (`forward`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use threadline_schemas::{Key, KeyKind, Kind, Outcome, stamp};

/// Of one key; 0: none.
pub(crate) type Id = u128;

/// In place of a turn or conversation: several.
pub(crate) const SEVERAL: Id = Id::MAX;

/// Kinds of key that name a call, the one that most observers share first.
pub(crate) const CALL_KINDS: [KeyKind; 3] = [KeyKind::ToolCall, KeyKind::Rpc, KeyKind::RequestState];

/// The ids of one record that say which chain it is of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Ids {
    /// Of [`CALL_KINDS`], and last what names the call within its conversation alone.
    pub(crate) calls: [Id; CALL_KINDS.len() + 1],
    pub(crate) turn: Id,
    pub(crate) trace: Id,
}

impl Ids {
    /// Takes an id of a kind of which there is none yet.
    pub(crate) fn add(&mut self, kind: KeyKind, id: Id) {
        let call = CALL_KINDS.iter().position(|call| *call == kind);
        let place = match kind {
            KeyKind::Turn => Some(&mut self.turn),
            KeyKind::Trace => Some(&mut self.trace),
            _ => call.map(|at| &mut self.calls[at]),
        };
        if let Some(place) = place.filter(|place| **place == 0) {
            *place = id;
        }
    }

    pub(crate) fn calls(&self) -> impl Iterator<Item = Id> + use<> {
        self.calls.into_iter().filter(|id| *id != 0)
    }

    /// The most telling first: a call is of one turn, a trace may be of several.
    pub(crate) fn all(&self) -> impl Iterator<Item = Id> + use<> {
        self.calls().chain([self.turn, self.trace].into_iter().filter(|id| *id != 0))
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Ids::default()
    }

    /// What stands for the call where other turns use its id too.
    pub(crate) fn shared(&self) -> Option<Id> {
        self.calls().next().filter(|_| self.turn != 0).map(|call| call ^ self.turn)
    }
}

/// A record that completes a call. Of several the least is the one that is counted: what the wire saw before what others
/// tell, a result before a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct End {
    rank: u8,
    time: i64,
    /// What tells it from others.
    pub(crate) place: Id,
}

/// `None`: it completes no call. What asks for further input is followed by another round of the same call.
pub(crate) fn end(
    kind: Kind,
    outcome: Option<Outcome>,
    is_wire: bool,
    is_over: bool,
    time: i64,
    place: Id,
) -> Option<End> {
    let rank = match kind {
        _ if outcome == Some(Outcome::InputRequired) => return None,
        Kind::Result => u8::from(!is_wire),
        Kind::Call if is_over => 2,
        _ => return None,
    };
    Some(End { rank, time, place })
}

/// Shortest id of a tool call or turn that is believed to be the only one, bytes.
const ID_BYTES_MIN: usize = 16;

/// Whether somebody else may choose the id again: a short one of a tool call or turn. It tells in its own conversation.
pub(crate) fn is_local(kind: KeyKind, value: &str) -> bool {
    matches!(kind, KeyKind::ToolCall | KeyKind::Turn) && value.len() < ID_BYTES_MIN
}

/// The name that a key gives a chain of a conversation; `is_shared`: other conversations bear the key, too.
pub(crate) fn name(key: &str, conversation: Option<&str>, is_shared: bool) -> Option<String> {
    let parsed = Key::parse(key)?;
    let level = match parsed.kind {
        KeyKind::Trace | KeyKind::Turn => "turn",
        kind => CALL_KINDS.contains(&kind).then_some("call")?,
    };
    let is_local = is_shared || is_local(parsed.kind, &parsed.value);
    match conversation.filter(|name| is_local && !name.is_empty()) {
        Some(name) => Some(stamp::name(level, &format!("{}\0{key}", Key::new(KeyKind::Conversation, name)))),
        None if parsed.kind == KeyKind::Trace => Some(parsed.value),
        None => Some(stamp::name(level, key)),
    }
}

/// What belongs together.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    of: HashMap<Id, u32>,
    leads: Vec<Id>,
    calls: HashMap<Id, Id>,
    turns: HashMap<Id, Id>,
}

impl Chains {
    /// The chain of a record.
    pub(crate) fn of(&self, ids: &Ids) -> Option<u32> {
        ids.all().find_map(|id| self.of.get(&id).copied())
    }

    /// Every id with its chain.
    pub(crate) fn members(&self) -> impl Iterator<Item = (Id, u32)> + '_ {
        self.of.iter().map(|(id, chain)| (*id, *chain))
    }

    /// The id that names each chain.
    pub(crate) fn leads(&self) -> &[Id] {
        &self.leads
    }

    /// What stands for the call that a record is of: of one turn, where its id is used by several.
    pub(crate) fn call(&self, ids: &Ids) -> Option<Id> {
        ids.calls().find_map(|id| self.call_of(id)).or_else(|| ids.shared())
    }

    /// What stands for the call that an id is of.
    pub(crate) fn call_of(&self, id: Id) -> Option<Id> {
        self.calls.get(&id).copied()
    }

    /// The ids of each call, by what stands for it.
    pub(crate) fn calls(&self) -> HashMap<Id, BTreeSet<Id>> {
        let mut calls: HashMap<Id, BTreeSet<Id>> = HashMap::new();
        for (id, call) in &self.calls {
            calls.entry(*call).or_default().insert(*id);
        }
        calls
    }

    /// The turn that each call and trace is named with; [`SEVERAL`].
    pub(crate) fn turns(&self) -> impl Iterator<Item = (Id, Id)> + '_ {
        self.turns.iter().map(|(id, turn)| (*id, *turn))
    }
}

/// Closes over the ids of records, each with the time when it happened. What is contested from the outset joins nothing.
pub(crate) fn close(records: &[(Ids, i64)], is_contested: impl Fn(Id) -> bool) -> Chains {
    let believed = |id: Id| Some(id).filter(|id| !is_contested(*id)).unwrap_or(0);
    let records: Vec<(Ids, i64)> = records
        .iter()
        .map(|(ids, time)| {
            let ids = Ids { calls: ids.calls.map(believed), turn: believed(ids.turn), trace: believed(ids.trace) };
            (ids, *time)
        })
        .collect();
    let mut turns = Turns::default();
    for (ids, _) in &records {
        ids.calls().for_each(|call| turns.add(call, ids.turn));
    }
    // What names several turns by itself does not spoil what stands beside it.
    let mut contested: HashSet<Id> = turns.contested().collect();
    let mut calls = Sets::default();
    for (ids, _) in &records {
        calls.join(ids.calls().filter(|id| !contested.contains(id)));
    }
    let mut of_sets = Turns::default();
    for call in calls.members() {
        of_sets.add(calls.find(call), turns.of(call));
    }
    for call in calls.members() {
        turns.add(call, of_sets.of(calls.find(call)));
    }
    contested.extend(turns.contested());
    let turn_of = |ids: &Ids, turns: &Turns| match ids.turn {
        0 => ids.calls().map(|call| turns.of(call)).find(|turn| *turn != 0 && *turn != SEVERAL).unwrap_or(0),
        turn => turn,
    };
    let by_call: Vec<Id> = records.iter().map(|(ids, _)| turn_of(ids, &turns)).collect();
    for ((ids, _), turn) in records.iter().zip(by_call) {
        turns.add(ids.trace, turn);
    }
    contested.extend(turns.contested());
    // Whole chains. Two turns may meet over calls and traces that name neither: then each goes with the turn that it names.
    let mut whole = Sets::default();
    for (ids, _) in &records {
        whole.join(ids.all().filter(|id| !contested.contains(id)));
    }
    let mut meeting = Turns::default();
    for (ids, _) in &records {
        if ids.turn != 0 {
            meeting.add(whole.find(ids.turn), ids.turn);
        }
    }
    let torn: HashSet<Id> = meeting.contested().collect();
    let roots: Vec<(Id, Id)> = whole
        .members()
        .into_iter()
        .map(|id| match (whole.find(id), turns.of(id)) {
            (root, _) if !torn.contains(&root) => (id, root),
            (_, 0) if calls.has(id) => (id, calls.find(id)),
            (_, 0) => (id, id),
            (_, turn) => (id, turn),
        })
        .collect();
    let mut chains = Chains::default();
    let mut numbers: BTreeMap<Id, u32> = BTreeMap::new();
    for (id, root) in roots {
        let next = numbers.len() as u32;
        chains.of.insert(id, *numbers.entry(root).or_insert(next));
    }
    chains.leads = leads(&records, &chains, numbers.len());
    chains.calls = calls.members().into_iter().map(|id| (id, calls.find(id))).collect();
    chains.calls.retain(|id, _| !contested.contains(id));
    chains.turns = turns.0;
    chains
}

/// What names each chain: the best of its ids.
fn leads(records: &[(Ids, i64)], chains: &Chains, count: usize) -> Vec<Id> {
    let mut best: Vec<Option<(u8, i64, Id)>> = vec![None; count];
    for (ids, time) in records {
        let trace = if ids.turn != 0 { 0 } else { 1 };
        let calls = ids.calls.iter().zip(3..).map(|(id, rank)| (*id, rank));
        for (id, rank) in calls.chain([(ids.trace, trace), (ids.turn, 2)]) {
            let Some(chain) = chains.of.get(&id) else { continue };
            let best = best[*chain as usize].get_or_insert((rank, *time, id));
            *best = (rank, *time, id).min(*best);
        }
    }
    best.into_iter().map(|best| best.map_or(0, |(_, _, id)| id)).collect()
}

/// The one turn that each id is named with.
#[derive(Debug, Default)]
struct Turns(HashMap<Id, Id>);

impl Turns {
    fn add(&mut self, id: Id, turn: Id) {
        if id != 0 && turn != 0 {
            let known = self.0.entry(id).or_insert(turn);
            if *known != turn {
                *known = SEVERAL;
            }
        }
    }

    fn of(&self, id: Id) -> Id {
        self.0.get(&id).copied().unwrap_or(0)
    }

    fn contested(&self) -> impl Iterator<Item = Id> + '_ {
        self.0.iter().filter(|(_, turn)| **turn == SEVERAL).map(|(id, _)| *id)
    }
}

/// Disjoint sets of ids; the root of a set is its smallest id.
#[derive(Debug, Default)]
struct Sets(HashMap<Id, Id>);

impl Sets {
    fn has(&self, id: Id) -> bool {
        self.0.contains_key(&id)
    }

    fn members(&self) -> Vec<Id> {
        let mut members: Vec<Id> = self.0.keys().copied().collect();
        members.sort_unstable();
        members
    }

    fn find(&mut self, id: Id) -> Id {
        let mut root = id;
        while let Some(parent) = self.0.get(&root).filter(|parent| **parent != root) {
            root = *parent;
        }
        let mut step = id;
        while step != root {
            step = self.0.insert(step, root).unwrap_or(root);
        }
        root
    }

    /// Makes one set of all that these are in.
    fn join(&mut self, mut ids: impl Iterator<Item = Id>) {
        let Some(first) = ids.next() else { return };
        self.0.entry(first).or_insert(first);
        let mut root = self.find(first);
        for id in ids {
            self.0.entry(id).or_insert(id);
            let other = self.find(id);
            self.0.insert(root.max(other), root.min(other));
            root = root.min(other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `c` toolcall, `r` rpc, `t` turn, `w` trace; the digit says which.
    fn ids(text: &str) -> Ids {
        let mut ids = Ids::default();
        for word in text.split_whitespace() {
            let kind = match &word[..1] {
                "c" => KeyKind::ToolCall,
                "r" => KeyKind::Rpc,
                "t" => KeyKind::Turn,
                _ => KeyKind::Trace,
            };
            ids.add(kind, id(word));
        }
        ids
    }

    fn id(word: &str) -> Id {
        word.bytes().fold(0, |id, byte| id * 256 + Id::from(byte))
    }

    fn word(id: Id) -> String {
        let bytes: Vec<u8> = id.to_be_bytes().into_iter().filter(|byte| *byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The lead of each record's chain, the same for every order of them.
    fn led(records: &[&str]) -> Vec<String> {
        let mut all: Vec<(Ids, i64)> = records.iter().zip(0..).map(|(text, time)| (ids(text), time)).collect();
        let leads = |all: &[(Ids, i64)]| -> Vec<String> {
            let chains = close(all, |_| false);
            let lead =
                |text: &&str| chains.of(&ids(text)).map_or("-".into(), |chain| word(chains.leads()[chain as usize]));
            records.iter().map(lead).collect()
        };
        let told = leads(&all);
        for turn in 0..all.len() {
            all.rotate_left(1);
            if turn % 2 == 0 {
                all.reverse();
            }
            assert_eq!(leads(&all), told, "another order");
        }
        told
    }

    #[test]
    fn from_the_prompt_to_the_effect_it_is_one_chain_named_by_the_trace_of_the_turn() {
        // Prompt, choice (transcript), verdict (telemetry), span, frames, server's own trace, its effect.
        let records = ["t1", "t1 c1", "t1 c1 w1", "w1", "c1 r1", "r1", "r1 w2", "w2", "t1 c2", "c2 r2"];
        assert_eq!(led(&records), ["w1"; 10]);
        // Without a trace by the turn, without both by the call.
        assert_eq!(led(&["t1", "t1 c1", "c1 r1"]), ["t1"; 3]);
        assert_eq!(led(&["r1", "c1 r1", "r2"]), ["c1", "c1", "r2"]);
        assert_eq!(led(&["r1 w1", "r1", "w1"]), ["w1"; 3]);
    }

    #[test]
    fn what_two_turns_share_joins_neither_of_them() {
        // A trace of the whole session; a call id that is used again in each turn.
        assert_eq!(led(&["t1 w1", "t2 w1", "t1 c1", "t2 c2", "w1", "c1 r1"]), ["t1", "t2", "t1", "t2", "-", "t1"]);
        assert_eq!(led(&["t1 c1", "t2 c1", "c1 r1", "r1"]), ["t1", "t2", "r1", "r1"]);
        // Over a call that names no turn: w1 is of t1, w2 of t2, and what lies between is by itself.
        assert_eq!(led(&["t1 w1", "t2 w2", "r1 w1", "r1 w2", "r1"]), ["w1", "w2", "r1", "r1", "r1"]);
        // What is contested from the outset.
        let all = [(ids("c1 r1"), 0), (ids("c1 r2"), 1)];
        let chains = close(&all, |contested| contested == id("c1"));
        assert_ne!(chains.of(&all[0].0), chains.of(&all[1].0));
    }

    #[test]
    fn an_id_that_others_may_use_names_a_chain_within_its_conversation() {
        let names = |key: &str, is_shared| [None, Some("a"), Some("b")].map(|within| name(key, within, is_shared));
        let long = "turn:0198c0de-0000-7000-8000-000000000007";
        assert_eq!(names(long, false), [(); 3].map(|()| Some(stamp::name("turn", long))));
        for (key, is_shared) in [("turn:1", false), ("toolcall:call_1", false), (long, true), ("trace:4b", true)] {
            let [none, a, b] = names(key, is_shared);
            assert!(none != a && a != b && b != none && a.is_some(), "{key}");
            assert_eq!(none, name(key, Some(""), is_shared), "{key}");
        }
        assert_eq!(name("trace:4b", Some("a"), false).as_deref(), Some("4b"));
        assert_eq!(name("message:m", Some("a"), true), None);
    }

    #[test]
    fn a_call_is_one_whoever_tells_it_unless_two_turns_use_its_id() {
        let all = ["t1 c1", "c1 r1", "r1", "t1 c2"].map(|text| (ids(text), 0));
        let chains = close(&all, |_| false);
        let calls: Vec<_> = all.iter().map(|(ids, _)| chains.call(ids)).collect();
        assert!(calls[0].is_some() && calls[0] == calls[1] && calls[1] == calls[2] && calls[2] != calls[3]);
        let all = ["t1 c1", "t2 c1"].map(|text| (ids(text), 0));
        let chains = close(&all, |_| false);
        assert_ne!(chains.call(&all[0].0), chains.call(&all[1].0));
        assert_eq!(chains.call(&ids("t1")), None);
    }
}
