//! Windows: the intervals of event time that are judged at once.
//!
//! A window is a stretch of records without a pause of [`PAUSE_NANOS`]. A stretch with more records than [`RECORDS_MAX`], or
//! longer than the longest of [`LENGTHS_MINUTES`], is cut at multiples of that length in UTC, and a part that holds too many
//! records at multiples of the next; each part is judged with a margin on both sides.
//!
//! Invariants
//! - a function of how many records each minute holds, so a rerun has the same windows
//! - where a stretch is cut depends on the records of the part alone, not on what comes later
//! - a window and its margins hold at most about [`RECORDS_MAX`] records, unless they fall within one minute

use std::collections::BTreeMap;

pub(super) const MINUTE_NANOS: i64 = 60_000_000_000;
/// A pause after which nothing that came before is related, ten minutes.
pub(super) const PAUSE_NANOS: i64 = 10 * MINUTE_NANOS;
/// Margin of a cut stretch, two minutes: longer than a call and its clock differences.
pub(super) const MARGIN_NANOS: i64 = 2 * MINUTE_NANOS;
/// Records of one window.
const RECORDS_MAX: u64 = 100_000;
/// Lengths at which a long stretch is cut, in minutes; each divides the one before.
const LENGTHS_MINUTES: [i64; 7] = [360, 120, 60, 30, 10, 5, 1];

/// How many records each minute since the Unix epoch holds.
pub(super) type Minutes = BTreeMap<i64, u64>;

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
    /// When the clock says so late, no more is expected to come.
    pub(super) settles: i64,
}

impl Window {
    /// Whether an interval of event time, ends included, touches what it reads.
    pub(super) fn touches(&self, (from, to): (i64, i64)) -> bool {
        self.read_from <= to && self.read_to > from
    }
}

/// The minute of a time.
pub(super) fn minute(time_unix_nano: i64) -> i64 {
    time_unix_nano.div_euclid(MINUTE_NANOS)
}

fn nanos(minute: i64) -> i64 {
    minute.saturating_mul(MINUTE_NANOS)
}

/// The windows of some records.
pub(super) fn windows(minutes: &Minutes) -> Vec<Window> {
    let counts: Vec<(i64, u64)> = minutes.iter().map(|(minute, count)| (*minute, *count)).collect();
    let mut found = Vec::new();
    let mut start = 0;
    for at in 1..=counts.len() {
        let pause = |at: usize| nanos(counts[at].0.saturating_sub(counts[at - 1].0).saturating_sub(1)) >= PAUSE_NANOS;
        if at == counts.len() || pause(at) {
            stretch(&counts[start..at], &mut found);
            start = at;
        }
    }
    found
}

fn stretch(counts: &[(i64, u64)], found: &mut Vec<Window>) {
    let (Some(first), Some(last)) = (counts.first(), counts.last()) else { return };
    let (from, to) = (nanos(first.0), nanos(last.0.saturating_add(1)));
    let is_short = last.0.saturating_sub(first.0) < LENGTHS_MINUTES[0];
    if is_short && counts.iter().map(|(_, count)| count).sum::<u64>() <= RECORDS_MAX {
        found.push(Window { from, to, read_from: from, read_to: to, settles: to.saturating_add(PAUSE_NANOS) });
        return;
    }
    cut(counts, &LENGTHS_MINUTES, found);
}

/// Parts of the first length; those that hold too much are cut again.
fn cut(counts: &[(i64, u64)], lengths: &[i64], found: &mut Vec<Window>) {
    let Some((length, shorter)) = lengths.split_first() else { return };
    let mut start = 0;
    for at in 1..=counts.len() {
        let part = |at: usize| counts[at].0.div_euclid(*length);
        if at < counts.len() && part(at) == part(start) {
            continue;
        }
        let held: u64 = counts[start..at].iter().map(|(_, count)| count).sum();
        if held > RECORDS_MAX && !shorter.is_empty() {
            cut(&counts[start..at], shorter, found);
        } else {
            let from = nanos(part(start).saturating_mul(*length));
            let to = from.saturating_add(nanos(*length));
            let margin = MARGIN_NANOS.min(nanos(*length));
            let read_to = to.saturating_add(margin);
            let settles = read_to.saturating_add(MARGIN_NANOS);
            found.push(Window { from, to, read_from: from.saturating_sub(margin), read_to, settles });
        }
        start = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(minutes: &Minutes, window: &Window) -> u64 {
        minutes.range(minute(window.from)..minute(window.to)).map(|(_, count)| count).sum()
    }

    #[test]
    fn a_pause_ends_a_window() {
        let minutes = Minutes::from([(0, 2), (10, 1), (21, 2)]);
        let ends: Vec<(i64, i64)> = windows(&minutes).iter().map(|w| (minute(w.from), minute(w.to))).collect();
        assert_eq!(ends, [(0, 11), (21, 22)]);
    }

    #[test]
    fn a_long_stretch_is_cut_at_round_times_and_overlaps() {
        let minutes: Minutes = (7..700).map(|minute| (minute, 2_000)).collect();
        let windows = windows(&minutes);
        assert!(windows.len() > 2 && windows.iter().all(|window| held(&minutes, window) <= RECORDS_MAX));
        assert!(windows.windows(2).all(|pair| pair[0].to == pair[1].from && pair[0].read_to > pair[1].read_from));
        assert_eq!(windows.iter().map(|window| held(&minutes, window)).sum::<u64>(), 693 * 2_000);
    }

    #[test]
    fn what_comes_later_does_not_move_a_cut() {
        let quiet: Minutes = (0..1_000).map(|minute| (minute, 100)).collect();
        let mut busy = quiet.clone();
        (1_000..1_100).for_each(|minute| {
            busy.insert(minute, 50_000);
        });
        let before = windows(&quiet);
        assert_eq!(windows(&busy)[..2], before[..2]);
        assert_eq!(before.len(), 3);
    }
}
