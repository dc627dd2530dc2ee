//! Printing: one answer, four formats. Everything untrusted passes `display` here.

use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;
use threadline_schemas::display::{self, Lines};

use super::{Format, Printing};

/// One column of a table: heading and where its value stands in a row object.
pub(crate) type Column = (&'static str, &'static str);

/// Says something on standard error, made safe for a terminal.
pub(crate) fn talk(text: &str) {
    // Nothing is left to tell when standard error is closed.
    let _closed = writeln!(std::io::stderr(), "{}", display::terminal(text, Lines::Keep));
}

/// Writes bytes to `-o PATH` or standard output.
pub(crate) fn write(path: Option<&Path>, bytes: &[u8]) -> anyhow::Result<()> {
    match path {
        Some(path) => std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display())),
        None => match std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => other.context("cannot write to standard output"),
        },
    }
}

/// Whether standard output is a terminal and no file was asked for.
pub(crate) fn to_terminal(printing: &Printing) -> bool {
    printing.output.is_none() && std::io::stdout().is_terminal()
}

/// Columns of the terminal that a table is printed on, if it is.
pub(crate) fn terminal_width(printing: &Printing) -> Option<usize> {
    let table = to_terminal(printing) && printing.format == Format::Table;
    table.then(|| Table::new().width().map_or(80, usize::from))
}

/// One line within `width` columns; what does not fit is cut, and marked.
pub(crate) fn fitted(text: &str, width: usize) -> String {
    let shown = display::terminal(text, Lines::Show);
    let wide = |c: char| {
        if matches!(c, '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{ffdc}' | '\u{1f000}'..='\u{3fffd}') { 2 } else { 1 }
    };
    if shown.chars().map(wide).sum::<usize>() <= width {
        return shown;
    }
    let mut left = width.saturating_sub(1);
    let kept: String = shown
        .chars()
        .take_while(|c| {
            let fits = wide(*c) <= left;
            left = left.saturating_sub(wide(*c));
            fits
        })
        .collect();
    kept + "…"
}

/// Characters that a column of a table needs to be read; a terminal with fewer gets a block of lines per row.
const COLUMN_CHARACTERS: usize = 12;

/// Prints `answer` (an envelope with `data` and `completeness`) whose rows are the array `rows`.
pub(crate) fn rows(printing: &Printing, answer: &Value, rows: &[Value], columns: &[Column]) -> anyhow::Result<()> {
    let bytes = match printing.format {
        Format::Json => pretty(answer),
        Format::Ndjson => ndjson(rows),
        Format::Csv => csv(rows, columns)?,
        Format::Table => match terminal_width(printing).filter(|width| *width < columns.len() * COLUMN_CHARACTERS) {
            Some(width) => blocks(rows, columns, width),
            None => table(rows, columns, to_terminal(printing)),
        },
    };
    write(printing.output.as_deref(), bytes.as_bytes())?;
    if printing.format != Format::Json {
        completeness(answer);
    }
    Ok(())
}

/// An answer as indented JSON, safe to show.
pub(crate) fn pretty(answer: &Value) -> String {
    let mut text = display::json(serde_json::to_string_pretty(answer).unwrap_or_default());
    text.push('\n');
    text
}

/// The completeness statement, on standard error.
pub(crate) fn completeness(answer: &Value) {
    let Some(statement) = answer.get("completeness").filter(|statement| statement.is_object()) else {
        return;
    };
    let number = |path: &str| statement.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let state = statement["state"].as_str().unwrap_or("unknown");
    let mut text = format!(
        "{state}: snapshot v{} read {}, {} sealed + {} recent rows, {} searched, {} cut",
        statement.pointer("/snapshot/table_version").and_then(Value::as_i64).unwrap_or(-1),
        statement.pointer("/snapshot/read_at").and_then(Value::as_str).unwrap_or("?"),
        number("/snapshot/sealed_rows"),
        number("/snapshot/tail_rows"),
        number("/rows_searched"),
        number("/rows_cut"),
    );
    for reason in statement["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        text.push_str("\n  note: ");
        text.push_str(reason);
    }
    for note in statement["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        text.push_str("\n  note: ");
        text.push_str(note);
    }
    for source in statement["sources_silent"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        text.push_str("\n  silent: ");
        text.push_str(source);
    }
    talk(&text);
}

fn ndjson(rows: &[Value]) -> String {
    rows.iter().map(|row| display::json(row.to_string()) + "\n").collect()
}

fn csv(rows: &[Value], columns: &[Column]) -> anyhow::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(columns.iter().map(|(heading, _)| display::csv_cell(heading)))?;
    for row in rows {
        writer.write_record(columns.iter().map(|(_, path)| display::csv_cell(&cell(row, path))))?;
    }
    Ok(String::from_utf8_lossy(&writer.into_inner()?).into_owned())
}

fn table(rows: &[Value], columns: &[Column], terminal: bool) -> String {
    const CELL_CHARACTERS_MAX: usize = 100;
    let mut table = Table::new();
    table.load_preset(if terminal { presets::UTF8_HORIZONTAL_ONLY } else { presets::NOTHING });
    // A pipe gets whole rows on one line each; only a terminal is wrapped.
    table.set_content_arrangement(if terminal { ContentArrangement::Dynamic } else { ContentArrangement::Disabled });
    table.set_header(columns.iter().map(|(heading, _)| display::terminal(heading, Lines::Show)));
    for row in rows {
        table.add_row(columns.iter().map(|(_, path)| {
            let text = shown(row, path);
            let (shown, left) = if terminal { display::cut(&text, CELL_CHARACTERS_MAX) } else { (text, 0) };
            let more = if left > 0 { format!("… (+{left})") } else { String::new() };
            display::terminal(&shown, Lines::Show) + &more
        }));
    }
    format!("{table}\n")
}

/// A row as a line per value that is there, cut to the terminal with a mark.
fn blocks(rows: &[Value], columns: &[Column], width: usize) -> String {
    let head = columns.iter().map(|(heading, _)| heading.chars().count()).max().unwrap_or(0);
    let line = |row: &Value, (heading, path): &Column| {
        let text = shown(row, path);
        (!text.is_empty()).then(|| fitted(&format!("{heading:<head$}  {text}"), width) + "\n")
    };
    let block = |row: &Value| columns.iter().filter_map(|column| line(row, column)).collect::<String>();
    rows.iter().map(block).collect::<Vec<_>>().join("\n")
}

/// A cell for people.
fn shown(row: &Value, path: &str) -> String {
    let text = cell(row, path);
    if path.ends_with("start") || path.ends_with("time") { to_millis(&text) } else { text }
}

/// `2026-11-20T10:31:19.528000000Z` as people read it; the heading says UTC. Other formats keep every digit.
pub(crate) fn to_millis(time: &str) -> String {
    time.get(..23).filter(|_| time.ends_with('Z')).map_or_else(|| time.to_string(), |cut| cut.replace('T', " "))
}

/// `1,234,567`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number of seconds with the unit that fits it.
pub(crate) fn span(seconds: f64) -> String {
    let (amount, sign) = (seconds.abs(), if seconds < 0.0 { "-" } else { "" });
    match amount {
        s if s < 1.0 => format!("{sign}{:.1} ms", s * 1e3),
        s if s < 120.0 => format!("{sign}{s:.1} s"),
        s if s < 7_200.0 => format!("{sign}{:.1} min", s / 60.0),
        s if s < 172_800.0 => format!("{sign}{:.1} h", s / 3_600.0),
        s => format!("{sign}{:.1} d", s / 86_400.0),
    }
}

/// The text of one cell: `path` is a JSON pointer without its first slash; `a|b` takes the first present.
fn cell(row: &Value, path: &str) -> String {
    path.split('|')
        .map(|path| plain(row.pointer(&format!("/{path}"))))
        .find(|text| !text.is_empty())
        .unwrap_or_default()
}

fn plain(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
        }
        Some(Value::Object(map)) if map.values().all(Value::is_u64) => {
            map.iter().map(|(key, value)| format!("{key}:{value}")).collect::<Vec<_>>().join(" ")
        }
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn hostile() -> Vec<Value> {
        vec![
            json!({"title": "\u{1b}]0;x\u{7}=\u{202e}evil\nline", "n": 3, "list": ["a", "b"]}),
            json!({"title": "=1+1"}),
        ]
    }

    const COLUMNS: &[Column] = &[("Title", "title"), ("N", "n"), ("List", "list")];

    #[test]
    fn no_format_lets_a_control_character_through() {
        for text in [
            table(&hostile(), COLUMNS, true),
            table(&hostile(), COLUMNS, false),
            ndjson(&hostile()),
            csv(&hostile(), COLUMNS).unwrap(),
        ] {
            assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
            assert!(!text.contains('\u{202e}'));
        }
    }

    #[test]
    fn a_line_that_does_not_fit_is_cut_with_a_mark() {
        assert_eq!(fitted("short\u{1b}", 10), "short␛");
        assert_eq!(fitted("0123456789ab", 10), "012345678…");
        assert_eq!(fitted("漢字漢字漢字", 7), "漢字漢…");
    }

    #[test]
    fn numbers_are_grouped_and_spans_have_their_unit() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        let spans = [0.0125, 3.0, -90.0, 739_716.69].map(span);
        assert_eq!(spans, ["12.5 ms", "3.0 s", "-90.0 s", "8.6 d"]);
    }

    #[test]
    fn a_narrow_terminal_gets_a_line_per_value() {
        expect_test::expect![[r#"
            Title  ␛]0;x␇=…
            N      3
            List   a b

            Title  =1+1
        "#]]
        .assert_eq(&blocks(&hostile(), COLUMNS, 15));
    }

    #[test]
    fn csv_is_formula_safe() {
        expect_test::expect![[r#"
            Title,N,List
            ␛]0;x␇=⟨U+202E⟩evil⏎line,3,a b
            '=1+1,,
        "#]]
        .assert_eq(&csv(&hostile(), COLUMNS).unwrap());
    }
}
