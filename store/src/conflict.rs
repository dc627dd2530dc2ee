//! What becomes of a delivery whose event id is stored already with other content: evidence, not a duplicate.
//!
//! The first record stays as it is. The second is kept as a record of kind `rejected` with `error_type`
//! `event_id_conflict`, the id in `target`, and what it said. Its own id comes from the event id and the content, so that the
//! same conflict delivered again is stored once.

use threadline_schemas::{Kind, Outcome, Record, stamp};

use crate::sidecar::Content;

/// `error_type` of such a record.
pub(crate) const CONFLICT: &str = "event_id_conflict";

/// The record that keeps `second`. It bears none of its keys: whoever forged the id would choose them, too.
pub(crate) fn conflict(second: Record, content: &Content) -> Record {
    let event = second.event_id;
    let key = format!("conflict:{event}:{}", hex::encode(&content[..16]));
    let mut kept = Record::new(&second.tenant, &key, Kind::Rejected);
    kept.time_unix_nano = second.time_unix_nano;
    kept.time_quality = second.time_quality;
    kept.observed_time_unix_us = second.observed_time_unix_us;
    kept.source_kind = second.source_kind;
    kept.source_name = second.source_name;
    kept.collector = second.collector;
    kept.decoder = second.decoder;
    kept.origin_file = second.origin_file;
    kept.origin_line = second.origin_line;
    kept.user_authenticated = second.user_authenticated;
    kept.credential_fingerprint = second.credential_fingerprint;
    kept.redactions = second.redactions;
    kept.name = second.name;
    kept.target = Some(event.to_string());
    kept.outcome = Some(Outcome::Error);
    kept.error_type = Some(CONFLICT.into());
    if second.raw.is_some() {
        kept.raw = second.raw;
        kept.text = Some(format!("event {event} is stored already with other content; these raw bytes came later"));
    } else {
        kept.text = second.text;
        kept.arguments = second.arguments;
        kept.result = second.result;
        kept.attributes = second.attributes;
    }
    stamp::stamp(&mut kept);
    kept
}

/// For one that does not fit a frame of the log: its length and digest in place of its content.
pub(crate) fn without_content(mut kept: Record, content: &Content) -> Record {
    let bytes = kept.raw.take().map_or(0, |raw| raw.len());
    (kept.text, kept.arguments, kept.result) = (None, None, None);
    kept.attributes = Some(format!("{{\"length\":{bytes},\"content_sha256\":\"{}\"}}", hex::encode(content)));
    kept
}
