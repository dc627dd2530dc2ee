//! The proxy's recorder: what it saw, decoded once, as durable records.
//!
//! Not here: retries and gaps (`tap::recording`, `journal`), what observations become (`decoding`).

use std::sync::Arc;

use uuid::Uuid;

use super::decoding::Decoding;
use super::observation::Observation;
use crate::pipeline::Pipeline;
use crate::record_frames::Delivery;
use crate::tap::{Record, RecordError};

/// Records the exchanges of one run.
pub struct ExchangeRecorder {
    recording: Option<Recording>,
}

struct Recording {
    decoding: Decoding,
    delivery: Delivery,
}

impl ExchangeRecorder {
    /// Through `pipeline`, to wherever it leads; `server_name` as the host's configuration calls the server.
    pub fn new(pipeline: Arc<Pipeline>, server_name: &str, run: Uuid) -> Self {
        let decoding = Decoding::new(server_name, &run.to_string(), pipeline.match_key().clone());
        ExchangeRecorder { recording: Some(Recording { decoding, delivery: Delivery::new(pipeline) }) }
    }

    /// Records nothing: for traffic that has to pass although recording cannot.
    pub fn off() -> Self {
        ExchangeRecorder { recording: None }
    }
}

impl Record<Observation> for ExchangeRecorder {
    async fn record(&mut self, batch: Vec<Observation>) -> Result<(), RecordError> {
        let Some(Recording { decoding, delivery }) = &mut self.recording else { return Ok(()) };
        let sequences: Vec<u64> = batch.iter().map(|observation| observation.sequence).collect();
        for observation in batch {
            delivery.decode_once(observation.sequence, |context| decoding.decode(context, observation));
        }
        delivery.deliver(&sequences).await
    }

    async fn close(&mut self) {
        if let Some(Recording { delivery, .. }) = &self.recording {
            delivery.close().await;
        }
    }
}
