//! The shape of one JSON-RPC 2.0 message.

use crate::json::{Json, Member};

/// What a message is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape<'a> {
    Request(&'a str),
    Notification(&'a str),
    Result(&'a Json),
    Error(&'a Json),
}

/// A message and its id as JSON text, so that 1 and "1" differ.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) shape: Shape<'a>,
    pub(crate) id: Option<String>,
    pub(crate) value: &'a Json,
}

/// Reads one message; the error says why it is none.
pub(crate) fn read(value: &Json) -> Result<Message<'_>, &'static str> {
    if !matches!(value, Json::Object(_)) {
        return Err("JSON, but not a JSON-RPC message: not an object");
    }
    if value.get("jsonrpc").and_then(Json::as_str) != Some("2.0") {
        return Err("JSON, but not a JSON-RPC 2.0 message: no \"jsonrpc\":\"2.0\"");
    }
    let id = match value.get("id") {
        None | Some(Json::Null) => None,
        Some(id @ (Json::Number(_) | Json::String(_))) => Some(id.to_string()),
        Some(_) => return Err("JSON-RPC id is neither a string nor a number"),
    };
    let error = value.get("error").filter(|error| **error != Json::Null);
    let shape = match (value.get("method"), error, value.get("result")) {
        (Some(Json::String(method)), ..) if id.is_some() => Shape::Request(method),
        (Some(Json::String(method)), ..) => Shape::Notification(method),
        (Some(_), ..) => return Err("JSON-RPC method is not a string"),
        (None, Some(error), _) => Shape::Error(error),
        (None, None, Some(_)) if id.is_none() => return Err("JSON-RPC result without an id"),
        (None, None, Some(result)) => Shape::Result(result),
        (None, None, None) => return Err("JSON-RPC message without method, result or error"),
    };
    Ok(Message { shape, id, value })
}

/// The exact text of a member's value in the document it was parsed from.
pub(crate) fn exact_text(document: &[u8], member: &Member) -> String {
    let bytes = document.get(member.span.clone()).unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

/// Keys of up to eight members whose number no double holds exactly.
pub(crate) fn big_number_keys(value: &Json) -> Vec<String> {
    let mut found = Vec::new();
    collect_big(value, "", &mut found);
    found
}

fn collect_big(value: &Json, key: &str, found: &mut Vec<String>) {
    match value {
        _ if found.len() == 8 => {}
        Json::Number(text) if is_big(text) && !found.iter().any(|known| known == key) => found.push(key.into()),
        Json::Array(items) => items.iter().for_each(|item| collect_big(item, key, found)),
        Json::Object(members) => members.iter().for_each(|member| collect_big(&member.value, &member.key, found)),
        _ => {}
    }
}

/// An integer beyond 2^53, or a number that overflows a double.
fn is_big(text: &str) -> bool {
    const EXACT: u64 = 1 << 53;
    let digits = text.trim_start_matches('-');
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return digits.parse::<u64>().map_or(true, |value| value > EXACT);
    }
    text.parse::<f64>().is_ok_and(|value| value.is_infinite())
}
