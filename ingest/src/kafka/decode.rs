//! From a message to records.
//!
//! Invariants
//! - a message gives at least one record, except an OTLP body that holds none (metrics are counted by their receivers only)
//! - ids depend on place and time of the message alone, never on where a batch was cut: a decoder is told that an entry is
//!   complete at the end of each message
//! - only decoders have state from message to message (which request a response belongs to), for as long as a lease
//!
//! A value of several lines is several lines to a line format, unless it is one JSON document. OTLP keeps its own ids,
//! which come from the body: an exporter that repeats a body repeats its ids.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use threadline_schemas::decode::mcp::meta::parse_traceparent;
use threadline_schemas::decode::otlp::{self, Encoding, Signal};
use threadline_schemas::decode::recognise::{self, Format};
use threadline_schemas::decode::{Context, Line, LineDecoder};
use threadline_schemas::limits::arrival::LINE_BYTES_KEPT;
use threadline_schemas::limits::kafka::{HEADERS_BYTES_MAX, MESSAGE_BYTES_MAX};
use threadline_schemas::{Kind, Record, SourceKind, TimeQuality};

use super::batch::{Lease, Message};
use super::config::Topic;
use super::is_control;

/// What one message is.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) records: Vec<Record>,
    /// Why nothing of it could be understood, if so.
    pub(super) poison: Option<String>,
}

/// The decoders of the partitions that are ours.
pub(super) struct Decoders {
    topics: HashMap<String, Topic>,
    by_lease: HashMap<Arc<Lease>, Box<dyn LineDecoder>>,
}

impl Decoders {
    pub(super) fn new(topics: Vec<Topic>) -> Decoders {
        let topics = topics.into_iter().map(|topic| (topic.name.clone(), topic)).collect();
        Decoders { topics, by_lease: HashMap::new() }
    }

    pub(super) fn forget(&mut self, lease: &Arc<Lease>) {
        self.by_lease.remove(lease);
    }

    pub(super) fn message(&mut self, context: &Context<'_>, message: &Message) -> Decoded {
        let origin = format!("kafka:{}", message.lease.name());
        let key = delivery_key(message);
        let value = message.value.as_deref().unwrap_or_default();
        let line = Line { bytes: value, file: Some(&origin), number: message.offset, delivery_key: &key };
        let topic = self.topics.get(&message.lease.topic);
        let name = topic.map_or("kafka", |topic| topic.format.as_str());
        let rejected = |reason: &str| vec![context.rejected(&line, name, reason)];
        let mut records = match (topic, &message.value) {
            (None, _) => rejected("a message of a topic that was not asked for"),
            (_, None) => rejected("a message without a value"),
            _ if value.len() > MESSAGE_BYTES_MAX => vec![too_long(context, &line, name)],
            (Some(topic), _) => match (&topic.format, topic.signal) {
                (Format::OtlpProtobuf, Some(signal)) => {
                    body(context, &line, signal, Encoding::Protobuf).unwrap_or_else(|reason| rejected(&reason))
                }
                (Format::OtlpJson, _) => match recognise::otlp_signal(&topic.name, value) {
                    Some(signal) => {
                        body(context, &line, signal, Encoding::Json).unwrap_or_else(|reason| rejected(&reason))
                    }
                    None => rejected("neither logs, traces nor metrics"),
                },
                (format, _) => {
                    let lease = &message.lease;
                    let make = || recognise::decoder(format, &origin, "");
                    let decoder = match self.by_lease.get_mut(lease) {
                        Some(decoder) => Some(decoder),
                        None => make().map(|made| self.by_lease.entry(Arc::clone(lease)).or_insert(made)),
                    };
                    match decoder {
                        Some(decoder) => lines(context, &mut **decoder, &line),
                        None => rejected("its format is not one of messages"),
                    }
                }
            },
        };
        let poison = poison(&records);
        records.iter_mut().for_each(|record| complete(record, message, context.observed_time_unix_us));
        if let Some(first) = records.first_mut() {
            add_headers(first, message);
        }
        Decoded { records, poison }
    }
}

/// `kafka:<cluster>/<topic>/<partition>/<offset>@<milliseconds>`.
fn delivery_key(message: &Message) -> String {
    if is_control() {
        return format!("own:{}", uuid::Uuid::new_v4());
    }
    let place = format!("kafka:{}/{}", message.lease.name(), message.offset);
    message.timestamp_ms.map(|time| format!("{place}@{time}")).unwrap_or(place)
}

fn lines(context: &Context<'_>, decoder: &mut dyn LineDecoder, whole: &Line<'_>) -> Vec<Record> {
    let value = whole.bytes.strip_suffix(b"\n").unwrap_or(whole.bytes);
    let is_one = memchr::memchr(b'\n', value).is_none() || threadline_schemas::json::parse(value).is_ok();
    let mut records = Vec::new();
    if is_one {
        records = decoder.line(context, Line { bytes: value, ..*whole });
    } else {
        for (line, number) in value.split(|byte| *byte == b'\n').zip(1usize..) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.trim_ascii().is_empty() && !decoder.takes_empty_lines() {
                continue;
            }
            let key = format!("{}:{number}", whole.delivery_key);
            let key = if number == 1 { whole.delivery_key } else { &key };
            records.extend(decoder.line(context, Line { bytes: line, delivery_key: key, ..*whole }));
        }
    }
    if decoder.is_holding() {
        records.extend(decoder.finish(context));
    }
    if records.is_empty() {
        records.push(context.rejected(whole, "kafka", "a message without content"));
    }
    records
}

fn body(context: &Context<'_>, line: &Line<'_>, signal: Signal, encoding: Encoding) -> Result<Vec<Record>, String> {
    let decoded = otlp::decode_body(context, line.bytes, signal, encoding, line.file);
    decoded.map(|body| body.records).map_err(|error| error.to_string())
}

fn too_long(context: &Context<'_>, line: &Line<'_>, decoder: &str) -> Record {
    let length = line.bytes.len();
    let kept = Line { bytes: &line.bytes[..LINE_BYTES_KEPT.min(length)], ..*line };
    let reason = format!("message of {length} bytes is above the limit; its beginning and its digest are kept");
    let mut record = context.rejected(&kept, decoder, &reason);
    let attributes = json!({ "length": length, "sha256": hex::encode(Sha256::digest(line.bytes)) });
    record.attributes = Some(attributes.to_string());
    record
}

/// The reason of the first record, when all are rejected.
fn poison(records: &[Record]) -> Option<String> {
    let is_rejected = |record: &Record| record.kind == Kind::Rejected;
    if records.is_empty() || !records.iter().all(is_rejected) {
        return None;
    }
    Some(records[0].text.clone().unwrap_or_else(|| "rejected".into()))
}

/// What the place of the message says where its content does not.
fn complete(record: &mut Record, message: &Message, observed_unix_us: i64) {
    record.origin_line = Some(message.offset);
    if record.time_quality == TimeQuality::Missing
        && let Some(time) = message.timestamp_ms.filter(|time| *time > 0)
    {
        record.set_time(Some(time.saturating_mul(1_000_000)), observed_unix_us);
    }
    if record.source_name.is_empty() {
        record.source_name = source_name(&message.lease.topic);
        if record.kind == Kind::Rejected {
            record.source_kind = SourceKind::Threadline;
        }
    }
    let traceparent = message.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("traceparent"));
    let value = traceparent.and_then(|(_, value)| std::str::from_utf8(value.as_deref()?).ok());
    if record.trace_id.is_none()
        && let Some((trace, span)) = value.and_then(parse_traceparent)
    {
        (record.trace_id, record.parent_span_id) = (Some(trace), Some(span));
    }
}

/// Name of a topic among the sources.
pub(super) fn source_name(topic: &str) -> String {
    format!("kafka:{topic}")
}

/// Key and headers of the message, beside what the decoder put into the attributes.
fn add_headers(record: &mut Record, message: &Message) {
    if message.key.is_none() && message.headers.is_empty() {
        return;
    }
    let size = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
    let bytes =
        size(&message.key) + message.headers.iter().map(|(name, value)| name.len() + size(value)).sum::<usize>();
    let about = if bytes > HEADERS_BYTES_MAX {
        let mut digest = Sha256::new();
        digest.update(message.key.as_deref().unwrap_or_default());
        message.headers.iter().for_each(|(name, value)| {
            digest.update(name);
            digest.update(value.as_deref().unwrap_or_default());
        });
        json!({ "headers_bytes": bytes, "headers_sha256": hex::encode(digest.finalize()) })
    } else {
        let headers = message.headers.iter().map(|(name, value)| json!([name, text(value.as_deref())]));
        json!({ "key": text(message.key.as_deref()), "headers": headers.collect::<Vec<_>>() })
    };
    let given = record.attributes.take().unwrap_or_default();
    // Spliced, not parsed: numbers and duplicate members of what is there stay as they are.
    let members = given.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).map(str::trim);
    record.attributes = Some(match members {
        Some("") => format!("{{\"kafka\":{about}}}"),
        Some(members) => format!("{{{members},\"kafka\":{about}}}"),
        None if given.is_empty() => format!("{{\"kafka\":{about}}}"),
        None => {
            let mut whole = Map::new();
            whole.insert("attributes".into(), Value::String(given));
            whole.insert("kafka".into(), about);
            Value::Object(whole).to_string()
        }
    });
}

/// Text, or hex where it is none.
fn text(bytes: Option<&[u8]>) -> Value {
    match bytes.map(|bytes| (std::str::from_utf8(bytes), bytes)) {
        None => Value::Null,
        Some((Ok(text), _)) => Value::String(text.into()),
        Some((Err(_), bytes)) => json!({ "hex": hex::encode(bytes) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use threadline_schemas::Collector;

    fn topic(format: &str) -> Topic {
        let format = Format::parse(format).unwrap();
        Topic { name: "t".into(), signal: (format == Format::OtlpProtobuf).then_some(Signal::Traces), format }
    }

    fn message(offset: i64, value: Option<&[u8]>) -> Message {
        let lease = Arc::new(Lease { cluster: "c".into(), topic: "t".into(), partition: 3, turn: 1 });
        let value = value.map(<[u8]>::to_vec);
        Message { lease, offset, timestamp_ms: Some(1_795_000_000_123), key: None, value, headers: Vec::new() }
    }

    fn decode(format: &str, messages: &[Message]) -> Vec<Decoded> {
        let context = Context {
            tenant: "default",
            collector: Collector::Kafka,
            observed_time_unix_us: 1_795_000_001_000_000,
            match_key: None,
        };
        let mut decoders = Decoders::new(vec![topic(format)]);
        messages.iter().map(|message| decoders.message(&context, message)).collect()
    }

    fn check(format: &str, values: &[Option<&[u8]>], expected: Expect) {
        let messages: Vec<Message> = (7..).zip(values).map(|(offset, value)| message(offset, *value)).collect();
        let mut shown = String::new();
        for decoded in decode(format, &messages) {
            for record in &decoded.records {
                shown += &format!(
                    "{} {} {}:{} {}\n",
                    record.kind,
                    record.delivery_key,
                    record.origin_file.as_deref().unwrap_or("-"),
                    record.origin_line.unwrap_or(-1),
                    record.source_name
                );
            }
            shown += &format!("  poison: {:?}\n", decoded.poison);
        }
        expected.assert_eq(&shown);
    }

    #[test]
    fn ids_come_from_place_and_time() {
        check(
            "native",
            &[
                Some(br#"{"kind":"log","text":"a"}"#),
                Some(b"{\"kind\":\"log\"}\n{\"kind\":\"log\"}\n"),
                Some(b"{\n\"kind\":\"log\"\n}"),
                Some(b"{\"kind\":\"log\"}\nbroken"),
                Some(b"broken"),
                Some(b"\n\n"),
                None,
            ],
            expect![[r#"
                log kafka:c/t/3/7@1795000000123 kafka:c/t/3:7 kafka:t
                  poison: None
                log kafka:c/t/3/8@1795000000123 kafka:c/t/3:8 kafka:t
                log kafka:c/t/3/8@1795000000123:2 kafka:c/t/3:8 kafka:t
                  poison: None
                log kafka:c/t/3/9@1795000000123 kafka:c/t/3:9 kafka:t
                  poison: None
                log kafka:c/t/3/10@1795000000123 kafka:c/t/3:10 kafka:t
                rejected kafka:c/t/3/10@1795000000123:2 kafka:c/t/3:10 kafka:t
                  poison: None
                rejected kafka:c/t/3/11@1795000000123 kafka:c/t/3:11 kafka:t
                  poison: Some("not valid JSON at byte 0: expected value")
                rejected kafka:c/t/3/12@1795000000123 kafka:c/t/3:12 kafka:t
                  poison: Some("a message without content")
                rejected kafka:c/t/3/13@1795000000123 kafka:c/t/3:13 kafka:t
                  poison: Some("a message without a value")
            "#]],
        );
    }

    #[test]
    fn time_key_and_headers_of_the_message_are_kept() {
        let mut message = message(1, Some(br#"{"kind":"log","colour":"red"}"#));
        message.key = Some(b"\xff".to_vec());
        message.headers = vec![
            ("traceparent".into(), Some(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_vec())),
            ("none".into(), None),
        ];
        let record = decode("native", &[message]).remove(0).records.remove(0);
        assert_eq!((record.time_unix_nano, record.time_quality), (1_795_000_000_123_000_000, TimeQuality::Source));
        assert_eq!(record.trace_id.as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
        assert_eq!(record.parent_span_id.as_deref(), Some("b7ad6b7169203331"));
        expect![[r#"{"colour":"red","kafka":{"headers":[["traceparent","00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],["none",null]],"key":{"hex":"ff"}}}"#]]
            .assert_eq(record.attributes.as_deref().unwrap());
    }

    #[test]
    fn what_is_too_large_is_cut_with_its_digest() {
        let large = vec![b'x'; MESSAGE_BYTES_MAX + 1];
        let mut decoded = decode("native", &[message(1, Some(&large)), message(2, Some(&large[1..]))]);
        let record = &decoded[0].records[0];
        assert_eq!(record.raw.as_ref().map(Vec::len), Some(LINE_BYTES_KEPT));
        assert!(record.attributes.as_deref().unwrap().contains(&hex::encode(Sha256::digest(&large))));
        assert!(decoded[0].poison.as_deref().unwrap().contains("above the limit"));
        assert_eq!(decoded.remove(1).records[0].raw.as_ref().map(Vec::len), Some(MESSAGE_BYTES_MAX));
        let mut much = message(3, Some(br#"{"kind":"log"}"#));
        much.headers = vec![("h".into(), Some(vec![b'h'; HEADERS_BYTES_MAX]))];
        let attributes = decode("native", &[much]).remove(0).records.remove(0).attributes.unwrap();
        assert!(attributes.len() < 200 && attributes.contains("headers_sha256"), "{attributes}");
    }

    #[test]
    fn otlp_bodies_are_read_and_broken_ones_are_poison() {
        let file =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/captures/fastmcp-orders-otlp/fast--f1/otlp/0010-traces.pb");
        let body = std::fs::read(file).unwrap();
        let decoded = decode("otlp-protobuf", &[message(1, Some(&body)), message(2, Some(&body[..body.len() - 1]))]);
        assert!(decoded[0].poison.is_none() && !decoded[0].records.is_empty());
        assert!(decoded[0].records.iter().all(|record| record.origin_line == Some(1)));
        assert!(decoded[1].poison.is_some());
    }
}
