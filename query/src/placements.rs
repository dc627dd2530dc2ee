//! Where every record belongs: what `threadline links` prints, a session at a time.
//!
//! Invariants
//! - every stored record is placed exactly once, also the ones in no session
//! - turn and parent are given only where a link says so, never by the clock
//! - one session is in memory at a time, without its payloads

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use threadline_schemas::Record;
use threadline_store::RowId;
use uuid::Uuid;

use crate::closure::{Closure, NONE, Verdict};
use crate::cursor;
use crate::engine::{Engine, answer, completeness, note_left_out, read_light};
use crate::error::QueryError;
use crate::fact::FactKey;
use crate::index::Indexed;
use crate::judged::{Found, Judged};
use crate::line::time_text;
use crate::links::{Contest, Links, links};
use crate::model::{Answer, Completeness, Finding, Grade, Link, LinksQuestion, Placement};
use crate::session::{Assembly, assemble, finding_text};

/// Records read at once.
const PART: usize = 500;
/// Sessions larger than this are placed without turn, call and parent.
const SESSION_RECORDS_MAX: usize = 100_000;
const PAGE_DEFAULT: usize = 1000;
const PAGE_MAX: usize = 10_000;

/// Walks over all records of one state of the store.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    pub(crate) index: Arc<Indexed>,
    contested: Arc<HashMap<u32, Vec<usize>>>,
    judged: Arc<HashMap<u32, Vec<usize>>>,
    nowhere: Arc<Vec<u32>>,
}

impl Walk {
    pub(crate) fn new(index: Arc<Indexed>) -> Walk {
        let closure = &index.closure;
        let mut contested: HashMap<u32, Vec<usize>> = HashMap::new();
        for (place, key) in closure.contested.iter().enumerate() {
            let mut sessions: Vec<u32> = key.at.iter().map(|at| closure.session_of[*at as usize]).collect();
            sessions.sort_unstable();
            sessions.dedup();
            sessions.into_iter().for_each(|session| contested.entry(session).or_default().push(place));
        }
        let mut judged: HashMap<u32, Vec<usize>> = HashMap::new();
        for (place, record) in closure.judged.iter().enumerate() {
            judged.entry(closure.session_of[record.at as usize]).or_default().push(place);
        }
        let nowhere =
            (0..closure.session_of.len() as u32).filter(|at| closure.session_of[*at as usize] == NONE).collect();
        Walk { contested: Arc::new(contested), judged: Arc::new(judged), nowhere: Arc::new(nowhere), index }
    }

    /// Steps in all: a session each, then records in no session in parts.
    pub(crate) fn steps(&self) -> usize {
        self.index.closure.sessions.len() + self.nowhere.len().div_ceil(PART)
    }

    /// The placements of one step.
    pub(crate) async fn step(&self, step: usize) -> Result<Vec<Placement>, QueryError> {
        let closure = &self.index.closure;
        let Some(closed) = closure.sessions.get(step) else {
            let from = (step - closure.sessions.len()) * PART;
            let at = &self.nowhere[from.min(self.nowhere.len())..(from + PART).min(self.nowhere.len())];
            let records = self.read(at).await?;
            return Ok(records.iter().map(|record| unplaced(record, None)).collect());
        };
        let Some((records, contest)) = self.linked(step).await? else { return self.large(step).await };
        let id = closed.id.clone();
        let work = move || place(&id, &records, &contest);
        tokio::task::spawn_blocking(work).await.map_err(|_| QueryError::Interrupted)
    }

    /// The records of a session without their payloads, sorted, and what its links need; `None`: it is too large.
    pub(crate) async fn linked(&self, session: usize) -> Result<Option<(Vec<Record>, Contest)>, QueryError> {
        let Some(closed) = self.index.closure.sessions.get(session) else { return Ok(None) };
        if closed.rows.len() > SESSION_RECORDS_MAX {
            return Ok(None);
        }
        let mut records = Vec::with_capacity(closed.rows.len());
        for part in closed.rows.chunks(PART) {
            records.extend(self.read(part).await?);
        }
        let contest = self.contest(session as u32, &closed.rows, &records).await?;
        let work = move || {
            crate::session::sort(&mut records);
            (records, contest)
        };
        tokio::task::spawn_blocking(work).await.map(Some).map_err(|_| QueryError::Interrupted)
    }

    /// Sessions of which one of these rows, which are sorted, is a record.
    pub(crate) fn sessions_with(&self, rows: &[RowId]) -> Vec<usize> {
        let sessions = &self.index.closure.sessions;
        let has = |at: &usize| self.index.rows(&sessions[*at].rows).iter().any(|row| rows.binary_search(row).is_ok());
        (0..sessions.len()).filter(has).collect()
    }

    /// The id of a session.
    pub(crate) fn session_id(&self, session: usize) -> &str {
        self.index.closure.sessions.get(session).map_or("", |closed| closed.id.as_str())
    }

    async fn large(&self, session: usize) -> Result<Vec<Placement>, QueryError> {
        let closed = &self.index.closure.sessions[session];
        let mut placements = Vec::new();
        for part in closed.rows.chunks(PART) {
            let records = self.read(part).await?;
            placements.extend(records.iter().map(|record| unplaced(record, Some(&closed.id))));
        }
        Ok(placements)
    }

    async fn read(&self, at: &[u32]) -> Result<Vec<Record>, QueryError> {
        read_light(&self.index.snapshot, &self.index.rows(at)).await
    }

    /// `records` stand in the order of `rows`.
    async fn contest(&self, session: u32, rows: &[u32], records: &[Record]) -> Result<Contest, QueryError> {
        let closure: &Closure = &self.index.closure;
        let record = |at: u32| rows.binary_search(&at).ok().map(|place| &records[place]);
        let mut contest = Contest { judged: Some(Arc::clone(&self.index.judged)), ..Contest::default() };
        for key in self.contested.get(&session).into_iter().flatten().map(|place| &closure.contested[*place]) {
            let bearer = key.at.iter().find_map(|at| record(*at));
            let text = bearer.and_then(|record| record.keys.iter().find(|text| FactKey::of(text) == Some(key.key)));
            if let Some(text) = text {
                contest.keys.insert(text.clone(), key.why);
            }
        }
        for judged in self.judged.get(&session).into_iter().flatten().map(|place| &closure.judged[*place]) {
            if let (Verdict::Several(rivals), Some(own)) = (&judged.verdict, record(judged.at)) {
                let rivals: Vec<Uuid> = self.read(rivals).await?.iter().map(|record| record.event_id).collect();
                contest.rivals.insert(own.event_id, rivals);
            }
        }
        Ok(contest)
    }
}

impl Engine {
    /// A page of placements: of one session, or of everything in a fixed order.
    pub async fn links(&self, question: &LinksQuestion) -> Result<Answer<Vec<Placement>>, QueryError> {
        let limit = question.limit.filter(|limit| *limit > 0).unwrap_or(PAGE_DEFAULT).min(PAGE_MAX);
        let text = serde_json::json!(["links", question.session]).to_string();
        let after: Option<(String, usize)> =
            question.cursor.as_deref().map(|cursor| cursor::read(&text, cursor)).transpose()?;
        if let Some(id) = &question.session {
            let snapshot = self.snapshot().await?;
            let gathered = self.gathered(&snapshot, id).await?;
            let all = place(&gathered.id, &gathered.records, &gathered.contest);
            let from = after.map_or(0, |(_, from)| from).min(all.len());
            let next = (all.len() > from + limit).then(|| cursor::write(&text, &(gathered.id.clone(), from + limit)));
            let page: Vec<Placement> = all.into_iter().skip(from).take(limit).collect();
            let mut completeness = completeness(&snapshot);
            completeness.rows_searched = gathered.rows_seen;
            if gathered.cut {
                completeness.reasons.push("the search for its records was ended by a limit; there may be more".into());
            }
            note_findings(&mut completeness, &*self.judged_now(&snapshot).await?);
            return Ok(answer(page, next, count_judged(completeness, &[])));
        }
        self.walk_page(after, limit, &text).await
    }

    /// What correlation found beside links, oldest first.
    pub async fn findings(&self) -> Result<Answer<Vec<Finding>>, QueryError> {
        let snapshot = self.snapshot().await?;
        let judged = self.judged_now(&snapshot).await?;
        let finding = |found: &Found| Finding {
            kind: found.kind.clone(),
            name: found.name.clone(),
            records: found.count,
            event_ids: found.records.iter().map(Uuid::to_string).collect(),
            from: time_text(found.interval.0),
            to: time_text(found.interval.1),
            description: finding_text(found),
        };
        Ok(answer(judged.found().iter().map(finding).collect(), None, completeness(&snapshot)))
    }

    async fn walk_page(
        &self,
        after: Option<(String, usize)>,
        limit: usize,
        text: &str,
    ) -> Result<Answer<Vec<Placement>>, QueryError> {
        let walk = self.walk().await?;
        let sessions = &walk.index.closure.sessions;
        // Sessions are in order of their id; records in no session come after all of them.
        let (mut step, mut skip) = match &after {
            Some((id, offset)) if id.is_empty() => (sessions.len().saturating_add(offset / PART), offset % PART),
            // Whoever makes up a place behind a session's end reads on at the next one.
            Some((id, offset)) => {
                let step = sessions.partition_point(|closed| closed.id < *id);
                (step, (*offset).min(sessions.get(step).map_or(0, |closed| closed.rows.len())))
            }
            None => (0, 0),
        };
        let mut page = Vec::new();
        let mut next = None;
        while step < walk.steps() {
            let placements = walk.step(step).await?;
            let room = limit - page.len();
            let count = placements.len();
            page.extend(placements.into_iter().skip(skip).take(room));
            if count.saturating_sub(skip) >= room {
                let (step, done) = if count.saturating_sub(skip) == room { (step + 1, 0) } else { (step, skip + room) };
                next = match sessions.get(step) {
                    Some(closed) => Some((closed.id.clone(), done)),
                    None if step < walk.steps() => Some((String::new(), (step - sessions.len()) * PART + done)),
                    None => None,
                };
                break;
            }
            (step, skip) = (step + 1, 0);
        }
        let mut completeness = completeness(&walk.index.snapshot);
        note_left_out(&walk.index, &mut completeness);
        note_findings(&mut completeness, &walk.index.judged);
        let completeness = count_judged(completeness, &page);
        Ok(answer(page, next.map(|next| cursor::write(text, &next)), completeness))
    }

    pub(crate) async fn walk(&self) -> Result<Walk, QueryError> {
        let index = self.indexed().await?;
        tokio::task::spawn_blocking(move || Walk::new(index)).await.map_err(|_| QueryError::Interrupted)
    }
}

/// What was found beside links, so that whoever asks for links hears of it.
fn note_findings(completeness: &mut Completeness, judged: &Judged) {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    judged.found().iter().for_each(|found| *counts.entry(&found.kind).or_default() += 1);
    if !counts.is_empty() {
        let counts: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        completeness.notes.push(format!(
            "correlation found more than links: {} (`threadline links --findings`, /api/v1/links/findings)",
            counts.join(", ")
        ));
    }
}

fn count_judged(mut completeness: Completeness, page: &[Placement]) -> Completeness {
    let judged = page.iter().filter(|placement| placement.grade.is_some_and(|grade| grade >= Grade::Inferred));
    completeness.links_inferred = judged.count() as u64;
    completeness
}

/// The placements of a session's records, which are sorted.
pub(crate) fn place(session: &str, records: &[Record], contest: &Contest) -> Vec<Placement> {
    let found = links(records, contest);
    let assembly = assemble(records, &found);
    let mut open: HashMap<usize, Link> = HashMap::new();
    for edge in found.edges.iter().filter(|edge| edge.grade == Grade::Ambiguous) {
        open.entry(edge.from).or_insert_with(|| edge.link(records));
    }
    let places: HashMap<String, usize> = records
        .iter()
        .enumerate()
        .filter(|_| !found.outside.is_empty())
        .map(|(at, record)| (record.event_id.to_string(), at))
        .collect();
    for link in &found.outside {
        if let Some(at) = places.get(&link.from) {
            open.entry(*at).or_insert_with(|| link.clone());
        }
    }
    (0..records.len()).map(|at| placement(session, records, &found, &assembly, at, open.remove(&at))).collect()
}

fn placement(
    session: &str,
    records: &[Record],
    found: &Links,
    assembly: &Assembly,
    at: usize,
    ambiguous: Option<Link>,
) -> Placement {
    let mut placement = unplaced(&records[at], Some(session));
    placement.turn = assembly.linked_turn[at].map(|turn| assembly.turns[turn].id.clone());
    placement.call = assembly.call_of[at].map(|call| assembly.calls[call].id.clone());
    if let Some(edge) = found.parent_of(at) {
        let parent = &records[edge.to];
        placement.parent = file_line(parent);
        placement.parent_event_id = Some(parent.event_id.to_string());
        placement.relation = Some(edge.relation.into());
        placement.grade = Some(edge.grade);
        placement.rule = Some(edge.rule.into());
        placement.score = Some(edge.score);
        placement.compared = edge.compared.clone();
        return placement;
    }
    if let Some(link) = ambiguous {
        placement.relation = Some(link.relation);
        placement.grade = Some(link.grade);
        placement.rule = Some(link.rule);
        placement.score = Some(link.score);
        placement.compared = link.compared;
    }
    placement
}

fn unplaced(record: &Record, session: Option<&str>) -> Placement {
    Placement {
        file: record.origin_file.clone(),
        line: record.origin_line,
        event_id: record.event_id.to_string(),
        kind: record.kind.to_string(),
        session: session.map(str::to_string),
        turn: None,
        call: None,
        parent: None,
        parent_event_id: None,
        relation: None,
        grade: None,
        rule: None,
        compared: Vec::new(),
        score: None,
    }
}

fn file_line(record: &Record) -> Option<String> {
    Some(format!("{}:{}", record.origin_file.as_deref()?, record.origin_line?))
}
