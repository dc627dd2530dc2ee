//! The `gap` record of messages that a topic does not have any more.

use serde_json::json;
use threadline_schemas::decode::Context;
use threadline_schemas::{Kind, Record, SourceKind};

use super::batch::{Missing, Why};
use super::decode::source_name;

/// Named by what is missing: told again after a crash, it is stored once.
pub(super) fn gap(context: &Context<'_>, missing: &Missing) -> Record {
    let Missing { lease, position, goes_on, end, messages, why } = missing;
    let key = format!("own:kafka-gap:{}:{}:{position}-{goes_on}-{end}", lease.name(), why.as_str());
    let mut record = Record::new(context.tenant, &key, Kind::Gap);
    record.set_time(None, context.observed_time_unix_us);
    record.collector = context.collector;
    record.source_kind = SourceKind::Threadline;
    record.source_name = source_name(&lease.topic);
    record.decoder = "kafka".into();
    record.name = Some("gap".into());
    record.origin_file = Some(format!("kafka:{}", lease.name()));
    record.origin_line = Some(*position);
    record.error_type = Some(why.as_str().into());
    record.text = Some(match why {
        Why::Deleted => format!(
            "{messages} messages at most were deleted from the topic before they were read (offsets {position} to {})",
            goes_on - 1
        ),
        Why::Restarted => format!(
            "the partition ends at offset {end} and was read up to {position}: it was cut or made anew; {messages} \
             messages that it was seen to hold were not read. It is read again from offset {goes_on}"
        ),
    });
    let attributes = json!({
        "reason": why.as_str(), "messages": messages, "cluster": &*lease.cluster, "topic": lease.topic,
        "partition": lease.partition, "position": position, "goes_on": goes_on, "end": end,
    });
    record.attributes = Some(attributes.to_string());
    record
}
