//! Judged: what the linker believes about records that share no ids, as of one moment, in memory.
//!
//! A record with a judgement stands in the session, turn and call that it names, below the parent that it names; its own
//! keys join it to nothing else that is judged otherwise. Records without one are joined by keys as ever.
//!
//! Invariants
//! - the latest opinion about a record counts; a withdrawn one is as none
//! - read again only when the table `links` has a new version
//!
//! Limit: about 300 bytes per judged record are held.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use threadline_store::links::{LinkRow, LinksTable, opinions};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::error::QueryError;
use crate::model::{Compared, Grade};

/// The parent of a judged record.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgedParent {
    /// Parent.
    pub to: Uuid,
    /// Word of the relation.
    pub relation: &'static str,
    /// How sure.
    pub grade: Grade,
    /// What judged it.
    pub rule: &'static str,
    /// Confidence.
    pub score: f64,
    /// Evidence: what, and the weight (natural log) that it has.
    pub compared: Vec<Compared>,
}

/// What is believed about one record.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judgement {
    /// Session it is in.
    pub session: Option<Arc<str>>,
    /// Key text of its turn.
    pub turn: Option<Arc<str>>,
    /// Key text of its call.
    pub call: Option<Arc<str>>,
    /// Parent.
    pub parent: Option<JudgedParent>,
    /// The record of which this is a second delivery.
    pub duplicate_of: Option<Uuid>,
    /// Several parents are possible and none is sure.
    pub ambiguous: bool,
    /// Rival parents with their scores (natural log), best first.
    pub rivals: Vec<(Uuid, f64)>,
}

/// What an interval taught about one clock.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClockModel {
    /// Sources (side and name) that it stamps.
    pub sources: Vec<(String, String)>,
    /// Event time from which and before which records were read, nanoseconds.
    pub interval: (i64, i64),
    /// Spread of true pairs around it, seconds.
    pub spread_s: Option<f64>,
    /// From when it was how far ahead of the reference, seconds; the first from the beginning.
    pub segments: Vec<(i64, f64)>,
}

/// Ids that stopped joining, and servers that say nothing, of one interval.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// What, in the words of `FindingKind` of `ingest::correlate`.
    pub kind: String,
    /// The id or server.
    pub name: String,
    /// How many records bear it.
    pub count: u64,
    /// The first of them.
    pub records: Vec<Uuid>,
    /// Event time from which and before which records were read, nanoseconds.
    pub interval: (i64, i64),
}

/// All judgements of one moment.
#[derive(Debug, Default)]
pub struct Judged {
    of: HashMap<Uuid, Judgement>,
    clocks: HashMap<String, Vec<ClockModel>>,
    found: Vec<Found>,
    members: HashMap<Arc<str>, Vec<Uuid>>,
    /// Records below a parent that no session was judged for, and those parents.
    below: HashMap<Uuid, Vec<Uuid>>,
    version: i64,
}

impl ClockModel {
    /// How far it was ahead at a time of its own, seconds; segments begin by the reference's time.
    pub fn ahead_at(&self, own_unix_nano: i64) -> Option<f64> {
        let begun = |(from, ahead): &&(i64, f64)| *from <= own_unix_nano.saturating_sub((ahead * 1e9) as i64);
        self.segments.iter().rev().find(begun).or(self.segments.first()).map(|(_, ahead)| *ahead)
    }

    /// Whether records of this time were read.
    pub fn covers(&self, unix_nano: i64) -> bool {
        (self.interval.0..self.interval.1).contains(&unix_nano)
    }
}

impl Judged {
    /// Judgements from rows of the table `links`, as they stood at `at_us`.
    pub fn at(files: &[Arc<Vec<LinkRow>>], at_us: i64, version: i64) -> Judged {
        let mut judged = Judged { version, ..Judged::default() };
        let mut texts: HashMap<String, Arc<str>> = HashMap::new();
        let mut shared = |text: &Option<String>| -> Option<Arc<str>> {
            let text = text.as_ref()?;
            Some(texts.entry(text.clone()).or_insert_with(|| Arc::from(text.as_str())).clone())
        };
        for (from, rows) in opinions(files, at_us) {
            if rows.iter().all(|row| row.relation == "none") {
                continue;
            }
            match rows[0].relation.as_str() {
                "clock" => {
                    let evidence = object(rows[0]);
                    if let Some(name) = evidence["clock"].as_str() {
                        judged.clocks.entry(name.into()).or_default().push(clock(rows[0], &evidence));
                    }
                    continue;
                }
                "finding" => {
                    judged.found.push(finding(rows[0]));
                    continue;
                }
                _ => {}
            }
            let mut judgement = Judgement {
                session: shared(&rows[0].session),
                turn: shared(&rows[0].turn),
                call: shared(&rows[0].call),
                rivals: rivals(rows[0]),
                ..Judgement::default()
            };
            for row in rows {
                match (row.relation.as_str(), row.to) {
                    ("duplicate_of", to) => judgement.duplicate_of = to,
                    ("candidate", _) => judgement.ambiguous = true,
                    (_, Some(to)) => judgement.parent = Some(parent(row, to)),
                    _ => {}
                }
            }
            if let Some(session) = &judgement.session {
                judged.members.entry(session.clone()).or_default().push(from);
            } else if let Some(parent) = &judgement.parent {
                judged.below.entry(parent.to).or_default().push(from);
            }
            judged.of.insert(from, judgement);
        }
        judged.clocks.values_mut().for_each(|models| models.sort_by_key(|model| model.interval));
        judged.found.sort_by(|a, b| (a.interval, &a.kind, &a.name).cmp(&(b.interval, &b.kind, &b.name)));
        judged
    }

    /// What was learned about a clock, by interval.
    pub fn clock(&self, name: &str) -> &[ClockModel] {
        self.clocks.get(name).map_or(&[], Vec::as_slice)
    }

    /// Every clock by name.
    pub fn clocks(&self) -> impl Iterator<Item = (&str, &[ClockModel])> {
        self.clocks.iter().map(|(name, models)| (name.as_str(), models.as_slice()))
    }

    /// What was found beside links.
    pub fn found(&self) -> &[Found] {
        &self.found
    }

    /// What is believed about a record.
    pub fn of(&self, record: Uuid) -> Option<&Judgement> {
        self.of.get(&record)
    }

    /// Session that a record is judged into.
    pub fn session(&self, record: Uuid) -> Option<&Arc<str>> {
        self.of.get(&record)?.session.as_ref()
    }

    /// Records that are judged into a session.
    pub fn members(&self, session: &str) -> &[Uuid] {
        self.members.get(session).map_or(&[], Vec::as_slice)
    }

    /// The parent of a record that is judged into no session: the two belong together as by a key.
    pub fn parent_alone(&self, record: Uuid) -> Option<Uuid> {
        let judgement = self.of.get(&record).filter(|judgement| judgement.session.is_none())?;
        Some(judgement.parent.as_ref()?.to)
    }

    /// Records whose [`Judged::parent_alone`] this is.
    pub fn children_alone(&self, record: Uuid) -> &[Uuid] {
        self.below.get(&record).map_or(&[], Vec::as_slice)
    }

    /// Whether there are any such pairs.
    pub fn has_pairs(&self) -> bool {
        !self.below.is_empty()
    }

    /// Whether nothing is judged of what belongs together.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty() && self.members.is_empty() && self.below.is_empty()
    }

    /// Version of the table that was read.
    pub fn version(&self) -> i64 {
        self.version
    }
}

fn parsed(text: &Option<String>) -> Vec<serde_json::Value> {
    text.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn rivals(row: &LinkRow) -> Vec<(Uuid, f64)> {
    let rival = |rival: serde_json::Value| {
        Some((Uuid::parse_str(rival.get("event")?.as_str()?).ok()?, rival.get("score")?.as_f64()?))
    };
    parsed(&row.candidates).into_iter().filter_map(rival).collect()
}

fn object(row: &LinkRow) -> serde_json::Value {
    row.evidence.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn clock(row: &LinkRow, evidence: &serde_json::Value) -> ClockModel {
    let list = |name: &str| evidence[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let source = |pair: &serde_json::Value| Some((pair[0].as_str()?.to_string(), pair[1].as_str()?.to_string()));
    let segment = |segment: &serde_json::Value| {
        Some((segment["from_unix_nano"].as_i64().unwrap_or(i64::MIN), segment["offset_s"].as_f64()?))
    };
    ClockModel {
        sources: list("sources").iter().filter_map(source).collect(),
        interval: (row.interval_from, row.interval_to),
        spread_s: evidence["spread_s"].as_f64(),
        segments: list("segments").iter().filter_map(segment).collect(),
    }
}

fn finding(row: &LinkRow) -> Found {
    let evidence = object(row);
    let records = evidence["records"].as_array().map(Vec::as_slice).unwrap_or_default();
    Found {
        kind: row.rule.clone(),
        name: evidence["name"].as_str().unwrap_or_default().into(),
        count: evidence["count"].as_u64().unwrap_or(0),
        records: records.iter().filter_map(|id| Uuid::parse_str(id.as_str()?).ok()).collect(),
        interval: (row.interval_from, row.interval_to),
    }
}

fn parent(row: &LinkRow, to: Uuid) -> JudgedParent {
    let compared = parsed(&row.evidence).into_iter().filter_map(|part| {
        let weight = part.get("weight")?.as_f64()?;
        Some(Compared {
            what: part.get("what")?.as_str()?.into(),
            from: "log ratio".into(),
            to: format!("{weight:+.2}"),
        })
    });
    JudgedParent {
        to,
        relation: known(&row.relation, RELATIONS),
        grade: grade(&row.grade),
        rule: known(&row.rule, RULES),
        score: row.score,
        compared: compared.collect(),
    }
}

const RELATIONS: &[&str] = &["prompt", "execution", "result", "downstream", "round", "conversation"];
const RULES: &[&str] = &[
    "conversation",
    "host-gateway",
    "gateway-server",
    "host-server",
    "exchange",
    "request-state",
    "resent",
    "downstream",
    "frame",
    "opening",
    "second-delivery",
];

/// The word as one of ours; a newer linker may know others.
fn known(word: &str, words: &[&'static str]) -> &'static str {
    words.iter().copied().find(|known| *known == word).unwrap_or("judged")
}

fn grade(word: &str) -> Grade {
    match word {
        "matched" => Grade::Matched,
        "claimed" => Grade::Claimed,
        "ambiguous" => Grade::Ambiguous,
        _ => Grade::Inferred,
    }
}

/// Keeps the table open and the judgements of its last version.
#[derive(Debug, Default)]
pub(crate) struct JudgedCache {
    state: Mutex<(Option<LinksTable>, Arc<Judged>)>,
}

impl JudgedCache {
    /// The present judgements of a data directory.
    pub(crate) async fn of(&self, data: &Path) -> Result<Arc<Judged>, QueryError> {
        let mut state = self.state.lock().await;
        let (table, judged) = &mut *state;
        match table {
            Some(table) => table.refresh().await?,
            None => *table = LinksTable::open(data).await?,
        }
        let Some(table) = table else { return Ok(Arc::clone(judged)) };
        if judged.of.is_empty() || judged.version != table.version() {
            *judged = Arc::new(Judged::at(&table.rows().await?, i64::MAX, table.version()));
        }
        Ok(Arc::clone(judged))
    }

    /// Judgements as they stood at a moment, microseconds.
    pub(crate) async fn known_at(&self, data: &Path, at_us: i64) -> Result<Arc<Judged>, QueryError> {
        let Some(mut table) = LinksTable::open(data).await? else { return Ok(Arc::default()) };
        Ok(Arc::new(Judged::at(&table.rows().await?, at_us, table.version())))
    }
}
