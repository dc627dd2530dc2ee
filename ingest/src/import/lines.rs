//! The lines of a file with the keys that name them, in bounded memory.
//!
//! Invariants
//! - the key of a line depends on the base name of the file and on every byte up to the end of the line, without its line
//!   feed: a file that grows, is copied or compressed keeps the keys of its lines
//! - of a line above the limit only the first [`LINE_BYTES_KEPT`], its length and its digest are held
//!
//! Not here: what lines mean.

use std::io::{self, BufRead};

use sha2::{Digest, Sha256};
use threadline_schemas::limits::arrival::LINE_BYTES_KEPT;

/// Names the lines of one file: `file:<base name>:<SHA-256 of the file up to the end of the line>`.
#[derive(Debug, Clone)]
pub struct LineKeys {
    base_name: String,
    prefix: Sha256,
    any: bool,
    first_line: Option<String>,
}

impl LineKeys {
    /// For a file of this base name, read from its beginning.
    pub fn new(base_name: &str) -> Self {
        LineKeys { base_name: base_name.into(), prefix: Sha256::new(), any: false, first_line: None }
    }

    /// The delivery key of the next line, given without its line feed.
    pub fn next(&mut self, line: &[u8]) -> String {
        self.begin();
        self.part(line);
        self.end()
    }

    /// SHA-256 of the first line, in hex; connection ids are scoped by it. Empty before there is one.
    pub fn first_line_digest(&self) -> &str {
        self.first_line.as_deref().unwrap_or_default()
    }

    fn begin(&mut self) {
        if self.any {
            self.prefix.update(b"\n");
        }
        self.any = true;
    }

    fn part(&mut self, bytes: &[u8]) {
        self.prefix.update(bytes);
    }

    fn end(&mut self) -> String {
        let digest = hex::encode(self.prefix.clone().finalize());
        let key = format!("file:{}:{digest}", self.base_name);
        self.first_line.get_or_insert(digest);
        key
    }
}

/// A line of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FileLine {
    /// Without the line feed; the beginning of it when it was too long.
    pub(crate) bytes: Vec<u8>,
    /// Bytes of the whole line.
    pub(crate) length: u64,
    /// SHA-256 of the whole line, only when it was too long.
    pub(crate) sha256: Option<String>,
    /// From 1.
    pub(crate) number: i64,
    /// See [`LineKeys`].
    pub(crate) delivery_key: String,
}

impl FileLine {
    /// Whether there is nothing on it.
    pub(crate) fn is_blank(&self) -> bool {
        self.sha256.is_none() && self.bytes.trim_ascii().is_empty()
    }
}

/// Reads lines.
pub(crate) struct LineReader<R> {
    source: R,
    line_bytes_max: usize,
    keys: LineKeys,
    number: i64,
}

impl<R: BufRead> LineReader<R> {
    pub(crate) fn new(source: R, base_name: &str, line_bytes_max: usize) -> Self {
        LineReader::after(source, LineKeys::new(base_name), 0, line_bytes_max)
    }

    /// Goes on after `number` lines that `keys` has named.
    pub(crate) fn after(source: R, keys: LineKeys, number: i64, line_bytes_max: usize) -> Self {
        LineReader { source, line_bytes_max, keys, number }
    }

    pub(crate) fn into_keys(self) -> LineKeys {
        self.keys
    }

    pub(crate) fn keys(&self) -> &LineKeys {
        &self.keys
    }

    /// The next line; a last one without line feed counts.
    pub(crate) fn next(&mut self) -> io::Result<Option<FileLine>> {
        if self.source.fill_buf()?.is_empty() {
            return Ok(None);
        }
        self.keys.begin();
        let mut line = Vec::new();
        let mut length = 0u64;
        let mut long: Option<Sha256> = None;
        loop {
            let buffer = self.source.fill_buf()?;
            let (part, used, is_end) = match memchr::memchr(b'\n', buffer) {
                Some(at) => (&buffer[..at], at + 1, true),
                None => (buffer, buffer.len(), buffer.is_empty()),
            };
            self.keys.part(part);
            length += part.len() as u64;
            if long.is_none() && line.len() + part.len() > self.line_bytes_max {
                long = Some(Sha256::new().chain_update(&line));
                line.truncate(LINE_BYTES_KEPT);
                line.shrink_to_fit();
            }
            let kept = long.as_ref().map_or(part.len(), |_| part.len().min(LINE_BYTES_KEPT - line.len()));
            line.extend_from_slice(&part[..kept]);
            if let Some(digest) = &mut long {
                digest.update(part);
            }
            self.source.consume(used);
            if is_end {
                break;
            }
        }
        self.number += 1;
        let sha256 = long.map(|digest| hex::encode(digest.finalize()));
        let delivery_key = self.keys.end();
        Ok(Some(FileLine { bytes: line, length, sha256, number: self.number, delivery_key }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;
    use expect_test::expect;

    fn lines(text: &[u8], max: usize, capacity: usize) -> Vec<FileLine> {
        let mut reader = LineReader::new(BufReader::with_capacity(capacity, text), "f", max);
        std::iter::from_fn(|| reader.next().unwrap()).collect()
    }

    #[test]
    fn lines_and_their_numbers() {
        let shown: Vec<String> = lines(b"a\n\nbcdefg\nlast", 4, 3)
            .iter()
            .map(|line| {
                let key = &line.delivery_key[..14];
                let digest = line.sha256.as_ref().map(|digest| &digest[..8]).unwrap_or("-");
                format!("{} {:?} {} {digest} {key}\n", line.number, String::from_utf8_lossy(&line.bytes), line.length)
            })
            .collect();
        expect![[r#"
            1 "a" 1 - file:f:ca97811
            2 "" 0 - file:f:87428fc
            3 "bcdefg" 6 43edef52 file:f:968431e
            4 "last" 4 - file:f:3b731df
        "#]]
        .assert_eq(&shown.concat());
        assert!(lines(b"", 4, 3).is_empty());
    }

    #[test]
    fn a_growing_file_keeps_its_keys() {
        let keys = |text: &[u8]| lines(text, 100, 7).into_iter().map(|line| line.delivery_key).collect::<Vec<_>>();
        let whole = keys(b"a\nb\nc\n");
        assert_eq!(keys(b"a\nb"), whole[..2]);
        assert_eq!(keys(b"a\nb\n"), whole[..2]);
        assert_ne!(keys(b"a\na\n")[0], keys(b"a\na\n")[1]);
        let mut by_hand = LineKeys::new("f");
        assert_eq!([b"a", b"b", b"c"].map(|line| by_hand.next(line)), whole[..]);
        assert_eq!(by_hand.first_line_digest().len(), 64);
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost(text in "[a-c\n]{0,60}", max in 1usize..10, capacity in 1usize..20) {
            let read = lines(text.as_bytes(), max, capacity);
            proptest::prop_assert_eq!(read.len(), text.lines().count());
            for (line, expected) in read.iter().zip(text.lines()) {
                proptest::prop_assert_eq!(line.length, expected.len() as u64);
                proptest::prop_assert_eq!(line.sha256.is_some(), expected.len() > max);
                proptest::prop_assert_eq!(&line.bytes, expected.as_bytes());
            }
        }
    }
}
