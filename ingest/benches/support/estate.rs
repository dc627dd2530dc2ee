//! A made-up estate as observations, for tests and benches of the linker: users, calls, clocks that are seconds apart.
//!
//! Fixed arithmetic instead of random numbers, so that every run sees the same.

use super::threadline_ingest_correlate::{Act, Argument, HttpLine, Observation, Payload};
use uuid::Uuid;

/// Observations of `calls` calls by twelve users at six servers, one call about every 300 ms; with `traces` every line
/// bears trace and span. Also gives for each observation the number of its call.
pub(crate) fn estate(calls: u64, traces: bool) -> (Vec<Observation>, Vec<u64>) {
    let (mut all, mut truth) = (Vec::new(), Vec::new());
    for number in 0..calls {
        for mut observation in call(number, traces) {
            observation.id = Uuid::from_u128((u128::from(number) << 64) | all.len() as u128);
            all.push(observation);
            truth.push(number);
        }
    }
    (all, truth)
}

/// A number between 0 and 1 that `seed` stands for (splitmix64).
pub(crate) fn unit(seed: u64) -> f64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as f64 / u64::MAX as f64
}

fn nanos(seconds: f64) -> i64 {
    1_780_000_000_000_000_000 + (seconds * 1e3).round() as i64 * 1_000_000
}

/// One call as host, gateway, server and downstream see it.
pub(crate) fn call(number: u64, traces: bool) -> Vec<Observation> {
    let (user, server) = (number * 7 % 12, number * 5 % 6);
    let start = number as f64 * 0.3 + unit(number) * 0.2;
    let duration = 0.05 + 0.2 * unit(number ^ 0xabc);
    let value = format!("K-{}", (unit(number ^ 0x77) * 40.0) as u64);
    call_at(number, user, server, start, duration, &value, traces)
}

/// The same with everything chosen.
pub(crate) fn call_at(
    number: u64,
    user: u64,
    server: u64,
    start: f64,
    duration: f64,
    value: &str,
    traces: bool,
) -> Vec<Observation> {
    let skew = |what: u64, which: u64| if traces { 0.0 } else { 3.0 * unit(what * 1000 + which) - 1.5 };
    let (host, gateway, own, api) = (skew(1, user), skew(2, 0), skew(3, server), skew(4, server));
    let text = |kind: &str, of: u64| Some(format!("{kind}-{of}"));
    let digest = format!("digest-{server}-{value}");
    let argument = Argument { name: "key".into(), values: vec![value.to_string()], scalar: true };
    let common = Observation {
        server: text("server", server),
        tool: text("get_thing", server),
        trace_id: traces.then(|| format!("{number:032x}")),
        ..Observation::default()
    };
    let arguments = Payload { digests: vec![digest], ..Payload::default() };
    let answer = Payload { digests: vec![format!("answer-{server}-{value}")], bytes: Some(100), ..Payload::default() };
    let span = |of: u64| traces.then(|| format!("{:016x}", number * 8 + of));
    let desk = Observation {
        clock: format!("host:{user}"),
        program: text("app", user % 2),
        workstation: text("pc", user),
        instance: text("app", user),
        user: text("user", user),
        conversation: Some(format!("conversation-{user}-{}", number / 200)),
        model: text("model", 0),
        tool_call_id: text("call", number),
        ..common.clone()
    };
    let frame = Observation {
        clock: "gateway:0".into(),
        gateway: text("gateway", 0),
        program: text("app", user % 2),
        addresses: vec!["10.0.0.1".into()],
        subject: text("subject", user),
        mcp_session: Some(format!("session-{user}-{server}")),
        rpc_id: Some(number.to_string()),
        ..common.clone()
    };
    vec![
        Observation {
            act: Act::Choice,
            time_unix_nano: nanos(start + host),
            arguments: arguments.clone(),
            argument_values: Some(vec![argument.clone()]),
            span_id: span(1),
            ..desk.clone()
        },
        Observation {
            act: Act::Request,
            time_unix_nano: nanos(start + 0.006 + gateway),
            arguments: arguments.clone(),
            span_id: span(2),
            parent_span_id: span(1),
            ..frame.clone()
        },
        Observation {
            act: Act::Execution,
            clock: format!("server:{server}"),
            time_unix_nano: nanos(start + 0.008 + duration + own),
            duration: Some((duration * 1e3).round() / 1e3),
            failed: Some(false),
            arguments,
            argument_values: Some(vec![argument]),
            span_id: span(3),
            parent_span_id: span(2),
            ..common.clone()
        },
        Observation {
            act: Act::Http,
            clock: format!("downstream:{server}"),
            time_unix_nano: nanos((start + 0.01 + duration * 0.7 + api).floor()),
            duration: Some((duration * 600.0).round() / 1e3),
            tool: None,
            twin: Some(number),
            http: Some(HttpLine {
                host: format!("api-{server}.example"),
                method: "GET".into(),
                path: format!("/thing/{value}"),
                segments: vec!["thing".into(), value.to_string()],
                status: 200,
                bytes: 400,
                ..HttpLine::default()
            }),
            parent_span_id: span(3),
            ..common
        },
        Observation {
            act: Act::Response,
            time_unix_nano: nanos(start + 0.01 + duration + gateway),
            duration: Some(((duration + 0.004) * 1e3).round() / 1e3),
            failed: Some(false),
            result: answer.clone(),
            tool: None,
            span_id: span(2),
            parent_span_id: span(1),
            ..frame
        },
        Observation {
            act: Act::Outcome,
            time_unix_nano: nanos(start + 0.016 + duration + host),
            result: answer,
            span_id: span(4),
            ..desk
        },
    ]
}
