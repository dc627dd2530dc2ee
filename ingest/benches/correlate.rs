//! Lines per second of the linker on one core, with trace ids and without any shared id.
//!
//! Input: 4,000 calls of six lines by twelve users at six servers, about 20 lines a second.

use threadline_ingest::correlate::{self as threadline_ingest_correlate, Settings, correlate};

#[path = "support/estate.rs"]
mod estate;

fn main() {
    divan::main();
}

#[divan::bench(args = [true, false])]
fn lines(bencher: divan::Bencher<'_, '_>, traces: bool) {
    let (observations, _) = estate::estate(4000, traces);
    let count = observations.len();
    bencher
        .counter(divan::counter::ItemsCount::new(count))
        .with_inputs(|| observations.clone())
        .bench_local_values(|mut observations| correlate(&mut observations, &Settings::default()).placements.len());
}
