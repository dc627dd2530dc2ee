//! Habits that no compiler checks: file heads, escaping, and a README whose commands work.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::{json, ok, repository, run, threadline};

fn sources() -> Vec<PathBuf> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for folder in ["src", "schemas/src", "store/src", "ingest/src", "query/src", "dashboards/src", "tests"] {
        collect(&repository(folder), &mut found);
    }
    found
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent: Vec<_> =
        sources().into_iter().filter(|path| !std::fs::read_to_string(path).unwrap().starts_with("//!")).collect();
    assert!(silent.is_empty(), "{silent:?}");
}

/// Names after `crate::` in a file, its tests left out.
fn modules_named_in(text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let after = |rest: &str| {
        let list = rest.strip_prefix('{').map_or(rest, |list| list.split('}').next().unwrap_or_default());
        let many = rest.starts_with('{');
        let word =
            |item: &str| item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        list.split(',').take(if many { usize::MAX } else { 1 }).map(word).collect::<Vec<_>>()
    };
    text.split("crate::").skip(1).flat_map(after).filter(|name| !name.is_empty()).collect()
}

/// The workspace of the fuzz targets compiles the log without the store, and no other build notices when it cannot.
#[test]
fn the_log_as_it_is_fuzzed_has_the_modules_that_it_needs() {
    let fuzzed = std::fs::read_to_string(repository("tests/fuzz/lib.rs")).unwrap();
    let is_there = |name: &str| fuzzed.contains(&format!("pub mod {name};"));
    let of_the_log = |path: &PathBuf| {
        let inside = path.strip_prefix(repository("store/src")).ok().and_then(|path| path.iter().next());
        inside.and_then(|first| first.to_str()).is_some_and(|first| is_there(first.trim_end_matches(".rs")))
    };
    let missing: Vec<_> = sources()
        .iter()
        .filter(|path| of_the_log(path))
        .flat_map(|path| modules_named_in(&std::fs::read_to_string(path).unwrap()))
        .filter(|name| !is_there(name))
        .collect();
    assert_eq!(missing, Vec::<String>::new());
    assert!(is_there("log"));
}

#[test]
fn no_template_bypasses_the_escaping_module() {
    let folders = ["dashboards/templates", "query/templates"].map(repository);
    for entry in folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(Result::unwrap) {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        for forbidden in ["|safe", "| safe", "style=", "onclick", "onerror", "javascript:"] {
            assert!(!text.contains(forbidden), "{}: {forbidden}", entry.path().display());
        }
    }
}

/// The README's story on the demo's data: every command it shows works and finds what it should.
#[test]
fn the_readme_commands_work_on_the_demo() {
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    let demo = run(threadline().args(["demo", "--no-serve", "--data"]).arg(&data));
    let said = String::from_utf8_lossy(&demo.stderr);
    assert!(demo.status.success(), "{said}");
    assert!(said.contains("Three questions"), "{said}");

    let on = |words: &[&str]| json(threadline().args(words).args(["--format", "json", "--data"]).arg(&data));
    let wrote = on(&["session", "list", "--tool", "write_file", "--outcome", "ok"]);
    assert!(!wrote["data"].as_array().unwrap().is_empty());
    let search = on(&["search", "public/status.html"]);
    let hit = &search["data"][0]["event"]["event_id"];
    let event = on(&["event", "show", hit.as_str().unwrap()]);
    assert_eq!(event["data"]["record"]["event_id"], *hit);
    let counts = on(&["sql", "select tool_name, outcome, count(*) from records where kind = 'result' group by 1, 2"]);
    assert!(!counts["data"]["rows"].as_array().unwrap().is_empty());

    // The incident, from prompt to effect, by the conversation id and by a tool call's id.
    let incident = on(&["session", "show", "309daf42-f826-415e-8b8f-6414e473e49e"]);
    let turns = incident["data"]["turns"].as_array().unwrap();
    let write = turns
        .iter()
        .flat_map(|turn| turn["calls"].as_array().unwrap())
        .find(|call| call["tool"] == "write_file")
        .expect("the write is there");
    assert!(write["arguments"].as_str().unwrap().contains("public/status.html"));
    assert_eq!(write["execution"], "executed");
    assert!(turns.iter().any(|turn| turn["prompt_text"].as_str().is_some_and(|text| text.contains("tickets"))));

    let raw = work.path().join("raw.bin");
    ok(threadline().args(["event", "raw", hit.as_str().unwrap(), "--data"]).arg(&data).arg("-o").arg(&raw));
    assert!(std::fs::metadata(&raw).unwrap().len() > 0);
    ok(threadline().args(["doctor", "--data"]).arg(&data));
}

#[test]
fn a_reader_that_goes_away_is_no_crash() {
    for arguments in [&["completions", "bash"][..], &["source", "list"]] {
        let mut child = threadline().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn dangerous_sql_is_refused_and_says_why() {
    let data = tempfile::tempdir().unwrap();
    crate::support::import(data.path(), &repository("tests/captures/pysdk-memory-stdio"));
    let bomb = format!("select {}", vec!["1"; 20_000].join("+"));
    // More than a query may take, however the limit is met.
    let four = "from records a cross join records b cross join records c cross join records d";
    let large = format!("select count(distinct concat(a.event_id, b.event_id, c.event_id, d.event_id)) {four}");
    let deep = format!("select {}1{}", "(".repeat(2_000), ")".repeat(2_000));
    for query in [
        "drop table records",
        "insert into records select * from records",
        "copy records to '/tmp/x.csv'",
        "set datafusion.execution.batch_size = 1",
        "create external table x stored as csv location '/etc/passwd'",
        "select * from '/etc/passwd'",
        "select length(repeat('x', 2000000000))",
        bomb.as_str(),
        deep.as_str(),
        large.as_str(),
    ] {
        let output = run(threadline().args(["sql", query, "--data"]).arg(data.path()));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{}: {said}", &query[..query.len().min(60)]);
        assert!(said.starts_with("error: "), "{said}");
    }
}
