//! Finds the files in the folders.
//!
//! Invariants
//! - links are followed only where named themselves, so a walk ends
//! - at most `ENTRIES_MAX` entries are looked at, `DEPTH_MAX` folders deep

use std::{
    collections::HashMap,
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

const ENTRIES_MAX: usize = 200_000;
const DEPTH_MAX: usize = 24;

/// What a file is known by while it exists. Inodes are given again at once on some file systems, so the time of birth is
/// part of it; 0 where the file system does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Inode {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) born_unix_nano: i64,
}

impl Inode {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let born = metadata.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        let born_unix_nano = born.and_then(|born| i64::try_from(born.as_nanos()).ok()).unwrap_or(0);
        Self { device: metadata.dev(), inode: metadata.ino(), born_unix_nano }
    }
}

/// A file that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    /// Named as those that are followed; others are kept because a followed file may have been renamed to that.
    pub(super) is_wanted: bool,
}

/// All files below `roots`, and whether that is all of them.
pub(super) fn walk(roots: &[PathBuf], extension: &str) -> (HashMap<Inode, Found>, bool) {
    let mut found = HashMap::new();
    let mut left = ENTRIES_MAX;
    for root in roots {
        match fs::metadata(root) {
            Ok(metadata) if metadata.is_dir() => walk_folder(root, extension, 0, &mut left, &mut found),
            Ok(metadata) if metadata.is_file() => {
                add(root, &metadata, true, &mut found);
                // Where a file itself is named, what it is renamed to stands beside it.
                if let Some(folder) = root.parent() {
                    walk_folder(folder, "", DEPTH_MAX, &mut left, &mut found);
                }
            }
            _ => {}
        }
    }
    (found, left > 0)
}

fn walk_folder(folder: &Path, extension: &str, depth: usize, left: &mut usize, found: &mut HashMap<Inode, Found>) {
    // A folder that cannot be read, or is gone by now, holds nothing for us.
    let Ok(entries) = fs::read_dir(if folder.as_os_str().is_empty() { Path::new(".") } else { folder }) else { return };
    for entry in entries.flatten() {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let path = folder.join(entry.file_name());
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth < DEPTH_MAX {
            walk_folder(&path, extension, depth + 1, left, found);
        } else if kind.is_file()
            && let Ok(metadata) = entry.metadata()
        {
            let is_wanted = !extension.is_empty() && path.extension().is_some_and(|found| found == extension);
            add(&path, &metadata, is_wanted, found);
        }
    }
}

/// Hard links are one file; a wanted name goes before another.
fn add(path: &Path, metadata: &Metadata, is_wanted: bool, found: &mut HashMap<Inode, Found>) {
    let file = || Found { path: path.into(), size: metadata.len(), is_wanted };
    let known = found.entry(Inode::of(metadata)).or_insert_with(file);
    if is_wanted && !known.is_wanted {
        *known = file();
    }
}
