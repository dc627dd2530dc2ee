//! What a profile makes of a line, for people who write one.

use std::fmt;
use std::sync::Arc;

use super::{Profile, ProfileDecoder, Ruled};
use crate::columns::Record;
use crate::decode::{Context, Line};
use crate::record::{Kind, Outcome, TimeQuality};

/// A record and how it came about.
#[derive(Debug)]
pub struct Explained {
    /// The record.
    pub record: Record,
    /// Rule that made it, or that refused the line; `None` when no rule was reached.
    pub rule: Option<String>,
    /// Fields of that rule, whether they found something or not.
    pub fields: Vec<FieldShown>,
}

/// One field of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldShown {
    /// Field, key or attribute.
    pub name: String,
    /// Where the profile takes it from.
    pub from: String,
    /// What came out; `None`: nothing.
    pub value: Option<String>,
}

/// Field by field; values are cut. Not made safe for a terminal.
impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = &self.record;
        let rule = self.rule.as_deref().map_or("no rule".to_string(), |rule| format!("rule {rule}"));
        writeln!(f, "line {}: {} ({rule})", record.origin_line.unwrap_or(0), record.kind)?;
        if record.kind == Kind::Rejected {
            writeln!(f, "  because: {}", record.text.as_deref().unwrap_or_default())?;
        }
        for field in &self.fields {
            let value = field.value.as_deref().map_or("-".into(), |value| clipped(value, 120));
            writeln!(f, "  {:<18} {value}   <- {}", field.name, field.from)?;
        }
        let is_said = |name: &str| self.fields.iter().any(|field| field.name == name);
        let derived =
            [("server_name", record.server_name.as_deref()), ("outcome", record.outcome.map(Outcome::as_str))];
        for (name, value) in derived.into_iter().filter(|_| record.kind != Kind::Rejected) {
            if let Some(value) = value.filter(|_| !is_said(name)) {
                writeln!(f, "  {name:<18} {}   <- derived", clipped(value, 120))?;
            }
        }
        match &record.attributes {
            Some(attributes) => writeln!(f, "  {:<18} {}", "attributes", clipped(attributes, 400)),
            None => Ok(()),
        }
    }
}

fn clipped(text: &str, chars_max: usize) -> String {
    let line: String = text.chars().take(chars_max).map(|c| if c == '\n' { '⏎' } else { c }).collect();
    if text.chars().nth(chars_max).is_some() { line + "…" } else { line }
}

/// Reads lines as [`ProfileDecoder`] does and says for each record why.
#[derive(Debug)]
pub struct Explaining {
    decoder: ProfileDecoder,
    profile: Arc<Profile>,
}

impl Explaining {
    /// For one file.
    pub fn new(profile: Arc<Profile>) -> Self {
        Explaining { decoder: ProfileDecoder::new(profile.clone()), profile }
    }

    /// The records of one line, as they come.
    pub fn line(&mut self, context: &Context<'_>, line: Line<'_>) -> Vec<Explained> {
        let ruled = self.decoder.decode(context, &line);
        ruled.into_iter().map(|ruled| self.profile.explained(ruled)).collect()
    }

    /// What is still held at the end.
    pub fn finish(&mut self, context: &Context<'_>) -> Vec<Explained> {
        let ruled = self.decoder.flush(context);
        ruled.into_iter().map(|ruled| self.profile.explained(ruled)).collect()
    }
}

impl Profile {
    fn explained(&self, Ruled { record, rule }: Ruled) -> Explained {
        let columns = record.to_json();
        let rule = rule.and_then(|index| self.rules.get(index));
        let attributes = record.attributes.as_deref().and_then(|text| serde_json::from_str(text).ok());
        let attributes: serde_json::Map<String, serde_json::Value> = attributes.unwrap_or_default();
        let fact = |name: &str| attributes.get(&format!("threadline.{name}")).map(plain);
        let mut fields = Vec::new();
        for field in rule.iter().flat_map(|rule| &rule.fields).filter(|_| record.kind != Kind::Rejected) {
            let value = match field.name {
                "time" if record.time_quality != TimeQuality::Source => None,
                "time" => Some(chrono::DateTime::from_timestamp_nanos(record.time_unix_nano).to_rfc3339()),
                "duration" => record.duration_nano.map(|nano| format!("{nano} ns")),
                "traceparent" => {
                    record.trace_id.as_ref().zip(record.parent_span_id.as_ref()).map(|(t, s)| format!("{t}-{s}"))
                }
                "arguments_sha256" => fact("arguments_match"),
                "result_sha256" => fact("result_match"),
                name => columns.get(name).map(plain).or_else(|| fact(name)),
            };
            fields.push(FieldShown { name: field.name.into(), from: field.extract.said.clone(), value });
        }
        for key in rule.iter().flat_map(|rule| &rule.keys).filter(|_| record.kind != Kind::Rejected) {
            let prefix = format!("{}:", key.kind.as_str());
            let value = record.keys.iter().find(|key| key.starts_with(&prefix)).cloned();
            fields.push(FieldShown { name: format!("key {}", key.kind.as_str()), from: key.value.said.clone(), value });
        }
        Explained { rule: rule.map(|rule| rule.name.clone()), fields, record }
    }
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}
