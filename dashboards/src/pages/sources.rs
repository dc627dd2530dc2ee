//! Who sends: one row per source, the one heard last first; what fell silent stands out.

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use threadline_query::sources::{QUIET_FACTOR, QUIET_MIN_S, SourceState, SourceSummary};

use super::problem::{self, Attempt};
use super::show;
use crate::answers::Answers;
use crate::chrome::{Chrome, Place};
use crate::text::Shown;
use crate::words::{self, Mark};

/// Rows on the page; the API lists them all.
const ROWS_MAX: usize = 1_000;

#[derive(Template)]
#[template(path = "sources.html")]
struct Page {
    chrome: Chrome,
    rows: Vec<Row>,
    more: usize,
    silent: usize,
    quiet_factor: i64,
    quiet_min_s: i64,
}

struct Row {
    lane: Mark,
    name: Shown,
    state: &'static str,
    is_silent: bool,
    quiet: Shown,
    records: Shown,
    minute: Shown,
    hour: Shown,
    rejected: Option<Shown>,
    gaps: Option<Shown>,
    dropped: Shown,
    lag: Option<Shown>,
    behind: Option<Shown>,
    dead_lettered: Option<Shown>,
    offset: Option<Shown>,
    first: Shown,
    last: Shown,
    without_time: Option<Shown>,
    via: Shown,
    collector: Option<Shown>,
    version: Shown,
}

/// `GET /sources`
pub(crate) async fn page<E: Answers>(State(engine): State<E>, headers: HeaderMap) -> Response {
    let answer = match engine.sources().await {
        Ok(answer) => answer,
        Err(error) => return problem::page(&headers, &error, &Attempt { how: &["as the list of sources"], what: "" }),
    };
    let page = Page {
        chrome: Chrome::new(&headers, Place::Sources, Some(&answer.completeness)),
        rows: answer.data.iter().take(ROWS_MAX).map(row).collect(),
        more: answer.data.len().saturating_sub(ROWS_MAX),
        silent: answer.data.iter().filter(|source| source.state == SourceState::Silent).count(),
        quiet_factor: QUIET_FACTOR,
        quiet_min_s: QUIET_MIN_S,
    };
    show(StatusCode::OK, &page)
}

fn row(source: &SourceSummary) -> Row {
    let some = |n: u64| (n > 0).then(|| words::count(n));
    let millis = |ms: f64| words::duration((ms * 1e6) as i64);
    Row {
        lane: words::LANES[words::lane(&source.source_kind) as usize],
        name: Shown::name(&source.source_name, 120),
        state: match source.state {
            SourceState::Active => "active",
            SourceState::Silent => "silent",
            SourceState::Ended => "ended",
            SourceState::Loaded => "loaded",
        },
        is_silent: source.state == SourceState::Silent,
        quiet: words::duration(source.quiet_s.saturating_mul(1_000_000_000)),
        records: words::count(source.records),
        minute: words::count(source.last_minute),
        hour: words::count(source.last_hour),
        rejected: some(source.rejected),
        gaps: some(source.gaps),
        dropped: words::count(source.dropped),
        lag: source.lag_ms.map(millis),
        behind: source.behind.map(words::count),
        dead_lettered: source.dead_lettered.and_then(some),
        offset: source.clock_offset_min_ms.map(|ms| words::signed_duration((ms * 1e6) as i64)),
        first: words::second(&source.first),
        last: words::second(&source.last),
        without_time: some(source.without_time),
        via: words::plain(&source.collector),
        collector: source.collector_id.as_deref().map(Shown::id),
        version: Shown::line(source.collector_version.as_deref().unwrap_or_default()),
    }
}
