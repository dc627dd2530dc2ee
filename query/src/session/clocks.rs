//! The clocks of a session's sources, as far as the linker learned them. Nothing is corrected by them.

use std::collections::BTreeMap;

use threadline_schemas::Record;

use crate::fact::is_timed;
use crate::links::Contest;
use crate::model::SessionClock;

/// Every learned clock that stamped a record, by name.
pub(super) fn clocks(records: &[Record], contest: &Contest) -> Vec<SessionClock> {
    let Some(judged) = contest.judged.as_deref().filter(|judged| judged.clocks().next().is_some()) else {
        return Vec::new();
    };
    let mut seen: BTreeMap<String, (u64, i64, i64)> = BTreeMap::new();
    for record in records.iter().filter(|record| is_timed(record)) {
        let time = record.time_unix_nano;
        let known = seen.entry(record.clock()).or_insert((0, time, time));
        *known = (known.0 + 1, known.1.min(time), known.2.max(time));
    }
    let clock = |(name, (records, first, last)): (String, (u64, i64, i64))| {
        let models = judged.clock(&name);
        let at = |time: i64| models.iter().rev().find(|model| model.covers(time));
        let ahead = |time: i64| Some((at(time)?.ahead_at(time)? * 1e6).round() / 1e3);
        let mut ahead_ms: Vec<f64> = [ahead(first), ahead(last)].into_iter().flatten().collect();
        ahead_ms.dedup();
        let spread_ms = at(first).and_then(|model| model.spread_s).map(|spread| (spread * 1e6).round() / 1e3);
        (!ahead_ms.is_empty()).then_some(SessionClock { clock: name, records, ahead_ms, spread_ms })
    };
    seen.into_iter().filter_map(clock).collect()
}
