//! The table: which OCSF class, activity, profiles and attributes each kind of record becomes.
//!
//! Rows are tried in order and the first whose condition holds is used; the last row of a kind has no
//! condition. That every kind has such a row is checked when this file is compiled.
//!
//! Choices (OCSF 1.8.0 has no class for prompts, tools or approvals): everything an agent, a model or an
//! MCP peer does is API Activity with the protocol's method as `api.operation`, never the tool's name;
//! what the source has a class for (HTTP, datastore, process, authentication, detection, event log) uses it.

use super::event::Context;
use super::event::fields::*;
use crate::record::{Decision, Kind, Outcome, Record};
use serde_json::Value;

/// Application Activity: API Activity.
pub const API: i64 = 6003;
const LIFECYCLE: i64 = 6002;
const DATASTORE: i64 = 6005;
const HTTP: i64 = 4002;
const FILE: i64 = 1001;
const PROCESS: i64 = 1007;
const EVENT_LOG: i64 = 1008;
const AUTHENTICATION: i64 = 3002;
const AUTHORIZE_SESSION: i64 = 3003;
/// Findings: Detection Finding.
pub const FINDING: i64 = 2004;

const AI: &str = "ai_operation";
const HOST: &str = "host";
const CONTROL: &str = "security_control";
const TRACE: &str = "trace";

/// One row of the table.
#[derive(Debug)]
pub struct Row {
    /// The kind of record.
    pub kind: Kind,
    /// When the row applies.
    pub when: When,
    /// `metadata.event_code`: stable selector for rules, independent of the choice of class.
    pub code: &'static str,
    /// `class_uid`.
    pub class_uid: i64,
    /// `activity_id` and, for 99, `activity_name`.
    pub activity: Activity,
    /// Profiles, in alphabetical order; those that a version or class does not know are left out.
    pub profiles: &'static [&'static str],
    /// `message_context.ai_role_id`: who speaks.
    pub role: Role,
    /// What else is filled in, beside what every event has.
    pub fields: &'static [(&'static str, Field)],
}

/// When a row applies.
pub enum When {
    /// To every record of its kind.
    Always,
    /// To those of which this is true.
    Is(fn(&Record) -> bool),
}

impl std::fmt::Debug for When {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, When::Always) { "Always" } else { "Is" })
    }
}

/// What was done, within a class.
#[derive(Debug, Clone, Copy)]
pub enum Activity {
    /// An activity of the class.
    Known(i64),
    /// 99, with our own word for it.
    Other(&'static str),
    /// The class's activity for what the record says was done; the word is for 99.
    By(fn(&Record) -> i64, &'static str),
}

/// Who acts; `ai_role_id` of the profile `ai_operation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The person.
    User = 1,
    /// The model.
    Assistant = 2,
    /// A tool or its server; the server is then the actor.
    Tool = 3,
    /// The agent program.
    Agent = 4,
}

/// Where an attribute's value comes from.
#[derive(Clone, Copy)]
pub enum Field {
    /// Always this text.
    Text(&'static str),
    /// Always this number.
    Number(i64),
    /// Taken from the occurrence; absent when it says nothing.
    From(fn(&Context<'_>) -> Option<Value>),
}

impl std::fmt::Debug for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Field::Text(text) => write!(f, "{text:?}"),
            Field::Number(number) => write!(f, "{number}"),
            Field::From(_) => f.write_str("From"),
        }
    }
}

/// The row for `record`.
pub fn row(record: &Record) -> &'static Row {
    let applies = |row: &&Row| {
        row.kind == record.kind
            && match row.when {
                When::Always => true,
                When::Is(test) => test(record),
            }
    };
    ROWS.iter().find(applies).unwrap_or(&ROWS[ROWS.len() - 1])
}

/// What a class that a version does not know, or whose requirements the record cannot meet, becomes there.
pub static FALLBACK: &[(&str, Field)] =
    &[("api.operation", Field::From(operation)), ("api.request.uid", Field::From(request_uid))];

const fn rows_cover_every_kind() -> bool {
    let mut kind = 0;
    while kind < Kind::ALL.len() {
        let mut row = 0;
        let mut is_covered = false;
        while row < ROWS.len() {
            is_covered |= ROWS[row].kind as u8 == Kind::ALL[kind] as u8 && matches!(ROWS[row].when, When::Always);
            row += 1;
        }
        if !is_covered {
            return false;
        }
        kind += 1;
    }
    true
}
const _: () = assert!(rows_cover_every_kind(), "a record kind has no row without a condition");

macro_rules! row {
    ($kind:ident, $when:expr, $code:literal, $class:ident, $activity:expr, [$($profile:ident),*], $role:ident,
     {$($path:literal: $value:expr),* $(,)?}) => {
        Row {
            kind: Kind::$kind, when: $when, code: $code, class_uid: $class, activity: $activity,
            profiles: &[$($profile),*], role: Role::$role, fields: &[$(($path, $value)),*],
        }
    };
}

use Activity::{By, Known, Other};
use Field::{From, Number, Text};
use When::{Always, Is};

/// The table.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    row!(Session, Is(is_mode), "agent.session.mode", AUTHORIZE_SESSION, Known(1), [], Agent, {
        "user": From(user_or_unknown), "session": From(session), "privileges": From(privileges),
    }),
    row!(Session, Is(is_end), "agent.session.end", LIFECYCLE, Known(4), [HOST], Agent, {
        "app": From(agent_product), "device": From(device), "status_detail": From(reason),
    }),
    row!(Session, Is(is_start), "agent.session.start", LIFECYCLE, Known(3), [HOST], Agent, {
        "app": From(agent_product), "device": From(device),
    }),
    row!(Session, Always, "agent.session.context", LIFECYCLE, Other("Session Context"), [HOST], Agent, {"app": From(agent_product)}),
    row!(Prompt, Always, "agent.prompt", API, Other("Prompt"), [AI], User, {
        "api.operation": Text("prompt/submit"), "api.request.uid": From(turn_uid), "api.request.data": From(text_data),
    }),
    row!(Completion, Always, "agent.completion", API, Other("Complete"), [AI], Assistant, {
        "api.operation": Text("completion"), "api.request.uid": From(turn_uid), "api.response.data": From(text_data),
    }),
    row!(ModelRequest, Always, "agent.model_request", API, Other("Request Model"), [AI, TRACE], Agent, {
        "api.operation": Text("model/request"), "api.request.uid": From(turn_uid), "ai_model": From(model),
        "message_context.prompt_tokens": From(prompt_tokens), "message_context.completion_tokens": From(completion_tokens),
    }),
    row!(Selection, Always, "agent.tool_selection", API, Other("Select Tool"), [AI], Assistant, {
        "api.operation": Text("tool/select"), "api.request.uid": From(call_uid), "api.request.data": From(arguments_data),
        "resources": From(tool), "ai_model": From(model),
    }),
    row!(Call, Is(is_judged), "mcp.tools.call", API, Other("Invoke"), [AI, CONTROL, TRACE], Agent, {
        "api.operation": Text("tools/call"), "api.request.uid": From(call_uid), "api.request.data": From(arguments_data),
        "api.response": From(response), "resources": From(tool), "http_response": From(http_response),
    }),
    row!(Call, Is(is_over), "mcp.tools.call", API, Other("Invoke"), [AI, TRACE], Agent, {
        "api.operation": Text("tools/call"), "api.request.uid": From(call_uid), "api.request.data": From(arguments_data),
        "api.response": From(response), "resources": From(tool), "http_response": From(http_response),
    }),
    row!(Call, Always, "mcp.tools.call.unanswered", API, Other("Invoke"), [AI, TRACE], Agent, {
        "api.operation": Text("tools/call"), "api.request.uid": From(call_uid), "api.request.data": From(arguments_data),
        "resources": From(tool),
    }),
    row!(Result, Is(is_judged), "mcp.tools.call", API, Other("Invoke"), [AI, CONTROL, TRACE], Agent, {
        "api.operation": Text("tools/call"), "api.request.uid": From(call_uid), "api.request.data": From(arguments_data),
        "api.response": From(response), "resources": From(tool), "http_response": From(http_response),
    }),
    row!(Result, Always, "mcp.tools.call", API, Other("Invoke"), [AI, TRACE], Agent, {
        "api.operation": Text("tools/call"), "api.request.uid": From(call_uid), "api.request.data": From(arguments_data),
        "api.response": From(response), "resources": From(tool), "http_response": From(http_response),
    }),
    row!(Decision, Is(is_deny), "agent.decision.deny", API, Other("Invoke"), [AI, CONTROL], Agent, {
        "api.operation": Text("tools/call"), "api.request.uid": From(call_uid), "resources": From(tool),
    }),
    row!(Decision, Is(is_ask), "agent.decision.ask", API, Other("Approval Requested"), [AI, CONTROL], Agent, {
        "api.operation": Text("tools/call"), "api.request.uid": From(call_uid), "resources": From(tool),
    }),
    row!(Decision, Always, "agent.decision", API, Other("Decide"), [AI, CONTROL], Agent, {
        "api.operation": Text("tools/call"), "api.request.uid": From(call_uid), "resources": From(tool),
    }),
    row!(Approval, Is(is_allow), "agent.approval.granted", API, Other("Approval Granted"), [AI, CONTROL], User, {
        "api.operation": From(operation), "api.request.uid": From(call_uid), "resources": From(tool),
    }),
    row!(Approval, Is(is_ask), "agent.approval.requested", API, Other("Approval Requested"), [AI, CONTROL], Agent, {
        "api.operation": From(operation), "api.request.uid": From(call_uid), "resources": From(tool),
    }),
    row!(Approval, Always, "agent.approval.denied", API, Other("Approval Denied"), [AI, CONTROL], User, {
        "api.operation": From(operation), "api.request.uid": From(call_uid), "resources": From(tool),
    }),
    row!(ToolList, Always, "mcp.tools.list", API, Known(2), [AI], Agent, {
        "api.operation": Text("tools/list"), "api.request.uid": From(request_uid), "api.response": From(response),
    }),
    row!(ToolDefinition, Always, "mcp.tools.definition", API, Known(2), [AI], Tool, {
        "api.operation": Text("tools/list"), "api.request.uid": From(request_uid), "resources": From(tool),
    }),
    row!(Resource, Always, "mcp.resources", API, Known(2), [AI], Agent, {
        "api.operation": From(operation), "api.request.uid": From(request_uid), "api.response": From(response),
        "resources": From(resource),
    }),
    row!(PromptTemplate, Always, "mcp.prompts", API, Known(2), [AI], Agent, {
        "api.operation": From(operation), "api.request.uid": From(request_uid), "api.response": From(response),
        "resources": From(prompt_template),
    }),
    row!(Sampling, Always, "mcp.sampling", API, Other("Sample"), [AI], Tool, {
        "api.operation": Text("sampling/createMessage"), "api.request.uid": From(request_uid), "api.response": From(response),
        "ai_model": From(model),
    }),
    row!(Elicitation, Always, "mcp.elicitation", API, Other("Elicit"), [AI], Tool, {
        "api.operation": Text("elicitation/create"), "api.request.uid": From(request_uid), "api.response": From(response),
    }),
    row!(Request, Always, "mcp.request", API, Other("Request"), [AI], Agent, {
        "api.operation": From(operation), "api.request.uid": From(request_uid), "api.response": From(response),
    }),
    row!(Notification, Always, "mcp.notification", API, Other("Notify"), [AI], Agent, {
        "api.operation": From(operation), "api.request.uid": From(request_uid),
    }),
    row!(Connection, Is(is_end), "mcp.connection.close", API, Known(4), [AI], Agent, {
        "api.operation": From(operation), "api.request.uid": From(request_uid),
    }),
    row!(Connection, Is(is_negotiation), "mcp.connection.open", API, Known(1), [AI], Agent, {
        "api.operation": From(operation), "api.request.uid": From(request_uid), "api.response": From(response),
        "api.version": From(protocol_version), "api.service": From(server),
    }),
    row!(Connection, Always, "mcp.connection", API, Other("Connection"), [AI], Agent, {
        "api.operation": From(operation), "api.request.uid": From(request_uid),
    }),
    row!(Downstream, Is(is_file), "downstream.file", FILE, By(file_activity, "Access"), [], Tool, {
        "file": From(file), "device": From(device),
    }),
    row!(Downstream, Is(is_http), "downstream.http", HTTP, By(http_activity, "Request"), [HOST, TRACE], Tool, {
        "http_request": From(http_request), "http_response": From(http_response), "dst_endpoint": From(downstream_endpoint),
    }),
    row!(Downstream, Always, "downstream.datastore", DATASTORE, By(datastore_activity, "Execute"), [AI], Tool, {
        "database": From(database), "query_info": From(query), "type_id": Number(1), "type": From(datastore_type),
    }),
    row!(Process, Is(is_end), "process.end", PROCESS, Known(2), [AI], Agent, {
        "process": From(process), "device": From(device), "exit_code": From(exit_code),
    }),
    row!(Process, Always, "process.start", PROCESS, Known(1), [AI], Agent, {"process": From(process), "device": From(device)}),
    row!(Auth, Always, "auth", AUTHENTICATION, By(auth_activity, "Authorize"), [], Agent, {
        "user": From(user_or_unknown), "service": From(service), "session": From(session), "auth_protocol_id": Number(6),
        "auth_protocol": Text("OAUTH 2.0"), "authentication_token": From(token),
    }),
    row!(Span, Always, "otel.span", API, Other("Span"), [AI, TRACE], Agent, {
        "api.operation": From(operation), "api.request.uid": From(request_uid), "resources": From(tool),
    }),
    row!(Log, Always, "otel.log", API, Other("Log"), [AI], Agent, {
        "api.operation": From(operation), "api.request.uid": From(request_uid), "api.request.data": From(text_data),
    }),
    row!(Finding, Is(is_definition_change), "mcp.tools.definition_changed", FINDING, Known(1), [], Agent, {
        "finding_info": From(finding), "evidences": From(definitions), "resources": From(tool), "is_alert": From(yes),
    }),
    row!(Finding, Always, "threadline.finding", FINDING, Known(1), [], Agent, {
        "finding_info": From(finding), "resources": From(tool), "is_alert": From(yes),
    }),
    row!(Access, Is(is_export), "threadline.access.export", EVENT_LOG, Known(3), [], User, {
        "log_name": Text("threadline"), "log_type_id": Number(2), "log_type": Text("Application"),
    }),
    row!(Access, Is(is_erasure), "threadline.access.delete", EVENT_LOG, Known(2), [], User, {
        "log_name": Text("threadline"), "log_type_id": Number(2), "log_type": Text("Application"),
    }),
    row!(Access, Is(is_read), "threadline.access.read", DATASTORE, Known(1), [], User, {
        "database": From(own_database), "query_info": From(asked), "type_id": Number(1), "type": From(datastore_type),
        "src_endpoint.ip": From(reader_address),
    }),
    row!(Access, Always, "threadline.access.query", DATASTORE, Known(4), [], User, {
        "database": From(own_database), "query_info": From(asked), "type_id": Number(1), "type": From(datastore_type),
        "src_endpoint.ip": From(reader_address),
    }),
    row!(Gap, Always, "threadline.gap", FINDING, Known(1), [], Agent, {"finding_info": From(finding), "is_alert": From(yes)}),
    row!(Rejected, Always, "threadline.rejected", EVENT_LOG, Other("Reject"), [], Agent, {"log_name": From(origin)}),
];

fn name_has(record: &Record, words: &[&str]) -> bool {
    let name = record.name.as_deref().unwrap_or_default().to_ascii_lowercase();
    words.iter().any(|word| name.contains(word))
}

fn is_start(record: &Record) -> bool {
    name_has(record, &["start", "session_meta", "created"])
}

fn is_end(record: &Record) -> bool {
    name_has(record, &["end", "close", "exit", "stop", "shutdown", "delete"]) && !name_has(record, &["send"])
}

/// What the agent may do without asking is set.
fn is_mode(record: &Record) -> bool {
    matches!(record.name.as_deref(), Some("mode" | "permission-mode"))
}

/// A call or result with a verdict of a policy or person.
fn is_judged(record: &Record) -> bool {
    is_over(record) && (record.decision.is_some() || record.outcome == Some(Outcome::Denied))
}

/// A span tells a call with its end.
fn is_over(record: &Record) -> bool {
    record.outcome.is_some() || record.duration_nano.is_some()
}

fn is_negotiation(record: &Record) -> bool {
    name_has(record, &["initialize", "discover"])
}

fn is_allow(record: &Record) -> bool {
    record.decision == Some(Decision::Allow)
}

fn is_deny(record: &Record) -> bool {
    matches!(record.decision, Some(Decision::Deny | Decision::Cancel))
}

fn is_ask(record: &Record) -> bool {
    matches!(record.decision, Some(Decision::Ask) | None) && record.outcome.is_none()
}

fn is_definition_change(record: &Record) -> bool {
    name_has(record, &["definition_changed"])
}

fn is_file(record: &Record) -> bool {
    file_path(record).is_some()
}

fn is_http(record: &Record) -> bool {
    http_method(record).is_some()
}

/// Something was looked at, not asked for.
fn is_read(record: &Record) -> bool {
    const LOOKED_AT: &[&str] = &["read sessions", "read session", "read event", "read raw", "read links", "read other"];
    record.name.as_deref().is_some_and(|name| LOOKED_AT.contains(&name))
}

fn is_export(record: &Record) -> bool {
    name_has(record, &["export"])
}

fn is_erasure(record: &Record) -> bool {
    name_has(record, &["erasure", "retention", "purge", "delete"])
}
