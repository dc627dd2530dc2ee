//! Claude Code: `mcpServers` in `.mcp.json` and `.claude.json` (for the user and for each project), `env` in `settings.json`.

use std::path::{Path, PathBuf};

use super::{
    Note, Places, State, WrapError, WrapOptions,
    json_text::{self, array_like, array_with_front, get, get_string, members},
    tap_command::{executable, own_arguments, tap_arguments},
};

/// Which part of the file is ours to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Servers,
    Telemetry,
}

/// The variables that say where telemetry goes: a value that is not ours means that somebody else receives it.
const DESTINATION: [&str; 6] = [
    "OTEL_LOGS_EXPORTER",
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
];

/// What turns the export on. Traces need the beta flag; tool names and arguments need the details.
fn variables(endpoint: &str) -> [(&'static str, String); 8] {
    [
        ("CLAUDE_CODE_ENABLE_TELEMETRY", "1".into()),
        ("CLAUDE_CODE_ENHANCED_TELEMETRY_BETA", "1".into()),
        ("OTEL_LOGS_EXPORTER", "otlp".into()),
        ("OTEL_TRACES_EXPORTER", "otlp".into()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".into()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.into()),
        ("OTEL_LOG_USER_PROMPTS", "1".into()),
        ("OTEL_LOG_TOOL_DETAILS", "1".into()),
    ]
}

/// The names that [`variables`] sets: their values are no secrets.
pub(super) fn is_own_variable(name: &str) -> bool {
    variables("").iter().any(|(own, _)| *own == name)
}

pub(super) fn files(places: &Places) -> Vec<(PathBuf, Part)> {
    // With CLAUDE_CONFIG_DIR both files are in that folder; without it one is in the home folder itself.
    let (user, settings) = match &places.claude_config_dir {
        Some(directory) => (directory.join(".claude.json"), directory.join("settings.json")),
        None => (places.home.join(".claude.json"), places.home.join(".claude").join("settings.json")),
    };
    vec![(places.project.join(".mcp.json"), Part::Servers), (user, Part::Servers), (settings, Part::Telemetry)]
}

/// `text` with a tap before every stdio server.
pub(super) fn wrap_servers(
    path: &Path,
    text: &str,
    options: &WrapOptions,
    notes: &mut Vec<Note>,
) -> Result<String, WrapError> {
    let program = json_string(&executable(options)?);
    edit_servers(path, text, |text, entry, name| {
        let at = |key| [entry, &[key]].concat();
        let Some(command) = get(text, &at("command")) else {
            let why = match get_string(text, &at("url")) {
                Some(_) => super::TALKS_HTTP,
                None => "has neither command nor url: not wrapped",
            };
            notes.push(Note::new(path, name, why));
            return Ok(None);
        };
        let own = tap_arguments(name, options)?;
        let old = get(text, &at("args")).unwrap_or("[]");
        let Ok(arguments) = serde_json::from_str::<Vec<String>>(old) else {
            notes.push(Note::new(path, name, "has arguments that are not a list of strings: not wrapped"));
            return Ok(None);
        };
        let mut front: Vec<String> = own.iter().map(|argument| json_string(argument)).collect();
        let new = if let Some(skip) = own_arguments(&arguments) {
            if command == program && arguments[..skip] == own {
                return Ok(None);
            }
            array_with_front(&front, &array_from(old, skip))
        } else {
            front.push(command.to_owned());
            array_with_front(&front, old)
        };
        let changed = json_text::set(text, &at("command"), &program);
        let changed = changed.zip(new).and_then(|(text, new)| json_text::set(&text, &at("args"), &new));
        Ok(Some(changed.ok_or_else(|| WrapError::Shape { path: path.into() })?))
    })
}

/// `text` with every tap of ours taken out again.
pub(super) fn unwrap_servers(path: &Path, text: &str, original: &str) -> Result<String, WrapError> {
    edit_servers(path, text, |text, entry, _| {
        let at = |key| [entry, &[key]].concat();
        let Some(old) = get(text, &at("args")) else { return Ok(None) };
        let arguments: Vec<String> = serde_json::from_str(old).unwrap_or_default();
        let Some(skip) = own_arguments(&arguments) else { return Ok(None) };
        let rest = array_from(old, skip + 1);
        let changed = json_text::set(text, &at("command"), &json_string(&arguments[skip]));
        let changed = changed.and_then(|text| {
            let had_arguments = arguments.len() > skip + 1 || get(original, &at("args")).is_some();
            if had_arguments {
                json_text::set(&text, &at("args"), &rest)
            } else {
                json_text::remove(&text, &at("args"))
            }
        });
        Ok(Some(changed.ok_or_else(|| WrapError::Shape { path: path.into() })?))
    })
}

/// `text` with the export turned on, unless it goes somewhere else already.
pub(super) fn set_telemetry(
    path: &Path,
    text: &str,
    endpoint: &str,
    state: &mut State,
    notes: &mut Vec<Note>,
) -> Result<String, WrapError> {
    let wanted = variables(endpoint);
    for name in DESTINATION {
        let found = get(text, &["env", name]);
        let same = wanted.iter().any(|(key, value)| *key == name && found == Some(&json_string(value)));
        if found.is_some_and(|found| !same && !state.set_to(name, found)) {
            notes.push(Note::new(path, name, "is set already, and telemetry would go there: left as it is"));
            return Ok(text.to_owned());
        }
    }
    let mut text = text.to_owned();
    for (name, value) in wanted {
        let value = json_string(&value);
        match get(&text, &["env", name]) {
            Some(found) if found == value => continue,
            Some(found) if !state.set_to(name, found) => {
                notes.push(Note::new(path, name, "is set to another value: left as it is"));
                continue;
            }
            _ => {}
        }
        text = json_text::set(&text, &["env", name], &value).ok_or_else(|| WrapError::Shape { path: path.into() })?;
        state.set.insert(name.into(), value);
    }
    Ok(text)
}

/// `text` with the variables that are still as we set them given back the value they had in `original`, or taken out.
pub(super) fn unset_telemetry(text: &str, original: &str, state: &State) -> String {
    let had_env = get(original, &["env"]).is_some();
    let mut text = text.to_owned();
    for (name, value) in &state.set {
        let path = ["env", name];
        if get(&text, &path) == Some(value) {
            let edited = match get(original, &path) {
                Some(before) => json_text::set(&text, &path, before),
                None => json_text::remove(&text, &path),
            };
            text = edited.unwrap_or(text);
        }
    }
    let is_empty = get(&text, &["env"]).and_then(members).is_some_and(|members| members.0.is_empty());
    if is_empty && !had_env { json_text::remove(&text, &["env"]).unwrap_or(text) } else { text }
}

/// Applies `edit` to each server entry (named by its path in the file), on the text as the edits before it left it.
fn edit_servers(
    path: &Path,
    text: &str,
    mut edit: impl FnMut(&str, &[&str], &str) -> Result<Option<String>, WrapError>,
) -> Result<String, WrapError> {
    let keys = |text: &str, at: &[&str]| -> Vec<String> {
        let found = get(text, at).and_then(members);
        found.map(|members| members.0.into_iter().map(|(key, _)| key).collect()).unwrap_or_default()
    };
    if members(text).is_none() {
        return Err(WrapError::Shape { path: path.into() });
    }
    let projects = keys(text, &["projects"]);
    let lists = projects.iter().map(|project| vec!["projects", project.as_str(), "mcpServers"]);
    let mut text = text.to_owned();
    for list in std::iter::once(vec!["mcpServers"]).chain(lists) {
        for name in keys(&text, &list) {
            let entry = [&list[..], &[name.as_str()]].concat();
            if let Some(edited) = edit(&text, &entry, &name)? {
                text = edited;
            }
        }
    }
    Ok(text)
}

fn array_from(old: &str, skip: usize) -> String {
    let elements: Vec<&serde_json::value::RawValue> = serde_json::from_str(old).unwrap_or_default();
    array_like(old, elements.iter().skip(skip).map(|raw| raw.get()))
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
