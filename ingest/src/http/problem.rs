//! Refusals as RFC 9457 problem details.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use super::Refusal;

/// Header by which an answer and our log can be brought together.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Names one request in answers and logs.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestId(Uuid);

impl RequestId {
    pub(super) fn new() -> Self {
        RequestId(Uuid::now_v7())
    }

    pub(super) fn header(self) -> HeaderValue {
        HeaderValue::from_str(&self.0.to_string()).unwrap_or(HeaderValue::from_static("-"))
    }
}

impl Refusal {
    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.kind().0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The members of a problem.
    pub(super) fn problem(&self, instance: &str, request: RequestId) -> serde_json::Value {
        let (status, word, _) = self.kind();
        serde_json::json!({
            "type": format!("urn:threadline:problem:{word}"),
            "title": self.status().canonical_reason(),
            "status": status,
            "detail": self.to_string(),
            "instance": instance,
            "request_id": request.0.to_string(),
        })
    }

    /// The answer, and a line in our log.
    pub(super) fn response(&self, instance: &str, request: RequestId) -> Response {
        self.log(instance, request);
        let body = self.problem(instance, request).to_string();
        let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        self.with_headers((self.status(), [json], body).into_response(), request)
    }

    pub(super) fn log(&self, instance: &str, request: RequestId) {
        let (status, word, _) = self.kind();
        tracing::info!(status, problem = word, instance, request_id = %request.0, "request refused");
    }

    pub(super) fn with_headers(&self, mut response: Response, request: RequestId) -> Response {
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, request.header());
        if let Some(seconds) = self.kind().2 {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
