//! The tool definitions that were told in lists, so that each call bears the version in force and a definition that
//! changes between two lists is noticed. One inventory per connection; since 2026-07-28, where what a server lists must
//! not vary per connection, also one per endpoint and credential, which is lent to the connection
//! that speaks ([`Told`]).
//!
//! Invariants
//! - at most [`TOOLS_MAX`] tools with names of at most [`TOOL_NAME_BYTES_MAX`] bytes, [`TOOLS_BYTES_MAX`] in all; what is
//!   beyond is not followed, and then no tool is said not to be listed
//! - in force is what the client was told last, not what the server had: between `notifications/tools/list_changed` and
//!   the next list they may differ, which is said
//! - lists may be under way at once: the pages of one meet by their cursor, and only one that was seen from its first page
//!   to its last says what is not listed
//! - of two definitions under one name in one list, the first counts
//!
//! Not here: lists of other sessions before 2026-07-28, or under other credentials; those are compared by whoever reads.

use std::collections::{BTreeMap, VecDeque};

use sha2::{Digest, Sha256};

use super::definition::{self, COVERED};
use crate::json::{Json, canonical};
use crate::limits::mcp::{
    LISTS_MAX, MIRRORED_DEPTH_MAX, MIRRORED_MAX, MIRRORED_STEP_BYTES_MAX, TOOL_NAME_BYTES_MAX, TOOLS_BYTES_MAX,
    TOOLS_MAX,
};

/// What was told about tools.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    tools: BTreeMap<String, Version>,
    /// Lists that were begun; the number of one is that of those up to it.
    begun: u64,
    /// Lists up to this one were begun before what is known now.
    since: u64,
    /// By digest of its cursor, the page that goes on with a list.
    pages: VecDeque<([u8; 32], List)>,
    /// Whether a list was given to its end.
    is_complete: bool,
    is_stale: bool,
    /// The latest list of which a tool is not followed.
    leaves_out: Option<List>,
    bytes: usize,
}

/// A list that is being given; the default: one whose first page was not seen.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct List(u64);

#[derive(Debug)]
struct Version {
    digest: String,
    /// Of each covered member.
    members: [Option<[u8; 8]>; COVERED.len()],
    mirrored: Vec<Mirrored>,
    /// The latest list that it was in.
    list: List,
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
pub(crate) struct Change {
    /// Digest of the definition before.
    pub(super) was: String,
    /// Members that differ.
    pub(super) members: Vec<&'static str>,
}

/// What is known of the definition under which a call is made.
#[derive(Debug, PartialEq)]
pub(crate) enum InForce<'a> {
    /// No list that says anything about it was recorded.
    Unknown,
    /// It was in the last list; `is_stale`: the server has announced changes since.
    Listed { digest: &'a str, is_stale: bool },
    /// The list was recorded to its end, and the tool was not in it.
    NotListed,
}

/// What a connection was told, and beside it what all connections were told to which a server has to say the same.
#[derive(Debug, Default)]
pub(super) struct Told {
    own: Inventory,
    own_list: List,
    /// Lent for the time of one message.
    shared: Option<Inventory>,
    shared_list: List,
}

impl Told {
    pub(super) fn lend(&mut self, shared: Option<Inventory>) {
        self.shared = shared;
    }

    pub(super) fn give_back(&mut self) -> Option<Inventory> {
        self.shared.take()
    }

    /// What is lent is not forgotten here.
    pub(super) fn forget(&mut self) {
        self.own.forget();
    }

    pub(super) fn bytes(&self) -> usize {
        self.own.bytes()
    }

    pub(super) fn announce(&mut self) {
        self.own.is_stale = true;
        self.shared.iter_mut().for_each(|shared| shared.is_stale = true);
    }

    pub(super) fn ask(&mut self, cursor: Option<&str>) {
        self.own_list = self.own.ask(cursor);
        self.shared_list = self.shared.as_mut().map(|shared| shared.ask(cursor)).unwrap_or_default();
    }

    pub(super) fn take(&mut self, tool: &Json, digest: &str) -> Option<Change> {
        let own = self.own.take(self.own_list, tool, digest);
        let shared = self.shared.as_mut().and_then(|shared| shared.take(self.shared_list, tool, digest));
        own.or(shared)
    }

    pub(super) fn page(&mut self, next: Option<&str>) {
        self.own.page(self.own_list, next);
        self.shared.iter_mut().for_each(|shared| shared.page(self.shared_list, next));
    }

    /// The definition of a tool that is called now, and whether only other connections were told it.
    pub(super) fn in_force(&self, name: &str) -> (InForce<'_>, bool) {
        match (self.own.in_force(name), &self.shared) {
            (InForce::Unknown, Some(shared)) => (shared.in_force(name), true),
            (own, _) => (own, false),
        }
    }

    pub(super) fn mirrored(&self, name: &str) -> &[Mirrored] {
        let shared = || self.shared.as_ref().and_then(|shared| shared.mirrored(name));
        self.own.mirrored(name).or_else(shared).unwrap_or_default()
    }
}

impl Inventory {
    /// An empty one, in place of others in which `begun` lists were begun.
    pub(crate) fn after(begun: u64) -> Self {
        Inventory { begun, since: begun, ..Inventory::default() }
    }

    /// Forgets what was told; what lists that are under way say is no whole list.
    pub(crate) fn forget(&mut self) {
        *self = Inventory::after(self.begun);
    }

    /// Whether nothing is known and no list is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.tools.is_empty() && self.begun == self.since
    }

    /// Lists that were begun.
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    /// A page is asked for: the first one, or that of a cursor.
    pub(crate) fn ask(&mut self, cursor: Option<&str>) -> List {
        let Some(cursor) = cursor else {
            self.begun += 1;
            return List(self.begun);
        };
        self.take_page(&Sha256::digest(cursor).into()).unwrap_or_default()
    }

    fn take_page(&mut self, cursor: &[u8; 32]) -> Option<List> {
        let at = self.pages.iter().position(|(other, _)| other == cursor)?;
        self.pages.remove(at).map(|(_, list)| list)
    }

    /// Takes one definition of a list.
    pub(super) fn take(&mut self, list: List, tool: &Json, digest: &str) -> Option<Change> {
        let name = tool.str_at("name")?;
        let was = self.tools.get(name);
        if was.is_some_and(|was| was.list == list && self.is_whole(list)) {
            return None;
        }
        let is = Version {
            digest: digest.into(),
            members: members(tool),
            mirrored: mirrored(tool),
            list: was.map_or(list, |was| was.list.max(list)),
            is_listed: true,
        };
        let was_bytes = was.map_or(0, |was| was.bytes(name));
        let is_room = self.tools.len() < TOOLS_MAX || self.tools.contains_key(name);
        let bytes = self.bytes - was_bytes + is.bytes(name);
        if !is_room || name.len() > TOOL_NAME_BYTES_MAX || bytes > TOOLS_BYTES_MAX {
            self.leaves_out = self.leaves_out.max(Some(list));
            return None;
        }
        self.bytes = bytes;
        let was = self.tools.insert(name.to_string(), is)?;
        let is = self.tools.get(name).filter(|is| is.digest != was.digest)?;
        let differs = |at: &usize| is.members[*at] != was.members[*at];
        let members = (0..COVERED.len()).filter(differs).map(|at| COVERED[at]).collect();
        Some(Change { was: was.digest, members })
    }

    /// A page was given, with the cursor of the `next`; on the last one, what was in none of them is not listed any more.
    pub(super) fn page(&mut self, list: List, next: Option<&str>) {
        if !self.is_whole(list) {
            return;
        }
        if let Some(next) = next {
            let cursor = Sha256::digest(next).into();
            self.take_page(&cursor);
            if self.pages.len() == LISTS_MAX {
                self.pages.pop_front();
            }
            return self.pages.push_back((cursor, list));
        }
        for version in self.tools.values_mut() {
            version.is_listed = version.list >= list;
        }
        self.leaves_out = self.leaves_out.filter(|left| *left >= list);
        self.is_complete = true;
        self.is_stale = false;
    }

    /// Whether all pages of a list so far were seen.
    fn is_whole(&self, list: List) -> bool {
        list.0 > self.since && list.0 <= self.begun
    }

    /// The definition of a tool that is called now.
    pub(super) fn in_force(&self, name: &str) -> InForce<'_> {
        match self.tools.get(name).filter(|version| version.is_listed) {
            Some(version) => InForce::Listed { digest: &version.digest, is_stale: self.is_stale },
            None if self.is_complete && !self.is_stale && self.leaves_out.is_none() => InForce::NotListed,
            None => InForce::Unknown,
        }
    }

    /// Bytes of what is remembered.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What a tool wants in headers too; `None` when its definition is not known.
    pub(super) fn mirrored(&self, name: &str) -> Option<&[Mirrored]> {
        self.tools.get(name).filter(|version| version.is_listed).map(|version| version.mirrored.as_slice())
    }
}

impl Version {
    /// About what it takes, its name included.
    fn bytes(&self, name: &str) -> usize {
        let mirrored = |it: &Mirrored| {
            it.header.len() + it.path.iter().map(|step| step.len() + size_of::<String>()).sum::<usize>()
        };
        let mirrored: usize = self.mirrored.iter().map(|it| mirrored(it) + size_of::<Mirrored>()).sum();
        size_of::<Self>() + name.len() + size_of::<String>() + self.digest.len() + mirrored
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
