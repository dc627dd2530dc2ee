//! Full text: what a hit is, and the index of one sealed file that finds the rows worth looking at.
//!
//! **What is a hit.** A row is a hit of a query when every term of the query occurs in one of the row's texts. A row's
//! texts are: `text`, `arguments`, `result`, `attributes`, names (tool, server, source, agent, client, `name`, `target`,
//! `error_type`), users, the ids that sources gave, `origin_file`, and the raw bytes (invalid UTF-8 replaced) of a rejected record
//! or where the payload columns hold less than half of them.
//! - Letter case does not matter, and any run of white space counts as one space.
//! - JSON escapes are undone, up to JSON inside JSON: a pasted `C:\temp` or a line break matches what a string held.
//! - A term matches whole words: `err` does not match `error`, but `git` matches `mcp__git__log` and `/srv/git-1`. A
//!   word is a run of letters and digits; every Chinese, Japanese or Korean character is a word of its own. A term with
//!   punctuation or spaces must occur exactly so, also where it has no word at all, like `$(`.
//! - A term without spaces is also a hit where it is the event id, a stamp, or a key in its text form, given whole. These
//!   are in the id sidecar; as words they would double the index.
//! - `*` at the start or end of a term lifts the word boundary there: `sk-abc*`, `*count`.
//!
//! Not done: stemming, synonyms, fuzzy matching, Unicode normal forms (`é` in one and in two code points differ).
//!
//! Invariants
//! - the index gives candidates, never answers: a row is a hit only when the terms are found on the row itself
//! - index and verification split the same normalised texts by the same function, so no hit is missed by the index
//! - an index can be deleted at any time; files without one are scanned, and it is built again

mod index;
mod normal;
mod pattern;
mod words;

pub(crate) use self::{
    index::{TextIndex, build},
    normal::SEARCHED_COLUMNS,
    pattern::Pattern,
};
