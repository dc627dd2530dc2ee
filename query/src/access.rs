//! Access to what is recorded: reads of content become `access` records, one per asker, object and minute, with a count.
//!
//! Invariants
//! - a record says who asked, what kind of thing, its id or the digest of the question, and how often; never content
//! - reading does not wait for its record: what was read is written together once a minute, and when the server stops;
//!   a kill loses what was not written yet
//! - of a minute at most [`OBJECTS_MAX`] objects have records of their own; further reads are one record with their count
//! - only an engine with an access log records, so a reader of a directory writes nothing
//!
//! Not here: exports, which are recorded before their first byte (`export`); what shows no content (sources, forwarding,
//! counters).

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::RequestExt;
use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use threadline_schemas::{Collector, Kind, Record, SourceKind, stamp};
use tokio::sync::watch;
use uuid::Uuid;

use crate::engine::Engine;
use crate::export::WORDS_BYTES_MAX;

/// Objects of a minute that have records of their own.
const OBJECTS_MAX: usize = 500;
/// How often what was read is written down.
const EVERY: Duration = Duration::from_secs(60);

/// Takes records about access. Whoever makes the engine decides where they go.
pub trait AccessLog: fmt::Debug + Send + Sync {
    /// Makes the records durable; what is wrong otherwise, in words without content.
    fn record(&self, records: Vec<Record>) -> BoxFuture<'_, Result<(), String>>;
}

/// A record of kind `access`: joins no session, so reading changes none.
pub(crate) fn access_record(name: &str, by: Option<&str>, at: SystemTime, told: &serde_json::Value) -> Record {
    let mut record = Record::new("default", &format!("own:{}", Uuid::new_v4()), Kind::Access);
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    record.set_time(Some(since.as_nanos() as i64), since.as_micros() as i64);
    record.source_kind = SourceKind::Threadline;
    record.source_name = "threadline".into();
    record.collector = Collector::Own;
    record.decoder = "access".into();
    record.name = Some(name.into());
    record.user_claimed = by.map(str::to_string);
    record.attributes = Some(told.to_string());
    stamp::stamp(&mut record);
    record
}

/// Who asks, as far as the server knows; it puts this into the request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Asker {
    /// A name that nobody checked.
    pub name: Option<String>,
    /// Where the connection comes from.
    pub address: Option<IpAddr>,
}

/// Routes of API and pages whose answers show content, and what that is.
const SHOWN: &[(&str, &str)] = &[
    ("/", "sessions"),
    ("/sessions", "sessions"),
    ("/api/v1/sessions", "sessions"),
    ("/sessions/{id}", "session"),
    ("/sessions/{id}/skeleton", "session"),
    ("/api/v1/sessions/{id}", "session"),
    ("/events/{id}", "event"),
    ("/e/{id}", "event"),
    ("/events/{id}/json", "event"),
    ("/api/v1/events/{id}", "event"),
    ("/api/v1/events/{id}/links", "event"),
    ("/events/{id}/raw", "raw"),
    ("/api/v1/events/{id}/raw", "raw"),
    ("/search", "search"),
    ("/api/v1/search", "search"),
    ("/api/v1/sql", "sql"),
    ("/api/v1/links", "links"),
    ("/api/v1/links/findings", "links"),
];

/// A question that stands in the body of a request; its handler puts it into the response.
#[derive(Debug, Clone)]
pub(crate) struct Question(String);

impl Question {
    /// The digest of `text`.
    pub(crate) fn of(text: &str) -> Question {
        Question(format!("sha256:{}", hex::encode(Sha256::digest(text))))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Read {
    asker: Asker,
    what: &'static str,
    /// An id, or the digest of a question; empty: a list, or one of many.
    object: String,
}

#[derive(Debug)]
struct Times {
    count: u64,
    first: SystemTime,
    last: SystemTime,
}

/// What was read and is not written down yet.
#[derive(Debug, Default)]
pub(crate) struct Reads(Mutex<HashMap<Read, Times>>);

impl Reads {
    fn note(&self, read: Read, at: SystemTime) {
        let mut reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_one_of_many = reads.len() >= OBJECTS_MAX && !reads.contains_key(&read);
        let read =
            if is_one_of_many { Read { asker: Asker::default(), what: "other", object: String::new() } } else { read };
        let times = reads.entry(read).or_insert(Times { count: 0, first: at, last: at });
        (times.count, times.last) = (times.count + 1, at);
    }

    fn take(&self) -> Vec<Record> {
        let reads = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut reads: Vec<(Read, Times)> = reads.into_iter().collect();
        reads.sort_by_key(|(_, times)| times.first);
        reads.iter().map(|(read, times)| record(read, times)).collect()
    }
}

fn record(read: &Read, times: &Times) -> Record {
    let at = |time: SystemTime| {
        chrono::DateTime::<chrono::Utc>::from(time).to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
    };
    let told = serde_json::json!({
        "what": read.what, "count": times.count, "first": at(times.first), "last": at(times.last),
        "address": read.asker.address.map(|address| address.to_string()),
    });
    let name = format!("read {}", read.what);
    let mut record =
        access_record(&name, read.asker.name.as_deref(), times.first, &serde_json::json!({ "read": told }));
    record.target = Some(read.object.clone()).filter(|object| !object.is_empty());
    record
}

/// Middleware of API and pages: notes what an answer shows.
pub async fn noted(State(engine): State<Arc<Engine>>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let shown = SHOWN.iter().find(|(known, _)| Some(*known) == route).map(|(_, what)| *what);
    let Some(what) = shown.filter(|_| engine.access_log().is_some()) else { return next.run(request).await };
    let asker = request.extensions().get::<Asker>().cloned().unwrap_or_default();
    let id = match request.extract_parts::<RawPathParams>().await {
        Ok(parameters) => parameters.iter().find(|(name, _)| *name == "id").map(|(_, id)| id.to_string()),
        Err(_) => None,
    };
    let searched = if what == "search" { words_of(request.uri().query()) } else { None };
    let response = next.run(request).await;
    // A form that is still empty shows nothing.
    let is_shown = response.status().is_success() && (what != "search" || searched.is_some());
    if is_shown {
        let question = response.extensions().get::<Question>().cloned().or(searched);
        let mut object = question.map(|Question(digest)| digest).or(id).unwrap_or_default();
        object.truncate(object.floor_char_boundary(WORDS_BYTES_MAX));
        engine.reads().note(Read { asker, what, object }, SystemTime::now());
    }
    response
}

/// The words of a search, as their digest.
fn words_of(query: Option<&str>) -> Option<Question> {
    let (_, words) = url::form_urlencoded::parse(query?.as_bytes()).find(|(name, _)| name == "q")?;
    (!words.is_empty()).then(|| Question::of(&words))
}

/// Writes down what was read, every minute until `shutdown` is true. What is read after that is for
/// [`Engine::record_reads`].
pub async fn record_reads(engine: Arc<Engine>, mut shutdown: watch::Receiver<bool>) {
    while tokio::time::timeout(EVERY, shutdown.wait_for(|stop| *stop)).await.is_err() {
        engine.record_reads().await;
    }
}

impl Engine {
    /// Writes down what was read since it was last called.
    pub async fn record_reads(&self) {
        let Some(log) = self.access_log() else { return };
        let records = self.reads().take();
        if records.is_empty() {
            return;
        }
        let count = records.len();
        if let Err(reason) = log.record(records).await {
            tracing::warn!(count, %reason, "reads could not be recorded");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(what: &'static str, object: &str) -> Read {
        let asker = Asker { name: Some("j.doe".into()), address: "192.0.2.7".parse().ok() };
        Read { asker, what, object: object.into() }
    }

    #[test]
    fn a_minute_has_one_record_per_asker_and_object_and_a_bounded_number_of_them() {
        let reads = Reads::default();
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(1_784_900_000 + second);
        for second in 0..5 {
            reads.note(read("session", "c-1"), at(second));
        }
        for number in 0..2 * OBJECTS_MAX as u64 {
            reads.note(read("event", &number.to_string()), at(10 + number));
        }
        let records = reads.take();
        assert_eq!(records.len(), OBJECTS_MAX + 1);
        let first = &records[0];
        assert_eq!((first.name.as_deref(), first.target.as_deref()), (Some("read session"), Some("c-1")));
        assert_eq!(first.user_claimed.as_deref(), Some("j.doe"));
        assert_eq!(
            first.attributes.as_deref(),
            Some(
                r#"{"read":{"address":"192.0.2.7","count":5,"first":"2026-07-24T13:33:20.000Z","last":"2026-07-24T13:33:24.000Z","what":"session"}}"#
            )
        );
        let count = |record: &Record| {
            let told: serde_json::Value = serde_json::from_str(record.attributes.as_deref().unwrap()).unwrap();
            told["read"]["count"].as_u64().unwrap()
        };
        assert_eq!(records.iter().map(count).sum::<u64>(), 5 + 2 * OBJECTS_MAX as u64, "none is lost");
        assert_eq!(records.iter().filter(|record| record.name.as_deref() == Some("read other")).count(), 1);
        assert!(reads.take().is_empty());
    }

    #[test]
    fn every_route_of_the_api_shows_content_or_is_known_not_to() {
        let none = ["/api/v1/export", "/api/v1/export/progress", "/api/v1/sources", "/api/v1/forward"];
        let about = ["/healthz", "/readyz", "/metrics", "/version"];
        let api: serde_json::Value = serde_json::from_str(&crate::api::openapi()).unwrap();
        for route in api["paths"].as_object().unwrap().keys() {
            let is_shown = SHOWN.iter().any(|(known, _)| known == route);
            assert_ne!(is_shown, none.iter().chain(&about).any(|known| known == route), "{route}");
        }
    }
}
