//! Two kinds of text told apart by their words: a naive Bayes sum, and what such a sum is worth.
//!
//! Words of one text are not independent, so the sum is weighed by a regression over the texts that were learned from,
//! each judged by the words of the others.

use std::collections::HashMap;

use super::logit::{Example, Logit};
use super::tokens::Tokens;

/// Texts of each kind below which nothing is learned.
const TEXTS_LEAST: usize = 10;
/// No words say more than this.
const MOST: f64 = 5.0;

/// Words of texts of two kinds.
#[derive(Debug, Default)]
pub(super) struct Words {
    texts: Vec<(Tokens, bool)>,
    /// Texts of the first and the second kind that hold a word.
    counts: HashMap<u64, [f64; 2]>,
    totals: [f64; 2],
    worth: Option<Logit<2>>,
}

impl Words {
    pub(super) fn add(&mut self, words: &Tokens, is_first: bool) {
        let kind = usize::from(!is_first);
        words.iter().for_each(|word| self.counts.entry(*word).or_default()[kind] += 1.0);
        self.totals[kind] += words.len() as f64;
        self.texts.push((words.clone(), is_first));
    }

    /// Sum of the words' log ratios; `without` is the kind of the text itself if it was counted.
    fn sum(&self, words: &Tokens, without: Option<usize>) -> f64 {
        let different = self.counts.len() as f64;
        let own = words.len() as f64;
        let ratio = |word: &u64| {
            let counts = self.counts.get(word).copied().unwrap_or_default();
            let [first, second] = [0, 1].map(|kind| {
                let (less, total) = if without == Some(kind) { (1.0, own) } else { (0.0, 0.0) };
                ((counts[kind] - less + 0.5) / (self.totals[kind] - total + 0.5 * different)).ln()
            });
            first - second
        };
        words.iter().map(ratio).sum()
    }

    /// Learns what a sum is worth.
    pub(super) fn learn(&mut self) {
        let first = self.texts.iter().filter(|text| text.1).count();
        if first.min(self.texts.len() - first) >= TEXTS_LEAST {
            let examples: Vec<Example<2>> = self
                .texts
                .iter()
                .map(|(words, is_first)| ([1.0, self.sum(words, Some(usize::from(!is_first)))], *is_first))
                .collect();
            self.worth = Some(Logit::fit(&examples, [0.0; 2]));
        }
        self.texts = Vec::new();
    }

    /// Log ratio that a text is of the first kind.
    pub(super) fn ratio(&self, words: &Tokens) -> f64 {
        self.worth.map_or(0.0, |worth| worth.of(&[1.0, self.sum(words, None)]).clamp(-MOST, MOST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_only_one_kind_has_speak_for_it() {
        let mut words = Words::default();
        for n in 0..40 {
            words.add(&vec![1, 10 + n % 7], true);
            words.add(&vec![2, 10 + n % 7], false);
        }
        words.learn();
        assert!(words.ratio(&vec![1]) > 2.0);
        assert!(words.ratio(&vec![2]) < -2.0);
        assert!(words.ratio(&vec![11]).abs() < 1.0);
    }
}
