//! MCP over HTTP: the events that a recording proxy sees, or the lines of a recording.
//!
//! Input: a recording when it begins with `{`; else events separated by the byte FF (never part of UTF-8): a byte for
//! what, a byte for the exchange, then
//! `P`, `G`, `D` (POST, GET, DELETE): path, header lines, an empty line, body; `H`: status, header lines;
//! `B`: a chunk of the body; `L`: the last one; `E`: the end; `X`: the client leaves; `F`: a failure; `O`: a chunk that
//! cannot be read; `M`: events were lost.

use std::path::Path;

use threadline_schemas::decode::http::proxy::{At, ProxyDecoder};
use threadline_schemas::decode::http::{Event, Headers, Request};
use threadline_schemas::decode::http_capture::HttpCapture;
use threadline_schemas::json::{self, Json};
use threadline_schemas::{Kind, Record};

use super::records::{bounded, capture, context, sound};
use super::seeds::{chunked, files};
use super::stdio::TIMES;

pub(super) fn run(bytes: &[u8]) {
    if bytes.first() == Some(&b'{') {
        return capture(|| HttpCapture::new("orders.http.jsonl", "id"), bytes, TIMES);
    }
    let records = seen(bytes, usize::MAX);
    assert_eq!(records, seen(bytes, usize::MAX));
    sound(&records);
    bounded(&records, bytes.len(), 64 << 10, TIMES);
    // However a body is cut into chunks, its messages are the same.
    let chunk = if bytes.len() < 1024 { 1 } else { 61 };
    assert_eq!(messages(&records), messages(&seen(bytes, chunk)), "cut into chunks of {chunk} bytes");
}

/// What the messages say, without what depends on the chunks they came in.
fn messages(records: &[Record]) -> Vec<String> {
    let is_message = |record: &&Record| {
        !matches!(record.kind, Kind::Log | Kind::Auth)
            && record.name.as_deref().is_none_or(|name| !name.starts_with("http "))
    };
    let said = records.iter().filter(is_message).map(|record| {
        let mut record = record.clone();
        record.raw = None;
        record.delivery_key.clear();
        record.source_sequence = None;
        record.origin_line = None;
        record.event_id = Default::default();
        format!("{record:?}")
    });
    said.collect()
}

fn seen(bytes: &[u8], chunk_bytes: usize) -> Vec<Record> {
    let mut decoder = ProxyDecoder::new("orders", "run");
    let mut records = Vec::new();
    let mut sequence = 0;
    for (event, number) in bytes.split(|byte| *byte == 0xff).zip(1..) {
        let [what, exchange, rest @ ..] = event else { continue };
        let exchange = u64::from(exchange % 8);
        let chunks: Vec<&[u8]> = match what {
            b'B' | b'L' if !rest.is_empty() => rest.chunks(chunk_bytes.min(rest.len())).collect(),
            _ => vec![rest],
        };
        for (index, part) in chunks.iter().enumerate() {
            sequence += 1;
            let at = At { sequence, time_unix_nano: 1_795_000_000_000_000_000 + number };
            let is_last = index + 1 == chunks.len();
            let made = one(&mut decoder, at, exchange, *what, part, is_last);
            if let Some(made) = made {
                let carrying = made.iter().filter(|record| record.raw.is_some());
                let carrying: Vec<_> =
                    carrying.map(|record| (record.raw.as_deref(), record.delivery_key.contains('#'))).collect();
                assert_eq!(carrying, [(Some(*part), false)], "an event is carried by exactly one record");
                records.extend(made);
            }
        }
    }
    records
}

fn one(decoder: &mut ProxyDecoder, at: At, exchange: u64, what: u8, part: &[u8], is_last: bool) -> Option<Vec<Record>> {
    let method = match what {
        b'P' => Some("POST"),
        b'G' => Some("GET"),
        b'D' => Some("DELETE"),
        _ => None,
    };
    let text;
    let (mut fields, mut path, mut body) = (Vec::new(), "", None);
    if method.is_some() || what == b'H' {
        let end = part.windows(2).position(|pair| pair == b"\n\n").unwrap_or(part.len());
        text = String::from_utf8_lossy(&part[..end]).into_owned();
        let mut lines = text.split('\n');
        path = lines.next().unwrap_or_default();
        fields = lines.filter_map(|line| line.split_once(": ")).collect();
        body = part.get(end + 2..);
    }
    let headers: Headers<'_> = fields.into_iter().collect();
    let event = match (method, what) {
        (Some(method), _) => Event::Request(Request {
            method,
            path,
            headers: &headers,
            body: body.filter(|body| !body.is_empty()),
            cut: None,
            client: Some("127.0.0.1"),
            notes: &[],
        }),
        (_, b'H') => Event::ResponseHead { status: path.parse().ok(), headers: &headers, notes: &[] },
        (_, b'L') if is_last => Event::LastChunk(part),
        (_, b'B' | b'L') => Event::BodyChunk(part),
        (_, b'E') => Event::End,
        (_, b'X') => Event::ClientDisconnect,
        (_, b'F') => Event::Failure { reason: "upstream_closed", status: None, is_refusal: part == b"refused" },
        (_, b'O') => Event::OpaqueChunk { reason: "its coding is not known", bytes: part },
        (_, b'M') => {
            decoder.lost(exchange);
            return None;
        }
        _ => return None,
    };
    Some(decoder.exchange(&context(), at, exchange, part, event))
}

pub(super) fn seeds(repository: &Path) -> Vec<Vec<u8>> {
    let mut seeds = vec![HTTP_SSE.to_vec()];
    let wanted = |name: &str| name.ends_with("http.jsonl");
    for (_, bytes) in files(&repository.join("tests/captures"), &wanted) {
        let lines = || bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        seeds.extend(chunked(b"", lines(), b'\n').into_iter().take(1));
        let events: Vec<Vec<u8>> = lines().filter_map(passed).collect();
        seeds.extend(chunked(b"", events.iter().map(Vec::as_slice), 0xff));
    }
    seeds
}

/// The transport of 2024-11-05, a resumed stream, a challenge: nothing recorded has them.
const HTTP_SSE: &[u8] = b"G0/sse\n\xffH0200\ncontent-type: text/event-stream\xffB0event: endpoint\ndata: /messages?session_id=a\n\n\xffP1/messages?session_id=a\ncontent-type: application/json\n\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"x\",\"_meta\":{\"progressToken\":7}}}\xffH1202\xffE1\xffB0id: 4\rdata: {\"jsonrpc\":\"2.0\",\r\ndata: \"id\":1,\"result\":{\"content\":[]}}\r\n\r\n\xffX0\xffG2/mcp\nmcp-session-id: s\nlast-event-id: 4\n\n\xffH2401\nwww-authenticate: Bearer\xffE2\xffP3/token\n\ngrant_type=authorization_code&code=x\xffH3200\ncontent-type: application/json\ncontent-length: 2\xffL3{}\xffE3\xff";

fn passed(line: &[u8]) -> Option<Vec<u8>> {
    let value = json::parse(line).ok()?.value;
    let exchange = b'0' + u8::try_from(value.get("xchg")?.as_i64()? % 8).ok()?;
    let headers = || {
        let members = value.get("headers").map(Json::members).unwrap_or_default().iter();
        members.filter_map(|member| Some(format!("\n{}: {}", member.key, member.value.as_str()?))).collect::<String>()
    };
    let text = |key: &str| value.get(key).and_then(Json::as_str).unwrap_or_default();
    let (what, rest) = match value.str_at("kind")? {
        "request" => (text("method").bytes().next()?, format!("{}{}\n\n{}", text("path"), headers(), text("body"))),
        "response-head" => (b'H', format!("{}{}", value.get("status")?.as_i64()?, headers())),
        "body-chunk" => (b'B', text("data").to_string()),
        "end" => (b'E', String::new()),
        "client-disconnect" => (b'X', String::new()),
        _ => (b'F', String::new()),
    };
    Some([&[what, exchange], rest.as_bytes()].concat())
}
