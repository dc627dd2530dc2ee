//! `/api/v1/sql`

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Problem;
use super::params::{JsonBody, Params};
use crate::access::Question;
use crate::engine::Engine;
use crate::model::{Answer, SqlQuestion, Table};

/// One read-only query over the tables `records` and `links`.
#[utoipa::path(get, path = "/api/v1/sql", tag = "search", operation_id = "sql_get", params(SqlQuestion), responses(
    (status = 200, description = "The rows", body = Answer<Table>),
    (status = 400, description = "The query is refused or failed", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "Too many at once; `Retry-After` says when to ask again", body = Problem, content_type = "application/problem+json"),
    (status = 504, description = "It took too long", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn get(
    State(engine): State<Arc<Engine>>,
    Params(question): Params<SqlQuestion>,
) -> Result<Response, Problem> {
    answer(&engine, &question).await
}

/// The same, for queries that are too long for a URL or must not stand in a log.
#[utoipa::path(post, path = "/api/v1/sql", tag = "search", operation_id = "sql_post", request_body = SqlQuestion, responses(
    (status = 200, description = "The rows", body = Answer<Table>),
    (status = 400, description = "The query is refused or failed", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "Too many at once; `Retry-After` says when to ask again", body = Problem, content_type = "application/problem+json"),
    (status = 504, description = "It took too long", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn post(
    State(engine): State<Arc<Engine>>,
    JsonBody(question): JsonBody<SqlQuestion>,
) -> Result<Response, Problem> {
    answer(&engine, &question).await
}

async fn answer(engine: &Arc<Engine>, question: &SqlQuestion) -> Result<Response, Problem> {
    let body = engine.sql_json(question).await?;
    let asked = Extension(Question::of(&question.query));
    Ok((asked, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}
