//! One HTTP request with its response.

use sha2::{Digest, Sha256};

use super::inventories::Scope;
use super::{Headers, sse};
use crate::decode::mcp::Transport;
use crate::decode::mcp::parts::Attributes;
use crate::decode::mcp::pending::Asked;

/// State of an open exchange.
#[derive(Debug)]
pub(super) struct Exchange {
    /// Unique within the recording, unlike the recorder's number.
    pub(super) serial: u64,
    pub(super) connection: u64,
    pub(super) http_method: String,
    pub(super) status: Option<String>,
    pub(super) request_ids: Vec<String>,
    /// Its answers come in the stream of another exchange (HTTP+SSE).
    pub(super) answers_elsewhere: bool,
    /// It is part of OAuth.
    pub(super) is_auth: bool,
    /// Whether `Mcp-Protocol-Version` names a revision without sessions, where it names one.
    pub(super) is_stateless: Option<bool>,
    /// Whose tools its messages are about, where no session is.
    pub(super) scope: Option<Scope>,
    /// What its request was, for the lines that follow.
    pub(super) asked: Option<Asked>,
    pub(super) body: Body,
    /// Of a response that is not read any more.
    pub(super) unread: Option<Unread>,
}

/// Why a response is not known whole: the recorder had no room for some of it.
const PART: &str = "part of it was not recorded";

/// What was not read of a response, from the first byte that was not.
#[derive(Debug, Clone)]
pub(super) struct Unread {
    reason: String,
    /// Bytes of it did not come here either, so length and digest would be those of something else.
    is_part: bool,
    length: u64,
    digest: Sha256,
}

/// The body of a response in the making.
#[derive(Debug)]
pub(super) enum Body {
    /// JSON, until `length` bytes came (`None`: until the end).
    Json { text: Vec<u8>, length: Option<usize>, is_complete: bool },
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
            answers_elsewhere: false,
            is_auth: false,
            is_stateless: None,
            scope: None,
            asked: None,
            body: Body::Other,
            unread: None,
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
            Body::Json { text: Vec::new(), length, is_complete: false }
        } else {
            Body::Other
        };
    }

    /// Part of its response did not come here, perhaps the head.
    pub(super) fn lost(&mut self) {
        if let Some(unread) = &mut self.unread {
            unread.is_part = true;
        }
        if let Body::Events(reader) = &mut self.body {
            return reader.skip_to_next();
        }
        self.body = Body::Other;
        self.unread.get_or_insert_with(|| Unread { is_part: true, ..Unread::new(PART) });
    }

    pub(super) fn is_stream(&self) -> bool {
        matches!(self.body, Body::Events(_))
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
            is_stateless: self.is_stateless,
            ..Transport::default()
        }
    }
}

impl Unread {
    pub(super) fn new(reason: &str) -> Self {
        Unread { reason: reason.into(), is_part: false, length: 0, digest: Sha256::new() }
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.digest.update(bytes);
    }

    pub(super) fn notes(&self) -> Attributes {
        let mut notes = Attributes::default();
        if self.is_part {
            let is_all = self.reason == PART;
            let reason = if is_all { PART.to_string() } else { format!("{}, and {PART}", self.reason) };
            notes.text("threadline.not_kept", reason);
            return notes;
        }
        notes.text("threadline.not_kept", &self.reason);
        notes.text("threadline.length", self.length.to_string());
        notes.text("threadline.sha256", hex::encode(self.digest.clone().finalize()));
        notes
    }
}

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the answer passed and was not kept: {}", self.reason)
    }
}

impl Body {
    /// The messages that `data` completes.
    pub(super) fn feed(&mut self, data: &[u8]) -> Vec<sse::Event> {
        match self {
            Body::Events(reader) => reader.feed(data),
            Body::Json { text, length, is_complete } if !*is_complete => {
                text.extend_from_slice(data);
                if let Some(length) = length.filter(|length| text.len() >= *length) {
                    *is_complete = true;
                    // What is beyond is no part of it, in whichever chunk it comes.
                    text.truncate(length);
                    return vec![sse::Event { name: None, id: None, data: std::mem::take(text) }];
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// The JSON that ends with the exchange.
    pub(super) fn finish(&mut self) -> Option<Vec<u8>> {
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
