//! Real processes on real pipes.

mod processes;

use std::{
    io::{PipeReader, PipeWriter, Read, Write},
    sync::mpsc,
};

use expect_test::{Expect, expect};

use super::*;

/// Hands every batch to the test.
struct Collect(mpsc::Sender<Observation>);

impl Record for Collect {
    async fn record(&mut self, batch: Vec<Observation>) -> Result<(), RecordError> {
        for observation in batch {
            self.0.send(observation).map_err(|error| RecordError::Unavailable(error.into()))?;
        }
        Ok(())
    }
}

/// The client's ends of the three streams.
struct Ends {
    input: PipeWriter,
    output: PipeReader,
    error: PipeReader,
}

fn pipes() -> (Client, Ends) {
    let (input, to_tap) = io::pipe().unwrap();
    let (output, from_tap) = io::pipe().unwrap();
    let (error, errors_from_tap) = io::pipe().unwrap();
    let client = Client { input: input.into(), output: from_tap.into(), error: errors_from_tap.into() };
    (client, Ends { input: to_tap, output, error })
}

fn options() -> TapOptions {
    let linger = Duration::from_millis(50);
    let retry = Retry { min: Duration::from_millis(1), max: Duration::from_millis(1) };
    TapOptions { linger, retry, ..TapOptions::new(Uuid::nil()) }
}

fn command(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn shell(script: &str) -> Vec<OsString> {
    command(&["sh", "-c", script])
}

/// Runs `command` while `client` plays the client's part on a thread of its own.
async fn run_with<R: Record + 'static, T: Send + 'static>(
    command: &[OsString],
    recorder: R,
    options: TapOptions,
    client: impl FnOnce(Ends) -> T + Send + 'static,
) -> (Result<Outcome, TapError>, T) {
    let (ours, ends) = pipes();
    let client = thread::spawn(move || client(ends));
    let outcome = run(command, ours, recorder, options).await;
    (outcome, client.join().unwrap())
}

/// Sends everything, then reads everything.
fn exchange(sent: &'static [u8]) -> impl FnOnce(Ends) -> (Vec<u8>, Vec<u8>) {
    move |Ends { mut input, mut output, mut error }| {
        // The server may leave without reading it.
        drop(input.write_all(sent));
        drop(input);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        output.read_to_end(&mut out).unwrap();
        error.read_to_end(&mut err).unwrap();
        (out, err)
    }
}

fn show(observation: &Observation) -> String {
    match &observation.event {
        Event::Started { command, .. } => format!("started {}", command[0].display()),
        Event::Frame(Frame { direction, bytes, length, terminated, delivered, .. }) => {
            let bytes = if bytes.len() < 60 { bytes.escape_ascii().to_string() } else { format!("[{}]", bytes.len()) };
            let mut shown = format!("{} {bytes}", direction.as_str());
            for (flag, name) in [(!terminated, " unterminated"), (!delivered, " undelivered")] {
                shown.push_str(if flag { name } else { "" });
            }
            if *length > 60 { format!("{shown} of {length}") } else { shown }
        }
        Event::Closed { direction, by } => format!("{} closed by {by:?}", direction.as_str()),
        Event::Gap(gap) => {
            format!("{} gap {} frames {} bytes {}", gap.direction.as_str(), gap.frames, gap.bytes, gap.reason.as_str())
        }
        Event::Exited { code, signal } => format!("exited {code:?} {signal:?}"),
    }
}

/// The streams are independent processes' doing, so their relative order is not fixed: shown stream by stream.
fn check(observations: &[Observation], expected: Expect) {
    let sequences: Vec<u64> = observations.iter().map(|observation| observation.sequence).collect();
    assert!(sequences.iter().copied().eq(0..sequences.len() as u64), "{sequences:?}");
    let stream = |observation: &&Observation| match &observation.event {
        Event::Started { .. } => 0,
        Event::Frame(Frame { direction, .. }) | Event::Closed { direction, .. } | Event::Gap(Gap { direction, .. }) => {
            1 + direction.index()
        }
        Event::Exited { .. } => 4,
    };
    let mut sorted: Vec<&Observation> = observations.iter().collect();
    sorted.sort_by_key(stream);
    expected.assert_eq(&sorted.into_iter().map(show).collect::<Vec<_>>().join("\n"));
}

#[tokio::test]
async fn passes_and_records_all_three_streams() {
    let (sender, observations) = mpsc::channel();
    let echo = shell("echo ready >&2; cat; printf 'no line feed' >&2; exit 3");
    let (outcome, (out, err)) =
        run_with(&echo, Collect(sender), options(), exchange(b"{\"id\":1}\n\xff\0\r\n\nend")).await;
    let outcome = outcome.unwrap();
    assert_eq!(out, b"{\"id\":1}\n\xff\0\r\n\nend");
    assert_eq!(err, b"ready\nno line feed");
    assert_eq!((outcome.code, outcome.drained), (3, true));
    assert_eq!(outcome.passed, outcome.recorded);
    assert_eq!(outcome.passed.frames, 10);
    check(
        &observations.iter().collect::<Vec<_>>(),
        expect![[r#"
            started sh
            client_to_server {\"id\":1}
            client_to_server \xff\x00\r
            client_to_server 
            client_to_server end unterminated
            client_to_server closed by Source
            server_to_client {\"id\":1}
            server_to_client \xff\x00\r
            server_to_client 
            server_to_client end unterminated
            server_to_client closed by Source
            server_stderr ready
            server_stderr no line feed unterminated
            server_stderr closed by Source
            exited Some(3) None"#]],
    );
}

#[tokio::test]
async fn a_line_over_the_limit_passes_whole_and_is_recorded_in_part() {
    let (sender, observations) = mpsc::channel();
    let options = TapOptions { line_bytes_max: 70_000, ..options() };
    let script = "head -c 3000000 /dev/zero; echo; head -c 70000 /dev/zero; echo; echo short";
    let (outcome, (out, _)) = run_with(&shell(script), Collect(sender), options, exchange(b"")).await;
    assert!(outcome.unwrap().drained);
    assert_eq!(out.len(), 3_000_001 + 70_001 + 6);
    let observations: Vec<_> = observations.iter().collect();
    let oversized = observations.iter().find_map(|observation| match &observation.event {
        Event::Frame(frame) if frame.is_truncated() => frame.sha256,
        _ => None,
    });
    assert_eq!(
        hex::encode(oversized.unwrap()),
        hex::encode(<sha2::Sha256 as sha2::Digest>::digest(vec![0; 3_000_000]))
    );
    check(
        &observations,
        expect![[r#"
            started sh
            client_to_server closed by Source
            server_to_client [65536] of 3000000
            server_to_client [70000] of 70000
            server_to_client short
            server_to_client closed by Source
            server_stderr closed by Source
            exited Some(0) None"#]],
    );
}

#[tokio::test]
async fn a_request_stands_before_its_response() {
    let (sender, observations) = mpsc::channel();
    let client = |Ends { mut input, mut output, error: _error }: Ends| {
        for round in 0..300 {
            let line = format!("{round}\n");
            input.write_all(line.as_bytes()).unwrap();
            let mut answer = vec![0; line.len()];
            output.read_exact(&mut answer).unwrap();
            assert_eq!(answer, line.as_bytes());
        }
    };
    let (outcome, ()) = run_with(&command(&["cat"]), Collect(sender), options(), client).await;
    assert_eq!(outcome.unwrap().recorded.frames, 600);
    let frames: Vec<String> = observations
        .iter()
        .filter(|observation| matches!(observation.event, Event::Frame(_)))
        .map(|observation| show(&observation))
        .collect();
    let expected =
        (0..300).flat_map(|round| [format!("client_to_server {round}"), format!("server_to_client {round}")]);
    assert!(frames.into_iter().eq(expected));
}

#[tokio::test]
async fn a_client_that_leaves_early_ends_the_server_as_on_a_direct_pipe() {
    let (sender, observations) = mpsc::channel();
    let client = |Ends { input, mut output, error }: Ends| {
        output.read_exact(&mut [0; 2]).unwrap();
        drop(output);
        (input, error)
    };
    // `yes` dies of SIGPIPE (13), although the input stays open.
    let (outcome, _) = run_with(&command(&["yes"]), Collect(sender), options(), client).await;
    assert_eq!(outcome.unwrap().code, 128 + 13);
    let observations: Vec<_> = observations.iter().collect();
    let shown: Vec<String> = observations.iter().map(show).collect();
    assert!(shown.contains(&"server_to_client closed by Sink".into()), "{shown:?}");
    assert!(shown.contains(&"client_to_server closed by Sink".into()), "{shown:?}");
    assert_eq!(shown.last().unwrap(), "exited None Some(13)");
}

#[tokio::test]
async fn a_server_that_closes_its_output_goes_on() {
    let (sender, observations) = mpsc::channel();
    let client = |Ends { mut input, mut output, mut error }: Ends| {
        // End of file reaches us while the server still lives, and takes a line.
        assert_eq!(output.read_to_end(&mut Vec::new()).unwrap(), 0);
        input.write_all(b"still there\n").unwrap();
        drop(input);
        let mut log = String::new();
        error.read_to_string(&mut log).unwrap();
        log
    };
    let script = shell("exec >&-; read line; echo got: $line >&2; exit 7");
    let (outcome, log) = run_with(&script, Collect(sender), options(), client).await;
    assert_eq!((outcome.unwrap().code, log.as_str()), (7, "got: still there\n"));
    assert!(observations.iter().any(|observation| show(&observation) == "client_to_server still there"));
}

#[tokio::test]
async fn a_server_that_closes_its_input_closes_it_for_the_client() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("noticed");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let script = shell(&format!("exec <&-; echo closed; read noticed < {}", fifo.display()));
    let (sender, observations) = mpsc::channel();
    let client = move |Ends { mut input, mut output, error: _error }: Ends| {
        output.read_exact(&mut [0; 7]).unwrap();
        // The first write finds the server's end closed; a later one finds ours closed.
        while input.write_all(b"nobody reads this\n").is_ok() {}
        std::fs::write(fifo, "yes\n").unwrap();
    };
    let (outcome, ()) = run_with(&script, Collect(sender), options(), client).await;
    assert_eq!(outcome.unwrap().code, 0);
    let shown: Vec<String> = observations.iter().map(|observation| show(&observation)).collect();
    assert!(shown.contains(&"client_to_server nobody reads this undelivered".into()), "{shown:?}");
}

#[tokio::test]
async fn a_server_that_ends_with_the_input_open_ends_the_run() {
    let (sender, _observations) = mpsc::channel();
    let client = |Ends { input, mut output, error: _error }: Ends| {
        output.read_to_end(&mut Vec::new()).unwrap();
        input
    };
    let (outcome, _input) = run_with(&shell("exit 42"), Collect(sender), options(), client).await;
    assert_eq!(outcome.unwrap().code, 42);
}

#[tokio::test]
async fn a_grandchild_goes_on_talking_while_the_client_is_there() {
    let (sender, _observations) = mpsc::channel();
    let client = |Ends { mut input, mut output, error: _error }: Ends| {
        let mut answer = [0; 6];
        input.write_all(b"hello\n").unwrap();
        output.read_exact(&mut answer).unwrap();
        answer
    };
    // The shell ends at once; its background `cat` keeps input and output.
    let (outcome, answer) = run_with(&shell("exec 3<&0; cat <&3 & exit 5"), Collect(sender), options(), client).await;
    assert_eq!((outcome.unwrap().code, &answer), (5, b"hello\n"));
}

#[tokio::test]
async fn a_held_output_does_not_keep_us_once_the_client_is_done() {
    let (sender, _observations) = mpsc::channel();
    let (keep, kept) = io::pipe().unwrap();
    let client = move |Ends { input, output, error }: Ends| {
        drop(input);
        // Held open until the run has ended, which the other end of this pipe tells.
        let mut nothing = Vec::new();
        { keep }.read_to_end(&mut nothing).unwrap();
        (output, error)
    };
    let (ours, ends) = pipes();
    let client = thread::spawn(move || client(ends));
    let script = shell("exec 3<&0; sleep 600 <&- & echo $! >&2; exit 0");
    let outcome = run(&script, ours, Collect(sender), options()).await.unwrap();
    drop(kept);
    let (_output, mut error) = client.join().unwrap();
    let mut pid = [0; 16];
    let length = error.read(&mut pid).unwrap();
    let pid = std::str::from_utf8(&pid[..length]).unwrap().trim();
    assert!(std::process::Command::new("kill").arg(pid).status().unwrap().success());
    assert_eq!(outcome.code, 0);
}

#[tokio::test]
async fn failures_to_start_have_the_usual_codes() {
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain");
    std::fs::write(&plain, "no program\n").unwrap();
    for (program, code) in [("/nonexistent/program", 127), (plain.to_str().unwrap(), 126), ("", 127)] {
        let (ours, _ends) = pipes();
        let (sender, observations) = mpsc::channel();
        let error = run(&command(&[program]), ours, Collect(sender), options()).await.unwrap_err();
        assert_eq!(error.exit_code(), code, "{program}: {error}");
        assert_eq!(observations.iter().count(), 0);
    }
    let (ours, _ends) = pipes();
    let error = run(&[], ours, Collect(mpsc::channel().0), options()).await.unwrap_err();
    assert_eq!(error.exit_code(), 125);
}

/// Fails the first times, then works.
struct FailFirst {
    failures: u32,
    then: Collect,
    attempts: Vec<Vec<u64>>,
}

impl Record for FailFirst {
    async fn record(&mut self, batch: Vec<Observation>) -> Result<(), RecordError> {
        self.attempts.push(batch.iter().map(|observation| observation.sequence).collect());
        if self.failures > 0 {
            self.failures -= 1;
            return Err(RecordError::Unavailable("disk is full".into()));
        }
        if let [.., before, last] = &self.attempts[..] {
            assert!(before == last || before.last() < last.first(), "a retry is the same batch: {before:?} {last:?}");
        }
        self.then.record(batch).await
    }
}

#[tokio::test]
async fn nothing_is_lost_to_a_recorder_that_fails_for_a_while() {
    let (sender, observations) = mpsc::channel();
    let recorder = FailFirst { failures: 5, then: Collect(sender), attempts: Vec::new() };
    let (outcome, (out, _)) = run_with(&command(&["cat"]), recorder, options(), exchange(b"one\ntwo\n")).await;
    assert_eq!(out, b"one\ntwo\n");
    assert!(outcome.unwrap().drained);
    check(
        &observations.iter().collect::<Vec<_>>(),
        expect![[r#"
            started cat
            client_to_server one
            client_to_server two
            client_to_server closed by Source
            server_to_client one
            server_to_client two
            server_to_client closed by Source
            server_stderr closed by Source
            exited Some(0) None"#]],
    );
}

/// Waits to be let go before it records for the first time.
struct Gate(Option<oneshot::Receiver<()>>, Collect);

impl Record for Gate {
    async fn record(&mut self, batch: Vec<Observation>) -> Result<(), RecordError> {
        if let Some(open) = self.0.take() {
            open.await.map_err(|error| RecordError::Unavailable(error.into()))?;
        }
        self.1.record(batch).await
    }
}

#[tokio::test]
async fn a_recorder_that_hangs_delays_nothing_and_leaves_a_gap() {
    let (sender, observations) = mpsc::channel();
    let (open, gate) = oneshot::channel();
    let options = TapOptions { held_bytes_max: 100_000, ..options() };
    let client = |Ends { mut input, mut output, error: _error }: Ends| {
        let line = [b"x".repeat(999), b"\n".to_vec()].concat();
        for _ in 0..1000 {
            input.write_all(&line).unwrap();
            let mut answer = vec![0; line.len()];
            output.read_exact(&mut answer).unwrap();
            assert_eq!(answer, line);
        }
        // All of it has passed; only now may the recorder go on.
        open.send(()).unwrap();
    };
    let recorder = Gate(Some(gate), Collect(sender));
    let (outcome, ()) = run_with(&command(&["cat"]), recorder, options, client).await;
    let outcome = outcome.unwrap();
    let mut counted = outcome.recorded;
    for observation in observations.iter() {
        if let Event::Gap(gap) = observation.event {
            assert_eq!(gap.reason, GapReason::Overflow);
            assert!(gap.from_unix_nano <= gap.to_unix_nano);
            counted.add(gap.frames, gap.bytes);
        }
    }
    assert!(outcome.drained);
    assert_eq!(outcome.passed, Counts { frames: 2000, bytes: 2000 * 999 });
    assert_eq!(counted, outcome.passed);
    assert!(outcome.recorded.frames < 500, "{outcome:?}");
}

#[tokio::test]
async fn a_recorder_that_never_answers_is_left_at_the_deadline() {
    let (_open, gate) = oneshot::channel();
    let options = TapOptions { drain_timeout: Duration::from_millis(10), ..options() };
    let recorder = Gate(Some(gate), Collect(mpsc::channel().0));
    let (outcome, (out, _)) = run_with(&command(&["cat"]), recorder, options, exchange(b"one\n")).await;
    let outcome = outcome.unwrap();
    assert_eq!(out, b"one\n");
    assert!(!outcome.drained);
    assert_eq!((outcome.passed.frames, outcome.recorded.frames), (2, 0));
}

/// Refuses batches with a certain line in them.
struct Refuse(Collect);

impl Record for Refuse {
    async fn record(&mut self, batch: Vec<Observation>) -> Result<(), RecordError> {
        if batch.iter().any(|observation| show(observation).ends_with("bad")) {
            return Err(RecordError::Rejected("bad".into()));
        }
        self.0.record(batch).await
    }
}

#[tokio::test]
async fn only_what_is_refused_becomes_a_gap() {
    let (sender, observations) = mpsc::channel();
    let recorder = Refuse(Collect(sender));
    let (outcome, _) = run_with(&command(&["cat"]), recorder, options(), exchange(b"one\nbad\ntwo\n")).await;
    assert!(outcome.unwrap().drained);
    let shown: Vec<String> = observations.iter().map(|observation| show(&observation)).collect();
    for line in ["client_to_server one", "client_to_server two", "client_to_server gap 1 frames 3 bytes rejected"] {
        assert_eq!(shown.iter().filter(|shown| *shown == line).count(), 1, "{line}: {shown:?}");
    }
}

#[tokio::test]
async fn block_records_everything_through_failures_and_a_small_budget() {
    let (sender, observations) = mpsc::channel();
    let options = TapOptions { on_record_failure: OnRecordFailure::Block, held_bytes_max: 1000, ..options() };
    let client = |Ends { mut input, mut output, error: _error }: Ends| {
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            output.read_to_end(&mut all).unwrap();
            all.len()
        });
        let line = [b"x".repeat(9_999), b"\n".to_vec()].concat();
        for _ in 0..100 {
            input.write_all(&line).unwrap();
        }
        drop(input);
        reader.join().unwrap()
    };
    let recorder = FailFirst { failures: 20, then: Collect(sender), attempts: Vec::new() };
    let (outcome, read) = run_with(&command(&["cat"]), recorder, options, client).await;
    assert_eq!(read, 100 * 10_000);
    assert_eq!(outcome.unwrap().recorded, Counts { frames: 200, bytes: 200 * 9_999 });
    assert!(observations.iter().all(|observation| !matches!(observation.event, Event::Gap(_))));
}
