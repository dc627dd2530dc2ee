//! From a source's bytes to records: what every decoder shares.
//!
//! Invariants
//! - one line (or one record of a body) gives at least one record, or is part of one that its first line names; what cannot be understood gives a
//!   `rejected` record with file, line and reason, and the rest goes on
//! - `raw` holds the exact bytes of that line or record
//! - decoders never panic on any input and never look at a clock or a file
//!
//! Not here: redaction and stamps, which follow (`ingest`).

mod budget;
pub mod claude_code;
pub mod codex;
pub mod http;
pub mod http_capture;
pub mod mcp;
pub mod native;
pub mod otlp;
pub mod profile;
pub mod recognise;
#[cfg(test)]
mod recorded;
pub mod stdio_capture;
mod transcript;

use crate::columns::Record;
use crate::digest::MatchKey;
use crate::json::{self, Json};
use crate::record::{Collector, Kind, Outcome};

/// What a decoder is told about the delivery.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Tenant of the records.
    pub tenant: &'a str,
    /// Which way in.
    pub collector: Collector,
    /// Our clock, microseconds since the Unix epoch.
    pub observed_time_unix_us: i64,
    /// Key for match digests; `None` where the collector does not have it.
    pub match_key: Option<&'a MatchKey>,
}

/// One line of a line-oriented source.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// The bytes without the line break.
    pub bytes: &'a [u8],
    /// File, relative to what was imported; `None` for live sources.
    pub file: Option<&'a str>,
    /// 1-based line number or sequence.
    pub number: i64,
    /// Names the delivery (see [`crate::record::event_id`]).
    pub delivery_key: &'a str,
}

/// Decodes the lines of one file or connection in order; state (requests waiting for their response)
/// lives in the implementation and is bounded.
pub trait LineDecoder: Send {
    /// The records of one line: at least one, unless the line is held because its entry may go on.
    fn line(&mut self, context: &Context<'_>, line: Line<'_>) -> Vec<Record>;

    /// Whether lines are held.
    fn is_holding(&self) -> bool {
        false
    }

    /// The records of what is held, when nothing more comes.
    fn finish(&mut self, context: &Context<'_>) -> Vec<Record> {
        let _ = context;
        Vec::new()
    }

    /// Whether an empty line says something, if only that the file is damaged.
    fn takes_empty_lines(&self) -> bool {
        false
    }
}

impl Context<'_> {
    /// Match digest of a value.
    pub fn digest(&self, value: &Json) -> Option<String> {
        self.match_key.map(|key| key.value_digest(value))
    }

    /// Match digest of JSON text; `None` when it is absent or not JSON.
    pub fn digest_text(&self, text: Option<&str>) -> Option<String> {
        self.digest(&json::parse(text?.as_bytes()).ok()?.value)
    }

    /// A record of `line` with identity, origin, raw bytes and our time set.
    pub fn record(&self, line: &Line<'_>, kind: Kind, decoder: &str) -> Record {
        self.part(line, 0, kind, decoder)
    }

    /// The `part`-th record of a line; part 0 is the line itself and carries the raw bytes.
    pub fn part(&self, line: &Line<'_>, part: usize, kind: Kind, decoder: &str) -> Record {
        let key = if part == 0 { line.delivery_key.to_string() } else { format!("{}#{part}", line.delivery_key) };
        let mut record = Record::new(self.tenant, &key, kind);
        record.collector = self.collector;
        record.decoder = decoder.into();
        record.origin_file = line.file.map(str::to_string);
        record.origin_line = Some(line.number);
        record.raw = (part == 0).then(|| line.bytes.to_vec());
        record.set_time(None, self.observed_time_unix_us);
        record
    }

    /// The record that stands for a line nobody understood.
    pub fn rejected(&self, line: &Line<'_>, decoder: &str, reason: &str) -> Record {
        let mut record = self.record(line, Kind::Rejected, decoder);
        record.outcome = Some(Outcome::Error);
        record.error_type = Some("rejected".into());
        record.text = Some(reason.to_string());
        record
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn context() -> Context<'static> {
        static KEY: std::sync::LazyLock<MatchKey> = std::sync::LazyLock::new(|| MatchKey::new([3; 32]));
        Context {
            tenant: "default",
            collector: Collector::Import,
            observed_time_unix_us: 1_795_000_000_000_000,
            match_key: Some(&KEY),
        }
    }
}
