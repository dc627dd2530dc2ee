//! Host calls and gateway calls.
//!
//! Candidates: equal program, tool and argument digest; where arguments were cut, equal size and a common beginning;
//! where one half is lost, equal result digest. Evidence without clock: duration between choice and outcome less the
//! gateway's, result (digest, else size and common beginning; not for denied or failed calls, whose texts hosts
//! rewrite), address, server named in the tool, trace. With clock: start less the workstation's offset. Identity: at
//! first the assignment of users to subjects, later the share of this user's confident links that went to this subject,
//! `ln((n_us + .02) / (n_u + .02 S) S)`. Session chain: the share of this gateway session's *other* calls that went to
//! this conversation, `ln((n + .05) / (total + .1) 2)`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::f64::consts::SQRT_2;

use super::assignment::{Candidate, assign, ranked};
use super::clock::{Fit, Point, Track};
use super::evidence::Evidence;
use super::gateway_server::{SURE, refine, shrunk, weigh, worth_of_presence};
use super::likelihood::{median, robust};
use super::linker::{Linker, Round, Spread, WHOLE_SECOND};
use super::lone::{lone, unrest, widened};
use super::names::{NONE, Name};
use super::units::GatewayCall;

/// No link scores below this (natural log).
const NO_PARTNER: f64 = 3.0;
/// However often a program's calls pass a gateway, that adds no more than this.
const PRESENCE_MOST: f64 = 6.0;
const ROUNDS: usize = 5;
/// An address with at least this many subjects is a shared one (NAT).
const SHARED_ADDRESS_SUBJECTS: usize = 3;
/// However seldom a host's calls come from an address, that costs no more than this.
const ADDRESS_UNKNOWN_LEAST: f64 = -8.0;
/// Candidates of each call looked at when two calls might be one sent twice.
const RESENT_RIVALS: usize = 6;

/// Votes of confident links.
#[derive(Debug, Default)]
struct Votes {
    /// User -> subject -> weight.
    identity: BTreeMap<Name, BTreeMap<Name, f64>>,
    /// Gateway session -> (user, conversation) -> calls.
    chain: BTreeMap<Name, BTreeMap<(Name, Name), f64>>,
    /// Outcome stamp less the gateway's response.
    back: Option<Spread>,
}

/// From where the calls of hosts come that do not know their own address, as far as pairs without a rival show it.
#[derive(Debug, Default)]
pub(super) struct AddressHabits {
    /// Clock of the host -> address -> pairs.
    of_host: BTreeMap<Name, BTreeMap<Name, f64>>,
    /// The pairs: host call, base of the gateway call.
    pairs: BTreeSet<(u32, usize)>,
    /// Pairs in all, and those from an address that only few share.
    all: f64,
    unshared: f64,
}

impl AddressHabits {
    fn add(&mut self, clock: Name, address: Name, shared: bool, pair: (u32, usize)) {
        *self.of_host.entry(clock).or_default().entry(address).or_default() += 1.0;
        self.pairs.insert(pair);
        self.all += 1.0;
        self.unshared += f64::from(!shared);
    }

    /// What it is worth that a call comes from an address that is neither shared nor anybody's: the share of this host's
    /// *other* calls that came from it, with one pseudo-call of the estate's habit.
    fn worth(&self, clock: Name, address: Name, pair: (u32, usize)) -> f64 {
        let own = f64::from(self.pairs.contains(&pair));
        let usual = ((self.unshared - own).max(0.0) + 0.5) / ((self.all - own).max(0.0) + 1.0);
        let places = self.of_host.get(&clock);
        let total = places.map_or(0.0, |places| places.values().sum::<f64>()) - own;
        let same = places.and_then(|places| places.get(&address)).copied().unwrap_or(0.0) - own;
        ((same.max(0.0) + usual) / (total.max(0.0) + 1.0)).ln().max(ADDRESS_UNKNOWN_LEAST)
    }
}

impl Linker<'_> {
    /// Links host calls to gateway calls.
    pub(super) fn link_host_gateway(&mut self) {
        self.join_states();
        self.learn_addresses();
        let mut pairs = self.host_gateway_pairs();
        self.learn_from_lone_calls(&pairs);
        let mut fixed = self.fixed_scores(&mut pairs);
        let good = self.good_pairs(&pairs, &fixed);
        let subjects = self.assign_subjects(&good.iter().map(|pair| (pair.0, pair.1)).collect::<Vec<_>>());
        self.fit_host_clocks(&good, &subjects);
        let mut votes = Votes::default();
        let mut presence: BTreeMap<Name, f64> = BTreeMap::new();
        let subject_count = pairs.iter().map(|(_, g)| self.whole(*g).subject).collect::<BTreeSet<_>>().len().max(2);
        for round in 0..ROUNDS {
            let judge = Judge { linker: self, votes: &votes, subjects: &subjects, subject_count, round };
            if round >= 2 {
                let merges = judge.resent(&pairs, &fixed);
                merges.into_iter().for_each(|(first, second)| {
                    if !self.hidden.contains_key(&first) && !self.hidden.contains_key(&second) {
                        self.attach(first, second, Round::Resent);
                    }
                });
                pairs.retain(|(_, g)| !self.hidden.contains_key(g));
                fixed = self.fixed_scores(&mut pairs);
            }
            let judge = Judge { linker: self, votes: &votes, subjects: &subjects, subject_count, round };
            let candidates: Vec<Candidate> = pairs
                .iter()
                .zip(&fixed)
                .map(|((h, g), fixed)| Candidate {
                    row: *h,
                    column: *g,
                    score: fixed
                        + judge.timed(*h, *g, self.whole(*g), &mut Evidence::Sum(0.0))
                        + presence.get(&self.seen(self.host(*h).base).program).copied().unwrap_or(0.0),
                })
                .collect();
            self.host_gateway = assign(&candidates, NO_PARTNER, 1.0);
            self.host_rivals = ranked(&candidates, true, NO_PARTNER);
            presence = self.host_presence(&pairs);
            votes = self.learn_from_host_gateway(&pairs, &fixed, round);
            fixed = self.fixed_scores(&mut pairs);
        }
        self.gateway_host = self.host_gateway.iter().map(|(h, m)| (m.column, *h)).collect();
        for (later, (lead, _)) in &self.hidden {
            if let Some(host) = self.gateway_host.get(lead).copied() {
                self.gateway_host.insert(*later, host);
            }
        }
        self.subjects_of = votes.identity;
    }

    /// Delays of this estate's network between hosts and gateways, and from where hosts come that do not know their address.
    fn learn_from_lone_calls(&mut self, pairs: &[(u32, u32)]) {
        let mut overheads = Vec::new();
        let mut points: BTreeMap<Name, Vec<(f64, f64)>> = BTreeMap::new();
        let mut habits = AddressHabits::default();
        for (h, g) in lone(pairs) {
            let (host, call) = (self.host(h), self.whole(g));
            let s = self.seen(host.base);
            if let (Some(start), Some(end), Some(duration)) = (host.start, host.end, call.duration) {
                overheads.push(end - start - duration);
            }
            if let Some(start) = host.start {
                let at = self.gateway_start(call);
                points.entry(s.clock).or_default().push((at, start - at));
            }
            let address = self.gateway_base(call).address;
            if s.addresses.is_empty() && address != NONE && !self.address_owners.contains(&address) {
                habits.add(s.clock, address, self.shared_addresses.contains(&address), (h, call.base));
            }
        }
        // Where stamps are late, their own noise has told the scale already, and the delays that it makes are no network's.
        if !self.noise.heavy {
            self.host_overhead = widened(overheads, self.host_overhead);
            let unrest = unrest(points).unwrap_or(0.0).min(self.settings.scale_most);
            self.host_scale = self.host_scale.max(unrest);
        }
        self.address_habits = habits;
    }

    /// What it is worth that nearly every call of a program passes a gateway (see `presence` of `gateway_server`).
    fn host_presence(&self, pairs: &[(u32, u32)]) -> BTreeMap<Name, f64> {
        let mut calls: BTreeMap<Name, (f64, f64)> = BTreeMap::new();
        for (h, host) in self.units.hosts.iter().enumerate() {
            let known = calls.entry(self.seen(host.base).program).or_default();
            known.0 += 1.0;
            known.1 += f64::from(self.host_gateway.get(&(h as u32)).is_some_and(|m| m.confidence >= SURE));
        }
        worth_of_presence(&calls, pairs, NO_PARTNER, PRESENCE_MOST)
    }

    fn learn_addresses(&mut self) {
        let hosts = self.units.seen.iter().filter(|s| s.is_host());
        self.address_owners = hosts.flat_map(|s| s.addresses.iter().copied()).collect();
        let mut subjects: BTreeMap<Name, BTreeSet<Name>> = BTreeMap::new();
        for call in self.units.gateways.iter().filter(|call| call.subject != NONE) {
            subjects.entry(self.units.seen[call.base].address).or_default().insert(call.subject);
        }
        let shared = subjects.into_iter().filter(|(_, subjects)| subjects.len() >= SHARED_ADDRESS_SUBJECTS);
        self.shared_addresses = shared.map(|(address, _)| address).collect();
    }

    fn host_gateway_pairs(&self) -> Vec<(u32, u32)> {
        let mut by_arguments: HashMap<(Name, Name, Name), Vec<u32>> = HashMap::new();
        let mut by_result: HashMap<(Name, Name), Vec<u32>> = HashMap::new();
        let mut by_size: HashMap<(Name, Name, u64), Vec<u32>> = HashMap::new();
        let mut by_tool: HashMap<(Name, Name), Vec<u32>> = HashMap::new();
        for g in 0..self.units.gateways.len() as u32 {
            if self.hidden.contains_key(&g) {
                continue;
            }
            let call = self.whole(g);
            let program = self.gateway_base(call).program;
            for digest in &call.arguments {
                by_arguments.entry((program, call.tool, *digest)).or_default().push(g);
            }
            if (call.failed || call.denied) && call.tool != NONE {
                by_tool.entry((program, call.tool)).or_default().push(g);
            }
            if call.result != NONE {
                by_result.entry((program, call.result)).or_default().push(g);
            }
            if let Some(bytes) = call.request.and_then(|request| self.seen(request).o.arguments.bytes) {
                by_size.entry((program, call.tool, bytes)).or_default().push(g);
            }
        }
        let mut pairs = Vec::new();
        for (h, host) in self.units.hosts.iter().enumerate() {
            let s = self.seen(host.base);
            let arguments = host.choice.map_or(&[][..], |choice| self.seen(choice).arguments.as_slice());
            let mut near: Vec<u32> = Vec::new();
            for digest in arguments {
                near.extend(by_arguments.get(&(s.program, s.tool, *digest)).into_iter().flatten());
            }
            if let Some(choice) = host.choice.filter(|_| arguments.is_empty()) {
                let payload = &self.seen(choice).o.arguments;
                let sized = payload.bytes.and_then(|bytes| by_size.get(&(s.program, s.tool, bytes)));
                near.extend(sized.into_iter().flatten().filter(|g| {
                    let other = self.gateway(**g).request.map(|request| &self.seen(request).o.arguments);
                    other.is_none_or(|other| common_beginning(payload.head.as_deref(), other.head.as_deref()))
                }));
            }
            if let Some(result) = host.outcome.map(|outcome| self.seen(outcome).result).filter(|result| *result != NONE)
            {
                let same = by_result.get(&(s.program, result)).into_iter().flatten();
                near.extend(same.filter(|g| {
                    let call = self.whole(**g);
                    let half_lost = call.arguments.is_empty() || host.choice.is_none();
                    half_lost
                        && (call.tool == NONE || call.tool == s.tool)
                        && (s.server == NONE || s.server == self.gateway_base(call).server)
                }));
            }
            if near.is_empty() && host.choice.is_none() {
                // Hosts rewrite the texts of failures: of such an outcome only tool, time and user are left.
                let same = by_tool.get(&(s.program, s.tool)).into_iter().flatten();
                near.extend(same.filter(|g| {
                    let call = self.whole(**g);
                    (call.failed || call.denied) && (s.server == NONE || s.server == self.gateway_base(call).server)
                }));
            }
            near.sort_unstable();
            near.dedup();
            near.retain(|g| {
                let call = self.whole(*g);
                let away = match (host.start, host.end, call.end) {
                    (Some(start), ..) => Some(self.gateway_start(call) - start),
                    (None, Some(end), Some(call_end)) => Some(call_end - end),
                    _ => None,
                };
                away.is_some_and(|away| away.abs() <= self.noise.window)
            });
            pairs.extend(near.into_iter().map(|g| (h as u32, g)));
        }
        pairs
    }

    /// Clock-free scores; hopeless pairs are dropped.
    fn fixed_scores(&self, pairs: &mut Vec<(u32, u32)>) -> Vec<f64> {
        let mut scores = Vec::with_capacity(pairs.len());
        pairs.retain(|(h, g)| {
            let score = self.host_gateway_fixed(*h, self.whole(*g), &mut Evidence::Sum(0.0));
            if score > -8.0 {
                scores.push(score);
            }
            score > -8.0
        });
        scores
    }

    /// Evidence that needs neither clock nor learned identity.
    pub(super) fn host_gateway_fixed(&self, h: u32, call: &GatewayCall, evidence: &mut Evidence) -> f64 {
        let host = self.host(h);
        let (s, g) = (self.seen(host.base), self.gateway_base(call));
        self.trace_evidence(host.choice, call, evidence);
        self.address_evidence(h, call, evidence);
        if s.user != NONE && s.user == call.subject {
            evidence.add("user", 4.0);
        }
        if s.server != NONE && s.server != g.server {
            evidence.add("server", -15.0);
        }
        self.result_evidence(host.outcome, call, evidence);
        let arguments_known = host.choice.is_some_and(|choice| !self.seen(choice).arguments.is_empty());
        if !arguments_known || call.arguments.is_empty() {
            evidence.add("arguments_not_compared", -1.0);
        }
        if let (Some(start), Some(end), Some(duration)) = (host.start, host.end, call.duration) {
            let Spread { mean, sd } = self.host_overhead;
            // Two stamps of whole seconds.
            let sd = sd.hypot(WHOLE_SECOND * SQRT_2 * self.resolution(s.clock));
            evidence.add("duration", self.noise.ratio(end - start - duration - mean, sd));
        }
        evidence.total()
    }

    fn trace_evidence(&self, choice: Option<usize>, call: &GatewayCall, evidence: &mut Evidence) {
        let (Some(choice), Some(request)) = (choice, call.request) else { return };
        let (choice, request) = (self.seen(choice), self.seen(request));
        if choice.trace == NONE {
            return;
        }
        if request.trace != NONE {
            let same = choice.trace == request.trace && request.parent_span == choice.span;
            evidence.add("span", if same { 40.0 } else { -40.0 });
        }
        if let Some((trace, span)) = self.context(call.request)
            && !self.bad_traces.contains(&choice.trace)
        {
            let weight = match () {
                () if choice.trace != trace => -40.0,
                () if choice.span == span => 40.0,
                () => 2.0,
            };
            evidence.add("trace", weight);
        }
    }

    fn address_evidence(&self, h: u32, call: &GatewayCall, evidence: &mut Evidence) {
        let s = self.seen(self.host(h).base);
        let (own, address) = (&s.addresses, self.gateway_base(call).address);
        if address == NONE {
            return;
        }
        if own.is_empty() {
            if self.address_owners.contains(&address) {
                evidence.add("address_of_another", -15.0);
            } else if !self.shared_addresses.contains(&address) {
                evidence.add("address_unknown", self.address_habits.worth(s.clock, address, (h, call.base)));
            }
        } else if own.contains(&address) {
            evidence.add("address", -(0.02 * self.address_owners.len() as f64).max(1.0).ln());
        } else {
            evidence.add("address_differs", -15.0);
        }
    }

    fn result_evidence(&self, outcome: Option<usize>, call: &GatewayCall, evidence: &mut Evidence) {
        let (Some(outcome), Some(response)) = (outcome, call.answer) else { return };
        let (outcome, response) = (self.seen(outcome), self.seen(response));
        if outcome.result != NONE && call.result != NONE {
            if outcome.result == call.result {
                evidence.add("result", 1.0);
            } else if !call.denied && !call.failed {
                evidence.add("result_differs", -6.0);
            }
        } else if let (Some(own), Some(other)) = (outcome.o.result.bytes, response.o.result.bytes)
            && !call.denied
            && !call.failed
        {
            evidence.add("result_bytes", if own == other { 1.0 } else { -6.0 });
            let heads = (outcome.o.result.head.as_deref(), response.o.result.head.as_deref());
            if !common_beginning(heads.0, heads.1) {
                evidence.add("result_beginning", -6.0);
            }
        }
    }

    fn good_pairs(&self, pairs: &[(u32, u32)], fixed: &[f64]) -> Vec<(u32, u32, f64)> {
        let least = if self.noise.heavy { -2.0 } else { 0.0 };
        let lone: BTreeSet<(u32, u32)> = lone(pairs).into_iter().collect();
        let timed = pairs.iter().zip(fixed).filter(|(pair, score)| {
            // A pair that nothing else speaks for is good where nothing else could be meant.
            self.host(pair.0).start.is_some() && (**score > least || (**score >= 0.0 && lone.contains(pair)))
        });
        timed.map(|((h, g), score)| (*h, *g, *score)).collect()
    }

    fn fit_host_clocks(&mut self, good: &[(u32, u32, f64)], subjects: &BTreeMap<Name, Name>) {
        let scale = self.host_scale;
        let weighed = good.iter().map(|(h, g, score)| {
            let own = self.whole(*g).subject;
            let expected = subjects.get(&self.host(*h).who).copied().unwrap_or(own);
            let trust = if expected == own { 1.0 } else { 0.05 };
            (*h, *g, score.min(6.0).exp() * trust)
        });
        let weighed = weigh(weighed.collect(), 2.0);
        let scale = |clock: Name| scale.max(WHOLE_SECOND * self.resolution(clock));
        let tracks = self.host_clock_tracks(&weighed, scale);
        self.host_spread = tracks.keys().map(|clock| (*clock, scale(*clock))).collect();
        self.host_tracks = tracks;
    }

    fn host_clock_tracks(&self, weighed: &[(u32, u32, f64)], scale: impl Fn(Name) -> f64) -> BTreeMap<Name, Track> {
        let mut points: BTreeMap<Name, Vec<Point>> = BTreeMap::new();
        for (h, g, weight) in weighed {
            let host = self.host(*h);
            let Some(start) = host.start else { continue };
            let at = self.gateway_start(self.whole(*g));
            points.entry(self.seen(host.base).clock).or_default().push(Point {
                at,
                offset: start - at,
                weight: *weight,
            });
        }
        let fitted = points
            .into_iter()
            .map(|(clock, points)| (clock, Track::fit(points, Fit::new(scale(clock), self.noise.window))));
        fitted.filter(|(_, track)| !track.is_empty()).collect()
    }

    /// Votes, clocks and spreads from confident links.
    fn learn_from_host_gateway(&mut self, pairs: &[(u32, u32)], fixed: &[f64], round: usize) -> Votes {
        let mut votes = Votes::default();
        let mut residuals: BTreeMap<Name, Vec<(f64, f64)>> = BTreeMap::new();
        let mut overheads = Vec::new();
        for (h, m) in self.host_gateway.iter().filter(|(_, m)| m.confidence >= SURE) {
            let (host, call) = (self.host(*h), self.whole(m.column));
            let s = self.seen(host.base);
            if call.subject != NONE {
                *votes.identity.entry(host.who).or_default().entry(call.subject).or_default() += m.confidence;
            }
            if call.session != NONE && s.conversation != NONE {
                *votes.chain.entry(call.session).or_default().entry((host.who, s.conversation)).or_default() += 1.0;
            }
            if let Some(start) = host.start {
                let at = self.gateway_start(call);
                residuals.entry(s.clock).or_default().push((at, start - at));
                if let (Some(end), Some(duration)) = (host.end, call.duration)
                    && !self.merged.contains_key(&m.column)
                {
                    overheads.push(end - start - duration);
                }
            }
        }
        if self.noise.heavy && round < 3 {
            self.refit_host_clocks(pairs, fixed, &votes);
        }
        self.learn_host_spreads(&residuals);
        let mut backs = Vec::new();
        for (h, m) in self.host_gateway.iter().filter(|(_, m)| m.confidence > SURE) {
            let (host, call) = (self.host(*h), self.whole(m.column));
            let (Some(end), Some(call_end)) = (host.end, call.end) else { continue };
            if let Some(track) = self.host_tracks.get(&self.seen(host.base).clock) {
                let start = self.gateway_start(call);
                backs.push(end - track.at(start).offset - (start + call_end - call.start));
            }
        }
        let floor = self.settings.spread_floor;
        let (mean, sd) = robust(backs, floor);
        votes.back = Some(Spread { mean, sd });
        let (mean, sd) = robust(overheads, 1.5 * floor);
        self.host_overhead = Spread { mean, sd: sd * 1.2 };
        votes
    }

    /// Tracks again, pairs weighed by all evidence but the clock.
    fn refit_host_clocks(&mut self, pairs: &[(u32, u32)], fixed: &[f64], votes: &Votes) {
        let subjects = pairs.iter().map(|(_, g)| self.whole(*g).subject).collect::<BTreeSet<_>>().len().max(2);
        let weighed =
            pairs.iter().zip(fixed).filter(|((h, _), _)| self.host(*h).start.is_some()).map(|((h, g), score)| {
                let score = score + votes.identity_ratio(self.host(*h).who, self.whole(*g).subject, subjects);
                (*h, *g, score.min(7.0).exp())
            });
        let weighed = weigh(weighed.collect(), 2.0);
        let base = self.host_scale;
        let tracks = self.host_clock_tracks(&weighed, |clock| {
            self.host_spread.get(&clock).copied().unwrap_or(base).clamp(0.3 * base, 1.5 * base)
        });
        self.host_tracks.extend(tracks);
    }

    pub(super) fn learn_host_spreads(&mut self, residuals: &BTreeMap<Name, Vec<(f64, f64)>>) {
        let near = if self.noise.heavy { self.settings.segment_reach(self.noise.stamp) } else { f64::INFINITY };
        let mut all = Vec::new();
        let mut own: BTreeMap<Name, Vec<f64>> = BTreeMap::new();
        for (clock, points) in residuals {
            let Some(track) = self.host_tracks.get_mut(clock) else { continue };
            refine(track, points, near, 0.5);
            let away: Vec<f64> = points.iter().map(|(t, offset)| (offset - track.at(*t).offset).abs()).collect();
            all.extend_from_slice(&away);
            own.insert(*clock, away);
        }
        let floor = self.settings.spread_floor;
        let start = self.host_scale;
        let estate = if all.is_empty() { start } else { (1.3 * median(&mut all)).max(floor) };
        for clock in self.host_tracks.keys() {
            let mut away = own.remove(clock).unwrap_or_default();
            self.host_spread.insert(*clock, shrunk(&mut away, estate).max(floor));
        }
    }

    /// Pieces of evidence of a chosen link, for explanation.
    pub(super) fn explain_host_gateway(&self, h: u32, g: u32) -> Evidence {
        let mut evidence = Evidence::Parts(Vec::new());
        self.host_gateway_fixed(h, self.whole(g), &mut evidence);
        let votes = Votes { identity: self.subjects_of.clone(), ..Votes::default() };
        let judge = Judge {
            linker: self,
            votes: &votes,
            subjects: &BTreeMap::new(),
            subject_count: self.subjects_of.len().max(2),
            round: ROUNDS,
        };
        judge.timed(h, g, self.whole(g), &mut evidence);
        evidence
    }

    pub(super) fn host_sd(&self, clock: Name) -> f64 {
        let sd = self.host_spread.get(&clock).copied().unwrap_or(self.host_scale);
        sd.max(WHOLE_SECOND * self.resolution(clock))
    }
}

impl Votes {
    fn identity_ratio(&self, who: Name, subject: Name, subjects: usize) -> f64 {
        let Some(votes) = self.identity.get(&who).filter(|_| subject != NONE) else { return 0.0 };
        let total: f64 = votes.values().sum();
        let own = votes.get(&subject).copied().unwrap_or(0.0);
        let subjects = subjects as f64;
        ((own + 0.02) / (total + 0.02 * subjects) * subjects).ln()
    }
}

/// Scores with everything learned so far.
struct Judge<'j, 'a> {
    linker: &'j Linker<'a>,
    votes: &'j Votes,
    subjects: &'j BTreeMap<Name, Name>,
    subject_count: usize,
    round: usize,
}

impl Judge<'_, '_> {
    fn timed(&self, h: u32, g: u32, call: &GatewayCall, evidence: &mut Evidence) -> f64 {
        let before = evidence.total();
        let linker = self.linker;
        let host = linker.host(h);
        let s = linker.seen(host.base);
        if let Some(track) = linker.host_tracks.get(&s.clock) {
            let at = linker.gateway_start(call);
            let segment = track.at(at);
            let doubt = 0.03 / segment.support.max(0.3);
            let back = self.votes.back.unwrap_or(Spread { mean: linker.host_sd(s.clock), sd: linker.host_sd(s.clock) });
            match (host.start, host.end, call.end) {
                (Some(start), ..) => {
                    let sd = linker.host_sd(s.clock).hypot(doubt);
                    evidence.add("start", linker.noise.ratio(start - at - segment.offset, sd));
                }
                (None, Some(end), Some(call_end)) => {
                    let away = end - segment.offset - (at + call_end - call.start) - back.mean;
                    evidence.add("end", linker.noise.ratio(away, back.sd.hypot(doubt)));
                }
                _ => {}
            }
        }
        if call.subject != NONE {
            if self.round == 0 {
                if let Some(subject) = self.subjects.get(&host.who) {
                    evidence.add("identity", if *subject == call.subject { 2.5 } else { -2.5 });
                }
            } else {
                evidence.add("identity", self.votes.identity_ratio(host.who, call.subject, self.subject_count));
            }
        }
        if self.round > 0
            && call.session != NONE
            && s.conversation != NONE
            && !linker.units.dirty.contains(&call.session)
        {
            evidence.add("session_chain", self.chain(h, g, call.session, (host.who, s.conversation)));
        }
        evidence.total() - before
    }

    /// Share of the session's other calls that went to this conversation.
    fn chain(&self, h: u32, g: u32, session: Name, conversation: (Name, Name)) -> f64 {
        let Some(votes) = self.votes.chain.get(&session) else { return 0.0 };
        let own = self.linker.host_gateway.get(&h).is_some_and(|m| m.column == g) as u32 as f64;
        let total: f64 = votes.values().sum::<f64>() - own;
        let same = votes.get(&conversation).copied().unwrap_or(0.0) - own;
        if total > 0.0 { ((same.max(0.0) + 0.05) / (total + 0.1) * 2.0).ln() } else { 0.0 }
    }

    /// Pairs of gateway calls that are better explained as one host call sent twice than as two.
    fn resent(&self, pairs: &[(u32, u32)], fixed: &[f64]) -> Vec<(u32, u32)> {
        let mut hosts_of: BTreeMap<u32, Vec<(f64, u32)>> = BTreeMap::new();
        for ((h, g), fixed) in pairs.iter().zip(fixed) {
            let score = fixed + self.timed(*h, *g, self.linker.whole(*g), &mut Evidence::Sum(0.0));
            hosts_of.entry(*g).or_default().push((score, *h));
        }
        for hosts in hosts_of.values_mut() {
            hosts.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            hosts.truncate(RESENT_RIVALS);
        }
        let hosts = |g: u32| hosts_of.get(&g).map_or(&[][..], Vec::as_slice);
        let mut found: Vec<(u32, u32)> = Vec::new();
        let mut taken: BTreeSet<u32> = BTreeSet::new();
        for (first, second) in self.linker.resent() {
            if (hosts(first).is_empty() && hosts(second).is_empty())
                || taken.contains(&first)
                || taken.contains(&second)
            {
                continue;
            }
            let merged = self.linker.merge(self.linker.whole(first), self.linker.whole(second));
            let either: BTreeSet<u32> = hosts(first).iter().chain(hosts(second)).map(|host| host.1).collect();
            let one = either
                .iter()
                .map(|h| {
                    self.linker.host_gateway_fixed(*h, &merged, &mut Evidence::Sum(0.0))
                        + self.timed(*h, first, &merged, &mut Evidence::Sum(0.0))
                })
                .fold(f64::NEG_INFINITY, f64::max);
            if one > NO_PARTNER && one - NO_PARTNER + 0.5 > two_hosts(hosts(first), hosts(second)) {
                found.push((first, second));
                taken.extend([first, second]);
            }
        }
        found
    }
}

/// Best sum for two calls of different hosts, or of one host and nobody.
fn two_hosts(first: &[(f64, u32)], second: &[(f64, u32)]) -> f64 {
    let gain = |score: f64| (score - NO_PARTNER).max(0.0);
    let alone = |hosts: &[(f64, u32)]| hosts.first().map_or(0.0, |host| gain(host.0));
    let mut best = alone(first).max(alone(second));
    for (a, host_a) in first {
        for (b, host_b) in second.iter().filter(|other| other.1 != *host_a) {
            debug_assert!(host_a != host_b);
            best = best.max(gain(*a) + gain(*b));
        }
    }
    best
}

/// Whether one text begins like the other, as far as both are known. The end of a cut text may be a broken character.
pub(super) fn common_beginning(a: Option<&str>, b: Option<&str>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return true };
    let length = a.len().min(b.len()).saturating_sub(4);
    a.as_bytes()[..length] == b.as_bytes()[..length]
}
