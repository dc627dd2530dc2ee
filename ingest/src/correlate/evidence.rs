//! Evidence: named pieces of a score, added up, or kept apart for `--explain`.

/// Collects pieces of a score.
#[derive(Debug, Clone)]
pub(super) enum Evidence {
    /// Only the total.
    Sum(f64),
    /// Every piece by name.
    Parts(Vec<(&'static str, f64)>),
}

impl Evidence {
    pub(super) fn add(&mut self, what: &'static str, weight: f64) {
        match self {
            Evidence::Sum(sum) => *sum += weight,
            Evidence::Parts(parts) => parts.push((what, weight)),
        }
    }

    pub(super) fn total(&self) -> f64 {
        match self {
            Evidence::Sum(sum) => *sum,
            Evidence::Parts(parts) => parts.iter().map(|(_, weight)| weight).sum(),
        }
    }

    /// The pieces, where they were kept.
    pub(super) fn parts(self) -> Vec<(&'static str, f64)> {
        match self {
            Evidence::Sum(_) => Vec::new(),
            Evidence::Parts(parts) => parts,
        }
    }
}
