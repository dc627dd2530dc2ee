//! Real clients against real servers through real taps, four at once beside `serve`: recorders on both
//! sides of each tap see identical bytes, and the sessions appear with every call.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::captures::same_value;
use crate::support::{Serve, json, repository, skip, threadline};

/// Where `tests/estate/setup` put the programs.
pub(crate) fn estate() -> Option<PathBuf> {
    let estate = std::env::var_os("THREADLINE_ESTATE").map_or_else(|| repository("target/estate"), PathBuf::from);
    estate.join("installed-servers").exists().then_some(estate)
}

/// One client session: who drives it, which session, through which tap name.
struct Run {
    client: &'static str,
    session: &'static str,
    server_name: &'static str,
}

const RUNS: [Run; 4] = [
    Run { client: "mcp", session: "basic--s1", server_name: "everything" },
    Run { client: "fastmcp", session: "basic--f1", server_name: "everything-2" },
    Run { client: "mcp", session: "fsinj--1", server_name: "files" },
    Run { client: "mcp", session: "pys--1", server_name: "orders" },
];

impl Run {
    fn start(&self, estate: &Path, work: &Path, data: &Path, otlp: &str) -> Child {
        let python = estate.join("venv/bin/python");
        let out = work.join(self.server_name);
        std::fs::create_dir_all(&out).unwrap();
        let recorder = |side: &str| {
            vec![
                python.display().to_string(),
                repository("tests/estate/recorder.py").display().to_string(),
                out.join(side).display().to_string(),
                "--".into(),
            ]
        };
        let tap = [
            env!("CARGO_BIN_EXE_threadline"),
            "tap",
            "--data",
            &data.display().to_string(),
            "--server-name",
            self.server_name,
            "--",
        ]
        .map(str::to_string);
        let between: Vec<String> = [recorder("client"), tap.to_vec(), recorder("server")].concat();
        let log = std::fs::File::create(out.join("driver.log")).unwrap();
        Command::new(&python)
            .arg(repository("tests/estate/drive.py"))
            .args([self.client, "stdio", self.session])
            .arg(&out)
            .env("ESTATE", estate)
            .env("BETWEEN", serde_json::to_string(&between).unwrap())
            .env("FSROOT", work.join("project"))
            .env("OTLP", otlp)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("the driver starts")
    }
}

#[test]
fn four_taps_beside_serve_record_every_call_and_change_no_byte() {
    let Some(estate) = estate() else {
        return skip("the estate is not installed: run tests/estate/setup");
    };
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    copy_project(&work.path().join("project"));
    let serve = Serve::start(&data);
    let mut drivers: Vec<(&Run, Child)> =
        RUNS.iter().map(|run| (run, run.start(&estate, work.path(), &data, &serve.otlp))).collect();
    for (run, driver) in &mut drivers {
        let status = driver.wait().unwrap();
        let log = std::fs::read_to_string(work.path().join(run.server_name).join("driver.log")).unwrap_or_default();
        assert!(status.success(), "{} {}: {status}\n{log}", run.client, run.session);
    }
    for run in &RUNS {
        identical_bytes(&work.path().join(run.server_name));
    }
    for run in &RUNS {
        every_call_is_there(run, work.path(), &serve.url);
    }
    serve.stop();
}

fn identical_bytes(out: &Path) {
    for direction in ["in", "out"] {
        let side = |side: &str| std::fs::read(out.join(format!("{side}.{direction}"))).unwrap();
        let (client, server) = (side("client"), side("server"));
        assert!(!client.is_empty(), "{}: nothing passed", out.display());
        assert!(client == server, "{}: the bytes of direction {direction} differ", out.display());
    }
}

fn every_call_is_there(run: &Run, work: &Path, url: &str) {
    let truth: Value =
        serde_json::from_slice(&std::fs::read(work.join(run.server_name).join("ground_truth.json")).unwrap()).unwrap();
    let expected: Vec<(String, Value)> = truth["turns"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|turn| turn["calls"].as_array().unwrap())
        .filter(|call| call["method"] == "tools/call")
        .map(|call| (call["tool"].as_str().unwrap().to_string(), call["arguments"].clone()))
        .collect();
    assert!(!expected.is_empty());
    let sessions =
        json(threadline().args(["session", "list", "--format", "json", "--url", url, "--server", run.server_name]));
    let mut found = Vec::new();
    for session in sessions["data"].as_array().unwrap() {
        let id = session["id"].as_str().unwrap();
        let answer = json(threadline().args(["session", "show", "--format", "json", "--url", url, id]));
        for call in
            answer["data"]["turns"].as_array().unwrap().iter().flat_map(|turn| turn["calls"].as_array().unwrap())
        {
            if call["server"] == run.server_name {
                let arguments: Value =
                    call["arguments"].as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
                found.push((call["tool"].as_str().unwrap_or("").to_string(), arguments));
            }
        }
    }
    for call in &expected {
        let at =
            found.iter().position(|other| other.0 == call.0 && (same_value(&other.1, &call.1) || other.1.is_null()));
        let at = at.unwrap_or_else(|| panic!("{}: {call:?} is not in {found:?} of {sessions}", run.server_name));
        found.swap_remove(at);
    }
}

/// The files the file-system sessions work on; `.env` is made here because dotfiles of that name tend
/// to be ignored.
pub(crate) fn copy_project(target: &Path) {
    let source = repository("tests/estate/project");
    for file in ["README.md", "config.yaml", "tickets/1.md", "tickets/2.md", "public/status.html"] {
        let path = target.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::copy(source.join(file), path).unwrap();
    }
    std::fs::copy(source.join("dotenv"), target.join(".env")).unwrap();
}
