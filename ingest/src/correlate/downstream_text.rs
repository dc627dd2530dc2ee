//! The texts of downstream systems: URLs of access logs, statements of database audits.

use threadline_schemas::Record;

use super::observation::{HttpLine, StatementLine};

/// Parameters and literals of one line that are looked at.
const PARTS_MAX: usize = 64;

/// The request of an access-log record; `None` when it names no path.
pub(super) fn http_line(record: &Record, host: Option<String>, bytes: Option<u64>) -> Option<HttpLine> {
    let target = record.target.as_deref()?;
    let target = target.split('#').next().unwrap_or(target);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).take(PARTS_MAX).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    });
    Some(HttpLine {
        host: host.unwrap_or_else(|| record.source_name.clone()),
        method: record.name.clone().unwrap_or_default(),
        path: path.to_string(),
        segments: path.split('/').filter(|segment| !segment.is_empty()).take(PARTS_MAX).map(decoded).collect(),
        query: pairs.collect(),
        status: record.transport_status.as_deref().and_then(|status| status.parse().ok()).unwrap_or(0),
        bytes: bytes.unwrap_or(0),
    })
}

/// Percent-decoded text; what is no escape stays.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match escape.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A statement without its comments, by literals and `column = literal` pairs.
pub(super) fn statement_line(statement: &str) -> StatementLine {
    let text = without_comments(statement);
    let mut line = StatementLine::default();
    let mut rest = text.as_str();
    while let Some(open) = rest.find('\'') {
        let before = &rest[..open];
        let Some((literal, after)) = literal(&rest[open + 1..]) else { break };
        line.template.push_str(before);
        line.template.push('?');
        if line.literals.len() < PARTS_MAX {
            if let Some(column) = assigned(before) {
                line.assignments.push((column.to_string(), literal.clone()));
            }
            line.literals.push(literal);
        }
        rest = after;
    }
    line.template.push_str(rest);
    line.text = text;
    line
}

fn without_comments(statement: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(statement.len()), statement);
    while let Some((before, after)) = rest.split_once("/*") {
        let Some((_, end)) = after.split_once("*/") else { break };
        out.push_str(before.trim_end());
        rest = end;
    }
    out.push_str(rest);
    out
}

/// A literal up to its closing quote (doubled quotes stand for one), and what follows.
fn literal(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('\'')?;
        value.push_str(part);
        match after.strip_prefix('\'') {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            None => return Some((value, after)),
        }
    }
}

/// The column before ` = `.
fn assigned(before: &str) -> Option<&str> {
    let left = before.trim_end().strip_suffix('=')?.trim_end();
    let start = left.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |at| at + 1);
    Some(&left[start..]).filter(|column| !column.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_come_apart() {
        let line = statement_line("SELECT * FROM t WHERE a = 'it''s' AND b IN ('x') /* traceparent='00-1' */");
        assert_eq!(line.template, "SELECT * FROM t WHERE a = ? AND b IN (?)");
        assert_eq!(line.literals, ["it's", "x"]);
        assert_eq!(line.assignments, [("a".to_string(), "it's".to_string())]);
        assert_eq!(statement_line("x = 'open").template, "x = 'open");
    }

    #[test]
    fn escapes_are_undone_and_others_stay() {
        assert_eq!(decoded("Paris%2C%20x%zz%"), "Paris, x%zz%");
    }
}
