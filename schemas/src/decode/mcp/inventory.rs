//! The tool definitions that a connection was told, so that each call bears the version in force and a definition that
//! changes between two lists is noticed.
//!
//! Invariants
//! - at most [`TOOLS_MAX`] tools with names of at most [`TOOL_NAME_BYTES_MAX`] bytes, [`TOOLS_BYTES_MAX`] in all; what is
//!   beyond is not followed, and then no tool is said not to be listed
//! - in force is what the client was told last, not what the server had: between `notifications/tools/list_changed` and
//!   the next list they may differ, which is said
//! - of two definitions under one name in one list, the first counts
//!
//! Not here: lists on other connections to the same server; those are compared by whoever reads.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::definition::{self, COVERED};
use crate::json::{Json, canonical};
use crate::limits::mcp::{
    MIRRORED_DEPTH_MAX, MIRRORED_MAX, MIRRORED_STEP_BYTES_MAX, TOOL_NAME_BYTES_MAX, TOOLS_BYTES_MAX, TOOLS_MAX,
};

/// What a connection was told about tools.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    tools: BTreeMap<String, Version>,
    /// Names in the pages of the list that is being given.
    seen: BTreeSet<String>,
    /// Whether a list was given to its end.
    is_complete: bool,
    is_stale: bool,
    /// Whether a tool of the list that was given last is not followed.
    leaves_out: bool,
    bytes: usize,
}

#[derive(Debug)]
struct Version {
    digest: String,
    /// Of each covered member.
    members: [Option<[u8; 8]>; COVERED.len()],
    mirrored: Vec<Mirrored>,
    is_listed: bool,
}

/// An argument that travels in the header `Mcp-Param-<header>` too (`x-mcp-header` in its schema, 2026-07-28).
#[derive(Debug, PartialEq)]
pub(crate) struct Mirrored {
    pub(crate) header: String,
    /// Its place in the arguments.
    pub(crate) path: Vec<String>,
}

/// A tool whose definition is another than before.
#[derive(Debug, PartialEq)]
pub(super) struct Change {
    /// Digest of the definition before.
    pub(super) was: String,
    /// Members that differ.
    pub(super) members: Vec<&'static str>,
}

/// What is known of the definition under which a call is made.
#[derive(Debug, PartialEq)]
pub(super) enum InForce<'a> {
    /// No list was recorded.
    Unknown,
    /// It was in the last list; `is_stale`: the server has announced changes since.
    Listed { digest: &'a str, is_stale: bool },
    /// The list was recorded to its end, and the tool was not in it.
    NotListed,
}

impl Inventory {
    /// A list is asked for from its first page.
    pub(super) fn begin(&mut self) {
        self.seen.clear();
        self.leaves_out = false;
    }

    /// The server says that its tools are others now.
    pub(super) fn announce(&mut self) {
        self.is_stale = true;
    }

    /// Takes one definition of a list.
    pub(super) fn take(&mut self, tool: &Json, digest: &str) -> Option<Change> {
        let name = tool.str_at("name")?;
        if self.seen.contains(name) {
            return None;
        }
        let is = Version { digest: digest.into(), members: members(tool), mirrored: mirrored(tool), is_listed: true };
        let was_bytes = self.tools.get(name).map_or(0, |was| was.bytes(name));
        let is_room = self.tools.len() < TOOLS_MAX || self.tools.contains_key(name);
        let bytes = self.bytes - was_bytes + is.bytes(name);
        if !is_room || name.len() > TOOL_NAME_BYTES_MAX || bytes > TOOLS_BYTES_MAX {
            self.leaves_out = true;
            return None;
        }
        self.bytes = bytes;
        self.seen.insert(name.to_string());
        let was = self.tools.insert(name.to_string(), is)?;
        let is = self.tools.get(name).filter(|is| is.digest != was.digest)?;
        let differs = |at: &usize| is.members[*at] != was.members[*at];
        let members = (0..COVERED.len()).filter(differs).map(|at| COVERED[at]).collect();
        Some(Change { was: was.digest, members })
    }

    /// A page was given; on the last one, what was in none of them is not listed any more.
    pub(super) fn page(&mut self, is_last: bool) {
        if !is_last {
            return;
        }
        for (name, version) in &mut self.tools {
            version.is_listed = self.seen.contains(name);
        }
        self.is_complete = true;
        self.is_stale = false;
    }

    /// The definition of a tool that is called now.
    pub(super) fn in_force(&self, name: &str) -> InForce<'_> {
        match self.tools.get(name).filter(|version| version.is_listed) {
            Some(version) => InForce::Listed { digest: &version.digest, is_stale: self.is_stale },
            None if self.is_complete && !self.is_stale && !self.leaves_out => InForce::NotListed,
            None => InForce::Unknown,
        }
    }

    /// Bytes of what is remembered.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What a tool wants in headers too; nothing when its definition is not known.
    pub(super) fn mirrored(&self, name: &str) -> &[Mirrored] {
        self.tools.get(name).filter(|version| version.is_listed).map_or(&[], |version| &version.mirrored)
    }
}

impl Version {
    /// About what it takes, its name in both sets included.
    fn bytes(&self, name: &str) -> usize {
        let mirrored = |it: &Mirrored| {
            it.header.len() + it.path.iter().map(|step| step.len() + size_of::<String>()).sum::<usize>()
        };
        let mirrored: usize = self.mirrored.iter().map(|it| mirrored(it) + size_of::<Mirrored>()).sum();
        size_of::<Self>() + 2 * (name.len() + size_of::<String>()) + self.digest.len() + mirrored
    }
}

/// The properties marked with `x-mcp-header` that are reached by `properties` alone, as the revision asks.
fn mirrored(tool: &Json) -> Vec<Mirrored> {
    let mut found = Vec::new();
    look_for_mirrored(tool.get("inputSchema"), &mut Vec::new(), &mut found);
    found
}

/// `path` is the way to `schema`: one for all, because a schema may have many properties at the end of a long way.
fn look_for_mirrored<'a>(schema: Option<&'a Json>, path: &mut Vec<&'a str>, found: &mut Vec<Mirrored>) {
    let properties = schema.and_then(|schema| schema.get("properties")).map(Json::members).unwrap_or_default();
    for property in properties.iter().filter(|property| property.key.len() <= MIRRORED_STEP_BYTES_MAX) {
        if found.len() == MIRRORED_MAX {
            return;
        }
        path.push(&property.key);
        let header = property.value.str_at("x-mcp-header").filter(|header| header.len() <= TOOL_NAME_BYTES_MAX);
        if let Some(header) = header {
            let path = path.iter().map(|step| step.to_string()).collect();
            found.push(Mirrored { header: header.to_ascii_lowercase(), path });
        } else if path.len() < MIRRORED_DEPTH_MAX {
            look_for_mirrored(Some(&property.value), path, found);
        }
        path.pop();
    }
}

fn members(tool: &Json) -> [Option<[u8; 8]>; COVERED.len()] {
    let digest = |value: &Json| {
        let whole: [u8; 32] = Sha256::digest(canonical(value)).into();
        let mut short = [0; 8];
        short.copy_from_slice(&whole[..8]);
        short
    };
    definition::COVERED.map(|key| tool.get(key).map(digest))
}
