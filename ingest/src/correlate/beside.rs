//! The linker beside a server: provisional links within seconds, final ones when their interval has closed.
//!
//! ```text
//! look: what is new since the cursor, what is still open
//!   windows that closed        ─> judged whole, final
//!   windows that are growing   ─> their last minutes judged, provisional
//! then the cursor moves, in the commit that holds the rows
//! ```
//!
//! A window has closed when our clock is past its end, margin and lateness ([`Window::settles`]). What arrives after that
//! reruns it at once: the new opinion supersedes, the old one stays.
//!
//! Invariants
//! - the cursor is a position of the table `links`: a log offset below which every record was looked at, and the event time
//!   from which on nothing is final yet; after a stop or a kill the work goes on from there
//! - one pass holds one window, or [`RECENT_RECORDS_MAX`] records of a growing one
//! - at most `cpu_share` of one core over time
//!
//! Not here: what is believed (`correlate`), how a window is judged (`run`).

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use threadline_schemas::Record;
use threadline_store::links::LinksTable;
use threadline_store::{Reader, SealedFile, Snapshot};
use tokio::sync::watch;
use uuid::Uuid;

use super::run::{CorrelateError, Report, Times, judge, news_range};
use super::windows::{MARGIN_NANOS, MINUTE_NANOS, Minutes, PAUSE_NANOS, Window, minute, windows};

/// Log offset below which every record was looked at.
const READ: &str = "threadline/linker/read";
/// Event time from which on opinions are not final, nanoseconds.
const OPEN: &str = "threadline/linker/open";
/// How much of a growing window is judged again, at most.
const RECENT_NANOS: i64 = PAUSE_NANOS;
const RECENT_RECORDS_MAX: u64 = 20_000;

/// How the linker runs beside a server.
#[derive(Debug, Clone)]
pub struct Beside {
    /// Data directory.
    pub data: PathBuf,
    /// Pause between two looks at the store.
    pub pause: Duration,
    /// Share of one core that it may take, 0 to 1.
    pub cpu_share: f64,
    /// Our clock, nanoseconds since the Unix epoch.
    pub clock: fn() -> i64,
}

impl Beside {
    /// A look every five seconds, at most a quarter of one core.
    pub fn new(data: &Path) -> Beside {
        let clock = || chrono::Utc::now().timestamp_nanos_opt().unwrap_or(i64::MAX);
        Beside { data: data.to_path_buf(), pause: Duration::from_secs(5), cpu_share: 0.25, clock }
    }
}

/// Judges what is new until told to stop.
pub async fn run_beside(beside: Beside, reader: Reader, mut stop: watch::Receiver<bool>) {
    let mut work = Work::default();
    let mut failing = false;
    loop {
        let began = std::time::Instant::now();
        let result = match reader.snapshot().await {
            Ok(snapshot) => work.look(&beside.data, &snapshot, (beside.clock)()).await,
            Err(error) => Err(CorrelateError::Store(error)),
        };
        if let Err(error) = &result
            && !failing
        {
            tracing::error!(error = error as &dyn std::error::Error, "records cannot be correlated");
        }
        failing = result.is_err();
        let rest = began.elapsed().mul_f64((1.0 / beside.cpu_share.clamp(0.01, 1.0)) - 1.0);
        tokio::select! {
            _ = stop.changed() => return,
            () = tokio::time::sleep(rest.max(beside.pause)) => {}
        }
    }
}

/// What was done so far. Only the cursor outlives the process.
#[derive(Debug, Default)]
struct Work {
    times: Times,
    /// Records of the tail that were looked at.
    seen_tail: BTreeSet<Uuid>,
    cursor: Option<Cursor>,
    /// The windows of the last look.
    windows: Option<Vec<Window>>,
}

/// See the constants of the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    read: i64,
    open: i64,
}

impl Work {
    async fn look(&mut self, data: &Path, snapshot: &Snapshot, now: i64) -> Result<Report, CorrelateError> {
        let mut report = Report::default();
        let minutes = self.times.of(snapshot).await?;
        if !self.times.any_judged {
            return Ok(report);
        }
        let mut table = LinksTable::open_or_create(data).await?;
        let cursor = match self.cursor {
            Some(cursor) => cursor,
            None => Cursor {
                read: table.position(READ).await?.unwrap_or(0),
                open: table.position(OPEN).await?.unwrap_or(i64::MAX),
            },
        };
        let is_new = |record: &Record| !self.seen_tail.contains(&record.event_id);
        let news = news_range(snapshot, |file| end(file) > cursor.read, is_new);
        let looked_at = || windows(&self.times.of_files(snapshot, |file| end(file) <= cursor.read));
        let earlier = self.windows.take().unwrap_or_else(looked_at);
        let now_windows = windows(&minutes);
        let mut open = i64::MAX;
        for window in now_windows.iter().copied() {
            // More records may cut a stretch otherwise, so that parts change that they do not touch.
            let touched = news.is_some_and(|news| window.touches(news)) || !earlier.contains(&window);
            if !touched && window.to <= cursor.open {
                continue;
            }
            if window.settles <= now {
                let rows = judge(snapshot, &table, window, true, &mut report).await?;
                table.append(rows).await?;
                continue;
            }
            open = open.min(window.from);
            if touched {
                let rows = judge(snapshot, &table, recent(window, &minutes), false, &mut report).await?;
                table.append(rows).await?;
            }
        }
        let read = snapshot.files().iter().map(|file| end(file)).max().unwrap_or(0).max(cursor.read);
        let moved = Cursor { read, open };
        if moved != cursor {
            table.commit(Vec::new(), &[(READ, moved.read), (OPEN, moved.open)]).await?;
        }
        self.cursor = Some(moved);
        self.windows = Some(now_windows);
        self.seen_tail = snapshot.tail().iter().map(|record| record.event_id).collect();
        Ok(report)
    }
}

fn end(file: &SealedFile) -> i64 {
    i64::try_from(file.offsets.end).unwrap_or(i64::MAX)
}

/// The end of a growing window: the last minutes, as many as hold few enough records, with a margin before them.
fn recent(window: Window, minutes: &Minutes) -> Window {
    let inside = || minutes.range(minute(window.from)..=minute(window.to.saturating_sub(1)));
    let Some((last, _)) = inside().next_back() else { return window };
    let mut held = 0;
    let mut first = *last;
    for (at, minute) in inside().rev() {
        held += minute.records;
        if held > RECENT_RECORDS_MAX || (last - at) * MINUTE_NANOS > RECENT_NANOS {
            break;
        }
        first = *at;
    }
    let from = first.saturating_mul(MINUTE_NANOS).max(window.from);
    Window { from, read_from: from.saturating_sub(MARGIN_NANOS).max(window.read_from), ..window }
}
