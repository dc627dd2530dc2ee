//! Requests to models, and the tools a model chose, under the names that conventions and libraries have used for them.
//!
//! | what | OpenTelemetry | before it | OpenInference | OpenLLMetry |
//! | --- | --- | --- | --- | --- |
//! | request | `gen_ai.operation.name` | `gen_ai.system` and a model | `openinference.span.kind` LLM | `llm.request.type` |
//! | model | `gen_ai.request.model` | | `llm.model_name` | |
//! | asked | `gen_ai.input.messages` | `gen_ai.prompt`, event `gen_ai.content.prompt` | `llm.input_messages.<n>.`, `input.value` | `gen_ai.prompt.<n>.` |
//! | answered | `gen_ai.output.messages` | `gen_ai.completion`, event `gen_ai.choice` | `llm.output_messages.<n>.`, `output.value` | `gen_ai.completion.<n>.` |
//! | chosen tool | part `tool_call` | `gen_ai.choice`: `tool_calls` | `..tool_calls.<m>.tool_call.` | `..tool_calls.<m>.` |
//!
//! Each tool in an answer becomes a `selection`: the model's id for it is what joins the choice to the call. What was
//! asked repeats the whole conversation every time, so no prompts, results or selections are made of it.
//!
//! Invariants
//! - payloads that are one attribute move into columns; those spread over numbered attributes stay there
//! - at most [`CHOICES_MAX`] choices of one record, one per id; of an answer beyond [`MODEL_ANSWER`] none

use std::collections::BTreeMap;

use super::item::{Detail, Item, get};
use super::mapping::Reading;
use crate::columns::Record;
use crate::decode::transcript::split_tool;
use crate::json::{self, Json};
use crate::limits::json::MODEL_ANSWER;
use crate::limits::otlp::CHOICES_MAX;
use crate::record::Kind;

/// A tool that a model chose.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Choice {
    id: Option<String>,
    name: Option<String>,
    arguments: Option<String>,
}

/// Whether a span is a request to a model.
pub(super) fn is_model_request(item: &Item) -> bool {
    const OPERATIONS: &[&str] = &["chat", "generate_content", "text_completion", "embeddings", "completion"];
    const REQUEST_TYPES: &[&str] = &["chat", "completion", "embedding", "rerank"];
    if let Some(operation) = item.text("gen_ai.operation.name") {
        return OPERATIONS.contains(&operation);
    }
    let provider = item.first(&["gen_ai.provider.name", "gen_ai.system"]);
    matches!(item.text("openinference.span.kind"), Some("LLM" | "EMBEDDING" | "RERANKER"))
        || item.text("llm.request.type").is_some_and(|kind| REQUEST_TYPES.contains(&kind))
        || (provider.is_some() && item.text("gen_ai.request.model").is_some())
}

/// Columns of a request to a model.
pub(super) fn model_request(reading: &mut Reading<'_>) {
    reading.record.kind = Kind::ModelRequest;
    let item = reading.item;
    let model =
        item.first(&["gen_ai.request.model", "gen_ai.response.model", "llm.model_name", "embedding.model_name"]);
    reading.record.target = model.map(str::to_string);
    // No digests: they are for what a call was given and gave back. A conversation can be large, so it is not parsed.
    let asked = ["gen_ai.input.messages", "gen_ai.prompt", "input.value", "traceloop.entity.input"];
    reading.record.arguments = reading.take_document(&asked);
    let answered = ["gen_ai.output.messages", "gen_ai.completion", "output.value", "traceloop.entity.output"];
    reading.record.result = reading.take_document(&answered);
    if reading.record.text.is_none() {
        reading.record.text = answer_text(item);
    }
    for choice in choices(item) {
        reading.choose(choice);
    }
}

/// The log records by which older libraries report a request, message by message. Only `gen_ai.choice` says something
/// that was not said before.
pub(super) fn message_event(reading: &mut Reading<'_>, name: &str) -> bool {
    match name {
        "gen_ai.system.message" | "gen_ai.user.message" | "gen_ai.assistant.message" | "gen_ai.tool.message" => {
            reading.record.kind = Kind::ModelRequest;
        }
        "gen_ai.choice" => {
            reading.record.kind = Kind::Completion;
            for choice in choices(reading.item) {
                reading.choose(choice);
            }
        }
        _ => return false,
    }
    if let Detail::Log { body, .. } = &reading.item.detail {
        let content = body.at(&["message", "content"]).or_else(|| body.get("content"));
        if let Some(text) = content.and_then(Json::as_str) {
            reading.record.text = Some(text.to_string());
        }
    }
    true
}

/// What a choice says, for a record that has the ids of the request.
pub(super) fn describe(record: &mut Record, choice: Choice) {
    record.name = Some("tool_call".into());
    record.tool_call_id = choice.id;
    if let Some(name) = &choice.name {
        let (server, tool) = split_tool(name);
        record.server_name = server.map(str::to_string);
        record.tool_name = Some(tool.to_string());
    }
    record.arguments = choice.arguments;
}

/// The tools that an answer chose, in order.
pub(super) fn choices(item: &Item) -> Vec<Choice> {
    let mut found = Vec::new();
    if let Some(messages) = structured(item.attribute("gen_ai.output.messages")) {
        messages.items().iter().for_each(|message| of_parts(message, &mut found));
    }
    numbered(item, &mut found);
    match &item.detail {
        Detail::Log { body, .. } => of_message(body.get("message").unwrap_or(body), &mut found),
        Detail::Span { events, .. } => {
            for event in events.iter().filter(|event| event.str_at("name") == Some("gen_ai.choice")) {
                let attributes = event.get("attributes").map(Json::members).unwrap_or_default();
                let content = structured(get(attributes, "gen_ai.event.content"));
                let message = content.as_ref().map(|content| content.get("message").unwrap_or(content));
                if let Some(message) = message {
                    of_message(message, &mut found);
                }
            }
        }
    }
    let mut known: Vec<String> = Vec::new();
    found.retain(|choice| match &choice.id {
        Some(id) if known.contains(id) => false,
        Some(id) => {
            known.push(id.clone());
            true
        }
        None => choice.name.is_some(),
    });
    found
}

/// Parts of type `tool_call` of a message of the conventions.
fn of_parts(message: &Json, found: &mut Vec<Choice>) {
    for part in message.get("parts").map(Json::items).unwrap_or_default() {
        if part.str_at("type") == Some("tool_call") && found.len() < CHOICES_MAX {
            found.push(Choice {
                id: part.str_at("id").map(str::to_string),
                name: part.str_at("name").map(str::to_string),
                arguments: part.get("arguments").map(as_text),
            });
        }
    }
}

/// `tool_calls` of a message as model APIs write it.
fn of_message(message: &Json, found: &mut Vec<Choice>) {
    for call in message.get("tool_calls").map(Json::items).unwrap_or_default() {
        let function = call.get("function").unwrap_or(call);
        if found.len() < CHOICES_MAX {
            found.push(Choice {
                id: call.str_at("id").map(str::to_string),
                name: function.str_at("name").map(str::to_string),
                arguments: function.get("arguments").map(as_text),
            });
        }
    }
}

/// Numbered attributes: `gen_ai.completion.0.tool_calls.1.name` and
/// `llm.output_messages.0.message.tool_calls.1.tool_call.function.name`.
fn numbered(item: &Item, found: &mut Vec<Choice>) {
    let mut by_number: BTreeMap<(u32, u32), Choice> = BTreeMap::new();
    for member in &item.attributes {
        let Some((number, field)) = number(&member.key) else { continue };
        if by_number.len() >= CHOICES_MAX && !by_number.contains_key(&number) {
            continue;
        }
        let text = Some(as_text(&member.value));
        let choice = by_number.entry(number).or_default();
        match field {
            "id" | "tool_call.id" => choice.id = text,
            "name" | "tool_call.function.name" => choice.name = text,
            "arguments" | "tool_call.function.arguments" => choice.arguments = text,
            _ => {}
        }
    }
    found.extend(by_number.into_values().take(CHOICES_MAX.saturating_sub(found.len())));
}

fn number(key: &str) -> Option<((u32, u32), &str)> {
    let rest = ["gen_ai.completion.", "llm.output_messages."].iter().find_map(|prefix| key.strip_prefix(prefix))?;
    let (message, rest) = rest.split_once('.')?;
    let (_, rest) = rest.split_once("tool_calls.")?;
    let (call, field) = rest.split_once('.')?;
    Some(((message.parse().ok()?, call.parse().ok()?), field))
}

/// What the model said in words.
fn answer_text(item: &Item) -> Option<String> {
    let messages = structured(item.attribute("gen_ai.output.messages"));
    let parts = messages.iter().flat_map(|messages| messages.items());
    let parts = parts.flat_map(|message| message.get("parts").map(Json::items).unwrap_or_default());
    let is_text = |part: &&Json| part.str_at("type") == Some("text");
    let texts: Vec<String> =
        parts.filter(is_text).filter_map(|part| part.str_at("content")).map(str::to_string).collect();
    let flat = ["gen_ai.completion.0.content", "llm.output_messages.0.message.content"];
    match texts.is_empty() {
        true => item.first(&flat).map(str::to_string),
        false => Some(texts.join("\n")),
    }
}

/// A value that may be given as JSON text.
fn structured(value: Option<&Json>) -> Option<Json> {
    match value? {
        Json::String(text) => json::parse_within(text.as_bytes(), MODEL_ANSWER).ok().map(|parsed| parsed.value),
        other => Some(other.clone()),
    }
}

fn as_text(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}
