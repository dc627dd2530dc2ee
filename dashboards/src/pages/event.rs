//! One record: in words, as JSON, as the exact bytes, and with its links.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use threadline_query::model::{Answer, Event, Link};
use threadline_schemas::{Key, display};

use super::problem::{self, Attempt};
use super::{Params, show};
use crate::answers::{Answers, ReadError};
use crate::chrome::{Chrome, Place};
use crate::exact_json;
use crate::headers::DOWNLOAD_POLICY;
use crate::text::{DETAIL_BYTES_MAX, Href, Shown};
use crate::words::{self, Mark};

const ATTEMPT: &[&str] = &["as the id of a record"];
/// Links shown one by one.
const LINKS_MAX: usize = 200;

#[derive(Template)]
#[template(path = "event.html")]
struct Page {
    chrome: Chrome,
    id: Shown,
    what: Shown,
    says: Shown,
    time: Shown,
    time_quality: Shown,
    lane: Mark,
    source: Shown,
    outcome: Mark,
    origin: Option<Shown>,
    session: Option<(Shown, Href)>,
    tabs: Vec<Tab>,
    body: Body,
}

struct Tab {
    label: &'static str,
    note: Shown,
    href: Href,
    current: bool,
}

enum Body {
    Summary { groups: Vec<Group>, keys: Vec<KeyLine>, frames: Vec<Frame>, leaf: Shown, download: Href },
    Json { text: Shown, download: Href },
    Raw { text: Shown, hex: Shown, bytes: Shown, empty: bool, download: Href },
    Links { links: Vec<LinkLine>, more: usize },
}

/// Foreign text with the label that says whose it is.
struct Frame {
    label: &'static str,
    from: Shown,
    text: Shown,
    /// The exact JSON, where `text` was decoded from it for reading.
    exact: Option<Shown>,
}

struct Group {
    name: &'static str,
    fields: Vec<Field>,
}

struct Field {
    name: Shown,
    value: Shown,
    pivot: Option<Href>,
}

struct KeyLine {
    kind: Shown,
    scope: Shown,
    value: Shown,
    pivot: Href,
}

struct LinkLine {
    before: &'static str,
    after: &'static str,
    relation: Shown,
    other: Shown,
    href: Href,
    grade: Mark,
    meaning: &'static str,
    rule: Shown,
    score: Shown,
    compared: Vec<[Shown; 3]>,
    candidates: Vec<(Shown, Href)>,
}

/// `GET /events/{id}` and `GET /e/{id}`
pub(crate) async fn page<E: Answers>(
    State(engine): State<E>,
    Path(id): Path<String>,
    headers: HeaderMap,
    params: Params,
) -> Response {
    let answer = match engine.event(&id).await {
        Ok(answer) => answer,
        Err(error) => return problem::page(&headers, &error, &Attempt { how: ATTEMPT, what: &id }),
    };
    let event = &answer.data;
    let (tab, body) = match params.get("tab") {
        Some("json") => ("json", json_tab(event)),
        Some("raw") => match engine.event_raw(&id).await {
            Ok(bytes) => ("raw", raw_tab(event, &bytes)),
            Err(ReadError::NoBytes) => ("raw", raw_tab(event, &[])),
            Err(error) => return problem::page(&headers, &error, &Attempt { how: ATTEMPT, what: &id }),
        },
        Some("links") => ("links", links_tab(event)),
        _ => ("summary", summary_tab(event)),
    };
    show(StatusCode::OK, &view(&answer, tab, body, &headers))
}

/// `GET /events/{id}/raw`: the exact bytes, as a download that no browser interprets.
pub(crate) async fn raw<E: Answers>(State(engine): State<E>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    match engine.event_raw(&id).await {
        Ok(bytes) => download(&id, "bin", "application/octet-stream", bytes),
        Err(error) => problem::page(&headers, &error, &Attempt { how: ATTEMPT, what: &id }),
    }
}

/// `GET /events/{id}/json`: the record as JSON, as a download.
pub(crate) async fn json<E: Answers>(State(engine): State<E>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    match engine.event(&id).await {
        Ok(answer) => match serde_json::to_string_pretty(&answer.data) {
            Ok(json) => download(&id, "json", "application/json", display::json(json).into_bytes()),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        },
        Err(error) => problem::page(&headers, &error, &Attempt { how: ATTEMPT, what: &id }),
    }
}

fn download(id: &str, extension: &str, media_type: &'static str, bytes: Vec<u8>) -> Response {
    // The name comes from the id alone, and only from its harmless characters.
    let name: String = id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect();
    let disposition = format!("attachment; filename=\"event-{name}.{extension}\"");
    let headers = [
        (header::CONTENT_TYPE, media_type.to_string()),
        (header::CONTENT_DISPOSITION, disposition),
        (header::CONTENT_SECURITY_POLICY, DOWNLOAD_POLICY.to_string()),
    ];
    (headers, bytes).into_response()
}

fn view(answer: &Answer<Event>, current: &'static str, body: Body, headers: &HeaderMap) -> Page {
    let event = &answer.data;
    let line = &event.line;
    let here = Href::event(&line.event_id);
    let tab = |name: &'static str, label: &'static str, note: Shown| Tab {
        label,
        note,
        href: if name == "summary" { here.clone() } else { here.clone().with("tab", name) },
        current: name == current,
    };
    let mut what = line.kind.replace('_', " ");
    for part in [&line.name, &line.tool_name].into_iter().flatten() {
        what = format!("{what} · {part}");
    }
    Page {
        chrome: Chrome::new(headers, Place::Elsewhere, Some(&answer.completeness)),
        id: Shown::line(&line.event_id),
        what: Shown::line(&what),
        says: match body {
            // The summary shows the whole text.
            Body::Summary { .. } => Shown::default(),
            _ => Shown::line(&line.excerpt).and_cut(line.excerpt_cut),
        },
        time: words::moment(&line.time),
        time_quality: Shown::line(&line.time_quality),
        lane: words::LANES[usize::from(words::lane(&line.source_kind))],
        source: Shown::line(&line.source_name),
        outcome: words::OUTCOMES[usize::from(words::outcome(line.outcome.as_deref(), line.decision.as_deref()))],
        origin: line.file.as_deref().map(|file| match line.line {
            Some(at) => Shown::line(&format!("{file}:{at}")),
            None => Shown::line(file),
        }),
        session: event.session_id.as_deref().map(|id| {
            let anchor = format!("e-{}", line.event_id);
            (Shown::id(id), Href::session(id).with("at", &line.event_id).at(&anchor))
        }),
        tabs: vec![
            tab("summary", "Summary", Shown::default()),
            tab("json", "JSON", Shown::default()),
            tab("raw", "Raw", words::bytes(event.raw_bytes)),
            tab("links", "Links", words::count(event.links.len() as u64)),
        ],
        body,
    }
}

/// Columns by the question they answer; what is not listed stands at the end, so nothing is dropped.
const GROUPS: [(&str, &[&str]); 5] = [
    (
        "What",
        &[
            "kind",
            "name",
            "direction",
            "server_name",
            "tool_name",
            "target",
            "outcome",
            "transport_status",
            "rpc_error_code",
            "tool_is_error",
            "error_type",
            "decision",
            "decision_by",
            "duration_nano",
        ],
    ),
    (
        "Who",
        &[
            "user_authenticated",
            "user_claimed",
            "agent_name",
            "client_name",
            "authority",
            "credential_fingerprint",
            "tenant",
        ],
    ),
    (
        "Where from",
        &[
            "source_kind",
            "source_name",
            "collector",
            "decoder",
            "source_sequence",
            "origin_file",
            "origin_line",
            "time",
            "time_unix_nano",
            "time_quality",
            "observed_time",
            "observed_time_unix_us",
        ],
    ),
    (
        "Ids",
        &[
            "event_id",
            "conversation_id",
            "turn_id",
            "tool_call_id",
            "trace_id",
            "span_id",
            "parent_span_id",
            "rpc_id",
            "connection_id",
            "session_key",
            "turn_key",
            "call_key",
            "arguments_digest",
            "result_digest",
            "definition_digest",
        ],
    ),
    ("Storage", &["record_version", "delivery_key", "log_position", "redactions", "bodies", "leaf_salt"]),
];
const PAYLOADS: [(&str, &str); 4] = [
    ("text", "text · foreign text, recorded by"),
    ("arguments", "arguments · foreign text, recorded by"),
    ("result", "result · foreign text from"),
    ("attributes", "other attributes · foreign text, recorded by"),
];

fn summary_tab(event: &Event) -> Body {
    let record = &event.record;
    let named: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    let apart = |name: &str| name == "keys" || name == "raw" || PAYLOADS.iter().any(|(payload, _)| *payload == name);
    let mut groups: Vec<Group> = GROUPS
        .iter()
        .map(|(name, columns)| Group {
            name,
            fields: columns.iter().filter_map(|column| Some(field(event, column, record.get(*column)?))).collect(),
        })
        .collect();
    groups.push(Group {
        name: "Other columns",
        fields: record
            .iter()
            .filter(|(name, _)| !named.contains(&name.as_str()) && !apart(name))
            .map(|(name, value)| field(event, name, value))
            .collect(),
    });
    groups.retain(|group| !group.fields.is_empty());
    let from = event.line.server_name.as_deref().unwrap_or(&event.line.source_name);
    let recorder = event.line.source_name.as_str();
    let frames = PAYLOADS
        .iter()
        .filter_map(|(column, label)| {
            let stored = record.get(*column)?.as_str()?;
            let block = |text: &str| Shown::block(text, DETAIL_BYTES_MAX);
            let laid_out = || block(&exact_json::lay_out(stored));
            let (text, exact) = match *column {
                "text" => (block(stored), None),
                "result" => match exact_json::texts(stored) {
                    Some(text) => (block(&text), Some(laid_out())),
                    None => (laid_out(), None),
                },
                _ => (laid_out(), None),
            };
            let from = if *column == "result" { from } else { recorder };
            Some(Frame { label, from: Shown::name(from, 60), text, exact })
        })
        .collect();
    let keys = record.get("keys").and_then(Value::as_array).map_or(&[][..], |keys| &keys[..]);
    let keys = keys.iter().filter_map(Value::as_str).take(200).map(key_line).collect();
    Body::Summary {
        groups,
        keys,
        frames,
        leaf: Shown::line(&event.leaf_hash),
        download: Href::to(&["events", &event.line.event_id, "json"]),
    }
}

fn field(event: &Event, name: &str, value: &Value) -> Field {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let pivot = match name {
        "user_authenticated" | "user_claimed" => Some(Href::to(&["sessions"]).with("user", &text)),
        "agent_name" => Some(Href::to(&["sessions"]).with("agent", &text)),
        "tool_name" => Some(Href::to(&["sessions"]).with("tool", &text)),
        "server_name" => Some(Href::to(&["sessions"]).with("server", &text)),
        "conversation_id"
        | "turn_id"
        | "tool_call_id"
        | "trace_id"
        | "span_id"
        | "parent_span_id"
        | "connection_id"
        | "session_key"
        | "turn_key"
        | "call_key"
        | "credential_fingerprint"
        | "arguments_digest"
        | "result_digest"
        | "definition_digest" => Some(Href::search(&text)),
        _ => None,
    };
    let value = match (name, value.as_i64()) {
        ("duration_nano", Some(nanos)) if event.line.time_is.as_deref() == Some("end") => {
            Shown::line(&format!("{}, ending at its time", words::duration(nanos)))
        }
        ("duration_nano", Some(nanos)) => words::duration(nanos),
        ("time_unix_nano", Some(nanos)) => words::instant(nanos, &text),
        ("observed_time_unix_us", Some(us)) => words::instant(us.saturating_mul(1000), &text),
        _ => Shown::short(&text, 1_000),
    };
    Field { name: words::plain(if name == "duration_nano" { "duration" } else { name }), value, pivot }
}

/// A scoped value means something only with its scope, so the whole key is searched.
fn key_line(text: &str) -> KeyLine {
    let (kind, scope, value) = match Key::parse(text) {
        Some(key) => (key.kind.as_str(), key.scope, key.value),
        None => ("key", None, text.into()),
    };
    let pivot = Href::search(if scope.is_some() { text } else { &value });
    KeyLine {
        kind: Shown::line(kind),
        scope: Shown::line(scope.as_deref().unwrap_or_default()),
        value: Shown::line(&value),
        pivot,
    }
}

fn json_tab(event: &Event) -> Body {
    let mut shown = event.clone();
    if let Some(raw) = shown.record.get_mut("raw") {
        *raw = Value::from("(see the raw tab)");
    }
    let text = serde_json::to_string_pretty(&shown).unwrap_or_default();
    Body::Json {
        text: Shown::block(&display::json(text), DETAIL_BYTES_MAX),
        download: Href::to(&["events", &event.line.event_id, "json"]),
    }
}

fn raw_tab(event: &Event, bytes: &[u8]) -> Body {
    Body::Raw {
        text: Shown::bytes(bytes, DETAIL_BYTES_MAX),
        hex: Shown::block(&hex_dump(&bytes[..bytes.len().min(DETAIL_BYTES_MAX)]), usize::MAX)
            .and_cut(bytes.len().saturating_sub(DETAIL_BYTES_MAX) as u64),
        bytes: words::bytes(bytes.len() as u64),
        empty: bytes.is_empty(),
        download: Href::to(&["events", &event.line.event_id, "raw"]),
    }
}

/// `00000010  7b 22 …  {"…`: offset, sixteen bytes, the same in ASCII.
fn hex_dump(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(bytes.len() * 5);
    for (n, line) in bytes.chunks(16).enumerate() {
        write!(out, "{:08x} ", n * 16).expect("a string takes everything");
        for i in 0..16 {
            let gap = if i == 8 { "  " } else { " " };
            match line.get(i) {
                Some(byte) => write!(out, "{gap}{byte:02x}").expect("a string takes everything"),
                None => write!(out, "{gap}  ").expect("a string takes everything"),
            }
        }
        out.push_str("  ");
        out.extend(line.iter().map(|byte| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' }));
        out.push('\n');
    }
    out
}

fn links_tab(event: &Event) -> Body {
    let mut links: Vec<&Link> = event.links.iter().collect();
    links.sort_by_key(|link| (link.from != event.line.event_id, link.grade));
    Body::Links {
        links: links.iter().take(LINKS_MAX).map(|link| link_line(link, &event.line.event_id)).collect(),
        more: links.len().saturating_sub(LINKS_MAX),
    }
}

fn link_line(link: &Link, here: &str) -> LinkLine {
    let (other, before, after) = if link.from == here {
        (&link.to, "this belongs to", "")
    } else if link.to == here {
        (&link.from, "", "belongs to this")
    } else {
        (&link.from, "this is one candidate for", "")
    };
    LinkLine {
        before,
        after,
        relation: words::plain(&link.relation),
        other: Shown::line(other),
        href: Href::event(other),
        grade: words::grade(link.grade),
        meaning: words::grade_meaning(link.grade),
        rule: Shown::line(&link.rule),
        score: Shown::line(&format!("{:.2}", link.score)),
        compared: link
            .compared
            .iter()
            .take(50)
            .map(|c| [Shown::line(&c.what), Shown::line(&c.from), Shown::line(&c.to)])
            .collect(),
        candidates: link.candidates.iter().take(50).map(|id| (Shown::line(id), Href::event(id))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn hex_lines() {
        expect![[r#"
            00000000  7b 22 6a 73 6f 6e 72 70  63 22 3a 20 1b 0a ff 41  {"jsonrpc": ...A
            00000010  42                                                B
        "#]]
        .assert_eq(&hex_dump(b"{\"jsonrpc\": \x1b\n\xffAB"));
    }

    #[test]
    fn scoped_keys_are_searched_whole() {
        let line = key_line("rpc:run%2F1/3");
        assert_eq!((line.kind.as_str(), line.scope.as_str(), line.value.as_str()), ("rpc", "run/1", "3"));
        assert_eq!(line.pivot.as_str(), "/search?q=rpc%3Arun%252F1%2F3");
        assert_eq!(key_line("toolcall:toolu_1").pivot.as_str(), "/search?q=toolu_1");
    }
}
