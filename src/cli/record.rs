//! The recording commands: `tap`, `wrap`, `watch`, and how any command gets at a data directory that a
//! server may hold.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use threadline_ingest::pipeline::Pipeline;
use threadline_ingest::{follow, tap, wrap};
use threadline_schemas::display::{self, Lines};
use threadline_store::log::Durability;
use threadline_store::{Appender, Store, StoreConfig, StoreError};

use super::{Agent, OnRecordFailure, TapArguments, WatchArguments, WrapArguments, data_directory, output};

/// Write access to a data directory: the seal lock when it is free, else a spool that its holder drains.
pub(crate) struct Recording {
    store: Option<Store>,
    appender: Appender,
    pipeline: Arc<Pipeline>,
}

impl Recording {
    /// Opens `directory`, making it when absent.
    pub(crate) async fn open(directory: &Path, source_name: &str) -> anyhow::Result<Recording> {
        let config = store_config()?;
        let (store, appender) = match Store::open(directory, config.clone()).await {
            Ok(store) => {
                let appender = store.appender();
                (Some(store), appender)
            }
            Err(StoreError::Locked { .. }) => (None, spool(directory, source_name)?),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open the data directory {}", directory.display()));
            }
        };
        let pipeline = pipeline(directory, appender.clone())?;
        Ok(Recording { store, appender, pipeline })
    }

    /// Where decoded records go.
    pub(crate) fn pipeline(&self) -> Arc<Pipeline> {
        self.pipeline.clone()
    }

    /// Seals what was recorded, or leaves it synced in the spool for the server.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        match self.store {
            Some(store) => store.close().await.context("cannot close the store"),
            None => self.appender.close().await.context("cannot close the spool"),
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
    options.on_record_failure = match arguments.on_record_failure {
        OnRecordFailure::Warn => tap::OnRecordFailure::Warn,
        OnRecordFailure::Block => tap::OnRecordFailure::Block,
    };
    let recorder = match tap_recorder(&arguments, run).await {
        Ok(recorder) => recorder,
        Err(error) if arguments.on_record_failure == OnRecordFailure::Block => return Err(error),
        Err(error) => {
            // The server must not break because recording does: run it all the same, and say so.
            output::talk(&format!("threadline tap: recording is off: {error:#}"));
            threadline_ingest::record_frames::FrameRecorder::off()
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

async fn tap_recorder(
    arguments: &TapArguments,
    run: uuid::Uuid,
) -> anyhow::Result<threadline_ingest::record_frames::FrameRecorder> {
    use threadline_ingest::record_frames::FrameRecorder;
    if let Some(url) = &arguments.to {
        let token = arguments.token_file.as_deref().map(super::guard::read_token).transpose()?;
        let state = data_directory(None)?.join("outbox");
        return Ok(FrameRecorder::remote(&state, url, token, &arguments.server_name, run)?);
    }
    let directory = data_directory(arguments.data.clone())?;
    // Always a spool: a tap never takes the seal lock, so any number run beside a server or each other.
    let appender = spool(&directory, &arguments.server_name)?;
    let pipeline = pipeline(&directory, appender)?;
    Ok(FrameRecorder::local(pipeline, &arguments.server_name, run))
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
    let directory = data_directory(arguments.data)?;
    let catalogue = super::source::catalogue(&directory, &arguments.profile)?;
    let options = threadline_ingest::import::Options::named(&arguments.kind, catalogue)
        .with_context(|| format!("--as {} is not a known kind", arguments.kind))?;
    let recording = Recording::open(&directory, "watch").await?;
    let pipeline = recording.pipeline();
    let watching = follow::follow_with(&paths, recording.pipeline(), arguments.once, options.catalogue, options.format);
    let outcome = tokio::select! {
        outcome = watching => outcome.map_err(anyhow::Error::new),
        () = super::serve::stop_signal() => Ok(()),
    };
    recording.close().await?;
    outcome?;
    let counts = pipeline.counts();
    output::talk(&format!(
        "{} records, {} known already, {} rejected",
        counts.accepted, counts.duplicates, counts.rejected
    ));
    Ok(ExitCode::SUCCESS)
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
