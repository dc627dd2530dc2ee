//! The command line: what can be typed, and which file answers it.
//!
//! Invariants
//! - data goes to standard output, talk to standard error
//! - untrusted text reaches a terminal or CSV only through `threadline_schemas::display`
//! - exit codes: 0 ok, 1 failure, 2 usage, 3 nothing found with `--fail-empty`, 7 server unavailable;
//!   `tap` passes its command's code through
//!
//! Not here: what a command does (one file each below).

mod access;
mod client;
mod demo;
mod doctor;
mod export;
mod forward;
mod guard;
mod import;
mod kafka;
mod output;
mod proxy;
mod read;
mod record;
mod relink;
mod serve;
mod source;
mod sources;
mod token;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use threadline_schemas::ocsf::Version;

/// Nothing was found and `--fail-empty` was given.
pub(crate) const EXIT_EMPTY: u8 = 3;
/// What was typed is not understood; clap's own code.
const EXIT_USAGE: u8 = 2;
/// The server could not be reached.
pub(crate) const EXIT_UNAVAILABLE: u8 = 7;

/// Something typed that is not one of the values which are known.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Follow the thread of an AI agent's action: from the prompt that caused it to the effect it had.
#[derive(Debug, Parser)]
#[command(name = "threadline", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Arguments {
    /// Say more about what is going on (twice: everything). Never prints content.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load a small recorded estate with an incident, start the server, ask three questions
    Demo(DemoArguments),
    /// Run the server: collectors, store, API and pages in one process
    Serve(ServeArguments),
    /// Record an MCP server: over stdio (-- CMD ARGS...) or over HTTP (--upstream URL)
    Tap(TapArguments),
    /// Show or make the change that puts a tap before each MCP server of an agent
    Wrap(WrapArguments),
    /// Follow growing transcript files
    Watch(WatchArguments),
    /// Load files or folders: transcripts, MCP captures, OTLP bodies, logs by their profile, native events
    Import(ImportArguments),
    /// Read Kafka topics as a member of a consumer group
    Kafka(KafkaArguments),
    /// Profiles: how logs of gateways, servers and databases are read
    #[command(subcommand)]
    Source(SourceCommand),
    /// Judge again which records belong together; earlier opinions stay
    Relink(RelinkArguments),
    /// List sessions, or show one from any id
    #[command(subcommand)]
    Session(SessionCommand),
    /// Show one record, or write its exact bytes
    #[command(subcommand)]
    Event(EventCommand),
    /// Find records by words, paths, URLs, phrases
    Search(SearchArguments),
    /// Read-only SQL over the tables `records` and `links`
    Sql(SqlArguments),
    /// Where every record belongs: session, turn, call, parent, with grade and evidence
    Links(LinksArguments),
    /// Who sends, how much, how late, and who has fallen silent
    Sources(SourcesArguments),
    /// Tokens of collectors that send to this server from elsewhere
    #[command(subcommand)]
    Token(TokenCommand),
    /// Write every record of a session, search or time range: NDJSON, CSV, Parquet, OCSF, report, evidence bundle
    #[command(subcommand)]
    Export(ExportCommand),
    /// Send what is recorded to a SIEM as OCSF events
    #[command(subcommand)]
    Forward(ForwardCommand),
    /// Check data directory, disk, clock, ports and table; say the next step
    Doctor(DoctorArguments),
    /// Answer one SQL query for a server (started by it)
    #[command(hide = true)]
    SqlWorker {
        /// Data directory to read
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
    },
    /// Print a completion script
    Completions {
        /// Shell to write for
        shell: clap_complete::Shell,
    },
}

/// Where to read: a data directory or a running server.
#[derive(Debug, Clone, Args)]
pub(crate) struct Place {
    /// Data directory to read (works beside a running server)
    #[arg(long, env = "THREADLINE_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Server to ask, e.g. http://127.0.0.1:7700; goes before --data
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// File with the bearer token for --url
    #[arg(long, env = "THREADLINE_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Certificate authority (PEM) to trust for --url
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

/// Where to record: a data directory, or a server elsewhere.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Sink {
    /// Data directory to record into (beside a running server or without one)
    #[arg(long, env = "THREADLINE_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Server to send to instead, e.g. https://threadline.example:7700; what it cannot take yet is kept
    /// on disk and sent later, also by the next command that sends there
    #[arg(long, value_name = "URL")]
    pub(crate) to: Option<String>,
    /// File with the bearer token for --to; without it THREADLINE_TOKEN is used, if set
    #[arg(long, env = "THREADLINE_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Certificate authority (PEM) to trust for --to, beside the public ones
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Where to keep what waits for --to; default: $XDG_STATE_HOME/threadline
    #[arg(long, env = "THREADLINE_STATE", value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

/// How to print.
#[derive(Debug, Clone, Args)]
pub(crate) struct Printing {
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,
    /// Exit with 3 when nothing was found
    #[arg(long)]
    pub(crate) fail_empty: bool,
}

/// What `--format` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// The whole answer with its completeness statement
    Json,
    /// One object per line; the completeness statement goes to standard error
    Ndjson,
    /// Formula-safe CSV; the completeness statement goes to standard error
    Csv,
}

#[derive(Debug, Args)]
pub(crate) struct RelinkArguments {
    /// Data directory
    #[arg(long, env = "THREADLINE_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Event time from which on to judge, e.g. 2026-03-02T08:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Event time up to which to judge
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:7700", value_name = "ADDR")]
    pub(crate) listen: std::net::SocketAddr,
    /// Keep the data here instead of a temporary directory
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Load and print, but do not keep the server running
    #[arg(long)]
    pub(crate) no_serve: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ServeArguments {
    /// Data directory; made when absent (mode 0700)
    #[arg(long, env = "THREADLINE_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// API and pages
    #[arg(long, default_value = "127.0.0.1:7700", value_name = "ADDR")]
    pub(crate) listen: std::net::SocketAddr,
    /// OTLP over HTTP (/v1/logs, /v1/traces, /v1/metrics); also served on --listen
    #[arg(long, default_value = "127.0.0.1:4318", value_name = "ADDR")]
    pub(crate) otlp_http: std::net::SocketAddr,
    /// OTLP over gRPC; each of the three addresses takes both forms
    #[arg(long, default_value = "127.0.0.1:4317", value_name = "ADDR")]
    pub(crate) otlp_grpc: std::net::SocketAddr,
    /// What OTLP receivers leave out and only count (TOML); default: the list that ships
    #[arg(long, env = "THREADLINE_OTLP_DROP", value_name = "FILE")]
    pub(crate) otlp_drop: Option<PathBuf>,
    /// Certificate chain (PEM); needed for an address beyond loopback
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// File with the bearer token that every request must bear; needed beyond loopback.
    /// Browsers may give it as the password of HTTP Basic
    #[arg(long, env = "THREADLINE_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Where people reach the pages, for the link back to the session in OCSF events
    #[arg(long, env = "THREADLINE_PUBLIC_URL", value_name = "URL", value_parser = public_url)]
    pub(crate) public_url: Option<String>,
    /// Forward to a SIEM, too, as `threadline forward run --config FILE` does
    #[arg(long, value_name = "FILE")]
    pub(crate) forward: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TapArguments {
    #[command(flatten)]
    pub(crate) sink: Sink,
    /// Name of the server, as the agent's configuration has it
    #[arg(long, value_name = "NAME")]
    pub(crate) server_name: String,
    /// What to do when recording fails
    #[arg(long, value_enum, default_value_t = OnRecordFailure::Warn)]
    pub(crate) on_record_failure: OnRecordFailure,
    #[command(flatten)]
    pub(crate) proxy: proxy::ProxyArguments,
    /// The server to start, with its arguments
    #[arg(last = true, required_unless_present = "upstream", value_name = "CMD")]
    pub(crate) command: Vec<std::ffi::OsString>,
}

/// `--on-record-failure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnRecordFailure {
    /// Traffic goes on; what was missed becomes a gap record
    Warn,
    /// Traffic waits until it can be recorded
    Block,
}

#[derive(Debug, Args)]
pub(crate) struct WrapArguments {
    /// Agent whose configuration to change
    #[arg(value_enum)]
    pub(crate) agent: Agent,
    /// Make the change; without this it is only shown
    #[arg(long)]
    pub(crate) write: bool,
    /// Take the change back
    #[arg(long)]
    pub(crate) undo: bool,
    /// Data directory the taps record into
    #[arg(long, env = "THREADLINE_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Where the agent sends its OTLP telemetry
    #[arg(long, default_value = "http://127.0.0.1:4318", value_name = "URL")]
    pub(crate) otlp: String,
    /// Project folder whose .mcp.json is wrapped too
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub(crate) project: PathBuf,
}

/// Agents that `wrap` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Agent {
    /// Claude Code
    ClaudeCode,
    /// OpenAI Codex CLI
    Codex,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArguments {
    #[command(flatten)]
    pub(crate) sink: Sink,
    /// Files or folders; default: the transcript folders of Claude Code and Codex
    #[arg(value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Read what is there and stop
    #[arg(long)]
    pub(crate) once: bool,
    /// Kind of the files: a built-in one or a profile (see `source list`); auto looks at each
    #[arg(long = "as", default_value = "auto", value_name = "NAME")]
    pub(crate) kind: String,
    /// Profile to know besides those shipped and those in DIR/sources; may be given several times
    #[arg(long, value_name = "FILE")]
    pub(crate) profile: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct KafkaArguments {
    #[command(flatten)]
    pub(crate) sink: Sink,
    /// Brokers, group and topics (TOML); an example with every member: ingest/src/kafka/example.toml
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Profile to know besides those shipped and those in DIR/sources; may be given several times
    #[arg(long, value_name = "FILE")]
    pub(crate) profile: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    #[command(flatten)]
    pub(crate) sink: Sink,
    /// Kind of the files: a built-in one or a profile (see `source list`); auto looks at each
    #[arg(long = "as", default_value = "auto", value_name = "NAME")]
    pub(crate) kind: String,
    /// Profile to know besides those shipped and those in DIR/sources; may be given several times
    #[arg(long, value_name = "FILE")]
    pub(crate) profile: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) printing: Printing,
    /// Files or folders (recursive; .gz and .zst are read through)
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SourceCommand {
    /// List the profiles
    List(SourceListArguments),
    /// Print the text of a profile
    Show(SourceShowArguments),
    /// Show field by field what a profile makes of each line of a file
    Test(SourceTestArguments),
}

#[derive(Debug, Args)]
pub(crate) struct SourceListArguments {
    /// Data directory whose own profiles (DIR/sources/*.toml) count too
    #[arg(long, env = "THREADLINE_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Profile to know besides; may be given several times
    #[arg(long, value_name = "FILE")]
    pub(crate) profile: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct SourceShowArguments {
    /// Name of a profile, or a file that ends in .toml
    pub(crate) name: String,
    /// Data directory whose own profiles (DIR/sources/*.toml) count too
    #[arg(long, env = "THREADLINE_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SourceTestArguments {
    /// Name of a profile, or a file that ends in .toml
    pub(crate) profile: String,
    /// File with lines (.gz and .zst are read through)
    pub(crate) file: PathBuf,
    /// Data directory whose own profiles (DIR/sources/*.toml) count too
    #[arg(long, env = "THREADLINE_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Show this many records (0: all); the summary counts the whole file
    #[arg(long, default_value_t = 20)]
    pub(crate) lines: u64,
}

#[derive(Debug, Subcommand)]
enum SessionCommand {
    /// List sessions, newest first
    List(SessionListArguments),
    /// Reconstruct one session from any id: session, conversation, trace, tool call, event ...
    Show(SessionShowArguments),
}

#[derive(Debug, Args)]
pub(crate) struct SessionListArguments {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) printing: Printing,
    /// Only sessions of this user
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// Only sessions of this agent
    #[arg(long)]
    pub(crate) agent: Option<String>,
    /// Only sessions that chose or called this tool
    #[arg(long)]
    pub(crate) tool: Option<String>,
    /// Only sessions with this MCP server
    #[arg(long)]
    pub(crate) server: Option<String>,
    /// Only sessions with a call that ended so
    #[arg(long, value_parser = ["ok", "error", "denied", "cancelled", "input_required"])]
    pub(crate) outcome: Option<String>,
    /// Only sessions with an event at or after (RFC 3339)
    #[arg(long)]
    pub(crate) from: Option<String>,
    /// Only sessions with an event before (RFC 3339)
    #[arg(long)]
    pub(crate) to: Option<String>,
    /// Also connections and traces without prompt, choice or call
    #[arg(long)]
    pub(crate) all: bool,
    /// Sessions at most (0: all)
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: usize,
}

#[derive(Debug, Args)]
pub(crate) struct SessionShowArguments {
    /// Any id: session, conversation, trace, tool call, request, event
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) printing: Printing,
    /// Only what links of this grade, or stronger, hold together; the rest is left out and counted
    #[arg(long, value_parser = ["proven", "matched", "claimed", "inferred"], value_name = "GRADE")]
    pub(crate) grade: Option<String>,
    /// As it was known at this moment, e.g. 2026-03-02T08:00:00Z or 2026-03-02 (its first moment, UTC): what was received or
    /// judged later is left out
    #[arg(long, value_name = "TIME")]
    pub(crate) as_known_at: Option<String>,
}

#[derive(Debug, Subcommand)]
enum EventCommand {
    /// Show one record with its links
    Show(EventArguments),
    /// Write the exact bytes received (to a file or pipe, never to a terminal)
    Raw(EventArguments),
}

#[derive(Debug, Args)]
pub(crate) struct EventArguments {
    /// Event id
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct SearchArguments {
    /// Words (all must occur) and "quoted phrases"
    pub(crate) query: String,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) printing: Printing,
    /// Only events at or after (RFC 3339)
    #[arg(long)]
    pub(crate) from: Option<String>,
    /// Only events before (RFC 3339)
    #[arg(long)]
    pub(crate) to: Option<String>,
    /// Hits at most (0: all)
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: usize,
}

#[derive(Debug, Args)]
pub(crate) struct SqlArguments {
    /// One SELECT statement over the tables `records` and `links`
    pub(crate) query: String,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct LinksArguments {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) printing: Printing,
    /// Only this session (any id)
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// Each piece of evidence for where this event stands, and the rivals it beat
    #[arg(long, value_name = "EVENT", conflicts_with = "session")]
    pub(crate) explain: Option<String>,
    /// What correlation found beside links: ids that stopped joining, servers that say nothing
    #[arg(long, conflicts_with_all = ["session", "explain"])]
    pub(crate) findings: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExportCommand {
    /// Every record of a session, from any id
    Session {
        /// Any id: session, conversation, trace, tool call, request, event
        id: String,
        /// Only what links of this grade, or stronger, hold together; the rest is left out and counted
        #[arg(long, value_parser = ["proven", "matched", "claimed", "inferred"], value_name = "GRADE")]
        grade: Option<String>,
        /// As it was known at this moment, e.g. 2026-03-02T08:00:00Z or 2026-03-02 (its first moment, UTC): what was received or
        /// judged later is left out
        #[arg(long, value_name = "TIME")]
        as_known_at: Option<String>,
        #[command(flatten)]
        arguments: ExportArguments,
    },
    /// Every record with these words
    Query {
        /// Words (all must occur) and "quoted phrases"
        query: String,
        /// Only events at or after (RFC 3339)
        #[arg(long)]
        from: Option<String>,
        /// Only events before (RFC 3339)
        #[arg(long)]
        to: Option<String>,
        #[command(flatten)]
        arguments: ExportArguments,
    },
    /// Every record of a time range; without --from and --to everything
    Range {
        /// Events at or after (RFC 3339)
        #[arg(long)]
        from: Option<String>,
        /// Events before (RFC 3339)
        #[arg(long)]
        to: Option<String>,
        /// Also the records of who read this store
        #[arg(long)]
        access: bool,
        #[command(flatten)]
        arguments: ExportArguments,
    },
    /// Check a bundle, as a folder or tar, without a store: 0 whole, 1 the first difference is named, 2 not readable
    Verify {
        /// Folder or tar
        path: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Form of the export
    #[arg(long, value_enum, default_value_t = ExportFormat::Ndjson)]
    pub(crate) format: ExportFormat,
    /// OCSF version
    #[arg(long, default_value = Version::NEWEST.as_str(), value_name = "V", value_parser = PossibleValuesParser::new(Version::ALL.iter().map(|v| v.as_str())))]
    pub(crate) ocsf_version: String,
    /// Bytes of content an OCSF event may hold as text; 0: digests and lengths only
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    pub(crate) ocsf_text_bytes: usize,
    /// Write to this file instead of standard output; a bundle to a folder when it ends in /
    #[arg(short, long, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,
    /// Who exports; kept in the record of this access. Default: the user of this machine
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<String>,
    /// Why; kept there too
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Where the pages are, for the link back to the session in OCSF events; with --url the server decides
    #[arg(long, env = "THREADLINE_PUBLIC_URL", value_name = "URL", value_parser = public_url)]
    pub(crate) public_url: Option<String>,
    /// Exit with 3 when nothing was found
    #[arg(long)]
    pub(crate) fail_empty: bool,
}

/// An address of pages: http or https, without query or fragment, without user.
fn public_url(text: &str) -> Result<String, String> {
    let parsed = url::Url::parse(text).map_err(|error| error.to_string())?;
    let is_web = matches!(parsed.scheme(), "http" | "https") && parsed.has_host();
    let is_bare = parsed.query().is_none() && parsed.fragment().is_none() && parsed.username().is_empty();
    if is_web && is_bare {
        Ok(parsed.to_string())
    } else {
        Err("expected something like https://threadline.example".into())
    }
}

/// `--format` of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// One record per line as JSON
    Ndjson,
    /// Formula-safe CSV
    Csv,
    /// One Parquet file
    Parquet,
    /// One OCSF event per line
    Ocsf,
    /// A report to read and print, one page without scripts
    Html,
    /// Evidence to hand over: records in every form, links, gaps, raw bytes, report, manifest (tar or folder)
    Bundle,
}

impl ExportFormat {
    /// Its name in the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ExportFormat::Ndjson => "ndjson",
            ExportFormat::Csv => "csv",
            ExportFormat::Parquet => "parquet",
            ExportFormat::Ocsf => "ocsf",
            ExportFormat::Html => "html",
            ExportFormat::Bundle => "bundle",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ForwardCommand {
    /// Forward until stopped, beside a running server or without one
    Run(ForwardRunArguments),
    /// Say for each sink how far it is, what it counted, and what is wrong
    Status(ForwardStatusArguments),
    /// Send dead letters, or a range of commits, again
    Replay(ForwardReplayArguments),
    /// Check a configuration: sample events of every kind as each sink would get them, validated
    Test(ForwardTestArguments),
}

#[derive(Debug, Args)]
pub(crate) struct ForwardRunArguments {
    /// Configuration (TOML): which events go where
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Data directory to forward from
    #[arg(long, env = "THREADLINE_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ForwardStatusArguments {
    /// Data directory that is forwarded from
    #[arg(long, env = "THREADLINE_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// List the newest dead letters instead, 100 of each sink at most
    #[arg(long)]
    pub(crate) dead_letters: bool,
    /// Configuration; not needed, because the state tells its sinks
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct ForwardReplayArguments {
    /// Configuration (TOML): which events go where
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Data directory to forward from
    #[arg(long, env = "THREADLINE_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Sink to send to
    #[arg(long, value_name = "NAME")]
    pub(crate) sink: String,
    /// Send the dead letters
    #[arg(long, required_unless_present = "from_version", conflicts_with = "from_version")]
    pub(crate) dead_letters: bool,
    /// Send the commits of `records` from this version on (`forward status` names versions, so does every answer)
    #[arg(long, value_name = "VERSION")]
    pub(crate) from_version: Option<i64>,
    /// ... up to this one
    #[arg(long, value_name = "VERSION", requires = "from_version")]
    pub(crate) to_version: Option<i64>,
}

#[derive(Debug, Args)]
pub(crate) struct ForwardTestArguments {
    /// Configuration (TOML): which events go where
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Deliver one sample to each sink, too
    #[arg(long)]
    pub(crate) send: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct SourcesArguments {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) printing: Printing,
    /// Only those that have fallen silent: quiet for more than ten times their usual interval, and a minute at least
    #[arg(long)]
    pub(crate) silent: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token that may send records and read nothing; it is shown once and kept as a hash
    Add(TokenArguments),
    /// List the tokens (names, not the tokens)
    List {
        /// Data directory of the server
        #[arg(long, env = "THREADLINE_DATA", value_name = "DIR")]
        data: Option<PathBuf>,
        #[command(flatten)]
        printing: Printing,
    },
    /// Take a token back; counts at once
    Revoke(TokenArguments),
}

#[derive(Debug, Args)]
pub(crate) struct TokenArguments {
    /// Name of the token, such as the machine it is for
    pub(crate) name: String,
    /// Data directory of the server
    #[arg(long, env = "THREADLINE_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

/// Runs the command.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Demo(arguments) => demo::run(arguments).await,
        Command::Serve(arguments) => serve::run(arguments).await,
        Command::Tap(arguments) if arguments.proxy.upstream.is_some() => proxy::run(arguments).await,
        Command::Tap(arguments) => record::tap(arguments).await,
        Command::Wrap(arguments) => record::wrap(arguments),
        Command::Watch(arguments) => record::watch(arguments).await,
        Command::Relink(arguments) => relink::run(arguments).await,
        Command::Import(arguments) => import::run(arguments).await,
        Command::Kafka(arguments) => kafka::run(arguments).await,
        Command::Source(command) => source::run(command),
        Command::Session(SessionCommand::List(arguments)) => read::session_list(arguments).await,
        Command::Session(SessionCommand::Show(arguments)) => read::session_show(arguments).await,
        Command::Event(EventCommand::Show(arguments)) => read::event_show(arguments).await,
        Command::Event(EventCommand::Raw(arguments)) => read::event_raw(arguments).await,
        Command::Search(arguments) => read::search(arguments).await,
        Command::Sql(arguments) => read::sql(arguments).await,
        Command::Links(arguments) => read::links(arguments).await,
        Command::Sources(arguments) => sources::run(arguments).await,
        Command::Token(command) => token::run(command),
        Command::Export(command) => export::run(command).await,
        Command::Forward(command) => forward::run(command).await,
        Command::Doctor(arguments) => doctor::run(arguments).await,
        Command::SqlWorker { data } => {
            Ok(tokio::task::spawn_blocking(move || threadline_query::sql::worker::serve(&data)).await?)
        }
        Command::Completions { shell } => {
            let mut command = <Arguments as clap::CommandFactory>::command();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "threadline", &mut script);
            output::write(None, &script)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Sends our own log to standard error: warnings by default, never content.
pub(crate) fn logging(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "threadline=info,threadline_ingest=info,threadline_store=info,threadline_query=info,warn",
        _ => "threadline=debug,threadline_ingest=debug,threadline_store=debug,threadline_query=debug,info",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("THREADLINE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// Prints an error with its causes, and gives the exit code.
pub(crate) fn failed(error: &anyhow::Error) -> ExitCode {
    let mut text = String::new();
    for (index, cause) in error.chain().enumerate() {
        text.push_str(if index == 0 { "error: " } else { "\n  because: " });
        text.push_str(&cause.to_string());
    }
    output::talk(&text);
    let refused_usage = error.downcast_ref::<client::Refused>().is_some_and(client::Refused::is_usage);
    ExitCode::from(match () {
        () if error.downcast_ref::<client::Unavailable>().is_some() => EXIT_UNAVAILABLE,
        () if refused_usage || error.downcast_ref::<Usage>().is_some() => EXIT_USAGE,
        () => 1,
    })
}

/// The engine that answers over `data`: SQL runs in a process of its own, this program again. Exports and reads are recorded in
/// `access_log`; `base_url` is where the pages are.
pub(crate) fn engine(
    reader: threadline_store::Reader,
    data: &std::path::Path,
    access_log: Option<std::sync::Arc<dyn threadline_query::AccessLog>>,
    base_url: Option<String>,
) -> anyhow::Result<threadline_query::Engine> {
    // The link stays good when the program is replaced while it runs.
    let own = PathBuf::from("/proc/self/exe");
    let path = if own.exists() { own } else { std::env::current_exe()? };
    let arguments = vec!["sql-worker".into(), "--data".into(), std::path::absolute(data)?.into_os_string()];
    // Memory is taken from the system as it is needed and counts against the limit then. From an arena mimalloc 2.3 hands
    // out memory that the limit has refused, and whoever writes to it dies of SIGSEGV instead of an allocation that failed.
    let environment =
        vec![("MIMALLOC_DISALLOW_ARENA_ALLOC".into(), "1".into()), ("MIMALLOC_EAGER_COMMIT".into(), "0".into())];
    let sql_worker = Some(threadline_query::sql::worker::Program { path, arguments, environment });
    let config = threadline_query::EngineConfig {
        sql_worker,
        access_log,
        base_url,
        ..threadline_query::EngineConfig::default()
    };
    Ok(threadline_query::Engine::new(reader, config))
}

/// Who runs the program, as the environment says; a service has none there, then by number.
pub(crate) fn user() -> String {
    let named = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|name| !name.is_empty()));
    named.unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()))
}

/// The data directory: as given, or `$XDG_DATA_HOME/threadline` (`~/.local/share/threadline`).
pub(crate) fn data_directory(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(directory) = given {
        return Ok(directory);
    }
    let base = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")));
    base.map(|base| base.join("threadline"))
        .ok_or_else(|| anyhow::anyhow!("no data directory: give --data DIR or set THREADLINE_DATA"))
}

/// Where what waits for servers elsewhere is kept: as given, or `$XDG_STATE_HOME/threadline` (`~/.local/state/threadline`).
/// Apart from the data directory, which is none of a collector's.
pub(crate) fn state_directory(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(directory) = given {
        return Ok(directory);
    }
    let base = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")));
    base.map(|base| base.join("threadline"))
        .ok_or_else(|| anyhow::anyhow!("no place to keep what is to be sent: give --state DIR or set THREADLINE_STATE"))
}
