//! Exports: every record of a session, of a search or of a time range, from one snapshot, in a form that
//! other tools read.
//!
//! Invariants
//! - what is exported is chosen before the first byte goes out, so the completeness statement and the count
//!   stand in front; nothing is cut: what is too much ([`ROWS_MAX`]) is refused with a way to narrow it
//! - records go out in time order, a part at a time; memory does not grow with the export (a session is
//!   bounded by what gathering holds anyway)
//! - the same question on the same snapshot gives the same bytes
//!
//! Not here: delivery that goes on, signatures, pages.

mod encode;
mod occurrences;

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use threadline_schemas::Record;
use threadline_schemas::ocsf::{Policy, Version};
use threadline_store::{RowId, Snapshot, TextQuery};
use utoipa::ToSchema;

use crate::engine::{Engine, completeness};
use crate::error::QueryError;
use crate::model::Completeness;
use crate::search::{terms, time};
pub use encode::Encoder;

/// Rows of one export: their places take 8 bytes each while it runs.
pub const ROWS_MAX: usize = 5_000_000;
/// Records that are read at once.
const PART: usize = 256;

/// What to export, and how.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[serde(default)]
pub struct ExportQuestion {
    /// Every record of the session that this id leads to.
    pub session: Option<String>,
    /// Every record with these words and "quoted phrases".
    pub q: Option<String>,
    /// Events at or after, RFC 3339; with neither `session` nor `q`: every record of the range.
    pub from: Option<String>,
    /// Events before, RFC 3339.
    pub to: Option<String>,
    /// `ndjson` (default), `csv`, `parquet` or `ocsf`.
    pub format: Option<String>,
    /// Version of OCSF events: 1.8.0 (default), 1.5.0, 1.3.0, 1.1.0.
    pub ocsf_version: Option<String>,
    /// Bytes of content that an OCSF event may hold as text; default 0: digests and lengths only.
    pub ocsf_text_bytes: Option<usize>,
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
}

impl ExportFormat {
    /// Media type of the export.
    pub fn content_type(&self) -> &'static str {
        match self {
            ExportFormat::Ndjson | ExportFormat::Ocsf(..) => "application/x-ndjson",
            ExportFormat::Csv => "text/csv; charset=utf-8",
            ExportFormat::Parquet => "application/vnd.apache.parquet",
        }
    }

    /// File name extension.
    pub fn extension(&self) -> &'static str {
        match self {
            ExportFormat::Ndjson => "ndjson",
            ExportFormat::Csv => "csv",
            ExportFormat::Parquet => "parquet",
            ExportFormat::Ocsf(..) => "ocsf.ndjson",
        }
    }

    fn of(question: &ExportQuestion) -> Result<Self, QueryError> {
        let version = question.ocsf_version.as_deref().unwrap_or(Version::NEWEST.as_str());
        let known = || Version::ALL.iter().map(|version| version.as_str()).collect::<Vec<_>>().join(", ");
        let version = Version::parse(version)
            .ok_or_else(|| QueryError::parameter("ocsf_version", format!("expected one of {}", known())))?;
        match question.format.as_deref().unwrap_or("ndjson") {
            "ndjson" => Ok(ExportFormat::Ndjson),
            "csv" => Ok(ExportFormat::Csv),
            "parquet" => Ok(ExportFormat::Parquet),
            "ocsf" => {
                let text_bytes_max = question.ocsf_text_bytes.unwrap_or(0);
                Ok(ExportFormat::Ocsf(version, Policy { text_bytes_max, base_url: None }))
            }
            _ => Err(QueryError::parameter("format", "expected one of ndjson, csv, parquet, ocsf")),
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
    source: Source,
}

enum Source {
    /// A session, already gathered.
    Gathered(VecDeque<Record>),
    /// Places of rows, oldest first.
    Rows(Arc<Snapshot>, std::vec::IntoIter<RowId>),
}

impl Export {
    /// The next records in time order; empty at the end.
    pub async fn next(&mut self) -> Result<Vec<Record>, QueryError> {
        match &mut self.source {
            Source::Gathered(records) => {
                let part = records.len().min(PART);
                Ok(records.drain(..part).collect())
            }
            Source::Rows(snapshot, rows) => {
                let part: Vec<RowId> = rows.by_ref().take(PART).collect();
                Ok(if part.is_empty() { Vec::new() } else { snapshot.records(&part).await? })
            }
        }
    }
}

impl Engine {
    /// Chooses what an export holds. Its parts are then read from the same snapshot.
    pub async fn export(&self, question: &ExportQuestion) -> Result<Export, QueryError> {
        let format = ExportFormat::of(question)?;
        let snapshot = self.snapshot().await?;
        let mut completeness = completeness(&snapshot);
        if let Some(id) = &question.session {
            if question.q.is_some() || question.from.is_some() || question.to.is_some() {
                return Err(QueryError::parameter(
                    "session",
                    "goes without q, from and to: a session is exported whole",
                ));
            }
            let gathered = self.gathered(&snapshot, id).await?;
            completeness.rows_searched = gathered.rows_seen;
            if gathered.cut {
                completeness.state = "partial".into();
                completeness
                    .reasons
                    .push("the search for the session's records was ended at its bound; there may be more".into());
            }
            let records = gathered.records.len() as u64;
            return Ok(Export { completeness, records, format, source: Source::Gathered(gathered.records.into()) });
        }
        let query = TextQuery {
            terms: question.q.as_deref().map(terms).transpose()?.unwrap_or_default(),
            from: time("from", &question.from)?,
            to: time("to", &question.to)?.map(|to| to.saturating_sub(1)),
            limit: ROWS_MAX,
        };
        let found = snapshot.search(&query).await?;
        if found.more {
            return Err(QueryError::parameter(
                "from",
                format!("more than {ROWS_MAX} records; export a shorter range at a time"),
            ));
        }
        completeness.rows_searched = found.rows_searched;
        completeness.searched_from = question.from.clone();
        completeness.searched_to = question.to.clone();
        let mut rows = found.rows;
        rows.reverse();
        Ok(Export {
            completeness,
            records: rows.len() as u64,
            format,
            source: Source::Rows(snapshot, rows.into_iter()),
        })
    }
}
