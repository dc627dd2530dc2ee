//! How far topics were read, for `/metrics`: from the positions of the data directory, so that consumers in processes of
//! their own count too.

use std::path::PathBuf;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use threadline_store::positions::{StreamPosition, positions};

/// Topics, partitions, positions of a data directory.
#[derive(Debug)]
pub struct KafkaMetrics(pub PathBuf);

impl Collector for KafkaMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let all = positions(&self.0).unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the positions of Kafka topics cannot be read");
            Vec::new()
        });
        if all.is_empty() {
            return Ok(());
        }
        type Count = fn(&StreamPosition) -> u64;
        let counters: [(&str, &str, Count); 3] = [
            ("kafka_messages", "Messages read from Kafka", |position| position.messages),
            ("kafka_rejected", "Of them, messages that could not be understood", |position| position.rejected),
            ("kafka_dead_lettered", "Of them, messages written to the dead-letter topic", |position| {
                position.dead_lettered
            }),
        ];
        for (name, help, count) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for position in &all {
                ConstCounter::new(count(position))
                    .encode(family.encode_family(&labels(position, &partition(position)))?)?;
            }
        }
        let help = "Messages in the topic that were not read yet, as far as the broker told";
        let mut family = encoder.encode_descriptor("kafka_lag", help, None, MetricType::Gauge)?;
        for position in &all {
            let Some(behind) = position.behind() else { continue };
            let behind = i64::try_from(behind).unwrap_or(i64::MAX);
            ConstGauge::new(behind).encode(family.encode_family(&labels(position, &partition(position)))?)?;
        }
        Ok(())
    }
}

fn partition(position: &StreamPosition) -> String {
    position.stream.partition.to_string()
}

fn labels<'a>(position: &'a StreamPosition, partition: &'a str) -> [(&'static str, &'a str); 4] {
    let stream = &position.stream;
    [("cluster", &stream.cluster), ("group", &stream.group), ("topic", &stream.topic), ("partition", partition)]
}
