//! The connection to the MCP server: one server, fixed by configuration.
//!
//! Invariants
//! - requests go to the configured origin whatever their URI says; redirects are the client's to follow
//! - HTTP/1.1, or HTTP/2 where the server chooses it by ALPN
//! - a connection that was idle for `IDLE_MAX` is not used again: common servers close theirs after five seconds
//! - buffers per connection: `BUFFER_BYTES_MAX` in HTTP/1.1, the windows below in HTTP/2
//!
//! Not here: retries. A request is sent again only where a pooled connection was closed before any of it was sent.

use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::http::{StatusCode, Version};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tower::Service;
use url::Url;

use super::body::RequestBody;
use super::{BUFFER_BYTES_MAX, ProxyError, STREAM_WINDOW_BYTES};

const IDLE_MAX: Duration = Duration::from_secs(4);
/// All streams of one HTTP/2 connection together.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// An MCP server by its URL.
#[derive(Debug, Clone)]
pub struct Upstream {
    url: Url,
    authority: Authority,
}

impl Upstream {
    /// The server at an http or https URL without user, password and fragment.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, ProxyError> {
        let url = Url::parse(text).map_err(|_| ProxyError::Upstream)?;
        let is_plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        if !matches!(url.scheme(), "http" | "https") || !is_plain {
            return Err(ProxyError::Upstream);
        }
        let host = url.host_str().ok_or(ProxyError::Upstream)?;
        let authority = url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
        let authority = authority.parse().map_err(|_| ProxyError::Upstream)?;
        Ok(Upstream { url, authority })
    }

    /// The URL as it is recorded and shown: without the query, which may hold a key.
    pub fn shown(&self) -> String {
        format!("{}{}", self.origin(), self.url.path())
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// Path of the MCP endpoint.
    pub fn path(&self) -> &str {
        self.url.path()
    }

    /// Where a request with this target goes; `None` for a target without a path.
    pub(super) fn uri(&self, target: &Uri) -> Option<Uri> {
        let scheme = if self.url.scheme() == "https" { Scheme::HTTPS } else { Scheme::HTTP };
        let path: PathAndQuery = target.path_and_query().filter(|path| path.as_str().starts_with('/'))?.clone();
        Uri::builder().scheme(scheme).authority(self.authority.clone()).path_and_query(path).build().ok()
    }
}

/// Sends requests to the server.
pub(super) type UpstreamClient = Client<Deadline<HttpsConnector<Tcp>>, RequestBody>;

/// A client that connects to `address` where given, whatever the server's name resolves to.
pub(super) fn client(
    address: Option<SocketAddr>,
    authority: Option<Vec<CertificateDer<'static>>>,
    connect_timeout: Duration,
) -> Result<UpstreamClient, ProxyError> {
    let provider = rustls::crypto::ring::default_provider();
    let builder = HttpsConnectorBuilder::new();
    let builder = match authority {
        None => builder.with_provider_and_webpki_roots(provider).map_err(ProxyError::Tls)?,
        Some(certificates) => {
            let mut roots = rustls::RootCertStore::empty();
            certificates.into_iter().try_for_each(|certificate| roots.add(certificate)).map_err(ProxyError::Tls)?;
            let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider));
            let config = config.with_safe_default_protocol_versions().map_err(ProxyError::Tls)?;
            builder.with_tls_config(config.with_root_certificates(roots).with_no_client_auth())
        }
    };
    let connector = builder.https_or_http().enable_all_versions().wrap_connector(Tcp { address });
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        .http1_max_buf_size(BUFFER_BYTES_MAX)
        .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_send_buf_size(BUFFER_BYTES_MAX)
        .build(Deadline { inner: connector, after: connect_timeout }))
}

type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;
type BoxError = Box<dyn Error + Send + Sync>;

/// Opens TCP connections.
#[derive(Debug, Clone)]
pub(super) struct Tcp {
    address: Option<SocketAddr>,
}

impl Service<Uri> for Tcp {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let address = self.address;
        Box::pin(async move {
            let stream = match address {
                Some(address) => TcpStream::connect(address).await?,
                None => {
                    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_string();
                    let default = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
                    TcpStream::connect((host, uri.port_u16().unwrap_or(default))).await?
                }
            };
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
    }
}

/// Gives up when TCP and TLS together take too long.
#[derive(Debug, Clone)]
pub(super) struct Deadline<S> {
    inner: S,
    after: Duration,
}

impl<S> Service<Uri> for Deadline<S>
where
    S: Service<Uri, Response = MaybeHttpsStream<TokioIo<TcpStream>>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Connecting<S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(self.after, self.inner.call(uri));
        Box::pin(
            async move { connecting.await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())) },
        )
    }
}

/// Why there is no answer: for the record, for the client, and with which status.
pub(super) fn failure(error: &legacy::Error) -> (&'static str, &'static str, StatusCode) {
    let causes = causes(error);
    let of_io = causes.iter().find_map(|cause| cause.downcast_ref::<io::Error>());
    match (error.is_connect(), of_io) {
        (true, Some(io)) if io.kind() == io::ErrorKind::TimedOut => {
            ("upstream_connect_timeout", "connecting to the MCP server took too long", StatusCode::GATEWAY_TIMEOUT)
        }
        (true, Some(io)) if is_tls(io) => {
            ("upstream_tls", "the MCP server's certificate or TLS was not accepted", StatusCode::BAD_GATEWAY)
        }
        (true, _) => ("upstream_connect", "the MCP server cannot be reached", StatusCode::BAD_GATEWAY),
        (false, _) => {
            let mut of_http = causes.iter().filter_map(|cause| cause.downcast_ref::<hyper::Error>());
            if of_http.any(hyper::Error::is_parse) {
                ("upstream_protocol", "the MCP server's answer is not HTTP", StatusCode::BAD_GATEWAY)
            } else {
                ("upstream_closed", "the MCP server closed the connection without an answer", StatusCode::BAD_GATEWAY)
            }
        }
    }
}

/// rustls comes wrapped in an io::Error, perhaps twice, and an io::Error does not name what it wraps as its source.
fn is_tls(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>() || inner.downcast_ref::<io::Error>().is_some_and(is_tls))
}

fn causes(error: &legacy::Error) -> Vec<&(dyn Error + 'static)> {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause);
        next = cause.source();
    }
    causes
}

/// `HTTP/1.1`, `HTTP/2`.
pub(super) fn shown(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_to_the_configured_origin_whatever_they_say() {
        let upstream = Upstream::parse("https://mcp.example:8443/mcp?key=s3cret").unwrap();
        let goes = |target: &str| upstream.uri(&target.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(goes("/mcp?a=1"), Some("https://mcp.example:8443/mcp?a=1".into()));
        assert_eq!(
            goes("http://169.254.169.254/latest/meta-data"),
            Some("https://mcp.example:8443/latest/meta-data".into())
        );
        assert_eq!(goes("http://evil.example"), Some("https://mcp.example:8443/".into()));
        assert_eq!(goes("*"), None);
        assert_eq!(goes("evil.example:80"), None);
        assert_eq!(upstream.shown(), "https://mcp.example:8443/mcp");
        assert_eq!((upstream.origin().as_str(), upstream.path()), ("https://mcp.example:8443", "/mcp"));
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for text in
            ["", "mcp.example", "ftp://mcp.example", "https://u:p@mcp.example", "https://mcp.example/#x", "http://"]
        {
            assert!(Upstream::parse(text).is_err(), "{text}");
        }
        assert_eq!(Upstream::parse("http://[::1]:9/x").unwrap().origin(), "http://[::1]:9");
    }
}
