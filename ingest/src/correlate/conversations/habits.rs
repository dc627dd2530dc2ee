//! Habits: delays, follow-ups and word overlap inside conversations, learned from hosts that carry conversation ids.
//!
//! Delays are log-normal; 2 % of them follow no model. Where fewer than eight were seen, broad priors stand in: half a
//! second to minutes, as people and models take. The overlap of a line with its own conversation is compared with its
//! overlap with another one of the estate, in five bins.

use std::collections::{BTreeMap, HashMap};

use super::super::names::{NONE, Name};
use super::items::{Item, ItemKind};
use super::tokens::{Tokens, holds};

/// Bins of word overlap.
pub(super) const BINS: usize = 5;
/// Classes of how many lines a conversation has so far: the more it has said, the more of any line it has said already.
const SIZES: usize = 4;
/// Lines up to which the first three classes go.
const SIZE_ENDS: [usize; SIZES - 1] = [2, 6, 14];
/// How much overlap counts for prompts, calls and answers: neighbouring lines are not independent.
const OVERLAP_WEIGHT: [f64; 3] = [0.4, 1.0, 0.5];
/// Lines of a conversation that are looked at.
const LINES_MAX: usize = 30;
/// Delays that a log-normal is fitted to at least.
const DELAYS_LEAST: usize = 8;
/// Seconds over which delays that follow no model are spread.
const UNMODELLED_SPAN: f64 = 120.0;

/// Mean and spread of the logarithm of a delay in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LogNormal {
    pub(super) mean: f64,
    pub(super) sd: f64,
}

impl LogNormal {
    fn fit(delays: &[f64], prior: LogNormal) -> LogNormal {
        if delays.len() < DELAYS_LEAST {
            return prior;
        }
        let logs: Vec<f64> = delays.iter().map(|delay| delay.max(1e-3).ln()).collect();
        let n = logs.len() as f64;
        let mean = logs.iter().sum::<f64>() / n;
        let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / n;
        LogNormal { mean, sd: variance.sqrt().max(0.3) }
    }

    /// Log density per second.
    pub(super) fn density(self, delay: f64) -> f64 {
        let delay = delay.max(1e-3);
        let z = (delay.ln() - self.mean) / self.sd;
        (0.98 * (-0.5 * z * z).exp() / (delay * self.sd * 2.506_628_3) + 0.02 / UNMODELLED_SPAN).ln()
    }
}

/// What conversations of this estate are like.
#[derive(Debug)]
pub(super) struct Habits {
    pub(super) prompt_call: LogNormal,
    pub(super) call_call: LogNormal,
    pub(super) call_answer: LogNormal,
    pub(super) prompt_answer: LogNormal,
    pub(super) answer_prompt: LogNormal,
    pub(super) parallel: LogNormal,
    /// Chance that a call starts while another is open.
    pub(super) parallel_chance: f64,
    /// Chance of a follow-up after an answer that ends in a question, and after another.
    pub(super) follow_up: [f64; 2],
    /// Share of conversations that end without an answer.
    pub(super) left_open: f64,
    /// Log ratios of a call through another gateway than its conversation's last call, and through the same.
    pub(super) same_gateway: [f64; 2],
    overlap: Overlaps,
    opener: Option<Openers>,
}

/// By kind of line, size of the conversation and overlap.
type Overlaps = [[[f64; BINS]; SIZES]; 3];

fn size(lines: usize) -> usize {
    SIZE_ENDS.iter().position(|end| lines <= *end).unwrap_or(SIZES - 1)
}

#[derive(Debug)]
struct Openers {
    first: HashMap<u64, f64>,
    later: HashMap<u64, f64>,
    totals: (f64, f64),
    words: f64,
}

/// Weight of a token: the rarer the more.
#[derive(Debug, Default)]
pub(super) struct Rarity {
    items: HashMap<u64, u32>,
    total: f64,
}

impl Rarity {
    pub(super) fn count(&mut self, tokens: &Tokens) {
        self.total += 1.0;
        tokens.iter().for_each(|token| *self.items.entry(*token).or_default() += 1);
    }

    pub(super) fn of(&self, token: u64) -> f64 {
        self.items.get(&token).map_or(8.0, |n| ((self.total + 1.0) / (f64::from(*n) + 1.0)).ln().max(0.0))
    }
}

/// Bin of an overlap share.
pub(super) fn bin(share: f64) -> usize {
    ((share * BINS as f64) as usize).min(BINS - 1)
}

impl Habits {
    /// Log ratio of an overlap with the own conversation against another of as many lines.
    pub(super) fn overlap(&self, kind: ItemKind, lines: usize, share: f64) -> f64 {
        self.overlap[kind as usize][size(lines)][bin(share)]
    }

    /// Log ratio that a prompt goes on rather than opens.
    pub(super) fn goes_on(&self, opener: &Tokens) -> f64 {
        let Some(known) = &self.opener else { return 0.0 };
        let chance = |counts: &HashMap<u64, f64>, total: f64, token: &u64| {
            ((counts.get(token).copied().unwrap_or(0.0) + 0.5) / (total + 0.5 * known.words)).ln()
        };
        let sum: f64 = opener
            .iter()
            .map(|token| chance(&known.later, known.totals.1, token) - chance(&known.first, known.totals.0, token))
            .sum();
        (0.7 * sum).clamp(-4.0, 4.0)
    }

    /// A prompt sooner than this after an answer is rare (one and a half spreads below the mean).
    pub(super) fn soonest_prompt(&self) -> f64 {
        (self.answer_prompt.mean - 1.5 * self.answer_prompt.sd).exp()
    }

    /// Learns from conversations whose ids are known.
    pub(super) fn learn(conversations: &[&[Item]], rarity: &Rarity) -> Habits {
        let mut seen = Observed::default();
        conversations.iter().for_each(|items| seen.walk(items));
        let (mut same, mut other): (Overlaps, Overlaps) = ([[[2.0; BINS]; SIZES]; 3], [[[2.0; BINS]; SIZES]; 3]);
        for place in 0..conversations.len() {
            overlaps(conversations, place, rarity, &mut same, &mut other);
        }
        let mut overlap: Overlaps = [[[0.0; BINS]; SIZES]; 3];
        for kind in 0..3 {
            for size in 0..SIZES {
                let (same, other) = (&same[kind][size], &other[kind][size]);
                let (own, rival) = (same.iter().sum::<f64>(), other.iter().sum::<f64>());
                for bin in 0..BINS {
                    overlap[kind][size][bin] =
                        OVERLAP_WEIGHT[kind] * ((same[bin] / own).ln() - (other[bin] / rival).ln());
                }
            }
        }
        seen.habits(overlap)
    }
}

#[derive(Debug, Default)]
struct Observed {
    delays: BTreeMap<(ItemKind, ItemKind), Vec<f64>>,
    parallel: Vec<f64>,
    calls: f64,
    /// After a question, after another answer: (follow-ups, ends).
    after: [(f64, f64); 2],
    ended: (f64, f64),
    first: HashMap<u64, f64>,
    later: HashMap<u64, f64>,
    prompts: (u32, u32),
    /// Calls through another gateway than the conversation's last, and through the same.
    gateways: [f64; 2],
    /// Calls by gateway.
    through: BTreeMap<Name, f64>,
}

impl Observed {
    fn walk(&mut self, items: &[Item]) {
        let mut before: Option<&Item> = None;
        let mut busy = 0.0f64;
        let mut prompts = 0;
        let mut passed = items.iter().map(|item| item.gateway).filter(|gateway| *gateway != NONE).peekable();
        while let Some(gateway) = passed.next() {
            *self.through.entry(gateway).or_default() += 1.0;
            if let Some(next) = passed.peek() {
                self.gateways[usize::from(*next == gateway)] += 1.0;
            }
        }
        for (place, item) in items.iter().enumerate() {
            let is_call = item.kind == ItemKind::Call;
            if let Some(last) = before {
                if is_call && item.t < busy {
                    self.parallel.push((item.t - last.t).max(1e-3));
                } else {
                    self.calls += f64::from(u8::from(is_call));
                    let gap = (item.t - last.t.max(busy)).max(1e-3);
                    self.delays.entry((last.kind, item.kind)).or_default().push(gap);
                }
                if last.kind == ItemKind::Answer {
                    self.after[usize::from(last.question)].0 += f64::from(u8::from(item.kind == ItemKind::Prompt));
                }
            }
            if item.kind == ItemKind::Prompt {
                if prompts == 0 && place == 0 {
                    item.opener.iter().for_each(|token| *self.first.entry(*token).or_default() += 1.0);
                    self.prompts.0 += 1;
                } else if prompts > 0 {
                    item.opener.iter().for_each(|token| *self.later.entry(*token).or_default() += 1.0);
                    self.prompts.1 += 1;
                }
                prompts += 1;
            }
            if is_call {
                busy = busy.max(item.end);
            }
            before = Some(item);
        }
        if let Some(last) = before {
            if last.kind == ItemKind::Answer {
                self.after[usize::from(last.question)].1 += 1.0;
                self.ended.1 += 1.0;
            } else {
                self.ended.0 += 1.0;
            }
        }
    }

    fn same_gateway(&self) -> [f64; 2] {
        let all: f64 = self.through.values().sum();
        let by_chance: f64 = self.through.values().map(|calls| (calls / all).powi(2)).sum();
        if by_chance > 0.99 || all < 1.0 {
            return [0.0; 2];
        }
        let [other, same] = self.gateways.map(|count| count + 1.0);
        let share = same / (other + same);
        [((1.0 - share) / (1.0 - by_chance)).ln(), (share / by_chance).ln()]
    }

    fn habits(self, overlap: Overlaps) -> Habits {
        use ItemKind::{Answer, Call, Prompt};
        let fit = |from, to, mean, sd| {
            LogNormal::fit(self.delays.get(&(from, to)).map_or(&[][..], Vec::as_slice), LogNormal { mean, sd })
        };
        let parallel = self.parallel.len() as f64;
        let chance = |(more, ends): (f64, f64)| (more + 1.0) / (more + ends + 2.0);
        let learned = self.prompts.0 > 10 && self.prompts.1 > 10;
        Habits {
            prompt_call: fit(Prompt, Call, 0.5, 1.0),
            call_call: fit(Call, Call, 0.5, 1.0),
            call_answer: fit(Call, Answer, 0.8, 0.8),
            prompt_answer: fit(Prompt, Answer, 1.0, 0.8),
            answer_prompt: fit(Answer, Prompt, 1.5, 0.6),
            parallel: LogNormal::fit(&self.parallel, LogNormal { mean: -5.0, sd: 1.0 }),
            parallel_chance: (parallel + 1.0) / (parallel + self.calls + 2.0),
            follow_up: [chance(self.after[0]), chance(self.after[1])],
            same_gateway: self.same_gateway(),
            left_open: (self.ended.0 + 1.0) / (self.ended.0 + self.ended.1 + 2.0),
            overlap,
            opener: learned.then(|| Openers {
                totals: (self.first.values().sum(), self.later.values().sum()),
                words: self
                    .first
                    .keys()
                    .chain(self.later.keys().filter(|token| !self.first.contains_key(token)))
                    .count() as f64,
                first: self.first,
                later: self.later,
            }),
        }
    }
}

/// Overlap of each line with its own conversation, and with the beginnings of two others of the estate that are as long.
fn overlaps(conversations: &[&[Item]], place: usize, rarity: &Rarity, same: &mut Overlaps, other: &mut Overlaps) {
    let count = conversations.len();
    let said = |at: usize, lines: usize| -> Tokens {
        let mut all: Tokens = conversations[at].iter().take(lines).flat_map(|item| item.said.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    // Two fixed strides over the list: which conversations are compared must not depend on chance.
    let rivals = [(place * 7 + 3) % count, (place * 5 + 11) % count];
    let lengths = [SIZE_ENDS[0], SIZE_ENDS[1], SIZE_ENDS[2], LINES_MAX];
    let heard: Vec<Vec<Tokens>> =
        rivals.iter().map(|rival| lengths.iter().map(|lines| said(*rival, *lines)).collect()).collect();
    let mut own = Tokens::new();
    for (step, item) in conversations[place].iter().take(LINES_MAX).enumerate() {
        let weight: f64 = item.asked.iter().map(|token| rarity.of(*token)).sum();
        if !item.asked.is_empty() {
            let weight = if weight > 0.0 { weight } else { 1.0 };
            let share = |of: &Tokens| {
                bin(item.asked.iter().filter(|token| holds(of, **token)).map(|token| rarity.of(*token)).sum::<f64>()
                    / weight)
            };
            let kind = item.kind as usize;
            if step > 0 {
                same[kind][size(step)][share(&own)] += 1.0;
            }
            // The rival of a prompt's "continues this conversation" is "opens a new one".
            if step == 0 || item.kind != ItemKind::Prompt {
                for heard in &heard {
                    for (size, tokens) in heard.iter().enumerate() {
                        other[kind][size][share(tokens)] += 1.0;
                    }
                }
            }
        }
        own.extend_from_slice(&item.said);
        own.sort_unstable();
        own.dedup();
    }
}
