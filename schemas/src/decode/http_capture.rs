//! Recorded HTTP traffic of MCP servers: one JSON object per thing seen,
//! `{"ts_ns": N, "xchg": N, "dir", "kind": "request" | "response-head" | "body-chunk" | "end" | "client-disconnect", ...}`.
//!
//! **Every line gives exactly one record that carries it** (`raw` set, delivery key without `#`):
//! - `request` with a JSON body: the JSON-RPC message in it (a batch: its messages); GET and DELETE without
//!   one: `connection`; a path under `/.well-known/`: `auth`; anything else: `request`
//! - `response-head`: `log` with the status in `transport_status`
//! - `body-chunk`: the message (or messages) that it completes, else `log`. An SSE event completes with its
//!   blank line, a JSON body when `content-length` is reached
//! - `end`: the JSON body that ends here without a `content-length`; or, for each request that an error or an
//!   empty response leaves unanswered, a record of the kind its response would have (`denied` for
//!   401 and 403, else `error`); else `log`
//! - `client-disconnect`: where nothing names a session (2026-07-28) the disconnect cancels: for each unanswered
//!   request a `notification` with outcome `cancelled` and its `rpc` key, as a cancel frame would be; else
//!   `connection` (a GET stream) or `log`
//! - a line that is none of these: `rejected`
//!
//! Further messages of a line, tool definitions, questions and answers are parts of it (`#1`, `#2`, ...).
//! Lines of an exchange bear the ids of its request.
//!
//! Connections: `Mcp-Session-Id` names one (`initialize` opens it before the id is known); without it see
//! [`sessionless`]. Connection id: `<digest of the first line>-<n>`.
//!
//! Bounds: [`EXCHANGES_MAX`] open exchanges, [`CONNECTIONS_MAX`] connections (oldest dropped),
//! [`BODY_BYTES_MAX`] held per body and [`HELD_BYTES_MAX`] in all (then `rejected`, and the rest of that body `log`).

mod exchange;
mod sessionless;
mod sse;

use std::collections::{BTreeMap, HashMap};

use self::exchange::{Body, Exchange, Headers};
use self::sessionless::{Sender, Sessionless};
use super::mcp::parts::{Attributes, Parts};
use super::mcp::pending::Asked;
use super::mcp::{Frame, McpDecoder, Transport, message, method};
use super::stdio_capture::{names, rejected_line};
use super::{Context, Line, LineDecoder};
use crate::columns::Record;
use crate::json::{self, Json, JsonError, Parsed};
use crate::keys::{Key, KeyKind};
use crate::record::{Direction, Kind, Outcome};

/// Decoder name in records.
pub const DECODER: &str = "mcp-http";
/// Exchanges that may be open at once.
pub const EXCHANGES_MAX: usize = 4096;
/// Connections whose state is kept.
pub const CONNECTIONS_MAX: usize = 4096;
/// Bytes held of one body (16 MiB).
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// Bytes held of all bodies (64 MiB).
pub const HELD_BYTES_MAX: usize = 64 << 20;

/// Decodes one capture file.
#[derive(Debug)]
pub struct HttpCapture {
    source_name: String,
    server_name: Option<String>,
    file_id: String,
    next_connection: u64,
    next_exchange: u64,
    connections: BTreeMap<u64, McpDecoder>,
    /// Session id -> connection.
    sessions: HashMap<String, u64>,
    sessionless: Sessionless,
    /// By the number the recorder gave.
    exchanges: BTreeMap<i64, Exchange>,
    held: usize,
}

/// One line, taken apart.
struct Event<'a> {
    value: &'a Json,
    time_unix_nano: Option<i64>,
    number: i64,
}

impl HttpCapture {
    /// A decoder for the file of this name; `file_id` (digest of its first line) scopes connection ids.
    pub fn new(file_name: &str, file_id: &str) -> Self {
        let (source_name, server_name) = names(file_name);
        HttpCapture {
            source_name,
            server_name,
            file_id: file_id.into(),
            next_connection: 0,
            next_exchange: 0,
            connections: BTreeMap::new(),
            sessions: HashMap::new(),
            sessionless: Sessionless::default(),
            exchanges: BTreeMap::new(),
            held: 0,
        }
    }

    fn request(&mut self, parts: &mut Parts<'_>, event: &Event<'_>) {
        let headers = Headers(event.value.get("headers").unwrap_or(&Json::Null));
        let http_method = event.value.str_at("method").unwrap_or_default();
        let path = event.value.str_at("path").unwrap_or_default();
        let body = event.value.str_at("body");
        let is_json = headers.get("content-type").is_none_or(|content| content.to_ascii_lowercase().contains("json"));
        let parsed = body.filter(|_| is_json).map(|body| json::parse(body.as_bytes()));
        let connection = self.connection_of(parts.context, &headers, path, parsed.as_ref());
        self.next_exchange += 1;
        let mut exchange = Exchange::new(self.next_exchange, connection, http_method);
        exchange.request_ids = headers.request_ids();
        let mut transport = exchange.transport();
        transport.traceparent = headers.get("traceparent").and_then(super::mcp::meta::parse_traceparent);
        transport.credential_fingerprint = headers.credential_fingerprint(parts.context);
        transport.notes = headers.notes(http_method, path);
        let frame = event.frame(body.unwrap_or_default().as_bytes(), Direction::ClientToServer);
        let decoder = self.decoder(connection);
        match &parsed {
            Some(parsed) => {
                if let Ok(parsed) = parsed {
                    transport.notes.texts("threadline.header_mismatch", headers.mismatches(&parsed.value));
                }
                decoder.message(parts, &frame, parsed, &transport);
            }
            None => {
                let kind = match http_method {
                    _ if path.contains("/.well-known/") => Kind::Auth,
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
        if let Some(first) = parts.first() {
            let (name, id) = (first.name.clone().unwrap_or_default(), first.rpc_id.clone().unwrap_or_default());
            exchange.asked = Some(Asked::of(first, &name, &id, event.time_unix_nano, None));
        }
        self.learn_server(connection);
        self.open(event.number, exchange);
    }

    fn response_head(&mut self, parts: &mut Parts<'_>, event: &Event<'_>) {
        let headers = Headers(event.value.get("headers").unwrap_or(&Json::Null));
        let status = event.value.get("status").and_then(Json::as_i64);
        let Some(connection) = self.change(event.number, |exchange| {
            exchange.begin_response(status, &headers);
            exchange.connection
        }) else {
            return self.unknown_exchange(parts, event);
        };
        if let Some(session) = headers.get("mcp-session-id") {
            self.bind_session(session, connection, None);
        }
        self.log(parts, event, "response-head", headers.response_notes());
    }

    fn body_chunk(&mut self, parts: &mut Parts<'_>, event: &Event<'_>) {
        let Some(data) = event.value.get("data").and_then(Json::as_str) else {
            let record = parts.begin_rejected("no text in \"data\"");
            return parts.push(record);
        };
        let is_full = self.held + data.len() > HELD_BYTES_MAX;
        let Some((messages, is_text)) = self.change(event.number, |exchange| {
            let body = &mut exchange.body;
            if !matches!(body, Body::Other) && (is_full || body.held() + data.len() > BODY_BYTES_MAX) {
                *body = Body::Other;
                return (None, false);
            }
            (Some(body.feed(data)), matches!(body, Body::Other))
        }) else {
            return self.unknown_exchange(parts, event);
        };
        let Some(messages) = messages else {
            let record = parts.begin_rejected("response body is over the limit; its chunks are kept one by one");
            return parts.push(record);
        };
        for (message, id) in messages {
            let mut notes = Attributes::default();
            id.into_iter().for_each(|id| notes.text("sse.id", id));
            self.response_message(parts, event, &message, notes);
        }
        if parts.is_empty() {
            self.log(parts, event, "body-chunk", Attributes::default());
            if is_text {
                parts.set_text(data.to_string());
            }
        }
    }

    fn end(&mut self, parts: &mut Parts<'_>, event: &Event<'_>) {
        let Some(rest) = self.change(event.number, |exchange| exchange.body.finish()) else {
            return self.unknown_exchange(parts, event);
        };
        let Some(exchange) = self.exchanges.get(&event.number) else { return };
        let is_stream = matches!(exchange.body, Body::Events(_));
        let incomplete = exchange.body.held();
        let (connection, serial, status) = (exchange.connection, exchange.serial, exchange.status.clone());
        if let Some(body) = rest {
            self.response_message(parts, event, &body, Attributes::default());
        }
        let mut notes = Attributes::default();
        if is_stream {
            // A stream may be resumed by another exchange, so its requests go on waiting.
            notes.texts("threadline.unanswered", self.decoder(connection).unanswered(serial));
            if incomplete > 0 {
                notes.number("threadline.incomplete_event_bytes", incomplete);
            }
        } else {
            let unanswered = self.decoder(connection).take_unanswered(serial);
            unanswered.iter().for_each(|asked| self.no_answer(parts, event, asked, status.as_deref()));
        }
        if parts.is_empty() {
            self.log(parts, event, "end", notes);
        }
        self.close(event.number);
    }

    fn client_disconnect(&mut self, parts: &mut Parts<'_>, event: &Event<'_>) {
        let Some(exchange) = self.exchanges.get(&event.number) else {
            return self.unknown_exchange(parts, event);
        };
        let (connection, serial, is_get) = (exchange.connection, exchange.serial, exchange.http_method == "GET");
        let transport = exchange.transport();
        let decoder = self.decoder(connection);
        let mut notes = Attributes::default();
        if decoder.has_session() {
            notes.texts("threadline.unanswered", decoder.unanswered(serial));
        } else {
            for asked in decoder.take_unanswered(serial) {
                let mut record = parts.begin(Kind::Notification);
                let frame = event.frame(b"", Direction::ClientToServer);
                decoder.frame_columns(&mut record, parts, &frame, &transport);
                asked.carry(&mut record);
                record.name = Some("client-disconnect".into());
                record.transport_status = Some("client-disconnect".into());
                record.duration_nano = asked.duration_to(event.time_unix_nano);
                record.outcome = Some(Outcome::Cancelled);
                parts.push(record);
            }
        }
        if parts.is_empty() {
            self.log(parts, event, "client-disconnect", notes);
            parts.set_kind(if is_get { Kind::Connection } else { Kind::Log });
        }
        self.close(event.number);
    }

    /// A message that the server sent in the response of this exchange.
    fn response_message(&mut self, parts: &mut Parts<'_>, event: &Event<'_>, text: &str, notes: Attributes) {
        let Some(exchange) = self.exchanges.get(&event.number) else { return };
        let connection = exchange.connection;
        let is_failure = exchange.is_failure();
        let transport = Transport { notes, ..exchange.transport() };
        let parsed = json::parse(text.as_bytes());
        let is_message = parsed
            .as_ref()
            .is_ok_and(|parsed| matches!(parsed.value, Json::Array(_)) || message::read(&parsed.value).is_ok());
        if is_failure && !is_message {
            // An HTTP error page need not be JSON-RPC; the end of the exchange says what it answers.
            self.log(parts, event, "body", transport.notes);
            return parts.set_text(text.to_string());
        }
        let frame = event.frame(text.as_bytes(), Direction::ServerToClient);
        self.decoder(connection).message(parts, &frame, &parsed, &transport);
        self.learn_server(connection);
    }

    /// The record of a request's end when the response held no message for it.
    fn no_answer(&mut self, parts: &mut Parts<'_>, event: &Event<'_>, asked: &Asked, status: Option<&str>) {
        let Some(exchange) = self.exchanges.get(&event.number) else { return };
        let (connection, transport) = (exchange.connection, exchange.transport());
        let mut record = parts.begin(method::response_kind(&asked.method));
        let frame = event.frame(b"", Direction::ServerToClient);
        self.decoder(connection).frame_columns(&mut record, parts, &frame, &transport);
        asked.carry(&mut record);
        record.name = Some(asked.method.clone());
        record.duration_nano = asked.duration_to(event.time_unix_nano);
        record.error_type = Some(status.map_or_else(|| "no_response".to_string(), |status| format!("http_{status}")));
        let is_denied = matches!(status, Some("401" | "403"));
        record.outcome = Some(if is_denied { Outcome::Denied } else { Outcome::Error });
        parts.push(record);
    }

    /// The record of a line that completes nothing.
    fn log(&mut self, parts: &mut Parts<'_>, event: &Event<'_>, name: &str, notes: Attributes) {
        let Some(exchange) = self.exchanges.get(&event.number) else { return };
        let (connection, transport, asked) = (exchange.connection, exchange.transport(), exchange.asked.clone());
        let mut record = parts.begin(Kind::Log);
        let direction = if name == "client-disconnect" { Direction::ClientToServer } else { Direction::ServerToClient };
        self.decoder(connection).frame_columns(&mut record, parts, &event.frame(b"", direction), &transport);
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

    fn unknown_exchange(&self, parts: &mut Parts<'_>, event: &Event<'_>) {
        let mut record = parts.begin(Kind::Log);
        record.set_time(event.time_unix_nano, parts.context.observed_time_unix_us);
        record.source_kind = crate::record::SourceKind::Wire;
        record.source_name.clone_from(&self.source_name);
        record.server_name.clone_from(&self.server_name);
        record.name = event.value.str_at("kind").map(|kind| format!("http {kind}"));
        record.transport_status = event.value.get("status").map(Json::to_string);
        let mut notes = Attributes::default();
        notes.number("threadline.unknown_exchange", event.number);
        notes.finish(&mut record);
        parts.push(record);
    }

    fn connection_of(
        &mut self,
        context: &Context<'_>,
        headers: &Headers<'_>,
        path: &str,
        parsed: Option<&Result<Parsed, JsonError>>,
    ) -> u64 {
        if let Some(session) = headers.get("mcp-session-id") {
            return match self.sessions.get(session).copied().filter(|number| self.connections.contains_key(number)) {
                Some(number) => number,
                None => {
                    let number = self.begin_connection();
                    self.bind_session(session, number, headers.get("host"));
                    number
                }
            };
        }
        let value = parsed.and_then(|parsed| parsed.as_ref().ok()).map(|parsed| &parsed.value);
        let sender = Sender { identity: headers.identity(context, path), client_name: value.and_then(client_name) };
        let id = value.and_then(|value| value.get("id")).filter(|_| value.is_some_and(|v| v.get("method").is_some()));
        let is_initialize = value.is_some_and(|value| value.str_at("method") == Some("initialize"));
        let known = self.sessionless.find(&sender, id, is_initialize);
        if let Some(number) = known.filter(|number| self.connections.contains_key(number)) {
            return number;
        }
        let number = self.begin_connection();
        self.sessionless.begin(number, sender, id);
        number
    }

    fn begin_connection(&mut self) -> u64 {
        self.next_connection += 1;
        let id = format!("{}-{}", self.file_id, self.next_connection);
        let decoder = McpDecoder::new(DECODER, &self.source_name, self.server_name.as_deref(), &id);
        if self.connections.len() == CONNECTIONS_MAX {
            self.connections.pop_first();
        }
        self.connections.insert(self.next_connection, decoder);
        self.next_connection
    }

    /// The state of a connection; a fresh one under the same id when it was dropped meanwhile.
    fn decoder(&mut self, number: u64) -> &mut McpDecoder {
        let id = format!("{}-{number}", self.file_id);
        let (source, server) = (&self.source_name, self.server_name.as_deref());
        self.connections.entry(number).or_insert_with(|| McpDecoder::new(DECODER, source, server, &id))
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
        if session.len() <= 1024 {
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

impl LineDecoder for HttpCapture {
    fn line(&mut self, context: &Context<'_>, line: Line<'_>) -> Vec<Record> {
        let mut parts = Parts::new(context, line, DECODER);
        let rejected = |reason: &str| vec![rejected_line(context, &line, DECODER, &self.source_name, reason)];
        let value = match json::parse(line.bytes) {
            Ok(parsed) => parsed.value,
            Err(error) => return rejected(&error.to_string()),
        };
        let Some(number) = value.get("xchg").and_then(Json::as_i64) else {
            return rejected("no exchange number in \"xchg\"");
        };
        let event = Event { value: &value, time_unix_nano: value.get("ts_ns").and_then(Json::as_i64), number };
        match value.str_at("kind") {
            Some("request") => self.request(&mut parts, &event),
            Some("response-head") => self.response_head(&mut parts, &event),
            Some("body-chunk") => self.body_chunk(&mut parts, &event),
            Some("end") => self.end(&mut parts, &event),
            Some("client-disconnect") => self.client_disconnect(&mut parts, &event),
            _ => return rejected("no known event in \"kind\""),
        }
        parts.finish()
    }
}

impl Event<'_> {
    fn frame<'m>(&self, message: &'m [u8], direction: Direction) -> Frame<'m> {
        Frame { message, direction, time_unix_nano: self.time_unix_nano, sequence: None }
    }
}

fn client_name(message: &Json) -> Option<String> {
    let info = message.at(&["params", "_meta", "io.modelcontextprotocol/clientInfo"]);
    let info = info.or_else(|| message.at(&["params", "clientInfo"]))?;
    super::mcp::meta::implementation(info).filter(|name| name.len() <= 1024)
}

#[cfg(test)]
mod tests;
