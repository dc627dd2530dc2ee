//! The tantivy index of one sealed file: one field, document ids are rows, nothing stored.
//!
//! On disk: a directory as tantivy writes it (one segment) with `threadline.json` = `{"version":2,"rows":n,"meta_crc32c":c}`
//! beside it, `c` being that of `meta.json`; tantivy's other files end in a checksum of their own.
//! It is built under another name, synced, and renamed: what has its final name is whole.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tantivy::{
    DocSet, Index, IndexSettings, ReloadPolicy, Searcher, SingleSegmentIndexWriter, TERMINATED, TantivyDocument,
    TantivyError, Term,
    columnar::Column,
    directory::MmapDirectory,
    schema::{Field, IndexRecordOption, NumericOptions, Schema, TextFieldIndexing, TextOptions},
    store::Compressor,
    tokenizer::{TextAnalyzer, TokenizerManager},
};
use threadline_schemas::Record;

use super::{
    normal::record_texts,
    pattern::{Pattern, PatternWord},
    words::{WordTokenizer, cut, words},
};
use crate::{StoreError, durable};

const VERSION: u32 = 2;
const TOKENIZER: &str = "threadline_words";
/// Texts above this size are given to the index as their distinct words.
const WHOLE_TEXT_BYTES_MAX: usize = 64 * 1024;
/// Words of a large text that are remembered; beyond them some are given again.
const DISTINCT_WORDS_MAX: usize = 32 * 1024;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct About {
    version: u32,
    rows: u32,
    meta_crc32c: u32,
}

/// What an index says of itself; `None` when that is not there or not understood.
fn about(path: &Path) -> Option<About> {
    serde_json::from_slice(&fs::read(path.join("threadline.json")).ok()?).ok()
}

fn meta_crc32c(path: &Path) -> Result<u32, StoreError> {
    let meta = path.join("meta.json");
    Ok(crc32c::crc32c(&fs::read(&meta).map_err(StoreError::io("read", &meta))?))
}

fn schema() -> (Schema, Field, Field) {
    let mut builder = Schema::builder();
    let indexing = TextFieldIndexing::default()
        .set_tokenizer(TOKENIZER)
        .set_index_option(IndexRecordOption::Basic)
        .set_fieldnorms(false);
    let text = builder.add_text_field("text", TextOptions::default().set_indexing_options(indexing));
    let time = builder.add_i64_field("time", NumericOptions::default().set_fast());
    (builder.build(), text, time)
}

/// Builds and syncs the index of `rows` rows; `path` then exists whole. `each` gives every record in file order to what it
/// is given.
pub(crate) fn build(
    path: &Path,
    rows: u32,
    memory_bytes_max: usize,
    each: impl FnOnce(&mut dyn FnMut(&Record) -> Result<(), StoreError>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let unfinished = path.with_extension("tmp");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(StoreError::io("remove", &unfinished))?;
    }
    durable::create_dirs(&unfinished)?;
    let fails = || StoreError::text("build", path);
    let (mut writer, text, time) = writer(&unfinished, memory_bytes_max).map_err(fails())?;
    each(&mut |record| add(&mut writer, text, time, record).map_err(fails()))?;
    writer.finalize().map_err(fails())?;
    let about = About { version: VERSION, rows, meta_crc32c: meta_crc32c(&unfinished)? };
    let about = serde_json::to_vec(&about).expect("three numbers");
    durable::write_atomic(&unfinished.join("threadline.json"), &about)?;
    let entries = fs::read_dir(&unfinished).map_err(StoreError::io("list", &unfinished))?;
    let files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()
        .map_err(StoreError::io("list", &unfinished))?;
    durable::sync_files_below(&unfinished, files.iter().map(PathBuf::as_path))?;
    // A crash here leaves a directory that no file has; opening the store removes it and builds the index again.
    if path.exists() {
        // One that cannot be used.
        fs::remove_dir_all(path).map_err(StoreError::io("remove", path))?;
    }
    durable::rename(&unfinished, path)?;
    Ok(())
}

fn writer(dir: &Path, memory_bytes_max: usize) -> tantivy::Result<(SingleSegmentIndexWriter, Field, Field)> {
    let (schema, text, time) = schema();
    let tokenizers = TokenizerManager::default();
    tokenizers.register(TOKENIZER, TextAnalyzer::from(WordTokenizer::default()));
    let settings = IndexSettings {
        docstore_compression: Compressor::Lz4,
        docstore_compress_dedicated_thread: false,
        ..IndexSettings::default()
    };
    let writer = Index::builder()
        .schema(schema)
        .settings(settings)
        .tokenizers(tokenizers)
        .single_segment_index_writer(MmapDirectory::open(dir)?, memory_bytes_max)?;
    Ok((writer, text, time))
}

/// Adds a row.
fn add(writer: &mut SingleSegmentIndexWriter, text: Field, time: Field, record: &Record) -> tantivy::Result<()> {
    let mut document = TantivyDocument::new();
    let mut distinct = DistinctWords::default();
    record_texts(record, |normalised| {
        if normalised.len() <= WHOLE_TEXT_BYTES_MAX {
            document.add_text(text, normalised);
        } else {
            distinct.add(normalised, |words| document.add_text(text, words));
        }
        true
    });
    document.add_i64(time, record.time_unix_nano);
    writer.add_document(document)?;
    Ok(())
}

/// The words of large texts, each once or nearly so: the index knows which rows have a word and nothing else, and a
/// document of tantivy's holds all that it is given, twice while it grows.
#[derive(Debug, Default)]
struct DistinctWords {
    seen: HashSet<String>,
    words: String,
}

impl DistinctWords {
    fn add(&mut self, text: &str, mut each: impl FnMut(&str)) {
        for word in words(text).map(cut) {
            if self.seen.contains(word) {
                continue;
            }
            if self.seen.len() == DISTINCT_WORDS_MAX {
                self.seen.clear();
            }
            self.seen.insert(word.to_string());
            self.words.push_str(word);
            self.words.push(' ');
            if self.words.len() >= WHOLE_TEXT_BYTES_MAX {
                each(&self.words);
                self.words.clear();
            }
        }
        if !self.words.is_empty() {
            each(&self.words);
            self.words.clear();
        }
    }
}

/// Rows of one file, as a set of bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidates {
    words: Vec<u64>,
}

impl Candidates {
    fn none(rows: u32) -> Candidates {
        Candidates { words: vec![0; (rows as usize).div_ceil(64)] }
    }

    fn insert(&mut self, row: u32) {
        if let Some(word) = self.words.get_mut(row as usize / 64) {
            *word |= 1 << (row % 64);
        }
    }

    fn keep(&mut self, other: &Candidates) {
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a &= b);
    }

    fn add(&mut self, other: &Candidates) {
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a |= b);
    }

    fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The rows, ascending.
    pub(crate) fn rows(&self) -> Vec<u32> {
        let bits = |(at, word): (usize, &u64)| {
            let (at, word) = (at as u32 * 64, *word);
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at + bit)
        };
        self.words.iter().enumerate().filter(|(_, word)| **word != 0).flat_map(bits).collect()
    }
}

/// An open index.
pub(crate) struct TextIndex {
    path: PathBuf,
    rows: u32,
    searcher: Searcher,
    text: Field,
    times: Column<i64>,
}

impl std::fmt::Debug for TextIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextIndex").field("path", &self.path).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl TextIndex {
    /// Whether an index of this version for `rows` rows has its final name.
    pub(crate) fn is_there(path: &Path, rows: u32) -> bool {
        about(path).is_some_and(|about| (about.version, about.rows) == (VERSION, rows))
    }

    /// Reads the whole index and compares it with its checksums.
    pub(crate) fn compare(&self) -> Result<(), StoreError> {
        match self.searcher.index().validate_checksum().map_err(StoreError::text("read", &self.path))?.is_empty() {
            true => Ok(()),
            false => Err(StoreError::Damaged { path: self.path.clone(), what: "a file of it fails its checksum" }),
        }
    }

    /// Opens the index of a file with `rows` rows.
    pub(crate) fn open(path: &Path, rows: u32) -> Result<TextIndex, StoreError> {
        let damaged = |what| StoreError::Damaged { path: path.to_path_buf(), what };
        let about = about(path).ok_or_else(|| damaged("threadline.json is not understood"))?;
        if (about.version, about.rows) != (VERSION, rows) {
            return Err(damaged("it was built for other rows or by another version"));
        }
        if about.meta_crc32c != meta_crc32c(path)? {
            return Err(damaged("meta.json fails its checksum"));
        }
        let open = || -> tantivy::Result<(Searcher, Column<i64>)> {
            let index = Index::open(MmapDirectory::open(path)?)?;
            let reader: tantivy::IndexReader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
            let searcher = reader.searcher();
            let [segment] = searcher.segment_readers() else {
                return Err(TantivyError::InternalError("an index has exactly one segment".into()));
            };
            if segment.max_doc() != rows {
                return Err(TantivyError::InternalError("an index has a document per row".into()));
            }
            let times = segment.fast_fields().i64("time")?;
            Ok((searcher, times))
        };
        let (searcher, times) = open().map_err(StoreError::text("open", path))?;
        let text = schema().1;
        Ok(TextIndex { path: path.to_path_buf(), rows, searcher, text, times })
    }

    /// When a row happened.
    pub(crate) fn time(&self, row: u32) -> i64 {
        self.times.first(row).unwrap_or(i64::MIN)
    }

    /// Rows that may be hits of all `patterns`; `None` when no pattern has a word to look up. `by_id` names the rows that
    /// bear a pattern as an id.
    pub(crate) fn candidates(
        &self,
        patterns: &[Pattern],
        by_id: impl Fn(&Pattern) -> Result<Vec<u32>, StoreError>,
    ) -> Result<Option<Candidates>, StoreError> {
        let mut all: Option<Candidates> = None;
        for pattern in patterns {
            let found = self.pattern(pattern).map_err(StoreError::text("search", &self.path))?;
            let Some(mut found) = found else { continue };
            by_id(pattern)?.into_iter().for_each(|row| found.insert(row));
            match &mut all {
                Some(all) => all.keep(&found),
                None => all = Some(found),
            }
            if all.as_ref().is_some_and(Candidates::is_empty) {
                break;
            }
        }
        Ok(all)
    }

    /// Rows with all words of any form.
    fn pattern(&self, pattern: &Pattern) -> tantivy::Result<Option<Candidates>> {
        let mut any = Candidates::none(self.rows);
        for form in pattern.forms() {
            if form.is_empty() {
                return Ok(None);
            }
            let mut form_rows: Option<Candidates> = None;
            for word in form {
                let found = self.word(word)?;
                match &mut form_rows {
                    Some(rows) => rows.keep(&found),
                    None => form_rows = Some(found),
                }
            }
            any.add(&form_rows.unwrap_or_else(|| Candidates::none(self.rows)));
        }
        Ok(Some(any))
    }

    fn word(&self, word: PatternWord<'_>) -> tantivy::Result<Candidates> {
        let mut rows = Candidates::none(self.rows);
        let inverted = self.searcher.segment_reader(0).inverted_index(self.text)?;
        let mut add = |mut postings: tantivy::postings::SegmentPostings| {
            let mut row = postings.doc();
            while row != TERMINATED {
                rows.insert(row);
                row = postings.advance();
            }
        };
        let text = word.text.as_bytes();
        match word.open {
            (false, false) => {
                let term = Term::from_field_text(self.text, word.text);
                inverted.read_postings(&term, IndexRecordOption::Basic)?.into_iter().for_each(&mut add);
            }
            (open_left, open_right) => {
                // A prefix is a range of the dictionary; an open start means a walk through all of it.
                let dictionary = inverted.terms();
                let mut words =
                    if open_left { dictionary.stream()? } else { dictionary.range().ge(text).into_stream()? };
                while words.advance() {
                    let key = words.key();
                    // What was cut off a long word may hold the text.
                    let cut = key.len() > super::words::WORD_BYTES_MAX - 4;
                    let hit = match (open_left, open_right) {
                        (true, true) => cut || memchr::memmem::find(key, text).is_some(),
                        (true, false) => cut || key.ends_with(text),
                        _ if !key.starts_with(text) => break,
                        _ => true,
                    };
                    if hit {
                        add(inverted.read_postings_from_terminfo(words.value(), IndexRecordOption::Basic)?);
                    }
                }
            }
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use threadline_schemas::Kind;

    use super::*;

    #[test]
    fn candidates_are_a_superset_of_hits() {
        let dir = tempfile::tempdir().unwrap();
        // More distinct words than are remembered, the first of them again at the end.
        let many: String = (0..DISTINCT_WORDS_MAX + 10).chain(0..10).map(|n| format!("w{n} ")).collect();
        let texts = [
            "DROP TABLE users; --",
            "see C:\\temp\\new.txt",
            "日本語 text",
            "sk-abc123def",
            "",
            "x$(id)y",
            &"q".repeat(100),
            &many,
        ];
        let records: Vec<Record> = texts
            .iter()
            .enumerate()
            .map(|(n, text)| {
                let mut record = Record::new("t", &format!("api:{n}"), Kind::Call);
                record.time_unix_nano = n as i64;
                record.arguments = Some(
                    serde_json::json!({ "q": text, "inner": serde_json::json!({ "q": text }).to_string() }).to_string(),
                );
                record
            })
            .collect();
        let path = dir.path().join("index");
        build(&path, records.len() as u32, 15 << 20, |add| records.iter().try_for_each(add)).unwrap();
        let index = TextIndex::open(&path, records.len() as u32).unwrap();
        assert_eq!(index.time(3), 3);
        let qs = "q".repeat(100);
        for term in [
            "drop table",
            "C:\\temp\\new.txt",
            "new",
            "本",
            "sk-abc*",
            "*123def",
            "*c123*",
            "$(",
            "missing",
            "w7",
            "w32777",
            "w32777 w0 w1",
            &qs,
            "*q",
            "qqq*",
            "users; --",
        ] {
            let pattern = Pattern::new(term).unwrap();
            let hits: Vec<u32> = (0..).zip(&records).filter(|(_, r)| pattern.is_in(r)).map(|(n, _)| n).collect();
            assert_eq!(hits.is_empty(), term == "missing", "{term}");
            if let Some(found) = index.candidates(std::slice::from_ref(&pattern), |_| Ok(Vec::new())).unwrap() {
                let found = found.rows();
                assert!(hits.iter().all(|row| found.contains(row)), "{term}: {hits:?} in {found:?}");
            } else {
                assert_eq!(term, "$(");
            }
        }
        assert!(TextIndex::open(&path, 3).is_err());
    }
}
