//! What a client says in `params._meta`: the host's ids, trace context, and who it claims to be.
//!
//! Everything here is a claim of the sender. `_meta` itself stays verbatim in `attributes`.

use crate::columns::Record;
use crate::json::Json;
use crate::keys::{Key, KeyKind};

/// Claude Code and Codex: the model's id of the tool use.
const TOOL_CALL: &[&str] = &["claudecode/toolUseId", "callId"];

/// Sets the columns and keys that `_meta` of a request or notification gives.
pub(super) fn apply(meta: &Json, record: &mut Record) {
    let text = |value: &Json, key: &str| value.str_at(key).map(str::to_string);
    record.tool_call_id = TOOL_CALL.iter().find_map(|key| text(meta, key));
    let turn = meta.get("x-codex-turn-metadata").unwrap_or(&Json::Null);
    record.turn_id = text(turn, "turn_id");
    let conversations =
        [text(meta, "threadId"), text(meta, "sessionId"), text(turn, "thread_id"), text(turn, "session_id")];
    for id in conversations.into_iter().flatten() {
        record.add_key(Key::new(KeyKind::Conversation, &id));
        record.conversation_id.get_or_insert(id);
    }
    if let Some((trace, span)) = meta.str_at("traceparent").and_then(parse_traceparent) {
        record.trace_id = Some(trace);
        record.parent_span_id = Some(span);
    }
}

/// `name version` of a clientInfo or serverInfo object.
pub(crate) fn implementation(info: &Json) -> Option<String> {
    let name = info.str_at("name")?;
    Some(info.str_at("version").map_or_else(|| name.to_string(), |version| format!("{name} {version}")))
}

/// Trace id and span id of a W3C `traceparent`. Flags may be anything; a version above 00 is read by
/// its prefix; all-zero ids and version ff are invalid.
pub fn parse_traceparent(text: &str) -> Option<(String, String)> {
    let mut fields = text.trim().split('-');
    let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let is_hex = |field: &str, length| field.len() == length && field.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_set = |field: &str| field.bytes().any(|byte| byte != b'0');
    let is_valid = is_hex(version, 2)
        && !version.eq_ignore_ascii_case("ff")
        && is_hex(trace, 32)
        && is_hex(span, 16)
        && is_hex(flags, 2)
        && is_set(trace)
        && is_set(span)
        && (version != "00" || fields.next().is_none());
    is_valid.then(|| (trace.to_ascii_lowercase(), span.to_ascii_lowercase()))
}
