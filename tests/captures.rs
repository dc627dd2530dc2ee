//! Every folder of captures: what is stored equals what an independent script counts in the raw files,
//! nothing is missing in silence, and every call of the ground truth is found with arguments, result
//! and outcome.
//!
//! `THREADLINE_CAPTURES` names another folder to test; new captures only need to be dropped in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::support::{import, json, ndjson, ok, repository, threadline};

fn captures() -> PathBuf {
    std::env::var_os("THREADLINE_CAPTURES").map_or_else(|| repository("tests/captures"), PathBuf::from)
}

fn independent(folder: &PathBuf) -> Value {
    json(Command::new("python3").arg(repository("tests/independent/count.py")).arg(folder))
}

fn session_folders(count: &Value) -> BTreeSet<String> {
    count["truths"].as_object().expect("the script gives truths").keys().cloned().collect()
}

#[test]
fn what_is_stored_equals_what_an_independent_script_counts() {
    let folder = captures();
    let count = independent(&folder);
    let data = tempfile::tempdir().unwrap();
    let report = import(data.path(), &folder);
    let links = ndjson(&ok(threadline().args(["links", "--format", "ndjson", "--data"]).arg(data.path())));

    let mut stored: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    let mut rejected = Vec::new();
    for link in &links {
        let file = link["file"].as_str().expect("an imported record names its file").to_string();
        let line = link["line"].as_i64().expect("an imported record names its line");
        stored.entry(file.clone()).or_default().insert(line);
        if link["kind"] == "rejected" {
            rejected.push(format!("{file}:{line}"));
        }
    }
    let mut wrong = Vec::new();
    for (file, expected) in count["files"].as_object().unwrap() {
        let expected: BTreeSet<i64> = match (&expected["lines"], &expected["records"]) {
            (Value::Array(lines), _) => lines.iter().filter_map(Value::as_i64).collect(),
            (_, Value::Number(records)) => (1..=records.as_i64().unwrap()).collect(),
            _ => BTreeSet::new(),
        };
        let found = stored.remove(file).unwrap_or_default();
        if found != expected {
            let missing: Vec<_> = expected.difference(&found).take(5).collect();
            let extra: Vec<_> = found.difference(&expected).take(5).collect();
            wrong.push(format!(
                "{file}: {} expected, {} stored, missing {missing:?}, extra {extra:?}",
                expected.len(),
                found.len()
            ));
        }
    }
    wrong.extend(stored.into_keys().map(|file| format!("{file}: not counted by the script")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rejected.is_empty(), "rejected without being damaged: {rejected:?}");
    for file in &report {
        let skipped = file["note"].as_str().unwrap_or("");
        assert!(file["format"].is_string() || !skipped.is_empty(), "{file}: neither read nor explained");
    }

    // The same files again: everything is known already.
    for file in import(data.path(), &folder) {
        assert_eq!(file["records"], file["duplicates"], "{file}");
    }
}

#[test]
fn every_call_of_the_ground_truth_is_found() {
    let folder = captures();
    let count = independent(&folder);
    let mut wrong = Vec::new();
    let mut calls = 0;
    for session in session_folders(&count) {
        let data = tempfile::tempdir().unwrap();
        import(data.path(), &folder.join(&session));
        let found = stored_calls(data.path());
        for expected in expected_calls(&count["truths"][&session]) {
            calls += 1;
            if let Err(reason) = expected.is_found(&found) {
                wrong.push(format!("{session}: {reason}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {calls} calls are not found as they were:\n{}", wrong.len(), wrong.join("\n"));
    assert!(calls > 0, "no ground truth in {}", folder.display());
    println!("{calls} calls found with arguments, result and outcome");
}

/// Calls of every session in a data directory, as `session show` gives them, with their turn's prompt.
fn stored_calls(data: &std::path::Path) -> Vec<(Value, Option<String>)> {
    let sessions = json(threadline().args(["session", "list", "--limit", "0", "--format", "json", "--data"]).arg(data));
    let mut calls = Vec::new();
    for session in sessions["data"].as_array().unwrap() {
        let id = session["id"].as_str().unwrap();
        let answer = json(threadline().args(["session", "show", "--format", "json", "--data"]).arg(data).arg(id));
        for turn in answer["data"]["turns"].as_array().unwrap() {
            let prompt = turn["prompt_text"].as_str().map(str::to_string);
            calls.extend(turn["calls"].as_array().unwrap().iter().map(|call| (call.clone(), prompt.clone())));
        }
    }
    calls
}

/// A call that the ground truth knows.
struct Expected {
    tool: String,
    tool_call_id: Option<String>,
    arguments: Value,
    /// `ok`, `isError`, `error:..`, `cancelled`; `None` where the truth does not say.
    outcome: Option<String>,
    start_ns: i64,
    end_ns: Option<i64>,
    /// The call reached a server, so a result must be there.
    executed: bool,
    /// It never left the client program: nothing can have recorded it.
    unrecorded: bool,
    prompt: Option<String>,
}

/// Both shapes: an agent's steps with tool uses, a driver's turns with calls.
fn expected_calls(truth: &Value) -> Vec<Expected> {
    let mut expected = Vec::new();
    for step in truth["steps"].as_array().into_iter().flatten() {
        for tool_use in step["tool_uses"].as_array().into_iter().flatten() {
            expected.push(Expected {
                tool: tool_use["name"].as_str().unwrap_or("").rsplit("__").next().unwrap_or("").to_string(),
                tool_call_id: tool_use["id"].as_str().map(str::to_string),
                arguments: tool_use["input"].clone(),
                outcome: None,
                start_ns: step["ts_ns"].as_i64().unwrap_or(0),
                end_ns: None,
                executed: tool_use["mcp_calls"].as_array().is_some_and(|calls| !calls.is_empty()),
                unrecorded: false,
                prompt: None,
            });
        }
    }
    for turn in truth["turns"].as_array().into_iter().flatten() {
        for call in turn["calls"].as_array().into_iter().flatten().filter(|call| call["method"] == "tools/call") {
            let outcome = call["outcome"].as_str().map(str::to_string);
            let ids = call["jsonrpc_ids"].as_array().map_or(0, Vec::len);
            expected.push(Expected {
                tool: call["tool"].as_str().unwrap_or("").to_string(),
                tool_call_id: None,
                arguments: call["arguments"].clone(),
                executed: outcome.as_deref() != Some("cancelled"),
                unrecorded: ids == 0
                    && outcome.as_deref().is_some_and(|outcome| outcome.starts_with("error:TypeError")),
                outcome,
                start_ns: call["start_ns"].as_i64().unwrap_or(0),
                end_ns: call["end_ns"].as_i64(),
                prompt: None,
            });
        }
    }
    expected
}

impl Expected {
    fn is_found(&self, calls: &[(Value, Option<String>)]) -> Result<(), String> {
        if self.unrecorded {
            return Ok(());
        }
        let name = format!("{} {}", self.tool, self.tool_call_id.as_deref().unwrap_or(""));
        let named: Vec<&(Value, Option<String>)> = calls.iter().filter(|(call, _)| self.is_named(call)).collect();
        if named.is_empty() {
            return Err(format!("{name}: no such call at that time"));
        }
        let same: Vec<_> = named.iter().filter(|(call, _)| same_json(&call["arguments"], &self.arguments)).collect();
        let Some((call, prompt)) = same.first() else {
            return Err(format!("{name}: arguments differ: {} instead of {}", named[0].0["arguments"], self.arguments));
        };
        if self.executed && call["result"].is_null() {
            return Err(format!("{name}: no result"));
        }
        let wanted = match self.outcome.as_deref() {
            None => None,
            Some("ok") => Some("ok"),
            Some("cancelled") => Some("cancelled"),
            Some(_) => Some("error"),
        };
        if wanted.is_some_and(|wanted| !same.iter().any(|(call, _)| call["outcome"] == wanted)) {
            return Err(format!("{name}: outcome {} instead of {:?}", call["outcome"], self.outcome));
        }
        if self.tool_call_id.is_some() && prompt.is_none() {
            return Err(format!("{name}: not joined to its prompt"));
        }
        match &self.prompt {
            Some(expected) if prompt.as_ref() != Some(expected) => Err(format!("{name}: another prompt")),
            _ => Ok(()),
        }
    }

    fn is_named(&self, call: &Value) -> bool {
        if let Some(id) = &self.tool_call_id {
            return call["tool_call_id"] == id.as_str();
        }
        // One second of slack: the driver's clock is read before the frame is written.
        const SLACK_NS: i64 = 1_000_000_000;
        let start = call["start"].as_str().and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
        let start = start.and_then(|time| time.timestamp_nanos_opt()).unwrap_or(0);
        let end = self.end_ns.unwrap_or(self.start_ns);
        call["tool"] == self.tool.as_str() && start >= self.start_ns - SLACK_NS && start <= end + SLACK_NS
    }
}

/// Equal JSON, where a redacted part of a stored string may stand for anything.
fn same_json(text: &Value, expected: &Value) -> bool {
    let parsed: Value = text.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    same_value(&parsed, expected) || (parsed.is_null() && *expected == serde_json::json!({}))
}

pub(crate) fn same_value(stored: &Value, expected: &Value) -> bool {
    match (stored, expected) {
        (Value::String(stored), Value::String(expected)) => same_text(stored, expected),
        (Value::Array(stored), Value::Array(expected)) => {
            stored.len() == expected.len()
                && stored.iter().zip(expected).all(|(stored, expected)| same_value(stored, expected))
        }
        (Value::Object(stored), Value::Object(expected)) => {
            stored.len() == expected.len()
                && expected
                    .iter()
                    .all(|(key, expected)| stored.get(key).is_some_and(|stored| same_value(stored, expected)))
        }
        _ => stored == expected,
    }
}

/// `DEMO_KEY=[redacted:env:4ec3]` stands for `DEMO_KEY=` and anything.
fn same_text(stored: &str, expected: &str) -> bool {
    let Some((before, rest)) = stored.split_once("[redacted:") else {
        return stored == expected;
    };
    let Some((_, after)) = rest.split_once(']') else { return false };
    let Some(expected) = expected.strip_prefix(before) else { return false };
    (0..=expected.len()).any(|at| expected.is_char_boundary(at) && same_text(after, &expected[at..]))
}
