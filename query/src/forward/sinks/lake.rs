//! Parquet files as Amazon Security Lake takes them, in a folder or a bucket: one OCSF class per prefix.
//!
//! ```text
//! ext/<source>-<class_uid>/region=<region>/accountId=<account>/eventDay=<yyyyMMdd>/<first time>-<id>.parquet
//! ```
//!
//! Invariants
//! - one file holds one class and one day of event time, sorted by time; the schema of a class never changes with its rows
//! - zstd, data pages of at most 1 MiB, lists of three levels
//! - a file is there whole or not at all: written, synced and renamed in a folder, one PUT in a bucket; its name comes
//!   from the ids of its events, so the same batch sent again replaces its own files
//!
//! A batch becomes files when it is full or `linger_ms` old (5 minutes unless set otherwise), because readers want few
//! large files. A batch that is sent again after a crash may be cut differently: readers drop repeated `metadata.uid`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use chrono::DateTime;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{HttpClient, HttpConnector};
use object_store::{ClientOptions, ObjectStoreExt, RetryConfig};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::WriterProperties;
use serde::Deserialize;
use serde_json::Value;
use threadline_schemas::ocsf::lake;
use threadline_store::durable;

use super::{Outcome, Sink, SinkError};
use crate::forward::config::{Common, SecretRef, check_url};
use crate::forward::event::Event;
use crate::forward::{http, state};

/// `type = "security_lake"`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LakeConfig {
    /// Name of the custom source; the class is appended.
    #[serde(default = "source")]
    pub source: String,
    /// `region=` of the keys, and region of the bucket.
    pub region: String,
    /// `accountId=` of the keys.
    pub account: String,
    /// Folder to write to; this or `bucket`.
    pub path: Option<PathBuf>,
    /// Bucket to write to.
    pub bucket: Option<String>,
    /// Of an S3-compatible store that is not AWS.
    pub endpoint: Option<String>,
    /// Access key; without it the usual AWS variables, then the machine's role are used.
    pub access_key_id: Option<SecretRef>,
    /// Its secret.
    pub secret_access_key: Option<SecretRef>,
}

fn source() -> String {
    "threadline".into()
}

impl LakeConfig {
    pub(super) fn check(&self, common: &Common) -> Vec<String> {
        let is_word = |text: &String| {
            !text.is_empty()
                && text.len() <= 64
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        let mut wrong = Vec::new();
        for (name, text) in [("source", &self.source), ("region", &self.region), ("account", &self.account)] {
            if !is_word(text) {
                wrong.push(format!("{name} is a word of letters, digits, - and _"));
            }
        }
        if self.path.is_some() == self.bucket.is_some() {
            wrong.push("path or bucket, one of both".into());
        }
        if self.access_key_id.is_some() != self.secret_access_key.is_some() {
            wrong.push("access_key_id and secret_access_key go together".into());
        }
        if let Some(endpoint) = &self.endpoint {
            wrong.extend(check_url(endpoint, common).err());
        }
        wrong
    }
}

enum Place {
    Folder(PathBuf),
    Bucket(Box<AmazonS3>),
}

/// See the head of this file.
pub struct LakeSink {
    config: LakeConfig,
    place: Place,
}

/// The guarded client of `http` for the object store.
#[derive(Debug)]
struct Connector {
    common: Common,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let broken = |reason: String| object_store::Error::Generic { store: "S3", source: reason.into() };
        Ok(HttpClient::new(http::client(&self.common).map_err(broken)?))
    }
}

impl LakeSink {
    pub(super) fn open(config: &LakeConfig, common: &Common) -> Result<LakeSink, String> {
        let place = match (&config.path, &config.bucket) {
            (Some(path), _) => {
                durable::create_dirs(path).map_err(|error| error.to_string())?;
                Place::Folder(path.clone())
            }
            (None, Some(bucket)) => Place::Bucket(Box::new(bucket_store(config, bucket, common)?)),
            (None, None) => return Err("path or bucket is needed".into()),
        };
        Ok(LakeSink { config: config.clone(), place })
    }

    fn key(&self, class_uid: i64, day: &str, events: &[&Event]) -> String {
        let LakeConfig { source, region, account, .. } = &self.config;
        let first = events.first().map_or(0, |event| event.time_ms);
        let id = state::batch_id(events.iter().map(|event| event.uid.as_str()));
        format!("ext/{source}-{class_uid}/region={region}/accountId={account}/eventDay={day}/{first}-{id}.parquet")
    }

    async fn write(&self, key: &str, bytes: Vec<u8>) -> Result<(), SinkError> {
        match &self.place {
            Place::Bucket(bucket) => {
                let put = bucket.put(&object_store::path::Path::from(key), bytes.into()).await;
                put.map(drop).map_err(|error| SinkError::unavailable(refusal(&error)))
            }
            Place::Folder(root) => {
                let path = root.join(key);
                let write = move || {
                    durable::create_dirs(path.parent().unwrap_or(&path))?;
                    durable::write_atomic(&path, &bytes)
                };
                let written = tokio::task::spawn_blocking(write).await;
                let written = written.map_err(|_| SinkError::unavailable("writing was interrupted"))?;
                written.map_err(|error| SinkError::unavailable(format!("{error}: {}", error.source)))
            }
        }
    }
}

/// What an object store says, without its text, which may repeat keys and credentials.
fn refusal(error: &object_store::Error) -> &'static str {
    use object_store::Error;
    match error {
        Error::NotFound { .. } => "there is no such bucket",
        Error::PermissionDenied { .. } => "the bucket may not be written to with these credentials",
        Error::Unauthenticated { .. } => "the credentials are not accepted",
        _ => "the bucket cannot be written to",
    }
}

fn bucket_store(config: &LakeConfig, bucket: &str, common: &Common) -> Result<AmazonS3, String> {
    let mut builder = match &config.access_key_id {
        Some(_) => AmazonS3Builder::new(),
        None => AmazonS3Builder::from_env(),
    };
    builder = builder
        .with_bucket_name(bucket)
        .with_region(&config.region)
        .with_http_connector(Connector { common: common.clone() })
        .with_retry(RetryConfig {
            max_retries: 1,
            retry_timeout: std::time::Duration::from_secs(60),
            ..RetryConfig::default()
        });
    if let (Some(id), Some(secret)) = (&config.access_key_id, &config.secret_access_key) {
        builder = builder.with_access_key_id(id.read()?.expose()).with_secret_access_key(secret.read()?.expose());
    }
    if let Some(endpoint) = &config.endpoint {
        let url = check_url(endpoint, common)?;
        builder = builder.with_endpoint(endpoint.trim_end_matches('/')).with_allow_http(url.scheme() == "http");
    }
    builder.build().map_err(|error| refusal(&error).to_string())
}

/// Events that are values at once while a file is made.
const ROWS_AT_ONCE: usize = 512;

/// Events of one class, sorted by time, as one Parquet file.
fn encode(class_uid: i64, events: &[&Event]) -> Result<Vec<u8>, String> {
    let broken = |_| "the events are not of the columns of their class".to_string();
    let batch = |events: &[&Event]| {
        let values: Result<Vec<Value>, _> = events.iter().map(|event| serde_json::from_str(&event.text)).collect();
        let values = values.map_err(|_| "an event is not JSON".to_string())?;
        lake::to_batch(class_uid, values.iter()).map_err(broken)
    };
    let unwritten = |_| "the Parquet file cannot be made".to_string();
    let schema = batch(&[])?.schema();
    let time = schema.index_of("time").map_err(broken)? as i32;
    // `time` is a plain column, so its leaf index is not its place among the columns.
    let leaves = parquet::arrow::ArrowSchemaConverter::new().convert(&schema).map_err(unwritten)?;
    let leaf = leaves.columns().iter().position(|column| column.path().string() == "time").unwrap_or(time as usize);
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).map_err(unwritten)?))
        .set_data_page_size_limit(1 << 20)
        .set_sorting_columns(Some(vec![SortingColumn {
            column_idx: leaf as i32,
            descending: false,
            nulls_first: false,
        }]))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).map_err(unwritten)?;
    for part in events.chunks(ROWS_AT_ONCE) {
        writer.write(&batch(part)?).map_err(unwritten)?;
    }
    writer.into_inner().map_err(unwritten)
}

#[async_trait]
impl Sink for LakeSink {
    async fn deliver(&mut self, events: &[Event]) -> Result<Vec<Outcome>, SinkError> {
        let mut groups: BTreeMap<(i64, String), Vec<usize>> = BTreeMap::new();
        for (index, event) in events.iter().enumerate() {
            let day = DateTime::from_timestamp_millis(event.time_ms).unwrap_or_default().format("%Y%m%d").to_string();
            groups.entry((event.class_uid, day)).or_default().push(index);
        }
        let mut outcomes = vec![Outcome::Delivered; events.len()];
        for ((class_uid, day), mut indices) in groups {
            indices.sort_by_key(|index| events[*index].time_ms);
            let rows: Vec<Event> = indices.iter().map(|index| events[*index].clone()).collect();
            let key = self.key(class_uid, &day, &rows.iter().collect::<Vec<_>>());
            let encode = move || encode(class_uid, &rows.iter().collect::<Vec<_>>());
            let encoded = tokio::task::spawn_blocking(encode).await;
            match encoded.map_err(|_| SinkError::unavailable("encoding was interrupted"))? {
                Ok(bytes) => self.write(&key, bytes).await?,
                Err(reason) if indices.len() == 1 => outcomes[indices[0]] = Outcome::Rejected { reason },
                // One of them is at fault: the batch is halved until it is found.
                Err(reason) => return Err(SinkError::Refused { reason }),
            }
        }
        Ok(outcomes)
    }
}
