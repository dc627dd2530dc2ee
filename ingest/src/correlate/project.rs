//! From a stored record to the linker's view of it: the one place that knows both.
//!
//! Facts without a column are read from `attributes` by the names that source profiles give them
//! (`schemas/sources/README.md`). Arguments are compared by keyed digests only, so redaction does not matter; where
//! arguments were redacted, their values are less evidence for downstream lines.
//!
//! Not projected: model requests and what else is no call.

use sha2::{Digest, Sha256};
use threadline_schemas::json::{self, Json};
use threadline_schemas::{Decision, Key, KeyKind, Kind, Outcome, Record, SourceKind};

use super::downstream_text::{http_line, statement_line};
use super::observation::{Act, Argument, Observation, Payload};

/// Columns that projecting reads; everything else may be left out of a scan.
pub(super) const COLUMNS: &[&str] = &[
    "event_id",
    "time_unix_nano",
    "duration_nano",
    "source_kind",
    "source_name",
    "decoder",
    "kind",
    "name",
    "server_name",
    "tool_name",
    "target",
    "outcome",
    "transport_status",
    "rpc_error_code",
    "tool_is_error",
    "decision",
    "user_claimed",
    "user_authenticated",
    "agent_name",
    "client_name",
    "trace_id",
    "span_id",
    "parent_span_id",
    "conversation_id",
    "tool_call_id",
    "rpc_id",
    "connection_id",
    "keys",
    "arguments_digest",
    "result_digest",
    "session_key",
    "text",
    "arguments",
    "result",
    "attributes",
    "bodies",
];

/// The record as the linker sees it; `None` for kinds that the linker does not place.
pub fn project(record: &Record) -> Option<Observation> {
    let act = act(record)?;
    let facts = Facts::of(record);
    let mut o = Observation {
        id: record.event_id,
        time_unix_nano: record.time_unix_nano,
        act,
        twin: Some(said(record)),
        duration: record.duration_nano.filter(|nanos| *nanos >= 0).map(|nanos| nanos as f64 / 1e9),
        conversation: record.conversation_id.clone(),
        server: record.server_name.clone(),
        tool: record.tool_name.clone(),
        rpc_id: record.rpc_id.clone(),
        tool_call_id: record.tool_call_id.clone(),
        denied: record.decision == Some(Decision::Deny) || record.outcome == Some(Outcome::Denied),
        redacted: record.decision == Some(Decision::Redact),
        failed: failed(record),
        state: record.keys.iter().find_map(|key| key.strip_prefix("request-state:")).map(str::to_string),
        ..Observation::default()
    };
    o.clock = record.clock();
    if let Some(nanos) = record.duration_nano.filter(|nanos| *nanos > 0) {
        // Executions are placed by their end, calls that one line tells whole by their start.
        let at_end = facts.text("threadline.time_is").is_some_and(|end| end == "end");
        match act {
            Act::Execution if !at_end => o.time_unix_nano = o.time_unix_nano.saturating_add(nanos),
            Act::Request if at_end => o.time_unix_nano = o.time_unix_nano.saturating_sub(nanos),
            _ => {}
        }
    }
    context(record, &mut o);
    match act {
        Act::Prompt | Act::Choice | Act::Outcome | Act::Answer => host(record, &facts, &mut o),
        Act::Opening | Act::Request | Act::Response => gateway(record, &facts, &mut o),
        Act::Execution => {}
        Act::Http => {
            let bytes = facts.number("http.response.body.size");
            o.http = http_line(record, facts.text("server.address"), bytes, facts.text("user_agent.original"));
            o.http.as_ref()?;
        }
        Act::Called | Act::Returned => {
            o.connection = record.connection_id.clone();
            o.result.digests = record.result_digest.clone().into_iter().collect();
        }
        Act::Statement => o.statement = record.target.as_deref().map(statement_line),
    }
    if matches!(act, Act::Http | Act::Statement) {
        // A log line or a comment has lost the id's type.
        o.rpc_id = o.rpc_id.map(|id| id.trim_matches('"').to_string());
    }
    if matches!(act, Act::Called | Act::Request | Act::Response) {
        let kinds = [KeyKind::ParentSpan, KeyKind::Request];
        let is_one = |key: &&String| Key::parse(key).is_some_and(|key| kinds.contains(&key.kind));
        o.ids = record.keys.iter().filter(is_one).cloned().collect();
    }
    arguments(record, &facts, &mut o);
    Some(o)
}

/// Whether the linker's opinion about this record is stored: sources that profiles read, and calls that taps saw. What
/// transcripts and telemetry say is joined by its own ids; it takes part as evidence only.
pub(super) fn is_judged(record: &Record) -> bool {
    record.decoder.contains('#') || (record.source_kind == SourceKind::Wire && record.kind == Kind::Call)
}

/// What a record is to the linker.
pub(super) fn act(record: &Record) -> Option<Act> {
    match (record.source_kind, read_as(record)?) {
        (SourceKind::Host, Kind::Prompt) => Some(Act::Prompt),
        (SourceKind::Host, Kind::Selection) => Some(Act::Choice),
        (SourceKind::Host, Kind::Result) => Some(Act::Outcome),
        (SourceKind::Host, Kind::Completion) => Some(Act::Answer),
        (SourceKind::Gateway, Kind::Call) => Some(Act::Request),
        (SourceKind::Gateway, Kind::Result) => Some(Act::Response),
        (SourceKind::Gateway, Kind::Connection) if record.name.as_deref() == Some("initialize") => Some(Act::Opening),
        (SourceKind::Server, Kind::Call) if record.duration_nano.is_some() => Some(Act::Execution),
        (SourceKind::Wire, Kind::Call) => Some(Act::Called),
        (SourceKind::Wire, Kind::Result) => Some(Act::Returned),
        (SourceKind::Downstream, Kind::Downstream) if record.transport_status.is_some() => Some(Act::Http),
        (SourceKind::Downstream, Kind::Downstream) if record.target.is_some() => Some(Act::Statement),
        _ => None,
    }
}

/// Whether [`act`] may have an answer, from fewer columns.
pub(super) fn may_act(record: &Record) -> bool {
    record.kind == Kind::Rejected || act(record).is_some()
}

/// The record's kind; of a damaged line the kind that the rest of it reads as.
fn read_as(record: &Record) -> Option<Kind> {
    match record.kind {
        Kind::Rejected => Kind::parse(&Facts::of(record).text("threadline.read_as")?),
        kind => Some(kind),
    }
}

/// What a record says; a damaged line's `text` is why it was rejected.
fn text(record: &Record, facts: &Facts) -> Option<String> {
    if record.kind == Kind::Rejected { facts.text("threadline.text") } else { record.text.clone() }
}

fn failed(record: &Record) -> Option<bool> {
    match record.outcome {
        Some(Outcome::Ok | Outcome::InputRequired) => Some(false),
        Some(_) => Some(true),
        None => record.tool_is_error.or(record.rpc_error_code.map(|_| true)),
    }
}

/// A trace without a span of its own was carried inside the message.
fn context(record: &Record, o: &mut Observation) {
    let carried = record.span_id.is_none() && matches!(o.act, Act::Request | Act::Response | Act::Opening);
    match (&record.trace_id, &record.parent_span_id) {
        (Some(trace), Some(span)) if carried => o.carried_context = Some((trace.clone(), span.clone())),
        _ => {
            o.trace_id = record.trace_id.clone();
            o.span_id = record.span_id.clone();
            o.parent_span_id = record.parent_span_id.clone();
        }
    }
}

fn host(record: &Record, facts: &Facts, o: &mut Observation) {
    o.program = record.agent_name.clone().or_else(|| Some(record.source_name.clone()));
    o.instance = facts.text("service.instance.id");
    o.workstation = facts.text("host.name").or_else(|| facts.text("threadline.emitter"));
    o.user = record.user_authenticated.clone().or_else(|| record.user_claimed.clone());
    o.addresses = facts.texts("host.ip");
    o.model = facts.text("gen_ai.request.model");
    if o.act == Act::Outcome {
        result(record, facts, o);
    } else {
        o.text = text(record, facts);
    }
}

fn gateway(record: &Record, facts: &Facts, o: &mut Observation) {
    o.program = record.agent_name.clone().or_else(|| record.client_name.clone());
    o.gateway = Some(record.source_name.clone());
    o.mcp_session = facts.exact("mcp.session.id");
    o.addresses = facts.texts("client.address");
    o.subject = record.user_authenticated.clone().or_else(|| record.user_claimed.clone());
    if o.act == Act::Response || o.duration.is_some() {
        result(record, facts, o);
    }
}

fn result(record: &Record, facts: &Facts, o: &mut Observation) {
    let cut = facts.flag("threadline.truncated");
    let digest = facts.text("threadline.result_match").filter(|_| !cut || record.source_kind == SourceKind::Gateway);
    o.result = Payload {
        digests: digest.into_iter().collect(),
        bytes: facts.number("threadline.result_bytes"),
        head: text(record, facts),
        cut,
    };
}

fn arguments(record: &Record, facts: &Facts, o: &mut Observation) {
    let cut = facts.flag("threadline.truncated") && o.act == Act::Choice;
    let head = facts.text("threadline.arguments_head");
    let stated = facts.number("threadline.arguments_bytes");
    o.arguments = Payload {
        digests: if cut { Vec::new() } else { facts.texts("threadline.arguments_match") },
        bytes: stated.or_else(|| record.arguments.as_ref().map(|text| text.len() as u64)),
        head: head.or_else(|| record.arguments.clone()).map(without_end),
        cut: record.arguments.is_none(),
    };
    if !cut && let Some(digest) = &record.arguments_digest {
        o.arguments.digests.push(digest.clone());
    }
    let text = record.arguments.as_deref().or(o.arguments.head.as_deref().filter(|_| !cut));
    o.argument_values = match text.and_then(|text| json::parse(text.as_bytes()).ok()) {
        Some(parsed) if matches!(parsed.value, Json::Object(_)) => Some(flatten(&parsed.value)),
        // Two bytes of arguments are `{}`.
        _ if stated == Some(2) => Some(Vec::new()),
        _ => None,
    };
}

/// Cut text ends in what a program puts there, or in half a character.
fn without_end(text: String) -> String {
    let end = text.char_indices().rev().nth(3).map_or(0, |(at, _)| at);
    text[..end].to_string()
}

fn flatten(arguments: &Json) -> Vec<Argument> {
    let members = arguments.members().iter().map(|member| {
        let mut values = Vec::new();
        leaves(&member.value, &mut values);
        let scalar = matches!(member.value, Json::String(_) | Json::Number(_));
        Argument { name: member.key.clone(), values, scalar }
    });
    members.collect()
}

fn leaves(value: &Json, found: &mut Vec<String>) {
    match value {
        Json::Null => {}
        Json::String(text) => found.push(text.clone()),
        Json::Array(items) => items.iter().for_each(|item| leaves(item, found)),
        Json::Object(members) => members.iter().for_each(|member| leaves(&member.value, found)),
        Json::Number(text) => found.push(text.strip_suffix(".0").unwrap_or(text).to_string()),
        Json::Bool(truth) => found.push(truth.to_string()),
    }
}

/// Digest of everything the source said: equal lines of one source give equal ones, however they are stored.
fn said(record: &Record) -> u64 {
    let mut hash = Sha256::new();
    let ids = [&record.rpc_id, &record.tool_call_id, &record.trace_id, &record.span_id, &record.parent_span_id];
    let names = [&record.name, &record.server_name, &record.tool_name, &record.target, &record.transport_status];
    let payloads = [&record.text, &record.arguments, &record.result, &record.attributes, &record.bodies];
    let who = [&record.conversation_id, &record.user_claimed, &record.arguments_digest, &record.result_digest];
    for text in ids.iter().chain(&names).chain(&payloads).chain(&who) {
        hash.update(text.as_deref().unwrap_or("\u{0}"));
        hash.update([0xff]);
    }
    hash.update(record.time_unix_nano.to_le_bytes());
    hash.update(record.duration_nano.unwrap_or(-1).to_le_bytes());
    hash.update(record.kind.as_str());
    let digest: [u8; 32] = hash.finalize().into();
    digest.iter().take(8).fold(0, |all, byte| all << 8 | u64::from(*byte))
}

/// The attributes of a record.
struct Facts(Json);

impl Facts {
    fn of(record: &Record) -> Facts {
        let parsed = record.attributes.as_deref().and_then(|text| json::parse(text.as_bytes()).ok());
        Facts(parsed.map_or(Json::Null, |parsed| parsed.value))
    }

    fn text(&self, name: &str) -> Option<String> {
        self.0.get(name)?.as_str().filter(|text| !text.is_empty()).map(str::to_string)
    }

    /// An id with its type, so that 1 and "1" differ.
    fn exact(&self, name: &str) -> Option<String> {
        match self.0.get(name)? {
            value @ (Json::String(_) | Json::Number(_)) => Some(value.to_string()),
            _ => None,
        }
    }

    fn texts(&self, name: &str) -> Vec<String> {
        match self.0.get(name) {
            Some(Json::Array(items)) => items.iter().filter_map(Json::as_str).map(str::to_string).collect(),
            Some(Json::String(text)) => vec![text.clone()],
            _ => Vec::new(),
        }
    }

    fn number(&self, name: &str) -> Option<u64> {
        match self.0.get(name)? {
            Json::Number(text) => text.parse().ok(),
            Json::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some(Json::Bool(true)))
    }
}
