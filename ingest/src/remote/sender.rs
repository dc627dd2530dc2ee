//! Reads an outbox and posts what is in it, until the server has it.
//!
//! Invariants
//! - one batch is on its way at a time, in the order of the log; the next one follows when the server has answered 2xx or
//!   refused each record that it will never take
//! - the note is written before the outbox is marked, and the mark is synced before anything is deleted

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::{StatusCode, header};
use serde::Deserialize;
use threadline_schemas::{encoding, wire};
use threadline_store::inbox::{InboxError, SpoolDrain};
use threadline_store::log::Frames;
use tokio::sync::watch;
use uuid::Uuid;

use super::note::Note;
use super::{Delivery, OutboxError, Target};
use crate::streams::Marker;

/// Events in one request.
const BATCH_EVENTS_MAX: usize = 500;
/// Bytes in one request, unless one event alone has more.
const BATCH_BYTES_MAX: usize = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const WAIT_FIRST: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// An outbox and how far it was read.
#[derive(Debug)]
pub(super) struct Stream {
    spool: SpoolDrain,
    frames: Option<Frames>,
    note: Option<Arc<Note>>,
}

impl Stream {
    pub(super) fn new(spool: SpoolDrain, note: Option<Arc<Note>>) -> Stream {
        Stream { spool, frames: None, note }
    }
}

/// Posts to one server.
#[derive(Debug)]
pub(super) struct Sender {
    client: reqwest::Client,
    target: Target,
}

/// What the server said to a batch.
enum Answer {
    Stored {
        duplicates: u64,
    },
    /// It will say the same again.
    Refused(StatusCode),
    /// Try again later.
    Away,
}

/// The part of the server's answer that is of interest.
#[derive(Deserialize)]
struct Stored {
    #[serde(default)]
    duplicates: u64,
}

impl Sender {
    pub(super) fn new(target: Target) -> Result<Sender, OutboxError> {
        let mut client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        for authority in &target.authorities {
            client = client.add_root_certificate(authority.clone());
        }
        Ok(Sender { client: client.build().map_err(OutboxError::Client)?, target })
    }

    /// Sends what is in an outbox and what is added to it, until it is dropped.
    pub(super) async fn send_own(
        self: Arc<Self>,
        mut stream: Stream,
        mut appended: watch::Receiver<u64>,
        done: watch::Sender<Delivery>,
    ) {
        loop {
            appended.borrow_and_update();
            if let Err(error) = self.drain(&mut stream, &done).await {
                // The next run finds it so too, and records what is lost.
                tracing::error!(error = &error as &dyn std::error::Error, "the outbox cannot be read");
                return;
            }
            if appended.changed().await.is_err() {
                return;
            }
        }
    }

    /// Sends all that is there.
    pub(super) async fn drain(&self, stream: &mut Stream, done: &watch::Sender<Delivery>) -> Result<(), InboxError> {
        loop {
            let (spool, known) = (stream.spool.clone(), stream.frames.take());
            let reading = tokio::task::spawn_blocking(move || {
                let mut frames = match known {
                    Some(frames) => frames,
                    None => spool.frames()?,
                };
                let batch = read_batch(&mut frames)?;
                Ok::<_, InboxError>((frames, batch))
            });
            // It can only fail when the runtime is shutting down.
            let Ok(read) = reading.await else { return Ok(()) };
            let (frames, batch) = read?;
            // Iteration is over behind an error: the next round meets it first.
            stream.frames = batch.is_whole.then_some(frames);
            if batch.frames == 0 {
                return Ok(());
            }
            let mut delivery = *done.borrow();
            self.deliver(&batch.events, &mut delivery).await;
            if let (Some(note), Some(sequence)) = (&stream.note, batch.last_sequence) {
                note.sent(sequence + 1);
            }
            let (spool, end) = (stream.spool.clone(), batch.end);
            let marking = tokio::task::spawn_blocking(move || spool.mark_drained(end));
            if let Ok(Err(error)) = marking.await {
                // It only costs time: what is sent again counts as duplicate.
                tracing::warn!(error = &error as &dyn std::error::Error, "the outbox cannot be marked");
            }
            delivery.done = end;
            done.send_replace(delivery);
        }
    }

    /// Has the server take frames that are in no outbox; whether it did, while each batch took at most `patience`.
    pub(super) async fn pass(&self, frames: &[Bytes], patience: Duration, delivery: &mut Delivery) -> bool {
        for part in frames.chunks(BATCH_EVENTS_MAX) {
            let events: Vec<Event> =
                part.iter().filter_map(|frame| Event::read(frame).map(|(event, _)| event)).collect();
            if tokio::time::timeout(patience, self.deliver(&events, delivery)).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Returns once the server has every event that it does not refuse.
    async fn deliver(&self, events: &[Event], delivery: &mut Delivery) {
        let mut waiting = vec![events];
        let mut wait = WAIT_FIRST;
        while let Some(batch) = waiting.pop().filter(|batch| !batch.is_empty()) {
            match self.post(batch).await {
                Answer::Stored { duplicates } => {
                    delivery.sent += batch.len() as u64;
                    delivery.duplicates += duplicates;
                    wait = WAIT_FIRST;
                }
                Answer::Away => {
                    waiting.push(batch);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(WAIT_MAX);
                }
                Answer::Refused(status) if batch.len() > 1 => {
                    tracing::debug!(%status, events = batch.len(), "batch refused, halving it");
                    let (first, second) = batch.split_at(batch.len() / 2);
                    waiting.extend([second, first]);
                }
                Answer::Refused(status) => {
                    let id = batch.first().map(|event| event.id.to_string());
                    tracing::error!(%status, event_id = id, "the server refuses a record; it is dropped");
                    delivery.refused += 1;
                }
            }
        }
    }

    async fn post(&self, events: &[Event]) -> Answer {
        let body: String = events.iter().flat_map(|event| [event.line.as_str(), "\n"]).collect();
        let mut request =
            self.client.post(self.target.url.clone()).header(header::CONTENT_TYPE, "application/x-ndjson");
        if let Some(token) = &self.target.token {
            request = request.bearer_auth(token);
        }
        let response = match request.body(body).send().await {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(is_timeout = error.is_timeout(), "the server cannot be reached");
                return Answer::Away;
            }
        };
        match response.status() {
            status if status.is_success() => Answer::Stored { duplicates: duplicates(response).await },
            // Wrong or expired tokens and busy servers are put right by people and time.
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) => {
                tracing::warn!(%status, "the server does not take records from here; they wait in the outbox");
                Answer::Away
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Answer::Away,
            status if status.is_client_error() => Answer::Refused(status),
            status => {
                tracing::debug!(%status, "the server cannot take records now");
                Answer::Away
            }
        }
    }
}

/// How many of a batch the server had before; 0 where it does not say.
async fn duplicates(mut response: reqwest::Response) -> u64 {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return 0;
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice::<Stored>(&body).map_or(0, |stored| stored.duplicates)
}

/// An event on its way.
struct Event {
    id: Uuid,
    line: String,
}

impl Event {
    /// The event of a frame, and its number within the run; one that is no record is logged.
    fn read(frame: &[u8]) -> Option<(Event, Option<u64>)> {
        match encoding::decode(frame) {
            Ok(record) => {
                let event = Event { id: record.event_id, line: wire::write_event(&record) };
                Some((event, Marker::of(&record).map(|(_, sequence)| sequence)))
            }
            Err(error) => {
                tracing::error!(%error, "a frame of the outbox is no record; it is dropped");
                None
            }
        }
    }
}

/// What is posted at once.
struct Batch {
    events: Vec<Event>,
    /// Frames that it stands for.
    frames: usize,
    /// Offset after the last of them.
    end: u64,
    last_sequence: Option<u64>,
    /// Whether what stands behind it can be read.
    is_whole: bool,
}

fn read_batch(frames: &mut Frames) -> Result<Batch, InboxError> {
    let end = frames.next_offset();
    let mut batch = Batch { events: Vec::new(), frames: 0, end, last_sequence: None, is_whole: true };
    let mut bytes = 0;
    while batch.frames < BATCH_EVENTS_MAX && bytes < BATCH_BYTES_MAX {
        let (offset, payload) = match frames.next() {
            Some(Ok(frame)) => frame,
            // What stands before it goes first.
            Some(Err(_)) if batch.frames > 0 => {
                batch.is_whole = false;
                break;
            }
            Some(Err(error)) => return Err(error.into()),
            None => break,
        };
        batch.frames += 1;
        batch.end = offset + 1;
        if let Some((event, sequence)) = Event::read(&payload) {
            batch.last_sequence = sequence.or(batch.last_sequence);
            bytes += event.line.len();
            batch.events.push(event);
        }
    }
    Ok(batch)
}
