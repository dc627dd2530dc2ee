//! Looks at the followed files, again and again.
//!
//! A look either walks the folders, or asks the files that changed lately for their size. A file that is not where it was
//! makes the look a walk: it was renamed, and something else may have its name.

use std::{
    collections::{BTreeMap, HashMap},
    fs, mem,
    path::PathBuf,
};

use tracing::{debug, warn};

use super::{
    Batch, Position, Round, Start, WatchOptions,
    file::{Followed, continues},
    walk::{Found, Inode, walk},
};

/// A file that this many walks in a row did not find is gone, and not on its way from one folder to another.
const WALKS_UNTIL_REMOVED: u32 = 3;

/// A file with nothing new in this many walks is asked only by walks.
const WALKS_UNTIL_IDLE: u32 = 60;

#[derive(Debug)]
pub(super) struct Rounds {
    roots: Vec<PathBuf>,
    options: WatchOptions,
    followed: BTreeMap<Inode, Followed>,
    /// Positions of earlier runs whose files were not found yet.
    positions: HashMap<Inode, Position>,
    /// The names in `positions`.
    names: HashMap<String, Inode>,
    /// Looks since the last walk; `None` before the first.
    since_walk: Option<u32>,
    /// Where the last look stopped for its bound.
    resume_at: Option<Inode>,
    left_out: usize,
}

impl Rounds {
    pub(super) fn new(roots: Vec<PathBuf>, mut options: WatchOptions) -> Self {
        // A look that may read nothing would never end.
        options.batch_bytes_max = options.batch_bytes_max.max(1);
        let positions: HashMap<Inode, Position> =
            mem::take(&mut options.positions).into_iter().map(|position| (inode_of(&position), position)).collect();
        let names = positions.iter().map(|(inode, position)| (position.path.clone(), *inode)).collect();
        let followed = BTreeMap::new();
        Self { roots, options, followed, positions, names, since_walk: None, resume_at: None, left_out: 0 }
    }

    pub(super) fn look(&mut self) -> Round {
        let mut batches = Vec::new();
        let is_walk_due = self.since_walk.is_none_or(|looks| looks + 1 >= self.options.rounds_per_walk);
        let sizes = if is_walk_due { None } else { self.ask() };
        let sizes = sizes.unwrap_or_else(|| self.walk(&mut batches));
        let has_more = self.read(&sizes, &mut batches);
        Round { batches, has_more }
    }

    /// Sizes of the files that changed lately; `None` if one is not where it was.
    fn ask(&mut self) -> Option<HashMap<Inode, u64>> {
        self.since_walk = self.since_walk.map(|looks| looks + 1);
        let lately = self.followed.values().filter(|file| file.walks_idle < WALKS_UNTIL_IDLE && file.walks_missed == 0);
        lately
            .map(|file| {
                let metadata = fs::metadata(&file.path).ok()?;
                (Inode::of(&metadata) == file.inode).then_some((file.inode, metadata.len()))
            })
            .collect()
    }

    /// Sizes of all files, after new ones were taken in and lost ones let go.
    fn walk(&mut self, batches: &mut Vec<Batch>) -> HashMap<Inode, u64> {
        let (found, is_complete) = walk(&self.roots, &self.options.extension);
        self.followed.retain(|inode, file| {
            // One that has another name now, and turned out to be another file, stays missed.
            let found = found.get(inode).filter(|found| found.is_wanted || file.is_wanted || file.walks_missed == 0);
            if let Some(found) = found {
                file.path.clone_from(&found.path);
                file.is_wanted = found.is_wanted;
                file.walks_missed = 0;
                file.walks_idle = if file.is_due(found.size) { 0 } else { file.walks_idle.saturating_add(1) };
            } else if is_complete {
                file.walks_missed += 1;
            }
            let is_gone = file.walks_missed >= WALKS_UNTIL_REMOVED;
            if is_gone {
                debug!(path = %file.path.display(), "file is gone");
                batches.extend(file.removed());
            }
            !is_gone
        });
        self.take_in(&found);
        self.since_walk = Some(0);
        found
            .into_iter()
            .filter(|(inode, _)| self.followed.contains_key(inode))
            .map(|(i, found)| (i, found.size))
            .collect()
    }

    /// Begins to follow files that were found for the first time.
    fn take_in(&mut self, found: &HashMap<Inode, Found>) {
        let mut new: Vec<(Inode, &Found, Option<Position>)> = found
            .iter()
            .filter(|(inode, _)| !self.followed.contains_key(inode))
            .map(|(inode, file)| (*inode, file, None))
            .collect();
        new.sort_by_key(|(_, file, _)| &file.path);
        self.assign_positions(&mut new);
        new.retain(|(_, file, position)| file.is_wanted || position.is_some());
        let room = self.options.files_max.saturating_sub(self.followed.len());
        let left_out = new.len().saturating_sub(room);
        if left_out > self.left_out {
            warn!(left_out, files_max = self.options.files_max, "more files than may be followed");
        }
        self.left_out = left_out;
        for (inode, file, position) in new.into_iter().take(room) {
            let mut followed = Followed::new(file.path.clone(), inode);
            followed.is_wanted = file.is_wanted;
            if let Some(position) = position {
                followed.resume(&position);
            } else if self.since_walk.is_none()
                && self.options.start == Start::End
                && let Err(error) = followed.skip_to_end()
            {
                warn!(path = %file.path.display(), %error, "cannot read");
                followed.has_failed = true;
            }
            self.followed.insert(inode, followed);
        }
    }

    /// Gives each position of an earlier run to the file it belongs to: the same file, else one that continues it under its
    /// name (copied back), else what has its name now (which then says that it was cut or replaced).
    fn assign_positions(&mut self, new: &mut [(Inode, &Found, Option<Position>)]) {
        for rule in [Rule::Same, Rule::ContinuesName, Rule::Name] {
            for (inode, file, given) in new.iter_mut().filter(|(_, _, given)| given.is_none()) {
                let candidate = match rule {
                    Rule::Same => Some(*inode),
                    Rule::ContinuesName | Rule::Name if file.is_wanted => {
                        self.names.get(&*file.path.to_string_lossy()).copied()
                    }
                    Rule::ContinuesName | Rule::Name => None,
                };
                let Some(candidate) = candidate else { continue };
                let belongs = |position: &Position| rule == Rule::Name || continues(&file.path, position);
                if self.positions.get(&candidate).is_some_and(belongs) {
                    *given = self.positions.remove(&candidate);
                }
            }
        }
    }

    /// Reads what is new, from where the last look stopped; whether there is more.
    fn read(&mut self, sizes: &HashMap<Inode, u64>, batches: &mut Vec<Batch>) -> bool {
        let due = |(inode, file): &(&Inode, &Followed)| sizes.get(inode).is_some_and(|size| file.is_due(*size));
        let mut inodes: Vec<Inode> = self.followed.iter().filter(due).map(|(inode, _)| *inode).collect();
        if let Some(resume_at) = self.resume_at.take() {
            let split = inodes.partition_point(|inode| *inode < resume_at);
            inodes.rotate_left(split);
        }
        let mut budget = self.options.round_bytes_max;
        let mut has_more = false;
        for inode in inodes {
            if budget == 0 {
                self.resume_at = Some(inode);
                return true;
            }
            let Some(file) = self.followed.get_mut(&inode) else { continue };
            match file.read(&self.options) {
                Ok((batch, more)) => {
                    file.has_failed = false;
                    has_more |= more;
                    let read: usize = batch.iter().flat_map(|batch| &batch.lines).map(|line| line.len() + 1).sum();
                    budget = budget.saturating_sub(read);
                    batches.extend(batch);
                }
                Err(error) => {
                    if !mem::replace(&mut file.has_failed, true) {
                        warn!(path = %file.path.display(), %error, "cannot read");
                    }
                }
            }
        }
        has_more
    }
}

/// How a position finds its file, surest first.
#[derive(Clone, Copy, PartialEq)]
enum Rule {
    Same,
    ContinuesName,
    Name,
}

fn inode_of(position: &Position) -> Inode {
    Inode { device: position.device, inode: position.inode, born_unix_nano: position.born_unix_nano }
}
