//! Records as bytes of one export format.

use std::io::Write;

use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use threadline_schemas::ocsf::{Policy, SessionFacts, Version, event, to_text};
use threadline_schemas::{Record, columns, display};

use super::ExportFormat;
use super::occurrences::Occurrences;
use crate::error::QueryError;

/// Bytes of a Parquet row group, encoded.
const ROW_GROUP_BYTES: usize = 16 << 20;

/// Writes one export, part by part.
pub(super) struct Encoder {
    form: Form,
}

enum Form {
    Ndjson,
    Csv { is_begun: bool },
    Parquet(Box<ArrowWriter<Vec<u8>>>),
    Ocsf { version: Version, policy: Policy, occurrences: Occurrences, events: u64 },
}

impl Encoder {
    /// An encoder at the beginning of its export.
    pub(super) fn new(format: &ExportFormat) -> Result<Self, QueryError> {
        let form = match format {
            ExportFormat::Ndjson => Form::Ndjson,
            ExportFormat::Csv => Form::Csv { is_begun: false },
            ExportFormat::Parquet => {
                let level = ZstdLevel::try_new(3).map_err(QueryError::unwritten)?;
                let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
                let writer = ArrowWriter::try_new(Vec::new(), columns::schema(), Some(properties))
                    .map_err(QueryError::unwritten)?;
                Form::Parquet(Box::new(writer))
            }
            ExportFormat::Ocsf(version, policy) => {
                Form::Ocsf { version: *version, policy: policy.clone(), occurrences: Occurrences::default(), events: 0 }
            }
            ExportFormat::Bundle(..) | ExportFormat::Html => {
                return Err(QueryError::parameter("format", "a bundle and a report are prepared as a whole"));
            }
        };
        Ok(Encoder { form })
    }

    /// OCSF events so far.
    pub(super) fn events(&self) -> u64 {
        match &self.form {
            Form::Ocsf { events, .. } => *events,
            _ => 0,
        }
    }

    /// The bytes of further records; `sessions` has what is known of the session of each, or nothing.
    pub(super) fn part(&mut self, records: &[Record], sessions: &[SessionFacts]) -> Result<Vec<u8>, QueryError> {
        match &mut self.form {
            Form::Ndjson => {
                let line = |record: &Record| serde_json::to_string(&record.to_json()).unwrap_or_default();
                Ok(records.iter().map(|record| display::json(line(record)) + "\n").collect::<String>().into_bytes())
            }
            Form::Csv { is_begun } => csv(records, std::mem::replace(is_begun, true)),
            Form::Parquet(writer) => {
                let batch = columns::to_batch(records).map_err(QueryError::Columns)?;
                writer.write(&batch).map_err(QueryError::unwritten)?;
                if writer.in_progress_size() > ROW_GROUP_BYTES {
                    // Until its end a row group is held in memory.
                    writer.flush().map_err(QueryError::unwritten)?;
                }
                Ok(std::mem::take(writer.inner_mut()))
            }
            Form::Ocsf { version, policy, occurrences, events } => {
                let mut out = Vec::new();
                for told in occurrences.tell(records, sessions) {
                    *events += 1;
                    let text = to_text(&event(told.occurrence(), policy, *version));
                    // Writing to memory cannot fail.
                    let _written = writeln!(out, "{}", display::json(text));
                }
                Ok(out)
            }
        }
    }

    /// The last bytes.
    pub(super) fn end(self) -> Result<Vec<u8>, QueryError> {
        match self.form {
            Form::Ndjson => Ok(Vec::new()),
            Form::Csv { is_begun } => {
                if is_begun {
                    Ok(Vec::new())
                } else {
                    csv(&[], false)
                }
            }
            Form::Parquet(writer) => writer.into_inner().map_err(QueryError::unwritten),
            Form::Ocsf { version, policy, mut occurrences, .. } => {
                let told = occurrences.rest();
                let lines =
                    told.iter().map(|told| display::json(to_text(&event(told.occurrence(), &policy, version))) + "\n");
                Ok(lines.collect::<String>().into_bytes())
            }
        }
    }
}

/// Every column as text; a cell that a spreadsheet would take for a formula is made plain text.
fn csv(records: &[Record], is_begun: bool) -> Result<Vec<u8>, QueryError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let broken = |error: csv::Error| QueryError::unwritten(error);
    if !is_begun {
        writer.write_record(columns::COLUMNS.iter().map(|column| column.name)).map_err(broken)?;
    }
    for record in records {
        let members = record.to_json();
        let cell = |column: &columns::Column| match members.get(column.name) {
            None | Some(serde_json::Value::Null) => String::new(),
            Some(serde_json::Value::String(text)) => display::csv_cell(text),
            Some(value) => display::csv_cell(&value.to_string()),
        };
        writer.write_record(columns::COLUMNS.iter().map(cell)).map_err(broken)?;
    }
    writer.into_inner().map_err(|error| QueryError::unwritten(error.into_error()))
}
