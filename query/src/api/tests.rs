use axum::http::Request;
use expect_test::{expect, expect_file};
use http_body_util::BodyExt;
use serde_json::Value;
use threadline_schemas::{Kind, Record};
use threadline_store::{Store, StoreConfig};
use tower::ServiceExt;

use super::*;
use crate::engine::EngineConfig;
use crate::testing::{call, make};

#[test]
fn the_openapi_document_is_the_golden_one() {
    expect_file!["../../goldens/openapi.json"].assert_eq(&openapi());
}

#[test]
fn a_parameter_is_in_the_path_only_where_the_path_names_it() {
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let parameters = methods.as_object().unwrap().values().filter_map(|method| method["parameters"].as_array());
        for parameter in parameters.flatten() {
            let name = parameter["name"].as_str().unwrap();
            let is_named = path.contains(&format!("{{{name}}}"));
            assert_eq!(parameter["in"], if is_named { "path" } else { "query" }, "{path} {name}");
        }
    }
}

struct Server {
    _dir: tempfile::TempDir,
    store: Store,
    router: Router,
}

async fn serve(records: Vec<Record>) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreConfig::default()).await.unwrap();
    store.appender().append(records).await.unwrap();
    let router = router(Arc::new(Engine::new(store.reader(), EngineConfig::default())), Default::default());
    Server { _dir: dir, store, router }
}

impl Server {
    async fn get(&self, path: &str) -> (StatusCode, axum::http::HeaderMap, Vec<u8>) {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts.status, parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
    }

    async fn json(&self, path: &str) -> Value {
        let (status, headers, body) = self.get(path).await;
        let value: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status, StatusCode::OK, "{value}");
        assert_eq!(headers[header::CONTENT_TYPE], "application/json");
        value
    }
}

fn records() -> Vec<Record> {
    let mut records = call("a", "conv", "run", "toolu_1", 0);
    records.push(make("prompt", Kind::Prompt, -10).host("conv").text("Refund it \u{202e}now").done());
    records.push(make("idle", Kind::Connection, -9).wire("other", crate::testing::C2S).done());
    records[1].raw = Some(b"<script>alert(1)</script>".to_vec());
    records
}

/// Answers that are put together wait for their turn; health, and what has bounds of its own, do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_answers_are_put_together_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreConfig::default()).await.unwrap();
    store.appender().append(records()).await.unwrap();
    let engine = Arc::new(Engine::new(store.reader(), EngineConfig::default()));
    let router = router(engine.clone(), Default::default());
    let get = |path: &'static str| {
        let router = router.clone();
        async move { router.oneshot(Request::builder().uri(path).body(Body::empty()).unwrap()).await.unwrap().status() }
    };
    let mut turns = Vec::new();
    for _ in 0..engine.config().answers_at_once_max {
        turns.push(engine.turn(false).await.unwrap());
    }
    let mut waiting = Box::pin(get("/api/v1/sessions"));
    assert!(futures::poll!(&mut waiting).is_pending());
    for path in ["/healthz", "/metrics", "/api/v1/export?q=refund", "/api/v1/sql?query=SELECT%201"] {
        assert_eq!(get(path).await, StatusCode::OK, "{path}");
    }
    assert!(futures::poll!(&mut waiting).is_pending());
    turns.pop();
    assert_eq!(waiting.await, StatusCode::OK);
    drop(turns);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_id_leads_to_the_session_before_and_after_sealing() {
    let server = serve(records()).await;
    let all = records();
    let list = server.json("/api/v1/sessions").await;
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    let id = list["data"][0]["id"].as_str().unwrap().to_string();
    expect![[r#"["1 connections and traces without prompt, choice or call are not listed; all=true lists them"]"#]]
        .assert_eq(&list["completeness"]["notes"].to_string());
    for _ in 0..2 {
        for any in [
            &id,
            "conv",
            "conversation:conv",
            "toolu_1",
            "run",
            "rpc:run:client%2F4",
            &all[2].event_id.to_string(),
            all[0].call_key.as_ref().unwrap(),
        ] {
            let answer = server.json(&format!("/api/v1/sessions/{any}")).await;
            assert_eq!(answer["data"]["summary"]["id"], id.as_str(), "{any}");
            assert_eq!(
                (&answer["data"]["summary"]["records"], &answer["completeness"]["state"]),
                (&5.into(), &"complete".into())
            );
            assert_eq!(answer["data"]["summary"]["title"], "Refund it \u{202e}now");
        }
        server.store.seal_now().await.unwrap();
    }
    assert_eq!(server.json("/api/v1/sessions?all=true").await["data"].as_array().unwrap().len(), 2);
    server.store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_out_cannot_be_interpreted() {
    let server = serve(records()).await;
    let (_, _, body) = server.get("/api/v1/sessions/conv").await;
    let body = String::from_utf8(body).unwrap();
    assert!(body.contains(r"\u202e") && !body.contains('\u{202e}'));
    let raw = records()[1].event_id;
    let (status, headers, body) = server.get(&format!("/api/v1/events/{raw}/raw")).await;
    assert_eq!((status, body.as_slice()), (StatusCode::OK, b"<script>alert(1)</script>".as_slice()));
    assert_eq!(headers[header::CONTENT_TYPE], "application/octet-stream");
    assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert!(headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("sandbox"));
    assert_eq!(headers[header::CONTENT_DISPOSITION], format!("attachment; filename=\"{raw}.bin\""));
    server.store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn problems_say_what_was_tried() {
    let server = serve(records()).await;
    for (path, status, kind) in [
        ("/api/v1/sessions/nobody", 404, "/problems/not-found"),
        ("/api/v1/sessions/%1b%5b31m", 404, "/problems/not-found"),
        ("/api/v1/events/not-a-uuid", 404, "/problems/not-found"),
        ("/api/v1/sessions?outcome=maybe", 400, "/problems/parameter"),
        ("/api/v1/sessions?limit=many", 400, "/problems/parameter"),
        ("/api/v1/sessions?cursor=zzz", 400, "/problems/parameter"),
        ("/api/v1/search?q=", 400, "/problems/parameter"),
        ("/api/v1/sql?query=DROP%20TABLE%20records", 400, "/problems/sql-refused"),
        ("/api/v1/sql?query=SELECT%20nothing%20FROM%20records", 400, "/problems/sql-refused"),
    ] {
        let (code, headers, body) = server.get(path).await;
        let problem: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((code.as_u16(), problem["type"].as_str()), (status, Some(kind)), "{path}: {problem}");
        assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(headers["x-request-id"], problem["request_id"].as_str().unwrap());
        assert!(!body.contains(&0x1b));
    }
    server.store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_placed_once_in_pages_and_as_a_stream() {
    let mut all = records();
    all.push(make("nowhere", Kind::Log, 0).done());
    let server = serve(all.clone()).await;
    let mut ids = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = server.json(&format!("/api/v1/links?limit=2{cursor}")).await;
        ids.extend(
            page["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|placement| placement["event_id"].as_str().unwrap().to_string()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let request = Request::builder()
        .uri("/api/v1/links")
        .header(header::ACCEPT, "application/x-ndjson")
        .body(Body::empty())
        .unwrap();
    let response = server.router.clone().oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let streamed: Vec<Value> =
        String::from_utf8_lossy(&body).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let streamed_ids: Vec<&str> = streamed.iter().map(|placement| placement["event_id"].as_str().unwrap()).collect();
    assert_eq!(ids, streamed_ids);
    ids.sort_unstable();
    let mut expected: Vec<String> = all.iter().map(|record| record.event_id.to_string()).collect();
    expected.sort_unstable();
    assert_eq!(ids, expected);
    let request = streamed.iter().find(|placement| placement["kind"] == "call").unwrap();
    assert_eq!((&request["grade"], &request["rule"]), (&"matched".into(), &"tool-call-id".into()));
    assert_eq!(streamed.last().unwrap()["session"], Value::Null);
    server.store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_sessions_and_hits_are_complete_and_stable() {
    let mut all = Vec::new();
    for n in 0..7 {
        all.push(make(&format!("p{n}"), Kind::Prompt, n % 3).host(&format!("conv-{n}")).text("find me").done());
    }
    let server = serve(all.clone()).await;
    for path in ["/api/v1/sessions?limit=2", "/api/v1/search?q=find&limit=2"] {
        let mut seen = Vec::new();
        let mut cursor = String::new();
        for round in 0.. {
            let page = server.json(&format!("{path}{cursor}")).await;
            for one in page["data"].as_array().unwrap() {
                seen.push(one["id"].as_str().or(one["event"]["event_id"].as_str()).unwrap().to_string());
            }
            // What comes in meanwhile does not shift the pages that are still to come.
            let late = make(&format!("late-{round}-{}", path.len()), Kind::Prompt, 99)
                .host(&format!("late-{round}-{}", path.len()));
            server.store.appender().append(vec![late.text("find me").done()]).await.unwrap();
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let mut distinct = seen.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), seen.len(), "{path}: nothing twice");
        assert!(seen.len() >= 7, "{path}: {seen:?}");
    }
    server.store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_hold_together() {
    let mut all = records();
    all.extend(call("b", "conv-b", "run-b", "toolu_2", 90_000));
    for record in all.iter_mut().filter(|record| crate::testing::id(record).starts_with("b-")) {
        record.user_claimed = Some("mallory".into());
        if record.kind == Kind::Result {
            record.outcome = Some(threadline_schemas::Outcome::Error);
        }
    }
    let server = serve(all).await;
    for (filter, count) in [
        ("user=mallory", 1),
        ("user=nobody", 0),
        ("tool=refund", 2),
        ("server=orders&outcome=error", 1),
        ("outcome=denied", 0),
        ("from=2026-11-20T10:21:00Z", 1),
        ("to=2026-11-20T10:21:00Z", 1),
        ("agent=none", 0),
    ] {
        let answer = server.json(&format!("/api/v1/sessions?{filter}")).await;
        assert_eq!(answer["data"].as_array().unwrap().len(), count, "{filter}");
    }
    server.store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_tells_about_itself() {
    let server = serve(records()).await;
    for (path, expected) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        assert_eq!(server.get(path).await.2, expected.as_bytes());
    }
    assert_eq!(server.json("/version").await["record_version"], 1);
    assert_eq!(server.json("/api/v1/openapi.json").await["openapi"], "3.1.0");
    let metrics = String::from_utf8(server.get("/metrics").await.2).unwrap();
    assert!(metrics.contains("threadline_tail_rows 6\n"), "{metrics}");
    let synced = metrics
        .lines()
        .find_map(|line| line.strip_prefix(r#"threadline_store_stage_seconds_total{stage="log_sync"} "#));
    assert!(synced.is_some_and(|seconds| seconds.parse::<f64>().unwrap() > 0.0), "{metrics}");
    assert!(metrics.contains(r#"threadline_http_requests_total{route="/readyz",status="2xx"} 1"#), "{metrics}");
    let sources = server.json("/api/v1/sources").await;
    assert_eq!(
        sources["data"].as_array().unwrap().iter().map(|source| source["records"].as_u64().unwrap()).sum::<u64>(),
        6
    );
    server.store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_made_up_cursor_is_refused_or_the_end() {
    let server = serve(records()).await;
    let session = server.json("/api/v1/sessions").await["data"][0]["id"].as_str().unwrap().to_string();
    let max = u64::MAX;
    for (path, question, places) in [
        (
            "/api/v1/sessions".to_string(),
            serde_json::json!(["sessions", null, null, null, null, null, null, null, null]),
            vec![serde_json::json!([i64::MIN, ""]), serde_json::json!([max, "x"]), serde_json::json!({"a": 1})],
        ),
        (
            "/api/v1/search?q=refund".to_string(),
            serde_json::json!(["search", "refund", null, null]),
            vec![
                serde_json::json!([i64::MAX, []]),
                serde_json::json!([0, vec!["x"; 5000]]),
                serde_json::json!([i64::MIN, vec![""; 400]]),
            ],
        ),
        (
            "/api/v1/links".to_string(),
            serde_json::json!(["links", null]),
            vec![
                serde_json::json!(["", max]),
                serde_json::json!([session, max]),
                serde_json::json!(["zzz", 7]),
                serde_json::json!(["", -1]),
            ],
        ),
        (
            format!("/api/v1/links?session={session}"),
            serde_json::json!(["links", session]),
            vec![serde_json::json!(["", max]), serde_json::json!([session, 3])],
        ),
    ] {
        let and = if path.contains('?') { '&' } else { '?' };
        for place in places {
            let cursor = crate::cursor::write(&question.to_string(), &place);
            let (status, ..) = server.get(&format!("{path}{and}cursor={cursor}")).await;
            assert!([200, 400].contains(&status.as_u16()), "{path} {place}: {status}");
        }
        let (status, ..) = server.get(&format!("{path}{and}cursor=eyJxIjoi")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }
    server.store.close().await.unwrap();
}
