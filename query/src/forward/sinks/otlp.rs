//! OpenTelemetry logs over OTLP/HTTP in protobuf: one OCSF event is one log record.
//!
//! Invariants
//! - the whole event is the body, as text; `ocsf.uid`, `ocsf.class_uid`, `ocsf.event_code` and `ocsf.correlation_uid` are
//!   attributes, so that a receiver can route without parsing
//! - an answer with `partial_success` does not say which records were rejected: the batch is halved until they are found, so
//!   others of it are sent twice, with the same `ocsf.uid`

use async_trait::async_trait;
use chrono::Utc;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use reqwest::Client;
use serde::Deserialize;
use url::Url;

use super::{Outcome, Sink, SinkError};
use crate::forward::config::{Common, Secret, SecretRef, check_url};
use crate::forward::event::Event;
use crate::forward::http;

/// `type = "otlp"`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtlpConfig {
    /// Where logs are posted to, such as `https://collector.example.com:4318/v1/logs`.
    pub url: String,
    /// Sent as `Authorization: Bearer`.
    pub token: Option<SecretRef>,
}

impl OtlpConfig {
    pub(super) fn check(&self, common: &Common) -> Vec<String> {
        check_url(&self.url, common).err().into_iter().collect()
    }
}

/// See the head of this file.
pub struct OtlpSink {
    client: Client,
    url: Url,
    token: Option<Secret>,
}

impl OtlpSink {
    pub(super) fn open(config: &OtlpConfig, common: &Common) -> Result<OtlpSink, String> {
        let token = config.token.as_ref().map(SecretRef::read).transpose()?;
        Ok(OtlpSink { client: http::client(common)?, url: check_url(&config.url, common)?, token })
    }
}

fn request(events: &[Event]) -> ExportLogsServiceRequest {
    let version = env!("CARGO_PKG_VERSION");
    let scope =
        InstrumentationScope { name: "threadline".into(), version: version.into(), ..InstrumentationScope::default() };
    let resource = Resource {
        attributes: vec![attribute("service.name", text("threadline")), attribute("service.version", text(version))],
        ..Resource::default()
    };
    let observed_time_unix_nano = nanos(Utc::now().timestamp_millis());
    let log_records = events.iter().map(|event| LogRecord { observed_time_unix_nano, ..log_record(event) }).collect();
    let scope_logs = vec![ScopeLogs { scope: Some(scope), log_records, ..ScopeLogs::default() }];
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs { resource: Some(resource), scope_logs, ..ResourceLogs::default() }],
    }
}

fn log_record(event: &Event) -> LogRecord {
    // OCSF: 1 informational, 2 low, 3 medium, 4 high, 5 critical, 6 fatal.
    let (severity_number, severity_text) = match event.severity_id {
        2 => (10, "INFO2"),
        3 => (13, "WARN"),
        4 => (17, "ERROR"),
        5 => (19, "ERROR3"),
        6 => (21, "FATAL"),
        _ => (9, "INFO"),
    };
    LogRecord {
        time_unix_nano: nanos(event.time_ms),
        severity_number,
        severity_text: severity_text.into(),
        body: Some(text(&event.text)),
        event_name: event.code.clone(),
        attributes: vec![
            attribute("ocsf.uid", text(&event.uid)),
            attribute("ocsf.class_uid", AnyValue { value: Some(Value::IntValue(event.class_uid)) }),
            attribute("ocsf.event_code", text(&event.code)),
            attribute("ocsf.correlation_uid", text(&event.correlation)),
        ],
        ..LogRecord::default()
    }
}

fn nanos(millis: i64) -> u64 {
    u64::try_from(millis).unwrap_or(0).saturating_mul(1_000_000)
}

fn text(text: &str) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(text.into())) }
}

fn attribute(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.into(), value: Some(value), ..KeyValue::default() }
}

#[async_trait]
impl Sink for OtlpSink {
    async fn deliver(&mut self, events: &[Event]) -> Result<Vec<Outcome>, SinkError> {
        let body = request(events).encode_to_vec();
        let mut post = self.client.post(self.url.clone()).header("content-type", "application/x-protobuf");
        if let Some(token) = &self.token {
            post = post.bearer_auth(token.expose());
        }
        let answer = http::send(post.body(body)).await?;
        let answer = ExportLogsServiceResponse::decode(answer.as_slice())
            .map_err(|_| SinkError::unavailable("the answer is not that of OTLP in protobuf"))?;
        match answer.partial_success.map_or(0, |partial| partial.rejected_log_records) {
            0 => Ok(vec![Outcome::Delivered; events.len()]),
            rejected => {
                Err(SinkError::Refused { reason: format!("the receiver rejected {rejected} of {}", events.len()) })
            }
        }
    }
}
