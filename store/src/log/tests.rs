//! What the log promises, one case each; the fault table; a reader beside a writer. `model_tests` adds random histories.

use std::{
    collections::HashMap,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use expect_test::expect;

use super::{disk::Step, *};

/// How a disk operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// Nothing happened.
    Before,
    /// It happened, though an error came back.
    After,
    /// A write stopped half way.
    Half,
}

#[derive(Debug, Default)]
struct FaultState {
    steps: u64,
    fail_at: Option<(u64, How)>,
    full: bool,
    hit: Option<Step>,
    /// Ranges written since the file was last synced.
    unsynced: HashMap<PathBuf, Vec<(u64, u64)>>,
}

/// Makes disk operations fail, and remembers what a power cut may lose.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults(Arc<Mutex<FaultState>>);

impl Faults {
    fn state(&self) -> MutexGuard<'_, FaultState> {
        self.0.lock().unwrap()
    }

    /// Fails the operation that comes after `skip` others, once.
    pub(super) fn fail(&self, skip: u64, how: How) {
        let mut state = self.state();
        state.fail_at = Some((state.steps + skip, how));
        state.hit = None;
    }

    /// Which operation the last fault met.
    pub(super) fn hit(&self) -> Option<Step> {
        self.state().hit
    }

    /// A full disk: nothing can be created, claimed or written.
    fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    pub(super) fn unsynced(&self, file: &Path) -> Vec<(u64, u64)> {
        self.state().unsynced.get(file).cloned().unwrap_or_default()
    }

    pub(super) fn run<T>(&self, step: Step, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let how = {
            let mut state = self.state();
            let now = state.steps;
            state.steps += 1;
            if state.full && matches!(step, Step::Create | Step::Allocate | Step::Write) {
                return Err(ErrorKind::StorageFull.into());
            }
            match state.fail_at {
                Some((at, how)) if at == now => {
                    state.fail_at = None;
                    state.hit = Some(step);
                    how
                }
                _ => {
                    drop(state);
                    return operation();
                }
            }
        };
        if how != How::Before {
            operation()?;
        }
        Err(io::Error::from_raw_os_error(5))
    }

    pub(super) fn shorten<'a>(&self, path: &Path, at: u64, bytes: &'a [u8]) -> &'a [u8] {
        let mut state = self.state();
        let half = state.fail_at == Some((state.steps, How::Half));
        let bytes = if half { &bytes[..bytes.len() / 2] } else { bytes };
        let range = (at, bytes.len() as u64);
        state.unsynced.entry(path.to_path_buf()).or_default().push(range);
        bytes
    }

    pub(super) fn synced(&self, path: &Path) {
        self.state().unsynced.remove(path);
    }
}

/// Small segments, so that a few frames fill several.
pub(super) fn small() -> LogConfig {
    LogConfig {
        segment_bytes_max: 512,
        preallocate_bytes: 200,
        frame_bytes_max: 300,
        queue_bytes_max: 4096,
        ..LogConfig::default()
    }
}

pub(super) fn open_with(dir: &Path, config: LogConfig, faults: &Faults) -> Result<(Log, Recovery), LogError> {
    durable::create_dirs(dir)?;
    let disk = Disk { faults: faults.clone() };
    Log::open_locked(dir, config, lock_owner(dir)?, disk)
}

/// A directory in memory where there is one: for tests that play the disk themselves and sync thousands of times.
pub(super) fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

pub(super) fn payload(n: u64, bytes: usize) -> Bytes {
    let text = format!("frame {n} ");
    text.bytes().cycle().take(bytes.max(text.len())).collect()
}

async fn append(log: &Log, count: u64, bytes: usize) -> Result<Range<u64>, LogError> {
    let next = log.next_offset();
    log.append((0..count).map(|i| payload(next + i, bytes)).collect()).await
}

pub(super) fn read(dir: &Path, from: u64) -> Result<Vec<(u64, Bytes)>, LogError> {
    LogReader::open(dir)?.frames(from).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let firsts = segment::list_segments(dir).unwrap();
    firsts.into_iter().map(|first| segment::segment_path(dir, first)).collect()
}

/// The error chain with the directory's name taken out.
fn told(dir: &Path, error: LogError) -> String {
    error.to_string().replace(&dir.display().to_string(), "DIR")
}

fn open_error(dir: &Path, config: LogConfig) -> String {
    told(dir, Log::open(dir, config).unwrap_err())
}

#[tokio::test]
async fn what_is_appended_is_read_in_order_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..4 {
        let (log, recovery) = Log::open(dir.path(), small()).unwrap();
        assert_eq!(recovery.next_offset, round * 11);
        assert_eq!(recovery.torn, None);
        assert_eq!(append(&log, 3, 40).await.unwrap(), round * 11..round * 11 + 3);
        for _ in 0..8 {
            append(&log, 1, 100).await.unwrap();
        }
        log.close().await.unwrap();
        assert!(matches!(append(&log, 1, 9).await, Err(LogError::Closed)));
    }
    let all = read(dir.path(), 0).unwrap();
    let offsets: Vec<u64> = all.iter().map(|f| f.0).collect();
    assert_eq!(offsets, (0..44).collect::<Vec<_>>());
    assert!(all.iter().all(|(n, bytes)| bytes.starts_with(format!("frame {n} ").as_bytes())));
    assert_eq!(read(dir.path(), 17).unwrap(), all[17..]);
    assert_eq!(read(dir.path(), 44).unwrap(), []);
    assert_eq!(read(dir.path(), 999).unwrap(), []);
    let sizes: Vec<u64> = segments(dir.path()).iter().map(|p| fs::metadata(p).unwrap().len()).collect();
    assert!(sizes.len() > 5 && sizes.iter().all(|bytes| *bytes <= 512), "{sizes:?}");
}

#[tokio::test]
async fn limits_refuse_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), small()).unwrap();
    let refused = |frames| async { log.append(frames).await.unwrap_err().to_string() };
    expect!["a frame of 301 bytes is above the limit of 300"].assert_eq(&refused(vec![payload(0, 301)]).await);
    expect!["a batch of 468 bytes is above the limit of 448"]
        .assert_eq(&refused(vec![payload(0, 210), payload(1, 210)]).await);
    expect!["a frame needs at least one byte"].assert_eq(&refused(vec![Bytes::new()]).await);
    assert_eq!(log.append(vec![]).await.unwrap(), 0..0);
    assert_eq!(segments(dir.path()).len(), 0);
    let config = LogConfig { frame_bytes_max: 512, ..small() };
    expect!["log configuration: frame_bytes_max does not fit into segment_bytes_max"]
        .assert_eq(&open_error(&dir.path().join("x"), config));
}

#[tokio::test]
async fn a_second_writer_is_refused_until_the_first_closes() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), small()).unwrap();
    expect!["DIR has a writer already"].assert_eq(&open_error(dir.path(), small()));
    log.close().await.unwrap();
    Log::open(dir.path(), small()).unwrap();
}

#[tokio::test]
async fn concurrent_appends_share_syncs_and_each_batch_stays_together() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), LogConfig::default()).unwrap();
    let log = Arc::new(log);
    let tasks: Vec<_> = (0..200_u64)
        .map(|task| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let frames = (0..=task % 3).map(|i| Bytes::from(format!("{task}/{i}"))).collect();
                (task, log.append(frames).await.unwrap())
            })
        })
        .collect();
    let mut ranges = Vec::new();
    for task in tasks {
        ranges.push(task.await.unwrap());
    }
    let all: HashMap<u64, Bytes> = read(dir.path(), 0).unwrap().into_iter().collect();
    assert_eq!(all.len() as u64, log.next_offset());
    for (task, range) in ranges {
        for (i, offset) in range.enumerate() {
            assert_eq!(all[&offset], format!("{task}/{i}"));
        }
    }
    log.close().await.unwrap();
}

#[tokio::test]
async fn trimming_keeps_the_last_segment_and_says_so_to_a_late_reader() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), small()).unwrap();
    for _ in 0..20 {
        append(&log, 1, 100).await.unwrap();
    }
    let before = log.disk_bytes();
    let mut early = LogReader::open(dir.path()).unwrap().frames(0);
    assert_eq!(early.next().unwrap().unwrap().0, 0);
    assert_eq!(log.trim(2).await.unwrap(), 0);
    assert_eq!(log.trim(13).await.unwrap(), 4);
    assert!(log.disk_bytes() < before);
    expect!["offset 11 was trimmed, the log in DIR begins at 12"]
        .assert_eq(&told(dir.path(), read(dir.path(), 11).unwrap_err()));
    assert_eq!(read(dir.path(), 12).unwrap().len(), 8);
    // The early reader still has the first segment open, then finds the rest gone.
    let rest: Vec<_> = early.collect();
    let (last, read_on) = rest.split_last().unwrap();
    assert_eq!(read_on.len(), 2);
    assert!(matches!(last, Err(LogError::Trimmed { offset: 3, first_offset: 12, .. })), "{last:?}");
    assert_eq!(log.trim(1000).await.unwrap(), 2);
    assert_eq!(segments(dir.path()).len(), 1);
    log.close().await.unwrap();
    let (log, recovery) = Log::open(dir.path(), small()).unwrap();
    assert_eq!((recovery.first_offset, recovery.next_offset), (18, 20));
    assert_eq!(append(&log, 1, 10).await.unwrap(), 20..21);
}

/// Changes the bytes of a segment at a place.
type Damage = fn(&mut Vec<u8>, usize);

/// Five frames of one batch each in one segment; returns the segment and where each frame starts.
async fn five_frames(dir: &Path) -> (PathBuf, Vec<usize>) {
    let (log, _) = Log::open(dir, LogConfig { segment_bytes_max: 4096, ..small() }).unwrap();
    for _ in 0..5 {
        append(&log, 1, 20).await.unwrap();
    }
    log.close().await.unwrap();
    (segments(dir).remove(0), (0..5).map(|i| 64 + i * 44).collect())
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_and_reported() {
    let tears: [(&str, Damage); 4] = [
        ("cut in the header", |bytes, last| bytes.truncate(last + 10)),
        ("cut in the payload", |bytes, last| bytes.truncate(last + 30)),
        ("zeros", |bytes, last| bytes[last + 26..].fill(0)),
        ("garbage", |bytes, last| bytes[last..].fill(0xa5)),
    ];
    for (name, tear) in tears {
        let dir = tempfile::tempdir().unwrap();
        let (segment, starts) = five_frames(dir.path()).await;
        let mut bytes = fs::read(&segment).unwrap();
        tear(&mut bytes, starts[4]);
        fs::write(&segment, &bytes).unwrap();
        assert_eq!(read(dir.path(), 0).unwrap().len(), 4, "{name}");
        let (log, recovery) = Log::open(dir.path(), small()).unwrap();
        let torn = recovery.torn.expect(name);
        assert_eq!((torn.offset, torn.byte), (4, starts[4] as u64), "{name}");
        assert_eq!(torn.bytes, (bytes.len() - starts[4]) as u64, "{name}");
        let kept = torn.kept.unwrap();
        let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        assert_eq!(fs::read(&kept).unwrap(), bytes[starts[4]..written.max(starts[4])], "{name}");
        assert_eq!(Log::torn_ends(dir.path()).unwrap(), [kept], "{name}");
        assert_eq!(append(&log, 1, 9).await.unwrap(), 4..5, "{name}");
        assert_eq!(read(dir.path(), 0).unwrap().len(), 5, "{name}");
    }
}

#[tokio::test]
async fn damage_before_the_last_group_is_corruption_for_reader_and_writer() {
    let dir = tempfile::tempdir().unwrap();
    let (segment, starts) = five_frames(dir.path()).await;
    let good = fs::read(&segment).unwrap();
    let mut seen = Vec::new();
    let damages: [Damage; 4] = [
        |bytes, at| bytes[at] ^= 1,
        |bytes, at| bytes[at + 30] ^= 1,
        |bytes, at| bytes[at..at + 44].fill(0),
        |bytes, at| drop(bytes.drain(at..at + 44)),
    ];
    for damage in damages {
        let mut bytes = good.clone();
        damage(&mut bytes, starts[1]);
        fs::write(&segment, &bytes).unwrap();
        let by_reader = told(dir.path(), read(dir.path(), 0).unwrap_err());
        assert_eq!(by_reader, open_error(dir.path(), small()));
        assert_eq!(fs::read(&segment).unwrap(), bytes, "a refused log is left as it is");
        seen.push(by_reader);
    }
    expect![[r#"
        segment DIR/00000000000000000000.log is corrupt at offset 1, byte 108: the frame header fails its checksum
        segment DIR/00000000000000000000.log is corrupt at offset 1, byte 108: the payload fails its checksum
        segment DIR/00000000000000000000.log is corrupt at offset 1, byte 108: acknowledged frames are missing
        segment DIR/00000000000000000000.log is corrupt at offset 1, byte 108: another offset stands here"#]]
    .assert_eq(&seen.join("\n"));
}

#[tokio::test]
async fn a_lost_page_within_the_last_group_is_torn_not_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), LogConfig { segment_bytes_max: 4096, ..small() }).unwrap();
    append(&log, 1, 20).await.unwrap();
    append(&log, 4, 20).await.unwrap();
    log.close().await.unwrap();
    let segment = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[64 + 44..64 + 100].fill(0);
    fs::write(&segment, &bytes).unwrap();
    assert_eq!(read(dir.path(), 0).unwrap().len(), 1);
    let (log, recovery) = Log::open(dir.path(), small()).unwrap();
    assert_eq!(recovery.torn.unwrap().offset, 1);
    // Two new frames end where the third of the torn batch began: it must not come back to life.
    append(&log, 1, 20).await.unwrap();
    append(&log, 1, 20).await.unwrap();
    assert_eq!(read(dir.path(), 0).unwrap().len(), 3);
}

#[tokio::test]
async fn frames_inside_a_payload_are_no_evidence() {
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig { segment_bytes_max: 4096, frame_bytes_max: 2048, ..small() };
    let (log, _) = Log::open(dir.path(), config.clone()).unwrap();
    // Somebody who knows the format, but not the salt, logs a frame that claims to come much later.
    let mut forged = vec![b'x'; 64];
    let header = frame::FrameHeader {
        payload_bytes: 3,
        ends_batch: true,
        group: 0,
        offset: 40,
        payload_crc: crc32c::crc32c(b"abc"),
    };
    header.encode(0, &mut forged);
    forged.extend_from_slice(b"abc");
    log.append(vec![Bytes::from(forged)]).await.unwrap();
    log.close().await.unwrap();
    let segment = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[70] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let (_log, recovery) = Log::open(dir.path(), config).unwrap();
    assert_eq!(recovery.torn.unwrap().offset, 0);
}

#[tokio::test]
async fn a_missing_segment_in_the_middle_and_a_foreign_one_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), small()).unwrap();
    for _ in 0..10 {
        append(&log, 1, 100).await.unwrap();
    }
    log.close().await.unwrap();
    let other = LogConfig { partition: 1, ..small() };
    expect![
        "segment DIR/00000000000000000000.log is corrupt at offset 0, byte 0: the segment belongs to another partition"
    ]
    .assert_eq(&open_error(dir.path(), other));
    fs::remove_file(&segments(dir.path())[1]).unwrap();
    let refused = open_error(dir.path(), small());
    expect!["segment DIR/00000000000000000000.log is corrupt at offset 3, byte 436: acknowledged frames are missing"]
        .assert_eq(&refused);
    assert_eq!(told(dir.path(), read(dir.path(), 0).unwrap_err()), refused);
    // What is sealed is not needed any more.
    Log::open(dir.path(), LogConfig { sealed_below: 6, ..small() }).unwrap();
}

#[tokio::test]
async fn offsets_the_table_has_sealed_are_never_given_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let sealed = LogConfig { sealed_below: 7, ..small() };
    let (log, recovery) = Log::open(dir.path(), sealed.clone()).unwrap();
    assert!(recovery.created);
    assert!(matches!(log.frames(3).next(), Some(Err(LogError::Trimmed { first_offset: 7, .. }))));
    assert_eq!(append(&log, 2, 10).await.unwrap(), 7..9);
    log.close().await.unwrap();
    expect!["the log in DIR ends at offset 9, but 10 is sealed already"]
        .assert_eq(&open_error(dir.path(), LogConfig { sealed_below: 10, ..sealed }));
}

/// Every byte of a small log, every wrong value of a few: noticed, or nothing wrong is returned.
#[tokio::test]
async fn a_flip_of_any_byte_never_gives_a_wrong_payload() {
    let dir = memory_dir();
    let (log, _) = Log::open(dir.path(), small()).unwrap();
    for count in [1, 2, 3, 1, 2] {
        append(&log, count, 60).await.unwrap();
    }
    log.close().await.unwrap();
    let good = read(dir.path(), 0).unwrap();
    assert_eq!(good.len(), 9);
    let files = segments(dir.path());
    assert_eq!(files.len(), 3);
    let last_group = good.len() - 2;
    let (mut refused, mut torn) = (0, 0);
    for file in &files {
        let bytes = fs::read(file).unwrap();
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = bytes.clone();
                bad[at] ^= flip;
                fs::write(file, &bad).unwrap();
                let mut returned = Vec::new();
                let mut error = None;
                for frame in LogReader::open(dir.path()).unwrap().frames(0) {
                    match frame {
                        Ok(frame) => returned.push(frame),
                        Err(e) => error = Some(e),
                    }
                }
                assert_eq!(returned, good[..returned.len()], "{} byte {at}", file.display());
                match error {
                    Some(_) => refused += 1,
                    None => {
                        assert_eq!(returned.len(), last_group, "{} byte {at}", file.display());
                        torn += 1;
                    }
                }
            }
        }
        fs::write(file, &bytes).unwrap();
    }
    // 3 headers of 64 bytes, 7 frames that something later proves, and the 2 frames of the last group.
    assert_eq!((refused, torn), ((3 * 64 + 7 * 84) * 3, 2 * 84 * 3));
}

#[tokio::test]
async fn a_reader_follows_a_live_writer_and_misses_nothing() {
    const COUNT: u64 = 3000;
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig { segment_bytes_max: 16 << 10, preallocate_bytes: 4096, ..small() };
    let (log, _) = Log::open(dir.path(), config).unwrap();
    let log = Arc::new(log);
    let path = dir.path().to_path_buf();
    let reader = std::thread::spawn(move || {
        let mut frames = LogReader::open(&path).unwrap().frames(0);
        let mut seen = 0;
        while seen < COUNT {
            match frames.next() {
                Some(frame) => {
                    let (offset, bytes) = frame.unwrap();
                    assert_eq!(offset, seen);
                    assert!(!bytes.is_empty());
                    seen += 1;
                }
                None => std::thread::yield_now(),
            }
        }
    });
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                for n in 0..COUNT / 12 {
                    log.append((0..3).map(|i| payload(n + i, 90)).collect()).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(log.frames(0).filter_map(Result::ok).count() as u64, COUNT);
    tokio::task::spawn_blocking(move || reader.join().unwrap()).await.unwrap();
    log.close().await.unwrap();
}

/// Each disk operation of a run fails once, in each way; then the process goes on, and then the log is reopened.
#[tokio::test]
async fn fault_table() {
    let mut met = HashMap::<String, u64>::new();
    for how in [How::Before, How::After, How::Half] {
        for skip in 0.. {
            let dir = memory_dir();
            let faults = Faults::default();
            let (log, _) = open_with(dir.path(), small(), &faults).unwrap();
            faults.fail(skip, how);
            let (mut acked, mut failed) = (Vec::new(), 0);
            for n in 0..9_u64 {
                match log.append(vec![payload(n, 60), payload(n + 100, 60)]).await {
                    Ok(range) => acked.push((range, n)),
                    Err(error) => {
                        assert!(error.is_retryable(), "{error}");
                        failed += 1;
                    }
                }
                let expected: Vec<_> = frames_of(&acked);
                assert_eq!(log.frames(0).collect::<Result<Vec<_>, _>>().unwrap(), expected);
            }
            let hit = faults.hit();
            if let Some(step) = hit {
                *met.entry(format!("{step:?} {how:?}")).or_default() += 1;
                assert!(failed <= 1, "one fault fails at most one append ({step:?} {how:?})");
            }
            drop(log.close().await);
            let (log, recovery) = Log::open(dir.path(), small()).unwrap();
            let found = read(dir.path(), 0).unwrap();
            if found.len() > 2 * acked.len() {
                // The last append failed and nothing came after it: found whole, its outcome was unknown.
                acked.push((16..18, 8));
            }
            assert_eq!(found, frames_of(&acked), "{hit:?} {how:?} {skip}");
            assert!(recovery.next_offset >= acked.last().unwrap().0.end);
            log.close().await.unwrap();
            if hit.is_none() {
                break;
            }
        }
    }
    let mut met: Vec<_> = met.into_iter().map(|(step, times)| format!("{step} {times}")).collect();
    met.sort();
    expect![[r#"
        Allocate After 9
        Allocate Before 9
        Allocate Half 9
        Create After 5
        Create Before 5
        Create Half 5
        Rename After 5
        Rename Before 5
        Rename Half 5
        Sync After 18
        Sync Before 18
        Sync Half 18
        SyncDir After 5
        SyncDir Before 5
        SyncDir Half 5
        Truncate After 4
        Truncate Before 4
        Truncate Half 4
        Write After 14
        Write Before 14
        Write Half 14
    "#]]
    .assert_eq(&(met.join("\n") + "\n"));
}

fn frames_of(acked: &[(Range<u64>, u64)]) -> Vec<(u64, Bytes)> {
    let frames =
        |(range, n): &(Range<u64>, u64)| [(range.start, payload(*n, 60)), (range.start + 1, payload(*n + 100, 60))];
    acked.iter().flat_map(frames).collect()
}

#[tokio::test]
async fn a_failed_trim_leaves_no_hole_and_can_be_tried_again() {
    for skip in 0..4 {
        for how in [How::Before, How::After] {
            let dir = tempfile::tempdir().unwrap();
            let faults = Faults::default();
            let (log, _) = open_with(dir.path(), small(), &faults).unwrap();
            for _ in 0..10 {
                append(&log, 1, 100).await.unwrap();
            }
            faults.fail(skip, how);
            let error = log.trim(7).await.unwrap_err();
            expect!["cannot remove segment"].assert_eq(&told(dir.path(), error)[..21]);
            let lowest = segment::list_segments(dir.path()).unwrap()[0];
            assert_eq!(read(dir.path(), lowest).unwrap().len() as u64, 10 - lowest);
            log.trim(7).await.unwrap();
            assert_eq!(read(dir.path(), 6).unwrap().len(), 4);
            log.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_failed_sync_moves_to_a_new_segment_and_voids_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let (log, _) = open_with(dir.path(), small(), &faults).unwrap();
    append(&log, 2, 20).await.unwrap();
    // allocate is not needed for this one, so: write, sync.
    faults.fail(1, How::After);
    let error = append(&log, 2, 20).await.unwrap_err();
    assert_eq!(faults.hit(), Some(Step::Sync));
    expect!["cannot sync segment DIR/00000000000000000000.log"].assert_eq(&told(dir.path(), error));
    assert_eq!(log.next_offset(), 2);
    assert_eq!(log.frames(0).count(), 2);
    // Not voided yet: for somebody else its outcome is unknown.
    assert_eq!(read(dir.path(), 0).unwrap().len(), 4);
    assert_eq!(append(&log, 1, 20).await.unwrap(), 4..5);
    let offsets: Vec<u64> = read(dir.path(), 0).unwrap().iter().map(|f| f.0).collect();
    assert_eq!(offsets, [0, 1, 4]);
    log.close().await.unwrap();
    let (log, recovery) = Log::open(dir.path(), small()).unwrap();
    assert_eq!((recovery.frames, recovery.next_offset), (3, 5));
    assert_eq!(log.frames(0).count(), 3);
}

#[tokio::test]
async fn a_full_disk_refuses_and_the_log_recovers_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let (log, _) = open_with(dir.path(), small(), &faults).unwrap();
    append(&log, 1, 20).await.unwrap();
    faults.set_full(true);
    let mut refused = 0;
    for _ in 0..8 {
        match append(&log, 1, 100).await {
            Ok(_) => {}
            Err(error) => {
                assert!(matches!(error, LogError::NoSpace { .. }), "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 8);
    faults.set_full(false);
    // The first refusal came from the write itself, which burned an offset; the others wrote nothing.
    assert_eq!(append(&log, 1, 100).await.unwrap(), 2..3);
    log.close().await.unwrap();
    assert_eq!(read(dir.path(), 0).unwrap().len(), 2);
}

/// The same with a real file system that is full.
#[tokio::test]
async fn a_full_tmpfs_refuses_and_the_log_recovers_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| std::process::Command::new(args[0]).args(&args[1..]).arg(dir.path()).status();
    let mounted = mount(&["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs"]);
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: mounting a tmpfs needs root and CAP_SYS_ADMIN");
        return;
    }
    let result = fill_and_free(&dir.path().join("log"), &dir.path().join("ballast")).await;
    mount(&["umount"]).unwrap();
    let (acked, read) = result.unwrap();
    assert!(acked > 10, "{acked}");
    assert_eq!(read, acked);
}

async fn fill_and_free(dir: &Path, ballast: &Path) -> Result<(u64, u64), LogError> {
    let config = LogConfig {
        segment_bytes_max: 64 << 10,
        preallocate_bytes: 16 << 10,
        frame_bytes_max: 8 << 10,
        ..LogConfig::default()
    };
    fs::write(ballast, vec![1; 128 << 10]).unwrap();
    let (log, _) = Log::open(dir, config.clone())?;
    let mut acked = 0;
    let full = loop {
        match append(&log, 1, 4096).await {
            Ok(_) => acked += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, LogError::NoSpace { .. }), "{full}");
    assert!(matches!(append(&log, 1, 4096).await, Err(LogError::NoSpace { .. })));
    fs::remove_file(ballast).unwrap();
    for _ in 0..10 {
        append(&log, 1, 4096).await?;
        acked += 1;
    }
    log.close().await?;
    let (log, recovery) = Log::open(dir, config)?;
    log.close().await?;
    Ok((acked, recovery.frames))
}

#[tokio::test]
async fn no_sync_and_early_acks_are_what_they_say() {
    let dir = tempfile::tempdir().unwrap();
    let early = LogConfig { durability: Durability::AckBeforeWrite, ..small() };
    let (log, _) = Log::open(dir.path(), early).unwrap();
    assert_eq!(append(&log, 1, 20).await.unwrap(), 0..1);
    assert_eq!(log.append(vec![payload(1, 20)]).await.unwrap(), 1..2);
    log.close().await.unwrap();
    assert_eq!(read(dir.path(), 0).unwrap().len(), 2, "a clean close still writes");
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let unsynced = LogConfig { durability: Durability::NoSync, ..small() };
    let (log, _) = open_with(dir.path(), unsynced, &faults).unwrap();
    append(&log, 1, 20).await.unwrap();
    assert_eq!(faults.unsynced(&segments(dir.path())[0]), [(64, 44)]);
}
