//! Where events go: one file per kind of receiver behind one small trait.
//!
//! A new kind of sink is a file here, a variant of [`Destination`], and a line in each of its functions.

pub mod elastic;
pub mod file;
pub mod kafka;
pub mod lake;
pub mod otlp;
pub mod splunk;
pub mod syslog;
pub mod webhook;

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;

use super::config::{Common, SinkConfig, said};
use super::event::Event;

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver has it, as firmly as its protocol can say.
    Delivered,
    /// The receiver refuses it for good; the reason holds no content.
    Rejected {
        /// Why.
        reason: String,
    },
    /// Not now; it is sent again.
    Later {
        /// Why.
        reason: String,
        /// When the receiver wants it again.
        after: Option<Duration>,
    },
}

/// A batch of which nothing is known to be delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// The receiver is away, busy, or does not let us in: all of it is sent again.
    #[error("{reason}")]
    Unavailable {
        /// Why; holds no content.
        reason: String,
        /// When the receiver wants it again.
        after: Option<Duration>,
    },
    /// The receiver refuses the batch for what is in it, without saying which event: it is halved until one event is
    /// left, which is rejected.
    #[error("{reason}")]
    Refused {
        /// Why; holds no content.
        reason: String,
    },
}

impl SinkError {
    /// The receiver is away.
    pub fn unavailable(reason: impl Into<String>) -> SinkError {
        SinkError::Unavailable { reason: reason.into(), after: None }
    }

    /// For a part of a batch of which other parts arrived: sent again, it fails first and alone.
    pub(super) fn into_later(self) -> Outcome {
        match self {
            SinkError::Unavailable { reason, after } => Outcome::Later { reason, after },
            SinkError::Refused { reason } => Outcome::Later { reason, after: None },
        }
    }
}

/// A receiver.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Delivers events, in order, and says of each what became of it. At most `batch_events` events and, unless one alone
    /// is larger, `batch_bytes` bytes. Called again with the events that are [`Outcome::Later`], before any other.
    ///
    /// Dropping the future midway (a stop) must leave the sink usable or unused: nothing of the batch counts as delivered.
    async fn deliver(&mut self, events: &[Event]) -> Result<Vec<Outcome>, SinkError>;

    /// Called when there is nothing to deliver, about twice a second, and once before the end.
    async fn idle(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// Where to, by the `type` of a `[[sink]]`.
#[derive(Debug, Clone)]
pub enum Destination {
    /// Files of JSON lines.
    File(file::FileConfig),
    /// Splunk HEC.
    Splunk(splunk::SplunkConfig),
    /// Elasticsearch or OpenSearch.
    Elastic(elastic::ElasticConfig),
    /// A signed webhook.
    Webhook(webhook::WebhookConfig),
    /// OpenTelemetry logs.
    Otlp(otlp::OtlpConfig),
    /// Parquet in the layout of Amazon Security Lake.
    Lake(lake::LakeConfig),
    /// Syslog over TLS or TCP.
    Syslog(syslog::SyslogConfig),
    /// A Kafka topic.
    Kafka(kafka::KafkaConfig),
}

impl Destination {
    /// Every `type`.
    pub const TYPES: &'static [&'static str] =
        &["file", "splunk_hec", "elasticsearch", "webhook", "otlp", "syslog", "security_lake", "kafka"];

    /// Its `type`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Destination::File(_) => "file",
            Destination::Splunk(_) => "splunk_hec",
            Destination::Elastic(_) => "elasticsearch",
            Destination::Webhook(_) => "webhook",
            Destination::Otlp(_) => "otlp",
            Destination::Syslog(_) => "syslog",
            Destination::Lake(_) => "security_lake",
            Destination::Kafka(_) => "kafka",
        }
    }

    /// Reads the keys of a type; relative paths are below `folder`.
    pub(super) fn parse(kind: &str, table: toml::Table, folder: &Path) -> Result<Destination, String> {
        match kind {
            "file" => Ok(Destination::File(own::<file::FileConfig>(table)?.within(folder))),
            "splunk_hec" => {
                let mut config = own::<splunk::SplunkConfig>(table)?;
                config.token = config.token.within(folder);
                Ok(Destination::Splunk(config))
            }
            "elasticsearch" => {
                let mut config = own::<elastic::ElasticConfig>(table)?;
                config.api_key = config.api_key.map(|secret| secret.within(folder));
                config.password = config.password.map(|secret| secret.within(folder));
                Ok(Destination::Elastic(config))
            }
            "webhook" => {
                let mut config = own::<webhook::WebhookConfig>(table)?;
                config.secret = config.secret.within(folder);
                config.token = config.token.map(|secret| secret.within(folder));
                Ok(Destination::Webhook(config))
            }
            "otlp" => {
                let mut config = own::<otlp::OtlpConfig>(table)?;
                config.token = config.token.map(|secret| secret.within(folder));
                Ok(Destination::Otlp(config))
            }
            "kafka" => Ok(Destination::Kafka(own::<kafka::KafkaConfig>(table)?.within(folder))),
            "security_lake" => {
                let mut config = own::<lake::LakeConfig>(table)?;
                config.path = config.path.map(|path| folder.join(path));
                config.access_key_id = config.access_key_id.map(|secret| secret.within(folder));
                config.secret_access_key = config.secret_access_key.map(|secret| secret.within(folder));
                Ok(Destination::Lake(config))
            }
            "syslog" => {
                let mut config = own::<syslog::SyslogConfig>(table)?;
                config.client_cert = config.client_cert.map(|path| folder.join(path));
                config.client_key = config.client_key.map(|path| folder.join(path));
                Ok(Destination::Syslog(config))
            }
            _ => Err(format!("type {kind:?} is none of {}", Destination::TYPES.join(", "))),
        }
    }

    /// What a type has in the place of the common defaults.
    pub(super) fn defaults(kind: &str) -> toml::Table {
        let defaults: &[(&str, i64)] = match kind {
            // Many receivers cut at 8 KiB, the header included.
            "syslog" => &[("event_bytes_max", 7680)],
            // An indexer acknowledges after seconds, whatever the size.
            "splunk_hec" => &[("batch_events", 20_000), ("batch_bytes", 16 << 20)],
            // Readers of Parquet want few large files.
            "security_lake" => &[("batch_events", 20_000), ("batch_bytes", 64 << 20), ("linger_ms", 300_000)],
            _ => &[],
        };
        defaults.iter().map(|(key, value)| ((*key).to_string(), (*value).into())).collect()
    }

    /// What is wrong with the configuration beyond its form.
    pub(super) fn check(&self, common: &Common) -> Vec<String> {
        match self {
            Destination::File(config) => config.check(),
            Destination::Splunk(config) => config.check(common),
            Destination::Elastic(config) => config.check(common),
            Destination::Webhook(config) => config.check(common),
            Destination::Otlp(config) => config.check(common),
            Destination::Syslog(config) => config.check(common),
            Destination::Lake(config) => config.check(common),
            Destination::Kafka(config) => config.check(common),
        }
    }

    /// Makes the sink ready; connects to nothing yet.
    ///
    /// # Errors
    /// A reason: a secret or certificate that cannot be read, a folder that cannot be made.
    pub fn open(&self, config: &SinkConfig) -> Result<Box<dyn Sink>, String> {
        let common = &config.common;
        match self {
            Destination::File(own) => Ok(Box::new(file::FileSink::open(own, &config.name)?)),
            Destination::Splunk(own) => Ok(Box::new(splunk::SplunkSink::open(own, common)?)),
            Destination::Elastic(own) => Ok(Box::new(elastic::ElasticSink::open(own, common)?)),
            Destination::Webhook(own) => Ok(Box::new(webhook::WebhookSink::open(own, common)?)),
            Destination::Otlp(own) => Ok(Box::new(otlp::OtlpSink::open(own, common)?)),
            Destination::Lake(own) => Ok(Box::new(lake::LakeSink::open(own, common)?)),
            Destination::Kafka(own) => Ok(Box::new(kafka::KafkaSink::open(own)?)),
            Destination::Syslog(own) => Ok(Box::new(syslog::SyslogSink::open(own, common)?)),
        }
    }
}

fn own<T: DeserializeOwned>(table: toml::Table) -> Result<T, String> {
    table.try_into().map_err(|error: toml::de::Error| said(&error))
}
