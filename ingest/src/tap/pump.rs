//! Moves the bytes of one stream, chunk by chunk and untouched, then enters the lines they complete in the journal.
//!
//! Invariants
//! - a chunk is forwarded before anything else is done with it; it is never changed, merged or held back
//! - when the source ends, the sink is closed; when the sink is broken, the source is closed: each side sees what it would
//!   see on a direct pipe. Only stderr is read on without a reader, since a full pipe would hang the server
//!
//! One blocking thread per stream, not tokio: it works on pipes, sockets, files and terminals alike, leaves the flags of
//! inherited descriptors alone, and costs one wake-up per hop.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    Clock,
    journal::Journal,
    lines::{Line, Splitter},
    observation::{Direction, End, Event, Frame},
};

const CHUNK_BYTES: usize = 64 * 1024;

/// One stream, shared between its pump and `run`, which ends it when the server is gone.
pub(super) struct Stream {
    pub(super) direction: Direction,
    journal: Arc<Journal>,
    clock: Clock,
    /// `None` once the stream has ended.
    splitter: Mutex<Option<Splitter>>,
    /// Bytes read so far.
    pub(super) bytes_read: AtomicU64,
}

impl Stream {
    pub(super) fn new(direction: Direction, journal: Arc<Journal>, line_bytes_max: usize, clock: Clock) -> Self {
        let splitter = Mutex::new(Some(Splitter::new(line_bytes_max)));
        Self { direction, journal, clock, splitter, bytes_read: AtomicU64::new(0) }
    }

    /// Runs until one end closes.
    pub(super) fn pump(&self, mut source: File, mut sink: File) {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut broken = false;
        let by = loop {
            let Ok(read @ 1..) = read_some(&mut source, &mut chunk) else { break End::Source };
            self.bytes_read.fetch_add(read as u64, Relaxed);
            let chunk = &chunk[..read];
            let ticket = self.journal.begin(self.direction, (self.clock)());
            let written = if broken { 0 } else { write_counted(&mut sink, chunk) };
            self.journal.finish(&ticket, self.frames(chunk, written));
            if written < read && !broken {
                broken = true;
                if self.direction != Direction::ServerStderr {
                    break End::Sink;
                }
                self.journal.push((self.clock)(), Event::Closed { direction: self.direction, by: End::Sink });
            }
        };
        // Before the ends close: once the server sees that, it may exit, and `run` ends the streams that have no end yet.
        self.end(by, !broken);
        drop((source, sink));
    }

    /// Enters the unfinished last line and the end. What a pump still reads after this is forwarded, not recorded.
    pub(super) fn end(&self, by: End, delivered: bool) {
        let splitter = self.splitter.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut splitter) = splitter else { return };
        if let Some(line) = splitter.finish() {
            let ticket = self.journal.begin_at_once(self.direction, (self.clock)());
            self.journal.finish(&ticket, vec![self.frame(line, delivered)]);
        }
        self.journal.push((self.clock)(), Event::Closed { direction: self.direction, by });
    }

    /// Whether bytes were read that the sink has not yet taken.
    pub(super) fn is_forwarding(&self) -> bool {
        self.journal.is_forwarding(self.direction)
    }

    fn frames(&self, chunk: &[u8], written: usize) -> Vec<Frame> {
        let mut splitter = self.splitter.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = splitter.as_mut().map(|splitter| splitter.push(chunk)).unwrap_or_default();
        drop(splitter);
        lines
            .into_iter()
            .map(|line| {
                let delivered = line.end <= written;
                self.frame(line, delivered)
            })
            .collect()
    }

    fn frame(&self, line: Line, delivered: bool) -> Frame {
        let Line { bytes, length, terminated, sha256, end: _ } = line;
        Frame { direction: self.direction, bytes, length, terminated, delivered, sha256 }
    }
}

fn read_some(source: &mut File, chunk: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(chunk) {
            Err(error) if must_retry(&error) => {}
            result => return result,
        }
    }
}

/// How many bytes the sink took before it broke.
fn write_counted(sink: &mut File, chunk: &[u8]) -> usize {
    let mut written = 0;
    while written < chunk.len() {
        match sink.write(&chunk[written..]) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if must_retry(&error) => {}
            Err(_) => break,
        }
    }
    written
}

/// Another process may have made a shared descriptor non-blocking; that is not an end.
fn must_retry(error: &io::Error) -> bool {
    if error.kind() == ErrorKind::WouldBlock {
        std::thread::sleep(Duration::from_millis(1));
    }
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
