//! Which chain and call each record of a session is of, from its facts: by equal ids, by what the linker believes, and for a
//! line on a server's standard error by the one call that was open.
//!
//! Invariants
//! - links weaker than the grade that is asked for join nothing
//! - the same records give the same chains, whatever their order

use std::collections::{BTreeMap, HashMap};

use threadline_schemas::ocsf::SessionFacts;
use threadline_schemas::{Direction, KeyKind, Kind, Record, SourceKind};

use crate::chains::{self, CALL_KINDS, End, Id, Ids};
use crate::closure::NONE;
use crate::fact::{Fact, FactKey, FactView, Facts};
use crate::judged::Judged;
use crate::model::Grade;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Chained {
    /// By position, ascending.
    rows: Vec<Row>,
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
    /// Of the records at these positions, which are one session.
    pub(super) fn of(view: &FactView<'_>, rows: &[u32], judged: Option<&Judged>, floor: Grade) -> Chained {
        let mut names: HashMap<Id, String> = HashMap::new();
        let mut ids: Vec<Ids> = rows.iter().map(|at| own(view, *at)).collect();
        if floor >= Grade::Inferred {
            open_calls(view, rows, &mut ids);
        }
        for (at, ids) in rows.iter().zip(&mut ids) {
            let judgement = judged.and_then(|judged| judged.of(view.at(*at).1.event));
            let grade = judgement.and_then(|judgement| Some(judgement.parent.as_ref()?.grade));
            for text in judgement
                .filter(|_| grade.is_none_or(|grade| grade <= floor && grade < Grade::Ambiguous))
                .into_iter()
                .flat_map(|judgement| [&judgement.call, &judgement.turn])
                .flatten()
            {
                let Some(key) = FactKey::of(text) else { continue };
                names.extend(chains::name(text).map(|name| (Id::from(key.hash), name)));
                ids.add(key.kind, key.hash.into());
            }
        }
        let times = rows.iter().map(|at| view.at(*at).1.time);
        let told: Vec<(Ids, i64)> = ids.iter().copied().zip(times).collect();
        let found = chains::close(&told, |_| false);
        let mut chained = Chained {
            chains: found.leads().iter().map(|lead| Chain { lead: *lead, ..Chain::default() }).collect(),
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
        chain.name = record.keys.iter().find(is_lead).and_then(|key| chains::name(key));
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
