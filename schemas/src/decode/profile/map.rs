//! From an entry that a rule fits to a record: columns, facts beside the columns, keys, and the rest.
//!
//! Facts that have no column stand in `attributes` under fixed names, so that records of any source can be compared:
//! `threadline.emitter`, `threadline.time_precision_ns`, `threadline.time_is`, `threadline.arguments_match`,
//! `threadline.arguments_bytes`, `threadline.arguments_head`, `threadline.result_match`, `threadline.result_bytes`,
//! `threadline.unread`, `threadline.duplicate_keys`, `threadline.lines`. They are described in `schemas/sources/README.md`.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::extract::{Extract, Scope, Value};
use super::rule::{KeyRule, Rule, RuleKind, note};
use super::target::{Field, Target};
use super::time;
use crate::columns::Record;
use crate::decode::Context;
use crate::decode::mcp::meta::parse_traceparent;
use crate::decode::mcp::method::{request_kind, response_kind};
use crate::decode::mcp::outcome::error_outcome;
use crate::digest;
use crate::json::{self, Json, Member};
use crate::keys::{Key, KeyKind};
use crate::record::{Decision, Direction, Kind, Outcome, SourceKind, TIME_IS, TimeQuality};

/// Finer than this is not said: everybody logs milliseconds.
const COARSE_NANO: i64 = 1_000_000;

/// A record in the making.
pub(super) struct Mapping<'m, 'd> {
    pub(super) context: &'m Context<'m>,
    pub(super) scope: &'m Scope<'d>,
    pub(super) record: Record,
    facts: Vec<Member>,
    traceparent: Option<String>,
    arguments_digests: Vec<String>,
    /// Texts without types: digits are numbers there.
    is_untyped: bool,
}

impl<'m, 'd> Mapping<'m, 'd> {
    pub(super) fn new(context: &'m Context<'m>, scope: &'m Scope<'d>, record: Record, is_untyped: bool) -> Self {
        let (facts, arguments_digests) = (Vec::new(), Vec::new());
        Mapping { context, scope, record, facts, traceparent: None, arguments_digests, is_untyped }
    }

    /// Sets everything the rule says; `Err` names the required field that is missing or unreadable.
    pub(super) fn apply(&mut self, rule: &Rule) -> Result<(), String> {
        for field in &rule.fields {
            let is_set = self.field(field);
            if field.is_required && !is_set {
                return Err(format!("rule {}: {} is missing or not readable", rule.name, field.name));
            }
        }
        let name = self.record.name.as_deref().unwrap_or_default();
        match rule.kind {
            RuleKind::Fixed(_) => {}
            RuleKind::OfRequest => self.record.kind = request_kind(name),
            RuleKind::OfResponse => self.record.kind = response_kind(name),
        }
        for (name, extract) in &rule.attributes {
            self.attribute(name, extract);
        }
        self.traceparent();
        rule.keys.iter().for_each(|key| self.key(key));
        self.conclude();
        Ok(())
    }

    /// Whether the field was set.
    fn field(&mut self, field: &Field) -> bool {
        let extract = &*field.extract;
        match field.target {
            Target::Time => return self.time(extract),
            Target::Duration => return self.duration(extract),
            Target::Arguments => return self.arguments(extract),
            Target::Result => return self.result(extract),
            Target::Structure(column) => return self.structure(extract, column),
            Target::Traceparent => {
                self.traceparent = extract.text(self.scope).map(Cow::into_owned);
                return self.traceparent.is_some();
            }
            Target::RpcId => return self.rpc_id(extract),
            _ => {}
        }
        let Some(text) = extract.text(self.scope) else { return false };
        let is_content = matches!(field.target, Target::Content(_));
        if text.is_empty() && !is_content {
            return false;
        }
        let is_set = self.text(field.target, &text, extract);
        if is_set && extract.is_plain() {
            self.use_up(extract);
        }
        is_set
    }

    fn text(&mut self, target: Target, text: &str, extract: &Extract) -> bool {
        let record = &mut self.record;
        let owned = || Some(text.to_string());
        match target {
            Target::SourceName => record.source_name = text.into(),
            Target::SourceKind => match SourceKind::parse(text) {
                Some(kind) => record.source_kind = kind,
                None => return false,
            },
            Target::Kind => match Kind::parse(text) {
                Some(kind) => record.kind = kind,
                None => return false,
            },
            Target::SourceSequence => {
                record.source_sequence = text.parse().ok();
                return record.source_sequence.is_some();
            }
            Target::Text(column) | Target::Content(column) => *column(record) = owned(),
            Target::Direction => {
                record.direction = Direction::parse(text);
                return record.direction.is_some();
            }
            Target::Outcome => {
                record.outcome = Outcome::parse(text);
                return record.outcome.is_some();
            }
            Target::Decision => {
                record.decision = Decision::parse(text);
                return record.decision.is_some();
            }
            Target::RpcErrorCode => {
                record.rpc_error_code = text.parse().ok();
                return record.rpc_error_code.is_some();
            }
            Target::ToolIsError => {
                record.tool_is_error = text.parse().ok();
                return record.tool_is_error.is_some();
            }
            Target::ToolName => {
                let split = extract.split.iter().find_map(|split| split.apply(text));
                record.tool_name = Some(split.map_or(text, |(_, tool)| tool).to_string());
                if let Some((server, _)) = split {
                    record.server_name.get_or_insert_with(|| server.into());
                }
            }
            Target::TraceId => {
                record.trace_id = id(text, 32);
                return record.trace_id.is_some();
            }
            Target::SpanId => {
                record.span_id = id(text, 16);
                return record.span_id.is_some();
            }
            Target::ParentSpanId => {
                record.parent_span_id = id(text, 16);
                return record.parent_span_id.is_some();
            }
            Target::RequestState => record.add_key(Key::new(KeyKind::RequestState, text)),
            Target::Emitter => self.facts.push(note("threadline.emitter", text)),
            Target::ArgumentsHead => self.facts.push(note("threadline.arguments_head", text)),
            Target::ArgumentsSha256 => return self.given_digest("threadline.arguments_sha256", text, true),
            Target::ResultSha256 => return self.given_digest("threadline.result_sha256", text, false),
            Target::ArgumentsBytes => return self.count("threadline.arguments_bytes", text),
            Target::ResultBytes => return self.count("threadline.result_bytes", text),
            Target::Time
            | Target::Duration
            | Target::Arguments
            | Target::Result
            | Target::Structure(_)
            | Target::Traceparent
            | Target::RpcId => return false,
        }
        true
    }

    fn use_up(&self, extract: &Extract) {
        if let Some(value) = extract.value(self.scope) {
            self.scope.mark_used(value.json);
        }
    }

    fn time(&mut self, extract: &Extract) -> bool {
        let observed = self.context.observed_time_unix_us;
        let (Some(form), Some(value)) = (&extract.form, extract.value(self.scope)) else {
            return false;
        };
        let Some(moment) = time::read(value.json, form, extract.zone, observed) else {
            self.record.set_time(Some(-1), observed);
            return false;
        };
        self.record.set_time(Some(moment.unix_nano), observed);
        let precision_nano = extract.precision_nano.unwrap_or(moment.precision_nano);
        if precision_nano > COARSE_NANO {
            self.number("threadline.time_precision_ns", precision_nano);
        }
        if extract.is_end {
            self.facts.push(note(TIME_IS, "end"));
        }
        self.scope.mark_used(value.json);
        matches!(self.record.time_quality, TimeQuality::Source)
    }

    fn duration(&mut self, extract: &Extract) -> bool {
        let text = extract.text(self.scope);
        self.record.duration_nano = text.and_then(|text| duration_nano(&text, extract.unit_nano));
        if self.record.duration_nano.is_some() && extract.is_plain() {
            self.use_up(extract);
        }
        self.record.duration_nano.is_some()
    }

    /// Arguments as JSON, or as text that holds JSON; text that was cut off is kept as the beginning it is.
    fn arguments(&mut self, extract: &Extract) -> bool {
        let Some(value) = extract.value(self.scope) else { return false };
        let parsed;
        let (json, text) = match value.json {
            Json::String(text) => match json::parse(text.as_bytes()) {
                Ok(inner) if !matches!(inner.value, Json::String(_)) => {
                    parsed = inner.value;
                    (&parsed, text.clone())
                }
                _ => {
                    self.facts.push(note("threadline.arguments_head", text.as_str()));
                    self.scope.mark_used(value.json);
                    return true;
                }
            },
            other => (other, shown(value)),
        };
        self.record.arguments_digest = self.context.digest(json);
        self.arguments_digests = digest::sha256_forms(json);
        self.record.arguments = Some(text);
        self.scope.mark_used(value.json);
        true
    }

    fn result(&mut self, extract: &Extract) -> bool {
        let Some(value) = extract.value(self.scope) else { return false };
        self.record.result_digest = self.context.digest(value.json);
        self.record.result = Some(shown(value));
        self.scope.mark_used(value.json);
        true
    }

    fn structure(&mut self, extract: &Extract, column: fn(&mut Record) -> &mut Option<String>) -> bool {
        let Some(value) = extract.value(self.scope) else { return false };
        // A table keeps JSON as text, `null` included.
        let inner = value.json.as_str().and_then(|text| Some((text, json::parse(text.as_bytes()).ok()?.value)));
        let text = match inner {
            Some((_, Json::Null)) => return false,
            Some((text, Json::Object(_) | Json::Array(_))) => text.to_string(),
            _ => shown(value),
        };
        *column(&mut self.record) = Some(text);
        self.scope.mark_used(value.json);
        true
    }

    /// The id as JSON text, so that 1 and "1" differ.
    fn rpc_id(&mut self, extract: &Extract) -> bool {
        let found = extract.value(self.scope);
        // Only a text that stands in JSON as such is known to be no number.
        let made_untyped = self.is_untyped || !extract.is_plain() || found.is_some_and(|found| found.exact.is_none());
        let value = found.map(|value| value.json);
        let text = match value {
            Some(Json::Number(_)) if extract.is_plain() => value.map(Json::to_string),
            Some(Json::String(text)) if !made_untyped && !text.is_empty() => value.map(Json::to_string),
            _ => extract.text(self.scope).filter(|text| !text.is_empty()).map(|text| match is_number(&text) {
                true => text.into_owned(),
                false => Json::String(text.into_owned()).to_string(),
            }),
        };
        if text.is_some() && extract.is_plain() {
            self.use_up(extract);
        }
        self.record.rpc_id = text;
        self.record.rpc_id.is_some()
    }

    fn attribute(&mut self, name: &str, extract: &Extract) {
        let value = match extract.is_plain() {
            true => match extract.value(self.scope) {
                Some(value) => {
                    self.scope.mark_used(value.json);
                    match value.json {
                        Json::String(text) if self.is_untyped && is_number(text) => Json::Number(text.as_str().into()),
                        other => other.clone(),
                    }
                }
                None => match &extract.default {
                    Some(default) => Json::String(default.clone()),
                    None => return,
                },
            },
            false => match extract.text(self.scope) {
                Some(text) => Json::String(text.into_owned()),
                None => return,
            },
        };
        self.facts.push(Member { key: name.into(), value, span: 0..0 });
    }

    /// The context that a caller handed on: its span is the parent.
    fn traceparent(&mut self) {
        let Some((trace, span)) = self.traceparent.as_deref().and_then(parse_traceparent) else { return };
        match &self.record.trace_id {
            None => self.record.trace_id = Some(trace),
            Some(known) if *known == trace => {}
            // Another trace: it stays where it was said.
            Some(_) => return,
        }
        self.record.parent_span_id.get_or_insert(span);
    }

    fn key(&mut self, rule: &KeyRule) {
        let text = |extract: &Extract| extract.text(self.scope).filter(|text| !text.is_empty()).map(Cow::into_owned);
        let Some(mut value) = text(&rule.value) else { return };
        if let (KeyKind::Rpc, Some(id)) = (rule.kind, &self.record.rpc_id) {
            // As JSON, so that 1 and "1" differ.
            value.clone_from(id);
        }
        let key = match &rule.scope {
            None => Key::new(rule.kind, &value),
            Some(scope) => match text(scope) {
                Some(scope) => Key::scoped(rule.kind, &scope, &value),
                None => return,
            },
        };
        self.record.add_key(key);
        if rule.value.is_plain() {
            self.use_up(&rule.value);
        }
    }

    /// Outcome where no field says it, sizes and digests of what is there.
    fn conclude(&mut self) {
        let record = &mut self.record;
        if record.outcome.is_none() {
            record.outcome = concluded(record);
        }
        if !self.arguments_digests.is_empty()
            && let Some(key) = self.context.match_key
        {
            let forms =
                self.arguments_digests.iter().map(|digest| Json::String(key.digest("sha256-16", digest.as_bytes())));
            let value = Json::Array(forms.collect());
            self.facts.push(Member { key: "threadline.arguments_match".into(), value, span: 0..0 });
        }
        // Text of a result, not a line that only mentions one.
        let has_answer = self.record.result.is_some() || self.record.rpc_error_code.is_some();
        let is_answer = matches!(self.record.kind, Kind::Result) && has_answer;
        let has = |facts: &[Member], key: &str| facts.iter().any(|member| member.key == key);
        if let Some(text) = self.record.text.as_deref().filter(|_| is_answer) {
            let length = text.len() as i64;
            let digest = hex::encode(Sha256::digest(text.as_bytes()));
            if !has(&self.facts, "threadline.result_bytes") {
                self.number("threadline.result_bytes", length);
                if !has(&self.facts, "threadline.result_match") && !has(&self.facts, "threadline.result_sha256") {
                    self.given_digest("threadline.result_sha256", &digest, false);
                }
            }
        }
    }

    /// A digest that the source logs, under our key as everything that is compared; plain only where there is no key.
    fn given_digest(&mut self, name: &str, text: &str, is_list: bool) -> bool {
        let text = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
        let is_hex = text.len() >= digest::PREFIX_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex {
            return false;
        }
        match self.context.match_key {
            None => self.facts.push(note(name, text)),
            Some(_) if is_list => self.arguments_digests = vec![text[..digest::PREFIX_DIGITS].to_string()],
            Some(key) => {
                let value = key.digest("sha256-16", &text.as_bytes()[..digest::PREFIX_DIGITS]);
                self.facts.push(note("threadline.result_match", value));
            }
        }
        true
    }

    fn count(&mut self, name: &str, text: &str) -> bool {
        match text.parse::<i64>() {
            Ok(count) if count >= 0 => {
                self.number(name, count);
                true
            }
            _ => false,
        }
    }

    pub(super) fn number(&mut self, name: &str, number: i64) {
        self.facts.push(Member { key: name.into(), value: Json::Number(number.to_string().into()), span: 0..0 });
    }

    pub(super) fn note(&mut self, name: &str, value: &str) {
        self.facts.push(note(name, value));
    }

    pub(super) fn notes(&mut self, name: &str, values: &[String]) {
        if !values.is_empty() {
            let value = Json::Array(values.iter().cloned().map(Json::String).collect());
            self.facts.push(Member { key: name.into(), value, span: 0..0 });
        }
    }

    /// Makes the record the rejected one of a damaged line; what could be read of it stays in its columns.
    pub(super) fn reject(&mut self, reason: &str) {
        self.note("threadline.read_as", self.record.kind.as_str());
        if let Some(text) = self.record.text.replace(reason.into()) {
            self.note("threadline.text", &text);
        }
        self.record.kind = Kind::Rejected;
        self.record.error_type.get_or_insert_with(|| "rejected".into());
    }

    /// The record, with everything that went nowhere else in its `attributes`.
    pub(super) fn finish(mut self) -> Record {
        let used = self.scope.used.borrow();
        let is_used = |value: &Json| {
            let is_absent = value.as_str().is_some_and(|text| self.scope.absent.iter().any(|absent| absent == text));
            is_absent || used.iter().any(|used| std::ptr::eq(*used, value))
        };
        let mut members = self.facts;
        members.extend(rest_of(self.scope.root, &is_used));
        if let Some(value) = self.scope.item.and_then(|item| rest(item, &is_used)) {
            members.push(Member { key: "item".into(), value, span: 0..0 });
        }
        let made = self.scope.made.iter().chain(self.scope.captures);
        for made in made.filter(|made| made.is_content && !is_used(&made.value)) {
            if let Some(value) = rest(&made.value, &is_used) {
                members.push(Member { key: made.name.clone(), value, span: 0..0 });
            }
        }
        self.record.attributes = (!members.is_empty()).then(|| Json::Object(members).to_string());
        self.record
    }
}

fn rest_of(object: &Json, is_used: &dyn Fn(&Json) -> bool) -> Vec<Member> {
    let members = object.members().iter().filter_map(|member| {
        let value = rest(&member.value, is_used)?;
        Some(Member { key: member.key.clone(), value, span: 0..0 })
    });
    members.collect()
}

/// The value without what was used; `None` when nothing is left of it.
fn rest(value: &Json, is_used: &dyn Fn(&Json) -> bool) -> Option<Json> {
    if is_used(value) || *value == Json::Null {
        return None;
    }
    match value {
        Json::Object(members) if !members.is_empty() => {
            let left = rest_of(value, is_used);
            (!left.is_empty()).then_some(Json::Object(left))
        }
        Json::Array(items) if !items.is_empty() => {
            let left: Vec<Json> = items.iter().filter_map(|item| rest(item, is_used)).collect();
            (!left.is_empty()).then_some(Json::Array(left))
        }
        other => Some(other.clone()),
    }
}

fn shown(value: Value<'_>) -> String {
    value.exact.map_or_else(|| value.json.to_string(), str::to_string)
}

/// An integer as it is written, so that its text does not change.
fn is_number(text: &str) -> bool {
    let is_integer = !text.is_empty() && text.len() < 19 && text.bytes().all(|byte| byte.is_ascii_digit());
    is_integer && (text == "0" || !text.starts_with('0'))
}

fn id(text: &str, digits: usize) -> Option<String> {
    let is_id = text.len() == digits
        && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        && text.bytes().any(|byte| byte != b'0');
    is_id.then(|| text.to_ascii_lowercase())
}

/// How it ended, by what the layers say.
fn concluded(record: &Record) -> Option<Outcome> {
    if record.decision == Some(Decision::Deny) {
        return Some(Outcome::Denied);
    }
    let status = record.transport_status.as_deref();
    if record.rpc_error_code.is_some() {
        return Some(error_outcome(record.rpc_error_code, record.text.as_deref(), status));
    }
    if let Some(is_error) = record.tool_is_error {
        return Some(if is_error { Outcome::Error } else { Outcome::Ok });
    }
    match status?.parse::<u16>().ok()? {
        401 | 403 => Some(Outcome::Denied),
        100..=399 => Some(Outcome::Ok),
        // nginx: the client went away before the answer.
        499 => Some(Outcome::Cancelled),
        400..=599 => Some(Outcome::Error),
        _ => None,
    }
}

/// `24ms`, `1.5s`, `1m2.5s`, or a bare number of units.
fn duration_nano(text: &str, unit_nano: Option<i64>) -> Option<i64> {
    const UNITS: &[(&str, i64)] = &[
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("μs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total = 0i64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let nano = match unit.trim() {
            "" if rest.len() == text.trim().len() && after.is_empty() => unit_nano?,
            unit => UNITS.iter().find(|(name, _)| *name == unit)?.1,
        };
        total = total.checked_add(decimal(number, nano)?)?;
        rest = after;
    }
    Some(total)
}

/// A decimal number of `unit` nanoseconds; what is finer than a nanosecond is cut.
fn decimal(number: &str, unit: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: i64 = if whole.is_empty() && !fraction.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nano = whole.checked_mul(unit)?;
    // In wide numbers, because the place of a digit need not be a whole number of nanoseconds.
    let (mut numerator, mut denominator) = (0i128, 1i128);
    for digit in fraction.bytes().take(18) {
        if !digit.is_ascii_digit() {
            return None;
        }
        numerator = numerator * 10 + i128::from(digit - b'0');
        denominator *= 10;
    }
    nano = nano.checked_add(i64::try_from(numerator * i128::from(unit) / denominator).ok()?)?;
    Some(nano)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, unit, expected) in [
            ("24ms", None, Some(24_000_000)),
            ("1.5s", None, Some(1_500_000_000)),
            ("1m2.5s", None, Some(62_500_000_000)),
            ("31", Some(1_000_000), Some(31_000_000)),
            ("0.095", Some(1_000_000_000), Some(95_000_000)),
            ("303.1000000000000227", Some(1_000_000), Some(303_100_000)),
            ("31", None, None),
            ("-1", Some(1), None),
            ("1e3", Some(1), None),
            ("", Some(1), None),
            ("9999999999999h", None, None),
            ("5 parsecs", None, None),
        ] {
            assert_eq!(duration_nano(text, unit), expected, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_duration_panics(text in "[0-9a-zµ. -]{0,24}") {
            proptest::prop_assert!(duration_nano(&text, Some(1_000_000_000)).is_none_or(|nano| nano >= 0));
        }
    }
}
