//! OCSF events as rows: one fixed Arrow schema per class, as Amazon Security Lake and other readers of Parquet want it.
//!
//! Invariants
//! - the schema of a class is a pinned list (`columns.txt`), never inferred from a batch; it holds every attribute that the
//!   mapping fills, of every version
//! - what an event has beyond the list moves to `unmapped`, at its path; nothing is lost
//! - `unmapped` and attributes of free form (`json_t`) are JSON text, so that no column comes from what a source says; lists
//!   have three levels with the element named `element`; times are 64-bit milliseconds, as the schema's `timestamp_t` is
//!
//! `columns.txt` is made by a test of this file from all sample and test events (`UPDATE_EXPECT=1`).

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use serde_json::{Map, Value};

/// A column or a part of one.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text,
    Json,
    Long,
    Float,
    Boolean,
    Struct(BTreeMap<String, Node>),
    List(Box<Node>),
}

type Classes = BTreeMap<i64, (BTreeMap<String, Node>, SchemaRef)>;

static CLASSES: LazyLock<Classes> = LazyLock::new(|| {
    let mut found: BTreeMap<i64, BTreeMap<String, Node>> = BTreeMap::new();
    for line in include_str!("lake/columns.txt").lines() {
        let mut words = line.split(' ');
        if let (Some(Ok(class)), Some(path), Some(kind)) = (words.next().map(str::parse), words.next(), words.next()) {
            insert(found.entry(class).or_default(), path, kind);
        }
    }
    let with_schema = |columns: BTreeMap<String, Node>| {
        let schema = Arc::new(Schema::new(fields(&columns)));
        (columns, schema)
    };
    found.into_iter().map(|(class, columns)| (class, with_schema(columns))).collect()
});

fn insert(columns: &mut BTreeMap<String, Node>, path: &str, kind: &str) {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let (name, is_list) = first.strip_suffix("[]").map_or((first, false), |name| (name, true));
    let leaf = || match kind {
        "json" => Node::Json,
        "long" => Node::Long,
        "float" => Node::Float,
        "boolean" => Node::Boolean,
        _ => Node::Text,
    };
    let fresh = || if rest.is_some() { Node::Struct(BTreeMap::new()) } else { leaf() };
    let node =
        columns.entry(name.into()).or_insert_with(|| if is_list { Node::List(Box::new(fresh())) } else { fresh() });
    let inner = if let Node::List(element) = node { element.as_mut() } else { node };
    if let (Node::Struct(members), Some(rest)) = (inner, rest) {
        insert(members, rest, kind);
    }
}

fn fields(columns: &BTreeMap<String, Node>) -> Fields {
    columns.iter().map(|(name, node)| Field::new(name, data_type(node), true)).collect()
}

fn data_type(node: &Node) -> DataType {
    match node {
        Node::Text | Node::Json => DataType::Utf8,
        Node::Long => DataType::Int64,
        Node::Float => DataType::Float64,
        Node::Boolean => DataType::Boolean,
        Node::Struct(members) => DataType::Struct(fields(members)),
        Node::List(element) => DataType::List(Arc::new(Field::new("element", data_type(element), true))),
    }
}

/// The classes that have a schema.
pub fn classes() -> impl Iterator<Item = i64> {
    CLASSES.keys().copied()
}

/// The schema of a class; `None` for a class that the mapping does not use.
pub fn schema(class_uid: i64) -> Option<SchemaRef> {
    CLASSES.get(&class_uid).map(|(_, schema)| Arc::clone(schema))
}

/// Events of one class as rows, in their order.
///
/// # Errors
/// When the class has no schema, or a value is not of its column's type.
pub fn to_batch<'e>(class_uid: i64, events: impl IntoIterator<Item = &'e Value>) -> Result<RecordBatch, ArrowError> {
    let unknown = || ArrowError::SchemaError(format!("class {class_uid} has no columns"));
    let (columns, schema) = CLASSES.get(&class_uid).ok_or_else(unknown)?;
    let rows: Vec<Value> = events.into_iter().map(|event| row(event, columns)).collect();
    let mut decoder = ReaderBuilder::new(Arc::clone(schema)).with_batch_size(rows.len().max(1)).build_decoder()?;
    decoder.serialize(&rows)?;
    Ok(decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(schema))))
}

fn row(event: &Value, columns: &BTreeMap<String, Node>) -> Value {
    let mut moved = event.get("unmapped").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut members = event.as_object().cloned().unwrap_or_default();
    members.remove("unmapped");
    let mut row = fitted(members, columns, "", &mut moved);
    if !moved.is_empty() {
        row.insert("unmapped".into(), Value::Object(moved).to_string().into());
    }
    Value::Object(row)
}

fn fitted(
    members: Map<String, Value>,
    columns: &BTreeMap<String, Node>,
    path: &str,
    moved: &mut Map<String, Value>,
) -> Map<String, Value> {
    let mut kept = Map::new();
    for (name, value) in members {
        let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match columns.get(&name) {
            Some(node) => match value_of(value, node, &at, moved) {
                Value::Null => {}
                value => drop(kept.insert(name, value)),
            },
            None => drop(moved.insert(at, value)),
        }
    }
    kept
}

/// The value as its column takes it; null where it does not, and then it was moved.
fn value_of(value: Value, node: &Node, path: &str, moved: &mut Map<String, Value>) -> Value {
    match (node, value) {
        (Node::Json, value) => value.to_string().into(),
        (Node::Text, value @ Value::String(_)) | (Node::Boolean, value @ Value::Bool(_)) => value,
        (Node::Long, value) if value.is_i64() => value,
        (Node::Float, value) if value.is_number() => value,
        (Node::Struct(columns), Value::Object(members)) => Value::Object(fitted(members, columns, path, moved)),
        (Node::List(element), Value::Array(items)) => {
            let items = items.into_iter().enumerate();
            items.map(|(index, item)| value_of(item, element, &format!("{path}[{index}]"), moved)).collect()
        }
        (_, value) => {
            moved.insert(path.into(), value);
            Value::Null
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ocsf::facts::{AttributeType, Schema as Facts, Shape, Version};
    use crate::ocsf::{Occurrence, Policy, event, samples};
    use crate::record::{Decision, Outcome, Record};
    use arrow::array::{Array, AsArray};
    use expect_test::expect_file;
    use std::collections::BTreeSet;

    fn told() -> Vec<(Value, Version)> {
        let policy = Policy { text_bytes_max: 64, base_url: Some("https://x.example".into()) };
        let mut records = Vec::new();
        for record in samples::records() {
            let decisions =
                [None, Some(Decision::Allow), Some(Decision::Deny), Some(Decision::Ask), Some(Decision::Redact)];
            for (decision, outcome) in
                decisions.into_iter().zip([None, Some(Outcome::Ok), Some(Outcome::Error), Some(Outcome::Denied), None])
            {
                let mut other = record.clone();
                (other.decision, other.outcome) = (decision.or(record.decision), outcome.or(record.outcome));
                other.rpc_error_code = (outcome == Some(Outcome::Error)).then_some(-32602);
                other.definition_digest = Some("ab".repeat(32));
                other.redactions = Some("1".into());
                other.log_position = Some("0/123".into());
                let told = other.attributes.as_deref().and_then(|text| serde_json::from_str(text).ok());
                let mut told = told.unwrap_or_else(|| Value::Object(Default::default()));
                told["gen_ai.agent.id"] = "agent-77".into();
                other.attributes = Some(told.to_string());
                records.push(other);
            }
            records.push(record);
        }
        let of = |record: &Record, version| {
            let occurrence = Occurrence { request: Some(record), is_test: true, ..Occurrence::of(record) };
            let whole = event(occurrence, &policy, version);
            let cut = crate::ocsf::shortened(whole.clone(), 500, version);
            [(whole, version), (cut, version)]
        };
        records.iter().flat_map(|record| Version::ALL.iter().flat_map(move |&version| of(record, version))).collect()
    }

    fn paths(value: &Value, shape: &Shape, facts: &Facts, path: &str, found: &mut BTreeSet<(String, &'static str)>) {
        for (name, value) in value.as_object().into_iter().flatten() {
            let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let Some(attribute) = shape.attributes.get(name.as_str()) else { continue };
            let at = if attribute.is_array { format!("{at}[]") } else { at };
            match attribute.kind {
                AttributeType::Object(object) => match facts.objects.get(object) {
                    Some(inner) if !inner.attributes.is_empty() => {
                        let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                        items.iter().for_each(|item| paths(item, inner, facts, &at, found));
                    }
                    _ => drop(found.insert((at, "json"))),
                },
                AttributeType::Scalar(kind) => {
                    let base = facts.types.get(kind).copied().unwrap_or(kind);
                    let kind = match base {
                        "json_t" => "json",
                        "boolean_t" => "boolean",
                        "integer_t" | "long_t" | "timestamp_t" => "long",
                        "float_t" => "float",
                        _ => "text",
                    };
                    found.insert((at, kind));
                }
            }
        }
    }

    #[test]
    fn the_pinned_columns_are_those_that_the_mapping_fills() {
        let mut found: BTreeMap<i64, BTreeSet<(String, &'static str)>> = BTreeMap::new();
        for (event, version) in told() {
            let class = event["class_uid"].as_i64().unwrap();
            let facts = version.schema();
            paths(&event, &facts.classes[&class].shape, facts, "", found.entry(class).or_default());
        }
        let lines = found
            .iter()
            .flat_map(|(class, paths)| paths.iter().map(move |(path, kind)| format!("{class} {path} {kind}\n")));
        expect_file!["./lake/columns.txt"].assert_eq(&lines.collect::<String>());
    }

    #[test]
    fn every_event_is_a_row_and_what_is_unknown_moves() {
        for (event, version) in told() {
            let class = event["class_uid"].as_i64().unwrap();
            let batch = to_batch(class, [&event]).unwrap();
            let time = batch.column_by_name("time").unwrap().as_primitive::<arrow::datatypes::Int64Type>().value(0);
            assert_eq!(time, event["time"].as_i64().unwrap(), "{class} in {version}");
            let metadata = batch.column_by_name("metadata").unwrap().as_struct();
            let uid = metadata.column_by_name("uid").unwrap().as_string::<i32>().value(0).to_string();
            assert_eq!(uid, event["metadata"]["uid"].as_str().unwrap());
            let unmapped = batch.column_by_name("unmapped").map(|column| column.as_string::<i32>());
            let unmapped = unmapped.filter(|column| !column.is_null(0)).map(|column| column.value(0).to_string());
            let unmapped: Value = unmapped.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap());
            assert_eq!(unmapped, event["unmapped"], "nothing of a told event is beyond its columns");
        }
        let mut odd = told().remove(0).0;
        odd["colour"] = "red".into();
        odd["actor"]["pets"] = serde_json::json!([1]);
        odd["severity_id"] = "high".into();
        let class = odd["class_uid"].as_i64().unwrap();
        let batch = to_batch(class, [&odd]).unwrap();
        let text = batch.column_by_name("unmapped").unwrap().as_string::<i32>().value(0).to_string();
        let moved: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&moved["colour"], &moved["actor.pets"], &moved["severity_id"]),
            (&odd["colour"], &odd["actor"]["pets"], &odd["severity_id"])
        );
        assert!(to_batch(42, [&odd]).is_err());
    }
}
