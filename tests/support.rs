//! How tests run the program.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The built program.
pub(crate) fn threadline() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_threadline"));
    for name in [
        "THREADLINE_DATA",
        "THREADLINE_URL",
        "THREADLINE_TOKEN_FILE",
        "THREADLINE_TOKEN",
        "THREADLINE_STATE",
        "THREADLINE_LOG",
    ] {
        command.env_remove(name);
    }
    command
}

/// A file or folder of this repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs to the end and asserts success; gives standard output.
pub(crate) fn ok(command: &mut Command) -> String {
    let output = run(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Runs to the end.
pub(crate) fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// `threadline import` of a path into a data directory; gives the per-file rows.
pub(crate) fn import(data: &Path, path: &Path) -> Vec<serde_json::Value> {
    let text = ok(threadline().args(["import", "--format", "ndjson", "--data"]).arg(data).arg(path));
    ndjson(&text)
}

/// Time of the first of [`import_events`], milliseconds.
pub(crate) const EVENTS_BEGIN: u64 = 1_795_000_000_000;

/// Imports native events `from` to `to`, a millisecond apart, whose sessions take turns.
pub(crate) fn import_events(data: &Path, numbers: std::ops::Range<u64>, sessions: u64) {
    let event = |number: u64| {
        let (time, session) = ((EVENTS_BEGIN + number) * 1_000_000, number % sessions);
        format!(
            "{{\"id\":\"{number}\",\"kind\":\"log\",\"time_unix_nano\":{time},\"conversation_id\":\"c-{session}\"}}\n"
        )
    };
    let path = data.with_extension("jsonl");
    std::fs::write(&path, numbers.map(event).collect::<String>()).unwrap();
    import(data, &path);
}

/// Asks again and again until `found` says what was looked for; `patience` is reached only when the test fails.
pub(crate) fn awaited<T>(patience: Duration, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(start.elapsed() < patience, "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The objects of NDJSON text.
pub(crate) fn ndjson(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// JSON that a command prints.
pub(crate) fn json(command: &mut Command) -> serde_json::Value {
    let text = ok(command);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command:?}: {error}: {text}"))
}

/// A running `threadline serve`, killed when dropped.
pub(crate) struct Serve {
    pub(crate) child: Child,
    /// `http://127.0.0.1:PORT`
    pub(crate) url: String,
    /// The OTLP address, `http://127.0.0.1:PORT`.
    pub(crate) otlp: String,
    /// The address for OTLP/gRPC, `127.0.0.1:PORT`.
    pub(crate) otlp_grpc: String,
}

impl Serve {
    /// Starts on free ports and waits until it says where.
    pub(crate) fn start(data: &Path) -> Serve {
        Serve::start_with(threadline().arg("serve").arg("--data").arg(data))
    }

    /// The same with a prepared command.
    pub(crate) fn start_with(command: &mut Command) -> Serve {
        Serve::start_on(command, "127.0.0.1:0", "127.0.0.1:0")
    }

    /// The same with pages and API on an address of their own.
    pub(crate) fn start_listening(command: &mut Command, listen: &str) -> Serve {
        Serve::start_at(command, [listen, "127.0.0.1:0", "127.0.0.1:0"])
    }

    /// The same with OTLP where senders expect it.
    pub(crate) fn start_on(command: &mut Command, otlp_http: &str, otlp_grpc: &str) -> Serve {
        Serve::start_at(command, ["127.0.0.1:0", otlp_http, otlp_grpc])
    }

    fn start_at(command: &mut Command, [listen, otlp_http, otlp_grpc]: [&str; 3]) -> Serve {
        command.args(["--listen", listen, "--otlp-http", otlp_http, "--otlp-grpc", otlp_grpc]);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        let mut url = None;
        let mut otlp = None;
        let mut otlp_grpc = None;
        let mut said = String::new();
        while otlp.is_none() {
            let Some(Ok(line)) = lines.next() else { panic!("serve ended: {said}") };
            said.push_str(&line);
            said.push('\n');
            let address = |marker: &str| line.trim().strip_prefix(marker).map(|rest| rest.trim().to_string());
            url = url.or_else(|| address("pages and API"));
            otlp_grpc = otlp_grpc.or_else(|| address("OTLP/gRPC"));
            otlp = otlp.or_else(|| {
                address("OTLP/HTTP").map(|text| text.trim_end_matches("/v1/{logs,traces,metrics}").to_string())
            });
        }
        // Keep the pipe drained, so that the server never waits for us; errors are shown beside the test that met them.
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .filter(|line| line.contains("ERROR"))
                .for_each(|line| eprintln!("serve: {line}"));
        });
        Serve {
            child,
            url: url.expect("the address is printed"),
            otlp: otlp.expect("the OTLP address is printed"),
            otlp_grpc: otlp_grpc.expect("the OTLP/gRPC address is printed"),
        }
    }

    /// Sends SIGTERM and waits for a clean end.
    pub(crate) fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the server is there");
        let status = self.child.wait().expect("the server ends");
        assert!(status.success(), "serve ended with {status}");
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // Already gone after `stop`.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Why a test cannot run here; printed where it skips.
pub(crate) fn skip(reason: &str) {
    println!("SKIPPED: {reason}");
}
