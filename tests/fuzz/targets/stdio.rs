//! MCP over stdio: what a tap sees of a pipe, or the lines of a recording.
//!
//! Input: a recording when it begins with `{`, else lines that a tap sees, each behind a byte for its stream: `>` to the
//! server, `<` from it, `!` its standard error; `C` and `S` are lines cut at the tap's limit.

use std::path::Path;

use threadline_schemas::decode::mcp::tap::{Seen, TapDecoder, TapFrame};
use threadline_schemas::decode::stdio_capture::StdioCapture;
use threadline_schemas::json::{self, Json};
use threadline_schemas::{Direction, Record};

use super::records::{bounded, capture, context, sound};
use super::seeds::{chunked, files};

pub(super) fn run(bytes: &[u8]) {
    if bytes.first() == Some(&b'{') {
        return capture(|| StdioCapture::new("orders.stdio.jsonl", "id"), bytes, TIMES);
    }
    let records = tapped(bytes);
    assert_eq!(records, tapped(bytes));
    sound(&records);
    bounded(&records, bytes.len(), 64 << 10, TIMES);
    bytes.split(|byte| *byte == b'\n').for_each(text_round_trip);
}

/// A part of a message repeats its ids, and an empty part can be two bytes long.
pub(super) const TIMES: usize = 4096;

fn tapped(bytes: &[u8]) -> Vec<Record> {
    let mut tap = TapDecoder::new("orders", "run");
    let mut records = Vec::new();
    for (line, sequence) in bytes.split(|byte| *byte == b'\n').zip(1..) {
        let Some((&stream, line)) = line.split_first() else { continue };
        let direction = match stream {
            b'>' | b'C' => Direction::ClientToServer,
            b'!' => Direction::ServerStderr,
            _ => Direction::ServerToClient,
        };
        let is_cut = matches!(stream, b'C' | b'S');
        let frame = TapFrame {
            direction,
            bytes: line,
            length: line.len() as u64 + u64::from(is_cut),
            sha256: is_cut.then_some([7; 32]),
            terminated: !is_cut,
            delivered: stream != b'S',
        };
        let seen = Seen { sequence, time_unix_nano: 1_795_000_000_000_000_000 + sequence as i64 };
        let made = tap.frame(&context(), seen, frame);
        let carrying: Vec<&[u8]> = made.iter().filter_map(|record| record.raw.as_deref()).collect();
        assert_eq!(carrying, [line], "a frame is carried by exactly one record");
        records.extend(made);
    }
    records
}

/// JSON that is read is written back with the same content: members in order, duplicates, exact numbers.
fn text_round_trip(line: &[u8]) {
    let Ok(parsed) = json::parse(line.get(1..).unwrap_or_default()) else { return };
    let text = parsed.value.to_string();
    let again = json::parse(text.as_bytes()).expect("what was written can be read");
    assert_eq!(json::canonical(&again.value), json::canonical(&parsed.value));
    assert_eq!(again.value.to_string(), text);
    assert_eq!(again.duplicate_keys, parsed.duplicate_keys);
    spans(&parsed.value, line.get(1..).unwrap_or_default());
}

/// The span of each member is its value.
fn spans(value: &Json, document: &[u8]) {
    for member in value.members() {
        let text = &document[member.span.clone()];
        let alone = json::parse_within(text, json::Limits { depth_max: 140, nodes_max: 400_000 });
        let alone = alone.expect("the span of a member is JSON").value;
        assert_eq!(json::canonical(&alone), json::canonical(&member.value));
    }
}

pub(super) fn seeds(repository: &Path) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let wanted = |name: &str| name.ends_with("frames.jsonl") || name.ends_with(".stdio.jsonl");
    for (_, bytes) in files(&repository.join("tests/captures"), &wanted) {
        let lines = || bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        seeds.extend(chunked(b"", lines(), b'\n').into_iter().take(1));
        let passed: Vec<Vec<u8>> = lines().filter_map(passed).collect();
        seeds.extend(chunked(b"", passed.iter().map(Vec::as_slice), b'\n'));
    }
    seeds
}

fn passed(line: &[u8]) -> Option<Vec<u8>> {
    let value = json::parse(line).ok()?.value;
    let stream: &[u8] = match value.str_at("dir")? {
        "client->server" => b">",
        "server->client" => b"<",
        _ => b"!",
    };
    Some([stream, value.get("raw")?.as_str()?.as_bytes()].concat())
}
