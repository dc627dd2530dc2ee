//! The records of one line, and the notes that go into their `attributes`.

use crate::columns::Record;
use crate::decode::budget::Budget;
use crate::decode::{Context, Line};
use crate::json::{Json, Member};
use crate::record::{Kind, Outcome};

/// Numbers the records of one line: the first is the line itself and carries its bytes.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) context: &'a Context<'a>,
    pub(crate) line: Line<'a>,
    decoder: &'static str,
    records: Vec<Record>,
    begun: usize,
    budget: Budget,
}

impl<'a> Parts<'a> {
    pub(crate) fn new(context: &'a Context<'a>, line: Line<'a>, decoder: &'static str) -> Self {
        Parts { context, line, decoder, records: Vec::new(), begun: 0, budget: Budget::default() }
    }

    /// The next record of the line. Give it back with [`Parts::push`].
    pub(crate) fn begin(&mut self, kind: Kind) -> Record {
        self.begun += 1;
        self.context.part(&self.line, self.begun - 1, kind, self.decoder)
    }

    /// A record for what could not be understood.
    pub(crate) fn begin_rejected(&mut self, reason: &str) -> Record {
        let mut record = self.begin(Kind::Rejected);
        record.outcome = Some(Outcome::Error);
        record.error_type = Some("rejected".into());
        record.text = Some(reason.into());
        record
    }

    pub(crate) fn push(&mut self, record: Record) {
        if self.budget.takes(&record) {
            self.records.push(record);
        }
    }

    /// Whether nothing more is taken: then a part is counted and need not be made.
    pub(crate) fn leaves_out(&mut self) -> bool {
        let is_spent = self.budget.is_spent();
        self.budget.leave_out(usize::from(is_spent));
        is_spent
    }

    /// Sets the text of the record pushed last.
    pub(crate) fn set_text(&mut self, text: String) {
        if let Some(record) = self.records.last_mut() {
            record.text = Some(text);
        }
    }

    /// Sets the kind of the record pushed last.
    pub(crate) fn set_kind(&mut self, kind: Kind) {
        if let Some(record) = self.records.last_mut() {
            record.kind = kind;
        }
    }

    /// Says how the record pushed last ended.
    pub(crate) fn set_outcome(&mut self, outcome: Outcome, error_type: &str) {
        if let Some(record) = self.records.last_mut() {
            record.outcome = Some(outcome);
            record.error_type = Some(error_type.into());
        }
    }

    /// The record of the line itself.
    pub(crate) fn first(&self) -> Option<&Record> {
        self.records.first()
    }

    /// Whether no record was begun yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.begun == 0
    }

    /// The records, the line itself first; a `gap` at the end says what there was too much of.
    pub(crate) fn finish(self) -> Vec<Record> {
        let Parts { context, line, decoder, mut records, begun, budget } = self;
        let gap = records.first().and_then(|first| budget.gap(context, &line, begun, decoder, first));
        records.extend(gap);
        records
    }
}

/// Members of `attributes` in the making.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attributes(Vec<Member>);

impl Attributes {
    pub(crate) fn put(&mut self, key: &str, value: Json) {
        self.0.push(Member { key: key.into(), value, span: 0..0 });
    }

    pub(crate) fn text(&mut self, key: &str, value: impl Into<String>) {
        self.put(key, Json::String(value.into()));
    }

    pub(crate) fn number(&mut self, key: &str, value: impl std::fmt::Display) {
        self.put(key, Json::Number(value.to_string().into()));
    }

    pub(crate) fn texts(&mut self, key: &str, values: Vec<String>) {
        if !values.is_empty() {
            self.put(key, Json::Array(values.into_iter().map(Json::String).collect()));
        }
    }

    /// What a recorder has to say.
    pub(crate) fn said(&mut self, notes: &[(&str, String)]) {
        notes.iter().for_each(|(key, value)| self.text(key, value.clone()));
    }

    /// Every member of an object but those that have a column.
    pub(crate) fn rest_of(&mut self, object: &Json, but: &[&str]) {
        self.0.extend(object.members().iter().filter(|member| !but.contains(&member.key.as_str())).cloned());
    }

    /// Writes them into a record.
    pub(crate) fn finish(self, record: &mut Record) {
        record.attributes = (!self.0.is_empty()).then(|| Json::Object(self.0).to_string());
    }
}
