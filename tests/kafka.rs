//! Kafka against a real broker: topics as a source, with consumers that are killed, and as a receiver (`sink`).
//!
//! `THREADLINE_KAFKA_MESSAGES` sets how many messages go through the consumers that are killed (20,000; the soak takes a
//! million, see tests/soak/kafka).

pub(crate) mod cluster;
mod hold;
mod sink;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use self::cluster::{Cluster, shared};
use crate::support::{Serve, json, run, threadline};

/// How long something is awaited that has to come. Reached only when the test fails.
const AWAITED: Duration = Duration::from_secs(180);
const PARTITIONS: i32 = 8;
/// One in so many messages cannot be understood.
const POISON_EVERY: i64 = 500;
/// Time of the first message, milliseconds.
const TIME: i64 = 1_795_000_000_000;

fn awaited<T>(what: &str, found: impl FnMut() -> Option<T>) -> T {
    // A million messages take their time.
    let patience = AWAITED.max(Duration::from_millis(u64::try_from(messages()).unwrap_or(0)));
    crate::support::awaited(patience, what, found)
}

/// The rows of a query. A machine that is busy with other tests may need more than the server allows a query.
fn sql(url: &str, query: &str) -> Vec<Vec<Value>> {
    let rows = |answer: Value| {
        answer["data"]["rows"].as_array().unwrap().iter().map(|row| row.as_array().unwrap().clone()).collect()
    };
    awaited(query, || {
        let output = run(threadline().args(["sql", "--format", "json", "--url", url, query]));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || said.contains("(504)"), "{query}: {said}");
        output.status.success().then(|| rows(serde_json::from_slice(&output.stdout).unwrap()))
    })
}

fn number(url: &str, query: &str) -> i64 {
    sql(url, query)[0][0].as_i64().unwrap()
}

/// Records of the messages of a topic, as the list of sources counts them, which is quick.
fn stored(url: &str, topic: &str) -> i64 {
    let answer = json(threadline().args(["sources", "--format", "json", "--url", url]));
    let name = format!("kafka:{topic}");
    let sources = answer["data"].as_array().unwrap().iter().filter(|source| source["source_name"] == *name);
    sources.map(|source| source["records"].as_i64().unwrap() - source["gaps"].as_i64().unwrap()).sum()
}

fn messages() -> i64 {
    std::env::var("THREADLINE_KAFKA_MESSAGES").map_or(20_000, |text| text.parse().expect("a number of messages"))
}

/// A configuration for one topic of native events.
fn configuration(cluster: &Cluster, folder: &Path, topic: &str, rest: &str) -> PathBuf {
    let path = folder.join(format!("{topic}.toml"));
    let text = format!(
        r#"group = "g-{topic}"
        {rest}
        [librdkafka]
        "bootstrap.servers" = {:?}
        "session.timeout.ms" = 3000
        "heartbeat.interval.ms" = 300
        # Counts in the control only: longer than its first consumer lives.
        "auto.commit.interval.ms" = 60000
        "topic.metadata.refresh.interval.ms" = 1000
        # How long a topic that is not there is waited for before that is said.
        "topic.metadata.propagation.max.ms" = 2000
        [[topic]]
        name = {topic:?}
        as = "native"
        "#,
        cluster.servers
    );
    std::fs::write(&path, text).unwrap();
    path
}

struct Consumer {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Consumer {
    fn start(data: &Path, configuration: &Path, control: bool) -> Consumer {
        let mut command = threadline();
        if control {
            command.env("THREADLINE_KAFKA_CONTROL", "no-positions");
        }
        Consumer::start_with(command.args(["kafka", "--data"]).arg(data).arg("--config").arg(configuration))
    }

    fn start_with(command: &mut Command) -> Consumer {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let said = Arc::new(Mutex::new(String::new()));
        let (lines, heard) = (BufReader::new(child.stderr.take().unwrap()).lines(), Arc::clone(&said));
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *heard.lock().unwrap() += &(line + "\n");
            }
        });
        Consumer { child, said }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it has said something.
    fn says(&self, what: &str) {
        awaited(what, || self.said().contains(what).then_some(()));
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM, waits for a clean end, and gives what it said.
    fn stop(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.said());
        // The last line comes before the end.
        self.says(" to the dead-letter topic, ");
        self.said()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // Already gone after `stop`.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Message `number`: its partition, its time and its value, which names partition and offset.
fn message(number: i64) -> (i32, i64, Vec<u8>) {
    let (partition, offset) = (i32::try_from(number % i64::from(PARTITIONS)).unwrap(), number / i64::from(PARTITIONS));
    let value = match is_poison(number) {
        true => format!("no event {partition}/{offset}"),
        false => format!(r#"{{"kind":"log","text":"{partition}/{offset}","conversation_id":"c-{}"}}"#, number % 100),
    };
    (partition, TIME + number, value.into_bytes())
}

fn is_poison(number: i64) -> bool {
    number % POISON_EVERY == POISON_EVERY - 1
}

/// A consumer alone is killed, then one of two of its group, while messages come; another takes its place. Gives the number
/// of records and of different messages among them.
fn consumers_are_killed(cluster: &Cluster, topic: &str, control: bool) -> (i64, i64) {
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    let dead = format!("{topic}-dead");
    let total = messages();
    cluster.topic(topic, PARTITIONS, &[]);
    cluster.topic(&dead, 1, &[]);
    let configuration = configuration(cluster, work.path(), topic, &format!("dead_letter_topic = {dead:?}"));
    // Fewer files, because there is no compaction yet.
    let serve =
        Serve::start_with(threadline().env("THREADLINE_SEAL_AGE_MS", "10000").arg("serve").arg("--data").arg(&data));
    let stored = || stored(&serve.url, topic);

    cluster.produce(topic, (0..total / 2).map(message));
    let began = Instant::now();
    // Alone, because leaving partitions to another commits them: what is killed here has committed nothing.
    let first = Consumer::start(&data, &configuration, control);
    awaited("the first tenth", || (stored() >= total / 10).then_some(()));
    first.kill();
    let second = Consumer::start(&data, &configuration, control);
    let third = Consumer::start(&data, &configuration, control);
    cluster.produce(topic, (total / 2..total).map(message));
    awaited("half", || (stored() >= total / 2).then_some(()));
    second.kill();
    let fourth = Consumer::start(&data, &configuration, control);
    // Until nothing more comes: the control may lose.
    let (mut last, mut quiet_since) = (0, Instant::now());
    awaited("the end", || {
        let now = stored();
        if now != last {
            (last, quiet_since) = (now, Instant::now());
        }
        let is_complete = !control && now >= total;
        (is_complete || quiet_since.elapsed() > Duration::from_secs(20)).then_some(())
    });
    println!("{total} messages, two consumers, two kills: {:.1} s", began.elapsed().as_secs_f64());
    third.stop();
    fourth.stop();
    let records =
        number(&serve.url, "select count(origin_line) from records where collector = 'kafka' and kind <> 'gap'");
    // Partition by partition, because a query has an end to its memory.
    let different = (0..PARTITIONS)
        .map(|partition| {
            let of = format!("collector = 'kafka' and kind <> 'gap' and origin_file like '%/{topic}/{partition}'");
            number(&serve.url, &format!("select count(distinct origin_line) from records where {of}"))
        })
        .sum();
    if !control {
        check_records(&serve.url, topic, total);
        check_dead_letters(&serve.url, cluster, &dead, total);
        assert_committed(cluster, topic, total);
        check_sources(&serve, topic, total);
    }
    serve.stop();
    (records, different)
}

fn message_partition(number: i64) -> i32 {
    i32::try_from(number % i64::from(PARTITIONS)).unwrap()
}

/// The group is where the first `total` messages end.
fn assert_committed(cluster: &Cluster, topic: &str, total: i64) {
    let end = |partition| (0..total).filter(|number| message_partition(*number) == partition).count() as i64;
    let ends: Vec<_> = (0..PARTITIONS).map(|partition| Some(end(partition))).collect();
    assert_eq!(cluster.committed(&format!("g-{topic}"), topic, PARTITIONS), ends);
}

/// Every record is the message of its offset, under the id of its place.
fn check_records(url: &str, topic: &str, total: i64) {
    let cluster_id = "5L6g3nShT-eMCtK--X86sw";
    let poison = (0..total).filter(|number| is_poison(*number)).count() as i64;
    assert_eq!(number(url, "select count(*) from records where collector = 'kafka' and kind = 'rejected'"), poison);
    let by_partition = sql(
        url,
        "select origin_file, count(*), min(origin_line), max(origin_line) from records where collector = 'kafka' and kind <> 'gap' \
         group by origin_file order by origin_file",
    );
    let expected: Vec<Vec<Value>> = (0..PARTITIONS)
        .map(|partition| {
            let count = (0..total).filter(|number| message_partition(*number) == partition).count() as i64;
            let file = format!("kafka:{cluster_id}/{topic}/{partition}");
            vec![file.into(), count.into(), 0.into(), (count - 1).into()]
        })
        .collect();
    assert_eq!(by_partition, expected);
    let wrong = format!(
        "select count(*) from records where collector = 'kafka' and kind = 'log' and \
         (concat('kafka:{cluster_id}/{topic}/', text) <> concat(origin_file, '/', origin_line) \
          or delivery_key not like concat(origin_file, '/', origin_line, '@17950%'))"
    );
    assert_eq!(number(url, &wrong), 0, "a record is not the message of its offset");
}

/// Exactly the poison, by id; a message may be there more than once.
fn check_dead_letters(url: &str, cluster: &Cluster, dead: &str, total: i64) {
    let found = cluster.messages(dead, 1);
    let ids: BTreeSet<&str> = found.iter().map(|(_, headers)| &*headers["threadline.event-id"]).collect();
    let rows = sql(url, "select event_id from records where collector = 'kafka' and kind = 'rejected'");
    let stored: BTreeSet<&str> = rows.iter().map(|row| row[0].as_str().unwrap()).collect();
    let poison = (0..total).filter(|number| is_poison(*number));
    // SQL shows at most so many rows; then the places below have to do.
    if stored.len() == poison.clone().count() {
        assert_eq!(ids, stored);
    }
    let places: BTreeSet<String> = found
        .iter()
        .map(|(value, headers)| {
            let place = format!("{}/{}", headers["threadline.partition"], headers["threadline.offset"]);
            assert_eq!(value, format!("no event {place}").as_bytes());
            assert!(headers["threadline.reason"].contains("not valid JSON"), "{headers:?}");
            place
        })
        .collect();
    let expected = poison.map(|number| format!("{}/{}", message_partition(number), number / i64::from(PARTITIONS)));
    assert_eq!(places, expected.collect());
}

/// Lag, rejected and dead letters are shown and are metrics.
fn check_sources(serve: &Serve, topic: &str, total: i64) {
    let poison = (0..total).filter(|number| is_poison(*number)).count();
    let answer = json(threadline().args(["sources", "--format", "json", "--url", &serve.url]));
    let sources = answer["data"].as_array().unwrap();
    let name = format!("kafka:{topic}");
    let it = sources.iter().find(|s| s["source_name"] == *name && s["source_kind"] == "threadline").unwrap();
    assert_eq!((&it["behind"], &it["rejected"]), (&0.into(), &poison.into()), "{it}");
    // What a killed consumer wrote and did not count yet is written again, so there may be more.
    assert!(it["dead_lettered"].as_u64().unwrap() as usize >= poison, "{it}");
    let metrics =
        crate::support::ok(std::process::Command::new("curl").args(["-s", &format!("{}/metrics", serve.url)]));
    let metric = |name: &str| -> f64 {
        let lines =
            metrics.lines().filter(|line| line.starts_with(&format!("threadline_{name}")) && line.contains(topic));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    assert_eq!(metric("kafka_lag{"), 0.0, "{metrics}");
    assert!(metric("kafka_messages_total{") >= total as f64, "{metrics}");
}

#[test]
fn a_consumer_is_killed_and_there_are_exactly_as_many_records_as_messages() {
    let Some(cluster) = shared() else { return };
    let (records, different) = consumers_are_killed(cluster, "killed", false);
    assert_eq!((records, different), (messages(), messages()));
}

#[test]
fn without_positions_records_are_lost_or_doubled() {
    let Some(cluster) = shared() else { return };
    let (records, different) = consumers_are_killed(cluster, "control", true);
    println!("control: {records} records of {different} messages, {} sent", messages());
    assert!(records != different || different != messages(), "the control did not fail: the test proves nothing");
}

#[test]
fn order_is_kept_and_a_restart_reads_nothing_twice() {
    let Some(cluster) = shared() else { return };
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    cluster.topic("order", PARTITIONS, &[]);
    let configuration = configuration(cluster, work.path(), "order", "");
    let serve = Serve::start(&data);
    let stored = || stored(&serve.url, "order");
    for (from, to) in [(0, 3000), (3000, 4000)] {
        cluster.produce("order", (from..to).map(message));
        let consumer = Consumer::start(&data, &configuration, false);
        awaited("the records", || (stored() >= to).then_some(()));
        let said = consumer.stop();
        assert!(said.contains(&format!("{} messages", to - from)), "{said}");
    }
    let rows = sql(&serve.url, "select origin_file, origin_line, log_position from records where collector = 'kafka'");
    let mut rows: Vec<(String, i64, u64)> = rows
        .iter()
        .map(|row| {
            let at = row[2].as_str().unwrap().rsplit('/').next().unwrap().parse().unwrap();
            (row[0].as_str().unwrap().to_string(), row[1].as_i64().unwrap(), at)
        })
        .collect();
    assert_eq!(rows.len(), 4000);
    rows.sort_by_key(|(file, _, at)| (file.clone(), *at));
    assert!(rows.windows(2).all(|two| two[0].0 != two[1].0 || two[0].1 < two[1].1), "the log is not in order");
    serve.stop();
}

/// A group that is being formed takes no commits; what it refused is committed again, also where nothing more is read.
#[test]
fn the_group_has_every_position_though_members_come_and_go() {
    let Some(cluster) = shared() else { return };
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    cluster.topic("members", PARTITIONS, &[]);
    let configuration = configuration(cluster, work.path(), "members", "");
    let serve = Serve::start(&data);
    let stored = || stored(&serve.url, "members");
    let (rounds, each) = (3, 1000);
    let mut members: Vec<Consumer> = Vec::new();
    for round in 0..rounds {
        cluster.produce("members", (round * each..(round + 1) * each).map(message));
        members.push(Consumer::start(&data, &configuration, false));
        awaited("the records", || (stored() >= (round + 1) * each).then_some(()));
        // Two that find everything read come while the group gets over the kill.
        let killed = members.remove(0);
        members.push(Consumer::start(&data, &configuration, false));
        killed.kill();
        members.push(Consumer::start(&data, &configuration, false));
    }
    for member in members {
        member.stop();
    }
    assert_committed(cluster, "members", rounds * each);
    serve.stop();
}

#[test]
fn what_a_topic_does_not_have_any_more_is_a_gap_with_counts() {
    let Some(cluster) = shared() else { return };
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    cluster.topic("shrinks", 1, &[]);
    let configuration = configuration(cluster, work.path(), "shrinks", "");
    let serve = Serve::start(&data);
    let stored = |kind: &str| number(&serve.url, &format!("select count(*) from records where kind = '{kind}'"));
    let values = |from: i64, to: i64| (from..to).map(|n| (0, TIME + n, br#"{"kind":"log"}"#.to_vec()));
    let gaps = || -> Vec<Value> {
        let rows = sql(&serve.url, "select attributes from records where kind = 'gap' order by observed_time");
        rows.iter().map(|row| serde_json::from_str(row[0].as_str().unwrap()).unwrap()).collect()
    };

    cluster.produce("shrinks", values(0, 100));
    let consumer = Consumer::start(&data, &configuration, false);
    awaited("the first hundred", || (stored("log") == 100).then_some(()));
    consumer.stop();
    cluster.produce("shrinks", values(100, 200));
    cluster.delete_before("shrinks", 0, 150);
    let consumer = Consumer::start(&data, &configuration, false);
    awaited("what is left", || (stored("log") == 150).then_some(()));
    awaited("the gap", || (stored("gap") == 1).then_some(()));
    consumer.stop();
    let gap = &gaps()[0];
    assert_eq!((&gap["reason"], &gap["messages"]), (&"topic_deleted_messages".into(), &50.into()), "{gap}");
    assert_eq!((&gap["position"], &gap["goes_on"]), (&100.into(), &150.into()), "{gap}");

    // The same name, and offsets that were there before.
    cluster.remove_topic("shrinks");
    cluster.topic("shrinks", 1, &[]);
    cluster.produce("shrinks", values(1000, 1020));
    let consumer = Consumer::start(&data, &configuration, false);
    awaited("the new topic", || (stored("log") == 170).then_some(()));
    awaited("the second gap", || (stored("gap") == 2).then_some(()));
    consumer.stop();
    let gap = &gaps()[1];
    assert_eq!((&gap["reason"], &gap["position"]), (&"topic_restarted".into(), &200.into()), "{gap}");
    assert_eq!((&gap["end"], &gap["goes_on"]), (&20.into(), &0.into()), "{gap}");
    assert_eq!(stored("rejected"), 0);
    serve.stop();
}

#[test]
fn a_configuration_that_asks_for_what_the_build_lacks_is_told_the_next_step() {
    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("kafka.toml");
    let text = "group = \"g\"\n[librdkafka]\n\"bootstrap.servers\" = \"127.0.0.1:1\"\n\"security.protocol\" = \
                \"SASL_SSL\"\n\"sasl.mechanism\" = \"SCRAM-SHA-512\"\n\"sasl.username\" = \"u\"\n\"sasl.password\" = \
                \"s3cret-word\"\n[[topic]]\nname = \"t\"\nas = \"native\"\n";
    std::fs::write(&path, text).unwrap();
    let mut command = threadline();
    command.args(["-v", "kafka", "--data"]).arg(work.path().join("data")).arg("--config").arg(&path);
    let output = run(command.env("THREADLINE_LOG", "trace"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success());
    assert!(said.contains("--features rdkafka/ssl-vendored"), "{said}");
    assert!(!said.contains("s3cret-word"), "{said}");
}
