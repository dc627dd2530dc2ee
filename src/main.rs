//! threadline: follows the thread of an AI agent's action from the prompt that caused it to the
//! effect it had. This file only wires: arguments in, one command out.

mod cli;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

// Bodies of many megabytes come and go on many threads; glibc keeps an arena for each and gives little of it back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long a thread for blocking work waits for more. What other threads free of a thread's memory comes back when it asks
/// for more or ends: a pool of idle threads would keep many megabytes each.
const IDLE_MAX: Duration = Duration::from_millis(10);

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    cli::logging(arguments.verbose);
    // Two TLS providers end up in one binary (ring here, aws-lc-rs in a dependency): rustls refuses
    // to guess, so the choice is made before anything else. A second install is the same choice.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime.enable_all().thread_keep_alive(IDLE_MAX).build() {
        Ok(runtime) => runtime,
        Err(error) => return cli::failed(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    let code = match runtime.block_on(cli::run(arguments)) {
        Ok(code) => code,
        Err(error) => cli::failed(&error),
    };
    runtime.shutdown_timeout(Duration::from_secs(2));
    code
}
