//! The thread that reads: one member of the consumer group.
//!
//! Invariants
//! - all calls of the client come from this thread; rebalances happen inside `poll`, between batches
//! - every partition has a lease with the offset that comes next; what is below it was read under this lease already
//! - the position kept here is written before the group's; neither moves beyond what [`Progress`] says is durable
//! - while a batch finds no room for [`ROOM_WAIT`], partitions are paused and polling goes on, so the group keeps us
//!
//! Not here: what a message means, and storing it (`writer`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::base_consumer::BaseConsumer;
use rdkafka::consumer::{CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError as Client, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use threadline_store::positions::{Positions, StreamName, StreamPosition};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::batch::{Batch, Lease, Message, Missing, Why};
use super::client::{self, Quiet};
use super::config::{KafkaConfig, Start, Topic};
use super::writer::Progress;
use super::{ANSWER_MAX, BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, KafkaError, REVOKE_MAX, is_control};

/// How long a message waits for others.
const LINGER: Duration = Duration::from_millis(50);
/// How long `poll` waits when nothing waits here.
const POLL_MAX: Duration = Duration::from_millis(200);
/// How long a batch waits for room before partitions are paused.
const ROOM_WAIT: Duration = Duration::from_millis(500);
/// How often positions are written and committed.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// How long the last commit is tried: a group that is being formed anew takes none.
const COMMIT_MAX: Duration = Duration::from_secs(5);

/// What the thread begins with.
pub(super) struct Begin {
    pub(super) config: KafkaConfig,
    pub(super) topics: Vec<Topic>,
    pub(super) settings: ClientConfig,
    pub(super) positions: Option<Positions>,
    pub(super) stop: watch::Receiver<bool>,
}

/// Reads until the stop, or until nobody stores any more.
pub(super) fn run(
    begin: Begin,
    batches: mpsc::Sender<Batch>,
    progress: Progress,
    runtime: &Handle,
) -> Result<(), KafkaError> {
    let names: Vec<String> = begin.topics.iter().map(|topic| topic.name.clone()).collect();
    let member = Member {
        group: begin.config.group.clone(),
        start: begin.config.start,
        named: begin.config.cluster.clone(),
        stop: begin.stop,
        batches,
        progress,
        runtime: runtime.clone(),
        quiet: Quiet::default(),
        state: Mutex::new(State { positions: begin.positions, ..State::default() }),
    };
    let consumer: BaseConsumer<Member> = begin.settings.create_with_context(member).map_err(client::refused)?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    consumer.subscribe(&names).map_err(KafkaError::Fatal)?;
    let member = Arc::clone(consumer.context());
    let outcome = member.read(&consumer);
    // Also after an error: what is durable is committed.
    member.finish(&consumer);
    consumer.unsubscribe();
    outcome
}

/// The member of the group: what callbacks of the client see.
struct Member {
    group: String,
    start: Start,
    /// Name of the cluster, if the user gave one.
    named: Option<String>,
    stop: watch::Receiver<bool>,
    batches: mpsc::Sender<Batch>,
    progress: Progress,
    runtime: Handle,
    quiet: Quiet,
    /// Locked by the thread only, never across a call of the client.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    positions: Option<Positions>,
    cluster: Option<Arc<str>>,
    partitions: HashMap<(String, i32), Partition>,
    turn: u64,
    /// In hand.
    batch: Batch,
    batch_since: Option<Instant>,
    /// Number of the last batch that was handed over.
    handed: u64,
    committed_at: Option<Instant>,
}

/// A partition that is ours.
struct Partition {
    lease: Arc<Lease>,
    /// Offset of the message that comes next, where it is known.
    next: Option<i64>,
    /// What was written last.
    saved: StreamPosition,
    /// What the group is known to have.
    committed: Option<i64>,
    /// End as the broker told it last.
    end: Option<i64>,
}

impl Member {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopped(&self) -> bool {
        *self.stop.borrow() || self.stop.has_changed().is_err()
    }

    fn read(&self, consumer: &BaseConsumer<Member>) -> Result<(), KafkaError> {
        while !self.is_stopped() {
            let wait = self.lock().batch_since.map_or(POLL_MAX, |since| LINGER.saturating_sub(since.elapsed()));
            match consumer.poll(wait) {
                Some(Ok(message)) => self.take(&message),
                Some(Err(error)) => self.failed(consumer, error)?,
                None => {}
            }
            if self.lock().is_due() {
                match self.hand_over(consumer) {
                    // The writer was told first. What is in hand is read again.
                    Err(KafkaError::Interrupted) if self.is_stopped() => break,
                    other => other?,
                }
            }
            self.settle(consumer, CommitMode::Async, None);
        }
        Ok(())
    }

    fn take(&self, message: &BorrowedMessage<'_>) {
        let mut state = self.lock();
        let place = (message.topic().to_string(), message.partition());
        let Some(partition) = state.partitions.get_mut(&place) else { return };
        let offset = message.offset();
        if partition.next.is_some_and(|next| offset < next) {
            return;
        }
        partition.next = Some(offset + 1);
        partition.end = partition.end.max(partition.next);
        let message = Message::new(&partition.lease, message);
        state.batch.push(message);
        state.batch_since.get_or_insert_with(Instant::now);
    }

    fn failed(&self, consumer: &BaseConsumer<Member>, error: Client) -> Result<(), KafkaError> {
        match error {
            Client::MessageConsumptionFatal(_) => return Err(KafkaError::Fatal(error)),
            Client::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                self.out_of_range(consumer);
            }
            _ => self.quiet.say(&error),
        }
        Ok(())
    }

    /// Gives the batch in hand to the writer, for as long as it takes.
    fn hand_over(&self, consumer: &BaseConsumer<Member>) -> Result<(), KafkaError> {
        let mut is_paused = false;
        while !self.try_hand_over(if is_paused { Duration::ZERO } else { ROOM_WAIT })? && !self.is_stopped() {
            if !is_paused {
                tracing::info!("records cannot be stored as fast as they are read: partitions are paused");
                is_paused = self.for_assignment(consumer, |all| consumer.pause(all));
            }
            // Rebalances go on; a partition that is new is paused too.
            match consumer.poll(POLL_MAX) {
                Some(Ok(message)) => {
                    self.take(&message);
                    is_paused = false;
                }
                Some(Err(error)) => self.failed(consumer, error)?,
                None => {}
            }
            self.settle(consumer, CommitMode::Async, None);
        }
        if is_paused {
            self.for_assignment(consumer, |all| consumer.resume(all));
        }
        Ok(())
    }

    fn for_assignment(
        &self,
        consumer: &BaseConsumer<Member>,
        act: impl FnOnce(&TopicPartitionList) -> Result<(), Client>,
    ) -> bool {
        consumer.assignment().and_then(|all| act(&all)).map_err(|error| self.quiet.say(&error)).is_ok()
    }

    /// Whether the batch in hand was given, or there is none.
    fn try_hand_over(&self, wait: Duration) -> Result<bool, KafkaError> {
        if self.lock().batch.is_empty() {
            return Ok(true);
        }
        let permit = match self.batches.try_reserve() {
            Ok(permit) => permit,
            Err(mpsc::error::TrySendError::Closed(())) => return Err(KafkaError::Interrupted),
            Err(mpsc::error::TrySendError::Full(())) => {
                match self.runtime.block_on(async { tokio::time::timeout(wait, self.batches.reserve()).await }) {
                    Ok(Ok(permit)) => permit,
                    Ok(Err(_)) => return Err(KafkaError::Interrupted),
                    Err(_) => return Ok(false),
                }
            }
        };
        let mut state = self.lock();
        let mut batch = std::mem::take(&mut state.batch);
        state.batch_since = None;
        state.handed += 1;
        batch.number = state.handed;
        permit.send(batch);
        Ok(true)
    }

    /// Hands over what is in hand and waits until it is durable, for [`REVOKE_MAX`] at most.
    fn flush(&self) {
        let until = Instant::now() + REVOKE_MAX;
        if !matches!(self.try_hand_over(REVOKE_MAX), Ok(true)) {
            tracing::warn!(
                "what was read of partitions that go away is not stored yet; it is read again by their next owner"
            );
            return;
        }
        let handed = self.lock().handed;
        let is_done =
            self.runtime.block_on(self.progress.wait(handed, until.saturating_duration_since(Instant::now())));
        if !is_done {
            tracing::warn!("what was read of partitions that go away is not stored yet; it may be read again");
        }
    }

    /// Writes positions that moved, then commits them to the group; at once for `only`, else when it is time.
    fn settle(&self, consumer: &BaseConsumer<Member>, mode: CommitMode, only: Option<&TopicPartitionList>) {
        let mut state = self.lock();
        if only.is_none()
            && matches!(mode, CommitMode::Async)
            && state.committed_at.is_some_and(|at| at.elapsed() < COMMIT_EVERY)
        {
            return;
        }
        if is_control() {
            return;
        }
        state.committed_at = Some(Instant::now());
        let wanted = |partition: &Partition| {
            let lease = &partition.lease;
            only.is_none_or(|list| list.find_partition(&lease.topic, lease.partition).is_some())
        };
        let now_unix_us = now_unix_us();
        let mut changed = Vec::new();
        let mut commit = TopicPartitionList::new();
        for ((topic, number), partition) in state.partitions.iter_mut().filter(|(_, partition)| wanted(partition)) {
            changed.extend(partition.moved(&self.progress, now_unix_us));
            let next = partition.saved.next;
            if next >= 0
                && partition.committed != Some(next)
                && let Err(error) = commit.add_partition_offset(topic, *number, Offset::Offset(next))
            {
                self.quiet.say(&error);
            }
        }
        if !changed.is_empty()
            && let Some(positions) = &mut state.positions
            && let Err(error) = positions.save(changed)
        {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "positions cannot be written now; trying again");
            // Told again next time: the group must not be ahead of what is kept here.
            state.partitions.values_mut().for_each(|partition| partition.saved.updated_unix_us = 0);
            return;
        }
        drop(state);
        if commit.count() == 0 {
            return;
        }
        match consumer.commit(&commit, mode) {
            // Else the callback tells.
            Ok(()) if matches!(mode, CommitMode::Sync) => self.committed(&commit),
            Ok(()) => {}
            Err(error) => self.quiet.say(&error),
        }
    }

    /// The group has these now; what it refused is committed again next time.
    fn committed(&self, list: &TopicPartitionList) {
        let mut state = self.lock();
        for element in list.elements() {
            let place = (element.topic().to_string(), element.partition());
            if let (Ok(()), Some(partition)) = (element.error(), state.partitions.get_mut(&place)) {
                partition.committed = element.offset().to_raw();
            }
        }
    }

    fn is_committed(&self) -> bool {
        is_control() || self.lock().partitions.values().all(|p| p.saved.next < 0 || p.committed == Some(p.saved.next))
    }

    fn finish(&self, consumer: &BaseConsumer<Member>) {
        self.flush();
        let until = Instant::now() + COMMIT_MAX;
        self.settle(consumer, CommitMode::Sync, None);
        while !self.is_committed() && Instant::now() < until {
            // The group is formed inside; what is read besides is not stored, so it is the next owner's.
            if let Some(Err(error)) = consumer.poll(POLL_MAX) {
                self.quiet.say(&error);
            }
            self.settle(consumer, CommitMode::Sync, None);
        }
        if !self.is_committed() {
            tracing::warn!(
                "the group does not have all positions: what no data directory here remembers is read again"
            );
        }
    }

    /// Partitions that are ours from now on.
    fn assigned(&self, consumer: &BaseConsumer<Member>, list: &TopicPartitionList) -> TopicPartitionList {
        let cluster = self.cluster(consumer);
        let mut begin = TopicPartitionList::with_capacity(list.count());
        for element in list.elements() {
            let (topic, partition) = (element.topic().to_string(), element.partition());
            let stream = StreamName { cluster: cluster.to_string(), group: self.group.clone(), topic, partition };
            let next = if is_control() { None } else { self.begin(consumer, &stream) };
            let offset = next.map_or(Offset::Stored, Offset::Offset);
            let offset = if is_control() { Offset::Invalid } else { offset };
            if let Err(error) = begin.add_partition_offset(&stream.topic, partition, offset) {
                self.quiet.say(&error);
            }
            tracing::info!(topic = stream.topic, partition, next, "partition is ours");
            let mut state = self.lock();
            state.turn += 1;
            let (place, turn) = ((stream.topic.clone(), partition), state.turn);
            let lease = Arc::new(Lease { cluster: Arc::clone(&cluster), topic: stream.topic.clone(), partition, turn });
            let own = state.positions.as_ref().and_then(|positions| positions.own(&stream).cloned());
            let saved = own.unwrap_or_else(|| StreamPosition::new(stream));
            // What another process wrote since is no matter: the next write says how far this lease is.
            let saved = StreamPosition { next: next.unwrap_or(-1), ..saved };
            state.partitions.insert(place, Partition { lease, next, saved, committed: None, end: None });
        }
        begin
    }

    /// Where a partition begins; `None` where nobody could tell, which reading then finds out.
    fn begin(&self, consumer: &BaseConsumer<Member>, stream: &StreamName) -> Option<i64> {
        let kept = self.lock().positions.as_ref().map(|positions| positions.next(stream));
        match kept {
            Some(Ok(Some(next))) => return Some(next),
            Some(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "positions cannot be read; those of the group count");
            }
            _ => {}
        }
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&stream.topic, stream.partition);
        let committed = consumer.committed_offsets(asked, ANSWER_MAX).and_then(|answer| {
            let element = answer.find_partition(&stream.topic, stream.partition);
            element.map_or(Ok(Offset::Invalid), |element| element.error().map(|()| element.offset()))
        });
        match committed {
            Ok(Offset::Offset(next)) => Some(next),
            Ok(_) => match consumer.fetch_watermarks(&stream.topic, stream.partition, ANSWER_MAX) {
                Ok((low, _)) if self.start == Start::Earliest => Some(low),
                Ok((_, high)) => Some(high),
                Err(error) => {
                    self.quiet.say(&error);
                    None
                }
            },
            Err(error) => {
                self.quiet.say(&error);
                None
            }
        }
    }

    /// Its id, or the name that the user gave it.
    fn cluster(&self, consumer: &BaseConsumer<Member>) -> Arc<str> {
        if let Some(known) = &self.lock().cluster {
            return Arc::clone(known);
        }
        // We are a member of a group: a broker has answered, and all have said which cluster they are of.
        let found = self.named.clone().or_else(|| consumer.client().fetch_cluster_id(ANSWER_MAX));
        let cluster: Arc<str> = found.unwrap_or_else(|| "unnamed".into()).into();
        self.lock().cluster = Some(Arc::clone(&cluster));
        cluster
    }

    /// Partitions that are not ours any more: what was read of them is stored and committed first.
    fn revoked(&self, consumer: &BaseConsumer<Member>, list: &TopicPartitionList) {
        self.flush();
        if consumer.assignment_lost() {
            tracing::info!("partitions were lost to another member of the group");
        } else {
            self.settle(consumer, CommitMode::Sync, Some(list));
        }
        let mut state = self.lock();
        for element in list.elements() {
            let place = (element.topic().to_string(), element.partition());
            let Some(partition) = state.partitions.remove(&place) else { continue };
            // What could not be handed over is the next owner's.
            state.batch.messages.retain(|message| message.lease != partition.lease);
            state.batch.missing.retain(|missing| missing.lease != partition.lease);
            self.progress.forget(&partition.lease);
            state.batch.over.push(partition.lease);
        }
    }

    /// A position is not in the topic: finds which, tells it, and goes on where the topic does.
    fn out_of_range(&self, consumer: &BaseConsumer<Member>) {
        let known: Vec<_> = {
            let state = self.lock();
            let all = state.partitions.values();
            all.map(|p| (Arc::clone(&p.lease), p.next, p.end, p.saved.stream.clone())).collect()
        };
        for (lease, next, told, stream) in known {
            let Some(position) = next.or_else(|| self.begin(consumer, &stream)) else { continue };
            let (low, end) = match consumer.fetch_watermarks(&lease.topic, lease.partition, ANSWER_MAX) {
                Ok(range) => range,
                Err(error) => {
                    self.quiet.say(&error);
                    continue;
                }
            };
            let missing = |why, messages: i64| {
                let messages = u64::try_from(messages).unwrap_or(0);
                Missing { lease: Arc::clone(&lease), position, goes_on: low, end, messages, why }
            };
            let missing = match () {
                () if position < low => Some(missing(Why::Deleted, low - position)),
                () if position > end => {
                    Some(missing(Why::Restarted, told.map_or(0, |told| told.saturating_sub(position))))
                }
                () => None,
            };
            let goes_on = missing.as_ref().map_or(position, |missing| missing.goes_on);
            {
                let mut state = self.lock();
                let place = (lease.topic.clone(), lease.partition);
                if let Some(partition) = state.partitions.get_mut(&place) {
                    (partition.next, partition.end) = (Some(goes_on), Some(end));
                }
                if let Some(missing) = missing {
                    tracing::warn!(
                        topic = lease.topic,
                        partition = lease.partition,
                        position,
                        goes_on,
                        why = missing.why.as_str(),
                        "the topic does not have the position any more"
                    );
                    state.batch.missing.push(missing);
                }
            }
            // The partitions that are not meant are told to stay where they are, which does no harm.
            if let Err(error) = self.go_on_at(consumer, &lease, goes_on) {
                self.quiet.say(&error);
            }
        }
    }

    /// Reads a partition from `offset` on; one that has stopped at a position it does not have is assigned anew.
    fn go_on_at(&self, consumer: &BaseConsumer<Member>, lease: &Lease, offset: i64) -> Result<(), Client> {
        let (topic, partition) = (&lease.topic, lease.partition);
        if consumer.seek(topic, partition, Offset::Offset(offset), ANSWER_MAX).is_ok() {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        if is_cooperative(consumer) {
            list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
            consumer.incremental_unassign(&list)?;
            return consumer.incremental_assign(&list);
        }
        // All of them, because this protocol knows whole assignments only; the others go on where they are.
        for ((topic, partition), known) in &self.lock().partitions {
            list.add_partition_offset(topic, *partition, known.next.map_or(Offset::Stored, Offset::Offset))?;
        }
        consumer.assign(&list)
    }
}

fn is_cooperative(consumer: &BaseConsumer<Member>) -> bool {
    matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative)
}

impl State {
    /// Whether the batch in hand goes on now.
    fn is_due(&self) -> bool {
        let is_full = self.batch.messages.len() >= BATCH_MESSAGES_MAX || self.batch.bytes >= BATCH_BYTES_MAX;
        let is_old = self.batch_since.is_some_and(|since| since.elapsed() >= LINGER);
        // Messages behind a gap go into the next one, so that the gap stands before them.
        is_full || is_old || !self.batch.missing.is_empty() || !self.batch.over.is_empty()
    }
}

impl Partition {
    /// What is to be written, if anything changed.
    fn moved(&mut self, progress: &Progress, now_unix_us: i64) -> Option<StreamPosition> {
        let reached = progress.take(&self.lease);
        let next = reached.map(|reached| reached.next).or(self.next.filter(|_| self.saved.next < 0))?;
        let end = self.end.map(|end| end.max(next));
        if next == self.saved.next && end == self.saved.end && self.saved.updated_unix_us != 0 {
            return None;
        }
        let counts = reached.unwrap_or_default();
        self.saved.next = next;
        self.saved.end = end;
        self.saved.messages += counts.messages;
        self.saved.rejected += counts.rejected;
        self.saved.dead_lettered += counts.dead_lettered;
        self.saved.updated_unix_us = now_unix_us;
        Some(self.saved.clone())
    }
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        client::log(level, facility, text);
    }

    fn error(&self, error: Client, _reason: &str) {
        // Of a position that is not there `poll` tells too.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AutoOffsetReset) {
            self.quiet.say(&error);
        }
    }

    fn stats(&self, statistics: Statistics) {
        let mut state = self.lock();
        for (topic, about) in &statistics.topics {
            for (partition, about) in &about.partitions {
                if let Some(known) = state.partitions.get_mut(&(topic.clone(), *partition))
                    && about.hi_offset >= 0
                {
                    known.end = Some(about.hi_offset);
                }
            }
        }
    }
}

impl ConsumerContext for Member {
    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        match result {
            Ok(()) => self.committed(offsets),
            Err(error) => self.quiet.say(&error),
        }
    }

    fn rebalance(&self, consumer: &BaseConsumer<Member>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let is_cooperative = is_cooperative(consumer);
        let outcome = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                let begin = self.assigned(consumer, list);
                if is_cooperative { consumer.incremental_assign(&begin) } else { consumer.assign(&begin) }
            }
            _ => {
                self.revoked(consumer, list);
                if is_cooperative { consumer.incremental_unassign(list) } else { consumer.unassign() }
            }
        };
        if let Err(error) = outcome {
            self.quiet.say(&error);
        }
    }
}

fn now_unix_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
