//! `threadline import`: files and folders into a data directory.

use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use threadline_ingest::import::{Import, Options, Progress, Report};
use threadline_schemas::Collector;
use threadline_schemas::decode::profile::Catalogue;
use threadline_schemas::decode::recognise::Format;
use threadline_schemas::display::{self, Lines};

use super::output::{self, Column};
use super::record::{Ending, Recording, exit_code, known};
use super::{ImportArguments, Usage, data_directory};

const COLUMNS: &[Column] = &[
    ("FILE", "path"),
    ("KIND", "format"),
    ("LINES", "lines"),
    ("RECORDS", "records"),
    ("REJECTED", "rejected"),
    ("DUPLICATES", "duplicates"),
    ("CONFLICTS", "conflicts"),
    ("NOTE", "note"),
];

/// Loads the paths and says per file what became of it. Exit code 1 when a file could not be read.
pub(crate) async fn run(arguments: ImportArguments) -> anyhow::Result<ExitCode> {
    let directory = data_directory(arguments.sink.data.clone())?;
    let catalogue = super::source::catalogue(&directory, &arguments.profile)?;
    let options = options(&arguments.kind, catalogue)?;
    let recording = Recording::to(&arguments.sink, Collector::Import, "import").await?;
    let before = match recording.reader() {
        Some(reader) => Some((reader.snapshot().await?, reader)),
        None => None,
    };
    let report = load(&recording, &arguments.paths, options).await;
    // A server that holds the directory correlates by itself.
    let correlated = match before {
        Some((before, reader)) if report.is_ok() => super::relink::after_import(&reader, &before).await,
        _ => Ok(None),
    };
    let ending = recording.close().await?;
    let report = report?;
    let rows = rows(&report, ending);
    let answer = serde_json::json!({ "data": rows });
    output::rows(&arguments.printing, &answer, &rows, COLUMNS)?;
    output::talk(&total(&report, ending));
    if let Some(said) = correlated? {
        output::talk(&said);
    }
    Ok(if report.failed_files() > 0 { ExitCode::FAILURE } else { exit_code(ending) })
}

/// The kind that `--as` names; a wrong one is answered with those there are.
fn options(kind: &str, catalogue: std::sync::Arc<Catalogue>) -> anyhow::Result<Options> {
    let known = || {
        let built_in = Format::BUILT_IN.iter().map(|format| format.as_str().to_string());
        let profiles = catalogue.profiles().iter().map(|profile| profile.name().to_string());
        std::iter::once("auto".to_string()).chain(built_in).chain(profiles).collect::<Vec<_>>().join(", ")
    };
    Options::named(kind, catalogue.clone()).ok_or_else(|| {
        Usage(format!("invalid value '{kind}' for '--as NAME'\n  [possible values: {}]", known())).into()
    })
}

/// Imports with a progress bar on a terminal.
pub(crate) async fn load(
    recording: &Recording,
    paths: &[std::path::PathBuf],
    options: Options,
) -> anyhow::Result<Report> {
    let mut bar = Bar(progress_bar());
    let report = Import::new(recording.pipeline()).run(paths, &options, &mut bar).await;
    bar.0.finish_and_clear();
    Ok(report?)
}

struct Bar(ProgressBar);

impl Progress for Bar {
    fn total(&mut self, bytes: u64) {
        self.0.set_length(bytes);
    }

    fn advance(&mut self, bytes: u64, file: &str) {
        self.0.inc(bytes);
        self.0.set_message(display::terminal(file, Lines::Show));
    }
}

/// Hidden by indicatif itself when standard error is not a terminal.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {eta} {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Duplicates are null where somebody else finds them.
fn rows(report: &Report, ending: Ending) -> Vec<serde_json::Value> {
    let row = |file: &threadline_ingest::import::FileReport| {
        let note = match (&file.error, &file.skipped) {
            (Some(error), _) => format!("failed: {error}"),
            (None, Some(reason)) => format!("skipped: {reason}"),
            (None, None) if file.metric_points > 0 => format!("{} metric points counted, not kept", file.metric_points),
            (None, None) => String::new(),
        };
        serde_json::json!({
            "path": file.path, "format": file.format, "lines": file.lines, "records": file.records,
            "rejected": file.rejected, "duplicates": (ending == Ending::Stored).then_some(file.duplicates),
            "conflicts": (ending == Ending::Stored).then_some(file.conflicts), "metric_points": file.metric_points,
            "note": note,
        })
    };
    report.files.iter().map(row).collect()
}

/// The sum in one line.
pub(crate) fn total(report: &Report, ending: Ending) -> String {
    let total = report.total();
    let conflicts = match total.conflicts {
        0 => String::new(),
        number => format!("{number} known with other content, "),
    };
    format!(
        "{} records from {} files ({}, {conflicts}{} rejected); {} files skipped, {} failed",
        total.records,
        report.read_files(),
        known(ending, total.duplicates),
        total.rejected,
        report.skipped_files(),
        report.failed_files(),
    )
}
