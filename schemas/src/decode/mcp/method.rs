//! What an MCP method is in the record's words, in every revision from 2025-06-18 to 2026-07-28.

use crate::json::Json;
use crate::record::{Direction, Kind};

/// Who may send a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    Client,
    Server,
    Either,
}

/// A method of the protocol.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) sender: Sender,
    /// Kind of its request or notification.
    pub(crate) kind: Kind,
}

const fn method(name: &'static str, sender: Sender, kind: Kind) -> Method {
    Method { name, sender, kind }
}

/// Every method of the revisions 2025-06-18, 2025-11-25 and 2026-07-28. In 2026-07-28 what a server asks travels inside `input_required` results, and tasks
/// are the extension `io.modelcontextprotocol/tasks`.
pub(crate) const METHODS: &[Method] = &[
    method("initialize", Sender::Client, Kind::Connection),
    method("server/discover", Sender::Client, Kind::Connection),
    method("subscriptions/listen", Sender::Client, Kind::Request),
    method("ping", Sender::Either, Kind::Request),
    method("tools/list", Sender::Client, Kind::ToolList),
    method("tools/call", Sender::Client, Kind::Call),
    method("resources/list", Sender::Client, Kind::Resource),
    method("resources/templates/list", Sender::Client, Kind::Resource),
    method("resources/read", Sender::Client, Kind::Resource),
    method("resources/subscribe", Sender::Client, Kind::Resource),
    method("resources/unsubscribe", Sender::Client, Kind::Resource),
    method("prompts/list", Sender::Client, Kind::PromptTemplate),
    method("prompts/get", Sender::Client, Kind::PromptTemplate),
    method("completion/complete", Sender::Client, Kind::Request),
    method("logging/setLevel", Sender::Client, Kind::Request),
    method("tasks/get", Sender::Either, Kind::Request),
    method("tasks/result", Sender::Either, Kind::Request),
    method("tasks/list", Sender::Either, Kind::Request),
    method("tasks/cancel", Sender::Either, Kind::Request),
    method("tasks/update", Sender::Client, Kind::Request),
    method("sampling/createMessage", Sender::Server, Kind::Sampling),
    method("elicitation/create", Sender::Server, Kind::Elicitation),
    method("roots/list", Sender::Server, Kind::Request),
    method("notifications/initialized", Sender::Client, Kind::Notification),
    method("notifications/cancelled", Sender::Either, Kind::Notification),
    method("notifications/progress", Sender::Either, Kind::Notification),
    method("notifications/message", Sender::Server, Kind::Notification),
    method("notifications/roots/list_changed", Sender::Client, Kind::Notification),
    method("notifications/tools/list_changed", Sender::Server, Kind::Notification),
    method("notifications/resources/list_changed", Sender::Server, Kind::Notification),
    method("notifications/prompts/list_changed", Sender::Server, Kind::Notification),
    method("notifications/resources/updated", Sender::Server, Kind::Notification),
    method("notifications/elicitation/complete", Sender::Server, Kind::Notification),
    method("notifications/tasks/status", Sender::Either, Kind::Notification),
    method("notifications/tasks", Sender::Server, Kind::Notification),
    method("notifications/subscriptions/acknowledged", Sender::Server, Kind::Notification),
];

/// The first revision without sessions: servers send no requests, headers mirror the body, and a disconnect cancels.
/// Revisions compare as text.
pub(crate) const STATELESS_SINCE: &str = "2026-07-28";

/// Whether this side sends a method of the protocol; what the protocol does not have may come from either.
pub(crate) fn is_sender(method: &str, direction: Direction) -> bool {
    let sender = METHODS.iter().find(|known| known.name == method).map_or(Sender::Either, |known| known.sender);
    match sender {
        Sender::Client => direction == Direction::ClientToServer,
        Sender::Server => direction == Direction::ServerToClient,
        Sender::Either => true,
    }
}

/// Whether the protocol has this method.
pub(crate) fn is_known(method: &str) -> bool {
    METHODS.iter().any(|known| known.name == method)
}

/// Kind of the record of a request. A method that the protocol does not have is taken by its first word.
pub(crate) fn request_kind(method: &str) -> Kind {
    if let Some(known) = METHODS.iter().find(|known| known.name == method) {
        return known.kind;
    }
    match method {
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
        () if has("taskId") || has("task") => (Kind::Request, None),
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
        "notifications/elicitation/complete" => params.str_at("elicitationId"),
        _ if method.starts_with("tasks/") || method.starts_with("notifications/tasks") => params.str_at("taskId"),
        _ => params.str_at("uri"),
    }
}
