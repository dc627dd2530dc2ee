//! Sources, and the server itself.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Problem, json};
use crate::engine::Engine;
use crate::forward::SinkStatus;
use crate::model::Answer;
use crate::sources::SourceSummary;

/// Who sends, how much, how late, and who has fallen silent.
#[utoipa::path(get, path = "/api/v1/sources", tag = "operations", responses(
    (status = 200, description = "Every emitter", body = Answer<Vec<SourceSummary>>),
))]
pub(super) async fn sources(State(engine): State<Arc<Engine>>) -> Result<Response, Problem> {
    Ok(json(&engine.sources().await?))
}

/// Where records are forwarded to, how far behind, and what could not be delivered.
#[utoipa::path(get, path = "/api/v1/forward", tag = "operations", responses(
    (status = 200, description = "Every sink", body = Answer<Vec<SinkStatus>>),
))]
pub(super) async fn forward(State(engine): State<Arc<Engine>>) -> Result<Response, Problem> {
    Ok(json(&engine.forward().await?))
}

/// The process runs.
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, description = "It runs", body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// The store can be read and written.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses(
    (status = 200, description = "The store can be read and written", body = String),
    (status = 503, description = "It cannot", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn readyz(State(engine): State<Arc<Engine>>) -> Result<&'static str, Problem> {
    let writable = engine.check_writable();
    match engine.snapshot().await.and(writable) {
        Ok(()) => Ok("ready\n"),
        Err(error) => {
            let problem = Problem::from(error);
            Err(Problem { status: StatusCode::SERVICE_UNAVAILABLE.as_u16(), ..problem })
        }
    }
}

/// Counters in OpenMetrics text.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses(
    (status = 200, description = "Counters", body = String, content_type = "application/openmetrics-text"),
))]
pub(super) async fn metrics(State(engine): State<Arc<Engine>>) -> Response {
    let snapshot = engine.snapshot().await.ok();
    // What cannot be read is missing here and named by `/api/v1/forward`.
    let sinks = engine.forward().await.map(|answer| answer.data).unwrap_or_default();
    let text = engine.metrics().text(snapshot.as_deref(), &sinks);
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}

/// What runs here.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Version {
    /// Version of the program.
    version: &'static str,
    /// Version of the record's field list.
    record_version: i64,
    /// Version of the data directory's layout.
    format_version: u32,
}

/// Versions of program, record and data directory.
#[utoipa::path(get, path = "/version", tag = "operations", responses((status = 200, description = "The versions", body = Version)))]
pub(super) async fn version() -> Response {
    json(&Version {
        version: env!("CARGO_PKG_VERSION"),
        record_version: threadline_schemas::RECORD_VERSION,
        format_version: threadline_store::FORMAT_VERSION,
    })
}
