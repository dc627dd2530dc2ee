//! Downstream lines and calls: HTTP requests and statements that a call caused.
//!
//! Score = content (`downstream::content`) + template (learned: which shapes of line a tool causes) + time + learned
//! shares (`downstream::shares`) + client program (learned: how often its lines belong to calls) + JSON-RPC id (+3.5 / -30)
//! and trace (+40 / +4 / -40). A system that does not name the server that called it: `downstream::unnamed`.
//! Time: the line's possible interval must meet the execution interval of length `l`:
//! `ln((2W + l) / (l + 2 tol)) - miss`, where `miss` grows with the distance over the tolerance (square, or Student's t where
//! stamps have noise). A line that took longer than the execution: -8. A statement lies inside the HTTP request of its
//! call if there is one.
//!
//! Clocks: the offset that puts most lines inside the executions they resemble, per emitter and stretch of time.
//! One line per call and slot (`LineClass`); where stamps have noise, lines left over may be repeats.

mod content;
pub(super) mod lines;
mod shares;
mod unnamed;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::assignment::{Candidate, assign, ranked};
use super::calls::{Call, Execution};
use super::clock::{Fit, Point, Span, Track, densest_cover};
use super::evidence::Evidence;
use super::likelihood::quantile;
use super::linker::Linker;
use super::names::{NONE, Name};
use content::Vocabulary;
use lines::{Fnv, Line, LineClass, lines};
use shares::Shares;

const ROUNDS: usize = 4;
/// What a further line of a call costs: one like a line that it has (retries, pages), a second answer (that is how polling
/// looks), any other.
const REPEATED: f64 = 1.0;
const SECOND_ANSWER: f64 = 6.0;
const UNLIKE: f64 = 4.0;
/// A call that holds the answer to the same request, and one that holds another answer.
const SAME_REQUEST: f64 = 2.0;
/// Lines that a client program starts with, as usual for the system.
const PROGRAM_LINES: f64 = 30.0;
/// However many lines belong to calls, "to none" is worth this at least (natural log).
const NOBODY_LEAST: f64 = -2.0;
/// Content, template and shares of a line say the same in part.
const TRUST: f64 = 0.75;
/// Identical lines are never surer than this: they may be two events all the same.
const COPIES_MOST: f64 = 0.97;
/// Executions longer than this say little about a clock, seconds; but requests are mostly made within [`SOON`] of their start.
const TELLING_EXECUTION: f64 = 4.0;
const SOON: f64 = 1.0;
/// A step of a downstream clock is expected this often, per second.
const HAZARD: f64 = 1.0 / 400.0;

/// A line placed at a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub(super) call: usize,
    pub(super) confidence: f64,
    /// How sure the answer is that led to this call; 1 where none did.
    pub(super) led: f64,
}

/// What the downstream stage found.
#[derive(Debug, Default)]
pub(super) struct Downstream<'a> {
    pub(super) lines: Vec<Line<'a>>,
    pub(super) placed: BTreeMap<usize, Placed>,
    pub(super) tracks: BTreeMap<Name, Track>,
    /// Best calls of each line, best first.
    pub(super) rivals: BTreeMap<u32, Vec<(u32, f64)>>,
    /// Pieces of the score of each placed line.
    pub(super) evidence: BTreeMap<usize, Evidence>,
}

/// A line and a call that could belong together.
#[derive(Debug, Clone, Copy)]
struct Pair {
    line: usize,
    call: usize,
    content: f64,
    shape: Shape,
}

/// (is a statement, hash of method and path or statement with the call's values blanked)
type Shape = (bool, u64);

/// Learned: which shapes of line each tool causes.
#[derive(Debug, Default)]
struct Templates {
    of_tool: BTreeMap<(Name, Name), BTreeMap<Shape, f64>>,
    all: BTreeMap<Shape, f64>,
    total: f64,
}

impl Templates {
    fn learn(&mut self, tool: (Name, Name), shape: Shape) {
        *self.of_tool.entry(tool).or_default().entry(shape).or_default() += 1.0;
        *self.all.entry(shape).or_default() += 1.0;
        self.total += 1.0;
    }

    fn ratio(&self, tool: (Name, Name), shape: Shape) -> f64 {
        let everywhere = self.all.get(&shape).copied().unwrap_or(0.0);
        let Some(own) = self.of_tool.get(&tool) else { return if everywhere == 0.0 { 0.0 } else { -2.0 } };
        let alike: f64 = own.iter().filter(|(known, _)| known.0 == shape.0).map(|(_, count)| count).sum();
        let here = own.get(&shape).copied().unwrap_or(0.0);
        (((here + 0.1) / (alike + 1.0)).ln() - ((everywhere + 0.1) / (self.total + 1.0)).ln()).clamp(-6.0, 4.0)
    }
}

struct Stage<'s, 'a> {
    linker: &'s Linker<'a>,
    calls: &'s [Call],
    executions: Vec<Option<Execution<'a>>>,
    lines: Vec<Line<'a>>,
    pairs: Vec<Pair>,
    templates: Templates,
    shares: Shares,
    tracks: BTreeMap<Name, Track>,
    /// Tolerance of HTTP lines and of statements.
    tolerance: [f64; 2],
    placed: BTreeMap<usize, Placed>,
    /// What "belongs to no call" is worth: the log odds of it, learned.
    nobody: f64,
    /// How much oftener the lines of a client program belong to calls than others of their system, log odds, learned.
    agents: BTreeMap<u64, f64>,
    /// Share of lines of long executions that are soon after their start, learned.
    soon: f64,
    /// HTTP lines of each call, the main answer first.
    http_of: BTreeMap<usize, Vec<usize>>,
}

impl<'a> Linker<'a> {
    /// Places downstream lines at calls.
    pub(super) fn link_downstream(&self, calls: &[Call]) -> Downstream<'a> {
        let executions: Vec<Option<Execution<'a>>> = calls.iter().map(|call| self.execution_of(call)).collect();
        let mut stage = Stage {
            linker: self,
            calls,
            executions,
            lines: lines(&self.units.seen, &self.units.downstream, &self.units.whole_seconds),
            pairs: Vec::new(),
            templates: Templates::default(),
            shares: Shares::default(),
            tracks: BTreeMap::new(),
            tolerance: self.settings.start_tolerance(self.noise),
            placed: BTreeMap::new(),
            nobody: 0.0,
            agents: BTreeMap::new(),
            soon: 0.5,
            http_of: BTreeMap::new(),
        };
        stage.find_pairs();
        let mut scores = Vec::new();
        for round in 0..ROUNDS {
            stage.fit_clocks(round);
            scores = stage.scores(round);
            stage.place(&scores);
            stage.learn();
        }
        stage.follow_answers();
        let candidate =
            |(pair, score): (&Pair, &f64)| Candidate { row: pair.line as u32, column: pair.call as u32, score: *score };
        let candidates: Vec<Candidate> = stage.pairs.iter().zip(&scores).map(candidate).collect();
        let rivals = ranked(&candidates, false, 0.0);
        let mut evidence = BTreeMap::new();
        for pair in &stage.pairs {
            if stage.placed.get(&pair.line).is_some_and(|placed| placed.call == pair.call) {
                let mut parts = Evidence::Parts(Vec::new());
                stage.score(pair, ROUNDS - 1, &mut parts);
                evidence.insert(pair.line, parts);
            }
        }
        Downstream { lines: stage.lines, placed: stage.placed, tracks: stage.tracks, rivals, evidence }
    }
}

impl<'a> Stage<'_, 'a> {
    fn heavy(&self) -> bool {
        self.linker.noise.heavy
    }

    fn window(&self) -> f64 {
        self.linker.noise.window
    }

    /// Calls of the same server within the window whose content does not contradict.
    fn find_pairs(&mut self) {
        let mut by_server: BTreeMap<Name, Vec<usize>> = BTreeMap::new();
        for (call, execution) in self.executions.iter().enumerate() {
            if let Some(execution) = execution.as_ref().filter(|execution| execution.server != NONE) {
                by_server.entry(execution.server).or_default().push(call);
            }
        }
        for calls in by_server.values_mut() {
            calls.sort_by(|a, b| self.span(*a).0.total_cmp(&self.span(*b).0).then(a.cmp(b)));
        }
        let longest: BTreeMap<Name, f64> =
            by_server.iter().map(|(server, calls)| (*server, self.longest(calls))).collect();
        let mut hosts: BTreeMap<Name, BTreeSet<String>> = BTreeMap::new();
        for line in &self.lines {
            if let Some(http) = line.http {
                hosts.entry(line.server).or_default().insert(http.host.clone());
            }
        }
        let mut vocabulary = Vocabulary::of(&self.executions, &hosts);
        vocabulary.learn(&mut self.lines);
        if self.name_servers(&by_server, &vocabulary) {
            vocabulary.learn(&mut self.lines);
        }
        let mut pairs = Vec::new();
        for (at, line) in self.lines.iter().enumerate() {
            let Some(calls) = by_server.get(&line.server) else { continue };
            for call in self.calls_near(line, calls, longest[&line.server]) {
                let Some(execution) = self.executions[call].as_ref() else { continue };
                let mut content = vocabulary.score(line, execution);
                if self.trace_ratio(line, execution).is_some_and(|ratio| ratio > 0.0) {
                    // Content never overrules a trace.
                    content = content.max(0.0);
                }
                if content > -12.0 {
                    let shape = shape(line, execution);
                    pairs.push(Pair { line: at, call, content, shape });
                }
            }
        }
        self.pairs = pairs;
    }

    fn span(&self, call: usize) -> (f64, f64) {
        self.executions[call].as_ref().map_or((0.0, 0.0), |e| (e.start, e.end))
    }

    fn longest(&self, calls: &[usize]) -> f64 {
        calls.iter().map(|call| self.span(*call)).map(|(start, end)| end - start).fold(0.0, f64::max)
    }

    /// Of calls that are sorted by their start, those that a line may lie in by any clock.
    fn calls_near(&self, line: &Line<'_>, calls: &[usize], longest: f64) -> impl Iterator<Item = usize> {
        let (t, window) = (line.t, self.window());
        let from = calls.partition_point(|call| self.span(*call).0 < t - window - 1.0 - longest);
        let begun = calls[from..].iter().copied().take_while(move |call| self.span(*call).0 <= t + window);
        begun.filter(move |call| self.span(*call).1 >= t - window - 1.0)
    }

    fn trace_ratio(&self, line: &Line<'_>, execution: &Execution<'_>) -> Option<f64> {
        let own = self.linker.seen(line.at);
        let server = self.linker.execution(execution.line?);
        if own.trace == NONE || server.trace == NONE || self.linker.bad_traces.contains(&own.trace) {
            return None;
        }
        Some(match () {
            () if own.trace != server.trace => -40.0,
            () if own.parent_span == server.span => 40.0,
            () => 4.0,
        })
    }

    fn template_ratio(&self, pair: &Pair, round: usize) -> f64 {
        if round == 0 {
            return 0.0;
        }
        self.executions[pair.call].as_ref().map_or(0.0, |e| self.templates.ratio((e.server, e.tool), pair.shape))
    }

    /// Offsets that put most lines inside the executions that they resemble.
    fn fit_clocks(&mut self, round: usize) {
        let resembling: Vec<(Pair, f64)> = self
            .pairs
            .iter()
            .map(|pair| (*pair, pair.content + self.template_ratio(pair, round)))
            .filter(|(_, score)| *score > -1.0)
            .collect();
        let mut clocks: BTreeMap<Name, Vec<(Pair, f64)>> = BTreeMap::new();
        resembling.iter().for_each(|pair| clocks.entry(self.lines[pair.0.line].clock).or_default().push(*pair));
        let mut rivals: HashMap<usize, (f64, f64)> = HashMap::new();
        for (pair, score) in &resembling {
            let known = rivals.entry(pair.line).or_default();
            known.0 += 1.0;
            known.1 += score.min(9.0).exp();
        }
        let fitted = clocks.into_iter().filter_map(|(clock, pairs)| Some((clock, self.fit_clock(&pairs, &rivals)?)));
        let fitted: Vec<(Name, Track)> = fitted.collect();
        self.tracks = fitted.into_iter().collect();
    }

    fn fit_clock(&self, pairs: &[(Pair, f64)], rivals: &HashMap<usize, (f64, f64)>) -> Option<Track> {
        let of = |pair: &Pair| Some((&self.lines[pair.line], self.executions[pair.call].as_ref()?));
        if !self.heavy() {
            let mut spans: Vec<Span> = Vec::with_capacity(pairs.len());
            for (pair, score) in pairs {
                let Some((line, call)) = of(pair) else { continue };
                let worth = (1.0 + score.max(0.0)) / rivals[&pair.line].0;
                let own = if line.is_http() { line.duration } else { 0.0 };
                // No clock is further away than the window.
                let low = (line.t - call.end).max(-self.window());
                let high = (line.t + line.resolution - call.start - own).min(self.window());
                let length = call.end - call.start + line.resolution;
                spans.push(Span { low, high, weight: worth / (0.2 + length) });
                let soon = high - SOON - line.resolution;
                if length > TELLING_EXECUTION && soon > low {
                    spans.push(Span { low: soon, high, weight: self.soon * worth / (0.2 + SOON + line.resolution) });
                }
            }
            return densest_cover(&spans).map(|(offset, support)| Track::constant(offset, support));
        }
        let told: Vec<(&Line<'_>, &Execution<'_>, f64)> = pairs
            .iter()
            .filter_map(|(pair, score)| {
                let (line, call) = of(pair)?;
                let weight = score.min(9.0).exp() / (rivals[&pair.line].1 + 6.0);
                (call.end - call.start < TELLING_EXECUTION).then_some((line, call, weight))
            })
            .collect();
        let resolution = told.iter().map(|(line, ..)| line.resolution).fold(0.0, f64::max);
        let points = told.iter().map(|(line, call, weight)| {
            let own = if line.is_http() { line.duration } else { 0.0 };
            let offset = line.t + line.resolution / 2.0 - f64::midpoint(call.start + own, call.end);
            Point { at: call.start, offset, weight: *weight }
        });
        let scale = self.linker.settings.downstream_scale(self.linker.noise, resolution);
        let fit = Fit { scale, hazard: HAZARD, cell: 0.05, window: self.window() };
        let mut track = Track::fit(points.collect(), fit);
        if track.is_empty() {
            return None;
        }
        if resolution > 0.0 {
            self.cover_segments(&mut track, &told);
        }
        Some(track)
    }

    /// Whole seconds: inside a segment the best-covered stretch of the intervals that are possible.
    fn cover_segments(&self, track: &mut Track, told: &[(&Line<'_>, &Execution<'_>, f64)]) {
        let mut spans: Vec<Vec<Span>> = vec![Vec::new(); track.segments.len()];
        for (line, call, weight) in told {
            let own = if line.is_http() { line.duration } else { 0.0 };
            let span = Span {
                low: line.t - call.end - 0.1,
                high: line.t + line.resolution - call.start - own,
                weight: *weight,
            };
            let index = track.index_at(call.start);
            if f64::midpoint(span.low, span.high) - track.segments[index].offset < 1.2 * line.resolution
                && f64::midpoint(span.low, span.high) - track.segments[index].offset > -1.2 * line.resolution
            {
                spans[index].push(span);
            }
        }
        // The cover is of the stamp's second, the track of its middle.
        for (segment, spans) in track.segments.iter_mut().zip(&spans) {
            if let Some((offset, _)) = densest_cover(spans) {
                segment.offset = offset;
            }
        }
    }

    fn offset(&self, clock: Name, at: f64) -> Option<f64> {
        self.tracks.get(&clock).filter(|track| !track.is_empty()).map(|track| track.at(at).offset)
    }

    fn scores(&self, round: usize) -> Vec<f64> {
        self.pairs
            .iter()
            .map(|pair| self.score(pair, round, &mut Evidence::Sum(0.0)).unwrap_or(f64::NEG_INFINITY))
            .collect()
    }

    fn score(&self, pair: &Pair, round: usize, evidence: &mut Evidence) -> Option<f64> {
        let line = &self.lines[pair.line];
        let call = self.executions[pair.call].as_ref()?;
        let offset = self.offset(line.clock, call.start)?;
        evidence.add("content", pair.content);
        evidence.add("template", self.template_ratio(pair, round));
        evidence.add("time", self.time_ratio(line, call, offset));
        if line.duration > call.end - call.start + 0.004 {
            evidence.add("longer_than_call", -8.0);
        }
        let request = self.http_of.get(&pair.call).and_then(|http| http.first()).map(|http| &self.lines[*http]);
        if round > 0 {
            if let Some(request) = request.filter(|_| !line.is_http()) {
                evidence.add("inside_request", self.inside_request(line, request, call, offset));
            }
            evidence.add("same_request", self.same_request(pair));
            evidence.add("shares", self.shares.ratio(&self.features(line, call, &self.calls[pair.call], request)));
        }
        if let Some(odds) = self.agents.get(&line.agent) {
            evidence.add("client", *odds);
        }
        if let Some(ratio) = self.rpc_ratio(line, call, &self.calls[pair.call]) {
            evidence.add("rpc_id", ratio);
        }
        if let Some(ratio) = self.trace_ratio(line, call) {
            evidence.add("trace", ratio);
        }
        Some(evidence.total())
    }

    /// How far outside the execution the line must have been written, at least.
    fn miss(&self, line: &Line<'_>, call: &Execution<'_>, offset: f64) -> f64 {
        let low = line.t - offset;
        let own = if line.is_http() { line.duration } else { 0.0 };
        (call.start + own - low - line.resolution).max(low - call.end).max(0.0)
    }

    fn time_ratio(&self, line: &Line<'_>, call: &Execution<'_>, offset: f64) -> f64 {
        let tolerance = self.tolerance[usize::from(!line.is_http())];
        let length = call.end - call.start + line.resolution;
        let miss = self.miss(line, call, offset) / tolerance;
        let mut room = ((2.0 * self.window() + length) / (length + 2.0 * tolerance)).ln();
        if let Some(soon) = self.is_soon(line, call, offset).filter(|_| !self.heavy()) {
            let share = if soon { (SOON + line.resolution) / length } else { 1.0 - (SOON + line.resolution) / length };
            room += ((if soon { self.soon } else { 1.0 - self.soon }) / share).ln();
        }
        if self.heavy() {
            room + (-2.0 * (miss * miss / 3.0).ln_1p()).max(-9.0)
        } else if miss < 6.0 {
            room - 0.5 * miss * miss
        } else {
            room - 20.0
        }
    }

    /// Whether a line of a long execution was begun soon after it.
    fn is_soon(&self, line: &Line<'_>, call: &Execution<'_>, offset: f64) -> Option<bool> {
        let own = if line.is_http() { line.duration } else { 0.0 };
        let room = call.end - call.start + line.resolution;
        (room - own > TELLING_EXECUTION).then_some(line.t - offset - own - call.start < SOON)
    }

    /// A statement belongs inside the request that carries it, and does not outlast it.
    fn inside_request(&self, line: &Line<'_>, request: &Line<'_>, call: &Execution<'_>, offset: f64) -> f64 {
        let fits = if line.duration <= request.duration + 0.001 { 0.7 } else { -4.0 };
        let Some(other) = self.offset(request.clock, call.start) else { return fits };
        let (at, end) = (line.t - offset, request.t - other);
        let miss = (end - request.duration - at).max(at - end - request.resolution).max(0.0);
        let z = miss / self.linker.settings.request_tolerance(self.linker.noise);
        let away = match () {
            () if self.heavy() => 2.0 * (z * z / 3.0).ln_1p(),
            () if miss < 0.3 => 0.5 * z * z,
            () => 8.0,
        };
        fits - away
    }

    /// An attempt that failed, or a further page, asks what the answer of its call was asked.
    fn same_request(&self, pair: &Pair) -> f64 {
        let line = &self.lines[pair.line];
        if !self.heavy() || !matches!(line.class, LineClass::Failed | LineClass::Page(_)) {
            return 0.0;
        }
        let mut answers = self.answers(pair.line, pair.call).peekable();
        match () {
            () if answers.peek().is_none() => 0.0,
            () if answers.any(|answer| self.lines[answer].like == line.like) => SAME_REQUEST,
            () => -SAME_REQUEST,
        }
    }

    /// Other lines of a call that are its answers.
    fn answers(&self, line: usize, call: usize) -> impl Iterator<Item = usize> {
        let others = self.http_of.get(&call).into_iter().flatten().copied();
        others.filter(move |other| *other != line && self.lines[*other].class == LineClass::Main)
    }

    /// An attempt or a page that follows an answer is no surer than the answer.
    fn follow_answers(&mut self) {
        let mut followed: Vec<(usize, f64)> = Vec::new();
        for (line, placed) in &self.placed {
            if !self.heavy() || !matches!(self.lines[*line].class, LineClass::Failed | LineClass::Page(_)) {
                continue;
            }
            let alike =
                self.answers(*line, placed.call).filter(|answer| self.lines[*answer].like == self.lines[*line].like);
            let sure = alike.filter_map(|answer| self.placed.get(&answer)).map(|answer| answer.confidence);
            followed.extend(sure.max_by(f64::total_cmp).map(|sure| (*line, sure)));
        }
        for (line, sure) in followed {
            self.placed.entry(line).and_modify(|placed| placed.led = sure);
        }
    }

    fn rpc_ratio(&self, line: &Line<'_>, execution: &Execution<'_>, call: &Call) -> Option<f64> {
        let own = self.linker.seen(line.at).rpc;
        let server = execution.line.map_or(NONE, |server| self.linker.execution(server).rpc);
        let gateway = call.gateway.map_or(NONE, |g| self.linker.gateway_base(self.linker.gateway(g)).rpc);
        let known = if server == NONE { gateway } else { server };
        (own != NONE && known != NONE).then_some(if own == known { 3.5 } else { -30.0 })
    }

    /// One line per call and slot, HTTP before statements.
    fn place(&mut self, scores: &[f64]) {
        let mut slots: BTreeMap<(bool, LineClass, Name), Vec<Candidate>> = BTreeMap::new();
        for (pair, score) in self.pairs.iter().zip(scores).filter(|(_, score)| score.is_finite()) {
            let line = &self.lines[pair.line];
            let slot = (!line.is_http(), line.class.clone(), line.server);
            slots.entry(slot).or_default().push(Candidate {
                row: pair.line as u32,
                column: pair.call as u32,
                score: *score,
            });
        }
        self.placed.clear();
        self.http_of.clear();
        for candidates in slots.values() {
            for (line, found) in assign(candidates, self.nobody, TRUST) {
                let line = line as usize;
                let copies = self.lines[line].copies as f64;
                // Identical lines of one call share its slot: that one of them is the call's is as sure as all of them
                // together. Of as many calls as lines each line has one, and nothing says which.
                let shared = self.lines[line].is_http() && copies > 1.0;
                let confidence = if shared {
                    (found.confidence * copies).min(found.confidence / found.any).min(COPIES_MOST)
                } else {
                    found.confidence
                };
                let call = found.column as usize;
                self.placed.insert(line, Placed { call, confidence, led: 1.0 });
                if self.lines[line].is_http() {
                    self.http_of.entry(call).or_default().push(line);
                }
            }
        }
        self.order_http();
        if self.heavy() {
            self.place_repeats(scores);
            self.share_among_alike(scores);
            self.learn_tolerance();
        }
    }

    fn order_http(&mut self) {
        for http in self.http_of.values_mut() {
            http.sort_by_key(|line| (self.lines[*line].class != LineClass::Main, *line));
        }
    }

    /// Lines left over: repeats of a line that the call has already, or a second answer (that is how polling looks).
    fn place_repeats(&mut self, scores: &[f64]) {
        let sure = self.placed.iter().filter(|(_, placed)| placed.confidence > 0.5);
        let held: BTreeSet<(usize, u64)> = sure.map(|(line, placed)| (placed.call, self.lines[*line].like)).collect();
        let mut left: BTreeMap<usize, Vec<(f64, usize)>> = BTreeMap::new();
        for (pair, score) in self
            .pairs
            .iter()
            .zip(scores)
            .filter(|(pair, score)| score.is_finite() && !self.placed.contains_key(&pair.line))
        {
            let line = &self.lines[pair.line];
            let answered = |http: &Vec<usize>| http.iter().any(|other| self.lines[*other].is_answer());
            let second = line.class == LineClass::Main && self.http_of.get(&pair.call).is_some_and(answered);
            let cost = match () {
                () if second => SECOND_ANSWER,
                () if held.contains(&(pair.call, line.like)) => REPEATED,
                () => UNLIKE,
            };
            left.entry(pair.line).or_default().push((score - cost, pair.call));
        }
        for (line, options) in left {
            let Some((best, call)) = options.iter().copied().max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
            else {
                continue;
            };
            let total: f64 = options.iter().map(|(score, _)| (score - best).exp()).sum::<f64>() + (-best).exp();
            let confidence = 1.0 / total;
            if best > 0.0 && confidence > 0.5 {
                self.placed.insert(line, Placed { call, confidence, led: 1.0 });
                if self.lines[line].is_http() {
                    self.http_of.entry(call).or_default().push(line);
                }
            }
        }
    }

    /// Lines that say the same and stand at one call share its slot: which of them has it does not matter, so each is as
    /// sure as its call is among its own rivals.
    fn share_among_alike(&mut self, scores: &[f64]) {
        let mut alike: BTreeMap<(usize, u64), u32> = BTreeMap::new();
        for (line, placed) in &self.placed {
            *alike.entry((placed.call, self.lines[*line].like)).or_default() += 1;
        }
        let mut weights: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
        for (pair, score) in self.pairs.iter().zip(scores).filter(|(_, score)| score.is_finite()) {
            let line = &self.lines[pair.line];
            let Some(placed) = self.placed.get(&pair.line).filter(|_| !line.is_answer()) else { continue };
            if alike[&(placed.call, self.lines[pair.line].like)] > 1 {
                let weight = (score - self.nobody).clamp(-60.0, 40.0).exp();
                let known = weights.entry(pair.line).or_insert((0.0, 1.0));
                known.0 += if placed.call == pair.call { weight } else { 0.0 };
                known.1 += weight;
            }
        }
        for (line, (own, all)) in weights {
            if let Some(placed) = self.placed.get_mut(&line) {
                placed.confidence = placed.confidence.max(own / all);
            }
        }
    }

    fn learn_tolerance(&mut self) {
        for (kind, is_http) in [(0, true), (1, false)] {
            let sure = self
                .placed
                .iter()
                .filter(|(line, placed)| placed.confidence > 0.8 && self.lines[**line].is_http() == is_http);
            let mut misses: Vec<f64> = sure
                .filter_map(|(line, placed)| {
                    let (line, call) = (&self.lines[*line], self.executions[placed.call].as_ref()?);
                    Some(self.miss(line, call, self.offset(line.clock, call.start)?))
                })
                .collect();
            misses.sort_unstable_by(f64::total_cmp);
            if misses.len() > 30 {
                let learned = quantile(&misses, 0.85).unwrap_or(0.0);
                self.tolerance[kind] = self.linker.settings.bounded_tolerance(self.linker.noise, learned);
            }
        }
    }

    /// Templates and shares from confident placements.
    fn learn(&mut self) {
        self.templates = Templates::default();
        let mut outcomes = [0.0; 2];
        let known = self.executions.iter().flatten().filter_map(|e| self.linker.execution(e.line?).o.failed);
        known.for_each(|failed| outcomes[usize::from(!failed)] += 1.0);
        self.shares = Shares::new(outcomes);
        let sure = self.placed.values().filter(|placed| placed.confidence > 0.5).count() as f64;
        let share = (sure + 1.0) / (self.lines.len() as f64 + 2.0);
        self.nobody = ((1.0 - share) / share).ln().clamp(NOBODY_LEAST, 0.0);
        self.learn_agents();
        let (mut soon, mut long) = (1.0, 2.0);
        for (line, placed) in self.placed.iter().filter(|(_, placed)| placed.confidence > 0.9) {
            let (line, Some(call)) = (&self.lines[*line], &self.executions[placed.call]) else { continue };
            let offset = self.offset(line.clock, call.start);
            if let Some(is_soon) = offset.and_then(|offset| self.is_soon(line, call, offset)) {
                (soon, long) = (soon + f64::from(u8::from(is_soon)), long + 1.0);
            }
        }
        self.soon = soon / long;
        for (line, placed) in &self.placed {
            let Some(call) = &self.executions[placed.call] else { continue };
            let own = &self.lines[*line];
            if placed.confidence > 0.6 {
                self.templates.learn((call.server, call.tool), shape(own, call));
            }
            if placed.confidence > 0.9 && call.line.is_some() {
                let request =
                    self.http_of.get(&placed.call).and_then(|http| http.first()).map(|http| &self.lines[*http]);
                self.shares.learn(&self.features(own, call, &self.calls[placed.call], request));
            }
        }
    }

    /// A program that polls is found by chance inside calls, one that serves them always.
    fn learn_agents(&mut self) {
        let mut clocks: BTreeMap<Name, (f64, f64)> = BTreeMap::new();
        let mut agents: BTreeMap<u64, (Name, f64, f64)> = BTreeMap::new();
        for (at, line) in self.lines.iter().enumerate().filter(|(_, line)| line.agent != 0) {
            let sure = self.placed.get(&at).map_or(0.0, |placed| placed.confidence);
            let of_clock = clocks.entry(line.clock).or_default();
            (of_clock.0, of_clock.1) = (of_clock.0 + sure, of_clock.1 + 1.0);
            let of_agent = agents.entry(line.agent).or_insert((line.clock, 0.0, 0.0));
            (of_agent.1, of_agent.2) = (of_agent.1 + sure, of_agent.2 + 1.0);
        }
        let of = |(agent, (clock, sure, all)): (u64, (Name, f64, f64))| {
            let (clock_sure, clock_all) = clocks[&clock];
            // The only program of a system says nothing.
            let usual = (clock_sure + 1.0) / (clock_all + 2.0);
            (all < clock_all).then(|| (agent, worth_of_program(sure, all, usual)))
        };
        self.agents = agents.into_iter().filter_map(of).collect();
    }

    /// What is compared with its learned distribution.
    fn features(
        &self,
        line: &Line<'_>,
        execution: &Execution<'_>,
        call: &Call,
        request: Option<&Line<'_>>,
    ) -> Vec<(shares::Feature, i64)> {
        let duration = (execution.end - execution.start).max(0.001);
        let mut found = Vec::with_capacity(3);
        if !self.linker.settings.without_shares {
            found.push(match request.filter(|_| !line.is_http()) {
                _ if line.is_http() => shares::of_execution(line.duration, duration),
                Some(request) => shares::of_request(line.duration, request.duration.max(0.001)),
                None => shares::statement_of_execution(line.duration, duration),
            });
        }
        let Some(http) = line.http else { return found };
        if let Some(failed) = execution.line.and_then(|server| self.linker.execution(server).o.failed) {
            found.push(shares::status(http.status, failed));
        }
        let gateway = call.gateway.map(|g| self.linker.gateway(g)).filter(|gateway| !gateway.failed);
        let response = gateway.and_then(|gateway| gateway.response).map(|response| self.linker.seen(response).o);
        if let Some(bytes) = response.filter(|o| !o.redacted).and_then(|o| o.result.bytes)
            && !self.linker.settings.without_shares
        {
            found.push(shares::size(http.bytes, bytes));
        }
        found
    }
}

fn shape(line: &Line<'_>, call: &Execution<'_>) -> Shape {
    let mut hash = Fnv::default();
    if let Some(http) = line.http {
        let known: BTreeSet<&str> = call
            .arguments
            .into_iter()
            .flatten()
            .flat_map(|argument| argument.values.iter().map(String::as_str))
            .collect();
        hash.text(&http.method);
        if !known.iter().any(|value| value.contains(&http.host)) {
            for (at, segment) in http.segments.iter().enumerate() {
                let is_value = known.contains(segment.as_str()) || line.habits.values & (1 << at) != 0;
                hash.text(if is_value { "{}" } else { segment });
            }
        }
    }
    if let Some(statement) = line.statement {
        hash.text(&statement.template);
    }
    (line.statement.is_some(), hash.0)
}

/// What it is worth that a line is of a program of whose lines so many surely belong to calls. Few lines of it say little: it
/// starts with [`PROGRAM_LINES`] of which as many belong to calls as is usual for the system.
pub(super) fn worth_of_program(sure: f64, all: f64, usual: f64) -> f64 {
    let odds = |sure: f64, all: f64| (sure + PROGRAM_LINES * usual) / (all - sure + PROGRAM_LINES * (1.0 - usual));
    (odds(sure, all) / odds(0.0, 0.0)).ln()
}
