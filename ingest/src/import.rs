//! `threadline import`: files and folders into records, whatever formats they hold.
//!
//! ```text
//! walk -> open (gzip, zstd) -> recognise by the head -> lines or one body -> decode -> batches -> pipeline
//!         `------------------ a thread per file, one file at a time ------------------'   `- here
//! ```
//!
//! Invariants
//! - importing twice stores nothing twice: keys come from content ([`LineKeys`], the digest of a body)
//! - every file that was found is in the [`Report`]: read, skipped with a reason, or failed with an error; one bad file does
//!   not stop the rest
//! - a line that cannot be understood, or is too long, is a `rejected` record; a last line without line feed counts
//! - memory: two batches of `batch_bytes_max` and one line of `line_bytes_max`, or one body of `body_bytes_max`
//!
//! Not here: files that grow (`watch`).

mod file;
mod lines;
#[cfg(test)]
mod tests;
mod walk;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use threadline_schemas::decode::profile::Catalogue;
use threadline_schemas::decode::recognise::Format;
use threadline_schemas::limits::arrival::{FILE_BODY_BYTES_MAX, FILE_RATIO_MAX, LINE_BYTES_MAX};
use threadline_store::AppendError;
use tokio::sync::mpsc;

pub(crate) use self::file::too_long;
use self::file::{Event, FileImport};
pub use self::lines::LineKeys;
pub(crate) use self::lines::{FileLine, LineReader};
use self::walk::What;
use crate::pipeline::Pipeline;

/// Attempts to append one batch while the store is overloaded.
const ATTEMPTS_MAX: u32 = 20;

/// Settings of an import.
#[derive(Debug, Clone)]
pub struct Options {
    /// The format of every file, instead of recognising each. Default: recognise.
    pub format: Option<Format>,
    /// Profiles by which lines can be read. Default: those that are shipped.
    pub catalogue: Arc<Catalogue>,
    /// A longer line becomes `rejected` with its length and digest. Default 16 MiB.
    pub line_bytes_max: usize,
    /// A larger OTLP body is refused. Default 64 MiB.
    pub body_bytes_max: u64,
    /// Times that a compressed file may unfold. Default 1000, about what gzip can do at most.
    pub ratio_max: u64,
    /// Records in one append. Default 1,000.
    pub batch_records_max: usize,
    /// Bytes of records in one append. Default 4 MiB.
    pub batch_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            format: None,
            catalogue: Catalogue::shipped(),
            line_bytes_max: LINE_BYTES_MAX,
            body_bytes_max: FILE_BODY_BYTES_MAX,
            ratio_max: FILE_RATIO_MAX,
            batch_records_max: 1000,
            batch_bytes_max: 4 << 20,
        }
    }
}

impl Options {
    /// The defaults for `--as NAME`: `auto`, a built-in format or a profile. `None` when there is no such format.
    pub fn named(name: &str, catalogue: Arc<Catalogue>) -> Option<Options> {
        let format = if name == "auto" { None } else { Some(Format::named(name, &catalogue)?) };
        Some(Options { format, catalogue, ..Options::default() })
    }
}

/// Told how far the import is.
pub trait Progress: Send {
    /// Bytes of all files that were found, as they are on disk.
    fn total(&mut self, bytes: u64);
    /// So many bytes more were read, of this file.
    fn advance(&mut self, bytes: u64, file: &str);
}

/// Progress that nobody looks at.
#[derive(Debug, Clone, Copy)]
pub struct Unseen;

impl Progress for Unseen {
    fn total(&mut self, _bytes: u64) {}
    fn advance(&mut self, _bytes: u64, _file: &str) {}
}

/// What became of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileReport {
    /// Relative to the folder that was named, without `.gz` or `.zst`.
    pub path: String,
    /// Its format, when it was read.
    pub format: Option<String>,
    /// Lines read, empty ones included; for a body its records.
    pub lines: u64,
    /// Records made.
    pub records: u64,
    /// Those of them that could not be understood.
    pub rejected: u64,
    /// Those of them that were stored before; a spool does not know.
    pub duplicates: u64,
    /// Those of them whose id is stored with other content; each is kept as a `rejected` record that names the event.
    pub conflicts: u64,
    /// Metric data points, counted and not kept.
    pub metric_points: u64,
    /// Why it was not read.
    pub skipped: Option<String>,
    /// What went wrong; records before that are stored.
    pub error: Option<String>,
}

/// What became of all files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order in which they were read.
    pub files: Vec<FileReport>,
}

impl Report {
    /// The sums over all files; `path` is empty.
    pub fn total(&self) -> FileReport {
        self.files.iter().fold(FileReport::default(), |sum, file| FileReport {
            lines: sum.lines + file.lines,
            records: sum.records + file.records,
            rejected: sum.rejected + file.rejected,
            duplicates: sum.duplicates + file.duplicates,
            conflicts: sum.conflicts + file.conflicts,
            metric_points: sum.metric_points + file.metric_points,
            ..sum
        })
    }

    /// Files that were read, at least in part.
    pub fn read_files(&self) -> usize {
        self.files.iter().filter(|file| file.format.is_some()).count()
    }

    /// Files that were left out.
    pub fn skipped_files(&self) -> usize {
        self.files.iter().filter(|file| file.skipped.is_some()).count()
    }

    /// Files that went wrong.
    pub fn failed_files(&self) -> usize {
        self.files.iter().filter(|file| file.error.is_some()).count()
    }
}

/// Why an import stopped. What was stored so far stays; importing again goes on.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The records of a file could not be stored.
    #[error("cannot store records of {path}")]
    Append {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: AppendError,
    },
    /// The thread that read a file ended early.
    #[error("reading {path} was interrupted")]
    Interrupted {
        /// The file.
        path: String,
    },
}

/// Imports into one pipeline.
#[derive(Debug)]
pub struct Import {
    pipeline: Arc<Pipeline>,
}

impl Import {
    /// Records go to `pipeline`.
    pub fn new(pipeline: Arc<Pipeline>) -> Self {
        Import { pipeline }
    }

    /// Reads all files below `paths`, in order.
    ///
    /// # Errors
    /// Only when records cannot be stored; what is wrong with a file is in the report.
    pub async fn run(
        &self,
        paths: &[PathBuf],
        options: &Options,
        progress: &mut dyn Progress,
    ) -> Result<Report, ImportError> {
        let found = walk::files(paths);
        let bytes = |what: &What| if let What::File { bytes } = what { *bytes } else { 0 };
        progress.total(found.iter().map(|found| bytes(&found.what)).sum());
        let mut report = Report::default();
        for found in found {
            let path = file::without_suffix(&found.name).to_string();
            let file = match found.what {
                What::Skipped(reason) => FileReport { path, skipped: Some(reason.into()), ..FileReport::default() },
                What::Failed(error) => FileReport { path, error: Some(error), ..FileReport::default() },
                What::File { .. } => {
                    let pipeline = Arc::clone(&self.pipeline);
                    let import =
                        FileImport { pipeline, options: options.clone(), path: found.path, name: path.clone() };
                    self.file(import, path, progress).await?
                }
            };
            report.files.push(file);
        }
        Ok(report)
    }

    async fn file(
        &self,
        import: FileImport,
        path: String,
        progress: &mut dyn Progress,
    ) -> Result<FileReport, ImportError> {
        let (events, mut arriving) = mpsc::channel(1);
        let reading = tokio::task::spawn_blocking(move || import.read(&events));
        let (mut duplicates, mut conflicts) = (0, 0);
        while let Some(event) = arriving.recv().await {
            match event {
                Event::Batch(records) => {
                    let stored = self.store(records).await;
                    let receipt = stored.map_err(|source| ImportError::Append { path: path.clone(), source })?;
                    duplicates += receipt.duplicates as u64;
                    conflicts += receipt.conflicts as u64;
                }
                Event::Read(bytes) => progress.advance(bytes, &path),
            }
        }
        let read = reading.await.map_err(|_| ImportError::Interrupted { path: path.clone() })?;
        Ok(FileReport { path, duplicates, conflicts, ..read })
    }

    /// Appends, and waits when the store asks for it.
    async fn store(&self, records: Vec<threadline_schemas::Record>) -> Result<threadline_store::Receipt, AppendError> {
        let mut attempt = 0;
        loop {
            match self.pipeline.submit(records.clone()).await {
                Err(AppendError::Overloaded) if attempt < ATTEMPTS_MAX => {
                    attempt += 1;
                    tokio::time::sleep(Duration::from_millis(100 * u64::from(attempt))).await;
                }
                other => return other,
            }
        }
    }
}
