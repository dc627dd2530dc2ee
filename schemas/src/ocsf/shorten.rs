//! Cuts an event to a number of bytes without making it invalid or anonymous.
//!
//! Taken out in this order, until it fits: text of content, data of resources and responses, `unmapped` from its longest
//! value on, then what is optional besides. Who, session, tool, verdict, ids and times stay. The event says that it was cut
//! (`metadata.is_truncated`) and how long it was (`metadata.untruncated_size`), in versions that know these.

use serde_json::{Map, Value};

use super::event::to_text;
use super::facts::Version;
use super::validate::validate;

/// Content, the largest first.
const CONTENT: &[&str] = &[
    "/api/request/data/arguments",
    "/api/request/data/text",
    "/api/response/data/result",
    "/api/response/data/text",
    "/api/request/data",
    "/api/response/data",
    "/query_info/query_string",
    "/enrichments",
    "/http_request",
    "/trace",
    "/observables",
];

/// `event` in at most `bytes_max` bytes of text, if that can be done; else as short as it can be.
pub fn shortened(mut event: Value, bytes_max: usize, version: Version) -> Value {
    let whole = length(&event);
    if whole <= bytes_max {
        return event;
    }
    mark(&mut event, whole, version);
    for path in CONTENT {
        without(&mut event, path, version);
        if length(&event) <= bytes_max {
            return event;
        }
    }
    while length(&event) > bytes_max && drop_longest(&mut event) {}
    event
}

fn length(event: &Value) -> usize {
    to_text(event).len()
}

fn mark(event: &mut Value, whole: usize, version: Version) {
    // Content may have been cut before; OCSF counts in kilobytes.
    let before = [&event["metadata"]["untruncated_size"], &event["unmapped"]["metadata.untruncated_size"]];
    let before = before.into_iter().find_map(Value::as_u64).unwrap_or(0);
    let kilobytes = before.max(whole.div_ceil(1024) as u64);
    for (name, value) in [("is_truncated", Value::from(true)), ("untruncated_size", Value::from(kilobytes))] {
        let before = event.clone();
        if let Some(metadata) = event.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert(name.into(), value.clone());
        }
        if !validate(event, version).is_empty() {
            *event = before;
            let unmapped =
                event.as_object_mut().map(|event| event.entry("unmapped").or_insert_with(|| Value::Object(Map::new())));
            if let Some(Value::Object(unmapped)) = unmapped {
                unmapped.insert(format!("metadata.{name}"), value);
            }
        }
    }
}

/// Takes out what is at `path`, unless the event would be invalid without it.
fn without(event: &mut Value, path: &str, version: Version) {
    let Some((parent, name)) = path.rsplit_once('/') else { return };
    let before = event.clone();
    let removed = event.pointer_mut(parent).and_then(Value::as_object_mut).and_then(|members| members.remove(name));
    if removed.is_some() && !validate(event, version).is_empty() {
        *event = before;
    }
}

/// Takes the longest member of `unmapped` out; false when there is none left.
fn drop_longest(event: &mut Value) -> bool {
    let Some(unmapped) = event.get_mut("unmapped").and_then(Value::as_object_mut) else { return false };
    let longest = unmapped.iter().filter(|(name, _)| !name.starts_with("metadata.") && *name != "downgraded_from");
    let longest = longest.max_by_key(|(name, value)| name.len() + value.as_str().map_or(8, str::len));
    let Some(name) = longest.map(|(name, _)| name.clone()) else { return false };
    unmapped.remove(&name);
    if unmapped.is_empty()
        && let Some(members) = event.as_object_mut()
    {
        members.remove("unmapped");
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ocsf::{Occurrence, Policy, event, samples};

    #[test]
    fn every_sample_is_cut_to_size_and_stays_valid() {
        let policy = Policy { text_bytes_max: 1 << 20, base_url: None };
        for mut record in samples::records() {
            let long = "x".repeat(40_000);
            record.text = record.text.map(|_| long.clone());
            record.arguments = record.arguments.map(|_| long.clone());
            record.result = record.result.map(|_| long.clone());
            for &version in Version::ALL {
                let whole = event(Occurrence::of(&record), &policy, version);
                let cut = shortened(whole.clone(), 4096, version);
                assert!(length(&cut) <= 4096, "{} in {version}: {}", record.kind, length(&cut));
                assert_eq!(validate(&cut, version), [], "{} in {version}", record.kind);
                assert_eq!(cut["metadata"]["uid"], whole["metadata"]["uid"]);
                if length(&whole) > 4096 {
                    let said =
                        cut["metadata"]["is_truncated"] == true || cut["unmapped"]["metadata.is_truncated"] == true;
                    assert!(said, "{} in {version}", record.kind);
                    let size = [&cut["metadata"]["untruncated_size"], &cut["unmapped"]["metadata.untruncated_size"]];
                    let size = size.into_iter().find_map(Value::as_u64);
                    assert_eq!(size, Some(length(&whole).div_ceil(1024) as u64), "{} in {version}", record.kind);
                }
            }
        }
    }
}
