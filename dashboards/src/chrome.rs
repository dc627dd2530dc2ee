//! What every page has around its content: navigation, the one search box, theme, and the
//! completeness strip.

use axum::http::{HeaderMap, header};
use threadline_query::model::Completeness;

use crate::assets::{ASSETS, Assets};
use crate::text::Shown;
use crate::words;

/// Characters of a search that are put back into its box.
const QUERY_CHARS_MAX: usize = 2_000;

/// Which entry of the navigation a page belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Session list and sessions.
    Sessions,
    /// Search.
    Search,
    /// Sources.
    Sources,
    /// Forwarding.
    Forward,
    /// Help.
    Help,
    /// None of them.
    Elsewhere,
}

/// The frame of a page.
#[derive(Debug)]
pub(crate) struct Chrome {
    /// `light`, `dark`, or empty for what the system prefers.
    pub(crate) theme: &'static str,
    /// Current entry of the navigation.
    pub(crate) place: Place,
    /// Content of the search box.
    pub(crate) q: Shown,
    /// What the answer on this page covers; absent where no evidence is shown.
    pub(crate) strip: Option<Strip>,
    /// Addresses of style sheet and modules.
    pub(crate) assets: &'static Assets,
}

impl Chrome {
    /// The frame of a page that shows an answer.
    pub(crate) fn new(headers: &HeaderMap, place: Place, completeness: Option<&Completeness>) -> Self {
        Chrome {
            theme: theme(headers),
            place,
            q: Shown::default(),
            strip: completeness.map(Strip::of),
            assets: &ASSETS,
        }
    }

    /// With a search in its box.
    pub(crate) fn searching(mut self, q: &str) -> Self {
        self.q = Shown::short(q, QUERY_CHARS_MAX);
        self
    }

    /// Whether `place` is the current entry.
    pub(crate) fn is(&self, place: Place) -> bool {
        self.place == place
    }
}

/// The theme that the cookie names; it is a display preference and nothing else.
fn theme(headers: &HeaderMap) -> &'static str {
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let chosen =
        cookies.flat_map(|cookies| cookies.split(';')).find_map(|c| c.trim().strip_prefix("threadline_theme="));
    match chosen {
        Some("light") => "light",
        Some("dark") => "dark",
        _ => "",
    }
}

/// Characters of one sentence of the statement.
const STATEMENT_CHARS_MAX: usize = 500;

/// The completeness statement, in words.
#[derive(Debug)]
pub(crate) struct Strip {
    /// Whether anything is missing from the answer.
    pub(crate) partial: bool,
    /// Delta version.
    pub(crate) version: i64,
    /// When it was read.
    pub(crate) read_at: Shown,
    /// Rows looked at.
    pub(crate) searched: Shown,
    /// Range searched, where the question had one.
    pub(crate) range: Option<(Shown, Shown)>,
    /// Rows acknowledged and not sealed yet; they are part of the answer.
    pub(crate) tail: Option<Shown>,
    /// Rows left out.
    pub(crate) cut: Option<Shown>,
    /// Why the answer is partial.
    pub(crate) reasons: Vec<Shown>,
    /// Sources that said nothing.
    pub(crate) silent: Vec<Shown>,
    /// Links that were judged.
    pub(crate) inferred: Option<Shown>,
    /// Remarks that leave nothing out.
    pub(crate) notes: Vec<Shown>,
    /// Files scanned because their text index is not built yet.
    pub(crate) unindexed: Option<Shown>,
}

impl Strip {
    fn of(c: &Completeness) -> Self {
        let some = |n: u64| (n > 0).then(|| words::count(n));
        let open = |time: &Option<String>, word| time.as_deref().map_or(Shown::line(word), words::moment);
        let range = c.searched_from.is_some() || c.searched_to.is_some();
        Strip {
            partial: c.state != "complete" || c.rows_cut > 0 || !c.reasons.is_empty() || !c.sources_silent.is_empty(),
            version: c.snapshot.table_version,
            read_at: words::moment(&c.snapshot.read_at),
            searched: words::count(c.rows_searched),
            range: range.then(|| (open(&c.searched_from, "the beginning"), open(&c.searched_to, "now"))),
            tail: some(c.snapshot.tail_rows),
            cut: some(c.rows_cut),
            reasons: c.reasons.iter().take(20).map(|reason| Shown::name(reason, STATEMENT_CHARS_MAX)).collect(),
            silent: c.sources_silent.iter().take(20).map(|source| Shown::name(source, STATEMENT_CHARS_MAX)).collect(),
            notes: c.notes.iter().take(20).map(|note| Shown::name(note, STATEMENT_CHARS_MAX)).collect(),
            inferred: some(c.links_inferred),
            unindexed: some(c.snapshot.files_without_text_index),
        }
    }
}
