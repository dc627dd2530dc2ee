//! What the decoders of host transcripts share: bounded memory across lines, times, tool names.
//!
//! Invariants
//! - [`Remembered`] holds at most its bound of entries, keys and values of at most
//!   [`VALUE_BYTES_MAX`] bytes each; the oldest entry goes first

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::columns::Record;
use crate::json::{Json, Member};
use crate::limits::keys::VALUE_BYTES_MAX;

/// A map that forgets its oldest entry when it is full.
#[derive(Debug)]
pub(crate) struct Remembered<V> {
    entries: HashMap<Arc<str>, V>,
    order: VecDeque<Arc<str>>,
    entries_max: usize,
}

impl<V> Remembered<V> {
    pub(crate) fn new(entries_max: usize) -> Self {
        Remembered { entries: HashMap::new(), order: VecDeque::new(), entries_max }
    }

    /// Remembers `value`, unless the key is too long to be an id.
    pub(crate) fn insert(&mut self, key: &str, value: V) {
        if key.is_empty() || key.len() > VALUE_BYTES_MAX {
            return;
        }
        if let Some(known) = self.entries.get_mut(key) {
            *known = value;
            return;
        }
        if self.order.len() >= self.entries_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
        let key: Arc<str> = key.into();
        self.order.push_back(key.clone());
        self.entries.insert(key, value);
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        self.entries.get(key)
    }
}

/// An id or name that is short enough to be remembered.
pub(crate) fn short(text: Option<&str>) -> Option<Arc<str>> {
    text.filter(|text| text.len() <= VALUE_BYTES_MAX).map(Arc::from)
}

/// RFC 3339 text in nanoseconds; `Some(-1)` when there is something that cannot be read.
pub(crate) fn time_unix_nano(value: Option<&Json>) -> Option<i64> {
    let text = match value? {
        Json::Null => return None,
        Json::String(text) => text,
        _ => return Some(-1),
    };
    let time = chrono::DateTime::parse_from_rfc3339(text).ok().and_then(|time| time.timestamp_nanos_opt());
    Some(time.unwrap_or(-1))
}

/// Milliseconds, written as an integer, a decimal or either in a string, in nanoseconds.
pub(crate) fn millis_to_nanos(value: Option<&Json>) -> Option<i64> {
    let value = value?;
    if let Some(millis) = value.as_i64() {
        return (millis >= 0).then(|| millis.saturating_mul(1_000_000));
    }
    let text = match value {
        Json::Number(text) => text,
        Json::String(text) => text.as_str(),
        _ => return None,
    };
    let millis: f64 = text.parse().ok()?;
    // `as` saturates, and a not-a-number fails the comparison.
    (millis >= 0.0).then_some((millis * 1e6) as i64)
}

/// Splits a host's tool name `mcp__<server>__<tool>`; a name of another form belongs to no server.
/// A server name that itself holds `__` cannot be told apart and is cut at the first one.
pub(crate) fn split_tool(name: &str) -> (Option<&str>, &str) {
    match name.strip_prefix("mcp__").and_then(|rest| rest.split_once("__")) {
        Some((server, tool)) if !server.is_empty() && !tool.is_empty() => (Some(server), tool),
        _ => (None, name),
    }
}

/// The exact text of a value within the bytes it was parsed from.
pub(crate) fn exact(bytes: &[u8], member: &Member) -> String {
    bytes.get(member.span.clone()).map(|span| String::from_utf8_lossy(span).into_owned()).unwrap_or_default()
}

/// A member that did not come from bytes.
pub(crate) fn member(key: &str, value: Json) -> Member {
    Member { key: key.into(), value, span: 0..0 }
}

/// The members of an object except those that went into columns.
pub(crate) fn without(value: &Json, taken: &[&str]) -> Vec<Member> {
    value.members().iter().filter(|member| !taken.contains(&member.key.as_str())).cloned().collect()
}

/// Sets `attributes` unless there is nothing left to say.
pub(crate) fn set_attributes(record: &mut Record, mut members: Vec<Member>, duplicate_keys: &[String]) {
    if !duplicate_keys.is_empty() {
        let keys = duplicate_keys.iter().cloned().map(Json::String).collect();
        members.push(member("duplicate_keys", Json::Array(keys)));
    }
    record.attributes = (!members.is_empty()).then(|| Json::Object(members).to_string());
}

/// The `text` members of content blocks, one per line; `None` when there is none.
pub(crate) fn joined_text(blocks: &[Json]) -> Option<String> {
    let texts: Vec<&str> = blocks.iter().filter_map(|block| block.get("text").and_then(Json::as_str)).collect();
    (!texts.is_empty()).then(|| texts.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_entry_is_forgotten() {
        let mut map = Remembered::new(2);
        for (key, value) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
            map.insert(key, value);
        }
        map.insert(&"x".repeat(1000), 5);
        assert_eq!((map.get("a"), map.get("b"), map.get("c")), (None, Some(&2), Some(&4)));
    }

    #[test]
    fn times_and_durations() {
        let text = |text: &str| Json::String(text.into());
        assert_eq!(time_unix_nano(None), None);
        assert_eq!(time_unix_nano(Some(&text("yesterday"))), Some(-1));
        assert_eq!(time_unix_nano(Some(&text("2026-11-20T10:31:01.845Z"))), Some(1_795_170_661_845_000_000));
        assert_eq!(millis_to_nanos(Some(&text("81"))), Some(81_000_000));
        assert_eq!(millis_to_nanos(Some(&Json::Number("0.5".into()))), Some(500_000));
        assert_eq!(millis_to_nanos(Some(&text("NaN"))), None);
        assert_eq!(millis_to_nanos(Some(&text("-3"))), None);
    }

    #[test]
    fn tool_names() {
        assert_eq!(split_tool("mcp__orders__refund"), (Some("orders"), "refund"));
        assert_eq!(split_tool("mcp__a__b__c"), (Some("a"), "b__c"));
        assert_eq!(split_tool("Bash"), (None, "Bash"));
        assert_eq!(split_tool("mcp__orders"), (None, "mcp__orders"));
    }
}
