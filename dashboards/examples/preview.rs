//! Shows the pages over made-up answers, to look at them while they are worked on.
//!
//! `cargo run -p threadline-dashboards --example preview -- 127.0.0.1:7799 [plain|hostile|empty|partial]`

use threadline_dashboards::{answers, router};

#[allow(dead_code, unreachable_pub, missing_docs)]
#[path = "../src/fixture.rs"]
mod fixture;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:7799".into());
    let flavour = match arguments.next().as_deref() {
        Some("hostile") => fixture::Flavour::Hostile,
        Some("empty") => fixture::Flavour::Empty,
        Some("partial") => fixture::Flavour::Partial,
        _ => fixture::Flavour::Plain,
    };
    let listener = tokio::net::TcpListener::bind(address).await?;
    eprintln!("http://{}/", listener.local_addr()?);
    axum::serve(listener, router(fixture::Fixture(flavour))).await
}
