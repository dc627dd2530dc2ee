//! Full text search: the store finds the rows, here they get their session and the text around the match.
//!
//! A question is words and "quoted phrases", all of which must occur; what a word is, and what `*` does, is
//! written at `TextQuery`.

use std::collections::HashMap;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use threadline_schemas::{KeyKind, Record};
use threadline_store::{Snapshot, TextQuery};

use crate::cursor;
use crate::engine::{Engine, answer, completeness};
use crate::error::QueryError;
use crate::judged::Judged;
use crate::line::{content, event_line, read_time};
use crate::model::{Answer, Hit, SearchQuestion};

/// Characters shown on each side of a match.
const AROUND_CHARS: usize = 80;
/// Bytes of one payload in which the match is looked for, to show it.
const SHOWN_BYTES_MAX: usize = 256 * 1024;
const QUESTION_BYTES_MAX: usize = 4096;
const TERMS_MAX: usize = 32;
const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 1000;
/// Closures made to name the session of hits without a conversation.
const CLOSURES_MAX: usize = 16;
/// Hits whose payloads, cut to [`SHOWN_BYTES_MAX`] each, are in memory at once.
const PART: usize = 32;

impl Engine {
    /// A page of hits, newest first.
    pub async fn search(&self, question: &SearchQuestion) -> Result<Answer<Vec<Hit>>, QueryError> {
        let terms = terms(&question.q)?;
        let text = serde_json::json!(["search", question.q, question.from, question.to]).to_string();
        let after: Option<(i64, Vec<String>)> =
            question.cursor.as_deref().map(|cursor| cursor::read(&text, cursor)).transpose()?;
        if after.as_ref().is_some_and(|(_, seen)| seen.len() > cursor::IDS_MAX) {
            return Err(cursor::bad());
        }
        let (before, seen) = after.map_or((None, Vec::new()), |(time, seen)| (Some(time), seen));
        let limit = question.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
        let to = time("to", &question.to)?.map(|to| to.saturating_sub(1));
        let query = TextQuery {
            terms: terms.clone(),
            from: time("from", &question.from)?,
            to: [to, before].into_iter().flatten().min(),
            limit: limit + seen.len() + 1,
        };
        let snapshot = self.snapshot().await?;
        let found = snapshot.search(&query).await?;
        let patterns = patterns(&terms);
        let (mut hits, mut last): (Vec<Hit>, Option<i64>) = (Vec::new(), None);
        let mut at_that_time: Vec<String> = Vec::new();
        let mut sessions = Sessions::default();
        // Payloads of one part at a time, so that large ones do not add up.
        for part in found.rows.chunks(PART) {
            for record in snapshot.records_reduced(part, cut_payloads).await? {
                let id = record.event_id.to_string();
                if hits.len() == limit || (Some(record.time_unix_nano) == before && seen.contains(&id)) {
                    continue;
                }
                if last != Some(record.time_unix_nano) {
                    at_that_time.clear();
                }
                last = Some(record.time_unix_nano);
                at_that_time.push(id);
                let session = sessions.of(self, &snapshot, &record).await?;
                hits.push(hit(&record, session, &patterns));
            }
        }
        let more = found.more || found.rows.len() > hits.len() + seen.len();
        let next = last.filter(|_| more).map(|time| {
            if Some(time) == before {
                at_that_time.extend(seen.iter().cloned());
            }
            cursor::write(&text, &(time, at_that_time))
        });
        let mut completeness = completeness(&snapshot);
        completeness.rows_searched = found.rows_searched;
        completeness.searched_from = question.from.clone();
        completeness.searched_to = question.to.clone();
        if found.scanned_files > 0 {
            completeness.notes.push(format!("{} files without text index were scanned", found.scanned_files));
        }
        Ok(answer(hits, next, completeness))
    }
}

/// Sessions of hits: as judged, by conversation, else by closing over the record's keys, a bounded number of times.
#[derive(Default)]
struct Sessions {
    known: HashMap<String, Option<String>>,
    judged: Option<Arc<Judged>>,
}

impl Sessions {
    async fn of(
        &mut self,
        engine: &Engine,
        snapshot: &Snapshot,
        record: &Record,
    ) -> Result<Option<String>, QueryError> {
        let judged = match &self.judged {
            Some(judged) => judged,
            None => self.judged.insert(engine.judged_now(snapshot).await?),
        };
        if let Some(session) = judged.session(record.event_id) {
            return Ok(Some(session.to_string()));
        }
        if record.keys.iter().any(|key| key.starts_with(KeyKind::Conversation.as_str())) {
            return Ok(Some(record.session_key.clone()));
        }
        if let Some(session) = self.known.get(&record.session_key) {
            return Ok(session.clone());
        }
        if self.known.len() == CLOSURES_MAX {
            return Ok(None);
        }
        let session = match engine.gathered(snapshot, &record.event_id.to_string()).await {
            Ok(gathered) => Some(gathered.id),
            Err(QueryError::NotFound { .. } | QueryError::SeveralSessions { .. }) => None,
            Err(error) => return Err(error),
        };
        self.known.insert(record.session_key.clone(), session.clone());
        Ok(session)
    }
}

pub(crate) fn time(name: &'static str, text: &Option<String>) -> Result<Option<i64>, QueryError> {
    let read = |text: &String| read_time(name, text);
    text.as_ref().map(read).transpose()
}

/// Words and quoted phrases.
pub(crate) fn terms(question: &str) -> Result<Vec<String>, QueryError> {
    if question.len() > QUESTION_BYTES_MAX {
        return Err(QueryError::parameter("q", format!("at most {QUESTION_BYTES_MAX} bytes")));
    }
    let mut terms = Vec::new();
    let mut quoted = false;
    for part in question.split('"') {
        if quoted {
            terms.push(part.trim().to_string());
        } else {
            terms.extend(part.split_whitespace().map(str::to_string));
        }
        quoted = !quoted;
    }
    terms.retain(|term| !term.is_empty());
    match terms.len() {
        0 => Err(QueryError::parameter("q", "give at least one word or \"phrase\"")),
        count if count > TERMS_MAX => Err(QueryError::parameter("q", format!("at most {TERMS_MAX} words and phrases"))),
        _ => Ok(terms),
    }
}

/// The terms as patterns that ignore case and the kind of white space.
fn patterns(terms: &[String]) -> Vec<Regex> {
    let pattern = |term: &String| {
        let words: Vec<String> = term.trim_matches('*').split_whitespace().map(regex::escape).collect();
        RegexBuilder::new(&words.join(r"\s+")).case_insensitive(true).size_limit(1 << 20).build().ok()
    };
    terms.iter().filter_map(pattern).filter(|pattern| !pattern.as_str().is_empty()).collect()
}

/// Leaves of each payload as much as a match is looked for in.
fn cut_payloads(record: &mut Record) {
    for text in [&mut record.text, &mut record.arguments, &mut record.result, &mut record.attributes] {
        if let Some(text) = text.as_mut().filter(|text| text.len() > SHOWN_BYTES_MAX) {
            *text = head(text).to_string();
        }
    }
    if let Some(raw) = record.raw.as_mut().filter(|raw| raw.len() > SHOWN_BYTES_MAX) {
        *raw = raw[..SHOWN_BYTES_MAX].to_vec();
    }
}

fn hit(record: &Record, session_id: Option<String>, patterns: &[Regex]) -> Hit {
    let event = event_line(record, None);
    let raw = record.raw.as_deref().map(|raw| String::from_utf8_lossy(&raw[..raw.len().min(SHOWN_BYTES_MAX)]));
    let keys = record.keys.join(" ");
    let fields: [(&str, Option<&str>); 10] = [
        ("text", record.text.as_deref()),
        ("arguments", record.arguments.as_deref()),
        ("result", record.result.as_deref()),
        ("target", record.target.as_deref()),
        ("tool_name", record.tool_name.as_deref()),
        ("server_name", record.server_name.as_deref()),
        ("name", record.name.as_deref()),
        ("attributes", record.attributes.as_deref()),
        ("raw", raw.as_deref()),
        ("keys", Some(&keys)),
    ];
    for (column, text) in fields.iter().filter_map(|(column, text)| Some((*column, (*text)?))) {
        let text = head(text);
        let plain = text.contains('\\').then(|| unescaped(text));
        for text in [Some(text), plain.as_deref()].into_iter().flatten() {
            if let Some(found) = patterns.iter().find_map(|pattern| pattern.find(text)) {
                let (before, after) = (&text[..found.start()], &text[found.end()..]);
                return Hit {
                    event,
                    session_id,
                    column: column.into(),
                    before: last_chars(before, AROUND_CHARS),
                    matched: found.as_str().into(),
                    after: after.chars().take(AROUND_CHARS).collect(),
                };
            }
        }
    }
    // It matched in a form that is not shown as it was searched; show how the record begins.
    let (column, text) = content(record).unwrap_or_default();
    let after = text.chars().take(2 * AROUND_CHARS).collect();
    Hit { event, session_id, column: column.into(), before: String::new(), matched: String::new(), after }
}

fn head(text: &str) -> &str {
    let mut end = text.len().min(SHOWN_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn last_chars(text: &str, count: usize) -> String {
    let skip = text.chars().count().saturating_sub(count);
    text.chars().skip(skip).collect()
}

/// JSON text with its commonest escapes undone, for showing only.
fn unescaped(text: &str) -> String {
    text.replace("\\\"", "\"").replace("\\n", "\n").replace("\\t", "\t").replace("\\/", "/").replace("\\\\", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::make;
    use threadline_schemas::Kind;

    #[test]
    fn questions_are_words_and_phrases() {
        assert_eq!(
            terms("refund \"ignore  previous\" /etc/passwd").unwrap(),
            ["refund", "ignore  previous", "/etc/passwd"]
        );
        assert_eq!(terms("\"unclosed phrase").unwrap(), ["unclosed phrase"]);
        assert!(terms("  \"\" ").is_err());
        assert!(terms(&"a ".repeat(40)).is_err());
    }

    #[test]
    fn a_hit_shows_where_it_matched() {
        let record = make("1", Kind::Prompt, 0).text("Please IGNORE\n previous orders").done();
        let hit = hit(&record, None, &patterns(&["ignore previous".into()]));
        assert_eq!(
            (hit.column.as_str(), hit.before.as_str(), hit.matched.as_str()),
            ("text", "Please ", "IGNORE\n previous")
        );
        let record = make("2", Kind::Call, 0).arguments(r#"{"text":"say \"hi\" now"}"#).done();
        let hit = super::hit(&record, None, &patterns(&["say \"hi\"".into()]));
        assert_eq!((hit.column.as_str(), hit.matched.as_str()), ("arguments", "say \"hi\""));
    }
}
