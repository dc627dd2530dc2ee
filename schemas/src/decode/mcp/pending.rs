//! Requests of one connection that wait for their response.
//!
//! Invariants
//! - at most [`PENDING_MAX`] requests and [`PENDING_BYTES_MAX`] bytes of what they carry; beyond that the oldest is
//!   dropped and counted, and its response is then recorded as unpaired
//! - of two requests in flight with one id and direction, the exchange decides (HTTP), else the older one is answered

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};

use sha2::{Digest, Sha256};

use crate::columns::Record;
use crate::keys::{Key, KeyKind};
use crate::limits::mcp::{CARRIED_BYTES_MAX, PENDING_BYTES_MAX, PENDING_MAX};
use crate::record::Direction;

/// What a response needs to know of its request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) rpc_id: String,
    pub(crate) direction: Direction,
    pub(crate) exchange: Option<u64>,
    time_unix_nano: Option<i64>,
    tool_name: Option<String>,
    target: Option<String>,
    trace_id: Option<String>,
    parent_span_id: Option<String>,
    conversation_id: Option<String>,
    turn_id: Option<String>,
    tool_call_id: Option<String>,
    keys: Vec<String>,
}

impl Asked {
    /// What to keep of a request's record.
    pub(crate) fn of(record: &Record, method: &str, rpc_id: &str, time: Option<i64>, exchange: Option<u64>) -> Self {
        let short = |value: &Option<String>| value.clone().filter(|text| text.len() <= CARRIED_BYTES_MAX);
        let is_shared = |key: &&String| {
            matches!(
                Key::parse(key).map(|key| key.kind),
                Some(
                    KeyKind::Trace
                        | KeyKind::ParentSpan
                        | KeyKind::Conversation
                        | KeyKind::Turn
                        | KeyKind::Rpc
                        | KeyKind::Task
                )
            )
        };
        Asked {
            method: method.chars().take(CARRIED_BYTES_MAX).collect(),
            rpc_id: carried_id(rpc_id).into_owned(),
            direction: record.direction.unwrap_or(Direction::ClientToServer),
            exchange,
            time_unix_nano: time,
            tool_name: short(&record.tool_name),
            target: short(&record.target),
            trace_id: short(&record.trace_id),
            parent_span_id: short(&record.parent_span_id),
            conversation_id: short(&record.conversation_id),
            turn_id: short(&record.turn_id),
            tool_call_id: short(&record.tool_call_id),
            keys: record.keys.iter().filter(is_shared).cloned().collect(),
        }
    }

    /// Gives a record of the same exchange the request's name, tool and ids.
    pub(crate) fn carry(&self, record: &mut Record) {
        record.tool_name.clone_from(&self.tool_name);
        record.target.clone_from(&self.target);
        let is_whole = !self.rpc_id.is_empty() && !self.rpc_id.starts_with(DIGEST);
        record.rpc_id = is_whole.then(|| self.rpc_id.clone());
        let carried = [
            (&mut record.trace_id, &self.trace_id),
            (&mut record.parent_span_id, &self.parent_span_id),
            (&mut record.conversation_id, &self.conversation_id),
            (&mut record.turn_id, &self.turn_id),
            (&mut record.tool_call_id, &self.tool_call_id),
        ];
        for (to, from) in carried {
            if to.is_none() {
                to.clone_from(from);
            }
        }
        for key in &self.keys {
            if !record.keys.contains(key) {
                record.keys.push(key.clone());
            }
        }
    }

    /// The task that the request is about.
    pub(crate) fn task(&self) -> Option<&str> {
        self.target.as_deref().filter(|_| self.method.starts_with("tasks/") && self.method != "tasks/list")
    }

    /// Nanoseconds from the request to `time`.
    pub(crate) fn duration_to(&self, time: Option<i64>) -> Option<i64> {
        time?.checked_sub(self.time_unix_nano?).filter(|nanos| *nanos >= 0)
    }

    fn bytes(&self) -> usize {
        let columns = [
            &self.tool_name,
            &self.target,
            &self.trace_id,
            &self.parent_span_id,
            &self.conversation_id,
            &self.turn_id,
            &self.tool_call_id,
        ];
        let columns: usize = columns.iter().filter_map(|column| column.as_ref()).map(String::len).sum();
        let keys: usize = self.keys.iter().map(String::len).sum();
        size_of::<Self>() + self.method.len() + 2 * self.rpc_id.len() + columns + keys
    }
}

/// How a carried id begins that was too long; no JSON does.
const DIGEST: &str = "sha256:";

/// An id that can be kept: the JSON text, or its digest when that is long.
fn carried_id(rpc_id: &str) -> Cow<'_, str> {
    match rpc_id.len() <= CARRIED_BYTES_MAX {
        true => Cow::Borrowed(rpc_id),
        false => Cow::Owned(format!("{DIGEST}{}", hex::encode(Sha256::digest(rpc_id)))),
    }
}

/// The waiting requests, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    waiting: BTreeMap<u64, Asked>,
    by_id: HashMap<(Direction, String), VecDeque<u64>>,
    next: u64,
    bytes: usize,
    dropped: u64,
}

impl Pending {
    /// Enters a request.
    pub(crate) fn insert(&mut self, asked: Asked) {
        self.bytes += asked.bytes();
        self.by_id.entry((asked.direction, asked.rpc_id.clone())).or_default().push_back(self.next);
        self.waiting.insert(self.next, asked);
        self.next += 1;
        while self.waiting.len() > PENDING_MAX || (self.bytes > PENDING_BYTES_MAX && self.waiting.len() > 1) {
            let Some(oldest) = self.waiting.keys().next().copied() else { break };
            self.remove(oldest);
            self.dropped += 1;
        }
    }

    /// Takes the request that a response with this id answers. `direction` is that of the request.
    pub(crate) fn take(&mut self, direction: Direction, rpc_id: &str, exchange: Option<u64>) -> Option<Asked> {
        let number = self.find(direction, rpc_id, exchange)?;
        self.remove(number)
    }

    /// The request with this id, left waiting.
    pub(crate) fn get(&self, direction: Direction, rpc_id: &str, exchange: Option<u64>) -> Option<&Asked> {
        self.waiting.get(&self.find(direction, rpc_id, exchange)?)
    }

    /// Takes every request of an HTTP exchange, in order.
    pub(crate) fn take_exchange(&mut self, exchange: u64) -> Vec<Asked> {
        let of_exchange = |asked: &Asked| asked.exchange == Some(exchange);
        let numbers: Vec<u64> =
            self.waiting.iter().filter(|(_, a)| of_exchange(a)).map(|(number, _)| *number).collect();
        numbers.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    /// Ids of the requests of an HTTP exchange that wait.
    pub(crate) fn ids_of_exchange(&self, exchange: u64) -> Vec<String> {
        let of_exchange = self.waiting.values().filter(|asked| asked.exchange == Some(exchange));
        of_exchange.map(|asked| asked.rpc_id.clone()).take(8).collect()
    }

    /// Drops and counts all that wait.
    pub(crate) fn forget(&mut self) {
        *self = Pending { next: self.next, dropped: self.dropped + self.waiting.len() as u64, ..Pending::default() };
    }

    /// Bytes of what waits.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Requests that were dropped because too many waited.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn find(&self, direction: Direction, rpc_id: &str, exchange: Option<u64>) -> Option<u64> {
        let numbers = self.by_id.get(&(direction, carried_id(rpc_id).into_owned()))?;
        let same_exchange = numbers.iter().find(|number| {
            exchange.is_some() && self.waiting.get(number).is_some_and(|asked| asked.exchange == exchange)
        });
        same_exchange.or(numbers.front()).copied()
    }

    fn remove(&mut self, number: u64) -> Option<Asked> {
        let asked = self.waiting.remove(&number)?;
        self.bytes -= asked.bytes();
        let key = (asked.direction, asked.rpc_id.clone());
        if let Some(numbers) = self.by_id.get_mut(&key) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_id.remove(&key);
            }
        }
        Some(asked)
    }
}
