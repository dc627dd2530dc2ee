//! Writes to a log and says what was acknowledged; checks afterwards that all of it is there. For the crash harness in
//! `tests/faults`.
//!
//! `log_writer write DIR` appends until it is killed and prints `run task sequence` for each acknowledged frame.
//! `log_writer check DIR ACKS` opens the log (which recovers it), reads all of it, and exits with 1 when a line of ACKS
//! has no frame or two, or when a frame is not what was sent.
//!
//! Invariants
//! - a line is printed only after its append returned
//! - a payload can be recomputed from its run, task and sequence, so a wrong byte is noticed

// Standard output is the interface of this program.
#![allow(clippy::print_stdout)]

use std::{collections::HashMap, path::Path, process::ExitCode, sync::Arc};

use bytes::Bytes;
use threadline_store::log::{Durability, Log, LogConfig};

/// Names one frame: the process that sent it, a task of it, and a running number.
type Id = (u64, u64, u64);

const TASKS: u64 = 16;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["write", dir] => write(Path::new(dir)),
        ["check", dir, acks] => check(Path::new(dir), Path::new(acks)),
        _ => {
            eprintln!("log_writer write DIR | log_writer check DIR ACKS");
            ExitCode::from(2)
        }
    }
}

/// Segments are small, so that a run crosses many of them.
fn config() -> LogConfig {
    LogConfig {
        segment_bytes_max: 1 << 20,
        preallocate_bytes: 256 << 10,
        frame_bytes_max: 64 << 10,
        durability: Durability::from_env().expect("THREADLINE_DURABILITY_CONTROL"),
        ..LogConfig::default()
    }
}

fn payload((run, task, sequence): Id) -> Bytes {
    let bytes = 24 + (run ^ task.wrapping_mul(7919) ^ sequence.wrapping_mul(104_729)) % 1500;
    let mut out = Vec::new();
    for part in [run, task, sequence] {
        out.extend_from_slice(&part.to_le_bytes());
    }
    out.extend((24..bytes).map(|i| (i + sequence) as u8));
    out.into()
}

fn id_of(payload: &[u8]) -> Option<Id> {
    let part = |at: usize| Some(u64::from_le_bytes(payload.get(at..at + 8)?.try_into().ok()?));
    Some((part(0)?, part(8)?, part(16)?))
}

#[tokio::main]
async fn write(dir: &Path) -> ExitCode {
    let (log, recovery) = Log::open(dir, config()).expect("the log opens");
    eprintln!("{recovery:?}");
    let log = Arc::new(log);
    let run = u64::from(std::process::id()) << 32 | u64::from(getrandom::u32().expect("randomness"));
    let tasks: Vec<_> = (0..TASKS).map(|task| tokio::spawn(append(Arc::clone(&log), run, task))).collect();
    for task in tasks {
        task.await.expect("a task ends by being killed");
    }
    ExitCode::SUCCESS
}

async fn append(log: Arc<Log>, run: u64, task: u64) {
    let mut sequence = 0;
    loop {
        let batch: Vec<Id> = (0..=task % 5).map(|i| (run, task, sequence + i)).collect();
        sequence += batch.len() as u64;
        let frames = batch.iter().copied().map(payload).collect();
        match log.append(frames).await {
            Ok(_) => {}
            // Refused: not printed, so not expected. The next batch may do better.
            Err(error) if error.is_retryable() => continue,
            Err(_) => return,
        }
        let lines: String = batch.iter().map(|(r, t, s)| format!("{r} {t} {s}\n")).collect();
        print!("{lines}");
    }
}

#[tokio::main]
async fn check(dir: &Path, acks: &Path) -> ExitCode {
    let (log, recovery) = match Log::open(dir, config()) {
        Ok(opened) => opened,
        Err(error) => {
            println!("REFUSED: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut found = HashMap::<Id, u32>::new();
    let mut wrong = 0;
    for frame in log.frames(0) {
        match frame.as_ref().map(|(_, bytes)| (id_of(bytes), bytes)) {
            Ok((Some(id), bytes)) if payload(id) == *bytes => *found.entry(id).or_default() += 1,
            _ => wrong += 1,
        }
    }
    let text = std::fs::read_to_string(acks).expect("the list of acknowledgements");
    let acked: Vec<Id> = text.lines().filter_map(parse).collect();
    let lost = acked.iter().filter(|id| !found.contains_key(id)).count();
    let twice = found.values().filter(|times| **times > 1).count();
    let torn = recovery.torn.map_or(0, |torn| torn.bytes);
    println!(
        "acknowledged {} found {} lost {lost} twice {twice} wrong {wrong} segments {} torn-bytes {torn}",
        acked.len(),
        found.len(),
        recovery.segments,
    );
    log.close().await.expect("the log closes");
    match lost + twice + wrong {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn parse(line: &str) -> Option<Id> {
    let mut parts = line.split(' ').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}
