//! Paths into a line: `frame.params.name`, `tool_calls[0].id`, `content[*].text`, `@audit.class`.
//!
//! A dot separates members, and may also be part of a member's name: at each object the longest name that fits goes first,
//! so `attributes.gen_ai.tool.name` finds member `gen_ai.tool.name` of `attributes`. What begins with `@` was made by
//! `[[expand]]`, by a capture or by `each` (`@item`); where nothing of that name was made, it is a member whose own name begins
//! so (`@timestamp`).

use std::ops::Range;

use crate::json::Json;
use crate::limits::profile::STEPS_MAX;

/// A path, read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    /// Name of what was made from the line; `None` for the line itself.
    pub(super) made: Option<String>,
    steps: Vec<Step>,
    /// The same as a path into the line, for a member whose name begins with `@`.
    literal: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// One member or several, with dots between.
    Name(String),
    Index(usize),
    Each,
}

/// A value and the bytes it came from, where they are known.
#[derive(Debug, Clone)]
pub(super) struct Found<'a> {
    pub(super) value: &'a Json,
    pub(super) span: Option<Range<usize>>,
}

impl Path {
    /// Reads the text form; `Err` says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Path, String> {
        let (made, rest) = match text.strip_prefix('@') {
            None => (None, text),
            Some(rest) => {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                if end == 0 {
                    return Err("a path that begins with @ needs a name".into());
                }
                (Some(rest[..end].to_string()), rest[end..].strip_prefix('.').unwrap_or(&rest[end..]))
            }
        };
        if text.is_empty() {
            return Err("a path cannot be empty".into());
        }
        let literal = match made {
            Some(_) => steps(text)?,
            None => Vec::new(),
        };
        Ok(Path { made, steps: steps(rest)?, literal })
    }

    /// The first value in the line itself, if what the path names was not made.
    pub(super) fn first_literal<'a>(&self, root: &'a Json) -> Option<Found<'a>> {
        let mut found = None;
        walk(Found { value: root, span: None }, &self.literal, &mut |value| {
            found = Some(value);
            false
        });
        found
    }

    /// The first value.
    pub(super) fn first<'a>(&self, root: &'a Json) -> Option<Found<'a>> {
        let mut found = None;
        walk(Found { value: root, span: None }, &self.steps, &mut |value| {
            found = Some(value);
            false
        });
        found
    }

    /// Every value.
    pub(super) fn all<'a>(&self, root: &'a Json) -> Vec<Found<'a>> {
        let mut found = Vec::new();
        walk(Found { value: root, span: None }, &self.steps, &mut |value| {
            found.push(value);
            true
        });
        found
    }

    /// Whether it may find several.
    pub(super) fn is_many(&self) -> bool {
        self.steps.contains(&Step::Each)
    }
}

fn steps(text: &str) -> Result<Vec<Step>, String> {
    let mut rest = text;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let (index, after) = after.split_once(']').ok_or("[ without ] in a path")?;
            steps.push(match index {
                "*" => Step::Each,
                digits => Step::Index(digits.parse().map_err(|_| "between [ and ] stands a number or *")?),
            });
            rest = after.strip_prefix('.').unwrap_or(after);
        } else {
            let end = rest.find('[').unwrap_or(rest.len());
            let name = rest[..end].trim_end_matches('.');
            if name.is_empty() || name.starts_with('.') {
                return Err("a path has an empty member".into());
            }
            steps.push(Step::Name(name.to_string()));
            rest = &rest[end..];
        }
    }
    match steps.len() > STEPS_MAX {
        true => Err(format!("a path has at most {STEPS_MAX} steps")),
        false => Ok(steps),
    }
}

/// Gives what is found to `each` until that says enough; `false` when it did.
fn walk<'a>(at: Found<'a>, steps: &[Step], each: &mut dyn FnMut(Found<'a>) -> bool) -> bool {
    let Some((step, rest)) = steps.split_first() else {
        return each(at);
    };
    match step {
        Step::Name(name) => match member(at.value, name) {
            Some(found) => walk(found, rest, each),
            None => true,
        },
        Step::Index(index) => match at.value.items().get(*index) {
            Some(value) => walk(Found { value, span: None }, rest, each),
            None => true,
        },
        Step::Each => at.value.items().iter().all(|value| walk(Found { value, span: None }, rest, each)),
    }
}

/// The member of this name, else the longest one that begins it and holds the rest.
fn member<'a>(value: &'a Json, name: &str) -> Option<Found<'a>> {
    let members = value.members();
    if let Some(member) = members.iter().rev().find(|member| member.key == name) {
        return Some(Found { value: &member.value, span: Some(member.span.clone()) });
    }
    if !name.contains('.') {
        return None;
    }
    let mut below: Vec<(&str, &Json)> = members
        .iter()
        .filter_map(|member| Some((name.strip_prefix(member.key.as_str())?.strip_prefix('.')?, &member.value)))
        .filter(|(_, value)| matches!(value, Json::Object(_)))
        .collect();
    below.sort_by_key(|(rest, _)| rest.len());
    below.into_iter().find_map(|(rest, value)| self::member(value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::parse;

    fn found(text: &str, path: &str) -> String {
        let parsed = parse(text.as_bytes()).unwrap().value;
        let all = Path::parse(path).unwrap().all(&parsed);
        all.iter().map(|found| found.value.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn members_may_have_dots() {
        let text = r#"{"a":{"b.c":1,"b":{"c":2,"d":3}},"a.b":{"e":4},"l":[{"x":[5,6]},{"x":[7]}]}"#;
        for (path, expected) in [
            ("a.b.c", "1"),
            ("a.b.d", "3"),
            ("a.b.e", "4"),
            ("a.b", r#"{"e":4}"#),
            ("l[1].x[0]", "7"),
            ("l[*].x[*]", "5 6 7"),
            ("l[*].y", ""),
            ("a.x", ""),
        ] {
            assert_eq!(found(text, path), expected, "{path}");
        }
    }

    #[test]
    fn bad_paths_say_why() {
        for path in ["", "@", "a[", "a[x]", ".a", "a[0]..b"] {
            assert!(Path::parse(path).is_err(), "{path}");
        }
        assert_eq!(Path::parse("@item.a").unwrap().made.as_deref(), Some("item"));
    }
}
