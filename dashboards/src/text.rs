//! The only types by which text reaches a page.
//!
//! Invariants
//! - [`Escape`] is the escaper of all templates (`askama.toml`): whatever a template prints passes
//!   `threadline_schemas::display::html`, so markup, controls, bidi and invisible characters are inert
//! - structs that templates read hold [`Shown`], [`Href`], numbers and `&'static str`, never `String`
//! - a [`Shown`] is bounded when it is made and says how much it left out
//! - an [`Href`] starts with `/`, stays on this origin, and every foreign byte in it is percent-encoded
//!
//! Not here: the rules what is visible (see `schemas::display`), markup.

use std::fmt::{self, Write};

use askama::filters::Escaper;
use threadline_schemas::display::{self, Lines};

/// Characters of a foreign text in a table or tree row.
pub const LINE_CHARS_MAX: usize = 160;
/// Bytes of a foreign text in a list of texts.
pub const BLOCK_BYTES_MAX: usize = 4 << 10;
/// Bytes of a foreign text on its own page.
pub const DETAIL_BYTES_MAX: usize = 64 << 10;

/// The escaper of all templates.
#[derive(Debug, Clone, Copy, Default)]
pub struct Escape;

impl Escaper for Escape {
    fn write_escaped_str<W: Write>(&self, mut dest: W, string: &str) -> fmt::Result {
        dest.write_str(&display::html(string, Lines::Keep))
    }
}

/// Untrusted text made fit to show.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shown {
    text: String,
    /// Characters (of a line) or bytes (of a block) that were left out.
    pub cut: usize,
    /// Characters of the shown part that would not have been seen.
    pub hidden: usize,
}

impl Shown {
    /// One line of at most [`LINE_CHARS_MAX`] characters; line breaks become `⏎`.
    pub fn line(text: &str) -> Self {
        Self::short(text, LINE_CHARS_MAX)
    }

    /// One line of at most `chars_max` characters.
    pub fn short(text: &str, chars_max: usize) -> Self {
        let (kept, cut) = display::cut(text, chars_max);
        Shown { hidden: display::hidden_characters(&kept), text: display::visible(&kept, Lines::Show), cut }
    }

    /// A name of at most `chars_max` characters, with a mark where it was cut.
    pub fn name(text: &str, chars_max: usize) -> Self {
        let mut shown = Self::short(text, chars_max);
        if shown.cut > 0 {
            shown.text.push('…');
        }
        shown
    }

    /// A text with its line breaks, at most `bytes_max` bytes of it.
    pub fn block(text: &str, bytes_max: usize) -> Self {
        let kept = &text[..text.floor_char_boundary(bytes_max)];
        Shown {
            hidden: display::hidden_characters(kept),
            text: display::visible(kept, Lines::Keep),
            cut: text.len() - kept.len(),
        }
    }

    /// Bytes as text, at most `bytes_max` of them; what is not UTF-8 becomes `\xNN`.
    pub fn bytes(bytes: &[u8], bytes_max: usize) -> Self {
        let kept = &bytes[..bytes.len().min(bytes_max)];
        Shown {
            hidden: kept.utf8_chunks().map(|chunk| display::hidden_characters(chunk.valid())).sum(),
            text: display::visible_bytes(kept, Lines::Keep),
            cut: bytes.len() - kept.len(),
        }
    }

    /// An id, shortened in the middle for tables: `309daf42…e49e`. Copy and link use the whole.
    pub fn id(id: &str) -> Self {
        let chars: Vec<char> = id.chars().collect();
        if chars.len() <= 16 {
            return Self::line(id);
        }
        let head: String = chars[..8].iter().collect();
        let tail: String = chars[chars.len() - 4..].iter().collect();
        Self::line(&format!("{head}…{tail}"))
    }

    /// Adds what was left out before this was made.
    pub fn and_cut(mut self, cut: u64) -> Self {
        self.cut = self.cut.saturating_add(usize::try_from(cut).unwrap_or(usize::MAX));
        self
    }

    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The text, safe for a text node (not yet escaped for HTML).
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl serde::Serialize for Shown {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

/// A link to one of our own pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Href(String);

impl Href {
    /// `/a/b` from path segments, each percent-encoded.
    pub fn to(segments: &[&str]) -> Self {
        let mut path = String::new();
        for segment in segments {
            path.push('/');
            encode(segment, &mut path);
        }
        Href(path)
    }

    /// With a query parameter more.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(name);
        self.0.push('=');
        encode(value, &mut self.0);
        self
    }

    /// With a query parameter more, if there is a value.
    pub fn with_some(self, name: &'static str, value: Option<&str>) -> Self {
        match value {
            Some(value) if !value.is_empty() => self.with(name, value),
            _ => self,
        }
    }

    /// With a fragment.
    pub fn at(mut self, fragment: &str) -> Self {
        self.0.push('#');
        encode(fragment, &mut self.0);
        self
    }

    /// The page of a session.
    pub fn session(id: &str) -> Self {
        Self::to(&["sessions", id])
    }

    /// The page of a record.
    pub fn event(id: &str) -> Self {
        Self::to(&["events", id])
    }

    /// The search for a text or id.
    pub fn search(query: &str) -> Self {
        Self::to(&["search"]).with("q", query)
    }

    /// The address, for a `Location` header.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Href {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Percent-encodes everything but unreserved characters. A lone `.` or `..` segment would be
/// resolved away by browsers, so its dots are encoded too (which servers take literally).
fn encode(text: &str, out: &mut String) {
    let dots = text == "." || text == "..";
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => out.push(char::from(byte)),
            b'.' if !dots => out.push('.'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn texts_are_bounded_and_say_so() {
        let line = Shown::line(&"x".repeat(200));
        assert_eq!((line.as_str().len(), line.cut), (160, 40));
        let block = Shown::block("aé\u{202e}", 2);
        assert_eq!((block.as_str(), block.cut, block.hidden), ("a", 5, 0));
        assert_eq!(Shown::block("\u{202e}a\n", 99).hidden, 1);
        assert_eq!(Shown::bytes(b"a\xff\x1b", 9).as_str(), "a\\xFF␛");
        assert_eq!(Shown::id("309daf42-f826-415e-8b8f-6414e473e49e").as_str(), "309daf42…e49e");
        assert_eq!(Shown::line("ab").and_cut(7).cut, 7);
    }

    #[test]
    fn links_stay_on_this_origin() {
        expect!["/sessions/..%2F%2Fevil%3Fx%23y?q=a%26b%3D%22%3E#c%3A1"]
            .assert_eq(Href::to(&["sessions", "..//evil?x#y"]).with("q", "a&b=\">").at("c:1").as_str());
        expect!["/events/javascript%3Aalert%281%29"].assert_eq(Href::event("javascript:alert(1)").as_str());
        expect!["/events/%2E%2E"].assert_eq(Href::event("..").as_str());
    }

    #[test]
    fn the_escaper_of_templates_is_the_escaping_module() {
        let mut out = String::new();
        Escape.write_escaped_str(&mut out, "<b \"'&>\u{1b}\u{202e}").unwrap();
        expect!["&lt;b &quot;&#39;&amp;&gt;␛⟨U+202E⟩"].assert_eq(&out);
    }
}
