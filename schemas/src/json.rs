//! Strict JSON: duplicate keys are noticed, numbers keep their exact digits, every object member
//! knows which bytes it came from, and depth and size are bounded.
//!
//! Invariants
//! - at most [`Limits::depth_max`] levels and [`Limits::nodes_max`] values; beyond that an error, not memory
//! - of a duplicated key every value is kept in order; [`Json::get`] returns the last, as most readers do
//!
//! Why not `serde_json::Value`: it drops duplicate keys and turns `8900000000000000000000000000000`
//! into a float, so what is hashed or shown would not be what was received.
//! Not here: tokenizing, strings and escapes; that is the `jiter` crate.

use std::collections::HashSet;
use std::ops::Range;

use jiter::{Jiter, JiterError, JiterErrorType, Peek};

/// Bounds of one document.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Nesting of arrays and objects.
    pub depth_max: usize,
    /// Values in total.
    pub nodes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        crate::limits::json::DOCUMENT
    }
}

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number, its exact text.
    Number(Box<str>),
    /// A string, unescaped.
    String(String),
    /// An array.
    Array(Vec<Json>),
    /// An object, members in the order received, duplicates kept.
    Object(Vec<Member>),
}

/// One member of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Its key, unescaped.
    pub key: String,
    /// Its value.
    pub value: Json,
    /// The bytes of the value in the parsed document.
    pub span: Range<usize>,
}

/// A document and what was odd about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The value.
    pub value: Json,
    /// Keys that occur twice in one object, first eight.
    pub duplicate_keys: Vec<String>,
}

/// Why bytes are not JSON within the limits. Never quotes the content.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JsonError {
    /// Not JSON.
    #[error("not valid JSON at byte {offset}: {reason}")]
    Syntax {
        /// Byte offset in the document.
        offset: usize,
        /// What the tokenizer says.
        reason: String,
    },
    /// Nested deeper than the limit.
    #[error("JSON is nested deeper than {0} levels")]
    TooDeep(usize),
    /// More values than the limit.
    #[error("JSON holds more than {0} values")]
    TooMany(usize),
}

/// Parses one document under the default limits.
pub fn parse(bytes: &[u8]) -> Result<Parsed, JsonError> {
    parse_within(bytes, Limits::default())
}

/// Parses one document.
pub fn parse_within(bytes: &[u8], limits: Limits) -> Result<Parsed, JsonError> {
    let mut reader = Reader { jiter: Jiter::new(bytes), limits, nodes: 0, duplicate_keys: Vec::new() };
    let peek = reader.jiter.peek().map_err(syntax)?;
    let value = reader.value(peek, 0)?;
    reader.jiter.finish().map_err(syntax)?;
    Ok(Parsed { value, duplicate_keys: reader.duplicate_keys })
}

/// Parses the first document of some bytes, and tells where it ends; what follows may be anything.
pub fn parse_first(bytes: &[u8]) -> Result<(Parsed, usize), JsonError> {
    let mut reader =
        Reader { jiter: Jiter::new(bytes), limits: Limits::default(), nodes: 0, duplicate_keys: Vec::new() };
    let peek = reader.jiter.peek().map_err(syntax)?;
    let value = reader.value(peek, 0)?;
    Ok((Parsed { value, duplicate_keys: reader.duplicate_keys }, reader.jiter.current_index()))
}

struct Reader<'j> {
    jiter: Jiter<'j>,
    limits: Limits,
    nodes: usize,
    duplicate_keys: Vec<String>,
}

impl Reader<'_> {
    fn value(&mut self, peek: Peek, depth: usize) -> Result<Json, JsonError> {
        self.nodes += 1;
        if self.nodes > self.limits.nodes_max {
            return Err(JsonError::TooMany(self.limits.nodes_max));
        }
        if depth > self.limits.depth_max {
            return Err(JsonError::TooDeep(self.limits.depth_max));
        }
        match peek {
            Peek::Null => self.jiter.known_null().map(|()| Json::Null).map_err(syntax),
            Peek::True | Peek::False => self.jiter.known_bool(peek).map(Json::Bool).map_err(syntax),
            Peek::String => self.jiter.known_str().map(|text| Json::String(text.into())).map_err(syntax),
            Peek::Array => self.array(depth),
            Peek::Object => self.object(depth),
            _ => self.number(peek),
        }
    }

    fn number(&mut self, peek: Peek) -> Result<Json, JsonError> {
        let offset = self.jiter.current_index();
        let bytes = self.jiter.known_number_bytes(peek).map_err(syntax)?;
        let text = std::str::from_utf8(bytes)
            .map_err(|_| JsonError::Syntax { offset, reason: "number is not ASCII".into() })?;
        Ok(Json::Number(text.into()))
    }

    fn array(&mut self, depth: usize) -> Result<Json, JsonError> {
        let mut items = Vec::new();
        let mut next = self.jiter.known_array().map_err(syntax)?;
        while let Some(peek) = next {
            items.push(self.value(peek, depth + 1)?);
            next = self.jiter.array_step().map_err(syntax)?;
        }
        Ok(Json::Array(items))
    }

    fn object(&mut self, depth: usize) -> Result<Json, JsonError> {
        let mut members: Vec<Member> = Vec::new();
        let mut keys = Keys::default();
        let mut next = self.jiter.known_object().map_err(syntax)?.map(str::to_string);
        while let Some(key) = next {
            let peek = self.jiter.peek().map_err(syntax)?;
            let start = self.jiter.current_index();
            let value = self.value(peek, depth + 1)?;
            let span = start..self.jiter.current_index();
            if keys.is_twin(&key, &members) && self.duplicate_keys.len() < 8 {
                self.duplicate_keys.push(key.clone());
            }
            members.push(Member { key, value, span });
            next = self.jiter.next_key().map_err(syntax)?.map(str::to_string);
        }
        Ok(Json::Object(members))
    }
}

/// Keys of an object that were seen: compared one by one while they are few, which most objects stay.
#[derive(Default)]
struct Keys(HashSet<String>);

impl Keys {
    /// Members of an object whose keys are not hashed.
    const FEW: usize = 16;

    /// Whether `key`, which comes after `members`, is one of theirs.
    fn is_twin(&mut self, key: &str, members: &[Member]) -> bool {
        if members.len() < Keys::FEW {
            return members.iter().any(|member| member.key == key);
        }
        if members.len() == Keys::FEW {
            self.0.extend(members.iter().map(|member| member.key.clone()));
        }
        !self.0.insert(key.to_string())
    }
}

fn syntax(error: JiterError) -> JsonError {
    let reason = match &error.error_type {
        JiterErrorType::JsonError(kind) => kind.to_string(),
        JiterErrorType::WrongType { .. } => "unexpected type".into(),
    };
    JsonError::Syntax { offset: error.index, reason }
}

impl Json {
    /// The last member with this key.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.member(key).map(|member| &member.value)
    }

    /// The last member with this key, with its span.
    pub fn member(&self, key: &str) -> Option<&Member> {
        self.members().iter().rev().find(|member| member.key == key)
    }

    /// The value under a path of keys.
    pub fn at(&self, path: &[&str]) -> Option<&Json> {
        path.iter().try_fold(self, |value, key| value.get(key))
    }

    /// The members of an object, or none.
    pub fn members(&self) -> &[Member] {
        match self {
            Json::Object(members) => members,
            _ => &[],
        }
    }

    /// The items of an array, or none.
    pub fn items(&self) -> &[Json] {
        match self {
            Json::Array(items) => items,
            _ => &[],
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::String(text) => Some(text),
            _ => None,
        }
    }

    /// The text under `key`, when it is a string that is not empty.
    pub fn str_at(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Json::as_str).filter(|text| !text.is_empty())
    }

    /// An integer, also when written as a string (OTLP does that).
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Json::Number(text) => text.parse().ok(),
            Json::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// A boolean, also when written as a string (Codex does that).
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Json::Bool(value) => Some(*value),
            Json::String(text) => text.parse().ok(),
            _ => None,
        }
    }
}

/// Compact JSON with members in the order received. Round-trips duplicates and exact numbers.
impl std::fmt::Display for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = String::new();
        write(self, &mut out, &|text| text.to_string(), false);
        f.write_str(&out)
    }
}

/// Canonical text: RFC 8785 with exact big integers (see [`crate::digest`]).
pub fn canonical(value: &Json) -> String {
    let mut out = String::new();
    write(value, &mut out, &canonical_number, true);
    out
}

/// Compact text with sorted keys and numbers as they were written.
pub fn sorted(value: &Json) -> String {
    let mut out = String::new();
    write(value, &mut out, &|text| text.to_string(), true);
    out
}

fn write(value: &Json, out: &mut String, number: &dyn Fn(&str) -> String, sorted: bool) {
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Json::Number(text) => out.push_str(&number(text)),
        Json::String(text) => write_string(text, out),
        Json::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out, number, sorted);
            }
            out.push(']');
        }
        Json::Object(members) => {
            let mut order: Vec<&Member> = members.iter().collect();
            if sorted {
                order.sort_by(|a, b| a.key.encode_utf16().cmp(b.key.encode_utf16()));
            }
            out.push('{');
            for (index, member) in order.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_string(&member.key, out);
                out.push(':');
                write(&member.value, out, number, sorted);
            }
            out.push('}');
        }
    }
}

/// Appends `text` as a JSON string with the escapes of RFC 8785 section 3.2.2.2.
pub fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// ECMAScript `Number::toString`, except for integers beyond 2^53 and what no double can hold.
fn canonical_number(text: &str) -> String {
    const EXACT: i128 = 1 << 53;
    if let Ok(integer) = text.parse::<i128>() {
        if integer.abs() > EXACT {
            return integer.to_string();
        }
    } else if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        return text.to_string();
    }
    match text.parse::<f64>() {
        Ok(0.0) => "0".into(),
        Ok(value) if value.is_finite() => ecmascript(value),
        _ => text.to_ascii_lowercase(),
    }
}

fn ecmascript(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let point = exponent + 1;
    let count = digits.len() as i32;
    let body = match point {
        p if p >= count && p <= 21 => format!("{digits}{}", "0".repeat((p - count) as usize)),
        p if p > 0 && p <= 21 => format!("{}.{}", &digits[..p as usize], &digits[p as usize..]),
        p if p > -6 && p <= 0 => format!("0.{}{digits}", "0".repeat((-p) as usize)),
        _ => {
            let fraction = if count > 1 { format!(".{}", &digits[1..]) } else { String::new() };
            let sign = if exponent < 0 { "-" } else { "+" };
            format!("{}{fraction}e{sign}{}", &digits[..1], exponent.abs())
        }
    };
    format!("{sign}{body}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(text: &str, expected: Expect) {
        let shown = match parse(text.as_bytes()) {
            Ok(parsed) => format!("{} {:?}", canonical(&parsed.value), parsed.duplicate_keys),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn canonical_forms() {
        check(
            r#"{"b":1.0,"a":[1e21, 1e-7, 0.000001, -0, 123456789012345678901234567890]}"#,
            expect![[r#"{"a":[1e+21,1e-7,0.000001,0,123456789012345678901234567890],"b":1} []"#]],
        );
        check(r#"{"a":1,"a":2}"#, expect![[r#"{"a":1,"a":2} ["a"]"#]]);
        check("333333333.33333329", expect!["333333333.3333333 []"]);
        check("1E400", expect!["1e400 []"]);
        check("{\"a\":\"\\u20ac\\u000f\"}", expect![[r#"{"a":"€\u000f"} []"#]]);
    }

    #[test]
    fn errors_name_the_place_and_never_the_content() {
        check(r#"{"secret": tru}"#, expect!["not valid JSON at byte 14: expected ident"]);
        check("[1,]", expect!["not valid JSON at byte 3: trailing comma"]);
        check("{} x", expect!["not valid JSON at byte 3: trailing characters"]);
        check(&"[".repeat(1000), expect!["JSON is nested deeper than 128 levels"]);
        let wide = format!("[{}0]", "0,".repeat(500_000));
        check(&wide, expect!["JSON holds more than 400000 values"]);
    }

    #[test]
    fn the_first_document_ends_where_it_ends() {
        let (parsed, end) = parse_first(br#"{"a":"}"} {"b":1}"#).unwrap();
        assert_eq!((parsed.value.str_at("a"), end), (Some("}"), 9));
        assert!(parse_first(b"{\"a\":").is_err());
    }

    #[test]
    fn twins_are_found_in_small_and_large_objects() {
        for count in [1, Keys::FEW - 1, Keys::FEW, Keys::FEW + 1, 3 * Keys::FEW] {
            for twin in 0..count {
                let members: Vec<String> = (0..count).chain([twin]).map(|n| format!("\"k{n}\":1")).collect();
                let parsed = parse(format!("{{{}}}", members.join(",")).as_bytes()).unwrap();
                assert_eq!(parsed.duplicate_keys, [format!("k{twin}")], "{count} members");
            }
        }
    }

    #[test]
    fn members_know_their_bytes() {
        let text = r#"{"a" :  {"x": 1.50}, "b":[ 1 ]}"#;
        let parsed = parse(text.as_bytes()).unwrap().value;
        assert_eq!(&text[parsed.member("a").unwrap().span.clone()], r#"{"x": 1.50}"#);
        assert_eq!(&text[parsed.member("b").unwrap().span.clone()], "[ 1 ]");
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            drop(parse(&bytes));
        }
    }
}
