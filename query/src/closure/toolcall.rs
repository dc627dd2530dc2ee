//! The guard of tool-call ids: which conversation a record with such an id belongs to.
//!
//! Models' ids are unguessable, but scripted runs, replays and forks repeat them. So a record without
//! a conversation of its own joins one only when it fits: it stands between the choice and the host's
//! answer (plus slack), and its arguments (or, without digests, its tool) are not others.
//!
//! | case | slack |
//! | --- | --- |
//! | the id is known from one conversation | 10 min |
//! | from several | 2 s |
//! | the host recorded no answer | one hour after the choice |

use std::collections::{BTreeMap, HashSet};

use threadline_schemas::{Kind, SourceKind};

use super::sets::Sets;
use super::{NONE, Verdict, Why};
use crate::fact::FactView;

const SLACK_ALONE_NANOS: i64 = 600_000_000_000;
const SLACK_CONTESTED_NANOS: i64 = 2_000_000_000;
const UNANSWERED_NANOS: i64 = 3_600_000_000_000;

/// What was found about one id.
pub(super) struct Judgement {
    pub(super) contested: Option<Why>,
    pub(super) verdicts: Vec<(u32, Verdict)>,
}

/// One conversation's choice under the id.
#[derive(Debug)]
struct Choice {
    bearer: u32,
    from: i64,
    to: i64,
    answered: bool,
    arguments: HashSet<u64>,
    tools: HashSet<String>,
}

/// Joins what fits exactly one conversation.
pub(super) fn judge(view: &FactView<'_>, sets: &mut Sets, at: &[u32]) -> Judgement {
    let choices = choices(view, sets, at);
    let mut open: Vec<(i64, u32)> =
        at.iter().filter(|at| sets.label_of(**at) == NONE).map(|at| (view.at(*at).1.time, *at)).collect();
    open.sort_unstable();
    if choices.is_empty() {
        return among_themselves(view, sets, &open);
    }
    let mut verdicts: Vec<(u32, Verdict)> = Vec::new();
    let mut decided: HashSet<u32> = HashSet::new();
    for (_, at) in open {
        // A response stands in one set with its request, which came first and says more.
        if !decided.insert(sets.find(at)) || sets.label_of(at) != NONE {
            continue;
        }
        let fits: Vec<u32> = choices
            .values()
            .filter(|choice| choice.admits(view, at, choices.len() > 1))
            .map(|choice| choice.bearer)
            .collect();
        verdicts.push((
            at,
            match fits[..] {
                [] => Verdict::No,
                [one] => {
                    sets.union(one, at);
                    Verdict::Fits(one)
                }
                _ => Verdict::Several(fits),
            },
        ));
    }
    let contested = match choices.len() {
        1 if verdicts.iter().all(|(_, verdict)| matches!(verdict, Verdict::Fits(_))) => None,
        1 => Some(Why::DoesNotFit),
        _ => Some(Why::SeveralConversations),
    };
    Judgement { contested, verdicts }
}

fn choices(view: &FactView<'_>, sets: &mut Sets, at: &[u32]) -> BTreeMap<u32, Choice> {
    let mut choices: BTreeMap<u32, Choice> = BTreeMap::new();
    for at in at.iter().copied() {
        let label = sets.label_of(at);
        if label == NONE {
            continue;
        }
        let (facts, fact) = view.at(at);
        let choice = choices.entry(label).or_insert_with(|| Choice {
            bearer: at,
            from: fact.time,
            to: fact.time,
            answered: false,
            arguments: HashSet::new(),
            tools: HashSet::new(),
        });
        if fact.kind == Kind::Selection && view.at(choice.bearer).1.kind != Kind::Selection {
            choice.bearer = at;
        }
        choice.from = choice.from.min(fact.time);
        choice.to = choice.to.max(fact.time);
        choice.answered |= fact.kind == Kind::Result && fact.source_kind == SourceKind::Host;
        if fact.arguments != 0 {
            choice.arguments.insert(fact.arguments);
        }
        if fact.tool != 0 {
            choice.tools.insert(plain(facts.name(fact.tool)));
        }
    }
    choices
}

impl Choice {
    fn admits(&self, view: &FactView<'_>, at: u32, contested: bool) -> bool {
        let (facts, fact) = view.at(at);
        let slack = if contested { SLACK_CONTESTED_NANOS } else { SLACK_ALONE_NANOS };
        let after = if self.answered { slack } else { slack.max(UNANSWERED_NANOS) };
        let in_time = fact.time >= self.from.saturating_sub(slack) && fact.time <= self.to.saturating_add(after);
        let same = if fact.arguments != 0 && !self.arguments.is_empty() {
            self.arguments.contains(&fact.arguments)
        } else {
            fact.tool == 0 || self.tools.is_empty() || self.tools.contains(&plain(facts.name(fact.tool)))
        };
        in_time && same
    }
}

/// No host recorded: bearers belong together while each is near the one before and says the same.
fn among_themselves(view: &FactView<'_>, sets: &mut Sets, open: &[(i64, u32)]) -> Judgement {
    let mut contested = None;
    for pair in open.windows(2) {
        let (before, after) = (view.at(pair[0].1), view.at(pair[1].1));
        let near = pair[1].0.saturating_sub(pair[0].0) <= SLACK_ALONE_NANOS;
        let same_arguments =
            before.1.arguments == 0 || after.1.arguments == 0 || before.1.arguments == after.1.arguments;
        let same_tool = before.1.tool == 0
            || after.1.tool == 0
            || plain(before.0.name(before.1.tool)) == plain(after.0.name(after.1.tool));
        if near && same_arguments && same_tool {
            sets.union(pair[0].1, pair[1].1);
        } else if sets.find(pair[0].1) != sets.find(pair[1].1) {
            contested = Some(Why::DoesNotFit);
        }
    }
    Judgement { contested, verdicts: Vec::new() }
}

/// A tool's name without what hosts change about it (`get-sum` becomes `get_sum`, `mcp__s__` is put before).
pub(crate) fn plain(tool: &str) -> String {
    let bare = tool.strip_prefix("mcp__").and_then(|rest| rest.split_once("__")).map_or(tool, |(_, bare)| bare);
    bare.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}
