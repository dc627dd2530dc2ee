//! What the header fields of a request or response say.

use sha2::{Digest, Sha256};

use crate::decode::Context;
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
