//! Writes a plan, and what is needed to undo it.
//!
//! Order for a wrap: backup, undo note, then the file. A crash after the first two leaves the old file: the note's digest
//! does not match it, so undo looks for our entries in it, finds none and cleans up.
//! Order for an undo: the file, then the two others are removed. A crash between leaves notes beside an unwrapped file: same.
//! Every file is written whole beside its place, synced, then renamed.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{FileChange, Plan, WrapError};

const VERSION: u32 = 1;
const PRIVATE: u32 = 0o600;

/// What applying a change does beside writing the file.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    Wrap(State),
    /// With the folders that wrapping had made.
    Undo(Vec<PathBuf>),
}

/// What is known of an earlier wrap of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// Settings we made, with the values we gave them, as they stand in the file.
    pub(super) set: BTreeMap<String, String>,
    /// What undo gives back; `None` if there was no file.
    pub(super) original: Option<String>,
    after_sha256: String,
    /// Folders that were made for the file, innermost first; undo removes those that are empty again.
    made_folders: Vec<PathBuf>,
}

impl State {
    /// Whether `text` is what we wrote.
    pub(super) fn wrote(&self, text: &str) -> bool {
        self.after_sha256 == digest(text)
    }

    /// What undo has to know beside the text.
    pub(super) fn made_folders(&self) -> Vec<PathBuf> {
        self.made_folders.clone()
    }

    /// Whether a setting that is now `found` is as we set it.
    pub(super) fn set_to(&self, name: &str, found: &str) -> bool {
        self.set.get(name).is_some_and(|set| set == found)
    }
}

/// The undo note as it is on disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UndoNote {
    version: u32,
    after_sha256: String,
    existed: bool,
    set: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    made_folders: Vec<PathBuf>,
}

/// The file, if it exists, and what is known of an earlier wrap of it.
pub(super) fn read(path: &Path) -> Result<(Option<String>, Option<State>), WrapError> {
    let target = target(path)?;
    let text = read_if_there(&target)?;
    let note_path = beside(&target, "undo");
    let Some(note) = read_if_there(&note_path)? else { return Ok((text, None)) };
    let note: UndoNote = serde_json::from_str(&note)
        .map_err(|error| WrapError::Parse { path: note_path.clone(), line: error.line() })?;
    if note.version != VERSION {
        return Err(WrapError::Shape { path: note_path });
    }
    let original = if note.existed { read_if_there(&beside(&target, "backup"))? } else { None };
    if note.existed && original.is_none() {
        // Without its backup the note must not lead to the file being removed.
        return Err(WrapError::Shape { path: note_path });
    }
    let state = State { set: note.set, original, after_sha256: note.after_sha256, made_folders: note.made_folders };
    Ok((text, Some(state)))
}

/// Writes what `plan` says. Stops at the first file that cannot be written; the ones before it stay changed.
pub fn apply(plan: &Plan) -> Result<(), WrapError> {
    plan.files.iter().try_for_each(apply_change)
}

fn apply_change(change: &FileChange) -> Result<(), WrapError> {
    let target = target(&change.path)?;
    if read_if_there(&target)? != change.before {
        return Err(WrapError::Changed { path: change.path.clone() });
    }
    let (backup, note_path) = (beside(&target, "backup"), beside(&target, "undo"));
    match (&change.effect, &change.after) {
        (Effect::Wrap(state), Some(after)) => {
            let note = UndoNote {
                version: VERSION,
                after_sha256: digest(after),
                existed: state.original.is_some(),
                set: state.set.clone(),
                made_folders: if state.made_folders.is_empty() {
                    missing_folders(&target)
                } else {
                    state.made_folders.clone()
                },
            };
            let note = serde_json::to_string_pretty(&note)
                .map_err(|source| WrapError::Write { path: note_path.clone(), source: source.into() })?;
            if let Some(original) = &state.original {
                write(&backup, original, PRIVATE)?;
            }
            write(&note_path, &note, PRIVATE)?;
            write(&target, after, mode(&target))
        }
        (effect, after) => {
            match after {
                Some(after) if change.before.as_ref() != Some(after) => write(&target, after, mode(&target))?,
                Some(_) => {}
                None => remove(&target)?,
            }
            remove(&note_path)?;
            remove(&backup)?;
            if let Effect::Undo(made_folders) = effect {
                remove_empty(made_folders);
            }
            Ok(())
        }
    }
}

/// Where `path` really is: links are followed, so that they stay links.
fn target(path: &Path) -> Result<PathBuf, WrapError> {
    match fs::canonicalize(path) {
        Ok(target) => Ok(target),
        Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => Ok(path.into()),
        Err(source) => Err(WrapError::Read { path: path.into(), source }),
    }
}

/// Folders above `target` that writing it will make, innermost first.
fn missing_folders(target: &Path) -> Vec<PathBuf> {
    let folders = target.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
    folders.take_while(|folder| !folder.exists()).map(Path::to_path_buf).collect()
}

/// Removes folders that hold nothing; the first that does, or cannot be removed, keeps the ones around it.
fn remove_empty(folders: &[PathBuf]) {
    let removed = folders.iter().take_while(|folder| fs::remove_dir(folder).is_ok()).count();
    tracing::debug!(removed, made = folders.len(), "folders that wrapping had made");
}

fn beside(target: &Path, what: &str) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".threadline-");
    name.push(what);
    name.into()
}

fn read_if_there(path: &Path) -> Result<Option<String>, WrapError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(WrapError::Read { path: path.into(), source }),
    }
}

/// The permissions of the file that is replaced; private for a new one.
fn mode(target: &Path) -> u32 {
    fs::metadata(target).map_or(PRIVATE, |metadata| metadata.permissions().mode())
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), WrapError> {
    let failed = |source: io::Error| WrapError::Write { path: path.into(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    let new = beside(path, "new");
    let write = || -> io::Result<()> {
        // Left over from a crash: nobody else uses this name.
        remove_if_there(&new)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(failed)
}

fn remove(path: &Path) -> Result<(), WrapError> {
    remove_if_there(path).map_err(|source| WrapError::Write { path: path.into(), source })
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}
