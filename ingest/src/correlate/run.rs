//! Runs the linker over stored records and stores what it believes.
//!
//! ```text
//! snapshot ─> minutes ─> windows touched ─> observations ─> correlate ─> rows ─> less what is believed already ─> links
//! ```
//!
//! Invariants
//! - links of a window are a function of the records stored in it and its margins, and of the linker's version
//! - one window is in memory at a time, and the opinions about it; of the rest a number per minute
//!
//! Not here: when to run (`beside`, the CLI), what links mean for sessions (`query`).

mod learned;
mod rows;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use threadline_schemas::columns::from_batch;
use threadline_schemas::{Record, SourceKind};
use threadline_store::links::{LinkRow, LinksTable, opinions};
use threadline_store::{Reader, SealedFile, Snapshot, StoreError};
use uuid::Uuid;

use super::observation::Observation;
use super::project::{COLUMNS, is_judged, may_act, project};
use super::windows::{Held as MinuteHeld, Minutes, Window, minute, windows};
use super::{Settings, correlate};
use learned::{Sources, learned};
use rows::{Judge, news, rows};

/// Version of the linker; raised when the same records may give other links.
pub const LINKER_VERSION: u32 = 11;
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
    let mut times = Times::default();
    let all = windows(&times.of(&snapshot).await?);
    let touched = all.into_iter().filter(|window| range.is_none_or(|range| window.touches(range)));
    judge_windows(data, &snapshot, &times, touched.collect()).await
}

/// Judges the windows that records newer than `before` touch, and those that are cut otherwise because of them.
pub async fn relink_since(data: &Path, reader: &Reader, before: &Snapshot) -> Result<Report, CorrelateError> {
    let known: BTreeSet<Uuid> = before.files().iter().map(|file| file.id).collect();
    let tail: BTreeSet<Uuid> = before.tail().iter().map(|record| record.event_id).collect();
    let snapshot = reader.snapshot().await?;
    let news = news_range(&snapshot, |file| !known.contains(&file.id), |record| !tail.contains(&record.event_id));
    let Some(news) = news else { return Ok(Report::default()) };
    let mut times = Times::default();
    let earlier = windows(&times.of(before).await?);
    let now = windows(&times.of(&snapshot).await?);
    let touched = now.into_iter().filter(|window| window.touches(news) || !earlier.contains(window));
    judge_windows(data, &snapshot, &times, touched.collect()).await
}

async fn judge_windows(
    data: &Path,
    snapshot: &Snapshot,
    times: &Times,
    windows: Vec<Window>,
) -> Result<Report, CorrelateError> {
    let mut report = Report::default();
    if windows.is_empty() || !times.any_judged {
        return Ok(report);
    }
    let mut table = LinksTable::open_or_create(data).await?;
    for window in windows {
        let rows = judge(snapshot, &table, window, true, &mut report).await?;
        table.append(rows).await?;
    }
    Ok(report)
}

/// The rows that have to be written about one window. Opinions of an interval that may still grow are not final.
pub(super) async fn judge(
    snapshot: &Snapshot,
    table: &LinksTable,
    window: Window,
    is_final: bool,
    report: &mut Report,
) -> Result<Vec<LinkRow>, CorrelateError> {
    let Held { observations, records, sources } = read(snapshot, window).await?;
    let known = table.rows_between(window.read_from, window.read_to).await?;
    report.windows += 1;
    report.observations += observations.len();
    let known_at_us = chrono::Utc::now().timestamp_micros();
    let work = move || {
        let mut observations = observations;
        let settings = Settings::default();
        let found = correlate(&mut observations, &settings);
        let judge = Judge { linker: linker_name(&settings), known_at_us, is_final };
        let mut rows = rows(&found.placements, &observations, &records, window, &judge);
        rows.extend(learned(&found, &observations, &sources, window, &judge));
        let times = observations.iter().map(|o| (o.id, o.time_unix_nano)).collect();
        news(rows, &opinions(&known, i64::MAX), &times, window, &judge)
    };
    let rows = tokio::task::spawn_blocking(work).await.map_err(|_| CorrelateError::Interrupted)?;
    report.rows += rows.len();
    Ok(rows)
}

/// Name, version and digest of the parameters.
fn linker_name(settings: &Settings) -> String {
    let digest = Sha256::digest(format!("{settings:?}"));
    format!("correlate/{LINKER_VERSION}#{}", hex::encode(&digest[..6]))
}

/// How many records that the linker looks at each minute holds; sealed files are read once.
#[derive(Debug, Default)]
pub(super) struct Times {
    files: HashMap<Uuid, Arc<Minutes>>,
    /// Whether there is any record that the linker has an opinion about.
    pub(super) any_judged: bool,
}

impl Times {
    /// Of the files of a snapshot that were counted before and are wanted.
    pub(super) fn of_files(&self, snapshot: &Snapshot, wanted: impl Fn(&SealedFile) -> bool) -> Minutes {
        let mut some = Minutes::new();
        let files = snapshot.files().iter().filter(|file| wanted(file)).filter_map(|file| self.files.get(&file.id));
        files.flat_map(|minutes| minutes.iter()).for_each(|(minute, held)| *some.entry(*minute).or_default() += *held);
        some
    }

    /// Of all records of a snapshot.
    pub(super) async fn of(&mut self, snapshot: &Snapshot) -> Result<Minutes, CorrelateError> {
        let mut all = Minutes::new();
        let mut files = HashMap::new();
        for (place, file) in snapshot.files().iter().enumerate() {
            let minutes = match self.files.remove(&file.id) {
                Some(known) => known,
                None => {
                    let mut minutes = Minutes::new();
                    for batch in snapshot.file_columns(place as u32, TIME_COLUMNS).await? {
                        let records = from_batch(&batch).map_err(|error| CorrelateError::Columns(Box::new(error)))?;
                        records.iter().for_each(|record| self.count(record, &mut minutes));
                    }
                    Arc::new(minutes)
                }
            };
            minutes.iter().for_each(|(minute, held)| *all.entry(*minute).or_default() += *held);
            files.insert(file.id, minutes);
        }
        self.files = files;
        snapshot.tail().iter().for_each(|record| self.count(record, &mut all));
        Ok(all)
    }

    fn count(&mut self, record: &Record, minutes: &mut Minutes) {
        if may_act(record) {
            self.any_judged |= is_judged(record);
            *minutes.entry(minute(record.time_unix_nano)).or_default() += MinuteHeld::one(side(record));
        }
    }
}

/// The side that a source which a profile reads speaks for: those only are found by what they say.
fn side(record: &Record) -> Option<u8> {
    let side = match record.source_kind {
        SourceKind::Host => 0,
        SourceKind::Gateway => 1,
        SourceKind::Server => 2,
        SourceKind::Downstream => 3,
        _ => return None,
    };
    is_judged(record).then_some(side)
}

/// What is kept of a record beside its observation.
#[derive(Debug)]
struct Kept {
    session_key: String,
    judged: bool,
}

/// What is read of an interval.
#[derive(Debug, Default)]
struct Held {
    observations: Vec<Observation>,
    records: HashMap<Uuid, Kept>,
    sources: Sources,
}

async fn read(snapshot: &Snapshot, window: Window) -> Result<Held, CorrelateError> {
    let mut held = Held::default();
    let mut look = |record: &Record| {
        if !(window.read_from..window.read_to).contains(&record.time_unix_nano) {
            return;
        }
        if let Some(observation) = project(record) {
            let known = Kept { session_key: record.session_key.clone(), judged: is_judged(record) };
            if held.records.insert(record.event_id, known).is_none() {
                let names = held.sources.entry(observation.clock.clone()).or_default();
                names.insert((record.source_kind.to_string(), record.source_name.clone()));
                held.observations.push(observation);
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
    Ok(held)
}

/// Event-time range of the files and records of the tail that are new.
pub(super) fn news_range(
    snapshot: &Snapshot,
    is_new_file: impl Fn(&SealedFile) -> bool,
    is_new: impl Fn(&Record) -> bool,
) -> Option<(i64, i64)> {
    let mut range: Option<(i64, i64)> = None;
    let mut widen = |from: i64, to: i64| {
        let (low, high) = range.unwrap_or((from, to));
        range = Some((low.min(from), high.max(to)));
    };
    let files = snapshot.files().iter().filter(|file| is_new_file(file));
    files.for_each(|file| widen(file.min_time_unix_nano, file.max_time_unix_nano));
    let records = snapshot.tail().iter().filter(|record| is_new(record));
    records.for_each(|record| widen(record.time_unix_nano, record.time_unix_nano));
    range
}
