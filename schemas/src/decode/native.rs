//! Files of native events, one JSON object per line (see [`crate::wire`]).

use super::{Context, Line, LineDecoder};
use crate::columns::Record;
use crate::wire;

/// Decodes a file of native events; an event that cannot be read is `rejected`.
#[derive(Debug, Default)]
pub struct NativeDecoder;

impl LineDecoder for NativeDecoder {
    fn line(&mut self, context: &Context<'_>, line: Line<'_>) -> Vec<Record> {
        let mut record = match wire::read_event(context, line.bytes, line.delivery_key) {
            Ok(record) => record,
            Err(error) => return vec![context.rejected(&line, "native", &error.to_string())],
        };
        record.origin_file = line.file.map(str::to_string);
        record.origin_line = Some(line.number);
        vec![record]
    }
}
