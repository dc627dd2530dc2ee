//! Moves what collectors spooled into the main log.
//!
//! Invariants
//! - a spool's mark moves only after the main log acknowledged: a crash in between repeats frames, which admission drops
//! - a spool whose owner ended without closing it leaves a `gap` record, appended before the spool goes
//! - one bad spool does not hold up the others: it is reported, and set aside once its owner is gone
//!
//! Not here: what the inbox looks like on disk.

use std::{collections::HashMap, sync::Arc};

use threadline_schemas::encoding;
use uuid::Uuid;

use crate::{
    AppendError, StoreError,
    appender::{Frame, append_all, frame},
    inbox::{End, Inbox, Removal, SpoolDrain},
    log::{Frames, LogError},
    store::{Core, blocking},
};

/// Most frames and bytes that are read from a spool before they go to the log.
const ROUND_FRAMES_MAX: usize = 4096;
const ROUND_BYTES_MAX: usize = 4 << 20;

/// The drainer's own state; one per store.
#[derive(Debug)]
pub(crate) struct Drainer {
    core: Arc<Core>,
    inbox: Inbox,
    /// Where each spool has been read to.
    open: HashMap<Uuid, Frames>,
    /// Spools that cannot be read, so that each is reported once.
    bad: HashMap<Uuid, ()>,
}

impl Drainer {
    pub(crate) fn new(core: Arc<Core>, inbox: Inbox) -> Drainer {
        Drainer { core, inbox, open: HashMap::new(), bad: HashMap::new() }
    }

    /// How often the inbox is looked at.
    pub(crate) fn poll_ms(&self) -> u64 {
        self.core.config.inbox_poll_ms
    }

    /// Moves everything that is in the inbox now; returns the number of frames.
    pub(crate) async fn drain(&mut self) -> Result<usize, StoreError> {
        let inbox = self.inbox.clone();
        let spools = blocking(move || Ok(inbox.spools()?)).await?;
        let names: Vec<Uuid> = spools.iter().map(SpoolDrain::id).collect();
        self.open.retain(|id, _| names.contains(id));
        self.bad.retain(|id, ()| names.contains(id));
        let mut moved = 0;
        for spool in spools {
            if self.bad.contains_key(&spool.id()) {
                continue;
            }
            match self.drain_spool(&spool).await {
                Ok(frames) => moved += frames,
                // The main log takes nothing now, from any spool.
                Err(error) if concerns_all(&error) => return Err(error),
                Err(error) => self.give_up(&spool, &error).await,
            }
        }
        Ok(moved)
    }

    async fn drain_spool(&mut self, spool: &SpoolDrain) -> Result<usize, StoreError> {
        let mut moved = 0;
        loop {
            let known = self.open.remove(&spool.id());
            let reading = spool.clone();
            let (frames, batch, end) = blocking(move || {
                let mut frames = match known {
                    Some(frames) => frames,
                    None => reading.frames()?,
                };
                let (batch, end, whole) = read_round(&reading, &mut frames)?;
                Ok((whole.then_some(frames), batch, end))
            })
            .await?;
            let count = batch.len();
            if count > 0 {
                append_all(&self.core, batch, None).await.map_err(into_store_error)?;
                let marking = spool.clone();
                blocking(move || Ok(marking.mark_drained(end)?)).await?;
                moved += count;
            }
            frames.map(|frames| self.open.insert(spool.id(), frames));
            if count == 0 {
                break;
            }
        }
        let Some(signs) = self.sign_off(spool).await? else { return Ok(moved) };
        moved += signs;
        let finished = spool.clone();
        if blocking(move || Ok(finished.remove_if_finished()?)).await? == Removal::Removed {
            self.open.remove(&spool.id());
        }
        Ok(moved)
    }

    /// Appends the sign of a killed collector, once everything that it had recorded is drained; how many were appended.
    /// `None` while its owner lives: one that is killed right now must not be removed without its sign.
    async fn sign_off(&self, spool: &SpoolDrain) -> Result<Option<usize>, StoreError> {
        let (ended, tenant) = (spool.clone(), self.core.config.tenant.clone());
        let gap = match blocking(move || Ok(ended.end(&tenant)?)).await? {
            End::Open => return Ok(None),
            End::Closed => return Ok(Some(0)),
            End::Abandoned(gap) => *gap,
        };
        let frame = frame(gap, &self.core.config).map_err(into_store_error)?;
        // A crash between this and the removal of the spool repeats it under the same id.
        append_all(&self.core, vec![frame], None).await.map_err(into_store_error)?;
        Ok(Some(1))
    }

    async fn give_up(&mut self, spool: &SpoolDrain, error: &StoreError) {
        tracing::error!(spool = %spool.id(), error = error as &dyn std::error::Error, "a spool cannot be drained");
        self.open.remove(&spool.id());
        let aside = spool.clone();
        if matches!(error, StoreError::Log(LogError::Corrupt { .. }))
            && let Err(error) = blocking(move || Ok(aside.set_aside()?)).await
        {
            tracing::error!(error = &error as &dyn std::error::Error, "a spool cannot be set aside");
        }
        self.bad.insert(spool.id(), ());
    }
}

/// Reads the next frames of a spool, the offset behind them, and whether the reader can go on. An error behind good
/// frames is left for the next round, so that those are not lost.
fn read_round(spool: &SpoolDrain, frames: &mut Frames) -> Result<(Vec<Frame>, u64, bool), StoreError> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut end = frames.next_offset();
    while batch.len() < ROUND_FRAMES_MAX && bytes < ROUND_BYTES_MAX {
        let Some(frame) = frames.next() else { break };
        let decoded = frame.map_err(StoreError::from).and_then(|(offset, payload)| {
            let record = encoding::decode(&payload);
            let dir = spool.dir().to_path_buf();
            let record = record.map_err(|source| StoreError::Frame { dir, offset, source })?;
            Ok((offset, Frame::new(record, payload)))
        });
        match decoded {
            Ok((offset, frame)) => {
                bytes += frame.bytes.len();
                end = offset + 1;
                batch.push(frame);
            }
            Err(_) if !batch.is_empty() => return Ok((batch, end, false)),
            Err(error) => return Err(error),
        }
    }
    Ok((batch, end, true))
}

/// Errors of the main log, as opposed to those of one spool.
fn concerns_all(error: &StoreError) -> bool {
    matches!(error, StoreError::Closed | StoreError::Append(_))
}

fn into_store_error(error: AppendError) -> StoreError {
    match error {
        AppendError::Closed => StoreError::Closed,
        other => StoreError::Append(Box::new(other)),
    }
}
