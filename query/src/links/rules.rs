//! The rules, one function each: the link that the record at `child` has by that rule.

use threadline_schemas::{Collector, Direction, KeyKind, Kind, Record, SourceKind};
use uuid::Uuid;

use super::index::{Index, is_hosts_answer, is_span, is_telemetry, order};
use super::{Contest, Edge};
use crate::closure::plain;
use crate::model::{Compared, Grade, Link};

type Rule = fn(&Index<'_>, &Contest, usize) -> Option<Edge>;

/// In order of precedence; see the table in `links`.
pub(super) const RULES: &[Rule] = &[
    response,
    progress,
    http_exchange,
    nested_span,
    tool_call_id,
    request_state,
    task,
    traceparent,
    client_span,
    parent_span,
    span_link,
    only_open_call,
    turn,
    log_span,
    turn_trace,
    message_chain,
    same_line,
    same_turn,
    result_digest,
    request_id,
];

/// How many of them give a parent.
pub(super) const PARENT_RULES: usize = 17;

/// Messages that are followed up a chain.
const MESSAGES_MAX: usize = 1000;
/// Rivals that are looked at, so that no rule takes more than a bounded time per record.
const CANDIDATES_MAX: usize = 64;

fn edge(from: usize, to: usize, relation: &'static str, grade: Grade, rule: &'static str) -> Edge {
    Edge { from, to, relation, grade, rule, score: 1.0, compared: Vec::new(), candidates: Vec::new() }
}

impl Edge {
    fn compared(mut self, what: &str, from: &str, to: &str) -> Self {
        self.compared.push(Compared { what: what.into(), from: from.into(), to: to.into() });
        self
    }

    /// Both sides bear the same key.
    fn by(self, key: &str) -> Self {
        let (what, value) = key.split_once(':').unwrap_or(("key", key));
        self.compared(what, value, value)
    }
}

/// What our own tap saw on the wire is proven; what a file says it saw is matched.
fn seen(record: &Record) -> Grade {
    if record.collector == Collector::Tap { Grade::Proven } else { Grade::Matched }
}

fn direction(record: &Record) -> &'static str {
    record.direction.map_or("none", Direction::as_str)
}

fn response(index: &Index<'_>, _: &Contest, child: usize) -> Option<Edge> {
    let exchange = index.exchange(child)?;
    let request = exchange.request.filter(|_| exchange.responses.contains(&child))?;
    let key = index.key(child, KeyKind::Rpc)?;
    let (from, to) = (&index.records[child], &index.records[request]);
    Some(edge(child, request, "result", seen(from), "response").by(key).compared(
        "direction",
        direction(from),
        direction(to),
    ))
}

fn nested_span(index: &Index<'_>, _: &Contest, child: usize) -> Option<Edge> {
    let id = index.key(child, KeyKind::ToolCall).filter(|_| is_span(&index.records[child]))?;
    let (key, parent) = span_parent(index, child)?;
    let same = index.keys(parent, KeyKind::ToolCall).any(|other| other == id);
    same.then(|| edge(child, parent, "observation", Grade::Claimed, "nested-span").by(&key).by(id))
}

fn tool_call_id(index: &Index<'_>, contest: &Contest, child: usize) -> Option<Edge> {
    let key = index.key(child, KeyKind::ToolCall)?;
    let choice = match index.choices(key) {
        [] => return None,
        [choice] => *choice,
        several => return one_of(index, several, child, key),
    };
    if choice == child {
        return None;
    }
    let (from, to) = (&index.records[child], &index.records[choice]);
    let two_sources = from.source_kind != to.source_kind;
    let grade = if two_sources { Grade::Matched } else { Grade::Claimed };
    let made = edge(child, choice, relation(from), grade, "tool-call-id").by(key);
    if !contest.keys.contains_key(key) || !two_sources {
        return Some(made);
    }
    Some(weighed(made, from, to))
}

fn relation(record: &Record) -> &'static str {
    match record.kind {
        Kind::Result => "result",
        Kind::Decision | Kind::Approval => "decision",
        Kind::Call => "execution",
        _ => "observation",
    }
}

/// An id that several calls of one conversation bear (numbered anew in every request, or a constant): what follows a choice
/// belongs to the last one before it that nobody has answered; with several of those, to none.
fn one_of(index: &Index<'_>, choices: &[usize], child: usize, key: &str) -> Option<Edge> {
    let record = &index.records[child];
    if record.kind == Kind::Selection || choices.contains(&child) {
        return None;
    }
    let before = |list: &[usize]| list.partition_point(|other| order(&index.records[*other]) < order(record));
    let of_tool = |choice: &usize| match (&record.tool_name, &index.records[*choice].tool_name) {
        (Some(a), Some(b)) => plain(a) == plain(b),
        _ => true,
    };
    let earlier = &choices[..before(choices)];
    let near: Vec<usize> = earlier.iter().rev().take(CANDIDATES_MAX).copied().filter(of_tool).collect();
    let made = |choice, grade| edge(child, choice, relation(record), grade, "tool-call-id").by(key);
    if !is_hosts_answer(record) {
        let digest = |at: usize| index.records[at].arguments_digest.as_ref();
        let same = near.iter().find(|choice| digest(child).is_some() && digest(child) == digest(**choice));
        return Some(Edge { score: 0.9, ..made(*same.or(near.first())?, Grade::Inferred) });
    }
    let bearers = index.bearers(key);
    let answers = bearers[..before(bearers)].iter().rev().take(2 * CANDIDATES_MAX);
    let last = answers.copied().find(|other| is_hosts_answer(&index.records[*other]));
    let is_open = |choice: &usize| last.is_none_or(|last| order(&index.records[*choice]) > order(&index.records[last]));
    let open: Vec<usize> = near.into_iter().filter(is_open).collect();
    match open[..] {
        [] => None,
        [choice] => Some(Edge { score: 0.9, ..made(choice, Grade::Inferred) }),
        [choice, ..] => {
            let score = 1.0 / open.len() as f64;
            Some(Edge { score, candidates: open, ..made(choice, Grade::Ambiguous) })
        }
    }
}

/// A contested id says little: time and arguments have to agree as well.
fn weighed(mut made: Edge, from: &Record, to: &Record) -> Edge {
    made = made.compared("time_unix_nano", &from.time_unix_nano.to_string(), &to.time_unix_nano.to_string());
    match (&from.arguments_digest, &to.arguments_digest) {
        (Some(a), Some(b)) if a == b => {
            made.grade = Grade::Claimed;
            made.compared("arguments_digest", a, b)
        }
        _ => {
            made.grade = Grade::Inferred;
            made.score = 0.9;
            let tool = |record: &Record| record.tool_name.clone().unwrap_or_default();
            made.compared("tool_name", &tool(from), &tool(to))
        }
    }
}

/// The rivals of a frame whose id is claimed by several conversations.
pub(super) fn contested(index: &Index<'_>, child: usize, rivals: &[Uuid]) -> Option<Link> {
    let record = &index.records[child];
    let key = index.key(child, KeyKind::ToolCall)?;
    let outside: Vec<String> = rivals.iter().filter(|id| index.place(id).is_none()).map(Uuid::to_string).collect();
    let value = key.split_once(':').map_or(key, |(_, value)| value);
    Some(Link {
        from: record.event_id.to_string(),
        to: outside.first()?.clone(),
        relation: "execution".into(),
        grade: Grade::Ambiguous,
        rule: "contested-tool-call-id".into(),
        score: 1.0 / rivals.len().max(1) as f64,
        compared: vec![Compared { what: "toolcall".into(), from: value.into(), to: value.into() }],
        candidates: rivals.iter().map(Uuid::to_string).collect(),
    })
}

fn request_state(index: &Index<'_>, _: &Contest, child: usize) -> Option<Edge> {
    if !index.is_request(child) {
        return None;
    }
    let record = &index.records[child];
    let key = index.key(child, KeyKind::RequestState)?;
    let asked = |at: &&usize| {
        let other = &index.records[**at];
        other.direction == Some(Direction::ServerToClient) && order(other) < order(record)
    };
    let before = *index.bearers(key).iter().rfind(asked)?;
    Some(edge(child, before, "round", Grade::Matched, "request-state").by(key))
}

/// Polls, questions and status of a task hang under the request that was answered with its handle.
fn task(index: &Index<'_>, _: &Contest, child: usize) -> Option<Edge> {
    let record = &index.records[child];
    let key = index.key(child, KeyKind::Task)?;
    let is_answer = |at: usize| index.exchange(at).is_some_and(|exchange| exchange.responses.contains(&at));
    if is_answer(child) {
        return None;
    }
    let about_task = |at: usize| index.records[at].name.as_deref().is_some_and(|name| name.starts_with("tasks/"));
    let made_by = |at: &usize| {
        let exchange = index.exchange(*at).filter(|_| is_answer(*at))?;
        exchange.request.filter(|request| !about_task(*request))
    };
    let request = index.bearers(key).iter().take(CANDIDATES_MAX).find_map(made_by)?;
    Some(edge(child, request, "observation", seen(record), "task").by(key))
}

/// The parent-span key of a record and the span it names, if that was recorded.
fn span_parent(index: &Index<'_>, child: usize) -> Option<(String, usize)> {
    let record = &index.records[child];
    let key = index.key(child, KeyKind::ParentSpan)?;
    let span = format!("span:{}", key.split_once(':')?.1);
    let parent = index.span(&span).filter(|parent| *parent != child)?;
    (record.span_id.is_some() || record.direction.is_some()).then_some((span, parent))
}

fn traceparent(index: &Index<'_>, _: &Contest, child: usize) -> Option<Edge> {
    let record = &index.records[child];
    let key = index.key(child, KeyKind::ParentSpan).filter(|_| is_span(record))?;
    let fits = |at: &&usize| {
        let other = &index.records[**at];
        let same_id = record.rpc_id.is_none() || other.rpc_id.is_none() || same_rpc_id(record, other);
        same_id && (record.tool_name.is_none() || other.tool_name.is_none() || record.tool_name == other.tool_name)
    };
    let fitting: Vec<usize> = index.requests(key).iter().filter(fits).copied().take(CANDIDATES_MAX).collect();
    let parent = *fitting.first()?;
    let mut made = edge(child, parent, "execution", Grade::Matched, "traceparent").by(key);
    if let (Some(a), Some(b)) = (&record.rpc_id, &index.records[parent].rpc_id) {
        made = made.compared("rpc_id", a, b);
    }
    if fitting.len() > 1 {
        made.grade = Grade::Ambiguous;
        made.score = 1.0 / fitting.len() as f64;
        made.candidates = fitting;
    }
    Some(made)
}

/// Telemetry writes ids as strings, so 3 and "3" are taken as equal here.
fn same_rpc_id(a: &Record, b: &Record) -> bool {
    let bare = |record: &Record| record.rpc_id.as_deref().map(|id| id.trim_matches('"').to_string());
    bare(a) == bare(b)
}

fn client_span(index: &Index<'_>, _: &Contest, child: usize) -> Option<Edge> {
    if !index.is_request(child) {
        return None;
    }
    let (key, parent) = span_parent(index, child)?;
    Some(edge(child, parent, "execution", Grade::Matched, "client-span").by(&key))
}

fn parent_span(index: &Index<'_>, _: &Contest, child: usize) -> Option<Edge> {
    let record = &index.records[child];
    if !is_span(record) {
        return None;
    }
    // Without a parent of its own, the first key is that of a link.
    record.parent_span_id.as_ref()?;
    let (key, parent) = span_parent(index, child)?;
    let carried = index.key(child, KeyKind::ParentSpan).is_some_and(|key| index.is_carried(key));
    let grade = if carried { Grade::Matched } else { Grade::Claimed };
    let relation = match record.kind {
        Kind::Downstream => "downstream",
        _ if record.source_kind != index.records[parent].source_kind => "downstream",
        _ => "observation",
    };
    Some(edge(child, parent, relation, grade, "parent-span").by(&key))
}

/// The second parent. Of several links the first that leads to a record.
fn span_link(index: &Index<'_>, _: &Contest, child: usize) -> Option<Edge> {
    let record = &index.records[child];
    if !is_span(record) {
        return None;
    }
    let own = |key: &&str| record.parent_span_id.as_deref().is_some_and(|parent| key.ends_with(parent));
    let mut linked = index.keys(child, KeyKind::ParentSpan).filter(|key| !own(key)).take(CANDIDATES_MAX);
    let to = |key: &str| {
        let span = format!("span:{}", key.split_once(':')?.1);
        if let Some(parent) = index.span(&span).filter(|parent| *parent != child) {
            return Some(edge(child, parent, "observation", Grade::Claimed, "span-link").by(&span));
        }
        let request = *index.requests(key).first()?;
        Some(edge(child, request, "execution", Grade::Claimed, "span-link").by(key))
    };
    linked.find_map(to)
}

fn log_span(index: &Index<'_>, _: &Contest, child: usize) -> Option<Edge> {
    let record = &index.records[child];
    let key = index.key(child, KeyKind::Span).filter(|_| !is_span(record))?;
    let span = index.span(key)?;
    Some(edge(child, span, "observation", Grade::Claimed, "log-span").by(key))
}

fn progress(index: &Index<'_>, _: &Contest, child: usize) -> Option<Edge> {
    let record = &index.records[child];
    if record.kind != Kind::Notification {
        return None;
    }
    let key = index.key(child, KeyKind::Progress).or_else(|| index.key(child, KeyKind::Rpc))?;
    let request = index.request_before(key, record)?;
    Some(edge(child, request, "observation", seen(record), "progress").by(key))
}

fn http_exchange(index: &Index<'_>, _: &Contest, child: usize) -> Option<Edge> {
    let record = &index.records[child];
    let key = index.key(child, KeyKind::Rpc).filter(|_| record.kind == Kind::Log)?;
    let request = index.request_before(key, record)?;
    Some(edge(child, request, "observation", seen(record), "http-exchange").by(key))
}

fn only_open_call(index: &Index<'_>, _: &Contest, child: usize) -> Option<Edge> {
    let record = &index.records[child];
    let asks = record.direction == Some(Direction::ServerToClient)
        && index.is_request(child)
        && matches!(record.kind, Kind::Sampling | Kind::Elicitation | Kind::Request);
    let logs = record.direction == Some(Direction::ServerStderr) && record.kind == Kind::Log;
    if !asks && !logs {
        return None;
    }
    let connection = record.connection_id.as_deref()?;
    let calls = index.calls(connection);
    let before = calls.partition_point(|call| order(&index.records[*call]) < order(record));
    let recent = calls[before.saturating_sub(CANDIDATES_MAX)..before].iter().copied();
    let open: Vec<usize> = recent.filter(|call| is_open(index, *call, record)).collect();
    let mut made = edge(child, *open.first()?, "observation", Grade::Inferred, "only-open-call");
    made.score = 0.9;
    made = made.compared("connection_id", connection, connection);
    if open.len() > 1 {
        made.grade = Grade::Ambiguous;
        made.score = 1.0 / open.len() as f64;
        made.candidates = open;
    }
    Some(made)
}

fn is_open(index: &Index<'_>, call: usize, at: &Record) -> bool {
    let answered = index.exchange(call).and_then(|exchange| exchange.responses.first().copied());
    answered.is_none_or(|answer| order(&index.records[answer]) > order(at))
}

fn turn(index: &Index<'_>, _: &Contest, child: usize) -> Option<Edge> {
    let key = index.key(child, KeyKind::Turn).filter(|_| index.records[child].kind != Kind::Prompt)?;
    let prompt = index.prompt(key)?;
    Some(edge(child, prompt, "prompt", Grade::Claimed, "turn").by(key))
}

fn turn_trace(index: &Index<'_>, contest: &Contest, child: usize) -> Option<Edge> {
    let key = index.key(child, KeyKind::Trace)?;
    let has_turn = index.key(child, KeyKind::Turn).is_some() || index.records[child].kind == Kind::Prompt;
    if has_turn || contest.keys.contains_key(key) {
        return None;
    }
    let prompt = match index.turns_of_trace(key) {
        0 => index.prompt(key)?,
        _ => index.prompt(index.turn_of_trace(key)?)?,
    };
    Some(edge(child, prompt, "prompt", Grade::Claimed, "turn-trace").by(key))
}

fn message_chain(index: &Index<'_>, _: &Contest, child: usize) -> Option<Edge> {
    let first = index.key(child, KeyKind::ParentMessage)?;
    let mut at = child;
    for _ in 0..MESSAGES_MAX {
        let above = index.key(at, KeyKind::ParentMessage)?;
        let message = format!("message:{}", above.split_once(':')?.1);
        at = index.bearers(&message).iter().copied().find(|other| *other != at)?;
        if index.records[at].kind == Kind::Prompt {
            return Some(edge(child, at, "prompt", Grade::Claimed, "message-chain").by(first));
        }
    }
    None
}

fn same_line(index: &Index<'_>, _: &Contest, child: usize) -> Option<Edge> {
    let line = index.line(child)?;
    let record = &index.records[child];
    let number = |record: &Record| record.origin_line.map_or_else(String::new, |line| line.to_string());
    let made = edge(child, line, "observation", seen(record), "same-line");
    Some(made.compared("origin_line", &number(record), &number(&index.records[line])))
}

fn same_turn(index: &Index<'_>, contest: &Contest, child: usize) -> Option<Edge> {
    if index.records[child].kind != Kind::Prompt {
        return None;
    }
    let trace = || index.key(child, KeyKind::Trace).filter(|trace| !contest.keys.contains_key(*trace));
    let key = index.key(child, KeyKind::Turn).or_else(trace)?;
    let turn = index.turn_of_trace(key).unwrap_or(key);
    let first = index.prompt(turn).filter(|first| *first != child)?;
    Some(edge(child, first, "observation", Grade::Claimed, "same-turn").by(key))
}

fn result_digest(index: &Index<'_>, _: &Contest, child: usize) -> Option<Edge> {
    let record = &index.records[child];
    let is_answer = record.kind == Kind::Result && record.source_kind == SourceKind::Host;
    let key = index.key(child, KeyKind::ToolCall).filter(|_| is_answer)?;
    let digest = record.result_digest.as_deref()?;
    let same = |at: &&usize| {
        let other = &index.records[**at];
        other.kind == Kind::Result && other.direction.is_some() && other.result_digest.as_deref() == Some(digest)
    };
    let frame = *index.bearers(key).iter().find(same)?;
    Some(edge(child, frame, "observation", Grade::Matched, "result-digest").by(key).compared(
        "result_digest",
        digest,
        digest,
    ))
}

fn request_id(index: &Index<'_>, contest: &Contest, child: usize) -> Option<Edge> {
    let record = &index.records[child];
    let is_model = matches!(record.kind, Kind::ModelRequest | Kind::Completion) && is_telemetry(record);
    let key = index.key(child, KeyKind::Request).filter(|_| is_model)?;
    let said = |at: &&usize| {
        let other = &index.records[**at];
        !is_telemetry(other) && matches!(other.kind, Kind::Completion | Kind::Selection)
    };
    let line = *index.bearers(key).iter().find(said)?;
    // Inside one conversation a contested id still says what the host says; it only joins no two.
    let score = if contest.keys.contains_key(key) { 0.9 } else { 1.0 };
    let grade = if score < 1.0 { Grade::Inferred } else { Grade::Claimed };
    Some(Edge { score, ..edge(child, line, "observation", grade, "request-id").by(key) })
}
