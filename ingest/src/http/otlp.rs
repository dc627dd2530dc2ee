//! OTLP/HTTP: one handler for logs, traces and metrics, in protobuf and in JSON; the answer is in the encoding of the
//! request. [`store`] is what it and OTLP/gRPC have in common.
//!
//! Records that could not be understood are kept as `rejected` records and reported as a partial success. Metric points
//! are counted by source and metric, not kept, so that an exporter that sends all three signals does not fail. What the
//! drop list leaves out is counted and said by `gap` records; it is no partial success, because the sender did nothing
//! wrong.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use prost::Message;
use threadline_schemas::decode::otlp::drop_list::DropList;
use threadline_schemas::decode::otlp::{self, Encoding, OtlpBody, OtlpError, Signal};
use threadline_schemas::limits::arrival::OTLP_RECORDS_MAX;
use threadline_schemas::{Collector, Kind};

use super::body::Held;
use super::counts::{OtlpCounts, Protocol};
use super::problem::{REQUEST_ID, RequestId};
use super::status::{RetryInfo, RpcStatus};
use super::{Collecting, Refusal, body, grpc, weigh};

/// Estimated memory above which a body is refused even when nobody else is there.
const WEIGHT_MAX: usize = 160 << 20;

/// The OTLP receivers of one process: HTTP and gRPC over one admission, one drop list and one set of counts.
#[derive(Debug, Clone)]
pub struct Otlp {
    collecting: Collecting,
    drop_list: Arc<DropList>,
    counts: Arc<OtlpCounts>,
}

impl Otlp {
    /// Receivers that store through `collecting` and leave out what `drop_list` names.
    pub fn new(collecting: Collecting, drop_list: DropList) -> Self {
        Otlp { collecting, drop_list: Arc::new(drop_list), counts: Arc::default() }
    }

    /// Routes for OTLP/HTTP and OTLP/gRPC exporters: any address may take both, so that nobody fails who mixes up the
    /// two customary ports.
    pub fn router(&self) -> Router {
        [Signal::Logs, Signal::Traces, Signal::Metrics]
            .into_iter()
            .fold(Router::new(), |router, signal| {
                router
                    .route(
                        &format!("/v1/{}", signal.as_str()),
                        post(move |state, request| export(signal, state, request)),
                    )
                    .route(grpc::path(signal), post(move |state, request| grpc::export(signal, state, request)))
            })
            .layer(DefaultBodyLimit::disable())
            .with_state(self.clone())
    }

    /// What was taken, left out and counted.
    pub fn counts(&self) -> &Arc<OtlpCounts> {
        &self.counts
    }

    pub(super) fn collecting(&self) -> &Collecting {
        &self.collecting
    }
}

/// `Export{Logs,Trace,Metrics}ServiceResponse`: the three have the same shape.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

impl ExportResponse {
    /// Says how many were rejected, if any were.
    pub(super) fn new(rejected: usize) -> Self {
        let partial_success = (rejected > 0).then(|| PartialSuccess {
            rejected: rejected as i64,
            error_message: "some records could not be understood; they are kept as rejected records".into(),
        });
        ExportResponse { partial_success }
    }
}

/// Takes one export request.
async fn export(signal: Signal, State(otlp): State<Otlp>, request: Request) -> Response {
    let id = RequestId::new();
    let (parts, body) = request.into_parts();
    let instance = parts.uri.path();
    let encoding = match encoding(&parts.headers) {
        Ok(encoding) => encoding,
        // In which encoding should it be told? A problem is what people can read.
        Err(refusal) => return refusal.response(instance, id),
    };
    let taken = take(&otlp, signal, encoding, &parts.headers, body).await;
    otlp.counts.answered(Protocol::Http, signal, taken.is_ok());
    match taken {
        Ok(rejected) => accepted(signal, encoding, rejected, id),
        Err(refusal) => refused(&refusal, encoding, instance, id),
    }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    Encoding::of_content_type(content_type)
        .map_err(|_| Refusal::ContentType { expected: "application/x-protobuf or application/json" })
}

/// Reads, decodes and stores; returns how many records could not be understood.
async fn take(
    otlp: &Otlp,
    signal: Signal,
    encoding: Encoding,
    headers: &HeaderMap,
    body: axum::body::Body,
) -> Result<usize, Refusal> {
    let held = body::read(&otlp.collecting, headers, body).await?;
    store(otlp, Protocol::Http, signal, encoding, held).await
}

/// Decodes and stores a body, whichever way it came; returns how many records could not be understood.
pub(super) async fn store(
    receiver: &Otlp,
    protocol: Protocol,
    signal: Signal,
    encoding: Encoding,
    held: Held,
) -> Result<usize, Refusal> {
    let weight = weigh::otlp(&held.bytes, encoding);
    if weight.records > OTLP_RECORDS_MAX {
        return Err(Refusal::TooLarge(format!(
            "more than {OTLP_RECORDS_MAX} records in one request; send smaller batches"
        )));
    }
    if weight.bytes > WEIGHT_MAX {
        return Err(Refusal::TooLarge(
            "body holds more values than can be decoded at once; send smaller batches".into(),
        ));
    }
    let collecting = &receiver.collecting;
    let _share = collecting.work(weight.bytes).await?;
    let (pipeline, drop_list) = (collecting.pipeline.clone(), receiver.drop_list.clone());
    let decoding = collecting.pipeline.compute(move || {
        let context = pipeline.context(Collector::Otlp);
        otlp::decode_body_without(&context, &held.bytes, signal, encoding, None, &drop_list)
    });
    let OtlpBody { records, items, metrics, dropped, .. } = decoding.await?.map_err(malformed)?;
    let rejected = records.iter().filter(|record| record.kind == Kind::Rejected).count();
    collecting.pipeline.submit(records).await?;
    receiver.counts.took(protocol, items, rejected);
    receiver.counts.dropped(&dropped);
    receiver.counts.counted(&metrics);
    Ok(rejected)
}

fn malformed(error: OtlpError) -> Refusal {
    match error {
        OtlpError::TooMany(_) | OtlpError::SharedTooLarge(_) => Refusal::TooLarge(error.to_string()),
        OtlpError::ContentType | OtlpError::JsonAsProtobuf | OtlpError::ProtobufAsJson => {
            Refusal::Malformed(error.to_string())
        }
        other => Refusal::Malformed(other.to_string()),
    }
}

fn accepted(signal: Signal, encoding: Encoding, rejected: usize, id: RequestId) -> Response {
    let answer = ExportResponse::new(rejected);
    let body = match encoding {
        Encoding::Protobuf => answer.encode_to_vec(),
        Encoding::Json => {
            let name = match signal {
                Signal::Logs => "rejectedLogRecords",
                Signal::Traces => "rejectedSpans",
                Signal::Metrics => "rejectedDataPoints",
            };
            let partial = answer
                .partial_success
                .map(|partial| serde_json::json!({ "partialSuccess": { name: partial.rejected.to_string(), "errorMessage": partial.error_message } }));
            partial.unwrap_or_else(|| serde_json::json!({})).to_string().into_bytes()
        }
    };
    let mut response = (StatusCode::OK, [(header::CONTENT_TYPE, content_type(encoding))], body).into_response();
    response.headers_mut().insert(REQUEST_ID, id.header());
    response
}

fn refused(refusal: &Refusal, encoding: Encoding, instance: &str, id: RequestId) -> Response {
    refusal.log(instance, id);
    let (code, message) = (grpc::code(refusal), refusal.to_string());
    let body = match encoding {
        Encoding::Protobuf => {
            let retry = refusal.kind().2.map(RetryInfo::after);
            RpcStatus::new(code, message, retry.as_ref()).encode_to_vec()
        }
        Encoding::Json => serde_json::json!({ "code": code as i32, "message": message }).to_string().into_bytes(),
    };
    let response = (refusal.status(), [(header::CONTENT_TYPE, content_type(encoding))], body).into_response();
    refusal.with_headers(response, id)
}

fn content_type(encoding: Encoding) -> HeaderValue {
    HeaderValue::from_static(match encoding {
        Encoding::Protobuf => "application/x-protobuf",
        Encoding::Json => "application/json",
    })
}
