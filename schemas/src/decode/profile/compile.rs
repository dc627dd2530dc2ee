//! From the words of a profile to what reads lines. Every mistake is found here, when the profile is loaded, with its place.

use std::ops::Range;
use std::sync::Arc;

use super::condition::Condition;
use super::error::{At, ProfileError};
use super::extract::{self, Extract, Split};
use super::path::Path;
use super::rule::{Capture, Expand, How, KeyRule, Rule, RuleKind};
use super::spec::{ConditionSpec, ExpandSpec, ExtractSpec, KeySpec, RuleSpec, Spec, Text};
use super::target::{self, Field, TARGETS};
use super::template::{self, Dialect, Template};
use super::time::{Form, Zone};
use super::{Format, Profile, Recognise};
use crate::keys::KeyKind;
use crate::limits::profile::{NAME_BYTES_MAX, PROFILE_BYTES_MAX, RULES_MAX, SEPARATOR_BYTES_MAX};
use crate::record::{Kind, SourceKind};

/// Reads and checks a profile.
pub(super) fn profile(text: &str) -> Result<Profile, ProfileError> {
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(text.as_bytes()));
    if text.len() > PROFILE_BYTES_MAX {
        return Err(At::new(0..0, format!("a profile has at most {PROFILE_BYTES_MAX} bytes")).place(text));
    }
    let spec: Spec = toml::from_str(text).map_err(|error| {
        let mut message = error.message().lines().next().unwrap_or_default().to_string();
        if message.starts_with("unknown field") && message.contains("`present`") {
            message += "; a path with dots is written in quotes, \"a.b\"";
        }
        At::new(error.span().unwrap_or(0..0), message).place(text)
    })?;
    checked(&spec, text, &digest).map_err(|at| at.place(text))
}

fn checked(spec: &Spec, text: &str, digest: &str) -> Result<Profile, At> {
    let name = spec.name.get_ref();
    let is_name = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !is_name || name == "auto" || name.starts_with('-') {
        let message =
            format!("a name has 1 to {NAME_BYTES_MAX} lower-case letters, digits and dashes, and is not auto");
        return Err(At::new(spec.name.span(), message));
    }
    let source_kind = one_of(&spec.source_kind, SourceKind::ALL, SourceKind::as_str)?;
    if spec.rules.is_empty() || spec.rules.len() > RULES_MAX {
        return Err(At::new(spec.name.span(), format!("a profile has between 1 and {RULES_MAX} rules")));
    }
    let format = format(spec)?;
    let expand = spec.expand.iter().map(expand).collect::<Result<Vec<_>, At>>()?;
    let made: Vec<&str> = expand.iter().filter_map(|expand| expand.into.as_deref()).collect();
    if let (Some(twin), Some(at)) = (twin(&made), spec.expand.first()) {
        return Err(At::new(at.from.span(), format!("two expansions are called {twin}")));
    }
    let rules = spec.rules.iter().map(|given| rule(spec, given)).collect::<Result<Vec<_>, At>>()?;
    let entry_start = spec.entry_start.as_ref().map(regex).transpose()?;
    if let (Some(at), Format::Json | Format::Csv(_)) = (&spec.entry_start, &format) {
        return Err(At::new(at.span(), "entry_start is for formats of plain text"));
    }
    let source_name = spec.fields.0.iter().find(|(field, _)| field.get_ref() == "source_name");
    let source_name = source_name.and_then(|(_, given)| given.constant.as_ref().or(given.default.as_ref()));
    Ok(Profile {
        source_name: source_name.map_or(name, |given| &given.0).clone(),
        decoder: format!("{name}/{}#{}", spec.version, &digest[..12]),
        name: name.clone(),
        version: spec.version,
        digest: digest.into(),
        text: text.into(),
        title: spec.title.clone(),
        shape: spec.shape.clone(),
        seen_live: spec.seen_live,
        source_kind,
        format,
        entry_start,
        absent: spec.absent.clone(),
        recognise: Recognise {
            members: spec.recognise.members.clone(),
            priority: spec.recognise.priority,
            never: spec.recognise.never,
        },
        expand,
        rules,
    })
}

fn twin<'a>(names: &[&'a str]) -> Option<&'a str> {
    names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)).map(|(_, name)| *name)
}

fn format(spec: &Spec) -> Result<Format, At> {
    let at = spec.format.span();
    let dialect = match spec.format.get_ref().as_str() {
        "nginx" => Some(Dialect::Nginx),
        "apache" => Some(Dialect::Apache),
        "envoy" => Some(Dialect::Envoy),
        "postgres" => Some(Dialect::Postgres),
        _ => None,
    };
    let template = || {
        let missing = || At::new(at.clone(), format!("format {} needs a template", spec.format.get_ref()));
        spec.template.as_ref().ok_or_else(missing)
    };
    if let (None, "json" | "logfmt" | "csv", Some(extra)) = (dialect, spec.format.get_ref().as_str(), &spec.template) {
        return Err(At::new(extra.span(), "this format takes no template"));
    }
    match (dialect, spec.format.get_ref().as_str()) {
        (Some(dialect), _) => {
            let own: Vec<(String, String)> =
                spec.variables.0.iter().map(|(name, own)| (name.get_ref().clone(), own.get_ref().clone())).collect();
            let template = template()?;
            let compiled = Template::compile(dialect, template.get_ref(), &own);
            Ok(Format::Template(compiled.map_err(|message| At::new(template.span(), message))?))
        }
        (None, "json") => Ok(Format::Json),
        (None, "logfmt") => Ok(Format::Logfmt { equals_in_values: spec.equals_in_values }),
        (None, "csv") if spec.columns.is_empty() => Err(At::new(at, "format csv needs columns")),
        (None, "csv") => Ok(Format::Csv(spec.columns.iter().map(|column| column.get_ref().clone()).collect())),
        (None, "pattern") => {
            let template = template()?;
            let compiled = Template::of_pattern(template.get_ref());
            Ok(Format::Template(compiled.map_err(|message| At::new(template.span(), message))?))
        }
        _ => Err(At::new(at, "a format is json, logfmt, csv, pattern, nginx, apache, envoy or postgres")),
    }
}

fn expand(spec: &ExpandSpec) -> Result<Expand, At> {
    let from = path(&spec.from)?;
    let pattern = spec.pattern.as_ref().map(regex).transpose()?;
    let columns: Vec<String> = spec.columns.iter().map(|column| column.get_ref().clone()).collect();
    let how = match spec.how.get_ref().as_str() {
        "json" => How::Json,
        "logfmt" => How::Logfmt,
        "csv" if columns.is_empty() => return Err(At::new(spec.how.span(), "csv needs columns")),
        "csv" => How::Csv(columns),
        "captures" => {
            let is_named = pattern.as_ref().is_some_and(|pattern| pattern.capture_names().flatten().next().is_some());
            if !is_named {
                return Err(At::new(spec.how.span(), "captures need match with named groups"));
            }
            How::Captures
        }
        _ => return Err(At::new(spec.how.span(), "as is json, logfmt, csv or captures")),
    };
    if !matches!(how, How::Captures) && spec.into.is_none() {
        return Err(At::new(spec.how.span(), "into says how paths name the result, as @name"));
    }
    if let Some(into) = spec.into.as_ref().filter(|into| into.get_ref() == "item" || !is_word(into.get_ref())) {
        return Err(At::new(into.span(), "into is a word of letters, digits and _, and not item"));
    }
    Ok(Expand { from, how, pattern, into: spec.into.as_ref().map(|into| into.get_ref().clone()) })
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn rule(spec: &Spec, given: &RuleSpec) -> Result<Rule, At> {
    let kind = match given.kind.get_ref().as_str() {
        "mcp-request" => RuleKind::OfRequest,
        "mcp-response" => RuleKind::OfResponse,
        _ => RuleKind::Fixed(one_of(&given.kind, Kind::ALL, Kind::as_str)?),
    };
    let when = given
        .when
        .0
        .iter()
        .map(|(at, condition)| {
            let one = |text| Path::parse(text).map_err(|message| At::new(at.span(), message));
            let paths = at.get_ref().split('|').map(one).collect::<Result<_, At>>()?;
            Ok((paths, self::condition(at, condition)?))
        })
        .collect::<Result<Vec<_>, At>>()?;
    let captures = given
        .capture
        .iter()
        .map(|capture| Ok(Capture { from: path(&capture.from)?, pattern: regex(&capture.pattern)? }));
    let captures = captures.collect::<Result<Vec<_>, At>>()?;
    let fields = fields(spec, given)?;
    if !matches!(kind, RuleKind::Fixed(_)) && !fields.iter().any(|field| field.name == "name") {
        return Err(At::new(given.kind.span(), "this kind is told by the method, so the rule needs the field name"));
    }
    let mut attributes: Vec<(String, Arc<Extract>)> = Vec::new();
    for (name, extract) in given.attributes.0.iter().chain(&spec.attributes.0) {
        if !attributes.iter().any(|(known, _)| known == name.get_ref()) {
            attributes.push((name.get_ref().clone(), Arc::new(self::extract(name.span(), extract)?)));
        }
    }
    let keys = spec.key.iter().chain(&given.key).map(key).collect::<Result<Vec<_>, At>>()?;
    let each = given.each.as_ref().map(path).transpose()?;
    let expand = given.expand.iter().map(self::expand).collect::<Result<_, At>>()?;
    let (name, goes_on) = (given.name.get_ref().clone(), given.goes_on);
    Ok(Rule { name, kind, when, captures, each, expand, goes_on, fields, attributes, keys })
}

/// Those of the rule go before those of the whole profile.
fn fields(spec: &Spec, given: &RuleSpec) -> Result<Vec<Field>, At> {
    let mut fields: Vec<(usize, Field)> = Vec::new();
    for (name, extract) in given.fields.0.iter().chain(&spec.fields.0) {
        let position = target::position(name.get_ref());
        let position = position.ok_or_else(|| At::new(name.span(), unknown_field(name.get_ref())))?;
        if fields.iter().any(|(known, _)| *known == position) {
            continue;
        }
        let extract = self::extract(name.span(), extract)?;
        if extract.paths.is_empty() && extract.constant.is_none() && extract.template.is_none() {
            return Err(At::new(name.span(), "a field needs path, paths, const or template"));
        }
        if position == 0 && extract.form.is_none() {
            return Err(At::new(name.span(), "time needs a format"));
        }
        let (name, target) = TARGETS[position];
        fields.push((position, Field { name, target, extract: Arc::new(extract), is_required: false }));
    }
    for required in given.required.iter().chain(&spec.required) {
        let field = fields.iter_mut().find(|(_, field)| field.name == required.get_ref());
        let name = required.get_ref();
        let missing = || At::new(required.span(), format!("required names {name}, which is no field of this rule"));
        field.ok_or_else(missing)?.1.is_required = true;
    }
    fields.sort_by_key(|(position, _)| *position);
    Ok(fields.into_iter().map(|(_, field)| field).collect())
}

fn unknown_field(name: &str) -> String {
    let known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    format!("there is no field {name}; fields are {}", known.join(", "))
}

fn key(spec: &KeySpec) -> Result<KeyRule, At> {
    let kind = one_of(&spec.kind, KeyKind::ALL, KeyKind::as_str)?;
    let scope = spec.scope.as_ref().map(|scope| extract(spec.kind.span(), scope)).transpose()?;
    if kind.scoped() != scope.is_some() {
        let message =
            if kind.scoped() { "a key of this kind needs a scope" } else { "a key of this kind has no scope" };
        return Err(At::new(spec.kind.span(), message));
    }
    Ok(KeyRule { kind, scope, value: extract(spec.kind.span(), &spec.value)? })
}

/// `at` is the place of the field, for what has no place of its own.
fn extract(at: Range<usize>, spec: &ExtractSpec) -> Result<Extract, At> {
    let place = |text: &Text| if text.span().is_empty() { at.clone() } else { text.span() };
    let mut paths = Vec::new();
    for text in spec.path.iter().chain(&spec.paths) {
        paths.push(Path::parse(text.get_ref()).map_err(|message| At::new(place(text), message))?);
    }
    let ways = [!paths.is_empty(), spec.constant.is_some(), spec.template.is_some()];
    if ways.iter().filter(|is_used| **is_used).count() > 1 {
        return Err(At::new(at, "path, const and template exclude each other"));
    }
    let template = spec
        .template
        .as_ref()
        .map(|text| extract::template(text.get_ref()).map_err(|message| At::new(place(text), message)));
    let nano = |unit: &Text| match unit.get_ref().as_str() {
        "ns" => Ok(1),
        "us" => Ok(1_000),
        "ms" => Ok(1_000_000),
        "s" => Ok(1_000_000_000),
        _ => Err(At::new(place(unit), "a unit is ns, us, ms or s")),
    };
    let unit_nano = spec.unit.as_ref().map(nano);
    let precision_nano = spec.precision.as_ref().map(nano);
    let form =
        spec.format.as_ref().map(|form| Form::parse(form.get_ref()).map_err(|message| At::new(place(form), message)));
    let zone =
        spec.zone.as_ref().map(|zone| Zone::parse(zone.get_ref()).map_err(|message| At::new(place(zone), message)));
    let is_end = spec.stamped.as_ref().map(|stamped| match stamped.get_ref().as_str() {
        "start" => Ok(false),
        "end" => Ok(true),
        _ => Err(At::new(place(stamped), "stamped is start or end")),
    });
    let split =
        spec.split.iter().map(|split| Split::parse(split.get_ref()).map_err(|message| At::new(place(split), message)));
    if let Some(join) = spec.join.as_ref().filter(|join| join.get_ref().len() > SEPARATOR_BYTES_MAX) {
        return Err(At::new(place(join), format!("a separator has at most {SEPARATOR_BYTES_MAX} bytes")));
    }
    Ok(Extract {
        paths,
        constant: spec.constant.as_ref().map(|constant| constant.0.clone()),
        template: template.transpose()?,
        pattern: spec.pattern.as_ref().map(regex).transpose()?,
        map: spec.map.0.iter().map(|(from, to)| (from.get_ref().clone(), to.0.clone())).collect(),
        default: spec.default.as_ref().map(|default| default.0.clone()),
        unit_nano: unit_nano.transpose()?,
        form: form.transpose()?,
        zone: zone.transpose()?,
        precision_nano: precision_nano.transpose()?,
        is_end: is_end.transpose()?.unwrap_or(false),
        split: split.collect::<Result<_, At>>()?,
        sha256: spec.sha256,
        url_decode: spec.url_decode,
        lower: spec.lower,
        join: spec.join.as_ref().map(|join| join.get_ref().clone()),
        said: said(spec),
    })
}

/// For people: where a value comes from.
fn said(spec: &ExtractSpec) -> String {
    let paths: Vec<&str> = spec.path.iter().chain(&spec.paths).map(|path| path.get_ref().as_str()).collect();
    let from = match (&spec.constant, &spec.template) {
        (Some(constant), _) => format!("\"{}\"", constant.0),
        (None, Some(template)) => format!("\"{}\"", template.get_ref()),
        (None, None) => paths.join(" or "),
    };
    let mut steps = Vec::new();
    for (is_used, step) in [
        (spec.pattern.is_some(), "match"),
        (spec.url_decode, "url_decode"),
        (spec.lower, "lower"),
        (!spec.map.0.is_empty(), "map"),
        (spec.sha256, "sha256"),
        (!spec.split.is_empty(), "split"),
    ] {
        if is_used {
            steps.push(step);
        }
    }
    if steps.is_empty() { from } else { format!("{from}, {}", steps.join(", ")) }
}

fn condition(at: &Text, spec: &ConditionSpec) -> Result<Condition, At> {
    let matches = spec.matches.as_ref().map(regex).transpose()?;
    let condition = Condition {
        present: spec.present,
        any: spec.any.iter().map(|value| value.0.clone()).collect(),
        not: spec.not.iter().map(|value| value.0.clone()).collect(),
        prefix: spec.prefix.clone(),
        suffix: spec.suffix.clone(),
        contains: spec.contains.clone(),
        matches,
    };
    if condition.is_empty() {
        return Err(At::new(
            at.span(),
            "a condition needs a value, any, not, present, prefix, suffix, contains or matches",
        ));
    }
    Ok(condition)
}

fn path(text: &Text) -> Result<Path, At> {
    Path::parse(text.get_ref()).map_err(|message| At::new(text.span(), message))
}

fn regex(text: &Text) -> Result<regex::Regex, At> {
    template::compile(text.get_ref()).map_err(|message| At::new(text.span(), message))
}

fn one_of<T: Copy>(text: &Text, all: &[T], name: fn(T) -> &'static str) -> Result<T, At> {
    let unknown = || {
        let known: Vec<&str> = all.iter().map(|value| name(*value)).collect();
        At::new(text.span(), format!("unknown word {}, expected one of: {}", text.get_ref(), known.join(", ")))
    };
    all.iter().copied().find(|value| name(*value) == text.get_ref()).ok_or_else(unknown)
}
