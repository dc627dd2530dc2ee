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

/// All judgements of one moment.
#[derive(Debug, Default)]
pub struct Judged {
    of: HashMap<Uuid, Judgement>,
    members: HashMap<Arc<str>, Vec<Uuid>>,
    version: i64,
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
            }
            judged.of.insert(from, judgement);
        }
        judged
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
