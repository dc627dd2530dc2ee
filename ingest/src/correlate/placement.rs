//! Placement: session, turn, call and parent of every observation, from everything that was linked.
//!
//! Parents: prompt <- choice <- request <- execution <- (HTTP <- statement), response <- execution (denied: request),
//! outcome <- response; a missing one is replaced by the nearest surviving ancestor, up to the prompt. The second round
//! of a call hangs below the response before it, a resent request below the choice.
//! Confidence below [`Settings::confident`](super::Settings) places nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::calls::Call;
use super::clock::Track;
use super::conversations::{Conversations, Home, SessionNo};
use super::downstream::Downstream;
use super::downstream::lines::LineClass;
use super::gateway_server::EXECUTION_CONFIDENT;
use super::linker::{Linker, Round, Spread};
use super::names::{NONE, Name};
use super::observation::Act;

/// What judged a placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Host line under its prompt: conversation id, or the beam.
    Conversation,
    /// Gateway request under the host's choice.
    HostGateway,
    /// Execution under the gateway's request.
    GatewayServer,
    /// Execution under the host's choice, the gateway's lines being lost.
    HostServer,
    /// Response under its request or execution, outcome under its response: exact inside a source.
    Exchange,
    /// Round of a call by its request state.
    RequestState,
    /// Request sent again.
    Resent,
    /// Call of an inner gateway below that of an outer one.
    Chain,
    /// Downstream line.
    Downstream,
    /// Opening of a gateway session.
    Opening,
    /// Frame of a tap below what called it, or a call below a frame.
    Frame,
    /// Second delivery of the same line.
    Twin,
}

impl Rule {
    /// The name that links bear.
    pub const fn as_str(self) -> &'static str {
        match self {
            Rule::Conversation => "conversation",
            Rule::HostGateway => "host-gateway",
            Rule::GatewayServer => "gateway-server",
            Rule::HostServer => "host-server",
            Rule::Exchange => "exchange",
            Rule::RequestState => "request-state",
            Rule::Resent => "resent",
            Rule::Chain => "gateway-chain",
            Rule::Downstream => "downstream",
            Rule::Opening => "opening",
            Rule::Frame => "frame",
            Rule::Twin => "second-delivery",
        }
    }
}

/// A parent and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Up {
    at: Option<usize>,
    confidence: f64,
}

/// Where an observation belongs; indices are of the sorted observations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    pub(super) session: Option<SessionNo>,
    pub(super) turn: Option<usize>,
    pub(super) call: Option<usize>,
    pub(super) parent: Option<usize>,
    pub(super) confidence: f64,
    pub(super) rule: Rule,
    /// Original of a second delivery.
    pub(super) twin_of: Option<usize>,
    /// A parent that is less likely than not, and so is none.
    pub(super) open: Option<usize>,
}

/// A parent that is less sure than this is left open.
const PARENT_LEAST: f64 = 0.5;

/// Placements under way.
struct Board<'b, 'a> {
    linker: &'b Linker<'a>,
    calls: &'b [Call],
    talk: &'b mut Conversations,
    placed: BTreeMap<usize, Place>,
    /// Per call: trusted host part, trusted server part, session, turn.
    state: Vec<CallState>,
    session_of_gateway: BTreeMap<u32, SessionNo>,
    absent: Absent,
    /// Gateway calls that no host's call was found for, by program and tool, with their starts.
    left_over: BTreeMap<(Name, Name), Vec<(f64, u32)>>,
    /// Share of links that a clock which has just stepped misleads: of executions, of downstream lines.
    misled: [f64; 2],
}

/// How sure a statement hangs right below its call where a request may be the call's.
const CONTESTED: f64 = 0.1;
/// Links that go wrong, and look sure, before a step of a clock is noticed.
const MISLED_PER_STEP: f64 = 0.5;

fn misled(linker: &Linker<'_>, down: &Downstream<'_>) -> [f64; 2] {
    let steps = |tracks: &BTreeMap<Name, Track>| -> f64 {
        tracks.values().map(|track| track.segments.len().saturating_sub(1) as f64).sum()
    };
    let servers = steps(&linker.gateway_tracks) + steps(&linker.server_tracks);
    let share = |steps: f64, links: usize| (MISLED_PER_STEP * steps / (links as f64 + 1.0)).min(0.1);
    [share(servers, linker.gateway_server.len()), share(servers + steps(&down.tracks), down.placed.len())]
}

/// How sure it is that a view which a call lacks does not exist: not, as far as views of its kind are left that found no call.
#[derive(Debug, Default)]
struct Absent {
    /// Executions, by server.
    execution: BTreeMap<Name, f64>,
    /// Gateway calls, by program.
    gateway: BTreeMap<Name, f64>,
    /// Responses, by gateway.
    response: BTreeMap<Name, f64>,
}

impl Absent {
    fn of(linker: &Linker<'_>, calls: &[Call]) -> Absent {
        let mut execution: BTreeMap<Name, (f64, f64)> = BTreeMap::new();
        let mut gateway: BTreeMap<Name, (f64, f64)> = BTreeMap::new();
        let mut response: BTreeMap<Name, (f64, f64)> = BTreeMap::new();
        for (g, call) in linker.units.gateways.iter().enumerate() {
            let known = response.entry(linker.gateway_base(call).gateway).or_default();
            known.0 += f64::from(call.answer.is_none());
            // Where a host's call is known, the request is lost, not the response left over.
            known.1 += f64::from(call.request.is_none() && !linker.gateway_host.contains_key(&(g as u32)));
        }
        for call in calls {
            match (call.host, call.gateway, call.server) {
                // Also where a host's call is right above it: a gateway's may belong between.
                (_, None, Some(server)) => execution.entry(linker.execution(server).server).or_default().1 += 1.0,
                (_, Some(g), None) if !linker.gateway(g).denied && !linker.passes_on(g) => {
                    execution.entry(linker.gateway_base(linker.gateway(g)).server).or_default().0 += 1.0;
                }
                _ => {}
            }
            match (call.host, call.gateway) {
                (Some(h), None) => gateway.entry(linker.seen(linker.host(h).base).program).or_default().0 += 1.0,
                (None, Some(g)) if call.lead.is_none() => {
                    gateway.entry(linker.gateway_base(linker.gateway(g)).program).or_default().1 += 1.0;
                }
                _ => {}
            }
        }
        let sure = |counts: BTreeMap<Name, (f64, f64)>| {
            let share = |(lacking, left): (f64, f64)| 1.0 - (left / (lacking + 1.0)).min(0.95);
            counts.into_iter().map(|(of, counts)| (of, share(counts))).collect()
        };
        Absent { execution: sure(execution), gateway: sure(gateway), response: sure(response) }
    }
}

fn left_over(linker: &Linker<'_>, calls: &[Call]) -> BTreeMap<(Name, Name), Vec<(f64, u32)>> {
    let mut left: BTreeMap<(Name, Name), Vec<(f64, u32)>> = BTreeMap::new();
    for g in calls.iter().filter(|call| call.host.is_none() && call.lead.is_none()).filter_map(|call| call.gateway) {
        let gateway = linker.gateway(g);
        let key = (linker.gateway_base(gateway).program, gateway.tool);
        left.entry(key).or_default().push((linker.gateway_start(gateway), g));
    }
    left
}

#[derive(Debug, Clone, Copy, Default)]
struct CallState {
    host_sure: bool,
    server_sure: bool,
    session: Option<SessionNo>,
    turn: Option<usize>,
    number: usize,
    last: Option<usize>,
    last_sure: f64,
    top: Option<usize>,
    top_sure: f64,
}

impl Linker<'_> {
    /// Places every observation that can be placed.
    pub(super) fn place(
        &self,
        calls: &[Call],
        down: &Downstream<'_>,
        talk: &mut Conversations,
    ) -> BTreeMap<usize, Place> {
        let mut board = Board {
            linker: self,
            calls,
            talk,
            placed: BTreeMap::new(),
            state: vec![CallState::default(); calls.len()],
            session_of_gateway: BTreeMap::new(),
            absent: Absent::of(self, calls),
            left_over: left_over(self, calls),
            misled: misled(self, down),
        };
        board.hosts();
        let mut order: Vec<usize> = (0..calls.len()).collect();
        let start = |call: &Call| call.gateway.map_or(0.0, |g| self.gateway_start(self.gateway(g)));
        order.sort_by(|a, b| {
            let key = |call: &Call| call.lead.is_some();
            key(&calls[*a]).cmp(&key(&calls[*b])).then(start(&calls[*a]).total_cmp(&start(&calls[*b]))).then(a.cmp(b))
        });
        for call in order {
            if calls[call].lead.is_some() { board.round(call) } else { board.call(call) }
        }
        board.downstream(down);
        board.openings();
        board.twins(down);
        board.placed
    }
}

impl Board<'_, '_> {
    fn confident(&self) -> f64 {
        self.linker.settings.confident
    }

    fn put(
        &mut self,
        at: usize,
        session: Option<SessionNo>,
        turn: Option<usize>,
        call: Option<usize>,
        up: Up,
        rule: Rule,
    ) {
        let named = up.at.filter(|parent| *parent != at);
        let parent = named.filter(|_| up.confidence >= PARENT_LEAST);
        let open = named.filter(|_| parent.is_none());
        let place = Place { session, turn, call, parent, confidence: up.confidence, rule, twin_of: None, open };
        self.placed.insert(at, place);
    }

    /// Prompts and answers.
    fn hosts(&mut self) {
        let homes: Vec<(usize, Home)> = self.talk.home.iter().map(|(at, home)| (*at, *home)).collect();
        for (at, home) in homes {
            let act = self.linker.seen(at).act;
            if matches!(act, Act::Prompt | Act::Answer) {
                let parent = home.prompt.filter(|_| act == Act::Answer);
                let up = Up { at: parent, confidence: home.confidence };
                self.put(at, Some(home.session), Some(home.turn), None, up, Rule::Conversation);
            }
        }
    }

    /// A call that is nobody's later round.
    fn call(&mut self, number: usize) {
        let linker = self.linker;
        let call = self.calls[number];
        let host_gateway = call.host.filter(|_| call.gateway.is_some()).and_then(|h| linker.host_gateway.get(&h));
        // That it is this gateway call, and that it is any.
        let (host_gateway, passed) = host_gateway.map_or((0.0, 0.0), |m| (m.confidence, m.any.min(1.0)));
        let direct = || call.host.and_then(|h| linker.host_server.get(&h));
        let through = call.gateway.and_then(|g| linker.gateway_server.get(&g));
        let server_rule = if through.is_some() { Rule::GatewayServer } else { Rule::HostServer };
        let server_sure =
            if call.server.is_some() { through.or_else(direct).map_or(0.0, |m| m.confidence) } else { 0.0 };
        let server_sure = server_sure * (1.0 - self.misled[0]);
        let mut state = CallState {
            host_sure: call.host.is_some() && (call.gateway.is_none() || host_gateway >= self.confident()),
            server_sure: call.server.is_some() && server_sure >= EXECUTION_CONFIDENT,
            number,
            ..CallState::default()
        };
        let home = call.host.and_then(|h| self.talk.of_call.get(&h).copied());
        if let Some(home) = home.filter(|_| state.host_sure) {
            (state.session, state.turn) = (Some(home.session), Some(home.turn));
        } else if let Some(g) = call.gateway {
            (state.session, state.turn) = self.by_gateway_session(g);
        }
        if let (Some(g), Some(session)) = (call.gateway, state.session) {
            self.session_of_gateway.insert(g, session);
        }
        let own_number = (call.host.is_some() && !state.host_sure).then_some(self.calls.len() + number);
        let choice = call.host.and_then(|h| linker.host(h).choice);
        if let (Some(choice), Some(home)) = (choice, home) {
            let up = Up { at: home.prompt, confidence: home.confidence };
            let number = own_number.unwrap_or(number);
            self.put(choice, Some(home.session), Some(home.turn), Some(number), up, Rule::Conversation);
        }
        let absent = || {
            let program = call.host.map(|h| linker.seen(linker.host(h).base).program);
            program.and_then(|program| self.absent.gateway.get(&program)).copied().unwrap_or(1.0)
        };
        let gateway_sure = if call.gateway.is_some() { host_gateway } else { absent() };
        let mut top = Up { at: None, confidence: 0.0 };
        if choice.is_some() && state.host_sure {
            top = Up { at: choice, confidence: gateway_sure };
        } else if choice.is_none()
            && let (Some(session), Some(turn)) = (state.session, state.turn)
            && state.host_sure
        {
            // The choice is lost: the prompt is the nearest ancestor.
            let at = self.talk.prompt_of.get(&(session, turn)).copied();
            top = Up { at, confidence: if at.is_some() { gateway_sure } else { 0.0 } };
        }
        let mut up = top;
        let gateway = call.gateway.map(|g| linker.gateway(g));
        let request = gateway.and_then(|gateway| gateway.request);
        if let Some(request) = request {
            self.put(request, state.session, state.turn, Some(number), up, Rule::HostGateway);
            up = Up { at: Some(request), confidence: 1.0 };
        }
        up = self.execution(&call, &state, number, up, server_sure, request.is_some(), server_rule);
        if let Some(response) = gateway.and_then(|gateway| gateway.response) {
            self.put(response, state.session, state.turn, Some(number), up, Rule::Exchange);
            up = Up { at: Some(response), confidence: 1.0 };
        } else if let Some(gateway) = gateway {
            let of = linker.gateway_base(gateway).gateway;
            up.confidence *= self.absent.response.get(&of).copied().unwrap_or(1.0);
        }
        if let (Some(outcome), Some(home)) = (call.host.and_then(|h| linker.host(h).outcome), home) {
            let (number, chain) = if state.host_sure {
                let last = call.host.zip(call.gateway).map_or(1.0, |(h, g)| self.is_last(h, g, g));
                (number, Up { at: up.at, confidence: up.confidence.min(gateway_sure) * last })
            } else {
                // The choice is the parent only where no gateway call is this one.
                (own_number.unwrap_or(number), Up { at: choice, confidence: 1.0 - passed })
            };
            self.put(outcome, Some(home.session), Some(home.turn), Some(number), chain, Rule::Exchange);
        }
        (state.last, state.last_sure) = (up.at, up.confidence);
        (state.top, state.top_sure) = (top.at, top.confidence);
        self.state[number] = state;
    }

    #[expect(clippy::too_many_arguments, reason = "one step of a straight sequence")]
    fn execution(
        &mut self,
        call: &Call,
        state: &CallState,
        number: usize,
        up: Up,
        sure: f64,
        below_request: bool,
        rule: Rule,
    ) -> Up {
        let Some(server) = call.server else {
            let gateway = call.gateway.map(|g| self.linker.gateway(g)).filter(|gateway| !gateway.denied);
            let of = gateway.map(|gateway| self.linker.gateway_base(gateway).server);
            let sure = of.and_then(|server| self.absent.execution.get(&server)).copied().unwrap_or(1.0);
            return Up { at: up.at, confidence: up.confidence * sure };
        };
        let at = self.linker.units.executions[server as usize];
        if !state.server_sure {
            self.put(at, None, None, None, Up { at: None, confidence: 0.0 }, rule);
            let any = call.gateway.and_then(|g| self.linker.gateway_server.get(&g)).map_or(sure, |m| m.any);
            return Up { at: up.at, confidence: up.confidence * (1.0 - any.min(1.0)) };
        }
        let confidence = if below_request { sure } else { sure * up.confidence };
        self.put(at, state.session, state.turn, Some(number), Up { at: up.at, confidence }, rule);
        Up { at: Some(at), confidence: sure }
    }

    /// How sure it is that a host's call ended with this round of its gateway call: not, as far as the host waited longer and
    /// a call of the same kind, for which no host is known, began meanwhile.
    fn is_last(&self, h: u32, first: u32, last: u32) -> f64 {
        let linker = self.linker;
        let (host, whole, round) = (linker.host(h), linker.whole(first), linker.gateway(last));
        let base = linker.gateway_base(round);
        let Some(left) = self.left_over.get(&(base.program, whole.tool)) else { return 1.0 };
        let clock = linker.seen(host.base).clock;
        let ended = host.end.map(|end| linker.host_time(clock, end).unwrap_or(end));
        let (Some(from), Some(until)) = (round.duration.map(|d| linker.gateway_start(round) + d), ended) else {
            return 1.0;
        };
        let slack = 4.0 * linker.noise.stamp + linker.host_overhead.sd;
        let later = left.iter().any(|(start, g)| {
            let other = linker.gateway(*g);
            *start > from - slack && *start < until + slack && linker.gateway_base(other).address == base.address
        });
        if !later {
            return 1.0;
        }
        let gives_state = round.response.is_some_and(|response| linker.seen(response).o.state.is_some());
        let usual = match (host.start, host.end, whole.duration) {
            (Some(start), Some(end), Some(duration)) if !gives_state => {
                let Spread { mean, sd } = linker.host_overhead;
                linker.noise.ratio((end - start - duration - mean).max(0.0), sd)
            }
            _ => linker.noise.ratio(linker.noise.window, 1e-3),
        };
        1.0 / (1.0 + (-usual).exp())
    }

    /// A gateway call without a host's line: its gateway session says where it belongs.
    fn by_gateway_session(&mut self, g: u32) -> (Option<SessionNo>, Option<usize>) {
        let linker = self.linker;
        let gateway = linker.gateway(g);
        let trusted = gateway.session != NONE && !linker.units.dirty.contains(&gateway.session);
        if let Some(session) = self.talk.of_gateway_session.get(&gateway.session).copied().filter(|_| trusted) {
            let at = linker.gateway_start(gateway) + 0.05;
            let turns = self.talk.turns.get(&session);
            let turn = turns.and_then(|turns| turns.iter().rev().find(|(t, _)| *t <= at)).map(|(_, turn)| *turn);
            return (Some(session), turn);
        }
        let lone = self.talk.lone.get(&gateway.session).copied().filter(|_| trusted);
        (Some(lone.unwrap_or_else(|| self.talk.another())), None)
    }

    /// A later round: echo of a request state, or a request sent again.
    fn round(&mut self, number: usize) {
        let call = self.calls[number];
        let (Some(g), Some(lead)) = (call.gateway, call.lead) else { return };
        let linker = self.linker;
        let first = self.state[lead];
        let server_sure = linker.gateway_server.get(&g).map_or(0.0, |m| m.confidence) * (1.0 - self.misled[0]);
        let state = CallState { server_sure: call.server.is_some() && server_sure >= EXECUTION_CONFIDENT, ..first };
        let how = linker.hidden.get(&g).map_or(Round::Resent, |(_, how)| *how);
        let mut up = match how {
            Round::State => Up { at: first.last, confidence: first.last_sure },
            Round::Resent => Up { at: first.top, confidence: first.top_sure },
            Round::Inner => self.outer_request(g),
        };
        if let Some(session) = state.session {
            self.session_of_gateway.insert(g, session);
        }
        let gateway = linker.gateway(g);
        let rule = match how {
            Round::State => Rule::RequestState,
            Round::Resent => Rule::Resent,
            Round::Inner => Rule::Chain,
        };
        if let Some(request) = gateway.request {
            self.put(request, state.session, state.turn, Some(first.number), up, rule);
            up = Up { at: Some(request), confidence: 1.0 };
        }
        up = self.execution(
            &call,
            &state,
            first.number,
            up,
            server_sure,
            gateway.request.is_some(),
            Rule::GatewayServer,
        );
        if let Some(response) = gateway.response {
            self.put(response, state.session, state.turn, Some(first.number), up, Rule::Exchange);
            up = Up { at: Some(response), confidence: 1.0 };
        }
        if how == Round::Inner {
            // What the inner gateway answered, the outer one passed on.
            if let Some(response) = self.calls[lead].gateway.and_then(|outer| linker.gateway(outer).response) {
                let sure = linker.outer_of(g).map_or(0.0, |(_, sure)| sure);
                let up = Up { at: up.at, confidence: up.confidence.min(sure) };
                self.put(response, first.session, first.turn, Some(first.number), up, Rule::Chain);
            }
            self.state[number] = state;
            return;
        }
        let host = self.calls[lead].host.filter(|_| first.host_sure);
        if let Some((h, outcome)) = host.and_then(|h| Some((h, linker.host(h).outcome?)))
            && let Some(place) = self.placed.get(&outcome).copied()
        {
            let through = linker.host_gateway.get(&h).map_or(1.0, |m| m.confidence);
            let last = self.calls[lead].gateway.map_or(1.0, |first| self.is_last(h, first, g));
            let up = Up { at: up.at, confidence: up.confidence.min(through) * last };
            self.put(outcome, place.session, place.turn, place.call, up, Rule::Exchange);
        }
        (self.state[lead].last, self.state[lead].last_sure) = (up.at, up.confidence);
        self.state[number] = state;
    }

    /// The request of the outer gateway that an inner one's call was sent for.
    fn outer_request(&self, inner: u32) -> Up {
        let outer = self.linker.outer_of(inner);
        let request = outer.and_then(|(outer, _)| self.linker.gateway(outer).request);
        Up { at: request, confidence: outer.map_or(0.0, |(_, sure)| sure) }
    }

    fn downstream(&mut self, down: &Downstream<'_>) {
        let linker = self.linker;
        let least = linker.settings.downstream_confident(linker.noise);
        let mut requests: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let sure = || down.placed.iter().filter(|(_, placed)| placed.confidence >= least);
        for (line, placed) in
            sure().filter(|(line, _)| down.lines[**line].is_http() && down.lines[**line].class != LineClass::Shared)
        {
            requests.entry(placed.call).or_default().push(*line);
        }
        // A statement hangs below the request that succeeded, else a page, else a failed one.
        let rank = |line: &usize| {
            let line = &down.lines[*line];
            let class = match &line.class {
                LineClass::Main => 0,
                LineClass::Page(page) if page == "2" => 1,
                LineClass::Failed => 3,
                _ => 2,
            };
            (class, line.http.is_some_and(|http| http.status >= 400), line.at)
        };
        requests.values_mut().for_each(|lines| lines.sort_by_key(rank));
        // A call of which requests are left open may own one that its statements hang below; else its request was lost.
        let open = down.rivals.iter().filter(|(line, _)| {
            let line = **line as usize;
            down.lines[line].is_http() && down.placed.get(&line).is_none_or(|placed| placed.confidence < least)
        });
        let contested: BTreeSet<usize> = open
            .flat_map(|(_, calls)| calls.iter().filter(|(_, score)| *score > 0.0).map(|(call, _)| *call as usize))
            .collect();
        // Where no request at all found its call, any of them may be what a statement hangs below.
        let strange = down.lines.iter().filter(|line| line.is_http() && requests.is_empty()).count();
        let lacking =
            sure().filter(|(line, placed)| !down.lines[**line].is_http() && !requests.contains_key(&placed.call));
        let absent = 1.0 - (strange as f64 / (lacking.count() as f64 + 1.0)).min(0.95);
        for (line, placed) in sure() {
            let state = self.state[placed.call];
            let call = &self.calls[placed.call];
            let known = call.server.is_none() || state.server_sure;
            let session = state.session.filter(|_| known);
            let turn = state.turn.filter(|_| session.is_some());
            let number = session.map(|_| state.number);
            let own = &down.lines[*line];
            let (parent, direct) = match requests.get(&placed.call).filter(|_| !own.is_http()) {
                Some(requests) => (Some(down.lines[requests[0]].at), 1.0),
                None if own.is_http() => (self.origin(call, &state), 1.0),
                None if contested.contains(&placed.call) => (self.origin(call, &state), CONTESTED),
                None => (self.origin(call, &state), absent),
            };
            let up = Up { at: parent, confidence: placed.confidence * placed.led * (1.0 - self.misled[1]) * direct };
            self.put(own.at, session, turn, number, up, Rule::Downstream);
        }
    }

    /// What a downstream line of a call hangs below.
    fn origin(&self, call: &Call, state: &CallState) -> Option<usize> {
        let execution = call.server.map(|server| self.linker.units.executions[server as usize]);
        let request = call.gateway.and_then(|g| self.linker.gateway(g).request);
        let choice = call.host.and_then(|h| self.linker.host(h).choice).filter(|_| state.host_sure);
        execution.filter(|_| state.server_sure).or(request).or(execution).or(choice)
    }

    /// Openings follow their gateway session; of one that is not to be trusted, the first call after them.
    fn openings(&mut self) {
        const OPENING_BEFORE_CALL: f64 = 0.2;
        const STAMP_BEFORE: f64 = 0.005;
        let linker = self.linker;
        for at in linker.units.openings.clone() {
            let s = linker.seen(at);
            let key = linker.units.opening_session.get(&at).copied().unwrap_or(NONE);
            let session = if key == NONE {
                None
            } else if linker.units.dirty.contains(&key) {
                let after = linker.units.gateways.iter().enumerate().filter(|(_, call)| {
                    let wait = call.start - s.t;
                    call.session == key
                        && linker.gateway_base(call).server == s.server
                        && (-STAMP_BEFORE..OPENING_BEFORE_CALL).contains(&wait)
                });
                let first = after.min_by(|a, b| a.1.start.total_cmp(&b.1.start));
                first.and_then(|(g, _)| self.session_of_gateway.get(&(g as u32)).copied())
            } else {
                let known = self.talk.of_gateway_session.get(&key).or_else(|| self.talk.lone.get(&key)).copied();
                Some(known.unwrap_or_else(|| {
                    let session = self.talk.another();
                    self.talk.lone.insert(key, session);
                    session
                }))
            };
            self.put(at, session, None, None, Up { at: None, confidence: 0.0 }, Rule::Opening);
        }
    }

    /// Second deliveries stand where the first does; identical HTTP lines only when they found no place of their own.
    fn twins(&mut self, down: &Downstream<'_>) {
        for (copy, first) in &self.linker.units.twins {
            if let Some(place) = self.placed.get(first).copied() {
                self.placed.insert(*copy, Place { twin_of: Some(*first), rule: Rule::Twin, ..place });
            }
        }
        let mut first: BTreeMap<(Name, u64), usize> = BTreeMap::new();
        let key = |at: usize| Some((self.linker.seen(at).clock, self.linker.seen(at).o.twin?));
        let mut copies = Vec::new();
        for line in down.lines.iter().filter(|line| line.is_http()) {
            if self.placed.get(&line.at).is_some_and(|place| place.session.is_some())
                && let Some(key) = key(line.at)
            {
                first.entry(key).or_insert(line.at);
            }
        }
        for line in down.lines.iter().filter(|line| line.is_http()) {
            let placed = self.placed.get(&line.at).is_some_and(|place| place.session.is_some());
            if let Some(original) = key(line.at).and_then(|key| first.get(&key)).filter(|_| !placed) {
                copies.push((line.at, *original));
            }
        }
        for (copy, original) in copies {
            let place = self.placed[&original];
            self.placed.insert(copy, Place { twin_of: Some(original), rule: Rule::Twin, ..place });
        }
    }
}
