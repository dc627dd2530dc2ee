//! Which turn and which call each record belongs to.
//!
//! Turn: the record's own turn id; else the turn of its trace, when that trace knows one only; else its
//! nearest ancestor's. A session without any turn id takes each trace as a turn. What says nothing is
//! shown in the turn that was running by the clock, and marked as placed by time.
//!
//! Call: the choice (or first call) up the chain of links; choices nest, so each is a call of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use threadline_schemas::{KeyKind, Kind, Record, stamp};

use crate::links::{Index, Links};
use crate::model::Grade;

/// Records by turn and call, as places in the session's slice.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    /// In order of time.
    pub(crate) turns: Vec<TurnGroup>,
    /// In order of time.
    pub(crate) calls: Vec<CallGroup>,
    /// Turn of each record by link; `None` when only the clock says so.
    pub(crate) linked_turn: Vec<Option<usize>>,
    /// Call of each record.
    pub(crate) call_of: Vec<Option<usize>>,
}

/// One turn.
#[derive(Debug)]
pub(crate) struct TurnGroup {
    pub(crate) id: String,
    pub(crate) prompt: Option<usize>,
    /// In order.
    pub(crate) records: Vec<usize>,
}

/// One call.
#[derive(Debug)]
pub(crate) struct CallGroup {
    pub(crate) id: String,
    /// The choice, or what was first.
    pub(crate) root: usize,
    pub(crate) turn: usize,
    /// In order.
    pub(crate) records: Vec<usize>,
}

/// Groups sorted records by their links.
pub(crate) fn assemble(records: &[Record], links: &Links) -> Assembly {
    let index = Index::of(records);
    let mut assembly = Assembly { call_of: vec![None; records.len()], ..Assembly::default() };
    let texts = turn_texts(&index, links);
    turns(&index, &texts, &mut assembly);
    calls(&index, links, &mut assembly);
    assembly
}

/// For each record the key text of its turn.
fn turn_texts(index: &Index<'_>, links: &Links) -> Vec<Option<String>> {
    let count = index.records.len();
    let any_turn = index.has_turns();
    let own = |at: usize| -> Option<String> {
        if let Some(judgement) = links.judgement(at).filter(|judgement| judgement.session.is_some()) {
            return judgement.turn.as_deref().map(str::to_string);
        }
        if let Some(turn) = index.key(at, KeyKind::Turn) {
            return Some(turn.into());
        }
        let trace = index.key(at, KeyKind::Trace);
        if let Some(turn) = trace.and_then(|trace| index.turn_of_trace(trace)) {
            return Some(turn.into());
        }
        if index.records[at].kind == Kind::Prompt {
            return Some(format!("event:{}", index.records[at].event_id));
        }
        trace.filter(|_| !any_turn).map(str::to_string)
    };
    let mut texts: Vec<Option<String>> = (0..count).map(own).collect();
    for at in 0..count {
        let judged = links.judgement(at).is_some_and(|judgement| judgement.session.is_some());
        if texts[at].is_none() && !judged {
            texts[at] = links.ancestors(at).find_map(|edge| texts[edge.to].clone());
        }
    }
    texts
}

fn turns(index: &Index<'_>, texts: &[Option<String>], assembly: &mut Assembly) {
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, text) in texts.iter().enumerate() {
        if let Some(text) = text {
            groups.entry(text).or_default().push(at);
        }
    }
    let mut ordered: Vec<(usize, &str, Option<usize>)> = groups
        .iter()
        .map(|(text, members)| {
            let alone = || members.iter().copied().find(|at| index.records[*at].kind == Kind::Prompt);
            let prompt = index.prompt(text).or_else(alone);
            // Records are sorted, so the place tells the time.
            (prompt.unwrap_or(members[0]), *text, prompt)
        })
        .collect();
    ordered.sort_unstable();
    let mut turns: Vec<TurnGroup> = ordered
        .iter()
        .map(|(_, text, prompt)| TurnGroup {
            id: stamp::name("turn", text),
            prompt: *prompt,
            records: groups[text].clone(),
        })
        .collect();
    let mut linked = vec![None; index.records.len()];
    for (turn, group) in turns.iter().enumerate() {
        group.records.iter().for_each(|at| linked[*at] = Some(turn));
    }
    let mut before = Vec::new();
    for at in (0..index.records.len()).filter(|at| linked[*at].is_none()) {
        match ordered.partition_point(|(start, ..)| *start <= at) {
            0 => before.push(at),
            after => turns[after - 1].records.push(at),
        }
    }
    turns.iter_mut().for_each(|turn| turn.records.sort_unstable());
    if !before.is_empty() {
        let id = stamp::name("turn", &format!("before:{}", index.records[before[0]].session_key));
        turns.insert(0, TurnGroup { id, prompt: None, records: before });
        linked.iter_mut().flatten().for_each(|turn| *turn += 1);
    }
    assembly.turns = turns;
    assembly.linked_turn = linked;
}

/// Rules whose links hold one call together even where they are nobody's parent.
const SAME_CALL: &[&str] =
    &["response", "nested-span", "tool-call-id", "request-state", "traceparent", "client-span", "frame"];

fn calls(index: &Index<'_>, links: &Links, assembly: &mut Assembly) {
    let judged = |at: usize| links.judgement(at).filter(|judgement| judgement.session.is_some());
    let root_of = |at: usize| match judged(at) {
        Some(judgement) => judgement.call.is_some().then_some(at),
        None => root(index, links, at),
    };
    let roots: Vec<Option<usize>> = (0..index.records.len()).map(root_of).collect();
    let mut same: Vec<usize> = (0..roots.len()).collect();
    let mut of_key: HashMap<&str, usize> = HashMap::new();
    for root in roots.iter().copied().flatten() {
        if let Some(judgement) = judged(root) {
            if let Some(call) = &judgement.call {
                let first = *of_key.entry(call).or_insert(root);
                merge(&mut same, first, root);
            }
            continue;
        }
        // Answers and verdicts whose choice is missing still share the id, unless it is one of several calls.
        if let Some(key) = index.key(root, KeyKind::ToolCall).filter(|key| index.choices(key).len() < 2) {
            let first = *of_key.entry(key).or_insert_with(|| index.choices(key).first().copied().unwrap_or(root));
            merge(&mut same, first, root);
        }
    }
    let strong = links.edges.iter().filter(|edge| edge.grade < Grade::Ambiguous && SAME_CALL.contains(&edge.rule));
    for edge in strong {
        if judged(edge.from).is_some() && judged(edge.to).is_some() {
            continue;
        }
        if let (Some(a), Some(b)) = (roots[edge.from], roots[edge.to]) {
            merge(&mut same, a, b);
        }
    }
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, root) in roots.iter().enumerate() {
        if let Some(root) = root {
            groups.entry(find(&mut same, *root)).or_default().push(at);
        }
    }
    let mut turn_of = vec![0; index.records.len()];
    for (turn, group) in assembly.turns.iter().enumerate() {
        group.records.iter().for_each(|at| turn_of[*at] = turn);
    }
    let mut known = BTreeSet::new();
    for (root, records) in groups {
        let record = &index.records[root];
        let unique = || stamp::name("call", &format!("event:{}", record.event_id));
        let id = record.call_key.clone().filter(|id| !known.contains(id)).unwrap_or_else(unique);
        known.insert(id.clone());
        records.iter().for_each(|at| assembly.call_of[*at] = Some(assembly.calls.len()));
        // A call is shown in one turn: its root's, by link before by clock.
        let turn =
            records.iter().find_map(|at| assembly.linked_turn[*at]).filter(|_| assembly.linked_turn[root].is_none());
        assembly.calls.push(CallGroup { id, root, turn: turn.unwrap_or(turn_of[root]), records });
    }
    assembly.calls.sort_by_key(|call| call.records.first().copied());
    for (place, call) in assembly.calls.iter().enumerate() {
        call.records.iter().for_each(|at| assembly.call_of[*at] = Some(place));
    }
}

fn find(same: &mut [usize], mut at: usize) -> usize {
    while same[at] != at {
        same[at] = same[same[at]];
        at = same[at];
    }
    at
}

/// The earlier root stands for both; records are sorted.
fn merge(same: &mut [usize], a: usize, b: usize) {
    let (a, b) = (find(same, a), find(same, b));
    same[a.max(b)] = a.min(b);
}

/// The record that stands for the call which `at` belongs to, if it belongs to one.
fn root(index: &Index<'_>, links: &Links, at: usize) -> Option<usize> {
    let is_call = |at: usize| matches!(index.records[at].kind, Kind::Selection | Kind::Call);
    let mut root = is_call(at).then_some(at);
    let mut top = at;
    if index.records[at].kind != Kind::Selection {
        for edge in links.ancestors(at) {
            if edge.relation == "prompt" {
                break;
            }
            top = edge.to;
            if is_call(top) {
                root = Some(top);
            }
            if index.records[top].kind == Kind::Selection {
                break;
            }
        }
    }
    let stray = matches!(index.records[top].kind, Kind::Result | Kind::Decision | Kind::Approval)
        && (index.records[top].tool_call_id.is_some() || index.records[top].kind == Kind::Result);
    root.or_else(|| stray.then_some(top))
}
