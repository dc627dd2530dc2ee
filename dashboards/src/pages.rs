//! One file per page: reads the address, asks, turns the answer into what its template prints.

use std::collections::HashMap;

use askama::Template;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

pub(crate) mod conversation;
pub(crate) mod event;
pub(crate) mod export;
pub(crate) mod forward;
pub(crate) mod help;
pub(crate) mod problem;
pub(crate) mod search;
pub(crate) mod session;
pub(crate) mod sessions;
pub(crate) mod skeleton;
pub(crate) mod sources;

/// The query part of an address. Forms send empty fields: those count as absent.
#[derive(Debug, Default)]
pub(crate) struct Params(HashMap<String, String>);

impl Params {
    /// A parameter that says something.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    fn owned(&self, name: &str) -> Option<String> {
        self.get(name).map(String::from)
    }

    fn number(&self, name: &str) -> usize {
        self.get(name).and_then(|value| value.parse().ok()).unwrap_or(0)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        // A repeated name keeps its last value; what cannot be decoded is an empty query.
        Ok(Query::try_from_uri(&parts.uri).map_or_else(|_| Params::default(), |Query(map)| Params(map)))
    }
}

fn show(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "this page could not be drawn").into_response(),
    }
}
