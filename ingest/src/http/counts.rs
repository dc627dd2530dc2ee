//! What the OTLP receivers took, left out and counted instead of keeping, for `/metrics`.
//!
//! Invariants
//! - a table of names that senders choose holds at most [`NAMES_MAX`] pairs of at most [`NAME_CHARS_MAX`] characters;
//!   what comes beyond is counted under `(other)`, so sums stay right
//! - counts are since the start of the process; what the drop list leaves out is also a `gap` record in the store

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::{MetricType, TypedMetric};
use threadline_schemas::decode::otlp::{Named, Signal};

/// Pairs of names that one table holds.
pub const NAMES_MAX: usize = 1_024;
/// Characters of a name.
pub const NAME_CHARS_MAX: usize = 128;
/// What is beyond [`NAMES_MAX`].
const OTHER: &str = "(other)";

/// How an export came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// OTLP/HTTP.
    Http,
    /// OTLP/gRPC.
    Grpc,
}

const PROTOCOLS: [(Protocol, &str); 2] = [(Protocol::Http, "http"), (Protocol::Grpc, "grpc")];
const SIGNALS: [Signal; 3] = [Signal::Logs, Signal::Traces, Signal::Metrics];

/// Counters of one pair of receivers.
#[derive(Debug, Default)]
pub struct OtlpCounts {
    /// By protocol, signal, and whether the request was refused or accepted.
    requests: [[[AtomicU64; 2]; 3]; 2],
    /// Log records and spans, by protocol.
    records: [AtomicU64; 2],
    rejected: AtomicU64,
    /// By source and rule.
    dropped: Names,
    /// By source and metric.
    points: Names,
}

impl OtlpCounts {
    /// A request was answered.
    pub(super) fn answered(&self, protocol: Protocol, signal: Signal, is_accepted: bool) {
        self.requests[protocol as usize][signal as usize][usize::from(is_accepted)].fetch_add(1, Relaxed);
    }

    /// An accepted request held this much.
    pub(super) fn took(&self, protocol: Protocol, records: usize, rejected: usize) {
        self.records[protocol as usize].fetch_add(records as u64, Relaxed);
        self.rejected.fetch_add(rejected as u64, Relaxed);
    }

    /// Adds items that the drop list left out.
    pub(super) fn dropped(&self, dropped: &[Named]) {
        self.dropped.add(dropped);
    }

    /// Adds metric points, which are counted and not kept.
    pub(super) fn counted(&self, points: &[Named]) {
        self.points.add(points);
    }

    /// Items left out by the drop list, by source and rule.
    pub fn dropped_by_rule(&self) -> Vec<Named> {
        self.dropped.list()
    }

    /// Metric points counted, by source and metric.
    pub fn points_by_metric(&self) -> Vec<Named> {
        self.points.list()
    }
}

/// Counts by two names.
#[derive(Debug, Default)]
struct Names(Mutex<BTreeMap<(String, String), u64>>);

impl Names {
    fn add(&self, more: &[Named]) {
        if more.is_empty() {
            return;
        }
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for named in more {
            let key = (short(&named.source), short(&named.name));
            let is_room = counts.len() < NAMES_MAX || counts.contains_key(&key);
            let key = if is_room { key } else { (OTHER.into(), OTHER.into()) };
            let count = counts.entry(key).or_default();
            *count = count.saturating_add(named.count);
        }
    }

    fn list(&self) -> Vec<Named> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts
            .iter()
            .map(|((source, name), count)| Named { source: source.clone(), name: name.clone(), count: *count })
            .collect()
    }
}

fn short(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

impl Collector for OtlpCounts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut requests = encoder.encode_descriptor(
            "otlp_requests",
            "OTLP export requests by protocol, signal and answer",
            None,
            MetricType::Counter,
        )?;
        for (protocol, protocol_name) in PROTOCOLS {
            for signal in SIGNALS {
                for (answer, count) in
                    ["refused", "accepted"].into_iter().zip(&self.requests[protocol as usize][signal as usize])
                {
                    let labels = [("protocol", protocol_name), ("signal", signal.as_str()), ("answer", answer)];
                    ConstCounter::new(count.load(Relaxed)).encode(requests.encode_family(&labels)?)?;
                }
            }
        }
        let mut records = encoder.encode_descriptor(
            "otlp_records",
            "Log records and spans in accepted OTLP requests",
            None,
            MetricType::Counter,
        )?;
        for ((_, protocol), count) in PROTOCOLS.into_iter().zip(&self.records) {
            ConstCounter::new(count.load(Relaxed)).encode(records.encode_family(&[("protocol", protocol)])?)?;
        }
        let rejected = ConstCounter::new(self.rejected.load(Relaxed));
        let help = "OTLP log records and spans that could not be understood; they are kept as rejected records";
        rejected.encode(encoder.encode_descriptor("otlp_rejected", help, None, ConstCounter::<u64>::TYPE)?)?;
        let help = "Log records and spans left out by the drop list";
        encode_names(&mut encoder, "otlp_dropped", help, "rule", &self.dropped.list())?;
        let help = "Metric points received; they are counted and not kept";
        encode_names(&mut encoder, "otlp_metric_points", help, "metric", &self.points.list())
    }
}

fn encode_names(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &str,
    help: &str,
    label: &str,
    list: &[Named],
) -> Result<(), std::fmt::Error> {
    let mut family = encoder.encode_descriptor(metric, help, None, MetricType::Counter)?;
    for named in list {
        let labels = [("source", named.source.as_str()), (label, named.name.as_str())];
        ConstCounter::new(named.count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beyond_the_bound_are_counted_together() {
        let counts = OtlpCounts::default();
        let named = |index: usize| Named { source: format!("s{index}"), name: "m\n".repeat(200), count: 2 };
        let many: Vec<Named> = (0..NAMES_MAX + 10).map(named).collect();
        counts.counted(&many);
        counts.counted(&many[..5]);
        let list = counts.points_by_metric();
        assert_eq!(list.len(), NAMES_MAX + 1);
        assert_eq!(list.iter().map(|named| named.count).sum::<u64>(), 2 * (many.len() as u64 + 5));
        assert!(list.iter().all(|named| named.name.chars().count() <= NAME_CHARS_MAX && !named.name.contains('\n')));
        assert!(list.iter().any(|named| named.source == OTHER && named.count == 20));
    }
}
