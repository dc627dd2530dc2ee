//! `threadline relink`: judges stored records again and stores what is believed now.
//!
//! Earlier opinions stay in the table `links`; only what changed is written. Beside a running server nothing is done here,
//! because the server holds the directory and correlates by itself.

use std::process::ExitCode;

use anyhow::{Context, bail};
use threadline_ingest::correlate::run::{self, Report};
use threadline_store::{Reader, Snapshot, Store, StoreError};

use super::{RelinkArguments, data_directory, output};

/// Runs over the whole store, or what lies between `--from` and `--to`.
pub(crate) async fn run(arguments: RelinkArguments) -> anyhow::Result<ExitCode> {
    let directory = data_directory(arguments.data)?;
    let from = moment("--from", arguments.from.as_deref())?;
    let to = moment("--to", arguments.to.as_deref())?;
    let range = (from.is_some() || to.is_some()).then(|| (from.unwrap_or(i64::MIN), to.unwrap_or(i64::MAX)));
    let store = match Store::open(&directory, super::record::store_config()?).await {
        Err(StoreError::Locked { .. }) => bail!(
            "{} is in use: a server there correlates by itself what comes in; to judge everything again, stop it and run this again",
            directory.display()
        ),
        opened => opened.with_context(|| format!("cannot open the data directory {}", directory.display()))?,
    };
    let report = run::relink(&directory, &store.reader(), range).await;
    store.close().await.context("cannot close the store")?;
    output::talk(&said(&report?));
    Ok(ExitCode::SUCCESS)
}

/// Correlates what an import brought; nothing to say where no source needs it.
pub(crate) async fn after_import(reader: &Reader, before: &Snapshot) -> anyhow::Result<Option<String>> {
    let report = run::relink_since(before.data_dir(), reader, before).await?;
    Ok((report.windows > 0).then(|| said(&report)))
}

fn said(report: &Report) -> String {
    format!(
        "{} records correlated in {} windows, {} opinions new or changed",
        report.observations, report.windows, report.rows
    )
}

fn moment(option: &str, text: Option<&str>) -> anyhow::Result<Option<i64>> {
    let Some(text) = text else { return Ok(None) };
    let time = chrono::DateTime::parse_from_rfc3339(text)
        .with_context(|| format!("{option} takes a time like 2026-03-02T08:00:00Z"))?;
    Ok(Some(time.timestamp_nanos_opt().with_context(|| format!("{option} is out of range"))?))
}
