use super::*;
use crate::decode::otlp::{Encoding, OtlpBody, Signal, decode_body_without};
use crate::decode::recorded::{entries, name, sessions};
use crate::decode::tests::context;
use expect_test::expect;

fn decode(spans: &str, list: &str) -> OtlpBody {
    let body = format!(
        r#"{{"resourceSpans":[{{"resource":{{"attributes":[{{"key":"service.name","value":{{"stringValue":"svc"}}}}]}},"scopeSpans":[{{"scope":{{"name":"lib.http"}},"spans":[{spans}]}}]}}]}}"#
    );
    let list = DropList::parse(list).unwrap();
    decode_body_without(&context(), body.as_bytes(), Signal::Traces, Encoding::Json, None, &list).unwrap()
}

fn kept(body: &OtlpBody) -> Vec<&str> {
    body.records.iter().filter(|record| record.kind != Kind::Gap).filter_map(|record| record.name.as_deref()).collect()
}

#[test]
fn stars_match_any_text() {
    for (pattern, text, expected) in [
        ("", "", true),
        ("*", "", true),
        ("*", "x", true),
        ("a*c", "abbc", true),
        ("a*c", "ac", true),
        ("a*c", "acd", false),
        ("*b*", "abc", true),
        ("a**", "a", true),
        ("*aab", "aaab", true),
        ("mcp.*.x", "mcp.y.z", false),
        ("é*", "éa", true),
        ("a", "ab", false),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
    }
    let (pattern, text) = ("*a".repeat(120), "a".repeat(100_000) + "b");
    assert!(!matches(&pattern, &text));
}

#[test]
fn a_rule_fits_when_all_it_names_fits() {
    let spans =
        r#"{"name":"tick"},{"name":"tock"},{"name":"tick","attributes":[{"key":"k","value":{"stringValue":"v1"}}]}"#;
    let check = |rule: &str| {
        let list = format!("[[drop]]\nrule = \"r\"\n{rule}\n");
        kept(&decode(spans, &list)).len()
    };
    assert_eq!(check("names = [\"tick\"]"), 1);
    assert_eq!(check("names = [\"t*\"]\nscopes = [\"lib.*\"]\nsources = [\"svc\"]\nsignal = \"traces\""), 0);
    assert_eq!(check("names = [\"t*\"]\nsignal = \"logs\""), 3);
    assert_eq!(check("names = [\"t*\"]\nscopes = [\"other\"]"), 3);
    assert_eq!(check("attributes = { k = [\"x\", \"v*\"] }"), 2);
    assert_eq!(check("attributes = { k = [\"v1\"], l = [\"*\"] }"), 3);
}

#[test]
fn calls_and_failures_are_kept_whatever_the_rules_say() {
    let spans = r#"{"name":"tools/call x","attributes":[{"key":"mcp.method.name","value":{"stringValue":"tools/call"}}]},
        {"name":"broken","status":{"code":2}},{"name":"plain"},{"traceId":7}"#;
    let body = decode(spans, "[[drop]]\nrule = \"everything\"\nnames = [\"*\"]\n");
    assert_eq!(kept(&body), ["tools/call x", "broken"]);
    assert_eq!(body.items, 4);
    assert_eq!(body.dropped, [Named { source: "svc".into(), name: "everything".into(), count: 2 }]);
}

#[test]
fn what_is_left_out_is_said_by_trace() {
    let trace =
        |digit: &str| format!(r#"{{"name":"tick","traceId":"{}","startTimeUnixNano":"{digit}"}}"#, digit.repeat(32));
    let spans = [trace("1"), trace("2"), trace("1")].join(",");
    let list = "[[drop]]\nrule = \"ticks\"\nnames = [\"tick\"]\n";
    let body = decode(&spans, list);
    let shown = |record: &Record| {
        format!(
            "{} {} {:?} {}",
            record.time_unix_nano,
            record.text.as_deref().unwrap(),
            record.keys,
            record.attributes.as_deref().unwrap()
        )
    };
    expect![[r#"
        [
            "1 2 spans or log records left out by the drop list (ticks) [\"trace:11111111111111111111111111111111\"] {\"records\":2,\"rules\":{\"ticks\":2}}",
            "2 1 spans or log records left out by the drop list (ticks) [\"trace:22222222222222222222222222222222\"] {\"records\":1,\"rules\":{\"ticks\":1}}",
        ]
    "#]]
    .assert_debug_eq(&body.records.iter().map(shown).collect::<Vec<_>>());
    let again = decode(&spans, list);
    assert_eq!(body.records[0].event_id, again.records[0].event_id);
    // Too many traces to tell apart are one.
    let many: Vec<String> = (0..100).map(|at| format!(r#"{{"name":"tick","traceId":"{:032x}"}}"#, at + 1)).collect();
    let body = decode(&many.join(","), list);
    assert_eq!(body.records.len(), DROP_GROUPS_MAX + 1);
    assert_eq!(body.dropped[0].count, 100);
}

#[test]
fn a_list_that_would_surprise_is_refused() {
    let check = |text: &str| DropList::parse(text).unwrap_err().to_string();
    assert_eq!(
        check("[[drop]]\nrule = \"all\"\nsignal = \"logs\"\n"),
        "rule all names nothing: give it sources, scopes, names or attributes"
    );
    assert_eq!(
        check("[[drop]]\nrule = \"a\"\nnames = [\"x\"]\n[[drop]]\nrule = \"a\"\nnames = [\"y\"]\n"),
        "two rules are called a"
    );
    assert_eq!(check("[[drop]]\nrule = \"a\"\nname = \"x\"\n"), "the drop list cannot be read");
    assert!(
        check(&format!("[[drop]]\nrule = \"a\"\nnames = [\"{}\"]\n", "x".repeat(DROP_PATTERN_BYTES_MAX + 1)))
            .contains("more than")
    );
    let rules: String =
        (0..=DROP_RULES_MAX).map(|at| format!("[[drop]]\nrule = \"{at}\"\nnames = [\"x\"]\n")).collect();
    assert!(check(&rules).contains("more than"));
}

#[test]
fn the_shipped_list_takes_half_of_codex_and_nothing_that_matters() {
    let list = DropList::parse(SHIPPED).unwrap();
    assert!(!list.rules.is_empty());
    let mut shown = String::new();
    for source in [
        "codex",
        "claude-code",
        "contextforge",
        "pysdk-orders-otlp",
        "fastmcp-orders-otlp",
        "traceloop-everything-otlp",
    ] {
        let (mut items, mut kept, mut dropped) = (0, 0, 0);
        for session in sessions(source) {
            for path in entries(&session.join("otlp")) {
                let (Some(signal), Some(ending)) = (Signal::of_path(name(&path)), path.extension()) else { continue };
                let encoding = if ending == "pb" { Encoding::Protobuf } else { Encoding::Json };
                let bytes = std::fs::read(&path).unwrap();
                let body = decode_body_without(&context(), &bytes, signal, encoding, None, &list).unwrap();
                let left_out: u64 = body.dropped.iter().map(|named| named.count).sum();
                let gaps = body.records.iter().filter(|record| record.kind == Kind::Gap).count();
                assert_eq!(body.items as u64, (body.records.len() - gaps) as u64 + left_out);
                assert_eq!(gaps > 0, left_out > 0);
                (items, kept, dropped) = (items + body.items, kept + body.records.len() - gaps, dropped + left_out);
            }
        }
        shown += &format!("{source}: {items} items, {kept} kept, {dropped} left out\n");
    }
    expect![[r#"
        codex: 611 items, 310 kept, 301 left out
        claude-code: 267 items, 267 kept, 0 left out
        contextforge: 106 items, 106 kept, 0 left out
        pysdk-orders-otlp: 68 items, 68 kept, 0 left out
        fastmcp-orders-otlp: 64 items, 64 kept, 0 left out
        traceloop-everything-otlp: 16 items, 16 kept, 0 left out
    "#]]
    .assert_eq(&shown);
}
