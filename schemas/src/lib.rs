//! What threadline records and how it is named: the event model and everything that can be said
//! about it without doing I/O.
//!
//! A source's bytes become [`Record`]s ([`decode`]), get typed keys and stamps ([`stamp`]), an
//! Arrow row ([`columns`]), the bytes of a log frame ([`encoding`]) and a Merkle leaf ([`leaf`]).
//!
//! Not here: files, sockets, clocks, random numbers, DataFusion. Callers pass those in.
//!
//! ```
//! use threadline_schemas::{Kind, Record, stamp};
//! let mut record = Record::new("acme", "api:order-17", Kind::Call);
//! record.tool_call_id = Some("toolu_01".into());
//! stamp::stamp(&mut record);
//! assert!(record.keys.contains(&"toolcall:toolu_01".to_string()));
//! ```

pub mod abandoned;
pub mod columns;
pub mod decode;
pub mod digest;
pub mod display;
pub mod encoding;
pub mod json;
pub mod keys;
pub mod leaf;
pub mod limits;
pub mod ocsf;
pub mod record;
pub mod residue;
pub mod stamp;
pub mod wire;

pub use keys::{Key, KeyKind};
pub use record::{Collector, Decision, Direction, Kind, Outcome, RECORD_VERSION, Record, SourceKind, TimeQuality};
