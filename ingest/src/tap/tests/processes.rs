//! The tap as a process of its own: what only a process shows (its standard streams, signals sent to it, its exit code).
//!
//! The test binary starts itself; [`process_entry`] is what then runs.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdout},
};

use super::*;

const COMMAND: &str = "THREADLINE_TEST_TAP_SCRIPT";
const RECORD: &str = "THREADLINE_TEST_TAP_RECORD";

/// Writes what it gets to a file, a line each.
struct ToFile(std::fs::File);

impl Record for ToFile {
    async fn record(&mut self, batch: Vec<Observation>) -> Result<(), RecordError> {
        let lines: String = batch.iter().map(|observation| show(observation) + "\n").collect();
        self.0.write_all(lines.as_bytes()).map_err(|error| RecordError::Unavailable(error.into()))
    }
}

/// Not a test when run as one: the process that the tests below start.
#[test]
fn process_entry() {
    let Some(script) = std::env::var_os(COMMAND) else { return };
    let record = std::fs::File::create(std::env::var_os(RECORD).unwrap()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let command = ["python3".into(), "-c".into(), script];
    let client = Client::from_process().unwrap();
    let outcome = runtime.block_on(run(&command, client, ToFile(record), TapOptions::new(Uuid::nil())));
    std::process::exit(outcome.map_or_else(|error| error.exit_code(), |outcome| outcome.code).into());
}

fn has_python() -> bool {
    let found = std::process::Command::new("python3").arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: python3 is not installed");
    }
    found
}

/// Starts the tap before a Python server, and reads what the test harness says until the server's first line.
#[expect(clippy::zombie_processes, reason = "the callers wait; a failed test leaves nothing that outlives its pipes")]
fn start(script: &str, record: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tap::tests::processes::process_entry", "--nocapture"])
        .env(COMMAND, script)
        .env(RECORD, record)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    loop {
        let mut line = String::new();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "ended before the server was ready");
        // The harness prints the test's name without a line feed before it.
        if line.ends_with("ready\n") {
            return (child, output);
        }
    }
}

#[test]
fn signals_reach_the_server_and_its_code_comes_back() {
    if !has_python() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let record = directory.path().join("record");
    let script = "import signal, sys, threading\n\
        def end(number, frame):\n print('caught', number, flush=True)\n sys.exit(10 + number)\n\
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM): signal.signal(number, end)\n\
        print('ready', flush=True)\n\
        while True: signal.pause()\n";
    for (name, number) in [("HUP", 1), ("INT", 2), ("QUIT", 3), ("TERM", 15)] {
        let (mut child, mut output) = start(script, &record);
        kill(name, child.id());
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, format!("caught {number}\n"));
        assert_eq!(child.wait().unwrap().code(), Some(10 + number));
        let recorded = std::fs::read_to_string(&record).unwrap();
        assert!(recorded.contains(&format!("server_to_client caught {number}\n")), "{recorded}");
        assert!(recorded.ends_with(&format!("exited Some({}) None\n", 10 + number)), "{recorded}");
    }
}

#[test]
fn a_server_killed_by_a_signal_gives_128_and_its_number() {
    if !has_python() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let record = directory.path().join("record");
    let script =
        "import signal\nprint('ready', flush=True)\nsignal.signal(15, signal.SIG_DFL)\nwhile True: signal.pause()";
    let (mut child, _output) = start(script, &record);
    kill("TERM", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    assert!(std::fs::read_to_string(&record).unwrap().ends_with("exited None Some(15)\n"));
}

#[test]
fn the_standard_streams_close_when_the_server_closes_its_own() {
    if !has_python() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let script = "import os, sys\nprint('ready', flush=True)\nos.close(1)\nos._exit(len(sys.stdin.readline()))\n";
    let (mut child, mut output) = start(script, &directory.path().join("record"));
    // End of file, although tap and server live: the server waits for the line below.
    assert_eq!(output.read_to_end(&mut Vec::new()).unwrap(), 0);
    assert!(child.try_wait().unwrap().is_none());
    child.stdin.take().unwrap().write_all(b"four\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn recorders_on_both_sides_see_the_same_bytes() {
    if !has_python() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (read, wrote) = (directory.path().join("read"), directory.path().join("wrote"));
    // Writes down what it reads; answers each read with more bytes than it got, in split writes, and writes those down.
    let script = format!(
        "import os, random\nrandom.seed(7)\nread = open({read:?}, 'wb'); wrote = open({wrote:?}, 'wb')\n\
         print('ready', flush=True)\n\
         while True:\n chunk = os.read(0, random.choice((1, 100, 65536)))\n if not chunk: break\n read.write(chunk)\n\
         \x20data = chunk + random.randbytes(random.randrange(300))\n wrote.write(data)\n while data:\n\
         \x20 n = os.write(1, data[:random.choice((1, 4096, 65536))]); data = data[n:]\n"
    );
    let (mut child, mut output) = start(&script, &directory.path().join("record"));
    let mut input = child.stdin.take().unwrap();
    let sent: Vec<u8> = junk(3 << 20);
    let writer = thread::spawn({
        let sent = sent.clone();
        move || {
            let mut rest = &sent[..];
            let mut size = 1;
            while !rest.is_empty() {
                let (now, later) = rest.split_at(size.min(rest.len()));
                input.write_all(now).unwrap();
                rest = later;
                size = size * 7 % 100_003;
            }
        }
    });
    let mut received = Vec::new();
    output.read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(std::fs::read(&read).unwrap() == sent, "the server read other bytes than were sent");
    assert!(std::fs::read(&wrote).unwrap() == received, "the client read other bytes than were written");
}

/// Binary with lines of all lengths: a linear congruential generator, then a line of 1 MiB.
fn junk(length: usize) -> Vec<u8> {
    let mut state = 42_u64;
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(length)
    .collect();
    bytes[length / 2..][..1 << 20].fill(b'x');
    bytes
}

fn kill(signal: &str, pid: u32) {
    let status = std::process::Command::new("kill").args(["-s", signal, &pid.to_string()]).status().unwrap();
    assert!(status.success());
}
