//! Counters of the process in OpenMetrics text.

use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

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
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("threadline");
        let requests = Family::default();
        let (sealed_rows, tail_rows, table_version) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("http_requests", "Answered API requests", Family::clone(&requests));
        registry.register("sealed_rows", "Rows in sealed files", Gauge::clone(&sealed_rows));
        registry.register("tail_rows", "Rows acknowledged and not sealed yet", Gauge::clone(&tail_rows));
        registry.register("table_version", "Delta version of the table records", Gauge::clone(&table_version));
        Metrics { registry: Mutex::new(registry), requests, sealed_rows, tail_rows, table_version }
    }

    /// Lets others add their counters.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn answered(&self, route: &str, status: u16) {
        let labels = RequestLabels { route: route.into(), status: format!("{}xx", status / 100) };
        self.requests.get_or_create(&labels).inc();
    }

    pub(crate) fn text(&self, snapshot: Option<&threadline_store::Snapshot>) -> String {
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
