//! What a run learned beside links, as rows of the table `links`: a row per clock (relation `clock`), one per finding
//! (relation `finding`). They supersede and are withdrawn as links are; `from` names clock or finding and interval.
//!
//! Only closed intervals give such rows: a growing one is judged again every few seconds.

use std::collections::{BTreeMap, BTreeSet};

use threadline_schemas::record::event_id;
use threadline_store::links::LinkRow;

use super::super::observation::Observation;
use super::super::windows::Window;
use super::super::{ClockModel, Correlation, Finding, FindingKind};
use super::rows::Judge;

/// Sources that a clock names.
const SOURCES_MAX: usize = 64;

/// Sources (side and name) that each clock stamps.
pub(super) type Sources = BTreeMap<String, BTreeSet<(String, String)>>;

/// The rows of an interval.
pub(super) fn learned(
    found: &Correlation,
    observations: &[Observation],
    sources: &Sources,
    window: Window,
    judge: &Judge,
) -> Vec<LinkRow> {
    if !judge.is_final {
        return Vec::new();
    }
    // The linker counts seconds from its first observation.
    let base = observations.first().map_or(0, |o| o.time_unix_nano);
    let row = |relation: &str, name: &str, grade: &str, rule: &str, evidence: serde_json::Value| LinkRow {
        from: event_id("links", &format!("{rule}:{name}@{}", window.from)),
        to: None,
        relation: relation.into(),
        grade: grade.into(),
        rule: rule.into(),
        score: 1.0,
        evidence: Some(evidence.to_string()),
        candidates: None,
        session: None,
        turn: None,
        call: None,
        linker: judge.linker.clone(),
        interval_from: window.read_from,
        interval_to: window.read_to,
        is_final: true,
        known_at_us: judge.known_at_us,
    };
    let clocks = found.clocks.iter().filter(|model| !model.track.is_empty());
    let clocks = clocks.map(|model| row("clock", &model.clock, "inferred", "clock-track", clock(model, base, sources)));
    let findings = found.findings.iter().map(|finding| {
        let grade = if finding.kind == FindingKind::SilentServer { "missing" } else { "ambiguous" };
        row("finding", &finding.name, grade, finding.kind.as_str(), stated(finding))
    });
    clocks.chain(findings).collect()
}

fn clock(model: &ClockModel, base: i64, sources: &Sources) -> serde_json::Value {
    let micros = |seconds: f64| (seconds * 1e6).round() / 1e6;
    let segments = model.track.segments.iter().map(|segment| {
        let from = segment.from.is_finite().then(|| base.saturating_add((segment.from * 1e9) as i64));
        let support = (segment.support * 10.0).round() / 10.0;
        serde_json::json!({ "from_unix_nano": from, "offset_s": micros(segment.offset), "support": support })
    });
    let named = sources.get(&model.clock).into_iter().flatten().take(SOURCES_MAX);
    serde_json::json!({
        "clock": model.clock,
        "sources": named.collect::<Vec<_>>(),
        "spread_s": model.spread.map(micros),
        "segments": segments.collect::<Vec<_>>(),
    })
}

fn stated(finding: &Finding) -> serde_json::Value {
    serde_json::json!({ "name": finding.name, "count": finding.count, "records": finding.records })
}
