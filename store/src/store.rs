//! An open store: the one process per data directory that seals. Wires log, tail, sealer, indexer and drainer.

use std::{fs::File, path::Path, sync::Arc, sync::Mutex, sync::PoisonError, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use crate::{
    StoreConfig, StoreError,
    appender::Appender,
    drain::Drainer,
    faults::Faults,
    files::Files,
    inbox::Inbox,
    layout::Layout,
    log::{Log, LogConfig, LogError, Recovery},
    reader::Reader,
    recovery,
    seal::Seal,
    sealer::{self, IndexQueue, Request},
    stages::Stage,
    state::Shared,
};

/// What every task of a store has in hand.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) layout: Layout,
    pub(crate) config: StoreConfig,
    pub(crate) files: Arc<Files>,
    pub(crate) log: Log,
    pub(crate) shared: Shared,
    pub(crate) faults: Faults,
    /// Asks the drainer for a round.
    pub(crate) drains: mpsc::Sender<oneshot::Sender<Result<(), StoreError>>>,
    /// The lock of the sealing process; taken out when the store is closed.
    lock: Mutex<Option<Arc<File>>>,
}

impl Core {
    /// Keeps the directory locked while work on a blocking thread, which cannot be stopped, writes into it.
    pub(crate) fn hold(&self) -> Option<Arc<File>> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn let_go(&self) {
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// The process that holds the seal lock of a data directory. See the crate head for an example.
#[derive(Debug)]
pub struct Store {
    core: Arc<Core>,
    requests: mpsc::Sender<Request>,
    stop: watch::Sender<bool>,
    drainer: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
}

/// How long opening waits for a log that an earlier store of this process is still letting go of.
const LOG_LOCK_WAIT: Duration = Duration::from_secs(5);

impl Store {
    /// Opens or creates the data directory, recovers it, and starts sealer, text indexer and inbox drainer.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while another process seals here; errors that name what is damaged.
    pub async fn open(dir: &Path, config: StoreConfig) -> Result<Store, StoreError> {
        let dir = dir.to_path_buf();
        let (layout, lock) = blocking(move || {
            let layout = Layout::create(&dir)?;
            let lock = layout.lock()?;
            Ok((layout, lock))
        })
        .await?;
        let table = recovery::open_table(&layout, config.checkpoint_interval).await?;
        let log_config = LogConfig { sealed_below: table.sealed_below(), ..config.log.clone() };
        let (log, recovered) = open_log(&layout, log_config).await?;

        let (drains, drain_requests) = mpsc::channel(16);
        let core = Arc::new(Core {
            files: Arc::new(Files::new(layout.clone(), config.cache_bytes_max, true)),
            shared: Shared::new(config.tail_bytes_max),
            faults: Faults::default(),
            lock: Mutex::new(Some(Arc::new(lock))),
            layout,
            config,
            log,
            drains,
        });
        core.shared.lock().publish(table.files(), table.version(), table.sealed_below());
        let recovering = Arc::clone(&core);
        let files = table.files().to_vec();
        blocking(move || {
            recovery::replay(&recovering, &recovered)?;
            recovery::remove_orphans(&recovering.layout, &files)
        })
        .await?;

        let (requests, seal_requests) = mpsc::channel(16);
        let (index, index_requests) = IndexQueue::new();
        let inbox = Inbox::open(core.layout.root())?;
        if let Err(error) = inbox.sweep() {
            tracing::warn!(error = &error as &dyn std::error::Error, "what interrupted spools left stays");
        }
        let (stop, stopped) = watch::channel(false);
        let seal = Seal::new(Arc::clone(&core), table);
        let tasks = vec![
            tokio::spawn(sealer::run(Arc::clone(&core), seal, seal_requests, index)),
            tokio::spawn(sealer::run_indexer(Arc::clone(&core), index_requests)),
        ];
        let drainer = tokio::spawn(drain(Drainer::new(Arc::clone(&core), inbox), drain_requests, stopped));
        Ok(Store { core, requests, stop, drainer, tasks })
    }

    /// A handle for appending directly.
    pub fn appender(&self) -> Appender {
        Appender::direct(Arc::clone(&self.core))
    }

    /// A reader that shares the tail in memory.
    pub fn reader(&self) -> Reader {
        Reader::within(Arc::clone(&self.core))
    }

    /// Time at work per stage since the store was opened.
    pub fn stage_times(&self) -> Vec<(Stage, Duration)> {
        self.core.log.stages().times()
    }

    /// Returns when everything that was acknowledged before the call is sealed and has a text index.
    pub async fn seal_now(&self) -> Result<(), StoreError> {
        drain_now(&self.core).await?;
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Now(reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Drains the inbox, seals, syncs, and lets go of the directory. What could not be sealed stays in the log.
    pub async fn close(self) -> Result<(), StoreError> {
        let sealed = self.seal_now().await;
        self.stop.send_replace(true);
        let drained = self.drainer.await;
        drop(self.requests);
        let mut ended = drained.is_ok();
        for task in self.tasks {
            ended &= task.await.is_ok();
        }
        let closed = self.core.log.close().await;
        self.core.let_go();
        sealed?;
        closed?;
        if ended { Ok(()) } else { Err(StoreError::Closed) }
    }

    #[cfg(test)]
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Ends all tasks where they stand, as a killed process would, and lets go of the directory.
    #[cfg(test)]
    pub(crate) async fn crash(self) {
        self.drainer.abort();
        self.tasks.iter().for_each(JoinHandle::abort);
        drop(self.drainer.await);
        for task in self.tasks {
            drop(task.await);
        }
        drop(self.core.log.close().await);
        self.core.let_go();
        // Work on blocking threads goes on to its end, as writes that the kernel had already taken would.
        let path = self.core.layout.root().join("seal.lock");
        blocking(move || File::open(&path).and_then(|f| f.lock()).map_err(StoreError::io("lock", path))).await.unwrap();
    }
}

/// Asks the drainer to move what is in the inbox now.
pub(crate) async fn drain_now(core: &Core) -> Result<(), StoreError> {
    let (reply, answer) = oneshot::channel();
    core.drains.send(reply).await.map_err(|_| StoreError::Closed)?;
    answer.await.map_err(|_| StoreError::Closed)?
}

/// The drainer's loop: a round now and then, and whenever somebody asks.
async fn drain(
    mut drainer: Drainer,
    mut requests: mpsc::Receiver<oneshot::Sender<Result<(), StoreError>>>,
    mut stopped: watch::Receiver<bool>,
) {
    let pause = Duration::from_millis(drainer.poll_ms().max(1));
    let mut failing = false;
    loop {
        let mut asked = Vec::new();
        tokio::select! {
            // Also when the store was dropped without closing.
            _ = stopped.changed() => return,
            request = requests.recv() => match request {
                Some(reply) => asked.push(reply),
                None => return,
            },
            () = tokio::time::sleep(pause) => {}
        }
        while let Ok(reply) = requests.try_recv() {
            asked.push(reply);
        }
        let result = drainer.drain().await.map(|_| ()).map_err(Arc::new);
        if let Err(error) = &result
            && !failing
        {
            tracing::error!(error = error.as_ref() as &dyn std::error::Error, "the inbox cannot be drained");
        }
        failing = result.is_err();
        for reply in asked {
            // Whoever asked may have given up.
            drop(reply.send(result.clone().map_err(StoreError::Drain)));
        }
    }
}

/// Opens the log; an earlier store of this very process may need a moment to let go of it.
async fn open_log(layout: &Layout, config: LogConfig) -> Result<(Log, Recovery), StoreError> {
    let deadline = tokio::time::Instant::now() + LOG_LOCK_WAIT;
    loop {
        let (dir, config) = (layout.log(), config.clone());
        match blocking(move || Ok(Log::open(&dir, config)?)).await {
            Err(StoreError::Log(LogError::Locked { .. })) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

/// Runs file work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Closed))
}
