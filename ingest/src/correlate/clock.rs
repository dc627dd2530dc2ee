//! Clocks: the offset of each emitter against the reference, constant, drifting or stepping.
//!
//! A [`Track`] is a piecewise-constant offset, found by Viterbi over a grid of offsets. A point says: at
//! reference time `t` a pair of records would fit if the emitter were `d` ahead, and the pair is true with
//! weight `w`. Emission `ln(1 + w * (2W * t3(d - o; scale) - 1))`; between points the offset stays, or jumps
//! anywhere with probability `1 - exp(-hazard * dt)`. A step needs about three consistent pairs.
//! Slow drift appears as several small steps. (LINKER.md's model is the switching clock of network tomography:
//! a hidden Markov chain with a uniform jump.)
//!
//! For stamps of whole seconds, [`densest_cover`] takes intervals instead of points: a line at `t` that belongs
//! to an execution `[a, b]` says that the offset lies in `[t - b, t + 1 - a]`; the best-covered stretch wins.
//!
//! Invariants
//! - a function of the set of points: they are sorted first
//! - memory: one bit per point and grid cell

use super::likelihood::T3;

/// Cells beyond this many scales from a point count as "not explained by it".
const REACH_SCALES: f64 = 40.0;

/// A stretch of constant offset.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Segment {
    /// Reference time from which it holds, seconds; the first holds from minus infinity.
    pub from: f64,
    /// How far the emitter is ahead, seconds.
    pub offset: f64,
    /// Sum of the weights that support it.
    pub support: f64,
}

/// The offset of one emitter over reference time. Empty: nothing is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Track {
    /// Ordered by `from`.
    pub segments: Vec<Segment>,
}

/// One pair of records as evidence of an offset.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    /// Reference time.
    pub(super) at: f64,
    /// Offset that the pair implies.
    pub(super) offset: f64,
    /// Prior weight that the pair is true, 0 to 1.
    pub(super) weight: f64,
}

/// What a track is fitted with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fit {
    /// Spread of true pairs around the offset, seconds.
    pub(super) scale: f64,
    /// Jumps per second.
    pub(super) hazard: f64,
    /// Width of a grid cell, seconds.
    pub(super) cell: f64,
    /// Offsets from minus this to this are considered.
    pub(super) window: f64,
}

impl Fit {
    pub(super) fn new(scale: f64, window: f64) -> Fit {
        Fit { scale, hazard: 1.0 / 150.0, cell: (scale / 2.0).clamp(0.005, 0.05), window }
    }
}

impl Track {
    /// A clock of known constant offset.
    pub(super) fn constant(offset: f64, support: f64) -> Track {
        Track { segments: vec![Segment { from: f64::NEG_INFINITY, offset, support }] }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Index of the segment at reference time `t`.
    pub(super) fn index_at(&self, t: f64) -> usize {
        self.segments.partition_point(|segment| segment.from <= t).saturating_sub(1)
    }

    /// The segment at reference time `t`; of an unknown clock offset 0 without support.
    pub(super) fn at(&self, t: f64) -> Segment {
        let unknown = Segment { from: f64::NEG_INFINITY, offset: 0.0, support: 0.0 };
        self.segments.get(self.index_at(t)).copied().unwrap_or(unknown)
    }

    /// End of a segment.
    pub(super) fn until(&self, index: usize) -> f64 {
        self.segments.get(index + 1).map_or(f64::INFINITY, |next| next.from)
    }

    /// The segment for the emitter's own time: the first whose reference span holds `t - offset`, else the nearest.
    pub(super) fn own(&self, t: f64) -> Option<Segment> {
        let miss = |index: usize| {
            let reference = t - self.segments[index].offset;
            (self.segments[index].from - reference).max(reference - self.until(index)).max(0.0)
        };
        let mut best: Option<(f64, usize)> = None;
        for index in 0..self.segments.len() {
            let miss = miss(index);
            if best.is_none_or(|(known, _)| miss < known) {
                best = Some((miss, index));
            }
        }
        best.map(|(_, index)| self.segments[index])
    }

    /// Fits a track to points.
    pub(super) fn fit(mut points: Vec<Point>, fit: Fit) -> Track {
        points.retain(|point| point.offset.abs() <= fit.window && point.weight > 0.0);
        let key = |point: &Point| (point.at, point.offset, point.weight);
        points.sort_unstable_by(|a, b| {
            let (a, b) = (key(a), key(b));
            a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.total_cmp(&b.2))
        });
        if points.is_empty() {
            return Track::default();
        }
        let path = viterbi(&points, fit);
        let mut segments = Vec::new();
        let mut start = 0;
        while start < points.len() {
            let mut end = start;
            while end < points.len() && path[end] == path[start] {
                end += 1;
            }
            let grid = -fit.window + fit.cell * path[start] as f64;
            let near: Vec<(f64, f64)> = points[start..end]
                .iter()
                .filter(|point| (point.offset - grid).abs() <= 2.0 * fit.scale + fit.cell)
                .map(|point| (point.offset, point.weight))
                .collect();
            let support = near.iter().map(|(_, weight)| weight).sum();
            let from =
                if start == 0 { f64::NEG_INFINITY } else { f64::midpoint(points[start - 1].at, points[start].at) };
            segments.push(Segment { from, offset: weighted_median(near).unwrap_or(grid), support });
            start = end;
        }
        Track { segments }
    }
}

/// The most likely grid cell for each point.
///
/// Most cells are as good as any: no point near them speaks for them. Those all have one value, `rest`; only the others,
/// the lifted ones, are looked at one by one.
fn viterbi(points: &[Point], fit: Fit) -> Vec<u32> {
    let cells = (2.0 * fit.window / fit.cell) as usize + 1;
    let words = cells.div_ceil(64);
    let mut grid = Grid { value: vec![0.0f64; cells], rest: 0.0, lifted: Vec::new() };
    let mut jumped = vec![0u64; words * points.len()];
    let mut jump_to = vec![0u32; points.len()];
    let peak = 2.0 * fit.window * T3 / fit.scale;
    let places: Vec<f64> = (0..cells).map(|cell| fit.cell * cell as f64).collect();
    for (at, point) in points.iter().enumerate() {
        if at > 0 {
            let chance = (1.0 - (-fit.hazard * (point.at - points[at - 1].at)).exp()).clamp(1e-5, 0.5);
            let (best, top) = grid.best();
            jump_to[at] = best as u32;
            let jump = top + (chance / cells as f64).ln();
            grid.pass((1.0 - chance).ln(), jump, &mut jumped[at * words..(at + 1) * words]);
        }
        // Far cells lose ln(1 - w); instead near cells gain what they differ by, which keeps the order.
        let weight = point.weight.min(0.97);
        let far = (1.0 - weight).ln();
        let reach = REACH_SCALES * fit.scale;
        let low = ((point.offset - reach + fit.window) / fit.cell).max(0.0) as usize;
        let high = (((point.offset + reach + fit.window) / fit.cell).max(0.0) as usize).min(cells - 1);
        grid.lift(low, high + 1);
        let from_start = point.offset + fit.window;
        for (value, place) in grid.value[low..=high].iter_mut().zip(&places[low..=high]) {
            let z = (from_start - place) / fit.scale;
            let tail = 1.0 + z * z / 3.0;
            *value += ln(1.0 + weight * (peak / (tail * tail) - 1.0)) - far;
        }
    }
    let mut cell = grid.best().0;
    let mut path = vec![0; points.len()];
    for at in (0..points.len()).rev() {
        path[at] = cell as u32;
        if jumped[at * words + cell / 64] >> (cell % 64) & 1 == 1 {
            cell = jump_to[at] as usize;
        }
    }
    path
}

/// Values of the cells of a grid.
struct Grid {
    /// Of lifted cells.
    value: Vec<f64>,
    /// Of all others; no lifted cell has less.
    rest: f64,
    /// Ranges of lifted cells, ordered and apart.
    lifted: Vec<(usize, usize)>,
}

impl Grid {
    /// The first of the best cells, and its value.
    fn best(&self) -> (usize, f64) {
        let mut best = (0, self.rest);
        for (from, to) in &self.lifted {
            let values = &self.value[*from..*to];
            let top = highest(values);
            if top > best.1 {
                best = (from + values.iter().position(|value| *value >= top).unwrap_or(0), top);
            }
        }
        best
    }

    /// Every cell stays, or jumps where that is better; `jumped` has a bit for each.
    fn pass(&mut self, stay: f64, jump: f64, jumped: &mut [u64]) {
        let rest_jumps = self.rest + stay < jump;
        if !rest_jumps {
            self.rest += stay;
            self.lifted.iter().for_each(|(from, to)| self.value[*from..*to].iter_mut().for_each(|v| *v += stay));
            return;
        }
        self.rest = jump;
        jumped.fill(u64::MAX);
        let value = &mut self.value;
        self.lifted.retain_mut(|(from, to)| {
            let mut kept: Option<(usize, usize)> = None;
            for cell in *from..*to {
                let stayed = value[cell] + stay;
                if stayed < jump {
                    value[cell] = jump;
                } else {
                    value[cell] = stayed;
                    jumped[cell / 64] &= !(1 << (cell % 64));
                    kept = Some((kept.map_or(cell, |kept| kept.0), cell + 1));
                }
            }
            (*from, *to) = kept.unwrap_or((0, 0));
            kept.is_some()
        });
    }

    /// Lifts the cells of a range that are not.
    fn lift(&mut self, from: usize, to: usize) {
        let mut at = from;
        let (mut low, mut high) = (from, to);
        for (start, end) in self.lifted.iter().filter(|(start, end)| *start <= to && *end >= from) {
            if at < *start {
                self.value[at..*start].fill(self.rest);
            }
            at = at.max(*end);
            (low, high) = (low.min(*start), high.max(*end));
        }
        if at < to {
            self.value[at..to].fill(self.rest);
        }
        self.lifted.retain(|(start, end)| *start > to || *end < from);
        let place = self.lifted.partition_point(|(start, _)| *start < low);
        self.lifted.insert(place, (low, high));
    }
}

/// The highest of some values, several at a time.
fn highest(values: &[f64]) -> f64 {
    const AT_ONCE: usize = 8;
    let (eights, others) = values.as_chunks::<AT_ONCE>();
    let mut tops = [f64::NEG_INFINITY; AT_ONCE];
    for eight in eights {
        for (top, value) in tops.iter_mut().zip(eight) {
            *top = if *value > *top { *value } else { *top };
        }
    }
    tops.iter().chain(others).copied().fold(f64::NEG_INFINITY, f64::max)
}

/// 2^52 and what is added to exponents so that none is negative.
const EXPONENT_BASE: f64 = 4_503_599_627_370_496.0 + 1024.0;

/// Natural logarithm of a positive number, to about 1e-7: without branches and calls, so that a loop over it is vectorised,
/// and the same on every machine.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    // Exponent and mantissa so that the mantissa lies around 1.
    let shifted = bits.wrapping_sub(0x3fe6_a09e_667f_3bcd);
    // The exponent, as the low bits of 2^52: every machine turns that into a float in a vector, and few an integer.
    let exponent = f64::from_bits(shifted.wrapping_add(1024 << 52) >> 52 | 0x4330_0000_0000_0000) - EXPONENT_BASE;
    let mantissa = f64::from_bits(bits.wrapping_sub(shifted & 0xfff0_0000_0000_0000));
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let series = 1.0 + square * (1.0 / 3.0 + square * (1.0 / 5.0 + square * (1.0 / 7.0 + square / 9.0)));
    exponent * std::f64::consts::LN_2 + 2.0 * s * series
}

fn weighted_median(mut values: Vec<(f64, f64)>) -> Option<f64> {
    values.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let half = values.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
    let mut sum = 0.0;
    values.iter().find_map(|(value, weight)| {
        sum += weight;
        (sum >= half).then_some(*value)
    })
}

/// An interval that the offset lies in if a pair is true, with the pair's weight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) weight: f64,
}

/// Middle of the stretch that most weight covers, and that weight. Ties go to the leftmost.
pub(super) fn densest_cover(spans: &[Span]) -> Option<(f64, f64)> {
    let mut ends: Vec<(f64, bool, f64)> = Vec::with_capacity(2 * spans.len());
    for span in spans.iter().filter(|span| span.high > span.low) {
        ends.push((span.low, false, span.weight));
        ends.push((span.high, true, -span.weight));
    }
    ends.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)).then(a.2.total_cmp(&b.2)));
    let (mut cover, mut best, mut place) = (0.0, 0.0, None);
    for (at, (x, _, weight)) in ends.iter().enumerate() {
        cover += weight;
        if cover > best + 1e-9 {
            best = cover;
            place = Some((*x, ends.get(at + 1).map_or(*x, |next| next.0)));
        }
    }
    place.map(|(low, high)| (f64::midpoint(low, high), best))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(offset: impl Fn(f64) -> f64) -> Vec<Point> {
        let wobble = |n: usize| ((n * 7919) % 21) as f64 / 1000.0 - 0.01;
        (0..200)
            .flat_map(|n| {
                let at = n as f64 * 3.0;
                let stray = Point { at, offset: ((n * 37) % 100) as f64 / 10.0 - 5.0, weight: 0.3 };
                [Point { at, offset: offset(at) + wobble(n), weight: 0.5 }, stray]
            })
            .collect()
    }

    #[test]
    fn our_logarithm_is_one() {
        for exponent in -60..60 {
            for step in 0..50 {
                let x = 2f64.powi(exponent) * (1.0 + f64::from(step) / 50.0);
                assert!((ln(x) - x.ln()).abs() < 1e-7, "{x}");
            }
        }
    }

    #[test]
    fn the_first_of_the_highest_cells_is_the_best() {
        for cells in 1..30 {
            for top in 0..cells {
                let mut value: Vec<f64> = (0..cells).map(|cell| -((cell * 7 % 5) as f64) - 1.0).collect();
                value[top..].iter_mut().step_by(3).for_each(|value| *value = -0.5);
                let grid = Grid { value, rest: -9.0, lifted: vec![(0, cells)] };
                assert_eq!(grid.best(), (top, -0.5));
            }
        }
    }

    #[test]
    fn a_constant_clock_is_one_segment() {
        let track = Track::fit(points(|_| 1.25), Fit::new(0.02, 6.0));
        assert_eq!(track.segments.len(), 1);
        assert!((track.at(100.0).offset - 1.25).abs() < 0.01, "{track:?}");
    }

    #[test]
    fn a_step_is_found_where_it_is() {
        let track = Track::fit(points(|at| if at < 300.0 { -2.0 } else { 1.0 }), Fit::new(0.02, 6.0));
        assert_eq!(track.segments.len(), 2);
        assert!((track.segments[1].from - 300.0).abs() < 10.0, "{track:?}");
        assert!((track.at(299.0 - 10.0).offset + 2.0).abs() < 0.01 && (track.at(330.0).offset - 1.0).abs() < 0.01);
        assert_eq!(track.own(500.0 + 1.0).map(|segment| segment.offset), Some(track.segments[1].offset));
    }

    #[test]
    fn order_of_points_does_not_matter() {
        let forward = points(|at| at * 1e-4);
        let backward: Vec<Point> = forward.iter().rev().copied().collect();
        assert_eq!(Track::fit(forward, Fit::new(0.02, 6.0)), Track::fit(backward, Fit::new(0.02, 6.0)));
    }

    #[test]
    fn whole_seconds_still_give_an_offset() {
        let spans: Vec<Span> = (0..60)
            .map(|n| {
                let start = n as f64 * 7.3;
                let stamp = (start + 0.4).floor();
                Span { low: stamp - start - 0.05, high: stamp + 1.0 - start, weight: 1.0 }
            })
            .collect();
        let (offset, _) = densest_cover(&spans).unwrap();
        assert!((offset - 0.4).abs() < 0.1, "{offset}");
    }
}
