//! Evidence to hand over: the same records in every form and by every way, checked with tools that are not ours, and
//! nothing that looks whole when it is not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Serve, import, json as answer, ndjson, ok, repository, run, skip, threadline};

const INCIDENT: &str = "309daf42-f826-415e-8b8f-6414e473e49e";
const FORMATS: [&str; 6] = ["ndjson", "csv", "parquet", "ocsf", "html", "bundle"];

fn demo(work: &Path) -> PathBuf {
    let data = work.join("data");
    ok(threadline().args(["demo", "--no-serve", "--data"]).arg(&data));
    data
}

fn export(place: [&str; 2], rest: &[&str], to: &Path) {
    ok(threadline().arg("export").args(rest).args(place).arg("-o").arg(to));
}

fn get(url: &str) -> (reqwest::header::HeaderMap, Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let answer = reqwest::get(url).await.unwrap();
        assert!(answer.status().is_success(), "{url}: {}", answer.status());
        (answer.headers().clone(), answer.bytes().await.unwrap().to_vec())
    })
}

/// Files below a folder by their names within it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_string();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn the_incident_is_the_same_in_every_form_and_by_every_way() {
    let work = tempfile::tempdir().unwrap();
    let data = demo(work.path());
    let shown = answer(threadline().args(["session", "show", INCIDENT, "--format", "json", "--data"]).arg(&data));
    let records = shown["data"]["summary"]["records"].as_u64().unwrap();
    let local: Vec<PathBuf> = FORMATS
        .iter()
        .map(|format| {
            let to = work.path().join(format!("local.{format}"));
            let why = ["session", INCIDENT, "--format", format, "--by", "c.auditor", "--reason", "case 7"];
            export(["--data", data.to_str().unwrap()], &why, &to);
            to
        })
        .collect();
    let serve = Serve::start(&data);
    for (format, local) in FORMATS.iter().zip(&local) {
        let remote = work.path().join(format!("remote.{format}"));
        export(["--url", &serve.url], &["session", INCIDENT, "--format", format], &remote);
        let (headers, api) =
            get(&format!("{}/api/v1/export?session={INCIDENT}&format={format}&by=&reason=", serve.url));
        assert_eq!(headers["threadline-records"].to_str().unwrap(), records.to_string(), "{format}");
        assert_eq!(headers["threadline-access"].len(), 36, "{format}");
        match *format {
            "html" => {
                let page = String::from_utf8(api).unwrap();
                assert!(page.contains(&format!("<dt>records</dt><dd>{records}, ")), "{format}");
            }
            "bundle" => {
                let folder = work.path().join("folder");
                export(["--url", &serve.url], &["session", INCIDENT, "--format", format], &folder.join(""));
                let unpacked = files(&folder);
                for other in ["ndjson", "parquet", "ocsf"] {
                    let name = format!("{}.{other}", if other == "ocsf" { "ocsf" } else { "records" });
                    let name = name.replace("ocsf.ocsf", "ocsf.ndjson");
                    let alone = std::fs::read(work.path().join(format!("local.{other}"))).unwrap();
                    assert!(unpacked[&name] == alone, "{name} differs from the export of that form");
                }
                checked_by_others(&folder, records);
                ok(threadline().args(["export", "verify"]).arg(&folder));
                ok(threadline().args(["export", "verify"]).arg(local));
                refuses(&folder);
            }
            _ => {
                let local = std::fs::read(local).unwrap();
                assert!(local == api && local == std::fs::read(&remote).unwrap(), "{format}: the ways differ");
            }
        }
    }
    let csv = std::fs::read(&local[1]).unwrap();
    assert_eq!(csv::Reader::from_reader(csv.as_slice()).records().count() as u64, records);
    assert_eq!(ndjson(&std::fs::read_to_string(&local[0]).unwrap()).len() as u64, records);
    serve.stop();

    // Each of them is on record: who, why, how many, and which bundle it was.
    let sql = "select user_claimed, attributes from records where kind = 'access' order by time_unix_nano";
    let log = answer(threadline().args(["sql", sql, "--format", "json", "--data"]).arg(&data));
    let rows = log["data"]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), FORMATS.len() * 3 + 1);
    let said: Vec<Value> = rows.iter().map(|row| serde_json::from_str(row[1].as_str().unwrap()).unwrap()).collect();
    assert!(said.iter().all(|said| said["export"]["records"] == records));
    let bundle = said.iter().zip(rows).find(|(said, _)| said["export"]["format"] == "bundle").unwrap();
    assert_eq!((&bundle.1[0], &bundle.0["export"]["reason"]), (&json!("c.auditor"), &json!("case 7")));
    let manifest = ok(Command::new("tar").arg("xOf").arg(&local[5]).arg("threadline-bundle/manifest.json"));
    let digest = ok(Command::new("sh").args(["-c", "printf %s \"$0\" | sha256sum", &manifest]));
    let stated: Value = serde_json::from_str(&manifest).unwrap();
    let judged = &shown["completeness"]["links_inferred"];
    assert_eq!(&stated["completeness"]["links_inferred"], judged, "as the session shows them");
    assert_ne!(judged, 0);
    assert!(digest.starts_with(bundle.0["export"]["sha256"].as_str().unwrap()), "{digest}");

    // Each event leads back to its session, where the pages are known. Who reads is no source that could fall silent.
    let linked = ["export", "session", INCIDENT, "--format", "ocsf", "--public-url", "https://t.example/x/", "--data"];
    let linked = ndjson(&ok(threadline().args(linked).arg(&data)));
    let back = |event: &Value| event["unmapped"]["threadline.session_url"].as_str().map(str::to_string);
    assert!(linked.iter().all(|event| back(event).is_some_and(|url| url.starts_with("https://t.example/x/sessions/"))));
    let sources = ok(threadline().args(["sources", "--format", "ndjson", "--data"]).arg(&data));
    assert!(ndjson(&sources).iter().all(|source| source["source_name"] != "threadline"), "{sources}");
}

/// What README.txt of a bundle says, done.
fn checked_by_others(folder: &Path, records: u64) {
    ok(Command::new("sha256sum").args(["--check", "--strict", "--quiet", "SHA256SUMS"]).current_dir(folder));
    let script = r#"
import hashlib, json
manifest = json.load(open("manifest.json"))
custody = json.load(open("custody.json"))
assert hashlib.sha256(open("manifest.json", "rb").read()).hexdigest() == custody["manifest_sha256"]
records = [json.loads(line) for line in open("records.ndjson", encoding="utf-8")]
raw = open("raw/bytes", "rb").read()
index = {entry["event_id"]: entry for entry in map(json.loads, open("raw/index.ndjson"))}
assert {record["event_id"] for record in records} == {i for i, entry in index.items() if not entry.get("beside")}
for record in records:
    entry = index[record["event_id"]]
    piece = entry.get("raw") or index[entry["part_of"]].get("raw") if entry.get("raw") or entry.get("part_of") else None
    if piece:
        assert hashlib.sha256(raw[piece["offset"]:][:piece["bytes"]]).hexdigest() == piece["sha256"]
links = [json.loads(line) for line in open("links.ndjson", encoding="utf-8")]
assert sum(manifest["links"]["by_grade"].values()) == len(links) > 0
assert all(link["from"] in index for link in links)
print(len(records), sum(manifest["by_kind"].values()))
"#;
    let said = ok(Command::new("python3").args(["-c", script]).current_dir(folder));
    assert_eq!(said.trim(), format!("{records} {records}"));
}

/// A folder that holds something is left alone; a changed file is named, with exit code 1.
fn refuses(folder: &Path) {
    let again =
        run(threadline().args(["export", "range", "--format", "bundle", "--data", "/nowhere", "-o"]).arg(folder));
    assert_eq!(again.status.code(), Some(2));
    std::fs::write(folder.join("links.ndjson"), "").unwrap();
    let changed = run(threadline().args(["export", "verify"]).arg(folder));
    let said = String::from_utf8_lossy(&changed.stderr).into_owned();
    assert_eq!(changed.status.code(), Some(1), "{said}");
    assert!(said.starts_with("differs: links.ndjson has 0 bytes"), "{said}");
    let nothing = run(threadline().args(["export", "verify", "/nowhere/at/all"]));
    assert_eq!(nothing.status.code(), Some(2));
}

/// Ids that shells, addresses, paths and spreadsheets take for something else.
#[test]
fn odd_ids_and_hostile_texts_are_exported_as_they_are() {
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    let odd = "../x?y&z#%41+ \"'<b>;=1+1|cmd\u{202e}漢";
    let texts =
        ["=1+1", "+cmd|'/C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "a;=1+1", "a,\"=1", "＝1", "\u{1b}[2J", "-5"];
    let lines: String = texts
        .iter()
        .enumerate()
        .map(|(at, text)| {
            let event = json!({"id": format!("e{at}"), "kind": "prompt", "time": "2026-11-20T10:00:00+02:00",
                "conversation_id": odd, "text": text, "user_claimed": text, "attributes": {"k": text}});
            event.to_string() + "\n"
        })
        .collect();
    let serve = Serve::start(&data);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sent = reqwest::Client::new()
        .post(format!("{}/api/v1/events", serve.url))
        .header("content-type", "application/x-ndjson")
        .body(lines);
    assert!(runtime.block_on(sent.send()).unwrap().status().is_success());
    let csv = work.path().join("out.csv");
    for place in [["--data", data.to_str().unwrap()], ["--url", serve.url.as_str()]] {
        let records = ndjson(&ok(threadline().args(["export", "session", odd]).args(place)));
        assert_eq!(records.len(), texts.len());
        assert!(records.iter().all(|record| record["conversation_id"] == odd));
        let mut said: Vec<&str> = records.iter().map(|record| record["text"].as_str().unwrap()).collect();
        let mut expected = texts.to_vec();
        said.sort_unstable();
        expected.sort_unstable();
        assert_eq!(said, expected);
        export(place, &["session", odd, "--format", "csv"], &csv);
        export(place, &["session", odd, "--format", "bundle"], &work.path().join("b.tar"));
        ok(threadline().args(["export", "verify"]).arg(work.path().join("b.tar")));
    }
    // The same range, said in two zones.
    let between = |from: &str, to: &str| {
        ndjson(&ok(threadline().args(["export", "range", "--from", from, "--to", to, "--url", &serve.url]))).len()
    };
    assert_eq!(between("2026-11-20T08:00:00Z", "2026-11-20T08:00:01Z"), texts.len());
    assert_eq!(between("2026-11-20T13:30:00+05:30", "2026-11-20T03:00:01-05:00"), texts.len());
    assert_eq!(between("2026-11-20T10:00:00Z", "2026-11-20T10:00:01Z"), 0);
    let spreadsheet = r#"
import csv, sys
cells = 0
for separator in ",;\t|":
    for row in csv.reader(open(sys.argv[1], encoding="utf-8", newline=""), delimiter=separator):
        for cell in row:
            cells += 1
            inner = cell.strip().strip('"').strip()
            try:
                float(inner)
            except ValueError:
                assert not inner or inner[0] not in "=+-@\t\r\n＝＋－＠", (separator, cell)
print(cells)
"#;
    assert!(ok(Command::new("python3").args(["-c", spreadsheet]).arg(&csv)).trim().parse::<u32>().unwrap() > 500);
    serve.stop();
}

/// Ended by a signal while it is under way, an export leaves nothing under its name; ended by itself, it is whole.
#[test]
fn what_is_interrupted_never_looks_whole() {
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    import(&data, &repository("tests/captures"));
    let mut ended_early = 0;
    for (at, signal) in [Signal::INT, Signal::TERM, Signal::KILL, Signal::INT, Signal::KILL].into_iter().enumerate() {
        for (format, name) in [("bundle", format!("out{at}/")), ("ndjson", format!("out{at}.ndjson"))] {
            let target = work.path().join(&name);
            let mut child = threadline()
                .args(["export", "range", "--format", format, "--data"])
                .arg(&data)
                .arg("-o")
                .arg(&target)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let partial = || {
                std::fs::read_dir(work.path())
                    .unwrap()
                    .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with(&format!(".out{at}")))
            };
            while !partial() && child.try_wait().unwrap().is_none() {
                std::thread::yield_now();
            }
            // It may be gone.
            let _sent = kill_process(Pid::from_child(&child), signal);
            let ended = child.wait().unwrap();
            if ended.success() {
                assert!(target.exists(), "{signal:?} {name}");
                continue;
            }
            ended_early += 1;
            assert!(!target.exists(), "{signal:?} left {name}");
            if signal == Signal::KILL {
                let left = std::fs::read_dir(work.path()).unwrap().map(|entry| entry.unwrap().path());
                for path in left.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with('.')) {
                    let _gone = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path));
                }
            } else {
                assert!(!partial(), "{signal:?} left a part of {name}");
            }
        }
    }
    assert!(ended_early > 0, "no export was caught while it was under way");
    // What was ended is on record, and left no spool that looks like a killed collector.
    let gaps = answer(
        threadline()
            .args([
                "sql",
                "select count(*) from records where error_type = 'collector_ended'",
                "--format",
                "json",
                "--data",
            ])
            .arg(&data),
    );
    assert_eq!(gaps["data"]["rows"][0][0], 0);
}

/// A disk that fills up ends an export with an error that says so, and nothing stays.
#[test]
fn what_stands_where_an_export_goes_stays_what_it_is() {
    use std::os::unix::fs::FileTypeExt;

    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    import(&data, &repository("tests/captures/pysdk-memory-stdio"));
    let place = ["--data", data.to_str().unwrap()];
    let question = ["range", "--format", "csv"];
    let path = |name: &str| work.path().join(name);
    export(place, &question, &path("plain"));
    let expected = std::fs::read(path("plain")).unwrap();
    assert!(!expected.is_empty());

    std::fs::write(path("behind"), "old").unwrap();
    std::os::unix::fs::symlink("behind", path("link")).unwrap();
    export(place, &question, &path("link"));
    assert!(path("link").symlink_metadata().unwrap().file_type().is_symlink());
    assert_eq!(std::fs::read(path("behind")).unwrap(), expected);

    assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = path("pipe");
        move || std::fs::read(pipe).unwrap()
    });
    export(place, &question, &path("pipe"));
    assert!(path("pipe").symlink_metadata().unwrap().file_type().is_fifo());
    assert_eq!(reader.join().unwrap(), expected);
}

#[test]
fn a_full_disk_leaves_nothing() {
    let work = tempfile::tempdir().unwrap();
    let data = demo(work.path());
    let small = work.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&small));
    if !mounted.status.success() {
        return skip("no file system of 64 KiB could be mounted");
    }
    let outcomes: Vec<(String, Option<i32>, String, usize)> =
        [("bundle", "b.tar"), ("bundle", "b/"), ("ndjson", "n.ndjson")]
            .map(|(format, name)| {
                let mut command = threadline();
                command.args(["export", "range", "--format", format, "--data"]).arg(&data);
                let output = run(command.arg("-o").arg(small.join(name)));
                let left = std::fs::read_dir(&small).unwrap().count();
                (name.to_string(), output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), left)
            })
            .into();
    ok(Command::new("umount").arg(&small));
    for (name, code, said, left) in outcomes {
        assert_eq!((code, left), (Some(1), 0), "{name}: {said}");
        assert!(said.contains("nothing was left there") && said.contains("No space left"), "{name}: {said}");
    }
}
