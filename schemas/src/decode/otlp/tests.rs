use super::*;
use crate::decode::recorded::{entries, name, sessions, table, tool_uses};
use crate::decode::tests::context;
use crate::json::{self as strict, canonical};
use crate::limits::otlp::{ATTRIBUTES_MAX, RECORDS_PER_BODY_MAX};
use crate::record::{Decision, Kind, Outcome, SourceKind, TimeQuality};
use expect_test::{Expect, expect};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use std::path::{Path, PathBuf};

const SOURCES: &[&str] =
    &["claude-code", "codex", "pysdk-orders-otlp", "fastmcp-orders-otlp", "traceloop-everything-otlp", "contextforge"];

/// One recorded export body.
struct Body {
    path: PathBuf,
    bytes: Vec<u8>,
    signal: Signal,
    encoding: Encoding,
}

fn bodies(session: &Path) -> Vec<Body> {
    let read = |path: PathBuf| {
        let signal = Signal::of_path(name(&path))?;
        let encoding = match path.extension()?.to_str()? {
            "pb" => Encoding::Protobuf,
            _ => Encoding::Json,
        };
        Some(Body { bytes: std::fs::read(&path).unwrap(), path, signal, encoding })
    };
    entries(&session.join("otlp")).into_iter().filter_map(read).collect()
}

fn all_sessions() -> Vec<PathBuf> {
    SOURCES.iter().flat_map(|source| sessions(source)).collect()
}

fn decode(body: &Body) -> OtlpBody {
    decode_body(&context(), &body.bytes, body.signal, body.encoding, Some(name(&body.path))).unwrap()
}

fn records(session: &Path) -> Vec<Record> {
    bodies(session).iter().flat_map(|body| decode(body).records).collect()
}

fn decode_json(body: &str, signal: Signal) -> Vec<Record> {
    decode_body(&context(), body.as_bytes(), signal, Encoding::Json, None).unwrap().records
}

/// Counts and gives the bytes of each record without our decoder: prost and `serde_json` alone.
fn independent(body: &Body) -> (Vec<serde_json::Value>, u64) {
    let value = match (body.encoding, body.signal) {
        (Encoding::Json, _) => serde_json::from_slice(&body.bytes).unwrap(),
        (_, Signal::Logs) => serde_json::to_value(ExportLogsServiceRequest::decode(&body.bytes[..]).unwrap()).unwrap(),
        (_, Signal::Traces) => {
            serde_json::to_value(ExportTraceServiceRequest::decode(&body.bytes[..]).unwrap()).unwrap()
        }
        (_, Signal::Metrics) => {
            serde_json::to_value(ExportMetricsServiceRequest::decode(&body.bytes[..]).unwrap()).unwrap()
        }
    };
    let (resources, scopes, items) = match body.signal {
        Signal::Logs => ("resourceLogs", "scopeLogs", "logRecords"),
        Signal::Traces => ("resourceSpans", "scopeSpans", "spans"),
        Signal::Metrics => ("resourceMetrics", "scopeMetrics", "metrics"),
    };
    let list = |value: &serde_json::Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let items: Vec<_> = list(&value, resources)
        .iter()
        .flat_map(|resource| list(resource, scopes))
        .flat_map(|scope| list(&scope, items))
        .collect();
    let points = |metric: &serde_json::Value| -> u64 {
        metric.as_object().unwrap().values().map(|data| list(data, "dataPoints").len() as u64).sum()
    };
    let points = if body.signal == Signal::Metrics { items.iter().map(points).sum() } else { 0 };
    (if body.signal == Signal::Metrics { Vec::new() } else { items }, points)
}

#[test]
fn every_body_gives_a_record_per_item_with_its_exact_bytes() {
    let (mut total, mut points) = (0, 0);
    for session in all_sessions() {
        for body in bodies(&session) {
            let decoded = decode(&body);
            let (items, metric_points) = independent(&body);
            assert_eq!(decoded.records.len(), items.len(), "{}", body.path.display());
            assert_eq!(decoded.metric_points, metric_points, "{}", body.path.display());
            for (record, item) in decoded.records.iter().zip(&items) {
                let raw = record.raw.as_deref().unwrap();
                let seen = match (body.encoding, body.signal) {
                    (Encoding::Json, _) => serde_json::from_slice(raw).unwrap(),
                    (_, Signal::Logs) => {
                        let log = opentelemetry_proto::tonic::logs::v1::LogRecord::decode(raw).unwrap();
                        serde_json::to_value(log).unwrap()
                    }
                    _ => {
                        let span = opentelemetry_proto::tonic::trace::v1::Span::decode(raw).unwrap();
                        serde_json::to_value(span).unwrap()
                    }
                };
                assert_eq!(&seen, item, "{}", body.path.display());
                assert!(memchr::memmem::find(&body.bytes, raw).is_some());
                assert_ne!(record.kind, Kind::Rejected);
            }
            total += items.len();
            points += metric_points;
        }
    }
    expect!["1132 records, 98 metric points"].assert_eq(&format!("{total} records, {points} metric points"));
}

/// Everything but what must differ between two bodies.
fn comparable(mut record: Record) -> Record {
    record.event_id = uuid::Uuid::nil();
    record.delivery_key.clear();
    record.decoder.clear();
    record.raw = None;
    record
}

#[test]
fn protobuf_and_json_of_the_same_content_give_equal_columns() {
    let mut compared = 0;
    for session in all_sessions() {
        for body in bodies(&session).iter().filter(|body| body.encoding == Encoding::Protobuf) {
            let json = match body.signal {
                Signal::Logs => serde_json::to_vec(&ExportLogsServiceRequest::decode(&body.bytes[..]).unwrap()),
                Signal::Traces => serde_json::to_vec(&ExportTraceServiceRequest::decode(&body.bytes[..]).unwrap()),
                Signal::Metrics => continue,
            };
            let file = Some(name(&body.path));
            let again = decode_body(&context(), &json.unwrap(), body.signal, Encoding::Json, file).unwrap().records;
            let first = decode(body).records;
            assert_eq!(first.len(), again.len());
            for (left, right) in first.into_iter().zip(again) {
                assert_eq!(comparable(left), comparable(right), "{}", body.path.display());
                compared += 1;
            }
        }
    }
    assert!(compared > 300, "{compared}");
}

fn check_source(source: &str, expected: Expect) {
    let all: Vec<Record> = sessions(source).iter().flat_map(|session| records(session)).collect();
    expected.assert_eq(&table(&all));
}

#[test]
fn kinds_of_claude_code() {
    check_source(
        "claude-code",
        expect![[r#"
            16 call host claude_code.tool
            16 call host claude_code.tool.execution
            1 call server tools/call boom
            2 call server tools/call lookup_order
            3 call server tools/call refund
            17 completion host claude_code.assistant_response
            51 connection host claude_code.mcp_server_connection
            9 connection server initialize
            16 decision host claude_code.tool_decision
            2 downstream server GET /orders/{id}
            1 downstream server INSERT refunds
            3 log server -
            24 model_request host claude_code.api_request
            24 model_request host claude_code.llm_request
            8 notification server notifications/initialized
            9 prompt host claude_code.user_prompt
            8 prompt_template server prompts/list
            8 resource server resources/list
            16 result host claude_code.tool_result
            9 span host claude_code.interaction
            16 span host claude_code.tool.blocked_on_user
            8 tool_list server tools/list
        "#]],
    );
}

#[test]
fn kinds_of_codex() {
    let all: Vec<Record> = sessions("codex").iter().flat_map(|session| records(session)).collect();
    let meant: Vec<Record> = all.iter().filter(|record| record.kind != Kind::Span).cloned().collect();
    expect![[r#"
        4 call host mcp.tools.call
        2 call server tools/call lookup_order
        2 call server tools/call refund
        2 connection server initialize
        2 downstream server GET /orders/{id}
        1 downstream server INSERT refunds
        48 log host codex.sse_event
        4 log host codex.startup_phase
        3 log host codex.turn_ttft
        6 log host event otel/src/auth_storage.rs:101
        3 log server -
        8 model_request host codex.api_request
        2 notification server notifications/initialized
        3 prompt host codex.user_prompt
        7 result host codex.tool_result
        3 session host codex.conversation_starts
        2 tool_list server tools/list
    "#]]
    .assert_eq(&table(&meant));
    assert!(all.iter().filter(|r| r.agent_name.as_deref() == Some("codex")).all(|r| r.source_kind == SourceKind::Host));
}

#[test]
fn kinds_of_the_python_sdk() {
    check_source(
        "pysdk-orders-otlp",
        expect![[r#"
            1 call host MCP send tools/call boom
            3 call host MCP send tools/call delete_customer
            3 call host MCP send tools/call lookup_order
            4 call host MCP send tools/call refund
            2 call host MCP send tools/call slow_export
            2 call host MCP send tools/call summarise
            1 call server tools/call boom
            3 call server tools/call delete_customer
            3 call server tools/call lookup_order
            4 call server tools/call refund
            2 call server tools/call slow_export
            2 call server tools/call summarise
            1 connection host MCP send initialize
            1 connection host MCP send server/discover
            1 connection server initialize
            1 connection server server/discover
            3 downstream server GET /orders/{id}
            2 downstream server INSERT refunds
            1 elicitation server MCP send elicitation/create
            5 log server -
            1 notification server notifications/initialized
            1 prompt_template host MCP send prompts/get refund_letter
            1 prompt_template server prompts/get refund_letter
            1 resource host MCP send resources/read
            1 resource server resources/read
            14 span host invoke_agent demo-agent
            2 tool_list host MCP send tools/list
            2 tool_list server tools/list
        "#]],
    );
}

#[test]
fn kinds_of_fastmcp() {
    check_source(
        "fastmcp-orders-otlp",
        expect![[r#"
            1 call host MCP send tools/call boom
            1 call host MCP send tools/call delete_customer
            2 call host MCP send tools/call lookup_order
            3 call host MCP send tools/call refund
            2 call host MCP send tools/call slow_export
            1 call host MCP send tools/call summarise
            1 call host tools/call boom
            1 call host tools/call delete_customer
            2 call host tools/call lookup_order
            3 call host tools/call refund
            2 call host tools/call slow_export
            1 call host tools/call summarise
            1 call server tools/call boom
            1 call server tools/call delete_customer
            2 call server tools/call lookup_order
            3 call server tools/call refund
            2 call server tools/call slow_export
            1 call server tools/call summarise
            1 connection host MCP send server/discover
            1 connection server server/discover
            2 downstream server GET /orders/{id}
            1 downstream server INSERT refunds
            1 prompt_template host MCP send prompts/get refund_letter
            1 prompt_template host prompts/get refund_letter
            1 prompt_template server prompts/get refund_letter
            1 resource host MCP send resources/read
            1 resource host resources/read
            1 resource server resources/read
            11 span host invoke_agent demo-agent
            1 tool_list host MCP send tools/list
            1 tool_list host tools/list
            10 tool_list server tools/list
        "#]],
    );
}

#[test]
fn kinds_of_traceloop() {
    check_source(
        "traceloop-everything-otlp",
        expect![[r#"
               1 call host echo.tool
               2 call host get-sum.tool
               1 call host nope.tool
               1 connection host initialize.mcp
               7 span host ResponseStreamWriter
               3 span host invoke_agent demo-agent
               1 tool_list host tools/list.mcp
        "#]],
    );
}

#[test]
fn kinds_of_contextforge() {
    check_source(
        "contextforge",
        expect![[r#"
            8 call gateway mcp.client.call
            8 call gateway tool.invoke
            1 connection gateway mcp.initialize
            1 prompt_template gateway prompt.list
            1 prompt_template gateway prompt.render
            1 resource gateway resource.list
            2 resource gateway resource.read
            1 span gateway POST
            16 span gateway POST /mcp/{path}
            17 span gateway POST /servers/eabd8987bc864c9f9fc0b1ced7083ca7/mcp
            8 span gateway mcp.client.initialize
            8 span gateway mcp.client.request
            8 span gateway mcp.client.response
            8 span gateway tool.gateway_call
            8 span gateway tool.lookup
            8 span gateway tool.post_process
            2 tool_list gateway tool.list
        "#]],
    );
}

/// One line per call, result and decision: what the columns say.
fn calls(records: &[Record]) -> String {
    let mut lines = Vec::new();
    for record in records {
        if !matches!(record.kind, Kind::Call | Kind::Result | Kind::Decision | Kind::Downstream) {
            continue;
        }
        let show = |field: &Option<String>| field.clone().unwrap_or_else(|| "-".into());
        lines.push(format!(
            "{} {} {}/{} id={} {} {} {} args={} result={}",
            record.kind,
            record.source_kind,
            show(&record.server_name),
            show(&record.tool_name),
            show(&record.tool_call_id.clone().or(record.rpc_id.clone())),
            record.outcome.map_or("-", Outcome::as_str),
            show(&record.transport_status),
            show(&record.error_type),
            show(&record.arguments),
            show(&record.result).chars().take(40).collect::<String>(),
        ));
    }
    lines.join("\n")
}

#[test]
fn calls_as_each_emitter_reports_them() {
    let of = |session: &str| {
        let all = all_sessions();
        let found = all.iter().find(|path| name(path) == session).unwrap();
        calls(&records(found))
    };
    expect![[r#"
        call host -/lookup_order id=2 - unset - args=- result=-
        call host -/refund id=4 - unset - args=- result=-
        call host -/delete_customer id=5 - unset - args=- result=-
        call server -/lookup_order id=2 - unset - args=- result=-
        call server -/refund id=4 - unset - args=- result=-
        call server -/delete_customer id=5 - unset - args=- result=-
        downstream server -/- id=- ok 200 - args=- result=-
        downstream server -/- id=- - unset - args=- result=-"#]]
    .assert_eq(&of("pys--o3"));
    expect![[r#"
        call host -/echo id=- ok ok - args={"message": "via traceloop"} result={"result": "Echo: via traceloop"}
        call host -/get-sum id=- ok ok - args={"a": 4, "b": 5} result={"result": "The sum of 4 and 5 is 9."}
        call host -/get-sum id=- error error tool_error args={"a": "x", "b": 5} result={"result": "MCP error -32602: Input vali
        call host -/nope id=- error error tool_error args={} result={"result": "MCP error -32602: Tool nope "#]].assert_eq(&of("ev--tl1x"));
    expect![[r#"
        downstream server -/- id=- ok 200 - args=- result=-
        downstream server -/- id=- ok 200 - args=- result=-
        call server -/lookup_order id=2 - unset - args=- result=-
        call server -/lookup_order id=3 - unset - args=- result=-
        result host orders/lookup_order id=call_fake000100 ok - - args={"order_id": "1001"} result="Wall time: 0.2709 seconds\nOutput:\n{\n
        call host orders/lookup_order id=call_fake000100 - unset - args=- result=-
        call host orders/lookup_order id=call_fake000101 - unset - args=- result=-
        downstream server -/- id=- - unset - args=- result=-
        call server -/refund id=4 - unset - args=- result=-
        result host orders/lookup_order id=call_fake000101 ok - - args={"order_id": "1002"} result="Wall time: 2.0203 seconds\nOutput:\n{\n
        result host orders/refund id=call_fake000200 ok - - args={"order_id": "1001", "amount": 20} result="Wall time: 0.6061 seconds\nOutput:\n{\"
        call host orders/refund id=call_fake000200 - unset - args=- result=-
        call server -/refund id=2 error error tool_error args=- result=-
        call host orders/refund id=call_fake000400 error unset tool_result args=- result=-
        result host orders/refund id=call_fake000400 error - - args={"order_id": "9999", "amount": 5} result="Wall time: 5.7284 seconds\nOutput:\nErr"#]].assert_eq(&of("cx-1"));
    expect![[r#"
        decision host everything/echo id=toolu_fake000301 ok - - args=- result=-
        decision host everything/get-sum id=toolu_fake000302 ok - - args=- result=-
        result host everything/echo id=toolu_fake000301 ok - - args={"message":"still here"} result=-
        result host everything/get-sum id=toolu_fake000302 ok - - args={"a":2,"b":40} result=-
        call host -/- id=toolu_fake000301 ok unset - args=- result=-
        call host everything/echo id=toolu_fake000301 - unset - args=- result=-
        call host -/- id=toolu_fake000302 ok unset - args=- result=-
        call host everything/get-sum id=toolu_fake000302 - unset - args=- result=-"#]]
    .assert_eq(&of("cc-5"));
}

#[test]
fn every_call_that_reached_a_server_has_its_telemetry() {
    let mut seen = 0;
    for source in ["claude-code", "codex"] {
        for session in sessions(source) {
            let all = records(&session);
            for (id, _, _, input) in tool_uses(&session) {
                let of = |kind: Kind| {
                    all.iter().find(|record| record.kind == kind && record.tool_call_id.as_deref() == Some(&id))
                };
                // Claude Code says nothing about a tool that it refuses (its transcript does).
                let Some(result) = of(Kind::Result) else {
                    continue;
                };
                seen += 1;
                let arguments = strict::parse(result.arguments.as_deref().unwrap().as_bytes()).unwrap().value;
                assert_eq!(canonical(&arguments), canonical(&input), "{} {id}", name(&session));
                assert_eq!(result.arguments_digest, context().digest(&input));
                assert!(result.tool_name.is_some() && result.conversation_id.is_some() && result.outcome.is_some());
                if source == "claude-code" {
                    assert_eq!(of(Kind::Decision).unwrap().decision, Some(Decision::Allow));
                    assert!(of(Kind::Call).unwrap().duration_nano.is_some());
                    assert!(result.turn_id.is_some() && result.user_claimed.is_some());
                }
            }
        }
    }
    expect!["23"].assert_eq(&seen.to_string());
}

#[test]
fn log_records_are_stamped_at_their_end_and_spans_at_their_start() {
    let lasting: Vec<Record> = ["claude-code", "codex"]
        .iter()
        .flat_map(|source| sessions(source))
        .flat_map(|session| records(&session))
        .filter(|record| record.duration_nano.is_some())
        .collect();
    let check = |name: &str, at_end: bool| {
        let of: Vec<&Record> = lasting.iter().filter(|record| record.name.as_deref() == Some(name)).collect();
        assert!(!of.is_empty() && of.iter().all(|record| record.is_stamped_at_end() == at_end), "{name}");
    };
    for log in ["claude_code.tool_result", "claude_code.api_request", "codex.tool_result", "codex.api_request"] {
        check(log, true);
    }
    for span in ["claude_code.tool", "claude_code.interaction", "mcp.tools.call"] {
        check(span, false);
    }
}

#[test]
fn a_zero_time_is_replaced_by_the_observed_time_and_marked() {
    let session = sessions("codex").pop().unwrap();
    let all = records(&session);
    let event = all.iter().find(|record| record.name.as_deref() == Some("codex.user_prompt")).unwrap();
    assert_eq!(event.time_quality, TimeQuality::Zero);
    assert_ne!(event.time_unix_nano, event.observed_time_unix_us * 1000);
    let attributes = strict::parse(event.attributes.as_deref().unwrap().as_bytes()).unwrap().value;
    assert_eq!(attributes.get("observed_time_unix_nano").unwrap().as_i64(), Some(event.time_unix_nano));
    let empty = decode_json(r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{}]}]}]}"#, Signal::Logs).remove(0);
    assert_eq!((empty.time_quality, empty.time_unix_nano), (TimeQuality::Zero, empty.observed_time_unix_us * 1000));
}

#[test]
fn what_has_no_column_stays_in_the_attributes() {
    let body = r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},
      "scopeSpans":[{"scope":{"name":"s","version":"1"},"spans":[
      {"traceId":"0AF7651916CD43DD8448EB211C80319C","spanId":"b7ad6b7169203331","parentSpanId":"","name":"tools/call refund","kind":"SPAN_KIND_SERVER",
       "startTimeUnixNano":"5","endTimeUnixNano":9,"flags":257,"traceState":"a=b","status":{"code":"STATUS_CODE_ERROR","message":"no"},
       "attributes":[{"key":"mcp.method.name","value":{"stringValue":"tools/call"}},{"key":"jsonrpc.request.id","value":{"stringValue":"7"}},
        {"key":"x","value":{"kvlistValue":{"values":[{"key":"y","value":{"doubleValue":1.0}},{"key":"y","value":{"intValue":"9007199254740993"}}]}}},
        {"key":"b","value":{"bytesValue":"AAE="}},{"key":"n","value":null},{"key":"gen_ai.tool.call.arguments","value":{"stringValue":"{\"a\": 1}"}}],
       "events":[{"name":"e","timeUnixNano":"6","attributes":[]}],
       "links":[{"traceId":"11111111111111111111111111111111","spanId":"2222222222222222"}]}]}]}]}"#;
    let record = decode_json(body, Signal::Traces).remove(0);
    expect![[r#"{"attributes":{"mcp.method.name":"tools/call","jsonrpc.request.id":"7","x":{"y":1.0,"y":9007199254740993},"b":{"base64":"AAE="},"n":null},"span_kind":2,"trace_state":"a=b","events":[{"time_unix_nano":6,"name":"e","attributes":{}}],"links":[{"trace_id":"11111111111111111111111111111111","span_id":"2222222222222222","attributes":{}}],"flags":257,"resource":{"attributes":{"service.name":"shop"}},"scope":{"name":"s","version":"1"}}"#]].assert_eq(record.attributes.as_deref().unwrap());
    expect![[r#"["trace:0af7651916cd43dd8448eb211c80319c", "trace:11111111111111111111111111111111", "parent-span:11111111111111111111111111111111/2222222222222222"]"#]]
    .assert_eq(&format!("{:?}", record.keys));
    expect![[r#"call server -/refund id=7 error error - args={"a": 1} result=-"#]]
        .assert_eq(&calls(std::slice::from_ref(&record)));
    assert_eq!(record.trace_id.as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!((record.parent_span_id, record.duration_nano), (None, Some(4)));
    assert_eq!(record.raw.as_deref().map(|raw| raw.ends_with(b"}]}")), Some(true));
}

fn check_error(body: &[u8], signal: Signal, encoding: Encoding, expected: Expect) {
    expected.assert_eq(&decode_body(&context(), body, signal, encoding, None).unwrap_err().to_string());
}

#[test]
fn a_refusal_says_what_to_change() {
    let session = all_sessions().into_iter().find(|path| name(path) == "cc-2").unwrap();
    let all = bodies(&session);
    let body = |encoding: Encoding, signal: Signal| {
        &all.iter().find(|body| body.encoding == encoding && body.signal == signal).unwrap().bytes
    };
    let protobuf = body(Encoding::Protobuf, Signal::Logs);
    let json = br#"{"resourceLogs":[]}"#;
    check_error(
        json,
        Signal::Logs,
        Encoding::Protobuf,
        expect!["body announced as protobuf starts like JSON; send content type application/json"],
    );
    check_error(
        protobuf,
        Signal::Logs,
        Encoding::Json,
        expect![
            "body announced as JSON does not start like JSON; send content type application/x-protobuf for protobuf"
        ],
    );
    check_error(
        json,
        Signal::Traces,
        Encoding::Json,
        expect!["not an OTLP traces body: member resourceSpans must be present"],
    );
    check_error(
        br#"{"resourceLogs":7}"#,
        Signal::Logs,
        Encoding::Json,
        expect!["not an OTLP logs body: member resourceLogs must be an array"],
    );
    check_error(
        b"{\"resourceLogs\":[",
        Signal::Logs,
        Encoding::Json,
        expect!["not an OTLP body: not valid JSON at byte 17: EOF while parsing a list"],
    );
    check_error(
        &protobuf[..protobuf.len() - 1],
        Signal::Logs,
        Encoding::Protobuf,
        expect!["not an OTLP logs body: protobuf is broken at byte 3: length beyond its message"],
    );
    check_error(
        b"\x0b",
        Signal::Metrics,
        Encoding::Protobuf,
        expect!["not an OTLP metrics body: protobuf is broken at byte 1: unexpected wire type"],
    );
    assert_eq!(Encoding::of_content_type("application/JSON; charset=utf-8"), Ok(Encoding::Json));
    expect!["content type must be application/x-protobuf or application/json"]
        .assert_eq(&Encoding::of_content_type("text/plain").unwrap_err().to_string());
    assert!(decode_body(&context(), b"", Signal::Logs, Encoding::Protobuf, None).unwrap().records.is_empty());
}

/// Protobuf field `number` with `payload`.
fn field(number: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    prost::encoding::encode_varint(payload.len() as u64, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn integers_in_strings_are_json_numbers_or_stay_strings() {
    let attributes = |value: &str| {
        let body = format!(
            r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"attributes":[{{"key":"a","value":{{"intValue":"{value}"}}}}]}}]}}]}}]}}"#
        );
        let attributes = decode_json(&body, Signal::Traces)[0].attributes.clone().unwrap();
        strict::parse(attributes.as_bytes()).unwrap().value.at(&["attributes", "a"]).unwrap().to_string()
    };
    let shown = ["7", "07", "+7", "-0", "-9223372036854775808", "9223372036854775808", "7 ", ""].map(attributes);
    assert_eq!(shown, ["7", "7", "7", "0", "-9223372036854775808", "\"9223372036854775808\"", "\"7 \"", "\"\""]);
}

#[test]
fn limits_name_themselves() {
    let body = |logs: &[u8]| field(1, &field(2, logs));
    let text = |log: &[u8]| {
        let records = decode_body(&context(), &body(&field(2, log)), Signal::Logs, Encoding::Protobuf, None).unwrap();
        assert_eq!(records.records[0].kind, Kind::Rejected);
        records.records[0].text.clone().unwrap()
    };
    let mut nested = Vec::new();
    for _ in 0..10_000 {
        nested = field(5, &field(1, &nested));
    }
    expect!["protobuf message cannot be read: … lue.value: ArrayValue.values: AnyValue.value: ArrayValue.values: AnyValue.value: LogRecord.body: recursion limit reached"].assert_eq(&text(&field(5, &nested)));
    let mut nested = Vec::new();
    for _ in 0..40 {
        nested = field(5, &field(1, &nested));
    }
    expect!["attribute value is nested deeper than 32 levels"].assert_eq(&text(&field(5, &nested)));
    expect!["more than 1024 attributes, events or links"].assert_eq(&text(&field(6, b"").repeat(ATTRIBUTES_MAX + 1)));
    let many = body(&field(2, b"").repeat(RECORDS_PER_BODY_MAX + 1));
    check_error(&many, Signal::Logs, Encoding::Protobuf, expect!["OTLP body holds more than 100000 records"]);
    let deep = format!(r#"{{"resourceLogs":[{{"a":{}"#, "[".repeat(100_000));
    check_error(
        deep.as_bytes(),
        Signal::Logs,
        Encoding::Json,
        expect!["not an OTLP body: JSON is nested deeper than 128 levels"],
    );
    let wide = format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{}{{}}]}}]}}]}}"#, "{},".repeat(100_000));
    check_error(wide.as_bytes(), Signal::Logs, Encoding::Json, expect!["OTLP body holds more than 100000 records"]);
    let service = format!(r#"{{"attributes":[{{"key":"a","value":{{"stringValue":"{}"}}}}]}}"#, "x".repeat(1 << 20));
    let shared = format!(
        r#"{{"resourceLogs":[{{"resource":{service},"scopeLogs":[{{"logRecords":[{}{{}}]}}]}}]}}"#,
        "{},".repeat(100)
    );
    check_error(
        shared.as_bytes(),
        Signal::Logs,
        Encoding::Json,
        expect!["resource and scope attributes repeated on every record take more than 67108864 bytes"],
    );
}

/// Small recorded bodies of every signal and encoding.
fn samples() -> Vec<Body> {
    let small = |body: &Body| body.bytes.len() < 20_000;
    all_sessions().iter().flat_map(|session| bodies(session)).filter(small).collect()
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(400))]
    #[test]
    fn mutated_bodies_never_panic(pick: proptest::sample::Index, at: [proptest::sample::Index; 3], byte: [u8; 3], cut: bool) {
        static SAMPLES: std::sync::LazyLock<Vec<Body>> = std::sync::LazyLock::new(samples);
        let body = pick.get(&SAMPLES);
        let mut bytes = body.bytes.clone();
        for (at, byte) in at.iter().zip(byte) {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut {
            bytes.truncate(at[0].index(bytes.len()));
        }
        if let Ok(decoded) = decode_body(&context(), &bytes, body.signal, body.encoding, None) {
            for record in decoded.records.iter().filter(|record| record.kind != Kind::Rejected) {
                proptest::prop_assert!(strict::parse(record.attributes.as_deref().unwrap().as_bytes()).is_ok());
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        for signal in [Signal::Logs, Signal::Traces, Signal::Metrics] {
            for encoding in [Encoding::Protobuf, Encoding::Json] {
                let decoded = decode_body(&context(), &bytes, signal, encoding, None);
                proptest::prop_assert!(decoded.map_or(0, |body| body.records.len()) <= bytes.len());
            }
        }
    }
}
