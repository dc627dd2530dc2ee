//! Bodies on their way: each chunk is entered into the journal, then handed on as it came.
//!
//! Invariants
//! - nothing is held: a frame is asked for when the other side asks, and given out at once, so a slow reader slows the
//!   writer through the windows of both connections
//! - with `Block` no frame is asked for while recording fails

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::exchange::{Exchange, Open};

type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What stops a frame while recording fails.
#[derive(Default)]
struct Gate(Option<Wait>);

impl Gate {
    fn poll(&mut self, exchange: &Arc<Exchange>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.is_none() && exchange.shared().journal.is_blocked() {
            let shared = Arc::clone(exchange.shared());
            self.0 = Some(Box::pin(async move { shared.journal.unblocked().await }));
        }
        if let Some(wait) = &mut self.0 {
            ready!(wait.as_mut().poll(cx));
            self.0 = None;
        }
        Poll::Ready(())
    }
}

/// A request's body on its way to the server. What of it was not asked for is given back to the exchange, because the
/// record should say what could not be passed on.
pub(super) struct RequestBody {
    /// Until it is given back.
    inner: Option<Incoming>,
    exchange: Arc<Exchange>,
    gate: Gate,
}

impl RequestBody {
    pub(super) fn new(inner: Incoming, exchange: Arc<Exchange>) -> Self {
        if inner.is_end_stream() {
            exchange.request_end();
        }
        RequestBody { inner: Some(inner), exchange, gate: Gate::default() }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(rest) = self.inner.take().filter(|inner| !inner.is_end_stream()) {
            self.exchange.give_back(rest);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        ready!(this.gate.poll(&this.exchange, cx));
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
        this.exchange.request_frame(frame.as_ref(), inner.is_end_stream());
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map(Incoming::size_hint).unwrap_or_default()
    }
}

/// A response's body on its way to the client.
pub(super) struct ResponseBody {
    inner: Incoming,
    open: Open,
    gate: Gate,
    /// Bytes that are to come, where the server said so.
    missing: Option<u64>,
}

/// A body of known length is not asked for more once it is complete, although trailers might follow.
impl Drop for ResponseBody {
    fn drop(&mut self) {
        if self.missing == Some(0) {
            self.open.0.end(None);
        }
    }
}

impl ResponseBody {
    pub(super) fn new(inner: Incoming, open: Open) -> Self {
        if inner.is_end_stream() {
            open.0.end(None);
        }
        let missing = inner.size_hint().exact();
        ResponseBody { inner, open, gate: Gate::default(), missing }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let exchange = &this.open.0;
        ready!(this.gate.poll(exchange, cx));
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    exchange.chunk(data);
                    this.missing = this.missing.map(|missing| missing.saturating_sub(data.len() as u64));
                }
                let trailers = frame.trailers_ref();
                if trailers.is_some() || this.inner.is_end_stream() {
                    exchange.end(trailers.cloned());
                }
            }
            None => exchange.end(None),
            Some(Err(_)) => exchange.failure("upstream_closed", None, false),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What a client gets.
pub(super) enum Answer {
    /// What the server said.
    Passed(ResponseBody),
    /// What we say ourselves.
    Own(Full<Bytes>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Answer::Passed(body) => Pin::new(body).poll_frame(cx),
            Answer::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answer::Passed(body) => body.is_end_stream(),
            Answer::Own(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Passed(body) => body.size_hint(),
            Answer::Own(body) => body.size_hint(),
        }
    }
}
