//! A bounded cache of what belongs to a sealed file. Sealed files are immutable, so nothing in it is ever stale.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use uuid::Uuid;

#[derive(Debug)]
struct Entry<V> {
    value: Arc<V>,
    weight: u64,
    used: u64,
}

#[derive(Debug)]
struct Entries<V> {
    by_file: HashMap<Uuid, Entry<V>>,
    weight: u64,
    clock: u64,
}

/// Keeps values up to a total weight; the least recently used go first.
#[derive(Debug)]
pub(crate) struct Cache<V> {
    entries: Mutex<Entries<V>>,
    weight_max: u64,
}

impl<V> Cache<V> {
    pub(crate) fn new(weight_max: u64) -> Self {
        let entries = Entries { by_file: HashMap::new(), weight: 0, clock: 0 };
        Cache { entries: Mutex::new(entries), weight_max }
    }

    /// The cached value, or what `load` makes together with its weight. Two callers may load the same value at once.
    pub(crate) fn get<E>(&self, file: Uuid, load: impl FnOnce() -> Result<(V, u64), E>) -> Result<Arc<V>, E> {
        if let Some(value) = self.touch(file) {
            return Ok(value);
        }
        let (value, weight) = load()?;
        let value = Arc::new(value);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.clock += 1;
        let entry = Entry { value: Arc::clone(&value), weight, used: entries.clock };
        entries.weight += weight;
        if let Some(old) = entries.by_file.insert(file, entry) {
            entries.weight -= old.weight;
        }
        while entries.weight > self.weight_max && entries.by_file.len() > 1 {
            let oldest = entries.by_file.iter().min_by_key(|(_, e)| e.used).map(|(file, _)| *file);
            if let Some(old) = oldest.and_then(|file| entries.by_file.remove(&file)) {
                entries.weight -= old.weight;
            }
        }
        Ok(value)
    }

    fn touch(&self, file: Uuid) -> Option<Arc<V>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.clock += 1;
        let now = entries.clock;
        entries.by_file.get_mut(&file).map(|entry| {
            entry.used = now;
            Arc::clone(&entry.value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_when_the_weight_is_reached() {
        let cache = Cache::new(10);
        let files = [1, 2, 3].map(Uuid::from_u128);
        let load = |n: u32| move || Ok::<_, ()>((n, 4));
        cache.get(files[0], load(1)).unwrap();
        cache.get(files[1], load(2)).unwrap();
        cache.get(files[0], || Err(())).unwrap();
        cache.get(files[2], load(3)).unwrap();
        assert_eq!(*cache.get(files[0], || Err(())).unwrap(), 1);
        assert!(cache.get(files[1], || Err(())).is_err());
        // One value that is heavier than the cache is kept alone.
        cache.get(files[1], || Ok::<_, ()>((4, 100))).unwrap();
        assert_eq!(*cache.get(files[1], || Err(())).unwrap(), 4);
    }
}
