//! Kafka topics as a source: a member of a consumer group that loses nothing and doubles nothing.
//!
//! ```text
//!            thread: poll ─> batch ─┐ bounded                     ┌─> dead letters (flushed)
//! broker ──>  rebalance, pause      ├──────> decode ──────────────┴─> pipeline (synced) ─┐
//!            commit <── position <──┴────────────────────────── done ────────────────────┘
//! ```
//!
//! Invariants
//! - the delivery key of a message is cluster, topic, partition, offset and its time, so what is read twice is stored once;
//!   the time tells apart what a topic that was deleted and made anew keeps at the same offsets
//! - a position moves after the records before it are durable, and the dead letters before it are acknowledged: first the
//!   one kept here (`store::positions`), then that of the group
//! - a partition begins where this data directory says; if it says nothing, where the group says; else at `start`
//! - a partition that is taken away is finished first, for [`REVOKE_MAX`] at most, and not touched afterwards
//! - a position that the topic does not have (any more) becomes a `gap` record with counts; it is never moved in silence
//! - memory: what librdkafka fetches ahead (`client`), and [`BATCHES_MAX`] + 2 batches of [`BATCH_BYTES_MAX`] and one message
//! - while records cannot be stored, partitions are paused and the group membership is kept up
//!
//! Not here: how messages are read (`schemas::decode`), where the file and its secrets come from (the root).

mod batch;
mod client;
mod config;
mod consumer;
mod dead_letters;
mod decode;
mod gaps;
mod metrics;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError as Client;
use threadline_schemas::decode::profile::Catalogue;
use threadline_store::positions::Positions;
use threadline_store::{AppendError, StoreError};
use tokio::sync::watch;

use crate::pipeline::Pipeline;

pub use self::client::{ANSWER_BYTES_MAX, FETCH_AHEAD_KIB_MAX, FETCH_BYTES_MAX, PRODUCER_KIB_MAX};
pub use self::config::{ConfigError, KafkaConfig, Property, RESERVED, Start, TopicConfig};
pub use self::metrics::KafkaMetrics;

/// Messages in one batch.
pub const BATCH_MESSAGES_MAX: usize = 2_000;
/// Bytes of messages in one batch, unless one message has more.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// Batches between reading and storing.
pub const BATCHES_MAX: usize = 1;
/// How long a partition that is taken away may be finished.
pub const REVOKE_MAX: Duration = Duration::from_secs(10);
/// How long a broker may take to answer a question.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Set to `no-positions`: ids do not come from positions, and the group's positions move as messages are read. The control
/// of the tests, which must lose or double records.
const CONTROL_VARIABLE: &str = "THREADLINE_KAFKA_CONTROL";

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// The configuration cannot be used.
    #[error("the configuration cannot be used")]
    Config(#[from] ConfigError),
    /// A client could not be made of the configuration.
    #[error("librdkafka.\"{property}\": {help}")]
    Client {
        /// The property it does not take; empty when it is none.
        property: String,
        /// What to do.
        help: String,
    },
    /// The client failed for good.
    #[error("the Kafka client has failed")]
    Fatal(#[source] Client),
    /// Records could not be stored.
    #[error("cannot store what the topics say")]
    Append(#[source] AppendError),
    /// Positions could not be read or written.
    #[error("cannot keep the positions")]
    Positions(#[source] StoreError),
    /// A part of it ended early.
    #[error("reading was interrupted")]
    Interrupted,
}

/// What was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Messages whose records are durable.
    pub messages: u64,
    /// Of them, ones that could not be understood.
    pub rejected: u64,
    /// Of them, ones that were written to the dead-letter topic.
    pub dead_lettered: u64,
    /// Messages that the topics did not have any more.
    pub missing: u64,
}

/// Reads topics until `stop`; then what was read is stored and its positions are committed.
///
/// `directory` is where positions are kept; without one (records go to a server elsewhere) those of the group count alone.
///
/// # Errors
/// See [`KafkaError`]. Nothing is lost by any of them: the next run goes on where the records end.
pub async fn read(
    config: KafkaConfig,
    catalogue: &Catalogue,
    directory: Option<&Path>,
    pipeline: Arc<Pipeline>,
    stop: watch::Receiver<bool>,
) -> Result<Taken, KafkaError> {
    if is_control() {
        tracing::warn!("{CONTROL_VARIABLE} is set: records WILL be lost or doubled");
    }
    let topics = config.topics(catalogue)?;
    let settings = client::consumer(&config)?;
    let positions = directory.map(Positions::create).transpose().map_err(KafkaError::Positions)?;
    let dead_letters = dead_letters::DeadLetters::new(&config)?;
    let (done, progress) = writer::progress();
    let (batches, arriving) = tokio::sync::mpsc::channel(BATCHES_MAX);
    let runtime = tokio::runtime::Handle::current();
    let reading = {
        let (topics, stop) = (topics.clone(), stop.clone());
        let start = consumer::Begin { config, topics, settings, positions, stop };
        std::thread::Builder::new()
            .name("kafka".into())
            .spawn(move || consumer::run(start, batches, progress, &runtime))
            .map_err(|_| KafkaError::Interrupted)?
    };
    let mut writer = writer::Writer::new(pipeline, topics, dead_letters, stop);
    let written = writer.run(arriving, done).await;
    let read = tokio::task::spawn_blocking(move || reading.join()).await;
    let read = read.map_err(|_| KafkaError::Interrupted)?.map_err(|_| KafkaError::Interrupted)?;
    written.and(read).map(|()| writer.taken())
}

/// Whether this is the control of the tests.
fn is_control() -> bool {
    std::env::var(CONTROL_VARIABLE).is_ok_and(|value| value == "no-positions")
}
