//! What a field of a profile sets: a column of the record, or one of the facts beside it.

use super::extract::Extract;
use crate::columns::Record;

/// A place for text in a record.
type TextColumn = fn(&mut Record) -> &mut Option<String>;

/// What a field sets.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    Time,
    Duration,
    SourceName,
    SourceKind,
    SourceSequence,
    Text(TextColumn),
    /// Text that may be empty and still says something.
    Content(TextColumn),
    /// A JSON value or its text.
    Structure(TextColumn),
    Kind,
    Direction,
    Outcome,
    Decision,
    RpcErrorCode,
    ToolIsError,
    ToolName,
    TraceId,
    SpanId,
    ParentSpanId,
    Traceparent,
    RpcId,
    Arguments,
    Result,
    RequestState,
    Emitter,
    ArgumentsSha256,
    ArgumentsBytes,
    ArgumentsHead,
    ResultSha256,
    ResultBytes,
}

/// Every field, in the order in which they are set: what is said outright goes before what is derived.
pub(super) const TARGETS: &[(&str, Target)] = &[
    ("time", Target::Time),
    ("duration", Target::Duration),
    ("source_name", Target::SourceName),
    ("source_kind", Target::SourceKind),
    ("source_sequence", Target::SourceSequence),
    ("name", Target::Text(|r| &mut r.name)),
    ("kind", Target::Kind),
    ("direction", Target::Direction),
    ("server_name", Target::Text(|r| &mut r.server_name)),
    ("tool_name", Target::ToolName),
    ("target", Target::Text(|r| &mut r.target)),
    ("transport_status", Target::Text(|r| &mut r.transport_status)),
    ("rpc_error_code", Target::RpcErrorCode),
    ("tool_is_error", Target::ToolIsError),
    ("error_type", Target::Text(|r| &mut r.error_type)),
    ("decision", Target::Decision),
    ("decision_by", Target::Text(|r| &mut r.decision_by)),
    ("user_claimed", Target::Text(|r| &mut r.user_claimed)),
    ("agent_name", Target::Text(|r| &mut r.agent_name)),
    ("client_name", Target::Text(|r| &mut r.client_name)),
    ("authority", Target::Structure(|r| &mut r.authority)),
    ("trace_id", Target::TraceId),
    ("span_id", Target::SpanId),
    ("parent_span_id", Target::ParentSpanId),
    ("traceparent", Target::Traceparent),
    ("conversation_id", Target::Text(|r| &mut r.conversation_id)),
    ("turn_id", Target::Text(|r| &mut r.turn_id)),
    ("tool_call_id", Target::Text(|r| &mut r.tool_call_id)),
    ("rpc_id", Target::RpcId),
    ("connection_id", Target::Text(|r| &mut r.connection_id)),
    ("text", Target::Content(|r| &mut r.text)),
    ("arguments", Target::Arguments),
    ("result", Target::Result),
    ("outcome", Target::Outcome),
    ("request_state", Target::RequestState),
    ("emitter", Target::Emitter),
    ("arguments_sha256", Target::ArgumentsSha256),
    ("arguments_bytes", Target::ArgumentsBytes),
    ("arguments_head", Target::ArgumentsHead),
    ("result_sha256", Target::ResultSha256),
    ("result_bytes", Target::ResultBytes),
];

/// One field of a rule.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) target: Target,
    pub(super) extract: std::sync::Arc<Extract>,
    /// Without it the line is refused.
    pub(super) is_required: bool,
}

/// Place of a field in [`TARGETS`].
pub(super) fn position(name: &str) -> Option<usize> {
    TARGETS.iter().position(|(known, _)| *known == name)
}
