//! Shows a change of a configuration without the secrets in it.
//!
//! Invariants
//! - values under `env` and `headers` (and `http_headers`) never appear, but for the variables that we set ourselves
//! - nor do strings under a key, or arguments, that look like a secret by name; whole secrets are replaced, not parts
//! - no control character reaches the terminal; a shown line has at most `LINE_CHARS_MAX` characters
//!
//! Masks are laid over both texts before they are compared, so a change within a masked value is not shown.

use std::{ops::Range, path::Path};

use similar::TextDiff;
use threadline_schemas::display::{self, Lines};
use toml_edit::{Document, Item, TableLike, Value};

use super::{
    claude_code::is_own_variable,
    json_text::{members, span},
};

const LINE_CHARS_MAX: usize = 400;
const MASK: &str = "\"***\"";

pub(super) fn diff(path: &Path, before: Option<&str>, after: Option<&str>) -> String {
    let is_toml = path.extension().is_some_and(|extension| extension == "toml");
    let mask = |text: Option<&str>| text.map(|text| if is_toml { mask_toml(text) } else { mask_json(text) });
    let (old, new) = (mask(before).unwrap_or_default(), mask(after).unwrap_or_default());
    let name = path.display().to_string();
    let side = |text: Option<&str>| if text.is_some() { name.clone() } else { "/dev/null".into() };
    let text = TextDiff::from_lines(&old, &new)
        .unified_diff()
        .context_radius(3)
        .header(&side(before), &side(after))
        .to_string();
    text.lines()
        .map(|line| match display::cut(line, LINE_CHARS_MAX) {
            (line, 0) => display::terminal(&line, Lines::Keep) + "\n",
            (line, more) => format!("{}… ({more} more)\n", display::terminal(&line, Lines::Keep)),
        })
        .collect()
}

/// What the parts of a configuration tell about the strings in them.
#[derive(Clone, Copy, PartialEq)]
enum Inside {
    Plain,
    /// Everything is masked.
    Secrets,
    /// As above, but for our own variables.
    Environment,
}

impl Inside {
    fn of(self, key: &str) -> Self {
        match (self, key) {
            (Self::Secrets, _) => Self::Secrets,
            (Self::Environment, key) if is_own_variable(key) => Self::Plain,
            (Self::Environment, _) => Self::Secrets,
            (Self::Plain, "env") => Self::Environment,
            // The last is Claude Code's list of prompts, which stands beside the servers.
            (Self::Plain, "headers" | "http_headers" | "history") => Self::Secrets,
            (Self::Plain, key) if names_secret(key) => Self::Secrets,
            (Self::Plain, _) => Self::Plain,
        }
    }
}

fn mask_json(text: &str) -> String {
    let mut spans = Vec::new();
    find_json(text, text, Inside::Plain, &mut spans);
    lay_over(text, spans)
}

fn find_json(text: &str, raw: &str, inside: Inside, spans: &mut Vec<Range<usize>>) {
    if let Some(members) = members(raw) {
        for (key, value) in members.0 {
            find_json(text, value.get(), inside.of(&key), spans);
        }
    } else if let Ok(elements) = serde_json::from_str::<Vec<&serde_json::value::RawValue>>(raw) {
        let strings = elements.iter().map(|element| serde_json::from_str(element.get()).unwrap_or_default());
        let secrets = secret_arguments(&strings.collect::<Vec<String>>());
        for (element, is_secret) in elements.iter().zip(secrets) {
            find_json(text, element.get(), if is_secret { Inside::Secrets } else { inside }, spans);
        }
    } else if hides(inside, raw, || serde_json::from_str(raw).ok()) {
        spans.push(span(text, raw));
    }
}

fn mask_toml(text: &str) -> String {
    let mut spans = Vec::new();
    if let Ok(document) = Document::parse(text) {
        find_toml_table(document.as_table(), Inside::Plain, &mut spans);
    }
    let masked = lay_over(text, spans);
    // A comment may be an entry switched off.
    let lines = masked.split_inclusive('\n').map(|line| match line.trim_start().strip_prefix('#') {
        Some(comment) if names_secret(comment) || comment.contains('=') => "# ***\n",
        _ => line,
    });
    lines.collect()
}

fn find_toml_table(table: &dyn TableLike, inside: Inside, spans: &mut Vec<Range<usize>>) {
    for (key, item) in table.iter() {
        // These name variables, and hold no values.
        let names_variable = key.ends_with("env_var") || matches!(key, "env_vars" | "env_http_headers");
        let inside = if names_variable { inside } else { inside.of(key) };
        match item {
            Item::Value(value) => find_toml(value, inside, spans),
            Item::Table(table) => find_toml_table(table, inside, spans),
            Item::ArrayOfTables(tables) => tables.iter().for_each(|table| find_toml_table(table, inside, spans)),
            Item::None => {}
        }
    }
}

fn find_toml(value: &Value, inside: Inside, spans: &mut Vec<Range<usize>>) {
    match value {
        Value::InlineTable(table) => find_toml_table(table, inside, spans),
        Value::Array(array) => {
            let strings: Vec<String> = array.iter().map(|value| value.as_str().unwrap_or_default().into()).collect();
            for (value, is_secret) in array.iter().zip(secret_arguments(&strings)) {
                find_toml(value, if is_secret { Inside::Secrets } else { inside }, spans);
            }
        }
        scalar => {
            if hides(inside, "", || scalar.as_str().map(str::to_owned)) {
                spans.extend(scalar.span());
            }
        }
    }
}

/// Whether a scalar is masked: always among secrets (but for words that say nothing), elsewhere by its looks.
fn hides(inside: Inside, raw: &str, string: impl FnOnce() -> Option<String>) -> bool {
    if inside != Inside::Plain {
        return !matches!(raw, "true" | "false" | "null");
    }
    string().is_some_and(|string| looks_secret(&string))
}

/// Which arguments to hide: those that look like a secret, and those after an option that names one.
fn secret_arguments(arguments: &[String]) -> Vec<bool> {
    let follows = |index: usize| {
        let option = index.checked_sub(1).map(|before| arguments[before].as_str());
        option.is_some_and(|option| {
            option.starts_with('-') && !option.contains('=') && (names_secret(option) || matches!(option, "-H" | "-u"))
        })
    };
    arguments.iter().enumerate().map(|(index, argument)| looks_secret(argument) || follows(index)).collect()
}

fn names_secret(name: &str) -> bool {
    const WORDS: [&str; 13] = [
        "apikey",
        "token",
        "secret",
        "password",
        "passwd",
        "credential",
        "cookie",
        "authorization",
        "bearer",
        "privatekey",
        "accesskey",
        "header",
        "oauth",
    ];
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word)) || matches!(name.as_str(), "key" | "auth" | "pass")
}

/// `NAME=value` with a telling name, a known prefix of tokens, a scheme of authorization, or a password in a URL.
fn looks_secret(text: &str) -> bool {
    const PREFIXES: [&str; 10] =
        ["sk-", "ghp_", "gho_", "github_pat_", "xox", "AKIA", "eyJ", "glpat-", "Bearer ", "Basic "];
    let named = text.split_once(['=', ':']).is_some_and(|(name, value)| names_secret(name) && !value.is_empty());
    let in_url = text.split_once("://").is_some_and(|(_, rest)| {
        rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@'))
            || rest.split_once('?').is_some_and(|(_, query)| {
                query.split('&').any(|pair| pair.split_once('=').is_some_and(|(name, _)| names_secret(name)))
            })
    });
    named || in_url || PREFIXES.iter().any(|prefix| text.starts_with(prefix))
}

fn lay_over(text: &str, mut spans: Vec<Range<usize>>) -> String {
    spans.sort_by_key(|span| span.start);
    let mut masked = String::with_capacity(text.len());
    let mut at = 0;
    for span in spans {
        masked.push_str(&text[at..span.start]);
        masked.push_str(MASK);
        at = span.end;
    }
    masked.push_str(&text[at..]);
    masked
}

#[cfg(test)]
mod tests;
