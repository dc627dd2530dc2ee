//! A bundle as a folder: unpacks the archive while it arrives.
//!
//! Invariants
//! - only plain files and folders below the bundle's own folder are made, whatever the archive says
//! - every file and folder is synced; at most [`WAITING_MAX`] blocks wait between network and disk

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path};

use anyhow::{Context, bail};
use bytes::{Buf, Bytes};
use indicatif::ProgressBar;
use threadline_query::export::FOLDER;
use tokio::sync::mpsc;

use super::super::client::Download;

const WAITING_MAX: usize = 8;

/// Unpacks into `folder`, which is made.
pub(super) async fn to(mut download: Download, folder: &Path, bar: &ProgressBar) -> anyhow::Result<()> {
    // Dropped last: whoever stops this midway finds nobody writing any more when it removes the folder.
    let (ends, ended) = std::sync::mpsc::channel::<()>();
    let _ended = Ended(ended);
    let (send, receive) = mpsc::channel(WAITING_MAX);
    let target = folder.to_path_buf();
    let unpacking = tokio::task::spawn_blocking(move || {
        let _ends = ends;
        unpack(Arriving { blocks: receive, block: Bytes::new() }, &target)?;
        super::whole(&target)
    });
    let mut broken = None;
    loop {
        match download.next().await {
            Ok(Some(bytes)) => {
                bar.inc(bytes.len() as u64);
                if send.send(bytes).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                broken = Some(error);
                break;
            }
        }
    }
    drop(send);
    let unpacked = unpacking.await?;
    broken.map_or(unpacked, Err)
}

/// Waits when it is dropped until the other side is gone.
struct Ended(std::sync::mpsc::Receiver<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        // Nothing is ever sent.
        let _gone = self.0.recv();
    }
}

/// Blocks that another task receives, as something to read.
struct Arriving {
    blocks: mpsc::Receiver<Bytes>,
    block: Bytes,
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.block.is_empty() {
            match self.blocks.blocking_recv() {
                Some(block) => self.block = block,
                None => return Ok(0),
            }
        }
        let read = buffer.len().min(self.block.len());
        self.block.copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}

fn unpack(arriving: Arriving, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut folders = vec![folder.to_path_buf()];
    let mut archive = tar::Archive::new(arriving);
    for entry in archive.entries()? {
        let mut entry = entry.context("the archive breaks off")?;
        let path = entry.path()?.into_owned();
        let own = path.strip_prefix(FOLDER).ok();
        let Some(own) = own.filter(|own| own.components().all(|part| matches!(part, Component::Normal(_)))) else {
            bail!("the archive holds a path outside of the bundle");
        };
        let target = folder.join(own);
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            if target != *folder {
                fs::create_dir(&target).with_context(|| format!("cannot make {}", target.display()))?;
                folders.push(target);
            }
        } else if kind.is_file() {
            let failed = || format!("cannot write {}", target.display());
            let mut file = File::create_new(&target).with_context(failed)?;
            let size = entry.size();
            let written = io::copy(&mut entry, &mut file).with_context(failed)?;
            if written != size {
                bail!("the archive breaks off");
            }
            file.sync_all().with_context(failed)?;
        } else {
            bail!("the archive holds something that is no plain file");
        }
    }
    folders.iter().try_for_each(|folder| File::open(folder)?.sync_all()).context("cannot sync the folder")
}
