//! One session's records by key, so that each rule is a few look-ups.

use std::collections::{BTreeSet, HashMap, HashSet};

use threadline_schemas::{Direction, KeyKind, Kind, Record, SourceKind};
use uuid::Uuid;

/// A frame that asks, and the frames that answer it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Exchange {
    pub(crate) request: Option<usize>,
    pub(crate) responses: Vec<usize>,
}

/// Look-ups over the records of one session.
#[derive(Debug)]
pub(crate) struct Index<'a> {
    pub(crate) records: &'a [Record],
    by_key: HashMap<&'a str, Vec<usize>>,
    exchanges: Vec<Exchange>,
    exchange_of: HashMap<usize, usize>,
    by_line: HashMap<&'a str, usize>,
    calls: HashMap<&'a str, Vec<usize>>,
    requests: HashMap<&'a str, Vec<usize>>,
    choices: HashMap<&'a str, Vec<usize>>,
    prompts: HashMap<&'a str, usize>,
    spans: HashMap<&'a str, usize>,
    carried: HashSet<&'a str>,
    turns_of_trace: HashMap<&'a str, BTreeSet<&'a str>>,
    ids: HashMap<Uuid, usize>,
}

impl<'a> Index<'a> {
    pub(crate) fn of(records: &'a [Record]) -> Self {
        let mut index = Index {
            records,
            by_key: HashMap::new(),
            exchanges: Vec::new(),
            exchange_of: HashMap::new(),
            by_line: HashMap::new(),
            calls: HashMap::new(),
            requests: HashMap::new(),
            choices: HashMap::new(),
            prompts: HashMap::new(),
            spans: HashMap::new(),
            carried: HashSet::new(),
            turns_of_trace: HashMap::new(),
            ids: HashMap::new(),
        };
        for (at, record) in records.iter().enumerate() {
            index.ids.insert(record.event_id, at);
            index.by_line.insert(&record.delivery_key, at);
            record.keys.iter().for_each(|key| index.by_key.entry(key).or_default().push(at));
        }
        for list in index.by_key.values_mut() {
            list.sort_by_key(|at| order(&records[*at]));
            list.dedup();
        }
        for at in 0..records.len() {
            let turns: Vec<&str> = index.keys(at, KeyKind::Turn).collect();
            for trace in index.keys(at, KeyKind::Trace).filter(|_| !turns.is_empty()) {
                index.turns_of_trace.entry(trace).or_default().extend(&turns);
            }
        }
        index.pair();
        index.name_heads();
        index
    }

    /// For each key the record that others hang under: choice, prompt, span, requests.
    fn name_heads(&mut self) {
        for (key, at) in &self.by_key {
            let kind = key.split_once(':').and_then(|(kind, _)| KeyKind::parse(kind));
            match kind {
                Some(KeyKind::ToolCall) => _ = self.choices.insert(key, self.choices_of(at)),
                Some(KeyKind::Turn | KeyKind::Trace) => {
                    _ = self.prompt_of(at).map(|prompt| self.prompts.insert(key, prompt));
                }
                Some(KeyKind::Span) => {
                    let span = at.iter().copied().find(|at| is_span(&self.records[*at]));
                    _ = span.map(|span| self.spans.insert(key, span));
                }
                Some(KeyKind::ParentSpan) if at.iter().any(|at| self.records[*at].direction.is_some()) => {
                    self.carried.insert(key);
                }
                _ => {}
            }
            let requests: Vec<usize> = at.iter().copied().filter(|at| self.is_request(*at)).collect();
            if !requests.is_empty() {
                self.requests.insert(key, requests);
            }
        }
    }

    /// The model's choice under a tool-call id, or what stands for it best when none was recorded; several where the id is
    /// one of several calls (numbered anew in every request).
    fn choices_of(&self, bearers: &[usize]) -> Vec<usize> {
        let rank = |at: &usize| {
            let record = &self.records[*at];
            match (record.kind, record.source_kind) {
                (Kind::Selection, _) if !is_telemetry(record) => Some(0),
                (Kind::Selection, _) => Some(1),
                (Kind::Call, SourceKind::Host) if record.direction.is_none() => Some(2),
                (Kind::Call, _) if record.direction == Some(Direction::ClientToServer) => Some(3),
                // A native event need not say on which side it was seen.
                (Kind::Call, SourceKind::Unknown) => Some(4),
                _ => None,
            }
        };
        let Some(best) = bearers.iter().filter_map(rank).min() else { return Vec::new() };
        let mut found: Vec<usize> = Vec::new();
        let mut answered = false;
        // Bearers stand in order of time.
        for at in bearers.iter().copied() {
            answered |= is_hosts_answer(&self.records[at]);
            if rank(&at) != Some(best) {
                continue;
            }
            // Another tool or other arguments, or made after the one before was answered; else one choice was told twice.
            let is_another = |known: &usize| {
                let (a, b) = (&self.records[*known], &self.records[at]);
                let differ = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
                best < 2
                    && (answered
                        || differ(&a.tool_name, &b.tool_name)
                        || differ(&a.arguments_digest, &b.arguments_digest))
            };
            if found.last().is_none_or(is_another) {
                found.push(at);
                answered = false;
            }
        }
        found
    }

    /// The transcript's prompt before telemetry's, the first of several.
    fn prompt_of(&self, bearers: &[usize]) -> Option<usize> {
        let prompts = bearers.iter().filter(|at| self.records[**at].kind == Kind::Prompt);
        prompts.map(|at| (is_telemetry(&self.records[*at]), order(&self.records[*at]), *at)).min().map(|(.., at)| at)
    }

    /// Pairs the frames of each JSON-RPC id. An id that is used again opens a new exchange.
    fn pair(&mut self) {
        for (key, at) in &self.by_key {
            if !key.starts_with("rpc:") {
                continue;
            }
            let first = self.exchanges.len();
            for frame in at.iter().copied() {
                let record = &self.records[frame];
                let is_part =
                    self.line(frame).is_some_and(|line| self.records[line].keys.iter().any(|other| other == key));
                if record.direction.is_none()
                    || matches!(record.kind, Kind::Notification | Kind::Log | Kind::Rejected)
                    || is_part
                {
                    continue;
                }
                let place = place(&self.exchanges[first..], self.records, record).map(|place| place + first);
                let place = place.unwrap_or(self.exchanges.len());
                if place == self.exchanges.len() {
                    self.exchanges.push(Exchange::default());
                }
                match is_answer(record) || self.exchanges[place].request.is_some() {
                    true => self.exchanges[place].responses.push(frame),
                    false => self.exchanges[place].request = Some(frame),
                }
                self.exchange_of.insert(frame, place);
            }
        }
        for request in self.exchanges.iter().filter_map(|exchange| exchange.request) {
            let record = &self.records[request];
            if let (Kind::Call, Some(connection)) = (record.kind, record.connection_id.as_deref()) {
                self.calls.entry(connection).or_default().push(request);
            }
        }
        self.calls.values_mut().for_each(|calls| calls.sort_by_key(|at| order(&self.records[*at])));
    }

    /// Bearers of a key text, in order of time.
    pub(crate) fn bearers(&self, key: &str) -> &[usize] {
        self.by_key.get(key).map_or(&[], Vec::as_slice)
    }

    /// First key of a kind on a record.
    pub(crate) fn key(&self, at: usize, kind: KeyKind) -> Option<&'a str> {
        self.keys(at, kind).next()
    }

    /// Every key of a kind on a record.
    pub(crate) fn keys(&self, at: usize, kind: KeyKind) -> impl Iterator<Item = &'a str> + use<'a> {
        let is_kind = move |key: &&str| key.strip_prefix(kind.as_str()).is_some_and(|rest| rest.starts_with(':'));
        self.records[at].keys.iter().map(String::as_str).filter(is_kind)
    }

    /// The exchange a frame belongs to.
    pub(crate) fn exchange(&self, at: usize) -> Option<&Exchange> {
        self.exchange_of.get(&at).map(|exchange| &self.exchanges[*exchange])
    }

    /// Whether a frame asks.
    pub(crate) fn is_request(&self, at: usize) -> bool {
        self.exchange(at).is_some_and(|exchange| exchange.request == Some(at))
    }

    /// The main record of the line whose part this is.
    pub(crate) fn line(&self, at: usize) -> Option<usize> {
        let (line, _) = self.records[at].delivery_key.rsplit_once('#')?;
        self.by_line.get(line).copied()
    }

    /// Tool calls of a connection, in order.
    pub(crate) fn calls(&self, connection: &str) -> &[usize] {
        self.calls.get(connection).map_or(&[], Vec::as_slice)
    }

    /// The place of a record.
    pub(crate) fn place(&self, id: &Uuid) -> Option<usize> {
        self.ids.get(id).copied()
    }

    /// The choices under a tool-call id, or what stands for them best when none was recorded, in order; more than one where
    /// the id is one of several calls.
    pub(crate) fn choices(&self, key: &str) -> &[usize] {
        self.choices.get(key).map_or(&[], Vec::as_slice)
    }

    /// Requests that bear a key, in order.
    pub(crate) fn requests(&self, key: &str) -> &[usize] {
        self.requests.get(key).map_or(&[], Vec::as_slice)
    }

    /// The last request that bears a key and was not sent after `record`.
    pub(crate) fn request_before(&self, key: &str, record: &Record) -> Option<usize> {
        let requests = self.requests(key);
        let before = requests.partition_point(|at| order(&self.records[*at]) <= order(record));
        before.checked_sub(1).map(|last| requests[last])
    }

    /// The span of a `span` key; log lines written in it bear the key too.
    pub(crate) fn span(&self, key: &str) -> Option<usize> {
        self.spans.get(key).copied()
    }

    /// Whether a frame carried this `parent-span` key.
    pub(crate) fn is_carried(&self, key: &str) -> bool {
        self.carried.contains(key)
    }

    /// How many turns a trace is seen in.
    pub(crate) fn turns_of_trace(&self, trace: &str) -> usize {
        self.turns_of_trace.get(trace).map_or(0, BTreeSet::len)
    }

    /// The turn of a trace that is seen in one only.
    pub(crate) fn turn_of_trace(&self, trace: &str) -> Option<&'a str> {
        let turns = self.turns_of_trace.get(trace).filter(|turns| turns.len() == 1)?;
        turns.first().copied()
    }

    /// Whether any record has a turn id.
    pub(crate) fn has_turns(&self) -> bool {
        self.by_key.keys().any(|key| key.starts_with("turn:"))
    }

    /// The prompt of a turn or trace.
    pub(crate) fn prompt(&self, key: &str) -> Option<usize> {
        self.prompts.get(key).copied()
    }
}

/// What a host's own log says a tool answered.
pub(crate) fn is_hosts_answer(record: &Record) -> bool {
    record.kind == Kind::Result && record.source_kind == SourceKind::Host && !is_telemetry(record)
}

/// Spans, not the log lines that were written in them.
pub(crate) fn is_span(record: &Record) -> bool {
    let own = matches!(record.kind, Kind::Span | Kind::Downstream)
        || record.parent_span_id.is_some()
        || matches!(record.transport_status.as_deref(), Some("ok" | "error" | "unset"));
    record.span_id.is_some() && record.direction.is_none() && record.kind != Kind::Log && own
}

/// Order of records: time, the source's own counter, line, and the id so that it is total.
pub(crate) fn order(record: &Record) -> (i64, i64, i64, Uuid) {
    (
        record.time_unix_nano,
        record.source_sequence.unwrap_or(i64::MIN),
        record.origin_line.unwrap_or(i64::MIN),
        record.event_id,
    )
}

/// Whether a record came as OTLP rather than from a transcript.
pub(crate) fn is_telemetry(record: &Record) -> bool {
    record.decoder.starts_with("otlp")
}

/// Exchanges of one id that may wait for their answer at once.
const OPEN_MAX: usize = 64;

/// The exchange of one id that a frame belongs to: the oldest unanswered one that it answers, or the last
/// one when it answers that a second time. `None`: it opens one.
fn place(exchanges: &[Exchange], records: &[Record], record: &Record) -> Option<usize> {
    let answers = |exchange: &Exchange| match exchange.request {
        Some(request) => records[request].direction != record.direction,
        None => false,
    };
    let from = exchanges.len().saturating_sub(OPEN_MAX);
    let open = exchanges[from..].iter().position(|exchange| answers(exchange) && exchange.responses.is_empty());
    let open = open.map(|place| from + place);
    open.or_else(|| exchanges.len().checked_sub(1).filter(|last| is_answer(record) && answers(&exchanges[*last])))
}

fn is_answer(record: &Record) -> bool {
    record.kind == Kind::Result
        || (record.kind != Kind::Call
            && (record.outcome.is_some() || record.result.is_some() || record.rpc_error_code.is_some()))
}
