//! Bits that flip, files that go: what is answered is right or an error that names the file, and what can be made again is.

use std::{fs, path::PathBuf};

use super::*;
use crate::{StoreError, TextQuery, blocks::UNCHECKED, files::Files, layout::Layout, match_key, verify};

/// Thirty calls, one with payloads beside the row.
fn records() -> Vec<Record> {
    let mut records = calls(0..30);
    records[5].result = Some("large ".repeat(20_000));
    records
}

/// A closed store with those in one file.
async fn sealed() -> (tempfile::TempDir, Arc<crate::SealedFile>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    store.appender().append(records()).await.unwrap();
    store.seal_now().await.unwrap();
    let file = Arc::clone(&store.reader().snapshot().await.unwrap().files()[0]);
    store.close().await.unwrap();
    (dir, file)
}

async fn outside(dir: &Path) -> Result<Arc<Snapshot>, StoreError> {
    Reader::open(dir).unwrap().snapshot().await
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1 << (at % 8);
    fs::write(path, bytes).unwrap();
}

fn all_rows() -> Vec<RowId> {
    (0..30).map(|row| RowId { file: 0, row }).collect()
}

/// The error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

async fn search(snapshot: &Snapshot, terms: &[&str]) -> Result<usize, StoreError> {
    let terms = terms.iter().map(|t| (*t).to_string()).collect();
    Ok(snapshot.search(&TextQuery { terms, limit: 100, ..TextQuery::default() }).await?.rows.len())
}

async fn sql(snapshot: &Snapshot) -> Result<String, String> {
    let context = SessionContext::new();
    context.register_table("records", snapshot.table_provider().unwrap()).unwrap();
    let sql = "select count(distinct arguments), min(raw), max(event_id), sum(time_unix_nano % 1000) from records";
    let batches = context.sql(sql).await.unwrap().collect().await.map_err(|e| chain(&e))?;
    Ok(arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_an_error_that_names_the_file_or_changes_nothing() {
    let (dir, file) = sealed().await;
    let (good, name) = (fs::read(&file.path).unwrap(), file.id.to_string());
    let snapshot = outside(dir.path()).await.unwrap();
    let (whole, summed) = (snapshot.records(&all_rows()).await.unwrap(), sql(&snapshot).await.unwrap());
    let layout = Layout::open(dir.path()).unwrap();
    let (mut errors, mut passed_unchecked) = (0, 0);
    for at in (0..good.len()).step_by(good.len() / 48) {
        flip(&file.path, at);
        let snapshot = outside(dir.path()).await.unwrap();
        match snapshot.records(&all_rows()).await {
            Ok(records) => assert!(records == whole, "byte {at}"),
            Err(error) => {
                errors += 1;
                assert!(chain(&error).contains(&name), "byte {at}: {}", chain(&error));
            }
        }
        match snapshot.rows_with_keys(&[KeyQuery::Any("conv-1".into())]).await {
            Ok(rows) => assert_eq!(rows.len(), 10, "byte {at}"),
            Err(error) => assert!(chain(&error).contains(&name), "byte {at}: {}", chain(&error)),
        }
        match search(&snapshot, &["line one line number7"]).await {
            Ok(hits) => assert_eq!(hits, 1, "byte {at}"),
            Err(error) => assert!(chain(&error).contains(&name), "byte {at}: {}", chain(&error)),
        }
        match sql(&snapshot).await {
            Ok(shown) => assert_eq!(shown, summed, "byte {at}"),
            Err(text) => assert!(text.contains(&name), "byte {at}: {text}"),
        }
        // The control: without the comparison, records that never were get through.
        UNCHECKED.set(true);
        // The Parquet reader may even panic then.
        let files = Files::new(layout.clone(), 1 << 20, false);
        let read = || files.records(&file, None, None).is_ok_and(|records| records != whole);
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).unwrap_or(false);
        UNCHECKED.set(false);
        passed_unchecked += usize::from(passed);
        fs::write(&file.path, &good).unwrap();
    }
    assert!(errors > 20 && passed_unchecked > 0, "{errors} {passed_unchecked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn id_sidecars_are_built_again_from_their_files() {
    let (dir, file) = sealed().await;
    let ids = dir.path().join(format!("sidecars/{}.ids", file.id));
    let good = fs::read(&ids).unwrap();
    type Damage = fn(&[u8]) -> Option<Vec<u8>>;
    let damages: [Damage; 5] = [
        |_| None,
        |_| Some(Vec::new()),
        |good| Some(good[..good.len() / 2].to_vec()),
        |good| Some(good.iter().enumerate().map(|(at, b)| b ^ u8::from(at == good.len() / 2)).collect()),
        // Of format 1.
        |good| Some([&good[..6], &[1, 0], &good[8..]].concat()),
    ];
    for damage in damages {
        fs::remove_file(&ids).unwrap();
        if let Some(bytes) = damage(&good) {
            fs::write(&ids, bytes).unwrap();
        }
        // A reader changes nothing, and finds everything.
        assert_exactly(dir.path(), &outside(dir.path()).await.unwrap(), 30).await;
        assert_ne!(fs::read(&ids).ok().as_ref(), Some(&good));
        // The store writes what it was.
        let store = Store::open(dir.path(), by_hand()).await.unwrap();
        let receipt = store.appender().append(records()).await.unwrap();
        assert_eq!(receipt, Receipt { accepted: 0, duplicates: 30, conflicts: 0 });
        assert_exactly(dir.path(), &store.reader().snapshot().await.unwrap(), 30).await;
        store.close().await.unwrap();
        assert_eq!(fs::read(&ids).unwrap(), good);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_bodies_concern_their_rows_only() {
    let (dir, file) = sealed().await;
    let bodies = dir.path().join(format!("sidecars/{}.bodies", file.id));
    let (ids, good) = (dir.path().join(format!("sidecars/{}.ids", file.id)), fs::read(&bodies).unwrap());
    for gone in [false, true] {
        match gone {
            true => fs::remove_file(&bodies).unwrap(),
            false => flip(&bodies, good.len() / 3),
        }
        // Even when the sidecar has to be built again without them.
        fs::remove_file(&ids).unwrap();
        let store = Store::open(dir.path(), by_hand()).await.unwrap();
        assert_eq!(store.appender().append(records()).await.unwrap().duplicates, 30);
        let snapshot = store.reader().snapshot().await.unwrap();
        let rows = snapshot.rows_with_keys(&[KeyQuery::Any("conv-0".into())]).await.unwrap();
        assert_eq!(rows.len(), 10);
        let mut unreadable = 0;
        for row in rows {
            if let Err(error) = snapshot.records(&[row]).await {
                unreadable += 1;
                assert!(chain(&error).contains(&format!("{}.bodies", file.id)), "{}", chain(&error));
            }
        }
        assert_eq!(unreadable, 1);
        // A search that the index answers reads no row; one that has to look at that row says what it cannot read.
        assert_eq!(search(&snapshot, &["lookup"]).await.unwrap(), 30);
        assert_eq!(search(&snapshot, &["line number9"]).await.unwrap(), 1);
        let error = search(&snapshot, &["orders_lookup"]).await.unwrap_err();
        assert!(chain(&error).contains(&format!("{}.bodies", file.id)), "{}", chain(&error));
        store.close().await.unwrap();
        fs::write(&bodies, &good).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_text_index_is_scanned_around_and_built_again() {
    let (dir, file) = sealed().await;
    let text = dir.path().join(format!("text/{}", file.id));
    let parts: Vec<PathBuf> = fs::read_dir(&text).unwrap().map(|e| e.unwrap().path()).collect();
    let mut noticed = 0;
    for part in parts {
        let Ok(good) = fs::read(&part) else { continue };
        if good.is_empty() || part.file_name().unwrap() == ".managed.json" {
            continue;
        }
        flip(&part, good.len() / 2);
        let snapshot = outside(dir.path()).await.unwrap();
        assert_eq!(search(&snapshot, &["number7"]).await.unwrap(), 1, "{part:?}");
        noticed += snapshot.files_without_text_index();
        fs::write(&part, good).unwrap();
    }
    assert!(noticed >= 3, "{noticed}");

    fs::remove_dir_all(&text).unwrap();
    fs::create_dir(&text).unwrap();
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    store.seal_now().await.unwrap();
    let snapshot = store.reader().snapshot().await.unwrap();
    assert_eq!((snapshot.files_without_text_index(), search(&snapshot, &["number7"]).await.unwrap()), (0, 1));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_entry_of_the_table_is_named() {
    let (dir, _) = sealed().await;
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    store.appender().append(calls(30..31)).await.unwrap();
    store.seal_now().await.unwrap();
    store.close().await.unwrap();
    for checkpoint in fs::read_dir(dir.path().join("records/_delta_log")).unwrap().map(|e| e.unwrap().path()) {
        if checkpoint.to_string_lossy().contains("checkpoint") {
            fs::remove_file(checkpoint).unwrap();
        }
    }
    let entry = dir.path().join("records/_delta_log/00000000000000000001.json");
    let good = fs::read(&entry).unwrap();
    for bad in [good[..good.len() / 2].to_vec(), vec![0; good.len()]] {
        fs::write(&entry, bad).unwrap();
        for error in [outside(dir.path()).await.unwrap_err(), Store::open(dir.path(), by_hand()).await.unwrap_err()] {
            assert!(matches!(&error, StoreError::Damaged { path, .. } if path.ends_with(entry.file_name().unwrap())));
        }
        let found = verify(dir.path(), |_, _, _| {}).await.unwrap();
        assert!(found.damages.iter().any(|damage| damage.path.file_name() == entry.file_name()));
    }
    fs::write(&entry, good).unwrap();
    Store::open(dir.path(), by_hand()).await.unwrap().close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_match_key_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    let key = dir.path().join("keys/match.key");
    // Before anything is recorded it is made, also a second time.
    match_key(dir.path()).unwrap();
    fs::remove_file(&key).unwrap();
    match_key(dir.path()).unwrap();
    for seal in [false, true] {
        store.appender().append(calls(0..1)).await.unwrap();
        if seal {
            store.seal_now().await.unwrap();
        }
        let kept = fs::read(&key).unwrap();
        fs::remove_file(&key).unwrap();
        let error = match_key(dir.path()).unwrap_err();
        assert!(matches!(&error, StoreError::MatchKeyGone { path } if path.ends_with("keys/match.key")), "{error}");
        let found = verify(dir.path(), |_, _, _| {}).await.unwrap();
        assert!(found.damages.iter().any(|damage| damage.path.ends_with("keys/match.key")));
        fs::write(&key, kept).unwrap();
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_names_what_is_damaged_and_what_to_do() {
    let (dir, file) = sealed().await;
    match_key_of(dir.path());
    let good = verify(dir.path(), |_, _, _| {}).await.unwrap();
    assert_eq!((good.files, &good.damages[..]), (3, &[][..]));
    let (ids, text) = (dir.path().join(format!("sidecars/{}.ids", file.id)), dir.path().join("text"));
    let mut term = fs::read_dir(text.join(file.id.to_string())).unwrap().map(|e| e.unwrap().path());
    let term = term.find(|path| path.extension().is_some_and(|e| e == "term")).unwrap();
    for path in [&file.path, &ids, &ids.with_extension("bodies"), &term] {
        let good = fs::read(path).unwrap();
        flip(path, good.len() / 2);
        let found = verify(dir.path(), |_, _, _| {}).await.unwrap();
        let expected = if path == &term { path.parent().unwrap() } else { path };
        let named: Vec<_> = found.damages.iter().map(|damage| damage.path.file_name()).collect();
        assert_eq!(named, [expected.file_name()]);
        fs::write(path, good).unwrap();
    }
}

/// A key as `serve` would have made it before the first record.
fn match_key_of(dir: &Path) {
    fs::write(dir.join("keys/match.key"), [7; 32]).unwrap();
}
