//! One record for each row of the table, as a source would have told it: what the sample events of the content pack
//! (`schemas/siem/samples`) are made of, and what a receiver is tried with.

use crate::Key;
use crate::keys::KeyKind;
use crate::record::{Decision, Kind, Outcome, Record, SourceKind};

fn text(text: &str) -> Option<String> {
    Some(text.to_string())
}

/// A record within one session of one agent, which called one server.
fn record(kind: Kind, number: u32, source_kind: SourceKind, name: &str) -> Record {
    let source = if source_kind == SourceKind::Host { "claude-code" } else { "orders" };
    let mut record = Record::new("acme", &format!("file:session.jsonl:{number:04}"), kind);
    let time = 1_784_900_000_000_000_000 + i64::from(number) * 1_250_000_000;
    record.set_time(Some(time), time / 1000 + 400);
    record.source_kind = source_kind;
    record.source_name = source.into();
    record.decoder = if source_kind == SourceKind::Host { "claude-code" } else { "mcp-stdio" }.into();
    record.name = text(name);
    record.user_claimed = text("j.doe");
    record.agent_name = text("claude-code");
    record.conversation_id = text("309daf42-f826-415e-8b8f-6414e473e49e");
    record.turn_id = text("turn-3");
    record.log_position = Some(format!("0/{number}"));
    record
}

fn called(kind: Kind, number: u32, source_kind: SourceKind, name: &str) -> Record {
    let mut record = record(kind, number, source_kind, name);
    record.server_name = text("orders");
    record.tool_name = text("refund_order");
    record.tool_call_id = text("toolu_01");
    record.arguments_digest = Some("cd".repeat(16));
    record
}

fn framed(kind: Kind, number: u32, name: &str) -> Record {
    let mut record = called(kind, number, SourceKind::Wire, name);
    record.tool_name = None;
    record.tool_call_id = None;
    record.connection_id = text("run-1");
    record.rpc_id = text("7");
    record.add_key(Key::scoped(KeyKind::Rpc, "run-1", "7"));
    record
}

/// A record for each row, in the order of the table.
pub fn records() -> Vec<Record> {
    use SourceKind::{Downstream, Gateway, Host, Server, Threadline, Wire};
    let ended = |mut record: Record, outcome: Outcome| {
        record.outcome = Some(outcome);
        record.duration_nano = Some(1_100_000_000);
        record
    };
    let decided = |mut record: Record, decision: Decision, by: &str| {
        record.decision = Some(decision);
        record.decision_by = text(by);
        record
    };
    let with = |mut record: Record, set: &dyn Fn(&mut Record)| {
        set(&mut record);
        record
    };
    let mut records = vec![
        with(record(Kind::Session, 1, Host, "permission-mode"), &|r| {
            r.attributes = text(r#"{"permissionMode":"bypassPermissions"}"#)
        }),
        with(record(Kind::Session, 2, Host, "session/end"), &|r| r.error_type = text("logout")),
        record(Kind::Session, 3, Host, "session/start"),
        record(Kind::Session, 4, Host, "summary"),
        with(record(Kind::Prompt, 5, Host, "user"), &|r| r.text = text("refund order 7")),
        with(record(Kind::Completion, 6, Host, "assistant/text"), &|r| r.text = text("Order 7 is refunded.")),
        with(record(Kind::ModelRequest, 7, Host, "chat"), &|r| {
            r.trace_id = text("4bf92f3577b34da6a3ce929d0e0e4736");
            r.span_id = text("00f067aa0ba902b7");
            r.duration_nano = Some(2_000_000_000);
            r.attributes = text(
                r#"{"gen_ai.request.model":"claude-sonnet-4-5","gen_ai.provider.name":"anthropic","gen_ai.usage.input_tokens":1200,"gen_ai.usage.output_tokens":80}"#,
            );
        }),
        with(called(Kind::Selection, 8, Host, "assistant/tool_use"), &|r| r.arguments = text(r#"{"order":7}"#)),
        decided(ended(called(Kind::Call, 9, Gateway, "tools/call"), Outcome::Denied), Decision::Deny, "policy-9"),
        with(ended(called(Kind::Call, 10, Server, "tools/call refund_order"), Outcome::Ok), &|r| {
            r.trace_id = text("4bf92f3577b34da6a3ce929d0e0e4736");
            r.span_id = text("00f067aa0ba902b8");
            r.parent_span_id = text("00f067aa0ba902b7");
            r.arguments = text(r#"{"order":7}"#);
        }),
        with(called(Kind::Call, 11, Wire, "tools/call"), &|r| r.arguments = text(r#"{"order":7}"#)),
        decided(ended(called(Kind::Result, 12, Gateway, "tools/call"), Outcome::Ok), Decision::Allow, "policy-9"),
        with(ended(called(Kind::Result, 13, Wire, "tools/call"), Outcome::Error), &|r| {
            r.tool_is_error = Some(true);
            r.result = text(r#"{"content":[{"type":"text","text":"no such order"}],"isError":true}"#);
            r.result_digest = Some("ef".repeat(16));
        }),
        decided(called(Kind::Decision, 14, Host, "tool_decision"), Decision::Deny, "config"),
        decided(called(Kind::Decision, 15, Host, "tool_decision"), Decision::Ask, "config"),
        decided(called(Kind::Decision, 16, Host, "tool_decision"), Decision::Allow, "user_permanent"),
        decided(ended(framed(Kind::Approval, 17, "elicitation/create"), Outcome::Ok), Decision::Allow, "user"),
        decided(framed(Kind::Approval, 18, "elicitation/create"), Decision::Ask, "config"),
        decided(ended(framed(Kind::Approval, 19, "elicitation/create"), Outcome::Denied), Decision::Deny, "user"),
        ended(framed(Kind::ToolList, 20, "tools/list"), Outcome::Ok),
        with(framed(Kind::ToolDefinition, 21, "tools/list"), &|r| {
            r.tool_name = text("refund_order");
            r.definition_digest = Some("ab".repeat(32));
        }),
        with(ended(framed(Kind::Resource, 22, "resources/read"), Outcome::Ok), &|r| r.target = text("orders://7")),
        with(ended(framed(Kind::PromptTemplate, 23, "prompts/get"), Outcome::Ok), &|r| r.target = text("apology")),
        ended(framed(Kind::Sampling, 24, "sampling/createMessage"), Outcome::Ok),
        framed(Kind::Elicitation, 25, "elicitation/create"),
        ended(framed(Kind::Request, 26, "tasks/get"), Outcome::Ok),
        framed(Kind::Notification, 27, "notifications/progress"),
        framed(Kind::Connection, 28, "closed"),
        with(ended(framed(Kind::Connection, 29, "initialize"), Outcome::Ok), &|r| {
            r.attributes = text(r#"{"mcp.protocol.version":"2025-11-25"}"#);
        }),
        framed(Kind::Connection, 30, "mcp_server_connection"),
        with(called(Kind::Downstream, 31, Downstream, "file.read"), &|r| r.target = text("/srv/public/status.html")),
        with(ended(called(Kind::Downstream, 32, Downstream, "POST /refunds"), Outcome::Ok), &|r| {
            r.transport_status = text("201");
            r.attributes = text(
                r#"{"url.full":"https://api.example.com/refunds?token=x","server.address":"api.example.com","server.port":443}"#,
            );
        }),
        with(ended(called(Kind::Downstream, 33, Downstream, "INSERT refunds"), Outcome::Ok), &|r| {
            r.target = text("INSERT INTO refunds VALUES ($1)");
            r.attributes = text(r#"{"db.system.name":"postgresql","db.namespace":"shop"}"#);
        }),
        with(framed(Kind::Process, 34, "exited"), &|r| r.transport_status = text("exit 1")),
        with(framed(Kind::Process, 35, "started"), &|r| r.attributes = text(r#"{"pid":4711}"#)),
        with(ended(framed(Kind::Auth, 36, "POST /token"), Outcome::Denied), &|r| {
            r.credential_fingerprint = text("b1946ac92492d2347c6235b4d2611184");
            r.error_type = text("invalid_target");
        }),
        with(record(Kind::Span, 37, Server, "validate order"), &|r| {
            r.trace_id = text("4bf92f3577b34da6a3ce929d0e0e4736");
            r.span_id = text("00f067aa0ba902b9");
            r.duration_nano = Some(3_000_000);
        }),
        with(record(Kind::Log, 38, Server, "log"), &|r| r.text = text("order 7 refunded")),
        with(framed(Kind::Finding, 39, "tools/definition_changed"), &|r| {
            r.delivery_key = "file:session.jsonl:0021#5".into();
            r.tool_name = text("refund_order");
            r.definition_digest = Some("ab".repeat(32));
            r.attributes = Some(format!(r#"{{"threadline.definition_before":"{}"}}"#, "cd".repeat(32)));
        }),
        with(record(Kind::Finding, 40, Threadline, "unapproved mutation"), &|r| r.tool_name = text("refund_order")),
        with(record(Kind::Access, 41, Threadline, "export"), &|r| {
            r.user_claimed = text("c.auditor");
            r.attributes = Some(format!(
                r#"{{"export":{{"question":{{"what":"session"}},"format":"bundle","records":307,"reason":"case 7","sha256":"{}"}}}}"#,
                "ab".repeat(32)
            ));
        }),
        with(record(Kind::Access, 42, Threadline, "retention"), &|r| r.user_claimed = text("c.auditor")),
        with(record(Kind::Access, 43, Threadline, "read session"), &|r| {
            r.user_claimed = text("c.auditor");
            r.target = text("309daf42-f826-415e-8b8f-6414e473e49e");
            r.attributes = text(r#"{"read":{"what":"session","count":3,"address":"192.0.2.7"}}"#);
        }),
        with(record(Kind::Access, 44, Threadline, "read search"), &|r| {
            r.user_claimed = text("c.auditor");
            r.target = Some(format!("sha256:{}", "ab".repeat(32)));
            r.attributes = text(r#"{"read":{"what":"search","count":1,"address":"192.0.2.7"}}"#);
        }),
        with(framed(Kind::Gap, 45, "gap"), &|r| r.text = text("3 lines (812 bytes) passed and were not recorded")),
        with(record(Kind::Rejected, 46, Host, "line"), &|r| {
            r.origin_file = text("session.jsonl");
            r.origin_line = Some(45);
            r.error_type = text("not JSON");
        }),
    ];
    records.iter_mut().for_each(crate::stamp::stamp);
    records
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ocsf::Version;
    use crate::ocsf::event::{Occurrence, Policy, SessionFacts, event, to_text};
    use crate::ocsf::mapping::{self, ROWS};
    use expect_test::expect_file;

    /// The samples of the content pack, one event per row of the table, in the newest and the oldest version.
    #[test]
    fn the_content_pack_shows_an_event_of_every_row() {
        let records = records();
        assert_eq!(records.len(), ROWS.len());
        let policy = Policy { text_bytes_max: 0, base_url: Some("https://threadline.example".into()) };
        for (version, file) in [
            (Version::V1_8, expect_file!["../../../siem/samples/1.8.0.ndjson"]),
            (Version::V1_1, expect_file!["../../../siem/samples/1.1.0.ndjson"]),
        ] {
            let mut lines = String::new();
            for (record, row) in records.iter().zip(ROWS) {
                let found = mapping::row(record);
                let is_own = (found.kind, found.code, found.profiles) == (row.kind, row.code, row.profiles);
                assert!(is_own, "{} is of {}, not of {}", record.kind, found.code, row.code);
                // The call without a verdict is the one to count.
                let completes_call = row.kind == Kind::Result && record.decision.is_none();
                let session = SessionFacts { completes_call, ..SessionFacts::default() };
                let occurrence = Occurrence { session: Some(&session), ..Occurrence::of(record) };
                let event = event(occurrence, &policy, version);
                assert_eq!(crate::ocsf::validate(&event, version), [], "{} in {version}", row.code);
                if version == Version::NEWEST {
                    assert_eq!(event["class_uid"], row.class_uid, "{}: what the class needs is not there", row.code);
                }
                lines.push_str(&(to_text(&event) + "\n"));
            }
            file.assert_eq(&lines);
        }
    }
}
