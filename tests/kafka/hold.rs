//! What a consumer does while something that it needs is away: the dead-letter topic, the server, room on the disk. It
//! holds where it is, says why, and goes on by itself; nothing is lost or doubled.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use super::cluster::{Cluster, shared};
use super::{Consumer, PARTITIONS, assert_committed, configuration, is_poison, message, number, stored};
use crate::kafka::awaited;
use crate::support::{Serve, run, skip, threadline};

/// Messages in each test.
const MESSAGES: i64 = 2_000;

fn poison() -> BTreeSet<i64> {
    (0..MESSAGES).filter(|number| is_poison(*number)).collect()
}

/// Numbers of the messages that a topic of dead letters holds.
fn buried(cluster: &Cluster, dead: &str) -> BTreeSet<i64> {
    let of = |(_, headers): &(Vec<u8>, std::collections::BTreeMap<String, String>)| {
        let part = |name: &str| headers[name].parse::<i64>().unwrap();
        part("threadline.offset") * i64::from(PARTITIONS) + part("threadline.partition")
    };
    cluster.messages(dead, 1).iter().map(of).collect()
}

#[test]
fn without_the_dead_letter_topic_nothing_moves_and_nothing_is_lost() {
    let Some(cluster) = shared() else { return };
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    cluster.topic("buries", PARTITIONS, &[]);
    let configuration = configuration(cluster, work.path(), "buries", "dead_letter_topic = \"buries-dead\"");
    let serve = Serve::start(&data);
    // What cannot be understood comes first.
    cluster
        .produce("buries", (0..MESSAGES).map(|n| message(MESSAGES - 1 - n)).map(|(_, time, value)| (0, time, value)));
    for _ in 0..2 {
        let consumer = Consumer::start(&data, &configuration, false);
        consumer.says("it does not exist: make it");
        assert_eq!(stored(&serve.url, "buries"), 0, "records before their dead letters");
        // Killed, it has lost nothing; stopped, it ends in order.
        consumer.kill();
    }
    let consumer = Consumer::start(&data, &configuration, false);
    consumer.says("it does not exist: make it");
    consumer.stop();
    let consumer = Consumer::start(&data, &configuration, false);
    consumer.says("it does not exist: make it");
    let committed = cluster.committed("g-buries", "buries", 1)[0];
    assert!(committed.is_none_or(|next| next == 0), "{committed:?}");
    cluster.topic("buries-dead", 1, &[]);
    awaited("every message", || (stored(&serve.url, "buries") == MESSAGES).then_some(()));
    let said = consumer.stop();
    assert!(said.contains(&format!("{} to the dead-letter topic", poison().len())), "{said}");
    let found = cluster.messages("buries-dead", 1);
    let ids: BTreeSet<&str> = found.iter().map(|(_, headers)| &*headers["threadline.event-id"]).collect();
    assert_eq!((found.len(), ids.len()), (poison().len(), poison().len()));
    assert_eq!(number(&serve.url, "select count(*) from records where kind = 'rejected'"), poison().len() as i64);
    assert_eq!(cluster.committed("g-buries", "buries", 1), [Some(MESSAGES)]);
    serve.stop();
}

#[test]
fn to_a_server_elsewhere_every_message_arrives_once() {
    let Some(cluster) = shared() else { return };
    let work = tempfile::tempdir().unwrap();
    let (data, state) = (work.path().join("data"), work.path().join("state"));
    cluster.topic("sends", PARTITIONS, &[]);
    cluster.topic("sends-dead", 1, &[]);
    let configuration = configuration(cluster, work.path(), "sends", "dead_letter_topic = \"sends-dead\"");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("127.0.0.1:{port}");
    let server = || Serve::start_listening(threadline().arg("serve").arg("--data").arg(&data), &listen);
    let consumer = || {
        let mut command = threadline();
        command.args(["kafka", "--to", &format!("http://{listen}"), "--state"]).arg(&state);
        Consumer::start_with(command.arg("--config").arg(&configuration))
    };
    // Nobody listens yet: what is read waits in the outbox of a consumer that is then killed.
    cluster.produce("sends", (0..MESSAGES / 2).map(message));
    let first = consumer();
    let waiting = || {
        std::fs::read_dir(state.join("streams")).is_ok_and(|notes| {
            notes.flatten().any(|note| {
                let text = std::fs::read_to_string(note.path()).unwrap_or_default();
                let recorded = text.lines().last().and_then(|counts| counts.split_once(' ')?.0.parse::<i64>().ok());
                recorded.is_some_and(|recorded| recorded >= MESSAGES / 4)
            })
        })
    };
    awaited("an outbox with a quarter", || waiting().then_some(()));
    first.kill();
    let (second, third) = (consumer(), consumer());
    let serve = server();
    cluster.produce("sends", (MESSAGES / 2..MESSAGES).map(message));
    awaited("half", || (stored(&serve.url, "sends") >= MESSAGES / 2).then_some(()));
    second.kill();
    drop(serve);
    let serve = server();
    let fourth = consumer();
    let count = "select count(*) from records where collector = 'api' and kind in ('log', 'rejected')";
    awaited("every message", || (number(&serve.url, count) >= MESSAGES).then_some(()));
    third.stop();
    fourth.stop();
    assert_eq!(number(&serve.url, count), MESSAGES);
    let places = "select count(distinct concat(origin_file, '/', origin_line)) from records \
                  where collector = 'api' and kind in ('log', 'rejected')";
    assert_eq!(number(&serve.url, places), MESSAGES);
    assert_eq!(buried(cluster, "sends-dead"), poison());
    assert_committed(cluster, "sends", MESSAGES);
    serve.stop();
}

#[test]
fn on_a_full_disk_messages_wait_in_their_topic() {
    let Some(cluster) = shared() else { return };
    let work = tempfile::tempdir().unwrap();
    let disk = work.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    if !run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(&disk)).status.success() {
        return skip("mounting a tmpfs needs root and CAP_SYS_ADMIN");
    }
    let mounted = Mounted(&disk);
    let data = disk.join("data");
    cluster.topic("fills", PARTITIONS, &[]);
    let configuration = configuration(cluster, work.path(), "fills", "");
    // Long enough that the log needs more than it has taken of the disk ahead.
    let long = |number| {
        let (partition, time, _) = message(number);
        let text = format!("{number} ").repeat(2_000);
        (partition, time, format!(r#"{{"kind":"log","text":"{text}"}}"#).into_bytes())
    };
    cluster.produce("fills", (0..100).map(long));
    let consumer = Consumer::start(&data, &configuration, false);
    let records = || {
        // Not before there is a store.
        let answer = run(threadline().args(["sources", "--format", "json", "--data"]).arg(&data));
        let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).ok()?;
        let sources = answer["data"].as_array().unwrap().iter();
        Some(sources.map(|source| source["records"].as_i64().unwrap()).sum::<i64>())
    };
    awaited("the first", || (records() == Some(100)).then_some(()));
    let ballast = disk.join("ballast");
    let mut filling = std::fs::File::create(&ballast).unwrap();
    while filling.write_all(&[1; 4096]).is_ok() {}
    cluster.produce("fills", (100..MESSAGES).map(long));
    consumer.says("messages cannot be stored now");
    let held = records();
    assert!(held.is_some_and(|held| held < MESSAGES), "{held:?}");
    drop(filling);
    std::fs::remove_file(&ballast).unwrap();
    awaited("every message", || (records() == Some(MESSAGES)).then_some(()));
    let said = consumer.stop();
    assert!(said.contains(&format!("{MESSAGES} messages")), "{said}");
    assert_committed(cluster, "fills", MESSAGES);
    drop(mounted);
}

/// A file system that goes away with the test.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(self.0));
    }
}
