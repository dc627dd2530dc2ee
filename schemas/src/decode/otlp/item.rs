//! A log record or span as both encodings give it.

use std::ops::Range;

use crate::json::{Json, Member};

/// One resource with its scopes.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) resource: Vec<Member>,
    pub(super) schema_url: String,
    pub(super) scopes: Vec<Scope>,
}

/// One instrumentation scope with its records.
#[derive(Debug, Default)]
pub(super) struct Scope {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) attributes: Vec<Member>,
    pub(super) schema_url: String,
    /// Bytes of each record in the body, and the record or why it cannot be read.
    pub(super) items: Vec<(Range<usize>, Result<Item, String>)>,
}

/// What a log record and a span have in common, and what only one of them has.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Item {
    pub(super) detail: Detail,
    pub(super) name: String,
    /// Ids as lower-case hex; empty when absent or all zero. An id of a wrong length stays as it is.
    pub(super) trace_id: String,
    pub(super) span_id: String,
    pub(super) flags: u64,
    pub(super) time_unix_nano: u64,
    pub(super) attributes: Vec<Member>,
    /// Attributes, events and links that the source dropped.
    pub(super) dropped: [u64; 3],
}

#[derive(Debug, PartialEq)]
pub(super) enum Detail {
    Log {
        observed_time_unix_nano: u64,
        severity_number: u64,
        severity_text: String,
        body: Json,
    },
    Span {
        kind: u64,
        parent_span_id: String,
        trace_state: String,
        end_time_unix_nano: u64,
        status_code: u64,
        status_message: String,
        events: Vec<Json>,
        links: Vec<Link>,
    },
}

impl Default for Detail {
    fn default() -> Self {
        Detail::Log { observed_time_unix_nano: 0, severity_number: 0, severity_text: String::new(), body: Json::Null }
    }
}

/// A span link.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Link {
    pub(super) trace_id: String,
    pub(super) span_id: String,
    pub(super) trace_state: String,
    pub(super) attributes: Vec<Member>,
}

/// OTLP span kinds that matter here.
pub(super) const KIND_SERVER: u64 = 2;
/// See [`KIND_SERVER`].
pub(super) const KIND_CLIENT: u64 = 3;
/// See [`KIND_SERVER`].
pub(super) const KIND_PRODUCER: u64 = 4;

impl Item {
    /// The span's kind; `None` for a log record.
    pub(super) fn span_kind(&self) -> Option<u64> {
        match self.detail {
            Detail::Span { kind, .. } => Some(kind),
            Detail::Log { .. } => None,
        }
    }

    pub(super) fn attribute(&self, key: &str) -> Option<&Json> {
        get(&self.attributes, key)
    }

    /// A text attribute that is not empty.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.attribute(key).and_then(Json::as_str).filter(|text| !text.is_empty())
    }

    /// The first of several spellings of one attribute.
    pub(super) fn first(&self, keys: &[&str]) -> Option<&str> {
        keys.iter().find_map(|key| self.text(key))
    }
}

/// The last attribute with this key.
pub(super) fn get<'a>(attributes: &'a [Member], key: &str) -> Option<&'a Json> {
    attributes.iter().rev().find(|member| member.key == key).map(|member| &member.value)
}

/// A double as a JSON value; what JSON cannot write becomes text, as in OTLP/JSON.
pub(super) fn double(value: f64) -> Json {
    if value.is_nan() {
        Json::String("NaN".into())
    } else if value.is_infinite() {
        Json::String(if value > 0.0 { "Infinity" } else { "-Infinity" }.into())
    } else {
        Json::Number(format!("{value:?}").into())
    }
}

/// Bytes as a JSON value that cannot be taken for text.
pub(super) fn base64(text: String) -> Json {
    Json::Object(vec![Member { key: "base64".into(), value: Json::String(text), span: 0..0 }])
}

/// An all-zero id is no id.
pub(super) fn id(hex: String) -> String {
    if hex.bytes().all(|byte| byte == b'0') { String::new() } else { hex }
}
