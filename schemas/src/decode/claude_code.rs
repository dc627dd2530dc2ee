//! Session files of Claude Code: `~/.claude/projects/<cwd>/<sessionId>.jsonl` and its sub-agents.
//!
//! One API message is one line per content block (same `message.id`); older versions put several
//! blocks into one line, which gives one record per block here. Part 0 carries the raw line.
//!
//! Invariants
//! - every line gives at least one record, at most [`BLOCKS_MAX`]
//! - a person's text is `prompt`, what the model said `completion`, its choice of a tool `selection`,
//!   what came back to it `result`; everything else is `session` or `log`
//! - only user lines carry `promptId`; the others take the turn of the line they name as parent
//! - a result takes server and tool from the selection with the same id
//!
//! Not here: whether a call reached a server. A refusal is visible in the text of the result only
//! ([`REFUSALS`]); there is no frame for it.

use std::sync::Arc;

use super::budget::Budget;
use super::transcript::{
    Remembered, exact, joined_text, member, set_attributes, short, split_tool, time_unix_nano, without,
};
use super::{Context, Line, LineDecoder};
use crate::columns::Record;
use crate::json::{self, Json, Member, Parsed};
use crate::keys::{Key, KeyKind};
use crate::limits::transcript::{BLOCKS_MAX, REMEMBERED_MAX};
use crate::record::{Kind, Outcome, SourceKind};

/// Decoder name in the records.
const DECODER: &str = "claude-code";

/// How a result's text tells that the host did not run the tool: marker, outcome, error type.
const REFUSALS: &[(&str, Outcome, &str)] = &[
    ("is still connecting", Outcome::Error, "mcp_server_connecting"),
    ("No such tool available", Outcome::Denied, "no_such_tool_available"),
    ("The user doesn't want to proceed with this tool use", Outcome::Denied, "rejected_by_user"),
    ("The user doesn't want to take this action right now", Outcome::Denied, "rejected_by_user"),
    ("Claude requested permissions to", Outcome::Denied, "permission_not_granted"),
    ("Permission to use", Outcome::Denied, "permission_denied"),
    ("Permission for this action", Outcome::Denied, "permission_denied"),
    ("PreToolUse:", Outcome::Denied, "denied_by_hook"),
    ("Hook PreToolUse:", Outcome::Denied, "denied_by_hook"),
    ("[Request interrupted by user", Outcome::Cancelled, "interrupted_by_user"),
];

/// A user line that starts so was written by the program, not by the person.
const SYNTHETIC: &[&str] =
    &["<system-reminder>", "<local-command-", "Caveat: The messages below", "[Request interrupted by user"];

/// Members of a line that have a column or key.
const TAKEN: &[&str] = &[
    "type",
    "message",
    "uuid",
    "parentUuid",
    "timestamp",
    "sessionId",
    "promptId",
    "requestId",
    "agentId",
    "permissionMode",
    "toolUseResult",
];

/// Members that hold the text of a line outside the exchange; a line has one of them.
const TEXT: &[&str] = &["content", "summary", "lastPrompt"];

/// Server (none for a built-in tool) and tool of a tool use.
#[derive(Debug)]
struct Tool {
    server: Option<Arc<str>>,
    name: Option<Arc<str>>,
}

/// Decodes one session file, line by line.
#[derive(Debug)]
pub struct ClaudeCodeDecoder {
    /// Line uuid to its turn.
    turns: Remembered<Arc<str>>,
    /// Tool use id to server and tool.
    tools: Remembered<Tool>,
    /// Turn of the latest user line.
    turn: Option<Arc<str>>,
    /// Session of the latest line that names one.
    session: Option<Arc<str>>,
}

impl Default for ClaudeCodeDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl ClaudeCodeDecoder {
    /// A decoder for one file.
    pub fn new() -> Self {
        ClaudeCodeDecoder {
            turns: Remembered::new(REMEMBERED_MAX),
            tools: Remembered::new(REMEMBERED_MAX),
            turn: None,
            session: None,
        }
    }

    /// A line that nobody understood still belongs to the file's session: that of the lines before it.
    fn rejected(&self, context: &Context<'_>, line: &Line<'_>, reason: &str) -> Record {
        let mut record = context.rejected(line, DECODER, reason);
        record.source_kind = SourceKind::Host;
        record.source_name = "claude-code".into();
        record.agent_name = Some("claude-code".into());
        record.conversation_id = self.session.as_deref().map(str::to_string);
        record
    }

    /// The line's own `promptId`, else its parent's, else that of the latest user line.
    fn turn_of(&mut self, value: &Json) -> Option<Arc<str>> {
        let uuid = value.str_at("uuid");
        let own = short(value.str_at("promptId"));
        if own.is_some() {
            self.turn = own.clone();
        }
        let parent = || value.str_at("parentUuid").and_then(|uuid| self.turns.get(uuid)).cloned();
        let turn = own.or_else(parent).or_else(|| uuid.and(self.turn.clone()))?;
        if let Some(uuid) = uuid {
            self.turns.insert(uuid, turn.clone());
        }
        Some(turn)
    }
}

impl LineDecoder for ClaudeCodeDecoder {
    fn line(&mut self, context: &Context<'_>, line: Line<'_>) -> Vec<Record> {
        let parsed = match json::parse(line.bytes) {
            Ok(parsed) => parsed,
            Err(error) => return vec![self.rejected(context, &line, &error.to_string())],
        };
        let Some(line_type) = parsed.value.str_at("type") else {
            return vec![self.rejected(context, &line, "a session line is an object with a member type")];
        };
        self.session = short(parsed.value.str_at("sessionId")).or(self.session.take());
        let turn = self.turn_of(&parsed.value);
        let read = Read { context, line: &line, parsed: &parsed, line_type, turn };
        match line_type {
            "user" | "assistant" => self.message(&read),
            _ => vec![read.other()],
        }
    }
}

/// One line being read.
struct Read<'a> {
    context: &'a Context<'a>,
    line: &'a Line<'a>,
    parsed: &'a Parsed,
    line_type: &'a str,
    turn: Option<Arc<str>>,
}

impl ClaudeCodeDecoder {
    /// A line with an API message: one record per content block, a person's text blocks together.
    fn message(&mut self, read: &Read<'_>) -> Vec<Record> {
        let content = read.parsed.value.at(&["message", "content"]);
        let blocks = content.map_or(&[][..], Json::items);
        let mut records = Vec::new();
        let mut budget = Budget::default();
        let mut said = false;
        for block in blocks.iter().take(BLOCKS_MAX) {
            if budget.is_spent() {
                budget.leave_out(1);
                continue;
            }
            let part = records.len();
            let record = match block.str_at("type").unwrap_or("block") {
                "tool_use" | "server_tool_use" | "mcp_tool_use" => self.selection(read, part, block),
                kind if kind.ends_with("tool_result") => self.result(read, part, block),
                _ if read.line_type == "user" && said => continue,
                _ if read.line_type == "user" => {
                    said = true;
                    read.user_text(part, joined_text(blocks))
                }
                kind => read.completion(part, kind, block),
            };
            if budget.takes(&record) {
                records.push(record);
            }
        }
        if records.is_empty() {
            let text = content.and_then(Json::as_str).map(str::to_string);
            records.push(match read.line_type {
                "user" => read.user_text(0, text),
                _ => {
                    let mut record = read.record(0, Kind::Completion, "assistant");
                    record.text = text;
                    record
                }
            });
        }
        let gap = records.first().and_then(|first| budget.gap(read.context, read.line, records.len(), DECODER, first));
        records.extend(gap);
        records
    }

    fn selection(&mut self, read: &Read<'_>, part: usize, block: &Json) -> Record {
        let mut record = read.record(part, Kind::Selection, "assistant/tool_use");
        let (server, tool) = block.str_at("name").map_or((None, None), |name| {
            let (server, tool) = split_tool(name);
            (server, Some(tool))
        });
        let server = block.str_at("server_name").or(server);
        record.server_name = server.map(str::to_string);
        record.tool_name = tool.map(str::to_string);
        if let Some(input) = block.member("input") {
            record.arguments = Some(exact(read.line.bytes, input));
            record.arguments_digest = read.context.digest(&input.value);
        }
        if let Some(id) = block.str_at("id") {
            record.tool_call_id = Some(id.into());
            self.tools.insert(id, Tool { server: short(server), name: short(tool) });
        }
        record
    }

    fn result(&self, read: &Read<'_>, part: usize, block: &Json) -> Record {
        let mut record = read.record(part, Kind::Result, &format!("{}/tool_result", read.line_type));
        if let Some(id) = block.str_at("tool_use_id") {
            record.tool_call_id = Some(id.into());
            if let Some(tool) = self.tools.get(id) {
                record.server_name = tool.server.as_deref().map(str::to_string);
                record.tool_name = tool.name.as_deref().map(str::to_string);
            }
        }
        let is_error = block.get("is_error").and_then(Json::as_bool).unwrap_or(false);
        record.tool_is_error = Some(is_error);
        let content = block.member("content");
        if let Some(content) = content {
            record.result = Some(exact(read.line.bytes, content));
            record.result_digest = read.context.digest(&content.value);
        }
        (record.outcome, record.error_type) = match is_error {
            false => (Some(Outcome::Ok), None),
            true => {
                let (outcome, error_type) = refusal(content.map(|member| &member.value));
                (Some(outcome), Some(error_type.to_string()))
            }
        };
        record
    }
}

/// What a failed result's text says about why.
fn refusal(content: Option<&Json>) -> (Outcome, &'static str) {
    let text = match content {
        Some(Json::String(text)) => text.as_str(),
        Some(content) => content.items().first().and_then(|block| block.str_at("text")).unwrap_or_default(),
        None => "",
    };
    let inner = text.strip_prefix("<tool_use_error>");
    let body = inner.unwrap_or(text).trim_start_matches("Error: ");
    let known = REFUSALS.iter().find(|(marker, ..)| match *marker {
        // Only the host's own wrapper makes these words a refusal: a tool may print them too.
        "is still connecting" => inner.is_some() && body.starts_with("No such tool") && body.contains(marker),
        "No such tool available" => inner.is_some() && body.starts_with(marker),
        marker => body.starts_with(marker),
    });
    match known {
        Some((_, outcome, error_type)) => (*outcome, error_type),
        None if inner.is_some() => (Outcome::Error, "tool_use_error"),
        None => (Outcome::Error, "tool_error"),
    }
}

impl Read<'_> {
    fn value(&self) -> &Json {
        &self.parsed.value
    }

    /// A record of this line with everything that all its parts share.
    fn record(&self, part: usize, kind: Kind, name: &str) -> Record {
        let value = self.value();
        let mut record = self.context.part(self.line, part, kind, DECODER);
        record.set_time(time_unix_nano(value.get("timestamp")), self.context.observed_time_unix_us);
        record.source_kind = SourceKind::Host;
        record.source_name = "claude-code".into();
        record.agent_name = Some("claude-code".into());
        record.name = Some(name.into());
        record.conversation_id = value.str_at("sessionId").map(str::to_string);
        record.turn_id = self.turn.as_deref().map(str::to_string);
        if let Some(mode) = value.get("permissionMode") {
            record.authority = Some(Json::Object(vec![member("permissionMode", mode.clone())]).to_string());
        }
        self.add_keys(&mut record);
        set_attributes(&mut record, self.attributes(part), &self.parsed.duplicate_keys);
        record
    }

    fn add_keys(&self, record: &mut Record) {
        let value = self.value();
        let ids = [
            (KeyKind::Message, value.str_at("uuid")),
            (KeyKind::ParentMessage, value.str_at("parentUuid")),
            (KeyKind::Request, value.str_at("requestId")),
            (KeyKind::Response, value.get("message").and_then(|message| message.str_at("id"))),
        ];
        for (kind, id) in ids {
            if let Some(id) = id {
                record.add_key(Key::new(kind, id));
            }
        }
        if let (Some(agent), Some(session)) = (value.str_at("agentId"), value.str_at("sessionId")) {
            record.add_key(Key::scoped(KeyKind::Agent, session, agent));
        }
    }

    /// Part 0 keeps everything without a column; further parts only where they were run.
    fn attributes(&self, part: usize) -> Vec<Member> {
        let value = self.value();
        if part > 0 {
            let keep = ["version", "cwd", "gitBranch"];
            return keep.iter().filter_map(|key| value.member(key).cloned()).collect();
        }
        let mut members = without(value, TAKEN);
        members.retain(|member| !self.is_text(member));
        let blocks = value.at(&["message", "content"]).map_or(0, |content| content.items().len());
        if blocks > BLOCKS_MAX {
            members.push(member("blocks_without_record", Json::Number((blocks - BLOCKS_MAX).to_string().into())));
        }
        if let Some(message @ Json::Object(_)) = value.get("message") {
            let rest = without(message, &["content", "id", "role", "type"]);
            if !rest.is_empty() {
                members.push(member("message", Json::Object(rest)));
            }
        }
        if let Some(result) = value.get("toolUseResult").filter(|result| !self.repeats_content(result)) {
            members.push(member("toolUseResult", result.clone()));
        }
        members
    }

    /// Whether [`Read::other`] puts this member into the text column.
    fn is_text(&self, member: &Member) -> bool {
        let exchange = matches!(self.line_type, "user" | "assistant");
        !exchange && TEXT.contains(&member.key.as_str()) && member.value.as_str().is_some()
    }

    /// Whether `toolUseResult` says only what the one result block says.
    fn repeats_content(&self, result: &Json) -> bool {
        match self.value().at(&["message", "content"]).map(Json::items) {
            Some([block]) => block.get("content") == Some(result),
            _ => false,
        }
    }

    fn user_text(&self, part: usize, text: Option<String>) -> Record {
        let flag = |name: &str| self.value().get(name).and_then(Json::as_bool).unwrap_or(false);
        let written_by_program = flag("isMeta")
            || flag("isCompactSummary")
            || text.as_deref().is_some_and(|text| SYNTHETIC.iter().any(|prefix| text.starts_with(prefix)));
        let kind = if written_by_program { Kind::Log } else { Kind::Prompt };
        let mut record = self.record(part, kind, "user");
        if text.as_deref().is_some_and(|text| text.starts_with("[Request interrupted by user")) {
            record.outcome = Some(Outcome::Cancelled);
        }
        record.text = text;
        record
    }

    fn completion(&self, part: usize, block_type: &str, block: &Json) -> Record {
        let mut record = self.record(part, Kind::Completion, &format!("assistant/{block_type}"));
        record.text = block.str_at("text").or_else(|| block.str_at("thinking")).map(str::to_string);
        record
    }

    /// A line that is not part of the exchange with the model.
    fn other(&self) -> Record {
        let value = self.value();
        let kind = match self.line_type {
            "summary" | "last-prompt" | "mode" | "permission-mode" | "custom-title" | "ai-title" => Kind::Session,
            _ => Kind::Log,
        };
        let detail = [value.at(&["attachment", "type"]), value.get("subtype"), value.get("operation")];
        let name = match detail.into_iter().flatten().find_map(Json::as_str) {
            Some(detail) => format!("{}/{detail}", self.line_type),
            None => self.line_type.to_string(),
        };
        let mut record = self.record(0, kind, &name);
        let text = TEXT.iter().find_map(|key| value.str_at(key));
        record.text = text.map(str::to_string);
        record
    }
}

#[cfg(test)]
mod tests;
