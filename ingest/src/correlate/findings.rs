//! Findings: ids that name more than one thing and so stopped joining, and servers that say nothing.
//!
//! Not here: how ids are guarded (`units`, `gateway_server`); this only says what was found.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::linker::Linker;
use super::names::{NONE, Name};
use super::observation::Act;

/// Records that a finding names.
const RECORDS_MAX: usize = 256;
/// A server is silent when it is less likely than this that a server which logs as the others do logged nothing.
const BY_CHANCE: f64 = 1e-3;

/// Something that should not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub kind: FindingKind,
    /// The id, as its source wrote it, or the server.
    pub name: String,
    /// Records that bear it, the first of them.
    pub records: Vec<Uuid>,
    /// How many there are.
    pub count: usize,
}

/// What can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingKind {
    /// A gateway session was opened twice at one server, numbered two calls alike or reached servers that it should not.
    SessionReused,
    /// One session id at one gateway is borne by several subjects: replayed, stolen or not random.
    SessionShared,
    /// A trace id is used by several programs or subjects, or without end: a constant.
    ConstantTrace,
    /// One conversation id is borne by several users or on several workstations: forged, replayed or not random.
    ConversationShared,
    /// A conversation id is the name of user, machine or program, or prompts come under it while its calls are open: it
    /// names more than a conversation.
    ConversationConstant,
    /// A server logged none of its calls, where others log theirs.
    SilentServer,
    /// One tool-call id stands for several calls of one conversation: numbered anew in every request, or a constant.
    ToolCallReused,
    /// A clock is further off than links are looked for: minutes, or a time zone.
    ClockOff,
}

impl FindingKind {
    /// Its name where it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            FindingKind::SessionReused => "session-reused",
            FindingKind::SessionShared => "session-shared",
            FindingKind::ConstantTrace => "constant-trace",
            FindingKind::ConversationShared => "conversation-shared",
            FindingKind::ConversationConstant => "conversation-constant",
            FindingKind::SilentServer => "silent-server",
            FindingKind::ToolCallReused => "tool-call-reused",
            FindingKind::ClockOff => "clock-off",
        }
    }
}

/// Everything that was found, in a fixed order.
pub(super) fn findings(linker: &Linker<'_>) -> Vec<Finding> {
    let mut all: Vec<(FindingKind, Option<&str>, usize)> = Vec::new();
    let units = &linker.units;
    for call in &units.gateways {
        let members = || call.request.into_iter().chain(call.response);
        if units.dirty.contains(&call.session) {
            all.extend(members().map(|at| (FindingKind::SessionReused, session_of(linker, at), at)));
        }
        if let Some(at) = call.request
            && let Some((trace, _)) = &linker.seen(at).carried
            && linker.bad_traces.contains(trace)
        {
            let name = linker.seen(at).o.carried_context.as_ref().map(|(trace, _)| trace.as_str());
            all.push((FindingKind::ConstantTrace, name, at));
        }
    }
    let (mut subjects, mut users, mut places) = (Bearers::new(), Bearers::new(), Bearers::new());
    for (at, s) in linker.units.seen.iter().enumerate() {
        if matches!(s.act, Act::Request | Act::Opening) && s.session != NONE && s.subject != NONE {
            subjects.entry((s.gateway, s.session)).or_default().push((s.subject, at));
        }
        if s.is_host() && s.conversation != NONE {
            for (bearers, who) in [(&mut users, s.user), (&mut places, s.workstation)] {
                if who != NONE {
                    bearers.entry((NONE, s.conversation)).or_default().push((who, at));
                }
            }
        }
    }
    all.extend(several(&subjects).map(|at| (FindingKind::SessionShared, session_of(linker, at), at)));
    let conversation = |at: usize| linker.seen(at).o.conversation.as_deref();
    let shared = several(&users).chain(several(&places));
    all.extend(shared.map(|at| (FindingKind::ConversationShared, conversation(at), at)));
    let constant = units.constant_conversations.iter();
    all.extend(constant.map(|at| (FindingKind::ConversationConstant, conversation(*at), *at)));
    let server = |at: usize| linker.seen(at).o.server.as_deref();
    all.extend(silent(linker).into_iter().map(|at| (FindingKind::SilentServer, server(at), at)));
    let tool_call = |at: usize| linker.seen(at).o.tool_call_id.as_deref();
    all.extend(units.reused_tool_calls.iter().map(|at| (FindingKind::ToolCallReused, tool_call(*at), *at)));
    let off = units.seen.iter().enumerate().filter(|(_, s)| s.moved != 0.0);
    all.extend(off.map(|(at, s)| (FindingKind::ClockOff, Some(s.o.clock.as_str()), at)));
    let mut found: BTreeMap<(FindingKind, &str), BTreeSet<usize>> = BTreeMap::new();
    for (kind, name, at) in all {
        if let Some(name) = name {
            found.entry((kind, name)).or_default().insert(at);
        }
    }
    let finding = |((kind, name), records): ((FindingKind, &str), BTreeSet<usize>)| Finding {
        kind,
        name: name.to_string(),
        count: records.len(),
        records: records.iter().take(RECORDS_MAX).map(|at| linker.seen(*at).o.id).collect(),
    };
    found.into_iter().map(finding).collect()
}

/// Who bears an id, and where.
type Bearers = BTreeMap<(Name, Name), Vec<(Name, usize)>>;

/// Where the ids stand that several bear.
fn several(bearers: &Bearers) -> impl Iterator<Item = usize> + '_ {
    let shared = bearers.values().filter(|who| who.iter().any(|(name, _)| *name != who[0].0));
    shared.flatten().map(|(_, at)| *at)
}

fn session_of<'a>(linker: &Linker<'a>, at: usize) -> Option<&'a str> {
    let o: &'a super::Observation = linker.seen(at).o;
    o.mcp_session.as_deref()
}

/// Requests to servers that logged nothing, though a server that logs as often as the others do would have.
fn silent(linker: &Linker<'_>) -> Vec<usize> {
    let mut requests: BTreeMap<Name, Vec<usize>> = BTreeMap::new();
    let mut linked: BTreeMap<Name, usize> = BTreeMap::new();
    for (g, call) in linker.units.gateways.iter().enumerate() {
        let own = |_: &usize| !call.denied && call.answer.is_some() && !linker.passes_on(g as u32);
        let Some(at) = call.request.filter(own) else { continue };
        let server = linker.seen(at).server;
        requests.entry(server).or_default().push(at);
        *linked.entry(server).or_default() += usize::from(linker.gateway_server.contains_key(&(g as u32)));
    }
    let logs: BTreeSet<Name> = linker.units.executions.iter().map(|at| linker.seen(*at).server).collect();
    let count = |of: &dyn Fn(Name) -> usize| -> usize {
        requests.keys().filter(|server| logs.contains(server)).map(|server| of(*server)).sum()
    };
    let (asked, logged) = (count(&|server| requests[&server].len()), count(&|server| linked[&server]));
    let share = (logged as f64 + 1.0) / (asked as f64 + 2.0);
    let is_silent = |(server, requests): &(Name, Vec<usize>)| {
        *server != NONE && !logs.contains(server) && (1.0 - share).powf(requests.len() as f64) < BY_CHANCE
    };
    requests.into_iter().filter(|_| logged > 0).filter(is_silent).flat_map(|(_, requests)| requests).collect()
}
