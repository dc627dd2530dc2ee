//! One vocabulary of marks, words and units for all pages. Colour never stands alone: whatever has a
//! colour class here has a mark and a word too.

use chrono::{DateTime, SecondsFormat, Utc};
use threadline_query::model::Grade;

use crate::text::Shown;

/// A mark, its word, and the class that colours it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// One character.
    pub(crate) glyph: &'static str,
    /// The word beside it.
    pub(crate) word: &'static str,
    /// CSS class.
    pub(crate) class: &'static str,
}

const fn mark(glyph: &'static str, word: &'static str, class: &'static str) -> Mark {
    Mark { glyph, word, class }
}

/// The mark of a grade.
pub(crate) fn grade(grade: Grade) -> Mark {
    match grade {
        Grade::Proven => mark("●", "proven", "g-proven"),
        Grade::Matched => mark("◉", "matched", "g-matched"),
        Grade::Claimed => mark("○", "claimed", "g-claimed"),
        Grade::Inferred => mark("~", "inferred", "g-inferred"),
        Grade::Ambiguous => mark("?", "ambiguous", "g-ambiguous"),
        Grade::Missing => mark("∅", "missing", "g-missing"),
    }
}

/// What a grade means, for the legend.
pub(crate) fn grade_meaning(grade: Grade) -> &'static str {
    match grade {
        Grade::Proven => "our own capture point saw the exchange, or a signature binds both sides",
        Grade::Matched => "the same unguessable id from two sources",
        Grade::Claimed => "an id that anyone could have copied, or one side alone states it",
        Grade::Inferred => "a rule with a score",
        Grade::Ambiguous => "several candidates that cannot be told apart",
        Grade::Missing => "an expected counterpart is absent",
    }
}

/// Every grade, strongest first.
pub(crate) const GRADES: [Grade; 6] =
    [Grade::Proven, Grade::Matched, Grade::Claimed, Grade::Inferred, Grade::Ambiguous, Grade::Missing];

/// The lanes, in the order of a call: prompts first, then the sides by distance from the model.
pub(crate) const LANES: [Mark; 8] = [
    mark("P", "prompt", "l-user"),
    mark("H", "host", "l-host"),
    mark("W", "wire", "l-wire"),
    mark("G", "gateway", "l-gateway"),
    mark("S", "server", "l-server"),
    mark("D", "downstream", "l-downstream"),
    mark("T", "threadline", "l-own"),
    mark("·", "unknown", "l-own"),
];

/// Lane of prompts.
pub(crate) const LANE_PROMPT: u8 = 0;

/// Lane of what stands on no side.
pub(crate) const LANE_UNKNOWN: u8 = 7;

/// Lane of a source kind: an index into [`LANES`].
pub(crate) fn lane(source_kind: &str) -> u8 {
    match source_kind {
        "host" => 1,
        "wire" => 2,
        "gateway" => 3,
        "server" => 4,
        "downstream" => 5,
        "threadline" => 6,
        _ => LANE_UNKNOWN,
    }
}

/// The outcomes with a mark of their own; an index into this is what the skeleton carries.
pub(crate) const OUTCOMES: [Mark; 7] = [
    mark("", "", "o-none"),
    mark("✓", "ok", "o-ok"),
    mark("!", "error", "o-bad"),
    mark("⊘", "denied", "o-bad"),
    mark("✕", "cancelled", "o-warn"),
    mark("⧖", "input required", "o-warn"),
    mark("☑", "allowed", "o-ok"),
];

/// Index into [`OUTCOMES`] of an outcome word, or of a decision where there is no outcome.
pub(crate) fn outcome(outcome: Option<&str>, decision: Option<&str>) -> u8 {
    match (outcome, decision) {
        (Some("ok"), _) => 1,
        (Some("error"), _) => 2,
        (Some("denied"), _) | (None, Some("deny")) => 3,
        (Some("cancelled"), _) | (None, Some("cancel")) => 4,
        (Some("input_required"), _) | (None, Some("ask")) => 5,
        (None, Some("allow" | "redact")) => 6,
        _ => 0,
    }
}

/// `model_request` -> `model request`.
pub(crate) fn plain(word: &str) -> Shown {
    Shown::line(&word.replace('_', " "))
}

/// RFC 3339 -> nanoseconds since the Unix epoch.
pub(crate) fn nanos(time: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(time).ok().and_then(|time| time.timestamp_nanos_opt())
}

/// Date and time of day, sliced out of the form in which answers come; parsing 100,000 times is slow.
fn canonical(time: &str) -> Option<(&str, &str)> {
    let form = time.is_ascii() && time.len() >= 24 && time.ends_with('Z');
    let shape = |(i, byte): (usize, u8)| match i {
        4 | 7 => byte == b'-',
        10 => byte == b'T',
        13 | 16 => byte == b':',
        19 => byte == b'.',
        _ => byte.is_ascii_digit(),
    };
    (form && time.bytes().take(23).enumerate().all(shape)).then(|| (&time[..10], &time[11..23]))
}

/// `10:31:24.215`; what cannot be read is shown as it is.
pub(crate) fn clock(time: &str) -> Shown {
    if let Some((_, clock)) = canonical(time) {
        return Shown::line(clock);
    }
    match DateTime::parse_from_rfc3339(time) {
        Ok(time) => Shown::line(&time.with_timezone(&Utc).format("%H:%M:%S%.3f").to_string()),
        Err(_) => Shown::short(time, 32),
    }
}

/// `2026-11-20`.
pub(crate) fn date(time: &str) -> Shown {
    if let Some((date, _)) = canonical(time) {
        return Shown::line(date);
    }
    match DateTime::parse_from_rfc3339(time) {
        Ok(time) => Shown::line(&time.with_timezone(&Utc).format("%Y-%m-%d").to_string()),
        Err(_) => Shown::default(),
    }
}

/// `2026-11-20 10:31:24.215`.
pub(crate) fn moment(time: &str) -> Shown {
    match DateTime::parse_from_rfc3339(time) {
        Ok(time) => Shown::line(&time.with_timezone(&Utc).format("%Y-%m-%d %H:%M:%S%.3f").to_string()),
        Err(_) => Shown::short(time, 40),
    }
}

/// `2026-11-20 10:31:24.215 (1795170684215819376)`: readable, and exact.
pub(crate) fn instant(nanos: i64, exact: &str) -> Shown {
    let time = DateTime::from_timestamp_nanos(nanos);
    Shown::line(&format!("{} ({exact})", time.format("%Y-%m-%d %H:%M:%S%.3f")))
}

/// `2026-11-20 10:31:24`, for lists.
pub(crate) fn second(time: &str) -> Shown {
    match DateTime::parse_from_rfc3339(time) {
        Ok(time) => Shown::line(&time.with_timezone(&Utc).format("%Y-%m-%d %H:%M:%S").to_string()),
        Err(_) => Shown::short(time, 40),
    }
}

/// What a person types for a time, as RFC 3339 UTC: a date, date and time, with or without zone.
/// `None` when it cannot be understood: a filter is never dropped in silence.
pub(crate) fn typed_time(text: &str) -> Option<String> {
    let text = text.trim();
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.with_timezone(&Utc).to_rfc3339_opts(SecondsFormat::AutoSi, true));
    }
    let text = text.trim_end_matches(['Z', 'z']).replacen('T', " ", 1);
    let formats = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M"];
    let time = formats.iter().find_map(|format| chrono::NaiveDateTime::parse_from_str(&text, format).ok());
    let time = time.or_else(|| chrono::NaiveDate::parse_from_str(&text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0));
    time.map(|time| time.and_utc().to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// `1.8 s`, `340 ms`, `2 m 05 s`, `3 h 12 m`, `4 d 02 h`.
pub(crate) fn duration(nanos: i64) -> Shown {
    Shown::line(&length(nanos.max(0)))
}

/// The same with its sign: how far a clock is ahead.
pub(crate) fn signed_duration(nanos: i64) -> Shown {
    let sign = if nanos < 0 { "−" } else { "+" };
    Shown::line(&format!("{sign}{}", length(nanos.saturating_abs())))
}

fn length(ns: i64) -> String {
    match ns {
        0 => "0".into(),
        1..1_000_000 => format!("{} µs", (ns / 1_000).max(1)),
        1_000_000..1_000_000_000 => format!("{} ms", ns / 1_000_000),
        1_000_000_000..60_000_000_000 => format!("{}.{} s", ns / 1_000_000_000, ns / 100_000_000 % 10),
        60_000_000_000..3_600_000_000_000 => format!("{} m {:02} s", ns / 60_000_000_000, ns / 1_000_000_000 % 60),
        3_600_000_000_000..86_400_000_000_000 => {
            format!("{} h {:02} m", ns / 3_600_000_000_000, ns / 60_000_000_000 % 60)
        }
        _ => format!("{} d {:02} h", ns / 86_400_000_000_000, ns / 3_600_000_000_000 % 24),
    }
}

/// `1,204,118`.
pub(crate) fn count(n: u64) -> Shown {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    Shown::line(&text)
}

/// `64 KB`, `3.2 MB`.
pub(crate) fn bytes(n: u64) -> Shown {
    Shown::line(&match n {
        0..1024 => format!("{n} bytes"),
        1024..1_048_576 => format!("{} KB", n.div_ceil(1024)),
        _ => format!("{}.{} MB", n / 1_048_576, n % 1_048_576 * 10 / 1_048_576),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn units() {
        let shown: Vec<String> =
            [0, 900, 12_345_678, 1_849_999_999, 125_000_000_000, 11_520_000_000_000, 93_600_000_000_000, -5]
                .iter()
                .map(|&ns| duration(ns).to_string())
                .collect();
        expect!["0 | 1 µs | 12 ms | 1.8 s | 2 m 05 s | 3 h 12 m | 1 d 02 h | 0"].assert_eq(&shown.join(" | "));
        let signed: Vec<String> =
            [1_849_999_999, -340_000_000, 0].iter().map(|&ns| signed_duration(ns).to_string()).collect();
        expect!["+1.8 s | −340 ms | +0"].assert_eq(&signed.join(" | "));
        expect!["1,204,118"].assert_eq(count(1_204_118).as_str());
        expect!["3.2 MB"].assert_eq(bytes(3_400_000).as_str());
    }

    #[test]
    fn typed_times_become_absolute_utc() {
        for text in ["2026-11-20", "2026-11-20T00:00", "2026-11-20 00:00:00Z", "2026-11-20T01:00:00+01:00"] {
            assert_eq!(typed_time(text).as_deref(), Some("2026-11-20T00:00:00Z"), "{text}");
        }
        assert_eq!(typed_time("yesterday"), None);
    }

    #[test]
    fn unreadable_times_are_shown_not_dropped() {
        assert_eq!(clock("\u{202e}soon").as_str(), "⟨U+202E⟩soon");
        assert_eq!(clock("2026-11-20T12:31:24.215819+02:00").as_str(), "10:31:24.215");
        assert_eq!(clock("2026-11-20T10:31:24.215819Z").as_str(), "10:31:24.215");
        assert_eq!(clock("2026-11-20T10:31:24Z").as_str(), "10:31:24.000");
    }
}
