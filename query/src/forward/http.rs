//! HTTP to receivers: one client per sink, and what a status means for delivery.
//!
//! Invariants
//! - connections go to addresses that passed `address`, without proxies of the environment; redirects are not followed
//! - an answer is read up to [`ANSWER_BYTES_MAX`]; reasons name the status, never the answer's text, which may repeat content
//! - 408, 425, 429 and 5xx mean later, with the receiver's `Retry-After`; so do 3xx, 401 to 405, 407 and 410, which an
//!   operator has to mend; every other 4xx means that the content is refused, unless the answer says otherwise

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, StatusCode};

use super::address::Guarded;
use super::config::Common;
use super::sinks::SinkError;

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 16 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From the first byte sent to the last one read.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A client for one sink.
pub(super) fn client(common: &Common) -> Result<Client, String> {
    let mut builder = Client::builder()
        .user_agent(concat!("threadline/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .dns_resolver(std::sync::Arc::new(Guarded { allow_private: common.allow_private }))
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT);
    if let Some(path) = &common.ca {
        let pem = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let authorities = reqwest::Certificate::from_pem_bundle(&pem);
        let wrong = || format!("{} holds no PEM certificates", path.display());
        let authorities = authorities.map_err(|_| wrong())?;
        if authorities.is_empty() {
            return Err(wrong());
        }
        for authority in authorities {
            builder = builder.add_root_certificate(authority);
        }
    }
    builder.build().map_err(|_| "no HTTP client can be made".into())
}

/// Sends a request; the answer of a 2xx.
pub(super) async fn send(request: RequestBuilder) -> Result<Vec<u8>, SinkError> {
    send_to(request, |_| None).await
}

/// The same for receivers whose answer to a refusal can say that something else than the content is wrong.
pub(super) async fn send_to(
    request: RequestBuilder,
    to_mend: impl Fn(&[u8]) -> Option<String>,
) -> Result<Vec<u8>, SinkError> {
    let answer = request.send().await.map_err(|error| SinkError::unavailable(cause(&error)))?;
    let (status, after) = (answer.status(), retry_after(answer.headers()));
    let body = read(answer).await;
    if status.is_success() {
        return body;
    }
    let reason = format!("the receiver answered {status}");
    Err(match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            SinkError::Unavailable { reason, after }
        }
        StatusCode::UNAUTHORIZED
        | StatusCode::PAYMENT_REQUIRED
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::PROXY_AUTHENTICATION_REQUIRED
        | StatusCode::GONE => {
            SinkError::Unavailable { reason: format!("{reason}: look at its url and credentials"), after }
        }
        _ if status.is_redirection() => {
            SinkError::Unavailable { reason: format!("{reason}: redirects are not followed"), after }
        }
        _ if status.is_client_error() => match body.ok().and_then(|body| to_mend(&body)) {
            Some(what) => SinkError::Unavailable { reason: format!("{reason}: {what}"), after },
            None => SinkError::Refused { reason },
        },
        _ => SinkError::Unavailable { reason, after },
    })
}

async fn read(mut answer: reqwest::Response) -> Result<Vec<u8>, SinkError> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| SinkError::unavailable(cause(&error)))? {
        if body.len() + part.len() > ANSWER_BYTES_MAX {
            return Err(SinkError::unavailable("the receiver's answer is too long"));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

/// What went wrong, without the URL, which may hold secrets.
fn cause(error: &reqwest::Error) -> String {
    let what = match () {
        () if error.is_timeout() => "the receiver did not answer in time",
        () if error.is_connect() => "the receiver cannot be reached",
        () => "the connection to the receiver broke",
    };
    let causes = std::iter::successors(std::error::Error::source(error), |error| error.source());
    match causes.last() {
        Some(last) => format!("{what}: {last}"),
        None => what.into(),
    }
}

/// Seconds, or a date of HTTP (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = DateTime::parse_from_rfc2822(text).ok()?;
    Some(until.signed_duration_since(Utc::now()).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let later = (Utc::now() + chrono::Duration::seconds(90)).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        assert!((80..=90).contains(&of(&later).unwrap().as_secs()));
        assert_eq!(of("soon"), None);
    }
}
