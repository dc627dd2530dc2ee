//! Lookup, search, SQL, session reconstruction, HTTP API

pub mod model;
