//! The bounds of everything that reads what others wrote, in one place: bytes, depth, keys, counts, ratio of compression,
//! time.
//!
//! Invariants
//! - input beyond a limit is refused with a reason, or kept whole in `raw` and said to be unread; nothing is cut in silence
//! - what a decoder remembers has a bound here; the oldest goes first
//! - each limit is tested at its value and one beyond, beside the code that keeps it (`limits/tests.rs` says where)
//!
//! Some are defaults of an option; then the option says so. Matching is linear in its input throughout, so a bound of
//! bytes is a bound of time.
//!
//! Not here: what bounds our own work rather than somebody's input (queues, caches, batches, answers of queries).

/// JSON, wherever it occurs.
pub mod json {
    use crate::json::Limits;

    /// One line, frame, event or body, unless said otherwise: 128 levels, 400,000 values.
    pub const DOCUMENT: Limits = Limits { depth_max: 128, nodes_max: 400_000 };
    /// An OTLP body, which holds many records.
    pub const OTLP_BODY: Limits = Limits { depth_max: 128, nodes_max: 2_000_000 };
    /// A model's answer, given as JSON text inside an attribute.
    pub const MODEL_ANSWER: Limits = Limits { depth_max: 64, nodes_max: 100_000 };
}

/// Whatever arrives from outside, before it is decoded.
pub mod arrival {
    use std::time::Duration;

    /// A line of a file or pipe (default of `tap`, `watch`, `import`). Of a longer one beginning, length and digest are
    /// kept.
    pub const LINE_BYTES_MAX: usize = 16 << 20;
    /// Bytes kept of a longer line.
    pub const LINE_BYTES_KEPT: usize = 64 << 10;
    /// A body that is sent to us, compressed and decompressed.
    pub const BODY_BYTES_MAX: usize = 16 << 20;
    /// A file that is one body (default of `import`).
    pub const FILE_BODY_BYTES_MAX: u64 = 64 << 20;
    /// Times that a body may unfold, beyond [`RATIO_FREE_BYTES`].
    pub const RATIO_MAX: u64 = 100;
    /// Times that a file may unfold (default of `import`): logs are repetitive, and files are read as streams.
    pub const FILE_RATIO_MAX: u64 = 1000;
    /// Output to which no ratio applies, so that a small input may compress well.
    pub const RATIO_FREE_BYTES: u64 = 64 << 10;
    /// Window that a zstd frame may ask for: 8 MiB, what RFC 8878 asks decoders to support.
    pub const ZSTD_WINDOW_LOG_MAX: u32 = 23;
    /// How long a body may pause.
    pub const PAUSE_MAX: Duration = Duration::from_secs(30);
    /// How long a body may take.
    pub const TIME_MAX: Duration = Duration::from_secs(300);
    /// Native events in one request.
    pub const EVENTS_MAX: usize = 100_000;
    /// Log records or spans in one request; exporters send 512 by default, collectors 8,192.
    pub const OTLP_RECORDS_MAX: usize = 20_000;
}

/// What one line, frame or message gives when it has parts: a batch, a list of tools, blocks, items. What is beyond stays
/// in `raw` and is counted by a `gap` record.
pub mod parts {
    /// Records of one line.
    pub const RECORDS_MAX: usize = 10_000;
    /// Bytes of its records together: parts repeat ids and notes of the line.
    pub const BYTES_MAX: usize = 64 << 20;
}

/// MCP messages, over stdio and HTTP.
pub mod mcp {
    /// Requests that may wait per connection.
    pub const PENDING_MAX: usize = 10_000;
    /// Bytes that waiting requests may hold per connection.
    pub const PENDING_BYTES_MAX: usize = 4 << 20;
    /// A value longer than this is not carried from a request to its response.
    pub const CARRIED_BYTES_MAX: usize = 1024;
    /// Longer names of clients and servers are not kept for the connection.
    pub const NAME_BYTES_MAX: usize = 1024;
    /// Tools of one connection whose definitions are followed.
    pub const TOOLS_MAX: usize = 4_096;
    /// Bytes of what is remembered of them per connection.
    pub const TOOLS_BYTES_MAX: usize = 4 << 20;
    /// Lists of tools whose next page may be asked for.
    pub const LISTS_MAX: usize = 64;
    /// Longer tool names are not followed.
    pub const TOOL_NAME_BYTES_MAX: usize = 256;
    /// Arguments of a tool that are compared with headers.
    pub const MIRRORED_MAX: usize = 32;
    /// How deep in the arguments.
    pub const MIRRORED_DEPTH_MAX: usize = 8;
    /// Longer names of members on the way to one are not followed.
    pub const MIRRORED_STEP_BYTES_MAX: usize = 256;
    /// Tasks of one connection whose origin is remembered.
    pub const TASKS_MAX: usize = 512;
    /// Connections that may be interleaved in one recording.
    pub const INTERLEAVED_MAX: usize = 4;
}

/// HTTP exchanges of MCP servers.
pub mod http {
    /// Exchanges that may be open at once.
    pub const EXCHANGES_MAX: usize = 4096;
    /// Connections whose state is kept.
    pub const CONNECTIONS_MAX: usize = 4096;
    /// Bytes of all their states, and of what is known for all of them: requests that wait, tools, tasks. Beyond, what
    /// holds most is forgotten.
    pub const REMEMBERED_BYTES_MAX: usize = 64 << 20;
    /// Bytes held of one body.
    pub const BODY_BYTES_MAX: usize = 16 << 20;
    /// Bytes held of all bodies.
    pub const HELD_BYTES_MAX: usize = 64 << 20;
    /// Longer session ids and endpoints are not remembered.
    pub const SESSION_BYTES_MAX: usize = 1024;
    /// Without session ids: parallel requests may arrive this far out of order.
    pub const ID_STEP_MAX: i64 = 8;
    /// Ids that are remembered per connection without a session id.
    pub const RECENT_MAX: usize = 32;
    /// Endpoints, by credential, whose tools are known for all connections without sessions.
    pub const INVENTORIES_MAX: usize = 64;
    /// Connections without a session id that are remembered.
    pub const GROUPS_MAX: usize = 256;
    /// Clients that may be known as several; with more, every exchange stands alone.
    pub const MIXED_MAX: usize = 1024;
}

/// Messages of Kafka topics.
pub mod kafka {
    /// A larger message becomes `rejected` with its length, digest and beginning.
    pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
    /// Bytes of key and headers that are kept; of more, length and digest.
    pub const HEADERS_BYTES_MAX: usize = 64 << 10;
}

/// OTLP bodies.
pub mod otlp {
    /// Log records or spans in one body, its resources and scopes included.
    pub const RECORDS_PER_BODY_MAX: usize = 100_000;
    /// Attributes of one log record, span, resource or scope; a record with more is rejected.
    pub const ATTRIBUTES_MAX: usize = 1_024;
    /// Span events, and span links, of one span; a span with more is rejected.
    pub const EVENTS_MAX: usize = 1_024;
    /// Nesting of attribute values; a record with deeper ones is rejected.
    pub const VALUE_DEPTH_MAX: usize = 32;
    /// Bytes that resource and scope may add to all records of one body together.
    pub const SHARED_BYTES_MAX: usize = 64 << 20;
    /// Tool choices of one body that become records of their own; what is beyond stays in the attributes.
    pub const PARTS_MAX: usize = 1_024;
    /// Of a small body; a larger one has a part per KiB.
    pub const PARTS_MIN: usize = 8;
    /// Tool choices of one record.
    pub const CHOICES_MAX: usize = 64;
    /// A span that links to more traces joins none of them.
    pub const LINKED_TRACES_MAX: usize = 8;
    /// Metrics of one body that are counted by name; what is beyond is counted without.
    pub const METRIC_NAMES_MAX: usize = 1_024;
    /// Longer names of metrics and sources are cut: they are labels of counters.
    pub const METRIC_NAME_CHARS_MAX: usize = 128;
    /// Rules of a drop list.
    pub const DROP_RULES_MAX: usize = 256;
    /// Patterns of all its rules together.
    pub const DROP_PATTERNS_MAX: usize = 4_096;
    /// Length of a pattern.
    pub const DROP_PATTERN_BYTES_MAX: usize = 256;
    /// Sources and traces that the `gap` records of one body tell apart.
    pub const DROP_GROUPS_MAX: usize = 32;
}

/// Transcripts of hosts.
pub mod transcript {
    /// Entries that are remembered of earlier lines (messages, tool uses).
    pub const REMEMBERED_MAX: usize = 65_536;
    /// Blocks of one line that become records; what is beyond stays in `raw` and is counted.
    pub const BLOCKS_MAX: usize = 256;
}

/// Source profiles and the lines they read.
pub mod profile {
    /// The TOML of a profile.
    pub const PROFILE_BYTES_MAX: usize = 256 << 10;
    /// Rules of a profile.
    pub const RULES_MAX: usize = 256;
    /// Its name.
    pub const NAME_BYTES_MAX: usize = 64;
    /// Steps of a path.
    pub const STEPS_MAX: usize = 16;
    /// Variables of a template.
    pub const VARIABLES_MAX: usize = 128;
    /// A compiled regular expression.
    pub const REGEX_BYTES_MAX: usize = 4 << 20;
    /// Lines of one entry.
    pub const ENTRY_LINES_MAX: usize = 10_000;
    /// Bytes of an entry that has several lines.
    pub const ENTRY_BYTES_MAX: usize = 4 << 20;
    /// Fields of a logfmt or CSV line.
    pub const FIELDS_MAX: usize = 4_096;
    /// Lines after an open quote of logfmt that are marked as perhaps being part of the value.
    pub const AFTER_OPEN_QUOTE_MAX: usize = 16;
    /// Items that `each` makes records of; what is beyond stays in `raw` and is counted by a `gap` record.
    pub const EACH_MAX: usize = 1_000;
    /// What stands between texts that are joined into one value.
    pub const SEPARATOR_BYTES_MAX: usize = 64;
}

/// Keys by which records meet.
pub mod keys {
    /// Longest value that becomes a key; a longer one is replaced by its SHA-256.
    pub const VALUE_BYTES_MAX: usize = 256;
}

#[cfg(test)]
mod tests;
