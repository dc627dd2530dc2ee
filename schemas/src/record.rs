//! The record: one thing that one source observed, immutable once it is in the log.
//!
//! Invariants
//! - every field is written down once, in [`crate::columns::COLUMNS`], with type, tag, unit and meaning
//! - `event_id` depends only on tenant and delivery key, so the same delivery twice is the same id
//! - `time_unix_nano` is always set: the source's own time, or ours when it gave none (`time_quality`)
//! - payload fields hold what was received after redaction; nothing here is an opinion about links
//!
//! Not here: parents. They are links, and there may be two.

use std::borrow::Cow;

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Version of the record's field list; raised when a column is added or changes its meaning.
pub const RECORD_VERSION: i64 = 1;

/// Declares an enum that is stored as lower-snake text.
macro_rules! text_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vmeta])* $variant,)* }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The text that columns, API and CLI show.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// The value that `text` names, if any.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some($name::$variant),)* _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                Self::parse(&text).ok_or_else(|| {
                    let known: Vec<&str> = Self::ALL.iter().map(|v| v.as_str()).collect();
                    serde::de::Error::custom(format!("unknown {}, expected one of: {}", stringify!($name), known.join(", ")))
                })
            }
        }
    };
}

text_enum!(
    /// What kind of thing was observed.
    Kind {
        /// A conversation began, ended or was described (host session metadata, OTel conversation start).
        Session = "session",
        /// What a person or program asked of the agent.
        Prompt = "prompt",
        /// Text that the model answered.
        Completion = "completion",
        /// One request to a model (LLM API call) or its span.
        ModelRequest = "model_request",
        /// The model chose a tool; whether it ran is another record.
        Selection = "selection",
        /// A tool was called (MCP `tools/call` request, server or client span of one call).
        Call = "call",
        /// A tool answered, as seen by this source.
        Result = "result",
        /// A policy or permission verdict.
        Decision = "decision",
        /// A person's or program's consent (elicitation action, approval prompt).
        Approval = "approval",
        /// A list of tools was asked for or given.
        ToolList = "tool_list",
        /// One tool's definition inside a list.
        ToolDefinition = "tool_definition",
        /// A resource was listed or read.
        Resource = "resource",
        /// A prompt template was listed or fetched.
        PromptTemplate = "prompt_template",
        /// A server asked the host's model for a completion (MCP sampling).
        Sampling = "sampling",
        /// A server asked the user for input (MCP elicitation).
        Elicitation = "elicitation",
        /// Any other MCP request or response (ping, roots, logging, completion, tasks).
        Request = "request",
        /// An MCP notification (progress, cancelled, message, list changes).
        Notification = "notification",
        /// A connection was opened, negotiated or closed (initialize, discover, server connected).
        Connection = "connection",
        /// Work behind a server (HTTP request, database statement).
        Downstream = "downstream",
        /// A process started or ended.
        Process = "process",
        /// Authentication or authorization of a client.
        Auth = "auth",
        /// A span of no more specific kind.
        Span = "span",
        /// A log line of no more specific kind.
        Log = "log",
        /// Something that threadline or a rule noticed.
        Finding = "finding",
        /// Somebody read evidence through threadline.
        Access = "access",
        /// Something could not be recorded; carries counts and a reason.
        Gap = "gap",
        /// Bytes that arrived and could not be understood; carries file, line and reason.
        Rejected = "rejected",
    }
);

text_enum!(
    /// On which side of a call the source stands.
    SourceKind {
        /// The program that runs the model.
        Host = "host",
        /// A capture point on the wire between a client and a server.
        Wire = "wire",
        /// A gateway or proxy with its own log.
        Gateway = "gateway",
        /// An MCP server.
        Server = "server",
        /// A system behind a server.
        Downstream = "downstream",
        /// threadline itself.
        Threadline = "threadline",
        /// Not known.
        Unknown = "unknown",
    }
);

text_enum!(
    /// Which way into threadline a record took.
    Collector {
        /// Our own recording proxy.
        Tap = "tap",
        /// `threadline import`.
        Import = "import",
        /// `threadline watch`.
        Watch = "watch",
        /// OTLP over HTTP or gRPC.
        Otlp = "otlp",
        /// `POST /api/v1/events`.
        Api = "api",
        /// A Kafka topic.
        Kafka = "kafka",
        /// Written by threadline about itself.
        Own = "own",
    }
);

text_enum!(
    /// Where `time_unix_nano` comes from.
    TimeQuality {
        /// The source said so.
        Source = "source",
        /// The source gave no time; ours is used.
        Missing = "missing",
        /// The source said zero; ours is used.
        Zero = "zero",
        /// The source's time could not be read; ours is used.
        Invalid = "invalid",
    }
);

text_enum!(
    /// Which way an MCP frame travelled.
    Direction {
        /// From the client (host) to the server.
        ClientToServer = "client_to_server",
        /// From the server to the client.
        ServerToClient = "server_to_client",
        /// A line the server wrote to its standard error.
        ServerStderr = "server_stderr",
    }
);

text_enum!(
    /// How the observed thing ended, reduced to one word; the three layers stay apart in
    /// `transport_status`, `rpc_error_code` and `tool_is_error`.
    Outcome {
        /// It succeeded at every layer this source can see.
        Ok = "ok",
        /// It failed at some layer.
        Error = "error",
        /// A policy, permission or person refused it.
        Denied = "denied",
        /// The client gave up.
        Cancelled = "cancelled",
        /// The server wants more input before it goes on (MCP 2026-07-28 `input_required`).
        InputRequired = "input_required",
    }
);

text_enum!(
    /// The verdict of a decision or approval.
    Decision {
        /// May go on.
        Allow = "allow",
        /// Must not go on.
        Deny = "deny",
        /// A person has to say.
        Ask = "ask",
        /// May go on with content removed.
        Redact = "redact",
        /// The person dismissed the question.
        Cancel = "cancel",
    }
);

pub use crate::columns::Record;

/// The attribute that says at which end of its duration a record is stamped: `start` or `end`.
pub const TIME_IS: &str = "threadline.time_is";

impl SourceKind {
    /// Whether it acts on behalf of those before it, often under an account of its own: a server, or what is behind one.
    pub const fn acts_for_others(self) -> bool {
        matches!(self, SourceKind::Server | SourceKind::Downstream)
    }
}

impl Record {
    /// A record of `kind` with its identity set and everything else absent. Times are zero until
    /// [`Record::set_time`] is called; the salt is zero until the collector draws one.
    pub fn new(tenant: &str, delivery_key: &str, kind: Kind) -> Self {
        Record {
            event_id: event_id(tenant, delivery_key),
            tenant: tenant.into(),
            delivery_key: delivery_key.into(),
            ..Record::empty(kind)
        }
    }

    /// Sets both times: `source` in nanoseconds since the Unix epoch as the source gave it
    /// (`None` = it gave none, `Some(0)` = it said zero), `observed` in microseconds, ours.
    pub fn set_time(&mut self, source: Option<i64>, observed_unix_us: i64) {
        self.observed_time_unix_us = observed_unix_us;
        (self.time_unix_nano, self.time_quality) = match source {
            Some(nanos) if nanos > 0 => (nanos, TimeQuality::Source),
            Some(0) => (observed_unix_us.saturating_mul(1000), TimeQuality::Zero),
            Some(_) => (observed_unix_us.saturating_mul(1000), TimeQuality::Invalid),
            None => (observed_unix_us.saturating_mul(1000), TimeQuality::Missing),
        };
    }

    /// From when to when, nanoseconds since the Unix epoch by its source's clock. `time_unix_nano` is the one or the other
    /// ([`Record::is_stamped_at_end`]).
    pub fn span_unix_nano(&self) -> (i64, i64) {
        let time = self.time_unix_nano;
        match self.duration_nano.filter(|nanos| *nanos > 0) {
            None => (time, time),
            Some(nanos) if self.is_stamped_at_end() => (time.saturating_sub(nanos), time),
            Some(nanos) => (time, time.saturating_add(nanos)),
        }
    }

    /// Whether it is stamped when it ended, so that it began `duration_nano` before: as [`TIME_IS`] says, else as its form
    /// does.
    pub fn is_stamped_at_end(&self) -> bool {
        let stated = self.attributes.as_deref().filter(|text| text.contains(TIME_IS));
        let parsed = stated.and_then(|text| crate::json::parse(text.as_bytes()).ok());
        match parsed.as_ref().and_then(|parsed| parsed.value.str_at(TIME_IS)) {
            Some("end") => true,
            Some("start") => false,
            _ => self.is_ending_by_form(),
        }
    }

    /// Frames are instants, and only those that answer have a duration; an answer comes at its end. Spans, calls and the
    /// like begin at their time.
    fn is_ending_by_form(&self) -> bool {
        match self.kind {
            Kind::Gap => false,
            Kind::Result | Kind::Completion => true,
            _ => self.direction.is_some(),
        }
    }

    /// The value of [`TIME_IS`] that a decoder notes when it knows at which end its source stamps; `None` where the form
    /// says it already, or nothing lasted.
    pub fn time_is(&self, at_end: bool) -> Option<&'static str> {
        let says_more = self.duration_nano.is_some() && at_end != self.is_ending_by_form();
        says_more.then_some(if at_end { "end" } else { "start" })
    }

    /// Drops the attributes but for [`TIME_IS`], which start and end need.
    pub fn shed_attributes(&mut self) {
        let time_is = self.time_is(self.is_stamped_at_end());
        self.attributes = time_is.map(|end| format!(r#"{{"{TIME_IS}":"{end}"}}"#));
    }

    /// Whose clock stamped it: `<source kind>:<emitter>`; instances of a server share one.
    pub fn clock(&self) -> String {
        const EMITTER: &str = "threadline.emitter";
        let stated = self.attributes.as_deref().filter(|text| text.contains(EMITTER));
        let parsed = stated.and_then(|text| crate::json::parse(text.as_bytes()).ok());
        let emitter = parsed.as_ref().and_then(|parsed| parsed.value.str_at(EMITTER)).filter(|text| !text.is_empty());
        let name = match self.source_kind {
            SourceKind::Server => self.server_name.as_deref().unwrap_or(&self.source_name),
            _ => emitter.unwrap_or(&self.source_name),
        };
        format!("{}:{name}", self.source_kind)
    }

    /// SHA-256 of what the source said: the raw bytes; without them, every column that is not about the delivery itself
    /// (when and how it reached us, where it is kept, its salt); for gaps and what else threadline says itself, the delivery
    /// key. Two deliveries of one event have the same digest.
    pub fn content_digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        if let Some(raw) = &self.raw {
            digest.update(b"threadline/content/v1\0raw\0");
            digest.update(raw);
            return digest.finalize().into();
        }
        digest.update(b"threadline/content/v1\0columns\0");
        if matches!(self.kind, Kind::Gap | Kind::Finding | Kind::Access) {
            // Said by threadline itself, perhaps again after a crash, and named by what it is about.
            digest.update(&self.delivery_key);
            return digest.finalize().into();
        }
        let mut fields = Vec::new();
        self.encode_fields(|tag, _, bytes| {
            let about_delivery = match tag {
                // record_version, observed_time_unix_us, collector, decoder, bodies, leaf_salt, log_position
                2 | 7 | 11 | 12 | 56..=58 => true,
                // A time of ours differs from delivery to delivery.
                5 => self.time_quality != TimeQuality::Source,
                _ => false,
            };
            match tag {
                _ if about_delivery => {}
                53 => match unmarked(bytes) {
                    Cow::Borrowed(b"{}") => {}
                    attributes => crate::encoding::push_field(&mut fields, tag, &attributes),
                },
                _ => crate::encoding::push_field(&mut fields, tag, bytes),
            }
        });
        digest.update(&fields);
        digest.finalize().into()
    }

    /// About what it takes in memory.
    pub fn memory_bytes(&self) -> usize {
        let texts = [
            &self.text,
            &self.arguments,
            &self.result,
            &self.attributes,
            &self.target,
            &self.name,
            &self.server_name,
            &self.tool_name,
            &self.client_name,
            &self.authority,
            &self.conversation_id,
            &self.turn_id,
            &self.tool_call_id,
            &self.rpc_id,
            &self.connection_id,
        ];
        let payload: usize = texts.into_iter().flatten().map(String::len).sum();
        size_of::<Self>() + payload + self.raw.as_ref().map_or(0, Vec::len) + self.keys.len() * 64
    }

    /// Whether a collector elsewhere passed it on: its run and number stand first in the attributes.
    pub fn is_passed_on(&self) -> bool {
        self.attributes.as_deref().is_some_and(|attributes| attributes.starts_with(PASSED_ON))
    }

    /// Adds a key unless it is already there.
    pub fn add_key(&mut self, key: crate::Key) {
        let text = key.to_string();
        if !self.keys.contains(&text) {
            self.keys.push(text);
        }
    }
}

/// How the attributes of a record begin that a collector elsewhere passed on.
const PASSED_ON: &str = "{\"threadline.collector\":\"";

/// Attributes without the members that a collector elsewhere puts in front of them (which run, which number): they tell of
/// the delivery, and the next run that sends the same record has others.
fn unmarked(attributes: &[u8]) -> Cow<'_, [u8]> {
    const LAST: &str = "\"threadline.version\":\"";
    /// Bytes in which the members stand.
    const BYTES_MAX: usize = 400;
    let members = || {
        let text = std::str::from_utf8(attributes).ok().filter(|text| text.starts_with(PASSED_ON))?;
        let version = text.find(LAST).filter(|at| *at < BYTES_MAX)? + LAST.len();
        text[version..].split_once('"').map(|(_, rest)| rest)
    };
    match members() {
        None => Cow::Borrowed(attributes),
        Some("}") => Cow::Borrowed(b"{}"),
        Some(rest) => Cow::Owned(format!("{{{}", rest.strip_prefix(',').unwrap_or(rest)).into_bytes()),
    }
}

/// The id of a delivery: UUID version 8 (RFC 9562 section 5.8) over
/// `SHA-256("threadline/event/v1" ‖ 0x00 ‖ tenant ‖ 0x00 ‖ delivery_key)`, first 16 bytes.
///
/// Delivery keys: `file:<base name>:<SHA-256 of the file up to and including the line>` (so a growing
/// file keeps its ids), `body:<SHA-256 of the body>:<ordinal>`, `tap:<run>:<sequence>`,
/// `api:<client's id>`, `batch:<SHA-256 of the batch>:<ordinal>`, `own:<uuid>`,
/// `kafka:<cluster id>/<topic>/<partition>/<offset>@<timestamp>`; a further record from the same delivery appends `#<n>`.
pub fn event_id(tenant: &str, delivery_key: &str) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(b"threadline/event/v1\0");
    hash.update(tenant.as_bytes());
    hash.update([0]);
    hash.update(delivery_key.as_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    Uuid::new_v8(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_id_has_a_test_vector() {
        expect_test::expect!["86a034d6-0d58-87ec-9ca5-3bb34dce19bf"]
            .assert_eq(&event_id("default", "tap:00000000-0000-4000-8000-000000000000:1").to_string());
        assert_ne!(event_id("a", "b"), event_id("ab", ""));
    }

    #[test]
    fn the_content_is_what_the_source_said() {
        let mut first = Record::new("t", "api:1", Kind::Log);
        first.text = Some("a".into());
        first.set_time(None, 5);
        let mut again = first.clone();
        again.set_time(None, 6);
        again.leaf_salt = Some(vec![1; 32]);
        again.log_position = Some("0/1".into());
        assert_eq!(first.content_digest(), again.content_digest());
        again.text = Some("b".into());
        assert_ne!(first.content_digest(), again.content_digest());
        // What a decoder makes of the same bytes may change from version to version.
        first.raw = Some(b"line".to_vec());
        again.raw = Some(b"line".to_vec());
        assert_eq!(first.content_digest(), again.content_digest());
        let (mut gap, mut repeated) = (Record::new("t", "own:1", Kind::Gap), Record::new("t", "own:1", Kind::Gap));
        gap.set_time(Some(1), 5);
        repeated.set_time(Some(2), 6);
        assert_eq!(gap.content_digest(), repeated.content_digest());
        again.raw = Some(b"other line".to_vec());
        assert_ne!(first.content_digest(), again.content_digest());
    }

    #[test]
    fn the_run_that_sent_a_record_is_no_part_of_its_content() {
        let digest = |attributes: Option<&str>| {
            let mut record = Record::new("t", "own:1", Kind::Log);
            record.attributes = attributes.map(str::to_string);
            record.content_digest()
        };
        let marked = |run: &str, rest: &str| {
            let members = format!(
                r#"{{"threadline.collector":"c","threadline.stream":"{run}","threadline.sequence":7,"threadline.via":"watch","threadline.version":"0.1.0"{rest}}}"#
            );
            digest(Some(&members))
        };
        assert_eq!(marked("1", ""), marked("2", ""));
        assert_eq!(marked("1", ""), digest(None));
        assert_eq!(marked("1", r#","a":1"#), digest(Some(r#"{"a":1}"#)));
        assert_ne!(marked("1", r#","a":1"#), marked("1", r#","a":2"#));
    }

    #[test]
    fn a_duration_counts_from_the_end_that_is_stamped() {
        let span = |kind: Kind, direction: Option<Direction>, stated: Option<&str>| {
            let mut record = Record::new("t", "own:1", kind);
            record.set_time(Some(100), 5);
            (record.duration_nano, record.direction) = (Some(40), direction);
            record.attributes = stated.map(|end| format!(r#"{{"threadline.time_is":"{end}"}}"#));
            record.span_unix_nano()
        };
        assert_eq!(span(Kind::Call, None, None), (100, 140));
        assert_eq!(span(Kind::Call, None, Some("end")), (60, 100));
        assert_eq!(span(Kind::Result, None, None), (60, 100));
        assert_eq!(span(Kind::Result, None, Some("start")), (100, 140));
        assert_eq!(span(Kind::ToolList, Some(Direction::ServerToClient), None), (60, 100));
        assert_eq!(span(Kind::Gap, Some(Direction::ServerToClient), None), (100, 140));
        assert_eq!(span(Kind::Log, None, Some("{}")), (100, 140));
    }

    #[test]
    fn a_zero_time_is_marked() {
        let mut record = Record::new("t", "own:1", Kind::Log);
        record.set_time(Some(0), 5);
        assert_eq!((record.time_unix_nano, record.time_quality), (5000, TimeQuality::Zero));
    }
}
