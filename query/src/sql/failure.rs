//! What the engine says, sorted by who must act: the asker mends the query, the operator mends the store.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use threadline_schemas::{columns, display};
use threadline_store::log::LogError;
use threadline_store::{Snapshot, StoreError};

use crate::error::QueryError;

/// How long files are read to find the damaged one.
const NAMING_TIME_MAX: Duration = Duration::from_secs(5);
/// Characters of the engine's text.
const TEXT_CHARACTERS_MAX: usize = 600;

/// Of planning or executing a query.
pub(super) fn of(error: DataFusionError) -> QueryError {
    if let Some(own) = own(&error) {
        return own;
    }
    match error.find_root() {
        DataFusionError::ParquetError(cause) => unread(cause.to_string()),
        DataFusionError::ArrowError(cause, _) if is_of_a_file(cause) => unread(cause.to_string()),
        DataFusionError::ObjectStore(cause) => unread(cause.to_string()),
        DataFusionError::IoError(cause) => unread(cause.to_string()),
        DataFusionError::ExecutionJoin(_) => QueryError::Interrupted,
        _ => plain(error),
    }
}

/// An error of ours that came through the engine.
fn own(error: &DataFusionError) -> Option<QueryError> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<QueryError>() {
            Some(QueryError::SqlRefused { reason, next_step }) => {
                return Some(QueryError::SqlRefused { reason: reason.clone(), next_step: next_step.clone() });
            }
            Some(QueryError::Store(error)) => return Some(of_store(error)),
            Some(other) => return Some(unread(other.to_string())),
            None => {}
        }
        cause = error.source();
    }
    None
}

/// Errors of reading, not of computing.
fn is_of_a_file(error: &ArrowError) -> bool {
    matches!(error, ArrowError::ParquetError(_) | ArrowError::IoError(..) | ArrowError::ExternalError(_))
}

fn unread(reason: String) -> QueryError {
    QueryError::Unread { file: None, reason: shown(&reason) }
}

fn of_store(error: &StoreError) -> QueryError {
    QueryError::Unread { file: error_file(error), reason: shown(&error.to_string()) }
}

/// A query that cannot be planned or computed. The text may quote the query, which the asker knows.
pub(super) fn plain(error: DataFusionError) -> QueryError {
    let text = error.strip_backtrace();
    let next_step = match () {
        () if text.contains("not found") && text.contains("table") => {
            "the tables are records and links; SHOW TABLES lists them"
        }
        () if text.contains("No field named") => "SHOW COLUMNS FROM records lists the columns",
        () if text.contains("Resources exhausted") => MEMORY_STEP,
        () if text.contains("not supported") || text.contains("not allowed") => "only queries are run here",
        () => return QueryError::SqlFailed { reason: shown(&text) },
    };
    QueryError::SqlRefused { reason: shown(&text), next_step: next_step.into() }
}

/// What helps a query that takes too much memory.
pub(super) const MEMORY_STEP: &str = "ask for fewer rows or columns, or aggregate in smaller ranges of time";

fn shown(text: &str) -> String {
    let (short, _) = display::cut(text, TEXT_CHARACTERS_MAX);
    display::visible(&short, display::Lines::Show)
}

/// The engine does not say which file it was reading: every file is read until one fails.
pub(super) async fn name_file(snapshot: &Snapshot, reason: String) -> QueryError {
    let names: Vec<&str> = columns::COLUMNS.iter().map(|column| column.name).collect();
    let look = async {
        for file in 0..snapshot.files().len() {
            if let Err(error) = snapshot.file_columns(file as u32, &names).await {
                let named = error_file(&error);
                return named.or_else(|| Some(inside(&snapshot.files()[file].path)));
            }
        }
        None
    };
    let file = tokio::time::timeout(NAMING_TIME_MAX, look).await.ok().flatten();
    QueryError::Unread { file, reason }
}

/// The file that an error of the store is about.
pub(crate) fn error_file(error: &StoreError) -> Option<String> {
    match error {
        StoreError::Damaged { path, .. }
        | StoreError::Parquet { path, .. }
        | StoreError::Io { path, .. }
        | StoreError::Text { path, .. }
        | StoreError::TableCorrupt { path, .. } => Some(inside(path)),
        StoreError::Log(LogError::Corrupt { segment, .. }) => Some(inside(segment)),
        StoreError::ForeignFile { path, .. } => Some(path.clone()),
        StoreError::Arrow { file, .. } => Some(format!("{file}.parquet")),
        _ => None,
    }
}

/// A path without what stands before the data directory's own folders.
fn inside(path: &Path) -> String {
    let parts: Vec<String> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let folders = ["records", "sidecars", "text", "log", "inbox"];
    let from = parts.iter().rposition(|part| folders.contains(&part.as_str())).unwrap_or(parts.len().saturating_sub(1));
    display::visible(&parts[from..].join("/"), display::Lines::Show)
}
