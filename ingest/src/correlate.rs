//! Correlation without shared ids: which observations of hosts, gateways, servers and downstream systems are one act.
//!
//! [`correlate`] is a pure function of a set of observations and the settings. It learns clocks, delays, identities,
//! templates and habits from the observations themselves, solves rivals as an assignment, and says for every
//! observation where it belongs and how sure that is. What cannot be told apart stays apart.
//!
//! Invariants
//! - the result depends on the set of observations, not on their order: they are sorted by (time, id) first
//! - all evidence is a log-likelihood ratio; nothing depends on the names of particular sources
//! - memory is proportional to the observations given; the caller bounds the window
//!
//! Not here: reading records and storing links (`run`, `beside`), or which records are in a window (`windows`).

mod aliases;
mod assignment;
pub mod beside;
mod calls;
mod chain;
mod clock;
mod conversations;
mod downstream;
mod downstream_text;
mod evidence;
mod explain;
mod far;
mod findings;
mod frames;
mod gateway_server;
mod host_gateway;
mod host_server;
mod identity;
mod likelihood;
mod linker;
mod lone;
mod names;
mod observation;
mod placement;
mod project;
mod rounds;
pub mod run;
mod settings;
mod units;
mod windows;

#[cfg(test)]
mod tests;

pub use clock::{Segment, Track};
pub use findings::{Finding, FindingKind};
pub use likelihood::Noise;
pub use observation::{Act, Argument, HttpLine, Observation, Payload, StatementLine};
pub use placement::Rule;
pub use project::project;
pub use settings::Settings;

use std::collections::BTreeMap;

use uuid::Uuid;

use downstream::Downstream;
use explain::Explainer;
use linker::Linker;
use units::Units;

/// Where one observation belongs.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// The observation.
    pub id: Uuid,
    /// Session, numbered within the result.
    pub session: Option<usize>,
    /// Turn within the session.
    pub turn: Option<usize>,
    /// Call, numbered within the result.
    pub call: Option<usize>,
    /// The observation that caused it.
    pub parent: Option<Uuid>,
    /// How sure the parent is, 0 to 1.
    pub confidence: f64,
    /// What judged it.
    pub rule: Option<Rule>,
    /// The line of which this is a second delivery.
    pub twin_of: Option<Uuid>,
    /// Whether the session is named by the host's conversation id.
    pub by_conversation_id: bool,
    /// Pieces of the score, natural logs.
    pub evidence: Vec<(&'static str, f64)>,
    /// Rival parents with their scores, best first.
    pub rivals: Vec<(Uuid, f64)>,
    /// Whether the first of the rivals would be the parent, were it not less likely than not.
    pub open: bool,
}

/// What was learned about one clock.
#[derive(Debug, Clone, PartialEq)]
pub struct ClockModel {
    /// Whose clock, as the observations name it.
    pub clock: String,
    /// Its offsets against the reference.
    pub track: Track,
    /// Spread of true pairs around it, seconds, where it was learned.
    pub spread: Option<f64>,
}

/// Result of a run.
#[derive(Debug)]
pub struct Correlation {
    /// One per observation, in their sorted order.
    pub placements: Vec<Placement>,
    /// Stamp noise of the interval.
    pub noise: Noise,
    /// Clocks, by name.
    pub clocks: Vec<ClockModel>,
    /// Ids that stopped joining, and servers that say nothing.
    pub findings: Vec<Finding>,
}

/// Correlates the observations of one interval.
pub fn correlate(observations: &mut [Observation], settings: &Settings) -> Correlation {
    sort(observations);
    let observations = &*observations;
    let mut linker = Linker::new(Units::of(observations), settings);
    linker.link_chains();
    linker.link_gateway_server();
    linker.link_host_gateway();
    linker.link_gateway_server();
    linker.link_host_server();
    let calls = linker.calls();
    let downstream = linker.link_downstream(&calls);
    let users = linker.prompt_users();
    let mut talk = linker.conversations(&users);
    let mut placed = linker.place(&calls, &downstream, &mut talk);
    let frames = linker.link_frames();
    linker.place_frames(&frames, &mut placed);
    let explainer = Explainer::new(&linker, &calls, &downstream, &frames);
    let place = |at: usize, o: &Observation| {
        let place = placed.get(&at);
        let why = explainer.of(at, place);
        let open = place.and_then(|place| place.open).map(|open| observations[open].id);
        let mut rivals: Vec<(Uuid, f64)> =
            why.rivals.into_iter().map(|(rival, score)| (observations[rival].id, score)).collect();
        if let (Some(open), Some(place)) = (open, place) {
            rivals.retain(|(rival, _)| *rival != open);
            let odds = place.confidence.clamp(1e-6, 1.0 - 1e-6);
            rivals.insert(0, (open, (odds / (1.0 - odds)).ln()));
        }
        Placement {
            id: o.id,
            session: place.and_then(|place| place.session),
            turn: place.and_then(|place| place.turn),
            call: place.and_then(|place| place.call),
            parent: place.and_then(|place| place.parent).map(|parent| observations[parent].id),
            confidence: place.map_or(0.0, |place| place.confidence),
            rule: place.map(|place| place.rule),
            twin_of: place.and_then(|place| place.twin_of).map(|first| observations[first].id),
            by_conversation_id: place
                .and_then(|place| place.session)
                .is_some_and(|s| talk.by_id.get(&s) == Some(&true)),
            evidence: why.evidence,
            rivals,
            open: open.is_some(),
        }
    };
    let placements = observations.iter().enumerate().map(|(at, o)| place(at, o)).collect();
    Correlation {
        placements,
        noise: linker.noise,
        clocks: clocks(&linker, &downstream),
        findings: findings::findings(&linker),
    }
}

/// By time and id. Observations are large: their places are sorted, and each is moved once.
fn sort(observations: &mut [Observation]) {
    let mut from: Vec<usize> = (0..observations.len()).collect();
    from.sort_unstable_by_key(|at| (observations[*at].time_unix_nano, observations[*at].id));
    for start in 0..from.len() {
        let mut at = start;
        while from[at] != start {
            let next = std::mem::replace(&mut from[at], at);
            observations.swap(at, next);
            at = next;
        }
        from[at] = at;
    }
}

/// A track with what was taken off its clock before: `far` has (own time from which on, seconds).
fn with_far(track: &Track, far: &[(f64, f64)]) -> Track {
    if far.is_empty() {
        return track.clone();
    }
    let mut segments = Vec::new();
    for (place, (from, ahead)) in far.iter().enumerate() {
        let from = from - ahead;
        let until = far.get(place + 1).map_or(f64::INFINITY, |(own, ahead)| own - ahead);
        let inside = track.segments.iter().filter(|segment| segment.from > from && segment.from < until);
        let first = Segment { from, ..track.at(from) };
        segments.extend([&first].into_iter().chain(inside).map(|s| Segment { offset: s.offset + ahead, ..*s }));
    }
    Track { segments }
}

fn clocks(linker: &Linker<'_>, downstream: &Downstream<'_>) -> Vec<ClockModel> {
    let mut names: BTreeMap<u32, &str> = BTreeMap::new();
    linker.units.seen.iter().for_each(|s| {
        names.insert(s.clock, &s.o.clock);
    });
    let tracks = [
        (&linker.gateway_tracks, None),
        (&linker.server_tracks, Some(&linker.server_spread)),
        (&linker.host_tracks, Some(&linker.host_spread)),
        (&downstream.tracks, None),
    ];
    let mut models = Vec::new();
    for (tracks, spreads) in tracks {
        for (clock, track) in tracks {
            let spread = spreads.and_then(|spreads| spreads.get(clock).copied());
            let track = with_far(track, linker.units.far.get(clock).map_or(&[], Vec::as_slice));
            models.push(ClockModel { clock: names.get(clock).map_or("", |name| name).into(), track, spread });
        }
    }
    models.sort_by(|a, b| a.clock.cmp(&b.clock));
    models
}
