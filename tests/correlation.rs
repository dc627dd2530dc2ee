//! Correlation without shared ids, through the program: import, links, score.
//!
//! The feeds and their truth come from `tests/bench/correlation/generate.py`. With `THREADLINE_CORPUS` set to a folder of
//! presets with truth (`<preset>/truth.jsonl.gz` and the six feeds), the whole table is checked as well, by the
//! `score_links.py` that lies in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{import, json, ndjson, ok, repository, threadline};

const FEEDS: [&str; 6] = ["host.jsonl", "gateway.jsonl", "server.jsonl", "server.log", "access.log", "dbaudit.jsonl"];

/// The folder of presets with truth that `THREADLINE_CORPUS` names.
fn corpus() -> Option<PathBuf> {
    let corpus = std::env::var_os("THREADLINE_CORPUS").map(PathBuf::from);
    if corpus.is_none() {
        println!("skipped: THREADLINE_CORPUS names no folder of presets with truth");
    }
    corpus
}

fn bench(script: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg("-B").arg(repository("tests/bench/correlation").join(script));
    command
}

/// Feeds in `<dir>/feeds`, truth beside them.
fn generate(dir: &Path, preset: &str, sessions: u32) -> (PathBuf, PathBuf) {
    let (feeds, truth) = (dir.join("feeds"), dir.join("truth.jsonl"));
    let sessions = sessions.to_string();
    ok(bench("generate.py").args(["--preset", preset, "--seed", "7", "--sessions", &sessions, "--out"]).arg(&feeds));
    std::fs::rename(feeds.join("truth.jsonl"), &truth).unwrap();
    (feeds, truth)
}

fn links(data: &Path) -> String {
    ok(threadline().args(["links", "--format", "ndjson", "--data"]).arg(data))
}

fn scored(preset: &str) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let (feeds, truth) = generate(dir.path(), preset, 40);
    let data = dir.path().join("data");
    import(&data, &feeds);
    let said = dir.path().join("links.ndjson");
    std::fs::write(&said, links(&data)).unwrap();
    json(bench("score.py").arg("--json").arg("--truth").arg(&truth).arg("--links").arg(&said))
}

fn f1(score: &Value, level: &str) -> f64 {
    score[level]["f1"].as_f64().unwrap()
}

#[test]
fn our_own_estates_score_above_their_floors() {
    for (preset, session, call, parent) in [
        ("ids", 1.0, 1.0, 1.0),
        ("skewed", 0.9, 0.98, 0.98),
        ("stateless", 0.72, 0.95, 0.96),
        ("late", 0.88, 0.94, 0.95),
    ] {
        let score = scored(preset);
        println!("{preset}: {score}");
        assert!(f1(&score, "session") >= session, "{preset}: {score}");
        assert!(f1(&score, "call") >= call, "{preset}: {score}");
        assert!(f1(&score, "parent") >= parent, "{preset}: {score}");
        assert_eq!(score["forged_merged"], 0, "{preset}: {score}");
        assert!(score["stray_attached"].as_u64().unwrap() <= 1, "{preset}: {score}");
    }
}

/// What is believed in the end, without when we came to believe it.
fn believed(data: &Path) -> Vec<String> {
    let mut rows: Vec<String> = links(data).lines().map(str::to_string).collect();
    rows.sort();
    rows
}

#[test]
fn late_deliveries_end_with_the_links_of_one_import() {
    let dir = tempfile::tempdir().unwrap();
    let (feeds, _) = generate(dir.path(), "skewed", 12);
    let whole = dir.path().join("whole");
    import(&whole, &feeds);
    let (pieces, growing) = (dir.path().join("pieces"), dir.path().join("growing/feeds"));
    std::fs::create_dir_all(&growing).unwrap();
    // Files grow at different paces: hosts come first, servers last.
    for delivery in 1..=4usize {
        for entry in std::fs::read_dir(&feeds).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let is_host = path.ends_with("host.jsonl");
            let lines: Vec<&str> = text.lines().collect();
            let share = if is_host { delivery + 1 } else { delivery };
            let count = if delivery == 4 { lines.len() } else { (lines.len() * share / 5).min(lines.len()) };
            let part: String = lines[..count].iter().map(|line| format!("{line}\n")).collect();
            std::fs::write(growing.join(path.file_name().unwrap()), part).unwrap();
        }
        import(&pieces, &growing);
    }
    assert_eq!(believed(&pieces), believed(&whole));
    let before = std::fs::read_dir(pieces.join("links")).unwrap().count();
    ok(threadline().arg("relink").arg("--data").arg(&pieces));
    assert_eq!(std::fs::read_dir(pieces.join("links")).unwrap().count(), before, "a rerun writes nothing new");
}

/// Imports the lines in deliveries of 30 seconds, at most so many; each holds what had been stamped before its end by its
/// source's clock. What they held is imported at once into the second folder.
fn in_deliveries(dir: &Path, feeds: &Path, most: usize) -> (PathBuf, PathBuf, usize) {
    const DELIVERY_NANOS: i64 = 30_000_000_000;
    let (seen, pieces, whole) = (dir.join("seen"), dir.join("pieces"), dir.join("whole"));
    import(&seen, feeds);
    let times = stamps(&seen);
    let begin = *times.values().flat_map(BTreeMap::values).min().unwrap();
    let end = *times.values().flat_map(BTreeMap::values).max().unwrap();
    let deliveries = (usize::try_from((end - begin) / DELIVERY_NANOS).unwrap() + 1).min(most);
    let growing = dir.join("growing/feeds");
    std::fs::create_dir_all(&growing).unwrap();
    for until in (1..=deliveries as i64).map(|delivery| begin + delivery * DELIVERY_NANOS) {
        for (file, times) in &times {
            let text = std::fs::read_to_string(feeds.join(file)).unwrap();
            let lines: Vec<&str> = text.split_inclusive('\n').collect();
            let ready = |line: &usize| times.get(line).is_none_or(|at| *at < until);
            // A line that stands behind a later one arrives with it.
            let part: String = lines[..(1..=lines.len()).take_while(ready).count()].concat();
            std::fs::write(growing.join(file), part).unwrap();
        }
        import(&pieces, &growing);
    }
    import(&whole, &growing);
    (pieces, whole, deliveries)
}

/// The stamp of each line, by file and line; of those that have one.
fn stamps(data: &Path) -> BTreeMap<String, BTreeMap<usize, i64>> {
    let query = "SELECT origin_file, origin_line, CAST(time_unix_nano AS BIGINT) AS at FROM records \
                 WHERE time_quality = 'source' AND origin_file LIKE ";
    let mut times: BTreeMap<String, BTreeMap<usize, i64>> = BTreeMap::new();
    for file in FEEDS {
        let query = format!("{query}'%{file}'");
        for row in ndjson(&ok(threadline().args(["sql", &query, "--format", "ndjson", "--data"]).arg(data))) {
            let line = usize::try_from(row["origin_line"].as_i64().expect("a line")).unwrap();
            times.entry(file.into()).or_default().insert(line, row["at"].as_str().unwrap().parse().unwrap());
        }
    }
    times
}

#[test]
fn thirty_second_deliveries_end_with_the_links_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let (feeds, _) = generate(dir.path(), "late", 12);
    let (pieces, whole, deliveries) = in_deliveries(dir.path(), &feeds, usize::MAX);
    assert!(deliveries >= 4, "{deliveries}");
    assert_eq!(believed(&pieces), believed(&whole));
    let Some(corpus) = corpus() else { return };
    for preset in ["hard", "blind"] {
        let dir = tempfile::tempdir().unwrap();
        let feeds = dir.path().join("feeds");
        std::fs::create_dir_all(&feeds).unwrap();
        for name in FEEDS {
            let text = ok(Command::new("gzip").arg("-dc").arg(corpus.join(preset).join(format!("{name}.gz"))));
            std::fs::write(feeds.join(name), text).unwrap();
        }
        let (pieces, whole, _) = in_deliveries(dir.path(), &feeds, 8);
        assert_eq!(believed(&pieces), believed(&whole), "{preset}");
    }
}

#[test]
fn a_judged_link_says_why_and_what_it_beat() {
    let dir = tempfile::tempdir().unwrap();
    let (feeds, _) = generate(dir.path(), "skewed", 12);
    let data = dir.path().join("data");
    import(&data, &feeds);
    let placements = ndjson(&links(&data));
    let judged = placements.iter().find(|p| p["rule"] == "gateway-server").expect("a judged execution");
    let event = judged["event_id"].as_str().unwrap();
    let shown =
        ndjson(&ok(threadline().args(["links", "--format", "ndjson", "--explain", event, "--data"]).arg(&data)));
    let pieces: Vec<&str> = shown.iter().filter_map(|row| row["what"].as_str()).collect();
    assert!(pieces.contains(&"start") && pieces.contains(&"duration"), "{pieces:?}");
    let rivals: Vec<&Value> = shown.iter().filter(|row| row["what"] == "rival").collect();
    assert!(rivals.iter().all(|row| row["from_value"] != row["to"]), "what won is no rival: {rivals:?}");
    // Before anything was judged, nothing was believed; before anything was received, nothing was known.
    let session = judged["session"].as_str().unwrap();
    let show = |more: &[&str]| {
        let mut command = threadline();
        command.args(["session", "show", event, "--format", "json"]).args(more).arg("--data").arg(&data);
        json(&mut command)
    };
    assert_eq!(show(&[])["data"]["summary"]["id"], session);
    let received = "select cast(max(observed_time) as varchar) as at from records where collector = 'import'";
    let received = ndjson(&ok(threadline().args(["sql", "--format", "ndjson", received, "--data"]).arg(&data)));
    let before = show(&["--as-known-at", received[0]["at"].as_str().unwrap()]);
    assert!(before["data"]["summary"]["id"].is_string());
    assert_ne!(before["data"]["summary"]["id"], session);
    assert!(before["completeness"]["notes"][0].as_str().unwrap().starts_with("as known at "));
    let mut early = threadline();
    early.args(["session", "show", event, "--as-known-at", "2020-01-01", "--data"]).arg(&data);
    let early = early.output().unwrap();
    assert!(!early.status.success());
    assert!(String::from_utf8_lossy(&early.stderr).contains("the first of it came at"), "{early:?}");
}

/// (preset, session, call, prompt, strict parents, false-merge lines)
const TABLE: &[(&str, f64, f64, f64, f64, u64)] = &[
    ("easy", 1.0, 1.0, 1.0, 1.0, 0),
    ("partial", 1.0, 1.0, 1.0, 1.0, 0),
    ("hard", 0.9985, 0.999, 0.999, 0.9985, 4),
    ("hostile", 0.997, 0.998, 0.9975, 0.994, 4),
    ("sessionless", 0.993, 0.9985, 0.997, 0.9985, 20),
    ("noisy", 0.946, 0.9245, 0.941, 0.953, 46),
    ("blind", 0.909, 0.917, 0.904, 0.945, 112),
];

#[test]
fn a_corpus_with_truth_is_correlated_as_well_as_the_table_says() {
    let Some(corpus) = corpus() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    for (preset, session, call, prompt, parent, merged) in TABLE {
        let (feeds, data) = (dir.path().join(preset).join("feeds"), dir.path().join(preset).join("data"));
        std::fs::create_dir_all(&feeds).unwrap();
        for name in FEEDS {
            let name = format!("{name}.gz");
            std::fs::copy(corpus.join(preset).join(&name), feeds.join(&name)).unwrap();
        }
        import(&data, &feeds);
        let said: String = ndjson(&links(&data))
            .iter()
            .map(|p| {
                let line = format!("{}:{}", p["file"].as_str().unwrap_or_default(), p["line"]);
                let row = serde_json::json!({ "line_id": line, "session": p["session"], "prompt": p["turn"], "call": p["call"], "parent": p["parent"] });
                format!("{row}\n")
            })
            .collect();
        let predictions = dir.path().join(format!("{preset}.jsonl"));
        std::fs::write(&predictions, said.replace("feeds/", "")).unwrap();
        let truth = corpus.join(preset).join("truth.jsonl.gz");
        let mut scorer = Command::new("python3");
        scorer
            .arg("-B")
            .arg(corpus.join("score_links.py"))
            .arg("--json")
            .arg("--truth")
            .arg(truth)
            .arg("--pred")
            .arg(&predictions);
        let all = json(&mut scorer);
        let score = &all[*preset];
        let of = |key: &str| score[key]["f1"].as_f64().unwrap();
        let merge = &score["false_merge"];
        println!(
            "{preset:12} session {:.3} call {:.3} prompt {:.3} parent {:.3} false merges {} forged {} stray {}",
            of("session_pairs"),
            of("call_pairs"),
            of("prompt_pairs"),
            of("parents"),
            merge["lines"],
            merge["forged_lines_merged"],
            merge["garbage_lines_attached"],
        );
        let reached = [("session_pairs", session), ("call_pairs", call), ("prompt_pairs", prompt), ("parents", parent)];
        failures.extend(
            reached.iter().filter(|(key, least)| of(key) + 5e-4 < **least).map(|(key, _)| format!("{preset} {key}")),
        );
        if merge["lines"].as_u64().unwrap() > *merged || merge["forged_lines_merged"] != 0 {
            failures.push(format!("{preset} false merges"));
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}
