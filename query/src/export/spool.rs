//! What an export prepares before its first byte goes out: files without a name, with length and digest.
//!
//! Invariants
//! - a spool has no name on disk, so a crash leaves nothing behind and nobody else reads it
//! - it lies in the data directory, where evidence may lie, or, where that cannot be written, in the system's folder for
//!   temporary files
//! - what is written is counted and hashed on the way

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

/// A file in the making.
#[derive(Debug)]
pub(super) struct Spool {
    file: BufWriter<File>,
    digest: Sha256,
    bytes: u64,
}

/// A whole one, to be read from its beginning.
#[derive(Debug)]
pub(super) struct Spooled {
    file: File,
    /// Its length.
    pub(super) bytes: u64,
    /// SHA-256, hex.
    pub(super) sha256: String,
}

impl Spool {
    /// An empty one.
    pub(super) fn new(data_dir: &Path) -> io::Result<Spool> {
        let file = tempfile::tempfile_in(data_dir).or_else(|_| tempfile::tempfile())?;
        Ok(Spool { file: BufWriter::with_capacity(64 << 10, file), digest: Sha256::new(), bytes: 0 })
    }

    /// One with this content.
    pub(super) fn of(data_dir: &Path, content: &str) -> io::Result<Spooled> {
        let mut spool = Spool::new(data_dir)?;
        spool.write_all(content.as_bytes())?;
        spool.finish()
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends it.
    pub(super) fn finish(self) -> io::Result<Spooled> {
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(Spooled { file, bytes: self.bytes, sha256: hex::encode(self.digest.finalize()) })
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Read for Spooled {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}
