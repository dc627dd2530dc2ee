//! Match digests: keyed hashes of canonical values, by which two sources' views of the same
//! arguments or result can be compared without keeping either in the clear.
//!
//! Canonical form: RFC 8785 (JCS), except that an integer beyond 2^53 keeps its exact digits, and
//! that `20` and `20.0` are one number (Claude Code sends the first, a Python server logs the
//! second). Computed on the bytes before redaction, stored only under the key.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::json::{Json, canonical, sorted};

/// Hexadecimal digits of a SHA-256 that are compared: sources log 16 digits or all 64.
pub const PREFIX_DIGITS: usize = 16;

/// What a source that logs a SHA-256 of these arguments would log, first [`PREFIX_DIGITS`] digits: over compact JSON with
/// sorted keys and numbers as they are written (Python's `json.dumps`), and over RFC 8785.
pub fn sha256_forms(value: &Json) -> Vec<String> {
    let prefix = |text: String| hex::encode(&Sha256::digest(text)[..PREFIX_DIGITS / 2]);
    let (plain, normal) = (prefix(sorted(value)), prefix(canonical(value)));
    if plain == normal { vec![plain] } else { vec![plain, normal] }
}

/// The tenant's secret for match digests and fingerprints, 32 bytes.
#[derive(Clone)]
pub struct MatchKey([u8; 32]);

impl MatchKey {
    /// Wraps the bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        MatchKey(bytes)
    }

    /// First 16 bytes, in hex, of `HMAC-SHA-256(key, "threadline/<label>/v1" ‖ 0x00 ‖ bytes)`.
    pub fn digest(&self, label: &str, bytes: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(format!("threadline/{label}/v1\0").as_bytes());
        mac.update(bytes);
        hex::encode(&mac.finalize().into_bytes()[..16])
    }

    /// Digest of a JSON value in canonical form.
    pub fn value_digest(&self, value: &Json) -> String {
        self.digest("match", canonical(value).as_bytes())
    }

    /// Fingerprint of a secret: equal secrets give equal fingerprints, nothing else is learned.
    pub fn fingerprint(&self, secret: &[u8]) -> String {
        self.digest("fingerprint", secret)
    }
}

impl std::fmt::Debug for MatchKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MatchKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::parse;

    #[test]
    fn digests_that_sources_log() {
        let forms = |text: &str| sha256_forms(&parse(text.as_bytes()).unwrap().value);
        // printf '{}' | sha256sum, printf '{"a":20.0,"ä":[1]}' | sha256sum, and the same with 20
        assert_eq!(forms("{}"), ["44136fa355b3678a"]);
        assert_eq!(forms(r#"{ "ä": [1], "a": 20.0 }"#), ["b16d2037b0ffcb9d", "ca8c7beaebdce32a"]);
    }

    #[test]
    fn spelling_does_not_change_a_digest() {
        let key = MatchKey::new([1; 32]);
        let digest = |text: &str| key.value_digest(&parse(text.as_bytes()).unwrap().value);
        assert_eq!(digest(r#"{"b":20.0,"a":[1e1]}"#), digest(r#"{ "a": [10], "b": 20 }"#));
        assert_ne!(digest("9007199254740993"), digest("9007199254740992"));
        assert_ne!(digest("\"1\""), digest("1"));
    }
}
