//! `threadline demo`: a small recorded estate with an incident, loaded and served, and three questions
//! with the commands and pages that answer them.
//!
//! The recordings are real traffic of real programs (see `tests/captures`); the model's answers were
//! scripted and every name and key in them is invented.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use include_dir::{Dir, DirEntry, include_dir};

use super::record::Recording;
use super::serve::{Server, stop_signal};
use super::{DemoArguments, ServeArguments, import, output};

/// What the demo shows: an incident in Claude Code, an everyday session, a Codex session, an SDK client.
static ESTATE: &[(&str, Dir<'static>)] = &[
    ("claude-code/cc-1", include_dir!("$CARGO_MANIFEST_DIR/tests/captures/claude-code/cc-1")),
    ("claude-code/cc-2", include_dir!("$CARGO_MANIFEST_DIR/tests/captures/claude-code/cc-2")),
    ("codex/cx-1", include_dir!("$CARGO_MANIFEST_DIR/tests/captures/codex/cx-1")),
    ("pysdk-orders-otlp/py--o2", include_dir!("$CARGO_MANIFEST_DIR/tests/captures/pysdk-orders-otlp/py--o2")),
    (
        "pysdk-filesystem-stdio/fsinj--1",
        include_dir!("$CARGO_MANIFEST_DIR/tests/captures/pysdk-filesystem-stdio/fsinj--1"),
    ),
];

/// The conversation in which a ticket tells the agent to publish a secret.
const INCIDENT: &str = "309daf42-f826-415e-8b8f-6414e473e49e";

/// Loads the estate, serves it, prints the questions.
pub(crate) async fn run(arguments: DemoArguments) -> anyhow::Result<ExitCode> {
    let temporary = arguments.data.is_none().then(temporary_directory).transpose()?;
    let directory = match (&arguments.data, &temporary) {
        (Some(directory), _) => directory.clone(),
        (None, Some(temporary)) => temporary.0.join("data"),
        (None, None) => anyhow::bail!("no directory for the demo"),
    };
    if !arguments.no_serve {
        // Before anything is loaded: whoever has to choose another address hears of it at once.
        std::net::TcpListener::bind(arguments.listen)
            .with_context(|| format!("cannot serve on {}: choose another address with --listen", arguments.listen))?;
    }
    load(&directory).await?;
    if arguments.no_serve {
        questions(&directory, None);
        if let Some(temporary) = temporary {
            temporary.keep();
        }
        return Ok(ExitCode::SUCCESS);
    }
    let serve = ServeArguments {
        data: Some(directory.clone()),
        listen: arguments.listen,
        otlp_http: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        otlp_grpc: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        otlp_drop: None,
        tls_cert: None,
        tls_key: None,
        token_file: None,
        public_url: None,
        forward: None,
    };
    let stopped = stop_signal();
    let server = Server::start(&directory, &serve)
        .await
        .with_context(|| format!("cannot serve on {}: choose another address with --listen", arguments.listen))?;
    questions(&directory, Some(&format!("http://{}", server.listen)));
    stopped.await;
    server.stop().await?;
    Ok(ExitCode::SUCCESS)
}

async fn load(directory: &Path) -> anyhow::Result<()> {
    let unpacked = temporary_directory()?;
    for (name, files) in ESTATE {
        unpack(files, &unpacked.0.join(name))?;
    }
    let recording = Recording::open(directory, "demo").await?;
    let report =
        import::load(&recording, std::slice::from_ref(&unpacked.0), threadline_ingest::import::Options::default())
            .await;
    let ending = recording.close().await?;
    output::talk(&import::total(&report?, ending));
    Ok(())
}

/// Writes an embedded folder, flattening its paths to below `target`.
fn unpack(files: &Dir<'_>, target: &Path) -> anyhow::Result<()> {
    for entry in files.entries() {
        match entry {
            DirEntry::Dir(inner) => {
                let name = inner.path().file_name().context("an embedded folder has a name")?;
                unpack(inner, &target.join(name))?;
            }
            DirEntry::File(file) => {
                let name = file.path().file_name().context("an embedded file has a name")?;
                std::fs::create_dir_all(target)?;
                std::fs::write(target.join(name), file.contents())
                    .with_context(|| format!("cannot unpack the demo into {}", target.display()))?;
            }
        }
    }
    Ok(())
}

fn questions(directory: &Path, address: Option<&str>) {
    let place = address.map_or_else(|| format!("--data {}", directory.display()), |address| format!("--url {address}"));
    let page = |path: &str| address.map(|address| format!("\n     {address}{path}")).unwrap_or_default();
    if let Some(address) = address {
        output::talk(&format!("\nthreadline demo is at {address}   (stop with Ctrl-C)"));
    }
    output::talk(&format!(
        "\nSomebody found DEMO_KEY on the public status page. Three questions:

  1. Which session wrote it, and who asked for what?{}
     threadline search {place} 'public/status.html'

  2. What made the agent do it? Follow the session from the prompt to the effect.{}
     threadline session show {place} {INCIDENT}

  3. Did anything the agents chose get refused?{}
     threadline session list {place} --outcome denied",
        page("/search?q=public%2Fstatus.html"),
        page(&format!("/sessions/{INCIDENT}")),
        page("/sessions?outcome=denied"),
    ));
}

/// A directory that goes away when dropped, unless kept.
struct Temporary(PathBuf);

impl Temporary {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("cannot remove {}: {error}", self.0.display());
        }
    }
}

fn temporary_directory() -> anyhow::Result<Temporary> {
    use std::os::unix::fs::DirBuilderExt;
    let path = std::env::temp_dir().join(format!("threadline-demo-{}", uuid::Uuid::new_v4()));
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    Ok(Temporary(path))
}
