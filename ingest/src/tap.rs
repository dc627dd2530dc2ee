//! Recording proxy for MCP servers on stdio: runs the server as its child, passes every byte through unchanged, and
//! records the lines beside it.
//!
//! Invariants
//! - bytes in = bytes out, in all three streams; a chunk is forwarded before it is split or recorded
//! - recording never delays or stops the server, unless [`OnRecordFailure::Block`] was asked for
//! - what passed is recorded or counted in a gap; what was still unrecorded at the drain deadline is counted in [`Outcome`]
//! - standard output carries the protocol only; stderr is drained always; SIGINT, SIGTERM, SIGHUP and SIGQUIT reach the
//!   server; its exit code is ours, 128 + n when signal n killed it
//! - memory: `held_bytes_max` plus one frame, and per stream an unfinished line of at most `line_bytes_max`
//!
//! Not here: what frames mean, redaction, where observations go (a [`Record`] is given), the HTTP proxy.

mod client;
mod journal;
mod lines;
mod observation;
mod pump;
pub(crate) mod recording;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, ErrorKind},
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::{ExitStatus, Stdio},
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use threadline_schemas::limits::arrival::LINE_BYTES_MAX;
use tokio::{process::Command, sync::oneshot};
use tracing::warn;
use uuid::Uuid;

pub use self::{
    client::Client,
    observation::{Direction, End, Event, Frame, Gap, GapReason, Observation, Record, RecordError},
    recording::Retry,
};
use self::{client::Signals, journal::Journal, pump::Stream};

/// Where times come from: nanoseconds since 1970.
pub type Clock = fn() -> i64;

/// What happens to the server when recording fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRecordFailure {
    /// It goes on; what could not be recorded becomes a gap.
    #[default]
    Warn,
    /// Once a failure is noticed, nothing more passes in either direction until recording works again.
    Block,
}

/// Settings of one run.
#[derive(Clone, Debug)]
pub struct TapOptions {
    /// Identity of this run, new for every start (UUID version 4).
    pub run: Uuid,
    /// What happens to the server when recording fails.
    pub on_record_failure: OnRecordFailure,
    /// A longer line is passed on, but only its beginning and a digest are recorded. Default 16 MiB.
    pub line_bytes_max: usize,
    /// Bytes that may wait for the recorder. Default 8 MiB.
    pub held_bytes_max: usize,
    /// Waits between attempts while recording fails.
    pub retry: Retry,
    /// How long the recorder may take for the rest when the server has ended. Default 5 s.
    pub drain_timeout: Duration,
    /// The server has exited and the client is done, but something still holds the server's output open: leave after this
    /// long without a byte. Default 1 s.
    pub linger: Duration,
    /// Where times come from.
    pub clock: Clock,
}

impl TapOptions {
    /// The defaults.
    pub fn new(run: Uuid) -> Self {
        Self {
            run,
            on_record_failure: OnRecordFailure::default(),
            line_bytes_max: LINE_BYTES_MAX,
            held_bytes_max: 8 << 20,
            retry: Retry::default(),
            drain_timeout: Duration::from_secs(5),
            linger: Duration::from_secs(1),
            clock: now_unix_nano,
        }
    }
}

/// A number of frames and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lines.
    pub frames: u64,
    /// Bytes, line feeds not counted.
    pub bytes: u64,
}

impl Counts {
    fn add(&mut self, frames: u64, bytes: u64) {
        self.frames += frames;
        self.bytes += bytes;
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What to exit with: the server's code, or 128 + signal.
    pub code: u8,
    /// Frames that passed.
    pub passed: Counts,
    /// Those of them that are durable.
    pub recorded: Counts,
    /// False when the drain deadline came first: what is missing is then in no gap observation either.
    pub drained: bool,
}

/// Why a run could not be.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// There is no program to run.
    #[error("no command given")]
    NoCommand,
    /// The program could not be started.
    #[error("cannot start {}", program.display())]
    Spawn {
        /// Its name as given.
        program: OsString,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Pipes, threads or signal handlers could not be set up.
    #[error("cannot set up the tap")]
    SetUp(#[source] io::Error),
    /// The end of the server could not be awaited.
    #[error("cannot wait for the server")]
    Wait(#[source] io::Error),
}

impl TapError {
    /// What to exit with: 127 not found, 126 not executable, 125 our own failure.
    pub fn exit_code(&self) -> u8 {
        const NOT_EXECUTABLE: i32 = 8; // ENOEXEC
        match self {
            Self::Spawn { source, .. } if source.kind() == ErrorKind::NotFound => 127,
            Self::Spawn { source, .. }
                if source.kind() == ErrorKind::PermissionDenied || source.raw_os_error() == Some(NOT_EXECUTABLE) =>
            {
                126
            }
            _ => 125,
        }
    }
}

/// Runs `command` between `client` and itself until the server has ended and its output is passed on, then waits for the
/// recorder.
///
/// A thread that still reads the client's input may be left behind: end the process after this.
pub async fn run<R: Record + 'static>(
    command: &[OsString],
    client: Client,
    mut recorder: R,
    options: TapOptions,
) -> Result<Outcome, TapError> {
    let (program, arguments) = command.split_first().ok_or(TapError::NoCommand)?;
    // Before the start, so that no signal is lost between the two.
    let mut signals = Signals::catch().map_err(TapError::SetUp)?;
    let (child_input, to_child) = io::pipe().map_err(TapError::SetUp)?;
    let (from_child, child_output) = io::pipe().map_err(TapError::SetUp)?;
    let (errors_from_child, child_error) = io::pipe().map_err(TapError::SetUp)?;
    // The builder holds our copies of the child's ends and closes them when dropped, at the end of this statement.
    let spawned = Command::new(program)
        .args(arguments)
        .stdin(Stdio::from(child_input))
        .stdout(Stdio::from(child_output))
        .stderr(Stdio::from(child_error))
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(source) => {
            recorder.close().await;
            return Err(TapError::Spawn { program: program.clone(), source });
        }
    };

    let clock = options.clock;
    let journal = Arc::new(Journal::new(options.held_bytes_max, options.on_record_failure));
    let pid = child.id().unwrap_or_default();
    journal.push(clock(), Event::Started { run: options.run, command: command.to_vec(), pid });
    let recording = tokio::spawn(recording::record_all(Arc::clone(&journal), recorder, options.retry));
    let start = |direction, source: OwnedFd, sink: OwnedFd| {
        let stream = Stream::new(direction, Arc::clone(&journal), options.line_bytes_max, clock);
        Pumping::start(stream, source, sink).map_err(TapError::SetUp)
    };
    let mut input = start(Direction::ClientToServer, client.input, to_child.into())?;
    let mut output = start(Direction::ServerToClient, from_child.into(), client.output)?;
    let mut errors = start(Direction::ServerStderr, errors_from_child.into(), client.error)?;

    let status = loop {
        tokio::select! {
            status = child.wait() => break status.map_err(TapError::Wait)?,
            signal = signals.next() => {
                // Only this task reaps the child, so the id is still its own.
                if let Some(pid) = child.id() {
                    client::send_signal(pid, signal);
                }
            }
        }
    };
    pass_on_rest(&mut input, &mut output, &mut errors, &mut signals, options.linger).await;
    // A pump that still waits for a client or a grandchild is left behind; what it had read so far is entered here.
    for pumping in [&input, &output, &errors] {
        pumping.stream.end(End::Sink, true);
    }
    journal.push(clock(), Event::Exited { code: status.code(), signal: status.signal() });
    journal.close();
    let drained = tokio::time::timeout(options.drain_timeout, recording).await.is_ok_and(|joined| joined.is_ok());
    let (passed, recorded) = journal.counts();
    if !drained {
        let (frames, bytes) = (passed.frames - recorded.frames, passed.bytes - recorded.bytes);
        warn!(frames, bytes, "not recorded before the drain deadline");
    }
    Ok(Outcome { code: exit_code(status), passed, recorded, drained })
}

/// A stream and the news that its pump has ended.
struct Pumping {
    stream: Arc<Stream>,
    ended: oneshot::Receiver<()>,
    is_ended: bool,
}

impl Pumping {
    fn start(stream: Stream, source: OwnedFd, sink: OwnedFd) -> io::Result<Self> {
        let stream = Arc::new(stream);
        let (end, ended) = oneshot::channel();
        let pumped = Arc::clone(&stream);
        thread::Builder::new().name(stream.direction.as_str().into()).spawn(move || {
            pumped.pump(File::from(source), File::from(sink));
            drop(end);
        })?;
        Ok(Self { stream, ended, is_ended: false })
    }

    async fn wait(&mut self) {
        if !self.is_ended {
            // The sender is dropped, never used: an error is the news.
            drop((&mut self.ended).await);
            self.is_ended = true;
        }
    }

    fn has_ended(&mut self) -> bool {
        self.is_ended = self.is_ended || self.ended.try_recv() != Err(oneshot::error::TryRecvError::Empty);
        self.is_ended
    }
}

/// Waits until the output of the exited server is with the client. A grandchild may hold the pipes open: while the client
/// talks to it we stay, as a direct pipe would; when the client is done (or told us to end), `linger` without a byte ends it.
async fn pass_on_rest(
    input: &mut Pumping,
    output: &mut Pumping,
    errors: &mut Pumping,
    signals: &mut Signals,
    linger: Duration,
) {
    let mut told_to_end = false;
    let mut seen = u64::MAX;
    loop {
        let read = output.stream.bytes_read.load(Relaxed) + errors.stream.bytes_read.load(Relaxed);
        let is_quiet = read == seen;
        seen = read;
        let is_stuck_on_client = output.stream.is_forwarding();
        let client_is_done = told_to_end || output.has_ended() || (input.has_ended() && !is_stuck_on_client);
        if (output.has_ended() && errors.has_ended()) || (is_quiet && client_is_done) {
            return;
        }
        tokio::select! {
            () = output.wait(), if !output.is_ended => {}
            () = errors.wait(), if !errors.is_ended => {}
            _ = signals.next() => told_to_end = true,
            () = tokio::time::sleep(linger) => continue,
        }
        seen = u64::MAX;
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(125)
}

pub(crate) fn now_unix_nano() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
