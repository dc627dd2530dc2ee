//! Limits of the store. Every limit is named here, with its default and why it is there.

use crate::log::LogConfig;

/// What a store is opened with.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The write-ahead log and the spools.
    pub log: LogConfig,
    /// Tenant of records whose collector was given no other. The store itself goes by the tenant of each record. Default
    /// `default`.
    pub tenant: String,
    /// Seal once the tail holds this many encoded bytes. Default 64 MiB.
    pub seal_bytes_max: u64,
    /// Seal once the tail holds this many records; also the most rows of one file. Default 50,000.
    pub seal_rows_max: usize,
    /// Seal once the oldest record of the tail is this old. Default 3,000.
    pub seal_age_max_ms: u64,
    /// Least time between two commits while the tail has room. Default 1,000.
    pub commit_interval_min_ms: u64,
    /// Commits between two checkpoints of the table, which save its readers from reading every commit. Default 20.
    pub checkpoint_interval: u64,
    /// Most memory for what is acknowledged and not sealed, the records' own size included; appends wait beyond it, and
    /// from three quarters of it on sealing does not wait for anything else. Default 72 MiB.
    pub tail_bytes_max: u64,
    /// How long an append waits for room in the tail before it is refused as overloaded. Default 2,000.
    pub append_wait_max_ms: u64,
    /// How often the inbox is looked at. Default 75.
    pub inbox_poll_ms: u64,
    /// Memory that one text index may take while it is built. Default 64 MiB.
    pub text_index_bytes_max: usize,
    /// Memory for what is read again and again: id sidecars, their filters, Parquet footers. Default 256 MiB.
    pub cache_bytes_max: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig {
            log: LogConfig::default(),
            tenant: "default".into(),
            seal_bytes_max: 64 << 20,
            seal_rows_max: 50_000,
            seal_age_max_ms: 3_000,
            commit_interval_min_ms: 1_000,
            checkpoint_interval: 20,
            tail_bytes_max: 72 << 20,
            append_wait_max_ms: 2_000,
            inbox_poll_ms: 75,
            text_index_bytes_max: 64 << 20,
            cache_bytes_max: 256 << 20,
        }
    }
}
