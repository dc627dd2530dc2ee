//! Clients of librdkafka: their settings, their bounds, and what their errors mean for the user.
//!
//! Invariants
//! - memory: librdkafka fetches ahead [`FETCH_AHEAD_KIB_MAX`] at most, in answers of [`FETCH_BYTES_MAX`] (an answer with one
//!   larger message is that much larger, up to [`ANSWER_BYTES_MAX`]); the dead-letter producer holds [`PRODUCER_KIB_MAX`]
//! - what librdkafka says goes to our own log; values of properties do not
//! - an error that the build is to blame for names the build that helps

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError as Client, RDKafkaErrorCode};

use super::KafkaError;
use super::config::KafkaConfig;

/// KiB that librdkafka fetches ahead of what was taken.
pub const FETCH_AHEAD_KIB_MAX: usize = 16 << 10;
/// Bytes of one answer of a broker.
pub const FETCH_BYTES_MAX: usize = 8 << 20;
/// Bytes of one answer with a message above [`FETCH_BYTES_MAX`].
pub const ANSWER_BYTES_MAX: usize = 100 << 20;
/// KiB of messages on their way to the dead-letter topic.
pub const PRODUCER_KIB_MAX: usize = 16 << 10;
/// How often librdkafka says how far it is.
const STATISTICS_MS: u64 = 2_000;
/// How long nothing is said about an error that was told.
const QUIET: Duration = Duration::from_secs(30);

/// The build that has TLS and SASL/SCRAM.
const BUILD_WITH_SSL: &str = "this build has no OpenSSL: build with `cargo build --release --features rdkafka/ssl` (needs libssl-dev) or `--features rdkafka/ssl-vendored` (needs perl and make), or use SASL/PLAIN without TLS";
const BUILD_WITH_GSSAPI: &str =
    "this build has no Kerberos: build with `cargo build --release --features rdkafka/gssapi` (needs libsasl2-dev)";
const BUILD_WITH_ZSTD: &str = "the topic is compressed with a codec that this build does not have: build with `cargo build --release --features rdkafka/zstd`";

/// Settings of the consumer.
pub(super) fn consumer(config: &KafkaConfig) -> Result<ClientConfig, KafkaError> {
    let mut client = common(config)?;
    client
        .set("group.id", &config.group)
        .set("enable.auto.commit", if super::is_control() { "true" } else { "false" })
        .set("enable.auto.offset.store", if super::is_control() { "true" } else { "false" })
        .set("auto.offset.reset", if super::is_control() { "earliest" } else { "error" })
        .set("enable.partition.eof", "false")
        .set("statistics.interval.ms", STATISTICS_MS.to_string());
    let defaults = [
        // Only partitions that move are taken away when a consumer comes or goes.
        ("partition.assignment.strategy", "cooperative-sticky".to_string()),
        ("queued.max.messages.kbytes", FETCH_AHEAD_KIB_MAX.to_string()),
        ("fetch.max.bytes", FETCH_BYTES_MAX.to_string()),
        ("receive.message.max.bytes", ANSWER_BYTES_MAX.to_string()),
        ("client.id", "threadline".to_string()),
    ];
    defaults_below(&mut client, config, &defaults);
    Ok(client)
}

/// Settings of the producer of dead letters.
pub(super) fn producer(config: &KafkaConfig) -> Result<ClientConfig, KafkaError> {
    let mut client = common(config)?;
    for name in ["session.timeout.ms", "heartbeat.interval.ms", "max.poll.interval.ms"] {
        client.remove(name);
    }
    client.set("enable.idempotence", "true").set("acks", "all");
    let defaults = [
        ("queue.buffering.max.kbytes", PRODUCER_KIB_MAX.to_string()),
        ("message.timeout.ms", "30000".to_string()),
        ("linger.ms", "5".to_string()),
        // What the consumer could fetch goes on; the topic has the last word.
        ("message.max.bytes", ANSWER_BYTES_MAX.to_string()),
        ("client.id", "threadline".to_string()),
    ];
    defaults_below(&mut client, config, &defaults);
    Ok(client)
}

fn common(config: &KafkaConfig) -> Result<ClientConfig, KafkaError> {
    let mut client = ClientConfig::new();
    client.set_log_level(RDKafkaLogLevel::Info);
    for (name, value) in config.properties()? {
        client.set(name, value);
    }
    Ok(client)
}

fn defaults_below(client: &mut ClientConfig, config: &KafkaConfig, defaults: &[(&str, String)]) {
    for (name, value) in defaults.iter().filter(|(name, _)| !config.librdkafka.contains_key(*name)) {
        client.set(*name, value);
    }
}

/// Why a client could not be made. What librdkafka says may quote a value, so only the name of the property is passed on.
pub(super) fn refused(error: Client) -> KafkaError {
    let Client::ClientConfig(_, said, name, _) = &error else {
        let said = error.to_string();
        return KafkaError::Client { property: String::new(), help: help(&said).unwrap_or("see the log").into() };
    };
    let help = help(said).map_or_else(|| "librdkafka does not take its value".to_string(), str::to_string);
    KafkaError::Client { property: name.clone(), help }
}

/// What to do about something that librdkafka says.
fn help(said: &str) -> Option<&'static str> {
    match said {
        _ if said.contains("OpenSSL not available") || said.contains("No provider for SASL mechanism SCRAM") => {
            Some(BUILD_WITH_SSL)
        }
        _ if said.contains("No provider for SASL mechanism GSSAPI") => Some(BUILD_WITH_GSSAPI),
        _ if said.contains("No provider for SASL mechanism") || said.contains("not available at build time") => {
            Some(BUILD_WITH_SSL)
        }
        _ if said.contains("No such configuration property") => Some("librdkafka has no such property"),
        _ => None,
    }
}

/// What to do about an error while reading.
pub(super) fn remedy(code: RDKafkaErrorCode) -> Option<&'static str> {
    match code {
        RDKafkaErrorCode::NotImplemented => Some(BUILD_WITH_ZSTD),
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
            Some("a topic does not exist (yet); it is read once it does")
        }
        RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed => {
            Some("the principal needs READ on the topics and on the group")
        }
        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => {
            Some("check sasl.mechanism, sasl.username and sasl.password")
        }
        RDKafkaErrorCode::MessageSizeTooLarge => Some("raise receive.message.max.bytes"),
        _ => None,
    }
}

/// Says each error once in a while only: a broker that is away is told of many times a second.
#[derive(Debug, Default)]
pub(super) struct Quiet(Mutex<HashMap<String, Instant>>);

impl Quiet {
    pub(super) fn say(&self, error: &Client) {
        let code = error.rdkafka_error_code();
        let key = code.map_or_else(|| error.to_string(), |code| code.to_string());
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Codes are a closed set; other texts are few.
        if said.get(&key).is_some_and(|at| at.elapsed() < QUIET) || said.len() > 256 {
            return;
        }
        match code.and_then(remedy) {
            Some(remedy) => tracing::warn!(error = key, remedy, "reading from Kafka does not go on"),
            None => tracing::warn!(error = key, "reading from Kafka does not go on; trying again"),
        }
        said.insert(key, Instant::now());
    }
}

/// Passes on what librdkafka logs about itself: names of brokers and topics, never messages.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, text: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, text, "librdkafka");
        }
        // "Error" is what it calls every connection that was refused; `Quiet` tells those.
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::info!(facility, text, "librdkafka"),
        _ => tracing::debug!(facility, text, "librdkafka"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::consumer::BaseConsumer;

    fn refusal(property: &str, value: &str) -> String {
        let text = format!(
            "group = \"g\"\ntopic = []\n[librdkafka]\n\"bootstrap.servers\" = \"127.0.0.1:1\"\n{property:?} = {value:?}\n"
        );
        let config = KafkaConfig::parse(&text).unwrap();
        let client = consumer(&config).unwrap();
        client.create::<BaseConsumer>().map_or_else(|error| refused(error).to_string(), |_| "taken".into())
    }

    #[test]
    fn what_the_build_lacks_is_told_with_the_build_that_has_it_and_values_are_not() {
        assert_eq!(refusal("session.timeout.ms", "6000"), "taken");
        let said = refusal("session.timeout.ms", "s3cret");
        assert!(said.contains("session.timeout.ms") && !said.contains("s3cret"), "{said}");
        assert!(refusal("no.such.property", "s3cret").contains("librdkafka has no such property"));
        // Where the tests are built with OpenSSL both are taken.
        for (property, value) in [("security.protocol", "SASL_SSL"), ("security.protocol", "SSL")] {
            let said = refusal(property, value);
            assert!(said == "taken" || said.contains("--features rdkafka/ssl-vendored"), "{said}");
        }
    }
}
