//! The export of what a page shows: a form that asks the API the page's own question.
//!
//! Invariants
//! - what is exported is what the page was asked for: same id, words, times, grade and moment
//! - a value that a browser would not send back as it is (hidden characters are shown as tokens) is not put into a form;
//!   plain links, which hold every byte percent-encoded, stand there instead
//!
//! Not here: the export (`/api/v1/export`), and the record that it leaves.

use threadline_schemas::display::{self, Lines};

use crate::text::{Href, Shown};

/// Longest value of a form field.
const VALUE_BYTES_MAX: usize = 4 << 10;

/// What the template `export.html` shows.
#[derive(Debug)]
pub(crate) struct Export {
    /// Fields of the form that the page decides; `None`: they cannot stand in a form.
    pub(crate) fields: Option<Vec<(&'static str, Shown)>>,
    /// Each form as a link.
    pub(crate) links: Vec<(&'static str, Href)>,
    /// Names and words of the forms.
    pub(crate) forms: &'static [(&'static str, &'static str)],
}

const FORMS: &[(&str, &str)] = &[
    ("bundle", "evidence bundle (tar)"),
    ("html", "report (HTML)"),
    ("ndjson", "records as NDJSON"),
    ("csv", "records as CSV"),
    ("parquet", "records as Parquet"),
    ("ocsf", "OCSF events"),
];

impl Export {
    /// Of the page's own parameters.
    pub(crate) fn of(parameters: &[(&'static str, Option<&str>)]) -> Export {
        let given: Vec<(&'static str, &str)> = parameters
            .iter()
            .filter_map(|(name, value)| Some((*name, value.filter(|value| !value.is_empty())?)))
            .collect();
        let is_exact = |value: &str| {
            value.len() <= VALUE_BYTES_MAX && !value.contains('\n') && display::visible(value, Lines::Keep) == value
        };
        let fields = given.iter().all(|(_, value)| is_exact(value));
        let field = |(name, value): &(&'static str, &str)| (*name, Shown::block(value, VALUE_BYTES_MAX));
        let link = |(form, words): &(&'static str, &'static str)| {
            let href = Href::to(&["api", "v1", "export"]).with("format", form);
            (*words, given.iter().fold(href, |href, (name, value)| href.with(name, value)))
        };
        Export {
            fields: fields.then(|| given.iter().map(field).collect()),
            links: FORMS.iter().map(link).collect(),
            forms: FORMS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_form_cannot_hold_exactly_becomes_links() {
        let exact = Export::of(&[("q", Some("a \"b\" <c>")), ("from", None), ("to", Some(""))]);
        let fields = exact.fields.unwrap();
        assert_eq!((fields.len(), fields[0].1.as_str()), (1, "a \"b\" <c>"));
        let hidden = Export::of(&[("q", Some("a\u{202e}b"))]);
        assert!(hidden.fields.is_none());
        assert_eq!(hidden.links[2].1.as_str(), "/api/v1/export?format=ndjson&q=a%E2%80%AEb");
    }
}
