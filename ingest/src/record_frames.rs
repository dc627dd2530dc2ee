//! From what a tap saw to durable records: the tap's recorder.
//!
//! Invariants
//! - an observation is decoded once, because pairing requests with responses has state; a batch that comes again after a
//!   failure is appended from what was decoded before
//! - [`FrameRecorder::record`] returns `Ok` only after the records are synced
//!
//! Not here: what frames mean (`schemas::decode::mcp`), retries and gaps (`tap`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use threadline_schemas::decode::mcp::tap::{Seen, TapDecoder, TapFrame, TapGap};
use threadline_schemas::{Collector, Direction, Record};
use threadline_store::AppendError;
use uuid::Uuid;

use crate::pipeline::{Destination, Pipeline, PipelineConfig};
use crate::remote::{Outbox, OutboxError, Target};
use crate::tap::{self, Event, Observation, RecordError};

#[cfg(test)]
mod tests;

/// How long the end of a run may wait for the server.
const FLUSH_MAX: Duration = Duration::from_secs(3);

/// Records the observations of one run.
#[derive(Debug)]
pub struct FrameRecorder {
    recording: Option<Recording>,
}

#[derive(Debug)]
struct Recording {
    pipeline: Arc<Pipeline>,
    outbox: Option<Arc<Outbox>>,
    decoder: TapDecoder,
    /// Observations with a lower sequence were decoded.
    next_sequence: u64,
    /// Decoded and not yet durable.
    pending: BTreeMap<u64, Vec<Record>>,
}

/// Why a recorder for a server elsewhere cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// The outbox.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The keys of the outbox.
    #[error("cannot read the keys of the outbox")]
    Keys(#[source] threadline_store::StoreError),
    /// A redaction rule.
    #[error(transparent)]
    Redact(#[from] crate::redact::RedactError),
}

impl FrameRecorder {
    /// Into a data directory, through `pipeline`; `server_name` as the host's configuration calls the server.
    pub fn local(pipeline: Arc<Pipeline>, server_name: &str, run: Uuid) -> Self {
        Self::of(pipeline, None, server_name, run)
    }

    /// To the server at `url`, through an outbox below `state`. The keys for digests and fingerprints are those of `state`.
    ///
    /// # Errors
    /// When the outbox cannot be used; a server that is away is no error.
    pub fn remote(
        state: &Path,
        url: &str,
        token: Option<String>,
        server_name: &str,
        run: Uuid,
    ) -> Result<Self, RecorderError> {
        let key = threadline_store::match_key(state).map_err(RecorderError::Keys)?;
        let outbox = Arc::new(Outbox::open(&state.join("outbox"), Target::new(url, token)?)?);
        let destination = Destination::Remote(Arc::clone(&outbox));
        let pipeline = Arc::new(Pipeline::with(destination, key, PipelineConfig::default())?);
        Ok(Self::of(pipeline, Some(outbox), server_name, run))
    }

    /// Records nothing: for a server that has to run although recording cannot.
    pub fn off() -> Self {
        FrameRecorder { recording: None }
    }

    fn of(pipeline: Arc<Pipeline>, outbox: Option<Arc<Outbox>>, server_name: &str, run: Uuid) -> Self {
        let decoder = TapDecoder::new(server_name, &run.to_string());
        let recording = Recording { pipeline, outbox, decoder, next_sequence: 0, pending: BTreeMap::new() };
        FrameRecorder { recording: Some(recording) }
    }
}

impl tap::Record for FrameRecorder {
    async fn record(&mut self, batch: Vec<Observation>) -> Result<(), RecordError> {
        let Some(recording) = &mut self.recording else { return Ok(()) };
        let sequences: Vec<u64> = batch.iter().map(|observation| observation.sequence).collect();
        let is_end = batch.iter().any(|observation| matches!(observation.event, Event::Exited { .. }));
        for observation in batch {
            recording.decode(observation);
        }
        let records =
            sequences.iter().filter_map(|sequence| recording.pending.get(sequence)).flatten().cloned().collect();
        match recording.pipeline.submit(records).await {
            Ok(_) => recording.forget(&sequences),
            Err(error @ AppendError::TooLarge { .. }) => {
                if sequences.len() == 1 {
                    recording.forget(&sequences);
                }
                return Err(RecordError::Rejected(Box::new(error)));
            }
            Err(error) => return Err(RecordError::Unavailable(Box::new(error))),
        }
        if let Some(outbox) = recording.outbox.as_ref().filter(|_| is_end)
            && !outbox.flush(FLUSH_MAX).await
        {
            tracing::warn!("the server is away; what it does not have yet stays in the outbox for the next run");
        }
        Ok(())
    }
}

impl Recording {
    fn forget(&mut self, sequences: &[u64]) {
        sequences.iter().for_each(|sequence| {
            self.pending.remove(sequence);
        });
    }

    fn decode(&mut self, observation: Observation) {
        if observation.sequence < self.next_sequence {
            return;
        }
        self.next_sequence = observation.sequence + 1;
        let context = self.pipeline.context(Collector::Tap);
        let seen = Seen { sequence: observation.sequence, time_unix_nano: observation.time_unix_nano };
        let records = match observation.event {
            Event::Frame(frame) => self.decoder.frame(
                &context,
                seen,
                TapFrame {
                    direction: direction(frame.direction),
                    bytes: &frame.bytes,
                    length: frame.length,
                    sha256: frame.sha256,
                    terminated: frame.terminated,
                    delivered: frame.delivered,
                },
            ),
            Event::Started { command, pid, .. } => {
                let command: Vec<String> = command.iter().map(|part| part.to_string_lossy().into_owned()).collect();
                vec![self.decoder.started(&context, seen, &command, pid)]
            }
            Event::Exited { code, signal } => vec![self.decoder.exited(&context, seen, code, signal)],
            Event::Closed { direction: stream, by } => {
                let by = match by {
                    tap::End::Source => "source",
                    tap::End::Sink => "sink",
                };
                vec![self.decoder.closed(&context, seen, direction(stream), by)]
            }
            Event::Gap(gap) => vec![self.decoder.gap(
                &context,
                seen,
                TapGap {
                    direction: direction(gap.direction),
                    frames: gap.frames,
                    bytes: gap.bytes,
                    from_unix_nano: gap.from_unix_nano,
                    to_unix_nano: gap.to_unix_nano,
                    reason: gap.reason.as_str(),
                },
            )],
        };
        self.pending.insert(observation.sequence, records);
    }
}

fn direction(direction: tap::Direction) -> Direction {
    match direction {
        tap::Direction::ClientToServer => Direction::ClientToServer,
        tap::Direction::ServerToClient => Direction::ServerToClient,
        tap::Direction::ServerStderr => Direction::ServerStderr,
    }
}
