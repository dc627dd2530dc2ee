//! Which connection an HTTP request without `Mcp-Session-Id` belongs to.
//!
//! Revision 2026-07-28 has no sessions, so the recording shows exchanges only. A request joins a
//! connection when it comes from the same claimed client and its JSON-RPC id goes on from there (unused,
//! and at most [`ID_STEP_MAX`] away). An id that was used already begins another connection. When an id
//! fits two, several clients that look alike are talking at once: from then on each of their exchanges
//! is a connection of its own, because a false merge is worse than an open question.

use std::collections::{HashSet, VecDeque};

use crate::json::Json;
use crate::limits::http::{GROUPS_MAX, ID_STEP_MAX, MIXED_MAX, RECENT_MAX};

/// Who sent a request, as far as it can be seen.
#[derive(Debug)]
pub(super) struct Sender {
    /// Digest of user agent, host, path and credential.
    pub(super) identity: String,
    /// `clientInfo`, which not every message carries.
    pub(super) client_name: Option<String>,
}

/// The connections without a session id.
#[derive(Debug, Default)]
pub(super) struct Sessionless {
    groups: VecDeque<Group>,
    mixed: HashSet<String>,
}

#[derive(Debug)]
struct Group {
    connection: u64,
    sender: Sender,
    recent: VecDeque<i64>,
}

impl Sessionless {
    /// The connection of a request with this id (`None`: a notification or response), if it is known.
    /// An `initialize` continues a connection only where nothing but a probe came before.
    pub(super) fn find(&mut self, sender: &Sender, id: Option<&Json>, is_initialize: bool) -> Option<u64> {
        let number = id.and_then(Json::as_i64);
        let fits = |group: &Group| {
            group.sender.is_like(sender)
                && number.is_none_or(|id| group.goes_on(id))
                && !(is_initialize && group.recent.len() > 1)
        };
        let mut fitting = self.groups.iter_mut().filter(|group| fits(group));
        let first = fitting.next()?;
        if fitting.next().is_none() {
            number.into_iter().for_each(|id| first.note(id));
            return Some(first.connection);
        }
        self.groups.retain(|group| group.sender.identity != sender.identity);
        self.mixed.insert(sender.identity.clone());
        None
    }

    /// Remembers a new connection under its first request.
    pub(super) fn begin(&mut self, connection: u64, sender: Sender, id: Option<&Json>) {
        let Some(id) = id.and_then(Json::as_i64) else { return };
        if self.mixed.len() >= MIXED_MAX || self.mixed.contains(&sender.identity) {
            return;
        }
        if self.groups.len() == GROUPS_MAX {
            self.groups.pop_front();
        }
        self.groups.push_back(Group { connection, sender, recent: VecDeque::from([id]) });
    }

    /// The connection got a session id: requests without one no longer belong to it.
    pub(super) fn end(&mut self, connection: u64) {
        self.groups.retain(|group| group.connection != connection);
    }
}

impl Sender {
    fn is_like(&self, other: &Sender) -> bool {
        let differs = |(a, b): (&String, &String)| a != b;
        self.identity == other.identity
            && !self.client_name.as_ref().zip(other.client_name.as_ref()).is_some_and(differs)
    }
}

impl Group {
    fn goes_on(&self, id: i64) -> bool {
        let highest = self.recent.iter().max().copied().unwrap_or(i64::MIN);
        id.abs_diff(highest) <= ID_STEP_MAX.unsigned_abs() && !self.recent.contains(&id)
    }

    fn note(&mut self, id: i64) {
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
    }
}
