//! Files of the repository as inputs.

use std::path::Path;

/// Longer inputs are slow to mutate; what makes a file long is repeated in it.
const SEED_BYTES_MAX: usize = 8 << 10;

/// Contents of every file below `folder` whose path `wanted` takes, in order of path.
pub(super) fn files(folder: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<(String, Vec<u8>)> {
    let mut waiting = vec![folder.to_path_buf()];
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).expect("the folder can be read");
            waiting.extend(entries.map(|entry| entry.expect("the folder can be read").path()));
        } else if let Some(name) = path.to_str().filter(|name| wanted(name)) {
            found.push((name.to_string(), std::fs::read(&path).expect("the file can be read")));
        }
    }
    found.sort();
    found
}

/// Parts of a list of pieces, each with `begin` in front and short enough, in order; a piece that is too long is left out.
pub(super) fn chunked<'a>(begin: &[u8], pieces: impl Iterator<Item = &'a [u8]>, end: u8) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut seed = begin.to_vec();
    for piece in pieces.filter(|piece| piece.len() < SEED_BYTES_MAX) {
        if seed.len() + piece.len() > SEED_BYTES_MAX {
            seeds.push(std::mem::replace(&mut seed, begin.to_vec()));
        }
        seed.extend_from_slice(piece);
        seed.push(end);
    }
    seeds.push(seed);
    seeds
}
