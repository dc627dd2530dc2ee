//! Frames of taps: a call that a tap saw between two programs, found in what stands before and behind it.
//!
//! A tap stands anywhere: between host and gateway, gateway and server, host and server. So its calls are compared with the
//! calls of hosts, gateways, servers and other taps, clock against clock: equal arguments, one tool (a gateway may put a
//! prefix before its name), starts that differ by what they usually differ by. Which side is the outer one follows from
//! durations, else from the starts. A call stands below the nearest outer one. Where nearly every call that one clock stamps is
//! another's, too, a weak candidate is likelier than none.
//!
//! Score = L(start difference less offset, difference of durations; or anywhere inside, held up) + an inner call is no longer
//! than its outer one (-10) + results (taps only; how often true pairs
//! differ is learned) + ids (+20 for a span or request id that both bear).
//!
//! A link made here is one of parents only: frames have connections, traces and requests that say where they belong, so no
//! session is judged. A session that the linker made for gateway calls of which no host is known is given up where taps
//! saw who called, or where it bears an id of such a call.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::assignment::{Candidate, assign, ranked};
use super::gateway_server::{EXECUTION_CONFIDENT, SURE, worth_of_presence};
use super::likelihood::{median, robust};
use super::linker::Linker;
use super::names::{NONE, Name};
use super::observation::Act;
use super::placement::{Place, Rule};

const NO_PARTNER: f64 = 2.0;
/// However often a clock's calls are another's, that adds no more than this.
const PRESENCE_MOST: f64 = 4.0;
/// Start and duration hang together.
const TRUST: f64 = 0.8;
/// Pairs that have to agree before an offset is learned; until then clocks are taken to agree to [`CLOCKS_AGREE`].
const LEARN_FROM: f64 = 3.0;
/// Two machines whose clocks are kept in time, and what a call takes from one to the other, seconds.
const CLOCKS_AGREE: f64 = 0.3;
/// Two taps of one machine, seconds.
const CLOCKS_OF_TAPS: f64 = 0.001;
/// An inner call that is longer than its outer one by more than this is another call, seconds.
const LONGER: f64 = 0.05;

/// Calls behind one with equal arguments that it is compared with.
const NEAR_MAX: usize = 256;
/// Share of calls that something holds up on their way.
const HELD_UP: f64 = 0.2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Side {
    Host,
    Gateway,
    Server,
    Tap,
}

/// A call as one of the sides saw it.
#[derive(Debug)]
struct View<'l> {
    side: Side,
    /// The observation that stands for it.
    at: usize,
    clock: Name,
    connection: Name,
    start: f64,
    duration: Option<f64>,
    tool: &'l str,
    arguments: &'l [Name],
    result: Name,
}

/// Where a frame, or the call below one, stands.
#[derive(Debug)]
pub(super) struct FramePlace {
    parent: Option<usize>,
    confidence: f64,
    pub(super) evidence: Vec<(&'static str, f64)>,
    pub(super) rivals: Vec<(usize, f64)>,
}

/// By observation.
pub(super) type Frames = BTreeMap<usize, FramePlace>;

/// What two clocks taught about each other.
#[derive(Debug, Clone, Copy)]
struct Pairing {
    offset: f64,
    sd: f64,
    /// Outer duration less inner one.
    excess: Option<(f64, f64)>,
    /// What equal results and unequal ones are worth between two taps: a gateway may rewrite them.
    results: [f64; 2],
}

impl<'a> Linker<'a> {
    /// Finds the frames of taps in what others saw.
    pub(super) fn link_frames(&self) -> Frames {
        let views = self.views();
        if !views.iter().any(|view| view.side == Side::Tap) {
            return Frames::new();
        }
        let mut by_clocks: BTreeMap<(Name, Name), Vec<(usize, usize)>> = BTreeMap::new();
        for (a, b) in self.near(&views) {
            let (a, b) = if views[a].clock <= views[b].clock { (a, b) } else { (b, a) };
            by_clocks.entry((views[a].clock, views[b].clock)).or_default().push((a, b));
        }
        let mut best: BTreeMap<usize, (f64, FramePlace)> = BTreeMap::new();
        let mut open: Frames = Frames::new();
        for pairs in by_clocks.into_values() {
            let (pairs, pairing) = self.learn(&views, pairs);
            let evidence =
                |outer: u32, inner: u32| self.frame_evidence(&views, outer as usize, inner as usize, pairing);
            let mut candidates: Vec<Candidate> = pairs
                .iter()
                .map(|(outer, inner)| {
                    let (row, column) = (*outer as u32, *inner as u32);
                    let score = evidence(row, column).iter().map(|(_, weight)| weight).sum();
                    Candidate { row, column, score }
                })
                .collect();
            let presence = presence(&views, &candidates);
            candidates.iter_mut().for_each(|c| c.score += presence);
            let score = |outer: u32, inner: u32| {
                let mut pieces = evidence(outer, inner);
                if presence > 0.0 {
                    pieces.push(("presence", presence));
                }
                pieces
            };
            let rivals = ranked(&candidates, true, NO_PARTNER);
            let named = |inner: u32| -> Vec<(usize, f64)> {
                let rivals = rivals.get(&inner).into_iter().flatten();
                rivals.map(|(outer, score)| (views[*outer as usize].at, *score)).collect()
            };
            let found = assign(&candidates, NO_PARTNER, TRUST);
            for (outer, m) in &found {
                let (place, at) = (views[*outer as usize].at, views[m.column as usize].at);
                let sure = m.confidence >= EXECUTION_CONFIDENT;
                let frame = FramePlace {
                    parent: sure.then_some(place),
                    confidence: m.confidence,
                    evidence: score(*outer, m.column),
                    rivals: named(m.column),
                };
                if !sure {
                    open.entry(at).or_insert(frame);
                    continue;
                }
                // The nearest outer call: the one that is longer by least, or begins last.
                let away = pairing.excess.map_or(pairing.offset.abs(), |(mean, _)| mean.abs());
                if best.get(&at).is_none_or(|(known, _)| away < *known) {
                    best.insert(at, (away, frame));
                }
            }
        }
        let mut frames: Frames = best.into_iter().map(|(at, (_, frame))| (at, frame)).collect();
        for (at, frame) in open {
            frames.entry(at).or_insert(frame);
        }
        frames
    }

    fn views(&self) -> Vec<View<'_>> {
        let view = |side: Side, at: usize, start: f64, duration: Option<f64>, result: Name| {
            let s = self.seen(at);
            let tool = s.o.tool.as_deref()?;
            let view = View {
                side,
                at,
                clock: s.clock,
                connection: s.connection,
                start,
                duration,
                tool,
                arguments: &s.arguments,
                result,
            };
            Some(view)
        };
        let hosts = self.units.hosts.iter().filter_map(|host| {
            let (at, start) = (host.choice?, host.start?);
            view(Side::Host, at, start, host.end.map(|end| end - start), NONE)
        });
        let gateways = self.units.gateways.iter().filter(|call| !call.denied);
        let gateways = gateways
            .filter_map(|call| view(Side::Gateway, call.request?, self.seen(call.request?).t, call.duration, NONE));
        let servers = self.units.executions.iter().filter_map(|at| {
            let s = self.seen(*at);
            view(Side::Server, *at, s.t - s.duration, s.o.duration, NONE)
        });
        let mut answers: HashMap<(Name, Name), Vec<usize>> = HashMap::new();
        for (at, s) in self.units.seen.iter().enumerate().filter(|(_, s)| s.act == Act::Returned) {
            answers.entry((s.connection, s.rpc)).or_default().push(at);
        }
        let taps = self.units.seen.iter().enumerate().filter(|(_, s)| s.act == Act::Called);
        let taps = taps.filter_map(|(at, s)| {
            let later = answers.get(&(s.connection, s.rpc)).filter(|_| s.connection != NONE);
            let answer = later.and_then(|all| all.iter().find(|answer| **answer > at)).map(|answer| self.seen(*answer));
            let result = answer.map_or(NONE, |answer| answer.result);
            view(Side::Tap, at, s.t, answer.map(|answer| answer.t - s.t), result)
        });
        hosts.chain(gateways).chain(servers).chain(taps).collect()
    }

    /// Pairs of views, one at least of a tap, that say the same within reach of one another.
    fn near(&self, views: &[View<'_>]) -> Vec<(usize, usize)> {
        let mut by_arguments: BTreeMap<Name, Vec<usize>> = BTreeMap::new();
        for (at, view) in views.iter().enumerate() {
            let digests: BTreeSet<Name> = view.arguments.iter().copied().collect();
            digests.into_iter().for_each(|digest| by_arguments.entry(digest).or_default().push(at));
        }
        let reach = self.noise.window / 2.0;
        let mates = self.mates(views);
        let mut pairs = BTreeSet::new();
        for group in by_arguments.values_mut() {
            group.sort_by(|a, b| views[*a].start.total_cmp(&views[*b].start).then(a.cmp(b)));
            for (place, a) in group.iter().enumerate() {
                let later = group[place + 1..].iter().take(NEAR_MAX);
                let later = later.take_while(|b| views[**b].start - views[*a].start <= reach);
                for b in later {
                    let (x, y) = (&views[*a], &views[*b]);
                    let tap = x.side == Side::Tap || y.side == Side::Tap;
                    let apart = x.clock != y.clock && (x.connection == NONE || x.connection != y.connection);
                    if tap && apart && same_tool(x.tool, y.tool) && self.may_be_one(views, &mates, (*a, *b)) {
                        pairs.insert((*a.min(b), *a.max(b)));
                    }
                }
            }
        }
        pairs.into_iter().collect()
    }

    /// On which sides each view has another one, of another clock, that bears one of its ids.
    fn mates(&self, views: &[View<'_>]) -> Vec<HashSet<Side>> {
        let mut by_id: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, view) in views.iter().enumerate() {
            self.seen(view.at).o.ids.iter().for_each(|id| by_id.entry(id).or_default().push(at));
        }
        let mut mates = vec![HashSet::new(); views.len()];
        for group in by_id.values() {
            // The first clock of each side and one besides tell for everybody.
            let mut sides: HashMap<Side, Vec<Name>> = HashMap::new();
            for at in group {
                let clocks = sides.entry(views[*at].side).or_default();
                if clocks.len() < 2 && !clocks.contains(&views[*at].clock) {
                    clocks.push(views[*at].clock);
                }
            }
            for at in group {
                let others = sides.iter().filter(|(_, clocks)| clocks.iter().any(|clock| *clock != views[*at].clock));
                mates[*at].extend(others.map(|(side, _)| *side));
            }
        }
        mates
    }

    /// Whether nothing speaks against two views being one call. What has its partner on a side by an id has no other there,
    /// and two calls of which each has a host of its own are two. Of two taps without an id between them one call has to
    /// lie inside the other: clients that run one script side by side differ in nothing else.
    fn may_be_one(&self, views: &[View<'_>], mates: &[HashSet<Side>], (a, b): (usize, usize)) -> bool {
        let (x, y) = (&views[a], &views[b]);
        let ids = &self.seen(x.at).o.ids;
        if self.seen(y.at).o.ids.iter().any(|id| ids.contains(id)) {
            return true;
        }
        if mates[a].contains(&y.side) || mates[b].contains(&x.side) {
            return false;
        }
        if x.side != y.side {
            return true;
        }
        let has_host = |at: usize| mates[at].contains(&Side::Host);
        let inside = |outer: &View<'_>, inner: &View<'_>| {
            let (Some(long), Some(short)) = (outer.duration, inner.duration) else { return false };
            outer.start <= inner.start + CLOCKS_OF_TAPS && inner.start + short <= outer.start + long + CLOCKS_OF_TAPS
        };
        !(has_host(a) && has_host(b)) && (inside(x, y) || inside(y, x))
    }

    /// Which of two clocks' calls are the outer ones, and what usually lies between them. Pairs come back as (outer, inner).
    fn learn(&self, views: &[View<'_>], pairs: Vec<(usize, usize)>) -> (Vec<(usize, usize)>, Pairing) {
        let mut rivals: HashMap<usize, f64> = HashMap::new();
        for (a, b) in &pairs {
            *rivals.entry(*a).or_default() += 1.0;
            *rivals.entry(*b).or_default() += 1.0;
        }
        let mut points: Vec<(f64, f64, usize)> = pairs
            .iter()
            .enumerate()
            .map(|(pair, (a, b))| (views[*b].start - views[*a].start, 1.0 / rivals[a].max(rivals[b]), pair))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.2.cmp(&b.2)));
        let width = CLOCKS_AGREE.max(self.settings.identity_window(self.noise.stamp));
        let (mut from, mut held, mut most, mut span) = (0, 0.0, 0.0, (0, 0));
        for to in 0..points.len() {
            held += points[to].1;
            while points[to].0 - points[from].0 > width {
                held -= points[from].1;
                from += 1;
            }
            if held > most + 1e-9 {
                (most, span) = (held, (from, to + 1));
            }
        }
        let agreed = &points[span.0..span.1];
        let mut starts: Vec<f64> = agreed.iter().map(|(away, ..)| *away).collect();
        let longer = agreed.iter().filter_map(|(_, _, pair)| {
            let (a, b) = pairs[*pair];
            Some(views[a].duration? - views[b].duration?)
        });
        let mut longer: Vec<f64> = longer.collect();
        let later = median(&mut starts);
        let is_outer = if longer.is_empty() { later >= 0.0 } else { median(&mut longer) >= 0.0 };
        let sign = if is_outer { 1.0 } else { -1.0 };
        let (offset, sd) = if most >= LEARN_FROM {
            let (offset, sd) = robust(starts, self.settings.spread_floor);
            (offset, sd.hypot(2.0 * self.noise.stamp).hypot(0.02 / most))
        } else {
            (0.0, CLOCKS_AGREE)
        };
        let excess = (longer.len() as f64 >= LEARN_FROM).then(|| {
            let (mean, sd) = robust(longer, self.settings.spread_floor);
            (sign * mean, sd.max(0.1 * mean.abs()))
        });
        let results = agreed.iter().map(|(_, _, pair)| pairs[*pair]).map(|(a, b)| (views[a].result, views[b].result));
        let results = worth_of_results(results.filter(|(a, b)| *a != NONE && *b != NONE).map(|(a, b)| a == b));
        let pairs = pairs.into_iter().map(|(a, b)| if is_outer { (a, b) } else { (b, a) }).collect();
        (pairs, Pairing { offset: sign * offset, sd, excess, results })
    }

    /// How well an inner call lies in its outer one: at the usual distance and as much shorter as usual, or, held up on its
    /// way, anywhere that leaves room for it.
    fn within(&self, outer: &View<'_>, inner: &View<'_>, pairing: Pairing) -> f64 {
        let away = inner.start - outer.start - pairing.offset;
        let begins = self.noise.ratio(away, pairing.sd);
        let (Some(long), Some(short)) = (outer.duration, inner.duration) else { return begins };
        let lasts = pairing.excess.map_or(0.0, |(mean, sd)| self.noise.ratio(long - short - mean, sd));
        let usual = begins + lasts;
        let room = (long - short).max(pairing.sd);
        // One way takes about half of what the outer call takes longer.
        let earliest = -pairing.excess.map_or(0.0, |(mean, _)| mean / 2.0) - pairing.sd;
        let held = if (earliest..=earliest + room + 2.0 * pairing.sd).contains(&away) { 1.0 / room } else { 0.0 };
        let span = 2.0 * self.noise.window;
        ((1.0 - HELD_UP) * usual.exp() + HELD_UP * held * span).ln()
    }

    fn frame_evidence(
        &self,
        views: &[View<'_>],
        outer: usize,
        inner: usize,
        pairing: Pairing,
    ) -> Vec<(&'static str, f64)> {
        let (a, b) = (&views[outer], &views[inner]);
        let mut evidence = vec![("within", self.within(a, b, pairing))];
        if a.duration.zip(b.duration).is_some_and(|(long, short)| short > long + LONGER) {
            evidence.push(("longer_than_call", -10.0));
        }
        if a.side == Side::Tap && b.side == Side::Tap && a.result != NONE && b.result != NONE {
            evidence.push(("result", pairing.results[usize::from(a.result != b.result)]));
        }
        let ids: HashSet<&str> = self.seen(a.at).o.ids.iter().map(String::as_str).collect();
        if self.seen(b.at).o.ids.iter().any(|id| ids.contains(id.as_str())) {
            evidence.push(("id", 20.0));
        }
        evidence
    }

    /// Puts frames, and calls of which no host is known, below what called them.
    pub(super) fn place_frames(&self, frames: &Frames, placed: &mut BTreeMap<usize, Place>) {
        let mut hosted = BTreeSet::new();
        let mut calls: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        let ends = frames.iter().filter_map(|(at, frame)| Some([*at, frame.parent?])).flatten();
        let seen: HashSet<&str> = ends.flat_map(|at| &self.seen(at).o.ids).map(String::as_str).collect();
        let mut same = BTreeSet::new();
        for (at, place) in placed.iter() {
            let (Some(session), s) = (place.session, self.seen(*at)) else { continue };
            if s.is_host() {
                hosted.insert(session);
                continue;
            }
            if s.o.ids.iter().any(|id| seen.contains(id.as_str())) {
                same.insert(session);
            }
            if matches!(s.act, Act::Request | Act::Execution) {
                let known = calls.entry(session).or_default();
                known.0 += 1;
                known.1 += usize::from(frames.get(at).is_some_and(|frame| frame.parent.is_some()));
            }
        }
        let given_up = |session: &usize| {
            let mostly = calls.get(session).is_some_and(|(all, below)| 2 * below > *all);
            !hosted.contains(session) && (mostly || same.contains(session))
        };
        for (at, frame) in frames {
            let known = placed.get(at).copied();
            let is_ours = known.is_none_or(|place| place.session.is_none_or(|session| given_up(&session)));
            if !is_ours || known.is_some_and(|place| place.parent.is_some() && frame.parent.is_none()) {
                continue;
            }
            let place = Place {
                session: known.and_then(|place| place.session),
                turn: None,
                call: None,
                parent: frame.parent,
                confidence: frame.confidence,
                rule: Rule::Frame,
                twin_of: known.and_then(|place| place.twin_of),
                open: None,
            };
            placed.insert(*at, place);
        }
        for place in placed.values_mut().filter(|place| place.session.as_ref().is_some_and(given_up)) {
            (place.session, place.turn, place.call) = (None, None, None);
        }
    }
}

/// Log ratios of equal results and of unequal ones, from pairs that agree in time; where there are none, equal ones are usual.
fn worth_of_results(equal: impl Iterator<Item = bool>) -> [f64; 2] {
    let (same, all) = equal.fold((3.0, 3.5), |(same, all), equal| (same + f64::from(u8::from(equal)), all + 1.0));
    let share: f64 = same / all;
    [2.0, (1.0 - share).ln()]
}

/// What it is worth that nearly every call which one of two clocks stamps is one of the other's, too.
fn presence(views: &[View<'_>], candidates: &[Candidate]) -> f64 {
    let Some((outer, inner)) =
        candidates.first().map(|c| (views[c.row as usize].clock, views[c.column as usize].clock))
    else {
        return 0.0;
    };
    let found = assign(candidates, NO_PARTNER, TRUST);
    let sure = found.values().filter(|m| m.confidence >= SURE).count() as f64;
    let of = |clock: Name| views.iter().filter(|view| view.clock == clock).count() as f64;
    let calls = BTreeMap::from([(outer, (of(outer), sure)), (inner, (of(inner), sure))]);
    let pairs: Vec<(u32, u32)> = candidates.iter().map(|c| (c.row, c.column)).collect();
    worth_of_presence(&calls, &pairs, NO_PARTNER, PRESENCE_MOST).into_values().fold(0.0, f64::max)
}

/// One name, or the other behind a prefix that a gateway put before it.
pub(super) fn same_tool(a: &str, b: &str) -> bool {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let before = long.strip_suffix(short);
    before.is_some_and(|prefix| prefix.is_empty() || prefix.ends_with(|c: char| !c.is_alphanumeric()))
}
