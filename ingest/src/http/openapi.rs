//! What the OpenAPI document says of `POST /api/v1/events`; the members of an event come from the table of columns.
//!
//! Not here: the OTLP routes, which have a specification of their own.

use arrow::datatypes::DataType;
use threadline_schemas::columns::{COLUMNS, schema};
use threadline_schemas::{Kind, wire};
use utoipa::openapi::schema::{ArrayBuilder, SchemaType, Type};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{OpenApi, PartialSchema, ToSchema};

/// The part of an OpenAPI 3.1 document that is about native events.
#[derive(OpenApi)]
#[openapi(paths(super::events::take), components(schemas(NativeEvent)), tags((name = "collect", description = "Records going in")))]
struct Document;

/// The routes of [`events`](super::events), for the document of the server they are part of.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// One event: `kind` and any column that a sender may set.
pub(super) struct NativeEvent;

impl ToSchema for NativeEvent {}

impl PartialSchema for NativeEvent {
    fn schema() -> RefOr<Schema> {
        let text = |meaning: &str| ObjectBuilder::new().schema_type(Type::String).description(Some(meaning)).build();
        let kind = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(Kind::ALL.iter().map(|kind| kind.as_str())))
            .description(Some("What was observed."))
            .build();
        let id = "Names this delivery: the same id again is the same event, however often it is sent.";
        let mut event = ObjectBuilder::new()
            .description(Some("One event: `kind`, and any column of the record that a sender may set. Other members are kept in `attributes`."))
            .property("id", text(id))
            .property("time", text("When it happened, RFC 3339; or `time_unix_nano`."))
            .property("kind", kind)
            .required("kind");
        let columns = schema();
        for column in COLUMNS.iter().filter(|c| c.name != "kind" && !wire::RECEIVER_SETS.contains(&c.name)) {
            let data_type = columns.field_with_name(column.name).map(|field| field.data_type().clone());
            let meaning = Some(column.meaning);
            let member: Schema = match (column.name, data_type) {
                ("arguments" | "result" | "attributes", _) => {
                    ObjectBuilder::new().schema_type(SchemaType::AnyValue).description(meaning).build().into()
                }
                (_, Ok(DataType::Int64)) => {
                    ObjectBuilder::new().schema_type(Type::Integer).description(meaning).build().into()
                }
                (_, Ok(DataType::Boolean)) => {
                    ObjectBuilder::new().schema_type(Type::Boolean).description(meaning).build().into()
                }
                (_, Ok(DataType::List(_))) => ArrayBuilder::new()
                    .items(ObjectBuilder::new().schema_type(Type::String))
                    .description(meaning)
                    .build()
                    .into(),
                (_, Ok(DataType::Binary)) => text(&format!("{} Base64.", column.meaning)).into(),
                _ => text(column.meaning).into(),
            };
            event = event.property(column.name, member);
        }
        event.build().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_every_member_that_a_sender_may_set() {
        let document: serde_json::Value = serde_json::to_value(openapi()).unwrap();
        let post = &document["paths"]["/api/v1/events"]["post"];
        let body = &post["requestBody"]["content"]["application/x-ndjson"]["schema"]["$ref"];
        assert_eq!(body, "#/components/schemas/NativeEvent");
        let event = &document["components"]["schemas"]["NativeEvent"];
        assert_eq!(event["required"], serde_json::json!(["kind"]));
        assert_eq!(event["properties"]["duration_nano"]["type"], "integer");
        assert!(event["properties"]["kind"]["enum"].as_array().unwrap().len() == Kind::ALL.len());
        for column in COLUMNS {
            let is_named = event["properties"].get(column.name).is_some();
            assert_eq!(is_named, !wire::RECEIVER_SETS.contains(&column.name), "{}", column.name);
        }
        // An answer says the same as the type that writes it.
        let taken = &document["components"]["schemas"]["Taken"]["properties"];
        for member in ["accepted", "duplicates", "conflicts", "rejected_total", "rejected"] {
            assert!(taken.get(member).is_some(), "{member}");
        }
    }
}
