//! Splits normalised text into words.
//!
//! A word is a run of alphanumeric characters, or one CJK character. A word longer than 64 bytes (base64, hex dumps) is
//! cut there in the index and in the query alike; verification looks at the whole.

use tantivy::tokenizer::{Token, TokenStream, Tokenizer};

/// Bytes of a word that the index keeps.
pub(super) const WORD_BYTES_MAX: usize = 64;

/// How a character takes part in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Part of a longer word.
    Letter,
    /// A word of its own.
    Single,
    /// Between words.
    Gap,
}

pub(super) fn class(c: char) -> Class {
    if c.is_ascii() {
        return ascii_class(c as u8);
    }
    match c as u32 {
        // Kana, CJK extension A, unified ideographs, Hangul syllables, compatibility ideographs, extensions B and later.
        0x3040..=0x30FF | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xAC00..=0xD7AF | 0xF900..=0xFAFF | 0x20000..=0x3FFFF => {
            Class::Single
        }
        _ if c.is_alphanumeric() => Class::Letter,
        _ => Class::Gap,
    }
}

/// The next word at or after byte `from`: its start and end.
pub(super) fn next_word(text: &str, from: usize) -> Option<(usize, usize)> {
    let (mut start, mut at) = (None, from);
    while let Some(byte) = text.as_bytes().get(at) {
        let (class, end) = match byte.is_ascii() {
            true => (ascii_class(*byte), at + 1),
            false => text[at..].chars().next().map_or((Class::Gap, text.len()), |c| (class(c), at + c.len_utf8())),
        };
        match (class, start) {
            (Class::Letter, None) => start = Some(at),
            (Class::Single, None) => return Some((at, end)),
            (Class::Letter, Some(_)) | (Class::Gap, None) => {}
            (Class::Single | Class::Gap, Some(start)) => return Some((start, at)),
        }
        at = end;
    }
    start.map(|start| (start, text.len()))
}

fn ascii_class(byte: u8) -> Class {
    if byte.is_ascii_alphanumeric() { Class::Letter } else { Class::Gap }
}

/// The words of a text, whole.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let (start, end) = next_word(text, from)?;
        from = end;
        Some(&text[start..end])
    })
}

/// A word as the index has it.
pub(super) fn cut(word: &str) -> &str {
    &word[..word.floor_char_boundary(WORD_BYTES_MAX)]
}

/// Feeds [`words`] to tantivy.
#[derive(Debug, Clone, Default)]
pub(super) struct WordTokenizer {
    token: Token,
}

/// See [`WordTokenizer`].
#[derive(Debug)]
pub(super) struct WordStream<'a> {
    text: &'a str,
    from: usize,
    token: &'a mut Token,
}

impl Tokenizer for WordTokenizer {
    type TokenStream<'a> = WordStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> WordStream<'a> {
        self.token.reset();
        WordStream { text, from: 0, token: &mut self.token }
    }
}

impl TokenStream for WordStream<'_> {
    fn advance(&mut self) -> bool {
        let Some((start, end)) = next_word(self.text, self.from) else { return false };
        self.from = end;
        self.token.text.clear();
        self.token.text.push_str(cut(&self.text[start..end]));
        (self.token.offset_from, self.token.offset_to) = (start, end);
        self.token.position = self.token.position.wrapping_add(1);
        true
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, expected: Expect) {
        expected.assert_eq(&words(text).map(cut).collect::<Vec<_>>().join("|"));
    }

    #[test]
    fn pasted_things_split_at_punctuation() {
        check("/srv/data-1/orders_2026.csv", expect!["srv|data|1|orders|2026|csv"]);
        check("mcp__git__commit a@b.example", expect!["mcp|git|commit|a|b|example"]);
        check("日本語text カナ", expect!["日|本|語|text|カ|ナ"]);
        check("  $( ... ) ", expect![""]);
        check("größe Ärger", expect!["größe|Ärger"]);
    }

    #[test]
    fn long_words_are_cut_at_a_character() {
        let word = format!("{}{}", "a".repeat(63), "é".repeat(9));
        assert_eq!(cut(&word), "a".repeat(63));
    }
}
