//! `threadline doctor`: one line per check, each `ok`, `warn` or `fail` with the next step.

use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use threadline_schemas::display::{self, Lines};

use super::client::Client;
use super::output::Column;
use super::{DoctorArguments, Format, Place, data_directory, output};

const COLUMNS: &[Column] = &[("STATE", "state"), ("CHECK", "check"), ("DETAIL", "detail")];

/// Less free space than this is a warning (1 GiB).
const FREE_BYTES_WARN: u64 = 1 << 30;
/// Less than this is a failure: the log needs room for its segments (256 MiB).
const FREE_BYTES_FAIL: u64 = 256 << 20;

enum Verdict {
    Ok(String),
    Warn(String),
    Fail(String),
}

/// Exit code 1 when a check failed.
pub(crate) async fn run(arguments: DoctorArguments) -> anyhow::Result<ExitCode> {
    let mut checks = vec![("clock", clock())];
    let mut local = None;
    if arguments.place.url.is_none() {
        let directory = data_directory(arguments.place.data.clone())?;
        checks.push(("data directory", mode(&directory)));
        checks.push(("disk space", space(&directory)));
        if directory.exists() {
            checks.push(("log sync", sync_latency(&directory)));
        }
        local = Some(directory);
    }
    let outbox = outbox();
    let only_sends = arguments.place.url.is_none()
        && outbox.is_some()
        && !data_directory(arguments.place.data.clone())?.join("format.json").exists();
    checks.extend(outbox.map(|verdict| ("outbox", verdict)));
    if only_sends {
        checks.push((
            "store",
            Verdict::Ok("none here: this machine sends elsewhere; --url URL checks that server".into()),
        ));
    } else {
        checks.push(("store", store(&arguments.place).await));
    }
    if let Some(directory) = local.filter(|directory| directory.join("format.json").exists()) {
        checks.extend(torn_ends(&directory).into_iter().map(|verdict| ("log", verdict)));
        checks.extend(files(&directory).await.into_iter().map(|verdict| ("files", verdict)));
    }
    let (mut rows, mut failed) = (Vec::new(), false);
    for (name, verdict) in checks {
        let (word, detail) = match verdict {
            Verdict::Ok(detail) => ("ok", detail),
            Verdict::Warn(detail) => ("warn", detail),
            Verdict::Fail(detail) => {
                failed = true;
                ("fail", detail)
            }
        };
        rows.push(serde_json::json!({"state": word, "check": name, "detail": detail}));
    }
    match arguments.printing.format {
        Format::Table => output::write(arguments.printing.output.as_deref(), text(&rows).as_bytes())?,
        _ => output::rows(&arguments.printing, &serde_json::json!({"data": rows}), &rows, COLUMNS)?,
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(rows: &[serde_json::Value]) -> String {
    let part = |row: &serde_json::Value, key: &str| display::terminal(row[key].as_str().unwrap_or(""), Lines::Keep);
    let line = |row| format!("{:<5} {}: {}\n", part(row, "state"), part(row, "check"), part(row, "detail"));
    rows.iter().map(line).collect()
}

fn clock() -> Verdict {
    // Nobody runs this before it was written.
    const WRITTEN_UNIX_S: u64 = 1_795_000_000;
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(now) if now.as_secs() >= WRITTEN_UNIX_S => Verdict::Ok("plausible, UTC is used throughout".into()),
        _ => Verdict::Fail("the system clock is in the past: set it, or every observed time will be wrong".into()),
    }
}

fn mode(directory: &Path) -> Verdict {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::metadata(directory) {
        Err(_) => Verdict::Warn(format!(
            "{} does not exist yet: `threadline serve` or `import` makes it",
            directory.display()
        )),
        Ok(found) if found.permissions().mode() & 0o077 != 0 => {
            Verdict::Warn(format!("others can read {0}: chmod 700 {0}", directory.display()))
        }
        Ok(_) => Verdict::Ok(format!("{}, readable by its owner only", directory.display())),
    }
}

fn space(directory: &Path) -> Verdict {
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Err(error) => Verdict::Warn(format!("cannot ask the file system: {error}")),
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let text = format!("{} MiB free", free >> 20);
            match free {
                f if f < FREE_BYTES_FAIL => {
                    Verdict::Fail(format!("{text}: free some, nothing is acknowledged on a full disk"))
                }
                f if f < FREE_BYTES_WARN => Verdict::Warn(format!("{text}: plan for more")),
                _ => Verdict::Ok(text),
            }
        }
    }
}

/// How long an acknowledgement waits at least: one small write and sync, median of nine.
fn sync_latency(directory: &Path) -> Verdict {
    match measure_sync(directory) {
        Ok(micros) => Verdict::Ok(format!("{micros} µs median for 4 KiB")),
        Err(error) => Verdict::Fail(format!("cannot write and sync in {}: {error}", directory.display())),
    }
}

fn measure_sync(directory: &Path) -> std::io::Result<u128> {
    use std::io::Write;
    let path = directory.join(format!(".doctor-{}", uuid::Uuid::new_v4()));
    let mut file = std::fs::File::create(&path)?;
    let mut micros = Vec::new();
    for _ in 0..9 {
        let start = std::time::Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        micros.push(start.elapsed().as_micros());
    }
    std::fs::remove_file(&path)?;
    micros.sort_unstable();
    Ok(micros[micros.len() / 2])
}

/// What waits for servers elsewhere; `None` where nothing was ever sent from here.
fn outbox() -> Option<Verdict> {
    let state = super::state_directory(std::env::var_os("THREADLINE_STATE").map(Into::into)).ok()?;
    match threadline_ingest::remote::waiting(&state) {
        Err(error) => Some(Verdict::Fail(format!("{:#}", anyhow::Error::new(error)))),
        Ok(waiting) if waiting.records.is_empty() => {
            waiting.collector.map(|id| Verdict::Ok(format!("nothing waits to be sent (collector {id})")))
        }
        Ok(waiting) => {
            let left = waiting.records.iter().map(|(server, records)| format!("{records} records for {server}"));
            let left = left.collect::<Vec<_>>().join(", ");
            Some(Verdict::Warn(format!(
                "{left} wait in {}: they are sent when a collector runs with --to that server and it is up",
                state.display()
            )))
        }
    }
}

/// What was cut off the end of the log at a start.
fn torn_ends(directory: &Path) -> Vec<Verdict> {
    let log = directory.join("log/0");
    if !log.exists() {
        // What only collectors wrote to has its inbox and no log yet.
        return vec![Verdict::Ok("there is none yet: nothing has taken in what collectors left".into())];
    }
    match threadline_store::log::Log::torn_ends(&log) {
        Err(error) => vec![Verdict::Fail(format!("cannot be listed: {:#}", anyhow::Error::new(error)))],
        Ok(ends) => ends
            .iter()
            .map(|end| {
                Verdict::Warn(format!(
                    "{} was cut off the end of the log at a start: a write that a crash tore before it was acknowledged, or \
                     the newest one has rotted. Remove the file when nothing is missing",
                    end.display()
                ))
            })
            .collect(),
    }
}

/// Every sealed byte against the digests in the table: one line, or one per damaged file.
async fn files(directory: &Path) -> Vec<Verdict> {
    let bar = indicatif::ProgressBar::new(0);
    let shown = bar.clone();
    let verified = threadline_store::verify(directory, move |done, total, path| {
        shown.set_length(total as u64);
        shown.set_position(done as u64);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        shown.set_message(threadline_schemas::display::terminal(&name, threadline_schemas::display::Lines::Show));
    });
    let verified = verified.await;
    bar.finish_and_clear();
    let found = match verified {
        Ok(found) => found,
        Err(error) => return vec![Verdict::Fail(format!("cannot be verified: {:#}", anyhow::Error::from(error)))],
    };
    let damaged = found
        .damages
        .iter()
        .map(|damage| Verdict::Fail(format!("{}: {}. Next: {}", damage.path.display(), damage.what, damage.next_step)));
    let mut verdicts: Vec<Verdict> = damaged.collect();
    let text = format!("{} files, {} MiB are as they were sealed", found.files, found.bytes >> 20);
    verdicts.push(match found.without_digest {
        0 => Verdict::Ok(text),
        old => Verdict::Warn(format!("{text}; {old} of an older format have no digest and cannot be verified")),
    });
    verdicts
}

async fn store(place: &Place) -> Verdict {
    let answer = match Client::open(place) {
        Ok(client) => client.get("/api/v1/sessions", &[("limit", "1".into())]).await,
        Err(error) => Err(error),
    };
    match answer {
        Err(error) => Verdict::Fail(format!("{error:#}")),
        Ok(answer) => {
            let number = |path: &str| answer.pointer(path).and_then(serde_json::Value::as_i64).unwrap_or(0);
            let text = format!(
                "readable: table version {}, {} sealed rows, {} recent rows",
                number("/completeness/snapshot/table_version"),
                number("/completeness/snapshot/sealed_rows"),
                number("/completeness/snapshot/tail_rows"),
            );
            match number("/completeness/snapshot/files_without_text_index") {
                0 => Verdict::Ok(text),
                missing => {
                    Verdict::Warn(format!("{text}; {missing} files have no text index yet and are scanned by searches"))
                }
            }
        }
    }
}
