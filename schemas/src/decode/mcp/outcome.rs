//! How an exchange ended: the layers kept apart, and one word for all of them.

use super::message::exact_text;
use super::parts::Parts;
use super::{Frame, McpDecoder, content, request_state_key};
use crate::columns::Record;
use crate::json::{Json, Member};
use crate::record::{Decision, Kind, Outcome};

impl McpDecoder {
    /// Result, text, outcome and verdict.
    pub(super) fn concluded(&self, record: &mut Record, parts: &Parts<'_>, frame: &Frame<'_>, member: &Member) {
        let result = &member.value;
        record.result = Some(exact_text(frame.message, member));
        record.result_digest = parts.context.digest(result);
        record.text = content::of_result(result);
        let is_task = record.kind == Kind::Result && result.get("task").is_some() && result.get("content").is_none();
        record.outcome = (!is_task).then_some(Outcome::Ok);
        if record.kind == Kind::Result && !is_task {
            let is_error = result.get("isError").and_then(Json::as_bool).unwrap_or(false);
            record.tool_is_error = Some(is_error);
            if is_error {
                record.outcome = Some(Outcome::Error);
                record.error_type = Some("tool_error".into());
            }
        }
        if record.name.as_deref() == Some("elicitation/create") {
            let verdict = match result.str_at("action") {
                Some("accept") => Some((Decision::Allow, Outcome::Ok)),
                Some("decline") => Some((Decision::Deny, Outcome::Denied)),
                Some("cancel") => Some((Decision::Cancel, Outcome::Cancelled)),
                _ => None,
            };
            if let Some((decision, outcome)) = verdict {
                record.kind = Kind::Approval;
                record.decision = Some(decision);
                record.decision_by = Some("user".into());
                record.outcome = Some(outcome);
            }
        }
        if result.str_at("resultType") == Some("input_required") {
            record.outcome = Some(Outcome::InputRequired);
            record.tool_is_error = None;
        }
        if let Some(state) = result.get("requestState").and_then(Json::as_str) {
            record.add_key(request_state_key(state));
        }
    }
}

/// URL elicitation required (2025-11-25): the call waits for the user.
const URL_ELICITATION_REQUIRED: i64 = -32042;

/// The outcome of a JSON-RPC error: `denied` when it refuses authorization.
pub(crate) fn error_outcome(code: Option<i64>, message: Option<&str>, http_status: Option<&str>) -> Outcome {
    const REFUSALS: &[&str] = &[
        "unauthorized",
        "unauthorised",
        "forbidden",
        "access denied",
        "permission denied",
        "not authorized",
        "not authorised",
        "insufficient scope",
        "insufficient_scope",
    ];
    let message = message.unwrap_or_default().to_ascii_lowercase();
    if matches!(http_status, Some("401" | "403")) || REFUSALS.iter().any(|refusal| message.contains(refusal)) {
        return Outcome::Denied;
    }
    if code == Some(URL_ELICITATION_REQUIRED) { Outcome::InputRequired } else { Outcome::Error }
}
