//! `threadline forward`: what is recorded goes to a SIEM as OCSF events.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};
use threadline_query::forward::{self, Config, ReplayRequest, Worker};
use threadline_store::Commits;
use tokio::sync::watch;

use super::output::{self, Column};
use super::{
    ForwardCommand, ForwardReplayArguments, ForwardRunArguments, ForwardStatusArguments, ForwardTestArguments,
    data_directory,
};

const STATUS: &[Column] = &[
    ("SINK", "name"),
    ("TYPE", "kind"),
    ("STATE", "state"),
    ("LAG ROWS", "lag_rows"),
    ("LAG S", "lag_s"),
    ("SENT", "sent"),
    ("REJECTED", "rejected"),
    ("QUARANTINED", "quarantined"),
    ("FILTERED", "filtered"),
    ("DEAD LETTERS", "dead_letters"),
    ("RETRIES", "retries"),
    ("LAST DELIVERY (UTC)", "last_delivery"),
    ("REASON", "reason"),
];
const LETTERS: &[Column] =
    &[("SINK", "sink"), ("EVENT", "uid"), ("WHY", "why"), ("AT (UTC)", "at"), ("REASON", "reason")];
const TRIALS: &[Column] = &[
    ("SINK", "sink"),
    ("KIND", "kind"),
    ("EVENT CODE", "event_code"),
    ("CLASS", "class_uid"),
    ("OCSF", "ocsf_version"),
    ("BYTES", "bytes"),
    ("VERDICT", "verdict"),
    ("REASON", "reason"),
];

/// Runs the command.
pub(crate) async fn run(command: ForwardCommand) -> anyhow::Result<ExitCode> {
    match command {
        ForwardCommand::Run(arguments) => forward_run(arguments).await,
        ForwardCommand::Status(arguments) => status(arguments).await,
        ForwardCommand::Replay(arguments) => replay(arguments).await,
        ForwardCommand::Test(arguments) => test(arguments).await,
    }
}

/// A configuration, every mistake in it named.
pub(crate) fn config(path: &Path) -> anyhow::Result<Config> {
    Config::read(path).with_context(|| format!("the configuration {} is not used", path.display()))
}

async fn forward_run(arguments: ForwardRunArguments) -> anyhow::Result<ExitCode> {
    let config = config(&arguments.config)?;
    let data = data_directory(arguments.data)?;
    let names: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
    let said = format!("threadline forwards {} to {}", data.display(), names.join(", "));
    let stopped = super::serve::stop_signal();
    let (shutdown, until) = watch::channel(false);
    let mut running = tokio::spawn(async move { forward::run(config, &data, until).await });
    output::talk(&said);
    tokio::select! {
        ended = &mut running => ended??,
        () = stopped => {
            shutdown.send_replace(true);
            running.await??;
            return Ok(ExitCode::SUCCESS);
        }
    }
    // Every sink has stopped by itself.
    anyhow::bail!("no sink is left to forward to: see `threadline forward status`")
}

async fn status(arguments: ForwardStatusArguments) -> anyhow::Result<ExitCode> {
    let data = data_directory(arguments.data)?;
    let statuses = forward::statuses(&data).await.context("the state of forwarding cannot be read")?;
    if arguments.dead_letters {
        let rows: Vec<Value> = statuses
            .iter()
            .flat_map(|status| {
                status.newest_dead_letters.iter().map(|letter| {
                    let mut row = json!(letter);
                    row["sink"] = status.name.as_str().into();
                    row
                })
            })
            .collect();
        output::rows(&arguments.printing, &json!({"data": rows}), &rows, LETTERS)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Value> = statuses.iter().map(|status| json!(status)).collect();
    output::rows(&arguments.printing, &json!({"data": rows}), &rows, STATUS)?;
    Ok(ExitCode::SUCCESS)
}

async fn replay(arguments: ForwardReplayArguments) -> anyhow::Result<ExitCode> {
    let config = config(&arguments.config)?;
    let data = data_directory(arguments.data)?;
    let sink = config.sink(&arguments.sink)?.clone();
    let name = sink.name.clone();
    let request = match (arguments.from_version, arguments.to_version) {
        (None, _) => ReplayRequest::DeadLetters,
        (Some(from), to) => ReplayRequest::Versions { from, to: to.unwrap_or(i64::MAX) },
    };
    request.check(&data)?;
    let (_shutdown, until) = watch::channel(false);
    match Worker::start(Commits::open(&data)?, sink, config.base_url, until) {
        Ok(worker) => {
            let sent = worker.run_replay(&request).await?;
            output::talk(&format!("{sent} events sent again to {name}"));
        }
        Err(forward::ForwardError::Busy { .. }) => {
            forward::request_replay(&data, &name, &request)?;
            output::talk(&format!(
                "the process that forwards to {name} sends them again now; see `threadline forward status`"
            ));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}

async fn test(arguments: ForwardTestArguments) -> anyhow::Result<ExitCode> {
    let config = config(&arguments.config)?;
    let trials = forward::trial(&config, arguments.send).await;
    let failed = trials.iter().filter(|trial| trial.is_failure()).count();
    let rows: Vec<Value> = trials.iter().map(|trial| json!(trial)).collect();
    output::rows(&arguments.printing, &json!({"data": rows}), &rows, TRIALS)?;
    output::talk(&format!("{} samples at {} sinks, {failed} failed", rows.len(), config.sinks.len()));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
