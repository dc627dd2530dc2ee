//! Far clocks: emitters that are further ahead than links are looked for, by minutes or by a time zone, found before
//! anything is paired.
//!
//! Contents that one call of each side bears and no other (digests of arguments and answers; for downstream lines, values)
//! say by how much two clocks differ. Where most of two clocks' pairs agree within [`AGREE`] on a difference that is out of
//! reach, one of the two is far off. Differences hang together over all clocks; the frame is the one that most clocks keep.
//! What is left after the shift is the tracks' to learn.
//!
//! A session that is replayed later agrees on a difference, too. It never makes a pair: its contents have two bearers on its
//! own side. Where a bearer is lost, most of the others stand as far behind their originals as the pairs do, and the
//! difference is refused.
//!
//! Invariants
//! - a function of the set of observations
//! - stamps that are shown are the sources' own: only the linker's time moves

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::likelihood::median;
use super::names::Name;
use super::observation::{Act, Observation};
use super::units::Seen;

/// Differences up to this are the tracks' to learn, seconds: half of what they reach.
const FAR: f64 = 3.0;
/// Differences that agree, seconds: delays, drift and stamps of whole seconds.
const AGREE: f64 = 2.0;
/// Pairs that have to agree, and the share of all pairs of two clocks.
const LEAST: f64 = 4.0;
const MOST: f64 = 0.5;
/// How much likelier than chance the agreement is, at least (natural log).
const BEYOND_CHANCE: f64 = 12.0;
/// Values of arguments shorter than this are found anywhere.
const VALUE_LEAST: usize = 5;

/// Sides whose lines bear what a call says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Side {
    Host,
    Gateway,
    Server,
    Downstream,
}

fn side(act: Act) -> Option<Side> {
    match act {
        Act::Choice | Act::Outcome => Some(Side::Host),
        Act::Request | Act::Response => Some(Side::Gateway),
        Act::Execution => Some(Side::Server),
        Act::Http | Act::Statement => Some(Side::Downstream),
        _ => None,
    }
}

/// A content by which lines are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Mark<'a> {
    Arguments(Name),
    Result(Name),
    Value(&'a str),
}

/// A clock, and which part of its time: a clock that is set right is another one afterwards.
type Node = (Name, usize);

/// Two clocks, and by how much the second is ahead of the first.
#[derive(Debug, Clone, Copy)]
struct Edge {
    nodes: (Node, Node),
    ahead: f64,
    pairs: f64,
}

/// What a clock is ahead of the others, seconds: by its own time from which on it is; the first from the beginning.
pub(super) type Far = BTreeMap<Name, Vec<(f64, f64)>>;

/// What a clock is ahead at a time of its own.
pub(super) fn ahead(far: &Far, clock: Name, t: f64) -> f64 {
    let parts = far.get(&clock).map_or(&[][..], Vec::as_slice);
    parts[..parts.partition_point(|(from, _)| *from <= t)].last().map_or(0.0, |(_, ahead)| *ahead)
}

/// Moves the time of far clocks to that of the others; gives what was taken off, by clock.
pub(super) fn align(seen: &mut [Seen<'_>], kept: &[usize]) -> Far {
    let calls = [(Side::Host, Side::Gateway), (Side::Gateway, Side::Server), (Side::Host, Side::Server)];
    let mut far = shift(seen, kept, &calls);
    move_by(seen, &far);
    // Downstream lines share values with calls, whose own clocks are in order now.
    let below = [(Side::Server, Side::Downstream), (Side::Gateway, Side::Downstream), (Side::Host, Side::Downstream)];
    let first = below.iter().position(|(above, _)| kept.iter().any(|at| side(seen[*at].act) == Some(*above)));
    if let Some(first) = first {
        let mut further = shift(seen, kept, &below[first..=first]);
        further.retain(|clock, _| is_below(seen, kept, *clock));
        move_by(seen, &further);
        far.extend(further);
    }
    far
}

/// Whether all lines of a clock are downstream's.
fn is_below(seen: &[Seen<'_>], kept: &[usize], clock: Name) -> bool {
    kept.iter().filter(|at| seen[**at].clock == clock).all(|at| side(seen[*at].act) == Some(Side::Downstream))
}

fn move_by(seen: &mut [Seen<'_>], far: &Far) {
    if !far.is_empty() {
        for s in seen {
            let by = ahead(far, s.clock, s.t);
            (s.t, s.moved) = (s.t - by, s.moved + by);
        }
    }
}

fn shift(seen: &[Seen<'_>], kept: &[usize], between: &[(Side, Side)]) -> Far {
    let (mut found, mut again) = (Vec::new(), Vec::new());
    for (first, second) in between {
        pairs(seen, kept, *first, *second, &mut found, &mut again);
    }
    let steps = steps(seen, &found);
    let node = |at: usize| (seen[at].clock, part(&steps, &seen[at]));
    let mut behind = Again::new();
    for (a, b) in again {
        behind.entry(node(a)).or_default().push(begun(&seen[a]) - begun(&seen[b]));
    }
    let mut differences: BTreeMap<(Node, Node), Vec<f64>> = BTreeMap::new();
    for (a, b) in found {
        differences.entry((node(a), node(b))).or_default().push(begun(&seen[b]) - begun(&seen[a]));
    }
    let edges: Vec<Edge> = differences.into_iter().filter_map(|(nodes, ahead)| edge(nodes, ahead, &behind)).collect();
    if edges.iter().all(|edge| edge.ahead == 0.0) {
        return Far::new();
    }
    let mut lines: BTreeMap<Node, f64> = BTreeMap::new();
    kept.iter().for_each(|at| *lines.entry(node(*at)).or_default() += 1.0);
    let shifts = frame(edges, &lines);
    let mut far = Far::new();
    for clock in shifts.keys().map(|node| node.0) {
        let set = steps.get(&clock).into_iter().flatten().copied();
        let parts = [f64::NEG_INFINITY].into_iter().chain(set).enumerate();
        let of = |(part, from)| (from, shifts.get(&(clock, part)).copied().unwrap_or(0.0));
        far.insert(clock, parts.map(of).collect());
    }
    far
}

/// How far lines are behind lines of another clock of their side with the same content.
type Again = BTreeMap<Node, Vec<f64>>;

/// Pairs of lines that alone bear a content on their sides, and lines of one side that share one over two clocks.
fn pairs(
    seen: &[Seen<'_>],
    kept: &[usize],
    first: Side,
    second: Side,
    pairs: &mut Vec<(usize, usize)>,
    again: &mut Vec<(usize, usize)>,
) {
    let mut bearers: HashMap<Mark<'_>, [Vec<usize>; 2]> = HashMap::new();
    for at in kept.iter().copied() {
        let s = &seen[at];
        let place = match side(s.act) {
            Some(side) if side == first => 0,
            Some(side) if side == second => 1,
            _ => continue,
        };
        for mark in marks(s, second == Side::Downstream) {
            let known = &mut bearers.entry(mark).or_default()[place];
            // Enough to know that there are several.
            if known.len() < SEVERAL {
                known.push(at);
            }
        }
    }
    let mut found: BTreeSet<(usize, usize)> = BTreeSet::new();
    for [ours, theirs] in bearers.values().filter(|sides| sides.iter().all(|side| !side.is_empty())) {
        if let ([a], [b]) = (&ours[..], &theirs[..])
            && seen[*a].clock != seen[*b].clock
        {
            found.insert((*a, *b));
        }
        for lines in [ours, theirs] {
            for a in lines {
                again.extend(lines.iter().filter(|b| seen[**b].clock != seen[*a].clock).map(|b| (*a, *b)));
            }
        }
    }
    pairs.extend(found);
}

/// Times of their own at which clocks were set, in order.
type Steps = BTreeMap<Name, Vec<f64>>;

fn part(steps: &Steps, s: &Seen<'_>) -> usize {
    steps.get(&s.clock).map_or(0, |set| set.partition_point(|at| *at <= s.t))
}

/// Clocks that were set while they were watched, by more than tracks follow: their pairs with others agree on one difference
/// before, on another afterwards. Of two clocks it is the one whose other partners saw it as well.
fn steps(seen: &[Seen<'_>], pairs: &[(usize, usize)]) -> Steps {
    let mut steps = Steps::new();
    for _ in 0..STEPS_MAX {
        let node = |at: usize| (seen[at].clock, part(&steps, &seen[at]));
        let mut by_nodes: BTreeMap<(Node, Node), Vec<(f64, f64)>> = BTreeMap::new();
        for (a, b) in pairs {
            by_nodes.entry((node(*a), node(*b))).or_default().push((begun(&seen[*a]), begun(&seen[*b])));
        }
        // Per node: where its partners saw it set, and how many did not.
        let mut saw: BTreeMap<Node, (Vec<f64>, f64)> = BTreeMap::new();
        for ((first, second), times) in by_nodes {
            if (times.len() as f64) < 2.0 * LEAST {
                continue;
            }
            let turned = times.iter().map(|(a, b)| (*b, *a)).collect();
            for (node, set) in [(first, set_at(turned)), (second, set_at(times))] {
                let known = saw.entry(node).or_default();
                match set {
                    Some(at) => known.0.push(at),
                    None => known.1 += 1.0,
                }
            }
        }
        let share = |(at, others): &(Vec<f64>, f64)| at.len() as f64 / (at.len() as f64 + others);
        let best = saw
            .into_iter()
            .filter(|(_, saw)| !saw.0.is_empty())
            .max_by(|a, b| share(&a.1).total_cmp(&share(&b.1)).then(a.1.0.len().cmp(&b.1.0.len())).then(b.0.cmp(&a.0)));
        let Some(((clock, _), (mut at, _))) = best.filter(|(_, saw)| share(saw) >= MOST) else { break };
        let set = steps.entry(clock).or_default();
        set.push(median(&mut at));
        set.sort_unstable_by(f64::total_cmp);
    }
    steps
}

/// When the second of two clocks was set, by its own time, from (time of the first, time of the second) of their pairs.
fn set_at(mut times: Vec<(f64, f64)>) -> Option<f64> {
    let ahead = |pair: &(f64, f64)| pair.1 - pair.0;
    let (low, high) = times.iter().map(ahead).fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
    if high - low <= 2.0 * FAR {
        return None;
    }
    times.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let densest = |of: Vec<f64>| {
        let mut of = of;
        of.sort_unstable_by(f64::total_cmp);
        let (from, to) = densest(&of);
        (median(&mut of[from..to].to_vec()), to - from)
    };
    let (first, _) = densest(times.iter().map(ahead).collect());
    let rest: Vec<f64> = times.iter().map(ahead).filter(|x| (x - first).abs() > 2.0 * FAR).collect();
    if (rest.len() as f64) < LEAST {
        return None;
    }
    let (second, _) = densest(rest);
    // Where to cut, so that most of what is before says one and most of what is behind the other.
    let says = |pair: &(f64, f64), of: f64| i64::from((ahead(pair) - of).abs() <= AGREE);
    let behind = |of: f64| times.iter().map(|pair| says(pair, of)).sum::<i64>();
    let cut = |before: f64, after: f64| {
        let (mut sum, mut best) = (behind(after), (i64::MIN, 0));
        for (place, pair) in times.iter().enumerate() {
            sum += says(pair, before) - says(pair, after);
            if sum > best.0 {
                best = (sum, place + 1);
            }
        }
        (best.0, best.1, before, after)
    };
    let (fits, place, before, after) = [cut(first, second), cut(second, first)].into_iter().max_by_key(|cut| cut.0)?;
    let sides = [&times[..place], &times[place..]];
    let is_side = |(of, side): (f64, &[(f64, f64)])| {
        let agree = side.iter().map(|pair| says(pair, of)).sum::<i64>() as f64;
        agree >= LEAST && agree >= STEADY * side.len() as f64
    };
    let is_step = [before, after].into_iter().zip(sides).all(is_side) && fits as f64 >= STEADY * times.len() as f64;
    let at = f64::midpoint(times[place - 1].0, times.get(place)?.0);
    is_step.then(|| at + f64::midpoint(before, after))
}

/// The most sorted values that lie within [`AGREE`]: from where to where.
fn densest(sorted: &[f64]) -> (usize, usize) {
    let (mut from, mut best) = (0, (0, 0));
    for to in 0..sorted.len() {
        while sorted[to] - sorted[from] > AGREE {
            from += 1;
        }
        if to + 1 - from > best.1 - best.0 {
            best = (from, to + 1);
        }
    }
    best
}

/// How often clocks are set in one window at most, all of them together.
const STEPS_MAX: usize = 64;
/// Share of the pairs before and after a step that have to agree.
const STEADY: f64 = 0.65;
/// Bearers of a content that are looked at.
const SEVERAL: usize = 4;

fn begun(s: &Seen<'_>) -> f64 {
    if matches!(s.act, Act::Execution | Act::Http) { s.t - s.duration } else { s.t }
}

fn marks<'a>(s: &Seen<'a>, by_value: bool) -> Vec<Mark<'a>> {
    let o: &'a Observation = s.o;
    let mut found: Vec<Mark<'a>> = match s.act {
        Act::Http | Act::Statement => {
            let http = o.http.iter().flat_map(|line| {
                line.segments.iter().chain(line.query.iter().map(|(_, value)| value)).map(String::as_str)
            });
            let statement = o.statement.iter().flat_map(|line| line.literals.iter().map(String::as_str));
            http.chain(statement).filter(|value| value.len() >= VALUE_LEAST).map(Mark::Value).collect()
        }
        Act::Choice | Act::Request | Act::Execution if by_value => {
            let values = o.argument_values.iter().flatten().flat_map(|argument| argument.values.iter());
            values.map(String::as_str).filter(|value| value.len() >= VALUE_LEAST).map(Mark::Value).collect()
        }
        Act::Outcome | Act::Response => o.result.digests.first().map(|_| Mark::Result(s.result)).into_iter().collect(),
        _ => s.arguments.iter().copied().map(Mark::Arguments).collect(),
    };
    found.sort_unstable();
    found.dedup();
    found
}

/// By how much one clock is ahead of another where enough agree; 0 where they are near.
fn edge(nodes: (Node, Node), mut ahead: Vec<f64>, again: &Again) -> Option<Edge> {
    ahead.sort_unstable_by(f64::total_cmp);
    let near = ahead.iter().filter(|ahead| ahead.abs() <= 2.0 * FAR).count() as f64;
    let all = ahead.len() as f64;
    let best = densest(&ahead);
    let agree = (best.1 - best.0) as f64;
    let middle = median(&mut ahead[best.0..best.1].to_vec());
    if middle.abs() <= FAR || 4.0 * near > agree {
        return (near >= 1.0).then_some(Edge { nodes, ahead: 0.0, pairs: near });
    }
    let span = (ahead[ahead.len() - 1] - ahead[0]).abs().max(60.0);
    let by_chance = all * AGREE / span;
    let beyond = agree * (agree / by_chance).ln() - (agree - by_chance);
    let repeats = |node: Node, sign: f64| {
        let behind = again.get(&node).into_iter().flatten();
        behind.filter(|behind| (*behind - sign * middle).abs() <= AGREE).count() as f64
    };
    let replayed = repeats(nodes.0, -1.0).max(repeats(nodes.1, 1.0));
    let is_sure = agree >= LEAST && agree >= MOST * all && beyond >= BEYOND_CHANCE && 4.0 * replayed <= agree;
    is_sure.then_some(Edge { nodes, ahead: middle, pairs: agree })
}

/// What each clock is ahead of the frame that most clocks keep, where that is far.
fn frame(mut edges: Vec<Edge>, lines: &BTreeMap<Node, f64>) -> BTreeMap<Node, f64> {
    edges.sort_by(|a, b| b.pairs.total_cmp(&a.pairs).then(a.nodes.cmp(&b.nodes)).then(a.ahead.total_cmp(&b.ahead)));
    // Group of each clock, and how far it is ahead of the group's first.
    let mut place: BTreeMap<Node, (Node, f64)> = lines.keys().map(|node| (*node, (*node, 0.0))).collect();
    for edge in &edges {
        let (Some(a), Some(b)) = (place.get(&edge.nodes.0).copied(), place.get(&edge.nodes.1).copied()) else {
            continue;
        };
        if a.0 != b.0 {
            let by = a.1 + edge.ahead - b.1;
            place.values_mut().filter(|known| known.0 == b.0).for_each(|known| *known = (a.0, known.1 + by));
        }
    }
    let mut groups: BTreeMap<Node, Vec<(Node, f64)>> = BTreeMap::new();
    place.into_iter().for_each(|(node, (group, ahead))| groups.entry(group).or_default().push((node, ahead)));
    let mut shifts = BTreeMap::new();
    for members in groups.into_values() {
        let kept_by = |ahead: f64| {
            let near = members.iter().filter(|member| (member.1 - ahead).abs() <= FAR);
            near.fold((0.0f64, 0.0f64), |(clocks, held), member| (clocks + 1.0, held + lines[&member.0]))
        };
        let best = members.iter().map(|member| (kept_by(member.1), member.1));
        let best = best
            .max_by(|a, b| a.0.0.total_cmp(&b.0.0).then(a.0.1.total_cmp(&b.0.1)).then(b.1.abs().total_cmp(&a.1.abs())));
        let Some((_, frame)) = best else { continue };
        let far = members.iter().map(|(node, ahead)| (*node, ahead - frame)).filter(|(_, ahead)| ahead.abs() > FAR);
        shifts.extend(far);
    }
    shifts
}
