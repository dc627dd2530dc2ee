//! Forwarding: a query that does not end. Committed records become OCSF events and are delivered to where
//! a SIEM takes them.
//!
//! ```text
//! commits of `records` ─> pages ─> pairs (request + answer = one event) ─> render (map, filter, cut, check)
//!                                                                            └─> worker ─> sink
//!        cursor.json, synced after the receiver acknowledged  <──────────────────┘
//! ```
//!
//! Invariants
//! - at least once: the cursor moves past an event only after the sink said that it is delivered, or the event is in
//!   the dead letters, synced; `metadata.uid` of an event never changes
//! - in order: events of a session reach a sink in the order of the table; a batch is not begun before the one
//!   before it is done
//! - each sink has its own task, cursor, dead letters and back-off; nothing here is waited for by ingestion
//! - memory per sink is bounded by its batch, the calls that wait ([`pairs::WAITING_MAX`]) and what is known of sessions
//!   (`known::KEYS_MAX`)
//! - destinations come from the configuration alone, and no address is connected to that is not allowed ([`address`])
//! - secrets are read from files or the environment, and neither printed nor written; reasons hold no content
//!
//! State is below `DIR/forward/<sink>/`: `cursor.json`, `known.json`, `status.json`, `dead.jsonl`, `replay.json`, `lock`.
//!
//! Not here: the mapping (`threadline_schemas::ocsf`), the hot tail: an event is forwarded once it is committed,
//! which takes seconds.

pub mod address;
mod backoff;
mod chained;
pub mod config;
mod event;
mod http;
mod known;
mod pages;
pub mod pairs;
mod position;
mod render;
pub mod sinks;
mod state;
pub mod status;
#[cfg(test)]
mod testing;
mod trial;
mod worker;

use std::path::Path;

use threadline_store::{Commits, StoreError};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use self::config::{Config, ConfigError};
pub use self::event::Event;
pub use self::position::Position;
pub use self::state::{ReplayRequest, request_replay};
pub use self::status::{SinkStatus, newest_version, statuses};
pub use self::trial::{Trial, trial};
pub use self::worker::Worker;

/// Why forwarding cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The records or the sink's own state.
    #[error("the state of forwarding could not be read or written")]
    Store(#[from] StoreError),
    /// Something durable of a sink.
    #[error("the state of forwarding could not be written")]
    Durable(#[from] threadline_store::durable::DurableError),
    /// A file below `DIR/forward` is not what was written.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// Which.
        path: std::path::PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Another process forwards to this sink.
    #[error("another process forwards to the sink {sink}")]
    Busy {
        /// Name of the sink.
        sink: String,
    },
    /// There is no such sink.
    #[error("the configuration has no sink {sink}; it has {known}")]
    NoSuchSink {
        /// What was asked for.
        sink: String,
        /// Those there are.
        known: String,
    },
    /// The sink cannot be made ready.
    #[error("sink {sink}: {reason}")]
    Sink {
        /// Name of the sink.
        sink: String,
        /// What is missing.
        reason: String,
    },
    /// A replay of versions that there are not.
    #[error("the table has no version {asked}; its newest is {newest}")]
    NoSuchVersion {
        /// First version that was asked for.
        asked: i64,
        /// The newest one; -1 while there is none.
        newest: i64,
    },
    /// A replay that ends before it begins.
    #[error("a replay from version {from} to version {to} ends before it begins")]
    EmptyReplay {
        /// First version.
        from: i64,
        /// Last version.
        to: i64,
    },
    /// Dead letters have reached their bound.
    #[error(
        "the dead letters of sink {sink} are full ({bytes_max} bytes): see `forward status`, then `forward replay`"
    )]
    DeadLettersFull {
        /// Name of the sink.
        sink: String,
        /// The bound.
        bytes_max: u64,
    },
}

/// Forwards to every sink of `config` until `shutdown` is true. A sink that cannot go on says so in its status and
/// log; the others go on.
///
/// # Errors
/// When no sink could be started.
pub async fn run(config: Config, data: &Path, shutdown: watch::Receiver<bool>) -> Result<(), ForwardError> {
    let commits = Commits::open(data)?;
    let mut workers = JoinSet::new();
    let mut refused = None;
    for sink in config.sinks {
        let name = sink.name.clone();
        match Worker::start(commits.clone(), sink, config.base_url.clone(), shutdown.clone()) {
            Ok(worker) => {
                workers.spawn(worker.run());
            }
            Err(error) => {
                tracing::error!(sink = %name, error = &error as &dyn std::error::Error, "a sink does not start");
                refused = Some(error);
            }
        }
    }
    match refused {
        Some(error) if workers.is_empty() => return Err(error),
        _ => {}
    }
    while let Some(ended) = workers.join_next().await {
        if ended.is_err() {
            tracing::error!("a sink's task ended without a word");
        }
    }
    Ok(())
}
