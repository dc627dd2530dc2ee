//! One term of a query, ready to be looked up in an index and to be verified on a row.

use std::borrow::Cow;

use memchr::memmem;
use threadline_schemas::Record;

use crate::lookup::{KeyQuery, Wanted};

use super::{
    normal::{normalise, record_texts, unescape},
    words::{Class, class, cut, words},
};

/// A word of a term, as the index is asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PatternWord<'a> {
    pub(crate) text: &'a str,
    /// The indexed word may go on to the left, to the right.
    pub(crate) open: (bool, bool),
}

/// A term in its forms: as typed, and with JSON escapes undone.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    forms: Vec<String>,
    /// The term as an id, exactly as typed.
    id: Option<Wanted>,
    open_left: bool,
    open_right: bool,
}

impl Pattern {
    /// Reads a term; `None` when nothing of it can be searched (empty, or only stars and spaces).
    pub(crate) fn new(term: &str) -> Option<Pattern> {
        let term = term.trim();
        let bare = term.trim_matches('*').trim();
        if bare.is_empty() {
            return None;
        }
        let mut forms = vec![normalise(bare).into_owned()];
        let mut text = Cow::Borrowed(bare);
        while let Cow::Owned(next) = unescape(&text) {
            let form = normalise(&next).trim().to_string();
            if !form.is_empty() && !forms.contains(&form) {
                forms.push(form);
            }
            text = Cow::Owned(next);
        }
        let is_id = !bare.contains(char::is_whitespace) && bare.len() == term.len();
        let id = is_id.then(|| Wanted::new(&[KeyQuery::Any(bare.into()), KeyQuery::Typed(bare.into())]));
        Some(Pattern { forms, id, open_left: term.starts_with('*'), open_right: term.ends_with('*') })
    }

    /// The words that a row must have, for each form of the term; a form without words matches in any row.
    pub(crate) fn forms(&self) -> impl Iterator<Item = Vec<PatternWord<'_>>> {
        self.forms.iter().map(|form| {
            let mut list: Vec<PatternWord<'_>> =
                words(form).map(|text| PatternWord { text: cut(text), open: (false, false) }).collect();
            // The boundary of the term is open only where a word stands there.
            let ends = |c: Option<char>| c.is_some_and(|c| class(c) == Class::Letter);
            if let Some(first) = list.first_mut().filter(|_| self.open_left && ends(form.chars().next())) {
                first.open.0 = true;
            }
            if let Some(last) = list.last_mut().filter(|_| self.open_right && ends(form.chars().next_back())) {
                last.open.1 = true;
            }
            list
        })
    }

    /// The id that the term may be.
    pub(crate) fn id(&self) -> Option<&Wanted> {
        self.id.as_ref()
    }

    /// Whether the index of words alone decides: one whole word, as it is in the index.
    pub(crate) fn is_one_word(&self) -> bool {
        let [form] = &self.forms[..] else { return false };
        !self.open_left && words(form).eq([form.as_str()]) && cut(form) == form
    }

    /// Whether a row is a hit of this term.
    pub(crate) fn is_in(&self, record: &Record) -> bool {
        self.id.as_ref().is_some_and(|id| id.matches(record)) || !record_texts(record, |text| !self.is_in_text(text))
    }

    /// Whether it occurs in a normalised text.
    pub(crate) fn is_in_text(&self, text: &str) -> bool {
        self.forms.iter().any(|form| {
            memmem::find_iter(text.as_bytes(), form).any(|at| {
                let (before, after) = (text[..at].chars().next_back(), text[at + form.len()..].chars().next());
                (self.open_left || is_boundary(before, form.chars().next()))
                    && (self.open_right || is_boundary(form.chars().next_back(), after))
            })
        })
    }
}

/// Two neighbours that do not belong to one word.
fn is_boundary(left: Option<char>, right: Option<char>) -> bool {
    let letter = |c: Option<char>| c.is_some_and(|c| class(c) == Class::Letter);
    !(letter(left) && letter(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(term: &str, text: &str, hit: bool) {
        assert_eq!(Pattern::new(term).unwrap().is_in_text(&normalise(text)), hit, "{term:?} in {text:?}");
    }

    #[test]
    fn words_phrases_and_stars() {
        check("git", "mcp__git__log", true);
        check("err", "an error", false);
        check("err*", "an Error", true);
        check("*ror", "an error", true);
        check("*rro*", "an error", true);
        check("rro*", "an error", false);
        check("DROP table", "drop\n  TABLE users", true);
        check("$(", "x=$(id)", true);
        check("語t", "日本語text", false);
        check("本", "日本語", true);
        check("a-1", "a-12", false);
        check(r"C:\temp", r"in C:\temp now", true);
        check(r#"{\"a\": 1}"#, r#"say {"a": 1}"#, true);
        assert!(Pattern::new(" ** ").is_none());
    }
}
