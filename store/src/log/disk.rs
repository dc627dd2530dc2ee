//! The few operations through which the writer changes the disk: the seam where tests make them fail.
//!
//! Invariants
//! - outside tests this is a thin layer over `std::fs` and `rustix`, without state
//! - a failing operation may have happened all the same; callers must assume either

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::{FallocateFlags, fallocate};

/// An operation that can fail, for the tests that make it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Create a file.
    Create,
    /// Claim space.
    Allocate,
    /// Write bytes.
    Write,
    /// Sync a file.
    Sync,
    /// Cut a file.
    Truncate,
    /// Rename a file.
    Rename,
    /// Sync a directory.
    SyncDir,
    /// Remove a file.
    Remove,
}

/// The disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    #[cfg(test)]
    pub(super) faults: super::tests::Faults,
}

impl Disk {
    /// Runs one operation; a test may make it fail before or after it happened.
    #[cfg(not(test))]
    fn run<T>(&self, _: Step, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        operation()
    }

    #[cfg(test)]
    fn run<T>(&self, step: Step, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.faults.run(step, operation)
    }

    /// Creates `path`, replacing what an interrupted creation left there.
    pub(super) fn create(&self, path: &Path) -> io::Result<File> {
        self.run(Step::Create, || {
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
        })
    }

    /// Claims the bytes `from..to` of a file and extends it to `to`; they read as zeros.
    pub(super) fn allocate(&self, file: &File, from: u64, to: u64) -> io::Result<()> {
        self.run(Step::Allocate, || {
            loop {
                match fallocate(file, FallocateFlags::empty(), from, to - from) {
                    Err(rustix::io::Errno::INTR) => {}
                    // The file system cannot; writes will extend the file, which costs time but nothing else.
                    Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => return Ok(()),
                    other => return other.map_err(io::Error::from),
                }
            }
        })
    }

    /// Writes all of `bytes` at `at`.
    pub(super) fn write(&self, path: &Path, file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        let bytes = self.faults.shorten(path, at, bytes);
        #[cfg(not(test))]
        let _ = path;
        self.run(Step::Write, || file.write_all_at(bytes, at))
    }

    /// Syncs a file's data, and of its metadata what is needed to read them.
    pub(super) fn sync(&self, path: &Path, file: &File) -> io::Result<()> {
        self.run(Step::Sync, || file.sync_data())?;
        #[cfg(test)]
        self.faults.synced(path);
        #[cfg(not(test))]
        let _ = path;
        Ok(())
    }

    /// Cuts a file to `bytes`.
    pub(super) fn truncate(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.run(Step::Truncate, || file.set_len(bytes))
    }

    /// Renames a file, replacing `to`.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run(Step::Rename, || fs::rename(from, to))
    }

    /// Syncs a directory.
    pub(super) fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.run(Step::SyncDir, || File::open(path)?.sync_all())
    }

    /// Removes a file; one that is gone is fine.
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        self.run(Step::Remove, || match fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        })
    }
}
