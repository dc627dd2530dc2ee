//! Makes files and directory entries survive a power cut.
//!
//! Invariants
//! - when a function here returns `Ok`, what it names is on the disk: contents, length and the directory entry
//! - directories are created with mode 0700 and files with 0600
//! - a file written by [`write_atomic`] is either the old one or the new one after a crash, never a mixture
//!
//! Why it exists: neither the object store's local file system nor the Delta commit ever calls `fsync`.
//!
//! Not here: deciding when something must be durable (the log and the sealer do), retrying. A failed sync is never
//! retried on the same descriptor, because the kernel may already have dropped the pages it could not write.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// A step towards durability that failed, and the path it failed on.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}", path.display())]
pub struct DurableError {
    /// What was being done: `create`, `write`, `sync`, `rename` or `remove`.
    pub step: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What the operating system said.
    #[source]
    pub source: io::Error,
}

/// Names the step and the path that an I/O error belongs to.
fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DurableError {
    let path = path.to_path_buf();
    move |source| DurableError { step, path, source }
}

/// Syncs the contents and the metadata of one file.
pub fn sync_file(path: &Path) -> Result<(), DurableError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(failed("sync", path))
}

/// Syncs one directory, so that entries created, renamed or removed in it stay so.
pub fn sync_dir(path: &Path) -> Result<(), DurableError> {
    sync_file(path)
}

/// Syncs `files`, then every directory that leads to them, up to and including `root`.
///
/// Call it after files were written below `root` by somebody who does not sync. Each directory is synced once, the
/// deepest first, so that a crash in between leaves entries only in directories that are themselves reachable or not
/// there at all.
pub fn sync_files_below<'a>(root: &Path, files: impl IntoIterator<Item = &'a Path>) -> Result<(), DurableError> {
    let mut directories = BTreeSet::new();
    for file in files {
        sync_file(file)?;
        for directory in file.ancestors().skip(1) {
            if !directory.starts_with(root) || !directories.insert(directory.to_path_buf()) {
                break;
            }
        }
    }
    // A child sorts after its parent, so the reverse order is deepest first.
    directories.iter().rev().try_for_each(|d| sync_dir(d))
}

/// Creates `path` and its missing parents with mode 0700, each made durable in its parent.
pub fn create_dirs(path: &Path) -> Result<(), DurableError> {
    let missing: Vec<&Path> = path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.is_dir()).collect();
    for directory in missing.into_iter().rev() {
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => {}
            // Another process of the same data directory was faster.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
            Err(e) => return Err(failed("create", directory)(e)),
        }
        sync_dir(parent(directory))?;
    }
    Ok(())
}

/// Writes a small file so that a crash leaves the old contents or the new ones.
pub fn write_atomic(path: &Path, contents: &[u8]) -> Result<(), DurableError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed("create", &temporary))?;
    file.write_all(contents).map_err(failed("write", &temporary))?;
    file.sync_all().map_err(failed("sync", &temporary))?;
    // A crash here leaves the temporary file beside the old one; the next write replaces it.
    rename(&temporary, path)
}

/// Renames within one directory and makes that durable. An existing `to` is replaced.
pub fn rename(from: &Path, to: &Path) -> Result<(), DurableError> {
    fs::rename(from, to).map_err(failed("rename", from))?;
    sync_dir(parent(to))
}

/// Removes a file durably. A file that is already gone is fine.
pub fn remove_file(path: &Path) -> Result<(), DurableError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(e)),
        _ => sync_dir(parent(path)),
    }
}

/// The directory that holds the entry of `path`.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn directories_and_files_are_private() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b/c");
        create_dirs(&deep).unwrap();
        create_dirs(&deep).unwrap();
        write_atomic(&deep.join("f"), b"1").unwrap();
        assert_eq!(mode(&root.path().join("a")), 0o700);
        assert_eq!(mode(&deep), 0o700);
        assert_eq!(mode(&deep.join("f")), 0o600);
    }

    #[test]
    fn an_atomic_write_replaces_and_leaves_nothing_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("mark");
        write_atomic(&file, b"a longer first version").unwrap();
        write_atomic(&file, b"2").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"2");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        remove_file(&file).unwrap();
        remove_file(&file).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn syncing_names_the_path_that_is_missing() {
        let root = tempfile::tempdir().unwrap();
        let there = root.path().join("d/there");
        create_dirs(&root.path().join("d")).unwrap();
        fs::write(&there, b"x").unwrap();
        sync_files_below(root.path(), [there.as_path()]).unwrap();
        let gone = root.path().join("d/gone");
        let error = sync_files_below(root.path(), [there.as_path(), gone.as_path()]).unwrap_err();
        assert_eq!((error.step, error.path), ("sync", gone));
    }
}
