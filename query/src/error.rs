//! Why a question has no answer. Messages carry ids, limits and next steps, never content.

use threadline_schemas::display;
use threadline_store::StoreError;

/// Sessions that an error names.
pub(crate) const SESSIONS_MAX: usize = 100;

/// A question that could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// Nothing bears this id.
    #[error("nothing is stored under {id}; tried as {}", tried.join(", "))]
    NotFound {
        /// What was asked for, made visible and cut.
        id: String,
        /// Ways in which it was looked up.
        tried: Vec<String>,
    },
    /// The id was not known at the moment asked for.
    #[error("nothing that bears {id} had been received at that moment; the first of it came at {first}")]
    NotYet {
        /// What was asked for, made visible and cut.
        id: String,
        /// When it was received, RFC 3339.
        first: String,
    },
    /// The id occurs in several sessions.
    #[error("{id} occurs in {total} sessions: {}{}", sessions.iter().take(8).cloned().collect::<Vec<_>>().join(", "), if *total > 8 { ", ..." } else { "" })]
    SeveralSessions {
        /// What was asked for, made visible and cut.
        id: String,
        /// How many.
        total: usize,
        /// The ids of the first 100.
        sessions: Vec<String>,
    },
    /// A parameter cannot be understood.
    #[error("parameter {name}: {reason}")]
    Parameter {
        /// Which.
        name: &'static str,
        /// What is expected.
        reason: String,
    },
    /// A record has no raw bytes.
    #[error("record {id} has no raw bytes: its payload was not kept or was erased")]
    NoRaw {
        /// Event id.
        id: String,
    },
    /// SQL that is not run.
    #[error("{reason}; {next_step}")]
    SqlRefused {
        /// Why.
        reason: String,
        /// What to do.
        next_step: String,
    },
    /// SQL that failed.
    #[error("the query failed: {reason}")]
    SqlFailed {
        /// What the engine says, made visible and cut.
        reason: String,
    },
    /// It took too long.
    #[error("the query did not finish within {limit_ms} ms; narrow it by time, kind or key, or ask for fewer columns")]
    Timeout {
        /// The limit.
        limit_ms: u64,
    },
    /// Too much at once.
    #[error(
        "{at_once} SQL queries run already, and no more run at once; one that passed its limit may still be ending. Try again in a moment"
    )]
    Busy {
        /// How many may run.
        at_once: usize,
    },
    /// What is stored could not be read while a query ran.
    #[error("{} could not be read: {reason}", file.as_deref().map_or_else(|| "a file of the store".to_string(), |file| format!("the file {file} of the store")))]
    Unread {
        /// Which, if it could be found, within the data directory.
        file: Option<String>,
        /// What the reader says, made visible and cut.
        reason: String,
    },
    /// An export could not be written.
    #[error("the export could not be written")]
    Unwritten(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is no room for the files of an export that has to be whole before it goes out.
    #[error("there is no room on the disk for the files of this export; free some, or export a shorter range")]
    NoRoom,
    /// The store could not be read.
    #[error("the store could not be read")]
    Store(#[from] StoreError),
    /// Columns of a sealed file could not be read.
    #[error("a sealed file could not be read")]
    Columns(#[from] arrow::error::ArrowError),
    /// The state of forwarding could not be read.
    #[error("the state of forwarding could not be read")]
    Forward(#[source] Box<crate::forward::ForwardError>),
    /// Work that was handed to another thread did not come back.
    #[error("the query was interrupted")]
    Interrupted,
}

impl QueryError {
    /// An export that could not be written; a full disk is named.
    pub(crate) fn unwritten(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        let error: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
        let is_full = |error: &std::io::Error| error.kind() == std::io::ErrorKind::StorageFull;
        match error.downcast_ref::<std::io::Error>().is_some_and(is_full) {
            true => QueryError::NoRoom,
            false => QueryError::Unwritten(error),
        }
    }

    /// A parameter that cannot be understood.
    pub(crate) fn parameter(name: &'static str, reason: impl Into<String>) -> Self {
        QueryError::Parameter { name, reason: reason.into() }
    }

    pub(crate) fn several(id: &str, sessions: std::collections::BTreeSet<String>) -> Self {
        let total = sessions.len();
        QueryError::SeveralSessions {
            id: shown(id),
            total,
            sessions: sessions.into_iter().take(SESSIONS_MAX).collect(),
        }
    }

    pub(crate) fn not_found(id: &str, tried: &[&str]) -> Self {
        QueryError::NotFound { id: shown(id), tried: tried.iter().map(|way| way.to_string()).collect() }
    }
}

/// An id that somebody typed, fit for a message.
pub(crate) fn shown(id: &str) -> String {
    let (short, cut) = display::cut(id, 120);
    format!("'{}{}'", display::visible(&short, display::Lines::Show), if cut > 0 { "…" } else { "" })
}
