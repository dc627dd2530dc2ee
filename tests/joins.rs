//! Expected joins: where every record of four recorded sessions belongs, which edges every capture has, and how surely. The
//! tables in `tests/joins` are reviewed by hand; `UPDATE_EXPECT=1` writes them anew after a change that is meant.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use expect_test::expect_file;
use serde_json::Value;

use crate::support::{import, ndjson, ok, repository, threadline};

fn placements(session: &str) -> Vec<Value> {
    let data = tempfile::tempdir().unwrap();
    import(data.path(), &repository("tests/captures").join(session));
    ndjson(&ok(threadline().args(["links", "--format", "ndjson", "--data"]).arg(data.path())))
}

/// One line per record, ordered by origin; sessions, turns and calls are numbered in order of appearance,
/// so that the table does not depend on how they are named.
fn table(placements: &[Value]) -> String {
    let mut numbers: BTreeMap<(&str, String), usize> = BTreeMap::new();
    let mut number = |kind: &'static str, value: &Value| match value.as_str() {
        None => "-".to_string(),
        Some(id) => {
            let next = numbers.keys().filter(|(other, _)| *other == kind).count() + 1;
            format!("{kind}{}", numbers.entry((kind, id.to_string())).or_insert(next))
        }
    };
    let text = |value: &Value| value.as_str().unwrap_or("-").to_string();
    let mut ordered: Vec<&Value> = placements.iter().collect();
    ordered.sort_by_key(|p| {
        (text(&p["file"]), p["line"].as_i64(), text(&p["kind"]), text(&p["parent"]), text(&p["event_id"]))
    });
    let mut table = String::from("origin | kind | session | turn | call | parent | relation | grade | rule\n");
    for p in ordered {
        let row = [
            format!("{}:{}", text(&p["file"]), p["line"]),
            text(&p["kind"]),
            number("s", &p["session"]),
            number("t", &p["turn"]),
            number("c", &p["call"]),
            text(&p["parent"]),
            text(&p["relation"]),
            text(&p["grade"]),
            text(&p["rule"]),
        ];
        table.push_str(&row.join(" | "));
        table.push('\n');
    }
    table
}

/// What holds for any session, whatever the table says.
fn sound(placements: &[Value]) {
    let known: Vec<&Value> = placements.iter().map(|p| &p["event_id"]).collect();
    for p in placements {
        if p["parent_event_id"].is_string() {
            assert!(known.contains(&&p["parent_event_id"]), "{p}: its parent is not stored");
            assert_ne!(p["parent_event_id"], p["event_id"], "{p}: its own parent");
            assert!(p["grade"].is_string() && p["rule"].is_string(), "{p}: a parent without grade and rule");
            // What a source says of one call by itself is put together by its ids and stamps, without weighing.
            let weighed = p["rule"] != "exchange";
            assert!(!weighed || !p["compared"].as_array().unwrap().is_empty(), "{p}: a link that compared nothing");
        }
    }
}

#[test]
fn claude_code_lookups_and_refunds() {
    let placements = placements("claude-code/cc-1");
    sound(&placements);
    expect_file!["joins/cc-1.txt"].assert_eq(&table(&placements));
}

#[test]
fn claude_code_injected_ticket() {
    let placements = placements("claude-code/cc-2");
    sound(&placements);
    expect_file!["joins/cc-2.txt"].assert_eq(&table(&placements));
}

#[test]
fn codex_with_one_trace_per_turn() {
    let placements = placements("codex/cx-1");
    sound(&placements);
    expect_file!["joins/cx-1.txt"].assert_eq(&table(&placements));
}

#[test]
fn sdk_client_and_server_with_rounds() {
    let placements = placements("pysdk-orders-otlp/py--o2");
    sound(&placements);
    expect_file!["joins/py--o2.txt"].assert_eq(&table(&placements));
}

/// (edge, grade) of every capture: which kind of which source hangs below which, by which rule, how often.
fn edges(placements: &[Value]) -> BTreeMap<String, usize> {
    let of: BTreeMap<&str, &Value> = placements.iter().map(|p| (p["event_id"].as_str().unwrap(), p)).collect();
    let file = |p: &Value| {
        let name = p["file"].as_str().unwrap_or("-");
        let part = name.split('/').next().unwrap_or(name);
        if part == name { name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_string() } else { part.to_string() }
    };
    let mut counts = BTreeMap::new();
    for p in placements {
        let text = |key: &str| p[key].as_str().unwrap_or("-").to_string();
        let Some(parent) = p["parent_event_id"].as_str().and_then(|id| of.get(id)) else { continue };
        let (from, to) = (file(p), file(parent));
        let from_kind = text("kind");
        let to_kind = parent["kind"].as_str().unwrap_or("-");
        let edge = format!(
            "{from} {from_kind} -> {to} {to_kind} | {} | {} | {}",
            text("relation"),
            text("grade"),
            text("rule")
        );
        *counts.entry(edge).or_default() += 1;
    }
    counts
}

#[test]
fn every_capture_has_its_edges() {
    let mut folders: Vec<String> = Vec::new();
    for family in std::fs::read_dir(repository("tests/captures")).unwrap().map(|entry| entry.unwrap().path()) {
        if family.is_dir() {
            let sessions = std::fs::read_dir(&family).unwrap().map(|entry| entry.unwrap().path());
            let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
            folders
                .extend(sessions.filter(|path| path.is_dir()).map(|path| format!("{}/{}", name(&family), name(&path))));
        }
    }
    folders.sort();
    let mut table = String::new();
    for folder in folders {
        let placements = placements(&folder);
        sound(&placements);
        writeln!(table, "# {folder}").unwrap();
        for (edge, count) in edges(&placements) {
            writeln!(table, "{edge} | {count}").unwrap();
        }
    }
    expect_file!["joins/edges.txt"].assert_eq(&table);
}

/// The calls of a file: line, tool behind the gateway's prefix, arguments' place among equal ones.
fn calls<'p>(placements: &'p [Value], file: &str) -> Vec<&'p Value> {
    let mut calls: Vec<&Value> = placements.iter().filter(|p| p["file"] == file && p["kind"] == "call").collect();
    calls.sort_by_key(|p| p["line"].as_i64());
    calls
}

/// ContextForge: what the client asked, by line, and what reached the server.
const SIDES: &[(i64, i64)] = &[(16, 11), (20, 32), (24, 54), (34, 95), (60, 168), (64, 190)];
/// Two identical calls at once, as the client sent them and as they reached the server.
const TWINS: ([i64; 2], [i64; 2]) = ([32, 33], [79, 94]);

#[test]
fn both_sides_of_a_gateway_are_joined_call_by_call() {
    let placements = placements("contextforge/cfb--1");
    let call =
        |file: &str, line: i64| calls(&placements, file).into_iter().find(|p| p["line"] == line).unwrap().clone();
    for (client, upstream) in SIDES {
        let (above, below) = (call("client.http.jsonl", *client), call("upstream.http.jsonl", *upstream));
        assert_eq!(below["session"], above["session"], "{above} {below}");
        assert_eq!(below["call"], above["call"], "{above} {below}");
    }
    let of = |file: &str, lines: [i64; 2]| lines.map(|line| call(file, line)["call"].as_str().unwrap().to_string());
    let (mut above, mut below) = (of("client.http.jsonl", TWINS.0), of("upstream.http.jsonl", TWINS.1));
    above.sort();
    below.sort();
    assert_eq!(below, above, "identical calls at once are told apart by the gateway's ids");
}

/// A capture's frames without the ids that both sides of the gateway bear.
fn without_ids(from: &Path, to: &Path) {
    let lines = std::fs::read_to_string(from).unwrap();
    let strip = |line: &str| {
        let mut frame: Value = serde_json::from_str(line).unwrap();
        if let Some(headers) = frame["headers"].as_object_mut() {
            headers.retain(|name, _| name != "x-correlation-id" && name != "traceparent");
        }
        if let Some(mut body) = frame["body"].as_str().and_then(|text| serde_json::from_str::<Value>(text).ok()) {
            if let Some(params) = body["params"].as_object_mut() {
                params.remove("_meta");
            }
            frame["body"] = body.to_string().into();
        }
        format!("{frame}\n")
    };
    std::fs::write(to, lines.lines().map(strip).collect::<String>()).unwrap();
}

#[test]
fn without_shared_ids_times_and_arguments_join_them_and_identical_calls_at_once_are_ambiguous() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, data) = (dir.path().join("taps"), dir.path().join("data"));
    std::fs::create_dir(&taps).unwrap();
    for name in ["client.http.jsonl", "upstream.http.jsonl"] {
        without_ids(&repository("tests/captures/contextforge/cfb--1").join(name), &taps.join(name));
    }
    import(&data, &taps);
    let placements = ndjson(&ok(threadline().args(["links", "--format", "ndjson", "--data"]).arg(&data)));
    sound(&placements);
    let call = |file: &str, line: i64| {
        let of_file = |p: &&Value| p["file"].as_str().is_some_and(|name| name.ends_with(file)) && p["kind"] == "call";
        placements.iter().filter(of_file).find(|p| p["line"] == line).unwrap()
    };
    for (client, upstream) in SIDES {
        let (above, below) = (call("client.http.jsonl", *client), call("upstream.http.jsonl", *upstream));
        assert_eq!(below["parent_event_id"], above["event_id"], "{above} {below}");
        assert_eq!((below["grade"].as_str(), below["rule"].as_str()), (Some("inferred"), Some("frame")));
        assert_eq!((&below["session"], &below["call"]), (&above["session"], &above["call"]), "{above} {below}");
    }
    for line in TWINS.1 {
        let twin = call("upstream.http.jsonl", line);
        assert_eq!(twin["parent_event_id"], Value::Null, "{twin}");
    }
}
