//! What Claude Code exports: events (scope `com.anthropic.claude_code.events`) and beta spans (scope
//! `com.anthropic.claude_code.tracing`). Flags and durations are often text.

use super::mapping::Reading;
use crate::decode::transcript::split_tool;
use crate::json::{self, Json};
use crate::record::{Decision, Kind, Outcome};

/// Sets kind and the columns that come with it.
pub(super) fn map(reading: &mut Reading<'_>) {
    reading.record.agent_name = Some("claude-code".into());
    match reading.item.span_kind() {
        Some(_) => span(reading),
        None => event(reading),
    }
}

fn event(reading: &mut Reading<'_>) {
    let Some(event) = reading.item.text("event.name") else {
        return;
    };
    reading.record.name = Some(format!("claude_code.{event}"));
    reading.record.source_sequence = reading.item.attribute("event.sequence").and_then(Json::as_i64);
    // The body only repeats the name.
    reading.record.text = reading.record.text.take().filter(|text| Some(text) != reading.record.name.as_ref());
    reading.record.kind = match event {
        "user_prompt" => Kind::Prompt,
        "assistant_response" => Kind::Completion,
        "api_request" | "api_error" | "api_refusal" => Kind::ModelRequest,
        "tool_decision" => Kind::Decision,
        "tool_result" => Kind::Result,
        "mcp_server_connection" => Kind::Connection,
        "auth" => Kind::Auth,
        _ => Kind::Log,
    };
    reading.take_duration("duration_ms");
    match reading.record.kind {
        Kind::Prompt => reading.record.text = reading.take(&["prompt"]),
        Kind::Completion => reading.record.text = reading.take(&["response"]),
        Kind::ModelRequest if event != "api_request" => {
            reading.record.outcome = Some(Outcome::Error);
            reading.record.text = reading.take(&["error"]);
        }
        Kind::Decision => decision(reading),
        Kind::Result => result(reading),
        Kind::Connection => connection(reading),
        _ => {}
    }
}

/// `tool_name` is the constant `mcp_tool`; the real names are JSON in `tool_parameters`.
fn tool(reading: &mut Reading<'_>) {
    let given = reading.item.text("tool_parameters").and_then(|text| json::parse(text.as_bytes()).ok());
    let parameter = |key: &str| given.as_ref().and_then(|given| given.value.str_at(key)).map(str::to_string);
    let (server, tool) = (parameter("mcp_server_name"), parameter("mcp_tool_name"));
    if tool.is_some() {
        (reading.record.server_name, reading.record.tool_name) = (server, tool);
    } else if let Some(name) = reading.item.text("tool_name").filter(|name| *name != "mcp_tool") {
        let (server, tool) = split_tool(name);
        reading.record.server_name = server.map(str::to_string);
        reading.record.tool_name = Some(tool.to_string());
    }
}

fn decision(reading: &mut Reading<'_>) {
    tool(reading);
    reading.record.decision = match reading.item.text("decision") {
        Some("accept") => Some(Decision::Allow),
        Some("reject") => Some(Decision::Deny),
        _ => None,
    };
    reading.record.outcome = match reading.record.decision {
        Some(Decision::Deny) => Some(Outcome::Denied),
        Some(_) => Some(Outcome::Ok),
        None => None,
    };
    reading.record.decision_by = reading.take(&["source"]);
}

fn result(reading: &mut Reading<'_>) {
    tool(reading);
    reading.record.tool_is_error = reading.success("success").map(|success| !success);
    reading.record.error_type = reading.take(&["error_type"]).or(reading.record.error_type.take());
    reading.record.text = reading.take(&["error"]);
    reading.take_arguments(&["tool_input"]);
}

fn connection(reading: &mut Reading<'_>) {
    reading.record.server_name = reading.take(&["server_name"]);
    reading.record.outcome = match reading.item.text("status") {
        Some("connected") => Some(Outcome::Ok),
        Some("failed") => Some(Outcome::Error),
        _ => None,
    };
}

fn span(reading: &mut Reading<'_>) {
    match reading.item.text("span.type").unwrap_or_default() {
        "llm_request" => {
            reading.record.kind = Kind::ModelRequest;
            reading.success("success");
        }
        "tool" => {
            reading.record.kind = Kind::Call;
            tool(reading);
        }
        "tool.execution" => {
            reading.record.kind = Kind::Call;
            reading.record.tool_is_error = reading.success("success").map(|success| !success);
            if reading.record.text.is_none() {
                reading.record.text = reading.take(&["error"]);
            }
        }
        "tool.blocked_on_user" if matches!(reading.item.text("decision"), Some("accept" | "reject")) => {
            reading.record.kind = Kind::Decision;
            decision(reading);
        }
        _ => {}
    }
}
