//! What the HTTP proxy adds to one exchange, against a direct connection in the same run.
//!
//! `cargo run -p threadline-ingest --example proxy_latency [ROUNDS]`
//!
//! Shape: one POST of the given size at a time over a connection that stays open, answered by an echo, through the proxy and
//! direct in turn, so that both see the same load. The recorder is the real one, into a data directory of its own.
#![allow(clippy::print_stdout, reason = "it reports to a person")]

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use threadline_ingest::pipeline::Pipeline;
use threadline_ingest::proxy::{ExchangeRecorder, Proxy, ProxyOptions, Upstream};
use threadline_store::{Store, StoreConfig, match_key};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use uuid::Uuid;

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert("content-type", hyper::http::HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn serve(listener: TcpListener) -> Result<Infallible, io::Error> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(echo)),
        );
    }
}

/// Sends one request and reads until the last byte of its answer, which is the request's body.
async fn round_trip(stream: &mut TcpStream, request: &[u8], answer: &mut Vec<u8>, body: &[u8]) -> io::Result<Duration> {
    answer.clear();
    let start = Instant::now();
    stream.write_all(request).await?;
    while !answer.ends_with(body) {
        if stream.read_buf(answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(start.elapsed())
}

fn quantile(times: &mut [Duration], quantile: f64) -> f64 {
    times.sort_unstable();
    let last = times.len() - 1;
    times[(last as f64 * quantile).round() as usize].as_secs_f64() * 1e6
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(2_000), |rounds| rounds.parse())?;
    let directory = std::env::temp_dir().join(format!("proxy_latency-{}", std::process::id()));
    let store = Store::open(&directory, StoreConfig::default()).await?;
    let pipeline = Arc::new(Pipeline::new(store.appender(), match_key(&directory)?, "default".into()));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let server = listener.local_addr()?;
    let serving = tokio::spawn(serve(listener));

    let run = Uuid::new_v4();
    let options = ProxyOptions::new(run, Upstream::parse(&format!("http://{server}/mcp"))?);
    let proxy = Proxy::bind("127.0.0.1:0".parse()?, options).await?;
    let address = proxy.local_addr();
    let (stop, stopped) = oneshot::channel::<()>();
    let recorder = ExchangeRecorder::new(pipeline, "latency", run);
    let passing = tokio::spawn(proxy.run(recorder, async { drop(stopped.await) }));

    println!("body bytes | direct p50 us  p99 us | proxied p50 us  p99 us | added per exchange p50 us");
    for size in [200, 2_000, 20_000] {
        let text = "x".repeat(size);
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t","arguments":{{"x":"{text}"}}}}}}"#
        );
        let length = body.len();
        let request = format!(
            "POST /mcp HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let (mut direct, mut proxied) = (TcpStream::connect(server).await?, TcpStream::connect(address).await?);
        direct.set_nodelay(true)?;
        proxied.set_nodelay(true)?;
        let (mut alone, mut through, mut answer) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds + rounds / 10 {
            let one = round_trip(&mut direct, request.as_bytes(), &mut answer, body.as_bytes()).await?;
            let other = round_trip(&mut proxied, request.as_bytes(), &mut answer, body.as_bytes()).await?;
            // The first tenth warms up.
            if round >= rounds / 10 {
                alone.push(one);
                through.push(other);
            }
        }
        let (p50, p99) = (quantile(&mut alone, 0.5), quantile(&mut alone, 0.99));
        let (proxied_p50, proxied_p99) = (quantile(&mut through, 0.5), quantile(&mut through, 0.99));
        let added = proxied_p50 - p50;
        println!("{size:10} | {p50:13.0} {p99:7.0} | {proxied_p50:14.0} {proxied_p99:7.0} | {added:25.0}");
    }
    drop(stop);
    let outcome = passing.await?;
    let share = 100.0 * outcome.recorded.events as f64 / outcome.passed.events as f64;
    // Less than all of it when the disk does not keep up: that must not slow the traffic down.
    println!("{} events passed, {share:.1} % recorded one by one, the rest counted in gaps", outcome.passed.events);
    serving.abort();
    store.close().await?;
    std::fs::remove_dir_all(directory)?;
    Ok(())
}
