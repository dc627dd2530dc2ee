//! Shares: how a downstream line's duration, size and status relate to its call, learned from confident placements.
//!
//! No formula is assumed: each feature has a histogram. It is used only where it is far from flat
//! (`bins * sum of p^2` above [`PEAKED`]); a flat one tells nothing and its noise would cost false merges. Status and outcome
//! are compared by how often they occur together.

use std::collections::BTreeMap;

/// `bins * sum p^2` that a histogram needs; 1 is flat, `bins` is a single peak.
const PEAKED: f64 = 12.0;
/// Placements that a histogram needs.
const LEAST: f64 = 20.0;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Feature {
    /// HTTP time as a share of the execution's.
    OfExecution,
    /// Statement's time as a share of its HTTP request's.
    OfRequest,
    /// Statement's time as a share of the execution's.
    StatementOfExecution,
    /// Class of status and outcome.
    Status,
    /// Bytes answered less bytes of the result.
    Size,
}

impl Feature {
    const fn bins(self) -> f64 {
        match self {
            Feature::OfExecution | Feature::OfRequest | Feature::StatementOfExecution => 50.0,
            Feature::Status => 12.0,
            Feature::Size => 63.0,
        }
    }
}

fn share(part: f64, whole: f64, per_unit: f64) -> i64 {
    ((part / whole * per_unit) as i64).clamp(0, 49)
}

pub(super) fn of_execution(part: f64, whole: f64) -> (Feature, i64) {
    (Feature::OfExecution, share(part, whole, 40.0))
}

pub(super) fn of_request(part: f64, whole: f64) -> (Feature, i64) {
    (Feature::OfRequest, share(part, whole, 25.0))
}

pub(super) fn statement_of_execution(part: f64, whole: f64) -> (Feature, i64) {
    (Feature::StatementOfExecution, share(part, whole, 40.0))
}

pub(super) fn status(status: u16, failed: bool) -> (Feature, i64) {
    (Feature::Status, i64::from(status / 100) * 2 + i64::from(!failed))
}

pub(super) fn size(answered: u64, result: u64) -> (Feature, i64) {
    let difference = answered as i128 - result as i128;
    (Feature::Size, (difference.div_euclid(16)).clamp(-31, 31) as i64)
}

/// Histograms of the features.
#[derive(Debug, Default)]
pub(super) struct Shares {
    counts: BTreeMap<Feature, BTreeMap<i64, f64>>,
    /// Executions that failed, and that did not.
    outcomes: [f64; 2],
}

impl Shares {
    /// `outcomes`: executions that failed, and that did not.
    pub(super) fn new(outcomes: [f64; 2]) -> Shares {
        Shares { counts: BTreeMap::new(), outcomes }
    }

    /// How much more often this class of status came from executions with this outcome than from any; what was seldom seen
    /// says little.
    fn association(&self, counts: &BTreeMap<i64, f64>, total: f64, bin: i64) -> f64 {
        if total < LEAST {
            return 0.0;
        }
        let class: f64 = counts.iter().filter(|(other, _)| *other / 2 == bin / 2).map(|(_, n)| n).sum();
        let together = counts.get(&bin).copied().unwrap_or(0.0);
        let share = self.outcomes[(bin % 2) as usize] / (self.outcomes[0] + self.outcomes[1]).max(1.0);
        ((together + 0.5) / (class * share + 0.5)).ln().clamp(-4.0, 3.0)
    }

    pub(super) fn learn(&mut self, features: &[(Feature, i64)]) {
        for (feature, bin) in features {
            *self.counts.entry(*feature).or_default().entry(*bin).or_default() += 1.0;
        }
    }

    pub(super) fn ratio(&self, features: &[(Feature, i64)]) -> f64 {
        features.iter().map(|(feature, bin)| self.ratio_of(*feature, *bin)).sum()
    }

    fn ratio_of(&self, feature: Feature, bin: i64) -> f64 {
        let Some(counts) = self.counts.get(&feature) else { return 0.0 };
        let total: f64 = counts.values().sum();
        if feature == Feature::Status {
            return self.association(counts, total, bin);
        }
        let bins = feature.bins();
        let inner = counts.iter().filter(|(bin, _)| feature != Feature::Size || bin.abs() < 31);
        let peak: f64 = inner.map(|(_, count)| (count / total) * (count / total)).sum::<f64>() * bins;
        if total < LEAST || peak <= PEAKED {
            return 0.0;
        }
        let at = |bin: i64| counts.get(&bin).copied().unwrap_or(0.0);
        let beside = if feature == Feature::Size { 0.0 } else { 0.25 * (at(bin - 1) + at(bin + 1)) };
        (((at(bin) + beside + 0.2) / (total + 0.2 * bins) * bins).ln() - 1.0).max(-4.0)
    }
}
