//! Decides when to seal, and builds text indexes behind the commit.
//!
//! Invariants
//! - under load there is about one commit per second, unless the tail's budget runs low
//! - a failed seal is tried again with growing pauses; meanwhile the tail fills and appends are refused as overloaded
//! - the indexer never holds up the sealer: when it falls behind it reads the rows from the files instead of from memory

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};

use crate::{
    StoreError,
    faults::Step,
    files::SealedFile,
    seal::{HeldRows, Rows, Seal},
    stages::Stage,
    store::Core,
    text,
};

/// Memory of rows that are kept until their text is indexed (32 MiB); beyond it they are read from their files.
const INDEX_ROWS_BYTES_MAX: usize = 32 << 20;
/// Unit of the semaphore that bounds it.
const INDEX_ROWS_UNIT_BYTES: usize = 1024;
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Share of the tail's budget below which the least time between commits does not count.
const ROOM_LOW: f64 = 0.25;

/// What the sealer can be asked for.
#[derive(Debug)]
pub(crate) enum Request {
    /// Seal and index everything acknowledged so far.
    Now(oneshot::Sender<Result<(), StoreError>>),
}

/// Rows of a file in memory, and the permit to keep them.
type KeptRows = (Rows, OwnedSemaphorePermit);

/// What the indexer is told.
#[derive(Debug)]
pub(crate) enum IndexRequest {
    /// A file needs an index; its rows when they are at hand.
    File(Arc<SealedFile>, Option<KeptRows>),
    /// Answer when everything before this is done.
    Flush(oneshot::Sender<Result<(), StoreError>>),
}

/// The sealer's loop; ends when the requests end.
pub(crate) async fn run(core: Arc<Core>, mut seal: Seal, mut requests: mpsc::Receiver<Request>, index: IndexQueue) {
    // Files of earlier runs that lack an index.
    hand_over(&index, seal.unindexed());
    // What replay put into the tail is as old as can be told.
    let mut oldest = Some(Instant::now());
    let mut not_before = Instant::now();
    let mut retry = RETRY_MIN;
    loop {
        let due = due(&core, oldest, not_before, retry > RETRY_MIN);
        let mut asked = Vec::new();
        tokio::select! {
            request = requests.recv() => match request {
                Some(Request::Now(reply)) => asked.push(reply),
                None => return,
            },
            () = core.shared.arrived.notified() => {
                oldest = oldest.or_else(|| Some(Instant::now()));
                continue;
            }
            () = sleep_until(due) => {}
        }
        while let Ok(Request::Now(reply)) = requests.try_recv() {
            asked.push(reply);
        }
        let result = seal.seal().await;
        let now = Instant::now();
        let pause = match &result {
            Ok(_) => {
                retry = RETRY_MIN;
                Duration::from_millis(core.config.commit_interval_min_ms)
            }
            Err(error) => {
                tracing::error!(error = error as &dyn std::error::Error, "sealing failed, trying again");
                let pause = retry;
                retry = (retry * 2).min(RETRY_MAX);
                pause
            }
        };
        not_before = now + pause;
        oldest = (core.shared.lock().tail.len() > 0).then_some(now);
        hand_over(&index, seal.unindexed());
        let result = result.map_err(Arc::new);
        for reply in asked {
            match &result {
                // The answer comes from behind the indexer's queue.
                Ok(()) => index.send(IndexRequest::Flush(reply)),
                Err(error) => drop(reply.send(Err(StoreError::Seal(Arc::clone(error))))),
            }
        }
    }
}

/// When the next seal is due; `None` while there is nothing to seal.
fn due(core: &Core, oldest: Option<Instant>, not_before: Instant, retrying: bool) -> Option<Instant> {
    let state = core.shared.lock();
    let (rows, bytes) = (state.tail.len(), state.tail.bytes());
    drop(state);
    if rows == 0 {
        return None;
    }
    let now = Instant::now();
    if core.shared.room() < ROOM_LOW {
        // Only a failure is waited out now.
        return Some(if retrying { not_before } else { now });
    }
    let full = rows >= core.config.seal_rows_max || bytes >= core.config.seal_bytes_max;
    let age = Duration::from_millis(core.config.seal_age_max_ms);
    Some(if full { now } else { oldest.unwrap_or(now) + age }.max(not_before))
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Hands new files to the indexer, with their rows where there is room for them.
fn hand_over(index: &IndexQueue, files: Vec<(Arc<SealedFile>, Option<HeldRows>)>) {
    for (file, held) in files {
        let kept = held.and_then(|HeldRows { rows, bytes }| {
            let units = u32::try_from(bytes / INDEX_ROWS_UNIT_BYTES + 1).ok()?;
            Some((rows, Arc::clone(&index.rows_kept).try_acquire_many_owned(units).ok()?))
        });
        index.send(IndexRequest::File(file, kept));
    }
}

/// The way to the indexer.
#[derive(Debug, Clone)]
pub(crate) struct IndexQueue {
    requests: mpsc::UnboundedSender<IndexRequest>,
    rows_kept: Arc<Semaphore>,
}

impl IndexQueue {
    pub(crate) fn new() -> (IndexQueue, mpsc::UnboundedReceiver<IndexRequest>) {
        // Without rows a request is a few words per file of the table, which is bound enough.
        let (requests, receiver) = mpsc::unbounded_channel();
        (
            IndexQueue { requests, rows_kept: Arc::new(Semaphore::new(INDEX_ROWS_BYTES_MAX / INDEX_ROWS_UNIT_BYTES)) },
            receiver,
        )
    }

    pub(crate) fn send(&self, request: IndexRequest) {
        if self.requests.send(request).is_err() {
            tracing::debug!("the indexer is gone, the store is closing");
        }
    }
}

/// The indexer's loop; ends when the requests end.
pub(crate) async fn run_indexer(core: Arc<Core>, mut requests: mpsc::UnboundedReceiver<IndexRequest>) {
    let mut failed = None;
    while let Some(request) = requests.recv().await {
        match request {
            IndexRequest::File(file, rows) => {
                let core = Arc::clone(&core);
                let built = tokio::task::spawn_blocking(move || index_file(&core, &file, rows)).await;
                if let Err(error) = built.unwrap_or(Err(StoreError::Closed)) {
                    // The file is scanned until the store is opened again.
                    tracing::error!(error = &error as &dyn std::error::Error, "no text index for a sealed file");
                    failed = Some(error);
                }
            }
            IndexRequest::Flush(reply) => {
                // Nobody has to wait for the answer.
                drop(reply.send(failed.take().map_or(Ok(()), Err)));
            }
        }
    }
}

/// A crash in here leaves a directory ending in `.tmp`, or an index that is whole; opening the store removes the first,
/// and builds what is missing.
fn index_file(core: &Core, file: &SealedFile, rows: Option<KeptRows>) -> Result<(), StoreError> {
    let _held = core.hold();
    if core.files.has_text(file) {
        return Ok(());
    }
    core.faults.before(Step::Text)?;
    let _indexing = core.log.stages().at_work(Stage::Text);
    let path = core.layout.text(file.id);
    text::build(&path, file.rows, core.config.text_index_bytes_max, |add| match rows {
        Some((rows, _)) => rows.iter().try_for_each(|record| add(record)),
        None => core.files.each_record(file, None, Some(text::SEARCHED_COLUMNS), |record| {
            add(&record).map(|()| ControlFlow::Continue(()))
        }),
    })?;
    core.files.text_built(file.id);
    core.faults.after(Step::Text)
}
