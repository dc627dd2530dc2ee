//! Errors as RFC 9457 problems.

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use threadline_store::StoreError;
use utoipa::ToSchema;

use super::json_as;
use crate::error::QueryError;

/// What a caller is told to wait when too much runs.
pub(super) const RETRY_SECONDS: u64 = 2;

/// What went wrong, for the caller.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// What kind of problem, as a path of the documentation.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// This case, with the next step.
    pub detail: String,
    /// The request's path.
    pub instance: String,
    /// Names this request in the server's log.
    pub request_id: String,
    /// Sessions that the id may mean, when it occurs in several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<String>,
    /// Seconds after which to ask again, for the header `Retry-After`.
    #[serde(skip)]
    #[schema(ignore)]
    pub retry_after: Option<u64>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, kind: &str, title: &str, detail: String) -> Self {
        Problem {
            kind: format!("/problems/{kind}"),
            title: title.into(),
            status: status.as_u16(),
            detail,
            ..Problem::default()
        }
    }

    pub(super) fn complete(mut self, request_id: &str, path: &str) -> Response {
        self.request_id = request_id.into();
        self.instance = path.into();
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json_as(status, "application/problem+json", &self);
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl IntoResponse for Problem {
    /// The middleware completes and serializes it.
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        response.extensions_mut().insert(self);
        response
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        let detail = error.to_string();
        let make = |status, kind, title| Problem::new(status, kind, title, detail.clone());
        match error {
            QueryError::NotFound { .. } => make(StatusCode::NOT_FOUND, "not-found", "Nothing found"),
            QueryError::NotYet { .. } => make(StatusCode::NOT_FOUND, "not-yet", "Nothing was known yet"),
            QueryError::NoRaw { .. } => make(StatusCode::NOT_FOUND, "no-raw", "No raw bytes"),
            QueryError::SeveralSessions { sessions, .. } => Problem {
                sessions,
                ..make(StatusCode::CONFLICT, "several-sessions", "The id occurs in several sessions")
            },
            QueryError::Parameter { .. } => make(StatusCode::BAD_REQUEST, "parameter", "A parameter is not understood"),
            QueryError::SqlRefused { .. } => make(StatusCode::BAD_REQUEST, "sql-refused", "The query is not run"),
            QueryError::SqlFailed { .. } => make(StatusCode::BAD_REQUEST, "sql-failed", "The query failed"),
            QueryError::Timeout { .. } => make(StatusCode::GATEWAY_TIMEOUT, "timeout", "The query took too long"),
            QueryError::Busy { .. } => Problem {
                retry_after: Some(RETRY_SECONDS),
                ..make(StatusCode::SERVICE_UNAVAILABLE, "busy", "Too many SQL queries at once")
            },
            QueryError::NoRoom => make(StatusCode::INSUFFICIENT_STORAGE, "no-room", "There is no room for this"),
            QueryError::Store(StoreError::NoSpace { .. }) => Problem {
                detail: "free some on the disk of the data directory; nothing is acknowledged until then".into(),
                ..make(StatusCode::SERVICE_UNAVAILABLE, "no-space", "The disk is full")
            },
            QueryError::Unwritten(_)
            | QueryError::Unread { .. }
            | QueryError::Store(_)
            | QueryError::Columns(_)
            | QueryError::Forward(_)
            | QueryError::Interrupted => {
                tracing::error!(error = %chain(&error), "the store could not be read");
                let problem = make(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The store could not be read");
                match error {
                    QueryError::Store(error) => named(problem, &error),
                    _ => problem,
                }
            }
        }
    }
}

/// Which file the operator has to look at.
fn named(problem: Problem, error: &StoreError) -> Problem {
    match crate::sql::error_file(error) {
        Some(file) => Problem { detail: format!("the file {file} of the store could not be read"), ..problem },
        None => problem,
    }
}

/// An error with its causes, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
