//! A rehearsal without records: sample events of every kind as each sink would get them, validated; each sink made ready,
//! so that secrets, certificates and folders are found missing here; and one event delivered, where that is asked for.

use serde::Serialize;
use threadline_schemas::ocsf::samples;

use super::config::{Config, SinkConfig};
use super::event::Event;
use super::pairs::Told;
use super::position::Position;
use super::render::{Rendered, Renderer};
use super::sinks::{Outcome, Sink};

/// What came of one sample at one sink.
#[derive(Debug, Clone, Serialize)]
pub struct Trial {
    /// Name of the sink.
    pub sink: String,
    /// Kind of the record.
    pub kind: String,
    /// `metadata.event_code`.
    pub event_code: String,
    /// OCSF class.
    pub class_uid: i64,
    /// OCSF version.
    pub ocsf_version: String,
    /// Length of the event.
    pub bytes: usize,
    /// `ok`, `filtered`, `invalid`, `delivered` or `failed`.
    pub verdict: String,
    /// Why.
    pub reason: Option<String>,
}

impl Trial {
    /// Whether the configuration should not be used as it is.
    pub fn is_failure(&self) -> bool {
        matches!(self.verdict.as_str(), "invalid" | "failed")
    }
}

/// Tries every sink; with `send`, delivers one sample to each.
pub async fn trial(config: &Config, send: bool) -> Vec<Trial> {
    let mut tried = Vec::new();
    for sink in &config.sinks {
        let mut renderer = Renderer::new(&sink.common, config.base_url.clone());
        let mut sample = None;
        for record in samples::records() {
            let kind = record.kind.as_str();
            let told = Told { record, request: None, at: Position::before(0), request_at: None };
            tried.push(match renderer.render(&told) {
                Rendered::Filtered => row(sink, kind, None, "filtered", None),
                Rendered::Invalid { event, reason } => row(sink, kind, Some(&event), "invalid", Some(reason)),
                Rendered::Event(event) => {
                    let fault = renderer.fault(&event);
                    let row = row(sink, kind, Some(&event), if fault.is_some() { "invalid" } else { "ok" }, fault);
                    sample.get_or_insert(*event);
                    row
                }
            });
        }
        match sink.destination.open(sink) {
            Err(reason) => tried.push(row(sink, "", None, "failed", Some(reason))),
            Ok(opened) if send => tried.push(deliver(sink, opened, sample).await),
            Ok(_) => {}
        }
    }
    tried
}

async fn deliver(config: &SinkConfig, mut sink: Box<dyn Sink>, sample: Option<Event>) -> Trial {
    let Some(event) = sample else {
        return row(config, "", None, "failed", Some("the filters leave nothing to send".into()));
    };
    let failed = |reason| row(config, "", Some(&event), "failed", Some(reason));
    let outcome = sink.deliver(std::slice::from_ref(&event)).await;
    let ended = sink.idle().await;
    match (outcome.map(|mut outcomes| outcomes.pop()), ended) {
        (Ok(Some(Outcome::Delivered)), Ok(())) => row(config, "", Some(&event), "delivered", None),
        (Ok(Some(Outcome::Rejected { reason } | Outcome::Later { reason, .. })), _) => failed(reason),
        (Ok(None), _) => failed("no answer".into()),
        (Err(error), _) | (_, Err(error)) => failed(error.to_string()),
    }
}

fn row(sink: &SinkConfig, kind: &str, event: Option<&Event>, verdict: &str, reason: Option<String>) -> Trial {
    Trial {
        sink: sink.name.clone(),
        kind: kind.into(),
        event_code: event.map(|event| event.code.clone()).unwrap_or_default(),
        class_uid: event.map_or(0, |event| event.class_uid),
        ocsf_version: sink.common.ocsf_version.as_str().into(),
        bytes: event.map_or(0, |event| event.text.len()),
        verdict: verdict.into(),
        reason,
    }
}
