//! What crashes and damage leave behind, and what opening makes of it.

use std::fs;

use super::*;
use crate::{AppendError, StoreError, faults::Step, log::LogConfig};

async fn sealed_twice(dir: &Path) {
    sealed_twice_with(dir, 20).await;
}

async fn sealed_twice_with(dir: &Path, checkpoint_interval: u64) {
    let store = Store::open(dir, StoreConfig { checkpoint_interval, ..by_hand() }).await.unwrap();
    store.appender().append(calls(0..10)).await.unwrap();
    store.seal_now().await.unwrap();
    store.appender().append(calls(10..20)).await.unwrap();
    store.seal_now().await.unwrap();
    store.crash().await;
}

fn newest_entry(dir: &Path) -> std::path::PathBuf {
    let entries = fs::read_dir(dir.join("records/_delta_log")).unwrap().map(|e| e.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|e| e == "json")).max().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_entry_of_the_table_is_dropped_and_its_rows_sealed_again() {
    type Tear = fn(&[u8]) -> Vec<u8>;
    let tears: [Tear; 4] = [
        |_| Vec::new(),
        |bytes| bytes[..bytes.len() / 2].to_vec(),
        |bytes| vec![0; bytes.len()],
        // At the end of a line: the files are there, the position is not.
        |bytes| bytes[..bytes.iter().rposition(|b| *b == b'\n').unwrap()].to_vec(),
    ];
    for tear in tears {
        let dir = tempfile::tempdir().unwrap();
        sealed_twice(dir.path()).await;
        let entry = newest_entry(dir.path());
        fs::write(&entry, tear(&fs::read(&entry).unwrap())).unwrap();
        let store = Store::open(dir.path(), by_hand()).await.unwrap();
        let snapshot = store.reader().snapshot().await.unwrap();
        assert_eq!((snapshot.sealed_rows(), snapshot.tail_rows()), (10, 10));
        assert_exactly(dir.path(), &snapshot, 20).await;
        store.seal_now().await.unwrap();
        assert_exactly(dir.path(), &store.reader().snapshot().await.unwrap(), 20).await;
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_entry_that_has_a_checkpoint_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    sealed_twice_with(dir.path(), 2).await;
    fs::write(newest_entry(dir.path()), "").unwrap();
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    store.appender().append(calls(15..25)).await.unwrap();
    store.seal_now().await.unwrap();
    assert_exactly(dir.path(), &store.reader().snapshot().await.unwrap(), 25).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_entry_that_the_log_cannot_replace_is_corruption() {
    let dir = tempfile::tempdir().unwrap();
    let small = LogConfig { segment_bytes_max: 64 << 10, frame_bytes_max: 32 << 10, ..LogConfig::default() };
    let config = StoreConfig { log: small, ..by_hand() };
    let store = Store::open(dir.path(), config.clone()).await.unwrap();
    for part in 0..40 {
        store.appender().append(calls(part * 10..part * 10 + 10)).await.unwrap();
    }
    store.seal_now().await.unwrap();
    store.close().await.unwrap();
    let entry = newest_entry(dir.path());
    let good = fs::read(&entry).unwrap();
    fs::write(&entry, &good[..good.len() / 2]).unwrap();
    let error = Store::open(dir.path(), config.clone()).await.unwrap_err();
    assert!(matches!(error, StoreError::TableCorrupt { version: 1, log_begins: 1.., .. }), "{error}");
    // Nothing was changed: with the entry back everything is there.
    fs::write(&entry, good).unwrap();
    let store = Store::open(dir.path(), config).await.unwrap();
    assert_eq!(store.reader().snapshot().await.unwrap().sealed_rows(), 400);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_go_and_missing_text_indexes_come_back() {
    let dir = tempfile::tempdir().unwrap();
    sealed_twice(dir.path()).await;
    let stray = uuid::Uuid::now_v7();
    for path in [format!("sidecars/{stray}.ids"), format!("records/tenant=default/{stray}.parquet")] {
        fs::write(dir.path().join(path), "torn").unwrap();
    }
    fs::create_dir(dir.path().join(format!("text/{stray}.tmp"))).unwrap();
    for index in fs::read_dir(dir.path().join("text")).unwrap() {
        fs::remove_dir_all(index.unwrap().path()).unwrap();
    }
    fs::write(dir.path().join("records/_delta_log/00000000000000000002.checkpoint.parquet"), "").unwrap();
    fs::write(dir.path().join("records/_delta_log/_last_checkpoint"), "{\"version\":2,\"size\":9}").unwrap();
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    store.seal_now().await.unwrap();
    let snapshot = store.reader().snapshot().await.unwrap();
    assert_eq!(snapshot.files_without_text_index(), 0);
    assert_exactly(dir.path(), &snapshot, 20).await;
    assert_eq!(fs::read_dir(dir.path().join("sidecars")).unwrap().count(), 2);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_table_is_an_error_and_not_an_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    sealed_twice(dir.path()).await;
    // The log was trimmed as far as it goes: it begins behind what is sealed.
    fs::remove_dir_all(dir.path().join("log/0")).unwrap();
    Store::open(dir.path(), by_hand()).await.unwrap().close().await.unwrap();
    let (table, away) = (dir.path().join("records/_delta_log"), dir.path().join("away"));
    fs::rename(&table, &away).unwrap();
    let error = Store::open(dir.path(), by_hand()).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    if table.exists() {
        fs::remove_dir_all(&table).unwrap();
    }
    fs::rename(&away, &table).unwrap();
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    assert_exactly(dir.path(), &store.reader().snapshot().await.unwrap(), 20).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_seals() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    let error = Store::open(dir.path(), by_hand()).await.unwrap_err();
    assert!(matches!(error, StoreError::Locked { pid } if pid == std::process::id()));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_tail_refuses_and_recovers_when_it_is_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { tail_bytes_max: 64 << 10, append_wait_max_ms: 1, ..by_hand() };
    let store = Store::open(dir.path(), config.clone()).await.unwrap();
    store.core().faults.stick(Step::Rows);
    let mut stored = 0;
    let refused = loop {
        match store.appender().append(calls(stored..stored + 10)).await {
            Ok(_) => stored += 10,
            Err(error) => break error,
        }
        assert!(stored < 1000);
    };
    assert!(matches!(refused, AppendError::Overloaded));
    // Sealing works again: there is room by itself.
    store.core().faults.clear();
    store.seal_now().await.unwrap();
    store.appender().append(calls(stored..stored + 10)).await.unwrap();
    stored += 10;
    // Replay takes of the budget too, however little it is.
    store.crash().await;
    let store =
        Store::open(dir.path(), StoreConfig { tail_bytes_max: 1, append_wait_max_ms: 60_000, ..config }).await.unwrap();
    assert_exactly(dir.path(), &store.reader().snapshot().await.unwrap(), stored).await;
    store.seal_now().await.unwrap();
    store.appender().append(calls(stored..stored + 10)).await.unwrap();
    assert_exactly(dir.path(), &store.reader().snapshot().await.unwrap(), stored + 10).await;
    let large = Record { text: Some("x".repeat(40 << 20)), ..call(0) };
    let error = store.appender().append(vec![large]).await.unwrap_err();
    assert!(matches!(error, AppendError::TooLarge { .. }));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_an_older_version_is_read_with_absent_values() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    store.appender().append(calls(0..10)).await.unwrap();
    store.seal_now().await.unwrap();
    let snapshot = store.reader().snapshot().await.unwrap();
    let path = snapshot.files()[0].path.clone();
    let file = crate::blocks::CheckedFile::open(&path, None).unwrap();
    let footer = crate::columnar::open(&file, &path).unwrap();
    let batch = crate::columnar::read(file, &path, &footer, None, None).unwrap().remove(0);
    store.close().await.unwrap();
    // The file as a version would have written it that did not know this column.
    let keep: Vec<usize> =
        (0..batch.num_columns()).filter(|c| batch.schema().field(*c).name() != "agent_name").collect();
    let older = batch.project(&keep).unwrap();
    let mut writer =
        parquet::arrow::ArrowWriter::try_new(fs::File::create(&path).unwrap(), older.schema(), None).unwrap();
    writer.write(&older).unwrap();
    writer.close().unwrap();
    let entry = newest_entry(dir.path());
    let size = |bytes: u64| format!("\"size\":{bytes}");
    let text = fs::read_to_string(&entry).unwrap();
    let text = text.replace(&size(snapshot.files()[0].bytes), &size(fs::metadata(&path).unwrap().len()));
    // Nor did it know of digests.
    fs::write(&entry, text.replace("threadline.sha256", "threadline.none")).unwrap();

    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    let snapshot = store.reader().snapshot().await.unwrap();
    assert_exactly(dir.path(), &snapshot, 10).await;
    let column = snapshot.file_columns(0, &["agent_name", "tool_name"]).await.unwrap().remove(0);
    assert_eq!((column.column(0).null_count(), column.column(1).null_count()), (10, 0));
    let context = SessionContext::new();
    context.register_table("records", snapshot.table_provider().unwrap()).unwrap();
    let rows = context.sql("select agent_name from records where agent_name is null").await.unwrap().count().await;
    assert_eq!(rows.unwrap(), 10);
    store.close().await.unwrap();
}
