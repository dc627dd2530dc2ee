//! On which side of MCP a resource stands: from its scopes, else from what its spans do, else from
//! its service name.
//!
//! A body shows only some of a service's spans, so two bodies of one service may differ here;
//! `unknown` is a normal answer.

use super::genai;
use super::item::{Group, Item, KIND_CLIENT, KIND_SERVER, get};
use crate::json::Json;
use crate::record::SourceKind;

/// Scopes and services that are one thing only, by prefix.
const KNOWN: &[(&str, SourceKind)] = &[
    ("com.anthropic.claude_code", SourceKind::Host),
    ("claude-code", SourceKind::Host),
    ("codex", SourceKind::Host),
    ("gemini-cli", SourceKind::Host),
    ("gemini_cli", SourceKind::Host),
    ("copilot-chat", SourceKind::Host),
    ("mcp-gateway", SourceKind::Gateway),
    ("agentgateway", SourceKind::Gateway),
    ("ai-gateway", SourceKind::Gateway),
    ("envoy-ai-gateway", SourceKind::Gateway),
    ("mcp-router", SourceKind::Gateway),
    ("contextforge", SourceKind::Gateway),
    ("toolhive", SourceKind::Gateway),
];

/// What a service name hints at when nothing better is known.
const HINTS: &[(&str, SourceKind)] = &[
    ("gateway", SourceKind::Gateway),
    ("mcp", SourceKind::Server),
    ("agent", SourceKind::Host),
    ("host", SourceKind::Host),
];

/// MCP requests that a server sends.
const FROM_SERVER: &[&str] = &["sampling/createMessage", "elicitation/create", "roots/list"];

/// The side of everything under one resource.
pub(super) fn of(group: &Group) -> SourceKind {
    let service = get(&group.resource, "service.name").and_then(Json::as_str).unwrap_or_default();
    let names = || group.scopes.iter().map(|scope| scope.name.as_str()).chain([service]);
    let known = names().find_map(|name| KNOWN.iter().find(|(prefix, _)| name.starts_with(prefix)));
    if let Some((_, side)) = known {
        return *side;
    }
    let items = group.scopes.iter().flat_map(|scope| &scope.items).filter_map(|(_, item)| item.as_ref().ok());
    let (mut host, mut server) = (false, false);
    for side in items.filter_map(shown_by) {
        host |= side == SourceKind::Host;
        server |= side == SourceKind::Server;
    }
    match (host, server) {
        (true, true) => SourceKind::Gateway,
        (true, false) => SourceKind::Host,
        (false, true) => SourceKind::Server,
        (false, false) => {
            let service = service.to_ascii_lowercase();
            HINTS.iter().find(|(hint, _)| service.contains(hint)).map_or(SourceKind::Unknown, |(_, side)| *side)
        }
    }
}

/// What one span shows about the process that made it.
fn shown_by(item: &Item) -> Option<SourceKind> {
    let kind = item.span_kind()?;
    if matches!(item.text("gen_ai.operation.name"), Some("invoke_agent" | "chat" | "generate_content"))
        || matches!(item.text("traceloop.span.kind"), Some("agent" | "workflow"))
        || item.text("openinference.span.kind") == Some("AGENT")
        || genai::is_model_request(item)
    {
        return Some(SourceKind::Host);
    }
    let method = item.text("mcp.method.name")?;
    if method.starts_with("notifications/") && method != "notifications/initialized" {
        return None;
    }
    match (kind, FROM_SERVER.contains(&method)) {
        (KIND_SERVER, false) | (KIND_CLIENT, true) => Some(SourceKind::Server),
        (KIND_CLIENT, false) | (KIND_SERVER, true) => Some(SourceKind::Host),
        _ => None,
    }
}
