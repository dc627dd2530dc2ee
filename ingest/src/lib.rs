//! Collectors, redaction, stamps, pipeline

pub mod tap;
pub mod wrap;
