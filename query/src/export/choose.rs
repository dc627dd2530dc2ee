//! Which records an export holds: of a session, of a search, of a time range, from one snapshot.
//!
//! Invariants
//! - a session is what its page shows at the same grade and moment, whatever its size: what gathering cannot hold is taken
//!   from the session index
//! - records of who read the store are no part of a search or range unless asked for, as on the search page; how many were
//!   left out is said
//! - too much ([`super::ROWS_MAX`]) is refused, with a way to narrow it; nothing is cut

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::StringArray;
use arrow::error::ArrowError;
use threadline_schemas::Kind;
use threadline_store::{RowId, Snapshot, TextQuery};
use uuid::Uuid;

use super::manifest::Asked;
use super::sessions::Sessions;
use super::{ExportQuestion, ROWS_MAX};
use crate::engine::{Engine, completeness, read_light};
use crate::error::QueryError;
use crate::gather::{Gathered, resolve};
use crate::index::Indexed;
use crate::line::read_time;
use crate::links::Contest;
use crate::model::{Completeness, Grade};
use crate::search::{terms, time};
use crate::session::{Options, within};

/// A session larger than this has no links in an export, and cannot be exported at a grade.
const LINKED_RECORDS_MAX: usize = 100_000;

/// What an export holds.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) snapshot: Arc<Snapshot>,
    /// Oldest first.
    pub(super) rows: Vec<RowId>,
    pub(super) completeness: Completeness,
    pub(super) asked: Asked,
    /// For exports of one session.
    pub(super) session: Option<ChosenSession>,
    /// For others that need links: the sessions of the snapshot.
    pub(super) index: Option<Arc<Indexed>>,
    /// What sessions say of themselves.
    pub(super) known: Option<Sessions>,
}

/// What an export is made of beside its records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    /// Links of what is chosen.
    pub(super) links: bool,
    /// What its sessions say of themselves.
    pub(super) sessions: bool,
}

/// A session, for its tree and links. Its records are read again for them: while files are written nothing is held.
#[derive(Debug)]
pub(super) struct ChosenSession {
    pub(super) id: String,
    /// All its records in their order; none where there are too many to be linked.
    pub(super) rows: Vec<RowId>,
    pub(super) contest: Contest,
    pub(super) floor: Grade,
    /// Those that links of the grade hold; `None`: all.
    pub(super) kept: Option<HashSet<Uuid>>,
}

impl Engine {
    /// What the question asks for.
    pub(super) async fn choose(&self, question: &ExportQuestion, needs: Needs) -> Result<Chosen, QueryError> {
        match question.given(&question.session) {
            Some(id) => self.choose_session(id, question, needs).await,
            None => self.choose_rows(question, needs).await,
        }
    }

    async fn choose_session(&self, id: &str, question: &ExportQuestion, needs: Needs) -> Result<Chosen, QueryError> {
        if [&question.q, &question.from, &question.to].iter().any(|given| question.given(given).is_some()) {
            return Err(QueryError::parameter("session", "goes without q, from and to: a session is exported whole"));
        }
        let floor = question.grade.unwrap_or(Options::default().grade_floor);
        let known_at = question.given(&question.as_known_at);
        let known_at_us = known_at.map(|text| read_time("as_known_at", text)).transpose()?;
        let known_at_us = known_at_us.map(|nanos| nanos.div_euclid(1000));
        let mut snapshot = self.snapshot().await?;
        let mut gathered = self.gathered_light(&snapshot, id, known_at_us).await?;
        let mut completeness = completeness(&snapshot);
        let mut rows: Vec<RowId> = Vec::new();
        let mut index = None;
        if gathered.cut {
            let (found, all) = self.large(id, known_at_us, &mut gathered, &mut completeness).await?;
            (snapshot, rows) = (Arc::clone(&found.snapshot), all);
            index = Some(found);
        }
        let asked = Asked {
            what: "session",
            session: Some(id.into()),
            session_id: Some(gathered.id.clone()),
            grade: Some(floor),
            as_known_at: known_at.map(str::to_string),
            ..Asked::default()
        };
        completeness.rows_searched = gathered.rows_seen.max(rows.len() as u64);
        completeness.notes.extend(gathered.known_note(known_at_us));
        let is_linked = rows.is_empty() || gathered.records.len() == rows.len();
        let mut kept = None;
        if floor < Options::default().grade_floor {
            if !is_linked {
                return Err(QueryError::parameter(
                    "grade",
                    format!("a session of more than {LINKED_RECORDS_MAX} records is exported without grade"),
                ));
            }
            kept = Some(kept_at(&gathered, floor, &mut completeness));
        }
        if is_linked {
            let ids = gathered.records.iter().map(|record| &record.event_id);
            let ids = ids.filter(|id| kept.as_ref().is_none_or(|kept| kept.contains(*id)));
            rows = ids.filter_map(|id| gathered.places.get(id).copied()).collect();
        }
        let Gathered { id, records, places, contest, .. } = gathered;
        let known = match needs.sessions {
            true if is_linked => Some(Sessions::told(&records, &places, &contest, floor)),
            true => match index {
                Some(index) => Some(sessions_of(index).await?),
                None => None,
            },
            false => None,
        };
        let all = records.iter().filter_map(|record| places.get(&record.event_id).copied()).collect();
        let session = ChosenSession { id, rows: all, contest, floor, kept };
        Ok(Chosen { snapshot, rows, completeness, asked, session: Some(session), index: None, known })
    }

    /// A session that is too large to gather: its rows from the session index, its records without payloads.
    async fn large(
        &self,
        id: &str,
        known_at_us: Option<i64>,
        gathered: &mut Gathered,
        completeness: &mut Completeness,
    ) -> Result<(Arc<Indexed>, Vec<RowId>), QueryError> {
        if known_at_us.is_some() {
            return Err(QueryError::parameter(
                "as_known_at",
                "this session is too large to be put together as it was believed at another moment",
            ));
        }
        let index = self.indexed().await?;
        *completeness = self::completeness(&index.snapshot);
        let seeds = resolve(&index.snapshot, id, &index.judged).await?;
        let session = seeds.iter().find_map(|row| index.session_of(*row));
        let rows = match session {
            Some(session) => index.rows_in_time(session),
            None => seeds,
        };
        if index.rows_left_out > 0 {
            completeness.reasons.push(format!(
                "the session index is full: {} rows of the oldest files are not in it; there may be more records",
                index.rows_left_out
            ));
        }
        if let Some(session) = session {
            gathered.id.clone_from(&index.closure.sessions[session as usize].id);
        }
        gathered.records.clear();
        if rows.len() <= LINKED_RECORDS_MAX {
            gathered.records = read_light(&index.snapshot, &rows).await?;
            gathered.places = gathered.records.iter().map(|record| record.event_id).zip(rows.iter().copied()).collect();
            crate::session::sort(&mut gathered.records);
        } else {
            gathered.places = HashMap::new();
            completeness.notes.push(format!(
                "the session has more than {LINKED_RECORDS_MAX} records: they are all here, their links and tree are not"
            ));
        }
        Ok((index, rows))
    }

    async fn choose_rows(&self, question: &ExportQuestion, needs: Needs) -> Result<Chosen, QueryError> {
        if question.grade.is_some() || question.given(&question.as_known_at).is_some() {
            return Err(QueryError::parameter("grade", "grade and as_known_at go with a session"));
        }
        let q = question.given(&question.q);
        let (from, to) = (question.given(&question.from), question.given(&question.to));
        let owned = |text: Option<&str>| text.map(str::to_string);
        let query = TextQuery {
            terms: q.map(terms).transpose()?.unwrap_or_default(),
            from: time("from", &owned(from))?,
            to: time("to", &owned(to))?.map(|to| to.saturating_sub(1)),
            limit: ROWS_MAX,
        };
        if query.from.zip(query.to).is_some_and(|(from, to)| to < from) {
            return Err(QueryError::parameter("to", "the range ends before it begins"));
        }
        let index = if needs.links || needs.sessions { Some(self.indexed().await?) } else { None };
        let snapshot = match &index {
            Some(index) => Arc::clone(&index.snapshot),
            None => self.snapshot().await?,
        };
        let found = snapshot.search(&query).await?;
        if found.more {
            return Err(QueryError::parameter(
                "from",
                format!("more than {ROWS_MAX} records; export a shorter range at a time"),
            ));
        }
        let mut completeness = completeness(&snapshot);
        completeness.rows_searched = found.rows_searched;
        completeness.searched_from = owned(from);
        completeness.searched_to = owned(to);
        let mut rows = found.rows;
        rows.reverse();
        let access = question.access.unwrap_or(false);
        if !access {
            without_access(&snapshot, &mut rows).await?;
            // How many there are is not said: it would differ from one export to the next.
            let note =
                "records of who read this store are not part of it; `--access` (`access=true` over HTTP) brings them";
            completeness.notes.push(note.into());
        }
        let what = if q.is_some() { "query" } else { "range" };
        if let Some(left_out) = index.as_ref().map(|index| index.rows_left_out).filter(|left_out| *left_out > 0) {
            completeness
                .notes
                .push(format!("the session index is full: links of {left_out} rows of the oldest files, and who they are of, are not given"));
        }
        let known = match index.clone().filter(|_| needs.sessions) {
            Some(index) => Some(sessions_of(index).await?),
            None => None,
        };
        let asked = Asked { what, q: owned(q), from: owned(from), to: owned(to), access, ..Asked::default() };
        Ok(Chosen { snapshot, rows, completeness, asked, session: None, index, known })
    }
}

async fn sessions_of(index: Arc<Indexed>) -> Result<Sessions, QueryError> {
    tokio::task::spawn_blocking(|| Sessions::indexed(index)).await.map_err(|_| QueryError::Interrupted)
}

/// What links of the grade hold; the rest is left out, as on the page.
fn kept_at(gathered: &Gathered, floor: Grade, completeness: &mut Completeness) -> HashSet<Uuid> {
    let (kept, beyond) = within(&gathered.records, &gathered.contest, floor);
    if beyond.records > 0 {
        completeness.rows_cut += beyond.records as u64;
        completeness.reasons.push(format!(
            "{} records, {} whole calls among them, are held by links weaker than the grade that was asked for and are left out",
            beyond.records, beyond.calls
        ));
    }
    gathered.records.iter().zip(kept).filter(|(_, kept)| *kept).map(|(record, _)| record.event_id).collect()
}

/// Drops rows of kind `access`.
async fn without_access(snapshot: &Snapshot, rows: &mut Vec<RowId>) -> Result<(), QueryError> {
    let mut files: Vec<u32> = rows.iter().map(|row| row.file).filter(|file| *file != RowId::TAIL).collect();
    files.sort_unstable();
    files.dedup();
    let mut own: HashSet<RowId> = HashSet::new();
    for file in files {
        let mut row = 0;
        for batch in snapshot.file_columns(file, &["kind"]).await? {
            let kinds = batch.column(0).as_any().downcast_ref::<StringArray>();
            let kinds = kinds.ok_or_else(|| ArrowError::SchemaError("the column kind is no text".into()))?;
            for kind in kinds {
                own.extend((kind == Some(Kind::Access.as_str())).then_some(RowId { file, row }));
                row += 1;
            }
        }
    }
    let tail = snapshot.tail();
    rows.retain(|row| match row.file {
        RowId::TAIL => tail.get(row.row as usize).is_none_or(|record| record.kind != Kind::Access),
        _ => !own.contains(row),
    });
    Ok(())
}
