//! What the proxy saw.
//!
//! Invariants
//! - sequences of one run start at 0 and have no holes; a retried batch keeps its numbers, so (run, sequence) is the
//!   delivery key of an observation
//! - header values are as they passed; who records them takes the credentials out
//! - a gap names at most [`NAMED_MAX`] exchanges and as many senders; what is beyond is in its sum only
//!
//! Not here: what bodies mean.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use hyper::http::header::{AUTHORIZATION, HOST, USER_AGENT};
use hyper::http::{HeaderMap, Method, Version};
use sha2::{Digest, Sha256};

use super::Counts;

/// One thing seen, numbered within its run.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Position in the run, from 0.
    pub sequence: u64,
    /// Our clock when it was seen.
    pub time_unix_nano: i64,
    /// What was seen.
    pub event: Event,
}

/// What can be seen.
#[derive(Clone, Debug)]
pub enum Event {
    /// The proxy listens.
    Started {
        /// The server's URL, without user and password.
        upstream: String,
        /// Where clients connect.
        listen: SocketAddr,
    },
    /// Something happened in an exchange.
    Exchange {
        /// Which one, from 1.
        number: u64,
        /// Who sent its request.
        sender: Sender,
        /// Events of this exchange before this one are in a gap.
        is_after_loss: bool,
        /// What happened.
        what: What,
    },
    /// Events passed that could not be recorded.
    Gap(Gap),
    /// The proxy was stopped.
    Stopped,
}

/// What can happen in an exchange, in this order.
#[derive(Clone, Debug)]
pub enum What {
    /// A request with its body.
    Request(Box<Request>),
    /// The server began to answer.
    ResponseHead {
        /// Status.
        status: u16,
        /// Of the connection to the server.
        version: Version,
        /// As the server sent them.
        headers: HeaderMap,
        /// What the client got in another form, if anything: see `--rewrite-resource`.
        rewritten: Option<&'static str>,
    },
    /// Bytes of the response's body, as they came from the server.
    Chunk(Bytes),
    /// The body is complete and handed to the client's connection.
    End {
        /// Trailer fields, if there were any.
        trailers: Option<HeaderMap>,
    },
    /// The client left before that.
    ClientDisconnect,
    /// The exchange broke off, not by the client's doing.
    Failure {
        /// In lower-snake words.
        reason: &'static str,
        /// What the client got instead of the server's answer.
        status: Option<u16>,
        /// Whether we refused to pass it on.
        is_refusal: bool,
    },
}

/// A request as it passed.
#[derive(Clone, Debug)]
pub struct Request {
    /// `POST`, `GET`, `DELETE`.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Of the connection to the client.
    pub version: Version,
    /// As the client sent them.
    pub headers: HeaderMap,
    /// Address of the client.
    pub client: IpAddr,
    /// The body; its beginning when it was over the limit.
    pub body: Bytes,
    /// Bytes of the body that passed.
    pub length: u64,
    /// SHA-256 of them, only when they are more than `body`.
    pub sha256: Option<[u8; 32]>,
    /// False when the server answered, or the client left, before the body had ended.
    pub is_complete: bool,
}

/// Who sent a request, as far as it tells clients apart: a digest of `Mcp-Session-Id`, or else of address, host, user agent,
/// credential and target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sender([u8; 32]);

impl Sender {
    pub(super) fn of(client: IpAddr, target: &str, headers: &HeaderMap) -> Sender {
        if let Some(session) = headers.get(SESSION).filter(|session| !session.is_empty()) {
            return Sender::of_session(session.as_bytes());
        }
        let fields = [HOST, USER_AGENT, AUTHORIZATION].map(|name| headers.get(name));
        let mut hash = Sha256::new_with_prefix(format!("{client} {target}"));
        for field in fields {
            hash.update([0]);
            hash.update(field.map_or(&b""[..], |value| value.as_bytes()));
        }
        Sender(hash.finalize().into())
    }

    pub(super) fn of_session(session: &[u8]) -> Sender {
        Sender(Sha256::digest(session).into())
    }
}

/// Where a session is named.
pub(super) const SESSION: &str = "mcp-session-id";

/// Whose an event was that is not in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// That of an exchange.
    Exchange(u64, Sender),
    /// That of some exchange of a sender.
    Sender(Sender),
}

/// Events that passed but are not in the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// How many.
    pub events: u64,
    /// Bytes of bodies in them.
    pub bytes: u64,
    /// When the first of them passed.
    pub from_unix_nano: i64,
    /// When the last of them passed.
    pub to_unix_nano: i64,
    /// Why.
    pub reason: GapReason,
    /// Whose they were.
    pub whose: BTreeMap<Whose, Counts>,
}

/// Exchanges that a gap names; also senders beyond them.
const NAMED_MAX: usize = 1_024;

impl Gap {
    pub(super) fn one(bytes: u64, time_unix_nano: i64, reason: GapReason, whose: Whose) -> Self {
        let whose = BTreeMap::from([(whose, Counts { events: 1, bytes })]);
        Gap { events: 1, bytes, from_unix_nano: time_unix_nano, to_unix_nano: time_unix_nano, reason, whose }
    }

    /// Takes another one in; its reason is forgotten.
    pub(super) fn add(&mut self, other: Gap) {
        self.events += other.events;
        self.bytes += other.bytes;
        self.from_unix_nano = self.from_unix_nano.min(other.from_unix_nano);
        self.to_unix_nano = self.to_unix_nano.max(other.to_unix_nano);
        for (whose, Counts { events, bytes }) in other.whose {
            let sender = match whose {
                Whose::Exchange(_, sender) | Whose::Sender(sender) => Whose::Sender(sender),
            };
            let count = self.whose.len();
            let named = match () {
                () if self.whose.contains_key(&whose) || count < NAMED_MAX => whose,
                () if self.whose.contains_key(&sender) || count < 2 * NAMED_MAX => sender,
                () => continue,
            };
            self.whose.entry(named).or_default().add(events, bytes);
        }
    }
}

/// Why events are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// The recorder was behind or failing and the byte budget was used up.
    Overflow,
    /// The recorder refused them for good.
    Rejected,
    /// They came when their request was recorded already: bytes of a body whose answer had begun.
    Late,
    /// The run was over before the recorder had taken them.
    Stopped,
}

impl GapReason {
    /// The name that records carry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::Rejected => "rejected",
            Self::Late => "late",
            Self::Stopped => "stopped",
        }
    }
}

impl Event {
    /// Bytes of bodies in it.
    pub(super) fn body_bytes(&self) -> u64 {
        match self {
            Self::Exchange { what: What::Request(request), .. } => request.length,
            Self::Exchange { what: What::Chunk(bytes), .. } => bytes.len() as u64,
            _ => 0,
        }
    }

    /// About what it takes in memory.
    pub(super) fn held_bytes(&self) -> usize {
        let headers =
            |headers: &HeaderMap| headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum();
        let payload: usize = match self {
            Self::Exchange { what: What::Request(request), .. } => {
                request.body.len() + request.target.len() + headers(&request.headers)
            }
            Self::Exchange { what: What::ResponseHead { headers: fields, .. }, .. } => headers(fields),
            Self::Exchange { what: What::End { trailers: Some(trailers) }, .. } => headers(trailers),
            Self::Exchange { what: What::Chunk(bytes), .. } => bytes.len(),
            Self::Gap(gap) => gap.whose.len() * (size_of::<(Whose, Counts)>() + 16),
            _ => 0,
        };
        payload + OBSERVATION_BYTES
    }
}

/// What an observation is charged beside its bytes, so that floods of empty ones are bounded too.
pub(super) const OBSERVATION_BYTES: usize = 256;
