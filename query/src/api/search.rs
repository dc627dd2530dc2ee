//! `/api/v1/search`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use super::params::Params;
use super::{Problem, json};
use crate::engine::Engine;
use crate::model::{Answer, Hit, SearchQuestion};

/// Records in which every word and "quoted phrase" occurs, newest first.
#[utoipa::path(get, path = "/api/v1/search", tag = "search", params(SearchQuestion), responses(
    (status = 200, description = "A page of hits", body = Answer<Vec<Hit>>),
    (status = 400, description = "A parameter is not understood", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn search(
    State(engine): State<Arc<Engine>>,
    Params(question): Params<SearchQuestion>,
) -> Result<Response, Problem> {
    Ok(json(&engine.search(&question).await?))
}
