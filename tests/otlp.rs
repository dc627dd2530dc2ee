//! The official OpenTelemetry SDKs (Python and JavaScript; gRPC and HTTP, protobuf and JSON; gzip) send to a server that is killed with -9
//! and started again under load: everything their exporters report as exported is stored, each once.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

use serde_json::Value;

use crate::support::{Serve, json, repository, skip, threadline};

/// Spans, and as many log records, of each sender.
const COUNT: u64 = 2_000;
/// The server is killed when all senders together have reported so many tenths.
const KILLED_AT_TENTHS: [u64; 3] = [1, 4, 7];

/// Where `tests/estate/setup DIR otlp` put the SDKs.
fn sdks() -> Option<PathBuf> {
    let estate = std::env::var_os("THREADLINE_ESTATE").map_or_else(|| repository("target/estate"), PathBuf::from);
    let last = estate.join("otlp/npm/node_modules/@opentelemetry/exporter-logs-otlp-http");
    last.exists().then(|| estate.join("otlp"))
}

/// A running sender.
struct Sending(Child);

/// What a sender says.
enum Said {
    /// This many more were reported as exported.
    Exported(&'static str, u64),
    /// Its last word.
    Done(&'static str, Value),
}

impl Sending {
    fn start(sdks: &Path, serve: &Serve, name: &'static str, work: &Path, said: Sender<Said>) -> Sending {
        let (language, protocol) = name.split_once('-').unwrap();
        let mut command = match language {
            "py" => Command::new(sdks.join("venv/bin/python")),
            _ => Command::new("node"),
        };
        command.arg(repository(if language == "py" {
            "tests/estate/otlp_send.py"
        } else {
            "tests/estate/otlp_send.mjs"
        }));
        let endpoint = if protocol == "grpc" { &serve.otlp_grpc } else { &serve.otlp };
        let log = std::fs::File::create(work.join(format!("{name}.log"))).unwrap();
        let mut child = command
            .args([protocol, endpoint, name, &COUNT.to_string()])
            .env("ESTATE_OTLP", sdks)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the sender starts");
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let message = match line.strip_prefix("exported ") {
                    Some(number) => Said::Exported(name, number.parse().expect("a number")),
                    None => Said::Done(name, serde_json::from_str(&line).expect("the last line is JSON")),
                };
                // The test is over when nobody listens.
                let _over = said.send(message);
            }
        });
        Sending(child)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        // Gone already when all went well.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Follows what senders say.
struct Progress {
    said: Receiver<Said>,
    exported: std::collections::BTreeMap<&'static str, u64>,
    done: std::collections::BTreeMap<&'static str, Value>,
}

impl Progress {
    fn total(&self) -> u64 {
        self.exported.values().sum()
    }

    /// Waits for the next word; fails when every sender has ended.
    fn next(&mut self) {
        match self.said.recv().expect("a sender ended before it was done: see its log") {
            Said::Exported(name, total) => _ = self.exported.insert(name, total),
            Said::Done(name, counts) => _ = self.done.insert(name, counts),
        }
    }
}

/// The answer to a plain GET, headers included.
fn get(url: &str, path: &str) -> String {
    let host = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn what_sdks_report_as_exported_is_stored_once_though_the_server_is_killed() {
    let Some(sdks) = sdks() else {
        return skip("the OpenTelemetry SDKs are not installed: run tests/estate/setup target/estate otlp");
    };
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    let mut serve = Serve::start(&data);
    let (said, listen) = channel();
    let names = ["py-grpc", "py-http", "js-grpc", "js-http", "js-json"];
    let senders: Vec<Sending> =
        names.iter().map(|name| Sending::start(&sdks, &serve, name, work.path(), said.clone())).collect();
    drop(said);
    let all = COUNT * 2 * names.len() as u64;
    let mut progress = Progress { said: listen, exported: Default::default(), done: Default::default() };
    for tenths in KILLED_AT_TENTHS {
        while progress.total() < all * tenths / 10 {
            progress.next();
        }
        let (http, grpc) = (serve.otlp.trim_start_matches("http://").to_string(), serve.otlp_grpc.clone());
        // Dropping kills with SIGKILL.
        drop(serve);
        serve = Serve::start_on(threadline().arg("serve").arg("--data").arg(&data), &http, &grpc);
    }
    while progress.done.len() < names.len() {
        progress.next();
    }
    drop(senders);
    for (name, counts) in &progress.done {
        println!("{name}: {counts}");
        assert_eq!((counts["spans"].as_u64(), counts["logs"].as_u64()), (Some(COUNT), Some(COUNT)), "{name}");
    }
    let question = "SELECT source_name, kind, count(*) AS stored, count(DISTINCT coalesce(text, name)) AS different \
        FROM records WHERE collector = 'otlp' GROUP BY source_name, kind ORDER BY source_name, kind";
    let answer = json(threadline().args(["sql", "--format", "json", "--url", &serve.url, question]));
    let rows: Vec<String> = answer["data"]["rows"].as_array().unwrap().iter().map(Value::to_string).collect();
    let expected: Vec<String> = ["js-grpc", "js-http", "js-json", "py-grpc", "py-http"]
        .iter()
        .flat_map(|name| ["log", "span"].map(|kind| format!("[\"{name}\",\"{kind}\",{COUNT},{COUNT}]")))
        .collect();
    assert_eq!(rows, expected);
    let metrics = get(&serve.url, "/metrics");
    assert!(
        metrics.contains("threadline_otlp_requests_total{protocol=\"grpc\",signal=\"traces\",answer=\"accepted\"}")
    );
    serve.stop();
}
