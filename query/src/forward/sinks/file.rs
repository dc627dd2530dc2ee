//! Files of JSON lines in a folder, one OCSF event per line, for a shipper to pick up.
//!
//! Invariants
//! - events are appended with one write and synced before they count as delivered; a torn end is cut when the file is opened
//! - `<sink>.jsonl` is the file being written; at `rotate_bytes` or `rotate_s` it is renamed to `<sink>-<UTC time>-<n>.jsonl`
//!   and not touched again
//! - nothing is ever deleted: who picks the files up does that. With `folder_bytes_max` the sink waits while the folder
//!   holds more
//!
//! Acknowledged means: synced to the local disk. Whether the shipper sent it on is not known here.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::Utc;
use serde::Deserialize;
use threadline_store::durable;
use threadline_store::lines::Lines;

use super::{Outcome, Sink, SinkError};
use crate::forward::event::Event;

/// `type = "file"`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// Folder of the files; made when it is missing.
    pub path: PathBuf,
    /// Size at which a file is closed.
    #[serde(default = "rotate_bytes")]
    pub rotate_bytes: u64,
    /// Seconds after which a file that has events is closed.
    #[serde(default = "rotate_s")]
    pub rotate_s: u64,
    /// Bytes that the folder may hold before the sink waits for room; absent: no bound but the disk.
    pub folder_bytes_max: Option<u64>,
}

fn rotate_bytes() -> u64 {
    256 << 20
}

fn rotate_s() -> u64 {
    3600
}

impl FileConfig {
    pub(super) fn within(mut self, folder: &Path) -> FileConfig {
        self.path = folder.join(self.path);
        self
    }

    pub(super) fn check(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.rotate_bytes < 4096 {
            wrong.push("rotate_bytes is at least 4096".into());
        }
        if self.rotate_s == 0 {
            wrong.push("rotate_s is at least 1".into());
        }
        wrong
    }
}

/// See the head of this file.
#[derive(Debug)]
pub struct FileSink {
    config: FileConfig,
    name: String,
    open: Option<(Lines, Instant)>,
}

impl FileSink {
    pub(super) fn open(config: &FileConfig, name: &str) -> Result<FileSink, String> {
        durable::create_dirs(&config.path).map_err(|error| error.to_string())?;
        Ok(FileSink { config: config.clone(), name: name.into(), open: None })
    }

    fn current(&self) -> PathBuf {
        self.config.path.join(format!("{}.jsonl", self.name))
    }

    /// Closes the file when it is full or old. A crash before the rename leaves it to be written on.
    fn rotate(&mut self) -> Result<(), SinkError> {
        let age = Duration::from_secs(self.config.rotate_s);
        let is_due = |(lines, since): &mut (Lines, Instant)| {
            lines.bytes() >= self.config.rotate_bytes || (lines.bytes() > 0 && since.elapsed() >= age)
        };
        let Some((lines, _)) = self.open.take_if(is_due) else { return Ok(()) };
        let stamp = Utc::now().format("%Y%m%dT%H%M%SZ");
        let free = (1..).map(|n: u32| self.config.path.join(format!("{}-{stamp}-{n}.jsonl", self.name)));
        let Some(path) = free.into_iter().find(|path| !path.exists()) else { return Ok(()) };
        lines.close_as(&path).map_err(failed)
    }

    fn check_room(&self) -> Result<(), SinkError> {
        let Some(bytes_max) = self.config.folder_bytes_max else { return Ok(()) };
        let entries =
            std::fs::read_dir(&self.config.path).map_err(|_| SinkError::unavailable("the folder cannot be listed"))?;
        let bytes: u64 = entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum();
        if bytes < bytes_max {
            Ok(())
        } else {
            Err(SinkError::unavailable("the folder is full: nobody takes its files away"))
        }
    }
}

fn failed(error: threadline_store::StoreError) -> SinkError {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    SinkError::unavailable(format!("{error}{cause}"))
}

#[async_trait]
impl Sink for FileSink {
    async fn deliver(&mut self, events: &[Event]) -> Result<Vec<Outcome>, SinkError> {
        self.rotate()?;
        self.check_room()?;
        let mut bytes = Vec::with_capacity(events.iter().map(|event| event.text.len() + 1).sum());
        for event in events {
            bytes.extend_from_slice(event.text.as_bytes());
            bytes.push(b'\n');
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => (Lines::open(&self.current()).map_err(failed)?, Instant::now()),
        };
        // After a failure the file is opened again, which cuts what is torn.
        open.0.append(&bytes).map_err(failed)?;
        self.open = Some(open);
        Ok(vec![Outcome::Delivered; events.len()])
    }

    async fn idle(&mut self) -> Result<(), SinkError> {
        self.rotate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::testing::event;

    #[tokio::test]
    async fn files_are_closed_when_full_and_hold_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let config = FileConfig {
            path: dir.path().join("out"),
            rotate_bytes: 4096,
            rotate_s: 3600,
            folder_bytes_max: Some(40_000),
        };
        let mut sink = FileSink::open(&config, "one").unwrap();
        let mut waited = None;
        for n in 0..40 {
            if let Err(error) = sink.deliver(&[event(n), event(n + 100)]).await {
                waited = Some(error.to_string());
                break;
            }
        }
        assert!(waited.unwrap().contains("full"));
        let mut names: Vec<PathBuf> =
            std::fs::read_dir(&config.path).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        assert!(names.len() > 3, "{names:?}");
        for path in names {
            let text = std::fs::read_to_string(path).unwrap();
            assert!(text.ends_with('\n') && text.lines().all(|line| line.starts_with("{\"time\":")));
        }
    }
}
