//! What Gemini CLI exports: events `gemini_cli.<event>` and spans with `gen_ai.tool.call_id`.
//!
//! NOT SEEN LIVE: written after its source and documentation (state: August 2026), without a recording of the program.
//! A tool call's log event has no id of the model's choice; only its span has.

use super::mapping::Reading;
use super::spans;
use crate::decode::transcript::member;
use crate::json::Json;
use crate::record::{Decision, Kind, Outcome};

/// Sets kind and the columns that come with it.
pub(super) fn map(reading: &mut Reading<'_>) {
    match reading.item.span_kind() {
        Some(_) => spans::map(reading),
        None => event(reading),
    }
    reading.record.agent_name.get_or_insert_with(|| "gemini-cli".into());
}

fn event(reading: &mut Reading<'_>) {
    let Some(name) = reading.item.first(&["event.name"]).or(Some(reading.item.name.as_str())) else {
        return;
    };
    let Some(event) = name.strip_prefix("gemini_cli.") else {
        return spans::map(reading);
    };
    reading.record.name = Some(name.to_string());
    reading.record.turn_id = reading.take(&["prompt_id"]);
    reading.record.kind = match event {
        "config" | "conversation_finished" => Kind::Session,
        "user_prompt" => Kind::Prompt,
        "tool_call" => Kind::Result,
        "api_request" | "api_response" | "api_error" => Kind::ModelRequest,
        "conseca.verdict" => Kind::Decision,
        "ide_connection" => Kind::Connection,
        _ => Kind::Log,
    };
    reading.take_duration("duration_ms");
    match (reading.record.kind, event) {
        (Kind::Session, "config") => authority(reading),
        // The body only counts its characters.
        (Kind::Prompt, _) => reading.record.text = reading.take(&["prompt"]),
        (Kind::Result, _) => tool_call(reading),
        (Kind::Decision, _) => verdict(reading),
        (Kind::ModelRequest, _) => model(reading, event),
        _ => {}
    }
}

/// What the agent may do in this session.
fn authority(reading: &mut Reading<'_>) {
    let given = ["approval_mode", "sandbox_enabled", "mcp_servers"];
    let members: Vec<_> =
        given.iter().filter_map(|key| Some(member(key, reading.item.attribute(key)?.clone()))).collect();
    reading.record.authority = (!members.is_empty()).then(|| Json::Object(members).to_string());
}

/// One event for choice, decision and outcome of a call.
fn tool_call(reading: &mut Reading<'_>) {
    reading.record.server_name = reading.take(&["mcp_server_name"]);
    let name = reading.take(&["function_name"]);
    let server = reading.record.server_name.as_deref();
    reading.record.tool_name = name.map(|name| server.map_or(&*name, |server| without_server(&name, server)).into());
    reading.take_arguments(&["function_args"]);
    reading.record.tool_is_error = reading.success("success").map(|success| !success);
    reading.record.error_type = reading.take(&["error_type"]).or(reading.record.error_type.take());
    if let Some(error) = reading.take(&["error", "error.message"]) {
        reading.record.text = Some(error);
    }
    let (decision, by) = match reading.item.text("decision") {
        Some("auto_accept") => (Decision::Allow, "config"),
        Some("accept" | "modify") => (Decision::Allow, "user"),
        Some("reject") => (Decision::Deny, "user"),
        _ => return,
    };
    reading.record.decision = Some(decision);
    reading.record.decision_by = Some(by.into());
    if decision == Decision::Deny {
        reading.record.outcome = Some(Outcome::Denied);
        reading.record.tool_is_error = None;
    }
}

/// The tool's own name: the agent puts that of the server before it, in a form that its releases changed.
fn without_server<'a>(name: &'a str, server: &str) -> &'a str {
    let forms = [("mcp__", "__"), ("mcp_", "_"), ("", "__")];
    let tool = forms.iter().find_map(|(before, after)| {
        name.strip_prefix(before)?.strip_prefix(server)?.strip_prefix(after).filter(|tool| !tool.is_empty())
    });
    tool.unwrap_or(name)
}

fn verdict(reading: &mut Reading<'_>) {
    reading.record.tool_name = reading.take(&["tool_name", "function_name"]);
    reading.record.decision = match reading.item.text("verdict").or(reading.item.text("decision")) {
        Some("allow" | "allowed" | "ALLOW") => Some(Decision::Allow),
        Some("deny" | "denied" | "DENY" | "block") => Some(Decision::Deny),
        Some("ask" | "ask_user" | "ASK_USER") => Some(Decision::Ask),
        _ => None,
    };
    reading.record.decision_by = Some("conseca".into());
}

fn model(reading: &mut Reading<'_>, event: &str) {
    reading.record.target = reading.take(&["model"]);
    match event {
        "api_error" => {
            reading.record.outcome = Some(Outcome::Error);
            reading.record.error_type = reading.take(&["error_type"]).or(reading.record.error_type.take());
            reading.record.text = reading.take(&["error", "error.message"]);
        }
        "api_response" => {
            reading.record.outcome.get_or_insert(Outcome::Ok);
            reading.record.result = reading.take_document(&["response_text"]);
        }
        _ => reading.record.arguments = reading.take_document(&["request_text"]),
    }
}
