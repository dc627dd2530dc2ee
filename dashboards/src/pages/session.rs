//! One session: who, what, gaps, and the tree of turns, calls and records over a timeline, or the
//! same as a conversation.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use threadline_query::model::{Answer, Session, SessionClock};

use super::conversation::{self, BLOCKS_MAX, Block};
use super::export::Export;
use super::problem::{self, Attempt};
use super::sessions::{Cover, coverage};
use super::{Params, show, skeleton};
use crate::answers::Answers;
use crate::believed::{Believed, FLOORS};
use crate::chrome::{Chrome, Place};
use crate::minimap::{self, Minimap};
use crate::text::{Href, Shown};
use crate::tree::{self, Row, RowKind, Tree};
use crate::words::{self, Mark};

/// Rows that are drawn by the server; longer sessions are drawn by the module from columns, and
/// paged where there is no JavaScript.
pub(crate) const ROWS_MAX: usize = 2_000;
/// Gaps named one by one.
const GAPS_MAX: usize = 100;
/// Chips per group in the head.
const CHIPS_MAX: usize = 12;

#[derive(Template)]
#[template(path = "session.html")]
struct Page<'a> {
    chrome: Chrome,
    id: Shown,
    via: Option<(Shown, Href)>,
    title: Shown,
    start: Shown,
    end: Shown,
    duration: Shown,
    facts: Vec<Fact>,
    clocks: Vec<Clock>,
    /// Clocks that are not listed.
    clocks_more: usize,
    totals: Vec<(Shown, &'static str, &'static str)>,
    coverage: Vec<Cover>,
    grades: Vec<(Mark, Shown)>,
    floor: Mark,
    gaps: Vec<GapLine>,
    gaps_more: usize,
    gaps_total: usize,
    body: Body<'a>,
    timeline_href: Href,
    conversation_href: Href,
    /// Grades that may be followed down to.
    floors: Vec<Mark>,
    as_known_at: Shown,
    /// Whether less is shown than what is believed now.
    believed: bool,
    plain_href: Href,
    export: Export,
}

enum Body<'a> {
    Timeline(Box<Timeline<'a>>),
    Conversation { blocks: Vec<Block>, earlier: Option<Href>, later: Option<Href> },
}

struct Timeline<'a> {
    map: Minimap,
    lines: Vec<Line<'a>>,
    total: usize,
    skeleton: Option<Href>,
    length: u64,
    at: Shown,
    open_all: Href,
    close_all: Href,
    window: Option<Window>,
}

/// Which rows of a long session the server drew.
struct Window {
    from: Shown,
    to: Shown,
    of: Shown,
    earlier: Option<Href>,
    later: Option<Href>,
}

struct Line<'a> {
    row: &'a Row,
    index: usize,
    kind: u8,
    class: &'static str,
    parent: i64,
    cause: i64,
    hidden: bool,
    /// Date to stand above the row, where it differs from that of the last row that can be seen.
    date: Option<&'a Shown>,
    /// `Some(open)` where there is something to open.
    open: Option<bool>,
    toggle: Href,
    lane: Mark,
    seen: Vec<(Mark, bool)>,
    outcome: Mark,
    grade: Option<Mark>,
    x: Percent,
    w: Percent,
    target: bool,
}

impl Line<'_> {
    /// `host, wire`: what the letters mean, for who does not see them.
    fn seen_words(&self) -> Shown {
        let words: Vec<&str> = self.seen.iter().filter(|(_, seen)| *seen).map(|(mark, _)| mark.word).collect();
        Shown::line(&words.join(", "))
    }
}

/// A share of the axis for SVG attributes.
struct Percent(f64);

impl std::fmt::Display for Percent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3}%", self.0)
    }
}

struct Fact {
    name: &'static str,
    chips: Vec<(Shown, Href)>,
    more: usize,
}

/// How far a source's clock was ahead.
struct Clock {
    name: Shown,
    /// At the first record and, where that differs, at the last.
    ahead: Vec<Shown>,
    spread: Option<Shown>,
}

struct GapLine {
    kind: Shown,
    description: Shown,
    call: Option<Href>,
    events: Vec<(Shown, Href)>,
}

/// `GET /sessions/{id}`
pub(crate) async fn page<E: Answers>(
    State(engine): State<E>,
    Path(id): Path<String>,
    headers: HeaderMap,
    params: Params,
) -> Response {
    let asked = async {
        let believed = Believed::of(&params)?;
        let answer = engine.session(&id, &believed.options()).await?;
        Ok((believed, answer))
    };
    let (believed, answer) = match asked.await {
        Ok(answered) => answered,
        Err(error) => {
            return problem::page(&headers, &error, &Attempt { how: &["as any id of a session"], what: &id });
        }
    };
    let canonical = &answer.data.summary.id;
    if *canonical != id && params.get("via").is_none() {
        let kept = ["view", "block", "open"]
            .iter()
            .fold(believed.on(Href::session(canonical)), |href, name| href.with_some(name, params.get(name)));
        return Redirect::to(kept.with("via", &id).as_str()).into_response();
    }
    let tree = tree::build(&answer.data);
    show(StatusCode::OK, &view(&answer, &tree, &headers, &params, &believed))
}

fn view<'a>(
    answer: &Answer<Session>,
    tree: &'a Tree,
    headers: &HeaderMap,
    params: &Params,
    believed: &Believed,
) -> Page<'a> {
    let session = &answer.data;
    let summary = &session.summary;
    let here = believed.on(Href::session(&summary.id));
    let body = if params.get("view") == Some("conversation") {
        let skip = params.number("block");
        let (blocks, more) = conversation::blocks(session, skip);
        let at = |block: usize| here.clone().with("view", "conversation").with("block", &block.to_string());
        Body::Conversation {
            blocks,
            earlier: (skip > 0).then(|| at(skip.saturating_sub(BLOCKS_MAX))),
            later: more.then(|| at(skip + BLOCKS_MAX)),
        }
    } else {
        let skeleton = believed.on(Href::to(&["sessions", &summary.id, "skeleton"]));
        Body::Timeline(Box::new(timeline(&here, skeleton, tree, params)))
    };
    let total =
        |n: u64, one, many, class| (words::count(n), if n == 1 { one } else { many }, if n > 0 { class } else { "" });
    let mut totals = vec![
        total(summary.prompts, "prompt", "prompts", ""),
        total(summary.calls, "call", "calls", ""),
        total(summary.errors, "error", "errors", "o-bad"),
        total(summary.denials, "denial", "denials", "o-bad"),
        total(summary.records, "record", "records", ""),
    ];
    if summary.rejected > 0 {
        totals.push(total(summary.rejected, "not understood", "not understood", "o-warn"));
    }
    let grades = words::GRADES.iter().zip(tree.grades).filter(|(_, n)| *n > 0);
    Page {
        chrome: Chrome::new(headers, Place::Sessions, Some(&answer.completeness)),
        id: Shown::line(&summary.id),
        via: params.get("via").map(|via| (Shown::line(via), Href::search(via).with("as", "text"))),
        title: Shown::name(&summary.title, 200),
        start: words::moment(&summary.start),
        end: if words::date(&summary.start) == words::date(&summary.end) {
            words::clock(&summary.end)
        } else {
            words::moment(&summary.end)
        },
        duration: words::duration(summary.duration_nano),
        facts: facts(session),
        clocks: session.clocks.iter().take(CHIPS_MAX).map(clock).collect(),
        clocks_more: session.clocks.len().saturating_sub(CHIPS_MAX),
        totals,
        coverage: coverage(summary),
        grades: grades.map(|(&grade, n)| (words::grade(grade), words::count(n))).collect(),
        floor: words::grade(session.grade_floor),
        gaps: gaps(session, &here),
        gaps_more: session.gaps.len().saturating_sub(GAPS_MAX),
        gaps_total: session.gaps.len(),
        body,
        timeline_href: here.clone(),
        conversation_href: here.with("view", "conversation"),
        floors: FLOORS.map(words::grade).to_vec(),
        as_known_at: Shown::line(believed.as_known_at().unwrap_or_default()),
        believed: believed.grade().is_some() || believed.as_known_at().is_some(),
        plain_href: Href::session(&summary.id),
        export: Export::of(&[
            ("session", Some(&summary.id)),
            ("grade", believed.grade()),
            ("as_known_at", believed.as_known_at()),
        ]),
    }
}

fn facts(session: &Session) -> Vec<Fact> {
    let summary = &session.summary;
    let list = |name: &'static str, values: &[String], href: &dyn Fn(&str) -> Href| Fact {
        name,
        chips: values.iter().take(CHIPS_MAX).map(|value| (Shown::name(value, 60), href(value))).collect(),
        more: values.len().saturating_sub(CHIPS_MAX),
    };
    let by = |param: &'static str| move |value: &str| Href::to(&["sessions"]).with(param, value);
    let sources: Vec<String> = summary.sources.keys().cloned().collect();
    let mut facts = vec![
        list("user", &summary.users, &by("user")),
        list("acted as", &summary.acted_as, &by("user")),
        list("agent", &summary.agents, &by("agent")),
        list("servers", &summary.servers, &by("server")),
        list("tools", &summary.tools, &by("tool")),
        list("conversation", &summary.conversation_ids, &Href::search),
        list("sources", &sources, &Href::search),
    ];
    facts.retain(|fact| !fact.chips.is_empty() || matches!(fact.name, "user" | "agent"));
    facts
}

fn clock(clock: &SessionClock) -> Clock {
    let nanos = |ms: &f64| (ms * 1e6) as i64;
    Clock {
        name: Shown::short(&clock.clock, 60),
        ahead: clock.ahead_ms.iter().map(|ms| words::signed_duration(nanos(ms))).collect(),
        spread: clock.spread_ms.as_ref().map(|ms| words::duration(nanos(ms))),
    }
}

fn gaps(session: &Session, here: &Href) -> Vec<GapLine> {
    session
        .gaps
        .iter()
        .take(GAPS_MAX)
        .map(|gap| GapLine {
            kind: words::plain(&gap.kind),
            description: Shown::name(&gap.description, 1000),
            call: gap.call_id.as_deref().map(|call| here.clone().with("open", call).at(&format!("c-{call}"))),
            events: gap.event_ids.iter().take(8).map(|id| (Shown::id(id), Href::event(id))).collect(),
        })
        .collect()
}

/// Decides which rows are drawn and which of them are open.
fn timeline<'a>(here: &Href, skeleton: Href, tree: &'a Tree, params: &Params) -> Timeline<'a> {
    let rows = &tree.rows;
    let opened = params.get("open");
    let target = params
        .get("at")
        .map(|event| Shown::line(&format!("e-{event}")))
        .and_then(|anchor| rows.iter().position(|row| row.anchor == anchor));
    let is_open = |index: usize| match rows[index].kind {
        RowKind::Turn => true,
        _ if opened == Some("all") => true,
        _ if target.is_some_and(|target| rows[target].parent == Some(index)) => true,
        _ => opened.is_some_and(|open| handle(&rows[index]) == Some(open)),
    };
    let hidden = |row: &Row| row.parent.is_some_and(|parent| !is_open(parent));
    // A short session is drawn whole, closed rows hidden; of a long one only a window of open rows.
    let long = rows.len() > ROWS_MAX;
    let candidates: Vec<usize> = (0..rows.len()).filter(|&i| !long || !hidden(&rows[i])).collect();
    let wanted = target.and_then(|target| candidates.binary_search(&target).ok());
    let skip = match wanted {
        Some(position) if params.get("row").is_none() => position / ROWS_MAX * ROWS_MAX,
        _ => params.number("row").min(candidates.len().saturating_sub(1)),
    };
    let drawn = &candidates[skip.min(candidates.len())..candidates.len().min(skip + ROWS_MAX)];
    let mut lines: Vec<Line<'a>> =
        drawn.iter().map(|&index| line(here, tree, index, hidden(&rows[index]), is_open(index), target)).collect();
    date_lines(&mut lines);
    let page = |row: usize| here.clone().with_some("open", opened).with("row", &row.to_string());
    let window = long.then(|| Window {
        from: words::count(skip as u64 + 1),
        to: words::count((skip + drawn.len()) as u64),
        of: words::count(candidates.len() as u64),
        earlier: (skip > 0).then(|| page(skip.saturating_sub(ROWS_MAX))),
        later: (skip + drawn.len() < candidates.len()).then(|| page(skip + ROWS_MAX)),
    });
    Timeline {
        map: minimap::draw(tree),
        lines,
        total: rows.len(),
        skeleton: long.then_some(skeleton),
        length: tree.axis.length(),
        at: target.map(|target| rows[target].anchor.clone()).unwrap_or_default(),
        open_all: here.clone().with("open", "all"),
        close_all: here.clone(),
        window,
    }
}

/// Puts a date above each row that can be seen and bears another one than the row before it.
fn date_lines(lines: &mut [Line<'_>]) {
    let mut last: Option<&Shown> = None;
    for line in lines.iter_mut().filter(|line| !line.hidden && !line.row.date.is_empty()) {
        let date = &line.row.date;
        if last != Some(date) {
            line.date = Some(date);
            last = Some(date);
        }
    }
}

/// The name by which `?open=` means a row: the id of a call, the anchor of a group.
fn handle(row: &Row) -> Option<&str> {
    match row.kind {
        RowKind::Call => row.anchor.as_str().strip_prefix("c-"),
        RowKind::Group => Some(row.anchor.as_str()).filter(|anchor| !anchor.is_empty()),
        _ => None,
    }
}

fn line<'a>(here: &Href, tree: &'a Tree, index: usize, hidden: bool, open: bool, target: Option<usize>) -> Line<'a> {
    let row = &tree.rows[index];
    let share = |part: u64| Percent(part as f64 * 100.0 / tree.axis.length() as f64);
    let number = |row: Option<usize>| row.and_then(|row| i64::try_from(row).ok()).unwrap_or(-1);
    let toggle = match (handle(row), open) {
        (Some(handle), false) => here.clone().with("open", handle).at(row.anchor.as_str()),
        _ => here.clone().at(row.anchor.as_str()),
    };
    Line {
        row,
        index,
        kind: skeleton::number(row.kind),
        class: match row.kind {
            RowKind::Turn => "turn",
            RowKind::Call => "call",
            RowKind::Record => "record",
            RowKind::Body => "body",
            RowKind::Gap => "gap",
            RowKind::Group => "group",
        },
        parent: number(row.parent),
        cause: number(row.cause),
        hidden,
        date: None,
        open: (row.children > 0).then_some(open),
        toggle,
        lane: words::LANES[usize::from(row.lane)],
        seen: (1..6).map(|lane| (words::LANES[lane], row.seen & (1 << lane) != 0)).collect(),
        outcome: words::OUTCOMES[usize::from(row.outcome)],
        grade: row.grade.map(words::grade),
        x: share(row.at),
        // A rectangle without width is not drawn at all, not even its outline.
        w: Percent(share(row.width).0.max(0.05)),
        target: target == Some(index),
    }
}
