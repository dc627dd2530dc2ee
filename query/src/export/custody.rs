//! Who exported what, when and why: `custody.json`, and the `access` record that every export leaves.
//!
//! Invariants
//! - the record is durable before the first byte goes out; where it could not be made, the answer says so and why
//! - it names the question, never what was found; it joins no session, so reading changes none
//! - who asked is a claim unless an authentication said so
//!
//! Not here: the store's log. The engine is given a handle ([`AccessLog`]) and writes nothing itself.

use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use uuid::Uuid;

use super::manifest::{Asked, State};
use crate::access::{AccessLog, access_record};

/// Longest name or reason that is kept, bytes.
pub const WORDS_BYTES_MAX: usize = 1_000;

/// One export, as its record tells it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Access {
    pub(super) question: Asked,
    pub(super) format: &'static str,
    pub(super) records: u64,
    pub(super) state: String,
    pub(super) table_version: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// SHA-256 of what identifies the export: the manifest of a bundle, the report itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sha256: Option<String>,
}

/// What became of the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Recorded {
    /// It is stored under this id.
    As(Uuid),
    /// It is not stored.
    Not(String),
}

impl Access {
    /// Stores the record.
    pub(super) async fn record(&self, log: Option<&Arc<dyn AccessLog>>) -> Recorded {
        let Some(log) = log else { return Recorded::Not("this reader has nowhere to record it".into()) };
        let told = serde_json::json!({ "export": self });
        let record = access_record("export", self.by.as_deref(), SystemTime::now(), &told);
        let id = record.event_id;
        match log.record(vec![record]).await {
            Ok(()) => Recorded::As(id),
            Err(reason) => {
                tracing::warn!(%reason, "an export could not be recorded");
                Recorded::Not(reason)
            }
        }
    }
}

/// `custody.json`: everything about a bundle that differs from one export to the next.
#[derive(Debug, Serialize)]
pub(super) struct Custody<'a> {
    pub(super) format: &'static str,
    pub(super) format_version: u64,
    pub(super) exported_at: String,
    /// What was read, which other records change too: also that of the last export.
    pub(super) snapshot: &'a State,
    /// Who says that they exported it; not verified.
    pub(super) exported_by: Option<&'a str>,
    pub(super) reason: Option<&'a str>,
    /// Digest of `manifest.json`, which has those of every other file.
    pub(super) manifest_sha256: &'a str,
    /// The record of this export in the store, or why there is none.
    pub(super) access: &'a Recorded,
}

/// A name or reason as somebody typed it: trimmed, bounded, absent when empty.
pub(super) fn words(text: &Option<String>) -> Option<String> {
    let text = text.as_deref()?.trim();
    let text = &text[..text.floor_char_boundary(WORDS_BYTES_MAX)];
    (!text.is_empty()).then(|| text.to_string())
}
