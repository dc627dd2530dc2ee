//! What a value must be for a rule to fit. Everything that is given must hold.

use std::borrow::Cow;

use regex::Regex;

use super::extract::scalar;
use crate::json::Json;

/// A condition on the value at one path.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) present: Option<bool>,
    pub(super) any: Vec<String>,
    pub(super) not: Vec<String>,
    pub(super) prefix: Option<String>,
    pub(super) suffix: Option<String>,
    pub(super) contains: Option<String>,
    pub(super) matches: Option<Regex>,
}

impl Condition {
    pub(super) fn is_empty(&self) -> bool {
        self.present.is_none() && self.any.is_empty() && self.not.is_empty() && !self.is_textual()
    }

    fn is_textual(&self) -> bool {
        self.prefix.is_some() || self.suffix.is_some() || self.contains.is_some() || self.matches.is_some()
    }

    /// Whether a value fits; `null` counts as absent.
    pub(super) fn holds(&self, value: Option<&Json>) -> bool {
        if self.present.is_some_and(|present| present != value.is_some()) {
            return false;
        }
        let text = value.and_then(scalar);
        let is_in = |list: &[String]| text.as_ref().is_some_and(|text| list.iter().any(|item| item == text));
        if (!self.any.is_empty() && !is_in(&self.any)) || is_in(&self.not) {
            return false;
        }
        if !self.is_textual() {
            return true;
        }
        let Some(text) = text else { return false };
        self.fits(text)
    }

    fn fits(&self, text: Cow<'_, str>) -> bool {
        let holds = |wanted: &Option<String>, test: fn(&str, &str) -> bool| {
            wanted.as_ref().is_none_or(|wanted| test(&text, wanted))
        };
        holds(&self.prefix, |text, wanted| text.starts_with(wanted))
            && holds(&self.suffix, |text, wanted| text.ends_with(wanted))
            && holds(&self.contains, |text, wanted| text.contains(wanted))
            && self.matches.as_ref().is_none_or(|matches| matches.is_match(&text))
    }
}
