//! Peers that want to break the proxy, the record of it, or its bounds.

use std::sync::atomic::AtomicUsize;

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use threadline_schemas::decode::Context;
use threadline_schemas::digest::MatchKey;
use threadline_schemas::{Kind, Record as Row};
use tokio::task::JoinSet;

use super::super::decoding::Decoding;
use super::*;

/// A server that holds every request until it is let go, and counts how many it holds.
struct Holding {
    url: String,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    release: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Holding {
    async fn start() -> Holding {
        let (listener, url) = server().await;
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (release, released) = watch::channel(false);
        let counts = (Arc::clone(&now), Arc::clone(&most));
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (counts, released) = (counts.clone(), released.clone());
                let hold = service_fn(move |request: hyper::Request<Incoming>| {
                    let ((now, most), mut released) = (counts.clone(), released.clone());
                    async move {
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        most.fetch_max(now.fetch_add(1, Relaxed) + 1, Relaxed);
                        released.wait_for(|released| *released).await.unwrap();
                        now.fetch_sub(1, Relaxed);
                        Ok::<_, std::convert::Infallible>(hyper::Response::new(Full::new(body)))
                    }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), hold);
                tokio::spawn(async move { drop(connection.await) });
            }
        });
        Holding { url, now, most, release, serving }
    }

    async fn until_holding(&self, count: usize) {
        while self.now.load(Relaxed) < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

type Http2 = hyper::client::conn::http2::SendRequest<Full<bytes::Bytes>>;

async fn http2(proxy: &Running) -> Http2 {
    let stream = TokioIo::new(proxy.connect().await);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    sender
}

/// Sends requests on one connection, all at once; status and body of each answer.
fn flood(address: SocketAddr, sender: &Http2, count: usize, answers: &mut JoinSet<(u16, bool)>) {
    for number in 0..count {
        let mut sender = sender.clone();
        answers.spawn(async move {
            let body = format!("{{\"number\":{number}}}");
            let request = hyper::Request::post(format!("http://{address}/mcp")).body(Full::from(body.clone())).unwrap();
            sender.ready().await.unwrap();
            let response = sender.send_request(request).await.unwrap();
            let status = response.status().as_u16();
            (status, response.into_body().collect().await.unwrap().to_bytes() == body)
        });
    }
}

#[tokio::test]
async fn one_connection_has_no_more_streams_than_it_is_allowed() {
    let held = Holding::start().await;
    let (sender, mut observations) = mpsc::unbounded_channel();
    let proxy = Running::start(&held.url, Collect(sender), |_| {}).await;
    let client = http2(&proxy).await;
    let mut answers = JoinSet::new();
    flood(proxy.address, &client, 400, &mut answers);
    held.until_holding(STREAMS_MAX as usize).await;
    held.release.send_replace(true);
    while let Some(answer) = answers.join_next().await {
        assert_eq!(answer.unwrap(), (200, true));
    }
    assert!(held.most.load(Relaxed) <= STREAMS_MAX as usize, "{}", held.most.load(Relaxed));
    let outcome = proxy.stop().await;
    assert_eq!(outcome.passed, outcome.recorded);
    assert_eq!(shown(&mut observations).matches(" end\n").count(), 400);
    held.serving.abort();
}

#[tokio::test]
async fn many_connections_with_many_streams_have_no_more_requests_under_way_than_are_allowed() {
    const MAX: usize = 200;
    let held = Holding::start().await;
    let (sender, mut observations) = mpsc::unbounded_channel();
    let proxy = Running::start(&held.url, Collect(sender), |options| options.exchanges_max = MAX).await;
    let mut answers = JoinSet::new();
    let mut clients = Vec::new();
    for _ in 0..5 {
        let client = http2(&proxy).await;
        flood(proxy.address, &client, STREAMS_MAX as usize, &mut answers);
        clients.push(client);
    }
    let refused = 5 * STREAMS_MAX as usize - MAX;
    for _ in 0..refused {
        assert_eq!(answers.join_next().await.unwrap().unwrap().0, 503);
    }
    held.until_holding(MAX).await;
    held.release.send_replace(true);
    while let Some(answer) = answers.join_next().await {
        assert_eq!(answer.unwrap(), (200, true));
    }
    assert_eq!(held.most.load(Relaxed), MAX);
    let outcome = proxy.stop().await;
    assert_eq!(outcome.passed, outcome.recorded);
    let shown = shown(&mut observations);
    assert_eq!(shown.matches("failure too_many_exchanges").count(), refused);
    assert_eq!(shown.matches(" end\n").count(), MAX);
    held.serving.abort();
}

/// Nobody keeps a connection by sending nothing, half of what HTTP/2 begins with, or half a head.
#[tokio::test]
async fn a_connection_that_does_not_begin_is_closed() {
    let (_listener, url) = server().await;
    let (sender, _observations) = mpsc::unbounded_channel();
    let change = |options: &mut ProxyOptions| {
        (options.connections_max, options.head_timeout) = (1, Duration::from_millis(100));
    };
    let proxy = Running::start(&url, Collect(sender), change).await;
    for begun in ["", "P", "PRI * HTTP/2.0\r\n", "POST /mcp HTTP/1.1\r\nhost: a\r\n"] {
        // The one connection that is allowed: the next one waits until this is gone.
        let mut client = proxy.connect().await;
        client.write_all(begun.as_bytes()).await.unwrap();
        assert_eq!(read_all(&mut client).await, "", "{begun:?}");
    }
    proxy.stop().await;
}

/// Heads that are too long or have too many fields are refused before anything is passed on, and the next client is served.
#[tokio::test]
async fn floods_of_header_fields_reach_nobody() {
    let (listener, url) = server().await;
    let (sender, mut observations) = mpsc::unbounded_channel();
    let proxy = Running::start(&url, Collect(sender), |_| {}).await;
    let long = format!("x-long: {}\r\n", "a".repeat(2 * BUFFER_BYTES_MAX));
    let many: String = (0..10_000).map(|n| format!("x-{n}: 1\r\n")).collect();
    for fields in [long, many] {
        let mut client = proxy.connect().await;
        // It may be refused while it is still being sent.
        let _refused = client.write_all(post(proxy.address, &fields, "{}").as_bytes()).await;
        let answer = read_all(&mut client).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    let mut client = http2(&proxy).await;
    let mut request = hyper::Request::post(format!("http://{}/mcp", proxy.address));
    for n in 0..3_000 {
        request = request.header(format!("x-{n}"), "a".repeat(50));
    }
    client.ready().await.unwrap();
    let answer = client.send_request(request.body(Full::from("{}")).unwrap()).await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 431));
    let mut client = proxy.connect().await;
    client.write_all(post(proxy.address, "connection: close\r\n", "{}").as_bytes()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    read_until(&mut stream, "{}").await;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]").await.unwrap();
    assert!(read_all(&mut client).await.ends_with("[]"));
    proxy.stop().await;
    assert_eq!(shown(&mut observations).matches(" POST ").count(), 1);
}

/// Makes records of observations, as the recorder does, and says how many bytes they have.
struct Rows {
    decoding: Decoding,
    rows: mpsc::UnboundedSender<Row>,
}

impl Rows {
    fn new() -> (Rows, mpsc::UnboundedReceiver<Row>) {
        let (rows, made) = mpsc::unbounded_channel();
        (Rows { decoding: Decoding::new("orders", "run", MatchKey::new([7; 32])), rows }, made)
    }
}

impl Record<Observation> for Rows {
    async fn record(&mut self, batch: Vec<Observation>) -> Result<(), RecordError> {
        let key = MatchKey::new([7; 32]);
        let context = Context {
            tenant: "default",
            collector: threadline_schemas::Collector::Tap,
            observed_time_unix_us: 1_795_000_000_000_000,
            match_key: Some(&key),
        };
        for row in batch.into_iter().flat_map(|observation| self.decoding.decode(&context, observation)) {
            self.rows.send(row).map_err(|error| RecordError::Unavailable(error.into()))?;
        }
        Ok(())
    }
}

fn rows(made: &mut mpsc::UnboundedReceiver<Row>) -> Vec<Row> {
    std::iter::from_fn(|| made.try_recv().ok()).collect()
}

fn get(address: SocketAddr, fields: &str) -> String {
    format!("GET /mcp HTTP/1.1\r\nhost: {address}\r\naccept: text/event-stream\r\nmcp-session-id: s-1\r\n{fields}\r\n")
}

const EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

async fn send_chunk(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.write_all(b"\r\n").await.unwrap();
}

/// A session is deleted while its stream is open, which breaks off within a character; the stream is then asked for again
/// from its last event.
#[tokio::test]
async fn a_stream_that_is_cut_within_a_character_and_resumed_is_recorded_event_by_event() {
    let (listener, url) = server().await;
    let (recorder, mut made) = Rows::new();
    let proxy = Running::start(&url, recorder, |_| {}).await;
    let message = |id: u32, text: &str| {
        format!(
            "id: e-{id}\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{{\"data\":\"{text}\"}}}}\n\n"
        )
    };
    let mut client = proxy.connect().await;
    client.write_all(get(proxy.address, "").as_bytes()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    stream.write_all(EVENTS.as_bytes()).await.unwrap();
    let (first, second) = (message(1, "größer"), message(2, "später"));
    // Every byte a chunk of its own, so each character is cut.
    for byte in first.as_bytes() {
        send_chunk(&mut stream, &[*byte]).await;
    }
    let torn = second.find('ä').unwrap() + 1;
    send_chunk(&mut stream, &second.as_bytes()[..torn]).await;
    let mut deleting = proxy.connect().await;
    let delete =
        format!("DELETE /mcp HTTP/1.1\r\nhost: {}\r\nmcp-session-id: s-1\r\nconnection: close\r\n\r\n", proxy.address);
    deleting.write_all(delete.as_bytes()).await.unwrap();
    let (mut other, _) = listener.accept().await.unwrap();
    read_until(&mut other, "\r\n\r\n").await;
    other.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(read_all(&mut deleting).await.starts_with("HTTP/1.1 204 No Content\r\n"));
    drop((stream, other));
    let mut got = Vec::new();
    let _cut = client.read_to_end(&mut got).await;
    let cut: &[u8] = &second.as_bytes()[..torn];
    assert!(got.windows(cut.len()).any(|part| part == cut), "what came before the end is passed on");
    let mut again = proxy.connect().await;
    again.write_all(get(proxy.address, "last-event-id: e-1\r\nconnection: close\r\n").as_bytes()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    assert!(read_until(&mut stream, "\r\n\r\n").await.contains("last-event-id: e-1\r\n"));
    stream.write_all(EVENTS.as_bytes()).await.unwrap();
    send_chunk(&mut stream, second.as_bytes()).await;
    send_chunk(&mut stream, b"").await;
    assert!(read_all(&mut again).await.contains("e-2"));
    let outcome = proxy.stop().await;
    assert_eq!(outcome.passed, outcome.recorded);
    let rows = rows(&mut made);
    let notified: Vec<&Row> = rows.iter().filter(|row| row.name.as_deref() == Some("notifications/progress")).collect();
    let raw = |row: &Row| String::from_utf8(row.raw.clone().unwrap()).unwrap();
    assert_eq!(notified.iter().map(|row| raw(row)).collect::<Vec<_>>(), [first.as_str(), second.as_str()]);
    // The torn one is kept as the bytes that it was.
    let bytes = |row: &Row| row.raw.as_deref().is_some_and(|raw| raw.ends_with(cut));
    assert!(rows.iter().any(bytes), "the torn event is recorded");
    assert!(
        rows.iter().any(|row| row.attributes.as_deref().is_some_and(|text| text.contains(r#"last_event_id":"e-1""#)))
    );
}

/// 40 MiB in one line, more than a body may have in the record and than may wait for the recorder.
#[tokio::test]
async fn a_line_of_many_mebibytes_passes_whole_and_is_recorded_or_counted() {
    const CHUNK: usize = 1 << 20;
    let (listener, url) = server().await;
    let (recorder, mut made) = Rows::new();
    let proxy = Running::start(&url, recorder, |options| options.held_bytes_max = 8 << 20).await;
    let playing = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(EVENTS.as_bytes()).await.unwrap();
        // An odd length, so that characters are cut.
        let text = "é".repeat(CHUNK).into_bytes();
        send_chunk(&mut stream, b"data: ").await;
        for at in 0..40 {
            send_chunk(&mut stream, &text[at % 2..][..CHUNK + at % 2]).await;
        }
        send_chunk(&mut stream, b"\n\n").await;
        send_chunk(&mut stream, b"").await;
    });
    let mut client = proxy.connect().await;
    client.write_all(get(proxy.address, "connection: close\r\n").as_bytes()).await.unwrap();
    let mut length = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match client.read(&mut buffer).await.unwrap() {
            0 => break,
            read => length += read,
        }
    }
    playing.await.unwrap();
    assert!(length > 40 * CHUNK, "{length}");
    let outcome = proxy.stop().await;
    let rows = rows(&mut made);
    let most = rows.iter().filter_map(|row| row.raw.as_ref().map(Vec::len)).max().unwrap();
    let body = threadline_schemas::limits::http::BODY_BYTES_MAX;
    assert!(most <= body + (1 << 20), "one record has at most what is held of one body: {most}");
    assert_eq!(outcome.passed.bytes, (8 + 40 * CHUNK + 20) as u64);
    let gaps = rows.iter().any(|row| row.kind == Kind::Gap);
    assert!(gaps || outcome.passed == outcome.recorded);
}

/// What leaves in the middle of its body is passed on as far as it came, ends the request to the server, and is recorded as
/// incomplete.
#[tokio::test]
async fn a_client_that_leaves_within_its_body_is_recorded_with_what_came() {
    let (listener, url) = server().await;
    let (sender, mut observations) = mpsc::unbounded_channel();
    let proxy = Running::start(&url, Collect(sender), |_| {}).await;
    let mut client = proxy.connect().await;
    let request = post(proxy.address, "", "{\"jsonrpc\":\"2.0\",\"id\":1}");
    client.write_all(&request.as_bytes()[..request.len() - 8]).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    read_until(&mut stream, "\"2.0\"").await;
    drop(client);
    let mut rest = Vec::new();
    let _cut = stream.read_to_end(&mut rest).await;
    proxy.stop().await;
    let shown = shown(&mut observations);
    assert!(shown.contains("1 POST /mcp \"{\\\"jsonrpc\\\":\\\"2.0\\\"\" incomplete\n"), "{shown}");
    assert!(shown.contains("1 client-disconnect\n") || shown.contains("1 failure "), "{shown}");
}

/// Takes nothing, for whatever reason.
struct Broken(bool);

impl Record<Observation> for Broken {
    async fn record(&mut self, _: Vec<Observation>) -> Result<(), RecordError> {
        self.0 = !self.0;
        let why = "the disk is gone";
        Err(if self.0 { RecordError::Rejected(why.into()) } else { RecordError::Unavailable(why.into()) })
    }
}

#[tokio::test]
async fn a_recorder_that_only_fails_breaks_no_stream() {
    let (listener, url) = server().await;
    let change = |options: &mut ProxyOptions| options.drain_timeout = Duration::from_millis(10);
    let proxy = Running::start(&url, Broken(false), change).await;
    let mut client = proxy.connect().await;
    client.write_all(get(proxy.address, "connection: close\r\n").as_bytes()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    stream.write_all(EVENTS.as_bytes()).await.unwrap();
    for _ in 0..200 {
        send_chunk(&mut stream, b"data: {}\n\n").await;
    }
    send_chunk(&mut stream, b"").await;
    assert_eq!(read_all(&mut client).await.matches("data: {}").count(), 200);
    let outcome = proxy.stop().await;
    assert!(outcome.recorded.events == 0 && outcome.passed.events > 2, "{outcome:?}");
}
