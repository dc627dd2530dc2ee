//! Search gives the same answer wherever a record is: in the tail, in a file with an index, in one without.

use super::*;
use crate::{TextHits, TextQuery};

fn texts() -> Vec<Record> {
    let mut records = calls(0..12);
    records[0].text = Some("Please DROP TABLE\n users; now".into());
    records[1].arguments = Some(r#"{"path":"C:\\temp\\new.txt","body":"{\"deep\":\"first\\nsecond\"}"}"#.into());
    records[2].result = Some("価格は日本語で".into());
    records[3].target = Some("/srv/git-1/orders_2026.csv".into());
    records[4].attributes = Some(r#"{"token":"sk-abc123def456"}"#.into());
    records[5].arguments = None;
    records[5].raw = Some(b"not json \xff but legible".to_vec());
    records[6].text = Some(format!("tail of a big one {} needle", "filler ".repeat(20_000)));
    records[7].user_claimed = Some("ann.example@corp.test".into());
    records
}

fn query(terms: &[&str]) -> TextQuery {
    TextQuery { terms: terms.iter().map(|t| (*t).to_string()).collect(), limit: 100, ..TextQuery::default() }
}

async fn hits(snapshot: &Snapshot, query: &TextQuery) -> (Vec<String>, TextHits) {
    let hits = snapshot.search(query).await.unwrap();
    let records = snapshot.records(&hits.rows).await.unwrap();
    (records.into_iter().map(|r| r.delivery_key).collect(), hits)
}

async fn check_all(snapshot: &Snapshot) {
    let id = call(8).event_id.to_string();
    let stamp = call(9).call_key.unwrap();
    let expected: [(&[&str], &[&str]); 21] = [
        (&[&id], &["api:8"]),
        (&[&stamp, "orders"], &["api:9"]),
        (&["toolcall:toolu_9"], &["api:9"]),
        (&["drop table users;"], &["api:0"]),
        (&["DROP", "users"], &["api:0"]),
        (&["rop"], &[]),
        (&["dro*"], &["api:0"]),
        (&["*rop"], &["api:0"]),
        (&[r"C:\temp\new.txt"], &["api:1"]),
        (&["second"], &["api:1"]),
        (&["first second"], &["api:1"]),
        (&["日本"], &["api:2"]),
        (&["git", "orders"], &["api:3"]),
        (&["/srv/git-1/orders_2026.csv"], &["api:3"]),
        (&["sk-abc123def456"], &["api:4"]),
        (&["legible"], &["api:5"]),
        (&["needle"], &["api:6"]),
        (&["ann.example@corp.test"], &["api:7"]),
        (&["toolu_7"], &["api:7"]),
        (&["@"], &["api:7"]),
        (&["number9", "nowhere"], &[]),
    ];
    for (terms, keys) in expected {
        assert_eq!(hits(snapshot, &query(terms)).await.0, keys, "{terms:?}");
    }
    // Newest first, cut at the limit, within the times.
    let all = hits(snapshot, &TextQuery { limit: 3, ..query(&["orders_lookup"]) }).await;
    assert_eq!((all.0, all.1.more), (vec!["api:11".into(), "api:10".into(), "api:9".into()], true));
    let start = 1_700_000_000_000_000_000;
    let range = TextQuery { from: Some(start + 2_000), to: Some(start + 4_000), ..query(&["orders", "lookup"]) };
    assert_eq!(hits(snapshot, &range).await.0, ["api:4", "api:3", "api:2"]);
    assert_eq!(hits(snapshot, &TextQuery { terms: vec![], ..range }).await.0, ["api:4", "api:3", "api:2"]);
    assert!(!hits(snapshot, &TextQuery { limit: 12, ..query(&["orders_lookup"]) }).await.1.more);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_rows_are_found_in_the_tail_with_and_without_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    store.appender().append(texts()).await.unwrap();
    let tail = store.reader().snapshot().await.unwrap();
    check_all(&tail).await;
    store.seal_now().await.unwrap();
    let indexed = store.reader().snapshot().await.unwrap();
    assert_eq!(hits(&indexed, &query(&["legible"])).await.1.scanned_files, 0);
    check_all(&indexed).await;
    check_all(&tail).await;
    store.close().await.unwrap();
    for index in std::fs::read_dir(dir.path().join("text")).unwrap() {
        std::fs::remove_dir_all(index.unwrap().path()).unwrap();
    }
    let unindexed = Reader::open(dir.path()).unwrap().snapshot().await.unwrap();
    assert_eq!(unindexed.files_without_text_index(), 1);
    assert_eq!(hits(&unindexed, &query(&["legible"])).await.1.scanned_files, 1);
    check_all(&unindexed).await;
}
