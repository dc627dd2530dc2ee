//! Hostile input: never a panic, bounded memory at 32 parallel requests, never interpreted, and findable afterwards.

use std::io::Write;
use std::path::Path;

use reqwest::StatusCode;

use crate::support::{Serve, json, ok, threadline};

/// Requests at the same time.
const PARALLEL: usize = 32;
/// What a bomb unfolds to: three times the largest body.
const BOMB_BYTES: usize = 48 << 20;
/// Peak resident memory of the server (512 MiB), of which its own code is about 100 in a debug build.
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
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn attacks() -> Vec<Attack> {
    let zeros = vec![b' '; BOMB_BYTES];
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
            zstd::encode_all(&zeros[..], 3).unwrap(),
            &[400, 413],
        ),
        attack("nested gzip", "/v1/logs", protobuf, Some("gzip"), gzip(&gzip(&zeros)), &[400, 413]),
        attack("garbage protobuf", "/v1/traces", protobuf, None, vec![0xff; 1 << 16], &[400]),
        attack("JSON as protobuf", "/v1/logs", protobuf, None, b"{\"resourceLogs\":[]}".to_vec(), &[400]),
        attack("unknown type", "/v1/logs", "text/html", None, b"<script>".to_vec(), &[415]),
        attack("unknown encoding", "/v1/logs", protobuf, Some("br"), vec![1, 2, 3], &[415]),
    ]
}

/// Bodies at the edge of every limit, each made to take as much memory as it can: what 32 senders that mean harm
/// would send, all at once.
fn extremes() -> Vec<Attack> {
    let events = "/api/v1/events";
    let (ndjson, json, protobuf) = ("application/x-ndjson", "application/json", "application/x-protobuf");
    let event = |what: &str| format!("{{\"kind\":\"log\",{what}}}").into_bytes();
    let list = |item: &str, bytes: usize| vec![item; bytes / item.len()].join(",");
    let names = |count: usize| (0..count).map(|n| format!("\"k{n}\":{n}")).collect::<Vec<_>>().join(",");
    let legal = event(&format!("\"text\":\"{}\"", "the quick brown fox 0123456789 ".repeat(400_000)));
    // A resource with one scope with this many spans that say nothing (or log records, which have the same place).
    let span = |count: usize| {
        let length_delimited = |tag: u8, inner: &[u8]| {
            let mut out = vec![tag];
            let mut length = inner.len();
            while length >= 0x80 {
                out.push(length as u8 | 0x80);
                length >>= 7;
            }
            out.push(length as u8);
            [out, inner.to_vec()].concat()
        };
        let spans = [0x12, 0].repeat(count);
        length_delimited(0x0a, &length_delimited(0x12, &spans))
    };
    let logs =
        format!("{{\"resourceLogs\":[{{\"scopeLogs\":[{{\"logRecords\":[{}]}}]}}]}}", vec!["{}"; 20_000].join(","));
    let zeros = vec![b' '; BOMB_BYTES];
    let sql = |query: String| serde_json::json!({"query": query, "timeout_ms": 2000}).to_string().into_bytes();
    let attack = |name, path, content_type, encoding, body| Attack {
        name,
        path,
        content_type,
        encoding,
        body,
        allowed: &[200, 400, 413, 414, 431, 504],
    };
    vec![
        attack("1 MiB of text", events, ndjson, None, event(&format!("\"text\":\"{}\"", "a".repeat(1 << 20)))),
        attack("15 MiB of text", events, ndjson, None, event(&format!("\"text\":\"{}\"", "ab ".repeat(5 << 20)))),
        attack("lines of 1 MiB", events, ndjson, None, megabytes("", 'c')),
        attack(
            "deep nesting",
            events,
            ndjson,
            None,
            event(&format!("\"attributes\":{}1{}", "[".repeat(4 << 20), "]".repeat(4 << 20))),
        ),
        attack("gzip bomb", "/v1/logs", protobuf, Some("gzip"), gzip(&zeros)),
        attack("zstd bomb", events, ndjson, Some("zstd"), zstd::encode_all(&zeros[..], 3).unwrap()),
        attack("unfolds within the ratio", events, ndjson, Some("gzip"), gzip(&legal)),
        attack(
            "bad UTF-8",
            events,
            ndjson,
            None,
            event("\"text\":\"").into_iter().chain(std::iter::repeat_n(0xff, 8 << 20)).collect(),
        ),
        attack("huge array", events, json, None, event(&format!("\"attributes\":{{\"a\":[{}]}}", list("1", 12 << 20)))),
        attack(
            "huge array of events",
            events,
            json,
            None,
            format!("[{}]", list("{\"kind\":\"log\"}", 1 << 20)).into_bytes(),
        ),
        attack("many attributes", events, ndjson, None, event(&format!("\"attributes\":{{{}}}", names(400_000)))),
        attack(
            "long names",
            events,
            ndjson,
            None,
            event(&format!("\"{}\":1,\"attributes\":{{\"{}\":1}}", "n".repeat(4 << 20), "m".repeat(4 << 20))),
        ),
        attack("many small events", events, ndjson, None, b"{\"kind\":\"log\"}\n".repeat(90_000)),
        attack("many nonsense lines", events, ndjson, None, b"x\n".repeat(90_000)),
        attack("many spans", "/v1/traces", protobuf, None, span(20_000)),
        attack("many log records", "/v1/logs", json, None, logs.into_bytes()),
        attack("huge SQL", "/api/v1/sql", json, None, sql(format!("SELECT '{}'", "x".repeat(200_000)))),
        attack("deep SQL", "/api/v1/sql", json, None, sql(format!("SELECT {}1{}", "(1+".repeat(47), ")".repeat(47)))),
        attack("heavy SQL", "/api/v1/sql", json, None, sql(heavy_queries().swap_remove(0).1)),
        attack("long search", "/api/v1/search?limit=1000&q=", "", None, "kind%20".repeat(1000).into_bytes()),
        attack("long phrase", "/api/v1/search?q=", "", None, format!("%22{}%22", "log%20".repeat(1500)).into_bytes()),
        attack("everything", "/api/v1/links?limit=10000", "", None, Vec::new()),
        attack("a session of megabytes", "/api/v1/sessions/heavy-session", "", None, Vec::new()),
        attack("hits of megabytes", "/api/v1/search?limit=1000&q=s*", "", None, Vec::new()),
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
    runtime.block_on(store_heavy_session(&serve.url));
    for (what, attacks, rounds) in [("single kinds", attacks(), 3), ("the extremes", extremes(), 6)] {
        runtime.block_on(all_at_once(&serve.url, attacks, rounds));
        let peak = peak_memory(serve.child.id());
        println!("peak memory of the server after {what}: {} MiB", peak >> 20);
        assert!(peak <= MEMORY_BYTES_MAX, "{what}: the server used {} MiB at {PARALLEL} requests", peak >> 20);
    }

    runtime.block_on(nobody_reads(&serve.url));
    let peak = peak_memory(serve.child.id());
    println!("peak memory of the server after readers that do not read: {} MiB", peak >> 20);
    assert!(peak <= MEMORY_BYTES_MAX, "answers that nobody reads: the server used {} MiB", peak >> 20);

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

/// Queries that take all the memory or time there is, each by another way around the engine's own accounting.
fn heavy_queries() -> Vec<(&'static str, String)> {
    let doubled = |first: &str| {
        let steps: String = (0..40).map(|n| format!(", a{} AS (SELECT s||s AS s FROM a{n})", n + 1)).collect();
        format!("WITH a0 AS (SELECT {first} AS s){steps} SELECT length(s) FROM a40")
    };
    vec![
        ("constants that double", doubled("'xxxxxxxxxxxxxxxx'")),
        (
            "values that double",
            doubled("cast(value AS varchar) || 'x'").replace(" AS s)", " AS s FROM generate_series(1, 2))"),
        ),
        (
            "nested encoding",
            format!("SELECT length({}'{}'{})", "encode(".repeat(40), "x".repeat(999), ",'hex')".repeat(40)),
        ),
        (
            "back-references",
            format!(
                "SELECT length({}'a'{})",
                "regexp_replace(".repeat(30),
                ",'(.)','\\\\1\\\\1\\\\1\\\\1','g')".repeat(30)
            ),
        ),
        ("window", "SELECT max(s) FROM (SELECT sum(value) OVER () s FROM generate_series(1, 9000000000))".into()),
        (
            "unnest",
            format!(
                "SELECT count(*) FROM (SELECT unnest([{}1]) FROM generate_series(1, 9000000000))",
                "1,".repeat(1900)
            ),
        ),
        ("aggregate", "SELECT array_agg(value) FROM generate_series(1, 9000000000)".into()),
        ("recursion", "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM t) SELECT count(*) FROM t".into()),
        ("many terms", format!("SELECT count(*) FROM records WHERE {}true", "kind = 'a' or ".repeat(900))),
    ]
}

#[test]
fn sql_slows_and_swells_nobody_but_itself() {
    let work = tempfile::tempdir().unwrap();
    let serve = Serve::start(&work.path().join("data"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for (name, query) in heavy_queries() {
            let (status, _, text) = sql(&serve.url, &query, 1000).await;
            assert!([200, 400, 504].contains(&status.as_u16()), "{name}: {status} {text}");
            assert_eq!(get(&format!("{}/healthz", serve.url)).await, "ok\n", "{name}");
        }
        let endless = "SELECT count(*) FROM generate_series(1, 9000000000) a, generate_series(1, 9000000000) b";
        let heavy: Vec<_> = (0..2).map(|_| tokio::spawn(admitted(serve.url.clone(), endless))).collect();
        let (status, retry_after, text) = loop {
            let answer = sql(&serve.url, "SELECT 1", 10_000).await;
            if answer.0 != StatusCode::OK || heavy.iter().any(tokio::task::JoinHandle::is_finished) {
                break answer;
            }
        };
        assert_eq!((status, retry_after.is_some()), (StatusCode::SERVICE_UNAVAILABLE, true), "{text}");
        // Everything else is answered while both still run.
        assert_eq!(get(&format!("{}/healthz", serve.url)).await, "ok\n");
        assert!(get(&format!("{}/api/v1/sessions", serve.url)).await.contains("\"data\":[]"));
        assert!(!heavy.iter().any(tokio::task::JoinHandle::is_finished));
        for one in heavy {
            assert_eq!(one.await.unwrap(), StatusCode::GATEWAY_TIMEOUT);
        }
        assert_eq!(admitted(serve.url.clone(), "SELECT 1").await, StatusCode::OK);
    });
    let peak = peak_memory(serve.child.id());
    println!("peak memory of the server beside heavy queries: {} MiB", peak >> 20);
    assert!(peak <= MEMORY_BYTES_MAX / 2, "the server used {} MiB for queries of others", peak >> 20);
    serve.stop();
}

async fn sql(url: &str, query: &str, timeout_ms: u64) -> (StatusCode, Option<String>, String) {
    let body = serde_json::json!({"query": query, "timeout_ms": timeout_ms}).to_string();
    let response = reqwest::Client::new().post(format!("{url}/api/v1/sql")).body(body).send().await.unwrap();
    let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_string());
    (response.status(), retry_after, response.text().await.unwrap())
}

/// Asks until there is room for the query.
async fn admitted(url: String, query: &str) -> StatusCode {
    loop {
        match sql(&url, query, 6_000).await.0 {
            StatusCode::SERVICE_UNAVAILABLE => tokio::task::yield_now().await,
            status => return status,
        }
    }
}

/// `rounds` requests from each of [`PARALLEL`] senders, every kind beside every other.
async fn all_at_once(url: &str, attacks: Vec<Attack>, rounds: usize) {
    let attacks = std::sync::Arc::new(attacks);
    let http = reqwest::Client::new();
    let mut tasks = tokio::task::JoinSet::new();
    for sender in 0..PARALLEL {
        let (attacks, http, url) = (attacks.clone(), http.clone(), url.to_string());
        tasks.spawn(async move {
            for round in 0..rounds {
                send(&http, &url, &attacks[(sender * 7 + round * 5) % attacks.len()]).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

async fn send(http: &reqwest::Client, url: &str, attack: &Attack) {
    let mut request = if attack.content_type.is_empty() {
        http.get(format!("{url}{}{}", attack.path, String::from_utf8_lossy(&attack.body)))
    } else {
        http.post(format!("{url}{}", attack.path)).header("content-type", attack.content_type).body(attack.body.clone())
    };
    if let Some(encoding) = attack.encoding {
        request = request.header("content-encoding", encoding);
    }
    // A server that has read enough of a body answers and closes; the sender sees either.
    let Ok(response) = request.send().await else { return };
    let status = response.status();
    // A busy server may say so; it may not break.
    let busy = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
    let taken = response.text().await;
    assert!(busy || attack.allowed.contains(&status.as_u16()), "{}: {status} {taken:?}", attack.name);
}

/// Lines of 1 MiB, as many as fit into one request.
fn megabytes(first: &str, letter: char) -> Vec<u8> {
    format!("{{\"kind\":\"prompt\",{first}\"text\":\"{}\"}}\n", letter.to_string().repeat(1 << 20))
        .repeat(14)
        .into_bytes()
}

/// 56 prompts of 1 MiB in one session.
async fn store_heavy_session(url: &str) {
    for letter in ['s', 't', 'u', 'v'] {
        let body = megabytes("\"conversation_id\":\"heavy-session\",", letter);
        let request =
            reqwest::Client::new().post(format!("{url}/api/v1/events")).header("content-type", "application/x-ndjson");
        let response = request.body(body).send().await.unwrap();
        assert!(response.status().is_success(), "{}", response.status());
    }
}

/// Asks for a session of megabytes over each of [`PARALLEL`] connections and reads nothing but the status: some are told to
/// come back, small answers are given meanwhile, and large ones again when the others have gone.
async fn nobody_reads(url: &str) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let path = "/api/v1/sessions/heavy-session";
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..PARALLEL {
        let address = url.trim_start_matches("http://").to_string();
        asked.spawn(async move {
            let mut connection = tokio::net::TcpStream::connect(&address).await.unwrap();
            let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
            connection.write_all(head.as_bytes()).await.unwrap();
            let mut status = [0; 12];
            connection.read_exact(&mut status).await.unwrap();
            (connection, String::from_utf8_lossy(&status[9..]).into_owned())
        });
    }
    let connections = asked.join_all().await;
    let refused = connections.iter().filter(|(_, status)| status == "503").count();
    assert!(refused > 0 && connections.iter().any(|(_, status)| status == "200"), "{refused} of {PARALLEL} refused");
    assert!(get(&format!("{url}/api/v1/sessions?limit=1")).await.contains("\"data\""));
    drop(connections);
    while reqwest::get(format!("{url}{path}")).await.unwrap().status() == StatusCode::SERVICE_UNAVAILABLE {
        tokio::task::yield_now().await;
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
