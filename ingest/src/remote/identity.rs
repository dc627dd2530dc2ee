//! Who this collector is: an id and a key that never change once they exist, each a small file of the state directory.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use serde::{Deserialize, Serialize};
use threadline_schemas::digest::MatchKey;
use threadline_store::durable;
use uuid::Uuid;

use super::OutboxError;

const VERSION: u32 = 1;
const FILE: &str = "collector.json";
const KEY_FILE: &str = "match.key";

/// This collector, for servers elsewhere.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Identity {
    version: u32,
    pub(super) id: Uuid,
}

impl Identity {
    /// The one of `state`, made when there is none yet.
    pub(super) fn of(state: &Path) -> Result<Identity, OutboxError> {
        let path = state.join(FILE);
        let new = Identity { version: VERSION, id: Uuid::new_v4() };
        let text = serde_json::to_vec(&new).map_err(|error| failed(&path, error.into()))?;
        let text = once(&path, &text)?;
        parse(&path, &text)
    }
}

/// The id of `state`, if there is one.
pub(super) fn existing(state: &Path) -> Result<Option<Uuid>, OutboxError> {
    let path = state.join(FILE);
    match fs::read(&path) {
        Ok(text) => parse(&path, &text).map(|identity| Some(identity.id)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(&path, source)),
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Identity, OutboxError> {
    let identity: Option<Identity> = serde_json::from_slice(text).ok();
    let known = identity.filter(|identity| identity.version == VERSION);
    known.ok_or_else(|| failed(path, io::Error::other("it is damaged or of another version")))
}

/// The key for fingerprints of what is sent from `state`.
pub(super) fn match_key(state: &Path) -> Result<MatchKey, OutboxError> {
    let path = state.join(KEY_FILE);
    let bytes: Result<[u8; 32], _> = once(&path, &random(&path)?)?.try_into();
    bytes.map(MatchKey::new).map_err(|_| failed(&path, io::Error::other("a match key has 32 bytes")))
}

/// A key that is kept nowhere.
pub(super) fn passing_key(state: &Path) -> Result<MatchKey, OutboxError> {
    random(&state.join(KEY_FILE)).map(MatchKey::new)
}

fn random(path: &Path) -> Result<[u8; 32], OutboxError> {
    let mut new = [0; 32];
    getrandom::fill(&mut new).map_err(|error| failed(path, io::Error::other(error.to_string())))?;
    Ok(new)
}

/// The contents of `path`, which are `new` if there was nothing. Several processes may try at once: the first link wins.
fn once(path: &Path, new: &[u8]) -> Result<Vec<u8>, OutboxError> {
    let make = || -> io::Result<Vec<u8>> {
        if !path.exists() {
            let candidate = path.with_extension(Uuid::new_v4().to_string());
            if let Some(folder) = path.parent() {
                durable::create_dirs(folder).map_err(io::Error::other)?;
            }
            durable::write_atomic(&candidate, new).map_err(io::Error::other)?;
            let linked = fs::hard_link(&candidate, path);
            durable::remove_file(&candidate).map_err(io::Error::other)?;
            match linked {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        fs::read(path)
    };
    make().map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: io::Error) -> OutboxError {
    OutboxError::State { path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(existing(state.path()).unwrap(), None);
        let id = Identity::of(&state.path().join("a")).unwrap().id;
        assert_eq!(existing(&state.path().join("a")).unwrap(), Some(id));
        assert_eq!(Identity::of(&state.path().join("a")).unwrap().id, id);
        match_key(state.path()).unwrap();
        let key = fs::read(state.path().join(KEY_FILE)).unwrap();
        match_key(state.path()).unwrap();
        assert_eq!(fs::read(state.path().join(KEY_FILE)).unwrap(), key);
        fs::write(state.path().join(FILE), "{").unwrap();
        assert!(existing(state.path()).is_err());
    }
}
