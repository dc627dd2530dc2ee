//! Delivery as one receiver sees it: order, what it asks for, what it refuses, and where we may not connect to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Stopped, certificates, configured};
use crate::support::{EVENTS_BEGIN, import, import_events, json, ndjson, ok, run, skip, threadline};

const SESSIONS: u64 = 5;

/// What came in one request, and when.
struct Got {
    at: Instant,
    numbers: Vec<u64>,
    is_taken: bool,
}

/// A receiver of webhooks that answers as it is told.
struct Receiver {
    port: u16,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    /// `answer` says, by the number of the request from 0 and the numbers of its events, the status line and headers.
    fn start(answer: impl Fn(usize, &[u64]) -> String + Send + 'static) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&got);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let at = Instant::now();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut line, mut length) = (String::new(), 0);
                while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                if reader.read_exact(&mut body).is_err() {
                    continue;
                }
                let events: Vec<Value> = serde_json::from_slice(&body).unwrap_or_default();
                let numbers: Vec<u64> =
                    events.iter().map(|event| event["time"].as_u64().unwrap() - EVENTS_BEGIN).collect();
                let said = {
                    let mut got = kept.lock().unwrap();
                    let said = answer(got.len(), &numbers);
                    got.push(Got { at, numbers, is_taken: said == TAKEN });
                    said
                };
                // Whoever is killed meanwhile does not hear it.
                let _sent = write!(stream, "HTTP/1.1 {said}content-length: 0\r\nconnection: close\r\n\r\n");
            }
        });
        Receiver { port, got }
    }

    fn requests(&self) -> usize {
        self.got.lock().unwrap().len()
    }
}

const TAKEN: &str = "204 No Content\r\n";

fn webhook(folder: &Path, url: &str, more: &str) -> PathBuf {
    std::fs::write(folder.join("secret"), "whsec_YSBzZWNyZXQgb2YgYXQgbGVhc3QgMjQgYnl0ZXM=\n").unwrap();
    let text = format!(
        "[[sink]]\nname = \"hook\"\ntype = \"webhook\"\nurl = \"{url}\"\nsecret = {{ file = \"secret\" }}\n\
         result_wait_s = 0\nretry_max_s = 1\nlinger_ms = 20\nkinds = [\"log\"]\n{more}\n"
    );
    configured(folder, &text)
}

fn forwarder(config: &Path, data: &Path) -> Stopped {
    let mut command = threadline();
    command.args(["forward", "run", "--config"]).arg(config).arg("--data").arg(data);
    Stopped(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

fn until(data: &Path, name: &str, reached: impl Fn(&Value) -> bool) -> Value {
    let status = || {
        let all = json(threadline().args(["forward", "status", "--format", "json", "--data"]).arg(data));
        all["data"].as_array().unwrap().iter().find(|sink| sink["name"] == name).cloned().unwrap_or_default()
    };
    // Bounded by the number of looks, each a process; the outcome alone is judged.
    (0..600).map(|_| status()).find(|sink| reached(sink)).unwrap_or_else(|| panic!("{name}: {}", status()))
}

fn is_done(sink: &Value) -> bool {
    sink["lag_rows"] == 0
}

#[test]
fn events_of_a_session_come_in_order_though_requests_fail() {
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    // Some are refused for now, some are taken and answered as if they were not.
    let receiver = Receiver::start(|request, _| match request % 5 {
        1 => "500 Internal Server Error\r\n".into(),
        3 => "503 Service Unavailable\r\n".into(),
        _ => TAKEN.into(),
    });
    let config = webhook(
        work.path(),
        &format!("http://127.0.0.1:{}/", receiver.port),
        "allow_private = true\nbatch_events = 37",
    );
    import_events(&data, 0..300, SESSIONS);
    let mut running = forwarder(&config, &data);
    for part in 1..5 {
        import_events(&data, part * 300..(part + 1) * 300, SESSIONS);
        if part % 2 == 0 {
            drop(running);
            running = forwarder(&config, &data);
        }
    }
    until(&data, "hook", is_done);
    let got = receiver.got.lock().unwrap();
    let mut seen = BTreeSet::new();
    let mut by_session: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (index, Got { numbers, .. }) in got.iter().enumerate() {
        // What was taken though the answer says otherwise counts where it came first.
        if index % 5 != 1 {
            let new = numbers.iter().copied().filter(|number| seen.insert(*number));
            new.for_each(|number| by_session.entry(number % SESSIONS).or_default().push(number));
        }
    }
    assert_eq!(seen, (0..1500).collect());
    assert!(by_session.values().all(|numbers| numbers.is_sorted()), "{by_session:?}");
    assert!(got.len() > 1500 / 37, "requests were repeated");
    drop(running);
}

#[test]
fn a_receiver_that_says_when_to_come_again_is_heard() {
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    let receiver = Receiver::start(|request, _| match request {
        0 => "429 Too Many Requests\r\nretry-after: 3\r\n".into(),
        _ => TAKEN.into(),
    });
    // Without being heard it would come again within a second.
    let config = webhook(work.path(), &format!("http://127.0.0.1:{}/", receiver.port), "allow_private = true");
    import_events(&data, 0..10, SESSIONS);
    let _running = forwarder(&config, &data);
    let status = until(&data, "hook", is_done);
    assert_eq!((&status["sent"], &status["retries"]), (&10.into(), &1.into()), "{status}");
    let got = receiver.got.lock().unwrap();
    assert_eq!(got.len(), 2);
    let pause = got[1].at - got[0].at;
    assert!(pause >= Duration::from_secs(3), "{pause:?}");
}

#[test]
fn full_dead_letters_stop_the_sink_and_a_replay_makes_room() {
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    let is_mended = Arc::new(Mutex::new(false));
    let mended = Arc::clone(&is_mended);
    // Multiples of three are refused, until somebody mends the receiver.
    let receiver = Receiver::start(move |_, numbers| {
        let is_refused = numbers.iter().any(|number| number % 3 == 0) && !*mended.lock().unwrap();
        if is_refused { "400 Bad Request\r\n".into() } else { TAKEN.into() }
    });
    let text = std::fs::read_to_string(webhook(
        work.path(),
        &format!("http://127.0.0.1:{}/", receiver.port),
        "allow_private = true\nbatch_events = 8\ndead_letter_bytes_max = 4096",
    ))
    .unwrap();
    let config = configured(
        work.path(),
        &format!("{text}[[sink]]\nname = \"lines\"\ntype = \"file\"\npath = \"out\"\nkinds = [\"log\"]\n"),
    );
    import_events(&data, 0..90, SESSIONS);
    let running = forwarder(&config, &data);
    let stopped = until(&data, "hook", |sink| sink["state"] == "stopped");
    assert!(stopped["reason"].as_str().unwrap().contains("dead letters"), "{stopped}");
    let letters = stopped["dead_letters"].as_u64().unwrap();
    assert!(letters > 3 && letters < 30, "{stopped}");
    assert!(std::fs::metadata(data.join("forward/hook/dead.jsonl")).unwrap().len() <= 4096);
    assert!(stopped["newest_dead_letters"][0]["reason"].as_str().unwrap().contains("400"), "{stopped}");
    // Others go on.
    import_events(&data, 90..120, SESSIONS);
    until(&data, "lines", |sink| sink["sent"] == 120);
    drop(running);

    // Still full: it stops at the same event, and nothing is passed over.
    let running = forwarder(&config, &data);
    until(&data, "lines", |sink| sink["state"] == "idle");
    assert_eq!(until(&data, "hook", |sink| sink["state"] == "stopped")["version"], stopped["version"]);
    drop(running);

    // A process that does nothing else replays as well; what is refused again is a dead letter again.
    let again = ["forward", "replay", "--sink", "hook", "--dead-letters", "--config"];
    let replay = || {
        let output = run(threadline().args(again).arg(&config).arg("--data").arg(&data));
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = replay();
    assert!(said.contains("0 events sent again to hook"), "{said}");
    let _running = forwarder(&config, &data);
    until(&data, "hook", |sink| sink["state"] == "stopped");
    // One that is running does it itself: first in vain, then with room for the rest, without a restart.
    let said = replay();
    assert!(said.contains("the process that forwards to hook"), "{said}");
    let asked = data.join("forward/hook/replay.json");
    until(&data, "hook", |sink| sink["state"] == "stopped" && !asked.exists());
    *is_mended.lock().unwrap() = true;
    replay();
    let done = until(&data, "hook", is_done);
    assert_eq!(done["dead_letters"], 0, "{done}");
    let got = receiver.got.lock().unwrap();
    let last: BTreeSet<u64> =
        got.iter().filter(|got| got.is_taken).flat_map(|got| got.numbers.iter().copied()).collect();
    assert_eq!(last, (0..120).collect());
}

#[test]
fn an_event_that_is_not_valid_is_kept_back_until_it_can_be_sent() {
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    let path = work.path().join("events.jsonl");
    let mut file = std::fs::File::create(&path).unwrap();
    for number in 0..40u64 {
        let time = (EVENTS_BEGIN + number) * 1_000_000;
        // Names are never cut away; together these are longer than an event of this sink may be.
        let name = if number == 20 { "n".repeat(500) } else { "n".into() };
        writeln!(
            file,
            r#"{{"id":"{number}","kind":"call","tool_name":"{name}","server_name":"s{name}","tool_call_id":"i{name}","conversation_id":"c{name}","source_name":"a{name}","time_unix_nano":{time}}}"#
        )
        .unwrap();
    }
    import(&data, &path);
    let text = |bytes: u32| {
        format!(
            "[[sink]]\nname = \"lines\"\ntype = \"file\"\npath = \"out\"\nkinds = [\"call\"]\nresult_wait_s = 0\n\
             event_bytes_max = {bytes}\n"
        )
    };
    let config = configured(work.path(), &text(3000));
    let running = forwarder(&config, &data);
    // A call is told once its answer did not come.
    let status = until(&data, "lines", |sink| sink["sent"] == 39);
    assert_eq!((&status["sent"], &status["quarantined"], &status["dead_letters"]), (&39.into(), &1.into(), &1.into()));
    let letter = &status["newest_dead_letters"][0];
    assert_eq!(letter["why"], "invalid", "{letter}");
    assert!(!letter.to_string().contains("nnn"), "reasons hold no content: {letter}");
    drop(running);
    let replay = || {
        let again = ["forward", "replay", "--sink", "lines", "--dead-letters", "--config"];
        ok(threadline().args(again).arg(&config).arg("--data").arg(&data));
        until(&data, "lines", is_done)
    };
    // As it is, it is kept back again.
    assert_eq!(replay()["dead_letters"], 1);
    configured(work.path(), &text(100_000));
    let status = replay();
    assert_eq!((&status["sent"], &status["dead_letters"]), (&40.into(), &0.into()), "{status}");
    let lines = ndjson(&std::fs::read_to_string(work.path().join("out/lines.jsonl")).unwrap());
    let numbers: BTreeSet<u64> = lines.iter().map(|event| event["time"].as_u64().unwrap() - EVENTS_BEGIN).collect();
    assert_eq!(numbers, (0..40).collect());
}

#[test]
fn private_addresses_are_not_connected_to_by_address_by_name_or_by_redirect() {
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    import_events(&data, 0..10, SESSIONS);
    let hidden = Receiver::start(|_, _| TAKEN.into());
    let port = hidden.port;
    // By address, however it is spelt: the configuration is refused.
    for host in ["127.0.0.1", "2130706433", "0x7f.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        let config = webhook(work.path(), &format!("http://{host}:{port}/"), "allow_plain = true");
        let output = run(threadline().args(["forward", "run", "--config"]).arg(&config).arg("--data").arg(&data));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("private address"), "{host}: {said}");
    }
    // By name: when it is resolved.
    for host in ["localhost", "LOCALHOST"] {
        let config = webhook(work.path(), &format!("http://{host}:{port}/"), "allow_plain = true");
        let running = forwarder(&config, &data);
        let status = until(&data, "hook", |sink| sink["state"] == "retrying");
        assert!(status["reason"].as_str().unwrap().contains("allow_private"), "{host}: {status}");
        drop(running);
    }
    // By redirect: from a receiver that may be connected to.
    let redirects = Receiver::start(move |_, _| {
        format!("307 Temporary Redirect\r\nlocation: http://127.0.0.1:{port}/latest/meta-data\r\n")
    });
    let config = webhook(work.path(), &format!("http://127.0.0.1:{}/", redirects.port), "allow_private = true");
    let running = forwarder(&config, &data);
    let status = until(&data, "hook", |sink| {
        sink["reason"].as_str().is_some_and(|reason| reason.contains("redirects are not followed"))
    });
    assert_eq!(status["sent"], 0);
    assert!(redirects.requests() > 0);
    drop(running);
    // What the environment says of proxies does not count.
    let config = webhook(work.path(), "http://localhost.example:9/", "allow_plain = true");
    let mut command = threadline();
    let proxy = format!("http://127.0.0.1:{port}");
    command.args(["forward", "run", "--config"]).arg(&config).arg("--data").arg(&data);
    command.envs(["http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"].map(|name| (name, &proxy)));
    let running = Stopped(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    until(&data, "hook", |sink| sink["reason"].as_str().is_some_and(|reason| reason.contains("resolved")));
    drop(running);
    assert_eq!(hidden.requests(), 0, "nothing came where nothing may go");
}

#[test]
fn a_syslog_receiver_that_wants_to_know_us_gets_our_certificate() {
    if !Path::new("/usr/sbin/rsyslogd").exists() {
        return skip("no rsyslogd: apt-get install rsyslog rsyslog-openssl");
    }
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    import_events(&data, 0..50, SESSIONS);
    let [ca, cert, key] = certificates(work.path());
    let other = work.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let [_, foreign_cert, foreign_key] = certificates(&other);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let folder = work.path().display();
    let text = format!(
        r#"global(workDirectory="{folder}" DefaultNetstreamDriver="ossl" DefaultNetstreamDriverCAFile="{}"
  DefaultNetstreamDriverCertFile="{}" DefaultNetstreamDriverKeyFile="{}" maxMessageSize="64k")
main_queue(queue.type="Direct")
module(load="imtcp" StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="x509/certvalid")
template(name="event" type="string" string="%msg%\n")
ruleset(name="keep" queue.type="Direct") {{ action(type="omfile" file="{folder}/out" template="event" asyncWriting="off") }}
input(type="imtcp" port="{port}" address="127.0.0.1" ruleset="keep")
"#,
        ca.display(),
        cert.display(),
        key.display()
    );
    std::fs::write(work.path().join("rsyslog.conf"), text).unwrap();
    let mut rsyslogd = Command::new("/usr/sbin/rsyslogd");
    rsyslogd.arg("-n").arg("-f").arg(work.path().join("rsyslog.conf")).arg("-i").arg(work.path().join("pid"));
    let _receiver = Stopped(rsyslogd.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let sink = |own: &str| {
        let common =
            "type = \"syslog\"\nhost = \"localhost\"\nallow_private = true\nresult_wait_s = 0\nretry_max_s = 1\n";
        let text = format!("[[sink]]\nname = \"log\"\n{common}port = {port}\nca = {ca:?}\nkinds = [\"log\"]\n{own}");
        configured(work.path(), &text)
    };
    let refused = [String::new(), format!("client_cert = {foreign_cert:?}\nclient_key = {foreign_key:?}\n")];
    for own in refused {
        let running = forwarder(&sink(&own), &data);
        let status = until(&data, "log", |sink| sink["state"] == "retrying" && sink["retries"].as_u64() > Some(1));
        assert_eq!(status["sent"], 0, "{own}: {status}");
        drop(running);
    }
    let _running = forwarder(&sink(&format!("client_cert = {cert:?}\nclient_key = {key:?}\n")), &data);
    until(&data, "log", is_done);
    let lines = ndjson(&std::fs::read_to_string(work.path().join("out")).unwrap());
    let numbers: BTreeSet<u64> = lines.iter().map(|event| event["time"].as_u64().unwrap() - EVENTS_BEGIN).collect();
    assert_eq!(numbers, (0..50).collect());
}
