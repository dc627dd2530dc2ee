//! Nothing acknowledged is ever lost: `kill -9` at random under load and power cuts, with controls that
//! must fail.
//!
//! `tests/faults/crash.py` crashes a writer that serves and posts events from four threads, and seals so
//! often that crashes hit that too; after each crash a checker starts the server again and asks for every
//! acknowledged event by id, by session and by text: exactly once.

use std::process::Command;

use crate::support::{repository, run, skip};

/// Crashes in the ordinary run; `THREADLINE_KILLS` and `THREADLINE_CUTS` set other numbers.
const KILLS: usize = 50;
const CUTS: usize = 20;
/// Crashes that the controls may need until something is lost.
const CONTROL_CRASHES: usize = 16;
/// Crashes that hit one directory, one after the other.
const ROUNDS: usize = 5;
/// Size of the file system that is cut (512 MiB).
const IMAGE_BYTES: usize = 512 << 20;

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs the harness; `None`, with the reason printed, where it cannot run.
fn crash(fault: &str, cycles: usize, control: Option<&str>) -> Option<String> {
    let program = env!("CARGO_BIN_EXE_threadline");
    let script = |name: &str| repository("tests/faults").join(name).display().to_string();
    let environment =
        control.map(|control| format!("env THREADLINE_DURABILITY_CONTROL={control} ")).unwrap_or_default();
    let mut harness = Command::new("python3");
    harness
        .arg(script("crash.py"))
        .args([
            "--fault",
            fault,
            "--cycles",
            &cycles.to_string(),
            "--rounds",
            &ROUNDS.to_string(),
            "--size",
            &IMAGE_BYTES.to_string(),
        ])
        .args(["--writer", &format!("{environment}python3 {} --program {program} {{dir}}", script("serve_writer.py"))])
        .args(["--check", &format!("python3 {} --program {program} {{dir}} {{acks}}", script("serve_check.py"))]);
    if control.is_some() {
        harness.arg("--expect-loss");
    }
    let output = run(&mut harness);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match output.status.code() {
        Some(0) => {
            println!("{said}");
            Some(said)
        }
        Some(2) => {
            skip(&said);
            None
        }
        _ => panic!("{said}"),
    }
}

#[test]
fn kill_minus_nine_loses_nothing_acknowledged() {
    crash("kill", number("THREADLINE_KILLS", KILLS), None).expect("a kill needs no privileges");
}

#[test]
fn control_acknowledging_before_the_write_loses_events_under_kill() {
    crash("kill", CONTROL_CRASHES, Some("ack-before-write")).expect("a kill needs no privileges");
}

#[test]
fn power_cuts_lose_nothing_acknowledged() {
    let _skipped = crash("power-cut", number("THREADLINE_CUTS", CUTS), None);
}

#[test]
fn control_without_sync_loses_events_under_power_cut() {
    let _skipped = crash("power-cut", CONTROL_CRASHES, Some("no-sync"));
}
