//! Host calls and executions that no gateway line stands between, because it is lost or there is no gateway: matched
//! directly, with the clocks known by then.
//!
//! Clocks that no gateway call has placed are placed through each other: a server against the hosts that are known, a host
//! against the servers that are. Where nothing is known the busiest server is the frame of reference; clocks that no call
//! connects with it have frames of their own, which is enough to compare them with each other.

use std::collections::{BTreeMap, HashMap};

use super::assignment::{Candidate, assign, ranked};
use super::clock::{Fit, Point, Track};
use super::evidence::Evidence;
use super::gateway_server::{SURE, weigh};
use super::likelihood::robust;
use super::linker::{Linker, Spread};
use super::lone::{lone, unrest, widened};
use super::names::{NONE, Name};

/// No link scores below this (natural log).
const NO_PARTNER: f64 = 4.0;
/// Two clocks known by way of a third are never surer than this, seconds.
const CLOCKS_FLOOR: f64 = 0.012;
/// Weight of the pairs that a clock needs to be placed by them alone.
const SUPPORT: f64 = 2.0;
const ROUNDS: usize = 3;
/// Each pass reaches one clock further, or begins with a clock that none is compared with.
const CLOCK_PASSES: usize = 64;

impl Linker<'_> {
    /// Links what is left of host calls to what is left of executions.
    pub(super) fn link_host_server(&mut self) {
        let pairs = self.host_server_pairs();
        self.learn_from_lone_pairs(&pairs);
        self.place_clocks(&pairs);
        for round in 1..=ROUNDS {
            let scored = pairs.iter().filter_map(|(h, server)| {
                let score = self.host_server_score(*h, *server, &mut Evidence::Sum(0.0))?;
                Some(Candidate { row: *h, column: *server, score })
            });
            let candidates: Vec<Candidate> = scored.collect();
            self.host_server = assign(&candidates, NO_PARTNER, 1.0);
            self.direct_rivals = ranked(&candidates, true, NO_PARTNER);
            // Where gateways are, they have taught more than is left here.
            if !self.gateway_server.is_empty() || round == ROUNDS {
                break;
            }
            self.learn_from_host_server();
        }
    }

    /// Offsets, spreads and overhead from confident links.
    fn learn_from_host_server(&mut self) {
        let mut overheads = Vec::new();
        let mut residuals: BTreeMap<Name, Vec<(f64, f64)>> = BTreeMap::new();
        for (h, m) in self.host_server.iter().filter(|(_, m)| m.confidence >= SURE) {
            let (host, s) = (self.host(*h), self.execution(m.column));
            let (Some(start), Some(at)) = (host.start, self.server_start(m.column)) else { continue };
            residuals.entry(self.seen(host.base).clock).or_default().push((at, start - at));
            overheads.extend(host.end.map(|end| end - start - s.duration));
        }
        self.learn_host_spreads(&residuals);
        if !overheads.is_empty() {
            let (mean, sd) = robust(overheads, self.settings.spread_floor);
            self.direct_overhead = Spread { mean, sd };
        }
    }

    fn host_server_pairs(&self) -> Vec<(u32, u32)> {
        let mut left: HashMap<(Name, Name), Vec<u32>> = HashMap::new();
        for server in (0..self.units.executions.len() as u32).filter(|server| !self.server_gateway.contains_key(server))
        {
            let s = self.execution(server);
            let mut digests = s.arguments.clone();
            digests.dedup();
            digests.into_iter().for_each(|digest| left.entry((s.tool, digest)).or_default().push(server));
        }
        let mut pairs = Vec::new();
        for (h, host) in self.units.hosts.iter().enumerate() {
            let Some(choice) = host.choice.map(|choice| self.seen(choice)) else { continue };
            let gateway = self.host_gateway.get(&(h as u32)).map(|m| m.column);
            if gateway.is_some_and(|g| self.gateway_server.contains_key(&g) || self.gateway(g).denied) {
                continue;
            }
            let mut near: Vec<u32> = Vec::new();
            for digest in &choice.arguments {
                near.extend(left.get(&(choice.tool, *digest)).into_iter().flatten());
            }
            near.sort_unstable();
            near.dedup();
            near.retain(|server| choice.server == NONE || choice.server == self.execution(*server).server);
            pairs.extend(near.into_iter().map(|server| (h as u32, server)));
        }
        pairs
    }

    /// How much longer a call is than its execution, as its host sees it, where no gateway says so.
    fn learn_from_lone_pairs(&mut self, pairs: &[(u32, u32)]) {
        let Spread { mean, sd } = self.host_overhead;
        let before = Spread { mean: mean + self.gateway_overhead.mean, sd: sd.hypot(self.gateway_overhead.sd) };
        self.direct_overhead = before;
        if !self.gateway_server.is_empty() {
            return;
        }
        let mut overheads = Vec::new();
        let mut points: BTreeMap<Name, Vec<(f64, f64)>> = BTreeMap::new();
        for (h, server) in lone(pairs) {
            let (host, s) = (self.host(h), self.execution(server));
            let (Some(start), Some(end)) = (host.start, host.end) else { continue };
            overheads.push(end - start - s.duration);
            points.entry(self.seen(host.base).clock).or_default().push((start, start - (s.t - s.duration)));
        }
        self.direct_overhead = widened(overheads, before);
        if let Some(unrest) = unrest(points) {
            self.host_scale = self.host_scale.max(unrest.min(self.settings.scale_most));
        }
    }

    /// Tracks of the clocks that have none, through those that have.
    fn place_clocks(&mut self, pairs: &[(u32, u32)]) {
        let timed = |(h, server): &(u32, u32)| {
            let (host, s) = (self.host(*h), self.execution(*server));
            let (start, began) = (host.start?, s.t - s.duration);
            if (start - began).abs() > self.noise.window {
                return None;
            }
            let Spread { mean, sd } = self.direct_overhead;
            let longer = host.end.map_or(0.0, |end| self.noise.ratio(end - start - s.duration - mean, sd));
            Some((*h, *server, longer.clamp(-6.0, 6.0).exp()))
        };
        let weighed = weigh(pairs.iter().filter_map(timed).collect(), 2.0);
        for _ in 0..CLOCK_PASSES {
            let (mut hosts, mut servers): (BTreeMap<Name, Vec<Point>>, BTreeMap<Name, Vec<Point>>) = Default::default();
            let mut unreached: BTreeMap<Name, f64> = BTreeMap::new();
            for (h, server, weight) in &weighed {
                let (host, s) = (self.host(*h), self.execution(*server));
                let (own, other) = (self.seen(host.base).clock, s.clock);
                let Some(start) = host.start else { continue };
                let began = s.t - s.duration;
                match (self.host_time(own, start), self.server_start(*server)) {
                    (None, Some(at)) => {
                        hosts.entry(own).or_default().push(Point { at, offset: start - at, weight: *weight });
                    }
                    (Some(at), None) => {
                        servers.entry(other).or_default().push(Point { at, offset: began - at, weight: *weight });
                    }
                    (None, None) => *unreached.entry(other).or_default() += weight,
                    (Some(_), Some(_)) => {}
                }
            }
            let fit = |clock: Name, points| Track::fit(points, Fit::new(self.host_sd(clock), self.noise.window));
            let fitted = |points: BTreeMap<Name, Vec<Point>>| {
                let tracks = points.into_iter().map(|(clock, points)| (clock, fit(clock, points)));
                // A clock that one or two pairs place would make any pair fit.
                let sure = |track: &Track| track.segments.iter().map(|segment| segment.support).sum::<f64>() > SUPPORT;
                tracks.filter(|(_, track)| sure(track)).collect::<Vec<_>>()
            };
            let (hosts, servers) = (fitted(hosts), fitted(servers));
            if hosts.is_empty() && servers.is_empty() {
                let busy = unreached.into_iter().filter(|(_, weight)| *weight > SUPPORT);
                let busiest = busy.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
                let Some((reference, weight)) = busiest else { break };
                self.server_tracks.insert(reference, Track::constant(0.0, weight));
            }
            self.host_tracks.extend(hosts);
            self.server_tracks.extend(servers);
        }
    }

    pub(super) fn host_server_score(&self, h: u32, server: u32, evidence: &mut Evidence) -> Option<f64> {
        let (host, s) = (self.host(h), self.execution(server));
        let clock = self.seen(host.base).clock;
        let away = self.server_start(server)? - self.host_time(clock, host.start?)?;
        let sd = self.host_sd(clock).hypot(self.server_sd(s.clock)).max(CLOCKS_FLOOR);
        evidence.add("start", self.noise.ratio(away, sd));
        if let (Some(start), Some(end)) = (host.start, host.end) {
            let Spread { mean, sd } = self.direct_overhead;
            let sd = sd + 2.0 * self.settings.spread_floor;
            evidence.add("duration", self.noise.ratio(end - start - s.duration - mean, sd));
        }
        Some(evidence.total())
    }
}
