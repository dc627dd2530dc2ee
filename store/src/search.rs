//! Full text search over a snapshot, newest first.
//!
//! Invariants
//! - tail, indexed files and files without an index answer by the same rule (see `text`)
//! - a row is read only when the index alone cannot decide, and only while it could still be among the newest
//! - at most `limit` hits are kept, whatever the number of candidates

use std::{cmp::Reverse, collections::BinaryHeap, ops::ControlFlow, sync::Arc};

use threadline_schemas::{Record, columns::from_batch};

use crate::{
    RowId, StoreError,
    files::SealedFile,
    snapshot::View,
    text::{Pattern, SEARCHED_COLUMNS},
};

/// What to search for.
///
/// A row is a hit when every term occurs in one of its texts: content, names, ids, keys, and the raw bytes where little
/// else holds the content, as with rejected lines. Case and the kind of white space do not matter; JSON escapes are undone. A term matches whole
/// words (runs of letters and digits; one CJK character is a word): `err` is not in `error`, `git` is in
/// `mcp__git__log`. Event ids, stamps and hex ids of traces and spans are found when they are given whole. `*` at an end of a term lifts the boundary there. Terms with punctuation or spaces match exactly so.
/// Without terms every row in the range is a hit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextQuery {
    /// Words, or phrases and substrings with spaces or punctuation; all must occur.
    pub terms: Vec<String>,
    /// Earliest `time_unix_nano`, inclusive.
    pub from: Option<i64>,
    /// Latest `time_unix_nano`, inclusive.
    pub to: Option<i64>,
    /// Most hits to return.
    pub limit: usize,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextHits {
    /// The newest hits, newest first.
    pub rows: Vec<RowId>,
    /// Rows of the tail and of the files that were looked into. Older files are left alone once the newest hits are found.
    pub rows_searched: u64,
    /// Whether there are more hits than `rows`.
    pub more: bool,
    /// Files that had to be scanned.
    pub scanned_files: u64,
}

/// Candidates that are read at once: first few, then more.
const READ_ROWS_MIN: usize = 32;
const READ_ROWS_MAX: usize = 1024;

/// The newest hits so far; one more than asked for, to know whether there are more.
struct Newest {
    heap: BinaryHeap<Reverse<(i64, RowId)>>,
    keep: usize,
}

impl Newest {
    /// Whether a hit at `time` could still be kept.
    fn wants(&self, time: i64) -> bool {
        self.heap.len() < self.keep || self.heap.peek().is_some_and(|Reverse((oldest, _))| time > *oldest)
    }

    fn push(&mut self, time: i64, row: RowId) {
        self.heap.push(Reverse((time, row)));
        if self.heap.len() > self.keep {
            self.heap.pop();
        }
    }
}

struct Search<'a> {
    view: &'a View,
    query: &'a TextQuery,
    patterns: Vec<Pattern>,
    newest: Newest,
    hits: TextHits,
}

/// Blocking.
pub(crate) fn search(view: &View, query: &TextQuery) -> Result<TextHits, StoreError> {
    let patterns = query.terms.iter().filter_map(|term| Pattern::new(term)).collect();
    let newest = Newest { heap: BinaryHeap::new(), keep: query.limit.saturating_add(1) };
    let mut search = Search { view, query, patterns, newest, hits: TextHits::default() };
    search.tail();
    let mut files: Vec<(u32, &Arc<SealedFile>)> = (0..).zip(view.files.iter()).collect();
    files.retain(|(_, file)| search.overlaps(file));
    files.sort_by_key(|(index, file)| (Reverse(file.max_time_unix_nano), Reverse(*index)));
    for (index, file) in files {
        if !search.newest.wants(file.max_time_unix_nano) {
            break;
        }
        search.hits.rows_searched += u64::from(file.rows);
        search.file(index, file)?;
    }
    let mut hits = search.hits;
    let found = search.newest.heap.into_sorted_vec();
    hits.more = found.len() > query.limit;
    hits.rows = found.into_iter().take(query.limit).map(|Reverse((_, row))| row).collect();
    Ok(hits)
}

impl Search<'_> {
    fn in_range(&self, time: i64) -> bool {
        self.query.from.is_none_or(|from| from <= time) && self.query.to.is_none_or(|to| time <= to)
    }

    fn overlaps(&self, file: &SealedFile) -> bool {
        self.query.from.is_none_or(|from| from <= file.max_time_unix_nano)
            && self.query.to.is_none_or(|to| file.min_time_unix_nano <= to)
    }

    fn is_hit(&self, record: &Record) -> bool {
        self.patterns.iter().all(|pattern| pattern.is_in(record))
    }

    fn tail(&mut self) {
        let mut row = 0;
        for chunk in &self.view.chunks {
            for entry in &chunk.rows {
                let time = entry.record.time_unix_nano;
                if self.in_range(time) && self.newest.wants(time) && self.is_hit(&entry.record) {
                    self.newest.push(time, RowId { file: RowId::TAIL, row });
                }
                row += 1;
            }
        }
        self.hits.rows_searched += u64::from(row);
    }

    fn file(&mut self, index: u32, file: &SealedFile) -> Result<(), StoreError> {
        // An index is derived: without it the search is slower and just as complete.
        let text = self.view.access.text(file);
        let Some(text) = text else { return self.scan(index, file) };
        let by_id = |pattern: &Pattern| match pattern.id() {
            Some(wanted) => self.view.rows_in_file(file, wanted),
            None => Ok(Vec::new()),
        };
        let rows = match text.candidates(&self.patterns, by_id)? {
            Some(candidates) => candidates.rows(),
            None if self.patterns.is_empty() => (0..file.rows).collect(),
            None => return self.scan(index, file),
        };
        let timed = rows.into_iter().map(|row| (text.time(row), row));
        let mut candidates: Vec<(i64, u32)> = timed.filter(|(time, _)| self.in_range(*time)).collect();
        candidates.sort_unstable_by_key(|(time, row)| (Reverse(*time), Reverse(*row)));
        if self.patterns.iter().all(Pattern::is_one_word) {
            // The indexes say exactly which rows have a word or an id.
            let wanted = candidates.into_iter().take(self.newest.keep);
            wanted.for_each(|(time, row)| {
                if self.newest.wants(time) {
                    self.newest.push(time, RowId { file: index, row });
                }
            });
            return Ok(());
        }
        self.verify(index, file, &candidates)
    }

    /// Reads candidates, the newest first, while they could be among the newest hits.
    fn verify(&mut self, index: u32, file: &SealedFile, candidates: &[(i64, u32)]) -> Result<(), StoreError> {
        let mut rest = candidates;
        let mut size = READ_ROWS_MIN;
        while let Some((newest, _)) = rest.first().filter(|(time, _)| self.newest.wants(*time)) {
            debug_assert!(self.in_range(*newest));
            let (now, later) = rest.split_at(size.min(rest.len()));
            let mut rows: Vec<u32> = now.iter().map(|(_, row)| *row).collect();
            rows.sort_unstable();
            self.look_at(index, file, &rows)?;
            rest = later;
            size = (size * 2).min(READ_ROWS_MAX);
        }
        Ok(())
    }

    /// Looks at every row of a file, a part at a time.
    fn scan(&mut self, index: u32, file: &SealedFile) -> Result<(), StoreError> {
        self.hits.scanned_files += 1;
        let times = self.view.access.columns(file, None, Some(&["time_unix_nano"]))?;
        let mut rows = Vec::new();
        for batch in times {
            let partial = from_batch(&batch).map_err(|source| StoreError::Arrow { file: file.id, source })?;
            rows.extend(partial.iter().map(|record| record.time_unix_nano));
        }
        let timed = (0..).zip(rows).filter(|(_, time)| self.in_range(*time) && self.newest.wants(*time));
        let rows: Vec<u32> = timed.map(|(row, _)| row).collect();
        self.look_at(index, file, &rows)
    }

    /// Reads rows (ascending, distinct) and keeps the hits among them.
    fn look_at(&mut self, index: u32, file: &SealedFile, rows: &[u32]) -> Result<(), StoreError> {
        let view = self.view;
        let mut next = rows.iter();
        view.access.each_record(file, Some(rows), Some(SEARCHED_COLUMNS), |record| {
            let time = record.time_unix_nano;
            if let Some(row) = next.next()
                && self.newest.wants(time)
                && self.is_hit(&record)
            {
                self.newest.push(time, RowId { file: index, row: *row });
            }
            Ok(ControlFlow::Continue(()))
        })
    }
}
