//! Forwarding with the whole program: real processes that are killed, a real rsyslogd over TLS, Parquet read by others.
//!
//! `tests/forward/chaos.py` kills the forwarder and its receivers at random while events are recorded; receivers that cannot be
//! had as packages are stand-ins that keep the protocol, its limits and its way of losing things (`receiver.py` says which).
//! `THREADLINE_FORWARD_SECONDS` and `_SEED` set other runs; `tests/soak/forward` runs five minutes per receiver.

mod delivery;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{import, json, ndjson, ok, repository, run, skip, threadline};

/// Seconds of killing in the ordinary run.
const SECONDS: &str = "30";

/// The Python that reads Parquet, as `tests/estate/setup target/estate siem` made it.
fn estate() -> PathBuf {
    std::env::var_os("THREADLINE_ESTATE").map_or_else(|| repository("target/estate"), PathBuf::from)
}

fn python() -> Option<PathBuf> {
    let estate = estate();
    estate.join("installed-siem").exists().then(|| estate.join("siem/venv/bin/python"))
}

fn configured(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("forward.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// A certificate authority and a certificate of `localhost`, in files.
fn certificates(folder: &Path) -> [PathBuf; 3] {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    // A certificate whose issuer has its own name counts as self-signed.
    authority.distinguished_name.push(rcgen::DnType::CommonName, "authority of the test");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let signed = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &issuer).unwrap();
    let parts = [("ca.pem", signed.pem()), ("cert.pem", own.pem()), ("key.pem", key.serialize_pem())];
    parts.map(|(name, text)| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    })
}

#[test]
fn killed_at_random_every_committed_event_is_delivered_and_none_is_invented() {
    let folder = tempfile::tempdir().unwrap();
    let [ca, cert, key] = certificates(folder.path());
    let seconds = std::env::var("THREADLINE_FORWARD_SECONDS").unwrap_or_else(|_| SECONDS.into());
    let seed = std::env::var("THREADLINE_FORWARD_SEED").unwrap_or_else(|_| "1".into());
    let mut chaos = Command::new("python3");
    chaos.arg("-B").arg(repository("tests/forward/chaos.py")).args(["--program", env!("CARGO_BIN_EXE_threadline")]);
    chaos.args(["--seconds", &seconds, "--seed", &seed]);
    let mut kinds = vec!["file", "hec", "elastic", "webhook", "otlp"];
    match python() {
        Some(python) => {
            chaos.arg("--python").arg(python);
            kinds.push("lake");
        }
        None => skip("no pyarrow: `tests/estate/setup target/estate siem`; the lake is not among the receivers"),
    }
    if Path::new("/usr/sbin/rsyslogd").exists() {
        chaos.arg("--tls").args([ca, cert, key]);
        kinds.push("syslog");
    } else {
        skip("no rsyslogd: apt-get install rsyslog rsyslog-openssl; syslog is not among the receivers");
    }
    let output = run(chaos.args(kinds));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    println!("{said}");
}

/// A real node takes a quarter of a minute to start, so it has a test of its own.
#[test]
fn a_search_node_that_is_killed_has_every_committed_event_once() {
    let jars = estate().join("siem/opensearch");
    if !jars.is_dir() {
        return skip("no OpenSearch: java, mvn and `tests/estate/setup target/estate siem` are needed");
    }
    let mut chaos = Command::new("python3");
    chaos.arg("-B").arg(repository("tests/forward/chaos.py")).args(["--program", env!("CARGO_BIN_EXE_threadline")]);
    let output = run(chaos.args(["--seconds", "20", "--opensearch"]).arg(jars).arg("opensearch"));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert!(said.contains(" 0 of them again"), "an id is in the index once: {said}");
    println!("{said}");
}

/// S3Proxy is a server that people run: it checks signatures and keeps objects as files. SeaweedFS, RustFS and Garage come
/// from the registries as source that takes many minutes to build; Ceph and Ozone want a cluster.
#[test]
fn the_lake_in_a_bucket_is_the_lake_in_a_folder() {
    let jars = estate().join("siem/s3proxy");
    let Some(python) = python().filter(|_| jars.is_dir()) else {
        return skip("no S3Proxy: java, mvn and `tests/estate/setup target/estate siem` are needed");
    };
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    import(&data, &repository("tests/captures/pysdk-memory-stdio"));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let objects = work.path().join("objects");
    std::fs::create_dir(&objects).unwrap();
    let properties = format!(
        "s3proxy.endpoint=http://127.0.0.1:{port}\ns3proxy.authorization=aws-v4\ns3proxy.identity=testing\n\
         s3proxy.credential=testing\njclouds.provider=filesystem-nio2\njclouds.identity=local\njclouds.credential=local\n\
         jclouds.filesystem.basedir={}\n",
        objects.display()
    );
    std::fs::write(work.path().join("s3proxy.properties"), properties).unwrap();
    let mut server = Command::new("java");
    let log = format!("-Dlogback.configurationFile={}", repository("tests/forward/s3proxy/logback.xml").display());
    server.args(["-Xmx256m", &log, "-cp"]).arg(jars.join("*")).args(["org.gaul.s3proxy.Main", "--properties"]);
    server.arg(work.path().join("s3proxy.properties")).stdout(std::process::Stdio::null());
    let _server = Stopped(server.spawn().unwrap());
    std::fs::write(work.path().join("key"), "testing\n").unwrap();
    let common = "region = \"eu-test-1\"\naccount = \"123456789012\"\nresult_wait_s = 0\nallow_private = true\n";
    let text = format!(
        "[[sink]]\nname = \"folder\"\ntype = \"security_lake\"\npath = \"lake\"\n{common}\
         [[sink]]\nname = \"bucket\"\ntype = \"security_lake\"\nbucket = \"lake\"\nendpoint = \"http://127.0.0.1:{port}\"\n\
         access_key_id = {{ file = \"key\" }}\nsecret_access_key = {{ file = \"key\" }}\n{common}"
    );
    let config = configured(work.path(), &text);
    let s3 = |what: &str| {
        let mut command = Command::new(&python);
        ok(command
            .arg("-B")
            .arg(repository("tests/forward/s3.py"))
            .args([what, &port.to_string()])
            .arg(work.path().join("got")))
    };
    s3("make");
    for sink in ["folder", "bucket"] {
        let replay = ["forward", "replay", "--sink", sink, "--from-version", "0", "--config"];
        ok(threadline().args(replay).arg(&config).arg("--data").arg(&data));
    }
    s3("get");
    let files = |root: &str| {
        let mut listed = Command::new("sh");
        ok(listed.args(["-c", "find ext -type f | sort | xargs sha256sum"]).current_dir(work.path().join(root)))
    };
    assert!(!files("lake").is_empty());
    assert_eq!(files("got"), files("lake"));
}

#[test]
fn the_lake_is_read_by_duckdb_and_pyarrow_with_its_partitions_and_schema() {
    let Some(python) = python() else {
        return skip("no DuckDB and pyarrow: `tests/estate/setup target/estate siem`");
    };
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    import(&data, &repository("tests/captures/claude-code"));
    let text = "[[sink]]\nname = \"lake\"\ntype = \"security_lake\"\nregion = \"eu-test-1\"\naccount = \"123456789012\"\n\
                path = \"lake\"\nresult_wait_s = 0\n";
    let config = configured(work.path(), text);
    let replay = ["forward", "replay", "--sink", "lake", "--from-version", "0", "--config"];
    ok(threadline().args(replay).arg(&config).arg("--data").arg(&data));
    let mut reader = Command::new(python);
    let said = json(reader.arg("-B").arg(repository("tests/forward/read_lake.py")).arg(work.path().join("lake")));
    let stored = ndjson(&ok(threadline().args(["export", "range", "--data"]).arg(&data)));
    let stored: std::collections::BTreeSet<&str> =
        stored.iter().map(|record| record["event_id"].as_str().unwrap()).collect();
    let told: std::collections::BTreeSet<&str> =
        said["told"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(told, stored);
    assert_eq!(said["wrong"], serde_json::json!([]));
    assert!(said["files"].as_u64().unwrap() > 1, "{}", said["files"]);
}

#[test]
fn a_trial_shows_every_kind_and_sends_one_sample() {
    let work = tempfile::tempdir().unwrap();
    let sinks = ["1.8.0", "1.5.0", "1.3.0", "1.1.0"].map(|v| {
        format!(
            "[[sink]]\nname = \"f{}\"\ntype = \"file\"\npath = \"out\"\nocsf_version = \"{v}\"\n",
            v.replace('.', "")
        )
    });
    let config = configured(work.path(), &sinks.concat());
    let tried = json(threadline().args(["forward", "test", "--send", "--format", "json", "--config"]).arg(&config));
    let rows = tried["data"].as_array().unwrap();
    let count = |verdict: &str| rows.iter().filter(|row| row["verdict"] == verdict).count();
    assert_eq!(count("delivered"), 4);
    assert_eq!(count("ok"), rows.len() - 4);
    // Nobody takes what was sent for evidence.
    for file in std::fs::read_dir(work.path().join("out")).unwrap() {
        let sent = ndjson(&std::fs::read_to_string(file.unwrap().path()).unwrap());
        assert!(sent[0]["metadata"]["labels"].as_array().unwrap().contains(&"threadline.test".into()), "{}", sent[0]);
        assert!(sent[0]["metadata"]["uid"].as_str().unwrap().starts_with("threadline-test-"), "{}", sent[0]);
    }
    // What a sink needs and has not is found before anything is sent.
    std::fs::write(work.path().join("empty.pem"), "no certificate\n").unwrap();
    for (own, reason) in [
        ("type = \"webhook\"\nurl = \"https://hook.example/\"\nsecret = { file = \"nowhere\" }\n", "cannot read"),
        ("type = \"otlp\"\nurl = \"https://otlp.example/\"\nca = \"empty.pem\"\n", "holds no PEM certificates"),
        ("type = \"syslog\"\nhost = \"log.example\"\nca = \"empty.pem\"\n", "cannot read PEM certificates"),
    ] {
        let config = configured(work.path(), &format!("[[sink]]\nname = \"a\"\n{own}"));
        let output = run(threadline().args(["forward", "test", "--config"]).arg(&config));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && said.contains(reason), "{own}: {said}");
    }
    assert!(count("ok") >= 4 * threadline_schemas::Kind::ALL.len());
    assert_eq!(std::fs::read_dir(work.path().join("out")).unwrap().count(), 4);

    let broken =
        configured(work.path(), "[[sink]]\nname = \"a\"\ntype = \"file\"\nkinds = [\"x\"]\nbatch_events = 0\n");
    let output = run(threadline().args(["forward", "run", "--config"]).arg(&broken).arg("--data").arg(work.path()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("path"), "{said}");
}

/// Minutes of it in tests/soak/forward.
#[test]
fn ingest_keeps_its_rate_while_a_receiver_is_away_and_while_it_is_caught_up_with() {
    let mut away = Command::new("python3");
    away.arg("-B").arg(repository("tests/forward/away.py")).args(["--program", env!("CARGO_BIN_EXE_threadline")]);
    let output = run(away.args(["--seconds", "24", "--rate", "200"]));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    println!("{said}");
}

/// What `forward status` says of a sink.
fn status(data: &Path, name: &str) -> Value {
    let all = json(threadline().args(["forward", "status", "--format", "json", "--data"]).arg(data));
    all["data"].as_array().unwrap().iter().find(|sink| sink["name"] == name).cloned().unwrap_or_default()
}

/// The status once it is as wanted. Bounded by the number of looks, each a process; the outcome alone is judged.
fn until(data: &Path, name: &str, reached: &dyn Fn(&Value) -> bool) -> Value {
    let mut looks = (0..600).map(|_| status(data, name));
    looks.find(|sink| reached(sink)).unwrap_or_else(|| panic!("{name}: {}", status(data, name)))
}

/// A receiver that is away is waited for; recording goes on meanwhile, and other sinks do, too.
#[test]
fn a_dead_receiver_holds_up_neither_ingest_nor_other_sinks_and_is_caught_up_with() {
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    import(&data, &repository("tests/captures/pysdk-memory-stdio"));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    std::fs::write(work.path().join("token"), "hec-token-of-the-test\n").unwrap();
    let text = format!(
        "[[sink]]\nname = \"lines\"\ntype = \"file\"\npath = \"out\"\nresult_wait_s = 0\n\
         [[sink]]\nname = \"away\"\ntype = \"splunk_hec\"\nurl = \"http://127.0.0.1:{port}\"\ntoken = {{ file = \"token\" }}\n\
         allow_private = true\nretry_max_s = 1\nresult_wait_s = 0\n"
    );
    let config = configured(work.path(), &text);
    let mut forwarder = Stopped(
        threadline().args(["forward", "run", "--config"]).arg(&config).arg("--data").arg(&data).spawn().unwrap(),
    );
    let until = |name: &str, reached: &dyn Fn(&Value) -> bool| until(&data, name, reached);
    until("lines", &|sink| sink["lag_rows"] == 0 && sink["sent"].as_u64() > Some(0));
    until("away", &|sink| sink["state"] == "retrying" && sink["lag_rows"].as_u64() > Some(0));
    import(&data, &repository("tests/captures/claude-code"));
    let lines = until("lines", &|sink| sink["lag_rows"] == 0);
    let out = work.path().join("hec.out");
    let mut receiver = Command::new("python3");
    receiver.arg("-B").arg(repository("tests/forward/receiver.py")).args(["hec", &port.to_string()]).arg(&out);
    let _receiver = Stopped(receiver.spawn().unwrap());
    let away = until("away", &|sink| sink["lag_rows"] == 0);
    assert_eq!(away["sent"], lines["sent"]);
    let again = ["forward", "replay", "--sink", "away", "--from-version", "0", "--config"];
    // The running forwarder does it.
    ok(threadline().args(again).arg(&config).arg("--data").arg(&data));
    until("away", &|sink| sink["sent"].as_u64() >= lines["sent"].as_u64().map(|sent| sent * 2));
    let pid = rustix::process::Pid::from_child(&forwarder.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(forwarder.0.wait().unwrap().success());
    let metrics = crate::support::Serve::start(&data);
    let text = ok(Command::new("curl").args(["-s", &format!("{}/metrics", metrics.url)]));
    for line in ["threadline_forward_lag_rows{sink=\"away\"} 0", "threadline_forward_up{sink=\"lines\"} 0"] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
}

/// What went wrong is known when nobody forwards any more, and dead letters are counted and do not flood the log.
#[test]
fn status_keeps_what_went_wrong_and_a_replay_of_nothing_changes_it_not() {
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    import(&data, &repository("tests/captures/pysdk-memory-stdio"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Takes everything, and refuses it.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || refuse(stream));
        }
    });
    let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    std::fs::write(work.path().join("key"), "c2VjcmV0IG9mIHRoZSB0ZXN0LCBsb25nIGVub3VnaA==\n").unwrap();
    let common = "secret = { file = \"key\" }\nallow_private = true\nresult_wait_s = 0\nretry_max_s = 1\n";
    let text = format!(
        "[[sink]]\nname = \"lines\"\ntype = \"file\"\npath = \"out\"\nresult_wait_s = 0\n\
         [[sink]]\nname = \"refuses\"\ntype = \"webhook\"\nurl = \"http://127.0.0.1:{port}/\"\n{common}\
         [[sink]]\nname = \"away\"\ntype = \"webhook\"\nurl = \"http://127.0.0.1:{away}/\"\n{common}"
    );
    let config = configured(work.path(), &text);
    let mut command = threadline();
    command.args(["forward", "run", "--config"]).arg(&config).arg("--data").arg(&data);
    let mut forwarder =
        Stopped(command.stderr(std::fs::File::create(work.path().join("log")).unwrap()).spawn().unwrap());
    let until = |name: &str, reached: &dyn Fn(&Value) -> bool| until(&data, name, reached);
    until("lines", &|sink| sink["lag_rows"] == 0 && sink["sent"].as_u64() > Some(0));
    until("away", &|sink| sink["state"] == "retrying");
    let refuses = until("refuses", &|sink| sink["lag_rows"] == 0);
    let pid = rustix::process::Pid::from_child(&forwarder.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(forwarder.0.wait().unwrap().success());

    let away = status(&data, "away");
    assert_eq!(away["state"], "not running");
    assert!(away["reason"].is_string() && away["last_error"]["reason"] == away["reason"], "{away}");
    let letters = refuses["dead_letters"].as_u64().unwrap();
    assert!(letters > 20 && status(&data, "refuses")["rejected"] == letters, "{refuses}");
    let log = std::fs::read_to_string(work.path().join("log")).unwrap();
    assert!(log.lines().filter(|line| line.contains("dead letters now")).count() <= 2, "{log}");

    let before = status(&data, "lines");
    let replay = |what: &[&str]| {
        let mut command = threadline();
        run(command
            .args(["forward", "replay", "--sink", "lines", "--config"])
            .arg(&config)
            .arg("--data")
            .arg(&data)
            .args(what))
    };
    assert!(replay(&["--dead-letters"]).status.success());
    assert!(before["last_delivery"].is_string());
    assert_eq!(status(&data, "lines")["last_delivery"], before["last_delivery"]);
    let beyond = replay(&["--from-version", "999"]);
    let said = String::from_utf8_lossy(&beyond.stderr);
    let newest = before["version"].as_i64().unwrap();
    assert!(!beyond.status.success() && said.contains("no version 999; its newest is "), "{said} {newest}");
    // An error of our own is none of HTTP.
    let wrong = run(threadline().args(["export", "range", "--from", "yesterday", "--data"]).arg(&data));
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert!(!wrong.status.success() && !said.contains("(400)"), "{said}");
}

/// What a record does not say and its session does is told, also when the forwarder was killed in between and the session
/// is told of in commits before.
#[test]
fn who_it_was_is_known_over_restarts_of_the_forwarder() {
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    let config =
        configured(work.path(), "[[sink]]\nname = \"lines\"\ntype = \"file\"\npath = \"out\"\nresult_wait_s = 0\n");
    let call = "toolu_01WhoItWas0123456789";
    let record = |lines: &[Value]| {
        let file = tempfile::Builder::new().suffix(".jsonl").tempfile_in(work.path()).unwrap();
        std::fs::write(file.path(), lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        import(&data, file.path());
    };
    let forward_all = |signal: rustix::process::Signal| {
        let mut command = threadline();
        let mut forwarder = Stopped(
            command.args(["forward", "run", "--config"]).arg(&config).arg("--data").arg(&data).spawn().unwrap(),
        );
        crate::support::awaited(std::time::Duration::from_secs(120), "everything is forwarded", || {
            let all = json(threadline().args(["forward", "status", "--format", "json", "--data"]).arg(&data));
            let sink = all["data"].as_array()?.iter().find(|sink| sink["name"] == "lines")?;
            (sink["lag_rows"] == 0 && sink["state"] == "idle").then_some(())
        });
        rustix::process::kill_process(rustix::process::Pid::from_child(&forwarder.0), signal).unwrap();
        forwarder.0.wait().unwrap();
    };
    let told = || {
        let mut events = Vec::new();
        for file in std::fs::read_dir(work.path().join("out")).unwrap() {
            events.extend(ndjson(&std::fs::read_to_string(file.unwrap().path()).unwrap()));
        }
        events
    };
    let time = |second: u32| format!("2026-11-20T10:00:{second:02}Z");
    record(&[
        serde_json::json!({"id": "w-1", "kind": "prompt", "time": time(1), "source_kind": "host", "conversation_id": "who-1", "user_claimed": "ann", "agent_name": "claude-code", "text": "refund"}),
        serde_json::json!({"id": "w-2", "kind": "selection", "time": time(2), "source_kind": "host", "conversation_id": "who-1", "tool_call_id": call, "tool_name": "refund"}),
    ]);
    forward_all(rustix::process::Signal::KILL);
    record(&[
        serde_json::json!({"id": "w-3", "kind": "call", "time": time(3), "source_kind": "server", "server_name": "orders", "tool_call_id": call, "tool_name": "refund", "outcome": "ok"}),
    ]);
    forward_all(rustix::process::Signal::TERM);
    record(&[
        serde_json::json!({"id": "w-4", "kind": "completion", "time": time(4), "source_kind": "host", "conversation_id": "who-1", "text": "done"}),
    ]);
    forward_all(rustix::process::Signal::TERM);
    // In one file, whose rows stand by session: what a server saw stands before or behind whose it is.
    let sessions = (10..40).flat_map(|n| {
        let (conversation, id) = (format!("many-{n}"), format!("toolu_01ManySessions{n:06}"));
        [
            serde_json::json!({"id": format!("m-p{n}"), "kind": "prompt", "time": time(n), "source_kind": "host", "conversation_id": conversation, "user_claimed": format!("user-{n}"), "text": "refund"}),
            serde_json::json!({"id": format!("m-s{n}"), "kind": "selection", "time": time(n), "source_kind": "host", "conversation_id": conversation, "tool_call_id": id, "tool_name": "refund"}),
            serde_json::json!({"id": format!("m-c{n}"), "kind": "call", "time": time(n), "source_kind": "server", "source_name": "orders", "tool_call_id": id, "tool_name": "refund", "outcome": "ok"}),
        ]
    });
    record(&sessions.collect::<Vec<Value>>());
    forward_all(rustix::process::Signal::TERM);
    let (many, one): (Vec<Value>, Vec<Value>) =
        told().into_iter().partition(|event| event["actor"]["session"]["uid"].as_str().unwrap().starts_with("many-"));
    assert!(many.len() >= 90, "{}", many.len());
    // A server that names no conversation is on the chain of the choice, in the same file and in a later one, over restarts.
    for (call, of) in [(Some(call), &one), (None, &many)] {
        let mut calls: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for event in of.iter() {
            let id = event["unmapped"]["ai.tool_call_id"].as_str();
            let chain = event["metadata"]["correlation_uid"].as_str().unwrap();
            if let Some(id) = id {
                calls.entry(id).or_default().insert(chain);
            }
        }
        assert!(call.is_none_or(|call| calls.keys().eq([&call])) && calls.values().all(|chains| chains.len() == 1));
        let chains: BTreeSet<&str> = calls.values().flatten().copied().collect();
        assert_eq!(chains.len(), calls.len());
        let is_counted = |event: &&Value| event["unmapped"]["threadline.call_completed"] == true;
        let counted: BTreeSet<&str> =
            of.iter().filter(is_counted).map(|event| event["metadata"]["uid"].as_str().unwrap()).collect();
        assert_eq!(counted.len(), calls.len(), "each call is counted once");
    }
    for event in many {
        let session = event["actor"]["session"]["uid"].as_str().unwrap();
        assert_eq!(event["actor"]["user"]["name"], session.replace("many", "user"), "{event}");
    }
    let shown = |event: &Value| {
        let parts = ["/metadata/event_code", "/actor/user/name", "/actor/session/uid", "/unmapped/user.said_by"];
        parts.map(|part| event.pointer(part).and_then(Value::as_str).unwrap_or("-").to_string()).join(" ")
    };
    let mut seen: Vec<String> = one.iter().map(shown).collect();
    seen.sort();
    seen.dedup();
    let expected = [
        "agent.completion ann who-1 session",
        "agent.prompt ann who-1 -",
        "agent.tool_selection ann who-1 session",
        "mcp.tools.call ann who-1 session",
    ];
    assert_eq!(seen, expected);
}

/// Reads requests and answers each with 400.
fn refuse(mut stream: std::net::TcpStream) {
    use std::io::{BufRead, BufReader, Read, Write};
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
            let lower = line.to_ascii_lowercase();
            length = lower.strip_prefix("content-length:").map_or(length, |text| text.trim().parse().unwrap());
            line.clear();
        }
        if line.is_empty() || reader.read_exact(&mut vec![0; length]).is_err() {
            return;
        }
        if stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}

/// Killed when dropped.
struct Stopped(std::process::Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}
