//! What the pages ask: the reading side behind one small interface, so that pages can be shown over
//! anything that answers in the model's words.
//!
//! Not here: how answers are found (`threadline_query`).

use std::future::Future;
use std::sync::Arc;

use threadline_query::forward::SinkStatus;
use threadline_query::model::{Answer, Event, Hit, SearchQuestion, Session, SessionFilter, SessionSummary};
use threadline_query::sources::SourceSummary;
use threadline_query::{Engine, QueryError, SessionOptions};

/// Why there is no answer. Messages name ids and limits, never content.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nothing is stored under this id.
    #[error("nothing is stored under this id")]
    NotFound,
    /// Nothing of it was there at the moment asked for.
    #[error("{0}")]
    NotYet(String),
    /// The id occurs in several sessions.
    #[error("this id occurs in {} sessions", sessions.len())]
    Several {
        /// Their ids.
        sessions: Vec<String>,
    },
    /// A record is there, its bytes are not.
    #[error("no bytes are kept for this record")]
    NoBytes,
    /// The question cannot be understood.
    #[error("{0}")]
    Question(String),
    /// Too much at once; the same question may work later.
    #[error("{0}")]
    Busy(String),
    /// The store could not be read.
    #[error("the store could not be read")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Everything the pages ask.
pub trait Answers: Clone + Send + Sync + 'static {
    /// A page of the session list.
    fn sessions(
        &self,
        filter: SessionFilter,
    ) -> impl Future<Output = Result<Answer<Vec<SessionSummary>>, ReadError>> + Send;
    /// A session, from any id that belongs to it, at a grade and as believed at a moment.
    fn session(
        &self,
        id: &str,
        options: &SessionOptions,
    ) -> impl Future<Output = Result<Answer<Session>, ReadError>> + Send;
    /// A record, by its event id.
    fn event(&self, id: &str) -> impl Future<Output = Result<Answer<Event>, ReadError>> + Send;
    /// The exact bytes of a record, after redaction; empty when it has none.
    fn event_raw(&self, id: &str) -> impl Future<Output = Result<Vec<u8>, ReadError>> + Send;
    /// A page of a text search.
    fn search(&self, question: SearchQuestion) -> impl Future<Output = Result<Answer<Vec<Hit>>, ReadError>> + Send;
    /// Who sends, the one heard last first.
    fn sources(&self) -> impl Future<Output = Result<Answer<Vec<SourceSummary>>, ReadError>> + Send;
    /// Where records are forwarded to.
    fn forward(&self) -> impl Future<Output = Result<Answer<Vec<SinkStatus>>, ReadError>> + Send;
}

impl Answers for Arc<Engine> {
    async fn sessions(&self, filter: SessionFilter) -> Result<Answer<Vec<SessionSummary>>, ReadError> {
        Ok(Engine::sessions(self, &filter).await?)
    }

    async fn session(&self, id: &str, options: &SessionOptions) -> Result<Answer<Session>, ReadError> {
        Ok(Engine::session(self, id, options).await?)
    }

    async fn event(&self, id: &str) -> Result<Answer<Event>, ReadError> {
        Ok(Engine::event(self, id).await?)
    }

    async fn event_raw(&self, id: &str) -> Result<Vec<u8>, ReadError> {
        Ok(Engine::event_raw(self, id).await?)
    }

    async fn search(&self, question: SearchQuestion) -> Result<Answer<Vec<Hit>>, ReadError> {
        Ok(Engine::search(self, &question).await?)
    }

    async fn sources(&self) -> Result<Answer<Vec<SourceSummary>>, ReadError> {
        Ok(Engine::sources(self).await?)
    }

    async fn forward(&self) -> Result<Answer<Vec<SinkStatus>>, ReadError> {
        Ok(Engine::forward(self).await?)
    }
}

impl From<QueryError> for ReadError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::NotFound { .. } => ReadError::NotFound,
            QueryError::NotYet { .. } => ReadError::NotYet(error.to_string()),
            QueryError::NoRaw { .. } => ReadError::NoBytes,
            QueryError::SeveralSessions { sessions, .. } => ReadError::Several { sessions },
            QueryError::Parameter { .. } => ReadError::Question(error.to_string()),
            QueryError::Busy { .. } | QueryError::Timeout { .. } => ReadError::Busy(error.to_string()),
            other => ReadError::Failed(Box::new(other)),
        }
    }
}
