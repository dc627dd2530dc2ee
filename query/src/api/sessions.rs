//! `/api/v1/sessions`

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use serde::Deserialize;

use super::params::Params;
use super::{Problem, json};
use crate::engine::{Engine, SessionOptions};
use crate::line::read_time;
use crate::model::{Answer, Grade, Session, SessionFilter, SessionSummary};
use crate::session::Options;

/// Sessions, newest first.
#[utoipa::path(get, path = "/api/v1/sessions", tag = "sessions", params(SessionFilter), responses(
    (status = 200, description = "A page of sessions", body = Answer<Vec<SessionSummary>>),
    (status = 400, description = "A parameter is not understood", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(engine): State<Arc<Engine>>,
    Params(filter): Params<SessionFilter>,
) -> Result<Response, Problem> {
    Ok(json(&engine.sessions(&filter).await?))
}

/// How a session is put together.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct Show {
    /// Weakest grade of link to follow: proven, matched, claimed or inferred (default).
    grade: Option<Grade>,
    /// At most this many records, the earliest first.
    limit: Option<usize>,
    /// As it was known at this moment (RFC 3339, or a date for its first moment) instead of now: records received later are
    /// left out, and what was judged later is not believed.
    as_known_at: Option<String>,
}

/// A session with turns, calls and gaps, from any id: session, conversation, trace, span, tool call,
/// JSON-RPC (`rpc:<connection>:client/<id>`), event, connection, or the bare value of any key.
#[utoipa::path(get, path = "/api/v1/sessions/{id}", tag = "sessions",
    params(("id" = String, Path, description = "Any id, percent-encoded"), Show), responses(
    (status = 200, description = "The session", body = Answer<Session>),
    (status = 404, description = "Nothing bears this id", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The id occurs in several sessions, listed in `sessions`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn show(
    State(engine): State<Arc<Engine>>,
    Path(id): Path<String>,
    Params(show): Params<Show>,
) -> Result<Response, Problem> {
    let options = Options { grade_floor: show.grade.unwrap_or(Grade::Inferred) };
    let known_at = show.as_known_at.as_deref().filter(|text| !text.is_empty());
    let known_at_us =
        known_at.map(|text| read_time("as_known_at", text)).transpose()?.map(|nanos| nanos.div_euclid(1000));
    Ok(json(&engine.session(&id, &SessionOptions { options, records_max: show.limit, known_at_us }).await?))
}
