//! Who sends, how much, how late, and who has fallen silent: computed from stored records, so that it survives restarts.
//!
//! A source is a name and a side (`source_name`, `source_kind`). Times are our clock (`observed_time`) where they say when
//! something arrived, the source's where they say when it happened.
//!
//! Silent: nothing came for more than [`QUIET_FACTOR`] times the usual interval, and for at least [`QUIET_MIN_S`] seconds.
//! The usual interval is the mean distance between the five-second slots in which something came, over the hour before the
//! last record; where there is one such slot only, [`INTERVAL_UNKNOWN_S`]. What was loaded from files is never silent, nor
//! is a tap whose server has exited.
//!
//! A Kafka topic that is read is listed too, as `kafka:<topic>`: how many messages wait in it and how many went to its
//! dead-letter topic, by the positions kept beside the records. Its records are listed under the sources that its messages
//! name; those that could not be understood and have no name, and gaps, are its own.
//!
//! Invariants
//! - of a sealed file a tally per source is kept, computed once because files never change; at most [`SOURCES_MAX`] sources
//!   per file and in the answer, [`SLOTS_MAX`] slots per source
//! - what is left out is counted in the completeness statement
//!
//! Of a source's clock this says a bound: nothing arrives before it happened, so the least distance between event and
//! arrival in the last hour is at least how far the clock stands ahead (below zero: how far it stands behind at most; the
//! quickest delivery is part of it).
//!
//! How far clocks really are apart only correlation can tell; what it learned is listed per clock, for a source may have many.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use threadline_schemas::columns::from_batch;
use threadline_schemas::{Collector, Kind, Record, SourceKind, TimeQuality, json};
use threadline_store::positions::StreamPosition;
use threadline_store::{RowId, Snapshot};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::engine::{Engine, answer, completeness};
use crate::error::QueryError;
use crate::fact::is_timed;
use crate::judged::Judged;
use crate::line::time_text;
use crate::model::Answer;

/// A source is silent when it was quiet this many times its usual interval.
pub const QUIET_FACTOR: i64 = 10;
/// And at least so many seconds.
pub const QUIET_MIN_S: i64 = 60;
/// The usual interval of a source that was heard once, seconds.
pub const INTERVAL_UNKNOWN_S: i64 = 360;
/// Sources in one file, and in the answer.
const SOURCES_MAX: usize = 5_000;
/// Slots of five seconds in an hour, and one more for the edges.
const SLOTS_MAX: usize = 721;
const SLOT_US: i64 = 5_000_000;
const MINUTE_US: i64 = 60_000_000;
const HOUR_US: i64 = 3_600_000_000;
/// `gap` records of one file whose counts are read.
const GAPS_READ_MAX: usize = 10_000;
/// How long before the last record the end of a tap's server may stand.
const END_US: i64 = 2_000_000;

const COLUMNS: &[&str] = &[
    "source_name",
    "source_kind",
    "collector",
    "kind",
    "name",
    "time_unix_nano",
    "time_quality",
    "observed_time_unix_us",
];

/// What a source is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// It sent something lately, by its own measure.
    Active,
    /// It was quiet for longer than it usually is.
    Silent,
    /// Its server exited, so nothing is expected.
    Ended,
    /// It was loaded from files, so nothing is expected.
    Loaded,
}

/// Who sent what, and when.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SourceSummary {
    /// Its name.
    pub source_name: String,
    /// host, wire, gateway, server, downstream, threadline, unknown.
    pub source_kind: String,
    /// Active, silent, ended or loaded.
    pub state: SourceState,
    /// Records.
    pub records: u64,
    /// Of them, ones that could not be understood.
    pub rejected: u64,
    /// Of them, ones that say that something is missing.
    pub gaps: u64,
    /// How many records, frames or messages those say are missing, where they say it.
    pub dropped: u64,
    /// Oldest event time that it gave; empty where it gave none.
    pub first: String,
    /// Newest event time that it gave; empty where it gave none.
    pub last: String,
    /// Of its records, ones that say no time: they count as received, and are no part of `first` and `last`.
    #[serde(default)]
    pub without_time: u64,
    /// When the newest record was observed, by the clock of its collector.
    pub last_observed: String,
    /// Seconds since then.
    pub quiet_s: i64,
    /// Its usual interval, seconds; null where it was heard once.
    pub usual_interval_s: Option<f64>,
    /// Records observed in the last minute.
    pub last_minute: u64,
    /// Records observed in the last hour.
    pub last_hour: u64,
    /// Observed minus event time of the newest record that has a time of its own, milliseconds.
    pub lag_ms: Option<f64>,
    /// Messages that wait in the topic, of a topic that is read; as far as its broker told.
    pub behind: Option<u64>,
    /// Messages written to the dead-letter topic, of a topic that is read.
    pub dead_lettered: Option<u64>,
    /// Its clock is ahead of its collector's by at least so many milliseconds (below zero: behind by at most so many): the
    /// least of observed minus event time in the hour before its last record, with the sign turned, because nothing is
    /// observed before it happened. Null where nothing says when it happened, and for what was loaded from files.
    pub clock_offset_min_ms: Option<f64>,
    /// Records that this is taken from.
    pub clock_records: u64,
    /// What correlation learned: by how many milliseconds each clock that stamps its records was ahead of the reference (the
    /// busiest gateway) at last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clock_offsets_ms: BTreeMap<String, f64>,
    /// Way in of the newest record: tap, import, watch, otlp, api, kafka, own.
    pub collector: String,
    /// Which collector elsewhere sent the newest record, if one did.
    pub collector_id: Option<String>,
    /// Version of that collector.
    pub collector_version: Option<String>,
}

type Name = (String, SourceKind);

/// What one file, the tail, or everything says about a source.
#[derive(Debug, Clone, Default)]
struct Tally {
    records: u64,
    rejected: u64,
    gaps: u64,
    dropped: u64,
    time: Option<(i64, i64)>,
    without_time: u64,
    observed: Option<(i64, i64)>,
    /// Observed time and lag of the newest record with a time of its own.
    lag: Option<(i64, i64)>,
    /// Where the record observed last stands, and its way in.
    newest: Option<(i64, RowId, Collector)>,
    all_imported: bool,
    started: Option<i64>,
    exited: Option<i64>,
    /// By five-second slot of observed time, of the hour before the last.
    slots: BTreeMap<i64, Slot>,
}

/// What came in five seconds.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    records: u64,
    /// Those that say when they happened, by a clock that ran when they were sent.
    timed: u64,
    /// Least distance between event and arrival among them, nanoseconds.
    nearest: Option<i64>,
}

impl Slot {
    fn add(&mut self, other: Slot) {
        self.records += other.records;
        self.timed += other.timed;
        self.nearest = self.nearest.into_iter().chain(other.nearest).min();
    }
}

/// The tallies of one file or of the tail.
#[derive(Debug, Default)]
struct Tallies {
    by_source: HashMap<Name, Tally>,
    /// Rows of sources beyond [`SOURCES_MAX`].
    left_out: u64,
}

/// Tallies of sealed files.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    files: Mutex<HashMap<Uuid, Arc<Tallies>>>,
}

impl Engine {
    /// Every source, the one heard last first.
    pub async fn sources(&self) -> Result<Answer<Vec<SourceSummary>>, QueryError> {
        let snapshot = self.snapshot().await?;
        let now_us = snapshot.read_at().timestamp_micros();
        let mut all = Tallies::default();
        for file in 0..snapshot.files().len() as u32 {
            all.merge(&*self.tally_of(&snapshot, file).await?, Some(file));
        }
        all.merge(&tail(&snapshot), None);
        let ids: HashSet<Uuid> = snapshot.files().iter().map(|file| file.id).collect();
        self.source_tallies().lock().retain(|id, _| ids.contains(id));
        let mut completeness = completeness(&snapshot);
        completeness.rows_searched = snapshot.sealed_rows() + snapshot.tail_rows();
        if all.left_out > 0 {
            completeness.state = "partial".into();
            completeness.rows_cut = all.left_out;
            completeness.reasons.push(format!("more than {SOURCES_MAX} sources: the rest is counted, not listed"));
        }
        let mut found: Vec<(Name, Tally)> = all.by_source.into_iter().collect();
        found.sort_by(|(a_name, a), (b_name, b)| {
            (b.observed.map(|seen| seen.1), a_name).cmp(&(a.observed.map(|seen| seen.1), b_name))
        });
        let newest: Vec<RowId> = found.iter().filter_map(|(_, tally)| Some(tally.newest?.1)).collect();
        let mut markers = Vec::with_capacity(newest.len());
        // Payloads of a part at a time, so that large ones do not add up.
        for part in newest.chunks(32) {
            markers.extend(snapshot.records(part).await?.iter().map(marker));
        }
        let mut markers = markers.into_iter();
        let mut sources: Vec<SourceSummary> = found
            .into_iter()
            .map(|(name, tally)| {
                let marker = tally.newest.and_then(|_| markers.next()).unwrap_or_default();
                summary(name, &tally, marker, now_us)
            })
            .collect();
        offsets(&mut sources, &*self.judged_now(&snapshot).await?);
        match self.positions().await {
            Ok(positions) => topics(&mut sources, &positions, now_us),
            Err(error) => {
                completeness.state = "partial".into();
                completeness.reasons.push(format!("how far Kafka topics were read is not known: {error}"));
            }
        }
        Ok(answer(sources, None, completeness))
    }

    async fn tally_of(&self, snapshot: &Snapshot, file: u32) -> Result<Arc<Tallies>, QueryError> {
        let id = snapshot.files()[file as usize].id;
        if let Some(known) = self.source_tallies().lock().get(&id) {
            return Ok(Arc::clone(known));
        }
        let batches = snapshot.file_columns(file, COLUMNS).await?;
        let work = move || {
            let mut tallies = Tallies::default();
            let mut gaps = Vec::new();
            let mut row = 0;
            for batch in batches {
                for record in from_batch(&batch)? {
                    let at = RowId { file, row };
                    tallies.see(&record, at);
                    if record.kind == Kind::Gap && gaps.len() < GAPS_READ_MAX {
                        gaps.push(at);
                    }
                    row += 1;
                }
            }
            Ok::<_, QueryError>((tallies, gaps))
        };
        let (mut tallies, gaps) = tokio::task::spawn_blocking(work).await.map_err(|_| QueryError::Interrupted)??;
        for part in gaps.chunks(256) {
            snapshot.records(part).await?.iter().for_each(|record| tallies.drop_counted(record));
        }
        let tallies = Arc::new(tallies);
        self.source_tallies().lock().insert(id, Arc::clone(&tallies));
        Ok(tallies)
    }
}

impl Cache {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Arc<Tallies>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tail(snapshot: &Snapshot) -> Tallies {
    let mut tallies = Tallies::default();
    for (row, record) in (0..).zip(snapshot.tail()) {
        tallies.see(record, RowId { file: RowId::TAIL, row });
        tallies.drop_counted(record);
    }
    tallies
}

impl Tallies {
    fn of(&mut self, name: Name) -> Option<&mut Tally> {
        if self.by_source.len() >= SOURCES_MAX && !self.by_source.contains_key(&name) {
            self.left_out += 1;
            return None;
        }
        Some(self.by_source.entry(name).or_insert_with(|| Tally { all_imported: true, ..Tally::default() }))
    }

    fn see(&mut self, record: &Record, at: RowId) {
        let observed = record.observed_time_unix_us;
        if record.kind == Kind::Access {
            // Who reads sends nothing.
            return;
        }
        let Some(tally) = self.of((record.source_name.clone(), record.source_kind)) else { return };
        tally.records += 1;
        tally.rejected += u64::from(record.kind == Kind::Rejected);
        tally.gaps += u64::from(record.kind == Kind::Gap);
        match is_timed(record) {
            true => tally.time = Some(widened(tally.time, record.time_unix_nano)),
            false => tally.without_time += 1,
        }
        tally.observed = Some(widened(tally.observed, observed));
        tally.all_imported &= record.collector == Collector::Import;
        let mut slot = Slot { records: 1, ..Slot::default() };
        if record.time_quality == TimeQuality::Source {
            let lag = observed.saturating_mul(1000).saturating_sub(record.time_unix_nano);
            if tally.lag.is_none_or(|(seen, _)| seen <= observed) {
                tally.lag = Some((observed, lag));
            }
            if record.collector != Collector::Import {
                (slot.timed, slot.nearest) = (1, Some(lag));
            }
        }
        if tally.newest.is_none_or(|(seen, ..)| seen <= observed) {
            tally.newest = Some((observed, at, record.collector));
        }
        if record.kind == Kind::Process {
            match record.name.as_deref() {
                Some("started") => tally.started = tally.started.max(Some(observed)),
                Some("exited") => tally.exited = tally.exited.max(Some(observed)),
                _ => {}
            }
        }
        tally.slots.entry(observed.div_euclid(SLOT_US)).or_default().add(slot);
        tally.forget_slots();
    }

    /// Adds what a `gap` record says is missing.
    fn drop_counted(&mut self, record: &Record) {
        if record.kind != Kind::Gap {
            return;
        }
        let parsed = record.attributes.as_deref().and_then(|text| json::parse(text.as_bytes()).ok());
        let count = parsed.and_then(|parsed| {
            let number = |name: &str| parsed.value.get(name).and_then(json::Json::as_i64);
            ["records", "frames", "events", "messages"].into_iter().find_map(number)
        });
        if let Some(tally) = self.of((record.source_name.clone(), record.source_kind)) {
            tally.dropped =
                tally.dropped.saturating_add(count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0));
        }
    }

    /// Adds those of a file, whose place in the present snapshot is `file`.
    fn merge(&mut self, other: &Tallies, file: Option<u32>) {
        self.left_out += other.left_out;
        for (name, seen) in &other.by_source {
            let Some(tally) = self.of(name.clone()) else {
                // Counted as one row above.
                self.left_out += seen.records.saturating_sub(1);
                continue;
            };
            tally.records += seen.records;
            tally.rejected += seen.rejected;
            tally.gaps += seen.gaps;
            tally.dropped = tally.dropped.saturating_add(seen.dropped);
            if let Some((first, last)) = seen.time {
                tally.time = Some(widened(Some(widened(tally.time, first)), last));
            }
            if let Some((first, last)) = seen.observed {
                tally.observed = Some(widened(Some(widened(tally.observed, first)), last));
            }
            tally.without_time += seen.without_time;
            tally.all_imported &= seen.all_imported;
            tally.lag = tally.lag.max(seen.lag);
            if let Some((observed, at, collector)) = seen.newest
                && tally.newest.is_none_or(|(known, ..)| known <= observed)
            {
                // A file may stand elsewhere in the list than when it was tallied.
                let at = RowId { file: file.unwrap_or(at.file), row: at.row };
                tally.newest = Some((observed, at, collector));
            }
            tally.started = tally.started.max(seen.started);
            tally.exited = tally.exited.max(seen.exited);
            for (at, slot) in &seen.slots {
                tally.slots.entry(*at).or_default().add(*slot);
            }
            tally.forget_slots();
        }
    }
}

impl Tally {
    /// Keeps the slots of the hour before the newest one.
    fn forget_slots(&mut self) {
        let Some((newest, _)) = self.slots.last_key_value() else { return };
        let from = newest.saturating_sub(HOUR_US / SLOT_US);
        while self.slots.len() > SLOTS_MAX || self.slots.first_key_value().is_some_and(|(slot, _)| *slot < from) {
            self.slots.pop_first();
        }
    }

    /// Mean distance between slots with records, seconds.
    fn usual_interval_s(&self) -> Option<f64> {
        let (first, last) = (*self.slots.first_key_value()?.0, *self.slots.last_key_value()?.0);
        let between = self.slots.len().checked_sub(1).filter(|between| *between > 0)?;
        Some((last - first) as f64 * (SLOT_US / 1_000_000) as f64 / between as f64)
    }

    /// Records observed since `from_us`, to the slot.
    fn since(&self, from_us: i64, now_us: i64) -> u64 {
        let slots = from_us.div_euclid(SLOT_US) + 1..=now_us.div_euclid(SLOT_US).max(from_us.div_euclid(SLOT_US) + 1);
        self.slots.range(slots).map(|(_, slot)| slot.records).sum()
    }

    fn state(&self, quiet_us: i64) -> SourceState {
        let last = self.observed.map_or(0, |seen| seen.1);
        if self.all_imported {
            return SourceState::Loaded;
        }
        if self.exited.is_some_and(|exited| exited >= last - END_US && Some(exited) >= self.started) {
            return SourceState::Ended;
        }
        let interval_s = self.usual_interval_s().unwrap_or(INTERVAL_UNKNOWN_S as f64);
        let allowed_us = ((interval_s * 1e6) as i64).saturating_mul(QUIET_FACTOR).max(QUIET_MIN_S * 1_000_000);
        if quiet_us > allowed_us { SourceState::Silent } else { SourceState::Active }
    }
}

fn widened(range: Option<(i64, i64)>, value: i64) -> (i64, i64) {
    range.map_or((value, value), |(first, last)| (first.min(value), last.max(value)))
}

/// What a collector elsewhere wrote into a record: its way in, its id, its version.
fn marker(record: &Record) -> [Option<String>; 3] {
    let text = record.attributes.as_deref().filter(|text| text.starts_with("{\"threadline."));
    let parsed = text.and_then(|text| json::parse(text.as_bytes()).ok());
    let member = |name: &str| parsed.as_ref()?.value.str_at(name).map(str::to_string);
    [member("threadline.via"), member("threadline.collector"), member("threadline.version")]
}

fn summary(name: Name, tally: &Tally, marker: [Option<String>; 3], now_us: i64) -> SourceSummary {
    let [via, collector_id, collector_version] = marker;
    let [first, last] = tally.time.map_or_else(Default::default, |(first, last)| [first, last].map(time_text));
    let (_, observed) = tally.observed.unwrap_or_default();
    let quiet_us = now_us.saturating_sub(observed).max(0);
    let direct = tally.newest.map_or(Collector::Own, |newest| newest.2).to_string();
    let collector = via.unwrap_or(direct);
    let state = match tally.state(quiet_us) {
        SourceState::Active | SourceState::Silent if collector == Collector::Import.as_str() => SourceState::Loaded,
        state => state,
    };
    let mut clock = Slot::default();
    if state != SourceState::Loaded {
        tally.slots.values().for_each(|slot| clock.add(*slot));
    }
    SourceSummary {
        source_name: name.0,
        source_kind: name.1.to_string(),
        state,
        records: tally.records,
        rejected: tally.rejected,
        gaps: tally.gaps,
        dropped: tally.dropped,
        first,
        last,
        without_time: tally.without_time,
        last_observed: time_text(observed.saturating_mul(1000)),
        quiet_s: quiet_us / 1_000_000,
        usual_interval_s: tally.usual_interval_s(),
        last_minute: tally.since(now_us - MINUTE_US, now_us),
        last_hour: tally.since(now_us - HOUR_US, now_us),
        lag_ms: tally.lag.map(|(_, nanos)| nanos as f64 / 1e6),
        behind: None,
        dead_lettered: None,
        clock_offset_min_ms: clock.nearest.map(|nanos| -nanos as f64 / 1e6),
        clock_records: clock.timed,
        clock_offsets_ms: BTreeMap::new(),
        collector,
        collector_id,
        collector_version,
    }
}

/// Clocks that one source names.
const CLOCKS_MAX: usize = 256;

/// Adds what correlation learned about clocks: the last offset of each.
fn offsets(sources: &mut [SourceSummary], judged: &Judged) {
    let mut of: HashMap<(&str, &str), BTreeMap<&str, f64>> = HashMap::new();
    for (clock, models) in judged.clocks() {
        for model in models {
            let Some((_, ahead)) = model.segments.last() else { continue };
            for (kind, name) in &model.sources {
                let clocks = of.entry((kind, name)).or_default();
                if clocks.len() < CLOCKS_MAX || clocks.contains_key(clock) {
                    clocks.insert(clock, (ahead * 1e6).round() / 1e3);
                }
            }
        }
    }
    for source in sources {
        let Some(clocks) = of.remove(&(source.source_kind.as_str(), source.source_name.as_str())) else { continue };
        source.clock_offsets_ms = clocks.into_iter().map(|(clock, ahead)| (clock.to_string(), ahead)).collect();
    }
}

/// Adds what the positions of topics say: to the source of that name, or as one that has no records of its own.
fn topics(sources: &mut Vec<SourceSummary>, positions: &[StreamPosition], now_us: i64) {
    for position in positions {
        let name = (format!("kafka:{}", position.stream.topic), SourceKind::Threadline);
        let is_it = |source: &SourceSummary| source.source_name == name.0 && source.source_kind == name.1.as_str();
        let at = sources.iter().position(is_it).unwrap_or_else(|| {
            let nothing =
                Tally { observed: Some((position.updated_unix_us, position.updated_unix_us)), ..Tally::default() };
            let mut source = summary(name, &nothing, Default::default(), now_us);
            source.collector = Collector::Kafka.to_string();
            sources.push(source);
            sources.len() - 1
        });
        let source = &mut sources[at];
        source.behind = match (source.behind, position.behind()) {
            (Some(known), more) => Some(known.saturating_add(more.unwrap_or(0))),
            (None, more) => more,
        };
        source.dead_lettered = Some(source.dead_lettered.unwrap_or(0).saturating_add(position.dead_lettered));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    const NOW_US: i64 = 1_795_000_000_000_000;

    fn record(source: &str, seconds_ago: i64) -> Record {
        let mut record = Record::new("default", &format!("api:{source}{seconds_ago}"), Kind::Log);
        record.source_name = source.into();
        record.collector = Collector::Watch;
        let observed = NOW_US - seconds_ago * 1_000_000;
        record.set_time(Some((observed - 1_500) * 1000), observed);
        record
    }

    fn check(records: &[Record], expected: Expect) {
        let mut first = Tallies::default();
        let mut second = Tallies::default();
        for (row, record) in (0..).zip(records) {
            let tallies = if row % 2 == 0 { &mut first } else { &mut second };
            tallies.see(record, RowId { file: row % 2, row });
            tallies.drop_counted(record);
        }
        let mut all = Tallies::default();
        all.merge(&second, Some(1));
        all.merge(&first, Some(0));
        let mut names: Vec<&Name> = all.by_source.keys().collect();
        names.sort();
        let shown: Vec<String> = names
            .into_iter()
            .map(|name| {
                let s = summary(name.clone(), &all.by_source[name], Default::default(), NOW_US);
                format!(
                    "{} {:?}: {} records, {} rejected, {} gaps, {} dropped; quiet {} s, usual {:?} s; {} in the minute, {} in the hour; lag {:?} ms; clock {:?} ms by {}\n",
                    s.source_name, s.state, s.records, s.rejected, s.gaps, s.dropped, s.quiet_s, s.usual_interval_s,
                    s.last_minute, s.last_hour, s.lag_ms, s.clock_offset_min_ms, s.clock_records,
                )
            })
            .collect();
        expected.assert_eq(&shown.concat());
    }

    #[test]
    fn silent_is_ten_times_the_usual_interval_and_a_minute_at_least() {
        let every = |source: &str, interval: i64, last: i64| {
            (0..20)
                .map(move |n| n * interval + last)
                .map({
                    let source = source.to_string();
                    move |ago| record(&source, ago)
                })
                .collect::<Vec<_>>()
        };
        let records = [
            every("a steady, quiet for 55 s", 5, 55),
            every("b steady, quiet for 70 s", 5, 70),
            every("c slow, quiet for 20 min", 150, 1200),
            every("d slow, quiet for 30 min", 150, 1800),
            vec![record("e once, 59 min ago", 3540), record("f once, 61 min ago", 3660)],
        ];
        check(
            &records.concat(),
            expect![[r#"
                a steady, quiet for 55 s Active: 20 records, 0 rejected, 0 gaps, 0 dropped; quiet 55 s, usual Some(5.0) s; 1 in the minute, 20 in the hour; lag Some(1.5) ms; clock Some(-1.5) ms by 20
                b steady, quiet for 70 s Silent: 20 records, 0 rejected, 0 gaps, 0 dropped; quiet 70 s, usual Some(5.0) s; 0 in the minute, 20 in the hour; lag Some(1.5) ms; clock Some(-1.5) ms by 20
                c slow, quiet for 20 min Active: 20 records, 0 rejected, 0 gaps, 0 dropped; quiet 1200 s, usual Some(150.0) s; 0 in the minute, 16 in the hour; lag Some(1.5) ms; clock Some(-1.5) ms by 20
                d slow, quiet for 30 min Silent: 20 records, 0 rejected, 0 gaps, 0 dropped; quiet 1800 s, usual Some(150.0) s; 0 in the minute, 12 in the hour; lag Some(1.5) ms; clock Some(-1.5) ms by 20
                e once, 59 min ago Active: 1 records, 0 rejected, 0 gaps, 0 dropped; quiet 3540 s, usual None s; 0 in the minute, 1 in the hour; lag Some(1.5) ms; clock Some(-1.5) ms by 1
                f once, 61 min ago Silent: 1 records, 0 rejected, 0 gaps, 0 dropped; quiet 3660 s, usual None s; 0 in the minute, 0 in the hour; lag Some(1.5) ms; clock Some(-1.5) ms by 1
            "#]],
        );
    }

    #[test]
    fn what_is_missing_is_counted_and_what_has_ended_is_not_silent() {
        let mut gap = record("a", 10);
        gap.kind = Kind::Gap;
        gap.attributes = Some(r#"{"reason":"x","records":41}"#.into());
        let mut of_http = record("a", 10);
        of_http.kind = Kind::Gap;
        of_http.attributes = Some(r#"{"events":3,"bytes":40,"reason":"overflow"}"#.into());
        let mut rejected = record("a", 20);
        rejected.kind = Kind::Rejected;
        let mut exited = record("b", 90_000);
        (exited.kind, exited.name) = (Kind::Process, Some("exited".into()));
        let mut loaded = record("c", 90_000);
        loaded.collector = Collector::Import;
        check(
            &[gap, of_http, rejected, exited, record("b", 90_010), loaded],
            expect![[r#"
                a Active: 3 records, 1 rejected, 2 gaps, 44 dropped; quiet 10 s, usual Some(10.0) s; 3 in the minute, 3 in the hour; lag Some(1.5) ms; clock Some(-1.5) ms by 3
                b Ended: 2 records, 0 rejected, 0 gaps, 0 dropped; quiet 90000 s, usual Some(10.0) s; 0 in the minute, 0 in the hour; lag Some(1.5) ms; clock Some(-1.5) ms by 2
                c Loaded: 1 records, 0 rejected, 0 gaps, 0 dropped; quiet 90000 s, usual None s; 0 in the minute, 0 in the hour; lag Some(1.5) ms; clock None ms by 0
            "#]],
        );
    }

    #[test]
    fn a_clock_is_ahead_by_at_least_what_comes_before_it_happened() {
        let late = |source: &str, seconds_ago: i64, lag_ms: i64| {
            let mut record = record(source, seconds_ago);
            let observed = record.observed_time_unix_us;
            record.set_time(Some((observed - lag_ms * 1000) * 1000), observed);
            record
        };
        let mut untimed = record("b", 1);
        untimed.set_time(None, untimed.observed_time_unix_us);
        let mut loaded = late("c", 1, 86_400_000);
        loaded.collector = Collector::Import;
        check(
            &[
                late("a ahead", 30, -1800),
                late("a ahead", 20, -1750),
                late("a ahead", 10, 500),
                // Beyond the hour: clocks are set.
                late("a ahead", 7200, -60_000),
                late("behind or slow", 5, 900),
                late("behind or slow", 4, 400),
                untimed,
                loaded,
            ],
            expect![[r#"
                a ahead Active: 4 records, 0 rejected, 0 gaps, 0 dropped; quiet 10 s, usual Some(10.0) s; 3 in the minute, 3 in the hour; lag Some(500.0) ms; clock Some(1800.0) ms by 3
                b Active: 1 records, 0 rejected, 0 gaps, 0 dropped; quiet 1 s, usual None s; 1 in the minute, 1 in the hour; lag None ms; clock None ms by 0
                behind or slow Active: 2 records, 0 rejected, 0 gaps, 0 dropped; quiet 4 s, usual None s; 2 in the minute, 2 in the hour; lag Some(400.0) ms; clock Some(-400.0) ms by 2
                c Loaded: 1 records, 0 rejected, 0 gaps, 0 dropped; quiet 1 s, usual None s; 1 in the minute, 1 in the hour; lag Some(86400000.0) ms; clock None ms by 0
            "#]],
        );
    }

    #[test]
    fn memory_is_bounded() {
        let mut tallies = Tallies::default();
        for n in 0..SOURCES_MAX + 7 {
            tallies.see(&record(&n.to_string(), 1), RowId { file: 0, row: n as u32 });
        }
        assert_eq!((tallies.by_source.len(), tallies.left_out), (SOURCES_MAX, 7));
        let mut one = Tallies::default();
        (0..2000).for_each(|n| one.see(&record("a", n * 5), RowId { file: 0, row: n as u32 }));
        assert!(one.by_source[&("a".to_string(), SourceKind::Unknown)].slots.len() <= SLOTS_MAX);
    }
}
