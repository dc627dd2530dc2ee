//! Exports of a store with hostile records: equal counts, the same bytes, inert reports, checks that find what was changed.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Mutex;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;
use threadline_schemas::{Kind, SourceKind};
use threadline_store::{Store, StoreConfig};

use super::check::{Checked, check};
use super::*;
use crate::access::AccessLog;
use crate::engine::EngineConfig;
use crate::testing::{call, make};

const HOSTILE: &str =
    "</style><script>alert(1)</script><img src=x onerror=alert(2)> \u{1b}[31m\u{202e}evil\u{200b} =1+1";

struct Fixture {
    _dir: tempfile::TempDir,
    store: Store,
    engine: Engine,
    log: Arc<Log>,
}

/// Keeps what it is given, or refuses.
#[derive(Debug, Default)]
struct Log {
    records: Mutex<Vec<Record>>,
    is_full: bool,
}

impl AccessLog for Log {
    fn record(&self, records: Vec<Record>) -> BoxFuture<'_, Result<(), String>> {
        let taken = if self.is_full { Err("no space".into()) } else { Ok(()) };
        self.records.lock().unwrap().extend(records.into_iter().filter(|_| taken.is_ok()));
        std::future::ready(taken).boxed()
    }
}

async fn fixture(log: Log) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreConfig::default()).await.unwrap();
    let mut records = call("a", "conv", "run", "toolu_1", 0);
    records.push(make("prompt", Kind::Prompt, -10).host("conv").text(HOSTILE).done());
    let mut rejected = make(HOSTILE, Kind::Rejected, 20).host("conv").text(HOSTILE).done();
    rejected.origin_file = Some("../../etc/passwd".into());
    rejected.origin_line = Some(3);
    rejected.raw = Some(b"{\"broken\": \x00\xff".to_vec());
    rejected.error_type = Some(HOSTILE.into());
    records.push(rejected);
    let mut part = make("part", Kind::Completion, 30).host("conv").text("part of a line").done();
    part.delivery_key = "api:line#1".into();
    records.push(part);
    // The line itself is of nobody's session.
    let mut line = make("line", Kind::Log, 40).done();
    line.raw = Some(b"the line".to_vec());
    records.push(line);
    records.push(make("gap", Kind::Gap, 50).host("conv").text(HOSTILE).done());
    store.appender().append(records).await.unwrap();
    let log = Arc::new(log);
    let config = EngineConfig { access_log: Some(log.clone()), ..EngineConfig::default() };
    let engine = Engine::new(store.reader(), config);
    Fixture { _dir: dir, store, engine, log }
}

fn session(format: &str) -> ExportQuestion {
    ExportQuestion { session: Some("conv".into()), format: Some(format.into()), ..ExportQuestion::default() }
}

impl Fixture {
    async fn bytes(&self, question: &ExportQuestion) -> (Export, Vec<u8>) {
        let mut export = self.engine.export(question).await.unwrap();
        let mut bytes = Vec::new();
        while let Some(part) = export.next().await.unwrap() {
            bytes.extend_from_slice(&part);
        }
        (export, bytes)
    }

    async fn members(&self, question: &ExportQuestion) -> BTreeMap<String, Vec<u8>> {
        members(&self.bytes(question).await.1)
    }
}

fn members(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut members = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().trim_start_matches("threadline-bundle/").to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        if entry.header().entry_type().is_file() {
            assert!(members.insert(name, content).is_none());
        }
    }
    members
}

fn lines(bytes: &[u8]) -> Vec<Value> {
    std::str::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_holds_the_same_records_and_a_bundle_is_the_same_but_for_custody() {
    let fixture = fixture(Log::default()).await;
    let (export, ndjson) = fixture.bytes(&session("ndjson")).await;
    let records = lines(&ndjson);
    assert_eq!((export.records, records.len()), (8, 8));
    assert_eq!(fixture.bytes(&session("csv")).await.1.split(|byte| *byte == b'\n').count(), 8 + 2);
    let first = fixture.members(&session("bundle")).await;
    let again = fixture.members(&session("bundle")).await;
    let differing: Vec<&String> = first.keys().filter(|name| first[*name] != again[*name]).collect();
    assert_eq!(differing, ["custody.json"]);
    assert_eq!(first["records.ndjson"], ndjson);
    assert_eq!(first["records.parquet"], fixture.bytes(&session("parquet")).await.1);
    assert_eq!(first["ocsf.ndjson"], fixture.bytes(&session("ocsf")).await.1);

    let manifest: Value = serde_json::from_slice(&first["manifest.json"]).unwrap();
    assert_eq!(manifest["records"], 8);
    assert_eq!(manifest["by_kind"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>(), 8);
    assert_eq!(manifest["links"]["count"], lines(&first["links.ndjson"]).len());
    assert_eq!(manifest["gaps"]["count"], lines(&first["gaps.ndjson"]).len());
    assert_eq!(manifest["rejected"]["first"][0]["file"], "../../etc/passwd");
    // A record says the same leaf here and on its page; bytes are where the index says.
    let index = lines(&first["raw/index.ndjson"]);
    let page = fixture.engine.event(records[0]["event_id"].as_str().unwrap()).await.unwrap().data;
    assert_eq!(index[0]["leaf_hash"], page.leaf_hash);
    let raw = |entry: &Value| {
        let at = |name: &str| entry["raw"][name].as_u64().unwrap() as usize;
        first["raw/bytes"][at("offset")..at("offset") + at("bytes")].to_vec()
    };
    let broken = index.iter().find(|entry| raw_of(entry) && entry["beside"].is_null()).unwrap();
    assert_eq!(raw(broken), b"{\"broken\": \x00\xff");
    let beside = index.last().unwrap();
    assert_eq!((raw(beside), beside["beside"].as_bool()), (b"the line".to_vec(), Some(true)));
    assert!(index.iter().any(|entry| entry["part_of"] == beside["event_id"]));
    fixture.store.close().await.unwrap();
}

fn raw_of(entry: &Value) -> bool {
    entry["raw"].is_object()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_is_inert_and_allows_its_own_style_only() {
    let fixture = fixture(Log::default()).await;
    for question in [session("html"), ExportQuestion { format: Some("html".into()), ..ExportQuestion::default() }] {
        let (_, bytes) = fixture.bytes(&question).await;
        let page = String::from_utf8(bytes).unwrap();
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        for forbidden in
            ["<script", "<img", "<link", "<iframe", "javascript:", "http://", "https://", "\u{1b}", "\u{202e}"]
        {
            assert!(!page.contains(forbidden), "{forbidden:?}");
        }
        let (_, rest) = page.split_once("<style>").unwrap();
        let (css, after) = rest.split_once("</style>").unwrap();
        assert!(!after.contains("<style"));
        let digest = <sha2::Sha256 as sha2::Digest>::digest(css);
        let allowed =
            format!("style-src 'sha256-{}'", base64::Engine::encode(&base64::prelude::BASE64_STANDARD, digest));
        assert!(page.contains(&allowed), "{allowed}");
    }
    fixture.store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_a_grade_an_export_holds_what_the_page_shows() {
    let fixture = fixture(Log::default()).await;
    for grade in [Grade::Proven, Grade::Matched, Grade::Claimed, Grade::Inferred] {
        let options = crate::session::Options { grade_floor: grade };
        let shown = crate::SessionOptions { options, ..crate::SessionOptions::default() };
        let shown = fixture.engine.session("conv", &shown).await.unwrap();
        let question = ExportQuestion { grade: Some(grade), ..session("ndjson") };
        let (export, bytes) = fixture.bytes(&question).await;
        assert_eq!(lines(&bytes).len() as u64, shown.data.summary.records, "{grade:?}");
        assert_eq!(export.completeness.rows_cut, shown.completeness.rows_cut, "{grade:?}");
        assert_eq!(export.completeness.state, shown.completeness.state, "{grade:?}");
    }
    fixture.store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_export_leaves_a_record_or_says_why_not() {
    let fixture = fixture(Log::default()).await;
    let by = |question: ExportQuestion| ExportQuestion {
        by: Some(" c.auditor ".into()),
        reason: Some("".into()),
        ..question
    };
    let (bundle, _) = fixture.bytes(&by(session("bundle"))).await;
    let logged = fixture.log.records.lock().unwrap().pop().unwrap();
    assert_eq!(bundle.recorded, Recorded::As(logged.event_id));
    assert_eq!((logged.kind, logged.user_claimed.as_deref()), (Kind::Access, Some("c.auditor")));
    let said: Value = serde_json::from_str(logged.attributes.as_deref().unwrap()).unwrap();
    assert_eq!((&said["export"]["records"], &said["export"]["sha256"]), (&8.into(), &bundle.sha256.clone().into()));
    assert_eq!((&said["export"]["question"]["session"], &said["export"]["reason"]), (&"conv".into(), &Value::Null));

    let time = |text: &str| Some(text.to_string());
    let (from, to) = (time("2027-01-01T00:00:00Z"), time("2026-01-01T00:00:00Z"));
    let backwards = ExportQuestion { from, to, ..ExportQuestion::default() };
    assert!(matches!(fixture.engine.export(&backwards).await, Err(QueryError::Parameter { .. })));

    // Stored, it is no part of what words, ranges or sessions find, but of what is asked for.
    let words = ExportQuestion { q: Some("refund".into()), ..ExportQuestion::default() };
    let before = fixture.bytes(&words).await.0.records;
    let bundle = ExportQuestion { format: Some("bundle".into()), ..ExportQuestion::default() };
    let first = fixture.members(&bundle).await;
    drop(fixture.log.records.lock().unwrap().pop());
    let searched = fixture.log.records.lock().unwrap().pop().unwrap();
    assert!(searched.attributes.as_deref().unwrap().contains("refund"));
    fixture.store.appender().append(vec![logged, searched]).await.unwrap();
    let report = ExportQuestion { format: Some("html".into()), ..ExportQuestion::default() };
    let mut first_report = None;
    for sealed in [false, true] {
        if sealed {
            fixture.store.seal_now().await.unwrap();
        }
        assert_eq!(fixture.bytes(&words).await.0.records, before);
        // The records of exports between them change no byte of a bundle, but for the state of the store in custody.json.
        let again = fixture.members(&bundle).await;
        let differing: Vec<&String> = first.keys().filter(|name| first[*name] != again[*name]).collect();
        assert_eq!(differing, ["custody.json"], "sealed: {sealed}");
        let report = report_before_custody(&fixture, &report).await;
        assert_eq!(*first_report.get_or_insert(report.clone()), report, "sealed: {sealed}");
        let (range, _) = fixture.bytes(&ExportQuestion::default()).await;
        assert_eq!(range.records, 9);
        let left_out =
            "records of who read this store are not part of it; `--access` (`access=true` over HTTP) brings them";
        assert_eq!(range.completeness.notes, [left_out]);
        let all = ExportQuestion { access: Some(true), ..ExportQuestion::default() };
        assert_eq!(fixture.bytes(&all).await.0.records, 11);
        assert_eq!(fixture.bytes(&session("ndjson")).await.0.records, 8);
    }
    fixture.store.close().await.unwrap();

    let fixture = self::fixture(Log { is_full: true, ..Log::default() }).await;
    assert_eq!(fixture.bytes(&session("csv")).await.0.recorded, Recorded::Not("no space".into()));
    fixture.store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_session_is_exported_whole() {
    let fixture = fixture(Log::default()).await;
    let config = EngineConfig { gather_rows_max: 3, ..EngineConfig::default() };
    let small = Engine::new(fixture.store.reader(), config);
    let shown = small.session("conv", &crate::SessionOptions::default()).await.unwrap();
    assert_eq!(shown.completeness.state, "partial");
    let mut export = small.export(&session("bundle")).await.unwrap();
    assert_eq!((export.records, export.completeness.state.as_str()), (8, "complete"));
    let mut bytes = Vec::new();
    while let Some(part) = export.next().await.unwrap() {
        bytes.extend_from_slice(&part);
    }
    let (own, whole) = (members(&bytes), fixture.members(&session("bundle")).await);
    let ids = |bundle: &BTreeMap<String, Vec<u8>>, name: &str, id: &str| {
        let mut ids: Vec<String> = lines(&bundle[name]).iter().map(|line| line[id].to_string()).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&own, "records.ndjson", "event_id"), ids(&whole, "records.ndjson", "event_id"));
    assert_eq!(ids(&own, "links.ndjson", "from"), ids(&whole, "links.ndjson", "from"));
    fixture.store.close().await.unwrap();
}

/// Who said nothing itself is named by its session, wherever it is exported; where the session names two, nobody is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ocsf_events_name_the_user_of_their_session() {
    for (users, named) in [(&["ann"][..], "ann"), (&["ann", "bob"], "")] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreConfig::default()).await.unwrap();
        let mut records = call("a", "conv", "run", "toolu_1", 0);
        for (n, user) in users.iter().enumerate() {
            let mut prompt = make(&format!("prompt {n}"), Kind::Prompt, 900).host("conv").text("refund").done();
            prompt.user_claimed = Some((*user).into());
            records.push(prompt);
        }
        // A server acts under an account of its own, which is nobody's session.
        let mut log = make("log", Kind::Log, 950).host("conv").done();
        (log.source_kind, log.user_claimed) = (SourceKind::Server, Some("svc".into()));
        records.push(log);
        let silent = records.iter().filter(|record| record.user_claimed.is_none() && record.conversation_id.is_none());
        assert!(silent.count() > 0, "there are records that name neither user nor session");
        store.appender().append(records).await.unwrap();
        let engine = Engine::new(store.reader(), EngineConfig::default());
        let range = ExportQuestion { format: Some("ocsf".into()), ..ExportQuestion::default() };
        for question in [session("ocsf"), range] {
            let mut export = engine.export(&question).await.unwrap();
            let mut bytes = Vec::new();
            while let Some(part) = export.next().await.unwrap() {
                bytes.extend_from_slice(&part);
            }
            let events = lines(&bytes);
            assert!(events.len() > 3);
            for event in events {
                assert_eq!(event["actor"]["session"]["uid"], "conv", "{event}");
                let is_prompt = event["metadata"]["event_code"] == "agent.prompt";
                let user = event["actor"]["user"]["name"].as_str().unwrap_or_default();
                assert!(is_prompt || user == named || user == "svc", "{named}: {event}");
            }
        }
        store.close().await.unwrap();
    }
}

/// A report without its last part, which is another each time.
async fn report_before_custody(fixture: &Fixture, question: &ExportQuestion) -> String {
    let page = String::from_utf8(fixture.bytes(question).await.1).unwrap();
    let (before, custody) = page.split_once("<section id=\"custody\"").unwrap();
    assert!(custody.contains("snapshot v") && !before.contains("snapshot v"));
    before.into()
}

fn unpacked(members: &BTreeMap<String, Vec<u8>>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in members {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    dir
}

/// Files of a bundle by name.
type Members = BTreeMap<String, Vec<u8>>;

fn differs(path: &Path) -> String {
    match check(path).unwrap() {
        Checked::Differs(what) => what,
        Checked::Whole { .. } => "whole".into(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_names_the_first_difference() {
    let fixture = fixture(Log::default()).await;
    let (export, tar) = fixture.bytes(&session("bundle")).await;
    let whole = members(&tar);
    let changed = |change: &dyn Fn(&mut Members)| {
        let mut members = whole.clone();
        change(&mut members);
        differs(unpacked(&members).path())
    };
    let found = [
        changed(&|_| {}),
        changed(&|m| m.get_mut("records.ndjson").unwrap()[5] ^= 1),
        changed(&|m| m.get_mut("raw/bytes").unwrap().truncate(4)),
        changed(&|m| drop(m.remove("links.ndjson"))),
        changed(&|m| drop(m.insert("proofs/one.tlog-proof".into(), b"later".to_vec()))),
        changed(&|m| drop(m.insert("notes\u{1b}.txt".into(), b"x".to_vec()))),
        changed(&|m| m.get_mut("manifest.json").unwrap().push(b' ')),
        changed(&|m| m.get_mut("SHA256SUMS").unwrap().push(b'\n')),
        changed(&|m| drop(m.remove("manifest.json"))),
        changed(&|m| drop(m.insert("custody.json".into(), b"{".to_vec()))),
    ];
    expect_test::expect![[r#"
        whole
        records.ndjson differs from its SHA-256 in the manifest
        raw/bytes has 4 bytes, the manifest says 21
        links.ndjson is missing
        whole
        notes␛.txt is not in the manifest
        manifest.json is not the one that custody.json names
        SHA256SUMS does not agree with the manifest
        manifest.json is missing
        custody.json is not understood"#]]
    .assert_eq(&found.join("\n"));

    let file = tempfile::NamedTempFile::new().unwrap();
    let of = |bytes: &[u8]| {
        std::fs::write(file.path(), bytes).unwrap();
        differs(file.path())
    };
    assert_eq!(of(&tar), "whole");
    assert_eq!(of(&[&tar[..], b"more"].concat()), "there is something behind the end of the archive");
    // Wherever it breaks off before its last file ends, it is noticed.
    let end = tar.len() - 1024 - 512;
    for at in (0..end).step_by(end / 23) {
        assert_ne!(of(&tar[..at]), "whole", "cut at {at} of {}", tar.len());
    }
    let mut hostile = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.as_gnu_mut().unwrap().name[..18].copy_from_slice(b"threadline-bundle/");
    header.as_gnu_mut().unwrap().name[18..27].copy_from_slice(b"../../etc");
    header.set_cksum();
    hostile.append(&header, &b"x"[..]).unwrap();
    assert_eq!(of(&hostile.into_inner().unwrap()), "threadline-bundle/../../etc is not below threadline-bundle/");
    match check(file.path()).unwrap() {
        Checked::Differs(_) => {}
        Checked::Whole { .. } => panic!("a hostile archive is whole"),
    }
    assert!(check(Path::new("/nowhere/at/all")).is_err());
    let unpacked = unpacked(&whole);
    let said = check(unpacked.path()).unwrap();
    let manifest_sha256 = export.sha256.unwrap();
    assert_eq!(said, Checked::Whole { files: 9, records: 8, manifest_sha256 });
    fixture.store.close().await.unwrap();
}
