//! OTLP/HTTP: one handler for logs, traces and metrics, in protobuf and in JSON; the answer is in the encoding of the
//! request.
//!
//! Records that could not be understood are kept as `rejected` records and reported as a partial success. Metrics are
//! accepted and counted, not kept, so that an exporter that sends all three does not fail.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use prost::Message;
use threadline_schemas::decode::otlp::{self, Encoding, OtlpBody, OtlpError, Signal};
use threadline_schemas::{Collector, Kind};

use super::problem::{REQUEST_ID, RequestId};
use super::{Collecting, Refusal, body, weigh};

/// Estimated memory above which a body is refused even when nobody else is there.
const WEIGHT_MAX: usize = 160 << 20;
/// Log records or spans in one request; exporters send 512 by default, collectors 8,192.
const RECORDS_MAX: usize = 20_000;

/// `Export{Logs,Trace,Metrics}ServiceResponse`: the three have the same shape.
#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
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

/// `google.rpc.Status`
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// Takes one export request.
pub(super) async fn export(signal: Signal, State(collecting): State<Collecting>, request: Request) -> Response {
    let id = RequestId::new();
    let (parts, body) = request.into_parts();
    let instance = parts.uri.path();
    let encoding = match encoding(&parts.headers) {
        Ok(encoding) => encoding,
        // In which encoding should it be told? A problem is what people can read.
        Err(refusal) => return refusal.response(instance, id),
    };
    match take(&collecting, signal, encoding, &parts.headers, body).await {
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
    collecting: &Collecting,
    signal: Signal,
    encoding: Encoding,
    headers: &HeaderMap,
    body: axum::body::Body,
) -> Result<usize, Refusal> {
    let held = body::read(collecting, headers, body).await?;
    let weight = weigh::otlp(&held.bytes, encoding);
    if weight.records > RECORDS_MAX {
        return Err(Refusal::TooLarge(format!("more than {RECORDS_MAX} records in one request; send smaller batches")));
    }
    if weight.bytes > WEIGHT_MAX {
        return Err(Refusal::TooLarge(
            "body holds more values than can be decoded at once; send smaller batches".into(),
        ));
    }
    let _share = collecting.work(weight.bytes).await?;
    let pipeline = collecting.pipeline.clone();
    let decoding = collecting.pipeline.compute(move || {
        let context = pipeline.context(Collector::Otlp);
        otlp::decode_body(&context, &held.bytes, signal, encoding, None)
    });
    let OtlpBody { records, .. } = decoding.await?.map_err(malformed)?;
    let rejected = records.iter().filter(|record| record.kind == Kind::Rejected).count();
    collecting.pipeline.submit(records).await?;
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
    let partial_success = (rejected > 0).then(|| PartialSuccess {
        rejected: rejected as i64,
        error_message: "some records could not be understood; they are kept as rejected records".into(),
    });
    let body = match encoding {
        Encoding::Protobuf => ExportResponse { partial_success }.encode_to_vec(),
        Encoding::Json => {
            let name = match signal {
                Signal::Logs => "rejectedLogRecords",
                Signal::Traces => "rejectedSpans",
                Signal::Metrics => "rejectedDataPoints",
            };
            let partial = partial_success
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
    let status = Status { code: code(refusal), message: refusal.to_string() };
    let body = match encoding {
        Encoding::Protobuf => status.encode_to_vec(),
        Encoding::Json => {
            serde_json::json!({ "code": status.code, "message": status.message }).to_string().into_bytes()
        }
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

/// The gRPC code of a refusal.
fn code(refusal: &Refusal) -> i32 {
    const INVALID_ARGUMENT: i32 = 3;
    const DEADLINE_EXCEEDED: i32 = 4;
    const RESOURCE_EXHAUSTED: i32 = 8;
    const UNAVAILABLE: i32 = 14;
    match refusal {
        Refusal::Malformed(_) | Refusal::ContentType { .. } | Refusal::ContentEncoding => INVALID_ARGUMENT,
        Refusal::TimedOut => DEADLINE_EXCEEDED,
        Refusal::TooLarge(_) | Refusal::Overloaded => RESOURCE_EXHAUSTED,
        Refusal::Busy | Refusal::NoSpace | Refusal::Stopping | Refusal::Unknown => UNAVAILABLE,
    }
}
