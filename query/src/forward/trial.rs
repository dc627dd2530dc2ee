//! A rehearsal without records: sample events of every kind as each sink would get them, validated; each sink made ready,
//! so that secrets, certificates and folders are found missing here; and one event delivered, where that is asked for.
//!
//! Invariants
//! - nobody takes a sample for evidence: it bears [`TEST_LABEL`](threadline_schemas::ocsf::TEST_LABEL), a `metadata.uid` that
//!   no record has, names and ids that say test, and the time of the trial
//! - each trial's ids are its own, so a receiver that drops what it has already is tried as well

use chrono::Utc;
use serde::Serialize;
use threadline_schemas::Record;
use threadline_schemas::ocsf::samples;
use threadline_schemas::record::event_id;
use threadline_schemas::stamp::stamp;
use uuid::Uuid;

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
    let run = Uuid::new_v4();
    for sink in &config.sinks {
        let mut renderer = Renderer::of_samples(&sink.common, config.base_url.clone());
        let mut sample = None;
        // A sink that takes certain tenants gets samples of one of them.
        let tenant = sink.common.tenants.first().map_or(NAME, String::as_str);
        for record in samples::records() {
            let record = marked(record, tenant, run);
            let kind = record.kind.as_str();
            let told = Told::of(record, Position::before(0));
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

/// What every sample calls its session, user and agent.
const NAME: &str = "threadline-test";
/// The same as a trace id, which is of hex digits.
const TRACE: &str = "7e577e577e577e577e577e577e577e57";

/// A sample of the content pack as one of this trial.
fn marked(mut record: Record, tenant: &str, run: Uuid) -> Record {
    record.delivery_key = format!("test:{run}:{}", record.delivery_key);
    record.event_id = event_id(tenant, &record.delivery_key);
    record.tenant = tenant.into();
    let now = Utc::now();
    record.set_time(now.timestamp_nanos_opt(), now.timestamp_micros());
    let named = [&mut record.user_claimed, &mut record.agent_name, &mut record.conversation_id, &mut record.turn_id];
    let ids = [&mut record.tool_call_id, &mut record.connection_id];
    named.into_iter().chain(ids).flatten().for_each(|id| *id = NAME.into());
    record.trace_id.iter_mut().for_each(|id| *id = TRACE.into());
    record.keys.clear();
    stamp(&mut record);
    record
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::config::Common;
    use serde_json::Value;
    use threadline_schemas::ocsf::{TEST_LABEL, TEST_UID, Version};

    #[test]
    fn a_sample_is_marked_in_every_version_and_bears_no_id_of_the_content_pack() {
        for &ocsf_version in Version::ALL {
            let common = Common { ocsf_version, tenants: vec!["acme".into()], ..Common::default() };
            let mut renderer = Renderer::of_samples(&common, None);
            for record in samples::records() {
                let record = marked(record, "acme", Uuid::new_v4());
                let told = Told::of(record, Position::before(0));
                let Rendered::Event(event) = renderer.render(&told) else { panic!("{told:?}") };
                assert_eq!(renderer.fault(&event), None);
                let value: Value = serde_json::from_str(&event.text).unwrap();
                assert!(event.uid.starts_with(TEST_UID) && value["metadata"]["uid"] == event.uid);
                assert!(value["metadata"]["labels"].as_array().unwrap().contains(&TEST_LABEL.into()), "{value}");
                assert_eq!(value["unmapped"][TEST_LABEL], true);
                assert!(value["message"].as_str().unwrap().contains("forward test"));
                for real in ["309daf42", "j.doe", "c.auditor", "toolu_01", "4bf92f35"] {
                    let is_target = told.record.target.as_deref().is_some_and(|target| target.contains(real));
                    assert!(is_target || !event.text.contains(real), "{real} in {}", event.text);
                }
            }
        }
    }
}
