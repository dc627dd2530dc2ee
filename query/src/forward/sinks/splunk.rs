//! Splunk HTTP Event Collector, with indexer acknowledgement.
//!
//! Invariants
//! - `time` of the envelope is seconds with milliseconds, and the event's own `time` is its first key: Splunk reads the first
//!   `"time":` it finds
//! - with `acknowledge` (the default) events count as delivered when the indexer acknowledged them, on one channel per
//!   process; what is not acknowledged in `acknowledge_timeout_s` is sent again
//! - without it they count when HEC took them: what it then loses before it is indexed is lost
//!
//! Errors of HEC that name the data (codes 5, 6, 7, 12, 13, 15) refuse the batch, all others mean later.

use std::fmt::Write as _;
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

    /// Waits until the indexer says that it has everything up to `ack`.
    async fn acknowledged(&self, ack: u64) -> Result<(), SinkError> {
        let until = Instant::now() + Duration::from_secs(self.config.acknowledge_timeout_s);
        let mut pause = ASK_FIRST;
        loop {
            let request = self.request(&self.acks).query(&[("channel", self.channel.to_string())]);
            let answer =
                http::send(request.header("content-type", "application/json").body(json!({"acks": [ack]}).to_string()));
            let answer: Value = serde_json::from_slice(&answer.await?)
                .map_err(|_| SinkError::unavailable("the answer about acknowledgements is not JSON"))?;
            if answer["acks"][ack.to_string()] == true {
                return Ok(());
            }
            if Instant::now() + pause > until {
                let seconds = self.config.acknowledge_timeout_s;
                return Err(SinkError::unavailable(format!("no acknowledgement of the indexer within {seconds} s")));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(ASK_MAX);
        }
    }
}

#[async_trait]
impl Sink for SplunkSink {
    async fn deliver(&mut self, events: &[Event]) -> Result<Vec<Outcome>, SinkError> {
        let answer = http::send(self.request(&self.events).body(self.body(events))).await?;
        if self.config.acknowledge {
            let answer: Value =
                serde_json::from_slice(&answer).map_err(|_| SinkError::unavailable("the answer of HEC is not JSON"))?;
            let Some(ack) = answer["ackId"].as_u64() else {
                let reason =
                    "HEC gives no ackId: switch indexer acknowledgement on for the token, or set acknowledge = false";
                return Err(SinkError::unavailable(reason));
            };
            self.acknowledged(ack).await?;
        }
        Ok(vec![Outcome::Delivered; events.len()])
    }
}
