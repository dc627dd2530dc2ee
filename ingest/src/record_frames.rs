//! From what a tap saw to durable records: the tap's recorder.
//!
//! Invariants
//! - an observation is decoded once, because pairing requests with responses has state; a batch that comes again after a
//!   failure is appended from what was decoded before
//! - [`FrameRecorder::record`] returns `Ok` only after the records are synced
//!
//! Not here: what frames mean (`schemas::decode::mcp`), retries and gaps (`tap`).

use std::collections::BTreeMap;
use std::sync::Arc;

use threadline_schemas::decode::Context;
use threadline_schemas::decode::mcp::tap::{Seen, TapDecoder, TapFrame, TapGap};
use threadline_schemas::{Collector, Direction, Record};
use threadline_store::AppendError;
use uuid::Uuid;

use crate::pipeline::Pipeline;
use crate::tap::{self, Event, Observation, RecordError};

#[cfg(test)]
mod tests;

/// Records the observations of one run.
#[derive(Debug)]
pub struct FrameRecorder {
    recording: Option<Recording>,
}

#[derive(Debug)]
struct Recording {
    decoder: TapDecoder,
    delivery: Delivery,
}

/// Where decoded observations go, and what of them is not there yet.
#[derive(Debug)]
pub(crate) struct Delivery {
    pipeline: Arc<Pipeline>,
    /// Observations with a lower sequence were decoded.
    next_sequence: u64,
    /// Decoded and not yet durable.
    pending: BTreeMap<u64, Vec<Record>>,
}

impl FrameRecorder {
    /// Through `pipeline`, to wherever it leads; `server_name` as the host's configuration calls the server.
    pub fn new(pipeline: Arc<Pipeline>, server_name: &str, run: Uuid) -> Self {
        let decoder = TapDecoder::new(server_name, &run.to_string());
        FrameRecorder { recording: Some(Recording { decoder, delivery: Delivery::new(pipeline) }) }
    }

    /// Records nothing: for a server that has to run although recording cannot.
    pub fn off() -> Self {
        FrameRecorder { recording: None }
    }
}

impl tap::Record for FrameRecorder {
    async fn record(&mut self, batch: Vec<Observation>) -> Result<(), RecordError> {
        let Some(Recording { decoder, delivery }) = &mut self.recording else { return Ok(()) };
        let sequences: Vec<u64> = batch.iter().map(|observation| observation.sequence).collect();
        for observation in batch {
            delivery.decode_once(observation.sequence, |context| decode(decoder, context, observation));
        }
        delivery.deliver(&sequences).await
    }

    async fn close(&mut self) {
        if let Some(Recording { delivery, .. }) = &self.recording {
            delivery.close().await;
        }
    }
}

impl Delivery {
    /// Through `pipeline`.
    pub(crate) fn new(pipeline: Arc<Pipeline>) -> Self {
        Delivery { pipeline, next_sequence: 0, pending: BTreeMap::new() }
    }

    /// Keeps the records of an observation, unless it was decoded before.
    pub(crate) fn decode_once(&mut self, sequence: u64, decode: impl FnOnce(&Context<'_>) -> Vec<Record>) {
        if sequence >= self.next_sequence {
            self.next_sequence = sequence + 1;
            self.pending.insert(sequence, decode(&self.pipeline.context(Collector::Tap)));
        }
    }

    /// Returns once the records of these observations are durable; they are then forgotten.
    pub(crate) async fn deliver(&mut self, sequences: &[u64]) -> Result<(), RecordError> {
        let records = sequences.iter().filter_map(|sequence| self.pending.get(sequence)).flatten().cloned().collect();
        match self.pipeline.submit(records).await {
            Ok(_) => self.forget(sequences),
            Err(error @ AppendError::TooLarge { .. }) => {
                if sequences.len() == 1 {
                    self.forget(sequences);
                }
                return Err(RecordError::Rejected(Box::new(error)));
            }
            Err(error) => return Err(RecordError::Unavailable(Box::new(error))),
        }
        Ok(())
    }

    /// At the end of a run: gives the server a moment to take what it does not have, and marks the end of the spool. What
    /// is never closed looks as if it had been killed.
    pub(crate) async fn close(&self) {
        if let Err(error) = self.pipeline.close().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the end of the run cannot be marked");
        }
    }

    fn forget(&mut self, sequences: &[u64]) {
        sequences.iter().for_each(|sequence| {
            self.pending.remove(sequence);
        });
    }
}

fn decode(decoder: &mut TapDecoder, context: &Context<'_>, observation: Observation) -> Vec<Record> {
    let seen = Seen { sequence: observation.sequence, time_unix_nano: observation.time_unix_nano };
    match observation.event {
        Event::Frame(frame) => decoder.frame(
            context,
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
            vec![decoder.started(context, seen, &command, pid)]
        }
        Event::Exited { code, signal } => vec![decoder.exited(context, seen, code, signal)],
        Event::Closed { direction: stream, by } => {
            let by = match by {
                tap::End::Source => "source",
                tap::End::Sink => "sink",
            };
            vec![decoder.closed(context, seen, direction(stream), by)]
        }
        Event::Gap(gap) => vec![decoder.gap(
            context,
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
    }
}

fn direction(direction: tap::Direction) -> Direction {
    match direction {
        tap::Direction::ClientToServer => Direction::ClientToServer,
        tap::Direction::ServerToClient => Direction::ServerToClient,
        tap::Direction::ServerStderr => Direction::ServerStderr,
    }
}
