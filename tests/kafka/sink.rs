//! Forwarding to a topic, while the forwarder and the broker are killed at random.
//!
//! `THREADLINE_FORWARD_SECONDS` and `_SEED` set other runs, as in the tests of other receivers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::awaited;
use super::cluster::{Cluster, shared};
use crate::support::{EVENTS_BEGIN, import, import_events, json, ndjson, ok, threadline};

const PARTITIONS: i32 = 4;
const SESSIONS: u64 = 7;

struct Forwarder(Child);

impl Forwarder {
    fn start(data: &Path, config: &Path, is_control: bool) -> Forwarder {
        let mut command = threadline();
        command.args(["forward", "run", "--config"]).arg(config).arg("--data").arg(data);
        if is_control {
            command.env("THREADLINE_FORWARD_CONTROL", "queued");
        }
        Forwarder(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts"))
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // SIGKILL, which is what this test is about.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Numbers that depend on the seed only (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn configuration(servers: &str, folder: &Path, topic: &str, more: &str) -> PathBuf {
    let path = folder.join("forward.toml");
    let text = format!(
        "[[sink]]\nname = \"bus\"\ntype = \"kafka\"\ntopic = {topic:?}\nallow_private = true\nretry_max_s = 1\n\
         linger_ms = 50\nbatch_events = 100\nresult_wait_s = 0\nkinds = [\"log\"]\n{more}\n\
         [sink.librdkafka]\n\"bootstrap.servers\" = {:?}\n\"reconnect.backoff.max.ms\" = 500\n",
        servers
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn status(data: &Path) -> Option<Value> {
    let status = json(threadline().args(["forward", "status", "--format", "json", "--data"]).arg(data));
    status["data"].as_array()?.iter().find(|sink| sink["name"] == "bus").cloned()
}

fn messages_when_done(cluster: &Cluster, data: &Path, topic: &str) -> Vec<(Vec<u8>, BTreeMap<String, String>)> {
    awaited("every event", || (status(data)?["lag_rows"] == 0).then(|| cluster.messages(topic, PARTITIONS)))
}

/// Gives how many events were committed, and how many of them are not in the topic.
fn killed_at_random(topic: &str, seconds: u64, is_control: bool) -> Option<(usize, usize)> {
    let mut cluster = Cluster::start()?;
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    cluster.topic(topic, PARTITIONS, &[]);
    let config = configuration(&cluster.servers, work.path(), topic, "");
    let start = || Forwarder::start(&data, &config, is_control);
    let seed = variable("THREADLINE_FORWARD_SEED", 1);
    let mut random = Random(seed);
    let mut recorded = 0;
    let mut record_more = |count: u64| {
        import_events(&data, recorded..recorded + count, SESSIONS);
        recorded += count;
    };
    record_more(500);
    let mut forwarder = start();
    let (began, mut forwarders, mut brokers, mut both) = (Instant::now(), 0, 0, 0);
    while began.elapsed() < Duration::from_secs(seconds) || forwarders == 0 || brokers == 0 || both == 0 {
        match random.below(5) {
            0 | 1 => record_more(100 + random.below(400)),
            2 => {
                drop(forwarder);
                forwarder = start();
                forwarders += 1;
            }
            what => {
                cluster.kill();
                record_more(100);
                if what == 3 {
                    // What the forwarder reads meanwhile is in its producer at most.
                    std::thread::sleep(Duration::from_millis(1000 + random.below(2000)));
                    drop(forwarder);
                    forwarder = start();
                    both += 1;
                }
                cluster.restart();
                brokers += 1;
            }
        }
    }
    record_more(1);
    let found = messages_when_done(&cluster, &data, topic);
    drop(forwarder);
    println!(
        "seed {seed}: {recorded} events, {} messages; {forwarders} forwarders, {brokers} brokers, {both} of each at once killed",
        found.len()
    );

    let stored = ndjson(&ok(threadline().args(["export", "range", "--data"]).arg(&data)));
    let logs = stored.iter().filter(|record| record["kind"] == "log");
    let committed: BTreeSet<&str> = logs.map(|record| record["event_id"].as_str().unwrap()).collect();
    assert_eq!(committed.len() as u64, recorded);
    let mut seen = BTreeSet::new();
    let mut by_session: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (value, headers) in &found {
        let event: Value = serde_json::from_slice(value).unwrap();
        let uid = event["metadata"]["uid"].as_str().unwrap().to_string();
        assert_eq!(headers["metadata.uid"], uid);
        assert!(committed.contains(&*uid), "{uid} was never committed");
        if seen.insert(uid) {
            let number = event["time"].as_u64().unwrap() - EVENTS_BEGIN;
            by_session.entry(number % SESSIONS).or_default().push(number);
        }
    }
    if !is_control {
        for (session, numbers) in by_session {
            assert!(numbers.is_sorted(), "session {session} is not in order");
        }
    }
    Some((committed.len(), committed.len() - seen.len()))
}

#[test]
fn killed_at_random_every_committed_event_is_in_the_topic_in_order_and_none_is_invented() {
    let Some((committed, missing)) = killed_at_random("ocsf", variable("THREADLINE_FORWARD_SECONDS", 30), false) else {
        return;
    };
    assert_eq!(missing, 0, "of {committed} events");
}

#[test]
fn without_delivery_reports_events_are_lost() {
    let Some((committed, missing)) = killed_at_random("ocsf-control", 5, true) else { return };
    println!("control: {missing} of {committed} events are missing");
    assert!(missing > 0, "the control did not fail: the test proves nothing");
}

#[test]
fn a_broker_that_is_not_there_is_waited_for_and_a_stop_is_heard_meanwhile() {
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    import_events(&data, 0..10, SESSIONS);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = configuration(&format!("127.0.0.1:{port}"), work.path(), "nowhere", "");
    let mut forwarder = Forwarder::start(&data, &config, false);
    let status = awaited("a reason", || status(&data).filter(|sink| sink["state"] == "retrying"));
    assert!(status["reason"].as_str().unwrap().contains("broker"), "{status}");
    assert_eq!((&status["sent"], &status["lag_rows"]), (&0.into(), &10.into()), "{status}");
    let pid = rustix::process::Pid::from_child(&forwarder.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(forwarder.0.wait().unwrap().success());
}

#[test]
fn a_message_that_the_topic_refuses_is_a_dead_letter_and_the_rest_arrives_in_order() {
    let Some(cluster) = shared() else { return };
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    cluster.topic("small", PARTITIONS, &[("max.message.bytes", "20000")]);
    let config = configuration(&cluster.servers, work.path(), "small", "text_bytes_max = 60000");
    let path = work.path().join("events.jsonl");
    let mut file = std::fs::File::create(&path).unwrap();
    for number in 0..200u64 {
        // Words that no compression makes small; every fiftieth is more than the topic takes.
        let mut random = Random(number);
        let words = if number % 50 == 49 { 4000 } else { 20 };
        let text: Vec<String> = (0..words).map(|_| random.below(1 << 40).to_string()).collect();
        let (time, session) = ((EVENTS_BEGIN + number) * 1_000_000, number % SESSIONS);
        let text = text.join(" ");
        writeln!(
            file,
            r#"{{"id":"{number}","kind":"log","text":"{text}","time_unix_nano":{time},"conversation_id":"c-{session}"}}"#
        )
        .unwrap();
    }
    import(&data, &path);
    let forwarder = Forwarder::start(&data, &config, false);
    let found = messages_when_done(cluster, &data, "small");
    let status = status(&data).unwrap();
    assert_eq!((&status["rejected"], &status["dead_letters"]), (&4.into(), &4.into()), "{status}");
    assert!(status["newest_dead_letters"][0]["reason"].as_str().unwrap().contains("MessageSizeTooLarge"), "{status}");
    let mut first: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (value, _) in &found {
        let event: Value = serde_json::from_slice(value).unwrap();
        let number = event["time"].as_u64().unwrap() - EVENTS_BEGIN;
        if seen.insert(number) {
            first.entry(number % SESSIONS).or_default().push(number);
        }
    }
    assert_eq!(seen, (0..200).filter(|number| number % 50 != 49).collect());
    assert!(first.values().all(|numbers| numbers.is_sorted()), "{first:?}");

    // A topic that takes more has them after a replay.
    cluster.topic("large", PARTITIONS, &[]);
    drop(forwarder);
    let config = configuration(&cluster.servers, work.path(), "large", "text_bytes_max = 60000");
    ok(threadline()
        .args(["forward", "replay", "--sink", "bus", "--dead-letters", "--config"])
        .arg(&config)
        .arg("--data")
        .arg(&data));
    let found = cluster.messages("large", PARTITIONS);
    let times: BTreeSet<u64> = found
        .iter()
        .map(|(value, _)| serde_json::from_slice::<Value>(value).unwrap()["time"].as_u64().unwrap() - EVENTS_BEGIN)
        .collect();
    assert_eq!(times, BTreeSet::from([49, 99, 149, 199]));

    let tried = json(threadline().args(["forward", "test", "--send", "--format", "json", "--config"]).arg(&config));
    assert!(tried["data"].as_array().unwrap().iter().any(|row| row["verdict"] == "delivered"), "{tried}");
    assert_eq!(cluster.messages("large", PARTITIONS).len(), 5);
}
