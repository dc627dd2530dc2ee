//! Recorded traffic (`tests/captures`) as the decoders' tests read it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::tests::context;
use super::{Line, LineDecoder};
use crate::columns::Record;
use crate::json::{self, Json};

/// The folder of one source, such as `claude-code`.
pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures").join(name)
}

/// The sessions of a source, in order of name.
pub(crate) fn sessions(name: &str) -> Vec<PathBuf> {
    let all = entries(&source(name)).into_iter().filter(|path| path.is_dir()).collect::<Vec<_>>();
    assert!(!all.is_empty(), "no recorded sessions of {name}");
    all
}

/// The entries of a folder, in order of name; none when it does not exist.
pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(found) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = found.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

pub(crate) fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// Decodes a line-oriented file as `import` does.
pub(crate) fn decode_file(decoder: &mut dyn LineDecoder, path: &Path) -> Vec<Record> {
    decode_lines(decoder, name(path), &std::fs::read(path).unwrap())
}

pub(crate) fn decode_lines(decoder: &mut dyn LineDecoder, file: &str, bytes: &[u8]) -> Vec<Record> {
    let mut hash = Sha256::new();
    let mut records = Vec::new();
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        hash.update(line);
        let delivery_key = format!("file:{file}:{}", hex::encode(hash.clone().finalize()));
        let bytes = line.strip_suffix(b"\n").unwrap_or(line);
        let line = Line { bytes, file: Some(file), number: index as i64 + 1, delivery_key: &delivery_key };
        records.extend(decoder.line(&context(), line));
    }
    records
}

/// How many records there are of each kind and name.
pub(crate) fn table(records: &[Record]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for record in records {
        let name = record.name.as_deref().unwrap_or("-");
        *counts.entry(format!("{} {} {name}", record.kind, record.source_kind)).or_default() += 1;
    }
    let mut text = String::new();
    for (what, count) in counts {
        writeln!(text, "{count} {what}").unwrap();
    }
    text
}

/// The tool uses that `ground_truth.json` lists: id, name, namespace, input.
pub(crate) fn tool_uses(session: &Path) -> Vec<(String, String, Option<String>, Json)> {
    let truth = json::parse(&std::fs::read(session.join("ground_truth.json")).unwrap()).unwrap().value;
    let steps = truth.get("steps").unwrap().items();
    let uses = steps.iter().flat_map(|step| step.get("tool_uses").unwrap().items());
    uses.map(|used| {
        let text = |key: &str| used.str_at(key).map(str::to_string);
        (text("id").unwrap(), text("name").unwrap(), text("namespace"), used.get("input").unwrap().clone())
    })
    .collect()
}
