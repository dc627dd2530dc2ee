//! Habits: delays, follow-ups and words inside conversations, learned from hosts that carry conversation ids.
//!
//! Delays are log-normal; 2 % of them follow no model. Where fewer than eight were seen, broad priors stand in: half a
//! second to minutes, as people and models take. How a prompt begins and ends says whether it goes on with a conversation
//! and whether anything follows it; how an answer ends, whether somebody answers it.

use std::collections::{BTreeMap, HashMap};

use super::super::names::{NONE, Name};
use super::affinity::Affinity;
use super::items::{Item, ItemKind};
use super::tokens::Tokens;
use super::words::Words;

/// Delays that a log-normal is fitted to at least.
const DELAYS_LEAST: usize = 8;
/// A line after which others are missing: a few per cent of lines are lost.
const LEFT_LEAST: f64 = 0.02;
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
    /// Log odds of a follow-up after an answer, and by how the answer ends.
    follow_up: f64,
    ends: Words,
    /// Log odds that a prompt, or a call, is left without anything after it, and by how the prompt begins.
    left: [f64; 2],
    left_prompts: Words,
    /// Log ratios of a call through another gateway than its conversation's last call, and through the same.
    pub(super) same_gateway: [f64; 2],
    pub(super) affinity: Affinity,
    /// Share of prompts that open a conversation.
    pub(super) opening: f64,
    openers: Words,
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

impl Habits {
    /// Log ratio that a prompt goes on rather than opens.
    pub(super) fn goes_on(&self, opener: &Tokens) -> f64 {
        self.openers.ratio(opener)
    }

    /// Log odds that a prompt follows an answer.
    pub(super) fn follow_up(&self, answer: &Item) -> f64 {
        self.follow_up + self.ends.ratio(&answer.manner)
    }

    /// Chance that nothing comes after a prompt or a call: some people say goodbye, and some lines are lost.
    pub(super) fn left(&self, last: &Item) -> f64 {
        let odds = match last.kind {
            ItemKind::Prompt => self.left[0] + self.left_prompts.ratio(&last.manner),
            _ => self.left[1],
        };
        (1.0 / (1.0 + (-odds).exp())).clamp(LEFT_LEAST, 0.98)
    }

    /// A prompt sooner than this after an answer is rare (one and a half spreads below the mean).
    pub(super) fn soonest_prompt(&self) -> f64 {
        (self.answer_prompt.mean - 1.5 * self.answer_prompt.sd).exp()
    }

    /// Learns from conversations whose ids are known; words only where something is to be split by them.
    pub(super) fn learn(conversations: &[&[Item]], rarity: &Rarity, splits: bool) -> Habits {
        let mut seen = Observed::default();
        conversations.iter().for_each(|items| seen.walk(items));
        if splits {
            [&mut seen.openers, &mut seen.ends, &mut seen.left_prompts].into_iter().for_each(Words::learn);
        }
        seen.habits(Affinity::learn(if splits { conversations } else { &[] }, rarity))
    }
}

#[derive(Debug, Default)]
struct Observed {
    delays: BTreeMap<(ItemKind, ItemKind), Vec<f64>>,
    parallel: Vec<f64>,
    calls: f64,
    /// Answers that a prompt followed, and that ended a conversation.
    after: (f64, f64),
    ends: Words,
    /// Prompts and calls after which nothing came, and others.
    left: [(f64, f64); 2],
    left_prompts: Words,
    openers: Words,
    /// Prompts that opened a conversation, and later ones.
    prompts: (f64, f64),
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
                if last.kind == ItemKind::Answer && item.kind == ItemKind::Prompt {
                    self.after.0 += 1.0;
                    self.ends.add(&last.manner, true);
                }
            }
            if item.kind == ItemKind::Prompt {
                if prompts == 0 && place == 0 {
                    self.openers.add(&item.manner, false);
                    self.prompts.0 += 1.0;
                } else if prompts > 0 {
                    self.openers.add(&item.manner, true);
                    self.prompts.1 += 1.0;
                }
                prompts += 1;
            }
            if is_call {
                busy = busy.max(item.end);
            }
            before = Some(item);
            let is_last = place + 1 == items.len();
            if item.kind == ItemKind::Prompt {
                self.left_prompts.add(&item.manner, is_last);
            }
            if item.kind != ItemKind::Answer {
                let (left, others) = &mut self.left[usize::from(is_call)];
                *(if is_last { left } else { others }) += 1.0;
            }
        }
        if let Some(last) = before.filter(|last| last.kind == ItemKind::Answer) {
            self.after.1 += 1.0;
            self.ends.add(&last.manner, false);
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

    fn habits(self, affinity: Affinity) -> Habits {
        use ItemKind::{Answer, Call, Prompt};
        let fit = |from, to, mean, sd| {
            LogNormal::fit(self.delays.get(&(from, to)).map_or(&[][..], Vec::as_slice), LogNormal { mean, sd })
        };
        let parallel = self.parallel.len() as f64;
        let same_gateway = self.same_gateway();
        Habits {
            prompt_call: fit(Prompt, Call, 0.5, 1.0),
            call_call: fit(Call, Call, 0.5, 1.0),
            call_answer: fit(Call, Answer, 0.8, 0.8),
            prompt_answer: fit(Prompt, Answer, 1.0, 0.8),
            answer_prompt: fit(Answer, Prompt, 1.5, 0.6),
            parallel: LogNormal::fit(&self.parallel, LogNormal { mean: -5.0, sd: 1.0 }),
            parallel_chance: (parallel + 1.0) / (parallel + self.calls + 2.0),
            follow_up: ((self.after.0 + 1.0) / (self.after.1 + 1.0)).ln(),
            ends: self.ends,
            same_gateway,
            left: self.left.map(|(left, others)| ((left + 1.0) / (others + 1.0 / LEFT_LEAST)).ln()),
            left_prompts: self.left_prompts,
            affinity,
            opening: (self.prompts.0 + 6.0) / (self.prompts.0 + self.prompts.1 + 10.0),
            openers: self.openers,
        }
    }
}
