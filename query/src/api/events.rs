//! `/api/v1/events/{id}`

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::{Problem, json};
use crate::engine::{Engine, answer};
use crate::model::{Answer, Event, Link};

/// One record in full, with its session and its links.
#[utoipa::path(get, path = "/api/v1/events/{id}", tag = "events", params(("id" = String, Path, description = "Event id")), responses(
    (status = 200, description = "The record", body = Answer<Event>),
    (status = 404, description = "No such record", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn show(State(engine): State<Arc<Engine>>, Path(id): Path<String>) -> Result<Response, Problem> {
    Ok(json(&engine.event(&id).await?))
}

/// The exact bytes received for a record, after redaction.
#[utoipa::path(get, path = "/api/v1/events/{id}/raw", tag = "events", params(("id" = String, Path, description = "Event id")), responses(
    (status = 200, description = "The bytes", body = Vec<u8>, content_type = "application/octet-stream"),
    (status = 404, description = "No such record, or no bytes", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn raw(State(engine): State<Arc<Engine>>, Path(id): Path<String>) -> Result<Response, Problem> {
    let bytes = engine.event_raw(&id).await?;
    // It was found, so the id is a UUID; the name is built from that, never from content.
    let name: String = id.chars().filter(|c| c.is_ascii_hexdigit() || *c == '-').collect();
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_string()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}.bin\"")),
        (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'".to_string()),
    ];
    Ok((headers, Body::from(bytes)).into_response())
}

/// The links from and to a record, with the values compared.
#[utoipa::path(get, path = "/api/v1/events/{id}/links", tag = "events", params(("id" = String, Path, description = "Event id")), responses(
    (status = 200, description = "The links", body = Answer<Vec<Link>>),
    (status = 404, description = "No such record", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn links(State(engine): State<Arc<Engine>>, Path(id): Path<String>) -> Result<Response, Problem> {
    let event = engine.event(&id).await?;
    Ok(json(&answer(event.data.links, None, event.completeness)))
}
