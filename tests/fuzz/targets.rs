//! Fuzz targets: for each way in, one function that takes any bytes and panics when a promise is broken.
//!
//! The same functions are called by `cargo test` (tests/fuzz.rs: recorded traffic, mutated) and by libFuzzer
//! (tests/soak/fuzz: guided by coverage). What was found once stands in tests/fuzz/found and is tried by both.
//!
//! Promises, of every decoder:
//! - it does not panic, and gives the same records for the same bytes
//! - every line is in a record, and raw bytes are exactly what came ([`records::accounted`])
//! - records have ids of their own, keys that parse, attributes that are a JSON object, and survive the log's encoding,
//!   the wire and the columns unchanged ([`records::sound`])
//! - what it gives is bounded by what it was given ([`records::bounded`])

#[path = "targets/http.rs"]
mod http;
#[path = "targets/log.rs"]
mod log;
#[path = "targets/otlp.rs"]
mod otlp;
#[path = "targets/profiles.rs"]
mod profiles;
#[path = "targets/records.rs"]
mod records;
#[path = "targets/seeds.rs"]
mod seeds;
#[path = "targets/stdio.rs"]
mod stdio;
#[path = "targets/transcripts.rs"]
mod transcripts;

use std::path::Path;

/// A way in.
pub(crate) struct Target {
    /// As the binary of libFuzzer, the folders of `found` and the soak call it.
    pub(crate) name: &'static str,
    /// Tries one input.
    pub(crate) run: fn(&[u8]),
    /// Inputs to begin with, made of the files of the repository.
    pub(crate) seeds: fn(&Path) -> Vec<Vec<u8>>,
}

/// All of them.
pub(crate) const TARGETS: &[Target] = &[
    Target { name: "stdio", run: stdio::run, seeds: stdio::seeds },
    Target { name: "http", run: http::run, seeds: http::seeds },
    Target { name: "otlp_protobuf", run: otlp::protobuf, seeds: otlp::protobuf_seeds },
    Target { name: "otlp_json", run: otlp::json, seeds: otlp::json_seeds },
    Target { name: "transcripts", run: transcripts::run, seeds: transcripts::seeds },
    Target { name: "profile_toml", run: profiles::toml, seeds: profiles::toml_seeds },
    Target { name: "profile_lines", run: profiles::lines, seeds: profiles::lines_seeds },
    Target { name: "log", run: log::run, seeds: log::seeds },
];

/// The target of this name.
pub(crate) fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no target is called {name}"))
}
