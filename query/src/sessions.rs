//! The session list: filters over facts, pages in a fixed order.
//!
//! Newest start first, then by id. A cursor names the last session of its page, so sessions that come in
//! meanwhile appear before it and shift nothing.

use threadline_schemas::{Decision, Outcome};

use crate::cursor;
use crate::engine::{Engine, answer, completeness, note_left_out};
use crate::error::QueryError;
use crate::fact::{Fact, Facts};
use crate::index::{Indexed, Listed};
use crate::line::read_time;
use crate::model::{Answer, SessionFilter, SessionSummary};
use crate::session::{Tally, TallyRow};

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;

impl Engine {
    /// A page of the session list.
    pub async fn sessions(&self, filter: &SessionFilter) -> Result<Answer<Vec<SessionSummary>>, QueryError> {
        let wanted = Wanted::read(filter)?;
        let index = self.indexed().await?;
        let after: Option<(i64, String)> =
            filter.cursor.as_deref().map(|text| cursor::read(&wanted.question, text)).transpose()?;
        let limit = filter.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
        let work = {
            let index = index.clone();
            move || wanted.page(&index, after, limit)
        };
        let page = tokio::task::spawn_blocking(work).await.map_err(|_| QueryError::Interrupted)?;
        let wanted: Vec<u32> = page.sessions.iter().map(|listed| listed.session).collect();
        let summaries = self.summaries(&index, &wanted).await?;
        let mut completeness = completeness(&index.snapshot);
        note_left_out(&index, &mut completeness);
        completeness.searched_from = filter.from.clone();
        completeness.searched_to = filter.to.clone();
        let large = page.sessions.iter().filter(|listed| {
            index.closure.sessions[listed.session as usize].rows.len() > self.config().summary_records_max
        });
        let large = large.count();
        if large > 0 {
            completeness.notes.push(format!(
                "{large} sessions are large: their prompts, calls and errors are counted by kind of record, start and end are the first and last stamp"
            ));
        }
        if page.idle > 0 {
            completeness.notes.push(format!(
                "{} connections and traces without prompt, choice or call are not listed; all=true lists them",
                page.idle
            ));
        }
        Ok(answer(summaries, page.next, completeness))
    }
}

struct Page {
    sessions: Vec<Listed>,
    next: Option<String>,
    /// Idle ones that were passed over, in the whole list.
    idle: usize,
}

/// A filter, read.
#[derive(Debug)]
struct Wanted {
    question: String,
    user: Option<String>,
    agent: Option<String>,
    tool: Option<String>,
    server: Option<String>,
    outcome: Option<Outcome>,
    from: Option<i64>,
    to: Option<i64>,
    all: bool,
}

impl Wanted {
    fn read(filter: &SessionFilter) -> Result<Wanted, QueryError> {
        let time = |name, text: &Option<String>| text.as_deref().map(|text| read_time(name, text)).transpose();
        let outcome = |text: &String| {
            Outcome::parse(text).ok_or_else(|| {
                let known: Vec<&str> = Outcome::ALL.iter().map(|outcome| outcome.as_str()).collect();
                QueryError::parameter("outcome", format!("expected one of: {}", known.join(", ")))
            })
        };
        let question = serde_json::json!([
            "sessions",
            filter.user,
            filter.agent,
            filter.tool,
            filter.server,
            filter.outcome,
            filter.from,
            filter.to,
            filter.all
        ]);
        Ok(Wanted {
            question: question.to_string(),
            user: filter.user.clone(),
            agent: filter.agent.clone(),
            tool: filter.tool.clone(),
            server: filter.server.clone(),
            outcome: filter.outcome.as_ref().map(outcome).transpose()?,
            from: time("from", &filter.from)?,
            to: time("to", &filter.to)?,
            all: filter.all.unwrap_or(false),
        })
    }

    fn page(&self, index: &Indexed, after: Option<(i64, String)>, limit: usize) -> Page {
        let id = |listed: &Listed| index.closure.sessions[listed.session as usize].id.as_str();
        let start = after.map_or(0, |(start, last)| {
            index.order.partition_point(|listed| {
                listed.start > start || (listed.start == start && id(listed) <= last.as_str())
            })
        });
        let mut page = Page { sessions: Vec::new(), next: None, idle: 0 };
        for (place, listed) in index.order.iter().enumerate() {
            if !self.all && !listed.active {
                page.idle += 1;
                continue;
            }
            if place < start || page.next.is_some() || !self.admits(index, listed) {
                continue;
            }
            if page.sessions.len() == limit {
                let last = page.sessions[limit - 1];
                page.next = Some(cursor::write(&self.question, &(last.start, id(&last))));
                continue;
            }
            page.sessions.push(*listed);
        }
        page
    }

    fn admits(&self, index: &Indexed, listed: &Listed) -> bool {
        if self.from.is_some_and(|from| listed.end < from) || self.to.is_some_and(|to| listed.start >= to) {
            return false;
        }
        let view = index.view();
        let rows = &index.closure.sessions[listed.session as usize].rows;
        let any = |test: &dyn Fn(&Facts, &Fact) -> bool| {
            rows.iter().any(|at| {
                let (facts, fact) = view.at(*at);
                test(facts, fact)
            })
        };
        let named = |wanted: &Option<String>, names: &dyn Fn(&Fact) -> [u32; 2]| {
            wanted
                .as_deref()
                .is_none_or(|wanted| any(&|facts, fact| names(fact).iter().any(|id| facts.name(*id) == wanted)))
        };
        named(&self.user, &|fact| [fact.user_claimed, fact.user_authenticated])
            && named(&self.agent, &|fact| [fact.agent, fact.agent])
            && named(&self.server, &|fact| [fact.server, fact.server])
            && match (self.tool.as_deref(), self.outcome) {
                (None, None) => true,
                (Some(tool), None) => {
                    any(&|facts, fact| crate::session::is_tool_use(fact.kind) && facts.name(fact.tool) == tool)
                }
                (None, Some(outcome)) => any(&|_, fact| ended(fact, outcome)),
                // Both of one call: that tool, ended so.
                (Some(tool), Some(outcome)) => {
                    any(&|facts, fact| facts.name(fact.tool) == tool && ended(fact, outcome))
                }
            }
    }
}

/// Whether a record says that a call ended so.
fn ended(fact: &Fact, outcome: Outcome) -> bool {
    let refused = outcome == Outcome::Denied && fact.decision == Some(Decision::Deny);
    let cancelled = outcome == Outcome::Cancelled && fact.kind == threadline_schemas::Kind::Notification;
    fact.outcome == Some(outcome) && (crate::session::is_tool_use(fact.kind) || cancelled) || refused
}

/// Totals from facts alone.
pub(crate) fn counted(index: &Indexed, session: u32) -> SessionSummary {
    let closed = &index.closure.sessions[session as usize];
    let view = index.view();
    let mut tally = Tally::default();
    for at in &closed.rows {
        let (facts, fact) = view.at(*at);
        tally.add(&TallyRow::of(facts, fact));
    }
    tally.summary(&closed.id)
}
