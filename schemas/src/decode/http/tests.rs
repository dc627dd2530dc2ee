//! What only live exchanges show: failures, revisions, lost events, the transport of 2024-11-05, the proxy's own records.

use super::inventories::{Inventories, Scope};
use super::proxy::{At, ProxyDecoder, ProxyGap};
use super::*;
use crate::decode::mcp::inventory::Mirrored;
use crate::decode::tests::context;
use crate::limits::http::INVENTORIES_MAX;
use expect_test::{Expect, expect};
use sha2::{Digest, Sha256};

struct Run {
    decoder: ProxyDecoder,
    at: At,
    shown: String,
}

impl Run {
    fn new() -> Self {
        let at = At { sequence: 0, time_unix_nano: 1_795_000_000_000_000_000 };
        Run { decoder: ProxyDecoder::new("orders", "run"), at, shown: String::new() }
    }

    fn see(&mut self, exchange: u64, event: Event<'_>) -> &mut Self {
        let records = self.decoder.exchange(&context(), self.at, exchange, b"raw", event);
        self.show(&records)
    }

    fn show(&mut self, records: &[Record]) -> &mut Self {
        for record in records {
            let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
            self.shown += &format!(
                "{} {} {} status={} outcome={} error={} {} {} {}\n",
                self.at.sequence,
                record.kind,
                text(&record.name),
                text(&record.transport_status),
                record.outcome.map_or("-", Outcome::as_str),
                text(&record.error_type),
                text(&record.connection_id),
                record.keys.join(","),
                record.attributes.as_deref().unwrap_or_default(),
            );
        }
        self.at.sequence += 1;
        self.at.time_unix_nano += 1000;
        self
    }

    fn post(&mut self, exchange: u64, path: &str, fields: &[(&str, &str)], body: &str) -> &mut Self {
        let headers = fields.iter().copied().chain([("content-type", "application/json")]).collect();
        let body = Some(body.as_bytes());
        let request = Request { method: "POST", path, headers: &headers, body, cut: None, client: None, notes: &[] };
        self.see(exchange, Event::Request(request))
    }

    fn get(&mut self, exchange: u64, path: &str) -> &mut Self {
        let headers = Headers::default();
        let request =
            Request { method: "GET", path, headers: &headers, body: None, cut: None, client: None, notes: &[] };
        self.see(exchange, Event::Request(request))
    }

    fn head(&mut self, exchange: u64, status: i64, fields: &[(&str, &str)]) -> &mut Self {
        let headers = fields.iter().copied().collect();
        self.see(exchange, Event::ResponseHead { status: Some(status), headers: &headers, notes: &[] })
    }

    fn check(&self, expected: Expect) {
        expected.assert_eq(&self.shown);
    }
}

const SSE: (&str, &str) = ("content-type", "text/event-stream");
const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}"#;
const ANSWER: &[u8] = b"data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[]}}\n\n";

#[test]
fn a_server_that_cannot_be_reached_is_the_end_of_its_requests() {
    let failed = |reason, status| Event::Failure { reason, status, is_refusal: false };
    Run::new()
        .post(1, "/mcp", &[], CALL)
        .see(1, failed("upstream_connect", Some(502)))
        .post(2, "/mcp", &[("mcp-session-id", "s")], CALL)
        .head(2, 200, &[SSE])
        .see(2, failed("upstream_closed", None))
        .post(3, "/mcp", &[], CALL)
        .head(3, 200, &[SSE])
        .see(3, failed("upstream_closed", None))
        .get(4, "/mcp")
        .see(4, Event::Failure { reason: "refused_host", status: Some(421), is_refusal: true })
        .see(9, failed("upstream_closed", None))
        .check(expect![[r#"
            0 call tools/call status=- outcome=- error=- run-1 rpc:run-1:client/1 {"http.request.method":"POST","url.path":"/mcp","threadline.definition_not_seen":true}
            1 result tools/call status=502 outcome=error error=upstream_connect run-1 rpc:run-1:client/1 
            2 call tools/call status=- outcome=- error=- run-2 mcp-session:orders/s,rpc:run-2:client/1 {"http.request.method":"POST","url.path":"/mcp","threadline.definition_not_seen":true}
            3 log http response-head status=200 outcome=- error=- run-2 mcp-session:orders/s,rpc:run-2:client/1 {"http.content-type":"text/event-stream"}
            4 log http failure status=200 outcome=error error=upstream_closed run-2 mcp-session:orders/s,rpc:run-2:client/1 {"threadline.failure":"upstream_closed","threadline.unanswered":["1"]}
            5 call tools/call status=- outcome=- error=- run-3 rpc:run-3:client/1 {"http.request.method":"POST","url.path":"/mcp","threadline.definition_not_seen":true}
            6 log http response-head status=200 outcome=- error=- run-3 rpc:run-3:client/1 {"http.content-type":"text/event-stream"}
            7 result tools/call status=200 outcome=error error=upstream_closed run-3 rpc:run-3:client/1 
            8 connection GET status=- outcome=- error=- run-4  {"http.request.method":"GET","url.path":"/mcp"}
            9 log http failure status=421 outcome=denied error=refused_host run-4  {"threadline.failure":"refused_host"}
            10 log http failure status=- outcome=- error=- -  {"threadline.unknown_exchange":9}
        "#]]);
}

#[test]
fn a_disconnect_is_a_cancel_since_2026_07_28_only() {
    Run::new()
        .post(1, "/mcp", &[("mcp-protocol-version", "2025-11-25")], CALL)
        .see(1, Event::ClientDisconnect)
        .post(2, "/mcp", &[("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "x")], CALL)
        .see(2, Event::ClientDisconnect)
        .check(expect![[r#"
            0 call tools/call status=- outcome=- error=- run-1 rpc:run-1:client/1 {"http.request.method":"POST","url.path":"/mcp","mcp.protocol.version":"2025-11-25","threadline.definition_not_seen":true}
            1 log http client-disconnect status=client-disconnect outcome=- error=- run-1 rpc:run-1:client/1 {"threadline.unanswered":["1"]}
            2 call tools/call status=- outcome=- error=- run-2 rpc:run-2:client/1 {"http.request.method":"POST","url.path":"/mcp","mcp.protocol.version":"2026-07-28","threadline.definition_not_seen":true}
            3 notification client-disconnect status=client-disconnect outcome=cancelled error=- run-2 rpc:run-2:client/1 
        "#]]);
}

#[test]
fn the_transport_of_2024_answers_in_another_stream() {
    Run::new()
        .get(1, "/sse")
        .head(1, 200, &[SSE])
        .see(1, Event::BodyChunk(b"event: endpoint\ndata: /messages/?session_id=abc\n\n"))
        .post(2, "/messages/?session_id=abc", &[], CALL)
        .head(2, 202, &[])
        .see(2, Event::BodyChunk(b"Accepted"))
        .see(2, Event::End)
        .see(1, Event::BodyChunk(ANSWER))
        .see(1, Event::ClientDisconnect)
        .check(expect![[r#"
            0 connection GET status=- outcome=- error=- run-1  {"http.request.method":"GET","url.path":"/sse"}
            1 log http response-head status=200 outcome=- error=- run-1  {"http.content-type":"text/event-stream"}
            2 log http endpoint status=200 outcome=- error=- run-1 mcp-session:orders/abc {"sse.event":"endpoint"}
            3 call tools/call status=- outcome=- error=- run-1 mcp-session:orders/abc,rpc:run-1:client/1 {"http.request.method":"POST","url.path":"/messages/?session_id=abc","threadline.definition_not_seen":true}
            4 log http response-head status=202 outcome=- error=- run-1 mcp-session:orders/abc,rpc:run-1:client/1 
            5 log http body-chunk status=202 outcome=- error=- run-1 mcp-session:orders/abc,rpc:run-1:client/1 
            6 log http end status=202 outcome=- error=- run-1 mcp-session:orders/abc,rpc:run-1:client/1 {"threadline.unanswered":["1"]}
            7 result tools/call status=200 outcome=ok error=- run-1 mcp-session:orders/abc,rpc:run-1:client/1 
            8 connection http client-disconnect status=client-disconnect outcome=- error=- run-1 mcp-session:orders/abc 
        "#]]);
}

#[test]
fn after_lost_events_reading_goes_on_with_the_next_message() {
    let mut run = Run::new();
    run.post(1, "/mcp", &[], CALL).head(1, 200, &[SSE]).see(1, Event::BodyChunk(b"data: {\"jso"));
    run.decoder.lost(1);
    run.see(1, Event::BodyChunk(b"...}\n\n")).see(1, Event::BodyChunk(ANSWER)).see(1, Event::End);
    run.check(expect![[r#"
        0 call tools/call status=- outcome=- error=- run-1 rpc:run-1:client/1 {"http.request.method":"POST","url.path":"/mcp","threadline.definition_not_seen":true}
        1 log http response-head status=200 outcome=- error=- run-1 rpc:run-1:client/1 {"http.content-type":"text/event-stream"}
        2 log http body-chunk status=200 outcome=- error=- run-1 rpc:run-1:client/1 
        3 log http body-chunk status=200 outcome=- error=- run-1 rpc:run-1:client/1 
        4 result tools/call status=200 outcome=ok error=- run-1 rpc:run-1:client/1 
        5 log http end status=200 outcome=- error=- run-1 rpc:run-1:client/1 
    "#]]);
}

#[test]
fn what_the_proxy_says_of_itself() {
    let mut run = Run::new();
    let started = run.decoder.started(&context(), run.at, "https://mcp.example/mcp", "127.0.0.1:9000");
    let (connection, reason) = (None, "overflow");
    let gap = ProxyGap { connection, alike: 0, events: 3, bytes: 40, from_unix_nano: 1, to_unix_nano: 2, reason };
    let gap = run.decoder.gap(&context(), run.at, gap);
    let stopped = run.decoder.stopped(&context(), run.at);
    run.show(&[started, gap, stopped]).check(expect![[r#"
        0 process started status=- outcome=- error=- run  {"upstream":"https://mcp.example/mcp","listen":"127.0.0.1:9000"}
        0 gap gap status=- outcome=- error=overflow run  {"events":3,"bytes":40,"from_unix_nano":1,"to_unix_nano":2,"reason":"overflow"}
        0 process exited status=- outcome=ok error=- run  
    "#]]);
}

#[test]
fn a_body_that_is_not_all_there_is_rejected_and_one_that_cannot_be_read_is_a_log() {
    let headers = Headers::default();
    let notes = [("threadline.length", "17000000".to_string())];
    let (body, cut) = (Some(&b"{\"jsonrpc\""[..]), Some("body is over the limit"));
    let request = Request {
        method: "POST",
        path: "/mcp",
        headers: &headers,
        body,
        cut,
        client: Some("127.0.0.1"),
        notes: &notes,
    };
    Run::new()
        .see(1, Event::Request(request))
        .head(1, 200, &[("content-type", "application/json")])
        .see(1, Event::OpaqueChunk { reason: "its coding is not known", bytes: b"s3cret" })
        .see(1, Event::End)
        .check(expect![[r#"
            0 rejected - status=- outcome=error error=rejected run-1  {"http.request.method":"POST","url.path":"/mcp","client.address":"127.0.0.1","threadline.length":"17000000"}
            1 log http response-head status=200 outcome=- error=- run-1  {"http.content-type":"application/json"}
            2 log http body-chunk status=200 outcome=- error=- run-1  {"threadline.not_kept":"its coding is not known","threadline.length":"6","threadline.sha256":"1ec1c26b50d5d3c58d9583181af8076655fe00756bf7285940ba3670f99fcba0"}
            3 log http end status=200 outcome=- error=- run-1  
        "#]]);
}

#[test]
fn an_answer_that_cannot_be_read_is_unknown_and_not_an_error() {
    const JSON: (&str, &str) = ("content-type", "application/json");
    let opaque = |bytes| Event::OpaqueChunk { reason: "its coding is not known", bytes };
    let large = vec![b'x'; BODY_BYTES_MAX - 1];
    let mut run = Run::new();
    run.post(1, "/mcp", &[], CALL).head(1, 200, &[JSON, ("content-encoding", "xyz")]);
    run.see(1, opaque(b"s3c")).see(1, opaque(b"ret")).see(1, Event::End);
    // One that says itself that it failed did.
    run.post(2, "/mcp", &[], CALL).head(2, 500, &[JSON, ("content-encoding", "xyz")]);
    run.see(2, opaque(b"s3cret")).see(2, Event::End);
    run.post(3, "/mcp", &[], CALL).head(3, 200, &[JSON]);
    run.see(3, Event::BodyChunk(&large)).see(3, Event::BodyChunk(b"yz")).see(3, Event::LastChunk(b"!"));
    run.see(3, Event::End);
    run.post(4, "/mcp", &[], CALL).head(4, 200, &[JSON]).see(4, Event::BodyChunk(b"{\"jsonrpc\""));
    run.decoder.lost(4);
    run.see(4, Event::LastChunk(b"}")).see(4, Event::End);
    // The head is lost too.
    run.post(5, "/mcp", &[], CALL);
    run.decoder.lost(5);
    run.see(5, Event::End);
    let lines = run.shown.lines().filter(|line| [" result ", " rejected "].iter().any(|kind| line.contains(kind)));
    let shown: String = lines.map(|line| format!("{line}\n")).collect();
    let whole = hex::encode(Sha256::digest([&large[..], b"yz!"].concat()));
    expect![[r#"
        4 result tools/call status=200 outcome=- error=- run-1 rpc:run-1:client/1 {"threadline.not_kept":"its coding is not known","threadline.length":"6","threadline.sha256":"1ec1c26b50d5d3c58d9583181af8076655fe00756bf7285940ba3670f99fcba0"}
        8 result tools/call status=500 outcome=error error=http_500 run-2 rpc:run-2:client/1 
        12 rejected http body-chunk status=200 outcome=error error=rejected run-3 rpc:run-3:client/1 
        14 result tools/call status=200 outcome=- error=- run-3 rpc:run-3:client/1 {"threadline.not_kept":"response body is over the limit","threadline.length":"16777218","threadline.sha256":"(whole)"}
        19 result tools/call status=200 outcome=- error=- run-4 rpc:run-4:client/1 {"threadline.not_kept":"part of it was not recorded"}
        21 result tools/call status=- outcome=- error=- run-5 rpc:run-5:client/1 {"threadline.not_kept":"part of it was not recorded"}
    "#]]
    .assert_eq(&shown.replace(&whole, "(whole)"));
}

#[test]
fn where_a_stream_may_be_resumed_is_known_from_the_start() {
    let session = ("mcp-session-id", "s");
    let resumed = [session, ("last-event-id", "e-0")];
    let mut run = Run::new();
    run.post(1, "/mcp", &[session], CALL).head(1, 200, &[SSE]);
    run.see(1, Event::BodyChunk(b"id: e-0\nretry: 100\ndata:\n\n"));
    // The server ends the stream, and the client asks for the rest in another one.
    run.see(1, Event::Failure { reason: "upstream_closed", status: None, is_refusal: false });
    let headers = resumed.iter().copied().collect();
    let path = "/mcp";
    let request = Request { method: "GET", path, headers: &headers, body: None, cut: None, client: None, notes: &[] };
    run.see(2, Event::Request(request)).head(2, 200, &[SSE]);
    run.see(2, Event::BodyChunk(b"id: e-1\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[]}}\n\n"));
    run.check(expect![[r#"
        0 call tools/call status=- outcome=- error=- run-1 mcp-session:orders/s,rpc:run-1:client/1 {"http.request.method":"POST","url.path":"/mcp","threadline.definition_not_seen":true}
        1 log http response-head status=200 outcome=- error=- run-1 mcp-session:orders/s,rpc:run-1:client/1 {"http.content-type":"text/event-stream"}
        2 log http body-chunk status=200 outcome=- error=- run-1 mcp-session:orders/s,rpc:run-1:client/1 {"sse.id":"e-0"}
        3 log http failure status=200 outcome=error error=upstream_closed run-1 mcp-session:orders/s,rpc:run-1:client/1 {"threadline.failure":"upstream_closed","threadline.unanswered":["1"]}
        4 connection GET status=- outcome=- error=- run-1 mcp-session:orders/s {"http.request.method":"GET","url.path":"/mcp","http.last_event_id":"e-0"}
        5 log http response-head status=200 outcome=- error=- run-1 mcp-session:orders/s {"http.content-type":"text/event-stream"}
        6 result tools/call status=200 outcome=ok error=- run-1 mcp-session:orders/s,rpc:run-1:client/1 {"sse.id":"e-1"}
    "#]]);
}

#[test]
fn headers_of_2026_07_28_say_what_the_body_says_and_all_of_it() {
    const MODERN: (&str, &str) = ("mcp-protocol-version", "2026-07-28");
    const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
    let mismatches = |fields: &[(&str, &str)], body: &str| {
        let headers: Headers<'_> = fields.iter().copied().collect();
        let tools = [
            Mirrored { header: "region".into(), path: vec!["where".into(), "region".into()] },
            Mirrored { header: "limit".into(), path: vec!["limit".into()] },
        ];
        headers.mismatches(&json::parse(body.as_bytes()).unwrap().value, &tools).join(" ")
    };
    let call = |arguments: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"x","arguments":{arguments},{META}}}}}"#
        )
    };
    let good = [MODERN, ("mcp-method", "tools/call"), ("mcp-name", "x")];
    let with = |more: &[(&'static str, &'static str)]| [good.to_vec(), more.to_vec()].concat();
    let check = |fields: &[(&str, &str)], body: &str, expected: &str| {
        assert_eq!(mismatches(fields, body), expected, "{fields:?} {body}");
    };
    check(&good, &call("{}"), "");
    // Required and not there.
    check(&[], &call("{}"), "mcp-method mcp-name mcp-protocol-version");
    check(&[MODERN], r#"{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{}}"#, "mcp-method");
    // Said twice: who reads the first and who reads the last would see two calls.
    check(&with(&[("mcp-name", "delete")]), &call("{}"), "mcp-name");
    check(&[("mcp-protocol-version", "2025-11-25"), good[1], good[2]], &call("{}"), "mcp-protocol-version");
    // Not valid in the sentinel's coding.
    check(&[MODERN, good[1], ("mcp-name", "=?base64?*?=")], &call("{}"), "mcp-name");
    // Arguments that travel in headers too.
    let place = r#"{"where":{"region":"eu"},"limit":42}"#;
    check(&good, &call(place), "mcp-param-region mcp-param-limit");
    check(&with(&[("Mcp-Param-Region", "eu"), ("mcp-param-limit", "42.0")]), &call(place), "");
    check(
        &with(&[("mcp-param-region", "=?base64?ZXU=?="), ("mcp-param-limit", "43")]),
        &call(place),
        "mcp-param-limit",
    );
    check(&with(&[("mcp-param-region", "us")]), &call(r#"{"where":{"region":null}}"#), "mcp-param-region");
    check(&with(&[("mcp-param-other", "us")]), &call("{}"), "");
    // Before that revision nothing is required.
    check(
        &[("mcp-protocol-version", "2025-11-25")],
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}"#,
        "",
    );
    check(&[], r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#, "");
}

#[test]
fn a_server_that_sends_requests_where_the_revision_has_none_is_recorded_as_such() {
    let ask = b"data: {\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"sampling/createMessage\",\"params\":{}}\n\n";
    let notify = b"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n";
    let meta = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let initialize = |revision: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"{revision}","capabilities":{{}}}}}}"#
        )
    };
    let is_mismatch = |fields: &[(&str, &str)], body: &str, message: &[u8]| {
        let mut run = Run::new();
        run.post(1, "/mcp", fields, body).head(1, 200, &[SSE]).see(1, Event::BodyChunk(message));
        run.shown.lines().last().unwrap().contains(r#""threadline.protocol_mismatch":["server_request"]"#)
    };
    assert!(is_mismatch(&[("mcp-protocol-version", "2026-07-28")], CALL, ask));
    assert!(is_mismatch(&[], meta, ask));
    assert!(is_mismatch(&[], &initialize("2026-07-28"), ask));
    assert!(!is_mismatch(&[("mcp-protocol-version", "2026-07-28")], CALL, notify));
    assert!(!is_mismatch(&[("mcp-protocol-version", "2025-11-25")], CALL, ask));
    assert!(!is_mismatch(&[], &initialize("2025-11-25"), ask));
    assert!(!is_mismatch(&[], CALL, ask));
}

#[test]
fn all_connections_share_a_bound_of_what_is_remembered() {
    let target = "u".repeat(crate::limits::mcp::CARRIED_BYTES_MAX);
    let read =
        |id: i64| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"resources/read","params":{{"uri":"{target}"}}}}"#);
    let batch = format!("[{}]", (0..3_000).map(read).collect::<Vec<_>>().join(","));
    let mut run = Run::new();
    let mut exchange = 0;
    let mut post = |run: &mut Run, session: &str, body: &str| {
        exchange += 1;
        run.post(exchange, "/mcp", &[("mcp-session-id", session)], body);
        run.shown.clear();
        exchange
    };
    let small = post(&mut run, "small", CALL);
    // About 3.5 MB each, below the bound of one connection.
    let mut most = 0;
    for session in 0..30 {
        post(&mut run, &format!("s-{session}"), &batch);
        let remembered = run.decoder.remembered();
        assert!(remembered <= REMEMBERED_BYTES_MAX, "{remembered}");
        most = most.max(remembered);
    }
    assert!(most > REMEMBERED_BYTES_MAX - (4 << 20), "the bound was never met: {most}");
    // Whoever holds little is not the one that forgets.
    run.head(small, 200, &[SSE]).see(small, Event::BodyChunk(ANSWER));
    assert!(run.shown.contains("result tools/call"), "{}", run.shown);
    assert!(!run.shown.contains("threadline.unpaired"), "{}", run.shown);
}

#[test]
fn what_a_definition_mirrors_is_compared_with_the_headers_of_the_call() {
    let list = r#"data: {"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"x","inputSchema":{"properties":{"region":{"type":"string","x-mcp-header":"Region"}}}}]}}

"#;
    let modern = ("mcp-protocol-version", "2026-07-28");
    let mut run = Run::new();
    run.post(1, "/mcp", &[modern, ("mcp-method", "tools/list")], r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    run.head(1, 200, &[SSE]).see(1, Event::BodyChunk(list.as_bytes())).see(1, Event::End);
    run.shown.clear();
    let fields = [modern, ("mcp-method", "tools/call"), ("mcp-name", "x"), ("mcp-param-region", "us")];
    let call = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"x","arguments":{"region":"eu"}}}"#;
    run.post(2, "/mcp", &fields, call);
    assert!(run.shown.contains(r#""threadline.header_mismatch":["mcp-param-region"]"#), "{}", run.shown);
}

/// Exchanges of clients that look alike, with what they are told about the tool `x`.
struct Clients {
    run: Run,
    exchange: u64,
    fields: Vec<(&'static str, &'static str)>,
}

impl Clients {
    fn new(fields: &[(&'static str, &'static str)]) -> Self {
        Clients { run: Run::new(), exchange: 0, fields: fields.to_vec() }
    }

    fn list(&mut self, id: i64, description: &str) -> &mut Self {
        self.exchange += 1;
        let ask = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list"}}"#);
        let schema = r#"{"properties":{"region":{"type":"string","x-mcp-header":"Region"}}}"#;
        let tool = format!(r#"{{"name":"x","description":"{description}","inputSchema":{schema}}}"#);
        let told = format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"tools\":[{tool}]}}}}\n\n");
        let fields: Vec<_> = self.fields.iter().copied().chain([("mcp-method", "tools/list")]).collect();
        self.run.post(self.exchange, "/mcp", &fields, &ask).head(self.exchange, 200, &[SSE]);
        self.run.see(self.exchange, Event::BodyChunk(told.as_bytes())).see(self.exchange, Event::End);
        self
    }

    fn call(&mut self, id: i64) -> &mut Self {
        self.exchange += 1;
        let call = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"x","arguments":{{"region":"eu"}}}}}}"#
        );
        let more = [("mcp-method", "tools/call"), ("mcp-name", "x"), ("mcp-param-region", "us")];
        let fields: Vec<_> = self.fields.iter().copied().chain(more).collect();
        self.run.post(self.exchange, "/mcp", &fields, &call);
        self
    }

    /// Connection, definition and notes of each call and finding.
    fn told(&mut self) -> String {
        let told = |line: &str| {
            let (connection, keys) = line.split_once("run-")?.1.split_once(' ')?;
            let definition = keys.split_once("definition:").map_or("-", |(_, digest)| &digest[..6]);
            let noted = ["shared", "not_seen", "mcp-param-region"].into_iter().filter(|note| line.contains(note));
            let kind = line.split(' ').nth(1).filter(|kind| matches!(*kind, "call" | "finding"))?;
            Some(format!("{connection} {kind} {definition} {}\n", noted.collect::<Vec<_>>().join(",")))
        };
        std::mem::take(&mut self.run.shown).lines().filter_map(told).collect()
    }
}

const MODERN: (&str, &str) = ("mcp-protocol-version", "2026-07-28");

#[test]
fn without_sessions_what_a_server_lists_is_known_for_all_its_connections() {
    let mut clients = Clients::new(&[MODERN]);
    // Two clients at once: nothing says whose an exchange is.
    clients.list(1, "one").list(1, "one").call(2).call(2).call(3).call(3);
    expect![[r#"
        3 call 87b550 shared,mcp-param-region
        4 call 87b550 shared,mcp-param-region
        5 call 87b550 shared,mcp-param-region
        6 call 87b550 shared,mcp-param-region
    "#]]
    .assert_eq(&clients.told());
    // A list that another client is given says what is in force, and that it is another.
    clients.list(4, "two").call(5);
    expect![[r#"
        7 finding e03ec5 
        8 call e03ec5 shared,mcp-param-region
    "#]]
    .assert_eq(&clients.told());
    // Not under another credential, nor at another endpoint's, nor where the credential is not known.
    for credential in ["Bearer other", "REDACTED"] {
        clients.fields = vec![MODERN, ("authorization", credential)];
        clients.call(7);
    }
    expect![[r#"
        9 call - not_seen
        10 call - not_seen
    "#]]
    .assert_eq(&clients.told());
}

#[test]
fn what_a_connection_was_told_itself_counts_before_what_others_were_told() {
    let mut clients = Clients::new(&[MODERN, ("user-agent", "a")]);
    clients.list(1, "one");
    clients.fields[1].1 = "b";
    clients.call(1).list(2, "two").call(3);
    clients.fields[1].1 = "a";
    clients.call(2);
    expect![[r#"
        2 call 87b550 shared,mcp-param-region
        2 finding e03ec5 
        2 call e03ec5 mcp-param-region
        1 call 87b550 mcp-param-region
    "#]]
    .assert_eq(&clients.told());
}

#[test]
fn with_sessions_each_is_told_on_its_own() {
    let mut clients = Clients::new(&[("mcp-protocol-version", "2025-11-25"), ("mcp-session-id", "s1")]);
    clients.list(1, "one").call(2);
    clients.fields[1].1 = "s2";
    clients.call(2).list(3, "two").call(4);
    expect![[r#"
        1 call 87b550 
        2 call - not_seen
        2 call e03ec5 
    "#]]
    .assert_eq(&clients.told());
}

#[test]
fn inventories_of_servers_are_bounded() {
    let mut inventories = Inventories::default();
    let scope = |number: usize| Scope::of(&Headers::default(), &number.to_string()).unwrap();
    for number in 0..2 * INVENTORIES_MAX {
        // Callers that list nothing take no room from the first one.
        let unused = inventories.take(scope(number + 1_000));
        inventories.put(scope(number + 1_000), unused);
        let mut inventory = inventories.take(scope(number));
        inventory.ask(None);
        inventories.put(scope(number), inventory);
        let first = inventories.take(scope(0));
        assert_eq!(first.begun(), 1);
        inventories.put(scope(0), first);
    }
    assert_eq!(inventories.len(), INVENTORIES_MAX);
    assert!(inventories.take(scope(1)).is_empty());
}

#[test]
fn oauth_is_auth_and_not_a_broken_message() {
    Run::new()
        .get(1, "/.well-known/oauth-protected-resource/mcp")
        .head(1, 200, &[("content-type", "application/json")])
        .see(1, Event::LastChunk(br#"{"resource":"https://mcp.example/mcp"}"#))
        .see(1, Event::End)
        .post(2, "/register", &[], r#"{"redirect_uris":["http://localhost/cb"]}"#)
        .get(3, "/authorize?client_id=x&response_type=code")
        .post(4, "/token", &[("content-type", "application/x-www-form-urlencoded")], "grant_type=authorization_code&code=x")
        .post(5, "/other", &[], r#"{"error":"x"}"#)
        .post(6, "/mcp", &[], r#"{"id":1,"method":"tools/call"}"#)
        .check(expect![[r#"
            0 auth GET status=- outcome=- error=- run-1  {"http.request.method":"GET","url.path":"/.well-known/oauth-protected-resource/mcp"}
            1 log http response-head status=200 outcome=- error=- run-1  {"http.content-type":"application/json"}
            2 auth http body status=200 outcome=- error=- run-1  
            3 log http end status=200 outcome=- error=- run-1  
            4 auth POST status=- outcome=- error=- run-2  {"http.request.method":"POST","url.path":"/register"}
            5 auth GET status=- outcome=- error=- run-3  {"http.request.method":"GET","url.path":"/authorize?client_id=x&response_type=code"}
            6 auth POST status=- outcome=- error=- run-4  {"http.request.method":"POST","url.path":"/token"}
            7 request POST status=- outcome=- error=- run-5  {"http.request.method":"POST","url.path":"/other"}
            8 rejected - status=- outcome=error error=rejected run-6  {"http.request.method":"POST","url.path":"/mcp"}
        "#]]);
}
