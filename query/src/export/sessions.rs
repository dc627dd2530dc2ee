//! What the sessions of an export say of themselves, for events that have to answer alone: who, which agent, which session,
//! and of which chain and call a record is.
//!
//! Who is told by what equal ids hold together ([`close`]); what the linker judged is left out, so nobody is named on a guess.
//! What records say differently is not told. Chains are those of the session as its page shows it (`chained`).
//!
//! Invariants
//! - facts of at most [`CACHED_MAX`] sessions are held, 16 bytes for each of their records

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use threadline_schemas::Record;
use threadline_schemas::ocsf::SessionFacts;
use threadline_store::{RowId, Snapshot};
use uuid::Uuid;

use super::chained::Chained;
use crate::closure::{Closure, NONE, Why, close};
use crate::error::QueryError;
use crate::fact::{self, FactView, Facts};
use crate::index::Indexed;
use crate::links::Contest;
use crate::model::Grade;
use crate::session::Options;

/// Sessions whose facts are held.
const CACHED_MAX: usize = 50_000;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Sessions(Known);

#[derive(Debug)]
enum Known {
    /// Of one session, whose records were at hand.
    Told { facts: Vec<SessionFacts>, of: HashMap<RowId, (u32, u32)>, chained: Chained },
    /// Of the whole store.
    Indexed {
        index: Arc<Indexed>,
        /// Position of each file's first row.
        starts: HashMap<u32, u32>,
        exact: Option<Closure>,
        /// Hashes of keys that several sessions bear.
        shared: HashSet<u64>,
        facts: HashMap<u32, SessionFacts>,
        chained: HashMap<u32, Chained>,
    },
}

impl Sessions {
    /// Of the records of one session, as links of a grade hold them together.
    pub(super) fn told(records: &[Record], places: &HashMap<Uuid, RowId>, contest: &Contest, floor: Grade) -> Sessions {
        let blocks = Facts::of(records).finish();
        let view = FactView::new(vec![&blocks]);
        let closure = close(&view);
        let facts = closure.sessions.iter().map(|session| facts(&view, &session.rows)).collect();
        let all: Vec<u32> = (0..view.len()).collect();
        let shared = contest.keys.iter().filter(|(_, why)| is_shared(**why)).map(|(key, _)| fact::hash(key)).collect();
        let mut chained = Chained::of(&view, &all, &shared, contest.judged.as_deref(), floor);
        for at in all {
            if let Some(lead) = chained.unnamed(at) {
                chained.name(lead, &records[lead as usize]);
            }
        }
        let of = closure.session_of.iter().zip(records).zip(0..);
        let of =
            of.filter_map(|((session, record), at)| Some((*places.get(&record.event_id)?, (*session, at)))).collect();
        Sessions(Known::Told { facts, of, chained })
    }

    /// Of a snapshot. Takes as long as closing over all its records where the linker has judged any.
    pub(super) fn indexed(index: Arc<Indexed>) -> Sessions {
        let exact = (!index.judged.is_empty()).then(|| close(&index.view()));
        let (facts, chained) = (HashMap::new(), HashMap::new());
        let contested = index.closure.contested.iter().filter(|contested| is_shared(contested.why));
        let shared = contested.map(|contested| contested.key.hash).collect();
        Sessions(Known::Indexed { starts: index.starts(), index, exact, shared, facts, chained })
    }

    /// What is known of these rows, for each.
    pub(super) async fn of(
        self,
        snapshot: &Snapshot,
        rows: &Arc<Vec<RowId>>,
    ) -> Result<(Sessions, Vec<SessionFacts>), QueryError> {
        let mut sessions = self;
        let asked = Arc::clone(rows);
        let (mut sessions, leads) = blocking(move || {
            let leads = sessions.unnamed(&asked);
            (sessions, leads)
        })
        .await?;
        let places: Vec<RowId> = leads.iter().map(|(_, place)| *place).collect();
        let records = if places.is_empty() { Vec::new() } else { snapshot.records_light(&places).await? };
        let asked = Arc::clone(rows);
        blocking(move || {
            leads.iter().zip(&records).for_each(|((at, _), record)| sessions.name(*at, record));
            let told = asked.iter().map(|row| sessions.tell(row).unwrap_or_default()).collect();
            (sessions, told)
        })
        .await
    }

    /// Positions and rows of the records that name the chains of these rows, unless they were read.
    fn unnamed(&mut self, rows: &[RowId]) -> Vec<(u32, RowId)> {
        let Known::Indexed { index, starts, chained, shared, .. } = &mut self.0 else { return Vec::new() };
        let mut leads = BTreeSet::new();
        if chained.len() + rows.len() > CACHED_MAX {
            chained.clear();
        }
        for at in rows.iter().filter_map(|row| Some(*starts.get(&row.file)? + row.row)) {
            let Some((session, closed)) = session(&index.closure, at) else { continue };
            let of = chained.entry(session).or_insert_with(|| {
                Chained::of(&index.view(), closed, shared, Some(&index.judged), Options::default().grade_floor)
            });
            leads.extend(of.unnamed(at));
        }
        let leads: Vec<u32> = leads.into_iter().collect();
        let rows = index.rows(&leads);
        leads.into_iter().zip(rows).collect()
    }

    fn name(&mut self, at: u32, record: &Record) {
        let Known::Indexed { index, chained, .. } = &mut self.0 else { return };
        let session = session(&index.closure, at).and_then(|(session, _)| chained.get_mut(&session));
        session.into_iter().for_each(|chained| chained.name(at, record));
    }

    fn tell(&mut self, row: &RowId) -> Option<SessionFacts> {
        match &mut self.0 {
            Known::Told { facts, of, chained } => {
                let (session, at) = of.get(row)?;
                let mut told = facts.get(*session as usize).cloned().unwrap_or_default();
                chained.tell(*at, &mut told);
                Some(told)
            }
            Known::Indexed { index, starts, exact, facts: cache, chained, .. } => {
                let at = *starts.get(&row.file)? + row.row;
                if cache.len() >= CACHED_MAX {
                    cache.clear();
                }
                let known = session(exact.as_ref().unwrap_or(&index.closure), at);
                let known = known
                    .map(|(session, rows)| cache.entry(session).or_insert_with(|| facts(&index.view(), rows)).clone());
                let mut told = known.unwrap_or_default();
                let chained = session(&index.closure, at).and_then(|(session, _)| chained.get(&session));
                chained.into_iter().for_each(|chained| chained.tell(at, &mut told));
                Some(told)
            }
        }
    }
}

fn is_shared(why: Why) -> bool {
    matches!(why, Why::SeveralConversations | Why::SeveralConnections)
}

/// The session of a position, and its rows.
fn session(closure: &Closure, at: u32) -> Option<(u32, &[u32])> {
    let session = *closure.session_of.get(at as usize).filter(|session| **session != NONE)?;
    Some((session, &closure.sessions.get(session as usize)?.rows))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, QueryError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| QueryError::Interrupted)
}

/// What all of these records that say something say.
fn facts(view: &FactView<'_>, rows: &[u32]) -> SessionFacts {
    let [mut conversations, mut proven, mut claimed, mut accounts, mut agents] = [const { BTreeSet::new() }; 5];
    for at in rows {
        let (block, fact) = view.at(*at);
        // Servers act under accounts of their own.
        let claimed = if fact.source_kind.acts_for_others() { &mut accounts } else { &mut claimed };
        for (names, id) in [
            (&mut conversations, fact.conversation),
            (&mut proven, fact.user_authenticated),
            (claimed, fact.user_claimed),
            (&mut agents, fact.agent),
        ] {
            // Two are as good as more.
            if id != 0 && names.len() < 2 {
                names.insert(block.name(id));
            }
        }
    }
    let one = |names: &BTreeSet<&str>| names.first().filter(|_| names.len() == 1).map(|name| (*name).to_string());
    let user = [&proven, &claimed, &accounts].into_iter().find(|names| !names.is_empty()).and_then(one);
    SessionFacts {
        conversation: one(&conversations),
        is_authenticated: !proven.is_empty() && user.is_some(),
        user,
        agent: one(&agents),
        ..SessionFacts::default()
    }
}
