//! Stamps: deterministic names for session, turn and call, from the strongest key present, so that
//! two collectors that never talk write the same value.
//!
//! Invariants
//! - a stamp depends on the record's own keys only; it says how things are named, not what belongs
//!   together
//! - running [`stamp`] twice changes nothing

use sha2::{Digest, Sha256};

use crate::columns::Record;
use crate::keys::{Key, KeyKind};

/// Strongest first: what names a session.
const SESSION: &[KeyKind] = &[KeyKind::Conversation, KeyKind::McpSession, KeyKind::Connection, KeyKind::Trace];
const TURN: &[KeyKind] = &[KeyKind::Turn, KeyKind::Trace];
const CALL: &[KeyKind] = &[KeyKind::ToolCall, KeyKind::Rpc];

/// Adds a key for every native id column, then sets the three stamps.
pub fn stamp(record: &mut Record) {
    native_keys(record).into_iter().for_each(|key| record.add_key(key));
    let session = strongest(record, SESSION);
    record.session_key =
        session.map_or_else(|| name("session", &format!("source:{}", record.source_name)), |key| name("session", &key));
    record.turn_key = strongest(record, TURN).map(|key| name("turn", &key));
    record.call_key = strongest(record, CALL).map(|key| name("call", &key));
}

/// `<s|t|c>-` and 20 hex digits of `SHA-256("threadline/<level>/v1" ‖ 0x00 ‖ key text)`.
pub fn name(level: &str, key: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("threadline/{level}/v1\0"));
    hash.update(key);
    format!("{}-{}", &level[..1], hex::encode(&hash.finalize()[..10]))
}

fn native_keys(record: &Record) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut unscoped = |kind, value: &Option<String>| {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            keys.push(Key::new(kind, value));
        }
    };
    unscoped(KeyKind::Conversation, &record.conversation_id);
    unscoped(KeyKind::Turn, &record.turn_id);
    unscoped(KeyKind::ToolCall, &record.tool_call_id);
    unscoped(KeyKind::Trace, &record.trace_id);
    unscoped(KeyKind::Connection, &record.connection_id);
    if let Some(trace) = &record.trace_id {
        for (kind, span) in [(KeyKind::Span, &record.span_id), (KeyKind::ParentSpan, &record.parent_span_id)] {
            if let Some(span) = span {
                keys.push(Key::scoped(kind, trace, span));
            }
        }
    }
    keys
}

fn strongest(record: &Record, order: &[KeyKind]) -> Option<String> {
    order.iter().find_map(|kind| {
        let prefix = format!("{}:", kind.as_str());
        record.keys.iter().find(|key| key.starts_with(&prefix)).cloned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Kind;

    #[test]
    fn stamps_come_from_the_strongest_key_and_are_stable() {
        let mut record = Record::new("t", "api:1", Kind::Call);
        record.connection_id = Some("run-1".into());
        record.tool_call_id = Some("toolu_1".into());
        stamp(&mut record);
        assert_eq!(record.session_key, name("session", "connection:run-1"));
        assert_eq!(record.call_key, Some(name("call", "toolcall:toolu_1")));
        let once = record.clone();
        stamp(&mut record);
        assert_eq!(record, once);
        expect_test::expect!["s-6c3fcab40004ef50b8ef"].assert_eq(&record.session_key);
    }
}
