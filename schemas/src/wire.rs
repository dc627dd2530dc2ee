//! The native event: what `POST /api/v1/events` takes and what one collector sends to another.
//!
//! One JSON object per line. Members are the columns of the record ([`crate::columns::COLUMNS`]);
//! `arguments`, `result` and `attributes` may be given as JSON values, `time` as RFC 3339. An `id`
//! makes retries idempotent. Of a member that is said twice the last holds, and `threadline.duplicate_keys`
//! names it. Unknown members are kept in `attributes`, never dropped.
//!
//! Not accepted from a sender, because the receiver decides them: [`RECEIVER_SETS`].

use crate::columns::Record;
use crate::decode::Context;
use crate::json::{self, Json, JsonError, Member};
use crate::record::Kind;

/// Columns that a sender cannot set.
pub const RECEIVER_SETS: &[&str] = &[
    "event_id",
    "record_version",
    "tenant",
    "delivery_key",
    "user_authenticated",
    "log_position",
    "session_key",
    "turn_key",
    "call_key",
    "bodies",
    "time_quality",
    "collector",
];

/// Why a line is not an event.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    /// Not JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// JSON, but not an object.
    #[error("an event is a JSON object")]
    NotAnObject,
    /// `kind` is absent or unknown.
    #[error("member kind must be one of the record kinds")]
    Kind,
    /// A member's value does not fit its column.
    #[error("member {0} does not fit its column")]
    Member(&'static str),
    /// `time` is not RFC 3339.
    #[error("member time must be RFC 3339, or use time_unix_nano")]
    Time,
}

/// Reads one event. `batch_key` (digest and ordinal) names the delivery when the event has no `id`.
pub fn read_event(context: &Context<'_>, line: &[u8], batch_key: &str) -> Result<Record, WireError> {
    let parsed = json::parse(line)?;
    let Json::Object(members) = &parsed.value else {
        return Err(WireError::NotAnObject);
    };
    let kind = parsed.value.str_at("kind").and_then(Kind::parse).ok_or(WireError::Kind)?;
    let delivery_key = match parsed.value.get("id") {
        None | Some(Json::Null) => batch_key.to_string(),
        Some(Json::String(id)) if !id.is_empty() => format!("api:{id}"),
        // Only texts name a delivery: 1 and "1" would have to be told apart for ever.
        Some(_) => return Err(WireError::Member("id")),
    };
    let mut record = Record::new(context.tenant, &delivery_key, kind);
    record.collector = context.collector;
    record.decoder = "native".into();
    let mut rest = Vec::new();
    for member in members {
        set_member(&mut record, member, line, &mut rest)?;
    }
    // W3C: all zeros are no trace and no span; whoever has none writes them.
    let is_set = |id: &String| id.bytes().any(|byte| byte != b'0');
    for id in [&mut record.trace_id, &mut record.span_id, &mut record.parent_span_id] {
        *id = id.take().filter(is_set);
    }
    if !parsed.duplicate_keys.is_empty() {
        let keys = parsed.duplicate_keys.iter().map(|key| Json::String(key.clone())).collect();
        rest.push(Member { key: "threadline.duplicate_keys".into(), value: Json::Array(keys), span: 0..0 });
    }
    let time = source_time(&parsed.value)?;
    let observed =
        parsed.value.get("observed_time_unix_us").and_then(Json::as_i64).filter(|us| believable(*us, context));
    record.set_time(time, observed.unwrap_or(context.observed_time_unix_us));
    if !rest.is_empty() {
        merge_attributes(&mut record, rest);
    }
    if record.arguments_digest.is_none() {
        record.arguments_digest = context.digest_text(record.arguments.as_deref());
    }
    if record.result_digest.is_none() {
        record.result_digest = context.digest_text(record.result.as_deref());
    }
    // What a collector elsewhere passes on without raw bytes has none: this line is of its making.
    if record.raw.is_none() && !record.is_passed_on() {
        record.raw = Some(line.to_vec());
    }
    Ok(record)
}

/// A collector's clock may be ahead of ours by a day; what lies beyond is not a time somebody observed.
fn believable(observed_unix_us: i64, context: &Context<'_>) -> bool {
    const DAY_US: i64 = 86_400_000_000;
    observed_unix_us > 0 && observed_unix_us <= context.observed_time_unix_us.saturating_add(DAY_US)
}

fn set_member(record: &mut Record, member: &Member, line: &[u8], rest: &mut Vec<Member>) -> Result<(), WireError> {
    const HANDLED: &[&str] = &["id", "kind", "time", "time_unix_nano", "observed_time_unix_us", "decoder_attributes"];
    let name = member.key.as_str();
    if HANDLED.contains(&name) || RECEIVER_SETS.contains(&name) {
        return Ok(());
    }
    let is_value = !matches!(member.value, Json::String(_) | Json::Null);
    if matches!(name, "arguments" | "result" | "attributes") && is_value {
        let text = String::from_utf8_lossy(&line[member.span.clone()]).into_owned();
        record.set_json(name, &Json::String(text));
        return Ok(());
    }
    match record.set_json(name, &member.value) {
        Some(true) => Ok(()),
        Some(false) => {
            let known = crate::columns::COLUMNS.iter().find(|column| column.name == name);
            Err(WireError::Member(known.map_or("?", |column| column.name)))
        }
        None => {
            rest.push(member.clone());
            Ok(())
        }
    }
}

fn source_time(event: &Json) -> Result<Option<i64>, WireError> {
    if let Some(nanos) = event.get("time_unix_nano") {
        return nanos.as_i64().map(Some).ok_or(WireError::Time);
    }
    match event.get("time") {
        None | Some(Json::Null) => Ok(None),
        Some(value) => {
            let text = value.as_str().ok_or(WireError::Time)?;
            let time = chrono::DateTime::parse_from_rfc3339(text).map_err(|_| WireError::Time)?;
            time.timestamp_nanos_opt().map(Some).ok_or(WireError::Time)
        }
    }
}

fn merge_attributes(record: &mut Record, rest: Vec<Member>) {
    let given = record.attributes.take().and_then(|text| json::parse(text.as_bytes()).ok());
    let mut members = match given.map(|parsed| parsed.value) {
        Some(Json::Object(members)) => members,
        _ => Vec::new(),
    };
    members.extend(rest);
    record.attributes = Some(Json::Object(members).to_string());
}

/// The line by which one collector sends a record to another; [`read_event`] reads it back. An event whose sender named it
/// keeps that name, so that it is one event whichever way it comes.
pub fn write_event(record: &Record) -> String {
    let mut map = record.to_json();
    RECEIVER_SETS.iter().for_each(|name| {
        map.remove(*name);
    });
    let key = record.delivery_key.as_str();
    let named = key.strip_prefix("api:").filter(|id| !id.is_empty());
    map.insert("id".into(), named.unwrap_or(key).into());
    serde_json::Value::Object(map).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::tests::context;

    #[test]
    fn an_event_keeps_what_has_no_column() {
        let line = br#"{"id":"o-1","kind":"call","time":"2026-11-20T10:00:00.5Z","tool_name":"refund","arguments":{"n": 1.50},"colour":"red","tenant":"forged"}"#;
        let record = read_event(&context(), line, "batch:x:1").unwrap();
        assert_eq!(record.delivery_key, "api:o-1");
        assert_eq!(record.tenant, "default");
        assert_eq!(record.arguments.as_deref(), Some(r#"{"n": 1.50}"#));
        assert_eq!(record.attributes.as_deref(), Some(r#"{"colour":"red"}"#));
        assert_eq!(record.time_unix_nano, 1_795_168_800_500_000_000);
    }

    #[test]
    fn a_member_that_is_said_twice_is_noted() {
        let line = br#"{"kind":"call","tool_name":"a","tool_name":"b"}"#;
        let record = read_event(&context(), line, "batch:x:1").unwrap();
        assert_eq!(record.attributes.as_deref(), Some(r#"{"threadline.duplicate_keys":["tool_name"]}"#));
    }

    #[test]
    fn what_one_collector_writes_another_reads() {
        let mut record = Record::new("default", "tap:r:1", Kind::Result);
        record.set_time(Some(5), 6);
        record.raw = Some(vec![0, 1, 255]);
        record.keys = vec!["connection:r".into()];
        let read = read_event(&context(), write_event(&record).as_bytes(), "batch:x:1").unwrap();
        assert_eq!(read.raw, record.raw);
        assert_eq!(read.keys, record.keys);
        assert_eq!(read.delivery_key, "api:tap:r:1");
        let again = read_event(&context(), write_event(&read).as_bytes(), "batch:x:1").unwrap();
        assert_eq!(again.event_id, read.event_id);
    }

    #[test]
    fn null_ids_are_no_ids_and_impossible_times_are_ours() {
        let line = br#"{"id":null,"kind":"log","observed_time_unix_us":9223372036854775807}"#;
        let record = read_event(&context(), line, "batch:x:1").unwrap();
        assert_eq!(record.delivery_key, "batch:x:1");
        assert_eq!(record.observed_time_unix_us, context().observed_time_unix_us);
    }

    #[test]
    fn a_trace_of_zeros_is_none() {
        let line = format!(r#"{{"kind":"call","trace_id":"{:032}","span_id":"{:016}","parent_span_id":"0a"}}"#, 0, 0);
        let record = read_event(&context(), line.as_bytes(), "batch:x:1").unwrap();
        assert_eq!((record.trace_id, record.span_id, record.parent_span_id.as_deref()), (None, None, Some("0a")));
        assert_eq!(record.raw.as_deref(), Some(line.as_bytes()));
    }

    #[test]
    fn errors_name_the_member() {
        let check = |line: &str| read_event(&context(), line.as_bytes(), "b").unwrap_err().to_string();
        assert_eq!(check(r#"{"kind":"call","id":7}"#), "member id does not fit its column");
        assert_eq!(check(r#"{"kind":"call","id":""}"#), "member id does not fit its column");
        assert_eq!(check("[]"), "an event is a JSON object");
        assert_eq!(check(r#"{"kind":"nope"}"#), "member kind must be one of the record kinds");
        assert_eq!(check(r#"{"kind":"call","tool_is_error":7}"#), "member tool_is_error does not fit its column");
    }
}
