//! Typed, scoped keys: the ids by which records of different sources meet.
//!
//! Text form: `kind:value`, or `kind:scope/value` where the value is unique only within a scope
//! (a JSON-RPC id within its connection). `%` and `/` inside a scope are percent-encoded, so the
//! first `/` always ends the scope.
//!
//! Not here: which keys are believed. Guards live with the reader (`query`), because a key can
//! only be judged against the other records that bear it.

use crate::limits::keys::VALUE_BYTES_MAX;

macro_rules! key_kinds {
    ($($(#[$meta:meta])* $variant:ident = $text:literal, scoped: $scoped:literal, joins: $joins:literal;)*) => {
        /// What a key names.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum KeyKind { $($(#[$meta])* $variant,)* }

        impl KeyKind {
            /// Every kind.
            pub const ALL: &'static [KeyKind] = &[$(KeyKind::$variant,)*];
            /// The prefix in the text form.
            pub const fn as_str(self) -> &'static str { match self { $(KeyKind::$variant => $text,)* } }
            /// Whether values are unique only within a scope.
            pub const fn scoped(self) -> bool { match self { $(KeyKind::$variant => $scoped,)* } }
            /// Whether two records that bear an equal key of this kind belong to one session
            /// (unless a guard says otherwise).
            pub const fn joins(self) -> bool { match self { $(KeyKind::$variant => $joins,)* } }
            /// The kind with this prefix.
            pub fn parse(text: &str) -> Option<Self> { match text { $($text => Some(KeyKind::$variant),)* _ => None } }
        }
    };
}

key_kinds! {
    /// A host's conversation, session or thread id.
    Conversation = "conversation", scoped: false, joins: true;
    /// One prompt with everything it led to, as the host names it.
    Turn = "turn", scoped: false, joins: true;
    /// The model's id for one tool use.
    ToolCall = "toolcall", scoped: false, joins: true;
    /// W3C trace id, 32 hex digits.
    Trace = "trace", scoped: false, joins: true;
    /// W3C span id within its trace.
    Span = "span", scoped: true, joins: false;
    /// The span that a span or frame names as its parent, within its trace.
    ParentSpan = "parent-span", scoped: true, joins: false;
    /// One stdio process or HTTP connection that was recorded.
    Connection = "connection", scoped: false, joins: true;
    /// `Mcp-Session-Id` within a server.
    McpSession = "mcp-session", scoped: true, joins: true;
    /// JSON-RPC id within connection and direction; the value is the id as JSON, so 1 and "1" differ.
    Rpc = "rpc", scoped: true, joins: false;
    /// SHA-256 of an MCP `requestState`, which joins the rounds of one call.
    RequestState = "request-state", scoped: false, joins: true;
    /// An HTTP or model-API request id, or a gateway's correlation id.
    Request = "request", scoped: false, joins: true;
    /// An MCP task within its server, which makes the id.
    Task = "task", scoped: true, joins: false;
    /// A progress token within a connection.
    Progress = "progress", scoped: true, joins: false;
    /// A host's id of one message or transcript line.
    Message = "message", scoped: false, joins: false;
    /// The message that a message names as its parent.
    ParentMessage = "parent-message", scoped: false, joins: false;
    /// A model API response (one assistant message) id.
    Response = "response", scoped: false, joins: false;
    /// A sub-agent's id within its conversation.
    Agent = "agent", scoped: true, joins: false;
    /// Digest of a tool definition.
    Definition = "definition", scoped: false, joins: false;
}

/// One typed key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// What it names.
    pub kind: KeyKind,
    /// Within what it is unique; `None` for unscoped kinds.
    pub scope: Option<String>,
    /// The id as the source wrote it.
    pub value: String,
}

impl Key {
    /// An unscoped key.
    pub fn new(kind: KeyKind, value: &str) -> Self {
        Key { kind, scope: None, value: bounded(value) }
    }

    /// A key that is unique within `scope`.
    pub fn scoped(kind: KeyKind, scope: &str, value: &str) -> Self {
        Key { kind, scope: Some(scope.into()), value: bounded(value) }
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Self> {
        let (prefix, rest) = text.split_once(':')?;
        let kind = KeyKind::parse(prefix)?;
        if !kind.scoped() {
            return (!rest.is_empty()).then(|| Key { kind, scope: None, value: rest.into() });
        }
        let (scope, value) = rest.split_once('/')?;
        (!value.is_empty()).then(|| Key { kind, scope: Some(unescape(scope)), value: value.into() })
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.scope {
            Some(scope) => {
                let scope = scope.replace('%', "%25").replace('/', "%2F");
                write!(f, "{}:{scope}/{}", self.kind.as_str(), self.value)
            }
            None => write!(f, "{}:{}", self.kind.as_str(), self.value),
        }
    }
}

fn unescape(scope: &str) -> String {
    scope.replace("%2F", "/").replace("%25", "%")
}

fn bounded(value: &str) -> String {
    if value.len() <= VALUE_BYTES_MAX {
        return value.into();
    }
    format!("sha256-{}", hex::encode(<sha2::Sha256 as sha2::Digest>::digest(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        for key in [
            Key::new(KeyKind::ToolCall, "toolu_01/x:y"),
            Key::scoped(KeyKind::Rpc, "run/1%", "\"17\""),
            Key::scoped(KeyKind::Span, "aa", "bb/cc"),
        ] {
            assert_eq!(Key::parse(&key.to_string()), Some(key));
        }
        assert_eq!(Key::parse("nonsense:1"), None);
        assert_eq!(Key::parse("rpc:no-scope"), None);
    }
}
