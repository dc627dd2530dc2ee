//! Owner and drainer of a spool, and what crashes between their steps leave behind.

use std::os::unix::fs::PermissionsExt;

use super::*;

async fn spool(data: &Path, frames: u64) -> Spool {
    let spool = Spool::create(data, "orders", LogConfig::default()).unwrap();
    for n in 0..frames {
        spool.append(vec![Bytes::from(format!("frame {n}"))]).await.unwrap();
    }
    spool
}

fn only(inbox: &Inbox) -> SpoolDrain {
    let mut spools = inbox.spools().unwrap();
    assert_eq!(spools.len(), 1);
    spools.remove(0)
}

fn offsets(drain: &SpoolDrain) -> Vec<u64> {
    drain.frames().unwrap().map(|f| f.unwrap().0).collect()
}

#[tokio::test]
async fn a_spool_is_drained_while_its_owner_lives_and_removed_after() {
    let data = tempfile::tempdir().unwrap();
    let inbox = Inbox::open(data.path()).unwrap();
    assert_eq!(inbox.spools().unwrap().len(), 0);
    let owner = spool(data.path(), 3).await;
    let drain = only(&inbox);
    assert_eq!(drain.id(), owner.id());
    let info = drain.info().unwrap();
    assert_eq!((info.source_name.as_str(), info.pid), ("orders", std::process::id()));
    assert_eq!(offsets(&drain), [0, 1, 2]);
    drain.mark_drained(2).unwrap();
    drain.mark_drained(1).unwrap();
    assert_eq!(offsets(&drain), [2], "the mark never goes back");
    assert_eq!(drain.remove_if_finished().unwrap(), Removal::Alive);
    assert!(drain.owner_alive().unwrap());
    owner.append(vec!["late".into()]).await.unwrap();
    owner.close().await.unwrap();
    assert_eq!(drain.remove_if_finished().unwrap(), Removal::NotDrained { offset: 2 });
    drain.mark_drained(4).unwrap();
    assert_eq!(drain.remove_if_finished().unwrap(), Removal::Removed);
    assert_eq!(inbox.spools().unwrap().len(), 0);
    assert_eq!(fs::read_dir(&inbox.dir).unwrap().count(), 1, "only the creation lock is left");
}

#[tokio::test]
async fn a_follower_sees_what_the_owner_adds() {
    let data = tempfile::tempdir().unwrap();
    let owner = spool(data.path(), 1).await;
    let mut frames = only(&Inbox::open(data.path()).unwrap()).frames().unwrap();
    assert_eq!(frames.next().unwrap().unwrap().0, 0);
    assert!(frames.next().is_none());
    owner.append(vec!["more".into()]).await.unwrap();
    assert_eq!(frames.next().unwrap().unwrap(), (1, "more".into()));
}

#[tokio::test]
async fn an_owner_that_died_leaves_a_spool_that_is_drained_to_its_torn_end() {
    let data = tempfile::tempdir().unwrap();
    let owner = spool(data.path(), 3).await;
    // A process that was killed leaves the files as they are and its lock free: a copy has no lock.
    let other = tempfile::tempdir().unwrap();
    let inbox = Inbox::open(other.path()).unwrap();
    let copy = inbox.dir.join(Uuid::now_v7().to_string());
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(owner.log.dir()).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, copy.join(from.file_name().unwrap())).unwrap();
    }
    let segment = copy.join("00000000000000000000.log");
    let mut bytes = fs::read(&segment).unwrap();
    bytes.truncate(64 + 3 * (24 + 7) - 2);
    fs::write(&segment, bytes).unwrap();
    let drain = only(&inbox);
    assert!(!drain.owner_alive().unwrap());
    assert_eq!(offsets(&drain), [0, 1]);
    drain.mark_drained(2).unwrap();
    assert_eq!(drain.remove_if_finished().unwrap(), Removal::Removed);
}

#[tokio::test]
async fn a_corrupt_spool_is_never_removed_but_can_be_set_aside() {
    let data = tempfile::tempdir().unwrap();
    let owner = spool(data.path(), 3).await;
    let inbox = Inbox::open(data.path()).unwrap();
    let drain = only(&inbox);
    assert_eq!(drain.set_aside().unwrap(), Removal::Alive);
    owner.close().await.unwrap();
    let segment = drain.dir().join("00000000000000000000.log");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[64 + 30] ^= 1;
    fs::write(&segment, bytes).unwrap();
    assert!(matches!(drain.remove_if_finished(), Err(InboxError::Log(LogError::Corrupt { offset: 0, .. }))));
    assert_eq!(drain.set_aside().unwrap(), Removal::Removed);
    assert_eq!((inbox.spools().unwrap().len(), inbox.set_aside().unwrap()), (0, 1));
}

#[tokio::test]
async fn the_owner_deletes_what_was_drained() {
    let data = tempfile::tempdir().unwrap();
    let config =
        LogConfig { segment_bytes_max: 4096, preallocate_bytes: 1024, frame_bytes_max: 2048, ..LogConfig::default() };
    let owner = Spool::create(data.path(), "orders", config).unwrap();
    let drain = only(&Inbox::open(data.path()).unwrap());
    let mut most = 0;
    for n in 0..60_u64 {
        owner.append(vec![Bytes::from(vec![b'x'; 1000])]).await.unwrap();
        drain.mark_drained(n).unwrap();
        most = most.max(owner.disk_bytes());
    }
    assert!(most <= 3 * 4096, "{most}");
    assert_eq!(offsets(&drain), [59]);
}

#[tokio::test]
async fn leftovers_are_swept_but_not_a_spool_in_the_making() {
    let data = tempfile::tempdir().unwrap();
    let inbox = Inbox::open(data.path()).unwrap();
    fs::create_dir(inbox.dir.join(".a.new")).unwrap();
    fs::create_dir(inbox.dir.join(".b.gone")).unwrap();
    fs::write(inbox.dir.join(".b.gone/00000000000000000000.log"), b"x").unwrap();
    let (making, _) = create_lock(&inbox.dir).unwrap();
    making.lock().unwrap();
    assert_eq!(inbox.sweep().unwrap(), 0);
    drop(making);
    assert_eq!(inbox.sweep().unwrap(), 2);
    let owner = spool(data.path(), 1).await;
    assert_eq!(inbox.sweep().unwrap(), 0);
    assert_eq!(offsets(&only(&inbox)), [0]);
    owner.close().await.unwrap();
}

#[tokio::test]
async fn what_comes_from_outside_is_bounded_and_private() {
    let data = tempfile::tempdir().unwrap();
    let long = "n".repeat(SOURCE_NAME_BYTES_MAX + 1);
    assert!(matches!(Spool::create(data.path(), &long, LogConfig::default()), Err(InboxError::SourceName { .. })));
    let owner = spool(data.path(), 1).await;
    let drain = only(&Inbox::open(data.path()).unwrap());
    drain.mark_drained(0).unwrap();
    drain.mark_drained(1).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(drain.dir()), 0o700);
    for entry in fs::read_dir(drain.dir()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    fs::write(drain.dir().join(SPOOL_FILE), vec![b'['; 1 << 20]).unwrap();
    assert!(matches!(drain.info(), Err(InboxError::Damaged { .. })));
    assert_eq!(drain.frames().unwrap().count(), 0, "frames do not need it");
    fs::write(drain.dir().join(DRAINED_FILE), b"{\"version\":9,\"drained\":5}").unwrap();
    assert!(matches!(drain.frames(), Err(InboxError::Damaged { .. })));
    drop(owner);
}
