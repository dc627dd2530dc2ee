//! Collectors as processes of their own: how they end, and what they send to a server elsewhere.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Serve, json, threadline};

/// How long an event is awaited that has to come. Reached only when the test fails.
const AWAITED: Duration = Duration::from_secs(120);

/// Asks again and again until `found` says what was looked for.
fn awaited<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(start.elapsed() < AWAITED, "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
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

/// Names of the folders in the inbox.
fn spools(place: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(place.join("inbox")).unwrap().flatten();
    entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
