//! What an MCP method is in the record's words, in every revision from 2025-06-18 to 2026-07-28.

use crate::json::Json;
use crate::record::Kind;

/// Kind of the record of a request.
pub(crate) fn request_kind(method: &str) -> Kind {
    match method {
        "tools/call" => Kind::Call,
        "tools/list" => Kind::ToolList,
        "initialize" | "server/discover" => Kind::Connection,
        "sampling/createMessage" => Kind::Sampling,
        "elicitation/create" => Kind::Elicitation,
        _ if method.starts_with("resources/") => Kind::Resource,
        _ if method.starts_with("prompts/") => Kind::PromptTemplate,
        _ => Kind::Request,
    }
}

/// Kind of the record of a response to `method` (an elicitation with an answer becomes an approval).
pub(crate) fn response_kind(method: &str) -> Kind {
    match request_kind(method) {
        Kind::Call => Kind::Result,
        kind => kind,
    }
}

/// Kind and method of a result whose request was not seen, by its members.
pub(super) fn kind_by_shape(result: &Json) -> (Kind, Option<&'static str>) {
    let has = |key| result.get(key).is_some();
    match () {
        () if has("tools") => (Kind::ToolList, Some("tools/list")),
        () if has("serverInfo") || has("supportedVersions") => (Kind::Connection, None),
        () if has("action") => (Kind::Approval, Some("elicitation/create")),
        () if has("role") && has("model") => (Kind::Sampling, Some("sampling/createMessage")),
        () if has("contents") || has("resources") || has("resourceTemplates") => (Kind::Resource, None),
        () if has("messages") || has("prompts") => (Kind::PromptTemplate, None),
        () if has("content") || has("structuredContent") || has("isError") => (Kind::Result, Some("tools/call")),
        () => (Kind::Request, None),
    }
}

/// What a request other than `tools/call` addresses.
pub(super) fn target<'a>(method: &str, params: &'a Json) -> Option<&'a str> {
    match method {
        "prompts/get" => params.str_at("name"),
        "completion/complete" => params.get("ref").and_then(|to| to.str_at("uri").or(to.str_at("name"))),
        "logging/setLevel" => params.str_at("level"),
        "elicitation/create" => params.str_at("url"),
        _ if method.starts_with("tasks/") => params.str_at("taskId"),
        _ => params.str_at("uri"),
    }
}
