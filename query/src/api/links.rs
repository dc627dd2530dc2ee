//! `/api/v1/links`

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use threadline_schemas::display;

use super::params::Params;
use super::{Problem, json};
use crate::engine::Engine;
use crate::error::QueryError;
use crate::model::{Answer, Finding, LinksQuestion, Placement};
use crate::placements::Walk;

/// Where every stored record belongs: session, turn, call and parent, with grade, rule and the values compared.
/// `Accept: application/x-ndjson` streams everything, one object per line, from one state of the store.
#[utoipa::path(get, path = "/api/v1/links", tag = "events", params(LinksQuestion), responses(
    (status = 200, description = "A page of placements, or all of them as NDJSON", content(
        (Answer<Vec<Placement>> = "application/json"), (Placement = "application/x-ndjson"))),
    (status = 400, description = "A parameter is not understood", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn links(
    State(engine): State<Arc<Engine>>,
    headers: HeaderMap,
    Params(question): Params<LinksQuestion>,
) -> Result<Response, Problem> {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepts.contains("application/x-ndjson") && question.session.is_none() {
        let lines = stream(engine.walk().await?);
        return Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response());
    }
    Ok(json(&engine.links(&question).await?))
}

/// What correlation found beside links: ids that stopped joining and why, servers that logged nothing.
#[utoipa::path(get, path = "/api/v1/links/findings", tag = "events", responses(
    (status = 200, description = "Findings, oldest first", body = Answer<Vec<Finding>>),
))]
pub(super) async fn findings(State(engine): State<Arc<Engine>>) -> Result<Response, Problem> {
    Ok(json(&engine.findings().await?))
}

/// One chunk per session, so the reader's pace decides how much is held here.
fn stream(walk: Walk) -> Body {
    let chunks = stream::try_unfold((walk, 0usize), |(walk, step)| async move {
        if step >= walk.steps() {
            return Ok::<_, QueryError>(None);
        }
        let lines: String = walk
            .step(step)
            .await?
            .iter()
            .filter_map(|placement| serde_json::to_string(placement).ok())
            .map(|line| display::json(line) + "\n")
            .collect();
        Ok(Some((Bytes::from(lines), (walk, step + 1))))
    });
    Body::from_stream(chunks)
}
