//! The rounds of one call: each request on the wire with the answers it brought, the response, and the questions that
//! the response asked (`input_required`, MCP 2026-07-28).
//!
//! Two requests are rounds of one call only where one echoes the `requestState` of the other's response; a second
//! recording of the same request is no round.

use std::collections::{BTreeSet, HashMap};

use threadline_schemas::{Direction, Kind, Record};

use crate::links::Links;
use crate::model::Round;

/// The rounds among the records of one call, which are in order; none when there is only one.
pub(super) fn rounds(records: &[Record], links: &Links, call: &[usize]) -> Vec<Round> {
    let handed_out: BTreeSet<&str> =
        call.iter().filter(|at| is_answer(&records[**at])).flat_map(|at| states(&records[*at])).collect();
    let is_retry =
        |at: &usize| is_request(&records[*at]) && states(&records[*at]).any(|state| handed_out.contains(state));
    let Some(connection) = call.iter().find(|at| is_retry(at)).map(|at| &records[*at].connection_id) else {
        return Vec::new();
    };
    let mut responses: HashMap<usize, usize> = HashMap::new();
    let mut parts: HashMap<&str, Vec<usize>> = HashMap::new();
    for at in call {
        if let Some(edge) = links.parent_of(*at).filter(|edge| edge.rule == "response") {
            responses.entry(edge.to).or_insert(*at);
        }
        if let Some((line, _)) = records[*at].delivery_key.rsplit_once('#') {
            parts.entry(line).or_default().push(*at);
        }
    }
    let id = |at: usize| records[at].event_id.to_string();
    let ids = |of: Option<usize>| -> Vec<String> {
        of.and_then(|at| parts.get(records[at].delivery_key.as_str())).into_iter().flatten().map(|at| id(*at)).collect()
    };
    let round = |request: usize| {
        let response = responses.get(&request).copied();
        Round {
            request: id(request),
            answers: ids(Some(request)),
            response: response.map(id),
            outcome: response.and_then(|at| records[at].outcome).map(|outcome| outcome.to_string()),
            questions: ids(response),
        }
    };
    let own = |at: &&usize| is_request(&records[**at]) && records[**at].connection_id == *connection;
    call.iter().filter(own).map(|at| round(*at)).collect()
}

fn is_request(record: &Record) -> bool {
    record.kind == Kind::Call && record.direction == Some(Direction::ClientToServer)
}

fn is_answer(record: &Record) -> bool {
    record.direction == Some(Direction::ServerToClient)
}

fn states(record: &Record) -> impl Iterator<Item = &str> {
    record.keys.iter().map(String::as_str).filter(|key| key.starts_with("request-state:"))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use threadline_schemas::decode::mcp::{Frame, McpDecoder};
    use threadline_schemas::decode::{Context, Line};
    use threadline_schemas::{Collector, Record, stamp};

    use super::*;
    use crate::links::Contest;
    use crate::session::{Options, reconstruct, sort};

    /// `> message` and `< message` lines as our tap records them.
    fn records(frames: &str) -> Vec<Record> {
        let context = Context { tenant: "t", collector: Collector::Tap, observed_time_unix_us: 1, match_key: None };
        let mut decoder = McpDecoder::new("mcp-stdio", "orders", Some("orders"), "c");
        let mut records = Vec::new();
        for (number, line) in frames.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
            let (sign, message) = line.split_at(2);
            let direction = if sign == "> " { Direction::ClientToServer } else { Direction::ServerToClient };
            let (key, number) = (format!("api:{number}"), number as i64 + 1);
            let time_unix_nano = Some(1_795_170_000_000_000_000 + number);
            let frame = Frame { message: message.as_bytes(), direction, time_unix_nano, sequence: Some(number) };
            let line = Line { bytes: message.as_bytes(), file: None, number, delivery_key: &key };
            records.extend(decoder.frame(&context, line, frame));
        }
        records.iter_mut().for_each(stamp::stamp);
        sort(&mut records);
        records
    }

    /// Every call with its records and rounds; numbers are those of the frames.
    fn check(frames: &str, expected: Expect) {
        let records = records(frames);
        let session = reconstruct("s", &records, &Contest::default(), &Options::default()).session;
        let name = |id: &str| {
            let record = records.iter().find(|record| record.event_id.to_string() == id).unwrap();
            record.delivery_key.trim_start_matches("api:").to_string()
        };
        let names = |ids: &[String]| ids.iter().map(|id| name(id)).collect::<Vec<_>>().join(" ");
        let mut out = String::new();
        for call in session.turns.iter().flat_map(|turn| &turn.calls) {
            let all: Vec<String> =
                call.records.iter().map(|line| format!("{} {}", name(&line.event_id), line.kind)).collect();
            out += &format!(
                "{} {} [{}]\n",
                call.tool.as_deref().unwrap_or("-"),
                call.outcome.as_deref().unwrap_or("-"),
                all.join(", ")
            );
            for round in &call.rounds {
                out += &format!(
                    "  round {} answers [{}] -> {} {} asks [{}]\n",
                    name(&round.request),
                    names(&round.answers),
                    round.response.as_deref().map_or("-".into(), name),
                    round.outcome.as_deref().unwrap_or("-"),
                    names(&round.questions)
                );
            }
        }
        let events: usize = session.turns.iter().map(|turn| turn.events.len()).sum();
        out += &format!(
            "{events} records outside calls, gaps: {}\n",
            session.gaps.iter().map(|gap| gap.kind.as_str()).collect::<Vec<_>>().join(" ")
        );
        expected.assert_eq(&out);
    }

    #[test]
    fn rounds_progress_and_cancellation_stand_under_their_call() {
        check(
            r#"
            > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"delete","arguments":{"id":"7"},"_meta":{"progressToken":"p1"}}}
            < {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p1","progress":1}}
            < {"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"q":{"method":"elicitation/create","params":{"message":"Sure?"}}},"requestState":"s1"}}
            > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"delete","arguments":{"id":"7"},"inputResponses":{"q":{"action":"accept"}},"requestState":"s1"}}
            < {"jsonrpc":"2.0","id":2,"result":{"resultType":"input_required","inputRequests":{"r":{"method":"roots/list"}},"requestState":"s2"}}
            > {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"delete","arguments":{"id":"7"},"inputResponses":{"r":{"roots":[]}},"requestState":"s2"}}
            < {"jsonrpc":"2.0","id":3,"result":{"resultType":"complete","content":[]}}
            > {"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"slow"}}
            > {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":4,"reason":"enough"}}
            "#,
            expect![[r#"
                delete ok [0 call, 1 notification, 2#1 elicitation, 2 result, 3 call, 3#1 approval, 4 result, 4#1 request, 5 call, 5#1 request, 6 result]
                  round 0 answers [] -> 2 input_required asks [2#1]
                  round 3 answers [3#1] -> 4 input_required asks [4#1]
                  round 5 answers [5#1] -> 6 ok asks []
                slow cancelled [7 call, 8 notification]
                0 records outside calls, gaps: 
            "#]],
        );
    }

    #[test]
    fn a_task_is_one_call_to_its_result() {
        check(
            r#"
            > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"report","task":{}}}
            < {"jsonrpc":"2.0","id":1,"result":{"task":{"taskId":"t1","status":"working"}}}
            > {"jsonrpc":"2.0","id":2,"method":"tasks/get","params":{"taskId":"t1"}}
            < {"jsonrpc":"2.0","id":2,"result":{"taskId":"t1","status":"working"}}
            < {"jsonrpc":"2.0","id":9,"method":"elicitation/create","params":{"message":"Sure?","_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t1"}}}}
            > {"jsonrpc":"2.0","id":9,"result":{"action":"decline"}}
            < {"jsonrpc":"2.0","method":"notifications/tasks/status","params":{"taskId":"t1","status":"completed"}}
            > {"jsonrpc":"2.0","id":3,"method":"tasks/result","params":{"taskId":"t1"}}
            < {"jsonrpc":"2.0","id":3,"result":{"content":[],"isError":true,"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t1"}}}}
            > {"jsonrpc":"2.0","id":4,"method":"tasks/get","params":{"taskId":"other"}}
            < {"jsonrpc":"2.0","id":4,"result":{"taskId":"other","status":"working"}}
            "#,
            expect![[r#"
                report error [0 call, 1 result, 2 request, 3 request, 4 elicitation, 5 approval, 6 notification, 7 request, 8 result]
                2 records outside calls, gaps: 
            "#]],
        );
    }
}
