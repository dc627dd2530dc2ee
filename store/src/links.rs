//! The Delta table `links`: what was judged about which record belongs to which, and since when we believe it.
//!
//! Invariants
//! - rows are added, never edited or removed: a later opinion about a record supersedes the earlier one, so "what did we
//!   believe at time T" stays answerable
//! - an append is one Delta commit; files, log entry and directories are synced before it returns
//! - the table is derived from committed records: it can be dropped and made again
//!
//! One process appends at a time, the one that holds the seal lock; readers need no lock.
//! A crash between the file and the commit leaves a file that no commit names; the next append removes it.
//!
//! Not here: what is judged (`ingest::correlate`), how opinions become sessions (`query`).
//!
//! On disk: `links/<uuid>.parquet`, `links/_delta_log/`.

mod row;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::Utc;
use deltalake_core::{
    DeltaTable, DeltaTableBuilder, DeltaTableError,
    kernel::{
        Action, Add, StructType, Transaction,
        engine::arrow_conversion::TryIntoKernel,
        transaction::{CommitBuilder, CommitProperties},
    },
    operations::create::CreateBuilder,
    protocol::{DeltaOperation, SaveMode},
};
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use url::Url;
use uuid::Uuid;

pub use self::row::LinkRow;
use crate::{StoreError, durable, store::blocking};

/// Tags of a file: the event time that its rows are about.
const TAG_FROM: &str = "threadline.from_unix_nano";
const TAG_TO: &str = "threadline.to_unix_nano";
/// Rows per file.
const FILE_ROWS_MAX: usize = 200_000;
/// A checkpoint is written after this many commits.
const CHECKPOINT_INTERVAL: u64 = 20;

/// The table as one process holds it.
#[derive(Debug)]
pub struct LinksTable {
    root: PathBuf,
    delta: DeltaTable,
    /// Rows of files that were read; files never change.
    read: BTreeMap<PathBuf, Arc<Vec<LinkRow>>>,
}

impl LinksTable {
    /// Opens the table of a data directory; `None` when nothing was judged there yet.
    pub async fn open(data: &Path) -> Result<Option<LinksTable>, StoreError> {
        let root = data.join("links");
        if !root.join("_delta_log").is_dir() {
            return Ok(None);
        }
        match builder(&root)?.load().await {
            Err(DeltaTableError::NotATable(_)) => Ok(None),
            Err(error) => Err(StoreError::table("open")(error)),
            Ok(delta) => Ok(Some(LinksTable { root, delta, read: BTreeMap::new() })),
        }
    }

    /// Opens the table for appending, and makes it where there is none. The caller holds the seal lock.
    pub async fn open_or_create(data: &Path) -> Result<LinksTable, StoreError> {
        if let Some(table) = LinksTable::open(data).await? {
            table.remove_orphans()?;
            return Ok(table);
        }
        let root = data.join("links");
        durable::create_dirs(&root)?;
        let fields: StructType = row::schema()
            .as_ref()
            .try_into_kernel()
            .map_err(|source| StoreError::Arrow { file: Uuid::nil(), source })?;
        let delta = CreateBuilder::new()
            .with_location(location(&root)?.to_string())
            .with_table_name("links")
            .with_columns(fields.fields().cloned())
            .with_configuration([("delta.dataSkippingNumIndexedCols".to_string(), Some("0".to_string()))])
            .await
            .map_err(StoreError::table("create"))?;
        let table = LinksTable { root, delta, read: BTreeMap::new() };
        table.sync_entry()?;
        Ok(table)
    }

    /// Version of the table.
    pub fn version(&self) -> i64 {
        self.delta.version().map_or(-1, |version| version as i64)
    }

    /// Reads what was committed since.
    pub async fn refresh(&mut self) -> Result<(), StoreError> {
        if self.entry(self.version() + 1).exists() {
            self.delta.update_incremental(None).await.map_err(StoreError::table("read"))?;
        }
        Ok(())
    }

    /// Adds rows in one commit.
    pub async fn append(&mut self, rows: Vec<LinkRow>) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        self.commit(rows, &[]).await
    }

    /// Adds rows and moves positions, named numbers that say how far the work has come, in one commit: after a crash
    /// both are there or neither.
    pub async fn commit(&mut self, rows: Vec<LinkRow>, positions: &[(&str, i64)]) -> Result<(), StoreError> {
        self.refresh().await?;
        let mut adds = Vec::new();
        for part in rows.chunks(FILE_ROWS_MAX) {
            let path = self.root.join(format!("{}.parquet", Uuid::new_v4()));
            let (to, part) = (path.clone(), part.to_vec());
            let interval = interval(&part);
            let (bytes, count) = blocking(move || write(&to, &part)).await?;
            adds.push(Action::Add(add(&path, bytes, count, interval)));
        }
        // A crash here leaves files that no commit names; the next process that appends removes them.
        let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
        let mut properties =
            CommitProperties::default().with_create_checkpoint(false).with_cleanup_expired_logs(Some(false));
        let now = Utc::now().timestamp_millis();
        for (name, position) in positions {
            properties =
                properties.with_application_transaction(Transaction::new_with_last_update(*name, *position, Some(now)));
        }
        let state = self.delta.snapshot().map_err(StoreError::table("read"))?;
        let commit = CommitBuilder::from(properties)
            .with_actions(adds)
            .build(Some(state), self.delta.log_store(), operation)
            .await
            .map_err(StoreError::table("commit to"))?;
        self.delta.state = Some(commit.snapshot());
        self.sync_entry()?;
        if self.version() > 0 && self.version().unsigned_abs().is_multiple_of(CHECKPOINT_INTERVAL) {
            // It only saves reading.
            deltalake_core::checkpoints::create_checkpoint(&self.delta, None)
                .await
                .map_err(StoreError::table("write a checkpoint of"))?;
        }
        Ok(())
    }

    /// Every row, by file; files that were read before are not read again.
    pub async fn rows(&mut self) -> Result<Vec<Arc<Vec<LinkRow>>>, StoreError> {
        let mut known = std::mem::take(&mut self.read);
        for path in self.files()? {
            let rows = match known.remove(&path) {
                Some(rows) => rows,
                None => {
                    let from = path.clone();
                    Arc::new(blocking(move || read(&from)).await?)
                }
            };
            self.read.insert(path, rows);
        }
        Ok(self.read.values().cloned().collect())
    }

    /// A position, as the last commit that moved it left it.
    pub async fn position(&self, name: &str) -> Result<Option<i64>, StoreError> {
        let state = self.delta.snapshot().map_err(StoreError::table("read"))?;
        let position = state.transaction_version(self.delta.log_store().as_ref(), name).await;
        position.map_err(StoreError::table("read the position of"))
    }

    /// Rows of the files that may hold opinions about records of this event time, `from` to before `to`. Nothing is kept.
    pub async fn rows_between(&self, from: i64, to: i64) -> Result<Vec<Arc<Vec<LinkRow>>>, StoreError> {
        let state = self.delta.snapshot().map_err(StoreError::table("read"))?;
        let mut found = Vec::new();
        for view in state.log_data().iter() {
            // Deprecated in favour of the Arrow arrays, which do not show the tags.
            #[allow(deprecated)]
            let tags = view.add_action().tags.unwrap_or_default();
            let bound = |name: &str| tags.get(name).and_then(Clone::clone).and_then(|text| text.parse::<i64>().ok());
            // A file without tags is of before they were written.
            if bound(TAG_FROM).is_some_and(|low| low >= to) || bound(TAG_TO).is_some_and(|high| high <= from) {
                continue;
            }
            let path = self.root.join(view.path().as_ref());
            found.push(Arc::new(blocking(move || read(&path)).await?));
        }
        Ok(found)
    }

    fn files(&self) -> Result<Vec<PathBuf>, StoreError> {
        let state = self.delta.snapshot().map_err(StoreError::table("read"))?;
        Ok(state.log_data().iter().map(|view| self.root.join(view.path().as_ref())).collect())
    }

    fn remove_orphans(&self) -> Result<(), StoreError> {
        let named: BTreeSet<PathBuf> = self.files()?.into_iter().collect();
        for entry in self.root.read_dir().map_err(StoreError::io("list", &self.root))? {
            let path = entry.map_err(StoreError::io("list", &self.root))?.path();
            if path.extension().is_some_and(|extension| extension == "parquet") && !named.contains(&path) {
                durable::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn entry(&self, version: i64) -> PathBuf {
        self.root.join(format!("_delta_log/{version:020}.json"))
    }

    fn sync_entry(&self) -> Result<(), StoreError> {
        let entry = self.entry(self.version());
        let data = self.root.parent().unwrap_or(&self.root);
        Ok(durable::sync_files_below(data, [entry.as_path()])?)
    }
}

/// Of all rows the opinions that stood at `at_us`: per record the rows with the latest `known_at`.
pub fn opinions(files: &[Arc<Vec<LinkRow>>], at_us: i64) -> HashMap<Uuid, Vec<&LinkRow>> {
    let mut standing: HashMap<Uuid, Vec<&LinkRow>> = HashMap::new();
    for row in files.iter().flat_map(|rows| rows.iter()).filter(|row| row.known_at_us <= at_us) {
        let rows = standing.entry(row.from).or_default();
        match rows.first().map(|known| known.known_at_us.cmp(&row.known_at_us)) {
            None | Some(std::cmp::Ordering::Equal) => rows.push(row),
            Some(std::cmp::Ordering::Less) => *rows = vec![row],
            Some(std::cmp::Ordering::Greater) => {}
        }
    }
    standing
}

/// A URL has an absolute path; the data directory may be given by another.
fn location(root: &Path) -> Result<Url, StoreError> {
    let absolute = std::path::absolute(root).map_err(StoreError::io("name", root))?;
    Url::from_directory_path(absolute).map_err(|()| StoreError::Io {
        step: "name",
        path: root.to_path_buf(),
        source: std::io::Error::other("the path cannot be a URL"),
    })
}

fn builder(root: &Path) -> Result<DeltaTableBuilder, StoreError> {
    DeltaTableBuilder::from_url(location(root)?).map_err(StoreError::table("open"))
}

/// Writes and syncs a file; returns its bytes and rows.
fn write(path: &Path, rows: &[LinkRow]) -> Result<(u64, usize), StoreError> {
    let batch = row::to_batch(rows).map_err(|source| StoreError::Arrow { file: Uuid::nil(), source })?;
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(StoreError::io("create", path))?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut writer =
        ArrowWriter::try_new(&file, batch.schema(), Some(properties)).map_err(StoreError::parquet("write", path))?;
    writer.write(&batch).map_err(StoreError::parquet("write", path))?;
    writer.close().map_err(StoreError::parquet("write", path))?;
    file.sync_all().map_err(StoreError::io("sync", path))?;
    durable::sync_dir(path.parent().unwrap_or(path))?;
    Ok((file.metadata().map_err(StoreError::io("read", path))?.len(), rows.len()))
}

fn read(path: &Path) -> Result<Vec<LinkRow>, StoreError> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(StoreError::parquet("read", path))?;
    let mut rows = Vec::new();
    for batch in reader.build().map_err(StoreError::parquet("read", path))? {
        let batch = batch.map_err(|source| StoreError::Arrow { file: Uuid::nil(), source })?;
        rows.extend(row::from_batch(&batch).map_err(|source| StoreError::Arrow { file: Uuid::nil(), source })?);
    }
    Ok(rows)
}

/// Event time from which and up to which the runs of these rows read records.
fn interval(rows: &[LinkRow]) -> (i64, i64) {
    let from = rows.iter().map(|row| row.interval_from).min().unwrap_or(i64::MIN);
    (from, rows.iter().map(|row| row.interval_to).max().unwrap_or(i64::MAX))
}

fn add(path: &Path, bytes: u64, rows: usize, (from, to): (i64, i64)) -> Add {
    Add {
        path: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        size: bytes as i64,
        modification_time: Utc::now().timestamp_millis(),
        data_change: true,
        stats: Some(serde_json::json!({ "numRecords": rows }).to_string()),
        tags: Some([(TAG_FROM.into(), Some(from.to_string())), (TAG_TO.into(), Some(to.to_string()))].into()),
        ..Add::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(from: u128, to: Option<u128>, known_at_us: i64) -> LinkRow {
        LinkRow {
            from: Uuid::from_u128(from),
            to: to.map(Uuid::from_u128),
            relation: "execution".into(),
            grade: "inferred".into(),
            rule: "test".into(),
            score: 0.9,
            evidence: Some(r#"[{"what":"start"}]"#.into()),
            candidates: None,
            session: Some("s".into()),
            turn: None,
            call: None,
            linker: "1".into(),
            interval_from: 0,
            interval_to: 9,
            is_final: true,
            known_at_us,
        }
    }

    #[tokio::test]
    async fn later_opinions_supersede_and_earlier_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        assert!(LinksTable::open(dir.path()).await.unwrap().is_none());
        let mut table = LinksTable::open_or_create(dir.path()).await.unwrap();
        table.append(vec![link(1, Some(2), 100), link(3, Some(2), 100)]).await.unwrap();
        let mut reader = LinksTable::open(dir.path()).await.unwrap().unwrap();
        assert_eq!(reader.rows().await.unwrap()[0].len(), 2);
        table.append(vec![link(1, Some(4), 200)]).await.unwrap();
        reader.refresh().await.unwrap();
        let files = reader.rows().await.unwrap();
        let target = |at_us: i64, from: u128| {
            opinions(&files, at_us).get(&Uuid::from_u128(from)).map(|rows| rows[0].to.unwrap().as_u128())
        };
        assert_eq!((target(150, 1), target(250, 1), target(250, 3), target(50, 1)), (Some(2), Some(4), Some(2), None));
        assert_eq!(
            *files[0].iter().chain(files[1].iter()).find(|row| row.known_at_us == 200).unwrap(),
            link(1, Some(4), 200)
        );
    }

    #[tokio::test]
    async fn positions_move_with_the_rows_and_files_are_found_by_event_time() {
        let dir = tempfile::tempdir().unwrap();
        let mut table = LinksTable::open_or_create(dir.path()).await.unwrap();
        assert_eq!(table.position("read").await.unwrap(), None);
        let later = LinkRow { interval_from: 100, interval_to: 200, ..link(5, None, 1) };
        table.commit(vec![link(1, Some(2), 1)], &[("read", 7), ("open", -3)]).await.unwrap();
        table.commit(vec![later], &[("read", 9)]).await.unwrap();
        let reader = LinksTable::open(dir.path()).await.unwrap().unwrap();
        assert_eq!(reader.position("read").await.unwrap(), Some(9));
        assert_eq!(reader.position("open").await.unwrap(), Some(-3));
        assert_eq!(reader.rows_between(0, 50).await.unwrap().len(), 1);
        assert_eq!(reader.rows_between(150, 160).await.unwrap()[0][0].from, Uuid::from_u128(5));
        assert_eq!(reader.rows_between(0, 150).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_file_that_no_commit_names_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let mut table = LinksTable::open_or_create(dir.path()).await.unwrap();
        table.append(vec![link(1, None, 1)]).await.unwrap();
        let orphan = dir.path().join("links/left.parquet");
        std::fs::write(&orphan, b"x").unwrap();
        drop(table);
        let mut table = LinksTable::open_or_create(dir.path()).await.unwrap();
        assert!(!orphan.exists());
        assert_eq!(table.rows().await.unwrap().len(), 1);
    }
}
