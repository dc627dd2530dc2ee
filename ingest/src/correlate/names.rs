//! Names: ids and labels as small numbers, so that keys compare and hash cheaply.
//!
//! Numbers are given in the order in which sorted observations are read, so they depend on content alone.

use std::collections::HashMap;

/// A name; [`NONE`] is "absent".
pub(super) type Name = u32;
/// Absent.
pub(super) const NONE: Name = 0;

/// Gives numbers to names.
#[derive(Debug, Default)]
pub(super) struct Names<'a> {
    known: HashMap<&'a str, Name>,
    tuples: HashMap<Vec<Name>, Name>,
    next: Name,
}

impl<'a> Names<'a> {
    /// The number of a text.
    pub(super) fn of(&mut self, text: &'a str) -> Name {
        let next = &mut self.next;
        *self.known.entry(text).or_insert_with(|| {
            *next += 1;
            *next
        })
    }

    pub(super) fn maybe(&mut self, text: Option<&'a String>) -> Name {
        text.map_or(NONE, |text| self.of(text))
    }

    /// The number of a tuple of names; tuples and texts never share one.
    pub(super) fn tuple(&mut self, parts: &[Name]) -> Name {
        if let Some(known) = self.tuples.get(parts) {
            return *known;
        }
        self.next += 1;
        self.tuples.insert(parts.to_vec(), self.next);
        self.next
    }
}
