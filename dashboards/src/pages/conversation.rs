//! The session as it reads: prompt, what the model chose, what came back, what it said. Nothing is
//! interpreted: no Markdown, no links, every foreign text in a frame that says whose it is.

use std::collections::HashSet;

use threadline_query::model::{Call, EventLine, Session, Turn};

use crate::exact_json;
use crate::text::{BLOCK_BYTES_MAX, Href, Shown};
use crate::tree;
use crate::words::{self, Mark};

/// Blocks on one page.
pub(super) const BLOCKS_MAX: usize = 200;

/// Arguments up to this long stay on one line, as they were sent.
const SHORT_BYTES: usize = 100;

/// One block of the conversation.
pub(super) struct Block {
    pub(super) kind: &'static str,
    pub(super) anchor: Shown,
    pub(super) time: Shown,
    pub(super) title: Shown,
    pub(super) href: Option<Href>,
    pub(super) outcome: Mark,
    pub(super) grade: Option<Mark>,
    pub(super) flag: &'static str,
    pub(super) duration: Option<Shown>,
    pub(super) frames: Vec<Frame>,
    pub(super) records: Vec<(Mark, Shown, Href)>,
}

/// Foreign text with the label that says whose it is.
pub(super) struct Frame {
    pub(super) label: &'static str,
    pub(super) by: Shown,
    pub(super) text: Shown,
    /// The exact JSON behind a text that was decoded for reading.
    pub(super) exact: Option<Shown>,
    pub(super) more: Option<Href>,
}

/// The blocks from `skip` on, and whether more follow.
pub(super) fn blocks(session: &Session, skip: usize) -> (Vec<Block>, bool) {
    let all = session.turns.iter().flat_map(turn_items);
    let mut rest = all.skip(skip);
    let page: Vec<Block> = rest.by_ref().take(BLOCKS_MAX).map(block).collect();
    (page, rest.next().is_some())
}

enum Item<'a> {
    Prompt(&'a Turn, &'a EventLine),
    Said(&'a EventLine),
    Call(&'a Call),
}

fn turn_items(turn: &Turn) -> Vec<Item<'_>> {
    // Transcript and telemetry both tell what the model said; it is shown once, and both are in the timeline.
    let mut answers = HashSet::new();
    let said = turn.events.iter().filter(|event| match event.kind.as_str() {
        "completion" => answers.insert((event.excerpt.as_str(), event.excerpt_cut)),
        kind => matches!(kind, "elicitation" | "sampling" | "approval"),
    });
    let mut items: Vec<(Option<i64>, Item<'_>)> =
        said.map(|event| (words::nanos(&event.time), Item::Said(event))).collect();
    items.extend(turn.calls.iter().map(|call| (words::nanos(&call.start), Item::Call(call))));
    items.sort_by_key(|(time, _)| *time);
    let prompt = turn.prompt.iter().map(|prompt| Item::Prompt(turn, prompt));
    prompt.chain(items.into_iter().map(|(_, item)| item)).collect()
}

fn block(item: Item<'_>) -> Block {
    match item {
        Item::Prompt(turn, prompt) => {
            let text = turn.prompt_text.as_deref().unwrap_or(&prompt.excerpt);
            Block {
                frames: vec![frame("prompt as recorded by", &prompt.source_name, text, Some(&prompt.event_id))],
                ..of_event("prompt", "Prompt", prompt)
            }
        }
        Item::Said(event) => {
            let mut said =
                frame("text of the model as recorded by", &event.source_name, &event.excerpt, Some(&event.event_id));
            said.text = said.text.and_cut(event.excerpt_cut);
            let title = if event.kind == "completion" { "Answer" } else { "" };
            Block { frames: vec![said], ..of_event("said", title, event) }
        }
        Item::Call(call) => of_call(call),
    }
}

fn of_event(kind: &'static str, title: &str, event: &EventLine) -> Block {
    Block {
        kind,
        anchor: Shown::line(&format!("e-{}", event.event_id)),
        time: words::clock(&event.time),
        title: if title.is_empty() { words::plain(&event.kind) } else { Shown::line(title) },
        href: Some(Href::event(&event.event_id)),
        outcome: words::OUTCOMES[usize::from(words::outcome(event.outcome.as_deref(), event.decision.as_deref()))],
        grade: event.link.as_ref().map(|link| words::grade(link.grade)),
        flag: "",
        duration: None,
        frames: vec![],
        records: vec![],
    }
}

fn of_call(call: &Call) -> Block {
    let server = call.server.as_deref().unwrap_or("the host's own tool");
    let mut frames = Vec::new();
    if let Some(arguments) = &call.arguments {
        let text = if arguments.len() <= SHORT_BYTES { arguments.clone() } else { exact_json::lay_out(arguments) };
        let mut shown = frame("arguments chosen by the model for", server, &text, None);
        shown.text = shown.text.and_cut(call.arguments_cut);
        frames.push(shown);
    }
    if let Some(result) = &call.result {
        let exact = exact_json::lay_out(result);
        let mut shown = match exact_json::texts(result) {
            Some(text) => {
                Frame { exact: Some(Shown::block(&exact, BLOCK_BYTES_MAX)), ..frame("text from", server, &text, None) }
            }
            None => frame("result from", server, &exact, None),
        };
        shown.text = shown.text.and_cut(call.result_cut);
        frames.push(shown);
    }
    let span = words::nanos(&call.start).zip(call.end.as_deref().and_then(words::nanos));
    Block {
        kind: "call",
        anchor: Shown::line(&format!("c-{}", call.id)),
        time: words::clock(&call.start),
        title: tree::tool_of(call),
        href: None,
        outcome: words::OUTCOMES[usize::from(words::outcome(call.outcome.as_deref(), call.decision.as_deref()))],
        grade: Some(words::grade(call.grade)),
        flag: match (call.execution.as_str(), &call.end) {
            ("never_executed", _) => "never executed",
            (_, None) => "no result seen",
            _ => "",
        },
        duration: span.map(|(start, end)| words::duration(end.saturating_sub(start))),
        frames,
        records: call
            .records
            .iter()
            .take(50)
            .map(|record| {
                let lane = words::LANES[usize::from(words::lane(&record.source_kind))];
                (lane, words::plain(&record.kind), Href::event(&record.event_id))
            })
            .collect(),
    }
}

fn frame(label: &'static str, by: &str, text: &str, event: Option<&str>) -> Frame {
    Frame {
        label,
        by: Shown::name(by, 60),
        text: Shown::block(text, BLOCK_BYTES_MAX),
        exact: None,
        more: event.map(Href::event),
    }
}
