//! Which lines of a conversation stay together: those that most hypotheses put together.
//!
//! The best hypothesis may hold a turn, or a line, that others put elsewhere. Its pieces (the lines of a turn that are surely
//! that turn's, and every other line alone) are joined again by average linkage over the weight of the hypotheses in which
//! they share a conversation, as long as that is at least `least`. What is doubtful then stands apart, and does not tear what
//! was before it from what comes after it.

use std::collections::HashMap;

use super::beam::Split;
use super::items::{Item, ItemKind, steps};

/// Two groups are not joined where more lines than this are expected to be wrong with it.
const RISK_MOST: f64 = 1.0;
/// Pieces up to which all pairs are compared; of longer conversations neighbours are.
const PIECES_MAX: usize = 200;

/// The parts of one conversation of the best hypothesis, each in order.
pub(super) fn parts(
    items: &[Item],
    conversation: &[usize],
    split: &Split,
    disorder: f64,
    least: f64,
) -> Vec<Vec<usize>> {
    let (pieces, count) = pieces(items, conversation, split, disorder, least);
    if count <= 1 {
        return vec![conversation.to_vec()];
    }
    let groups = linked(&Shared::of(conversation, &pieces, count, split), least);
    let mut parts: Vec<Vec<usize>> = vec![Vec::new(); count];
    conversation.iter().zip(&pieces).for_each(|(at, piece)| parts[groups[*piece]].push(*at));
    parts.retain(|part| !part.is_empty());
    parts
}

/// The piece of each line, and how many there are.
fn pieces(items: &[Item], conversation: &[usize], split: &Split, disorder: f64, least: f64) -> (Vec<usize>, usize) {
    let steps = steps(conversation.iter().map(|at| &items[*at]), disorder);
    let mut of_turn: HashMap<usize, usize> = HashMap::new();
    let mut count = 0;
    let mut another = || {
        count += 1;
        count - 1
    };
    let mut pieces = Vec::with_capacity(conversation.len());
    for (at, step) in conversation.iter().zip(&steps) {
        let under = || split.under.get(&(*at, step.prompt)).copied().unwrap_or(0.0);
        let is_sure = items[*at].kind == ItemKind::Prompt || step.prompt.is_none() || under() >= least;
        pieces.push(if is_sure { *of_turn.entry(step.turn).or_insert_with(&mut another) } else { another() });
    }
    (pieces, count)
}

/// How often lines of two pieces share a conversation: sums over pairs of lines.
struct Shared {
    sizes: Vec<f64>,
    pairs: HashMap<(usize, usize), f64>,
}

impl Shared {
    fn of(conversation: &[usize], pieces: &[usize], count: usize, split: &Split) -> Shared {
        let piece_of: HashMap<usize, usize> = conversation.iter().copied().zip(pieces.iter().copied()).collect();
        let mut sizes = vec![0.0; count];
        pieces.iter().for_each(|piece| sizes[*piece] += 1.0);
        let mut pairs: HashMap<(usize, usize), f64> = HashMap::new();
        let reach = if count <= PIECES_MAX { count } else { 1 };
        for (weight, members) in &split.threads {
            let mut held: Vec<(usize, f64)> = Vec::new();
            for piece in members.iter().filter_map(|at| piece_of.get(at)) {
                match held.iter_mut().rev().take(reach).find(|(known, _)| known == piece) {
                    Some((_, lines)) => *lines += 1.0,
                    None => held.push((*piece, 1.0)),
                }
            }
            for (place, (piece, lines)) in held.iter().enumerate() {
                for (other, others) in held[place + 1..].iter().take(reach).filter(|(other, _)| other != piece) {
                    *pairs.entry(((*piece).min(*other), (*piece).max(*other))).or_default() += weight * lines * others;
                }
            }
        }
        Shared { sizes, pairs }
    }

    fn mean(&self, a: usize, b: usize) -> f64 {
        self.pairs.get(&(a.min(b), a.max(b))).map_or(0.0, |sum| sum / (self.sizes[a] * self.sizes[b]))
    }
}

/// The group of each piece, named by its first.
fn linked(shared: &Shared, least: f64) -> Vec<usize> {
    let count = shared.sizes.len();
    let mut group: Vec<usize> = (0..count).collect();
    if count > PIECES_MAX {
        for piece in 1..count {
            if shared.mean(piece - 1, piece) >= least {
                group[piece] = group[piece - 1];
            }
        }
        return group;
    }
    let mut sum = vec![0.0; count * count];
    shared.pairs.iter().for_each(|((a, b), pairs)| sum[a * count + b] = *pairs);
    let mut sizes = shared.sizes.clone();
    let mut alive: Vec<usize> = (0..count).collect();
    loop {
        let mut best: Option<(f64, usize, usize)> = None;
        for (place, a) in alive.iter().enumerate() {
            for b in &alive[place + 1..] {
                let mean = sum[a * count + b] / (sizes[*a] * sizes[*b]);
                let risk = (1.0 - mean) * sizes[*a].min(sizes[*b]);
                if mean >= least && risk <= RISK_MOST && best.is_none_or(|(known, ..)| mean > known) {
                    best = Some((mean, *a, *b));
                }
            }
        }
        let Some((_, a, b)) = best else { return group };
        alive.retain(|piece| *piece != b);
        for other in alive.iter().filter(|other| **other != a) {
            let moved = sum[b.min(*other) * count + b.max(*other)];
            sum[a.min(*other) * count + a.max(*other)] += moved;
        }
        sizes[a] += sizes[b];
        group.iter_mut().filter(|of| **of == b).for_each(|of| *of = a);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(sizes: &[f64], weights: &[(usize, usize, f64)]) -> Shared {
        let pairs = weights.iter().map(|(a, b, weight)| ((*a, *b), weight * sizes[*a] * sizes[*b])).collect();
        Shared { sizes: sizes.to_vec(), pairs }
    }

    #[test]
    fn what_is_doubtful_stands_apart_and_tears_nothing() {
        let turns = shared(&[3.0, 2.0, 3.0], &[(0, 1, 0.5), (1, 2, 0.5), (0, 2, 0.99)]);
        assert_eq!(linked(&turns, 0.6), [0, 1, 0]);
    }

    #[test]
    fn much_is_joined_only_where_it_is_surer_than_little() {
        assert_eq!(linked(&shared(&[2.0, 30.0], &[(0, 1, 0.8)]), 0.6), [0, 0]);
        assert_eq!(linked(&shared(&[30.0, 30.0], &[(0, 1, 0.8)]), 0.6), [0, 1]);
    }
}
