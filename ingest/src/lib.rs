//! Collectors: everything by which records come in, and the one path they take to the store.
//!
//! ```text
//! tap ── record_frames ─┐
//! proxy (tap over HTTP) ┤
//! watch ── follow ──────┤
//! import, kafka ────────┼─> pipeline: redact ─> stamp ─> append ─> receipt
//! http: OTLP, events ───┘                                 └─> or remote: outbox ─> a server elsewhere
//! ```
//!
//! Invariants
//! - nothing is acknowledged before it is durable
//! - nothing reaches the log unredacted or unstamped
//! - what cannot be understood becomes a `rejected` record, what could not be recorded a `gap` record
//! - input from outside is bounded: lines, bodies, ratios, values, records, bytes in flight
//!
//! Not here: what formats mean (`schemas::decode`), how records are kept (`store`), links by shared ids (`query`).
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use std::sync::Arc;
//! use threadline_ingest::{import::{Import, Options, Unseen}, pipeline::Pipeline};
//! use threadline_store::{Store, StoreConfig, match_key};
//!
//! let dir = tempfile::tempdir().unwrap();
//! std::fs::write(dir.path().join("events.jsonl"), r#"{"id":"1","kind":"call","arguments":{"password":"hunter2"}}"#).unwrap();
//! let data = dir.path().join("data");
//! let store = Store::open(&data, StoreConfig::default()).await.unwrap();
//! let pipeline = Arc::new(Pipeline::new(store.appender(), match_key(&data).unwrap(), "default".into()));
//! let paths = [dir.path().join("events.jsonl")];
//! let report = Import::new(pipeline).run(&paths, &Options::default(), &mut Unseen).await.unwrap();
//! assert_eq!((report.total().records, report.total().rejected), (1, 0));
//!
//! let snapshot = store.reader().snapshot().await.unwrap();
//! assert!(snapshot.tail()[0].arguments.as_ref().unwrap().starts_with(r#"{"password":"[redacted:password:"#));
//! store.close().await.unwrap();
//! # });
//! ```

pub mod correlate;
pub mod decompress;
pub mod follow;
pub mod http;
pub mod import;
pub mod kafka;
pub mod pipeline;
pub mod proxy;
pub mod record_frames;
pub mod redact;
pub mod remote;
mod streams;
pub mod tap;
#[cfg(test)]
mod testing;
pub mod watch;
pub mod wrap;
