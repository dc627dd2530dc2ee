//! What goes from the thread that reads to the task that stores.

use std::sync::Arc;

use rdkafka::message::{BorrowedMessage, Headers, Message as _};

/// A partition for as long as it is ours; taken away and given back it is another lease.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Lease {
    pub(super) cluster: Arc<str>,
    pub(super) topic: String,
    pub(super) partition: i32,
    /// Counts up with every assignment.
    pub(super) turn: u64,
}

impl Lease {
    /// For origins and ids.
    pub(super) fn name(&self) -> String {
        format!("{}/{}/{}", self.cluster, self.topic, self.partition)
    }
}

/// One message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) lease: Arc<Lease>,
    pub(super) offset: i64,
    pub(super) timestamp_ms: Option<i64>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Message {
    pub(super) fn new(lease: &Arc<Lease>, message: &BorrowedMessage<'_>) -> Message {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        Message {
            lease: Arc::clone(lease),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().filter(|timestamp| *timestamp >= 0),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.map(|header| (header.key.to_string(), header.value.map(<[u8]>::to_vec))).collect(),
        }
    }

    /// About what it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + length(value) + 48).sum();
        size_of::<Message>() + length(&self.key) + length(&self.value) + headers
    }
}

/// Offsets that the topic does not have (any more).
#[derive(Debug, Clone)]
pub(super) struct Missing {
    pub(super) lease: Arc<Lease>,
    /// Where reading stood.
    pub(super) position: i64,
    /// Where it goes on.
    pub(super) goes_on: i64,
    /// End of the partition.
    pub(super) end: i64,
    /// Messages that were never read, at most: offsets of aborted or compacted messages count.
    pub(super) messages: u64,
    pub(super) why: Why,
}

/// Why offsets are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Deleted, by retention or on request, before they were read.
    Deleted,
    /// The partition ends before the position: it was cut, or made anew under its name.
    Restarted,
}

impl Why {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Why::Deleted => "topic_deleted_messages",
            Why::Restarted => "topic_restarted",
        }
    }
}

/// Messages in order, then what is missing behind them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Counts up from 1.
    pub(super) number: u64,
    pub(super) messages: Vec<Message>,
    pub(super) bytes: usize,
    pub(super) missing: Vec<Missing>,
    /// Leases that are over: nothing follows of them.
    pub(super) over: Vec<Arc<Lease>>,
}

impl Batch {
    pub(super) fn push(&mut self, message: Message) {
        self.bytes += message.bytes();
        self.messages.push(message);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.missing.is_empty() && self.over.is_empty()
    }
}
