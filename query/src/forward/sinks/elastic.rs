//! Elasticsearch and OpenSearch by the bulk API.
//!
//! Invariants
//! - each event is a `create` with its id as `_id`: a repetition is answered 409, which means that it is there already, so the
//!   index holds every event once
//! - each item is judged by its own status: 2xx and 409 delivered, 408, 429 and 5xx later, other 4xx rejected
//! - reasons name the error's type, never its text, which may repeat values

use async_trait::async_trait;
use reqwest::Client;
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::{Outcome, Sink, SinkError};
use crate::forward::config::{Common, Secret, SecretRef, check_url};
use crate::forward::event::Event;
use crate::forward::http;

/// `type = "elasticsearch"` (OpenSearch, too)
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElasticConfig {
    /// Where the cluster is, such as `https://search.example.com:9200`.
    pub url: String,
    /// Index, alias or data stream.
    pub index: String,
    /// An API key, as `Authorization: ApiKey` takes it.
    pub api_key: Option<SecretRef>,
    /// User of HTTP Basic.
    pub user: Option<String>,
    /// Password of HTTP Basic.
    pub password: Option<SecretRef>,
    /// Adds `@timestamp` (the event's `time`), which a data stream needs.
    #[serde(default)]
    pub timestamp: bool,
}

impl ElasticConfig {
    pub(super) fn check(&self, common: &Common) -> Vec<String> {
        let mut wrong: Vec<String> = check_url(&self.url, common).err().into_iter().collect();
        if self.user.is_some() != self.password.is_some() {
            wrong.push("user and password go together".into());
        }
        if self.api_key.is_some() && self.user.is_some() {
            wrong.push("api_key or user, not both".into());
        }
        // Their rules; with another name every single event would be refused.
        let is_name = (1..=255).contains(&self.index.len())
            && !self.index.starts_with(['-', '_', '+'])
            && !matches!(self.index.as_str(), "." | "..")
            && self
                .index
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase() && !b"\"\\/*?<>|,#:".contains(&b));
        if !is_name {
            wrong.push("index is the name of one index, in lower case".into());
        }
        wrong
    }
}

/// See the head of this file.
pub struct ElasticSink {
    client: Client,
    bulk: Url,
    index: String,
    key: Option<Secret>,
    login: Option<(String, Secret)>,
    timestamp: bool,
}

#[derive(Deserialize)]
struct Answer {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    create: Created,
}

#[derive(Deserialize)]
struct Created {
    status: u16,
    error: Option<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    r#type: Option<String>,
}

impl ElasticSink {
    pub(super) fn open(config: &ElasticConfig, common: &Common) -> Result<ElasticSink, String> {
        let mut bulk = check_url(&config.url, common)?;
        bulk.path_segments_mut().map_err(|()| "the url cannot be extended".to_string())?.pop_if_empty().push("_bulk");
        let login = match (&config.user, &config.password) {
            (Some(user), Some(password)) => Some((user.clone(), password.read()?)),
            _ => None,
        };
        let key = config.api_key.as_ref().map(SecretRef::read).transpose()?;
        let (index, timestamp) = (config.index.clone(), config.timestamp);
        Ok(ElasticSink { client: http::client(common)?, bulk, index, key, login, timestamp })
    }

    fn body(&self, events: &[Event]) -> String {
        let mut body = String::new();
        for event in events {
            body.push_str(&json!({"create": {"_index": self.index, "_id": event.uid}}).to_string());
            body.push('\n');
            if self.timestamp {
                body.push_str(&format!("{{\"@timestamp\":{},{}", event.time_ms, &event.text[1..]));
            } else {
                body.push_str(&event.text);
            }
            body.push('\n');
        }
        body
    }
}

#[async_trait]
impl Sink for ElasticSink {
    async fn deliver(&mut self, events: &[Event]) -> Result<Vec<Outcome>, SinkError> {
        let mut request = self.client.post(self.bulk.clone()).header("content-type", "application/x-ndjson");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("ApiKey {}", key.expose()));
        }
        if let Some((user, password)) = &self.login {
            request = request.basic_auth(user, Some(password.expose()));
        }
        let answer = http::send(request.body(self.body(events))).await?;
        let answer: Answer = serde_json::from_slice(&answer)
            .map_err(|_| SinkError::unavailable("the answer is not that of the bulk API"))?;
        Ok(answer.items.into_iter().map(|item| judged(item.create)).collect())
    }
}

fn judged(created: Created) -> Outcome {
    let is_word = |word: &String| word.len() <= 100 && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let kind = created.error.and_then(|error| error.r#type).filter(is_word).unwrap_or_else(|| "unknown error".into());
    match created.status {
        200..=299 | 409 => Outcome::Delivered,
        408 | 429 | 500..=599 => {
            Outcome::Later { reason: format!("{} for an event: {kind}", created.status), after: None }
        }
        status => Outcome::Rejected { reason: format!("{status}: {kind}") },
    }
}
