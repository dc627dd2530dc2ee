//! What sessions say of themselves, for records of them that do not: who, with which agent, in which conversation.
//!
//! Learned from committed records in their order, by ids that are equal, and never by judging: a record is of the
//! conversation that it names, else of the one that its tool call, JSON-RPC exchange, turn, trace or stdio process was named
//! in. A user or agent that is named later is not known earlier; an export of the session knows all of it.
//!
//! Invariants
//! - what two records say differently is not known: an id that is borne by two conversations, or two users, tells nothing
//! - an id tells of what happens within [`REACH_NANOS`] of its last record, because some programs begin again with their ids
//!   or have one trace for ever, and a tool call's or turn's tells only if it is long enough not to be chosen twice
//! - at most twice [`KEYS_MAX`] ids are remembered, the ones that were seen last, and no name longer than [`NAME_BYTES_MAX`]
//! - the same records in the same order make the same state; it is kept with the position up to which it was learned, so a
//!   restart changes nothing
//!
//! Not here: HTTP connections and MCP sessions, which gateways share between users; what correlation believes.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use threadline_schemas::decode::stdio_capture::DECODER;
use threadline_schemas::ocsf::SessionFacts;
use threadline_schemas::{Key, KeyKind, Record};

/// Ids that are remembered since the last time that as many were new.
pub(super) const KEYS_MAX: usize = 8_192;
/// Longest name that is carried over, bytes.
const NAME_BYTES_MAX: usize = 256;
/// Longest time between two records of one id, nanoseconds (one hour).
const REACH_NANOS: u64 = 3_600_000_000_000;
/// Shortest id of a tool call or turn that is believed to be the only one, bytes.
const ID_BYTES_MIN: usize = 16;
/// Keys of one record that are looked at.
const KEYS_PER_RECORD_MAX: usize = 32;

/// What all who say something say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Said {
    Nothing,
    One(String),
    Several,
}

impl Said {
    fn add(&mut self, name: Option<&String>) {
        let Some(name) = name else { return };
        match self {
            Said::Nothing => *self = Said::One(name.clone()),
            Said::One(known) if known == name => {}
            Said::One(_) | Said::Several => *self = Said::Several,
        }
    }

    fn one(&self) -> Option<&String> {
        match self {
            Said::One(name) => Some(name),
            Said::Nothing | Said::Several => None,
        }
    }
}

/// What is known of one id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    conversation: Said,
    authenticated: Said,
    claimed: Said,
    agent: Said,
    /// Of its last record, nanoseconds.
    time: i64,
}

impl Entry {
    fn new() -> Entry {
        let nothing = || Said::Nothing;
        Entry { conversation: nothing(), authenticated: nothing(), claimed: nothing(), agent: nothing(), time: 0 }
    }
}

/// See the head of this file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known {
    young: HashMap<u128, Entry>,
    old: HashMap<u128, Entry>,
}

/// The same as it is written down, in one order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    young: Vec<(String, Entry)>,
    old: Vec<(String, Entry)>,
}

impl Known {
    /// Learns what a record says.
    pub(super) fn learn(&mut self, record: &Record) {
        let ids = ids(record);
        let carried = |name: &Option<String>| {
            name.as_deref().filter(|name| !name.is_empty() && name.len() <= NAME_BYTES_MAX).map(str::to_string)
        };
        let own = carried(&record.conversation_id);
        let conversation = own.or_else(|| self.conversation(record, &ids));
        let (authenticated, claimed) = (carried(&record.user_authenticated), carried(&record.user_claimed));
        let agent = carried(&record.agent_name).or_else(|| carried(&record.client_name));
        // What is said in a conversation is said of it; of other ids only that they are of it.
        let of_conversation = conversation.as_deref().map(|name| id_of_conversation(record, name));
        for (kind, id) in ids.iter().copied().chain(of_conversation.map(|id| (KeyKind::Conversation, id))) {
            let entry = self.entry(id);
            entry.time = record.time_unix_nano;
            if kind != KeyKind::Conversation {
                entry.conversation.add(conversation.as_ref());
            }
            if kind == KeyKind::Conversation || conversation.is_none() {
                entry.authenticated.add(authenticated.as_ref());
                entry.claimed.add(claimed.as_ref());
                entry.agent.add(agent.as_ref());
            }
        }
    }

    /// What is known of the session of a record.
    pub(super) fn of(&self, record: &Record) -> SessionFacts {
        let ids = ids(record);
        let own = record.conversation_id.as_deref().filter(|name| !name.is_empty()).map(str::to_string);
        let conversation = own.or_else(|| self.conversation(record, &ids));
        let home = conversation.as_deref().map(|name| id_of_conversation(record, name));
        let places: Vec<u128> = match home {
            Some(home) => vec![home],
            None => ids.iter().filter(|(kind, id)| self.tells(*kind, *id, record)).map(|(_, id)| *id).collect(),
        };
        let entries = || places.iter().filter_map(|id| self.get(*id));
        let all = |said: fn(&Entry) -> &Said| {
            let mut all = Said::Nothing;
            for entry in entries() {
                match said(entry) {
                    Said::Several => all = Said::Several,
                    one => all.add(one.one()),
                }
            }
            all
        };
        let authenticated = all(|entry| &entry.authenticated);
        let claimed = all(|entry| &entry.claimed);
        let is_authenticated = authenticated != Said::Nothing;
        let user = if is_authenticated { authenticated } else { claimed };
        let (user, agent) = (user.one().cloned(), all(|entry| &entry.agent).one().cloned());
        SessionFacts { conversation, is_authenticated: is_authenticated && user.is_some(), user, agent }
    }

    /// The one conversation that the ids of a record were named in.
    fn conversation(&self, record: &Record, ids: &[(KeyKind, u128)]) -> Option<String> {
        let mut found = Said::Nothing;
        for (kind, id) in ids.iter().filter(|(kind, id)| self.tells(*kind, *id, record)) {
            let Some(entry) = self.get(*id).filter(|_| *kind != KeyKind::Conversation) else { continue };
            match &entry.conversation {
                Said::Several => return None,
                said => found.add(said.one()),
            }
        }
        found.one().cloned()
    }

    fn tells(&self, kind: KeyKind, id: u128, record: &Record) -> bool {
        let is_near = |entry: &Entry| entry.time.abs_diff(record.time_unix_nano) <= REACH_NANOS;
        kind == KeyKind::Connection || self.get(id).is_some_and(is_near)
    }

    fn get(&self, id: u128) -> Option<&Entry> {
        self.young.get(&id).or_else(|| self.old.get(&id))
    }

    fn entry(&mut self, id: u128) -> &mut Entry {
        if !self.young.contains_key(&id) && self.young.len() >= KEYS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        let old = &mut self.old;
        self.young.entry(id).or_insert_with(|| old.remove(&id).unwrap_or_else(Entry::new))
    }

    /// As it is written down.
    pub(super) fn kept(&self) -> Kept {
        let sorted = |map: &HashMap<u128, Entry>| {
            let mut list: Vec<_> = map.iter().map(|(id, entry)| (format!("{id:032x}"), entry.clone())).collect();
            list.sort_by(|a, b| a.0.cmp(&b.0));
            list
        };
        Kept { young: sorted(&self.young), old: sorted(&self.old) }
    }

    /// What was written down; `None` when it is not that.
    pub(super) fn of_kept(kept: Kept) -> Option<Known> {
        let map = |list: Vec<(String, Entry)>| -> Option<HashMap<u128, Entry>> {
            list.into_iter().map(|(id, entry)| Some((u128::from_str_radix(&id, 16).ok()?, entry))).collect()
        };
        Some(Known { young: map(kept.young)?, old: map(kept.old)? })
    }
}

/// The ids of a record that say which session it is of.
fn ids(record: &Record) -> Vec<(KeyKind, u128)> {
    let is_stdio = record.decoder == DECODER;
    let id_of = |text: &str| {
        let (kind, value) = text.split_once(':')?;
        let kind = KeyKind::parse(kind)?;
        let tells = match kind {
            KeyKind::ToolCall | KeyKind::Turn => value.len() >= ID_BYTES_MIN,
            KeyKind::Rpc | KeyKind::Trace => true,
            // One process serves one client.
            KeyKind::Connection => is_stdio,
            _ => false,
        };
        tells.then(|| (kind, id(record, text)))
    };
    record.keys.iter().take(KEYS_PER_RECORD_MAX).filter_map(|text| id_of(text)).collect()
}

fn id_of_conversation(record: &Record, name: &str) -> u128 {
    id(record, &Key::new(KeyKind::Conversation, name).to_string())
}

fn id(record: &Record, key: &str) -> u128 {
    let mut digest = Sha256::new();
    digest.update(record.tenant.as_bytes());
    digest.update([0]);
    digest.update(key.as_bytes());
    let digest: [u8; 32] = digest.finalize().into();
    let mut first = [0; 16];
    first.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use threadline_schemas::Kind;
    use threadline_schemas::stamp::stamp;

    const CALL: &str = "toolu_0123456789abcdef";

    fn record(set: impl Fn(&mut Record)) -> Record {
        let mut record = Record::new("t", "own:1", Kind::Call);
        record.time_unix_nano = 1_784_900_000_000_000_000;
        set(&mut record);
        stamp(&mut record);
        record
    }

    fn said(user: &str, conversation: &str) -> Record {
        record(|r| {
            (r.user_claimed, r.conversation_id) = (Some(user.into()), Some(conversation.into()));
            r.agent_name = Some("claude-code".into());
        })
    }

    fn chosen(conversation: &str) -> Record {
        record(|r| (r.conversation_id, r.tool_call_id) = (Some(conversation.into()), Some(CALL.into())))
    }

    /// As the wire saw it: no conversation, no user.
    fn called(connection: &str, decoder: &str) -> Record {
        record(|r| {
            (r.connection_id, r.tool_call_id) = (Some(connection.into()), Some(CALL.into()));
            r.decoder = decoder.into();
        })
    }

    fn listed(connection: &str, decoder: &str) -> Record {
        record(|r| (r.connection_id, r.decoder) = (Some(connection.into()), decoder.into()))
    }

    fn shown(known: &Known, record: &Record) -> String {
        let facts = known.of(record);
        let text = |name: &Option<String>| name.as_deref().unwrap_or("-").to_string();
        format!("{} {} {}", text(&facts.conversation), text(&facts.user), text(&facts.agent))
    }

    fn learned(records: &[Record]) -> Known {
        let mut known = Known::default();
        records.iter().for_each(|record| known.learn(record));
        known
    }

    #[test]
    fn a_user_reaches_the_records_of_the_conversation_the_call_and_the_process_and_no_other() {
        let known = learned(&[said("ann", "c1"), chosen("c1"), called("p1", DECODER), called("h1", "mcp-http")]);
        let told = "c1 ann claude-code";
        assert_eq!(shown(&known, &chosen("c1")), told);
        assert_eq!(shown(&known, &called("p1", DECODER)), told);
        assert_eq!(shown(&known, &listed("p1", DECODER)), told);
        // A connection over HTTP may be a gateway's, for several users.
        assert_eq!(shown(&known, &listed("h1", "mcp-http")), "- - -");
        assert_eq!(shown(&known, &said("", "c2")), "c2 - -");
        let mut other = chosen("c1");
        other.tenant = "u".into();
        assert_eq!(shown(&known, &other), "c1 - -");
    }

    #[test]
    fn what_is_said_in_two_ways_is_not_known() {
        let known = learned(&[said("ann", "c1"), said("bob", "c1"), said("ann", "c2")]);
        assert_eq!(shown(&known, &chosen("c1")), "c1 - claude-code");
        // Two conversations bear the id of the call.
        let known = learned(&[said("ann", "c1"), said("bob", "c2"), chosen("c1"), chosen("c2")]);
        assert_eq!(shown(&known, &called("p1", DECODER)), "- - -");
        // What an authentication proved is not overruled by a claim.
        let proven = record(|r| {
            (r.user_authenticated, r.conversation_id) = (Some("ann@corp".into()), Some("c3".into()));
        });
        let known = learned(&[said("mallory", "c3"), proven]);
        assert!(known.of(&chosen("c3")).is_authenticated);
        assert_eq!(shown(&known, &chosen("c3")), "c3 ann@corp claude-code");
    }

    #[test]
    fn ids_that_are_short_or_long_past_tell_nothing() {
        let short = |conversation: Option<&str>| {
            record(|r| (r.conversation_id, r.tool_call_id) = (conversation.map(Into::into), Some("call_1".into())))
        };
        let known = learned(&[said("ann", "c1"), short(Some("c1")), chosen("c1")]);
        assert_eq!(shown(&known, &short(None)), "- - -");
        let mut late = called("h1", "mcp-http");
        late.time_unix_nano += REACH_NANOS as i64 + 1;
        assert_eq!(shown(&known, &late), "- - -");
    }

    #[test]
    fn it_is_bounded_keeps_what_is_in_use_and_is_the_same_when_read_again() {
        let mut known = learned(&[said("ann", "c1")]);
        for n in 0..5 * KEYS_MAX {
            known.learn(&said("bob", &format!("other-{n}")));
            if n % 1_000 == 0 {
                known.learn(&chosen("c1"));
            }
            assert!(known.young.len() <= KEYS_MAX && known.old.len() <= KEYS_MAX);
        }
        assert_eq!(shown(&known, &called("p1", DECODER)), "c1 ann claude-code");
        assert_eq!(shown(&known, &chosen("other-7")), "other-7 - -");
        let text = serde_json::to_string(&known.kept()).unwrap();
        assert_eq!(Known::of_kept(serde_json::from_str(&text).unwrap()), Some(known));
    }
}
