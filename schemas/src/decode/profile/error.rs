//! Why a profile cannot be used: always with line and column, never with the content of a log.

use std::ops::Range;

/// A profile that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ProfileError {
    /// 1-based line in the profile.
    pub line: usize,
    /// 1-based column, in characters.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
}

/// What is wrong with the bytes at a place of the text.
#[derive(Debug)]
pub(super) struct At {
    pub(super) span: Range<usize>,
    pub(super) message: String,
}

impl At {
    pub(super) fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        At { span, message: message.into() }
    }

    /// With line and column in `text`.
    pub(super) fn place(self, text: &str) -> ProfileError {
        let before = text.get(..self.span.start.min(text.len())).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        ProfileError { line, column: before[line_start..].chars().count() + 1, message: self.message }
    }
}
