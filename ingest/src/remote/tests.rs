use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use reqwest::StatusCode;
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
    let router = http::events(http::Collecting::new(bench.pipeline.clone()))
        .layer(middleware::from_fn_with_state(trouble, troubled));
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
    Target::new(&format!("http://{address}/"), Some("secret-token".into()), None).unwrap()
}

fn origin() -> Origin {
    Origin { collector: Collector::Tap, source_name: "orders".into() }
}

async fn open(bench: &Bench, address: std::net::SocketAddr) -> Arc<Outbox> {
    Outbox::open(&bench.path("state"), target(address), &origin()).await.unwrap()
}

/// Records in a runtime that then goes away with everything in it, as a process would; with or without an end in order.
fn another_process(bench: &Bench, address: std::net::SocketAddr, ids: std::ops::Range<u32>, closes: bool) {
    let (state, target) = (bench.path("state"), target(address));
    let process = move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let outbox = Outbox::open(&state, target, &origin()).await.unwrap();
            outbox.append(records(ids)).await.unwrap();
            if closes {
                assert!(!outbox.close(Duration::from_millis(1)).await.unwrap());
            }
        });
    };
    std::thread::spawn(process).join().unwrap();
}

/// Folders that are left, by kind.
fn left(bench: &Bench) -> (usize, usize) {
    let count = |name: &str| {
        let entries = std::fs::read_dir(bench.path("state").join(name)).into_iter().flatten().flatten();
        entries.filter(|entry| Uuid::try_parse(&entry.file_name().to_string_lossy()).is_ok()).count()
    };
    (count("outbox"), count("streams"))
}

/// Delivery keys of what is stored, without gaps.
async fn stored(bench: &Bench) -> Vec<String> {
    let records = bench.records().await.into_iter().filter(|record| record.kind != Kind::Gap);
    records.map(|record| record.delivery_key).collect()
}

async fn gaps(bench: &Bench) -> Vec<(String, String)> {
    let records = bench.records().await.into_iter().filter(|record| record.kind == Kind::Gap);
    records.map(|record| (record.error_type.unwrap(), record.text.unwrap())).collect()
}

/// Waits until something is so.
async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.unwrap();
}

const LONG: Duration = Duration::from_secs(60);

async fn listen() -> (tokio::net::TcpListener, std::net::SocketAddr) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn records_wait_while_the_server_is_away_and_arrive_once() {
    let bench = Bench::new().await;
    // Bound and closed: nobody listens there yet.
    let (listener, address) = listen().await;
    drop(listener);
    let outbox = open(&bench, address).await;
    outbox.append(records(0..1200)).await.unwrap();
    assert!(!outbox.flush(Duration::from_millis(1)).await);
    assert_eq!(waiting(&bench.path("state")).unwrap().records.values().sum::<u64>(), 1200);
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    serve(&bench, listener, StatusCode::SERVICE_UNAVAILABLE, 2).await;
    outbox.append(records(1190..1210)).await.unwrap();
    assert!(outbox.close(LONG).await.unwrap());
    assert_eq!(stored(&bench).await.len(), 1210);
    let delivery = outbox.delivery();
    assert_eq!((delivery.sent, delivery.duplicates, delivery.refused), (1220, 10, 0));
    assert_eq!(left(&bench), (0, 0));
    let numbers: Vec<u64> = bench.records().await.iter().map(|record| Marker::of(record).unwrap().1).collect();
    assert_eq!((numbers.iter().min(), numbers.iter().max()), (Some(&0), Some(&1219)));
}

#[tokio::test]
async fn what_a_killed_process_left_is_sent_by_the_next_with_a_sign() {
    let bench = Bench::new().await;
    let (listener, address) = listen().await;
    drop(listener);
    another_process(&bench, address, 0..3, false);
    assert_eq!(left(&bench), (1, 1));
    // One that sends elsewhere lets it be.
    let (_elsewhere, other) = listen().await;
    drop(open(&bench, other).await);
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    serve(&bench, listener, StatusCode::UNAUTHORIZED, 1).await;
    let outbox = open(&bench, address).await;
    until(async || gaps(&bench).await.len() == 1).await;
    assert_eq!(stored(&bench).await.len(), 3);
    assert_eq!(gaps(&bench).await[0].0, threadline_schemas::abandoned::ERROR_TYPE);
    drop(outbox);
}

/// A file system that goes away with the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
    }
}

#[tokio::test]
async fn what_finds_no_room_on_the_disk_goes_to_the_server_behind_what_waits() {
    let bench = Bench::new().await;
    let (listener, address) = listen().await;
    drop(listener);
    let state = bench.path("state");
    std::fs::create_dir_all(&state).unwrap();
    let mount = |args: &[&str]| std::process::Command::new(args[0]).args(&args[1..]).arg(&state).status();
    let mounted = mount(&["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs"]);
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: mounting a tmpfs needs root and CAP_SYS_ADMIN");
        return;
    }
    let _mounted = Mounted(state.clone());
    let outbox = open(&bench, address).await;
    outbox.append(records(0..10)).await.unwrap();
    let mut ballast = std::fs::File::create(state.join("ballast")).unwrap();
    while std::io::Write::write_all(&mut ballast, &[1; 4096]).is_ok() {}
    // What is preallocated takes some more; the server is away.
    let (mut kept, mut refusal) = (10, None);
    while refusal.is_none() && kept < 20_000 {
        match outbox.append(records(kept..kept + 100)).await {
            Ok(_) => kept += 100,
            Err(error) => refusal = Some(error),
        }
    }
    assert!(matches!(refusal, Some(AppendError::NoSpace)), "{refusal:?}");
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    serve(&bench, listener, StatusCode::OK, 0).await;
    outbox.append(records(kept..kept + 1_000)).await.unwrap();
    // Already there, though nothing waited for it.
    assert_eq!(stored(&bench).await.len() as u32, kept + 1_000);
    assert_eq!(outbox.delivery().sent, u64::from(kept + 1_000));
    let mut numbers: Vec<u64> = bench.records().await.iter().map(|record| Marker::of(record).unwrap().1).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..u64::from(kept + 1_000)).collect::<Vec<_>>());
    assert!(outbox.close(LONG).await.unwrap());
    assert_eq!(left(&bench), (0, 0));
    drop((outbox, ballast));
}

/// A run that begins on a full disk has no outbox at first: its records go to the server, and to the outbox once there is
/// room for one.
#[tokio::test]
async fn a_run_that_begins_on_a_full_disk_sends_at_once_and_keeps_when_there_is_room() {
    let bench = Bench::new().await;
    let (listener, address) = listen().await;
    drop(listener);
    let state = bench.path("state");
    std::fs::create_dir_all(&state).unwrap();
    let mut mount = std::process::Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs"]).arg(&state);
    if !mount.status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: mounting a tmpfs needs root and CAP_SYS_ADMIN");
        return;
    }
    let _mounted = Mounted(state.clone());
    let ballast = state.join("ballast");
    let mut filling = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut filling, &[1; 4096]).is_ok() {}
    drop(filling);
    // Nothing of its own is there, not even who it is.
    let (pipeline, outbox) = pipeline(&state, target(address), &origin()).await.unwrap();
    assert_eq!(left(&bench), (0, 0));
    // The server is away as well: refused, so that whoever collects counts it.
    let refused = tokio::time::timeout(LONG, outbox.append(records(0..1))).await.unwrap();
    assert!(matches!(refused, Err(AppendError::NoSpace)), "{refused:?}");
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    serve(&bench, listener, StatusCode::OK, 0).await;
    outbox.append(records(0..600)).await.unwrap();
    assert_eq!((stored(&bench).await.len(), outbox.delivery().sent), (600, 600));
    assert_eq!(left(&bench), (0, 0));
    std::fs::remove_file(&ballast).unwrap();
    outbox.append(records(600..700)).await.unwrap();
    assert_eq!(left(&bench), (1, 1));
    assert!(outbox.close(LONG).await.unwrap());
    assert_eq!((stored(&bench).await.len(), outbox.delivery().sent), (700, 700));
    assert_eq!((left(&bench), gaps(&bench).await), ((0, 0), Vec::new()));
    let mut numbers: Vec<u64> = bench.records().await.iter().map(|record| Marker::of(record).unwrap().1).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..700).collect::<Vec<_>>());
    drop((pipeline, outbox));
}

#[tokio::test]
async fn a_deleted_outbox_is_a_gap_with_its_count() {
    let bench = Bench::new().await;
    let (listener, address) = listen().await;
    drop(listener);
    another_process(&bench, address, 0..41, true);
    assert_eq!(left(&bench), (1, 1));
    std::fs::remove_dir_all(bench.path("state").join("outbox")).unwrap();
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    serve(&bench, listener, StatusCode::OK, 0).await;
    let next = async || {
        let outbox = open(&bench, address).await;
        outbox.append(records(41..43)).await.unwrap();
        assert!(outbox.close(LONG).await.unwrap());
    };
    next().await;
    next().await;
    let text = "41 records were collected and did not arrive: the outbox is gone (numbers 0 to 40)";
    assert_eq!(gaps(&bench).await, [("lost_in_transit".to_string(), text.to_string())]);
    assert_eq!(stored(&bench).await.len(), 2);
}

#[tokio::test]
async fn an_outbox_that_lost_records_is_a_gap_with_its_count() {
    type Damage = fn(&Path);
    let damages: [(Damage, bool); 5] = [
        (|log| std::fs::remove_file(log).unwrap(), true),
        (|log| std::fs::remove_file(log).unwrap(), false),
        (|log| cut(log, |bytes| bytes / 2), true),
        (|log| cut(log, |bytes| bytes - 3), true),
        (|log| cut(log, |bytes| bytes / 2), false),
    ];
    for (damage, closes) in damages {
        let bench = Bench::new().await;
        let (listener, address) = listen().await;
        drop(listener);
        another_process(&bench, address, 0..50, closes);
        let folders = std::fs::read_dir(bench.path("state").join("outbox")).unwrap().flatten();
        for file in folders.filter_map(|folder| std::fs::read_dir(folder.path()).ok()).flatten().flatten() {
            if file.path().extension().is_some_and(|extension| extension == "log") {
                damage(&file.path());
            }
        }
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        serve(&bench, listener, StatusCode::OK, 0).await;
        let outbox = open(&bench, address).await;
        assert!(outbox.close(LONG).await.unwrap());
        let arrived = stored(&bench).await.len();
        assert!(arrived < 50, "the log was not cut");
        let text = format!(
            "{} records were collected and did not arrive: the outbox holds fewer (numbers {arrived} to 49)",
            50 - arrived
        );
        let gaps = gaps(&bench).await;
        assert!(gaps.contains(&("lost_in_transit".to_string(), text)), "{gaps:?}");
        assert_eq!((gaps.len(), left(&bench)), (1 + usize::from(!closes), (0, 0)));
    }
}

/// Cuts a log file off, given its bytes up to the space that is kept ready behind its frames.
fn cut(log: &Path, keeps: impl FnOnce(u64) -> u64) {
    let bytes = std::fs::read(log).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
    std::fs::OpenOptions::new().write(true).open(log).unwrap().set_len(keeps(written)).unwrap();
}

#[tokio::test]
async fn a_batch_refused_for_good_is_halved_down_to_the_record_at_fault() {
    let bench = Bench::new().await;
    let (listener, address) = listen().await;
    // 8 events: all, 0..4, 0..2, then 0 alone are refused.
    serve(&bench, listener, StatusCode::UNPROCESSABLE_ENTITY, 4).await;
    let outbox = open(&bench, address).await;
    outbox.append(records(0..8)).await.unwrap();
    assert!(outbox.flush(LONG).await);
    assert_eq!(stored(&bench).await, (1..8).map(|id| format!("api:tap:run:{id}")).collect::<Vec<_>>());
    assert_eq!(outbox.delivery().refused, 1);
}

#[tokio::test]
async fn a_hole_in_the_numbers_of_a_run_is_seen_by_the_receiver() {
    let bench = Bench::new().await;
    let (listener, address) = listen().await;
    serve(&bench, listener, StatusCode::OK, 0).await;
    let outbox = open(&bench, address).await;
    outbox.append(records(0..2)).await.unwrap();
    assert!(outbox.flush(LONG).await);
    // Three records that are numbered and never sent.
    *outbox.next.lock().await += 3;
    outbox.append(records(5..8)).await.unwrap();
    assert!(outbox.flush(LONG).await);
    let text = "3 records were collected and did not arrive: later records of the run came first (numbers 2 to 4)";
    assert_eq!(gaps(&bench).await, [("lost_in_transit".to_string(), text.to_string())]);
    assert_eq!(stored(&bench).await.len(), 5);
}

#[test]
fn a_target_is_a_plain_url_and_tokens_travel_in_private() {
    let check = |url: &str| Target::new(url, None, None).map(|target| target.url.to_string()).ok();
    assert_eq!(check("http://h:1").as_deref(), Some("http://h:1/api/v1/events"));
    assert_eq!(check("https://h/below/").as_deref(), Some("https://h/below/api/v1/events"));
    for url in ["h:1", "ftp://h", "http://u:p@h", "http://h?x=1"] {
        assert_eq!(check(url), None, "{url}");
    }
    let with_token = |url: &str| Target::new(url, Some("secret".into()), None).is_ok();
    assert!(with_token("https://h") && with_token("http://127.0.0.1:1") && with_token("http://[::1]:1"));
    assert!(with_token("http://localhost:1") && !with_token("http://h:1"));
    assert!(!format!("{:?}", Target::new("https://h", Some("secret".into()), None)).contains("secret"));
    assert!(matches!(Target::new("https://h", None, Some(b"no pem")), Err(OutboxError::Authority)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_a_server_takes_nothing_is_known_with_what_to_do() {
    let bench = Bench::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let why = async |target: Target, name: &str| {
        let outbox = Outbox::open(&bench.path(name), target, &origin()).await.unwrap();
        outbox.append(records(0..1)).await.unwrap();
        assert!(!outbox.flush(Duration::from_secs(2)).await, "{name}");
        outbox.trouble().unwrap()
    };
    serve(&bench, listener, StatusCode::UNAUTHORIZED, usize::MAX).await;
    let revoked = why(target(address), "revoked").await;
    assert!(revoked.contains("(401)") && revoked.contains("--token-file"), "{revoked}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = why(target(free), "away").await;
    assert!(away.starts_with("the server is away (") && away.contains("refused"), "{away}");
    let certified = tls_listener().await;
    let unknown = Target::new(&format!("https://{certified}/"), None, None).unwrap();
    let unknown = why(unknown, "unknown").await;
    assert!(unknown.contains("certificate is not believed") && unknown.contains("--ca"), "{unknown}");
}

/// Where a server of TLS answers whose certificate nobody knows.
async fn tls_listener() -> std::net::SocketAddr {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_string()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key).unwrap();
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _refused = tls.accept(stream).await;
        }
    });
    address
}
