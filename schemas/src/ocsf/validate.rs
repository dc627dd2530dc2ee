//! Checks an event against the facts of its version, as strictly as the schema's own rules allow.
//!
//! Errors are what a consumer may refuse: missing and unknown attributes at any depth, profiles
//! unknown or not declared, types, ranges, formats, enums, labels that disagree with their ids,
//! constraints, `type_uid`, times, observables, explicit nulls, empty objects.
//!
//! Not here: recommended attributes, URL grammar, duplicate keys (events are made, not parsed).

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::facts::{Attribute, AttributeType, Class, Constraint, Schema, Shape, Version, is_active};

/// Plausible epoch milliseconds: the years 2000 to 2100.
pub(super) const TIME_MS: std::ops::RangeInclusive<i64> = 946_684_800_000..=4_102_444_800_000;

/// One thing wrong with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where, as `resources[0].name`; `$` for the whole event.
    pub path: String,
    /// What, in a few words that hold no value from the event.
    pub reason: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

/// Everything wrong with `event` as an event of `version`; empty when it is valid.
pub fn validate(event: &Value, version: Version) -> Vec<Violation> {
    let mut check = Check { schema: version.schema(), active: BTreeSet::new(), found: Vec::new() };
    check.event(event);
    check.found
}

/// Where in an event one is; it becomes text only when something is wrong there, because every event is checked.
#[derive(Clone, Copy)]
enum At<'a> {
    Event,
    Member(&'a At<'a>, &'a str),
    Item(&'a At<'a>, usize),
}

impl std::fmt::Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            At::Event => f.write_str("$"),
            At::Member(At::Event, name) => f.write_str(name),
            At::Member(parent, name) => write!(f, "{parent}.{name}"),
            At::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

const fn root(name: &str) -> At<'_> {
    At::Member(&At::Event, name)
}

struct Check<'e> {
    schema: &'static Schema,
    active: BTreeSet<&'e str>,
    found: Vec<Violation>,
}

impl<'e> Check<'e> {
    fn wrong(&mut self, at: At<'_>, reason: impl Into<String>) {
        self.found.push(Violation { path: at.to_string(), reason: reason.into() });
    }

    fn event(&mut self, event: &'e Value) {
        let Some(members) = event.as_object() else {
            return self.wrong(At::Event, "an event is an object");
        };
        let Some(class) =
            members.get("class_uid").and_then(Value::as_i64).and_then(|uid| self.schema.classes.get(&uid))
        else {
            return self.wrong(root("class_uid"), "not a class of the facts");
        };
        self.profiles(event, class);
        self.shape(members, &class.shape, At::Event);
        self.identity(members, class);
        self.times(members);
        self.observables(event);
    }

    fn profiles(&mut self, event: &'e Value, class: &Class) {
        let declared = event.pointer("/metadata/profiles").and_then(Value::as_array);
        for (index, profile) in declared.into_iter().flatten().enumerate() {
            let Some(profile) = profile.as_str() else { continue };
            let profiles = root("metadata.profiles");
            let at = At::Item(&profiles, index);
            if !self.schema.profiles.contains(profile) {
                self.wrong(at, "no such profile");
            } else if !class.profiles.contains(profile) {
                self.wrong(at, "does not apply to this class");
            } else if !self.active.insert(profile) {
                self.wrong(at, "listed twice");
            }
        }
    }

    fn shape(&mut self, members: &'e Map<String, Value>, shape: &'static Shape, at: At<'_>) {
        for (name, profiles) in &shape.required {
            if is_active(profiles, &self.active) && !members.contains_key(*name) {
                self.wrong(At::Member(&at, name), "required");
            }
        }
        for (name, value) in members {
            let at = At::Member(&at, name);
            match shape.attributes.get(name.as_str()) {
                None => self.wrong(at, "not an attribute here"),
                Some(attribute) => {
                    if !attribute.is_active(&self.active) {
                        self.wrong(at, "belongs to a profile that is not declared");
                    }
                    self.attribute(attribute, value, at);
                }
            }
        }
        self.labels(members, shape, at);
        for (rule, names) in &shape.constraints {
            let have = names.iter().filter(|name| is_present(members, name)).count();
            let holds = match rule {
                Constraint::AtLeastOne => have >= 1,
                Constraint::JustOne => have == 1,
            };
            if !holds {
                self.wrong(at, format!("needs {} of {}", if have == 0 { "one" } else { "only one" }, names.join(", ")));
            }
        }
    }

    fn attribute(&mut self, attribute: &'static Attribute, value: &'e Value, at: At<'_>) {
        if attribute.is_array {
            let Some(items) = value.as_array() else { return self.wrong(at, "must be a list") };
            if items.is_empty() && attribute.is_required {
                self.wrong(at, "required and empty");
            }
            for (index, item) in items.iter().enumerate() {
                self.value(attribute, item, At::Item(&at, index));
            }
        } else {
            if attribute.is_required && value.as_str() == Some("") {
                self.wrong(at, "required and empty");
            }
            self.value(attribute, value, at);
        }
    }

    fn value(&mut self, attribute: &'static Attribute, value: &'e Value, at: At<'_>) {
        if value.is_null() {
            return self.wrong(at, "null; leave it out");
        }
        match attribute.kind {
            AttributeType::Scalar("json_t") => {}
            AttributeType::Scalar(kind) => self.scalar(attribute, kind, value, at),
            AttributeType::Object(name) => {
                let Some(members) = value.as_object() else { return self.wrong(at, "must be an object") };
                match self.schema.objects.get(name) {
                    None => self.wrong(at, "its object is not in the facts"),
                    Some(shape) if shape.attributes.is_empty() => {}
                    Some(_) if members.is_empty() => self.wrong(at, "an empty object says nothing"),
                    Some(shape) => self.shape(members, shape, at),
                }
            }
        }
    }

    fn scalar(&mut self, attribute: &'static Attribute, kind: &str, value: &Value, at: At<'_>) {
        let base = self.schema.types.get(kind).copied().unwrap_or(kind);
        let fits = match base {
            "boolean_t" => value.is_boolean(),
            "integer_t" | "long_t" => value.is_i64(),
            "float_t" => value.is_number(),
            _ => value.is_string(),
        };
        if !fits {
            return self.wrong(at, format!("must be {kind}"));
        }
        // Up to 1.3.0 a host name has no underscores.
        let is_old_name = kind == "hostname_t" && matches!(self.schema.version, "1.1.0" | "1.3.0");
        let has_underscore = value.as_str().is_some_and(|text| text.contains('_'));
        if !has_format(kind, value) || (is_old_name && has_underscore) {
            self.wrong(at, format!("is no {kind}"));
        }
        if !attribute.values.is_empty() && attribute.caption(value).is_none() {
            self.wrong(at, "not one of the enum's values");
        }
    }

    /// An enum's caption beside it must be the caption of its value; `Other` needs the source's own word.
    fn labels(&mut self, members: &Map<String, Value>, shape: &Shape, at: At<'_>) {
        for (name, sibling) in &shape.labelled {
            let (value, label) = (members.get(*name), members.get(*sibling).and_then(Value::as_str));
            let Some(attribute) = shape.attributes.get(name).filter(|_| value.is_some() || label.is_some()) else {
                continue;
            };
            let at = At::Member(&at, sibling);
            let Some(value) = value else {
                if attribute.is_active(&self.active) {
                    self.wrong(at, format!("given without {name}"));
                }
                continue;
            };
            let is_other = value.as_i64() == Some(99) || value.as_str() == Some("99");
            match (attribute.caption(value), label) {
                (Some("Other"), None) if is_other => self.wrong(at, "Other needs the source's own word"),
                (Some("Other"), Some("" | "Other" | "Unknown")) if is_other => {
                    self.wrong(at, "hides the source's own word")
                }
                (Some(caption), Some(label)) if !is_other && label != caption => {
                    self.wrong(at, "is not the caption of its id")
                }
                _ => {}
            }
        }
    }

    fn identity(&mut self, members: &Map<String, Value>, class: &Class) {
        let number = |name: &str| members.get(name).and_then(Value::as_i64);
        if let (Some(uid), Some(activity), Some(kind)) =
            (number("class_uid"), number("activity_id"), number("type_uid"))
            && uid.checked_mul(100).and_then(|uid| uid.checked_add(activity)) != Some(kind)
        {
            self.wrong(root("type_uid"), "is not class_uid * 100 + activity_id");
        }
        if number("category_uid").is_some_and(|category| category != class.category_uid) {
            self.wrong(root("category_uid"), "is not the category of the class");
        }
        if members.get("class_name").is_some_and(|name| name.as_str() != Some(class.caption)) {
            self.wrong(root("class_name"), "is not the caption of the class");
        }
        let version = members.get("metadata").and_then(|metadata| metadata.get("version")).and_then(Value::as_str);
        if version.is_some_and(|version| version != self.schema.version) {
            self.wrong(root("metadata.version"), "is not the version it is checked against");
        }
    }

    fn times(&mut self, members: &Map<String, Value>) {
        let number = |name: &str| members.get(name).and_then(Value::as_i64);
        if let (Some(start), Some(end)) = (number("start_time"), number("end_time")) {
            if end < start {
                self.wrong(root("end_time"), "is before start_time");
            } else if number("duration").is_some_and(|duration| duration != end - start) {
                self.wrong(root("duration"), "is not end_time - start_time");
            }
        }
    }

    /// `observables[].name` is a path of the event, and `value` the text there.
    fn observables(&mut self, event: &Value) {
        let observables = event.get("observables").and_then(Value::as_array);
        for (index, observable) in observables.into_iter().flatten().enumerate() {
            let (Some(name), Some(value)) = (observable["name"].as_str(), observable["value"].as_str()) else {
                continue;
            };
            if !any_at(event, name, &mut |found| found.as_str() == Some(value)) {
                self.wrong(At::Item(&root("observables"), index), "its value is not at its path");
            }
        }
    }
}

/// Whether `found` is true of a value at a dotted path, asked in order; a list stands for each of its items.
pub(super) fn any_at<'v>(value: &'v Value, path: &str, found: &mut dyn FnMut(&'v Value) -> bool) -> bool {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let Some(member) = value.get(name.trim_end_matches("[]")) else { return false };
    let mut step = |value: &'v Value| match rest {
        Some(rest) => any_at(value, rest, found),
        None => found(value),
    };
    match member {
        Value::Array(items) => items.iter().any(step),
        value => step(value),
    }
}

fn is_present(members: &Map<String, Value>, name: &str) -> bool {
    let (first, rest) = name.split_once('.').map_or((name, None), |(first, rest)| (first, Some(rest)));
    members.get(first).is_some_and(|value| match rest {
        None => !value.is_null(),
        Some(rest) => value.as_object().is_some_and(|members| is_present(members, rest)),
    })
}

fn has_format(kind: &str, value: &Value) -> bool {
    if kind == "timestamp_t" {
        return value.as_i64().is_some_and(|time| TIME_MS.contains(&time));
    }
    let Some(text) = value.as_str() else {
        return kind != "port_t" || value.as_i64().is_some_and(|port| (0..=65535).contains(&port));
    };
    match kind {
        "ip_t" => text.parse::<std::net::IpAddr>().is_ok(),
        "uuid_t" => uuid::Uuid::parse_str(text).is_ok() && text.len() == 36,
        "datetime_t" => chrono::DateTime::parse_from_rfc3339(text).is_ok(),
        "hostname_t" => is_hostname(text) || text.parse::<std::net::IpAddr>().is_ok(),
        "url_t" => is_url(text),
        _ => true,
    }
}

/// Letters, digits, hyphens and underscores in labels of at most 63, 253 in all.
pub(super) fn is_hostname(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(is_inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Something that no consumer stumbles over: not empty, no blanks, quotes or angle brackets.
pub(super) fn is_url(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | '"'))
}
