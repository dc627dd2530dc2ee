use std::fs;
use std::io::Write;
use std::path::Path;

use expect_test::expect;
use threadline_schemas::{Kind, residue};
use threadline_store::StoreConfig;

use super::*;
use crate::testing::Bench;

fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures")
}

async fn import(bench: &Bench, paths: &[PathBuf], options: &Options) -> Report {
    Import::new(bench.pipeline.clone()).run(paths, options, &mut Unseen).await.unwrap()
}

/// One line per file.
fn shown(report: &Report) -> String {
    let line = |file: &FileReport| {
        let what = file.skipped.as_deref().or(file.error.as_deref()).unwrap_or("-");
        let numbers = [file.lines, file.records, file.rejected, file.duplicates];
        format!("{} {} {numbers:?} {what}\n", file.path, file.format.as_deref().unwrap_or("-"))
    };
    report.files.iter().map(line).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn recorded_sessions_are_imported_whole_and_once() {
    let bench = Bench::new().await;
    let folder = captures().join("claude-code/cc-2");
    let report = import(&bench, std::slice::from_ref(&folder), &Options::default()).await;
    expect![[r#"
        ground_truth.json - [0, 0, 0, 0] ground truth of a recording
        mcp/everything.http.jsonl mcp-http [89, 134, 0, 0] -
        mcp/fs.stdio.jsonl mcp-stdio [35, 77, 0, 0] -
        mcp/orders.stdio.jsonl mcp-stdio [108, 126, 0, 0] -
        otlp/0001-logs.pb otlp-protobuf [2, 2, 0, 0] -
        otlp/0002-traces.pb otlp-protobuf [5, 5, 0, 0] -
        otlp/0003-logs.pb otlp-protobuf [2, 2, 0, 0] -
        otlp/0004-metrics.pb otlp-protobuf [0, 0, 0, 0] -
        otlp/0005-logs.pb otlp-protobuf [17, 17, 0, 0] -
        otlp/0006-traces.pb otlp-protobuf [17, 17, 0, 0] -
        otlp/0007-logs.pb otlp-protobuf [2, 2, 0, 0] -
        otlp/0008-traces.pb otlp-protobuf [5, 5, 0, 0] -
        otlp/0009-logs.pb otlp-protobuf [2, 2, 0, 0] -
        otlp/0010-metrics.pb otlp-protobuf [0, 0, 0, 0] -
        otlp/0011-logs.pb otlp-protobuf [11, 11, 0, 0] -
        otlp/0012-metrics.pb otlp-protobuf [0, 0, 0, 0] -
        otlp/0013-traces.pb otlp-protobuf [10, 10, 0, 0] -
        otlp/0014-logs.pb otlp-protobuf [2, 2, 0, 0] -
        otlp/0015-traces.pb otlp-protobuf [5, 5, 0, 0] -
        otlp/0016-logs.pb otlp-protobuf [2, 2, 0, 0] -
        otlp/0017-traces.pb otlp-protobuf [1, 1, 0, 0] -
        otlp/0018-metrics.pb otlp-protobuf [0, 0, 0, 0] -
        otlp/0019-logs.pb otlp-protobuf [12, 12, 0, 0] -
        otlp/0020-traces.pb otlp-protobuf [12, 12, 0, 0] -
        otlp/index.jsonl - [0, 0, 0, 0] index of recorded OTLP bodies
        stream-1.jsonl - [0, 0, 0, 0] standard output of a Claude Code run; its transcript is the source
        stream-2.jsonl - [0, 0, 0, 0] standard output of a Claude Code run; its transcript is the source
        stream-3.jsonl - [0, 0, 0, 0] standard output of a Claude Code run; its transcript is the source
        transcripts/309daf42-f826-415e-8b8f-6414e473e49e.jsonl claude-code [39, 39, 0, 0] -
    "#]]
    .assert_eq(&shown(&report));
    let records = bench.records().await;
    assert_eq!(records.len() as u64, report.total().records);
    let lines = |name: &str| fs::read_to_string(folder.join(name)).unwrap().lines().count();
    let of =
        |name: &str| records.iter().filter(|record| record.origin_file.as_deref() == Some(name)).collect::<Vec<_>>();
    for name in ["mcp/fs.stdio.jsonl", "mcp/orders.stdio.jsonl", "mcp/everything.http.jsonl"] {
        let mut seen: Vec<i64> = of(name).iter().filter_map(|record| record.origin_line).collect();
        seen.dedup();
        assert_eq!(seen.len(), lines(name), "{name}");
    }
    assert!(records.iter().all(|record| record.leaf_salt.is_some() && !record.session_key.is_empty()));

    // The secret is nowhere, and the same fingerprint stands where it was read and where it was written.
    let all: String = records.iter().map(threadline_schemas::wire::write_event).collect();
    assert!(!all.contains("dummy-demo-key-123"));
    let reads = of("mcp/fs.stdio.jsonl").into_iter().filter_map(|record| record.result.as_deref());
    let token = reads.filter_map(|result| Some(result.split_once("DEMO_KEY=")?.1.split_once(']')?.0)).next().unwrap();
    let calls: Vec<_> = records.iter().filter(|record| record.tool_name.as_deref() == Some("write_file")).collect();
    assert!(calls.iter().any(|call| call.arguments.as_deref().is_some_and(|arguments| arguments.contains(token))));

    let again = import(&bench, &[folder], &Options::default()).await;
    assert_eq!(again.total().duplicates, again.total().records);
    assert_eq!(bench.records().await.len(), records.len());
}

#[tokio::test]
async fn every_recording_reads_back_from_sealed_files_byte_for_byte() {
    let bench = Bench::with(StoreConfig { seal_age_max_ms: 3_600_000, ..StoreConfig::default() }).await;
    import(&bench, &[captures()], &Options::default()).await;
    assert_eq!(bench.store.reader().snapshot().await.unwrap().sealed_rows(), 0);
    let by_id = |mut records: Vec<threadline_schemas::Record>| {
        records.sort_by_key(|record| record.event_id);
        records
    };
    let received = by_id(bench.records().await);
    bench.store.seal_now().await.unwrap();
    let sealed = by_id(bench.records().await);
    assert!(received.len() > 1000 && received.len() == sealed.len(), "{} {}", received.len(), sealed.len());
    for (received, sealed) in received.iter().zip(&sealed) {
        assert!(received == sealed, "{} line {:?}", received.decoder, received.origin_line);
    }
    // Not because nothing was taken out.
    let sizes =
        received.iter().map(|r| (r.raw.as_ref().map_or(0, Vec::len), residue::reduce(r).map_or(0, |s| s.len())));
    let (whole, reduced) = sizes.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1));
    assert!(reduced * 3 < whole * 2, "{reduced} of {whole}");
}

#[tokio::test]
async fn one_bad_file_does_not_stop_the_rest() {
    let bench = Bench::new().await;
    let folder = bench.path("in");
    fs::create_dir_all(folder.join("deep/er")).unwrap();
    let event = |id: &str| format!("{{\"id\":\"{id}\",\"kind\":\"log\",\"text\":\"t\"}}\n");
    let whole = [event("1"), event("2"), "not json\n".into(), "\n".into(), event("3")].concat();
    let truncated = gzip((0..3000).map(|id| event(&format!("d{id}"))).collect::<String>().as_bytes());
    for (name, bytes) in [
        ("a.jsonl", whole.as_bytes().to_vec()),
        ("b.jsonl.gz", gzip(event("4").trim_end().as_bytes())),
        ("c.jsonl.zst", zstd::bulk::compress(event("5").as_bytes(), 3).unwrap()),
        ("d.jsonl.gz", truncated[..truncated.len() / 2].to_vec()),
        ("e.jsonl", b"\xff\xfe\0garbage\n".to_vec()),
        ("f-logs.pb", b"\x0a\xff\xff".to_vec()),
        ("g.json", b"{\"resourceLogs\":7}".to_vec()),
        (
            "h.jsonl",
            format!("{}{{\"id\":\"{}\",\"kind\":\"log\"}}\n{}", event("6"), "x".repeat(3000), event("7")).into_bytes(),
        ),
        ("i.jsonl.gz", gzip(event("8").repeat(100_000).as_bytes())),
        ("deep/er/j.jsonl", event("9").into_bytes()),
    ] {
        fs::write(folder.join(name), bytes).unwrap();
    }
    let options = Options { line_bytes_max: 2000, ratio_max: 50, ..Options::default() };
    let report = import(&bench, &[folder.clone(), folder.join("b.jsonl.gz"), bench.path("none")], &options).await;
    expect![[r#"
        a.jsonl native [5, 4, 1, 0] -
        b.jsonl native [1, 1, 0, 0] -
        c.jsonl native [1, 1, 0, 0] -
        d.jsonl - [0, 0, 0, 0] incomplete deflate stream
        deep/er/j.jsonl native [1, 1, 0, 0] -
        e.jsonl - [0, 0, 0, 0] format not recognised
        f-logs.pb otlp-protobuf [1, 1, 1, 0] -
        g.json otlp-json [1, 1, 1, 0] -
        h.jsonl native [3, 3, 1, 0] -
        i.jsonl native [24341, 24341, 0, 24340] decompressed size is more than 50 times the compressed size
        b.jsonl native [1, 1, 0, 1] -
        none - [0, 0, 0, 0] No such file or directory (os error 2)
    "#]]
    .assert_eq(&shown(&report));
    let records = bench.records().await;
    let rejected: Vec<String> = records
        .iter()
        .filter(|record| record.kind == Kind::Rejected)
        .map(|record| {
            let file = record.origin_file.as_deref().unwrap_or("-");
            format!("{file}:{} {}\n", record.origin_line.unwrap_or(0), record.text.as_deref().unwrap_or("-"))
        })
        .collect();
    expect![[r#"
        a.jsonl:3 not valid JSON at byte 1: expected ident
        f-logs.pb:1 not an OTLP logs body: protobuf is broken at byte 3: ends inside a number
        g.json:1 not an OTLP logs body: member resourceLogs must be an array
        h.jsonl:2 line of 3022 bytes is above the limit; its beginning and its digest are kept
    "#]]
    .assert_eq(&rejected.concat());
}

#[tokio::test]
async fn bodies_one_per_line_are_read_line_by_line() {
    let bench = Bench::new().await;
    let body = fs::read_to_string(captures().join("claude-code/cc-1/otlp/0001-logs.json")).unwrap();
    let other = fs::read_to_string(captures().join("claude-code/cc-1/otlp/0003-logs.json")).unwrap();
    let one_line = |body: &str| threadline_schemas::json::parse(body.as_bytes()).unwrap().value.to_string();
    fs::write(bench.path("lines.json"), format!("{}\n{{\"odd\":1}}\n{}", one_line(&body), one_line(&other))).unwrap();
    let options = Options::named("otlp-json", Options::default().catalogue).unwrap();
    let report = import(&bench, &[bench.path("lines.json")], &options).await;
    expect![[r#"
        lines.json otlp-json [3, 5, 1, 0] -
    "#]]
    .assert_eq(&shown(&report));
    let lines: std::collections::BTreeSet<_> = bench.records().await.iter().map(|record| record.origin_line).collect();
    assert_eq!(lines.len(), 3);
    assert!(Options::named("nonsense", Options::default().catalogue).is_none());
}
