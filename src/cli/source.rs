//! `threadline source`: the profiles by which logs are read, and what a profile makes of a file.
//!
//! Profiles come from three places, the later ones before the earlier: shipped in the binary, `<data>/sources/*.toml`, and
//! files named with `--profile`.

use std::fmt::Write;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use threadline_ingest::decompress::{self, Coding, Limits};
use threadline_schemas::decode::profile::{Catalogue, Explained, Explaining, Profile};
use threadline_schemas::decode::{Context, Line};
use threadline_schemas::digest::MatchKey;
use threadline_schemas::display::{self, Lines};
use threadline_schemas::limits::arrival::{FILE_RATIO_MAX, LINE_BYTES_MAX};
use threadline_schemas::limits::profile::PROFILE_BYTES_MAX;
use threadline_schemas::{Collector, Kind};

use super::output::{self, Column};
use super::{Format, SourceCommand, SourceListArguments, SourceShowArguments, SourceTestArguments, data_directory};

/// Files read from `<data>/sources`.
const OWN_FILES_MAX: usize = 256;

const LIST_COLUMNS: &[Column] = &[
    ("NAME", "name"),
    ("VERSION", "version"),
    ("SIDE", "source_kind"),
    ("SEEN LIVE", "seen_live"),
    ("FROM", "from"),
    ("READS", "title"),
];

/// Answers one of the `source` commands.
pub(crate) fn run(command: SourceCommand) -> anyhow::Result<ExitCode> {
    match command {
        SourceCommand::List(arguments) => list(&arguments),
        SourceCommand::Show(arguments) => show(&arguments),
        SourceCommand::Test(arguments) => test(&arguments),
    }
}

/// Every profile that holds for a data directory, with further files named by the user.
pub(crate) fn catalogue(directory: &Path, files: &[PathBuf]) -> anyhow::Result<Arc<Catalogue>> {
    let mut catalogue = Catalogue::shipped();
    for file in own_files(directory)?.iter().chain(files) {
        let text = profile_text(file)?;
        catalogue = Arc::new(catalogue.with(&file.display().to_string(), &text)?);
    }
    Ok(catalogue)
}

/// `<data>/sources/*.toml` in order of name; none when the folder does not exist.
fn own_files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let folder = directory.join("sources");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", folder.display())),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        if path.extension().is_some_and(|end| end == "toml") {
            files.push(path);
        }
    }
    if files.len() > OWN_FILES_MAX {
        bail!("{} holds more than {OWN_FILES_MAX} profiles", folder.display());
    }
    files.sort();
    Ok(files)
}

fn profile_text(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let opened = std::fs::File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    opened
        .take(PROFILE_BYTES_MAX as u64 + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text)
}

/// A profile by name, or by the file that holds it.
fn find(directory: &Path, name: &str) -> anyhow::Result<Arc<Profile>> {
    if name.ends_with(".toml") {
        let text = profile_text(Path::new(name))?;
        return Ok(Arc::new(Profile::parse(&text).with_context(|| format!("profile {name}"))?));
    }
    let catalogue = catalogue(directory, &[])?;
    catalogue
        .get(name)
        .cloned()
        .with_context(|| format!("there is no profile {name}; `threadline source list` names them"))
}

fn list(arguments: &SourceListArguments) -> anyhow::Result<ExitCode> {
    let catalogue = catalogue(&data_directory(arguments.data.clone())?, &arguments.profile)?;
    let mut rows: Vec<serde_json::Value> = catalogue
        .profiles()
        .iter()
        .map(|profile| {
            serde_json::json!({
                "name": profile.name(), "version": profile.version(), "source_kind": profile.source_kind(),
                "seen_live": if profile.is_seen_live() { "yes" } else { "no" },
                "from": if catalogue.is_own(profile.name()) { "own" } else { "shipped" },
                "title": profile.title(), "shape": profile.shape(), "digest": profile.digest(),
            })
        })
        .collect();
    rows.sort_by_key(|row| row["name"].as_str().unwrap_or_default().to_string());
    output::rows(&arguments.printing, &serde_json::json!({ "data": rows }), &rows, LIST_COLUMNS)?;
    Ok(ExitCode::SUCCESS)
}

fn show(arguments: &SourceShowArguments) -> anyhow::Result<ExitCode> {
    let profile = find(&data_directory(arguments.data.clone())?, &arguments.name)?;
    output::write(None, display::terminal(profile.text(), Lines::Keep).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// What the profile made of a file.
#[derive(Debug, Default)]
struct Summary {
    lines: u64,
    records: u64,
    rejected: u64,
    logs: u64,
    rules: std::collections::BTreeMap<String, u64>,
    reasons: std::collections::BTreeMap<String, u64>,
}

impl Summary {
    fn add(&mut self, explained: &Explained) {
        self.records += 1;
        *self.rules.entry(explained.rule.clone().unwrap_or_else(|| "-".into())).or_default() += 1;
        match explained.record.kind {
            Kind::Rejected => {
                self.rejected += 1;
                *self.reasons.entry(explained.record.text.clone().unwrap_or_default()).or_default() += 1;
            }
            Kind::Log => self.logs += 1,
            _ => {}
        }
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "lines": self.lines, "records": self.records, "rejected": self.rejected, "logs": self.logs,
            "rules": self.rules, "reasons": self.reasons,
        })
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} lines, {} records: {} events, {} log lines, {} rejected\n",
            self.lines,
            self.records,
            self.records - self.rejected - self.logs,
            self.logs,
            self.rejected
        );
        for (rule, count) in &self.rules {
            // Writing to a String cannot fail.
            let _ok = writeln!(text, "  rule {rule}: {count}");
        }
        for (reason, count) in &self.reasons {
            let _ok = writeln!(text, "  rejected because: {reason}: {count}");
        }
        text
    }
}

/// Exit code 1 when a line was rejected, so that a profile can be tested in a script.
fn test(arguments: &SourceTestArguments) -> anyhow::Result<ExitCode> {
    let profile = find(&data_directory(arguments.data.clone())?, &arguments.profile)?;
    // Digests are compared within this output only.
    let match_key = MatchKey::new([0; 32]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let context = Context {
        tenant: "test",
        collector: Collector::Import,
        observed_time_unix_us: i64::try_from(now.as_micros()).unwrap_or(i64::MAX),
        match_key: Some(&match_key),
    };
    let mut explaining = Explaining::new(profile.clone());
    let mut summary = Summary::default();
    let mut shown: Vec<serde_json::Value> = Vec::new();
    let mut lines = open(&arguments.file)?;
    let name = arguments.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut bytes = Vec::new();
    let mut print = |explained: Vec<Explained>, summary: &mut Summary| -> anyhow::Result<()> {
        for explained in explained {
            summary.add(&explained);
            if arguments.lines != 0 && summary.records > arguments.lines {
                continue;
            }
            match arguments.format {
                Format::Json => shown.push(as_json(&explained)),
                Format::Ndjson => output::write(None, format!("{}\n", as_json(&explained)).as_bytes())?,
                _ => output::write(None, display::terminal(&explained.to_string(), Lines::Keep).as_bytes())?,
            }
        }
        Ok(())
    };
    loop {
        bytes.clear();
        if lines.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut bytes).context("cannot read the file")?
            == 0
        {
            break;
        }
        summary.lines += 1;
        let number = i64::try_from(summary.lines).unwrap_or(i64::MAX);
        let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let key = format!("test:{number}");
        let explained = explaining.line(&context, Line { bytes: line, file: Some(&name), number, delivery_key: &key });
        print(explained, &mut summary)?;
    }
    print(explaining.finish(&context), &mut summary)?;
    if arguments.format == Format::Json {
        let answer = serde_json::json!({
            "profile": profile.decoder(), "digest": profile.digest(), "records": shown, "summary": summary.json(),
        });
        output::write(None, output::pretty(&answer).as_bytes())?;
    } else {
        output::talk(&format!("{}: {}", profile.decoder(), summary.text().trim_end()));
    }
    Ok(if summary.rejected > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn open(file: &Path) -> anyhow::Result<impl BufRead> {
    let opened = std::fs::File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    let mut source = BufReader::new(opened);
    let coding = Coding::of_magic(source.fill_buf().with_context(|| format!("cannot read {}", file.display()))?);
    let limits = Limits { bytes_max: u64::MAX, ratio_max: FILE_RATIO_MAX };
    Ok(BufReader::new(decompress::reader(source, coding, limits)?))
}

fn as_json(explained: &Explained) -> serde_json::Value {
    let fields: Vec<serde_json::Value> = explained
        .fields
        .iter()
        .map(|field| serde_json::json!({ "name": field.name, "from": field.from, "value": field.value }))
        .collect();
    let mut record = explained.record.to_json();
    record.remove("raw");
    serde_json::json!({
        "line": explained.record.origin_line, "rule": explained.rule, "kind": explained.record.kind,
        "reason": (explained.record.kind == Kind::Rejected).then(|| explained.record.text.clone()),
        "fields": fields, "keys": explained.record.keys, "attributes": explained.record.attributes, "record": record,
    })
}
