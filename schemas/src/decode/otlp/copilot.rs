//! What VS Code Copilot Chat exports: spans by the conventions, and events `copilot_chat.<event>`.
//!
//! NOT SEEN LIVE: written after its source (state: March 2026), without a recording of the program.

use super::mapping::Reading;
use super::spans;
use crate::json::Json;
use crate::record::Kind;

/// Sets kind and the columns that come with it.
pub(super) fn map(reading: &mut Reading<'_>) {
    let item = reading.item;
    let event = item.text("event.name").unwrap_or(&item.name).strip_prefix("copilot_chat.");
    match (item.span_kind(), event) {
        (None, Some(event)) => self::event(reading, event),
        _ => spans::map(reading),
    }
    reading.record.agent_name.get_or_insert_with(|| "copilot-chat".into());
    if reading.record.conversation_id.is_none() {
        reading.record.conversation_id = reading.take(&["copilot_chat.session_id"]);
    }
    // What the user typed, on the span of the agent's turn.
    if reading.record.kind == Kind::Span && reading.record.text.is_none() {
        reading.record.text = reading.take(&["copilot_chat.user_request"]);
    }
    if reading.item.attribute("copilot_chat.canceled").and_then(Json::as_bool) == Some(true) {
        reading.record.outcome = Some(crate::record::Outcome::Cancelled);
    }
}

fn event(reading: &mut Reading<'_>, event: &str) {
    reading.record.name = Some(format!("copilot_chat.{event}"));
    reading.record.kind = match event {
        "session.start" => Kind::Session,
        "tool.call" => Kind::Result,
        _ => Kind::Log,
    };
    reading.take_duration("duration_ms");
    if reading.record.kind == Kind::Result {
        reading.record.tool_name = reading.take(&["gen_ai.tool.name"]);
        reading.record.tool_is_error = reading.success("success").map(|success| !success);
    }
}
