//! Words of a text as numbers: words of three letters or more, compounds (ids, dates, addresses, names of files) and their
//! parts, anything with a digit.

use std::collections::BTreeSet;

use super::super::downstream::lines::Fnv;

/// Characters of a text that are looked at.
const CHARS_MAX: usize = 20_000;

/// Sorted, distinct tokens.
pub(super) type Tokens = Vec<u64>;

fn token(text: &str) -> u64 {
    let mut hash = Fnv::default();
    hash.text(text);
    hash.0
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn joins(c: char) -> bool {
    matches!(c, '-' | '@' | '.' | '/' | ':' | '#')
}

/// Tokens of several texts.
pub(super) fn tokens<'t>(texts: impl Iterator<Item = &'t str>) -> Tokens {
    let mut found = Tokens::new();
    let mut left = CHARS_MAX;
    for text in texts {
        let end = text.char_indices().nth(left).map_or(text.len(), |(at, _)| at);
        let text = text[..end].to_lowercase();
        left = left.saturating_sub(text.chars().count());
        for piece in text.split(|c: char| !is_word(c) && !joins(c)) {
            let piece = piece.trim_matches(joins);
            let runs = || piece.split(|c| joins(c) || c == '_').filter(|run| !run.is_empty());
            found.extend(runs().filter(|run| run.chars().nth(2).is_some()).map(token));
            let compound = runs().nth(1).is_some();
            if compound || piece.contains(|c: char| c.is_numeric()) {
                found.push(token(piece));
            }
        }
        if left == 0 {
            break;
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// First and last words of a prompt and its length class: conversations begin otherwise than they go on.
pub(super) fn opener(text: &str) -> Tokens {
    let head: String = text.chars().take(200).flat_map(char::to_lowercase).collect();
    let words = head.split(|c: char| !is_word(c) && c != '#').filter(|word| !word.is_empty()).take(6);
    let mut found: BTreeSet<u64> = words.map(token).collect();
    let mut tail: Vec<char> = text.chars().rev().take(100).flat_map(char::to_lowercase).collect();
    tail.reverse();
    let tail: String = tail.into_iter().collect();
    found
        .extend(tail.split(|c: char| !is_word(c) && c != '#').filter(|word| !word.is_empty()).rev().take(4).map(token));
    let length = (text.chars().count() + 1).ilog2() as i64 - 3;
    found.insert(token(&format!("\u{0}length {}", length.min(6))));
    found.into_iter().collect()
}

/// Last words of an answer, and whether it asks something there: some answers wait for an answer.
pub(super) fn closer(text: &str) -> Tokens {
    let mut tail: Vec<char> = text.chars().rev().take(200).flat_map(char::to_lowercase).collect();
    tail.reverse();
    let tail: String = tail.into_iter().collect();
    let words: Vec<&str> = tail.split(|c: char| !is_word(c)).filter(|word| !word.is_empty()).collect();
    let mut found: BTreeSet<u64> = words[words.len().saturating_sub(12)..].iter().map(|word| token(word)).collect();
    if asks(&tail) {
        found.insert(token("\u{0}asks"));
    }
    found.into_iter().collect()
}

/// Whether a text holds a question mark.
pub(super) fn asks(text: &str) -> bool {
    text.contains(['?', '\u{ff1f}'])
}
