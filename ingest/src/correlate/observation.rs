//! What the linker needs to know of a record: one observation of one source, without its formats.
//!
//! An observation is made from a stored record in one place (`correlate::project`); everything behind it
//! works on observations alone, so the linker can be run and tested without a store.
//!
//! Invariants
//! - absent is `None`, never an empty text
//! - nothing here is an opinion: digests, sizes and times are what the source said

use uuid::Uuid;

/// What one source says happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Act {
    /// Host: somebody asked.
    #[default]
    Prompt,
    /// Host: the model chose a tool.
    Choice,
    /// Host: what the tool answered, as the host saw it.
    Outcome,
    /// Host: the model answered.
    Answer,
    /// Gateway: a session with a server was opened.
    Opening,
    /// Gateway: a call went to a server.
    Request,
    /// Gateway: the server answered.
    Response,
    /// Server: a finished execution; its time is its end.
    Execution,
    /// Downstream: an HTTP request was answered.
    Http,
    /// Downstream: a database ran a statement.
    Statement,
    /// Tap: a call went by.
    Called,
    /// Tap: its answer went by.
    Returned,
}

/// One top-level argument of a call, flattened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// Every leaf value below it as text, numbers in their shortest form.
    pub values: Vec<String>,
    /// Whether it is one text or number (not a list, object or truth value).
    pub scalar: bool,
}

/// A payload as far as the source logged it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payload {
    /// Digests under which it may be known elsewhere: as logged, and in canonical form.
    pub digests: Vec<String>,
    /// Its size in bytes before anything was cut.
    pub bytes: Option<u64>,
    /// Its beginning as text, or all of it.
    pub head: Option<String>,
    /// Whether `head` is only the beginning.
    pub cut: bool,
}

/// An HTTP request that a server made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpLine {
    /// Host that answered.
    pub host: String,
    /// Method.
    pub method: String,
    /// Path as it stands.
    pub path: String,
    /// Segments of the path, decoded.
    pub segments: Vec<String>,
    /// Query parameters in order, decoded.
    pub query: Vec<(String, String)>,
    /// Status code.
    pub status: u16,
    /// Bytes answered.
    pub bytes: u64,
    /// What the client calls itself.
    pub agent: Option<String>,
}

/// A statement that a database ran.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatementLine {
    /// The statement without comments.
    pub text: String,
    /// The statement with its literals blanked.
    pub template: String,
    /// Its literals, unescaped.
    pub literals: Vec<String>,
    /// `column = literal` pairs.
    pub assignments: Vec<(String, String)>,
}

/// One record as the linker sees it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observation {
    /// The record.
    pub id: Uuid,
    /// When, by the source's clock, nanoseconds since the Unix epoch.
    pub time_unix_nano: i64,
    /// What.
    pub act: Act,
    /// Whose clock stamped it: a workstation, gateway, server name, HTTP host, database.
    pub clock: String,
    /// Digest of the line; equal lines of one source are one event delivered twice.
    pub twin: Option<u64>,
    /// How long it took by the source's own measurement, seconds.
    pub duration: Option<f64>,
    /// Client program: host application, or the client a gateway names.
    pub program: Option<String>,
    /// Running instance of the program.
    pub instance: Option<String>,
    /// Machine the host runs on.
    pub workstation: Option<String>,
    /// User as the host names it.
    pub user: Option<String>,
    /// Addresses: the workstation's own, or the one address a gateway saw.
    pub addresses: Vec<String>,
    /// The host's conversation id.
    pub conversation: Option<String>,
    /// Model in use.
    pub model: Option<String>,
    /// Gateway name.
    pub gateway: Option<String>,
    /// MCP session id.
    pub mcp_session: Option<String>,
    /// Authenticated subject at the gateway.
    pub subject: Option<String>,
    /// Connection that a tap recorded.
    pub connection: Option<String>,
    /// Spans and request ids that it bears, of taps and gateways.
    pub ids: Vec<String>,
    /// JSON-RPC id, typed text.
    pub rpc_id: Option<String>,
    /// The model's id of the tool call.
    pub tool_call_id: Option<String>,
    /// Server called, or the one on whose behalf a downstream system was used.
    pub server: Option<String>,
    /// Tool, as the server names it.
    pub tool: Option<String>,
    /// Trace of the line itself.
    pub trace_id: Option<String>,
    /// Span of the line itself.
    pub span_id: Option<String>,
    /// Span it names as its parent.
    pub parent_span_id: Option<String>,
    /// Trace and span that travelled inside the message (`_meta.traceparent`).
    pub carried_context: Option<(String, String)>,
    /// Arguments as a payload.
    pub arguments: Payload,
    /// Arguments by name, when all of them were logged.
    pub argument_values: Option<Vec<Argument>>,
    /// Result as a payload.
    pub result: Payload,
    /// Prompt or answer.
    pub text: Option<String>,
    /// Whether it failed, where the source says so.
    pub failed: Option<bool>,
    /// A policy refused it.
    pub denied: bool,
    /// A policy changed what was passed on.
    pub redacted: bool,
    /// Digest of the request state that the answer gave or the request echoes.
    pub state: Option<String>,
    /// HTTP details.
    pub http: Option<HttpLine>,
    /// Statement details.
    pub statement: Option<StatementLine>,
}
