//! Systems whose lines do not name the server that called them: the server is learned.
//!
//! For every server the lines of such a clock are laid over its calls: the offset that suits them best, then how likely the
//! lines are if most were caused by these calls, against lines that have nothing to do with them. The search for an offset
//! and the odds against coincidence ([`BY_CHANCE`]) have to be paid for, and a second server that fits as well makes it
//! nobody's.

use std::collections::{BTreeMap, HashMap};

use super::super::names::Name;
use super::content::Vocabulary;
use super::{Pair, Stage, shape};

/// Lines of one clock that are looked at.
const LINES_MAX: usize = 200;
/// Share of the lines that calls cause, where any are caused.
const CAUSED: f64 = 0.9;
/// Most that one line counts (natural log).
const LINE_MOST: f64 = 8.0;
/// A server is believed when it is this unlikely that the lines fit it by chance.
const BY_CHANCE: f64 = 1e-3;
/// Offsets that differ by less fit alike, seconds.
const CELL: f64 = 0.05;

impl Stage<'_, '_> {
    /// Names the server of lines that name none which has calls; whether there was any.
    pub(super) fn name_servers(&mut self, by_server: &BTreeMap<Name, Vec<usize>>, vocabulary: &Vocabulary) -> bool {
        let mut any = false;
        let mut unnamed: BTreeMap<(Name, Name), Vec<usize>> = BTreeMap::new();
        for (at, line) in self.lines.iter().enumerate().filter(|(_, line)| !by_server.contains_key(&line.server)) {
            unnamed.entry((line.clock, line.server)).or_default().push(at);
        }
        for lines in unnamed.into_values() {
            let step = lines.len().div_ceil(LINES_MAX);
            let some: Vec<usize> = lines.iter().copied().step_by(step).collect();
            let mut fits: Vec<(f64, Name)> =
                by_server.iter().map(|(server, calls)| (self.fit_of(&some, calls, vocabulary), *server)).collect();
            fits.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let Some((best, server)) = fits.first().copied() else { continue };
            let second = fits.get(1).map_or(0.0, |(fit, _)| fit.max(0.0));
            if best - second > -BY_CHANCE.ln() {
                lines.iter().for_each(|line| self.lines[*line].server = server);
                any = true;
            }
        }
        any
    }

    /// Log-likelihood ratio of these lines being caused by these calls.
    fn fit_of(&self, lines: &[usize], calls: &[usize], vocabulary: &Vocabulary) -> f64 {
        let mut pairs: Vec<(Pair, f64)> = Vec::new();
        let mut near: BTreeMap<usize, f64> = BTreeMap::new();
        let longest = self.longest(calls);
        for at in lines {
            let line = &self.lines[*at];
            for call in self.calls_near(line, calls, longest) {
                let Some(execution) = &self.executions[call] else { continue };
                *near.entry(*at).or_default() += 1.0;
                let content = vocabulary.score(line, execution);
                if content > -12.0 {
                    pairs.push((Pair { line: *at, call, content, shape: shape(line, execution) }, content));
                }
            }
        }
        let mut rivals: HashMap<usize, (f64, f64)> = HashMap::new();
        for (pair, score) in &pairs {
            let known = rivals.entry(pair.line).or_default();
            known.0 += 1.0;
            known.1 += score.min(9.0).exp();
        }
        let resembling: Vec<(Pair, f64)> = pairs.iter().copied().filter(|(_, score)| *score > -1.0).collect();
        let Some(track) = self.fit_clock(&resembling, &rivals).filter(|track| !track.is_empty()) else {
            return f64::NEG_INFINITY;
        };
        let mut caused: BTreeMap<usize, f64> = BTreeMap::new();
        for (pair, content) in &pairs {
            let (line, Some(call)) = (&self.lines[pair.line], &self.executions[pair.call]) else { continue };
            let time = self.time_ratio(line, call, track.at(call.start).offset);
            let longer = if line.duration > call.end - call.start + 0.004 { -8.0 } else { 0.0 };
            *caused.entry(pair.line).or_default() += (content + time + longer).min(LINE_MOST).exp();
        }
        let of_line = |at: &usize| {
            let mean = caused.get(at).map_or(0.0, |sum| sum / near[at]);
            (1.0 - CAUSED + CAUSED * mean).ln()
        };
        let searched = (2.0 * self.window() / CELL).ln() * track.segments.len() as f64;
        lines.iter().map(of_line).sum::<f64>() - searched
    }
}
