//! Memory of the linker over many windows: 5,000,000 lines, a window of about 96,000 at a time.
//!
//! Prints after each tenth how many lines a second of CPU time were judged and the most memory that was taken meanwhile; it has
//! to stay where it was after the first. `THREADLINE_BENCH_LINES` names another number of lines. Linux only.

// Standard output is the interface of a bench.
#![allow(clippy::print_stdout)]

use threadline_ingest::correlate::{self as threadline_ingest_correlate, Settings, correlate};

#[path = "support/estate.rs"]
mod estate;

/// Calls of a window; six lines each. Windows differ in size, as they do in life.
fn calls(window: u64) -> u64 {
    15_000 + (estate::unit(window) * 2_000.0) as u64
}

fn main() {
    let asked = std::env::var("THREADLINE_BENCH_LINES").ok().and_then(|text| text.parse().ok());
    let wanted: usize = asked.unwrap_or(5_000_000);
    let (mut lines, mut shown, mut window) = (0, 0, 0);
    let mut busy = 0.0;
    println!("lines       lines per CPU second   peak MiB   MiB between windows");
    while lines < wanted {
        let (mut observations, _) = estate::estate(calls(window), window % 2 == 0);
        let began = cpu_seconds();
        let found = correlate(&mut observations, &Settings::default());
        busy += cpu_seconds() - began;
        assert_eq!(found.placements.len(), observations.len());
        lines += observations.len();
        window += 1;
        drop((found, observations));
        if lines >= (shown + 1) * wanted / 10 {
            let (peak, now) = (status_mib("VmHWM:"), status_mib("VmRSS:"));
            println!("{lines:<11} {:<22.0} {peak:<10} {now}", (lines as f64) / busy);
            shown = lines * 10 / wanted;
            // The peak counts anew.
            std::fs::write("/proc/self/clear_refs", "5").expect("the peak can be reset");
        }
    }
    println!("{lines} lines in {window} windows, {busy:.0} s of CPU time in the linker");
}

/// A figure of `/proc/self/status` in MiB.
fn status_mib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it names memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("it is a number") / 1024
}

/// CPU time of this thread.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has it");
    let nanos = text.split(' ').next().and_then(|text| text.parse::<f64>().ok()).expect("it is a number");
    nanos / 1e9
}
