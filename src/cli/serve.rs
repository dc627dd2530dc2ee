//! `threadline serve`: collectors, store, API and pages in one process.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::connect_info::Connected;
use axum::middleware;
use axum::serve::IncomingStream;
use threadline_schemas::decode::otlp::drop_list::DropList;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;

use super::guard::{self, Guard};
use super::{ServeArguments, data_directory, output};

/// How long a stop waits for requests under way.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs until SIGINT or SIGTERM, then drains, seals and syncs.
pub(crate) async fn run(arguments: ServeArguments) -> anyhow::Result<ExitCode> {
    let directory = data_directory(arguments.data.clone())?;
    let stopped = stop_signal();
    let server = Server::start(&directory, &arguments).await?;
    output::talk(&format!("threadline serves {}", directory.display()));
    output::talk(&format!("  pages and API  {}", server.address(&arguments)));
    output::talk(&format!("  OTLP/gRPC      {}", server.otlp_grpc));
    output::talk(&format!("  OTLP/HTTP      {}://{}/v1/{{logs,traces,metrics}}", scheme(&arguments), server.otlp));
    stopped.await;
    output::talk("stopping: draining requests and sealing");
    server.stop().await?;
    Ok(ExitCode::SUCCESS)
}

/// A running server.
pub(crate) struct Server {
    store: threadline_store::Store,
    engine: Arc<threadline_query::Engine>,
    listeners: JoinSet<anyhow::Result<()>>,
    shutdown: watch::Sender<bool>,
    correlating: tokio::task::JoinHandle<()>,
    forwarding: Option<tokio::task::JoinHandle<()>>,
    /// Where API and pages listen.
    pub(crate) listen: SocketAddr,
    otlp: SocketAddr,
    otlp_grpc: SocketAddr,
}

impl Server {
    /// Opens the store and binds the addresses.
    pub(crate) async fn start(directory: &Path, arguments: &ServeArguments) -> anyhow::Result<Server> {
        let tls = tls(arguments)?;
        let token = arguments.token_file.as_deref();
        let collectors = Arc::new(super::token::Tokens::of(directory));
        let api_guard = Guard::new(arguments.listen, tls.is_some(), token, &collectors)?;
        let otlp_guard = Guard::new(arguments.otlp_http, tls.is_some(), token, &collectors)?;
        let grpc_guard = Guard::new(arguments.otlp_grpc, tls.is_some(), token, &collectors)?;
        let drop_list = drop_list(arguments.otlp_drop.as_deref())?;
        let forward = arguments.forward.as_deref().map(super::forward::config).transpose()?;
        let store = open_store(directory).await?;
        let pipeline = super::record::pipeline(directory, store.appender())?;
        let access_log = Arc::new(super::access::StoreLog(pipeline.clone()));
        let engine = super::engine(store.reader(), directory, Some(access_log), arguments.public_url.clone())?;
        let engine = Arc::new(engine);
        let collecting = threadline_ingest::http::Collecting::new(pipeline.clone());
        let receivers = threadline_ingest::http::Otlp::new(collecting.clone(), drop_list);
        let pipeline_metrics = threadline_ingest::pipeline::PipelineMetrics(pipeline);
        engine.metrics().register(|registry| {
            registry.register_collector(Box::new(receivers.counts().clone()));
            registry.register_collector(Box::new(pipeline_metrics));
            registry.register_collector(Box::new(threadline_ingest::kafka::KafkaMetrics(directory.to_path_buf())));
        });
        let otlp = receivers.router();
        let in_turn = middleware::from_fn_with_state(engine.clone(), threadline_query::in_turn);
        let noted = middleware::from_fn_with_state(engine.clone(), threadline_query::noted);
        let pages = threadline_dashboards::router(engine.clone()).layer(noted).layer(in_turn);
        let api = Router::new()
            .merge(threadline_query::router(engine.clone(), threadline_ingest::http::openapi()))
            .merge(threadline_ingest::http::events(collecting))
            .merge(otlp.clone())
            .merge(pages);

        let (shutdown, stopped) = watch::channel(false);
        let beside = threadline_ingest::correlate::beside::Beside::new(directory);
        let correlating =
            tokio::spawn(threadline_ingest::correlate::beside::run_beside(beside, store.reader(), stopped.clone()));
        tokio::spawn(threadline_query::record_reads(engine.clone(), stopped.clone()));
        let forwarding = forward.map(|config| tokio::spawn(forward_beside(config, directory.into(), stopped.clone())));
        let mut listeners = JoinSet::new();
        let listen = listen(&mut listeners, arguments.listen, guarded(api, api_guard), tls.clone(), stopped.clone())
            .await
            .with_context(|| {
                format!("is another server using {}? choose another with --listen ADDR", arguments.listen)
            })?;
        let grpc = guarded(otlp.clone(), grpc_guard);
        let otlp_grpc =
            listen_otlp(&mut listeners, "--otlp-grpc", arguments.otlp_grpc, grpc, tls.clone(), stopped.clone()).await?;
        let http = guarded(otlp, otlp_guard);
        let otlp = listen_otlp(&mut listeners, "--otlp-http", arguments.otlp_http, http, tls, stopped).await?;
        Ok(Server { store, engine, listeners, shutdown, correlating, forwarding, listen, otlp, otlp_grpc })
    }

    fn address(&self, arguments: &ServeArguments) -> String {
        format!("{}://{}", scheme(arguments), self.listen)
    }

    /// Stops accepting, waits for what is under way, seals and syncs.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.send_replace(true);
        let drained = tokio::time::timeout(DRAIN, async {
            while let Some(listener) = self.listeners.join_next().await {
                listener??;
            }
            anyhow::Ok(())
        });
        match drained.await {
            Ok(result) => result?,
            Err(_) => tracing::warn!("requests were still under way after {} s and were cut off", DRAIN.as_secs()),
        }
        self.engine.record_reads().await;
        // A window under way is finished: its links are whole or not there.
        if self.correlating.await.is_err() {
            tracing::warn!("the correlation ended early");
        }
        if let Some(forwarding) = self.forwarding
            && forwarding.await.is_err()
        {
            tracing::warn!("forwarding ended early");
        }
        self.store.close().await.context("cannot close the store")
    }
}

/// Forwards until the server stops. That it cannot is no reason not to record.
async fn forward_beside(
    config: threadline_query::forward::Config,
    directory: std::path::PathBuf,
    stopped: watch::Receiver<bool>,
) {
    if let Err(error) = threadline_query::forward::run(config, &directory, stopped).await {
        tracing::error!(error = &error as &dyn std::error::Error, "nothing is forwarded");
    }
}

async fn open_store(directory: &Path) -> anyhow::Result<threadline_store::Store> {
    threadline_store::Store::open(directory, super::record::store_config()?)
        .await
        .with_context(|| format!("cannot open the data directory {}", directory.display()))
}

/// How all addresses are spoken to.
fn scheme(arguments: &ServeArguments) -> &'static str {
    if arguments.tls_cert.is_some() { "https" } else { "http" }
}

fn guarded(router: Router, guard: Guard) -> Router {
    router.layer(middleware::from_fn_with_state(guard, guard::check))
}

/// What OTLP receivers leave out.
fn drop_list(path: Option<&Path>) -> anyhow::Result<DropList> {
    let Some(path) = path else { return Ok(DropList::shipped()) };
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the drop list {}", path.display()))?;
    DropList::parse(&text).with_context(|| format!("in {}", path.display()))
}

/// Another collector may have the customary port: say which option chooses another.
async fn listen_otlp(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    option: &str,
    address: SocketAddr,
    router: Router,
    tls: Option<Arc<rustls::ServerConfig>>,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<SocketAddr> {
    listen(tasks, address, router, tls, stopped)
        .await
        .with_context(|| format!("is another OTLP collector using {address}? choose another with {option} ADDR"))
}

async fn listen(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    address: SocketAddr,
    router: Router,
    tls: Option<Arc<rustls::ServerConfig>>,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let local = listener.local_addr()?;
    let until = wait_for(stopped);
    let service = router.into_make_service_with_connect_info::<guard::Peer>();
    match tls {
        None => tasks.spawn(async move { Ok(axum::serve(listener, service).with_graceful_shutdown(until).await?) }),
        Some(config) => {
            let listener = TlsListener::start(listener, config)?;
            tasks.spawn(async move { Ok(axum::serve(listener, service).with_graceful_shutdown(until).await?) })
        }
    };
    Ok(local)
}

async fn wait_for(mut stopped: watch::Receiver<bool>) {
    // An error means the sender is gone, which is a stop too.
    let _stopped = stopped.wait_for(|stop| *stop).await;
}

/// Hands out connections whose TLS handshake is done. Handshakes run beside each other, so that a
/// client that dawdles keeps nobody waiting.
struct TlsListener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    local: SocketAddr,
}

/// Handshakes under way at once; further connections wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 256;

impl TlsListener {
    fn start(tcp: TcpListener, config: Arc<rustls::ServerConfig>) -> std::io::Result<TlsListener> {
        let local = tcp.local_addr()?;
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        let slots = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let (done, ready) = mpsc::channel(HANDSHAKES_MAX);
        tokio::spawn(async move {
            while let Ok(slot) = slots.clone().acquire_owned().await {
                let Ok((stream, address)) = tcp.accept().await else {
                    // Out of file descriptors or a reset: let others finish first.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                if done.is_closed() {
                    break;
                }
                let (acceptor, done) = (acceptor.clone(), done.clone());
                tokio::spawn(async move {
                    let handshake = tokio::time::timeout(Duration::from_secs(5), acceptor.accept(stream));
                    if let Ok(Ok(stream)) = handshake.await {
                        // The receiver is gone when the server stops.
                        let _stopped = done.send((stream, address)).await;
                    }
                    drop(slot);
                });
            }
        });
        Ok(TlsListener { ready, local })
    }
}

impl Connected<IncomingStream<'_, TcpListener>> for guard::Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        guard::Peer(stream.remote_addr().ip())
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for guard::Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        guard::Peer(stream.remote_addr().ip())
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(self.local)
    }
}

fn tls(arguments: &ServeArguments) -> anyhow::Result<Option<Arc<rustls::ServerConfig>>> {
    let (Some(certificate), Some(key)) = (&arguments.tls_cert, &arguments.tls_key) else {
        return Ok(None);
    };
    tls_config(certificate, key).map(|config| Some(Arc::new(config)))
}

/// What a listener shows to its clients.
pub(crate) fn tls_config(certificate: &Path, key: &Path) -> anyhow::Result<rustls::ServerConfig> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read the certificate {}", certificate.display()))?;
    let key =
        PrivateKeyDer::from_pem_file(key).with_context(|| format!("cannot read the private key {}", key.display()))?;
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    let mut config = config.context("the certificate and key do not fit together")?;
    // gRPC needs HTTP/2, which TLS clients choose by this name.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Resolves at SIGINT or SIGTERM. They are caught from the call on, not from the first poll: call it before anybody is told
/// that the program is ready.
pub(crate) fn stop_signal() -> impl Future<Output = ()> {
    use tokio::signal::unix::{Signal, SignalKind, signal};
    async fn received(signal: Option<Signal>) {
        match signal {
            Some(mut signal) => drop(signal.recv().await),
            // It cannot be caught: its default, which ends the process, stays.
            None => std::future::pending().await,
        }
    }
    let (interrupt, terminate) = (signal(SignalKind::interrupt()).ok(), signal(SignalKind::terminate()).ok());
    async move {
        tokio::select! {
            () = received(interrupt) => {}
            () = received(terminate) => {}
        }
    }
}
