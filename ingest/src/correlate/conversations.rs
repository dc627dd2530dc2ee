//! Conversations: which prompts, choices and answers of a host belong together, and which gateway sessions follow.
//!
//! With a conversation id: (workstation, instance, user, id), walked in time order. Without: `beam` splits what one user
//! did in one app instance, with `habits` learned from hosts that do carry ids, or where few do from what is split surely
//! without. A follow-up prompt that is not clearly a follow-up starts its own conversation: a false merge is worse than an
//! open question.
//! A gateway session follows the conversation of at least [`FOLLOWS`] of its calls; sessions that no host knows are
//! grouped by (gateway, address, program, subject) with gaps up to [`LONE_GAP`] seconds, never into a user's conversation.

mod affinity;
mod beam;
mod habits;
mod items;
mod logit;
mod together;
mod tokens;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::linker::Linker;
use super::names::{NONE, Name};
use super::observation::Act;
use habits::{Habits, Rarity};
use items::{Binding, Item, steps};

/// Share of a gateway session's calls that have to be in the conversation it follows.
const FOLLOWS: f64 = 0.7;
/// Gateway sessions that no host knows stay together over pauses up to this, seconds.
const LONE_GAP: f64 = 30.0;
/// Chance that a user opens another conversation under an id that names several conversations.
const REUSED_AGAIN: f64 = 0.1;
/// Conversations that hypotheses agree about this much teach habits.
const TAUGHT: f64 = 0.9;
/// Where ids name fewer conversations than this.
const KNOWN_ENOUGH: usize = 20;
/// How sure a turn is where the host gave a conversation id.
const BY_ID: f64 = 0.995;

/// A session, numbered over the interval.
pub(super) type SessionNo = usize;

/// Where a host's line belongs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Home {
    pub(super) session: SessionNo,
    pub(super) turn: usize,
    /// The prompt it hangs under (index of `units.seen`), and how sure that is.
    pub(super) prompt: Option<usize>,
    pub(super) confidence: f64,
}

/// All conversations of the interval.
#[derive(Debug, Default)]
pub(super) struct Conversations {
    /// Prompts, choices, outcomes and answers by index of `units.seen`.
    pub(super) home: BTreeMap<usize, Home>,
    /// By host call.
    pub(super) of_call: BTreeMap<u32, Home>,
    pub(super) prompt_of: BTreeMap<(SessionNo, usize), usize>,
    /// (reference time, turn) of what is placed in each session.
    pub(super) turns: BTreeMap<SessionNo, Vec<(f64, usize)>>,
    /// Gateway session key to the session it follows.
    pub(super) of_gateway_session: BTreeMap<Name, SessionNo>,
    /// Gateway sessions that no host knows.
    pub(super) lone: BTreeMap<Name, SessionNo>,
    /// Sessions that a conversation id names.
    pub(super) by_id: BTreeMap<SessionNo, bool>,
    pub(super) count: SessionNo,
}

impl Linker<'_> {
    /// Splits and names the conversations of all hosts.
    pub(super) fn conversations(&self, users: &BTreeMap<usize, Name>) -> Conversations {
        let mut places = self.items(users, self.settings.confident);
        let rarity = shorten(&mut places);
        let reused = reused_ids(places.keys());
        let names_one = |place: &items::Place| place.1 != NONE && !reused.contains(&place.1);
        let ids = places.keys().filter(|place| place.1 != NONE).map(|place| place.1).collect::<BTreeSet<_>>().len();
        // Where ids come back with other users, they may come back with the same one.
        let again = REUSED_AGAIN * reused.len() as f64 / ids.max(1) as f64;
        let known: Vec<&[Item]> =
            places.iter().filter(|(place, _)| names_one(place)).map(|(_, items)| items.as_slice()).collect();
        let splits = places.keys().any(|place| !names_one(place)) || !reused.is_empty();
        let mut habits = Habits::learn(&known, &rarity, splits);
        let per_server = session_per_server(&known);
        // People do not ask again this soon after an answer.
        let soonest = |habits: &Habits| if self.noise.heavy { habits.soonest_prompt() } else { 0.0 };
        let disorder = soonest(&habits);
        let least = self.settings.together(self.noise);
        if known.len() < KNOWN_ENOUGH {
            let mut taught: Vec<Vec<Item>> = Vec::new();
            for (_, items) in places.iter().filter(|(place, _)| place.1 == NONE) {
                let prior = beam::Prior { per_server, disorder, opening: 0.0, named: false };
                let split = beam::split(items, &habits, &rarity, prior);
                let sure = split.conversations.iter().filter(|found| surely(items, found, &split, disorder, least));
                taught.extend(sure.map(|found| found.iter().map(|at| items[*at].clone()).collect()));
            }
            let all: Vec<&[Item]> = known.iter().copied().chain(taught.iter().map(Vec::as_slice)).collect();
            habits = Habits::learn(&all, &rarity, splits);
        }
        let disorder = soonest(&habits);
        let mut found = Conversations::default();
        for (place, items) in &places {
            if names_one(place) && reused.is_empty() {
                let all: Vec<usize> = (0..items.len()).collect();
                found.add(self, items, &all, |_, _| BY_ID, true, disorder);
                continue;
            }
            let by_id = place.1 != NONE;
            let opening = match () {
                () if !by_id => 0.0,
                () if names_one(place) => again.ln(),
                () => REUSED_AGAIN.ln(),
            };
            let named = names_one(place);
            let split = beam::split(items, &habits, &rarity, beam::Prior { per_server, disorder, opening, named });
            let surest = if named { BY_ID } else { 1.0 };
            let sure =
                |at: usize, prompt: Option<usize>| split.under.get(&(at, prompt)).copied().unwrap_or(0.0).min(surest);
            for conversation in &split.conversations {
                for part in together::parts(items, conversation, &split, disorder, least) {
                    found.add(self, items, &part, sure, by_id, disorder);
                }
            }
        }
        self.follow_sessions(&mut found);
        found
    }

    fn follow_sessions(&self, found: &mut Conversations) {
        let mut votes: BTreeMap<Name, BTreeMap<SessionNo, f64>> = BTreeMap::new();
        for (h, m) in self.host_gateway.iter().filter(|(_, m)| m.confidence >= self.settings.confident) {
            let session = self.gateway(m.column).session;
            if let Some(home) = found.of_call.get(h).filter(|_| session != NONE && !self.units.dirty.contains(&session))
            {
                *votes.entry(session).or_default().entry(home.session).or_default() += m.confidence;
            }
        }
        for (session, votes) in votes {
            let total: f64 = votes.values().sum();
            let best = votes.iter().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(a.0)));
            if let Some((home, weight)) = best.filter(|(_, weight)| **weight >= FOLLOWS * total) {
                debug_assert!(*weight > 0.0);
                found.of_gateway_session.insert(session, *home);
            }
        }
        let mut lone: BTreeMap<[Name; 4], Vec<LoneCall>> = BTreeMap::new();
        for (g, call) in self.units.gateways.iter().enumerate() {
            let known =
                found.of_gateway_session.contains_key(&call.session) || self.units.dirty.contains(&call.session);
            let is_inner = self.outer_of(g as u32).is_some();
            if call.session != NONE && !known && !is_inner {
                let s = self.gateway_base(call);
                let known = LoneCall { start: call.start, session: call.session, server: s.server };
                lone.entry([s.gateway, s.address, s.program, call.subject]).or_default().push(known);
            }
        }
        for calls in lone.into_values() {
            for group in self.interleaved(&calls) {
                let number = found.another();
                group.into_iter().for_each(|session| _ = found.lone.insert(session, number));
            }
        }
    }

    /// Gateway sessions of one client that no host knows, grouped. Each stands alone; one joins others where it begins between
    /// two calls of theirs that are near, none of them has its server, and no other group could be meant.
    fn interleaved(&self, calls: &[LoneCall]) -> Vec<BTreeSet<Name>> {
        #[derive(Debug, Default)]
        struct Group {
            sessions: BTreeSet<Name>,
            servers: BTreeSet<Name>,
            starts: Vec<f64>,
        }
        let mut of: BTreeMap<Name, Group> = BTreeMap::new();
        for call in calls {
            let group = of.entry(call.session).or_default();
            group.sessions.insert(call.session);
            group.servers.insert(call.server);
            group.starts.push(call.start);
        }
        let mut waiting: Vec<Group> = of.into_values().collect();
        waiting.iter_mut().for_each(|group| group.starts.sort_unstable_by(f64::total_cmp));
        waiting.sort_by(|a, b| a.starts[0].total_cmp(&b.starts[0]).then_with(|| a.sessions.cmp(&b.sessions)));
        let mut groups: Vec<Group> = Vec::new();
        // A session that begins first goes on behind those that begin between its calls.
        for next in waiting {
            let first = next.starts[0];
            let around = |group: &Group| {
                let later = group.starts.partition_point(|start| *start <= first);
                let (before, after) = (later.checked_sub(1).map(|at| group.starts[at]), group.starts.get(later));
                before.zip(after.copied()).is_some_and(|(before, after)| after - before <= LONE_GAP)
            };
            let mut meant = (0..groups.len()).filter(|at| around(&groups[*at]));
            match (meant.next(), meant.next()) {
                (Some(one), None) if groups[one].servers.is_disjoint(&next.servers) => {
                    let group = &mut groups[one];
                    group.sessions.extend(next.sessions);
                    group.servers.extend(next.servers);
                    group.starts.extend(next.starts);
                    group.starts.sort_unstable_by(f64::total_cmp);
                }
                _ => groups.push(next),
            }
        }
        groups.into_iter().map(|group| group.sessions).collect()
    }
}

/// A call in a gateway session that no host knows.
#[derive(Debug, Clone, Copy)]
struct LoneCall {
    start: f64,
    session: Name,
    server: Name,
}

impl Conversations {
    /// A session that nothing else is in yet.
    pub(super) fn another(&mut self) -> SessionNo {
        self.count += 1;
        self.count - 1
    }

    fn add(
        &mut self,
        linker: &Linker<'_>,
        items: &[Item],
        members: &[usize],
        sure: impl Fn(usize, Option<usize>) -> f64,
        by_id: bool,
        disorder: f64,
    ) {
        if members.is_empty() {
            return;
        }
        let session = self.another();
        self.by_id.insert(session, by_id);
        for (at, step) in members.iter().zip(steps(members.iter().map(|at| &items[*at]), disorder)) {
            let item = &items[*at];
            let confidence = sure(*at, step.prompt);
            let home =
                Home { session, turn: step.turn, prompt: step.prompt.filter(|prompt| *prompt != item.at), confidence };
            if let Some(prompt) = step.prompt {
                self.prompt_of.insert((session, step.turn), prompt);
            }
            let s = linker.seen(item.at);
            if let Some(t) = linker.host_time(s.clock, s.t) {
                self.turns.entry(session).or_default().push((t, step.turn));
            }
            match item.host_call {
                None => {
                    self.home.insert(item.at, home);
                }
                Some(h) => {
                    let host = linker.host(h);
                    self.of_call.insert(h, home);
                    host.choice.into_iter().chain(host.outcome).for_each(|at| {
                        self.home.insert(at, home);
                    });
                }
            }
        }
        if let Some(turns) = self.turns.get_mut(&session) {
            turns.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        }
    }
}

/// Whether nearly all hypotheses agree that these lines are one conversation, from its prompt on.
fn surely(items: &[Item], conversation: &[usize], split: &beam::Split, disorder: f64, least: f64) -> bool {
    let opens = conversation.first().is_some_and(|first| items[*first].kind == items::ItemKind::Prompt);
    opens
        && together::parts(items, conversation, split, disorder, least.max(TAUGHT)).len() == 1
        && conversation
            .iter()
            .zip(steps(conversation.iter().map(|at| &items[*at]), disorder))
            .all(|(at, step)| split.under.get(&(*at, step.prompt)).is_some_and(|under| *under >= TAUGHT))
}

/// Conversation ids that several users of an app instance bear: each names more than one conversation, perhaps more than one
/// of one user.
fn reused_ids<'p>(places: impl Iterator<Item = &'p items::Place>) -> BTreeSet<Name> {
    let mut bearers: BTreeMap<Name, u32> = BTreeMap::new();
    places.filter(|place| place.1 != NONE).for_each(|place| *bearers.entry(place.1).or_default() += 1);
    bearers.into_iter().filter(|(_, users)| *users > 1).map(|(id, _)| id).collect()
}

/// Token weights of the estate; tokens that nobody asks for are dropped.
fn shorten(places: &mut BTreeMap<items::Place, Vec<Item>>) -> Rarity {
    let mut rarity = Rarity::default();
    let mut asked: std::collections::HashSet<u64> = std::collections::HashSet::new();
    for item in places.values().flatten() {
        rarity.count(&item.said);
        asked.extend(&item.asked);
    }
    for item in places.values_mut().flatten() {
        item.said.retain(|token| asked.contains(token));
    }
    rarity
}

/// Whether one conversation holds a gateway session per server (or one for all), by hosts that carry conversation ids.
fn session_per_server(known: &[&[Item]]) -> bool {
    let (mut several, mut asked) = (0, 0);
    for items in known {
        let bound = items.iter().filter(|item| matches!(item.binding, Some(Binding::Session(_))));
        let (mut sessions, mut servers): (HashMap<Option<Binding>, ()>, HashMap<Name, ()>) = Default::default();
        bound.for_each(|item| {
            sessions.insert(item.binding, ());
            servers.insert(item.server, ());
        });
        if servers.len() > 1 {
            asked += 1;
            several += usize::from(sessions.len() > 1);
        }
    }
    asked == 0 || several * 2 > asked
}

impl Linker<'_> {
    /// (workstation, instance, user) of every prompt and answer, numbered like host calls'.
    pub(super) fn prompt_users(&self) -> BTreeMap<usize, Name> {
        let mut known: HashMap<[Name; 3], Name> = HashMap::new();
        for host in &self.units.hosts {
            let s = self.seen(host.base);
            known.insert([s.workstation, s.instance, s.user], host.who);
        }
        let mut next = Name::MAX;
        let mut users = BTreeMap::new();
        for (at, s) in self.units.seen.iter().enumerate() {
            if matches!(s.act, Act::Prompt | Act::Answer) && !self.units.twins.contains_key(&at) {
                let who = *known.entry([s.workstation, s.instance, s.user]).or_insert_with(|| {
                    next -= 1;
                    next
                });
                users.insert(at, who);
            }
        }
        users
    }
}
