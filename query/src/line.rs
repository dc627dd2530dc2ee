//! One record as lists and trees show it.

use chrono::{DateTime, SecondsFormat};
use threadline_schemas::{Record, display};

use crate::error::QueryError;
use crate::model::{EventLine, Link};

/// Characters of an excerpt.
pub const EXCERPT_CHARS: usize = 200;

/// Nanoseconds since the Unix epoch as RFC 3339 in UTC.
pub fn time_text(unix_nano: i64) -> String {
    DateTime::from_timestamp_nanos(unix_nano).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// RFC 3339 (or a date and time without zone, taken as UTC) in nanoseconds since the Unix epoch.
pub fn parse_time(text: &str) -> Option<i64> {
    let zoned = DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc());
    let naive = || {
        ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]
            .iter()
            .find_map(|format| chrono::NaiveDateTime::parse_from_str(text, format).ok())
    };
    let day = || chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
    zoned.or_else(|| naive().or_else(day).map(|time| time.and_utc()))?.timestamp_nanos_opt()
}

/// A time that somebody gave for parameter `name`.
///
/// # Errors
/// When it is none; says which forms are taken.
pub fn read_time(name: &'static str, text: &str) -> Result<i64, QueryError> {
    const FORMS: &str =
        "expected a time such as 2026-11-20T10:31:00Z, 2026-11-20 10:31:00 (UTC) or 2026-11-20 (its first moment, UTC)";
    parse_time(text).ok_or_else(|| QueryError::parameter(name, FORMS))
}

/// What a record says, first of all.
pub fn content(record: &Record) -> Option<(&'static str, &str)> {
    let fields = [
        ("text", &record.text),
        ("arguments", &record.arguments),
        ("result", &record.result),
        ("target", &record.target),
        ("attributes", &record.attributes),
    ];
    fields.into_iter().find_map(|(column, text)| Some((column, text.as_deref().filter(|text| !text.is_empty())?)))
}

/// A record as a line, without its link.
pub fn event_line(record: &Record, link: Option<Link>) -> EventLine {
    let (excerpt, cut) = content(record).map_or_else(Default::default, |(_, text)| display::cut(text, EXCERPT_CHARS));
    EventLine {
        event_id: record.event_id.to_string(),
        time: time_text(record.time_unix_nano),
        time_unix_nano: record.time_unix_nano.to_string(),
        time_quality: record.time_quality.to_string(),
        kind: record.kind.to_string(),
        source_kind: record.source_kind.to_string(),
        source_name: record.source_name.clone(),
        name: record.name.clone(),
        direction: record.direction.map(|direction| direction.to_string()),
        server_name: record.server_name.clone(),
        tool_name: record.tool_name.clone(),
        outcome: record.outcome.map(|outcome| outcome.to_string()),
        decision: record.decision.map(|decision| decision.to_string()),
        duration_nano: record.duration_nano,
        time_is: record.duration_nano.map(|_| if record.is_stamped_at_end() { "end" } else { "start" }.into()),
        excerpt,
        excerpt_cut: cut as u64,
        file: record.origin_file.clone(),
        line: record.origin_line,
        link,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_both_ways() {
        let nanos = 1_795_170_684_171_870_505;
        assert_eq!(time_text(nanos), "2026-11-20T10:31:24.171870505Z");
        assert_eq!(parse_time(&time_text(nanos)), Some(nanos));
        assert_eq!(parse_time("2026-11-20T11:31:24+01:00"), Some(1_795_170_684_000_000_000));
        assert_eq!(parse_time("2026-11-20"), Some(1_795_132_800_000_000_000));
        assert_eq!(parse_time("2026-11-20 10:31"), parse_time("2026-11-20T10:31:00Z"));
        assert_eq!(parse_time("yesterday"), None);
        assert!(read_time("from", "yesterday").unwrap_err().to_string().contains("2026-11-20 (its first moment, UTC)"));
    }
}
