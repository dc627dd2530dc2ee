//! The recording side of one request and its response.
//!
//! Invariants
//! - events of an exchange are entered in order: request, response head, chunks, one ending
//! - a request is entered when its body has ended. What of the response comes before that waits, its end too (servers refuse
//!   on the head alone), as long as the journal has room and for [`REST_TIMEOUT`]; then, or when one side leaves, the
//!   request is entered as incomplete, and what still comes of it is a gap
//! - of a request body at most `request_bytes_max` are held, within the journal's budget; of a longer one the first
//!   [`LINE_BYTES_KEPT`] and a digest of all
//!
//! Not here: the bytes on their way (`body`).

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::http::request::Parts;
use hyper::http::{HeaderMap, Method, Version};
use sha2::{Digest, Sha256};
use threadline_schemas::limits::arrival::LINE_BYTES_KEPT;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::Shared;
use super::observation::{Event, Request, Sender, What, Whose};

/// How long the rest of a request may take that cannot be passed on, or whose response has ended.
const REST_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct Exchange {
    shared: Arc<Shared>,
    number: u64,
    sender: Sender,
    state: Mutex<State>,
    /// The request has ended, or its rest was given back.
    request_moved: Notify,
}

struct State {
    /// Until it is entered.
    request: Option<Coming>,
    /// What of the response came before the request had ended, and the bytes reserved for it.
    early: Vec<(i64, Event)>,
    early_bytes: usize,
    /// What of the request's body was not passed on.
    rest: Option<Incoming>,
    /// Bytes of the request's body that came after it was entered.
    late_bytes: u64,
    is_closed: bool,
    /// An event was lost and no later one said so yet.
    has_loss: bool,
}

/// A request whose body is coming.
struct Coming {
    method: Method,
    target: String,
    version: Version,
    headers: HeaderMap,
    client: IpAddr,
    body: Vec<u8>,
    reserved: usize,
    length: u64,
    /// Of everything, once the body is over the limit.
    digest: Option<Sha256>,
}

impl Exchange {
    pub(super) fn begin(shared: &Arc<Shared>, client: IpAddr, head: &Parts) -> Arc<Self> {
        let target: String =
            head.uri.path_and_query().map_or_else(|| head.uri.path().into(), |target| target.as_str().into());
        let sender = Sender::of(client, &target, &head.headers);
        let request = Coming {
            method: head.method.clone(),
            target,
            version: head.version,
            headers: head.headers.clone(),
            client,
            body: Vec::new(),
            reserved: 0,
            length: 0,
            digest: None,
        };
        let state = State {
            request: Some(request),
            early: Vec::new(),
            early_bytes: 0,
            rest: None,
            late_bytes: 0,
            is_closed: false,
            has_loss: false,
        };
        let number = shared.next_exchange.fetch_add(1, Relaxed);
        let state = Mutex::new(state);
        Arc::new(Exchange { shared: Arc::clone(shared), number, sender, state, request_moved: Notify::new() })
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// A frame of the request's body, or its end, is about to pass.
    pub(super) fn request_frame(&self, frame: Option<&Result<Frame<Bytes>, hyper::Error>>, is_last: bool) {
        match frame {
            Some(Ok(frame)) => {
                let mut state = self.lock();
                let bytes = frame.data_ref().map_or(&[][..], |data| data);
                match &mut state.request {
                    Some(coming) => coming.append(bytes, &self.shared),
                    None => state.late_bytes += bytes.len() as u64,
                }
                drop(state);
                if is_last {
                    self.request_end();
                }
            }
            None => self.request_end(),
            // The client broke off; that the exchange is dropped will say so.
            Some(Err(_)) => {}
        }
    }

    /// The request's body has ended.
    pub(super) fn request_end(&self) {
        let mut state = self.lock();
        self.enter_request(&mut state, true);
        let late = std::mem::take(&mut state.late_bytes);
        drop(state);
        self.request_moved.notify_one();
        if late > 0 {
            self.shared.journal.lose_late(late, self.now(), Whose::Exchange(self.number, self.sender));
        }
    }

    /// The rest of a request's body, which nobody asked for.
    pub(super) fn give_back(&self, rest: Incoming) {
        self.lock().rest = Some(rest);
        self.request_moved.notify_one();
    }

    /// Reads what is left of a request that cannot be passed on, so that the record says what it was.
    pub(super) async fn read_rest(&self) {
        let Some(mut rest) = self.lock().rest.take() else { return };
        let reading = async {
            let mut length = 0;
            while let Some(Ok(frame)) = rest.frame().await {
                length += frame.data_ref().map_or(0, Bytes::len);
                self.request_frame(Some(&Ok(frame)), rest.is_end_stream());
                if length > self.shared.options.request_bytes_max {
                    return;
                }
            }
            if rest.is_end_stream() {
                self.request_end();
            }
        };
        if tokio::time::timeout(REST_TIMEOUT, reading).await.is_err() {
            tracing::debug!("a request that could not be passed on did not end");
        }
    }

    pub(super) fn response_head(
        &self,
        status: u16,
        version: Version,
        headers: HeaderMap,
        rewritten: Option<&'static str>,
    ) {
        self.event(What::ResponseHead { status, version, headers, rewritten }, false);
    }

    pub(super) fn chunk(&self, bytes: &Bytes) {
        // A copy, because a slice would keep the whole read buffer alive that it was cut from.
        self.event(What::Chunk(Bytes::copy_from_slice(bytes)), false);
    }

    pub(super) fn end(self: &Arc<Self>, trailers: Option<HeaderMap>) {
        if self.event(What::End { trailers }, true) {
            let ending = Ending(Open::new(Arc::clone(self)));
            // Without a runtime there is nobody left who could send the rest.
            if let Ok(runtime) = Handle::try_current() {
                runtime.spawn(ending.wait());
            }
        }
    }

    pub(super) fn failure(&self, reason: &'static str, status: Option<u16>, is_refusal: bool) {
        self.event(What::Failure { reason, status, is_refusal }, true);
    }

    /// Enters an event, or keeps it until the request has ended: then true.
    fn event(&self, what: What, is_last: bool) -> bool {
        let mut state = self.lock();
        if state.is_closed {
            return false;
        }
        state.is_closed = is_last;
        let may_wait = !is_last || matches!(what, What::End { .. });
        let (now, event) = (self.now(), self.seen(what));
        if state.request.is_some() && may_wait {
            let bytes = event.held_bytes();
            if self.shared.journal.reserve(bytes) {
                state.early_bytes += bytes;
                state.early.push((now, event));
                return true;
            }
        }
        self.enter_request(&mut state, false);
        self.push(&mut state, now, event);
        false
    }

    fn enter_request(&self, state: &mut State, is_complete: bool) {
        let Some(coming) = state.request.take() else { return };
        self.shared.journal.release(coming.reserved + std::mem::take(&mut state.early_bytes));
        let what = What::Request(Box::new(coming.finish(is_complete)));
        self.push(state, self.now(), self.seen(what));
        for (time_unix_nano, event) in std::mem::take(&mut state.early) {
            self.push(state, time_unix_nano, event);
        }
    }

    fn seen(&self, what: What) -> Event {
        Event::Exchange { number: self.number, sender: self.sender, is_after_loss: false, what }
    }

    fn push(&self, state: &mut State, time_unix_nano: i64, mut event: Event) {
        if let Event::Exchange { is_after_loss, .. } = &mut event {
            *is_after_loss = state.has_loss;
        }
        state.has_loss = !self.shared.journal.push(time_unix_nano, event);
    }

    fn now(&self) -> i64 {
        (self.shared.options.clock)()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Coming {
    fn append(&mut self, bytes: &[u8], shared: &Shared) {
        self.length += bytes.len() as u64;
        if let Some(digest) = &mut self.digest {
            return digest.update(bytes);
        }
        let is_within = self.body.len() + bytes.len() <= shared.options.request_bytes_max;
        if is_within && shared.journal.reserve(bytes.len()) {
            self.reserved += bytes.len();
            return self.body.extend_from_slice(bytes);
        }
        let mut digest = Sha256::new();
        digest.update(&self.body);
        digest.update(bytes);
        self.digest = Some(digest);
        self.body.truncate(LINE_BYTES_KEPT);
        let missing = LINE_BYTES_KEPT.saturating_sub(self.body.len()).min(bytes.len());
        self.body.extend_from_slice(&bytes[..missing]);
        self.body.shrink_to_fit();
        let unused = self.reserved.saturating_sub(self.body.len());
        shared.journal.release(unused);
        self.reserved -= unused;
    }

    fn finish(self, is_complete: bool) -> Request {
        Request {
            method: self.method,
            target: self.target,
            version: self.version,
            headers: self.headers,
            client: self.client,
            body: self.body.into(),
            length: self.length,
            sha256: self.digest.map(|digest| digest.finalize().into()),
            is_complete,
        }
    }
}

/// An exchange whose response has ended and whose request has not; when it is dropped, both are entered as they are.
struct Ending(Open);

impl Ending {
    async fn wait(self) {
        let exchange = &self.0.0;
        let moved = async {
            while exchange.lock().request.is_some() {
                exchange.request_moved.notified().await;
                exchange.read_rest().await;
            }
        };
        if tokio::time::timeout(REST_TIMEOUT, moved).await.is_err() {
            tracing::debug!("a request did not end though its response did");
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let exchange = &self.0.0;
        exchange.enter_request(&mut exchange.lock(), false);
    }
}

/// Held by whoever has the exchange in hand: when it is dropped before an ending was entered, the client has left, or we
/// are stopping.
pub(super) struct Open(pub(super) Arc<Exchange>);

impl Open {
    pub(super) fn new(exchange: Arc<Exchange>) -> Self {
        exchange.shared.open.send_modify(|open| *open += 1);
        Open(exchange)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.0.shared.stopping.load(Relaxed) {
            self.0.failure("proxy_stopped", None, false);
        } else {
            self.0.event(What::ClientDisconnect, true);
        }
        self.0.shared.open.send_modify(|open| *open -= 1);
    }
}
