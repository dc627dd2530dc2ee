//! Source profiles: a log format described in TOML, and the decoder that reads lines by it.
//!
//! ```text
//! line(s) -> entry (json | logfmt | csv | template) -> expand -> first rule that fits -> record(s)
//! ```
//!
//! Invariants
//! - a profile is checked as a whole when it is loaded; a word that is unknown is an error with line and column
//! - every line is in a record: an entry that no rule fits, or that lacks a required field, is `rejected` with the reason
//! - lines of one entry (a quoted line break, an indented statement) make one record: raw holds all of them, `origin_line`
//!   the first, `threadline.lines` how many; an entry has at most [`ENTRY_LINES_MAX`] lines and [`ENTRY_BYTES_MAX`] bytes
//! - all matching is linear in the line; a profile holds no code
//! - `decoder` of a record is `<name>/<version>#<first 12 digits of the SHA-256 of the profile>`
//!
//! Not here: which profile a file is of (`recognise`), where profiles are kept ([`catalogue`]).

mod catalogue;
mod compile;
mod condition;
mod entry;
mod error;
mod explain;
mod extract;
mod map;
mod path;
mod rule;
mod spec;
mod target;
mod template;
#[cfg(test)]
mod tests;
mod time;

use std::cell::RefCell;
use std::sync::Arc;

use regex::Regex;

pub use self::catalogue::{Catalogue, CatalogueError};
use self::entry::Entry;
pub use self::error::ProfileError;
pub use self::explain::{Explained, Explaining, FieldShown};
use self::extract::{Made, Scope};
use self::map::Mapping;
use self::rule::{Expand, Rule, RuleKind};
use self::template::Template;
use super::budget::Budget;
use super::{Context, Line, LineDecoder};
use crate::columns::Record;
use crate::json::Json;
use crate::limits::profile::{AFTER_OPEN_QUOTE_MAX, EACH_MAX, ENTRY_BYTES_MAX, ENTRY_LINES_MAX};
use crate::record::{Kind, SourceKind};

/// A log format, ready to read lines.
#[derive(Debug)]
pub struct Profile {
    name: String,
    version: u32,
    digest: String,
    text: String,
    decoder: String,
    title: String,
    shape: String,
    seen_live: bool,
    source_kind: SourceKind,
    /// Of what does not say it: the constant or default of the whole profile, else its name.
    source_name: String,
    format: Format,
    entry_start: Option<Regex>,
    absent: Vec<String>,
    recognise: Recognise,
    expand: Vec<Expand>,
    rules: Vec<Rule>,
}

#[derive(Debug)]
enum Format {
    Json,
    Logfmt { equals_in_values: bool },
    Csv(Vec<String>),
    Template(Template),
}

#[derive(Debug)]
struct Recognise {
    members: Vec<String>,
    priority: i32,
    never: bool,
}

/// The records of one entry in the making.
struct Making<'m> {
    context: &'m Context<'m>,
    line: &'m Line<'m>,
    lines: usize,
    made: Vec<Ruled>,
    budget: Budget,
}

/// A record and the rule that made it or refused the line.
struct Ruled {
    record: Record,
    rule: Option<usize>,
}

impl Profile {
    /// Reads and checks the TOML of a profile.
    ///
    /// # Errors
    /// The first mistake, with its place.
    pub fn parse(text: &str) -> Result<Profile, ProfileError> {
        compile::profile(text)
    }

    /// Its name, for `--as`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version, raised when it reads a line differently.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// SHA-256 of its text, hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The TOML it was read from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Name, version and digest as records carry them.
    pub fn decoder(&self) -> &str {
        &self.decoder
    }

    /// What it reads, in one line.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Where its shape is known from.
    pub fn shape(&self) -> &str {
        &self.shape
    }

    /// Whether it was made from lines that the program itself wrote, not from its source or documents.
    pub fn is_seen_live(&self) -> bool {
        self.seen_live
    }

    /// Side of the call the source stands on.
    pub fn source_kind(&self) -> SourceKind {
        self.source_kind
    }

    /// The rules' names, in the order in which they are tried.
    pub fn rules(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.name.as_str())
    }

    /// Higher goes first where several profiles read a file equally well.
    pub(super) fn priority(&self) -> i32 {
        self.recognise.priority
    }

    /// Whether a file can be recognised as its.
    pub(super) fn is_recognisable(&self) -> bool {
        !self.recognise.never
    }

    /// Members that a JSON line must have to be looked at; `None` for other formats.
    pub(super) fn json_members(&self) -> Option<&[String]> {
        matches!(self.format, Format::Json).then_some(&self.recognise.members)
    }

    /// The records of one entry.
    fn entry(&self, context: &Context<'_>, line: &Line<'_>, lines: usize) -> Vec<Ruled> {
        let rejected = |reason: &str, rule| vec![Ruled { record: self.rejected(context, line, lines, reason), rule }];
        let (text, damage) = entry::readable(line.bytes);
        if text.trim().is_empty() {
            return rejected(damage.as_deref().unwrap_or("an empty line"), None);
        }
        let mut entry = match self.read(&text) {
            Ok(entry) => entry,
            Err(reason) => return rejected(&reason, None),
        };
        entry.damage = damage.or(entry.damage);
        let mut made = Vec::new();
        let mut used = Vec::new();
        for expand in &self.expand {
            let mut new = Vec::new();
            used.extend(expand.apply(&entry.root, None, &made, &mut new));
            made.append(&mut new);
        }
        let scope = Scope {
            line: &text,
            root: &entry.root,
            made: &made,
            captures: &[],
            item: None,
            absent: &self.absent,
            used: RefCell::new(used),
        };
        if entry.unread.is_some() {
            return vec![Ruled { record: self.interrupted(context, line, lines, &entry, &scope), rule: None }];
        }
        let mut making = Making { context, line, lines, made: Vec::new(), budget: Budget::default() };
        for (index, rule) in self.rules.iter().enumerate() {
            let Some(captures) = rule.fits(&scope) else { continue };
            if let Err(reason) = self.records(&mut making, &entry, (index, rule), &scope, captures) {
                return rejected(entry.damage.as_deref().unwrap_or(&reason), Some(index));
            }
            if !rule.goes_on {
                break;
            }
        }
        let Making { mut made, budget, .. } = making;
        let Some(first) = made.first() else {
            return rejected(entry.damage.as_deref().unwrap_or("no rule of the profile fits"), None);
        };
        let gap = budget.gap(context, line, made.len(), &self.decoder, &first.record);
        made.extend(gap.map(|record| Ruled { record, rule: None }));
        made
    }

    /// Adds the records that a rule makes of an entry.
    fn records(
        &self,
        making: &mut Making<'_>,
        entry: &Entry,
        (index, rule): (usize, &Rule),
        scope: &Scope<'_>,
        mut captures: Vec<Made>,
    ) -> Result<(), String> {
        let captured = captures.len();
        let items = rule.items(scope);
        making.budget.leave_out(items.len().saturating_sub(EACH_MAX));
        for item in items.into_iter().take(EACH_MAX) {
            if making.budget.is_spent() {
                making.budget.leave_out(1);
                continue;
            }
            captures.truncate(captured);
            let mut used: Vec<&Json> = scope.used.borrow().clone();
            if item.is_some() {
                // Its siblings have records of their own.
                used.extend(
                    self.rules.iter().filter_map(|rule| scope.first(rule.each.as_ref()?)).map(|each| each.json),
                );
            }
            for expand in &rule.expand {
                let mut new = Vec::new();
                used.extend(expand.apply(scope.root, item, &captures, &mut new));
                captures.append(&mut new);
            }
            let scope = Scope {
                line: scope.line,
                root: scope.root,
                made: scope.made,
                captures: &captures,
                item,
                absent: scope.absent,
                used: RefCell::new(used),
            };
            let kind = if let RuleKind::Fixed(kind) = rule.kind { kind } else { Kind::Request };
            let mut record = making.context.part(making.line, making.made.len(), kind, &self.decoder);
            record.source_kind = self.source_kind;
            record.source_name.clone_from(&self.source_name);
            let mut mapping = Mapping::new(making.context, &scope, record, !matches!(self.format, Format::Json));
            mapping.apply(rule)?;
            self.about(&mut mapping, entry, making.lines);
            let record = mapping.finish();
            if making.budget.takes(&record) {
                making.made.push(Ruled { record, rule: Some(index) });
            }
        }
        Ok(())
    }

    /// A line whose beginning reads as fields and whose rest does not, as after a raw line break inside a value. It says
    /// something, so it is kept; it is no event, because anybody whose text gets into the log could have written it.
    fn interrupted(
        &self,
        context: &Context<'_>,
        line: &Line<'_>,
        lines: usize,
        entry: &Entry,
        scope: &Scope<'_>,
    ) -> Record {
        let mut record = context.record(line, Kind::Log, &self.decoder);
        record.source_kind = self.source_kind;
        record.source_name.clone_from(&self.source_name);
        record.error_type = Some("stray_text".into());
        let mut mapping = Mapping::new(context, scope, record, true);
        self.about(&mut mapping, entry, lines);
        mapping.finish()
    }

    fn about(&self, mapping: &mut Mapping<'_, '_>, entry: &Entry, lines: usize) {
        if lines > 1 {
            mapping.number("threadline.lines", lines as i64);
        }
        if let Some(unread) = &entry.unread {
            mapping.note("threadline.unread", unread);
        }
        mapping.notes("threadline.duplicate_keys", &entry.duplicate_keys);
        if let Some(reason) = &entry.damage {
            mapping.reject(reason);
        }
    }

    fn read(&self, text: &str) -> Result<Entry, String> {
        match &self.format {
            Format::Json => entry::json_object(text),
            Format::Logfmt { equals_in_values } => entry::logfmt(text, *equals_in_values),
            Format::Csv(columns) => entry::csv_object(text, columns),
            Format::Template(template) => template.read(text.strip_suffix('\r').unwrap_or(text)),
        }
    }

    fn rejected(&self, context: &Context<'_>, line: &Line<'_>, lines: usize, reason: &str) -> Record {
        let mut record = context.rejected(line, &self.decoder, reason);
        record.source_kind = self.source_kind;
        record.source_name.clone_from(&self.source_name);
        if lines > 1 {
            record.attributes = Some(format!("{{\"threadline.lines\":{lines}}}"));
        }
        record
    }
}

/// Reads the lines of one file by a profile.
#[derive(Debug)]
pub struct ProfileDecoder {
    profile: Arc<Profile>,
    held: Option<Held>,
    is_specific: bool,
    /// Lines to come that may be part of a value.
    doubted: usize,
    /// Of the last line that could be read.
    source_name: Option<String>,
}

/// Lines of an entry that may go on.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    lines: usize,
    file: Option<String>,
    number: i64,
    delivery_key: String,
}

impl Held {
    fn of(line: &Line<'_>) -> Held {
        Held {
            bytes: line.bytes.to_vec(),
            lines: 1,
            file: line.file.map(str::to_string),
            number: line.number,
            delivery_key: line.delivery_key.into(),
        }
    }

    fn line(&self) -> Line<'_> {
        Line { bytes: &self.bytes, file: self.file.as_deref(), number: self.number, delivery_key: &self.delivery_key }
    }

    fn has_room(&self, bytes: &[u8]) -> bool {
        self.lines < ENTRY_LINES_MAX && self.bytes.len() + bytes.len() < ENTRY_BYTES_MAX
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.push(b'\n');
        self.bytes.extend_from_slice(bytes);
        self.lines += 1;
    }
}

impl ProfileDecoder {
    /// For one file.
    pub fn new(profile: Arc<Profile>) -> Self {
        ProfileDecoder { profile, held: None, is_specific: false, doubted: 0, source_name: None }
    }

    /// Whether a record was made by a rule that asks for more than that the line can be read, or of a line whose form alone
    /// says what it is.
    pub(super) fn is_specific(&self) -> bool {
        self.is_specific
    }

    fn decode(&mut self, context: &Context<'_>, line: &Line<'_>) -> Vec<Ruled> {
        match (&self.profile.format, &self.profile.entry_start) {
            (Format::Csv(_), _) => self.csv_line(context, line),
            (_, Some(_)) => self.text_line(context, line),
            (_, None) => self.entry(context, line, 1),
        }
    }

    fn entry(&mut self, context: &Context<'_>, line: &Line<'_>, lines: usize) -> Vec<Ruled> {
        let mut ruled = self.profile.entry(context, line, lines);
        if matches!(self.profile.format, Format::Logfmt { .. }) {
            self.doubt(&mut ruled);
        }
        for Ruled { record, rule } in &mut ruled {
            if rule.is_some() && record.kind != Kind::Rejected {
                self.source_name.replace(record.source_name.clone());
            } else if record.source_name == self.profile.source_name {
                // It says nothing of its own, so it is of the source of the lines around it.
                self.source_name.iter().for_each(|known| record.source_name.clone_from(known));
            }
        }
        let is_form = !matches!(self.profile.format, Format::Json | Format::Logfmt { .. });
        let asks = |index: usize| is_form || self.profile.rules[index].is_specific();
        self.is_specific |=
            ruled.iter().any(|ruled| ruled.record.kind != Kind::Rejected && ruled.rule.is_some_and(asks));
        ruled
    }

    /// A raw line break inside a quoted value leaves an open quote, and whoever wrote the value may have written the next
    /// lines: they are marked.
    fn doubt(&mut self, ruled: &mut [Ruled]) {
        let is_open = |ruled: &Ruled| ruled.record.text.as_deref() == Some(entry::OPEN_QUOTE);
        if ruled.iter().any(|ruled| ruled.record.kind == Kind::Rejected && is_open(ruled)) {
            self.doubted = AFTER_OPEN_QUOTE_MAX;
        } else if self.doubted > 0 {
            self.doubted -= 1;
            for Ruled { record, .. } in ruled {
                let said = record.attributes.take().unwrap_or_else(|| "{}".into());
                let members = said.trim_start_matches('{').trim_end_matches(char::is_whitespace);
                let comma = if members == "}" { "" } else { "," };
                record.attributes = Some(format!("{{\"threadline.after_open_quote\":true{comma}{members}"));
            }
        }
    }

    fn flush(&mut self, context: &Context<'_>) -> Vec<Ruled> {
        let Some(held) = self.held.take() else { return Vec::new() };
        self.entry(context, &held.line(), held.lines)
    }

    /// Lines that belong together because a quote is still open.
    fn csv_line(&mut self, context: &Context<'_>, line: &Line<'_>) -> Vec<Ruled> {
        let mut records = Vec::new();
        match &mut self.held {
            None if entry::csv_is_complete(line.bytes) => return self.entry(context, line, 1),
            None => {
                self.held = Some(Held::of(line));
                return records;
            }
            Some(held) if held.has_room(line.bytes) => {
                held.push(line.bytes);
                if entry::csv_is_complete(&held.bytes) {
                    records.extend(self.flush(context));
                }
                return records;
            }
            Some(_) => {}
        }
        // Too long to be an entry: refused, and reading starts again with this line.
        records.extend(self.flush(context));
        records.extend(self.csv_line(context, line));
        records
    }

    /// Lines that do not begin an entry go on with the one before.
    fn text_line(&mut self, context: &Context<'_>, line: &Line<'_>) -> Vec<Ruled> {
        let start = self.profile.entry_start.as_ref();
        let is_start = start.is_none_or(|start| std::str::from_utf8(line.bytes).is_ok_and(|text| start.is_match(text)));
        if !is_start
            && let Some(held) = &mut self.held
            && held.has_room(line.bytes)
        {
            held.push(line.bytes);
            return Vec::new();
        }
        let records = self.flush(context);
        self.held = Some(Held::of(line));
        records
    }
}

impl LineDecoder for ProfileDecoder {
    fn line(&mut self, context: &Context<'_>, line: Line<'_>) -> Vec<Record> {
        self.decode(context, &line).into_iter().map(|ruled| ruled.record).collect()
    }

    fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    fn finish(&mut self, context: &Context<'_>) -> Vec<Record> {
        self.flush(context).into_iter().map(|ruled| ruled.record).collect()
    }

    fn takes_empty_lines(&self) -> bool {
        true
    }
}
