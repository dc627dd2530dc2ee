//! One file: opened, unpacked, recognised, decoded. Runs on a thread of its own and blocks.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sha2::{Digest, Sha256};
use threadline_schemas::decode::otlp::{self, Encoding};
use threadline_schemas::decode::recognise::{self, Format, HEAD_BYTES};
use threadline_schemas::decode::{Line, LineDecoder};
use threadline_schemas::limits::arrival::LINE_BYTES_KEPT;
use threadline_schemas::{Collector, Kind, Record};
use tokio::sync::mpsc::Sender;

use super::{FileLine, FileReport, LineReader, Options};
use crate::decompress::{self, Coding, Limits};
use crate::pipeline::Pipeline;

/// What the reading thread tells.
pub(super) enum Event {
    /// Records, in order.
    Batch(Vec<Record>),
    /// So many bytes more were read from disk.
    Read(u64),
}

/// Everything that reading one file needs.
pub(super) struct FileImport {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) options: Options,
    pub(super) path: PathBuf,
    /// Relative to what was imported, without `.gz` or `.zst`.
    pub(super) name: String,
}

/// Why reading stopped early.
enum Stop {
    /// The receiver has gone.
    Receiver,
    File(String),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::File(error.to_string())
    }
}

impl FileImport {
    /// Reads it all.
    pub(super) fn read(&self, events: &Sender<Event>) -> FileReport {
        let mut batch = Batch::new(self, events);
        let mut report = FileReport::default();
        if let Err(Stop::File(error)) = self.decode(&mut batch, &mut report).and_then(|()| batch.send()) {
            // What was understood before the file went wrong is kept.
            report.error = Some(error);
            drop(batch.send());
        }
        (report.records, report.rejected) = (batch.records, batch.rejected);
        report
    }

    fn decode(&self, batch: &mut Batch<'_>, report: &mut FileReport) -> Result<(), Stop> {
        let mut source = self.open(batch.disk_bytes.clone())?;
        let mut head = Vec::new();
        source.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head)?;
        let recognised = || recognise::recognise_with(&self.name, &head, &self.options.catalogue);
        let format = match self.options.format.clone().map_or_else(recognised, Ok) {
            Ok(format) => format,
            Err(skipped) => {
                report.skipped = Some(skipped.to_string());
                return Ok(());
            }
        };
        report.format = Some(format.as_str().to_string());
        let mut source = BufReader::with_capacity(256 * 1024, Cursor::new(head.clone()).chain(source));
        match format {
            Format::OtlpProtobuf => self.body(source, &head, Encoding::Protobuf, batch, report),
            Format::OtlpJson => {
                let mut first_line = Vec::new();
                source.by_ref().take(self.options.body_bytes_max).read_until(b'\n', &mut first_line)?;
                let is_lines = !source.fill_buf()?.is_empty() && threadline_schemas::json::parse(&first_line).is_ok();
                let source = Cursor::new(first_line).chain(source);
                match is_lines {
                    true => self.lines(source, &format, batch, report),
                    false => self.body(source, &head, Encoding::Json, batch, report),
                }
            }
            _ => self.lines(source, &format, batch, report),
        }
    }

    fn open(&self, disk_bytes: Arc<AtomicU64>) -> io::Result<Box<dyn Read + Send>> {
        let file = File::open(&self.path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut file = BufReader::with_capacity(128 * 1024, DiskBytes { file, disk_bytes });
        let coding = Coding::of_magic(file.fill_buf()?);
        let limits = Limits { bytes_max: u64::MAX, ratio_max: self.options.ratio_max };
        decompress::reader(file, coding, limits)
    }

    fn lines(
        &self,
        source: impl BufRead,
        format: &Format,
        batch: &mut Batch<'_>,
        report: &mut FileReport,
    ) -> Result<(), Stop> {
        let mut lines = LineReader::new(source, base_name(&self.name), self.options.line_bytes_max);
        let mut decoder: Option<Box<dyn LineDecoder>> = None;
        while let Some(line) = lines.next()? {
            report.lines += 1;
            if decoder.is_none() {
                decoder = recognise::decoder(format, &self.name, lines.keys().first_line_digest());
            }
            let takes_empty = decoder.as_ref().is_some_and(|decoder| decoder.takes_empty_lines());
            if line.bytes.iter().all(u8::is_ascii_whitespace) && line.sha256.is_none() && !takes_empty {
                continue;
            }
            let context = self.pipeline.context(Collector::Import);
            let given = Line {
                bytes: &line.bytes,
                file: Some(&self.name),
                number: line.number,
                delivery_key: &line.delivery_key,
            };
            match &mut decoder {
                _ if line.sha256.is_some() => batch.add(vec![too_long(&context, &given, &line, format)])?,
                Some(decoder) => batch.add(decoder.line(&context, given))?,
                None => self.json_line(&given, batch, report)?,
            }
        }
        match &mut decoder {
            Some(decoder) => batch.add(decoder.finish(&self.pipeline.context(Collector::Import))),
            None => Ok(()),
        }
    }

    /// One OTLP body in JSON per line, as the file exporter of the OpenTelemetry collector writes.
    fn json_line(&self, line: &Line<'_>, batch: &mut Batch<'_>, report: &mut FileReport) -> Result<(), Stop> {
        let context = self.pipeline.context(Collector::Import);
        let signal = recognise::otlp_signal(&self.name, line.bytes);
        let decoded = signal.map(|signal| otlp::decode_body(&context, line.bytes, signal, Encoding::Json, line.file));
        match decoded {
            Some(Ok(mut body)) => {
                report.metric_points += body.metric_points;
                body.records.iter_mut().for_each(|record| record.origin_line = Some(line.number));
                batch.add(body.records)
            }
            Some(Err(error)) => batch.add(vec![context.rejected(line, "otlp-json", &error.to_string())]),
            None => batch.add(vec![context.rejected(line, "otlp-json", "neither logs, traces nor metrics")]),
        }
    }

    fn body(
        &self,
        source: impl BufRead,
        head: &[u8],
        encoding: Encoding,
        batch: &mut Batch<'_>,
        report: &mut FileReport,
    ) -> Result<(), Stop> {
        let max = self.options.body_bytes_max;
        let mut body = Vec::new();
        source.take(max + 1).read_to_end(&mut body)?;
        if body.len() as u64 > max {
            return Err(Stop::File(format!("body is above the limit of {max} bytes")));
        }
        let context = self.pipeline.context(Collector::Import);
        let signal = recognise::otlp_signal(base_name(&self.name), head);
        let decoded = match signal {
            Some(signal) => otlp::decode_body(&context, &body, signal, encoding, Some(&self.name)),
            None => {
                return Err(Stop::File("neither content nor name say whether it holds logs, traces or metrics".into()));
            }
        };
        match decoded {
            Ok(decoded) => {
                report.metric_points = decoded.metric_points;
                report.lines = decoded.records.len() as u64;
                batch.add(decoded.records)
            }
            Err(error) => {
                report.lines = 1;
                let format = report.format.as_deref().unwrap_or_default();
                batch.add(vec![rejected_body(&context, &self.name, &body, format, &error.to_string())])
            }
        }
    }
}

/// Collects records until they are worth an append.
struct Batch<'a> {
    options: &'a Options,
    events: &'a Sender<Event>,
    waiting: Vec<Record>,
    waiting_bytes: usize,
    records: u64,
    rejected: u64,
    /// Bytes read from disk, and those that were told.
    disk_bytes: Arc<AtomicU64>,
    told_bytes: u64,
}

impl<'a> Batch<'a> {
    fn new(import: &'a FileImport, events: &'a Sender<Event>) -> Self {
        Batch {
            options: &import.options,
            events,
            waiting: Vec::new(),
            waiting_bytes: 0,
            records: 0,
            rejected: 0,
            disk_bytes: Arc::default(),
            told_bytes: 0,
        }
    }

    fn add(&mut self, records: Vec<Record>) -> Result<(), Stop> {
        for record in records {
            self.records += 1;
            self.rejected += u64::from(record.kind == Kind::Rejected);
            self.waiting_bytes += record.memory_bytes();
            self.waiting.push(record);
            let is_full = self.waiting.len() >= self.options.batch_records_max;
            if is_full || self.waiting_bytes >= self.options.batch_bytes_max {
                self.send()?;
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), Stop> {
        self.waiting_bytes = 0;
        let waiting = std::mem::take(&mut self.waiting);
        if !waiting.is_empty() {
            self.events.blocking_send(Event::Batch(waiting)).map_err(|_| Stop::Receiver)?;
        }
        let read = self.disk_bytes.load(Relaxed);
        let told = std::mem::replace(&mut self.told_bytes, read);
        self.events.blocking_send(Event::Read(read - told)).map_err(|_| Stop::Receiver)
    }
}

/// Counts what is read from disk.
struct DiskBytes {
    file: File,
    disk_bytes: Arc<AtomicU64>,
}

impl Read for DiskBytes {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(into)?;
        self.disk_bytes.fetch_add(count as u64, Relaxed);
        Ok(count)
    }
}

/// Without the suffix of a compression.
pub(super) fn without_suffix(name: &str) -> &str {
    name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).filter(|rest| !rest.is_empty()).unwrap_or(name)
}

fn base_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// A line above the limit.
pub(crate) fn too_long(
    context: &threadline_schemas::decode::Context<'_>,
    line: &Line<'_>,
    read: &FileLine,
    format: &Format,
) -> Record {
    let reason = format!("line of {} bytes is above the limit; its beginning and its digest are kept", read.length);
    let mut record = context.rejected(line, format.as_str(), &reason);
    let attributes = serde_json::json!({ "length": read.length, "sha256": read.sha256 });
    record.attributes = Some(attributes.to_string());
    record
}

fn rejected_body(
    context: &threadline_schemas::decode::Context<'_>,
    name: &str,
    body: &[u8],
    decoder: &str,
    reason: &str,
) -> Record {
    let sha256 = hex::encode(Sha256::digest(body));
    let key = format!("body:{sha256}:0");
    let kept = &body[..body.len().min(LINE_BYTES_KEPT)];
    let line = Line { bytes: kept, file: Some(name), number: 1, delivery_key: &key };
    let mut record = context.rejected(&line, decoder, reason);
    let attributes = serde_json::json!({ "length": body.len(), "sha256": sha256 });
    record.attributes = Some(attributes.to_string());
    record
}
