//! Readers: where snapshots come from, in the process that seals and in any other.
//!
//! Invariants
//! - what was acknowledged before [`Reader::snapshot`] was called is in the snapshot, through whichever door it came
//! - in another process the order of reading is inbox, table, log: records move in that direction only, so none is missed;
//!   what is met twice on the way is dropped by event id
//! - no lock is taken; when the log was trimmed underneath, the table is read again
//!
//! A reader in another process may also see records whose sync has not returned yet.

use std::{collections::HashSet, io, path::Path, sync::Arc, time::Duration};

use chrono::Utc;
use threadline_schemas::{Record, encoding};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::{
    Snapshot, StoreConfig, StoreError,
    appender::tail_row,
    files::{Delivery, Files, SealedFile, sealed_among},
    inbox::{Inbox, InboxError, SpoolDrain},
    layout::Layout,
    log::{Frames, LogError, LogReader},
    positions::{StreamPosition, positions},
    stages::Stage,
    store::{Core, blocking, drain_now},
    table::RecordsTable,
    tail::{Tail, TailRow},
};

/// How often a moving data directory is looked at again.
const ATTEMPTS_MAX: usize = 20;
/// With less free space nothing is said to be writable: neither a segment of the log nor a seal would fit (8 MiB).
const FREE_BYTES_MIN: u64 = 8 << 20;
/// How long a snapshot waits for the drainer before it reads the spools itself.
const DRAIN_WAIT: Duration = Duration::from_millis(500);
/// Encoded bytes of undrained spools that a snapshot reads; what is beyond is only counted, until the drainer gets there.
const SPOOLED_BYTES_MAX: usize = 16 << 20;

/// Makes snapshots. Clones share what they have read.
#[derive(Debug, Clone)]
pub struct Reader {
    way: Way,
}

#[derive(Debug, Clone)]
enum Way {
    Within(Arc<Core>),
    Outside(Arc<Mutex<Outside>>),
}

impl Reader {
    pub(crate) fn within(core: Arc<Core>) -> Reader {
        Reader { way: Way::Within(core) }
    }

    /// Opens a data directory for reading, beside a running store or without one.
    pub fn open(dir: &Path) -> Result<Reader, StoreError> {
        let layout = Layout::open(dir)?;
        let access = Arc::new(Files::new(layout.clone(), StoreConfig::default().cache_bytes_max, false));
        let outside = Outside { layout, access, table: None, follow: None };
        Ok(Reader { way: Way::Outside(Arc::new(Mutex::new(outside))) })
    }

    /// The present state.
    pub async fn snapshot(&self) -> Result<Arc<Snapshot>, StoreError> {
        let snapshot = match &self.way {
            Way::Within(core) => within(core).await?,
            Way::Outside(outside) => outside.lock().await.snapshot().await?,
        };
        Ok(Arc::new(snapshot))
    }

    /// How far partitions of Kafka topics were read into this data directory.
    ///
    /// # Errors
    /// When the files that say so cannot be read.
    pub async fn positions(&self) -> Result<Vec<StreamPosition>, StoreError> {
        let root = match &self.way {
            Way::Within(core) => core.layout.root().to_path_buf(),
            Way::Outside(outside) => outside.lock().await.layout.root().to_path_buf(),
        };
        blocking(move || positions(&root)).await
    }

    /// Time at work per stage since the store was opened; nothing of another process's store.
    pub fn stage_times(&self) -> Vec<(Stage, Duration)> {
        match &self.way {
            Way::Within(core) => core.log.stages().times(),
            Way::Outside(_) => Vec::new(),
        }
    }

    /// Whether what is sent now could be made durable; another process's store is not asked.
    ///
    /// # Errors
    /// [`StoreError::Closed`] when the log takes nothing more, [`StoreError::NoSpace`] when the disk is full.
    pub fn check_writable(&self) -> Result<(), StoreError> {
        let Way::Within(core) = &self.way else { return Ok(()) };
        if !core.log.is_open() {
            return Err(StoreError::Closed);
        }
        let root = core.layout.root();
        let space =
            rustix::fs::statvfs(root).map_err(|e| StoreError::io("ask for the free space of", root)(e.into()))?;
        match space.f_bavail.saturating_mul(space.f_frsize) {
            free if free < FREE_BYTES_MIN => Err(StoreError::NoSpace { path: root.to_path_buf() }),
            _ => Ok(()),
        }
    }
}

async fn within(core: &Arc<Core>) -> Result<Snapshot, StoreError> {
    let read_at = Utc::now();
    let drained = tokio::time::timeout(DRAIN_WAIT, drain_now(core)).await;
    let mut spooled = Spooled::default();
    if !matches!(drained, Ok(Ok(()))) {
        // The disk may be full, or there is a lot to drain: look into the spools, before the tail.
        let layout = core.layout.clone();
        spooled = blocking(move || read_spools(&layout)).await?;
    }
    let (version, files, mut chunks) = core.shared.view();
    let unread = spooled.unread;
    if !spooled.records.is_empty() {
        let (access, sealed) = (Arc::clone(&core.files), Arc::clone(&files));
        let known: Vec<Uuid> = chunks.iter().flat_map(|c| c.rows.iter().map(|row| row.record.event_id)).collect();
        chunks.extend(
            blocking(move || {
                let known = known.into_iter().collect();
                let mut extra = Tail::default();
                add_spooled(&access, &sealed, &known, spooled.records, &mut extra)?;
                Ok(extra.chunks())
            })
            .await?,
        );
    }
    Ok(Snapshot::new(Arc::clone(&core.files), version, files, chunks, read_at, unread))
}

/// What a reader in another process keeps between snapshots.
#[derive(Debug)]
struct Outside {
    layout: Layout,
    access: Arc<Files>,
    table: Option<RecordsTable>,
    follow: Option<Follow>,
}

/// The log as it was read so far.
#[derive(Debug)]
struct Follow {
    frames: Frames,
    tail: Tail,
}

impl Outside {
    async fn snapshot(&mut self) -> Result<Snapshot, StoreError> {
        let read_at = Utc::now();
        let layout = self.layout.clone();
        let spooled = blocking(move || read_spools(&layout)).await?;
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            match &mut self.table {
                Some(table) => table.refresh().await?,
                None => self.table = RecordsTable::open(&self.layout).await?,
            }
            let (version, files, sealed_below) = match &self.table {
                Some(table) => (table.version(), Arc::new(table.files().to_vec()), table.sealed_below()),
                None => (-1, Arc::default(), 0),
            };
            let (layout, access, known) = (self.layout.clone(), Arc::clone(&self.access), self.follow.take());
            let sealed = Arc::clone(&files);
            let read = blocking(move || follow(&layout, &access, &sealed, sealed_below, known)).await;
            let follow = match read {
                Ok(follow) => follow,
                // The sealer was faster: the table has these frames now.
                Err(StoreError::Log(LogError::Trimmed { .. })) => continue,
                Err(error) => return Err(error),
            };
            let mut chunks = follow.as_ref().map(|follow| follow.tail.chunks()).unwrap_or_default();
            self.follow = follow;
            let unread = spooled.unread;
            if !spooled.records.is_empty() {
                let (access, sealed) = (Arc::clone(&self.access), Arc::clone(&files));
                let known = chunks.iter().flat_map(|c| c.rows.iter().map(|row| row.record.event_id)).collect();
                chunks.extend(
                    blocking(move || {
                        let mut extra = Tail::default();
                        add_spooled(&access, &sealed, &known, spooled.records, &mut extra)?;
                        Ok(extra.chunks())
                    })
                    .await?,
                );
            }
            return Ok(Snapshot::new(Arc::clone(&self.access), version, files, chunks, read_at, unread));
        }
        Err(StoreError::Moving)
    }
}

/// Reads the log on from where it was read to, or from the table's position. `None`: there is no log yet.
fn follow(
    layout: &Layout,
    access: &Files,
    files: &[Arc<SealedFile>],
    sealed_below: u64,
    known: Option<Follow>,
) -> Result<Option<Follow>, StoreError> {
    let mut follow = match known {
        Some(mut follow) if follow.frames.next_offset() >= sealed_below => {
            follow.tail.drop_below(sealed_below);
            follow
        }
        _ if !layout.log().is_dir() => return Ok(None),
        _ => Follow { frames: LogReader::open(&layout.log())?.frames(sealed_below), tail: Tail::default() },
    };
    let mut rows: Vec<TailRow> = Vec::new();
    for frame in follow.frames.by_ref() {
        let (offset, payload) = frame?;
        let record = encoding::decode(&payload);
        let record = record.map_err(|source| StoreError::Frame { dir: layout.log(), offset, source })?;
        let content = record.content_digest();
        rows.push(tail_row(offset, record, payload.len(), content));
    }
    let wanted: Vec<Delivery> = rows.iter().map(|row| Delivery::of(&row.record)).collect();
    let sealed = sealed_among(access, files, &wanted)?;
    let sealed: HashSet<Uuid> = sealed.into_iter().map(|known| known.event).collect();
    rows.retain(|row| !sealed.contains(&row.record.event_id));
    rows.into_iter().for_each(|row| {
        follow.tail.push(row);
    });
    Ok(Some(follow))
}

/// Records of spools that are not drained.
#[derive(Debug, Default)]
struct Spooled {
    /// With their encoded size.
    records: Vec<(Record, usize)>,
    bytes: usize,
    /// How many more there are.
    unread: u64,
}

/// A spool that goes away meanwhile was drained into the log, which is read later.
fn read_spools(layout: &Layout) -> Result<Spooled, StoreError> {
    let mut spooled = Spooled::default();
    if !layout.inbox().is_dir() {
        return Ok(spooled);
    }
    for spool in Inbox::open(layout.root())?.spools()? {
        match spooled.read(&spool) {
            Err(StoreError::Log(LogError::Read { source, .. })) if source.kind() == io::ErrorKind::NotFound => {}
            Err(StoreError::Inbox(InboxError::Read { source, .. })) if source.kind() == io::ErrorKind::NotFound => {}
            Err(StoreError::Log(LogError::Trimmed { .. })) => {}
            Err(error) => {
                // The drainer reports it and sets it aside; what is readable is shown.
                tracing::warn!(spool = %spool.id(), error = &error as &dyn std::error::Error, "a spool cannot be read");
            }
            Ok(()) => {}
        }
    }
    Ok(spooled)
}

impl Spooled {
    fn read(&mut self, spool: &SpoolDrain) -> Result<(), StoreError> {
        for frame in spool.frames()? {
            let (offset, payload) = frame?;
            if self.bytes + payload.len() > SPOOLED_BYTES_MAX {
                // Nothing after it either: order within a source is kept.
                self.bytes = SPOOLED_BYTES_MAX;
                self.unread += 1;
                continue;
            }
            let record = encoding::decode(&payload);
            let record =
                record.map_err(|source| StoreError::Frame { dir: spool.dir().to_path_buf(), offset, source })?;
            self.bytes += payload.len();
            self.records.push((record, payload.len()));
        }
        Ok(())
    }
}

/// Adds spooled records that are neither known nor sealed.
fn add_spooled(
    access: &Files,
    files: &[Arc<SealedFile>],
    known: &HashSet<Uuid>,
    spooled: Vec<(Record, usize)>,
    tail: &mut Tail,
) -> Result<(), StoreError> {
    let wanted: Vec<Delivery> = spooled.iter().map(|(record, _)| Delivery::of(record)).collect();
    let sealed = sealed_among(access, files, &wanted)?;
    let sealed: HashSet<Uuid> = sealed.into_iter().map(|known| known.event).collect();
    for ((record, bytes), Delivery { content, .. }) in spooled.into_iter().zip(wanted) {
        if !known.contains(&record.event_id) && !sealed.contains(&record.event_id) {
            tail.push(TailRow { offset: None, record: Arc::new(record), bytes: bytes as u32, content });
        }
    }
    Ok(())
}
