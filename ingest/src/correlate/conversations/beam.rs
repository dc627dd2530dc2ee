//! One user of one app instance without conversation ids: which conversation does each line continue?
//!
//! Beam search over the lines in time order. A hypothesis is a list of conversations; every option is a log density per
//! second, so options compare. Costs that are not learned are priors: a line that the protocol does not allow where it
//! stands (an answer while a call is open, a call after the answer) means that another line was lost, which happens in
//! a few per cent.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::super::names::{NONE, Name};
use super::affinity::Common;
use super::habits::{Habits, Rarity};
use super::items::{Binding, Item, ItemKind, steps};

/// Hypotheses kept.
const BEAM: usize = 60;
/// A conversation that no id names is not continued after this long, seconds.
const IDLE_MAX: f64 = 900.0;
/// A line between which and this one another was lost.
const LOST: f64 = 0.02;
/// Another model, or a second session of one server, in one conversation.
const OTHER_MODEL: f64 = -9.0;
const SECOND_SESSION: f64 = -9.0;
/// The binding is this conversation's, is another's.
const BOUND_HERE: f64 = 3.0;
const BOUND_ELSEWHERE: f64 = -12.0;

/// An open or closed conversation of a hypothesis; shared between hypotheses.
#[derive(Debug)]
struct Thread {
    id: u32,
    last: f64,
    busy: f64,
    in_turn: bool,
    model: Name,
    /// The last call's.
    gateway: Name,
    tool: Name,
    /// (server, binding) seen.
    bindings: Vec<(Name, Binding)>,
    /// How many items it has.
    lines: usize,
    /// Last item, and the thread before it.
    item: usize,
    before: Option<Rc<Thread>>,
}

impl Thread {
    /// Items, oldest first.
    fn items(&self) -> Vec<usize> {
        let mut found = vec![self.item];
        let mut at = self.before.as_deref();
        while let Some(thread) = at {
            found.push(thread.item);
            at = thread.before.as_deref();
        }
        found.reverse();
        found
    }
}

#[derive(Debug, Clone)]
struct Hypothesis {
    score: f64,
    threads: Rc<Vec<Rc<Thread>>>,
    owner: Rc<BTreeMap<Binding, usize>>,
}

/// Which conversation each line belongs to, and how sure that is.
#[derive(Debug, Default)]
pub(super) struct Split {
    /// Items of each conversation.
    pub(super) conversations: Vec<Vec<usize>>,
    /// (item, prompt as index of `units.seen`) to the weight of the hypotheses that agree.
    pub(super) under: HashMap<(usize, Option<usize>), f64>,
    /// Every conversation that some hypothesis holds: its weight and its items.
    pub(super) threads: Vec<(f64, Vec<usize>)>,
}

/// What is known before the lines of a place are looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prior {
    /// Whether a conversation holds a gateway session per server.
    pub(super) per_server: bool,
    /// Seconds by which stamps may be out of order.
    pub(super) disorder: f64,
    /// What opening a conversation is worth more than elsewhere (natural log).
    pub(super) opening: f64,
    /// Whether an id names the conversation: people come back to it after any pause.
    pub(super) named: bool,
}

/// Splits the items of one place, which are sorted.
pub(super) fn split(items: &[Item], habits: &Habits, rarity: &Rarity, prior: Prior) -> Split {
    let Some((first, last)) = items.first().zip(items.last()) else { return Split::default() };
    let prompts = items.iter().filter(|item| item.kind == ItemKind::Prompt).count();
    let opening_rate = ((prompts as f64 * habits.opening).max(1.0) / (last.t - first.t).max(60.0)).ln() + prior.opening;
    let mut search = Search { items, habits, overlap: Overlap::new(items, rarity), prior, opening_rate, threads: 0 };
    let mut beam = vec![Hypothesis { score: 0.0, threads: Rc::default(), owner: Rc::default() }];
    for at in 0..items.len() {
        beam = search.step(&beam, at);
    }
    search.finish(beam)
}

struct Search<'s> {
    items: &'s [Item],
    habits: &'s Habits,
    overlap: Overlap,
    prior: Prior,
    opening_rate: f64,
    threads: u32,
}

impl Search<'_> {
    fn step(&mut self, beam: &[Hypothesis], at: usize) -> Vec<Hypothesis> {
        let item = &self.items[at];
        self.overlap.look_at(self.items, at);
        let mut known: HashMap<u32, f64> = HashMap::new();
        let mut options: Vec<(f64, usize, usize)> = Vec::new();
        for (place, hypothesis) in beam.iter().enumerate() {
            let owner = item.binding.and_then(|binding| hypothesis.owner.get(&binding).copied());
            for (which, thread) in hypothesis.threads.iter().enumerate() {
                if !self.prior.named && item.t - thread.last > IDLE_MAX {
                    continue;
                }
                let score = match known.get(&thread.id) {
                    Some(score) => *score,
                    None => {
                        let score = self.continues(thread, item);
                        known.insert(thread.id, score);
                        score
                    }
                };
                let bound = self.bound(item, thread, owner, which);
                options.push((hypothesis.score + score + bound, place, which));
            }
            options.push((hypothesis.score + self.opens(item, owner.is_some()), place, hypothesis.threads.len()));
        }
        options.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        options.truncate(BEAM);
        let mut made: HashMap<u32, Rc<Thread>> = HashMap::new();
        options.iter().map(|(score, place, which)| self.extend(&beam[*place], *which, *score, at, &mut made)).collect()
    }

    /// Log density that `item` is the next line of `thread`.
    fn continues(&self, thread: &Thread, item: &Item) -> f64 {
        let habits = self.habits;
        let last = &self.items[thread.item];
        let since = item.t - thread.last.max(thread.busy);
        let mut score = 0.0;
        if thread.model != item.model {
            score += OTHER_MODEL;
        }
        if item.gateway != NONE && thread.gateway != NONE {
            score += habits.same_gateway[usize::from(item.gateway == thread.gateway)];
        }
        score += habits.affinity.of(item.kind, &self.common(thread, item));
        if thread.in_turn {
            score += (1.0 - habits.left(last)).ln();
        }
        score
            + match item.kind {
                ItemKind::Prompt => {
                    let goes_on = habits.goes_on(&item.manner);
                    if thread.in_turn {
                        goes_on + LOST.ln() + habits.answer_prompt.density(since / 2.0)
                    } else {
                        let answered = if last.kind == ItemKind::Answer { habits.follow_up(last) } else { 0.0 };
                        goes_on + answered + habits.answer_prompt.density(item.t - thread.last)
                    }
                }
                ItemKind::Call if !thread.in_turn => {
                    let mut wide = habits.answer_prompt;
                    (wide.mean, wide.sd) = (wide.mean + 0.3, 0.7);
                    LOST.ln() + wide.density(item.t - thread.last)
                }
                ItemKind::Call if item.t < thread.busy => {
                    habits.parallel_chance.ln() + habits.parallel.density(item.t - thread.last)
                }
                ItemKind::Call => {
                    let gap = if last.kind == ItemKind::Prompt { habits.prompt_call } else { habits.call_call };
                    (1.0 - habits.parallel_chance).ln() + gap.density(since)
                }
                ItemKind::Answer => {
                    let closed = if thread.in_turn { 0.0 } else { -5.0 };
                    let gap = if last.kind == ItemKind::Prompt { habits.prompt_answer } else { habits.call_answer };
                    closed + if item.t >= thread.busy { gap.density(since) } else { -9.0 }
                }
            }
    }

    fn common(&self, thread: &Thread, item: &Item) -> Common {
        let mut common = self.overlap.common(self.items, thread);
        if item.kind == ItemKind::Call {
            common.tool = self.habits.affinity.tool(thread.tool, item.tool);
        }
        common
    }

    /// Evidence of sessions and traces.
    fn bound(&self, item: &Item, thread: &Thread, owner: Option<usize>, which: usize) -> f64 {
        match (item.binding, owner) {
            (None, _) | (Some(Binding::Trace(_)), None) => 0.0,
            (Some(_), Some(owner)) => {
                if owner == which {
                    BOUND_HERE
                } else {
                    BOUND_ELSEWHERE
                }
            }
            (Some(Binding::Session(_)), None) => {
                let mut sessions = thread.bindings.iter().filter(|(_, binding)| matches!(binding, Binding::Session(_)));
                let second = if self.prior.per_server {
                    sessions.any(|(server, _)| *server == item.server)
                } else {
                    sessions.next().is_some()
                };
                if second { SECOND_SESSION } else { 0.0 }
            }
        }
    }

    /// Log density that `item` opens a conversation.
    fn opens(&self, item: &Item, bound: bool) -> f64 {
        let first = match item.kind {
            ItemKind::Prompt => 0.0,
            ItemKind::Call => LOST.ln(),
            ItemKind::Answer => 0.003f64.ln(),
        };
        self.opening_rate + first + if bound { BOUND_ELSEWHERE } else { 0.0 }
    }

    fn extend(
        &mut self,
        from: &Hypothesis,
        which: usize,
        score: f64,
        at: usize,
        made: &mut HashMap<u32, Rc<Thread>>,
    ) -> Hypothesis {
        let item = &self.items[at];
        let before = from.threads.get(which);
        let key = before.map_or(u32::MAX, |thread| thread.id);
        let thread = match made.get(&key) {
            Some(thread) => Rc::clone(thread),
            None => {
                self.threads += 1;
                let thread = Rc::new(next_thread(before, item, at, self.threads));
                made.insert(key, Rc::clone(&thread));
                thread
            }
        };
        let mut threads = (*from.threads).clone();
        if which < threads.len() {
            threads[which] = thread;
        } else {
            threads.push(thread);
        }
        let mut owner = Rc::clone(&from.owner);
        if let Some(binding) = item.binding.filter(|binding| !owner.contains_key(binding)) {
            Rc::make_mut(&mut owner).insert(binding, which);
        }
        Hypothesis { score, threads: Rc::new(threads), owner }
    }

    fn finish(&self, mut beam: Vec<Hypothesis>) -> Split {
        for hypothesis in &mut beam {
            let open = hypothesis.threads.iter().filter(|thread| thread.in_turn);
            hypothesis.score += open.map(|thread| self.habits.left(&self.items[thread.item]).ln()).sum::<f64>();
        }
        beam.sort_by(|a, b| b.score.total_cmp(&a.score));
        let Some(top) = beam.first().map(|best| best.score) else { return Split::default() };
        let weights: Vec<f64> = beam.iter().map(|hypothesis| (hypothesis.score - top).max(-50.0).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut split = Split::default();
        let mut weight_of: BTreeMap<u32, (f64, Rc<Thread>)> = BTreeMap::new();
        for (hypothesis, weight) in beam.iter().zip(&weights) {
            for thread in hypothesis.threads.iter() {
                weight_of.entry(thread.id).or_insert_with(|| (0.0, Rc::clone(thread))).0 += weight / total;
            }
        }
        for (weight, thread) in weight_of.into_values() {
            let items = thread.items();
            for (at, step) in items.iter().zip(steps(items.iter().map(|at| &self.items[*at]), self.prior.disorder)) {
                *split.under.entry((*at, step.prompt)).or_default() += weight;
            }
            split.threads.push((weight, items));
        }
        split.conversations = beam[0].threads.iter().map(|thread| thread.items()).collect();
        split
    }
}

fn next_thread(before: Option<&Rc<Thread>>, item: &Item, at: usize, id: u32) -> Thread {
    let mut bindings = before.map_or(Vec::new(), |thread| thread.bindings.clone());
    if let Some(binding) =
        item.binding.map(|binding| (item.server, binding)).filter(|binding| !bindings.contains(binding))
    {
        bindings.push(binding);
    }
    let busy = before.map_or(0.0, |thread| thread.busy);
    Thread {
        id,
        last: item.t,
        busy: if item.kind == ItemKind::Call { busy.max(item.end) } else { busy },
        in_turn: item.kind != ItemKind::Answer,
        model: before.map_or(item.model, |thread| thread.model),
        gateway: if item.gateway == NONE { before.map_or(NONE, |thread| thread.gateway) } else { item.gateway },
        tool: if item.kind == ItemKind::Call { item.tool } else { before.map_or(NONE, |thread| thread.tool) },
        bindings,
        lines: before.map_or(0, |thread| thread.lines) + 1,
        item: at,
        before: before.map(Rc::clone),
    }
}

/// What a line shares with what conversations said before it.
struct Overlap {
    /// Items that said a token, ascending.
    said_by: HashMap<u64, Vec<u32>>,
    weights: Vec<Vec<f64>>,
    /// For the present line: item to the line's tokens that it said, a bit each.
    matched: HashMap<u32, Vec<u64>>,
    present: usize,
}

impl Overlap {
    fn new(items: &[Item], rarity: &Rarity) -> Overlap {
        let mut said_by: HashMap<u64, Vec<u32>> = HashMap::new();
        let mut weights = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            item.said.iter().for_each(|token| said_by.entry(*token).or_default().push(at as u32));
            weights.push(item.asked.iter().map(|token| rarity.of(*token)).collect());
        }
        Overlap { said_by, weights, matched: HashMap::new(), present: 0 }
    }

    fn look_at(&mut self, items: &[Item], at: usize) {
        (self.present, self.matched) = (at, HashMap::new());
        let words = items[at].asked.len().div_ceil(64);
        for (place, token) in items[at].asked.iter().enumerate() {
            for item in self.said_by.get(token).into_iter().flatten().take_while(|item| (**item as usize) < at) {
                self.matched.entry(*item).or_insert_with(|| vec![0; words])[place / 64] |= 1 << (place % 64);
            }
        }
    }

    fn common(&self, items: &[Item], thread: &Thread) -> Common {
        let weights = &self.weights[self.present];
        let mut seen = vec![0u64; weights.len().div_ceil(64)];
        let sum = |seen: &[u64], lines: usize| {
            let chance = (lines as f64).ln();
            let held = |place: usize| seen[place / 64] >> (place % 64) & 1 == 1;
            let held = weights.iter().enumerate().filter(|(place, _)| held(*place)).map(|(_, weight)| *weight);
            held.fold((0.0, 0.0), |(all, rare), weight: f64| (all + weight, rare + (weight - chance).max(0.0)))
        };
        let mut common = Common { mass: weights.iter().sum(), lines: thread.lines, ..Common::default() };
        let (mut at, mut turn, mut lines) = (Some(thread), false, 0);
        while let Some(line) = at {
            lines += 1;
            if let Some(bits) = self.matched.get(&(line.item as u32)) {
                seen.iter_mut().zip(bits).for_each(|(all, own)| *all |= own);
            }
            if lines == 1 {
                common.last = sum(&seen, 1).0;
            }
            if !turn && items[line.item].kind == ItemKind::Prompt {
                turn = true;
                (common.lines_turn, (common.turn, common.surprise_turn)) = (lines, sum(&seen, lines));
            }
            at = line.before.as_deref();
        }
        (common.all, common.surprise) = sum(&seen, lines);
        if !turn {
            (common.lines_turn, common.turn, common.surprise_turn) = (lines, common.all, common.surprise);
        }
        common
    }
}
