//! What a state directory knows of a run apart from its outbox: how much was recorded, and how much of it was sent.
//!
//! Invariants
//! - the counts are written after each append and each answer: they outlive the process and the outbox. What was sent is
//!   synced before the outbox is marked; a power cut may take the last count of what was recorded, then a loss is counted
//!   too low
//! - the process that sends from an outbox holds the lock of its note; a note without lock and outbox is of a run whose
//!   outbox was taken away
//!
//! On disk: one line of JSON ([`Meta`]), then `<recorded> <sent>`, 20 digits each. Names that start with a dot are notes in
//! the making.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use threadline_schemas::Collector;
use threadline_store::durable;
use uuid::Uuid;

use super::{Origin, OutboxError};
use crate::streams::Marker;

const VERSION: u32 = 1;
const DIGITS: usize = 20;
/// A note is small; whatever is larger is not ours.
const BYTES_MAX: u64 = 16 << 10;

/// What never changes about a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Meta {
    version: u32,
    pub(super) collector: Uuid,
    pub(super) stream: Uuid,
    pub(super) via: String,
    pub(super) source_name: String,
    /// Where it sends to.
    pub(super) server: String,
    pid: u32,
    started_us: u64,
}

impl Meta {
    pub(super) fn new(collector: Uuid, origin: &Origin, server: &str) -> Meta {
        let started = SystemTime::now().duration_since(UNIX_EPOCH);
        Meta {
            version: VERSION,
            collector,
            stream: Uuid::now_v7(),
            via: origin.collector.as_str().into(),
            source_name: origin.source_name.clone(),
            server: server.into(),
            pid: std::process::id(),
            started_us: started.map_or(0, |since| since.as_micros() as u64),
        }
    }

    /// What its records bear.
    pub(super) fn marker(&self) -> Marker {
        let via = Collector::parse(&self.via).unwrap_or(Collector::Own);
        Marker { collector: self.collector, stream: self.stream, via }
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Records with lower numbers are in the outbox, or were.
    pub(super) recorded: u64,
    /// Records with lower numbers are with the server, or refused by it.
    pub(super) sent: u64,
}

impl Counts {
    fn text(self) -> String {
        format!("{:0DIGITS$} {:0DIGITS$}\n", self.recorded, self.sent)
    }

    fn parse(text: &str) -> Option<Counts> {
        let (recorded, sent) = text.trim_end().split_once(' ')?;
        Some(Counts { recorded: recorded.parse().ok()?, sent: sent.parse().ok()? })
    }
}

/// A note whose lock is ours.
#[derive(Debug)]
pub(super) struct Note {
    pub(super) meta: Meta,
    path: PathBuf,
    file: File,
    /// Where the counts stand.
    at: u64,
    counts: Mutex<Counts>,
}

/// What became of a wish for a note.
#[derive(Debug)]
pub(super) enum Claim {
    /// Its lock is ours.
    Ours(Box<Note>),
    /// Another process has it.
    Taken,
    /// There is none that can be read.
    None,
}

impl Note {
    /// A new note.
    pub(super) fn create(state: &Path, meta: Meta) -> Result<Note, OutboxError> {
        let folder = folder(state);
        let path = folder.join(meta.stream.to_string());
        let make = || -> io::Result<Note> {
            durable::create_dirs(&folder).map_err(io::Error::other)?;
            let making = folder.join(format!(".{}", meta.stream));
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&making)?;
            // Locked before it can be seen, so that nobody takes it for a note that was left behind.
            file.try_lock().map_err(|error| match error {
                TryLockError::Error(error) => error,
                TryLockError::WouldBlock => ErrorKind::WouldBlock.into(),
            })?;
            let mut text = serde_json::to_string(&meta).map_err(io::Error::other)?;
            text.push('\n');
            let at = text.len() as u64;
            text.push_str(&Counts::default().text());
            file.write_all_at(text.as_bytes(), 0)?;
            file.sync_all()?;
            durable::rename(&making, &path).map_err(io::Error::other)?;
            Ok(Note { meta: meta.clone(), path: path.clone(), file, at, counts: Mutex::default() })
        };
        make().map_err(|source| {
            // Or it is in the way of the next attempt; one that was never made is no trouble.
            fs::remove_file(folder.join(format!(".{}", meta.stream))).ok();
            OutboxError::State { path: path.clone(), source }
        })
    }

    /// The note of a run whose process is gone.
    pub(super) fn claim(state: &Path, stream: Uuid) -> Result<Claim, OutboxError> {
        let path = folder(state).join(stream.to_string());
        let failed = |source| OutboxError::State { path: path.clone(), source };
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Claim::None),
            Err(source) => return Err(failed(source)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Claim::Taken),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        if !path.exists() {
            // Whoever had it before us has finished.
            return Ok(Claim::Taken);
        }
        Ok(match read(&path).map_err(failed)? {
            Some((meta, counts, at)) => {
                Claim::Ours(Box::new(Note { meta, path, file, at, counts: Mutex::new(counts) }))
            }
            None => Claim::None,
        })
    }

    /// Records below this number were recorded.
    pub(super) fn recorded(&self, recorded: u64) {
        self.change(|counts| counts.recorded = counts.recorded.max(recorded));
    }

    /// Records below this number are done with.
    pub(super) fn sent(&self, sent: u64) {
        self.change(|counts| counts.sent = counts.sent.max(sent));
    }

    /// What was written so far outlives a power cut.
    pub(super) fn sync(&self) {
        if let Err(error) = self.file.sync_data() {
            tracing::warn!(path = %self.path.display(), %error, "the counts of a run cannot be synced");
        }
    }

    pub(super) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing has to be known of this run any more.
    pub(super) fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a note of a run that is over stays");
        }
    }

    fn change(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut counts);
        if let Err(error) = self.file.write_all_at(counts.text().as_bytes(), self.at) {
            tracing::warn!(path = %self.path.display(), %error, "the counts of a run cannot be noted");
        }
    }
}

/// The notes that no process holds.
pub(super) fn claim_all(state: &Path) -> Result<Vec<Note>, OutboxError> {
    let mut notes = Vec::new();
    for stream in streams(state)? {
        if let Claim::Ours(note) = Note::claim(state, stream)? {
            notes.push(*note);
        }
    }
    Ok(notes)
}

/// What all notes say, held or not.
pub(super) fn read_all(state: &Path) -> Result<Vec<(Meta, Counts)>, OutboxError> {
    let mut found = Vec::new();
    for stream in streams(state)? {
        let path = folder(state).join(stream.to_string());
        let note = read(&path).map_err(|source| OutboxError::State { path, source })?;
        found.extend(note.map(|(meta, counts, _)| (meta, counts)));
    }
    Ok(found)
}

fn streams(state: &Path) -> Result<Vec<Uuid>, OutboxError> {
    let folder = folder(state);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(OutboxError::State { path: folder, source }),
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names.filter_map(|name| Uuid::try_parse(name.to_str()?).ok()).collect())
}

/// The note at `path` and where its counts stand; `None` when it is gone or not a note.
fn read(path: &Path) -> io::Result<Option<(Meta, Counts, u64)>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(metadata) if metadata.len() > BYTES_MAX => return Ok(None),
        Ok(_) => {}
    }
    let text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
    let parsed = text.split_once('\n').and_then(|(meta, counts)| {
        let known: Meta = serde_json::from_str(meta).ok()?;
        (known.version == VERSION).then_some((known, Counts::parse(counts)?, meta.len() as u64 + 1))
    });
    if parsed.is_none() {
        tracing::warn!(path = %path.display(), "a note of a run cannot be read");
    }
    Ok(parsed)
}

fn folder(state: &Path) -> PathBuf {
    state.join("streams")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_outlive_the_process_that_wrote_them() {
        let state = tempfile::tempdir().unwrap();
        let origin = Origin { collector: Collector::Tap, source_name: "orders \n".into() };
        let note = Note::create(state.path(), Meta::new(Uuid::nil(), &origin, "http://h/")).unwrap();
        note.recorded(u64::MAX);
        note.sent(7);
        note.sent(3);
        let stream = note.meta.stream;
        assert!(matches!(Note::claim(state.path(), stream).unwrap(), Claim::Taken));
        assert!(claim_all(state.path()).unwrap().is_empty());
        drop(note);
        let notes = claim_all(state.path()).unwrap();
        assert_eq!(notes[0].counts(), Counts { recorded: u64::MAX, sent: 7 });
        assert_eq!((notes[0].meta.source_name.as_str(), notes[0].meta.via.as_str()), ("orders \n", "tap"));
        notes[0].remove();
        assert!(matches!(Note::claim(state.path(), stream).unwrap(), Claim::None));
    }
}
