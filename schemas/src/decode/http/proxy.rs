//! What `threadline tap --upstream` saw, as records: the exchanges of one run, its start and end, and gaps.
//!
//! Delivery key: `tap:<run>:<sequence>`, so an observation that is sent twice is one record; bytes of a body that were held
//! back until then have `tap:<run>:<sequence>:<exchange>`, gaps of a connection `tap:<run>:<sequence>:<connection>`. Decode each observation once and keep the records for a retry:
//! pairing is stateful.

use super::{DECODER, Event, HttpDecoder, Seen};
use crate::columns::Record;
use crate::decode::mcp::parts::{Attributes, Parts};
use crate::decode::{Context, Line};
use crate::record::{Kind, Outcome, SourceKind};

/// Turns the observations of one run into records.
#[derive(Debug)]
pub struct ProxyDecoder {
    run: String,
    server_name: String,
    exchanges: HttpDecoder,
}

/// Where and when something was seen within a run.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// Position in the run.
    pub sequence: u64,
    /// The proxy's clock.
    pub time_unix_nano: i64,
}

/// Events that passed and were not recorded.
#[derive(Debug, Clone, Copy)]
pub struct ProxyGap<'a> {
    /// Whose they were; `None` when that is not known.
    pub connection: Option<&'a str>,
    /// How many other connections look alike, so that the events may have been theirs.
    pub alike: usize,
    /// How many: requests, response heads, chunks, ends.
    pub events: u64,
    /// How many bytes of bodies were in them.
    pub bytes: u64,
    /// When the first of them passed.
    pub from_unix_nano: i64,
    /// When the last of them passed.
    pub to_unix_nano: i64,
    /// Why, in one word.
    pub reason: &'a str,
}

impl ProxyDecoder {
    /// A decoder for one run; `run` scopes connection ids.
    pub fn new(server_name: &str, run: &str) -> Self {
        let exchanges = HttpDecoder::new(server_name, Some(server_name), run);
        ProxyDecoder { run: run.into(), server_name: server_name.into(), exchanges }
    }

    /// Bytes of what connections remember.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.exchanges.remembered()
    }

    /// Something was seen of an exchange; `raw` are the bytes that the record keeps.
    pub fn exchange(
        &mut self,
        context: &Context<'_>,
        at: At,
        exchange: u64,
        raw: &[u8],
        event: Event<'_>,
    ) -> Vec<Record> {
        self.exchange_keyed(context, at, exchange, raw, event, &self.delivery_key(at))
    }

    /// Bytes of a body that were held back: they come before what is seen at the same sequence.
    pub fn held_back(
        &mut self,
        context: &Context<'_>,
        at: At,
        exchange: u64,
        raw: &[u8],
        event: Event<'_>,
    ) -> Vec<Record> {
        let delivery_key = format!("{}:{exchange}", self.delivery_key(at));
        self.exchange_keyed(context, at, exchange, raw, event, &delivery_key)
    }

    fn exchange_keyed(
        &mut self,
        context: &Context<'_>,
        at: At,
        exchange: u64,
        raw: &[u8],
        event: Event<'_>,
        delivery_key: &str,
    ) -> Vec<Record> {
        let line = Line { bytes: raw, file: None, number: sequence(at), delivery_key };
        let number = i64::try_from(exchange).unwrap_or(i64::MAX);
        let seen = Seen { exchange: number, time_unix_nano: Some(at.time_unix_nano), sequence: Some(sequence(at)) };
        self.exchanges.event(context, line, seen, event)
    }

    /// Events of this exchange are missing before the next one.
    pub fn lost(&mut self, exchange: u64) {
        self.exchanges.lost(i64::try_from(exchange).unwrap_or(i64::MAX));
    }

    /// The proxy began to listen. `upstream` is the server's URL without user and password.
    pub fn started(&self, context: &Context<'_>, at: At, upstream: &str, listen: &str) -> Record {
        let mut record = self.own(context, at, Kind::Process, "started");
        record.target = Some(upstream.into());
        let mut attributes = Attributes::default();
        attributes.text("upstream", upstream);
        attributes.text("listen", listen);
        attributes.finish(&mut record);
        record
    }

    /// The proxy was stopped.
    pub fn stopped(&self, context: &Context<'_>, at: At) -> Record {
        let mut record = self.own(context, at, Kind::Process, "exited");
        record.outcome = Some(Outcome::Ok);
        record
    }

    /// Events passed that could not be recorded.
    pub fn gap(&self, context: &Context<'_>, at: At, gap: ProxyGap<'_>) -> Record {
        let delivery_key = match gap.connection {
            Some(connection) => format!("{}:{connection}", self.delivery_key(at)),
            None => self.delivery_key(at),
        };
        let mut record = self.own_keyed(context, at, Kind::Gap, "gap", &delivery_key);
        if let Some(connection) = gap.connection {
            record.connection_id = Some(connection.into());
        }
        record.duration_nano = gap.to_unix_nano.checked_sub(gap.from_unix_nano);
        record.set_time(Some(gap.from_unix_nano), context.observed_time_unix_us);
        record.error_type = Some(gap.reason.into());
        let (events, bytes, reason) = (gap.events, gap.bytes, gap.reason);
        let whose = match (gap.connection, gap.alike) {
            (None, _) => String::new(),
            (Some(_), 0) => " of this connection".into(),
            (Some(_), alike) => format!(" of this connection or {alike} that look alike"),
        };
        record.text = Some(format!(
            "{events} HTTP events ({bytes} bytes of bodies){whose} passed and were not recorded: {reason}"
        ));
        let mut attributes = Attributes::default();
        attributes.number("events", events);
        attributes.number("bytes", bytes);
        attributes.number("from_unix_nano", gap.from_unix_nano);
        attributes.number("to_unix_nano", gap.to_unix_nano);
        attributes.text("reason", reason);
        attributes.finish(&mut record);
        record
    }

    fn own(&self, context: &Context<'_>, at: At, kind: Kind, name: &str) -> Record {
        self.own_keyed(context, at, kind, name, &self.delivery_key(at))
    }

    fn own_keyed(&self, context: &Context<'_>, at: At, kind: Kind, name: &str, delivery_key: &str) -> Record {
        let line = Line { bytes: b"", file: None, number: sequence(at), delivery_key };
        let mut record = Parts::new(context, line, DECODER).begin(kind);
        record.set_time(Some(at.time_unix_nano), context.observed_time_unix_us);
        record.source_kind = SourceKind::Wire;
        record.source_name.clone_from(&self.server_name);
        record.source_sequence = Some(sequence(at));
        record.server_name = Some(self.server_name.clone());
        record.connection_id = Some(self.run.clone());
        record.raw = None;
        record.name = Some(name.into());
        record
    }

    fn delivery_key(&self, at: At) -> String {
        format!("tap:{}:{}", self.run, at.sequence)
    }
}

fn sequence(at: At) -> i64 {
    i64::try_from(at.sequence).unwrap_or(i64::MAX)
}
