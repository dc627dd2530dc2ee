//! Digest of a tool definition, by which a changed definition (rug pull) and equal ones are recognised.

use sha2::{Digest, Sha256};

use crate::json::{Json, Member, canonical};

/// What a model is told about a tool, and therefore what the digest covers.
pub(super) const COVERED: [&str; 5] = ["name", "description", "inputSchema", "outputSchema", "annotations"];

/// SHA-256, 64 hex digits, of the canonical JSON object that holds the covered members that are present.
pub fn digest(tool: &Json) -> String {
    let covered = COVERED.iter().filter_map(|key| tool.get(key).map(|value| (key, value)));
    let members = covered.map(|(key, value)| Member { key: (*key).into(), value: value.clone(), span: 0..0 });
    hex::encode(Sha256::digest(canonical(&Json::Object(members.collect()))))
}
