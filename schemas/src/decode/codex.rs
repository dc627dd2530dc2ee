//! Rollout files of Codex: `$CODEX_HOME/sessions/Y/M/D/rollout-<time>-<thread>.jsonl`, lines of
//! `{timestamp, ordinal, type, payload}`.
//!
//! Codex says many things twice: `response_item` is what the model was sent or answered, `event_msg`
//! what the program observed. The first gives prompt, completion, selection and result; its echo as
//! `event_msg` is a `log` record, so a turn has one prompt. The exception is `McpToolCall`
//! (`mcp_tool_call_end` in older files): the host's own account of the MCP exchange, a `call`.
//!
//! Invariants
//! - every line gives exactly one record
//! - a user message that the program wrote (environment, instructions) is `log`, not `prompt`
//! - the conversation is that of the file's first `session_meta` (a forked file repeats others
//!   later), or the thread id in the file's name when its head is missing
//! - the turn is the line's own, else that of the latest `task_started` or `turn_context`
//! - a call's time is its start where the line says it; every other time is the line's

use std::sync::Arc;

use super::transcript::{
    Remembered, exact, joined_text, member, millis_to_nanos, set_attributes, short, split_tool, time_unix_nano, without,
};
use super::{Context, Line, LineDecoder};
use crate::columns::Record;
use crate::json::{self, Json, Parsed};
use crate::keys::{Key, KeyKind};
use crate::limits::transcript::REMEMBERED_MAX;
use crate::record::{Kind, Outcome, SourceKind, TIME_IS};

/// Decoder name in the records.
const DECODER: &str = "codex";

/// A user message that starts so was written by the program (files without `content_item_kinds`).
const CONTEXT_TEXT: &[&str] =
    &["<environment_context>", "<user_instructions>", "<turn_aborted>", "<skill>", "# AGENTS.md instructions"];

/// Where a payload names its turn.
const TURN: &[&[&str]] = &[
    &["turn_id"],
    &["turn_attribution", "turn_id"],
    &["internal_chat_message_metadata_passthrough", "turn_id"],
    &["metadata", "turn_id"],
];

/// What earlier lines said about one call id.
#[derive(Debug, Clone, Default)]
struct Call {
    server: Option<Arc<str>>,
    tool: Option<Arc<str>>,
    is_error: Option<bool>,
}

/// Decodes one rollout file, line by line.
#[derive(Debug)]
pub struct CodexDecoder {
    /// Thread id (what `_meta` and OTLP call the conversation), then session id where it differs.
    conversation: Option<(Arc<str>, Option<Arc<str>>)>,
    turn: Option<Arc<str>>,
    calls: Remembered<Call>,
}

impl Default for CodexDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl CodexDecoder {
    /// A decoder for one file.
    pub fn new() -> Self {
        CodexDecoder { conversation: None, turn: None, calls: Remembered::new(REMEMBERED_MAX) }
    }

    /// A line that nobody understood still belongs to the file's conversation.
    fn rejected(&self, context: &Context<'_>, line: &Line<'_>, reason: &str) -> Record {
        let mut record = context.rejected(line, DECODER, reason);
        record.source_kind = SourceKind::Host;
        record.source_name = "codex".into();
        record.agent_name = Some("codex".into());
        let of_file = || line.file.and_then(thread_of_file);
        let thread = self.conversation.as_ref().map(|(thread, _)| thread.clone()).or_else(of_file);
        record.conversation_id = thread.map(|thread| thread.to_string());
        record
    }

    fn learn_conversation(&mut self, line_type: &str, payload: &Json, file: Option<&str>) {
        if self.conversation.is_some() {
            return;
        }
        if line_type == "session_meta" {
            let session = short(payload.str_at("session_id"));
            let thread = short(payload.str_at("id")).or_else(|| session.clone());
            self.conversation = thread.map(|thread| {
                let session = session.filter(|session| *session != thread);
                (thread, session)
            });
        } else {
            self.conversation = file.and_then(thread_of_file).map(|thread| (thread, None));
        }
    }
}

/// The UUID at the end of `rollout-<time>-<uuid>.jsonl`.
fn thread_of_file(file: &str) -> Option<Arc<str>> {
    let stem = file.strip_suffix(".jsonl")?;
    let id = stem.get(stem.len().checked_sub(36)?..)?;
    uuid::Uuid::try_parse(id).ok().map(|_| id.into())
}

impl LineDecoder for CodexDecoder {
    fn line(&mut self, context: &Context<'_>, line: Line<'_>) -> Vec<Record> {
        let parsed = match json::parse(line.bytes) {
            Ok(parsed) => parsed,
            Err(error) => return vec![self.rejected(context, &line, &error.to_string())],
        };
        let value = &parsed.value;
        let (Some(line_type), Some(payload)) = (value.str_at("type"), value.get("payload")) else {
            return vec![self.rejected(context, &line, "a rollout line is an object with members type and payload")];
        };
        self.learn_conversation(line_type, payload, line.file);
        let own_turn = TURN.iter().find_map(|path| short(payload.at(path).and_then(Json::as_str)));
        if own_turn.is_some() {
            self.turn = own_turn;
        }
        let mut entry =
            Entry { context, line: &line, parsed: &parsed, payload, taken: vec!["type"], is_stamped_at_start: false };
        let mut record = entry.record(line_type, self);
        match line_type {
            "session_meta" => record.kind = Kind::Session,
            "turn_context" => entry.turn_context(&mut record),
            "token_usage_record" => entry.token_usage(&mut record),
            "response_item" => entry.response_item(&mut record, &mut self.calls),
            "event_msg" => entry.event(&mut record, &mut self.calls),
            _ => {}
        }
        entry.set_attributes(&mut record);
        vec![record]
    }
}

/// One line being read.
struct Entry<'a> {
    context: &'a Context<'a>,
    line: &'a Line<'a>,
    parsed: &'a Parsed,
    payload: &'a Json,
    /// Members of the payload that went into columns.
    taken: Vec<&'static str>,
    /// Whether the record bears the time at which what it tells began.
    is_stamped_at_start: bool,
}

impl<'a> Entry<'a> {
    fn record(&self, line_type: &str, state: &CodexDecoder) -> Record {
        let value = &self.parsed.value;
        let mut record = self.context.record(self.line, Kind::Log, DECODER);
        record.set_time(time_unix_nano(value.get("timestamp")), self.context.observed_time_unix_us);
        record.source_kind = SourceKind::Host;
        record.source_name = "codex".into();
        record.agent_name = Some("codex".into());
        record.source_sequence = value.get("ordinal").and_then(Json::as_i64);
        record.name = Some(match self.payload.str_at("type") {
            Some(detail) => format!("{line_type}/{detail}"),
            None => line_type.to_string(),
        });
        if let Some((thread, session)) = &state.conversation {
            record.conversation_id = Some(thread.to_string());
            if let Some(session) = session {
                record.add_key(Key::new(KeyKind::Conversation, thread));
                record.add_key(Key::new(KeyKind::Conversation, session));
            }
        }
        if line_type != "session_meta" {
            record.turn_id = state.turn.as_deref().map(str::to_string);
        }
        record
    }

    fn set_attributes(&self, record: &mut Record) {
        let mut members = without(&self.parsed.value, &["timestamp", "ordinal", "type", "payload"]);
        let mut rest = without(self.payload, &self.taken);
        if self.taken.contains(&"item")
            && let Some(item) = self.payload.get("item")
        {
            let columns = ["type", "id", "server", "tool", "arguments", "result", "duration"];
            rest.push(member("item", Json::Object(without(item, &columns))));
        }
        match self.payload {
            Json::Object(_) if rest.is_empty() => {}
            Json::Object(_) => members.push(member("payload", Json::Object(rest))),
            other => members.push(member("payload", other.clone())),
        }
        // A line is written when what it tells is over.
        if let Some(time_is) = record.time_is(!self.is_stamped_at_start) {
            members.push(member(TIME_IS, Json::String(time_is.into())));
        }
        set_attributes(record, members, &self.parsed.duplicate_keys);
    }

    /// What the agent may do in this turn.
    fn turn_context(&self, record: &mut Record) {
        record.kind = Kind::Session;
        let keep = ["approval_policy", "approvals_reviewer", "permission_profile", "sandbox_policy"];
        let given: Vec<_> = keep.iter().filter_map(|key| self.payload.member(key).cloned()).collect();
        record.authority = (!given.is_empty()).then(|| Json::Object(given).to_string());
    }

    fn token_usage(&self, record: &mut Record) {
        record.kind = Kind::ModelRequest;
        if let Some(response) = self.payload.str_at("response_id") {
            record.add_key(Key::new(KeyKind::Response, response));
        }
    }

    fn response_item(&mut self, record: &mut Record, calls: &mut Remembered<Call>) {
        if let Some(id) = self.payload.str_at("id") {
            record.add_key(Key::new(KeyKind::Message, id));
        }
        match self.payload.str_at("type").unwrap_or_default() {
            "message" => self.message(record),
            "reasoning" => {
                record.kind = Kind::Completion;
                let blocks = ["summary", "content"].map(|key| self.payload.get(key).map_or(&[][..], Json::items));
                record.text = blocks.into_iter().find_map(joined_text);
            }
            "function_call" => self.selection(record, calls, "arguments"),
            "custom_tool_call" => self.selection(record, calls, "input"),
            "local_shell_call" | "web_search_call" => self.selection(record, calls, "action"),
            "function_call_output" | "custom_tool_call_output" => self.output(record, calls),
            _ => {}
        }
    }

    fn message(&mut self, record: &mut Record) {
        let content = self.payload.get("content").map_or(&[][..], Json::items);
        record.text = joined_text(content);
        if content.iter().all(|block| block.get("text").is_some_and(|text| text.as_str().is_some())) {
            self.taken.push("content");
        }
        record.kind = match self.payload.str_at("role") {
            Some("assistant") => Kind::Completion,
            Some("user") if self.is_from_user(record.text.as_deref()) => Kind::Prompt,
            _ => Kind::Log,
        };
    }

    /// `content_item_kinds` tells a person's text from the program's; older files have only the text.
    fn is_from_user(&self, text: Option<&str>) -> bool {
        match self.payload.at(&["internal_chat_message_metadata_passthrough", "content_item_kinds"]) {
            Some(kinds) if !kinds.items().is_empty() => {
                kinds.items().iter().filter_map(Json::as_str).any(|kind| kind.starts_with("user."))
            }
            _ => !text.is_some_and(|text| CONTEXT_TEXT.iter().any(|prefix| text.trim_start().starts_with(prefix))),
        }
    }

    /// `arguments` is JSON inside a string; `namespace` is `mcp__<server>`.
    fn selection(&mut self, record: &mut Record, calls: &mut Remembered<Call>, arguments: &'static str) {
        record.kind = Kind::Selection;
        let (in_name, tool) = self.payload.str_at("name").map_or((None, None), |name| {
            let (server, tool) = split_tool(name);
            (server, Some(tool))
        });
        let tool = tool.or_else(|| self.payload.str_at("type"));
        let namespace = self.payload.str_at("namespace").and_then(|space| space.strip_prefix("mcp__"));
        let server = namespace.or(in_name).filter(|server| !server.is_empty());
        record.server_name = server.map(str::to_string);
        record.tool_name = tool.map(str::to_string);
        if let Some(given) = self.payload.member(arguments) {
            self.set_arguments(record, given);
            self.taken.push(arguments);
        }
        if let Some(id) = self.call_id(record) {
            calls.insert(id, Call { server: short(server), tool: short(tool), is_error: None });
        }
    }

    fn set_arguments(&self, record: &mut Record, given: &json::Member) {
        let inner = given.value.as_str().and_then(|text| Some((text, json::parse(text.as_bytes()).ok()?)));
        match inner {
            Some((text, parsed)) => {
                record.arguments_digest = self.context.digest(&parsed.value);
                record.arguments = Some(text.to_string());
            }
            None => {
                record.arguments_digest = self.context.digest(&given.value);
                record.arguments = Some(exact(self.line.bytes, given));
            }
        }
    }

    fn call_id(&mut self, record: &mut Record) -> Option<&'a str> {
        let id = self.payload.str_at("call_id")?;
        record.tool_call_id = Some(id.to_string());
        self.taken.push("call_id");
        Some(id)
    }

    /// What the model was told. Whether that was an error is known only from the host's own account
    /// of the call, which comes first, or from the one text that says the call never happened.
    fn output(&mut self, record: &mut Record, calls: &Remembered<Call>) {
        record.kind = Kind::Result;
        if let Some(call) = self.call_id(record).and_then(|id| calls.get(id)) {
            record.server_name = call.server.as_deref().map(str::to_string);
            record.tool_name = call.tool.as_deref().map(str::to_string);
            record.tool_is_error = call.is_error;
            record.outcome = call.is_error.map(outcome);
        }
        let Some(output) = self.payload.member("output") else {
            return;
        };
        record.result = Some(exact(self.line.bytes, output));
        record.result_digest = self.context.digest(&output.value);
        self.taken.push("output");
        if output.value.as_str().is_some_and(|text| text.starts_with("unsupported call:")) {
            record.tool_is_error = Some(true);
            record.outcome = Some(Outcome::Error);
            record.error_type = Some("unsupported_call".into());
        }
    }

    fn event(&mut self, record: &mut Record, calls: &mut Remembered<Call>) {
        let kind = self.payload.str_at("type").unwrap_or_default();
        match kind {
            "item_completed" | "item_started" => {
                if let Some(item) = self.payload.get("item") {
                    self.item(record, kind, item, calls);
                }
            }
            "mcp_tool_call_begin" | "mcp_tool_call_end" => self.older_mcp_call(record, kind, calls),
            "task_started" | "task_complete" | "thread_settings_applied" => self.turn_marker(record),
            "turn_aborted" => record.outcome = Some(Outcome::Cancelled),
            "error" | "stream_error" => record.outcome = Some(Outcome::Error),
            _ => {}
        }
        if record.text.is_none() && matches!(kind, "user_message" | "agent_message" | "agent_reasoning" | "error") {
            record.text = self.payload.str_at("message").or_else(|| self.payload.str_at("text")).map(str::to_string);
        }
    }

    fn turn_marker(&self, record: &mut Record) {
        record.kind = Kind::Session;
        record.duration_nano = millis_to_nanos(self.payload.get("duration_ms"));
        let trace = self.payload.str_at("trace_id").map(str::to_ascii_lowercase);
        record.trace_id = trace.filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    }

    fn item(&mut self, record: &mut Record, event: &str, item: &Json, calls: &mut Remembered<Call>) {
        let item_type = item.str_at("type").unwrap_or("item");
        record.name = Some(format!("event_msg/{event}/{item_type}"));
        if item_type != "McpToolCall" || event != "item_completed" {
            record.text = item.get("content").and_then(|content| joined_text(content.items()));
            return;
        }
        let started = self.payload.get("started_at_ms").and_then(Json::as_i64).filter(|millis| *millis > 0);
        if let Some(started) = started {
            record.set_time(Some(started.saturating_mul(1_000_000)), self.context.observed_time_unix_us);
            self.is_stamped_at_start = true;
        }
        let invocation = Invocation {
            id: item.str_at("id"),
            server: item.str_at("server"),
            tool: item.str_at("tool"),
            arguments: item.member("arguments"),
            result: item.member("result").filter(|result| result.value != Json::Null),
            error: item.get("error").filter(|error| **error != Json::Null).is_some()
                || item.str_at("status") == Some("failed"),
        };
        record.duration_nano = item.get("duration").and_then(duration);
        invocation.fill(self, record, calls);
        self.taken.push("item");
    }

    /// Files of older versions: `invocation{server,tool,arguments}`, `result{Ok|Err}`.
    fn older_mcp_call(&mut self, record: &mut Record, kind: &str, calls: &mut Remembered<Call>) {
        let given = self.payload.get("invocation");
        let result = self.payload.get("result");
        let ended = kind == "mcp_tool_call_end";
        let invocation = Invocation {
            id: self.payload.str_at("call_id"),
            server: given.and_then(|given| given.str_at("server")),
            tool: given.and_then(|given| given.str_at("tool")),
            arguments: given.and_then(|given| given.member("arguments")),
            result: result.and_then(|result| result.member("Ok").or_else(|| result.member("Err"))),
            error: result.is_some_and(|result| result.member("Err").is_some()),
        };
        record.duration_nano = self.payload.get("duration").and_then(duration);
        invocation.fill(self, record, calls);
        self.taken.extend(["call_id", "invocation", "result", "duration"]);
        if !ended {
            record.kind = Kind::Log;
            record.outcome = None;
            record.tool_is_error = None;
        }
    }
}

/// The host's account of one MCP call.
struct Invocation<'a> {
    id: Option<&'a str>,
    server: Option<&'a str>,
    tool: Option<&'a str>,
    arguments: Option<&'a json::Member>,
    result: Option<&'a json::Member>,
    error: bool,
}

impl Invocation<'_> {
    fn fill(&self, entry: &Entry<'_>, record: &mut Record, calls: &mut Remembered<Call>) {
        record.kind = Kind::Call;
        record.tool_call_id = self.id.map(str::to_string);
        record.server_name = self.server.map(str::to_string);
        record.tool_name = self.tool.map(str::to_string);
        if let Some(arguments) = self.arguments {
            entry.set_arguments(record, arguments);
        }
        let reported = self.result.and_then(|result| {
            let flag = |key: &str| result.value.get(key).and_then(Json::as_bool);
            flag("isError").or_else(|| flag("is_error"))
        });
        if let Some(result) = self.result {
            record.result = Some(exact(entry.line.bytes, result));
            record.result_digest = entry.context.digest(&result.value);
        }
        let is_error = self.error || reported.unwrap_or(false);
        record.tool_is_error = reported;
        record.outcome = Some(outcome(is_error));
        if let Some(id) = self.id {
            let call = Call { server: short(self.server), tool: short(self.tool), is_error: Some(is_error) };
            calls.insert(id, call);
        }
    }
}

fn outcome(is_error: bool) -> Outcome {
    if is_error { Outcome::Error } else { Outcome::Ok }
}

/// `{"secs": 0, "nanos": 226106802}`.
fn duration(value: &Json) -> Option<i64> {
    let part = |key: &str| value.get(key).and_then(Json::as_i64).filter(|part| *part >= 0);
    Some(part("secs")?.saturating_mul(1_000_000_000).saturating_add(part("nanos").unwrap_or(0)))
}

#[cfg(test)]
mod tests;
