//! What a pipeline did, for `/metrics`. Only what came in through this process: spools of other collectors in the inbox
//! were counted by nobody but them.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use threadline_schemas::SourceKind;

use super::{Pipeline, WHAT};

/// The counters of one pipeline.
#[derive(Debug)]
pub struct PipelineMetrics(pub Arc<Pipeline>);

impl Collector for PipelineMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = self.0.counts();
        let totals = [
            ("ingest_accepted", "Records stored by this process", counts.accepted),
            ("ingest_duplicates", "Records that were stored before", counts.duplicates),
            ("ingest_rejected", "Records of kind rejected among those submitted", counts.rejected),
            ("ingest_gaps", "Records of kind gap among those stored: what a collector could not record", counts.gaps),
            ("ingest_redactions", "Secrets taken out", counts.redactions),
            ("ingest_failed_appends", "Appends that failed and were not acknowledged", counts.failed),
        ];
        for (name, help, count) in totals {
            ConstCounter::new(count).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let help = "Records acknowledged by this process, duplicates included, by kind of source";
        let mut family = encoder.encode_descriptor("ingest_records", help, None, MetricType::Counter)?;
        for (source_kind, counts) in SourceKind::ALL.iter().zip(self.0.by_source()) {
            for (what, count) in WHAT.iter().zip(counts) {
                let labels = [("source_kind", source_kind.as_str()), ("what", what)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
