//! The drainer's end of a spool: read, mark, remove.
//!
//! Invariants
//! - the mark moves only forward, and is durable before the spool or a segment of it goes
//! - a spool is removed only while its lock is ours (the owner is gone) and after its frames were read to the end again:
//!   whoever asks for the removal does not have to be believed

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
};

use chrono::Utc;
use threadline_schemas::{Record, abandoned, encoding};
use uuid::Uuid;

use super::{
    CLOSED_FILE, CORRUPT_SUFFIX, DRAINED_FILE, DrainedFile, InboxError, SPOOL_FILE, SPOOL_VERSION, SpoolFile,
    SpoolInfo, read_drained, read_json, remove_dir, write_json,
};
use crate::{
    durable,
    log::{Frames, LogReader, OWNER_LOCK},
};

/// What became of a request to remove a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is gone.
    Removed,
    /// Its owner still writes.
    Alive,
    /// Frames from this offset on are not marked as drained.
    NotDrained {
        /// The first of them.
        offset: u64,
    },
}

/// How a spool has ended.
#[derive(Debug, PartialEq)]
pub enum End {
    /// It has not: its owner still writes.
    Open,
    /// Its owner closed it, or is of a version that does not say so.
    Closed,
    /// Its owner is gone without closing it; the `gap` record that says so.
    Abandoned(Box<Record>),
}

/// A spool to be drained.
#[derive(Debug, Clone)]
pub struct SpoolDrain {
    id: Uuid,
    dir: PathBuf,
}

impl SpoolDrain {
    pub(super) fn new(inbox: &Path, id: Uuid) -> SpoolDrain {
        SpoolDrain { id, dir: inbox.join(id.to_string()) }
    }

    /// The spool's name.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it says about its owner. Its frames are readable without this.
    pub fn info(&self) -> Result<SpoolInfo, InboxError> {
        let path = self.dir.join(SPOOL_FILE);
        match read_json::<SpoolFile>(&path)? {
            Some(file) if file.version == SPOOL_VERSION => {
                Ok(SpoolInfo { source_name: file.source_name, pid: file.pid, started_us: file.started_us })
            }
            _ => Err(InboxError::Damaged { path }),
        }
    }

    /// Every offset below this one was drained.
    pub fn drained(&self) -> Result<u64, InboxError> {
        read_drained(&self.dir)
    }

    /// The frames after the mark. Keep it and call `next` again to follow a live owner.
    pub fn frames(&self) -> Result<Frames, InboxError> {
        Ok(LogReader::open(&self.dir)?.frames(self.drained()?))
    }

    /// Marks every offset below `drained` as drained. Call it after the main log has acknowledged them. A crash before
    /// that repeats them, which is fine.
    pub fn mark_drained(&self, drained: u64) -> Result<(), InboxError> {
        if drained > self.drained()? {
            let file = DrainedFile { version: SPOOL_VERSION, drained };
            write_json(&self.dir.join(DRAINED_FILE), &file)?;
        }
        Ok(())
    }

    /// Every frame whose segment is still there, drained or not.
    pub fn frames_kept(&self) -> Result<Frames, InboxError> {
        let log = LogReader::open(&self.dir)?;
        let first = log.first_offset()?;
        Ok(log.frames(first))
    }

    /// Whether and how it has ended.
    pub fn end(&self, tenant: &str) -> Result<End, InboxError> {
        // Nobody comes back to a spool: once its lock was ours, the answer stays true.
        let Some(_lock) = self.lock()? else {
            return Ok(End::Open);
        };
        let closes = read_json::<SpoolFile>(&self.dir.join(SPOOL_FILE))?.is_some_and(|file| file.closes);
        if !closes || self.dir.join(CLOSED_FILE).exists() {
            return Ok(End::Closed);
        }
        let info = self.info()?;
        let mut seen = abandoned::Seen::default();
        // Only what is still there can be asked; an error behind it is none of this.
        for frame in self.frames_kept()? {
            let Some(record) = frame.ok().and_then(|(_, payload)| encoding::decode(&payload).ok()) else { break };
            seen.see(&record);
        }
        let owner = abandoned::Owner {
            spool: self.id,
            source_name: info.source_name,
            pid: info.pid,
            started_unix_us: i64::try_from(info.started_us).unwrap_or(i64::MAX),
        };
        Ok(End::Abandoned(Box::new(seen.gap(&owner, tenant, Utc::now().timestamp_micros()))))
    }

    /// Whether the process that writes the spool is still there.
    pub fn owner_alive(&self) -> Result<bool, InboxError> {
        Ok(self.lock()?.is_none())
    }

    /// Removes the spool if its owner is gone and everything is drained. A torn tail is no obstacle, because it was never
    /// acknowledged; corruption is, and comes back as the error.
    pub fn remove_if_finished(&self) -> Result<Removal, InboxError> {
        let Some(_lock) = self.lock()? else {
            return Ok(Removal::Alive);
        };
        if let Some(frame) = self.frames()?.next() {
            let (offset, _) = frame?;
            return Ok(Removal::NotDrained { offset });
        }
        self.rename_and_remove()?;
        Ok(Removal::Removed)
    }

    /// Removes a spool whose contents its owner knows to be elsewhere. Refused while the owner lives.
    pub fn remove(&self) -> Result<Removal, InboxError> {
        let Some(_lock) = self.lock()? else {
            return Ok(Removal::Alive);
        };
        self.rename_and_remove()?;
        Ok(Removal::Removed)
    }

    /// Takes a corrupt spool out of the way, with everything that is in it. Refused while its owner lives.
    pub fn set_aside(&self) -> Result<Removal, InboxError> {
        let Some(_lock) = self.lock()? else {
            return Ok(Removal::Alive);
        };
        let mut name = self.dir.clone().into_os_string();
        name.push(CORRUPT_SUFFIX);
        durable::rename(&self.dir, Path::new(&name))?;
        Ok(Removal::Removed)
    }

    fn rename_and_remove(&self) -> Result<(), InboxError> {
        let going = self.dir.with_file_name(format!(".{}.gone", self.id));
        durable::rename(&self.dir, &going)?;
        // A crash here leaves a dot name, which the next sweep removes.
        Ok(remove_dir(&going)?)
    }

    /// The owner's lock, when the owner is gone.
    fn lock(&self) -> Result<Option<File>, InboxError> {
        let path = self.dir.join(OWNER_LOCK);
        let file = match OpenOptions::new().write(true).open(&path) {
            Ok(file) => file,
            Err(source) => return Err(InboxError::Lock { path, source }),
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(InboxError::Lock { path, source }),
        }
    }
}
