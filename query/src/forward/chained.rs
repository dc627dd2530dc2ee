//! What ids were found to hold together in files that were read, for events of these and of later ones: which chain, which
//! tool, and which record completes a call.
//!
//! Invariants
//! - an id keeps the name of its chain, and a call the record that completes it, for as long as it is remembered: what is
//!   sent again says the same, unless two turns or conversations were found to use the id meanwhile, which then tells nothing
//! - a call that was told before its turn was known keeps its chain, and gives it to a turn that has none: what comes later
//!   of either is found under it. Where both have one, records that name both go with the call
//! - remembered are the ids that were seen last, as many as [`Recent`] holds
//!
//! Not here: which ids are believed at all (`known`), what belongs together in one file ([`chains`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use threadline_schemas::ocsf::SessionFacts;
use threadline_schemas::{Record, SourceKind};

use super::known::{Keyed, Recent, Said, carried};
use crate::chains::{self, CALL_KINDS, End, Id, Ids, SEVERAL};

/// What is known of the id of a call, turn or trace.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Link {
    /// The turn that it is named with; 0: none, [`SEVERAL`].
    #[serde(skip_serializing_if = "is_none")]
    turn: Id,
    #[serde(skip_serializing_if = "is_none")]
    chain: Option<String>,
    #[serde(skip_serializing_if = "is_none")]
    tool: Said<String>,
    #[serde(skip_serializing_if = "is_none")]
    server: Said<String>,
    /// The record that completes the call; 0: none yet.
    #[serde(skip_serializing_if = "is_none")]
    completed: Id,
}

fn is_none<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What the records of one file say, while it is read.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// Each combination of ids, and when it occurred first.
    ids: HashMap<Ids, i64>,
    /// The name that an id gives its chain.
    names: HashMap<Id, String>,
    ends: Vec<(Ids, End)>,
    tools: HashSet<(Ids, Option<String>, Option<String>)>,
}

impl Gathered {
    /// Takes what a record says; `place` is its own in the table.
    pub(super) fn add(&mut self, record: &Record, keyed: &Keyed<'_>, place: Id) {
        if keyed.ids.is_empty() {
            return;
        }
        let time = self.ids.entry(keyed.ids).or_insert(record.time_unix_nano);
        *time = record.time_unix_nano.min(*time);
        for (id, key) in &keyed.named {
            if !self.names.contains_key(id) {
                // Its own one leads only where the id itself is not believed.
                let is_own = *id == keyed.ids.calls[CALL_KINDS.len()];
                let name = chains::name(key, record.conversation_id.as_deref(), is_own);
                self.names.extend(name.map(|name| (*id, name)));
            }
        }
        if keyed.ids.calls().next().is_none() {
            return;
        }
        let is_wire = record.source_kind == SourceKind::Wire;
        let is_over = record.outcome.is_some() || record.duration_nano.is_some();
        let end = chains::end(record.kind, record.outcome, is_wire, is_over, record.time_unix_nano, place);
        self.ends.extend(end.map(|end| (keyed.ids, end)));
        if let Some(tool) = carried(&record.tool_name) {
            self.tools.insert((keyed.ids, Some(tool), carried(&record.server_name)));
        }
    }
}

/// See the head of this file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chained(pub(super) Recent<Link>);

impl Chained {
    pub(super) fn begin(&mut self) {
        self.0.forget();
    }

    fn turn(&self, id: Id) -> Id {
        self.0.get(id).map_or(0, |link| link.turn)
    }

    fn chain(&self, id: Id) -> Option<&str> {
        self.0.get(id)?.chain.as_deref()
    }

    /// Learns what a file says.
    pub(super) fn learn(&mut self, file: Gathered, is_contested: impl Fn(Id) -> bool) {
        let Gathered { mut ids, names, ends, tools } = file;
        let own: Vec<(Ids, i64)> = ids.iter().map(|(ids, time)| (*ids, *time)).collect();
        for (own, time) in &own {
            // What earlier files say of them.
            let calls = own.calls.map(|call| Ids { calls: [call, 0, 0, 0], ..Ids::default() });
            for mut known in calls.into_iter().chain([Ids { trace: own.trace, ..Ids::default() }]) {
                known.turn = known.all().map(|id| self.turn(id)).find(|turn| *turn != SEVERAL).unwrap_or(0);
                if known.turn != 0 {
                    ids.entry(known).or_insert(*time);
                }
            }
        }
        let turns: HashSet<Id> = ids.keys().map(|ids| ids.turn).collect();
        let ids: Vec<(Ids, i64)> = ids.into_iter().collect();
        let found = chains::close(&ids, |id| is_contested(id) || self.turn(id) == SEVERAL);
        let calls = found.calls();
        // What has a name already gives it to the rest of its call, then to the rest of its chain: its turn's before others.
        let (mut of_call, mut of_chain) = (HashMap::new(), HashMap::new());
        for (id, chain) in found.members() {
            let Some(name) = self.chain(id) else { continue };
            least(&mut of_chain, chain, (!turns.contains(&id), name.to_string()));
            if let Some(call) = found.call_of(id) {
                least(&mut of_call, call, name.to_string());
            }
        }
        for (id, chain) in found.members() {
            let by_call = found.call_of(id).and_then(|call| of_call.get(&call));
            let by_chain = || of_chain.get(&chain).map(|(_, name)| name);
            let name = by_call.or_else(by_chain).or_else(|| names.get(&found.leads()[chain as usize]));
            let link = self.0.entry(id);
            if link.chain.is_none() {
                link.chain = name.cloned();
            }
        }
        for (id, turn) in found.turns() {
            let link = self.0.entry(id);
            link.turn = if link.turn == 0 || link.turn == turn { turn } else { SEVERAL };
        }
        for (ids, tool, server) in tools {
            for id in found.call(&ids).into_iter().flat_map(|call| calls.get(&call).into_iter().flatten()) {
                let link = self.0.entry(*id);
                link.tool.add(tool.as_ref());
                link.server.add(server.as_ref());
            }
        }
        let mut first: BTreeMap<Id, End> = BTreeMap::new();
        for (ids, end) in ends {
            if let Some(call) = found.call(&ids) {
                let known = first.entry(call).or_insert(end);
                *known = end.min(*known);
            }
        }
        for (call, end) in first {
            let alone = BTreeSet::from([call]);
            let ids = calls.get(&call).unwrap_or(&alone);
            let known = ids.iter().filter_map(|id| Some(self.0.get(*id)?.completed)).find(|place| *place != 0);
            ids.iter().for_each(|id| self.0.entry(*id).completed = known.unwrap_or(end.place));
        }
    }

    /// Fills in what is known of a record's chain and call.
    pub(super) fn tell(&self, ids: &Ids, place: Id, is_contested: impl Fn(Id) -> bool, facts: &mut SessionFacts) {
        let believed = |id: &Id| self.turn(*id) != SEVERAL && !is_contested(*id);
        facts.chain = ids.all().filter(believed).find_map(|id| self.chain(id)).map(str::to_string);
        let calls = || ids.calls().filter(believed).filter_map(|id| self.0.get(id));
        facts.tool = calls().find_map(|link| link.tool.one().cloned());
        facts.server = calls().find_map(|link| link.server.one().cloned());
        let shared = ids.shared().into_iter().filter_map(|id| self.0.get(id));
        facts.completes_call = calls().chain(shared).any(|link| link.completed == place);
    }
}

fn least<K: std::hash::Hash + Eq, V: Ord>(map: &mut HashMap<K, V>, key: K, value: V) {
    match map.entry(key) {
        std::collections::hash_map::Entry::Vacant(entry) => drop(entry.insert(value)),
        std::collections::hash_map::Entry::Occupied(mut entry) if *entry.get() > value => drop(entry.insert(value)),
        std::collections::hash_map::Entry::Occupied(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use threadline_schemas::stamp::{name, stamp};
    use threadline_schemas::{Kind, Outcome};
    use uuid::Uuid;

    use crate::forward::known::{File, KEYS_MAX, Known, place};

    use super::*;

    const CALL: &str = "toolu_0123456789abcdef";
    const TURN: &str = "0198c0de-0000-7000-8000-000000000007";
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn record(kind: Kind, set: impl Fn(&mut Record)) -> Record {
        let mut record = Record::new("t", "own:1", kind);
        record.time_unix_nano = 1_784_900_000_000_000_000;
        set(&mut record);
        stamp(&mut record);
        record
    }

    fn prompt() -> Record {
        record(Kind::Prompt, |r| (r.conversation_id, r.turn_id) = (Some("c".into()), Some(TURN.into())))
    }

    fn chosen() -> Record {
        record(Kind::Selection, |r| {
            (r.conversation_id, r.turn_id, r.tool_call_id) = (Some("c".into()), Some(TURN.into()), Some(CALL.into()));
            (r.tool_name, r.server_name) = (Some("refund".into()), Some("orders".into()));
        })
    }

    fn span() -> Record {
        record(Kind::Call, |r| {
            (r.conversation_id, r.tool_call_id, r.trace_id) = (Some("c".into()), Some(CALL.into()), Some(TRACE.into()));
            r.duration_nano = Some(7);
        })
    }

    /// As the wire saw it.
    fn frame(kind: Kind) -> Record {
        record(kind, |r| {
            (r.source_kind, r.connection_id, r.rpc_id) = (SourceKind::Wire, Some("p".into()), Some("1".into()));
            r.keys = vec![format!("toolcall:{CALL}"), "rpc:p/1".into()];
            r.outcome = (kind == Kind::Result).then_some(Outcome::Ok);
        })
    }

    fn at(file: u128, row: u32) -> Id {
        place(Some(Uuid::from_u128(file << 64)), row)
    }

    fn learn(known: &mut Known, file: u128, records: &[Record]) {
        let mut said = File::default();
        known.begin();
        for (record, row) in records.iter().zip(0..) {
            known.read(record, at(file, row), &mut said);
        }
        known.end(said);
    }

    fn chain(known: &Known, record: &Record) -> String {
        known.of(record, 0).chain.unwrap_or_else(|| "-".into())
    }

    #[test]
    fn the_records_of_a_file_are_one_chain_in_every_order() {
        let mut records = vec![
            frame(Kind::Call),
            frame(Kind::Result),
            span(),
            chosen(),
            prompt(),
            record(Kind::Span, |r| {
                r.trace_id = Some(TRACE.into());
            }),
        ];
        for turn in 0..20 {
            records.rotate_left(1);
            if turn % 4 == 3 {
                records.reverse();
            }
            let mut known = Known::default();
            learn(&mut known, 1, &records);
            let chains: Vec<String> = records.iter().map(|record| chain(&known, record)).collect();
            assert_eq!(chains, vec![TRACE; records.len()]);
            // Who does not name the tool has that of the call; one record of the call is counted, what the wire saw.
            let facts = known.of(&span(), 0);
            assert_eq!((facts.tool.as_deref(), facts.server.as_deref()), (Some("refund"), Some("orders")));
            let counted: Vec<Kind> = records
                .iter()
                .zip(0..)
                .filter(|(record, row)| known.of(record, at(1, *row)).completes_call)
                .map(|(record, _)| record.kind)
                .collect();
            assert_eq!(counted, [Kind::Result]);
        }
    }

    #[test]
    fn what_was_told_keeps_its_chain_and_what_comes_later_is_found_under_it() {
        // The wire is forwarded before the host's telemetry arrives.
        let mut known = Known::default();
        learn(&mut known, 1, &[frame(Kind::Call), frame(Kind::Result)]);
        let told = name("call", &format!("toolcall:{CALL}"));
        assert_eq!(chain(&known, &frame(Kind::Result)), told);
        assert!(known.of(&frame(Kind::Result), at(1, 1)).completes_call);
        learn(&mut known, 2, &[span(), chosen(), prompt()]);
        for record in [frame(Kind::Result), span(), chosen(), prompt()] {
            assert_eq!(chain(&known, &record), told);
        }
        assert!(!known.of(&span(), at(2, 0)).completes_call, "it is counted already");
        // Read again, as a replay or a restart does, nothing changes.
        let told = |known: &Known| {
            let records = [(1, frame(Kind::Call)), (1, frame(Kind::Result)), (2, span()), (2, chosen()), (2, prompt())];
            records.map(|(file, record)| known.of(&record, at(file, 1)))
        };
        assert!(serde_json::to_string(&known.kept()).unwrap().contains("\"turn\":"), "it is known of the call");
        let before = told(&known);
        learn(&mut known, 1, &[frame(Kind::Call), frame(Kind::Result)]);
        assert_eq!(told(&known), before);
        let text = serde_json::to_string(&known.kept()).unwrap();
        assert_eq!(Known::of_kept(serde_json::from_str(&text).unwrap()), Some(known));
    }

    #[test]
    fn two_chains_that_meet_keep_their_names_and_the_call_decides() {
        let mut known = Known::default();
        learn(&mut known, 1, &[prompt()]);
        learn(&mut known, 2, &[frame(Kind::Call)]);
        learn(&mut known, 3, &[chosen()]);
        let (turn, call) = (name("turn", &format!("turn:{TURN}")), name("call", &format!("toolcall:{CALL}")));
        assert_eq!([chain(&known, &prompt()), chain(&known, &frame(Kind::Call))], [turn, call.clone()]);
        assert_eq!(chain(&known, &chosen()), call);
    }

    #[test]
    fn an_id_that_two_conversations_use_joins_nothing_of_them() {
        let other = |kind| {
            record(kind, |r| {
                (r.conversation_id, r.turn_id) = (Some("d".into()), Some(TURN.replace("07", "08")));
                r.tool_call_id = (kind != Kind::Prompt).then(|| CALL.into());
            })
        };
        let mut known = Known::default();
        learn(&mut known, 1, &[chosen(), prompt(), other(Kind::Selection), other(Kind::Prompt), frame(Kind::Call)]);
        assert_eq!(chain(&known, &chosen()), chain(&known, &prompt()));
        assert_eq!(chain(&known, &other(Kind::Selection)), chain(&known, &other(Kind::Prompt)));
        assert_ne!(chain(&known, &prompt()), chain(&known, &other(Kind::Prompt)));
        assert_eq!(chain(&known, &frame(Kind::Call)), name("call", "rpc:p/1"));
        // A short id may be anybody's: it tells in its own conversation.
        let short = |conversation: Option<&str>| {
            record(Kind::Result, |r| {
                (r.conversation_id, r.tool_call_id) = (conversation.map(Into::into), Some("call_1".into()))
            })
        };
        learn(&mut known, 2, &[short(Some("c")), short(Some("d")), short(None)]);
        assert_eq!(chain(&known, &short(None)), "-");
        assert!(
            known.of(&short(Some("c")), at(2, 0)).completes_call
                && known.of(&short(Some("d")), at(2, 1)).completes_call
        );
    }

    #[test]
    fn what_is_in_use_is_remembered_and_no_more_than_that() {
        let mut known = Known::default();
        learn(&mut known, 1, &[chosen(), span()]);
        for file in 0..30u128 {
            let many = (0..1_000).map(|n| {
                record(Kind::Call, |r| {
                    r.keys = vec![format!("rpc:q{file}/{n}"), format!("trace:{:032x}", file * 1_000 + n)];
                })
            });
            learn(&mut known, file + 2, &many.chain([frame(Kind::Call)]).collect::<Vec<_>>());
        }
        assert_eq!(chain(&known, &frame(Kind::Call)), TRACE);
        assert_eq!(chain(&known, &record(Kind::Call, |r| r.keys = vec!["rpc:q0/1".into()])), "-");
        assert!(known.links() <= 2 * (KEYS_MAX + 2_010), "{}", known.links());
    }
}
