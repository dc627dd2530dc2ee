//! Values taken out of a line: a path, then what is done to the text found there.
//!
//! Order of the steps: path(s), constant or template -> `match` -> `url_decode` -> `lower` -> `map` -> `sha256`.
//! `default` stands in when nothing is left. A number or boolean is taken as its text; `null` and, for most columns, empty
//! text are nothing.

use std::borrow::Cow;
use std::cell::RefCell;

use regex::Regex;
use sha2::{Digest, Sha256};

use super::path::{Found, Path};
use super::time::{Form, Zone};
use crate::json::Json;

/// What `[[expand]]`, a capture or `each` made from a line.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) name: String,
    /// What it was read from, if spans of `value` refer to that.
    pub(super) text: String,
    pub(super) value: Json,
    /// Holds content that stands nowhere else; what no column takes goes into `attributes`.
    pub(super) is_content: bool,
}

/// Everything that paths of one record can reach.
#[derive(Debug)]
pub(super) struct Scope<'d> {
    pub(super) line: &'d str,
    pub(super) root: &'d Json,
    pub(super) made: &'d [Made],
    pub(super) captures: &'d [Made],
    pub(super) item: Option<&'d Json>,
    /// Texts that mean nothing.
    pub(super) absent: &'d [String],
    /// Values that went somewhere as they are.
    pub(super) used: RefCell<Vec<&'d Json>>,
}

/// A value with its exact text, where that is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value<'d> {
    pub(super) json: &'d Json,
    pub(super) exact: Option<&'d str>,
}

impl<'d> Scope<'d> {
    /// The value at a path; `null` is none.
    pub(super) fn first(&self, path: &Path) -> Option<Value<'d>> {
        let (found, text): (Found<'d>, &'d str) = match &path.made {
            None => (path.first(self.root)?, self.line),
            Some(name) if name == "item" => (path.first(self.item?)?, self.line),
            Some(name) => match self.captures.iter().chain(self.made).find(|made| made.name == *name) {
                Some(made) => (path.first(&made.value)?, made.text.as_str()),
                None => (path.first_literal(self.root)?, self.line),
            },
        };
        let exact = found.span.filter(|span| !span.is_empty()).and_then(|span| text.get(span));
        let is_absent = match found.value {
            Json::Null => true,
            Json::String(text) => self.absent.contains(text),
            _ => false,
        };
        (!is_absent).then_some(Value { json: found.value, exact })
    }

    fn all(&self, path: &Path) -> Vec<&'d Json> {
        let root = match &path.made {
            None => Some(self.root),
            Some(name) if name == "item" => self.item,
            Some(name) => self.captures.iter().chain(self.made).find(|made| made.name == *name).map(|made| &made.value),
        };
        root.map(|root| path.all(root).into_iter().map(|found| found.value).collect()).unwrap_or_default()
    }

    pub(super) fn mark_used(&self, value: &'d Json) {
        self.used.borrow_mut().push(value);
    }
}

/// How a tool's full name is taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Split {
    prefix: String,
    separator: String,
    /// Cut at the last separator instead of the first.
    from_end: bool,
}

impl Split {
    /// Reads `mcp__{server}__{tool}`; `{server...}` takes as much as it can.
    pub(super) fn parse(text: &str) -> Result<Split, String> {
        let wrong =
            || "a split is written like mcp__{server}__{tool}, {server...} taking as much as it can".to_string();
        let (prefix, rest) = text.split_once("{server").ok_or_else(wrong)?;
        let (from_end, rest) = match rest.strip_prefix("...}") {
            Some(rest) => (true, rest),
            None => (false, rest.strip_prefix('}').ok_or_else(wrong)?),
        };
        let separator = rest.strip_suffix("{tool}").filter(|separator| !separator.is_empty()).ok_or_else(wrong)?;
        Ok(Split { prefix: prefix.into(), separator: separator.into(), from_end })
    }

    /// Server and tool; `None` when the name has another form.
    pub(super) fn apply<'t>(&self, name: &'t str) -> Option<(&'t str, &'t str)> {
        let rest = name.strip_prefix(self.prefix.as_str())?;
        let (server, tool) = match self.from_end {
            true => rest.rsplit_once(self.separator.as_str())?,
            false => rest.split_once(self.separator.as_str())?,
        };
        (!server.is_empty() && !tool.is_empty()).then_some((server, tool))
    }
}

/// A piece of a template.
#[derive(Debug, Clone)]
pub(super) enum Piece {
    Text(String),
    Path(Path),
}

/// Reads `text {path} text`.
pub(super) fn template(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (path, after) = after.split_once('}').ok_or("{ without } in a template")?;
        if !before.is_empty() {
            pieces.push(Piece::Text(before.into()));
        }
        pieces.push(Piece::Path(Path::parse(path)?));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.into()));
    }
    Ok(pieces)
}

/// Where a value comes from, read once.
#[derive(Debug, Default)]
pub(super) struct Extract {
    pub(super) paths: Vec<Path>,
    pub(super) constant: Option<String>,
    pub(super) template: Option<Vec<Piece>>,
    pub(super) pattern: Option<Regex>,
    pub(super) map: Vec<(String, String)>,
    pub(super) default: Option<String>,
    /// Nanoseconds of one unit.
    pub(super) unit_nano: Option<i64>,
    pub(super) form: Option<Form>,
    pub(super) zone: Option<Zone>,
    /// How fine the time is, where the profile knows better than its text.
    pub(super) precision_nano: Option<i64>,
    /// The time is when it ended.
    pub(super) is_end: bool,
    pub(super) split: Vec<Split>,
    pub(super) sha256: bool,
    pub(super) url_decode: bool,
    pub(super) lower: bool,
    pub(super) join: Option<String>,
    /// For people: what the profile says.
    pub(super) said: String,
}

impl Extract {
    /// Whether what comes out is what stands in the line, so that it need not be kept twice.
    pub(super) fn is_plain(&self) -> bool {
        self.constant.is_none()
            && self.template.is_none()
            && self.pattern.is_none()
            && self.map.is_empty()
            && self.split.is_empty()
            && !self.sha256
            && !self.url_decode
            && !self.lower
            && self.join.is_none()
    }

    /// The value itself.
    pub(super) fn value<'d>(&self, scope: &Scope<'d>) -> Option<Value<'d>> {
        self.paths.iter().find_map(|path| scope.first(path))
    }

    /// The value as text, everything done to it.
    pub(super) fn text<'d>(&self, scope: &Scope<'d>) -> Option<Cow<'d, str>> {
        let text = self.source(scope).and_then(|text| self.changed(text));
        text.or_else(|| self.default.clone().map(Cow::Owned))
    }

    fn source<'d>(&self, scope: &Scope<'d>) -> Option<Cow<'d, str>> {
        if let Some(constant) = &self.constant {
            return Some(Cow::Owned(constant.clone()));
        }
        if let Some(pieces) = &self.template {
            let mut text = String::new();
            for piece in pieces {
                match piece {
                    Piece::Text(piece) => text.push_str(piece),
                    Piece::Path(path) => text.push_str(&scalar(scope.first(path)?.json)?),
                }
            }
            return Some(Cow::Owned(text));
        }
        self.paths.iter().find_map(|path| match path.is_many() {
            false => scalar(scope.first(path)?.json),
            true => {
                let texts: Vec<_> = scope.all(path).into_iter().filter_map(scalar).collect();
                let separator = self.join.as_deref().unwrap_or("\n");
                (!texts.is_empty()).then(|| Cow::Owned(texts.join(separator)))
            }
        })
    }

    fn changed<'d>(&self, mut text: Cow<'d, str>) -> Option<Cow<'d, str>> {
        if let Some(pattern) = &self.pattern {
            let captures = pattern.captures(&text)?;
            let found = captures.iter().skip(1).flatten().next().or(captures.get(0))?;
            text = Cow::Owned(found.as_str().to_string());
        }
        if self.url_decode {
            text = Cow::Owned(url_decoded(&text));
        }
        if self.lower {
            text = Cow::Owned(text.to_ascii_lowercase());
        }
        if !self.map.is_empty() {
            text = Cow::Owned(self.map.iter().find(|(from, _)| *from == text)?.1.clone());
        }
        if self.sha256 {
            text = Cow::Owned(hex::encode(Sha256::digest(text.as_bytes())));
        }
        Some(text)
    }
}

/// Text of a string, number or boolean.
pub(super) fn scalar(value: &Json) -> Option<Cow<'_, str>> {
    match value {
        Json::String(text) => Some(Cow::Borrowed(text)),
        Json::Number(text) => Some(Cow::Borrowed(text)),
        Json::Bool(value) => Some(Cow::Borrowed(if *value { "true" } else { "false" })),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

fn url_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = (*first == b'%').then(|| after.get(..2)).flatten();
        match digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tool_names_are_split() {
        let split = |form: &str, name: &str| {
            let split = Split::parse(form).unwrap();
            split.apply(name).map(|(server, tool)| format!("{server} {tool}"))
        };
        assert_eq!(split("mcp__{server}__{tool}", "mcp__a__b__c").as_deref(), Some("a b__c"));
        assert_eq!(split("{server...}__{tool}", "a__b__c").as_deref(), Some("a__b c"));
        assert_eq!(split("{server}-{tool}", "everything-get-sum").as_deref(), Some("everything get-sum"));
        assert_eq!(split("{server}__{tool}", "echo"), None);
        assert!(Split::parse("{tool}").is_err());
        assert!(Split::parse("{server}{tool}").is_err());
    }

    #[test]
    fn urls_are_decoded() {
        assert_eq!(url_decoded("a%2Fb%zz%"), "a/b%zz%");
    }
}
