//! The TOML of a profile as it is written; what the words mean is checked in [`super::compile`].
//!
//! Not here: defaults that depend on each other, regular expressions, names of columns.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize as DeriveDeserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

/// Text with its place.
pub(super) type Text = Spanned<String>;

/// A whole profile.
#[derive(Debug, DeriveDeserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
    pub(super) name: Text,
    pub(super) version: u32,
    pub(super) title: String,
    pub(super) shape: String,
    pub(super) seen_live: bool,
    pub(super) source_kind: Text,
    pub(super) format: Text,
    pub(super) template: Option<Text>,
    #[serde(default)]
    pub(super) variables: Table<Text>,
    #[serde(default)]
    pub(super) columns: Vec<Text>,
    pub(super) entry_start: Option<Text>,
    #[serde(default)]
    pub(super) equals_in_values: bool,
    #[serde(default)]
    pub(super) absent: Vec<String>,
    #[serde(default)]
    pub(super) recognise: RecogniseSpec,
    #[serde(default)]
    pub(super) expand: Vec<ExpandSpec>,
    #[serde(default)]
    pub(super) fields: Table<ExtractSpec>,
    #[serde(default)]
    pub(super) attributes: Table<ExtractSpec>,
    #[serde(default)]
    pub(super) key: Vec<KeySpec>,
    #[serde(default)]
    pub(super) required: Vec<Text>,
    #[serde(default, rename = "rule")]
    pub(super) rules: Vec<RuleSpec>,
}

/// `[recognise]`
#[derive(Debug, Default, DeriveDeserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RecogniseSpec {
    pub(super) members: Vec<String>,
    pub(super) priority: i32,
    pub(super) never: bool,
}

/// `[[expand]]`
#[derive(Debug, DeriveDeserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpandSpec {
    pub(super) from: Text,
    #[serde(rename = "as")]
    pub(super) how: Text,
    #[serde(rename = "match")]
    pub(super) pattern: Option<Text>,
    #[serde(default)]
    pub(super) columns: Vec<Text>,
    pub(super) into: Option<Text>,
}

/// `[[rule]]`
#[derive(Debug, DeriveDeserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleSpec {
    pub(super) name: Text,
    pub(super) kind: Text,
    #[serde(default)]
    pub(super) when: Table<ConditionSpec>,
    #[serde(default)]
    pub(super) capture: Vec<CaptureSpec>,
    pub(super) each: Option<Text>,
    #[serde(default)]
    pub(super) expand: Vec<ExpandSpec>,
    #[serde(default, rename = "continue")]
    pub(super) goes_on: bool,
    #[serde(default)]
    pub(super) fields: Table<ExtractSpec>,
    #[serde(default)]
    pub(super) attributes: Table<ExtractSpec>,
    #[serde(default)]
    pub(super) key: Vec<KeySpec>,
    #[serde(default)]
    pub(super) required: Vec<Text>,
}

/// `[[rule.capture]]`
#[derive(Debug, DeriveDeserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaptureSpec {
    pub(super) from: Text,
    #[serde(rename = "match")]
    pub(super) pattern: Text,
}

/// `[[key]]`
#[derive(Debug, DeriveDeserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeySpec {
    pub(super) kind: Text,
    pub(super) scope: Option<ExtractSpec>,
    pub(super) value: ExtractSpec,
}

/// Where a value comes from: a path, or a table that says more.
#[derive(Debug, Default, DeriveDeserialize)]
#[serde(deny_unknown_fields, default, remote = "Self")]
pub(super) struct ExtractSpec {
    pub(super) path: Option<Text>,
    pub(super) paths: Vec<Text>,
    #[serde(rename = "const")]
    pub(super) constant: Option<Scalar>,
    pub(super) template: Option<Text>,
    #[serde(rename = "match")]
    pub(super) pattern: Option<Text>,
    pub(super) map: Table<Scalar>,
    pub(super) default: Option<Scalar>,
    pub(super) unit: Option<Text>,
    pub(super) format: Option<Text>,
    pub(super) zone: Option<Text>,
    pub(super) stamped: Option<Text>,
    pub(super) precision: Option<Text>,
    pub(super) split: Vec<Text>,
    pub(super) sha256: bool,
    pub(super) url_decode: bool,
    pub(super) lower: bool,
    pub(super) join: Option<Text>,
}

impl<'de> Deserialize<'de> for ExtractSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = ExtractSpec;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path or a table")
            }
            fn visit_str<E: Error>(self, path: &str) -> Result<ExtractSpec, E> {
                // The place is that of the member; the compiler reports it there.
                Ok(ExtractSpec { path: Some(Spanned::new(0..0, path.into())), ..ExtractSpec::default() })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ExtractSpec, A::Error> {
                ExtractSpec::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// What a value must be.
#[derive(Debug, Default, DeriveDeserialize)]
#[serde(deny_unknown_fields, default, remote = "Self")]
pub(super) struct ConditionSpec {
    pub(super) present: Option<bool>,
    pub(super) any: Vec<Scalar>,
    pub(super) not: Vec<Scalar>,
    pub(super) prefix: Option<String>,
    pub(super) suffix: Option<String>,
    pub(super) contains: Option<String>,
    pub(super) matches: Option<Text>,
}

impl<'de> Deserialize<'de> for ConditionSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Either {
            fn one<E>(self, text: String) -> Result<ConditionSpec, E> {
                Ok(ConditionSpec { any: vec![Scalar(text)], ..ConditionSpec::default() })
            }
        }
        impl<'de> Visitor<'de> for Either {
            type Value = ConditionSpec;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value, a list of values or a table")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<ConditionSpec, E> {
                self.one(text.into())
            }
            fn visit_bool<E: Error>(self, value: bool) -> Result<ConditionSpec, E> {
                self.one(value.to_string())
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<ConditionSpec, E> {
                self.one(value.to_string())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<ConditionSpec, A::Error> {
                let mut any = Vec::new();
                while let Some(item) = items.next_element()? {
                    any.push(item);
                }
                Ok(ConditionSpec { any, ..ConditionSpec::default() })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ConditionSpec, A::Error> {
                ConditionSpec::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Text, number or boolean, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scalar(pub(super) String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, number or boolean")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.into()))
            }
            fn visit_bool<E: Error>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// A TOML table whose keys keep their places.
#[derive(Debug)]
pub(super) struct Table<V>(pub(super) Vec<(Text, V)>);

impl<V> Default for Table<V> {
    fn default() -> Self {
        Table(Vec::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Table<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Table<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Table<V>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Table(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}
