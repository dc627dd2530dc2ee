//! How far a consumer of the table has come: everything before a position is done.
//!
//! Ordered by version, then by the file's place in its commit (which only the commit knows), then by row; so positions
//! of one commit are compared by [`Place`].

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The next row to read: version of the table, file of that commit, row of that file. Without a file: the commit's
/// first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Version of the table.
    pub version: i64,
    /// File that the commit added.
    pub file: Option<Uuid>,
    /// Row of that file.
    pub row: u32,
}

impl Position {
    /// Before the first row of a commit.
    pub fn before(version: i64) -> Position {
        Position { version, file: None, row: 0 }
    }
}

/// Where a row is, comparable: version, place of its file in the commit, row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) version: i64,
    pub(super) file: u32,
    pub(super) row: u32,
}
