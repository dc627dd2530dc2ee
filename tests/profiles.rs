//! Source profiles: what each shipped one makes of a small log with damaged lines in it, the worked example of the
//! documentation, and a corpus of seven estates where it is at hand.
//!
//! Samples are ours (`tests/profiles/<profile>.log`); what comes out stands beside them and is renewed with
//! `UPDATE_EXPECT=1`. `THREADLINE_CORPUS` names a folder of presets, each with feeds (`*.jsonl.gz`, `*.log.gz`) and
//! `truth.jsonl.gz`, one object per line of the feeds.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use serde_json::Value;
use threadline_schemas::Collector;
use threadline_schemas::decode::profile::{Catalogue, Explaining, Profile};
use threadline_schemas::decode::{Context, Line};
use threadline_schemas::digest::MatchKey;
use threadline_schemas::display::{self, Lines};

use crate::support::{import, ndjson, ok, repository, run, skip, threadline};

/// What a profile makes of a file, as `source test` shows it.
fn explained(profile: &std::sync::Arc<Profile>, bytes: &[u8]) -> String {
    let match_key = MatchKey::new([0; 32]);
    let context = Context {
        tenant: "test",
        collector: Collector::Import,
        observed_time_unix_us: 1_775_100_000_000_000,
        match_key: Some(&match_key),
    };
    let mut explaining = Explaining::new(profile.clone());
    let mut all = Vec::new();
    for (bytes, number) in bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|byte| *byte == b'\n').zip(1..) {
        let key = format!("test:{number}");
        all.extend(explaining.line(&context, Line { bytes, file: Some("sample"), number, delivery_key: &key }));
    }
    all.extend(explaining.finish(&context));
    let text: String = all.iter().map(ToString::to_string).collect();
    display::terminal(&text, Lines::Keep)
}

#[test]
fn every_shipped_profile_reads_its_sample_as_written_down() {
    let folder = repository("tests/profiles");
    for profile in Catalogue::shipped().profiles() {
        let name = profile.name();
        let sample = std::fs::read(folder.join(format!("{name}.log")))
            .unwrap_or_else(|error| panic!("profile {name} needs a sample: {error}"));
        let shown = explained(profile, &sample);
        assert!(shown.contains(": rejected ("), "the sample of {name} holds no damaged line");
        for rule in profile.rules() {
            assert!(shown.contains(&format!("(rule {rule})")), "no line of the sample of {name} reaches rule {rule}");
        }
        expect_file![folder.join(format!("{name}.txt"))].assert_eq(&shown);
    }
}

/// The code blocks of a Markdown file that are marked as of this kind.
fn blocks(markdown: &str, kind: &str) -> Vec<String> {
    let fence = format!("\n```{kind}\n");
    let parts = markdown.split(fence.as_str()).skip(1);
    parts.filter_map(|part| Some(part.split_once("\n```")?.0.to_string())).collect()
}

#[test]
fn the_worked_example_of_the_documentation_works() {
    let readme = std::fs::read_to_string(repository("schemas/sources/README.md")).unwrap();
    let work = tempfile::tempdir().unwrap();
    let (profile, log) = (work.path().join("acme.toml"), work.path().join("acme.log"));
    std::fs::write(&profile, blocks(&readme, "toml").remove(0)).unwrap();
    std::fs::write(&log, blocks(&readme, "log").remove(0) + "\n").unwrap();
    let tested = |format: &str| run(threadline().args(["source", "test", "--format", format]).arg(&profile).arg(&log));
    let output = tested("table");
    assert_eq!(output.status.code(), Some(1), "one line is refused: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), blocks(&readme, "text").remove(0));
    let answer: Value = serde_json::from_slice(&tested("json").stdout).unwrap();
    assert_eq!(answer["summary"]["rejected"], 1);
    assert_eq!(answer["records"][0]["record"]["tool_name"], "refund");

    // The profile is found in the data directory, and the file is recognised as its.
    let data = work.path().join("data");
    assert_eq!(import(&data, &log)[0]["format"], Value::Null, "nobody else reads it");
    std::fs::create_dir_all(data.join("sources")).unwrap();
    std::fs::copy(&profile, data.join("sources/acme.toml")).unwrap();
    let report = import(&data, &log);
    assert_eq!(
        (&report[0]["format"], &report[0]["records"], &report[0]["rejected"]),
        (&"acme-gateway".into(), &4.into(), &1.into())
    );
    let listed = ndjson(&ok(threadline().args(["source", "list", "--format", "ndjson", "--data"]).arg(&data)));
    let own: Vec<&Value> = listed.iter().filter(|profile| profile["from"] == "own").collect();
    assert_eq!((own.len(), &own[0]["name"]), (1, &Value::from("acme-gateway")));

    // And a mistake is named with its place.
    let text = std::fs::read_to_string(&profile).unwrap().replace("duration = \"took\"", "duraton = \"took\"");
    std::fs::write(&profile, text).unwrap();
    let output = tested("table");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("line 27, column 1: there is no field duraton"), "{said}");
}

/// The presets of the corpus; none when it is not at hand.
fn presets() -> Vec<PathBuf> {
    let Some(corpus) = std::env::var_os("THREADLINE_CORPUS") else {
        skip("THREADLINE_CORPUS does not name a corpus of feeds with their truth");
        return Vec::new();
    };
    let entries = std::fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.join("truth.jsonl.gz").is_file());
    found.sort();
    assert!(!found.is_empty(), "{} holds no preset", corpus.display());
    found
}

fn truth(preset: &Path) -> Vec<Value> {
    let file = std::fs::File::open(preset.join("truth.jsonl.gz")).unwrap();
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text).unwrap();
    ndjson(&text)
}

#[test]
fn a_corpus_is_imported_whole_and_only_its_damaged_lines_are_rejected() {
    for preset in presets() {
        let data = tempfile::tempdir().unwrap();
        let report = import(data.path(), &preset);
        let read: Vec<String> = report
            .iter()
            .map(|file| format!("{} {}", file["path"], file["format"]))
            .filter(|file| !file.ends_with("null"))
            .collect();
        assert_eq!(read.len(), 6, "{}: {read:?}", preset.display());
        // File by file, because an answer of SQL has an end.
        let rows: Vec<Value> = report
            .iter()
            .flat_map(|file| {
                let path = file["path"].as_str().unwrap();
                let query = format!("select origin_file, origin_line, kind from records where origin_file = '{path}'");
                ndjson(&ok(threadline().args(["sql", &query, "--format", "ndjson", "--data"]).arg(data.path())))
            })
            .collect();
        let id = |row: &Value| format!("{}:{}", row["origin_file"].as_str().unwrap(), row["origin_line"]);
        let stored: BTreeSet<String> = rows.iter().map(id).collect();
        let rejected: BTreeSet<String> = rows.iter().filter(|row| row["kind"] == "rejected").map(id).collect();
        let truth = truth(&preset);
        let line_id = |line: &Value| line["line_id"].as_str().unwrap().to_string();
        let expected: BTreeSet<String> = truth.iter().map(line_id).collect();
        let is_damaged =
            |line: &&Value| line["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "malformed"));
        let damaged: BTreeSet<String> = truth.iter().filter(is_damaged).map(line_id).collect();
        let name = preset.display();
        assert_eq!(stored.symmetric_difference(&expected).next(), None, "{name}: lines stored and lines there");
        assert_eq!(rejected.symmetric_difference(&damaged).next(), None, "{name}: lines rejected and lines damaged");
        println!("{name}: {} lines, {} rejected", stored.len(), rejected.len());
    }
}
