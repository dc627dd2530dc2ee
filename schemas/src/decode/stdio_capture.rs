//! Recorded stdio streams of MCP servers: one JSON object per line of a pipe,
//! `{"ts_ns": N, "seq": N, "dir": "client->server" | "server->client" | "server-stderr", "raw": "the line"}`.
//!
//! A file may hold several connections one after the other (Claude Code starts its servers again for
//! every prompt, and JSON-RPC ids start again with them). The next one begins where `seq` starts over,
//! or else at a second opening (see [`Opening`]). Connection id: `<digest of the first line>-<n>`, n from 1.
//! Two recordings interleaved in one file are kept apart as long as `seq` continues exactly one of them.
//!
//! Every line gives exactly one record that carries it (`raw` set), and further parts as [`crate::decode::mcp`] says:
//! a message, a `log` for stderr, a `rejected` for what is neither.
//!
//! Server name: from the file name (`orders.stdio.jsonl` -> orders); for `frames.jsonl` the server's
//! own `serverInfo.name`, once it has said it.

use super::mcp::opening::Opening;
use super::mcp::parts::Parts;
use super::mcp::{Frame, McpDecoder, Transport};
use super::{Context, Line, LineDecoder};
use crate::columns::Record;
use crate::json::{self, Json};
use crate::limits::mcp::INTERLEAVED_MAX;
use crate::record::{Direction, SourceKind};

/// Decoder name in records.
pub const DECODER: &str = "mcp-stdio";

/// Decodes one capture file.
#[derive(Debug)]
pub struct StdioCapture {
    source_name: String,
    server_name: Option<String>,
    file_id: String,
    connections: u64,
    /// Newest last.
    open: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    decoder: McpDecoder,
    opening: Opening,
    first_sequence: Option<i64>,
    last_sequence: Option<i64>,
}

impl StdioCapture {
    /// A decoder for the file of this name; `file_id` (digest of its first line) scopes connection ids.
    pub fn new(file_name: &str, file_id: &str) -> Self {
        let (source_name, server_name) = names(file_name);
        StdioCapture { source_name, server_name, file_id: file_id.into(), connections: 0, open: Vec::new() }
    }

    /// Index of the connection that a line belongs to.
    fn connection(&mut self, sequence: Option<i64>, direction: Direction, message: Option<&Json>) -> usize {
        let continues = |connection: &Connection| match (connection.last_sequence, sequence) {
            (Some(last), Some(sequence)) => last.checked_add(1) == Some(sequence),
            _ => false,
        };
        let index = self.open.iter().rposition(continues).or(self.open.len().checked_sub(1));
        let Some(index) = index else {
            return self.begin(sequence, direction, message);
        };
        let connection = &mut self.open[index];
        let starts_over = sequence.zip(connection.first_sequence).is_some_and(|(now, first)| now <= first);
        let is_next = starts_over || message.is_some_and(|message| connection.opening.begins_next(message, direction));
        if is_next {
            return self.begin(sequence, direction, message);
        }
        connection.last_sequence = sequence.or(connection.last_sequence);
        index
    }

    fn begin(&mut self, sequence: Option<i64>, direction: Direction, message: Option<&Json>) -> usize {
        self.connections += 1;
        let id = format!("{}-{}", self.file_id, self.connections);
        let mut opening = Opening::default();
        message.map(|message| opening.begins_next(message, direction));
        if self.open.len() == INTERLEAVED_MAX {
            self.open.remove(0);
        }
        self.open.push(Connection {
            decoder: McpDecoder::new(DECODER, &self.source_name, self.server_name.as_deref(), &id),
            opening,
            first_sequence: sequence,
            last_sequence: sequence,
        });
        self.open.len() - 1
    }
}

impl LineDecoder for StdioCapture {
    fn line(&mut self, context: &Context<'_>, line: Line<'_>) -> Vec<Record> {
        let rejected = |reason: &str| vec![rejected_line(context, &line, DECODER, &self.source_name, reason)];
        let envelope = match json::parse(line.bytes) {
            Ok(parsed) => parsed.value,
            Err(error) => return rejected(&error.to_string()),
        };
        let Some(direction) = envelope.str_at("dir").and_then(direction) else {
            return rejected("no known direction in \"dir\"");
        };
        let Some(raw) = envelope.get("raw").and_then(Json::as_str) else {
            return rejected("no text in \"raw\"");
        };
        let frame = Frame {
            message: raw.as_bytes(),
            direction,
            time_unix_nano: envelope.get("ts_ns").and_then(Json::as_i64),
            sequence: envelope.get("seq").and_then(Json::as_i64),
        };
        let parsed = (direction != Direction::ServerStderr).then(|| json::parse(frame.message));
        let message = parsed.as_ref().and_then(|parsed| parsed.as_ref().ok()).map(|parsed| &parsed.value);
        let index = self.connection(frame.sequence, direction, message);
        let decoder = &mut self.open[index].decoder;
        let mut parts = Parts::new(context, line, DECODER);
        match &parsed {
            Some(parsed) => decoder.message(&mut parts, &frame, parsed, &Transport::default()),
            None => decoder.stderr(&mut parts, &frame, &Transport::default()),
        }
        if self.server_name.is_none() {
            self.server_name = decoder.server_name().map(str::to_string);
        }
        parts.finish()
    }
}

/// The record of a line that is not of the capture format.
pub(super) fn rejected_line(
    context: &Context<'_>,
    line: &Line<'_>,
    decoder: &str,
    source_name: &str,
    reason: &str,
) -> Record {
    let mut record = context.rejected(line, decoder, reason);
    record.source_kind = SourceKind::Wire;
    record.source_name = source_name.into();
    record
}

fn direction(text: &str) -> Option<Direction> {
    match text {
        "client->server" => Some(Direction::ClientToServer),
        "server->client" => Some(Direction::ServerToClient),
        "server-stderr" => Some(Direction::ServerStderr),
        _ => None,
    }
}

/// Source name and, if the file is named after it, server name: `a/orders.stdio.jsonl` is the server
/// orders; `a/frames.jsonl` and `a/http.jsonl` are the recording a.
pub(super) fn names(file_name: &str) -> (String, Option<String>) {
    let mut folders = file_name.rsplit(['/', '\\']);
    let base = folders.next().unwrap_or_default();
    let stem = base.strip_suffix(".gz").unwrap_or(base);
    let stem = stem.strip_suffix(".jsonl").or(stem.strip_suffix(".ndjson")).unwrap_or(stem);
    let named = [".stdio", ".http", ".frames"].iter().find_map(|suffix| stem.strip_suffix(suffix));
    if let Some(server) = named.filter(|server| !server.is_empty()) {
        return (server.into(), Some(server.into()));
    }
    let folder = folders.next().filter(|folder| !folder.is_empty());
    (folder.unwrap_or(stem).into(), None)
}

#[cfg(test)]
pub(crate) mod tests;
