//! Runs the linker over stored records and stores what it believes.
//!
//! ```text
//! snapshot ─> times ─> windows touched ─> observations ─> correlate ─> rows ─> less what is believed already ─> links
//! ```
//!
//! Invariants
//! - links of a window are a function of the records stored in it and its margins, and of the linker's version
//! - an opinion that did not change is not written again; one that is gone is withdrawn, never edited
//! - one window is in memory at a time
//!
//! Not here: when to run (`run_beside`, the CLI), what links mean for sessions (`query`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use threadline_schemas::columns::from_batch;
use threadline_schemas::{Record, stamp};
use threadline_store::links::{LinkRow, LinksTable, opinions};
use threadline_store::{Reader, Snapshot, StoreError};
use tokio::sync::watch;
use uuid::Uuid;

use super::observation::{Act, Observation};
use super::placement::Rule;
use super::project::{COLUMNS, is_judged, project};
use super::windows::{Window, windows};
use super::{Placement, Settings, correlate};

/// Version of the linker; raised when the same records may give other links.
pub const LINKER_VERSION: u32 = 1;
/// Columns from which the windows follow.
const TIME_COLUMNS: &[&str] = &[
    "event_id",
    "time_unix_nano",
    "source_kind",
    "kind",
    "name",
    "decoder",
    "duration_nano",
    "transport_status",
    "target",
];

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum CorrelateError {
    /// The store could not be read or written.
    #[error("cannot correlate: the store failed")]
    Store(#[from] StoreError),
    /// A stored batch could not be read as records.
    #[error("cannot correlate: stored columns cannot be read")]
    Columns(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The work was given up.
    #[error("correlation was interrupted")]
    Interrupted,
}

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Windows judged.
    pub windows: usize,
    /// Records that the linker looked at.
    pub observations: usize,
    /// Rows written: new opinions and withdrawn ones.
    pub rows: usize,
}

/// Judges the windows that a range of event time touches, or all.
pub async fn relink(data: &Path, reader: &Reader, range: Option<(i64, i64)>) -> Result<Report, CorrelateError> {
    let snapshot = reader.snapshot().await?;
    run(data, &snapshot, range).await
}

/// Judges the windows that records newer than `before` touch.
pub async fn relink_since(data: &Path, reader: &Reader, before: &Snapshot) -> Result<Report, CorrelateError> {
    let (mut files, mut tail) = (BTreeSet::new(), BTreeSet::new());
    news_range(before, &mut files, &mut tail);
    let snapshot = reader.snapshot().await?;
    match news_range(&snapshot, &mut files, &mut tail) {
        Some(range) => run(data, &snapshot, Some(range)).await,
        None => Ok(Report::default()),
    }
}

async fn run(data: &Path, snapshot: &Snapshot, range: Option<(i64, i64)>) -> Result<Report, CorrelateError> {
    let mut times = times(snapshot).await?;
    let mut report = Report::default();
    let touched = |window: &Window| range.is_none_or(|(from, to)| window.read_from <= to && window.read_to > from);
    let touched: Vec<Window> = windows(&mut times).into_iter().filter(touched).collect();
    if touched.is_empty() {
        return Ok(report);
    }
    let mut table = LinksTable::open_or_create(data).await?;
    for window in touched {
        let (observations, records) = read(snapshot, window).await?;
        report.windows += 1;
        report.observations += observations.len();
        let known_at_us = chrono::Utc::now().timestamp_micros();
        let judge = move || {
            let mut observations = observations;
            let settings = Settings::default();
            let found = correlate(&mut observations, &settings);
            rows(&found.placements, &observations, &records, window, &linker_name(&settings), known_at_us)
        };
        let rows = tokio::task::spawn_blocking(judge).await.map_err(|_| CorrelateError::Interrupted)?;
        let known = table.rows().await?;
        let fresh = news(rows, &opinions(&known, i64::MAX), window, known_at_us);
        report.rows += fresh.len();
        table.append(fresh).await?;
    }
    Ok(report)
}

/// Name, version and digest of the parameters.
fn linker_name(settings: &Settings) -> String {
    let digest = Sha256::digest(format!("{settings:?}"));
    format!("correlate/{LINKER_VERSION}#{}", hex::encode(&digest[..6]))
}

/// Times of everything that the linker looks at.
async fn times(snapshot: &Snapshot) -> Result<Vec<i64>, CorrelateError> {
    let mut times: Vec<i64> = Vec::new();
    let mut any_judged = false;
    let mut look = |record: &Record| {
        if project_kind(record) {
            any_judged |= is_judged(record);
            times.push(record.time_unix_nano);
        }
    };
    for file in 0..snapshot.files().len() as u32 {
        for batch in snapshot.file_columns(file, TIME_COLUMNS).await? {
            let records = from_batch(&batch).map_err(|error| CorrelateError::Columns(Box::new(error)))?;
            records.iter().for_each(&mut look);
        }
    }
    snapshot.tail().iter().for_each(|record| look(record));
    Ok(if any_judged { times } else { Vec::new() })
}

fn project_kind(record: &Record) -> bool {
    super::project::act(record).is_some()
}

/// What is kept of a record beside its observation.
#[derive(Debug)]
struct Kept {
    session_key: String,
    judged: bool,
}

async fn read(snapshot: &Snapshot, window: Window) -> Result<(Vec<Observation>, HashMap<Uuid, Kept>), CorrelateError> {
    let (mut observations, mut kept) = (Vec::new(), HashMap::new());
    let mut look = |record: &Record| {
        if !(window.read_from..window.read_to).contains(&record.time_unix_nano) {
            return;
        }
        if let Some(observation) = project(record) {
            let known = Kept { session_key: record.session_key.clone(), judged: is_judged(record) };
            if kept.insert(record.event_id, known).is_none() {
                observations.push(observation);
            }
        }
    };
    for (place, file) in snapshot.files().iter().enumerate() {
        if file.max_time_unix_nano < window.read_from || file.min_time_unix_nano >= window.read_to {
            continue;
        }
        for batch in snapshot.file_columns(place as u32, COLUMNS).await? {
            let records = from_batch(&batch).map_err(|error| CorrelateError::Columns(Box::new(error)))?;
            records.iter().for_each(&mut look);
        }
    }
    snapshot.tail().iter().for_each(|record| look(record));
    Ok((observations, kept))
}

/// Names of sessions, turns and calls: from the host's conversation where it named one, else from the earliest record.
struct Naming<'n> {
    session: BTreeMap<usize, String>,
    turn: BTreeMap<(usize, usize), Uuid>,
    call: BTreeMap<(usize, usize), Uuid>,
    observations: &'n [Observation],
}

impl<'n> Naming<'n> {
    fn of(placements: &[Placement], observations: &'n [Observation], kept: &HashMap<Uuid, Kept>) -> Naming<'n> {
        let mut naming =
            Naming { session: BTreeMap::new(), turn: BTreeMap::new(), call: BTreeMap::new(), observations };
        for (placement, o) in placements.iter().zip(observations) {
            let Some(session) = placement.session else { continue };
            let own = || stamp::name("session", &format!("event:{}", o.id));
            let name = naming.session.entry(session).or_insert_with(own);
            if placement.by_conversation_id
                && o.conversation.is_some()
                && let Some(known) = kept.get(&o.id)
            {
                name.clone_from(&known.session_key);
            }
            if let Some(turn) = placement.turn {
                let first = naming.turn.entry((session, turn)).or_insert(o.id);
                if o.act == Act::Prompt {
                    *first = o.id;
                }
            }
            if let Some(call) = placement.call {
                naming.call.entry((session, call)).or_insert(o.id);
            }
        }
        naming.tell_apart();
        naming
    }

    /// Two users may bear one conversation id; they are two sessions all the same.
    fn tell_apart(&mut self) {
        let mut taken: BTreeSet<String> = BTreeSet::new();
        for (session, name) in &mut self.session {
            if !taken.insert(name.clone()) {
                let first = self.turn.range((*session, 0)..).next().map(|(_, id)| *id).unwrap_or_default();
                *name = stamp::name("session", &format!("{name}/event:{first}"));
                taken.insert(name.clone());
            }
        }
    }
}

fn rows(
    placements: &[Placement],
    observations: &[Observation],
    kept: &HashMap<Uuid, Kept>,
    window: Window,
    linker: &str,
    known_at_us: i64,
) -> Vec<LinkRow> {
    let naming = Naming::of(placements, observations, kept);
    let mut found = Vec::new();
    for (placement, o) in placements.iter().zip(naming.observations) {
        let judged = kept.get(&o.id).is_some_and(|known| known.judged);
        if !judged || !(window.from..window.to).contains(&o.time_unix_nano) {
            continue;
        }
        let Some((relation, grade)) = stated(placement, o) else { continue };
        let session = placement.session;
        let event = |id: &Uuid| format!("event:{id}");
        let of =
            |names: &BTreeMap<(usize, usize), Uuid>, number: Option<usize>| names.get(&(session?, number?)).map(event);
        found.push(LinkRow {
            from: o.id,
            to: placement.twin_of.or(placement.parent),
            relation: relation.into(),
            grade: grade.into(),
            rule: placement.rule.map_or("none", Rule::as_str).into(),
            score: (placement.confidence * 1e6).round() / 1e6,
            evidence: evidence(placement),
            candidates: candidates(placement),
            session: session.and_then(|session| naming.session.get(&session).cloned()),
            turn: of(&naming.turn, placement.turn),
            call: of(&naming.call, placement.call),
            linker: linker.into(),
            interval_from: window.read_from,
            interval_to: window.read_to,
            is_final: true,
            known_at_us,
        });
        // A second delivery stands below its original's parent.
        if placement.twin_of.is_some()
            && let (Some(parent), Some(row)) = (placement.parent, found.last().cloned())
        {
            found.push(LinkRow { to: Some(parent), relation: relation_of(o.act, None).into(), ..row });
        }
    }
    found
}

/// Relation and grade of what is believed; `None` where nothing is.
fn stated(placement: &Placement, o: &Observation) -> Option<(&'static str, &'static str)> {
    if placement.twin_of.is_some() {
        return Some(("duplicate_of", "matched"));
    }
    if placement.session.is_none() && placement.parent.is_none() {
        return (!placement.rivals.is_empty()).then_some(("candidate", "ambiguous"));
    }
    let relation = if placement.parent.is_some() { relation_of(o.act, placement.rule) } else { "conversation" };
    let grade = match placement.rule {
        Some(Rule::RequestState) => "matched",
        Some(Rule::Conversation) if placement.by_conversation_id => "claimed",
        _ => "inferred",
    };
    Some((relation, grade))
}

fn relation_of(act: Act, rule: Option<Rule>) -> &'static str {
    match (act, rule) {
        (_, Some(Rule::RequestState)) => "round",
        (Act::Prompt, _) | (Act::Opening, _) => "conversation",
        (Act::Choice | Act::Answer, _) => "prompt",
        (Act::Request | Act::Execution, _) => "execution",
        (Act::Response | Act::Outcome, _) => "result",
        (Act::Http | Act::Statement, _) => "downstream",
    }
}

fn evidence(placement: &Placement) -> Option<String> {
    let weight = |weight: f64| (weight * 1000.0).round() / 1000.0;
    let parts: Vec<serde_json::Value> = placement
        .evidence
        .iter()
        .map(|(what, log)| serde_json::json!({ "what": what, "weight": weight(*log) }))
        .collect();
    (!parts.is_empty()).then(|| serde_json::Value::Array(parts).to_string())
}

fn candidates(placement: &Placement) -> Option<String> {
    let score = |score: f64| (score * 1000.0).round() / 1000.0;
    let rivals: Vec<serde_json::Value> = placement
        .rivals
        .iter()
        .map(|(id, log)| serde_json::json!({ "event": id.to_string(), "score": score(*log) }))
        .collect();
    (!rivals.is_empty()).then(|| serde_json::Value::Array(rivals).to_string())
}

/// What has to be written: opinions that changed, and withdrawals of those that are gone.
fn news(rows: Vec<LinkRow>, standing: &HashMap<Uuid, Vec<&LinkRow>>, window: Window, known_at_us: i64) -> Vec<LinkRow> {
    let same = |a: &LinkRow, b: &LinkRow| {
        let bare = |row: &LinkRow| LinkRow { known_at_us: 0, interval_from: 0, interval_to: 0, ..row.clone() };
        bare(a) == bare(b)
    };
    let mut by_record: BTreeMap<Uuid, Vec<LinkRow>> = BTreeMap::new();
    rows.into_iter().for_each(|row| by_record.entry(row.from).or_default().push(row));
    let mut fresh = Vec::new();
    let gone: Vec<LinkRow> = standing
        .iter()
        .filter(|(from, rows)| {
            let inside =
                rows.iter().all(|row| row.interval_from >= window.read_from && row.interval_to <= window.read_to);
            inside && !by_record.contains_key(from) && rows.iter().any(|row| row.relation != "none")
        })
        .map(|(from, rows)| LinkRow {
            from: *from,
            to: None,
            relation: "none".into(),
            grade: "missing".into(),
            rule: "withdrawn".into(),
            score: 0.0,
            evidence: None,
            candidates: None,
            session: None,
            turn: None,
            call: None,
            known_at_us,
            ..rows[0].clone()
        })
        .collect();
    for (from, rows) in by_record {
        let known = standing.get(&from).map_or(&[][..], Vec::as_slice);
        let unchanged = known.len() == rows.len() && rows.iter().all(|row| known.iter().any(|old| same(row, old)));
        if !unchanged {
            fresh.extend(rows);
        }
    }
    fresh.extend(gone);
    fresh.sort_by(|a, b| (a.from, &a.relation).cmp(&(b.from, &b.relation)));
    fresh
}

/// How the linker runs beside a server.
#[derive(Debug, Clone)]
pub struct Beside {
    /// Data directory.
    pub data: PathBuf,
    /// Pause between two looks at the store.
    pub pause: Duration,
    /// Share of one core that it may take, 0 to 1.
    pub cpu_share: f64,
}

impl Beside {
    /// A look every five seconds, at most a quarter of one core.
    pub fn new(data: &Path) -> Beside {
        Beside { data: data.to_path_buf(), pause: Duration::from_secs(5), cpu_share: 0.25 }
    }
}

/// Judges what is new until told to stop. New records rerun the windows they touch; after a stop everything is looked at
/// once, and only opinions that changed are written.
pub async fn run_beside(beside: Beside, reader: Reader, mut stop: watch::Receiver<bool>) {
    let mut seen: BTreeSet<Uuid> = BTreeSet::new();
    let mut seen_tail: BTreeSet<Uuid> = BTreeSet::new();
    let mut failing = false;
    loop {
        let began = std::time::Instant::now();
        let result = match reader.snapshot().await {
            Ok(snapshot) => match news_range(&snapshot, &mut seen, &mut seen_tail) {
                Some(range) => run(&beside.data, &snapshot, Some(range)).await.map(|_| ()),
                None => Ok(()),
            },
            Err(error) => Err(CorrelateError::Store(error)),
        };
        if let Err(error) = &result
            && !failing
        {
            tracing::error!(error = error as &dyn std::error::Error, "records cannot be correlated");
        }
        failing = result.is_err();
        let rest = began.elapsed().mul_f64((1.0 / beside.cpu_share.clamp(0.01, 1.0)) - 1.0);
        tokio::select! {
            _ = stop.changed() => return,
            () = tokio::time::sleep(rest.max(beside.pause)) => {}
        }
    }
}

/// Event-time range of what was not there at the last look.
fn news_range(snapshot: &Snapshot, seen: &mut BTreeSet<Uuid>, seen_tail: &mut BTreeSet<Uuid>) -> Option<(i64, i64)> {
    let mut range: Option<(i64, i64)> = None;
    let mut widen = |from: i64, to: i64| {
        let (low, high) = range.unwrap_or((from, to));
        range = Some((low.min(from), high.max(to)));
    };
    for file in snapshot.files() {
        if seen.insert(file.id) {
            widen(file.min_time_unix_nano, file.max_time_unix_nano);
        }
    }
    let tail: BTreeSet<Uuid> = snapshot.tail().iter().map(|record| record.event_id).collect();
    for record in snapshot.tail().iter().filter(|record| !seen_tail.contains(&record.event_id)) {
        widen(record.time_unix_nano, record.time_unix_nano);
    }
    *seen_tail = tail;
    range
}
