//! Query parameters and bodies, with problems instead of plain-text refusals.

use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use threadline_schemas::display;

use super::Problem;

/// Query parameters.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = Query::<T>::from_request_parts(parts, state).await;
        read.map(|Query(value)| Params(value)).map_err(|rejection| refused(&rejection.body_text()))
    }
}

/// A JSON body, whatever its content type says.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = axum::body::Bytes::from_request(request, state).await.map_err(|rejection| {
            Problem::new(rejection.status(), "body", "The body cannot be read", rejection.body_text())
        })?;
        serde_json::from_slice(&bytes)
            .map(JsonBody)
            .map_err(|error| refused(&format!("the body is not the JSON expected: {error}")))
    }
}

fn refused(reason: &str) -> Problem {
    let (short, _) = display::cut(reason, 300);
    let detail = display::visible(&short, display::Lines::Show);
    Problem::new(StatusCode::BAD_REQUEST, "parameter", "A parameter is not understood", detail)
}
