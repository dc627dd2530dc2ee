//! Affinity: how much better the words of a line go with what its own conversation said than with what another said.
//!
//! Learned from hosts that carry conversation ids: each line is compared with its own conversation so far and with others
//! of the estate where they stood before a line of the same kind. What both said is weighed by rarity, and told apart by
//! whether the last line, the present turn, or the conversation said it. Calls are also compared by their tools: some follow
//! each other.

use std::collections::HashMap;

use super::super::names::{NONE, Name};
use super::habits::Rarity;
use super::items::{Item, ItemKind};
use super::logit::{Example, Logit};

/// Features of a line beside a conversation.
pub(super) const FEATURES: usize = 13;
/// Lines of a conversation that are looked at.
const LINES_MAX: usize = 40;
/// Conversations that are looked at.
const CONVERSATIONS_MAX: usize = 2000;
/// Other conversations that each line is compared with.
const RIVALS: usize = 3;
/// Followed tools that the general frequency counts for.
const TOOLS_HOLD: f64 = 3.0;
/// Weights before anything is learned, for prompts, calls and answers: about half of what runs of public agents teach. Calls
/// and answers repeat what their turn says.
const PRIOR: [[f64; FEATURES]; 3] = [
    [-0.2, -0.2, 0.3, 0.0, 0.0, 0.0, 0.2, 0.3, 0.0, 0.0, 0.0, 0.2, 0.0],
    [0.0, -1.5, 1.5, 0.0, 0.0, -0.2, 0.5, 0.7, 0.2, 0.0, 0.0, 0.0, 0.3],
    [-0.9, -0.9, 1.2, 0.0, 0.0, 0.0, 0.5, 0.0, 0.3, 0.0, 0.1, 0.1, 0.0],
];
/// No words say more than this.
const MOST: f64 = 6.0;

/// What a line shares with a conversation, by rarity.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Common {
    /// All that the line says.
    pub(super) mass: f64,
    /// What the conversation said, what its present turn said, what its last line said.
    pub(super) all: f64,
    pub(super) turn: f64,
    pub(super) last: f64,
    /// The same two, each less what as many lines say by chance.
    pub(super) surprise: f64,
    pub(super) surprise_turn: f64,
    /// Lines of the conversation, and of its present turn.
    pub(super) lines: usize,
    pub(super) lines_turn: usize,
    /// Log ratio of the tool after the conversation's last one.
    pub(super) tool: f64,
}

impl Common {
    fn features(&self) -> [f64; FEATURES] {
        let mass = self.mass.max(1e-9);
        let says = f64::from(u8::from(self.mass > 0.0));
        let none = says * f64::from(u8::from(self.all <= 0.0));
        let none_turn = says * f64::from(u8::from(self.turn <= 0.0));
        [
            1.0,
            says,
            self.all / mass,
            none,
            none * (self.lines as f64).ln(),
            none * self.mass.ln_1p(),
            self.surprise.ln_1p(),
            self.turn / mass,
            none_turn,
            none_turn * (self.lines_turn as f64).ln(),
            self.surprise_turn.ln_1p(),
            self.last.ln_1p(),
            self.tool,
        ]
    }
}

/// What sharing words is worth, by kind of line.
#[derive(Debug)]
pub(super) struct Affinity {
    worth: [Logit<FEATURES>; 3],
    tools: Tools,
}

impl Affinity {
    /// Log ratio that a line of this kind continues a conversation.
    pub(super) fn of(&self, kind: ItemKind, common: &Common) -> f64 {
        self.worth[kind as usize].of(&common.features()).clamp(-MOST, MOST)
    }

    pub(super) fn tool(&self, before: Name, tool: Name) -> f64 {
        self.tools.ratio(before, tool, 0.0)
    }

    pub(super) fn learn(conversations: &[&[Item]], rarity: &Rarity) -> Affinity {
        let stride = conversations.len().div_ceil(CONVERSATIONS_MAX).max(1);
        let taken: Vec<&[Item]> =
            conversations.iter().step_by(stride).map(|items| &items[..items.len().min(LINES_MAX)]).collect();
        let tools = Tools::learn(&taken);
        let heard: Vec<Heard> = taken.iter().map(|items| Heard::new(items)).collect();
        let mut examples: [Vec<Example<FEATURES>>; 3] = Default::default();
        for (place, items) in taken.iter().enumerate() {
            for (step, item) in items.iter().enumerate() {
                let kind = item.kind as usize;
                if step > 0 {
                    let own = heard[place].common(item, step, rarity, &tools, true);
                    examples[kind].push((own.features(), true));
                } else if item.kind != ItemKind::Prompt {
                    continue;
                }
                // Fixed strides over the list: what is compared must not depend on chance.
                for n in 0..RIVALS.min(taken.len() - 1) {
                    let rival = (place + 1 + (place * 7 + step * 5 + n * 11 + n) % (taken.len() - 1)) % taken.len();
                    let there = &heard[rival].before[kind];
                    if !there.is_empty() {
                        let at = there[(place * 3 + step * 17 + n) % there.len()];
                        examples[kind].push((heard[rival].common(item, at, rarity, &tools, false).features(), false));
                    }
                }
            }
        }
        let mut kinds = PRIOR.iter();
        let worth = examples.map(|examples| Logit::fit(&examples, *kinds.next().unwrap_or(&[0.0; FEATURES])));
        Affinity { worth, tools }
    }
}

/// Which tools follow which in a conversation.
#[derive(Debug, Default)]
struct Tools {
    pairs: HashMap<(Name, Name), f64>,
    before: HashMap<Name, f64>,
    after: HashMap<Name, f64>,
    total: f64,
}

impl Tools {
    fn learn(conversations: &[&[Item]]) -> Tools {
        let mut tools = Tools::default();
        for items in conversations {
            let mut before = NONE;
            for tool in items.iter().filter(|item| item.kind == ItemKind::Call).map(|item| item.tool) {
                *tools.pairs.entry((before, tool)).or_default() += 1.0;
                *tools.before.entry(before).or_default() += 1.0;
                *tools.after.entry(tool).or_default() += 1.0;
                tools.total += 1.0;
                before = tool;
            }
        }
        tools
    }

    /// `own` is what the pair itself added to the counts.
    fn ratio(&self, before: Name, tool: Name, own: f64) -> f64 {
        let count = |map: &HashMap<Name, f64>, name| map.get(&name).copied().unwrap_or(0.0);
        let chance = (count(&self.after, tool) - own + 0.5) / (self.total - own + 0.5 * self.after.len() as f64 + 1.0);
        let pairs = self.pairs.get(&(before, tool)).copied().unwrap_or(0.0) - own;
        let followed = count(&self.before, before) - own;
        ((pairs + TOOLS_HOLD * chance) / (followed + TOOLS_HOLD)).ln() - chance.ln()
    }
}

/// What a conversation said, and when.
struct Heard {
    said: HashMap<u64, Vec<u32>>,
    /// First line of the turn that stands before each line.
    turn: Vec<u32>,
    /// The last tool before each line.
    tool: Vec<Name>,
    /// Lines by kind, but for the first.
    before: [Vec<usize>; 3],
}

impl Heard {
    fn new(items: &[Item]) -> Heard {
        let mut heard = Heard { said: HashMap::new(), turn: Vec::new(), tool: Vec::new(), before: Default::default() };
        let (mut turn, mut tool) = (0, NONE);
        for (at, item) in items.iter().enumerate() {
            heard.turn.push(turn);
            heard.tool.push(tool);
            if at > 0 {
                heard.before[item.kind as usize].push(at);
            }
            match item.kind {
                ItemKind::Prompt => turn = at as u32,
                ItemKind::Call => tool = item.tool,
                ItemKind::Answer => {}
            }
            item.said.iter().for_each(|token| heard.said.entry(*token).or_default().push(at as u32));
        }
        heard
    }

    fn common(&self, item: &Item, at: usize, rarity: &Rarity, tools: &Tools, own: bool) -> Common {
        let (turn, end) = (self.turn[at], at as u32);
        let mut common = Common { lines: at, lines_turn: at - turn as usize, ..Common::default() };
        let chance = [common.lines, common.lines_turn].map(|lines| (lines as f64).ln());
        for token in &item.asked {
            let weight = rarity.of(*token);
            common.mass += weight;
            let said = self.said.get(token).map_or(&[][..], Vec::as_slice);
            let before = &said[..said.partition_point(|line| *line < end)];
            if let Some(last) = before.last() {
                common.all += weight;
                common.surprise += (weight - chance[0]).max(0.0);
                if *last >= turn {
                    common.turn += weight;
                    common.surprise_turn += (weight - chance[1]).max(0.0);
                }
                common.last += if *last + 1 == end { weight } else { 0.0 };
            }
        }
        if item.kind == ItemKind::Call {
            common.tool = tools.ratio(self.tool[at], item.tool, f64::from(u8::from(own)));
        }
        common
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_turn_said_speaks_for_it_before_anything_is_learned() {
        let affinity = Affinity::learn(&[], &Rarity::default());
        let nothing = Common { mass: 20.0, lines: 6, lines_turn: 3, ..Common::default() };
        let quotes = Common { all: 12.0, turn: 12.0, last: 8.0, surprise: 8.0, surprise_turn: 9.0, ..nothing };
        for kind in [ItemKind::Prompt, ItemKind::Call, ItemKind::Answer] {
            assert!(affinity.of(kind, &quotes) > affinity.of(kind, &nothing) + 1.0, "{kind:?}");
        }
    }

    #[test]
    fn tools_that_follow_each_other_are_learned() {
        let mut tools = Tools::default();
        for (before, tool) in [(1, 2), (2, 3), (1, 2), (2, 3), (1, 2), (3, 1)] {
            *tools.pairs.entry((before, tool)).or_default() += 1.0;
            *tools.before.entry(before).or_default() += 1.0;
            *tools.after.entry(tool).or_default() += 1.0;
            tools.total += 1.0;
        }
        assert!(tools.ratio(1, 2, 0.0) > 0.3);
        assert!(tools.ratio(1, 3, 0.0) < -0.3);
        // A pair does not speak for itself.
        assert!(tools.ratio(3, 1, 1.0).abs() < 1e-9);
    }
}
