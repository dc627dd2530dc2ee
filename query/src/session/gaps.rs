//! What is missing or contradictory in a session, in words that name event, source and time.
//!
//! | kind | when |
//! | --- | --- |
//! | `selection_not_executed` | a choice that the host answered itself, or that no capture point saw carried out |
//! | `no_result` | a request without response, a choice without answer, a call whose end nobody tells |
//! | `no_request` | a response whose request was not recorded |
//! | `no_host_record` | a call on the wire that the session's host says nothing about |
//! | `source_disagreement` | sources that tell different outcomes or arguments |
//! | `recorder_gap`, `rejected_records` | what our side could not record or read |
//! | `contested_key` | an id that was not believed |
//! | `untrusted_id` | an id that the linker found to name more than one thing: reused, shared, constant |
//! | `stands_alone` | what a server or a system behind it says, and no record of a caller was found to belong to it |
//! | `silent_server` | a server that logged none of its calls, where others log theirs |
//! | `clock_off` | a clock that is minutes or hours away from the others |
//!
//! Not here: what was never expected (a source that is not part of this session at all).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use threadline_schemas::{Key, Kind, Outcome, Record, SourceKind, display};
use uuid::Uuid;

use super::assemble::Assembly;
use super::calls::Observed;
use crate::closure::Why;
use crate::fact::is_timed;
use crate::judged::Found;
use crate::line::{content, time_text};
use crate::links::Contest;
use crate::model::Gap;

/// Gaps of one kind that are listed one by one; further ones are counted.
const LISTED_MAX: usize = 50;
/// Ids or events that one gap names.
const NAMED_MAX: usize = 8;

/// The gaps, and the servers that no capture point saw.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    pub(crate) named: Vec<Gap>,
    pub(crate) silent: Vec<String>,
}

/// Names the gaps of a session.
pub(crate) fn gaps(records: &[Record], assembly: &Assembly, calls: &[Observed], contest: &Contest) -> Gaps {
    let seen = Seen::of(records);
    let last = records.iter().filter(|record| is_timed(record)).map(|record| record.time_unix_nano).max();
    let mut gaps = Gaps::default();
    for (call, group) in calls.iter().zip(&assembly.calls) {
        let found = [
            not_executed(records, call, &seen),
            no_result(records, call, &group.records, last),
            no_request(records, call),
            no_host(records, call, &seen, group.records.iter().map(|at| &records[*at])),
            disagreement(records, call, &group.records),
        ];
        gaps.named.extend(found.into_iter().flatten());
    }
    gaps.named.extend(answered_nothing(records, calls));
    gaps.named.extend(recorder(records));
    gaps.named.extend(rejected(records));
    gaps.named.extend(contested(records, contest));
    gaps.named.extend(found(records, contest));
    gaps.named.extend(stands_alone(records, contest));
    gaps.silent = seen.silent(records, calls);
    gaps
}

/// Which sources this session has.
struct Seen<'a> {
    host: bool,
    wire_servers: BTreeSet<&'a str>,
}

impl<'a> Seen<'a> {
    fn of(records: &'a [Record]) -> Self {
        let wire = records.iter().filter(|record| record.source_kind == SourceKind::Wire);
        Seen {
            host: records.iter().any(|record| record.source_kind == SourceKind::Host),
            wire_servers: wire.filter_map(|record| record.server_name.as_deref()).collect(),
        }
    }

    /// Servers that the host says it called and whose connection was not recorded.
    fn silent(&self, records: &[Record], calls: &[Observed]) -> Vec<String> {
        let called = calls.iter().filter(|call| call.executed_by == Some(SourceKind::Host));
        let servers: BTreeSet<&str> =
            called.filter_map(|call| records[call.selection?].server_name.as_deref()).collect();
        let unseen = servers.into_iter().filter(|server| !self.wire_servers.contains(server));
        unseen
            .map(|server| {
                format!("wire: no connection to server {} was recorded", display::visible(server, display::Lines::Show))
            })
            .collect()
    }
}

fn gap(kind: &str, call: &Observed, description: String, events: &[&Record]) -> Gap {
    Gap {
        kind: kind.into(),
        description,
        event_ids: events.iter().map(|record| record.event_id.to_string()).collect(),
        call_id: Some(call.call.id.clone()),
    }
}

fn not_executed(records: &[Record], call: &Observed, seen: &Seen<'_>) -> Option<Gap> {
    let selection = &records[call.selection?];
    let tool = tool_of(selection);
    let chosen = format!("{tool} was selected at {} ({})", time_text(selection.time_unix_nano), place(selection));
    let server_recorded = selection.server_name.as_deref().is_some_and(|server| seen.wire_servers.contains(server));
    match (call.executed_by, call.host_result.map(|at| &records[at])) {
        (None, Some(answer)) => {
            let said = content(answer).map_or_else(|| "nothing".into(), |(_, text)| quote(text));
            let description = format!(
                "{chosen}; the host answered {said} at {}; no frame and no server record of it was seen",
                time_text(answer.time_unix_nano)
            );
            Some(gap("selection_not_executed", call, description, &[selection, answer]))
        }
        (Some(SourceKind::Host), Some(answer)) if server_recorded => {
            let description = format!(
                "{chosen} and the host reports a result at {}, but the recorded connections to its server show no such call",
                time_text(answer.time_unix_nano)
            );
            Some(gap("selection_not_executed", call, description, &[selection, answer]))
        }
        _ => None,
    }
}

/// `members`: the records of the call; `last`: the newest time in its session.
fn no_result(records: &[Record], call: &Observed, members: &[usize], last: Option<i64>) -> Option<Gap> {
    let newest = members.iter().map(|at| records[*at].time_unix_nano).max();
    // A call that has just begun looks the same as one whose end was lost: what is known is said, nothing more.
    let since = match last.filter(|last| newest.is_none_or(|newest| *last > newest)) {
        Some(last) => format!("its session went on until {}", time_text(last)),
        None => "nothing later of its session was recorded, so it may be running still".into(),
    };
    let cancelled = call.call.outcome.as_deref() == Some("cancelled");
    if let (Some(request), None, false) = (call.request, call.response, cancelled) {
        let request = &records[request];
        let description = format!(
            "request {} ({}) sent at {} on connection {} got no response; {since}",
            request.rpc_id.as_deref().unwrap_or("without id"),
            tool_of(request),
            time_text(request.time_unix_nano),
            request.connection_id.as_deref().unwrap_or("unknown"),
        );
        return Some(gap("no_result", call, description, &[request]));
    }
    // A span of the call that tells how it ended is an answer too.
    if call.host_result.is_some() || call.response.is_some() || call.call.outcome.is_some() {
        return None;
    }
    if let Some(selection) = call.selection.map(|at| &records[at]) {
        let description = format!(
            "{} was selected at {}; no answer of any source was recorded; {since}",
            tool_of(selection),
            time_text(selection.time_unix_nano)
        );
        return Some(gap("no_result", call, description, &[selection]));
    }
    let told = members.iter().map(|at| &records[*at]).find(|record| record.kind == Kind::Call)?;
    if call.call.end.is_some() || call.call.decision.as_deref() == Some("deny") {
        return None;
    }
    let description = format!(
        "call of {} at {} ({}): no result seen; {since}",
        tool_of(told),
        time_text(told.time_unix_nano),
        place(told)
    );
    Some(gap("no_result", call, description, &[told]))
}

fn no_request(records: &[Record], call: &Observed) -> Option<Gap> {
    let response = call.response.filter(|_| call.request.is_none())?;
    let response = &records[response];
    let description = format!(
        "response {} at {} on connection {} answers a request that was not recorded",
        response.rpc_id.as_deref().unwrap_or("without id"),
        time_text(response.time_unix_nano),
        response.connection_id.as_deref().unwrap_or("unknown"),
    );
    Some(gap("no_request", call, description, &[response]))
}

fn no_host<'a>(
    records: &[Record],
    call: &Observed,
    seen: &Seen<'_>,
    mut members: impl Iterator<Item = &'a Record>,
) -> Option<Gap> {
    let request = &records[call.request?];
    if !seen.host || members.any(|record| record.source_kind == SourceKind::Host) {
        return None;
    }
    let description = format!(
        "call of {} at {} ({}) is on the wire, but no record of this session's host mentions it",
        tool_of(request),
        time_text(request.time_unix_nano),
        place(request)
    );
    Some(gap("no_host_record", call, description, &[request]))
}

fn disagreement(records: &[Record], call: &Observed, members: &[usize]) -> Option<Gap> {
    let mut told: BTreeMap<&str, &Record> = BTreeMap::new();
    let mut by_source: BTreeMap<SourceKind, &str> = BTreeMap::new();
    for record in members.iter().map(|at| &records[*at]) {
        let ends = matches!(record.kind, Kind::Result | Kind::Call);
        let outcome = match record.outcome.filter(|_| ends) {
            Some(Outcome::Ok) => "ok",
            Some(Outcome::Error) => "error",
            Some(Outcome::Denied) => "denied",
            _ => continue,
        };
        told.entry(outcome).or_insert(record);
        by_source.insert(record.source_kind, outcome);
    }
    // A host may word an error as a denial; only success against failure is a contradiction.
    if told.contains_key("ok") && told.len() > 1 && by_source.values().collect::<BTreeSet<_>>().len() > 1 {
        let said: Vec<String> = by_source.iter().map(|(source, outcome)| format!("{source} says {outcome}")).collect();
        let events: Vec<&Record> = told.values().copied().collect();
        return Some(gap(
            "source_disagreement",
            call,
            format!("outcome of {}: {}", name(call), said.join(", ")),
            &events,
        ));
    }
    let (selection, request) = (&records[call.selection?], &records[call.request?]);
    match (&selection.arguments_digest, &request.arguments_digest) {
        (Some(a), Some(b)) if a != b => Some(gap(
            "source_disagreement",
            call,
            format!("arguments of {}: what the model chose differs from what was sent to the server", name(call)),
            &[selection, request],
        )),
        _ => None,
    }
}

/// Requests other than tool calls that got no response.
fn answered_nothing(records: &[Record], calls: &[Observed]) -> Vec<Gap> {
    let index = crate::links::Index::of(records);
    let of_calls: BTreeSet<usize> = calls.iter().filter_map(|call| call.request).collect();
    let open = (0..records.len()).filter(|at| {
        let alone =
            index.exchange(*at).is_some_and(|exchange| exchange.request == Some(*at) && exchange.responses.is_empty());
        alone && records[*at].kind != Kind::Call && !of_calls.contains(at)
    });
    let all: Vec<&Record> = open.map(|at| &records[at]).collect();
    if all.is_empty() {
        return Vec::new();
    }
    let named: Vec<String> = all
        .iter()
        .take(NAMED_MAX)
        .map(|record| {
            format!("{} at {}", quote(record.name.as_deref().unwrap_or("request")), time_text(record.time_unix_nano))
        })
        .collect();
    vec![Gap {
        kind: "no_result".into(),
        description: format!(
            "{} requests other than tool calls got no response: {}{}",
            all.len(),
            named.join(", "),
            more(all.len())
        ),
        event_ids: ids(&all),
        call_id: None,
    }]
}

fn recorder(records: &[Record]) -> Vec<Gap> {
    let gaps = records.iter().filter(|record| record.kind == Kind::Gap);
    gaps.take(LISTED_MAX)
        .map(|record| Gap {
            kind: "recorder_gap".into(),
            description: format!(
                "the recorder {} could not record everything around {}: {}",
                quote(&record.source_name),
                time_text(record.time_unix_nano),
                record.text.as_deref().map_or_else(|| "no reason given".into(), quote)
            ),
            event_ids: vec![record.event_id.to_string()],
            call_id: None,
        })
        .collect()
}

fn rejected(records: &[Record]) -> Option<Gap> {
    let all: Vec<&Record> = records.iter().filter(|record| record.kind == Kind::Rejected).collect();
    if all.is_empty() {
        return None;
    }
    let named: Vec<String> = all
        .iter()
        .take(NAMED_MAX)
        .map(|record| {
            format!("{}: {}", place(record), record.text.as_deref().map_or_else(|| "no reason given".into(), quote))
        })
        .collect();
    Some(Gap {
        kind: "rejected_records".into(),
        description: format!("{} lines could not be understood: {}{}", all.len(), named.join("; "), more(all.len())),
        event_ids: ids(&all),
        call_id: None,
    })
}

fn contested(records: &[Record], contest: &Contest) -> Vec<Gap> {
    let mut kinds: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for (key, why) in &contest.keys {
        let why = match why {
            Why::SeveralConversations => "occur under several conversations",
            Why::DoesNotFit => "also occur at other times or with other content than here",
            Why::SeveralConnections => "run through connections that followed one another",
            Why::OpenedTwice => "were opened twice",
        };
        kinds.entry((key.split_once(':').map_or("key", |(kind, _)| kind), why)).or_default().push(key);
    }
    let describe = |((kind, why), keys): ((&str, &str), Vec<&str>)| {
        let wanted: BTreeSet<&str> = keys.iter().copied().collect();
        let bears = |record: &&Record| record.keys.iter().any(|key| wanted.contains(key.as_str()));
        let all: Vec<&Record> = records.iter().filter(bears).collect();
        let named: Vec<String> = keys.iter().take(NAMED_MAX).map(|key| quote(key)).collect();
        Gap {
            kind: "contested_key".into(),
            description: format!(
                "{} {kind} ids {why}; they were not used to join records by themselves: {}{}",
                keys.len(),
                named.join(", "),
                more(keys.len())
            ),
            event_ids: ids(&all),
            call_id: None,
        }
    };
    kinds.into_iter().map(describe).collect()
}

/// What the linker found beside links, as far as records of this session bear it.
fn found(records: &[Record], contest: &Contest) -> Vec<Gap> {
    let all = contest.judged.as_deref().map(|judged| judged.found()).unwrap_or_default();
    let gap = |found: &Found| {
        let named: HashSet<Uuid> = found.records.iter().copied().collect();
        let bears = |record: &&Record| {
            (found.interval.0..found.interval.1).contains(&record.time_unix_nano)
                && match found.kind.as_str() {
                    "silent-server" => record.kind == Kind::Call && record.server_name.as_ref() == Some(&found.name),
                    "constant-trace" => record.trace_id.as_ref() == Some(&found.name),
                    "conversation-shared" | "conversation-constant" => {
                        record.conversation_id.as_ref() == Some(&found.name)
                    }
                    "clock-off" => record.clock() == found.name,
                    _ => named.contains(&record.event_id),
                }
        };
        let here: Vec<&Record> = records.iter().filter(bears).collect();
        if here.is_empty() {
            return None;
        }
        let description = finding_text(found);
        let kind = match found.kind.as_str() {
            "silent-server" => "silent_server",
            "clock-off" => "clock_off",
            _ => "untrusted_id",
        };
        Some(Gap { kind: kind.into(), description, event_ids: ids(&here), call_id: None })
    };
    let mut gaps: Vec<Gap> = all.iter().filter_map(gap).collect();
    gaps.truncate(LISTED_MAX);
    gaps
}

/// A finding in words.
pub(crate) fn finding_text(found: &Found) -> String {
    let name = quote(&found.name);
    match found.kind.as_str() {
        "silent-server" => format!(
            "server {name} logged none of its {} calls of that time, though servers log theirs; what it did is known from its callers only",
            found.count
        ),
        "session-reused" => format!(
            "the MCP session id {name} was opened again, numbers two calls alike or reaches servers that it should not; it joined nothing by itself ({} records)",
            found.count
        ),
        "session-shared" => format!(
            "the MCP session id {name} is borne by several subjects: replayed, stolen or not random; they were kept apart ({} records)",
            found.count
        ),
        "constant-trace" => format!(
            "the trace id {name} is sent by several programs or subjects, or without end: a constant; it joined nothing ({} records)",
            found.count
        ),
        "conversation-shared" => format!(
            "the conversation id {name} is borne by several users or on several workstations: forged, replayed or not random; they were kept apart ({} records)",
            found.count
        ),
        "conversation-constant" => format!(
            "the conversation id {name} names more than one conversation: it is a name of user, machine or program, or prompts come while calls under it are open; they were told apart otherwise ({} records)",
            found.count
        ),
        "tool-call-reused" => format!(
            "the tool-call id {name} stands for several calls of one conversation: numbered anew in every request, or a constant; which answer is whose was judged otherwise ({} records)",
            found.count
        ),
        "clock-off" => format!(
            "the clock {name} is minutes or hours away from the others, a wrong time or a time zone; times are shown as they were stamped ({} records)",
            found.count
        ),
        kind => format!("{kind}: {name} ({} records)", found.count),
    }
}

/// Why what a server says is a session of its own: which ids its records bear, and what was judged of them.
fn stands_alone(records: &[Record], contest: &Contest) -> Option<Gap> {
    let is_callee = |record: &&Record| matches!(record.source_kind, SourceKind::Server | SourceKind::Downstream);
    let all: Vec<&Record> = records.iter().filter(is_callee).collect();
    let is_caller = |kind| matches!(kind, SourceKind::Host | SourceKind::Gateway | SourceKind::Wire);
    if all.is_empty() || records.iter().any(|record| is_caller(record.source_kind)) {
        return None;
    }
    let joins = |text: &&String| Key::parse(text).is_some_and(|key| key.kind.joins());
    let keys: BTreeSet<&String> = all.iter().flat_map(|record| record.keys.iter().filter(joins)).collect();
    let named: Vec<String> = keys.iter().take(NAMED_MAX).map(|key| quote(key)).collect();
    let shared = match keys.len() {
        0 => "they bear no id by which a caller could be found".to_string(),
        count => format!(
            "no record of a host, gateway or tap bears {}: {}{}",
            if count == 1 { "the id that they bear" } else { "one of the ids that they bear" },
            named.join(", "),
            more(count)
        ),
    };
    let judged: Vec<_> = all.iter().filter_map(|record| contest.judged.as_ref()?.of(record.event_id)).collect();
    let rivals: BTreeSet<Uuid> = judged.iter().flat_map(|judged| judged.rivals.iter().map(|rival| rival.0)).collect();
    let candidates: Vec<String> = rivals.iter().take(NAMED_MAX).map(Uuid::to_string).collect();
    let found = match (rivals.len(), judged.len()) {
        (0, 0) if all.iter().any(|record| record.trace_id.is_some()) => {
            "telemetry is placed by its ids alone: a caller that passes its trace context on (`traceparent`) is found"
                .into()
        }
        (0, 0) => "nothing was judged of them".into(),
        (0, _) => "the linker found no call that could be theirs".into(),
        (count, _) => format!(
            "{count} records could be their callers and none is likely enough: {}{}",
            candidates.join(", "),
            more(count)
        ),
    };
    let sources: BTreeSet<&str> = all.iter().map(|record| record.source_name.as_str()).collect();
    let sources: Vec<String> = sources.into_iter().take(NAMED_MAX).map(quote).collect();
    let records = if all.len() == 1 { "1 record".into() } else { format!("{} records", all.len()) };
    Some(Gap {
        kind: "stands_alone".into(),
        description: format!("{records} of {} and nothing of a caller: {shared}; {found}", sources.join(", ")),
        event_ids: ids(&all),
        call_id: None,
    })
}

fn ids(records: &[&Record]) -> Vec<String> {
    records.iter().take(LISTED_MAX).map(|record| record.event_id.to_string()).collect()
}

fn more(count: usize) -> String {
    if count > NAMED_MAX { format!(" and {} more", count - NAMED_MAX) } else { String::new() }
}

fn tool_of(record: &Record) -> String {
    let tool = record.tool_name.as_deref().unwrap_or("a tool");
    match record.server_name.as_deref() {
        Some(server) => quote(&format!("{server}/{tool}")),
        None => quote(tool),
    }
}

fn name(call: &Observed) -> String {
    quote(call.call.tool.as_deref().unwrap_or("the call"))
}

fn place(record: &Record) -> String {
    match (&record.origin_file, record.origin_line) {
        (Some(file), Some(line)) => quote(&format!("{file}:{line}")),
        _ => format!("event {}", record.event_id),
    }
}

/// Foreign words inside our sentence: visible, short, and marked as foreign.
fn quote(text: &str) -> String {
    let (short, cut) = display::cut(text, 120);
    format!("'{}{}'", display::visible(&short, display::Lines::Show), if cut > 0 { "…" } else { "" })
}
