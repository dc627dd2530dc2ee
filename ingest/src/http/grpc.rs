//! OTLP/gRPC: the unary `Export` of the logs, trace and metrics services, over the same admission, decoder and pipeline
//! as OTLP/HTTP.
//!
//! A unary call is a POST whose body is one message behind five bytes (compressed or not, length) and whose answer ends
//! in trailers. That much is read here and not by generated services: those decode a message before anybody has weighed
//! it, unpack it without our bound on the ratio, and do not keep its exact bytes. Codes and headers of a status are
//! tonic's.
//!
//! Invariants
//! - status 0 is sent only after the append returned: what is acknowledged is durable and findable
//! - `UNAVAILABLE`, and `RESOURCE_EXHAUSTED` when we are overloaded, say by `RetryInfo` when to try again; a message
//!   that will never be taken says nothing of the kind
//!
//! Not here: streams, reflection, health; HTTP/2 itself (hyper).

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use prost::Message;
use threadline_schemas::decode::otlp::{Encoding, Signal};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use super::body::{self, Arrived};
use super::counts::Protocol;
use super::otlp::{self, ExportResponse, Otlp};
use super::problem::{REQUEST_ID, RequestId};
use super::status::{RetryInfo, RpcStatus};
use super::{Collecting, Refusal};
use crate::decompress::Coding;

/// The flag and length before a message.
const PREFIX_BYTES: usize = 5;
/// What we unpack.
const ACCEPTED: &str = "identity,gzip,zstd";

/// The path of a signal's `Export`.
pub(super) const fn path(signal: Signal) -> &'static str {
    match signal {
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    }
}

/// Takes one export call.
pub(super) async fn export(signal: Signal, State(otlp): State<Otlp>, request: Request) -> Response {
    let id = RequestId::new();
    let (parts, body) = request.into_parts();
    let instance = parts.uri.path();
    if !is_grpc(&parts.headers) {
        return Refusal::ContentType { expected: "application/grpc" }.response(instance, id);
    }
    let taken = take(&otlp, signal, &parts.headers, body).await;
    otlp.counts().answered(Protocol::Grpc, signal, taken.is_ok());
    match taken {
        Ok(rejected) => accepted(rejected, id),
        Err(refusal) => refused(&refusal, instance, id),
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let named = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    matches!(named.split(';').next().unwrap_or_default().trim(), "application/grpc" | "application/grpc+proto")
}

async fn take(otlp: &Otlp, signal: Signal, headers: &HeaderMap, body: axum::body::Body) -> Result<usize, Refusal> {
    let collecting: &Collecting = otlp.collecting();
    let mut arrived = body::arrive(collecting, headers, body).await?;
    let coding = if unframe(&mut arrived)? { coding(headers)? } else { Coding::Identity };
    let held = body::unpack(collecting, arrived, coding).await?;
    otlp::store(otlp, Protocol::Grpc, signal, Encoding::Protobuf, held).await
}

/// Takes the prefix off the one message of a unary call; whether the message is compressed.
fn unframe(arrived: &mut Arrived) -> Result<bool, Refusal> {
    let malformed = |reason: &str| Err(Refusal::Malformed(reason.into()));
    let Some((prefix, message)) = arrived.bytes.split_first_chunk::<PREFIX_BYTES>() else {
        return malformed("the call has no message");
    };
    let [flag, length @ ..] = *prefix;
    if u32::from_be_bytes(length) as usize != message.len() {
        return malformed("the call is not one message of the length it announces");
    }
    arrived.bytes.drain(..PREFIX_BYTES);
    match flag {
        0 => Ok(false),
        1 => Ok(true),
        _ => malformed("the message is neither compressed nor uncompressed"),
    }
}

fn coding(headers: &HeaderMap) -> Result<Coding, Refusal> {
    let named = headers.get("grpc-encoding").and_then(|value| value.to_str().ok());
    named.and_then(Coding::of_header).filter(|coding| *coding != Coding::Identity).ok_or(Refusal::ContentEncoding)
}

fn accepted(rejected: usize, id: RequestId) -> Response {
    let message = ExportResponse::new(rejected).encode_to_vec();
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    let mut trailers = HeaderMap::new();
    trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
    let body = Full::new(framed.freeze()).with_trailers(std::future::ready(Some(Ok(trailers))));
    let grpc = [(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"))];
    let mut response = (grpc, axum::body::Body::new(body)).into_response();
    response.headers_mut().insert(REQUEST_ID, id.header());
    response
}

fn refused(refusal: &Refusal, instance: &str, id: RequestId) -> Response {
    refusal.log(instance, id);
    let code = code(refusal);
    let retry = refusal.kind().2.map(RetryInfo::after);
    let details = RpcStatus::new(code, refusal.to_string(), retry.as_ref()).encode_to_vec();
    let mut metadata = MetadataMap::new();
    if let Some(retry) = &retry {
        // Where the Python exporter looks.
        metadata.insert_bin("google.rpc.retryinfo-bin", MetadataValue::from_bytes(&retry.encode_to_vec()));
    }
    let status = Status::with_details_and_metadata(code, refusal.to_string(), Bytes::from(details), metadata);
    let mut response = status.into_http::<axum::body::Body>();
    response.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static(ACCEPTED));
    response.headers_mut().insert(REQUEST_ID, id.header());
    response
}

/// The gRPC code of a refusal.
pub(super) fn code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::Malformed(_) | Refusal::ContentType { .. } => Code::InvalidArgument,
        Refusal::ContentEncoding => Code::Unimplemented,
        Refusal::TimedOut => Code::DeadlineExceeded,
        Refusal::TooLarge(_) | Refusal::Overloaded => Code::ResourceExhausted,
        Refusal::Busy | Refusal::NoSpace | Refusal::Stopping | Refusal::Unknown => Code::Unavailable,
    }
}
