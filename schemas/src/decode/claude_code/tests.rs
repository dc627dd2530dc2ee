use super::*;
use crate::decode::recorded::{decode_file, decode_lines, entries, name, sessions, table, tool_uses};
use crate::decode::tests::context;
use crate::json::canonical;
use expect_test::{Expect, expect};

/// Every transcript of a recorded session.
fn transcripts(session: &std::path::Path) -> Vec<Record> {
    let files = entries(&session.join("transcripts"));
    files.iter().flat_map(|file| decode_file(&mut ClaudeCodeDecoder::new(), file)).collect()
}

fn decode(lines: &str) -> Vec<Record> {
    decode_lines(&mut ClaudeCodeDecoder::new(), "s.jsonl", lines.as_bytes())
}

fn check(records: &[Record], expected: Expect) {
    expected.assert_eq(&table(records));
}

#[test]
fn every_line_of_a_recorded_session_has_its_kind() {
    let all: Vec<Record> = sessions("claude-code").iter().flat_map(|session| transcripts(session)).collect();
    check(
        &all,
        expect![[r#"
            17 completion host assistant/text
            4 log host attachment/agent_listing_delta
            4 log host attachment/mcp_instructions_delta
            4 log host attachment/skill_listing
            2 log host attachment/task_reminder
            9 log host queue-operation/dequeue
            9 log host queue-operation/enqueue
            9 prompt host user
            22 result host user/tool_result
            22 selection host assistant/tool_use
            9 session host last-prompt
            3 session host mode
        "#]],
    );
}

#[test]
fn every_tool_use_has_its_selection_and_its_result() {
    for session in sessions("claude-code") {
        let records = transcripts(&session);
        for (id, tool, _, input) in tool_uses(&session) {
            let of = |kind: Kind| {
                let found: Vec<_> = records
                    .iter()
                    .filter(|record| record.kind == kind && record.tool_call_id.as_deref() == Some(&id))
                    .collect();
                assert_eq!(found.len(), 1, "{} {kind} of {id}", name(&session));
                found[0]
            };
            let (selection, result) = (of(Kind::Selection), of(Kind::Result));
            let arguments = json::parse(selection.arguments.as_deref().unwrap().as_bytes()).unwrap().value;
            assert_eq!(canonical(&arguments), canonical(&input));
            assert_eq!(selection.arguments_digest, context().digest(&input));
            let (server, tool) = split_tool(&tool);
            for record in [selection, result] {
                assert_eq!(record.server_name.as_deref(), server);
                assert_eq!(record.tool_name.as_deref(), Some(tool));
            }
            assert!(result.outcome.is_some() && result.result.is_some());
            assert_eq!(selection.turn_id, result.turn_id);
        }
    }
}

#[test]
fn a_turn_is_one_prompt_with_everything_below_it() {
    for session in sessions("claude-code") {
        let records = transcripts(&session);
        let turns_of = |kind: Kind| -> std::collections::BTreeSet<_> {
            records.iter().filter(|record| record.kind == kind).map(|record| record.turn_id.clone().unwrap()).collect()
        };
        let prompts = records.iter().filter(|record| record.kind == Kind::Prompt).count();
        assert_eq!(turns_of(Kind::Prompt).len(), prompts);
        assert_eq!(turns_of(Kind::Completion), turns_of(Kind::Prompt));
        assert!(turns_of(Kind::Selection).is_subset(&turns_of(Kind::Prompt)));
        let conversations: std::collections::BTreeSet<_> =
            records.iter().map(|record| &record.conversation_id).collect();
        assert_eq!(conversations.len(), 1, "{}", name(&session));
    }
}

#[test]
fn a_refusal_is_not_an_error_of_the_tool() {
    let mut text = String::new();
    for session in sessions("claude-code") {
        for record in transcripts(&session).iter().filter(|record| record.error_type.is_some()) {
            let show = |field: &Option<String>| field.clone().unwrap_or_default();
            text.push_str(&format!(
                "{} {} {}: {} {}\n",
                name(&session),
                show(&record.tool_call_id),
                show(&record.tool_name),
                record.outcome.unwrap(),
                show(&record.error_type)
            ));
        }
    }
    expect![[r#"
        cc-0-not-connected toolu_fake000100 lookup_order: error mcp_server_connecting
        cc-0-not-connected toolu_fake000101 lookup_order: error mcp_server_connecting
        cc-0-not-connected toolu_fake000200 refund: error mcp_server_connecting
        cc-1 toolu_fake000400 refund: error tool_error
        cc-1 toolu_fake000500 refund: error tool_error
        cc-1 toolu_fake000700 delete_customer: denied no_such_tool_available
        cc-2 toolu_fake000800 boom: error tool_error
        cc-5 toolu_fake000100 get-env: denied no_such_tool_available
        cc-5 toolu_fake000300 boom: denied no_such_tool_available
    "#]]
    .assert_eq(&text);
}

#[test]
fn words_of_a_tool_are_not_taken_for_words_of_the_host() {
    let check = |content: &str, expected: Expect| {
        let line = format!(
            r#"{{"type":"user","message":{{"content":[{{"type":"tool_result","tool_use_id":"t","is_error":true,"content":{content}}}]}}}}"#
        );
        let record = &decode(&line)[0];
        expected.assert_eq(&format!("{} {}", record.outcome.unwrap(), record.error_type.as_deref().unwrap()));
    };
    check(r#""<tool_use_error>InputValidationError: x</tool_use_error>""#, expect!["error tool_use_error"]);
    check(r#""No such tool available: x""#, expect!["error tool_error"]);
    check(
        r#"[{"type":"text","text":"The user doesn't want to proceed with this tool use. The tool use was rejected."}]"#,
        expect!["denied rejected_by_user"],
    );
    check(r#""Error: Permission to use Bash has been denied.""#, expect!["denied permission_denied"]);
    check("null", expect!["error tool_error"]);
}

#[test]
fn several_blocks_in_one_line_are_several_records() {
    let line = r#"{"type":"assistant","uuid":"u1","sessionId":"s","agentId":"a7","message":{"id":"m1","content":[
{"type":"thinking","thinking":"hm"},{"type":"text","text":"I look."},
{"type":"tool_use","id":"t1","name":"mcp__orders__refund","input":{ "n": 1.50 }},{"type":"tool_use","id":"t2","name":"Bash","input":{}}]}}"#
        .replace('\n', "");
    let records = decode(&line);
    check(
        &records,
        expect![[r#"
               1 completion host assistant/text
               1 completion host assistant/thinking
               2 selection host assistant/tool_use
        "#]],
    );
    assert_eq!(records[2].arguments.as_deref(), Some(r#"{ "n": 1.50 }"#));
    assert_eq!(records[0].raw.as_deref(), Some(line.as_bytes()));
    assert!(records[1..].iter().all(|record| record.raw.is_none()));
    assert!(records.iter().all(|record| record.keys.contains(&"agent:s/a7".to_string())));
    assert!(records.iter().all(|record| record.keys.contains(&"response:m1".to_string())));
    let mut ids: Vec<_> = records.iter().map(|record| record.event_id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 4);
    let many = format!(r#"{{"type":"assistant","message":{{"content":[{}0]}}}}"#, r#"{"type":"text"},"#.repeat(300));
    assert_eq!(decode(&many).len(), BLOCKS_MAX);
    assert!(decode(&many)[0].attributes.as_deref().unwrap().contains(r#""blocks_without_record":45"#));
}

#[test]
fn what_the_program_wrote_is_no_prompt() {
    let kind = |line: &str| decode(line)[0].kind;
    assert_eq!(kind(r#"{"type":"user","message":{"content":"Refund it."}}"#), Kind::Prompt);
    assert_eq!(kind(r#"{"type":"user","isMeta":true,"message":{"content":"Caveat"}}"#), Kind::Log);
    assert_eq!(
        kind(r#"{"type":"user","message":{"content":[{"type":"text","text":"[Request interrupted by user]"}]}}"#),
        Kind::Log
    );
    let image = r#"{"type":"user","message":{"content":[{"type":"image"},{"type":"text","text":"What is it?"}]}}"#;
    assert_eq!(decode(image).len(), 1);
    assert_eq!(decode(image)[0].text.as_deref(), Some("What is it?"));
}

#[test]
fn what_is_not_a_session_line_is_rejected_and_the_rest_goes_on() {
    let records = decode("{\"type\":\n[1]\n{\"a\":1}\n{\"type\":\"mode\",\"sessionId\":\"s\"}\n");
    let shown: Vec<_> = records.iter().map(|record| (record.kind, record.origin_line, record.text.clone())).collect();
    expect![[r#"
        [
            (
                Rejected,
                Some(
                    1,
                ),
                Some(
                    "not valid JSON at byte 8: EOF while parsing a value",
                ),
            ),
            (
                Rejected,
                Some(
                    2,
                ),
                Some(
                    "a session line is an object with a member type",
                ),
            ),
            (
                Rejected,
                Some(
                    3,
                ),
                Some(
                    "a session line is an object with a member type",
                ),
            ),
            (
                Session,
                Some(
                    4,
                ),
                None,
            ),
        ]
    "#]]
    .assert_debug_eq(&shown);
}

#[test]
fn what_has_no_column_stays_in_the_attributes() {
    let line = r#"{"type":"user","promptId":"p","sessionId":"s","version":"2.1","cwd":"/x","gitBranch":"main","permissionMode":"plan","odd":1,"odd":2,"toolUseResult":{"stdout":"x"},"message":{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":"x"}]}}"#;
    let record = &decode(line)[0];
    expect![[r#"{"version":"2.1","cwd":"/x","gitBranch":"main","odd":1,"odd":2,"toolUseResult":{"stdout":"x"},"duplicate_keys":["odd"]}"#]].assert_eq(record.attributes.as_deref().unwrap());
    assert_eq!(record.authority.as_deref(), Some(r#"{"permissionMode":"plan"}"#));
}

/// One recorded line of every shape.
fn recorded_lines() -> Vec<Vec<u8>> {
    let session = sessions("claude-code").pop().unwrap();
    let file = entries(&session.join("transcripts")).pop().unwrap();
    std::fs::read(file).unwrap().split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

proptest::proptest! {
    #[test]
    fn mutated_lines_never_panic(pick: proptest::sample::Index, at: proptest::sample::Index, byte: u8, cut: bool) {
        static LINES: std::sync::LazyLock<Vec<Vec<u8>>> = std::sync::LazyLock::new(recorded_lines);
        let mut line = pick.get(&LINES).clone();
        if !line.is_empty() {
            let at = at.index(line.len());
            if cut { line.truncate(at) } else { line[at] = byte }
        }
        let lines: Vec<u8> = line.into_iter().filter(|byte| *byte != b'\n').collect();
        let records = decode_lines(&mut ClaudeCodeDecoder::new(), "s.jsonl", &lines);
        proptest::prop_assert!(lines.is_empty() || !records.is_empty());
    }
}

#[test]
fn a_rejected_line_belongs_to_the_session_of_the_lines_before_it() {
    let records = decode("{broken\n{\"type\":\"mode\",\"sessionId\":\"s\"}\n{broken\n");
    let sessions: Vec<_> = records.iter().map(|record| (record.kind, record.conversation_id.as_deref())).collect();
    assert_eq!(sessions, [(Kind::Rejected, None), (Kind::Session, Some("s")), (Kind::Rejected, Some("s"))]);
}
