//! The Delta table `records`: which files are sealed, and up to which log offset.
//!
//! Invariants
//! - the application transaction `threadline:<store>:log/<partition>` holds the first offset that is not sealed; it is in
//!   the same commit as the files it stands for
//! - a commit is made only against a state in which that transaction was read, and only forward: what is sealed already
//!   is skipped, because Delta itself accepts the same transaction twice in a row
//! - one handle per process commits; every commit, checkpoint and directory is synced here, because the object store
//!   below does not
//! - the Add of a file has the SHA-256 of the file and of its sidecars in its tags (`threadline.sha256`, `.ids.sha256`,
//!   `.bodies.sha256`), so that whoever holds the table's log can tell whether any byte was changed
//! - statistics name times and row counts, never content; the Delta log is kept (it is history), so is every transaction
//!   (expiring ones would be sealed again)
//!
//! `delta.appendOnly` is left off: it is no protection, and stands in the way of retention and erasure.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::{DateTime, NaiveDate, Utc};
use deltalake_core::{
    DeltaTable, DeltaTableBuilder, DeltaTableError,
    checkpoints::create_checkpoint,
    kernel::{
        Action, Add, DataType, PrimitiveType, StructField, StructType, Transaction,
        engine::arrow_conversion::TryIntoKernel,
        transaction::{CommitBuilder, CommitProperties},
    },
    operations::create::CreateBuilder,
    protocol::{DeltaOperation, SaveMode},
};
use threadline_schemas::columns::schema;
use url::Url;
use uuid::Uuid;

use crate::{
    StoreError, durable,
    files::{Digests, SealedFile},
    layout::Layout,
};

/// The one partition of the log that this process seals.
pub(crate) const PARTITION: u32 = 0;
/// Key in `commitInfo` by which our own commits are known; its value is the number of lines of the entry.
pub(crate) const COMMIT_LINES_KEY: &str = "threadlineLines";
/// Tag value of files whose `raw` refers to other columns, form 1 (`threadline_schemas::residue`).
const RAW_REDUCED: &str = "references/1";
/// Partition column beside `tenant`.
const SEALED_DATE: &str = "sealed_date";

/// The table as the sealing process or a reader holds it.
#[derive(Debug)]
pub(crate) struct RecordsTable {
    layout: Layout,
    delta: DeltaTable,
    files: Vec<Arc<SealedFile>>,
    sealed_below: u64,
}

impl RecordsTable {
    /// Opens the table at its newest version; `None` when there is none yet.
    pub(crate) async fn open(layout: &Layout) -> Result<Option<RecordsTable>, StoreError> {
        if !layout.delta_log().is_dir() {
            return Ok(None);
        }
        let read = async {
            let delta = match builder(layout)?.load().await {
                Err(DeltaTableError::NotATable(_)) => return Ok(None),
                other => other.map_err(StoreError::table("open"))?,
            };
            let mut table = RecordsTable { layout: layout.clone(), delta, files: Vec::new(), sealed_below: 0 };
            table.read_state().await?;
            Ok(Some(table))
        };
        match read.await {
            // The library does not say which entry it could not read.
            Err(error @ (StoreError::Table { .. } | StoreError::ForeignFile { .. })) => {
                Err(damaged_entry(layout).unwrap_or(error))
            }
            other => other,
        }
    }

    /// Creates the table in an empty `records` directory.
    pub(crate) async fn create(layout: &Layout, checkpoint_interval: u64) -> Result<RecordsTable, StoreError> {
        let fields: StructType =
            schema().as_ref().try_into_kernel().map_err(|source| StoreError::Arrow { file: Uuid::nil(), source })?;
        let sealed_date = StructField::nullable(SEALED_DATE, DataType::Primitive(PrimitiveType::Date));
        let configuration = [
            ("delta.checkpointInterval", checkpoint_interval.max(1).to_string()),
            ("delta.dataSkippingStatsColumns", "time,time_unix_nano".into()),
            ("delta.logRetentionDuration", "interval 36500 days".into()),
            ("delta.enableExpiredLogCleanup", "false".into()),
        ];
        let delta = CreateBuilder::new()
            .with_location(location(layout)?.to_string())
            .with_table_name("records")
            .with_columns(fields.fields().cloned().chain([sealed_date]))
            .with_partition_columns(["tenant", SEALED_DATE])
            .with_configuration(configuration.map(|(key, value)| (key.to_string(), Some(value))))
            .await
            .map_err(StoreError::table("create"))?;
        let mut table = RecordsTable { layout: layout.clone(), delta, files: Vec::new(), sealed_below: 0 };
        table.sync_entry()?;
        table.read_state().await?;
        Ok(table)
    }

    /// Reads what was committed since, by whoever.
    pub(crate) async fn refresh(&mut self) -> Result<(), StoreError> {
        let before = self.version();
        // Versions have no holes. This spares listing the whole log, which grows with every commit.
        if before >= 0 && !entry_path(&self.layout, before + 1).exists() {
            return Ok(());
        }
        self.delta.update_incremental(None).await.map_err(StoreError::table("read"))?;
        if self.version() != before { self.read_state().await } else { Ok(()) }
    }

    /// Derives files and position from the Delta state.
    async fn read_state(&mut self) -> Result<(), StoreError> {
        let state = self.delta.snapshot().map_err(StoreError::table("read"))?;
        let known: HashMap<&Path, &Arc<SealedFile>> = self.files.iter().map(|f| (f.path.as_path(), f)).collect();
        let mut files = Vec::new();
        for view in state.log_data().iter() {
            let path = self.layout.records().join(view.path().as_ref());
            files.push(match known.get(path.as_path()) {
                Some(file) => Arc::clone(file),
                // Deprecated in favour of the Arrow arrays, which do not show the tags.
                None => Arc::new(sealed_file(
                    path,
                    #[allow(deprecated)]
                    &view.add_action(),
                )?),
            });
        }
        files.sort_by_key(|f: &Arc<SealedFile>| (f.offsets.start, f.offsets.end, f.id));
        let position = state.transaction_version(self.delta.log_store().as_ref(), self.application()).await;
        let position = position.map_err(StoreError::table("read the position of"))?.unwrap_or(0);
        self.sealed_below = u64::try_from(position).unwrap_or(0);
        self.files = files;
        Ok(())
    }

    /// Version of the table.
    pub(crate) fn version(&self) -> i64 {
        self.delta.version().map_or(-1, |v| v as i64)
    }

    /// Every frame below this offset is in the files.
    pub(crate) fn sealed_below(&self) -> u64 {
        self.sealed_below
    }

    /// The live files, oldest offsets first.
    pub(crate) fn files(&self) -> &[Arc<SealedFile>] {
        &self.files
    }

    fn application(&self) -> String {
        format!("threadline:{}:log/{PARTITION}", self.layout.store)
    }

    /// Makes `added` true, together with the new position. `false`: the position is there already and nothing was
    /// committed. The entry is not synced yet.
    pub(crate) async fn commit(&mut self, added: &[SealedFile], sealed_below: u64) -> Result<bool, StoreError> {
        self.refresh().await?;
        if self.sealed_below >= sealed_below {
            return Ok(false);
        }
        let now = Utc::now();
        let adds = added.iter().map(|file| add_action(&self.layout, file, now).map(Action::Add));
        let adds = adds.collect::<Result<Vec<_>, StoreError>>()?;
        let version = i64::try_from(sealed_below).unwrap_or(i64::MAX);
        let position = Transaction::new_with_last_update(self.application(), version, Some(now.timestamp_millis()));
        // commitInfo, the Adds, and the position as the last line.
        let lines = adds.len() + 2;
        let properties = CommitProperties::default()
            .with_application_transaction(position)
            .with_metadata([(COMMIT_LINES_KEY.to_string(), lines.into())])
            .with_create_checkpoint(false)
            .with_cleanup_expired_logs(Some(false));
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(vec!["tenant".into(), SEALED_DATE.into()]),
            predicate: None,
        };
        let state = self.delta.snapshot().map_err(StoreError::table("read"))?;
        let commit = CommitBuilder::from(properties)
            .with_actions(adds)
            .build(Some(state), self.delta.log_store(), operation)
            .await
            .map_err(StoreError::table("commit to"))?;
        self.delta.state = Some(commit.snapshot());
        self.files.extend(added.iter().cloned().map(Arc::new));
        self.sealed_below = sealed_below;
        Ok(true)
    }

    /// Syncs the newest entry of the Delta log and the directories above it.
    pub(crate) fn sync_entry(&self) -> Result<(), StoreError> {
        let entry = entry_path(&self.layout, self.version());
        Ok(durable::sync_files_below(self.layout.root(), [entry.as_path()])?)
    }

    /// Whether the newest version is one after which a checkpoint is written.
    pub(crate) fn wants_checkpoint(&self, interval: u64) -> bool {
        let version = self.version();
        version > 0 && version.unsigned_abs().is_multiple_of(interval.max(1))
    }

    /// Writes and syncs a checkpoint of the newest version. It only saves reading: recovery drops one that is torn.
    pub(crate) async fn checkpoint(&self) -> Result<(), StoreError> {
        create_checkpoint(&self.delta, None).await.map_err(StoreError::table("write a checkpoint of"))?;
        let log = self.layout.delta_log();
        let prefix = format!("{:020}.checkpoint", self.version());
        let mut files = vec![log.join("_last_checkpoint")];
        for entry in log.read_dir().map_err(StoreError::io("list", &log))? {
            let path = entry.map_err(StoreError::io("list", &log))?.path();
            if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)) {
                files.push(path);
            }
        }
        Ok(durable::sync_files_below(self.layout.root(), files.iter().map(PathBuf::as_path))?)
    }
}

fn location(layout: &Layout) -> Result<Url, StoreError> {
    let path = layout.records();
    Url::from_directory_path(&path).map_err(|()| StoreError::Io {
        step: "name",
        path,
        source: std::io::Error::other("the path cannot be a URL"),
    })
}

fn builder(layout: &Layout) -> Result<DeltaTableBuilder, StoreError> {
    DeltaTableBuilder::from_url(location(layout)?).map_err(StoreError::table("open"))
}

/// First offset that is not sealed, as of an older version of the table.
pub(crate) async fn sealed_below_at(layout: &Layout, version: u64) -> Result<u64, StoreError> {
    let delta = builder(layout)?.with_version(version).load().await.map_err(StoreError::table("open"))?;
    let mut table = RecordsTable { layout: layout.clone(), delta, files: Vec::new(), sealed_below: 0 };
    table.read_state().await?;
    Ok(table.sealed_below)
}

/// The Delta log entry of a version.
pub(crate) fn entry_path(layout: &Layout, version: i64) -> PathBuf {
    layout.delta_log().join(format!("{version:020}.json"))
}

/// The first entry of the table's log that is not what was written, as an error.
fn damaged_entry(layout: &Layout) -> Option<StoreError> {
    let mut entries: Vec<PathBuf> = layout.delta_log().read_dir().ok()?.flatten().map(|entry| entry.path()).collect();
    entries.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    entries.sort_unstable();
    let damaged = |path: &PathBuf| !std::fs::read(path).is_ok_and(|bytes| is_whole_entry(&bytes));
    let path = entries.into_iter().find(damaged)?;
    Some(StoreError::Damaged {
        path,
        what: "an entry of the table's log is not what was written: restore it from a backup",
    })
}

/// Whether every line is JSON, and the last one is there: the position in our commits, schema and protocol in the first.
pub(crate) fn is_whole_entry(bytes: &[u8]) -> bool {
    let mut actions = Vec::new();
    for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice::<serde_json::Value>(line) {
            Ok(serde_json::Value::Object(action)) => actions.push(action),
            _ => return false,
        }
    }
    let expected = actions.iter().find_map(|action| action.get("commitInfo")?.get(COMMIT_LINES_KEY)?.as_u64());
    let has = |name: &str| actions.iter().any(|action| action.contains_key(name));
    match expected {
        Some(lines) => actions.len() as u64 == lines && has("txn"),
        None if has("txn") || has("add") || has("remove") => true,
        None => has("protocol") && has("metaData"),
    }
}

/// Where a new file of a tenant goes: `tenant=<t>/sealed_date=<d>/<uuid>.parquet`. A tenant that is not a plain word is
/// named by its digest; what counts is the partition value in the Add action.
pub(crate) fn new_file_path(layout: &Layout, tenant: &str, date: NaiveDate, file: Uuid) -> PathBuf {
    let plain = !tenant.is_empty()
        && tenant.len() <= 64
        && tenant.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let tenant = if plain {
        tenant.to_string()
    } else {
        use sha2::{Digest, Sha256};
        format!("~{}", hex::encode(&Sha256::digest(tenant)[..16]))
    };
    layout.records().join(format!("tenant={tenant}/{SEALED_DATE}={date}/{file}.parquet"))
}

fn add_action(layout: &Layout, file: &SealedFile, now: DateTime<Utc>) -> Result<Add, StoreError> {
    let relative = |path: &Path| {
        let inside = path.strip_prefix(layout.records()).ok().and_then(Path::to_str).map(str::to_string);
        inside.ok_or_else(|| StoreError::ForeignFile { path: path.display().to_string(), what: "it is elsewhere" })
    };
    let path = relative(&file.path)?;
    let date = path.split('/').find_map(|part| part.strip_prefix("sealed_date=")).map(str::to_string);
    let mut tags = HashMap::from([
        ("threadline.file".to_string(), Some(file.id.to_string())),
        ("threadline.ids".to_string(), Some(format!("../sidecars/{}.ids", file.id))),
        ("threadline.rows".to_string(), Some(file.rows.to_string())),
        ("threadline.offsets".to_string(), Some(format!("{}..{}", file.offsets.start, file.offsets.end))),
        (
            "threadline.time_unix_nano".to_string(),
            Some(format!("{}..{}", file.min_time_unix_nano, file.max_time_unix_nano)),
        ),
    ]);
    if let Some(digests) = &file.digests {
        tags.insert("threadline.sha256".into(), Some(hex::encode(digests.rows)));
        tags.insert("threadline.ids.sha256".into(), Some(hex::encode(digests.ids)));
        if let Some(bodies) = &digests.bodies {
            tags.insert("threadline.bodies.sha256".into(), Some(hex::encode(bodies)));
        }
    }
    if file.raw_is_reduced {
        tags.insert("threadline.raw".into(), Some(RAW_REDUCED.into()));
    }
    if file.has_bodies {
        tags.insert("threadline.bodies".into(), Some(format!("../sidecars/{}.bodies", file.id)));
    }
    Ok(Add {
        path,
        size: file.bytes as i64,
        partition_values: HashMap::from([
            ("tenant".to_string(), Some(file.tenant.clone())),
            (SEALED_DATE.to_string(), date),
        ]),
        modification_time: now.timestamp_millis(),
        data_change: true,
        stats: Some(statistics(file)),
        tags: Some(tags),
        ..Add::default()
    })
}

/// Row count and times, for engines that skip files. Nothing else may ever be in here.
fn statistics(file: &SealedFile) -> String {
    let shown = |nanos: i64| {
        let micros = nanos.div_euclid(1000);
        DateTime::from_timestamp_micros(micros).map(|t| t.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
    };
    let bounds = |nanos: i64| serde_json::json!({ "time": shown(nanos), "time_unix_nano": nanos });
    serde_json::json!({
        "numRecords": file.rows,
        "minValues": bounds(file.min_time_unix_nano),
        "maxValues": bounds(file.max_time_unix_nano),
        "nullCount": { "time": 0, "time_unix_nano": 0 },
    })
    .to_string()
}

pub(crate) fn sealed_file(path: PathBuf, add: &Add) -> Result<SealedFile, StoreError> {
    let foreign = |what| StoreError::ForeignFile { path: add.path.clone(), what };
    let tags = add.tags.as_ref().ok_or_else(|| foreign("it has no tags"))?;
    let tag = |name: &str| tags.get(name).and_then(Option::as_deref);
    let id = tag("threadline.file").and_then(|t| Uuid::parse_str(t).ok()).ok_or_else(|| foreign("no file id"))?;
    let rows = tag("threadline.rows").and_then(|t| t.parse().ok()).ok_or_else(|| foreign("no row count"))?;
    let offsets = tag("threadline.offsets").and_then(pair).ok_or_else(|| foreign("no offsets"))?;
    let times = tag("threadline.time_unix_nano").and_then(pair).ok_or_else(|| foreign("no times"))?;
    Ok(SealedFile {
        id,
        path,
        tenant: add.partition_values.get("tenant").cloned().flatten().unwrap_or_default(),
        rows,
        bytes: add.size.unsigned_abs(),
        min_time_unix_nano: times.0,
        max_time_unix_nano: times.1,
        offsets: offsets.0..offsets.1,
        has_bodies: tag("threadline.bodies").is_some(),
        raw_is_reduced: match tag("threadline.raw") {
            None => false,
            Some(RAW_REDUCED) => true,
            Some(_) => return Err(foreign("its raw bytes are in a form of a newer threadline")),
        },
        digests: match tag("threadline.sha256") {
            None => None,
            Some(_) => {
                let digest = |name: &str| {
                    let mut digest = [0; 32];
                    let read = tag(name).map(|text| hex::decode_to_slice(text, &mut digest).is_ok());
                    read.map(|read| read.then_some(digest).ok_or_else(|| foreign("a digest is not understood")))
                };
                let required = |name: &str| digest(name).unwrap_or_else(|| Err(foreign("a digest is missing")));
                Some(Digests {
                    rows: required("threadline.sha256")?,
                    ids: required("threadline.ids.sha256")?,
                    bodies: digest("threadline.bodies.sha256").transpose()?,
                })
            }
        },
    })
}

fn pair<T: std::str::FromStr>(text: &str) -> Option<(T, T)> {
    let (first, second) = text.split_once("..")?;
    Some((first.parse().ok()?, second.parse().ok()?))
}
