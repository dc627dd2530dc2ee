//! Random histories against a simple model: appends (alone and together), failing disk operations, power cuts that lose
//! or tear what was not synced, trims, reopenings.
//!
//! The model: a list of acknowledged frames, and the batches whose outcome is unknown. After every step, what can be
//! read is exactly the acknowledged frames plus, after a crash, whole batches of unknown outcome, in offset order.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    tests::{Faults, How, memory_dir, open_with, payload, read, small},
    *,
};

#[derive(Debug, Clone)]
enum Action {
    /// Batches that are appended at the same time; each is a number of frames.
    Append(Vec<u8>, u8),
    /// One disk operation fails during this append.
    Fail(u64, u8, Vec<u8>),
    /// Close and open.
    Reopen,
    /// The power fails. Each unsynced sector survives or not, after the bits of this seed.
    PowerCut(u64),
    /// Trim below this share of what is there.
    Trim(u8),
}

fn action() -> impl Strategy<Value = Action> {
    let batches = prop::collection::vec(1..4_u8, 1..5);
    prop_oneof![
        6 => (batches.clone(), 10..120_u8).prop_map(|(b, bytes)| Action::Append(b, bytes)),
        3 => (0..7_u64, 0..3_u8, batches).prop_map(|(skip, how, b)| Action::Fail(skip, how, b)),
        1 => Just(Action::Reopen),
        3 => any::<u64>().prop_map(Action::PowerCut),
        1 => any::<u8>().prop_map(Action::Trim),
    ]
}

/// The log under test and what it must hold.
struct World {
    root: tempfile::TempDir,
    generation: u32,
    faults: Faults,
    log: Log,
    acked: BTreeMap<u64, Bytes>,
    /// Batches that were refused since the last opening.
    unknown: Vec<Vec<Bytes>>,
    written: u64,
    power_cuts_that_lost: u32,
}

impl World {
    fn new() -> World {
        let root = memory_dir();
        let faults = Faults::default();
        let (log, _) = open_with(&root.path().join("0"), small(), &faults).unwrap();
        World {
            root,
            generation: 0,
            faults,
            log,
            acked: BTreeMap::new(),
            unknown: Vec::new(),
            written: 0,
            power_cuts_that_lost: 0,
        }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join(self.generation.to_string())
    }

    async fn append(&mut self, batches: &[u8], bytes: usize) {
        let batches: Vec<Vec<Bytes>> = batches
            .iter()
            .map(|count| {
                let start = self.written;
                self.written += u64::from(*count);
                (start..self.written).map(|n| payload(n, bytes)).collect()
            })
            .collect();
        let appends = batches.iter().map(|batch| self.log.append(batch.clone()));
        let answers = futures::future::join_all(appends).await;
        for (batch, answer) in batches.into_iter().zip(answers) {
            match answer {
                Ok(range) => {
                    assert_eq!(range.end - range.start, batch.len() as u64);
                    for (offset, frame) in range.zip(batch) {
                        assert_eq!(self.acked.insert(offset, frame), None, "offset {offset} given out twice");
                    }
                }
                Err(error) => {
                    assert!(error.is_retryable(), "{error}");
                    self.unknown.push(batch);
                }
            }
        }
        let seen: BTreeMap<_, _> = self.log.frames(self.first()).map(Result::unwrap).collect();
        assert_eq!(seen, self.acked);
    }

    fn first(&self) -> u64 {
        self.acked.keys().next().copied().unwrap_or(self.log.next_offset())
    }

    /// Opens the log in the current directory and takes over what has survived.
    fn open(&mut self) {
        self.faults = Faults::default();
        let (log, recovery) = open_with(&self.dir(), small(), &self.faults).unwrap();
        self.log = log;
        let survived: BTreeMap<_, _> = read(&self.dir(), recovery.first_offset).unwrap().into_iter().collect();
        let extra: Vec<&Bytes> = survived
            .iter()
            .filter(|(offset, frame)| self.acked.get(offset) != Some(frame))
            .map(|(_, frame)| frame)
            .collect();
        assert_eq!(survived.len() - extra.len(), self.acked.len(), "an acknowledged frame is gone");
        // What is there beyond that are whole batches that had been refused.
        let mut rest = extra.as_slice();
        while let Some(frame) = rest.first() {
            let batch = self.unknown.iter().find(|batch| batch[0] == *frame);
            let batch = batch.unwrap_or_else(|| panic!("a frame that was never sent"));
            assert!(rest.len() >= batch.len() && rest.iter().zip(batch).all(|(a, b)| *a == b), "half a batch");
            rest = &rest[batch.len()..];
        }
        assert!(survived.keys().all(|offset| *offset < recovery.next_offset));
        self.acked = survived;
        self.unknown.clear();
    }

    async fn reopen(&mut self) {
        // A close that fails leaves a log that a crash could have left, too.
        drop(self.log.close().await);
        self.open();
    }

    /// Copies the log as a power cut could leave it, and goes on with the copy.
    async fn power_cut(&mut self, mut seed: u64) {
        let old = self.dir();
        self.generation += 1;
        fs::create_dir(self.dir()).unwrap();
        for entry in fs::read_dir(&old).unwrap() {
            let from = entry.unwrap().path();
            let to = self.dir().join(from.file_name().unwrap());
            fs::copy(&from, &to).unwrap();
            let file = fs::OpenOptions::new().write(true).open(&to).unwrap();
            for (at, bytes) in self.faults.unsynced(&from) {
                self.power_cuts_that_lost += 1;
                // Small sectors, so that the small frames of this test are torn in the middle.
                for sector in (at..at + bytes).step_by(32) {
                    seed = seed.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    let end = (sector + 32).min(at + bytes);
                    match seed % 4 {
                        0 | 1 => {}
                        2 => file.write_all_at(&vec![0; (end - sector) as usize], sector).unwrap(),
                        _ => file.write_all_at(&vec![0xa5; (end - sector) as usize], sector).unwrap(),
                    }
                }
            }
        }
        // The old process must not see the cut; it only has to let go of its thread.
        drop(self.log.close().await);
        self.open();
    }

    async fn trim(&mut self, share: u8) {
        let (first, next) = (self.first(), self.log.next_offset());
        let below = first + (next - first) * u64::from(share) / 255;
        self.log.trim(below).await.unwrap();
        let lowest = segment_firsts(&self.dir()).first().copied().unwrap_or(0);
        assert!(lowest <= below);
        self.acked.retain(|offset, _| *offset >= lowest);
    }
}

fn segment_firsts(dir: &Path) -> Vec<u64> {
    segment::list_segments(dir).unwrap()
}

async fn run(actions: &[Action]) -> u32 {
    let mut world = World::new();
    for action in actions {
        match action {
            Action::Append(batches, bytes) => world.append(batches, usize::from(*bytes)).await,
            Action::Fail(skip, how, batches) => {
                let how = [How::Before, How::After, How::Half][usize::from(*how)];
                world.faults.fail(*skip, how);
                world.append(batches, 50).await;
                // Not met by this append: let it not meet a trim, whose error is another story.
                world.faults.fail(u64::MAX >> 1, How::Before);
            }
            Action::Reopen => world.reopen().await,
            Action::PowerCut(seed) => world.power_cut(*seed).await,
            Action::Trim(share) => world.trim(*share).await,
        }
    }
    world.reopen().await;
    world.power_cuts_that_lost
}

/// A few seconds' worth, or what `PROPTEST_CASES` says.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(96)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_histories_keep_what_was_acknowledged(actions in prop::collection::vec(action(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(&actions));
    }
}

/// Found by the histories: a group that failed before its first byte made two segments of the same name, and trimming
/// the first removed the second.
#[test]
fn a_group_that_fails_in_an_empty_segment_leaves_it_in_use() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for skip in 0..8 {
        let actions = [Action::Fail(skip, 0, vec![2, 2, 2, 1]), Action::Trim(125)];
        runtime.block_on(run(&actions));
    }
}

/// The generator really reaches the case it is for: a cut right after a write whose sync failed.
#[test]
fn the_generator_reaches_torn_writes() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut runner = TestRunner::deterministic();
    let strategy = prop::collection::vec(action(), 24);
    let torn: u32 = (0..24).map(|_| runtime.block_on(run(&strategy.new_tree(&mut runner).unwrap().current()))).sum();
    assert!(torn >= 5, "only {torn}");
}
