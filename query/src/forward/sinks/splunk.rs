//! Splunk HTTP Event Collector, with indexer acknowledgement.
//!
//! Invariants
//! - `time` of the envelope is seconds with milliseconds, and the event's own `time` is its first key: Splunk reads the first
//!   `"time":` it finds
//! - with `acknowledge` (the default) events count as delivered when the indexer acknowledged them, on one channel per
//!   process; what is not acknowledged in `acknowledge_timeout_s` is sent again
//! - an indexer takes seconds to acknowledge, so a batch goes as several requests of [`REQUEST_BYTES`], in order, whose
//!   acknowledgements are awaited together; a request that fails is the last one of its batch
//! - without it they count when HEC took them: what it then loses before it is indexed is lost
//!
//! Errors of HEC that name the data (codes 5, 6, 12, 13, 15) refuse the batch, all others mean later.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use reqwest::{Client, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use super::{Outcome, Sink, SinkError};
use crate::forward::config::{Common, Secret, SecretRef, check_url};
use crate::forward::event::Event;
use crate::forward::http;

/// `type = "splunk_hec"`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplunkConfig {
    /// Where HEC is, such as `https://splunk.example.com:8088`.
    pub url: String,
    /// The HEC token.
    pub token: SecretRef,
    /// Index; absent: the token's default.
    pub index: Option<String>,
    /// `source` of the events.
    #[serde(default = "source")]
    pub source: String,
    /// `sourcetype` of the events.
    #[serde(default = "sourcetype")]
    pub sourcetype: String,
    /// `host` of the events; absent: the name of the source that observed them is not sent either.
    pub host: Option<String>,
    /// Whether the token has indexer acknowledgement on.
    #[serde(default = "yes")]
    pub acknowledge: bool,
    /// Seconds to wait for an acknowledgement.
    #[serde(default = "acknowledge_timeout_s")]
    pub acknowledge_timeout_s: u64,
}

fn source() -> String {
    "threadline".into()
}

fn sourcetype() -> String {
    "ocsf:threadline".into()
}

fn yes() -> bool {
    true
}

fn acknowledge_timeout_s() -> u64 {
    120
}

impl SplunkConfig {
    pub(super) fn check(&self, common: &Common) -> Vec<String> {
        check_url(&self.url, common).err().into_iter().collect()
    }
}

/// See the head of this file.
pub struct SplunkSink {
    client: Client,
    config: SplunkConfig,
    events: Url,
    acks: Url,
    token: Secret,
    channel: Uuid,
}

/// Bytes of one request, unless one event is longer; the default of HEC for a whole body is 1 MB in some releases.
pub const REQUEST_BYTES: usize = 800_000;
/// First and longest pause between questions for acknowledgements.
const ASK_FIRST: Duration = Duration::from_millis(100);
const ASK_MAX: Duration = Duration::from_secs(5);

impl SplunkSink {
    pub(super) fn open(config: &SplunkConfig, common: &Common) -> Result<SplunkSink, String> {
        let base = check_url(&config.url, common)?;
        let at = |path: &str| base.join(path).map_err(|_| "the url cannot be extended".to_string());
        Ok(SplunkSink {
            client: http::client(common)?,
            events: at("/services/collector/event")?,
            acks: at("/services/collector/ack")?,
            token: config.token.read()?,
            channel: Uuid::new_v4(),
            config: config.clone(),
        })
    }

    fn request(&self, url: &Url) -> RequestBuilder {
        self.client
            .post(url.clone())
            .header("authorization", format!("Splunk {}", self.token.expose()))
            .header("x-splunk-request-channel", self.channel.to_string())
    }

    /// Envelopes one after the other, which is HEC's form of a batch.
    fn body(&self, events: &[Event]) -> String {
        let mut head = json!({"source": self.config.source, "sourcetype": self.config.sourcetype});
        for (name, value) in [("index", &self.config.index), ("host", &self.config.host)] {
            if let Some(value) = value {
                head[name] = value.as_str().into();
            }
        }
        let head = head.to_string();
        let mut body = String::new();
        for event in events {
            let (seconds, millis) = (event.time_ms.div_euclid(1000), event.time_ms.rem_euclid(1000));
            // Writing into a String cannot fail.
            let _written = writeln!(body, r#"{{"time":{seconds}.{millis:03},"event":{},{}"#, event.text, &head[1..]);
        }
        body
    }

    /// Sends one request; the number under which it is acknowledged, if it is to be.
    async fn send(&self, events: &[Event]) -> Result<Option<u64>, SinkError> {
        let answer = http::send_to(self.request(&self.events).body(self.body(events)), to_mend).await?;
        if !self.config.acknowledge {
            return Ok(None);
        }
        let answer: Value =
            serde_json::from_slice(&answer).map_err(|_| SinkError::unavailable("the answer of HEC is not JSON"))?;
        answer["ackId"].as_u64().map(Some).ok_or_else(|| {
            let reason =
                "HEC gives no ackId: switch indexer acknowledgement on for the token, or set acknowledge = false";
            SinkError::unavailable(reason)
        })
    }

    /// Waits until the indexer has acknowledged all; gives what it has not, and why.
    async fn acknowledged(&self, mut waiting: BTreeSet<u64>) -> Result<(), (BTreeSet<u64>, String)> {
        let until = Instant::now() + Duration::from_secs(self.config.acknowledge_timeout_s);
        let mut pause = ASK_FIRST;
        while !waiting.is_empty() {
            let request = self.request(&self.acks).query(&[("channel", self.channel.to_string())]);
            let request = request.header("content-type", "application/json");
            let answer = match http::send(request.body(json!({"acks": waiting}).to_string())).await {
                Ok(answer) => serde_json::from_slice(&answer).unwrap_or(Value::Null),
                Err(error) => return Err((waiting, error.to_string())),
            };
            // An acknowledgement is told once.
            waiting.retain(|ack| answer["acks"][ack.to_string()] != true);
            if !waiting.is_empty() && Instant::now() + pause > until {
                let seconds = self.config.acknowledge_timeout_s;
                return Err((waiting, format!("no acknowledgement of the indexer within {seconds} s")));
            }
            if !waiting.is_empty() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ASK_MAX);
            }
        }
        Ok(())
    }
}

/// Codes of HEC that say something about the token, its index or the channel, not about the data.
fn to_mend(answer: &[u8]) -> Option<String> {
    let code = serde_json::from_slice::<Value>(answer).ok()?["code"].as_i64()?;
    let what = match code {
        7 => "the index is not one of the token's",
        10 | 11 => "the channel is not accepted",
        14 => "indexer acknowledgement is off for the token",
        5 | 6 | 12 | 13 | 15 => return None,
        _ => "look at its url and token",
    };
    Some(format!("HEC code {code}, {what}"))
}

/// Which events go together.
fn requests(events: &[Event]) -> Vec<Range<usize>> {
    let mut requests: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (index, event) in events.iter().enumerate() {
        bytes += event.text.len();
        match requests.last_mut() {
            Some(last) if bytes <= REQUEST_BYTES => last.end = index + 1,
            _ => {
                bytes = event.text.len();
                requests.push(index..index + 1);
            }
        }
    }
    requests
}

#[async_trait]
impl Sink for SplunkSink {
    async fn deliver(&mut self, events: &[Event]) -> Result<Vec<Outcome>, SinkError> {
        let mut outcomes = vec![Outcome::Delivered; events.len()];
        let (mut sent, mut waiting) = (Vec::new(), BTreeSet::new());
        for request in requests(events) {
            match self.send(&events[request.clone()]).await {
                Ok(ack) => {
                    waiting.extend(ack);
                    sent.push((request, ack));
                }
                Err(error) if sent.is_empty() => return Err(error),
                Err(error) => {
                    outcomes[request.start..].fill(error.into_later());
                    break;
                }
            }
        }
        if let Err((waiting, reason)) = self.acknowledged(waiting).await {
            let is_waiting = |ack: Option<u64>| ack.is_some_and(|ack| waiting.contains(&ack));
            for (request, _) in sent.into_iter().filter(|(_, ack)| is_waiting(*ack)) {
                outcomes[request].fill(Outcome::Later { reason: reason.clone(), after: None });
            }
        }
        Ok(outcomes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::testing::event;

    #[test]
    fn what_hec_says_of_its_token_does_not_refuse_the_data() {
        let said = |code: i64| to_mend(json!({"text": "no", "code": code}).to_string().as_bytes());
        assert_eq!(said(7).as_deref(), Some("HEC code 7, the index is not one of the token's"));
        assert!([10, 11, 14, 16].into_iter().all(|code| said(code).is_some()));
        assert!([5, 6, 12, 13, 15].into_iter().all(|code| said(code).is_none()));
        assert_eq!(to_mend(b"<html>"), None);
    }

    #[test]
    fn a_batch_goes_as_requests_of_bounded_size_in_order() {
        let mut events: Vec<Event> = (0..5).map(event).collect();
        events[1].text = "x".repeat(REQUEST_BYTES + 1);
        events[3].text = "x".repeat(REQUEST_BYTES - events[2].text.len());
        assert_eq!(requests(&events), [0..1, 1..2, 2..4, 4..5]);
        assert!(requests(&[]).is_empty());
    }
}
