//! Puts a tap before the MCP servers in an agent's configuration and turns on its telemetry export, and takes both out again.
//!
//! Invariants
//! - [`plan`] and [`plan_undo`] only read; only [`apply`] writes, and only files that are as the plan saw them
//! - nothing but the entries meant is touched: order, comments, spacing and unknown settings stay
//! - wrapping twice changes nothing; undo gives the file back byte for byte, or, if somebody changed it since, takes out
//!   only what is ours
//! - telemetry that goes somewhere else already is left alone: prompts must not start to go there because of us
//! - what is shown ([`FileChange::diff`]) holds no values of `env` and `headers`, nor what looks like a secret
//!
//! Not here: servers over HTTP (reported, not wrapped), managed or enterprise settings, project files of other folders.
//!
//! On disk, beside each file changed: `NAME.threadline-backup` (what was there before us) and `NAME.threadline-undo`
//! (JSON: version, SHA-256 of what we wrote, whether there was a file before, what we set). Both with mode 0600.

mod apply;
mod claude_code;
mod codex;
mod json_text;
mod show;
mod tap_command;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

pub use self::{apply::apply, tap_command::Destination};
use self::{
    apply::{Effect, State, read},
    claude_code::Part,
};

/// The agents whose configuration is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// Claude Code.
    ClaudeCode,
    /// OpenAI Codex.
    Codex,
}

impl Agent {
    /// As written on the command line.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::ClaudeCode, Self::Codex].into_iter().find(|agent| agent.name() == name)
    }

    /// As written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude-code",
            Self::Codex => "codex",
        }
    }
}

/// Where the agents keep their configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The user's home folder.
    pub home: PathBuf,
    /// `CLAUDE_CONFIG_DIR`.
    pub claude_config_dir: Option<PathBuf>,
    /// `CODEX_HOME`.
    pub codex_home: Option<PathBuf>,
    /// The project folder, for `.mcp.json`.
    pub project: PathBuf,
}

impl Places {
    /// From the environment and the current folder; `None` without a home folder.
    pub fn from_env() -> Option<Self> {
        let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Some(Self {
            home: folder("HOME")?,
            claude_config_dir: folder("CLAUDE_CONFIG_DIR"),
            codex_home: folder("CODEX_HOME"),
            project: std::env::current_dir().ok()?,
        })
    }
}

/// What the wrapped servers are to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrapOptions {
    /// This program, as the entries will name it.
    pub executable: PathBuf,
    /// Where taps record to.
    pub destination: Destination,
    /// Base URL of the OTLP/HTTP receiver, such as `http://127.0.0.1:4318`; `None` leaves telemetry alone.
    pub otlp_endpoint: Option<String>,
}

/// What would change.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The files that would change; empty when everything is as it should be.
    pub files: Vec<FileChange>,
    /// What was left alone, and why.
    pub notes: Vec<Note>,
}

/// The change of one file.
#[derive(Clone, Debug)]
pub struct FileChange {
    /// The file as the agent names it.
    pub path: PathBuf,
    /// What it holds now; `None` if it does not exist.
    pub before: Option<String>,
    /// What it would hold; `None` if it would be removed.
    pub after: Option<String>,
    effect: Effect,
}

impl FileChange {
    /// The change as a unified diff, fit for a terminal, without secrets.
    pub fn diff(&self) -> String {
        show::diff(&self.path, self.before.as_deref(), self.after.as_deref())
    }
}

/// Something left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The file it is in.
    pub path: PathBuf,
    /// The server or setting. From the file: escape before showing.
    pub name: String,
    /// Why.
    pub why: &'static str,
}

/// Why a server over HTTP is left as it is, and how to record it.
const TALKS_HTTP: &str = "talks HTTP, which a stdio tap does not see: not wrapped; run `threadline tap --server-name NAME --upstream URL --listen 127.0.0.1:PORT` and give the agent http://127.0.0.1:PORT with the path of URL";

impl Note {
    fn new(path: &Path, name: &str, why: &'static str) -> Self {
        Self { path: path.into(), name: name.into(), why }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = threadline_schemas::display::terminal(&self.name, threadline_schemas::display::Lines::Show);
        write!(formatter, "{}: {name} {}", self.path.display(), self.why)
    }
}

/// Why a configuration could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum WrapError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not what its name says.
    #[error("{} does not parse, line {line}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where.
        line: usize,
    },
    /// A file parses, but holds something else than the agent would read.
    #[error("{} does not have the expected shape", path.display())]
    Shape {
        /// Which.
        path: PathBuf,
    },
    /// A file changed between the plan and its application.
    #[error("{} has changed since it was read: plan again", path.display())]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// A path cannot be written into a configuration.
    #[error("{} is not unicode", path.display())]
    NotUnicode {
        /// Which.
        path: PathBuf,
    },
}

/// What wrapping `agent` would change.
pub fn plan(agent: Agent, places: &Places, options: &WrapOptions) -> Result<Plan, WrapError> {
    let mut plan = Plan::default();
    for file in files(agent, places) {
        let (before, mut state) = read(&file.path)?;
        if before.is_none() && !(file.holds_telemetry() && options.otlp_endpoint.is_some()) {
            continue;
        }
        let now = before.clone().unwrap_or_else(|| file.empty().into());
        file.check(&now)?;
        let is_as_written = state.as_ref().is_some_and(|state| before.as_deref().is_some_and(|now| state.wrote(now)));
        // What undo is to give back: the first backup while the file is as we left it, else the file without our entries.
        let original = match &state {
            Some(state) if is_as_written => state.original.clone(),
            Some(state) if before.is_some() => Some(file.unwrap(&now, state)?),
            _ => before.clone(),
        };
        let mut set = state.take().unwrap_or_default();
        let after = file.wrap(&now, options, &mut set, &mut plan.notes)?;
        if before.as_ref() != Some(&after) && (before.is_some() || after != file.empty()) {
            set.original = original;
            plan.files.push(FileChange { path: file.path, before, after: Some(after), effect: Effect::Wrap(set) });
        }
    }
    Ok(plan)
}

/// What taking our entries out of the configuration of `agent` would change.
pub fn plan_undo(agent: Agent, places: &Places) -> Result<Plan, WrapError> {
    let mut plan = Plan::default();
    for file in files(agent, places) {
        let (before, state) = read(&file.path)?;
        let after = match (&before, &state) {
            // Removed since by somebody: it stays so.
            (None, _) => None,
            (Some(now), Some(state)) if state.wrote(now) => state.original.clone(),
            (Some(now), _) => {
                file.check(now)?;
                Some(file.unwrap(now, &state.clone().unwrap_or_default())?)
            }
        };
        if before != after || state.is_some() {
            let made_folders = state.map(|state| state.made_folders()).unwrap_or_default();
            plan.files.push(FileChange { path: file.path, before, after, effect: Effect::Undo(made_folders) });
        }
    }
    Ok(plan)
}

/// A file and what it is.
struct File {
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    ClaudeCode(Part),
    Codex,
}

fn files(agent: Agent, places: &Places) -> Vec<File> {
    match agent {
        Agent::ClaudeCode => {
            let files = claude_code::files(places).into_iter();
            files.map(|(path, part)| File { path, kind: Kind::ClaudeCode(part) }).collect()
        }
        Agent::Codex => vec![File { path: codex::file(places), kind: Kind::Codex }],
    }
}

impl File {
    fn holds_telemetry(&self) -> bool {
        !matches!(self.kind, Kind::ClaudeCode(Part::Servers))
    }

    /// What stands for a file that does not exist.
    fn empty(&self) -> &'static str {
        match self.kind {
            Kind::ClaudeCode(_) => "{}\n",
            Kind::Codex => "",
        }
    }

    fn check(&self, text: &str) -> Result<(), WrapError> {
        match self.kind {
            Kind::ClaudeCode(_) => serde_json::from_str::<serde::de::IgnoredAny>(text)
                .map(drop)
                .map_err(|error| WrapError::Parse { path: self.path.clone(), line: error.line() }),
            // Its own functions parse it whole.
            Kind::Codex => Ok(()),
        }
    }

    fn wrap(
        &self,
        text: &str,
        options: &WrapOptions,
        state: &mut State,
        notes: &mut Vec<Note>,
    ) -> Result<String, WrapError> {
        match (&self.kind, &options.otlp_endpoint) {
            (Kind::ClaudeCode(Part::Servers), _) => claude_code::wrap_servers(&self.path, text, options, notes),
            (Kind::ClaudeCode(Part::Telemetry), Some(endpoint)) => {
                claude_code::set_telemetry(&self.path, text, endpoint, state, notes)
            }
            (Kind::ClaudeCode(Part::Telemetry), None) => Ok(text.into()),
            (Kind::Codex, _) => codex::wrap(&self.path, text, options, state, notes),
        }
    }

    fn unwrap(&self, text: &str, state: &State) -> Result<String, WrapError> {
        let original = state.original.as_deref().unwrap_or(self.empty());
        match self.kind {
            Kind::ClaudeCode(Part::Servers) => claude_code::unwrap_servers(&self.path, text, original),
            Kind::ClaudeCode(Part::Telemetry) => Ok(claude_code::unset_telemetry(text, original, state)),
            Kind::Codex => codex::unwrap(&self.path, text, original, state),
        }
    }
}

#[cfg(test)]
mod tests;
