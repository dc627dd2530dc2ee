//! From what the proxy saw to records: bodies are put together and decompressed beside the traffic.
//!
//! Invariants
//! - the bytes of a body are recorded once, with the message that they are: a server-sent event when its blank line came,
//!   any other body when it ended, so no secret is cut in two before redaction sees it
//! - at most [`BODY_BYTES_MAX`] of one body and [`HELD_BYTES_MAX`] of all are held back; more is given out as it stands
//! - of a body that cannot be read (unknown coding, damage, a compression bomb) only lengths and digests are recorded,
//!   because redaction could not see into it
//! - credentials in header fields and OAuth forms are masked before anything is recorded
//!
//! Not here: what messages mean (`schemas::decode::http`).

use std::collections::BTreeMap;

use hyper::HeaderMap;
use hyper::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use hyper::http::{HeaderName, StatusCode, Version};
use sha2::{Digest, Sha256};
use threadline_schemas::Record;
use threadline_schemas::decode::Context;
use threadline_schemas::decode::http::proxy::{At, ProxyDecoder, ProxyGap};
use threadline_schemas::decode::http::{self, Headers};
use threadline_schemas::digest::MatchKey;
use threadline_schemas::limits::http::{BODY_BYTES_MAX, EXCHANGES_MAX, HELD_BYTES_MAX};

use super::Counts;
use super::coding::Coding;
use super::connections::{Connections, Share};
use super::observation::{Event, Gap, Observation, Request, SESSION, Sender, What};
use super::{mask, upstream};

/// A body that is neither JSON nor events is given out in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

/// Turns the observations of one run into records.
pub(super) struct Decoding {
    decoder: ProxyDecoder,
    key: MatchKey,
    /// Of exchanges whose response has begun.
    bodies: BTreeMap<u64, Assembly>,
    held: usize,
    connections: Connections,
}

/// A response's body in the making.
struct Assembly {
    coding: Coding,
    kind: BodyKind,
    waiting: Vec<u8>,
    ends: EventEnds,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BodyKind {
    Events,
    Json,
    Other,
}

impl Decoding {
    pub(super) fn new(server_name: &str, run: &str, key: MatchKey) -> Self {
        let (decoder, connections) = (ProxyDecoder::new(server_name, run), Connections::default());
        Decoding { decoder, key, bodies: BTreeMap::new(), held: 0, connections }
    }

    pub(super) fn decode(&mut self, context: &Context<'_>, observation: Observation) -> Vec<Record> {
        let at = At { sequence: observation.sequence, time_unix_nano: observation.time_unix_nano };
        match observation.event {
            Event::Started { upstream, listen } => {
                vec![self.decoder.started(context, at, &upstream, &listen.to_string())]
            }
            Event::Stopped => {
                let open: Vec<u64> = self.bodies.keys().copied().collect();
                let mut records: Vec<Record> =
                    open.into_iter().flat_map(|number| self.give_out_all(context, at, number, false)).collect();
                records.push(self.decoder.stopped(context, at));
                records
            }
            Event::Gap(gap) => self.gap(context, at, &gap),
            Event::Exchange { number, sender, is_after_loss, what } => {
                let mut records = Vec::new();
                if is_after_loss {
                    records.extend(self.give_out_all(context, at, number, false));
                    self.lost(number);
                }
                records.extend(self.exchange(context, at, number, sender, what));
                records
            }
        }
    }

    /// One record for each connection that lost something, so that its session shows it; what is nobody's is the run's.
    fn gap(&self, context: &Context<'_>, at: At, gap: &Gap) -> Vec<Record> {
        let (shares, rest) = self.connections.shares(gap);
        let record = |connection: Option<&str>, Share { counts, alike }: Share| {
            let Counts { events, bytes } = counts;
            let (from_unix_nano, to_unix_nano) = (gap.from_unix_nano, gap.to_unix_nano);
            let reason = gap.reason.as_str();
            let gap = ProxyGap { connection, alike, events, bytes, from_unix_nano, to_unix_nano, reason };
            self.decoder.gap(context, at, gap)
        };
        let mut records: Vec<Record> =
            shares.iter().map(|(connection, share)| record(Some(&**connection), *share)).collect();
        if rest.events > 0 || records.is_empty() {
            records.push(record(None, Share { counts: rest, alike: 0 }));
        }
        records
    }

    fn exchange(&mut self, context: &Context<'_>, at: At, number: u64, sender: Sender, what: What) -> Vec<Record> {
        match what {
            What::Request(request) => {
                let records = self.request(context, at, number, &request);
                if let Some(connection) = records.first().and_then(|record| record.connection_id.as_deref()) {
                    self.connections.begin(number, sender, connection);
                }
                records
            }
            What::ResponseHead { status, version, headers, rewritten } => {
                self.response_head(context, at, number, status, version, &headers, rewritten)
            }
            What::Chunk(bytes) => self.chunk(context, at, number, &bytes),
            What::End { trailers } => {
                let raw = trailers.map(|trailers| mask::fields(&trailers, &self.key)).unwrap_or_default();
                let mut records = self.give_out_all(context, at, number, true);
                records.extend(self.ending(context, at, number, &raw, http::Event::End));
                records
            }
            What::ClientDisconnect => self.ending(context, at, number, b"", http::Event::ClientDisconnect),
            What::Failure { reason, status, is_refusal } => {
                let event = http::Event::Failure { reason, status: status.map(i64::from), is_refusal };
                self.ending(context, at, number, b"", event)
            }
        }
    }

    fn request(&mut self, context: &Context<'_>, at: At, number: u64, request: &Request) -> Vec<Record> {
        let mut notes = vec![("network.protocol.version", protocol_version(request.version))];
        let is_cut = request.sha256.is_some();
        if let Some(sha256) = request.sha256 {
            notes.push(("threadline.length", request.length.to_string()));
            notes.push(("threadline.sha256", hex::encode(sha256)));
        }
        if !request.is_complete {
            notes.push(("threadline.terminated", "false".into()));
        }
        let mut coding = coding_of(&request.headers, BODY_BYTES_MAX);
        let mut cut = is_cut.then_some("request body is over the limit; its beginning and its digest are kept");
        let mut body = match coding.feed(&request.body) {
            Ok(body) => body,
            Err(reason) => {
                cut = Some(reason);
                opaque_notes(&request.body, &mut notes);
                Vec::new()
            }
        };
        if value_of(&request.headers, &CONTENT_TYPE).is_some_and(|kind| kind.contains("x-www-form-urlencoded")) {
            body = mask::form(&String::from_utf8_lossy(&body), &self.key).into_bytes();
        }
        let target = mask::url(&request.target, &self.key);
        let start = format!("{} {target} {}", request.method, upstream::shown(request.version));
        let raw = [mask::head(&start, &request.headers, &self.key), body.clone()].concat();
        let fields = texts(&request.headers);
        let headers = headers(&fields);
        let client = request.client.to_string();
        let seen = http::Request {
            method: request.method.as_str(),
            path: &target,
            headers: &headers,
            body: (request.length > 0).then_some(&body[..]),
            cut,
            client: Some(&client),
            notes: &notes,
        };
        self.decoder.exchange(context, at, number, &raw, http::Event::Request(seen))
    }

    #[allow(clippy::too_many_arguments, reason = "they are the members of one event")]
    fn response_head(
        &mut self,
        context: &Context<'_>,
        at: At,
        number: u64,
        status: u16,
        version: Version,
        fields: &HeaderMap,
        rewritten: Option<&'static str>,
    ) -> Vec<Record> {
        if let Some(session) = fields.get(SESSION).filter(|session| !session.is_empty()) {
            self.connections.name(number, session.as_bytes());
        }
        let content_type = value_of(fields, &CONTENT_TYPE).unwrap_or_default();
        let kind = match () {
            () if content_type.contains("text/event-stream") => BodyKind::Events,
            () if content_type.contains("json") => BodyKind::Json,
            () => BodyKind::Other,
        };
        let coding = coding_of(fields, BODY_BYTES_MAX);
        let mut notes = vec![("network.protocol.version", protocol_version(version))];
        if !coding.is_plain() {
            notes.push(("http.content-encoding", value_of(fields, &CONTENT_ENCODING).unwrap_or_default()));
        }
        if let Some(what) = rewritten {
            notes.push(("threadline.rewritten", what.into()));
        }
        if self.bodies.len() >= EXCHANGES_MAX
            && let Some((_, oldest)) = self.bodies.pop_first()
        {
            self.held -= oldest.waiting.len();
        }
        self.bodies.insert(number, Assembly { coding, kind, waiting: Vec::new(), ends: EventEnds::default() });
        let title = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
        let start = format!("{} {status} {title}", upstream::shown(version));
        let raw = mask::head(&start, fields, &self.key);
        let texts = texts(fields);
        let event = http::Event::ResponseHead { status: Some(status.into()), headers: &headers(&texts), notes: &notes };
        self.decoder.exchange(context, at, number, &raw, event)
    }

    fn chunk(&mut self, context: &Context<'_>, at: At, number: u64, bytes: &[u8]) -> Vec<Record> {
        let data = match self.bodies.get_mut(&number) {
            Some(assembly) => assembly.coding.feed(bytes),
            None => Err("its beginning was not recorded"),
        };
        let data = match data {
            Ok(data) => data,
            Err(reason) => {
                let mut records = self.give_out_all(context, at, number, false);
                let event = http::Event::OpaqueChunk { reason, bytes };
                records.extend(self.decoder.exchange(context, at, number, b"", event));
                return records;
            }
        };
        let Some(assembly) = self.bodies.get_mut(&number) else { return Vec::new() };
        let end = assembly.ends.find(&data).map(|end| assembly.waiting.len() + end);
        assembly.waiting.extend_from_slice(&data);
        self.held += data.len();
        let is_over = assembly.waiting.len() > BODY_BYTES_MAX || self.held > HELD_BYTES_MAX;
        let given = match assembly.kind {
            _ if is_over => assembly.waiting.len(),
            BodyKind::Events => end.unwrap_or(0),
            BodyKind::Other if assembly.waiting.len() >= PIECE_BYTES => assembly.waiting.len(),
            BodyKind::Json | BodyKind::Other => 0,
        };
        if given == 0 {
            return Vec::new();
        }
        let rest = assembly.waiting.split_off(given);
        let data = std::mem::replace(&mut assembly.waiting, rest);
        self.held -= data.len();
        self.decoder.exchange(context, at, number, &data, http::Event::BodyChunk(&data))
    }

    /// What is left of the body, and how the exchange ended.
    fn ending(
        &mut self,
        context: &Context<'_>,
        at: At,
        number: u64,
        raw: &[u8],
        event: http::Event<'_>,
    ) -> Vec<Record> {
        let mut records = self.give_out_all(context, at, number, false);
        self.bodies.remove(&number);
        self.connections.end(number);
        records.extend(self.decoder.exchange(context, at, number, raw, event));
        records
    }

    /// Everything that is held back of a body, which may be the last of it.
    fn give_out_all(&mut self, context: &Context<'_>, at: At, number: u64, is_last: bool) -> Vec<Record> {
        let Some(assembly) = self.bodies.get_mut(&number) else { return Vec::new() };
        let data = std::mem::take(&mut assembly.waiting);
        self.held -= data.len();
        if data.is_empty() {
            return Vec::new();
        }
        let event = if is_last { http::Event::LastChunk(&data) } else { http::Event::BodyChunk(&data) };
        self.decoder.held_back(context, at, number, &data, event)
    }

    /// Part of a body is missing: what is compressed cannot be read from here on.
    fn lost(&mut self, number: u64) {
        self.decoder.lost(number);
        if let Some(assembly) = self.bodies.get_mut(&number)
            && !assembly.coding.is_plain()
        {
            assembly.coding = Coding::Opaque("part of it was not recorded");
        }
    }
}

/// Finds where server-sent events end.
struct EventEnds {
    is_line_empty: bool,
    is_after_return: bool,
}

impl Default for EventEnds {
    fn default() -> Self {
        EventEnds { is_line_empty: true, is_after_return: false }
    }
}

impl EventEnds {
    /// Where the last blank line of `data` ends, which goes on from what was given before.
    fn find(&mut self, data: &[u8]) -> Option<usize> {
        let mut end = None;
        for (at, byte) in data.iter().enumerate() {
            match byte {
                b'\n' if std::mem::take(&mut self.is_after_return) => {
                    // The second half of a line break; it belongs to the blank line that ended just before.
                    end = if at > 0 && end == Some(at) { Some(at + 1) } else { end };
                }
                b'\r' | b'\n' => {
                    end = if self.is_line_empty { Some(at + 1) } else { end };
                    self.is_line_empty = true;
                    self.is_after_return = *byte == b'\r';
                }
                _ => *self = EventEnds { is_line_empty: false, is_after_return: false },
            }
        }
        end
    }
}

fn coding_of(headers: &HeaderMap, bytes_max: usize) -> Coding {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let first = values.next().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    match values.next() {
        Some(_) => Coding::Opaque("it has several codings"),
        None => Coding::of(first.as_deref(), bytes_max),
    }
}

fn opaque_notes(bytes: &[u8], notes: &mut Vec<(&str, String)>) {
    notes.push(("threadline.length", bytes.len().to_string()));
    notes.push(("threadline.sha256", hex::encode(Sha256::digest(bytes))));
}

fn protocol_version(version: Version) -> String {
    upstream::shown(version).trim_start_matches("HTTP/").into()
}

fn value_of(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase())
}

fn texts(headers: &HeaderMap) -> Vec<(&str, String)> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect()
}

fn headers<'a>(texts: &'a [(&'a str, String)]) -> Headers<'a> {
    texts.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

#[cfg(test)]
mod tests;
