//! Splits one stream into lines, with bounded memory.
//!
//! Invariants
//! - concatenating what went in equals joining the lines that came out, unless a line was over `line_bytes_max`
//! - holds at most `line_bytes_max` bytes between two calls; of a longer line the first `LINE_BYTES_KEPT` and a digest of all

use bytes::Bytes;
use sha2::{Digest, Sha256};
use threadline_schemas::limits::arrival::LINE_BYTES_KEPT;

/// A line and where it ended.
#[derive(Debug, PartialEq)]
pub(super) struct Line {
    pub(super) bytes: Bytes,
    pub(super) length: u64,
    pub(super) terminated: bool,
    pub(super) sha256: Option<[u8; 32]>,
    /// Offset in the pushed chunk just after the line, line feed included.
    pub(super) end: usize,
}

/// The unfinished last line of a stream.
pub(super) struct Splitter {
    line_bytes_max: usize,
    partial: Vec<u8>,
    length: u64,
    oversized: Option<Sha256>,
}

impl Splitter {
    pub(super) fn new(line_bytes_max: usize) -> Self {
        Self { line_bytes_max, partial: Vec::new(), length: 0, oversized: None }
    }

    /// The lines that `chunk` completes.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut start = 0;
        for newline in memchr::memchr_iter(b'\n', chunk) {
            let segment = &chunk[start..newline];
            start = newline + 1;
            if self.length == 0 && segment.len() <= self.line_bytes_max {
                // The common case: no copy through `partial`.
                let bytes = Bytes::copy_from_slice(segment);
                lines.push(Line { length: bytes.len() as u64, bytes, terminated: true, sha256: None, end: start });
            } else {
                self.append(segment);
                lines.push(self.line(true, start));
            }
        }
        self.append(&chunk[start..]);
        lines
    }

    /// What stands after the last line feed, when the stream has ended.
    pub(super) fn finish(&mut self) -> Option<Line> {
        (self.length > 0).then(|| self.line(false, 0))
    }

    fn append(&mut self, segment: &[u8]) {
        self.length += segment.len() as u64;
        if let Some(digest) = &mut self.oversized {
            digest.update(segment);
        } else if self.partial.len() + segment.len() <= self.line_bytes_max {
            self.partial.extend_from_slice(segment);
        } else {
            let mut digest = Sha256::new();
            digest.update(&self.partial);
            digest.update(segment);
            self.oversized = Some(digest);
            let kept = LINE_BYTES_KEPT.min(self.line_bytes_max);
            let missing = kept.saturating_sub(self.partial.len()).min(segment.len());
            self.partial.extend_from_slice(&segment[..missing]);
            self.partial.truncate(kept);
            self.partial.shrink_to_fit();
        }
    }

    fn line(&mut self, terminated: bool, end: usize) -> Line {
        let bytes = std::mem::take(&mut self.partial).into_boxed_slice().into();
        let length = std::mem::take(&mut self.length);
        let sha256 = self.oversized.take().map(|digest| digest.finalize().into());
        Line { bytes, length, terminated, sha256, end }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    fn check(max: usize, chunks: &[&[u8]], expected: Expect) {
        let mut splitter = Splitter::new(max);
        let mut lines: Vec<Line> = chunks.iter().flat_map(|chunk| splitter.push(chunk)).collect();
        lines.extend(splitter.finish());
        let shown: Vec<String> = lines
            .iter()
            .map(|line| {
                let text = line.bytes.escape_ascii().to_string();
                let sha = line.sha256.map(|sha| hex::encode(&sha[..4])).unwrap_or_default();
                format!("{text} length={} terminated={} {sha}", line.length, line.terminated)
            })
            .collect();
        expected.assert_eq(&shown.join("\n"));
    }

    #[test]
    fn whole_and_split_lines() {
        check(
            100,
            &[b"{\"a\":1}\n{\"b\"", b":2", b"}\r\n\n\xff\0\n"],
            expect![[r#"
                {\"a\":1} length=7 terminated=true 
                {\"b\":2}\r length=8 terminated=true 
                 length=0 terminated=true 
                \xff\x00 length=2 terminated=true "#]],
        );
    }

    #[test]
    fn last_line_without_line_feed() {
        check(
            100,
            &[b"a\nbc"],
            expect![[r#"
            a length=1 terminated=true 
            bc length=2 terminated=false "#]],
        );
        check(100, &[b"a\n"], expect!["a length=1 terminated=true "]);
        check(100, &[], expect![[""]]);
    }

    #[test]
    fn over_the_limit_keeps_the_beginning_and_a_digest() {
        check(
            4,
            &[b"abcd\n", b"abcde\nx\n"],
            expect![[r#"
            abcd length=4 terminated=true 
            abcd length=5 terminated=true 36bbe50e
            x length=1 terminated=true "#]],
        );
        check(4, &[b"ab", b"cde", b"fgh"], expect!["abcd length=8 terminated=false 9c56cc51"]);
    }

    #[test]
    fn memory_of_a_long_line_is_given_back() {
        let mut splitter = Splitter::new(1 << 20);
        for _ in 0..40 {
            assert!(splitter.push(&[b'x'; 64 * 1024]).is_empty());
            assert!(splitter.partial.len() <= 1 << 20);
        }
        assert!(splitter.partial.capacity() <= LINE_BYTES_KEPT);
        let line = splitter.finish().unwrap();
        assert_eq!((line.bytes.len(), line.length), (LINE_BYTES_KEPT, 40 * 64 * 1024));
    }

    proptest! {
        #[test]
        fn nothing_is_added_or_lost(chunks: Vec<Vec<u8>>, newlines: Vec<u8>) {
            let mut splitter = Splitter::new(1 << 20);
            let mut sent = Vec::new();
            let mut joined = Vec::new();
            let mut lines = Vec::new();
            for (index, mut chunk) in chunks.into_iter().enumerate() {
                if let Some(at) = newlines.get(index) {
                    chunk.insert(usize::from(*at) % (chunk.len() + 1), b'\n');
                }
                lines.extend(splitter.push(&chunk));
                sent.extend(chunk);
            }
            lines.extend(splitter.finish());
            for line in lines {
                prop_assert!(line.sha256.is_none() && !line.bytes.contains(&b'\n'));
                joined.extend(&line.bytes);
                joined.extend(line.terminated.then_some(b'\n'));
            }
            prop_assert_eq!(sent, joined);
        }
    }
}
