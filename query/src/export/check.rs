//! Checks a bundle, as a folder or as a tar, without a store: is it what was exported, and all of it?
//!
//! Invariants
//! - nothing is unpacked; files are read once, a block at a time
//! - names are compared, never followed: a path that leaves the bundle, a link or a name twice is a difference
//! - the first difference is named, in the order of the manifest
//!
//! Not here: whether the store said the truth (signed proofs, once there are any).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use threadline_schemas::display::{self, Lines};

use super::archive::FOLDER;
use super::manifest::{Digest, FORMAT, FORMAT_VERSION};

/// Files of a bundle; more are a difference.
const MEMBERS_MAX: usize = 100_000;
/// Bytes of the documents that are read whole.
const DOCUMENT_BYTES_MAX: u64 = 64 << 20;
/// Beside the files that the manifest lists.
const BESIDE: &[&str] = &["manifest.json", "custody.json", "SHA256SUMS"];

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// Every file is there and as it was exported.
    Whole {
        /// Files that the manifest lists.
        files: usize,
        /// Records of the export.
        records: u64,
        /// SHA-256 of the manifest, to compare with the record that the export left in its store.
        manifest_sha256: String,
    },
    /// The first difference, in words fit to show.
    Differs(String),
}

/// It could not be looked at.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
pub struct CheckError {
    /// What.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Checks the bundle at `path`.
///
/// # Errors
/// When it is not there or cannot be read; what is in it is never an error.
pub fn check(path: &Path) -> Result<Checked, CheckError> {
    let failed = |source| CheckError { path: path.to_path_buf(), source };
    let mut found = Found::default();
    let read = if path.is_dir() {
        folder(path, "", &mut found)
    } else {
        archive(File::open(path).map_err(failed)?, &mut found)
    };
    Ok(match read {
        Err(Stop::Differs(what)) => Checked::Differs(what),
        Err(Stop::Failed(source)) => return Err(failed(source)),
        Ok(()) => compare(&found).unwrap_or_else(Checked::Differs),
    })
}

#[derive(Debug, Default)]
struct Found {
    files: BTreeMap<String, Member>,
}

#[derive(Debug)]
struct Member {
    digest: Digest,
    lines: u64,
    /// Of documents.
    content: Vec<u8>,
}

enum Stop {
    Differs(String),
    Failed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Failed(error)
    }
}

fn shown(name: &str) -> String {
    display::visible(&display::cut(name, 200).0, Lines::Show)
}

impl Found {
    fn add(&mut self, name: &str, content: &mut impl Read) -> Result<(), Stop> {
        if self.files.len() >= MEMBERS_MAX {
            return Err(Stop::Differs(format!("there are more than {MEMBERS_MAX} files")));
        }
        let is_document = BESIDE.contains(&name);
        let (mut digest, mut member) = (Sha256::new(), Vec::new());
        let (mut bytes, mut lines) = (0u64, 0u64);
        let mut block = vec![0; 256 << 10];
        loop {
            let read = content.read(&mut block)?;
            if read == 0 {
                break;
            }
            let part = &block[..read];
            digest.update(part);
            bytes += read as u64;
            lines += part.iter().filter(|byte| **byte == b'\n').count() as u64;
            if is_document {
                if bytes > DOCUMENT_BYTES_MAX {
                    return Err(Stop::Differs(format!("{name} is larger than such a file can be")));
                }
                member.extend_from_slice(part);
            }
        }
        let digest = Digest { bytes, sha256: hex::encode(digest.finalize()) };
        let before = self.files.insert(name.to_string(), Member { digest, lines, content: member });
        match before {
            Some(_) => Err(Stop::Differs(format!("{} is there twice", shown(name)))),
            None => Ok(()),
        }
    }
}

fn folder(path: &Path, below: &str, found: &mut Found) -> Result<(), Stop> {
    let mut entries = std::fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            folder(&entry.path(), &format!("{name}/"), found)?;
        } else if kind.is_file() {
            found.add(&name, &mut File::open(entry.path())?)?;
        } else {
            return Err(Stop::Differs(format!("{} is no plain file", shown(&name))));
        }
    }
    Ok(())
}

fn archive(file: File, found: &mut Found) -> Result<(), Stop> {
    // Whatever the library cannot make sense of is a difference: a bundle is a tar that it can read.
    let broken = |error: io::Error| Stop::Differs(format!("it is no whole archive: {}", shown(&error.to_string())));
    let mut archive = tar::Archive::new(io::BufReader::with_capacity(256 << 10, file));
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let own = name.strip_prefix(FOLDER).and_then(|rest| rest.strip_prefix('/'));
        let Some(own) = own.filter(|own| own.split('/').all(|part| part != "..")) else {
            return Err(Stop::Differs(format!("{} is not below {FOLDER}/", shown(&name))));
        };
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            continue;
        }
        if !kind.is_file() {
            return Err(Stop::Differs(format!("{} is no plain file", shown(&name))));
        }
        let own = own.to_string();
        let size = entry.size();
        found.add(&own, &mut entry).map_err(|stop| match stop {
            Stop::Failed(error) => broken(error),
            differs => differs,
        })?;
        if found.files.get(&own).is_some_and(|member| member.digest.bytes != size) {
            return Err(Stop::Differs(format!("it breaks off within {}", shown(&own))));
        }
    }
    let mut rest = [0; 4096];
    let mut file = archive.into_inner();
    loop {
        let read = file.read(&mut rest).map_err(broken)?;
        match rest[..read].iter().any(|byte| *byte != 0) {
            true => return Err(Stop::Differs("there is something behind the end of the archive".into())),
            false if read == 0 => return Ok(()),
            false => {}
        }
    }
}

/// The parts of `manifest.json` that can be checked.
#[derive(Debug, Deserialize)]
struct Listed {
    format: String,
    format_version: u64,
    records: u64,
    links: Count,
    gaps: Count,
    ocsf: Events,
    files: BTreeMap<String, Digest>,
}

#[derive(Debug, Deserialize)]
struct Count {
    count: u64,
}

#[derive(Debug, Deserialize)]
struct Events {
    events: u64,
}

#[derive(Debug, Deserialize)]
struct Custody {
    manifest_sha256: String,
}

fn compare(found: &Found) -> Result<Checked, String> {
    let document = |name: &str| found.files.get(name).ok_or_else(|| format!("{name} is missing"));
    let manifest = document("manifest.json")?;
    let listed: Listed =
        serde_json::from_slice(&manifest.content).map_err(|_| "manifest.json is not a manifest".to_string())?;
    if (listed.format.as_str(), listed.format_version) != (FORMAT, FORMAT_VERSION) {
        return Err(format!("manifest.json is of another format than {FORMAT} version {FORMAT_VERSION}"));
    }
    let custody = document("custody.json")?;
    let custody: Custody =
        serde_json::from_slice(&custody.content).map_err(|_| "custody.json is not understood".to_string())?;
    if custody.manifest_sha256 != manifest.digest.sha256 {
        return Err("manifest.json is not the one that custody.json names".into());
    }
    for (name, said) in &listed.files {
        let member = found.files.get(name).ok_or_else(|| format!("{} is missing", shown(name)))?;
        if member.digest.bytes != said.bytes {
            let (has, had) = (member.digest.bytes, said.bytes);
            return Err(format!("{} has {has} bytes, the manifest says {had}", shown(name)));
        }
        if member.digest.sha256 != said.sha256 {
            return Err(format!("{} differs from its SHA-256 in the manifest", shown(name)));
        }
    }
    let is_known =
        |name: &str| listed.files.contains_key(name) || BESIDE.contains(&name) || name.starts_with("proofs/");
    if let Some(name) = found.files.keys().find(|name| !is_known(name)) {
        return Err(format!("{} is not in the manifest", shown(name)));
    }
    let mut sums: Vec<(&str, &str)> =
        listed.files.iter().map(|(name, said)| (name.as_str(), said.sha256.as_str())).collect();
    sums.push(("manifest.json", &manifest.digest.sha256));
    sums.sort_unstable();
    let sums: String = sums.iter().map(|(name, sha256)| format!("{sha256}  {name}\n")).collect();
    if document("SHA256SUMS")?.content != sums.as_bytes() {
        return Err("SHA256SUMS does not agree with the manifest".into());
    }
    for (name, count) in [
        ("records.ndjson", listed.records),
        ("ocsf.ndjson", listed.ocsf.events),
        ("links.ndjson", listed.links.count),
        ("gaps.ndjson", listed.gaps.count),
    ] {
        let lines = document(name)?.lines;
        if lines != count {
            return Err(format!("{name} has {lines} lines, the manifest counts {count}"));
        }
    }
    let manifest_sha256 = manifest.digest.sha256.clone();
    Ok(Checked::Whole { files: listed.files.len(), records: listed.records, manifest_sha256 })
}
