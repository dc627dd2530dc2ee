use super::*;
use crate::decode::tests::context;
use expect_test::expect;
use proptest::prelude::*;

#[test]
fn every_shipped_profile_is_valid_and_named_after_its_file() {
    let files = Catalogue::shipped_files();
    assert!(!files.is_empty());
    for (file, text) in &files {
        let profile = Profile::parse(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(*file, format!("{}.toml", profile.name()));
        assert!(!crate::decode::recognise::Format::is_built_in(profile.name()));
        assert!(profile.title().len() > 20 && profile.shape().len() > 20, "{file}: say what it reads and where from");
    }
    assert_eq!(files.len(), Catalogue::shipped().profiles().len());
}

fn read(decoder: &mut ProfileDecoder, lines: &[&[u8]]) -> Vec<Record> {
    let mut records = Vec::new();
    for (bytes, number) in lines.iter().zip(1..) {
        let key = format!("file:x:{number}");
        records.extend(decoder.line(&context(), Line { bytes, file: Some("x"), number, delivery_key: &key }));
    }
    records.extend(decoder.finish(&context()));
    records
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_are_never_lost(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        text in "[\\[\\]{}\",:=a-z0-9 \n\t<>%/.-]{0,300}",
    ) {
        for profile in Catalogue::shipped().profiles() {
            for bytes in [&bytes[..], text.as_bytes()] {
                let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
                let records = read(&mut ProfileDecoder::new(profile.clone()), &lines);
                let mut covered: usize = 0;
                for record in records.iter().filter(|record| record.raw.is_some()) {
                    covered += memchr::memchr_iter(b'\n', record.raw.as_deref().unwrap()).count() + 1;
                }
                prop_assert_eq!(covered, lines.len(), "{}", profile.name());
            }
        }
    }
}

const MINIMAL: &str = r#"name = "x"
version = 1
title = "t"
shape = "s"
seen_live = false
source_kind = "gateway"
format = "json"

[fields]
time = { path = "ts", format = "rfc3339" }

[[rule]]
name = "a"
kind = "log"
"#;

#[test]
fn mistakes_are_found_on_loading_with_their_place() {
    assert!(Profile::parse(MINIMAL).is_ok());
    let check = |from: &str, to: &str| {
        assert!(MINIMAL.contains(from), "{from}");
        Profile::parse(&MINIMAL.replace(from, to)).map_or_else(|error| error.to_string(), |_| "fits".into())
    };
    let mistakes = [
        ("name = \"x\"", "name = \"X y\""),
        ("version = 1", "version = 1\ncolour = \"red\""),
        ("version = 1", "version = \"one\""),
        ("gateway", "gatway"),
        ("\"json\"", "\"xml\""),
        ("\"json\"", "\"csv\""),
        ("\"json\"", "\"nginx\""),
        ("\"json\"", "\"pattern\"\ntemplate = '(unclosed'"),
        ("\"json\"", "\"pattern\"\ntemplate = 'no groups'"),
        ("path = \"ts\",", "path = \"ts\", paht = \"t\","),
        ("format = \"rfc3339\"", "format = \"iso\""),
        ("format = \"rfc3339\"", "format = \"rfc3339\", zone = \"Mars\""),
        (", format = \"rfc3339\"", ""),
        ("time =", "tiem ="),
        ("\"log\"", "\"lgo\""),
        ("\"log\"", "\"mcp-request\""),
        ("\"log\"", "\"log\"\nwhen = { a = { matches = '[' } }"),
        ("\"log\"", "\"log\"\nwhen = { a = {} }"),
        ("\"log\"", "\"log\"\nwhen = { \"a[x]\" = 1 }"),
        ("\"log\"", "\"log\"\nwhen = { a.b = 1 }"),
        ("\"log\"", "\"log\"\nrequired = [\"tool_name\"]"),
        ("\"log\"", "\"log\"\nfields.tool_name = { path = \"t\", split = [\"tool\"] }"),
        ("\"log\"", "\"log\"\nfields.duration = { path = \"t\", unit = \"min\" }"),
        ("\"log\"", "\"log\"\nfields.text = { path = \"t\", const = \"c\" }"),
        ("\"log\"", "\"log\"\nkey = [{ kind = \"trace\", scope = \"s\", value = \"t\" }]"),
        ("\"log\"", "\"log\"\nkey = [{ kind = \"rpc\", value = \"t\" }]"),
        ("\"log\"", "\"log\"\nexpand = [{ from = \"@item.a\", as = \"json\" }]"),
        ("[[rule]]", "[[rules]]"),
    ];
    let text: String = mistakes.iter().map(|(from, to)| check(from, to) + "\n").collect();
    expect![[r#"
        line 1, column 8: a name has 1 to 64 lower-case letters, digits and dashes, and is not auto
        line 3, column 1: unknown field `colour`, expected one of `name`, `version`, `title`, `shape`, `seen_live`, `source_kind`, `format`, `template`, `variables`, `columns`, `entry_start`, `equals_in_values`, `absent`, `recognise`, `expand`, `fields`, `attributes`, `key`, `required`, `rule`
        line 2, column 11: invalid type: string "one", expected u32
        line 6, column 15: unknown word gatway, expected one of: host, wire, gateway, server, downstream, threadline, unknown
        line 7, column 10: a format is json, logfmt, csv, pattern, nginx, apache, envoy or postgres
        line 7, column 10: format csv needs columns
        line 7, column 10: format nginx needs a template
        line 8, column 12: not a usable regular expression: unclosed group
        line 8, column 12: a pattern needs named groups such as (?<tool>\S+)
        line 10, column 23: unknown field `paht`, expected one of `path`, `paths`, `const`, `template`, `match`, `map`, `default`, `unit`, `format`, `zone`, `stamped`, `precision`, `split`, `sha256`, `url_decode`, `lower`, `join`
        line 10, column 32: a time form is rfc3339, epoch_s, epoch_ms, epoch_us, epoch_ns, clf, postgres, syslog or a strftime form with %
        line 10, column 50: a zone is UTC, an offset such as +02:00 or a name of the tz database
        line 10, column 1: time needs a format
        line 10, column 1: there is no field tiem; fields are time, duration, source_name, source_kind, source_sequence, name, kind, direction, server_name, tool_name, target, transport_status, rpc_error_code, tool_is_error, error_type, decision, decision_by, user_claimed, agent_name, client_name, authority, trace_id, span_id, parent_span_id, traceparent, conversation_id, turn_id, tool_call_id, rpc_id, connection_id, text, arguments, result, outcome, request_state, emitter, arguments_sha256, arguments_bytes, arguments_head, result_sha256, result_bytes
        line 14, column 8: unknown word lgo, expected one of: session, prompt, completion, model_request, selection, call, result, decision, approval, tool_list, tool_definition, resource, prompt_template, sampling, elicitation, request, notification, connection, downstream, process, auth, span, log, finding, access, gap, rejected
        line 14, column 8: this kind is told by the method, so the rule needs the field name
        line 15, column 26: not a usable regular expression: unclosed character class
        line 15, column 10: a condition needs a value, any, not, present, prefix, suffix, contains or matches
        line 15, column 10: between [ and ] stands a number or *
        line 15, column 12: unknown field `b`, expected one of `present`, `any`, `not`, `prefix`, `suffix`, `contains`, `matches`; a path with dots is written in quotes, "a.b"
        line 15, column 13: required names tool_name, which is no field of this rule
        line 15, column 43: a split is written like mcp__{server}__{tool}, {server...} taking as much as it can
        line 15, column 40: a unit is ns, us, ms or s
        line 15, column 8: path, const and template exclude each other
        line 15, column 17: a key of this kind has no scope
        line 15, column 17: a key of this kind needs a scope
        line 15, column 36: into says how paths name the result, as @name
        line 12, column 3: unknown field `rules`, expected one of `name`, `version`, `title`, `shape`, `seen_live`, `source_kind`, `format`, `template`, `variables`, `columns`, `entry_start`, `equals_in_values`, `absent`, `recognise`, `expand`, `fields`, `attributes`, `key`, `required`, `rule`
    "#]].assert_eq(&text);
}

#[test]
fn a_profile_of_the_users_takes_the_place_of_a_shipped_one_and_names_are_unique() {
    let shipped = Catalogue::shipped();
    let own = MINIMAL.replace("\"x\"", "\"kong-ai-mcp\"");
    let with = shipped.with("a.toml", &own).unwrap();
    assert_eq!(with.profiles().len(), shipped.profiles().len());
    assert_eq!(with.get("kong-ai-mcp").unwrap().title(), "t");
    assert!(with.is_own("kong-ai-mcp") && !shipped.is_own("kong-ai-mcp"));
    assert_eq!(with.with("copy.toml", &own).unwrap().profiles().len(), with.profiles().len());
    let own = own.replace("\"t\"", "\"another\"");
    let said = |text: &str| with.with("b.toml", text).unwrap_err().to_string();
    expect!["profile b.toml: the name kong-ai-mcp is taken by another file"].assert_eq(&said(&own));
    expect!["profile b.toml: the name codex is that of a built-in decoder"]
        .assert_eq(&said(&MINIMAL.replace("\"x\"", "\"codex\"")));
    expect!["profile b.toml cannot be used"].assert_eq(&said(""));
}

#[test]
fn a_line_that_cannot_be_read_is_of_the_source_of_its_file() {
    let sources = |source_name: &str, lines: &[&[u8]]| {
        let text = MINIMAL.replace("[fields]", &format!("[fields]\n{source_name}"));
        assert_ne!(text, MINIMAL);
        let profile = Arc::new(Profile::parse(&text).unwrap());
        let records = read(&mut ProfileDecoder::new(profile), lines);
        let shown = records.iter().map(|record| format!("{} {}", record.kind, record.source_name));
        shown.collect::<Vec<_>>().join(", ")
    };
    let lines: [&[u8]; 3] = [b"{", br#"{"ts":"2026-03-02T08:00:00Z","db":"shop"}"#, b"\xff"];
    expect!["rejected nova, log nova, rejected nova"].assert_eq(&sources("source_name = { const = \"nova\" }", &lines));
    expect!["rejected x, log shop, rejected shop"].assert_eq(&sources("source_name = \"db\"", &lines));
    expect!["rejected sql, log shop, rejected shop"]
        .assert_eq(&sources("source_name = { path = \"db\", default = \"sql\" }", &lines));
}

#[test]
fn an_entry_that_never_ends_is_given_up_and_nothing_is_lost() {
    let profile = Catalogue::shipped().get("postgres-csvlog").unwrap().clone();
    let line = vec![b'x'; 1 << 20];
    let mut lines: Vec<&[u8]> = vec![b"a,\"open"];
    lines.extend(std::iter::repeat_n(&line[..], 6));
    let records = read(&mut ProfileDecoder::new(profile), &lines);
    let held: Vec<i64> = records.iter().filter_map(|record| record.origin_line).collect();
    assert_eq!(held, [1, 5, 6, 7], "the lines that fit belong to the first, later ones stand alone");
    assert!(records.iter().all(|record| record.kind == Kind::Rejected));
}

#[test]
fn lines_after_an_open_quote_are_marked_because_its_writer_may_have_written_them() {
    let profile = Catalogue::shipped().get("mcp-server-logfmt").unwrap().clone();
    let sample = include_str!("../../../../tests/profiles/mcp-server-logfmt.log");
    let event = sample.lines().next().unwrap();
    let open = format!("{event} err=\"no such order");
    // Whoever writes the error text ends the forged line so that the quote of the writer closes it.
    let forged = format!("{event} err=\"\"");
    let after = vec![event.as_bytes(); crate::limits::profile::AFTER_OPEN_QUOTE_MAX];
    let lines: Vec<&[u8]> = [event.as_bytes(), open.as_bytes(), forged.as_bytes()].into_iter().chain(after).collect();
    let records = read(&mut ProfileDecoder::new(profile), &lines);
    let is_marked = |record: &Record| {
        let attributes = crate::json::parse(record.attributes.as_deref().unwrap_or("{}").as_bytes()).unwrap().value;
        attributes.get("threadline.after_open_quote").is_some()
    };
    assert_eq!(records[1].text.as_deref(), Some("a quote is not closed"));
    let marked: Vec<usize> = (0..records.len()).filter(|at| is_marked(&records[*at])).collect();
    assert_eq!(marked, (2..lines.len() - 1).collect::<Vec<_>>());
}
