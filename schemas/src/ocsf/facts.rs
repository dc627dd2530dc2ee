//! What a version of OCSF says of the classes and objects that we use: attributes, types, enums,
//! profiles, constraints.
//!
//! The facts are text files beside this one, written by `facts/compact.py` from the schema as its
//! own compiler gives it; they are read once per version and process.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::OnceLock;

use serde_json::Value;

macro_rules! versions {
    ($($variant:ident = $text:literal,)*) => {
        /// A released version of OCSF that events can be written in, oldest first.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Version { $(#[doc = $text] $variant,)* }

        impl Version {
            /// Every version, oldest first.
            pub const ALL: &'static [Version] = &[$(Version::$variant,)*];

            /// The version as `metadata.version` has it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Version::$variant => $text,)* }
            }

            /// Its facts.
            pub fn schema(self) -> &'static Schema {
                match self {
                    $(Version::$variant => {
                        static SCHEMA: OnceLock<Schema> = OnceLock::new();
                        SCHEMA.get_or_init(|| read(include_str!(concat!("facts/", $text, ".txt"))))
                    })*
                }
            }
        }
    };
}

versions! {
    V1_1 = "1.1.0",
    V1_3 = "1.3.0",
    V1_5 = "1.5.0",
    V1_8 = "1.8.0",
}

impl Version {
    /// The version that events are made in; the others are fitted from it.
    pub const NEWEST: Version = Version::V1_8;

    /// The version that `text` names.
    pub fn parse(text: &str) -> Option<Version> {
        Version::ALL.iter().copied().find(|version| version.as_str() == text)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One version of the schema, cut down to what our events use.
#[derive(Debug, Default)]
pub struct Schema {
    /// `metadata.version`.
    pub version: &'static str,
    /// Type name -> the type it is made of (`ip_t` -> `string_t`).
    pub types: BTreeMap<&'static str, &'static str>,
    /// Names of all profiles.
    pub profiles: BTreeSet<&'static str>,
    /// By `class_uid`.
    pub classes: BTreeMap<i64, Class>,
    /// By object name.
    pub objects: BTreeMap<&'static str, Shape>,
}

/// An event class.
#[derive(Debug)]
pub struct Class {
    /// `class_name`.
    pub caption: &'static str,
    /// `category_uid`.
    pub category_uid: i64,
    /// `category_name`.
    pub category: &'static str,
    /// Profiles that may be applied.
    pub profiles: BTreeSet<&'static str>,
    /// Its attributes and constraints.
    pub shape: Shape,
}

/// The attributes and constraints of a class or object.
#[derive(Debug, Default)]
pub struct Shape {
    /// By name.
    pub attributes: BTreeMap<&'static str, Attribute>,
    /// Those that must be there, and the profiles of which one must be applied for that; empty: always.
    pub required: Vec<(&'static str, Vec<&'static str>)>,
    /// Enums, and the attribute that holds the caption of their value.
    pub labelled: Vec<(&'static str, &'static str)>,
    /// Constraints over attribute names.
    pub constraints: Vec<(Constraint, Vec<&'static str>)>,
}

/// How many of the named attributes must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Constraint {
    /// One or more.
    AtLeastOne,
    /// Exactly one.
    JustOne,
}

/// One attribute.
#[derive(Debug)]
pub struct Attribute {
    /// Its type.
    pub kind: AttributeType,
    /// Whether it must be there.
    pub is_required: bool,
    /// Whether it is a list.
    pub is_array: bool,
    /// Profiles of which one must be applied; empty: always there.
    pub profiles: Vec<&'static str>,
    /// The attribute that holds the caption of this enum's value.
    pub sibling: Option<&'static str>,
    /// Allowed values and their captions; empty: any.
    pub values: BTreeMap<&'static str, &'static str>,
}

/// The type of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributeType {
    /// A named object; `object` is free-form.
    Object(&'static str),
    /// A scalar type by name, `json_t` included.
    Scalar(&'static str),
}

impl Attribute {
    /// Whether the attribute exists under these profiles.
    pub fn is_active(&self, profiles: &BTreeSet<&str>) -> bool {
        is_active(&self.profiles, profiles)
    }

    /// The caption of a value of this enum; `None` when it is not one of its values.
    pub fn caption(&self, value: &Value) -> Option<&'static str> {
        match value {
            Value::String(text) => self.values.get(text.as_str()).copied(),
            Value::Number(number) => {
                // Every event has many; none is worth an allocation.
                let mut digits = [0; 24];
                let mut left = &mut digits[..];
                write!(left, "{number}").ok()?;
                let length = 24 - left.len();
                self.values.get(std::str::from_utf8(&digits[..length]).ok()?).copied()
            }
            _ => None,
        }
    }
}

/// Whether one of these profiles is applied, or none is needed.
pub(super) fn is_active(needed: &[&str], applied: &BTreeSet<&str>) -> bool {
    needed.is_empty() || needed.iter().any(|profile| applied.contains(profile))
}

/// Reads a facts file; they are part of the binary and checked by a test, so a line that is not
/// understood is left out rather than an error.
fn read(text: &'static str) -> Schema {
    enum Owner {
        Class(i64),
        Object(&'static str),
    }
    let mut schema = Schema::default();
    let mut owner = None;
    for line in text.lines() {
        let mut fields = line.split('\t');
        let mut next = || fields.next().unwrap_or_default();
        match next() {
            "version" => schema.version = next(),
            "type" => {
                let name = next();
                schema.types.insert(name, next());
            }
            "profile" => {
                schema.profiles.insert(next());
            }
            "class" => {
                let Ok(uid) = next().parse() else { continue };
                let (caption, category_uid, category) = (next(), next().parse().unwrap_or(0), next());
                let profiles = list(next()).collect();
                let shape = Shape { constraints: constraints(next()), ..Shape::default() };
                schema.classes.insert(uid, Class { caption, category_uid, category, profiles, shape });
                owner = Some(Owner::Class(uid));
            }
            "object" => {
                let name = next();
                let shape = Shape { constraints: constraints(next()), ..Shape::default() };
                schema.objects.insert(name, shape);
                owner = Some(Owner::Object(name));
            }
            "-" => {
                let name = next();
                let attribute = attribute([next(), next(), next(), next(), next()]);
                let shape = match owner {
                    Some(Owner::Class(uid)) => schema.classes.get_mut(&uid).map(|class| &mut class.shape),
                    Some(Owner::Object(name)) => schema.objects.get_mut(name),
                    None => None,
                };
                if let Some(shape) = shape {
                    if attribute.is_required {
                        shape.required.push((name, attribute.profiles.clone()));
                    }
                    let is_enum = !attribute.values.is_empty() && !attribute.is_array;
                    shape.labelled.extend(attribute.sibling.filter(|_| is_enum).map(|sibling| (name, sibling)));
                    shape.attributes.insert(name, attribute);
                }
            }
            _ => {}
        }
    }
    schema
}

fn attribute([kind, flags, profiles, sibling, values]: [&'static str; 5]) -> Attribute {
    Attribute {
        kind: kind.strip_prefix("object:").map_or(AttributeType::Scalar(kind), AttributeType::Object),
        is_required: flags.contains('R'),
        is_array: flags.contains('A'),
        profiles: list(profiles).collect(),
        sibling: (!sibling.is_empty()).then_some(sibling),
        values: values.split('|').filter_map(|value| value.split_once('=')).collect(),
    }
}

fn constraints(text: &'static str) -> Vec<(Constraint, Vec<&'static str>)> {
    let rules = text.split(';').filter_map(|rule| rule.split_once('='));
    let known = rules.filter_map(|(rule, names)| match rule {
        "at_least_one" => Some((Constraint::AtLeastOne, list(names).collect())),
        "just_one" => Some((Constraint::JustOne, list(names).collect())),
        _ => None,
    });
    known.collect()
}

fn list(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split(',').filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_is_read_whole() {
        for &version in Version::ALL {
            let schema = version.schema();
            assert_eq!(schema.version, version.as_str());
            assert_eq!(Version::parse(schema.version), Some(version));
            let api = &schema.classes[&6003];
            assert_eq!((api.caption, api.category_uid), ("API Activity", 6));
            assert!(api.shape.attributes["actor"].is_required);
            assert_eq!(api.shape.attributes["status_id"].values["2"], "Failure");
        }
        let lines = |text: &str| text.lines().filter(|line| line.starts_with('-')).count();
        let newest = Version::NEWEST.schema();
        let read: usize = newest.classes.values().map(|class| class.shape.attributes.len()).sum::<usize>()
            + newest.objects.values().map(|shape| shape.attributes.len()).sum::<usize>();
        assert_eq!(read, lines(include_str!("facts/1.8.0.txt")));
    }
}
