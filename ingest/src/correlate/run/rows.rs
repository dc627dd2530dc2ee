//! Placements as rows of the table `links`: names of sessions, turns and calls, grades, and what has to be written anew.
//!
//! Invariants
//! - an opinion that did not change is not written again; one that is gone is withdrawn, never edited
//! - a parent that is less likely than not is a candidate, not a parent
//!
//! Not here: reading records, and when to judge (`run`, `beside`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use threadline_schemas::stamp;
use threadline_store::links::LinkRow;
use uuid::Uuid;

use super::super::Placement;
use super::super::observation::{Act, Observation};
use super::super::placement::Rule;
use super::super::windows::{MARGIN_NANOS, Window};
use super::Kept;

/// Names of sessions, turns and calls: from the host's conversation where it named one, else from the earliest record.
struct Naming<'n> {
    session: BTreeMap<usize, String>,
    turn: BTreeMap<(usize, usize), Uuid>,
    call: BTreeMap<(usize, usize), Uuid>,
    observations: &'n [Observation],
}

impl<'n> Naming<'n> {
    fn of(placements: &[Placement], observations: &'n [Observation], kept: &HashMap<Uuid, Kept>) -> Naming<'n> {
        let mut naming =
            Naming { session: BTreeMap::new(), turn: BTreeMap::new(), call: BTreeMap::new(), observations };
        for (placement, o) in placements.iter().zip(observations) {
            let Some(session) = placement.session else { continue };
            let own = || stamp::name("session", &format!("event:{}", o.id));
            let name = naming.session.entry(session).or_insert_with(own);
            if placement.by_conversation_id
                && o.conversation.is_some()
                && let Some(known) = kept.get(&o.id)
            {
                name.clone_from(&known.session_key);
            }
            if let Some(turn) = placement.turn {
                let first = naming.turn.entry((session, turn)).or_insert(o.id);
                if o.act == Act::Prompt {
                    *first = o.id;
                }
            }
            if let Some(call) = placement.call {
                naming.call.entry((session, call)).or_insert(o.id);
            }
        }
        naming.tell_apart();
        naming
    }

    /// Two users may bear one conversation id; they are two sessions all the same.
    fn tell_apart(&mut self) {
        let mut taken: BTreeSet<String> = BTreeSet::new();
        for (session, name) in &mut self.session {
            if !taken.insert(name.clone()) {
                let first = self.turn.range((*session, 0)..).next().map(|(_, id)| *id).unwrap_or_default();
                *name = stamp::name("session", &format!("{name}/event:{first}"));
                taken.insert(name.clone());
            }
        }
    }
}

/// Who judged, when, and whether the interval was closed then.
#[derive(Debug, Clone)]
pub(super) struct Judge {
    pub(super) linker: String,
    pub(super) known_at_us: i64,
    pub(super) is_final: bool,
}

/// The opinions about the records of a window.
pub(super) fn rows(
    placements: &[Placement],
    observations: &[Observation],
    kept: &HashMap<Uuid, Kept>,
    window: Window,
    judge: &Judge,
) -> Vec<LinkRow> {
    let naming = Naming::of(placements, observations, kept);
    let mut found = Vec::new();
    for (placement, o) in placements.iter().zip(naming.observations) {
        let judged = kept.get(&o.id).is_some_and(|known| known.judged);
        if !judged || !(window.from..window.to).contains(&o.time_unix_nano) {
            continue;
        }
        let Some((relation, grade)) = stated(placement, o) else { continue };
        let session = placement.session;
        let event = |id: &Uuid| format!("event:{id}");
        let of =
            |names: &BTreeMap<(usize, usize), Uuid>, number: Option<usize>| names.get(&(session?, number?)).map(event);
        found.push(LinkRow {
            from: o.id,
            to: placement.twin_of.or(placement.parent),
            relation: relation.into(),
            grade: grade.into(),
            rule: placement.rule.map_or("none", Rule::as_str).into(),
            score: (placement.confidence * 1e6).round() / 1e6,
            evidence: evidence(placement),
            candidates: candidates(placement),
            session: session.and_then(|session| naming.session.get(&session).cloned()),
            turn: of(&naming.turn, placement.turn),
            call: of(&naming.call, placement.call),
            linker: judge.linker.clone(),
            interval_from: window.read_from,
            interval_to: window.read_to,
            is_final: judge.is_final,
            known_at_us: judge.known_at_us,
        });
        if placement.open && placement.session.is_some() && placement.twin_of.is_none() {
            let open = found.last().cloned();
            found.extend(open.map(|row| LinkRow {
                to: None,
                relation: "candidate".into(),
                grade: "ambiguous".into(),
                ..row
            }));
        }
        // A second delivery stands below its original's parent.
        if placement.twin_of.is_some()
            && let (Some(parent), Some(row)) = (placement.parent, found.last().cloned())
        {
            found.push(LinkRow { to: Some(parent), relation: relation_of(o.act, None).into(), ..row });
        }
    }
    found
}

/// Relation and grade of what is believed; `None` where nothing is.
fn stated(placement: &Placement, o: &Observation) -> Option<(&'static str, &'static str)> {
    if placement.twin_of.is_some() {
        return Some(("duplicate_of", "matched"));
    }
    if placement.session.is_none() && placement.parent.is_none() {
        return (!placement.rivals.is_empty()).then_some(("candidate", "ambiguous"));
    }
    let relation = if placement.parent.is_some() { relation_of(o.act, placement.rule) } else { "conversation" };
    let grade = match placement.rule {
        Some(Rule::RequestState) => "matched",
        Some(Rule::Conversation) if placement.by_conversation_id => "claimed",
        _ => "inferred",
    };
    Some((relation, grade))
}

fn relation_of(act: Act, rule: Option<Rule>) -> &'static str {
    match (act, rule) {
        (_, Some(Rule::RequestState)) => "round",
        (Act::Prompt, _) | (Act::Opening, _) => "conversation",
        (Act::Choice | Act::Answer, _) => "prompt",
        (Act::Request | Act::Execution | Act::Called, _) => "execution",
        (Act::Response | Act::Outcome | Act::Returned, _) => "result",
        (Act::Http | Act::Statement, _) => "downstream",
    }
}

fn evidence(placement: &Placement) -> Option<String> {
    let weight = |weight: f64| (weight * 1000.0).round() / 1000.0;
    let parts: Vec<serde_json::Value> = placement
        .evidence
        .iter()
        .map(|(what, log)| serde_json::json!({ "what": what, "weight": weight(*log) }))
        .collect();
    (!parts.is_empty()).then(|| serde_json::Value::Array(parts).to_string())
}

fn candidates(placement: &Placement) -> Option<String> {
    let score = |score: f64| (score * 1000.0).round() / 1000.0;
    let rivals: Vec<serde_json::Value> = placement
        .rivals
        .iter()
        .map(|(id, log)| serde_json::json!({ "event": id.to_string(), "score": score(*log) }))
        .collect();
    (!rivals.is_empty()).then(|| serde_json::Value::Array(rivals).to_string())
}

/// Whether a row about a clock or a finding is of an interval that was cut otherwise: it meets ours in more than a margin.
fn was_learned_here(row: &LinkRow, window: Window) -> bool {
    let met = row.interval_to.min(window.to).saturating_sub(row.interval_from.max(window.from));
    matches!(row.relation.as_str(), "clock" | "finding") && met > MARGIN_NANOS
}

/// What has to be written: opinions that changed, and withdrawals of those that are gone. `times` are those of all records
/// that were read.
pub(super) fn news(
    rows: Vec<LinkRow>,
    standing: &HashMap<Uuid, Vec<&LinkRow>>,
    times: &HashMap<Uuid, i64>,
    window: Window,
    judge: &Judge,
) -> Vec<LinkRow> {
    let same = |a: &LinkRow, b: &LinkRow| {
        let bare = |row: &LinkRow| LinkRow { known_at_us: 0, interval_from: 0, interval_to: 0, ..row.clone() };
        bare(a) == bare(b)
    };
    let mut by_record: BTreeMap<Uuid, Vec<LinkRow>> = BTreeMap::new();
    rows.into_iter().for_each(|row| by_record.entry(row.from).or_default().push(row));
    let mut fresh = Vec::new();
    let gone: Vec<LinkRow> = standing
        .iter()
        .filter(|(from, rows)| {
            let is_ours = match times.get(*from) {
                Some(time) => (window.from..window.to).contains(time),
                // Not read at all: it is gone, or the interval that it was judged in is another.
                None => {
                    rows.iter().all(|row| row.interval_from >= window.read_from && row.interval_to <= window.read_to)
                        || (judge.is_final && rows.iter().all(|row| was_learned_here(row, window)))
                }
            };
            is_ours && !by_record.contains_key(from) && rows.iter().any(|row| row.relation != "none")
        })
        .map(|(from, rows)| LinkRow {
            from: *from,
            to: None,
            relation: "none".into(),
            grade: "missing".into(),
            rule: "withdrawn".into(),
            score: 0.0,
            evidence: None,
            candidates: None,
            session: None,
            turn: None,
            call: None,
            known_at_us: judge.known_at_us,
            is_final: judge.is_final,
            ..rows[0].clone()
        })
        .collect();
    for (from, rows) in by_record {
        let known = standing.get(&from).map_or(&[][..], Vec::as_slice);
        let unchanged = known.len() == rows.len() && rows.iter().all(|row| known.iter().any(|old| same(row, old)));
        if !unchanged {
            fresh.extend(rows);
        }
    }
    fresh.extend(gone);
    fresh.sort_by(|a, b| (a.from, &a.relation).cmp(&(b.from, &b.relation)));
    fresh
}
