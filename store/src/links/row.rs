//! One judged link, and its Arrow form.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    },
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
};
use uuid::Uuid;

/// A statement that one record belongs to another, or that nothing is believed of it any more.
///
/// All rows of one `from` that bear the same `known_at` are one opinion; a later opinion supersedes it.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkRow {
    /// The dependent record; of a clock or a finding, what names it and its interval.
    pub from: Uuid,
    /// The record it belongs to; absent in an opinion that only places or withdraws.
    pub to: Option<Uuid>,
    /// `prompt`, `execution`, `result`, `downstream`, `round`, `duplicate_of`, `conversation`; `clock` and `finding` are what a run
    /// learned beside links; `none` withdraws.
    pub relation: String,
    /// Word of the grade: claimed, inferred, ambiguous, ...
    pub grade: String,
    /// What judged it.
    pub rule: String,
    /// Confidence, 0 to 1.
    pub score: f64,
    /// Pieces of evidence with the values compared, JSON.
    pub evidence: Option<String>,
    /// Ranked rivals, JSON.
    pub candidates: Option<String>,
    /// Session that `from` is placed in.
    pub session: Option<String>,
    /// Turn within it.
    pub turn: Option<String>,
    /// Call within it.
    pub call: Option<String>,
    /// Linker, its version and the digest of its parameters.
    pub linker: String,
    /// Event time from which on the run read records, nanoseconds.
    pub interval_from: i64,
    /// Event time up to which it read them.
    pub interval_to: i64,
    /// Whether the interval was closed when it was judged.
    pub is_final: bool,
    /// When we came to believe it, microseconds.
    pub known_at_us: i64,
}

/// Columns of the table `links`.
pub(super) fn schema() -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let integer = |name: &str| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![
        text("link_from", false),
        text("link_to", true),
        text("relation", false),
        text("grade", false),
        text("rule", false),
        Field::new("score", DataType::Float64, false),
        text("evidence", true),
        text("candidates", true),
        text("session", true),
        text("turn", true),
        text("call", true),
        text("linker", false),
        integer("interval_from_unix_nano"),
        integer("interval_to_unix_nano"),
        Field::new("is_final", DataType::Boolean, false),
        Field::new("known_at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
    ]))
}

/// Rows as one batch.
pub(super) fn to_batch(rows: &[LinkRow]) -> Result<RecordBatch, ArrowError> {
    let text =
        |of: &dyn Fn(&LinkRow) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(of))) };
    let maybe = |of: fn(&LinkRow) -> Option<&String>| -> ArrayRef {
        Arc::new(StringArray::from_iter(rows.iter().map(|row| of(row).map(String::as_str))))
    };
    let integer = |of: fn(&LinkRow) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(rows.iter().map(of))) };
    let to: ArrayRef = Arc::new(StringArray::from_iter(rows.iter().map(|row| row.to.map(|to| to.to_string()))));
    let known =
        TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.known_at_us)).with_timezone("UTC");
    let columns: Vec<ArrayRef> = vec![
        text(&|row| row.from.to_string()),
        to,
        text(&|row| row.relation.clone()),
        text(&|row| row.grade.clone()),
        text(&|row| row.rule.clone()),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.score))),
        maybe(|row| row.evidence.as_ref()),
        maybe(|row| row.candidates.as_ref()),
        maybe(|row| row.session.as_ref()),
        maybe(|row| row.turn.as_ref()),
        maybe(|row| row.call.as_ref()),
        text(&|row| row.linker.clone()),
        integer(|row| row.interval_from),
        integer(|row| row.interval_to),
        Arc::new(BooleanArray::from_iter(rows.iter().map(|row| Some(row.is_final)))),
        Arc::new(known),
    ];
    RecordBatch::try_new(schema(), columns)
}

/// Rows of a batch, columns found by name.
pub(super) fn from_batch(batch: &RecordBatch) -> Result<Vec<LinkRow>, ArrowError> {
    let text = |name: &str| -> Result<StringArray, ArrowError> {
        column(batch, name, &DataType::Utf8).map(|c| StringArray::from(c.to_data()))
    };
    let integer = |name: &str| column(batch, name, &DataType::Int64).map(|c| Int64Array::from(c.to_data()));
    let [from, to, relation, grade, rule] = ["link_from", "link_to", "relation", "grade", "rule"].map(text);
    let [evidence, candidates, session, turn, call, linker] =
        ["evidence", "candidates", "session", "turn", "call", "linker"].map(text);
    let (from, to, relation, grade, rule) = (from?, to?, relation?, grade?, rule?);
    let (evidence, candidates, session, turn, call, linker) = (evidence?, candidates?, session?, turn?, call?, linker?);
    let (interval_from, interval_to) = (integer("interval_from_unix_nano")?, integer("interval_to_unix_nano")?);
    let known_type = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let known = column(batch, "known_at", &known_type).map(|c| TimestampMicrosecondArray::from(c.to_data()))?;
    let score = column(batch, "score", &DataType::Float64).map(|c| Float64Array::from(c.to_data()))?;
    let is_final = column(batch, "is_final", &DataType::Boolean).map(|c| BooleanArray::from(c.to_data()))?;
    let id = |text: &str| Uuid::parse_str(text).map_err(|_| ArrowError::ParseError("a link names no event id".into()));
    let maybe = |array: &StringArray, at: usize| array.is_valid(at).then(|| array.value(at).to_string());
    (0..batch.num_rows())
        .map(|at| {
            Ok(LinkRow {
                from: id(from.value(at))?,
                to: if to.is_valid(at) { Some(id(to.value(at))?) } else { None },
                relation: relation.value(at).into(),
                grade: grade.value(at).into(),
                rule: rule.value(at).into(),
                score: score.value(at),
                evidence: maybe(&evidence, at),
                candidates: maybe(&candidates, at),
                session: maybe(&session, at),
                turn: maybe(&turn, at),
                call: maybe(&call, at),
                linker: linker.value(at).into(),
                interval_from: interval_from.value(at),
                interval_to: interval_to.value(at),
                is_final: is_final.value(at),
                known_at_us: known.value(at),
            })
        })
        .collect()
}

fn column<'b>(batch: &'b RecordBatch, name: &str, kind: &DataType) -> Result<&'b ArrayRef, ArrowError> {
    let found = batch.column_by_name(name).filter(|column| column.data_type() == kind);
    found.ok_or_else(|| ArrowError::SchemaError(format!("the table links has no column {name} of type {kind}")))
}
