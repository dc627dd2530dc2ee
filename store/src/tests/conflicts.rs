//! The same event id with other content is evidence: counted apart, the first stays, the second is kept beside it.

use super::*;
use crate::conflict::CONFLICT;

/// Call `n` as somebody else tells it.
fn other(n: usize) -> Record {
    Record { raw: Some(format!("{{\"raw\":{n},\"forged\":true}}").into_bytes()), ..call(n) }
}

fn receipt(accepted: usize, duplicates: usize, conflicts: usize) -> Receipt {
    Receipt { accepted, duplicates, conflicts }
}

/// The conflicts that are kept: event and raw bytes.
async fn kept(snapshot: &Snapshot) -> Vec<(String, Vec<u8>)> {
    let mut rows: Vec<RowId> = Vec::new();
    for (index, file) in (0..).zip(snapshot.files()) {
        rows.extend((0..file.rows).map(|row| RowId { file: index, row }));
    }
    rows.extend((0..snapshot.tail_rows() as u32).map(|row| RowId { file: RowId::TAIL, row }));
    let records = snapshot.records(&rows).await.unwrap();
    let conflicts = records.into_iter().filter(|record| record.error_type.as_deref() == Some(CONFLICT));
    let mut kept: Vec<_> = conflicts
        .map(|record| {
            assert!(record.kind == Kind::Rejected && record.leaf_salt.is_some());
            (record.target.unwrap(), record.raw.unwrap())
        })
        .collect();
    kept.sort();
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_counted_and_kept_wherever_the_first_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    let appender = store.appender();
    // In one call; against the tail; against a sealed file, with and without a repetition beside it.
    assert_eq!(appender.append(vec![call(0), other(0), call(0)]).await.unwrap(), receipt(1, 1, 1));
    assert_eq!(appender.append(vec![other(0), call(0), call(1)]).await.unwrap(), receipt(1, 1, 1));
    store.seal_now().await.unwrap();
    assert_eq!(appender.append(vec![other(0), other(1), call(1)]).await.unwrap(), receipt(0, 1, 2));
    let third = Record { raw: Some(b"third".to_vec()), ..call(0) };
    assert_eq!(appender.append(vec![third.clone(), third, call(2)]).await.unwrap(), receipt(1, 1, 1));
    let snapshot = store.reader().snapshot().await.unwrap();
    let expected = [(0, "{\"raw\":0,\"forged\":true}"), (0, "third"), (1, "{\"raw\":1,\"forged\":true}")];
    let mut expected = expected.map(|(n, raw)| (call(n).event_id.to_string(), raw.as_bytes().to_vec()));
    expected.sort();
    assert_eq!(kept(&snapshot).await, expected);
    // The first one is what the id leads to.
    for n in 0..3 {
        let rows = snapshot.rows_with_keys(&[KeyQuery::Any(call(n).event_id.to_string())]).await.unwrap();
        let found = snapshot.records(&rows).await.unwrap();
        assert_eq!((found.len(), &found[0].raw), (1, &call(n).raw));
    }
    store.seal_now().await.unwrap();
    assert_eq!(kept(&store.reader().snapshot().await.unwrap()).await, expected);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_spool_may_conflict_too() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Appender::spool(dir.path(), "tap", by_hand()).unwrap();
    spool.append(vec![other(0), call(1)]).await.unwrap();
    spool.close().await.unwrap();
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    store.appender().append(vec![call(0)]).await.unwrap();
    store.seal_now().await.unwrap();
    let snapshot = store.reader().snapshot().await.unwrap();
    assert_eq!(kept(&snapshot).await.len(), 1);
    assert_eq!(snapshot.sealed_rows(), 3);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn repetitions_are_known_without_reading_their_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    store.appender().append(calls(0..50)).await.unwrap();
    store.seal_now().await.unwrap();
    // With the rows gone, only the sidecar is left to say so.
    let path = store.reader().snapshot().await.unwrap().files()[0].path.clone();
    std::fs::rename(&path, path.with_extension("away")).unwrap();
    assert_eq!(store.appender().append(calls(0..50)).await.unwrap(), receipt(0, 50, 0));
    assert!(store.appender().append(vec![other(3)]).await.is_err());
    std::fs::rename(path.with_extension("away"), &path).unwrap();
    assert_eq!(store.appender().append(vec![other(3)]).await.unwrap(), receipt(0, 0, 1));
    store.close().await.unwrap();
}
