//! Expected joins: where every record of four recorded sessions belongs, and how surely. The tables in
//! `tests/joins` are reviewed by hand; `UPDATE_EXPECT=1` writes them anew after a change that is meant.

use std::collections::BTreeMap;

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
            assert!(!p["compared"].as_array().unwrap().is_empty(), "{p}: a link that compared nothing");
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
