//! What observations become: bodies put together, secrets out, bounds.

use std::io::Write;

use bytes::Bytes;
use expect_test::{Expect, expect};
use hyper::http::{HeaderValue, Method};
use threadline_schemas::{Collector, Kind};

use super::super::observation::{Gap, GapReason, Whose};
use super::*;

struct Run {
    decoding: Decoding,
    sequence: u64,
    records: Vec<Record>,
}

/// An event of an exchange whose sender is of no interest.
fn event(number: u64, what: What) -> Event {
    Event::Exchange { number, sender: Sender::of_session(b"s"), is_after_loss: false, what }
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
        self.event(event(1, what))
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
            0 call tools/call {"http.request.method":"POST","url.path":"/mcp?api_key=k","client.address":"127.0.0.1","network.protocol.version":"1.1","threadline.definition_not_seen":true}
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
            0 call tools/call {"http.request.method":"POST","url.path":"/mcp","client.address":"127.0.0.1","network.protocol.version":"1.1","threadline.definition_not_seen":true}
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
    let sender = Sender::of_session(b"s");
    let mut gap = Gap::one(9, 1, GapReason::Overflow, Whose::Exchange(1, sender));
    gap.add(Gap::one(0, 2, GapReason::Overflow, Whose::Exchange(1, sender)));
    let late = |bytes: &'static [u8]| Event::Exchange {
        number: 1,
        sender,
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
            0 call tools/call {"http.request.method":"POST","url.path":"/mcp","client.address":"127.0.0.1","network.protocol.version":"1.1","threadline.definition_not_seen":true}
            "POST /mcp HTTP/1.1\n\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"x\"}}"
            1 log http response-head {"http.content-type":"text/event-stream","network.protocol.version":"2"}
            "HTTP/2 200 OK\ncontent-type: text/event-stream\n\n"
            3:run-1 gap gap {"events":2,"bytes":9,"from_unix_nano":1,"to_unix_nano":2,"reason":"overflow"}
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
fn each_connection_that_lost_something_has_a_gap() {
    fn request(client: u8, session: Option<&'static str>) -> Box<Request> {
        let session = session.map(|session| (SESSION, session));
        Box::new(Request {
            method: Method::POST,
            target: "/mcp".into(),
            version: Version::HTTP_11,
            headers: fields(&session.into_iter().collect::<Vec<_>>()),
            client: [10, 0, 0, client].into(),
            body: Bytes::from_static(CALL),
            length: CALL.len() as u64,
            sha256: None,
            is_complete: true,
        })
    }
    let sender = |request: &Request| Sender::of(request.client, &request.target, &request.headers);
    let begin = |run: &mut Run, number: u64, request: Box<Request>| {
        let sender = sender(&request);
        run.event(Event::Exchange { number, sender, is_after_loss: false, what: What::Request(request) });
    };
    let mut run = Run::new();
    // Exchange 1 initializes: the server names the session. Exchanges 2 and 3 are of clients without sessions.
    begin(&mut run, 1, request(1, None));
    let headers = fields(&[(SESSION, "s-1")]);
    let head = What::ResponseHead { status: 200, version: Version::HTTP_11, headers, rewritten: None };
    run.event(event(1, head)).event(event(1, What::End { trailers: None }));
    begin(&mut run, 2, request(2, None));
    begin(&mut run, 3, request(2, None));
    let lose = |number: u64, request: &Request, bytes: u64| {
        Gap::one(bytes, 5, GapReason::Overflow, Whose::Exchange(number, sender(request)))
    };
    // All of exchange 7, of that session; the answer of 3; all of 8, of the client whose two calls have the same id; all of
    // 9, of nobody who is known.
    let mut gap = lose(7, &request(1, Some("s-1")), 10);
    gap.add(lose(7, &request(1, Some("s-1")), 1));
    gap.add(lose(3, &request(2, None), 100));
    gap.add(lose(8, &request(2, None), 1_000));
    gap.add(lose(9, &request(9, None), 10_000));
    run.records.clear();
    run.event(Event::Gap(gap));
    let shown = |record: &Record| {
        let connection = record.connection_id.as_deref().unwrap_or("-");
        format!("{} {connection} {}\n", record.delivery_key, record.text.as_deref().unwrap_or("-"))
    };
    expect![[r#"
        tap:run:5:run-1 run-1 2 HTTP events (11 bytes of bodies) of this connection passed and were not recorded: overflow
        tap:run:5:run-2 run-2 1 HTTP events (1000 bytes of bodies) of this connection or 1 that look alike passed and were not recorded: overflow
        tap:run:5:run-3 run-3 2 HTTP events (1100 bytes of bodies) of this connection or 1 that look alike passed and were not recorded: overflow
        tap:run:5 run 1 HTTP events (10000 bytes of bodies) passed and were not recorded: overflow
    "#]]
    .assert_eq(&run.records.iter().map(shown).collect::<String>());
    let ids: std::collections::BTreeSet<_> = run.records.iter().map(|record| record.event_id).collect();
    assert_eq!(ids.len(), run.records.len());
}

#[test]
fn a_gap_names_no_more_than_it_may() {
    let sender = |number: u64| Sender::of_session(&number.to_le_bytes());
    let mut gap = Gap::one(1, 0, GapReason::Overflow, Whose::Exchange(0, sender(0)));
    (1..10_000).for_each(|number| {
        gap.add(Gap::one(1, 0, GapReason::Overflow, Whose::Exchange(number, sender(number))));
    });
    assert_eq!((gap.events, gap.whose.len()), (10_000, 2_048));
    // What it has no room for is still counted where its sender is known.
    gap.add(Gap::one(1, 0, GapReason::Overflow, Whose::Exchange(20_000, sender(1_500))));
    assert_eq!(gap.whose[&Whose::Sender(sender(1_500))], Counts { events: 2, bytes: 2 });
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
        run.event(event(number, what));
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
