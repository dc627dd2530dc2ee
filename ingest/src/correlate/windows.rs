//! Windows: the intervals of event time that are judged at once.
//!
//! A window is a stretch of records without a pause of [`PAUSE_NANOS`]; a stretch with more records than
//! [`RECORDS_MAX`] is cut at multiples of a round length in UTC, and each part is judged with a margin on both sides.
//!
//! Invariants
//! - a function of the times stored, so a rerun has the same windows
//! - a window and its margins hold at most about [`RECORDS_MAX`] records, unless they fall within one minute

/// A pause after which nothing that came before is related, ten minutes.
const PAUSE_NANOS: i64 = 600_000_000_000;
/// Margin of a cut stretch, two minutes: longer than a call and its clock differences.
const MARGIN_NANOS: i64 = 120_000_000_000;
/// Records of one window.
const RECORDS_MAX: usize = 100_000;
/// Lengths at which a long stretch is cut, in minutes.
const LENGTHS_MINUTES: [i64; 8] = [1440, 360, 120, 60, 30, 10, 5, 1];
const MINUTE_NANOS: i64 = 60_000_000_000;

/// One interval of event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// Links of records from here on are stored.
    pub(super) from: i64,
    /// ... and before here.
    pub(super) to: i64,
    /// Records from here on are read.
    pub(super) read_from: i64,
    /// ... and before here.
    pub(super) read_to: i64,
}

/// The windows of `times`, which are sorted here.
pub(super) fn windows(times: &mut [i64]) -> Vec<Window> {
    times.sort_unstable();
    let mut found = Vec::new();
    let mut start = 0;
    for at in 1..=times.len() {
        if at == times.len() || times[at].saturating_sub(times[at - 1]) >= PAUSE_NANOS {
            stretch(&times[start..at], &mut found);
            start = at;
        }
    }
    found
}

fn stretch(times: &[i64], found: &mut Vec<Window>) {
    let (Some(first), Some(last)) = (times.first().copied(), times.last().copied()) else { return };
    let end = last.saturating_add(1);
    if times.len() <= RECORDS_MAX {
        found.push(Window { from: first, to: end, read_from: first, read_to: end });
        return;
    }
    let fits = |length: &i64| parts(times, *length).iter().all(|window| held(times, window) <= RECORDS_MAX);
    let length = LENGTHS_MINUTES.iter().map(|minutes| minutes * MINUTE_NANOS).find(fits);
    found.extend(parts(times, length.unwrap_or(MINUTE_NANOS)));
}

fn parts(times: &[i64], length: i64) -> Vec<Window> {
    let mut found: Vec<Window> = Vec::new();
    let margin = MARGIN_NANOS.min(length);
    for time in times {
        if found.last().is_none_or(|window| *time >= window.to) {
            let from = time.div_euclid(length).saturating_mul(length);
            let to = from.saturating_add(length);
            found.push(Window { from, to, read_from: from.saturating_sub(margin), read_to: to.saturating_add(margin) });
        }
    }
    found
}

fn held(times: &[i64], window: &Window) -> usize {
    let below = |limit: i64| times.partition_point(|time| *time < limit);
    below(window.read_to) - below(window.read_from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_a_window() {
        let mut times = vec![PAUSE_NANOS * 3, 0, 5, PAUSE_NANOS * 3 + 1];
        let ends: Vec<(i64, i64)> = windows(&mut times).iter().map(|window| (window.from, window.to)).collect();
        assert_eq!(ends, [(0, 6), (PAUSE_NANOS * 3, PAUSE_NANOS * 3 + 2)]);
    }

    #[test]
    fn a_long_stretch_is_cut_at_round_times_and_overlaps() {
        let mut times: Vec<i64> = (0..250_000).map(|n| n * 30_000_000).collect();
        let windows = windows(&mut times);
        assert!(windows.len() > 2 && windows.iter().all(|window| held(&times, window) <= RECORDS_MAX));
        assert!(windows.windows(2).all(|pair| pair[0].to == pair[1].from && pair[0].read_to > pair[1].read_from));
        assert!(windows.iter().all(|window| window.from % MINUTE_NANOS == 0));
    }
}
