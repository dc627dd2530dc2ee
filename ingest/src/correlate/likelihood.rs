//! Log-likelihood ratios: "same event" against "unrelated event somewhere in the window".
//!
//! All evidence is a natural logarithm of such a ratio, so pieces add and 0 means no better than chance.
//! For a residual `e` with spread `s` and a window of `2W` seconds
//! `L(e) = ln((1 - EPS) * f(e / s) / s + EPS / 2W) + ln 2W`,
//! with `f` Student's t with three degrees of freedom: delays have tails on clean clocks, too. It never falls below `ln EPS`, so
//! one wild delay cannot veto alone.

/// Share of delays that follow no model.
const EPS: f64 = 0.02;
/// Density of Student's t, three degrees of freedom, at 0.
pub(super) const T3: f64 = 0.367_552_596_9;

/// How the timestamps of this interval behave, learned from the gateways' own request/response pairs:
/// one clock stamps both, and the duration between them is measured, so what does not add up is the stamp's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    /// Median distance between a request's stamp and its response's stamp less the duration, seconds.
    pub stamp: f64,
    /// Whether stamps are late often enough to disturb the order of lines.
    pub heavy: bool,
    /// Widest clock difference plus delay that is considered, seconds.
    pub window: f64,
}

impl Noise {
    /// Log-likelihood ratio of the residual `e` under spread `s`.
    pub(super) fn ratio(&self, e: f64, s: f64) -> f64 {
        let s = s.max(1e-6);
        let z = e / s;
        let tail = 1.0 + z * z / 3.0;
        let density = T3 / (tail * tail * s);
        let span = 2.0 * self.window;
        ((1.0 - EPS) * density + EPS / span).ln() + span.ln()
    }
}

/// Median of `values`, which are sorted in place; 0 when empty.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// Value at `share` of the sorted `values`.
pub(super) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    if sorted.is_empty() {
        return None;
    }
    Some(sorted[((share * sorted.len() as f64) as usize).min(sorted.len() - 1)])
}

/// Median and spread (1.4826 times the median absolute deviation), not below `floor`.
pub(super) fn robust(mut values: Vec<f64>, floor: f64) -> (f64, f64) {
    let middle = median(&mut values);
    if values.len() < 5 {
        return (middle, 2.0 * floor);
    }
    let mut away: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
    (middle, (1.4826 * median(&mut away)).max(floor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wild_delay_cannot_veto_alone() {
        let noise = Noise { stamp: 0.0, heavy: false, window: 6.0 };
        assert!(noise.ratio(1e9, 0.01) >= EPS.ln() - 1e-9);
        assert!(noise.ratio(0.0, 0.01) > noise.ratio(0.02, 0.01));
        assert!(noise.ratio(0.0, 0.01) > 5.0);
    }

    #[test]
    fn medians() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0]), 2.5);
        assert_eq!(robust(vec![1.0; 9], 0.1), (1.0, 0.1));
    }
}
