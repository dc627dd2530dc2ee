//! One box: an id leads to what it names, anything else is searched as text.

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use threadline_query::SessionOptions;
use threadline_query::model::{Hit, SearchQuestion};

use super::export::Export;
use super::problem::{self, Attempt};
use super::{Params, show};
use crate::answers::{Answers, ReadError};
use crate::chrome::{Chrome, Place};
use crate::text::{Href, Shown};
use crate::words::{self, Mark};

/// Longest text that is tried as an id.
const ID_BYTES_MAX: usize = 512;
/// Words that are tried one by one when all together find nothing.
const CLAUSES_MAX: usize = 8;

#[derive(Template)]
#[template(path = "search.html")]
struct Page {
    chrome: Chrome,
    asked: bool,
    tried_as_id: bool,
    from: Shown,
    to: Shown,
    hits: Vec<Row>,
    next: Option<Href>,
    clauses: Vec<Clause>,
    misread: Vec<Shown>,
    export: Export,
}

struct Row {
    href: Href,
    session: Option<Href>,
    time: Shown,
    lane: Mark,
    source: Shown,
    what: Shown,
    column: Shown,
    before: Shown,
    matched: Shown,
    after: Shown,
}

struct Clause {
    text: Shown,
    href: Href,
    found: &'static str,
}

/// `GET /search`
pub(crate) async fn page<E: Answers>(State(engine): State<E>, headers: HeaderMap, params: Params) -> Response {
    let q = params.get("q").unwrap_or_default();
    let tried_as_id = q.len() <= ID_BYTES_MAX
        && !q.is_empty()
        && !q.contains(char::is_whitespace)
        && params.get("as") != Some("text");
    let attempt = Attempt { how: &["as the id of a record", "as any id of a session", "as text"], what: q };
    if tried_as_id && params.get("cursor").is_none() {
        match named(&engine, q).await {
            Ok(Some(href)) => return Redirect::to(href.as_str()).into_response(),
            Ok(None) => {}
            Err(error) => return problem::page(&headers, &error, &attempt),
        }
    }
    let mut misread = Vec::new();
    let mut time = |name: &str| {
        let text = params.get(name)?;
        let read = words::typed_time(text);
        if read.is_none() {
            misread.push(Shown::line(text));
        }
        read
    };
    let question =
        SearchQuestion { q: q.into(), from: time("from"), to: time("to"), limit: None, cursor: params.owned("cursor") };
    let answer = if q.is_empty() || !misread.is_empty() {
        None
    } else {
        match engine.search(question.clone()).await {
            Ok(answer) => Some(answer),
            Err(error) => return problem::page(&headers, &error, &attempt),
        }
    };
    let hits = answer.as_ref().map_or(&[][..], |answer| &answer.data[..]);
    let clauses = if answer.is_some() && hits.is_empty() { clauses(&engine, &question).await } else { vec![] };
    let again = |href: Href| href.with_some("from", params.get("from")).with_some("to", params.get("to"));
    let page = Page {
        chrome: Chrome::new(&headers, Place::Search, answer.as_ref().map(|answer| &answer.completeness)).searching(q),
        asked: answer.is_some(),
        tried_as_id,
        from: Shown::line(params.get("from").unwrap_or_default()),
        to: Shown::line(params.get("to").unwrap_or_default()),
        hits: hits.iter().map(row).collect(),
        next: answer
            .as_ref()
            .and_then(|answer| answer.next_cursor.as_deref())
            .map(|cursor| again(Href::search(q)).with("as", "text").with("cursor", cursor)),
        clauses,
        misread,
        export: Export::of(&[("q", Some(q)), ("from", question.from.as_deref()), ("to", question.to.as_deref())]),
    };
    show(if page.misread.is_empty() { StatusCode::OK } else { StatusCode::BAD_REQUEST }, &page)
}

/// The page of what `id` names, if it names something: a record first, then any session.
async fn named<E: Answers>(engine: &E, id: &str) -> Result<Option<Href>, ReadError> {
    match engine.event(id).await {
        Ok(answer) => return Ok(Some(Href::event(&answer.data.line.event_id))),
        Err(ReadError::NotFound | ReadError::Question(_)) => {}
        Err(error) => return Err(error),
    }
    match engine.session(id, &SessionOptions::default()).await {
        Ok(answer) if answer.data.summary.id == id => Ok(Some(Href::session(id))),
        Ok(answer) => Ok(Some(Href::session(&answer.data.summary.id).with("via", id))),
        Err(ReadError::NotFound | ReadError::Question(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Each word alone: which of them is the one that is nowhere?
async fn clauses<E: Answers>(engine: &E, question: &SearchQuestion) -> Vec<Clause> {
    let words: Vec<&str> = terms(&question.q).into_iter().take(CLAUSES_MAX).collect();
    if words.len() < 2 {
        return vec![];
    }
    let mut clauses = Vec::new();
    for word in words {
        let alone = SearchQuestion { q: word.into(), limit: Some(1), cursor: None, ..question.clone() };
        let found = match engine.search(alone).await {
            Ok(answer) if answer.data.is_empty() => "found nowhere",
            Ok(_) => "found",
            Err(_) => "could not be searched alone",
        };
        clauses.push(Clause { text: Shown::line(word), href: Href::search(word).with("as", "text"), found });
    }
    clauses
}

/// Words and quoted phrases, quotation marks included.
fn terms(q: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let mut rest = q.trim_start();
    while !rest.is_empty() {
        let end = match rest.strip_prefix('"').and_then(|phrase| phrase.find('"')) {
            Some(close) => close + 2,
            None => rest.find(char::is_whitespace).unwrap_or(rest.len()),
        };
        terms.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    terms
}

fn row(hit: &Hit) -> Row {
    let event = &hit.event;
    let mut what = event.kind.replace('_', " ");
    if let Some(name) = event.tool_name.as_ref().or(event.name.as_ref()) {
        what = format!("{what} {name}");
    }
    let session = hit.session_id.as_deref();
    Row {
        href: Href::event(&event.event_id),
        session: session.map(|id| Href::session(id).with("at", &event.event_id).at(&format!("e-{}", event.event_id))),
        time: words::moment(&event.time),
        lane: words::LANES[usize::from(words::lane(&event.source_kind))],
        source: Shown::name(event.server_name.as_deref().unwrap_or(&event.source_name), 40),
        what: Shown::name(&what, 80),
        column: words::plain(&hit.column),
        before: Shown::line(&hit.before),
        matched: Shown::line(&hit.matched),
        after: Shown::line(&hit.after),
    }
}

#[cfg(test)]
mod tests {
    use super::terms;

    #[test]
    fn phrases_are_one_clause() {
        assert_eq!(terms(" a \"b c\"d \"open e"), ["a", "\"b c\"", "d", "\"open", "e"]);
    }
}
