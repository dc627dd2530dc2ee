//! Exports of every capture: complete in each form, and as OCSF valid in each version.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::siem::all_versions;
use crate::support::{import, json, ndjson, ok, repository, run, threadline};

fn export(data: &Path, rest: &[&str]) -> String {
    ok(threadline().arg("export").args(rest).arg("--data").arg(data))
}

fn ids(records: &[Value]) -> BTreeSet<String> {
    records.iter().map(|record| record["event_id"].as_str().expect("a record has an id").to_string()).collect()
}

#[test]
fn exports_hold_every_record_and_ocsf_events_are_valid() {
    let data = tempfile::tempdir().unwrap();
    import(data.path(), &repository("tests/captures"));
    let count = "select count(*) as n from records";
    let stored = json(threadline().args(["sql", count, "--format", "json", "--data"]).arg(data.path()));
    let stored = stored["data"]["rows"][0][0].as_u64().expect("a count");

    let records = ndjson(&export(data.path(), &["range"]));
    let all = ids(&records);
    assert_eq!((records.len() as u64, all.len() as u64), (stored, stored));
    let times: Vec<i64> = records.iter().filter_map(|record| record["time_unix_nano"].as_str()?.parse().ok()).collect();
    assert!(times.is_sorted(), "records are not in time order");

    let csv = export(data.path(), &["range", "--format", "csv"]);
    let rows = csv::ReaderBuilder::new()
        .from_reader(csv.as_bytes())
        .records()
        .map(|row| row.unwrap().len())
        .collect::<Vec<_>>();
    assert_eq!(rows.len() as u64, stored);

    let mut told = BTreeSet::new();
    for event in all_versions(data.path(), data.path()) {
        let also = &event["unmapped"]["threadline.request_event_id"];
        let of = [&event["metadata"]["uid"], also];
        told.extend(of.into_iter().filter_map(Value::as_str).map(str::to_string));
    }
    assert!(told == all, "not every record is told by an event, or an id was invented");
}

#[test]
fn a_session_and_a_search_are_exported_whole() {
    let data = tempfile::tempdir().unwrap();
    import(data.path(), &repository("tests/captures/claude-code"));
    let sessions = ndjson(&ok(threadline().args(["session", "list", "--format", "ndjson", "--data"]).arg(data.path())));
    let session = sessions.first().expect("a session");
    let id = session["id"].as_str().unwrap();
    assert_eq!(ndjson(&export(data.path(), &["session", id])).len() as u64, session["records"].as_u64().unwrap());

    let tool = session["tools"][0].as_str().unwrap();
    let hits = ok(threadline().args(["search", tool, "--limit", "0", "--format", "ndjson", "--data"]).arg(data.path()));
    let hits: BTreeSet<String> =
        ndjson(&hits).iter().map(|hit| hit["event"]["event_id"].as_str().unwrap().to_string()).collect();
    assert_eq!(ids(&ndjson(&export(data.path(), &["query", tool]))), hits);

    let nothing =
        run(threadline().args(["export", "query", "nowhere-to-be-found", "--fail-empty", "--data"]).arg(data.path()));
    assert_eq!(nothing.status.code(), Some(3));
}
