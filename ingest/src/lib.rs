//! Collectors, redaction, stamps, pipeline

pub mod redact;
pub mod tap;
pub mod watch;
pub mod wrap;
