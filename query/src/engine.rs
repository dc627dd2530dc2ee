//! The engine: every question the API, the CLI and the pages ask, over one snapshot each.
//!
//! Invariants
//! - every answer says which snapshot it read, what it left out, and why
//! - nothing here writes; memory per question is bounded by [`EngineConfig`]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use threadline_schemas::{Kind, Record, display, leaf, record::event_id};
use threadline_store::positions::StreamPosition;
use threadline_store::{KeyQuery, Reader, RowId, Snapshot};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use uuid::Uuid;

use crate::access::{AccessLog, Reads};
use crate::error::QueryError;
use crate::export::Preparations;
use crate::gather::{Bounds, Gathered, session_of};
use crate::index::{Indexed, SessionIndex};
use crate::judged::{Judged, Judgement};
use crate::line::{EXCERPT_CHARS, event_line};
use crate::links::{Contest, links};
use crate::metrics::Metrics;
use crate::model::{Answer, Compared, Completeness, Event, Grade, Link, Session, SessionSummary, SnapshotInfo};
use crate::session::{Options, at_grade, cut_gap, summarize};

/// Limits of one engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Rows that are followed for one session.
    pub gather_rows_max: usize,
    /// Payload bytes held while a session is put together.
    pub gather_bytes_max: usize,
    /// Answers that are put together at once; further ones wait.
    pub answers_at_once_max: usize,
    /// Records of one session in an answer.
    pub session_records_max: usize,
    /// Memory of the session index.
    pub index_bytes_max: usize,
    /// Sessions up to this many records are reconstructed for their line in the list; larger ones are
    /// counted by kind of record.
    pub summary_records_max: usize,
    /// SQL queries that run at once; further ones are refused.
    pub sql_at_once_max: usize,
    /// Runs SQL in a process of its own; without one it runs on threads of this process.
    pub sql_worker: Option<crate::sql::worker::Program>,
    /// Memory of one SQL query, as far as the engine accounts for it.
    pub sql_bytes_max: usize,
    /// Private memory of one worker process, without its stacks.
    pub sql_process_bytes_max: u64,
    /// Rows of one SQL answer.
    pub sql_rows_max: usize,
    /// Time of one SQL query.
    pub sql_timeout_ms: u64,
    /// Rows up to which SQL offers the table `links`.
    pub sql_links_rows_max: u64,
    /// Bundles and reports that are prepared at once; further ones wait.
    pub exports_at_once_max: usize,
    /// Where our pages are, for the link back to the session in each OCSF event.
    pub base_url: Option<String>,
    /// Where exports and reads are recorded; `None`: nowhere, which every export says.
    pub access_log: Option<Arc<dyn AccessLog>>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            gather_rows_max: 100_000,
            gather_bytes_max: 16 << 20,
            answers_at_once_max: 2,
            session_records_max: 20_000,
            index_bytes_max: 512 << 20,
            summary_records_max: 5_000,
            sql_at_once_max: 2,
            sql_worker: None,
            sql_bytes_max: 128 << 20,
            sql_process_bytes_max: 384 << 20,
            sql_rows_max: 10_000,
            sql_timeout_ms: 30_000,
            sql_links_rows_max: 200_000,
            exports_at_once_max: 2,
            base_url: None,
            access_log: None,
        }
    }
}

/// What may be left out of a session.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// How it is put together.
    pub options: Options,
    /// Fewer records than the configured bound.
    pub records_max: Option<usize>,
    /// What was received and judged at this moment instead of now, microseconds since the Unix epoch.
    pub known_at_us: Option<i64>,
}

/// Answers questions over one store.
#[derive(Debug)]
pub struct Engine {
    reader: Reader,
    config: EngineConfig,
    index: SessionIndex,
    summaries: Mutex<HashMap<SummaryKey, SessionSummary>>,
    answer_permits: Semaphore,
    outgoing: Arc<Semaphore>,
    sql_permits: Arc<Semaphore>,
    export_permits: Semaphore,
    preparations: Arc<Preparations>,
    reads: Reads,
    metrics: Metrics,
    source_tallies: crate::sources::Cache,
}

/// A session and how many records it had; records never change or go away, so more means another key.
type SummaryKey = (String, usize);

const SUMMARIES_MAX: usize = 20_000;

impl Engine {
    /// An engine over a store.
    pub fn new(reader: Reader, config: EngineConfig) -> Self {
        Engine {
            index: SessionIndex::new(config.index_bytes_max),
            answer_permits: Semaphore::new(config.answers_at_once_max.max(1)),
            outgoing: Arc::new(Semaphore::new(crate::api::outgoing::BYTES_MAX)),
            sql_permits: Arc::new(Semaphore::new(config.sql_at_once_max)),
            export_permits: Semaphore::new(config.exports_at_once_max.max(1)),
            preparations: Arc::default(),
            reads: Reads::default(),
            metrics: Metrics::new(&reader),
            reader,
            config,
            summaries: Mutex::default(),
            source_tallies: crate::sources::Cache::default(),
        }
    }

    /// Its limits.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Whether records that arrive now could be stored.
    ///
    /// # Errors
    /// When the log is closed or the disk is full.
    pub fn check_writable(&self) -> Result<(), QueryError> {
        Ok(self.reader.check_writable()?)
    }

    /// Counters of this process; others add theirs ([`Metrics::register`]).
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How far exports are that are being prepared.
    pub(crate) fn preparations(&self) -> &Arc<Preparations> {
        &self.preparations
    }

    pub(crate) fn source_tallies(&self) -> &crate::sources::Cache {
        &self.source_tallies
    }

    /// The present state of the store.
    pub async fn snapshot(&self) -> Result<Arc<Snapshot>, QueryError> {
        Ok(self.reader.snapshot().await?)
    }

    /// How far Kafka topics were read into this data directory.
    pub(crate) async fn positions(&self) -> Result<Vec<StreamPosition>, QueryError> {
        Ok(self.reader.positions().await?)
    }

    /// Leave to put an answer together, `alone` or beside a few others; whoever waits for it holds nothing yet.
    ///
    /// # Errors
    /// When the process is ending.
    pub async fn turn(&self, alone: bool) -> Result<SemaphorePermit<'_>, QueryError> {
        let permits = if alone { self.config.answers_at_once_max.max(1) as u32 } else { 1 };
        self.answer_permits.acquire_many(permits).await.map_err(|_| QueryError::Interrupted)
    }

    /// Room for large answers on their way.
    pub(crate) fn outgoing(&self) -> &Arc<Semaphore> {
        &self.outgoing
    }

    pub(crate) fn sql_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.sql_permits).try_acquire_owned().ok()
    }

    pub(crate) async fn export_permit(&self) -> Result<SemaphorePermit<'_>, QueryError> {
        self.export_permits.acquire().await.map_err(|_| QueryError::Interrupted)
    }

    pub(crate) fn access_log(&self) -> Option<&Arc<dyn AccessLog>> {
        self.config.access_log.as_ref()
    }

    pub(crate) fn reads(&self) -> &Reads {
        &self.reads
    }

    pub(crate) async fn indexed(&self) -> Result<Arc<Indexed>, QueryError> {
        self.index.of(|| self.snapshot()).await
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            rows_max: self.config.gather_rows_max,
            bytes_max: self.config.gather_bytes_max,
            payloads: true,
            known_at_us: None,
        }
    }

    pub(crate) async fn gathered(&self, snapshot: &Snapshot, id: &str) -> Result<Gathered, QueryError> {
        let judged = self.index.judged(snapshot).await?;
        self.gathered_by(snapshot, id, judged, self.bounds()).await
    }

    /// The session of an id as it is believed now, or was at a moment (microseconds), without payloads.
    pub(crate) async fn gathered_light(
        &self,
        snapshot: &Snapshot,
        id: &str,
        known_at_us: Option<i64>,
    ) -> Result<Gathered, QueryError> {
        let options = SessionOptions { known_at_us, ..SessionOptions::default() };
        let judged = self.judged(snapshot, &options).await?;
        self.gathered_by(snapshot, id, judged, Bounds { payloads: false, known_at_us, ..self.bounds() }).await
    }

    async fn gathered_by(
        &self,
        snapshot: &Snapshot,
        id: &str,
        judged: Arc<Judged>,
        bounds: Bounds,
    ) -> Result<Gathered, QueryError> {
        session_of(snapshot, id, bounds, judged).await
    }

    /// What the linker believes, as far as the question wants to hear it.
    /// What is judged at present.
    pub(crate) async fn judged_now(&self, snapshot: &Snapshot) -> Result<Arc<Judged>, QueryError> {
        self.index.judged(snapshot).await
    }

    async fn judged(&self, snapshot: &Snapshot, options: &SessionOptions) -> Result<Arc<Judged>, QueryError> {
        match options.known_at_us {
            Some(at_us) => self.index.judged_at(snapshot, at_us).await,
            None => self.index.judged(snapshot).await,
        }
    }

    /// The session that any id leads to.
    pub async fn session(&self, id: &str, options: &SessionOptions) -> Result<Answer<Session>, QueryError> {
        let snapshot = self.snapshot().await?;
        let judged = self.judged(&snapshot, options).await?;
        let bounds = Bounds { known_at_us: options.known_at_us, ..self.bounds() };
        let mut gathered = self.gathered_by(&snapshot, id, judged, bounds).await?;
        let known_note = gathered.known_note(options.known_at_us);
        let max = options.records_max.unwrap_or(usize::MAX).min(self.config.session_records_max);
        let left_out = gathered.records.len().saturating_sub(max);
        gathered.records.truncate(max);
        let options = options.options.clone();
        let grade = format!("{:?}", options.grade_floor).to_lowercase();
        let work = move || {
            let built = at_grade(&gathered.id, gathered.records, &gathered.contest, &options);
            (built, gathered.rows_seen, gathered.cut)
        };
        let (mut built, rows_seen, cut) =
            tokio::task::spawn_blocking(work).await.map_err(|_| QueryError::Interrupted)?;
        let mut completeness = completeness(&snapshot);
        completeness.rows_searched = rows_seen;
        completeness.notes.extend(known_note);
        completeness.links_inferred = built.links_inferred;
        completeness.rows_cut = left_out as u64;
        if left_out > 0 {
            completeness.reasons.push(format!("the session has {left_out} more records than the {max} shown"));
            built.session.gaps.insert(0, cut_gap(left_out as u64));
        }
        let beyond = built.left_out;
        if beyond.records > 0 {
            completeness.rows_cut += beyond.records as u64;
            completeness.reasons.push(format!(
                "{} records, {} whole calls among them, are held by links weaker than {grade} and are left out of turns and counts; the gaps are those of the whole session",
                beyond.records, beyond.calls
            ));
        }
        if cut {
            completeness.reasons.push(format!(
                "the search for its records was ended at {} rows or {} MiB; there may be more",
                self.config.gather_rows_max,
                self.config.gather_bytes_max >> 20
            ));
        }
        completeness.sources_silent = built.silent;
        Ok(answer(built.session, None, completeness))
    }

    /// One record in full, with its session and its links.
    pub async fn event(&self, id: &str) -> Result<Answer<Event>, QueryError> {
        let snapshot = self.snapshot().await?;
        let record = self.record(&snapshot, id).await?;
        let completeness_of = completeness(&snapshot);
        let event = record.event_id.to_string();
        let (session_id, mut links) = match self.gathered(&snapshot, &event).await {
            Ok(gathered) if !gathered.records.iter().all(|one| one.event_id == record.event_id) => {
                let touching = links_of(&gathered.records, &gathered.contest, &event);
                (Some(gathered.id), touching)
            }
            Ok(_) | Err(QueryError::SeveralSessions { .. } | QueryError::NotFound { .. }) => (None, Vec::new()),
            Err(error) => return Err(error),
        };
        if let Some(judgement) = self.index.judged(&snapshot).await?.of(record.event_id) {
            name_rivals(judgement, &event, &mut links);
        }
        let parent = links.iter().find(|link| link.from == event && link.grade < crate::model::Grade::Ambiguous);
        let event = Event {
            line: event_line(&record, parent.cloned()),
            session_id,
            links,
            leaf_hash: hex::encode(leaf::hash(&record)),
            raw_bytes: record.raw.as_ref().map_or(0, Vec::len) as u64,
            record: record.to_json(),
        };
        Ok(answer(event, None, Completeness { rows_searched: 1, ..completeness_of }))
    }

    /// The exact bytes received for a record, after redaction. A part of a line has its line's bytes.
    pub async fn event_raw(&self, id: &str) -> Result<Vec<u8>, QueryError> {
        let snapshot = self.snapshot().await?;
        let record = self.record(&snapshot, id).await?;
        if let Some(raw) = record.raw {
            return Ok(raw);
        }
        let line = record.delivery_key.rsplit_once('#').map(|(line, _)| event_id(&record.tenant, line));
        let missing = QueryError::NoRaw { id: record.event_id.to_string() };
        match line {
            Some(line) => self.record(&snapshot, &line.to_string()).await?.raw.ok_or(missing),
            None => Err(missing),
        }
    }

    async fn record(&self, snapshot: &Snapshot, id: &str) -> Result<Record, QueryError> {
        let event = Uuid::parse_str(id.trim()).map_err(|_| QueryError::not_found(id, &["event id (a UUID)"]))?;
        let records = snapshot.records_with_keys(&[KeyQuery::Any(event.to_string())]).await?;
        records
            .into_iter()
            .find(|record| record.event_id == event)
            .ok_or_else(|| QueryError::not_found(id, &["event id"]))
    }

    /// The lines of sessions in a list: reconstructed where they are small enough, and kept.
    pub(crate) async fn summaries(&self, index: &Indexed, sessions: &[u32]) -> Result<Vec<SessionSummary>, QueryError> {
        let mut lines: Vec<Option<SessionSummary>> =
            sessions.iter().map(|session| self.known(index, *session)).collect();
        let mut open = (0..sessions.len()).filter(|at| lines[*at].is_none()).collect::<Vec<_>>().into_iter().peekable();
        while open.peek().is_some() {
            // Several sessions are read at once, as far as the bound for one goes.
            let (mut batch, mut rows) = (Vec::new(), Vec::new());
            while let Some(at) = open.peek().copied() {
                let own = &index.closure.sessions[sessions[at] as usize].rows;
                if !batch.is_empty() && rows.len() + own.len() > self.config.summary_records_max {
                    break;
                }
                rows.extend(index.rows(own));
                batch.push(at);
                open.next();
            }
            let mut records = read_light(&index.snapshot, &rows).await?.into_iter();
            for at in batch {
                let closed = &index.closure.sessions[sessions[at] as usize];
                let mut own: Vec<Record> = records.by_ref().take(closed.rows.len()).collect();
                crate::session::sort(&mut own);
                let summary = summarize(&closed.id, &own, &Contest::default());
                self.keep((closed.id.clone(), closed.rows.len()), summary.clone());
                lines[at] = Some(summary);
            }
        }
        Ok(lines.into_iter().flatten().collect())
    }

    fn known(&self, index: &Indexed, session: u32) -> Option<SessionSummary> {
        let closed = &index.closure.sessions[session as usize];
        if closed.rows.len() > self.config.summary_records_max {
            return Some(crate::sessions::counted(index, session));
        }
        let summaries = self.summaries.lock().unwrap_or_else(PoisonError::into_inner);
        summaries.get(&(closed.id.clone(), closed.rows.len())).cloned()
    }

    fn keep(&self, key: SummaryKey, summary: SessionSummary) {
        let mut summaries = self.summaries.lock().unwrap_or_else(PoisonError::into_inner);
        if summaries.len() >= SUMMARIES_MAX {
            summaries.clear();
        }
        summaries.insert(key, summary);
    }
}

/// Records without their payloads, but for the text of prompts.
pub(crate) async fn read_light(snapshot: &Snapshot, rows: &[RowId]) -> Result<Vec<Record>, QueryError> {
    const PART: usize = 256;
    let mut records = Vec::with_capacity(rows.len());
    for part in rows.chunks(PART) {
        let mut read = snapshot.records_light(part).await?;
        for (record, row) in read.iter_mut().zip(part) {
            // A long prompt is beside its row, and may be the title of its session.
            if record.kind == Kind::Prompt && record.text.is_none() {
                let whole = snapshot.records(&[*row]).await?.into_iter().next().and_then(|record| record.text);
                record.text = whole.map(|text| display::cut(&text, EXCERPT_CHARS + 1).0);
            }
            record.shed_attributes();
            strip(record);
        }
        records.extend(read);
    }
    Ok(records)
}

/// Drops what neither links nor totals look at.
pub(crate) fn strip(record: &mut Record) {
    // Whether there is a result tells an answer from a question; a long one has only its digest here.
    record.result = (record.result.is_some() || record.result_digest.is_some()).then(String::new);
    record.text = record.text.take().filter(|_| record.kind == Kind::Prompt);
}

/// Links from and to one record.
/// Rivals of a judged parent may stand in other sessions; an ambiguous record has nothing but rivals.
fn name_rivals(judgement: &Judgement, event: &str, links: &mut Vec<Link>) {
    let candidates: Vec<String> = judgement.rivals.iter().map(|rival| rival.0.to_string()).collect();
    let scores = |winner: &str| -> Vec<Compared> {
        let rivals = judgement.rivals.iter().map(|(rival, score)| Compared {
            what: "rival".into(),
            from: rival.to_string(),
            to: format!("{score:+.2}"),
        });
        rivals.filter(|rival| rival.from != winner).collect()
    };
    let judged = judgement.parent.as_ref().map(|parent| (parent.rule, parent.to.to_string()));
    if let Some(link) = links.iter_mut().find(|link| {
        judged.as_ref().is_some_and(|(rule, to)| link.from == event && link.rule == *rule && link.to == *to)
    }) {
        link.candidates = candidates.into_iter().filter(|rival| *rival != link.to).collect();
        let scores = scores(&link.to);
        link.compared.extend(scores);
    } else if judgement.ambiguous
        && let Some((best, _)) = judgement.rivals.first()
    {
        links.push(Link {
            from: event.into(),
            to: best.to_string(),
            relation: "candidate".into(),
            grade: Grade::Ambiguous,
            rule: "judged".into(),
            score: 0.0,
            compared: scores(""),
            candidates,
        });
    }
}

fn links_of(records: &[Record], contest: &Contest, event: &str) -> Vec<Link> {
    let found = links(records, contest);
    let all = found.edges.iter().map(|edge| edge.link(records)).chain(found.outside.iter().cloned());
    all.filter(|link| link.from == event || link.to == event || link.candidates.iter().any(|id| id == event)).collect()
}

/// The completeness statement of a snapshot, before anything was left out.
pub(crate) fn completeness(snapshot: &Snapshot) -> Completeness {
    let unread = snapshot.unread_rows();
    let waiting = (unread > 0).then(|| {
        format!(
            "{unread} records wait in the inbox and were not looked at: a server takes them in, `threadline serve` or `import` does where none runs; ask again then"
        )
    });
    Completeness {
        state: "complete".into(),
        reasons: waiting.into_iter().collect(),
        snapshot: SnapshotInfo {
            table_version: snapshot.table_version(),
            read_at: snapshot.read_at().to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            sealed_rows: snapshot.sealed_rows(),
            tail_rows: snapshot.tail_rows(),
            files_without_text_index: snapshot.files_without_text_index(),
        },
        ..Completeness::default()
    }
}

pub(crate) fn note_left_out(index: &Indexed, completeness: &mut Completeness) {
    completeness.rows_searched = index.rows_indexed();
    if index.rows_left_out > 0 {
        completeness.rows_cut += index.rows_left_out;
        completeness.reasons.push(format!(
            "the session index is full: {} rows of the oldest files are not in it (any id still finds them)",
            index.rows_left_out
        ));
    }
}

/// An answer; what was left out makes it partial.
pub(crate) fn answer<T>(data: T, next_cursor: Option<String>, mut completeness: Completeness) -> Answer<T> {
    if !completeness.reasons.is_empty() {
        completeness.state = "partial".into();
    }
    Answer { data, next_cursor, completeness }
}

/// Raw bytes in base64, for JSON.
pub(crate) fn base64(bytes: &[u8]) -> String {
    base64::prelude::BASE64_STANDARD.encode(bytes)
}
