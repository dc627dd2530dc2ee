//! The session index: the closure over every stored record, for lists and for `links`.
//!
//! Facts of a sealed file are read once and kept by file id; the tail comes on top. The closure is
//! made anew for each state of the store, at most once per state.
//!
//! Invariants
//! - facts take at most [`SessionIndex::bytes_max`]; when they would not fit, the newest files are kept and the
//!   index says how many rows it leaves out

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use threadline_schemas::columns::from_batch;
use threadline_schemas::{Kind, Record};
use threadline_store::{RowId, Snapshot};
use uuid::Uuid;

use crate::closure::{Closure, close};
use crate::error::QueryError;
use crate::fact::{COLUMNS, Fact, FactView, Facts};
use crate::judged::{Judged, JudgedCache};
use crate::session::Span;

/// Keeps facts by file, and the last index.
#[derive(Debug)]
pub(crate) struct SessionIndex {
    bytes_max: usize,
    files: Mutex<HashMap<Uuid, Arc<Facts>>>,
    last: Mutex<Option<(State, Arc<Closed>)>>,
    judged: JudgedCache,
    building: tokio::sync::Mutex<()>,
}

/// What tells two states of the store apart.
type State = (i64, u64, u64, Option<Uuid>, i64);

/// Every session of one snapshot, and the snapshot.
#[derive(Debug)]
pub(crate) struct Indexed {
    pub(crate) snapshot: Arc<Snapshot>,
    closed: Arc<Closed>,
}

impl Deref for Indexed {
    type Target = Closed;

    fn deref(&self) -> &Closed {
        &self.closed
    }
}

/// What is kept of an index: all but the snapshot, which keeps a tail alive that may be sealed by now.
#[derive(Debug)]
pub(crate) struct Closed {
    /// What the linker believes.
    pub(crate) judged: Arc<Judged>,
    blocks: Vec<Arc<Facts>>,
    /// File of each block.
    files: Vec<u32>,
    pub(crate) closure: Closure,
    /// Sessions, newest start first, then by id.
    pub(crate) order: Vec<Listed>,
    /// Rows of files that did not fit.
    pub(crate) rows_left_out: u64,
}

/// A session's place in the list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed {
    pub(crate) session: u32,
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// Whether anything was asked, chosen or called in it.
    pub(crate) active: bool,
}

impl SessionIndex {
    pub(crate) fn new(bytes_max: usize) -> Self {
        SessionIndex {
            bytes_max,
            files: Mutex::default(),
            last: Mutex::default(),
            judged: JudgedCache::default(),
            building: tokio::sync::Mutex::new(()),
        }
    }

    /// The index of the snapshot that `take` gives. Whoever waits for another build holds no snapshot meanwhile.
    pub(crate) async fn of<F>(&self, take: impl Fn() -> F) -> Result<Arc<Indexed>, QueryError>
    where
        F: Future<Output = Result<Arc<Snapshot>, QueryError>>,
    {
        let snapshot = take().await?;
        let judged = self.judged(&snapshot).await?;
        if let Some(closed) = self.known(&state(&snapshot, &judged)) {
            return Ok(Arc::new(Indexed { snapshot, closed }));
        }
        drop((snapshot, judged));
        let _one_at_a_time = self.building.lock().await;
        let snapshot = take().await?;
        let judged = self.judged(&snapshot).await?;
        let state = state(&snapshot, &judged);
        if let Some(closed) = self.known(&state) {
            return Ok(Arc::new(Indexed { snapshot, closed }));
        }
        drop(self.last.lock().unwrap_or_else(PoisonError::into_inner).take());
        let closed = Arc::new(self.build(Arc::clone(&snapshot), judged).await?);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((state, closed.clone()));
        Ok(Arc::new(Indexed { snapshot, closed }))
    }

    fn known(&self, state: &State) -> Option<Arc<Closed>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(known, _)| known == state).map(|(_, index)| index.clone())
    }

    /// What is judged at present.
    pub(crate) async fn judged(&self, snapshot: &Snapshot) -> Result<Arc<Judged>, QueryError> {
        self.judged.of(snapshot.data_dir()).await
    }

    /// What was judged at a moment, microseconds.
    pub(crate) async fn judged_at(&self, snapshot: &Snapshot, at_us: i64) -> Result<Arc<Judged>, QueryError> {
        self.judged.known_at(snapshot.data_dir(), at_us).await
    }

    async fn build(&self, snapshot: Arc<Snapshot>, judged: Arc<Judged>) -> Result<Closed, QueryError> {
        let (mut blocks, mut files) = (Vec::new(), Vec::new());
        let (mut bytes, mut rows_left_out) = (0usize, 0u64);
        let mut kept = HashMap::new();
        for (place, file) in snapshot.files().iter().enumerate().rev() {
            if bytes >= self.bytes_max {
                rows_left_out += u64::from(file.rows);
                continue;
            }
            let known = self.files.lock().unwrap_or_else(PoisonError::into_inner).get(&file.id).cloned();
            let facts = match known {
                Some(facts) => facts,
                None => Arc::new(read(&snapshot, place as u32).await?),
            };
            bytes += facts.bytes();
            kept.insert(file.id, facts.clone());
            blocks.push(facts);
            files.push(place as u32);
        }
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        blocks.reverse();
        files.reverse();
        blocks.push(Arc::new(Facts::of(snapshot.tail().iter().map(AsRef::as_ref)).finish()));
        files.push(RowId::TAIL);
        let work = move || {
            let view = FactView::new(blocks.iter().map(AsRef::as_ref).collect()).judged(&judged);
            let closure = close(&view);
            let order = order(&closure, &view);
            (blocks, closure, order, judged)
        };
        let (blocks, closure, order, judged) =
            tokio::task::spawn_blocking(work).await.map_err(|_| QueryError::Interrupted)?;
        Ok(Closed { judged, blocks, files, closure, order, rows_left_out })
    }
}

fn state(snapshot: &Snapshot, judged: &Judged) -> State {
    let last = snapshot.tail().last().map(|record| record.event_id);
    (snapshot.table_version(), snapshot.sealed_rows(), snapshot.tail_rows(), last, judged.version())
}

async fn read(snapshot: &Snapshot, file: u32) -> Result<Facts, QueryError> {
    let batches = snapshot.file_columns(file, COLUMNS).await?;
    let work = move || {
        let mut facts = Facts::default();
        for batch in batches {
            from_batch(&batch)?.iter().for_each(|record: &Record| facts.push(record));
        }
        Ok(facts.finish())
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| QueryError::Interrupted)?
}

fn order(closure: &Closure, view: &FactView<'_>) -> Vec<Listed> {
    let mut order: Vec<Listed> = closure
        .sessions
        .iter()
        .enumerate()
        .map(|(session, closed)| {
            let mut span = Span::default();
            let mut active = false;
            for fact in closed.rows.iter().map(|at| view.at(*at).1) {
                span.add((fact.time, fact.time), fact.timed);
                active |= is_activity(fact);
            }
            let (start, end) = span.get();
            Listed { session: session as u32, start, end, active }
        })
        .collect();
    order.sort_by(|a, b| {
        let id = |listed: &Listed| &closure.sessions[listed.session as usize].id;
        b.start.cmp(&a.start).then_with(|| id(a).cmp(id(b)))
    });
    order
}

fn is_activity(fact: &Fact) -> bool {
    matches!(fact.kind, Kind::Prompt | Kind::Selection | Kind::Call | Kind::Result | Kind::Completion)
}

impl Closed {
    pub(crate) fn view(&self) -> FactView<'_> {
        FactView::new(self.blocks.iter().map(AsRef::as_ref).collect())
    }

    /// Rows of positions.
    pub(crate) fn rows(&self, at: &[u32]) -> Vec<RowId> {
        let view = self.view();
        at.iter()
            .map(|at| {
                let (block, row) = view.locate(*at);
                RowId { file: self.files[block], row }
            })
            .collect()
    }

    /// The session that a row is in.
    pub(crate) fn session_of(&self, row: RowId) -> Option<u32> {
        let mut start = 0;
        for (facts, file) in self.blocks.iter().zip(&self.files) {
            if *file == row.file {
                let session = self.closure.session_of.get(start + row.row as usize).copied();
                return session.filter(|session| *session != crate::closure::NONE);
            }
            start += facts.len();
        }
        None
    }

    /// Position of the first row of each file.
    pub(crate) fn starts(&self) -> HashMap<u32, u32> {
        let mut next = 0;
        let of = self.blocks.iter().zip(&self.files).map(|(facts, file)| {
            let start = next;
            next += facts.len() as u32;
            (*file, start)
        });
        of.collect()
    }

    /// The rows of a session, oldest first.
    pub(crate) fn rows_in_time(&self, session: u32) -> Vec<RowId> {
        let Some(closed) = self.closure.sessions.get(session as usize) else { return Vec::new() };
        let view = self.view();
        let mut at: Vec<u32> = closed.rows.clone();
        at.sort_by_key(|at| (view.at(*at).1.time, *at));
        self.rows(&at)
    }

    pub(crate) fn rows_indexed(&self) -> u64 {
        self.blocks.iter().map(|facts| facts.len() as u64).sum()
    }
}
