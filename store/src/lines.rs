//! Files of lines that only grow: what was appended is synced before the call returns.
//!
//! Invariants
//! - a line is whole or not there: a torn end, which nobody was told is there, is cut off when the file is opened
//! - files have mode 0600; a file is renamed only after its contents are synced
//!
//! Not here: who may append (one process at a time), what the lines say.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::{StoreError, durable};

/// A file of lines, open at its end.
#[derive(Debug)]
pub struct Lines {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Lines {
    /// Opens the file, making it where there is none.
    pub fn open(path: &Path) -> Result<Lines, StoreError> {
        let is_new = !path.exists();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(StoreError::io("open", path))?;
        if is_new {
            durable::sync_files_below(path.parent().unwrap_or(path), [path])?;
        }
        let bytes = whole_bytes(&mut file).map_err(StoreError::io("read", path))?;
        file.set_len(bytes).map_err(StoreError::io("cut", path))?;
        file.seek(SeekFrom::End(0)).map_err(StoreError::io("read", path))?;
        Ok(Lines { file, path: path.to_path_buf(), bytes })
    }

    /// Appends lines and syncs them. After an error the file is as it was before, or cannot be used any more.
    pub fn append(&mut self, lines: &[u8]) -> Result<(), StoreError> {
        let written = self.file.write_all(lines).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // What was not promised is taken back; if that fails too, the next opening cuts a torn end.
            let undone = self.file.set_len(self.bytes).and_then(|()| self.file.seek(SeekFrom::End(0)));
            drop(undone);
            return Err(StoreError::Io { step: "append to", path: self.path.clone(), source });
        }
        self.bytes += lines.len() as u64;
        Ok(())
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Renames the file, which is not appended to any more.
    pub fn close_as(self, path: &Path) -> Result<(), StoreError> {
        self.file.sync_all().map_err(StoreError::io("sync", &self.path))?;
        Ok(durable::rename(&self.path, path)?)
    }
}

/// Bytes up to and including the last line feed.
fn whole_bytes(file: &mut File) -> io::Result<u64> {
    const PART: u64 = 64 * 1024;
    let mut end = file.metadata()?.len();
    let mut part = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(PART);
        file.seek(SeekFrom::Start(start))?;
        part.clear();
        Read::by_ref(file).take(end - start).read_to_end(&mut part)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_torn_end_is_cut_and_whole_lines_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        let mut lines = Lines::open(&path).unwrap();
        lines.append(b"one\ntwo\n").unwrap();
        drop(lines);
        fs::write(&path, [b"one\ntwo\n".as_slice(), &vec![b'x'; 200_000]].concat()).unwrap();
        let mut lines = Lines::open(&path).unwrap();
        assert_eq!(lines.bytes(), 8);
        lines.append(b"three\n").unwrap();
        let to = dir.path().join("done");
        lines.close_as(&to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"one\ntwo\nthree\n");
        assert!(!path.exists());
        fs::write(&path, b"never ended").unwrap();
        assert_eq!(Lines::open(&path).unwrap().bytes(), 0);
    }
}
