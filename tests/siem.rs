//! What a SIEM gets: valid OCSF of everything that there is to export, broken events that both validators catch, and a
//! content pack whose rules find their samples.
//!
//! With `THREADLINE_OCSF` (a folder with `validate_ocsf.py` and compiled schemas `ocsf-schema-VERSION.json`) events are also
//! checked by that validator; our own facts check them always. `THREADLINE_CAPTURES` names another folder of captures,
//! `THREADLINE_CORPUS` a folder of presets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use threadline_schemas::ocsf::{Version, validate};

use crate::support::{import, ndjson, ok, repository, run, skip, threadline};

fn samples(version: &str) -> Vec<Value> {
    ndjson(&std::fs::read_to_string(repository("schemas/siem/samples").join(format!("{version}.ndjson"))).unwrap())
}

/// The validator and the compiled schema of a version, where they are given.
fn strict(version: Version) -> Option<Command> {
    let Some(folder) = std::env::var_os("THREADLINE_OCSF").map(PathBuf::from) else {
        skip("THREADLINE_OCSF names no folder with a validator: checked by our own facts only");
        return None;
    };
    let schema = folder.join(format!("ocsf-schema-{version}.json"));
    if !schema.exists() {
        skip(&format!("no compiled schema of OCSF {version}"));
        return None;
    }
    let mut validator = Command::new("python3");
    validator.arg(folder.join("validate_ocsf.py")).arg("--schema").arg(schema);
    if version == Version::V1_5 {
        // The sources of tag 1.5.0 call themselves 1.6.0-dev; our own check compares the version.
        validator.arg("--no-version-check");
    }
    Some(validator)
}

/// Exports everything as OCSF in every version; gives the events of the newest.
pub(crate) fn all_versions(data: &Path, work: &Path) -> Vec<Value> {
    let mut newest = Vec::new();
    for &version in Version::ALL {
        let file = work.join(format!("{version}.jsonl"));
        let written = ["export", "range", "--format", "ocsf", "--ocsf-version", version.as_str(), "--data"];
        ok(threadline().args(written).arg(data).arg("-o").arg(&file));
        newest = ndjson(&std::fs::read_to_string(&file).unwrap());
        for event in &newest {
            let found = validate(event, version);
            assert!(found.is_empty(), "{version}: {found:?} in {event}");
            for path in ["/metadata/uid", "/metadata/correlation_uid", "/metadata/event_code"] {
                assert!(event.pointer(path).is_some_and(Value::is_string), "{version}: no {path} in {event}");
            }
        }
        if let Some(mut validator) = strict(version) {
            let output = run(validator.arg(&file));
            let said = String::from_utf8_lossy(&output.stdout);
            let error = String::from_utf8_lossy(&output.stderr);
            let end = said.char_indices().rev().nth(3_000).map_or(0, |(at, _)| at);
            assert!(output.status.success(), "{version}: {}\n{}{error}", output.status, &said[end..]);
            println!("{version}: {} events, no violation by the strict validator", newest.len());
        }
    }
    newest
}

#[test]
fn the_demo_and_every_given_estate_are_valid_in_every_version() {
    let work = tempfile::tempdir().unwrap();
    let demo = work.path().join("demo");
    ok(threadline().args(["demo", "--no-serve", "--data"]).arg(&demo));
    let mut codes: BTreeSet<String> = BTreeSet::new();
    let mut add = |events: Vec<Value>| {
        codes.extend(events.iter().map(|event| event["metadata"]["event_code"].as_str().unwrap().to_string()));
    };
    add(all_versions(&demo, work.path()));
    match std::env::var_os("THREADLINE_CAPTURES").map(PathBuf::from) {
        Some(folder) => {
            let data = work.path().join("captures");
            import(&data, &folder);
            add(all_versions(&data, work.path()));
        }
        None => skip("THREADLINE_CAPTURES names no further captures; those of this repository are exported elsewhere"),
    }
    match std::env::var_os("THREADLINE_CORPUS").map(PathBuf::from) {
        Some(folder) => {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap).filter(|e| e.path().is_dir()) {
                let (data, feeds) = (work.path().join("corpus").join(entry.file_name()), work.path().join("feeds"));
                let _gone = std::fs::remove_dir_all(&feeds);
                std::fs::create_dir_all(&feeds).unwrap();
                // What is true of a preset is no feed.
                let is_feed =
                    |name: &str| name.ends_with(".gz") && !name.starts_with("truth") && !name.starts_with("sessions");
                for file in std::fs::read_dir(entry.path()).unwrap().map(Result::unwrap) {
                    if is_feed(&file.file_name().to_string_lossy()) {
                        std::fs::copy(file.path(), feeds.join(file.file_name())).unwrap();
                    }
                }
                import(&data, &feeds);
                let events = all_versions(&data, work.path());
                println!("{}: {} events", entry.file_name().to_string_lossy(), events.len());
                add(events);
            }
        }
        None => skip("THREADLINE_CORPUS names no presets"),
    }
    println!("event codes: {codes:?}");
    assert!(codes.len() >= 15, "{codes:?}");
}

/// What a SIEM asks of the demo without a join: all of a call under one chain, with its tool, somebody who acted, and one event
/// to count it by; the same of an export of one session.
#[test]
fn all_that_tells_of_a_call_is_on_one_chain_and_one_event_of_it_is_counted() {
    let work = tempfile::tempdir().unwrap();
    let demo = work.path().join("demo");
    ok(threadline().args(["demo", "--no-serve", "--data"]).arg(&demo));
    let exported = |words: &[&str]| {
        let file = work.path().join("events.jsonl");
        ok(threadline().arg("export").args(words).args(["--format", "ocsf", "--data"]).arg(&demo).arg("-o").arg(&file));
        ndjson(&std::fs::read_to_string(&file).unwrap())
    };
    let text = |event: &Value, path: &str| event.pointer(path).and_then(Value::as_str).map(str::to_string);
    let flat = |event: &Value, name: &str| event["unmapped"].get(name).and_then(Value::as_str).map(str::to_string);
    let chain = |event: &Value| text(event, "/metadata/correlation_uid").unwrap();
    let events = exported(&["range"]);
    // By the id of the call in its session: the demo's agents count theirs from the same number.
    let mut calls: BTreeMap<(String, String), Vec<&Value>> = BTreeMap::new();
    for event in &events {
        assert!(text(event, "/actor/user/name").or(text(event, "/actor/app_name")).is_some(), "nobody acted: {event}");
        let is_call = text(event, "/metadata/event_code").is_some_and(|code| code.starts_with("mcp.tools.call"));
        assert!(!is_call || flat(event, "mcp.tool").is_some() && event["resources"].is_array(), "no tool: {event}");
        if let Some(id) = flat(event, "ai.tool_call_id") {
            calls.entry((text(event, "/actor/session/uid").unwrap(), id)).or_default().push(event);
        }
    }
    assert!(calls.len() >= 19, "{}", calls.len());
    let is_counted = |event: &&&Value| event["unmapped"]["threadline.call_completed"] == true;
    for (call, told) in &calls {
        let chains: BTreeSet<String> = told.iter().map(|event| chain(event)).collect();
        assert_eq!(chains.len(), 1, "{call:?}");
        let is_over = told.iter().any(|event| event["metadata"]["event_code"] == "mcp.tools.call");
        assert_eq!(told.iter().filter(is_counted).count(), usize::from(is_over), "{call:?}");
        // From any of them to the prompt.
        let is_prompt =
            |event: &&Value| event["metadata"]["event_code"] == "agent.prompt" && chains.contains(&chain(event));
        assert!(events.iter().any(|event| is_prompt(&event)), "{call:?}: no prompt");
    }
    // A call that only the wire saw is one too: each JSON-RPC exchange that is over, unless it asked for more.
    let exchanges = events.iter().filter(|event| {
        let code = &event["metadata"]["event_code"];
        let is_wire = flat(event, "threadline.source_kind").is_some_and(|kind| kind == "wire");
        code == "mcp.tools.call" && is_wire && event["status_code"] != "input_required"
    });
    let exchanges: Vec<&Value> = exchanges.collect();
    assert!(exchanges.len() >= 30 && exchanges.iter().filter(is_counted).count() == exchanges.len());
    // What a server's standard error and its own telemetry say belongs to it.
    for source in ["log", "downstream"] {
        let called: BTreeSet<String> = exchanges.iter().map(|event| chain(event)).collect();
        let is_of_call = |event: &&Value| {
            flat(event, "threadline.kind").is_some_and(|kind| kind == source)
                && flat(event, "ai.tool_call_id").is_none()
                && called.contains(&chain(event))
        };
        assert!(events.iter().any(|event| is_of_call(&event)), "{source}");
    }
    let session = calls.keys().next().unwrap().0.clone();
    let chains = |events: &[Value]| -> BTreeSet<(String, String)> {
        let of_session = events.iter().filter(|event| text(event, "/actor/session/uid").as_ref() == Some(&session));
        of_session.map(|event| (text(event, "/metadata/uid").unwrap(), chain(event))).collect()
    };
    assert_eq!(chains(&exported(&["session", &session])), chains(&events));
}

/// Ways to break an event that a consumer would refuse: where, and what stands there then (`None`: nothing).
fn breakages() -> Vec<(&'static str, Option<Value>)> {
    vec![
        ("/class_uid", None),
        ("/class_uid", Some(json!(6999))),
        ("/time", Some(json!(1_784_900_000))),
        ("/time", Some(json!("now"))),
        ("/metadata/product", None),
        ("/metadata/version", Some(json!("0.9.0"))),
        ("/metadata/uid", Some(json!(7))),
        ("/metadata/surprise", Some(json!("x"))),
        ("/severity_id", Some(json!(42))),
        ("/severity", Some(json!("Fatal"))),
        ("/type_uid", Some(json!(1))),
        ("/category_uid", Some(json!(9))),
        ("/activity_id", Some(json!(77))),
        ("/status_code", Some(Value::Null)),
        ("/tool", Some(json!("x"))),
        ("/observables/0/value", Some(json!("somebody else"))),
        ("/observables/0/name", Some(json!("actor.nobody"))),
    ]
}

fn broken(event: &Value, at: &str, value: Option<Value>) -> Option<Value> {
    let mut event = event.clone();
    let (parent, name) = at.rsplit_once('/')?;
    let parent = event.pointer_mut(parent)?;
    match (parent, value) {
        (Value::Object(members), Some(value)) => drop(members.insert(name.into(), value)),
        (Value::Object(members), None) => drop(members.remove(name)?),
        _ => return None,
    }
    Some(event)
}

/// Samples of every row of the table, each broken in every way: none passes, neither by us nor by the strict validator.
#[test]
fn broken_events_of_every_kind_are_caught_by_both_validators() {
    for (version, text) in [(Version::V1_8, "1.8.0"), (Version::V1_1, "1.1.0")] {
        let samples = samples(text);
        let mut mutants = String::new();
        let mut count = 0;
        for event in &samples {
            assert_eq!(validate(event, version), [], "{event}");
            for (at, value) in breakages() {
                let Some(mutant) = broken(event, at, value.clone()) else { continue };
                assert!(!validate(&mutant, version).is_empty(), "{version}: {at} {value:?} passes in {event}");
                mutants.push_str(&(mutant.to_string() + "\n"));
                count += 1;
            }
        }
        assert!(count > samples.len() * 14, "{count}");
        let Some(mut validator) = strict(version) else { continue };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &mutants).unwrap();
        let output = run(validator.arg(file.path()));
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let all = format!("{count} events, {count} invalid");
        assert!(!output.status.success() && said.contains(&all), "{}", &said[said.len().saturating_sub(2_000)..]);
        println!("{version}: {count} broken events, all caught by both");
        let mut validator = strict(version).unwrap();
        let whole = run(validator.arg(repository("schemas/siem/samples").join(format!("{text}.ndjson"))));
        assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stdout));
    }
}

/// The Sigma rules through pySigma: each finds the samples that it should, and no other.
#[test]
fn sigma_rules_find_their_samples() {
    let pythons = [repository("target/estate/siem/venv/bin/python"), PathBuf::from("python3")];
    let python = pythons.iter().find(|python| !python.has_root() || python.exists()).unwrap();
    let mut script = Command::new(python);
    script.arg("-B").arg(repository("tests/independent/sigma_rules.py")).arg(repository("schemas/siem"));
    let output = run(&mut script);
    let said = String::from_utf8_lossy(&output.stdout);
    match output.status.code() {
        Some(77) => {
            skip(&format!("pySigma is not installed (`tests/estate/setup target/estate siem` does it): {said}"))
        }
        code => assert_eq!(code, Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// Every field that the content pack names is in a sample.
#[test]
fn the_content_pack_names_fields_that_exist() {
    fn paths(value: &Value, at: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => members.iter().for_each(|(name, inner)| {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                paths(inner, &at, found);
            }),
            Value::Array(items) => items.iter().for_each(|item| paths(item, at, found)),
            _ => {}
        }
        found.insert(at.to_string());
    }
    let mut known = BTreeSet::new();
    for version in ["1.8.0", "1.1.0"] {
        samples(version).iter().for_each(|event| paths(event, "", &mut known));
    }
    let read = |name: &str| std::fs::read_to_string(repository("schemas/siem").join(name)).unwrap();
    let mut named = BTreeSet::new();
    let pipeline = read("sigma/pipeline.yml");
    let mapping = pipeline.lines().filter_map(|line| line.strip_prefix("      ")?.split_once(": "));
    named.extend(mapping.filter(|(name, _)| name.starts_with(char::is_uppercase)).map(|(_, to)| to.to_string()));
    let aliases: Value = serde_json::from_str(&read("elastic/ecs-aliases.json")).unwrap();
    named.extend(aliases.as_object().unwrap().values().map(|to| to.as_str().unwrap().to_string()));
    let template: Value = serde_json::from_str(&read("elastic/index-template.json")).unwrap();
    fn fields(properties: &Value, at: &str, named: &mut BTreeSet<String>) {
        for (name, field) in properties.as_object().unwrap() {
            let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            match field.get("properties") {
                Some(inner) => fields(inner, &at, named),
                None => drop(named.insert(at)),
            }
        }
    }
    fields(&template["template"]["mappings"]["properties"], "", &mut named);
    assert!(named.len() > 50, "{}", named.len());
    // Set where the event is indexed, and on events that were cut only.
    let elsewhere = ["@timestamp", "metadata.is_truncated"];
    let unknown: Vec<&String> =
        named.iter().filter(|name| !known.contains(*name) && !elsewhere.contains(&name.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
