//! Everything that needs the whole program: one binary, because linking DataFusion once is enough.
//!
//! Tests run the built `threadline` as a person would: real processes, real sockets, real files.

// Figures and reasons of skipped tests belong on standard output.
#![allow(clippy::print_stdout)]

mod browser;
mod bundle;
mod captures;
mod collectors;
mod correlation;
mod durability;
mod export;
mod forward;
mod fuzz;
mod hostile;
mod joins;
mod kafka;
mod live;
mod otlp;
mod profiles;
mod proxy;
mod siem;
mod support;
mod tidy;
