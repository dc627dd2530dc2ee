//! Every byte on disk: log, inbox, hot tail, sealer, Delta table, sidecars, snapshot

pub mod durable;
pub mod inbox;
pub mod log;
