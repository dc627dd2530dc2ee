//! The dead-letter topic: messages that nobody understood, as they were, with headers that say whence and why.
//!
//! Invariants
//! - [`DeadLetters::send`] returns `true` only after every message was acknowledged by all in-sync replicas
//! - a message that the topic refuses for its size goes without its value, and a header says so
//! - sent again after a crash: `threadline.event-id` is the same

use std::time::Duration;

use rdkafka::error::{KafkaError as Client, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientContext, config::RDKafkaLogLevel};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::batch::Message;
use super::client::{self, Quiet};
use super::{KafkaConfig, KafkaError};

/// How long a full queue is waited for.
const QUEUE_WAIT: Duration = Duration::from_secs(30);

/// One message and why it goes there.
#[derive(Debug)]
pub(super) struct DeadLetter {
    pub(super) message: Message,
    pub(super) reason: String,
    pub(super) event_id: Uuid,
}

pub(super) struct DeadLetters {
    topic: String,
    producer: FutureProducer<Spoken>,
}

/// Errors and logs of the producer.
#[derive(Debug, Default)]
struct Spoken(Quiet);

impl ClientContext for Spoken {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        client::log(level, facility, text);
    }

    fn error(&self, error: Client, _reason: &str) {
        self.0.say(&error);
    }
}

impl DeadLetters {
    /// `None` when no dead-letter topic is configured.
    pub(super) fn new(config: &KafkaConfig) -> Result<Option<DeadLetters>, KafkaError> {
        let Some(topic) = config.dead_letter_topic.clone() else { return Ok(None) };
        let producer = client::producer(config)?.create_with_context(Spoken::default()).map_err(client::refused)?;
        Ok(Some(DeadLetters { topic, producer }))
    }

    /// Sends all of them; whether all are acknowledged.
    pub(super) async fn send(&self, letters: &[DeadLetter]) -> bool {
        let sending = letters.iter().map(|letter| self.send_one(letter));
        let errors: Vec<Client> =
            futures::future::join_all(sending).await.into_iter().filter_map(Result::err).collect();
        // One line, however many there are: they fail together.
        if let Some(error) = errors.first() {
            self.producer_says(error, errors.len());
        }
        errors.is_empty()
    }

    async fn send_one(&self, letter: &DeadLetter) -> Result<(), Client> {
        let value = letter.message.value.as_deref();
        match self.produce(letter, value, None).await {
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                let value = value.unwrap_or_default();
                let omitted = format!("{} bytes, sha256 {}", value.len(), hex::encode(Sha256::digest(value)));
                self.produce(letter, None, Some(&omitted)).await
            }
            other => other,
        }
    }

    async fn produce(&self, letter: &DeadLetter, value: Option<&[u8]>, omitted: Option<&str>) -> Result<(), Client> {
        let message = &letter.message;
        let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&self.topic).headers(headers(letter, omitted));
        if let Some(key) = &message.key {
            record = record.key(key);
        }
        if let Some(value) = value {
            record = record.payload(value);
        }
        self.producer.send(record, QUEUE_WAIT).await.map(drop).map_err(|(error, _)| error)
    }

    fn producer_says(&self, error: &Client, messages: usize) {
        use RDKafkaErrorCode::{TopicAuthorizationFailed, UnknownTopic, UnknownTopicOrPartition};
        let remedy = match error.rdkafka_error_code() {
            Some(UnknownTopic | UnknownTopicOrPartition) => "it does not exist: make it",
            Some(TopicAuthorizationFailed) => "the principal needs WRITE on it",
            _ => "trying again",
        };
        tracing::warn!(topic = self.topic, messages, %error, remedy, "the dead-letter topic does not take messages");
    }
}

/// Those of the message, then ours.
fn headers(letter: &DeadLetter, omitted: Option<&str>) -> OwnedHeaders {
    let message = &letter.message;
    let lease = &message.lease;
    let mut headers = OwnedHeaders::new_with_capacity(message.headers.len() + 8);
    for (name, value) in &message.headers {
        headers = headers.insert(Header { key: name, value: value.as_deref() });
    }
    let (partition, offset) = (lease.partition.to_string(), message.offset.to_string());
    let time = message.timestamp_ms.map(|time| time.to_string());
    let event_id = letter.event_id.to_string();
    let own = [
        ("threadline.cluster", Some(&*lease.cluster)),
        ("threadline.topic", Some(&*lease.topic)),
        ("threadline.partition", Some(&*partition)),
        ("threadline.offset", Some(&*offset)),
        ("threadline.timestamp", time.as_deref()),
        ("threadline.reason", Some(&*letter.reason)),
        ("threadline.event-id", Some(&*event_id)),
        ("threadline.value-omitted", omitted),
    ];
    own.into_iter()
        .filter(|(_, value)| value.is_some())
        .fold(headers, |headers, (key, value)| headers.insert(Header { key, value }))
}
