//! The configuration file of the Kafka source.
//!
//! Invariants
//! - a member that is not known is an error; all mistakes of values are told together
//! - properties that would break what this source promises are refused, with the reason ([`RESERVED`])
//! - no error text and no `Debug` output holds the value of a property: it may be a secret
//!
//! Not here: what librdkafka thinks of a property (`kafka::client`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use threadline_schemas::decode::otlp::Signal;
use threadline_schemas::decode::profile::Catalogue;
use threadline_schemas::decode::recognise::Format;

/// Longest name of a topic, as Kafka has it.
const TOPIC_CHARS_MAX: usize = 249;

/// Properties of librdkafka that are not the user's to set, and why.
pub const RESERVED: &[(&str, &str)] = &[
    ("group.id", "it is `group`, because the positions kept here bear its name"),
    ("enable.auto.commit", "positions are committed once the records are durable"),
    ("enable.auto.offset.store", "positions are committed once the records are durable"),
    (
        "auto.offset.reset",
        "a position that the topic does not have any more becomes a gap record, never a silent reset",
    ),
    ("enable.partition.eof", "it would be taken for an error"),
    ("statistics.interval.ms", "the lag is read from the statistics"),
    ("plugin.library.paths", "no foreign code is loaded"),
];

/// What to read, and how.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// Consumer group. One group belongs to one data directory, or to one server that is sent to.
    pub group: String,
    /// Where a partition begins that this group has never read. Default: its earliest message.
    #[serde(default)]
    pub start: Start,
    /// Name of the cluster in ids and positions. Default: the id that the cluster gives itself.
    pub cluster: Option<String>,
    /// Topic for messages that cannot be understood; without it they are kept as `rejected` records only.
    pub dead_letter_topic: Option<String>,
    /// Properties of librdkafka, by their own names.
    pub librdkafka: BTreeMap<String, Property>,
    /// Topics.
    #[serde(rename = "topic")]
    pub topics: Vec<TopicConfig>,
}

/// Where a partition begins that was never read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With the earliest message that is there.
    #[default]
    Earliest,
    /// With what comes from now on.
    Latest,
}

/// One topic.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicConfig {
    /// Its name.
    pub name: String,
    /// How its messages are read: a built-in format or a profile.
    #[serde(rename = "as")]
    pub format: String,
    /// For OTLP in protobuf: `logs`, `traces` or `metrics`. Default: what the name of the topic says.
    pub signal: Option<String>,
}

/// The value of a property, in the file or elsewhere.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub enum Property {
    /// In the file.
    Text(String),
    /// A number.
    Number(i64),
    /// true or false.
    Bool(bool),
    /// In a file of its own, whose last line break does not count.
    File {
        /// Its path.
        file: PathBuf,
    },
    /// In an environment variable.
    Env {
        /// Its name.
        env: String,
    },
}

impl fmt::Debug for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Property::File { file } => write!(f, "file {}", file.display()),
            Property::Env { env } => write!(f, "env {env}"),
            Property::Text(_) | Property::Number(_) | Property::Bool(_) => f.write_str("(not shown)"),
        }
    }
}

/// Why a configuration cannot be used. Never holds the value of a property.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not TOML, or not of this shape.
    #[error("line {line}: {what}")]
    Shape {
        /// Where, from 1.
        line: usize,
        /// What is wrong, without the text of the line.
        what: String,
    },
    /// Values do not fit.
    #[error("{}", .0.join("; "))]
    Values(Vec<String>),
    /// A property stands in a file that cannot be read.
    #[error("cannot read {}, which holds {property}", path.display())]
    File {
        /// Name of the property.
        property: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A property stands in an environment variable that is not set, or not text.
    #[error("the environment variable {variable}, which holds {property}, is not set")]
    Env {
        /// Name of the property.
        property: String,
        /// Name of the variable.
        variable: String,
    },
}

/// A topic whose format is known.
#[derive(Debug, Clone)]
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) format: Format,
    pub(super) signal: Option<Signal>,
}

impl KafkaConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(text: &str) -> Result<KafkaConfig, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let before = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text.as_bytes()[..before].iter().filter(|byte| **byte == b'\n').count() + 1;
            ConfigError::Shape { line, what: error.message().to_string() }
        })
    }

    /// The topics with their formats.
    ///
    /// # Errors
    /// [`ConfigError::Values`] with everything that does not fit.
    pub(super) fn topics(&self, catalogue: &Catalogue) -> Result<Vec<Topic>, ConfigError> {
        let mut wrong = Vec::new();
        if self.group.is_empty() {
            wrong.push("group is empty".to_string());
        }
        if !self.librdkafka.contains_key("bootstrap.servers") {
            wrong.push("librdkafka.\"bootstrap.servers\" is missing".to_string());
        }
        for (name, why) in RESERVED.iter().filter(|(name, _)| self.librdkafka.contains_key(*name)) {
            wrong.push(format!("librdkafka.\"{name}\" cannot be set: {why}"));
        }
        if self.topics.is_empty() {
            wrong.push("there is no [[topic]]".to_string());
        }
        if let Some(name) = self.dead_letter_topic.as_deref().filter(|name| !is_topic(name)) {
            wrong.push(format!("dead_letter_topic {name:?} is not a topic name"));
        }
        let mut seen = BTreeSet::new();
        let mut topics = Vec::new();
        for topic in &self.topics {
            let name = &topic.name;
            if !is_topic(name) {
                wrong.push(format!("topic {name:?} is not a topic name"));
            }
            if !seen.insert(name) {
                wrong.push(format!("topic {name:?} is there twice"));
            }
            if self.dead_letter_topic.as_ref() == Some(name) {
                wrong.push(format!("topic {name:?} is the dead-letter topic: its messages would go round in circles"));
            }
            let Some(format) = Format::named(&topic.format, catalogue) else {
                wrong.push(format!(
                    "topic {name:?}: no format or profile is called {:?}, see `threadline source list`",
                    topic.format
                ));
                continue;
            };
            let given = topic.signal.as_deref();
            let signal = given.map_or_else(|| signal_of(name), signal_of);
            if given.is_some() && signal.is_none() || format == Format::OtlpProtobuf && signal.is_none() {
                wrong.push(format!("topic {name:?}: signal must be logs, traces or metrics"));
            }
            topics.push(Topic { name: name.clone(), format, signal });
        }
        if wrong.is_empty() { Ok(topics) } else { Err(ConfigError::Values(wrong)) }
    }

    /// The properties with their values.
    ///
    /// # Errors
    /// When one stands in a file or variable that cannot be read.
    pub(super) fn properties(&self) -> Result<Vec<(&str, String)>, ConfigError> {
        self.librdkafka.iter().map(|(name, property)| Ok((name.as_str(), property.value(name)?))).collect()
    }
}

impl Property {
    fn value(&self, name: &str) -> Result<String, ConfigError> {
        match self {
            Property::Text(text) => Ok(text.clone()),
            Property::Number(number) => Ok(number.to_string()),
            Property::Bool(is) => Ok(is.to_string()),
            Property::File { file } => {
                let text = std::fs::read_to_string(file).map_err(|source| {
                    let path = file.clone();
                    ConfigError::File { property: name.into(), path, source }
                })?;
                Ok(text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text)).unwrap_or(&text).into())
            }
            Property::Env { env } => {
                std::env::var(env).map_err(|_| ConfigError::Env { property: name.into(), variable: env.clone() })
            }
        }
    }
}

fn is_topic(name: &str) -> bool {
    let is_named = (1..=TOPIC_CHARS_MAX).contains(&name.len()) && name != "." && name != "..";
    is_named && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Also `otlp_spans`, as the exporter of the OpenTelemetry Collector calls its topic.
fn signal_of(name: &str) -> Option<Signal> {
    let is_spans = name.split(['-', '.', '_']).any(|word| word == "spans");
    Signal::of_path(name).or(is_spans.then_some(Signal::Traces))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    const EXAMPLE: &str = include_str!("example.toml");

    fn mistakes(text: &str) -> String {
        let config = KafkaConfig::parse(text).map_err(|error| error.to_string());
        let topics = config.and_then(|c| c.topics(&Catalogue::shipped()).map_err(|error| error.to_string()));
        topics.map_or_else(|error| error, |topics| format!("{} topics", topics.len()))
    }

    #[test]
    fn the_worked_example_is_read() {
        let config = KafkaConfig::parse(EXAMPLE).unwrap();
        let topics = config.topics(&Catalogue::shipped()).unwrap();
        let shown: Vec<_> = topics.iter().map(|topic| (&*topic.name, topic.format.as_str(), topic.signal)).collect();
        assert_eq!(
            shown,
            [
                ("mcp.gateway.frames", "mcp-gateway-frames", None),
                ("agent.events", "native", None),
                ("otlp_spans", "otlp-protobuf", Some(Signal::Traces)),
            ]
        );
    }

    #[test]
    fn mistakes_are_told_together_and_values_are_not() {
        let text = r#"
            group = ""
            dead_letter_topic = "a"
            [librdkafka]
            "group.id" = "s3cret"
            "sasl.password" = "s3cret"
            [[topic]]
            name = "a"
            as = "native"
            [[topic]]
            name = "a b"
            as = "nothing"
            [[topic]]
            name = "p"
            as = "otlp-protobuf"
        "#;
        let said = mistakes(text).replace("; ", "\n");
        assert!(!said.contains("s3cret"));
        expect![[r#"
            group is empty
            librdkafka."bootstrap.servers" is missing
            librdkafka."group.id" cannot be set: it is `group`, because the positions kept here bear its name
            topic "a" is the dead-letter topic: its messages would go round in circles
            topic "a b" is not a topic name
            topic "a b": no format or profile is called "nothing", see `threadline source list`
            topic "p": signal must be logs, traces or metrics"#]]
        .assert_eq(&said);
        let config = KafkaConfig::parse(text).unwrap();
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn what_is_no_configuration_is_told_by_line_without_its_text() {
        for (text, expected) in [
            ("group = \"g\"\ncolour = \"s3cret\"\n", "unknown field `colour`"),
            ("group = \"g\"\n[librdkafka]\n\"sasl.password\" = [\"s3cret\"]\n", "untagged enum Property"),
            ("group = \"s3cret\n", "line 1"),
            ("group = \"g\"\nstart = \"s3cret\"\n[librdkafka]\n", "line 2"),
        ] {
            let said = mistakes(text);
            assert!(said.contains(expected), "{said}");
            assert!(!said.contains("s3cret") || said.contains("unknown variant"), "{said}");
        }
    }

    #[test]
    fn a_secret_may_stand_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "s3cret \r\n").unwrap();
        let text = format!(
            "group = \"g\"\ntopic = []\n[librdkafka]\n\"sasl.password\" = {{ file = {file:?} }}\n\"session.timeout.ms\" = 6000\n"
        );
        let config = KafkaConfig::parse(&text).unwrap();
        assert_eq!(
            config.properties().unwrap(),
            [("sasl.password", "s3cret ".to_string()), ("session.timeout.ms", "6000".to_string())]
        );
        std::fs::remove_file(&file).unwrap();
        assert!(config.properties().unwrap_err().to_string().ends_with("which holds sasl.password"));
        let absent = Property::Env { env: "THREADLINE_NO_SUCH_VARIABLE".into() };
        assert!(absent.value("sasl.password").unwrap_err().to_string().contains("is not set"));
    }
}
