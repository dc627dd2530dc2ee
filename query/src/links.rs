//! Links: which record belongs to which, inside one session, each with grade, rule and the values
//! compared. Exact keys only; no scoring by content.
//!
//! | rule | from -> to | relation | grade |
//! | --- | --- | --- | --- |
//! | `response` | response frame -> its request: JSON-RPC id, connection, direction | result | proven from our tap, else matched |
//! | `progress` | notification -> the request with its token or id (progress, cancellation, subscription) | observation | proven from our tap, else matched |
//! | `http-exchange` | HTTP head or end -> the request it carries | observation | proven from our tap, else matched |
//! | `nested-span` | span -> parent span of the same tool-call id | observation | claimed |
//! | `tool-call-id` | frame -> the model's choice | execution | matched; claimed or inferred when the id is contested |
//! | `tool-call-id` | host's answer, verdict, telemetry -> the choice | result, decision, observation | claimed |
//! | `request-state` | call -> the `input_required` answer whose state it echoes | round | matched |
//! | `task` | poll, question or status of a task -> the request that was answered with its handle | observation | proven from our tap, else matched |
//! | `traceparent` | span -> the request that carried the same parent span | execution | matched |
//! | `client-span` | request -> the span that its `_meta.traceparent` names | execution | matched |
//! | `parent-span` | span -> the span it names | downstream, observation | claimed; matched when a frame carried it |
//! | `span-link` | span -> the span or request that a link of it names: its second parent | observation, execution | claimed |
//! | `only-open-call` | server's question, or line on its standard error -> the one call open on the connection | observation | inferred; ambiguous with several |
//! | `turn` | anything -> the prompt of the same turn id | prompt | claimed |
//! | `log-span` | log line -> the span it was written in | observation | claimed |
//! | `turn-trace` | anything -> the prompt whose trace it bears | prompt | claimed |
//! | `message-chain` | transcript line -> the prompt up its chain of messages | prompt | claimed |
//! | `same-line` | part -> the line it stands in | observation | proven from our tap, else matched |
//! | `same-turn` | second observation of a prompt -> the first | observation | claimed |
//! | `result-digest` | host's answer -> result frame: tool-call id and digest | observation | matched |
//! | `request-id` | telemetry of a model request -> the transcript's line | observation | claimed |
//! | judged | what the table `links` says, before all others | any | as stored |
//! | `contested-tool-call-id` | frame -> choices of several conversations | execution | ambiguous |
//!
//! Invariants
//! - the first rule of the table that applies gives the parent; the last four give none
//! - a prompt has no parent; an ambiguous link is nobody's parent
//! - links are a function of the records, not of their order

mod index;
mod rules;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use threadline_schemas::{Kind, Record};
use uuid::Uuid;

use crate::closure::Why;
use crate::judged::{Judged, Judgement};
use crate::model::{Compared, Grade, Link};
pub(crate) use index::{Index, is_telemetry, order};

/// What the closure found about keys in this session.
#[derive(Debug, Default, Clone)]
pub struct Contest {
    /// Texts of the keys that join nothing by themselves, and why.
    pub keys: BTreeMap<String, Why>,
    /// Records whose tool-call id fits several conversations: the choices that rival.
    pub rivals: HashMap<Uuid, Vec<Uuid>>,
    /// What the linker believes.
    pub judged: Option<Arc<Judged>>,
}

/// A link between two records of one session, by their places in the slice.
#[derive(Debug, Clone)]
pub struct Edge {
    /// Child.
    pub from: usize,
    /// Parent.
    pub to: usize,
    /// See [`Link::relation`].
    pub relation: &'static str,
    /// How sure.
    pub grade: Grade,
    /// Row of the table above.
    pub rule: &'static str,
    /// Probability; 1 for exact keys.
    pub score: f64,
    /// What was compared.
    pub compared: Vec<Compared>,
    /// Rivals, when ambiguous.
    pub candidates: Vec<usize>,
}

/// All links of a session.
#[derive(Debug, Default)]
pub struct Links {
    /// Every link found.
    pub edges: Vec<Edge>,
    /// For each record the link to its one parent, as an index of `edges`.
    pub parent: Vec<Option<usize>>,
    /// Links to records outside the session (rivals of a contested id).
    pub outside: Vec<Link>,
    /// What the linker believes about each record; empty where it believes nothing.
    pub judged: Vec<Option<Judgement>>,
}

impl Links {
    /// Takes over what the linker believes; its parents go before those of the table. Those that it judged into no session
    /// come back: they fill in where no rule of the table speaks.
    fn judge(&mut self, records: &[Record], contest: &Contest) -> HashMap<usize, Edge> {
        let mut alone = HashMap::new();
        let Some(judged) = &contest.judged else { return alone };
        self.judged = records.iter().map(|record| judged.of(record.event_id).cloned()).collect();
        let place: HashMap<Uuid, usize> =
            records.iter().enumerate().map(|(at, record)| (record.event_id, at)).collect();
        for (child, record) in records.iter().enumerate() {
            let Some(judgement) = &self.judged[child] else { continue };
            let original = judgement.duplicate_of.and_then(|to| place.get(&to).copied());
            let parent =
                judgement.parent.as_ref().and_then(|parent| Some((place.get(&parent.to).copied()?, parent.clone())));
            if let Some(to) = original.filter(|to| *to != child) {
                self.edges.push(Edge {
                    from: child,
                    to,
                    relation: "duplicate_of",
                    grade: Grade::Matched,
                    rule: "second-delivery",
                    score: 1.0,
                    compared: Vec::new(),
                    candidates: Vec::new(),
                });
            }
            if let Some((to, parent)) = parent.filter(|_| record.kind != Kind::Prompt) {
                let edge = Edge {
                    from: child,
                    to,
                    relation: parent.relation,
                    grade: parent.grade,
                    rule: parent.rule,
                    score: parent.score,
                    compared: parent.compared,
                    candidates: judgement.rivals.iter().filter_map(|rival| place.get(&rival.0).copied()).collect(),
                };
                if judgement.session.is_some() {
                    self.set_parent(edge);
                } else {
                    alone.insert(child, edge);
                }
            }
        }
        alone
    }

    fn set_parent(&mut self, edge: Edge) {
        if !leads_back(self, edge.to, edge.from) {
            self.parent[edge.from] = Some(self.edges.len());
            self.edges.push(edge);
        }
    }

    /// What the linker believes about a record.
    pub fn judgement(&self, record: usize) -> Option<&Judgement> {
        self.judged.get(record)?.as_ref()
    }

    /// The parent of a record.
    pub fn parent_of(&self, record: usize) -> Option<&Edge> {
        self.parent.get(record).copied().flatten().map(|edge| &self.edges[edge])
    }

    /// Ancestors of a record, nearest first; ends where a chain would repeat.
    pub fn ancestors(&self, record: usize) -> impl Iterator<Item = &Edge> {
        let mut at = record;
        let mut left = self.parent.len();
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let edge = self.parent_of(at)?;
            at = edge.to;
            Some(edge)
        })
    }
}

/// The links among `records`, which are one session.
pub fn links(records: &[Record], contest: &Contest) -> Links {
    let index = Index::of(records);
    let mut links = Links { parent: vec![None; records.len()], ..Links::default() };
    let mut alone = links.judge(records, contest);
    for (child, record) in records.iter().enumerate() {
        for (place, rule) in rules::RULES.iter().enumerate() {
            let Some(edge) = rule(&index, contest, child).filter(|edge| edge.to != child) else { continue };
            let is_parent = place < rules::PARENT_RULES
                && links.parent[child].is_none()
                && record.kind != Kind::Prompt
                && edge.grade < Grade::Ambiguous
                && !leads_back(&links, edge.to, child);
            links.edges.push(edge);
            if is_parent {
                links.parent[child] = Some(links.edges.len() - 1);
            }
        }
        match alone.remove(&child) {
            Some(edge) if links.parent[child].is_none() => links.set_parent(edge),
            // Another record is the parent by an exact key; the call is one all the same.
            Some(edge) => links.edges.push(edge),
            None => {}
        }
        if let Some(rivals) = contest.rivals.get(&record.event_id) {
            links.outside.extend(rules::contested(&index, child, rivals));
        }
    }
    links
}

/// Whether `child` is an ancestor of `from` already: ids that others wrote can form a ring.
fn leads_back(links: &Links, from: usize, child: usize) -> bool {
    from == child || links.ancestors(from).any(|edge| edge.to == child)
}

impl Edge {
    /// As the API shows it.
    pub fn link(&self, records: &[Record]) -> Link {
        let id = |at: usize| records[at].event_id.to_string();
        Link {
            from: id(self.from),
            to: id(self.to),
            relation: self.relation.into(),
            grade: self.grade,
            rule: self.rule.into(),
            score: self.score,
            compared: self.compared.clone(),
            candidates: self.candidates.iter().map(|at| id(*at)).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
