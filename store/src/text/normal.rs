//! The searched texts of a record, in the form in which they are compared.

use std::borrow::Cow;

use threadline_schemas::{Key, Kind, Record};

/// What verification has to read of a row, besides the bodies.
pub(crate) const SEARCHED_COLUMNS: &[&str] = &[
    "event_id",
    "kind",
    "time_unix_nano",
    "text",
    "arguments",
    "result",
    "attributes",
    "raw",
    "bodies",
    "name",
    "server_name",
    "tool_name",
    "target",
    "source_name",
    "agent_name",
    "client_name",
    "error_type",
    "user_claimed",
    "user_authenticated",
    "origin_file",
    "keys",
    "delivery_key",
    "session_key",
    "turn_key",
    "call_key",
    "conversation_id",
    "turn_id",
    "tool_call_id",
    "trace_id",
    "span_id",
    "parent_span_id",
    "connection_id",
];

/// JSON inside JSON inside JSON is undone; a deeper one is found by its words only where no escape touches them.
const ESCAPE_LEVELS_MAX: usize = 3;

/// Calls `each` with every searched text of `record`, normalised; stops when it returns `false`. What somebody asked for
/// is no evidence that it is there: of a record of kind `access` only the ids are searched.
pub(crate) fn record_texts(record: &Record, mut each: impl FnMut(&str) -> bool) -> bool {
    if record.kind == Kind::Access {
        return ids(record).iter().all(|id| each(&normalise(id)));
    }
    let named = [
        &record.text,
        &record.name,
        &record.server_name,
        &record.tool_name,
        &record.target,
        &record.agent_name,
        &record.client_name,
        &record.error_type,
        &record.user_claimed,
        &record.user_authenticated,
        &record.origin_file,
    ];
    for text in named.into_iter().flatten().chain([&record.source_name]) {
        if !each(&normalise(text)) {
            return false;
        }
    }
    for id in ids(record) {
        if !each(&normalise(&id)) {
            return false;
        }
    }
    for json in [&record.arguments, &record.result, &record.attributes].into_iter().flatten() {
        if !unescaped(json, &mut each) {
            return false;
        }
    }
    match &record.raw {
        Some(raw) if raw_is_searched(record, raw) => unescaped(&String::from_utf8_lossy(raw), &mut each),
        _ => true,
    }
}

/// Whether the raw bytes may say what no other searched column says: a line that was not understood, or one of which the
/// payload columns hold next to nothing. What a decoder has no column for it puts into `attributes`, so indexing more of
/// the raw bytes finds little more and costs a third of the index.
fn raw_is_searched(record: &Record, raw: &[u8]) -> bool {
    let payloads = [&record.text, &record.arguments, &record.result, &record.attributes];
    let held: usize = payloads.into_iter().flatten().map(String::len).sum();
    record.kind == Kind::Rejected || held < raw.len() / 8
}

/// The ids that a source gave, each once: values and scopes of keys, and what has no key. A key whose value is nothing
/// but hex, as those of traces and spans, is left out: it is found whole through the id sidecar, nobody knows a part of it,
/// and each would be a word of its own.
fn ids(record: &Record) -> Vec<Cow<'_, str>> {
    let keys: Vec<Option<Key>> = record.keys.iter().map(|key| Key::parse(key)).collect();
    let is_found_whole = |id: &str| is_long_hex(id) && keys.iter().flatten().any(|key| key.value == id);
    let mut ids: Vec<Cow<'_, str>> = Vec::with_capacity(record.keys.len() + 2);
    let mut add = |id: Cow<'_, str>| {
        if !is_found_whole(&id) && !ids.contains(&id) {
            ids.push(Cow::Owned(id.into_owned()));
        }
    };
    for (text, key) in record.keys.iter().zip(&keys) {
        match key {
            Some(Key { scope, value, .. }) => scope.iter().chain([value]).for_each(|id| add(Cow::Owned(id.clone()))),
            None => add(Cow::Borrowed(text)),
        }
    }
    let native = [
        &record.conversation_id,
        &record.turn_id,
        &record.tool_call_id,
        &record.trace_id,
        &record.span_id,
        &record.parent_span_id,
        &record.connection_id,
    ];
    native.into_iter().flatten().for_each(|id| add(Cow::Borrowed(id)));
    // The id under which a client delivered it.
    record.delivery_key.strip_prefix("api:").into_iter().for_each(|id| add(Cow::Borrowed(id)));
    ids
}

/// Whether an id is nothing but 16 or more lower-case hex digits.
fn is_long_hex(id: &str) -> bool {
    id.len() >= 16 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A JSON text as it is, and with its escapes undone level by level.
fn unescaped(json: &str, each: &mut impl FnMut(&str) -> bool) -> bool {
    let mut text = Cow::Borrowed(json);
    for _ in 0..=ESCAPE_LEVELS_MAX {
        if !each(&normalise(&text)) {
            return false;
        }
        match unescape(&text) {
            Cow::Owned(next) => text = Cow::Owned(next),
            Cow::Borrowed(_) => break,
        }
    }
    true
}

/// Lower case, and one space for any run of white space and control characters.
pub(super) fn normalise(text: &str) -> Cow<'_, str> {
    let plain = |b: u8| matches!(b, b'!'..=b'@' | b'['..=b'~');
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    if text.is_ascii() && is_evenly_spaced(text.as_bytes()) {
        return Cow::Owned(text.to_ascii_lowercase());
    }
    let mut out = String::with_capacity(text.len());
    let mut space = false;
    for c in text.chars() {
        if c.is_whitespace() || c.is_control() {
            if !space {
                out.push(' ');
            }
            space = true;
            continue;
        }
        space = false;
        if c.is_ascii() { out.push(c.to_ascii_lowercase()) } else { out.extend(c.to_lowercase()) }
    }
    Cow::Owned(out)
}

/// Whether an ASCII text has single spaces and nothing else that is normalised to one.
fn is_evenly_spaced(text: &[u8]) -> bool {
    let is_other_space = |b: &u8| *b < b' ' || *b == 0x7f;
    !text.iter().any(is_other_space) && !text.windows(2).any(|two| two == b"  ")
}

/// Undoes the escapes of JSON strings wherever they stand; borrowed when there are none.
pub(super) fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut changed = false;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        match escape(rest) {
            Some((c, length)) => {
                out.push(c);
                rest = &rest[length..];
                changed = true;
            }
            None => {
                out.push('\\');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    if changed { Cow::Owned(out) } else { Cow::Borrowed(text) }
}

/// The character that an escape at the start of `text` stands for, and the escape's length.
fn escape(text: &str) -> Option<(char, usize)> {
    let simple = |c| Some((c, 2));
    match text.as_bytes().get(1)? {
        b'n' => simple('\n'),
        b't' => simple('\t'),
        b'r' => simple('\r'),
        b'b' => simple('\u{8}'),
        b'f' => simple('\u{c}'),
        b'"' => simple('"'),
        b'\\' => simple('\\'),
        b'/' => simple('/'),
        b'u' => {
            let unit = |at: usize| u16::from_str_radix(text.get(at..at + 4)?, 16).ok();
            let first = unit(2)?;
            let second = text.get(6..8).filter(|t| *t == "\\u").and_then(|_| unit(8));
            let units: Vec<u16> = [Some(first), second].into_iter().flatten().collect();
            let decoded = char::decode_utf16(units).next()?.ok();
            Some(match decoded {
                Some(c) => (c, 6 * c.len_utf16()),
                // Half of a pair stands for nothing that could be searched.
                None => (char::REPLACEMENT_CHARACTER, 6),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_form() {
        assert_eq!(normalise("A  B\n\tÇa\u{0}x"), "a b ça x");
        assert_eq!(normalise("x-1/y"), "x-1/y");
        assert_eq!(
            unescape(r#"a\nb \"q\" \u00e9 \ud83d\ude00 C:\\new \q \ud83d"#),
            "a\nb \"q\" é 😀 C:\\new \\q \u{fffd}"
        );
        assert_eq!(unescape(r"\u12"), r"\u12");
    }
}
