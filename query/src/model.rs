//! The answers: the JSON that API, CLI, pages and exports share.
//!
//! Invariants
//! - every answer travels in an [`Answer`], so none is without its completeness statement
//! - texts here are as stored (after redaction) and untrusted; whoever shows them goes through
//!   `threadline_schemas::display`
//!
//! Times are RFC 3339 UTC with nanoseconds where the source gave them; durations are nanoseconds.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One answer with what it covers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Answer<T> {
    /// What was asked for.
    pub data: T,
    /// Opaque cursor of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// What this answer covers and what it does not.
    pub completeness: Completeness,
}

/// What an answer covers. Nothing is cut in silence.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct Completeness {
    /// `complete`, or `partial` when any reason stands below.
    pub state: String,
    /// Why it is partial, in words.
    pub reasons: Vec<String>,
    /// Which state of the store was read.
    pub snapshot: SnapshotInfo,
    /// Oldest and newest event time that was searched, if the question had a range.
    pub searched_from: Option<String>,
    /// See `searched_from`.
    pub searched_to: Option<String>,
    /// Rows that were looked at.
    pub rows_searched: u64,
    /// Rows that belong to the answer and were left out (limit, page, budget).
    pub rows_cut: u64,
    /// Sources expected here that said nothing, with since when if known.
    pub sources_silent: Vec<String>,
    /// Links in the answer that were judged rather than read (grade inferred or ambiguous).
    pub links_inferred: u64,
    /// Remarks on how the answer was made that leave nothing out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One state of the store.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct SnapshotInfo {
    /// Delta version of `records`.
    pub table_version: i64,
    /// When it was read, RFC 3339 UTC.
    pub read_at: String,
    /// Rows in sealed files.
    pub sealed_rows: u64,
    /// Rows acknowledged and not sealed yet (they are part of the answer).
    pub tail_rows: u64,
    /// Sealed files whose text index is not built yet; they were scanned instead.
    pub files_without_text_index: u64,
}

/// How sure a link is, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// One of our own capture points saw the exchange itself, or a signature binds both sides.
    Proven,
    /// The same unguessable id from two sources, in its scope.
    Matched,
    /// An id that anyone could have copied, or that one side alone states.
    Claimed,
    /// A rule with a score.
    Inferred,
    /// Several candidates that cannot be told apart.
    Ambiguous,
    /// An expected counterpart is absent.
    Missing,
}

/// A statement that two records belong together, with its evidence.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Link {
    /// The later or dependent record (child).
    pub from: String,
    /// The record it belongs to (parent).
    pub to: String,
    /// `prompt`, `selection`, `execution`, `result`, `decision`, `observation`, `downstream`, `round`, `duplicate_of`.
    pub relation: String,
    /// How sure.
    pub grade: Grade,
    /// Name of the rule that made it.
    pub rule: String,
    /// Probability between 0 and 1; 1 for exact keys.
    pub score: f64,
    /// The values that were compared.
    pub compared: Vec<Compared>,
    /// Rivals, when ambiguous: event ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<String>,
}

/// One comparison behind a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Compared {
    /// What was compared: a key kind or column.
    pub what: String,
    /// The value at the child.
    pub from: String,
    /// The value at the parent.
    pub to: String,
}

/// One record in a list or tree.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EventLine {
    /// Its id.
    pub event_id: String,
    /// When, RFC 3339 UTC.
    pub time: String,
    /// The same, nanoseconds since the Unix epoch, as text (beyond 2^53).
    pub time_unix_nano: String,
    /// Whose clock: source, missing, zero, invalid.
    pub time_quality: String,
    /// Record kind.
    pub kind: String,
    /// host, wire, gateway, server, downstream, threadline, unknown.
    pub source_kind: String,
    /// Emitter.
    pub source_name: String,
    /// The source's own name for it.
    pub name: Option<String>,
    /// Frame direction.
    pub direction: Option<String>,
    /// MCP server.
    pub server_name: Option<String>,
    /// Tool.
    pub tool_name: Option<String>,
    /// Outcome in one word.
    pub outcome: Option<String>,
    /// Verdict.
    pub decision: Option<String>,
    /// Duration in nanoseconds.
    pub duration_nano: Option<i64>,
    /// Which end of the duration `time` is: `start`, or `end` where it began so long before; absent without a duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_is: Option<String>,
    /// First 200 characters of what it says.
    pub excerpt: String,
    /// Characters of the excerpt's source left out.
    pub excerpt_cut: u64,
    /// Origin file, if imported.
    pub file: Option<String>,
    /// Origin line, if imported.
    pub line: Option<i64>,
    /// The link to its parent, if it has one.
    pub link: Option<Link>,
}

/// A session in the list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct SessionSummary {
    /// Stable id of the session (the smallest stamp in its closure).
    pub id: String,
    /// First prompt, first 200 characters; empty when no prompt was recorded.
    pub title: String,
    /// When the first of what its records tell began.
    pub start: String,
    /// When the last of it ended.
    pub end: String,
    /// Nanoseconds between them.
    pub duration_nano: i64,
    /// Conversation ids the hosts gave it.
    pub conversation_ids: Vec<String>,
    /// Agents.
    pub agents: Vec<String>,
    /// Users, authenticated first: whom hosts and gateways name, or, where those name nobody, whoever is named.
    pub users: Vec<String>,
    /// Other accounts that servers and downstream systems name: those they acted under.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acted_as: Vec<String>,
    /// MCP servers.
    pub servers: Vec<String>,
    /// Tools.
    pub tools: Vec<String>,
    /// Prompts.
    pub prompts: u64,
    /// Tool calls.
    pub calls: u64,
    /// Calls that ended in an error.
    pub errors: u64,
    /// Calls or choices that were refused.
    pub denials: u64,
    /// Records in all.
    pub records: u64,
    /// Records that could not be understood.
    pub rejected: u64,
    /// Records per source kind: host, wire, gateway, server, downstream.
    pub coverage: std::collections::BTreeMap<String, u64>,
    /// Records per source name.
    pub sources: std::collections::BTreeMap<String, u64>,
}

/// A reconstructed session.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Totals and names.
    pub summary: SessionSummary,
    /// Turns in order; records before the first prompt stand in a turn without one.
    pub turns: Vec<Turn>,
    /// What is missing or contradictory, named.
    pub gaps: Vec<Gap>,
    /// Weakest grade that was followed.
    pub grade_floor: Grade,
    /// Clocks of its sources, as far as they were learned. Times everywhere are raw.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clocks: Vec<SessionClock>,
}

/// How far the clock of a session's source was ahead.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SessionClock {
    /// Whose: side and name of the emitter.
    pub clock: String,
    /// Records of the session that it stamped.
    pub records: u64,
    /// Milliseconds ahead of the reference (the busiest gateway) at the first and, where that differs, at the last of them.
    pub ahead_ms: Vec<f64>,
    /// Spread of true pairs around it, milliseconds, where it was learned.
    pub spread_ms: Option<f64>,
}

/// One prompt with everything it led to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Turn {
    /// Stable id within the session.
    pub id: String,
    /// The prompt, when one was recorded (the strongest of its observations).
    pub prompt: Option<EventLine>,
    /// Full text of the prompt.
    pub prompt_text: Option<String>,
    /// First event time.
    pub start: String,
    /// When the last of what its records tell ended.
    pub end: String,
    /// Calls in order.
    pub calls: Vec<Call>,
    /// Everything else of this turn, in order: completions, model requests, connections, notifications.
    pub events: Vec<EventLine>,
}

/// One tool call with every record that observed it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Call {
    /// Stable id within the session.
    pub id: String,
    /// Tool as the server calls it.
    pub tool: Option<String>,
    /// MCP server.
    pub server: Option<String>,
    /// The model's id for it.
    pub tool_call_id: Option<String>,
    /// When the choice or request was first seen.
    pub start: String,
    /// When its result was last seen, or what timed it says that it ended.
    pub end: Option<String>,
    /// ok, error, denied, cancelled, input_required; absent when no result was recorded.
    pub outcome: Option<String>,
    /// JSON-RPC error code, when there was one.
    pub rpc_error_code: Option<i64>,
    /// MCP isError.
    pub tool_is_error: Option<bool>,
    /// Verdict, when one was recorded.
    pub decision: Option<String>,
    /// Whether the call reached a server, as evidence shows: `executed`, `never_executed` (selection
    /// without any trace of execution), `unknown`.
    pub execution: String,
    /// Arguments as JSON text (the strongest observation's).
    pub arguments: Option<String>,
    /// Bytes of the arguments that were left out; the record has them all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub arguments_cut: u64,
    /// Result as JSON text (the strongest observation's).
    pub result: Option<String>,
    /// Bytes of the result that were left out; the record has them all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub result_cut: u64,
    /// Weakest link that holds the call's records together, lines of a server's standard error aside.
    pub grade: Grade,
    /// Round trips on the wire, when there were several: the server asked for input first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<Round>,
    /// Every record, in order: selection, decision, approval, request, result, spans, downstream.
    pub records: Vec<EventLine>,
}

/// One round trip of a call, as ids of its records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Round {
    /// The request.
    pub request: String,
    /// Answers to the questions of the round before that the request brought.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<String>,
    /// The response, if one was recorded.
    pub response: Option<String>,
    /// How the round ended: `input_required`, or as the call did.
    pub outcome: Option<String>,
    /// Questions that the response asks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub questions: Vec<String>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Something missing or contradictory.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Gap {
    /// `no_result`, `no_request`, `selection_not_executed`, `no_host_record`, `recorder_gap`,
    /// `rejected_records`, `contested_key`, `source_disagreement`, `stands_alone`, `silent_server`, `clock_off`, `untrusted_id`.
    pub kind: String,
    /// In words: which event, which source, why, since when.
    pub description: String,
    /// Events concerned.
    pub event_ids: Vec<String>,
    /// Call concerned, if one.
    pub call_id: Option<String>,
}

/// One record in full.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// The line by which lists show it.
    pub line: EventLine,
    /// Every column that says something, by name (`raw` in base64).
    #[schema(value_type = Object)]
    pub record: serde_json::Map<String, serde_json::Value>,
    /// Session it belongs to.
    pub session_id: Option<String>,
    /// Links to and from it.
    pub links: Vec<Link>,
    /// RFC 6962 leaf hash, hex.
    pub leaf_hash: String,
    /// Length of the raw bytes.
    pub raw_bytes: u64,
}

/// One hit of a text search.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Hit {
    /// The record.
    pub event: EventLine,
    /// Session it belongs to.
    pub session_id: Option<String>,
    /// Where it matched: column and text around the first match.
    pub column: String,
    /// Text before the match.
    pub before: String,
    /// The match.
    pub matched: String,
    /// Text after the match.
    pub after: String,
}

/// One stored record's place, as `threadline links` prints it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Placement {
    /// Origin file, relative to the imported folder, without `.gz`.
    pub file: Option<String>,
    /// 1-based line.
    pub line: Option<i64>,
    /// Record id.
    pub event_id: String,
    /// Record kind.
    pub kind: String,
    /// Session, null where not assigned.
    pub session: Option<String>,
    /// Turn.
    pub turn: Option<String>,
    /// Call.
    pub call: Option<String>,
    /// Parent as `file:line`.
    pub parent: Option<String>,
    /// Parent as event id.
    pub parent_event_id: Option<String>,
    /// Relation to the parent.
    pub relation: Option<String>,
    /// Grade of the link to the parent.
    pub grade: Option<Grade>,
    /// Rule of the link.
    pub rule: Option<String>,
    /// The values compared.
    pub compared: Vec<Compared>,
    /// Score.
    pub score: Option<f64>,
}

/// What correlation found beside links: an id that stopped joining, or a server that says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// `session-reused`, `session-shared`, `constant-trace`, `conversation-shared`, `conversation-constant`, `tool-call-reused`, `silent-server` or `clock-off`.
    pub kind: String,
    /// The id or the server.
    pub name: String,
    /// Records that bear it; of a silent server, calls that it logged nothing of.
    pub records: u64,
    /// The first of them.
    pub event_ids: Vec<String>,
    /// Event time from which and before which records were looked at.
    pub from: String,
    /// See `from`.
    pub to: String,
    /// In words.
    pub description: String,
}

/// Rows of a SQL query.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Table {
    /// Column names in order.
    pub columns: Vec<String>,
    /// Rows; each cell a JSON value.
    #[schema(value_type = Vec<Vec<Object>>)]
    pub rows: Vec<Vec<serde_json::Value>>,
}

/// Filters of the session list; all given ones must hold.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct SessionFilter {
    /// User, claimed or authenticated.
    pub user: Option<String>,
    /// Agent.
    pub agent: Option<String>,
    /// Tool that was called or chosen.
    pub tool: Option<String>,
    /// MCP server.
    pub server: Option<String>,
    /// Outcome of at least one call: ok, error, denied, cancelled.
    pub outcome: Option<String>,
    /// Sessions with an event at or after, RFC 3339.
    pub from: Option<String>,
    /// Sessions with an event before, RFC 3339.
    pub to: Option<String>,
    /// Also connections and traces without prompt, choice or call; default false.
    pub all: Option<bool>,
    /// Sessions per page, at most 1000; default 100.
    pub limit: Option<usize>,
    /// Cursor of the page.
    pub cursor: Option<String>,
}

/// A text question.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct SearchQuestion {
    /// Words and "quoted phrases"; all must occur. `*` at the end of a word matches its continuations.
    pub q: String,
    /// Events at or after, RFC 3339.
    pub from: Option<String>,
    /// Events before, RFC 3339.
    pub to: Option<String>,
    /// Hits per page, at most 1000; default 50.
    pub limit: Option<usize>,
    /// Cursor of the page.
    pub cursor: Option<String>,
}

/// Which placements to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct LinksQuestion {
    /// Only this session, by any id; default everything.
    pub session: Option<String>,
    /// Placements per page, at most 10000; default 1000.
    pub limit: Option<usize>,
    /// Cursor of the page.
    pub cursor: Option<String>,
}

/// A SQL query.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct SqlQuestion {
    /// One SELECT over the tables `records` and `links`.
    pub query: String,
    /// Rows to return, at most the configured limit.
    pub limit: Option<usize>,
    /// Time to spend, at most the configured limit.
    pub timeout_ms: Option<u64>,
}
