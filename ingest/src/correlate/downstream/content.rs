//! Content: do the values in a downstream line come from the arguments of a call?
//!
//! | evidence | log ratio |
//! | --- | --- |
//! | path or statement shares a word with the tool's name / does not | +1.5 / -1.5 |
//! | host is the server's own / is named in an argument / is not | 0 / +5 / -6 |
//! | a query value or literal is (part of) an argument value / of none | +1.2 / -4 |
//! | a value in the path is (part of) an argument value / of none | +1.2 / -2 |
//! | a parameter named like an argument has another value | -5 |
//! | a short argument does not occur in a read | -0.7 |
//!
//! Words that the tools of many servers share (get, list, ...) say nothing; they are found by counting.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::calls::Execution;
use super::super::names::Name;
use super::super::observation::{Argument, HttpLine, StatementLine};
use super::lines::{Line, LineClass};

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
        vocabulary
    }

    /// Counts the segments of paths, so that values can be told from fixed words.
    pub(super) fn count_paths<'h>(&mut self, lines: impl Iterator<Item = &'h HttpLine>) {
        for http in lines {
            let host = self.segments.entry(http.host.clone()).or_default();
            host.0 += 1.0;
            for segment in http.segments.iter().collect::<BTreeSet<_>>() {
                *host.1.entry(segment.clone()).or_default() += 1.0;
            }
        }
    }

    /// Whether a segment of this host's paths looks like a value: seldom the same, among lines enough to say so.
    fn is_value(&self, host: &str, segment: &str) -> bool {
        let Some((lines, segments)) = self.segments.get(host) else { return false };
        let count = segments.get(segment).copied().unwrap_or(0.0);
        *lines >= VALUE_LINES_LEAST && count / lines < VALUE_SHARE_MAX
    }

    /// Segments that are an argument's value, and values that are no argument's.
    fn path_score(&self, http: &HttpLine, arguments: &[Argument]) -> f64 {
        let mut score = 0.0;
        for segment in http.segments.iter().filter(|segment| self.is_value(&http.host, segment)) {
            score += if values(arguments).any(|value| explained(segment, value)) { 1.2 } else { UNEXPLAINED_SEGMENT };
        }
        score
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
            (_, Some(statement)) => self.statement(statement, call, &tool),
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
            score += shares_word(tool, http.segments.iter().map(String::as_str));
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
        let query = http.query.iter().filter(|(name, _)| {
            !PAGING.contains(&name.as_str()) || arguments.iter().any(|argument| argument.name == *name)
        });
        score += pairs_score(query.map(|(name, value)| (name.as_str(), value.as_str())), arguments);
        if own_host {
            score += self.path_score(http, arguments);
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

    fn statement(&self, statement: &StatementLine, call: &Execution<'_>, tool: &BTreeSet<&str>) -> f64 {
        let mut score = shares_word(tool, std::iter::once(statement.template.as_str()));
        let Some(arguments) = call.arguments else { return score - 1.0 };
        for literal in &statement.literals {
            score += if values(arguments).any(|value| explained(literal, value)) { 1.2 } else { -4.0 };
        }
        for (name, value) in &statement.assignments {
            if let Some(argument) = arguments.iter().find(|argument| argument.name == *name)
                && !explained(value, &argument.values.join(" "))
            {
                score -= 5.0;
            }
        }
        if statement.literals.is_empty() {
            score -= 0.7 * arguments.len().min(3) as f64;
        }
        score
    }
}

fn pairs_score<'p>(pairs: impl Iterator<Item = (&'p str, &'p str)>, arguments: &[Argument]) -> f64 {
    let mut score = 0.0;
    for (name, value) in pairs {
        score += if values(arguments).any(|known| explained(value, known)) { 1.2 } else { -4.0 };
        if let Some(argument) = arguments.iter().find(|argument| argument.name == name)
            && !explained(value, &argument.values.join(" "))
        {
            score -= 5.0;
        }
    }
    score
}

fn shares_word<'t>(tool: &BTreeSet<&str>, texts: impl Iterator<Item = &'t str>) -> f64 {
    if tool.is_empty() {
        return 1.5;
    }
    let found = texts.flat_map(split).any(|word| tool.contains(word.to_ascii_lowercase().as_str()));
    if found { 1.5 } else { -1.5 }
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
