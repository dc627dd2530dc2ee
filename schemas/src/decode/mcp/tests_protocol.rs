//! Every method of three revisions, tasks, definitions in force, rounds.

use super::method::{METHODS, Sender, is_known};
use super::tests::{check, decode, feed};
use super::*;
use crate::limits::mcp::{MIRRORED_MAX, TASKS_MAX, TOOLS_BYTES_MAX, TOOLS_MAX};
use expect_test::expect;

/// Methods as the schemas of the revisions list them.
const REVISIONS: [(&str, &[&str]); 3] = [
    (
        "2025-06-18",
        &[
            "initialize",
            "ping",
            "tools/list",
            "tools/call",
            "resources/list",
            "resources/templates/list",
            "resources/read",
            "resources/subscribe",
            "resources/unsubscribe",
            "prompts/list",
            "prompts/get",
            "completion/complete",
            "logging/setLevel",
            "sampling/createMessage",
            "elicitation/create",
            "roots/list",
            "notifications/initialized",
            "notifications/cancelled",
            "notifications/progress",
            "notifications/message",
            "notifications/roots/list_changed",
            "notifications/tools/list_changed",
            "notifications/resources/list_changed",
            "notifications/prompts/list_changed",
            "notifications/resources/updated",
        ],
    ),
    (
        "2025-11-25",
        &[
            "initialize",
            "ping",
            "tools/list",
            "tools/call",
            "resources/list",
            "resources/templates/list",
            "resources/read",
            "resources/subscribe",
            "resources/unsubscribe",
            "prompts/list",
            "prompts/get",
            "completion/complete",
            "logging/setLevel",
            "tasks/get",
            "tasks/result",
            "tasks/list",
            "tasks/cancel",
            "sampling/createMessage",
            "elicitation/create",
            "roots/list",
            "notifications/initialized",
            "notifications/cancelled",
            "notifications/progress",
            "notifications/message",
            "notifications/roots/list_changed",
            "notifications/tools/list_changed",
            "notifications/resources/list_changed",
            "notifications/prompts/list_changed",
            "notifications/resources/updated",
            "notifications/elicitation/complete",
            "notifications/tasks/status",
        ],
    ),
    (
        "2026-07-28 and its extension for tasks",
        &[
            "server/discover",
            "subscriptions/listen",
            "tools/list",
            "tools/call",
            "resources/list",
            "resources/templates/list",
            "resources/read",
            "prompts/list",
            "prompts/get",
            "completion/complete",
            "sampling/createMessage",
            "elicitation/create",
            "roots/list",
            "notifications/cancelled",
            "notifications/progress",
            "notifications/message",
            "notifications/tools/list_changed",
            "notifications/resources/list_changed",
            "notifications/prompts/list_changed",
            "notifications/resources/updated",
            "notifications/subscriptions/acknowledged",
            "tasks/get",
            "tasks/update",
            "tasks/cancel",
            "notifications/tasks",
        ],
    ),
];

#[test]
fn no_method_of_three_revisions_is_unknown() {
    for (revision, methods) in REVISIONS {
        for method in methods {
            assert!(is_known(method), "{revision}: {method}");
        }
    }
    for method in METHODS {
        assert!(
            REVISIONS.iter().any(|(_, methods)| methods.contains(&method.name)),
            "{} is of no revision",
            method.name
        );
    }
}

#[test]
fn each_method_has_its_kind_and_its_answer() {
    let mut shown = String::new();
    for method in METHODS {
        let (sign, back) = if method.sender == Sender::Server { ("<", ">") } else { (">", "<") };
        let is_notification = method.name.starts_with("notifications/");
        let id = if is_notification { "" } else { "\"id\":1," };
        let mut frames = format!("{sign} {{\"jsonrpc\":\"2.0\",{id}\"method\":\"{}\",\"params\":{{}}}}\n", method.name);
        if !is_notification {
            frames += &format!("{back} {{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{}}}}\n");
        }
        let records = decode(&frames);
        assert!(records.iter().all(|record| record.name.as_deref() == Some(method.name)));
        let is_plain = |record: &Record| record.attributes.is_none() || record.kind == Kind::Call;
        assert!(records.iter().all(is_plain), "{}", method.name);
        let kinds: Vec<String> = records.iter().map(|record| record.kind.to_string()).collect();
        shown += &format!("{} {:?}: {}\n", method.name, method.sender, kinds.join(", "));
        // From the other side it is noted.
        if method.sender != Sender::Either {
            let wrong =
                decode(&frames.lines().map(|line| line.replacen(sign, back, 1) + "\n").next().unwrap_or_default());
            assert!(wrong[0].attributes.as_deref().is_some_and(|text| text.contains("unexpected_sender")));
        }
    }
    expect![[r#"
        initialize Client: connection, connection
        server/discover Client: connection, connection
        subscriptions/listen Client: request, request
        ping Either: request, request
        tools/list Client: tool_list, tool_list
        tools/call Client: call, result
        resources/list Client: resource, resource
        resources/templates/list Client: resource, resource
        resources/read Client: resource, resource
        resources/subscribe Client: resource, resource
        resources/unsubscribe Client: resource, resource
        prompts/list Client: prompt_template, prompt_template
        prompts/get Client: prompt_template, prompt_template
        completion/complete Client: request, request
        logging/setLevel Client: request, request
        tasks/get Either: request, request
        tasks/result Either: request, request
        tasks/list Either: request, request
        tasks/cancel Either: request, request
        tasks/update Client: request, request
        sampling/createMessage Server: sampling, sampling
        elicitation/create Server: elicitation, elicitation
        roots/list Server: request, request
        notifications/initialized Client: notification
        notifications/cancelled Either: notification
        notifications/progress Either: notification
        notifications/message Server: notification
        notifications/roots/list_changed Client: notification
        notifications/tools/list_changed Server: notification
        notifications/resources/list_changed Server: notification
        notifications/prompts/list_changed Server: notification
        notifications/resources/updated Server: notification
        notifications/elicitation/complete Server: notification
        notifications/tasks/status Either: notification
        notifications/tasks Server: notification
        notifications/subscriptions/acknowledged Server: notification
    "#]]
    .assert_eq(&shown);
}

#[test]
fn a_task_of_2025_is_followed_to_its_result() {
    check(
        r#"
        > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"report","arguments":{},"task":{"ttl":60000},"_meta":{"claudecode/toolUseId":"toolu_1"}}}
        < {"jsonrpc":"2.0","id":1,"result":{"task":{"taskId":"t1","status":"working","statusMessage":"started"}}}
        > {"jsonrpc":"2.0","id":2,"method":"tasks/get","params":{"taskId":"t1"}}
        < {"jsonrpc":"2.0","id":2,"result":{"taskId":"t1","status":"input_required"}}
        < {"jsonrpc":"2.0","id":5,"method":"elicitation/create","params":{"message":"Sure?","_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t1"}}}}
        < {"jsonrpc":"2.0","method":"notifications/tasks/status","params":{"taskId":"t1","status":"completed"}}
        > {"jsonrpc":"2.0","id":3,"method":"tasks/result","params":{"taskId":"t1"}}
        < {"jsonrpc":"2.0","id":3,"result":{"content":[{"type":"text","text":"no such order"}],"isError":true,"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t1"}}}}
        > {"jsonrpc":"2.0","id":4,"method":"tasks/cancel","params":{"taskId":"t9"}}
        < {"jsonrpc":"2.0","id":4,"result":{"taskId":"t9","status":"cancelled","statusMessage":"by request"}}
        > {"jsonrpc":"2.0","id":6,"method":"tasks/list"}
        < {"jsonrpc":"2.0","id":6,"result":{"tasks":[{"taskId":"t1","status":"completed"},{"taskId":"t9","status":"cancelled"}]}}
        "#,
        expect![[r#"
            call name=tools/call tool=report call=toolu_1 arguments={} keys=rpc:c:client/1 attributes={"threadline.definition_not_seen":true,"task":{"ttl":60000},"_meta":{"claudecode/toolUseId":"toolu_1"}}
            result name=tools/call tool=report ns=1000 call=toolu_1 text=started result={"task":{"taskId":"t1","status":"working","statusMessage":"started"}} keys=rpc:c:client/1,task:orders/t1
            request name=tasks/get tool=report target=t1 call=toolu_1 keys=rpc:c:client/2,task:orders/t1 attributes={"taskId":"t1"}
            request name=tasks/get tool=report target=t1 outcome=input_required ns=1000 call=toolu_1 text=input_required result={"taskId":"t1","status":"input_required"} keys=rpc:c:client/2,task:orders/t1
            elicitation name=elicitation/create tool=report call=toolu_1 text=Sure? keys=rpc:c:server/5,task:orders/t1 attributes={"message":"Sure?","_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t1"}}}
            notification name=notifications/tasks/status tool=report target=t1 outcome=ok call=toolu_1 text=completed keys=task:orders/t1 attributes={"taskId":"t1","status":"completed"}
            request name=tasks/result tool=report target=t1 call=toolu_1 keys=rpc:c:client/3,task:orders/t1 attributes={"taskId":"t1"}
            result name=tasks/result tool=report target=t1 outcome=error is_error=true ns=1000 call=toolu_1 text=no such order result={"content":[{"type":"text","text":"no such order"}],"isError":true,"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t1"}}} keys=rpc:c:client/3,task:orders/t1
            request name=tasks/cancel target=t9 keys=rpc:c:client/4,task:orders/t9 attributes={"taskId":"t9"}
            request name=tasks/cancel target=t9 outcome=cancelled ns=1000 text=by request result={"taskId":"t9","status":"cancelled","statusMessage":"by request"} keys=rpc:c:client/4,task:orders/t9
            request name=tasks/list keys=rpc:c:client/6
            request name=tasks/list outcome=ok ns=1000 text=t1, t9 result={"tasks":[{"taskId":"t1","status":"completed"},{"taskId":"t9","status":"cancelled"}]} keys=rpc:c:client/6
        "#]],
    );
}

#[test]
fn a_task_of_2026_brings_its_outcome_along() {
    check(
        r#"
        > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"report"}}
        < {"jsonrpc":"2.0","id":1,"result":{"resultType":"task","taskId":"t1","status":"working"}}
        > {"jsonrpc":"2.0","id":2,"method":"tasks/get","params":{"taskId":"t1"}}
        < {"jsonrpc":"2.0","id":2,"result":{"resultType":"complete","taskId":"t1","status":"input_required","inputRequests":{"q":{"method":"elicitation/create","params":{"message":"Sure?"}}}}}
        > {"jsonrpc":"2.0","id":3,"method":"tasks/update","params":{"taskId":"t1","inputResponses":{"q":{"action":"accept","content":{}}}}}
        < {"jsonrpc":"2.0","id":3,"result":{"resultType":"complete"}}
        < {"jsonrpc":"2.0","method":"notifications/tasks","params":{"taskId":"t1","status":"completed","result":{"content":[{"type":"text","text":"done"}]},"_meta":{"io.modelcontextprotocol/subscriptionId":7}}}
        > {"jsonrpc":"2.0","id":4,"method":"tasks/get","params":{"taskId":"t1"}}
        < {"jsonrpc":"2.0","id":4,"result":{"resultType":"complete","taskId":"t1","status":"completed","result":{"content":[{"type":"text","text":"done"}],"isError":false}}}
        > {"jsonrpc":"2.0","id":5,"method":"tasks/get","params":{"taskId":"t2"}}
        < {"jsonrpc":"2.0","id":5,"result":{"resultType":"complete","taskId":"t2","status":"failed","error":{"code":-32603,"message":"out of paper"}}}
        "#,
        expect![[r#"
            call name=tools/call tool=report keys=rpc:c:client/1 attributes={"threadline.definition_not_seen":true}
            result name=tools/call tool=report ns=1000 text=working result={"resultType":"task","taskId":"t1","status":"working"} keys=rpc:c:client/1,task:orders/t1
            request name=tasks/get tool=report target=t1 keys=rpc:c:client/2,task:orders/t1 attributes={"taskId":"t1"}
            request name=tasks/get tool=report target=t1 outcome=input_required ns=1000 text=input_required result={"resultType":"complete","taskId":"t1","status":"input_required","inputRequests":{"q":{"method":"elicitation/create","params":{"message":"Sure?"}}}} keys=rpc:c:client/2,task:orders/t1
            elicitation name=elicitation/create tool=report text=Sure? keys=rpc:c:client/2,task:orders/t1 attributes={"threadline.input_request":"q","message":"Sure?"}
            request name=tasks/update tool=report target=t1 keys=rpc:c:client/3,task:orders/t1 attributes={"taskId":"t1"}
            approval name=elicitation/create tool=report target=t1 outcome=ok decision=allow text=accept result={"action":"accept","content":{}} keys=rpc:c:client/3,task:orders/t1 attributes={"threadline.input_request":"q"}
            request name=tasks/update tool=report target=t1 outcome=ok ns=1000 result={"resultType":"complete"} keys=rpc:c:client/3,task:orders/t1
            notification name=notifications/tasks tool=report target=t1 outcome=ok is_error=false text=done keys=task:orders/t1,rpc:c:client/7 attributes={"taskId":"t1","status":"completed","result":{"content":[{"type":"text","text":"done"}]},"_meta":{"io.modelcontextprotocol/subscriptionId":7}}
            request name=tasks/get tool=report target=t1 keys=rpc:c:client/4,task:orders/t1 attributes={"taskId":"t1"}
            result name=tasks/get tool=report target=t1 outcome=ok is_error=false ns=1000 text=done result={"resultType":"complete","taskId":"t1","status":"completed","result":{"content":[{"type":"text","text":"done"}],"isError":false}} keys=rpc:c:client/4,task:orders/t1
            request name=tasks/get target=t2 keys=rpc:c:client/5,task:orders/t2 attributes={"taskId":"t2"}
            request name=tasks/get target=t2 outcome=error code=-32603 ns=1000 text=out of paper result={"resultType":"complete","taskId":"t2","status":"failed","error":{"code":-32603,"message":"out of paper"}} keys=rpc:c:client/5,task:orders/t2
        "#]],
    );
}

#[test]
fn remembered_tasks_are_bounded() {
    let mut decoder = McpDecoder::new("mcp-stdio", "s", None, "c");
    let mut number = 0;
    let mut say = |direction, message: String| {
        number += 1;
        feed(&mut decoder, direction, message.as_bytes(), number).remove(0)
    };
    for id in 0..TASKS_MAX + 1 {
        say(
            Direction::ClientToServer,
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"n{id}"}}}}"#),
        );
        say(
            Direction::ServerToClient,
            format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"task":{{"taskId":"t{id}"}}}}}}"#),
        );
    }
    let mut tool_of = |id: usize| {
        let poll = format!(r#"{{"jsonrpc":"2.0","id":"p","method":"tasks/get","params":{{"taskId":"t{id}"}}}}"#);
        say(Direction::ClientToServer, poll).tool_name
    };
    assert_eq!(tool_of(0), None);
    assert_eq!(tool_of(1).as_deref(), Some("n1"));
}

/// Tool, digest in short, and what is noted about the definition, of each call and finding.
fn definitions(frames: &str) -> String {
    let shown = |record: &Record| {
        let digest = record.definition_digest.as_deref().map_or("-", |digest| &digest[..8]);
        let keys: Vec<&str> =
            record.keys.iter().filter_map(|key| key.strip_prefix("definition:")).map(|key| &key[..8]).collect();
        format!(
            "{} {} {digest} [{}] {} {}\n",
            record.kind,
            record.tool_name.as_deref().unwrap_or("-"),
            keys.join(","),
            record.text.as_deref().unwrap_or("-"),
            record.attributes.as_deref().unwrap_or("-")
        )
    };
    decode(frames).iter().filter(|record| matches!(record.kind, Kind::Call | Kind::Finding)).map(shown).collect()
}

#[test]
fn a_call_bears_the_definition_in_force() {
    let shown = definitions(
        r#"
        > {"jsonrpc":"2.0","id":0,"method":"tools/call","params":{"name":"a"}}
        > {"jsonrpc":"2.0","id":1,"method":"tools/list"}
        < {"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a","description":"one","inputSchema":{}}],"nextCursor":"n"}}
        > {"jsonrpc":"2.0","id":2,"method":"tools/list","params":{"cursor":"n"}}
        < {"jsonrpc":"2.0","id":2,"result":{"tools":[{"name":"b","inputSchema":{}}]}}
        > {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"a"}}
        > {"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"c"}}
        < {"jsonrpc":"2.0","method":"notifications/tools/list_changed"}
        > {"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"a"}}
        > {"jsonrpc":"2.0","id":6,"method":"tools/list"}
        < {"jsonrpc":"2.0","id":6,"result":{"tools":[{"inputSchema":{},"name":"a","description":"one"}]}}
        > {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"b"}}
        > {"jsonrpc":"2.0","id":8,"method":"tools/list"}
        < {"jsonrpc":"2.0","id":8,"result":{"tools":[{"name":"a","description":"two","inputSchema":{"type":"object"}},{"name":"b","inputSchema":{},"annotations":{"readOnlyHint":true}}]}}
        > {"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"a"}}
        "#,
    );
    expect![[r#"
        call a - [] - {"threadline.definition_not_seen":true}
        call a 06e08308 [06e08308] - -
        call c - [] - {"threadline.tool_not_listed":true}
        call a 06e08308 [06e08308] - {"threadline.definition_stale":true}
        call b - [] - {"threadline.tool_not_listed":true}
        finding a acc7a66e [acc7a66e,06e08308] definition of tool a changed between two lists: description, inputSchema {"threadline.definition_before":"06e08308b5f40c4fd652d9fef029a6c9a328a7d4c2f2ebc040933a9122025e10","threadline.changed_members":["description","inputSchema"]}
        finding b d1ec0d16 [d1ec0d16,a22828ef] definition of tool b changed between two lists: annotations {"threadline.definition_before":"a22828ef93dc7283d6a033e4ce4e7df9104c1114b1f267a25f6bcb8cd3e06754","threadline.changed_members":["annotations"]}
        call a acc7a66e [acc7a66e] - -
    "#]].assert_eq(&shown);
}

#[test]
fn of_two_tools_of_one_name_the_first_counts_and_nothing_has_changed() {
    let list = r#"{"tools":[{"name":"a","description":"one"},{"name":"a","description":"two"}]}"#;
    let frames = format!(
        r#"> {{"jsonrpc":"2.0","id":1,"method":"tools/list"}}
        < {{"jsonrpc":"2.0","id":1,"result":{list}}}
        > {{"jsonrpc":"2.0","id":2,"method":"tools/list"}}
        < {{"jsonrpc":"2.0","id":2,"result":{list}}}
        > {{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{{"name":"a"}}}}"#
    );
    let first = definition::digest(&json::parse(br#"{"name":"a","description":"one"}"#).unwrap().value);
    assert_eq!(definitions(&frames), format!("call a {short} [{short}] - -\n", short = &first[..8]));
}

#[test]
fn lists_under_way_at_once_do_not_mix() {
    let tool = |name: &str, text: &str| {
        let tool = format!(r#"{{"name":"{name}","description":"{text}"}}"#);
        json::parse(tool.as_bytes()).unwrap().value
    };
    let listed = |inventory: &inventory::Inventory, name: &str| match inventory.in_force(name) {
        InForce::Listed { digest, .. } => digest.to_string(),
        InForce::NotListed => "not listed".into(),
        InForce::Unknown => "unknown".into(),
    };
    let mut inventory = inventory::Inventory::default();
    // Two clients read the pages of one list, with one cursor.
    let (first, second) = (inventory.ask(None), inventory.ask(None));
    for list in [first, second] {
        assert_eq!(inventory.take(list, &tool("a", "one"), "a1"), None);
        inventory.page(list, Some("next"));
    }
    let (third, fourth) = (inventory.ask(Some("next")), inventory.ask(Some("next")));
    for list in [third, fourth] {
        inventory.take(list, &tool("b", "one"), "b1");
        inventory.page(list, None);
    }
    assert_eq!(["a", "b", "c"].map(|name| listed(&inventory, name)), ["a1", "b1", "not listed"]);
    // A list that was asked for before does not hide that what came since is another one.
    let (first, second) = (inventory.ask(None), inventory.ask(None));
    assert_eq!(inventory.take(first, &tool("a", "one"), "a1"), None);
    inventory.page(first, None);
    let change = inventory.take(second, &tool("a", "two"), "a2").unwrap();
    assert_eq!((change.was.as_str(), change.members), ("a1", vec!["description"]));
    // What was begun before everything was forgotten says what it lists, but not what is not listed.
    inventory.forget();
    inventory.take(second, &tool("a", "two"), "a2");
    inventory.page(second, None);
    assert_eq!(["a", "b"].map(|name| listed(&inventory, name)), ["a2", "unknown"]);
}

#[test]
fn an_inventory_is_bounded() {
    let mut inventory = inventory::Inventory::default();
    let list = inventory.ask(None);
    for at in 0..TOOLS_MAX + 10 {
        let tool = json::parse(format!(r#"{{"name":"t{at}"}}"#).as_bytes()).unwrap().value;
        assert_eq!(inventory.take(list, &tool, "d"), None);
    }
    inventory.page(list, None);
    assert_eq!(inventory.in_force("t0"), InForce::Listed { digest: "d", is_stale: false });
    // Not followed is not the same as not listed.
    assert_eq!(inventory.in_force(&format!("t{}", TOOLS_MAX + 1)), InForce::Unknown);
    let long = json::parse(format!(r#"{{"name":"{}"}}"#, "x".repeat(1000)).as_bytes()).unwrap().value;
    assert_eq!(inventory.take(list, &long, "d"), None);
}

#[test]
fn pages_to_come_are_bounded() {
    use crate::limits::mcp::LISTS_MAX;
    let mut inventory = inventory::Inventory::default();
    for number in 0..=LISTS_MAX {
        let list = inventory.ask(None);
        inventory.page(list, Some(&number.to_string()));
    }
    assert_eq!(inventory.ask(Some("0")), inventory::List::default());
    assert_ne!(inventory.ask(Some("1")), inventory::List::default());
}

#[test]
fn an_inventory_is_bounded_in_bytes_too() {
    let property = |at: usize| format!(r#""{at:0>256}":{{"x-mcp-header":"{at:0>256}"}}"#);
    let properties: Vec<String> = (0..40).map(property).collect();
    let schema = format!(r#"{{"properties":{{{}}}}}"#, properties.join(","));
    let mut inventory = inventory::Inventory::default();
    let list = inventory.ask(None);
    for at in 0..TOOLS_MAX {
        let tool = format!(r#"{{"name":"t{at}","inputSchema":{schema}}}"#);
        inventory.take(list, &json::parse(tool.as_bytes()).unwrap().value, "d");
        assert!(inventory.bytes() <= TOOLS_BYTES_MAX);
    }
    inventory.page(list, None);
    assert!(inventory.bytes() > TOOLS_BYTES_MAX - (1 << 16), "the bound was never met");
    assert_eq!(inventory.in_force("t0"), InForce::Listed { digest: "d", is_stale: false });
    assert_eq!(inventory.in_force("t4000"), InForce::Unknown);
    assert_eq!(inventory.mirrored("t0").map(<[_]>::len), Some(MIRRORED_MAX));
    // A way of long names, many times over, is not remembered.
    let long =
        format!(r#"{{"name":"l","inputSchema":{{"properties":{{"{}":{{"x-mcp-header":"h"}}}}}}}}"#, "x".repeat(257));
    let mut inventory = inventory::Inventory::default();
    let list = inventory.ask(None);
    inventory.take(list, &json::parse(long.as_bytes()).unwrap().value, "d");
    inventory.page(list, None);
    assert_eq!(inventory.mirrored("l"), Some([].as_slice()));
    // A shorter list makes room again.
    assert_eq!(inventory.in_force("other"), InForce::NotListed);
}

#[test]
fn over_stdio_too_a_server_sends_no_requests_since_2026_07_28() {
    let mismatches = |frames: &str| {
        let said = |record: &&Record| record.attributes.as_deref().is_some_and(|a| a.contains("protocol_mismatch"));
        decode(frames).iter().filter(said).count()
    };
    let modern = r#"{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let ask = r#"{"jsonrpc":"2.0","id":7,"method":"roots/list"}"#;
    assert_eq!(mismatches(&format!("> {modern}\n< {ask}")), 1);
    // The server does not know the revision, and the client falls back.
    let back = r#"{"jsonrpc":"2.0","id":2,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
    assert_eq!(mismatches(&format!("> {modern}\n> {back}\n< {ask}")), 0);
    // What the server settles for counts.
    let newer = r#"{"jsonrpc":"2.0","id":2,"method":"initialize","params":{"protocolVersion":"2026-07-28"}}"#;
    let older = r#"{"jsonrpc":"2.0","id":2,"result":{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"s"}}}"#;
    assert_eq!(mismatches(&format!("> {newer}\n< {older}\n< {ask}")), 0);
}

#[test]
fn what_comes_on_a_subscription_names_its_request() {
    check(
        r#"
        > {"jsonrpc":"2.0","id":7,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true}}}
        < {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":7}}}
        < {"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"file:///a","_meta":{"io.modelcontextprotocol/subscriptionId":7}}}
        < {"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":7}}}
        "#,
        expect![[r#"
            request name=subscriptions/listen keys=rpc:c:client/7 attributes={"notifications":{"toolsListChanged":true}}
            notification name=notifications/subscriptions/acknowledged keys=rpc:c:client/7 attributes={"_meta":{"io.modelcontextprotocol/subscriptionId":7}}
            notification name=notifications/resources/updated target=file:///a keys=rpc:c:client/7 attributes={"uri":"file:///a","_meta":{"io.modelcontextprotocol/subscriptionId":7}}
            request name=subscriptions/listen outcome=ok ns=3000 result={"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":7}} keys=rpc:c:client/7
        "#]],
    );
}

#[test]
fn urls_to_visit_before_a_call_are_questions() {
    check(
        r#"
        > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay"}}
        < {"jsonrpc":"2.0","id":1,"error":{"code":-32042,"message":"visit","data":{"elicitations":[{"mode":"url","elicitationId":"e1","url":"https://pay.example/1","message":"Confirm"}]}}}
        < {"jsonrpc":"2.0","method":"notifications/elicitation/complete","params":{"elicitationId":"e1"}}
        "#,
        expect![[r#"
            call name=tools/call tool=pay keys=rpc:c:client/1 attributes={"threadline.definition_not_seen":true}
            result name=tools/call tool=pay outcome=input_required code=-32042 ns=1000 text=visit keys=rpc:c:client/1 attributes={"error":{"code":-32042,"message":"visit","data":{"elicitations":[{"mode":"url","elicitationId":"e1","url":"https://pay.example/1","message":"Confirm"}]}}}
            elicitation name=elicitation/create tool=pay target=https://pay.example/1 text=Confirm keys=rpc:c:client/1 attributes={"mode":"url","elicitationId":"e1","url":"https://pay.example/1","message":"Confirm"}
            notification name=notifications/elicitation/complete target=e1 attributes={"elicitationId":"e1"}
        "#]],
    );
}

/// All recorded MCP traffic, by connection in order.
fn recorded() -> Vec<Record> {
    use crate::decode::stdio_capture::tests::{decode, files};
    files().iter().flat_map(|file| decode(file)).collect()
}

#[test]
fn recorded_calls_bear_the_definition_they_were_made_under() {
    let mut listed: std::collections::HashMap<(Option<String>, Option<String>), Option<String>> = Default::default();
    let (mut with, mut unlisted, mut without, mut findings) = (0, 0, 0, 0);
    for record in recorded() {
        let tool = (record.connection_id.clone(), record.tool_name.clone());
        let notes = record.attributes.as_deref().unwrap_or_default();
        match (record.kind, &record.definition_digest) {
            (Kind::ToolDefinition, digest) => _ = listed.insert(tool, digest.clone()),
            (Kind::Call, Some(digest)) => {
                assert_eq!(listed.get(&tool), Some(&Some(digest.clone())), "{}", record.delivery_key);
                assert!(record.keys.contains(&format!("definition:{digest}")));
                with += 1;
            }
            (Kind::Call, None) if notes.contains("threadline.tool_not_listed") => unlisted += 1,
            (Kind::Call, None) => without += 1,
            (Kind::Finding, _) => findings += 1,
            _ => {}
        }
    }
    let shown = format!("{with} with, {unlisted} of tools in no list, {without} before any list, {findings} changed");
    expect!["125 with, 8 of tools in no list, 26 before any list, 0 changed"].assert_eq(&shown);
}

#[test]
fn nothing_recorded_is_unknown_or_from_the_wrong_side() {
    let records = recorded();
    let mut methods = std::collections::BTreeMap::new();
    let is_message = |record: &&Record| record.kind != Kind::Log && record.direction.is_some();
    for record in records.iter().filter(is_message) {
        let notes = record.attributes.as_deref().unwrap_or_default();
        assert!(!notes.contains("threadline.unexpected_sender"), "{}", record.delivery_key);
        let Some(name) = record.name.as_deref() else { continue };
        *methods.entry(name.to_string()).or_insert(0) += 1;
    }
    // What HTTP says about an exchange is no method.
    let unknown: Vec<&String> = methods.keys().filter(|name| !is_known(name)).collect();
    expect![[r#"["DELETE", "GET", "client-disconnect", "http client-disconnect"]"#]].assert_eq(&format!("{unknown:?}"));
    let shown: Vec<String> = methods.iter().map(|(name, count)| format!("{count} {name}")).collect();
    expect![[r#"
        18 DELETE
        27 GET
        2 client-disconnect
        10 elicitation/create
        13 http client-disconnect
        117 initialize
        3 notifications/cancelled
        57 notifications/initialized
        12 notifications/message
        19 notifications/progress
        32 notifications/tools/list_changed
        28 prompts/get
        46 prompts/list
        46 resources/list
        28 resources/read
        48 roots/list
        8 sampling/createMessage
        30 server/discover
        313 tools/call
        950 tools/list"#]]
    .assert_eq(&shown.join("\n"));
}
