//! Codex: `[mcp_servers.NAME]` and `[otel]` in `config.toml`, edited in place so that comments and order stay.

use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike, Value};

use super::{
    Note, Places, State, WrapError, WrapOptions,
    tap_command::{executable, own_arguments, tap_arguments},
};

pub(super) fn file(places: &Places) -> PathBuf {
    places.codex_home.clone().unwrap_or_else(|| places.home.join(".codex")).join("config.toml")
}

/// `text` with a tap before every stdio server and the export turned on.
pub(super) fn wrap(
    path: &Path,
    text: &str,
    options: &WrapOptions,
    state: &mut State,
    notes: &mut Vec<Note>,
) -> Result<String, WrapError> {
    let mut document = parse(path, text)?;
    let program = executable(options)?;
    for (name, entry) in servers(&mut document) {
        let Some(command) = entry.get("command").and_then(Item::as_str).map(str::to_owned) else {
            let why = match entry.contains_key("url") {
                true => super::TALKS_HTTP,
                false => "has neither command nor url: not wrapped",
            };
            notes.push(Note::new(path, &name, why));
            continue;
        };
        let Some(arguments) = arguments(entry) else {
            notes.push(Note::new(path, &name, "has arguments that are not a list of strings: not wrapped"));
            continue;
        };
        let mut front = tap_arguments(&name, options)?;
        let skip = own_arguments(&arguments);
        if skip.is_some_and(|skip| command == program && arguments[..skip] == front) {
            continue;
        }
        if skip.is_none() {
            front.push(command);
        }
        set_command(entry, &program, skip.unwrap_or(0), &front);
    }
    if let Some(endpoint) = &options.otlp_endpoint {
        set_telemetry(path, &mut document, endpoint, state, notes)?;
    }
    Ok(document.to_string())
}

/// `text` with every tap of ours taken out, and the export set back where it is still as we set it.
pub(super) fn unwrap(path: &Path, text: &str, original: &str, state: &State) -> Result<String, WrapError> {
    let mut document = parse(path, text)?;
    let before = parse(path, original)?;
    let had_arguments =
        |name: &str| before.get("mcp_servers").and_then(|servers| servers.get(name)?.get("args")).is_some();
    for (name, entry) in servers(&mut document) {
        let arguments = arguments(entry).unwrap_or_default();
        let Some(skip) = own_arguments(&arguments) else { continue };
        set_command(entry, &arguments[skip], skip + 1, &[]);
        if arguments.len() == skip + 1 && !had_arguments(&name) {
            entry.remove("args");
        }
    }
    let before = before.get("otel").and_then(Item::as_table_like);
    if let Some(otel) = document.get_mut("otel").and_then(Item::as_table_like_mut) {
        for (key, value) in &state.set {
            if otel.get(key).is_some_and(|item| plain(item) == *value) {
                match before.and_then(|before| before.get(key)) {
                    Some(item) => drop(otel.insert(key, item.clone())),
                    None => drop(otel.remove(key)),
                }
            }
        }
        if otel.is_empty() && before.is_none() {
            document.remove("otel");
        }
    }
    Ok(document.to_string())
}

fn set_telemetry(
    path: &Path,
    document: &mut DocumentMut,
    endpoint: &str,
    state: &mut State,
    notes: &mut Vec<Note>,
) -> Result<(), WrapError> {
    let endpoint = endpoint.trim_end_matches('/');
    let wanted = [
        ("log_user_prompt", Value::from(true)),
        ("exporter", otlp_http(&format!("{endpoint}/v1/logs"))),
        ("trace_exporter", otlp_http(&format!("{endpoint}/v1/traces"))),
    ];
    let otel = document.entry("otel").or_insert_with(|| Item::Table(Table::new()));
    let otel = otel.as_table_like_mut().ok_or_else(|| WrapError::Shape { path: path.into() })?;
    let found = |otel: &dyn TableLike, key: &str| otel.get(key).map(plain);
    let goes_elsewhere = |(key, value): &&(&str, Value)| {
        let is_destination = *key != "log_user_prompt";
        let is_other = |found: String| found != value.to_string() && found != "\"none\"" && !state.set_to(key, &found);
        is_destination && found(otel, key).is_some_and(is_other)
    };
    if let Some((key, _)) = wanted.iter().find(goes_elsewhere) {
        let why = "is set already, and telemetry would go there: left as it is";
        notes.push(Note::new(path, &format!("otel.{key}"), why));
        return Ok(());
    }
    for (key, value) in wanted {
        let new = value.to_string();
        match found(otel, key) {
            Some(found) if found == new => continue,
            Some(found) if key == "log_user_prompt" && !state.set_to(key, &found) => {
                notes.push(Note::new(path, "otel.log_user_prompt", "is set to another value: left as it is"));
                continue;
            }
            _ => {}
        }
        match otel.get_mut(key).and_then(Item::as_value_mut) {
            Some(old) => replace(old, value),
            None => drop(otel.insert(key, Item::Value(value))),
        }
        state.set.insert(key.into(), new);
    }
    Ok(())
}

fn otlp_http(endpoint: &str) -> Value {
    let inner: InlineTable = [("endpoint", endpoint), ("protocol", "binary")].into_iter().collect();
    let outer: InlineTable = std::iter::once(("otlp-http", inner)).collect();
    Value::InlineTable(outer)
}

/// The item as one line, without the white space and comments around it.
fn plain(item: &Item) -> String {
    match item.clone().into_value() {
        Ok(mut value) => {
            value.decor_mut().clear();
            value.to_string()
        }
        Err(item) => item.to_string(),
    }
}

fn servers(document: &mut DocumentMut) -> impl Iterator<Item = (String, &mut dyn TableLike)> {
    let servers = document.get_mut("mcp_servers").and_then(Item::as_table_like_mut);
    servers.into_iter().flat_map(|servers| servers.iter_mut()).filter_map(|(name, entry)| {
        let name = name.get().to_owned();
        entry.as_table_like_mut().map(|entry| (name, entry))
    })
}

/// The arguments of an entry, none if it says nothing; `None` if they are something else than strings.
fn arguments(entry: &dyn TableLike) -> Option<Vec<String>> {
    let Some(item) = entry.get("args") else { return Some(Vec::new()) };
    item.as_array()?.iter().map(|value| value.as_str().map(str::to_owned)).collect()
}

/// Sets the program, and `front` in place of the first `skip` arguments.
fn set_command(entry: &mut dyn TableLike, program: &str, skip: usize, front: &[String]) {
    if let Some(old) = entry.get_mut("command").and_then(Item::as_value_mut) {
        replace(old, program.into());
    }
    if !entry.contains_key("args") {
        entry.insert("args", Item::Value(Value::Array(Array::new())));
    }
    let Some(arguments) = entry.get_mut("args").and_then(Item::as_array_mut) else { return };
    // Elements of a list over several lines carry their line break before them, after what comments there are.
    let first = arguments.get(0).and_then(|value| value.decor().prefix()?.as_str());
    let prefix = first.and_then(|text| Some(text[text.rfind('\n')?..].to_owned()));
    let has_lines = prefix.is_some();
    for _ in 0..skip {
        arguments.remove(0);
    }
    for (index, argument) in front.iter().enumerate() {
        let mut value = Value::from(argument.as_str());
        if let Some(prefix) = &prefix {
            value.decor_mut().set_prefix(prefix.clone());
        }
        arguments.insert_formatted(index, value);
    }
    if !has_lines {
        space_out(arguments);
    }
}

/// Puts `new` where `old` was, with the white space and comments around it.
fn replace(old: &mut Value, mut new: Value) {
    *new.decor_mut() = old.decor().clone();
    *old = new;
}

fn parse(path: &Path, text: &str) -> Result<DocumentMut, WrapError> {
    text.parse().map_err(|error: toml_edit::TomlError| {
        let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
        WrapError::Parse { path: path.into(), line }
    })
}

/// Sets elements apart by one space, but leaves alone what has a comment before it.
fn space_out(array: &mut Array) {
    for (index, value) in array.iter_mut().enumerate() {
        let prefix = value.decor().prefix().and_then(|prefix| prefix.as_str());
        if prefix.is_none_or(|text| text.trim().is_empty()) {
            value.decor_mut().set_prefix(if index == 0 { "" } else { " " });
        }
    }
}
