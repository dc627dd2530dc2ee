//! The targets for libFuzzer, and the log of `threadline-store` compiled without the rest of the store.

#[path = "../../store/src"]
#[allow(dead_code, unused_imports)]
mod store {
    pub mod durable;
    pub mod lock;
    pub mod log;
    pub mod stages;
}
#[allow(dead_code)]
mod targets;

use store::{durable, lock, log as store_log, stages};

/// Tries one input of a target.
pub fn run(name: &str, bytes: &[u8]) {
    (targets::target(name).run)(bytes);
}

/// Variable that names a folder: then the program writes its seeds there and ends.
const SEEDS_VARIABLE: &str = "THREADLINE_SEEDS";

/// What a target's program does first.
pub fn begin(name: &str) {
    let Some(folder) = std::env::var_os(SEEDS_VARIABLE) else { return };
    let folder = std::path::Path::new(&folder);
    let repository = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::create_dir_all(folder).expect("the folder can be made");
    for (number, seed) in (targets::target(name).seeds)(&repository).iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number:04}")), seed).expect("a seed can be written");
    }
    std::process::exit(0);
}
