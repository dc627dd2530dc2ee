//! Times as sources write them, in nanoseconds since the Unix epoch, with the precision they have.

use chrono::{DateTime, Datelike, FixedOffset, NaiveDateTime, TimeZone};

use crate::json::Json;

const SECOND_NS: i64 = 1_000_000_000;

/// How a time is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// RFC 3339, also with a space for the T, or without a zone.
    Rfc3339,
    /// A number of this many nanoseconds since the epoch.
    Epoch(i64),
    /// `02/Mar/2026:08:00:02 +0000`
    Clf,
    /// `2026-03-02 08:00:00.123 CET`
    Postgres,
    /// `Mar  2 08:00:00`: the year is the one that brings it nearest before our clock.
    Syslog,
    /// chrono's `strftime` form.
    Strftime(String),
}

/// Whose local time it is where the text does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zone {
    Fixed(FixedOffset),
    Named(chrono_tz::Tz),
}

/// A time and how fine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) unix_nano: i64,
    pub(super) precision_nano: i64,
}

impl Form {
    pub(super) fn parse(name: &str) -> Result<Form, String> {
        Ok(match name {
            "rfc3339" => Form::Rfc3339,
            "epoch_s" => Form::Epoch(SECOND_NS),
            "epoch_ms" => Form::Epoch(1_000_000),
            "epoch_us" => Form::Epoch(1_000),
            "epoch_ns" => Form::Epoch(1),
            "clf" => Form::Clf,
            "postgres" => Form::Postgres,
            "syslog" => Form::Syslog,
            _ if name.contains('%') => {
                let bad = chrono::format::StrftimeItems::new(name).any(|item| item == chrono::format::Item::Error);
                if bad {
                    return Err("not a strftime form".into());
                }
                Form::Strftime(name.into())
            }
            _ => {
                return Err(
                    "a time form is rfc3339, epoch_s, epoch_ms, epoch_us, epoch_ns, clf, postgres, syslog or a \
                     strftime form with %"
                        .into(),
                );
            }
        })
    }
}

impl Zone {
    pub(super) fn parse(name: &str) -> Result<Zone, String> {
        if let Some(offset) = offset(name) {
            return Ok(Zone::Fixed(offset));
        }
        name.parse()
            .map(Zone::Named)
            .map_err(|_| "a zone is UTC, an offset such as +02:00 or a name of the tz database".into())
    }

    /// The earlier one where clocks went back.
    fn at(self, local: NaiveDateTime) -> Option<i64> {
        match self {
            Zone::Fixed(offset) => offset.from_local_datetime(&local).earliest()?.timestamp_nanos_opt(),
            Zone::Named(zone) => zone.from_local_datetime(&local).earliest()?.timestamp_nanos_opt(),
        }
    }
}

const UTC: Zone = Zone::Fixed(match FixedOffset::east_opt(0) {
    Some(offset) => offset,
    None => panic!("zero is an offset"),
});

/// Reads a time; `None` when it is none.
pub(super) fn read(value: &Json, form: &Form, zone: Option<Zone>, observed_unix_us: i64) -> Option<Moment> {
    if let Form::Epoch(unit) = form {
        let text = match value {
            Json::Number(text) => text,
            Json::String(text) => text.as_str(),
            _ => return None,
        };
        return epoch(text, *unit);
    }
    let text = value.as_str()?.trim();
    // A local time without a stated zone is taken as UTC.
    let zone = zone.unwrap_or(UTC);
    let unix_nano = match form {
        Form::Rfc3339 => rfc3339(text, zone),
        Form::Clf => DateTime::parse_from_str(text, "%d/%b/%Y:%H:%M:%S%.f %z").ok()?.timestamp_nanos_opt(),
        Form::Postgres => postgres(text, zone),
        Form::Syslog => syslog(text, zone, observed_unix_us),
        Form::Strftime(form) => match DateTime::parse_from_str(text, form) {
            Ok(time) => time.timestamp_nanos_opt(),
            Err(_) => zone.at(NaiveDateTime::parse_from_str(text, form).ok()?),
        },
        Form::Epoch(_) => None,
    }?;
    Some(Moment { unix_nano, precision_nano: precision(text) })
}

fn rfc3339(text: &str, zone: Zone) -> Option<i64> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return time.timestamp_nanos_opt();
    }
    let forms = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S,%3f", "%Y-%m-%d %H:%M:%S,%3f"];
    if let Some(local) = forms.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok()) {
        return zone.at(local);
    }
    // Offsets without a colon, or only hours.
    let forms = ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f %#z"];
    forms.iter().find_map(|form| DateTime::parse_from_str(text, form).ok())?.timestamp_nanos_opt()
}

fn postgres(text: &str, zone: Zone) -> Option<i64> {
    let (local, name) = text.rsplit_once(' ')?;
    match NaiveDateTime::parse_from_str(local, "%Y-%m-%d %H:%M:%S%.f") {
        Ok(local) => abbreviation(name).or_else(|| Zone::parse(name).ok())?.at(local),
        // Without a zone the last word is the time of day.
        Err(_) => rfc3339(text, zone),
    }
}

/// Abbreviations that databases print and the tz database does not name.
fn abbreviation(name: &str) -> Option<Zone> {
    const MINUTES: &[(&str, i32)] = &[
        ("UTC", 0),
        ("GMT", 0),
        ("CET", 60),
        ("CEST", 120),
        ("WEST", 60),
        ("BST", 60),
        ("EET", 120),
        ("EEST", 180),
        ("MSK", 180),
        ("IST", 330),
        ("JST", 540),
        ("KST", 540),
        ("AEST", 600),
        ("AEDT", 660),
        ("EST", -300),
        ("EDT", -240),
        ("CST", -360),
        ("CDT", -300),
        ("MST", -420),
        ("MDT", -360),
        ("PST", -480),
        ("PDT", -420),
    ];
    let minutes = MINUTES.iter().find(|(known, _)| *known == name)?.1;
    FixedOffset::east_opt(minutes * 60).map(Zone::Fixed)
}

fn offset(text: &str) -> Option<FixedOffset> {
    if text == "UTC" || text == "Z" {
        return FixedOffset::east_opt(0);
    }
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let digits: String = digits.chars().filter(|c| *c != ':').collect();
    if !matches!(digits.len(), 2 | 4) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let hours: i32 = digits[..2].parse().ok()?;
    let minutes: i32 = digits.get(2..).filter(|rest| !rest.is_empty()).map_or(Some(0), |rest| rest.parse().ok())?;
    FixedOffset::east_opt(sign * (hours * 3600 + minutes * 60))
}

fn syslog(text: &str, zone: Zone, observed_unix_us: i64) -> Option<i64> {
    const DAY_NS: i64 = 86_400 * SECOND_NS;
    let observed = DateTime::from_timestamp_micros(observed_unix_us)?;
    let latest = observed.timestamp_nanos_opt()?.saturating_add(DAY_NS);
    let at = |year: i32| {
        let text = format!("{year} {text}");
        zone.at(NaiveDateTime::parse_from_str(&text, "%Y %b %e %H:%M:%S%.f").ok()?)
    };
    // A source's clock may be a little ahead of ours, not by a month.
    [observed.year().checked_add(1)?, observed.year(), observed.year() - 1]
        .into_iter()
        .filter_map(at)
        .find(|at| *at <= latest)
}

/// A decimal number of `unit` nanoseconds, exactly.
fn epoch(text: &str, unit: i64) -> Option<Moment> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) || fraction.len() > 18 {
        return None;
    }
    let mut unix_nano = whole.parse::<i64>().ok()?.checked_mul(unit)?;
    // The fraction goes the same way as the sign.
    let sign = if whole.starts_with('-') { -1 } else { 1 };
    let mut place = unit;
    for digit in fraction.bytes() {
        place /= 10;
        unix_nano = unix_nano.checked_add(i64::from(digit - b'0').checked_mul(place)?.checked_mul(sign)?)?;
    }
    let is_seconds = unit == SECOND_NS && !fraction.is_empty();
    let precision_nano = if is_seconds { of_digits(fraction.len()) } else { place.max(1) };
    Some(Moment { unix_nano, precision_nano })
}

/// Whole seconds where there is no fraction. A fraction says milliseconds at least, however short it is: some writers leave
/// zeros at its end out.
fn precision(text: &str) -> i64 {
    let bytes = text.as_bytes();
    let is_point = |at: usize| {
        let before: [u8; 3] = [bytes[at - 3], bytes[at - 2], bytes[at - 1]];
        matches!(bytes[at], b'.' | b',') && before[0] == b':' && before[1..].iter().all(u8::is_ascii_digit)
    };
    let point = (3..bytes.len()).find(|at| is_point(*at));
    let digits = point.map_or(0, |at| bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count());
    of_digits(digits)
}

fn of_digits(digits: usize) -> i64 {
    match digits {
        0 => SECOND_NS,
        digits => SECOND_NS / 10i64.pow(digits.clamp(3, 9) as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn shown(form: &str, zone: &str, text: &str) -> String {
        // 2026-11-20T12:00:00Z
        const NOW_US: i64 = 1_795_176_000_000_000;
        let zone = (!zone.is_empty()).then(|| Zone::parse(zone).unwrap());
        let moment = read(&Json::String(text.into()), &Form::parse(form).unwrap(), zone, NOW_US);
        moment.map_or_else(
            || "-".into(),
            |moment| format!("{:?} ±{}", DateTime::from_timestamp_nanos(moment.unix_nano), moment.precision_nano),
        )
    }

    #[test]
    fn forms() {
        let all = [
            ("rfc3339", "", "2026-03-02T08:00:00.457Z"),
            ("rfc3339", "", "2026-03-02T08:00:00+02:00"),
            ("rfc3339", "", "2026-03-02 08:00:00.5"),
            ("rfc3339", "Europe/Berlin", "2026-07-02T08:00:00"),
            ("rfc3339", "-03:30", "2026-07-02 08:00:00,250"),
            ("rfc3339", "", "2026-07-02 08:00:00.1+02"),
            ("rfc3339", "", "9999-99-99T99:99:99Z"),
            ("epoch_s", "", "1795176000.25"),
            ("epoch_s", "", "1795176000"),
            ("epoch_s", "", "-1.5"),
            ("epoch_ms", "", "1795176000123"),
            ("epoch_us", "", "1795176000123456"),
            ("epoch_ns", "", "99999999999999999999"),
            ("clf", "", "02/Mar/2026:08:00:02 +0100"),
            ("postgres", "", "2026-03-02 08:00:00.123 CET"),
            ("postgres", "", "2026-03-02 08:00:00 -05"),
            ("postgres", "", "2026-03-02 08:00:00.123 Nowhere"),
            ("syslog", "", "Mar  2 08:00:00"),
            ("syslog", "", "Dec 24 08:00:00"),
            ("syslog", "", "Nov 20 23:00:00"),
            ("%d.%m.%Y %H:%M", "UTC", "02.03.2026 08:01"),
        ];
        let text: String = all.iter().map(|(form, zone, text)| shown(form, zone, text) + "\n").collect();
        expect![[r#"
            2026-03-02T08:00:00.457Z ±1000000
            2026-03-02T06:00:00Z ±1000000000
            2026-03-02T08:00:00.500Z ±1000000
            2026-07-02T06:00:00Z ±1000000000
            2026-07-02T11:30:00.250Z ±1000000
            2026-07-02T06:00:00.100Z ±1000000
            -
            2026-11-20T12:00:00.250Z ±1000000
            2026-11-20T12:00:00Z ±1000000000
            1969-12-31T23:59:58.500Z ±1000000
            2026-11-20T12:00:00.123Z ±1000000
            2026-11-20T12:00:00.123456Z ±1000
            -
            2026-03-02T07:00:02Z ±1000000000
            2026-03-02T07:00:00.123Z ±1000000
            2026-03-02T13:00:00Z ±1000000000
            -
            2026-03-02T08:00:00Z ±1000000000
            2025-12-24T08:00:00Z ±1000000000
            2026-11-20T23:00:00Z ±1000000000
            2026-03-02T08:01:00Z ±1000000000
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn words_that_are_no_forms() {
        assert!(Form::parse("iso").is_err());
        assert!(Form::parse("%Q%").is_err());
        assert!(Zone::parse("Atlantis").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}", index in 0usize..9) {
            let forms = ["rfc3339", "epoch_s", "epoch_ms", "epoch_us", "epoch_ns", "clf", "postgres", "syslog", "%d %s"];
            drop(shown(forms[index], "", &text));
        }
    }
}
