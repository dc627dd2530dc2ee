//! Raw sockets on both sides of a proxy: what passes byte by byte, when, and what is recorded of it.

mod hostile;
mod traffic;

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::tap::RecordError;

/// Hands observations over.
struct Collect(mpsc::UnboundedSender<Observation>);

impl Record<Observation> for Collect {
    async fn record(&mut self, batch: Vec<Observation>) -> Result<(), RecordError> {
        for observation in batch {
            self.0.send(observation).map_err(|error| RecordError::Unavailable(error.into()))?;
        }
        Ok(())
    }
}

struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    outcome: JoinHandle<Outcome>,
}

impl Running {
    async fn start<R: Record<Observation> + 'static>(
        upstream: &str,
        recorder: R,
        change: impl FnOnce(&mut ProxyOptions),
    ) -> Running {
        let mut options = ProxyOptions::new(Uuid::nil(), Upstream::parse(upstream).unwrap());
        options.retry = Retry { min: Duration::from_millis(1), max: Duration::from_millis(4) };
        // Long enough for any machine; reached only where a test wants it to be.
        options.drain_timeout = Duration::from_secs(60);
        options.grace = Duration::from_millis(10);
        change(&mut options);
        let proxy = Proxy::bind("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
        let address = proxy.local_addr();
        let (stop, stopped) = oneshot::channel::<()>();
        let outcome = tokio::spawn(proxy.run(recorder, async { drop(stopped.await) }));
        Running { address, stop, outcome }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn stop(self) -> Outcome {
        self.stop.send(()).unwrap();
        self.outcome.await.unwrap()
    }
}

/// A server that a test plays by hand.
async fn server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    (listener, url)
}

/// Reads up to and with `end`.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        match stream.read_u8().await {
            Ok(byte) => read.push(byte),
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&read)),
        }
    }
    String::from_utf8(read).unwrap()
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    // A connection that was cut off may be reset; what came before counts.
    let _reset = stream.read_to_end(&mut read).await;
    String::from_utf8(read).unwrap()
}

fn post(address: SocketAddr, fields: &str, body: &str) -> String {
    format!("POST /mcp HTTP/1.1\r\nhost: {address}\r\n{fields}content-length: {}\r\n\r\n{body}", body.len())
}

fn show(observation: &Observation) -> String {
    match &observation.event {
        Event::Exchange { number, is_after_loss, what, .. } => {
            let lost = if *is_after_loss { " after a loss" } else { "" };
            let what = match what {
                What::Request(request) => format!(
                    "{} {} {:?}{}{}",
                    request.method,
                    request.target,
                    String::from_utf8_lossy(&request.body),
                    if request.is_complete { "" } else { " incomplete" },
                    request.sha256.map(|_| format!(" of {}", request.length)).unwrap_or_default(),
                ),
                What::ResponseHead { status, rewritten, .. } => format!("{status} {}", rewritten.unwrap_or_default()),
                What::Chunk(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
                What::End { trailers: Some(trailers) } => format!("end {trailers:?}"),
                What::End { trailers: None } => "end".into(),
                What::ClientDisconnect => "client-disconnect".into(),
                What::Failure { reason, status, is_refusal } => format!("failure {reason} {status:?} {is_refusal}"),
            };
            format!("{number}{lost} {what}")
        }
        Event::Started { .. } => "started".into(),
        Event::Gap(gap) => format!("gap {} events {} bytes {}", gap.events, gap.bytes, gap.reason.as_str()),
        Event::Stopped => "stopped".into(),
    }
}

fn shown(observations: &mut mpsc::UnboundedReceiver<Observation>) -> String {
    let mut text = String::new();
    while let Ok(observation) = observations.try_recv() {
        text += &show(&observation);
        text.push('\n');
    }
    text
}
