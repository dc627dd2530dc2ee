//! An event on its way: the OCSF event as JSON text, and what sinks address it by.
//!
//! The text alone is kept: as a value the events of a batch would take several times its bytes.

use super::position::Position;

/// One event that is to be delivered.
#[derive(Debug, Clone)]
pub struct Event {
    /// `metadata.uid`: stable over re-delivery and restarts.
    pub uid: String,
    /// `time`, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// `class_uid`.
    pub class_uid: i64,
    /// `severity_id`.
    pub severity_id: i64,
    /// `metadata.event_code`.
    pub code: String,
    /// What keeps order: tenant and session key of the record.
    pub session: String,
    /// `metadata.correlation_uid`.
    pub correlation: String,
    /// The event as JSON on one line, `time` first, no control or bidi character in it.
    pub text: String,
    /// Where its record is.
    pub at: Position,
    /// Where the request is that it answers.
    pub request_at: Option<Position>,
}
