//! Asking: the CLI speaks the HTTP API only. With `--url` it goes over the network, with `--data` the
//! same router answers in this process, so both give the same bytes.

use std::sync::Arc;

use anyhow::{Context, bail};
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::Value;
use threadline_query::AccessLog;
use tower::ServiceExt;

use super::access::InboxLog;
use super::{Place, data_directory};

/// The server could not be reached.
#[derive(Debug)]
pub(crate) struct Unavailable(String);

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot reach {}: is `threadline serve` running there?", self.0)
    }
}

impl std::error::Error for Unavailable {}

/// The answer was a problem.
#[derive(Debug)]
pub(crate) struct Refused {
    status: u16,
    /// Which kind of problem, as its `type` says.
    kind: String,
    text: String,
}

impl Refused {
    /// Nothing bears the id.
    pub(crate) fn is_empty(&self) -> bool {
        self.status == 404
    }

    /// What was typed is not understood.
    pub(crate) fn is_usage(&self) -> bool {
        self.kind == "/problems/parameter"
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refused {}

/// Somewhere to ask.
pub(crate) enum Client {
    /// A router in this process over a data directory.
    Local(axum::Router),
    /// A server.
    Remote { base: String, http: reqwest::Client, token: Option<String> },
}

impl Client {
    /// Opens the place that the arguments name.
    pub(crate) fn open(place: &Place) -> anyhow::Result<Client> {
        Client::with(place, false, None)
    }

    /// The same for exports, which are recorded; `public_url` is where the pages of a data directory are.
    pub(crate) fn open_recording(place: &Place, public_url: Option<&String>) -> anyhow::Result<Client> {
        Client::with(place, true, public_url)
    }

    fn with(place: &Place, is_recorded: bool, public_url: Option<&String>) -> anyhow::Result<Client> {
        let Some(url) = &place.url else {
            return Client::local(place, is_recorded, public_url);
        };
        let mut builder = reqwest::Client::builder();
        if let Some(path) = &place.ca {
            let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            builder = builder.add_root_certificate(reqwest::Certificate::from_pem(&pem)?);
        }
        let token = place.token_file.as_deref().map(super::guard::read_token).transpose()?;
        Ok(Client::Remote { base: url.trim_end_matches('/').to_string(), http: builder.build()?, token })
    }

    fn local(place: &Place, is_recorded: bool, public_url: Option<&String>) -> anyhow::Result<Client> {
        let directory = data_directory(place.data.clone())?;
        if !directory.join("format.json").exists() {
            bail!(
                "there is no data in {}: record with `threadline tap` or load with `threadline import --data {} PATH`, or give --data",
                directory.display(),
                directory.display()
            );
        }
        let reader = threadline_store::Reader::open(&directory)
            .with_context(|| format!("cannot read the data directory {}", directory.display()))?;
        let log = is_recorded.then(|| Arc::new(InboxLog::of(&directory)) as Arc<dyn AccessLog>);
        let engine = super::engine(reader, &directory, log, public_url.cloned())?;
        Ok(Client::Local(threadline_query::router(Arc::new(engine), Default::default())))
    }

    /// GETs `path` with query parameters and reads JSON.
    pub(crate) async fn get(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<Value> {
        let bytes = self.get_bytes(path, query).await?;
        serde_json::from_slice(&bytes).context("the answer is not JSON")
    }

    /// GETs `path` as bytes.
    pub(crate) async fn get_bytes(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<Bytes> {
        self.download(path, query).await?.bytes().await
    }

    /// GETs `path` to be read part by part.
    pub(crate) async fn download(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<Download> {
        let mut encoded = url::form_urlencoded::Serializer::new(String::new());
        query.iter().for_each(|(name, value)| {
            encoded.append_pair(name, value);
        });
        let encoded = encoded.finish();
        let target = if encoded.is_empty() { path.to_string() } else { format!("{path}?{encoded}") };
        self.send(Method::GET, &target, Bytes::new()).await
    }

    /// POSTs JSON and reads JSON.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let answer = self.send(Method::POST, path, Bytes::from(body.to_string())).await?;
        serde_json::from_slice(&answer.bytes().await?).context("the answer is not JSON")
    }

    async fn send(&self, method: Method, target: &str, body: Bytes) -> anyhow::Result<Download> {
        let download = match self {
            Client::Local(router) => {
                let request = Request::builder()
                    .method(method)
                    .uri(target)
                    .header(header::HOST, "localhost")
                    .header(header::CONTENT_TYPE, "application/json")
                    .body(Body::from(body))?;
                let (head, body) = router.clone().oneshot(request).await?.into_parts();
                Download { status: head.status, headers: head.headers, body: Answer::Local(body) }
            }
            Client::Remote { base, http, token } => {
                let mut request = http
                    .request(method, format!("{base}{target}"))
                    .header(header::CONTENT_TYPE, "application/json")
                    .body(body);
                // Who reads is recorded there; a name that the header cannot hold leaves the token alone.
                let user = super::user();
                request = match (user.contains(':'), token) {
                    (false, token) => request.basic_auth(user, Some(token.as_deref().unwrap_or_default())),
                    (true, Some(token)) => request.bearer_auth(token),
                    (true, None) => request,
                };
                let response = request.send().await.map_err(|error| {
                    let cause = anyhow::Error::new(error.without_url());
                    cause.context(Unavailable(base.clone()))
                })?;
                Download {
                    status: response.status(),
                    headers: response.headers().clone(),
                    body: Answer::Remote(response),
                }
            }
        };
        if !download.status.is_success() {
            let status = download.status.as_u16();
            let is_remote = matches!(self, Client::Remote { .. });
            return Err(problem(status, is_remote, &download.bytes().await?).into());
        }
        Ok(download)
    }
}

/// An answer that is read part by part.
pub(crate) struct Download {
    status: StatusCode,
    headers: HeaderMap,
    body: Answer,
}

enum Answer {
    Local(Body),
    Remote(reqwest::Response),
}

impl Download {
    /// A header, when it is there and readable.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The next bytes; `None` at the end. An answer that breaks off is an error.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        match &mut self.body {
            Answer::Local(body) => loop {
                let Some(frame) = body.frame().await else { return Ok(None) };
                if let Ok(bytes) = frame?.into_data() {
                    return Ok(Some(bytes));
                }
            },
            Answer::Remote(response) => response.chunk().await.map_err(|error| anyhow::Error::new(error.without_url())),
        }
    }

    /// All of it.
    async fn bytes(self) -> anyhow::Result<Bytes> {
        match self.body {
            Answer::Local(body) => Ok(body.collect().await?.to_bytes()),
            Answer::Remote(response) => response.bytes().await.map_err(|error| anyhow::Error::new(error.without_url())),
        }
    }
}

/// What an RFC 9457 problem says, in one line; a status of HTTP only where HTTP was spoken.
fn problem(status: u16, is_remote: bool, bytes: &[u8]) -> Refused {
    let problem: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let title = problem["title"].as_str().unwrap_or("the request failed");
    let code = if is_remote { format!(" ({status})") } else { String::new() };
    let text = match problem["detail"].as_str() {
        Some(detail) => format!("{title}{code}: {detail}"),
        None => format!("{title}{code}"),
    };
    Refused { status, kind: problem["type"].as_str().unwrap_or_default().into(), text }
}

/// Percent-encodes one path segment.
pub(crate) fn segment(id: &str) -> String {
    id.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}
