//! Prepares a bundle or a report: one pass over the records writes every file, then links, gaps and manifest.
//!
//! | member | holds |
//! | --- | --- |
//! | `manifest.json` | what this is, counts, completeness, gaps, size and SHA-256 of every other file |
//! | `custody.json` | who exported it, when and why, and the digest of the manifest |
//! | `records.ndjson`, `records.parquet`, `ocsf.ndjson` | every record, in the forms of the other exports |
//! | `links.ndjson`, `gaps.ndjson` | which records belong together and how sure, and what is missing |
//! | `raw/bytes`, `raw/index.ndjson` | the exact bytes received, one after another, and where each record's are |
//! | `report.html`, `README.txt`, `SHA256SUMS`, `proofs/` | for people, for `sha256sum`, for signed proofs |
//!
//! Invariants
//! - no name from evidence becomes a path
//! - what is held in memory per record: its place and its id; everything else goes to files without a name

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use threadline_schemas::ocsf::{Policy, Version};
use threadline_schemas::record::event_id;
use threadline_schemas::{Kind, Record, display, leaf};
use threadline_store::{KeyQuery, RowId, Snapshot};
use uuid::Uuid;

use super::archive::Archive;
use super::choose::{Chosen, ChosenSession};
use super::custody::{Access, Custody, Recorded};
use super::encode::Encoder;
use super::manifest::{
    Digest, FORMAT, FORMAT_VERSION, Graded, Leaves, Manifest, Named, Ocsf, Proofs, Raw, State, Statement, Tally,
};
use super::progress::Telling;
use super::report::{Report, Rows};
use super::spool::{Spool, Spooled};
use super::{ExportFormat, PART, payload_bytes};
use super::{Part, Records};
use crate::engine::{Engine, read_light};
use crate::error::QueryError;
use crate::line::content;
use crate::links::{Contest, links};
use crate::model::{Gap, Grade, Link, Session};
use crate::placements::Walk;
use crate::session::{Options, at_grade};

/// Ambiguous links that a report shows.
const AMBIGUOUS_MAX: usize = 500;
const PROGRAM: &str = concat!("threadline ", env!("CARGO_PKG_VERSION"));

/// Everything that is ready to go out, but for who and when.
pub(super) struct Prepared {
    /// Of the manifest, or of the report where that is all.
    pub(super) sha256: String,
    data_dir: PathBuf,
    state: State,
    files: Vec<(String, Spooled)>,
}

impl Prepared {
    /// The archive, with `custody.json`.
    pub(super) fn into_archive(self, access: &Access, recorded: &Recorded) -> Result<Archive, QueryError> {
        let custody = Custody {
            format: "threadline-custody",
            format_version: FORMAT_VERSION,
            exported_at: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            snapshot: &self.state,
            exported_by: access.by.as_deref(),
            reason: access.reason.as_deref(),
            manifest_sha256: &self.sha256,
            access: recorded,
        };
        let custody = Spool::of(&self.data_dir, &pretty(&custody)?).map_err(QueryError::unwritten)?;
        let mut members: Vec<(String, Option<Spooled>)> =
            self.files.into_iter().map(|(name, file)| (name, Some(file))).collect();
        members.push(("custody.json".into(), Some(custody)));
        members.extend(["", "raw", "proofs"].map(|folder| (folder.to_string(), None)));
        Ok(Archive::new(members))
    }

    /// The report alone.
    pub(super) fn into_report(mut self) -> Result<Spooled, QueryError> {
        self.files.pop().map(|(_, report)| report).ok_or(QueryError::Interrupted)
    }
}

/// A JSON document with line breaks, safe to look at.
fn pretty(value: &impl Serialize) -> Result<String, QueryError> {
    Ok(display::json(serde_json::to_string_pretty(value).map_err(QueryError::unwritten)?) + "\n")
}

fn line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    writeln!(out, "{}", display::json(serde_json::to_string(value)?))
}

/// The files in the making.
struct Writing {
    tally: Tally,
    rows: Rows,
    bundle: Option<Files>,
}

/// What only a bundle has.
struct Files {
    records: (Encoder, Spool),
    parquet: (Encoder, Spool),
    ocsf: (Encoder, Spool),
    gaps: Spool,
    gaps_named: Named<Gap>,
    bytes: Spool,
    index: Spool,
    raw: Raw,
    exported: Vec<Uuid>,
    lines: HashSet<Uuid>,
}

/// A line of `raw/index.ndjson`.
#[derive(Serialize)]
struct Indexed {
    event_id: Uuid,
    leaf_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<Piece>,
    /// The record of the line that this one is a part of, which has the bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    part_of: Option<Uuid>,
    /// It is not one of the exported records.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    beside: bool,
}

#[derive(Serialize)]
struct Piece {
    offset: u64,
    bytes: u64,
    sha256: String,
}

impl Writing {
    fn new(dir: &Path, bundle: Option<(Version, &Policy)>, is_session: bool) -> Result<Self, QueryError> {
        let spool = || Spool::new(dir).map_err(QueryError::unwritten);
        let encoder = |format: ExportFormat| Ok::<_, QueryError>((Encoder::new(&format)?, spool()?));
        let files = |(version, policy): (Version, &Policy)| {
            Ok::<_, QueryError>(Files {
                records: encoder(ExportFormat::Ndjson)?,
                parquet: encoder(ExportFormat::Parquet)?,
                ocsf: encoder(ExportFormat::Ocsf(version, policy.clone()))?,
                gaps: spool()?,
                gaps_named: Named::in_file("gaps.ndjson"),
                bytes: spool()?,
                index: spool()?,
                raw: Raw { records: 0, bytes: 0, lines_beside: 0, all_in: "raw/bytes", index: "raw/index.ndjson" },
                exported: Vec::new(),
                lines: HashSet::new(),
            })
        };
        Ok(Writing {
            tally: Tally::new(),
            rows: Rows::new(spool()?, !is_session),
            bundle: bundle.map(files).transpose()?,
        })
    }

    fn take(&mut self, part: &Part, gaps: bool) -> Result<(), QueryError> {
        let Part { records, sessions } = part;
        for record in records {
            self.tally.add(record);
            let leaf_hash = hex::encode(leaf::hash(record));
            self.rows.add(record, &leaf_hash)?;
            if let Some(files) = &mut self.bundle {
                files.raw(record, leaf_hash, false).map_err(QueryError::unwritten)?;
                if gaps && record.kind == Kind::Gap {
                    files.gap(recorded_gap(record)).map_err(QueryError::unwritten)?;
                }
            }
        }
        let Some(files) = &mut self.bundle else { return Ok(()) };
        files.exported.extend(records.iter().map(|record| record.event_id));
        for (encoder, spool) in [&mut files.records, &mut files.parquet, &mut files.ocsf] {
            spool.write_all(&encoder.part(records, sessions)?).map_err(QueryError::unwritten)?;
        }
        Ok(())
    }
}

impl Files {
    fn raw(&mut self, record: &Record, leaf_hash: String, beside: bool) -> io::Result<()> {
        let mut entry = Indexed { event_id: record.event_id, leaf_hash, raw: None, part_of: None, beside };
        if let Some(raw) = &record.raw {
            entry.raw = Some(Piece {
                offset: self.bytes.bytes(),
                bytes: raw.len() as u64,
                sha256: hex::encode(Sha256::digest(raw)),
            });
            self.bytes.write_all(raw)?;
            self.raw.records += u64::from(!beside);
            self.raw.lines_beside += u64::from(beside);
            self.raw.bytes += raw.len() as u64;
        } else if let Some((whole, _)) = record.delivery_key.rsplit_once('#') {
            let whole = event_id(&record.tenant, whole);
            entry.part_of = Some(whole);
            self.lines.insert(whole);
        }
        line(&mut self.index, &entry)
    }

    fn gap(&mut self, gap: Gap) -> io::Result<()> {
        line(&mut self.gaps, &gap)?;
        *self.gaps_named.by_kind.entry(gap.kind.clone()).or_default() += 1;
        self.gaps_named.add(|| gap);
        Ok(())
    }

    /// Lines of which parts are exported, and that are not exported themselves.
    async fn lines_beside(&mut self, snapshot: &Snapshot) -> Result<(), QueryError> {
        self.exported.sort_unstable();
        let mut missing: Vec<Uuid> =
            self.lines.drain().filter(|line| self.exported.binary_search(line).is_err()).collect();
        missing.sort_unstable();
        for part in missing.chunks(*PART.start() * 4) {
            let keys: Vec<KeyQuery> = part.iter().map(|id| KeyQuery::Any(id.to_string())).collect();
            let mut records = snapshot.records_with_keys(&keys).await?;
            records.retain(|record| part.binary_search(&record.event_id).is_ok());
            records.sort_by_key(|record| record.event_id);
            for record in &records {
                let leaf_hash = hex::encode(leaf::hash(record));
                self.raw(record, leaf_hash, true).map_err(QueryError::unwritten)?;
            }
        }
        Ok(())
    }
}

/// A recorder's own note that something is missing.
fn recorded_gap(record: &Record) -> Gap {
    Gap {
        kind: "recorder_gap".into(),
        description: content(record).map(|(_, text)| text.to_string()).unwrap_or_default(),
        event_ids: vec![record.event_id.to_string()],
        call_id: None,
    }
}

/// Links on their way to a file.
struct Linking {
    spool: Spool,
    graded: Graded,
    ambiguous: Vec<Link>,
    /// Of grade inferred and weaker, as a session counts them.
    judged: u64,
}

impl Linking {
    fn new(spool: Spool) -> Self {
        let graded = Graded { all_in: "links.ndjson", ..Graded::default() };
        Linking { spool, graded, ambiguous: Vec::new(), judged: 0 }
    }

    /// The links among `records` that are of the grade, and those that nobody can decide.
    fn add(
        &mut self,
        records: &[Record],
        contest: &Contest,
        floor: Grade,
        wanted: impl Fn(&Link) -> bool,
    ) -> io::Result<()> {
        let found = links(records, contest);
        let kept = |grade: Grade| grade <= floor || grade >= Grade::Ambiguous;
        let inside = found.edges.iter().filter(|edge| kept(edge.grade)).map(|edge| edge.link(records));
        for link in inside.chain(found.outside.iter().cloned()).filter(wanted) {
            line(&mut self.spool, &link)?;
            self.graded.add(&link);
            self.judged += u64::from(link.grade >= Grade::Inferred);
            if link.grade == Grade::Ambiguous && self.ambiguous.len() < AMBIGUOUS_MAX {
                self.ambiguous.push(link);
            }
        }
        Ok(())
    }
}

impl Engine {
    /// Reads what was chosen and writes its files; without `bundle` only the report.
    pub(super) async fn prepare(
        &self,
        mut chosen: Chosen,
        bundle: Option<(Version, &Policy)>,
        telling: &Telling,
    ) -> Result<Prepared, QueryError> {
        telling.tell("waiting", 0, 0);
        let _permit = self.export_permit().await?;
        let data_dir = chosen.snapshot.data_dir().to_path_buf();
        let rows = std::mem::take(&mut chosen.rows);
        let mut places = rows.clone();
        let is_session = chosen.session.is_some();
        let mut writing = Writing::new(&data_dir, bundle, is_session)?;
        let (mut done, of) = (0, rows.len() as u64);
        let mut records = Records::new(chosen.snapshot.clone(), rows, chosen.known.take());
        loop {
            telling.tell("records", done, of);
            let part = records.next().await?;
            if part.records.is_empty() {
                break;
            }
            done += part.records.len() as u64;
            writing = blocking(move || writing.take(&part, !is_session).map(|()| writing)).await?;
        }
        if let Some(files) = &mut writing.bundle {
            files.lines_beside(&chosen.snapshot).await?;
        }
        let linking = Linking::new(Spool::new(&data_dir).map_err(QueryError::unwritten)?);
        let mut sessions = Named::in_file("links.ndjson");
        telling.tell("sessions", 0, 0);
        let (linking, tree) = match chosen.session.take() {
            Some(session) => {
                sessions.add(|| session.id.clone());
                let records = read_light(&chosen.snapshot, &session.rows).await?;
                let (session, records, linking) = blocking(move || links_of_session(session, records, linking)).await?;
                telling.tell("report", 0, 0);
                (linking, self.tree(session, records, &chosen.snapshot).await?)
            }
            None => {
                places.sort_unstable();
                let exported = writing.bundle.as_mut().map(|files| std::mem::take(&mut files.exported));
                (
                    self.links_of_rows(&chosen, &places, exported.as_deref(), linking, &mut sessions, telling).await?,
                    None,
                )
            }
        };
        drop(places);
        telling.tell("report", 0, 0);
        if let (Some(files), Some(tree)) = (&mut writing.bundle, &tree) {
            for gap in &tree.gaps {
                files.gap(gap.clone()).map_err(QueryError::unwritten)?;
            }
        }
        let version = bundle.map(|(version, policy)| (version, policy.text_bytes_max));
        blocking(move || finish(&data_dir, chosen, writing, linking, tree, sessions, version)).await
    }

    /// The session as its page shows it, with payloads up to the bounds of a page.
    async fn tree(
        &self,
        session: ChosenSession,
        mut records: Vec<Record>,
        snapshot: &Snapshot,
    ) -> Result<Option<Session>, QueryError> {
        let ChosenSession { id, rows, contest, floor, .. } = session;
        if records.is_empty() {
            return Ok(None);
        }
        records.truncate(self.config().session_records_max);
        records.shrink_to_fit();
        let mut bytes = 0;
        const AT_ONCE: usize = *PART.start() * 8;
        for (part, rows) in records.chunks_mut(AT_ONCE).zip(rows.chunks(AT_ONCE)) {
            if bytes > self.config().gather_bytes_max {
                break;
            }
            for (light, mut record) in part.iter_mut().zip(snapshot.records(rows).await?) {
                record.raw = None;
                bytes += payload_bytes(&record);
                *light = record;
            }
        }
        blocking(move || Ok(Some(at_grade(&id, records, &contest, &Options { grade_floor: floor }).session))).await
    }

    /// Links of records that are not one session (`exported`, sorted): a session of the index at a time.
    async fn links_of_rows(
        &self,
        chosen: &Chosen,
        places: &[RowId],
        exported: Option<&[Uuid]>,
        mut linking: Linking,
        sessions: &mut Named<String>,
        telling: &Telling,
    ) -> Result<Linking, QueryError> {
        let Some(index) = &chosen.index else { return Ok(linking) };
        let index = index.clone();
        let walk = tokio::task::spawn_blocking(move || Walk::new(index)).await.map_err(|_| QueryError::Interrupted)?;
        let steps = walk.sessions_with(places);
        let of = steps.len() as u64;
        for (done, step) in steps.into_iter().enumerate() {
            telling.tell("sessions", done as u64, of);
            sessions.add(|| walk.session_id(step).to_string());
            let Some(exported) = exported else { continue };
            if let Some((records, contest)) = walk.linked(step).await? {
                let is_exported = |id: Uuid| exported.binary_search(&id).is_ok();
                let wanted = |link: &Link| Uuid::parse_str(&link.from).is_ok_and(is_exported);
                linking
                    .add(&records, &contest, Options::default().grade_floor, wanted)
                    .map_err(QueryError::unwritten)?;
            }
        }
        Ok(linking)
    }
}

/// The links of a session's records that are exported.
fn links_of_session(
    session: ChosenSession,
    records: Vec<Record>,
    mut linking: Linking,
) -> Result<(ChosenSession, Vec<Record>, Linking), QueryError> {
    let is_kept = |id: &str| match &session.kept {
        Some(kept) => Uuid::parse_str(id).is_ok_and(|id| kept.contains(&id)),
        None => true,
    };
    let wanted = |link: &Link| is_kept(&link.from);
    linking.add(&records, &session.contest, session.floor, wanted).map_err(QueryError::unwritten)?;
    Ok((session, records, linking))
}

fn finish(
    dir: &Path,
    chosen: Chosen,
    writing: Writing,
    linking: Linking,
    tree: Option<Session>,
    sessions: Named<String>,
    ocsf: Option<(Version, usize)>,
) -> Result<Prepared, QueryError> {
    let Writing { tally, rows, bundle } = writing;
    let Linking { spool: links, graded, ambiguous, judged } = linking;
    let (state, mut statement) = Statement::of(&chosen.completeness);
    statement.links_inferred = judged;
    let mut report = Spool::new(dir).map_err(QueryError::unwritten)?;
    let page = Report {
        asked: &chosen.asked,
        state: bundle.is_none().then_some(&state),
        statement: &statement,
        tally: &tally,
        tree: tree.as_ref(),
        ambiguous: &ambiguous,
        sessions: &sessions,
        program: PROGRAM,
    };
    page.write(&mut report, rows)?;
    let report = report.finish().map_err(QueryError::unwritten)?;
    let (Some(files), Some((version, text_bytes_max))) = (bundle, ocsf) else {
        let sha256 = report.sha256.clone();
        return Ok(Prepared { sha256, data_dir: dir.into(), state, files: vec![("report.html".into(), report)] });
    };
    let mut ocsf = Ocsf::new(version, text_bytes_max);
    ocsf.events = files.ocsf.0.events();
    let encoded = |(encoder, mut spool): (Encoder, Spool)| -> Result<(Spooled, u64), QueryError> {
        let last = encoder.end()?;
        spool.write_all(&last).map_err(QueryError::unwritten)?;
        let lines = last.iter().filter(|byte| **byte == b'\n').count();
        Ok((spool.finish().map_err(QueryError::unwritten)?, lines as u64))
    };
    let ended = |spool: Spool| spool.finish().map_err(QueryError::unwritten);
    let (events, last_events) = encoded(files.ocsf)?;
    ocsf.events += last_events;
    let mut out: Vec<(String, Spooled)> = vec![
        ("records.ndjson".into(), encoded(files.records)?.0),
        ("records.parquet".into(), encoded(files.parquet)?.0),
        ("ocsf.ndjson".into(), events),
        ("links.ndjson".into(), ended(links)?),
        ("gaps.ndjson".into(), ended(files.gaps)?),
        ("raw/bytes".into(), ended(files.bytes)?),
        ("raw/index.ndjson".into(), ended(files.index)?),
        ("report.html".into(), report),
        (
            "README.txt".into(),
            Spool::of(dir, include_str!("../../templates/README.txt")).map_err(QueryError::unwritten)?,
        ),
    ];
    let digests =
        out.iter().map(|(name, file)| (name.clone(), Digest { bytes: file.bytes, sha256: file.sha256.clone() }));
    let manifest = Manifest {
        format: FORMAT,
        format_version: FORMAT_VERSION,
        program: PROGRAM,
        question: chosen.asked,
        completeness: statement,
        records: tally.records,
        first_time: tally.first_time(),
        last_time: tally.last_time(),
        records_without_time: tally.without_time,
        by_kind: tally.by_kind,
        by_source: tally.by_source,
        sessions,
        gaps: files.gaps_named,
        rejected: tally.rejected,
        findings: tally.findings,
        links: graded,
        ocsf,
        raw: files.raw,
        leaves: Leaves { format: "threadline/leaf/v1", all_in: "raw/index.ndjson" },
        proofs: Proofs { folder: "proofs/", count: 0, note: "signed proofs of the leaves go here; there are none yet" },
        files: digests.collect(),
    };
    let manifest = Spool::of(dir, &pretty(&manifest)?).map_err(QueryError::unwritten)?;
    let sha256 = manifest.sha256.clone();
    out.push(("manifest.json".into(), manifest));
    out.sort_by(|(a, _), (b, _)| a.cmp(b));
    let sums: String = out.iter().map(|(name, file)| format!("{}  {name}\n", file.sha256)).collect();
    out.push(("SHA256SUMS".into(), Spool::of(dir, &sums).map_err(QueryError::unwritten)?));
    Ok(Prepared { sha256, data_dir: dir.into(), state, files: out })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, QueryError> + Send + 'static,
) -> Result<T, QueryError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| QueryError::Interrupted)?
}
