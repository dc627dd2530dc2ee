//! `threadline kafka`: reads Kafka topics until stopped.

use std::process::ExitCode;

use anyhow::Context;
use threadline_ingest::kafka::{self, KafkaConfig};
use threadline_schemas::Collector;
use tokio::sync::watch;

use super::record::{Recording, exit_code, known};
use super::{KafkaArguments, data_directory, output, serve};

/// Reads until SIGINT or SIGTERM; then what was read is stored, and its positions are committed.
pub(crate) async fn run(arguments: KafkaArguments) -> anyhow::Result<ExitCode> {
    let path = &arguments.config;
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let config = KafkaConfig::parse(&text).with_context(|| format!("in {}", path.display()))?;
    let directory = data_directory(arguments.sink.data.clone())?;
    let catalogue = super::source::catalogue(&directory, &arguments.profile)?;
    let stopping = serve::stop_signal();
    let recording = Recording::to(&arguments.sink, Collector::Kafka, "kafka").await?;
    let pipeline = recording.pipeline();
    let (sender, stop) = watch::channel(false);
    output::talk(&format!("reading {} topics as group {}", config.topics.len(), config.group));
    // Elsewhere the ids decide what is new; positions kept here would not know what other collectors sent there.
    let kept = arguments.sink.to.is_none().then_some(directory.as_path());
    let reading = kafka::read(config, &catalogue, kept, pipeline.clone(), stop);
    tokio::pin!(reading);
    let outcome = tokio::select! {
        outcome = &mut reading => outcome,
        () = stopping => {
            sender.send_replace(true);
            reading.await
        }
    };
    let ending = recording.close().await?;
    let taken = outcome.with_context(|| format!("reading topics of {} ended", path.display()))?;
    let known = known(ending, pipeline.counts().duplicates);
    output::talk(&format!(
        "{} messages ({known}), {} rejected, {} to the dead-letter topic, {} missing",
        taken.messages, taken.rejected, taken.dead_lettered, taken.missing
    ));
    Ok(exit_code(ending))
}
