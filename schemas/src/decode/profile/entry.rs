//! One entry of a log as an object: how each format is read. Everything is strict: what does not read as a whole is refused
//! with a reason that never quotes it.
//!
//! Of a line whose damage cannot change what the rest says (bytes that are no text: NUL, not UTF-8; what follows a complete
//! JSON value) the rest is read all the same. A line that is cut off is not: what is missing may be what says its kind.

use std::borrow::Cow;

use crate::json::{self, Json, Member};
use crate::limits::profile::FIELDS_MAX;

/// The text of a line without the bytes that are none, and why it is damaged if there were any.
pub(super) fn readable(bytes: &[u8]) -> (Cow<'_, str>, Option<String>) {
    let (mut text, mut damage) = match std::str::from_utf8(bytes) {
        Ok(text) => (Cow::Borrowed(text), None),
        Err(error) => {
            let text: String = bytes.utf8_chunks().map(|chunk| chunk.valid()).collect();
            (Cow::Owned(text), Some(format!("not UTF-8 at byte {}", error.valid_up_to())))
        }
    };
    if let Some(at) = memchr::memchr(0, bytes) {
        damage.get_or_insert_with(|| format!("a NUL at byte {at}"));
        text = Cow::Owned(text.replace('\0', ""));
    }
    (text, damage)
}

/// What was read.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) root: Json,
    /// What follows after readable fields, when a stray word interrupts them.
    pub(super) unread: Option<String>,
    /// Keys that occur twice below the top.
    pub(super) duplicate_keys: Vec<String>,
    /// Why the line is rejected though the rest of it was read.
    pub(super) damage: Option<String>,
}

impl Entry {
    pub(super) fn of(members: Vec<Member>) -> Entry {
        Entry { root: Json::Object(members), unread: None, duplicate_keys: Vec::new(), damage: None }
    }
}

pub(super) fn text_member(key: &str, value: impl Into<String>) -> Member {
    Member { key: key.into(), value: Json::String(value.into()), span: 0..0 }
}

/// A JSON object. A key that occurs twice at the top makes the line ambiguous: readers differ in which one they take.
pub(super) fn json_object(line: &str) -> Result<Entry, String> {
    let (parsed, damage) = match json::parse(line.as_bytes()) {
        Ok(parsed) => (parsed, None),
        Err(error) => match json::parse_first(line.as_bytes()) {
            Ok((parsed, _)) => (parsed, Some(error.to_string())),
            Err(_) => return Err(error.to_string()),
        },
    };
    let Json::Object(members) = &parsed.value else {
        return Err("JSON, but no object".into());
    };
    if !parsed.duplicate_keys.is_empty() && has_twins(members) {
        return Err("a key occurs twice".into());
    }
    Ok(Entry { duplicate_keys: parsed.duplicate_keys, root: parsed.value, unread: None, damage })
}

fn has_twins(members: &[Member]) -> bool {
    let mut keys: Vec<&str> = members.iter().map(|member| member.key.as_str()).collect();
    keys.sort_unstable();
    keys.windows(2).any(|pair| pair[0] == pair[1])
}

/// `key=value key="quoted value"`. A word without `=` inside a line ends what is read as fields (a raw line break in a value
/// looks like that); as the last word it is a key that was cut off.
pub(super) fn logfmt(line: &str, equals_in_values: bool) -> Result<Entry, String> {
    let mut members: Vec<Member> = Vec::new();
    let mut rest = line.trim_matches([' ', '\t', '\r']);
    while !rest.is_empty() {
        let end = rest.find(['=', ' ', '\t']).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let Some(value) = after.strip_prefix('=') else {
            if members.is_empty() {
                return Err("begins with a word that has no value".into());
            }
            if after.trim().is_empty() {
                return Err("ends in a word that has no value".into());
            }
            return Ok(Entry { unread: Some(rest.into()), ..Entry::of(members) });
        };
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"') {
            return Err("a key is not readable".into());
        }
        if members.iter().any(|member| member.key == key) {
            return Err("a key occurs twice".into());
        }
        if members.len() == FIELDS_MAX {
            return Err(format!("more than {FIELDS_MAX} fields"));
        }
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted_value(quoted)?,
            None => {
                let end = value.find([' ', '\t']).unwrap_or(value.len());
                let (value, after) = value.split_at(end);
                if value.contains('"') || (value.contains('=') && !equals_in_values) {
                    return Err("a value without quotes holds a quote or =".into());
                }
                (value.to_string(), after)
            }
        };
        members.push(text_member(key, value));
        if !after.is_empty() && !after.starts_with([' ', '\t']) {
            return Err("text follows a closing quote".into());
        }
        rest = after.trim_start_matches([' ', '\t']);
    }
    Ok(Entry::of(members))
}

/// The value up to the closing quote, and what follows.
fn quoted_value(text: &str) -> Result<(String, &str), String> {
    let mut end = 0;
    let bytes = text.as_bytes();
    while let Some(offset) = memchr::memchr2(b'"', b'\\', bytes.get(end..).unwrap_or_default()) {
        end += offset;
        if bytes[end] == b'"' {
            return Ok((unescaped(&text[..end]), &text[end + 1..]));
        }
        end += 2;
    }
    Err(OPEN_QUOTE.into())
}

/// Why a line is refused whose last value goes on, perhaps in the next line.
pub(super) const OPEN_QUOTE: &str = "a quote is not closed";

/// Undoes backslash escapes; one that is unknown stays as it is.
fn unescaped(text: &str) -> String {
    if !text.contains('\\') {
        return text.into();
    }
    let as_json = format!("\"{}\"", text.replace('\t', "\\t"));
    match json::parse(as_json.as_bytes()) {
        Ok(parsed) => parsed.value.as_str().unwrap_or(text).to_string(),
        Err(_) => text.replace("\\\"", "\"").replace("\\\\", "\\"),
    }
}

/// Whether quotes are balanced, so that a CSV record ends with this text.
pub(super) fn csv_is_complete(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'"', bytes).count().is_multiple_of(2)
}

/// The fields of one CSV record (RFC 4180).
pub(super) fn csv_fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = text.strip_suffix('\r').unwrap_or(text);
    loop {
        if fields.len() == FIELDS_MAX {
            return Err(format!("more than {FIELDS_MAX} fields"));
        }
        let after = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (value, after) = csv_quoted(quoted)?;
                fields.push(value);
                after
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                if rest[..end].contains('"') {
                    return Err("a field without quotes holds a quote".into());
                }
                fields.push(rest[..end].to_string());
                &rest[end..]
            }
        };
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => return Err("text follows a closing quote".into()),
        }
    }
}

fn csv_quoted(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let at = rest.find('"').ok_or("a quote is not closed")?;
        value.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                value.push('"');
                rest = after;
            }
            None => return Ok((value, rest)),
        }
    }
}

/// Fields under the names of their columns; empty ones are absent. More fields than columns are refused, fewer are not.
pub(super) fn csv_object(text: &str, columns: &[String]) -> Result<Entry, String> {
    let fields = csv_fields(text)?;
    if fields.len() > columns.len() {
        return Err(format!("{} fields for {} columns", fields.len(), columns.len()));
    }
    let named = columns.iter().zip(fields).filter(|(_, value)| !value.is_empty());
    Ok(Entry::of(named.map(|(column, value)| text_member(column, value)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn logfmt_is_strict() {
        let check = |line: &str| match logfmt(line, false) {
            Ok(entry) => format!("{} {}", entry.root, entry.unread.unwrap_or_default()),
            Err(reason) => reason,
        };
        let lines = [
            r#"a=1 b="x \"y\" \n=z" c="#,
            "a=1 b=2 word",
            r#"a=1 not found" injected=1"#,
            "a=okts=2",
            r#"a="open"#,
            r#"a="x"y"#,
            "a=1 a=2",
            "word a=1",
            "",
        ];
        let shown: String = lines.iter().map(|line| check(line) + "\n").collect();
        expect![[r#"
            {"a":"1","b":"x \"y\" \n=z","c":""} 
            ends in a word that has no value
            {"a":"1"} not found" injected=1
            a value without quotes holds a quote or =
            a quote is not closed
            text follows a closing quote
            a key occurs twice
            begins with a word that has no value
            {} 
        "#]]
        .assert_eq(&shown);
    }

    #[test]
    fn bytes_that_are_no_text_are_left_out_and_named() {
        let (text, damage) = readable(b"a\0b\xff");
        assert_eq!((text.as_ref(), damage.as_deref()), ("ab", Some("not UTF-8 at byte 3")));
        let (text, damage) = readable(b"a\0b");
        assert_eq!((text.as_ref(), damage.as_deref()), ("ab", Some("a NUL at byte 1")));
        assert!(matches!(readable("ä".as_bytes()), (Cow::Borrowed("ä"), None)));
    }

    #[test]
    fn what_follows_a_document_is_damage_and_what_lacks_its_end_is_refused() {
        let entry = json_object(r#"{"a":1}{"a":2}"#).unwrap();
        assert_eq!(entry.root.to_string(), r#"{"a":1}"#);
        assert!(entry.damage.is_some());
        assert!(json_object(r#"{"a":1"#).is_err() && json_object(r#"1 {"a":1}"#).is_err());
    }

    #[test]
    fn csv_reads_quotes() {
        assert_eq!(csv_fields("a,\"b,\"\"c\"\"\",,d").unwrap(), ["a", "b,\"c\"", "", "d"]);
        assert!(csv_fields("a,\"b").is_err());
        assert!(csv_fields("a,\"b\"c").is_err());
        assert!(!csv_is_complete(b"a,\"b\nc"));
    }
}
