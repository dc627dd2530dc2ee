//! The one place where untrusted text is made fit to show: HTML, terminal, CSV and JSON output all
//! go through here.
//!
//! Invariants
//! - no output holds a C0 or C1 control character (but `\n` in [`Lines::Keep`]), ESC, a bidi control,
//!   a zero-width or tag character: each becomes a visible token, so nothing is hidden or executed
//! - nothing is removed: every hidden character leaves a token
//!
//! Not here: markup. Callers of [`html`] put the result into a text node or a quoted attribute.

use std::borrow::Cow;

/// What to do with line breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    /// Keep `\n`; everything else is shown.
    Keep,
    /// Show line breaks as `⏎`, for tables and single lines.
    Show,
}

/// `text` with every invisible or steering character replaced by a visible token.
pub fn visible(text: &str, lines: Lines) -> String {
    // Most texts are plain.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.to_string();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        push_visible(c, lines, &mut out);
    }
    out
}

/// How many characters of `text` would not be seen if it were shown as it is.
pub fn hidden_characters(text: &str) -> usize {
    text.chars().filter(|&c| c != '\n' && c != '\t' && is_hidden(c)).count()
}

/// Bytes as visible text: what is not UTF-8 becomes `\xNN`.
pub fn visible_bytes(bytes: &[u8], lines: Lines) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push_visible(c, lines, &mut out));
        chunk.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02X}")));
    }
    out
}

/// Text for a terminal: see [`visible`].
pub fn terminal(text: &str, lines: Lines) -> String {
    visible(text, lines)
}

/// Text for an HTML text node or quoted attribute.
pub fn html(text: &str, lines: Lines) -> String {
    let mut out = String::with_capacity(text.len());
    for c in visible(text, lines).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// What spreadsheets begin a formula with.
const FORMULA: &[char] = &['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];

/// Text for a CSV cell that no spreadsheet takes for a formula, whichever separator it was told: at the beginning and behind
/// each separator, after blanks and quotation marks, what begins like a formula and is no number gets an apostrophe before
/// it. Quoting is the CSV writer's.
pub fn csv_cell(text: &str) -> String {
    const SEPARATORS: &[char] = &[',', ';', '|'];
    let mut out = String::with_capacity(text.len());
    for piece in text.split_inclusive(SEPARATORS) {
        let blank = |c: char| matches!(c, ' ' | '"' | '\'');
        let inner = piece.trim_start_matches(blank);
        let number =
            inner.trim_end_matches(|c: char| blank(c) || SEPARATORS.contains(&c) || matches!(c, ']' | '}' | ')'));
        let is_formula = inner.starts_with(FORMULA) && number.parse::<f64>().is_err();
        let lead = piece.len() - inner.len();
        out.push_str(&visible(&piece[..lead], Lines::Show));
        if is_formula {
            out.push('\'');
        }
        out.push_str(&visible(inner, Lines::Show));
    }
    out
}

/// Serialized JSON with C1 controls, bidi, zero-width and line-separator characters escaped, so that
/// it can be shown as it is; the value does not change.
pub fn json<'a>(serialized: impl Into<Cow<'a, str>>) -> String {
    let serialized = serialized.into();
    let is_escaped = |c: char| c > '\u{7e}' && (is_hidden(c) || matches!(c, '\u{2028}' | '\u{2029}'));
    if serialized.bytes().all(|byte| byte <= b'~') {
        return serialized.into_owned();
    }
    // Most need nothing, and may have many megabytes.
    let Some(first) = serialized.find(is_escaped) else { return serialized.into_owned() };
    let (clean, rest) = serialized.split_at(first);
    let mut out = String::with_capacity(serialized.len() + rest.len() / 8);
    out.push_str(clean);
    for c in rest.chars() {
        if is_escaped(c) {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    out
}

/// The first `max` characters, with how many were left out.
pub fn cut(text: &str, max: usize) -> (String, usize) {
    let total = text.chars().count();
    (text.chars().take(max).collect(), total.saturating_sub(max))
}

fn push_visible(c: char, lines: Lines, out: &mut String) {
    match c {
        '\n' if lines == Lines::Keep => out.push('\n'),
        '\n' => out.push('⏎'),
        '\t' => out.push_str(if lines == Lines::Keep { "    " } else { "␉" }),
        '\0'..='\u{1f}' => out.push(char::from_u32(0x2400 + u32::from(c)).unwrap_or('�')),
        '\u{7f}' => out.push('␡'),
        '\u{e0020}'..='\u{e007e}' => {
            out.push_str("⟨TAG ");
            out.push(char::from_u32(u32::from(c) - 0xe0000).unwrap_or('?'));
            out.push('⟩');
        }
        c if is_hidden(c) => out.push_str(&format!("⟨U+{:04X}⟩", u32::from(c))),
        c => out.push(c),
    }
}

/// Controls, bidi, zero-width, fillers, tags, variation selector supplement, private use.
fn is_hidden(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}'
        | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{e0fff}' | '\u{f0000}'..='\u{10ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use proptest::prelude::*;

    #[test]
    fn tokens() {
        expect!["␛[31mred⟨U+202E⟩x⟨U+200B⟩⟨TAG A⟩⏎␀"]
            .assert_eq(&terminal("\u{1b}[31mred\u{202e}x\u{200b}\u{e0041}\n\0", Lines::Show));
        expect!["&lt;img src=x onerror=&quot;alert(1)&quot;&gt;"]
            .assert_eq(&html("<img src=x onerror=\"alert(1)\">", Lines::Keep));
        expect!["'=cmd|'/C calc'!A0"].assert_eq(&csv_cell("=cmd|'/C calc'!A0"));
        expect!["-12.5"].assert_eq(&csv_cell("-12.5"));
        expect!["a;'=1+1;\"'@SUM(A1)|-2"].assert_eq(&csv_cell("a;=1+1;\"@SUM(A1)|-2"));
        expect![[r#"{"a":[1,-2],"b":"x, '=y"}"#]].assert_eq(&csv_cell(r#"{"a":[1,-2],"b":"x, =y"}"#));
        expect!["'␉=1+1 ' '+2+3"].assert_eq(&csv_cell("\t=1+1 ' '+2+3"));
        expect![[r#""a\u202eb""#]].assert_eq(&json("\"a\u{202e}b\""));
        expect!["a\\xFFb"].assert_eq(&visible_bytes(b"a\xffb", Lines::Keep));
        assert_eq!(hidden_characters("a\u{200b}b\nc"), 1);
    }

    proptest! {
        #[test]
        fn no_separator_makes_a_cell_a_formula(text in "[=+@a1,;|\"' \t\r\n-]{0,24}") {
            for cell in csv_cell(&text).split([',', ';', '|', '\t']) {
                let inner = cell.trim_start_matches([' ', '"']);
                let number = inner.trim_end_matches([' ', '"', '\'']);
                prop_assert!(!inner.starts_with(FORMULA) || number.parse::<f64>().is_ok(), "{cell:?} of {text:?}");
            }
        }

        #[test]
        fn a_terminal_never_gets_a_control_character(text in any::<String>()) {
            for c in terminal(&text, Lines::Keep).chars() {
                prop_assert!(c == '\n' || !c.is_control());
            }
            prop_assert!(!html(&text, Lines::Keep).contains('<'));
        }
    }
}
