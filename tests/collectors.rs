//! Collectors as processes of their own: how they end, and what they send to a server elsewhere.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Serve, json, ok, run, threadline};

/// How long an event is awaited that has to come. Reached only when the test fails.
const AWAITED: Duration = Duration::from_secs(120);

fn awaited<T>(what: &str, found: impl FnMut() -> Option<T>) -> T {
    crate::support::awaited(AWAITED, what, found)
}

/// The rows of a query.
fn sql(url: &str, query: &str) -> Vec<Vec<Value>> {
    let answer = json(threadline().args(["sql", "--format", "json", "--url", url, query]));
    answer["data"]["rows"].as_array().unwrap().iter().map(|row| row.as_array().unwrap().clone()).collect()
}

/// An MCP server that answers the first request and no other.
const ONE_ANSWER: &str = r#"read -r line; echo '{"jsonrpc":"2.0","id":1,"result":{}}'; exec cat >/dev/null"#;

/// A tap before that server.
fn tap(place: [&str; 2], server_name: &str) -> Child {
    tap_command(place, server_name).spawn().expect("the program starts")
}

fn tap_command(place: [&str; 2], server_name: &str) -> Command {
    let mut command = threadline();
    command.arg("tap").args(place).args(["--server-name", server_name, "--", "sh", "-c", ONE_ANSWER]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn call(id: u32) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"refund","arguments":{{"n":{id}}}}}}}"#
    )
}

/// Calls twice; the first is answered.
fn two_calls(tap: &mut Child) {
    let input = tap.stdin.as_mut().unwrap();
    writeln!(input, "{}", call(1)).unwrap();
    let mut answer = String::new();
    BufReader::new(tap.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();
    assert!(answer.contains("result"), "{answer}");
    writeln!(input, "{}", call(2)).unwrap();
}

fn calls_stored(url: &str, server_name: &str) -> u64 {
    let query = format!("select count(*) from records where kind = 'call' and server_name = '{server_name}'");
    sql(url, &query)[0][0].as_u64().unwrap()
}

fn gaps(url: &str, server_name: &str) -> Vec<Value> {
    let query = format!(
        "select attributes from records where kind = 'gap' and source_name = '{server_name}' and error_type = 'collector_ended'"
    );
    let attributes = |row: Vec<Value>| serde_json::from_str(row[0].as_str().unwrap()).unwrap();
    sql(url, &query).into_iter().map(attributes).collect()
}

fn data(path: &Path) -> [&str; 2] {
    ["--data", path.to_str().unwrap()]
}

#[test]
fn a_tap_that_is_killed_leaves_a_sign_and_one_that_ends_does_not() {
    let work = tempfile::tempdir().unwrap();
    let place = work.path().join("data");
    let serve = Serve::start(&place);
    let (mut killed, mut ended) = (tap(data(&place), "killed"), tap(data(&place), "ended"));
    for (tap, name) in [(&mut killed, "killed"), (&mut ended, "ended")] {
        two_calls(tap);
        awaited("the second call", || (calls_stored(&serve.url, name) == 2).then_some(()));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    drop(ended.stdin.take());
    assert!(ended.wait().unwrap().success());
    let gap = awaited("the sign of the killed tap", || gaps(&serve.url, "killed").pop());
    assert_eq!(gap["reason"], "collector ended without closing");
    assert_eq!((&gap["pending_calls"], &gap["pending"][0]["rpc_id"]), (&1.into(), &"2".into()), "{gap}");
    let last =
        sql(&serve.url, "select max(time_unix_nano) from records where server_name = 'killed' and kind = 'call'");
    assert!(gap["last_record_unix_nano"].as_i64() >= last[0][0].as_i64(), "{gap} {last:?}");
    let end = "select count(*) from records where source_name = 'ended' and name = 'exited'";
    awaited("the end of the other", || (sql(&serve.url, end)[0][0] == 1).then_some(()));
    awaited("both spools to go", || spools(&place).is_empty().then_some(()));
    assert_eq!(gaps(&serve.url, "ended"), Vec::<Value>::new());
    assert_eq!(gaps(&serve.url, "killed").len(), 1);
    serve.stop();
}

#[test]
fn an_import_beside_a_server_says_that_duplicates_are_found_later() {
    let work = tempfile::tempdir().unwrap();
    let (place, file) = (work.path().join("data"), work.path().join("a.jsonl"));
    std::fs::write(&file, "{\"id\":\"1\",\"kind\":\"log\"}\n").unwrap();
    let import = || {
        let mut command = threadline();
        command.args(["import", "--format", "json", "--data"]).arg(&place).arg(&file);
        let output = run(&mut command);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        (answer["data"][0]["duplicates"].clone(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let serve = Serve::start(&place);
    for _ in 0..2 {
        let (duplicates, said) = import();
        assert!(duplicates.is_null() && said.contains("finds the ones it knows already"), "{duplicates} {said}");
    }
    awaited("the drain", || (count(&serve.url, "kind = 'log'") == 1).then_some(()));
    // The same event by another way is the same event.
    let elsewhere = Elsewhere { state: &work.path().join("state"), url: &serve.url };
    let sent = run(threadline().arg("import").args(elsewhere.arguments()).arg(&file));
    let said = String::from_utf8_lossy(&sent.stderr);
    assert!(said.contains("1 known to the server already"), "{said}");
    serve.stop();
    let (duplicates, said) = import();
    assert!(duplicates == 1 && said.contains("1 known already"), "{duplicates} {said}");
}

#[test]
fn a_tap_whose_records_all_arrived_ends_without_a_word() {
    let place = tempfile::tempdir().unwrap();
    let serve = Serve::start(&place.path().join("data"));
    let state = place.path().join("state");
    // Several, because what sends and what removes the outbox end at about the same time.
    for _ in 0..12 {
        let mut command = tap_command(["--to", &serve.url], "orders");
        let mut tap = command.env("THREADLINE_STATE", &state).stderr(Stdio::piped()).spawn().unwrap();
        writeln!(tap.stdin.take().unwrap(), "{}", call(1)).unwrap();
        let output = tap.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
    }
    assert_eq!(calls_stored(&serve.url, "orders"), 12);
    serve.stop();
}

/// Names of the folders in the inbox.
fn spools(place: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(place.join("inbox")).unwrap().flatten();
    entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// What sends to a server elsewhere: where it keeps what waits, and where to.
struct Elsewhere<'a> {
    state: &'a Path,
    url: &'a str,
}

impl Elsewhere<'_> {
    fn arguments(&self) -> [&str; 4] {
        ["--state", self.state.to_str().unwrap(), "--to", self.url]
    }
}

/// A port to which a server can come back: below those that the kernel gives to whoever asks for any.
fn free_port() -> u16 {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 1000;
        let port = 20_000 + (std::process::id() % 10) as u16 * 1000 + step;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn serve_on(place: &Path, port: u16) -> Serve {
    Serve::start_listening(threadline().arg("serve").arg("--data").arg(place), &format!("127.0.0.1:{port}"))
}

/// An MCP server that answers every request.
const ANSWERS: &str =
    r#"while read -r line; do id=${line#*\"id\":}; echo "{\"jsonrpc\":\"2.0\",\"id\":${id%%,*},\"result\":{}}"; done"#;

fn remote_tap(elsewhere: &Elsewhere<'_>, server_name: &str) -> Child {
    let mut command = threadline();
    command.arg("tap").args(elsewhere.arguments()).args(["--server-name", server_name, "--", "sh", "-c", ANSWERS]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts")
}

/// Calls with these numbers, each answered before the next.
fn calls(tap: &mut Child, answers: &mut impl BufRead, numbers: std::ops::Range<u32>) {
    for number in numbers {
        writeln!(tap.stdin.as_mut().unwrap(), "{}", call(number)).unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        assert!(answer.contains(&format!("\"id\":{number},")), "{answer}");
    }
}

#[test]
fn a_server_that_is_killed_under_load_loses_nothing_of_two_taps_and_a_watch() {
    const CALLS: u32 = 150;
    let work = tempfile::tempdir().unwrap();
    let (place, state, folder) = (work.path().join("data"), work.path().join("state"), work.path().join("logs"));
    std::fs::create_dir(&folder).unwrap();
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}");
    let mut serve = serve_on(&place, port);
    let elsewhere = Elsewhere { state: &state, url: &url };
    let mut watch = threadline();
    watch.arg("watch").args(elsewhere.arguments()).arg(&folder).stdin(Stdio::null()).stderr(Stdio::null());
    let mut watch = watch.spawn().unwrap();
    let mut log = std::fs::File::create(folder.join("a.jsonl")).unwrap();
    let mut taps: Vec<_> = ["one", "two"]
        .map(|name| {
            let mut tap = remote_tap(&elsewhere, name);
            let answers = BufReader::new(tap.stdout.take().unwrap());
            (name, tap, answers)
        })
        .into_iter()
        .collect();
    for round in 0..3 {
        for number in round * CALLS / 3..(round + 1) * CALLS / 3 {
            for (_, tap, answers) in &mut taps {
                calls(tap, answers, number..number + 1);
            }
            writeln!(log, r#"{{"id":"line-{number}","kind":"log","source_name":"file"}}"#).unwrap();
        }
        // Wherever the senders are now.
        serve.child.kill().unwrap();
        serve.child.wait().unwrap();
        serve = serve_on(&place, port);
    }
    for (name, tap, _) in &mut taps {
        drop(tap.stdin.take());
        assert!(tap.wait().unwrap().success(), "{name}");
    }
    awaited("the lines of the file", || (count(&url, "source_name = 'file'") == u64::from(CALLS)).then_some(()));
    terminate(&mut watch);
    // What a tap could not send before its end goes with the next command, wherever it reads.
    std::fs::write(folder.join("b.jsonl"), "{\"id\":\"last\",\"kind\":\"log\",\"source_name\":\"file\"}\n").unwrap();
    for name in ["one", "two"] {
        awaited("every call and its result", || {
            let kind = |kind| count(&url, &format!("server_name = '{name}' and kind = '{kind}'"));
            if (kind("call"), kind("result")) == (u64::from(CALLS), u64::from(CALLS)) {
                return Some(());
            }
            ok(threadline().arg("import").args(elsewhere.arguments()).arg(folder.join("b.jsonl")));
            None
        });
        let numbers =
            format!("select count(distinct rpc_id) from records where server_name = '{name}' and kind = 'call'");
        assert_eq!(sql(&url, &numbers)[0][0], CALLS);
    }
    assert_eq!(count(&url, "kind = 'gap'"), 0, "nothing was lost, and nothing says so");
    sources_know(&url);
    serve.stop();
}

fn count(url: &str, condition: &str) -> u64 {
    sql(url, &format!("select count(*) from records where {condition}"))[0][0].as_u64().unwrap()
}

fn terminate(child: &mut Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Every source is listed with its collector, and what ended is not expected to speak.
fn sources_know(url: &str) {
    let answer = json(threadline().args(["sources", "--format", "json", "--url", url]));
    let of = |name: &str| {
        let found = answer["data"].as_array().unwrap().iter().find(|source| source["source_name"] == name);
        found.unwrap_or_else(|| panic!("{name} is not in {answer}")).clone()
    };
    let (one, two, file) = (of("one"), of("two"), of("file"));
    assert_eq!(
        (&one["state"], &one["collector"], &one["source_kind"]),
        (&"ended".into(), &"tap".into(), &"wire".into())
    );
    assert!(one["collector_id"].is_string() && one["collector_id"] == two["collector_id"], "{one} {two}");
    assert_eq!(one["collector_version"], env!("CARGO_PKG_VERSION"));
    assert!(one["records"].as_u64() > Some(300) && one["last_hour"] == one["records"], "{one}");
    assert!(file["records"].as_u64() >= Some(150), "{file}");
}

#[test]
fn an_outbox_that_was_deleted_between_two_runs_is_a_gap_with_its_count() {
    let work = tempfile::tempdir().unwrap();
    let (place, state, file) = (work.path().join("data"), work.path().join("state"), work.path().join("a.jsonl"));
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}");
    let elsewhere = Elsewhere { state: &state, url: &url };
    std::fs::write(&file, "{\"id\":\"1\",\"kind\":\"log\"}\n{\"id\":\"2\",\"kind\":\"log\"}\n").unwrap();
    // Nobody is there: killed while it waits, so that it cannot say anything more.
    let mut import = threadline();
    import.arg("import").args(elsewhere.arguments()).arg(&file).stderr(Stdio::null()).stdout(Stdio::null());
    let mut import = import.spawn().unwrap();
    let waiting = || {
        let said = run(threadline().args(["doctor", "--data"]).arg(&place).env("THREADLINE_STATE", &state));
        String::from_utf8_lossy(&said.stdout).contains("2 records for").then_some(())
    };
    awaited("doctor to name what waits", waiting);
    import.kill().unwrap();
    import.wait().unwrap();
    std::fs::remove_dir_all(state.join("outbox")).unwrap();
    let serve = serve_on(&place, port);
    std::fs::write(&file, "{\"id\":\"3\",\"kind\":\"log\"}\n").unwrap();
    ok(threadline().arg("import").args(elsewhere.arguments()).arg(&file));
    let gap = sql(&url, "select error_type, source_name, attributes from records where kind = 'gap'");
    assert_eq!(gap.len(), 1, "{gap:?}");
    assert_eq!((&gap[0][0], &gap[0][1]), (&"lost_in_transit".into(), &"import".into()));
    let attributes: Value = serde_json::from_str(gap[0][2].as_str().unwrap()).unwrap();
    assert_eq!((&attributes["records"], &attributes["from"], &attributes["to"]), (&2.into(), &0.into(), &1.into()));
    let answer = json(threadline().args(["sources", "--format", "json", "--url", &url]));
    let import = answer["data"].as_array().unwrap().iter().find(|source| source["source_name"] == "import").unwrap();
    assert_eq!((&import["gaps"], &import["dropped"]), (&1.into(), &2.into()), "{import}");
    serve.stop();
}

/// A certificate for this machine and the authority that signed it, as files.
fn certificate(folder: &Path) -> [std::path::PathBuf; 3] {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_string(), "127.0.0.1".to_string()];
    let own = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let files = ["ca.pem", "cert.pem", "key.pem"].map(|name| folder.join(name));
    std::fs::write(&files[0], authority_certificate.pem()).unwrap();
    std::fs::write(&files[1], own.pem()).unwrap();
    std::fs::write(&files[2], key.serialize_pem()).unwrap();
    files
}

#[test]
fn beyond_this_machine_a_collector_needs_its_token_and_speaks_tls() {
    let work = tempfile::tempdir().unwrap();
    let place = work.path().join("data");
    let [authority, certificate, key] = certificate(work.path());
    let server_token = work.path().join("server-token");
    std::fs::write(&server_token, "0123456789abcdef-server").unwrap();
    let made = |name: &str| {
        let file = work.path().join(name);
        std::fs::write(&file, ok(threadline().args(["token", "add", name, "--data"]).arg(&place))).unwrap();
        file
    };
    let (laptop, revoked) = (made("laptop"), made("revoked"));
    let mut command = threadline();
    command.arg("serve").arg("--data").arg(&place).arg("--tls-cert").arg(&certificate).arg("--tls-key").arg(&key);
    // All interfaces, so that it counts as reachable; asked by loopback.
    let serve = Serve::start_listening(command.arg("--token-file").arg(&server_token), "0.0.0.0:0");
    let url = serve.url.replace("0.0.0.0", "127.0.0.1");
    assert!(url.starts_with("https://"), "{url}");
    ok(threadline().args(["token", "revoke", "revoked", "--data"]).arg(&place));
    let listed = ok(threadline().args(["token", "list", "--format", "json", "--data"]).arg(&place));
    let secret = std::fs::read_to_string(&laptop).unwrap();
    assert!(listed.contains("laptop") && !listed.contains("revoked") && !listed.contains(secret.trim()), "{listed}");

    let file = work.path().join("a.jsonl");
    std::fs::write(&file, "{\"id\":\"1\",\"kind\":\"log\"}\n").unwrap();
    let import = |state: &str, token: Option<&Path>, ca: bool| {
        let mut command = threadline();
        command.args(["import", "--to", &url, "--state"]).arg(work.path().join(state)).arg(&file);
        token.map(|token| command.arg("--token-file").arg(token));
        if ca {
            command.arg("--ca").arg(&authority);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    // Three that cannot: no token, one that was revoked, a certificate that nobody vouches for. They keep trying.
    let failing = [import("none", None, true), import("old", Some(&revoked), true), import("ca", Some(&laptop), false)];
    let sent = import("sent", Some(&laptop), true).wait_with_output().unwrap();
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    for failing in failing {
        let output = failing.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(7), "{said}");
        assert!(said.contains("wait on this disk") && !said.contains(secret.trim()), "{said}");
    }
    let on = |token: &Path| {
        let mut command = threadline();
        command.args(["sql", "select count(*) from records", "--format", "json", "--url", &url, "--ca"]);
        run(command.arg(&authority).arg("--token-file").arg(token))
    };
    let refused = on(&laptop);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("(401)"), "a collector reads nothing");
    let answer: Value = serde_json::from_slice(&on(&server_token).stdout).unwrap();
    assert_eq!(answer["data"]["rows"][0][0], 1);
    serve.stop();
}

#[test]
fn a_wrong_token_is_a_problem_in_json() {
    let work = tempfile::tempdir().unwrap();
    let place = work.path().join("data");
    ok(threadline().args(["token", "add", "laptop", "--data"]).arg(&place));
    let serve = Serve::start(&place);
    let address = serve.url.strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let body = r#"{"kind":"log"}"#;
    write!(
        stream,
        "POST /api/v1/events HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer tlc_wrong\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(answer.to_lowercase().contains("content-type: application/problem+json"), "{answer}");
    assert!(answer.contains("this token is not one of a collector"), "{answer}");
    serve.stop();
}
