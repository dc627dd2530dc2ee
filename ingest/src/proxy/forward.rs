//! One request, to the server and back.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE};
use hyper::http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper::{Request, Response};

use super::body::{Answer, RequestBody, ResponseBody};
use super::exchange::{Exchange, Open};
use super::{Shared, headers, oauth, upstream};

/// Passes a request on and gives the server's answer, or says why there is none.
pub(super) async fn forward(
    shared: Arc<Shared>,
    client: IpAddr,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let (mut head, body) = request.into_parts();
    let open = Open::new(Exchange::begin(&shared, client, &head));
    if *shared.open.borrow() > shared.options.exchanges_max {
        open.0.failure("too_many_exchanges", Some(StatusCode::SERVICE_UNAVAILABLE.as_u16()), false);
        let detail = "too many requests are under way; try again when some are answered";
        return Ok(problem(StatusCode::SERVICE_UNAVAILABLE, detail));
    }
    if let Some(refusal) = shared.guard.refusal(&head) {
        return Ok(refuse(&open.0, refusal.status, refusal.reason, refusal.detail));
    }
    let Some(uri) = shared.options.upstream.uri(&head.uri).filter(|_| head.method != Method::CONNECT) else {
        let detail = "only requests with a path can be passed on";
        return Ok(refuse(&open.0, StatusCode::BAD_REQUEST, "refused_target", detail));
    };
    shared.journal.unblocked().await;
    let rewrite = shared.rewrite.as_ref();
    let is_metadata = rewrite.is_some() && head.method == Method::GET && oauth::is_metadata(uri.path());
    headers::end_hop_of_request(&mut head.headers);
    if is_metadata {
        head.headers.remove(ACCEPT_ENCODING);
    }
    let mut request = Request::new(RequestBody::new(body, Arc::clone(&open.0)));
    *request.method_mut() = head.method;
    *request.uri_mut() = uri;
    *request.headers_mut() = head.headers;
    let answered = match shared.options.response_timeout {
        None => shared.client.request(request).await,
        Some(limit) => match tokio::time::timeout(limit, shared.client.request(request)).await {
            Ok(answered) => answered,
            Err(_) => {
                let detail = "the MCP server did not begin to answer in time";
                return Ok(fail(&open.0, StatusCode::GATEWAY_TIMEOUT, "upstream_response_timeout", detail).await);
            }
        },
    };
    let response = match answered {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let detail = "the MCP server switched protocols without being asked to";
            return Ok(fail(&open.0, StatusCode::BAD_GATEWAY, "upstream_protocol", detail).await);
        }
        Ok(response) => response,
        Err(error) => {
            let (reason, detail, status) = upstream::failure(&error);
            return Ok(fail(&open.0, status, reason, detail).await);
        }
    };
    Ok(match rewrite {
        Some(rewrite) => rewritten(response, open, rewrite, is_metadata).await,
        None => passed(response, open),
    })
}

/// The server's answer as it is.
fn passed(response: Response<Incoming>, open: Open) -> Response<Answer> {
    let (mut head, body) = response.into_parts();
    open.0.response_head(head.status.as_u16(), head.version, head.headers.clone(), None);
    headers::end_hop(&mut head.headers);
    answer(head.status, head.headers, Answer::Passed(ResponseBody::new(body, open)))
}

/// The server's answer, with our origin in what says which resource this is.
async fn rewritten(
    response: Response<Incoming>,
    open: Open,
    rewrite: &oauth::Rewrite,
    is_metadata: bool,
) -> Response<Answer> {
    let (mut head, body) = response.into_parts();
    let sent = head.headers.clone();
    headers::end_hop(&mut head.headers);
    let is_metadata = is_metadata && head.status == StatusCode::OK;
    let is_challenge = challenges(&mut head.headers, rewrite);
    let change = (is_metadata || is_challenge).then_some(oauth::REWRITTEN);
    open.0.response_head(head.status.as_u16(), head.version, sent, change);
    let exchange = Arc::clone(&open.0);
    let mut body = ResponseBody::new(body, open);
    if !is_metadata {
        return answer(head.status, head.headers, Answer::Passed(body));
    }
    let mut document = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => document.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            Err(_) => {
                let detail = "the MCP server broke off within its resource metadata";
                return fail(&exchange, StatusCode::BAD_GATEWAY, "upstream_closed", detail).await;
            }
        }
        if document.len() > oauth::METADATA_BYTES_MAX {
            let detail = "the MCP server's resource metadata is too long to be rewritten";
            return fail(&exchange, StatusCode::BAD_GATEWAY, "metadata_too_long", detail).await;
        }
    }
    let document = rewrite.metadata(&document).unwrap_or(document);
    head.headers.remove(CONTENT_LENGTH);
    answer(head.status, head.headers, Answer::Own(Full::new(document.into())))
}

fn challenges(headers: &mut HeaderMap, rewrite: &oauth::Rewrite) -> bool {
    let mut is_changed = false;
    if let hyper::http::header::Entry::Occupied(mut challenges) = headers.entry(WWW_AUTHENTICATE) {
        for value in challenges.iter_mut() {
            let changed = value.to_str().ok().and_then(|text| rewrite.challenge(text));
            if let Some(changed) = changed.and_then(|text| HeaderValue::try_from(text).ok()) {
                *value = changed;
                is_changed = true;
            }
        }
    }
    is_changed
}

fn answer(status: StatusCode, headers: HeaderMap, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn refuse(exchange: &Exchange, status: StatusCode, reason: &'static str, detail: &str) -> Response<Answer> {
    exchange.failure(reason, Some(status.as_u16()), true);
    problem(status, detail)
}

async fn fail(exchange: &Exchange, status: StatusCode, reason: &'static str, detail: &str) -> Response<Answer> {
    exchange.read_rest().await;
    exchange.failure(reason, Some(status.as_u16()), false);
    problem(status, detail)
}

/// Our own words, as RFC 9457 problem details.
fn problem(status: StatusCode, detail: &str) -> Response<Answer> {
    let problem = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": format!("threadline tap: {detail}"),
    });
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    answer(status, headers, Answer::Own(Full::new(problem.to_string().into())))
}
