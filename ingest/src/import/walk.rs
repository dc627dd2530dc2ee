//! The files below the paths that were named, in order.
//!
//! Invariants
//! - a path that was named is followed if it is a symbolic link; links inside a folder are not, so nothing outside the
//!   folder is read and nothing twice
//! - a folder deeper than [`DEPTH_MAX`] is not entered, and listed
//! - what is no regular file is listed with the reason, not opened

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Nesting of folders.
const DEPTH_MAX: usize = 64;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// Relative to the folder that was named; for a file that was named its base name. `/` between parts.
    pub(super) name: String,
    pub(super) what: What,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    File { bytes: u64 },
    Skipped(&'static str),
    Failed(String),
}

/// Everything below `paths`.
pub(super) fn files(paths: &[PathBuf]) -> Vec<Found> {
    let mut found = Vec::new();
    for path in paths {
        let base = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into());
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => folder(path, &mut found),
            Ok(metadata) => found.push(Found { path: path.clone(), name: base, what: what(&metadata) }),
            Err(error) => found.push(failed(path.clone(), base, &error)),
        }
    }
    found
}

fn folder(root: &Path, found: &mut Vec<Found>) {
    let mut waiting = vec![(root.to_path_buf(), String::new(), 0)];
    while let Some((path, name, depth)) = waiting.pop() {
        let is_folder = match fs::symlink_metadata(&path) {
            _ if depth == 0 => true,
            Ok(metadata) if metadata.is_dir() => true,
            Ok(metadata) => {
                found.push(Found { path: path.clone(), name: name.clone(), what: what(&metadata) });
                false
            }
            Err(error) => {
                found.push(failed(path.clone(), name.clone(), &error));
                false
            }
        };
        if !is_folder {
            continue;
        }
        if depth > DEPTH_MAX {
            found.push(Found { path, name, what: What::Skipped("folders are nested too deep") });
            continue;
        }
        match entries(&path) {
            Ok(names) => {
                // Last first, because the next one is taken from the end.
                waiting.extend(names.into_iter().rev().map(|entry| {
                    let text = entry.to_string_lossy();
                    let below = if name.is_empty() { text.to_string() } else { format!("{name}/{text}") };
                    (path.join(&entry), below, depth + 1)
                }));
            }
            Err(error) => found.push(failed(path, name, &error)),
        }
    }
}

fn entries(folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn what(metadata: &fs::Metadata) -> What {
    match metadata.file_type() {
        kind if kind.is_file() => What::File { bytes: metadata.len() },
        kind if kind.is_symlink() => What::Skipped("symbolic link"),
        _ => What::Skipped("not a regular file"),
    }
}

fn failed(path: PathBuf, name: String, error: &io::Error) -> Found {
    Found { path, name, what: What::Failed(error.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn files_come_in_order_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("f/b/c")).unwrap();
        for name in ["f/b/c/1", "f/a", "f/z", "outside"] {
            fs::write(at(name), "x").unwrap();
        }
        std::os::unix::fs::symlink(at("outside"), at("f/link")).unwrap();
        std::os::unix::fs::symlink(at("f"), at("f/b/loop")).unwrap();
        std::os::unix::fs::symlink(at("f/a"), at("named")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("f/socket")).unwrap();
        let found = files(&[at("f"), at("named"), at("missing")]);
        let shown: Vec<String> = found.iter().map(|found| format!("{} {:?}\n", found.name, found.what)).collect();
        expect![[r#"
            a File { bytes: 1 }
            b/c/1 File { bytes: 1 }
            b/loop Skipped("symbolic link")
            link Skipped("symbolic link")
            socket Skipped("not a regular file")
            z File { bytes: 1 }
            named File { bytes: 1 }
            missing Failed("No such file or directory (os error 2)")
        "#]]
        .assert_eq(&shown.concat());
    }
}
