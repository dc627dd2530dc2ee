//! Collectors, redaction, stamps, pipeline
