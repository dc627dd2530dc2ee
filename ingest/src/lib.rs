//! Collectors, redaction, stamps, pipeline

pub mod decompress;
pub mod follow;
pub mod http;
pub mod import;
pub mod pipeline;
pub mod record_frames;
pub mod redact;
pub mod remote;
pub mod tap;
#[cfg(test)]
mod testing;
pub mod watch;
pub mod wrap;
