//! The drop list: telemetry that says nothing about what an agent did, left out by the receivers and counted.
//!
//! Invariants
//! - only a record of kind `span` or `log` that did not fail can be left out, whatever the rules say: a list that is
//!   wrong cannot lose a call, a decision or an error
//! - what is left out is counted by source and rule, and each body leaves `gap` records that say how much of which
//!   trace; the same body sent again gives the same ones
//! - at most [`DROP_RULES_MAX`] rules and [`DROP_PATTERNS_MAX`] patterns of at most [`DROP_PATTERN_BYTES_MAX`] bytes; a pattern is
//!   matched in time linear in text times pattern at worst
//!
//! Not here: where the list comes from (`--otlp-drop`); imported files are taken whole.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::item::Item;
use super::{Delivery, Named};
use crate::columns::Record;
use crate::decode::Context;
use crate::decode::transcript::member;
use crate::json::Json;
use crate::keys::{Key, KeyKind};
use crate::limits::otlp::{DROP_GROUPS_MAX, DROP_PATTERN_BYTES_MAX, DROP_PATTERNS_MAX, DROP_RULES_MAX};
use crate::record::{Kind, Outcome, SourceKind};

/// The list that ships.
const SHIPPED: &str = include_str!("drop_list.toml");

/// What is left out.
#[derive(Debug, Clone, Default)]
pub struct DropList {
    rules: Vec<Rule>,
}

/// Why a list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DropListError {
    /// Not TOML, or not of this form.
    #[error("the drop list cannot be read")]
    Toml(#[source] Box<toml::de::Error>),
    /// A rule that would leave out everything.
    #[error("rule {rule} names nothing: give it sources, scopes, names or attributes")]
    Empty {
        /// Its name.
        rule: String,
    },
    /// Two rules cannot be told apart in the counts.
    #[error("two rules are called {rule}")]
    Twice {
        /// Their name.
        rule: String,
    },
    /// Too much of it.
    #[error(
        "the drop list has more than {DROP_RULES_MAX} rules, {DROP_PATTERNS_MAX} patterns, or a name or pattern above {DROP_PATTERN_BYTES_MAX} bytes"
    )]
    TooLarge,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    drop: Vec<Rule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    rule: String,
    signal: Option<Which>,
    #[serde(default)]
    sources: Vec<String>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    attributes: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Which {
    Logs,
    Traces,
}

impl DropList {
    /// Leaves out nothing.
    pub const fn none() -> Self {
        DropList { rules: Vec::new() }
    }

    /// The list that ships.
    pub fn shipped() -> Self {
        Self::parse(SHIPPED).unwrap_or_default()
    }

    /// Reads a list, TOML of the form of the shipped one.
    ///
    /// # Errors
    /// See [`DropListError`].
    pub fn parse(text: &str) -> Result<Self, DropListError> {
        let File { drop: rules } = toml::from_str(text).map_err(|error| DropListError::Toml(Box::new(error)))?;
        let patterns = || rules.iter().flat_map(Rule::patterns);
        let too_long = |text: &str| text.len() > DROP_PATTERN_BYTES_MAX;
        if rules.len() > DROP_RULES_MAX
            || patterns().count() > DROP_PATTERNS_MAX
            || patterns().any(too_long)
            || rules.iter().any(|rule| too_long(&rule.rule) || rule.attributes.keys().any(|key| too_long(key)))
        {
            return Err(DropListError::TooLarge);
        }
        for (at, rule) in rules.iter().enumerate() {
            if rule.patterns().next().is_none() {
                return Err(DropListError::Empty { rule: rule.rule.clone() });
            }
            if rules[..at].iter().any(|other| other.rule == rule.rule) {
                return Err(DropListError::Twice { rule: rule.rule.clone() });
            }
        }
        Ok(DropList { rules })
    }

    /// The first rule by which a record is left out.
    pub(super) fn rule(&self, record: &Record, scope: &str, item: &Item) -> Option<&str> {
        let is_plain = matches!(record.kind, Kind::Span | Kind::Log);
        let is_fine = !matches!(record.outcome, Some(Outcome::Error | Outcome::Denied | Outcome::Cancelled));
        let fits = |rule: &&Rule| rule.fits(record, scope, item);
        self.rules.iter().find(fits).filter(|_| is_plain && is_fine).map(|rule| rule.rule.as_str())
    }
}

impl Rule {
    fn patterns(&self) -> impl Iterator<Item = &str> {
        let named = [&self.sources, &self.scopes, &self.names].into_iter().flatten();
        named.chain(self.attributes.values().flatten()).map(String::as_str)
    }

    fn fits(&self, record: &Record, scope: &str, item: &Item) -> bool {
        let signal = if item.span_kind().is_some() { Which::Traces } else { Which::Logs };
        let any = |patterns: &[String], text: &str| patterns.iter().any(|pattern| matches(pattern, text));
        let has = |(key, patterns): (&String, &Vec<String>)| item.text(key).is_some_and(|text| any(patterns, text));
        self.signal.is_none_or(|only| only == signal)
            && (self.sources.is_empty() || any(&self.sources, &record.source_name))
            && (self.scopes.is_empty() || any(&self.scopes, scope))
            && (self.names.is_empty() || any(&self.names, record.name.as_deref().unwrap_or_default()))
            && self.attributes.iter().all(has)
    }
}

/// Whether `text` has the form of `pattern`, in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where the last star stood, and where the text went on behind it.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && pattern[p] == text[t] {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (p, t) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// What one body loses to the list.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    /// By source and trace; the trace is empty where there are too many to tell apart.
    groups: BTreeMap<(String, String), Group>,
}

#[derive(Debug)]
struct Group {
    side: SourceKind,
    from_unix_nano: i64,
    to_unix_nano: i64,
    by_rule: BTreeMap<String, u64>,
}

impl Dropped {
    /// Takes note of a record that is left out.
    pub(super) fn add(&mut self, record: &Record, rule: &str) {
        let of_trace = (record.source_name.clone(), record.trace_id.clone().unwrap_or_default());
        let rest = (record.source_name.clone(), String::new());
        let is_room = |key: &_, groups_max| self.groups.len() < groups_max || self.groups.contains_key(key);
        let key = match () {
            () if is_room(&of_trace, DROP_GROUPS_MAX) => of_trace,
            () if is_room(&rest, 2 * DROP_GROUPS_MAX) => rest,
            // Sources are resources of one body: this many are no estate's.
            () => (String::from("several"), String::new()),
        };
        let group = self.groups.entry(key).or_insert_with(|| Group {
            side: record.source_kind,
            from_unix_nano: record.time_unix_nano,
            to_unix_nano: record.time_unix_nano,
            by_rule: BTreeMap::new(),
        });
        group.from_unix_nano = group.from_unix_nano.min(record.time_unix_nano);
        group.to_unix_nano = group.to_unix_nano.max(record.time_unix_nano);
        *group.by_rule.entry(rule.into()).or_default() += 1;
    }

    /// Counts by source and rule.
    pub(super) fn counts(&self) -> Vec<Named> {
        let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for ((source, _), group) in &self.groups {
            for (rule, count) in &group.by_rule {
                *counts.entry((source, rule)).or_default() += count;
            }
        }
        let named =
            |((source, name), count): ((&str, &str), u64)| Named { source: source.into(), name: name.into(), count };
        counts.into_iter().map(named).collect()
    }

    /// A `gap` record for each source and trace.
    pub(super) fn gaps(&self, context: &Context<'_>, decoder: &str, delivery: &Delivery<'_>) -> Vec<Record> {
        let gap = |(index, ((source, trace), group)): (usize, (&(String, String), &Group))| {
            let key = format!("body:{}:dropped:{}", delivery.digest, index + 1);
            let mut record = Record::new(context.tenant, &key, Kind::Gap);
            record.collector = context.collector;
            record.decoder = decoder.into();
            record.source_kind = group.side;
            record.source_name.clone_from(source);
            record.set_time(Some(group.from_unix_nano), context.observed_time_unix_us);
            record.duration_nano = group.to_unix_nano.checked_sub(group.from_unix_nano);
            record.name = Some("otlp.dropped".into());
            record.error_type = Some("drop_list".into());
            if !trace.is_empty() {
                record.add_key(Key::new(KeyKind::Trace, trace));
            }
            let total: u64 = group.by_rule.values().sum();
            let rules: Vec<&str> = group.by_rule.keys().map(String::as_str).collect();
            record.text =
                Some(format!("{total} spans or log records left out by the drop list ({})", rules.join(", ")));
            let number = |count: &u64| Json::Number(count.to_string().into());
            let by_rule = group.by_rule.iter().map(|(rule, count)| member(rule, number(count))).collect();
            let attributes = vec![member("records", number(&total)), member("rules", Json::Object(by_rule))];
            record.attributes = Some(Json::Object(attributes).to_string());
            record
        };
        self.groups.iter().enumerate().map(gap).collect()
    }
}

#[cfg(test)]
mod tests;
