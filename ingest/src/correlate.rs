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
//! Not here: reading records (`project`), storing links, or which records are in a window.

mod assignment;
mod calls;
mod clock;
mod conversations;
mod downstream;
mod evidence;
mod gateway_server;
mod host_gateway;
mod host_server;
mod identity;
mod likelihood;
mod linker;
mod names;
mod observation;
mod placement;
mod rounds;
mod settings;
mod units;

pub use clock::{Segment, Track};
pub use likelihood::Noise;
pub use observation::{Act, Argument, HttpLine, Observation, Payload, StatementLine};
pub use placement::Rule;
pub use settings::Settings;

use linker::Linker;
use units::Units;
use uuid::Uuid;

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
}

/// Result of a run.
#[derive(Debug)]
pub struct Correlation {
    /// One per observation, in their sorted order.
    pub placements: Vec<Placement>,
    /// Stamp noise of the interval.
    pub noise: Noise,
}

/// Correlates the observations of one interval.
pub fn correlate(observations: &mut [Observation], settings: &Settings) -> Correlation {
    observations.sort_unstable_by(|a, b| (a.time_unix_nano, a.id).cmp(&(b.time_unix_nano, b.id)));
    let observations = &*observations;
    let mut linker = Linker::new(Units::of(observations), settings);
    linker.link_gateway_server();
    linker.link_host_gateway();
    linker.link_gateway_server();
    linker.link_host_server();
    let calls = linker.calls();
    let downstream = linker.link_downstream(&calls);
    let users = linker.prompt_users();
    let mut talk = linker.conversations(&users);
    let placed = linker.place(&calls, &downstream, &mut talk);
    let place = |at: usize, o: &Observation| {
        let place = placed.get(&at);
        Placement {
            id: o.id,
            session: place.and_then(|place| place.session),
            turn: place.and_then(|place| place.turn),
            call: place.and_then(|place| place.call),
            parent: place.and_then(|place| place.parent).map(|parent| observations[parent].id),
            confidence: place.map_or(0.0, |place| place.confidence),
            rule: place.map(|place| place.rule),
            twin_of: place.and_then(|place| place.twin_of).map(|first| observations[first].id),
        }
    };
    let placements = observations.iter().enumerate().map(|(at, o)| place(at, o)).collect();
    Correlation { placements, noise: linker.noise }
}
