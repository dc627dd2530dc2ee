//! `threadline export`: every record of a session, search or range into a file other tools read.
//!
//! The file appears under its name only when it is whole; the completeness statement goes to standard error.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use base64::Engine;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::client::{Client, Download};
use super::{EXIT_EMPTY, ExportArguments, ExportCommand, ExportFormat, output};

pub(crate) async fn run(command: ExportCommand) -> anyhow::Result<ExitCode> {
    let (question, arguments) = match command {
        ExportCommand::Session { id, arguments } => (vec![("session", id)], arguments),
        ExportCommand::Query { query, from, to, arguments } => {
            (given([("q", Some(query)), ("from", from), ("to", to)]), arguments)
        }
        ExportCommand::Range { from, to, arguments } => (given([("from", from), ("to", to)]), arguments),
    };
    export(question, arguments).await
}

fn given<const N: usize>(parameters: [(&'static str, Option<String>); N]) -> Vec<(&'static str, String)> {
    parameters.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))).collect()
}

async fn export(mut question: Vec<(&'static str, String)>, arguments: ExportArguments) -> anyhow::Result<ExitCode> {
    let is_terminal = arguments.output.is_none() && std::io::stdout().is_terminal();
    if is_terminal && arguments.format == ExportFormat::Parquet {
        bail!("Parquet is not written to a terminal; give -o PATH");
    }
    question.push(("format", arguments.format.as_str().into()));
    if arguments.format == ExportFormat::Ocsf {
        question.push(("ocsf_version", arguments.ocsf_version.clone()));
        question.push(("ocsf_text_bytes", arguments.ocsf_text_bytes.to_string()));
    }
    let client = Client::open(&arguments.place)?;
    let download = client.download("/api/v1/export", &question).await?;
    let records: u64 = download.header("threadline-records").and_then(|text| text.parse().ok()).unwrap_or(0);
    let statement =
        download.header("threadline-completeness").map(|text| base64::prelude::BASE64_STANDARD.decode(text));
    let statement: Option<Value> = statement.transpose()?.map(|bytes| serde_json::from_slice(&bytes)).transpose()?;
    match &arguments.output {
        Some(path) => to_file(download, path, records).await?,
        None => copy(download, &mut std::io::stdout().lock(), &ProgressBar::hidden()).await?,
    }
    if let Some(statement) = statement {
        output::talk(&format!("{records} records exported"));
        output::completeness(&serde_json::json!({ "completeness": statement }));
    }
    Ok(if records == 0 && arguments.fail_empty { ExitCode::from(EXIT_EMPTY) } else { ExitCode::SUCCESS })
}

async fn to_file(download: Download, path: &Path, records: u64) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().with_context(|| format!("{} is no file name", path.display()))?.to_string_lossy();
    let partial = folder.join(format!(".{name}.partial"));
    let bar = ProgressBar::new_spinner().with_message(format!("{records} records"));
    if let Ok(style) = ProgressStyle::with_template("{spinner} {bytes} of {msg}, {bytes_per_sec}, {elapsed}") {
        bar.set_style(style);
    }
    let mut file = std::fs::File::create(&partial).with_context(|| format!("cannot write {}", partial.display()))?;
    let written = copy(download, &mut file, &bar).await.and_then(|()| Ok(file.sync_all()?));
    bar.finish_and_clear();
    if let Err(error) = written.and_then(|()| Ok(std::fs::rename(&partial, path)?)) {
        // What is left of a broken export must not be taken for one.
        let _gone = std::fs::remove_file(&partial);
        return Err(error.context(format!("the export to {} did not finish; nothing was left there", path.display())));
    }
    Ok(())
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
