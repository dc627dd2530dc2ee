//! A session as rows: turn, then its calls and other records in time order, then what observed a call.
//!
//! Invariants
//! - a row stands after its parent; `parent < index`
//! - runs of plumbing (model requests, logs, tool definitions, connections) stand in one row that opens
//! - every record of the session is a row, every gap that names a call is a row inside that call
//! - rows are plain columns and bounded texts: 100,000 records are 100,000 short rows, not bodies
//!
//! Not here: markup (templates), which rows are open (page), drawing (assets/timeline.js).

use std::collections::{HashMap, HashSet};

use threadline_query::model::{Call, EventLine, Gap, Grade, Session, Turn};

use crate::axis::Axis;
use crate::text::{Href, Shown};
use crate::words::{self, LANE_PROMPT, LANE_UNKNOWN};

/// What a row stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowKind {
    /// A prompt with everything it led to.
    Turn,
    /// A tool call with every record that observed it.
    Call,
    /// One record.
    Record,
    /// A run of records that carry the story but do not tell it: telemetry, lists, connections.
    Group,
    /// Arguments or result of a call.
    Body,
    /// Something missing.
    Gap,
}

/// One row of the treegrid.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// What it stands for.
    pub(crate) kind: RowKind,
    /// 1 turn, 2 call or record of a turn, 3 inside a call.
    pub(crate) level: u8,
    /// Row it belongs to.
    pub(crate) parent: Option<usize>,
    /// Rows directly inside.
    pub(crate) children: usize,
    /// Anchor, unique in the page; empty where the same record stands above already.
    pub(crate) anchor: Shown,
    /// Time of day, UTC.
    pub(crate) time: Shown,
    /// Date, UTC; empty for what bears the time of the row that it belongs to.
    pub(crate) date: Shown,
    /// Start and width on the axis.
    pub(crate) at: u64,
    /// See `at`.
    pub(crate) width: u64,
    /// Lane whose colour the bar takes.
    pub(crate) lane: u8,
    /// Lanes that saw it, bit per index of [`words::LANES`].
    pub(crate) seen: u8,
    /// Index into [`words::OUTCOMES`].
    pub(crate) outcome: u8,
    /// Weakest link (call) or link to the parent (record).
    pub(crate) grade: Option<Grade>,
    /// How long, if known.
    pub(crate) duration: Option<Shown>,
    /// What it is, in our words and the tool's name.
    pub(crate) what: Shown,
    /// A flag in our words: `no result seen`, `never executed`.
    pub(crate) flag: &'static str,
    /// What it says, foreign text.
    pub(crate) says: Shown,
    /// Its own page.
    pub(crate) href: Href,
    /// The row that caused it, where a link says so and the row is here.
    pub(crate) cause: Option<usize>,
}

/// The rows of a session with their axis.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Rows in order.
    pub(crate) rows: Vec<Row>,
    /// Their axis.
    pub(crate) axis: Axis,
    /// Links per grade, in the order of [`words::GRADES`].
    pub(crate) grades: [u64; 6],
}

/// What a row needs from its place in time, before the axis is known.
struct Span {
    start_us: i64,
    end_us: i64,
}

struct Builder<'a> {
    session: &'a str,
    rows: Vec<Row>,
    spans: Vec<Span>,
    event_rows: HashMap<&'a str, usize>,
    parents: Vec<(usize, &'a str)>,
    anchors: HashSet<String>,
    gaps: HashMap<&'a str, Vec<&'a Gap>>,
    grades: [u64; 6],
    prompts: usize,
    has_prompts: bool,
}

/// The rows of a session.
pub(crate) fn build(session: &Session) -> Tree {
    let mut gaps: HashMap<&str, Vec<&Gap>> = HashMap::new();
    for gap in &session.gaps {
        if let Some(call) = &gap.call_id {
            gaps.entry(call).or_default().push(gap);
        }
    }
    let mut builder = Builder {
        session: &session.summary.id,
        rows: Vec::new(),
        spans: Vec::new(),
        event_rows: HashMap::new(),
        parents: Vec::new(),
        anchors: HashSet::new(),
        gaps,
        grades: [0; 6],
        prompts: 0,
        has_prompts: session.turns.iter().any(|turn| turn.prompt.is_some()),
    };
    session.turns.iter().for_each(|turn| builder.turn(turn));
    builder.finish()
}

impl<'a> Builder<'a> {
    fn turn(&mut self, turn: &'a Turn) {
        let start = micros(&turn.start);
        let end = micros(&turn.end).or(start);
        let prompt = turn.prompt.as_ref();
        let mut row = self.row(RowKind::Turn, 1, None, &turn.start, &format!("t-{}", turn.id));
        row.lane = if prompt.is_some() { LANE_PROMPT } else { LANE_UNKNOWN };
        row.seen = prompt.map_or(0, |prompt| 1 << words::lane(&prompt.source_kind));
        row.duration = start.zip(end).map(|(s, e)| words::duration(e.saturating_sub(s).saturating_mul(1000)));
        self.prompts += usize::from(prompt.is_some());
        row.what = match prompt {
            Some(_) => Shown::line(&format!("prompt {}", self.prompts)),
            None if self.prompts == 0 && self.has_prompts => Shown::line("before any prompt"),
            None => Shown::line("without a prompt"),
        };
        let text = turn.prompt_text.as_deref().or(prompt.map(|prompt| prompt.excerpt.as_str()));
        row.says = Shown::line(text.unwrap_or_default());
        row.href = prompt.map_or_else(|| Href::session(self.session), |prompt| Href::event(&prompt.event_id));
        let at = self.push(row, start, end);
        if let Some(prompt) = prompt {
            self.event_rows.entry(&prompt.event_id).or_insert(at);
        }

        enum Item<'b> {
            Call(&'b Call),
            Event(&'b EventLine),
        }
        let mut items: Vec<(Option<i64>, Item<'a>)> = Vec::with_capacity(turn.calls.len() + turn.events.len());
        items.extend(turn.calls.iter().map(|call| (words::nanos(&call.start), Item::Call(call))));
        items.extend(turn.events.iter().map(|event| (event_nanos(event), Item::Event(event))));
        items.sort_by_key(|(time, _)| *time);
        let mut run: Vec<&'a EventLine> = Vec::new();
        for (_, item) in items {
            match item {
                Item::Event(event) if is_plumbing(event) => run.push(event),
                Item::Event(event) => {
                    self.run(at, &mut run);
                    self.record(at, 2, event);
                }
                Item::Call(call) => {
                    self.run(at, &mut run);
                    self.call(at, call);
                }
            }
        }
        self.run(at, &mut run);
    }

    /// The plumbing between two rows that tell the story: one record stays, more get a row to hold them.
    fn run(&mut self, parent: usize, run: &mut Vec<&'a EventLine>) {
        let records = std::mem::take(run);
        let Some(first) = records.first() else { return };
        if records.len() == 1 {
            return self.record(parent, 2, first);
        }
        let mut row = self.row(RowKind::Group, 2, Some(parent), &first.time, &format!("g-{}", first.event_id));
        row.time = time_of(first);
        row.seen = records.iter().fold(0, |seen, record| seen | 1 << words::lane(&record.source_kind));
        row.lane = words::lane(&first.source_kind);
        row.what = kinds_of(&records);
        // What went wrong must not disappear in a closed row.
        let outcomes =
            records.iter().map(|record| words::outcome(record.outcome.as_deref(), record.decision.as_deref()));
        row.outcome =
            outcomes.filter(|outcome| words::OUTCOMES[usize::from(*outcome)].class != "o-ok").max().unwrap_or(0);
        let start = records.iter().filter_map(|record| span_of(record)).map(|(start, _)| start).min();
        let end = records.iter().filter_map(|record| span_of(record)).map(|(_, end)| end).max();
        let at = self.push(row, start, end);
        records.iter().for_each(|record| self.record(at, 3, record));
    }

    fn call(&mut self, parent: usize, call: &'a Call) {
        let start = micros(&call.start);
        let end = call.end.as_deref().and_then(micros);
        let mut row = self.row(RowKind::Call, 2, Some(parent), &call.start, &format!("c-{}", call.id));
        row.seen = call.records.iter().fold(0, |seen, record| seen | 1 << words::lane(&record.source_kind));
        row.lane = (1..=5).rev().find(|lane| row.seen & (1 << lane) != 0).unwrap_or(LANE_UNKNOWN);
        row.outcome = words::outcome(call.outcome.as_deref(), call.decision.as_deref());
        row.grade = Some(call.grade);
        row.duration = start.zip(end).map(|(s, e)| words::duration(e.saturating_sub(s).saturating_mul(1000)));
        row.what = tool_of(call);
        row.flag = match (call.execution.as_str(), &call.end) {
            ("never_executed", _) => "never executed",
            (_, None) => "no result seen",
            _ => "",
        };
        row.says = Shown::line(call.arguments.as_deref().unwrap_or_default());
        row.href = Href::session(self.session).with("view", "conversation").at(&format!("c-{}", call.id));
        let href = row.href.clone();
        let at = self.push(row, start, end);

        let body = |this: &Self, what: &str, text: &str, time: &str| {
            let mut row = this.row(RowKind::Body, 3, Some(at), time, "");
            row.what = Shown::line(what);
            row.says = Shown::line(text);
            row.href = href.clone();
            row.date = Shown::default();
            row
        };
        if let Some(arguments) = &call.arguments {
            let mut row = body(self, "arguments", arguments, &call.start);
            row.says = row.says.and_cut(call.arguments_cut);
            self.push(row, start, start);
        }
        call.records.iter().for_each(|record| self.record(at, 3, record));
        if let Some(result) = &call.result {
            let time = call.end.as_deref().unwrap_or(&call.start);
            let mut row = body(self, "result", result, time);
            row.outcome = words::outcome(call.outcome.as_deref(), None);
            row.says = row.says.and_cut(call.result_cut);
            self.push(row, end.or(start), end.or(start));
        }
        for gap in self.gaps.remove(call.id.as_str()).unwrap_or_default() {
            let mut row = body(self, "", "", call.end.as_deref().unwrap_or(&call.start));
            row.kind = RowKind::Gap;
            row.what = words::plain(&gap.kind);
            row.says = Shown::line(&gap.description);
            row.grade = Some(Grade::Missing);
            self.push(row, end.or(start), end.or(start));
        }
    }

    fn record(&mut self, parent: usize, level: u8, event: &'a EventLine) {
        let (start, end) = span_of(event).unzip();
        let mut row = self.row(RowKind::Record, level, Some(parent), &event.time, &format!("e-{}", event.event_id));
        row.lane = if event.kind == "prompt" { LANE_PROMPT } else { words::lane(&event.source_kind) };
        row.seen = 1 << words::lane(&event.source_kind);
        row.time = time_of(event);
        row.outcome = words::outcome(event.outcome.as_deref(), event.decision.as_deref());
        row.grade = event.link.as_ref().map(|link| link.grade);
        row.duration = event.duration_nano.map(words::duration);
        row.what = what_of(event, level);
        row.says = Shown::line(&event.excerpt).and_cut(event.excerpt_cut);
        row.href = Href::event(&event.event_id);
        if matches!(event.kind.as_str(), "gap" | "rejected") {
            row.flag = "not recorded in full";
        }
        let at = self.push(row, start, end);
        self.event_rows.entry(&event.event_id).or_insert(at);
        if let Some(link) = &event.link {
            self.grades[link.grade as usize] += 1;
            self.parents.push((at, &link.to));
        }
    }

    fn row(&self, kind: RowKind, level: u8, parent: Option<usize>, time: &str, anchor: &str) -> Row {
        Row {
            kind,
            level,
            parent,
            children: 0,
            anchor: Shown::line(anchor),
            time: words::clock(time),
            date: words::date(time),
            at: 0,
            width: 0,
            lane: LANE_UNKNOWN,
            seen: 0,
            outcome: 0,
            grade: None,
            duration: None,
            what: Shown::default(),
            flag: "",
            says: Shown::default(),
            href: Href::session(self.session),
            cause: None,
        }
    }

    fn push(&mut self, mut row: Row, start: Option<i64>, end: Option<i64>) -> usize {
        if !row.anchor.is_empty() && !self.anchors.insert(row.anchor.to_string()) {
            row.anchor = Shown::default();
        }
        if let Some(parent) = row.parent {
            self.rows[parent].children += 1;
        }
        // What has no readable time stands where its parent stands.
        let inherited = row.parent.map_or(0, |parent| self.spans[parent].start_us);
        let start_us = start.unwrap_or(inherited);
        self.spans.push(Span { start_us, end_us: end.unwrap_or(start_us).max(start_us) });
        self.rows.push(row);
        self.rows.len() - 1
    }

    fn finish(mut self) -> Tree {
        for (row, parent) in std::mem::take(&mut self.parents) {
            self.rows[row].cause = self.event_rows.get(parent).copied().filter(|cause| *cause != row);
        }
        // Turns only frame what happened in them; their own idle time must not keep the axis open.
        let framing = |row: &Row| row.kind == RowKind::Turn;
        let axis = Axis::over(
            self.rows
                .iter()
                .zip(&self.spans)
                .map(|(row, span)| (span.start_us, if framing(row) { span.start_us } else { span.end_us }))
                .collect(),
        );
        for (row, span) in self.rows.iter_mut().zip(&self.spans) {
            row.at = axis.at(span.start_us);
            row.width = axis.at(span.end_us) - row.at;
        }
        Tree { rows: self.rows, axis, grades: self.grades }
    }
}

/// `orders · refund`, or what is known of it.
pub(crate) fn tool_of(call: &Call) -> Shown {
    Shown::line(&match (&call.server, &call.tool) {
        (Some(server), Some(tool)) => format!("{server} · {tool}"),
        (None, Some(tool)) => tool.clone(),
        (Some(server), None) => format!("{server} · unnamed tool"),
        (None, None) => "unnamed tool".into(),
    })
}

/// Kind, and what tells records of a kind apart: the tool, unless the row stands inside its call, or
/// the source's own name where the kind alone says little.
fn what_of(event: &EventLine, level: u8) -> Shown {
    let mut what = event.kind.replace('_', " ");
    let telling = !matches!(
        event.kind.as_str(),
        "prompt" | "completion" | "model_request" | "selection" | "call" | "result" | "decision" | "tool_list"
    );
    let tool = event.tool_name.as_deref().filter(|_| level == 2);
    for part in tool.into_iter().chain(event.name.as_deref().filter(|_| telling)) {
        what.push(' ');
        what.push_str(part);
    }
    Shown::name(&what, 80)
}

/// Records that a reader of the story can do without, unless they went wrong.
fn is_plumbing(event: &EventLine) -> bool {
    matches!(
        event.kind.as_str(),
        "session"
            | "model_request"
            | "tool_list"
            | "tool_definition"
            | "request"
            | "notification"
            | "connection"
            | "process"
            | "span"
            | "log"
            | "prompt"
            | "resource"
            | "prompt_template"
            | "access"
    )
}

/// `14 tool definitions, 3 logs`: most frequent first.
fn kinds_of(records: &[&EventLine]) -> Shown {
    let mut counts: Vec<(usize, &str)> = Vec::new();
    for record in records {
        match counts.iter_mut().find(|(_, kind)| *kind == record.kind) {
            Some(count) => count.0 += 1,
            None => counts.push((1, &record.kind)),
        }
    }
    counts.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
    let many = |n: usize, kind: &str| match (n, kind.ends_with('s')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    let named = counts.iter().take(4).map(|(n, kind)| format!("{n} {}{}", kind.replace('_', " "), many(*n, kind)));
    let named: Vec<String> = named.collect();
    let rest: usize = counts.iter().skip(4).map(|(n, _)| n).sum();
    let rest = if rest > 0 { format!(", {rest} other") } else { String::new() };
    Shown::line(&format!("{}{rest}", named.join(", ")))
}

/// The time that its source gave; where it gave none, ours says nothing about when it happened.
fn time_of(event: &EventLine) -> Shown {
    match event.time_quality.as_str() {
        "missing" | "zero" | "invalid" => Shown::line("no time"),
        _ => words::clock(&event.time),
    }
}

/// Start and end in microseconds, by the source's own clock.
fn span_of(event: &EventLine) -> Option<(i64, i64)> {
    if matches!(event.time_quality.as_str(), "missing" | "zero" | "invalid") {
        return None;
    }
    let time = event_nanos(event)?.div_euclid(1000);
    let duration = event.duration_nano.unwrap_or(0).max(0) / 1000;
    Some(match event.time_is.as_deref() {
        Some("end") => (time.saturating_sub(duration), time),
        _ => (time, time.saturating_add(duration)),
    })
}

fn event_nanos(event: &EventLine) -> Option<i64> {
    event.time_unix_nano.parse().ok().or_else(|| words::nanos(&event.time))
}

fn micros(time: &str) -> Option<i64> {
    words::nanos(time).map(|ns| ns.div_euclid(1000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn every_record_and_gap_is_a_row_after_its_parent() {
        let session = fixture::session();
        let tree = build(&session);
        let records: usize = session
            .turns
            .iter()
            .map(|turn| turn.events.len() + turn.calls.iter().map(|call| call.records.len()).sum::<usize>())
            .sum();
        assert_eq!(tree.rows.iter().filter(|row| row.kind == RowKind::Record).count(), records);
        let gaps = session.gaps.iter().filter(|gap| gap.call_id.is_some()).count();
        assert_eq!(tree.rows.iter().filter(|row| row.kind == RowKind::Gap).count(), gaps);
        for (i, row) in tree.rows.iter().enumerate() {
            assert!(row.parent.is_none_or(|parent| parent < i && tree.rows[parent].level < row.level));
            assert!(row.at + row.width <= tree.axis.length());
            assert_eq!(row.children, tree.rows.iter().filter(|child| child.parent == Some(i)).count());
        }
        assert!(tree.rows.iter().any(|row| row.cause.is_some()), "links lead to rows");
    }

    #[test]
    fn plumbing_between_the_story_stands_in_one_row() {
        let tree = build(&fixture::session());
        let groups: Vec<(&str, usize)> = tree
            .rows
            .iter()
            .filter(|row| row.kind == RowKind::Group)
            .map(|row| (row.what.as_str(), row.children))
            .collect();
        assert_eq!(groups[0], ("3 connections, 3 tool lists", 6));
        assert!(groups.iter().all(|(_, children)| *children > 1), "one record alone needs no group");
    }

    #[test]
    fn a_record_without_time_does_not_stretch_the_axis() {
        let mut session = fixture::session();
        let length = build(&session).axis.length();
        let event = &mut session.turns[1].events[0];
        event.time_quality = "missing".into();
        event.time_unix_nano = "1895170679690000000".into();
        let tree = build(&session);
        assert!(tree.axis.length() <= length);
        assert!(tree.rows.iter().any(|row| row.time.as_str() == "no time"));
    }

    #[test]
    fn a_call_shows_who_saw_it() {
        let tree = build(&fixture::session());
        let refund = tree.rows.iter().find(|row| row.what.as_str() == "orders · boom").unwrap();
        assert_eq!(refund.seen & 0b11_1110, 0b01_0110, "host, wire and server, neither gateway nor downstream");
        let bash = tree.rows.iter().find(|row| row.what.as_str() == "Bash").unwrap();
        assert_eq!(bash.seen, 0b10, "host alone");
    }

    #[test]
    fn unreadable_times_stand_with_their_parent() {
        let mut session = fixture::session();
        session.turns[1].calls[0].start = "soon".into();
        let tree = build(&session);
        let call = tree.rows.iter().find(|row| row.time.as_str() == "soon").unwrap();
        assert_eq!(call.at, tree.rows[call.parent.unwrap()].at);
    }
}
