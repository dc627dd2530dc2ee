//! Gateway calls and server executions: first of all stages, because both sides log digests and most pairs.
//!
//! Candidates: equal server, tool and argument digest, starts within the window, not denied.
//! Score = L(start - request - offset) + L(gateway duration - server duration - mean) + outcome agrees (+0.3 / -4)
//! + JSON-RPC id (+3.5 / -30: it is scoped by the session of *this* gateway call) + trace and parent span (+40 / -40).
//!
//! Clocks: the busiest gateway is the frame of reference. Server tracks are fitted against it; a jump that at least
//! a quarter of the busy servers (and three) make together is a step of the *gateway*. Other gateways are fitted
//! through the servers placed so far, servers again through all gateways. After linking a segment's offset is the
//! median of the confident links, an emitter's spread 1.3 times their median deviation, shrunk towards the
//! estate's with [`SHRINK`] pseudo-links.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::assignment::{Candidate, assign, ranked};
use super::clock::{Fit, Point, Segment, Track};
use super::evidence::Evidence;
use super::likelihood::{median, robust};
use super::linker::{Linker, Spread};
use super::lone::{lone, unrest, widened};
use super::names::{NONE, Name};
use super::units::GatewayCall;

/// Pseudo-links with the estate's spread that every emitter starts with.
const SHRINK: f64 = 6.0;
/// No link scores below this (natural log).
const NO_PARTNER: f64 = 2.0;
/// Reference clock of a step shared by servers: they notice it within this many seconds of one another.
const STEP_NOTICED: f64 = 8.0;
/// However often a server logs its calls, that adds no more than this.
const PRESENCE_MOST: f64 = 4.0;
/// The least confidence of a link to an execution: those below were right less often than they said, on every estate tried,
/// because the offset of a clock that has just stepped is shared by rivals.
pub(super) const EXECUTION_CONFIDENT: f64 = 0.6;
/// Arguments whose digests differ are those of another call, but for one in a hundred or so.
const ARGUMENTS_DIFFER: f64 = -5.0;
/// Start and duration hang together: an execution that is stamped late seems to start late.
const TRUST: f64 = 0.8;
const ROUNDS: usize = 3;
/// Links at least this sure teach.
pub(super) const SURE: f64 = 0.8;

impl Linker<'_> {
    /// A trace that several programs, subjects or many requests name is a constant, not a context.
    pub(super) fn guard_traces(&mut self) {
        let mut uses: BTreeMap<(Name, Name), u32> = BTreeMap::new();
        let mut bearers: BTreeMap<Name, BTreeSet<(Name, Name)>> = BTreeMap::new();
        for call in &self.units.gateways {
            let Some(request) = call.request else { continue };
            if let Some((trace, span)) = self.units.seen[request].carried {
                *uses.entry((trace, span)).or_default() += 1;
                let s = &self.units.seen[call.base];
                bearers.entry(trace).or_default().insert((s.program, call.subject));
            }
        }
        let often = uses.iter().filter(|(_, count)| **count > 4).map(|(key, _)| key.0);
        let shared = bearers.iter().filter(|(_, who)| who.len() > 1).map(|(trace, _)| *trace);
        self.bad_traces = often.chain(shared).collect();
    }

    /// The context that travelled with a gateway call, if it can be trusted to be one.
    pub(super) fn context(&self, request: Option<usize>) -> Option<(Name, Name)> {
        self.seen(request?).carried.filter(|(trace, _)| !self.bad_traces.contains(trace))
    }

    /// Links gateway calls to executions.
    pub(super) fn link_gateway_server(&mut self) {
        let pairs = self.gateway_server_pairs();
        if self.gateway_server.is_empty() {
            self.learn_from_lone_executions(&pairs);
        }
        let fixed: Vec<f64> =
            pairs.iter().map(|(g, s)| self.gateway_server_fixed(*g, *s, &mut Evidence::Sum(0.0))).collect();
        let believable: Vec<(u32, u32, f64)> = pairs
            .iter()
            .zip(&fixed)
            .filter(|(_, score)| **score > -5.0)
            .map(|((g, s), score)| (*g, *s, *score))
            .collect();
        let points = self.weigh_by_durations(&believable);
        self.fit_server_clocks(&points);
        let mut presence: BTreeMap<Name, f64> = BTreeMap::new();
        for _ in 0..ROUNDS {
            let candidates: Vec<Candidate> = pairs
                .iter()
                .zip(&fixed)
                .filter(|((g, _), score)| **score >= -20.0 && !self.passes_on(*g))
                .map(|((g, s), score)| Candidate {
                    row: *g,
                    column: *s,
                    score: score
                        + self.gateway_server_timed(*g, *s, &mut Evidence::Sum(0.0))
                        + presence.get(&self.execution(*s).server).copied().unwrap_or(0.0),
                })
                .collect();
            self.gateway_server = assign(&candidates, NO_PARTNER, TRUST);
            self.gateway_rivals = ranked(&candidates, true, NO_PARTNER);
            self.learn_from_gateway_server();
            presence = self.presence(&pairs);
        }
        self.link_unlike();
        self.server_gateway = self.gateway_server.iter().map(|(g, m)| (m.column, *g)).collect();
    }

    /// Delays of this estate's network between gateways and servers.
    fn learn_from_lone_executions(&mut self, pairs: &[(u32, u32)]) {
        let mut overheads = Vec::new();
        let mut points: BTreeMap<Name, Vec<(f64, f64)>> = BTreeMap::new();
        for (g, server) in lone(pairs) {
            let (call, s) = (self.gateway(g), self.execution(server));
            overheads.extend(call.duration.map(|duration| duration - s.duration));
            let start = s.t - s.duration;
            points.entry(s.clock).or_default().push((call.start, start - call.start));
        }
        // Where stamps are late, their own noise has told the scale already, and the delays that it makes are no network's.
        if !self.noise.heavy {
            self.gateway_overhead = widened(overheads, self.gateway_overhead);
            let unrest = unrest(points).unwrap_or(0.0).min(self.settings.scale_most);
            self.server_scale = self.server_scale.max(unrest);
        }
    }

    /// Links what is left over of a tool at a server whatever its arguments: texts change on their way (Unicode forms,
    /// characters that a log leaves out), and then no digest agrees.
    fn link_unlike(&mut self) {
        let used: BTreeSet<u32> = self.gateway_server.values().map(|m| m.column).collect();
        let mut left: HashMap<(Name, Name), Vec<u32>> = HashMap::new();
        for server in (0..self.units.executions.len() as u32).filter(|server| !used.contains(server)) {
            let s = self.execution(server);
            left.entry((s.server, s.tool)).or_default().push(server);
        }
        let mut candidates = Vec::new();
        for (g, call) in self.units.gateways.iter().enumerate() {
            let g = g as u32;
            if call.denied || call.tool == NONE || self.gateway_server.contains_key(&g) || self.passes_on(g) {
                continue;
            }
            let start = self.gateway_start(call);
            for server in left.get(&(self.gateway_base(call).server, call.tool)).into_iter().flatten() {
                if self.server_start(*server).is_none_or(|own| (own - start).abs() > self.noise.window / 2.0) {
                    continue;
                }
                let mut evidence = Evidence::Sum(0.0);
                self.gateway_server_fixed(g, *server, &mut evidence);
                self.gateway_server_timed(g, *server, &mut evidence);
                candidates.push(Candidate { row: g, column: *server, score: evidence.total() });
            }
        }
        let found = assign(&candidates, NO_PARTNER, TRUST);
        for (server, rivals) in ranked(&candidates, true, NO_PARTNER) {
            self.gateway_rivals.entry(server).or_insert(rivals);
        }
        self.gateway_server.extend(found);
    }

    /// What it is worth that a server logs nearly every call: that a call has no partner is then as unlikely. Log odds by
    /// server, less what chance candidates make up for.
    fn presence(&self, pairs: &[(u32, u32)]) -> BTreeMap<Name, f64> {
        let mut calls: BTreeMap<Name, (f64, f64)> = BTreeMap::new();
        let own = |(g, call): &(usize, &GatewayCall)| !call.denied && !self.passes_on(*g as u32);
        for (g, call) in self.units.gateways.iter().enumerate().filter(own) {
            let known = calls.entry(self.gateway_base(call).server).or_default();
            known.0 += 1.0;
            known.1 += f64::from(self.gateway_server.get(&(g as u32)).is_some_and(|m| m.confidence >= SURE));
        }
        worth_of_presence(&calls, pairs, NO_PARTNER, PRESENCE_MOST)
    }

    fn gateway_server_pairs(&self) -> Vec<(u32, u32)> {
        let mut index: HashMap<(Name, Name, Name), Vec<u32>> = HashMap::new();
        for server in 0..self.units.executions.len() as u32 {
            let s = self.execution(server);
            let mut digests = s.arguments.clone();
            digests.dedup();
            digests.into_iter().for_each(|digest| index.entry((s.server, s.tool, digest)).or_default().push(server));
        }
        let mut pairs = Vec::new();
        for (g, call) in self.units.gateways.iter().enumerate() {
            if call.denied {
                continue;
            }
            let (mut tool, mut digests) = (call.tool, call.arguments.as_slice());
            if tool == NONE {
                // The request is lost: the host's call says what was asked.
                let Some(host) = self.gateway_host.get(&(g as u32)) else { continue };
                let choice = self.seen(self.host(*host).base);
                (tool, digests) = (choice.tool, choice.arguments.as_slice());
            }
            let server = self.gateway_base(call).server;
            let mut near: Vec<u32> = Vec::new();
            for digest in digests {
                let same = index.get(&(server, tool, *digest)).map_or(&[][..], Vec::as_slice);
                near.extend(same.iter().filter(|s| {
                    let s = self.execution(**s);
                    (s.t - s.duration - call.start).abs() <= self.noise.window
                }));
            }
            near.sort_unstable();
            near.dedup();
            pairs.extend(near.into_iter().map(|s| (g as u32, s)));
        }
        pairs
    }

    /// Evidence that needs no clock.
    pub(super) fn gateway_server_fixed(&self, g: u32, server: u32, evidence: &mut Evidence) -> f64 {
        let (call, s) = (self.gateway(g), self.execution(server));
        let base = self.gateway_base(call);
        if let Some((trace, _)) = self.context(call.request)
            && s.trace != NONE
            && !self.bad_traces.contains(&s.trace)
        {
            evidence.add("trace", if s.trace == trace { 20.0 } else { -40.0 });
        }
        if base.trace != NONE && s.trace != NONE {
            let same = base.trace == s.trace && s.parent_span == base.span;
            evidence.add("span", if same { 40.0 } else { -40.0 });
        }
        if s.rpc != NONE && base.rpc != NONE {
            evidence.add("rpc_id", if s.rpc == base.rpc { 3.5 } else { -30.0 });
        }
        let known = !call.arguments.is_empty() && !s.arguments.is_empty();
        if known && !call.arguments.iter().any(|digest| s.arguments.contains(digest)) {
            evidence.add("arguments_differ", ARGUMENTS_DIFFER);
        }
        if call.answer.is_some()
            && let Some(failed) = s.o.failed
        {
            evidence.add("outcome", if failed == call.failed { 0.3 } else { -4.0 });
        }
        if call.duration.is_some_and(|duration| s.duration > duration + 0.05) {
            evidence.add("longer_than_call", -10.0);
        }
        evidence.total()
    }

    /// Pieces of the score of a pair.
    pub(super) fn explain_gateway_server(&self, g: u32, server: u32) -> Evidence {
        let mut evidence = Evidence::Parts(Vec::new());
        self.gateway_server_fixed(g, server, &mut evidence);
        self.gateway_server_timed(g, server, &mut evidence);
        evidence
    }

    fn duration_ratio(&self, g: u32, server: u32) -> Option<f64> {
        let duration = self.gateway(g).duration?;
        let Spread { mean, sd } = self.gateway_overhead;
        Some(self.noise.ratio(duration - self.execution(server).duration - mean, sd))
    }

    /// Evidence from clock and durations.
    pub(super) fn gateway_server_timed(&self, g: u32, server: u32, evidence: &mut Evidence) -> f64 {
        let before = evidence.total();
        let s = self.execution(server);
        let t = self.gateway_start(self.gateway(g));
        let segment = self.server_tracks.get(&s.clock).map_or(Track::default().at(t), |track| track.at(t));
        let sd = self.server_sd(s.clock).hypot(0.02 / segment.support.max(0.3));
        evidence.add("start", self.noise.ratio(s.t - s.duration - t - segment.offset, sd));
        evidence.add("duration", self.duration_ratio(g, server).unwrap_or(1.0));
        evidence.total() - before
    }

    /// Weight of each pair by all but the clock: `e / (larger of the row's and the column's sum + 3)`.
    fn weigh_by_durations(&self, pairs: &[(u32, u32, f64)]) -> Vec<(u32, u32, f64)> {
        let weight =
            |(g, s, fixed): &(u32, u32, f64)| (fixed + self.duration_ratio(*g, *s).unwrap_or(0.0)).min(8.0).exp();
        weigh(pairs.iter().map(|pair| (pair.0, pair.1, weight(pair))).collect(), 3.0)
    }

    fn point(&self, g: u32, server: u32, weight: f64) -> Point {
        let (at, s) = (self.gateway_start(self.gateway(g)), self.execution(server));
        Point { at, offset: s.t - s.duration - at, weight }
    }

    fn fit_server_clocks(&mut self, points: &[(u32, u32, f64)]) {
        let start_scale = self.server_scale;
        let fit = |scale: f64| Fit::new(scale, self.noise.window);
        let mut pairs_of_gateway: BTreeMap<Name, usize> = BTreeMap::new();
        let mut by_clock: BTreeMap<Name, Vec<(u32, u32, f64)>> = BTreeMap::new();
        for point in points {
            *pairs_of_gateway.entry(self.gateway_base(self.gateway(point.0)).clock).or_default() += 1;
            by_clock.entry(self.execution(point.1).clock).or_default().push(*point);
        }
        let mut gateways: Vec<Name> = pairs_of_gateway.keys().copied().collect();
        gateways.sort_by_key(|clock| (std::cmp::Reverse(pairs_of_gateway[clock]), *clock));
        if self.gateway_tracks.is_empty() && !gateways.is_empty() {
            let first = gateways[0];
            let of_first = |linker: &Self, pairs: &[(u32, u32, f64)]| -> Vec<Point> {
                let own = pairs.iter().filter(|pair| linker.gateway_base(linker.gateway(pair.0)).clock == first);
                own.map(|(g, s, weight)| linker.point(*g, *s, *weight)).collect()
            };
            let raw: BTreeMap<Name, Track> = by_clock
                .iter()
                .map(|(clock, pairs)| (*clock, Track::fit(of_first(self, pairs), fit(start_scale))))
                .filter(|(_, track)| !track.is_empty())
                .collect();
            let reference = reference_track(&raw, start_scale);
            self.gateway_steps = reference.segments.iter().skip(1).map(|s| (s.from, s.offset)).collect();
            self.gateway_tracks.insert(first, reference);
            self.server_tracks = by_clock
                .iter()
                .map(|(clock, pairs)| (*clock, Track::fit(of_first(self, pairs), fit(start_scale))))
                .filter(|(_, track)| !track.is_empty())
                .collect();
            for other in &gateways[1..] {
                let track = self.gateway_through_servers(*other, points, start_scale, false);
                self.gateway_tracks.insert(*other, track.unwrap_or_else(|| Track::constant(0.0, 0.0)));
            }
        }
        for round in 0..2 {
            for (clock, pairs) in &by_clock {
                let own: Vec<Point> = pairs.iter().map(|(g, s, weight)| self.point(*g, *s, *weight)).collect();
                let scale =
                    self.server_spread.get(clock).copied().unwrap_or(self.settings.clock_spread).max(start_scale);
                let track = Track::fit(own, fit(scale));
                let track = if track.is_empty() { Track::constant(0.0, 0.0) } else { track };
                self.server_tracks.insert(*clock, track);
            }
            if round == 0 && self.noise.heavy {
                for gateway in &gateways {
                    if let Some(track) = self.gateway_through_servers(*gateway, points, start_scale, true) {
                        self.gateway_tracks.insert(*gateway, track);
                    }
                }
            }
        }
    }

    /// The clock of a gateway by the servers that are placed already.
    fn gateway_through_servers(
        &self,
        gateway: Name,
        points: &[(u32, u32, f64)],
        scale: f64,
        by_reference: bool,
    ) -> Option<Track> {
        let mut own = Vec::new();
        for (g, server, weight) in points {
            let (call, s) = (self.gateway(*g), self.execution(*server));
            if self.gateway_base(call).clock != gateway {
                continue;
            }
            let Some(track) = self.server_tracks.get(&s.clock) else { continue };
            let start = s.t - s.duration;
            let (segment, needed) =
                if by_reference { (Some(track.at(self.gateway_start(call))), 3.0) } else { (track.own(start), 2.0) };
            if let Some(segment) = segment.filter(|segment| segment.support > needed) {
                own.push(Point { at: call.start, offset: call.start - (start - segment.offset), weight: weight * 0.8 });
            }
        }
        let track = Track::fit(own, Fit::new(scale, self.noise.window));
        (!track.is_empty()).then_some(track)
    }

    /// Offsets, spreads and overhead from confident links.
    fn learn_from_gateway_server(&mut self) {
        let mut residuals: BTreeMap<Name, Vec<(f64, f64)>> = BTreeMap::new();
        let mut overheads = Vec::new();
        for (g, m) in self.gateway_server.iter().filter(|(_, m)| m.confidence >= SURE) {
            let (call, s) = (self.gateway(*g), self.execution(m.column));
            let t = self.gateway_start(call);
            residuals.entry(s.clock).or_default().push((t, s.t - s.duration - t));
            overheads.extend(call.duration.map(|duration| duration - s.duration));
        }
        let mut all = Vec::new();
        let mut own: BTreeMap<Name, Vec<f64>> = BTreeMap::new();
        for (clock, points) in &residuals {
            let Some(track) = self.server_tracks.get_mut(clock) else { continue };
            refine(track, points, f64::INFINITY, 1.0);
            let away: Vec<f64> = points.iter().map(|(t, offset)| (offset - track.at(*t).offset).abs()).collect();
            all.extend_from_slice(&away);
            own.insert(*clock, away);
        }
        let floor = self.settings.spread_floor;
        let estate = if all.is_empty() { 0.05 } else { (1.3 * median(&mut all)).max(floor) };
        let clocks: Vec<Name> = self.server_tracks.keys().copied().collect();
        for clock in clocks {
            let mut away = own.remove(&clock).unwrap_or_default();
            let spread = shrunk(&mut away, estate).max(floor);
            self.server_spread.insert(clock, spread);
        }
        let (mean, sd) = robust(overheads, floor);
        self.gateway_overhead = Spread { mean, sd: sd * 1.1 };
    }
}

/// Per group, from (calls, calls with a sure partner): log odds that a call has a partner, less what chance candidates make
/// up for. It is added to every score of the group, so `none` has to be beaten by what is seldom absent, less than by others.
pub(super) fn worth_of_presence(
    calls: &BTreeMap<Name, (f64, f64)>,
    pairs: &[(u32, u32)],
    none: f64,
    most: f64,
) -> BTreeMap<Name, f64> {
    let rows = pairs.iter().map(|(row, _)| *row).collect::<BTreeSet<_>>().len().max(1);
    let by_chance = (pairs.len() as f64 / rows as f64).max(1.0);
    let worth = |(calls, sure): (f64, f64)| {
        let share = (sure + 1.0) / (calls + 2.0);
        ((share / (1.0 - share)).ln() - by_chance.ln() + none).clamp(0.0, most)
    };
    calls.iter().map(|(group, counts)| (*group, worth(*counts))).collect()
}

/// Median absolute residual with pseudo-links of the estate's spread.
pub(super) fn shrunk(away: &mut [f64], estate: f64) -> f64 {
    let n = away.len() as f64;
    (n * 1.3 * median(away) + SHRINK * estate) / (n + SHRINK)
}

/// Each segment's offset becomes the median of the points in it that lie within `near`; a segment without any keeps
/// its offset, and `keep` of its support.
pub(super) fn refine(track: &mut Track, points: &[(f64, f64)], near: f64, keep: f64) {
    let old = track.clone();
    for (index, segment) in track.segments.iter_mut().enumerate() {
        let (from, until) = (segment.from, old.until(index));
        let inside =
            points.iter().filter(|(t, offset)| *t >= from && *t < until && (offset - segment.offset).abs() < near);
        let mut inside: Vec<f64> = inside.map(|(_, offset)| *offset).collect();
        if inside.is_empty() {
            segment.support = segment.support.min(if keep >= 1.0 { f64::INFINITY } else { keep });
        } else {
            segment.support = inside.len() as f64;
            segment.offset = median(&mut inside);
        }
    }
}

/// `e / (larger of its row's and its column's sum + extra)` for each pair.
pub(super) fn weigh(pairs: Vec<(u32, u32, f64)>, extra: f64) -> Vec<(u32, u32, f64)> {
    let (mut rows, mut columns): (HashMap<u32, f64>, HashMap<u32, f64>) = (HashMap::new(), HashMap::new());
    for (row, column, e) in &pairs {
        *rows.entry(*row).or_default() += e;
        *columns.entry(*column).or_default() += e;
    }
    pairs.into_iter().map(|(row, column, e)| (row, column, e / (rows[&row].max(columns[&column]) + extra))).collect()
}

/// The steps of the reference gateway: jumps that many servers show at one time by one amount.
fn reference_track(tracks: &BTreeMap<Name, Track>, scale: f64) -> Track {
    let mut jumps: Vec<(f64, f64, Name)> = Vec::new();
    for (clock, track) in tracks {
        for pair in track.segments.windows(2) {
            if pair[0].support.min(pair[1].support) > 1.0 {
                jumps.push((pair[1].from, pair[0].offset - pair[1].offset, *clock));
            }
        }
    }
    let total = |track: &Track| track.segments.iter().map(|segment| segment.support).sum::<f64>();
    let busy = tracks.values().filter(|track| total(track) > 8.0).count();
    let near = |a: &(f64, f64, Name), b: &(f64, f64, Name)| {
        (a.0 - b.0).abs() < STEP_NOTICED && (a.1 - b.1).abs() < 3.0 * scale
    };
    let servers = |of: &(f64, f64, Name), jumps: &[(f64, f64, Name)]| {
        jumps.iter().filter(|jump| near(of, jump)).map(|jump| jump.2).collect::<BTreeSet<Name>>().len()
    };
    let mut steps: Vec<(f64, f64)> = Vec::new();
    loop {
        let mut best: Option<(usize, (f64, f64, Name))> = None;
        for jump in &jumps {
            let count = servers(jump, &jumps);
            if best.is_none_or(|(known, _)| count > known) {
                best = Some((count, *jump));
            }
        }
        let Some((count, jump)) = best else { break };
        if (count as f64) < (0.25 * busy as f64).max(3.0) {
            break;
        }
        let (group, rest): (Vec<_>, Vec<_>) = jumps.iter().copied().partition(|other| near(&jump, other));
        let mut times: Vec<f64> = group.iter().map(|jump| jump.0).collect();
        let mut amounts: Vec<f64> = group.iter().map(|jump| jump.1).collect();
        steps.push((median(&mut times), median(&mut amounts)));
        jumps = rest;
    }
    steps.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut track = Track::constant(0.0, 99.0);
    let mut offset = 0.0;
    for (from, amount) in steps {
        offset += amount;
        track.segments.push(Segment { from, offset, support: 99.0 });
    }
    track
}
