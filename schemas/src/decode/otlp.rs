//! OTLP export bodies: logs, traces and metrics, in protobuf and in JSON.
//!
//! Both encodings are read into one structure ([`item`]), which then becomes records
//! ([`mapping`]): the same content gives the same columns whichever way it came.
//!
//! Invariants
//! - one record per log record or span, in the order of the body; `origin_line` and the delivery key
//!   `body:<SHA-256>:<ordinal>` count them from 1
//! - `raw` is the exact bytes of that log record or span within the body; what resource and scope
//!   say is repeated in the `attributes` of each of its records
//! - a log record or span that cannot be read becomes a `rejected` record; only a body that is not
//!   OTLP at all, or that passes a limit below, fails as a whole
//! - metrics are accepted and counted by source and metric, not kept
//! - receivers leave out what the drop list names ([`drop_list`]); imported files are taken whole
//! - a record of a model's answer is followed by a part for each tool it chose ([`genai`]), of at most
//!   [`PARTS_MAX`] and a part per KiB of body
//!
//! Time: a span's start. A log record's `timeUnixNano`, or when that is zero (Codex) its
//! `observedTimeUnixNano` with `time_quality` zero: the order is then right although the source did
//! not say when it happened.
//!
//! Not here: transport, compression, content types; the caller names signal and encoding.

use std::collections::BTreeMap;
use std::ops::Range;

use sha2::{Digest, Sha256};

use self::drop_list::{DropList, Dropped};
use super::{Context, Line};
use crate::columns::Record;
use crate::json::JsonError;
use crate::limits::otlp::{METRIC_NAME_CHARS_MAX, METRIC_NAMES_MAX, PARTS_MAX, PARTS_MIN, SHARED_BYTES_MAX};

mod claude_code;
mod codex;
mod copilot;
pub mod drop_list;
mod gemini_cli;
mod genai;
mod item;
mod json;
mod mapping;
mod protobuf;
mod side;
mod spans;

/// Which kind of body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `ExportLogsServiceRequest`, `/v1/logs`.
    Logs,
    /// `ExportTraceServiceRequest`, `/v1/traces`.
    Traces,
    /// `ExportMetricsServiceRequest`, `/v1/metrics`.
    Metrics,
}

impl Signal {
    /// The word in the request path.
    pub const fn as_str(self) -> &'static str {
        match self {
            Signal::Logs => "logs",
            Signal::Traces => "traces",
            Signal::Metrics => "metrics",
        }
    }

    /// The signal that a request path or file name such as `0001-logs.pb` names.
    pub fn of_path(path: &str) -> Option<Self> {
        let name = path.rsplit('/').next().unwrap_or(path);
        let words = || name.split(['-', '.', '_']);
        [Signal::Logs, Signal::Traces, Signal::Metrics]
            .into_iter()
            .find(|signal| words().any(|word| word == signal.as_str()))
    }
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `application/x-protobuf`.
    Protobuf,
    /// `application/json`.
    Json,
}

impl Encoding {
    /// The encoding that a `Content-Type` names, parameters ignored.
    pub fn of_content_type(content_type: &str) -> Result<Self, OtlpError> {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/x-protobuf" | "application/protobuf" => Ok(Encoding::Protobuf),
            "application/json" => Ok(Encoding::Json),
            _ => Err(OtlpError::ContentType),
        }
    }

    const fn decoder(self) -> &'static str {
        match self {
            Encoding::Protobuf => "otlp-protobuf",
            Encoding::Json => "otlp-json",
        }
    }
}

/// Why a body is refused as a whole. Never quotes the content.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OtlpError {
    /// The sender must change its exporter.
    #[error("content type must be application/x-protobuf or application/json")]
    ContentType,
    /// JSON where protobuf was announced.
    #[error("body announced as protobuf starts like JSON; send content type application/json")]
    JsonAsProtobuf,
    /// Protobuf where JSON was announced.
    #[error("body announced as JSON does not start like JSON; send content type application/x-protobuf for protobuf")]
    ProtobufAsJson,
    /// The protobuf framing is broken.
    #[error("not an OTLP {signal} body: protobuf is broken at byte {offset}: {reason}")]
    Protobuf {
        /// The signal expected.
        signal: &'static str,
        /// Byte offset in the body.
        offset: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// Not JSON within the limits.
    #[error("not an OTLP body: {0}")]
    Json(#[source] JsonError),
    /// JSON of another shape.
    #[error("not an OTLP {signal} body: member {member} must be {expected}")]
    Shape {
        /// The signal expected.
        signal: &'static str,
        /// The member.
        member: &'static str,
        /// The JSON type it must have.
        expected: &'static str,
    },
    /// Too many records.
    #[error("OTLP body holds more than {0} records")]
    TooMany(usize),
    /// Resource and scope attributes would be repeated too often.
    #[error("resource and scope attributes repeated on every record take more than {0} bytes")]
    SharedTooLarge(usize),
}

/// What a body held.
#[derive(Debug, Default)]
pub struct OtlpBody {
    /// A record per log record or span that is not left out, with its parts, then `gap` records about the rest.
    pub records: Vec<Record>,
    /// Log records and spans, left out or not.
    pub items: usize,
    /// Metric data points, counted and not kept.
    pub metric_points: u64,
    /// The same by source and metric.
    pub metrics: Vec<Named>,
    /// Items left out, by source and rule.
    pub dropped: Vec<Named>,
}

/// A count under two names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Whose.
    pub source: String,
    /// Of what: a metric, a rule.
    pub name: String,
    /// How many.
    pub count: u64,
}

/// Decodes one export body whole.
pub fn decode_body(
    context: &Context<'_>,
    body: &[u8],
    signal: Signal,
    encoding: Encoding,
    origin_file: Option<&str>,
) -> Result<OtlpBody, OtlpError> {
    decode_body_without(context, body, signal, encoding, origin_file, &DropList::none())
}

/// Decodes one export body, leaving out what `drop_list` names.
pub fn decode_body_without(
    context: &Context<'_>,
    body: &[u8],
    signal: Signal,
    encoding: Encoding,
    origin_file: Option<&str>,
    drop_list: &DropList,
) -> Result<OtlpBody, OtlpError> {
    check_encoding(body, encoding)?;
    let groups = match (encoding, signal) {
        (Encoding::Protobuf, Signal::Metrics) => return protobuf::metrics(body).map(Points::counted),
        (Encoding::Json, Signal::Metrics) => return json::metrics(body).map(Points::counted),
        (Encoding::Protobuf, _) => protobuf::read(body, signal)?,
        (Encoding::Json, _) => json::read(body, signal)?,
    };
    let delivery = Delivery { body, digest: hex::encode(Sha256::digest(body)), origin_file };
    let decoder = encoding.decoder();
    let (mut records, mut items, mut dropped) = (Vec::new(), 0, Dropped::default());
    let mut parts_left = (body.len() / 1024).clamp(PARTS_MIN, PARTS_MAX);
    let mut shared_bytes = 0usize;
    for group in groups {
        let side = side::of(&group);
        for scope in &group.scopes {
            let shared = mapping::shared(&group, scope);
            shared_bytes = shared_bytes.saturating_add(shared.bytes().saturating_mul(scope.items.len()));
            if shared_bytes > SHARED_BYTES_MAX {
                return Err(OtlpError::SharedTooLarge(SHARED_BYTES_MAX));
            }
            for (span, item) in &scope.items {
                items += 1;
                delivery.with_line(items, span, |line| match item {
                    Ok(item) => {
                        let mapped = mapping::records(context, &line, decoder, &shared, side, item, &mut parts_left);
                        match mapped
                            .first()
                            .and_then(|record| drop_list.rule(record, &scope.name, item).zip(Some(record)))
                        {
                            Some((rule, record)) => dropped.add(record, rule),
                            None => records.extend(mapped),
                        }
                    }
                    Err(reason) => {
                        let mut record = context.rejected(&line, decoder, reason);
                        record.source_kind = side;
                        record.source_name = shared.source_name.clone();
                        records.push(record);
                    }
                });
            }
        }
    }
    records.extend(dropped.gaps(context, decoder, &delivery));
    Ok(OtlpBody { records, items, dropped: dropped.counts(), ..OtlpBody::default() })
}

/// Metric points as they are counted.
#[derive(Debug, Default)]
struct Points {
    total: u64,
    by_name: BTreeMap<(String, String), u64>,
}

impl Points {
    fn add(&mut self, source: &str, metric: &str, points: u64) {
        self.total += points;
        let short = |text: &str| text.chars().take(METRIC_NAME_CHARS_MAX).collect::<String>();
        let key = (short(source), short(metric));
        if points > 0 && (self.by_name.len() < METRIC_NAMES_MAX || self.by_name.contains_key(&key)) {
            *self.by_name.entry(key).or_default() += points;
        }
    }

    fn counted(self) -> OtlpBody {
        let named: u64 = self.by_name.values().sum();
        let mut metrics: Vec<Named> =
            self.by_name.into_iter().map(|((source, name), count)| Named { source, name, count }).collect();
        if named < self.total {
            metrics.push(Named { source: "(other)".into(), name: "(other)".into(), count: self.total - named });
        }
        OtlpBody { metric_points: self.total, metrics, ..OtlpBody::default() }
    }
}

/// Catches the wrong content type before it turns into an odd parse error. Every OTLP protobuf body
/// is empty or starts with field 1, length-delimited (0x0a); every JSON body with `{`.
fn check_encoding(body: &[u8], encoding: Encoding) -> Result<(), OtlpError> {
    match encoding {
        Encoding::Protobuf if body.first() == Some(&b'{') => Err(OtlpError::JsonAsProtobuf),
        Encoding::Json if body.trim_ascii_start().first() != Some(&b'{') => Err(OtlpError::ProtobufAsJson),
        _ => Ok(()),
    }
}

/// What names the records of one body.
struct Delivery<'a> {
    body: &'a [u8],
    digest: String,
    origin_file: Option<&'a str>,
}

impl Delivery<'_> {
    fn with_line<T>(&self, ordinal: usize, span: &Range<usize>, read: impl FnOnce(Line<'_>) -> T) -> T {
        let key = format!("body:{}:{ordinal}", self.digest);
        let bytes = self.body.get(span.clone()).unwrap_or_default();
        read(Line { bytes, file: self.origin_file, number: ordinal as i64, delivery_key: &key })
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_conventions;
