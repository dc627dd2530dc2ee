//! One proxy, one server, few exchanges.

use expect_test::expect;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::*;

#[tokio::test]
async fn a_chunk_passes_before_the_next_one_exists_and_nothing_is_changed() {
    let (listener, url) = server().await;
    let (sender, mut observations) = mpsc::unbounded_channel();
    let proxy = Running::start(&url, Collect(sender), |_| {}).await;
    let (seen, next) = oneshot::channel::<()>();
    let host = listener.local_addr().unwrap().to_string();
    let playing = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = read_until(&mut stream, "\r\n\r\n").await;
        request += &read_until(&mut stream, "}").await;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nMcp-Session-Id: s1\r\nConnection: x-hop\r\n\
                    X-Hop: 1\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ndata: 1\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        next.await.unwrap();
        stream.write_all(b"2\r\n\n\n\r\n0\r\nx-sum: 7\r\n\r\n").await.unwrap();
        request
    });
    let mut client = proxy.connect().await;
    let fields =
        "authorization: Bearer t\r\nmcp-method: ping\r\nte: trailers\r\nkeep-alive: 5\r\naccept-encoding: gzip\r\n";
    client.write_all(post(proxy.address, fields, "{\"x\":1}").as_bytes()).await.unwrap();
    let mut answer = read_until(&mut client, "7\r\ndata: 1\r\n").await;
    seen.send(()).unwrap();
    answer += &read_until(&mut client, "x-sum: 7\r\n\r\n").await;
    expect![[r#"
        POST /mcp HTTP/1.1
        authorization: Bearer t
        mcp-method: ping
        accept-encoding: gzip
        content-length: 7
        host: SERVER

        {"x":1}"#]]
    .assert_eq(&playing.await.unwrap().replace(&host, "SERVER").replace('\r', ""));
    expect![[r#"
        HTTP/1.1 200 OK
        content-type: text/event-stream
        mcp-session-id: s1
        trailer: x-sum
        transfer-encoding: chunked

        7
        data: 1
        2



        0
        x-sum: 7

    "#]]
    .assert_eq(&answer.replace('\r', ""));
    drop(client);
    let outcome = proxy.stop().await;
    assert!(outcome.drained);
    assert_eq!((outcome.passed, outcome.passed.bytes), (outcome.recorded, 7 + 9));
    expect![[r#"
        started
        1 POST /mcp "{\"x\":1}"
        1 200 
        1 "data: 1"
        1 "\n\n"
        1 end {"x-sum": "7"}
        stopped
    "#]]
    .assert_eq(&shown(&mut observations));
}

/// As servers do that ask for a token: what was asked is recorded nevertheless.
#[tokio::test]
async fn a_request_that_ends_after_its_response_is_recorded_whole() {
    let (listener, url) = server().await;
    let (sender, mut observations) = mpsc::unbounded_channel();
    let proxy = Running::start(&url, Collect(sender), |_| {}).await;
    let playing = tokio::spawn(async move {
        for keeps_open in [true, false] {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_until(&mut stream, "\r\n\r\n").await;
            let answer = b"HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno";
            stream.write_all(answer).await.unwrap();
            if keeps_open {
                read_until(&mut stream, "{}").await;
            }
        }
    });
    for _ in 0..2 {
        let mut client = proxy.connect().await;
        let request = post(proxy.address, "", "{}");
        let (head, body) = request.split_at(request.len() - 2);
        client.write_all(head.as_bytes()).await.unwrap();
        read_until(&mut client, "no").await;
        client.write_all(body.as_bytes()).await.unwrap();
    }
    playing.await.unwrap();
    let outcome = proxy.stop().await;
    assert_eq!(outcome.passed, outcome.recorded);
    expect![[r#"
        started
        1 POST /mcp "{}"
        1 401 
        1 "no"
        1 end
        2 POST /mcp "{}"
        2 401 
        2 "no"
        2 end
        stopped
    "#]]
    .assert_eq(&shown(&mut observations));
}

/// And one that never ends is recorded as far as it came.
#[tokio::test]
async fn a_request_that_never_ends_does_not_keep_its_response_from_the_record() {
    let (listener, url) = server().await;
    let (sender, mut observations) = mpsc::unbounded_channel();
    let proxy = Running::start(&url, Collect(sender), |_| {}).await;
    let playing = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        read_all(&mut stream).await;
    });
    let mut client = proxy.connect().await;
    let request = post(proxy.address, "", "{}");
    client.write_all(&request.as_bytes()[..request.len() - 1]).await.unwrap();
    read_until(&mut client, "no").await;
    proxy.stop().await;
    playing.await.unwrap();
    expect![[r#"
        started
        1 POST /mcp "{" incomplete
        1 401 
        1 "no"
        1 end
        stopped
    "#]]
    .assert_eq(&shown(&mut observations));
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_request_to_the_server() {
    let (listener, url) = server().await;
    let (sender, mut observations) = mpsc::unbounded_channel();
    let proxy = Running::start(&url, Collect(sender), |_| {}).await;
    for begins in [false, true] {
        let mut client = proxy.connect().await;
        client.write_all(post(proxy.address, "", "{}").as_bytes()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, "{}").await;
        if begins {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n: \r\n").await.unwrap();
            read_until(&mut client, ": \r\n").await;
        }
        drop(client);
        // The end of file, which no time limit of ours brings about.
        assert_eq!(read_all(&mut stream).await, "");
    }
    proxy.stop().await;
    expect![[r#"
        started
        1 POST /mcp "{}"
        1 client-disconnect
        2 POST /mcp "{}"
        2 200 
        2 ": "
        2 client-disconnect
        stopped
    "#]]
    .assert_eq(&shown(&mut observations));
}

#[tokio::test]
async fn where_the_server_gives_no_answer_we_say_so() {
    let (listener, url) = server().await;
    let (sender, mut observations) = mpsc::unbounded_channel();
    let proxy = Running::start(&url, Collect(sender), |_| {}).await;
    // It closes without a word, answers nonsense, breaks off within its answer, and is gone.
    let playing = tokio::spawn(async move {
        for answer in ["", "what?\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_until(&mut stream, "{}").await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let mut answers = String::new();
    for round in 0..4 {
        if round == 3 {
            while !playing.is_finished() {
                tokio::task::yield_now().await;
            }
        }
        let mut client = proxy.connect().await;
        client.write_all(post(proxy.address, "connection: close\r\n", "{}").as_bytes()).await.unwrap();
        answers += &read_all(&mut client).await.replace('\r', "");
        answers += "\n";
    }
    playing.await.unwrap();
    proxy.stop().await;
    expect![[r#"
        HTTP/1.1 502 Bad Gateway
        content-type: application/problem+json
        connection: close
        content-length: 139

        {"detail":"threadline tap: the MCP server closed the connection without an answer","status":502,"title":"Bad Gateway","type":"about:blank"}
        HTTP/1.1 502 Bad Gateway
        content-type: application/problem+json
        connection: close
        content-length: 120

        {"detail":"threadline tap: the MCP server's answer is not HTTP","status":502,"title":"Bad Gateway","type":"about:blank"}
        HTTP/1.1 200 OK
        content-length: 9
        connection: close

        part
        HTTP/1.1 502 Bad Gateway
        content-type: application/problem+json
        connection: close
        content-length: 117

        {"detail":"threadline tap: the MCP server cannot be reached","status":502,"title":"Bad Gateway","type":"about:blank"}
    "#]].assert_eq(&answers);
    expect![[r#"
        started
        1 POST /mcp "{}"
        1 failure upstream_closed Some(502) false
        2 POST /mcp "{}"
        2 failure upstream_protocol Some(502) false
        3 POST /mcp "{}"
        3 200 
        3 "part"
        3 failure upstream_closed None false
        4 POST /mcp "{}"
        4 failure upstream_connect Some(502) false
        stopped
    "#]]
    .assert_eq(&shown(&mut observations));
}

#[tokio::test]
async fn a_server_that_does_not_begin_to_answer_in_time_gives_504() {
    let (listener, url) = server().await;
    let (sender, mut observations) = mpsc::unbounded_channel();
    let limit = Some(Duration::from_millis(20));
    let proxy = Running::start(&url, Collect(sender), |options| options.response_timeout = limit).await;
    let mut client = proxy.connect().await;
    client.write_all(post(proxy.address, "connection: close\r\n", "{}").as_bytes()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    assert_eq!(read_all(&mut stream).await.lines().last(), Some("{}"));
    assert!(
        read_all(&mut client)
            .await
            .starts_with("HTTP/1.1 504 Gateway Timeout\r\ncontent-type: application/problem+json")
    );
    proxy.stop().await;
    assert!(shown(&mut observations).contains("failure upstream_response_timeout Some(504) false"));
}

#[tokio::test]
async fn requests_go_to_the_configured_server_and_redirects_to_the_client() {
    let (listener, url) = server().await;
    let (sender, mut observations) = mpsc::unbounded_channel();
    let proxy = Running::start(&url, Collect(sender), |_| {}).await;
    let mut client = proxy.connect().await;
    let request = format!(
        "GET http://{}/latest/meta-data HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
        proxy.address, proxy.address
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let asked = read_until(&mut stream, "\r\n\r\n").await;
    assert!(asked.starts_with("GET /latest/meta-data HTTP/1.1\r\n"), "{asked}");
    stream
        .write_all(b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    let answer = read_all(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 307 Temporary Redirect\r\nlocation: http://169.254.169.254/\r\n"), "{answer}");
    for (head, status) in [
        ("GET /mcp HTTP/1.1\r\nhost: evil.example\r\n", "421"),
        ("GET http://evil.example/mcp HTTP/1.1\r\nhost: localhost\r\n", "421"),
        ("POST /mcp HTTP/1.1\r\nhost: localhost\r\norigin: https://evil.example\r\ncontent-length: 0\r\n", "403"),
        ("OPTIONS * HTTP/1.1\r\nhost: localhost\r\n", "400"),
    ] {
        let mut client = proxy.connect().await;
        client.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).await.unwrap();
        let answer = read_all(&mut client).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head} {answer}");
    }
    proxy.stop().await;
    expect![[r#"
        started
        1 GET /latest/meta-data ""
        1 307 
        1 end
        2 GET /mcp "" incomplete
        2 failure refused_host Some(421) true
        3 GET /mcp "" incomplete
        3 failure refused_host Some(421) true
        4 POST /mcp "" incomplete
        4 failure refused_origin Some(403) true
        5 OPTIONS * "" incomplete
        5 failure refused_target Some(400) true
        stopped
    "#]]
    .assert_eq(&shown(&mut observations));
}

#[tokio::test]
async fn a_slow_client_slows_the_server() {
    const OFFERED: usize = 256 << 20;
    let (listener, url) = server().await;
    let (sender, mut observations) = mpsc::unbounded_channel();
    let proxy = Running::start(&url, Collect(sender), |_| {}).await;
    let written = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&written);
    let playing = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {OFFERED}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let block = vec![b'x'; 1 << 16];
        while stream.write_all(&block).await.is_ok() {
            counted.fetch_add(block.len() as u64, Relaxed);
        }
    });
    let mut client = proxy.connect().await;
    let request = format!("GET /mcp HTTP/1.1\r\nhost: {}\r\n\r\n", proxy.address);
    client.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut client, "\r\n\r\n").await;
    // Until the server is stuck (it does not get further) or has got rid of everything, which would be wrong.
    let (mut before, mut same) = (0, 0);
    while same < 20 && before < OFFERED as u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = written.load(Relaxed);
        (same, before) = if now == before && now > 0 { (same + 1, now) } else { (0, now) };
    }
    // What the sockets of the system hold, and two of our buffers.
    assert!(before < (OFFERED / 4) as u64, "{before} bytes were taken from the server for a client that reads none");
    drop(client);
    playing.await.unwrap();
    proxy.stop().await;
    assert!(shown(&mut observations).ends_with("1 client-disconnect\nstopped\n"));
}

#[tokio::test]
async fn many_exchanges_at_once_do_not_mix() {
    const CLIENTS: usize = 100;
    let (listener, url) = server().await;
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let echo = service_fn(|request: hyper::Request<Incoming>| async move {
                Ok::<_, std::convert::Infallible>(hyper::Response::new(request.into_body()))
            });
            tokio::spawn(async move {
                // The proxy closes its connections when it likes.
                let _closed =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), echo).await;
            });
        }
    });
    let (sender, mut observations) = mpsc::unbounded_channel();
    // The body waits until all of them are there, so they are really at once.
    let proxy = Running::start(&url, Collect(sender), |_| {}).await;
    let all_there = Arc::new(tokio::sync::Barrier::new(CLIENTS));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (mut stream, all_there, address) = (proxy.connect().await, Arc::clone(&all_there), proxy.address);
        clients.spawn(async move {
            for round in 0..5 {
                let body = format!("{{\"client\":{client},\"round\":{round}}}");
                let request = post(address, "", &body);
                let (first, second) = request.split_at(request.len() - 3);
                stream.write_all(first.as_bytes()).await.unwrap();
                all_there.wait().await;
                stream.write_all(second.as_bytes()).await.unwrap();
                let answer = read_until(&mut stream, &body).await;
                assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            }
        });
    }
    while let Some(joined) = clients.join_next().await {
        joined.unwrap();
    }
    let outcome = proxy.stop().await;
    serving.abort();
    assert_eq!(outcome.passed, outcome.recorded);
    let mut echoed = 0;
    let mut asked = std::collections::HashMap::new();
    while let Ok(observation) = observations.try_recv() {
        match observation.event {
            Event::Exchange { number, what: What::Request(request), .. } => {
                asked.insert(number, (request.body, Vec::new()));
            }
            Event::Exchange { number, what: What::Chunk(bytes), .. } => {
                asked.get_mut(&number).unwrap().1.extend_from_slice(&bytes)
            }
            Event::Exchange { number, what: What::End { .. }, .. } => {
                let (request, response) = &asked[&number];
                assert_eq!(request, response);
                echoed += 1;
            }
            _ => {}
        }
    }
    assert_eq!(echoed, CLIENTS * 5);
}

#[tokio::test]
async fn beyond_the_exchanges_under_way_a_request_is_told_to_come_back() {
    let (listener, url) = server().await;
    let (sender, mut observations) = mpsc::unbounded_channel();
    let proxy = Running::start(&url, Collect(sender), |options| options.exchanges_max = 2).await;
    let ask = async || {
        let mut client = proxy.connect().await;
        client.write_all(post(proxy.address, "connection: close\r\n", "{}").as_bytes()).await.unwrap();
        client
    };
    let mut asked = Vec::new();
    for _ in 0..2 {
        let client = ask().await;
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, "{}").await;
        asked.push((client, stream));
    }
    let answer = read_all(&mut ask().await).await;
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    let answer_to = async |(mut client, mut stream): (TcpStream, TcpStream)| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]").await.unwrap();
        read_all(&mut client).await
    };
    assert!(answer_to(asked.remove(0)).await.ends_with("[]"));
    // Its place is free a moment later.
    let (client, mut stream) = loop {
        let mut client = ask().await;
        tokio::select! {
            accepted = listener.accept() => break (client, accepted.unwrap().0),
            answer = read_all(&mut client) => assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}"),
        }
    };
    read_until(&mut stream, "{}").await;
    assert!(answer_to((client, stream)).await.ends_with("[]"));
    assert!(answer_to(asked.remove(0)).await.ends_with("[]"));
    proxy.stop().await;
    let shown = shown(&mut observations);
    assert!(shown.contains("3 failure too_many_exchanges Some(503) false\n"), "{shown}");
}

#[tokio::test]
async fn a_body_over_the_limit_passes_whole_and_is_recorded_in_part() {
    let (listener, url) = server().await;
    let (sender, mut observations) = mpsc::unbounded_channel();
    let proxy = Running::start(&url, Collect(sender), |options| options.request_bytes_max = 100_000).await;
    let body = "x".repeat(3_000_000);
    let playing = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
        let mut read = vec![0; 3_000_000];
        stream.read_exact(&mut read).await.unwrap();
        stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        read
    });
    let mut client = proxy.connect().await;
    client.write_all(post(proxy.address, "", &body).as_bytes()).await.unwrap();
    read_until(&mut client, "\r\n\r\n").await;
    assert!(playing.await.unwrap() == body.as_bytes());
    proxy.stop().await;
    let mut requests = Vec::new();
    while let Ok(observation) = observations.try_recv() {
        if let Event::Exchange { what: What::Request(request), .. } = observation.event {
            requests.push((request.body.len(), request.length, request.sha256));
        }
    }
    let sha256: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(&body).into();
    assert_eq!(requests, [(64 * 1024, 3_000_000, Some(sha256))]);
}

/// Waits to be let go before it records for the first time.
struct Gate(Option<oneshot::Receiver<()>>, Collect);

impl Record<Observation> for Gate {
    async fn record(&mut self, batch: Vec<Observation>) -> Result<(), RecordError> {
        if let Some(open) = self.0.take() {
            open.await.map_err(|error| RecordError::Unavailable(error.into()))?;
        }
        self.1.record(batch).await
    }
}

#[tokio::test]
async fn a_recorder_that_hangs_delays_nothing_and_leaves_a_gap() {
    let (listener, url) = server().await;
    let (sender, mut observations) = mpsc::unbounded_channel();
    let (open, gate) = oneshot::channel();
    let proxy =
        Running::start(&url, Gate(Some(gate), Collect(sender)), |options| options.held_bytes_max = 20_000).await;
    let playing = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await.unwrap();
        stream.write_all(&vec![b'x'; 1_000_000]).await.unwrap();
    });
    let mut client = proxy.connect().await;
    let request = format!("GET /mcp HTTP/1.1\r\nhost: {}\r\n\r\n", proxy.address);
    client.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut client, "\r\n\r\n").await;
    let mut body = vec![0; 1_000_000];
    client.read_exact(&mut body).await.unwrap();
    playing.await.unwrap();
    drop(client);
    // All of it has passed; only now may the recorder go on.
    open.send(()).unwrap();
    let outcome = proxy.stop().await;
    assert!(outcome.drained);
    assert_eq!(outcome.passed.bytes, 1_000_000);
    let mut counted = outcome.recorded;
    while let Ok(observation) = observations.try_recv() {
        if let Event::Gap(gap) = observation.event {
            assert_eq!(gap.reason, GapReason::Overflow);
            assert!(gap.from_unix_nano <= gap.to_unix_nano);
            counted.add(gap.events, gap.bytes);
        }
    }
    assert_eq!(counted, outcome.passed);
    assert!(outcome.recorded.bytes < 100_000, "{outcome:?}");
}

/// Fails until it is told not to, and says when it did.
struct FailUntil(Arc<Mutex<bool>>, Arc<Notify>, Collect);

impl Record<Observation> for FailUntil {
    async fn record(&mut self, batch: Vec<Observation>) -> Result<(), RecordError> {
        let fails = *self.0.lock().unwrap();
        if fails && batch.iter().any(|observation| matches!(observation.event, Event::Exchange { .. })) {
            self.1.notify_one();
            return Err(RecordError::Unavailable("disk is full".into()));
        }
        self.2.record(batch).await
    }
}

#[tokio::test]
async fn what_cannot_be_recorded_before_the_end_is_counted_in_a_gap() {
    let (listener, url) = server().await;
    let (sender, mut observations) = mpsc::unbounded_channel();
    let (fails, failed) = (Arc::new(Mutex::new(true)), Arc::new(Notify::new()));
    let recorder = FailUntil(fails, Arc::clone(&failed), Collect(sender));
    let proxy = Running::start(&url, recorder, |options| options.drain_timeout = Duration::from_millis(200)).await;
    let mut client = proxy.connect().await;
    client.write_all(post(proxy.address, "", "{}").as_bytes()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    read_until(&mut stream, "{}").await;
    // The request is with the recorder now; its answer waits behind it.
    failed.notified().await;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody").await.unwrap();
    read_until(&mut client, "body").await;
    let outcome = proxy.stop().await;
    assert!(outcome.drained);
    assert_eq!((outcome.passed, outcome.recorded), (Counts { events: 4, bytes: 6 }, Counts::default()));
    let shown = shown(&mut observations);
    assert!(shown.starts_with("started\n") && shown.contains("stopped\n"), "{shown}");
    assert_eq!(shown.matches("gap ").count(), shown.matches(" stopped\n").count(), "{shown}");
    let events: u64 =
        shown.lines().filter_map(|line| line.strip_prefix("gap ")?.split(' ').next()?.parse::<u64>().ok()).sum();
    assert_eq!(events, 4, "{shown}");
}

#[tokio::test]
async fn block_lets_nothing_pass_while_recording_fails() {
    let (listener, url) = server().await;
    let (sender, mut observations) = mpsc::unbounded_channel();
    let (fails, failed) = (Arc::new(Mutex::new(true)), Arc::new(Notify::new()));
    let recorder = FailUntil(Arc::clone(&fails), Arc::clone(&failed), Collect(sender));
    let proxy = Running::start(&url, recorder, |options| options.on_record_failure = OnRecordFailure::Block).await;
    let mut client = proxy.connect().await;
    client.write_all(post(proxy.address, "", "{}").as_bytes()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    read_until(&mut stream, "{}").await;
    // The first request went on before the failure was noticed; now it has been, twice to be sure it was entered.
    failed.notified().await;
    failed.notified().await;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody").await.unwrap();
    let mut byte = [0];
    while !matches!(client.try_read(&mut byte), Ok(1)) {
        // The head may pass, the body may not: it stays where it is until recording works.
        failed.notified().await;
    }
    let mut early = vec![byte[0]];
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = client.try_read(&mut buffer) {
        early.extend_from_slice(&buffer[..count]);
    }
    assert!(!early.ends_with(b"body"), "{}", String::from_utf8_lossy(&early));
    *fails.lock().unwrap() = false;
    if !early.ends_with(b"\r\n\r\n") {
        read_until(&mut client, "\r\n\r\n").await;
    }
    let mut body = [0; 4];
    client.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"body");
    drop(client);
    let outcome = proxy.stop().await;
    assert_eq!(outcome.passed, outcome.recorded);
    assert!(shown(&mut observations).ends_with("1 200 \n1 \"body\"\n1 end\nstopped\n"));
}

#[tokio::test]
async fn stopping_cuts_streams_off_and_says_so() {
    let (listener, url) = server().await;
    let (sender, mut observations) = mpsc::unbounded_channel();
    let proxy = Running::start(&url, Collect(sender), |_| {}).await;
    let mut client = proxy.connect().await;
    client.write_all(format!("GET /mcp HTTP/1.1\r\nhost: {}\r\n\r\n", proxy.address).as_bytes()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut client, "\r\n\r\n").await;
    assert!(proxy.stop().await.drained);
    assert_eq!(read_all(&mut client).await, "");
    assert!(shown(&mut observations).ends_with("1 200 \n1 failure proxy_stopped None false\nstopped\n"));
}

#[tokio::test]
async fn the_resource_of_protected_metadata_is_ours_where_that_was_asked_for() {
    let (listener, url) = server().await;
    let origin = url.trim_end_matches("/mcp").to_string();
    let (sender, mut observations) = mpsc::unbounded_channel();
    let proxy = Running::start(&url, Collect(sender), |options| options.rewrite_resource = true).await;
    let metadata = format!("{{\"resource\":\"{origin}/mcp\",\"authorization_servers\":[\"{origin}/\"]}}");
    let sent = metadata.clone();
    let challenge = format!("Bearer resource_metadata=\"{origin}/.well-known/oauth-protected-resource/mcp\"");
    let playing = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
        let answer = format!("HTTP/1.1 401 Unauthorized\r\nwww-authenticate: {challenge}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        let asked = read_until(&mut stream, "\r\n\r\n").await;
        assert!(!asked.contains("accept-encoding"), "{asked}");
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{sent}",
            sent.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let ask = async |path: &str| {
        let mut client = proxy.connect().await;
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n",
            proxy.address
        );
        client.write_all(head.as_bytes()).await.unwrap();
        read_all(&mut client).await
    };
    let ours = format!("http://{}", proxy.address);
    let refused = ask("/mcp").await;
    assert!(
        refused.contains(&format!("Bearer resource_metadata=\"{ours}/.well-known/oauth-protected-resource/mcp\"\r\n")),
        "{refused}"
    );
    let answer = ask("/.well-known/oauth-protected-resource/mcp").await;
    let expected = format!("{{\"resource\":\"{ours}/mcp\",\"authorization_servers\":[\"{origin}/\"]}}");
    assert!(answer.ends_with(&format!("content-length: {}\r\n\r\n{expected}", expected.len())), "{answer}");
    playing.await.unwrap();
    proxy.stop().await;
    let shown = shown(&mut observations);
    assert!(shown.contains("1 401 resource\n"), "{shown}");
    // What the server said is what is recorded.
    assert!(shown.contains(&format!("2 200 resource\n2 {metadata:?}\n2 end\n")), "{shown}");
}

fn tls_builder() -> rustls::ConfigBuilder<rustls::ServerConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap()
}

#[tokio::test]
async fn http_2_is_spoken_where_the_server_chooses_it() {
    let certified = rcgen::generate_simple_self_signed(["mcp.example".to_string()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let certificate = certified.cert.der().clone();
    let mut tls = tls_builder().with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = tls.accept(stream).await.unwrap();
        let echo = service_fn(|request: hyper::Request<Incoming>| async move {
            let said = format!("{:?} {} {:?}", request.version(), request.uri(), request.headers().get("host"));
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut trailers = hyper::HeaderMap::new();
            trailers.insert("x-sum", "1".parse().unwrap());
            let body = http_body_util::Full::new(bytes::Bytes::from([said.as_bytes(), &body].concat()));
            let body = body.with_trailers(async { Some(Ok(trailers)) });
            Ok::<_, std::convert::Infallible>(hyper::Response::new(body))
        });
        let _closed = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), echo)
            .await;
    });
    let (sender, mut observations) = mpsc::unbounded_channel();
    let proxy = Running::start("https://mcp.example/mcp", Collect(sender), |options| {
        options.upstream_address = Some(address);
        options.upstream_authority = Some(vec![certificate]);
    })
    .await;
    let mut client = proxy.connect().await;
    client.write_all(post(proxy.address, "connection: close\r\n", "{}").as_bytes()).await.unwrap();
    let answer = read_all(&mut client).await;
    assert!(answer.contains("HTTP/2.0 https://mcp.example/mcp None{}"), "{answer}");
    proxy.stop().await;
    serving.abort();
    let shown = shown(&mut observations);
    // The trailers do not fit into HTTP/1.1 with a known length: they are not asked for.
    assert!(shown.ends_with("None{}\"\n1 end\nstopped\n"), "{shown}");
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_said_to_be_the_reason() {
    let certified = rcgen::generate_simple_self_signed(["mcp.example".to_string()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let tls = tls_builder().with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key).unwrap();
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        tls.accept(stream).await.is_err()
    });
    let (sender, mut observations) = mpsc::unbounded_channel();
    let change = |options: &mut ProxyOptions| options.upstream_address = Some(address);
    let proxy = Running::start("https://mcp.example/mcp", Collect(sender), change).await;
    let mut client = proxy.connect().await;
    client.write_all(post(proxy.address, "connection: close\r\n", "{}").as_bytes()).await.unwrap();
    assert!(read_all(&mut client).await.starts_with("HTTP/1.1 502 Bad Gateway\r\n"));
    assert!(serving.await.unwrap());
    proxy.stop().await;
    assert!(shown(&mut observations).contains("failure upstream_tls Some(502) false"));
}
