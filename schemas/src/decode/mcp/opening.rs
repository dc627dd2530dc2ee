//! Where one connection ends and the next begins in a recording that holds several.
//!
//! A client of 2026-07-28 probes with `server/discover` and falls back to `initialize` when that is
//! refused: one connection. After a connection is established (an `initialize`, or a discover that
//! succeeded), another `initialize`, or a discover whose id starts over, begins the next.

use super::message::{self, Shape};
use crate::json::Json;
use crate::record::Direction;

/// How far a connection has come.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// Id of a discover that has no answer yet.
    probe: Option<String>,
    is_probed: bool,
    is_established: bool,
}

impl Opening {
    /// Takes note of a message; `true`: it belongs to a new connection, for which this now stands.
    pub(crate) fn begins_next(&mut self, value: &Json, direction: Direction) -> bool {
        let Ok(message) = message::read(value) else { return false };
        let is_first_id = matches!(message.id.as_deref(), Some("0" | "1"));
        match (message.shape, direction) {
            (Shape::Request("initialize"), Direction::ClientToServer) => {
                let is_next = self.is_established;
                *self = Opening { is_established: true, ..Opening::default() };
                is_next
            }
            (Shape::Request("server/discover"), Direction::ClientToServer) => {
                let is_next = is_first_id && (self.is_established || self.is_probed);
                if is_next || !self.is_established {
                    *self = Opening {
                        probe: message.id.filter(|id| id.len() <= 64),
                        is_probed: true,
                        is_established: false,
                    };
                }
                is_next
            }
            (Shape::Result(_), Direction::ServerToClient) if message.id == self.probe && self.probe.is_some() => {
                self.is_established = true;
                false
            }
            _ => false,
        }
    }
}
