//! The store through its public entrances: what is acknowledged is found, once, whatever happened.

mod beside;
mod conflicts;
mod damage;
mod faults;
mod raw;
mod recovery;
mod search;

use std::{path::Path, sync::Arc};

use datafusion::prelude::SessionContext;
use threadline_schemas::{Kind, Record, stamp};

use crate::{Appender, KeyQuery, Reader, Receipt, RowId, Snapshot, Store, StoreConfig};

/// Seals only when told to; every other commit is followed by a checkpoint.
fn by_hand() -> StoreConfig {
    StoreConfig {
        checkpoint_interval: 2,
        seal_age_max_ms: 3_600_000,
        inbox_poll_ms: 3_600_000,
        ..StoreConfig::default()
    }
}

/// A call of session `n / 10`, different in every field that matters.
fn call(n: usize) -> Record {
    let mut record = Record::new("default", &format!("api:{n}"), Kind::Call);
    record.set_time(Some(1_700_000_000_000_000_000 + n as i64 * 1_000), 1_700_000_000_000_000);
    record.source_name = "test".into();
    record.decoder = "test".into();
    record.conversation_id = Some(format!("conv-{}", n / 10));
    record.tool_call_id = Some(format!("toolu_{n}"));
    record.tool_name = Some("orders_lookup".into());
    record.keys = vec![format!("rpc:connection-{}/{}", n / 10, n % 10)];
    record.arguments = Some(format!("{{\"order\":{n},\"note\":\"line one\\nline number{n}\"}}"));
    record.raw = Some(format!("{{\"raw\":{n}}}").into_bytes());
    stamp::stamp(&mut record);
    record
}

fn calls(range: std::ops::Range<usize>) -> Vec<Record> {
    range.map(call).collect()
}

async fn delivery_keys(snapshot: &Snapshot) -> Vec<String> {
    let mut rows = Vec::new();
    for (index, file) in (0..).zip(snapshot.files()) {
        rows.extend((0..file.rows).map(|row| RowId { file: index, row }));
    }
    rows.extend((0..snapshot.tail_rows() as u32).map(|row| RowId { file: RowId::TAIL, row }));
    let mut keys: Vec<String> = snapshot.records(&rows).await.unwrap().into_iter().map(|r| r.delivery_key).collect();
    keys.sort_unstable();
    keys
}

/// Everything of `0..count` is there exactly once, by scan, by id, by text and by SQL, here and for an outside reader.
async fn assert_exactly(dir: &Path, snapshot: &Snapshot, count: usize) {
    let mut expected: Vec<String> = (0..count).map(|n| format!("api:{n}")).collect();
    expected.sort_unstable();
    let outside = Reader::open(dir).unwrap().snapshot().await.unwrap();
    for snapshot in [snapshot, &outside] {
        assert_eq!(delivery_keys(snapshot).await, expected);
        for n in (0..count).step_by(7) {
            let id = call(n).event_id.to_string();
            assert_eq!(found(snapshot, KeyQuery::Any(id)).await, [format!("api:{n}")]);
            assert_eq!(found(snapshot, KeyQuery::Typed(format!("toolcall:toolu_{n}"))).await, [format!("api:{n}")]);
        }
        let context = SessionContext::new();
        context.register_table("records", snapshot.table_provider().unwrap()).unwrap();
        let sql = "select count(distinct event_id) a, count(*) b from records where kind = 'call'";
        let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
        let shown = arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
        assert!(shown.lines().nth(3).unwrap().matches(&format!(" {count} ")).count() == 2, "{shown}");
    }
}

async fn found(snapshot: &Snapshot, key: KeyQuery) -> Vec<String> {
    let rows = snapshot.rows_with_keys(std::slice::from_ref(&key)).await.unwrap();
    let records = snapshot.records_with_keys(&[key]).await.unwrap();
    assert_eq!(snapshot.records(&rows).await.unwrap(), records);
    let mut keys: Vec<String> = records.into_iter().map(|r| r.delivery_key).collect();
    keys.sort_unstable();
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn appended_sealed_and_reopened_records_are_found_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    let (appender, reader) = (store.appender(), store.reader());
    assert_eq!(appender.append(calls(0..30)).await.unwrap(), Receipt { accepted: 30, duplicates: 0, conflicts: 0 });
    assert_exactly(dir.path(), &reader.snapshot().await.unwrap(), 30).await;

    store.seal_now().await.unwrap();
    let before = reader.snapshot().await.unwrap();
    assert_eq!((before.sealed_rows(), before.tail_rows(), before.files_without_text_index()), (30, 0, 0));
    // Some are sealed, some in the tail, some new, one twice in the same call.
    assert_eq!(appender.append(calls(20..40)).await.unwrap(), Receipt { accepted: 10, duplicates: 10, conflicts: 0 });
    let twice = [calls(38..50), calls(49..50)].concat();
    assert_eq!(appender.append(twice).await.unwrap(), Receipt { accepted: 10, duplicates: 3, conflicts: 0 });
    let after = reader.snapshot().await.unwrap();
    assert_exactly(dir.path(), &after, 50).await;
    // An older snapshot stays as it was.
    assert_eq!(delivery_keys(&before).await.len(), 30);

    let rows = after.rows_with_keys(&[KeyQuery::Typed("toolcall:toolu_7".into())]).await.unwrap();
    let mut whole = after.records(&rows).await.unwrap().remove(0);
    assert_eq!((whole.leaf_salt.take().unwrap().len(), whole.log_position.take().as_deref()), (32, Some("0/7")));
    assert_eq!(whole, call(7));
    assert_eq!(found(&after, KeyQuery::Any("conv-2".into())).await.len(), 10);
    assert_eq!(found(&after, KeyQuery::Any(call(21).session_key)).await.len(), 10);
    assert_eq!(found(&after, KeyQuery::Any("3".into())).await, ["api:13", "api:23", "api:3", "api:33", "api:43"]);
    store.close().await.unwrap();

    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    let snapshot = store.reader().snapshot().await.unwrap();
    assert_eq!((snapshot.sealed_rows(), snapshot.tail_rows()), (50, 0));
    assert_exactly(dir.path(), &snapshot, 50).await;
    assert_eq!(
        store.appender().append(calls(0..50)).await.unwrap(),
        Receipt { accepted: 0, duplicates: 50, conflicts: 0 }
    );
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_appends_of_the_same_events_store_each_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreConfig { seal_age_max_ms: 20, commit_interval_min_ms: 20, ..by_hand() });
    let store = store.await.unwrap();
    let appends = (0..8).map(|turn| {
        let appender = store.appender();
        tokio::spawn(async move {
            let mut accepted = 0;
            for part in 0..10 {
                let from = (part + turn) % 10 * 20;
                accepted += appender.append(calls(from..from + 20)).await.unwrap().accepted;
            }
            accepted
        })
    });
    let mut accepted = 0;
    for append in appends.collect::<Vec<_>>() {
        accepted += append.await.unwrap();
    }
    assert_eq!(accepted, 200);
    assert_exactly(dir.path(), &store.reader().snapshot().await.unwrap(), 200).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_is_readable_at_once_and_drained_once() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Appender::spool(dir.path(), "tap", StoreConfig::default()).unwrap();
    spool.append(calls(0..5)).await.unwrap();
    // Nobody seals here yet.
    assert_exactly(dir.path(), &Reader::open(dir.path()).unwrap().snapshot().await.unwrap(), 5).await;

    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    spool.append(calls(3..10)).await.unwrap();
    let snapshot = store.reader().snapshot().await.unwrap();
    assert_exactly(dir.path(), &snapshot, 10).await;
    spool.close().await.unwrap();
    store.seal_now().await.unwrap();
    assert_exactly(dir.path(), &store.reader().snapshot().await.unwrap(), 10).await;
    store.close().await.unwrap();
    let left = std::fs::read_dir(dir.path().join("inbox")).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir());
    assert_eq!(left.count(), 0);
}
