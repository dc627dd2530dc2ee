//! Content: do the values in a downstream line come from the arguments of a call?
//!
//! | evidence | log ratio |
//! | --- | --- |
//! | path or statement shares a word with the tool's name / does not | +1.5 / down to -1.5, learned |
//! | host is the server's own / is named in an argument / is not | 0 / +5 / -6 |
//! | a query value or literal is (part of) an argument value / of none / of none, but always the same | +1.2 / -4 / 0 |
//! | a value in the path is (part of) an argument value / of none | +1.2 / down to -2, learned |
//! | a parameter named like an argument has another value | -5 |
//! | a short argument does not occur in a read | -0.7 |
//!
//! Words that the tools of many servers share (get, list, ...) say nothing; they are found by counting.
//!
//! What is missing is worth as much as it is unusual: of a line that shares no word with any tool of its server, or has a value
//! that no argument of its server's calls has, `ln(1 - share of the server's lines that do)`. Where paths are never named after
//! tools that is nothing. A word or value of another call is against this one in full.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::super::calls::Execution;
use super::super::names::Name;
use super::super::observation::{Argument, HttpLine, StatementLine};
use super::lines::{Fnv, Habits, Line, LineClass};

/// A word in the tool names of this many servers says nothing about one tool.
const COMMON_WORD_SERVERS: usize = 3;
/// Arguments longer than this are not expected in a URL.
const SHORT_ARGUMENT: usize = 30;
/// Parameters that move through pages of one answer; conventions of HTTP APIs, not part of the call's arguments.
pub(super) const PAGING: &[&str] = &["page", "cursor", "offset", "pageToken", "page_token", "starting_after", "next"];
/// Paths that health checks use (Kubernetes and load balancers); no tool call unless the tool is named so.
const PROBES: &[&str] = &["healthz", "health", "livez", "readyz", "ready", "live", "ping", "metrics", "status"];

/// A path segment in fewer than this share of a host's lines is a value; fewer lines than this say nothing.
const VALUE_SHARE_MAX: f64 = 0.1;
const VALUE_LINES_LEAST: f64 = 20.0;
/// A value in the path that no argument explains may be an id that the server looked up.
const UNEXPLAINED_SEGMENT: f64 = -2.0;
/// No word of the tool's name.
const NO_WORD: f64 = -1.5;
/// A parameter or literal with one value in this share of its lines, of at least so many, belongs to the kind of line.
const CONSTANT_SHARE: f64 = 0.9;
const CONSTANT_LINES_LEAST: f64 = 5.0;
/// Hexadecimal text of this length with a digit in it is an id.
const HEX_ID_LEAST: usize = 8;

/// A score of minus infinity, nearly: never a candidate.
pub(super) const NEVER: f64 = -99.0;

/// What was learned about words and hosts before any line is judged.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    common: BTreeSet<String>,
    /// Hosts that occur in arguments of a server's calls.
    named_hosts: BTreeMap<Name, BTreeSet<String>>,
    /// Words of each tool's name.
    tools: HashMap<String, BTreeSet<String>>,
    /// Lines of each host, and of each segment of its paths.
    segments: HashMap<String, (f64, HashMap<String, f64>)>,
    servers: HashMap<Name, Server>,
}

/// What all calls of one server have.
#[derive(Debug, Default)]
struct Server {
    /// Words of its tools' names, but for the common ones.
    words: BTreeSet<String>,
    /// Values of arguments, and the words in them.
    values: HashSet<String>,
}

impl Vocabulary {
    pub(super) fn of(executions: &[Option<Execution<'_>>], hosts: &BTreeMap<Name, BTreeSet<String>>) -> Vocabulary {
        let mut servers_of: BTreeMap<String, BTreeSet<Name>> = BTreeMap::new();
        let mut vocabulary = Vocabulary::default();
        for execution in executions.iter().flatten() {
            if let Some(tool) = execution.tool_name {
                let found = vocabulary.tools.entry(tool.to_string()).or_insert_with(|| words(tool));
                for word in found.iter() {
                    servers_of.entry(word.clone()).or_default().insert(execution.server);
                }
            }
            let own = hosts.get(&execution.server);
            let values = execution.arguments.into_iter().flatten().flat_map(|argument| &argument.values);
            for value in values.filter(|value| value.contains('.')) {
                let named = own.into_iter().flatten().filter(|host| value.contains(host.as_str()));
                vocabulary.named_hosts.entry(execution.server).or_default().extend(named.cloned());
            }
        }
        let common = servers_of.into_iter().filter(|(_, servers)| servers.len() >= COMMON_WORD_SERVERS);
        vocabulary.common = common.map(|(word, _)| word).collect();
        for execution in executions.iter().flatten() {
            let server = vocabulary.servers.entry(execution.server).or_default();
            for value in execution.arguments.into_iter().flatten().flat_map(|argument| &argument.values) {
                if server.values.insert(value.clone()) {
                    server.values.extend(split(value).map(str::to_string));
                }
            }
            let words = execution.tool_name.and_then(|tool| vocabulary.tools.get(tool)).into_iter().flatten();
            server.words.extend(words.filter(|word| !vocabulary.common.contains(*word)).cloned());
        }
        vocabulary
    }

    /// Learns from all lines what their words and values are worth.
    pub(super) fn learn(&mut self, lines: &mut [Line<'_>]) {
        self.segments.clear();
        for http in lines.iter().filter_map(|line| line.http) {
            let host = self.segments.entry(http.host.clone()).or_default();
            host.0 += 1.0;
            for segment in http.segments.iter().collect::<BTreeSet<_>>() {
                *host.1.entry(segment.clone()).or_default() += 1.0;
            }
        }
        let mut constants: HashMap<u64, (f64, HashMap<&str, f64>)> = HashMap::new();
        for line in lines.iter() {
            for (place, value) in placed_values(line) {
                let known = constants.entry(place).or_default();
                known.0 += 1.0;
                *known.1.entry(value).or_default() += 1.0;
            }
        }
        let is_constant = |place: u64, value: &str| {
            let (lines, values) = &constants[&place];
            *lines >= CONSTANT_LINES_LEAST && values[value] >= CONSTANT_SHARE * lines
        };
        // (with, all) lines of a server: those that share a word with a tool, and values that an argument has.
        let mut named: HashMap<(Name, bool), (f64, f64)> = HashMap::new();
        let mut explained: HashMap<Name, (f64, f64)> = HashMap::new();
        let mut found = Vec::with_capacity(lines.len());
        for line in lines.iter() {
            let mut habits = Habits::default();
            for (at, (place, value)) in placed_values(line).enumerate() {
                habits.constant |= u64::from(is_constant(place, value)) << at;
            }
            let server = self.servers.get(&line.server);
            let tools = |word: &str| server.is_some_and(|server| server.words.contains(word));
            let has_word = texts(line).flat_map(split).any(|word| tools(&word.to_ascii_lowercase()));
            if line.class != LineClass::Shared {
                add(named.entry((line.server, line.is_http())).or_default(), has_word);
            }
            let mut has_values = true;
            if let Some(http) = line.http {
                for (at, segment) in http.segments.iter().enumerate().filter(|(_, s)| self.is_value(&http.host, s)) {
                    habits.values |= 1 << at;
                    has_values &= server.is_some_and(|server| server.values.contains(segment));
                }
                if habits.values > 0 {
                    add(explained.entry(line.server).or_default(), has_values);
                }
            }
            found.push((habits, has_word, has_values));
        }
        for (line, (habits, has_word, has_values)) in lines.iter_mut().zip(found) {
            let unusual = |counts: Option<&(f64, f64)>, most: f64| {
                let (with, all) = counts.copied().unwrap_or_default();
                (1.0 - (with + 1.0) / (all + 2.0)).ln().max(most)
            };
            let no_word = unusual(named.get(&(line.server, line.is_http())), NO_WORD);
            let unexplained = unusual(explained.get(&line.server), UNEXPLAINED_SEGMENT);
            line.habits = Habits {
                no_word: if has_word { NO_WORD } else { no_word },
                unexplained: if has_values { UNEXPLAINED_SEGMENT } else { unexplained },
                ..habits
            };
        }
    }

    /// Whether a segment of this host's paths looks like a value: by its form, or seldom the same among lines enough to say so.
    fn is_value(&self, host: &str, segment: &str) -> bool {
        if is_opaque(segment) {
            return true;
        }
        let Some((lines, segments)) = self.segments.get(host) else { return false };
        let count = segments.get(segment).copied().unwrap_or(0.0);
        *lines >= VALUE_LINES_LEAST && count / lines < VALUE_SHARE_MAX
    }

    /// Segments that are an argument's value, and values that are no argument's.
    fn path_score(line: &Line<'_>, http: &HttpLine, arguments: &[Argument]) -> f64 {
        let is_value = |at: usize| line.habits.values & (1 << at) != 0;
        let segments = http.segments.iter().enumerate().filter(|(at, _)| is_value(*at));
        let worth = |segment: &String| {
            if values(arguments).any(|value| explained(segment, value)) { 1.2 } else { line.habits.unexplained }
        };
        segments.map(|(_, segment)| worth(segment)).sum()
    }

    /// Whether a server reaches this host because an argument names it, not because it is its own system.
    fn is_named(&self, server: Name, host: &str) -> bool {
        self.named_hosts.get(&server).is_some_and(|hosts| hosts.contains(host))
    }

    fn tool_words(&self, tool: Option<&str>) -> BTreeSet<&str> {
        let words = tool.and_then(|tool| self.tools.get(tool)).into_iter().flatten();
        words.map(String::as_str).filter(|word| !self.common.contains(*word)).collect()
    }

    /// The score of a line against a call.
    pub(super) fn score(&self, line: &Line<'_>, call: &Execution<'_>) -> f64 {
        let tool = self.tool_words(call.tool_name);
        match (line.http, line.statement) {
            (Some(http), _) => self.http(line, http, call, &tool),
            (_, Some(statement)) => Vocabulary::statement(line, statement, call, &tool),
            _ => NEVER,
        }
    }

    fn http(&self, line: &Line<'_>, http: &HttpLine, call: &Execution<'_>, tool: &BTreeSet<&str>) -> f64 {
        if line.class == LineClass::Shared {
            return -1.5;
        }
        let last = http.segments.last().map_or("", String::as_str);
        if PROBES.contains(&last) && !tool.iter().any(|word| PROBES.contains(word)) {
            return NEVER;
        }
        let mut score = 0.0;
        let own_host = !self.is_named(call.server, &http.host);
        if own_host {
            score += shares_word(tool, line);
        } else {
            score += match call.arguments {
                Some(arguments) if values(arguments).any(|value| value.contains(&http.host)) => 5.0,
                Some([]) | None => -2.0,
                Some(_) => -6.0,
            };
            if let Some(arguments) = call.arguments.filter(|arguments| !arguments.is_empty()) {
                let path = http.path.trim_matches('/');
                score += if values(arguments).any(|value| value.contains(path)) { 1.0 } else { -3.0 };
            }
        }
        let Some(arguments) = call.arguments else { return score - 1.0 };
        let query = http.query.iter().enumerate().filter(|(_, (name, _))| {
            !PAGING.contains(&name.as_str()) || arguments.iter().any(|argument| argument.name == *name)
        });
        for (at, (name, value)) in query {
            score += value_score(line, at, value, arguments);
            if contradicts(name, value, arguments) {
                score -= 5.0;
            }
        }
        if own_host {
            score += Vocabulary::path_score(line, http, arguments);
        }
        if own_host && http.method == "GET" {
            let shown =
                || http.query.iter().map(|(_, value)| value.as_str()).chain(http.segments.iter().map(String::as_str));
            let short = arguments.iter().filter(|argument| {
                argument.scalar && argument.values.iter().all(|value| value.len() <= SHORT_ARGUMENT)
            });
            score -= 0.7
                * short
                    .filter(|argument| !argument.values.iter().any(|value| shown().any(|x| explained(x, value))))
                    .count() as f64;
        }
        score
    }

    fn statement(line: &Line<'_>, statement: &StatementLine, call: &Execution<'_>, tool: &BTreeSet<&str>) -> f64 {
        let mut score = shares_word(tool, line);
        let Some(arguments) = call.arguments else { return score - 1.0 };
        for (at, literal) in statement.literals.iter().enumerate() {
            score += value_score(line, at, literal, arguments);
        }
        let wrong = statement.assignments.iter().filter(|(name, value)| contradicts(name, value, arguments));
        score -= 5.0 * wrong.count() as f64;
        if statement.literals.is_empty() {
            score -= 0.7 * arguments.len().min(3) as f64;
        }
        score
    }
}

/// A query parameter or literal against the arguments.
fn value_score(line: &Line<'_>, at: usize, value: &str, arguments: &[Argument]) -> f64 {
    match () {
        () if values(arguments).any(|known| explained(value, known)) => 1.2,
        () if line.habits.constant & (1 << at) != 0 => 0.0,
        () => -4.0,
    }
}

/// Whether an argument of this name has another value.
fn contradicts(name: &str, value: &str, arguments: &[Argument]) -> bool {
    let argument = arguments.iter().find(|argument| argument.name == name);
    argument.is_some_and(|argument| !explained(value, &argument.values.join(" ")))
}

fn shares_word(tool: &BTreeSet<&str>, line: &Line<'_>) -> f64 {
    let found = || texts(line).flat_map(split).any(|word| tool.contains(word.to_ascii_lowercase().as_str()));
    if tool.is_empty() || found() { 1.5 } else { line.habits.no_word }
}

/// Texts of a line that may be named after a tool.
fn texts<'l>(line: &Line<'l>) -> impl Iterator<Item = &'l str> + use<'l> {
    let segments = line.http.into_iter().flat_map(|http| http.segments.iter().map(String::as_str));
    segments.chain(line.statement.map(|statement| statement.template.as_str()))
}

/// Query parameters or literals with a hash of where they stand, in order.
fn placed_values<'l>(line: &Line<'l>) -> impl Iterator<Item = (u64, &'l str)> + use<'l> {
    let query = line.http.into_iter().flat_map(|http| {
        http.query.iter().map(move |(name, value)| {
            let mut hash = Fnv::default();
            hash.text(&http.host);
            hash.text(name);
            (hash.0, value.as_str())
        })
    });
    let literals = line.statement.into_iter().flat_map(|statement| {
        let mut hash = Fnv::default();
        hash.text(&statement.template);
        let place = move |(at, literal): (usize, &'l String)| (hash.0.wrapping_add(at as u64), literal.as_str());
        statement.literals.iter().enumerate().map(place)
    });
    query.chain(literals)
}

/// Whether a text is an id by its form: digits only, a UUID, or hexadecimal with digits.
fn is_opaque(text: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    match text.len() {
        0 => false,
        length if digits == length => true,
        36 => text.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && text.split('-').all(is_hex),
        length => length >= HEX_ID_LEAST && digits > 0 && is_hex(text),
    }
}

fn add((with, all): &mut (f64, f64), has: bool) {
    *all += 1.0;
    *with += f64::from(u8::from(has));
}

fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty())
}

fn words(text: &str) -> BTreeSet<String> {
    split(text).map(str::to_ascii_lowercase).collect()
}

fn values(arguments: &[Argument]) -> impl Iterator<Item = &String> {
    arguments.iter().flat_map(|argument| &argument.values)
}

/// Whether a value seen downstream is an argument value, or a part of one. Notations of truth values and numbers differ.
pub(super) fn explained(seen: &str, argument: &str) -> bool {
    if seen == argument || (seen.len() >= 3 && argument.contains(seen)) {
        return true;
    }
    if argument.contains('+') && argument.replace('+', " ").contains(seen) && seen.len() >= 3 {
        // A query writes a space as a plus; not every client knows.
        return true;
    }
    if seen.eq_ignore_ascii_case(argument) && matches!(argument, "true" | "false" | "True" | "False") {
        return true;
    }
    matches!((seen, argument), ("1", "true") | ("0", "false"))
        || (seen.len() < 24
            && argument.len() < 24
            && matches!((seen.parse::<f64>(), argument.parse::<f64>()), (Ok(a), Ok(b)) if a == b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notations_of_one_value() {
        assert!(
            explained("1", "1.0")
                && explained("True", "true")
                && explained("1", "true")
                && explained("Paris", "Paris, France")
        );
        assert!(!explained("12", "123") && !explained("0", "true"));
    }
}
