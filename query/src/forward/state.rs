//! What a sink must not forget, below `DIR/forward/<sink>/`.
//!
//! | file | holds | written |
//! | --- | --- | --- |
//! | `cursor.json` | how far everything is delivered and settled, counts, last delivery and last error | atomically and synced, after an acknowledgement |
//! | `known.json` | what was learned of sessions, and up to where | atomically and synced, now and then and at the end |
//! | `dead.jsonl` | events that were refused or are not valid: id, reason, where the records are | appended and synced |
//! | `status.json` | what the sink is doing | atomically, when that changes and once a second |
//! | `replay.json` | what somebody asked to be sent again | atomically, removed when done |
//! | `lock` | held by the process that forwards | |
//!
//! Dead letters hold no event: it is made again from its records, by the mapping of that day.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use chrono::Utc;
use serde::{Deserialize, Serialize};
use threadline_store::durable;
use threadline_store::lines::Lines;
use threadline_store::lock::try_lock;
use utoipa::ToSchema;
use uuid::Uuid;

use super::ForwardError;
use super::event::Event;
use super::known::{Kept, Known};
use super::position::Position;

/// How far a sink has come, and what it counted since its beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// Every event before it is delivered or a dead letter.
    pub delivered: Position,
    /// Reading begins here after a restart: calls that wait for their answers stand behind it.
    pub settled: Position,
    /// What was counted.
    pub counts: Counts,
    /// When the receiver last acknowledged something, RFC 3339.
    #[serde(default)]
    pub last_delivery: Option<String>,
    /// What went wrong last, by whichever process; kept when it is over.
    #[serde(default)]
    pub last_error: Option<LastError>,
}

/// What went wrong last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastError {
    /// What; holds no content.
    pub reason: String,
    /// When, RFC 3339.
    pub at: String,
}

/// Counted since the sink's beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Counts {
    /// Events acknowledged by the receiver; a repetition counts again.
    pub sent: u64,
    /// Events that the receiver refused.
    pub rejected: u64,
    /// Events that did not validate and were not sent.
    pub quarantined: u64,
    /// Records that the sink's filters left out.
    pub filtered: u64,
    /// Attempts that failed and were repeated.
    pub retries: u64,
    /// Bytes of acknowledged events.
    pub bytes: u64,
}

/// What a sink is doing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Doing {
    /// `delivering`, `idle`, `retrying`, `stopped` or `ended`.
    pub state: String,
    /// Why, where something is wrong; holds no content.
    pub reason: Option<String>,
    /// When this was written, RFC 3339.
    pub at: String,
    /// Type of the sink.
    pub kind: String,
    /// OCSF version of its events.
    pub ocsf_version: String,
    /// Process that forwards.
    pub pid: u32,
}

/// What was learned of sessions up to a position.
#[derive(Debug, Serialize, Deserialize)]
struct Learned {
    at: Position,
    known: Kept,
}

/// An event that could not be delivered, for reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterLine {
    /// `metadata.uid`, which is the id of the record.
    pub uid: String,
    /// `rejected` by the receiver, or `invalid` by our own check.
    pub why: String,
    /// Reason, without content.
    pub reason: String,
    /// When, RFC 3339.
    pub at: String,
}

/// The same, and where to make it again from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DeadLetter {
    /// What is told.
    #[serde(flatten)]
    pub line: DeadLetterLine,
    /// Where its record is.
    pub record: Position,
    /// Where the request is that it answers.
    pub request: Option<Position>,
}

impl DeadLetter {
    /// The same event, kept back again for a reason of now.
    pub(super) fn because(&self, why: String, reason: String) -> DeadLetter {
        let line = DeadLetterLine { uid: self.line.uid.clone(), why, reason, at: Utc::now().to_rfc3339() };
        DeadLetter { line, ..self.clone() }
    }
}

/// What is to be sent again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ReplayRequest {
    /// Every dead letter; those that are delivered are dead letters no more.
    DeadLetters,
    /// The commits of these versions, both included.
    Versions {
        /// First.
        from: i64,
        /// Last.
        to: i64,
    },
}

impl ReplayRequest {
    /// # Errors
    /// When it asks for versions that the table does not have.
    pub fn check(&self, data: &Path) -> Result<(), ForwardError> {
        let ReplayRequest::Versions { from, to } = *self else { return Ok(()) };
        let newest = super::status::newest_version(data);
        match () {
            () if to < from => Err(ForwardError::EmptyReplay { from, to }),
            () if from > newest || from < 0 => Err(ForwardError::NoSuchVersion { asked: from, newest }),
            () => Ok(()),
        }
    }
}

/// The folder of one sink, held by this process.
#[derive(Debug)]
pub(super) struct State {
    dir: PathBuf,
    sink: String,
    dead: Lines,
    dead_bytes_max: u64,
    pub(super) cursor: Cursor,
    /// Letters that are buried now were buried before: the bound is for new ones.
    pub(super) is_reburying: bool,
    _lock: File,
}

/// The folder of a sink.
pub(super) fn folder(data: &Path, sink: &str) -> PathBuf {
    data.join("forward").join(sink)
}

impl State {
    /// Takes the folder for this process; `first` is where a new sink begins.
    pub(super) fn open(data: &Path, sink: &str, dead_bytes_max: u64, first: Position) -> Result<State, ForwardError> {
        let dir = folder(data, sink);
        durable::create_dirs(&dir)?;
        let lock = try_lock(&dir.join("lock"))?.ok_or_else(|| ForwardError::Busy { sink: sink.into() })?;
        let mut cursor: Cursor = match read_json(&dir.join("cursor.json"))? {
            Some(cursor) => cursor,
            None => {
                let cursor = Cursor {
                    delivered: first,
                    settled: first,
                    counts: Counts::default(),
                    last_delivery: None,
                    last_error: None,
                };
                write_json(&dir.join("cursor.json"), &cursor)?;
                cursor
            }
        };
        let dead = Lines::open(&dir.join("dead.jsonl"))?;
        // A crash between a dead letter and the cursor leaves letters that were not counted.
        let (mut rejected, mut kept) = (0, 0);
        each_line(&dir, |line| {
            let is_rejected = letter(&dir, line)?.line.why == "rejected";
            *if is_rejected { &mut rejected } else { &mut kept } += 1;
            Ok(())
        })?;
        cursor.counts.rejected = cursor.counts.rejected.max(rejected);
        cursor.counts.quarantined = cursor.counts.quarantined.max(kept);
        Ok(State { dir, sink: sink.into(), dead, dead_bytes_max, cursor, is_reburying: false, _lock: lock })
    }

    /// Makes the cursor durable.
    pub(super) fn save(&self) -> Result<(), ForwardError> {
        write_json(&self.dir.join("cursor.json"), &self.cursor)
    }

    /// Makes durable what was learned up to a position.
    pub(super) fn save_known(&self, at: Position, known: &Known) -> Result<(), ForwardError> {
        write_json(&self.dir.join("known.json"), &Learned { at, known: known.kept() })
    }

    /// What was learned, and up to where. Without it, or when it is of another version, learning begins anew: events say less
    /// then, and none is lost.
    pub(super) fn known(&self) -> Option<(Position, Known)> {
        let read = read_json::<Learned>(&self.dir.join("known.json")).unwrap_or_else(|error| {
            tracing::warn!(sink = %self.sink, error = &error as &dyn std::error::Error, "what was known of sessions is lost");
            None
        });
        read.and_then(|learned| Some((learned.at, Known::of_kept(learned.known)?)))
    }

    pub(super) fn tell(&self, doing: &Doing) -> Result<(), ForwardError> {
        write_json(&self.dir.join("status.json"), doing)
    }

    /// Adds a dead letter, synced.
    pub(super) fn bury(&mut self, event: &Event, why: &str, reason: &str) -> Result<(), ForwardError> {
        let told = DeadLetterLine {
            uid: event.uid.clone(),
            why: why.into(),
            reason: reason.into(),
            at: Utc::now().to_rfc3339(),
        };
        let letter = DeadLetter { line: told, record: event.at, request: event.request_at };
        let line = line(&letter);
        if !self.is_reburying && self.dead.bytes() + line.len() as u64 > self.dead_bytes_max {
            return Err(ForwardError::DeadLettersFull { sink: self.sink.clone(), bytes_max: self.dead_bytes_max });
        }
        Ok(self.dead.append(&line)?)
    }

    pub(super) fn dead_letters(&self) -> Result<Vec<DeadLetter>, ForwardError> {
        dead_letters(&self.dir)
    }

    /// Keeps only these dead letters.
    pub(super) fn keep_dead_letters(&mut self, letters: &[DeadLetter]) -> Result<(), ForwardError> {
        let path = self.dir.join("dead.jsonl");
        durable::write_atomic(&path, &letters.iter().flat_map(line).collect::<Vec<u8>>())?;
        self.dead = Lines::open(&path)?;
        Ok(())
    }

    pub(super) fn replay_request(&self) -> Result<Option<ReplayRequest>, ForwardError> {
        read_json(&self.dir.join("replay.json"))
    }

    pub(super) fn replay_done(&self) -> Result<(), ForwardError> {
        Ok(durable::remove_file(&self.dir.join("replay.json"))?)
    }
}

/// Asks the process that forwards, or the next one, to send something again.
///
/// # Errors
/// When the request cannot be written, or another one is not done yet.
pub fn request_replay(data: &Path, sink: &str, request: &ReplayRequest) -> Result<(), ForwardError> {
    let dir = folder(data, sink);
    durable::create_dirs(&dir)?;
    let path = dir.join("replay.json");
    if path.exists() {
        let reason = "a replay that was asked for before is not done yet".into();
        return Err(ForwardError::Sink { sink: sink.into(), reason });
    }
    write_json(&path, request)
}

/// The dead letters of a sink's folder.
fn dead_letters(dir: &Path) -> Result<Vec<DeadLetter>, ForwardError> {
    let mut letters = Vec::new();
    each_line(dir, |line| {
        letters.push(letter(dir, line)?);
        Ok(())
    })?;
    Ok(letters)
}

/// How many dead letters there are, and the newest of them first, `shown` at most. The others are counted and not held:
/// there may be many megabytes of them, and whoever looks at the status asks.
pub(super) fn newest_dead_letters(dir: &Path, shown: usize) -> Result<(u64, Vec<DeadLetterLine>), ForwardError> {
    let (mut count, mut newest) = (0, VecDeque::new());
    each_line(dir, |line| {
        count += 1;
        if newest.len() == shown {
            newest.pop_front();
        }
        newest.push_back(line.to_vec());
        Ok(())
    })?;
    let newest = newest.iter().rev().map(|line| Ok(letter(dir, line)?.line)).collect::<Result<_, ForwardError>>()?;
    Ok((count, newest))
}

fn letter(dir: &Path, line: &[u8]) -> Result<DeadLetter, ForwardError> {
    let damaged = |_| ForwardError::Damaged { path: dir.join("dead.jsonl"), what: "a line is no dead letter" };
    serde_json::from_slice(line).map_err(damaged)
}

/// A torn last line, which was never acknowledged, is left out.
fn each_line(dir: &Path, mut each: impl FnMut(&[u8]) -> Result<(), ForwardError>) -> Result<(), ForwardError> {
    let path = dir.join("dead.jsonl");
    let Ok(file) = File::open(&path) else { return Ok(()) };
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let unread = |_| ForwardError::Damaged { path: path.clone(), what: "it cannot be read" };
        reader.read_until(b'\n', &mut line).map_err(unread)?;
        if line.last() != Some(&b'\n') {
            return Ok(());
        }
        each(&line)?;
    }
}

fn line(letter: &DeadLetter) -> Vec<u8> {
    // Plain texts and numbers always serialize.
    let mut line = serde_json::to_vec(letter).unwrap_or_default();
    line.push(b'\n');
    line
}

pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, ForwardError> {
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(_) => Err(ForwardError::Damaged { path: path.to_path_buf(), what: "it cannot be read" }),
        Ok(bytes) => {
            let damaged =
                |_| ForwardError::Damaged { path: path.to_path_buf(), what: "it is not the JSON expected here" };
            serde_json::from_slice(&bytes).map(Some).map_err(damaged)
        }
    }
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), ForwardError> {
    // Plain structs always serialize.
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    Ok(durable::write_atomic(path, &bytes)?)
}

/// An id that a batch keeps over repetitions: of its events' ids, in order.
pub(super) fn batch_id<'e>(uids: impl Iterator<Item = &'e str>) -> Uuid {
    use sha2::{Digest, Sha256};
    let mut digest = Sha256::new();
    for uid in uids {
        digest.update(uid.as_bytes());
        digest.update([0]);
    }
    let digest: [u8; 32] = digest.finalize().into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Uuid::new_v8(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::testing::event;

    #[test]
    fn a_sink_that_is_opened_again_knows_its_dead_letters_and_its_last_error() {
        let data = tempfile::tempdir().unwrap();
        let open = || State::open(data.path(), "a", 1 << 20, Position::before(0)).unwrap();
        let mut state = open();
        let error = LastError { reason: "503".into(), at: "2026-11-20T10:00:00.000Z".into() };
        state.cursor.last_error = Some(error.clone());
        state.cursor.last_delivery = Some("2026-11-20T09:00:00.000Z".into());
        state.save().unwrap();
        // The process dies before the cursor is saved.
        for (n, why) in [(1, "rejected"), (2, "rejected"), (3, "invalid")] {
            state.bury(&event(n), why, "mapper_parsing_exception").unwrap();
        }
        drop(state);
        let cursor = open().cursor.clone();
        assert_eq!((cursor.counts.rejected, cursor.counts.quarantined), (2, 1));
        assert_eq!((cursor.last_error, cursor.last_delivery.is_some()), (Some(error), true));
    }

    #[test]
    fn a_cursor_of_before_is_read() {
        let old = r#"{"delivered":{"version":1,"file":null,"row":0},"settled":{"version":1,"file":null,"row":0},"counts":{}}"#;
        assert_eq!(serde_json::from_str::<Cursor>(old).unwrap().last_error, None);
    }
}
