//! Looking rows up by what they bear: event ids, typed keys, bare values, stamps.
//!
//! Invariants
//! - hashes only say where to look; a row counts when its own columns say so

use std::collections::HashSet;

use threadline_schemas::{Key, KeyKind, Record};
use uuid::Uuid;

use crate::{
    hash::{Domain, hash},
    sidecar::{Probe, probes_for_any},
};

/// What rows are looked up by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyQuery {
    /// A key in its text form, `kind:value` or `kind:scope/value`.
    Typed(String),
    /// The bare value of any key, or an event id, or a stamp.
    Any(String),
}

/// Keys to look for, and the hashes under which they are filed.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    probes: Vec<Probe>,
    events: HashSet<Uuid>,
    typed: HashSet<String>,
    values: HashSet<String>,
}

impl Wanted {
    /// What a row says about the keys it bears.
    pub(crate) const COLUMNS: &[&str] = &["event_id", "keys", "session_key", "turn_key", "call_key"];

    pub(crate) fn new(keys: &[KeyQuery]) -> Wanted {
        let mut wanted =
            Wanted { probes: Vec::new(), events: HashSet::new(), typed: HashSet::new(), values: HashSet::new() };
        for key in keys {
            match key {
                KeyQuery::Typed(text) => {
                    wanted.probes.push(Probe::Key(hash(Domain::Typed, text)));
                    wanted.typed.insert(text.clone());
                }
                KeyQuery::Any(value) => {
                    wanted.probes.extend(probes_for_any(value));
                    wanted.events.extend(Uuid::parse_str(value).ok());
                    // As keys keep it, which is by digest where it is very long.
                    wanted.values.insert(Key::new(KeyKind::Request, value).value);
                    wanted.values.insert(value.clone());
                }
            }
        }
        wanted
    }

    /// Under what to look.
    pub(crate) fn probes(&self) -> &[Probe] {
        &self.probes
    }

    /// Whether a row really bears one of the keys.
    pub(crate) fn matches(&self, record: &Record) -> bool {
        self.events.contains(&record.event_id)
            || record.keys.iter().any(|key| self.typed.contains(key))
            || (!self.values.is_empty() && self.matches_value(record))
    }

    fn matches_value(&self, record: &Record) -> bool {
        let stamps = [Some(&record.session_key), record.turn_key.as_ref(), record.call_key.as_ref()];
        stamps.into_iter().flatten().any(|stamp| self.values.contains(stamp))
            || record.keys.iter().any(|key| Key::parse(key).is_some_and(|key| self.values.contains(&key.value)))
    }
}
