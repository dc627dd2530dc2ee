//! How an exchange ended: the layers kept apart, and one word for all of them.

use super::message::exact_text;
use super::parts::Parts;
use super::{Frame, McpDecoder, content, request_state_key, task};
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
        record.outcome = Some(Outcome::Ok);
        if task::created(result).is_some() {
            // A handle says nothing yet.
            record.outcome = None;
        } else if result.get("taskId").is_some() && result.get("status").is_some() {
            self.task_status(record, result);
        } else if record.kind == Kind::Result {
            tool_outcome(record, result);
        }
        if matches!(record.kind, Kind::Elicitation | Kind::Approval) {
            verdict(record, result);
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

impl McpDecoder {
    /// A task as `tasks/get` and notifications give it; in 2026-07-28 with its outcome inside.
    pub(super) fn task_status(&self, record: &mut Record, task: &Json) {
        record.outcome = task::outcome(task.str_at("status"));
        let Some(id) = task.str_at("taskId") else { return };
        if let Some(result) = task.get("result") {
            if record.kind != Kind::Notification {
                record.kind = self.kind_of_task(id).unwrap_or(record.kind);
            }
            if self.kind_of_task(id) == Some(Kind::Result) {
                tool_outcome(record, result);
            }
        }
        if let Some(error) = task.get("error") {
            record.rpc_error_code = error.get("code").and_then(Json::as_i64);
            record.error_type = record.rpc_error_code.map(|code| code.to_string());
        }
    }
}

/// `isError` of a tool's result.
fn tool_outcome(record: &mut Record, result: &Json) {
    let is_error = result.get("isError").and_then(Json::as_bool).unwrap_or(false);
    record.tool_is_error = Some(is_error);
    if is_error {
        record.outcome = Some(Outcome::Error);
        record.error_type = Some("tool_error".into());
    }
}

/// The action by which an elicitation was answered.
fn verdict(record: &mut Record, result: &Json) {
    let (decision, outcome) = match result.str_at("action") {
        Some("accept") => (Decision::Allow, Outcome::Ok),
        Some("decline") => (Decision::Deny, Outcome::Denied),
        Some("cancel") => (Decision::Cancel, Outcome::Cancelled),
        _ => return,
    };
    record.kind = Kind::Approval;
    record.decision = Some(decision);
    record.decision_by = Some("user".into());
    record.outcome = Some(outcome);
}

/// URL elicitation required (2025-11-25): the call waits for the user.
pub(super) const URL_ELICITATION_REQUIRED: i64 = -32042;

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
