//! Where records are forwarded to: one row per sink, what is behind or broken stands out, and the newest dead letters.

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use threadline_query::forward::SinkStatus;
use threadline_query::forward::status::DEAD_LETTERS_SHOWN;

use super::problem::{self, Attempt};
use super::show;
use crate::answers::Answers;
use crate::chrome::{Chrome, Place};
use crate::text::{Href, Shown};
use crate::words;

/// A sink that is further behind is marked, seconds.
const LAG_WARN_S: i64 = 60;

#[derive(Template)]
#[template(path = "forward.html")]
struct Page {
    chrome: Chrome,
    rows: Vec<Row>,
    letters: Vec<Letter>,
    letters_total: Shown,
    letters_more: bool,
    in_trouble: usize,
}

struct Row {
    name: Shown,
    kind: Shown,
    ocsf: Shown,
    state: Shown,
    is_trouble: bool,
    reason: Option<Shown>,
    lag_rows: Shown,
    lag_is_more: bool,
    lag: Shown,
    is_late: bool,
    sent: Shown,
    rejected: Option<Shown>,
    quarantined: Option<Shown>,
    filtered: Shown,
    retries: Shown,
    dead_letters: Option<Shown>,
    last: Option<Shown>,
}

struct Letter {
    sink: Shown,
    href: Href,
    uid: Shown,
    why: Shown,
    reason: Shown,
    at: Shown,
}

/// `GET /forward`
pub(crate) async fn page<E: Answers>(State(engine): State<E>, headers: HeaderMap) -> Response {
    let answer = match engine.forward().await {
        Ok(answer) => answer,
        Err(error) => {
            return problem::page(&headers, &error, &Attempt { how: &["as the state of forwarding"], what: "" });
        }
    };
    let sinks = &answer.data;
    let total: u64 = sinks.iter().map(|sink| sink.dead_letters).sum();
    let letters: Vec<Letter> = sinks.iter().flat_map(letters).take(DEAD_LETTERS_SHOWN).collect();
    let page = Page {
        chrome: Chrome::new(&headers, Place::Forward, Some(&answer.completeness)),
        in_trouble: sinks.iter().filter(|sink| is_trouble(sink)).count(),
        letters_more: total > letters.len() as u64,
        letters_total: words::count(total),
        letters,
        rows: sinks.iter().map(row).collect(),
    };
    show(StatusCode::OK, &page)
}

fn is_trouble(sink: &SinkStatus) -> bool {
    !matches!(sink.state.as_str(), "idle" | "delivering")
}

fn row(sink: &SinkStatus) -> Row {
    let some = |n: u64| (n > 0).then(|| words::count(n));
    Row {
        name: Shown::short(&sink.name, 64),
        kind: Shown::short(&sink.kind, 64),
        ocsf: Shown::short(&sink.ocsf_version, 64),
        state: Shown::short(&sink.state, 64),
        is_trouble: is_trouble(sink),
        reason: sink.reason.as_deref().map(|reason| Shown::short(reason, 300)),
        lag_rows: words::count(sink.lag_rows),
        lag_is_more: sink.lag_is_more,
        lag: words::duration(sink.lag_s.saturating_mul(1_000_000_000)),
        is_late: sink.lag_s > LAG_WARN_S,
        sent: words::count(sink.counts.sent),
        rejected: some(sink.counts.rejected),
        quarantined: some(sink.counts.quarantined),
        filtered: words::count(sink.counts.filtered),
        retries: words::count(sink.counts.retries),
        dead_letters: some(sink.dead_letters),
        last: sink.last_delivery.as_deref().map(words::second),
    }
}

fn letters(sink: &SinkStatus) -> impl Iterator<Item = Letter> {
    sink.newest_dead_letters.iter().map(|letter| Letter {
        sink: Shown::short(&sink.name, 64),
        href: Href::to(&["events", &letter.uid]),
        uid: Shown::id(&letter.uid),
        why: Shown::short(&letter.why, 64),
        reason: Shown::short(&letter.reason, 300),
        at: words::second(&letter.at),
    })
}
