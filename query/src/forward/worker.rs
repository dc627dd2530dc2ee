//! One sink's task: read, pair, render, deliver, and only then move the cursor.
//!
//! ```text
//! pages ─> pairs ─> render ─> batch ─> deliver ─┬─> delivered
//!                                               ├─> rejected ─> dead letters
//!                                               └─> later ─> back-off ─> deliver
//! then: cursor saved (a crash before it repeats the batch)
//! ```
//!
//! Invariants
//! - the cursor is saved after every event before it is delivered or buried, never before
//! - a batch that is refused as a whole is halved until the one event at fault is found
//! - an error of our own disk or a damaged record stops the sink, with its reason in `status.json`; nothing is skipped
//! - full dead letters stop it too, until a replay that is asked for has made room

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, Utc};
use threadline_schemas::ocsf::SessionFacts;
use threadline_store::{Commits, SealedFile};
use tokio::sync::watch;

use super::ForwardError;
use super::backoff::Backoff;
use super::config::{SinkConfig, Start};
use super::event::Event;
use super::known::{self, Known};
use super::pages::{Page, Pages, Row};
use super::pairs::{Pairs, Told};
use super::position::{Place, Position};
use super::render::{Rendered, Renderer};
use super::sinks::{Outcome, Sink, SinkError};
use super::state::{DeadLetter, Doing, LastError, ReplayRequest, State};

/// How often the table is looked at for a new commit.
const POLL: Duration = Duration::from_millis(300);
/// How often the status is written while nothing changes.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How often our log tells of dead letters.
const WARN_EVERY: Duration = Duration::from_secs(60);
const DEAD_LETTERS_TOLD: &str = "events were refused or are not valid, and are dead letters now";
/// Rows after which it is written down what was learned of sessions: as many are learned again after a crash.
const LEARNED_EVERY: u32 = 200_000;
/// Rows that are learned from at once.
const LEARNED_AT_ONCE: u32 = 4_096;
/// Dead letters that are sent again before the file is written anew.
const DEAD_LETTERS_PART: usize = 500;

/// See the head of this file.
pub struct Worker {
    commits: Commits,
    config: SinkConfig,
    sink: Box<dyn Sink>,
    renderer: Renderer,
    state: State,
    backoff: Backoff,
    doing: Doing,
    told_at: Option<Instant>,
    refusals: Refusals,
    shutdown: watch::Receiver<bool>,
}

/// What is read and not delivered yet.
#[derive(Default)]
struct Batch {
    events: VecDeque<Event>,
    bytes: usize,
    invalid: Vec<(Event, String)>,
    filtered: u64,
    since: Option<Instant>,
    /// After the rows that were read; none: nothing was read.
    end: Option<Position>,
    settled: Option<Position>,
}

/// One way through the table.
struct Reading {
    pages: Pages,
    pairs: Pairs,
    known: Known,
    /// Before it every file was learned from.
    learned: Place,
    /// The same, as it is written down.
    learned_to: Position,
    /// Rows since that was written down.
    rows_learned: u32,
    /// Before it nothing waits.
    settled: Place,
    /// Before it every row was told.
    delivered: Place,
}

impl Reading {
    /// Learns from a whole file, unless that was done; before a row of it is told.
    async fn learn(&mut self, commits: &Commits, file: &Arc<SealedFile>, at: Place) -> Result<(), ForwardError> {
        if (Place { row: 0, ..at }) < self.learned {
            return Ok(());
        }
        self.known.begin();
        let mut said = known::File::default();
        for from in (0..file.rows).step_by(LEARNED_AT_ONCE as usize) {
            let rows = commits.rows_of(file, from..from + LEARNED_AT_ONCE, known::COLUMNS.to_vec()).await?;
            for (record, row) in rows.iter().zip(from..) {
                self.known.read(record, known::place(Some(file.id), row), &mut said);
            }
        }
        self.known.end(said);
        self.learned = Place { row: file.rows, ..at };
        self.learned_to = Position { version: at.version, file: Some(file.id), row: file.rows };
        self.rows_learned += file.rows;
        Ok(())
    }

    /// Learns again what was learned after it was last written down and before a crash.
    async fn catch_up(&mut self, commits: &Commits) -> Result<(), ForwardError> {
        for version in self.learned.version..=self.settled.version {
            let Some(commit) = commits.read(version).await? else { return Ok(()) };
            for (index, file) in commit.files.iter().enumerate() {
                let at = Place { version, file: index as u32, row: 0 };
                if at < self.settled {
                    self.learn(commits, file, at).await?;
                }
            }
        }
        Ok(())
    }

    /// What this row completes.
    fn take(&mut self, row: Row, committed_ms: i64, known: &mut Vec<Told>, told: &mut Vec<Told>) {
        let to = if row.place < self.delivered { known } else { told };
        let from = to.len();
        self.pairs.take(row, committed_ms, to);
        self.say(&mut to[from..]);
    }

    fn expire(&mut self, now_ms: i64) -> Vec<Told> {
        let mut told = Vec::new();
        self.pairs.expire(now_ms, &mut told);
        self.say(&mut told);
        told
    }

    /// What is known of their sessions by now.
    fn say(&self, told: &mut [Told]) {
        told.iter_mut().for_each(|told| told.session = known_of(&self.known, told));
    }
}

fn known_of(known: &Known, told: &Told) -> SessionFacts {
    known.of(&told.record, known::place(told.at.file, told.at.row))
}

/// The sink was told to stop.
struct Stopped;

/// Dead letters that our log does not name yet.
#[derive(Debug, Default)]
struct Refusals {
    untold: u64,
    told_at: Option<Instant>,
}

impl Refusals {
    /// One more; how many to tell of now.
    fn note(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        let is_due = self.told_at.is_none_or(|at| now.duration_since(at) >= WARN_EVERY);
        is_due.then(|| {
            self.told_at = Some(now);
            std::mem::take(&mut self.untold)
        })
    }
}

impl Worker {
    /// Takes the sink's folder and makes its receiver ready.
    ///
    /// # Errors
    /// When another process forwards to it, or it cannot be made ready.
    pub fn start(
        commits: Commits,
        config: SinkConfig,
        base_url: Option<String>,
        shutdown: watch::Receiver<bool>,
    ) -> Result<Worker, ForwardError> {
        let data: PathBuf = commits.data_dir().to_path_buf();
        let first = match config.common.start {
            Start::Beginning => Position::before(0),
            Start::Now => Position::before(super::status::newest_version(&data) + 1),
        };
        let state = State::open(&data, &config.name, config.common.dead_letter_bytes_max, first)?;
        let mut doing = Doing {
            state: "idle".into(),
            kind: config.destination.type_name().into(),
            ocsf_version: config.common.ocsf_version.as_str().into(),
            pid: std::process::id(),
            ..Doing::default()
        };
        let sink = match config.destination.open(&config) {
            Ok(sink) => sink,
            Err(reason) => {
                (doing.state, doing.reason, doing.at) = ("stopped".into(), Some(reason.clone()), now());
                state.tell(&doing)?;
                return Err(ForwardError::Sink { sink: config.name.clone(), reason });
            }
        };
        let backoff = Backoff::new(Duration::from_secs(config.common.retry_max_s));
        let renderer = Renderer::new(&config.common, base_url);
        let refusals = Refusals::default();
        Ok(Worker { commits, config, sink, renderer, state, backoff, doing, told_at: None, refusals, shutdown })
    }

    /// Forwards until told to stop; what stops it otherwise is in its status and our log.
    pub async fn run(mut self) {
        let ended = self.forward().await;
        // What the sink still holds open is closed; its events are delivered already.
        if let Err(error) = self.sink.idle().await {
            tracing::warn!(sink = %self.config.name, %error, "a sink did not end well");
        }
        let (state, reason) = match &ended {
            Ok(()) => ("ended", None),
            Err(error) => {
                tracing::error!(sink = %self.config.name, error = error as &dyn std::error::Error, "a sink stops");
                let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
                ("stopped", Some(causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")))
            }
        };
        self.warn_of_rest();
        // The last error goes with the cursor, so it is known when this process is gone.
        if let Err(error) = self.tell(state, reason, true).and_then(|()| self.state.save()) {
            tracing::error!(sink = %self.config.name, error = &error as &dyn std::error::Error, "no status");
        }
    }

    /// Does one replay and returns; for a process that does nothing else.
    ///
    /// # Errors
    /// What stops a sink, and that the receiver is away for longer than the back-off allows is none: it is waited for.
    pub async fn run_replay(mut self, request: &ReplayRequest) -> Result<u64, ForwardError> {
        let before = self.state.cursor.counts.sent;
        let done = self.replay(request, None).await?;
        self.warn_of_rest();
        self.tell("ended", done.err().map(|Stopped| "stopped during a replay".into()), true)?;
        self.state.save()?;
        Ok(self.state.cursor.counts.sent - before)
    }

    async fn forward(&mut self) -> Result<(), ForwardError> {
        let mut is_full = false;
        loop {
            let ended = if is_full { self.make_room().await } else { self.follow().await };
            match ended {
                Err(full @ ForwardError::DeadLettersFull { .. }) => {
                    tracing::error!(sink = %self.config.name, error = &full as &dyn std::error::Error, "a sink stops until a replay");
                    self.tell("stopped", Some(full.to_string()), true)?;
                    self.state.save()?;
                    is_full = true;
                }
                Ok(()) if is_full && !*self.shutdown.borrow() => is_full = false,
                ended => return ended,
            }
        }
    }

    /// Waits until a replay was asked for and is done; reading begins again at the cursor then.
    async fn make_room(&mut self) -> Result<(), ForwardError> {
        let mut is_closed = false;
        while !*self.shutdown.borrow() {
            // What the sink still holds open is of events that are delivered.
            is_closed = is_closed || self.sink.idle().await.is_ok();
            if self.replay_asked_for(None).await?.unwrap_or(true) {
                return Ok(());
            }
            let reason = self.doing.reason.clone();
            self.tell("stopped", reason, false)?;
            if self.pause(POLL).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Does the replay that was asked for; whether there was one. `known`: what is known of sessions; none: as it was
    /// written down.
    async fn replay_asked_for(&mut self, known: Option<&Known>) -> Result<Result<bool, Stopped>, ForwardError> {
        let Some(request) = self.state.replay_request()? else { return Ok(Ok(false)) };
        let done = self.replay(&request, known).await;
        // One that fills the dead letters would fill them again; one that was stopped goes on after the restart.
        if matches!(done, Ok(Ok(())) | Err(ForwardError::DeadLettersFull { .. })) {
            self.state.replay_done()?;
        }
        Ok(done?.map(|()| true))
    }

    async fn follow(&mut self) -> Result<(), ForwardError> {
        self.tell("idle", None, true)?;
        let (learned_to, known) = match self.state.known() {
            Some(learned) => learned,
            None => {
                // From here on a crash loses nothing of it.
                let learned = (Position { row: 0, ..self.state.cursor.settled }, Known::default());
                self.state.save_known(learned.0, &learned.1)?;
                learned
            }
        };
        let (settled, delivered) = (self.state.cursor.settled, self.state.cursor.delivered);
        let mut reading = Reading {
            pages: self.pages(settled),
            pairs: self.pairs(),
            known,
            learned: Pages::place(&self.commits, learned_to).await?,
            learned_to,
            rows_learned: 0,
            settled: Pages::place(&self.commits, settled).await?,
            delivered: Pages::place(&self.commits, delivered).await?,
        };
        reading.catch_up(&self.commits).await?;
        let done = self.follow_in(&mut reading).await;
        self.state.save_known(reading.learned_to, &reading.known)?;
        done
    }

    async fn follow_in(&mut self, reading: &mut Reading) -> Result<(), ForwardError> {
        let mut batch = Batch::default();
        while !*self.shutdown.borrow() {
            if self.replay_asked_for(Some(&reading.known)).await?.is_err() {
                return Ok(());
            }
            let page = reading.pages.next().await?;
            let caught_up = page.is_none();
            if let Some(page) = page {
                self.read(page, reading, &mut batch).await?;
            } else {
                let told = reading.expire(Utc::now().timestamp_millis());
                if !told.is_empty() {
                    self.render_all(told, &mut batch);
                    let read = batch.end.unwrap_or(self.state.cursor.delivered);
                    batch.end = Some(read);
                    batch.settled = Some(reading.pairs.settled(read));
                }
            }
            if self.is_due(&batch, caught_up) {
                if self.hand_over(&mut batch).await?.is_err() {
                    return Ok(());
                }
                if reading.rows_learned >= LEARNED_EVERY {
                    self.state.save_known(reading.learned_to, &reading.known)?;
                    reading.rows_learned = 0;
                }
            }
            if caught_up {
                let is_idle = batch.events.is_empty();
                if is_idle && let Err(error) = self.sink.idle().await {
                    self.tell("retrying", Some(error.to_string()), false)?;
                } else if is_idle {
                    self.tell("idle", None, false)?;
                }
                if self.pause(self.until_due(&batch)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn pages(&self, from: Position) -> Pages {
        Pages::new(self.commits.clone(), from, self.config.common.batch_bytes.max(1 << 20) * 4)
    }

    fn pairs(&self) -> Pairs {
        Pairs::new(self.config.common.result_wait_s as i64 * 1000)
    }

    /// Rows before the cursor were told already; they only show which calls wait, and whose session is whose.
    async fn read(&mut self, page: Page, reading: &mut Reading, batch: &mut Batch) -> Result<(), ForwardError> {
        reading.learn(&self.commits, &page.file, page.end_place).await?;
        let mut told = reading.expire(page.committed_ms);
        let mut known = Vec::new();
        for row in page.rows {
            reading.take(row, page.committed_ms, &mut known, &mut told);
        }
        self.render_all(told, batch);
        if page.end_place >= reading.delivered {
            batch.end = Some(page.end);
            batch.settled = Some(reading.pairs.settled(page.end));
        }
        Ok(())
    }

    fn render_all(&mut self, told: Vec<Told>, batch: &mut Batch) {
        for one in told {
            match self.renderer.render(&one) {
                Rendered::Filtered => batch.filtered += 1,
                Rendered::Invalid { event, reason } => batch.invalid.push((*event, reason)),
                Rendered::Event(event) => {
                    batch.bytes += event.text.len();
                    batch.events.push_back(*event);
                }
            }
        }
        if batch.since.is_none() && !batch.events.is_empty() {
            batch.since = Some(Instant::now());
        }
    }

    fn is_full(&self, batch: &Batch) -> bool {
        batch.events.len() >= self.config.common.batch_events || batch.bytes >= self.config.common.batch_bytes
    }

    fn is_due(&self, batch: &Batch, caught_up: bool) -> bool {
        if batch.end.is_none() {
            return false;
        }
        // Without an event only the cursor moves.
        let lingers = Duration::from_millis(self.config.common.linger_ms);
        let is_old = batch.since.is_none_or(|since| since.elapsed() >= lingers);
        self.is_full(batch)
            || !batch.invalid.is_empty()
            || (is_old && (caught_up || batch.since.is_some()))
            || batch.filtered > 10_000
    }

    fn until_due(&self, batch: &Batch) -> Duration {
        let lingers = Duration::from_millis(self.config.common.linger_ms);
        batch.since.map_or(POLL, |since| lingers.saturating_sub(since.elapsed()).clamp(Duration::from_millis(10), POLL))
    }

    /// Delivers the batch in parts that the sink takes, then moves the cursor.
    async fn hand_over(&mut self, batch: &mut Batch) -> Result<Result<(), Stopped>, ForwardError> {
        let mut batch = std::mem::take(batch);
        for (event, reason) in std::mem::take(&mut batch.invalid) {
            self.bury(&event, "invalid", &reason)?;
            self.state.cursor.counts.quarantined += 1;
        }
        while !batch.events.is_empty() {
            let part = self.part(&mut batch.events);
            if self.deliver(part).await?.is_err() {
                return Ok(Err(Stopped));
            }
        }
        self.state.cursor.counts.filtered += batch.filtered;
        if let Some(end) = batch.end {
            self.state.cursor.delivered = end;
            self.state.cursor.settled = batch.settled.unwrap_or(end);
        }
        // A crash before this repeats the batch, with the same ids.
        self.state.save()?;
        self.tell("delivering", None, false)?;
        Ok(Ok(()))
    }

    fn part(&self, events: &mut VecDeque<Event>) -> Vec<Event> {
        let mut bytes = 0;
        let mut part = Vec::new();
        while let Some(event) = events.front() {
            bytes += event.text.len();
            let is_over = part.len() >= self.config.common.batch_events || bytes > self.config.common.batch_bytes;
            if is_over && !part.is_empty() {
                break;
            }
            part.extend(events.pop_front());
        }
        part
    }

    /// Until each event is delivered or buried.
    async fn deliver(&mut self, events: Vec<Event>) -> Result<Result<(), Stopped>, ForwardError> {
        // Parts still to be delivered, the next one last; halves of a refused part keep their order.
        let mut parts = vec![events];
        let rejected_before = self.state.cursor.counts.rejected;
        while let Some(mut part) = parts.pop() {
            while !part.is_empty() {
                let mut shutdown = self.shutdown.clone();
                let outcome = tokio::select! {
                    outcome = self.sink.deliver(&part) => outcome,
                    // Nothing of it counts as delivered; it is sent again after the restart.
                    _ = shutdown.wait_for(|stop| *stop) => return Ok(Err(Stopped)),
                };
                let (reason, after) = match outcome {
                    Ok(outcomes) => match self.settle(&mut part, outcomes)? {
                        None => {
                            self.backoff.reset();
                            continue;
                        }
                        Some(later) => later,
                    },
                    Err(SinkError::Refused { .. }) if part.len() > 1 => {
                        parts.push(part.split_off(part.len() / 2));
                        continue;
                    }
                    Err(SinkError::Refused { reason }) => {
                        for event in part.drain(..) {
                            self.bury_rejected(&event, &reason)?;
                        }
                        continue;
                    }
                    Err(SinkError::Unavailable { reason, after }) => (reason, after),
                };
                self.state.cursor.counts.retries += 1;
                let pause = self.backoff.pause(after);
                let attempts = self.backoff.attempts();
                if attempts.is_power_of_two() {
                    tracing::warn!(sink = %self.config.name, reason, attempts, "a sink cannot be delivered to, trying again");
                }
                self.tell("retrying", Some(reason), false)?;
                if attempts.is_power_of_two() {
                    // Only the counts and the last error have changed.
                    self.state.save()?;
                }
                if self.pause(pause).await.is_err() {
                    return Ok(Err(Stopped));
                }
            }
        }
        if self.state.cursor.counts.rejected != rejected_before {
            // Who looks meanwhile finds as many refused as there are dead letters.
            self.state.save()?;
        }
        Ok(Ok(()))
    }

    /// Takes what is done with out of the part; gives why the rest is not.
    fn settle(
        &mut self,
        part: &mut Vec<Event>,
        outcomes: Vec<Outcome>,
    ) -> Result<Option<(String, Option<Duration>)>, ForwardError> {
        let mut later = None;
        let mut kept = Vec::new();
        let mut is_any_delivered = false;
        let mut outcomes = outcomes.into_iter();
        for event in part.drain(..) {
            // A sink that says less than it was given has not delivered the rest.
            match outcomes.next().unwrap_or(Outcome::Later { reason: "no answer for an event".into(), after: None }) {
                Outcome::Delivered => {
                    self.state.cursor.counts.sent += 1;
                    self.state.cursor.counts.bytes += event.text.len() as u64;
                    is_any_delivered = true;
                }
                Outcome::Rejected { reason } => self.bury_rejected(&event, &reason)?,
                Outcome::Later { reason, after } => {
                    later.get_or_insert((reason, after));
                    kept.push(event);
                }
            }
        }
        if is_any_delivered {
            self.state.cursor.last_delivery = Some(now());
        }
        *part = kept;
        Ok(later)
    }

    fn bury_rejected(&mut self, event: &Event, reason: &str) -> Result<(), ForwardError> {
        self.bury(event, "rejected", reason)?;
        self.state.cursor.counts.rejected += 1;
        Ok(())
    }

    /// Keeps an event as a dead letter. A receiver that refuses everything does not fill our log: the first is told, then
    /// how many more once a minute.
    fn bury(&mut self, event: &Event, why: &str, reason: &str) -> Result<(), ForwardError> {
        self.state.bury(event, why, reason)?;
        if let Some(events) = self.refusals.note(Instant::now()) {
            tracing::warn!(sink = %self.config.name, events, newest = %event.uid, why, reason, "{DEAD_LETTERS_TOLD}");
        }
        Ok(())
    }

    fn warn_of_rest(&mut self) {
        let events = std::mem::take(&mut self.refusals.untold);
        if events > 0 {
            tracing::warn!(sink = %self.config.name, events, "{DEAD_LETTERS_TOLD}");
        }
    }

    /// Sends dead letters or a range again. The cursor of the sink does not move.
    async fn replay(
        &mut self,
        request: &ReplayRequest,
        known: Option<&Known>,
    ) -> Result<Result<(), Stopped>, ForwardError> {
        let written = || self.state.known().map(|(_, known)| known);
        let known = known.cloned().or_else(written).unwrap_or_default();
        match request {
            ReplayRequest::DeadLetters => {
                self.state.is_reburying = true;
                let done = self.replay_dead_letters(&known).await;
                self.state.is_reburying = false;
                done
            }
            ReplayRequest::Versions { from, to } => {
                let first = Place { version: *from, file: 0, row: 0 };
                let mut reading = Reading {
                    pages: self.pages(Position::before(*from)),
                    pairs: self.pairs(),
                    known,
                    learned: first,
                    learned_to: Position::before(*from),
                    rows_learned: 0,
                    settled: first,
                    delivered: first,
                };
                let mut batch = Batch::default();
                while let Some(page) = reading.pages.next().await?.filter(|page| page.end.version <= *to) {
                    self.read(page, &mut reading, &mut batch).await?;
                    (batch.end, batch.settled) = (Some(self.state.cursor.delivered), Some(self.state.cursor.settled));
                    if self.is_full(&batch) && self.hand_over(&mut batch).await?.is_err() {
                        return Ok(Err(Stopped));
                    }
                }
                let told = reading.expire(i64::MAX / 2);
                self.render_all(told, &mut batch);
                (batch.end, batch.settled) = (Some(self.state.cursor.delivered), Some(self.state.cursor.settled));
                self.hand_over(&mut batch).await
            }
        }
    }

    /// Makes each dead letter's event again and delivers it. What is refused again is buried again, behind the others,
    /// before its old letter goes; a crash in between repeats a part.
    async fn replay_dead_letters(&mut self, known: &Known) -> Result<Result<(), Stopped>, ForwardError> {
        let mut left = self.state.dead_letters()?.len();
        while left > 0 {
            let letters = self.state.dead_letters()?;
            let part = &letters[..left.min(DEAD_LETTERS_PART).min(letters.len())];
            let (mut events, mut kept) = (VecDeque::new(), Vec::new());
            for letter in part {
                let Some(told) = self.told_again(letter, known).await? else {
                    kept.push(letter.because(letter.line.why.clone(), "its record is not where it was".into()));
                    continue;
                };
                let (Rendered::Event(event) | Rendered::Invalid { event, .. }) = self.renderer.render(&told) else {
                    // The filters of today leave it out.
                    self.state.cursor.counts.filtered += 1;
                    continue;
                };
                match self.renderer.fault(&event) {
                    Some(reason) => kept.push(letter.because("invalid".into(), reason)),
                    None => events.push_back(*event),
                }
            }
            while !events.is_empty() {
                let part = self.part(&mut events);
                if self.deliver(part).await?.is_err() {
                    return Ok(Err(Stopped));
                }
            }
            let mut remaining = self.state.dead_letters()?.split_off(part.len());
            remaining.extend(kept);
            self.state.keep_dead_letters(&remaining)?;
            self.state.save()?;
            left -= part.len();
        }
        Ok(Ok(()))
    }

    async fn told_again(&self, letter: &DeadLetter, known: &Known) -> Result<Option<Told>, ForwardError> {
        let Some(record) = self.record_at(letter.record).await? else { return Ok(None) };
        let request = match letter.request {
            Some(at) => self.record_at(at).await?,
            None => None,
        };
        let told = Told { request, request_at: letter.request, ..Told::of(record, letter.record) };
        Ok(Some(Told { session: known_of(known, &told), ..told }))
    }

    async fn record_at(&self, at: Position) -> Result<Option<threadline_schemas::Record>, ForwardError> {
        let Some(commit) = self.commits.read(at.version).await? else { return Ok(None) };
        let Some(file) = commit.files.iter().find(|file| Some(file.id) == at.file) else { return Ok(None) };
        Ok(self.commits.rows(file, at.row..at.row + 1).await?.pop())
    }

    async fn pause(&mut self, pause: Duration) -> Result<(), Stopped> {
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            _ = self.shutdown.wait_for(|stop| *stop) => Err(Stopped),
        }
    }

    /// Writes the status when it changed or is old.
    fn tell(&mut self, state: &str, reason: Option<String>, at_once: bool) -> Result<(), ForwardError> {
        // Trouble, and its end, are told at once.
        let is_news = self.doing.reason != reason;
        let is_old = self.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        if !(at_once || is_old || is_news) {
            return Ok(());
        }
        self.doing.state = state.into();
        self.doing.at = now();
        if let Some(reason) = &reason {
            self.state.cursor.last_error = Some(LastError { reason: reason.clone(), at: self.doing.at.clone() });
        }
        self.doing.reason = reason;
        self.told_at = Some(Instant::now());
        self.state.tell(&self.doing)
    }
}

fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_dead_letters_are_one_line_a_minute_and_all_of_them_are_counted() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let told: Vec<u64> = (0..1_000).filter_map(|n| refusals.note(start + Duration::from_millis(n))).collect();
        assert_eq!(told, [1]);
        assert_eq!(refusals.note(start + WARN_EVERY), Some(1_000));
        assert_eq!(refusals.untold, 0);
    }
}
