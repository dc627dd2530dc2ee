//! Settings of the linker: documented priors, all scaled by the stamp noise that is learned at run time.

use super::likelihood::Noise;
use super::linker::Spread;

/// Priors and thresholds.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Median stamp noise above which stamps are taken to be late, so that lines may be out of order, seconds.
    pub heavy_above: f64,
    /// Widest clock difference plus delay considered, seconds, on clean clocks and on noisy ones.
    pub window: f64,
    /// See `window`.
    pub window_heavy: f64,
    /// Spread that no learned spread goes below, seconds.
    pub spread_floor: f64,
    /// Spread of a clock before anything is known, seconds.
    pub clock_spread: f64,
    /// Spread of starts around a clock that is believed before it is learned from links, at most, seconds.
    pub scale_most: f64,
    /// Confidence below which nothing is placed.
    pub confident: f64,
    /// Share of the hypotheses that have to agree before lines that no id binds stay in one conversation.
    pub together: f64,
    /// Evidence of time shares and sizes is left out (to show what it carries).
    pub without_shares: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            heavy_above: 0.01,
            window: 6.0,
            window_heavy: 14.0,
            spread_floor: 0.002,
            clock_spread: 0.05,
            scale_most: 0.6,
            confident: 0.5,
            together: 0.6,
            without_shares: false,
        }
    }
}

impl Settings {
    /// Spread of server starts around their clock before it is learned.
    pub(super) fn start_scale(&self, stamp: f64) -> f64 {
        (2.1 * stamp).clamp(0.02, 0.5)
    }

    /// The same for workstations, which are further away.
    pub(super) fn start_scale_host(&self, stamp: f64) -> f64 {
        (2.6 * stamp).clamp(0.02, 0.6)
    }

    /// Width of the window in which differences of one user and subject agree.
    pub(super) fn identity_window(&self, stamp: f64) -> f64 {
        (8.0 * stamp).clamp(0.03, 1.0)
    }

    /// Host duration less gateway duration before it is learned.
    pub(super) fn start_overhead(&self, stamp: f64) -> Spread {
        Spread { mean: 0.016 + 1.7 * stamp, sd: 0.008 + 3.7 * stamp }
    }

    /// How far a link may be from its segment's offset to refine it.
    pub(super) fn segment_reach(&self, stamp: f64) -> f64 {
        (13.0 * stamp).max(0.5)
    }

    /// Tolerance of HTTP lines and statements before it is learned.
    pub(super) fn start_tolerance(&self, noise: Noise) -> [f64; 2] {
        if noise.heavy { [4.0 * noise.stamp, 3.2 * noise.stamp] } else { [6.0 * self.spread_floor; 2] }
    }

    /// A learned tolerance within reason.
    pub(super) fn bounded_tolerance(&self, noise: Noise, learned: f64) -> f64 {
        learned.clamp(2.1 * noise.stamp, 10.5 * noise.stamp)
    }

    /// Tolerance of a statement inside its request.
    pub(super) fn request_tolerance(&self, noise: Noise) -> f64 {
        if noise.heavy { 4.0 * noise.stamp } else { 0.03 }
    }

    /// Spread of downstream lines around the middle of their execution.
    pub(super) fn downstream_scale(&self, noise: Noise, resolution: f64) -> f64 {
        if resolution > 0.0 { 0.4 * resolution } else { (5.0 * noise.stamp).max(0.02) }
    }

    /// Share of the hypotheses that have to agree; late stamps disturb the order, so that too many agree.
    pub(super) fn together(&self, noise: Noise) -> f64 {
        if noise.heavy { self.together + 0.1 } else { self.together }
    }

    /// Confidence that a downstream line needs; one that is as likely another call's is nobody's.
    pub(super) fn downstream_confident(&self, noise: Noise) -> f64 {
        if noise.heavy { 0.75 } else { self.confident + 0.02 }
    }
}
