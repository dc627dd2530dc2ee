//! The session list: who, what, when, how it ended, who saw it.

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use threadline_query::model::{SessionFilter, SessionSummary};

use super::problem::{self, Attempt};
use super::{Params, show};
use crate::answers::Answers;
use crate::chrome::{Chrome, Place};
use crate::text::{Href, Shown};
use crate::words::{self, Mark};

/// Names shown of a list in a row.
const NAMES_MAX: usize = 2;

/// Characters of a name in a row; the link leads to the whole.
const NAME_CHARS_MAX: usize = 18;

#[derive(Template)]
#[template(path = "sessions.html")]
struct Page {
    chrome: Chrome,
    fields: Vec<Field>,
    outcomes: Vec<Choice>,
    all: bool,
    ranges: Vec<(&'static str, Href)>,
    active: Vec<Active>,
    rows: Vec<Row>,
    next: Option<Href>,
    first: Option<Href>,
    nothing_stored: bool,
    misread: Vec<Shown>,
}

struct Field {
    name: &'static str,
    label: &'static str,
    hint: &'static str,
    value: Shown,
    known: Vec<Shown>,
}

struct Choice {
    value: &'static str,
    chosen: bool,
}

struct Active {
    label: &'static str,
    value: Shown,
    without: Href,
}

struct Row {
    href: Href,
    title: Shown,
    id: Shown,
    start: Shown,
    duration: Shown,
    names: [Names; 4],
    calls: Shown,
    errors: u64,
    denials: u64,
    records: Shown,
    rejected: u64,
    coverage: Vec<Cover>,
}

struct Names {
    label: &'static str,
    shown: Vec<(Shown, Href)>,
    more: usize,
}

/// Whether a side of the calls was seen.
pub(super) struct Cover {
    pub(super) mark: Mark,
    pub(super) seen: bool,
    pub(super) records: Shown,
}

const FIELDS: [(&str, &str, &str); 6] = [
    ("user", "User", ""),
    ("agent", "Agent", ""),
    ("server", "Server", ""),
    ("tool", "Tool", ""),
    ("from", "From (UTC)", "2026-11-20 10:00"),
    ("to", "To (UTC)", "2026-11-21"),
];
const OUTCOMES: [&str; 4] = ["ok", "error", "denied", "cancelled"];
const PARAMS: [&str; 8] = ["user", "agent", "server", "tool", "from", "to", "outcome", "all"];

/// `GET /` and `GET /sessions`
pub(crate) async fn page<E: Answers>(State(engine): State<E>, headers: HeaderMap, params: Params) -> Response {
    let (filter, misread) = filter(&params);
    let answer = if misread.is_empty() { Some(engine.sessions(filter).await) } else { None };
    let answer = match answer.transpose() {
        Ok(answer) => answer,
        Err(error) => {
            let how = &["as a filter of the session list"];
            return problem::page(&headers, &error, &Attempt { how, what: params.get("cursor").unwrap_or("") });
        }
    };
    let found = answer.as_ref().map_or(&[][..], |answer| &answer.data[..]);
    let status = if misread.is_empty() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    let next = answer.as_ref().and_then(|answer| answer.next_cursor.as_deref());
    let stored = answer.as_ref().map_or(1, |a| a.completeness.snapshot.sealed_rows + a.completeness.snapshot.tail_rows);
    let page = Page {
        chrome: Chrome::new(&headers, Place::Sessions, answer.as_ref().map(|answer| &answer.completeness)),
        fields: FIELDS.iter().map(|&field| self::field(field, &params, found)).collect(),
        outcomes: OUTCOMES
            .iter()
            .map(|&value| Choice { value, chosen: params.get("outcome") == Some(value) })
            .collect(),
        all: params.get("all") == Some("true"),
        ranges: ranges(&params, Utc::now()),
        active: active(&params),
        rows: found.iter().map(row).collect(),
        next: next.map(|cursor| list(&params, "").with("cursor", cursor)),
        first: params.get("cursor").map(|_| list(&params, "")),
        nothing_stored: stored == 0,
        misread,
    };
    show(status, &page)
}

/// The filter, and the fields that could not be understood: a filter is never dropped in silence.
fn filter(params: &Params) -> (SessionFilter, Vec<Shown>) {
    let mut misread = Vec::new();
    let mut time = |name: &'static str| {
        let text = params.get(name)?;
        let read = words::typed_time(text);
        if read.is_none() {
            misread.push(Shown::line(text));
        }
        read
    };
    let (from, to) = (time("from"), time("to"));
    let outcome = params.owned("outcome");
    if let Some(other) = outcome.as_deref().filter(|outcome| !OUTCOMES.contains(outcome)) {
        misread.push(Shown::line(other));
    }
    let filter = SessionFilter {
        user: params.owned("user"),
        agent: params.owned("agent"),
        tool: params.owned("tool"),
        server: params.owned("server"),
        outcome,
        from,
        to,
        all: params.get("all").map(|all| all == "true"),
        limit: None,
        cursor: params.owned("cursor"),
    };
    (filter, misread)
}

/// The list with all filters but `without`, from its first page.
fn list(params: &Params, without: &str) -> Href {
    let kept = PARAMS.iter().filter(|&&name| name != without);
    kept.fold(Href::to(&["sessions"]), |href, name| href.with_some(name, params.get(name)))
}

fn active(params: &Params) -> Vec<Active> {
    let labelled = FIELDS.iter().map(|(name, label, _)| (*name, *label)).chain([("outcome", "Outcome")]);
    labelled
        .filter_map(|(name, label)| {
            params.get(name).map(|value| Active { label, value: Shown::line(value), without: list(params, name) })
        })
        .collect()
}

fn field(
    (name, label, hint): (&'static str, &'static str, &'static str),
    params: &Params,
    found: &[SessionSummary],
) -> Field {
    let mut known: Vec<Shown> = found
        .iter()
        .flat_map(|session| match name {
            "user" => &session.users[..],
            "agent" => &session.agents[..],
            "server" => &session.servers[..],
            "tool" => &session.tools[..],
            _ => &[],
        })
        .map(|value| Shown::line(value))
        // A suggestion has to be the value itself.
        .filter(|value| value.cut == 0 && value.hidden == 0)
        .collect();
    known.sort();
    known.dedup();
    known.truncate(50);
    Field { name, label, hint, value: Shown::line(params.get(name).unwrap_or_default()), known }
}

/// Quick ranges write absolute times into the address, so that a shared link shows the same data.
fn ranges(params: &Params, now: DateTime<Utc>) -> Vec<(&'static str, Href)> {
    let kept = ["user", "agent", "server", "tool", "outcome", "all"];
    let href = |back: TimeDelta| {
        let from = (now - back).to_rfc3339_opts(SecondsFormat::Secs, true);
        kept.iter()
            .fold(Href::to(&["sessions"]), |href, name| href.with_some(name, params.get(name)))
            .with("from", &from)
    };
    vec![
        ("last hour", href(TimeDelta::hours(1))),
        ("24 hours", href(TimeDelta::days(1))),
        ("7 days", href(TimeDelta::days(7))),
    ]
}

fn row(session: &SessionSummary) -> Row {
    Row {
        href: Href::session(&session.id),
        title: Shown::line(&session.title),
        id: Shown::id(&session.id),
        start: words::second(&session.start),
        duration: words::duration(session.duration_nano),
        names: [
            names("User", "user", &session.users),
            names("Agent", "agent", &session.agents),
            names("Servers", "server", &session.servers),
            names("Tools", "tool", &session.tools),
        ],
        calls: words::count(session.calls),
        errors: session.errors,
        denials: session.denials,
        records: words::count(session.records),
        rejected: session.rejected,
        coverage: coverage(session),
    }
}

fn names(label: &'static str, param: &'static str, all: &[String]) -> Names {
    let shown = all.iter().take(NAMES_MAX);
    Names {
        label,
        shown: shown
            .map(|name| (Shown::name(name, NAME_CHARS_MAX), Href::to(&["sessions"]).with(param, name)))
            .collect(),
        more: all.len().saturating_sub(NAMES_MAX),
    }
}

/// Host, wire, gateway, server, downstream: who saw this session.
pub(super) fn coverage(session: &SessionSummary) -> Vec<Cover> {
    words::LANES[1..6]
        .iter()
        .map(|&mark| {
            let records = session.coverage.get(mark.word).copied().unwrap_or(0);
            Cover { mark, seen: records > 0, records: words::count(records) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_not_understood_is_said() {
        let params = Params([("from".to_string(), "yesterday".to_string())].into());
        let (filter, misread) = filter(&params);
        assert_eq!((filter.from, misread), (None, vec![Shown::line("yesterday")]));
    }

    #[test]
    fn quick_ranges_are_absolute() {
        let now = DateTime::from_timestamp(1_795_170_679, 0).unwrap();
        let params = Params([("tool".to_string(), "a&b".to_string())].into());
        assert_eq!(ranges(&params, now)[0].1.as_str(), "/sessions?tool=a%26b&from=2026-11-20T09%3A31%3A19Z");
    }
}
