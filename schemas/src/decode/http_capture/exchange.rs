//! One HTTP request with its response, and what its headers say.

use sha2::{Digest, Sha256};

use super::sse;
use crate::decode::Context;
use crate::decode::mcp::Transport;
use crate::decode::mcp::parts::Attributes;
use crate::decode::mcp::pending::Asked;
use crate::json::Json;

/// State of an open exchange.
#[derive(Debug)]
pub(super) struct Exchange {
    /// Unique within the file, unlike the recorder's number.
    pub(super) serial: u64,
    pub(super) connection: u64,
    pub(super) http_method: String,
    pub(super) status: Option<String>,
    pub(super) request_ids: Vec<String>,
    /// What its request was, for the lines that follow.
    pub(super) asked: Option<Asked>,
    pub(super) body: Body,
}

/// The body of a response in the making.
#[derive(Debug)]
pub(super) enum Body {
    /// JSON, until `length` bytes came (`None`: until the end).
    Json { text: String, length: Option<usize>, is_complete: bool },
    /// An SSE stream.
    Events(sse::Reader),
    /// Neither.
    Other,
}

impl Exchange {
    pub(super) fn new(serial: u64, connection: u64, http_method: &str) -> Self {
        Exchange {
            serial,
            connection,
            http_method: http_method.chars().take(16).collect(),
            status: None,
            request_ids: Vec::new(),
            asked: None,
            body: Body::Other,
        }
    }

    pub(super) fn begin_response(&mut self, status: Option<i64>, headers: &Headers<'_>) {
        self.status = status.map(|status| status.to_string());
        self.request_ids.extend(headers.request_ids());
        self.request_ids.dedup();
        self.request_ids.truncate(4);
        let content_type = headers.get("content-type").unwrap_or_default().to_ascii_lowercase();
        let is_plain = headers.get("content-encoding").is_none_or(|coding| coding == "identity");
        self.body = if content_type.contains("text/event-stream") {
            Body::Events(sse::Reader::default())
        } else if content_type.contains("json") {
            let length = headers.get("content-length").filter(|_| is_plain).and_then(|text| text.parse().ok());
            Body::Json { text: String::new(), length, is_complete: false }
        } else {
            Body::Other
        };
    }

    pub(super) fn is_failure(&self) -> bool {
        self.status.as_deref().is_some_and(|status| !status.starts_with('2'))
    }

    /// What a record of this exchange has from HTTP.
    pub(super) fn transport(&self) -> Transport {
        Transport {
            exchange: Some(self.serial),
            status: self.status.clone(),
            request_ids: self.request_ids.clone(),
            ..Transport::default()
        }
    }
}

impl Body {
    /// The messages that `data` completes, with their SSE ids.
    pub(super) fn feed(&mut self, data: &str) -> Vec<(String, Option<String>)> {
        match self {
            Body::Events(reader) => reader.feed(data).into_iter().map(|event| (event.data, event.id)).collect(),
            Body::Json { text, length, is_complete } if !*is_complete => {
                text.push_str(data);
                if length.is_some_and(|length| text.len() >= length) {
                    *is_complete = true;
                    return vec![(std::mem::take(text), None)];
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// The JSON that ends with the exchange.
    pub(super) fn finish(&mut self) -> Option<String> {
        match self {
            Body::Json { text, .. } if !text.is_empty() => Some(std::mem::take(text)),
            _ => None,
        }
    }

    pub(super) fn held(&self) -> usize {
        match self {
            Body::Json { text, .. } => text.len(),
            Body::Events(reader) => reader.held(),
            Body::Other => 0,
        }
    }
}

/// The headers of a request or response.
pub(super) struct Headers<'a>(pub(super) &'a Json);

impl<'a> Headers<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        let member = self.0.members().iter().find(|member| member.key.eq_ignore_ascii_case(name));
        member.and_then(|member| member.value.as_str()).filter(|value| !value.is_empty())
    }

    /// Ids that gateways give a request.
    pub(super) fn request_ids(&self) -> Vec<String> {
        let ids = ["x-request-id", "x-correlation-id"].iter().filter_map(|name| self.get(name));
        ids.filter(|id| id.len() <= 1024).map(str::to_string).collect()
    }

    /// Keyed fingerprint of the credential, unless the recorder took it out.
    pub(super) fn credential_fingerprint(&self, context: &Context<'_>) -> Option<String> {
        let credential = self.get("authorization").filter(|value| *value != "REDACTED")?;
        context.match_key.map(|key| key.fingerprint(credential.as_bytes()))
    }

    /// What distinguishes clients that send no session id.
    pub(super) fn identity(&self, context: &Context<'_>, path: &str) -> String {
        let credential = self.credential_fingerprint(context).unwrap_or_default();
        let fields = [self.get("user-agent"), self.get("host"), Some(path), Some(&credential)];
        let mut hash = Sha256::new();
        for field in fields {
            hash.update(field.unwrap_or_default());
            hash.update([0]);
        }
        hex::encode(hash.finalize())
    }

    /// What a request's attributes keep of HTTP; the raw bytes keep all of it.
    pub(super) fn notes(&self, method: &str, path: &str) -> Attributes {
        let mut notes = Attributes::default();
        notes.text("http.request.method", method);
        notes.text("url.path", path);
        let kept = [
            ("user-agent", "user_agent.original"),
            ("host", "server.address"),
            ("mcp-protocol-version", "mcp.protocol.version"),
            ("last-event-id", "http.last_event_id"),
        ];
        for (header, name) in kept {
            self.get(header).into_iter().for_each(|value| notes.text(name, value));
        }
        notes
    }

    pub(super) fn response_notes(&self) -> Attributes {
        let mut notes = Attributes::default();
        for header in ["content-type", "www-authenticate", "server"] {
            self.get(header).into_iter().for_each(|value| notes.text(&format!("http.{header}"), value));
        }
        notes
    }

    /// Headers of 2026-07-28 that say something else than the body.
    pub(super) fn mismatches(&self, message: &Json) -> Vec<String> {
        let params = message.get("params").unwrap_or(&Json::Null);
        let version = params.at(&["_meta", "io.modelcontextprotocol/protocolVersion"]).and_then(Json::as_str);
        let name = params.str_at("name").or(params.str_at("uri"));
        let pairs = [
            ("mcp-method", message.get("method").and_then(Json::as_str)),
            ("mcp-name", name),
            ("mcp-protocol-version", version),
        ];
        let differs = |(header, body): &(&str, Option<&str>)| {
            let said = self.get(header).map(decode_sentinel);
            let is_silent = *header == "mcp-protocol-version" && body.is_none();
            said.is_some_and(|said| !is_silent && Some(said.as_str()) != *body)
        };
        pairs.into_iter().filter(differs).map(|(header, _)| header.to_string()).collect()
    }
}

/// A header value that is not ASCII is sent as `=?base64?...?=`.
fn decode_sentinel(value: &str) -> String {
    use base64::Engine;
    let encoded = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?="));
    let decoded = encoded.and_then(|text| base64::prelude::BASE64_STANDARD.decode(text).ok());
    decoded.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_else(|| value.to_string())
}
