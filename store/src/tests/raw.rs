//! `raw` is stored without what other columns hold, and nobody notices.

use std::borrow::Cow;

use arrow::array::{Array, AsArray};
use threadline_schemas::columns::BODY_INLINE_BYTES_MAX;

use super::*;

/// One record per way in which `raw` can repeat its row.
fn records() -> Vec<Record> {
    let mut records = calls(0..6);
    for (n, record) in records.iter_mut().enumerate() {
        record.text = Some(format!("line one\nof text {n}, é \u{1a}\u{1}2"));
        let (arguments, text) = (record.arguments.as_deref().unwrap(), serde_json::to_string(&record.text).unwrap());
        record.raw =
            Some(format!("{{\"id\":\"toolu_{n}\",\"arguments\":{arguments},\"text\":{text}}}\u{1a}").into_bytes());
    }
    records[1].raw = None;
    records[2].raw = Some(Vec::new());
    // Beside the row: the payload, and with it `raw`, which repeats it; then `raw` for its own length.
    let large = "large ".repeat(BODY_INLINE_BYTES_MAX / 5);
    records[3].result = Some(large.clone());
    records[3].raw = Some(format!("before {large} after").into_bytes());
    records[4].raw = Some(vec![0x1A; BODY_INLINE_BYTES_MAX]);
    records
}

/// `raw` of the snapshot by tool call, as SQL says.
async fn by_sql(snapshot: &Snapshot, rest: &str) -> Vec<(String, Option<Vec<u8>>)> {
    let context = SessionContext::new();
    context.register_table("records", snapshot.table_provider().unwrap()).unwrap();
    let sql = format!("select tool_call_id, raw from records {rest} order by tool_call_id");
    let mut rows = Vec::new();
    for batch in context.sql(&sql).await.unwrap().collect().await.unwrap() {
        let (ids, raw) = (batch.column(0).as_string::<i32>().clone(), batch.column(1).as_binary::<i32>().clone());
        rows.extend(
            (0..batch.num_rows())
                .map(|row| (ids.value(row).to_string(), (!raw.is_null(row)).then(|| raw.value(row).to_vec()))),
        );
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_is_what_was_received_wherever_the_record_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    store.appender().append(records()).await.unwrap();
    let tail = store.reader().snapshot().await.unwrap();
    store.seal_now().await.unwrap();
    let sealed = store.reader().snapshot().await.unwrap();
    let rows: Vec<RowId> = (0..6).map(|row| RowId { file: 0, row }).collect();
    let mut whole = sealed.records(&rows).await.unwrap();
    whole.sort_by(|a, b| a.tool_call_id.cmp(&b.tool_call_id));
    for (found, received) in whole.iter().zip(records()) {
        let found = Record { leaf_salt: None, log_position: None, ..found.clone() };
        assert!(found == received, "{:?}", found.tool_call_id);
    }

    let received: Vec<_> = records().into_iter().map(|r| (r.tool_call_id.unwrap(), r.raw)).collect();
    assert_eq!(by_sql(&tail, "").await, received);
    let mut inline = received.clone();
    inline[3].1 = None;
    inline[4].1 = None;
    assert_eq!(by_sql(&sealed, "").await, inline);
    for snapshot in [&tail, &sealed] {
        let found = by_sql(snapshot, "where encode(raw, 'hex') like '%746f6f6c755f35%' and kind = 'call'").await;
        assert_eq!(found, received[5..]);
        let found = by_sql(snapshot, &format!("where raw = X'{}'", hex::encode(received[0].1.as_ref().unwrap()))).await;
        assert_eq!(found, received[..1]);
    }
    let columns = sealed.file_columns(0, &["tool_call_id", "raw"]).await.unwrap().remove(0);
    assert_eq!((columns.num_columns(), columns.column(1).null_count()), (2, 3));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_format_1_is_read_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    store.appender().append(records()[..3].to_vec()).await.unwrap();
    store.seal_now().await.unwrap();
    let file = Arc::clone(&store.reader().snapshot().await.unwrap().files()[0]);
    let rows = store.core().files.records(&file, None, None).unwrap();
    store.close().await.unwrap();
    // As format 1 wrote it: `raw` whole, and nothing in the table that says otherwise.
    std::fs::remove_file(&file.path).unwrap();
    let mut writer = crate::columnar::Writer::create(&file.path).unwrap();
    let raws: Vec<Option<Vec<u8>>> = rows.iter().map(|row| row.raw.clone()).collect();
    writer.write(&rows.iter().map(Cow::Borrowed).collect::<Vec<_>>(), &raws).unwrap();
    let bytes = writer.finish().unwrap();
    let entry = dir.path().join("records/_delta_log/00000000000000000001.json");
    let text = std::fs::read_to_string(&entry).unwrap();
    let text = text.replace("\"threadline.raw\":\"references/1\"", "\"threadline.other\":\"\"");
    let text = text.replace("threadline.sha256", "threadline.none");
    std::fs::write(&entry, text.replace(&format!("\"size\":{}", file.bytes), &format!("\"size\":{bytes}"))).unwrap();
    let format = dir.path().join("format.json");
    let text = std::fs::read_to_string(&format).unwrap();
    std::fs::write(&format, text.replace("\"format_version\":2", "\"format_version\":1")).unwrap();

    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    assert!(std::fs::read_to_string(&format).unwrap().contains("\"format_version\":2"));
    store.appender().append(records()[3..].to_vec()).await.unwrap();
    store.seal_now().await.unwrap();
    let snapshot = store.reader().snapshot().await.unwrap();
    assert!(!snapshot.files()[0].raw_is_reduced && snapshot.files()[1].raw_is_reduced);
    let received: Vec<_> = records().into_iter().map(|r| (r.tool_call_id.unwrap(), r.raw)).collect();
    let found = by_sql(&snapshot, "").await;
    assert_eq!((&found[..3], &found[5..]), (&received[..3], &received[5..]));
    let rows: Vec<RowId> = (0..2).flat_map(|file| (0..3).map(move |row| RowId { file, row })).collect();
    let mut whole = snapshot.records(&rows).await.unwrap();
    whole.sort_by(|a, b| a.tool_call_id.cmp(&b.tool_call_id));
    assert!(whole.into_iter().zip(records()).all(|(found, received)| found.raw == received.raw));
    store.close().await.unwrap();
}
