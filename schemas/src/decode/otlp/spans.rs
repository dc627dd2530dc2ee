//! What a span or log record means by the conventions: MCP, GenAI, HTTP and database attributes, and
//! the names that SDKs and gateways use instead, old ones beside new ones. Models: [`super::genai`].
//!
//! | what | now | before, elsewhere |
//! | --- | --- | --- |
//! | method | `mcp.method.name` | `rpc.method` of `rpc.system` `jsonrpc` or `mcp`, `mcp.method`, `mcp.request.method`, span `<method>.mcp` |
//! | JSON-RPC id | `jsonrpc.request.id` | `rpc.jsonrpc.request_id`, `mcp.request.id` |
//! | error code | `rpc.response.status_code` | `rpc.jsonrpc.error_code`, `mcp.error.code` |
//! | tool | `gen_ai.tool.name` | `mcp.tool.name`, `tool.name`, `traceloop.entity.name` |
//! | prompt, resource | `gen_ai.prompt.name`, `mcp.resource.uri` | `mcp.prompt.name`, `mcp.resource.id` |
//! | arguments | `gen_ai.tool.call.arguments` | `mcp.tool.arguments`, `input.value`, `traceloop.entity.input` |
//! | result | `gen_ai.tool.call.result` | `mcp.tool.result`, `output.value`, `traceloop.entity.output` |
//!
//! A nested client span of the same call (fastmcp above `MCP send ..`) is a record of its own; that
//! the two are one call is seen by trace and parent, not here.

use super::genai;
use super::item::{KIND_CLIENT, KIND_PRODUCER};
use super::mapping::Reading;
use crate::decode::mcp::method::{is_known, request_kind};
use crate::json::{self, Json};
use crate::record::{Kind, Outcome, SourceKind};

/// The kind of record for an MCP method, as for a frame.
fn kind_of_method(method: &str) -> Kind {
    if method.starts_with("notifications/") { Kind::Notification } else { request_kind(method) }
}

/// Sets kind and the columns that come with it.
pub(super) fn map(reading: &mut Reading<'_>) {
    if reading.item.span_kind().is_none() {
        return log(reading);
    }
    if let Some(method) = mcp_method(reading) {
        return mcp(reading, &method);
    }
    if is_traceloop_tool(reading) {
        return traceloop_tool(reading);
    }
    if reading.record.source_kind == SourceKind::Gateway && gateway(reading) {
        return;
    }
    if genai::is_model_request(reading.item) {
        genai::model_request(reading);
        return;
    }
    match reading.item.text("gen_ai.operation.name") {
        Some("execute_tool") => call(reading),
        Some(_) => {}
        None if reading.item.text("openinference.span.kind") == Some("TOOL") => call(reading),
        None if reading.item.text("traceloop.span.kind") == Some("agent") => {
            reading.record.agent_name = reading.take(&["traceloop.entity.name"]);
        }
        None if is_downstream(reading) => downstream(reading),
        None => reading.http_status(),
    }
}

fn log(reading: &mut Reading<'_>) {
    let name = reading.item.text("event.name").unwrap_or(&reading.item.name);
    match name {
        "gen_ai.client.inference.operation.details" => genai::model_request(reading),
        "gen_ai.client.operation.exception" => {
            reading.record.kind = Kind::ModelRequest;
            reading.record.outcome = Some(Outcome::Error);
        }
        _ => _ = genai::message_event(reading, name),
    }
    if !name.is_empty() {
        reading.record.name = Some(name.to_string());
    }
}

/// `mcp.method.name`; `rpc.method` of JSON-RPC where it is an MCP method; a span `<method>.mcp`.
fn mcp_method(reading: &Reading<'_>) -> Option<String> {
    let item = reading.item;
    if let Some(method) = item.first(&["mcp.method.name", "mcp.request.method", "mcp.method"]) {
        return Some(method.to_string());
    }
    if reading.shared.scope.starts_with("opentelemetry.instrumentation.mcp") {
        return item.name.strip_suffix(".mcp").map(str::to_string);
    }
    let method = item.text("rpc.method")?;
    // Some write the method behind the service: `mcp/tools/call`.
    let method = method.strip_prefix("mcp/").unwrap_or(method);
    is_known(method).then(|| method.to_string())
}

fn mcp(reading: &mut Reading<'_>, method: &str) {
    reading.record.kind = kind_of_method(method);
    reading.record.server_name = reading.take(&["mcp.server.name", "fastmcp.server.name", "mcp.backend.name"]);
    match reading.record.kind {
        Kind::Call => call(reading),
        Kind::Resource => reading.record.target = reading.take(&["mcp.resource.uri", "mcp.resource.id"]),
        Kind::PromptTemplate => {
            reading.record.target = reading.take(&["gen_ai.prompt.name", "mcp.prompt.name"]);
        }
        _ => {}
    }
}

/// A tool call: names, payloads and `tool_error`, which is MCP's `isError`.
fn call(reading: &mut Reading<'_>) {
    reading.record.kind = Kind::Call;
    let named = reading.take(&["gen_ai.tool.name", "mcp.tool.name", "tool.name"]);
    let in_span_name = || reading.item.name.split_once("tools/call ").map(|(_, tool)| tool.to_string());
    reading.record.tool_name = named.or_else(in_span_name);
    reading.take_arguments(&["gen_ai.tool.call.arguments", "mcp.tool.arguments", "input.value"]);
    reading.take_result(&["gen_ai.tool.call.result", "mcp.tool.result", "output.value"]);
    if reading.record.error_type.as_deref() == Some("tool_error") {
        reading.record.tool_is_error = Some(true);
    }
}

fn is_traceloop_tool(reading: &Reading<'_>) -> bool {
    reading.item.text("traceloop.span.kind") == Some("tool")
}

/// Payloads are JSON in strings: `{"tool_name", "arguments"}` and `{"result", "is_error"}`.
fn traceloop_tool(reading: &mut Reading<'_>) {
    call(reading);
    reading.record.tool_name = reading.take(&["traceloop.entity.name"]).or(reading.record.tool_name.take());
    let (input, whole_digest) = reading.take_payload(&["traceloop.entity.input"]);
    let inner = input.as_deref().and_then(|text| inner(text, "arguments"));
    reading.record.arguments_digest = match &inner {
        Some(arguments) => reading.context.digest_text(Some(arguments)),
        None => whole_digest,
    };
    reading.record.arguments = inner.or(input);
    let (output, digest) = reading.take_payload(&["traceloop.entity.output"]);
    let is_error = output.as_deref().and_then(|text| json::parse(text.as_bytes()).ok());
    let is_error = is_error.and_then(|parsed| parsed.value.get("is_error").and_then(Json::as_bool));
    reading.record.tool_is_error = is_error.or(reading.record.tool_is_error);
    (reading.record.result, reading.record.result_digest) = (output, digest);
}

/// The exact text of one member of a JSON text.
fn inner(text: &str, key: &str) -> Option<String> {
    let parsed = json::parse(text.as_bytes()).ok()?;
    let span = parsed.value.member(key)?.span.clone();
    text.get(span).map(str::to_string)
}

/// Span names of ContextForge. `false` when the span is none of them.
fn gateway(reading: &mut Reading<'_>) -> bool {
    let kind = match reading.item.name.as_str() {
        "tool.invoke" | "mcp.client.call" => Kind::Call,
        "tool.list" => Kind::ToolList,
        "resource.list" | "resource.read" => Kind::Resource,
        "prompt.list" | "prompt.render" => Kind::PromptTemplate,
        "mcp.initialize" => Kind::Connection,
        _ => return false,
    };
    if kind == Kind::Call {
        call(reading);
    }
    reading.record.kind = kind;
    reading.record.target = reading.take(&["resource.uri", "prompt.id"]);
    reading.success("success");
    true
}

/// Work that a server has done elsewhere. A host's own HTTP requests are not behind a server.
fn is_downstream(reading: &Reading<'_>) -> bool {
    let has = |keys: &[&str]| keys.iter().any(|key| reading.item.attribute(key).is_some());
    let behind =
        matches!(reading.record.source_kind, SourceKind::Server | SourceKind::Downstream | SourceKind::Unknown);
    let leaves = matches!(reading.item.span_kind(), Some(KIND_CLIENT | KIND_PRODUCER));
    let database = has(&["db.system.name", "db.system"]);
    let remote = has(&["http.request.method", "http.method", "messaging.system", "rpc.system"]);
    behind && (database || (leaves && remote))
}

fn downstream(reading: &mut Reading<'_>) {
    reading.record.kind = Kind::Downstream;
    let target = reading.take(&["url.full", "http.url", "db.query.text", "db.statement"]);
    reading.record.target = target.or_else(|| Some(reading.item.name.clone()));
    reading.http_status();
    if reading.record.outcome == Some(Outcome::Error) && reading.record.error_type.is_none() {
        reading.record.error_type = reading.record.transport_status.clone();
    }
}
