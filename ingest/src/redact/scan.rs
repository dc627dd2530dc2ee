//! Finds secrets in bytes: in text, in JSON, in JSON inside the strings of JSON.
//!
//! Invariants
//! - spans are in the coordinates of the outermost bytes; they never hold a quote or a part of an escape that belongs to
//!   the document, so replacing them by plain ASCII keeps JSON valid at every level
//! - the fingerprint is that of the secret itself, without the escapes around it, so it is the same wherever it occurs
//! - time is linear in the input for a fixed number of levels ([`LEVELS_MAX`])
//! - what an earlier redaction left is no secret
//!
//! Not here: what becomes of a secret.

use std::collections::HashMap;
use std::ops::Range;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use threadline_schemas::digest::MatchKey;

use super::json::{self, Unescaped};
use super::rules::{self, Check};
use super::{RedactConfig, RedactError};

/// JSON inside strings of JSON that is opened.
const LEVELS_MAX: usize = 6;

/// Secrets per field that get a fingerprint of their own and a token in their place; further ones are masked in place.
pub(super) const FINGERPRINTS_MAX: usize = 4096;

/// A secret found. Small, so that a field full of them stays bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) span: Range<usize>,
    pub(super) kind: u16,
    /// Absent beyond [`FINGERPRINTS_MAX`].
    pub(super) fingerprint: Option<Box<str>>,
}

/// The compiled rules.
#[derive(Debug)]
pub(super) struct Scanner {
    pub(super) kinds: Vec<Box<str>>,
    patterns: Vec<(u16, Regex, Check)>,
    /// Hints of `patterns` in their order, then those of names.
    hints: RegexSet,
    names: HashMap<String, u16>,
    env: Option<u16>,
    quoted_name: Regex,
    header_line: Regex,
    protobuf_name: Regex,
    left_by_redaction: Regex,
    key: MatchKey,
}

impl Scanner {
    pub(super) fn new(key: MatchKey, config: &RedactConfig) -> Result<Self, RedactError> {
        let mut kinds = Vec::new();
        let mut patterns = Vec::new();
        let mut hints = Vec::new();
        for added in &config.add_patterns {
            patterns.push((kind(&mut kinds, &added.kind), compile(&added.kind, &added.expression)?, Check::Any));
            hints.push(added.expression.clone());
        }
        for pattern in rules::PATTERNS.iter().filter(|pattern| !config.is_off(pattern.kind)) {
            patterns.push((kind(&mut kinds, pattern.kind), compile(pattern.kind, pattern.expression)?, pattern.check));
            hints.push(pattern.hint.into());
        }
        hints.extend(rules::NAME_HINTS.iter().map(ToString::to_string));
        let mut names = HashMap::new();
        for (name, named) in rules::NAMES.iter().filter(|(_, named)| !config.is_off(named)) {
            names.insert(name.to_string(), kind(&mut kinds, named));
        }
        let mut added_names = Vec::new();
        for name in &config.add_names {
            names.insert(rules::plain_name(name.as_bytes()), kind(&mut kinds, "named"));
            added_names.push(rules::spelled_anyhow(name));
        }
        let env = (!config.is_off(rules::ENV_KIND)).then(|| kind(&mut kinds, rules::ENV_KIND));
        hints.extend(added_names.iter().map(|name| format!("(?i){name}")));
        let hints = RegexSetBuilder::new(hints).unicode(false).build();
        Ok(Scanner {
            kinds,
            patterns,
            hints: hints.map_err(|source| RedactError::Rule { kind: "hints".into(), source })?,
            names,
            env,
            quoted_name: compile("quoted-name", &rules::quoted_name(&added_names))?,
            header_line: compile("header-line", rules::HEADER_LINE)?,
            protobuf_name: compile("protobuf-name", rules::PROTOBUF_NAME)?,
            left_by_redaction: compile("left-by-redaction", rules::LEFT_BY_REDACTION)?,
            key,
        })
    }

    /// Secrets in text or JSON, in order, not overlapping.
    pub(super) fn find(&self, text: &[u8]) -> Vec<Hit> {
        let mut hits = Vec::new();
        self.level(text, 0, &mut hits);
        merge(hits)
    }

    /// Secrets in a binary body, in order, not overlapping.
    pub(super) fn find_in_binary(&self, body: &[u8]) -> Vec<Hit> {
        let mut hits = Vec::new();
        if self.hints.is_match(body) {
            self.text(body, &mut hits);
            self.protobuf_attributes(body, &mut hits);
        }
        merge(hits)
    }

    fn level(&self, text: &[u8], depth: usize, hits: &mut Vec<Hit>) {
        if !self.hints.is_match(text) {
            return;
        }
        if depth < LEVELS_MAX && json::looks_like_json(text) {
            let before = hits.len();
            if json::strings(text, rules::is_header, |value| self.string(text, value, depth, hits)) {
                return;
            }
            hits.truncate(before);
        }
        self.text(text, hits);
    }

    /// One string of a JSON document.
    fn string(&self, text: &[u8], value: json::StringValue, depth: usize, hits: &mut Vec<Hit>) {
        let source = &text[value.span.clone()];
        let kind = value.name.and_then(|name| self.kind_of_key(&text[name]));
        if kind.is_none() && !self.hints.is_match(source) {
            return;
        }
        let plain = Unescaped::new(source);
        let mut found = Vec::new();
        match kind {
            Some(kind) => self.push(&plain.bytes, self.header_secret(&plain.bytes, kind), kind, hits.len(), &mut found),
            None => self.level(&plain.bytes, depth + 1, &mut found),
        }
        hits.extend(found.into_iter().map(|hit| {
            let (start, end) = (plain.source_start(hit.span.start), plain.source_end(hit.span.end));
            Hit { span: value.span.start + start..value.span.start + end, ..hit }
        }));
    }

    /// Text that is not JSON as a whole.
    fn text(&self, text: &[u8], hits: &mut Vec<Hit>) {
        let hinted = self.hints.matches(text);
        for (index, (kind, expression, check)) in self.patterns.iter().enumerate() {
            if !hinted.matched(index) {
                continue;
            }
            for captures in expression.captures_iter(text) {
                let Some(secret) = captures.get(1).or_else(|| captures.get(0)) else { continue };
                let secret = unquoted(text, secret.range());
                if check.passes(text, &secret) {
                    self.push(text, secret, *kind, 0, hits);
                }
            }
        }
        if hinted.iter().any(|index| index >= self.patterns.len()) {
            self.quoted_names(text, hits);
            self.header_lines(text, hits);
        }
    }

    /// `"password": "..."` in the middle of text, also with its quotes escaped.
    fn quoted_names(&self, text: &[u8], hits: &mut Vec<Hit>) {
        let mut covered_to = 0;
        for captures in self.quoted_name.captures_iter(text) {
            let (Some(all), Some(name), Some(slashes)) = (captures.get(0), captures.get(1), captures.get(2)) else {
                continue;
            };
            let Some(kind) = self.kind_of_name(name.as_bytes()) else { continue };
            // A value without an end reaches to the end of the text; what it covers is not looked at again.
            if all.start() < covered_to {
                continue;
            }
            let end = quoted_end(text, all.end(), text[all.end() - 1], slashes.len());
            covered_to = end;
            let secret = self.header_secret(&text[all.end()..end], kind);
            let span = all.end() + secret.start..all.end() + secret.end;
            let mut plain = Unescaped::new(&text[span.clone()]);
            for _ in 0..(slashes.len() + 1).ilog2() {
                plain = Unescaped::new(&plain.bytes);
            }
            if !span.is_empty() && !self.left_by_redaction.is_match(&text[span.clone()]) {
                let fingerprint = self.fingerprint(&plain.bytes, hits.len());
                hits.push(Hit { span, kind, fingerprint });
            }
        }
    }

    fn header_lines(&self, text: &[u8], hits: &mut Vec<Hit>) {
        for captures in self.header_line.captures_iter(text) {
            let (Some(name), Some(value)) = (captures.get(1), captures.get(2)) else { continue };
            let Some(kind) = self.kind_of_name(name.as_bytes()) else { continue };
            let value_text = value.as_bytes().trim_ascii_end();
            let secret = self.header_secret(value_text, kind);
            self.push(text, value.start() + secret.start..value.start() + secret.end, kind, 0, hits);
        }
    }

    /// `KeyValue { key: "authorization", value: AnyValue { string_value: ... } }`
    fn protobuf_attributes(&self, body: &[u8], hits: &mut Vec<Hit>) {
        for captures in self.protobuf_name.captures_iter(body) {
            let (Some(all), Some(name)) = (captures.get(0), captures.get(1)) else { continue };
            let Some(kind) = self.kind_of_name(name.as_bytes()) else { continue };
            if let Some(value) = protobuf_string(body, all.end()) {
                let secret = self.header_secret(&body[value.clone()], kind);
                self.push(body, value.start + secret.start..value.start + secret.end, kind, 0, hits);
            }
        }
    }

    fn push(&self, text: &[u8], span: Range<usize>, kind: u16, already: usize, hits: &mut Vec<Hit>) {
        let secret = &text[span.clone()];
        if !secret.is_empty() && !self.left_by_redaction.is_match(secret) {
            let fingerprint = self.fingerprint(secret, already + hits.len());
            hits.push(Hit { span, kind, fingerprint });
        }
    }

    /// The credential in a value: for `authorization` without its scheme, so that the same token has the same fingerprint
    /// wherever it occurs.
    fn header_secret(&self, value: &[u8], kind: u16) -> Range<usize> {
        const SCHEMES: [&[u8]; 4] = [b"bearer ", b"basic ", b"token ", b"dpop "];
        let starts = |scheme: &&&[u8]| value.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme));
        let scheme = SCHEMES.iter().find(starts).filter(|_| &*self.kinds[usize::from(kind)] == "authorization");
        scheme.map_or(0, |scheme| scheme.len())..value.len()
    }

    fn fingerprint(&self, secret: &[u8], already: usize) -> Option<Box<str>> {
        (already < FINGERPRINTS_MAX).then(|| self.key.fingerprint(secret).into())
    }

    /// By a key as it stands in JSON, where it may hold escapes.
    fn kind_of_key(&self, key: &[u8]) -> Option<u16> {
        match memchr::memchr(b'\\', key) {
            Some(_) => self.kind_of_name(&Unescaped::new(key).bytes),
            None => self.kind_of_name(key),
        }
    }

    fn kind_of_name(&self, name: &[u8]) -> Option<u16> {
        if let Some(env) = self.env.filter(|_| rules::is_env_name(name)) {
            return Some(env);
        }
        let last = name.rsplit(|byte| *byte == b'.').next().unwrap_or(name);
        if last.len() > 64 { None } else { self.names.get(&rules::plain_name(last)).copied() }
    }
}

impl Check {
    fn passes(self, text: &[u8], span: &Range<usize>) -> bool {
        let secret = &text[span.clone()];
        match self {
            Check::Any => true,
            Check::Digit => secret.iter().any(u8::is_ascii_digit),
            Check::JwtHeader => {
                let header = secret.split(|byte| *byte == b'.').next().unwrap_or_default();
                let header = BASE64_URL_SAFE_NO_PAD.decode(header).unwrap_or_default();
                let parsed = threadline_schemas::json::parse(&header);
                parsed.is_ok_and(|parsed| parsed.value.get("alg").is_some())
            }
            Check::Value => secret.len() >= 4 && !is_placeholder(secret),
            Check::Env => {
                let before = text[..span.start].trim_ascii_end();
                let before =
                    before.strip_suffix(b"\"").or(before.strip_suffix(b"'")).unwrap_or(before).trim_ascii_end();
                let name = before.strip_suffix(b"=").unwrap_or(before).trim_ascii_end();
                !rules::is_env_harmless(name) && Check::Value.passes(text, span)
            }
        }
    }
}

fn is_placeholder(value: &[u8]) -> bool {
    matches!(value.first(), Some(b'$' | b'<' | b'{' | b'%'))
        || value.iter().all(|byte| matches!(byte, b'*' | b'.' | b'x' | b'X'))
}

/// Without quotes that enclose it.
fn unquoted(text: &[u8], span: Range<usize>) -> Range<usize> {
    match &text[span.clone()] {
        [open @ (b'"' | b'\''), .., close] if open == close => span.start + 1..span.end - 1,
        _ => span,
    }
}

/// Where a quoted value ends: at the first `quote` with at most as many backslashes as the one before its name, or with the
/// text.
fn quoted_end(text: &[u8], from: usize, quote: u8, slashes: usize) -> usize {
    let mut run = 0;
    for (at, byte) in text.iter().enumerate().skip(from) {
        match *byte {
            b'\\' => run += 1,
            byte if byte == quote && run <= slashes => return at - run,
            _ => run = 0,
        }
    }
    text.len()
}

/// The bytes of `AnyValue { 1: string }` whose length stands at `at`.
fn protobuf_string(body: &[u8], at: usize) -> Option<Range<usize>> {
    let (_, at) = varint(body, at)?;
    if *body.get(at)? != 0x0a {
        return None;
    }
    let (length, at) = varint(body, at + 1)?;
    let end = at.checked_add(length)?;
    (end <= body.len()).then_some(at..end)
}

fn varint(body: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut value = 0usize;
    for (index, byte) in body.get(at..)?.iter().take(5).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, at + index + 1));
        }
    }
    None
}

/// Sorts, and joins what overlaps under the first and longest.
fn merge(mut hits: Vec<Hit>) -> Vec<Hit> {
    hits.sort_by_key(|hit| (hit.span.start, std::cmp::Reverse(hit.span.end)));
    let mut merged: Vec<Hit> = Vec::with_capacity(hits.len());
    for hit in hits {
        match merged.last_mut() {
            Some(last) if hit.span.start < last.span.end => last.span.end = last.span.end.max(hit.span.end),
            _ => merged.push(hit),
        }
    }
    merged
}

fn kind(kinds: &mut Vec<Box<str>>, name: &str) -> u16 {
    let index = kinds.iter().position(|kind| **kind == *name).unwrap_or_else(|| {
        kinds.push(name.into());
        kinds.len() - 1
    });
    u16::try_from(index).unwrap_or(u16::MAX)
}

fn compile(kind: &str, expression: &str) -> Result<Regex, RedactError> {
    let compiled = RegexBuilder::new(expression).unicode(false).build();
    compiled.map_err(|source| RedactError::Rule { kind: kind.into(), source })
}

#[cfg(test)]
impl Scanner {
    pub(super) fn fingerprint_of(&self, secret: &[u8]) -> String {
        self.key.fingerprint(secret)
    }
}
