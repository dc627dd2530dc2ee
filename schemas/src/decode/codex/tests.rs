use super::*;
use crate::decode::recorded::{decode_file, decode_lines, entries, name, sessions, table, tool_uses};
use crate::decode::tests::context;
use crate::json::canonical;
use expect_test::expect;

fn rollouts(session: &std::path::Path) -> Vec<Record> {
    let files = entries(&session.join("rollouts"));
    files.iter().flat_map(|file| decode_file(&mut CodexDecoder::new(), file)).collect()
}

fn decode(lines: &str) -> Vec<Record> {
    decode_lines(&mut CodexDecoder::new(), "rollout.jsonl", lines.as_bytes())
}

#[test]
fn every_line_of_a_recorded_session_has_its_kind() {
    let mut lines = 0;
    let mut all = Vec::new();
    for session in sessions("codex") {
        for file in entries(&session.join("rollouts")) {
            lines += std::fs::read_to_string(file).unwrap().lines().count();
        }
        all.extend(rollouts(&session));
    }
    assert_eq!(all.len(), lines);
    expect![[r#"
           4 call host event_msg/item_completed/McpToolCall
           5 completion host response_item/message
           5 log host event_msg/item_completed/AgentMessage
           3 log host event_msg/item_completed/UserMessage
           8 log host event_msg/token_count
           4 log host response_item/message
           2 log host world_state
           8 model_request host token_usage_record
           3 prompt host response_item/message
           7 result host response_item/function_call_output
           7 selection host response_item/function_call
           3 session host event_msg/task_complete
           3 session host event_msg/task_started
           3 session host event_msg/thread_settings_applied
           2 session host session_meta
           3 session host turn_context
    "#]]
    .assert_eq(&table(&all));
}

#[test]
fn every_tool_use_has_its_selection_and_its_result() {
    for session in sessions("codex") {
        let records = rollouts(&session);
        for (id, tool, namespace, input) in tool_uses(&session) {
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
            for record in [selection, result] {
                assert_eq!(record.server_name.as_deref(), namespace.as_deref().and_then(|n| n.strip_prefix("mcp__")));
                assert_eq!(record.tool_name.as_deref(), Some(tool.as_str()));
                assert!(record.turn_id.is_some() && record.conversation_id.is_some());
            }
            assert!(result.outcome.is_some());
        }
    }
}

#[test]
fn outcomes_of_calls_and_results() {
    let mut text = String::new();
    for session in sessions("codex") {
        for record in rollouts(&session).iter().filter(|record| matches!(record.kind, Kind::Call | Kind::Result)) {
            text.push_str(&format!(
                "{} {} {} {}: {} is_error={:?} {} {:?}\n",
                name(&session),
                record.kind,
                record.tool_call_id.as_deref().unwrap(),
                record.tool_name.as_deref().unwrap(),
                record.outcome.unwrap(),
                record.tool_is_error,
                record.error_type.as_deref().unwrap_or("-"),
                record.duration_nano,
            ));
        }
    }
    expect![[r#"
        cx-0-not-connected result call_fake000100 lookup_order: error is_error=Some(true) unsupported_call None
        cx-0-not-connected result call_fake000101 lookup_order: error is_error=Some(true) unsupported_call None
        cx-0-not-connected result call_fake000200 refund: error is_error=Some(true) unsupported_call None
        cx-1 call call_fake000100 lookup_order: ok is_error=Some(false) - Some(183709928)
        cx-1 call call_fake000101 lookup_order: ok is_error=Some(false) - Some(312142850)
        cx-1 result call_fake000100 lookup_order: ok is_error=Some(false) - None
        cx-1 result call_fake000101 lookup_order: ok is_error=Some(false) - None
        cx-1 call call_fake000200 refund: ok is_error=Some(false) - Some(226106802)
        cx-1 result call_fake000200 refund: ok is_error=Some(false) - None
        cx-1 call call_fake000400 refund: error is_error=Some(true) - Some(5662040800)
        cx-1 result call_fake000400 refund: error is_error=Some(true) - None
    "#]]
    .assert_eq(&text);
}

#[test]
fn a_turn_has_one_prompt_and_its_trace() {
    for session in sessions("codex") {
        let records = rollouts(&session);
        let prompts: Vec<_> = records.iter().filter(|record| record.kind == Kind::Prompt).collect();
        let started: Vec<_> = records.iter().filter(|record| record.trace_id.is_some()).collect();
        assert_eq!(prompts.len(), started.len());
        for (prompt, started) in prompts.iter().zip(&started) {
            assert_eq!(prompt.turn_id, started.turn_id);
        }
        assert!(records.windows(2).all(|pair| pair[0].source_sequence < pair[1].source_sequence));
    }
}

#[test]
fn older_files_without_ordinals_namespaces_or_marks() {
    let records = decode(concat!(
        r#"{"timestamp":"2026-01-01T00:00:00Z","type":"session_meta","payload":{"id":"th-1","cwd":"/x"}}"#,
        "\n",
        r#"{"timestamp":"2026-01-01T00:00:01Z","type":"response_item","payload":{"type":"message","role":"user","content":[{"type":"input_text","text":"<environment_context>x"}]}}"#,
        "\n",
        r#"{"timestamp":"2026-01-01T00:00:01Z","type":"response_item","payload":{"type":"message","role":"user","content":[{"type":"input_text","text":"Refund it."}]}}"#,
        "\n",
        r#"{"timestamp":"2026-01-01T00:00:01Z","type":"event_msg","payload":{"type":"user_message","message":"Refund it."}}"#,
        "\n",
        r#"{"timestamp":"2026-01-01T00:00:02Z","type":"response_item","payload":{"type":"function_call","name":"mcp__orders__refund","arguments":"{\"id\": 7}","call_id":"c1"}}"#,
        "\n",
        r#"{"timestamp":"2026-01-01T00:00:03Z","type":"event_msg","payload":{"type":"mcp_tool_call_begin","call_id":"c1","invocation":{"server":"orders","tool":"refund","arguments":{"id":7}}}}"#,
        "\n",
        r#"{"timestamp":"2026-01-01T00:00:03Z","type":"event_msg","payload":{"type":"mcp_tool_call_end","call_id":"c1","invocation":{"server":"orders","tool":"refund","arguments":{"id":7}},"duration":{"secs":1,"nanos":5},"result":{"Ok":{"content":[],"is_error":true}}}}"#,
        "\n",
        r#"{"timestamp":"2026-01-01T00:00:04Z","type":"response_item","payload":{"type":"function_call_output","call_id":"c1","output":"no"}}"#,
        "\n",
        r#"{"timestamp":"2026-01-01T00:00:05Z","type":"response_item","payload":{"type":"function_call","name":"shell","arguments":"not json","call_id":"c2"}}"#,
    ));
    let shown: Vec<String> = records
        .iter()
        .map(|record| {
            format!(
                "{} {} {:?} {:?} {:?} {:?}",
                record.kind,
                record.name.as_deref().unwrap(),
                record.server_name,
                record.tool_name,
                record.outcome,
                record.arguments
            )
        })
        .collect();
    expect![[r#"
        session session_meta None None None None
        log response_item/message None None None None
        prompt response_item/message None None None None
        log event_msg/user_message None None None None
        selection response_item/function_call Some("orders") Some("refund") None Some("{\"id\": 7}")
        log event_msg/mcp_tool_call_begin Some("orders") Some("refund") None Some("{\"id\":7}")
        call event_msg/mcp_tool_call_end Some("orders") Some("refund") Some(Error) Some("{\"id\":7}")
        result response_item/function_call_output Some("orders") Some("refund") Some(Error) None
        selection response_item/function_call None Some("shell") None Some("\"not json\"")"#]]
    .assert_eq(&shown.join("\n"));
    assert_eq!(records[4].arguments_digest, records[6].arguments_digest);
    assert!(records.iter().all(|record| record.conversation_id.as_deref() == Some("th-1")));
}

#[test]
fn a_file_without_its_head_is_named_by_its_thread() {
    let line = r#"{"timestamp":"x","type":"event_msg","payload":{"type":"token_count"}}"#;
    let file = "rollout-2026-11-20T10-33-33-01a1f884-c809-7c11-8628-919b09ac0a57.jsonl";
    let record = decode_lines(&mut CodexDecoder::new(), file, line.as_bytes()).remove(0);
    assert_eq!(record.conversation_id.as_deref(), Some("01a1f884-c809-7c11-8628-919b09ac0a57"));
    assert_eq!(record.time_quality, crate::TimeQuality::Invalid);
    assert_eq!(decode(line)[0].conversation_id, None);
    assert_eq!(decode("{\"type\":\"event_msg\"}")[0].kind, Kind::Rejected);
}

fn recorded_lines() -> Vec<Vec<u8>> {
    let session = sessions("codex").pop().unwrap();
    let file = entries(&session.join("rollouts")).pop().unwrap();
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
        let records = decode_lines(&mut CodexDecoder::new(), "rollout.jsonl", &lines);
        proptest::prop_assert_eq!(records.len(), usize::from(!lines.is_empty()));
    }
}
