//! MCP JSON-RPC messages of the revisions 2025-06-18, 2025-11-25 and 2026-07-28 as records.
//!
//! One [`McpDecoder`] per connection. A request gives a record by its method (`tools/call` -> call,
//! `tools/list` -> tool list, ...); its response gives one of the matching kind (result, tool list,
//! approval for an answered elicitation, ...) that carries over the request's method, tool, id, trace
//! and host ids, because both are one exchange. A batch gives its messages in order. Further parts of
//! a line are: each definition of a tools/list result and each that changed since the list before, each
//! question of an `input_required` result, each answer of the retry.
//!
//! | what | how its messages meet |
//! | --- | --- |
//! | rounds of a call (2026-07-28) | `request-state` of the answer and of the retry |
//! | progress | `progress` token of the request |
//! | cancellation, subscription | `rpc` id of the request they name |
//! | task | `task` id: the handle, polls, status and outcome |
//! | tool definition | `definition` digest: the list, and each call made under it ([`inventory`]) |
//!
//! Invariants
//! - a message gives at least one record; bytes that are no message give one `rejected`
//! - the three outcomes stay apart: `transport_status`, `rpc_error_code`, `tool_is_error`; `outcome`
//!   is `denied` only for an authorization refusal in a JSON-RPC error or an HTTP status, never read
//!   out of a tool's text
//! - an `rpc` key is scoped by connection and by who asked: `rpc:<connection>:client/<id as JSON>`
//! - `arguments` and `result` are the exact text received
//! - what waits for a response is bounded ([`pending::PENDING_MAX`]); nothing else is kept but names
//!
//! Not here: capture file formats, HTTP, redaction, stamps. A `requestState` is opaque and may hold secrets:
//! its SHA-256 is a key; it is kept in the exact texts only, not in `attributes`.

pub(crate) mod content;
pub mod definition;
mod enclosed;
pub(crate) mod inventory;
pub(crate) mod message;
pub mod meta;
pub(crate) mod method;
pub(crate) mod opening;
pub(crate) mod outcome;
pub(crate) mod parts;
pub mod pending;
pub mod tap;
mod task;

use sha2::{Digest, Sha256};

use self::inventory::{InForce, Inventory, Mirrored, Told};
use self::message::{Message, Shape, exact_text};
use self::parts::{Attributes, Parts};
use self::pending::{Asked, Pending};
use self::task::Tasks;
use crate::columns::Record;
use crate::decode::{Context, Line};
use crate::json::{self, Json, JsonError, Parsed};
use crate::keys::{Key, KeyKind};
use crate::limits::mcp::NAME_BYTES_MAX;
use crate::record::{Direction, Kind, Outcome, SourceKind};

/// One message as it passed.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The bytes of the message; for stderr, of the line.
    pub message: &'a [u8],
    /// Which way it went.
    pub direction: Direction,
    /// When it passed, as the source says.
    pub time_unix_nano: Option<i64>,
    /// The source's own counter.
    pub sequence: Option<i64>,
}

/// What HTTP adds to a message.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transport {
    /// Number of the exchange the message travelled in.
    pub(crate) exchange: Option<u64>,
    /// HTTP status of the response it came in.
    pub(crate) status: Option<String>,
    /// `traceparent` header of the request.
    pub(crate) traceparent: Option<(String, String)>,
    /// `X-Request-Id`, `X-Correlation-Id`.
    pub(crate) request_ids: Vec<String>,
    /// Fingerprint of the credential.
    pub(crate) credential_fingerprint: Option<String>,
    /// Whether the exchange names a revision without sessions, where it names one.
    pub(crate) is_stateless: Option<bool>,
    /// More for `attributes`.
    pub(crate) notes: Attributes,
}

/// Decodes the messages of one connection in order.
#[derive(Debug)]
pub struct McpDecoder {
    decoder: &'static str,
    source_name: String,
    server_name: Option<String>,
    client_name: Option<String>,
    /// The client speaks a revision without sessions.
    is_stateless: bool,
    connection_id: String,
    session: Option<Key>,
    pending: Pending,
    told: Told,
    tasks: Tasks,
}

impl McpDecoder {
    /// A decoder for one connection. `server_name` is the name by which the client knows the server, if
    /// known; else it is learnt from `serverInfo`.
    pub fn new(decoder: &'static str, source_name: &str, server_name: Option<&str>, connection_id: &str) -> Self {
        McpDecoder {
            decoder,
            source_name: source_name.into(),
            server_name: server_name.map(str::to_string),
            client_name: None,
            is_stateless: false,
            connection_id: connection_id.into(),
            session: None,
            pending: Pending::default(),
            told: Told::default(),
            tasks: Tasks::default(),
        }
    }

    /// The records of one frame: a line of a stdio stream whose bytes are the message.
    pub fn frame(&mut self, context: &Context<'_>, line: Line<'_>, frame: Frame<'_>) -> Vec<Record> {
        let mut parts = Parts::new(context, line, self.decoder);
        let transport = Transport::default();
        match frame.direction {
            Direction::ServerStderr => self.stderr(&mut parts, &frame, &transport),
            _ => self.message(&mut parts, &frame, &json::parse(frame.message), &transport),
        }
        parts.finish()
    }

    /// The name of the server, once known.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// Requests that wait for their response.
    pub fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Requests that were given up because too many waited.
    pub fn dropped(&self) -> u64 {
        self.pending.dropped()
    }

    /// Bytes of what is remembered for messages to come; names are bounded by their number.
    pub(crate) fn remembered(&self) -> usize {
        self.pending.bytes() + self.told.bytes() + self.tasks.bytes()
    }

    /// Forgets that: responses to what waited are unpaired, and which definitions are in force is not known.
    pub(crate) fn forget(&mut self) {
        self.pending.forget();
        self.told.forget();
        self.tasks = Tasks::default();
    }

    pub(crate) fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// From now on every record bears this `mcp-session` key.
    pub(crate) fn set_session(&mut self, session: Key) {
        self.session = Some(session);
    }

    /// A line of the server's standard error.
    pub(crate) fn stderr(&self, parts: &mut Parts<'_>, frame: &Frame<'_>, transport: &Transport) {
        let mut record = parts.begin(Kind::Log);
        self.frame_columns(&mut record, parts, frame, transport);
        transport.notes.clone().finish(&mut record);
        record.name = Some("stderr".into());
        record.text = Some(String::from_utf8_lossy(frame.message).into_owned());
        parts.push(record);
    }

    /// Arguments of a tool that travel in HTTP headers too, by the definition in force.
    pub(crate) fn mirrored(&self, tool: &str) -> &[Mirrored] {
        self.told.mirrored(tool)
    }

    /// For the messages until [`Self::give_back`], what connections were told that are told the same as this one.
    pub(crate) fn lend(&mut self, shared: Option<Inventory>) {
        self.told.lend(shared);
    }

    /// What was lent.
    pub(crate) fn give_back(&mut self) -> Option<Inventory> {
        self.told.give_back()
    }

    /// The records of a parsed message or batch.
    pub(crate) fn message(
        &mut self,
        parts: &mut Parts<'_>,
        frame: &Frame<'_>,
        parsed: &Result<Parsed, JsonError>,
        transport: &Transport,
    ) {
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(error) => return self.rejected(parts, frame, transport, &error.to_string()),
        };
        let mut notes = transport.notes.clone();
        notes.texts("threadline.duplicate_keys", parsed.duplicate_keys.clone());
        notes.texts("threadline.big_numbers", message::big_number_keys(&parsed.value));
        let transport = Transport { notes, ..transport.clone() };
        match &parsed.value {
            Json::Array(items) if items.is_empty() => self.rejected(parts, frame, &transport, "empty JSON-RPC batch"),
            Json::Array(items) => {
                for item in items {
                    if !parts.leaves_out() {
                        self.one(parts, frame, item, &transport);
                    }
                }
            }
            value => self.one(parts, frame, value, &transport),
        }
    }

    pub(crate) fn rejected(&self, parts: &mut Parts<'_>, frame: &Frame<'_>, transport: &Transport, reason: &str) {
        let mut record = parts.begin_rejected(reason);
        self.frame_columns(&mut record, parts, frame, transport);
        transport.notes.clone().finish(&mut record);
        parts.push(record);
    }

    fn one(&mut self, parts: &mut Parts<'_>, frame: &Frame<'_>, value: &Json, transport: &Transport) {
        let message = match message::read(value) {
            Ok(message) => message,
            Err(reason) => return self.rejected(parts, frame, transport, reason),
        };
        match message.shape {
            Shape::Request(method) => self.request(parts, frame, &message, method, transport),
            Shape::Notification(method) => self.notification(parts, frame, &message, method, transport),
            Shape::Result(result) => self.result(parts, frame, &message, result, transport),
            Shape::Error(error) => self.error(parts, frame, &message, error, transport),
        }
    }

    fn request(
        &mut self,
        parts: &mut Parts<'_>,
        frame: &Frame<'_>,
        message: &Message<'_>,
        method: &str,
        transport: &Transport,
    ) {
        let params = message.value.get("params").unwrap_or(&Json::Null);
        if frame.direction == Direction::ClientToServer {
            self.learn_client(method, params);
        }
        let id = message.id.clone().unwrap_or_default();
        let mut record = parts.begin(method::request_kind(method));
        self.frame_columns(&mut record, parts, frame, transport);
        record.name = Some(method.into());
        record.add_key(self.rpc_key(frame.direction, &id));
        record.rpc_id = Some(id.clone());
        self.asked_for(&mut record, parts, frame, method, params);
        self.ids_of(&mut record, frame.direction, method, params, transport);
        let mut attributes = transport.notes.clone();
        note_sender(&mut attributes, method, frame.direction);
        if frame.direction == Direction::ServerToClient && transport.is_stateless.unwrap_or(self.is_stateless) {
            // What a server asks stands inside an `input_required` result there.
            attributes.texts("threadline.protocol_mismatch", vec!["server_request".into()]);
        }
        match method {
            "tools/call" => self.definition_in_force(&mut record, &mut attributes),
            "tools/list" => self.told.ask(params.str_at("cursor")),
            _ => {}
        }
        let has_column: &[&str] = if method == "tools/call" { &["name", "arguments"] } else { &["arguments"] };
        attributes.rest_of(params, &[has_column, &["requestState", "inputResponses"]].concat());
        attributes.finish(&mut record);
        let asked = Asked::of(&record, method, &id, frame.time_unix_nano, transport.exchange);
        parts.push(record);
        self.answers(parts, frame, params, &asked, transport);
        self.pending.insert(asked);
    }

    /// Tool, target, arguments and text of a request.
    fn asked_for(&self, record: &mut Record, parts: &Parts<'_>, frame: &Frame<'_>, method: &str, params: &Json) {
        if method == "tools/call" {
            record.tool_name = params.str_at("name").map(str::to_string);
        } else {
            record.target = method::target(method, params).map(str::to_string);
        }
        if let Some(arguments) = params.member("arguments") {
            record.arguments = Some(exact_text(frame.message, arguments));
            record.arguments_digest = parts.context.digest(&arguments.value);
        }
        record.text = content::of_params(method, params);
    }

    /// Which definition of its tool the client was told last.
    fn definition_in_force(&self, record: &mut Record, attributes: &mut Attributes) {
        let (in_force, is_shared) = self.told.in_force(record.tool_name.as_deref().unwrap_or_default());
        if is_shared && in_force != InForce::Unknown {
            attributes.put("threadline.definition_shared", Json::Bool(true));
        }
        match in_force {
            InForce::Listed { digest, is_stale } => {
                record.add_key(Key::new(KeyKind::Definition, digest));
                record.definition_digest = Some(digest.into());
                if is_stale {
                    attributes.put("threadline.definition_stale", Json::Bool(true));
                }
            }
            InForce::NotListed => attributes.put("threadline.tool_not_listed", Json::Bool(true)),
            InForce::Unknown => attributes.put("threadline.definition_not_seen", Json::Bool(true)),
        }
    }

    /// The ids that a request or notification carries in `params`.
    fn ids_of(&self, record: &mut Record, direction: Direction, method: &str, params: &Json, transport: &Transport) {
        let meta = params.get("_meta").unwrap_or(&Json::Null);
        meta::apply(meta, record);
        if let Some((trace, span)) = &transport.traceparent {
            record.add_key(Key::new(KeyKind::Trace, trace));
            record.add_key(Key::scoped(KeyKind::ParentSpan, trace, span));
            record.trace_id.get_or_insert_with(|| trace.clone());
            if record.trace_id.as_deref() == Some(trace) {
                record.parent_span_id.get_or_insert_with(|| span.clone());
            }
        }
        if let Some(token) = meta.get("progressToken") {
            record.add_key(self.progress_key(direction, token));
        }
        if let Some(state) = params.get("requestState").and_then(Json::as_str) {
            record.add_key(request_state_key(state));
        }
        if let Some(task) = task::named(method, params).or_else(|| task::related(params)) {
            self.of_task(record, task);
        }
    }

    fn notification(
        &mut self,
        parts: &mut Parts<'_>,
        frame: &Frame<'_>,
        message: &Message<'_>,
        method: &str,
        transport: &Transport,
    ) {
        let params = message.value.get("params").unwrap_or(&Json::Null);
        let mut record = parts.begin(Kind::Notification);
        self.frame_columns(&mut record, parts, frame, transport);
        record.name = Some(method.into());
        record.target = method::target(method, params).map(str::to_string);
        record.text = content::of_params(method, params);
        self.ids_of(&mut record, frame.direction, method, params, transport);
        match method {
            "notifications/tools/list_changed" => self.told.announce(),
            "notifications/tasks/status" | "notifications/tasks" => self.task_status(&mut record, params),
            _ => {}
        }
        if let Some(token) = params.get("progressToken") {
            record.add_key(self.progress_key(opposite(frame.direction), token));
        }
        // What comes on a subscription names the request that opened it.
        let subscription = params.at(&["_meta", "io.modelcontextprotocol/subscriptionId"]);
        if let Some(id @ (Json::String(_) | Json::Number(_))) = subscription {
            record.add_key(self.rpc_key(opposite(frame.direction), &id.to_string()));
        }
        let cancelled = params.get("requestId").filter(|_| method == "notifications/cancelled");
        if let Some(id) = cancelled.map(Json::to_string) {
            record.outcome = Some(Outcome::Cancelled);
            if let Some(asked) = self.pending.get(frame.direction, &id, None) {
                asked.carry(&mut record);
            }
            record.add_key(self.rpc_key(frame.direction, &id));
            record.rpc_id = Some(id);
        }
        let mut attributes = transport.notes.clone();
        note_sender(&mut attributes, method, frame.direction);
        attributes.rest_of(params, &[]);
        attributes.finish(&mut record);
        parts.push(record);
    }

    fn result(
        &mut self,
        parts: &mut Parts<'_>,
        frame: &Frame<'_>,
        message: &Message<'_>,
        result: &Json,
        transport: &Transport,
    ) {
        let id = message.id.clone().unwrap_or_default();
        let asked = self.pending.take(opposite(frame.direction), &id, transport.exchange);
        let (kind, method) = match &asked {
            Some(asked) => (method::response_kind(&asked.method), Some(asked.method.as_str())),
            None => method::kind_by_shape(result),
        };
        self.learn_server(result, method == Some("initialize"));
        let about = asked.as_ref().and_then(Asked::task).or_else(|| task::related(result));
        let kind = match (method, about) {
            (Some("tasks/result"), Some(task)) => self.kind_of_task(task).unwrap_or(kind),
            _ => kind,
        };
        let mut record = parts.begin(kind);
        self.frame_columns(&mut record, parts, frame, transport);
        record.name = method.map(str::to_string);
        self.answered(&mut record, frame, asked.as_ref(), &id);
        if let Some(task) = task::created(result) {
            if let Some(asked) = &asked {
                self.remember_task(task, asked, &record);
            }
            self.of_task(&mut record, task);
        } else if let Some(task) = about {
            self.of_task(&mut record, task);
        }
        if let Some(member) = message.value.member("result") {
            self.concluded(&mut record, parts, frame, member);
        }
        let mut attributes = transport.notes.clone();
        self.note_pairing(&mut attributes, asked.is_some());
        attributes.finish(&mut record);
        let template = record.clone();
        parts.push(record);
        self.definitions(parts, frame, result, &template);
        self.questions(parts, frame, result, &template);
    }

    /// What every response has from its request.
    fn answered(&self, record: &mut Record, frame: &Frame<'_>, asked: Option<&Asked>, id: &str) {
        if let Some(asked) = asked {
            asked.carry(record);
            record.duration_nano = asked.duration_to(frame.time_unix_nano);
        } else if !id.is_empty() {
            record.rpc_id = Some(id.into());
            record.add_key(self.rpc_key(opposite(frame.direction), id));
        }
    }

    fn error(
        &mut self,
        parts: &mut Parts<'_>,
        frame: &Frame<'_>,
        message: &Message<'_>,
        error: &Json,
        transport: &Transport,
    ) {
        // An error without an id answers what its HTTP exchange asked, if that was one request.
        let direction = opposite(frame.direction);
        let asked = match (&message.id, transport.exchange) {
            (Some(id), exchange) => self.pending.take(direction, id, exchange),
            (None, Some(exchange)) => self.pending.take_exchange(exchange).pop(),
            (None, None) => None,
        };
        let kind = asked.as_ref().map_or(Kind::Request, |asked| method::response_kind(&asked.method));
        let mut record = parts.begin(kind);
        self.frame_columns(&mut record, parts, frame, transport);
        record.name = asked.as_ref().map(|asked| asked.method.clone());
        self.answered(&mut record, frame, asked.as_ref(), message.id.as_deref().unwrap_or_default());
        let code = error.get("code").and_then(Json::as_i64);
        record.rpc_error_code = code;
        record.error_type = code.map(|code| code.to_string());
        record.text = error.str_at("message").map(str::to_string);
        record.outcome = Some(outcome::error_outcome(code, record.text.as_deref(), record.transport_status.as_deref()));
        let mut attributes = transport.notes.clone();
        attributes.put("error", error.clone());
        self.note_pairing(&mut attributes, asked.is_some());
        attributes.finish(&mut record);
        let template = record.clone();
        parts.push(record);
        self.urls(parts, frame, error, &template);
    }

    fn note_pairing(&self, attributes: &mut Attributes, is_paired: bool) {
        if !is_paired {
            attributes.put("threadline.unpaired", Json::Bool(true));
            if self.pending.dropped() > 0 {
                attributes.number("threadline.pending_dropped", self.pending.dropped());
            }
        }
    }

    /// What every record of this connection has.
    pub(crate) fn frame_columns(
        &self,
        record: &mut Record,
        parts: &Parts<'_>,
        frame: &Frame<'_>,
        transport: &Transport,
    ) {
        record.set_time(frame.time_unix_nano, parts.context.observed_time_unix_us);
        record.source_kind = SourceKind::Wire;
        record.source_name.clone_from(&self.source_name);
        record.source_sequence = frame.sequence;
        record.direction = Some(frame.direction);
        record.server_name.clone_from(&self.server_name);
        record.client_name.clone_from(&self.client_name);
        record.connection_id = Some(self.connection_id.clone());
        record.transport_status.clone_from(&transport.status);
        record.credential_fingerprint.clone_from(&transport.credential_fingerprint);
        self.session.iter().for_each(|session| record.add_key(session.clone()));
        for id in &transport.request_ids {
            record.add_key(Key::new(KeyKind::Request, id));
        }
    }

    /// Takes the requests that an HTTP exchange leaves unanswered.
    pub(crate) fn take_unanswered(&mut self, exchange: u64) -> Vec<Asked> {
        self.pending.take_exchange(exchange)
    }

    /// Ids of the requests that an HTTP exchange has not answered.
    pub(crate) fn unanswered(&self, exchange: u64) -> Vec<String> {
        self.pending.ids_of_exchange(exchange)
    }

    fn learn_client(&mut self, method: &str, params: &Json) {
        let revision = match method {
            "initialize" => params.str_at("protocolVersion"),
            _ => params.at(&["_meta", "io.modelcontextprotocol/protocolVersion"]).and_then(Json::as_str),
        };
        if let Some(revision) = revision {
            self.is_stateless = revision >= method::STATELESS_SINCE;
        }
        let info = match method {
            "initialize" => params.get("clientInfo"),
            _ => params.at(&["_meta", "io.modelcontextprotocol/clientInfo"]),
        };
        if let Some(name) = info.and_then(meta::implementation).filter(|name| name.len() <= NAME_BYTES_MAX) {
            self.client_name = Some(name);
        }
    }

    fn learn_server(&mut self, result: &Json, is_initialize: bool) {
        if let Some(revision) = result.str_at("protocolVersion").filter(|_| is_initialize) {
            self.is_stateless = revision >= method::STATELESS_SINCE;
        }
        let info = result.get("serverInfo").or_else(|| result.at(&["_meta", "io.modelcontextprotocol/serverInfo"]));
        let name = info.and_then(|info| info.str_at("name")).filter(|name| name.len() <= NAME_BYTES_MAX);
        if self.server_name.is_none() {
            self.server_name = name.map(str::to_string);
        }
    }

    fn rpc_key(&self, asker: Direction, id: &str) -> Key {
        Key::scoped(KeyKind::Rpc, &self.scope(asker), id)
    }

    fn progress_key(&self, asker: Direction, token: &Json) -> Key {
        Key::scoped(KeyKind::Progress, &self.scope(asker), &token.to_string())
    }

    /// Both sides number their own requests, so the asker is part of the scope.
    fn scope(&self, asker: Direction) -> String {
        let side = if asker == Direction::ClientToServer { "client" } else { "server" };
        format!("{}:{side}", self.connection_id)
    }
}

/// A server that calls tools, a client that elicits: no peer of the protocol does that.
fn note_sender(attributes: &mut Attributes, method: &str, direction: Direction) {
    if !method::is_sender(method, direction) {
        attributes.put("threadline.unexpected_sender", Json::Bool(true));
    }
}

fn request_state_key(state: &str) -> Key {
    Key::new(KeyKind::RequestState, &hex::encode(Sha256::digest(state)))
}

fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::ClientToServer => Direction::ServerToClient,
        _ => Direction::ClientToServer,
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_protocol;
