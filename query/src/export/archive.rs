//! A bundle as one tar stream, member by member.
//!
//! Invariants
//! - the same members give the same bytes: names in order, ustar, owner 0, modification time 0, modes 0644 and 0755
//! - everything lies below one folder ([`FOLDER`]), so unpacking it anywhere makes one folder
//! - a member's bytes are read as they are wanted; memory is one block

use std::collections::VecDeque;
use std::io::Read;

use bytes::Bytes;
use tar::{EntryType, Header};

use super::spool::Spooled;
use crate::error::QueryError;

/// The folder in which a bundle lies within its archive.
pub const FOLDER: &str = "threadline-bundle";
/// Bytes that are read at once.
const BLOCK_BYTES: usize = 256 << 10;
/// tar counts in these.
const RECORD_BYTES: u64 = 512;

/// Members that are still to go out.
#[derive(Debug)]
pub(super) struct Archive {
    members: VecDeque<(String, Option<Spooled>)>,
    open: Option<Open>,
    is_ended: bool,
}

#[derive(Debug)]
struct Open {
    content: Spooled,
    left: u64,
}

impl Archive {
    /// Of files by name within the bundle, and folders (without content).
    pub(super) fn new(mut members: Vec<(String, Option<Spooled>)>) -> Archive {
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        Archive { members: members.into(), open: None, is_ended: false }
    }

    /// The next bytes; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, QueryError> {
        if let Some(open) = &mut self.open {
            let mut block = vec![0; BLOCK_BYTES.min(usize::try_from(open.left).unwrap_or(BLOCK_BYTES))];
            open.content.read_exact(&mut block).map_err(QueryError::unwritten)?;
            open.left -= block.len() as u64;
            if open.left == 0 {
                let padding = open.content.bytes.next_multiple_of(RECORD_BYTES) - open.content.bytes;
                block.resize(block.len() + padding as usize, 0);
                self.open = None;
            }
            return Ok(Some(block.into()));
        }
        let Some((name, content)) = self.members.pop_front() else {
            // Two empty records are the end of an archive.
            return Ok((!std::mem::replace(&mut self.is_ended, true)).then(|| Bytes::from_static(&[0; 1024])));
        };
        let header = header(&name, content.as_ref().map(|content| content.bytes))?;
        self.open = content.filter(|content| content.bytes > 0).map(|content| Open { left: content.bytes, content });
        Ok(Some(header))
    }
}

fn header(name: &str, bytes: Option<u64>) -> Result<Bytes, QueryError> {
    let mut header = Header::new_ustar();
    let path = if bytes.is_some() { format!("{FOLDER}/{name}") } else { format!("{FOLDER}/{name}/") };
    header.set_path(path.replace("//", "/")).map_err(QueryError::unwritten)?;
    header.set_entry_type(if bytes.is_some() { EntryType::Regular } else { EntryType::Directory });
    header.set_size(bytes.unwrap_or(0));
    header.set_mode(if bytes.is_some() { 0o644 } else { 0o755 });
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    Ok(Bytes::copy_from_slice(header.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::spool::Spool;
    use super::*;

    fn archive() -> Vec<u8> {
        let dir = std::env::temp_dir();
        let file = |text: &str| Some(Spool::of(&dir, text).unwrap());
        let large = "x".repeat(BLOCK_BYTES + 513);
        let members = vec![
            ("b.txt".to_string(), file(&large)),
            ("a.txt".to_string(), file("one\n")),
            ("proofs".to_string(), None),
            ("empty".to_string(), file("")),
            (String::new(), None),
        ];
        let (mut archive, mut bytes) = (Archive::new(members), Vec::new());
        while let Some(part) = archive.next().unwrap() {
            bytes.extend_from_slice(&part);
        }
        bytes
    }

    #[test]
    fn an_archive_is_read_back_by_the_library_and_is_always_the_same() {
        let bytes = archive();
        assert_eq!(bytes, archive());
        let mut found = Vec::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = (entry.header().mtime().unwrap(), entry.header().uid().unwrap());
            assert_eq!(header, (0, 0));
            let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            found.push(format!("{name} {}", content.len()));
        }
        expect_test::expect![[r#"
            threadline-bundle/ 0
            threadline-bundle/a.txt 4
            threadline-bundle/b.txt 262657
            threadline-bundle/empty 0
            threadline-bundle/proofs/ 0"#]]
        .assert_eq(&found.join("\n"));
    }
}
