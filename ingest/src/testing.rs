//! A real store in a directory that goes away, for the tests of this crate.

use std::path::PathBuf;
use std::sync::Arc;

use threadline_schemas::Record;
use threadline_schemas::digest::MatchKey;
use threadline_store::{RowId, Store, StoreConfig};

use crate::pipeline::Pipeline;

pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) pipeline: Arc<Pipeline>,
}

impl Bench {
    pub(crate) async fn new() -> Bench {
        Self::with(StoreConfig::default()).await
    }

    pub(crate) async fn with(config: StoreConfig) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("data"), config).await.unwrap();
        let pipeline = Arc::new(Pipeline::new(store.appender(), MatchKey::new([9; 32]), "default".into()));
        Bench { dir, store, pipeline }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Everything stored, sealed or not, by origin.
    pub(crate) async fn records(&self) -> Vec<Record> {
        let snapshot = self.store.reader().snapshot().await.unwrap();
        let sealed = snapshot
            .files()
            .iter()
            .enumerate()
            .flat_map(|(file, sealed)| (0..sealed.rows).map(move |row| RowId { file: file as u32, row }));
        let tail = (0..snapshot.tail().len()).map(|row| RowId { file: RowId::TAIL, row: row as u32 });
        let mut records = snapshot.records(&sealed.chain(tail).collect::<Vec<_>>()).await.unwrap();
        records
            .sort_by_cached_key(|record| (record.origin_file.clone(), record.origin_line, record.delivery_key.clone()));
        records
    }
}
