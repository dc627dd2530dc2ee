//! Readers and collectors beside a store that appends, seals and trims.

use std::collections::HashSet;

use super::*;
use crate::{inbox::Spool, log::LogConfig};

/// Small segments, so that nearly every seal trims.
fn restless() -> StoreConfig {
    let log = LogConfig { segment_bytes_max: 64 << 10, frame_bytes_max: 16 << 10, ..LogConfig::default() };
    StoreConfig { log, seal_age_max_ms: 1, commit_interval_min_ms: 1, ..by_hand() }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_without_a_lock_see_what_is_acknowledged_and_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), restless()).await.unwrap();
    let (outside, within) = (Reader::open(dir.path()).unwrap(), store.reader());
    let spool = Appender::spool(dir.path(), "tap", restless()).unwrap();
    for part in 0..30 {
        // Two doors; the second one opens on records that the first has stored already.
        store.appender().append(calls(part * 20..part * 20 + 15)).await.unwrap();
        spool.append(calls(part * 20 + 10..part * 20 + 20)).await.unwrap();
        for reader in [&outside, &within] {
            let snapshot = reader.snapshot().await.unwrap();
            let keys = delivery_keys(&snapshot).await;
            let distinct: HashSet<&String> = keys.iter().collect();
            assert_eq!((keys.len(), distinct.len()), (part * 20 + 20, part * 20 + 20));
        }
    }
    assert!(within.snapshot().await.unwrap().files().len() > 1);
    spool.close().await.unwrap();
    store.close().await.unwrap();
    assert_exactly(dir.path(), &outside.snapshot().await.unwrap(), 600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_holds_no_records_does_not_hold_up_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    let strange = Spool::create(dir.path(), "newer", LogConfig::default()).unwrap();
    strange.append(vec![bytes::Bytes::from_static(b"\xFF from a newer version")]).await.unwrap();
    let spool = Appender::spool(dir.path(), "tap", by_hand()).unwrap();
    spool.append(calls(0..5)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(delivery_keys(&store.reader().snapshot().await.unwrap()).await.len(), 5);
    }
    spool.close().await.unwrap();
    strange.close().await.unwrap();
    store.close().await.unwrap();
    // What is not understood stays where it is.
    assert_eq!(crate::inbox::Inbox::open(dir.path()).unwrap().spools().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_long_inbox_a_snapshot_holds_a_part_and_counts_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Appender::spool(dir.path(), "tap", by_hand()).unwrap();
    for n in 0..20 {
        let text = Some("x".repeat(1 << 20));
        spool.append(vec![Record { text, ..call(n) }]).await.unwrap();
    }
    let snapshot = Reader::open(dir.path()).unwrap().snapshot().await.unwrap();
    assert_eq!((snapshot.tail_rows(), snapshot.unread_rows()), (15, 5));
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    spool.close().await.unwrap();
    store.close().await.unwrap();
    let snapshot = Reader::open(dir.path()).unwrap().snapshot().await.unwrap();
    assert_eq!(snapshot.unread_rows(), 0);
    assert_exactly(dir.path(), &snapshot, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_store_leaves_readers_with_what_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    store.appender().append(calls(0..10)).await.unwrap();
    let (reader, appender) = (store.reader(), store.appender());
    store.crash().await;
    assert!(matches!(appender.append(calls(10..11)).await, Err(crate::AppendError::Closed)));
    assert_exactly(dir.path(), &reader.snapshot().await.unwrap(), 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_whose_owner_was_killed_leaves_one_gap() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    let gaps = async |reader: &Reader| {
        let snapshot = reader.snapshot().await.unwrap();
        let gaps = snapshot.tail().iter().filter(|record| record.kind == Kind::Gap);
        gaps.map(|gap| (gap.delivery_key.clone(), gap.attributes.clone().unwrap())).collect::<Vec<_>>()
    };
    let spool = Appender::spool(dir.path(), "orders", by_hand()).unwrap();
    spool.append(calls(0..5)).await.unwrap();
    store.reader().snapshot().await.unwrap();
    assert_eq!(gaps(&store.reader()).await, []);
    // Its lock goes, as it does with the process, and nothing marks the end.
    drop(spool);
    let inbox = crate::inbox::Inbox::open(dir.path()).unwrap();
    let spools = inbox.spools().unwrap();
    while !inbox.spools().unwrap().is_empty() {
        store.reader().snapshot().await.unwrap();
    }
    let found = gaps(&store.reader()).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, format!("own:spool:{}:end", spools[0].id()));
    assert!(found[0].1.contains(r#""pending_calls":5"#), "{}", found[0].1);
    store.close().await.unwrap();
}
