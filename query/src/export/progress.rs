//! How far the preparation of an export is, for whoever waits for its first byte.
//!
//! Invariants
//! - whoever asks for an export may name it; its numbers are there under that name while it is prepared and then gone
//! - at most [`NAMED_MAX`] are kept; further ones are prepared without

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Exports that can be asked after at once.
const NAMED_MAX: usize = 64;
/// Longest name.
const NAME_CHARS_MAX: usize = 64;

/// How far it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// `choosing`, `waiting` (for other exports), `records`, `sessions` (their links) or `report`.
    pub stage: String,
    /// Of these so many are done.
    pub done: u64,
    /// How many there are; 0 where that is not known.
    pub of: u64,
}

/// Those that are being prepared, by name.
#[derive(Debug, Default)]
pub(crate) struct Preparations(Mutex<HashMap<String, Progress>>);

/// Where one tells how far it is; gone from the list when it is dropped.
#[derive(Debug)]
pub(super) struct Telling {
    list: Arc<Preparations>,
    name: Option<String>,
}

impl Preparations {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Progress>> {
        // Numbers are consistent whenever the lock is free.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the export of this name is.
    pub(crate) fn get(&self, name: &str) -> Option<Progress> {
        self.lock().get(name).cloned()
    }

    /// Begins to tell under a name, where there is one that is free.
    pub(super) fn begin(self: &Arc<Self>, name: Option<&str>) -> Telling {
        let name = name.filter(|name| name.len() <= NAME_CHARS_MAX).map(str::to_string);
        let mut named = self.lock();
        let name = name.filter(|name| named.len() < NAMED_MAX && !named.contains_key(name));
        if let Some(name) = &name {
            named.insert(name.clone(), Progress { stage: "choosing".into(), ..Progress::default() });
        }
        drop(named);
        Telling { list: Arc::clone(self), name }
    }
}

impl Telling {
    /// Says how far it is.
    pub(super) fn tell(&self, stage: &str, done: u64, of: u64) {
        if let Some(name) = &self.name {
            self.list.lock().insert(name.clone(), Progress { stage: stage.into(), done, of });
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            self.list.lock().remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preparation_is_known_by_its_name_until_it_ends_and_names_are_bounded() {
        let list = Arc::<Preparations>::default();
        let one = list.begin(Some("one"));
        let same = list.begin(Some("one"));
        one.tell("records", 3, 7);
        same.tell("records", 99, 99);
        assert_eq!(list.get("one"), Some(Progress { stage: "records".into(), done: 3, of: 7 }));
        drop(same);
        assert!(list.get("one").is_some());
        drop(one);
        assert_eq!(list.get("one"), None);
        let many: Vec<Telling> = (0..100).map(|n| list.begin(Some(&n.to_string()))).collect();
        assert_eq!(list.lock().len(), NAMED_MAX);
        drop(many);
        drop(list.begin(Some(&"x".repeat(65))));
        assert_eq!(list.lock().len(), 0);
    }
}
