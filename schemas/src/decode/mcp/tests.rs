//! Single frames, pairing and bounds.

use std::fmt::Write;

use super::*;
use crate::decode::tests::context;
use crate::limits::mcp::{CARRIED_BYTES_MAX, PENDING_BYTES_MAX, PENDING_MAX};
use crate::limits::parts;
use expect_test::{Expect, expect};
use proptest::prelude::*;

/// Decodes `> message` (client to server), `< message` and `! line` (stderr), one per line.
pub(super) fn decode(frames: &str) -> Vec<Record> {
    let mut decoder = McpDecoder::new("mcp-stdio", "orders", Some("orders"), "c");
    let mut records = Vec::new();
    for (index, line) in frames.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
        let (sign, message) = line.split_at(2);
        let direction = match sign {
            "> " => Direction::ClientToServer,
            "< " => Direction::ServerToClient,
            _ => Direction::ServerStderr,
        };
        records.extend(feed(&mut decoder, direction, message.as_bytes(), index as i64 + 1));
    }
    records
}

pub(super) fn feed(decoder: &mut McpDecoder, direction: Direction, message: &[u8], number: i64) -> Vec<Record> {
    let key = format!("k{number}");
    let line = Line { bytes: message, file: None, number, delivery_key: &key };
    let frame = Frame { message, direction, time_unix_nano: Some(1000 * number), sequence: Some(number) };
    decoder.frame(&context(), line, frame)
}

/// What a record says, without what all records of the connection have in common.
fn shown(record: &Record) -> String {
    let mut out = record.kind.to_string();
    let mut field = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            write!(out, " {name}={value}").unwrap();
        }
    };
    field("name", record.name.clone());
    field("tool", record.tool_name.clone());
    field("target", record.target.clone());
    field("outcome", record.outcome.map(|outcome| outcome.to_string()));
    field("status", record.transport_status.clone());
    field("code", record.rpc_error_code.map(|code| code.to_string()));
    field("is_error", record.tool_is_error.map(|is_error| is_error.to_string()));
    field("decision", record.decision.map(|decision| decision.to_string()));
    field("ns", record.duration_nano.map(|nanos| nanos.to_string()));
    field("call", record.tool_call_id.clone());
    field("turn", record.turn_id.clone());
    field("conversation", record.conversation_id.clone());
    field("trace", record.trace_id.clone());
    field("client", record.client_name.clone());
    field("text", record.text.clone());
    field("arguments", record.arguments.clone());
    field("result", record.result.clone());
    field("keys", Some(record.keys.join(",")).filter(|keys| !keys.is_empty()));
    field("attributes", record.attributes.clone());
    out
}

pub(super) fn check(frames: &str, expected: Expect) {
    let records = decode(frames);
    expected.assert_eq(&records.iter().map(|record| shown(record) + "\n").collect::<String>());
}

#[test]
fn a_call_and_its_result_are_one_exchange() {
    check(
        r#"
        > {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"refund","arguments":{ "n": 1.50 },"_meta":{"claudecode/toolUseId":"toolu_1","progressToken":"p","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03"}}}
        < {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":1,"message":"half"}}
        < {"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"a"},{"type":"image","data":"AAAA"},{"type":"text","text":"b"}]}}
        > {"jsonrpc":"2.0","id":"7","method":"tools/call","params":{"name":"boom"}}
        < {"jsonrpc":"2.0","id":"7","result":{"content":[{"type":"text","text":"Access denied"}],"isError":true}}
        "#,
        expect![[r#"
            call name=tools/call tool=refund call=toolu_1 trace=4bf92f3577b34da6a3ce929d0e0e4736 arguments={ "n": 1.50 } keys=rpc:c:client/7,progress:c:client/"p" attributes={"threadline.definition_not_seen":true,"_meta":{"claudecode/toolUseId":"toolu_1","progressToken":"p","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03"}}
            notification name=notifications/progress text=half keys=progress:c:client/"p" attributes={"progressToken":"p","progress":1,"message":"half"}
            result name=tools/call tool=refund outcome=ok is_error=false ns=2000 call=toolu_1 trace=4bf92f3577b34da6a3ce929d0e0e4736 text=a
            b result={"content":[{"type":"text","text":"a"},{"type":"image","data":"AAAA"},{"type":"text","text":"b"}]} keys=rpc:c:client/7
            call name=tools/call tool=boom keys=rpc:c:client/"7" attributes={"threadline.definition_not_seen":true}
            result name=tools/call tool=boom outcome=error is_error=true ns=1000 text=Access denied result={"content":[{"type":"text","text":"Access denied"}],"isError":true} keys=rpc:c:client/"7"
        "#]],
    );
}

#[test]
fn codex_meta_gives_call_turn_and_conversation() {
    check(
        r#"> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"_meta":{"callId":"call_1","threadId":"t","sessionId":"s","x-codex-turn-metadata":{"turn_id":"u","thread_id":"t"}},"name":"x"}}"#,
        expect![[r#"
            call name=tools/call tool=x call=call_1 turn=u conversation=t keys=rpc:c:client/2,conversation:t,conversation:s attributes={"threadline.definition_not_seen":true,"_meta":{"callId":"call_1","threadId":"t","sessionId":"s","x-codex-turn-metadata":{"turn_id":"u","thread_id":"t"}}}
        "#]],
    );
}

#[test]
fn errors_are_told_apart() {
    check(
        r#"
        > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}
        < {"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Unknown tool","data":{"tool":"x"}}}
        > {"jsonrpc":"2.0","id":2,"method":"resources/read","params":{"uri":"file:///etc/shadow"}}
        < {"jsonrpc":"2.0","id":2,"error":{"code":-32003,"message":"Forbidden: insufficient scope"}}
        > {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"x"}}
        < {"jsonrpc":"2.0","id":3,"error":{"code":-32042,"message":"URL elicitation required"}}
        < {"jsonrpc":"2.0","id":99,"result":{"content":[]}}
        < {"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}
        "#,
        expect![[r#"
            call name=tools/call tool=x keys=rpc:c:client/1 attributes={"threadline.definition_not_seen":true}
            result name=tools/call tool=x outcome=error code=-32602 ns=1000 text=Unknown tool keys=rpc:c:client/1 attributes={"error":{"code":-32602,"message":"Unknown tool","data":{"tool":"x"}}}
            resource name=resources/read target=file:///etc/shadow keys=rpc:c:client/2 attributes={"uri":"file:///etc/shadow"}
            resource name=resources/read target=file:///etc/shadow outcome=denied code=-32003 ns=1000 text=Forbidden: insufficient scope keys=rpc:c:client/2 attributes={"error":{"code":-32003,"message":"Forbidden: insufficient scope"}}
            call name=tools/call tool=x keys=rpc:c:client/3 attributes={"threadline.definition_not_seen":true}
            result name=tools/call tool=x outcome=input_required code=-32042 ns=1000 text=URL elicitation required keys=rpc:c:client/3 attributes={"error":{"code":-32042,"message":"URL elicitation required"}}
            result name=tools/call outcome=ok is_error=false result={"content":[]} keys=rpc:c:client/99 attributes={"threadline.unpaired":true}
            request outcome=error code=-32700 text=Parse error attributes={"error":{"code":-32700,"message":"Parse error"},"threadline.unpaired":true}
        "#]],
    );
}

#[test]
fn a_server_asks_in_its_own_numbering() {
    check(
        r#"
        > {"jsonrpc":"2.0","id":0,"method":"tools/call","params":{"name":"x"}}
        < {"jsonrpc":"2.0","id":0,"method":"elicitation/create","params":{"message":"Really?","requestedSchema":{}}}
        > {"jsonrpc":"2.0","id":0,"result":{"action":"decline"}}
        < {"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{"systemPrompt":"be brief","messages":[{"role":"user","content":{"type":"text","text":"boil?"}}]}}
        > {"jsonrpc":"2.0","id":1,"result":{"role":"assistant","model":"m","content":{"type":"text","text":"100 C"}}}
        < {"jsonrpc":"2.0","id":0,"result":{"content":[]}}
        "#,
        expect![[r#"
            call name=tools/call tool=x keys=rpc:c:client/0 attributes={"threadline.definition_not_seen":true}
            elicitation name=elicitation/create text=Really? keys=rpc:c:server/0 attributes={"message":"Really?","requestedSchema":{}}
            approval name=elicitation/create outcome=denied decision=deny ns=1000 text=decline result={"action":"decline"} keys=rpc:c:server/0
            sampling name=sampling/createMessage text=be brief
            boil? keys=rpc:c:server/1 attributes={"systemPrompt":"be brief","messages":[{"role":"user","content":{"type":"text","text":"boil?"}}]}
            sampling name=sampling/createMessage outcome=ok ns=1000 text=100 C result={"role":"assistant","model":"m","content":{"type":"text","text":"100 C"}} keys=rpc:c:server/1
            result name=tools/call tool=x outcome=ok is_error=false ns=5000 result={"content":[]} keys=rpc:c:client/0
        "#]],
    );
}

#[test]
fn rounds_of_one_call_meet_at_the_request_state() {
    check(
        r#"
        > {"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"delete","arguments":{"id":"7"}}}
        < {"jsonrpc":"2.0","id":9,"result":{"resultType":"input_required","inputRequests":{"q":{"method":"elicitation/create","params":{"message":"Sure?"}}},"requestState":"v1.x"}}
        > {"jsonrpc":"2.0","id":10,"method":"tools/call","params":{"name":"delete","arguments":{"id":"7"},"inputResponses":{"q":{"action":"accept","content":{}}},"requestState":"v1.x"}}
        < {"jsonrpc":"2.0","id":10,"result":{"resultType":"complete","content":[{"type":"text","text":"deleted"}]}}
        "#,
        expect![[r#"
            call name=tools/call tool=delete arguments={"id":"7"} keys=rpc:c:client/9 attributes={"threadline.definition_not_seen":true}
            result name=tools/call tool=delete outcome=input_required ns=1000 result={"resultType":"input_required","inputRequests":{"q":{"method":"elicitation/create","params":{"message":"Sure?"}}},"requestState":"v1.x"} keys=rpc:c:client/9,request-state:146ad38ff227b72f1817c9bca824042c134b9db6a7b6d52e2ec1d99f8c478405
            elicitation name=elicitation/create tool=delete text=Sure? keys=rpc:c:client/9,request-state:146ad38ff227b72f1817c9bca824042c134b9db6a7b6d52e2ec1d99f8c478405 attributes={"threadline.input_request":"q","message":"Sure?"}
            call name=tools/call tool=delete arguments={"id":"7"} keys=rpc:c:client/10,request-state:146ad38ff227b72f1817c9bca824042c134b9db6a7b6d52e2ec1d99f8c478405 attributes={"threadline.definition_not_seen":true}
            approval name=elicitation/create tool=delete outcome=ok decision=allow text=accept result={"action":"accept","content":{}} keys=rpc:c:client/10,request-state:146ad38ff227b72f1817c9bca824042c134b9db6a7b6d52e2ec1d99f8c478405 attributes={"threadline.input_request":"q"}
            result name=tools/call tool=delete outcome=ok is_error=false ns=1000 text=deleted result={"resultType":"complete","content":[{"type":"text","text":"deleted"}]} keys=rpc:c:client/10
        "#]],
    );
}

#[test]
fn tools_are_hashed_one_by_one() {
    check(
        r#"
        > {"jsonrpc":"2.0","id":1,"method":"tools/list"}
        < {"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a","description":"does a","inputSchema":{"type":"object"},"title":"A"},{"title":"B","inputSchema":{"type":"object"},"description":"does a","name":"a"},{"name":"a","description":"does b","inputSchema":{"type":"object"}}]}}
        "#,
        expect![[r#"
            tool_list name=tools/list keys=rpc:c:client/1
            tool_list name=tools/list outcome=ok ns=1000 text=a, a, a result={"tools":[{"name":"a","description":"does a","inputSchema":{"type":"object"},"title":"A"},{"title":"B","inputSchema":{"type":"object"},"description":"does a","name":"a"},{"name":"a","description":"does b","inputSchema":{"type":"object"}}]} keys=rpc:c:client/1
            tool_definition name=tools/list tool=a text=does a keys=rpc:c:client/1,definition:bf6d4b706e99397c275e063ca489cc3d999f64169ef3aaeeb1093dc99d7355b7 attributes={"name":"a","description":"does a","inputSchema":{"type":"object"},"title":"A"}
            tool_definition name=tools/list tool=a text=does a keys=rpc:c:client/1,definition:bf6d4b706e99397c275e063ca489cc3d999f64169ef3aaeeb1093dc99d7355b7 attributes={"title":"B","inputSchema":{"type":"object"},"description":"does a","name":"a"}
            tool_definition name=tools/list tool=a text=does b keys=rpc:c:client/1,definition:c66b1c6dc26d8768a42234d05f5b7b51dfa6efdc7054a6ad05f531792cc57682 attributes={"name":"a","description":"does b","inputSchema":{"type":"object"}}
        "#]],
    );
    let tool = json::parse(br#"{"inputSchema":{},"name":"a"}"#).unwrap().value;
    let independent = hex::encode(Sha256::digest(r#"{"inputSchema":{},"name":"a"}"#));
    assert_eq!(definition::digest(&tool), independent);
}

#[test]
fn a_cancel_names_its_request() {
    check(
        r#"
        > {"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"slow","_meta":{"claudecode/toolUseId":"toolu_8"}}}
        > {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":8,"reason":"caller cancelled"}}
        < {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"stopped"}}
        "#,
        expect![[r#"
            call name=tools/call tool=slow call=toolu_8 keys=rpc:c:client/8 attributes={"threadline.definition_not_seen":true,"_meta":{"claudecode/toolUseId":"toolu_8"}}
            notification name=notifications/cancelled tool=slow outcome=cancelled call=toolu_8 text=caller cancelled keys=rpc:c:client/8 attributes={"requestId":8,"reason":"caller cancelled"}
            notification name=notifications/message text=stopped attributes={"level":"info","data":"stopped"}
        "#]],
    );
}

#[test]
fn who_is_connected() {
    check(
        r#"
        > {"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","clientInfo":{"name":"codex","version":"1"}}}
        < {"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","serverInfo":{"name":"orders"},"instructions":"be kind"}}
        > {"jsonrpc":"2.0","method":"notifications/initialized"}
        ! Listening
        "#,
        expect![[r#"
            connection name=initialize client=codex 1 keys=rpc:c:client/0 attributes={"protocolVersion":"2025-11-25","clientInfo":{"name":"codex","version":"1"}}
            connection name=initialize outcome=ok ns=1000 client=codex 1 text=be kind result={"protocolVersion":"2025-11-25","serverInfo":{"name":"orders"},"instructions":"be kind"} keys=rpc:c:client/0
            notification name=notifications/initialized client=codex 1
            log name=stderr client=codex 1 text=Listening
        "#]],
    );
}

#[test]
fn what_is_odd_is_noted() {
    check(
        r#"
        > {"jsonrpc":"2.0","id":12345678901234567890,"method":"tools/call","params":{"name":"x","name":"y","arguments":{"n":9007199254740993}}}
        > [{"jsonrpc":"2.0","id":1,"method":"ping"},{"id":2},{"jsonrpc":"2.0","method":"notifications/initialized"}]
        < Listening on port 3000
        "#,
        expect![[r#"
            call name=tools/call tool=y arguments={"n":9007199254740993} keys=rpc:c:client/12345678901234567890 attributes={"threadline.duplicate_keys":["name"],"threadline.big_numbers":["id","n"],"threadline.definition_not_seen":true}
            request name=ping keys=rpc:c:client/1
            rejected outcome=error text=JSON, but not a JSON-RPC 2.0 message: no "jsonrpc":"2.0"
            notification name=notifications/initialized
            rejected outcome=error text=not valid JSON at byte 0: expected value
        "#]],
    );
}

#[test]
fn trace_context_is_read_by_its_rules() {
    let check = |text: &str, is_valid: bool| assert_eq!(meta::parse_traceparent(text).is_some(), is_valid, "{text}");
    let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    check(&format!("00-{trace}-{span}-03"), true);
    check(&format!("00-{trace}-{span}-ff"), true);
    check(&format!("cc-{trace}-{span}-01-what-the-future-will-be-like"), true);
    check(&format!("00-{trace}-{span}-01-more"), false);
    check(&format!("ff-{trace}-{span}-01"), false);
    check(&format!("00-{}-{span}-01", "0".repeat(32)), false);
    check(&format!("00-{trace}-{}-01", "0".repeat(16)), false);
    check(&format!("00-{trace}-{span}"), false);
    check("", false);
}

#[test]
fn waiting_requests_are_bounded() {
    let mut decoder = McpDecoder::new("mcp-stdio", "s", None, "c");
    for id in 0..PENDING_MAX as i64 + 5 {
        let request = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        feed(&mut decoder, Direction::ClientToServer, request.as_bytes(), id + 1);
    }
    assert_eq!((decoder.waiting(), decoder.dropped()), (PENDING_MAX, 5));
    let mut answer = |id: i64| {
        let response = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
        shown(&feed(&mut decoder, Direction::ServerToClient, response.as_bytes(), 20_000)[0])
    };
    expect![[r#"request outcome=ok result={} keys=rpc:c:client/4 attributes={"threadline.unpaired":true,"threadline.pending_dropped":5}"#]].assert_eq(&answer(4));
    expect!["request name=ping outcome=ok ns=19994000 result={} keys=rpc:c:client/5"].assert_eq(&answer(5));
}

#[test]
fn waiting_requests_are_bounded_in_bytes_too() {
    let mut decoder = McpDecoder::new("mcp-stdio", "s", None, "c");
    let method = "m".repeat(CARRIED_BYTES_MAX);
    for n in 0..9000 {
        let request = format!(r#"{{"jsonrpc":"2.0","id":{n},"method":"{method}"}}"#);
        feed(&mut decoder, Direction::ClientToServer, request.as_bytes(), n + 1);
    }
    assert!(decoder.waiting() * CARRIED_BYTES_MAX < PENDING_BYTES_MAX, "{}", decoder.waiting());
    assert_eq!(decoder.waiting() + decoder.dropped() as usize, 9000);
}

#[test]
fn a_long_id_pairs_and_is_not_repeated() {
    // The quotes belong to the id.
    for (length, is_carried) in [(CARRIED_BYTES_MAX - 2, true), (CARRIED_BYTES_MAX - 1, false)] {
        let id = "i".repeat(length);
        let frames = format!(
            "> {{\"jsonrpc\":\"2.0\",\"id\":\"{id}\",\"method\":\"ping\"}}\n< {{\"jsonrpc\":\"2.0\",\"id\":\"{id}\",\"result\":{{}}}}"
        );
        let records = decode(&frames);
        assert_eq!(records[1].name.as_deref(), Some("ping"));
        assert_eq!(records[1].keys, records[0].keys);
        assert_eq!(records[1].rpc_id.is_some(), is_carried);
    }
}

#[test]
fn parts_of_a_message_are_bounded_and_the_rest_is_counted() {
    let batch = |count: usize| {
        let messages = vec![r#"{"jsonrpc":"2.0","method":"x"}"#; count].join(",");
        decode(&format!("> [{messages}]"))
    };
    assert_eq!(batch(parts::RECORDS_MAX).len(), parts::RECORDS_MAX);
    assert!(batch(parts::RECORDS_MAX).iter().all(|record| record.kind == Kind::Notification));
    let records = batch(parts::RECORDS_MAX + 1);
    assert_eq!(records.len(), parts::RECORDS_MAX + 1);
    let gap = records.last().unwrap();
    expect!["gap name=parts text=1 further parts of this line have no record of their own; its raw bytes hold them attributes={\"records\":1}"]
        .assert_eq(&shown(gap));
    assert!(records.iter().filter(|record| record.raw.is_some()).count() == 1);
    // Tools of a list, of which each would repeat what the message says.
    let list = |count: usize| {
        let tools = vec!["{}"; count].join(",");
        decode(&format!(r#"< {{"jsonrpc":"2.0","id":1,"result":{{"tools":[{tools}]}}}}"#))
    };
    assert_eq!(list(parts::RECORDS_MAX - 1).len(), parts::RECORDS_MAX);
    assert_eq!(list(parts::RECORDS_MAX).last().unwrap().error_type.as_deref(), Some("parts_limit"));
}

#[test]
fn parts_that_repeat_much_are_bounded_in_bytes() {
    let long = "k".repeat(1 << 20);
    let first = format!(r#"{{"{long}":1,"{long}":2,"jsonrpc":"2.0","method":"x"}}"#);
    let rest = vec![r#"{"jsonrpc":"2.0","method":"x"}"#; 500].join(",");
    let records = decode(&format!("> [{first},{rest}]"));
    let bytes: usize = records.iter().map(Record::memory_bytes).sum();
    assert!(bytes < parts::BYTES_MAX + (8 << 20), "{bytes}");
    assert_eq!(records.last().unwrap().error_type.as_deref(), Some("parts_limit"));
}

#[test]
fn large_and_deep_frames() {
    let text = "x".repeat(1 << 20);
    let frames = format!(
        "> {{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{{\"name\":\"x\",\"arguments\":{{\"t\":\"{text}\"}}}}}}\n\
         < {{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"content\":[{{\"type\":\"text\",\"text\":\"{text}\"}}]}}}}"
    );
    let records = decode(&frames);
    assert_eq!(records[0].arguments.as_ref().map(String::len), Some((1 << 20) + 8));
    assert_eq!(records[1].text.as_deref(), Some(text.as_str()));
    let deep = format!("< {{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}1{}}}", "[".repeat(50_000), "]".repeat(50_000));
    check(
        &deep,
        expect![[r#"
        rejected outcome=error text=JSON is nested deeper than 128 levels
    "#]],
    );
}

#[test]
fn a_tap_records_frames_ends_and_gaps() {
    use super::tap::{Seen, TapDecoder, TapFrame, TapGap};
    let context = context();
    let mut tap = TapDecoder::new("orders", "run-1");
    let at = |sequence| Seen { sequence, time_unix_nano: 5_000 + sequence as i64 };
    let frame = |direction, bytes| TapFrame {
        direction,
        bytes,
        length: bytes.len() as u64,
        sha256: None,
        terminated: true,
        delivered: true,
    };
    let call = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}"#.as_slice();
    let mut records = vec![tap.started(&context, at(0), &["server".into(), "--flag".into()], 42)];
    records.extend(tap.frame(&context, at(1), frame(Direction::ClientToServer, call)));
    records.extend(tap.frame(&context, at(2), frame(Direction::ServerStderr, b"caf\xe9")));
    let cut = TapFrame { length: 1 << 30, sha256: Some([7; 32]), ..frame(Direction::ServerToClient, b"{\"jsonr") };
    records.extend(tap.frame(&context, at(3), cut));
    let lost = TapFrame { terminated: false, delivered: false, ..frame(Direction::ClientToServer, call) };
    records.extend(tap.frame(&context, at(4), lost));
    let direction = Direction::ServerToClient;
    let gap = TapGap { direction, frames: 3, bytes: 99, from_unix_nano: 1, to_unix_nano: 4, reason: "overflow" };
    records.push(tap.gap(&context, at(5), gap));
    records.push(tap.closed(&context, at(6), direction, "source"));
    records.push(tap.exited(&context, at(7), None, Some(9)));
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record.delivery_key, format!("tap:run-1:{index}"));
        assert_eq!(record.connection_id.as_deref(), Some("run-1"));
        assert_eq!((record.source_kind, record.source_name.as_str()), (SourceKind::Wire, "orders"));
    }
    assert_eq!(records[1].raw.as_deref(), Some(call));
    expect![[r#"
        process name=started target=server attributes={"command":["server","--flag"],"pid":42}
        call name=tools/call tool=x keys=rpc:run-1:client/1 attributes={"threadline.definition_not_seen":true}
        log name=stderr text=caf�
        rejected outcome=error text=line is over the tap's limit; its beginning and its digest are kept attributes={"threadline.length":1073741824,"threadline.sha256":"0707070707070707070707070707070707070707070707070707070707070707"}
        call name=tools/call tool=x keys=rpc:run-1:client/1 attributes={"threadline.terminated":false,"threadline.delivered":false,"threadline.definition_not_seen":true}
        gap name=gap ns=3 text=3 lines (99 bytes) passed and were not recorded: overflow attributes={"frames":3,"bytes":99,"from_unix_nano":1,"to_unix_nano":4,"reason":"overflow"}
        connection name=closed status=closed by source
        process name=exited outcome=error status=signal 9 attributes={"threadline.unanswered":2}
    "#]].assert_eq(&records.iter().map(|record| shown(record) + "\n").collect::<String>());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), to_server in any::<bool>()) {
        let mut decoder = McpDecoder::new("mcp-stdio", "s", None, "c");
        let direction = if to_server { Direction::ClientToServer } else { Direction::ServerToClient };
        prop_assert!(!feed(&mut decoder, direction, &bytes, 1).is_empty());
    }

    /// Well-formed JSON-RPC with members of the wrong type everywhere.
    #[test]
    fn no_shape_panics(
        method in proptest::sample::select(vec!["tools/call", "tools/list", "initialize", "elicitation/create", "sampling/createMessage", "resources/read", "prompts/get", "completion/complete", "tasks/get"]),
        member in proptest::sample::select(vec!["tools", "content", "contents", "messages", "inputRequests", "inputResponses", "_meta", "requestState", "resultType", "name", "arguments", "structuredContent", "action", "isError", "serverInfo", "clientInfo", "ref", "completion", "task"]),
        value in proptest::sample::select(vec!["null", "1", "\"input_required\"", "[]", "{}", "[1]", "[{}]", "[[[]]]", "{\"a\":1}", "{\"a\":{\"method\":2}}", "{\"name\":[]}", "true"]),
    ) {
        let payload = format!(r#"{{"resultType":"input_required","{member}":{value}}}"#);
        let request = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{payload}}}"#);
        let response = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{payload}}}"#);
        let mut decoder = McpDecoder::new("mcp-stdio", "s", None, "c");
        for (direction, message) in [(Direction::ClientToServer, request), (Direction::ServerToClient, response)] {
            let records = feed(&mut decoder, direction, message.as_bytes(), 1);
            prop_assert!(records[0].kind != Kind::Rejected);
        }
    }
}
