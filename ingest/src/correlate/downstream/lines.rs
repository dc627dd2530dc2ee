//! Downstream lines by the part they play in a call.
//!
//! A call has one main answer; besides it there may be failed attempts, further pages, and requests to hosts that many
//! servers use (token services). Each class is a slot of its own: one line per call and slot.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::names::Name;
use super::super::observation::{HttpLine, StatementLine};
use super::super::units::Seen;
use super::content::PAGING;

/// A host and path that at least this many servers call is a service they share.
const SHARED_SERVERS: usize = 4;

/// The part a line plays.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in super::super) enum LineClass {
    /// The answer.
    Main,
    /// A further page, by its parameter.
    Page(String),
    /// A service that many servers use.
    Shared,
    /// Refused for load, or the system failed.
    Failed,
    /// A statement, by its verb.
    Statement(String),
}

/// A downstream line.
#[derive(Debug, Clone)]
pub(in super::super) struct Line<'a> {
    /// Index of `units.seen`.
    pub(in super::super) at: usize,
    pub(in super::super) http: Option<&'a HttpLine>,
    pub(in super::super) statement: Option<&'a StatementLine>,
    pub(in super::super) class: LineClass,
    pub(in super::super) server: Name,
    pub(in super::super) clock: Name,
    pub(in super::super) t: f64,
    pub(in super::super) duration: f64,
    /// Seconds that the stamp may have been cut by.
    pub(in super::super) resolution: f64,
    /// Equal for lines that say the same but for pages and time.
    pub(in super::super) like: u64,
    /// How many byte-identical lines there are.
    pub(in super::super) copies: usize,
    /// Clock and client program; 0 where the program is not known.
    pub(in super::super) agent: u64,
    /// What is known of its words and values before any call is looked at.
    pub(in super::super) habits: Habits,
}

/// What a line's words and values are worth, by what the others of its system show (`content`). Bits are positions.
#[derive(Debug, Clone, Copy, Default)]
pub(in super::super) struct Habits {
    /// That it shares no word with a tool.
    pub(in super::super) no_word: f64,
    /// That no argument explains a value in its path.
    pub(in super::super) unexplained: f64,
    /// Segments of the path that are values.
    pub(in super::super) values: u64,
    /// Query parameters, or literals, that its kind of line always has.
    pub(in super::super) constant: u64,
}

impl Line<'_> {
    pub(in super::super) fn is_http(&self) -> bool {
        self.http.is_some()
    }

    /// Whether it is an answer that succeeded.
    pub(in super::super) fn is_answer(&self) -> bool {
        self.class == LineClass::Main && self.http.is_some_and(|http| http.status < 400)
    }
}

/// All downstream lines of the interval, in its order.
pub(in super::super) fn lines<'a>(
    seen: &[Seen<'a>],
    downstream: &[usize],
    whole_seconds: &BTreeSet<Name>,
) -> Vec<Line<'a>> {
    let mut callers: BTreeMap<(&str, &str), BTreeSet<Name>> = BTreeMap::new();
    let mut copies: HashMap<(Name, u64), usize> = HashMap::new();
    for at in downstream {
        let s = &seen[*at];
        if let Some(http) = &s.o.http {
            callers.entry((&http.host, &http.path)).or_default().insert(s.server);
            if let Some(twin) = s.o.twin {
                *copies.entry((s.clock, twin)).or_default() += 1;
            }
        }
    }
    let make = |at: &usize| {
        let s = &seen[*at];
        let http = s.o.http.as_ref();
        let shared = http.is_some_and(|http| {
            callers
                .get(&(http.host.as_str(), http.path.as_str()))
                .is_some_and(|callers| callers.len() >= SHARED_SERVERS)
        });
        Line {
            at: *at,
            http,
            statement: s.o.statement.as_ref(),
            class: class(http, s.o.statement.as_ref(), shared),
            server: s.server,
            clock: s.clock,
            t: s.t,
            duration: s.duration,
            resolution: if whole_seconds.contains(&s.clock) { 1.0 } else { 0.0 },
            like: like(http, s.o.statement.as_ref()),
            agent: http.and_then(|http| http.agent.as_ref()).map_or(0, |agent| agent_of(s.clock, agent)),
            habits: Habits::default(),
            copies: s.o.twin.and_then(|twin| copies.get(&(s.clock, twin)).copied()).unwrap_or(1),
        }
    };
    downstream.iter().map(make).collect()
}

fn agent_of(clock: Name, agent: &str) -> u64 {
    let mut hash = Fnv(Fnv::default().0 ^ u64::from(clock));
    hash.text(agent);
    hash.0
}

fn class(http: Option<&HttpLine>, statement: Option<&StatementLine>, shared: bool) -> LineClass {
    let Some(http) = http else {
        let verb = statement.and_then(|statement| statement.template.split_whitespace().next()).unwrap_or_default();
        return LineClass::Statement(verb.to_ascii_uppercase());
    };
    if shared {
        return LineClass::Shared;
    }
    let page = http.query.iter().find(|(name, _)| PAGING.contains(&name.as_str())).map(|(_, value)| value);
    match page {
        Some(page) if page != "1" && page != "0" => LineClass::Page(page.clone()),
        _ if http.status == 429 || http.status >= 500 => LineClass::Failed,
        _ => LineClass::Main,
    }
}

fn like(http: Option<&HttpLine>, statement: Option<&StatementLine>) -> u64 {
    let mut hash = Fnv::default();
    if let Some(http) = http {
        hash.text(&http.host);
        hash.text(&http.path);
        for (name, value) in http.query.iter().filter(|(name, _)| !PAGING.contains(&name.as_str())) {
            hash.text(name);
            hash.text(value);
        }
    }
    if let Some(statement) = statement {
        hash.text(&statement.text);
    }
    hash.0
}

/// FNV-1a, 64 bits: the same on every machine and run.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Fnv(pub(in super::super) u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Adds a text and its end.
    pub(in super::super) fn text(&mut self, text: &str) {
        for byte in text.bytes().chain([0xff]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
