//! One call from everybody who observed it.
//!
//! Arguments and result come from the strongest observation: frame, then host transcript, then
//! telemetry. Of several rounds (`input_required`) the first gives the arguments, the last the result.

use threadline_schemas::{Decision, Direction, Kind, Outcome, Record, SourceKind};

use super::assemble::{Assembly, CallGroup};
use super::rounds;
use crate::line::{event_line, time_text};
use crate::links::{Links, is_telemetry, order};
use crate::model::{Call, Grade};

/// A call with what the gaps need to know of it.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) call: Call,
    pub(crate) turn: usize,
    pub(crate) selection: Option<usize>,
    pub(crate) request: Option<usize>,
    pub(crate) response: Option<usize>,
    pub(crate) host_result: Option<usize>,
    pub(crate) executed_by: Option<SourceKind>,
}

/// The calls of a session, in order.
pub(crate) fn calls(records: &[Record], links: &Links, assembly: &Assembly) -> Vec<Observed> {
    assembly.calls.iter().map(|group| observe(records, links, group)).collect()
}

fn observe(records: &[Record], links: &Links, group: &CallGroup) -> Observed {
    let of = |test: &dyn Fn(&Record) -> bool| -> Vec<usize> {
        group.records.iter().copied().filter(|at| test(&records[*at])).collect()
    };
    let best = |candidates: &[usize]| {
        candidates.iter().copied().min_by_key(|at| (strength(&records[*at]), order(&records[*at])))
    };
    let last = |candidates: &[usize]| {
        let strongest = candidates.iter().map(|at| strength(&records[*at])).min();
        candidates.iter().copied().rfind(|at| Some(strength(&records[*at])) == strongest)
    };
    let selection = best(&of(&|record| record.kind == Kind::Selection));
    let requests = of(&|record| record.kind == Kind::Call && record.direction.is_some());
    let responses = of(&|record| record.kind == Kind::Result && record.direction.is_some());
    let answers = of(&|record| record.kind == Kind::Result);
    let arguments =
        best(&of(&|record| matches!(record.kind, Kind::Call | Kind::Selection) && record.arguments.is_some()));
    let ends = of(&|record| matches!(record.kind, Kind::Result | Kind::Call) && record.outcome.is_some());
    let result = last(&answers);
    let named = |column: fn(&Record) -> Option<&String>| {
        let mut named: Vec<usize> =
            group.records.iter().copied().filter(|at| column(&records[*at]).is_some()).collect();
        named.sort_by_key(|at| (strength(&records[*at]), order(&records[*at])));
        named.first().and_then(|at| column(&records[*at]).cloned())
    };
    let decision = of(&|record| record.decision.is_some());
    let verdict = last(&decision).and_then(|at| records[at].decision);
    let host_result = last(&of(&|record| record.kind == Kind::Result && record.source_kind == SourceKind::Host));
    let cancelled = of(&|record| record.kind == Kind::Notification && record.outcome == Some(Outcome::Cancelled));
    let outcome =
        last(&ends).and_then(|at| records[at].outcome).or((!cancelled.is_empty()).then_some(Outcome::Cancelled));
    let executed_by = executed_by(records, group);
    // A line beside the protocol says nothing of how sure the call itself is; it has its own grade.
    let beside = |at: usize| records[at].direction == Some(Direction::ServerStderr);
    let inner = group.records.iter().filter(|at| **at != group.root && !beside(**at));
    let inner = inner.filter_map(|at| links.parent_of(*at));
    let grade = inner.filter(|edge| edge.relation != "prompt").map(|edge| edge.grade).max();
    let start = group.records.iter().map(|at| records[*at].span_unix_nano().0).min().unwrap_or(0);
    let end = of(&has_ended).into_iter().map(|at| records[at].span_unix_nano().1).max();
    let line = |at: &usize| event_line(&records[*at], links.parent_of(*at).map(|edge| edge.link(records)));
    let (arguments_shown, arguments_cut) = shown(arguments.and_then(|at| records[at].arguments.as_deref()));
    let said = result.and_then(|at| records[at].result.as_deref().or(records[at].text.as_deref()));
    let (result_shown, result_cut) = shown(said);
    let call = Call {
        id: group.id.clone(),
        tool: named(|record| record.tool_name.as_ref()),
        server: named(|record| record.server_name.as_ref()),
        tool_call_id: named(|record| record.tool_call_id.as_ref()),
        start: time_text(start),
        end: end.map(time_text),
        outcome: outcome.map(|outcome| outcome.to_string()),
        rpc_error_code: result.and_then(|at| records[at].rpc_error_code),
        tool_is_error: result.and_then(|at| records[at].tool_is_error),
        decision: verdict.map(|verdict| verdict.to_string()),
        execution: execution(records, executed_by, outcome, verdict, host_result).into(),
        arguments: arguments_shown,
        arguments_cut,
        result: result_shown,
        result_cut,
        grade: grade.unwrap_or(Grade::Missing),
        rounds: rounds::rounds(records, links, &group.records),
        records: group.records.iter().map(line).collect(),
    };
    Observed {
        call,
        turn: group.turn,
        selection,
        request: requests.last().copied(),
        response: responses.last().copied(),
        host_result,
        executed_by,
    }
}

/// Bytes of arguments or result that a session shows of one call (64 KiB).
const SHOWN_BYTES_MAX: usize = 64 * 1024;

/// A payload's beginning and how many bytes were left out.
fn shown(text: Option<&str>) -> (Option<String>, u64) {
    let Some(text) = text else { return (None, 0) };
    let end = text.floor_char_boundary(SHOWN_BYTES_MAX);
    (Some(text[..end].to_string()), (text.len() - end) as u64)
}

/// An answer, or a span of the call that tells its own end.
fn has_ended(record: &Record) -> bool {
    match record.kind {
        Kind::Result => true,
        Kind::Call => record.outcome.is_some() || record.duration_nano.is_some(),
        _ => false,
    }
}

/// The smaller the stronger.
pub(super) fn strength(record: &Record) -> u8 {
    match record.source_kind {
        _ if record.direction.is_some() => 0,
        SourceKind::Host if !is_telemetry(record) => 1,
        SourceKind::Host => 2,
        _ => 3,
    }
}

/// Who saw the call outside the model's choice, the strongest witness first.
fn executed_by(records: &[Record], group: &CallGroup) -> Option<SourceKind> {
    let witness = |at: &usize| match (records[*at].source_kind, records[*at].kind) {
        (kind @ (SourceKind::Wire | SourceKind::Gateway | SourceKind::Server | SourceKind::Downstream), _) => {
            Some(kind)
        }
        (kind, Kind::Call) if records[*at].direction.is_some() => Some(kind),
        (kind @ SourceKind::Host, Kind::Call | Kind::Result) => {
            let ran = records[*at].outcome == Some(Outcome::Ok)
                || (records[*at].kind == Kind::Call && records[*at].tool_is_error == Some(true));
            ran.then_some(kind)
        }
        _ => None,
    };
    let rank = |kind: &SourceKind| match kind {
        SourceKind::Wire => 0,
        SourceKind::Gateway => 1,
        SourceKind::Server => 2,
        SourceKind::Downstream => 3,
        _ => 4,
    };
    group.records.iter().filter_map(witness).min_by_key(rank)
}

fn execution(
    records: &[Record],
    executed_by: Option<SourceKind>,
    outcome: Option<Outcome>,
    verdict: Option<Decision>,
    host_result: Option<usize>,
) -> &'static str {
    let refused = outcome == Some(Outcome::Denied)
        || verdict == Some(Decision::Deny)
        || host_result.is_some_and(|at| refused_by_host(&records[at]));
    match executed_by {
        Some(_) => "executed",
        None if refused => "never_executed",
        None => "unknown",
    }
}

/// Whether the host answered in the tool's place.
fn refused_by_host(record: &Record) -> bool {
    const BY_TYPE: &[&str] = &["tool_use_error", "no_such_tool_available", "unsupported_call", "mcp_server_connecting"];
    const BY_TEXT: &[&str] = &["<tool_use_error>", "unsupported call:"];
    let text = record.result.as_deref().or(record.text.as_deref()).unwrap_or_default();
    let text = text.trim_start_matches(['"', '[', '{', ' ']);
    record.outcome == Some(Outcome::Denied)
        || record.error_type.as_deref().is_some_and(|kind| BY_TYPE.contains(&kind))
        || BY_TEXT.iter().any(|start| text.starts_with(start))
}
