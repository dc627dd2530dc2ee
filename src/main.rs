//! threadline
fn main() {}
