//! What a profile makes of a line, for people who write one.

use std::sync::Arc;

use super::{Profile, ProfileDecoder};
use crate::columns::Record;
use crate::decode::{Context, Line, LineDecoder};
use crate::record::Kind;

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
        let records = self.decoder.line(context, line);
        records.into_iter().map(|record| self.profile.explained(context, record)).collect()
    }

    /// What is still held at the end.
    pub fn finish(&mut self, context: &Context<'_>) -> Vec<Explained> {
        let records = self.decoder.finish(context);
        records.into_iter().map(|record| self.profile.explained(context, record)).collect()
    }
}

impl Profile {
    fn explained(&self, context: &Context<'_>, record: Record) -> Explained {
        // Only the first record of an entry carries its bytes; the others are made by the same rule.
        let rule = record.raw.as_deref().and_then(|raw| {
            let line = Line { bytes: raw, file: None, number: 0, delivery_key: "" };
            self.entry(context, &line, 1).1
        });
        let columns = record.to_json();
        let rule = rule.and_then(|index| self.rules.get(index));
        let shown = |name: &str| columns.get(name).map(plain);
        let mut fields = Vec::new();
        for field in rule.iter().flat_map(|rule| &rule.fields).filter(|_| record.kind != Kind::Rejected) {
            let column = match field.name {
                "time" => Some(chrono::DateTime::from_timestamp_nanos(record.time_unix_nano).to_rfc3339()),
                "duration" => record.duration_nano.map(|nano| format!("{nano} ns")),
                name => shown(name),
            };
            fields.push(FieldShown { name: field.name.into(), from: field.extract.said.clone(), value: column });
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
