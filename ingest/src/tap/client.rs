//! The side that started us: its three streams, and the signals it sends.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{self, SignalKind};
use tracing::debug;

/// Our ends of the three streams. They must be the only copies, or the client does not see them close.
#[derive(Debug)]
pub struct Client {
    /// What the client writes to the server.
    pub input: OwnedFd,
    /// What the client reads as the server's output.
    pub output: OwnedFd,
    /// Where the server's log lines go.
    pub error: OwnedFd,
}

impl Client {
    /// Takes over the standard streams of this process. Descriptors 0 and 1 become `/dev/null`, so that they can be closed
    /// towards the client, and so that nothing but the protocol can reach its standard output.
    pub fn from_process() -> io::Result<Self> {
        let client = Self {
            input: io::stdin().as_fd().try_clone_to_owned()?,
            output: io::stdout().as_fd().try_clone_to_owned()?,
            error: io::stderr().as_fd().try_clone_to_owned()?,
        };
        let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        Ok(client)
    }
}

/// The signals that are passed on. While this lives they do not end the process.
pub(super) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hang_up: unix::Signal,
    quit: unix::Signal,
}

impl Signals {
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
            hang_up: unix::signal(SignalKind::hangup())?,
            quit: unix::signal(SignalKind::quit())?,
        })
    }

    /// The next one; cancel safe.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.interrupt.recv() => Signal::INT,
            Some(()) = self.terminate.recv() => Signal::TERM,
            Some(()) = self.hang_up.recv() => Signal::HUP,
            Some(()) = self.quit.recv() => Signal::QUIT,
            else => std::future::pending().await,
        }
    }
}

/// Sends `signal` to the server. It may be gone already: then there is nobody to tell.
pub(super) fn send_signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
        debug!(%error, "signal not passed on");
    }
}
