//! Exchanges one by one, and every call of the ground truth.

use std::collections::HashMap;

use super::*;
use crate::decode::stdio_capture::tests::{decode, decode_lines, files, folder};
use crate::record::{Decision, Direction, Kind, Outcome};
use expect_test::{Expect, expect};

/// `kind` and its members, as one recorded line.
fn line(number: i64, kind: &str, rest: &str) -> String {
    format!(r#"{{"ts_ns":{},"xchg":{number},"kind":"{kind}"{rest}}}"#, 1000 + number)
}

fn post(number: i64, headers: &str, body: &str) -> String {
    let body = serde_json::Value::from(body);
    line(number, "request", &format!(r#","method":"POST","path":"/mcp","headers":{{{headers}}},"body":{body}"#))
}

fn head(number: i64, status: i64, headers: &str) -> String {
    line(number, "response-head", &format!(r#","status":{status},"headers":{{{headers}}}"#))
}

fn chunk(number: i64, data: &str) -> String {
    line(number, "body-chunk", &format!(r#","data":{}"#, serde_json::Value::from(data)))
}

fn call(id: i64) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"x"}}}}"#)
}

fn answer(id: i64) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[]}}}}"#)
}

fn records(lines: &[String]) -> Vec<Record> {
    let mut decoder = HttpCapture::new("orders.http.jsonl", "f");
    decode_lines(&mut decoder, "orders.http.jsonl", lines.iter().map(String::as_bytes))
}

fn check(lines: &[String], expected: Expect) {
    let shown = |record: &Record| {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        let keys: Vec<_> = record.keys.iter().filter(|key| !key.starts_with("connection:")).cloned().collect();
        format!(
            "{} {} {} status={} outcome={} connection={} {} {}\n",
            record.origin_line.unwrap(),
            record.kind,
            text(&record.name),
            text(&record.transport_status),
            record.outcome.map_or("-", Outcome::as_str),
            text(&record.connection_id),
            keys.join(","),
            record.attributes.as_deref().unwrap_or_default(),
        )
    };
    expected.assert_eq(&records(lines).iter().map(shown).collect::<String>());
}

const JSON: &str = r#""content-type":"application/json""#;
const SSE: &str = r#""content-type":"text/event-stream""#;

#[test]
fn a_body_may_come_in_pieces() {
    let answer = answer(1);
    let (first, second) = answer.split_at(20);
    let sized = format!("{JSON},\"content-length\":\"{}\"", answer.len());
    check(
        &[
            post(1, JSON, &call(1)),
            head(1, 200, &sized),
            chunk(1, first),
            chunk(1, second),
            line(1, "end", ""),
            post(2, JSON, &call(2)),
            head(2, 200, JSON),
            chunk(2, &super::tests::answer(2)),
            line(2, "end", ""),
        ],
        expect![[r#"
            1 call tools/call status=- outcome=- connection=f-1 rpc:f-1:client/1 {"http.request.method":"POST","url.path":"/mcp","threadline.definition_not_seen":true}
            2 log http response-head status=200 outcome=- connection=f-1 rpc:f-1:client/1 {"http.content-type":"application/json"}
            3 log http body-chunk status=200 outcome=- connection=f-1 rpc:f-1:client/1 
            4 result tools/call status=200 outcome=ok connection=f-1 rpc:f-1:client/1 
            5 log http end status=200 outcome=- connection=f-1 rpc:f-1:client/1 
            6 call tools/call status=- outcome=- connection=f-1 rpc:f-1:client/2 {"http.request.method":"POST","url.path":"/mcp","threadline.definition_not_seen":true}
            7 log http response-head status=200 outcome=- connection=f-1 rpc:f-1:client/2 {"http.content-type":"application/json"}
            8 log http body-chunk status=200 outcome=- connection=f-1 rpc:f-1:client/2 
            9 result tools/call status=200 outcome=ok connection=f-1 rpc:f-1:client/2 
        "#]],
    );
}

#[test]
fn a_stream_brings_several_messages_and_its_priming_event_none() {
    let events =
        format!("id: a\ndata: \n\nid: b\ndata: {}\n\ndata: {}", r#"{"jsonrpc":"2.0","method":"n"}"#, answer(1));
    check(
        &[post(1, JSON, &call(1)), head(1, 200, SSE), chunk(1, &events), chunk(1, "\r\n\r\n"), line(1, "end", "")],
        expect![[r#"
            1 call tools/call status=- outcome=- connection=f-1 rpc:f-1:client/1 {"http.request.method":"POST","url.path":"/mcp","threadline.definition_not_seen":true}
            2 log http response-head status=200 outcome=- connection=f-1 rpc:f-1:client/1 {"http.content-type":"text/event-stream"}
            3 notification n status=200 outcome=- connection=f-1  {"sse.id":"b"}
            4 result tools/call status=200 outcome=ok connection=f-1 rpc:f-1:client/1 
            5 log http end status=200 outcome=- connection=f-1 rpc:f-1:client/1 
        "#]],
    );
}

#[test]
fn a_refusal_without_a_message_answers_its_request() {
    check(
        &[
            post(1, JSON, &call(1)),
            head(1, 401, r#""www-authenticate":"Bearer""#),
            line(1, "end", ""),
            post(2, JSON, &call(2)),
            head(2, 500, JSON),
            chunk(2, r#"{"error":"boom"}"#),
            line(2, "end", ""),
            post(3, JSON, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#),
            head(3, 202, ""),
            line(3, "end", ""),
        ],
        expect![[r#"
            1 call tools/call status=- outcome=- connection=f-1 rpc:f-1:client/1 {"http.request.method":"POST","url.path":"/mcp","threadline.definition_not_seen":true}
            2 log http response-head status=401 outcome=- connection=f-1 rpc:f-1:client/1 {"http.www-authenticate":"Bearer"}
            3 result tools/call status=401 outcome=denied connection=f-1 rpc:f-1:client/1 
            4 call tools/call status=- outcome=- connection=f-1 rpc:f-1:client/2 {"http.request.method":"POST","url.path":"/mcp","threadline.definition_not_seen":true}
            5 log http response-head status=500 outcome=- connection=f-1 rpc:f-1:client/2 {"http.content-type":"application/json"}
            6 log http body-chunk status=500 outcome=- connection=f-1 rpc:f-1:client/2 
            7 log http body status=500 outcome=- connection=f-1 rpc:f-1:client/2 
            7 result tools/call status=500 outcome=error connection=f-1 rpc:f-1:client/2 
            8 notification notifications/initialized status=- outcome=- connection=f-1  {"http.request.method":"POST","url.path":"/mcp"}
            9 log http response-head status=202 outcome=- connection=f-1  
            10 log http end status=202 outcome=- connection=f-1  
        "#]],
    );
}

#[test]
fn a_disconnect_cancels_only_where_there_is_no_session() {
    let session = format!("{JSON},\"mcp-session-id\":\"s1\"");
    check(
        &[
            post(1, JSON, &call(1)),
            line(1, "client-disconnect", r#","error":"CancelledError""#),
            post(2, &session, &call(1)),
            head(2, 200, &format!("{SSE},\"mcp-session-id\":\"s1\"")),
            line(2, "client-disconnect", ""),
            line(3, "request", &format!(r#","method":"DELETE","path":"/mcp","headers":{{{session}}}"#)),
            head(3, 200, ""),
            line(3, "end", ""),
            line(9, "end", ""),
        ],
        expect![[r#"
            1 call tools/call status=- outcome=- connection=f-1 rpc:f-1:client/1 {"http.request.method":"POST","url.path":"/mcp","threadline.definition_not_seen":true}
            2 notification client-disconnect status=client-disconnect outcome=cancelled connection=f-1 rpc:f-1:client/1 
            3 call tools/call status=- outcome=- connection=f-2 mcp-session:orders/s1,rpc:f-2:client/1 {"http.request.method":"POST","url.path":"/mcp","threadline.definition_not_seen":true}
            4 log http response-head status=200 outcome=- connection=f-2 mcp-session:orders/s1,rpc:f-2:client/1 {"http.content-type":"text/event-stream"}
            5 log http client-disconnect status=client-disconnect outcome=- connection=f-2 mcp-session:orders/s1,rpc:f-2:client/1 {"threadline.unanswered":["1"]}
            6 connection DELETE status=- outcome=- connection=f-2 mcp-session:orders/s1 {"http.request.method":"DELETE","url.path":"/mcp"}
            7 log http response-head status=200 outcome=- connection=f-2 mcp-session:orders/s1 
            8 log http end status=200 outcome=- connection=f-2 mcp-session:orders/s1 
            9 log http end status=- outcome=- connection=-  {"threadline.unknown_exchange":9}
        "#]],
    );
}

#[test]
fn headers_that_contradict_the_body_are_noted() {
    check(
        &[
            post(1, &format!("{JSON},\"mcp-method\":\"tools/list\",\"mcp-name\":\"y\""), &call(1)),
            post(2, &format!("{JSON},\"mcp-method\":\"tools/call\",\"mcp-name\":\"=?base64?eA==?=\""), &call(2)),
        ],
        expect![[r#"
            1 call tools/call status=- outcome=- connection=f-1 rpc:f-1:client/1 {"http.request.method":"POST","url.path":"/mcp","threadline.header_mismatch":["mcp-method","mcp-name"],"threadline.definition_not_seen":true}
            2 call tools/call status=- outcome=- connection=f-1 rpc:f-1:client/2 {"http.request.method":"POST","url.path":"/mcp","threadline.definition_not_seen":true}
        "#]],
    );
}

#[test]
fn clients_that_look_alike_are_not_merged() {
    let connections = |ids: &[i64]| {
        let lines: Vec<String> = ids.iter().zip(1..).map(|(id, number)| post(number, JSON, &call(*id))).collect();
        let of = |record: &Record| record.connection_id.clone().unwrap().replace("f-", "");
        records(&lines).iter().map(of).collect::<Vec<_>>().join(" ")
    };
    // One client, two of its requests overtaking each other.
    expect!["1 1 1 1 1"].assert_eq(&connections(&[1, 2, 4, 3, 5]));
    // It starts again.
    expect!["1 1 1 2 2"].assert_eq(&connections(&[1, 2, 3, 1, 2]));
    // Two at once: which of them sends 2 cannot be told.
    expect!["1 2 3 4 5 6"].assert_eq(&connections(&[1, 1, 2, 2, 3, 3]));
}

#[test]
fn bodies_are_bounded() {
    let big = "x".repeat(9 << 20);
    let lines = [post(1, JSON, &call(1)), head(1, 200, JSON), chunk(1, &big), chunk(1, &big), chunk(1, "rest")];
    let kinds: Vec<Kind> = records(&lines).iter().map(|record| record.kind).collect();
    assert_eq!(kinds, [Kind::Call, Kind::Log, Kind::Log, Kind::Rejected, Kind::Log]);
}

/// Requests, whichever shape the ground truth has: (session, method, tool, id, arguments, outcome).
type Expected = (String, String, Option<String>, String, Option<Json>, Option<String>);

fn expected_calls() -> Vec<Expected> {
    let mut calls = Vec::new();
    let mut sessions: Vec<String> = files().iter().map(|file| session(file)).collect();
    sessions.dedup();
    for session in sessions {
        let bytes = std::fs::read(folder().join(&session).join("ground_truth.json")).unwrap();
        let truth = json::parse(&bytes).unwrap().value;
        let text = |value: &Json, key: &str| value.str_at(key).map(str::to_string);
        for call in truth
            .get("turns")
            .map(Json::items)
            .unwrap_or_default()
            .iter()
            .flat_map(|turn| turn.get("calls").unwrap().items())
        {
            let ids = call.get("jsonrpc_ids").unwrap().items();
            for (round, id) in ids.iter().enumerate() {
                let is_last = round + 1 == ids.len();
                let outcome = text(call, "outcome").filter(|_| is_last).or(Some("input_required".into()));
                let (method, tool) = (text(call, "method").unwrap(), text(call, "tool"));
                calls.push((session.clone(), method, tool, id.to_string(), call.get("arguments").cloned(), outcome));
            }
        }
        let uses = truth.get("steps").map(Json::items).unwrap_or_default().iter();
        let uses = uses.flat_map(|step| step.get("tool_uses").unwrap().items());
        for (tool_use, call) in uses.flat_map(|u| u.get("mcp_calls").unwrap().items().iter().map(move |call| (u, call)))
        {
            let id = format!("{}@{}", call.get("jsonrpc_id").unwrap(), tool_use.str_at("id").unwrap());
            let arguments = call.get("arguments").cloned();
            calls.push((session.clone(), "tools/call".into(), text(call, "tool"), id, arguments, None));
        }
    }
    calls
}

fn session(file: &str) -> String {
    file.split('/').take(2).collect::<Vec<_>>().join("/")
}

#[test]
fn every_call_of_the_ground_truth_is_found_with_its_outcome() {
    let mut records: HashMap<String, Vec<Record>> = HashMap::new();
    files().iter().for_each(|file| records.entry(session(file)).or_default().extend(decode(file)));
    let expected = expected_calls();
    assert!(expected.len() >= 180, "{}", expected.len());
    for (session, method, tool, id, arguments, outcome) in expected {
        let (id, tool_call) = id.split_once('@').map_or((id.as_str(), None), |(id, call)| (id, Some(call)));
        let of_call = |record: &&Record| {
            record.raw.is_some()
                && record.direction == Some(Direction::ClientToServer)
                && record.name.as_deref() == Some(&method)
                && record.rpc_id.as_deref() == Some(id)
                && tool_call.is_none_or(|call| record.tool_call_id.as_deref() == Some(call))
        };
        let all = &records[&session];
        let found: Vec<&Record> = all.iter().filter(of_call).collect();
        assert_eq!(found.len(), 1, "{session} {method} {id}");
        let call = found[0];
        assert_eq!(call.tool_name, tool, "{session} {id}");
        // A client may leave empty arguments out.
        let arguments = arguments.filter(|arguments| call.arguments.is_some() || !arguments.members().is_empty());
        let given = call.arguments.as_deref().map(|text| json::canonical(&json::parse(text.as_bytes()).unwrap().value));
        assert_eq!(given, arguments.as_ref().map(json::canonical), "{session} {id}");
        let rpc = call.keys.iter().find(|key| key.starts_with("rpc:")).unwrap();
        let ends = |record: &&Record| {
            record.keys.contains(rpc)
                && record.outcome.is_some()
                && record.origin_file == call.origin_file
                && !matches!(record.kind, Kind::Approval | Kind::Sampling)
        };
        let end = all.iter().find(ends).unwrap_or_else(|| panic!("{session} {method} {id} has no end"));
        assert_eq!(end.tool_name, tool);
        assert!(end.result.is_some() || end.rpc_error_code.is_some() || end.outcome == Some(Outcome::Cancelled));
        let said = match (end.outcome, end.tool_is_error, end.rpc_error_code) {
            (Some(Outcome::Error), Some(true), None) => "isError".to_string(),
            (Some(Outcome::Error), None, Some(_)) => "error:MCPError".to_string(),
            (outcome, ..) => outcome.unwrap().to_string(),
        };
        if let Some(outcome) = outcome {
            assert_eq!(said, outcome, "{session} {method} {id}");
        }
    }
}

#[test]
fn a_customer_was_deleted_with_consent() {
    let records = decode("pysdk-orders-otlp/py--o2/http.jsonl");
    let deletion = |r: &&Record| {
        r.tool_name.as_deref() == Some("delete_customer") && r.kind != Kind::Log && r.kind != Kind::ToolDefinition
    };
    let story: Vec<String> = records
        .iter()
        .filter(deletion)
        .map(|r| {
            format!(
                "{} {} {} {}\n",
                r.kind,
                r.name.as_deref().unwrap(),
                r.rpc_id.as_deref().unwrap(),
                r.decision.map_or("", Decision::as_str)
            )
        })
        .collect();
    expect![[r#"
        call tools/call 9 
        result tools/call 9 
        elicitation elicitation/create 9 
        call tools/call 10 
        approval elicitation/create 10 allow
        result tools/call 10 
    "#]]
    .assert_eq(&story.concat());
    let states: std::collections::HashSet<_> =
        records.iter().flat_map(|r| r.keys.iter().filter(|key| key.starts_with("request-state:"))).collect();
    assert_eq!(states.len(), 2);
}

#[test]
fn a_body_cut_short_is_counted_once() {
    let partial = "event: message\ndata: {\"jsonrpc\"";
    let cut = |number| [post(number, "", &call(number)), head(number, 200, SSE), chunk(number, partial)];
    let mut lines = Vec::new();
    lines.extend(cut(1));
    lines.push(line(1, "end", ""));
    lines.extend(cut(2));
    lines.push(line(2, "client-disconnect", ""));
    lines.extend(cut(3));
    lines.push(head(3, 200, JSON));
    lines.push(post(3, "", &call(4)));
    let mut decoder = HttpCapture::new("orders.http.jsonl", "f");
    decode_lines(&mut decoder, "orders.http.jsonl", lines.iter().map(String::as_bytes));
    assert_eq!(decoder.exchanges.held(), 0);
}
