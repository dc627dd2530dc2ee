use expect_test::{Expect, expect};
use threadline_schemas::{Collector, KeyKind, Kind, Outcome, Record};

use super::*;
use crate::testing::{C2S, S2C, call, id, make};

/// One line per link; `=>` marks the link to the parent.
fn check(records: Vec<Record>, contest: &Contest, expected: Expect) {
    let shown = |mut records: Vec<Record>| {
        crate::session::sort(&mut records);
        let found = links(&records, contest);
        let mut lines: Vec<String> = found
            .edges
            .iter()
            .enumerate()
            .map(|(at, edge)| {
                let compared: Vec<String> =
                    edge.compared.iter().map(|c| format!("{} {}={}", c.what, c.from, c.to)).collect();
                let arrow = if found.parent[edge.from] == Some(at) { "=>" } else { "->" };
                let grade = format!("{:?}", edge.grade).to_lowercase();
                let candidates: Vec<&str> = edge.candidates.iter().map(|at| id(&records[*at])).collect();
                let rivals =
                    if candidates.is_empty() { String::new() } else { format!(" of {}", candidates.join("|")) };
                format!(
                    "{} {arrow} {}: {} {grade} {} [{}]{rivals}",
                    id(&records[edge.from]),
                    id(&records[edge.to]),
                    edge.relation,
                    edge.rule,
                    compared.join(", ")
                )
            })
            .collect();
        lines.sort_unstable();
        lines.extend(
            found
                .outside
                .iter()
                .map(|link| format!("outside {:?} {} of {}", link.grade, link.rule, link.candidates.len())),
        );
        lines.join("\n") + "\n"
    };
    let text = shown(records.clone());
    expected.assert_eq(&text);
    assert_eq!(shown(records.into_iter().rev().collect()), text, "the order of records does not matter");
}

#[test]
fn native_events_that_name_no_side_meet_by_the_id_of_their_call() {
    check(
        vec![
            make("call", Kind::Call, 0).tool("t-1", "refund").done(),
            make("result", Kind::Result, 5).tool("t-1", "refund").result("done", Outcome::Ok).done(),
        ],
        &Contest::default(),
        expect![[r#"
            result => call: result claimed tool-call-id [toolcall t-1=t-1]
        "#]],
    );
}

#[test]
fn a_call_from_choice_to_answer() {
    check(
        call("a", "conv", "run", "toolu_1", 0),
        &Contest::default(),
        expect![[r#"
            a-answer -> a-response: observation matched result-digest [toolcall toolu_1=toolu_1, result_digest digest-of-done=digest-of-done]
            a-answer => a-choice: result claimed tool-call-id [toolcall toolu_1=toolu_1]
            a-request => a-choice: execution matched tool-call-id [toolcall toolu_1=toolu_1]
            a-response -> a-choice: result matched tool-call-id [toolcall toolu_1=toolu_1]
            a-response => a-request: result proven response [rpc run:client/4=run:client/4, direction server_to_client=client_to_server]
        "#]],
    );
}

#[test]
fn an_id_that_is_given_anew_in_every_request_says_the_last_open_choice() {
    let choice = |name: &str, at: i64, arguments: &str| {
        make(name, Kind::Selection, at).host("c").tool("call_0", "refund").arguments(arguments).done()
    };
    let answer = |name: &str, at: i64| make(name, Kind::Result, at).host("c").tool("call_0", "refund").done();
    let records = vec![
        choice("first", 0, "{1}"),
        answer("answer-1", 10),
        choice("second", 20, "{2}"),
        answer("answer-2", 30),
        // Two at once: which is answered first, the id does not say.
        choice("third", 40, "{3}"),
        choice("fourth", 41, "{4}"),
        answer("answer-3", 50),
        answer("answer-4", 51),
    ];
    check(
        records.clone(),
        &Contest::default(),
        expect![[r#"
            answer-1 => first: result inferred tool-call-id [toolcall call_0=call_0]
            answer-2 => second: result inferred tool-call-id [toolcall call_0=call_0]
            answer-3 -> fourth: result ambiguous tool-call-id [toolcall call_0=call_0] of fourth|third
        "#]],
    );
    let session = crate::session::reconstruct("s", &records, &Contest::default(), &Default::default()).session;
    let calls: Vec<usize> = session.turns.iter().flat_map(|turn| &turn.calls).map(|call| call.records.len()).collect();
    assert!(calls.starts_with(&[2, 2]) && calls.len() >= 4, "{calls:?}");
}

#[test]
fn a_recorded_file_is_no_proof() {
    let mut records = call("a", "conv", "run", "toolu_1", 0);
    records.iter_mut().for_each(|record| record.collector = Collector::Import);
    let found = links(&records, &Contest::default());
    let response = found.edges.iter().find(|edge| edge.rule == "response").unwrap();
    assert_eq!(response.grade, Grade::Matched);
}

#[test]
fn a_contested_id_is_weighed() {
    let key = "toolcall:toolu_1".to_string();
    let contest = Contest { keys: [(key, Why::SeveralConversations)].into(), ..Contest::default() };
    let mut records = call("a", "conv", "run", "toolu_1", 0);
    records.truncate(2);
    check(
        records.clone(),
        &contest,
        expect![[r#"
            a-request => a-choice: execution claimed tool-call-id [toolcall toolu_1=toolu_1, time_unix_nano 1795170000010000000=1795170000000000000, arguments_digest digest-of-{}=digest-of-{}]
        "#]],
    );
    records[1].arguments_digest = None;
    check(
        records,
        &contest,
        expect![[r#"
            a-request => a-choice: execution inferred tool-call-id [toolcall toolu_1=toolu_1, time_unix_nano 1795170000010000000=1795170000000000000, tool_name refund=refund]
        "#]],
    );
}

#[test]
fn rivals_outside_the_session_are_named() {
    let records: Vec<Record> = call("a", "-", "run", "toolu_1", 0).drain(1..2).collect();
    let rivals = vec![uuid::Uuid::from_u128(1), uuid::Uuid::from_u128(2)];
    let contest = Contest { rivals: [(records[0].event_id, rivals)].into(), ..Contest::default() };
    check(
        records,
        &contest,
        expect![[r#"
        outside Ambiguous contested-tool-call-id of 2
    "#]],
    );
}

#[test]
fn spans_of_host_and_server_meet_at_the_frame() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let span = |n: u8| format!("{n:016x}");
    let records = vec![
        make("turn", Kind::Span, 0).host("conv").telemetry().trace(trace).span(Some(&span(1)), None).done(),
        make("client", Kind::Call, 1).host("conv").telemetry().trace(trace).span(Some(&span(2)), Some(&span(1))).done(),
        make("request", Kind::Call, 2).wire("run", C2S).rpc("1").trace(trace).span(None, Some(&span(2))).done(),
        make("server", Kind::Call, 3).server().trace(trace).span(Some(&span(3)), Some(&span(2))).done(),
        make("log", Kind::Log, 4).server().trace(trace).span(Some(&span(3)), None).done(),
        make("sql", Kind::Downstream, 5).server().trace(trace).span(Some(&span(4)), Some(&span(3))).done(),
        make("response", Kind::Result, 6).wire("run", S2C).rpc("1").trace(trace).span(None, Some(&span(2))).done(),
    ];
    check(
        records,
        &Contest::default(),
        expect![[r#"
            client => turn: observation claimed parent-span [span 0af7651916cd43dd8448eb211c80319c/0000000000000001=0af7651916cd43dd8448eb211c80319c/0000000000000001]
            log => server: observation claimed log-span [span 0af7651916cd43dd8448eb211c80319c/0000000000000003=0af7651916cd43dd8448eb211c80319c/0000000000000003]
            request => client: execution matched client-span [span 0af7651916cd43dd8448eb211c80319c/0000000000000002=0af7651916cd43dd8448eb211c80319c/0000000000000002]
            response => request: result proven response [rpc run:client/1=run:client/1, direction server_to_client=client_to_server]
            server -> client: downstream matched parent-span [span 0af7651916cd43dd8448eb211c80319c/0000000000000002=0af7651916cd43dd8448eb211c80319c/0000000000000002]
            server => request: execution matched traceparent [parent-span 0af7651916cd43dd8448eb211c80319c/0000000000000002=0af7651916cd43dd8448eb211c80319c/0000000000000002]
            sql => server: downstream claimed parent-span [span 0af7651916cd43dd8448eb211c80319c/0000000000000003=0af7651916cd43dd8448eb211c80319c/0000000000000003]
        "#]],
    );
}

#[test]
fn twin_requests_under_one_span_are_not_guessed() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = "00000000000000aa";
    let request = |name: &str, rpc: &str, ms: i64| {
        make(name, Kind::Call, ms)
            .wire("run", C2S)
            .rpc(rpc)
            .tool("", "echo")
            .trace(trace)
            .span(None, Some(parent))
            .done()
    };
    let server = make("server", Kind::Call, 3)
        .server()
        .tool("", "echo")
        .trace(trace)
        .span(Some("00000000000000bb"), Some(parent));
    check(
        vec![request("one", "1", 0), request("two", "2", 1), server.done()],
        &Contest::default(),
        expect![[r#"
            server -> one: execution ambiguous traceparent [parent-span 0af7651916cd43dd8448eb211c80319c/00000000000000aa=0af7651916cd43dd8448eb211c80319c/00000000000000aa] of one|two
        "#]],
    );
    let server = make("server", Kind::Call, 3).server().trace(trace).span(Some("00000000000000bb"), Some(parent));
    let server = server.with(|record| record.rpc_id = Some("2".into())).done();
    check(
        vec![request("one", "1", 0), request("two", "2", 1), server],
        &Contest::default(),
        expect![[r#"
            server => two: execution matched traceparent [parent-span 0af7651916cd43dd8448eb211c80319c/00000000000000aa=0af7651916cd43dd8448eb211c80319c/00000000000000aa, rpc_id 2=2]
        "#]],
    );
}

#[test]
fn a_span_link_is_a_second_parent() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const OTHER: &str = "11111111111111111111111111111111";
    let span = |name: &str, trace: &str, span: &str, parent: Option<&str>, ms: i64| {
        make(name, Kind::Span, ms).trace(trace).span(Some(span), parent).with(|record| {
            record.transport_status = Some("ok".into());
        })
    };
    let link = |to: &str| threadline_schemas::Key::scoped(KeyKind::ParentSpan, OTHER, to);
    let own = |record: &mut Record, to: &str| {
        threadline_schemas::stamp::stamp(record);
        record.add_key(link(to));
    };
    let records = vec![
        span("http", TRACE, "00000000000000a1", None, 0).done(),
        span("client", OTHER, "00000000000000b1", None, 1).done(),
        span("server", TRACE, "00000000000000a2", Some("00000000000000a1"), 2)
            .with(|r| own(r, "00000000000000b1"))
            .done(),
        span("root", TRACE, "00000000000000a3", None, 3).with(|r| own(r, "00000000000000b1")).done(),
        span("nowhere", TRACE, "00000000000000a4", None, 4).with(|r| own(r, "00000000000000ff")).done(),
    ];
    check(
        records,
        &Contest::default(),
        expect![[r#"
        root => client: observation claimed span-link [span 11111111111111111111111111111111/00000000000000b1=11111111111111111111111111111111/00000000000000b1]
        server -> client: observation claimed span-link [span 11111111111111111111111111111111/00000000000000b1=11111111111111111111111111111111/00000000000000b1]
        server => http: observation claimed parent-span [span 0af7651916cd43dd8448eb211c80319c/00000000000000a1=0af7651916cd43dd8448eb211c80319c/00000000000000a1]
    "#]],
    );
}

#[test]
fn rounds_of_one_call_meet_by_request_state() {
    let round = |name: &str, kind: Kind, ms: i64, rpc: &str| {
        let direction = if kind == Kind::Call { C2S } else { S2C };
        make(name, kind, ms).wire("run", direction).rpc(rpc)
    };
    let records = vec![
        round("ask", Kind::Call, 0, "9").done(),
        round("more", Kind::Result, 1, "9").result("{}", Outcome::InputRequired).key(KeyKind::RequestState, "s").done(),
        round("retry", Kind::Call, 2, "10").key(KeyKind::RequestState, "s").done(),
        round("done", Kind::Result, 3, "10").result("{}", Outcome::Ok).done(),
    ];
    check(
        records,
        &Contest::default(),
        expect![[r#"
            done => retry: result proven response [rpc run:client/10=run:client/10, direction server_to_client=client_to_server]
            more => ask: result proven response [rpc run:client/9=run:client/9, direction server_to_client=client_to_server]
            retry => more: round matched request-state [request-state s=s]
        "#]],
    );
}

#[test]
fn a_turn_has_one_prompt_and_its_echo_observes_it() {
    let records = vec![
        make("echo", Kind::Prompt, 0).host("conv").telemetry().turn("p1").text("Refund.").done(),
        make("prompt", Kind::Prompt, 1).host("conv").turn("p1").text("Refund.").done(),
        make("said", Kind::Completion, 2).host("conv").turn("p1").text("Done.").done(),
    ];
    check(
        records,
        &Contest::default(),
        expect![[r#"
            echo -> prompt: observation claimed same-turn [turn p1=p1]
            said => prompt: prompt claimed turn [turn p1=p1]
        "#]],
    );
}

#[test]
fn ids_that_form_a_ring_end_somewhere() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let span = |name: &str, ms, own: &str, parent: &str| {
        make(name, Kind::Span, ms).server().trace(trace).span(Some(own), Some(parent)).done()
    };
    let records = vec![
        span("a", 0, "00000000000000aa", "00000000000000bb"),
        span("b", 1, "00000000000000bb", "00000000000000aa"),
        span("self", 2, "00000000000000cc", "00000000000000cc"),
    ];
    let found = links(&records, &Contest::default());
    assert_eq!(found.parent.iter().filter(|parent| parent.is_some()).count(), 1);
    assert!(found.ancestors(0).count() <= 3);
}

#[test]
fn an_id_used_twice_on_a_connection_gives_two_exchanges() {
    let frame = |name: &str, kind, ms, direction| make(name, kind, ms).wire("run", direction).rpc("1").done();
    let records = vec![
        frame("one", Kind::Call, 0, C2S),
        frame("one-done", Kind::Result, 1, S2C),
        frame("two", Kind::Call, 2, C2S),
        frame("two-done", Kind::Result, 3, S2C),
        frame("stray", Kind::Result, 4, S2C),
    ];
    let found = links(&records, &Contest::default());
    let parents: Vec<Option<usize>> = (0..5).map(|at| found.parent_of(at).map(|edge| edge.to)).collect();
    assert_eq!(parents, [None, Some(0), None, Some(2), Some(2)]);
}
