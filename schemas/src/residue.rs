//! The stored form of `raw`: what is left of it once every value that a column of the same row holds is replaced by a
//! reference to that column.
//!
//! Invariants
//! - [`restore`] gives back the bytes that [`reduce`] was given, byte for byte, for any record
//! - a reference names a column of [`SOURCES`], never `raw`; columns are never changed to make a reference possible
//! - damaged input is an error: restoring never panics and never grows past [`RESTORED_BYTES_MAX`]
//!
//! On disk: bytes stand for themselves, except `0x1A` (the ASCII control "substitute"), which begins
//! ```text
//! 1A 00              the byte 1A itself
//! 1A 01 column       the text of the column with this tag (numbers in decimal)
//! 1A 02 column       the same as inside a JSON string, shortest escapes (\" \\ \b \f \n \r \t, other controls \u00xx)
//! 1A 03 column       the same, and everything beyond ASCII as \uxxxx in lower-case UTF-16 (Python's json.dumps)
//! 1A 04 column       the bytes that the text spells in hex
//! 1A 05 n            the value of key n of `keys`: what follows the kind, and the scope where the kind is scoped
//! ```
//! The text of `delivery_key` is what follows its first colon. A value shorter than [`VALUE_BYTES_MIN`] is not referred to.
//!
//! Not here: payloads beside the row. They are put back before `raw` is restored.

use std::borrow::Cow;

use memchr::memmem::Finder;

use crate::columns::Record;
use crate::keys::Key;

/// Shorter values stay as they are.
pub const VALUE_BYTES_MIN: usize = 8;
/// Longest `raw` that is restored (256 MiB; a frame of the log is smaller).
pub const RESTORED_BYTES_MAX: usize = 256 << 20;
/// Keys of one record that are referred to.
const KEYS_MAX: usize = 64;

const MARK: u8 = 0x1A;
const LITERAL: u8 = 0;
const PLAIN: u8 = 1;
const JSON: u8 = 2;
const JSON_ASCII: u8 = 3;
const HEX: u8 = 4;
const KEY: u8 = 5;

/// A column that `raw` may refer to.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Its tag.
    pub tag: u8,
    /// Its name.
    pub name: &'static str,
    read: fn(&Record) -> Option<Cow<'_, str>>,
}

macro_rules! sources {
    ($($tag:literal $name:ident: |$record:ident| $read:expr,)*) => {
        /// The columns that may be referred to, beside `keys`.
        pub static SOURCES: &[Source] = &[$(Source {
            tag: $tag,
            name: stringify!($name),
            read: |$record| $read,
        },)*];
    };
}

sources! {
    4 delivery_key: |r| Some(r.delivery_key.as_str().into()),
    5 time_unix_nano: |r| Some(r.time_unix_nano.to_string().into()),
    8 duration_nano: |r| r.duration_nano.map(|n| n.to_string().into()),
    10 source_name: |r| Some(r.source_name.as_str().into()),
    17 name: |r| text(&r.name),
    19 server_name: |r| text(&r.server_name),
    20 tool_name: |r| text(&r.tool_name),
    21 target: |r| text(&r.target),
    26 error_type: |r| text(&r.error_type),
    29 user_claimed: |r| text(&r.user_claimed),
    31 agent_name: |r| text(&r.agent_name),
    32 client_name: |r| text(&r.client_name),
    33 authority: |r| text(&r.authority),
    35 trace_id: |r| text(&r.trace_id),
    36 span_id: |r| text(&r.span_id),
    37 parent_span_id: |r| text(&r.parent_span_id),
    38 conversation_id: |r| text(&r.conversation_id),
    39 turn_id: |r| text(&r.turn_id),
    40 tool_call_id: |r| text(&r.tool_call_id),
    50 text: |r| text(&r.text),
    51 arguments: |r| text(&r.arguments),
    52 result: |r| text(&r.result),
    53 attributes: |r| text(&r.attributes),
}

fn text(field: &Option<String>) -> Option<Cow<'_, str>> {
    field.as_deref().map(Cow::Borrowed)
}

/// Why a stored `raw` cannot be restored.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ResidueError {
    /// It ends inside a reference, or has one of an unknown form.
    #[error("a reference at byte {0} is malformed")]
    Malformed(usize),
    /// The column holds nothing, or nothing of this form.
    #[error("column {0} does not hold what is referred to")]
    Column(u8),
    /// The key list is shorter.
    #[error("there is no key {0}")]
    Key(u8),
    /// Longer than any record can be.
    #[error("it is longer than a record can be")]
    TooLong,
}

/// Where references look values up.
pub trait Values {
    /// The column's value as text; `None` when it is null or absent.
    fn column(&self, source: &Source) -> Option<Cow<'_, str>>;
    /// Key `index` of `keys`.
    fn key(&self, index: usize) -> Option<Cow<'_, str>>;
}

impl Values for Record {
    fn column(&self, source: &Source) -> Option<Cow<'_, str>> {
        (source.read)(self)
    }
    fn key(&self, index: usize) -> Option<Cow<'_, str>> {
        self.keys.get(index).map(|key| key.as_str().into())
    }
}

/// Something that may be in `raw`, and what then stands for it.
struct Candidate<'a> {
    bytes: Cow<'a, [u8]>,
    reference: [u8; 3],
}

/// The stored form of the record's `raw`; `None` when it has none.
pub fn reduce(record: &Record) -> Option<Vec<u8>> {
    let raw = record.raw.as_deref()?;
    let mut candidates = candidates(record, raw);
    // The longest first, so that a value inside another does not break it up; the sort is stable, so equal values are
    // always taken from the same column, which compresses.
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.bytes.len()));
    candidates.dedup_by(|later, first| later.bytes == first.bytes);
    let starts = starts_in_one_pass(&candidates, raw).unwrap_or_else(|| starts_one_by_one(&candidates, raw));
    let mut found: Vec<(usize, usize, [u8; 3])> = Vec::new();
    for (candidate, starts) in candidates.iter().zip(starts) {
        let before = found.len();
        for start in starts {
            let end = start + candidate.bytes.len();
            // What was found before is sorted.
            let next = found[..before].partition_point(|(from, ..)| *from < start);
            let is_free = found[..before].get(next).is_none_or(|(from, ..)| *from >= end)
                && next.checked_sub(1).is_none_or(|previous| found[previous].1 <= start);
            if is_free {
                found.push((start, end, candidate.reference));
            }
        }
        if found.len() > before {
            found.sort_unstable();
        }
    }
    let mut out = Vec::with_capacity(raw.len() / 2);
    let mut at = 0;
    for (start, end, reference) in found {
        push_literal(&raw[at..start], &mut out);
        out.extend_from_slice(&reference);
        at = end;
    }
    push_literal(&raw[at..], &mut out);
    Some(out)
}

/// Where each candidate begins in `raw`, ascending; occurrences of one candidate do not overlap.
fn starts_one_by_one(candidates: &[Candidate<'_>], raw: &[u8]) -> Vec<Vec<usize>> {
    candidates.iter().map(|candidate| Finder::new(&candidate.bytes).find_iter(raw).collect()).collect()
}

/// The same in one pass over `raw` for all of them: a filter over the first [`VALUE_BYTES_MIN`] bytes tells most places
/// apart from all candidates. `None` where too many differ late, which only somebody who wants it brings about.
fn starts_in_one_pass(candidates: &[Candidate<'_>], raw: &[u8]) -> Option<Vec<Vec<usize>>> {
    let mut filter = [0u64; FILTER_BITS / 64];
    let mut heads = Vec::with_capacity(candidates.len());
    for (index, candidate) in candidates.iter().enumerate() {
        let head = u64::from_le_bytes(*candidate.bytes.first_chunk()?);
        let bit = filter_bit(head);
        filter[bit / 64] |= 1 << (bit % 64);
        heads.push((head, index));
    }
    heads.sort_unstable();
    let mut starts = vec![Vec::new(); candidates.len()];
    let mut ends = vec![0; candidates.len()];
    let mut compared = 0;
    for (at, window) in raw.windows(VALUE_BYTES_MIN).enumerate() {
        let head = u64::from_le_bytes(*window.first_chunk()?);
        let bit = filter_bit(head);
        if filter[bit / 64] >> (bit % 64) & 1 == 0 {
            continue;
        }
        let first = heads.partition_point(|(known, _)| *known < head);
        for (_, index) in heads[first..].iter().take_while(|(known, _)| *known == head) {
            let bytes = &candidates[*index].bytes;
            if ends[*index] > at {
                continue;
            }
            compared += bytes.len();
            if raw[at..].starts_with(bytes) {
                starts[*index].push(at);
                ends[*index] = at + bytes.len();
            }
        }
        if compared > COMPARED_MAX * raw.len() {
            return None;
        }
    }
    Some(starts)
}

/// Bytes that one pass compares per byte of `raw`: every candidate can match everywhere once.
const COMPARED_MAX: usize = 128;
const FILTER_BITS: usize = 4096;

/// Fibonacci hashing (Knuth, The Art of Computer Programming, vol. 3, 6.4).
fn filter_bit(head: u64) -> usize {
    (head.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - FILTER_BITS.trailing_zeros())) as usize
}

fn candidates<'a>(record: &'a Record, raw: &[u8]) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::with_capacity(48);
    let mut add = |bytes: Cow<'a, [u8]>, form: u8, place: u8| {
        if (VALUE_BYTES_MIN..=raw.len()).contains(&bytes.len()) {
            candidates.push(Candidate { bytes, reference: [MARK, form, place] });
        }
    };
    // Every escape begins with one.
    let has_escapes = memchr::memchr(b'\\', raw).is_some();
    for source in SOURCES {
        let Some(value) = source_text(record, source) else { continue };
        if value.len() > raw.len() {
            continue;
        }
        if has_escapes && value.bytes().any(is_escaped) {
            let escaped = json_escaped(&value, false);
            let ascii = if value.is_ascii() { Vec::new() } else { json_escaped(&value, true) };
            if !ascii.is_empty() && ascii.len() != escaped.len() {
                add(ascii.into(), JSON_ASCII, source.tag);
            }
            if escaped.len() != value.len() {
                add(escaped.into(), JSON, source.tag);
            }
        }
        if let Some(bytes) = hex_bytes(&value) {
            add(bytes.into(), HEX, source.tag);
        }
        let plain = match value {
            Cow::Borrowed(text) => text.as_bytes().into(),
            Cow::Owned(text) => text.into_bytes().into(),
        };
        add(plain, PLAIN, source.tag);
    }
    for (index, key) in (0u8..).zip(record.keys.iter().take(KEYS_MAX)) {
        if let Some(value) = key_value(key) {
            add(value.into_bytes().into(), KEY, index);
        }
    }
    candidates
}

/// Whether a byte of UTF-8 may look otherwise inside a JSON string.
fn is_escaped(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\' || !byte.is_ascii()
}

/// Most bytes that the stored form of `raw` has.
pub fn stored_bytes_max(raw: &[u8]) -> usize {
    raw.len() + memchr::memchr_iter(MARK, raw).count()
}

fn push_literal(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    while let Some(at) = memchr::memchr(MARK, rest) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(&[MARK, LITERAL]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// The `raw` of which `stored` is the stored form.
///
/// # Errors
/// When a reference cannot be followed: the row is damaged, or a payload beside it was not put back.
pub fn restore(stored: &[u8], values: &impl Values) -> Result<Vec<u8>, ResidueError> {
    let mut out = Vec::with_capacity(stored.len() * 2);
    let mut at = 0;
    while let Some(next) = memchr::memchr(MARK, &stored[at..]) {
        let mark = at + next;
        out.extend_from_slice(&stored[at..mark]);
        let form = *stored.get(mark + 1).ok_or(ResidueError::Malformed(mark))?;
        if form == LITERAL {
            out.push(MARK);
            at = mark + 2;
            continue;
        }
        let place = *stored.get(mark + 2).ok_or(ResidueError::Malformed(mark))?;
        match form {
            PLAIN | JSON | JSON_ASCII | HEX => {
                let source = SOURCES.iter().find(|s| s.tag == place).ok_or(ResidueError::Malformed(mark))?;
                let value = source_text(values, source).ok_or(ResidueError::Column(place))?;
                match form {
                    PLAIN => out.extend_from_slice(value.as_bytes()),
                    HEX => out.extend(hex_bytes(&value).ok_or(ResidueError::Column(place))?),
                    _ => out.extend(json_escaped(&value, form == JSON_ASCII)),
                }
            }
            KEY => {
                let key = values.key(place.into()).ok_or(ResidueError::Key(place))?;
                out.extend_from_slice(key_value(&key).ok_or(ResidueError::Key(place))?.as_bytes());
            }
            _ => return Err(ResidueError::Malformed(mark)),
        }
        if out.len() > RESTORED_BYTES_MAX {
            return Err(ResidueError::TooLong);
        }
        at = mark + 3;
    }
    out.extend_from_slice(&stored[at..]);
    Ok(out)
}

fn source_text<'a>(values: &'a impl Values, source: &Source) -> Option<Cow<'a, str>> {
    let text = values.column(source)?;
    if source.name != "delivery_key" {
        return Some(text);
    }
    Some(match text {
        Cow::Borrowed(text) => text.split_once(':')?.1.into(),
        Cow::Owned(text) => text.split_once(':')?.1.to_string().into(),
    })
}

/// The value of a key, in which nothing is encoded.
fn key_value(key: &str) -> Option<String> {
    Key::parse(key).map(|key| key.value)
}

/// The bytes that lower-case hex stands for.
fn hex_bytes(text: &str) -> Option<Vec<u8>> {
    let is_lower = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if is_lower && text.len() <= 64 { hex::decode(text).ok() } else { None }
}

/// The inside of a JSON string.
fn json_escaped(text: &str, ascii: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 8 + 8);
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            ' '..='\u{7e}' => out.push(c as u8),
            // As json.dumps and JSON.stringify both leave it.
            '\u{7f}' => out.push(0x7f),
            c if c < ' ' || ascii => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                }
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proptest::prelude::*;

    use super::*;
    use crate::columns::COLUMNS;
    use crate::record::Kind;

    fn record(raw: &[u8]) -> Record {
        let mut record = Record::new("acme", "api:order-0001", Kind::Result);
        record.time_unix_nano = 1_700_000_000_000_000_000;
        record.text = Some("line \"one\"\nZürich 😀".into());
        record.arguments = Some(r#"{"order":17}"#.into());
        record.trace_id = Some("0af7651916cd43dd8448eb211c80319c".into());
        record.keys = vec!["message:0b1c2d3e-4f50".into(), "rpc:conn%2F1/request-77".into()];
        record.raw = Some(raw.to_vec());
        record
    }

    #[track_caller]
    fn check(raw: &[u8], stored: expect_test::Expect) {
        let record = record(raw);
        let reduced = reduce(&record).unwrap();
        stored.assert_eq(&reduced.escape_ascii().to_string());
        assert_eq!(restore(&reduced, &record).unwrap(), raw);
    }

    #[test]
    fn values_in_every_form_become_references() {
        check(
            br#"{"id":"order-0001","arguments":{"order":17}}"#,
            expect![r#"{\"id\":\"\x1a\x01\x04\",\"arguments\":\x1a\x013}"#],
        );
        check(r#"["line \"one\"\nZürich 😀"]"#.as_bytes(), expect![r#"[\"\x1a\x022\"]"#]);
        check(br#"["line \"one\"\nZ\u00fcrich \ud83d\ude00"]"#, expect![r#"[\"\x1a\x032\"]"#]);
        check(br#""{\"order\":17}" {"order":17}"#, expect![r#"\"\x1a\x023\" \x1a\x013"#]);
        check(
            b"\x0a\x10\x0a\xf7\x65\x19\x16\xcd\x43\xdd\x84\x48\xeb\x21\x1c\x80\x31\x9c.",
            expect![[r#"\n\x10\n\xf7e\x19\x16\xcdC\xdd\x84H\xeb!\x1c\x801\x9c."#]],
        );
        check(b"0b1c2d3e-4f50/request-77/1700000000000000000", expect![r"\x1a\x05\x00/\x1a\x05\x01/\x1a\x01\x05"]);
    }

    #[test]
    fn what_does_not_fit_stays() {
        check(b"\x1a\x01\x04 17 order-000", expect![r"\x1a\x00\x01\x04 17 order-000"]);
        // Other escapes than the fixed ones.
        check(br#""line \u0022one\u0022""#, expect![r#"\"line \\u0022one\\u0022\""#]);
        check(b"", expect![""]);
        assert_eq!(reduce(&Record::new("t", "api:1", Kind::Log)), None);
    }

    #[test]
    fn damage_is_an_error() {
        let of = |stored: &[u8]| restore(stored, &record(b""));
        assert_eq!(of(b"a\x1a"), Err(ResidueError::Malformed(1)));
        assert_eq!(of(b"\x1a\x01"), Err(ResidueError::Malformed(0)));
        assert_eq!(of(b"\x1a\x09\x32"), Err(ResidueError::Malformed(0)));
        assert_eq!(of(b"\x1a\x01\x36"), Err(ResidueError::Malformed(0)));
        assert_eq!(of(b"\x1a\x01\x34"), Err(ResidueError::Column(0x34)));
        assert_eq!(of(b"\x1a\x04\x32"), Err(ResidueError::Column(0x32)));
        assert_eq!(of(b"\x1a\x05\x09"), Err(ResidueError::Key(9)));
    }

    #[test]
    fn sources_are_columns() {
        for source in SOURCES {
            let column = COLUMNS.iter().find(|column| column.tag == u16::from(source.tag));
            assert_eq!(column.map(|c| c.name), Some(source.name));
        }
    }

    #[test]
    fn escapes_are_those_of_serde_json() {
        let text: String = (0..0x2100).filter_map(char::from_u32).chain("😀\u{10ffff}".chars()).collect();
        let quoted = serde_json::to_string(&text).unwrap();
        assert_eq!(json_escaped(&text, false), &quoted.as_bytes()[1..quoted.len() - 1]);
    }

    /// Text in which values, marks and escapes are likely.
    fn piece() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ -~]{0,12}",
            "[\\x00-\\x1f\"\\\\é😀]{1,10}",
            Just("\u{1a}\u{1}2".to_string()),
            Just("abcdefgh".to_string()),
            Just("0af7651916cd43dd".to_string()),
        ]
    }

    fn pieces() -> impl Strategy<Value = String> {
        proptest::collection::vec(piece(), 0..6).prop_map(|pieces| pieces.concat())
    }

    #[test]
    fn values_made_to_be_compared_in_vain_are_looked_for_one_by_one() {
        let raw = vec![b'a'; 100_000];
        let mut record = record(&raw);
        record.text = Some("a".repeat(50_000) + "b");
        assert_eq!(starts_in_one_pass(&candidates(&record, &raw), &raw), None);
        assert_eq!(restore(&reduce(&record).unwrap(), &record), Ok(raw));
    }

    proptest! {
        #[test]
        fn raw_comes_back(
            texts in proptest::collection::vec(pieces(), 6),
            order in proptest::collection::vec((0usize..8, 0usize..4), 0..20),
            noise in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut record = Record::new("t", &format!("api:{}", texts[0]), Kind::Call);
            record.text = Some(texts[0].clone());
            record.arguments = Some(texts[1].clone());
            record.result = Some(texts[2].clone());
            record.span_id = Some(texts[3].clone());
            record.keys = vec![format!("message:{}", texts[4]), format!("rpc:a/{}", texts[5])];
            let mut raw = Vec::new();
            for (value, form) in order {
                match (texts.get(value), form) {
                    (None, _) => raw.extend_from_slice(&noise),
                    (Some(text), 0) => raw.extend_from_slice(text.as_bytes()),
                    (Some(text), 1) => raw.extend(json_escaped(text, false)),
                    (Some(text), 2) => raw.extend(json_escaped(text, true)),
                    (Some(text), _) => raw.extend(hex::decode(text).unwrap_or_default()),
                }
            }
            record.raw = Some(raw.clone());
            let candidates = candidates(&record, &raw);
            if let Some(starts) = starts_in_one_pass(&candidates, &raw) {
                prop_assert_eq!(starts, starts_one_by_one(&candidates, &raw));
            }
            prop_assert_eq!(restore(&reduce(&record).unwrap(), &record), Ok(raw));
        }

        #[test]
        fn arbitrary_bytes_never_panic(stored in proptest::collection::vec(prop_oneof![Just(0x1A), 0u8..8, any::<u8>()], 0..60)) {
            drop(restore(&stored, &record(b"")));
        }
    }
}
