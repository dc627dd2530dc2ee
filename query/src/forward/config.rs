//! The configuration of forwarding, a TOML file with one `[[sink]]` per destination; `forward.example.toml` beside
//! this file explains every key and is read by a test.
//!
//! Invariants
//! - unknown keys are refused; all mistakes of a file are reported together
//! - a secret is a reference to a file or an environment variable; text in the place of one is refused
//! - what could reach somewhere else than intended is refused here: URLs with user or password, plain `http` beyond
//!   loopback without `allow_plain`

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use threadline_schemas::Kind;
use threadline_schemas::ocsf::Version;

use super::sinks::Destination;

/// What forwarding is to do.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where our pages are, for a link back to the session in each event.
    pub base_url: Option<String>,
    /// Where to.
    pub sinks: Vec<SinkConfig>,
}

/// One destination.
#[derive(Debug, Clone)]
pub struct SinkConfig {
    /// Its name, also that of its folder.
    pub name: String,
    /// What is sent and how.
    pub common: Common,
    /// Where to.
    pub destination: Destination,
}

/// Keys that every sink has.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Common {
    /// OCSF version of the events.
    #[serde(deserialize_with = "version")]
    pub ocsf_version: Version,
    /// Bytes of prompt, arguments, result or log text given as text; 0: digests and lengths only.
    pub text_bytes_max: usize,
    /// Longest event in bytes; a longer one is cut and marked.
    pub event_bytes_max: usize,
    /// Kinds of records to send; empty: all.
    pub kinds: Vec<String>,
    /// Kinds of records not to send.
    pub kinds_except: Vec<String>,
    /// Least `severity_id`: 1 all, 2 errors, 3 denials and gaps, 4 findings.
    pub severity_min: i64,
    /// Tenants to send; empty: all.
    pub tenants: Vec<String>,
    /// Where a new sink begins: `beginning` or `now`.
    pub start: Start,
    /// Seconds that a call waits for its answer before it is told as having none.
    pub result_wait_s: u64,
    /// Events delivered at once.
    pub batch_events: usize,
    /// Bytes delivered at once.
    pub batch_bytes: usize,
    /// Milliseconds a batch that is not full waits for more.
    pub linger_ms: u64,
    /// Longest pause between attempts, seconds.
    pub retry_max_s: u64,
    /// One event in so many is read back and validated; 0: none.
    pub check_every: u64,
    /// Bytes that the dead letters may have; when they are full the sink stops.
    pub dead_letter_bytes_max: u64,
    /// Allows destinations on loopback, private and link-local addresses.
    pub allow_private: bool,
    /// Allows plain `http` and TCP to other machines.
    pub allow_plain: bool,
    /// PEM file with certificate authorities to trust besides the usual ones.
    pub ca: Option<PathBuf>,
}

/// Where a new sink begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With the first record ever committed.
    Beginning,
    /// With what is committed from then on.
    Now,
}

impl Default for Common {
    fn default() -> Self {
        Common {
            ocsf_version: Version::NEWEST,
            text_bytes_max: 0,
            event_bytes_max: 256 * 1024,
            kinds: Vec::new(),
            kinds_except: Vec::new(),
            severity_min: 0,
            tenants: Vec::new(),
            start: Start::Beginning,
            result_wait_s: 300,
            batch_events: 500,
            batch_bytes: 1 << 20,
            linger_ms: 1_000,
            retry_max_s: 60,
            check_every: 16,
            dead_letter_bytes_max: 64 << 20,
            allow_private: false,
            allow_plain: false,
            ca: None,
        }
    }
}

fn version<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Version, D::Error> {
    let text = String::deserialize(input)?;
    let known = || Version::ALL.iter().map(|version| version.as_str()).collect::<Vec<_>>().join(", ");
    Version::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("ocsf_version is one of {}", known())))
}

/// A configuration that is not used: every mistake in it.
#[derive(Debug, thiserror::Error)]
#[error("{}", mistakes.join("\n"))]
pub struct ConfigError {
    /// One line each.
    pub mistakes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    base_url: Option<String>,
    #[serde(default, rename = "sink")]
    sinks: Vec<toml::Table>,
}

impl Config {
    /// Reads the configuration; relative paths in it are relative to `folder`.
    ///
    /// # Errors
    /// Every mistake found, together.
    pub fn parse(text: &str, folder: &Path) -> Result<Config, ConfigError> {
        // The line itself is not shown: it may hold a secret.
        let at = |error: toml::de::Error| {
            let before = error.span().map_or(0, |span| span.start).min(text.len());
            let line = 1 + text.as_bytes()[..before].iter().filter(|byte| **byte == b'\n').count();
            ConfigError { mistakes: vec![format!("line {line}: {}", said(&error))] }
        };
        let file: File = toml::from_str(text).map_err(at)?;
        let mut mistakes = Vec::new();
        let mut sinks: Vec<SinkConfig> = Vec::new();
        for (index, table) in file.sinks.into_iter().enumerate() {
            if let Some(sink) = sink(index, table, folder, &mut mistakes) {
                if sinks.iter().any(|other| other.name == sink.name) {
                    mistakes.push(format!("sink {}: the name is used twice", sink.name));
                }
                sinks.push(sink);
            }
        }
        if sinks.is_empty() && mistakes.is_empty() {
            mistakes.push("there is no [[sink]]".into());
        }
        if let Some(url) = &file.base_url
            && !url.starts_with("https://")
            && !url.starts_with("http://")
        {
            mistakes.push("base_url is an http or https URL".into());
        }
        if mistakes.is_empty() { Ok(Config { base_url: file.base_url, sinks }) } else { Err(ConfigError { mistakes }) }
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// Every mistake found, together; that it cannot be read.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let unread = |error| ConfigError { mistakes: vec![format!("cannot read {}: {error}", path.display())] };
        let text = std::fs::read_to_string(path).map_err(unread)?;
        Config::parse(&text, path.parent().unwrap_or(Path::new(".")))
    }

    /// The sink of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn sink(&self, name: &str) -> Result<&SinkConfig, super::ForwardError> {
        let known = || self.sinks.iter().map(|sink| sink.name.as_str()).collect::<Vec<_>>().join(", ");
        self.sinks
            .iter()
            .find(|sink| sink.name == name)
            .ok_or_else(|| super::ForwardError::NoSuchSink { sink: name.into(), known: known() })
    }
}

fn sink(index: usize, mut table: toml::Table, folder: &Path, mistakes: &mut Vec<String>) -> Option<SinkConfig> {
    let name = match table.remove("name") {
        Some(toml::Value::String(name)) if is_plain(&name) => name,
        _ => {
            mistakes.push(format!("sink {}: name is a word of letters, digits, - and _, at most 64", index + 1));
            return None;
        }
    };
    let mut wrong = |what: String| mistakes.push(format!("sink {name}: {what}"));
    let Some(toml::Value::String(kind)) = table.remove("type") else {
        wrong(format!("type is one of {}", Destination::TYPES.join(", ")));
        return None;
    };
    let common_keys: BTreeSet<&str> = COMMON_KEYS.iter().copied().collect();
    let (common, own): (toml::Table, toml::Table) =
        table.into_iter().partition(|(key, _)| common_keys.contains(key.as_str()));
    let defaults = Destination::defaults(&kind);
    let merged = defaults.into_iter().chain(common).collect::<toml::Table>();
    let common = merged.try_into::<Common>().map_err(|error| wrong(said(&error)));
    let destination = Destination::parse(&kind, own, folder).map_err(&mut wrong);
    let (mut common, destination) = (common.ok()?, destination.ok()?);
    common.ca = common.ca.map(|path| folder.join(path));
    for kind in common.kinds.iter().chain(&common.kinds_except) {
        if Kind::parse(kind).is_none() {
            let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
            wrong(format!("kind {kind:?} is none of {}", known.join(", ")));
        }
    }
    for (key, is_right) in [
        ("batch_events is 1 to 100000", (1..=100_000).contains(&common.batch_events)),
        ("batch_bytes is 1024 to 268435456", (1024..=256 << 20).contains(&common.batch_bytes)),
        ("event_bytes_max is 2048 to batch_bytes", (2048..=common.batch_bytes).contains(&common.event_bytes_max)),
        ("text_bytes_max is at most event_bytes_max", common.text_bytes_max <= common.event_bytes_max),
        ("severity_min is 0 to 6", (0..=6).contains(&common.severity_min)),
        ("retry_max_s is 1 to 3600", (1..=3600).contains(&common.retry_max_s)),
        ("linger_ms is at most 3600000", common.linger_ms <= 3_600_000),
        ("result_wait_s is at most 86400", common.result_wait_s <= 86_400),
        ("dead_letter_bytes_max is at least 4096", common.dead_letter_bytes_max >= 4096),
    ] {
        if !is_right {
            wrong(key.into());
        }
    }
    destination.check(&common).into_iter().for_each(wrong);
    Some(SinkConfig { name, common, destination })
}

/// The names of [`Common`]; a test compares them with what it takes.
const COMMON_KEYS: &[&str] = &[
    "ocsf_version",
    "text_bytes_max",
    "event_bytes_max",
    "kinds",
    "kinds_except",
    "severity_min",
    "tenants",
    "start",
    "result_wait_s",
    "batch_events",
    "batch_bytes",
    "linger_ms",
    "retry_max_s",
    "check_every",
    "dead_letter_bytes_max",
    "allow_private",
    "allow_plain",
    "ca",
];

/// What the parser says, on one line.
pub(super) fn said(error: &toml::de::Error) -> String {
    error.message().trim().replace('\n', ", ")
}

fn is_plain(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Where a secret is.
#[derive(Debug, Clone)]
pub enum SecretRef {
    /// The first line of a file.
    File(PathBuf),
    /// An environment variable.
    Env(String),
}

impl<'de> Deserialize<'de> for SecretRef {
    /// What stands in the place of a reference may be the secret itself, so no message repeats it.
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let mut members = match toml::Value::deserialize(input)? {
            toml::Value::Table(table) => table.into_iter(),
            _ => toml::Table::new().into_iter(),
        };
        match (members.next(), members.next()) {
            (Some((key, toml::Value::String(path))), None) if key == "file" => Ok(SecretRef::File(path.into())),
            (Some((key, toml::Value::String(name))), None) if key == "env" => Ok(SecretRef::Env(name)),
            _ => {
                let expected = "a secret is { file = \"PATH\" } or { env = \"NAME\" }, never the secret itself";
                Err(serde::de::Error::custom(expected))
            }
        }
    }
}

/// A secret, which is never shown.
#[derive(Clone)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl SecretRef {
    /// With a relative path below `folder`.
    pub(super) fn within(self, folder: &Path) -> SecretRef {
        match self {
            SecretRef::File(path) => SecretRef::File(folder.join(path)),
            other => other,
        }
    }

    /// Reads it; the reason names where it was looked for.
    pub(super) fn read(&self) -> Result<Secret, String> {
        let text = match self {
            SecretRef::File(path) => {
                std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?
            }
            SecretRef::Env(name) => std::env::var(name).map_err(|_| format!("the variable {name} is not set"))?,
        };
        let line = text.lines().next().unwrap_or_default().trim();
        if line.is_empty() { Err("the secret is empty".into()) } else { Ok(Secret(line.into())) }
    }
}

impl Secret {
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

/// A destination by URL: `https`, or `http` where that is allowed; neither user nor password.
pub(super) fn check_url(text: &str, common: &Common) -> Result<url::Url, String> {
    let url = url::Url::parse(text).map_err(|error| format!("url: {error}"))?;
    let host = url.host_str().unwrap_or_default().to_string();
    if host.is_empty() || !matches!(url.scheme(), "http" | "https") {
        return Err("url is an http or https URL".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("url holds no user and password: a secret is a reference of its own".into());
    }
    if url.scheme() == "http" && !common.allow_plain && !super::address::is_loopback_host(&host) {
        return Err("url is https, unless allow_plain = true".into());
    }
    super::address::check_literal(&host, common.allow_private)?;
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_understood() {
        let config = Config::parse(include_str!("forward.example.toml"), Path::new("/etc/threadline")).unwrap();
        let types: BTreeSet<&str> = config.sinks.iter().map(|sink| sink.destination.type_name()).collect();
        assert_eq!(types, Destination::TYPES.iter().copied().collect());
    }

    #[test]
    fn every_common_key_is_known_by_name() {
        for key in COMMON_KEYS {
            let error = toml::from_str::<Common>(&format!("{key} = {{ x = [] }}")).unwrap_err().to_string();
            assert!(!error.contains("unknown field"), "{error}");
        }
        let error = toml::from_str::<Common>("nothing = 1").unwrap_err().to_string();
        let expected = error.matches('`').count() / 2 - 1;
        assert!(error.contains("unknown field") && expected >= COMMON_KEYS.len(), "{error}");
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let text = r#"
            [[sink]]
            name = "a b"
            type = "file"
            [[sink]]
            name = "one"
            type = "file"
            path = "x"
            kinds = ["call", "nonsense"]
            batch_events = 0
            severity_min = 9
            [[sink]]
            name = "two"
            type = "file"
            path = "x"
            colour = "red"
            [[sink]]
            name = "three"
            type = "pigeon"
            [[sink]]
            name = "four"
            type = "elasticsearch"
            url = "https://search.example.com"
            index = "Logs"
            [[sink]]
            name = "one"
            type = "file"
            path = "y"
        "#;
        let error = Config::parse(text, Path::new(".")).unwrap_err().to_string();
        let expected =
            ["sink 1: name", "\"nonsense\"", "batch_events", "severity_min", "colour", "pigeon", "index", "used twice"];
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
        assert!(Config::parse("", Path::new(".")).is_err());
        assert!(Config::parse("sinks = 1", Path::new(".")).is_err());
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret("hunter2".into());
        assert_eq!(format!("{secret:?}"), "Secret");
        // Not even where somebody wrote it into the configuration, as text, under another name, or without quotes.
        let head = "[[sink]]\nname = \"a\"\ntype = \"splunk_hec\"\nurl = \"https://s.example\"\n";
        for (token, expected) in [
            ("\"hunter2\"", "never the secret itself"),
            ("{ hunter2 = \"hunter2\" }", "never the secret itself"),
            ("[\"hunter2\"]", "never the secret itself"),
            ("hunter2", "line 5: "),
            ("\"hunter2", "line 5: "),
        ] {
            let error = Config::parse(&format!("{head}token = {token}\n"), Path::new(".")).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
        }
    }
}
