//! Exports of every capture: complete in each form, and as OCSF valid in each version.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::siem::all_versions;
use crate::support::{Serve, import, json, ndjson, ok, repository, run, threadline};

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

    for nothing in [["query", "nowhere-to-be-found"], ["session", "no-such-id"]] {
        let ended = run(threadline().arg("export").args(nothing).args(["--fail-empty", "--data"]).arg(data.path()));
        assert_eq!(ended.status.code(), Some(3), "{nothing:?}");
    }
    // A version that nobody knows is refused, also where the format has none.
    let unknown = run(threadline()
        .args(["export", "range", "--format", "html", "--ocsf-version", "2.0", "--data"])
        .arg(data.path()));
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("1.8.0"), "the versions that are known are named");
}

#[test]
fn what_is_read_through_a_server_is_recorded_and_changes_nothing_that_is_found() {
    let data = tempfile::tempdir().unwrap();
    import(data.path(), &repository("tests/captures/pysdk-memory-stdio"));
    let local = |arguments: &[&str]| ok(threadline().args(arguments).arg("--data").arg(data.path()));
    let found = || (local(&["session", "list", "--format", "ndjson"]), local(&["export", "range"]));
    let (sessions, range) = found();
    let session = ndjson(&sessions)[0]["id"].as_str().unwrap().to_string();
    let event = ndjson(&range)[0]["event_id"].as_str().unwrap().to_string();
    let server = Serve::start(data.path());
    let get = |path: &str| {
        let url = format!("{}{path}", server.url);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        // The name of the asker is a claim; without a token nobody needs a password.
        let client = reqwest::Client::new();
        let answer = runtime.block_on(client.get(url).basic_auth("c.auditor", Some("")).send()).unwrap();
        assert!(answer.status().is_success() || answer.status() == 404, "{path}: {}", answer.status());
    };
    // The document of a server has both what goes in and what comes out.
    let document: Value = {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let url = format!("{}/api/v1/openapi.json", server.url);
        let text = runtime.block_on(async { reqwest::get(url).await.unwrap().text().await.unwrap() });
        serde_json::from_str(&text).unwrap()
    };
    assert!(document["paths"]["/api/v1/events"]["post"].is_object() && document["paths"]["/api/v1/export"].is_object());
    let pages = [
        "/",
        "/sources",
        "/forward",
        "/help",
        "/search",
        "/metrics",
        "/api/v1/events/00000000-0000-8000-8000-000000000000",
    ];
    pages.into_iter().for_each(get);
    for path in [
        format!("/sessions/{session}"),
        format!("/sessions/{session}/skeleton"),
        format!("/api/v1/sessions/{session}"),
        format!("/api/v1/sessions/{session}"),
        format!("/events/{event}"),
        format!("/e/{event}"),
        format!("/api/v1/events/{event}/links"),
        format!("/events/{event}/raw"),
        "/search?q=a+secret+question".into(),
        "/api/v1/search?q=a+secret+question&limit=1".into(),
        "/api/v1/links".into(),
    ] {
        get(&path);
    }
    let statement = "select 'a secret' as secret";
    ok(threadline().args(["sql", statement, "--url", &server.url]).env("USER", "j.doe"));
    server.stop();

    let query = "select user_claimed, name, target, attributes, session_key from records where kind = 'access' and name <> 'export'";
    let records = json(threadline().args(["sql", query, "--format", "json", "--data"]).arg(data.path()));
    assert!(!records.to_string().contains("secret"), "{records}");
    let read: BTreeSet<(String, String, String, u64)> = records["data"]["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let text = |column: usize| row[column].as_str().unwrap_or_default().to_string();
            let told: Value = serde_json::from_str(&text(3)).unwrap();
            assert_eq!(told["read"]["address"], "127.0.0.1");
            (text(0), text(1), text(2), told["read"]["count"].as_u64().unwrap())
        })
        .collect();
    let digest = |text: &str| format!("sha256:{}", hex::encode(Sha256::digest(text)));
    let (question, statement) = (digest("a secret question"), digest(statement));
    let wanted = [
        ("c.auditor", "read sessions", "", 1),
        ("c.auditor", "read session", session.as_str(), 4),
        ("c.auditor", "read event", event.as_str(), 3),
        ("c.auditor", "read raw", event.as_str(), 1),
        ("c.auditor", "read search", question.as_str(), 2),
        ("c.auditor", "read links", "", 1),
        ("j.doe", "read sql", statement.as_str(), 1),
    ];
    let wanted =
        wanted.map(|(who, name, object, count)| (who.to_string(), name.to_string(), object.to_string(), count));
    assert_eq!(read, BTreeSet::from(wanted));
    assert_eq!(found(), (sessions, range));
    // A SIEM hears who read what.
    let told = local(&["export", "range", "--access", "--format", "ocsf"]);
    let told = ndjson(&told).into_iter().filter(|event| event["metadata"]["event_code"] != "threadline.access.export");
    let told: Vec<Value> = told.filter(|event| event["unmapped"]["threadline.kind"] == "access").collect();
    assert_eq!(told.len(), 7);
    for event in &told {
        assert_eq!(threadline_schemas::ocsf::validate(event, threadline_schemas::ocsf::Version::NEWEST), []);
        assert_eq!((&event["class_uid"], &event["src_endpoint"]["ip"]), (&6005.into(), &"127.0.0.1".into()), "{event}");
        assert!(event["actor"]["user"]["name"].is_string() && event["unmapped"]["access.count"].is_u64(), "{event}");
    }
}
