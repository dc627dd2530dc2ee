//! Lookup, search, SQL, session reconstruction, HTTP API

pub mod api;
pub mod closure;
mod cursor;
mod engine;
mod error;
pub mod fact;
mod gather;
mod index;
pub mod line;
pub mod links;
mod metrics;
pub mod model;
mod placements;
mod search;
pub mod session;
mod sessions;
pub mod sql;

pub use api::router;
pub use engine::{Engine, EngineConfig, SessionOptions};
pub use error::QueryError;
pub use metrics::Metrics;

#[cfg(test)]
mod testing;
