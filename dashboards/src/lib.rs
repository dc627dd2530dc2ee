//! Server-rendered pages over the query API
