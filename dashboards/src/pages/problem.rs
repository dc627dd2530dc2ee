//! Errors as pages: what was tried, what may help. Never an id guess, never content.

use askama::Template;
use axum::extract::OriginalUri;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::show;
use crate::answers::ReadError;
use crate::chrome::{Chrome, Place};
use crate::text::{Href, Shown};

/// Sessions named when an id occurs in several.
const SESSIONS_MAX: usize = 50;

#[derive(Template)]
#[template(path = "problem.html")]
struct Page {
    chrome: Chrome,
    status: u16,
    title: &'static str,
    detail: Shown,
    tried: Vec<Tried>,
    sessions: Vec<(Shown, Href)>,
    sessions_more: usize,
    instead: Option<(&'static str, Href)>,
}

struct Tried {
    how: &'static str,
    what: Shown,
}

/// Where an id was looked for in vain, and what else may be done with it.
pub(crate) struct Attempt<'a> {
    /// In words: `as the id of a record`.
    pub(crate) how: &'static [&'static str],
    /// The id.
    pub(crate) what: &'a str,
}

/// The page for a failed question.
pub(crate) fn page(headers: &HeaderMap, error: &ReadError, attempt: &Attempt<'_>) -> Response {
    let (status, title) = match error {
        ReadError::NotFound => (StatusCode::NOT_FOUND, "Not found"),
        ReadError::NotYet(_) => (StatusCode::NOT_FOUND, "Nothing was known yet"),
        ReadError::NoBytes => (StatusCode::NOT_FOUND, "No bytes are kept"),
        ReadError::Several { .. } => (StatusCode::MULTIPLE_CHOICES, "Which session?"),
        ReadError::Question(_) => (StatusCode::BAD_REQUEST, "This question cannot be understood"),
        ReadError::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "Too much at once"),
        ReadError::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "The store could not be read"),
    };
    let instead = match error {
        ReadError::NotFound | ReadError::Several { .. } => {
            Some(("Search it as text instead", Href::search(attempt.what).with("as", "text")))
        }
        ReadError::NotYet(_) => Some(("The session as it is known now", Href::session(attempt.what))),
        _ => None,
    };
    let sessions = match error {
        ReadError::Several { sessions } => &sessions[..],
        _ => &[],
    };
    let tried = attempt.how.iter().map(|how| Tried { how, what: Shown::line(attempt.what) }).collect();
    let page = Page {
        chrome: Chrome::new(headers, Place::Elsewhere, None).searching(attempt.what),
        status: status.as_u16(),
        title,
        detail: Shown::line(&error.to_string()),
        tried: if sessions.is_empty() && !matches!(error, ReadError::NotYet(_)) { tried } else { vec![] },
        sessions: sessions.iter().take(SESSIONS_MAX).map(|id| (Shown::line(id), Href::session(id))).collect(),
        sessions_more: sessions.len().saturating_sub(SESSIONS_MAX),
        instead,
    };
    show(status, &page)
}

/// Any address that is none of ours.
pub(crate) async fn no_such_page(headers: HeaderMap, OriginalUri(uri): OriginalUri) -> Response {
    let page = Page {
        chrome: Chrome::new(&headers, Place::Elsewhere, None),
        status: 404,
        title: "There is no such page",
        detail: Shown::line("Pages are /sessions, /sessions/{id}, /events/{id}, /search and /help."),
        tried: vec![Tried { how: "as a page", what: Shown::line(uri.path()) }],
        sessions: vec![],
        sessions_more: 0,
        instead: None,
    };
    show(StatusCode::NOT_FOUND, &page)
}
