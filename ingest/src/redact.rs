//! Redaction: takes secrets out of a record before it reaches the log.
//!
//! Invariants
//! - a secret is replaced by `[redacted:<kind>:<fingerprint>]`; the fingerprint is keyed, so equal secrets stay equal (the key
//!   read from a file and written to another is seen to be the same) and nothing else is learned
//! - every byte that is no secret stays as it was received; JSON stays JSON at every level of nesting
//! - in a binary body a secret is masked in place, so that lengths and framing hold
//! - what was taken out is listed in `redactions`, at most [`LISTED_MAX`] entries
//! - what an earlier redaction left is not taken for a secret
//!
//! Not here: match digests, which the decoder computed before; erasure of stored payloads.

mod json;
mod rules;
mod scan;
#[cfg(test)]
mod tests;

use serde::Deserialize;
use threadline_schemas::Record;
use threadline_schemas::digest::MatchKey;

use self::scan::{Hit, Scanner};

/// Entries of the `redactions` column; a last entry of kind `more` counts the rest.
pub const LISTED_MAX: usize = 256;

/// What to redact.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedactConfig {
    /// Kinds of the built-in rules that are switched off (`env`, `jwt`, `authorization`, ...). Default: none.
    pub off: Vec<String>,
    /// Rules that are added. Default: none.
    pub add_patterns: Vec<AddedPattern>,
    /// Names of JSON members, headers and attributes whose text value is a secret. Default: none beyond the built-in ones.
    pub add_names: Vec<String>,
}

/// A rule of the user's own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddedPattern {
    /// Lower-case letters, digits and dashes.
    pub kind: String,
    /// Regular expression; group 1, or all of it, is the secret.
    pub expression: String,
}

impl RedactConfig {
    fn is_off(&self, kind: &str) -> bool {
        self.off.iter().any(|off| off == kind)
    }
}

/// Why rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RedactError {
    /// Its expression is not one.
    #[error("redaction rule {kind} cannot be compiled")]
    Rule {
        /// Which rule.
        kind: String,
        /// Why.
        #[source]
        source: regex::Error,
    },
    /// Its kind would not fit into `[redacted:<kind>:...]`.
    #[error("kind {0:?} of a redaction rule must be 1 to 32 lower-case letters, digits and dashes")]
    Kind(String),
    /// A kind that does not exist was switched off: refused, because a slip of the pen would look like protection.
    #[error("there is no redaction rule {0:?} to switch off")]
    Unknown(String),
}

/// Takes secrets out of records. Cheap to share, expensive to make.
#[derive(Debug)]
pub struct Redactor {
    scanner: Scanner,
}

impl Redactor {
    /// Compiles the rules.
    pub fn new(match_key: MatchKey, config: &RedactConfig) -> Result<Self, RedactError> {
        let fits = |kind: &str| {
            (1..=32).contains(&kind.len()) && kind.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        };
        if let Some(added) = config.add_patterns.iter().find(|added| !fits(&added.kind)) {
            return Err(RedactError::Kind(added.kind.clone()));
        }
        if let Some(unknown) = config.off.iter().find(|kind| !rules::kinds().any(|known| known == kind.as_str())) {
            return Err(RedactError::Unknown(unknown.clone()));
        }
        Ok(Redactor { scanner: Scanner::new(match_key, config)? })
    }

    /// Takes the secrets out of every column that holds what a source said; how many there were.
    pub fn redact(&self, record: &mut Record) -> usize {
        let mut found = Found::default();
        let is_binary = |bytes: &[u8], decoder: &str| decoder.contains("protobuf") || holds_binary(bytes);
        if let Some(raw) = record.raw.take() {
            record.raw = Some(if is_binary(&raw, &record.decoder) {
                self.binary(raw, &mut found)
            } else {
                self.bytes(raw, "raw", &mut found)
            });
        }
        macro_rules! columns {
            ($($name:ident)*) => { $(if let Some(text) = record.$name.take() {
                record.$name = Some(self.text(text, stringify!($name), &mut found));
            })* };
        }
        columns! {
            text arguments result attributes target name tool_name server_name transport_status error_type
            decision_by user_claimed agent_name client_name authority
        }
        let count = found.count;
        if count > 0 {
            record.redactions = Some(found.listed(record.redactions.take()));
        }
        count
    }

    fn text(&self, text: String, field: &'static str, found: &mut Found) -> String {
        match String::from_utf8(self.bytes(text.into_bytes(), field, found)) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }

    fn bytes(&self, bytes: Vec<u8>, field: &'static str, found: &mut Found) -> Vec<u8> {
        let hits = self.scanner.find(&bytes);
        if hits.is_empty() {
            return bytes;
        }
        let mut out = Vec::with_capacity(bytes.len() + hits.len().min(scan::FINGERPRINTS_MAX) * 64);
        let mut copied = 0;
        for hit in &hits {
            out.extend_from_slice(&bytes[copied..hit.span.start]);
            match self.token(hit) {
                Some(token) => out.extend_from_slice(token.as_bytes()),
                None => out.resize(out.len() + hit.span.len(), b'*'),
            }
            copied = hit.span.end;
        }
        out.extend_from_slice(&bytes[copied..]);
        self.note(hits, field, found);
        out
    }

    fn binary(&self, mut bytes: Vec<u8>, found: &mut Found) -> Vec<u8> {
        let hits = self.scanner.find_in_binary(&bytes);
        for hit in &hits {
            let place = &mut bytes[hit.span.clone()];
            place.fill(b'*');
            if let Some(token) = self.token(hit).filter(|token| token.len() <= place.len()) {
                place[..token.len()].copy_from_slice(token.as_bytes());
            }
        }
        self.note(hits, "raw", found);
        bytes
    }

    fn token(&self, hit: &Hit) -> Option<String> {
        let fingerprint = hit.fingerprint.as_deref()?;
        Some(format!("[redacted:{}:{fingerprint}]", self.scanner.kinds[usize::from(hit.kind)]))
    }

    fn note(&self, hits: Vec<Hit>, field: &'static str, found: &mut Found) {
        found.count += hits.len();
        let room = LISTED_MAX - found.entries.len();
        found.entries.extend(hits.into_iter().take(room).map(|hit| {
            serde_json::json!({
                "field": field,
                "kind": *self.scanner.kinds[usize::from(hit.kind)],
                "fingerprint": hit.fingerprint,
                "bytes": hit.span.len(),
            })
        }));
    }
}

#[derive(Default)]
struct Found {
    entries: Vec<serde_json::Value>,
    count: usize,
}

impl Found {
    /// The column, after what an earlier collector has listed.
    fn listed(self, earlier: Option<String>) -> String {
        let more = self.count - self.entries.len();
        let mut list: Vec<serde_json::Value> =
            earlier.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        list.extend(self.entries);
        if more > 0 {
            list.push(serde_json::json!({ "kind": "more", "count": more }));
        }
        serde_json::Value::Array(list).to_string()
    }
}

/// Whether bytes are something else than text: a control character that no log line holds, or not UTF-8.
fn holds_binary(bytes: &[u8]) -> bool {
    const ESCAPE: u8 = 0x1b;
    let odd = |byte: &u8| *byte < b' ' && !matches!(*byte, b'\t' | b'\n' | 0x0b | 0x0c | b'\r' | ESCAPE);
    bytes.iter().any(odd) || std::str::from_utf8(bytes).is_err()
}
