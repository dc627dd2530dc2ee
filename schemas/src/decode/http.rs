//! HTTP exchanges of MCP servers as records: a request, the head of its response, the chunks of the body, its end.
//! Whoever saw the exchange (a recording: [`crate::decode::http_capture`]; the recording proxy: [`proxy`]) gives its events to
//! [`HttpDecoder`], so that there is one way of understanding it.
//!
//! **Every event gives exactly one record that carries it** (`raw` set, delivery key without `#`):
//! - `Request` with a JSON body: the JSON-RPC message in it (a batch: its messages); OAuth (a path under `/.well-known/`,
//!   a request for authorization, tokens or registration): `auth`; GET and DELETE: `connection`; anything else: `request`
//! - `ResponseHead`: `log` with the status in `transport_status`
//! - `BodyChunk`: the message (or messages) that it completes, else `log`. An SSE event completes with its
//!   blank line, a JSON body when `content-length` is reached. JSON that does not try to be JSON-RPC: `auth` where its
//!   request was, else `log`
//! - `End`: the JSON body that ends here without a `content-length`; or, for each request that an error or an
//!   empty response leaves unanswered, a record of the kind its response would have (`denied` for
//!   401 and 403, else `error`; without an outcome where a successful response could not be read, with why and the length
//!   and digest of what was not read); else `log`
//! - `ClientDisconnect`: where nothing names a session and `Mcp-Protocol-Version` names no earlier revision than 2026-07-28,
//!   the disconnect cancels: for each unanswered request a `notification` with outcome `cancelled` and its `rpc` key, as
//!   a cancel frame would be; else `connection` (a GET stream) or `log`
//! - `Failure`: for each request that it leaves unanswered a record of the kind its response would have; a stream of a
//!   session may be resumed, so its requests go on waiting; else `log`
//!
//! Further messages of an event, tool definitions, questions and answers are parts of it (`#1`, `#2`, ...).
//! Events of an exchange bear the ids of its request.
//!
//! Connections: `Mcp-Session-Id` names one (`initialize` opens it before the id is known); in the transport HTTP+SSE of
//! 2024-11-05 the stream's `endpoint` event does, and responses come in that stream, not in that of the request; without
//! either see [`sessionless`]. Connection id: `<scope>-<n>`.
//!
//! The tools that a server without sessions lists are known for all its connections ([`inventories`]).
//!
//! Bounds: [`EXCHANGES_MAX`] open exchanges, [`CONNECTIONS_MAX`] connections (oldest dropped), which remember
//! [`REMEMBERED_BYTES_MAX`] together,
//! [`BODY_BYTES_MAX`] held per body and [`HELD_BYTES_MAX`] in all (then `rejected`, and the rest of that body `log`).

mod exchange;
mod headers;
mod inventories;
pub mod proxy;
mod sessionless;
mod sse;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use self::exchange::{Body, Exchange, Unread};
pub use self::headers::Headers;
use self::inventories::{Inventories, Scope};
use self::sessionless::{Sender, Sessionless};
use super::mcp::parts::{Attributes, Parts};
use super::mcp::pending::Asked;
use super::mcp::{Frame, McpDecoder, Transport, message, method};
use super::{Context, Line};
use crate::columns::Record;
use crate::json::{self, Json, JsonError, Parsed};
use crate::keys::{Key, KeyKind};
use crate::limits::http::{
    BODY_BYTES_MAX, CONNECTIONS_MAX, EXCHANGES_MAX, HELD_BYTES_MAX, REMEMBERED_BYTES_MAX, SESSION_BYTES_MAX,
};
use crate::record::{Direction, Kind, Outcome, SourceKind};

/// Decoder name in records.
pub const DECODER: &str = "mcp-http";

/// Decodes the exchanges of one recording in order.
#[derive(Debug)]
pub struct HttpDecoder {
    source_name: String,
    server_name: Option<String>,
    scope: String,
    next_connection: u64,
    next_exchange: u64,
    connections: BTreeMap<u64, Connection>,
    /// Those that may remember more or less than they are charged for.
    touched: BTreeSet<u64>,
    /// What all of them are charged for.
    remembered: usize,
    /// Session id -> connection.
    sessions: HashMap<String, u64>,
    /// Path and query that an `endpoint` event named -> connection.
    endpoints: HashMap<String, u64>,
    sessionless: Sessionless,
    inventories: Inventories,
    /// By the number that the recorder gave.
    exchanges: BTreeMap<i64, Exchange>,
    held: usize,
}

/// State of a connection.
#[derive(Debug)]
struct Connection {
    decoder: McpDecoder,
    /// Bytes of it in the sum of all.
    charged: usize,
}

/// Where and when something was seen.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// The recorder's number of the exchange.
    pub exchange: i64,
    /// The recorder's clock.
    pub time_unix_nano: Option<i64>,
    /// The recorder's counter of events.
    pub sequence: Option<i64>,
}

/// What was seen of an exchange.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A request with its body.
    Request(Request<'a>),
    /// Status and header fields of the response.
    ResponseHead {
        /// HTTP status.
        status: Option<i64>,
        /// Its header fields.
        headers: &'a Headers<'a>,
        /// What the recorder has to say about it.
        notes: &'a [(&'a str, String)],
    },
    /// Part of the response's body, decompressed, as it was passed on.
    BodyChunk(&'a [u8]),
    /// The last part of the body: the message in it needs no end of the exchange to be complete.
    LastChunk(&'a [u8]),
    /// Part of a body that the recorder cannot read: in a coding it does not know, or over its limits.
    OpaqueChunk {
        /// Why.
        reason: &'a str,
        /// The bytes, of which length and digest are kept.
        bytes: &'a [u8],
    },
    /// The response is complete.
    End,
    /// The client left before the response was complete.
    ClientDisconnect,
    /// The exchange broke off, not by the client's doing.
    Failure {
        /// In lower-snake words, such as `upstream_connect`.
        reason: &'a str,
        /// The status that the client got instead of the server's.
        status: Option<i64>,
        /// Whether the request was refused rather than failed.
        is_refusal: bool,
    },
}

/// A request as it was seen.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `POST`, `GET`, `DELETE`.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Its header fields.
    pub headers: &'a Headers<'a>,
    /// Its body, decompressed; `None` when it had none.
    pub body: Option<&'a [u8]>,
    /// Why `body` is not all of it, if so.
    pub cut: Option<&'a str>,
    /// Address of the client, without the port.
    pub client: Option<&'a str>,
    /// What the recorder has to say about it.
    pub notes: &'a [(&'a str, String)],
}

impl HttpDecoder {
    /// A decoder for one recording. `server_name` is the name by which the client knows the server, if known; `scope` makes
    /// connection ids unique.
    pub fn new(source_name: &str, server_name: Option<&str>, scope: &str) -> Self {
        HttpDecoder {
            source_name: source_name.into(),
            server_name: server_name.map(str::to_string),
            scope: scope.into(),
            next_connection: 0,
            next_exchange: 0,
            connections: BTreeMap::new(),
            touched: BTreeSet::new(),
            remembered: 0,
            sessions: HashMap::new(),
            endpoints: HashMap::new(),
            sessionless: Sessionless::default(),
            inventories: Inventories::default(),
            exchanges: BTreeMap::new(),
            held: 0,
        }
    }

    /// The records of one event; `line` is what carries it.
    pub fn event(&mut self, context: &Context<'_>, line: Line<'_>, seen: Seen, event: Event<'_>) -> Vec<Record> {
        let mut parts = Parts::new(context, line, DECODER);
        match event {
            Event::Request(request) => self.request(&mut parts, seen, request),
            Event::ResponseHead { status, headers, notes } => {
                self.response_head(&mut parts, seen, status, headers, notes);
            }
            Event::BodyChunk(data) => self.body_chunk(&mut parts, seen, data, false),
            Event::LastChunk(data) => self.body_chunk(&mut parts, seen, data, true),
            Event::OpaqueChunk { reason, bytes } => self.opaque_chunk(&mut parts, seen, reason, bytes),
            Event::End => self.end(&mut parts, seen),
            Event::ClientDisconnect => self.client_disconnect(&mut parts, seen),
            Event::Failure { reason, status, is_refusal } => {
                self.failure(&mut parts, seen, reason, status, is_refusal);
            }
        }
        self.charge();
        parts.finish()
    }

    /// Bytes held of bodies that are not complete.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Events of this exchange were lost: what the next chunk begins with cannot be read.
    pub fn lost(&mut self, exchange: i64) {
        self.change(exchange, Exchange::lost);
    }

    fn request(&mut self, parts: &mut Parts<'_>, seen: Seen, request: Request<'_>) {
        let Request { method: http_method, path, headers, body, .. } = request;
        let is_json = headers.get("content-type").is_none_or(|content| content.to_ascii_lowercase().contains("json"));
        let parsed = body.filter(|_| is_json && request.cut.is_none()).map(json::parse);
        let sender = headers.identity(parts.context, path, request.client);
        let (connection, is_endpoint) = self.connection_of(headers, path, sender, parsed.as_ref());
        self.next_exchange += 1;
        let mut exchange = Exchange::new(self.next_exchange, connection, http_method);
        exchange.request_ids = headers.request_ids();
        exchange.answers_elsewhere = is_endpoint;
        let revision = headers.get("mcp-protocol-version");
        exchange.is_stateless = revision.map(|revision| revision >= method::STATELESS_SINCE);
        let mut transport = exchange.transport();
        transport.traceparent = headers.get("traceparent").and_then(super::mcp::meta::parse_traceparent);
        transport.credential_fingerprint = headers.credential_fingerprint(parts.context);
        transport.notes = headers.notes(http_method, path);
        request.client.into_iter().for_each(|client| transport.notes.text("client.address", client));
        transport.notes.said(request.notes);
        let frame = seen.frame(body.unwrap_or_default(), Direction::ClientToServer);
        let is_stateless = exchange.is_stateless == Some(true) && !self.decoder(connection).has_session();
        exchange.scope = Scope::of(headers, path).filter(|_| is_stateless);
        let shared = exchange.scope.map(|scope| self.inventories.take(scope));
        let decoder = self.decoder(connection);
        decoder.lend(shared);
        match (&parsed, request.cut) {
            (Some(parsed), _) if !is_foreign(parsed) => {
                if let Ok(parsed) = parsed {
                    let tool = parsed.value.at(&["params", "name"]).and_then(Json::as_str).unwrap_or_default();
                    let mismatches = headers.mismatches(&parsed.value, decoder.mirrored(tool));
                    transport.notes.texts("threadline.header_mismatch", mismatches);
                }
                decoder.message(parts, &frame, parsed, &transport);
            }
            (_, Some(reason)) => decoder.rejected(parts, &frame, &transport, reason),
            (_, None) => {
                exchange.is_auth = is_oauth(path, body.unwrap_or_default());
                let kind = match http_method {
                    _ if exchange.is_auth => Kind::Auth,
                    "GET" | "DELETE" => Kind::Connection,
                    _ => Kind::Request,
                };
                let mut record = parts.begin(kind);
                decoder.frame_columns(&mut record, parts, &frame, &transport);
                record.name = Some(http_method.into());
                record.target = Some(path.into());
                transport.notes.finish(&mut record);
                parts.push(record);
            }
        }
        self.take_back(connection, exchange.scope);
        if let Some(first) = parts.first() {
            let (name, id) = (first.name.clone().unwrap_or_default(), first.rpc_id.clone().unwrap_or_default());
            exchange.asked = Some(Asked::of(first, &name, &id, seen.time_unix_nano, None));
        }
        self.learn_server(connection);
        self.open(seen.exchange, exchange);
    }

    fn response_head(
        &mut self,
        parts: &mut Parts<'_>,
        seen: Seen,
        status: Option<i64>,
        headers: &Headers<'_>,
        said: &[(&str, String)],
    ) {
        let Some(connection) = self.change(seen.exchange, |exchange| {
            exchange.begin_response(status, headers);
            exchange.connection
        }) else {
            return self.unknown_exchange(parts, seen, "response-head", status);
        };
        if let Some(session) = headers.get("mcp-session-id") {
            self.bind_session(session, connection, None);
        }
        let mut notes = headers.response_notes();
        notes.said(said);
        self.log(parts, seen, "response-head", notes);
    }

    fn body_chunk(&mut self, parts: &mut Parts<'_>, seen: Seen, data: &[u8], is_last: bool) {
        let is_full = self.held + data.len() > HELD_BYTES_MAX;
        let Some((messages, is_text, empty_id)) = self.change(seen.exchange, |exchange| {
            let body = &mut exchange.body;
            if matches!(body, Body::Other) {
                exchange.unread.iter_mut().for_each(|unread| unread.add(data));
            } else if is_full || body.held() + data.len() > BODY_BYTES_MAX {
                let mut unread = Unread::new("response body is over the limit");
                unread.add(&body.finish().unwrap_or_default());
                unread.add(data);
                exchange.unread = Some(unread);
                *body = Body::Other;
                return (None, false, None);
            }
            let mut messages = body.feed(data);
            if is_last {
                messages.extend(body.finish().map(|data| sse::Event { name: None, id: None, data }));
            }
            let empty_id = if let Body::Events(reader) = body { reader.take_empty_id() } else { None };
            (Some(messages), matches!(body, Body::Other), empty_id)
        }) else {
            return self.unknown_exchange(parts, seen, "body-chunk", None);
        };
        let Some(messages) = messages else {
            let record = parts.begin_rejected("response body is over the limit; its chunks are kept one by one");
            return self.push(parts, seen, record, "body-chunk", Attributes::default());
        };
        for message in messages {
            let mut notes = Attributes::default();
            message.id.into_iter().for_each(|id| notes.text("sse.id", id));
            if message.name.as_deref() == Some("endpoint") {
                self.endpoint(parts, seen, &message.data, notes);
            } else {
                self.response_message(parts, seen, &message.data, notes);
            }
        }
        if parts.is_empty() {
            let mut notes = Attributes::default();
            empty_id.into_iter().for_each(|id| notes.text("sse.id", id));
            self.log(parts, seen, "body-chunk", notes);
            if is_text {
                parts.set_text(String::from_utf8_lossy(data).into_owned());
            }
        }
    }

    fn opaque_chunk(&mut self, parts: &mut Parts<'_>, seen: Seen, reason: &str, bytes: &[u8]) {
        let is_known = self.change(seen.exchange, |exchange| {
            exchange.body = Body::Other;
            exchange.unread.get_or_insert_with(|| Unread::new(reason)).add(bytes);
        });
        if is_known.is_none() {
            return self.unknown_exchange(parts, seen, "body-chunk", None);
        }
        let mut unread = Unread::new(reason);
        unread.add(bytes);
        self.log(parts, seen, "body-chunk", unread.notes());
    }

    /// The server of HTTP+SSE says where to POST: requests there belong to the connection of this stream.
    fn endpoint(&mut self, parts: &mut Parts<'_>, seen: Seen, data: &[u8], mut notes: Attributes) {
        let Some(connection) = self.exchanges.get(&seen.exchange).map(|exchange| exchange.connection) else { return };
        let target = String::from_utf8_lossy(data).into_owned();
        let path = path_of(&target);
        if path.len() <= SESSION_BYTES_MAX {
            if self.endpoints.len() == CONNECTIONS_MAX {
                self.endpoints.clear();
            }
            self.endpoints.insert(path.into(), connection);
            let query = path.split_once('?').map_or("", |(_, query)| query);
            let session = query.split('&').find_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                matches!(name, "session_id" | "sessionId" | "session").then_some(value)
            });
            self.bind_session(session.unwrap_or(path), connection, None);
        }
        notes.text("sse.event", "endpoint");
        self.log(parts, seen, "endpoint", notes);
        parts.set_text(target);
    }

    fn end(&mut self, parts: &mut Parts<'_>, seen: Seen) {
        let Some(rest) = self.change(seen.exchange, |exchange| exchange.body.finish()) else {
            return self.unknown_exchange(parts, seen, "end", None);
        };
        let Some(exchange) = self.exchanges.get(&seen.exchange) else { return };
        let is_stream = exchange.is_stream();
        let (answers_elsewhere, is_failure) = (exchange.answers_elsewhere, exchange.is_failure());
        let incomplete = exchange.body.held();
        let unread = exchange.unread.clone().filter(|_| !is_failure);
        let (connection, serial, status) = (exchange.connection, exchange.serial, exchange.status.clone());
        if let Some(body) = rest {
            self.response_message(parts, seen, &body, Attributes::default());
        }
        let mut notes = Attributes::default();
        if is_stream || (answers_elsewhere && !is_failure) {
            // A stream may be resumed by another exchange, or answers for this one, so its requests go on waiting.
            notes.texts("threadline.unanswered", self.decoder(connection).unanswered(serial));
            if incomplete > 0 {
                notes.number("threadline.incomplete_event_bytes", incomplete);
            }
        } else {
            let unanswered = self.decoder(connection).take_unanswered(serial);
            let error = status.as_deref().map_or_else(|| "no_response".into(), |status| format!("http_{status}"));
            let is_denied = matches!(status.as_deref(), Some("401" | "403"));
            for asked in &unanswered {
                match &unread {
                    // There was an answer, only nobody here knows which.
                    Some(unread) => self.unread_answer(parts, seen, asked, unread),
                    None => self.no_answer(parts, seen, asked, &error, is_denied),
                }
            }
        }
        if parts.is_empty() {
            self.log(parts, seen, "end", notes);
        }
        self.close(seen.exchange);
    }

    fn client_disconnect(&mut self, parts: &mut Parts<'_>, seen: Seen) {
        let Some(exchange) = self.exchanges.get(&seen.exchange) else {
            return self.unknown_exchange(parts, seen, "client-disconnect", None);
        };
        let (connection, serial, is_get) = (exchange.connection, exchange.serial, exchange.http_method == "GET");
        let may_be_resumed = exchange.is_stateless == Some(false);
        let transport = exchange.transport();
        let decoder = self.decoder(connection);
        let mut notes = Attributes::default();
        if may_be_resumed || decoder.has_session() {
            notes.texts("threadline.unanswered", decoder.unanswered(serial));
        } else {
            for asked in decoder.take_unanswered(serial) {
                let mut record = parts.begin(Kind::Notification);
                let frame = seen.frame(b"", Direction::ClientToServer);
                decoder.frame_columns(&mut record, parts, &frame, &transport);
                asked.carry(&mut record);
                record.name = Some("client-disconnect".into());
                record.transport_status = Some("client-disconnect".into());
                record.duration_nano = asked.duration_to(seen.time_unix_nano);
                record.outcome = Some(Outcome::Cancelled);
                parts.push(record);
            }
        }
        if parts.is_empty() {
            self.log(parts, seen, "client-disconnect", notes);
            parts.set_kind(if is_get { Kind::Connection } else { Kind::Log });
        }
        self.close(seen.exchange);
    }

    fn failure(&mut self, parts: &mut Parts<'_>, seen: Seen, reason: &str, status: Option<i64>, is_refusal: bool) {
        let Some((connection, serial, may_be_resumed)) = self.change(seen.exchange, |exchange| {
            exchange.status = status.map(|status| status.to_string()).or(exchange.status.take());
            (exchange.connection, exchange.serial, exchange.is_stream())
        }) else {
            return self.unknown_exchange(parts, seen, "failure", status);
        };
        let decoder = self.decoder(connection);
        let mut notes = Attributes::default();
        notes.text("threadline.failure", reason);
        if may_be_resumed && decoder.has_session() {
            notes.texts("threadline.unanswered", decoder.unanswered(serial));
        } else {
            let unanswered = decoder.take_unanswered(serial);
            unanswered.iter().for_each(|asked| self.no_answer(parts, seen, asked, reason, is_refusal));
        }
        if parts.is_empty() {
            self.log(parts, seen, "failure", notes);
            parts.set_outcome(if is_refusal { Outcome::Denied } else { Outcome::Error }, reason);
        }
        self.close(seen.exchange);
    }

    /// A message that the server sent in the response of this exchange.
    fn response_message(&mut self, parts: &mut Parts<'_>, seen: Seen, message: &[u8], notes: Attributes) {
        let Some(exchange) = self.exchanges.get(&seen.exchange) else { return };
        let (connection, scope) = (exchange.connection, exchange.scope);
        let is_failure = exchange.is_failure();
        let transport = Transport { notes, ..exchange.transport() };
        let parsed = json::parse(message);
        let is_message = parsed
            .as_ref()
            .is_ok_and(|parsed| matches!(parsed.value, Json::Array(_)) || message::read(&parsed.value).is_ok());
        if !is_message && (is_failure || is_foreign(&parsed)) {
            // It need not be JSON-RPC; where it is an error, the end of the exchange says what it answers.
            let is_auth = exchange.is_auth;
            self.log(parts, seen, "body", transport.notes);
            if is_auth {
                parts.set_kind(Kind::Auth);
            }
            return parts.set_text(String::from_utf8_lossy(message).into_owned());
        }
        let frame = seen.frame(message, Direction::ServerToClient);
        let shared = scope.map(|scope| self.inventories.take(scope));
        let decoder = self.decoder(connection);
        decoder.lend(shared);
        decoder.message(parts, &frame, &parsed, &transport);
        self.take_back(connection, scope);
        self.learn_server(connection);
    }

    /// The inventory that a connection was lent goes back to the others.
    fn take_back(&mut self, connection: u64, scope: Option<Scope>) {
        let shared = self.decoder(connection).give_back();
        scope.zip(shared).into_iter().for_each(|(scope, shared)| self.inventories.put(scope, shared));
    }

    /// The record of a request's end when no message answered it.
    fn no_answer(&mut self, parts: &mut Parts<'_>, seen: Seen, asked: &Asked, error: &str, is_denied: bool) {
        let Some(mut record) = self.answer(parts, seen, asked) else { return };
        record.error_type = Some(error.into());
        record.outcome = Some(if is_denied { Outcome::Denied } else { Outcome::Error });
        parts.push(record);
    }

    /// The record of a request's end when its answer could not be read, so without an outcome.
    fn unread_answer(&mut self, parts: &mut Parts<'_>, seen: Seen, asked: &Asked, unread: &Unread) {
        let Some(mut record) = self.answer(parts, seen, asked) else { return };
        record.text = Some(unread.to_string());
        unread.notes().finish(&mut record);
        parts.push(record);
    }

    /// What is known of an answer that is no message here.
    fn answer(&mut self, parts: &mut Parts<'_>, seen: Seen, asked: &Asked) -> Option<Record> {
        let exchange = self.exchanges.get(&seen.exchange)?;
        let (connection, transport) = (exchange.connection, exchange.transport());
        let mut record = parts.begin(method::response_kind(&asked.method));
        let frame = seen.frame(b"", Direction::ServerToClient);
        self.decoder(connection).frame_columns(&mut record, parts, &frame, &transport);
        asked.carry(&mut record);
        record.name = Some(asked.method.clone());
        record.duration_nano = asked.duration_to(seen.time_unix_nano);
        Some(record)
    }

    /// The record of a line that completes nothing.
    fn log(&mut self, parts: &mut Parts<'_>, seen: Seen, name: &str, notes: Attributes) {
        let record = parts.begin(Kind::Log);
        self.push(parts, seen, record, name, notes);
    }

    /// Gives a record what is known of its exchange.
    fn push(&mut self, parts: &mut Parts<'_>, seen: Seen, mut record: Record, name: &str, notes: Attributes) {
        let Some(exchange) = self.exchanges.get(&seen.exchange) else { return };
        let (connection, transport, asked) = (exchange.connection, exchange.transport(), exchange.asked.clone());
        let direction = if name == "client-disconnect" { Direction::ClientToServer } else { Direction::ServerToClient };
        self.decoder(connection).frame_columns(&mut record, parts, &seen.frame(b"", direction), &transport);
        if let Some(asked) = asked {
            asked.carry(&mut record);
        }
        record.name = Some(format!("http {name}"));
        if name == "client-disconnect" {
            record.transport_status = Some(name.into());
        }
        notes.finish(&mut record);
        parts.push(record);
    }

    fn unknown_exchange(&self, parts: &mut Parts<'_>, seen: Seen, name: &str, status: Option<i64>) {
        let mut record = parts.begin(Kind::Log);
        record.set_time(seen.time_unix_nano, parts.context.observed_time_unix_us);
        record.source_kind = SourceKind::Wire;
        record.source_name.clone_from(&self.source_name);
        record.source_sequence = seen.sequence;
        record.server_name.clone_from(&self.server_name);
        record.name = Some(format!("http {name}"));
        record.transport_status = status.map(|status| status.to_string());
        let mut notes = Attributes::default();
        notes.number("threadline.unknown_exchange", seen.exchange);
        notes.finish(&mut record);
        parts.push(record);
    }

    /// The connection of a request, and whether an `endpoint` event named its path.
    fn connection_of(
        &mut self,
        headers: &Headers<'_>,
        path: &str,
        identity: String,
        parsed: Option<&Result<Parsed, JsonError>>,
    ) -> (u64, bool) {
        let of_endpoint = self.endpoints.get(path).copied().filter(|number| self.connections.contains_key(number));
        if let Some(number) = of_endpoint {
            return (number, true);
        }
        if let Some(session) = headers.get("mcp-session-id") {
            let known = self.sessions.get(session).copied().filter(|number| self.connections.contains_key(number));
            let number = known.unwrap_or_else(|| {
                let number = self.begin_connection();
                self.bind_session(session, number, headers.get("host"));
                number
            });
            return (number, false);
        }
        let value = parsed.and_then(|parsed| parsed.as_ref().ok()).map(|parsed| &parsed.value);
        let sender = Sender { identity, client_name: value.and_then(client_name) };
        let id = value.and_then(|value| value.get("id")).filter(|_| value.is_some_and(|v| v.get("method").is_some()));
        let is_initialize = value.is_some_and(|value| value.str_at("method") == Some("initialize"));
        let known = self.sessionless.find(&sender, id, is_initialize);
        if let Some(number) = known.filter(|number| self.connections.contains_key(number)) {
            return (number, false);
        }
        let number = self.begin_connection();
        self.sessionless.begin(number, sender, id);
        (number, false)
    }

    fn begin_connection(&mut self) -> u64 {
        self.next_connection += 1;
        let id = format!("{}-{}", self.scope, self.next_connection);
        let decoder = McpDecoder::new(DECODER, &self.source_name, self.server_name.as_deref(), &id);
        if self.connections.len() == CONNECTIONS_MAX
            && let Some((_, oldest)) = self.connections.pop_first()
        {
            self.remembered -= oldest.charged;
        }
        self.connections.insert(self.next_connection, Connection { decoder, charged: 0 });
        self.next_connection
    }

    /// The state of a connection; a fresh one under the same id when it was dropped meanwhile.
    fn decoder(&mut self, number: u64) -> &mut McpDecoder {
        let id = format!("{}-{number}", self.scope);
        let (source, server) = (&self.source_name, self.server_name.as_deref());
        self.touched.insert(number);
        let fresh = || Connection { decoder: McpDecoder::new(DECODER, source, server, &id), charged: 0 };
        &mut self.connections.entry(number).or_insert_with(fresh).decoder
    }

    /// Brings the sum up to date. Beyond its bound what remembers most forgets it, so that one that fills
    /// its state costs no other.
    fn charge(&mut self) {
        while let Some(number) = self.touched.pop_first() {
            let Some(connection) = self.connections.get_mut(&number) else { continue };
            let is = connection.decoder.remembered();
            self.remembered = self.remembered - connection.charged + is;
            connection.charged = is;
        }
        while self.remembered() > REMEMBERED_BYTES_MAX {
            let connection = self.connections.values_mut().max_by_key(|connection| connection.charged);
            let charged = connection.as_ref().map_or(0, |connection| connection.charged);
            match (connection, self.inventories.largest()) {
                (_, Some(inventory)) if inventory.bytes() > charged => inventory.forget(),
                (Some(most), _) => {
                    most.decoder.forget();
                    self.remembered -= std::mem::take(&mut most.charged);
                }
                _ => return,
            }
        }
    }

    /// Bytes of what is remembered of connections and servers.
    fn remembered(&self) -> usize {
        self.remembered + self.inventories.bytes()
    }

    fn bind_session(&mut self, session: &str, number: u64, host: Option<&str>) {
        if self.decoder(number).has_session() {
            return;
        }
        let scope = self.server_name.as_deref().or(host).unwrap_or(&self.source_name);
        let key = Key::scoped(KeyKind::McpSession, scope, session);
        self.decoder(number).set_session(key);
        self.sessionless.end(number);
        if self.sessions.len() == CONNECTIONS_MAX {
            self.sessions.clear();
        }
        if session.len() <= SESSION_BYTES_MAX {
            self.sessions.insert(session.into(), number);
        }
    }

    fn learn_server(&mut self, number: u64) {
        if self.server_name.is_none() {
            self.server_name = self.decoder(number).server_name().map(str::to_string);
        }
    }

    fn open(&mut self, number: i64, exchange: Exchange) {
        self.close(number);
        if self.exchanges.len() == EXCHANGES_MAX
            && let Some(oldest) = self.exchanges.keys().next().copied()
        {
            self.close(oldest);
        }
        self.exchanges.insert(number, exchange);
    }

    /// Changes an exchange and keeps the count of held bytes with it.
    fn change<T>(&mut self, number: i64, change: impl FnOnce(&mut Exchange) -> T) -> Option<T> {
        let exchange = self.exchanges.get_mut(&number)?;
        let before = exchange.body.held();
        let result = change(exchange);
        self.held = self.held - before + exchange.body.held();
        Some(result)
    }

    fn close(&mut self, number: i64) {
        if let Some(exchange) = self.exchanges.remove(&number) {
            self.held -= exchange.body.held();
        }
    }
}

impl Seen {
    fn frame(self, message: &[u8], direction: Direction) -> Frame<'_> {
        Frame { message, direction, time_unix_nano: self.time_unix_nano, sequence: self.sequence }
    }
}

fn client_name(message: &Json) -> Option<String> {
    let info = message.at(&["params", "_meta", "io.modelcontextprotocol/clientInfo"]);
    let info = info.or_else(|| message.at(&["params", "clientInfo"]))?;
    super::mcp::meta::implementation(info).filter(|name| name.len() <= 1024)
}

/// Whether a document is JSON that does not try to be a JSON-RPC message.
fn is_foreign(parsed: &Result<Parsed, JsonError>) -> bool {
    const OWN: [&str; 4] = ["jsonrpc", "method", "params", "result"];
    parsed.as_ref().is_ok_and(|parsed| {
        matches!(parsed.value, Json::Object(_)) && !OWN.iter().any(|name| parsed.value.get(name).is_some())
    })
}

/// Whether a request is part of OAuth: metadata, authorization, token or revocation, registration.
fn is_oauth(path: &str, body: &[u8]) -> bool {
    let starts = |name: &[u8]| body.starts_with(name) || memchr::memmem::find(body, &[b"&", name].concat()).is_some();
    path.contains("/.well-known/")
        || path.contains("?response_type=")
        || path.contains("&response_type=")
        || starts(b"grant_type=")
        || starts(b"token=")
        || memchr::memmem::find(body, b"\"redirect_uris\"").is_some()
}

/// Path and query of a URI reference.
fn path_of(target: &str) -> &str {
    let after_scheme =
        target.split_once("://").map_or(target, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    after_scheme.split('#').next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
