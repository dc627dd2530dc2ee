//! Recording proxy for MCP servers over HTTP: clients connect to us, we to one server, every exchange is recorded.
//!
//! Invariants
//! - bodies pass byte by byte, chunk by chunk as they come; status, header fields (without those that end at a proxy, RFC
//!   9110 section 7.6.1) and trailers as they are; `Host` names the server; nothing is added. The one exception has to be
//!   asked for: [`ProxyOptions::rewrite_resource`]
//! - a client that leaves ends its request to the server at once; a slow client slows the server
//! - our own answers (problem details) stand only where the server gave none
//! - recording never delays or breaks traffic, unless [`OnRecordFailure::Block`] was asked for; what passed is recorded or
//!   counted in a gap
//! - requests go to the configured server only; redirects are passed on, not followed
//! - memory: `held_bytes_max` (32 MiB) wait for the recorder, request bodies in the making included; per connection two
//!   buffers of [`BUFFER_BYTES_MAX`] on each side, at most `connections_max` (512) connections, so 128 MiB; in HTTP/2 per
//!   stream beyond its connection's first, at most `exchanges_max` (1,024) under way; the recorder holds at most 64 MiB of response bodies in the making, and 64 MiB of what it remembers of connections
//!
//! Not here: what exchanges mean (`schemas::decode::http`), who may use the server (its authorization passes through), TLS
//! certificates (a configuration is given).

mod beginning;
mod body;
mod coding;
mod connections;
mod decoding;
mod exchange;
mod forward;
mod guard;
mod headers;
mod journal;
mod mask;
mod oauth;
mod observation;
mod recorder;
mod upstream;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::CertificateDer;
use threadline_schemas::limits::arrival::BODY_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};
use url::Url;
use uuid::Uuid;

use self::beginning::Beginning;
use self::guard::Guard;
use self::journal::Journal;
pub use self::observation::{Event, Gap, GapReason, Observation, Request, Sender, What, Whose};
pub use self::recorder::ExchangeRecorder;
pub use self::upstream::Upstream;
use crate::tap::recording::record_all;
use crate::tap::{Clock, OnRecordFailure, Record, Retry};

/// Bytes of one read or write buffer; also the longest head of a request or response.
pub const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// What all streams of one HTTP/2 connection of a client may send before it is passed on.
const CLIENT_WINDOW_BYTES: u32 = 128 * 1024;
/// What one HTTP/2 stream may have on its way.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// Streams of one HTTP/2 connection of a client.
const STREAMS_MAX: u32 = 128;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Settings of one run.
#[derive(Debug, Clone)]
pub struct ProxyOptions {
    /// Identity of this run, new for every start (UUID version 4).
    pub run: Uuid,
    /// The server.
    pub upstream: Upstream,
    /// Where to connect instead of what the server's name resolves to.
    pub upstream_address: Option<SocketAddr>,
    /// Certificate authorities to trust for the server instead of the public ones.
    pub upstream_authority: Option<Vec<CertificateDer<'static>>>,
    /// TLS towards clients.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// The URL that clients use, if it is not the address we listen on.
    pub public_url: Option<Url>,
    /// Whether clients are told that the protected resource has our URL (see the module on OAuth).
    pub rewrite_resource: bool,
    /// Further names that requests may have in `Host`.
    pub allowed_hosts: Vec<String>,
    /// Pages of other machines that may send requests, by their `Origin`.
    pub allowed_origins: Vec<String>,
    /// What happens to traffic when recording fails.
    pub on_record_failure: OnRecordFailure,
    /// For TCP and TLS to the server together. Default 10 s.
    pub connect_timeout: Duration,
    /// For the head of the server's answer. Default none: a tool may take its time, and a client that gives up leaves.
    pub response_timeout: Option<Duration>,
    /// For the head of a request, and for what a connection begins with; one that says nothing is closed. Default 30 s.
    pub head_timeout: Duration,
    /// Connections of clients at once; further ones wait. Default 512.
    pub connections_max: usize,
    /// Requests of all connections under way at once; a further one is told to come back. Default 1,024, which only HTTP/2
    /// can reach.
    pub exchanges_max: usize,
    /// A longer request body is passed on, but only its beginning and a digest are recorded. Default 16 MiB.
    pub request_bytes_max: usize,
    /// Bytes that may wait for the recorder. Default 32 MiB.
    pub held_bytes_max: usize,
    /// Waits between attempts while recording fails.
    pub retry: Retry,
    /// How long exchanges may go on when the proxy is stopped. Default 1 s.
    pub grace: Duration,
    /// How long the recorder may take for the rest when the proxy has stopped. Default 5 s.
    pub drain_timeout: Duration,
    /// How long it may take then for a gap that counts what is left. Default 3 s.
    pub gap_timeout: Duration,
    /// Where times come from.
    pub clock: Clock,
}

impl ProxyOptions {
    /// The defaults.
    pub fn new(run: Uuid, upstream: Upstream) -> Self {
        ProxyOptions {
            run,
            upstream,
            upstream_address: None,
            upstream_authority: None,
            tls: None,
            public_url: None,
            rewrite_resource: false,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            on_record_failure: OnRecordFailure::default(),
            connect_timeout: Duration::from_secs(10),
            response_timeout: None,
            head_timeout: Duration::from_secs(30),
            connections_max: 512,
            exchanges_max: 1_024,
            request_bytes_max: BODY_BYTES_MAX,
            held_bytes_max: 32 << 20,
            retry: Retry::default(),
            grace: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(5),
            gap_timeout: Duration::from_secs(3),
            clock: crate::tap::now_unix_nano,
        }
    }
}

/// A number of events and the bytes of bodies in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests, response heads, chunks, endings.
    pub events: u64,
    /// Bytes of bodies.
    pub bytes: u64,
}

impl Counts {
    fn add(&mut self, events: u64, bytes: u64) {
        self.events += events;
        self.bytes += bytes;
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What passed.
    pub passed: Counts,
    /// What of it is durable.
    pub recorded: Counts,
    /// False when the deadlines came first: what is missing is then in no gap either.
    pub drained: bool,
}

/// Why a proxy cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Not the URL of a server.
    #[error("an MCP server is named by an http or https URL without user, password and fragment")]
    Upstream,
    /// TLS cannot be set up, perhaps because of a certificate authority.
    #[error("TLS to the MCP server cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What all exchanges of a run share.
struct Shared {
    options: ProxyOptions,
    journal: Arc<Journal>,
    client: upstream::UpstreamClient,
    guard: Guard,
    rewrite: Option<oauth::Rewrite>,
    next_exchange: AtomicU64,
    /// Exchanges under way.
    open: watch::Sender<usize>,
    stopping: AtomicBool,
}

/// A proxy that listens and does not answer yet.
pub struct Proxy {
    listener: TcpListener,
    local: SocketAddr,
    public_url: Url,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Listens on `address`.
    ///
    /// # Errors
    /// When the address or a certificate authority cannot be used. A server that is away is no error.
    pub async fn bind(address: SocketAddr, options: ProxyOptions) -> Result<Proxy, ProxyError> {
        let listen = |source| ProxyError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let local = listener.local_addr().map_err(listen)?;
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let own = format!("{scheme}://{local}{}", options.upstream.path());
        let public_url = match &options.public_url {
            Some(url) => url.clone(),
            None => Url::parse(&own).map_err(|_| ProxyError::Upstream)?,
        };
        let client =
            upstream::client(options.upstream_address, options.upstream_authority.clone(), options.connect_timeout)?;
        let rewrite = options.rewrite_resource.then(|| oauth::Rewrite {
            upstream: options.upstream.origin(),
            public: public_url.origin().ascii_serialization(),
        });
        let shared = Shared {
            journal: Arc::new(Journal::new(options.held_bytes_max, options.on_record_failure)),
            client,
            guard: Guard::new(local, &public_url, &options.allowed_hosts, &options.allowed_origins),
            rewrite,
            next_exchange: AtomicU64::new(1),
            open: watch::Sender::new(0),
            stopping: AtomicBool::new(false),
            options,
        };
        Ok(Proxy { listener, local, public_url, shared: Arc::new(shared) })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The URL for clients.
    pub fn public_url(&self) -> &Url {
        &self.public_url
    }

    /// Answers until `stop` is ready, then waits for exchanges under way and for the recorder.
    pub async fn run<R: Record<Observation> + 'static>(self, recorder: R, stop: impl Future<Output = ()>) -> Outcome {
        let Proxy { listener, local, shared, .. } = self;
        let options = &shared.options;
        let started = Event::Started { upstream: options.upstream.shown(), listen: local };
        shared.journal.push((options.clock)(), started);
        let mut recording = tokio::spawn(record_all(Arc::clone(&shared.journal), recorder, options.retry));
        let (stopping, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        accept_until(stop, listener, &shared, &stopped, &mut connections).await;
        stopping.send_replace(true);
        let rest = tokio::time::timeout(options.grace, async { while connections.join_next().await.is_some() {} });
        if rest.await.is_err() {
            debug!(connections = connections.len(), "connections are cut off");
        }
        shared.stopping.store(true, Relaxed);
        connections.shutdown().await;
        // Streams of HTTP/2 are tasks of their own, which notice that their connection is gone.
        let mut open = shared.open.subscribe();
        let closed = open.wait_for(|open| *open == 0);
        if tokio::time::timeout(options.drain_timeout, closed).await.is_err() {
            warn!("exchanges did not end; how they do is not recorded");
        }
        shared.journal.push((options.clock)(), Event::Stopped);
        shared.journal.close();
        let drained = match tokio::time::timeout(options.drain_timeout, &mut recording).await {
            Ok(joined) => joined.is_ok(),
            Err(_) => {
                // The rest is counted at least.
                shared.journal.give_up();
                tokio::time::timeout(options.gap_timeout, recording).await.is_ok_and(|joined| joined.is_ok())
            }
        };
        let (passed, recorded) = shared.journal.counts();
        Outcome { passed, recorded, drained }
    }
}

async fn accept_until(
    stop: impl Future<Output = ()>,
    listener: TcpListener,
    shared: &Arc<Shared>,
    stopped: &watch::Receiver<bool>,
    connections: &mut JoinSet<()>,
) {
    let slots = Arc::new(Semaphore::new(shared.options.connections_max));
    let mut stop = pin!(stop);
    loop {
        let accepting = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            accepted = accepting => accepted,
            Some(_) = connections.join_next() => continue,
            () = &mut stop => return,
        };
        let Ok(slot) = slot else { return };
        match accepted {
            Ok((stream, client)) => {
                let (shared, stopped) = (Arc::clone(shared), stopped.clone());
                connections.spawn(async move {
                    serve(shared, stream, client, stopped).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of file descriptors or a reset: let others finish first.
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves one connection of a client.
async fn serve(shared: Arc<Shared>, stream: TcpStream, client: SocketAddr, stopped: watch::Receiver<bool>) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "a connection goes on with delays");
    }
    let Some(tls) = shared.options.tls.clone() else {
        return serve_http(shared, stream, client, stopped).await;
    };
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, tokio_rustls::TlsAcceptor::from(tls).accept(stream));
    match handshake.await {
        Ok(Ok(stream)) => serve_http(shared, stream, client, stopped).await,
        Ok(Err(error)) => debug!(%error, "a TLS handshake failed"),
        Err(_) => debug!("a TLS handshake took too long"),
    }
}

async fn serve_http<I>(shared: Arc<Shared>, io: I, client: SocketAddr, mut stopped: watch::Receiver<bool>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .header_read_timeout(shared.options.head_timeout)
        .max_buf_size(BUFFER_BYTES_MAX);
    builder
        .http2()
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CLIENT_WINDOW_BYTES)
        .max_send_buf_size(BUFFER_BYTES_MAX)
        .max_header_list_size(BUFFER_BYTES_MAX as u32);
    let io = TokioIo::new(Beginning::new(io, shared.options.head_timeout));
    let service = service_fn(move |request| forward::forward(Arc::clone(&shared), client.ip(), request));
    let mut connection = pin!(builder.serve_connection(io, service));
    // An error means that the sender is gone, which is a stop too.
    let stop = async { drop(stopped.wait_for(|stopped| *stopped).await) };
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = served {
        debug!(error = &*error, "a connection ended in an error");
    }
}

#[cfg(test)]
mod tests;
