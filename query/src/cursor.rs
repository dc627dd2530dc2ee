//! Cursors: opaque to the caller, a small JSON object to us, bound to the question they came from.
//!
//! They are not signed, because a made-up one gives nothing that the question does not give: a place in the same
//! answer. So every place is read as foreign input: one that cannot be is a 400, one beyond the end is the end.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::QueryError;
use crate::fact::hash;

/// Longest cursor that is read.
const CURSOR_BYTES_MAX: usize = 16 * 1024;

/// Ids that a cursor may name: hits of one nanosecond that were shown.
pub(crate) const IDS_MAX: usize = CURSOR_BYTES_MAX / 40;

/// A cursor for `question` (its text form) at `position`.
pub(crate) fn write<T: Serialize>(question: &str, position: &T) -> String {
    let text = serde_json::json!({ "q": format!("{:016x}", hash(question)), "at": position }).to_string();
    BASE64.encode(text)
}

/// The position of a cursor that `question` gave out.
pub(crate) fn read<T: DeserializeOwned>(question: &str, cursor: &str) -> Result<T, QueryError> {
    if cursor.len() > CURSOR_BYTES_MAX {
        return Err(bad());
    }
    let bytes = BASE64.decode(cursor).map_err(|_| bad())?;
    let mut value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|_| bad())?;
    if value["q"].as_str() != Some(&format!("{:016x}", hash(question))) {
        return Err(bad());
    }
    serde_json::from_value(value["at"].take()).map_err(|_| bad())
}

/// What a cursor that is not one of ours is answered with.
pub(crate) fn bad() -> QueryError {
    QueryError::parameter("cursor", "this cursor was not given for this question; start again without it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_belongs_to_its_question() {
        let cursor = write("sessions user=a", &(17i64, "s-1"));
        assert_eq!(read::<(i64, String)>("sessions user=a", &cursor).unwrap(), (17, "s-1".to_string()));
        for (question, cursor) in
            [("sessions user=b", cursor.as_str()), ("sessions user=a", "%%%"), ("sessions user=a", "e30")]
        {
            assert!(read::<(i64, String)>(question, cursor).is_err());
        }
    }
}
