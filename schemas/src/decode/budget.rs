//! How many records one line may give, and how large they may be together: a few bytes of input may repeat what the rest
//! of the line says, and a line may have half a million such parts.
//!
//! Invariants
//! - the first record, which carries the raw bytes, is always taken
//! - what is left out is counted, and said by a `gap` record behind the others

use super::{Context, Line};
use crate::columns::Record;
use crate::limits::parts::{BYTES_MAX, RECORDS_MAX};
use crate::record::Kind;

/// What the records of one line have taken.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    records: usize,
    bytes: usize,
    left_out: usize,
}

impl Budget {
    /// Whether there is room for a further record of the line.
    pub(crate) fn takes(&mut self, record: &Record) -> bool {
        let bytes = record.memory_bytes();
        let has_room = self.records == 0 || (!self.is_spent() && self.bytes + bytes <= BYTES_MAX);
        if has_room {
            self.records += 1;
            self.bytes += bytes;
        } else {
            self.leave_out(1);
        }
        has_room
    }

    /// Whether nothing more is taken: then a part need not be made.
    pub(crate) fn is_spent(&self) -> bool {
        self.records >= RECORDS_MAX || self.bytes >= BYTES_MAX
    }

    /// Counts parts that are not made.
    pub(crate) fn leave_out(&mut self, parts: usize) {
        self.left_out += parts;
    }

    /// What says what was left out, if something was. `part` is a number that no record of the line has.
    pub(crate) fn gap(
        &self,
        context: &Context<'_>,
        line: &Line<'_>,
        part: usize,
        decoder: &str,
        first: &Record,
    ) -> Option<Record> {
        if self.left_out == 0 {
            return None;
        }
        let mut record = context.part(line, part, Kind::Gap, decoder);
        record.time_unix_nano = first.time_unix_nano;
        record.time_quality = first.time_quality;
        record.source_kind = first.source_kind;
        record.source_name.clone_from(&first.source_name);
        record.source_sequence = first.source_sequence;
        record.server_name.clone_from(&first.server_name);
        record.connection_id.clone_from(&first.connection_id);
        record.conversation_id.clone_from(&first.conversation_id);
        record.name = Some("parts".into());
        record.error_type = Some("parts_limit".into());
        let count = self.left_out;
        record.text =
            Some(format!("{count} further parts of this line have no record of their own; its raw bytes hold them"));
        record.attributes = Some(format!("{{\"records\":{count}}}"));
        Some(record)
    }
}
