//! Reads the rows of committed files in order, a page at a time.
//!
//! Invariants
//! - every row of every commit is given once, in the order of the table, from the position where reading began
//! - a page has [`ROWS_MAX`] rows at most, and fewer where rows are heavy, so that it stays near the wanted bytes
//!
//! Not here: what rows mean together (`pairs`).

use std::sync::Arc;

use threadline_schemas::Record;
use threadline_store::{Commit, Commits, SealedFile};

use super::ForwardError;
use super::position::{Place, Position};

/// Rows of one page.
pub(super) const ROWS_MAX: u32 = 512;
/// Rows of the first page, while it is not known how heavy they are.
const ROWS_FIRST: u32 = 32;

/// One row, and where it stands.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) place: Place,
    /// The same, as it is written down.
    pub(super) at: Position,
    pub(super) record: Record,
}

/// Rows that follow each other.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) rows: Vec<Row>,
    /// After the last row.
    pub(super) end: Position,
    pub(super) end_place: Place,
    /// The file they are of.
    pub(super) file: Arc<SealedFile>,
    /// When they were committed, milliseconds since the Unix epoch.
    pub(super) committed_ms: i64,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Pages {
    commits: Commits,
    next: Position,
    commit: Option<Arc<Commit>>,
    file: usize,
    row: u32,
    rows_max: u32,
    bytes_wanted: usize,
}

impl Pages {
    pub(super) fn new(commits: Commits, from: Position, bytes_wanted: usize) -> Pages {
        Pages { commits, next: from, commit: None, file: 0, row: 0, rows_max: ROWS_FIRST, bytes_wanted }
    }

    /// The comparable place of a position; a position whose file its commit does not have is before the commit.
    pub(super) async fn place(commits: &Commits, at: Position) -> Result<Place, ForwardError> {
        let start = Place { version: at.version, file: 0, row: 0 };
        let Some(file) = at.file else { return Ok(start) };
        let commit = commits.read(at.version).await?;
        let found = commit.as_ref().and_then(|commit| commit.files.iter().position(|known| known.id == file));
        Ok(found.map_or(start, |index| Place { version: at.version, file: index as u32, row: at.row }))
    }

    /// The next page; `None` when everything committed was read.
    pub(super) async fn next(&mut self) -> Result<Option<Page>, ForwardError> {
        loop {
            let Some(commit) = self.commit.clone() else {
                let Some(commit) = self.commits.read(self.next.version).await? else { return Ok(None) };
                let place = Pages::place(&self.commits, self.next).await?;
                (self.file, self.row) = (place.file as usize, place.row);
                self.commit = Some(Arc::new(commit));
                continue;
            };
            let Some(file) = commit.files.get(self.file) else {
                self.next = Position::before(commit.version + 1);
                self.commit = None;
                continue;
            };
            if self.row >= file.rows {
                (self.file, self.row) = (self.file + 1, 0);
                continue;
            }
            let end = file.rows.min(self.row + self.rows_max);
            let records = self.commits.rows(file, self.row..end).await?;
            self.weigh(&records);
            let (version, index, first) = (commit.version, self.file as u32, self.row);
            let rows = (first..).zip(records).map(|(row, record)| Row {
                place: Place { version, file: index, row },
                at: Position { version, file: Some(file.id), row },
                record,
            });
            let rows = rows.collect();
            self.row = end;
            self.next = Position { version, file: Some(file.id), row: end };
            let end_place = Place { version, file: index, row: end };
            let file = Arc::clone(file);
            return Ok(Some(Page { rows, end: self.next, end_place, file, committed_ms: commit.time_ms }));
        }
    }

    /// Pages grow while rows are light and shrink when they are heavy.
    fn weigh(&mut self, records: &[Record]) {
        let bytes: usize = records.iter().map(weight).sum();
        self.rows_max =
            if bytes > self.bytes_wanted { self.rows_max / 2 } else { self.rows_max * 2 }.clamp(1, ROWS_MAX);
    }
}

/// Bytes of the payloads of a record.
pub(super) fn weight(record: &Record) -> usize {
    let texts = [&record.arguments, &record.result, &record.text, &record.attributes, &record.target, &record.name];
    512 + texts.into_iter().flatten().map(String::len).sum::<usize>()
}
