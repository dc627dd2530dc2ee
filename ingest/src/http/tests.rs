use std::io::Write;

use axum::http::{HeaderMap, StatusCode};
use expect_test::expect;
use threadline_schemas::limits::arrival::BODY_BYTES_MAX;
use threadline_schemas::{Collector, Kind};

use super::*;
use crate::testing::Bench;
use threadline_schemas::decode::otlp::drop_list::DropList;

struct Server {
    bench: Bench,
    address: String,
    client: reqwest::Client,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Server {
    async fn start() -> Server {
        let bench = Bench::new().await;
        let collecting = Collecting::new(bench.pipeline.clone());
        let router = Otlp::new(collecting.clone(), DropList::shipped()).router().merge(events(collecting));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Server { bench, address, client: reqwest::Client::new() }
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
        let mut request = self.client.post(format!("{}{path}", self.address)).body(body.into());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, body: response.bytes().await.unwrap().to_vec() }
    }
}

const JSON: (&str, &str) = ("content-type", "application/json");
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");

fn capture(name: &str) -> Vec<u8> {
    std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures").join(name)).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn otlp_as_agents_send_it() {
    let server = Server::start().await;
    let json = capture("claude-code/cc-1/otlp/0003-logs.json");
    let protobuf = capture("claude-code/cc-2/otlp/0006-traces.pb");
    let zstd = zstd::bulk::compress(&protobuf, 3).unwrap();
    let metrics = capture("claude-code/cc-1/otlp/0008-metrics.json");
    let mut shown = String::new();
    for (path, headers, body) in [
        ("/v1/logs", vec![JSON], json.clone()),
        (
            "/v1/logs",
            vec![("content-type", "application/json; charset=utf-8"), ("content-encoding", "gzip")],
            gzip(&json),
        ),
        ("/v1/traces", vec![PROTOBUF], protobuf.clone()),
        ("/v1/traces", vec![PROTOBUF, ("content-encoding", "zstd")], zstd),
        ("/v1/metrics", vec![JSON], metrics),
        ("/v1/logs", vec![PROTOBUF], Vec::new()),
    ] {
        let answer = server.post(path, &headers, body).await;
        let counts = server.bench.pipeline.counts();
        shown += &format!(
            "{path} {} {} {:?} stored {} duplicates {}\n",
            answer.status.as_u16(),
            answer.header("content-type"),
            String::from_utf8_lossy(&answer.body),
            counts.accepted,
            counts.duplicates
        );
    }
    expect![[r#"
        /v1/logs 200 application/json "{}" stored 2 duplicates 0
        /v1/logs 200 application/json "{}" stored 2 duplicates 2
        /v1/traces 200 application/x-protobuf "" stored 19 duplicates 2
        /v1/traces 200 application/x-protobuf "" stored 19 duplicates 19
        /v1/metrics 200 application/json "{}" stored 19 duplicates 19
        /v1/logs 200 application/x-protobuf "" stored 19 duplicates 19
    "#]]
    .assert_eq(&shown);
    let records = server.bench.records().await;
    assert!(records.iter().all(|record| record.collector == Collector::Otlp && record.raw.is_some()));
}

#[tokio::test]
async fn otlp_refusals_are_in_the_encoding_of_the_request() {
    let server = Server::start().await;
    let zeros = vec![0; 32 << 20];
    let long = vec![b' '; BODY_BYTES_MAX + 1];
    let spans = |count: usize| {
        format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{}{{}}]}}]}}]}}"#, "{},".repeat(count)).into_bytes()
    };
    let deep = format!(r#"{{"resourceSpans":{}"#, "[".repeat(100_000));
    let gz = ("content-encoding", "gzip");
    let mut shown = String::new();
    for (what, headers, body) in [
        ("gzip bomb", vec![PROTOBUF, gz], gzip(&zeros)),
        ("zstd bomb", vec![JSON, ("content-encoding", "zstd")], zstd::bulk::compress(&zeros, 3).unwrap()),
        ("truncated gzip", vec![JSON, gz], gzip(b"{\"resourceSpans\":[]}")[..20].to_vec()),
        ("not gzip", vec![JSON, gz], b"{}".to_vec()),
        ("two codings", vec![JSON, gz, gz], gzip(&gzip(b"{}"))),
        ("brotli", vec![JSON, ("content-encoding", "br")], b"{}".to_vec()),
        ("as long as may be", vec![JSON], vec![b' '; BODY_BYTES_MAX]),
        ("too long", vec![JSON], long),
        ("no type", vec![], b"{}".to_vec()),
        ("text", vec![("content-type", "text/plain")], b"{}".to_vec()),
        ("wrong type", vec![PROTOBUF], b"{\"resourceSpans\":[]}".to_vec()),
        ("other way round", vec![JSON], b"\x0a\x00".to_vec()),
        ("truncated protobuf", vec![PROTOBUF], b"\x0a\x20\x0a".to_vec()),
        ("deep", vec![JSON], deep.into_bytes()),
        ("bad utf-8", vec![JSON], b"{\"resourceSpans\":[\"\xff\"]}".to_vec()),
        ("nul", vec![JSON], b"{\"resourceSpans\":\0}".to_vec()),
        ("empty spans without end", vec![JSON], spans(1_000_000)),
        ("empty spans", vec![JSON], spans(3)),
    ] {
        let answer = server.post("/v1/traces", &headers, body).await;
        let message = match answer.header("content-type") {
            "application/x-protobuf" => {
                String::from_utf8_lossy(&answer.body).chars().filter(|c| !c.is_control()).collect()
            }
            "application/problem+json" => answer.json()["detail"].to_string(),
            _ => String::from_utf8_lossy(&answer.body).into_owned(),
        };
        shown += &format!("{what}: {} {} {message}\n", answer.status.as_u16(), answer.header("content-type"));
    }
    expect![[r#"
        gzip bomb: 413 application/x-protobuf <decompressed size is more than 100 times the compressed size
        zstd bomb: 413 application/json {"code":8,"message":"decompressed size is more than 100 times the compressed size"}
        truncated gzip: 400 application/json {"code":3,"message":"body is not valid gzip"}
        not gzip: 400 application/json {"code":3,"message":"body is not valid gzip"}
        two codings: 415 application/json {"code":12,"message":"content encoding must be gzip, zstd or identity"}
        brotli: 415 application/json {"code":12,"message":"content encoding must be gzip, zstd or identity"}
        as long as may be: 400 application/json {"code":3,"message":"body announced as JSON does not start like JSON; send content type application/x-protobuf for protobuf"}
        too long: 413 application/json {"code":8,"message":"body is above the limit of 16777216 bytes"}
        no type: 415 application/problem+json "content type application/x-protobuf or application/json expected"
        text: 415 application/problem+json "content type application/x-protobuf or application/json expected"
        wrong type: 400 application/x-protobuf Obody announced as protobuf starts like JSON; send content type application/json
        other way round: 400 application/json {"code":3,"message":"body announced as JSON does not start like JSON; send content type application/x-protobuf for protobuf"}
        truncated protobuf: 400 application/x-protobuf Pnot an OTLP traces body: protobuf is broken at byte 2: length beyond its message
        deep: 400 application/json {"code":3,"message":"not an OTLP body: JSON is nested deeper than 128 levels"}
        bad utf-8: 400 application/json {"code":3,"message":"not an OTLP body: not valid JSON at byte 19: invalid unicode code point"}
        nul: 400 application/json {"code":3,"message":"not an OTLP body: not valid JSON at byte 17: expected value"}
        empty spans without end: 413 application/json {"code":8,"message":"more than 20000 records in one request; send smaller batches"}
        empty spans: 200 application/json {}
    "#]].assert_eq(&shown);
}

#[tokio::test]
async fn events_in_three_shapes() {
    let server = Server::start().await;
    let event =
        |id: &str| format!(r#"{{"id":"{id}","kind":"call","tool_name":"x","arguments":{{"password":"hunter2"}}}}"#);
    let (one, two) = (event("1"), event("2"));
    let big = format!(r#"{{"id":"big","kind":"log","text":"{}"}}"#, "x".repeat(1 << 20));
    let mut shown = String::new();
    for (kind, body) in [
        (NDJSON, format!("{one}\n\n{two}\r\n")),
        (NDJSON, one.clone()),
        (JSON, one.clone()),
        (JSON, format!(" [{one}, {}\n]", event("3"))),
        (JSON, "[]".into()),
        (JSON, "{\n  \"kind\": \"log\",\n  \"text\": \"no id\"\n}".into()),
        (NDJSON, format!("{}\nnot json\n{{\"kind\":\"nope\"}}\n[1]\n\0\n", event("4"))),
        (JSON, format!("[{},,\"x\"]", event("5"))),
        (NDJSON, format!("{}{}", "[".repeat(1000), "]".repeat(1000))),
        (NDJSON, big),
    ] {
        let answer = server.post("/api/v1/events", &[kind], body).await;
        shown += &format!("{} {}\n", answer.status.as_u16(), answer.json());
    }
    expect![[r#"
        200 {"accepted":2,"conflicts":0,"duplicates":0,"rejected":[],"rejected_total":0}
        200 {"accepted":0,"conflicts":0,"duplicates":1,"rejected":[],"rejected_total":0}
        200 {"accepted":0,"conflicts":0,"duplicates":1,"rejected":[],"rejected_total":0}
        200 {"accepted":1,"conflicts":0,"duplicates":1,"rejected":[],"rejected_total":0}
        200 {"accepted":0,"conflicts":0,"duplicates":0,"rejected":[],"rejected_total":0}
        200 {"accepted":1,"conflicts":0,"duplicates":0,"rejected":[],"rejected_total":0}
        200 {"accepted":1,"conflicts":0,"duplicates":0,"rejected":[{"detail":"not valid JSON at byte 1: expected ident","line":2},{"detail":"member kind must be one of the record kinds","line":3},{"detail":"an event is a JSON object","line":4},{"detail":"not valid JSON at byte 0: expected value","line":5}],"rejected_total":4}
        200 {"accepted":1,"conflicts":0,"duplicates":0,"rejected":[{"detail":"not valid JSON at byte 0: EOF while parsing a value","line":2},{"detail":"an event is a JSON object","line":3}],"rejected_total":2}
        200 {"accepted":0,"conflicts":0,"duplicates":0,"rejected":[{"detail":"JSON is nested deeper than 128 levels","line":1}],"rejected_total":1}
        200 {"accepted":1,"conflicts":0,"duplicates":0,"rejected":[],"rejected_total":0}
    "#]].assert_eq(&shown);
    let records = server.bench.records().await;
    assert!(records.iter().all(|record| record.collector == Collector::Api));
    assert_eq!(records.iter().filter(|record| record.kind == Kind::Rejected).count(), 7);
    let stored: String = records.iter().map(threadline_schemas::wire::write_event).collect();
    assert!(!stored.contains("hunter2"));
    assert!(records.iter().all(|record| record.kind != Kind::Call || record.arguments_digest.is_some()));
}

#[tokio::test]
async fn event_refusals_are_problems() {
    let server = Server::start().await;
    let many = "1,".repeat(150_000);
    let mut shown = String::new();
    for (what, headers, body) in [
        ("nothing", vec![NDJSON], b" \n".to_vec()),
        ("no type", vec![], b"{}".to_vec()),
        ("open array", vec![JSON], b"[{\"kind\":\"log\"}".to_vec()),
        ("odd array", vec![JSON], b"[{\"kind\":\"log\"}}".to_vec()),
        ("open string", vec![JSON], b"[\"".to_vec()),
        ("many", vec![JSON], format!("[{many}1]").into_bytes()),
        ("bomb", vec![NDJSON, ("content-encoding", "gzip")], gzip(&vec![b'\n'; 32 << 20])),
    ] {
        let answer = server.post("/api/v1/events", &headers, body).await;
        let problem = answer.json();
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(problem["request_id"], answer.header("x-request-id"));
        assert_eq!(problem["status"], answer.status.as_u16());
        shown += &format!(
            "{what}: {} {} {} {}\n",
            problem["status"], problem["type"], problem["instance"], problem["detail"]
        );
    }
    expect![[r#"
        nothing: 400 "urn:threadline:problem:malformed" "/api/v1/events" "body holds no events"
        no type: 415 "urn:threadline:problem:content-type" "/api/v1/events" "content type application/x-ndjson or application/json expected"
        open array: 400 "urn:threadline:problem:malformed" "/api/v1/events" "body is not a JSON array"
        odd array: 400 "urn:threadline:problem:malformed" "/api/v1/events" "body is not a JSON array"
        open string: 400 "urn:threadline:problem:malformed" "/api/v1/events" "body is not a JSON array"
        many: 413 "urn:threadline:problem:too-large" "/api/v1/events" "more than 100000 events in one request"
        bomb: 413 "urn:threadline:problem:too-large" "/api/v1/events" "decompressed size is more than 100 times the compressed size"
    "#]].assert_eq(&shown);
    assert!(server.bench.records().await.is_empty());
}

#[tokio::test]
async fn a_stopped_store_is_never_acknowledged() {
    let server = Server::start().await;
    let Bench { dir, store, pipeline } = server.bench;
    store.close().await.unwrap();
    let collecting = Collecting::new(pipeline);
    let router = Otlp::new(collecting.clone(), DropList::none()).router().merge(events(collecting));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let post = |path: &str, body: Vec<u8>| {
        server.client.post(format!("http://{address}{path}")).header(JSON.0, JSON.1).body(body).send()
    };
    let answer = post("/api/v1/events", br#"{"kind":"log"}"#.to_vec()).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().contains_key("retry-after")), (503, true));
    let answer = post("/v1/logs", capture("claude-code/cc-1/otlp/0003-logs.json")).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().contains_key("retry-after")), (503, true));
    drop(dir);
}

#[tokio::test]
async fn hostile_requests_at_once_are_answered() {
    let server = Server::start().await;
    let bomb = gzip(&vec![b'x'; 15 << 20]);
    let requests = (0..32).map(|index| {
        let body = match index % 4 {
            0 => bomb.clone(),
            1 => gzip(format!("{{\"resourceSpans\":[{}", "{},".repeat(50_000)).as_bytes()),
            2 => gzip(&vec![b'['; 100_000]),
            _ => gzip(format!("{{\"id\":\"{index}\",\"kind\":\"log\"}}\n").as_bytes()),
        };
        let path = if index % 4 == 1 { "/v1/traces" } else { "/api/v1/events" };
        let kind = if index % 4 == 1 { JSON } else { NDJSON };
        let server = &server;
        async move { (index % 4, server.post(path, &[kind, ("content-encoding", "gzip")], body).await.status.as_u16()) }
    });
    let answers = futures::future::join_all(requests).await;
    let taken = answers.iter().filter(|answer| **answer == (3, 200)).count();
    assert!(answers.iter().all(|(_, status)| [200, 400, 413, 503].contains(status)), "{answers:?}");
    assert!(taken > 0, "{answers:?}");
}

#[test]
fn who_must_act_is_told_by_the_status() {
    let told = |error: AppendError| Refusal::from(error).kind();
    assert_eq!(told(AppendError::NoSpace), (503, "no-space", Some(30)));
    assert_eq!(told(AppendError::Overloaded), (429, "overloaded", Some(2)));
    assert_eq!(told(AppendError::Closed), (503, "stopping", Some(2)));
    assert_eq!(told(AppendError::TooLarge { bytes: 9, max: 8 }).0, 413);
}
