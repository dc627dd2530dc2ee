//! What Codex exports: events whose name is in the attribute `event.name` (scope
//! `codex_otel.log_only`), and a thousand spans per turn of which `mcp.tools.call` is the MCP call.
//!
//! Times of its events are zero (see the head of [`super`]); flags and durations are text.

use super::mapping::Reading;
use super::spans;
use crate::decode::transcript::{member, split_tool};
use crate::json::Json;
use crate::record::{Decision, Kind, Outcome};

/// Sets kind and the columns that come with it.
pub(super) fn map(reading: &mut Reading<'_>) {
    match reading.item.span_kind() {
        Some(_) if reading.item.name == "mcp.tools.call" || reading.item.text("mcp.method.name").is_some() => {
            spans::map(reading);
            // What Codex calls the error of a tool that answered with `isError`.
            if reading.record.error_type.as_deref() == Some("tool_result") {
                reading.record.tool_is_error = Some(true);
            }
        }
        Some(_) => {}
        None => event(reading),
    }
    reading.record.agent_name = Some("codex".into());
}

fn event(reading: &mut Reading<'_>) {
    let Some(event) = reading.item.text("event.name") else {
        return;
    };
    reading.record.name = Some(event.to_string());
    reading.record.kind = match event {
        "codex.conversation_starts" => Kind::Session,
        "codex.user_prompt" => Kind::Prompt,
        "codex.api_request" | "codex.websocket_request" => Kind::ModelRequest,
        "codex.tool_decision" => Kind::Decision,
        "codex.tool_result" => Kind::Result,
        _ => Kind::Log,
    };
    reading.take_duration("duration_ms");
    match reading.record.kind {
        Kind::Session => authority(reading),
        Kind::Prompt => reading.record.text = reading.take(&["prompt"]),
        Kind::ModelRequest => reading.http_status(),
        Kind::Decision => decision(reading),
        Kind::Result => result(reading),
        _ => {}
    }
}

/// What the agent may do in this conversation.
fn authority(reading: &mut Reading<'_>) {
    let given = ["approval_policy", "sandbox_policy"];
    let members: Vec<_> =
        given.iter().filter_map(|key| Some(member(key, reading.item.attribute(key)?.clone()))).collect();
    reading.record.authority = (!members.is_empty()).then(|| Json::Object(members).to_string());
}

/// `mcp_server` is empty for a call that never happened; the namespace still names the server.
fn tool(reading: &mut Reading<'_>) {
    let item = reading.item;
    let (in_name, tool) = item.text("tool_name").map_or((None, None), |name| {
        let (server, tool) = split_tool(name);
        (server, Some(tool))
    });
    let namespace = item.text("tool_namespace").and_then(|space| space.strip_prefix("mcp__"));
    let server = item.text("mcp_server").or(namespace).or(in_name);
    reading.record.server_name = server.map(str::to_string);
    reading.record.tool_name = tool.map(str::to_string);
}

fn decision(reading: &mut Reading<'_>) {
    tool(reading);
    let (decision, outcome) = match reading.item.text("decision").unwrap_or_default() {
        word if word.starts_with("approved") => (Some(Decision::Allow), Some(Outcome::Ok)),
        "denied" | "timed_out" => (Some(Decision::Deny), Some(Outcome::Denied)),
        "abort" => (Some(Decision::Cancel), Some(Outcome::Cancelled)),
        _ => (None, None),
    };
    reading.record.decision = decision;
    reading.record.outcome = outcome;
    reading.record.decision_by = reading.take(&["source"]);
}

fn result(reading: &mut Reading<'_>) {
    tool(reading);
    reading.record.source_sequence = reading.item.attribute("tool_result_seq").and_then(Json::as_i64);
    reading.record.tool_is_error = reading.success("success").map(|success| !success);
    reading.take_arguments(&["arguments"]);
    if reading.item.text("output").is_some_and(|text| text.starts_with("unsupported call:")) {
        reading.record.error_type = Some("unsupported_call".into());
    }
    reading.take_result(&["output"]);
}
