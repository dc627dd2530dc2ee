//! `threadline tap --upstream URL`: records an MCP server over HTTP, standing between it and its clients.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use threadline_ingest::proxy::{ExchangeRecorder, Proxy, ProxyOptions, Upstream};
use url::Url;

use super::{OnRecordFailure, TapArguments, output, record, serve};

/// What only a tap over HTTP has.
#[derive(Debug, Args)]
#[command(next_help_heading = "MCP over HTTP")]
pub(crate) struct ProxyArguments {
    /// Record an MCP server over HTTP instead: clients connect to --listen with the path of this URL, everything passes on
    /// to its origin. Redirects are the client's to follow
    #[arg(long, value_name = "URL", conflicts_with = "command")]
    pub(crate) upstream: Option<String>,
    /// Where clients connect; port 0 takes a free one and prints it. Beyond loopback --tls-cert is needed
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", requires = "upstream")]
    listen: SocketAddr,
    /// Connect here, whatever the name in --upstream resolves to: for a proxy that runs under the server's own name
    #[arg(long, value_name = "ADDR", requires = "upstream")]
    upstream_address: Option<SocketAddr>,
    /// Certificate authority (PEM) to trust for --upstream instead of the public ones
    #[arg(long, value_name = "FILE", requires = "upstream")]
    upstream_ca: Option<PathBuf>,
    /// The URL that clients use, if it is not http(s)://ADDR/PATH
    #[arg(long, value_name = "URL", requires = "upstream")]
    public_url: Option<Url>,
    /// OAuth: tell clients that the protected resource has the proxy's URL
    ///
    /// A server that asks for OAuth tokens names itself in its metadata, and clients refuse metadata that names another
    /// URL than the one they use. With this, `resource` in /.well-known/oauth-protected-resource and `resource_metadata` in
    /// WWW-Authenticate bear the proxy's origin; nothing else is changed. The authorization server is then asked for tokens
    /// for the proxy's URL (RFC 8707): where it binds them to that, or the server checks the audience, run the proxy under
    /// the server's own name instead (a hosts entry, --tls-cert, --upstream-address), which needs no rewriting.
    /// Configured tokens (an Authorization header of the client's) need neither.
    #[arg(long, requires = "upstream")]
    rewrite_resource: bool,
    /// Further name that requests may have in Host (repeatable). Others are refused, against DNS rebinding; loopback names,
    /// --listen and --public-url are known
    #[arg(long, value_name = "NAME", requires = "upstream")]
    allow_host: Vec<String>,
    /// Site whose pages may send requests, such as https://inspector.example (repeatable); pages of this machine may
    #[arg(long, value_name = "ORIGIN", requires = "upstream")]
    allow_origin: Vec<String>,
    /// Certificate chain (PEM) to show to clients
    #[arg(long, value_name = "FILE", requires_all = ["upstream", "tls_key"])]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["upstream", "tls_cert"])]
    tls_key: Option<PathBuf>,
    /// For connecting to the server; then clients get 504
    #[arg(long, value_name = "SECONDS", default_value_t = 10, requires = "upstream")]
    connect_timeout: u64,
    /// For the server to begin its answer; then clients get 504. Default: as long as the client waits
    #[arg(long, value_name = "SECONDS", requires = "upstream")]
    response_timeout: Option<u64>,
}

/// Passes requests on and records them until stopped.
pub(crate) async fn run(arguments: TapArguments) -> anyhow::Result<ExitCode> {
    let run = uuid::Uuid::new_v4();
    let options = options(&arguments, run)?;
    let shown = options.upstream.shown();
    let proxy = Proxy::bind(arguments.proxy.listen, options).await?;
    let recorder = match record::tap_pipeline(&arguments).await {
        Ok(pipeline) => ExchangeRecorder::new(pipeline, &arguments.server_name, run),
        Err(error) if arguments.on_record_failure == OnRecordFailure::Block => return Err(error),
        Err(error) => {
            // Traffic must not break because recording does: pass it all the same, and say so.
            output::talk(&format!("threadline tap: recording is off: {error:#}"));
            ExchangeRecorder::off()
        }
    };
    output::talk(&format!("threadline tap passes {} on to {shown}", proxy.public_url()));
    output::talk(&format!("  listening on   {}", proxy.local_addr()));
    let outcome = proxy.run(recorder, serve::stop_signal()).await;
    let missing = outcome.passed.events.saturating_sub(outcome.recorded.events);
    if missing > 0 {
        let known = if outcome.drained { "; gaps in the record count them" } else { ", and no gap says so" };
        output::talk(&format!("threadline tap: {missing} HTTP events could not be recorded{known}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn options(arguments: &TapArguments, run: uuid::Uuid) -> anyhow::Result<ProxyOptions> {
    let proxy = &arguments.proxy;
    let upstream = Upstream::parse(proxy.upstream.as_deref().unwrap_or_default())?;
    let tls = match (&proxy.tls_cert, &proxy.tls_key) {
        (Some(certificate), Some(key)) => Some(Arc::new(serve::tls_config(certificate, key)?)),
        _ => None,
    };
    if tls.is_none() && !proxy.listen.ip().is_loopback() {
        bail!(
            "{} is reachable from other machines, and clients send their credentials there: give --tls-cert and --tls-key, or listen on 127.0.0.1",
            proxy.listen
        );
    }
    let upstream_authority = proxy.upstream_ca.as_ref().map(|path| {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .with_context(|| format!("cannot read the certificate authority {}", path.display()))
    });
    Ok(ProxyOptions {
        upstream_address: proxy.upstream_address,
        upstream_authority: upstream_authority.transpose()?,
        tls,
        public_url: proxy.public_url.clone(),
        rewrite_resource: proxy.rewrite_resource,
        allowed_hosts: proxy.allow_host.clone(),
        allowed_origins: proxy.allow_origin.clone(),
        on_record_failure: arguments.on_record_failure.into(),
        connect_timeout: Duration::from_secs(proxy.connect_timeout),
        response_timeout: proxy.response_timeout.map(Duration::from_secs),
        ..ProxyOptions::new(run, upstream)
    })
}
