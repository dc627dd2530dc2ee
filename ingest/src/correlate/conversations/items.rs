//! Items: what a host reported, in the order in which a conversation is walked.
//!
//! Times are in the reference clock where stamps have noise; a linked gateway call then places the host call, whatever
//! the host's clock did.

use std::collections::BTreeMap;

use super::super::linker::Linker;
use super::super::names::{NONE, Name};
use super::super::observation::Act;
use super::tokens::{Tokens, closer, opener, tokens};

/// What a host reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ItemKind {
    Prompt,
    Call,
    Answer,
}

/// One step of a conversation.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) kind: ItemKind,
    pub(super) t: f64,
    pub(super) end: f64,
    /// Index of `units.seen`: prompt, answer, or one line of the call.
    pub(super) at: usize,
    pub(super) host_call: Option<u32>,
    pub(super) model: Name,
    /// Tokens asked for, and all tokens.
    pub(super) asked: Tokens,
    pub(super) said: Tokens,
    /// Gateway session or trace that binds calls to one conversation.
    pub(super) binding: Option<Binding>,
    pub(super) server: Name,
    /// The gateway that the call passed.
    pub(super) gateway: Name,
    /// Calls: the tool as the host names it.
    pub(super) tool: Name,
    /// Prompts: how they begin. Answers: how they end, and whether in a question.
    pub(super) manner: Tokens,
}

/// What binds calls to one conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Binding {
    Session(Name),
    Trace(Name),
}

/// (user of an app instance, conversation id or [`NONE`]).
pub(super) type Place = (Name, Name);

impl Linker<'_> {
    /// Items of each place, sorted. `users` names (workstation, instance, user). Where ids name every conversation nobody asks
    /// what was said.
    pub(super) fn items(&self, users: &BTreeMap<usize, Name>, confident: f64) -> BTreeMap<Place, Vec<Item>> {
        let mut places: BTreeMap<Place, Vec<Item>> = BTreeMap::new();
        let asks = self.has_unnamed_conversations(users);
        let tokens = |text: Option<&str>| if asks { tokens(text.into_iter()) } else { Tokens::new() };
        for (at, user) in users {
            let s = self.seen(*at);
            let kind = if s.act == Act::Prompt { ItemKind::Prompt } else { ItemKind::Answer };
            let text = s.o.text.as_deref().unwrap_or_default();
            let t = self.corrected(s.clock, s.t);
            let said = tokens(Some(text));
            places.entry((*user, s.conversation)).or_default().push(Item {
                kind,
                t,
                end: t,
                at: *at,
                host_call: None,
                model: s.model,
                asked: said.clone(),
                said,
                binding: None,
                server: NONE,
                gateway: NONE,
                tool: NONE,
                manner: if !asks {
                    Tokens::new()
                } else if kind == ItemKind::Prompt {
                    opener(text)
                } else {
                    closer(text)
                },
            });
        }
        for h in 0..self.units.hosts.len() as u32 {
            let host = self.host(h);
            let s = self.seen(host.base);
            places.entry((host.who, s.conversation)).or_default().push(self.call_item(h, confident, asks));
        }
        for items in places.values_mut() {
            items.sort_by(|a, b| a.t.total_cmp(&b.t).then(a.kind.cmp(&b.kind)).then(a.at.cmp(&b.at)));
        }
        places
    }

    fn corrected(&self, clock: Name, t: f64) -> f64 {
        if self.noise.heavy { self.host_time(clock, t).unwrap_or(t) } else { t }
    }

    /// Whether the lines of some place have to be split by what they say.
    fn has_unnamed_conversations(&self, users: &BTreeMap<usize, Name>) -> bool {
        let mut bearers: BTreeMap<Name, Name> = BTreeMap::new();
        let spoken = users.iter().map(|(at, user)| (*user, self.seen(*at).conversation));
        let called = self.units.hosts.iter().map(|host| (host.who, self.seen(host.base).conversation));
        spoken.chain(called).any(|(who, id)| id == NONE || *bearers.entry(id).or_insert(who) != who)
    }

    fn call_item(&self, h: u32, confident: f64, asks: bool) -> Item {
        let host = self.host(h);
        let s = self.seen(host.base);
        let start = host.start.or(host.end).unwrap_or(s.t);
        let end = host.end.unwrap_or(start);
        let (mut t, mut until) = (self.corrected(s.clock, start), self.corrected(s.clock, end));
        until = until.max(t);
        let choice = host.choice.map(|choice| self.seen(choice).o);
        let arguments = choice.and_then(|o| o.argument_values.as_ref()).into_iter().flatten();
        let values = arguments.flat_map(|argument| argument.values.iter().map(String::as_str));
        let asked = tokens(values.filter(|_| asks));
        let answered = host.outcome.and_then(|outcome| self.seen(outcome).o.result.head.as_deref());
        let mut said = asked.clone();
        said.extend(tokens(answered.into_iter().filter(|_| asks)));
        said.sort_unstable();
        said.dedup();
        let (mut binding, mut server, mut gateway) = (None, NONE, NONE);
        if let Some(m) = self.host_gateway.get(&h).filter(|m| m.confidence >= confident) {
            let call = self.gateway(m.column);
            server = self.gateway_base(call).server;
            gateway = self.gateway_base(call).gateway;
            if self.noise.heavy {
                let whole = self.whole(m.column);
                let own = t;
                let (at, around) = (self.gateway_start(whole), self.host_overhead.mean / 2.0);
                t = at - around;
                until = t.max(at + whole.duration.unwrap_or(0.0) + around);
                if host.start.is_some() && (own - t).abs() < 1.0 {
                    t = t.min(own);
                }
            }
            if call.session != NONE && !self.units.dirty.contains(&call.session) {
                binding = Some(Binding::Session(call.session));
            } else if call.session == NONE {
                binding = self.context(call.request).map(|(trace, _)| Binding::Trace(trace));
            }
        }
        Item {
            kind: ItemKind::Call,
            t,
            end: until,
            at: host.base,
            host_call: Some(h),
            model: s.model,
            asked,
            said,
            binding,
            server,
            gateway,
            tool: s.tool,
            manner: Tokens::new(),
        }
    }
}

/// An item's turn and prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) turn: usize,
    /// Index of `units.seen`.
    pub(super) prompt: Option<usize>,
}

/// Walks one conversation in time order: a prompt opens a turn, an answer closes it, a call after an answer belongs to a
/// prompt that was lost. Where stamps may be out of order by up to `disorder` seconds, a call that close behind an answer
/// still belongs to its turn, and a prompt that close behind a turn that began without one is that turn's.
pub(super) fn steps<'i>(items: impl Iterator<Item = &'i Item>, disorder: f64) -> Vec<Step> {
    let (mut turn, mut prompt, mut idle) = (None::<usize>, None, true);
    let next = |turn: Option<usize>| Some(turn.map_or(0, |turn| turn + 1));
    let (mut answered, mut began) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    let mut found: Vec<Step> = Vec::new();
    for item in items {
        match item.kind {
            ItemKind::Prompt if prompt.is_none() && turn.is_some() && item.t - began < disorder => {
                prompt = Some(item.at);
                found.iter_mut().rev().take_while(|step| Some(step.turn) == turn).for_each(|step| step.prompt = prompt);
                idle = false;
            }
            ItemKind::Prompt => (turn, prompt, idle) = (next(turn), Some(item.at), false),
            ItemKind::Call if idle && turn.is_some() && item.t - answered < disorder => {}
            ItemKind::Call if idle => (turn, prompt, idle, began) = (next(turn), None, false, item.t),
            ItemKind::Call => {}
            ItemKind::Answer => (idle, answered) = (true, item.t),
        }
        turn = turn.or(Some(0));
        found.push(Step { turn: turn.unwrap_or(0), prompt });
    }
    found
}
