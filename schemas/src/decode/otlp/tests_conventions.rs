//! Names old and new, and emitters that were not recorded: by their documented shapes.

use super::*;
use crate::decode::tests::context;
use crate::record::Kind;
use expect_test::{Expect, expect};
use std::fmt::Write;

/// `key=value` pairs separated by line breaks; values are JSON or else text.
fn attributes(text: &str) -> String {
    let pairs = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| {
        let (key, value) = line.split_once('=').unwrap();
        let value = match value {
            "true" | "false" => format!(r#"{{"boolValue":{value}}}"#),
            _ if value.parse::<i64>().is_ok() => format!(r#"{{"intValue":{value}}}"#),
            _ => format!(r#"{{"stringValue":{}}}"#, serde_json::Value::from(value)),
        };
        format!(r#"{{"key":"{key}","value":{value}}}"#)
    });
    pairs.collect::<Vec<_>>().join(",")
}

fn span(service: &str, scope: &str, name: &str, kind: u8, text: &str) -> Vec<Record> {
    let body = format!(
        r#"{{"resourceSpans":[{{"resource":{{"attributes":[{{"key":"service.name","value":{{"stringValue":"{service}"}}}}]}},
        "scopeSpans":[{{"scope":{{"name":"{scope}"}},"spans":[{{"name":"{name}","kind":{kind},"traceId":"0af7651916cd43dd8448eb211c80319c",
        "spanId":"b7ad6b7169203331","startTimeUnixNano":"5","endTimeUnixNano":"9","attributes":[{}]}}]}}]}}]}}"#,
        attributes(text)
    );
    decode_body(&context(), body.as_bytes(), Signal::Traces, Encoding::Json, None).unwrap().records
}

fn log(service: &str, scope: &str, body: &str, text: &str) -> Vec<Record> {
    let body = format!(
        r#"{{"resourceLogs":[{{"resource":{{"attributes":[{{"key":"service.name","value":{{"stringValue":"{service}"}}}}]}},
        "scopeLogs":[{{"scope":{{"name":"{scope}"}},"logRecords":[{{"timeUnixNano":"5","body":{body},"attributes":[{}]}}]}}]}}]}}"#,
        attributes(text)
    );
    decode_body(&context(), body.as_bytes(), Signal::Logs, Encoding::Json, None).unwrap().records
}

fn check(records: Vec<Record>, expected: Expect) {
    expected.assert_eq(&shown(records));
}

fn shown(records: Vec<Record>) -> String {
    let mut out = String::new();
    for record in records {
        write!(out, "{} {}", record.kind, record.source_kind).unwrap();
        let mut field = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                write!(out, " {name}={value}").unwrap();
            }
        };
        field("name", record.name);
        field("server", record.server_name);
        field("tool", record.tool_name);
        field("target", record.target);
        field("outcome", record.outcome.map(|outcome| outcome.to_string()));
        field("code", record.rpc_error_code.map(|code| code.to_string()));
        field("is_error", record.tool_is_error.map(|flag| flag.to_string()));
        field("error", record.error_type);
        field(
            "decision",
            record.decision.map(|decision| format!("{decision} by {}", record.decision_by.unwrap_or_default())),
        );
        field("agent", record.agent_name);
        field("user", record.user_claimed);
        field("conversation", record.conversation_id);
        field("turn", record.turn_id);
        field("call", record.tool_call_id);
        field("rpc", record.rpc_id);
        field("ns", record.duration_nano.map(|nanos| nanos.to_string()));
        field("authority", record.authority);
        field("text", record.text);
        field("arguments", record.arguments);
        field("result", record.result);
        field("keys", Some(record.keys.join(",")).filter(|keys| !keys.is_empty()));
        out.push('\n');
    }
    out
}

#[test]
fn an_mcp_call_under_its_names_old_and_new() {
    let new = "mcp.method.name=tools/call\ngen_ai.tool.name=refund\njsonrpc.request.id=7\nmcp.session.id=s1\nrpc.response.status_code=-32602\ngen_ai.tool.call.arguments={\"n\":1}\ngen_ai.tool.call.result={\"ok\":true}";
    let old = "rpc.system=jsonrpc\nrpc.method=tools/call\nmcp.tool.name=refund\nrpc.jsonrpc.request_id=7\nmcp.session.id=s1\nrpc.jsonrpc.error_code=-32602\nmcp.tool.arguments={\"n\":1}\nmcp.tool.result={\"ok\":true}";
    let older = "mcp.method=tools/call\nmcp.tool.name=refund\nmcp.request.id=7\nmcp.session.id=s1\nmcp.error.code=-32602\nmcp.tool.arguments={\"n\":1}\nmcp.tool.result={\"ok\":true}";
    for text in [new, old, older] {
        let expected = "call server name=tools/call refund tool=refund code=-32602 rpc=7 ns=4 arguments={\"n\":1} result={\"ok\":true} keys=mcp-session:orders-mcp/s1\n";
        assert_eq!(shown(span("orders-mcp", "x", "tools/call refund", 2, text)), expected);
    }
    for (method, kind) in
        [("ping", Kind::Request), ("mcp/tasks/get", Kind::Request), ("resources/read", Kind::Resource)]
    {
        let records =
            span("s", "x", "y", 2, &format!("rpc.system=jsonrpc\nrpc.method={method}\nmcp.resource.uri=file:///a"));
        assert_eq!(records[0].kind, kind);
    }
    // A method of another protocol is none of MCP.
    assert_eq!(span("s", "x", "y", 2, "rpc.system=grpc\nrpc.method=Export")[0].kind, Kind::Span);
}

#[test]
fn a_request_to_a_model_under_its_names_old_and_new() {
    check(
        span(
            "shop-agent",
            "x",
            "chat gpt",
            3,
            "gen_ai.operation.name=chat\ngen_ai.provider.name=openai\ngen_ai.request.model=gpt-5\ngen_ai.response.id=resp_1\ngen_ai.conversation.id=c1\ngen_ai.input.messages=[{\"role\":\"user\",\"parts\":[{\"type\":\"text\",\"content\":\"refund 1001\"}]}]\ngen_ai.output.messages=[{\"role\":\"assistant\",\"parts\":[{\"type\":\"text\",\"content\":\"I will.\"},{\"type\":\"tool_call\",\"id\":\"call_1\",\"name\":\"mcp__orders__refund\",\"arguments\":{\"id\":\"1001\"}}],\"finish_reason\":\"tool_call\"}]",
        ),
        expect![[r#"
            model_request host name=chat gpt target=gpt-5 conversation=c1 ns=4 text=I will. arguments=[{"role":"user","parts":[{"type":"text","content":"refund 1001"}]}] result=[{"role":"assistant","parts":[{"type":"text","content":"I will."},{"type":"tool_call","id":"call_1","name":"mcp__orders__refund","arguments":{"id":"1001"}}],"finish_reason":"tool_call"}] keys=response:resp_1
            selection host name=tool_call server=orders tool=refund conversation=c1 call=call_1 arguments={"id":"1001"}
        "#]],
    );
    check(
        span(
            "shop-agent",
            "x",
            "openai.chat",
            3,
            "gen_ai.system=openai\ngen_ai.request.model=gpt-4o\ngen_ai.prompt=refund 1001\ngen_ai.completion=Done.",
        ),
        expect![[r#"
            model_request host name=openai.chat target=gpt-4o ns=4 arguments="refund 1001" result="Done."
        "#]],
    );
    check(
        span(
            "shop-agent",
            "x",
            "generate",
            3,
            "gen_ai.operation.name=invoke_agent\ngen_ai.system=openai\ngen_ai.request.model=gpt-4o\ngen_ai.agent.name=seller",
        ),
        expect![[r#"
            span host name=generate agent=seller ns=4
        "#]],
    );
}

#[test]
fn openllmetry_numbers_its_messages() {
    check(
        span(
            "traceloop-app",
            "opentelemetry.instrumentation.openai.v1",
            "openai.chat",
            3,
            "llm.request.type=chat\ngen_ai.system=OpenAI\ngen_ai.request.model=gpt-4o\ntraceloop.association.properties.session_id=c7\ntraceloop.association.properties.user_id=ann\ngen_ai.prompt.0.role=user\ngen_ai.prompt.0.content=hi\ngen_ai.completion.0.content=Looking.\ngen_ai.completion.0.tool_calls.0.id=call_a\ngen_ai.completion.0.tool_calls.0.name=lookup\ngen_ai.completion.0.tool_calls.0.arguments={\"id\": 7}\ngen_ai.completion.0.tool_calls.1.id=call_b\ngen_ai.completion.0.tool_calls.1.name=refund\ngen_ai.completion.0.tool_calls.1.arguments={}",
        ),
        expect![[r#"
            model_request host name=openai.chat target=gpt-4o user=ann conversation=c7 ns=4 text=Looking.
            selection host name=tool_call tool=lookup user=ann conversation=c7 call=call_a arguments={"id": 7}
            selection host name=tool_call tool=refund user=ann conversation=c7 call=call_b arguments={}
        "#]],
    );
    check(
        span(
            "traceloop-app",
            "opentelemetry.instrumentation.langchain",
            "planner.agent",
            1,
            "traceloop.span.kind=agent\ntraceloop.entity.name=planner\ntraceloop.workflow.name=w",
        ),
        expect![[r#"
            span host name=planner.agent agent=planner ns=4
        "#]],
    );
    check(
        span(
            "traceloop-app",
            "opentelemetry.instrumentation.langchain",
            "lookup.tool",
            1,
            "traceloop.span.kind=tool\ntraceloop.entity.name=lookup\ntraceloop.entity.input={\"tool_name\":\"lookup\",\"arguments\":{\"id\":7}}\ntraceloop.entity.output={\"result\":\"x\",\"is_error\":true}",
        ),
        expect![[r#"
            call unknown name=lookup.tool tool=lookup is_error=true ns=4 arguments={"id":7} result={"result":"x","is_error":true}
        "#]],
    );
}

#[test]
fn openinference_has_names_of_its_own() {
    check(
        span(
            "app",
            "openinference.instrumentation.openai",
            "ChatCompletion",
            1,
            "openinference.span.kind=LLM\nllm.model_name=gpt-4o\nsession.id=c9\nuser.id=ben\ninput.value={\"messages\":[]}\noutput.value={\"choices\":[]}\nllm.output_messages.0.message.content=ok\nllm.output_messages.0.message.tool_calls.0.tool_call.id=call_x\nllm.output_messages.0.message.tool_calls.0.tool_call.function.name=lookup\nllm.output_messages.0.message.tool_calls.0.tool_call.function.arguments={\"id\":1}",
        ),
        expect![[r#"
            model_request host name=ChatCompletion target=gpt-4o user=ben conversation=c9 ns=4 text=ok arguments={"messages":[]} result={"choices":[]}
            selection host name=tool_call tool=lookup user=ben conversation=c9 call=call_x arguments={"id":1}
        "#]],
    );
    check(
        span(
            "app",
            "openinference.instrumentation.langchain",
            "lookup",
            1,
            "openinference.span.kind=TOOL\ntool.name=lookup\ntool.id=call_x\ninput.value={\"id\":1}\noutput.value=found",
        ),
        expect![[r#"
            call unknown name=lookup tool=lookup call=call_x ns=4 arguments={"id":1} result="found"
        "#]],
    );
    check(
        span(
            "app",
            "openinference.instrumentation.langchain",
            "agent",
            1,
            "openinference.span.kind=AGENT\nagent.name=helper",
        ),
        expect![[r#"
            span host name=agent agent=helper ns=4
        "#]],
    );
}

#[test]
fn older_libraries_report_message_by_message() {
    let body = r#"{"kvlistValue":{"values":[{"key":"index","value":{"intValue":0}},{"key":"finish_reason","value":{"stringValue":"tool_calls"}},
        {"key":"message","value":{"kvlistValue":{"values":[{"key":"role","value":{"stringValue":"assistant"}},{"key":"content","value":{"stringValue":"One moment."}},
        {"key":"tool_calls","value":{"arrayValue":{"values":[{"kvlistValue":{"values":[{"key":"id","value":{"stringValue":"call_9"}},{"key":"type","value":{"stringValue":"function"}},
        {"key":"function","value":{"kvlistValue":{"values":[{"key":"name","value":{"stringValue":"lookup"}},{"key":"arguments","value":{"stringValue":"{\"id\":\"7\"}"}}]}}}]}}]}}}]}}}]}}"#;
    check(
        log("app", "opentelemetry.instrumentation.openai_v2", body, "event.name=gen_ai.choice\ngen_ai.system=openai"),
        expect![[r#"
            completion unknown name=gen_ai.choice text=One moment.
            selection unknown name=tool_call tool=lookup call=call_9 arguments={"id":"7"}
        "#]],
    );
    let body = r#"{"kvlistValue":{"values":[{"key":"content","value":{"stringValue":"refund 1001"}}]}}"#;
    check(
        log(
            "app",
            "opentelemetry.instrumentation.openai_v2",
            body,
            "event.name=gen_ai.user.message\ngen_ai.system=openai",
        ),
        expect![[r#"
            model_request unknown name=gen_ai.user.message text=refund 1001
        "#]],
    );
    check(
        log("app", "x", "null", "event.name=gen_ai.client.operation.exception\nerror.type=timeout"),
        expect![[r#"
        model_request unknown name=gen_ai.client.operation.exception outcome=error error=timeout
    "#]],
    );
}

#[test]
fn gemini_cli_names_tools_with_their_server() {
    let names =
        ["orders__refund", "mcp__orders__refund", "mcp_orders_refund", "refund", "orders_refund", "mcp_orders_"];
    let tool = |name: &str| {
        let attributes = format!("event.name=gemini_cli.tool_call\nfunction_name={name}\nmcp_server_name=orders");
        let records = log("gemini-cli", "gemini-cli", r#"{"stringValue":"body"}"#, &attributes);
        records[0].tool_name.clone().unwrap_or_default()
    };
    expect!["refund refund refund refund orders_refund mcp_orders_"].assert_eq(&names.map(tool).join(" "));
}

#[test]
fn gemini_cli_by_its_documentation() {
    let event =
        |text: &str| log("gemini-cli", "gemini-cli", r#"{"stringValue":"body"}"#, &format!("session.id=c1\n{text}"));
    check(
        event("event.name=gemini_cli.config\nmodel=g\napproval_mode=default\nsandbox_enabled=true\nmcp_servers=orders"),
        expect![[r#"
            session host name=gemini_cli.config agent=gemini-cli conversation=c1 authority={"approval_mode":"default","sandbox_enabled":true,"mcp_servers":"orders"} text=body
        "#]],
    );
    check(
        event(
            "event.name=gemini_cli.user_prompt\nprompt_id=p1\nprompt_length=9\nprompt=refund it\nuser.email=ann@example.com",
        ),
        expect![[r#"
            prompt host name=gemini_cli.user_prompt agent=gemini-cli user=ann@example.com conversation=c1 turn=p1 text=refund it
        "#]],
    );
    check(
        event(
            "event.name=gemini_cli.tool_call\nprompt_id=p1\nfunction_name=refund\nfunction_args={\"id\":7}\nduration_ms=12\nsuccess=true\ndecision=auto_accept\ntool_type=mcp\nmcp_server_name=orders",
        ),
        expect![[r#"
            result host name=gemini_cli.tool_call server=orders tool=refund outcome=ok is_error=false decision=allow by config agent=gemini-cli conversation=c1 turn=p1 ns=12000000 text=body arguments={"id":7}
        "#]],
    );
    check(
        event(
            "event.name=gemini_cli.tool_call\nprompt_id=p1\nfunction_name=rm\nfunction_args={}\nduration_ms=1\nsuccess=false\ndecision=reject\ntool_type=native\nerror=refused\nerror_type=cancelled",
        ),
        expect![[r#"
            result host name=gemini_cli.tool_call tool=rm outcome=denied error=cancelled decision=deny by user agent=gemini-cli conversation=c1 turn=p1 ns=1000000 text=refused arguments={}
        "#]],
    );
    check(
        event(
            "event.name=gemini_cli.api_response\nmodel=gemini-3\nprompt_id=p1\nstatus_code=200\nduration_ms=31\nresponse_text=done",
        ),
        expect![[r#"
            model_request host name=gemini_cli.api_response target=gemini-3 outcome=ok agent=gemini-cli conversation=c1 turn=p1 ns=31000000 text=body result="done"
        "#]],
    );
    check(
        event(
            "event.name=gemini_cli.api_error\nmodel=gemini-3\nprompt_id=p1\nerror=quota\nerror_type=QuotaError\nduration_ms=3",
        ),
        expect![[r#"
            model_request host name=gemini_cli.api_error target=gemini-3 outcome=error error=QuotaError agent=gemini-cli conversation=c1 turn=p1 ns=3000000 text=quota
        "#]],
    );
    check(
        event("event.name=gemini_cli.chat_compression\ntokens_before=9"),
        expect![[r#"
        log host name=gemini_cli.chat_compression agent=gemini-cli conversation=c1 text=body
    "#]],
    );
    check(
        span(
            "gemini-cli",
            "gemini-cli",
            "tool_call",
            1,
            "gen_ai.operation.name=execute_tool\ngen_ai.tool.name=refund\ngen_ai.tool.call_id=call_g\nsession.id=c1",
        ),
        expect![[r#"
            call host name=tool_call tool=refund agent=gemini-cli conversation=c1 call=call_g ns=4
        "#]],
    );
}

#[test]
fn copilot_chat_by_its_source() {
    let event = |text: &str| log("copilot-chat", "copilot-chat", r#"{"stringValue":"body"}"#, text);
    check(
        event(
            "event.name=copilot_chat.session.start\nsession.id=c1\ngen_ai.request.model=m\ngen_ai.agent.name=GitHub Copilot Chat",
        ),
        expect![[r#"
            session host name=copilot_chat.session.start agent=GitHub Copilot Chat conversation=c1 text=body
        "#]],
    );
    check(
        event(
            "event.name=copilot_chat.tool.call\ngen_ai.tool.name=refund\nduration_ms=12\nsuccess=false\nerror.type=Boom",
        ),
        expect![[r#"
            result host name=copilot_chat.tool.call tool=refund outcome=error is_error=true error=Boom agent=copilot-chat ns=12000000 text=body
        "#]],
    );
    check(
        event("event.name=copilot_chat.agent.turn\nturn.index=2"),
        expect![[r#"
        log host name=copilot_chat.agent.turn agent=copilot-chat text=body
    "#]],
    );
    check(
        span(
            "copilot-chat",
            "copilot-chat",
            "execute_tool refund",
            1,
            "gen_ai.operation.name=execute_tool\ngen_ai.tool.name=refund\ngen_ai.tool.call.id=call_v\ncopilot_chat.session_id=c1",
        ),
        expect![[r#"
            call host name=execute_tool refund tool=refund agent=copilot-chat conversation=c1 call=call_v ns=4
        "#]],
    );
    check(
        span(
            "copilot-chat",
            "copilot-chat",
            "invoke_agent copilot",
            1,
            "gen_ai.operation.name=invoke_agent\ngen_ai.agent.name=copilot\ngen_ai.conversation.id=c1\ncopilot_chat.user_request=refund it",
        ),
        expect![[r#"
            span host name=invoke_agent copilot agent=copilot conversation=c1 ns=4 text=refund it
        "#]],
    );
}

#[test]
fn a_link_is_a_second_parent() {
    let body = |links: &str| {
        format!(
            r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"name":"tools/call x","kind":2,"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331",
            "parentSpanId":"00f067aa0ba902b7","links":[{links}]}}]}}]}}]}}"#
        )
    };
    let link = |digit: &str| format!(r#"{{"traceId":"{}","spanId":"{}"}}"#, digit.repeat(32), digit.repeat(16));
    let keys = |links: &str| {
        let mut record = decode_body(&context(), body(links).as_bytes(), Signal::Traces, Encoding::Json, None)
            .unwrap()
            .records
            .remove(0);
        crate::stamp::stamp(&mut record);
        (record.keys.clone(), record.parent_span_id.clone(), record.turn_key.clone())
    };
    let (with, parent, turn) = keys(&link("1"));
    expect![[r#"
        [
            "trace:0af7651916cd43dd8448eb211c80319c",
            "parent-span:0af7651916cd43dd8448eb211c80319c/00f067aa0ba902b7",
            "trace:11111111111111111111111111111111",
            "parent-span:11111111111111111111111111111111/1111111111111111",
            "span:0af7651916cd43dd8448eb211c80319c/b7ad6b7169203331",
        ]
    "#]]
    .assert_debug_eq(&with);
    let (without, same_parent, same_turn) = keys("");
    assert_eq!((parent, turn), (same_parent, same_turn));
    assert!(without.iter().all(|key| with.contains(key)));
    // Whoever links to many traces belongs to none of them.
    let many: Vec<String> = "123456789abc".chars().map(|digit| link(&digit.to_string())).collect();
    let (many, ..) = keys(&many.join(","));
    assert_eq!(many.iter().filter(|key| key.starts_with("trace:")).count(), 1);
    assert_eq!(many.iter().filter(|key| key.starts_with("parent-span:")).count(), 13);
}

#[test]
fn choices_are_bounded_by_the_body() {
    let call = r#"{\"type\":\"tool_call\",\"id\":\"N\",\"name\":\"t\"}"#;
    let span = |from: usize| {
        let calls: Vec<String> = (from..from + 100).map(|at| call.replace('N', &at.to_string())).collect();
        format!(
            r#"{{"name":"chat","attributes":[{{"key":"gen_ai.operation.name","value":{{"stringValue":"chat"}}}},{{"key":"gen_ai.output.messages","value":{{"stringValue":"[{{\"parts\":[{}]}}]"}}}}]}}"#,
            calls.join(",")
        )
    };
    let spans: Vec<String> = (0..10).map(|at| span(at * 100)).collect();
    let body = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{}]}}]}}]}}"#, spans.join(","));
    let decoded = decode_body(&context(), body.as_bytes(), Signal::Traces, Encoding::Json, None).unwrap();
    let parts = decoded.records.iter().filter(|record| record.kind == Kind::Selection).count();
    assert_eq!(decoded.items, 10);
    assert_eq!(parts, body.len() / 1024);
    assert!(decoded.records.iter().all(|record| record.kind != Kind::Rejected));
}

#[test]
fn metrics_are_counted_by_source_and_name() {
    let body = r#"{"resourceMetrics":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"svc"}}]},
        "scopeMetrics":[{"metrics":[{"name":"a","sum":{"dataPoints":[{},{}]}},{"name":"b","gauge":{"dataPoints":[{}]}},{"name":"a","histogram":{"dataPoints":[{}]}}]}]}]}"#;
    let decoded = decode_body(&context(), body.as_bytes(), Signal::Metrics, Encoding::Json, None).unwrap();
    let shown: Vec<String> =
        decoded.metrics.iter().map(|named| format!("{} {} {}", named.source, named.name, named.count)).collect();
    assert_eq!((decoded.metric_points, shown), (4, vec!["svc a 3".to_string(), "svc b 1".into()]));
    let many: Vec<String> =
        (0..2_000).map(|at| format!(r#"{{"name":"m{at}","sum":{{"dataPoints":[{{}}]}}}}"#)).collect();
    let body = format!(
        r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"scope":{{"name":"lib"}},"metrics":[{}]}}]}}]}}"#,
        many.join(",")
    );
    let decoded = decode_body(&context(), body.as_bytes(), Signal::Metrics, Encoding::Json, None).unwrap();
    assert_eq!(decoded.metrics.len(), METRIC_NAMES_MAX + 1);
    assert_eq!(decoded.metrics.iter().map(|named| named.count).sum::<u64>(), 2_000);
}
