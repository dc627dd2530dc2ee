//! HTTP API v1. CLI and pages ask through here too, the CLI also in process.
//!
//! | path | answers |
//! | --- | --- |
//! | `GET /api/v1/sessions` | a page of the session list |
//! | `GET /api/v1/sessions/{id}` | a session, from any id |
//! | `GET /api/v1/events/{id}` | a record in full; `/raw` its exact bytes; `/links` its links |
//! | `GET /api/v1/search` | a page of hits |
//! | `GET`, `POST /api/v1/sql` | one read-only query |
//! | `GET /api/v1/links` | where every record belongs: pages, or all as NDJSON |
//! | `GET /api/v1/export/progress` | how far the preparation of a named export is |
//! | `GET /api/v1/export` | every record of a session, search or range, streamed: NDJSON, CSV, Parquet, OCSF |
//! | `GET /api/v1/sources` | who sent what |
//! | `GET /api/v1/forward` | where records are forwarded to, and how far behind |
//! | `GET /api/v1/openapi.json`, `/healthz`, `/readyz`, `/metrics`, `/version` | about the server |
//!
//! Invariants
//! - JSON goes out through `display::json`, so no bidi or C1 control reaches a terminal or page unescaped
//! - errors are RFC 9457 problems with a `request_id`; their text holds no content
//! - raw bytes go out as an attachment that no browser interprets
//!
//! Not here: authentication, TLS, ingestion (the server puts them beside or in front).

mod events;
mod export;
mod links;
mod operations;
pub(crate) mod outgoing;
mod params;
mod problem;
mod search;
mod sessions;
mod sql;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use threadline_schemas::display;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::access::noted;
use crate::engine::Engine;
pub use problem::Problem;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of a request body; only SQL has one.
const BODY_BYTES_MAX: usize = 256 * 1024;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "threadline",
        description = "Sessions of AI agents, reconstructed from audit records. Every answer carries what it covers and what it does not.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(Problem)),
    tags(
        (name = "sessions", description = "What happened in a conversation"),
        (name = "events", description = "Single records"),
        (name = "search", description = "Full text and SQL"),
        (name = "operations", description = "The server itself")
    )
)]
struct Api;

/// The API over an engine. Its OpenAPI document also has `beside`: what else the server that it is part of serves.
pub fn router(engine: Arc<Engine>, beside: utoipa::openapi::OpenApi) -> Router {
    let (router, api) = parts();
    let spec = spec_json(&api.merge_from(beside));
    let router = router.route(
        "/api/v1/openapi.json",
        axum::routing::get(move || async move { ([(header::CONTENT_TYPE, "application/json")], spec) }),
    );
    router
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(engine.clone(), noted))
        .layer(middleware::from_fn_with_state(engine.clone(), in_turn))
        .layer(middleware::from_fn_with_state(engine.clone(), around))
        .with_state(engine)
}

/// The OpenAPI 3.1 document of what is read.
pub fn openapi() -> String {
    spec_json(&parts().1)
}

fn parts() -> (Router<Arc<Engine>>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(sessions::list))
        .routes(routes!(sessions::show))
        .routes(routes!(events::show))
        .routes(routes!(events::raw))
        .routes(routes!(events::links))
        .routes(routes!(search::search))
        .routes(routes!(sql::get, sql::post))
        .routes(routes!(links::links))
        .routes(routes!(links::findings))
        .routes(routes!(export::export))
        .routes(routes!(export::progress))
        .routes(routes!(operations::sources))
        .routes(routes!(operations::forward))
        .routes(routes!(operations::healthz))
        .routes(routes!(operations::readyz))
        .routes(routes!(operations::metrics))
        .routes(routes!(operations::version))
        .split_for_parts()
}

fn spec_json(api: &utoipa::openapi::OpenApi) -> String {
    // A document of plain maps and strings always serializes.
    api.to_pretty_json().unwrap_or_default()
}

/// Routes that read no records, and those with bounds of their own: SQL in its process, exports by their permits, which are
/// held as long as somebody reads.
const TAKE_NO_TURN: &[&str] = &[
    "/healthz",
    "/readyz",
    "/metrics",
    "/version",
    "/api/v1/openapi.json",
    "/api/v1/sql",
    "/api/v1/export",
    "/api/v1/export/progress",
    "/assets/{file}",
    "/favicon.ico",
    "/help",
];

/// Routes whose answer may hold every payload of a session, or the largest one, several times while it becomes text: one
/// at a time.
const TAKE_ALL_TURNS: &[&str] = &[
    "/api/v1/sessions/{id}",
    "/sessions/{id}",
    "/sessions/{id}/skeleton",
    "/api/v1/events/{id}",
    "/events/{id}",
    "/events/{id}/json",
];

/// Lets a few answers be put together at once, until they are whole: each may take as much memory as one is allowed. Large
/// ones are counted until they are sent.
pub async fn in_turn(State(engine): State<Arc<Engine>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let Some(route) = route.filter(|route| !TAKE_NO_TURN.contains(route)) else { return next.run(request).await };
    let whole = TAKE_ALL_TURNS.contains(&route);
    match engine.turn(whole).await {
        Ok(_turn) => outgoing::counted(next.run(request).await, engine.outgoing()).await,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// Gives each request an id, counts it, and completes problems.
async fn around(State(engine): State<Arc<Engine>>, request: Request, next: Next) -> Response {
    let id = Uuid::now_v7().to_string();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_string();
    let path = request.uri().path().to_string();
    let mut response = next.run(request).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        // Too much or too long is the asker's affair and said there.
        if problem.status == StatusCode::INTERNAL_SERVER_ERROR.as_u16() {
            tracing::error!(request_id = %id, route = %route, status = problem.status, "request failed");
        }
        response = problem.complete(&id, &path);
    }
    engine.metrics().answered(&route, response.status().as_u16());
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// A JSON answer that is safe to look at.
pub(crate) fn json<T: Serialize>(value: &T) -> Response {
    json_as(StatusCode::OK, "application/json", value)
}

/// An answer as JSON text that is safe to look at.
pub(crate) fn text<T: Serialize>(value: &T) -> Option<String> {
    serde_json::to_string(value).ok().map(display::json)
}

fn json_as<T: Serialize>(status: StatusCode, content_type: &'static str, value: &T) -> Response {
    match text(value) {
        Some(text) => (status, [(header::CONTENT_TYPE, content_type)], Body::from(text)).into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests;
