//! From an item to a record: time, ids, keys, and the attributes that no column takes. What the item
//! means is decided by the emitter's dialect ([`super::claude_code`], [`super::codex`],
//! [`super::gemini_cli`], [`super::copilot`]) or else by the conventions ([`super::spans`]).
//!
//! A span link is a second parent: its ids are a `parent-span` key behind the span's own, and its
//! trace a key behind the span's own trace. A span that links to many traces (a batch) belongs to
//! none of them.

use super::genai::Choice;
use super::item::{Detail, Group, Item, Link, Scope, get};
use super::{claude_code, codex, copilot, gemini_cli, genai, spans};
use crate::columns::Record;
use crate::decode::transcript::{member, millis_to_nanos};
use crate::decode::{Context, Line};
use crate::json::{self, Json, Member};
use crate::keys::{Key, KeyKind};
use crate::limits::otlp::LINKED_TRACES_MAX;
use crate::record::{Kind, Outcome, SourceKind, TIME_IS, TimeQuality};

/// What all records of one scope have in common.
pub(super) struct Shared<'a> {
    pub(super) scope: &'a str,
    pub(super) source_name: String,
    /// `"resource":{..},"scope":{..}`, rendered once.
    rendered: String,
}

impl Shared<'_> {
    /// How much of each record it takes.
    pub(super) fn bytes(&self) -> usize {
        self.rendered.len() + self.source_name.len()
    }
}

/// Reads what resource and scope say.
pub(super) fn shared<'a>(group: &Group, scope: &'a Scope) -> Shared<'a> {
    let source_name = source_name(&group.resource, &scope.name);
    let mut resource = vec![member("attributes", Json::Object(group.resource.clone()))];
    push_text(&mut resource, "schema_url", &group.schema_url);
    let mut about = Vec::new();
    push_text(&mut about, "name", &scope.name);
    push_text(&mut about, "version", &scope.version);
    push_text(&mut about, "schema_url", &scope.schema_url);
    if !scope.attributes.is_empty() {
        about.push(member("attributes", Json::Object(scope.attributes.clone())));
    }
    let rendered = format!("\"resource\":{},\"scope\":{}", Json::Object(resource), Json::Object(about));
    Shared { scope: &scope.name, source_name: source_name.to_string(), rendered }
}

/// Who says it: the service, else the instrumentation scope.
pub(super) fn source_name<'a>(resource: &'a [Member], scope: &'a str) -> &'a str {
    let service = get(resource, "service.name").and_then(Json::as_str).filter(|name| !name.is_empty());
    service.or(Some(scope).filter(|name| !name.is_empty())).unwrap_or("unknown")
}

/// An item on its way to a record.
pub(super) struct Reading<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) shared: &'a Shared<'a>,
    pub(super) item: &'a Item,
    pub(super) record: Record,
    /// Attributes that went into columns as they are.
    taken: Vec<&'static str>,
    choices: Vec<Choice>,
}

/// The record of one item, and a part for each tool that a model chose in it, of which `parts_left` more may come.
pub(super) fn records(
    context: &Context<'_>,
    line: &Line<'_>,
    decoder: &str,
    shared: &Shared<'_>,
    side: SourceKind,
    item: &Item,
    parts_left: &mut usize,
) -> Vec<Record> {
    let kind = if item.span_kind().is_some() { Kind::Span } else { Kind::Log };
    let mut record = context.record(line, kind, decoder);
    record.source_kind = side;
    record.source_name = shared.source_name.clone();
    record.name = Some(item.name.clone()).filter(|name| !name.is_empty());
    let mut reading = Reading { context, shared, item, record, taken: Vec::new(), choices: Vec::new() };
    reading.set_time();
    reading.set_trace();
    reading.set_detail();
    reading.set_common();
    match dialect(shared) {
        Dialect::ClaudeCode => claude_code::map(&mut reading),
        Dialect::Codex => codex::map(&mut reading),
        Dialect::GeminiCli => gemini_cli::map(&mut reading),
        Dialect::Copilot => copilot::map(&mut reading),
        Dialect::Conventions => spans::map(&mut reading),
    }
    let attributes = reading.attributes();
    reading.record.attributes = Some(attributes);
    let choices = std::mem::take(&mut reading.choices);
    let mut records = vec![reading.record];
    for choice in choices {
        let Some(left) = parts_left.checked_sub(1) else { break };
        *parts_left = left;
        let part = context.part(line, records.len(), Kind::Selection, decoder);
        records.push(selection(context, part, &records[0], choice));
    }
    records
}

/// A choice bears the ids of the answer it stands in.
fn selection(context: &Context<'_>, mut part: Record, answer: &Record, choice: Choice) -> Record {
    part.time_unix_nano = answer.time_unix_nano;
    part.time_quality = answer.time_quality;
    part.source_kind = answer.source_kind;
    part.source_name.clone_from(&answer.source_name);
    part.agent_name.clone_from(&answer.agent_name);
    part.user_claimed.clone_from(&answer.user_claimed);
    part.trace_id.clone_from(&answer.trace_id);
    part.span_id.clone_from(&answer.span_id);
    part.conversation_id.clone_from(&answer.conversation_id);
    part.turn_id.clone_from(&answer.turn_id);
    genai::describe(&mut part, choice);
    part.arguments_digest = context.digest_text(part.arguments.as_deref());
    part
}

enum Dialect {
    ClaudeCode,
    Codex,
    GeminiCli,
    Copilot,
    Conventions,
}

fn dialect(shared: &Shared<'_>) -> Dialect {
    if shared.scope.starts_with("com.anthropic.claude_code") {
        Dialect::ClaudeCode
    } else if shared.scope.starts_with("codex") || shared.source_name.starts_with("codex") {
        Dialect::Codex
    } else if ["gemini-cli", "gemini_cli"].iter().any(|name| is_named(shared, name)) {
        Dialect::GeminiCli
    } else if is_named(shared, "copilot-chat") {
        Dialect::Copilot
    } else {
        Dialect::Conventions
    }
}

fn is_named(shared: &Shared<'_>, prefix: &str) -> bool {
    shared.scope.starts_with(prefix) || shared.source_name.starts_with(prefix)
}

impl Reading<'_> {
    fn set_time(&mut self) {
        let observed_us = self.context.observed_time_unix_us;
        let nanos = |time: u64| i64::try_from(time).unwrap_or(-1);
        self.record.set_time(Some(nanos(self.item.time_unix_nano)), observed_us);
        match &self.item.detail {
            Detail::Log { observed_time_unix_nano, .. } => {
                let observed = nanos(*observed_time_unix_nano);
                if self.record.time_quality == TimeQuality::Zero && observed > 0 {
                    self.record.time_unix_nano = observed;
                }
            }
            Detail::Span { end_time_unix_nano, .. } => {
                let duration = end_time_unix_nano.checked_sub(self.item.time_unix_nano);
                let known = self.item.time_unix_nano > 0 && *end_time_unix_nano > 0;
                self.record.duration_nano = duration.filter(|_| known).and_then(|nanos| i64::try_from(nanos).ok());
            }
        }
    }

    fn set_trace(&mut self) {
        let id = |text: &str, digits: usize| is_id(text, digits).then(|| text.to_string());
        self.record.trace_id = id(&self.item.trace_id, 32);
        self.record.span_id = id(&self.item.span_id, 16);
        if let Detail::Span { parent_span_id, links, .. } = &self.item.detail {
            self.record.parent_span_id = id(parent_span_id, 16);
            self.set_links(links);
        }
    }

    /// Second parents, behind the span's own trace and parent.
    fn set_links(&mut self, links: &[Link]) {
        let valid: Vec<&Link> = links.iter().filter(|link| is_id(&link.trace_id, 32)).collect();
        if valid.is_empty() {
            return;
        }
        if let Some(trace) = self.record.trace_id.clone() {
            self.record.add_key(Key::new(KeyKind::Trace, &trace));
            if let Some(parent) = self.record.parent_span_id.clone() {
                self.record.add_key(Key::scoped(KeyKind::ParentSpan, &trace, &parent));
            }
        }
        let mut traces: Vec<&str> = valid.iter().map(|link| link.trace_id.as_str()).collect();
        traces.sort_unstable();
        traces.dedup();
        for link in valid {
            if traces.len() <= LINKED_TRACES_MAX {
                self.record.add_key(Key::new(KeyKind::Trace, &link.trace_id));
            }
            if is_id(&link.span_id, 16) {
                self.record.add_key(Key::scoped(KeyKind::ParentSpan, &link.trace_id, &link.span_id));
            }
        }
    }

    /// Status of a span, text of a log record.
    fn set_detail(&mut self) {
        self.record.error_type = self.take(&["error.type"]);
        let failed = self.record.error_type.is_some();
        match &self.item.detail {
            Detail::Log { body, .. } => {
                self.record.text = match body {
                    Json::Null => None,
                    Json::String(text) => Some(text.clone()),
                    other => Some(other.to_string()),
                };
                self.record.outcome = failed.then_some(Outcome::Error);
            }
            Detail::Span { status_code, status_message, .. } => {
                let (word, outcome) = match status_code {
                    1 => ("ok", Some(Outcome::Ok)),
                    2 => ("error", Some(Outcome::Error)),
                    // A cancelled call stays unset too, so this is no success.
                    _ => ("unset", failed.then_some(Outcome::Error)),
                };
                self.record.transport_status = Some(word.into());
                self.record.outcome = outcome;
                self.record.text = Some(status_message.clone()).filter(|text| !text.is_empty());
            }
        }
    }

    /// Ids that mean the same whoever writes them.
    fn set_common(&mut self) {
        self.record.conversation_id = self.take(&[
            "gen_ai.conversation.id",
            "conversation.id",
            "session.id",
            "traceloop.association.properties.conversation_id",
            "traceloop.association.properties.thread_id",
            "traceloop.association.properties.session_id",
            "traceloop.association.properties.chat_id",
        ]);
        self.record.turn_id = self.take(&["prompt.id", "turn.id", "turn_id"]);
        // OpenInference's name of the call; elsewhere it is the tool's, which every call of it bears.
        let of_call: &[&'static str] =
            if self.item.text("openinference.span.kind").is_some() { &["tool.id"] } else { &[] };
        self.record.tool_call_id = self.take(&[
            "gen_ai.tool.call.id",
            "gen_ai.tool.call_id",
            "tool_use_id",
            "tool.call_id",
            "call_id",
            "tool_call.id",
            "message.tool_call_id",
        ]);
        if self.record.tool_call_id.is_none() {
            self.record.tool_call_id = self.take(of_call);
        }
        self.record.user_claimed = self.take(&[
            "enduser.id",
            "user.email",
            "user.id",
            "user_id",
            "user",
            "traceloop.association.properties.user_id",
        ]);
        self.record.agent_name = self.take(&["gen_ai.agent.name", "agent.name"]);
        self.record.rpc_error_code = ["rpc.response.status_code", "rpc.jsonrpc.error_code", "mcp.error.code"]
            .iter()
            .find_map(|key| self.item.attribute(key).and_then(Json::as_i64));
        for (attribute, kind) in [
            ("request_id", KeyKind::Request),
            ("correlation_id", KeyKind::Request),
            ("gen_ai.response.id", KeyKind::Response),
        ] {
            if let Some(id) = self.item.text(attribute).filter(|id| *id != "none") {
                self.record.add_key(Key::new(kind, id));
            }
        }
        self.set_mcp_ids();
    }

    fn set_mcp_ids(&mut self) {
        if let Some(session) = self.item.text("mcp.session.id") {
            let server = self.item.first(&["fastmcp.server.name", "mcp.server.name"]);
            let scope = server.unwrap_or(&self.shared.source_name);
            self.record.add_key(Key::scoped(KeyKind::McpSession, scope, session));
        }
        let rpc_id = ["jsonrpc.request.id", "rpc.jsonrpc.request_id", "rpc.request.id", "mcp.request.id"];
        self.record.rpc_id = rpc_id.iter().find_map(|key| self.item.attribute(key)).and_then(rpc_id_text);
    }

    /// A tool that the model chose in this record.
    pub(super) fn choose(&mut self, choice: Choice) {
        self.choices.push(choice);
    }

    /// The first of these text attributes that says something; it goes into a column as it is.
    pub(super) fn take(&mut self, keys: &[&'static str]) -> Option<String> {
        let (key, text) = keys.iter().find_map(|key| Some((*key, self.item.text(key)?)))?;
        self.taken.push(key);
        Some(text.to_string())
    }

    /// The first of these attributes as JSON text with its match digest.
    pub(super) fn take_payload(&mut self, keys: &[&'static str]) -> (Option<String>, Option<String>) {
        let Some((key, value)) = keys.iter().find_map(|key| Some((*key, self.item.attribute(key)?))) else {
            return (None, None);
        };
        self.taken.push(key);
        let parsed = value.as_str().and_then(|text| Some((text, json::parse(text.as_bytes()).ok()?)));
        match parsed {
            Some((text, parsed)) => (Some(text.to_string()), self.context.digest(&parsed.value)),
            None => (Some(value.to_string()), self.context.digest(value)),
        }
    }

    /// The first of these attributes as JSON text, unread: what looks like a document is taken for one.
    pub(super) fn take_document(&mut self, keys: &[&'static str]) -> Option<String> {
        let (key, value) = keys.iter().find_map(|key| Some((*key, self.item.attribute(key)?)))?;
        self.taken.push(key);
        let document = value.as_str().filter(|text| text.trim_start().starts_with(['{', '[']));
        Some(document.map_or_else(|| value.to_string(), str::to_string))
    }

    /// `arguments` from the first of these attributes.
    pub(super) fn take_arguments(&mut self, keys: &[&'static str]) {
        (self.record.arguments, self.record.arguments_digest) = self.take_payload(keys);
    }

    /// `result` from the first of these attributes.
    pub(super) fn take_result(&mut self, keys: &[&'static str]) {
        (self.record.result, self.record.result_digest) = self.take_payload(keys);
    }

    /// A duration that the source gives in milliseconds; a span's own times are finer.
    pub(super) fn take_duration(&mut self, key: &'static str) {
        if self.record.duration_nano.is_none() {
            self.record.duration_nano = millis_to_nanos(self.item.attribute(key));
            if self.record.duration_nano.is_some() {
                self.taken.push(key);
            }
        }
    }

    /// Outcome from a flag such as `success`, which may be text.
    pub(super) fn success(&mut self, key: &str) -> Option<bool> {
        let success = self.item.attribute(key).and_then(Json::as_bool)?;
        self.record.outcome = Some(if success { Outcome::Ok } else { Outcome::Error });
        Some(success)
    }

    /// Outcome and transport status from an HTTP status code.
    pub(super) fn http_status(&mut self) {
        let code = ["http.response.status_code", "http.status_code"].iter().find_map(|key| self.item.attribute(key));
        let Some(code) = code.and_then(Json::as_i64) else {
            return;
        };
        self.record.transport_status = Some(code.to_string());
        // ContextForge sets span status OK on a request that it answers with 400.
        self.record.outcome = match code < 400 {
            true => self.record.outcome.or(Some(Outcome::Ok)),
            false => Some(Outcome::Error),
        };
    }

    /// Everything without a column, as one JSON object.
    fn attributes(&self) -> String {
        let rest = self.item.attributes.iter().filter(|member| !self.taken.contains(&member.key.as_str()));
        let mut members = vec![member("attributes", Json::Object(rest.cloned().collect()))];
        match &self.item.detail {
            Detail::Log { observed_time_unix_nano, severity_number, severity_text, .. } => {
                push_number(&mut members, "observed_time_unix_nano", *observed_time_unix_nano);
                push_number(&mut members, "severity_number", *severity_number);
                push_text(&mut members, "severity_text", severity_text);
            }
            Detail::Span { kind, parent_span_id, trace_state, end_time_unix_nano, events, links, .. } => {
                push_number(&mut members, "span_kind", *kind);
                push_text(&mut members, "trace_state", trace_state);
                if self.record.duration_nano.is_none() {
                    push_number(&mut members, "end_time_unix_nano", *end_time_unix_nano);
                }
                push_odd_id(&mut members, "parent_span_id", parent_span_id, 16);
                push_list(&mut members, "events", events.clone());
                push_list(&mut members, "links", links.iter().map(link).collect());
            }
        }
        push_odd_id(&mut members, "trace_id", &self.item.trace_id, 32);
        push_odd_id(&mut members, "span_id", &self.item.span_id, 16);
        push_number(&mut members, "flags", self.item.flags);
        let dropped = ["dropped_attributes_count", "dropped_events_count", "dropped_links_count"];
        for (name, count) in dropped.into_iter().zip(self.item.dropped) {
            push_number(&mut members, name, count);
        }
        // A log record is written when what it tells is over, a span bears its start.
        if let Some(time_is) = self.record.time_is(self.item.span_kind().is_none()) {
            push_text(&mut members, TIME_IS, time_is);
        }
        let own = Json::Object(members).to_string();
        format!("{},{}}}", &own[..own.len() - 1], self.shared.rendered)
    }
}

/// A span event; both encodings build it here.
pub(super) fn event(time_unix_nano: u64, name: String, attributes: Vec<Member>) -> Json {
    let mut members = Vec::new();
    push_number(&mut members, "time_unix_nano", time_unix_nano);
    push_text(&mut members, "name", &name);
    members.push(member("attributes", Json::Object(attributes)));
    Json::Object(members)
}

fn link(link: &Link) -> Json {
    let mut members = Vec::new();
    push_text(&mut members, "trace_id", &link.trace_id);
    push_text(&mut members, "span_id", &link.span_id);
    push_text(&mut members, "trace_state", &link.trace_state);
    members.push(member("attributes", Json::Object(link.attributes.clone())));
    Json::Object(members)
}

/// OpenTelemetry writes every JSON-RPC id as text: digits are taken for a number, as MCP clients send.
fn rpc_id_text(value: &Json) -> Option<String> {
    match value {
        Json::String(text) if text.is_empty() => None,
        Json::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => Some(text.clone()),
        Json::String(_) | Json::Number(_) => Some(value.to_string()),
        _ => None,
    }
}

fn is_id(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn push_text(members: &mut Vec<Member>, key: &str, text: &str) {
    if !text.is_empty() {
        members.push(member(key, Json::String(text.into())));
    }
}

fn push_number(members: &mut Vec<Member>, key: &str, number: u64) {
    if number != 0 {
        members.push(member(key, Json::Number(number.to_string().into())));
    }
}

fn push_list(members: &mut Vec<Member>, key: &str, items: Vec<Json>) {
    if !items.is_empty() {
        members.push(member(key, Json::Array(items)));
    }
}

/// An id that is not one stays visible.
fn push_odd_id(members: &mut Vec<Member>, key: &str, id: &str, digits: usize) {
    if !is_id(id, digits) {
        push_text(members, key, id);
    }
}
