//! Who may talk to the server: loopback only by default, anything else needs TLS and a token.
//!
//! Invariants
//! - a request whose `Host` is not one of ours is refused on loopback, so a page in a browser cannot
//!   reach evidence by DNS rebinding; other sites are refused on every state-changing request and on exports, which
//!   leave a record
//! - the site of a target in absolute form counts, not the Host header beside it; none or several Hosts are refused
//! - tokens are compared in constant time and never logged
//! - the server's token opens everything; a collector's (`token`) opens the endpoints that take records, nothing else. Beyond
//!   loopback those need one of both; on loopback a token that is shown has to be right

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use threadline_query::Asker;

use super::token::Tokens;

/// Longest user name that is kept, bytes.
const NAME_BYTES_MAX: usize = 200;

/// What a request must show.
#[derive(Clone)]
pub(crate) struct Guard {
    token: Option<Arc<str>>,
    collectors: Arc<Tokens>,
    loopback: bool,
}

impl Guard {
    /// Checks that the address may be served with what was given.
    pub(crate) fn new(
        address: SocketAddr,
        tls: bool,
        token_file: Option<&Path>,
        collectors: &Arc<Tokens>,
    ) -> anyhow::Result<Guard> {
        let token = token_file.map(read_token).transpose()?.map(Arc::from);
        let loopback = address.ip().is_loopback();
        let guarded = tls && token.is_some();
        if !(loopback || guarded) {
            bail!(
                "{address} is reachable from other machines: give --tls-cert, --tls-key and --token-file, or listen on 127.0.0.1"
            );
        }
        Ok(Guard { token, collectors: Arc::clone(collectors), loopback })
    }

    fn refusal(&self, method: &Method, path: &str, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
        if self.loopback && !headers.get_all(header::HOST).iter().all(|host| is_loopback_name(host.as_bytes())) {
            return Some((StatusCode::MISDIRECTED_REQUEST, "the Host header names another site"));
        }
        // An export leaves a record, although it only reads.
        let changes = (*method != Method::GET && *method != Method::HEAD) || path == "/api/v1/export";
        if changes && is_cross_site(headers) {
            return Some((StatusCode::FORBIDDEN, "the request comes from another site"));
        }
        if self.token.as_ref().is_some_and(|token| bears(headers, token)) {
            return None;
        }
        if *method == Method::POST && takes_records(path) {
            return self.collecting_refusal(headers);
        }
        self.token.as_ref()?;
        let is_collector = bearer(headers).is_some_and(|given| self.collectors.knows(given));
        let why = if is_collector {
            "a collector's token sends records and reads nothing: reading needs the server's token"
        } else {
            "a bearer token is needed"
        };
        Some((StatusCode::UNAUTHORIZED, why))
    }

    /// Of a request that brings records and does not bear the server's token.
    fn collecting_refusal(&self, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
        // A file that cannot be read counts as tokens that nobody bears.
        let has_tokens = self.collectors.list().map_or(true, |tokens| !tokens.is_empty());
        match bearer(headers) {
            Some(given) if self.collectors.knows(given) => None,
            Some(_) if has_tokens || self.token.is_some() => {
                Some((StatusCode::UNAUTHORIZED, "this token is not one of a collector: it is wrong, or was revoked"))
            }
            None if (has_tokens && !self.loopback) || self.token.is_some() => {
                Some((StatusCode::UNAUTHORIZED, "the bearer token of a collector is needed"))
            }
            _ => None,
        }
    }
}

/// Middleware that refuses what the guard does not let through.
pub(crate) async fn check(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    match site(&request) {
        Ok(Some(site)) => drop(request.headers_mut().insert(header::HOST, site)),
        Ok(None) => {}
        Err(detail) => return refuse(StatusCode::BAD_REQUEST, detail),
    }
    let asker = asker(&request);
    request.extensions_mut().insert(asker);
    let open = matches!(request.uri().path(), "/healthz" | "/readyz");
    match guard.refusal(request.method(), request.uri().path(), request.headers()) {
        Some((status, detail)) if !(open && status == StatusCode::UNAUTHORIZED) => refuse(status, detail),
        _ => answer(request, next).await,
    }
}

/// Where programs ask, an address that is none and a method that is not its are problems as all others are (RFC 9457).
async fn answer(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let may_be_page = !path.starts_with("/api/") && !path.starts_with("/v1/");
    let response = next.run(request).await;
    let detail = match response.status() {
        StatusCode::NOT_FOUND => "there is no such address",
        StatusCode::METHOD_NOT_ALLOWED => "the address does not take this method",
        _ => return response,
    };
    let kind = response.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| may_be_page || !kind.as_bytes().starts_with(b"text/html")) {
        return response;
    }
    let mut problem = refuse(response.status(), detail);
    let allowed = response.headers().get(header::ALLOW).cloned();
    allowed.into_iter().for_each(|allowed| drop(problem.headers_mut().insert(header::ALLOW, allowed)));
    problem
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Who asks: the token says that they may, not who they are, so the user name beside it is a claim.
fn asker(request: &Request) -> Asker {
    let basic = request.headers().get(header::AUTHORIZATION).and_then(basic);
    let name = basic.and_then(|(name, _)| String::from_utf8(name).ok()).map(|name| name.trim().to_string());
    let name = name.filter(|name| !name.is_empty() && name.len() <= NAME_BYTES_MAX);
    let address = request.extensions().get::<ConnectInfo<Peer>>().map(|ConnectInfo(Peer(address))| *address);
    Asker { name, address }
}

/// Whom the request means to reach (RFC 9112, section 3.2): a target in absolute form goes before the Host header, and
/// HTTP/2 names the site there only.
fn site(request: &Request) -> Result<Option<HeaderValue>, &'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Err("the request has several Host headers");
    }
    match (request.uri().authority(), host) {
        (Some(site), _) if site.as_str().contains('@') => Err("the request target names a user"),
        (Some(site), _) => {
            HeaderValue::from_str(site.as_str()).map(Some).map_err(|_| "the request target is malformed")
        }
        (None, None) if request.version() == Version::HTTP_11 => Err("the request has no Host header"),
        (None, host) => Ok(host.cloned()),
    }
}

fn refuse(status: StatusCode, detail: &str) -> Response {
    let problem = serde_json::json!({
        "type": "about:blank", "title": status.canonical_reason(), "status": status.as_u16(), "detail": detail,
    });
    let mut response = (status, problem.to_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Basic realm=\"threadline\", charset=\"UTF-8\""),
        );
    }
    response
}

/// Reads a token file: one line, at least 16 characters.
pub(crate) fn read_token(path: &Path) -> anyhow::Result<String> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the token file {}", path.display()))?;
    let token = text.trim();
    if token.len() < 16 || token.contains(char::is_whitespace) {
        bail!("the token in {} must be one word of at least 16 characters: try `openssl rand -hex 32`", path.display());
    }
    Ok(token.to_string())
}

/// The token for a server elsewhere: the file's, or `THREADLINE_TOKEN`. Never an argument, which everybody could see.
pub(crate) fn sending_token(path: Option<&Path>) -> anyhow::Result<Option<String>> {
    match path {
        Some(path) => read_token(path).map(Some),
        None => Ok(std::env::var("THREADLINE_TOKEN")
            .ok()
            .map(|token| token.trim().into())
            .filter(|t: &String| !t.is_empty())),
    }
}

/// Whether a path takes records: native events, OTLP over HTTP and gRPC.
fn takes_records(path: &str) -> bool {
    matches!(path, "/api/v1/events" | "/v1/logs" | "/v1/traces" | "/v1/metrics")
        || path.starts_with("/opentelemetry.proto.collector.")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ").map(str::trim)
}

fn bears(headers: &HeaderMap, token: &str) -> bool {
    match bearer(headers) {
        Some(given) => equal(given.as_bytes(), token.as_bytes()),
        None => headers
            .get(header::AUTHORIZATION)
            .and_then(basic)
            .is_some_and(|(_, password)| equal(&password, token.as_bytes())),
    }
}

/// User name and password.
fn basic(value: &HeaderValue) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut name = BASE64_STANDARD.decode(value.to_str().ok()?.strip_prefix("Basic ")?.trim()).ok()?;
    let colon = name.iter().position(|byte| *byte == b':')?;
    let password = name.split_off(colon + 1);
    name.pop();
    Some((name, password))
}

/// Constant-time comparison of equal-length inputs.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

fn is_loopback_name(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').unwrap_or(("", "")),
        None => host.find(':').map_or((host, ""), |colon| host.split_at(colon)),
    };
    let port = port.strip_prefix(':').unwrap_or(port);
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_cross_site(headers: &HeaderMap) -> bool {
    // Browsers say so of every request, also of those without Origin.
    if headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site") {
        return true;
    }
    let Some(origin) = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()) else {
        return false;
    };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    origin.split_once("://").is_none_or(|(_, authority)| !authority.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn guard(token: Option<&str>) -> Guard {
        let collectors = Arc::new(Tokens::of(Path::new("/nowhere")));
        Guard { token: token.map(Arc::from), collectors, loopback: true }
    }

    #[test]
    fn rebinding_and_cross_site_requests_are_refused() {
        let refused = |method, list: &[(&'static str, &str)]| {
            guard(None).refusal(&method, "/api/v1/sessions", &headers(list)).map(|(status, _)| status.as_u16())
        };
        assert_eq!(refused(Method::GET, &[("host", "127.0.0.1:7700")]), None);
        assert_eq!(refused(Method::GET, &[("host", "[::1]:7700")]), None);
        assert_eq!(refused(Method::GET, &[("host", "evil.example:7700")]), Some(421));
        assert_eq!(refused(Method::GET, &[("host", "localhost:x@evil.example")]), Some(421));
        assert_eq!(refused(Method::POST, &[("host", "localhost:7700"), ("origin", "http://evil.example")]), Some(403));
        assert_eq!(refused(Method::POST, &[("host", "localhost:7700"), ("origin", "http://localhost:7700")]), None);
        let exported = |site: &str| {
            let list = [("host", "localhost:7700"), ("sec-fetch-site", site)];
            guard(None).refusal(&Method::GET, "/api/v1/export", &headers(&list)).map(|(status, _)| status.as_u16())
        };
        assert_eq!(
            ["cross-site", "same-site", "same-origin", "none"].map(exported),
            [Some(403), Some(403), None, None]
        );
        assert_eq!(refused(Method::GET, &[("host", "localhost:7700"), ("sec-fetch-site", "cross-site")]), None);
    }

    #[test]
    fn a_token_is_needed_as_bearer_or_basic_password() {
        let guard = guard(Some("0123456789abcdef"));
        let check = |value: &str| {
            guard.refusal(&Method::GET, "/", &headers(&[("host", "localhost"), ("authorization", value)])).is_none()
        };
        assert!(check("Bearer 0123456789abcdef"));
        assert!(check(&format!("Basic {}", BASE64_STANDARD.encode("me:0123456789abcdef"))));
        assert!(!check("Bearer 0123456789abcdeF"));
        assert!(guard.refusal(&Method::GET, "/", &headers(&[("host", "localhost")])).is_some());
    }

    #[test]
    fn a_collector_sends_and_reads_nothing() {
        let work = tempfile::tempdir().unwrap();
        let collectors = Arc::new(Tokens::of(work.path()));
        let refused = |guard: &Guard, method, path, token: Option<&str>| {
            let bearer = token.map(|token| format!("Bearer {token}"));
            let shown: Vec<_> = bearer.iter().map(|value| ("authorization", value.as_str())).collect();
            guard.refusal(&method, path, &headers(&shown)).map(|(status, _)| status.as_u16())
        };
        let server = Some(Arc::from("0123456789abcdef"));
        let beyond = Guard { token: server, collectors: Arc::clone(&collectors), loopback: false };
        let local = Guard { token: None, collectors: Arc::clone(&collectors), loopback: true };
        // Without tokens of collectors: as before.
        assert_eq!(refused(&beyond, Method::POST, "/v1/logs", None), Some(401));
        assert_eq!(refused(&local, Method::POST, "/v1/logs", Some("anything at all")), None);
        let token = collectors.add("laptop", "now").unwrap();
        for path in ["/api/v1/events", "/v1/traces", "/opentelemetry.proto.collector.logs.v1.LogsService/Export"] {
            assert_eq!(refused(&beyond, Method::POST, path, Some(&token)), None);
            assert_eq!(refused(&beyond, Method::POST, path, Some("0123456789abcdef")), None);
            assert_eq!(refused(&beyond, Method::POST, path, Some("tlc_wrong")), Some(401));
            assert_eq!(refused(&beyond, Method::POST, path, None), Some(401));
            assert_eq!(refused(&local, Method::POST, path, None), None);
            assert_eq!(refused(&local, Method::POST, path, Some("tlc_wrong")), Some(401));
        }
        for (method, path) in
            [(Method::GET, "/api/v1/sessions"), (Method::POST, "/api/v1/sql"), (Method::GET, "/v1/logs")]
        {
            assert_eq!(refused(&beyond, method, path, Some(&token)), Some(401), "{path}");
        }
        collectors.revoke("laptop").unwrap();
        assert_eq!(refused(&beyond, Method::POST, "/v1/logs", Some(&token)), Some(401));
    }

    #[tokio::test]
    async fn programs_are_told_what_is_no_address_as_they_are_told_all_else() {
        use axum::response::Html;
        use axum::routing::{get, post};
        use tower::ServiceExt;
        let collectors = Arc::new(Tokens::of(Path::new("/nowhere")));
        let guard = Guard::new("127.0.0.1:1".parse().unwrap(), false, None, &collectors).unwrap();
        let router = axum::Router::new()
            .route("/api/v1/sql", post(|| async {}))
            .route("/api/v1/own", get(|| async { (StatusCode::NOT_FOUND, "own words") }))
            .fallback(|| async { (StatusCode::NOT_FOUND, Html("page")) })
            .layer(axum::middleware::from_fn_with_state(guard, check));
        let ask = async |path: &str| {
            let request = Request::builder().uri(path).header("host", "localhost").body(axum::body::Body::empty());
            let response = router.clone().oneshot(request.unwrap()).await.unwrap();
            let header = |name| response.headers().get(name).map_or("-", |value| value.to_str().unwrap()).to_string();
            format!("{} {} {}", response.status().as_u16(), header(header::CONTENT_TYPE), header(header::ALLOW))
        };
        assert_eq!(ask("/api/v1/nope").await, "404 application/problem+json -");
        assert_eq!(ask("/v1/nope").await, "404 application/problem+json -");
        assert_eq!(ask("/api/v1/sql").await, "405 application/problem+json POST");
        assert_eq!(ask("/api/v1/own").await, "404 text/plain; charset=utf-8 -");
        assert_eq!(ask("/nope").await, "404 text/html; charset=utf-8 -");
    }

    #[test]
    fn an_open_address_needs_tls_and_a_token() {
        let collectors = Arc::new(Tokens::of(Path::new("/nowhere")));
        assert!(Guard::new("0.0.0.0:1".parse().unwrap(), false, None, &collectors).is_err());
        assert!(Guard::new("127.0.0.1:1".parse().unwrap(), false, None, &collectors).is_ok());
    }

    #[test]
    fn the_site_of_the_target_goes_before_the_host() {
        let named = |target: &str, hosts: &[&str]| {
            let request = Request::builder().uri(target);
            let request = hosts.iter().fold(request, |request, host| request.header(header::HOST, *host));
            let named = site(&request.body(axum::body::Body::empty()).unwrap());
            named.map(|site| site.map(|site| site.to_str().unwrap().to_string()))
        };
        assert_eq!(named("/", &["localhost:1"]), Ok(Some("localhost:1".into())));
        assert_eq!(named("http://evil.example/", &["localhost:1"]), Ok(Some("evil.example".into())));
        assert_eq!(named("http://localhost:1/", &["evil.example"]), Ok(Some("localhost:1".into())));
        assert!(named("http://localhost@evil.example/", &["localhost"]).is_err());
        assert!(named("/", &["localhost", "evil.example"]).is_err());
        assert!(named("/", &[]).is_err());
    }
}
