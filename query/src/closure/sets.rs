//! Disjoint sets of positions, each with at most one conversation, and who bears which key.

use threadline_schemas::KeyKind;

use super::NONE;
use crate::fact::{FactKey, FactView};

/// Disjoint sets; the root of a set is its smallest position.
#[derive(Debug)]
pub(super) struct Sets {
    parent: Vec<u32>,
    label: Vec<u32>,
}

impl Sets {
    pub(super) fn new(count: u32) -> Self {
        Sets { parent: (0..count).collect(), label: vec![NONE; count as usize] }
    }

    pub(super) fn find(&mut self, at: u32) -> u32 {
        let mut root = at;
        while self.parent[root as usize] != root {
            root = self.parent[root as usize];
        }
        let mut step = at;
        while self.parent[step as usize] != root {
            step = std::mem::replace(&mut self.parent[step as usize], root);
        }
        root
    }

    /// Joins two sets, unless they belong to two conversations.
    pub(super) fn union(&mut self, a: u32, b: u32) {
        let (a, b) = (self.find(a), self.find(b));
        let (low, high) = (a.min(b), a.max(b));
        let (label, other) = (self.label[low as usize], self.label[high as usize]);
        if low == high || (label != NONE && other != NONE && label != other) {
            return;
        }
        self.parent[high as usize] = low;
        if label == NONE {
            self.label[low as usize] = other;
        }
    }

    /// Makes the set of `at` a conversation, named by its smallest position.
    pub(super) fn label(&mut self, at: u32) {
        let root = self.find(at);
        self.label[root as usize] = root;
    }

    /// The conversation of a position's set, or [`NONE`].
    pub(super) fn label_of(&mut self, at: u32) -> u32 {
        let root = self.find(at);
        self.label[root as usize]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Bearer {
    kind: KeyKind,
    hash: u64,
    at: u32,
}

/// Who bears which key: sorted, so that the bearers of a key stand together.
#[derive(Debug)]
pub(super) struct Bearers {
    sorted: Vec<Bearer>,
    positions: Vec<u32>,
}

impl Bearers {
    pub(super) fn of(view: &FactView<'_>) -> Self {
        let mut sorted = Vec::new();
        for at in 0..view.len() {
            let (facts, fact) = view.at(at);
            let joining = facts.keys(fact).iter().filter(|key| key.kind.joins() || key.kind == KeyKind::Rpc);
            sorted.extend(joining.map(|key| Bearer { kind: key.kind, hash: key.hash, at }));
        }
        sorted.sort_unstable();
        sorted.dedup();
        let positions = sorted.iter().map(|bearer| bearer.at).collect();
        Bearers { sorted, positions }
    }

    /// Positions of every record that bears a key of `kind`.
    pub(super) fn all(&self, kind: KeyKind) -> impl Iterator<Item = u32> + '_ {
        let (from, to) = self.range(kind);
        self.positions[from..to].iter().copied()
    }

    /// Every key of `kind` with two bearers or more, and their positions in order.
    pub(super) fn runs(&self, kind: KeyKind) -> impl Iterator<Item = (FactKey, &[u32])> + '_ {
        let (mut from, to) = self.range(kind);
        std::iter::from_fn(move || {
            while from < to {
                let hash = self.sorted[from].hash;
                let count = self.sorted[from..to].iter().take_while(|bearer| bearer.hash == hash).count();
                let at = &self.positions[from..from + count];
                from += count;
                if count > 1 {
                    return Some((FactKey { kind, hash }, at));
                }
            }
            None
        })
    }

    fn range(&self, kind: KeyKind) -> (usize, usize) {
        let from = self.sorted.partition_point(|bearer| bearer.kind < kind);
        (from, self.sorted.partition_point(|bearer| bearer.kind <= kind))
    }
}
