//! Lookup, search, SQL, session reconstruction, HTTP API
