//! Gateways one behind another: a call that an outer gateway passed on is a call of an inner one, too.
//!
//! Two gateways' calls of one tool with equal arguments, of which neither has another candidate, show whether one gateway
//! stands behind the other: the starts differ by what they usually differ by, the outer call is the longer one, and the
//! answers are equal. Then every inner call is found by start and duration, hangs below its outer one, and is no call of a
//! host. The execution is the inner one's.
//!
//! Invariants
//! - a function of the set of observations
//! - gateways side by side stay apart: few of their lone pairs agree

use std::collections::BTreeMap;

use super::assignment::{Candidate, assign};
use super::frames::same_tool;
use super::likelihood::{median, robust};
use super::linker::{Linker, Round};
use super::names::{NONE, Name};

/// Lone pairs that have to agree, and their share.
const LEAST: usize = 4;
const AGREE: f64 = 0.9;
/// Starts that agree, seconds: what a network between two gateways adds or takes.
const NEAR: f64 = 0.25;
/// No link scores below this (natural log).
const NO_PARTNER: f64 = 2.0;
/// Start and duration hang together.
const TRUST: f64 = 0.8;
/// Calls behind one with equal arguments that it is compared with.
const NEAR_MAX: usize = 64;

impl Linker<'_> {
    /// Finds the calls that inner gateways saw of calls of outer ones.
    pub(super) fn link_chains(&mut self) {
        for pairs in self.gateway_pairs().into_values() {
            let Some(found) = self.chain(pairs) else { continue };
            for (outer, inner, confidence) in found {
                if confidence >= self.settings.confident && !self.hidden.contains_key(&inner) {
                    self.hidden.insert(inner, (outer, Round::Inner));
                    self.inner_of.insert(outer, (inner, confidence));
                }
            }
        }
    }

    /// Pairs of calls of two gateways that say the same, by clocks.
    fn gateway_pairs(&self) -> BTreeMap<(Name, Name), Vec<(u32, u32)>> {
        let mut by_arguments: BTreeMap<Name, Vec<u32>> = BTreeMap::new();
        for (g, call) in self.units.gateways.iter().enumerate().filter(|(_, call)| call.request.is_some()) {
            // One form is enough: what went through two gateways was written by one program.
            if let Some(digest) = call.arguments.iter().min() {
                by_arguments.entry(*digest).or_default().push(g as u32);
            }
        }
        let clock = |g: u32| self.gateway_base(self.gateway(g)).clock;
        let tool = |g: u32| self.gateway(g).request.and_then(|at| self.seen(at).o.tool.as_deref());
        let mut pairs: BTreeMap<(Name, Name), Vec<(u32, u32)>> = BTreeMap::new();
        for group in by_arguments.values() {
            // Calls stand in order of their starts.
            for (place, a) in group.iter().copied().enumerate() {
                let near = |b: &u32| self.gateway(*b).start - self.gateway(a).start <= self.noise.window;
                for b in group[place + 1..].iter().copied().take(NEAR_MAX).take_while(near) {
                    let (x, y) = (clock(a), clock(b));
                    if x != y && tool(a).zip(tool(b)).is_some_and(|(a, b)| same_tool(a, b)) {
                        let pair = if x < y { (a, b) } else { (b, a) };
                        pairs.entry((x.min(y), x.max(y))).or_default().push(pair);
                    }
                }
            }
        }
        pairs
    }

    /// Outer and inner calls of two gateways, where one stands behind the other.
    fn chain(&self, pairs: Vec<(u32, u32)>) -> Option<Vec<(u32, u32, f64)>> {
        let start = |g: u32| self.gateway(g).start;
        let lone = super::lone::lone(&pairs);
        let away: Vec<f64> = lone.iter().map(|(a, b)| start(*b) - start(*a)).collect();
        let middle = median(&mut away.clone());
        let near = NEAR.max(8.0 * self.noise.stamp);
        let agreed: Vec<(u32, u32)> =
            lone.iter().zip(&away).filter(|(_, away)| (*away - middle).abs() <= near).map(|(pair, _)| *pair).collect();
        if agreed.len() < LEAST || (agreed.len() as f64) < AGREE * lone.len() as f64 {
            return None;
        }
        let longer = |(a, b): (u32, u32)| Some(self.gateway(a).duration? - self.gateway(b).duration?);
        let mut by: Vec<f64> = agreed.iter().filter_map(|pair| longer(*pair)).collect();
        let first_is_outer = median(&mut by) > 0.0 || (by.is_empty() && middle > 0.0);
        let fits = by.iter().filter(|by| if first_is_outer { **by >= 0.0 } else { **by <= 0.0 }).count();
        let results = agreed.iter().map(|(a, b)| (self.gateway(*a).result, self.gateway(*b).result));
        let results: Vec<bool> = results.filter(|(a, b)| *a != NONE && *b != NONE).map(|(a, b)| a == b).collect();
        let same = results.iter().filter(|same| **same).count();
        if (fits as f64) < AGREE * by.len() as f64 || (same as f64) < AGREE * results.len() as f64 {
            return None;
        }
        let floor = self.settings.spread_floor;
        let starts = agreed.iter().map(|(a, b)| start(*b) - start(*a)).collect();
        let ((offset, sd), (excess, excess_sd)) = (robust(starts, floor), robust(by, floor));
        let sd = sd.hypot(self.noise.stamp);
        let score = |(a, b): (u32, u32)| {
            let lasts =
                longer((a, b)).map_or(0.0, |by| self.noise.ratio(by - excess, excess_sd.hypot(self.noise.stamp)));
            let (x, y) = (self.gateway(a).result, self.gateway(b).result);
            let differs = if x != NONE && y != NONE && x != y { -6.0 } else { 0.0 };
            self.noise.ratio(start(b) - start(a) - offset, sd) + lasts + differs
        };
        let candidates: Vec<Candidate> =
            pairs.iter().map(|pair| Candidate { row: pair.0, column: pair.1, score: score(*pair) }).collect();
        let found = assign(&candidates, NO_PARTNER, TRUST);
        let order = |a: u32, b: u32| if first_is_outer { (a, b) } else { (b, a) };
        Some(
            found
                .iter()
                .map(|(a, m)| {
                    let (outer, inner) = order(*a, m.column);
                    (outer, inner, m.confidence)
                })
                .collect(),
        )
    }

    /// Outer call of an inner one, and how sure that is.
    pub(super) fn outer_of(&self, inner: u32) -> Option<(u32, f64)> {
        let (outer, how) = self.hidden.get(&inner)?;
        (*how == Round::Inner).then(|| (*outer, self.inner_of.get(outer).map_or(0.0, |known| known.1)))
    }

    /// Whether an inner gateway saw this call, too: its execution is that one's.
    pub(super) fn passes_on(&self, g: u32) -> bool {
        self.inner_of.contains_key(&g)
    }
}
