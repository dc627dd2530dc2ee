//! `threadline export`: every record of a session, search or range into a file or folder other tools read.
//!
//! Invariants
//! - a file or folder has its name only when it is whole and synced; whatever ends an export early, Ctrl-C included,
//!   leaves nothing under that name; a link is followed to its file, and a device or pipe is written to as it comes
//! - the completeness statement and where the export is recorded go to standard error

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use threadline_query::export::Progress;
use threadline_query::export::check::{self, Checked};

use super::client::{Client, Download};
use super::serve::stop_signal;
use super::{EXIT_EMPTY, EXIT_USAGE, ExportArguments, ExportCommand, ExportFormat, Usage, output};

mod unpack;

/// Ended by a signal.
const EXIT_INTERRUPTED: u8 = 130;

pub(crate) async fn run(command: ExportCommand) -> anyhow::Result<ExitCode> {
    let (question, arguments) = match command {
        ExportCommand::Verify { path } => return verify(&path),
        ExportCommand::Session { id, grade, as_known_at, arguments } => {
            (given([("session", Some(id)), ("grade", grade), ("as_known_at", as_known_at)]), arguments)
        }
        ExportCommand::Query { query, .. } if query.trim().is_empty() => {
            return Err(Usage("the query is empty; `export range` exports everything in a range of time".into()).into());
        }
        ExportCommand::Query { query, from, to, arguments } => {
            (given([("q", Some(query)), ("from", from), ("to", to)]), arguments)
        }
        ExportCommand::Range { from, to, access, arguments } => {
            (given([("from", from), ("to", to), ("access", access.then(|| "true".into()))]), arguments)
        }
    };
    let stopped = stop_signal();
    tokio::select! {
        exported = export(question, arguments) => exported,
        () = stopped => {
            output::talk("interrupted: nothing was left under the name of the export");
            Ok(ExitCode::from(EXIT_INTERRUPTED))
        }
    }
}

fn given<const N: usize>(parameters: [(&'static str, Option<String>); N]) -> Vec<(&'static str, String)> {
    parameters.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))).collect()
}

/// Whether a bundle is what was exported.
fn verify(path: &Path) -> anyhow::Result<ExitCode> {
    match check::check(path) {
        Ok(Checked::Whole { files, records, manifest_sha256 }) => {
            output::talk(&format!(
                "whole: {files} files and {records} records are as the manifest says\n  manifest SHA-256 {manifest_sha256}: compare it with the record that the export left in its store"
            ));
            Ok(ExitCode::SUCCESS)
        }
        Ok(Checked::Differs(what)) => {
            output::talk(&format!("differs: {what}"));
            Ok(ExitCode::from(1))
        }
        Err(error) => {
            output::talk(&format!("error: {error}\n  because: {}", error.source));
            Ok(ExitCode::from(EXIT_USAGE))
        }
    }
}

async fn export(mut question: Vec<(&'static str, String)>, arguments: ExportArguments) -> anyhow::Result<ExitCode> {
    let format = arguments.format;
    let is_terminal = arguments.output.is_none() && std::io::stdout().is_terminal();
    if is_terminal && matches!(format, ExportFormat::Parquet | ExportFormat::Bundle) {
        bail!("{} is not written to a terminal; give -o PATH", format.as_str());
    }
    let target = arguments.output.as_deref().map(|path| Target::of(path, format)).transpose()?;
    question.push(("format", format.as_str().into()));
    if matches!(format, ExportFormat::Ocsf | ExportFormat::Bundle) {
        question.push(("ocsf_version", arguments.ocsf_version.clone()));
        question.push(("ocsf_text_bytes", arguments.ocsf_text_bytes.to_string()));
    }
    let by = arguments.by.clone().or_else(|| Some(super::user()));
    question.extend(given([("by", by), ("reason", arguments.reason.clone())]));
    let client = Client::open_recording(&arguments.place, arguments.public_url.as_ref())?;
    let bar = if target.is_some() { spinner() } else { ProgressBar::hidden() };
    let download = prepared(&client, question, &bar).await;
    let download = match download {
        Ok(download) => download,
        Err(error) => {
            bar.finish_and_clear();
            return super::read::nothing(arguments.fail_empty, error);
        }
    };
    let records: u64 = download.header("threadline-records").and_then(|text| text.parse().ok()).unwrap_or(0);
    let access = download.header("threadline-access").unwrap_or("not recorded: the server does not say").to_string();
    let sha256 = download.header("threadline-sha256").map(str::to_string);
    let statement =
        download.header("threadline-completeness").map(|text| base64::prelude::BASE64_STANDARD.decode(text));
    let statement: Option<Value> = statement.transpose()?.map(|bytes| serde_json::from_slice(&bytes)).transpose()?;
    template(&bar, "{spinner} {bytes} of {msg}, {bytes_per_sec}, {elapsed}");
    bar.set_message(format!("{records} records"));
    let written = match &target {
        Some(target) => target.write(download, &bar).await,
        None => copy(download, &mut std::io::stdout().lock(), &bar).await,
    };
    bar.finish_and_clear();
    written?;
    let place = target.as_ref().map(Target::said).unwrap_or_default();
    output::talk(&format!("{records} records exported{place}"));
    if let Some(sha256) = sha256 {
        let what = if format == ExportFormat::Bundle { "manifest" } else { "report" };
        output::talk(&format!("  {what} SHA-256 {sha256}"));
    }
    output::talk(&match access.strip_prefix("not recorded: ") {
        Some(why) => format!("  NOT RECORDED as an access: {why}"),
        None => format!("  recorded as access {access}"),
    });
    if let Some(statement) = statement {
        output::completeness(&serde_json::json!({ "completeness": statement }));
    }
    Ok(if records == 0 && arguments.fail_empty { ExitCode::from(EXIT_EMPTY) } else { ExitCode::SUCCESS })
}

/// Asks for the export; the bar shows how far its preparation is until the first byte comes.
async fn prepared(
    client: &Client,
    mut question: Vec<(&'static str, String)>,
    bar: &ProgressBar,
) -> anyhow::Result<Download> {
    let name = uuid::Uuid::new_v4().simple().to_string();
    let named = [("of", name.clone())];
    question.push(("progress", name));
    let mut download = std::pin::pin!(client.download("/api/v1/export", &question));
    loop {
        tokio::select! {
            download = &mut download => return download,
            () = tokio::time::sleep(TICK), if !bar.is_hidden() => {}
        }
        // A server that does not tell, or tells no more, leaves what was said.
        let asked = client.get("/api/v1/export/progress", &named);
        let told = tokio::select! {
            download = &mut download => return download,
            told = asked => told.ok(),
        };
        if let Some(told) = told.and_then(|told| serde_json::from_value::<Progress>(told).ok()) {
            bar.set_prefix(shown(&told));
        }
    }
}

/// How far the preparation is, in words.
fn shown(progress: &Progress) -> String {
    let Progress { stage, done, of } = progress;
    match (stage.as_str(), of) {
        ("choosing", _) => "choosing records".into(),
        ("waiting", _) => "waiting for another export".into(),
        ("records", _) => format!("preparing: {done} of {of} records"),
        ("sessions", 0) => "preparing: links".into(),
        ("sessions", _) => format!("preparing: links of {done} of {of} sessions"),
        _ => "preparing: report".into(),
    }
}

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(250);

/// Seen on a terminal only.
fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    template(&bar, "{spinner} {prefix}, {elapsed}");
    bar.set_prefix("choosing records");
    bar.enable_steady_tick(TICK);
    bar
}

fn template(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

/// Where an export goes.
enum Target {
    File {
        path: PathBuf,
        is_bundle: bool,
    },
    /// A device, pipe or socket: it is there already and stays what it is.
    Stream(PathBuf),
    Folder(PathBuf),
}

impl Target {
    /// Where it went, in words.
    fn said(&self) -> String {
        match self {
            Target::Folder(path) => format!(" into the folder {}", path.display()),
            Target::File { path, is_bundle: true } => {
                format!(" to {}, a tar archive (a path that ends in / becomes a folder)", path.display())
            }
            Target::File { path, is_bundle: false } | Target::Stream(path) => format!(" to {}", path.display()),
        }
    }

    /// A bundle goes into a folder when the path is one or ends in `/`.
    fn of(path: &Path, format: ExportFormat) -> anyhow::Result<Target> {
        let is_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/") || path.is_dir();
        if !is_folder {
            // Renaming over a link or device would put a file in its place.
            let is_stream = std::fs::metadata(path).is_ok_and(|there| !there.is_file());
            if is_stream {
                return Ok(Target::Stream(path.to_path_buf()));
            }
            let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
            return Ok(Target::File { path, is_bundle: format == ExportFormat::Bundle });
        }
        if format != ExportFormat::Bundle {
            return Err(Usage(format!("{} is a folder; only a bundle is written as one", path.display())).into());
        }
        let is_empty = |path: &Path| std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        if path.exists() && !is_empty(path) {
            return Err(Usage(format!("{} is not empty: a bundle gets a folder of its own", path.display())).into());
        }
        Ok(Target::Folder(path.components().collect()))
    }

    fn path(&self) -> &Path {
        match self {
            Target::File { path, .. } | Target::Folder(path) | Target::Stream(path) => path,
        }
    }

    async fn write(&self, download: Download, bar: &ProgressBar) -> anyhow::Result<()> {
        let path = self.path();
        if let Target::Stream(path) = self {
            let stream = std::fs::OpenOptions::new().write(true).open(path);
            let mut stream = stream.with_context(|| format!("cannot write {}", path.display()))?;
            return copy(download, &mut stream, bar).await;
        }
        let partial = Partial::of(path)?;
        let written = match self {
            Target::File { is_bundle, .. } => partial.file(download, *is_bundle, bar).await,
            Target::Folder(_) | Target::Stream(_) => unpack::to(download, &partial.path, bar).await,
        };
        let written = written.and_then(|()| partial.become_whole(path));
        written.with_context(|| format!("the export to {} did not finish; nothing was left there", path.display()))
    }
}

/// The unfinished thing beside the place where it will be; gone when this is dropped.
struct Partial {
    path: PathBuf,
    folder: PathBuf,
}

impl Partial {
    fn of(path: &Path) -> anyhow::Result<Partial> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().with_context(|| format!("{} is no file name", path.display()))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.partial", std::process::id()));
        Ok(Partial { path: folder.join(hidden), folder: folder.to_path_buf() })
    }

    async fn file(&self, download: Download, is_bundle: bool, bar: &ProgressBar) -> anyhow::Result<()> {
        let path = &self.path;
        let mut file = std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        copy(download, &mut file, bar).await?;
        file.sync_all()?;
        if is_bundle { whole(path) } else { Ok(()) }
    }

    fn become_whole(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::rename(&self.path, path)?;
        Ok(std::fs::File::open(&self.folder)?.sync_all()?)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Nothing is there any more when it has become whole.
        let _gone = std::fs::remove_file(&self.path).or_else(|_| std::fs::remove_dir_all(&self.path));
    }
}

/// What arrived is what was sent.
fn whole(path: &Path) -> anyhow::Result<()> {
    match check::check(path)? {
        Checked::Whole { .. } => Ok(()),
        Checked::Differs(what) => bail!("what arrived is no whole bundle: {what}"),
    }
}

async fn copy(mut download: Download, to: &mut impl Write, bar: &ProgressBar) -> anyhow::Result<()> {
    while let Some(bytes) = download.next().await? {
        bar.inc(bytes.len() as u64);
        match to.write_all(&bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.context("cannot write the export")?,
        }
    }
    Ok(to.flush()?)
}
