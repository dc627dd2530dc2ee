//! Every byte on disk: log, inbox, hot tail, sealer, Delta table, id sidecars, text indexes, snapshots.
//!
//! ```text
//! Appender ─> log (synced) ─> tail ─┐                     ┌─> rows by id, records
//!    │                              ├─> seal ─> records ──┤
//!    └─> inbox (synced) ─> drain ───┘     └─> ids, text   └─> Snapshot: search, SQL
//! ```
//!
//! Invariants
//! - acknowledged means synced and findable: a snapshot taken afterwards has it, in this process or another
//! - exactly once: an event id is stored once, across retries, replays, spools and crashes
//! - one process seals a data directory; collectors and readers need no lock
//! - the commit order is in one file, `seal`; what a crash leaves behind is dealt with in one file, `recovery`
//!
//! Not here: HTTP, foreign formats, what records mean together.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use threadline_schemas::{Kind, Record, stamp};
//! use threadline_store::{KeyQuery, Store, StoreConfig};
//!
//! let dir = tempfile::tempdir().unwrap();
//! let store = Store::open(dir.path(), StoreConfig::default()).await.unwrap();
//! let mut record = Record::new("default", "api:1", Kind::Call);
//! record.tool_call_id = Some("toolu_01".into());
//! stamp::stamp(&mut record);
//! let receipt = store.appender().append(vec![record.clone(), record]).await.unwrap();
//! assert_eq!((receipt.accepted, receipt.duplicates), (1, 1));
//!
//! let snapshot = store.reader().snapshot().await.unwrap();
//! let rows = snapshot.rows_with_keys(&[KeyQuery::Any("toolu_01".into())]).await.unwrap();
//! assert_eq!(snapshot.records(&rows).await.unwrap()[0].delivery_key, "api:1");
//! store.close().await.unwrap();
//! # });
//! ```

mod appender;
mod blocks;
mod bodies;
mod cache;
mod columnar;
mod commits;
mod config;
mod conflict;
mod drain;
pub mod durable;
mod error;
mod faults;
mod files;
mod hash;
pub mod inbox;
mod layout;
pub mod lines;
pub mod links;
pub mod lock;
pub mod log;
mod lookup;
pub mod positions;
mod provider;
mod reader;
mod recovery;
mod seal;
mod sealer;
mod search;
mod sidecar;
mod snapshot;
mod stages;
mod state;
mod store;
mod table;
mod tail;
#[cfg(test)]
mod tests;
mod text;
mod verify;

pub use self::{
    appender::{Appender, Receipt},
    commits::{Commit, Commits},
    config::StoreConfig,
    error::{AppendError, StoreError},
    files::{Digests, SealedFile},
    layout::{FORMAT_VERSION, match_key},
    lookup::KeyQuery,
    reader::Reader,
    search::{TextHits, TextQuery},
    snapshot::{RowId, Snapshot},
    stages::Stage,
    store::Store,
    verify::{Damage, Verification, verify},
};
