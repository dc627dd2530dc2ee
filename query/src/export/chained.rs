//! Which chain and call each record of a session is of, from its facts: by equal ids, by what the linker believes, and for a
//! line on a server's standard error by the one call that was open.
//!
//! Invariants
//! - links weaker than the grade that is asked for join nothing
//! - the same records give the same chains, whatever their order

use std::collections::{BTreeMap, HashMap, HashSet};

use threadline_schemas::ocsf::SessionFacts;
use threadline_schemas::{Direction, KeyKind, Kind, Record, SourceKind, stamp};
use uuid::Uuid;

use crate::chains::{self, CALL_KINDS, End, Id, Ids};
use crate::closure::NONE;
use crate::fact::{self, Fact, FactKey, FactView, Facts};
use crate::judged::Judged;
use crate::model::Grade;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Chained {
    /// By position, ascending.
    rows: Vec<Row>,
    /// Which they are of.
    conversation: Option<String>,
    chains: Vec<Chain>,
    calls: Vec<Tool>,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    at: u32,
    /// Of `chains`; [`NONE`].
    chain: u32,
    /// Of `calls`; [`NONE`].
    call: u32,
    completes_call: bool,
}

/// What names a chain: the key with this id, which stands in the record at this position.
#[derive(Debug, Default)]
struct Chain {
    lead: Id,
    /// Whether other conversations bear the key, too.
    is_shared: bool,
    at: Option<u32>,
    name: Option<String>,
}

/// Tool and server, where all that name one name the same.
#[derive(Debug, Default)]
struct Tool {
    tool: Option<String>,
    server: Option<String>,
    is_contested: bool,
}

impl Chained {
    /// Of the records at these positions, which are one session. `shared`: hashes of keys that other sessions bear, too.
    pub(super) fn of(
        view: &FactView<'_>,
        rows: &[u32],
        shared: &HashSet<u64>,
        judged: Option<&Judged>,
        floor: Grade,
    ) -> Chained {
        let mut names: HashMap<Id, String> = HashMap::new();
        let mut ids: Vec<Ids> = rows.iter().map(|at| own(view, *at)).collect();
        if floor >= Grade::Inferred {
            open_calls(view, rows, &mut ids);
        }
        if let Some(judged) = judged {
            judge(view, rows, judged, floor, &mut ids, &mut names);
        }
        let times = rows.iter().map(|at| view.at(*at).1.time);
        let told: Vec<(Ids, i64)> = ids.iter().copied().zip(times).collect();
        let found = chains::close(&told, |_| false);
        let is_shared = |lead: Id| u64::try_from(lead).is_ok_and(|hash| shared.contains(&hash));
        let chain = |lead: &Id| Chain { lead: *lead, is_shared: is_shared(*lead), ..Chain::default() };
        let conversations = rows.iter().map(|at| view.at(*at)).filter(|(_, fact)| fact.conversation != 0);
        let mut chained = Chained {
            chains: found.leads().iter().map(chain).collect(),
            conversation: conversations.map(|(block, fact)| block.name(fact.conversation)).min().map(str::to_string),
            ..Chained::default()
        };
        let mut numbers: HashMap<Id, u32> = HashMap::new();
        let mut first: BTreeMap<u32, (End, usize)> = BTreeMap::new();
        for (at, ids) in rows.iter().zip(&ids) {
            let (block, fact) = view.at(*at);
            let chain = found.of(ids).unwrap_or(NONE);
            if let Some(chain) = chained.chains.get_mut(chain as usize) {
                let is_lead = own(view, *at).all().any(|id| id == chain.lead);
                chain.at = chain.at.or(is_lead.then_some(*at));
            }
            let call = found.call(ids).map_or(NONE, |call| {
                let next = numbers.len() as u32;
                *numbers.entry(call).or_insert(next)
            });
            if call != NONE {
                chained.calls.resize_with(numbers.len(), Tool::default);
                chained.calls[call as usize].add(block, fact);
                let is_wire = fact.source_kind == SourceKind::Wire;
                let place = fact.event.as_u128();
                if let Some(end) = chains::end(fact.kind, fact.outcome, is_wire, fact.is_over, fact.time, place) {
                    let known = first.entry(call).or_insert((end, chained.rows.len()));
                    *known = (end, chained.rows.len()).min(*known);
                }
            }
            chained.rows.push(Row { at: *at, chain, call, completes_call: false });
        }
        first.into_values().for_each(|(_, row)| chained.rows[row].completes_call = true);
        for chain in &mut chained.chains {
            chain.name = names.remove(&chain.lead);
        }
        chained.rows.sort_unstable_by_key(|row| row.at);
        chained
    }

    fn row(&self, at: u32) -> Option<&Row> {
        let place = self.rows.binary_search_by_key(&at, |row| row.at).ok()?;
        self.rows.get(place)
    }

    /// The position whose record names the chain of the record at a position, if that is still to be read.
    pub(super) fn unnamed(&self, at: u32) -> Option<u32> {
        let chain = self.chains.get(self.row(at)?.chain as usize)?;
        chain.at.filter(|_| chain.name.is_none())
    }

    /// Takes the name of its chain from the record at a position.
    pub(super) fn name(&mut self, at: u32, record: &Record) {
        let Some(chain) = self.row(at).map(|row| row.chain as usize) else { return };
        let Some(chain) = self.chains.get_mut(chain) else { return };
        let is_lead = |key: &&String| FactKey::of(key).is_some_and(|key| Id::from(key.hash) == chain.lead);
        let lead = record.keys.iter().find(is_lead);
        chain.name = lead.and_then(|key| chains::name(key, self.conversation.as_deref(), chain.is_shared));
    }

    /// Fills in what is known of the record at a position.
    pub(super) fn tell(&self, at: u32, facts: &mut SessionFacts) {
        let Some(row) = self.row(at) else { return };
        facts.chain = self.chains.get(row.chain as usize).and_then(|chain| chain.name.clone());
        if let Some(call) = self.calls.get(row.call as usize).filter(|call| !call.is_contested) {
            (facts.tool, facts.server) = (call.tool.clone(), call.server.clone());
        }
        facts.completes_call = row.completes_call;
    }
}

impl Tool {
    fn add(&mut self, block: &Facts, fact: &Fact) {
        if fact.tool == 0 {
            return;
        }
        for (known, name) in [(&mut self.tool, fact.tool), (&mut self.server, fact.server)] {
            let name = block.name(name);
            self.is_contested |= !name.is_empty() && known.get_or_insert_with(|| name.to_string()) != name;
        }
    }
}

/// What the record itself bears.
fn own(view: &FactView<'_>, at: u32) -> Ids {
    let (block, fact) = view.at(at);
    let mut ids = Ids::default();
    block.keys(fact).iter().for_each(|key| ids.add(key.kind, key.hash.into()));
    ids
}

/// Fills in the call and the turn that the linker believes in, which it names by a record of theirs; what a record bears
/// itself comes first.
fn judge(
    view: &FactView<'_>,
    rows: &[u32],
    judged: &Judged,
    floor: Grade,
    ids: &mut [Ids],
    names: &mut HashMap<Id, String>,
) {
    let by_event: HashMap<Uuid, usize> = rows.iter().zip(0..).map(|(at, row)| (view.at(*at).1.event, row)).collect();
    let borne: Vec<Id> = ids.iter().map(|ids| ids.turn).collect();
    for (at, ids) in rows.iter().zip(ids) {
        let Some(judgement) = judged.of(view.at(*at).1.event) else { continue };
        let is_weak = |grade: Grade| grade > floor || grade == Grade::Ambiguous;
        if judgement.parent.as_ref().is_some_and(|parent| is_weak(parent.grade)) {
            continue;
        }
        let mut named = |level: &str, text: &str| {
            let id = Id::from(fact::hash(text));
            names.entry(id).or_insert_with(|| stamp::name(level, text));
            id
        };
        let bears_call = ids.calls[0] != 0;
        if let Some(call) = &judgement.call {
            ids.calls[CALL_KINDS.len()] = named("call", call);
        }
        if let Some(turn) = judgement.turn.as_deref().filter(|_| ids.turn == 0 && !bears_call) {
            let first = turn.strip_prefix("event:").and_then(|id| by_event.get(&Uuid::parse_str(id).ok()?));
            let borne = first.map_or(0, |row| borne[*row]);
            ids.turn = if borne == 0 { named("turn", turn) } else { borne };
        }
    }
}

/// A line on a server's standard error is of the call that was open when it was written, if there was one.
fn open_calls(view: &FactView<'_>, rows: &[u32], ids: &mut [Ids]) {
    const RPC: usize = 1;
    const _: () = assert!(matches!(CALL_KINDS[RPC], KeyKind::Rpc));
    let mut connections: HashMap<u64, Vec<(i64, u32, usize)>> = HashMap::new();
    for (place, at) in rows.iter().enumerate() {
        let (block, fact) = view.at(*at);
        let is_line = fact.kind == Kind::Log && fact.direction == Some(Direction::ServerStderr);
        let is_frame = matches!(fact.kind, Kind::Call | Kind::Result) && ids[place].calls[RPC] != 0;
        let connection = block.keys(fact).iter().find(|key| key.kind == KeyKind::Connection);
        if let Some(connection) = connection.filter(|_| is_line || is_frame) {
            connections.entry(connection.hash).or_default().push((fact.time, *at, place));
        }
    }
    for mut events in connections.into_values() {
        events.sort_unstable();
        let mut open: Vec<Id> = Vec::new();
        for (_, at, place) in events {
            let rpc = ids[place].calls[RPC];
            match view.at(at).1.kind {
                Kind::Call => open.push(rpc),
                Kind::Result => open.retain(|call| *call != rpc),
                _ if open.len() == 1 => ids[place].calls[RPC] = open[0],
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use threadline_schemas::Outcome;
    use threadline_store::links::LinkRow;

    use super::*;
    use crate::testing::{C2S, S2C, call, id, make};

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    /// The chain, tool and mark of each record, the same for every order of them.
    fn told(records: &[Record], judged: &Judged, floor: Grade) -> Vec<(String, SessionFacts)> {
        let of = |records: &[Record]| {
            let blocks = Facts::of(records).finish();
            let view = FactView::new(vec![&blocks]);
            let rows: Vec<u32> = (0..view.len()).collect();
            let mut chained = Chained::of(&view, &rows, &HashSet::new(), Some(judged), floor);
            for at in rows {
                if let Some(lead) = chained.unnamed(at) {
                    chained.name(lead, &records[lead as usize]);
                }
            }
            let mut told: Vec<(String, SessionFacts)> = records
                .iter()
                .zip(0..)
                .map(|(record, at)| {
                    let mut facts = SessionFacts::default();
                    chained.tell(at, &mut facts);
                    (id(record).to_string(), facts)
                })
                .collect();
            told.sort_by(|a, b| a.0.cmp(&b.0));
            told
        };
        let first = of(records);
        let mut records = records.to_vec();
        for turn in 0..records.len() {
            records.rotate_left(1);
            if turn % 2 == 0 {
                records.reverse();
            }
            assert_eq!(of(&records), first, "another order");
        }
        first
    }

    fn chains(told: &[(String, SessionFacts)]) -> HashMap<&str, &str> {
        told.iter().map(|(id, facts)| (id.as_str(), facts.chain.as_deref().unwrap_or("-"))).collect()
    }

    #[test]
    fn all_that_tells_of_a_call_is_on_the_chain_of_its_prompt() {
        let mut records = call("a", "conv", "run", "toolu_1", 0);
        records[0].turn_id = Some("turn-1".into());
        stamp::stamp(&mut records[0]);
        let line = |id: &str, ms| make(id, Kind::Log, ms).wire("run", Direction::ServerStderr).done();
        records.extend([
            make("prompt", Kind::Prompt, -10).host("conv").turn("turn-1").text("refund").done(),
            make("verdict", Kind::Decision, 5)
                .host("conv")
                .tool("toolu_1", "refund")
                .turn("turn-1")
                .trace(TRACE)
                .done(),
            make("span", Kind::Call, 6).host("conv").trace(TRACE).key(KeyKind::ToolCall, "toolu_1").done(),
            make("effect", Kind::Downstream, 15).server().trace(TRACE).done(),
            line("line", 15),
            line("later", 25),
            make("listing", Kind::ToolList, 40).wire("run", C2S).rpc("5").done(),
            make("next", Kind::Prompt, 50).host("conv").turn("turn-2").text("thanks").done(),
        ]);
        let told = told(&records, &Judged::default(), Grade::Inferred);
        let chains = chains(&told);
        for one in ["prompt", "a-choice", "a-request", "a-response", "a-answer", "verdict", "span", "effect", "line"] {
            assert_eq!(chains[one], TRACE, "{one}");
        }
        assert_eq!(chains["later"], "-");
        assert_eq!(chains["next"], stamp::name("turn", "conversation:conv\0turn:turn-2"));
        assert_eq!(chains["listing"], stamp::name("call", "rpc:run:client/5"), "of its own");
        let counted: Vec<&str> =
            told.iter().filter(|(_, facts)| facts.completes_call).map(|(id, _)| id.as_str()).collect();
        assert_eq!(counted, ["a-response"]);
        let span = told.iter().find(|(id, _)| id == "span").map(|(_, facts)| facts);
        assert_eq!(span.and_then(|facts| facts.tool.as_deref()), Some("refund"));
    }

    #[test]
    fn what_the_linker_believes_joins_at_its_grade_and_what_a_record_bears_comes_first() {
        let prompt = make("prompt", Kind::Prompt, -10).host("conv").turn("turn-1").text("refund").done();
        let choice = make("choice", Kind::Selection, 0).host("conv").turn("turn-1").tool("c", "refund").done();
        let request = make("request", Kind::Call, 5).wire("run", C2S).rpc("1").done();
        let answer = make("answer", Kind::Result, 9).wire("run", S2C).rpc("1").result("done", Outcome::Ok).done();
        let other = make("other", Kind::Call, 5).wire("run", C2S).rpc("2").done();
        let row = |from: &Record, to: &Record, grade: &str| LinkRow {
            from: from.event_id,
            to: Some(to.event_id),
            relation: "execution".into(),
            grade: grade.into(),
            rule: "host-server".into(),
            score: 0.9,
            evidence: None,
            candidates: None,
            session: Some("s".into()),
            turn: Some(format!("event:{}", prompt.event_id)),
            call: Some(format!("event:{}", choice.event_id)),
            linker: "1".into(),
            interval_from: 0,
            interval_to: 9,
            is_final: true,
            known_at_us: 1,
        };
        let rows = vec![
            row(&choice, &prompt, "claimed"),
            row(&request, &choice, "inferred"),
            row(&answer, &request, "inferred"),
            row(&other, &choice, "ambiguous"),
        ];
        let judged = Judged::at(&[std::sync::Arc::new(rows)], i64::MAX, 1);
        let records = [prompt, choice, request, answer, other];
        let believed = told(&records, &judged, Grade::Inferred);
        let turn = stamp::name("turn", "conversation:conv\0turn:turn-1");
        let chains_of = chains(&believed);
        for one in ["prompt", "choice", "request", "answer"] {
            assert_eq!(chains_of[one], turn, "{one}");
        }
        assert_ne!(chains_of["other"], turn);
        let tool = |told: &[(String, SessionFacts)], one: &str| {
            told.iter().find(|(id, _)| id == one).and_then(|(_, facts)| facts.tool.clone())
        };
        assert_eq!(tool(&believed, "answer").as_deref(), Some("refund"));
        let exact = told(&records, &judged, Grade::Matched);
        assert_ne!(chains(&exact)["request"], turn);
        assert_eq!(chains(&exact)["request"], chains(&exact)["answer"]);
        assert_eq!(tool(&exact, "answer"), None);
    }
}
