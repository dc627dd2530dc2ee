//! Where exports and reads are recorded: in the store of this process, or in the inbox of a data directory.
//!
//! Either way the record passes redaction first, because a question may hold a secret.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use threadline_ingest::pipeline::Pipeline;
use threadline_query::AccessLog;
use threadline_schemas::Record;
use threadline_store::Appender;

use super::record::{pipeline, store_config};

/// The store of this process.
#[derive(Debug)]
pub(crate) struct StoreLog(pub(crate) Arc<Pipeline>);

impl AccessLog for StoreLog {
    fn record(&self, records: Vec<Record>) -> BoxFuture<'_, Result<(), String>> {
        async { self.0.submit(records).await.map(drop).map_err(|error| error.to_string()) }.boxed()
    }
}

/// The inbox of a data directory, also beside a running server: a spool per export, which whoever seals takes in.
#[derive(Debug)]
pub(crate) struct InboxLog(PathBuf);

impl InboxLog {
    pub(crate) fn of(directory: &Path) -> InboxLog {
        InboxLog(directory.to_path_buf())
    }

    async fn append(&self, records: Vec<Record>) -> anyhow::Result<()> {
        let (directory, config) = (self.0.clone(), store_config()?);
        // It syncs a few times.
        let spool = move || {
            let appender = Appender::spool(&directory, "threadline export", config)?;
            anyhow::Ok((pipeline(&directory, appender.clone())?, appender))
        };
        let (pipeline, appender) = tokio::task::spawn_blocking(spool).await??;
        let appended = pipeline.submit(records).await;
        // Without its end marked, the spool would look like that of a killed collector.
        appender.close().await?;
        appended?;
        Ok(())
    }
}

impl AccessLog for InboxLog {
    fn record(&self, records: Vec<Record>) -> BoxFuture<'_, Result<(), String>> {
        async { self.append(records).await.map_err(|error| format!("{error:#}")) }.boxed()
    }
}
