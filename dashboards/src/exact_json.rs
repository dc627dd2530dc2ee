//! JSON text laid out for reading without being parsed into values: numbers, duplicate keys and
//! escapes stay exactly as they were received.

/// Deepest indentation; deeper levels stay at it.
const INDENT_MAX: usize = 24;

/// `text` with a line per member; what is no JSON, or nested beyond what the parser takes, stays as
/// it is.
pub(crate) fn lay_out(text: &str) -> String {
    if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + text.len() / 4);
    let mut depth = 0usize;
    let mut chars = text.chars().peekable();
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth.min(INDENT_MAX)));
    };
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                out.push('"');
                let mut escaped = false;
                for c in chars.by_ref() {
                    out.push(c);
                    match c {
                        _ if escaped => escaped = false,
                        '\\' => escaped = true,
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                if let Some(close) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                newline(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

/// The texts of an MCP tool result or of a JSON string, decoded for reading; `None` where there is
/// no such text.
pub(crate) fn texts(json: &str) -> Option<String> {
    use serde_json::Value;
    match serde_json::from_str(json).ok()? {
        Value::String(text) => Some(text),
        Value::Object(result) => {
            let blocks = result.get("content")?.as_array()?;
            let texts: Vec<&str> = blocks.iter().filter_map(|block| block.get("text")?.as_str()).collect();
            (!texts.is_empty()).then(|| texts.join("\n"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn layout_keeps_every_token() {
        expect![[r#"
            {
              "a": 12345678901234567890123,
              "a": [],
              "b": [
                "x,{\"",
                {}
              ]
            }"#]]
        .assert_eq(&lay_out(r#"{"a":12345678901234567890123,"a":[ ],"b": ["x,{\"",{ }]}"#));
        expect!["not {json"].assert_eq(&lay_out("not {json"));
    }

    #[test]
    fn deep_nesting_stays_small() {
        let deep = "[".repeat(20_000);
        assert_eq!(lay_out(&deep), deep);
        let nested = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(lay_out(&nested).len() < nested.len() * (3 + 2 * INDENT_MAX));
        assert_eq!(texts(&deep), None);
    }

    #[test]
    fn texts_of_results() {
        assert_eq!(texts(r#"{"content":[{"type":"text","text":"a\nb"},{"type":"image"}]}"#).as_deref(), Some("a\nb"));
        assert_eq!(texts("\"x\"").as_deref(), Some("x"));
        assert_eq!(texts("{}"), None);
    }
}
