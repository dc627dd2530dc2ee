//! OTLP/gRPC through the clients that opentelemetry-proto generates, and through frames by hand.

use expect_test::expect;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use prost::Message;
use threadline_schemas::decode::otlp::Signal;
use threadline_schemas::decode::otlp::drop_list::DropList;
use threadline_schemas::limits::arrival::BODY_BYTES_MAX;
use threadline_schemas::{Collector, Kind};
use tonic::Code;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;

use super::grpc;
use super::*;
use crate::testing::Bench;

struct Server {
    bench: Bench,
    otlp: Otlp,
    address: String,
    channel: Channel,
}

impl Server {
    async fn start(drop_list: DropList) -> Server {
        let bench = Bench::new().await;
        let otlp = Otlp::new(Collecting::new(bench.pipeline.clone()), drop_list);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let router = otlp.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let channel = Channel::from_shared(address.clone()).unwrap().connect().await.unwrap();
        Server { bench, otlp, address, channel }
    }

    /// A call by hand: status and message, whether they come in headers or in trailers.
    async fn call(&self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (u16, HashMap) {
        let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
        let mut request = client.post(format!("{}{path}", self.address)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let headers = response.headers().iter();
        (status, headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("?").to_string())).collect())
    }
}

type HashMap = std::collections::HashMap<String, String>;

const GRPC: (&str, &str) = ("content-type", "application/grpc");

fn capture(name: &str) -> Vec<u8> {
    std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures").join(name)).unwrap()
}

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    [&[flag], &(message.len() as u32).to_be_bytes()[..], message].concat()
}

fn logs(records: Vec<LogRecord>) -> ExportLogsServiceRequest {
    let scope = ScopeLogs { log_records: records, ..ScopeLogs::default() };
    let resource = ResourceLogs { scope_logs: vec![scope], ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![resource] }
}

#[tokio::test]
async fn every_signal_in_every_compression_is_stored_once() {
    let server = Server::start(DropList::none()).await;
    let body = capture("claude-code/cc-2/otlp/0006-traces.pb");
    let spans = ExportTraceServiceRequest::decode(&body[..]).unwrap();
    for compression in [None, Some(CompressionEncoding::Gzip), Some(CompressionEncoding::Zstd)] {
        let mut client = TraceServiceClient::new(server.channel.clone());
        if let Some(compression) = compression {
            client = client.send_compressed(compression);
        }
        let answer = client.export(spans.clone()).await.unwrap();
        assert_eq!(answer.into_inner().partial_success, None);
    }
    let counts = server.bench.pipeline.counts();
    assert_eq!((counts.accepted, counts.duplicates), (17, 34));

    let body = ExportLogsServiceRequest::decode(&capture("claude-code/cc-2/otlp/0001-logs.pb")[..]).unwrap();
    let stored = server.bench.pipeline.counts().accepted;
    LogsServiceClient::new(server.channel.clone()).export(body).await.unwrap();
    assert!(server.bench.pipeline.counts().accepted > stored);

    let body = ExportMetricsServiceRequest::decode(&capture("claude-code/cc-2/otlp/0004-metrics.pb")[..]).unwrap();
    MetricsServiceClient::new(server.channel.clone()).export(body).await.unwrap();
    let points = server.otlp.counts().points_by_metric();
    expect![[r#"
        claude-code claude_code.active_time.total 1
        claude-code claude_code.cost.usage 2
        claude-code claude_code.session.count 1
        claude-code claude_code.token.usage 8
    "#]]
    .assert_eq(
        &points.iter().map(|named| format!("{} {} {}\n", named.source, named.name, named.count)).collect::<String>(),
    );
    let records = server.bench.records().await;
    assert!(records.iter().all(|record| record.collector == Collector::Otlp && record.raw.is_some()));
}

/// Every recorded protobuf body of logs or spans, by path.
fn recorded() -> Vec<(Signal, Vec<u8>)> {
    let captures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures");
    let mut folders = vec![captures];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let signal = path.file_name().and_then(|name| Signal::of_path(name.to_str()?));
            match (path.is_dir(), signal) {
                (true, _) => folders.push(path),
                (false, Some(signal))
                    if path.extension().is_some_and(|ending| ending == "pb") && signal != Signal::Metrics =>
                {
                    found.push((signal, std::fs::read(path).unwrap()));
                }
                _ => {}
            }
        }
    }
    found
}

#[tokio::test]
async fn what_was_recorded_is_the_same_records_by_either_protocol() {
    let server = Server::start(DropList::shipped()).await;
    let bodies = recorded();
    for (signal, body) in &bodies {
        let (status, headers) = server.call(grpc::path(*signal), &[GRPC], framed(0, body)).await;
        assert_eq!((status, headers.get("grpc-status")), (200, None), "a status in the headers is a refusal");
    }
    let counts = server.bench.pipeline.counts();
    assert!(bodies.len() > 30 && counts.accepted > 300, "{} bodies, {counts:?}", bodies.len());
    for (signal, body) in bodies {
        let protobuf = [("content-type", "application/x-protobuf")];
        assert_eq!(server.call(&format!("/v1/{}", signal.as_str()), &protobuf, body).await.0, 200);
    }
    let again = server.bench.pipeline.counts();
    assert_eq!(
        (again.accepted, again.duplicates - counts.duplicates),
        (counts.accepted, counts.accepted + counts.duplicates)
    );
    assert_eq!(again.rejected, 0);
}

#[tokio::test]
async fn what_cannot_be_understood_is_counted_and_kept() {
    let server = Server::start(DropList::none()).await;
    let value = opentelemetry_proto::tonic::common::v1::AnyValue { value: None };
    let attribute = opentelemetry_proto::tonic::common::v1::KeyValue { value: Some(value), ..Default::default() };
    let many = LogRecord { attributes: vec![attribute; 2_000], ..LogRecord::default() };
    let mut client = LogsServiceClient::new(server.channel.clone());
    let answer = client.export(logs(vec![LogRecord::default(), many])).await.unwrap().into_inner();
    assert_eq!(answer.partial_success.unwrap().rejected_log_records, 1);
    assert_eq!(server.bench.records().await.iter().filter(|record| record.kind == Kind::Rejected).count(), 1);
}

#[tokio::test]
async fn refusals_say_whether_to_try_again() {
    let server = Server::start(DropList::none()).await;
    let path = grpc::path(Signal::Logs);
    let mut shown = String::new();
    let body = logs(vec![LogRecord::default()]).encode_to_vec();
    for (name, headers, body) in [
        ("no message", vec![GRPC], Vec::new()),
        ("wrong length", vec![GRPC], framed(0, &body)[..7].to_vec()),
        ("two messages", vec![GRPC], [framed(0, &body), framed(0, &body)].concat()),
        ("unknown flag", vec![GRPC], framed(9, &body)),
        ("compressed without saying how", vec![GRPC], framed(1, &body)),
        ("unknown compression", vec![GRPC, ("grpc-encoding", "snappy")], framed(1, &body)),
        ("not gzip", vec![GRPC, ("grpc-encoding", "gzip")], framed(1, &body)),
        ("not OTLP", vec![GRPC], framed(0, b"\xff\xff")),
        ("too large", vec![GRPC], framed(0, &vec![0; BODY_BYTES_MAX])),
        ("too many", vec![GRPC], framed(0, &logs(vec![LogRecord::default(); 20_001]).encode_to_vec())),
        ("not gRPC", vec![("content-type", "application/x-protobuf")], body.clone()),
    ] {
        let (status, headers) = server.call(path, &headers, body).await;
        let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
        shown += &format!("{name}: {status} {} {}\n", header("grpc-status"), header("grpc-message"));
        assert_eq!(headers.get("google.rpc.retryinfo-bin"), None);
    }
    expect![[r#"
        no message: 200 3 the%20call%20has%20no%20message
        wrong length: 200 3 the%20call%20is%20not%20one%20message%20of%20the%20length%20it%20announces
        two messages: 200 3 the%20call%20is%20not%20one%20message%20of%20the%20length%20it%20announces
        unknown flag: 200 3 the%20message%20is%20neither%20compressed%20nor%20uncompressed
        compressed without saying how: 200 12 content%20encoding%20must%20be%20gzip,%20zstd%20or%20identity
        unknown compression: 200 12 content%20encoding%20must%20be%20gzip,%20zstd%20or%20identity
        not gzip: 200 3 body%20is%20not%20valid%20gzip
        not OTLP: 200 3 not%20an%20OTLP%20logs%20body:%20protobuf%20is%20broken%20at%20byte%202:%20ends%20inside%20a%20number
        too large: 200 8 body%20is%20above%20the%20limit%20of%2016777216%20bytes
        too many: 200 8 more%20than%2020000%20records%20in%20one%20request;%20send%20smaller%20batches
        not gRPC: 415  
    "#]]
    .assert_eq(&shown);
    assert_eq!(server.bench.pipeline.counts().accepted, 0);
}

#[tokio::test]
async fn when_there_is_no_room_the_client_is_told_to_come_back() {
    let server = Server::start(DropList::none()).await;
    let all = server.otlp.collecting().reading.clone();
    let held = all.acquire_many(all.available_permits() as u32).await.unwrap();
    let refusal = LogsServiceClient::new(server.channel.clone()).export(logs(vec![LogRecord::default()])).await;
    let refusal = refusal.unwrap_err();
    assert_eq!(refusal.code(), Code::Unavailable);
    // google.protobuf.Duration { seconds: 2 } inside google.rpc.RetryInfo.
    let retry = refusal.metadata().get_bin("google.rpc.retryinfo-bin").unwrap().to_bytes().unwrap();
    assert_eq!(retry[..], [0x0a, 2, 0x08, 2]);
    assert!(memchr::memmem::find(refusal.details(), b"type.googleapis.com/google.rpc.RetryInfo").is_some());
    drop(held);
    let mut client = LogsServiceClient::new(server.channel.clone());
    client.export(logs(vec![LogRecord::default()])).await.unwrap();
    assert_eq!(server.bench.records().await.len(), 1);
}

#[test]
fn codes_are_those_that_exporters_retry() {
    let code = |refusal: Refusal| (grpc::code(&refusal), refusal.kind().2.is_some());
    assert_eq!(code(Refusal::Overloaded), (Code::ResourceExhausted, true));
    assert_eq!(code(Refusal::TooLarge(String::new())), (Code::ResourceExhausted, false));
    for refusal in [Refusal::Busy, Refusal::NoSpace, Refusal::Stopping, Refusal::Unknown] {
        assert_eq!(code(refusal), (Code::Unavailable, true));
    }
    assert_eq!(code(Refusal::TimedOut).0, Code::DeadlineExceeded);
}

#[tokio::test]
async fn what_the_drop_list_leaves_out_is_counted_and_said() {
    let list = "[[drop]]\nrule = \"ticks\"\nsignal = \"logs\"\nnames = [\"tick*\"]\n";
    let server = Server::start(DropList::parse(list).unwrap()).await;
    let record = |name: &str| LogRecord { event_name: name.into(), trace_id: vec![7; 16], ..LogRecord::default() };
    let request = logs(vec![record("tick"), record("tock"), record("ticks"), record("tack")]);
    let mut client = LogsServiceClient::new(server.channel.clone());
    for _ in 0..2 {
        assert_eq!(client.export(request.clone()).await.unwrap().into_inner().partial_success, None);
    }
    let records = server.bench.records().await;
    let mut shown: Vec<String> = records
        .iter()
        .map(|record| {
            format!("{} {} {}", record.kind, record.name.as_deref().unwrap(), record.text.as_deref().unwrap_or("-"))
        })
        .collect();
    shown.sort();
    expect![[r#"
        [
            "gap otlp.dropped 2 spans or log records left out by the drop list (ticks)",
            "log tack -",
            "log tock -",
        ]
    "#]]
    .assert_debug_eq(&shown);
    let dropped = server.otlp.counts().dropped_by_rule();
    assert_eq!((dropped.len(), dropped[0].name.as_str(), dropped[0].count), (1, "ticks", 4));
}
