//! An export as one page to read and print: what was asked, completeness, the session as on its page, gaps, findings, and
//! every record with its id.
//!
//! Invariants
//! - [`Escape`] is the escaper of all templates (`askama.toml`): whatever a template prints passes
//!   `threadline_schemas::display::html`, so markup, controls, bidi and invisible characters are inert
//! - no script, nothing from elsewhere; the policy in the page allows its own style sheet, by digest, and nothing else
//! - texts are cut at [`BLOCK_BYTES_MAX`], the table of records at [`ROWS_MAX`] rows; both say so
//! - the page is written part by part, never held
//! - the same question on the same records gives the same page up to its last part, which says when it was read, from which
//!   state of the store; beside other files there is no such part, and `custody.json` says it

use std::fmt;
use std::io::{self, Write};
use std::sync::LazyLock;

use askama::Template;
use askama::filters::Escaper;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};
use threadline_schemas::Record;
use threadline_schemas::display::{self, Lines};

use super::manifest::{Asked, Named, State, Statement, Tally};
use super::spool::Spool;
use crate::error::QueryError;
use crate::line::event_line;
use crate::model::{EventLine, Grade, Link, Session};

/// Bytes of a foreign text.
const BLOCK_BYTES_MAX: usize = 4 << 10;
/// Rows of the table of records.
const ROWS_MAX: u64 = 100_000;

static CSS_SHA256: LazyLock<String> = LazyLock::new(|| {
    // A template ends without its last line break.
    let css = include_str!("../../templates/report.css").trim_end_matches('\n');
    BASE64_STANDARD.encode(Sha256::digest(css))
});

/// The escaper of all templates.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Escape;

impl Escaper for Escape {
    fn write_escaped_str<W: fmt::Write>(&self, mut dest: W, string: &str) -> fmt::Result {
        dest.write_str(&display::html(string, Lines::Keep))
    }
}

/// Rows of the table of records, which stands at the end of the page.
pub(super) struct Rows {
    spool: Spool,
    count: u64,
    /// Whether a row says how its record begins; in the tree of a session its records say more.
    has_excerpts: bool,
}

#[derive(Template)]
#[template(path = "report_row.html")]
struct Row<'a> {
    number: u64,
    line: EventLine,
    has_excerpt: bool,
    leaf_hash: &'a str,
}

impl Rows {
    pub(super) fn new(spool: Spool, has_excerpts: bool) -> Rows {
        Rows { spool, count: 0, has_excerpts }
    }

    pub(super) fn add(&mut self, record: &Record, leaf_hash: &str) -> Result<(), QueryError> {
        self.count += 1;
        if self.count > ROWS_MAX {
            return Ok(());
        }
        let line = event_line(record, None);
        let has_excerpt = self.has_excerpts && !line.excerpt.is_empty();
        let row = Row { number: self.count, line, has_excerpt, leaf_hash };
        row.write_into(&mut self.spool).and_then(|()| self.spool.write_all(b"\n")).map_err(QueryError::unwritten)
    }
}

/// What the page says.
pub(super) struct Report<'a> {
    pub(super) asked: &'a Asked,
    /// What was read; `None`: another file says it.
    pub(super) state: Option<&'a State>,
    pub(super) statement: &'a Statement,
    pub(super) tally: &'a Tally,
    pub(super) tree: Option<&'a Session>,
    pub(super) ambiguous: &'a [Link],
    pub(super) sessions: &'a Named<String>,
    pub(super) program: &'static str,
}

#[derive(Template)]
#[template(path = "report_head.html")]
struct Head<'a> {
    css_sha256: &'static str,
    asked: &'a Asked,
    is_alone: bool,
    statement: &'a Statement,
    tally: &'a Tally,
    tree: Option<&'a Session>,
    ambiguous: &'a [Link],
    sessions: &'a Named<String>,
    program: &'static str,
    left_out: u64,
}

#[derive(Template)]
#[template(path = "report_custody.html")]
struct Custody<'a> {
    state: &'a State,
}

/// The shown part of a text.
struct Block<'a> {
    shown: &'a str,
    more: usize,
}

impl Head<'_> {
    fn block(text: &str) -> Block<'_> {
        let shown = &text[..text.floor_char_boundary(BLOCK_BYTES_MAX)];
        Block { shown, more: text.len() - shown.len() }
    }

    fn grade(&self, grade: &Grade) -> String {
        format!("{grade:?}").to_lowercase()
    }
}

/// What templates say with.
trait Words {
    fn or<'a>(text: &'a Option<String>, instead: &'a str) -> &'a str {
        text.as_deref().unwrap_or(instead)
    }

    /// How an outcome or verdict is coloured.
    fn class(word: &str) -> &'static str {
        match word {
            "ok" | "allow" => "ok",
            "error" | "denied" | "deny" => "bad",
            _ => "warn",
        }
    }

    fn date(time: &str) -> &str {
        date_and_clock(time).0
    }

    fn clock(time: &str) -> &str {
        date_and_clock(time).1
    }
}

impl Words for Head<'_> {}
impl Words for Row<'_> {}

/// RFC 3339 in UTC as date and time of day.
fn date_and_clock(time: &str) -> (&str, &str) {
    time.split_once('T').map_or((time, ""), |(date, clock)| (date, clock.trim_end_matches('Z')))
}

impl Report<'_> {
    /// Writes the page.
    pub(super) fn write(&self, out: &mut Spool, rows: Rows) -> Result<(), QueryError> {
        let head = Head {
            css_sha256: &CSS_SHA256,
            asked: self.asked,
            is_alone: self.state.is_some(),
            statement: self.statement,
            tally: self.tally,
            tree: self.tree,
            ambiguous: self.ambiguous,
            sessions: self.sessions,
            program: self.program,
            left_out: rows.count.saturating_sub(ROWS_MAX),
        };
        let write = || -> io::Result<()> {
            head.write_into(out)?;
            io::copy(&mut rows.spool.finish()?, out)?;
            out.write_all(b"</tbody></table>\n</section>\n")?;
            if let Some(state) = self.state {
                Custody { state }.write_into(out)?;
            }
            out.write_all(b"</main>\n</body>\n</html>\n")
        };
        write().map_err(QueryError::unwritten)
    }
}
