use bytes::Bytes;
use expect_test::expect;
use threadline_schemas::Kind;

use super::*;
use crate::remote::{self, Origin, Target};
use crate::tap::{End, Frame, Gap, GapReason, Record as _};
use crate::testing::Bench;

fn run() -> Uuid {
    Uuid::from_u128(7)
}

fn frame(direction: tap::Direction, text: &str) -> Event {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    let length = bytes.len() as u64;
    Event::Frame(Frame { direction, bytes, length, terminated: true, delivered: true, sha256: None })
}

/// A short life of a server.
fn observations() -> Vec<Observation> {
    use tap::Direction::{ClientToServer, ServerStderr, ServerToClient};
    let gap = Gap {
        direction: ServerToClient,
        frames: 2,
        bytes: 80,
        from_unix_nano: 4,
        to_unix_nano: 9,
        reason: GapReason::Overflow,
    };
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"login","arguments":{"password":"hunter2"}}}"#;
    let events = [
        Event::Started { run: run(), command: vec!["server".into(), "--api-key".into()], pid: 42 },
        frame(ClientToServer, call),
        frame(ServerStderr, "starting with API_TOKEN=abcd1234"),
        frame(ServerToClient, r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"ok"}]}}"#),
        frame(ServerToClient, "not json"),
        Event::Gap(gap),
        Event::Closed { direction: ServerToClient, by: End::Source },
        Event::Exited { code: None, signal: Some(9) },
    ];
    let numbered = events.into_iter().enumerate();
    numbered.map(|(at, event)| Observation { sequence: at as u64, time_unix_nano: at as i64 + 1, event }).collect()
}

#[tokio::test]
async fn a_run_becomes_records() {
    let bench = Bench::new().await;
    let mut recorder = FrameRecorder::new(bench.pipeline.clone(), "orders", run());
    let (first, rest) = (observations()[..2].to_vec(), observations()[2..].to_vec());
    recorder.record(first.clone()).await.unwrap();
    // It comes again after a failure whose outcome nobody knew.
    recorder.record(first).await.unwrap();
    recorder.record(rest).await.unwrap();
    let mut records = bench.records().await;
    records.sort_by_key(|record| record.time_unix_nano);
    let shown: Vec<String> = records
        .iter()
        .map(|record| {
            let text = |value: &Option<String>| value.clone().unwrap_or("-".into());
            let outcome = record.outcome.map_or("-", |outcome| outcome.as_str());
            format!(
                "{} {} {outcome} {} {}\n",
                record.kind,
                text(&record.name),
                text(&record.rpc_id),
                text(&record.tool_name)
            )
        })
        .collect();
    expect![[r#"
        process started - - -
        call tools/call - 1 login
        log stderr - - -
        result tools/call ok 1 login
        gap gap - - -
        rejected - error - -
        connection closed - - -
        process exited error - -
    "#]]
    .assert_eq(&shown.concat());
    let stored: String = records.iter().map(threadline_schemas::wire::write_event).collect();
    assert!(!stored.contains("hunter2") && !stored.contains("abcd1234"));
    let call = records.iter().find(|record| record.kind == Kind::Call).unwrap();
    let result = records.iter().find(|record| record.kind == Kind::Result).unwrap();
    assert_eq!((call.call_key.is_some(), &call.call_key), (true, &result.call_key));
    assert_eq!(call.raw.as_ref().map(|raw| raw.starts_with(b"{\"jsonrpc\":\"2.0\"")), Some(true));
}

#[tokio::test]
async fn a_failed_batch_is_decoded_once_and_stored_later() {
    let broken = Bench::new().await;
    let mut recorder = FrameRecorder::new(broken.pipeline.clone(), "orders", run());
    broken.store.close().await.unwrap();
    let failed = recorder.record(observations()).await;
    assert!(matches!(failed, Err(RecordError::Unavailable(_))), "{failed:?}");
    // The same recorder with a store that works again.
    let bench = Bench::new().await;
    recorder.recording.as_mut().unwrap().delivery.pipeline = bench.pipeline.clone();
    recorder.record(observations()).await.unwrap();
    let records = bench.records().await;
    // A second decoding would have found no request for the response.
    let result = records.iter().find(|record| record.kind == Kind::Result).unwrap();
    assert_eq!(result.tool_name.as_deref(), Some("login"));
    assert!(recorder.recording.unwrap().delivery.pending.is_empty());
    assert!(FrameRecorder::off().record(observations()).await.is_ok());
}

#[tokio::test]
async fn a_run_reaches_a_server_elsewhere() {
    let bench = Bench::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = crate::http::events(crate::http::Collecting::new(bench.pipeline.clone()));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let target = Target::new(&url, None, None).unwrap();
    let origin = Origin { collector: Collector::Tap, source_name: "orders".into() };
    let (pipeline, outbox) = remote::pipeline(&bench.path("state"), target, &origin).await.unwrap();
    let mut recorder = FrameRecorder::new(pipeline, "orders", run());
    recorder.record(observations()).await.unwrap();
    recorder.close().await;
    assert_eq!(outbox.delivery().sent, bench.records().await.len() as u64);
    let records = bench.records().await;
    let call = records.iter().find(|record| record.kind == Kind::Call).unwrap();
    assert_eq!(call.delivery_key, format!("api:tap:{}:1", run()));
    assert_eq!(call.connection_id, Some(run().to_string()));
    assert!(call.arguments_digest.is_some(), "made under the key of the server");
    assert!(call.keys.iter().any(|key| key.starts_with("rpc:")));
}
