//! Hand-made records for unit tests.

use threadline_schemas::{Collector, Direction, Key, KeyKind, Kind, Outcome, Record, SourceKind, stamp};

/// A record under construction; `ms` counts from a fixed day.
pub(crate) struct Make(Record);

pub(crate) fn make(id: &str, kind: Kind, ms: i64) -> Make {
    let mut record = Record::new("default", &format!("api:{id}"), kind);
    record.set_time(Some(1_795_170_000_000_000_000 + ms * 1_000_000), 1_795_170_000_000_000);
    record.source_name = "test".into();
    record.name = Some(id.into());
    Make(record)
}

impl Make {
    pub(crate) fn host(mut self, conversation: &str) -> Self {
        self.0.source_kind = SourceKind::Host;
        self.0.decoder = "claude-code".into();
        self.0.conversation_id = Some(conversation.into());
        self
    }
    pub(crate) fn telemetry(mut self) -> Self {
        self.0.decoder = "otlp-json".into();
        self
    }
    pub(crate) fn wire(mut self, connection: &str, direction: Direction) -> Self {
        self.0.source_kind = SourceKind::Wire;
        self.0.collector = Collector::Tap;
        self.0.decoder = "mcp-stdio".into();
        self.0.connection_id = Some(connection.into());
        self.0.server_name = Some("orders".into());
        self.0.direction = Some(direction);
        self
    }
    pub(crate) fn server(mut self) -> Self {
        self.0.source_kind = SourceKind::Server;
        self.0.decoder = "otlp-protobuf".into();
        self
    }
    pub(crate) fn rpc(mut self, id: &str) -> Self {
        let scope = format!("{}:client", self.0.connection_id.as_deref().unwrap_or("none"));
        self.0.add_key(Key::scoped(KeyKind::Rpc, &scope, id));
        self.0.rpc_id = Some(id.into());
        self
    }
    pub(crate) fn tool(mut self, call: &str, tool: &str) -> Self {
        self.0.tool_call_id = Some(call.into());
        self.0.tool_name = Some(tool.into());
        self
    }
    pub(crate) fn arguments(mut self, text: &str) -> Self {
        self.0.arguments = Some(text.into());
        self.0.arguments_digest = Some(format!("digest-of-{text}"));
        self
    }
    pub(crate) fn result(mut self, text: &str, outcome: Outcome) -> Self {
        self.0.result = Some(text.into());
        self.0.result_digest = Some(format!("digest-of-{text}"));
        self.0.outcome = Some(outcome);
        self
    }
    pub(crate) fn turn(mut self, turn: &str) -> Self {
        self.0.turn_id = Some(turn.into());
        self
    }
    pub(crate) fn text(mut self, text: &str) -> Self {
        self.0.text = Some(text.into());
        self
    }
    pub(crate) fn trace(mut self, trace: &str) -> Self {
        self.0.trace_id = Some(trace.into());
        self
    }
    pub(crate) fn span(mut self, span: Option<&str>, parent: Option<&str>) -> Self {
        self.0.span_id = span.map(str::to_string);
        self.0.parent_span_id = parent.map(str::to_string);
        self
    }
    pub(crate) fn key(mut self, kind: KeyKind, value: &str) -> Self {
        self.0.add_key(Key::new(kind, value));
        self
    }
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Record)) -> Self {
        change(&mut self.0);
        self
    }
    pub(crate) fn done(mut self) -> Record {
        stamp::stamp(&mut self.0);
        self.0
    }
}

/// What a test calls a record: the part of the delivery key after `api:`.
pub(crate) fn id(record: &Record) -> &str {
    record.delivery_key.trim_start_matches("api:")
}

pub(crate) const C2S: Direction = Direction::ClientToServer;
pub(crate) const S2C: Direction = Direction::ServerToClient;

/// One call of `tool` as a host's transcript and a tap see it.
pub(crate) fn call(prefix: &str, conversation: &str, connection: &str, toolcall: &str, ms: i64) -> Vec<Record> {
    let name = |part: &str| format!("{prefix}-{part}");
    vec![
        make(&name("choice"), Kind::Selection, ms).host(conversation).tool(toolcall, "refund").arguments("{}").done(),
        make(&name("request"), Kind::Call, ms + 10)
            .wire(connection, C2S)
            .rpc("4")
            .tool(toolcall, "refund")
            .arguments("{}")
            .done(),
        make(&name("response"), Kind::Result, ms + 20)
            .wire(connection, S2C)
            .rpc("4")
            .tool(toolcall, "refund")
            .result("done", Outcome::Ok)
            .done(),
        make(&name("answer"), Kind::Result, ms + 30)
            .host(conversation)
            .tool(toolcall, "refund")
            .result("done", Outcome::Ok)
            .done(),
    ]
}

/// Recorded traffic, decoded and stamped as `import` does, without redaction and store.
pub(crate) mod captures {
    use std::path::{Path, PathBuf};

    use sha2::{Digest, Sha256};
    use threadline_schemas::decode::otlp::{Encoding, Signal, decode_body};
    use threadline_schemas::decode::recognise::{HEAD_BYTES, decoder, otlp_signal, recognise};
    use threadline_schemas::decode::{Context, Line};
    use threadline_schemas::digest::MatchKey;
    use threadline_schemas::{Collector, Record, stamp};

    pub(crate) fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures")
    }

    /// Every record of the files below `folders` (relative to the captures).
    pub(crate) fn records(folders: &[&str]) -> Vec<Record> {
        let mut files = Vec::new();
        folders.iter().for_each(|name| list(&folder().join(name), &mut files));
        files.sort();
        let mut records: Vec<Record> = files.iter().flat_map(|path| file(path)).collect();
        records.iter_mut().for_each(stamp::stamp);
        records
    }

    fn list(path: &Path, files: &mut Vec<PathBuf>) {
        if path.is_file() {
            return files.push(path.into());
        }
        std::fs::read_dir(path).unwrap().for_each(|entry| list(&entry.unwrap().path(), files));
    }

    fn file(path: &Path) -> Vec<Record> {
        let match_key = MatchKey::new([3; 32]);
        let context = Context {
            tenant: "default",
            collector: Collector::Import,
            observed_time_unix_us: 1_795_200_000_000_000,
            match_key: Some(&match_key),
        };
        let relative = path.strip_prefix(folder()).unwrap().to_str().unwrap();
        let bytes = std::fs::read(path).unwrap();
        let Ok(format) = recognise(relative, &bytes[..bytes.len().min(HEAD_BYTES)]) else { return Vec::new() };
        let first = bytes.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
        let Some(mut decoder) = decoder(&format, relative, &hex::encode(Sha256::digest(first))) else {
            let encoding = if relative.ends_with(".pb") { Encoding::Protobuf } else { Encoding::Json };
            let signal: Signal = otlp_signal(relative, &bytes).unwrap();
            return decode_body(&context, &bytes, signal, encoding, Some(relative)).unwrap().records;
        };
        let mut hash = Sha256::new();
        let mut records = Vec::new();
        for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            hash.update(line);
            let delivery_key = format!("file:{relative}:{}", hex::encode(hash.clone().finalize()));
            let bytes = line.strip_suffix(b"\n").unwrap_or(line);
            let line = Line { bytes, file: Some(relative), number: index as i64 + 1, delivery_key: &delivery_key };
            records.extend(decoder.line(&context, line));
        }
        records
    }
}
