//! Reads an outbox and posts what is in it, until the server has it.
//!
//! Invariants
//! - one batch is on its way at a time, in the order of the log; the next one follows when the server has answered 2xx or
//!   refused each record that it will never take
//! - why the server takes nothing is said once, and again when the reason is another; what a person has to put right is
//!   asked about less and less often
//! - the note is written before the outbox is marked, and the mark is synced before anything is deleted

use std::sync::{Arc, Mutex, PoisonError};
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
/// The longest wait while something has to be put right by a person.
const WAIT_PERSON_MAX: Duration = Duration::from_secs(60);
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
    /// Why the server took nothing last time.
    trouble: Mutex<Option<Trouble>>,
}

/// Why a server takes no records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It cannot be reached, or is busy.
    Away(String),
    /// Its certificate is not believed.
    Certificate(String),
    /// It answers with this status.
    Refuses(StatusCode),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Away(why) => write!(f, "the server is away ({why})"),
            Trouble::Certificate(why) => write!(
                f,
                "the server's certificate is not believed ({why}): name its authority with --ca, and the server as its certificate does"
            ),
            Trouble::Refuses(StatusCode::UNAUTHORIZED) => f.write_str(
                "the server does not know the token (401), which may be missing, mistyped or revoked: make one there with `threadline token add NAME` and give it with --token-file",
            ),
            Trouble::Refuses(StatusCode::FORBIDDEN) => f.write_str(
                "the server does not let this token send records (403): make one there with `threadline token add NAME` and give it with --token-file",
            ),
            Trouble::Refuses(status) => {
                write!(f, "what answers at this address is no threadline server ({status}): see --to")
            }
        }
    }
}

impl Trouble {
    fn of(error: &reqwest::Error) -> Trouble {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
        let mut last = String::new();
        while let Some(error) = source {
            if let Some(tls @ rustls::Error::InvalidCertificate(_)) = tls_error(error) {
                return Trouble::Certificate(tls.to_string());
            }
            last = error.to_string();
            source = error.source();
        }
        Trouble::Away(if error.is_timeout() { "no answer in time".into() } else { last })
    }

    /// Whether a person has to do something.
    fn needs_person(&self) -> bool {
        !matches!(self, Trouble::Away(_))
    }
}

/// What the server said to a batch.
enum Answer {
    Stored {
        duplicates: u64,
    },
    /// It will say the same again.
    Refused(StatusCode),
    /// Try again later.
    Away(Trouble),
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
        Ok(Sender { client: client.build().map_err(OutboxError::Client)?, target, trouble: Mutex::default() })
    }

    /// Why the server took nothing last time.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps what became of the last attempt, and says what is new of it.
    fn note(&self, trouble: Option<&Trouble>) {
        let mut known = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() == trouble {
            return;
        }
        match trouble {
            Some(trouble) => tracing::warn!("{trouble}; the records wait in the outbox"),
            None => tracing::info!("the server takes records again"),
        }
        *known = trouble.cloned();
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
            let (spool, note, end) = (stream.spool.clone(), stream.note.clone(), batch.end);
            let marking = tokio::task::spawn_blocking(move || {
                // Or a power cut could leave a mark without its count, which looks like a loss.
                note.iter().for_each(|note| note.sync());
                spool.mark_drained(end)
            });
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
                    self.note(None);
                }
                Answer::Away(trouble) => {
                    self.note(Some(&trouble));
                    waiting.push(batch);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(if trouble.needs_person() { WAIT_PERSON_MAX } else { WAIT_MAX });
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
            Err(error) => return Answer::Away(Trouble::of(&error)),
        };
        match response.status() {
            status if status.is_success() => Answer::Stored { duplicates: duplicates(response).await },
            // Wrong or expired tokens and busy servers are put right by people and time.
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) => {
                Answer::Away(Trouble::Refuses(status))
            }
            status @ (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) => {
                Answer::Away(Trouble::Away(status.to_string()))
            }
            status if status.is_client_error() => Answer::Refused(status),
            status => Answer::Away(Trouble::Away(status.to_string())),
        }
    }
}

/// The TLS error that an error is, in whatever it is wrapped: an I/O error is not the source of what it holds.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let held = || tls_error(error.downcast_ref::<std::io::Error>()?.get_ref()?);
    error.downcast_ref::<rustls::Error>().or_else(held)
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
