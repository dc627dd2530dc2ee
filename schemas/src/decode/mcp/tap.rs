//! What `threadline tap` saw, as records: frames of one run, its start and end, and gaps.
//!
//! Delivery key: `tap:<run>:<sequence>`, so an observation that is sent twice is one record. Decode
//! each observation once and keep the records for a retry: pairing is stateful.

use crate::columns::Record;
use crate::decode::mcp::parts::{Attributes, Parts};
use crate::decode::mcp::{Frame, McpDecoder, Transport};
use crate::decode::{Context, Line};
use crate::json::Json;
use crate::record::{Direction, Kind, Outcome};

/// Decoder name in records.
pub const DECODER: &str = "mcp-stdio";

/// Turns the observations of one run into records.
#[derive(Debug)]
pub struct TapDecoder {
    run: String,
    frames: McpDecoder,
}

/// Where and when something was seen within a run.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Position in the run.
    pub sequence: u64,
    /// The tap's clock.
    pub time_unix_nano: i64,
}

/// One line as the tap passed it on.
#[derive(Debug, Clone, Copy)]
pub struct TapFrame<'a> {
    /// Which stream.
    pub direction: Direction,
    /// The line without its line feed; its beginning when it was over the tap's limit.
    pub bytes: &'a [u8],
    /// Bytes that passed; more than `bytes.len()` only when the line was over the limit.
    pub length: u64,
    /// SHA-256 of the whole line, only when it was over the limit.
    pub sha256: Option<[u8; 32]>,
    /// Whether a line feed ended it.
    pub terminated: bool,
    /// Whether the receiver took all of it.
    pub delivered: bool,
}

/// Frames that passed and were not recorded.
#[derive(Debug, Clone, Copy)]
pub struct TapGap<'a> {
    /// Which stream.
    pub direction: Direction,
    /// How many lines.
    pub frames: u64,
    /// How many bytes.
    pub bytes: u64,
    /// When the first of them passed.
    pub from_unix_nano: i64,
    /// When the last of them passed.
    pub to_unix_nano: i64,
    /// Why, in one word.
    pub reason: &'a str,
}

impl TapDecoder {
    /// A decoder for one run; `run` becomes the connection id.
    pub fn new(server_name: &str, run: &str) -> Self {
        TapDecoder { run: run.into(), frames: McpDecoder::new(DECODER, server_name, Some(server_name), run) }
    }

    /// A line passed.
    pub fn frame(&mut self, context: &Context<'_>, seen: Seen, frame: TapFrame<'_>) -> Vec<Record> {
        let key = self.delivery_key(seen);
        let line = self.line(seen, &key, frame.bytes);
        let mut parts = Parts::new(context, line, DECODER);
        let mut notes = Attributes::default();
        if !frame.terminated {
            notes.put("threadline.terminated", Json::Bool(false));
        }
        if !frame.delivered {
            notes.put("threadline.delivered", Json::Bool(false));
        }
        let is_cut = frame.length > frame.bytes.len() as u64;
        if is_cut {
            notes.number("threadline.length", frame.length);
            notes.text("threadline.sha256", frame.sha256.map(hex::encode).unwrap_or_default());
        }
        let message = observed(seen, frame.direction, frame.bytes);
        let transport = Transport { notes, ..Transport::default() };
        match frame.direction {
            Direction::ServerStderr => self.frames.stderr(&mut parts, &message, &transport),
            _ if is_cut => {
                let reason = "line is over the tap's limit; its beginning and its digest are kept";
                self.frames.rejected(&mut parts, &message, &transport, reason);
            }
            _ => self.frames.message(&mut parts, &message, &crate::json::parse(frame.bytes), &transport),
        }
        parts.finish()
    }

    /// The server was started. The command may hold secrets: redact before storing.
    pub fn started(&self, context: &Context<'_>, seen: Seen, command: &[String], pid: u32) -> Record {
        let mut record = self.own(context, seen, Kind::Process, "started");
        record.target = command.first().cloned();
        let mut attributes = Attributes::default();
        attributes.texts("command", command.to_vec());
        attributes.number("pid", pid);
        attributes.finish(&mut record);
        record
    }

    /// The server ended, with an exit code or by a signal.
    pub fn exited(&self, context: &Context<'_>, seen: Seen, code: Option<i32>, signal: Option<i32>) -> Record {
        let mut record = self.own(context, seen, Kind::Process, "exited");
        record.outcome = Some(if code == Some(0) { Outcome::Ok } else { Outcome::Error });
        record.transport_status = match (code, signal) {
            (Some(code), _) => Some(format!("exit {code}")),
            (None, Some(signal)) => Some(format!("signal {signal}")),
            (None, None) => None,
        };
        let mut attributes = Attributes::default();
        attributes.number("threadline.unanswered", self.frames.waiting());
        attributes.finish(&mut record);
        record
    }

    /// A stream ended; `by` says at which end (`source`: its writer, `sink`: its reader).
    pub fn closed(&self, context: &Context<'_>, seen: Seen, direction: Direction, by: &str) -> Record {
        let mut record = self.own(context, seen, Kind::Connection, "closed");
        record.direction = Some(direction);
        record.transport_status = Some(format!("closed by {by}"));
        record
    }

    /// Frames passed that could not be recorded.
    pub fn gap(&self, context: &Context<'_>, seen: Seen, gap: TapGap<'_>) -> Record {
        let mut record = self.own(context, seen, Kind::Gap, "gap");
        record.direction = Some(gap.direction);
        record.duration_nano = gap.to_unix_nano.checked_sub(gap.from_unix_nano);
        record.set_time(Some(gap.from_unix_nano), context.observed_time_unix_us);
        record.error_type = Some(gap.reason.into());
        let (frames, bytes, reason) = (gap.frames, gap.bytes, gap.reason);
        record.text = Some(format!("{frames} lines ({bytes} bytes) passed and were not recorded: {reason}"));
        let mut attributes = Attributes::default();
        attributes.number("frames", frames);
        attributes.number("bytes", bytes);
        attributes.number("from_unix_nano", gap.from_unix_nano);
        attributes.number("to_unix_nano", gap.to_unix_nano);
        attributes.text("reason", reason);
        attributes.finish(&mut record);
        record
    }

    fn own(&self, context: &Context<'_>, seen: Seen, kind: Kind, name: &str) -> Record {
        let key = self.delivery_key(seen);
        let mut parts = Parts::new(context, self.line(seen, &key, b""), DECODER);
        let mut record = parts.begin(kind);
        let frame = observed(seen, Direction::ServerToClient, b"");
        self.frames.frame_columns(&mut record, &parts, &frame, &Transport::default());
        record.direction = None;
        record.raw = None;
        record.name = Some(name.into());
        record
    }

    fn delivery_key(&self, seen: Seen) -> String {
        format!("tap:{}:{}", self.run, seen.sequence)
    }

    fn line<'a>(&self, seen: Seen, delivery_key: &'a str, bytes: &'a [u8]) -> Line<'a> {
        Line { bytes, file: None, number: sequence(seen), delivery_key }
    }
}

fn observed(seen: Seen, direction: Direction, message: &[u8]) -> Frame<'_> {
    Frame { message, direction, time_unix_nano: Some(seen.time_unix_nano), sequence: Some(sequence(seen)) }
}

fn sequence(seen: Seen) -> i64 {
    i64::try_from(seen.sequence).unwrap_or(i64::MAX)
}
