//! Limits at their value and one beyond, as a caller sees them. Beside their code are tested: what waits, tasks, tools,
//! parts (`decode/mcp/tests*`), bodies and exchanges (`decode/http_capture/tests.rs`), blocks (`decode/claude_code/tests.rs`),
//! records, parts and metrics of OTLP bodies and the drop list (`decode/otlp/tests*`, `drop_list/tests.rs`); in `ingest`
//! what bounds arrivals: bodies, ratio and window (`http/tests*`, `decompress.rs`), lines (`tap`, `watch`, `import`).

use std::sync::Arc;

use super::*;
use crate::columns::Record;
use crate::decode::otlp::{Encoding, Signal, decode_body};
use crate::decode::profile::{Profile, ProfileDecoder};
use crate::decode::tests::context;
use crate::decode::{Line, LineDecoder};
use crate::json::{JsonError, parse, parse_within};
use crate::record::Kind;
use crate::{Key, KeyKind};

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

fn list(values: usize) -> String {
    format!("[{}]", vec!["1"; values].join(","))
}

#[test]
fn json_has_a_depth_and_a_number_of_values() {
    let within = |limits: crate::json::Limits| {
        // The outermost array is at depth 0, and is a value itself.
        let at_the_limit = [nested(limits.depth_max + 1), list(limits.nodes_max - 1)];
        assert!(at_the_limit.iter().all(|text| parse_within(text.as_bytes(), limits).is_ok()));
        let deep = parse_within(nested(limits.depth_max + 2).as_bytes(), limits);
        assert_eq!(deep.unwrap_err(), JsonError::TooDeep(limits.depth_max));
        let wide = parse_within(list(limits.nodes_max).as_bytes(), limits);
        assert_eq!(wide.unwrap_err(), JsonError::TooMany(limits.nodes_max));
    };
    [json::DOCUMENT, json::OTLP_BODY, json::MODEL_ANSWER].into_iter().for_each(within);
    // The first is what everything is read with that names no limits.
    assert!(parse(nested(json::DOCUMENT.depth_max + 2).as_bytes()).is_err());
}

/// Kinds of the records of one log record, whose members are given.
fn log(members: &str) -> Kind {
    let body = format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{{members}}}]}}]}}]}}"#);
    decode_body(&context(), body.as_bytes(), Signal::Logs, Encoding::Json, None).unwrap().records[0].kind
}

fn span(members: &str) -> Kind {
    let body = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{{members}}}]}}]}}]}}"#);
    decode_body(&context(), body.as_bytes(), Signal::Traces, Encoding::Json, None).unwrap().records[0].kind
}

#[test]
fn a_log_record_or_span_has_so_many_attributes_events_links_and_levels() {
    let attributes = |count| format!(r#""attributes":[{}]"#, vec![r#"{"key":"a"}"#; count].join(","));
    assert_eq!(log(&attributes(otlp::ATTRIBUTES_MAX)), Kind::Log);
    assert_eq!(log(&attributes(otlp::ATTRIBUTES_MAX + 1)), Kind::Rejected);
    for member in ["events", "links"] {
        let many = |count| format!(r#""{member}":[{}]"#, vec!["{}"; count].join(","));
        assert_ne!(span(&many(otlp::EVENTS_MAX)), Kind::Rejected, "{member}");
        assert_eq!(span(&many(otlp::EVENTS_MAX + 1)), Kind::Rejected, "{member}");
    }
    let body = |depth| {
        let (open, close) = (r#"{"arrayValue":{"values":["#.repeat(depth), "]}}".repeat(depth));
        format!(r#""body":{open}{{"stringValue":"x"}}{close}"#)
    };
    assert_eq!(log(&body(otlp::VALUE_DEPTH_MAX)), Kind::Log);
    assert_eq!(log(&body(otlp::VALUE_DEPTH_MAX + 1)), Kind::Rejected);
}

#[test]
fn a_body_has_so_many_records_and_shared_bytes() {
    let decode = |body: String| decode_body(&context(), body.as_bytes(), Signal::Logs, Encoding::Json, None);
    // Resources and scopes count too: one of each here.
    let many = |count: usize| {
        format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{}]}}]}}]}}"#, vec!["{}"; count].join(","))
    };
    assert_eq!(decode(many(otlp::RECORDS_PER_BODY_MAX - 2)).unwrap().items, otlp::RECORDS_PER_BODY_MAX - 2);
    assert!(decode(many(otlp::RECORDS_PER_BODY_MAX - 1)).is_err());
    let shared = |records: usize| {
        let value = "x".repeat(1 << 20);
        let resource = format!(r#"{{"attributes":[{{"key":"a","value":{{"stringValue":"{value}"}}}}]}}"#);
        format!(
            r#"{{"resourceLogs":[{{"resource":{resource},"scopeLogs":[{{"logRecords":[{}]}}]}}]}}"#,
            vec!["{}"; records].join(",")
        )
    };
    // A MiB and a little more each.
    assert!(decode(shared((otlp::SHARED_BYTES_MAX >> 20) - 1)).is_ok());
    assert!(decode(shared(otlp::SHARED_BYTES_MAX >> 20)).is_err());
}

#[test]
fn a_long_key_becomes_a_digest() {
    let key = |length: usize| Key::new(KeyKind::Conversation, &"x".repeat(length)).value;
    assert_eq!(key(keys::VALUE_BYTES_MAX), "x".repeat(keys::VALUE_BYTES_MAX));
    assert!(key(keys::VALUE_BYTES_MAX + 1).len() < keys::VALUE_BYTES_MAX);
    assert_ne!(key(keys::VALUE_BYTES_MAX + 1), key(keys::VALUE_BYTES_MAX + 2));
}

const PROFILE: &str = r#"name = "x"
version = 1
title = "t"
shape = "s"
seen_live = false
source_kind = "gateway"
format = "json"
"#;
const RULE: &str = "[[rule]]\nname = \"a\"\nkind = \"log\"\n";

fn loads(text: &str) -> bool {
    Profile::parse(text).is_ok()
}

#[test]
fn a_profile_has_so_many_bytes_rules_steps_and_variables() {
    let sized = |bytes: usize| {
        let text = format!("{PROFILE}{RULE}#");
        text.clone() + &" ".repeat(bytes - text.len())
    };
    assert!(loads(&sized(profile::PROFILE_BYTES_MAX)) && !loads(&sized(profile::PROFILE_BYTES_MAX + 1)));
    let ruled = |rules: usize| {
        let rules: String = (0..rules).map(|n| RULE.replace("\"a\"", &format!("\"a{n}\""))).collect();
        format!("{PROFILE}{rules}")
    };
    assert!(loads(&ruled(profile::RULES_MAX)) && !loads(&ruled(profile::RULES_MAX + 1)));
    let named =
        |bytes: usize| format!("{PROFILE}{RULE}").replace("name = \"x\"", &format!("name = \"{}\"", "x".repeat(bytes)));
    assert!(loads(&named(profile::NAME_BYTES_MAX)) && !loads(&named(profile::NAME_BYTES_MAX + 1)));
    let deep = |steps: usize| format!("{PROFILE}{RULE}fields.text = {{ path = \"a{}\" }}\n", "[0]".repeat(steps - 1));
    assert!(loads(&deep(profile::STEPS_MAX)) && !loads(&deep(profile::STEPS_MAX + 1)));
    let joined = |bytes: usize| {
        format!("{PROFILE}{RULE}fields.text = {{ path = \"a[*]\", join = \"{}\" }}\n", "-".repeat(bytes))
    };
    assert!(loads(&joined(profile::SEPARATOR_BYTES_MAX)) && !loads(&joined(profile::SEPARATOR_BYTES_MAX + 1)));
    let template = |variables: usize| {
        let variables: Vec<String> = (0..variables).map(|n| format!("$v{n}")).collect();
        let format = format!("format = \"nginx\"\ntemplate = '{}'\n", variables.join(" "));
        PROFILE.replace("format = \"json\"\n", &format) + RULE
    };
    assert!(loads(&template(profile::VARIABLES_MAX)) && !loads(&template(profile::VARIABLES_MAX + 1)));
    let pattern = |repeats: usize| {
        let format = format!("format = \"pattern\"\ntemplate = '(?<a>\\w{{{repeats}}})'\n");
        PROFILE.replace("format = \"json\"\n", &format) + RULE
    };
    assert!(loads(&pattern(10)) && !loads(&pattern(10_000)), "a small expression may be a large automaton");
}

fn read(profile: &str, lines: &[&[u8]]) -> Vec<Record> {
    let mut decoder = ProfileDecoder::new(Arc::new(Profile::parse(profile).unwrap()));
    let mut records = Vec::new();
    for (bytes, number) in lines.iter().zip(1..) {
        let key = format!("k{number}");
        records.extend(decoder.line(&context(), Line { bytes, file: None, number, delivery_key: &key }));
    }
    records.extend(decoder.finish(&context()));
    records
}

#[test]
fn an_entry_has_so_many_items_and_the_rest_is_counted() {
    let profile = format!(
        "{PROFILE}{RULE}each = \"items\"\nfields.text = {{ path = \"@item.t\" }}\nfields.target = {{ path = \"u\" }}\n"
    );
    let line = |items: usize, url: &str| {
        let items = vec![r#"{"t":"x"}"#; items].join(",");
        format!(r#"{{"u":"{url}","items":[{items}]}}"#)
    };
    let kinds = |line: String| {
        let records = read(&profile, &[line.as_bytes()]);
        let gap = records.iter().find(|record| record.kind == Kind::Gap).map(|gap| gap.attributes.clone().unwrap());
        (records.iter().filter(|record| record.kind == Kind::Log).count(), gap)
    };
    assert_eq!(kinds(line(profile::EACH_MAX, "u")), (profile::EACH_MAX, None));
    assert_eq!(kinds(line(profile::EACH_MAX + 1, "u")), (profile::EACH_MAX, Some(r#"{"records":1}"#.into())));
    // What every item repeats is bounded in bytes.
    let long = "u".repeat(1 << 20);
    let (logs, gap) = kinds(line(100, &long));
    assert!(logs < parts::BYTES_MAX >> 20 && gap == Some(format!(r#"{{"records":{}}}"#, 100 - logs)), "{logs} {gap:?}");
}

#[test]
fn a_line_has_so_many_fields_and_an_entry_so_many_lines_and_bytes() {
    let logfmt = PROFILE.replace("\"json\"", "\"logfmt\"") + RULE;
    let fields = |count: usize| (0..count).map(|n| format!("f{n}=1")).collect::<Vec<_>>().join(" ");
    assert_eq!(read(&logfmt, &[fields(profile::FIELDS_MAX).as_bytes()])[0].kind, Kind::Log);
    assert_eq!(read(&logfmt, &[fields(profile::FIELDS_MAX + 1).as_bytes()])[0].kind, Kind::Rejected);
    let text = PROFILE
        .replace("format = \"json\"\n", "format = \"pattern\"\ntemplate = '(?<a>(?s:.*))'\nentry_start = '^>'\n")
        + RULE;
    let entries = |lines: usize, bytes: usize| {
        let line = vec![b'x'; bytes];
        let mut all: Vec<&[u8]> = vec![b">"];
        all.resize(lines, &line);
        read(&text, &all).len()
    };
    assert_eq!(entries(profile::ENTRY_LINES_MAX, 1), 1);
    assert_eq!(entries(profile::ENTRY_LINES_MAX + 1, 1), 2);
    // The first line is a byte; each further one comes with its line break.
    let half = profile::ENTRY_BYTES_MAX / 2;
    assert_eq!(entries(3, half - 2), 1);
    assert_eq!(entries(3, half), 2);
}
