//! Tokens of collectors: made, listed and revoked by `threadline token`, asked for by a server that listens beyond this
//! machine.
//!
//! Invariants
//! - a token is shown once, when it is made; only its SHA-256 is kept (it has 256 random bits, so nothing slower is needed)
//! - a token of scope `collect` sends records and reads nothing
//! - a change counts from the next request on, without a restart; a file that cannot be read lets nobody in
//!
//! On disk: `keys/tokens.json` of the data directory, mode 0600,
//! `{"version":1,"tokens":[{"name":…,"scope":"collect","sha256":…,"created":…}]}`.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use threadline_store::durable;

use super::output::{self, Column};
use super::{TokenArguments, TokenCommand, data_directory};

const VERSION: u32 = 1;
/// The only scope there is.
const COLLECT: &str = "collect";
/// So that a token is recognised where it does not belong.
const PREFIX: &str = "tlc_";
const NAME_CHARS_MAX: usize = 64;
const TOKENS_MAX: usize = 10_000;

const COLUMNS: &[Column] = &[("NAME", "name"), ("SCOPE", "scope"), ("CREATED", "created")];

/// A token, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    name: String,
    scope: String,
    sha256: String,
    created: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct TokensFile {
    version: u32,
    tokens: Vec<Token>,
}

/// What tells one state of the file from another; `None` where there is none.
type Stamp = Option<(u64, i64, i64, u64)>;

/// The tokens of a data directory.
#[derive(Debug)]
pub(crate) struct Tokens {
    path: PathBuf,
    known: Mutex<Option<(Stamp, Arc<Vec<Token>>)>>,
}

impl Tokens {
    /// Those of `directory`; they are read when asked for.
    pub(crate) fn of(directory: &Path) -> Tokens {
        Tokens { path: directory.join("keys").join("tokens.json"), known: Mutex::default() }
    }

    /// As they are now.
    pub(crate) fn list(&self) -> anyhow::Result<Arc<Vec<Token>>> {
        let stamp = self.stamp()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, tokens)) = known.as_ref()
            && *of == stamp
        {
            return Ok(Arc::clone(tokens));
        }
        let tokens = Arc::new(self.read()?);
        *known = Some((stamp, Arc::clone(&tokens)));
        Ok(tokens)
    }

    /// Whether `given` is one of them.
    pub(crate) fn knows(&self, given: &str) -> bool {
        let digest = digest(given);
        // Digests of equal tokens are equal and say nothing about others, so the comparison may end early.
        self.list().is_ok_and(|tokens| tokens.iter().any(|token| token.scope == COLLECT && token.sha256 == digest))
    }

    /// Makes a token; the only time that it is seen.
    pub(crate) fn add(&self, name: &str, now: &str) -> anyhow::Result<String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(fits) {
            bail!("a name has 1 to {NAME_CHARS_MAX} letters, digits, '-', '_' and '.'");
        }
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).context("no random numbers")?;
        let secret = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(secret));
        self.change(|tokens| {
            if tokens.iter().any(|token| token.name == name) {
                bail!("there is a token called {name} already: revoke it first, or choose another name");
            }
            if tokens.len() >= TOKENS_MAX {
                bail!("there are {TOKENS_MAX} tokens already");
            }
            let (name, scope, created) = (name.into(), COLLECT.into(), now.into());
            tokens.push(Token { name, scope, sha256: digest(&secret), created });
            Ok(())
        })?;
        Ok(secret)
    }

    pub(crate) fn revoke(&self, name: &str) -> anyhow::Result<()> {
        self.change(|tokens| {
            let before = tokens.len();
            tokens.retain(|token| token.name != name);
            if tokens.len() == before {
                bail!("there is no token of this name");
            }
            Ok(())
        })
    }

    /// Changes the file, one process at a time.
    fn change(&self, change: impl FnOnce(&mut Vec<Token>) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let folder = self.path.parent().context("the file has a folder")?;
        durable::create_dirs(folder)?;
        let lock_path = folder.join("tokens.lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let lock = lock.with_context(|| format!("cannot lock {}", lock_path.display()))?;
        lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;
        let mut tokens = self.read()?;
        change(&mut tokens)?;
        let text = serde_json::to_vec_pretty(&TokensFile { version: VERSION, tokens })?;
        durable::write_atomic(&self.path, &text).context("cannot keep the tokens")
    }

    fn read(&self) -> anyhow::Result<Vec<Token>> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", self.path.display())),
        };
        let file: Option<TokensFile> = serde_json::from_slice(&text).ok();
        match file {
            Some(file) if file.version == VERSION => Ok(file.tokens),
            _ => bail!("{} is damaged or of another version", self.path.display()),
        }
    }

    fn stamp(&self) -> anyhow::Result<Stamp> {
        match std::fs::metadata(&self.path) {
            Ok(found) => Ok(Some((found.ino(), found.mtime(), found.mtime_nsec(), found.len()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", self.path.display())),
        }
    }
}

fn digest(token: &str) -> String {
    hex::encode(Sha256::digest(token))
}

/// `threadline token`.
pub(crate) fn run(command: TokenCommand) -> anyhow::Result<ExitCode> {
    match command {
        TokenCommand::Add(TokenArguments { name, data }) => {
            let directory = data_directory(data)?;
            let token = Tokens::of(&directory).add(&name, &chrono::Utc::now().to_rfc3339())?;
            output::write(None, format!("{token}\n").as_bytes())?;
            output::talk(
                "This is the only time it is shown. Put it into a file of the collector's machine, readable by",
            );
            output::talk("its user alone, and give that as --token-file, or set THREADLINE_TOKEN.");
        }
        TokenCommand::Revoke(TokenArguments { name, data }) => {
            Tokens::of(&data_directory(data)?).revoke(&name)?;
            output::talk("revoked; requests with it are refused from now on");
        }
        TokenCommand::List { data, printing } => {
            let tokens = Tokens::of(&data_directory(data)?).list()?;
            let row = |token: &Token| serde_json::json!({ "name": token.name, "scope": token.scope, "created": token.created });
            let rows: Vec<serde_json::Value> = tokens.iter().map(row).collect();
            output::rows(&printing, &serde_json::json!({ "data": rows }), &rows, COLUMNS)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_counts_until_it_is_revoked_and_is_not_kept() {
        let work = tempfile::tempdir().unwrap();
        let (tokens, other) = (Tokens::of(work.path()), Tokens::of(work.path()));
        assert!(tokens.list().unwrap().is_empty() && !tokens.knows(""));
        let (a, b) = (other.add("laptop", "now").unwrap(), other.add("ci", "now").unwrap());
        assert!(tokens.knows(&a) && tokens.knows(&b) && !tokens.knows("tlc_x") && a != b);
        assert!(other.add("laptop", "now").is_err() && other.add("a b", "now").is_err());
        let kept = std::fs::read_to_string(work.path().join("keys/tokens.json")).unwrap();
        assert!(!kept.contains(&a) && !kept.contains(&a[PREFIX.len()..]));
        other.revoke("laptop").unwrap();
        assert!(!tokens.knows(&a) && tokens.knows(&b) && other.revoke("laptop").is_err());
        std::fs::write(work.path().join("keys/tokens.json"), "{").unwrap();
        assert!(!tokens.knows(&b) && tokens.list().is_err());
    }
}
