//! Real clients against real servers through `threadline tap --upstream`: recorders on both sides see the same, and the
//! store has every call; disconnects, killed servers and OAuth-protected servers included.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::captures::same_value;
use crate::live::estate;
use crate::support::{Serve, json, ok, repository, skip, threadline};

/// A process that is killed when dropped.
struct Running {
    child: Child,
    /// Where it answers, without a path.
    origin: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone after `stop` or `kill`.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Running {
    /// Starts a server and waits until it takes connections on `address`.
    fn server(command: &mut Command, address: &str) -> Running {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let running = Running { child, origin: format!("http://{address}") };
        // It does not say when it is ready.
        for _ in 0..1200 {
            if TcpStream::connect(address).is_ok() {
                return running;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{command:?} does not listen on {address}");
    }

    /// A recorder before `upstream` that writes what passes to `out`.
    fn tee(estate: &Path, upstream: &str, out: &Path) -> Running {
        let mut command = Command::new(estate.join("venv/bin/python"));
        command.arg(repository("tests/estate/http_tee.py")).arg(upstream).arg(out);
        // aiohttp complains about connections that were cut off on purpose.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Running { child, origin: format!("http://127.0.0.1:{}", port.trim()) }
    }

    /// `threadline tap` before `upstream`; `into` says where it records.
    fn proxy(upstream: &str, server_name: &str, into: &[&str], work: &Path) -> Running {
        let mut command = threadline();
        command.args(["tap", "--upstream", upstream, "--server-name", server_name]).args(into);
        command.env("XDG_STATE_HOME", work);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        let origin = loop {
            let Some(Ok(line)) = lines.next() else { panic!("tap ended: {said}") };
            said += &line;
            if let Some(address) = line.trim().strip_prefix("listening on") {
                break format!("http://{}", address.trim());
            }
        };
        // Keep the pipe drained, so that the proxy never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        Running { child, origin }
    }

    fn address(&self) -> &str {
        self.origin.trim_start_matches("http://")
    }

    /// Sends SIGTERM and waits for a clean end.
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "ended with {status}");
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn free_port(host: &str) -> u16 {
    TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port()
}

fn everything(estate: &Path) -> Running {
    let port = free_port("127.0.0.1");
    let program = estate.join("npm/node_modules/@modelcontextprotocol/server-everything/dist/index.js");
    let mut command = Command::new("node");
    command.arg(program).arg("streamableHttp").env("PORT", port.to_string());
    Running::server(&mut command, &format!("127.0.0.1:{port}"))
}

fn orders(estate: &Path, script: &str, port: u16) -> Running {
    let mut command = Command::new(estate.join("venv/bin/python"));
    command.arg(repository("tests/estate").join(script)).args(["http", &port.to_string()]);
    Running::server(&mut command, &format!("127.0.0.1:{port}"))
}

/// A server with a recorder, a proxy and another recorder before it.
struct Chain {
    name: &'static str,
    out: PathBuf,
    front: Running,
    proxy: Running,
    behind: Running,
}

impl Chain {
    fn start(estate: &Path, work: &Path, data: &Path, name: &'static str, server: &Running) -> Chain {
        let out = work.join(name);
        std::fs::create_dir_all(&out).unwrap();
        let behind = Running::tee(estate, &server.origin, &out.join("behind.jsonl"));
        let proxy = Running::proxy(&format!("{}/mcp", behind.origin), name, &["--data", data.to_str().unwrap()], work);
        let front = Running::tee(estate, &proxy.origin, &out.join("front.jsonl"));
        Chain { name, out, front, proxy, behind }
    }

    /// Stops all of it and compares what the two recorders saw.
    fn stop_and_compare(self) -> usize {
        let Chain { name, out, front, proxy, behind } = self;
        proxy.stop();
        front.kill();
        behind.kill();
        let (front, behind) = (exchanges(&out.join("front.jsonl")), exchanges(&out.join("behind.jsonl")));
        let keys = |seen: &BTreeMap<String, Vec<Value>>| {
            seen.iter().map(|(key, all)| (key.clone(), all.len())).collect::<Vec<_>>()
        };
        assert_eq!(keys(&front), keys(&behind), "{name}: the requests before and behind the proxy differ");
        for (request, before) in &front {
            for (seen, passed) in before.iter().zip(&behind[request]) {
                let body = |exchange: &Value| exchange["response"].as_str().unwrap().to_string();
                if seen["end"] == "end" && passed["end"] == "end" {
                    for part in ["status", "response_headers", "response"] {
                        assert_eq!(seen[part], passed[part], "{name}: {request}");
                    }
                } else {
                    // Cut off: what had passed by then need not be the same, but not other bytes.
                    let (seen, passed) = (body(seen), body(passed));
                    assert!(seen.starts_with(&passed) || passed.starts_with(&seen), "{name}: {request}");
                }
            }
        }
        front.values().map(Vec::len).sum()
    }
}

/// What a recorder saw, by request; of equal requests in order of their responses.
fn exchanges(file: &Path) -> BTreeMap<String, Vec<Value>> {
    let mut seen: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in std::fs::read_to_string(file).unwrap().lines() {
        let exchange: Value = serde_json::from_str(line).unwrap();
        let key = ["method", "path", "request_headers", "request"].map(|part| exchange[part].to_string()).join(" ");
        seen.entry(key).or_default().push(exchange);
    }
    seen.values_mut().for_each(|all| all.sort_by_key(|exchange| exchange["response"].to_string()));
    seen
}

/// A client session: who drives it, which one, against which server.
struct Session {
    client: &'static str,
    session: &'static str,
    server: &'static str,
}

const SESSIONS: [Session; 8] = [
    Session { client: "mcp", session: "basic--h1", server: "everything" },
    Session { client: "fastmcp", session: "basic--h2", server: "everything" },
    Session { client: "mcp", session: "server-initiated--h3", server: "everything" },
    Session { client: "mcp", session: "concurrent--h4", server: "everything" },
    Session { client: "mcp", session: "fast--h5", server: "orders" },
    Session { client: "fastmcp", session: "fasts--h6", server: "orders" },
    Session { client: "mcp", session: "py--h7", server: "orders-2" },
    Session { client: "fastmcp", session: "pys--h8", server: "orders-2" },
];

impl Session {
    fn start(&self, estate: &Path, work: &Path, url: &str, otlp: &str) -> Child {
        let out = work.join(self.session);
        std::fs::create_dir_all(&out).unwrap();
        let log = std::fs::File::create(out.join("driver.log")).unwrap();
        Command::new(estate.join("venv/bin/python"))
            .arg(repository("tests/estate/drive.py"))
            .args([self.client, "http", self.session])
            .arg(&out)
            .envs([("URL", url), ("OTLP", otlp)])
            .env("ESTATE", estate)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("the driver starts")
    }

    /// The calls as the client made them: tool, arguments, how they ended.
    fn calls(&self, work: &Path) -> Vec<(String, Value, String)> {
        let file = work.join(self.session).join("ground_truth.json");
        let truth: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let turns = truth["turns"].as_array().unwrap().iter();
        turns
            .flat_map(|turn| turn["calls"].as_array().unwrap())
            .filter(|call| call["method"] == "tools/call")
            .map(|call| {
                let outcome = match call["outcome"].as_str().unwrap() {
                    "ok" => "ok",
                    "cancelled" => "cancelled",
                    _ => "error",
                };
                (call["tool"].as_str().unwrap().into(), call["arguments"].clone(), outcome.into())
            })
            .collect()
    }
}

/// Rows of a query, as objects.
fn sql(url: &str, query: &str) -> Vec<Value> {
    rows(&json(threadline().args(["sql", "--format", "json", "--url", url, query])))
}

fn rows(answer: &Value) -> Vec<Value> {
    let columns: Vec<&str> =
        answer["data"]["columns"].as_array().unwrap().iter().map(|column| column.as_str().unwrap()).collect();
    let object = |row: &Value| {
        let members = columns.iter().zip(row.as_array().unwrap());
        members.map(|(column, value)| (column.to_string(), value.clone())).collect::<serde_json::Map<_, _>>().into()
    };
    answer["data"]["rows"].as_array().unwrap().iter().map(object).collect()
}

#[test]
fn clients_through_the_proxy_are_recorded_call_by_call_and_no_byte_changes() {
    let Some(estate) = estate() else {
        return skip("the estate is not installed: run tests/estate/setup");
    };
    let work = tempfile::tempdir().unwrap();
    let work = work.path();
    let data = work.join("data");
    let serve = Serve::start(&data);
    let servers = [
        ("everything", everything(&estate)),
        ("orders", orders(&estate, "fastsrv.py", free_port("127.0.0.1"))),
        ("orders-2", orders(&estate, "pyserver.py", free_port("127.0.0.1"))),
    ];
    let chains: Vec<Chain> =
        servers.iter().map(|(name, server)| Chain::start(&estate, work, &data, name, server)).collect();
    let url = |name: &str| format!("{}/mcp", chains.iter().find(|chain| chain.name == name).unwrap().front.origin);
    // All at once, so several sessions share a proxy.
    let mut drivers: Vec<(&Session, Child)> = SESSIONS
        .iter()
        .map(|session| (session, session.start(&estate, work, &url(session.server), &serve.otlp)))
        .collect();
    for (session, driver) in &mut drivers {
        let status = driver.wait().unwrap();
        let log = std::fs::read_to_string(work.join(session.session).join("driver.log")).unwrap_or_default();
        assert!(status.success(), "{} {}: {status}\n{log}", session.client, session.session);
    }
    let exchanges: usize = chains.into_iter().map(Chain::stop_and_compare).sum();
    assert!(exchanges > 60, "only {exchanges} exchanges were compared");
    for (name, _) in &servers {
        every_call_has_its_end(name, work, &serve.url);
    }
    // Sessions that share a proxy stay apart.
    let sessions = ["session", "list", "--format", "json", "--server", "everything", "--url", &serve.url];
    let sessions = json(threadline().args(sessions));
    let sessions = sessions["data"].as_array().unwrap().len();
    assert!(sessions >= 4, "four sessions became {sessions}");
    serve.stop();
}

/// Every call that a client made is in the store with its arguments, its end and, if it succeeded, its result.
fn every_call_has_its_end(server: &str, work: &Path, url: &str) {
    let of_server = format!("source_kind = 'wire' and server_name = '{server}'");
    let requests = sql(
        url,
        &format!(
            "select connection_id, rpc_id, tool_name, arguments, credential_fingerprint from records where {of_server} \
             and kind = 'call' limit 1000"
        ),
    );
    let ends = sql(
        url,
        &format!(
            "select connection_id, rpc_id, kind, outcome, result from records where {of_server} \
             and (kind = 'result' or outcome = 'cancelled') and rpc_id is not null limit 1000"
        ),
    );
    let mut found: Vec<(String, Value, Vec<&Value>)> = requests
        .iter()
        .map(|call| {
            let arguments = call["arguments"].as_str().map_or(Value::Null, |text| serde_json::from_str(text).unwrap());
            let same = |end: &&Value| end["connection_id"] == call["connection_id"] && end["rpc_id"] == call["rpc_id"];
            (call["tool_name"].as_str().unwrap().into(), arguments, ends.iter().filter(same).collect())
        })
        .collect();
    for session in SESSIONS.iter().filter(|session| session.server == server) {
        for (tool, arguments, outcome) in session.calls(work) {
            let is_it = |(name, given, ends): &(String, Value, Vec<&Value>)| {
                *name == tool
                    && (same_value(given, &arguments) || given.is_null())
                    && ends
                        .iter()
                        .any(|end| end["outcome"] == *outcome && (outcome != "ok" || end["result"].is_string()))
            };
            let at = found.iter().position(is_it).unwrap_or_else(|| {
                panic!("{server} {}: {tool} {arguments} {outcome} is not in {found:#?}", session.session)
            });
            found.swap_remove(at);
        }
    }
}

/// A request of 2026-07-28 that a test makes by hand.
fn slow_export(address: &str, id: u64) -> TcpStream {
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"slow_export","arguments":{{"rows":500}},"_meta":{{"progressToken":"p{id}","io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#
    );
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST /mcp HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n\
         mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: slow_export\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream
}

/// Reads until the server reported progress, so that the stream is open in its middle.
fn until_progress(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&read).contains("notifications/progress") {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "the stream ended: {}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(read).unwrap()
}

fn rest(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    // A connection that was cut off may be reset; what came before counts.
    let _reset = stream.read_to_end(&mut read);
    String::from_utf8_lossy(&read).into_owned()
}

#[test]
fn a_client_that_leaves_and_a_server_that_is_killed_are_recorded_as_that() {
    let Some(estate) = estate() else {
        return skip("the estate is not installed: run tests/estate/setup");
    };
    let work = tempfile::tempdir().unwrap();
    let work = work.path();
    let data = work.join("data");
    let serve = Serve::start(&data);
    let port = free_port("127.0.0.1");
    let server = orders(&estate, "fastsrv.py", port);
    let chain = Chain::start(&estate, work, &data, "orders", &server);
    let address = chain.front.address().to_string();
    // The proxy alone, without a recorder behind it that would answer for the server.
    let alone = Running::proxy(&format!("{}/mcp", server.origin), "alone", &["--data", data.to_str().unwrap()], work);

    let mut leaving = slow_export(&address, 1);
    until_progress(&mut leaving);
    drop(leaving);
    let mut cut = slow_export(&address, 2);
    until_progress(&mut cut);
    let mut cut_alone = slow_export(alone.address(), 3);
    until_progress(&mut cut_alone);
    server.kill();
    assert!(!rest(&mut cut).contains("\"result\""));
    assert!(!rest(&mut cut_alone).contains("\"result\""));
    let mut refused = slow_export(alone.address(), 5);
    let mut answer = vec![0; 4096];
    let count = refused.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\ncontent-type: application/problem+json\r\n"), "{answer}");
    drop(refused);
    // The server comes back: the same proxy goes on.
    let server = orders(&estate, "fastsrv.py", port);
    let mut again = slow_export(alone.address(), 6);
    until_progress(&mut again);
    drop(again);

    alone.stop();
    chain.stop_and_compare();
    drop(server);
    let ends = |name: &str| {
        let query = format!(
            "select rpc_id, kind, outcome, error_type, transport_status from records where server_name = '{name}' and \
             rpc_id is not null and outcome is not null order by rpc_id limit 100"
        );
        let text = |row: &Value, column: &str| row[column].as_str().unwrap_or("-").to_string();
        sql(&serve.url, &query)
            .iter()
            .map(|row| ["rpc_id", "kind", "outcome", "error_type", "transport_status"].map(|c| text(row, c)).join(" "))
            .collect::<Vec<_>>()
    };
    assert_eq!(ends("orders"), ["1 notification cancelled - client-disconnect", "2 result error upstream_closed 200"]);
    let alone = ends("alone");
    assert_eq!(alone[0], "3 result error upstream_closed 200", "{alone:?}");
    assert!(alone.contains(&"5 result error upstream_connect 502".to_string()), "{alone:?}");
    assert!(alone.contains(&"6 notification cancelled - client-disconnect".to_string()), "{alone:?}");
    serve.stop();
}

#[test]
fn without_a_server_the_proxy_answers_for_itself_and_records_into_the_store() {
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    let upstream = format!("http://127.0.0.1:{}/mcp", free_port("127.0.0.1"));
    let proxy = Running::proxy(&upstream, "away", &["--data", data.to_str().unwrap()], work.path());
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    let body =
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"password":"s3cret-1"}}}"#;
    write!(
        stream,
        "POST /mcp HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer s3cret-2\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        proxy.address(),
        body.len()
    )
    .unwrap();
    let answer = rest(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\ncontent-type: application/problem+json\r\n"), "{answer}");
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    write!(stream, "GET /mcp HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n").unwrap();
    assert!(rest(&mut stream).starts_with("HTTP/1.1 421 Misdirected Request\r\n"));
    proxy.stop();
    let query = "select event_id, kind, name, outcome, error_type, arguments, credential_fingerprint from records \
                 order by source_sequence limit 10";
    let rows = self::rows(&json(threadline().args(["sql", "--format", "json", query, "--data"]).arg(&data)));
    let shown: Vec<String> = rows
        .iter()
        .map(|row| {
            ["kind", "name", "outcome", "error_type"].map(|column| row[column].as_str().unwrap_or("-")).join(" ")
        })
        .collect();
    assert_eq!(
        shown,
        [
            "process started - -",
            "call tools/call - -",
            "result tools/call error upstream_connect",
            "connection GET - -",
            "log http failure denied refused_host",
            "process exited ok -",
        ]
    );
    assert!(rows[1]["credential_fingerprint"].is_string());
    let raw = ok(threadline().args(["event", "raw", rows[1]["event_id"].as_str().unwrap(), "--data"]).arg(&data));
    assert!(raw.starts_with("POST /mcp HTTP/1.1\r\nhost: "), "{raw}");
    assert!(raw.contains("\r\nauthorization: Bearer [redacted:authorization:"), "{raw}");
    assert!(!rows[1].to_string().contains("s3cret") && !raw.contains("s3cret"), "{raw}");
}

/// What the SDK's client has to say: `{"resource", "result" | "error"}`.
fn oauth_client(estate: &Path, url: &str) -> Value {
    json(Command::new(estate.join("venv/bin/python")).arg(repository("tests/estate/oauth_client.py")).arg(url))
}

fn oauth_server(estate: &Path, host: &str, port: u16, origin: &str, mode: &str) -> Running {
    let mut command = Command::new(estate.join("venv/bin/python"));
    command.arg(repository("tests/estate/oauth_server.py")).args([host, &port.to_string(), origin, mode]);
    Running::server(&mut command, &format!("{host}:{port}"))
}

#[test]
fn servers_that_ask_for_oauth_tokens_work_through_the_proxy() {
    let Some(estate) = estate() else {
        return skip("the estate is not installed: run tests/estate/setup");
    };
    let work = tempfile::tempdir().unwrap();
    let work = work.path();
    let data = work.join("data");
    let serve = Serve::start(&data);
    let into = ["--data", data.to_str().unwrap()];

    // Under the proxy's URL the client refuses metadata that names another resource.
    let port = free_port("127.0.0.1");
    let origin = format!("http://127.0.0.1:{port}");
    let server = oauth_server(&estate, "127.0.0.1", port, &origin, "lax");
    let plain = Running::proxy(&format!("{origin}/mcp"), "plain", &into, work);
    let said = oauth_client(&estate, &format!("{}/mcp", plain.origin));
    assert!(said["error"].as_str().is_some_and(|error| error.contains("does not match expected")), "{said}");
    plain.stop();

    // With the resource rewritten it works, as long as the server does not check the audience; sent to another server.
    let rewriting =
        Running::proxy(&format!("{origin}/mcp"), "rewriting", &["--to", &serve.url, "--rewrite-resource"], work);
    let said = oauth_client(&estate, &format!("{}/mcp", rewriting.origin));
    assert_eq!(said["result"], "door code is safe", "{said}");
    assert_eq!(said["resource"], format!("{}/mcp", rewriting.origin));
    rewriting.stop();
    drop(server);

    // Under the server's own name nothing needs to be rewritten, and a server that is strict is satisfied. `localhost`
    // stands for that name, 127.0.0.1 for what a hosts entry makes of it, 127.0.0.2 for where the server really is.
    let port = free_port("127.0.0.2");
    let origin = format!("http://localhost:{port}");
    let server = oauth_server(&estate, "127.0.0.2", port, &origin, "strict");
    let (listen, address) = (format!("127.0.0.1:{port}"), format!("127.0.0.2:{port}"));
    let own_name = Running::proxy(
        &format!("{origin}/mcp"),
        "own-name",
        &[&into[..], &["--listen", &listen, "--upstream-address", &address]].concat(),
        work,
    );
    let said = oauth_client(&estate, &format!("{origin}/mcp"));
    assert_eq!(said["result"], "door code is safe", "{said}");
    assert_eq!(said["resource"], format!("{origin}/mcp"));
    own_name.stop();
    drop(server);

    for name in ["rewriting", "own-name"] {
        let query = |what: &str| sql(&serve.url, &format!("select {what} limit 200"));
        let of = format!("from records where server_name = '{name}'");
        let call = query(&format!("arguments, credential_fingerprint {of} and kind = 'call'"));
        assert_eq!(call.len(), 1, "{name}: {call:?}");
        assert_eq!(call[0]["arguments"], r#"{"name":"door code"}"#);
        // A remote collector's fingerprints are the receiving server's to make.
        assert_eq!(call[0]["credential_fingerprint"].is_string(), name == "own-name");
        let results = query(&format!("result {of} and kind = 'result' and outcome = 'ok'"));
        assert!(results[0]["result"].as_str().unwrap().contains("door code is safe"), "{results:?}");
        let denied = query(&format!("kind {of} and transport_status = '401' and outcome = 'denied'"));
        let there = || {
            query(&format!(
                "kind, name, outcome, transport_status, error_type, target, origin_line, attributes {of} order by observed_time"
            ))
        };
        assert!(!denied.is_empty(), "{name}: the challenge is not in the store: {:#?}", there());
        let metadata = query(&format!("target {of} and kind = 'auth'"));
        assert!(!metadata.is_empty(), "{name}: the metadata is not in the store");
        // Neither codes nor tokens reach the store, in whichever column; what stands for them does.
        let said = "concat_ws(' ', cast(raw as varchar), text, attributes, target, arguments, result)";
        for (secret, is_there) in [("opaque-", false), ("code-", false), ("[redacted:", true)] {
            let found = query(&format!("kind, {said} as said {of} and {said} like '%{secret}%'"));
            assert_eq!(!found.is_empty(), is_there, "{name}: {secret}: {found:?}");
        }
    }
    serve.stop();
}
