//! Totals of a session, from records or from facts alike.

use std::collections::{BTreeMap, BTreeSet};

use threadline_schemas::{Kind, Record, SourceKind};

use crate::fact::{Fact, Facts, is_timed};
use crate::line::time_text;
use crate::model::SessionSummary;

/// What is counted of one record.
#[derive(Debug)]
pub(crate) struct TallyRow<'a> {
    /// From when to when; of facts, which do not know durations, the stamp.
    pub(crate) span: (i64, i64),
    pub(crate) timed: bool,
    pub(crate) kind: Kind,
    pub(crate) source_kind: SourceKind,
    pub(crate) source_name: &'a str,
    pub(crate) conversation: &'a str,
    pub(crate) agent: &'a str,
    pub(crate) authenticated: &'a str,
    pub(crate) claimed: &'a str,
    pub(crate) server: &'a str,
    pub(crate) tool: &'a str,
}

impl<'a> From<&'a Record> for TallyRow<'a> {
    fn from(record: &'a Record) -> Self {
        fn text(value: &Option<String>) -> &str {
            value.as_deref().unwrap_or_default()
        }
        TallyRow {
            span: record.span_unix_nano(),
            timed: is_timed(record),
            kind: record.kind,
            source_kind: record.source_kind,
            source_name: &record.source_name,
            conversation: text(&record.conversation_id),
            agent: text(&record.agent_name),
            authenticated: text(&record.user_authenticated),
            claimed: text(&record.user_claimed),
            server: text(&record.server_name),
            tool: text(&record.tool_name),
        }
    }
}

impl<'a> TallyRow<'a> {
    pub(crate) fn of(facts: &'a Facts, fact: &Fact) -> Self {
        TallyRow {
            span: (fact.time, fact.time),
            timed: fact.timed,
            kind: fact.kind,
            source_kind: fact.source_kind,
            source_name: facts.name(fact.source_name),
            conversation: facts.name(fact.conversation),
            agent: facts.name(fact.agent),
            authenticated: facts.name(fact.user_authenticated),
            claimed: facts.name(fact.user_claimed),
            server: facts.name(fact.server),
            tool: facts.name(fact.tool),
        }
    }
}

/// From the first time to the last; what only says when it was read counts where nothing says more.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Span {
    timed: Option<(i64, i64)>,
    read: Option<(i64, i64)>,
}

impl Span {
    pub(crate) fn add(&mut self, (start, end): (i64, i64), timed: bool) {
        let span = if timed { &mut self.timed } else { &mut self.read };
        *span = Some(span.map_or((start, end), |(from, to)| (from.min(start), to.max(end))));
    }

    pub(crate) fn get(&self) -> (i64, i64) {
        self.timed.or(self.read).unwrap_or_default()
    }
}

/// Sums over the records of one session.
#[derive(Debug, Default)]
pub(crate) struct Tally<'a> {
    span: Span,
    records: u64,
    rejected: u64,
    prompts: u64,
    calls: u64,
    coverage: BTreeMap<SourceKind, u64>,
    sources: BTreeMap<&'a str, u64>,
    conversations: BTreeSet<&'a str>,
    agents: BTreeSet<&'a str>,
    authenticated: BTreeSet<&'a str>,
    claimed: BTreeSet<&'a str>,
    /// Users that servers and downstream systems claim: often accounts of services.
    accounts: BTreeSet<&'a str>,
    servers: BTreeSet<&'a str>,
    tools: BTreeSet<&'a str>,
}

impl<'a> Tally<'a> {
    pub(crate) fn add(&mut self, row: &TallyRow<'a>) {
        self.span.add(row.span, row.timed);
        self.records += 1;
        self.rejected += u64::from(row.kind == Kind::Rejected);
        self.prompts += u64::from(row.kind == Kind::Prompt);
        self.calls += u64::from(row.kind == Kind::Selection);
        *self.coverage.entry(row.source_kind).or_default() += 1;
        *self.sources.entry(row.source_name).or_default() += 1;
        self.conversations.insert(row.conversation);
        self.agents.insert(row.agent);
        self.authenticated.insert(row.authenticated);
        let claimed = if row.source_kind.acts_for_others() { &mut self.accounts } else { &mut self.claimed };
        claimed.insert(row.claimed);
        self.servers.insert(row.server);
        if is_tool_use(row.kind) {
            self.tools.insert(row.tool);
        }
    }

    /// The summary. Prompts and calls are counted by kind here; a reconstruction knows better.
    pub(crate) fn summary(&self, id: &str) -> SessionSummary {
        let list = |names: &BTreeSet<&str>| -> Vec<String> {
            names.iter().filter(|name| !name.is_empty()).map(|name| name.to_string()).collect()
        };
        let (from, to) = self.span.get();
        let mut users = list(&self.authenticated);
        let claimed = list(&self.claimed).into_iter().filter(|user| !self.authenticated.contains(user.as_str()));
        users.extend(claimed);
        let mut acted_as: Vec<String> = list(&self.accounts);
        if users.is_empty() {
            users = std::mem::take(&mut acted_as);
        }
        acted_as.retain(|account| !users.contains(account));
        SessionSummary {
            id: id.into(),
            start: time_text(from),
            end: time_text(to),
            duration_nano: to.saturating_sub(from),
            conversation_ids: list(&self.conversations),
            agents: list(&self.agents),
            users,
            acted_as,
            servers: list(&self.servers),
            tools: list(&self.tools),
            prompts: self.prompts,
            calls: self.calls,
            records: self.records,
            rejected: self.rejected,
            coverage: self.coverage.iter().map(|(kind, count)| (kind.to_string(), *count)).collect(),
            sources: self.sources.iter().map(|(name, count)| (name.to_string(), *count)).collect(),
            ..SessionSummary::default()
        }
    }
}

/// Tools count when somebody chose, called or answered them, not when they were merely listed.
pub(crate) fn is_tool_use(kind: Kind) -> bool {
    matches!(kind, Kind::Selection | Kind::Call | Kind::Result | Kind::Decision | Kind::Approval)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(sides: &[(SourceKind, &str)]) -> (Vec<String>, Vec<String>) {
        let records: Vec<Record> = sides
            .iter()
            .enumerate()
            .map(|(n, (side, user))| {
                let mut record = Record::new("t", &n.to_string(), Kind::Log);
                (record.source_kind, record.user_claimed) = (*side, Some((*user).into()));
                record
            })
            .collect();
        let mut tally = Tally::default();
        records.iter().for_each(|record| tally.add(&TallyRow::from(record)));
        let summary = tally.summary("s");
        (summary.users, summary.acted_as)
    }

    #[test]
    fn whom_a_server_names_is_a_user_only_where_nobody_before_it_names_one() {
        use SourceKind::{Downstream, Gateway, Host, Server};
        let texts = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let all = [(Downstream, "svc_db"), (Server, "svc"), (Server, "ann"), (Gateway, "sub-1"), (Host, "ann")];
        assert_eq!(named(&all), (texts(&["ann", "sub-1"]), texts(&["svc", "svc_db"])));
        assert_eq!(named(&all[..3]), (texts(&["ann", "svc", "svc_db"]), texts(&[])));
    }
}
