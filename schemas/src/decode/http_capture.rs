//! Recorded HTTP traffic of MCP servers: one JSON object per thing seen,
//! `{"ts_ns": N, "xchg": N, "dir", "kind": K, ...}`, where K is `request`, `response-head`, `body-chunk`, `end`,
//! `client-disconnect` or `upstream-error`.
//!
//! Every line gives exactly one record that carries it, and further parts, as [`crate::decode::http`] says; a line that is
//! none of these: `rejected`. Connection id: `<digest of the first line>-<n>`.

use super::http::{DECODER, Event, Headers, HttpDecoder, Request, Seen};
use super::stdio_capture::{names, rejected_line};
use super::{Context, Line, LineDecoder};
use crate::columns::Record;
use crate::json::{self, Json};

/// Decodes one capture file.
#[derive(Debug)]
pub struct HttpCapture {
    source_name: String,
    exchanges: HttpDecoder,
}

impl HttpCapture {
    /// A decoder for the file of this name; `file_id` (digest of its first line) scopes connection ids.
    pub fn new(file_name: &str, file_id: &str) -> Self {
        let (source_name, server_name) = names(file_name);
        let exchanges = HttpDecoder::new(&source_name, server_name.as_deref(), file_id);
        HttpCapture { source_name, exchanges }
    }
}

impl LineDecoder for HttpCapture {
    fn line(&mut self, context: &Context<'_>, line: Line<'_>) -> Vec<Record> {
        let rejected = |reason: &str| vec![rejected_line(context, &line, DECODER, &self.source_name, reason)];
        let value = match json::parse(line.bytes) {
            Ok(parsed) => parsed.value,
            Err(error) => return rejected(&error.to_string()),
        };
        let Some(exchange) = value.get("xchg").and_then(Json::as_i64) else {
            return rejected("no exchange number in \"xchg\"");
        };
        let seen = Seen { exchange, time_unix_nano: value.get("ts_ns").and_then(Json::as_i64), sequence: None };
        let headers = headers(&value);
        let event = match value.str_at("kind") {
            Some("request") => Event::Request(Request {
                method: value.str_at("method").unwrap_or_default(),
                path: value.str_at("path").unwrap_or_default(),
                headers: &headers,
                body: value.str_at("body").map(str::as_bytes),
                cut: None,
                client: None,
                notes: &[],
            }),
            Some("response-head") => Event::ResponseHead {
                status: value.get("status").and_then(Json::as_i64),
                headers: &headers,
                notes: &[],
            },
            Some("body-chunk") => match value.get("data").and_then(Json::as_str) {
                Some(data) => Event::BodyChunk(data.as_bytes()),
                None => return rejected("no text in \"data\""),
            },
            Some("end") => Event::End,
            Some("client-disconnect") => Event::ClientDisconnect,
            Some("upstream-error") => Event::Failure { reason: "upstream_error", status: None, is_refusal: false },
            _ => return rejected("no known event in \"kind\""),
        };
        self.exchanges.event(context, line, seen, event)
    }
}

fn headers(event: &Json) -> Headers<'_> {
    let members = event.get("headers").map(Json::members).unwrap_or_default().iter();
    members.filter_map(|member| Some((member.key.as_str(), member.value.as_str()?))).collect()
}

#[cfg(test)]
mod tests;
