//! A rule: which entries it fits, and what it makes of them.

use std::sync::Arc;

use regex::Regex;

use super::condition::Condition;
use super::entry::{self, text_member};
use super::extract::{Extract, Made, Scope};
use super::path::Path;
use super::target::Field;
use crate::json::{self, Json};
use crate::keys::KeyKind;
use crate::record::Kind;

/// What kind of record a rule makes.
#[derive(Debug, Clone, Copy)]
pub(super) enum RuleKind {
    Fixed(Kind),
    /// By the MCP method in the field `name`.
    OfRequest,
    /// The same for its response.
    OfResponse,
}

/// One rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) kind: RuleKind,
    /// The first of these paths that finds something must fit.
    pub(super) when: Vec<(Vec<Path>, Condition)>,
    pub(super) captures: Vec<Capture>,
    pub(super) each: Option<Path>,
    /// Applied to each item.
    pub(super) expand: Vec<Expand>,
    /// Later rules are tried too.
    pub(super) goes_on: bool,
    pub(super) fields: Vec<Field>,
    pub(super) attributes: Vec<(String, Arc<Extract>)>,
    pub(super) keys: Vec<KeyRule>,
}

/// Named groups taken out of a text; the rule fits only if it matches.
#[derive(Debug)]
pub(super) struct Capture {
    pub(super) from: Path,
    pub(super) pattern: Regex,
}

/// A typed key.
#[derive(Debug)]
pub(super) struct KeyRule {
    pub(super) kind: KeyKind,
    pub(super) scope: Option<Extract>,
    pub(super) value: Extract,
}

/// A text inside the entry that has structure of its own.
#[derive(Debug)]
pub(super) struct Expand {
    pub(super) from: Path,
    pub(super) how: How,
    pub(super) pattern: Option<Regex>,
    pub(super) into: Option<String>,
}

/// Which structure.
#[derive(Debug)]
pub(super) enum How {
    Json,
    Logfmt,
    Csv(Vec<String>),
    Captures,
}

impl Rule {
    /// Whether it asks for something.
    pub(super) fn is_specific(&self) -> bool {
        !self.when.is_empty() || !self.captures.is_empty() || self.each.is_some()
    }

    /// What its captures take, if it fits; `scope` has no captures yet.
    pub(super) fn fits(&self, scope: &Scope<'_>) -> Option<Vec<Made>> {
        let holds = |(paths, condition): &(Vec<Path>, Condition)| {
            condition.holds(paths.iter().find_map(|path| scope.first(path)).map(|found| found.json))
        };
        if !self.when.iter().all(holds) {
            return None;
        }
        let mut made = Vec::new();
        for capture in &self.captures {
            let text = scope.first(&capture.from)?.json.as_str()?;
            captured(&capture.pattern, text, &mut made)?;
        }
        let is_many =
            self.each.as_ref().is_none_or(|each| scope.first(each).is_some_and(|found| !found.json.items().is_empty()));
        is_many.then_some(made)
    }

    /// The items that become a record each; `[None]` for the entry as a whole.
    pub(super) fn items<'d>(&self, scope: &Scope<'d>) -> Vec<Option<&'d Json>> {
        match &self.each {
            None => vec![None],
            Some(each) => {
                let items = scope.first(each).map(|found| found.json.items()).unwrap_or_default();
                items.iter().map(Some).collect()
            }
        }
    }
}

/// Adds the named groups of a match; `None` when it does not match.
fn captured(pattern: &Regex, text: &str, made: &mut Vec<Made>) -> Option<()> {
    let captures = pattern.captures(text)?;
    for name in pattern.capture_names().flatten() {
        if let Some(group) = captures.name(name) {
            let value = Json::String(group.as_str().into());
            made.push(Made { name: name.into(), text: String::new(), value, is_content: false });
        }
    }
    Some(())
}

impl Expand {
    /// What it makes of an entry: nothing when the text is absent or has another form. Its source counts as used.
    pub(super) fn apply<'d>(
        &self,
        root: &'d Json,
        item: Option<&'d Json>,
        earlier: &[Made],
        made: &mut Vec<Made>,
    ) -> Option<&'d Json> {
        let mut used = None;
        let found = match &self.from.made {
            None => {
                let found = self.from.first(root)?.value;
                used = Some(found);
                found
            }
            Some(name) if name == "item" => {
                let found = self.from.first(item?)?.value;
                used = Some(found);
                found
            }
            Some(name) => self.from.first(&earlier.iter().find(|made| made.name == *name)?.value)?.value,
        };
        let text = found.as_str()?;
        if matches!(self.how, How::Captures) {
            // The text itself stays where it is.
            captured(self.pattern.as_ref()?, text, made)?;
            return None;
        }
        let text = match &self.pattern {
            None => text,
            Some(pattern) => {
                let captures = pattern.captures(text)?;
                captures.iter().skip(1).flatten().next().or(captures.get(0))?.as_str()
            }
        };
        let value = match &self.how {
            How::Json => json::parse(text.as_bytes()).ok()?.value,
            How::Logfmt => entry::logfmt(text, true).ok()?.root,
            How::Csv(columns) => entry::csv_object(text, columns).ok()?.root,
            How::Captures => return None,
        };
        let source = if matches!(self.how, How::Json) { text.to_string() } else { String::new() };
        let is_whole = self.pattern.is_none();
        made.push(Made { name: self.into.clone()?, text: source, value, is_content: is_whole });
        used.filter(|_| is_whole)
    }
}

/// A member for what a line could not say in a field.
pub(super) fn note(key: &str, value: impl Into<String>) -> json::Member {
    text_member(key, value)
}
