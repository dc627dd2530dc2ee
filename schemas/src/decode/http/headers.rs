//! What the header fields of a request or response say.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use crate::decode::Context;
use crate::decode::mcp::inventory::Mirrored;
use crate::decode::mcp::method::STATELESS_SINCE;
use crate::decode::mcp::parts::Attributes;
use crate::json::Json;

/// The header fields of a request or response, in order.
#[derive(Debug, Default)]
pub struct Headers<'a>(Vec<(&'a str, &'a str)>);

impl<'a> FromIterator<(&'a str, &'a str)> for Headers<'a> {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(fields: T) -> Self {
        Headers(fields.into_iter().collect())
    }
}

impl<'a> Headers<'a> {
    /// The value of the first field of this name, unless it is empty.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        let field = self.0.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        field.map(|(_, value)| *value).filter(|value| !value.is_empty())
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
    pub(super) fn identity(&self, context: &Context<'_>, path: &str, client: Option<&str>) -> String {
        let credential = self.credential_fingerprint(context).unwrap_or_default();
        let fields = [self.get("user-agent"), self.get("host"), Some(path), Some(&credential), client];
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

    /// Headers of 2026-07-28 that say something else than the body, say two things, or are missing.
    /// `mirrored`: what the tool wants in headers too.
    pub(super) fn mismatches(&self, message: &Json, mirrored: &[Mirrored]) -> Vec<String> {
        let params = message.get("params").unwrap_or(&Json::Null);
        let version = params.at(&["_meta", "io.modelcontextprotocol/protocolVersion"]).and_then(Json::as_str);
        let method = message.get("method").and_then(Json::as_str);
        let name = params.str_at("name").or(params.str_at("uri"));
        let is_mirroring =
            [self.get("mcp-protocol-version"), version].into_iter().flatten().any(|v| v >= STATELESS_SINCE);
        let is_request = is_mirroring && method.is_some() && message.get("id").is_some();
        let is_named = matches!(method, Some("tools/call" | "resources/read" | "prompts/get")) && name.is_some();
        let mut found = Vec::new();
        let mut check = |header: &str, body: Option<&str>, is_needed: bool, is_fine: &dyn Fn(&str) -> bool| {
            let mut said = self.all(header).peekable();
            let is_missing = is_needed && said.peek().is_none();
            if is_missing || said.any(|said| !is_fine(said) || body.is_none()) {
                found.push(header.to_string());
            }
        };
        check("mcp-method", method, is_request, &|said| Some(said) == method);
        check("mcp-name", name, is_request && is_named, &|said| Some(decode_sentinel(said).as_ref()) == name);
        // The body need not say it before 2026-07-28.
        let said = version.or(self.get("mcp-protocol-version"));
        check("mcp-protocol-version", said, is_request, &|header| Some(header) == said);
        for Mirrored { header, path } in mirrored.iter().filter(|_| is_request) {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            let value = params.get("arguments").and_then(|arguments| arguments.at(&path)).filter(|v| **v != Json::Null);
            let text = value.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_string));
            let is_fine = |said: &str| value.is_some_and(|value| is_same(value, &decode_sentinel(said)));
            check(&format!("mcp-param-{header}"), text.as_deref(), value.is_some(), &is_fine);
        }
        found
    }

    /// Every value of a field.
    fn all(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// Whether a header says the value of an argument; integers as numbers, because `42.0` is `42`.
fn is_same(value: &Json, said: &str) -> bool {
    match value {
        Json::Number(text) => match (text.parse::<f64>(), said.parse::<f64>()) {
            (Ok(value), Ok(said)) => value == said,
            _ => false,
        },
        Json::String(text) => text == said,
        value => value.to_string() == said,
    }
}

/// A header value that is not ASCII is sent as `=?base64?...?=`.
fn decode_sentinel(value: &str) -> Cow<'_, str> {
    use base64::Engine;
    let encoded = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?="));
    let decoded = encoded.and_then(|text| base64::prelude::BASE64_STANDARD.decode(text).ok());
    decoded.and_then(|bytes| String::from_utf8(bytes).ok()).map_or(Cow::Borrowed(value), Cow::Owned)
}
