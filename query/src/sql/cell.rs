//! Arrow values as JSON cells, and placements as Arrow rows.
//!
//! Integers beyond 2^53 and exact decimals become text, so no reader rounds them; times are RFC 3339 in
//! UTC; bytes are base64.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{
    DataType, Field, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Schema, SchemaRef, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::Value;

use crate::engine::base64;
use crate::model::Placement;

/// Largest integer that every JSON reader keeps exactly.
const EXACT_MAX: u64 = 1 << 53;

/// Rows converted at once, so that a batch of large cells is not held twice.
const PART_ROWS: usize = 128;

/// What an answer may still take.
pub(super) struct Room {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

/// Appends the rows of a batch that find room; tells how many.
pub(super) fn append(batch: &RecordBatch, rows: &mut Vec<Vec<Value>>, room: &mut Room) -> Result<usize, ArrowError> {
    let mut taken = 0;
    while room.rows > 0 && taken < batch.num_rows() {
        let part = batch.slice(taken, PART_ROWS.min(batch.num_rows() - taken).min(room.rows));
        let columns: Vec<Vec<Value>> =
            part.columns().iter().map(|column| cells(column.as_ref())).collect::<Result<_, _>>()?;
        let mut columns: Vec<_> = columns.into_iter().map(Vec::into_iter).collect();
        for _ in 0..part.num_rows() {
            let row: Vec<Value> = columns.iter_mut().map(|column| column.next().unwrap_or(Value::Null)).collect();
            let bytes = row.iter().map(weight).sum::<usize>() + 2;
            if bytes > room.bytes {
                // Later rows may be smaller, but an answer has no holes.
                *room = Room { rows: 0, bytes: 0 };
                return Ok(taken);
            }
            *room = Room { rows: room.rows - 1, bytes: room.bytes - bytes };
            rows.push(row);
            taken += 1;
        }
    }
    Ok(taken)
}

/// Bytes of a cell in JSON at most, as `display::json` writes it.
fn weight(cell: &Value) -> usize {
    match cell {
        Value::String(text) => text.chars().map(character_weight).sum::<usize>() + 3,
        Value::Array(items) => items.iter().map(weight).sum::<usize>() + 3,
        _ => 32,
    }
}

fn character_weight(c: char) -> usize {
    match c {
        '"' | '\\' => 2,
        ' '..='~' => 1,
        c if u32::from(c) < 0x1_0000 => 6,
        _ => 12,
    }
}

fn cells(array: &dyn Array) -> Result<Vec<Value>, ArrowError> {
    let rows = 0..array.len();
    macro_rules! each {
        ($values:expr, |$value:ident| $cell:expr) => {{
            let values = $values;
            rows.map(|row| {
                if array.is_null(row) {
                    return Value::Null;
                }
                let $value = values.value(row);
                $cell
            })
            .collect()
        }};
    }
    Ok(match array.data_type() {
        DataType::Null => rows.map(|_| Value::Null).collect(),
        DataType::Boolean => each!(array.as_boolean(), |value| value.into()),
        DataType::Int8 => each!(array.as_primitive::<Int8Type>(), |value| value.into()),
        DataType::Int16 => each!(array.as_primitive::<Int16Type>(), |value| value.into()),
        DataType::Int32 => each!(array.as_primitive::<Int32Type>(), |value| value.into()),
        DataType::Int64 => each!(array.as_primitive::<Int64Type>(), |value| match value.unsigned_abs() > EXACT_MAX {
            true => value.to_string().into(),
            false => value.into(),
        }),
        DataType::UInt8 => each!(array.as_primitive::<UInt8Type>(), |value| value.into()),
        DataType::UInt16 => each!(array.as_primitive::<UInt16Type>(), |value| value.into()),
        DataType::UInt32 => each!(array.as_primitive::<UInt32Type>(), |value| value.into()),
        DataType::UInt64 => each!(array.as_primitive::<UInt64Type>(), |value| match value > EXACT_MAX {
            true => value.to_string().into(),
            false => value.into(),
        }),
        DataType::Float32 => each!(array.as_primitive::<Float32Type>(), |value| float(f64::from(value))),
        DataType::Float64 => each!(array.as_primitive::<Float64Type>(), |value| float(value)),
        DataType::Utf8 => each!(array.as_string::<i32>(), |value| value.into()),
        DataType::LargeUtf8 => each!(array.as_string::<i64>(), |value| value.into()),
        DataType::Utf8View => each!(array.as_string_view(), |value| value.into()),
        DataType::Binary => each!(array.as_binary::<i32>(), |value| base64(value).into()),
        DataType::LargeBinary => each!(array.as_binary::<i64>(), |value| base64(value).into()),
        DataType::BinaryView => each!(array.as_binary_view(), |value| base64(value).into()),
        DataType::List(_) => {
            let lists = array.as_list::<i32>();
            let cell = |row: usize| match array.is_null(row) {
                true => Ok(Value::Null),
                false => cells(lists.value(row).as_ref()).map(Value::Array),
            };
            rows.map(cell).collect::<Result<_, _>>()?
        }
        _ => {
            let options = FormatOptions::default().with_timestamp_tz_format(Some("%Y-%m-%dT%H:%M:%S%.6fZ"));
            let format = ArrayFormatter::try_new(array, &options)?;
            let cell = |row: usize| match array.is_null(row) {
                true => Ok(Value::Null),
                false => format.value(row).try_to_string().map(Value::String),
            };
            rows.map(cell).collect::<Result<_, _>>()?
        }
    })
}

/// JSON has no infinity and no not-a-number.
fn float(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)
}

static PLACEMENT_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        text("event_id", false),
        text("kind", false),
        text("file", true),
        Field::new("line", DataType::Int64, true),
        text("session", true),
        text("turn", true),
        text("call", true),
        text("parent", true),
        text("parent_event_id", true),
        text("relation", true),
        text("grade", true),
        text("rule", true),
        text("compared", true),
        Field::new("score", DataType::Float64, true),
    ]))
});

/// Columns of the SQL table `links`.
pub(super) fn placement_schema() -> SchemaRef {
    PLACEMENT_SCHEMA.clone()
}

/// Placements as rows of `links`; `compared` is JSON.
pub(super) fn placements(placements: &[Placement]) -> Result<RecordBatch, ArrowError> {
    fn text<'a>(placements: &'a [Placement], value: impl Fn(&'a Placement) -> Option<&'a str>) -> ArrayRef {
        Arc::new(placements.iter().map(value).collect::<StringArray>())
    }
    let grades: Vec<Option<String>> =
        placements.iter().map(|one| one.grade.map(|grade| format!("{grade:?}").to_lowercase())).collect();
    let compared: Vec<Option<String>> = placements
        .iter()
        .map(|one| (!one.compared.is_empty()).then(|| serde_json::to_string(&one.compared).unwrap_or_default()))
        .collect();
    let columns: Vec<ArrayRef> = vec![
        text(placements, |one| Some(&one.event_id)),
        text(placements, |one| Some(&one.kind)),
        text(placements, |one| one.file.as_deref()),
        Arc::new(placements.iter().map(|one| one.line).collect::<Int64Array>()),
        text(placements, |one| one.session.as_deref()),
        text(placements, |one| one.turn.as_deref()),
        text(placements, |one| one.call.as_deref()),
        text(placements, |one| one.parent.as_deref()),
        text(placements, |one| one.parent_event_id.as_deref()),
        text(placements, |one| one.relation.as_deref()),
        Arc::new(grades.into_iter().collect::<StringArray>()),
        text(placements, |one| one.rule.as_deref()),
        Arc::new(compared.into_iter().collect::<StringArray>()),
        Arc::new(placements.iter().map(|one| one.score).collect::<Float64Array>()),
    ];
    RecordBatch::try_new(placement_schema(), columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::TimestampMicrosecondArray;
    use arrow::datatypes::TimeUnit;

    #[test]
    fn cells_keep_every_digit() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("n", Arc::new(Int64Array::from(vec![Some(1_795_170_684_171_870_505), Some(7), None]))),
            ("t", Arc::new(TimestampMicrosecondArray::from(vec![1_795_170_684_171_870, 0, 0]).with_timezone("UTC"))),
            ("f", Arc::new(Float64Array::from(vec![0.5, f64::NAN, f64::INFINITY]))),
        ];
        assert_eq!(columns[1].1.data_type(), &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
        let mut rows = Vec::new();
        let mut room = Room { rows: 10, bytes: 1000 };
        append(&RecordBatch::try_from_iter(columns).unwrap(), &mut rows, &mut room).unwrap();
        expect_test::expect![[r#"[["1795170684171870505","2026-11-20T10:31:24.171870Z",0.5],[7,"1970-01-01T00:00:00.000000Z","NaN"],[null,"1970-01-01T00:00:00.000000Z","inf"]]"#]]
            .assert_eq(&serde_json::to_string(&rows).unwrap());
    }

    #[test]
    fn an_answer_takes_rows_up_to_its_room() {
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..300).map(|_| "0123456789")));
        let batch = RecordBatch::try_from_iter([("t", texts)]).unwrap();
        let taken = |rows, bytes| append(&batch, &mut Vec::new(), &mut Room { rows, bytes }).unwrap();
        assert_eq!([taken(7, 10_000), taken(200, 10_000), taken(1000, 10_000), taken(1000, 150)], [7, 200, 300, 10]);
        let cell = Value::from("\u{202e}\u{1}\"é\u{1f600}");
        assert!(weight(&cell) >= threadline_schemas::display::json(cell.to_string()).len());
    }
}
