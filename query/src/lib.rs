//! Lookup by any id, search, SQL, session reconstruction, and the HTTP API that offers them.
//!
//! ```text
//! any id ─> gather (id sidecars) ─┐
//!                                 ├─> closure (which records) ─> links (which to which) ─> session ─> api
//! every record ─> index (facts) ──┘                                        └─> placements (`links`)
//! ```
//!
//! Invariants
//! - one question reads one snapshot, and its answer says what it covers and what it leaves out
//! - `closure`, `links` and `session` are plain functions of records; the same records give the same answer,
//!   whatever their order, files, or the id that was asked for
//! - nothing here writes, but for what `forward` must remember, which goes through the store, and what was read (`access`),
//!   through a handle
//!
//! Not here: authentication, TLS, pages, and judging by content: two records meet by ids only.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use threadline_query::{Engine, EngineConfig, SessionOptions};
//! use threadline_schemas::{Kind, Record, SourceKind, stamp};
//! use threadline_store::{Store, StoreConfig};
//!
//! let mut choice = Record::new("default", "api:1", Kind::Selection);
//! choice.source_kind = SourceKind::Host;
//! choice.conversation_id = Some("c-1".into());
//! choice.tool_call_id = Some("toolu_01".into());
//! stamp::stamp(&mut choice);
//! let dir = tempfile::tempdir().unwrap();
//! let store = Store::open(dir.path(), StoreConfig::default()).await.unwrap();
//! store.appender().append(vec![choice]).await.unwrap();
//!
//! let engine = Engine::new(store.reader(), EngineConfig::default());
//! let answer = engine.session("toolu_01", &SessionOptions::default()).await.unwrap();
//! assert_eq!(answer.data.turns[0].calls[0].execution, "unknown");
//! assert_eq!(answer.data.gaps[0].kind, "no_result");
//! assert_eq!(answer.completeness.state, "complete");
//! store.close().await.unwrap();
//! # });
//! ```

mod access;
pub mod api;
mod chains;
pub mod closure;
mod cursor;
mod engine;
mod error;
pub mod export;
pub mod fact;
pub mod forward;
mod gather;
mod index;
pub mod judged;
pub mod line;
pub mod links;
mod metrics;
pub mod model;
mod placements;
mod search;
pub mod session;
mod sessions;
pub mod sources;
pub mod sql;

pub use access::{AccessLog, Asker, noted, record_reads};
pub use api::{in_turn, router};
pub use engine::{Engine, EngineConfig, SessionOptions};
pub use error::QueryError;
pub use metrics::Metrics;

#[cfg(test)]
mod testing;
