//! Units: what one source says about one call, put together exactly, before anything is guessed.
//!
//! - *host call*: choice and outcome with the same (workstation, instance, user, conversation, tool-call id)
//! - *gateway call*: request and response with the same (gateway, session, address, program, server, JSON-RPC id),
//!   paired by the smallest difference between the stamps and the measured duration; where ids repeat (MCP without
//!   sessions), pairs of arguments and answer that a host reports go before others
//! - *gateway session*: (gateway, `Mcp-Session-Id`, address, program, subject). Subject and address in the key keep
//!   replayed and colliding ids apart
//!
//! Guard: a session key under which one server is opened twice, or one JSON-RPC id is used twice at one
//! server, names more than one session; so does one that reaches several servers where hardly any other does.
//! It is *dirty* and joins nothing by itself.
//!
//! So does a tool-call id that several choices of one scope bear (numbered anew in every request, or a constant): which of
//! them an outcome belongs to is said by what gateways report was asked and answered, else by their order.
//!
//! A byte-identical line of one source is the same delivery twice, except where stamps are whole seconds:
//! there twins are legitimate.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::aliases;
use super::far::{self, Far};
use super::likelihood::{median, quantile};
use super::names::{NONE, Name, Names};
use super::observation::{Act, Observation};

/// An observation with its names as numbers and its time in seconds since the first observation.
#[derive(Debug, Clone)]
pub(super) struct Seen<'a> {
    pub(super) o: &'a Observation,
    pub(super) t: f64,
    /// What was taken off its stamp, seconds, because its clock is far off.
    pub(super) moved: f64,
    pub(super) act: Act,
    pub(super) clock: Name,
    pub(super) program: Name,
    pub(super) instance: Name,
    pub(super) workstation: Name,
    pub(super) user: Name,
    pub(super) conversation: Name,
    pub(super) model: Name,
    pub(super) gateway: Name,
    pub(super) session: Name,
    pub(super) address: Name,
    pub(super) addresses: Vec<Name>,
    pub(super) subject: Name,
    pub(super) rpc: Name,
    pub(super) tool_call: Name,
    pub(super) connection: Name,
    pub(super) server: Name,
    pub(super) tool: Name,
    pub(super) trace: Name,
    pub(super) span: Name,
    pub(super) parent_span: Name,
    pub(super) carried: Option<(Name, Name)>,
    pub(super) arguments: Vec<Name>,
    pub(super) result: Name,
    pub(super) state: Name,
    pub(super) duration: f64,
}

impl<'a> Seen<'a> {
    fn new(o: &'a Observation, base: i64, names: &mut Names<'a>) -> Seen<'a> {
        let addresses: Vec<Name> = o.addresses.iter().map(|address| names.of(address)).collect();
        Seen {
            o,
            t: (o.time_unix_nano.saturating_sub(base)) as f64 / 1e9,
            moved: 0.0,
            act: o.act,
            clock: names.of(&o.clock),
            program: names.maybe(o.program.as_ref()),
            instance: names.maybe(o.instance.as_ref()),
            workstation: names.maybe(o.workstation.as_ref()),
            user: names.maybe(o.user.as_ref()),
            conversation: names.maybe(o.conversation.as_ref()),
            model: names.maybe(o.model.as_ref()),
            gateway: names.maybe(o.gateway.as_ref()),
            session: names.maybe(o.mcp_session.as_ref()),
            address: addresses.first().copied().unwrap_or(NONE),
            addresses,
            subject: names.maybe(o.subject.as_ref()),
            rpc: names.maybe(o.rpc_id.as_ref()),
            tool_call: names.maybe(o.tool_call_id.as_ref()),
            connection: names.maybe(o.connection.as_ref()),
            server: names.maybe(o.server.as_ref()),
            tool: names.maybe(o.tool.as_ref()),
            trace: names.maybe(o.trace_id.as_ref()),
            span: names.maybe(o.span_id.as_ref()),
            parent_span: names.maybe(o.parent_span_id.as_ref()),
            carried: o.carried_context.as_ref().map(|(trace, span)| (names.of(trace), names.of(span))),
            arguments: o.arguments.digests.iter().map(|digest| names.of(digest)).collect(),
            result: o.result.digests.first().map_or(NONE, |digest| names.of(digest)),
            state: names.maybe(o.state.as_ref()),
            duration: o.duration.unwrap_or(0.0).max(0.0),
        }
    }

    /// Whether both know arguments under one digest.
    pub(super) fn is_host(&self) -> bool {
        matches!(self.act, Act::Prompt | Act::Choice | Act::Outcome | Act::Answer)
    }
}

/// A call as a host saw it.
#[derive(Debug, Clone)]
pub(super) struct HostCall {
    pub(super) choice: Option<usize>,
    pub(super) outcome: Option<usize>,
    /// One of the two.
    pub(super) base: usize,
    pub(super) start: Option<f64>,
    pub(super) end: Option<f64>,
    /// (workstation, instance, user)
    pub(super) who: Name,
}

/// A call as a gateway saw it, or several rounds of it.
#[derive(Debug, Clone)]
pub(super) struct GatewayCall {
    pub(super) request: Option<usize>,
    pub(super) response: Option<usize>,
    /// What says how it ended: the response, or the request where one line tells of the whole call.
    pub(super) answer: Option<usize>,
    /// One of the two.
    pub(super) base: usize,
    pub(super) tool: Name,
    pub(super) arguments: Vec<Name>,
    pub(super) start: f64,
    pub(super) end: Option<f64>,
    pub(super) duration: Option<f64>,
    pub(super) result: Name,
    pub(super) subject: Name,
    /// Session key, [`NONE`] where there is none.
    pub(super) session: Name,
    pub(super) denied: bool,
    pub(super) failed: bool,
}

/// Everything put together exactly.
#[derive(Debug)]
pub(super) struct Units<'a> {
    pub(super) seen: Vec<Seen<'a>>,
    pub(super) hosts: Vec<HostCall>,
    pub(super) gateways: Vec<GatewayCall>,
    /// Indices of `seen`.
    pub(super) openings: Vec<usize>,
    /// Indices of `seen`.
    pub(super) executions: Vec<usize>,
    /// Indices of `seen`.
    pub(super) downstream: Vec<usize>,
    /// Session keys that name more than one session.
    pub(super) dirty: BTreeSet<Name>,
    /// Second deliveries: index of `seen` to the first.
    pub(super) twins: BTreeMap<usize, usize>,
    /// Clocks that stamp whole seconds.
    pub(super) whole_seconds: BTreeSet<Name>,
    /// Median distance of a request's stamp from its response's less the duration.
    pub(super) stamp_noise: f64,
    /// Session key of an opening.
    pub(super) opening_session: HashMap<usize, Name>,
    /// What was taken off the stamps of clocks that are far off, seconds.
    pub(super) far: Far,
    /// Choices and outcomes whose tool-call id stands for several calls.
    pub(super) reused_tool_calls: Vec<usize>,
    /// Host lines whose conversation id names more than one conversation of their bearer.
    pub(super) constant_conversations: Vec<usize>,
}

/// Where ids repeat, a pair that no host reports counts as this many scales of the stamps further apart.
const UNHEARD_SCALES: f64 = 2.0;
/// Where fewer than this share of the session keys reach several servers, a session is one server's.
const SEVERAL_SERVERS: f64 = 0.05;
/// Scale of the stamps at least, seconds.
const PAIR_FLOOR: f64 = 0.003;

impl<'a> Units<'a> {
    /// `observations` are sorted by time and id.
    pub(super) fn of(observations: &'a [Observation]) -> Units<'a> {
        let mut names = Names::default();
        let base = observations.first().map_or(0, |o| o.time_unix_nano);
        let mut seen: Vec<Seen<'a>> = observations.iter().map(|o| Seen::new(o, base, &mut names)).collect();
        let whole_seconds = whole_seconds(&seen);
        let (kept, twins) = twins(&seen, &whole_seconds);
        let far = far::align(&mut seen, &kept);
        aliases::unify(&mut seen, &kept);
        let (mut hosts, mut reused_tool_calls) = host_calls(&seen, &kept, &mut names);
        let constant = constant_conversations(&seen, &kept, &hosts);
        if !constant.is_empty() {
            constant.iter().for_each(|at| seen[*at].conversation = NONE);
            (hosts, reused_tool_calls) = host_calls(&seen, &kept, &mut names);
        }
        let mut units = Units {
            hosts,
            gateways: Vec::new(),
            openings: of_act(&seen, &kept, &[Act::Opening]),
            executions: of_act(&seen, &kept, &[Act::Execution]),
            downstream: of_act(&seen, &kept, &[Act::Http, Act::Statement]),
            dirty: BTreeSet::new(),
            twins,
            whole_seconds,
            stamp_noise: 0.0,
            opening_session: HashMap::new(),
            far,
            reused_tool_calls,
            constant_conversations: constant,
            seen,
        };
        units.gateway_calls(&kept, &mut names);
        units.guard();
        units
    }

    fn gateway_calls(&mut self, kept: &[usize], names: &mut Names<'a>) {
        let seen = &self.seen;
        let mut by_key: BTreeMap<[Name; 6], (Vec<usize>, Vec<usize>)> = BTreeMap::new();
        let mut subjects: BTreeMap<[Name; 4], BTreeSet<Name>> = BTreeMap::new();
        let place = |s: &Seen| [s.gateway, s.session, s.address, s.program];
        for at in kept.iter().copied() {
            let s = &seen[at];
            let key = [s.gateway, s.session, s.address, s.program, s.server, s.rpc];
            match s.act {
                Act::Request => by_key.entry(key).or_default().0.push(at),
                Act::Response => by_key.entry(key).or_default().1.push(at),
                Act::Opening => {}
                _ => continue,
            }
            if s.act != Act::Response {
                subjects.entry(place(s)).or_default().insert(s.subject);
            }
        }
        let away =
            |request: usize, response: usize| (seen[response].t - seen[response].duration - seen[request].t).abs();
        let heard = Heard::of(seen, &self.hosts);
        let lone = by_key.values().filter(|(q, p)| q.len() == 1 && p.len() == 1);
        let mut gaps: Vec<f64> = lone.map(|(q, p)| away(q[0], p[0])).collect();
        gaps.sort_unstable_by(f64::total_cmp);
        let alone_max = quantile(&gaps, 0.995).unwrap_or(0.0).clamp(1.0, 10.0);
        let rivals_max = (1.5 * quantile(&gaps, 0.95).unwrap_or(0.0)).clamp(0.02, 3.0);
        let unheard = UNHEARD_SCALES * quantile(&gaps, 0.95).unwrap_or(0.0).max(PAIR_FLOOR);
        let mut calls = Vec::new();
        let mut stamp_gaps = Vec::new();
        for (requests, responses) in by_key.values() {
            let limit = if requests.len() == 1 && responses.len() == 1 { alone_max } else { rivals_max };
            let pairs = nearest_pairs(requests, responses, limit, &away, &|request, response| {
                away(request, response) + if heard.has(&seen[request], &seen[response]) { 0.0 } else { unheard }
            });
            let mut answered = BTreeSet::new();
            for request in requests {
                let response = pairs.get(request).copied();
                if let Some(response) = response {
                    answered.insert(response);
                    stamp_gaps.push(away(*request, response));
                }
                calls.push(gateway_call(seen, Some(*request), response));
            }
            let rest = responses.iter().filter(|response| !answered.contains(*response));
            calls.extend(rest.map(|response| gateway_call(seen, None, Some(*response))));
        }
        for call in &mut calls {
            let s = &seen[call.base];
            let own = call.request.map(|request| seen[request].subject);
            let only = || subjects.get(&place(s)).filter(|known| known.len() == 1)?.first().copied();
            call.subject = own.or_else(only).unwrap_or(NONE);
            if s.session != NONE && call.subject != NONE {
                call.session = names.tuple(&[s.gateway, s.session, s.address, s.program, call.subject]);
            }
        }
        calls.sort_by(|a, b| a.start.total_cmp(&b.start).then(a.base.cmp(&b.base)));
        for at in &self.openings {
            let s = &seen[*at];
            if s.session != NONE {
                let key = names.tuple(&[s.gateway, s.session, s.address, s.program, s.subject]);
                self.opening_session.insert(*at, key);
            }
        }
        self.gateways = calls;
        self.stamp_noise = median(&mut stamp_gaps);
    }

    fn guard(&mut self) {
        let mut numbered: HashMap<(Name, Name, Name), u32> = HashMap::new();
        let mut opened: HashMap<(Name, Name), u32> = HashMap::new();
        for call in self.gateways.iter().filter(|call| call.session != NONE) {
            let s = &self.seen[call.base];
            *numbered.entry((call.session, s.server, s.rpc)).or_default() += 1;
        }
        for at in &self.openings {
            if let Some(session) = self.opening_session.get(at) {
                *opened.entry((*session, self.seen[*at].server)).or_default() += 1;
            }
        }
        let mut reached: BTreeMap<Name, BTreeSet<Name>> = BTreeMap::new();
        for call in self.gateways.iter().filter(|call| call.session != NONE) {
            reached.entry(call.session).or_default().insert(self.seen[call.base].server);
        }
        for (at, session) in &self.opening_session {
            reached.entry(*session).or_default().insert(self.seen[*at].server);
        }
        let several = reached.iter().filter(|(_, servers)| servers.len() > 1);
        if (several.clone().count() as f64 + 1.0) < SEVERAL_SERVERS * reached.len() as f64 {
            self.dirty.extend(several.map(|(session, _)| *session));
        }
        self.dirty.extend(numbered.iter().filter(|(_, count)| **count > 1).map(|(key, _)| key.0));
        self.dirty.extend(opened.iter().filter(|(_, count)| **count > 1).map(|(key, _)| key.0));
    }
}

fn of_act(seen: &[Seen], kept: &[usize], acts: &[Act]) -> Vec<usize> {
    kept.iter().copied().filter(|at| acts.contains(&seen[*at].act)).collect()
}

/// Clocks none of whose stamps has a fraction of a second; few stamps prove nothing unless all are whole.
fn whole_seconds(seen: &[Seen]) -> BTreeSet<Name> {
    let mut fractions: BTreeMap<Name, bool> = BTreeMap::new();
    for s in seen {
        *fractions.entry(s.clock).or_default() |= s.o.time_unix_nano % 1_000_000_000 != 0;
    }
    fractions.into_iter().filter(|(_, fraction)| !fraction).map(|(clock, _)| clock).collect()
}

/// What is kept, and which is whose second delivery.
fn twins(seen: &[Seen], whole_seconds: &BTreeSet<Name>) -> (Vec<usize>, BTreeMap<usize, usize>) {
    let mut first: HashMap<(Name, u64), usize> = HashMap::new();
    let (mut kept, mut twins) = (Vec::with_capacity(seen.len()), BTreeMap::new());
    for (at, s) in seen.iter().enumerate() {
        let Some(twin) = s.o.twin.filter(|_| s.act != Act::Http || !whole_seconds.contains(&s.clock)) else {
            kept.push(at);
            continue;
        };
        let known = *first.entry((s.clock, twin)).or_insert(at);
        if known == at {
            kept.push(at);
        } else {
            twins.insert(at, known);
        }
    }
    (kept, twins)
}

/// Host clocks may step back between choice and outcome; more than this is another call.
const STEP_BACK_MAX: f64 = 12.0;

fn host_calls<'a>(seen: &[Seen<'a>], kept: &[usize], names: &mut Names<'a>) -> (Vec<HostCall>, Vec<usize>) {
    let mut by_id: BTreeMap<[Name; 5], Vec<usize>> = BTreeMap::new();
    for at in of_act(seen, kept, &[Act::Choice, Act::Outcome]) {
        let s = &seen[at];
        by_id.entry([s.workstation, s.instance, s.user, s.conversation, s.tool_call]).or_default().push(at);
    }
    let (mut calls, mut reused) = (Vec::new(), Vec::new());
    let mut passed: Option<Passed> = None;
    for (key, mut members) in by_id {
        members.sort_by(|a, b| {
            let late = |at: &usize| seen[*at].act == Act::Outcome;
            seen[*a].t.total_cmp(&seen[*b].t).then(late(a).cmp(&late(b))).then(a.cmp(b))
        });
        if let [first, second] = members[..]
            && seen[first].act == Act::Outcome
            && seen[second].act == Act::Choice
            && seen[second].t - seen[first].t < STEP_BACK_MAX
            && seen[first].tool == seen[second].tool
        {
            members.reverse();
        }
        let who = names.tuple(&key[..3]);
        let choices = members.iter().filter(|at| seen[**at].act == Act::Choice).count();
        if key[4] != NONE && choices > 1 {
            reused.extend_from_slice(&members);
        }
        let mut open: Vec<usize> = Vec::new();
        for at in members {
            if seen[at].act == Act::Choice {
                open.push(calls.len());
                let start = Some(seen[at].t);
                calls.push(HostCall { choice: Some(at), outcome: None, base: at, start, end: None, who });
                continue;
            }
            let of_tool = |call: &usize| seen[calls[*call].base].tool == seen[at].tool;
            let mut places: Vec<usize> = (0..open.len()).filter(|place| of_tool(&open[*place])).collect();
            if places.len() > 1 {
                // Which of them is answered so, as far as gateways tell.
                let passed = passed.get_or_insert_with(|| Passed::of(seen, kept));
                let told: Vec<usize> = places
                    .iter()
                    .copied()
                    .filter(|place| passed.has(&seen[calls[open[*place]].base], &seen[at]))
                    .collect();
                if !told.is_empty() {
                    places = told;
                }
            }
            if let Some(place) = places.first() {
                let call = open.remove(*place);
                (calls[call].outcome, calls[call].end) = (Some(at), Some(seen[at].t));
            } else {
                let end = Some(seen[at].t);
                calls.push(HostCall { choice: None, outcome: Some(at), base: at, start: None, end, who });
            }
        }
    }
    calls.sort_by(|a, b| {
        let time = |call: &HostCall| call.start.or(call.end).unwrap_or(0.0);
        time(a).total_cmp(&time(b)).then(a.base.cmp(&b.base))
    });
    (calls, reused)
}

/// Prompts that come while a call of their conversation is open, and their share, from which on an id names several.
const INTERRUPTIONS: usize = 3;
const INTERRUPTED: f64 = 0.2;

/// Host lines whose conversation id is the name of user, machine or program, or one under which prompts come again and again
/// while a call is open: what it names is more than a conversation.
fn constant_conversations(seen: &[Seen<'_>], kept: &[usize], hosts: &[HostCall]) -> Vec<usize> {
    let key = |s: &Seen<'_>| [s.workstation, s.instance, s.user, s.conversation];
    let lines: Vec<usize> =
        kept.iter().copied().filter(|at| seen[*at].is_host() && seen[*at].conversation != NONE).collect();
    let mut calls: HashMap<[Name; 4], Vec<(f64, f64)>> = HashMap::new();
    for host in hosts {
        if let (Some(start), Some(end)) = (host.start, host.end) {
            calls.entry(key(&seen[host.base])).or_default().push((start, end));
        }
    }
    // The latest end of the calls that began before each.
    let mut ends: HashMap<[Name; 4], Vec<(f64, f64)>> = HashMap::new();
    for (key, mut calls) in calls {
        calls.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mut latest = f64::NEG_INFINITY;
        let running = calls.into_iter().map(|(start, end)| {
            latest = latest.max(end);
            (start, latest)
        });
        ends.insert(key, running.collect());
    }
    let mut prompts: HashMap<[Name; 4], (usize, usize)> = HashMap::new();
    for s in lines.iter().map(|at| &seen[*at]).filter(|s| s.act == Act::Prompt) {
        let known = prompts.entry(key(s)).or_default();
        known.0 += 1;
        let ends = ends.get(&key(s)).map_or(&[][..], Vec::as_slice);
        let before = ends.partition_point(|(start, _)| *start < s.t);
        known.1 += usize::from(before.checked_sub(1).is_some_and(|last| ends[last].1 > s.t));
    }
    let names = |s: &Seen<'_>| [s.user, s.workstation, s.instance, s.program].contains(&s.conversation);
    let several = |s: &Seen<'_>| {
        let (all, inside) = prompts.get(&key(s)).copied().unwrap_or_default();
        inside >= INTERRUPTIONS && inside as f64 >= INTERRUPTED * all as f64
    };
    lines.into_iter().filter(|at| names(&seen[*at]) || several(&seen[*at])).collect()
}

/// What gateways say was asked and answered, by answer: digests of the arguments. Of answers that one call alone has.
struct Passed(HashMap<Name, Option<Vec<Name>>>);

impl Passed {
    fn of(seen: &[Seen<'_>], kept: &[usize]) -> Passed {
        let key = |s: &Seen<'_>| [s.gateway, s.session, s.address, s.program, s.server, s.rpc];
        let mut asked: HashMap<[Name; 6], Option<usize>> = HashMap::new();
        for at in of_act(seen, kept, &[Act::Request]) {
            asked.entry(key(&seen[at])).and_modify(|known| *known = None).or_insert(Some(at));
        }
        let mut passed: HashMap<Name, Option<Vec<Name>>> = HashMap::new();
        for at in of_act(seen, kept, &[Act::Request, Act::Response]).into_iter().filter(|at| seen[*at].result != NONE) {
            let s = &seen[at];
            let request = if s.act == Act::Request { Some(at) } else { asked.get(&key(s)).copied().flatten() };
            let arguments = request.map(|request| seen[request].arguments.clone());
            passed.entry(s.result).and_modify(|known| *known = None).or_insert(arguments);
        }
        Passed(passed)
    }

    fn has(&self, choice: &Seen<'_>, outcome: &Seen<'_>) -> bool {
        let arguments = self.0.get(&outcome.result).and_then(Option::as_ref).filter(|_| outcome.result != NONE);
        arguments.is_some_and(|arguments| choice.arguments.iter().any(|digest| arguments.contains(digest)))
    }
}

/// What hosts say was asked and answered: program, tool, digest of the arguments, answer.
struct Heard(HashSet<(Name, Name, Name, Answer)>);

/// An answer by its digest, else by its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Answer {
    Digest(Name),
    Bytes(u64),
}

impl Answer {
    fn of(s: &Seen<'_>) -> Option<Answer> {
        if s.result != NONE { Some(Answer::Digest(s.result)) } else { s.o.result.bytes.map(Answer::Bytes) }
    }
}

impl Heard {
    fn of(seen: &[Seen<'_>], hosts: &[HostCall]) -> Heard {
        let mut heard = HashSet::new();
        for (choice, outcome) in hosts.iter().filter_map(|host| Some((&seen[host.choice?], &seen[host.outcome?]))) {
            let answers = Answer::of(outcome).into_iter().chain(outcome.o.result.bytes.map(Answer::Bytes));
            for answer in answers {
                let of = |digest: &Name| (choice.program, choice.tool, *digest, answer);
                heard.extend(choice.arguments.iter().map(of));
            }
        }
        Heard(heard)
    }

    fn has(&self, request: &Seen<'_>, response: &Seen<'_>) -> bool {
        let Some(answer) = Answer::of(response) else { return false };
        request.arguments.iter().any(|digest| self.0.contains(&(request.program, request.tool, *digest, answer)))
    }
}

/// Cheapest pairs first, each member once.
fn nearest_pairs(
    requests: &[usize],
    responses: &[usize],
    limit: f64,
    away: &impl Fn(usize, usize) -> f64,
    cost: &impl Fn(usize, usize) -> f64,
) -> BTreeMap<usize, usize> {
    let mut pairs: Vec<(f64, usize, usize)> = Vec::new();
    for request in requests {
        // A key that repeats without end (a constant id) must not cost the square of its bearers.
        let near = responses.iter().filter(|response| away(*request, **response) <= limit);
        pairs.extend(near.map(|response| (cost(*request, *response), *request, *response)));
    }
    pairs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let (mut paired, mut used) = (BTreeMap::new(), BTreeSet::new());
    for (_, request, response) in pairs {
        if !paired.contains_key(&request) && used.insert(response) {
            paired.insert(request, response);
        }
    }
    paired
}

fn gateway_call(seen: &[Seen], request: Option<usize>, response: Option<usize>) -> GatewayCall {
    let base = request.or(response).unwrap_or(0);
    let whole = request.filter(|request| seen[*request].o.duration.is_some());
    let answer = response.or(whole);
    let duration = answer.and_then(|answer| seen[answer].o.duration);
    let end = response.map(|response| seen[response].t);
    let end = end.or_else(|| whole.map(|whole| seen[whole].t + seen[whole].duration));
    let implied = response.map(|response| seen[response].t - seen[response].duration);
    // Stamps are late, never early.
    let asked = request.map(|request| seen[request].t);
    let start = match (asked, implied) {
        (Some(asked), Some(implied)) => asked.min(implied),
        (asked, implied) => asked.or(implied).unwrap_or(0.0),
    };
    let denied = [request, response].iter().flatten().any(|at| seen[*at].o.denied);
    GatewayCall {
        request,
        response,
        answer,
        base,
        tool: request.map_or(NONE, |request| seen[request].tool),
        arguments: request.map_or(Vec::new(), |request| seen[request].arguments.clone()),
        start,
        end,
        duration,
        result: answer.map_or(NONE, |answer| seen[answer].result),
        subject: NONE,
        session: NONE,
        denied,
        failed: answer.is_some_and(|answer| seen[answer].o.failed == Some(true)),
    }
}
