//! Every step of the seal fails: before it did anything, and after it did everything although an error came back. Then the
//! process dies, or it goes on; every record is there exactly once.

use super::*;
use crate::faults::Step;

/// What happens after the failure.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    /// The process ends where it stands.
    Dies,
    /// It tries again by itself.
    GoesOn,
}

async fn fails_at(step: Step, persisted: bool, then: Then) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    store.appender().append(calls(0..6)).await.unwrap();
    if step == Step::Checkpoint {
        // The first checkpoint is due at the second commit.
        store.appender().append(vec![call(7)]).await.unwrap();
        store.seal_now().await.unwrap();
    }
    let large = Record { result: Some("x".repeat(70_000)), ..call(6) };
    store.appender().append(vec![large.clone()]).await.unwrap();
    let count = if step == Step::Checkpoint { 8 } else { 7 };
    store.core().faults.set(step, persisted);
    let sealed = store.seal_now().await;
    assert!(!store.core().faults.is_set(), "{step:?} was not reached");
    assert_eq!(sealed.is_ok(), step == Step::Checkpoint, "{step:?}: {sealed:?}");

    let store = match then {
        Then::Dies => {
            store.crash().await;
            Store::open(dir.path(), by_hand()).await.unwrap()
        }
        Then::GoesOn => store,
    };
    assert_exactly(dir.path(), &store.reader().snapshot().await.unwrap(), count).await;
    // What was sent again because the sender heard of a failure is not stored again.
    assert_eq!(store.appender().append(calls(0..6)).await.unwrap().duplicates, 6);
    store.seal_now().await.unwrap();
    let snapshot = store.reader().snapshot().await.unwrap();
    assert_eq!((snapshot.tail_rows(), snapshot.sealed_rows()), (0, count as u64), "{step:?} {persisted} {then:?}");
    if (step, then) != (Step::Text, Then::GoesOn) {
        assert_eq!(snapshot.files_without_text_index(), 0, "{step:?} {persisted} {then:?}");
    }
    assert_exactly(dir.path(), &snapshot, count).await;
    let rows = snapshot.rows_with_keys(&[KeyQuery::Typed("toolcall:toolu_6".into())]).await.unwrap();
    assert_eq!(snapshot.records(&rows).await.unwrap()[0].result, large.result);
    store.close().await.unwrap();
    // After the next opening nothing is left over, and every file has its index.
    let store = Store::open(dir.path(), by_hand()).await.unwrap();
    store.seal_now().await.unwrap();
    let snapshot = store.reader().snapshot().await.unwrap();
    assert_eq!(snapshot.files_without_text_index(), 0);
    let files = snapshot.files().len();
    let with_bodies = snapshot.files().iter().filter(|file| file.has_bodies).count();
    assert_eq!(std::fs::read_dir(dir.path().join("sidecars")).unwrap().count(), files + with_bodies);
    assert_eq!(std::fs::read_dir(dir.path().join("text")).unwrap().count(), files);
    store.close().await.unwrap();
}

macro_rules! fault_table {
    ($($name:ident: $step:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            for then in [Then::Dies, Then::GoesOn] {
                for persisted in [false, true] {
                    fails_at(Step::$step, persisted, then).await;
                }
            }
        })*

        #[test]
        fn the_table_is_complete() {
            assert_eq!([$(Step::$step,)*], Step::ALL);
        }
    };
}

fault_table! {
    writing_bodies_fails: Bodies,
    writing_rows_fails: Rows,
    writing_ids_fails: Ids,
    syncing_files_fails: SyncFiles,
    committing_fails: Commit,
    syncing_the_commit_fails: SyncCommit,
    the_checkpoint_fails: Checkpoint,
    publishing_fails: Publish,
    trimming_fails: Trim,
    indexing_text_fails: Text,
}
