//! What is refused before the SQL parser sees it: parsers and planners recurse, and a stack that
//! overflows takes the process with it.
//!
//! | limit | value |
//! | --- | --- |
//! | bytes | [`BYTES_MAX`] |
//! | open brackets at once | [`DEPTH_MAX`] |
//! | operators and joining words | [`OPERATORS_MAX`] |
//! | statements | one |
//!
//! Not here: what the statement does; the planner refuses everything but queries.

use crate::error::QueryError;

/// Bytes of a query (64 KiB).
pub const BYTES_MAX: usize = 64 * 1024;
/// Brackets and CASE that are open at once.
pub const DEPTH_MAX: usize = 48;
/// Operators, signs and words that nest an expression or a plan.
pub const OPERATORS_MAX: usize = 2000;

/// Words before which nothing is planned.
const QUERY_WORDS: &[&str] = &["select", "with", "values", "explain", "show", "describe", "table", "(", "from"];

/// Words that make a plan or expression deeper.
const NESTING_WORDS: &[&str] = &[
    "and",
    "or",
    "not",
    "union",
    "intersect",
    "except",
    "join",
    "between",
    "like",
    "ilike",
    "in",
    "is",
    "select",
    "when",
    "similar",
    "interval",
    "any",
    "all",
    "collate",
    "escape",
    "at",
    "over",
    "exists",
];

/// Refuses text that is too long, nested too deeply, or made of too many operations.
pub(crate) fn check(sql: &str) -> Result<(), QueryError> {
    if sql.len() > BYTES_MAX {
        return Err(refused(
            format!("the query has {} bytes, more than {BYTES_MAX}", sql.len()),
            "shorten it, or use a join instead of a long list",
        ));
    }
    if sql.contains('\0') {
        return Err(refused("the query holds a NUL character".into(), "remove it"));
    }
    let mut scan = Scan::default();
    scan.run(sql);
    if scan.deepest > DEPTH_MAX {
        return Err(refused(
            format!("the query is nested deeper than {DEPTH_MAX} brackets"),
            "flatten it, or split it into several queries",
        ));
    }
    if scan.operators > OPERATORS_MAX {
        return Err(refused(
            format!("the query has more than {OPERATORS_MAX} operators"),
            "use IN (...) with a list, or split it into several queries",
        ));
    }
    Ok(())
}

/// DDL, DML, COPY and SET are refused by the planner as well; this says it in plain words.
pub(crate) fn check_start(sql: &str) -> Result<(), QueryError> {
    let mut text = sql.trim_start();
    while let Some(rest) = text.strip_prefix("--") {
        text = rest.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
    }
    let word: String =
        text.chars().take_while(|c| c.is_alphabetic() || *c == '(').collect::<String>().to_ascii_lowercase();
    let is_query = QUERY_WORDS.iter().any(|known| word.starts_with(known)) || text.starts_with("/*");
    if is_query {
        return Ok(());
    }
    Err(refused(
        "only one query is run here, and nothing that writes or sets".into(),
        "start with SELECT, WITH or EXPLAIN",
    ))
}

pub(crate) fn refused(reason: String, next_step: &str) -> QueryError {
    QueryError::SqlRefused { reason, next_step: next_step.into() }
}

#[derive(Default)]
struct Scan {
    depth: usize,
    deepest: usize,
    operators: usize,
}

impl Scan {
    fn run(&mut self, sql: &str) {
        let bytes = sql.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            at = match bytes[at] {
                b'\'' | b'"' | b'`' => quoted(bytes, at),
                b'-' if bytes.get(at + 1) == Some(&b'-') => line_end(bytes, at),
                b'/' if bytes.get(at + 1) == Some(&b'*') => comment_end(bytes, at),
                b'(' | b'[' | b'{' => {
                    self.open();
                    self.operators += usize::from(bytes[at] == b'[');
                    at + 1
                }
                b')' | b']' | b'}' => {
                    self.close();
                    at + 1
                }
                b'+' | b'-' | b'*' | b'/' | b'%' | b'=' | b'<' | b'>' | b'|' | b'&' | b'^' | b'!' | b'~' | b'#'
                | b'@' | b'?' => {
                    self.operators += 1;
                    at + 1
                }
                b':' => {
                    self.operators += usize::from(bytes.get(at + 1) == Some(&b':'));
                    at + 1
                }
                byte if byte.is_ascii_alphabetic() || byte == b'_' => self.word(bytes, at),
                _ => at + 1,
            };
        }
    }

    fn word(&mut self, bytes: &[u8], from: usize) -> usize {
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80;
        let length = bytes[from..].iter().take_while(|byte| is_word(byte)).count();
        let word = bytes[from..from + length].to_ascii_lowercase();
        match word.as_slice() {
            b"case" => self.open(),
            b"end" => self.close(),
            word => self.operators += usize::from(NESTING_WORDS.iter().any(|known| known.as_bytes() == word)),
        }
        from + length
    }

    fn open(&mut self) {
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
    }

    fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }
}

/// After the closing quote; a doubled quote is part of the text. Without one, the end.
fn quoted(bytes: &[u8], from: usize) -> usize {
    let quote = bytes[from];
    let mut at = from + 1;
    while at < bytes.len() {
        if bytes[at] == quote {
            if bytes.get(at + 1) != Some(&quote) {
                return at + 1;
            }
            at += 1;
        }
        at += 1;
    }
    bytes.len()
}

fn line_end(bytes: &[u8], from: usize) -> usize {
    bytes[from..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| from + length)
}

/// Comments nest.
fn comment_end(bytes: &[u8], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0usize);
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'/', Some(b'*')) => {
                depth += 1;
                at += 2;
            }
            (b'*', Some(b'/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_deep_and_busy_queries_are_refused() {
        assert!(check(&format!("SELECT {}1", "1+".repeat(20_000))).is_err());
        assert!(check(&format!("SELECT {}1{}", "(".repeat(100), ")".repeat(100))).is_err());
        assert!(check(&format!("SELECT {}1", "not ".repeat(3000))).is_err());
        assert!(check(&format!("SELECT 1 {}", "union all select 1 ".repeat(1500))).is_err());
        assert!(check(&format!("SELECT {}", "case when 1 then ".repeat(60))).is_err());
        assert!(check(&format!("SELECT '{}'", "x".repeat(BYTES_MAX))).is_err());
        assert!(check(&format!("SELECT 1{}", "::int".repeat(2001))).is_err());
        assert!(check("SELECT '\0'").is_err());
    }

    #[test]
    fn text_and_comments_do_not_count() {
        check(&format!(
            "SELECT '{}' -- {}\n /* {} */ FROM records",
            "(+".repeat(5000),
            "((((".repeat(50),
            "+".repeat(3000)
        ))
        .unwrap();
        check(&format!("SELECT 'it''s {}' || \"{}\"", "(".repeat(90), "(".repeat(90))).unwrap();
        check("SELECT kind, count(*) FROM records WHERE outcome = 'error' GROUP BY kind ORDER BY 2 DESC LIMIT 10")
            .unwrap();
    }
}
