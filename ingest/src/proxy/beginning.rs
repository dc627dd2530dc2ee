//! A connection has to begin: which version of HTTP it speaks is read without a time limit by the server's library, so one that
//! sends nothing, or half of what HTTP/2 begins with, would keep its place for ever.
//!
//! Not here: heads of requests, which have their own limit.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What HTTP/2 begins with (RFC 9113, section 3.4); what differs from it is HTTP/1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection that fails unless its first bytes are there in time.
pub(super) struct Beginning<I> {
    io: I,
    /// Until it is known which version it speaks.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Bytes of the preface that are there.
    read: usize,
}

impl<I> Beginning<I> {
    pub(super) fn new(io: I, limit: Duration) -> Self {
        Beginning { io, deadline: Some(Box::pin(tokio::time::sleep(limit))), read: 0 }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Beginning<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buffer);
        let Some(deadline) = &mut this.deadline else { return polled };
        if polled.is_pending() && deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let (new, rest) = (&buffer.filled()[before..], &PREFACE[this.read..]);
        if new.len() >= rest.len() || !rest.starts_with(new) {
            this.deadline = None;
        } else {
            this.read += new.len();
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Beginning<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }
}
