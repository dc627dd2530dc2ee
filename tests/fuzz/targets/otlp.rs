//! OTLP bodies, against prost and serde, which know the messages and nothing else.

use std::path::Path;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use threadline_schemas::Record;
use threadline_schemas::decode::otlp::drop_list::DropList;
use threadline_schemas::decode::otlp::{self, Encoding, OtlpBody, OtlpError, Signal};

use threadline_schemas::limits::otlp::SHARED_BYTES_MAX;

use super::records::{bounded, context, sound};
use super::seeds::files;

const SIGNALS: [Signal; 3] = [Signal::Logs, Signal::Traces, Signal::Metrics];

/// The first byte names the signal, the rest is the body.
pub(super) fn protobuf(bytes: &[u8]) {
    let Some((which, body)) = bytes.split_first() else { return };
    let signal = SIGNALS[usize::from(which % 3)];
    let decoded = decode(body, signal, Encoding::Protobuf);
    let counted = match signal {
        Signal::Logs => ExportLogsServiceRequest::decode(body).ok().map(|body| logs(&body)),
        Signal::Traces => ExportTraceServiceRequest::decode(body).ok().map(|body| spans(&body)),
        Signal::Metrics => ExportMetricsServiceRequest::decode(body).ok().map(|body| points(&body)),
    };
    compare(decoded, counted, signal, Encoding::Protobuf);
}

/// The same in JSON.
pub(super) fn json(bytes: &[u8]) {
    let Some((which, body)) = bytes.split_first() else { return };
    let signal = SIGNALS[usize::from(which % 3)];
    let decoded = decode(body, signal, Encoding::Json);
    let again = match signal {
        Signal::Logs => serde_json::from_slice::<ExportLogsServiceRequest>(body)
            .ok()
            .map(|body| (logs(&body), body.encode_to_vec())),
        Signal::Traces => serde_json::from_slice::<ExportTraceServiceRequest>(body)
            .ok()
            .map(|body| (spans(&body), body.encode_to_vec())),
        Signal::Metrics => serde_json::from_slice::<ExportMetricsServiceRequest>(body)
            .ok()
            .map(|body| (points(&body), body.encode_to_vec())),
    };
    let Some((counted, protobuf)) = again else { return };
    // Serde takes a body whose first byte is not a brace.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return;
    }
    let Some(records) = compare(decoded, Some(counted), signal, Encoding::Json) else { return };
    // Whichever way the content came, it is the same to us, where it was all understood.
    let Ok(other) = decode(&protobuf, signal, Encoding::Protobuf) else { return };
    assert_eq!(other.records.len(), records.len(), "as protobuf it gives other records");
}

fn decode(body: &[u8], signal: Signal, encoding: Encoding) -> Result<OtlpBody, OtlpError> {
    let decode = |list: &DropList| otlp::decode_body_without(&context(), body, signal, encoding, Some("f"), list);
    let decoded = decode(&DropList::none())?;
    assert_eq!(decoded.records, decode(&DropList::none()).expect("it was decoded before").records);
    let carried = decoded.records.iter().filter_map(|record| record.raw.as_deref());
    assert!(carried.clone().all(|raw| memchr::memmem::find(body, raw).is_some()), "raw bytes are not of the body");
    assert_eq!(carried.count(), decoded.items, "an item is carried by exactly one record");
    sound(&decoded.records);
    bounded(&decoded.records, body.len(), SHARED_BYTES_MAX, 4096);
    // With a drop list what is left out is counted.
    let thinned = decode(&DropList::shipped()).expect("it was decoded before");
    let left_out: u64 = thinned.dropped.iter().map(|dropped| dropped.count).sum();
    let carried = thinned.records.iter().filter(|record| record.raw.is_some()).count();
    assert_eq!(carried as u64 + left_out, decoded.items as u64, "left out and not counted");
    Ok(decoded)
}

/// What others can read we read, with as many items and points, unless it is over a limit.
fn compare(
    decoded: Result<OtlpBody, OtlpError>,
    counted: Option<u64>,
    signal: Signal,
    encoding: Encoding,
) -> Option<Vec<Record>> {
    let counted = counted?;
    match decoded {
        Ok(body) => {
            match signal {
                // Serde drops a metric's data in silence where a member of it has another type.
                Signal::Metrics if encoding == Encoding::Json => {
                    assert!(body.metric_points >= counted, "serde counts more")
                }
                Signal::Metrics => assert_eq!(body.metric_points, counted, "prost counts others"),
                _ => assert_eq!(body.items as u64, counted, "others are counted"),
            }
            Some(body.records)
        }
        Err(OtlpError::TooMany(_) | OtlpError::SharedTooLarge(_) | OtlpError::JsonAsProtobuf) => None,
        Err(OtlpError::Json(_) | OtlpError::Shape { .. }) => None,
        Err(error) => panic!("prost reads it, we do not: {error}"),
    }
}

fn logs(body: &ExportLogsServiceRequest) -> u64 {
    let scopes = body.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
    scopes.map(|scope| scope.log_records.len() as u64).sum()
}

fn spans(body: &ExportTraceServiceRequest) -> u64 {
    let scopes = body.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    scopes.map(|scope| scope.spans.len() as u64).sum()
}

fn points(body: &ExportMetricsServiceRequest) -> u64 {
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    let scopes = body.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
    let data = scopes.flat_map(|scope| &scope.metrics).filter_map(|metric| metric.data.as_ref());
    let count = |data: &Data| match data {
        Data::Gauge(data) => data.data_points.len(),
        Data::Sum(data) => data.data_points.len(),
        Data::Histogram(data) => data.data_points.len(),
        Data::ExponentialHistogram(data) => data.data_points.len(),
        Data::Summary(data) => data.data_points.len(),
    };
    data.map(|data| count(data) as u64).sum()
}

pub(super) fn protobuf_seeds(repository: &Path) -> Vec<Vec<u8>> {
    seeds(repository, ".pb")
}

pub(super) fn json_seeds(repository: &Path) -> Vec<Vec<u8>> {
    seeds(repository, ".json")
}

/// Bodies that are not too long, each behind the byte of its signal.
fn seeds(repository: &Path, suffix: &str) -> Vec<Vec<u8>> {
    let wanted = |name: &str| name.contains("/otlp/") && name.ends_with(suffix);
    let mut found = files(&repository.join("tests/captures"), &wanted);
    found.sort_by_key(|(_, body)| body.len());
    let seed = |(name, body): (String, Vec<u8>)| {
        let signal = Signal::of_path(&name)?;
        let which = SIGNALS.iter().position(|other| *other == signal)?;
        Some([&[b'0' + u8::try_from(which).ok()?], body.as_slice()].concat())
    };
    found.into_iter().filter_map(seed).filter(|seed| seed.len() < 64 << 10).collect()
}
