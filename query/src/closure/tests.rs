use expect_test::{Expect, expect};
use threadline_schemas::{Key, KeyKind, Kind, Record};

use super::*;
use crate::fact::{FactView, Facts};
use crate::testing::{C2S, S2C, call, id, make};

/// One line per session (its records), then the contested keys by kind and reason.
fn check(records: &[Record], expected: Expect) {
    let shown = show(records);
    expected.assert_eq(&shown);
    // Neither the order of records nor their division into files matters.
    let mut turned: Vec<Record> = records.iter().rev().cloned().collect();
    assert_eq!(show(&turned), shown);
    turned.rotate_left(records.len() / 2);
    assert_eq!(show(&turned), shown);
}

fn show(records: &[Record]) -> String {
    let facts: Vec<Facts> = records.chunks(3).map(|chunk| Facts::of(chunk).finish()).collect();
    let closure = close(&FactView::new(facts.iter().collect()));
    let mut lines = Vec::new();
    let names = |rows: &[u32]| {
        let mut names: Vec<&str> = rows.iter().map(|at| id(&records[*at as usize])).collect();
        names.sort_unstable();
        names.join(" ")
    };
    for session in &closure.sessions {
        lines.push(names(&session.rows));
    }
    lines.sort_unstable();
    let nowhere: Vec<u32> = (0..records.len() as u32).filter(|at| closure.session_of[*at as usize] == NONE).collect();
    if !nowhere.is_empty() {
        lines.push(format!("in no session: {}", names(&nowhere)));
    }
    let mut contested: Vec<String> = closure
        .contested
        .iter()
        .map(|key| format!("contested {} {:?}: {}", key.key.kind.as_str(), key.why, names(&key.at)))
        .collect();
    contested.sort_unstable();
    lines.extend(contested);
    let mut judged: Vec<String> = closure
        .judged
        .iter()
        .map(|judged| {
            let verdict = match &judged.verdict {
                Verdict::Fits(at) => format!("fits {}", id(&records[*at as usize])),
                Verdict::Several(at) => format!("any of {}", names(at)),
                Verdict::No => "fits nothing".into(),
            };
            format!("{} {verdict}", id(&records[judged.at as usize]))
        })
        .collect();
    judged.sort_unstable();
    lines.extend(judged);
    let mut ids: Vec<&str> = closure.sessions.iter().map(|session| session.id.as_str()).collect();
    ids.dedup();
    assert_eq!(ids.len(), closure.sessions.len(), "session ids are unique");
    lines.join("\n") + "\n"
}

#[test]
fn a_tool_call_id_brings_the_whole_connection_along() {
    let mut records = call("a", "conv", "run", "toolu_1", 0);
    records.push(make("initialize", Kind::Connection, -500).wire("run", C2S).done());
    records.push(make("other-run", Kind::Connection, -400).wire("other", C2S).done());
    check(
        &records,
        expect![[r#"
        a-answer a-choice a-request a-response initialize
        other-run
    "#]],
    );
}

#[test]
fn repeated_tool_call_ids_are_resolved_by_time() {
    let mut records = call("a", "conv-a", "run-a", "toolu_1", 0);
    records.extend(call("b", "conv-b", "run-b", "toolu_1", 600_000));
    check(
        &records,
        expect![[r#"
        a-answer a-choice a-request a-response
        b-answer b-choice b-request b-response
        contested toolcall SeveralConversations: a-answer a-choice a-request a-response b-answer b-choice b-request b-response
        a-request fits a-choice
        b-request fits b-choice
    "#]],
    );
}

#[test]
fn of_two_conversations_at_once_the_arguments_decide() {
    let mut records = call("a", "conv-a", "run-a", "toolu_1", 0);
    records.extend(call("b", "conv-b", "run-b", "toolu_1", 5));
    for record in records.iter_mut().filter(|record| id(record).starts_with("b-") && record.arguments.is_some()) {
        record.arguments_digest = Some("other".into());
    }
    check(
        &records,
        expect![[r#"
        a-answer a-choice a-request a-response
        b-answer b-choice b-request b-response
        contested toolcall SeveralConversations: a-answer a-choice a-request a-response b-answer b-choice b-request b-response
        a-request fits a-choice
        b-request fits b-choice
    "#]],
    );
}

#[test]
fn what_fits_two_conversations_joins_neither() {
    let mut records = call("a", "conv-a", "run-a", "toolu_1", 0);
    records.extend(call("b", "conv-b", "run-b", "toolu_1", 5));
    check(
        &records,
        expect![[r#"
        a-answer a-choice
        a-request a-response
        b-answer b-choice
        b-request b-response
        contested toolcall SeveralConversations: a-answer a-choice a-request a-response b-answer b-choice b-request b-response
        a-request any of a-choice b-choice
        b-request any of a-choice b-choice
    "#]],
    );
}

#[test]
fn a_frame_far_from_the_only_conversation_with_its_id_stays_out() {
    let mut records = call("a", "conv-a", "run-a", "toolu_1", 0);
    records.extend(call("b", "conv-a", "run-b", "toolu_1", 7_200_000).into_iter().skip(1).take(2));
    check(
        &records,
        expect![[r#"
        a-answer a-choice a-request a-response
        b-request b-response
        contested toolcall DoesNotFit: a-answer a-choice a-request a-response b-request b-response
        a-request fits a-choice
        b-request fits nothing
    "#]],
    );
}

#[test]
fn frames_without_a_host_meet_only_when_near() {
    let mut records: Vec<Record> = call("a", "-", "run-a", "toolu_1", 0).drain(1..3).collect();
    records.extend(call("b", "-", "run-b", "toolu_1", 3_600_000).drain(1..3));
    check(
        &records,
        expect![[r#"
        a-request a-response
        b-request b-response
        contested toolcall DoesNotFit: a-request a-response b-request b-response
    "#]],
    );
}

#[test]
fn a_connection_of_two_conversations_joins_neither_to_the_other() {
    let mut records = call("a", "conv-a", "run", "toolu_1", 0);
    let mut second = call("b", "conv-b", "run", "toolu_2", 1000);
    for frame in &mut second[1..3] {
        frame.keys.retain(|key| !key.starts_with("rpc:"));
        frame.add_key(Key::scoped(KeyKind::Rpc, "run:client", "5"));
    }
    records.extend(second);
    records.push(make("initialize", Kind::Connection, -500).wire("run", C2S).done());
    records.push(make("listed", Kind::ToolList, -400).wire("run", S2C).done());
    check(
        &records,
        expect![[r#"
        a-answer a-choice a-request a-response
        b-answer b-choice b-request b-response
        initialize listed
        contested connection SeveralConversations: a-request a-response b-request b-response initialize listed
    "#]],
    );
}

#[test]
fn a_trace_id_of_two_conversations_joins_nothing() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let records = [
        make("a", Kind::Prompt, 0).host("conv-a").trace(trace).done(),
        make("b", Kind::Prompt, 10).host("conv-b").trace(trace).done(),
        make("span", Kind::Span, 20).server().trace(trace).span(Some("1111111111111111"), None).done(),
    ];
    check(
        &records,
        expect![[r#"
        a
        b
        in no session: span
        contested trace SeveralConversations: a b span
    "#]],
    );
}

#[test]
fn a_constant_trace_id_does_not_join_successive_connections() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let opening = |name: &str, run: &str, ms: i64| {
        make(name, Kind::Connection, ms)
            .wire(run, C2S)
            .trace(trace)
            .with(|record| record.name = Some("initialize".into()))
            .done()
    };
    let frame = |name: &str, run: &str, ms: i64| make(name, Kind::Call, ms).wire(run, C2S).rpc("1").trace(trace).done();
    let records = [
        opening("a-open", "run-a", 0),
        frame("a-call", "run-a", 10),
        opening("b-open", "run-b", 9000),
        frame("b-call", "run-b", 9010),
    ];
    check(
        &records,
        expect![[r#"
        a-call a-open
        b-call b-open
        contested trace SeveralConnections: a-call a-open b-call b-open
    "#]],
    );
}

#[test]
fn a_trace_brings_server_spans_to_a_plain_connection() {
    let trace = |n: u8| format!("{n:032x}");
    let records = [
        make("initialize", Kind::Connection, 0).wire("run", C2S).done(),
        make("call-1", Kind::Call, 10).wire("run", C2S).rpc("1").trace(&trace(1)).done(),
        make("span-1", Kind::Call, 11).server().trace(&trace(1)).span(Some("1111111111111111"), None).done(),
        make("call-2", Kind::Call, 20).wire("run", C2S).rpc("2").trace(&trace(2)).done(),
        make("log-2", Kind::Log, 21).server().trace(&trace(2)).span(Some("2222222222222222"), None).done(),
        make("elsewhere", Kind::Log, 21).server().trace(&trace(3)).done(),
    ];
    check(
        &records,
        expect![[r#"
        call-1 call-2 initialize log-2 span-1
        elsewhere
    "#]],
    );
}

#[test]
fn a_trace_alone_leads_a_connection_to_its_conversation() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let records = [
        make("prompt", Kind::Prompt, 0).host("conv").trace(trace).done(),
        make("list", Kind::ToolList, 5).wire("run", C2S).done(),
        make("call", Kind::Call, 10).wire("run", C2S).rpc("1").trace(trace).done(),
        make("other", Kind::Prompt, 0).host("conv-b").done(),
    ];
    check(
        &records,
        expect![[r#"
        call list prompt
        other
    "#]],
    );
}

#[test]
fn an_mcp_session_that_is_opened_twice_joins_nothing_across_connections() {
    let session = |name: &str, run: &str, ms: i64| {
        make(name, Kind::Connection, ms)
            .wire(run, C2S)
            .with(|record| {
                record.name = Some("initialize".into());
                record.add_key(Key::scoped(KeyKind::McpSession, "orders", "1"));
            })
            .done()
    };
    let mut records = vec![session("a-open", "run-a", 0), session("b-open", "run-b", 100)];
    records.push(make("a-call", Kind::Call, 10).wire("run-a", C2S).rpc("1").done());
    check(
        &records,
        expect![[r#"
        a-call a-open
        b-open
        contested mcp-session OpenedTwice: a-open b-open
    "#]],
    );
}

#[test]
fn a_sub_agents_thread_is_part_of_the_conversation_that_its_records_name() {
    let records = [
        make("prompt", Kind::Prompt, 0).host("main").done(),
        make("agent", Kind::Completion, 5).host("main").key(KeyKind::Conversation, "thread").done(),
        make("inner", Kind::Completion, 6).host("thread").done(),
    ];
    check(
        &records,
        expect![[r#"
        agent inner prompt
    "#]],
    );
}

#[test]
fn request_ids_join_only_what_is_near_and_undisputed() {
    let records = [
        make("a", Kind::Completion, 0).host("conv-a").key(KeyKind::Request, "req_1").done(),
        make("b", Kind::Completion, 10).host("conv-b").key(KeyKind::Request, "req_1").done(),
        make("c", Kind::Completion, 10).host("conv-c").key(KeyKind::Request, "req_2").done(),
        make("gateway", Kind::Log, 20).key(KeyKind::Request, "req_2").done(),
        make("later", Kind::Log, 9_000_000).key(KeyKind::Request, "req_2").done(),
    ];
    check(
        &records,
        expect![[r#"
        a
        b
        c gateway
        in no session: later
        contested request DoesNotFit: c gateway later
        contested request SeveralConversations: a b
    "#]],
    );
}
