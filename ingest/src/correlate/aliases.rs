//! Aliases: one thing under two names. A host says `tickets-agent` where the gateway knows its client as `acme-desk`; a
//! gateway puts a prefix before every tool; a log has the DNS name of a server.
//!
//! Names are hard conditions of every pair, so they are made equal before anything is paired. What makes two names one is
//! digests: arguments that one call of each side bears and no other show that both calls are one. Where a name of one side
//! is unknown on the other, and nearly all such calls of it bear one name there, it is that name.
//!
//! Invariants
//! - a name that both sides use is left alone
//! - a function of the set of observations

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::names::{NONE, Name};
use super::observation::Act;
use super::units::Seen;

/// Calls that have to show it.
const LEAST: f64 = 3.0;
/// Lines further apart are not one call, seconds: more than clocks and delays differ where links are found at all.
const NEAR: f64 = 14.0;
/// Share of them that has to agree.
const AGREE: f64 = 0.9;

/// A side of a call that logs arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Host,
    Gateway,
    Server,
}

fn side(act: Act) -> Option<Side> {
    match act {
        Act::Choice | Act::Outcome => Some(Side::Host),
        Act::Request | Act::Response | Act::Opening => Some(Side::Gateway),
        Act::Execution => Some(Side::Server),
        _ => None,
    }
}

/// Which name of a line.
#[derive(Debug, Clone, Copy)]
enum Field {
    Program,
    Server,
    Tool,
}

impl Field {
    fn of<'s>(self, s: &'s mut Seen<'_>) -> &'s mut Name {
        match self {
            Field::Program => &mut s.program,
            Field::Server => &mut s.server,
            Field::Tool => &mut s.tool,
        }
    }

    fn get(self, s: &Seen<'_>) -> Name {
        match self {
            Field::Program => s.program,
            Field::Server => s.server,
            Field::Tool => s.tool,
        }
    }
}

/// Makes names equal that mean one thing.
pub(super) fn unify(seen: &mut [Seen<'_>], kept: &[usize]) {
    use Side::{Gateway, Host, Server};
    // Towards the host, so that a name that only the gateway has is gone before hosts are looked at.
    for (from, to, fields) in [
        (Gateway, Server, &[Field::Server, Field::Tool][..]),
        (Host, Gateway, &[Field::Program, Field::Server, Field::Tool]),
        (Host, Server, &[Field::Server, Field::Tool]),
    ] {
        let anchors = anchors(seen, kept, from, to);
        for field in fields {
            let known = |side: Side| -> BTreeSet<Name> {
                kept.iter()
                    .map(|at| &seen[*at])
                    .filter(|s| self::side(s.act) == Some(side))
                    .map(|s| field.get(s))
                    .collect()
            };
            let aliases = aliases(&anchors, *field, seen, &known(from), &known(to));
            if aliases.is_empty() {
                continue;
            }
            for s in seen.iter_mut().filter(|s| self::side(s.act) == Some(from) || (from == Host && s.is_host())) {
                let name = field.of(s);
                *name = aliases.get(name).copied().unwrap_or(*name);
            }
        }
    }
}

/// Pairs of lines, one of each side, that alone bear a digest.
fn anchors(seen: &[Seen<'_>], kept: &[usize], from: Side, to: Side) -> Vec<(usize, usize)> {
    // The one line of either side that bears a digest; `None` where there are several.
    let mut bearers: HashMap<Name, [Bearer; 2]> = HashMap::new();
    for at in kept.iter().copied() {
        let s = &seen[at];
        if !matches!(s.act, Act::Choice | Act::Request | Act::Execution) {
            continue;
        }
        let place = match side(s.act) {
            Some(side) if side == from => 0,
            Some(side) if side == to => 1,
            _ => continue,
        };
        let mut digests = s.arguments.clone();
        digests.sort_unstable();
        digests.dedup();
        digests.into_iter().for_each(|digest| bearers.entry(digest).or_default()[place].add(at));
    }
    let pairs: BTreeSet<(usize, usize)> = bearers
        .into_values()
        .filter_map(|pair| match pair {
            [Bearer::One(a), Bearer::One(b)] if (seen[a].t - seen[b].t).abs() <= NEAR => Some((a, b)),
            _ => None,
        })
        .collect();
    pairs.into_iter().collect()
}

#[derive(Debug, Clone, Copy, Default)]
enum Bearer {
    #[default]
    Nobody,
    One(usize),
    Several,
}

impl Bearer {
    fn add(&mut self, at: usize) {
        *self = if matches!(self, Bearer::Nobody) { Bearer::One(at) } else { Bearer::Several };
    }
}

/// Names of one side and the names of the other that they mean.
fn aliases(
    anchors: &[(usize, usize)],
    field: Field,
    seen: &[Seen<'_>],
    from: &BTreeSet<Name>,
    to: &BTreeSet<Name>,
) -> BTreeMap<Name, Name> {
    let mut votes: BTreeMap<Name, BTreeMap<Name, f64>> = BTreeMap::new();
    for (a, b) in anchors {
        let (a, b) = (field.get(&seen[*a]), field.get(&seen[*b]));
        if a != NONE && b != NONE && !to.contains(&a) {
            *votes.entry(a).or_default().entry(b).or_default() += 1.0;
        }
    }
    let meant = votes.into_iter().filter_map(|(name, votes)| {
        let total: f64 = votes.values().sum();
        let (best, count) = votes.into_iter().max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))?;
        (total >= LEAST && count >= AGREE * total && !from.contains(&best)).then_some((name, best))
    });
    meant.collect()
}
