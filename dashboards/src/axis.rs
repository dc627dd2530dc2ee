//! The time axis of a session page: idle stretches are folded so that what happened stays visible.
//!
//! Invariants
//! - positions grow with time; a stretch in which something ran is never folded
//! - a stretch of more than [`IDLE_US`] in which nothing ran takes a fixed small width and is named
//!   in [`Axis::breaks`]
//!
//! Positions are microseconds of shown time from 0 to [`Axis::length`].

/// A stretch without any activity longer than this is folded: 30 seconds.
pub(crate) const IDLE_US: i64 = 30_000_000;

/// A folded stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Break {
    /// Where it stands on the axis.
    pub(crate) at: u64,
    /// How much real time it hides, microseconds.
    pub(crate) hidden_us: i64,
}

/// Maps real time to positions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Axis {
    /// Stretches in which something ran: real from, real to, position of `from`.
    active: Vec<(i64, i64, u64)>,
    fold: u64,
    length: u64,
}

impl Axis {
    /// The axis over spans `(start, end)` in microseconds, in any order.
    pub(crate) fn over(mut spans: Vec<(i64, i64)>) -> Self {
        spans.sort_unstable();
        let mut merged: Vec<(i64, i64)> = Vec::new();
        for (start, end) in spans {
            let end = end.max(start);
            match merged.last_mut() {
                Some(last) if start.saturating_sub(last.1) <= IDLE_US => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        let busy: u64 = merged.iter().map(|(from, to)| from.abs_diff(*to)).sum();
        let breaks = u64::try_from(merged.len().saturating_sub(1)).unwrap_or(u64::MAX);
        let fold = (busy / breaks.saturating_mul(10).max(50)).max(1);
        let mut at = 0;
        let mut active = Vec::with_capacity(merged.len());
        for (from, to) in merged {
            active.push((from, to, at));
            at += from.abs_diff(to) + fold;
        }
        Axis { active, fold, length: at.saturating_sub(fold).max(1) }
    }

    /// Position of a time; what lies outside is moved to the nearest position.
    pub(crate) fn at(&self, us: i64) -> u64 {
        let after = self.active.partition_point(|(from, _, _)| *from <= us);
        match after.checked_sub(1).map(|i| self.active[i]) {
            Some((from, to, at)) => at + from.abs_diff(us.min(to)),
            None => 0,
        }
    }

    /// Length of the axis, at least 1.
    pub(crate) fn length(&self) -> u64 {
        self.length.max(1)
    }

    /// The folded stretches, in order.
    pub(crate) fn breaks(&self) -> Vec<Break> {
        let pairs = self.active.windows(2);
        pairs
            .map(|pair| Break { at: pair[1].2 - self.fold / 2, hidden_us: pair[1].0.saturating_sub(pair[0].1) })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;

    #[test]
    fn idle_time_is_folded_and_named() {
        let axis = Axis::over(vec![(600 * S, 610 * S), (0, 10 * S), (5 * S, 40 * S), (65 * S, 65 * S)]);
        assert_eq!(axis.at(40 * S), 40_000_000);
        assert_eq!(axis.at(65 * S), 65_000_000, "25 s of silence stay as they are");
        let fold = 75_000_000 / 50;
        assert_eq!(axis.at(600 * S), 65_000_000 + fold);
        assert_eq!(axis.length(), 75_000_000 + fold);
        assert_eq!(axis.breaks(), [Break { at: 65_000_000 + fold - fold / 2, hidden_us: 535 * S }]);
        assert_eq!(axis.at(300 * S), 65_000_000, "a time inside the fold stands at its start");
        assert_eq!((axis.at(-S), axis.at(i64::MAX)), (0, axis.length()));
    }

    #[test]
    fn nothing_and_one_instant_have_an_axis_too() {
        assert_eq!(Axis::over(vec![]).length(), 1);
        assert_eq!(Axis::over(vec![(7, 7)]).at(7), 0);
        assert_eq!(Axis::over(vec![(i64::MIN, i64::MIN), (i64::MAX, i64::MAX)]).length(), 1);
    }
}
