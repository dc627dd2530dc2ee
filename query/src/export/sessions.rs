//! What the sessions of an export say of themselves, for events that have to answer alone: who, which agent, which session.
//!
//! A session is what equal ids hold together ([`close`]); what the linker judged is left out, so nobody is named on a guess.
//! What its records say differently is not told.
//!
//! Invariants
//! - facts of at most [`CACHED_MAX`] sessions are held

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use threadline_schemas::Record;
use threadline_schemas::ocsf::SessionFacts;
use threadline_store::RowId;
use uuid::Uuid;

use crate::closure::{Closure, NONE, close};
use crate::fact::{FactView, Facts};
use crate::index::Indexed;

/// Sessions whose facts are held.
const CACHED_MAX: usize = 50_000;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Sessions(Known);

#[derive(Debug)]
enum Known {
    /// Of one session, whose records were at hand.
    Told { facts: Vec<SessionFacts>, of: HashMap<RowId, u32> },
    /// Of the whole store.
    Indexed {
        index: Arc<Indexed>,
        /// Position of each file's first row.
        starts: HashMap<u32, u32>,
        exact: Option<Closure>,
        facts: HashMap<u32, SessionFacts>,
    },
}

impl Sessions {
    /// Of the records of one session.
    pub(super) fn told(records: &[Record], places: &HashMap<Uuid, RowId>) -> Sessions {
        let blocks = Facts::of(records).finish();
        let view = FactView::new(vec![&blocks]);
        let closure = close(&view);
        let facts = closure.sessions.iter().map(|session| facts(&view, &session.rows)).collect();
        let of = closure.session_of.iter().zip(records).filter(|(session, _)| **session != NONE);
        let of = of.filter_map(|(session, record)| Some((*places.get(&record.event_id)?, *session))).collect();
        Sessions(Known::Told { facts, of })
    }

    /// Of a snapshot. Takes as long as closing over all its records where the linker has judged any.
    pub(super) fn indexed(index: Arc<Indexed>) -> Sessions {
        let exact = (!index.judged.is_empty()).then(|| close(&index.view()));
        Sessions(Known::Indexed { starts: index.starts(), index, exact, facts: HashMap::new() })
    }

    /// What is known of the sessions of these rows, for each.
    pub(super) fn of(&mut self, rows: &[RowId]) -> Vec<SessionFacts> {
        match &mut self.0 {
            Known::Told { facts: all, of } => {
                let told = |row: &RowId| all.get(*of.get(row)? as usize).cloned();
                rows.iter().map(|row| told(row).unwrap_or_default()).collect()
            }
            Known::Indexed { index, starts, exact, facts: cache } => {
                let closure = exact.as_ref().unwrap_or(&index.closure);
                let mut told = |row: &RowId| {
                    let at = *starts.get(&row.file)? + row.row;
                    let session = *closure.session_of.get(at as usize)?;
                    let closed = closure.sessions.get(session as usize)?;
                    if cache.len() >= CACHED_MAX {
                        cache.clear();
                    }
                    Some(cache.entry(session).or_insert_with(|| facts(&index.view(), &closed.rows)).clone())
                };
                rows.iter().map(|row| told(row).unwrap_or_default()).collect()
            }
        }
    }
}

/// What all of these records that say something say.
fn facts(view: &FactView<'_>, rows: &[u32]) -> SessionFacts {
    let [mut conversations, mut proven, mut claimed, mut agents] = [const { BTreeSet::new() }; 4];
    for at in rows {
        let (block, fact) = view.at(*at);
        for (names, id) in [
            (&mut conversations, fact.conversation),
            (&mut proven, fact.user_authenticated),
            (&mut claimed, fact.user_claimed),
            (&mut agents, fact.agent),
        ] {
            // Two are as good as more.
            if id != 0 && names.len() < 2 {
                names.insert(block.name(id));
            }
        }
    }
    let one = |names: &BTreeSet<&str>| names.first().filter(|_| names.len() == 1).map(|name| (*name).to_string());
    let user = one(if proven.is_empty() { &claimed } else { &proven });
    SessionFacts {
        conversation: one(&conversations),
        is_authenticated: !proven.is_empty() && user.is_some(),
        user,
        agent: one(&agents),
    }
}
