//! The recording commands: `tap`, `wrap`, `watch`, and how any command gets at a data directory that a
//! server may hold.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use threadline_ingest::pipeline::Pipeline;
use threadline_ingest::record_frames::FrameRecorder;
use threadline_ingest::remote::{self, Origin, Outbox, Target};
use threadline_ingest::{follow, tap, wrap};
use threadline_schemas::Collector;
use threadline_schemas::display::{self, Lines};
use threadline_store::log::Durability;
use threadline_store::{Appender, Store, StoreConfig, StoreError};

use super::{
    Agent, OnRecordFailure, Sink, TapArguments, WatchArguments, WrapArguments, data_directory, output, state_directory,
};

/// How long an import or a watch that ends waits for a server that says nothing.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where a collector records.
pub(crate) struct Recording {
    way: Way,
    pipeline: Arc<Pipeline>,
}

/// How records get where they are kept.
enum Way {
    /// The seal lock of a data directory is ours.
    Store(Store),
    /// Another process seals there and drains our spool.
    Spool(Appender),
    /// A server elsewhere.
    Remote(Arc<Outbox>),
}

/// What became of the records of a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// They are stored, and counted as duplicates where they were stored before.
    Stored,
    /// They are synced; whoever seals finds the duplicates.
    Spooled,
    /// The server has them; so many it had before, and so many it refused.
    Sent { duplicates: u64, refused: u64 },
    /// The server is away: they are synced here and wait.
    Waiting,
}

impl Recording {
    /// Opens what `sink` names.
    pub(crate) async fn to(sink: &Sink, collector: Collector, source_name: &str) -> anyhow::Result<Recording> {
        match &sink.to {
            None => Recording::open(&data_directory(sink.data.clone())?, source_name).await,
            Some(url) => {
                let token = super::guard::sending_token(sink.token_file.as_deref())?;
                let authority = sink
                    .ca
                    .as_deref()
                    .map(|path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display())));
                let target = Target::new(url, token, authority.transpose()?.as_deref())?;
                let state = state_directory(sink.state.clone())?;
                let origin = Origin { collector, source_name: source_name.into() };
                let (pipeline, outbox) = remote::pipeline(&state, target, &origin).await?;
                Ok(Recording { way: Way::Remote(outbox), pipeline })
            }
        }
    }

    /// Opens `directory`, making it when absent.
    pub(crate) async fn open(directory: &Path, source_name: &str) -> anyhow::Result<Recording> {
        let config = store_config()?;
        let (way, appender) = match Store::open(directory, config.clone()).await {
            Ok(store) => {
                let appender = store.appender();
                (Way::Store(store), appender)
            }
            Err(StoreError::Locked { .. }) => {
                let appender = spool(directory, source_name)?;
                (Way::Spool(appender.clone()), appender)
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open the data directory {}", directory.display()));
            }
        };
        Ok(Recording { way, pipeline: pipeline(directory, appender)? })
    }

    /// Where decoded records go.
    pub(crate) fn pipeline(&self) -> Arc<Pipeline> {
        self.pipeline.clone()
    }

    /// A reader of the directory, when it is ours to seal.
    pub(crate) fn reader(&self) -> Option<threadline_store::Reader> {
        match &self.way {
            Way::Store(store) => Some(store.reader()),
            _ => None,
        }
    }

    /// Seals what was recorded, leaves it synced in the spool for the server, or waits until the server elsewhere has it.
    pub(crate) async fn close(self) -> anyhow::Result<Ending> {
        match self.way {
            Way::Store(store) => store.close().await.context("cannot close the store").map(|()| Ending::Stored),
            Way::Spool(appender) => appender.close().await.context("cannot close the spool").map(|()| Ending::Spooled),
            Way::Remote(outbox) => {
                let is_sent = outbox.close(PATIENCE).await.context("cannot close the outbox")?;
                let delivery = outbox.delivery();
                let sent = Ending::Sent { duplicates: delivery.duplicates, refused: delivery.refused };
                Ok(if is_sent { sent } else { Ending::Waiting })
            }
        }
    }
}

fn spool(directory: &Path, source_name: &str) -> anyhow::Result<Appender> {
    Appender::spool(directory, source_name, store_config()?)
        .with_context(|| format!("cannot record into {}", directory.display()))
}

/// How long a record waits for others before it is sealed; small values make small files.
const SEAL_AGE_VARIABLE: &str = "THREADLINE_SEAL_AGE_MS";

/// The defaults, with the seal age of the environment, and durability switched off where a crash test asks for its control.
pub(crate) fn store_config() -> anyhow::Result<StoreConfig> {
    let mut config = StoreConfig::default();
    if let Ok(text) = std::env::var(SEAL_AGE_VARIABLE) {
        let age_ms: u64 = text.parse().with_context(|| format!("{SEAL_AGE_VARIABLE} is a number of milliseconds"))?;
        config.seal_age_max_ms = age_ms;
        config.commit_interval_min_ms = config.commit_interval_min_ms.min(age_ms);
    }
    config.log.durability = Durability::from_env()?;
    if config.log.durability != Durability::Synced {
        output::talk("WARNING: THREADLINE_DURABILITY_CONTROL is set: ACKNOWLEDGED EVENTS WILL BE LOST");
    }
    Ok(config)
}

/// Redaction, stamps and append for a data directory, under its keys.
pub(crate) fn pipeline(directory: &Path, appender: Appender) -> anyhow::Result<Arc<Pipeline>> {
    let key = threadline_store::match_key(directory)
        .with_context(|| format!("cannot read the keys of {}", directory.display()))?;
    Ok(Arc::new(Pipeline::new(appender, key, StoreConfig::default().tenant)))
}

/// `threadline tap`: passes the command through and records what passes. Exits with the command's code.
pub(crate) async fn tap(arguments: TapArguments) -> anyhow::Result<ExitCode> {
    let run = uuid::Uuid::new_v4();
    let mut options = tap::TapOptions::new(run);
    options.on_record_failure = arguments.on_record_failure.into();
    let recorder = match tap_recorder(&arguments, run).await {
        Ok(recorder) => recorder,
        Err(error) if arguments.on_record_failure == OnRecordFailure::Block => return Err(error),
        Err(error) => {
            // The server must not break because recording does: run it all the same, and say so.
            output::talk(&format!("threadline tap: recording is off: {error:#}"));
            FrameRecorder::off()
        }
    };
    let client = tap::Client::from_process().context("cannot take over the standard streams")?;
    let code = match tap::run(&arguments.command, client, recorder, options).await {
        Ok(outcome) => {
            if !outcome.drained {
                let missing = outcome.passed.frames.saturating_sub(outcome.recorded.frames);
                output::talk(&format!("threadline tap: {missing} frames could not be recorded before the end"));
            }
            outcome.code
        }
        Err(error) => {
            let code = error.exit_code();
            output::talk(&format!("threadline tap: {:#}", anyhow::Error::new(error)));
            code
        }
    };
    // A thread may still be blocked on the client's input; leaving now is the only way to end it.
    std::process::exit(i32::from(code));
}

async fn tap_recorder(arguments: &TapArguments, run: uuid::Uuid) -> anyhow::Result<FrameRecorder> {
    Ok(FrameRecorder::new(tap_pipeline(arguments).await?, &arguments.server_name, run))
}

/// Where a tap records, over stdio or HTTP.
pub(crate) async fn tap_pipeline(arguments: &TapArguments) -> anyhow::Result<Arc<Pipeline>> {
    let name = &arguments.server_name;
    if arguments.sink.to.is_some() {
        return Ok(Recording::to(&arguments.sink, Collector::Tap, name).await?.pipeline());
    }
    let directory = data_directory(arguments.sink.data.clone())?;
    // Always a spool: a tap never takes the seal lock, so any number run beside a server or each other.
    pipeline(&directory, spool(&directory, name)?)
}

impl From<OnRecordFailure> for tap::OnRecordFailure {
    fn from(given: OnRecordFailure) -> Self {
        match given {
            OnRecordFailure::Warn => tap::OnRecordFailure::Warn,
            OnRecordFailure::Block => tap::OnRecordFailure::Block,
        }
    }
}

/// `threadline wrap`: shows, makes or takes back the change.
pub(crate) fn wrap(arguments: WrapArguments) -> anyhow::Result<ExitCode> {
    let agent = match arguments.agent {
        Agent::ClaudeCode => wrap::Agent::ClaudeCode,
        Agent::Codex => wrap::Agent::Codex,
    };
    let mut places = wrap::Places::from_env().context("HOME is not set: whose configuration should be changed?")?;
    places.project = std::path::absolute(&arguments.project)?;
    let directory = std::path::absolute(data_directory(arguments.data)?)?;
    let plan = if arguments.undo {
        wrap::plan_undo(agent, &places)?
    } else {
        let options = wrap::WrapOptions {
            executable: std::env::current_exe().context("cannot tell where this program is")?,
            destination: wrap::Destination::Data(directory.clone()),
            otlp_endpoint: Some(arguments.otlp),
        };
        wrap::plan(agent, &places, &options)?
    };
    let shown: String = plan.files.iter().map(wrap::FileChange::diff).collect();
    output::write(None, display::terminal(&shown, Lines::Keep).as_bytes())?;
    for note in &plan.notes {
        output::talk(&format!("{}: {} {}", note.path.display(), note.name, note.why));
    }
    if plan.files.is_empty() {
        output::talk("nothing to change");
    } else if arguments.write || arguments.undo {
        wrap::apply(&plan)?;
        output::talk("done");
        if !arguments.undo {
            output::talk(&format!("now run `threadline serve --data {}`, then your agent", directory.display()));
        }
    } else {
        output::talk("nothing was changed: --write makes this change, --undo takes it back later");
    }
    Ok(ExitCode::SUCCESS)
}

/// `threadline watch`: follows transcripts until stopped.
pub(crate) async fn watch(arguments: WatchArguments) -> anyhow::Result<ExitCode> {
    let paths = if arguments.paths.is_empty() { transcript_folders()? } else { arguments.paths };
    for path in paths.iter().filter(|path| !path.exists()) {
        if arguments.once {
            bail!("{} does not exist", path.display());
        }
        output::talk(&format!("{} does not exist yet: it is followed once it does", path.display()));
    }
    let directory = data_directory(arguments.sink.data.clone())?;
    let catalogue = super::source::catalogue(&directory, &arguments.profile)?;
    let options = threadline_ingest::import::Options::named(&arguments.kind, catalogue)
        .with_context(|| format!("--as {} is not a known kind", arguments.kind))?;
    let recording = Recording::to(&arguments.sink, Collector::Watch, "watch").await?;
    let pipeline = recording.pipeline();
    let watching = follow::follow_with(&paths, recording.pipeline(), arguments.once, options.catalogue, options.format);
    let outcome = tokio::select! {
        outcome = watching => outcome.map_err(anyhow::Error::new),
        () = super::serve::stop_signal() => Ok(()),
    };
    let ending = recording.close().await?;
    outcome?;
    let counts = pipeline.counts();
    let known = known(ending, counts.duplicates);
    output::talk(&format!("{} records ({known}), {} rejected", counts.accepted, counts.rejected));
    Ok(exit_code(ending))
}

/// What is known of duplicates, in words.
pub(crate) fn known(ending: Ending, duplicates: u64) -> String {
    match ending {
        Ending::Stored => format!("{duplicates} known already"),
        Ending::Spooled => "accepted; the server of this directory finds the ones it knows already".into(),
        Ending::Sent { duplicates, refused: 0 } => format!("sent; {duplicates} known to the server already"),
        Ending::Sent { duplicates, refused } => {
            format!("sent; {duplicates} known to the server already, {refused} refused by it")
        }
        Ending::Waiting => {
            "the server does not have them all: they wait on this disk, and the next command that sends there takes them along".into()
        }
    }
}

/// 7 while something waits for a server that does not take it.
pub(crate) fn exit_code(ending: Ending) -> ExitCode {
    match ending {
        Ending::Waiting => ExitCode::from(super::EXIT_UNAVAILABLE),
        Ending::Sent { refused, .. } if refused > 0 => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

/// Where Claude Code and Codex keep their transcripts.
fn transcript_folders() -> anyhow::Result<Vec<PathBuf>> {
    let home = std::env::var_os("HOME").map(PathBuf::from).context("HOME is not set: name the folders to watch")?;
    let folder = |variable: &str, default: &str, below: &str| {
        std::env::var_os(variable).map_or_else(|| home.join(default), PathBuf::from).join(below)
    };
    let found: Vec<PathBuf> =
        [folder("CLAUDE_CONFIG_DIR", ".claude", "projects"), folder("CODEX_HOME", ".codex", "sessions")]
            .into_iter()
            .filter(|path| path.is_dir())
            .collect();
    if found.is_empty() {
        bail!("no transcript folders of Claude Code or Codex were found: name the folders to watch");
    }
    Ok(found)
}
