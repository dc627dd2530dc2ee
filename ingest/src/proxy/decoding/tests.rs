//! What observations become: bodies put together, secrets out, bounds.

use std::io::Write;

use bytes::Bytes;
use expect_test::{Expect, expect};
use hyper::http::{HeaderValue, Method};
use threadline_schemas::{Collector, Kind};

use super::super::observation::{Gap, GapReason};
use super::*;

struct Run {
    decoding: Decoding,
    sequence: u64,
    records: Vec<Record>,
}

fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

impl Run {
    fn new() -> Self {
        let decoding = Decoding::new("orders", "run", MatchKey::new([7; 32]));
        Run { decoding, sequence: 0, records: Vec::new() }
    }

    fn event(&mut self, event: Event) -> &mut Self {
        let key = MatchKey::new([7; 32]);
        let context = Context {
            tenant: "default",
            collector: Collector::Tap,
            observed_time_unix_us: 1_795_000_000_000_000,
            match_key: Some(&key),
        };
        let time_unix_nano = 1_795_000_000_000_000_000 + self.sequence as i64;
        let observation = Observation { sequence: self.sequence, time_unix_nano, event };
        self.sequence += 1;
        self.records.extend(self.decoding.decode(&context, observation));
        self
    }

    fn see(&mut self, what: What) -> &mut Self {
        self.event(Event::Exchange { number: 1, is_after_loss: false, what })
    }

    fn post(&mut self, target: &str, headers: &[(&'static str, &'static str)], body: &[u8]) -> &mut Self {
        self.see(What::Request(Box::new(Request {
            method: Method::POST,
            target: target.into(),
            version: Version::HTTP_11,
            headers: fields(headers),
            client: [127, 0, 0, 1].into(),
            body: Bytes::copy_from_slice(body),
            length: body.len() as u64,
            sha256: None,
            is_complete: true,
        })))
    }

    fn head(&mut self, headers: &[(&'static str, &'static str)]) -> &mut Self {
        let (headers, rewritten) = (fields(headers), None);
        self.see(What::ResponseHead { status: 200, version: Version::HTTP_2, headers, rewritten })
    }

    fn chunk(&mut self, bytes: &[u8]) -> &mut Self {
        self.see(What::Chunk(Bytes::copy_from_slice(bytes)))
    }

    fn check(&self, expected: Expect) {
        let shown = |record: &Record| {
            let raw = record.raw.as_deref().map(|raw| String::from_utf8_lossy(raw).replace('\r', ""));
            let key = record.delivery_key.trim_start_matches("tap:run:").to_string();
            let attributes = record.attributes.as_deref().unwrap_or_default();
            format!(
                "{key} {} {} {attributes}\n{:?}\n",
                record.kind,
                record.name.as_deref().unwrap_or("-"),
                raw.unwrap_or_default()
            )
        };
        expected.assert_eq(&self.records.iter().map(shown).collect::<String>());
    }
}

const CALL: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}"#;
const SSE: (&str, &str) = ("content-type", "text/event-stream");

#[test]
fn bytes_of_a_body_are_recorded_with_the_message_that_they_are() {
    Run::new()
        .post("/mcp?api_key=k", &[("content-type", "application/json"), ("authorization", "Bearer s3cret-1")], CALL)
        .head(&[SSE])
        .chunk(b": ping\n\nid: 1\nda")
        .chunk(b"ta: {\"jsonrpc\":\"2.0\",\"id\":1,\"res")
        .chunk("ult\":{\"content\":[{\"type\":\"text\",\"text\":\"\u{fc}".as_bytes().split_last().unwrap().1)
        .chunk(b"\xbc\"}]}}\r\n\r")
        .chunk(b"\ndata: un")
        .see(What::End { trailers: Some(fields(&[("x-sum", "1")])) })
        .check(expect![[r#"
            0 call tools/call {"http.request.method":"POST","url.path":"/mcp?api_key=k","client.address":"127.0.0.1","network.protocol.version":"1.1"}
            "POST /mcp?api_key=k HTTP/1.1\ncontent-type: application/json\nauthorization: Bearer [redacted:authorization:de6f24beded711aaa5a399124b59af2f]\n\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"x\"}}"
            1 log http response-head {"http.content-type":"text/event-stream","network.protocol.version":"2"}
            "HTTP/2 200 OK\ncontent-type: text/event-stream\n\n"
            2 log http body-chunk 
            ": ping\n\n"
            5 result tools/call {"sse.id":"1"}
            "id: 1\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"ü\"}]}}\n"
            7:1 log http body-chunk 
            "\ndata: un"
            7 log http end {"threadline.incomplete_event_bytes":8}
            "x-sum: 1\n"
        "#]]);
}

#[test]
fn a_json_body_is_one_record_however_it_was_cut() {
    let mut run = Run::new();
    run.post("/mcp", &[], CALL).head(&[("content-type", "application/json")]);
    for piece in br#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#.chunks(5) {
        run.chunk(piece);
    }
    run.see(What::End { trailers: None });
    let kinds: Vec<(Kind, &str)> =
        run.records.iter().map(|record| (record.kind, record.delivery_key.as_str())).collect();
    assert_eq!(
        kinds,
        [
            (Kind::Call, "tap:run:0"),
            (Kind::Log, "tap:run:1"),
            (Kind::Result, "tap:run:12:1"),
            (Kind::Log, "tap:run:12")
        ]
    );
    assert!(run.decoding.bodies.is_empty() && run.decoding.held == 0);
}

#[test]
fn secrets_of_http_and_oauth_are_out_before_anything_is_recorded() {
    let mut run = Run::new();
    let form = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("authorization", "Basic s3cret="),
        ("cookie", "s3cret"),
    ];
    run.post("/token?code=s3cret", &form, b"grant_type=authorization_code&code=s3cret&code_verifier=s3cret&x=1");
    run.head(&[("location", "http://localhost/cb?code=s3cret&state=1"), ("set-cookie", "s3cret")]);
    for record in &run.records {
        let text = format!("{record:?}{}", String::from_utf8_lossy(record.raw.as_deref().unwrap_or_default()));
        assert!(!text.contains("s3cret"), "{text}");
    }
    assert!(run.records[0].credential_fingerprint.is_some());
}

#[test]
fn compressed_bodies_are_recorded_as_what_they_mean_and_others_not_at_all() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(b"data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[]}}\n\n").unwrap();
    encoder.flush().unwrap();
    let event = std::mem::take(encoder.get_mut());
    Run::new()
        .post("/mcp", &[], CALL)
        .head(&[SSE, ("content-encoding", "gzip")])
        .chunk(&event)
        .see(What::ClientDisconnect)
        .post("/mcp", &[("content-encoding", "compress")], b"s3cret")
        .head(&[SSE, ("content-encoding", "compress")])
        .chunk(b"s3cret")
        .see(What::End { trailers: None })
        .check(expect![[r#"
            0 call tools/call {"http.request.method":"POST","url.path":"/mcp","client.address":"127.0.0.1","network.protocol.version":"1.1"}
            "POST /mcp HTTP/1.1\n\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"x\"}}"
            1 log http response-head {"http.content-type":"text/event-stream","network.protocol.version":"2","http.content-encoding":"gzip"}
            "HTTP/2 200 OK\ncontent-type: text/event-stream\ncontent-encoding: gzip\n\n"
            2 result tools/call 
            "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[]}}\n\n"
            3 log http client-disconnect 
            ""
            4 rejected - {"http.request.method":"POST","url.path":"/mcp","client.address":"127.0.0.1","network.protocol.version":"1.1","threadline.length":"6","threadline.sha256":"1ec1c26b50d5d3c58d9583181af8076655fe00756bf7285940ba3670f99fcba0"}
            "POST /mcp HTTP/1.1\ncontent-encoding: compress\n\n"
            5 log http response-head {"http.content-type":"text/event-stream","network.protocol.version":"2","http.content-encoding":"compress"}
            "HTTP/2 200 OK\ncontent-type: text/event-stream\ncontent-encoding: compress\n\n"
            6 log http body-chunk {"threadline.not_kept":"its coding is not known","threadline.length":"6","threadline.sha256":"1ec1c26b50d5d3c58d9583181af8076655fe00756bf7285940ba3670f99fcba0"}
            ""
            7 log http end 
            ""
        "#]]);
}

#[test]
fn after_a_loss_reading_goes_on_where_it_can() {
    let gap = Gap { events: 2, bytes: 9, from_unix_nano: 1, to_unix_nano: 2, reason: GapReason::Overflow };
    let late = |bytes: &'static [u8]| Event::Exchange {
        number: 1,
        is_after_loss: true,
        what: What::Chunk(Bytes::from_static(bytes)),
    };
    Run::new()
        .post("/mcp", &[], CALL)
        .head(&[SSE])
        .chunk(b"data: {\"half")
        .event(Event::Gap(gap))
        .event(late(b"gone}\n\n"))
        .chunk(b"data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[]}}\n\n")
        .see(What::End { trailers: None })
        .check(expect![[r#"
            0 call tools/call {"http.request.method":"POST","url.path":"/mcp","client.address":"127.0.0.1","network.protocol.version":"1.1"}
            "POST /mcp HTTP/1.1\n\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"x\"}}"
            1 log http response-head {"http.content-type":"text/event-stream","network.protocol.version":"2"}
            "HTTP/2 200 OK\ncontent-type: text/event-stream\n\n"
            3 gap gap {"events":2,"bytes":9,"from_unix_nano":1,"to_unix_nano":2,"reason":"overflow"}
            ""
            4:1 log http body-chunk 
            "data: {\"half"
            4 log http body-chunk 
            "gone}\n\n"
            5 result tools/call 
            "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[]}}\n\n"
            6 log http end 
            ""
        "#]]);
}

#[test]
fn what_is_held_back_is_bounded() {
    let mut run = Run::new();
    run.post("/mcp", &[], CALL).head(&[("content-type", "application/json")]);
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..40 {
        run.chunk(&chunk);
        assert!(run.decoding.held <= BODY_BYTES_MAX + chunk.len());
    }
    run.see(What::Failure { reason: "upstream_closed", status: None, is_refusal: false });
    assert_eq!(run.decoding.held, 0);
    let bytes: usize = run
        .records
        .iter()
        .filter(|record| record.name.as_deref() != Some("http response-head"))
        .skip(1)
        .map(|record| record.raw.as_ref().map_or(0, Vec::len))
        .sum();
    assert_eq!(bytes, 40 << 20);
    let mut run = Run::new();
    for number in 0..EXCHANGES_MAX as u64 + 10 {
        let what =
            What::ResponseHead { status: 200, version: Version::HTTP_11, headers: HeaderMap::new(), rewritten: None };
        run.event(Event::Exchange { number, is_after_loss: false, what });
    }
    assert_eq!(run.decoding.bodies.len(), EXCHANGES_MAX);
}

#[test]
fn ends_of_events_are_found_however_they_are_cut() {
    let stream = b"data: a\n\ndata: b\r\n\r\ndata: c\r\rdata: d";
    let ends = |chunks: Vec<&[u8]>| {
        let mut finder = EventEnds::default();
        let mut before = 0;
        let mut last = 0;
        for chunk in chunks {
            last = finder.find(chunk).map_or(last, |end| before + end);
            before += chunk.len();
        }
        last
    };
    let end = stream.len() - b"data: d".len();
    assert_eq!(ends(vec![stream]), end);
    for cut in 0..stream.len() {
        assert_eq!(ends(vec![&stream[..cut], &stream[cut..]]), end, "cut at {cut}");
    }
    assert_eq!(EventEnds::default().find(b"data: a\n\ndata: b\r\n\r\n"), Some(20));
    assert_eq!(EventEnds::default().find(b"data: a\n"), None);
}
