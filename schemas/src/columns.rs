//! The columns of `records`: one table from which the [`Record`] struct, the Arrow schema, the
//! Arrow conversion and the log encoding are generated, so that they cannot disagree.
//!
//! Invariants
//! - a tag is never reused; a column is never removed, only left empty (`since` says its version)
//! - at most 60 columns; what is not filtered or joined on goes into `attributes`
//! - Delta knows no unsigned or fixed-size types, so columns are `Utf8`, `Int64`, `Boolean`,
//!   `Binary`, `List<Utf8>` and `Timestamp(us, UTC)` only
//! - `time` and `observed_time` are derived for readers; `log_position` is set by the sealer
//!
//! Not here: payloads over [`BODY_INLINE_BYTES_MAX`]; the store keeps those beside the row.

use std::borrow::Borrow;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryBuilder, BooleanArray, BooleanBuilder, Int64Array, Int64Builder, ListArray,
    ListBuilder, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use uuid::Uuid;

use crate::json::Json;
use crate::record::{Collector, Decision, Direction, Kind, Outcome, RECORD_VERSION, SourceKind, TimeQuality};

/// A payload field longer than this is kept beside the row, by digest (64 KiB).
pub const BODY_INLINE_BYTES_MAX: usize = 64 * 1024;

/// What a column is for: decides how the leaf commits to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// In the clear inside the leaf entry.
    Header,
    /// Committed by one salted digest over all detail columns.
    Detail,
    /// The key list: a salted tag per key.
    Keys,
    /// Content: a salted digest of its own, so that it can be erased alone.
    Payload,
    /// Not committed (derived, positional, or the salt itself).
    Outside,
}

/// One column's documentation.
#[derive(Debug, Clone)]
pub struct Column {
    /// Number in the log encoding and the leaf; never reused.
    pub tag: u16,
    /// Name in Arrow, Parquet, SQL and API.
    pub name: &'static str,
    /// Record version that introduced it.
    pub since: i64,
    /// How the leaf commits to it.
    pub role: Role,
    /// Meaning, unit and source.
    pub meaning: &'static str,
}

/// How a field type is kept in Arrow and in the log encoding.
pub trait FieldType: Sized {
    /// Arrow type of the column.
    fn data_type() -> DataType;
    /// Whether the column may be null.
    const NULLABLE: bool;
    /// The value of a column that is absent from an encoded record.
    fn absent() -> Option<Self>;
    /// Builds the column of `rows`.
    fn array<'a>(rows: impl Iterator<Item = &'a Self>) -> ArrayRef
    where
        Self: 'a;
    /// Reads one row back.
    fn read(array: &dyn Array, row: usize) -> Result<Self, ArrowError>;
    /// Appends the value's bytes; `false` (and nothing appended) when there is nothing to say.
    fn encode(&self, out: &mut Vec<u8>) -> bool;
    /// Reads the bytes written by [`FieldType::encode`].
    fn decode(bytes: &[u8]) -> Option<Self>;
    /// The value in API and wire JSON; bytes in base64.
    fn to_json(&self) -> serde_json::Value;
    /// Reads the JSON form; a JSON value where text is expected is taken as its JSON text.
    fn from_json(value: &Json) -> Option<Self>;
}

fn cast<T: Array + 'static>(array: &dyn Array) -> Result<&T, ArrowError> {
    array
        .as_any()
        .downcast_ref::<T>()
        .ok_or_else(|| ArrowError::SchemaError(format!("column has type {}", array.data_type())))
}

/// Implements [`FieldType`] for a type that is text in Arrow and bytes, and for its `Option`.
macro_rules! text_field {
    ($type:ty, |$value:ident| $show:expr, |$text:ident| $parse:expr) => {
        impl FieldType for $type {
            const NULLABLE: bool = false;
            fn data_type() -> DataType {
                DataType::Utf8
            }
            fn absent() -> Option<Self> {
                None
            }
            fn array<'a>(rows: impl Iterator<Item = &'a Self>) -> ArrayRef {
                let mut builder = StringBuilder::new();
                for $value in rows {
                    builder.append_value($show);
                }
                Arc::new(builder.finish())
            }
            fn read(array: &dyn Array, row: usize) -> Result<Self, ArrowError> {
                let $text = cast::<StringArray>(array)?.value(row);
                $parse
                    .ok_or_else(|| ArrowError::ParseError(format!("{} not understood in row {row}", stringify!($type))))
            }
            fn encode(&self, out: &mut Vec<u8>) -> bool {
                let $value = self;
                out.extend_from_slice({ $show }.as_bytes());
                true
            }
            fn decode(bytes: &[u8]) -> Option<Self> {
                let $text = std::str::from_utf8(bytes).ok()?;
                $parse
            }
            fn to_json(&self) -> serde_json::Value {
                let $value = self;
                serde_json::Value::String({ $show }.to_string())
            }
            fn from_json(value: &Json) -> Option<Self> {
                let shown;
                let $text = match value {
                    Json::String(text) => text.as_str(),
                    other => {
                        shown = other.to_string();
                        shown.as_str()
                    }
                };
                $parse
            }
        }
        impl FieldType for Option<$type> {
            const NULLABLE: bool = true;
            fn data_type() -> DataType {
                DataType::Utf8
            }
            fn absent() -> Option<Self> {
                Some(None)
            }
            fn array<'a>(rows: impl Iterator<Item = &'a Self>) -> ArrayRef {
                let mut builder = StringBuilder::new();
                for row in rows {
                    match row {
                        Some($value) => builder.append_value($show),
                        None => builder.append_null(),
                    }
                }
                Arc::new(builder.finish())
            }
            fn read(array: &dyn Array, row: usize) -> Result<Self, ArrowError> {
                if array.is_null(row) {
                    return Ok(None);
                }
                <$type as FieldType>::read(array, row).map(Some)
            }
            fn encode(&self, out: &mut Vec<u8>) -> bool {
                self.as_ref().is_some_and(|value| value.encode(out))
            }
            fn decode(bytes: &[u8]) -> Option<Self> {
                <$type as FieldType>::decode(bytes).map(Some)
            }
            fn to_json(&self) -> serde_json::Value {
                self.as_ref().map_or(serde_json::Value::Null, FieldType::to_json)
            }
            fn from_json(value: &Json) -> Option<Self> {
                optional(value)
            }
        }
    };
}

text_field!(String, |value| value.as_str(), |text| Some(text.to_string()));
text_field!(Uuid, |value| value.to_string(), |text| Uuid::parse_str(text).ok());
text_field!(Kind, |value| value.as_str(), |text| Kind::parse(text));
text_field!(SourceKind, |value| value.as_str(), |text| SourceKind::parse(text));
text_field!(Collector, |value| value.as_str(), |text| Collector::parse(text));
text_field!(TimeQuality, |value| value.as_str(), |text| TimeQuality::parse(text));
text_field!(Direction, |value| value.as_str(), |text| Direction::parse(text));
text_field!(Outcome, |value| value.as_str(), |text| Outcome::parse(text));
text_field!(Decision, |value| value.as_str(), |text| Decision::parse(text));

impl FieldType for i64 {
    const NULLABLE: bool = false;
    fn data_type() -> DataType {
        DataType::Int64
    }
    fn absent() -> Option<Self> {
        None
    }
    fn array<'a>(rows: impl Iterator<Item = &'a Self>) -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(rows.copied()))
    }
    fn read(array: &dyn Array, row: usize) -> Result<Self, ArrowError> {
        Ok(cast::<Int64Array>(array)?.value(row))
    }
    fn encode(&self, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(&self.to_le_bytes());
        true
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(i64::from_le_bytes(bytes.try_into().ok()?))
    }
    fn to_json(&self) -> serde_json::Value {
        (*self).into()
    }
    fn from_json(value: &Json) -> Option<Self> {
        value.as_i64()
    }
}

impl FieldType for Option<i64> {
    const NULLABLE: bool = true;
    fn data_type() -> DataType {
        DataType::Int64
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
    fn array<'a>(rows: impl Iterator<Item = &'a Self>) -> ArrayRef {
        let mut builder = Int64Builder::new();
        rows.for_each(|row| builder.append_option(*row));
        Arc::new(builder.finish())
    }
    fn read(array: &dyn Array, row: usize) -> Result<Self, ArrowError> {
        let array = cast::<Int64Array>(array)?;
        Ok((!array.is_null(row)).then(|| array.value(row)))
    }
    fn encode(&self, out: &mut Vec<u8>) -> bool {
        self.is_some_and(|value| value.encode(out))
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        <i64 as FieldType>::decode(bytes).map(Some)
    }
    fn to_json(&self) -> serde_json::Value {
        (*self).into()
    }
    fn from_json(value: &Json) -> Option<Self> {
        optional(value)
    }
}

/// Reads `null` as absent, anything else as the inner type.
fn optional<T: FieldType>(value: &Json) -> Option<Option<T>> {
    if *value == Json::Null { Some(None) } else { T::from_json(value).map(Some) }
}

impl FieldType for Option<bool> {
    const NULLABLE: bool = true;
    fn data_type() -> DataType {
        DataType::Boolean
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
    fn array<'a>(rows: impl Iterator<Item = &'a Self>) -> ArrayRef {
        let mut builder = BooleanBuilder::new();
        rows.for_each(|row| builder.append_option(*row));
        Arc::new(builder.finish())
    }
    fn read(array: &dyn Array, row: usize) -> Result<Self, ArrowError> {
        let array = cast::<BooleanArray>(array)?;
        Ok((!array.is_null(row)).then(|| array.value(row)))
    }
    fn encode(&self, out: &mut Vec<u8>) -> bool {
        self.map(|value| out.push(u8::from(value))).is_some()
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0] => Some(Some(false)),
            [1] => Some(Some(true)),
            _ => None,
        }
    }
    fn to_json(&self) -> serde_json::Value {
        (*self).into()
    }
    fn from_json(value: &Json) -> Option<Self> {
        if *value == Json::Null { Some(None) } else { value.as_bool().map(Some) }
    }
}

impl FieldType for Option<Vec<u8>> {
    const NULLABLE: bool = true;
    fn data_type() -> DataType {
        DataType::Binary
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
    fn array<'a>(rows: impl Iterator<Item = &'a Self>) -> ArrayRef {
        let mut builder = BinaryBuilder::new();
        rows.for_each(|row| builder.append_option(row.as_deref()));
        Arc::new(builder.finish())
    }
    fn read(array: &dyn Array, row: usize) -> Result<Self, ArrowError> {
        let array = cast::<BinaryArray>(array)?;
        Ok((!array.is_null(row)).then(|| array.value(row).to_vec()))
    }
    fn encode(&self, out: &mut Vec<u8>) -> bool {
        self.as_ref().map(|bytes| out.extend_from_slice(bytes)).is_some()
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Some(bytes.to_vec()))
    }
    fn to_json(&self) -> serde_json::Value {
        self.as_ref().map(|bytes| BASE64.encode(bytes)).into()
    }
    fn from_json(value: &Json) -> Option<Self> {
        match value {
            Json::Null => Some(None),
            Json::String(text) => BASE64.decode(text).ok().map(Some),
            _ => None,
        }
    }
}

impl FieldType for Vec<String> {
    const NULLABLE: bool = false;
    fn data_type() -> DataType {
        DataType::List(Arc::new(Field::new("element", DataType::Utf8, false)))
    }
    fn absent() -> Option<Self> {
        Some(Vec::new())
    }
    fn array<'a>(rows: impl Iterator<Item = &'a Self>) -> ArrayRef {
        let element = Field::new("element", DataType::Utf8, false);
        let mut builder = ListBuilder::new(StringBuilder::new()).with_field(element);
        for row in rows {
            row.iter().for_each(|text| builder.values().append_value(text));
            builder.append(true);
        }
        Arc::new(builder.finish())
    }
    fn read(array: &dyn Array, row: usize) -> Result<Self, ArrowError> {
        let values = cast::<ListArray>(array)?.value(row);
        let values = cast::<StringArray>(&values)?;
        Ok((0..values.len()).map(|i| values.value(i).to_string()).collect())
    }
    /// Each text as `length u32 LE | bytes`.
    fn encode(&self, out: &mut Vec<u8>) -> bool {
        for text in self {
            out.extend_from_slice(&(text.len() as u32).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        !self.is_empty()
    }
    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut texts = Vec::new();
        while !bytes.is_empty() {
            let (length, rest) = bytes.split_first_chunk::<4>()?;
            let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            texts.push(std::str::from_utf8(text).ok()?.to_string());
            bytes = rest;
        }
        Some(texts)
    }
    fn to_json(&self) -> serde_json::Value {
        self.clone().into()
    }
    fn from_json(value: &Json) -> Option<Self> {
        value.items().iter().map(|item| item.as_str().map(str::to_string)).collect()
    }
}

macro_rules! columns {
    ($($tag:literal $name:ident: $type:ty = $default:expr, $role:ident, since $since:literal, $meaning:literal;)*) => {
        /// One observation. Field by field: [`COLUMNS`].
        #[derive(Debug, Clone, PartialEq)]
        pub struct Record { $(#[doc = $meaning] pub $name: $type,)* }

        impl Record {
            pub(crate) fn empty(kind: Kind) -> Self {
                let mut record = Record { $($name: $default,)* };
                record.kind = kind;
                record
            }

            /// Calls `each` with tag, role and bytes of every present field, in ascending tag order.
            pub(crate) fn encode_fields(&self, mut each: impl FnMut(u16, Role, &[u8])) {
                let mut bytes = Vec::new();
                $(bytes.clear();
                if self.$name.encode(&mut bytes) { each($tag, Role::$role, &bytes); })*
            }

            /// The record whose fields `value` returns by tag; `Err` names the column that failed.
            pub(crate) fn decode_fields<'a>(value: impl Fn(u16) -> Option<&'a [u8]>) -> Result<Self, &'static str> {
                Ok(Record { $($name: match value($tag) {
                    Some(bytes) => <$type as FieldType>::decode(bytes).ok_or(stringify!($name))?,
                    None => <$type as FieldType>::absent().ok_or(stringify!($name))?,
                },)* })
            }
        }

        impl Record {
            /// Every column that says something, by name; `raw` and `leaf_salt` in base64.
            pub fn to_json(&self) -> serde_json::Map<String, serde_json::Value> {
                let mut map = serde_json::Map::new();
                $(match self.$name.to_json() {
                    serde_json::Value::Null => {}
                    value => { map.insert(stringify!($name).into(), value); }
                })*
                map
            }

            /// Sets the column called `name`. `None`: no such column; `Some(false)`: the value does not fit.
            pub(crate) fn set_json(&mut self, name: &str, value: &Json) -> Option<bool> {
                match name {
                    $(stringify!($name) => Some(<$type as FieldType>::from_json(value).map(|v| self.$name = v).is_some()),)*
                    _ => None,
                }
            }
        }

        /// Every stored field in tag order; `time` and `observed_time` come on top (see [`schema`]).
        pub static COLUMNS: &[Column] = &[$(Column { tag: $tag, name: stringify!($name), since: $since, role: Role::$role, meaning: $meaning },)*];

        fn arrow_fields() -> Vec<Field> {
            vec![$(Field::new(stringify!($name), <$type as FieldType>::data_type(), <$type as FieldType>::NULLABLE),)*]
        }

        fn arrays(records: &[impl Borrow<Record>]) -> Vec<ArrayRef> {
            vec![$(<$type as FieldType>::array(records.iter().map(|record| &record.borrow().$name)),)*]
        }

        /// The columns of a batch by field, looked up once.
        struct Arrays<'a> { $($name: Option<&'a ArrayRef>,)* }

        impl<'a> Arrays<'a> {
            fn of(batch: &'a RecordBatch) -> Self {
                Arrays { $($name: batch.column_by_name(stringify!($name)),)* }
            }

            fn row(&self, row: usize) -> Result<Record, ArrowError> {
                Ok(Record { $($name: match self.$name {
                    Some(column) => <$type as FieldType>::read(column, row)?,
                    None => <$type as FieldType>::absent().unwrap_or_else(|| $default),
                },)* })
            }
        }
    };
}

columns! {
    1 event_id: Uuid = Uuid::nil(), Header, since 1, "UUID version 8 from tenant and delivery key. Source: threadline.";
    2 record_version: i64 = RECORD_VERSION, Header, since 1, "Version of this field list. Source: threadline.";
    3 tenant: String = String::new(), Header, since 1, "Whose record it is; from the credential or configuration, never from content.";
    4 delivery_key: String = String::new(), Detail, since 1, "What event_id was derived from: which delivery this was. Source: collector.";
    5 time_unix_nano: i64 = 0, Header, since 1, "When it happened, nanoseconds since the Unix epoch (UTC); the source's clock unless time_quality says otherwise.";
    6 time_quality: TimeQuality = TimeQuality::Missing, Header, since 1, "Whose time it is: source, or ours because the source's was missing, zero or invalid.";
    7 observed_time_unix_us: i64 = 0, Header, since 1, "When the collector saw it, microseconds since the Unix epoch (UTC), our clock.";
    8 duration_nano: Option<i64> = None, Detail, since 1, "How long it took, nanoseconds, as the source says. Source: spans, tool results.";
    9 source_kind: SourceKind = SourceKind::Unknown, Header, since 1, "Side of the call the source stands on: host, wire, gateway, server, downstream.";
    10 source_name: String = String::new(), Header, since 1, "Name of the emitter: program, service.name, or recorded server.";
    11 collector: Collector = Collector::Api, Header, since 1, "Which way into threadline it took.";
    12 decoder: String = String::new(), Detail, since 1, "Which decoder read it (mcp-stdio, claude-code, otlp-protobuf, ...).";
    13 source_sequence: Option<i64> = None, Header, since 1, "The source's own counter, if it has one; order inside a source.";
    14 origin_file: Option<String> = None, Detail, since 1, "File it came from, relative to what was imported, without .gz.";
    15 origin_line: Option<i64> = None, Detail, since 1, "1-based line in that file, or ordinal of the record in a binary body.";
    16 kind: Kind = Kind::Log, Header, since 1, "What was observed.";
    17 name: Option<String> = None, Detail, since 1, "The source's own name for it: MCP method, event name, span name.";
    18 direction: Option<Direction> = None, Detail, since 1, "Which way a frame travelled.";
    19 server_name: Option<String> = None, Detail, since 1, "MCP server concerned, as configured at the client or recorded.";
    20 tool_name: Option<String> = None, Detail, since 1, "Tool concerned, as the server calls it.";
    21 target: Option<String> = None, Detail, since 1, "What else was addressed: resource URI, prompt name, URL, statement.";
    22 outcome: Option<Outcome> = None, Header, since 1, "How it ended, in one word.";
    23 transport_status: Option<String> = None, Detail, since 1, "Transport layer: HTTP status, span status, exit code, disconnect.";
    24 rpc_error_code: Option<i64> = None, Detail, since 1, "JSON-RPC error code, when the response was an error.";
    25 tool_is_error: Option<bool> = None, Detail, since 1, "MCP isError of a tool result, or the host's equivalent.";
    26 error_type: Option<String> = None, Detail, since 1, "error.type or message class as the source names it.";
    27 decision: Option<Decision> = None, Header, since 1, "Verdict of a policy, permission or person.";
    28 decision_by: Option<String> = None, Detail, since 1, "Who or what decided (config, user, policy name).";
    29 user_claimed: Option<String> = None, Detail, since 1, "User as the source claims; not verified.";
    30 user_authenticated: Option<String> = None, Detail, since 1, "User as an authentication proved; never from content.";
    31 agent_name: Option<String> = None, Detail, since 1, "Agent or host program (claude-code, codex, gen_ai.agent.name).";
    32 client_name: Option<String> = None, Detail, since 1, "MCP clientInfo name and version; self-reported.";
    33 authority: Option<String> = None, Detail, since 1, "Scopes, delegation chain and permission mode, JSON.";
    34 credential_fingerprint: Option<String> = None, Detail, since 1, "Keyed hash of the credential used; never the credential.";
    35 trace_id: Option<String> = None, Detail, since 1, "W3C trace id, 32 lower-case hex digits.";
    36 span_id: Option<String> = None, Detail, since 1, "W3C span id, 16 hex digits; the span itself, or the one a log line belongs to.";
    37 parent_span_id: Option<String> = None, Detail, since 1, "Span named as parent; for frames the span in _meta.traceparent.";
    38 conversation_id: Option<String> = None, Detail, since 1, "Host's session, conversation or thread id.";
    39 turn_id: Option<String> = None, Detail, since 1, "Host's prompt or turn id.";
    40 tool_call_id: Option<String> = None, Detail, since 1, "The model's id for the tool use.";
    41 rpc_id: Option<String> = None, Detail, since 1, "JSON-RPC id as JSON text (1 and \"1\" differ); unique per connection and direction.";
    42 connection_id: Option<String> = None, Detail, since 1, "Recorded connection: one stdio process or one HTTP client connection.";
    43 keys: Vec<String> = Vec::new(), Keys, since 1, "Every typed, scoped key this record bears (see the key table).";
    44 arguments_digest: Option<String> = None, Detail, since 1, "Keyed digest of the canonical arguments before redaction, 32 hex digits.";
    45 result_digest: Option<String> = None, Detail, since 1, "Keyed digest of the canonical result before redaction, 32 hex digits.";
    46 definition_digest: Option<String> = None, Detail, since 1, "SHA-256 of the canonical tool definition, 64 hex digits.";
    47 session_key: String = String::new(), Detail, since 1, "Stamp from the strongest session-like key; a name, not a conclusion.";
    48 turn_key: Option<String> = None, Detail, since 1, "Stamp from the strongest turn-like key.";
    49 call_key: Option<String> = None, Detail, since 1, "Stamp from the strongest call-like key.";
    50 text: Option<String> = None, Payload, since 1, "Human text: prompt, answer, log body, error message; after redaction.";
    51 arguments: Option<String> = None, Payload, since 1, "Arguments of a call or selection as JSON text, as received, after redaction.";
    52 result: Option<String> = None, Payload, since 1, "Result of a call as JSON text, as received, after redaction.";
    53 attributes: Option<String> = None, Payload, since 1, "Everything else the source said that has no column, JSON object.";
    54 raw: Option<Vec<u8>> = None, Payload, since 1, "The exact bytes received for this record, after redaction. In Parquet without what other columns of the row hold: 1A hex begins a reference, see residue.rs; API, export and SQL of threadline give it back whole.";
    55 redactions: Option<String> = None, Detail, since 1, "What was redacted: JSON array of {field, kind, fingerprint, bytes}.";
    56 bodies: Option<String> = None, Detail, since 1, "Payload fields kept beside the row: JSON object field -> {sha256, bytes}. Set by the sealer.";
    57 leaf_salt: Option<Vec<u8>> = None, Outside, since 1, "32 random bytes drawn by the collector; salts the leaf's commitments.";
    58 log_position: Option<String> = None, Outside, since 1, "Partition and offset in the log, as 0/123. Set by the sealer.";
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut fields = vec![Field::new("time", utc.clone(), false), Field::new("observed_time", utc, false)];
    fields.extend(arrow_fields());
    Arc::new(Schema::new(fields))
});

/// Arrow schema of `records`: `time` and `observed_time` (microseconds, UTC, for readers), then
/// every column of [`COLUMNS`].
pub fn schema() -> SchemaRef {
    SCHEMA.clone()
}

/// One batch with a row per record, in order.
pub fn to_batch(records: &[impl Borrow<Record>]) -> Result<RecordBatch, ArrowError> {
    let time = records.iter().map(|r| r.borrow().time_unix_nano.div_euclid(1000));
    let observed = records.iter().map(|r| r.borrow().observed_time_unix_us);
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from_iter_values(time).with_timezone("UTC")),
        Arc::new(TimestampMicrosecondArray::from_iter_values(observed).with_timezone("UTC")),
    ];
    columns.extend(arrays(records));
    RecordBatch::try_new(schema(), columns)
}

/// The records of a batch. Columns that the batch lacks (a projection, an older file) take their
/// absent value, so a projected batch gives partial records.
pub fn from_batch(batch: &RecordBatch) -> Result<Vec<Record>, ArrowError> {
    records(batch).collect()
}

/// The same, one after another.
pub fn records(batch: &RecordBatch) -> impl Iterator<Item = Result<Record, ArrowError>> {
    let arrays = Arrays::of(batch);
    (0..batch.num_rows()).map(move |index| arrays.row(index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect_file;

    #[test]
    fn the_schema_is_the_golden_one() {
        let mut text = String::from("name | arrow type | nullable | tag | since | leaf | meaning\n");
        for field in schema().fields() {
            let column = COLUMNS.iter().find(|column| column.name == field.name());
            let (tag, since, role, meaning) =
                column.map_or((0, 1, Role::Outside, "Derived for readers."), |c| (c.tag, c.since, c.role, c.meaning));
            text.push_str(&format!(
                "{} | {} | {} | {tag} | {since} | {role:?} | {meaning}\n",
                field.name(),
                field.data_type(),
                field.is_nullable()
            ));
        }
        expect_file!["../goldens/record_schema.txt"].assert_eq(&text);
    }

    #[test]
    fn there_are_at_most_sixty_columns_with_ascending_tags() {
        assert!(schema().fields().len() <= 60, "{}", schema().fields().len());
        assert!(COLUMNS.windows(2).all(|pair| pair[0].tag < pair[1].tag));
    }

    #[test]
    fn arrow_round_trip_keeps_every_field() {
        let mut record = Record::new("acme", "api:1", Kind::Call);
        record.set_time(Some(1_795_170_684_171_870_505), 1_795_170_684_171_871);
        record.keys = vec!["toolcall:a".into(), "trace:b".into()];
        record.tool_is_error = Some(false);
        record.raw = Some(vec![0, 255, 10]);
        record.text = Some("naïve \u{202e}".into());
        let batch = to_batch(&[record.clone(), Record::new("acme", "api:2", Kind::Log)]).unwrap();
        assert_eq!(from_batch(&batch).unwrap()[0], record);
    }
}
