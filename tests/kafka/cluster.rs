//! A real Apache Kafka for the tests of one run: started when the first test asks for it, gone when the run is.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::support::{repository, skip};

/// How long the broker may take for something. Reached only when the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// One broker.
pub(crate) struct Cluster {
    directory: PathBuf,
    port: u16,
    controller_port: u16,
    /// Its standard input ends with this run, and the broker with it.
    script: Child,
    pid: rustix::process::Pid,
    /// `127.0.0.1:PORT`.
    pub(crate) servers: String,
}

/// The broker that tests share; `None`, with the reason printed, where there can be none.
pub(crate) fn shared() -> Option<&'static Cluster> {
    static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
    SHARED.get_or_init(Cluster::start).as_ref()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port is free").port()
}

impl Cluster {
    /// Starts one in a directory of its own.
    pub(crate) fn start() -> Option<Cluster> {
        let fetched = Command::new(repository("tests/kafka/broker")).arg("fetch").output().expect("bash is there");
        let has_java = Command::new("java").arg("-version").output().is_ok_and(|output| output.status.success());
        if !fetched.status.success() || !has_java {
            skip("no Kafka: tests/kafka/broker needs Java 17, Maven and Maven Central");
            return None;
        }
        // Of this run: removed by the next one, because nobody is left to do it when a run ends.
        let directory = repository("target/kafka/runs");
        let is_old = |path: &Path| {
            path.metadata()
                .and_then(|about| about.modified())
                .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > Duration::from_secs(3600)))
        };
        std::fs::create_dir_all(&directory).unwrap();
        for entry in std::fs::read_dir(&directory).unwrap().flatten().filter(|entry| is_old(&entry.path())) {
            drop(std::fs::remove_dir_all(entry.path()));
        }
        let (port, controller_port) = (free_port(), free_port());
        let directory = directory.join(format!("{}-{port}", std::process::id()));
        let servers = format!("127.0.0.1:{port}");
        let (script, pid) = run(&directory, port, controller_port);
        let cluster = Cluster { directory, port, controller_port, script, pid, servers };
        cluster.await_ready();
        Some(cluster)
    }

    /// Ends the broker as a crash does.
    pub(crate) fn kill(&mut self) {
        rustix::process::kill_process(self.pid, rustix::process::Signal::KILL).unwrap();
        self.script.kill().unwrap();
        self.script.wait().unwrap();
    }

    /// Starts it again after [`Cluster::kill`].
    pub(crate) fn restart(&mut self) {
        (self.script, self.pid) = run(&self.directory, self.port, self.controller_port);
        self.await_ready();
    }

    fn await_ready(&self) {
        let admin = self.admin();
        let start = Instant::now();
        while admin.inner().fetch_metadata(None, Duration::from_secs(2)).map_or(0, |all| all.brokers().len()) == 0 {
            let log = || std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            assert!(start.elapsed() < PATIENCE, "the broker does not answer:\n{}", log());
        }
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers).set("log_level", "2");
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().unwrap()
    }

    /// Makes a topic.
    pub(crate) fn topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (name, value) in settings {
            topic = topic.set(name, value);
        }
        let made = block_on(self.admin().create_topics([&topic], &AdminOptions::new())).unwrap();
        assert_eq!(made, [Ok(name.to_string())]);
        // Leaders are chosen a little later.
        let consumer: BaseConsumer = self.client().create().unwrap();
        let start = Instant::now();
        while (0..partitions).any(|partition| consumer.fetch_watermarks(name, partition, PATIENCE).is_err()) {
            assert!(start.elapsed() < PATIENCE, "{name} does not come");
        }
    }

    /// Removes a topic.
    pub(crate) fn remove_topic(&self, name: &str) {
        let gone = block_on(self.admin().delete_topics(&[name], &AdminOptions::new())).unwrap();
        assert_eq!(gone, [Ok(name.to_string())]);
        let admin = self.admin();
        let start = Instant::now();
        let is_there = || {
            let all = admin.inner().fetch_metadata(Some(name), PATIENCE).unwrap();
            all.topics().iter().any(|topic| topic.error().is_none())
        };
        while is_there() {
            assert!(start.elapsed() < PATIENCE, "{name} does not go");
        }
    }

    /// Deletes what stands before an offset.
    pub(crate) fn delete_before(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(topic, partition, rdkafka::Offset::Offset(offset)).unwrap();
        block_on(self.admin().delete_records(&list, &AdminOptions::new())).unwrap();
    }

    /// Sends messages `(partition, time in ms, value)` in order; returns when all are acknowledged.
    pub(crate) fn produce(&self, topic: &str, messages: impl Iterator<Item = (i32, i64, Vec<u8>)>) {
        let mut config = self.client();
        config.set("enable.idempotence", "true").set("linger.ms", "5").set("queue.buffering.max.messages", "100000");
        let producer: BaseProducer = config.create().unwrap();
        for (partition, time, value) in messages {
            let mut record: BaseRecord<'_, [u8], [u8]> =
                BaseRecord::to(topic).partition(partition).timestamp(time).payload(&value);
            while let Err((error, same)) = producer.send(record) {
                assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
                producer.poll(Duration::from_millis(10));
                record = same;
            }
            producer.poll(Duration::ZERO);
        }
        producer.flush(PATIENCE).unwrap();
        assert_eq!(producer.in_flight_count(), 0);
    }

    /// Every message of a topic: its value and its headers.
    pub(crate) fn messages(&self, topic: &str, partitions: i32) -> Vec<(Vec<u8>, BTreeMap<String, String>)> {
        let mut config = self.client();
        config.set("group.id", format!("reader-{}", free_port())).set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut list = rdkafka::TopicPartitionList::new();
        let mut expected = 0;
        for partition in 0..partitions {
            let (low, high) = consumer.fetch_watermarks(topic, partition, PATIENCE).unwrap();
            expected += high - low;
            list.add_partition_offset(topic, partition, rdkafka::Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let mut found = Vec::new();
        let start = Instant::now();
        while found.len() < usize::try_from(expected).unwrap() {
            assert!(start.elapsed() < PATIENCE, "{} of {expected} messages of {topic}", found.len());
            let Some(Ok(message)) = consumer.poll(Duration::from_secs(1)) else { continue };
            let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
            let headers = message.headers().into_iter().flat_map(Headers::iter);
            let headers = headers.map(|header| (header.key.to_string(), text(header.value))).collect();
            found.push((message.payload().unwrap_or_default().to_vec(), headers));
        }
        found
    }

    /// What the group has committed of a topic, by partition.
    pub(crate) fn committed(&self, group: &str, topic: &str, partitions: i32) -> Vec<Option<i64>> {
        let consumer: BaseConsumer = self.client().set("group.id", group).create().unwrap();
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions - 1);
        let committed = consumer.committed_offsets(list, PATIENCE).unwrap();
        let offset = |offset| if let rdkafka::Offset::Offset(offset) = offset { Some(offset) } else { None };
        committed.elements().iter().map(|element| offset(element.offset())).collect()
    }
}

fn run(directory: &Path, port: u16, controller_port: u16) -> (Child, rustix::process::Pid) {
    let mut command = Command::new(repository("tests/kafka/broker"));
    command.arg("run").arg(directory).args([port.to_string(), controller_port.to_string()]);
    let mut script = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bash is there");
    let mut line = String::new();
    BufReader::new(script.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pid = line.trim().strip_prefix("pid ").and_then(|pid| pid.parse().ok());
    let pid = pid.and_then(rustix::process::Pid::from_raw).unwrap_or_else(|| panic!("no pid: {line:?}"));
    (script, pid)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
