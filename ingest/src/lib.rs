//! Collectors, redaction, stamps, pipeline

pub mod tap;
