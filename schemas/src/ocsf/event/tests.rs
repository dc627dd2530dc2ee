//! Every kind in every version is valid and keeps its verdict; broken events are caught.

use super::*;
use crate::Key;
use crate::keys::KeyKind;
use crate::ocsf::validate;
use expect_test::expect;
use proptest::prelude::*;

fn sparse(kind: Kind) -> Record {
    let mut record = Record::new("default", "own:1", kind);
    record.set_time(None, 1_784_900_000_000_000);
    crate::stamp::stamp(&mut record);
    record
}

fn full(kind: Kind) -> Record {
    let some = |text: &str| Some(text.to_string());
    let mut record = Record::new("acme", "own:2", kind);
    record.set_time(Some(1_784_900_000_123_456_789), 1_784_900_001_000_000);
    record.duration_nano = Some(1_500_000_000);
    record.source_kind = SourceKind::Wire;
    record.source_name = "orders".into();
    record.decoder = "mcp-stdio".into();
    record.name = some("tools/call");
    record.server_name = some("orders");
    record.tool_name = some("refund_order");
    record.target = some("orders://7");
    record.user_claimed = some("j.doe");
    record.agent_name = some("claude-code");
    record.client_name = some("claude-code/2");
    record.authority = some("{\"mode\":\"default\"}");
    record.trace_id = some("4bf92f3577b34da6a3ce929d0e0e4736");
    record.span_id = some("00f067aa0ba902b7");
    record.conversation_id = some("conv-551");
    record.turn_id = some("turn-3");
    record.tool_call_id = some("toolu_01");
    record.rpc_id = some("7");
    record.connection_id = some("c1");
    record.definition_digest = Some("ab".repeat(32));
    record.arguments_digest = Some("cd".repeat(16));
    record.text = some("refund order 7 \u{202e}\u{1b}[31m");
    record.arguments = some("{\"order\":7}");
    record.result = some("{\"content\":[]}");
    record.transport_status = some("200");
    record.decision_by = some("policy-9");
    let attributes = r#"{"gen_ai.request.model":"m-1","gen_ai.system":"anthropic","gen_ai.usage.input_tokens":12,
        "server.address":"api.example.com","server.port":443,"url.full":"https://api.example.com/x?token=1","db.system":"postgresql"}"#;
    record.attributes = Some(attributes.into());
    record.add_key(Key::scoped(KeyKind::Rpc, "c1", "7"));
    crate::stamp::stamp(&mut record);
    record
}

fn assert_valid(record: &Record, policy: &Policy) {
    for &version in Version::ALL {
        let event = event(Occurrence::of(record), policy, version);
        let found = validate(&event, version);
        assert!(found.is_empty(), "{} in {version}: {found:?}\n{event:#}", record.kind);
        let text = to_text(&event);
        assert!(text.starts_with("{\"time\":") && serde_json::from_str::<Value>(&text).unwrap() == event);
    }
}

#[test]
fn the_link_leads_to_the_session_whatever_its_id() {
    let policy = Policy { text_bytes_max: 0, base_url: Some("https://audit.example.com/".into()) };
    let mut record = samples::records().remove(4);
    let mut link = |id: &str| {
        record.conversation_id = Some(id.into());
        crate::stamp::stamp(&mut record);
        let event = event(Occurrence::of(&record), &policy, Version::NEWEST);
        let link = event["unmapped"]["threadline.session_url"].as_str().unwrap().to_string();
        (link.strip_prefix("https://audit.example.com/sessions/").unwrap().to_string(), record.session_key.clone())
    };
    assert_eq!(link("a/b?c#d ../%2e").0, "a%2Fb%3Fc%23d%20..%2F%252e");
    // Pages take these blanks off.
    for id in ["\t=1", "x ", "\u{2028}x"] {
        let (shown, stamp) = link(id);
        assert_eq!(shown, stamp, "{id:?}");
    }
}

#[test]
fn every_kind_is_valid_in_every_version() {
    let text = Policy { text_bytes_max: 64, base_url: Some("https://audit.example.com".into()) };
    let decisions = [
        None,
        Some(Decision::Allow),
        Some(Decision::Deny),
        Some(Decision::Ask),
        Some(Decision::Redact),
        Some(Decision::Cancel),
    ];
    let outcomes = [
        None,
        Some(Outcome::Ok),
        Some(Outcome::Error),
        Some(Outcome::Denied),
        Some(Outcome::Cancelled),
        Some(Outcome::InputRequired),
    ];
    let names = [
        "tools/call",
        "GET /orders/{id}",
        "INSERT refunds",
        "initialize",
        "session/close",
        "export",
        "conversation_starts",
        "",
    ];
    for &kind in Kind::ALL {
        for mut record in [sparse(kind), full(kind)] {
            for name in names {
                record.name = Some(name.into());
                assert_valid(&record, &text);
            }
            for (&decision, &outcome) in decisions.iter().zip(&outcomes) {
                (record.decision, record.outcome) = (decision, outcome);
                record.rpc_error_code = (outcome == Some(Outcome::Error)).then_some(-32602);
                assert_valid(&record, &Policy::default());
            }
        }
    }
}

/// What only one row has: the call with a verdict, the file, the mode, the changed definition.
#[test]
fn rows_say_what_their_class_is_there_for() {
    let of = |code: &str, version: Version| {
        let record = samples::records().into_iter().find(|record| mapping::row(record).code == code).unwrap();
        event(Occurrence::of(&record), &Policy::default(), version)
    };
    let shown = |code: &str, version: Version, paths: &[&str]| {
        let event = of(code, version);
        paths.iter().map(|path| event.pointer(path).unwrap_or(&Value::Null).to_string()).collect::<Vec<_>>().join(" ")
    };
    let verdict = ["/class_uid", "/activity_name", "/action", "/disposition", "/policy/name", "/status_code"];
    expect![[r#"6003 "Invoke" "Denied" "Blocked" "policy-9" "policy_denied""#]].assert_eq(&shown(
        "mcp.tools.call",
        Version::V1_8,
        &verdict,
    ));
    let moved = ["/activity_name", "/status_code", "/unmapped/security_control.action", "/unmapped/downgraded_from"];
    for version in [Version::V1_1, Version::V1_3] {
        expect![[r#""Invoke" "policy_denied" "Denied" "1.8.0""#]].assert_eq(&shown("mcp.tools.call", version, &moved));
    }
    expect![[r#"1001 "Read" "status.html" "/srv/public/status.html""#]].assert_eq(&shown(
        "downstream.file",
        Version::V1_8,
        &["/class_uid", "/activity_name", "/file/name", "/file/path"],
    ));
    expect![[r#"6005 "Write" "shop""#]].assert_eq(&shown(
        "downstream.datastore",
        Version::V1_8,
        &["/class_uid", "/activity_name", "/database/name"],
    ));
    expect![[r#"3003 "Assign Privileges" "bypassPermissions""#]].assert_eq(&shown(
        "agent.session.mode",
        Version::V1_8,
        &["/class_uid", "/activity_name", "/privileges/0"],
    ));
    expect![[r#"3002 "Authentication Ticket" "Failure" "invalid_target""#]].assert_eq(&shown(
        "auth",
        Version::V1_8,
        &["/class_uid", "/activity_name", "/status", "/status_code"],
    ));
    expect![[r#"2004 "Fingerprinting" "abababababababababababababababababababababababababababababababab""#]].assert_eq(
        &shown(
            "mcp.tools.definition_changed",
            Version::V1_8,
            &["/class_uid", "/finding_info/analytic/type", "/evidences/0/data/definition_sha256"],
        ),
    );
    // The approver is the actor, and the approval bears the id of the call.
    expect![[r#""Approval Granted" "Approved" "j.doe" "run-1/7""#]].assert_eq(&shown(
        "agent.approval.granted",
        Version::V1_8,
        &["/activity_name", "/disposition", "/actor/user/name", "/api/request/uid"],
    ));
    // 1.1.0 has no `app_name`.
    expect![[r#"null "claude-code" "claude-code""#]].assert_eq(&shown(
        "agent.prompt",
        Version::V1_1,
        &["/actor/app_name", "/actor/invoked_by", "/unmapped/actor.app_name"],
    ));
}

/// What 1.8.0 takes for a host name is none in 1.1.0.
#[test]
fn a_host_name_is_one_in_every_version() {
    let mut record = full(Kind::Downstream);
    record.name = Some("GET /orders".into());
    record.attributes = Some(r#"{"server.address":"price_api.corp.example","server.port":443}"#.into());
    for &version in Version::ALL {
        let event = event(Occurrence::of(&record), &Policy::default(), version);
        assert_eq!(validate(&event, version), [], "{version}");
        assert_eq!(event["dst_endpoint"]["svc_name"], "price_api.corp.example", "{version}");
        let mut named = event.clone();
        named["dst_endpoint"]["hostname"] = "price_api.corp.example".into();
        assert_eq!(validate(&named, version).is_empty(), version >= Version::V1_5, "{version}");
    }
}

/// Who, in which session, on which chain, what verdict: in every version, without a join.
#[test]
fn every_event_of_every_version_answers_alone() {
    for record in samples::records() {
        for &version in Version::ALL {
            let event = event(Occurrence::of(&record), &Policy::default(), version);
            let code = mapping::row(&record).code;
            for path in ["/metadata/uid", "/metadata/correlation_uid", "/metadata/event_code"] {
                assert!(event.pointer(path).is_some_and(Value::is_string), "{code} in {version}: no {path}");
            }
            let either = |paths: &[&str]| paths.iter().any(|path| event.pointer(path).is_some_and(Value::is_string));
            let session = ["/actor/session/uid", "/session/uid", "/unmapped/actor.session.uid"];
            assert!(either(&session), "{code} in {version}: no session");
            let who = ["/actor/user/name", "/user/name", "/unmapped/actor.user.name"];
            assert!(either(&who), "{code} in {version}: nobody");
            let tool = ["/resources/0/uid", "/unmapped/resources[0].uid", "/unmapped/mcp.tool"];
            assert!(record.tool_name.is_none() || either(&tool), "{code} in {version}: no tool");
            let verdict = event["status_code"].is_string() && event["status_id"].is_i64();
            assert!(record.decision.is_none() || verdict, "{code} in {version}: no verdict");
        }
    }
}

/// A row's own class is used where the record says enough; the fallbacks are for what it does not say.
#[test]
fn every_row_is_used_as_it_stands() {
    for &kind in Kind::ALL {
        let record = full(kind);
        let event = event(Occurrence::of(&record), &Policy::default(), Version::NEWEST);
        let row = mapping::row(&record);
        assert_eq!(event["class_uid"], row.class_uid, "{kind}");
        assert_eq!(event["metadata"]["event_code"], row.code, "{kind}");
        let moved =
            event["unmapped"].as_object().unwrap().keys().filter(|key| key.contains('[') || key.starts_with("api."));
        assert_eq!(moved.count(), 0, "{kind} {event:#}");
    }
}

#[test]
fn a_verdict_survives_every_version() {
    let mut record = full(Kind::Decision);
    record.decision = Some(Decision::Deny);
    for &version in Version::ALL {
        let event = event(Occurrence::of(&record), &Policy::default(), version);
        assert_eq!(
            (event["status_id"].as_i64(), event["status_code"].as_str()),
            (Some(2), Some("policy_denied")),
            "{version}"
        );
        let said = [&event["disposition_id"], &event["unmapped"]["security_control.disposition_id"]];
        assert_eq!(said.iter().filter_map(|id| id.as_i64()).collect::<Vec<_>>(), [2], "{version}");
    }
}

#[test]
fn a_call_answers_who_where_which_tool_and_what_verdict() {
    let mut record = full(Kind::Result);
    (record.outcome, record.tool_is_error) = (Some(Outcome::Error), Some(true));
    let shown = |version| {
        let event = event(Occurrence::of(&record), &Policy::default(), version);
        let parts = [
            "/class_uid",
            "/activity_name",
            "/actor/user/name",
            "/actor/session/uid",
            "/metadata/correlation_uid",
            "/resources/0/name",
            "/resources/0/uid",
            "/status_code",
            "/api/request/uid",
            "/api/response/message",
            "/unmapped/downgraded_from",
        ];
        parts.iter().map(|part| format!("{part} {}\n", event.pointer(part).unwrap_or(&Value::Null))).collect::<String>()
    };
    expect![[r#"
        /class_uid 6003
        /activity_name "Invoke"
        /actor/user/name "j.doe"
        /actor/session/uid "conv-551"
        /metadata/correlation_uid "4bf92f3577b34da6a3ce929d0e0e4736"
        /resources/0/name "refund_order"
        /resources/0/uid "orders/refund_order"
        /status_code "isError"
        /api/request/uid "toolu_01"
        /api/response/message "isError"
        /unmapped/downgraded_from null
    "#]]
    .assert_eq(&shown(Version::V1_8));
    expect![[r#"
        /class_uid 6003
        /activity_name "Invoke"
        /actor/user/name "j.doe"
        /actor/session/uid "conv-551"
        /metadata/correlation_uid "4bf92f3577b34da6a3ce929d0e0e4736"
        /resources/0/name "refund_order"
        /resources/0/uid "orders/refund_order"
        /status_code "isError"
        /api/request/uid "toolu_01"
        /api/response/message "isError"
        /unmapped/downgraded_from "1.8.0"
    "#]]
    .assert_eq(&shown(Version::V1_1));
}

#[test]
fn content_is_withheld_unless_the_policy_gives_it_and_then_cut_and_shown() {
    let record = full(Kind::Prompt);
    let data =
        |policy: &Policy| event(Occurrence::of(&record), policy, Version::V1_8)["api"]["request"]["data"].clone();
    expect![[r#"{"digest":"b5870a4308a3a04f9963a819828b7783d67cbb663ef36e75e84b05fe955bd0d3","length":23}"#]]
        .assert_eq(&data(&Policy::default()).to_string());
    let given = Policy { text_bytes_max: 18, ..Policy::default() };
    expect![[r#""refund order 7 ⟨U+202E⟩…""#]].assert_eq(&data(&given)["text"].to_string());
    assert_eq!(event(Occurrence::of(&record), &given, Version::V1_8)["metadata"]["is_truncated"], true);
}

/// Breaks a valid event in ways that a consumer would refuse.
#[test]
fn broken_events_are_caught() {
    let record = full(Kind::Result);
    let valid = event(Occurrence::of(&record), &Policy::default(), Version::V1_8);
    type Breakage = fn(&mut Value);
    let breakages: &[(&str, Breakage)] = &[
        ("no class", |event| drop(event.as_object_mut().unwrap().remove("class_uid"))),
        ("unknown class", |event| event["class_uid"] = 6999.into()),
        ("no actor", |event| drop(event.as_object_mut().unwrap().remove("actor"))),
        ("empty actor", |event| event["actor"] = json!({})),
        ("unknown attribute", |event| event["tool"] = "x".into()),
        ("unknown deep attribute", |event| event["resources"][0]["tool"] = "x".into()),
        ("null", |event| event["status_code"] = Value::Null),
        ("number for text", |event| event["status_code"] = 7.into()),
        ("text for number", |event| event["severity_id"] = "1".into()),
        ("object for list", |event| event["resources"] = json!({"name": "x"})),
        ("enum", |event| event["severity_id"] = 42.into()),
        ("label of another id", |event| event["severity"] = "Fatal".into()),
        ("label without id", |event| event["action"] = "Denied".into()),
        ("other without a word", |event| drop(event.as_object_mut().unwrap().remove("activity_name"))),
        ("other hidden", |event| event["activity_name"] = "Other".into()),
        ("type_uid", |event| event["type_uid"] = 600301.into()),
        ("category", |event| event["category_uid"] = 3.into()),
        ("class name", |event| event["class_name"] = "HTTP Activity".into()),
        ("seconds", |event| event["time"] = 1_784_900_000.into()),
        ("duration", |event| event["duration"] = 1.into()),
        ("end before start", |event| event["start_time"] = 1_900_000_000_000_i64.into()),
        ("undeclared profile", |event| event["metadata"]["profiles"] = json!(["trace"])),
        ("unknown profile", |event| event["metadata"]["profiles"] = json!(["ai_operation", "trace", "magic"])),
        ("profile twice", |event| event["metadata"]["profiles"] = json!(["ai_operation", "trace", "trace"])),
        ("foreign profile", |event| event["metadata"]["profiles"] = json!(["ai_operation", "trace", "incident"])),
        ("version", |event| event["metadata"]["version"] = "1.1.0".into()),
        ("no product", |event| drop(event["metadata"].as_object_mut().unwrap().remove("product"))),
        ("empty required text", |event| event["api"]["operation"] = "".into()),
        ("constraint", |event| event["resources"] = json!([{"type": "mcp.tool"}])),
        ("port", |event| event["dst_endpoint"]["port"] = 70000.into()),
        ("host name", |event| event["dst_endpoint"]["hostname"] = "a b".into()),
        ("ip", |event| event["dst_endpoint"]["ip"] = "1.2.3".into()),
        ("observable elsewhere", |event| event["observables"][0]["value"] = "someone else".into()),
        ("not an object", |event| *event = json!([])),
    ];
    assert_eq!(validate(&valid, Version::V1_8), []);
    for (what, breakage) in breakages {
        let mut event = valid.clone();
        breakage(&mut event);
        assert!(!validate(&event, Version::V1_8).is_empty(), "{what} was not caught");
    }
}

proptest! {
    #[test]
    fn hostile_text_stays_valid_and_visible(
        kind in proptest::sample::select(Kind::ALL),
        texts in proptest::collection::vec(any::<String>(), 8),
        numbers in any::<(i64, i64, i64)>(),
        attributes in proptest::option::of(any::<String>()),
    ) {
        let mut record = full(kind);
        let mut texts = texts.into_iter();
        for field in [&mut record.name, &mut record.tool_name, &mut record.server_name, &mut record.user_claimed,
            &mut record.target, &mut record.text, &mut record.error_type, &mut record.conversation_id] {
            *field = texts.next();
        }
        record.set_time(Some(numbers.0), numbers.1);
        record.duration_nano = Some(numbers.2);
        record.attributes = attributes;
        assert_valid(&record, &Policy { text_bytes_max: 100, base_url: Some("https://x.example".into()) });
        let text = to_text(&event(Occurrence::of(&record), &Policy::default(), Version::V1_8));
        assert!(text.chars().all(|c| !c.is_control()));
    }
}
