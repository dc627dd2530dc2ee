//! `threadline sources`: who sends, how much, how late, and who has fallen silent.

use std::process::ExitCode;

use serde_json::Value;

use super::client::Client;
use super::output::{self, Column};
use super::{EXIT_EMPTY, Format, SourcesArguments};

const COLUMNS: &[Column] = &[
    ("SOURCE", "source_name"),
    ("SIDE", "source_kind"),
    ("STATE", "state"),
    ("RECORDS", "records"),
    ("1 MIN", "last_minute"),
    ("1 H", "last_hour"),
    ("REJECTED", "rejected"),
    ("GAPS", "gaps"),
    ("DROPPED", "dropped"),
    ("BEHIND", "behind"),
    ("DEAD", "dead_lettered"),
    ("LAG MS", "lag_ms"),
    ("CLOCK MS >=", "clock_offset_min_ms"),
    ("CLOCKS MS", "clocks"),
    ("QUIET S", "quiet_s"),
    ("FIRST (UTC)", "first"),
    ("LAST (UTC)", "last"),
    ("NO TIME", "without_time"),
    ("VIA", "collector"),
    ("COLLECTOR", "collector_id"),
    ("VERSION", "collector_version"),
];

/// For people: numbers in groups, durations with their unit.
const TABLE_COLUMNS: &[Column] = &[
    ("SOURCE", "source_name"),
    ("SIDE", "source_kind"),
    ("STATE", "state"),
    ("QUIET FOR", "quiet_s"),
    ("RECORDS", "records"),
    ("1 MIN", "last_minute"),
    ("1 H", "last_hour"),
    ("REJECTED", "rejected"),
    ("GAPS", "gaps"),
    ("DROPPED", "dropped"),
    ("BEHIND", "behind"),
    ("DEAD", "dead_lettered"),
    ("LAG", "lag_ms"),
    ("CLOCK >=", "clock_offset_min_ms"),
    ("CLOCKS MS", "clocks"),
    ("FIRST (UTC)", "first"),
    ("LAST (UTC)", "last"),
    ("NO TIME", "without_time"),
    ("VIA", "collector"),
    ("COLLECTOR", "collector_id"),
    ("VERSION", "collector_version"),
];

fn readable(row: &mut Value) {
    for name in [
        "records",
        "last_minute",
        "last_hour",
        "rejected",
        "gaps",
        "dropped",
        "behind",
        "dead_lettered",
        "without_time",
    ] {
        if let Some(count) = row[name].as_u64() {
            row[name] = output::grouped(count).into();
        }
    }
    for (name, per_second) in [("lag_ms", 1e3), ("clock_offset_min_ms", 1e3), ("quiet_s", 1.0)] {
        if let Some(amount) = row[name].as_f64() {
            row[name] = output::span(amount / per_second).into();
        }
    }
    for name in ["first", "last"] {
        row[name] = output::to_millis(row[name].as_str().unwrap_or_default()).into();
    }
}

/// Lists every source, the one heard last first.
pub(crate) async fn run(arguments: SourcesArguments) -> anyhow::Result<ExitCode> {
    let answer = Client::open(&arguments.place)?.get("/api/v1/sources", &[]).await?;
    let mut rows: Vec<Value> = answer["data"].as_array().cloned().unwrap_or_default();
    if arguments.silent {
        rows.retain(|row| row["state"] == "silent");
    }
    if matches!(arguments.printing.format, Format::Table | Format::Csv) {
        rows.iter_mut().for_each(|row| row["clocks"] = clocks(row).into());
    }
    let columns = match arguments.printing.format {
        Format::Table => {
            rows.iter_mut().for_each(readable);
            TABLE_COLUMNS
        }
        _ => COLUMNS,
    };
    output::rows(&arguments.printing, &answer, &rows, columns)?;
    let is_empty = rows.is_empty() && arguments.printing.fail_empty;
    Ok(if is_empty { ExitCode::from(EXIT_EMPTY) } else { ExitCode::SUCCESS })
}

/// What correlation learned about a source's clock; of several, from the one furthest behind to the one furthest ahead.
fn clocks(source: &Value) -> Option<String> {
    let clocks = source["clock_offsets_ms"].as_object()?;
    let mut ahead: Vec<f64> = clocks.values().filter_map(Value::as_f64).collect();
    ahead.sort_by(f64::total_cmp);
    match ahead[..] {
        [] => None,
        [only] => Some(format!("{only:+.1}")),
        [first, .., last] => Some(format!("{first:+.1} to {last:+.1} ({} clocks)", ahead.len())),
    }
}
