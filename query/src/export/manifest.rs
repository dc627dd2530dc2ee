//! What a bundle says of itself: the types of `manifest.json`, and the tallies that fill them.
//!
//! Invariants
//! - the same question on the same records gives the same manifest: who asked, when, why, and in which state the store was
//!   then is in `custody.json`, because every export leaves a record of itself in the store
//! - lists are bounded ([`NAMED_MAX`]); beside each stands how many there are in all, and the file that has all of them
//!
//! Format version [`FORMAT_VERSION`]; a reader refuses others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use threadline_schemas::ocsf::Version;
use threadline_schemas::{Kind, Record};

use crate::fact::is_timed;
use crate::line::{EXCERPT_CHARS, content, time_text};
use crate::model::{Completeness, Gap, Grade, Link};

/// Version of the bundle's layout and manifest.
pub(super) const FORMAT_VERSION: u64 = 1;
/// What `format` says.
pub(super) const FORMAT: &str = "threadline-bundle";
/// Gaps, rejected records and findings that a manifest names.
const NAMED_MAX: usize = 100;
/// Sources that are counted apart.
const SOURCES_MAX: usize = 1_000;

/// `manifest.json`.
#[derive(Debug, Serialize)]
pub(super) struct Manifest {
    pub(super) format: &'static str,
    pub(super) format_version: u64,
    pub(super) program: &'static str,
    pub(super) question: Asked,
    /// What this covers and what it does not.
    pub(super) completeness: Statement,
    pub(super) records: u64,
    pub(super) by_kind: BTreeMap<&'static str, u64>,
    pub(super) by_source: BTreeMap<String, u64>,
    /// Oldest and newest time that a source gave.
    pub(super) first_time: Option<String>,
    pub(super) last_time: Option<String>,
    /// Records whose source gave no time.
    pub(super) records_without_time: u64,
    pub(super) sessions: Named<String>,
    pub(super) gaps: Named<Gap>,
    pub(super) rejected: Named<Rejected>,
    pub(super) findings: Named<Noticed>,
    pub(super) links: Graded,
    pub(super) ocsf: Ocsf,
    pub(super) raw: Raw,
    pub(super) leaves: Leaves,
    pub(super) proofs: Proofs,
    pub(super) files: BTreeMap<String, Digest>,
}

/// What was asked, as it was understood.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Asked {
    /// `session`, `query` or `range`.
    pub(super) what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<String>,
    /// The session that the id led to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) q: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<String>,
    /// Weakest grade of link that was followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) grade: Option<Grade>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) as_known_at: Option<String>,
    /// Whether records of who read the store are among it.
    pub(super) access: bool,
}

/// The state of the store that was read.
#[derive(Debug, Clone, Serialize)]
pub(super) struct State {
    pub(super) read_at: String,
    pub(super) table_version: i64,
    pub(super) sealed_rows: u64,
    pub(super) tail_rows: u64,
    pub(super) rows_searched: u64,
}

/// A completeness statement, without that state.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Statement {
    pub(super) state: String,
    pub(super) reasons: Vec<String>,
    pub(super) searched_from: Option<String>,
    pub(super) searched_to: Option<String>,
    pub(super) rows_cut: u64,
    pub(super) sources_silent: Vec<String>,
    pub(super) links_inferred: u64,
    pub(super) notes: Vec<String>,
}

impl Statement {
    pub(super) fn of(completeness: &Completeness) -> (State, Statement) {
        let c = completeness.clone();
        let state = State {
            read_at: c.snapshot.read_at,
            table_version: c.snapshot.table_version,
            sealed_rows: c.snapshot.sealed_rows,
            tail_rows: c.snapshot.tail_rows,
            rows_searched: c.rows_searched,
        };
        let statement = Statement {
            state: c.state,
            reasons: c.reasons,
            searched_from: c.searched_from,
            searched_to: c.searched_to,
            rows_cut: c.rows_cut,
            sources_silent: c.sources_silent,
            links_inferred: c.links_inferred,
            notes: c.notes,
        };
        (state, statement)
    }
}

/// The first of many, and how many there are.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Named<T> {
    pub(super) count: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) by_kind: BTreeMap<String, u64>,
    /// The first of them.
    pub(super) first: Vec<T>,
    /// Where all of them are.
    pub(super) all_in: &'static str,
}

impl<T> Named<T> {
    pub(super) fn in_file(all_in: &'static str) -> Self {
        Named { count: 0, by_kind: BTreeMap::new(), first: Vec::new(), all_in }
    }

    /// Counts one, and keeps it while there is room.
    pub(super) fn add(&mut self, one: impl FnOnce() -> T) {
        self.count += 1;
        if self.first.len() < NAMED_MAX {
            self.first.push(one());
        }
    }

    pub(super) fn more(&self) -> u64 {
        self.count - self.first.len() as u64
    }
}

/// A record that could not be understood.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Rejected {
    pub(super) event_id: String,
    pub(super) file: Option<String>,
    pub(super) line: Option<i64>,
    pub(super) reason: Option<String>,
}

/// A finding, or a gap that a recorder wrote down.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Noticed {
    pub(super) event_id: String,
    pub(super) time: String,
    pub(super) kind: String,
    pub(super) name: Option<String>,
    pub(super) says: String,
}

/// Links by grade.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Graded {
    pub(super) count: u64,
    pub(super) by_grade: BTreeMap<Grade, u64>,
    pub(super) all_in: &'static str,
}

impl Graded {
    pub(super) fn add(&mut self, link: &Link) {
        self.count += 1;
        *self.by_grade.entry(link.grade).or_default() += 1;
    }
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Ocsf {
    pub(super) version: &'static str,
    pub(super) events: u64,
    /// Bytes of content that an event may hold as text.
    pub(super) text_bytes_max: usize,
    pub(super) all_in: &'static str,
}

impl Ocsf {
    pub(super) fn new(version: Version, text_bytes_max: usize) -> Self {
        Ocsf { version: version.as_str(), events: 0, text_bytes_max, all_in: "ocsf.ndjson" }
    }
}

/// The exact bytes that were received, after redaction.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Raw {
    /// Records that have bytes of their own.
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Lines beside the export of which exported records are parts.
    pub(super) lines_beside: u64,
    pub(super) all_in: &'static str,
    /// Per record: offset, length and SHA-256 of its bytes, or the record of the line that it is a part of.
    pub(super) index: &'static str,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Leaves {
    /// Definition of the leaf.
    pub(super) format: &'static str,
    /// `leaf_hash` of each record.
    pub(super) all_in: &'static str,
}

/// Where signed proofs will be.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Proofs {
    pub(super) folder: &'static str,
    pub(super) count: u64,
    pub(super) note: &'static str,
}

/// Size and digest of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Digest {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// What is counted while records pass.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) records: u64,
    pub(super) by_kind: BTreeMap<&'static str, u64>,
    pub(super) by_source: BTreeMap<String, u64>,
    span: Option<(i64, i64)>,
    /// Records whose source gave no time: theirs is when they were received, and no part of the range.
    pub(super) without_time: u64,
    pub(super) rejected: Named<Rejected>,
    pub(super) findings: Named<Noticed>,
    /// Gaps that a recorder wrote down.
    pub(super) gaps: Named<Noticed>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Tally {
            records: 0,
            by_kind: BTreeMap::new(),
            by_source: BTreeMap::new(),
            span: None,
            without_time: 0,
            rejected: Named::in_file("records.ndjson"),
            findings: Named::in_file("records.ndjson"),
            gaps: Named::in_file("records.ndjson"),
        }
    }

    pub(super) fn add(&mut self, record: &Record) {
        self.records += 1;
        *self.by_kind.entry(record.kind.as_str()).or_default() += 1;
        let is_known = self.by_source.contains_key(&record.source_name) || self.by_source.len() < SOURCES_MAX;
        let source = if is_known { record.source_name.as_str() } else { "(other)" };
        *self.by_source.entry(source.to_string()).or_default() += 1;
        if is_timed(record) {
            let time = record.time_unix_nano;
            let (first, last) = self.span.unwrap_or((time, time));
            self.span = Some((first.min(time), last.max(time)));
        } else {
            self.without_time += 1;
        }
        match record.kind {
            Kind::Rejected => self.rejected.add(|| Rejected {
                event_id: record.event_id.to_string(),
                file: record.origin_file.clone(),
                line: record.origin_line,
                reason: record.text.clone(),
            }),
            Kind::Finding => self.findings.add(|| noticed(record)),
            Kind::Gap => self.gaps.add(|| noticed(record)),
            _ => {}
        }
    }

    pub(super) fn first_time(&self) -> Option<String> {
        self.span.map(|(first, _)| time_text(first))
    }

    pub(super) fn last_time(&self) -> Option<String> {
        self.span.map(|(_, last)| time_text(last))
    }
}

fn noticed(record: &Record) -> Noticed {
    let says = content(record).map(|(_, text)| text.chars().take(EXCERPT_CHARS).collect()).unwrap_or_default();
    Noticed {
        event_id: record.event_id.to_string(),
        time: time_text(record.time_unix_nano),
        kind: record.kind.to_string(),
        name: record.name.clone(),
        says,
    }
}
