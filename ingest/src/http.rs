//! Collectors over HTTP: OTLP (`/v1/logs`, `/v1/traces`, `/v1/metrics`, and the three gRPC services) and native events
//! (`/api/v1/events`).
//!
//! ```text
//! headers -> read (budget) -> unpack -> weigh (budget) -> decode -> pipeline -> 2xx
//! ```
//!
//! Invariants
//! - 2xx only after the append returned: what is acknowledged is durable and findable
//! - a body has the bounds of [`arrival`](threadline_schemas::limits::arrival): bytes, compressed and decompressed, times
//!   that it unfolds, and time
//! - memory: [`READING_BYTES_MAX`] for bodies as they arrive, [`UNPACKED_BYTES_MAX`] for what was compressed,
//!   [`WORKING_BYTES_MAX`] for what is decoded, by estimate. Who finds no room in the first, or does not get a share of the
//!   others in time, is sent away with 503 and `Retry-After`. Shares are taken in this order only, so requests do not lock
//!   each other
//! - errors and logs never contain content
//!
//! Not here: addresses, TLS, tokens; those are layers around these routers.

mod body;
mod counts;
mod events;
mod grpc;
mod openapi;
mod otlp;
mod problem;
mod status;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_grpc;
mod weigh;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use threadline_store::AppendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::pipeline::Pipeline;

pub use self::counts::{NAME_CHARS_MAX, NAMES_MAX, OtlpCounts};
pub use self::openapi::openapi;
pub use self::otlp::Otlp;

/// Bytes of all bodies as they arrive.
pub const READING_BYTES_MAX: usize = 32 << 20;
/// Bytes of all bodies that came compressed, unpacked.
pub const UNPACKED_BYTES_MAX: usize = 32 << 20;
/// Estimated bytes of all bodies that are being decoded and stored.
pub const WORKING_BYTES_MAX: usize = 32 << 20;
/// How long a request waits for its share of memory.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// What a client is told to wait when we are overloaded, and when the disk is full.
const RETRY_SECONDS: u64 = 2;
const RETRY_NO_SPACE_SECONDS: u64 = 30;

/// Unit of the budgets.
const UNIT_BYTES: usize = 64 * 1024;

/// Route for native events.
pub fn events(collecting: Collecting) -> Router {
    Router::new().route("/api/v1/events", post(events::take)).layer(DefaultBodyLimit::disable()).with_state(collecting)
}

/// What the receivers of one process share: the pipeline, and the memory that requests may take together.
#[derive(Debug, Clone)]
pub struct Collecting {
    pipeline: Arc<Pipeline>,
    reading: Arc<Semaphore>,
    unpacked: Arc<Semaphore>,
    working: Arc<Semaphore>,
}

impl Collecting {
    /// Admission to `pipeline`. One per process: each has budgets of its own.
    pub fn new(pipeline: Arc<Pipeline>) -> Self {
        let budget = |bytes: usize| Arc::new(Semaphore::new(bytes / UNIT_BYTES));
        Collecting {
            pipeline,
            reading: budget(READING_BYTES_MAX),
            unpacked: budget(UNPACKED_BYTES_MAX),
            working: budget(WORKING_BYTES_MAX),
        }
    }

    /// A share of the memory for decoding; one that is larger than all of it takes all of it.
    async fn work(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        share(&self.working, bytes, WORKING_BYTES_MAX).await
    }

    /// A share of the memory for what was compressed.
    async fn unpack(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        share(&self.unpacked, bytes, UNPACKED_BYTES_MAX).await
    }
}

async fn share(budget: &Arc<Semaphore>, bytes: usize, bytes_max: usize) -> Result<OwnedSemaphorePermit, Refusal> {
    let units = (bytes / UNIT_BYTES + 1).min(bytes_max / UNIT_BYTES);
    let permit = Arc::clone(budget).acquire_many_owned(units as u32);
    match tokio::time::timeout(WAIT_MAX, permit).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(Refusal::Busy),
    }
}

/// Why a request is not taken. Texts never hold content.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Malformed(String),
    #[error("content type {expected} expected")]
    ContentType { expected: &'static str },
    #[error("content encoding must be gzip, zstd or identity")]
    ContentEncoding,
    #[error("{0}")]
    TooLarge(String),
    #[error("the body did not arrive in time")]
    TimedOut,
    #[error("too many requests are being worked on; retry later")]
    Busy,
    #[error("the disk of the server is full; nothing was stored, retry later")]
    NoSpace,
    #[error("the store is not keeping up; retry later")]
    Overloaded,
    #[error("the server is stopping; retry later")]
    Stopping,
    #[error("whether the records were stored is not known; sending them again is safe")]
    Unknown,
}

impl Refusal {
    /// Status, a word for the problem type, seconds to wait.
    fn kind(&self) -> (u16, &'static str, Option<u64>) {
        match self {
            Refusal::Malformed(_) => (400, "malformed", None),
            Refusal::ContentType { .. } => (415, "content-type", None),
            Refusal::ContentEncoding => (415, "content-encoding", None),
            Refusal::TooLarge(_) => (413, "too-large", None),
            Refusal::TimedOut => (408, "timed-out", None),
            Refusal::Busy => (503, "busy", Some(RETRY_SECONDS)),
            Refusal::NoSpace => (503, "no-space", Some(RETRY_NO_SPACE_SECONDS)),
            Refusal::Overloaded => (429, "overloaded", Some(RETRY_SECONDS)),
            Refusal::Stopping => (503, "stopping", Some(RETRY_SECONDS)),
            Refusal::Unknown => (503, "unknown-outcome", Some(RETRY_SECONDS)),
        }
    }
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::NoSpace => Refusal::NoSpace,
            AppendError::Overloaded => Refusal::Overloaded,
            AppendError::TooLarge { .. } => Refusal::TooLarge(error.to_string()),
            AppendError::Closed => Refusal::Stopping,
            AppendError::Unknown(source) => {
                tracing::error!(error = &source as &dyn std::error::Error, "an append failed with unknown outcome");
                Refusal::Unknown
            }
        }
    }
}
