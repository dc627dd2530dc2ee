//! OTLP/JSON as emitters write it, sloppy where they are: 64-bit integers as numbers or strings,
//! `"body": null`, empty ids, missing members, enum names instead of numbers.
//!
//! Invariants
//! - a member of a wrong type reads as absent; only the arrays that hold the records must be arrays
//! - the byte range of each record is found by a second pass over the array's own text

use std::ops::Range;

use jiter::{Jiter, JiterError};

use super::item::{Detail, Group, Item, Link, Scope, base64, double, id};
use super::{OtlpError, Points, Signal};
use crate::json::{Json, Member, parse_within};
use crate::limits::json::OTLP_BODY;
use crate::limits::otlp::{ATTRIBUTES_MAX, EVENTS_MAX, RECORDS_PER_BODY_MAX, VALUE_DEPTH_MAX};

/// The member names of one signal.
struct Names {
    resources: &'static str,
    scopes: &'static str,
    items: &'static str,
}

const LOGS: Names = Names { resources: "resourceLogs", scopes: "scopeLogs", items: "logRecords" };
const TRACES: Names = Names { resources: "resourceSpans", scopes: "scopeSpans", items: "spans" };
const METRICS: Names = Names { resources: "resourceMetrics", scopes: "scopeMetrics", items: "metrics" };

fn names(signal: Signal) -> &'static Names {
    match signal {
        Signal::Logs => &LOGS,
        Signal::Traces => &TRACES,
        Signal::Metrics => &METRICS,
    }
}

/// Reads a logs or traces body.
pub(super) fn read(body: &[u8], signal: Signal) -> Result<Vec<Group>, OtlpError> {
    let root = root(body, signal)?;
    let names = names(signal);
    let mut budget = RECORDS_PER_BODY_MAX;
    let mut groups = Vec::new();
    for resource in array(&root, names.resources, signal, &mut budget)? {
        let given = resource.get("resource");
        let mut group =
            Group { resource: shared(given, signal)?, schema_url: text(resource, "schemaUrl"), scopes: Vec::new() };
        for scope in array(resource, names.scopes, signal, &mut budget)? {
            group.scopes.push(read_scope(body, scope, signal, &mut budget)?);
        }
        groups.push(group);
    }
    Ok(groups)
}

/// Counts data points: `resourceMetrics[].scopeMetrics[].metrics[].<kind>.dataPoints`.
pub(super) fn metrics(body: &[u8]) -> Result<Points, OtlpError> {
    let signal = Signal::Metrics;
    let root = root(body, signal)?;
    let mut budget = RECORDS_PER_BODY_MAX;
    let mut points = Points::default();
    for resource in array(&root, METRICS.resources, signal, &mut budget)? {
        let of_resource = shared(resource.get("resource"), signal)?;
        for scope in array(resource, METRICS.scopes, signal, &mut budget)? {
            let scope_name = scope.at(&["scope", "name"]).and_then(Json::as_str).unwrap_or_default();
            let source = super::mapping::source_name(&of_resource, scope_name);
            for metric in array(scope, METRICS.items, signal, &mut budget)? {
                let kinds = ["gauge", "sum", "histogram", "exponentialHistogram", "summary"];
                let of = |kind: &&str| metric.at(&[kind, "dataPoints"]).map_or(0, |points| points.items().len());
                points.add(
                    source,
                    metric.str_at("name").unwrap_or_default(),
                    kinds.iter().map(of).sum::<usize>() as u64,
                );
            }
        }
    }
    Ok(points)
}

/// The document, which must have the signal's own member unless it is empty.
fn root(body: &[u8], signal: Signal) -> Result<Json, OtlpError> {
    let root = parse_within(body, OTLP_BODY).map_err(OtlpError::Json)?.value;
    let member = names(signal).resources;
    if !root.members().is_empty() && root.get(member).is_none() {
        return Err(OtlpError::Shape { signal: signal.as_str(), member, expected: "present" });
    }
    Ok(root)
}

/// The items of an array member; absent or null is none.
fn array<'a>(
    value: &'a Json,
    member: &'static str,
    signal: Signal,
    budget: &mut usize,
) -> Result<&'a [Json], OtlpError> {
    let items = match value.get(member) {
        None | Some(Json::Null) => &[],
        Some(Json::Array(items)) => items.as_slice(),
        Some(_) => return Err(OtlpError::Shape { signal: signal.as_str(), member, expected: "an array" }),
    };
    *budget = budget.checked_sub(items.len()).ok_or(OtlpError::TooMany(RECORDS_PER_BODY_MAX))?;
    Ok(items)
}

fn read_scope(body: &[u8], value: &Json, signal: Signal, budget: &mut usize) -> Result<Scope, OtlpError> {
    let scope = value.get("scope");
    let names = names(signal);
    let items = array(value, names.items, signal, budget)?;
    let spans = value.member(names.items).map_or(Ok(Vec::new()), |member| item_spans(body, member.span.clone()));
    let spans = spans.map_err(|_| OtlpError::Shape {
        signal: signal.as_str(),
        member: names.items,
        expected: "an array of objects",
    })?;
    let read = |item: &Json| match signal {
        Signal::Logs => log_item(item),
        _ => span_item(item),
    };
    Ok(Scope {
        name: scope.map(|scope| text(scope, "name")).unwrap_or_default(),
        version: scope.map(|scope| text(scope, "version")).unwrap_or_default(),
        attributes: shared(scope, signal)?,
        schema_url: text(value, "schemaUrl"),
        items: spans.into_iter().zip(items).map(|(span, item)| (span, read(item))).collect(),
    })
}

/// The byte range of each item of the array at `within`; none for `null`.
fn item_spans(body: &[u8], within: Range<usize>) -> Result<Vec<Range<usize>>, JiterError> {
    let offset = within.start;
    let bytes = body.get(within).unwrap_or_default();
    if !bytes.starts_with(b"[") {
        return Ok(Vec::new());
    }
    let mut jiter = Jiter::new(bytes);
    let mut spans = Vec::new();
    let mut next = jiter.next_array()?;
    while let Some(peek) = next {
        let start = jiter.current_index();
        jiter.known_skip(peek)?;
        spans.push(offset + start..offset + jiter.current_index());
        next = jiter.array_step()?;
    }
    Ok(spans)
}

fn log_item(value: &Json) -> Result<Item, String> {
    let mut item = common(value, "timeUnixNano", "eventName")?;
    item.detail = Detail::Log {
        observed_time_unix_nano: number(value, "observedTimeUnixNano"),
        severity_number: number(value, "severityNumber"),
        severity_text: text(value, "severityText"),
        body: value.get("body").map_or(Ok(Json::Null), |body| any(body, 0))?,
    };
    Ok(item)
}

fn span_item(value: &Json) -> Result<Item, String> {
    let list = |key: &str| value.get(key).map_or(&[][..], Json::items);
    let (events, links) = (list("events"), list("links"));
    if events.len() > EVENTS_MAX || links.len() > EVENTS_MAX {
        return Err(format!("more than {EVENTS_MAX} attributes, events or links"));
    }
    let status = value.get("status").unwrap_or(&Json::Null);
    let mut item = common(value, "startTimeUnixNano", "name")?;
    item.detail = Detail::Span {
        kind: code(value, "kind", &["INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"]),
        parent_span_id: hex_id(value, "parentSpanId"),
        trace_state: text(value, "traceState"),
        end_time_unix_nano: number(value, "endTimeUnixNano"),
        status_code: code(status, "code", &["OK", "ERROR"]),
        status_message: text(status, "message"),
        events: events.iter().map(event).collect::<Result<_, _>>()?,
        links: links.iter().map(link).collect::<Result<_, _>>()?,
    };
    Ok(item)
}

fn common(value: &Json, time: &str, name: &str) -> Result<Item, String> {
    if !matches!(value, Json::Object(_)) {
        return Err("log record or span is not a JSON object".into());
    }
    Ok(Item {
        detail: Detail::default(),
        name: text(value, name),
        trace_id: hex_id(value, "traceId"),
        span_id: hex_id(value, "spanId"),
        flags: number(value, "flags"),
        time_unix_nano: number(value, time),
        attributes: attributes(value.get("attributes"))?,
        dropped: ["droppedAttributesCount", "droppedEventsCount", "droppedLinksCount"].map(|key| number(value, key)),
    })
}

fn event(value: &Json) -> Result<Json, String> {
    let attributes = attributes(value.get("attributes"))?;
    Ok(super::mapping::event(number(value, "timeUnixNano"), text(value, "name"), attributes))
}

fn link(value: &Json) -> Result<Link, String> {
    Ok(Link {
        trace_id: hex_id(value, "traceId"),
        span_id: hex_id(value, "spanId"),
        trace_state: text(value, "traceState"),
        attributes: attributes(value.get("attributes"))?,
    })
}

fn text(value: &Json, key: &str) -> String {
    value.str_at(key).unwrap_or_default().to_string()
}

/// An unsigned integer, as number or string; anything else is zero.
fn number(value: &Json, key: &str) -> u64 {
    match value.get(key) {
        Some(Json::Number(text)) => text.parse().unwrap_or(0),
        Some(Json::String(text)) => text.parse().unwrap_or(0),
        _ => 0,
    }
}

/// An enum as its number, or by the end of its name (`SPAN_KIND_SERVER`), which some emitters write.
fn code(value: &Json, key: &str, names_from_one: &[&str]) -> u64 {
    match value.str_at(key).and_then(|text| text.rsplit('_').next()) {
        Some(name) if !name.bytes().all(|byte| byte.is_ascii_digit()) => {
            names_from_one.iter().position(|known| *known == name).map_or(0, |position| position as u64 + 1)
        }
        _ => number(value, key),
    }
}

fn hex_id(value: &Json, key: &str) -> String {
    id(text(value, key).to_ascii_lowercase())
}

fn shared(holder: Option<&Json>, signal: Signal) -> Result<Vec<Member>, OtlpError> {
    attributes(holder.and_then(|holder| holder.get("attributes"))).map_err(|_| OtlpError::Shape {
        signal: signal.as_str(),
        member: "attributes",
        expected: "within the limits on resource and scope",
    })
}

fn attributes(value: Option<&Json>) -> Result<Vec<Member>, String> {
    let pairs = value.map_or(&[][..], Json::items);
    if pairs.len() > ATTRIBUTES_MAX {
        return Err(format!("more than {ATTRIBUTES_MAX} attributes"));
    }
    pairs.iter().map(|pair| member(pair, 0)).collect()
}

fn member(pair: &Json, depth: usize) -> Result<Member, String> {
    let value = pair.get("value").map_or(Ok(Json::Null), |value| any(value, depth))?;
    Ok(Member { key: text(pair, "key"), value, span: 0..0 })
}

/// `AnyValue`: an object with one member that names the type.
fn any(value: &Json, depth: usize) -> Result<Json, String> {
    if depth > VALUE_DEPTH_MAX {
        return Err(format!("attribute value is nested deeper than {VALUE_DEPTH_MAX} levels"));
    }
    let Some(only) = value.members().last() else {
        return Ok(Json::Null);
    };
    let values = || only.value.get("values").map_or(&[][..], Json::items).iter();
    Ok(match (only.key.as_str(), &only.value) {
        ("stringValue", Json::String(text)) => Json::String(text.clone()),
        ("boolValue", Json::Bool(flag)) => Json::Bool(*flag),
        ("intValue", Json::Number(text)) => Json::Number(text.clone()),
        // A string may hold what is no JSON number, such as `07` or `+7`.
        ("intValue", Json::String(text)) => text
            .parse::<i64>()
            .map_or_else(|_| Json::String(text.clone()), |value| Json::Number(value.to_string().into())),
        ("doubleValue", Json::Number(text)) => text.parse().map_or(Json::Null, double),
        ("bytesValue", Json::String(text)) => base64(text.clone()),
        ("arrayValue", _) => Json::Array(values().map(|item| any(item, depth + 1)).collect::<Result<_, _>>()?),
        ("kvlistValue", _) => Json::Object(values().map(|pair| member(pair, depth + 1)).collect::<Result<_, _>>()?),
        // A type of a later version, or a value that does not fit its type: kept as it is.
        (_, other) => other.clone(),
    })
}
