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

/// Names of sessions, turns and calls: from the host's conversation and who bears it where the host named one, else from the
/// earliest record.
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
                *name = borne(known, o);
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

    /// One user may bear one conversation id in two places; they are two sessions all the same.
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

/// The name of a conversation where it is borne: a conversation id is a claim, and whoever bears it on another workstation or
/// as another user, were it hours later in another window, is in another session. Records that nobody judges join by the key
/// alone, so what follows them is named as they are.
fn borne(known: &Kept, o: &Observation) -> String {
    let place = o.workstation.as_ref().or(o.instance.as_ref());
    if !known.judged || (place.is_none() && o.user.is_none()) {
        return known.session_key.clone();
    }
    let part = |text: Option<&String>| text.map_or("-".to_string(), |text| format!("{}:{text}", text.len()));
    stamp::name("session", &format!("{}/at:{}/by:{}", known.session_key, part(place), part(o.user.as_ref())))
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

#[cfg(test)]
mod tests {
    use super::super::super::{Settings, correlate};
    use super::*;

    /// A prompt and its answer as a profile reads them, with who bears the conversation id.
    fn asked(number: u128, at_s: i64, workstation: &str, user: &str) -> Vec<Observation> {
        let line = |place: u128, act: Act, late: i64| Observation {
            id: Uuid::from_u128(number * 2 + place),
            time_unix_nano: (at_s + late) * 1_000_000_000,
            act,
            clock: format!("host:{workstation}"),
            workstation: Some(workstation.into()),
            instance: Some(format!("{workstation}:app")),
            user: Some(user.into()),
            conversation: Some("c-1".into()),
            text: Some("how many are left".into()),
            ..Observation::default()
        };
        vec![line(0, Act::Prompt, 0), line(1, Act::Answer, 2)]
    }

    /// Names of the sessions of one window that is judged by itself.
    fn named(mut observations: Vec<Observation>, judged: bool) -> BTreeSet<String> {
        let found = correlate(&mut observations, &Settings::default());
        let known = |o: &Observation| (o.id, Kept { session_key: "s-1".into(), judged });
        let kept = observations.iter().map(known).collect();
        Naming::of(&found.placements, &observations, &kept).session.into_values().collect()
    }

    #[test]
    fn a_conversation_id_replayed_in_another_window_is_another_session() {
        let victim = named(asked(1, 0, "nb-1", "ann"), true);
        assert_eq!(victim.len(), 1);
        assert_eq!(named(asked(2, 3_600, "nb-1", "ann"), true), victim, "her own, an hour later");
        for (workstation, user) in [("nb-2", "ann"), ("nb-1", "mallory")] {
            let replayed = named(asked(3, 3_600, workstation, user), true);
            assert!(replayed.len() == 1 && replayed.is_disjoint(&victim), "{workstation} {user}");
        }
        let both = named([asked(4, 0, "nb-1", "ann"), asked(5, 300, "nb-2", "ann")].concat(), true);
        assert!(both.len() > 1 && both.is_superset(&victim), "in one window, too");
        assert_eq!(named(asked(6, 0, "nb-1", "ann"), false), BTreeSet::from(["s-1".to_string()]));
    }
}
