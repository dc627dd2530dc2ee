//! Server-rendered pages over the reading side, with two small modules for what HTML alone cannot do.
//!
//! Invariants
//! - every page works without JavaScript; the address is the whole state, so Back and links work
//! - every text that a source sent passes `threadline_schemas::display` (see [`text`])
//! - the browser never parses text as markup: modules set `textContent`, the policy forbids the rest
//! - every page that shows evidence carries the completeness strip of the answer it shows
//!
//! Not here: authentication (the server puts it in front), how answers are found (`threadline_query`).
//!
//! ```
//! use threadline_dashboards::text::Shown;
//! assert_eq!(Shown::line("a\u{202e}b\n").as_str(), "a⟨U+202E⟩b⏎");
//! ```

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::response::Redirect;
use axum::routing::get;

pub mod answers;
mod assets;
mod axis;
mod believed;
mod chrome;
mod exact_json;
#[cfg(test)]
mod fixture;
pub mod headers;
mod minimap;
mod pages;
pub mod text;
mod tree;
mod words;

pub use answers::{Answers, ReadError};

/// The pages over `engine`.
pub fn router<E: Answers>(engine: E) -> Router {
    use pages::{event, forward, help, problem, search, session, sessions, skeleton, sources};
    Router::new()
        .route("/", get(sessions::page::<E>))
        .route("/sessions", get(sessions::page::<E>))
        .route("/sessions/{id}", get(session::page::<E>))
        .route("/sessions/{id}/skeleton", get(skeleton::columns::<E>))
        .route("/events/{id}", get(event::page::<E>))
        .route("/events/{id}/raw", get(event::raw::<E>))
        .route("/events/{id}/json", get(event::json::<E>))
        .route("/e/{id}", get(event::page::<E>))
        .route("/search", get(search::page::<E>))
        .route("/sources", get(sources::page::<E>))
        .route("/forward", get(forward::page::<E>))
        .route("/help", get(help::page))
        .route("/favicon.ico", get(|| async { Redirect::permanent(assets::ASSETS.icon.href.as_str()) }))
        .route("/assets/{file}", get(assets::serve))
        .fallback(problem::no_such_page)
        .method_not_allowed_fallback(|| async { StatusCode::METHOD_NOT_ALLOWED })
        .layer(map_response(headers::secure))
        .with_state(engine)
}

#[cfg(test)]
mod tests;
