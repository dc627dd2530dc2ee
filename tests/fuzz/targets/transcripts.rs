//! Transcripts of hosts: Claude Code when the first byte is even, else Codex; the rest are the lines of the file.

use std::path::Path;

use threadline_schemas::decode::LineDecoder;
use threadline_schemas::decode::claude_code::ClaudeCodeDecoder;
use threadline_schemas::decode::codex::CodexDecoder;
use threadline_schemas::decode::recognise;

use super::records::{accounted, bounded, of_lines, sound};
use super::seeds::{chunked, files};

pub(super) fn run(bytes: &[u8]) {
    let Some((which, lines)) = bytes.split_first() else { return };
    let decode = || {
        let mut decoder: Box<dyn LineDecoder> = match which % 2 {
            0 => Box::new(ClaudeCodeDecoder::new()),
            _ => Box::new(CodexDecoder::new()),
        };
        of_lines(&mut *decoder, lines)
    };
    let records = decode();
    assert_eq!(records, decode());
    accounted(&records, lines, false);
    sound(&records);
    bounded(&records, lines.len(), 64 << 10, 2048);
    if let Err(skipped) = recognise::recognise("x.jsonl", lines) {
        assert!(!skipped.reason.is_empty());
    }
}

pub(super) fn seeds(repository: &Path) -> Vec<Vec<u8>> {
    let captures = repository.join("tests/captures");
    let mut seeds = Vec::new();
    for (which, folder) in [(b"0", "transcripts"), (b"1", "rollouts")] {
        let wanted = |name: &str| name.contains(folder) && name.ends_with(".jsonl");
        for (_, bytes) in files(&captures, &wanted) {
            let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            seeds.extend(chunked(which, lines, b'\n'));
        }
    }
    seeds
}
