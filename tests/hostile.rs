//! Hostile input: never a panic, never more than 512 MiB at 32 parallel requests, never interpreted, and
//! findable afterwards.

use std::io::Write;
use std::path::Path;

use reqwest::StatusCode;

use crate::support::{Serve, json, ok, threadline};

/// Requests at the same time.
const PARALLEL: usize = 32;
/// Peak resident memory of the server (512 MiB).
const MEMORY_BYTES_MAX: u64 = 512 << 20;

/// One request that a hostile sender might make, and what may come back.
struct Attack {
    name: &'static str,
    path: &'static str,
    content_type: &'static str,
    encoding: Option<&'static str>,
    body: Vec<u8>,
    allowed: &'static [u16],
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn attacks() -> Vec<Attack> {
    let zeros = vec![b' '; 256 << 20];
    let deep = format!("{{\"kind\":\"log\",\"attributes\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let large = format!("{{\"kind\":\"log\",\"text\":\"largepayload {}\"}}", "a".repeat(1 << 20));
    let attack = |name, path, content_type, encoding, body, allowed| Attack {
        name,
        path,
        content_type,
        encoding,
        body,
        allowed,
    };
    let events = "/api/v1/events";
    let ndjson = "application/x-ndjson";
    let protobuf = "application/x-protobuf";
    vec![
        attack("truncated JSON", events, ndjson, None, b"{\"kind\":\"log\",\"text\":\"trunc".to_vec(), &[200, 400]),
        attack("deep nesting", events, ndjson, None, deep.into_bytes(), &[200, 400]),
        attack("1 MiB text", events, ndjson, None, large.into_bytes(), &[200]),
        attack(
            "bad UTF-8",
            events,
            ndjson,
            None,
            b"{\"kind\":\"log\",\"text\":\"badutf \xff\xfe\"}".to_vec(),
            &[200, 400],
        ),
        attack("NUL", events, ndjson, None, b"{\"kind\":\"log\",\"text\":\"nulmark \\u0000 after\"}".to_vec(), &[200]),
        attack("gzip bomb", "/v1/logs", protobuf, Some("gzip"), gzip(&zeros), &[400, 413]),
        attack("gzip bomb to events", events, ndjson, Some("gzip"), gzip(&zeros), &[400, 413]),
        attack(
            "zstd bomb",
            "/v1/traces",
            protobuf,
            Some("zstd"),
            zstd::encode_all(&zeros[..], 19).unwrap(),
            &[400, 413],
        ),
        attack("nested gzip", "/v1/logs", protobuf, Some("gzip"), gzip(&gzip(&zeros)), &[400, 413]),
        attack("garbage protobuf", "/v1/traces", protobuf, None, vec![0xff; 1 << 16], &[400]),
        attack("JSON as protobuf", "/v1/logs", protobuf, None, b"{\"resourceLogs\":[]}".to_vec(), &[400]),
        attack("unknown type", "/v1/logs", "text/html", None, b"<script>".to_vec(), &[415]),
        attack("unknown encoding", "/v1/logs", protobuf, Some("br"), vec![1, 2, 3], &[415]),
    ]
}

const STEERING: &[&str] = &[
    "ansimark \\u001b]0;owned\\u0007\\u001b[2J",
    "bidimark \\u202egnp.exe \\u200b\\u2066",
    "htmlmark <img src=x onerror=\\\"document.title='pwned'\\\"><script>document.title='pwned'</script>",
    "=csvmark|' /C calc'!A0",
    "tagmark \u{e0041}\u{e0042}",
];

#[test]
fn hostile_input_is_bounded_inert_and_findable() {
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    let serve = Serve::start(&data);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(all_at_once(&serve.url));
    let peak = peak_memory(serve.child.id());
    assert!(peak <= MEMORY_BYTES_MAX, "the server used {} MiB at {PARALLEL} parallel requests", peak >> 20);
    println!("peak memory of the server: {} MiB", peak >> 20);

    runtime.block_on(post_steering(&serve.url));
    for word in ["largepayload", "nulmark", "ansimark", "bidimark", "htmlmark", "csvmark", "tagmark", "trunc"] {
        let found = json(threadline().args(["search", "--format", "json", "--url", &serve.url, word]));
        assert!(!found["data"].as_array().unwrap().is_empty(), "{word} is not findable");
        nothing_steers(&ok(threadline().args(["search", "--format", "table", "--url", &serve.url, word])));
        nothing_steers(&ok(threadline().args(["search", "--format", "csv", "--url", &serve.url, word])));
        let page = runtime.block_on(get(&format!("{}/search?q={word}", serve.url)));
        nothing_steers(&page);
        assert!(!page.contains("<img src=x") && !page.contains("<script>document"), "{word}: markup reaches the page");
    }
    serve.stop();
    damaged_files(work.path());
}

async fn all_at_once(url: &str) {
    let attacks = std::sync::Arc::new(attacks());
    let http = reqwest::Client::new();
    let mut tasks = tokio::task::JoinSet::new();
    for turn in 0..PARALLEL * 3 {
        if tasks.len() >= PARALLEL {
            tasks.join_next().await.unwrap().unwrap();
        }
        let (attacks, http, url) = (attacks.clone(), http.clone(), url.to_string());
        tasks.spawn(async move {
            let attack = &attacks[turn % attacks.len()];
            let mut request = http.post(format!("{url}{}", attack.path)).header("content-type", attack.content_type);
            if let Some(encoding) = attack.encoding {
                request = request.header("content-encoding", encoding);
            }
            let response = request.body(attack.body.clone()).send().await;
            let response = response.unwrap_or_else(|error| panic!("{}: {error}", attack.name));
            let status = response.status();
            // A busy server may say so; it may not break.
            let busy = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
            assert!(
                busy || attack.allowed.contains(&status.as_u16()),
                "{}: {status} {:?}",
                attack.name,
                response.text().await
            );
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

async fn post_steering(url: &str) {
    let body: String = STEERING.iter().map(|text| format!("{{\"kind\":\"prompt\",\"text\":\"{text}\"}}\n")).collect();
    let response = reqwest::Client::new()
        .post(format!("{url}/api/v1/events"))
        .header("content-type", "application/x-ndjson")
        .body(body)
        .send()
        .await
        .unwrap();
    assert!(response.status().is_success(), "{}", response.status());
}

async fn get(url: &str) -> String {
    reqwest::get(url).await.unwrap().text().await.unwrap()
}

fn nothing_steers(text: &str) {
    let steering = text.chars().find(|&c| (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}'..='\u{200f}' | '\u{e0000}'..='\u{e007f}'));
    assert!(steering.is_none(), "{steering:?} in {text:?}");
}

fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// A damaged line becomes a rejected record with file, line and reason; the rest goes on.
fn damaged_files(work: &Path) {
    let folder = work.join("damaged");
    std::fs::create_dir_all(&folder).unwrap();
    let good = r#"{"ts_ns": 1795170684171870505, "seq": 1, "dir": "client->server", "raw": "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"echo\",\"arguments\":{}}}"}"#;
    let lines: [&[u8]; 4] = [good.as_bytes(), b"{\"ts_ns\": 1, \"seq\"", b"\xff\xfe\x00garbage", good.as_bytes()];
    std::fs::write(folder.join("frames.jsonl"), lines.join(&b'\n')).unwrap();
    let data = work.join("damaged-data");
    ok(threadline().args(["import", "--data"]).arg(&data).arg(&folder));
    let links = crate::support::ndjson(&ok(threadline().args(["links", "--format", "ndjson", "--data"]).arg(&data)));
    let rejected: Vec<i64> =
        links.iter().filter(|link| link["kind"] == "rejected").map(|link| link["line"].as_i64().unwrap()).collect();
    assert_eq!(rejected, [2, 3]);
    assert_eq!(links.iter().filter(|link| link["kind"] == "call").count(), 2);
}
