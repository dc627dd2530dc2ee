//! Exports: every record of a session, of a search or of a time range, from one snapshot, in a form that
//! other tools read.
//!
//! ```text
//! question -> choose (rows) -> record access -> NDJSON, CSV, Parquet, OCSF: part by part
//!                           -> prepare (bundle, report: files without a name) -> record access -> archive
//! ```
//!
//! Invariants
//! - what is exported is chosen before the first byte goes out, so the completeness statement and the count
//!   stand in front; nothing is cut: what is too much ([`ROWS_MAX`]) is refused with a way to narrow it
//! - records are read a part at a time; memory does not grow with the export beyond what a session takes that is gathered
//!   or linked, one after the other, and 32 bytes per record of a bundle
//! - the same question on the same records gives the same bytes, but for who asked, when, and the state of the store then
//!   (`custody.json`; of a report alone its last part)
//! - every export leaves an `access` record, or says why not
//!
//! Not here: delivery that goes on, signatures, pages.

mod archive;
mod bundle;
mod chained;
pub mod check;
mod choose;
mod custody;
mod encode;
mod manifest;
mod occurrences;
mod progress;
mod report;
mod sessions;
mod spool;

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use threadline_schemas::Record;
use threadline_schemas::ocsf::{Policy, SessionFacts, Version};
use threadline_store::{RowId, Snapshot};
use utoipa::ToSchema;

use crate::engine::Engine;
use crate::error::QueryError;
use crate::model::{Completeness, Grade};
pub use archive::FOLDER;
use choose::{Chosen, Needs};
use custody::Access;
pub use custody::{Recorded, WORDS_BYTES_MAX};
use encode::Encoder;
pub(crate) use progress::Preparations;
pub use progress::Progress;
use sessions::Sessions;

/// Rows of one export: their places take 8 bytes each while it runs.
pub const ROWS_MAX: usize = 5_000_000;
/// Records that are read at once: fewer when they are large.
const PART: std::ops::RangeInclusive<usize> = 8..=256;
/// Payload bytes of a part above which the next one is smaller.
const PART_BYTES: usize = 8 << 20;

/// What to export, and how.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct ExportQuestion {
    /// Every record of the session that this id leads to.
    pub session: Option<String>,
    /// Of a session: only what links of this grade, or stronger ones, hold together, as on its page.
    pub grade: Option<Grade>,
    /// Of a session: as it was believed at this moment, RFC 3339.
    pub as_known_at: Option<String>,
    /// Every record with these words and "quoted phrases".
    pub q: Option<String>,
    /// Events at or after, RFC 3339; with neither `session` nor `q`: every record of the range.
    pub from: Option<String>,
    /// Events before, RFC 3339.
    pub to: Option<String>,
    /// Of a range: also records of who read this store; default false.
    pub access: Option<bool>,
    /// `ndjson` (default), `csv`, `parquet`, `ocsf`, `bundle` (tar) or `html`.
    pub format: Option<String>,
    /// Version of OCSF events: 1.8.0 (default), 1.5.0, 1.3.0, 1.1.0.
    pub ocsf_version: Option<String>,
    /// Bytes of content that an OCSF event may hold as text; default 0: digests and lengths only.
    pub ocsf_text_bytes: Option<usize>,
    /// Who exports it, as they say; kept in the record of this access.
    pub by: Option<String>,
    /// Why; kept there too.
    pub reason: Option<String>,
    /// A name under which `/api/v1/export/progress` tells how far it is while it is prepared.
    pub progress: Option<String>,
}

impl ExportQuestion {
    /// A field of a form that was left empty counts as absent.
    fn given<'a>(&self, field: &'a Option<String>) -> Option<&'a str> {
        field.as_deref().map(str::trim).filter(|text| !text.is_empty())
    }
}

/// The form of an export.
#[derive(Debug, Clone)]
pub enum ExportFormat {
    /// One record per line as JSON, every column that says something.
    Ndjson,
    /// One record per line, formula-safe, every column.
    Csv,
    /// One Parquet file with the columns of `records`.
    Parquet,
    /// One OCSF event per line.
    Ocsf(Version, Policy),
    /// Everything above with links, gaps, raw bytes, report and manifest, as a tar.
    Bundle(Version, Policy),
    /// One page that needs nothing else.
    Html,
}

impl ExportFormat {
    /// Media type of the export.
    pub fn content_type(&self) -> &'static str {
        match self {
            ExportFormat::Ndjson | ExportFormat::Ocsf(..) => "application/x-ndjson",
            ExportFormat::Csv => "text/csv; charset=utf-8",
            ExportFormat::Parquet => "application/vnd.apache.parquet",
            ExportFormat::Bundle(..) => "application/x-tar",
            ExportFormat::Html => "text/html; charset=utf-8",
        }
    }

    /// File name extension.
    pub fn extension(&self) -> &'static str {
        match self {
            ExportFormat::Ocsf(..) => "ocsf.ndjson",
            ExportFormat::Bundle(..) => "tar",
            other => other.name(),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            ExportFormat::Ndjson => "ndjson",
            ExportFormat::Csv => "csv",
            ExportFormat::Parquet => "parquet",
            ExportFormat::Ocsf(..) => "ocsf",
            ExportFormat::Bundle(..) => "bundle",
            ExportFormat::Html => "html",
        }
    }

    fn of(question: &ExportQuestion, base_url: Option<&str>) -> Result<Self, QueryError> {
        let version = question.given(&question.ocsf_version).unwrap_or(Version::NEWEST.as_str());
        let known = || Version::ALL.iter().map(|version| version.as_str()).collect::<Vec<_>>().join(", ");
        let version = Version::parse(version)
            .ok_or_else(|| QueryError::parameter("ocsf_version", format!("expected one of {}", known())))?;
        let policy =
            Policy { text_bytes_max: question.ocsf_text_bytes.unwrap_or(0), base_url: base_url.map(str::to_string) };
        match question.given(&question.format).unwrap_or("ndjson") {
            "ndjson" => Ok(ExportFormat::Ndjson),
            "csv" => Ok(ExportFormat::Csv),
            "parquet" => Ok(ExportFormat::Parquet),
            "ocsf" => Ok(ExportFormat::Ocsf(version, policy)),
            "bundle" => Ok(ExportFormat::Bundle(version, policy)),
            "html" => Ok(ExportFormat::Html),
            _ => Err(QueryError::parameter("format", "expected one of ndjson, csv, parquet, ocsf, bundle, html")),
        }
    }
}

/// An export on its way.
pub struct Export {
    /// What it covers and what it does not.
    pub completeness: Completeness,
    /// How many records it holds.
    pub records: u64,
    /// Its form.
    pub format: ExportFormat,
    /// Digest of a bundle's manifest or of a report.
    pub sha256: Option<String>,
    /// The record of this access.
    pub recorded: Recorded,
    body: Body,
}

enum Body {
    /// Records that are still to be read, and what makes bytes of them.
    Parts(Box<Records>, Option<Box<Encoder>>),
    /// Files that are ready.
    Archive(archive::Archive),
    /// A page that is ready.
    Report(spool::Spooled),
}

/// Bytes of a page that are read at once.
const BLOCK_BYTES: usize = 256 << 10;

impl Export {
    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, QueryError> {
        match &mut self.body {
            Body::Parts(records, encoder) => loop {
                let Some(encoder_now) = encoder else { return Ok(None) };
                let part = records.next().await?;
                let bytes = if part.records.is_empty() {
                    encoder.take().map(|encoder| encoder.end()).transpose()?.unwrap_or_default()
                } else {
                    encoder_now.part(&part.records, &part.sessions)?
                };
                if !bytes.is_empty() {
                    return Ok(Some(bytes.into()));
                }
            },
            Body::Archive(archive) => archive.next(),
            Body::Report(page) => {
                let mut block = Vec::with_capacity(BLOCK_BYTES);
                let read = std::io::Read::take(page, BLOCK_BYTES as u64);
                std::io::Read::read_to_end(&mut { read }, &mut block).map_err(QueryError::unwritten)?;
                Ok((!block.is_empty()).then(|| block.into()))
            }
        }
    }
}

/// Records of one snapshot, a part at a time.
struct Records {
    snapshot: Arc<Snapshot>,
    rows: std::vec::IntoIter<RowId>,
    part: usize,
    /// What is known of their sessions; none where nobody asks.
    known: Option<Sessions>,
}

/// Records that follow each other, and what is known of the session of each.
#[derive(Default)]
struct Part {
    records: Vec<Record>,
    sessions: Vec<SessionFacts>,
}

impl Records {
    fn new(snapshot: Arc<Snapshot>, rows: Vec<RowId>, known: Option<Sessions>) -> Self {
        Records { snapshot, rows: rows.into_iter(), part: *PART.end() / 4, known }
    }

    /// The next records in order; empty at the end.
    async fn next(&mut self) -> Result<Part, QueryError> {
        let part: Vec<RowId> = self.rows.by_ref().take(self.part).collect();
        if part.is_empty() {
            return Ok(Part::default());
        }
        let records = self.snapshot.records(&part).await?;
        let bytes: usize = records.iter().map(payload_bytes).sum();
        self.part = if bytes > PART_BYTES { self.part / 2 } else { self.part * 2 };
        self.part = self.part.clamp(*PART.start(), *PART.end());
        let mut sessions = Vec::new();
        if let Some(known) = self.known.take() {
            let (known, told) = known.of(&self.snapshot, &Arc::new(part)).await?;
            (self.known, sessions) = (Some(known), told);
        }
        Ok(Part { records, sessions })
    }
}

fn payload_bytes(record: &Record) -> usize {
    let texts = [&record.text, &record.arguments, &record.result, &record.attributes];
    let texts: usize = texts.iter().filter_map(|text| text.as_ref()).map(String::len).sum();
    texts + record.raw.as_ref().map_or(0, Vec::len)
}

impl Engine {
    /// Chooses what an export holds, prepares it where it has to be whole first, and records the access.
    pub async fn export(&self, question: &ExportQuestion) -> Result<Export, QueryError> {
        let format = ExportFormat::of(question, self.config().base_url.as_deref())?;
        let telling = self.preparations().begin(question.given(&question.progress));
        let needs = Needs {
            links: matches!(format, ExportFormat::Bundle(..) | ExportFormat::Html),
            sessions: matches!(format, ExportFormat::Bundle(..) | ExportFormat::Ocsf(..)),
        };
        let mut chosen = self.choose(question, needs).await?;
        if !chosen.completeness.reasons.is_empty() {
            chosen.completeness.state = "partial".into();
        }
        let mut access = Access {
            question: chosen.asked.clone(),
            format: format.name(),
            records: chosen.rows.len() as u64,
            state: chosen.completeness.state.clone(),
            table_version: chosen.completeness.snapshot.table_version,
            by: custody::words(&question.by),
            reason: custody::words(&question.reason),
            sha256: None,
        };
        let (records, completeness) = (access.records, chosen.completeness.clone());
        let (body, recorded) = match &format {
            ExportFormat::Bundle(version, policy) => {
                let prepared = self.prepare(chosen, Some((*version, policy)), &telling).await?;
                access.sha256 = Some(prepared.sha256.clone());
                let recorded = access.record(self.access_log()).await;
                (Body::Archive(prepared.into_archive(&access, &recorded)?), recorded)
            }
            ExportFormat::Html => {
                let prepared = self.prepare(chosen, None, &telling).await?;
                access.sha256 = Some(prepared.sha256.clone());
                let recorded = access.record(self.access_log()).await;
                (Body::Report(prepared.into_report()?), recorded)
            }
            other => {
                let encoder = Box::new(Encoder::new(other)?);
                let Chosen { snapshot, rows, known, .. } = chosen;
                let recorded = access.record(self.access_log()).await;
                (Body::Parts(Box::new(Records::new(snapshot, rows, known)), Some(encoder)), recorded)
            }
        };
        Ok(Export { completeness, records, sha256: access.sha256, format, recorded, body })
    }
}

#[cfg(test)]
mod tests;
