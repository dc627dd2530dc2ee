//! Against the recorded captures: counts, pairing, connections.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::*;
use crate::decode::http_capture::HttpCapture;
use crate::decode::tests::context;
use crate::record::{Kind, Outcome};
use expect_test::{Expect, expect};
use proptest::prelude::*;

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures")
}

/// Every MCP capture file, relative to the folder, in order.
pub(crate) fn files() -> Vec<String> {
    fn walk(at: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&folder(), &mut found);
    let relative = |path: PathBuf| path.strip_prefix(folder()).unwrap().to_str().unwrap().to_string();
    let mut files: Vec<String> =
        found.into_iter().map(relative).filter(|name| is_stdio(name) || is_http(name)).collect();
    files.sort();
    files
}

fn is_stdio(name: &str) -> bool {
    name.ends_with(".stdio.jsonl") || name.ends_with("frames.jsonl")
}

fn is_http(name: &str) -> bool {
    name.ends_with("http.jsonl")
}

/// The records of one capture file.
pub(crate) fn decode(file: &str) -> Vec<Record> {
    let bytes = std::fs::read(folder().join(file)).unwrap();
    let mut decoder: Box<dyn LineDecoder> =
        if is_http(file) { Box::new(HttpCapture::new(file, "f")) } else { Box::new(StdioCapture::new(file, "f")) };
    decode_lines(decoder.as_mut(), file, bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()))
}

pub(crate) fn decode_lines<'a>(
    decoder: &mut dyn LineDecoder,
    file: &str,
    lines: impl Iterator<Item = &'a [u8]>,
) -> Vec<Record> {
    let mut records = Vec::new();
    for (index, bytes) in lines.enumerate() {
        let number = index as i64 + 1;
        let delivery_key = format!("file:{file}:{number}");
        let line = Line { bytes, file: Some(file), number, delivery_key: &delivery_key };
        let mut of_line = decoder.line(&context(), line);
        assert_eq!(of_line.iter().filter(|record| record.raw.is_some()).count(), 1, "{file}:{number}");
        assert_eq!(of_line[0].raw.as_deref(), Some(bytes), "{file}:{number}");
        let ids: HashSet<_> = of_line.iter().map(|record| record.event_id).collect();
        assert_eq!(ids.len(), of_line.len(), "{file}:{number}");
        of_line.iter_mut().for_each(crate::stamp::stamp);
        records.append(&mut of_line);
    }
    records
}

/// Requests that no record of their kind's response meets by rpc key.
pub(crate) fn unanswered(records: &[Record]) -> Vec<String> {
    let rpc = |record: &Record| record.keys.iter().find(|key| key.starts_with("rpc:")).cloned();
    let is_answer = |record: &&Record| record.outcome.is_some() && record.kind != Kind::Notification;
    let answered: HashSet<String> = records.iter().filter(is_answer).filter_map(rpc).collect();
    let is_request = |record: &&Record| {
        record.raw.is_some() && record.outcome.is_none() && record.rpc_id.is_some() && record.kind != Kind::Log
    };
    let open = |record: &Record| rpc(record).filter(|key| !answered.contains(key));
    let name = |record: &Record| record.name.clone().unwrap_or_default();
    records.iter().filter(is_request).filter_map(|r| open(r).map(|key| format!("{} {key}", name(r)))).collect()
}

fn summary(file: &str) -> String {
    let records = decode(file);
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    records.iter().for_each(|record| *kinds.entry(record.kind.as_str()).or_default() += 1);
    let connections: HashSet<_> = records.iter().filter_map(|record| record.connection_id.clone()).collect();
    let unpaired =
        records.iter().filter(|r| r.attributes.as_deref().is_some_and(|a| a.contains("threadline.unpaired")));
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    let open = unanswered(&records);
    let open = if open.is_empty() { String::new() } else { format!("; unanswered: {}", open.join(", ")) };
    format!("{file}: {} connections; {}; unpaired {}{open}\n", connections.len(), kinds.join(", "), unpaired.count())
}

#[test]
fn every_capture_is_decoded_whole() {
    let all: String = files().iter().map(|file| summary(file)).collect();
    expect![[r#"
        claude-code/cc-0-not-connected/mcp/everything.http.jsonl: 1 connections; connection 4, log 13, notification 2, prompt_template 2, request 2, resource 2, tool_definition 15, tool_list 2; unpaired 0
        claude-code/cc-0-not-connected/mcp/fs.stdio.jsonl: 1 connections; connection 2, log 2, notification 1, request 2, tool_definition 14, tool_list 2; unpaired 0
        claude-code/cc-0-not-connected/mcp/orders.stdio.jsonl: 1 connections; connection 2, notification 1, prompt_template 2, resource 2, tool_definition 6, tool_list 2; unpaired 0
        claude-code/cc-1/mcp/everything.http.jsonl: 3 connections; connection 12, log 39, notification 6, prompt_template 6, request 6, resource 6, tool_definition 45, tool_list 6; unpaired 0
        claude-code/cc-1/mcp/fs.stdio.jsonl: 3 connections; connection 6, log 6, notification 3, request 6, tool_definition 42, tool_list 6; unpaired 0
        claude-code/cc-1/mcp/orders.stdio.jsonl: 3 connections; call 5, connection 6, log 165, notification 3, prompt_template 6, resource 6, result 5, tool_definition 18, tool_list 6; unpaired 0
        claude-code/cc-2/mcp/everything.http.jsonl: 3 connections; call 2, connection 12, log 43, notification 6, prompt_template 6, request 6, resource 6, result 2, tool_definition 45, tool_list 6; unpaired 0
        claude-code/cc-2/mcp/fs.stdio.jsonl: 3 connections; call 4, connection 6, log 6, notification 3, request 6, result 4, tool_definition 42, tool_list 6; unpaired 0
        claude-code/cc-2/mcp/orders.stdio.jsonl: 3 connections; call 1, connection 6, log 79, notification 3, prompt_template 6, resource 6, result 1, tool_definition 18, tool_list 6; unpaired 0
        claude-code/cc-5/mcp/everything.http.jsonl: 2 connections; call 2, connection 8, log 28, notification 3, prompt_template 4, request 2, resource 4, result 2, tool_definition 30, tool_list 4; unpaired 0
        claude-code/cc-5/mcp/fs.stdio.jsonl: 2 connections; connection 4, log 4, notification 2, request 4, tool_definition 28, tool_list 4; unpaired 0
        claude-code/cc-5/mcp/orders.stdio.jsonl: 2 connections; connection 4, notification 1, prompt_template 2, resource 2, tool_definition 6, tool_list 2; unpaired 0
        codex/cx-0-not-connected/mcp/everything.http.jsonl: 1 connections; connection 5, log 9, notification 1, tool_definition 15, tool_list 2; unpaired 0
        codex/cx-0-not-connected/mcp/orders.stdio.jsonl: 1 connections; connection 1; unpaired 0; unanswered: initialize rpc:f-1:client/0
        codex/cx-1/mcp/everything.http.jsonl: 2 connections; connection 10, log 21, notification 2, tool_definition 30, tool_list 4; unpaired 0
        codex/cx-1/mcp/orders.stdio.jsonl: 2 connections; call 4, connection 4, log 84, notification 2, result 4, tool_definition 12, tool_list 4; unpaired 0
        contextforge/cfb--1/client.http.jsonl: 1 connections; call 9, connection 4, log 34, notification 1, prompt_template 4, resource 4, result 9, tool_definition 13, tool_list 2; unpaired 0
        contextforge/cfb--1/upstream.http.jsonl: 10 connections; call 8, connection 40, log 115, notification 15, prompt_template 2, resource 2, result 8, tool_definition 91, tool_list 14; unpaired 0
        fastmcp-everything-http/basic--fh1/http.jsonl: 1 connections; call 8, connection 6, log 40, notification 1, prompt_template 6, resource 6, result 8, tool_definition 16, tool_list 2; unpaired 0
        fastmcp-everything-stdio/basic--f1/frames.jsonl: 1 connections; call 8, connection 4, log 1, notification 5, prompt_template 6, resource 6, result 8, tool_definition 16, tool_list 2; unpaired 0
        fastmcp-everything-stdio/server-initiated--f1/frames.jsonl: 1 connections; approval 1, call 5, connection 4, elicitation 1, log 1, notification 6, result 4, sampling 2, tool_definition 16, tool_list 2; unpaired 0; unanswered: tools/call rpc:f-1:client/7
        fastmcp-orders-otlp/fast--f1/http.jsonl: 1 connections; call 10, connection 2, log 27, notification 7, prompt_template 2, resource 2, result 9, tool_definition 6, tool_list 2; unpaired 0; unanswered: tools/call rpc:f-1:client/13
        pysdk-everything-http/basic--h1/http.jsonl: 1 connections; call 8, connection 6, log 40, notification 1, prompt_template 6, resource 6, result 8, tool_definition 17, tool_list 2; unpaired 0
        pysdk-everything-http/concurrent--h1/http.jsonl: 1 connections; call 7, connection 6, log 35, notification 2, request 2, result 7, tool_definition 68, tool_list 8; unpaired 0
        pysdk-everything-http/server-initiated--h1/http.jsonl: 1 connections; approval 1, call 6, connection 6, elicitation 1, log 34, notification 7, request 2, result 5, sampling 2, tool_definition 17, tool_list 2; unpaired 0; unanswered: tools/call rpc:f-1:client/8
        pysdk-everything-stdio/basic--s1/frames.jsonl: 1 connections; call 8, connection 4, log 1, notification 6, prompt_template 6, request 1, resource 6, result 8, tool_definition 17, tool_list 2; unpaired 0; unanswered: roots/list rpc:f-1:server/0
        pysdk-everything-stdio/basic--s3/frames.jsonl: 1 connections; call 8, connection 2, log 1, notification 6, prompt_template 6, request 1, resource 6, result 8, tool_definition 17, tool_list 2; unpaired 0; unanswered: roots/list rpc:f-1:server/0
        pysdk-everything-stdio/concurrent--s1/frames.jsonl: 1 connections; call 7, connection 4, log 1, notification 7, request 2, result 7, tool_definition 85, tool_list 10; unpaired 0
        pysdk-everything-stdio/server-initiated--s1/frames.jsonl: 1 connections; approval 1, call 6, connection 4, elicitation 1, log 1, notification 12, request 2, result 5, sampling 2, tool_definition 17, tool_list 2; unpaired 0; unanswered: tools/call rpc:f-1:client/8
        pysdk-filesystem-stdio/fs--1/frames.jsonl: 1 connections; call 11, connection 4, log 2, notification 1, request 2, result 11, tool_definition 14, tool_list 2; unpaired 0
        pysdk-filesystem-stdio/fsinj--1/frames.jsonl: 1 connections; call 5, connection 4, log 2, notification 1, request 2, result 5, tool_definition 14, tool_list 2; unpaired 0
        pysdk-memory-stdio/mem--1/frames.jsonl: 1 connections; call 8, connection 4, log 1, notification 1, result 8, tool_definition 9, tool_list 2; unpaired 0
        pysdk-orders-otlp/py--o2/http.jsonl: 1 connections; approval 1, call 12, connection 2, elicitation 1, log 30, notification 4, prompt_template 2, resource 2, result 11, sampling 2, tool_definition 6, tool_list 2; unpaired 0; unanswered: tools/call rpc:f-1:client/15
        pysdk-orders-otlp/pys--o3/http.jsonl: 1 connections; approval 1, call 3, connection 5, elicitation 1, log 17, notification 1, result 3, tool_definition 6, tool_list 2; unpaired 0
        traceloop-everything-otlp/ev--tl1x/frames.jsonl: 1 connections; call 4, connection 2, log 1, notification 2, result 4, tool_definition 13, tool_list 2; unpaired 0
    "#]].assert_eq(&all);
}

#[test]
fn every_response_bears_its_request() {
    for file in files() {
        for record in decode(&file) {
            if record.kind == Kind::Result && record.raw.is_some() {
                assert!(
                    record.tool_name.is_some() && record.duration_nano.is_some(),
                    "{file}:{:?}",
                    record.origin_line
                );
            }
        }
    }
}

#[test]
fn servers_are_named() {
    for file in files() {
        let last = decode(&file).pop().unwrap();
        assert!(last.server_name.is_some() || file.contains("cx-0"), "{file}");
    }
    assert_eq!(names("x/orders.stdio.jsonl.gz"), ("orders".into(), Some("orders".into())));
    assert_eq!(names("x/basic--s1/frames.jsonl"), ("basic--s1".into(), None));
    assert_eq!(names("frames.jsonl"), ("frames".into(), None));
}

#[test]
fn a_probe_and_its_fallback_are_one_connection_and_a_restart_is_another() {
    let frame = |seq: &str, dir: &str, raw: &str| {
        format!("{{\"ts_ns\":1{seq},\"dir\":\"{dir}\",\"raw\":{}}}", serde_json::Value::from(raw))
    };
    let discover = r#"{"jsonrpc":"2.0","id":1,"method":"server/discover"}"#;
    let refused = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found"}}"#;
    let initialize = r#"{"jsonrpc":"2.0","id":2,"method":"initialize"}"#;
    let accepted = r#"{"jsonrpc":"2.0","id":1,"result":{"supportedVersions":[]}}"#;
    let connections = |lines: &[String]| {
        let mut decoder = StdioCapture::new("frames.jsonl", "f");
        let records = decode_lines(&mut decoder, "frames.jsonl", lines.iter().map(String::as_bytes));
        records.iter().filter_map(|r| r.connection_id.clone()).collect::<Vec<_>>().join(" ")
    };
    let (client, server) = ("client->server", "server->client");
    expect!["f-1 f-1 f-1 f-2"].assert_eq(&connections(&[
        frame("", client, discover),
        frame("", server, refused),
        frame("", client, initialize),
        frame("", client, initialize),
    ]));
    expect!["f-1 f-1 f-2"].assert_eq(&connections(&[
        frame("", client, discover),
        frame("", server, accepted),
        frame("", client, discover),
    ]));
    // Two recordings in one file: seq tells them apart, and a late stderr line stays with its own.
    expect!["f-1 f-1 f-2 f-1 f-2"].assert_eq(&connections(&[
        frame(",\"seq\":1", client, initialize),
        frame(",\"seq\":2", server, accepted),
        frame(",\"seq\":1", client, initialize),
        frame(",\"seq\":3", "server-stderr", "bye"),
        frame(",\"seq\":2", server, accepted),
    ]));
}

#[test]
fn lines_that_are_no_frames_are_rejected_with_a_reason() {
    let check = |line: &str, expected: Expect| {
        let mut decoder = StdioCapture::new("frames.jsonl", "f");
        let records = decode_lines(&mut decoder, "frames.jsonl", [line.as_bytes()].into_iter());
        assert_eq!((records.len(), records[0].kind, records[0].outcome), (1, Kind::Rejected, Some(Outcome::Error)));
        expected.assert_eq(records[0].text.as_deref().unwrap());
    };
    check("{", expect!["not valid JSON at byte 1: EOF while parsing an object"]);
    check(r#"{"dir":"up","raw":""}"#, expect![[r#"no known direction in "dir""#]]);
    check(r#"{"dir":"client->server"}"#, expect![[r#"no text in "raw""#]]);
    check(
        r#"{"dir":"server->client","raw":"Listening on stdio"}"#,
        expect!["not valid JSON at byte 0: expected value"],
    );
    check(
        r#"{"dir":"server->client","raw":"{\"level\":\"info\"}"}"#,
        expect![[r#"JSON, but not a JSON-RPC 2.0 message: no "jsonrpc":"2.0""#]],
    );
    check(r#"{"dir":"server->client","raw":"[]"}"#, expect!["empty JSON-RPC batch"]);
    check(
        r#"{"dir":"server->client","raw":"{\"jsonrpc\":\"2.0\",\"id\":[1],\"result\":{}}"}"#,
        expect!["JSON-RPC id is neither a string nor a number"],
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn mutated_captures_never_panic(
        file in proptest::sample::select(files()),
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
        drop in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = std::fs::read(folder().join(&file)).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let start = drop.index(bytes.len());
        bytes.drain(start..(start + 7).min(bytes.len()));
        for decoder in [&mut StdioCapture::new(&file, "f") as &mut dyn LineDecoder, &mut HttpCapture::new(&file, "f")] {
            decode_lines(decoder, &file, bytes.split(|byte| *byte == b'\n').take(40));
        }
    }

    #[test]
    fn arbitrary_lines_never_panic(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 1..8)) {
        for decoder in [&mut StdioCapture::new("a", "f") as &mut dyn LineDecoder, &mut HttpCapture::new("a", "f")] {
            decode_lines(decoder, "a", lines.iter().map(Vec::as_slice));
        }
    }
}
