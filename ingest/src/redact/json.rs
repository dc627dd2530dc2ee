//! The strings of a JSON document with the names they stand under, found without building a tree.
//!
//! Invariants
//! - spans are byte ranges of the document, between the quotes
//! - a document is accepted only if outside its strings it holds nothing but JSON's own characters, so text that merely
//!   starts with a bracket is not taken for JSON
//! - at most [`DEPTH_MAX`] levels are followed; a deeper document is refused
//!
//! Not here: validation. Replacing text inside a string by text that needs no escape keeps any document as valid as it was.

use std::ops::Range;

/// Nesting that is followed.
const DEPTH_MAX: usize = 512;

/// A string value and the name it stands under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StringValue {
    /// Between the quotes.
    pub(super) span: Range<usize>,
    /// Span of the name: the member's key; inside an array that of the array; for `{"key": N, "value": V}`, for
    /// `{"name": N, "value": V}` and for `[N, V]` with a header's name N the span of N.
    pub(super) name: Option<Range<usize>>,
}

#[derive(Default)]
struct Frame {
    is_array: bool,
    /// Key of the member that is being read.
    key: Option<Range<usize>>,
    /// N of a name-value pair.
    pair: Option<Range<usize>>,
    /// Name that the frame itself stands under.
    outer: Option<Range<usize>>,
    values: u32,
}

/// Whether `text` may be a JSON document with strings in it.
pub(super) fn looks_like_json(text: &[u8]) -> bool {
    let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
    matches!(first, Some(b'{' | b'[' | b'"'))
}

/// Calls `each` for every string value; `false` when `text` is not JSON.
pub(super) fn strings(text: &[u8], is_header: fn(&[u8]) -> bool, mut each: impl FnMut(StringValue)) -> bool {
    let mut stack = vec![Frame { is_array: true, ..Frame::default() }];
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' => {
                let Some(end) = string_end(text, at + 1) else { return false };
                let span = at + 1..end;
                at = end + 1;
                let Some(frame) = stack.last_mut() else { return false };
                if !frame.is_array && is_key(text, at) {
                    frame.key = Some(span);
                    continue;
                }
                let name = frame.name(text);
                frame.note_pair(text, &span, is_header);
                each(StringValue { span, name });
                continue;
            }
            open @ (b'{' | b'[') => {
                let outer = stack.last().and_then(|frame| frame.name_of_child(text, open == b'['));
                if stack.len() > DEPTH_MAX {
                    return false;
                }
                stack.push(Frame { is_array: open == b'[', outer, ..Frame::default() });
            }
            b'}' | b']' => {
                stack.pop();
                if stack.is_empty() {
                    return false;
                }
            }
            b' ' | b'\t' | b'\r' | b'\n' | b',' | b':' | b'0'..=b'9' | b'+' | b'-' | b'.' | b'E' => {}
            b'a' | b'e' | b'f' | b'l' | b'n' | b'r' | b's' | b't' | b'u' => {}
            _ => return false,
        }
        at += 1;
    }
    stack.len() == 1
}

impl Frame {
    /// The name of a string value that stands here.
    fn name(&self, text: &[u8]) -> Option<Range<usize>> {
        if self.is_array {
            return if self.values == 1 && self.pair.is_some() { self.pair.clone() } else { self.outer.clone() };
        }
        let key = self.key.clone()?;
        match &text[key.clone()] {
            b"value" if self.pair.is_some() => self.pair.clone(),
            b"stringValue" | b"string_value" if self.outer.is_some() => self.outer.clone(),
            _ => Some(key),
        }
    }

    /// The name that an array or object standing here stands under.
    fn name_of_child(&self, text: &[u8], is_array: bool) -> Option<Range<usize>> {
        let is_pair_value = !self.is_array && self.pair.is_some() && self.key_is(text, b"value");
        (is_array || is_pair_value).then(|| self.name(text)).flatten()
    }

    /// Remembers `span` when it names the value that follows.
    fn note_pair(&mut self, text: &[u8], span: &Range<usize>, is_header: fn(&[u8]) -> bool) {
        self.values += 1;
        let names_next = if self.is_array {
            self.values == 1 && is_header(&text[span.clone()])
        } else {
            self.key_is(text, b"key") || self.key_is(text, b"name")
        };
        if names_next {
            self.pair = Some(span.clone());
        }
    }

    fn key_is(&self, text: &[u8], expected: &[u8]) -> bool {
        self.key.clone().is_some_and(|key| &text[key] == expected)
    }
}

/// Index of the quote that ends the string starting at `at`.
fn string_end(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

fn is_key(text: &[u8], after: usize) -> bool {
    text[after..].iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':')
}

/// A string without its escapes, and where each byte came from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unescaped {
    pub(super) bytes: Vec<u8>,
    /// After each escape: offset in `bytes`, offset in the source.
    marks: Vec<(usize, usize)>,
}

impl Unescaped {
    /// Undoes the escapes of `source`, the bytes between two quotes; what is no escape stays as it is.
    pub(super) fn new(source: &[u8]) -> Self {
        let mut this = Unescaped { bytes: Vec::with_capacity(source.len()), marks: Vec::new() };
        let mut at = 0;
        while let Some(skip) = memchr::memchr(b'\\', &source[at..]) {
            this.bytes.extend_from_slice(&source[at..at + skip]);
            at += skip;
            // Before the escape, so that a span may end at its first byte or begin after its last.
            this.marks.push((this.bytes.len(), at));
            at += this.escape(&source[at..]);
            this.marks.push((this.bytes.len(), at));
        }
        this.bytes.extend_from_slice(&source[at..]);
        this
    }

    /// Appends what the escape at the start of `source` stands for; how long it is.
    fn escape(&mut self, source: &[u8]) -> usize {
        let simple = match source.get(1) {
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'r') => b'\r',
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(&byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'u') => return self.unicode_escape(source),
            _ => {
                self.bytes.push(b'\\');
                return 1;
            }
        };
        self.bytes.push(simple);
        2
    }

    fn unicode_escape(&mut self, source: &[u8]) -> usize {
        let Some(first) = hex_unit(source) else {
            self.bytes.push(b'\\');
            return 1;
        };
        let second = source.get(6..).and_then(hex_unit);
        let pair = second.and_then(|low| char::decode_utf16([first, low]).next()).and_then(Result::ok);
        let (character, length) = match pair {
            Some(character) if char::from_u32(u32::from(first)).is_none() => (character, 12),
            _ => (char::from_u32(u32::from(first)).unwrap_or(char::REPLACEMENT_CHARACTER), 6),
        };
        self.bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        length
    }

    /// Where the byte at `offset` begins in the source.
    pub(super) fn source_start(&self, offset: usize) -> usize {
        let after = self.marks.partition_point(|(here, _)| *here <= offset);
        self.source_offset(after, offset)
    }

    /// Where the bytes before `offset` end in the source.
    pub(super) fn source_end(&self, offset: usize) -> usize {
        let after = self.marks.partition_point(|(here, _)| *here < offset);
        let in_source = self.source_offset(after, offset);
        // Inside an escape that stands for several bytes: its end.
        self.marks.get(after).filter(|(here, _)| *here == offset).map_or(in_source, |(_, there)| *there)
    }

    fn source_offset(&self, after: usize, offset: usize) -> usize {
        let (here, there) = after.checked_sub(1).map_or((0, 0), |index| self.marks[index]);
        there + (offset - here)
    }
}

fn hex_unit(source: &[u8]) -> Option<u16> {
    let digits = source.strip_prefix(b"\\u")?.get(..4)?;
    let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
    u16::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| is_hex)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(text: &str, expected: Expect) {
        let mut shown = Vec::new();
        let is_json = strings(
            text.as_bytes(),
            |name| name == b"cookie",
            |value| {
                let name = value.name.map_or("-", |name| &text[name]);
                shown.push(format!("{name}={}", &text[value.span]));
            },
        );
        expected.assert_eq(&format!("{is_json} {}", shown.join(" ")));
    }

    #[test]
    fn strings_know_their_names() {
        check(r#"{"a":"1","b":{"c":["2","3"]},"d":4,"e" : "5"}"#, expect!["true a=1 c=2 c=3 e=5"]);
        check(
            r#"[{"key":"k","value":{"stringValue":"v"}},{"name":"n","value":"w"}]"#,
            expect!["true key=k k=v name=n n=w"],
        );
        check(r#"{"headers":[["cookie","a"],["x","y"]]}"#, expect!["true headers=cookie cookie=a headers=x headers=y"]);
        check(r#"[["cookie","a"]]"#, expect!["true -=cookie cookie=a"]);
        check(r#""top""#, expect!["true -=top"]);
    }

    #[test]
    fn text_is_not_json() {
        for text in ["[INFO] key", "{", "\"open", "}{", "{\"a\":\"b\\\"}", "[x]"] {
            assert!(!strings(text.as_bytes(), |_| true, |_| ()), "{text}");
        }
        assert!(!strings(&[b'['; 4096], |_| true, |_| ()));
    }

    #[test]
    fn spans_map_back_through_escapes() {
        let source = r#"a\n\u00e9\ud83d\ude00\"z\q"#;
        let plain = Unescaped::new(source.as_bytes());
        assert_eq!(String::from_utf8_lossy(&plain.bytes), "a\né😀\"z\\q");
        let at = |part: &str| {
            let start = String::from_utf8_lossy(&plain.bytes).find(part).unwrap();
            &source[plain.source_start(start)..plain.source_end(start + part.len())]
        };
        assert_eq!(at("a"), "a");
        assert_eq!(at("\n"), "\\n");
        assert_eq!(at("é"), "\\u00e9");
        assert_eq!(at("😀\""), "\\ud83d\\ude00\\\"");
        assert_eq!(at("z\\q"), "z\\q");
    }

    proptest::proptest! {
        #[test]
        fn any_span_maps_to_a_span(text: String, from: usize, to: usize) {
            let mut quoted = String::new();
            threadline_schemas::json::write_string(&text, &mut quoted);
            let source = &quoted[1..quoted.len() - 1];
            let plain = Unescaped::new(source.as_bytes());
            proptest::prop_assert_eq!(&plain.bytes, text.as_bytes());
            let boundaries: Vec<usize> = (0..=text.len()).filter(|at| text.is_char_boundary(*at)).collect();
            let (from, to) = (boundaries[from % boundaries.len()], boundaries[to % boundaries.len()]);
            if from < to {
                let span = plain.source_start(from)..plain.source_end(to);
                proptest::prop_assert_eq!(&Unescaped::new(&source.as_bytes()[span]).bytes, &text.as_bytes()[from..to]);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            strings(&bytes, |_| true, |_| ());
            let plain = Unescaped::new(&bytes);
            for at in 0..=plain.bytes.len() {
                proptest::prop_assert!(plain.source_start(at) <= bytes.len() && plain.source_end(at) <= bytes.len());
            }
        }
    }
}
