//! One followed file: what is new in it.
//!
//! Only offsets are held between looks, never bytes: an unfinished line is read again when its line feed has come.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{Batch, Interruption, InterruptionKind, Oversized, Position, WatchOptions, walk::Inode};

/// How much of a file's beginning tells it from others.
const PREFIX_BYTES_MAX: u64 = 1024;

/// A file and how far it was read.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) path: PathBuf,
    pub(super) inode: Inode,
    /// Where the first unfinished line starts.
    offset: u64,
    /// Lines before it.
    line: u64,
    /// Bytes from `offset` on that hold no line feed.
    scanned: u64,
    /// The largest size that was seen.
    pub(super) size_seen: u64,
    prefix_length: u64,
    prefix_sha256: String,
    interruption: Option<Interruption>,
    /// Called as what is followed; a file that is not must still be the one that was.
    pub(super) is_wanted: bool,
    /// Walks in a row that did not find it.
    pub(super) walks_missed: u32,
    /// Walks in a row that found nothing new in it.
    pub(super) walks_idle: u32,
    /// The last look at it failed, which was told.
    pub(super) has_failed: bool,
}

impl Followed {
    pub(super) fn new(path: PathBuf, inode: Inode) -> Self {
        Self {
            path,
            inode,
            offset: 0,
            line: 0,
            scanned: 0,
            size_seen: 0,
            prefix_length: 0,
            prefix_sha256: digest(b""),
            interruption: None,
            is_wanted: true,
            walks_missed: 0,
            walks_idle: 0,
            has_failed: false,
        }
    }

    /// Goes on where an earlier run stopped. What is at `position` now is checked when the file is read.
    pub(super) fn resume(&mut self, position: &Position) {
        self.offset = position.offset;
        self.line = position.line;
        self.prefix_length = position.prefix_length.min(PREFIX_BYTES_MAX);
        self.prefix_sha256.clone_from(&position.prefix_sha256);
    }

    /// Passes over everything that is there, counting its lines; an unfinished last line is still to come.
    pub(super) fn skip_to_end(&mut self) -> io::Result<()> {
        let file = File::open(&self.path)?;
        let mut chunk = vec![0; 256 << 10];
        let mut at = 0;
        loop {
            let read = read_at(&file, &mut chunk, at)?;
            if read == 0 {
                return self.remember_prefix(&file);
            }
            self.line += memchr::memchr_iter(b'\n', &chunk[..read]).count() as u64;
            if let Some(last) = memchr::memrchr(b'\n', &chunk[..read]) {
                self.offset = at + last as u64 + 1;
            }
            at += read as u64;
        }
    }

    /// Whether a file of this size may hold something new.
    pub(super) fn is_due(&self, size: u64) -> bool {
        size != self.offset + self.scanned
    }

    /// Bytes that were seen but not given out as lines.
    pub(super) fn unread_bytes(&self) -> u64 {
        self.size_seen.saturating_sub(self.offset)
    }

    /// What is new, at most `batch_bytes_max` of it beside one long line, and whether there is more.
    pub(super) fn read(&mut self, options: &WatchOptions) -> io::Result<(Option<Batch>, bool)> {
        let file = File::open(&self.path)?;
        let metadata = file.metadata()?;
        if Inode::of(&metadata) != self.inode {
            // Renamed since it was found; the next walk finds it again.
            return Ok((None, false));
        }
        let interruption = self.interruption_of(&file, metadata.len())?;
        if interruption.is_some() && !self.is_wanted {
            // Not what was followed, and not to be read: for us it is gone.
            self.walks_missed = self.walks_missed.max(1);
            return Ok((None, false));
        }
        if let Some(kind) = interruption {
            self.start_over(kind);
        }
        self.scanned = self.scanned.min(metadata.len() - self.offset);
        self.size_seen = metadata.len();
        let mut budget = options.batch_bytes_max;
        while budget > 0 && self.size_seen > self.offset + self.scanned {
            let start = self.offset + self.scanned;
            let wanted = usize::try_from(self.size_seen - start).unwrap_or(usize::MAX).min(budget);
            let mut window = vec![0; wanted];
            let read = read_at(&file, &mut window, start)?;
            window.truncate(read);
            if read == 0 {
                break;
            }
            budget -= read;
            if let Some(last) = memchr::memrchr(b'\n', &window) {
                let batch = self.batch(&file, window, last, options)?;
                return Ok((batch, self.size_seen > self.offset + self.scanned));
            }
            self.scanned += read as u64;
        }
        Ok((None, budget == 0 && self.size_seen > self.offset + self.scanned))
    }

    /// A batch for a file that is gone, if anything in it was not read.
    pub(super) fn removed(&mut self) -> Option<Batch> {
        let unread_bytes = self.unread_bytes();
        self.interruption = Some(Interruption { kind: InterruptionKind::Removed, unread_bytes });
        (unread_bytes > 0).then(|| Batch {
            path: self.path.clone(),
            start_line: self.line + 1,
            start_offset: self.offset,
            lines: Vec::new(),
            oversized: None,
            interruption: self.interruption.take(),
            position: self.position(),
        })
    }

    /// The lines that end within `window`, the last of them at `last`; fewer if one is too long and not the first.
    fn batch(
        &mut self,
        file: &File,
        window: Vec<u8>,
        last: usize,
        options: &WatchOptions,
    ) -> io::Result<Option<Batch>> {
        let window = Bytes::from(window);
        let too_long = |length: u64| length > options.line_bytes_max as u64;
        let mut oversized = None;
        let mut lines = Vec::new();
        let mut first = (self.line + 1, self.offset);
        let mut at = 0;
        for newline in memchr::memchr_iter(b'\n', &window[..=last]) {
            let tail = window.slice(at..newline);
            let length = self.scanned + tail.len() as u64;
            if too_long(length) && (oversized.is_some() || !lines.is_empty()) {
                // It opens the next batch.
                break;
            }
            if too_long(length) {
                oversized = Some(Oversized { line: self.line + 1, offset: self.offset, length });
                first = (self.line + 2, self.offset + length + 1);
            } else if self.scanned > 0 {
                let Some(whole) = self.join(file, &tail)? else { return Ok(None) };
                lines.push(whole);
            } else {
                lines.push(tail);
            }
            at = newline + 1;
            self.line += 1;
            self.offset += length + 1;
            self.scanned = 0;
        }
        self.remember_prefix(file)?;
        Ok(Some(Batch {
            path: self.path.clone(),
            start_line: first.0,
            start_offset: first.1,
            lines,
            oversized,
            interruption: self.interruption.take(),
            position: self.position(),
        }))
    }

    /// The line whose beginning was scanned by earlier looks; `None` if other bytes stand there now.
    fn join(&mut self, file: &File, tail: &[u8]) -> io::Result<Option<Bytes>> {
        let mut whole = vec![0; usize::try_from(self.scanned).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut whole, self.offset)?;
        if memchr::memchr(b'\n', &whole).is_some() {
            self.scanned = 0;
            return Ok(None);
        }
        whole.extend_from_slice(tail);
        Ok(Some(whole.into()))
    }

    /// What happened to the file: it is shorter than what was read of it, or does not begin as it did.
    fn interruption_of(&self, file: &File, size: u64) -> io::Result<Option<InterruptionKind>> {
        Ok(match size < self.offset {
            true => Some(InterruptionKind::Truncated),
            false if self.begins_as_before(file)? => None,
            false => Some(InterruptionKind::Replaced),
        })
    }

    fn start_over(&mut self, kind: InterruptionKind) {
        let earlier = self.interruption.map_or(0, |interruption| interruption.unread_bytes);
        let interruption = Interruption { kind, unread_bytes: earlier + self.unread_bytes() };
        let path = std::mem::take(&mut self.path);
        *self = Self { interruption: Some(interruption), ..Self::new(path, self.inode) };
    }

    fn begins_as_before(&self, file: &File) -> io::Result<bool> {
        begins_as(file, self.prefix_length, &self.prefix_sha256, self.offset)
    }

    fn remember_prefix(&mut self, file: &File) -> io::Result<()> {
        let length = self.offset.min(PREFIX_BYTES_MAX);
        if length > self.prefix_length {
            let mut prefix = vec![0; usize::try_from(length).unwrap_or(0)];
            file.read_exact_at(&mut prefix, 0)?;
            self.prefix_length = length;
            self.prefix_sha256 = digest(&prefix);
        }
        Ok(())
    }

    fn position(&self) -> Position {
        Position {
            path: self.path.to_string_lossy().into_owned(),
            device: self.inode.device,
            inode: self.inode.inode,
            born_unix_nano: self.inode.born_unix_nano,
            offset: self.offset,
            line: self.line,
            prefix_length: self.prefix_length,
            prefix_sha256: self.prefix_sha256.clone(),
        }
    }
}

/// Whether the file at `path` still holds what was read up to `position`, as far as can be told.
pub(super) fn continues(path: &Path, position: &Position) -> bool {
    File::open(path)
        .and_then(|file| begins_as(&file, position.prefix_length, &position.prefix_sha256, position.offset))
        .unwrap_or(false)
}

fn begins_as(file: &File, prefix_length: u64, prefix_sha256: &str, offset: u64) -> io::Result<bool> {
    let mut prefix = vec![0; usize::try_from(prefix_length.min(PREFIX_BYTES_MAX)).unwrap_or(0)];
    let read = read_at(file, &mut prefix, 0)?;
    if read < prefix.len() || digest(&prefix) != prefix_sha256 {
        return Ok(false);
    }
    let Some(last) = offset.checked_sub(1) else { return Ok(true) };
    let mut before = [0];
    Ok(read_at(file, &mut before, last)? == 1 && before == [b'\n'])
}

/// Fills the buffer as far as the file goes.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
