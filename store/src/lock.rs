//! Locks on files, which say that a process is at work: they go with the returned file, also when the process is killed.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use crate::durable::DurableError;

/// Locks the file at `path`, which is made where there is none; `None` while another process holds it.
///
/// # Errors
/// When it cannot be opened or locked.
pub fn try_lock(path: &Path) -> Result<Option<File>, DurableError> {
    let failed = |step| move |source| DurableError { step, path: path.into(), source };
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(failed("open"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(failed("lock")(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = try_lock(&path).unwrap();
        assert!(held.is_some());
        assert!(try_lock(&path).unwrap().is_none());
        drop(held);
        assert!(try_lock(&path).unwrap().is_some());
        assert!(try_lock(&dir.path().join("none/lock")).is_err());
    }
}
