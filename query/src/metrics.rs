//! Counters of the process in OpenMetrics text.

use std::sync::{Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use threadline_store::Reader;

use crate::forward::SinkStatus;

/// Requests by route pattern and status class; never by what was asked.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    /// Route pattern.
    route: String,
    /// Status class: 2xx, 4xx, 5xx.
    status: String,
}

/// The registry and the counters of the reading side.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    sealed_rows: Gauge,
    tail_rows: Gauge,
    table_version: Gauge,
    forwarding: Forwarding,
}

/// How a sink stands; set from its own files, so that it counts over restarts and for another process, too.
#[derive(Debug, Default)]
struct Forwarding {
    up: Family<SinkLabels, Gauge>,
    lag_rows: Family<SinkLabels, Gauge>,
    lag_seconds: Family<SinkLabels, Gauge>,
    sent: Family<SinkLabels, Gauge>,
    failed: Family<SinkLabels, Gauge>,
    rejected: Family<SinkLabels, Gauge>,
    quarantined: Family<SinkLabels, Gauge>,
    dead_letters: Family<SinkLabels, Gauge>,
}

/// A sink, by its name in the configuration.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SinkLabels {
    /// Its name.
    sink: String,
}

impl Forwarding {
    fn families(&self) -> [(&'static str, &'static str, &Family<SinkLabels, Gauge>); 8] {
        [
            ("forward_up", "1 while a process forwards to the sink and the receiver takes events", &self.up),
            ("forward_lag_rows", "Committed records that are not delivered", &self.lag_rows),
            ("forward_lag_seconds", "Age of the oldest commit that is not delivered whole", &self.lag_seconds),
            ("forward_sent", "Events acknowledged since the sink's beginning", &self.sent),
            ("forward_failed", "Attempts that failed and were repeated since the sink's beginning", &self.failed),
            ("forward_rejected", "Events that the receiver refused since the sink's beginning", &self.rejected),
            ("forward_quarantined", "Events that did not validate since the sink's beginning", &self.quarantined),
            ("forward_dead_letters", "Dead letters that wait", &self.dead_letters),
        ]
    }

    fn set(&self, sinks: &[SinkStatus]) {
        self.families().iter().for_each(|(_, _, family)| family.clear());
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        for sink in sinks {
            let labels = SinkLabels { sink: sink.name.clone() };
            let is_up = matches!(sink.state.as_str(), "idle" | "delivering");
            let values = [
                i64::from(is_up),
                count(sink.lag_rows),
                sink.lag_s,
                count(sink.counts.sent),
                count(sink.counts.retries),
                count(sink.counts.rejected),
                count(sink.counts.quarantined),
                count(sink.dead_letters),
            ];
            for ((_, _, family), value) in self.families().into_iter().zip(values) {
                family.get_or_create(&labels).set(value);
            }
        }
    }
}

/// Seconds at work per stage of the way to the disk.
#[derive(Debug)]
struct StageSeconds(Reader);

impl Collector for StageSeconds {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Seconds at work per stage on the way of records to the disk; stages run beside each other";
        let mut family = encoder.encode_descriptor("store_stage_seconds", help, None, MetricType::Counter)?;
        for (stage, time) in self.0.stage_times() {
            ConstCounter::new(time.as_secs_f64()).encode(family.encode_family(&[("stage", stage.as_str())])?)?;
        }
        Ok(())
    }
}

impl Metrics {
    pub(crate) fn new(reader: &Reader) -> Self {
        let mut registry = Registry::with_prefix("threadline");
        let requests = Family::default();
        let (sealed_rows, tail_rows, table_version) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("http_requests", "Answered API requests", Family::clone(&requests));
        registry.register("sealed_rows", "Rows in sealed files", Gauge::clone(&sealed_rows));
        registry.register("tail_rows", "Rows acknowledged and not sealed yet", Gauge::clone(&tail_rows));
        registry.register("table_version", "Delta version of the table records", Gauge::clone(&table_version));
        registry.register_collector(Box::new(StageSeconds(reader.clone())));
        let forwarding = Forwarding::default();
        for (name, help, family) in forwarding.families() {
            registry.register(name, help, Family::clone(family));
        }
        Metrics { registry: Mutex::new(registry), requests, sealed_rows, tail_rows, table_version, forwarding }
    }

    /// Lets others add their counters.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn answered(&self, route: &str, status: u16) {
        let labels = RequestLabels { route: route.into(), status: format!("{}xx", status / 100) };
        self.requests.get_or_create(&labels).inc();
    }

    pub(crate) fn text(&self, snapshot: Option<&threadline_store::Snapshot>, sinks: &[SinkStatus]) -> String {
        self.forwarding.set(sinks);
        if let Some(snapshot) = snapshot {
            self.sealed_rows.set(snapshot.sealed_rows() as i64);
            self.tail_rows.set(snapshot.tail_rows() as i64);
            self.table_version.set(snapshot.table_version());
        }
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing into a String cannot fail.
        encode(&mut text, &registry).map(|()| text).unwrap_or_default()
    }
}
