//! Recorded traffic, all of it in one heap: nothing is merged across recordings, every call of the
//! ground truth is found, and four recordings are written down session by session (`goldens/captures`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::LazyLock;

use serde_json::Value;
use threadline_schemas::{Kind, Record};

use crate::closure::{Closure, NONE, close};
use crate::fact::{FactView, Facts};
use crate::gather::contest;
use crate::model::{Call, EventLine, Round, Session};
use crate::session::{Options, reconstruct, sort};
use crate::testing::captures;

struct Heap {
    records: Vec<Record>,
    closure: Closure,
    sessions: Vec<Session>,
}

static HEAP: LazyLock<Heap> = LazyLock::new(|| {
    let records = captures::records(&[""]);
    let facts = Facts::of(&records);
    let closure = close(&FactView::new(vec![&facts]));
    let build = |(at, closed): (usize, &crate::closure::Closed)| {
        let contest = contest(&closure, at as u32, &|at| &records[at as usize]);
        let mut own: Vec<Record> = closed.rows.iter().map(|at| records[*at as usize].clone()).collect();
        sort(&mut own);
        reconstruct(&closed.id, &own, &contest, &Options::default()).session
    };
    let sessions = closure.sessions.iter().enumerate().map(build).collect();
    Heap { records, closure, sessions }
});

/// The recording a file belongs to: source and session folder.
fn recording(file: &str) -> String {
    file.split('/').take(2).collect::<Vec<_>>().join("/")
}

fn of_recording(name: &str) -> Vec<&'static Session> {
    let own = |session: &&Session| {
        let lines = session.turns.iter().flat_map(|turn| {
            turn.prompt.iter().chain(&turn.events).chain(turn.calls.iter().flat_map(|call| &call.records))
        });
        lines.filter_map(|line| line.file.as_deref()).next().is_some_and(|file| recording(file) == name)
    };
    HEAP.sessions.iter().filter(own).collect()
}

#[test]
fn no_session_holds_records_of_two_recordings() {
    assert!(HEAP.records.len() > 3000, "{}", HEAP.records.len());
    for closed in &HEAP.closure.sessions {
        let files = closed.rows.iter().filter_map(|at| HEAP.records[*at as usize].origin_file.as_deref());
        let recordings: BTreeSet<String> = files.map(recording).collect();
        assert_eq!(recordings.len(), 1, "{}: {recordings:?}", closed.id);
    }
}

#[test]
fn what_no_id_joins_is_in_no_session_and_little() {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for (record, session) in HEAP.records.iter().zip(&HEAP.closure.session_of) {
        if *session == NONE {
            *kinds.entry(format!("{} {}", record.source_name, record.kind)).or_default() += 1;
        }
    }
    expect_test::expect![[r#"
        {
            "codex_exec log": 3,
            "contextforge auth": 17,
        }
    "#]]
    .assert_debug_eq(&kinds);
}

#[test]
fn every_call_of_the_ground_truth_is_found() {
    let mut checked = 0;
    for source in std::fs::read_dir(captures::folder()).unwrap() {
        let source = source.unwrap().path();
        for folder in source.is_dir().then(|| std::fs::read_dir(&source).unwrap()).into_iter().flatten() {
            let path = folder.unwrap().path();
            let Ok(text) = std::fs::read(path.join("ground_truth.json")) else { continue };
            let name = recording(path.strip_prefix(captures::folder()).unwrap().to_str().unwrap());
            // A gateway's own log is not read yet; its frames are those of two connections.
            if name.starts_with("contextforge") {
                continue;
            }
            let truth: Value = serde_json::from_slice(&text).unwrap();
            let calls: Vec<&Call> = of_recording(&name)
                .into_iter()
                .flat_map(|session| &session.turns)
                .flat_map(|turn| &turn.calls)
                .collect();
            checked += match truth.get("steps") {
                Some(steps) => model_calls(&name, steps, &calls),
                None => client_calls(&name, &truth["turns"], &calls),
            };
        }
    }
    assert!(checked > 100, "{checked}");
}

/// Agents: by tool-call id, joined to prompt and frame.
fn model_calls(name: &str, steps: &Value, calls: &[&Call]) -> usize {
    let uses: Vec<&Value> =
        steps.as_array().unwrap().iter().flat_map(|step| step["tool_uses"].as_array().unwrap()).collect();
    for used in &uses {
        let id = used["id"].as_str().unwrap();
        let found: Vec<&&Call> = calls.iter().filter(|call| call.tool_call_id.as_deref() == Some(id)).collect();
        let [call] = found[..] else { panic!("{name}: {} calls with id {id}", found.len()) };
        let arguments: Value = serde_json::from_str(call.arguments.as_deref().unwrap()).unwrap();
        assert_eq!(arguments, used["input"], "{name} {id}");
        assert!(call.result.is_some() && call.outcome.is_some(), "{name} {id}");
        let selection = call.records.iter().find(|record| record.kind == "selection").unwrap();
        assert_eq!(selection.link.as_ref().unwrap().relation, "prompt", "{name} {id}");
        let on_wire = !used["mcp_calls"].as_array().unwrap().is_empty();
        let frames: Vec<&EventLine> = call.records.iter().filter(|record| record.direction.is_some()).collect();
        assert_eq!(frames.iter().any(|frame| frame.kind == "call"), on_wire, "{name} {id}");
        if on_wire {
            assert_eq!(call.execution, "executed", "{name} {id}");
            assert!(frames.iter().any(|frame| frame.kind == "result"), "{name} {id}");
        }
    }
    uses.len()
}

/// Clients without a model: by tool, arguments and JSON-RPC id.
fn client_calls(name: &str, turns: &Value, calls: &[&Call]) -> usize {
    let wanted = turns.as_array().unwrap().iter().flat_map(|turn| turn["calls"].as_array().unwrap());
    // What failed inside the client before it was sent has no ids.
    let sent = |call: &&Value| call["jsonrpc_ids"].as_array().is_none_or(|ids| !ids.is_empty());
    let wanted: Vec<&Value> = wanted.filter(|call| call["method"] == "tools/call").filter(sent).collect();
    let mut open: Vec<&Call> = calls.to_vec();
    for call in &wanted {
        let outcome = match call["outcome"].as_str().unwrap() {
            "isError" => "error",
            other if other.starts_with("error:") => "",
            other => other,
        };
        let fits = |found: &&Call| {
            let arguments = found.arguments.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
            found.tool.as_deref() == call["tool"].as_str()
                && (arguments.as_ref() == Some(&call["arguments"]) || arguments.is_none())
                && (outcome.is_empty() || found.outcome.as_deref() == Some(outcome))
        };
        let place = open
            .iter()
            .position(fits)
            .unwrap_or_else(|| panic!("{name}: {} {} {outcome} not found", call["tool"], call["arguments"]));
        let found = open.remove(place);
        assert_eq!(found.execution, "executed", "{name} {}", call["tool"]);
        assert!(found.result.is_some() || matches!(outcome, "cancelled" | ""), "{name} {}", call["tool"]);
    }
    wanted.len()
}

/// A session as text: turns, calls, records with their links, gaps.
fn outline(session: &Session) -> String {
    let mut out = String::new();
    let link = |line: &EventLine| match &line.link {
        Some(link) => format!("{} {:?} {}", link.relation, link.grade, link.rule).to_lowercase(),
        None => "-".into(),
    };
    let name = |line: &EventLine| line.name.clone().unwrap_or_default();
    let summary = &session.summary;
    writeln!(
        out,
        "session {} · {} records · {} prompts, {} calls, {} errors, {} denials · {:?}",
        summary.id, summary.records, summary.prompts, summary.calls, summary.errors, summary.denials, summary.coverage
    )
    .unwrap();
    for turn in &session.turns {
        writeln!(out, "  turn {:?}", turn.prompt_text.as_deref().unwrap_or("-")).unwrap();
        for call in &turn.calls {
            writeln!(
                out,
                "    call {}/{} {} · {} · {} · decision {} · {}",
                call.server.as_deref().unwrap_or("-"),
                call.tool.as_deref().unwrap_or("-"),
                call.tool_call_id.as_deref().unwrap_or("-"),
                call.outcome.as_deref().unwrap_or("-"),
                call.execution,
                call.decision.as_deref().unwrap_or("-"),
                format!("{:?}", call.grade).to_lowercase()
            )
            .unwrap();
            for line in &call.records {
                writeln!(out, "      {} {} {} <- {}", line.source_kind, line.kind, name(line), link(line)).unwrap();
            }
        }
        let mut events: BTreeMap<String, usize> = BTreeMap::new();
        for line in &turn.events {
            *events
                .entry(format!("{} {} {} <- {}", line.source_kind, line.kind, name(line), link(line)))
                .or_default() += 1;
        }
        for (event, count) in events {
            writeln!(out, "    {count} × {event}").unwrap();
        }
    }
    for gap in &session.gaps {
        writeln!(out, "  gap {}: {}", gap.kind, gap.description).unwrap();
    }
    out
}

fn check(name: &str, golden: expect_test::ExpectFile) {
    let mut sessions = of_recording(name);
    sessions.sort_by_key(|session| {
        (std::cmp::Reverse(session.summary.records), session.summary.start.clone(), session.summary.id.clone())
    });
    golden.assert_eq(&sessions.into_iter().map(outline).collect::<String>());
}

#[test]
fn claude_code_lookups_refunds_and_a_refused_tool() {
    check("claude-code/cc-1", expect_test::expect_file!["../../goldens/captures/cc-1.txt"]);
}

#[test]
fn claude_code_injected_ticket_reads_and_publishes_a_secret() {
    check("claude-code/cc-2", expect_test::expect_file!["../../goldens/captures/cc-2.txt"]);
}

#[test]
fn codex_one_trace_from_prompt_to_server_log() {
    check("codex/cx-1", expect_test::expect_file!["../../goldens/captures/cx-1.txt"]);
}

#[test]
fn official_sdk_over_http_without_sessions() {
    check("pysdk-orders-otlp/py--o2", expect_test::expect_file!["../../goldens/captures/py--o2.txt"]);
}

#[test]
fn servers_that_were_not_connected_leave_choices_without_calls() {
    check("claude-code/cc-0-not-connected", expect_test::expect_file!["../../goldens/captures/cc-0-not-connected.txt"]);
    check("codex/cx-0-not-connected", expect_test::expect_file!["../../goldens/captures/cx-0-not-connected.txt"]);
}

#[test]
fn identical_calls_at_once_stay_apart() {
    for name in ["pysdk-everything-stdio/concurrent--s1", "pysdk-everything-http/concurrent--h1"] {
        let calls: Vec<&Call> =
            of_recording(name).into_iter().flat_map(|session| &session.turns).flat_map(|turn| &turn.calls).collect();
        let frames = |call: &&Call| call.records.iter().filter(|record| record.kind == Kind::Call.as_str()).count();
        assert!(calls.len() >= 6 && calls.iter().all(|call| frames(call) == 1), "{name}");
    }
}

#[test]
fn recorded_calls_of_two_rounds_are_one_call_each() {
    let calls: Vec<&Call> = of_recording("pysdk-orders-otlp/py--o2")
        .into_iter()
        .flat_map(|session| &session.turns)
        .flat_map(|turn| &turn.calls)
        .filter(|call| !call.rounds.is_empty())
        .collect();
    let round = |round: &Round| {
        let outcome = round.outcome.as_deref().unwrap_or("-");
        format!("{} answers, {outcome}, {} questions", round.answers.len(), round.questions.len())
    };
    let shown = |call: &&Call| {
        let rounds: Vec<String> = call.rounds.iter().map(round).collect();
        format!(
            "{} {}: {}",
            call.tool.as_deref().unwrap_or("-"),
            call.decision.as_deref().unwrap_or("-"),
            rounds.join(" | ")
        )
    };
    expect_test::expect![[r#"
        [
            "delete_customer allow: 0 answers, input_required, 1 questions | 1 answers, ok, 0 questions",
            "summarise -: 0 answers, input_required, 1 questions | 1 answers, ok, 0 questions",
        ]
    "#]]
    .assert_debug_eq(&calls.iter().map(shown).collect::<Vec<_>>());
}
