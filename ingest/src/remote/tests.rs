use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use threadline_schemas::Kind;

use super::*;
use crate::http;
use crate::testing::Bench;

/// Says `status` to the first `count` requests.
#[derive(Clone)]
struct Trouble {
    status: StatusCode,
    left: Arc<AtomicUsize>,
}

async fn troubled(State(trouble): State<Trouble>, request: Request, next: Next) -> Response {
    let left = trouble.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
    let bears = request.headers().get("authorization").is_some_and(|value| value == "Bearer secret-token");
    assert!(bears, "the token travels");
    if left.is_ok() { trouble.status.into_response() } else { next.run(request).await }
}

async fn serve(bench: &Bench, listener: tokio::net::TcpListener, status: StatusCode, count: usize) {
    let trouble = Trouble { status, left: Arc::new(AtomicUsize::new(count)) };
    let router = http::events(bench.pipeline.clone()).layer(middleware::from_fn_with_state(trouble, troubled));
    tokio::spawn(async move { axum::serve(listener, router).await });
}

fn records(ids: std::ops::Range<u32>) -> Vec<Record> {
    ids.map(|id| {
        let mut record = Record::new("default", &format!("tap:run:{id}"), Kind::Log);
        record.set_time(Some(1), 2);
        record
    })
    .collect()
}

fn target(address: std::net::SocketAddr) -> Target {
    Target::new(&format!("http://{address}/"), Some("secret-token".into())).unwrap()
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn records_wait_while_the_server_is_away_and_arrive_once() {
    let bench = Bench::new().await;
    // Bound and closed: nobody listens there yet.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let state = bench.path("outbox");
    let outbox = Outbox::open(&state, target(address)).unwrap();
    outbox.append(records(0..1200)).await.unwrap();
    assert!(!outbox.flush(Duration::from_millis(1)).await);
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    serve(&bench, listener, StatusCode::SERVICE_UNAVAILABLE, 2).await;
    outbox.append(records(1190..1210)).await.unwrap();
    assert!(outbox.flush(LONG).await);
    assert_eq!(bench.records().await.len(), 1210);
}

#[tokio::test]
async fn what_a_process_left_behind_is_sent_by_the_next() {
    let bench = Bench::new().await;
    let state = bench.path("outbox");
    let left = state.join(Uuid::new_v4().to_string());
    let (log, _) = Log::open(&left, log_config()).unwrap();
    let frames = records(0..3).iter().map(|record| encoding::encode(record).into()).collect();
    log.append(frames).await.unwrap();
    log.close().await.unwrap();
    drop(log);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    serve(&bench, listener, StatusCode::UNAUTHORIZED, 1).await;
    let _outbox = Outbox::open(&state, target(address)).unwrap();
    let waiting = async {
        while left.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.unwrap();
    assert_eq!(bench.records().await.len(), 3);
}

#[tokio::test]
async fn a_batch_refused_for_good_is_halved_down_to_the_record_at_fault() {
    let bench = Bench::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // 8 events: all, 0..4, 0..2, then 0 alone are refused.
    serve(&bench, listener, StatusCode::UNPROCESSABLE_ENTITY, 4).await;
    let outbox = Outbox::open(&bench.path("outbox"), target(address)).unwrap();
    outbox.append(records(0..8)).await.unwrap();
    assert!(outbox.flush(LONG).await);
    let stored: Vec<String> = bench.records().await.into_iter().map(|record| record.delivery_key).collect();
    assert_eq!(stored, (1..8).map(|id| format!("api:tap:run:{id}")).collect::<Vec<_>>());
}

#[test]
fn a_target_is_a_plain_url() {
    let check = |url: &str| Target::new(url, None).map(|target| target.url.to_string()).ok();
    assert_eq!(check("http://h:1").as_deref(), Some("http://h:1/api/v1/events"));
    assert_eq!(check("https://h/below/").as_deref(), Some("https://h/below/api/v1/events"));
    for url in ["h:1", "ftp://h", "http://u:p@h", "http://h?x=1"] {
        assert_eq!(check(url), None, "{url}");
    }
}
