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

/// Two clocks, and by how much the second is ahead of the first.
#[derive(Debug, Clone, Copy)]
struct Edge {
    clocks: (Name, Name),
    ahead: f64,
    pairs: f64,
}

/// Moves the time of far clocks to that of the others; gives what was taken off, by clock.
pub(super) fn align(seen: &mut [Seen<'_>], kept: &[usize]) -> BTreeMap<Name, f64> {
    let calls = [(Side::Host, Side::Gateway), (Side::Gateway, Side::Server), (Side::Host, Side::Server)];
    let mut shifts = shift(seen, kept, &calls);
    move_by(seen, &shifts);
    // Downstream lines share values with calls, whose own clocks are in order now.
    let below = [(Side::Server, Side::Downstream), (Side::Gateway, Side::Downstream), (Side::Host, Side::Downstream)];
    let first = below.iter().position(|(above, _)| kept.iter().any(|at| side(seen[*at].act) == Some(*above)));
    if let Some(first) = first {
        let further = shift(seen, kept, &below[first..=first]);
        let further: BTreeMap<Name, f64> =
            further.into_iter().filter(|(clock, _)| is_below(seen, kept, *clock)).collect();
        move_by(seen, &further);
        shifts.extend(further);
    }
    shifts
}

/// Whether all lines of a clock are downstream's.
fn is_below(seen: &[Seen<'_>], kept: &[usize], clock: Name) -> bool {
    kept.iter().filter(|at| seen[**at].clock == clock).all(|at| side(seen[*at].act) == Some(Side::Downstream))
}

fn move_by(seen: &mut [Seen<'_>], shifts: &BTreeMap<Name, f64>) {
    if shifts.is_empty() {
        return;
    }
    for s in seen {
        s.t -= shifts.get(&s.clock).copied().unwrap_or(0.0);
    }
}

fn shift(seen: &[Seen<'_>], kept: &[usize], between: &[(Side, Side)]) -> BTreeMap<Name, f64> {
    let mut edges = Vec::new();
    for (a, b) in between {
        let (pairs, again) = pairs(seen, kept, *a, *b);
        edges.extend(pairs.into_iter().filter_map(|(clocks, ahead)| edge(clocks, ahead, &again)));
    }
    if edges.iter().all(|edge| edge.ahead == 0.0) {
        return BTreeMap::new();
    }
    let mut lines: BTreeMap<Name, f64> = BTreeMap::new();
    kept.iter().for_each(|at| *lines.entry(seen[*at].clock).or_default() += 1.0);
    frame(edges, &lines)
}

/// How far lines are behind lines of another clock of their side with the same content, by clock.
type Again = BTreeMap<Name, Vec<f64>>;

/// Differences of the pairs of lines that alone bear a content on their sides.
fn pairs(seen: &[Seen<'_>], kept: &[usize], first: Side, second: Side) -> (BTreeMap<(Name, Name), Vec<f64>>, Again) {
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
    let mut again = Again::new();
    for [ours, theirs] in bearers.values().filter(|sides| sides.iter().all(|side| !side.is_empty())) {
        if let ([a], [b]) = (&ours[..], &theirs[..]) {
            found.insert((*a, *b));
        }
        for lines in [ours, theirs] {
            for a in lines {
                for b in lines.iter().filter(|b| seen[**b].clock != seen[*a].clock) {
                    again.entry(seen[*a].clock).or_default().push(begun(&seen[*a]) - begun(&seen[*b]));
                }
            }
        }
    }
    let mut ahead: BTreeMap<(Name, Name), Vec<f64>> = BTreeMap::new();
    for (a, b) in found {
        let (a, b) = (&seen[a], &seen[b]);
        if a.clock != b.clock {
            ahead.entry((a.clock, b.clock)).or_default().push(begun(b) - begun(a));
        }
    }
    (ahead, again)
}

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
fn edge(clocks: (Name, Name), mut ahead: Vec<f64>, again: &Again) -> Option<Edge> {
    ahead.sort_unstable_by(f64::total_cmp);
    let near = ahead.iter().filter(|ahead| ahead.abs() <= 2.0 * FAR).count() as f64;
    let all = ahead.len() as f64;
    let (mut from, mut best) = (0, (0, 0));
    for to in 0..ahead.len() {
        while ahead[to] - ahead[from] > AGREE {
            from += 1;
        }
        if to + 1 - from > best.1 - best.0 {
            best = (from, to + 1);
        }
    }
    let agree = (best.1 - best.0) as f64;
    let middle = median(&mut ahead[best.0..best.1].to_vec());
    if middle.abs() <= FAR || 4.0 * near > agree {
        return (near >= 1.0).then_some(Edge { clocks, ahead: 0.0, pairs: near });
    }
    let span = (ahead[ahead.len() - 1] - ahead[0]).abs().max(60.0);
    let by_chance = all * AGREE / span;
    let beyond = agree * (agree / by_chance).ln() - (agree - by_chance);
    let repeats = |clock: Name, sign: f64| {
        let behind = again.get(&clock).into_iter().flatten();
        behind.filter(|behind| (*behind - sign * middle).abs() <= AGREE).count() as f64
    };
    let replayed = repeats(clocks.0, -1.0).max(repeats(clocks.1, 1.0));
    let is_sure = agree >= LEAST && agree >= MOST * all && beyond >= BEYOND_CHANCE && 4.0 * replayed <= agree;
    is_sure.then_some(Edge { clocks, ahead: middle, pairs: agree })
}

/// What each clock is ahead of the frame that most clocks keep, where that is far.
fn frame(mut edges: Vec<Edge>, lines: &BTreeMap<Name, f64>) -> BTreeMap<Name, f64> {
    edges.sort_by(|a, b| b.pairs.total_cmp(&a.pairs).then(a.clocks.cmp(&b.clocks)).then(a.ahead.total_cmp(&b.ahead)));
    // Group of each clock, and how far it is ahead of the group's first.
    let mut place: BTreeMap<Name, (Name, f64)> = lines.keys().map(|clock| (*clock, (*clock, 0.0))).collect();
    for edge in &edges {
        let (Some(a), Some(b)) = (place.get(&edge.clocks.0).copied(), place.get(&edge.clocks.1).copied()) else {
            continue;
        };
        if a.0 != b.0 {
            let by = a.1 + edge.ahead - b.1;
            place.values_mut().filter(|known| known.0 == b.0).for_each(|known| *known = (a.0, known.1 + by));
        }
    }
    let mut groups: BTreeMap<Name, Vec<(Name, f64)>> = BTreeMap::new();
    place.into_iter().for_each(|(clock, (group, ahead))| groups.entry(group).or_default().push((clock, ahead)));
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
        let far = members.iter().map(|(clock, ahead)| (*clock, ahead - frame)).filter(|(_, ahead)| ahead.abs() > FAR);
        shifts.extend(far);
    }
    shifts
}
