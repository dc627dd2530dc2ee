//! A Kafka topic: one message per event, the OCSF event as JSON.
//!
//! Invariants
//! - delivered means: all in-sync replicas have it (`acks=all`), and the delivery report said so; the producer is idempotent
//! - the key is tenant and session, so the events of a session are in one partition, in order. Nothing in the producer may
//!   fail alone: it waits without an end or fails for good, with all that is behind it (`enable.gapless.guarantee`). The end
//!   of the waiting is ours: a producer that reports nothing for [`SILENCE_MAX`] is dropped with all it holds, and that is
//!   sent again by a new one
//! - memory: the batch, and `queue.buffering.max.kbytes` ([`QUEUE_KIB_MAX`]) in the producer
//! - reasons hold no content; values of properties are never printed
//!
//! The producer connects where the brokers say they are, which cannot be checked beforehand: a sink of this kind needs
//! `allow_private = true`, which says that its brokers are trusted with that.
//!
//! Not here: TLS and SASL/SCRAM in the usual build; `ingest/src/kafka/README.md` names the builds.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer};
use rdkafka::{ClientConfig, ClientContext};
use serde::Deserialize;

use super::{Outcome, Sink, SinkError};
use crate::forward::address;
use crate::forward::config::{Common, SecretRef};
use crate::forward::event::Event;

/// KiB that wait in the producer.
pub const QUEUE_KIB_MAX: usize = 32 << 10;
/// How long no message of a batch may be reported before the producer is given up.
pub const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Properties that are not the user's to set.
const RESERVED: &[&str] = &[
    "enable.idempotence",
    "enable.gapless.guarantee",
    "acks",
    "request.required.acks",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "delivery.report.only.error",
    "partitioner",
    "queuing.strategy",
    "transactional.id",
    "plugin.library.paths",
];

/// Set to `queued`: a message counts as delivered when the producer has it, before any report. The control that the test
/// of this sink must see fail.
const CONTROL_VARIABLE: &str = "THREADLINE_FORWARD_CONTROL";

/// `type = "kafka"`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// The topic; it must exist.
    pub topic: String,
    /// Properties of librdkafka by their own names.
    pub librdkafka: BTreeMap<String, Property>,
}

/// The value of a property; a secret is a reference.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub enum Property {
    /// Text.
    Text(String),
    /// A number.
    Number(i64),
    /// true or false.
    Bool(bool),
    /// In a file or an environment variable.
    Secret(SecretRef),
}

impl std::fmt::Debug for Property {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(not shown)")
    }
}

impl KafkaConfig {
    pub(super) fn within(mut self, folder: &Path) -> KafkaConfig {
        for property in self.librdkafka.values_mut() {
            if let Property::Secret(secret) = property {
                *property = Property::Secret(secret.clone().within(folder));
            }
        }
        self
    }

    pub(super) fn check(&self, common: &Common) -> Vec<String> {
        let mut wrong = Vec::new();
        let text = |name: &str| match self.librdkafka.get(name) {
            Some(Property::Text(text)) => Some(text.as_str()),
            _ => None,
        };
        let servers = text("bootstrap.servers").unwrap_or_default();
        if servers.is_empty() {
            wrong.push("librdkafka.\"bootstrap.servers\" is missing".into());
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=249).contains(&self.topic.len()) || !self.topic.bytes().all(is_name) {
            wrong.push("topic is the name of a topic".into());
        }
        for name in RESERVED.iter().filter(|name| self.librdkafka.contains_key(**name)) {
            wrong.push(format!("librdkafka.\"{name}\" cannot be set: delivery is at least once and in order"));
        }
        for name in self.librdkafka.keys().filter(|name| name.contains("password") || name.contains("secret")) {
            if !matches!(self.librdkafka[name], Property::Secret(_)) {
                wrong.push(format!("librdkafka.\"{name}\" is {{ file = \"...\" }} or {{ env = \"...\" }}"));
            }
        }
        if self.librdkafka.contains_key("ssl.key.pem") {
            wrong.push("librdkafka.\"ssl.key.pem\" is a secret: use \"ssl.key.location\"".into());
        }
        if !common.allow_private {
            wrong.push("its brokers say where to connect, so it needs allow_private = true".into());
        }
        let hosts = servers.split(',').map(|server| server.trim().rsplit_once(':').map_or(server, |(host, _)| host));
        let is_plain = text("security.protocol").is_none_or(|name| !name.to_ascii_lowercase().contains("ssl"));
        if is_plain && !common.allow_plain && !hosts.into_iter().all(address::is_loopback_host) {
            wrong.push("without TLS it needs allow_plain = true".into());
        }
        wrong
    }

    fn client(&self) -> Result<ClientConfig, String> {
        let mut client = ClientConfig::new();
        client
            .set("client.id", "threadline")
            .set("compression.codec", "lz4")
            .set("linger.ms", "5")
            .set("queue.buffering.max.kbytes", QUEUE_KIB_MAX.to_string());
        for (name, property) in &self.librdkafka {
            let value = match property {
                Property::Text(text) => text.clone(),
                Property::Number(number) => number.to_string(),
                Property::Bool(is) => is.to_string(),
                Property::Secret(secret) => secret.read()?.expose().to_string(),
            };
            client.set(name, value);
        }
        client
            .set("enable.idempotence", "true")
            .set("enable.gapless.guarantee", "true")
            .set("acks", "all")
            .set("message.timeout.ms", "0")
            // Where Java clients put the same key.
            .set("partitioner", "murmur2_random");
        Ok(client)
    }
}

/// What librdkafka says goes to our own log; the last error is the reason while nothing is reported.
#[derive(Clone, Default)]
struct Spoken(Arc<Mutex<Option<RDKafkaErrorCode>>>);

impl Spoken {
    fn take(&self) -> Option<RDKafkaErrorCode> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Spoken {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(facility, text, "librdkafka");
    }

    fn error(&self, error: KafkaError, _reason: &str) {
        tracing::debug!(%error, "librdkafka");
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = error.rdkafka_error_code();
    }
}

/// See the head of this file.
pub struct KafkaSink {
    topic: String,
    client: ClientConfig,
    /// None after it was given up.
    producer: Option<FutureProducer<Spoken>>,
    spoken: Spoken,
    is_control: bool,
}

/// Why a message is not in the topic.
type Report = Result<(), Option<RDKafkaErrorCode>>;

impl KafkaSink {
    pub(super) fn open(config: &KafkaConfig) -> Result<KafkaSink, String> {
        let (client, spoken) = (config.client()?, Spoken::default());
        let producer = Some(producer(&client, &spoken)?);
        let is_control = std::env::var(CONTROL_VARIABLE).is_ok_and(|value| value == "queued");
        Ok(KafkaSink { topic: config.topic.clone(), client, producer, spoken, is_control })
    }

    /// Hands events to the producer in their order, and gives what became of each; fewer reports than events when the
    /// producer fell silent.
    async fn send(&self, producer: &FutureProducer<Spoken>, events: &[Event]) -> Vec<Report> {
        let mut reports = Vec::with_capacity(events.len());
        let mut waiting: VecDeque<Result<DeliveryFuture, RDKafkaErrorCode>> = VecDeque::new();
        let mut events = events.iter();
        let mut next = events.next();
        while next.is_some() || !waiting.is_empty() {
            if let Some(event) = next {
                match self.queue(producer, event) {
                    // The oldest report makes room.
                    Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => {}
                    queued => {
                        waiting.push_back(queued.map_err(|error| code(&error)));
                        next = events.next();
                        continue;
                    }
                }
            }
            let report = match waiting.pop_front() {
                Some(Ok(report)) => report,
                Some(Err(code)) => {
                    reports.push(Err(Some(code)));
                    continue;
                }
                // Full of what a batch left behind that was given up.
                None => return reports,
            };
            if self.is_control {
                reports.push(Ok(()));
                continue;
            }
            match tokio::time::timeout(SILENCE_MAX, report).await {
                Ok(Ok(Ok(_))) => reports.push(Ok(())),
                Ok(Ok(Err((error, _)))) => reports.push(Err(error.rdkafka_error_code())),
                Ok(Err(_canceled)) => reports.push(Err(None)),
                Err(_silence) => return reports,
            }
        }
        reports
    }

    fn queue(&self, producer: &FutureProducer<Spoken>, event: &Event) -> Result<DeliveryFuture, KafkaError> {
        let headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: "content-type", value: Some("application/json") })
            .insert(Header { key: "metadata.uid", value: Some(&event.uid) });
        let record = FutureRecord::to(&self.topic)
            .key(&event.session)
            .payload(&event.text)
            .timestamp(event.time_ms)
            .headers(headers);
        producer.send_result(record).map_err(|(error, _)| error)
    }

    /// Drops the producer with all it holds, elsewhere, because that waits for its threads.
    fn give_up(&mut self) {
        let producer = self.producer.take();
        drop(tokio::task::spawn_blocking(move || drop(producer)));
    }
}

fn code(error: &KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)
}

fn producer(client: &ClientConfig, spoken: &Spoken) -> Result<FutureProducer<Spoken>, String> {
    client.create_with_context(spoken.clone()).map_err(|error| {
        // What it says may quote the value.
        let lacks_tls = ["OpenSSL", "No provider for SASL"].iter().any(|part| error.to_string().contains(part));
        match error {
            _ if lacks_tls => "its configuration needs a build with `--features rdkafka/ssl-vendored`".into(),
            KafkaError::ClientConfig(_, _, name, _) => format!("librdkafka does not take \"{name}\" as it is set"),
            _ => "no producer can be made of its configuration".into(),
        }
    })
}

#[async_trait]
impl Sink for KafkaSink {
    async fn deliver(&mut self, events: &[Event]) -> Result<Vec<Outcome>, SinkError> {
        // Taken, so that a stop midway leaves none with messages in it.
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => producer(&self.client, &self.spoken).map_err(SinkError::unavailable)?,
        };
        let reports = self.send(&producer, events).await;
        let is_done = reports.len() == events.len() && producer.client().fatal_error().is_none();
        self.producer = Some(producer);
        if !is_done {
            self.give_up();
        }
        outcomes(events, reports, self.spoken.take())
    }
}

/// What became of events, each of which has a report as far as there are any.
fn outcomes(
    events: &[Event],
    reports: Vec<Report>,
    spoken: Option<RDKafkaErrorCode>,
) -> Result<Vec<Outcome>, SinkError> {
    // The broker measures what was sent together: only alone is an event to blame.
    if events.len() > 1 && reports.iter().any(|report| matches!(report, Err(Some(code)) if is_refusal(*code))) {
        return Err(SinkError::Refused { reason: "the topic refuses a message".into() });
    }
    let silence = || spoken.map_or_else(|| "no report of the brokers".into(), |code| code.to_string());
    let mut reports = reports.into_iter();
    let mut held: HashSet<&str> = HashSet::new();
    let outcomes = events.iter().map(|event| {
        let reason = match reports.next() {
            Some(Ok(())) if !held.contains(&*event.session) => return Outcome::Delivered,
            Some(Ok(())) => "an event before it of the same session did not get through".into(),
            Some(Err(Some(code))) if is_refusal(code) => return Outcome::Rejected { reason: code.to_string() },
            Some(Err(code)) => code.map_or_else(|| "the producer failed".into(), |code| code.to_string()),
            None => silence(),
        };
        held.insert(&event.session);
        Outcome::Later { reason, after: None }
    });
    Ok(outcomes.collect())
}

/// Whether it is the message that is at fault.
fn is_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{InvalidMessage, InvalidMessageSize, InvalidRecord, MessageSizeTooLarge};
    matches!(code, MessageSizeTooLarge | InvalidMessage | InvalidMessageSize | InvalidRecord)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, common: &Common) -> String {
        toml::from_str::<KafkaConfig>(text).map_or_else(|error| error.message().into(), |c| c.check(common).join("\n"))
    }

    #[test]
    fn what_would_break_delivery_or_show_secrets_is_refused() {
        let trusted = Common { allow_private: true, ..Common::default() };
        let text = "topic = \"t\"\n[librdkafka]\n\"bootstrap.servers\" = \"localhost:9092\"\n";
        assert_eq!(check(text, &trusted), "");
        expect_test::expect![[r#"
            topic is the name of a topic
            librdkafka."acks" cannot be set: delivery is at least once and in order
            librdkafka."sasl.password" is { file = "..." } or { env = "..." }
            its brokers say where to connect, so it needs allow_private = true
            without TLS it needs allow_plain = true"#]]
        .assert_eq(&check(
            "topic = \"t t\"\n[librdkafka]\n\"bootstrap.servers\" = \"kafka.example:9092\"\nacks = 1\n\"sasl.password\" = \"s3cret\"\n",
            &Common::default(),
        ));
        let config: KafkaConfig = toml::from_str(&format!("{text}\"sasl.username\" = \"s3cret\"\n")).unwrap();
        assert!(!format!("{config:?}").contains("s3cret"));
        assert!(KafkaSink::open(&config).is_ok());
        let config: KafkaConfig = toml::from_str(&format!("{text}\"linger.ms\" = \"s3cret\"\n")).unwrap();
        let said = KafkaSink::open(&config).err().unwrap();
        assert!(said.contains("linger.ms") && !said.contains("s3cret"), "{said}");
    }

    #[test]
    fn what_the_topic_refuses_is_found_alone_and_the_rest_keeps_its_order() {
        use RDKafkaErrorCode::{GaplessGuarantee, MessageSizeTooLarge};
        let events: Vec<Event> = (0..3).map(crate::forward::testing::event).collect();
        let refused = || Err(Some(MessageSizeTooLarge));
        let of = |reports| outcomes(&events, reports, None);
        assert!(matches!(of(vec![Ok(()), refused(), Ok(())]), Err(SinkError::Refused { .. })));
        let alone = outcomes(&events[..1], vec![refused()], None).unwrap();
        assert!(matches!(&alone[..], [Outcome::Rejected { .. }]));
        let told = of(vec![Ok(()), Err(Some(GaplessGuarantee)), Ok(())]).unwrap();
        assert!(matches!(&told[..], [Outcome::Delivered, Outcome::Later { .. }, Outcome::Later { .. }]));
        let silent = outcomes(&events, vec![Ok(())], Some(RDKafkaErrorCode::AllBrokersDown)).unwrap();
        let [Outcome::Delivered, Outcome::Later { reason, .. }, _] = &silent[..] else { panic!("{silent:?}") };
        assert!(reason.contains("AllBrokersDown"), "{reason}");
    }
}
