//! The texts of downstream systems: URLs of access logs, statements of database audits.

use threadline_schemas::Record;

use super::observation::{HttpLine, StatementLine};

/// Parameters and literals of one line that are looked at.
const PARTS_MAX: usize = 64;

/// The request of an access-log record; `None` when it names no path.
pub(super) fn http_line(
    record: &Record,
    host: Option<String>,
    bytes: Option<u64>,
    agent: Option<String>,
) -> Option<HttpLine> {
    let target = record.target.as_deref()?;
    let target = target.split('#').next().unwrap_or(target);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).take(PARTS_MAX).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (form_decoded(name), form_decoded(value))
    });
    Some(HttpLine {
        host: host.unwrap_or_else(|| record.source_name.clone()),
        method: record.name.clone().unwrap_or_default(),
        path: path.to_string(),
        segments: path.split('/').filter(|segment| !segment.is_empty()).take(PARTS_MAX).map(decoded).collect(),
        query: pairs.collect(),
        status: record.transport_status.as_deref().and_then(|status| status.parse().ok()).unwrap_or(0),
        bytes: bytes.unwrap_or(0),
        agent,
    })
}

/// A name or value of a query: forms write a space as `+` and a plus as an escape.
fn form_decoded(text: &str) -> String {
    decoded(&text.replace('+', " "))
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
///
/// Values are strings ('…', `$tag$…$tag$`), numbers, hexadecimal constants, and truth values that something is compared with;
/// quoted identifiers, ordinals (`ORDER BY 1`) and parameters (`$1`) belong to the template.
pub(super) fn statement_line(statement: &str) -> StatementLine {
    let mut line = StatementLine::default();
    let mut rest = statement;
    while let Some(next) = rest.chars().next() {
        let before = line.text.trim_end();
        let (length, value) = match next {
            '/' if rest.starts_with("/*") => match rest[2..].find("*/") {
                Some(end) => {
                    let length = before.len();
                    line.text.truncate(length);
                    line.template.truncate(line.template.trim_end().len());
                    rest = &rest[end + 4..];
                    continue;
                }
                None => (rest.len(), None),
            },
            '-' if rest.starts_with("--") => {
                rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
                continue;
            }
            '\'' => quoted(rest, '\'', escapes(before)).unwrap_or((rest.len(), None)),
            '"' | '`' => (quoted(rest, next, false).map_or(rest.len(), |(length, _)| length), None),
            '$' => dollar_quoted(rest).unwrap_or_else(|| (1 + digits(&rest[1..]), None)),
            _ if next.is_alphanumeric() || next == '_' => word(rest, before),
            '-' | '+' if is_operand(before) && rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let (length, value) = word(&rest[1..], before);
                (length + 1, value.map(|value| if next == '-' { format!("-{value}") } else { value }))
            }
            _ => (next.len_utf8(), None),
        };
        if let Some(value) = value {
            if line.literals.len() < PARTS_MAX {
                if let Some(column) = assigned(before) {
                    line.assignments.push((column.to_string(), value.clone()));
                }
                line.literals.push(value);
            }
            line.template.push('?');
        } else {
            line.template.push_str(&rest[..length]);
        }
        line.text.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    line
}

/// Length of a quoted text with its quotes, and what it says (doubled quotes stand for one); `None` when it does not end.
fn quoted(text: &str, quote: char, escapes: bool) -> Option<(usize, Option<String>)> {
    let mut value = String::new();
    let mut rest = text[1..].char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        match c {
            '\\' if escapes => value.extend(rest.next().map(|(_, c)| c)),
            _ if c != quote => value.push(c),
            _ if rest.next_if(|(_, next)| *next == quote).is_some() => value.push(quote),
            _ => return Some((at + 2, Some(value))),
        }
    }
    None
}

/// Whether a string that follows takes backslashes as escapes (`E'…'`).
fn escapes(before: &str) -> bool {
    let mut last = before.chars().rev();
    matches!(last.next(), Some('e' | 'E')) && !last.next().is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// `$tag$…$tag$`.
fn dollar_quoted(text: &str) -> Option<(usize, Option<String>)> {
    let tag = text[1..].find('$')? + 2;
    let is_tag = |c: char| c.is_alphanumeric() || c == '_';
    if text[1..].starts_with(|c: char| c.is_ascii_digit()) || !text[1..tag - 1].chars().all(is_tag) {
        return None;
    }
    let length = text[tag..].find(&text[..tag])?;
    Some((length + 2 * tag, Some(text[tag..tag + length].to_string())))
}

/// Length of the digits that a text begins with.
fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// Whether an operand may follow, so that a sign belongs to a number.
fn is_operand(before: &str) -> bool {
    before.is_empty() || before.ends_with(['=', '<', '>', '(', ',', '*', '/', '%', '|'])
}

/// A word or number, and its value if it is a constant.
fn word(text: &str, before: &str) -> (usize, Option<String>) {
    let in_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let mut length = text.find(|c: char| !in_word(c)).unwrap_or(text.len());
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        let is_truth = ["true", "false"].iter().any(|truth| text[..length].eq_ignore_ascii_case(truth));
        return (length, (is_truth && is_operand(before)).then(|| text[..length].to_ascii_lowercase()));
    }
    if let Some(digits) = text[..length].strip_prefix("0x").or_else(|| text[..length].strip_prefix("0X")) {
        return (length, digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| digits.to_ascii_lowercase()));
    }
    if let Some(fraction) = text[length..].strip_prefix('.') {
        length += 1 + fraction.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(fraction.len());
    }
    if text[..length].ends_with(['e', 'E'])
        && let Some(exponent) = text[length..].strip_prefix(['-', '+'])
    {
        length += 1 + exponent.find(|c: char| !c.is_ascii_digit()).unwrap_or(exponent.len());
    }
    let is_ordinal = before.len() >= 2
        && before.is_char_boundary(before.len() - 2)
        && before[before.len() - 2..].eq_ignore_ascii_case("by");
    let is_number = !is_ordinal && text[..length].parse::<f64>().is_ok();
    (length, is_number.then(|| text[..length].to_string()))
}

/// The column before ` = `.
fn assigned(before: &str) -> Option<&str> {
    let left = before.strip_suffix('=')?.trim_end().trim_end_matches(['"', '`', ']']);
    let start = left
        .rfind(|c: char| !c.is_alphanumeric() && c != '_')
        .map_or(0, |at| at + left[at..].chars().next().map_or(1, char::len_utf8));
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
    fn constants_without_quotes_are_values() {
        let check = |statement: &str, template: &str, literals: &[&str]| {
            let line = statement_line(statement);
            assert_eq!(line.template, template);
            assert_eq!(line.literals, literals);
        };
        check(
            "SELECT b2 FROM t WHERE id=5002 -- x\nLIMIT 20",
            "SELECT b2 FROM t WHERE id=? \nLIMIT ?",
            &["5002", "20"],
        );
        check(
            "UPDATE t SET a = -1.5e-3, b=TRUE WHERE $1 AND true",
            "UPDATE t SET a = ?, b=? WHERE $1 AND true",
            &["-1.5e-3", "true"],
        );
        check("a IN (1, 2,'x') ORDER BY 1", "a IN (?, ?,?) ORDER BY 1", &["1", "2", "x"]);
        check(
            "\"t 1\".\"a\" = 0xAB AND `c'` = $q$it's$q$ - 1",
            "\"t 1\".\"a\" = ? AND `c'` = ? - ?",
            &["ab", "it's", "1"],
        );
        check("a = E'it\\'s' AND 日 = '本' AND 3d", "a = E? AND 日 = ? AND 3d", &["it's", "本"]);
        assert_eq!(statement_line("x.\"id\" = 7").assignments, [("id".to_string(), "7".to_string())]);
    }

    #[test]
    fn escapes_are_undone_and_others_stay() {
        assert_eq!(decoded("Paris%2C%20x%zz%+"), "Paris, x%zz%+");
        assert_eq!(form_decoded("a+b%2Bc%20d"), "a b+c d");
    }
}
