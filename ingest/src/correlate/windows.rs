//! Windows: the intervals of event time that are judged at once.
//!
//! A window is a stretch of records without a pause of [`PAUSE_NANOS`]. A stretch with more records than [`RECORDS_MAX`], or
//! longer than the longest of [`LENGTHS_MINUTES`], is cut at multiples of that length in UTC, and a part that holds too many
//! records at multiples of the next; each part is judged with a margin on both sides.
//!
//! A stretch in which one side alone speaks (hosts, gateways, servers or what is downstream) may be what others stamped in
//! another time zone: it is judged together with the nearest stretch within [`ZONES_NANOS`] that has another side.
//!
//! Invariants
//! - a function of how many records each minute holds, so a rerun has the same windows
//! - where a stretch is cut depends on the records of the part alone, not on what comes later
//! - a window and its margins hold at most about [`RECORDS_MAX`] records, unless they fall within one minute

use std::collections::BTreeMap;
use std::ops::AddAssign;

pub(super) const MINUTE_NANOS: i64 = 60_000_000_000;
/// A pause after which nothing that came before is related, ten minutes.
pub(super) const PAUSE_NANOS: i64 = 10 * MINUTE_NANOS;
/// Margin of a cut stretch, two minutes: longer than a call and its clock differences.
pub(super) const MARGIN_NANOS: i64 = 2 * MINUTE_NANOS;
/// How far time zones lie apart at most, fourteen hours.
const ZONES_NANOS: i64 = 14 * 60 * MINUTE_NANOS;
/// Records of one window.
const RECORDS_MAX: u64 = 100_000;
/// Lengths at which a long stretch is cut, in minutes; each divides the one before.
const LENGTHS_MINUTES: [i64; 7] = [360, 120, 60, 30, 10, 5, 1];

/// What a minute holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) records: u64,
    /// Which sides speak, one bit each.
    pub(super) sides: u8,
}

impl Held {
    /// One record; of none of the four sides it speaks for all of them.
    pub(super) fn one(side: Option<u8>) -> Held {
        Held { records: 1, sides: side.map_or(u8::MAX, |side| 1 << (side % 8)) }
    }
}

impl AddAssign for Held {
    fn add_assign(&mut self, other: Held) {
        self.records += other.records;
        self.sides |= other.sides;
    }
}

/// What each minute since the Unix epoch holds.
pub(super) type Minutes = BTreeMap<i64, Held>;

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
    let counts: Vec<(i64, Held)> = minutes.iter().map(|(minute, held)| (*minute, *held)).collect();
    let mut stretches: Vec<&[(i64, Held)]> = Vec::new();
    let mut start = 0;
    for at in 1..=counts.len() {
        let pause = |at: usize| nanos(counts[at].0.saturating_sub(counts[at - 1].0).saturating_sub(1)) >= PAUSE_NANOS;
        if at == counts.len() || pause(at) {
            stretches.push(&counts[start..at]);
            start = at;
        }
    }
    let mut found = Vec::new();
    let (mut start, mut until, mut parts) = (0, 0, 0);
    for (part, joined) in stretches.iter().zip(joined(&stretches)) {
        until += part.len();
        parts += 1;
        if !joined {
            stretch(&counts[start..until], parts > 1, &mut found);
            (start, parts) = (until, 0);
        }
    }
    found
}

/// For each stretch, whether it is judged together with the next one.
fn joined(stretches: &[&[(i64, Held)]]) -> Vec<bool> {
    let sides: Vec<u8> = stretches.iter().map(|s| s.iter().fold(0, |all, (_, held)| all | held.sides)).collect();
    let apart = |a: usize, b: usize| {
        let (end, start) =
            (stretches[a].last().map_or(0, |last| last.0), stretches[b].first().map_or(0, |first| first.0));
        nanos(start.saturating_sub(end))
    };
    let mut joined = vec![false; stretches.len()];
    for (at, own) in sides.iter().enumerate().filter(|(_, sides)| sides.count_ones() == 1) {
        let other = |place: &usize| sides[*place] != *own;
        let before = (0..at).rev().take_while(|place| apart(*place, at) <= ZONES_NANOS).find(other);
        let after = (at + 1..stretches.len()).take_while(|place| apart(at, *place) <= ZONES_NANOS).find(other);
        let nearest = match (before, after) {
            (Some(before), Some(after)) if apart(before, at) <= apart(at, after) => Some(before),
            (before, after) => after.or(before),
        };
        let Some(nearest) = nearest else { continue };
        joined[at.min(nearest)..at.max(nearest)].fill(true);
    }
    joined
}

fn stretch(counts: &[(i64, Held)], is_joined: bool, found: &mut Vec<Window>) {
    let (Some(first), Some(last)) = (counts.first(), counts.last()) else { return };
    let (from, to) = (nanos(first.0), nanos(last.0.saturating_add(1)));
    let longest =
        if is_joined { LENGTHS_MINUTES[0].saturating_add(ZONES_NANOS / MINUTE_NANOS) } else { LENGTHS_MINUTES[0] };
    let is_short = last.0.saturating_sub(first.0) < longest;
    if is_short && counts.iter().map(|(_, held)| held.records).sum::<u64>() <= RECORDS_MAX {
        found.push(Window { from, to, read_from: from, read_to: to, settles: to.saturating_add(PAUSE_NANOS) });
        return;
    }
    cut(counts, &LENGTHS_MINUTES, found);
}

/// Parts of the first length; those that hold too much are cut again.
fn cut(counts: &[(i64, Held)], lengths: &[i64], found: &mut Vec<Window>) {
    let Some((length, shorter)) = lengths.split_first() else { return };
    let mut start = 0;
    for at in 1..=counts.len() {
        let part = |at: usize| counts[at].0.div_euclid(*length);
        if at < counts.len() && part(at) == part(start) {
            continue;
        }
        let held: u64 = counts[start..at].iter().map(|(_, held)| held.records).sum();
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

    /// Records of every side.
    fn all(records: u64) -> Held {
        Held { records, sides: 0b1111 }
    }

    fn held(minutes: &Minutes, window: &Window) -> u64 {
        minutes.range(minute(window.from)..minute(window.to)).map(|(_, held)| held.records).sum()
    }

    #[test]
    fn a_pause_ends_a_window() {
        let minutes = Minutes::from([(0, all(2)), (10, all(1)), (21, all(2))]);
        let ends: Vec<(i64, i64)> = windows(&minutes).iter().map(|w| (minute(w.from), minute(w.to))).collect();
        assert_eq!(ends, [(0, 11), (21, 22)]);
    }

    #[test]
    fn a_long_stretch_is_cut_at_round_times_and_overlaps() {
        let minutes: Minutes = (7..700).map(|minute| (minute, all(2_000))).collect();
        let windows = windows(&minutes);
        assert!(windows.len() > 2 && windows.iter().all(|window| held(&minutes, window) <= RECORDS_MAX));
        assert!(windows.windows(2).all(|pair| pair[0].to == pair[1].from && pair[0].read_to > pair[1].read_from));
        assert_eq!(windows.iter().map(|window| held(&minutes, window)).sum::<u64>(), 693 * 2_000);
    }

    #[test]
    fn what_comes_later_does_not_move_a_cut() {
        let quiet: Minutes = (0..1_000).map(|minute| (minute, all(100))).collect();
        let mut busy = quiet.clone();
        (1_000..1_100).for_each(|minute| {
            busy.insert(minute, all(50_000));
        });
        let before = windows(&quiet);
        assert_eq!(windows(&busy)[..2], before[..2]);
        assert_eq!(before.len(), 3);
    }

    #[test]
    fn a_side_that_speaks_alone_is_looked_at_with_the_others() {
        let gateways = Held { records: 5, sides: 0b10 };
        let rest = Held { records: 5, sides: 0b1101 };
        let ends = |minutes: &[(i64, Held)]| -> Vec<(i64, i64)> {
            let minutes: Minutes = minutes.iter().copied().collect();
            windows(&minutes).iter().map(|w| (minute(w.from), minute(w.to))).collect()
        };
        assert_eq!(ends(&[(0, rest), (60, gateways)]), [(0, 61)]);
        assert_eq!(ends(&[(0, gateways), (60, rest), (90, rest)]), [(0, 61), (90, 91)]);
        // Nobody else spoke, or nobody within reach.
        assert_eq!(ends(&[(0, gateways), (60, gateways)]).len(), 2);
        assert_eq!(ends(&[(0, rest), (15 * 60, gateways)]).len(), 2);
        assert_eq!(ends(&[(0, rest), (13 * 60, gateways)]), [(0, 13 * 60 + 1)]);
        assert_eq!(ends(&[(0, rest), (30, all(1)), (60, gateways)]), [(0, 1), (30, 61)]);
    }
}
