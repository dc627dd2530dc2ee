//! OTLP protobuf: walks the framing down to each log record or span, so that its exact bytes are
//! known, and lets prost decode those alone.
//!
//! Invariants
//! - lengths are checked against the enclosing message before anything is sliced
//! - unknown fields are skipped; groups (never used by OTLP) are refused

use std::ops::Range;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span, span};
use prost::Message;

use super::item::{Detail, Group, Item, Link, Scope, base64, double, id};
use super::{OtlpError, Points, Signal};
use crate::json::{Json, Member};
use crate::limits::otlp::{ATTRIBUTES_MAX, EVENTS_MAX, RECORDS_PER_BODY_MAX, VALUE_DEPTH_MAX};

/// Reads a logs or traces body.
pub(super) fn read(body: &[u8], signal: Signal) -> Result<Vec<Group>, OtlpError> {
    let walk = Walk { body, signal };
    let mut budget = RECORDS_PER_BODY_MAX;
    let ranges = walk.within(&mut budget, 0..body.len(), 1)?;
    ranges.into_iter().map(|range| read_group(&walk, range, &mut budget)).collect()
}

/// `ResourceLogs` and `ResourceSpans` have the same shape: resource, scopes, schema URL.
fn read_group(walk: &Walk<'_>, range: Range<usize>, budget: &mut usize) -> Result<Group, OtlpError> {
    let mut resource = Resource::default();
    for part in walk.messages(range.clone(), 1)? {
        walk.merge(&mut resource, part)?;
    }
    let mut group = Group {
        resource: walk.shared(members(resource.attributes), range.start)?,
        schema_url: walk.text(range.clone(), 3)?,
        scopes: Vec::new(),
    };
    for range in walk.within(budget, range, 2)? {
        group.scopes.push(read_scope(walk, range, budget)?);
    }
    Ok(group)
}

fn read_scope(walk: &Walk<'_>, range: Range<usize>, budget: &mut usize) -> Result<Scope, OtlpError> {
    let mut scope = InstrumentationScope::default();
    for part in walk.messages(range.clone(), 1)? {
        walk.merge(&mut scope, part)?;
    }
    let ranges = walk.within(budget, range.clone(), 2)?;
    let read = |range: Range<usize>| {
        let item = read_item(walk, range.clone());
        (range, item)
    };
    Ok(Scope {
        name: scope.name,
        version: scope.version,
        attributes: walk.shared(members(scope.attributes), range.start)?,
        schema_url: walk.text(range, 3)?,
        items: ranges.into_iter().map(read).collect(),
    })
}

/// The repeated fields are counted first: prost would make room for all of them.
fn read_item(walk: &Walk<'_>, range: Range<usize>) -> Result<Item, String> {
    let repeated: &[(u32, usize)] = match walk.signal {
        Signal::Logs => &[(6, ATTRIBUTES_MAX)],
        _ => &[(9, ATTRIBUTES_MAX), (11, EVENTS_MAX), (13, EVENTS_MAX)],
    };
    for (field, max) in repeated {
        if walk.messages(range.clone(), *field).map_err(|error| error.to_string())?.len() > *max {
            return Err(format!("more than {max} attributes, events or links"));
        }
    }
    let bytes = &walk.body[range];
    match walk.signal {
        Signal::Logs => LogRecord::decode(bytes).map_err(unreadable).and_then(log_item),
        _ => Span::decode(bytes).map_err(unreadable).and_then(span_item),
    }
}

/// prost names the fields down to the broken one, never the content. The end says what is wrong.
fn unreadable(error: prost::DecodeError) -> String {
    const SHOWN_CHARS: usize = 120;
    let text = error.to_string();
    let start = text.char_indices().rev().nth(SHOWN_CHARS - 1).map_or(0, |(at, _)| at);
    format!("protobuf message cannot be read: {}{}", if start > 0 { "… " } else { "" }, &text[start..])
}

fn log_item(log: LogRecord) -> Result<Item, String> {
    Ok(Item {
        detail: Detail::Log {
            observed_time_unix_nano: log.observed_time_unix_nano,
            severity_number: log.severity_number as u64,
            severity_text: log.severity_text,
            body: value(log.body, 0)?,
        },
        name: log.event_name,
        trace_id: id(hex::encode(log.trace_id)),
        span_id: id(hex::encode(log.span_id)),
        flags: u64::from(log.flags),
        time_unix_nano: log.time_unix_nano,
        attributes: members(log.attributes)?,
        dropped: [u64::from(log.dropped_attributes_count), 0, 0],
    })
}

fn span_item(span: Span) -> Result<Item, String> {
    let status = span.status.unwrap_or_default();
    Ok(Item {
        detail: Detail::Span {
            kind: span.kind as u64,
            parent_span_id: id(hex::encode(span.parent_span_id)),
            trace_state: span.trace_state,
            end_time_unix_nano: span.end_time_unix_nano,
            status_code: status.code as u64,
            status_message: status.message,
            events: span.events.into_iter().map(event).collect::<Result<_, _>>()?,
            links: span.links.into_iter().map(link).collect::<Result<_, _>>()?,
        },
        name: span.name,
        trace_id: id(hex::encode(span.trace_id)),
        span_id: id(hex::encode(span.span_id)),
        flags: u64::from(span.flags),
        time_unix_nano: span.start_time_unix_nano,
        attributes: members(span.attributes)?,
        dropped: [span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count].map(u64::from),
    })
}

fn event(event: span::Event) -> Result<Json, String> {
    Ok(super::mapping::event(event.time_unix_nano, event.name, members(event.attributes)?))
}

fn link(link: span::Link) -> Result<Link, String> {
    Ok(Link {
        trace_id: id(hex::encode(link.trace_id)),
        span_id: id(hex::encode(link.span_id)),
        trace_state: link.trace_state,
        attributes: members(link.attributes)?,
    })
}

fn members(attributes: Vec<KeyValue>) -> Result<Vec<Member>, String> {
    if attributes.len() > ATTRIBUTES_MAX {
        return Err(format!("more than {ATTRIBUTES_MAX} attributes"));
    }
    attributes.into_iter().map(|pair| member(pair, 0)).collect()
}

fn member(pair: KeyValue, depth: usize) -> Result<Member, String> {
    Ok(Member { key: pair.key, value: value(pair.value, depth)?, span: 0..0 })
}

fn value(any: Option<AnyValue>, depth: usize) -> Result<Json, String> {
    if depth > VALUE_DEPTH_MAX {
        return Err(format!("attribute value is nested deeper than {VALUE_DEPTH_MAX} levels"));
    }
    Ok(match any.and_then(|any| any.value) {
        None => Json::Null,
        Some(Value::StringValue(text)) => Json::String(text),
        Some(Value::BoolValue(value)) => Json::Bool(value),
        Some(Value::IntValue(value)) => Json::Number(value.to_string().into()),
        Some(Value::DoubleValue(value)) => double(value),
        Some(Value::BytesValue(bytes)) => base64(BASE64_STANDARD.encode(bytes)),
        // An index into a string table that only the profiles signal has.
        Some(Value::StringValueStrindex(index)) => Json::Number(index.to_string().into()),
        Some(Value::ArrayValue(array)) => {
            Json::Array(array.values.into_iter().map(|item| value(Some(item), depth + 1)).collect::<Result<_, _>>()?)
        }
        Some(Value::KvlistValue(list)) => {
            Json::Object(list.values.into_iter().map(|pair| member(pair, depth + 1)).collect::<Result<_, _>>()?)
        }
    })
}

/// Counts data points: `ResourceMetrics.scope_metrics.metrics.<kind>.data_points`.
pub(super) fn metrics(body: &[u8]) -> Result<Points, OtlpError> {
    /// Gauge, sum, histogram, exponential histogram, summary.
    const KINDS: [u32; 5] = [5, 7, 9, 10, 11];
    let walk = Walk { body, signal: Signal::Metrics };
    let mut points = Points::default();
    for resource in walk.messages(0..body.len(), 1)? {
        let mut about = Resource::default();
        for part in walk.messages(resource.clone(), 1)? {
            walk.merge(&mut about, part)?;
        }
        let about = walk.shared(members(about.attributes), resource.start)?;
        for scope in walk.messages(resource, 2)? {
            let name = walk.messages(scope.clone(), 1)?.pop().map(|scope| walk.text(scope, 1)).transpose()?;
            let source = super::mapping::source_name(&about, name.as_deref().unwrap_or_default());
            for metric in walk.messages(scope, 2)? {
                let mut of_metric = 0;
                for kind in KINDS {
                    for data in walk.messages(metric.clone(), kind)? {
                        of_metric += walk.messages(data, 1)?.len() as u64;
                    }
                }
                points.add(source, &walk.text(metric, 1)?, of_metric);
            }
        }
    }
    Ok(points)
}

/// The protobuf framing of one body.
struct Walk<'a> {
    body: &'a [u8],
    signal: Signal,
}

impl Walk<'_> {
    /// The ranges of every length-delimited field `wanted` of the message in `range`.
    fn messages(&self, range: Range<usize>, wanted: u32) -> Result<Vec<Range<usize>>, OtlpError> {
        let mut found = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let key = self.varint(&mut at, range.end)?;
            let (field, wire) = ((key >> 3) as u32, key & 7);
            let length = match wire {
                0 => {
                    self.varint(&mut at, range.end)?;
                    0
                }
                1 => 8,
                2 => self.varint(&mut at, range.end)?,
                5 => 4,
                _ => return Err(self.broken(at, "unexpected wire type")),
            };
            let end = usize::try_from(length).ok().and_then(|length| at.checked_add(length));
            let end =
                end.filter(|end| *end <= range.end).ok_or_else(|| self.broken(at, "length beyond its message"))?;
            if field == wanted && wire == 2 {
                if found.len() == RECORDS_PER_BODY_MAX {
                    return Err(OtlpError::TooMany(RECORDS_PER_BODY_MAX));
                }
                found.push(at..end);
            }
            at = end;
        }
        Ok(found)
    }

    /// As [`Walk::messages`], counted against what the whole body may hold.
    fn within(&self, budget: &mut usize, range: Range<usize>, wanted: u32) -> Result<Vec<Range<usize>>, OtlpError> {
        let found = self.messages(range, wanted)?;
        *budget = budget.checked_sub(found.len()).ok_or(OtlpError::TooMany(RECORDS_PER_BODY_MAX))?;
        Ok(found)
    }

    fn varint(&self, at: &mut usize, end: usize) -> Result<u64, OtlpError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.body[..end].get(*at).ok_or_else(|| self.broken(*at, "ends inside a number"))?;
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.broken(*at, "number too long"))
    }

    fn text(&self, range: Range<usize>, field: u32) -> Result<String, OtlpError> {
        let last = self.messages(range, field)?.pop();
        Ok(last.map(|range| String::from_utf8_lossy(&self.body[range]).into_owned()).unwrap_or_default())
    }

    fn merge(&self, message: &mut impl Message, range: Range<usize>) -> Result<(), OtlpError> {
        let start = range.start;
        message.merge(&self.body[range]).map_err(|_| self.broken(start, "resource or scope cannot be read"))
    }

    fn shared(&self, members: Result<Vec<Member>, String>, offset: usize) -> Result<Vec<Member>, OtlpError> {
        members.map_err(|_| self.broken(offset, "resource or scope attributes exceed the limits"))
    }

    fn broken(&self, offset: usize, reason: &'static str) -> OtlpError {
        OtlpError::Protobuf { signal: self.signal.as_str(), offset, reason }
    }
}
