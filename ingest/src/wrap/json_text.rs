//! Edits of JSON text that touch nothing but what is meant: order, spacing and everything unknown stay.
//!
//! `serde_json` finds the values (as raw slices of the text), so the grammar is its own; a change replaces, inserts or cuts
//! a slice. One change at a time, on the text anew: these are files of kilobytes, changed a handful of times.
//!
//! Invariants
//! - the result of an edit parses when the input did
//! - of a key that stands twice in an object, the last one counts, as for the programs that read these files

use std::{fmt, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

const BLANK: [char; 4] = [' ', '\t', '\r', '\n'];

/// Key and raw value of each member, in order, borrowed from the text.
pub(super) struct Members<'a>(pub(super) Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl<'a> Members<'a> {
    fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.get())
    }
}

/// The members of an object; `None` for anything else.
pub(super) fn members(raw: &str) -> Option<Members<'_>> {
    serde_json::from_str(raw).ok()
}

/// The raw value at `path`.
pub(super) fn get<'a>(text: &'a str, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(text.trim_matches(BLANK), |raw, key| members(raw)?.get(key))
}

/// The string at `path`.
pub(super) fn get_string(text: &str, path: &[&str]) -> Option<String> {
    serde_json::from_str(get(text, path)?).ok()
}

/// Where `raw`, a slice of `text`, stands in it.
pub(super) fn span(text: &str, raw: &str) -> Range<usize> {
    let start = raw.as_ptr() as usize - text.as_ptr() as usize;
    start..start + raw.len()
}

/// `text` with the value at `path` set to the JSON `value`; objects on the way are made. `None` if something on the way is
/// there and no object.
pub(super) fn set(text: &str, path: &[&str], value: &str) -> Option<String> {
    let (key, parents) = path.split_last()?;
    if let Some(raw) = get(text, path) {
        return Some(replace(text, span(text, raw), value));
    }
    let Some(object) = get(text, parents) else {
        let made = set(text, parents, "{}")?;
        return set(&made, path, value);
    };
    let key = serde_json::to_string(key).ok()?;
    let found = members(object)?;
    let object_span = span(text, object);
    let Some((_, last)) = found.0.last() else {
        let (inner, outer) = indentation(text, object_span.start);
        return Some(replace(text, object_span, &format!("{{{inner}{key}: {value}{outer}}}")));
    };
    // As the first member is set apart from the brace, so is the new one from the last.
    let inside = &text[object_span.start + 1..object_span.end];
    let gap = &inside[..blank(inside)];
    let end = span(text, last.get()).end;
    Some(replace(text, end..end, &format!(",{gap}{key}: {value}")))
}

/// `text` without the member at `path`, if it is there.
pub(super) fn remove(text: &str, path: &[&str]) -> Option<String> {
    let (key, parents) = path.split_last()?;
    let object = get(text, parents)?;
    let found = members(object)?;
    let at = found.0.iter().rposition(|(name, _)| name == key)?;
    let values: Vec<Range<usize>> = found.0.iter().map(|(_, value)| span(text, value.get())).collect();
    let object = span(text, object);
    let cut = match (at.checked_sub(1), values.get(at + 1)) {
        // With the comma before it.
        (Some(before), _) => values[before].end..values[at].end,
        // The first: up to the next key, found behind the comma and white space.
        (None, Some(_)) => {
            let start = object.start + 1 + blank(&text[object.start + 1..]);
            let comma = values[at].end + blank(&text[values[at].end..]);
            start..comma + 1 + blank(&text[comma + 1..])
        }
        (None, None) => object.start + 1..object.end - 1,
    };
    Some(replace(text, cut, ""))
}

/// An array with `elements` in front of the raw elements of `old`, laid out as `old` is.
pub(super) fn array_with_front(elements: &[String], old: &str) -> Option<String> {
    let rest: Vec<&RawValue> = serde_json::from_str(old).ok()?;
    let all = elements.iter().map(String::as_str).chain(rest.iter().map(|raw| raw.get()));
    Some(array_like(old, all))
}

/// An array of raw elements, laid out as `old` is.
pub(super) fn array_like<'a>(old: &str, elements: impl Iterator<Item = &'a str>) -> String {
    let elements: Vec<&str> = elements.collect();
    let inside = old.trim().trim_start_matches('[').trim_end_matches(']');
    let (front, back) = (&inside[..blank(inside)], &inside[inside.trim_end().len()..]);
    if front.contains('\n') && !elements.is_empty() && !inside.trim().is_empty() {
        format!("[{front}{}{back}]", elements.join(&format!(",{front}")))
    } else {
        format!("[{}]", elements.join(", "))
    }
}

fn replace(text: &str, span: Range<usize>, with: &str) -> String {
    format!("{}{with}{}", &text[..span.start], &text[span.end..])
}

fn blank(text: &str) -> usize {
    text.len() - text.trim_start_matches(BLANK).len()
}

/// White space before the first member and before the closing brace of an empty object at `at`.
fn indentation(text: &str, at: usize) -> (String, String) {
    let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let indents = text.lines().map(|line| &line[..blank(line)]);
    let unit = indents.clone().find(|indent| !indent.is_empty()).unwrap_or("  ");
    let is_one_line = !text.trim_end().contains('\n') && text.trim().len() > 2;
    if is_one_line {
        return (String::new(), String::new());
    }
    let line = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let base = &text[line..line + blank(&text[line..at])];
    (format!("{newline}{base}{unit}"), format!("{newline}{base}"))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "{\n    \"z\": 1e400,\n    \"a\": {\"k\":\"v\"},\n\n    \"e\": {}\n}\n";

    fn check(result: Option<String>, expected: Expect) {
        let text = result.unwrap();
        assert!(members(&text).is_some(), "{text}");
        expected.assert_eq(&text);
    }

    #[test]
    fn sets_and_leaves_the_rest() {
        check(
            set(TEXT, &["a", "k"], "[2]"),
            expect![[r#"
            {
                "z": 1e400,
                "a": {"k":[2]},

                "e": {}
            }
        "#]],
        );
        check(
            set(TEXT, &["a", "new"], "0"),
            expect![[r#"
            {
                "z": 1e400,
                "a": {"k":"v","new": 0},

                "e": {}
            }
        "#]],
        );
        check(
            set(TEXT, &["e", "x", "y"], "true"),
            expect![[r#"
            {
                "z": 1e400,
                "a": {"k":"v"},

                "e": {
                    "x": {
                        "y": true
                    }
                }
            }
        "#]],
        );
        check(
            set(TEXT, &["last"], "0"),
            expect![[r#"
            {
                "z": 1e400,
                "a": {"k":"v"},

                "e": {},
                "last": 0
            }
        "#]],
        );
        check(
            set("{}\n", &["env", "A"], "\"1\""),
            expect![[r#"
            {
              "env": {
                "A": "1"
              }
            }
        "#]],
        );
        check(set("{\"a\":{}}", &["a", "b"], "1"), expect![[r#"{"a":{"b": 1}}"#]]);
        assert_eq!(set(TEXT, &["z", "no object"], "1"), None);
    }

    #[test]
    fn removes_first_middle_last_only() {
        check(
            remove(TEXT, &["z"]),
            expect![[r#"
            {
                "a": {"k":"v"},

                "e": {}
            }
        "#]],
        );
        check(
            remove(TEXT, &["a"]),
            expect![[r#"
            {
                "z": 1e400,

                "e": {}
            }
        "#]],
        );
        check(
            remove(TEXT, &["e"]),
            expect![[r#"
            {
                "z": 1e400,
                "a": {"k":"v"}
            }
        "#]],
        );
        check(
            remove(TEXT, &["a", "k"]),
            expect![[r#"
            {
                "z": 1e400,
                "a": {},

                "e": {}
            }
        "#]],
        );
        assert_eq!(remove(TEXT, &["none"]), None);
    }

    #[test]
    fn the_last_of_two_equal_keys_counts() {
        assert_eq!(get(r#"{"a":1,"a":2}"#, &["a"]), Some("2"));
        check(set(r#"{"a":1,"a":2}"#, &["a"], "3"), expect![[r#"{"a":1,"a":3}"#]]);
    }

    #[test]
    fn arrays_keep_their_layout() {
        let front = ["\"x\"".to_owned()];
        assert_eq!(array_with_front(&front, "[\"a\",  1e400]").unwrap(), "[\"x\", \"a\", 1e400]");
        assert_eq!(array_with_front(&front, "[\n  \"a\"\n]").unwrap(), "[\n  \"x\",\n  \"a\"\n]");
        assert_eq!(array_with_front(&front, "[]").unwrap(), "[\"x\"]");
        assert_eq!(array_with_front(&front, "[ \n ]").unwrap(), "[\"x\"]");
        assert_eq!(array_with_front(&front, "{}"), None);
    }

    proptest! {
        #[test]
        fn set_then_remove_gives_the_text_back(keys in prop::collection::btree_set("[a-c\"é\\\\]{1,2}", 1..5), pretty: bool) {
            let object: serde_json::Map<_, _> = keys.iter().map(|key| (key.clone(), 1.into())).collect();
            let text = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) }.unwrap();
            let with = set(&text, &["new"], "{\"a\": [1, 2]}").unwrap();
            prop_assert_eq!(get(&with, &["new", "a"]), Some("[1, 2]"));
            prop_assert_eq!(remove(&with, &["new"]).unwrap(), text.clone());
            for key in &keys {
                let without = remove(&text, &[key]).unwrap();
                prop_assert_eq!(members(&without).unwrap().0.len(), keys.len() - 1);
                let again = set(&without, &[key], "7").unwrap();
                prop_assert_eq!(get(&again, &[key]), Some("7"));
            }
        }
    }
}
