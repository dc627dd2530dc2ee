//! `POST /api/v1/events`: native events (`schemas::wire`), as NDJSON, a JSON array, or one JSON object.
//!
//! Invariants
//! - the answer counts every event: `accepted + duplicates + conflicts + rejected_total` is their number
//! - an event whose `id` is stored already with other content is counted under `conflicts`; the first stays, the second is
//!   kept as a `rejected` record that names the event
//! - an event that cannot be read is kept as a `rejected` record and named by line (or position in the array)
//! - when the store fails, nothing is acknowledged; sending all of it again is safe
//!
//! Not here: which of the events were the duplicates (the store says how many).

use std::ops::Range;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};
use threadline_schemas::decode::{Context, Line};
use threadline_schemas::{Collector, Record, json, wire};
use utoipa::ToSchema;

use threadline_schemas::limits::arrival::EVENTS_MAX;

use super::openapi::NativeEvent;
use super::problem::{REQUEST_ID, RequestId};
use super::{Collecting, Refusal, body, weigh};

/// Events in one append.
const BATCH_EVENTS_MAX: usize = 1000;
/// Bytes of records in one append.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Rejected events that the answer names.
const REJECTED_LISTED_MAX: usize = 1000;

/// What became of the events of one request.
#[derive(Debug, Default)]
struct Outcome {
    accepted: usize,
    duplicates: usize,
    conflicts: usize,
    rejected: Vec<(usize, String)>,
    rejected_total: usize,
}

/// What became of the events of one request, as answered. The numbers add up to all of them.
#[derive(Debug, Serialize, ToSchema)]
struct Taken {
    /// Events that are stored now and were not before.
    accepted: usize,
    /// Events that were stored already.
    duplicates: usize,
    /// Events whose `id` is stored with other content: the first stays, the second is kept as a rejected record.
    conflicts: usize,
    /// Events that could not be read; each is kept as a rejected record.
    rejected_total: usize,
    /// The first thousand of those.
    rejected: Vec<RejectedEvent>,
}

/// An event that could not be read.
#[derive(Debug, Serialize, ToSchema)]
struct RejectedEvent {
    /// Line of the body, or position in the array, from 1.
    line: usize,
    /// Why; never holds content.
    detail: String,
}

/// Stores events. An answer of 200 means that every event it counts is on disk; sending them again is safe.
///
/// One JSON object per line (`application/x-ndjson`), or an array or one object (`application/json`); gzip and zstd are
/// taken.
#[utoipa::path(post, path = "/api/v1/events", tag = "collect", operation_id = "events_take",
    request_body(content((NativeEvent = "application/x-ndjson"), (NativeEvent = "application/json"))),
    responses(
        (status = 200, description = "Stored, and what could not be read is named", body = Taken),
        (status = 400, description = "The body is no list of events", content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", content_type = "application/problem+json"),
        (status = 415, description = "Another content type or encoding", content_type = "application/problem+json"),
        (status = 503, description = "Nothing is promised; `Retry-After` says when to send it again", content_type = "application/problem+json"),
    ))]
pub(super) async fn take(State(collecting): State<Collecting>, request: Request) -> Response {
    let id = RequestId::new();
    let (parts, body) = request.into_parts();
    match store(&collecting, &parts.headers, body).await {
        Ok(outcome) => answer(outcome, id),
        Err(refusal) => refusal.response(parts.uri.path(), id),
    }
}

async fn store(collecting: &Collecting, headers: &HeaderMap, body: axum::body::Body) -> Result<Outcome, Refusal> {
    let shape = shape(headers)?;
    let held = body::read(collecting, headers, body).await?;
    let weight = weigh::events(&held.bytes, BATCH_EVENTS_MAX, json::Limits::default().nodes_max);
    let _share = collecting.work(weight).await?;
    let events = std::sync::Arc::new(Events::new(held, shape)?);
    let mut outcome = Outcome::default();
    let mut next = 0;
    while next < events.spans.len() {
        let reading = (events.clone(), collecting.pipeline.clone());
        let work = move || reading.0.batch(next, &reading.1.context(Collector::Api));
        let batch = collecting.pipeline.compute(work).await?;
        next = batch.next;
        let receipt = collecting.pipeline.submit(batch.records).await?;
        outcome.add(receipt, batch.rejected);
    }
    Ok(outcome)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Lines,
    Json,
}

fn shape(headers: &HeaderMap) -> Result<Shape, Refusal> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
            Ok(Shape::Lines)
        }
        "application/json" => Ok(Shape::Json),
        _ => Err(Refusal::ContentType { expected: "application/x-ndjson or application/json" }),
    }
}

/// The events of a body, not yet read.
struct Events {
    held: body::Held,
    digest: String,
    /// Line number or position from 1, and where it stands.
    spans: Vec<(usize, Range<usize>)>,
}

struct Batch {
    records: Vec<Record>,
    rejected: Vec<(usize, String)>,
    next: usize,
}

impl Events {
    fn new(held: body::Held, shape: Shape) -> Result<Self, Refusal> {
        let body = &held.bytes;
        let digest = hex::encode(Sha256::digest(body));
        let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
        let spans = match (shape, first) {
            (_, None) => return Err(Refusal::Malformed("body holds no events".into())),
            (Shape::Json, Some(b'[')) => {
                let items = array_items(body)?;
                items.into_iter().enumerate().map(|(index, span)| (index + 1, span)).collect()
            }
            (Shape::Json, _) if json::parse(body).is_ok() => vec![(1, 0..body.len())],
            _ => lines(body)?,
        };
        Ok(Events { digest, spans, held })
    }

    /// Reads events from the one with index `next` on, until they are worth an append.
    fn batch(&self, next: usize, context: &Context<'_>) -> Batch {
        let mut batch = Batch { records: Vec::new(), rejected: Vec::new(), next };
        let mut bytes = 0;
        for (number, span) in &self.spans[next..] {
            let event = &self.held.bytes[span.clone()];
            let key = format!("batch:{}:{number}", self.digest);
            let record = wire::read_event(context, event, &key).unwrap_or_else(|error| {
                batch.rejected.push((*number, error.to_string()));
                let line = Line { bytes: event, file: None, number: *number as i64, delivery_key: &key };
                context.rejected(&line, "native", &error.to_string())
            });
            bytes += record.memory_bytes();
            batch.records.push(record);
            batch.next += 1;
            if batch.records.len() >= BATCH_EVENTS_MAX || bytes >= BATCH_BYTES_MAX {
                break;
            }
        }
        batch
    }
}

/// Lines that are not blank, with their numbers.
fn lines(body: &[u8]) -> Result<Vec<(usize, Range<usize>)>, Refusal> {
    let mut spans = Vec::new();
    let mut start = 0;
    for (index, line) in body.split(|byte| *byte == b'\n').enumerate() {
        if !line.trim_ascii().is_empty() {
            spans.push((index + 1, start..start + line.len()));
            check_count(spans.len())?;
        }
        start += line.len() + 1;
    }
    Ok(spans)
}

fn check_count(events: usize) -> Result<(), Refusal> {
    if events > EVENTS_MAX {
        return Err(Refusal::TooLarge(format!("more than {EVENTS_MAX} events in one request")));
    }
    Ok(())
}

/// Where the items of an array stand, each to be parsed on its own later.
fn array_items(body: &[u8]) -> Result<Vec<Range<usize>>, Refusal> {
    let not_an_array = || Refusal::Malformed("body is not a JSON array".into());
    let mut items = Vec::new();
    let mut depth = 0usize;
    let mut start = 0;
    let mut at = 0;
    while at < body.len() {
        match body[at] {
            b'"' => at = string_end(body, at + 1).ok_or_else(not_an_array)?,
            b'[' | b'{' => {
                depth += 1;
                start = if depth == 1 { at + 1 } else { start };
            }
            b',' if depth == 1 => {
                items.push(start..at);
                check_count(items.len())?;
                start = at + 1;
            }
            b']' | b'}' if depth == 1 => {
                let is_empty = items.is_empty() && body[start..at].trim_ascii().is_empty();
                items.extend((!is_empty).then_some(start..at));
                let is_end = body[at] == b']' && body[at + 1..].trim_ascii().is_empty();
                return if is_end { Ok(items) } else { Err(not_an_array()) };
            }
            b']' | b'}' => depth = depth.checked_sub(1).ok_or_else(not_an_array)?,
            _ => {}
        }
        at += 1;
    }
    Err(not_an_array())
}

/// Index of the quote that ends the string starting at `at`.
fn string_end(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

impl Outcome {
    /// Rejected events are records too, so they are among those of the receipt; they are counted apart.
    fn add(&mut self, receipt: threadline_store::Receipt, rejected: Vec<(usize, String)>) {
        self.rejected_total += rejected.len();
        let room = REJECTED_LISTED_MAX - self.rejected.len();
        let stored_before = receipt.duplicates;
        self.conflicts += receipt.conflicts;
        // Rejected lines are named by their content, so that they never conflict.
        let understood = (receipt.accepted + receipt.duplicates).saturating_sub(rejected.len());
        self.duplicates += stored_before.min(understood);
        self.accepted += understood - stored_before.min(understood);
        self.rejected.extend(rejected.into_iter().take(room));
    }
}

fn answer(outcome: Outcome, id: RequestId) -> Response {
    let body = Taken {
        accepted: outcome.accepted,
        duplicates: outcome.duplicates,
        conflicts: outcome.conflicts,
        rejected_total: outcome.rejected_total,
        rejected: outcome.rejected.into_iter().map(|(line, detail)| RejectedEvent { line, detail }).collect(),
    };
    let mut response = axum::Json(body).into_response();
    response.headers_mut().insert(REQUEST_ID, id.header());
    response
}
