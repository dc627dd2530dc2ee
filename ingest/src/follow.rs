//! `threadline watch`: lines of growing files into records, as they are written.
//!
//! Invariants
//! - a line gets the key that `import` gives it (see [`LineKeys`]), so importing a file that was watched, or watching it again
//!   after a restart, stores nothing twice; positions are not kept, files are read from the beginning and deduplicated
//! - while the store cannot take records (full disk, overload) reading stands still and goes on by itself
//! - of a line over the limit the beginning and the digest are kept, as `import` does; it is read from the file a second time
//! - bytes that were gone before they could be read become a `gap` record with their count
//!
//! Not here: finding files and lines (`watch`), what lines mean (`schemas::decode`).

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use threadline_schemas::decode::profile::Catalogue;
use threadline_schemas::decode::recognise::{self, Format, HEAD_BYTES};
use threadline_schemas::decode::{Line, LineDecoder};
use threadline_schemas::{Collector, Kind, Record, SourceKind};
use threadline_store::AppendError;
use uuid::Uuid;

use crate::import::{FileLine, LineKeys, LineReader, too_long};
use crate::pipeline::Pipeline;
use crate::watch::{Batch, Interruption, InterruptionKind, Oversized, Position, Watch, WatchOptions};

/// How long the last entry of a file may wait for lines that go on with it.
const HELD_MAX: Duration = Duration::from_secs(2);
const WAIT_FIRST: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Why following ended.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The files could not be looked at any more; the log says why.
    #[error("following the files has failed")]
    Watch,
    /// The store was closed.
    #[error("cannot store what the files say")]
    Append(#[source] AppendError),
}

/// Follows files and folders until dropped; with `once`, reads what is there and returns.
///
/// # Errors
/// See [`FollowError`]. Dropping it loses nothing: the next run reads the files again.
pub async fn follow(paths: &[PathBuf], pipeline: Arc<Pipeline>, once: bool) -> Result<(), FollowError> {
    follow_with(paths, pipeline, once, Catalogue::shipped(), None).await
}

/// The same with these profiles; with `format`, every file is of that format instead of being recognised.
///
/// # Errors
/// As [`follow`].
pub async fn follow_with(
    paths: &[PathBuf],
    pipeline: Arc<Pipeline>,
    once: bool,
    catalogue: Arc<Catalogue>,
    format: Option<Format>,
) -> Result<(), FollowError> {
    let mut watch = Watch::new(paths.to_vec(), WatchOptions::default());
    let mut following = Following {
        pipeline,
        roots: paths.to_vec(),
        files: HashMap::new(),
        kinds: Arc::new(Kinds { catalogue, format }),
    };
    if once {
        loop {
            let batches = watch.poll_new().await;
            if batches.is_empty() {
                return following.finish().await;
            }
            for batch in batches {
                following.take(batch).await?;
            }
        }
    }
    loop {
        let next = watch.next();
        let batch = if following.is_holding() {
            match tokio::time::timeout(HELD_MAX, next).await {
                Ok(batch) => batch,
                Err(_) => {
                    following.finish().await?;
                    continue;
                }
            }
        } else {
            next.await
        };
        following.take(batch.ok_or(FollowError::Watch)?).await?;
    }
}

/// What files may be.
struct Kinds {
    catalogue: Arc<Catalogue>,
    format: Option<Format>,
}

/// A file, whatever it is called.
type Identity = (u64, u64, i64);

struct Following {
    pipeline: Arc<Pipeline>,
    roots: Vec<PathBuf>,
    files: HashMap<Identity, File>,
    kinds: Arc<Kinds>,
}

struct File {
    name: String,
    keys: LineKeys,
    kinds: Arc<Kinds>,
    reading: Reading,
}

enum Reading {
    /// Lines so far do not say what they are.
    Unrecognised {
        held: Vec<FileLine>,
        bytes: usize,
    },
    Lines(Format, Box<dyn LineDecoder>),
    Skipped,
}

impl Following {
    async fn take(&mut self, batch: Batch) -> Result<(), FollowError> {
        let identity = identity(&batch.position);
        let name = relative(&batch.path, &self.roots);
        let mut records: Vec<Record> =
            batch.interruption.iter().filter_map(|interruption| self.gap(&name, interruption)).collect();
        if batch.interruption.is_some() {
            // Cut, written anew or gone: what was known of it is over.
            self.files.remove(&identity);
        }
        if batch.start_offset == 0 || !self.files.contains_key(&identity) {
            self.files.insert(identity, File::new(name, self.kinds.clone()));
        }
        if let Some(file) = self.files.get_mut(&identity) {
            let mut number = i64::try_from(batch.start_line).unwrap_or(i64::MAX);
            if let Some(oversized) = &batch.oversized {
                let line = file.oversized(&batch.path, identity, oversized).await;
                records.extend(file.take(&self.pipeline, line));
                number = i64::try_from(oversized.line).unwrap_or(i64::MAX).saturating_add(1);
            }
            for line in batch.lines {
                let delivery_key = file.keys.next(&line);
                let length = line.len() as u64;
                let line = FileLine { bytes: line.into(), length, sha256: None, number, delivery_key };
                records.extend(file.take(&self.pipeline, line));
                number = number.saturating_add(1);
            }
        }
        self.store(records).await
    }

    fn is_holding(&self) -> bool {
        self.files.values().any(|file| matches!(&file.reading, Reading::Lines(_, decoder) if decoder.is_holding()))
    }

    /// Stores what the files hold back in case their last entry goes on.
    async fn finish(&mut self) -> Result<(), FollowError> {
        let context = self.pipeline.context(Collector::Watch);
        let mut records = Vec::new();
        for file in self.files.values_mut() {
            if let Reading::Lines(_, decoder) = &mut file.reading {
                records.extend(decoder.finish(&context));
            }
        }
        self.store(records).await
    }

    async fn store(&self, records: Vec<Record>) -> Result<(), FollowError> {
        let mut wait = WAIT_FIRST;
        loop {
            match self.pipeline.submit(records.clone()).await {
                Ok(_) => return Ok(()),
                Err(error @ (AppendError::Closed | AppendError::TooLarge { .. })) => {
                    return Err(FollowError::Append(error));
                }
                Err(error) => {
                    tracing::warn!(%error, "watched lines cannot be stored now; trying again");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(WAIT_MAX);
                }
            }
        }
    }

    /// What was never read, if anything.
    fn gap(&self, name: &str, interruption: &Interruption) -> Option<Record> {
        let what = match interruption.kind {
            InterruptionKind::Truncated => "truncated",
            InterruptionKind::Replaced => "replaced",
            InterruptionKind::Removed => "removed",
        };
        if interruption.unread_bytes == 0 {
            tracing::debug!(file = name, what, "a watched file is not what it was");
            return None;
        }
        let context = self.pipeline.context(Collector::Watch);
        let mut record = Record::new(context.tenant, &format!("own:{}", Uuid::new_v4()), Kind::Gap);
        record.set_time(None, context.observed_time_unix_us);
        record.collector = Collector::Watch;
        record.source_kind = SourceKind::Threadline;
        record.source_name = "threadline".into();
        record.decoder = "watch".into();
        record.name = Some("gap".into());
        record.origin_file = Some(name.into());
        record.error_type = Some(what.into());
        let attributes = serde_json::json!({ "unread_bytes": interruption.unread_bytes });
        record.attributes = Some(attributes.to_string());
        Some(record)
    }
}

impl File {
    fn new(name: String, kinds: Arc<Kinds>) -> Self {
        let keys = LineKeys::new(name.rsplit('/').next().unwrap_or(&name));
        File { name, keys, kinds, reading: Reading::Unrecognised { held: Vec::new(), bytes: 0 } }
    }

    fn take(&mut self, pipeline: &Pipeline, line: FileLine) -> Vec<Record> {
        let takes_empty = match &self.reading {
            Reading::Lines(_, decoder) => decoder.takes_empty_lines(),
            Reading::Unrecognised { .. } => true,
            Reading::Skipped => false,
        };
        if line.is_blank() && !takes_empty {
            return Vec::new();
        }
        match &mut self.reading {
            Reading::Skipped => Vec::new(),
            Reading::Lines(format, decoder) => decode(&self.name, format, &mut **decoder, pipeline, &line),
            Reading::Unrecognised { held, bytes } => {
                *bytes += line.bytes.len();
                held.push(line);
                self.recognise(pipeline)
            }
        }
    }

    /// Reads what is held as soon as it says what it is; gives up once it should have.
    fn recognise(&mut self, pipeline: &Pipeline) -> Vec<Record> {
        let Reading::Unrecognised { held, bytes } = &mut self.reading else { return Vec::new() };
        let mut head: Vec<u8> = Vec::new();
        for line in held.iter() {
            head.extend_from_slice(&line.bytes);
            head.push(b'\n');
        }
        let found = match &self.kinds.format {
            Some(format) => Ok(format.clone()),
            None => recognise::recognise_with(&self.name, &head, &self.kinds.catalogue),
        };
        let decoder = |format| recognise::decoder(format, &self.name, self.keys.first_line_digest());
        match found.as_ref().map(|format| (format.clone(), decoder(format))) {
            Ok((format, Some(mut decoder))) => {
                let held = std::mem::take(held);
                let takes_empty = decoder.takes_empty_lines();
                let lines = held.iter().filter(|line| takes_empty || !line.is_blank());
                let records =
                    lines.flat_map(|line| decode(&self.name, &format, &mut *decoder, pipeline, line)).collect();
                self.reading = Reading::Lines(format, decoder);
                records
            }
            other => {
                if *bytes > HEAD_BYTES || other.is_ok() {
                    let reason = found.err().map_or("not a file of lines", |skipped| skipped.reason);
                    tracing::info!(file = self.name, reason, "a file is not followed");
                    self.reading = Reading::Skipped;
                }
                Vec::new()
            }
        }
    }

    /// A line that was passed over: read again, piece by piece, so that its key covers it. Where it is not there any more its
    /// key says at least where it was.
    async fn oversized(&mut self, path: &Path, identity: Identity, oversized: &Oversized) -> FileLine {
        let (path, oversized, keys) = (path.to_path_buf(), *oversized, self.keys.clone());
        let reading = tokio::task::spawn_blocking(move || read_again(&path, identity, &oversized, keys));
        match reading.await {
            Ok(Ok((line, keys))) => {
                self.keys = keys;
                line
            }
            _ => {
                tracing::warn!(file = self.name, line = oversized.line, "a line over the limit is not there any more");
                let sha256 = Some(String::new());
                let delivery_key =
                    self.keys.next(format!("oversized {} {}", oversized.offset, oversized.length).as_bytes());
                let number = i64::try_from(oversized.line).unwrap_or(i64::MAX);
                FileLine { bytes: Vec::new(), length: oversized.length, sha256, number, delivery_key }
            }
        }
    }
}

/// Reads the line at `oversized` as `import` would, and the keys after it.
fn read_again(
    path: &Path,
    identity: Identity,
    oversized: &Oversized,
    keys: LineKeys,
) -> io::Result<(FileLine, LineKeys)> {
    let mut file = std::fs::File::open(path)?;
    let metadata = file.metadata()?;
    let changed = || io::Error::other("the file is not what it was");
    if (metadata.dev(), metadata.ino()) != (identity.0, identity.1) {
        return Err(changed());
    }
    file.seek(SeekFrom::Start(oversized.offset))?;
    let source = BufReader::with_capacity(256 * 1024, file.take(oversized.length));
    let before = i64::try_from(oversized.line).unwrap_or(i64::MAX).saturating_sub(1);
    let mut lines = LineReader::after(source, keys, before, WatchOptions::default().line_bytes_max);
    let line = lines.next()?.filter(|line| line.length == oversized.length).ok_or_else(changed)?;
    Ok((line, lines.into_keys()))
}

fn decode(
    name: &str,
    format: &Format,
    decoder: &mut dyn LineDecoder,
    pipeline: &Pipeline,
    read: &FileLine,
) -> Vec<Record> {
    let context = pipeline.context(Collector::Watch);
    let line = Line { bytes: &read.bytes, file: Some(name), number: read.number, delivery_key: &read.delivery_key };
    match read.sha256 {
        Some(_) => vec![too_long(&context, &line, read, format)],
        None => decoder.line(&context, line),
    }
}

fn identity(position: &Position) -> Identity {
    (position.device, position.inode, position.born_unix_nano)
}

/// Relative to the folder that is watched; for a file that was named its base name.
fn relative(path: &Path, roots: &[PathBuf]) -> String {
    let below =
        roots.iter().filter_map(|root| path.strip_prefix(root).ok()).find(|below| !below.as_os_str().is_empty());
    let shown = below.map(Path::to_path_buf).or_else(|| path.file_name().map(PathBuf::from)).unwrap_or_default();
    shown.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;
    use crate::import::{Import, Options, Unseen};
    use crate::testing::Bench;
    use threadline_schemas::limits::arrival::LINE_BYTES_KEPT;

    fn event(id: usize) -> String {
        format!("{{\"id\":\"{id}\",\"kind\":\"log\"}}\n")
    }

    #[tokio::test]
    async fn watched_and_imported_is_stored_once() {
        let bench = Bench::new().await;
        let folder = bench.path("in");
        fs::create_dir_all(folder.join("p")).unwrap();
        let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures");
        let transcript = "claude-code/cc-1/transcripts/72fd3ede-2e28-465b-8515-c1ec8157a893.jsonl";
        let text = fs::read(captures.join(transcript)).unwrap();
        let file = folder.join("p/72fd3ede-2e28-465b-8515-c1ec8157a893.jsonl");
        fs::write(&file, &text[..text.len() / 2]).unwrap();
        fs::write(folder.join("other.jsonl"), "{\"odd\":1}\n").unwrap();
        follow(std::slice::from_ref(&folder), bench.pipeline.clone(), true).await.unwrap();
        let half = bench.records().await.len();
        assert!(half > 0);
        fs::write(&file, &text).unwrap();
        follow(std::slice::from_ref(&folder), bench.pipeline.clone(), true).await.unwrap();
        let all = bench.records().await;
        assert!(all.len() > half);
        assert!(all.iter().all(|record| record.collector == Collector::Watch));
        let imported =
            Import::new(bench.pipeline.clone()).run(&[folder], &Options::default(), &mut Unseen).await.unwrap();
        assert_eq!(imported.total().duplicates, all.len() as u64);
        assert_eq!(bench.records().await.len(), all.len());
    }

    #[tokio::test]
    async fn lines_after_one_over_the_limit_keep_the_keys_of_import() {
        let bench = Bench::new().await;
        let folder = bench.path("in");
        fs::create_dir_all(&folder).unwrap();
        let long = format!("{{\"id\":\"long\",\"kind\":\"log\",\"text\":\"{}\"}}\n", "x".repeat(17 << 20));
        let first = format!("{{\"kind\":\"log\",\"text\":\"{}\"}}\n{{\"kind\":\"log\"}}\n", "y".repeat(17 << 20));
        let plain = "{\"kind\":\"log\"}\n";
        fs::write(folder.join("a.jsonl"), format!("{plain}{long}{plain}{plain}")).unwrap();
        fs::write(folder.join("b.jsonl"), first).unwrap();
        follow(std::slice::from_ref(&folder), bench.pipeline.clone(), true).await.unwrap();
        let watched = bench.records().await;
        assert_eq!(watched.len(), 6);
        let rejected: Vec<&Record> = watched.iter().filter(|record| record.kind == Kind::Rejected).collect();
        assert_eq!(rejected.len(), 2);
        assert!(rejected.iter().all(|record| record.raw.as_ref().is_some_and(|raw| raw.len() == LINE_BYTES_KEPT)));
        let imported =
            Import::new(bench.pipeline.clone()).run(&[folder], &Options::default(), &mut Unseen).await.unwrap();
        assert_eq!(imported.total().duplicates, 6);
        assert_eq!(bench.records().await.len(), 6);
    }

    #[tokio::test]
    async fn entries_of_several_lines_are_whole_and_keep_their_keys() {
        let bench = Bench::new().await;
        let file = bench.path("postgresql.log");
        let entry = |second: usize, text: &str| {
            format!("2026-04-01 09:30:0{second}.123 UTC [7] app@shop/api LOG:  statement: {text}\n")
        };
        fs::write(&file, entry(1, "SELECT 1") + &entry(2, "SELECT 2,\n\t3")).unwrap();
        follow(std::slice::from_ref(&file), bench.pipeline.clone(), true).await.unwrap();
        let targets: Vec<_> = bench.records().await.into_iter().map(|record| record.target.unwrap()).collect();
        assert_eq!(targets, ["SELECT 1", "SELECT 2,\n\t3"], "the last entry is not held back when reading stops");
        let report = Import::new(bench.pipeline.clone()).run(&[file], &Options::default(), &mut Unseen).await.unwrap();
        assert_eq!((report.total().lines, report.total().records, report.total().duplicates), (3, 2, 2));
    }

    #[tokio::test]
    async fn the_last_entry_of_a_growing_log_is_stored_without_another_one_after_it() {
        let bench = Bench::new().await;
        let file = bench.path("postgresql.log");
        fs::write(&file, "2026-04-01 09:30:01.123 UTC [7] app@shop/api LOG:  statement: SELECT 1\n").unwrap();
        let paths = [file];
        let following = follow(&paths, bench.pipeline.clone(), false);
        let stored = async {
            while bench.records().await.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            ended = following => panic!("following ended: {ended:?}"),
            () = stored => {}
        }
    }

    #[tokio::test]
    async fn a_file_is_followed_while_it_grows() {
        let bench = Bench::new().await;
        let folder = bench.path("in");
        fs::create_dir_all(&folder).unwrap();
        let mut file = fs::File::create(folder.join("a.jsonl")).unwrap();
        let following = follow(std::slice::from_ref(&folder), bench.pipeline.clone(), false);
        let writing = async {
            for id in 0..3 {
                // Two events, the second one cut in the middle of its line.
                let (whole, cut) = (event(2 * id), event(2 * id + 1));
                write!(file, "{whole}{}", &cut[..5]).unwrap();
                while bench.records().await.len() < 2 * id + 1 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                write!(file, "{}", &cut[5..]).unwrap();
                while bench.records().await.len() < 2 * id + 2 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        tokio::select! {
            ended = following => panic!("following ended: {ended:?}"),
            () = writing => {}
        }
        let keys: Vec<String> = bench.records().await.into_iter().map(|record| record.delivery_key).collect();
        assert_eq!(keys, (0..6).map(|id| format!("api:{id}")).collect::<Vec<_>>());
    }
}
