//! Which connections the events of a gap belonged to.
//!
//! Invariants
//! - an exchange whose request was decoded belongs to the connection that the decoder gave it; one whose request is missing
//!   too belongs to the connections that its sender had before, of which several may look alike
//! - bounds: [`EXCHANGES_MAX`] exchanges, [`CONNECTIONS_MAX`] senders, [`ALIKE_MAX`] connections of each, the oldest leave;
//!   a gap names [`SHARES_MAX`] connections, the rest is nobody's
//!
//! Not here: what makes a connection (`schemas::decode::http`).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use threadline_schemas::limits::http::{CONNECTIONS_MAX, EXCHANGES_MAX};

use super::Counts;
use super::observation::{Gap, Sender, Whose};

/// Connections of one sender that are remembered.
const ALIKE_MAX: usize = 8;
/// Connections that one gap names.
const SHARES_MAX: usize = 1_024;

/// Connections by exchange and sender.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: BTreeMap<u64, Arc<str>>,
    /// Newest last.
    senders: HashMap<Sender, Vec<Arc<str>>>,
    /// Oldest first.
    order: VecDeque<Sender>,
}

/// What of a gap was one connection's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) counts: Counts,
    /// How many other connections they may have been of.
    pub(super) alike: usize,
}

impl Connections {
    /// A request was decoded.
    pub(super) fn begin(&mut self, exchange: u64, sender: Sender, connection: &str) {
        let connection: Arc<str> = connection.into();
        if self.open.len() >= EXCHANGES_MAX {
            self.open.pop_first();
        }
        self.open.insert(exchange, Arc::clone(&connection));
        self.remember(sender, connection);
    }

    /// The server gave the connection of this exchange a session id.
    pub(super) fn name(&mut self, exchange: u64, session: &[u8]) {
        if let Some(connection) = self.open.get(&exchange).cloned() {
            self.remember(Sender::of_session(session), connection);
        }
    }

    /// The exchange is over.
    pub(super) fn end(&mut self, exchange: u64) {
        self.open.remove(&exchange);
    }

    /// Who has which share of a gap, and what is nobody's.
    pub(super) fn shares(&self, gap: &Gap) -> (BTreeMap<Arc<str>, Share>, Counts) {
        let mut shares: BTreeMap<Arc<str>, Share> = BTreeMap::new();
        let mut rest = Counts { events: gap.events, bytes: gap.bytes };
        for (whose, counts) in &gap.whose {
            let (exchange, sender) = match whose {
                Whose::Exchange(exchange, sender) => (self.open.get(exchange), sender),
                Whose::Sender(sender) => (None, sender),
            };
            let connections = match exchange {
                Some(connection) => std::slice::from_ref(connection),
                None => self.senders.get(sender).map(Vec::as_slice).unwrap_or_default(),
            };
            let mut is_told = false;
            for connection in connections {
                if shares.len() >= SHARES_MAX && !shares.contains_key(connection) {
                    continue;
                }
                let share = shares.entry(Arc::clone(connection)).or_default();
                share.counts.add(counts.events, counts.bytes);
                share.alike = share.alike.max(connections.len() - 1);
                is_told = true;
            }
            if is_told {
                rest.events -= counts.events.min(rest.events);
                rest.bytes -= counts.bytes.min(rest.bytes);
            }
        }
        (shares, rest)
    }

    fn remember(&mut self, sender: Sender, connection: Arc<str>) {
        if !self.senders.contains_key(&sender) {
            if self.order.len() >= CONNECTIONS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.senders.remove(&oldest);
            }
            self.order.push_back(sender);
        }
        let connections = self.senders.entry(sender).or_default();
        if connections.contains(&connection) {
            return;
        }
        if connections.len() >= ALIKE_MAX {
            connections.remove(0);
        }
        connections.push(connection);
    }
}
