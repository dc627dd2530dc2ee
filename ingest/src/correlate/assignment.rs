//! Assignment: of rows and columns that could belong together, the set of pairs that explains most.
//!
//! Per connected component of the candidate graph the maximum-score matching, with "no partner" worth
//! `none`, by successive shortest paths (Jonker and Volgenant 1987). Confidence of a chosen pair is its
//! marginal over all partial matchings.
//!
//! Invariants
//! - a function of the set of candidates, not of their order
//! - a component of more than [`EXACT_MAX`] rows or columns is matched best score first, so time stays bounded

use std::collections::{BTreeMap, HashMap};

/// Rows or columns up to which a component is solved exactly.
const EXACT_MAX: usize = 320;
/// Candidates this far below `none` are not worth keeping.
const BELOW: f64 = 3.0;
const MESSAGE_ROUNDS: usize = 200;
/// Steps up to which [`best_total`] is solved exactly.
const TOTAL_STEPS_MAX: usize = 400_000_000;

/// A row and a column that could belong together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) row: u32,
    pub(super) column: u32,
    pub(super) score: f64,
}

/// The column chosen for a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Match {
    pub(super) column: u32,
    /// 0 to 1.
    pub(super) confidence: f64,
    /// The same summed over all columns: that the row has any.
    pub(super) any: f64,
    pub(super) score: f64,
}

/// Chosen columns by row.
pub(super) type Matches = BTreeMap<u32, Match>;

/// Solves the whole graph. `trust` is what a score's distance from `none` counts for in confidence: below 1 where pieces of
/// evidence are not independent.
pub(super) fn assign(candidates: &[Candidate], none: f64, trust: f64) -> Matches {
    let mut kept: Vec<Candidate> = candidates.iter().filter(|c| c.score > none - BELOW).copied().collect();
    kept.sort_unstable_by_key(|c| (c.row, c.column));
    let mut matches = Matches::new();
    for component in components(&kept) {
        solve(&component, none, trust, &mut matches);
    }
    matches
}

/// Candidates by connected component, each ordered by row and column.
fn components(candidates: &[Candidate]) -> Vec<Vec<Candidate>> {
    let mut place: HashMap<(bool, u32), usize> = HashMap::new();
    let mut up: Vec<usize> = Vec::new();
    let mut node = |key: (bool, u32), up: &mut Vec<usize>| {
        *place.entry(key).or_insert_with(|| {
            up.push(up.len());
            up.len() - 1
        })
    };
    let mut rows = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let row = node((false, candidate.row), &mut up);
        let column = node((true, candidate.column), &mut up);
        rows.push(row);
        let (a, b) = (root(&mut up, row), root(&mut up, column));
        up[a.max(b)] = a.min(b);
    }
    let mut groups: BTreeMap<usize, Vec<Candidate>> = BTreeMap::new();
    for (candidate, row) in candidates.iter().zip(rows) {
        groups.entry(root(&mut up, row)).or_default().push(*candidate);
    }
    groups.into_values().collect()
}

fn root(up: &mut [usize], mut at: usize) -> usize {
    while up[at] != at {
        up[at] = up[up[at]];
        at = up[at];
    }
    at
}

fn solve(component: &[Candidate], none: f64, trust: f64, matches: &mut Matches) {
    if let [only] = component {
        if only.score > none {
            let confidence = 1.0 / (1.0 + (-(trust * (only.score - none)).min(40.0)).exp());
            matches.insert(only.row, Match { column: only.column, confidence, any: confidence, score: only.score });
        }
        return;
    }
    let mut rows: Vec<u32> = component.iter().map(|c| c.row).collect();
    rows.dedup();
    let mut columns: Vec<u32> = component.iter().map(|c| c.column).collect();
    columns.sort_unstable();
    columns.dedup();
    let local: Vec<(usize, usize, f64)> = component
        .iter()
        .map(|c| {
            let row = rows.partition_point(|row| *row < c.row);
            (row, columns.partition_point(|column| *column < c.column), c.score)
        })
        .collect();
    let chosen = if rows.len().max(columns.len()) <= EXACT_MAX {
        exact(&local, rows.len(), columns.len(), none)
    } else {
        greedy(&local, rows.len(), columns.len(), none)
    };
    let marginals = marginals(&local, rows.len(), columns.len(), none, trust);
    let mut any = vec![0.0; rows.len()];
    local.iter().zip(&marginals).for_each(|((row, ..), marginal)| any[*row] += marginal);
    for ((row, column, score), confidence) in local.iter().zip(marginals) {
        if chosen[*row] == Some(*column) {
            matches.insert(rows[*row], Match { column: columns[*column], confidence, any: any[*row], score: *score });
        }
    }
}

/// Best score first.
fn greedy(edges: &[(usize, usize, f64)], rows: usize, columns: usize, none: f64) -> Vec<Option<usize>> {
    let mut order: Vec<&(usize, usize, f64)> = edges.iter().filter(|edge| edge.2 > none).collect();
    order.sort_by(|a, b| b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1))));
    let (mut chosen, mut taken) = (vec![None; rows], vec![false; columns]);
    for (row, column, _) in order {
        if chosen[*row].is_none() && !taken[*column] {
            chosen[*row] = Some(*column);
            taken[*column] = true;
        }
    }
    chosen
}

/// Maximum-weight matching. Column `columns + row` is the row's own "no partner".
fn exact(edges: &[(usize, usize, f64)], rows: usize, columns: usize, none: f64) -> Vec<Option<usize>> {
    let width = columns + rows;
    const NEVER: f64 = 1e7;
    let mut cost = vec![NEVER; rows * width];
    edges.iter().for_each(|(row, column, score)| cost[row * width + column] = -score);
    (0..rows).for_each(|row| cost[row * width + columns + row] = -none);
    // Potentials and shortest augmenting paths, one row at a time; index 0 is a sentinel.
    let (mut u, mut v) = (vec![0.0; rows + 1], vec![0.0; width + 1]);
    let mut owner = vec![0usize; width + 1];
    let mut way = vec![0usize; width + 1];
    for row in 1..=rows {
        owner[0] = row;
        let mut at = 0;
        let mut least = vec![f64::INFINITY; width + 1];
        let mut used = vec![false; width + 1];
        loop {
            used[at] = true;
            let from = owner[at];
            let (mut delta, mut next) = (f64::INFINITY, 0);
            for column in 1..=width {
                if used[column] {
                    continue;
                }
                let reduced = cost[(from - 1) * width + column - 1] - u[from] - v[column];
                if reduced < least[column] {
                    least[column] = reduced;
                    way[column] = at;
                }
                if least[column] < delta {
                    delta = least[column];
                    next = column;
                }
            }
            for column in 0..=width {
                if used[column] {
                    u[owner[column]] += delta;
                    v[column] -= delta;
                } else {
                    least[column] -= delta;
                }
            }
            at = next;
            if owner[at] == 0 {
                break;
            }
        }
        while at != 0 {
            let before = way[at];
            owner[at] = owner[before];
            at = before;
        }
    }
    let mut chosen = vec![None; rows];
    for column in 1..=columns {
        if owner[column] != 0 && cost[(owner[column] - 1) * width + column - 1] < NEVER {
            chosen[owner[column] - 1] = Some(column - 1);
        }
    }
    chosen
}

/// Marginal of each edge over all partial matchings, each weighing the product of its edges: belief propagation for
/// matchings, exact where the component has no cycle and convergent everywhere (Bayati et al. 2007, Zdeborova 2006).
/// `x(a -> b) = 1 / (1 + sum over other neighbours c of a of w(a, c) x(c -> a))`.
fn marginals(edges: &[(usize, usize, f64)], rows: usize, columns: usize, none: f64, trust: f64) -> Vec<f64> {
    let weight: Vec<f64> = edges.iter().map(|edge| (trust * (edge.2 - none)).clamp(-60.0, 40.0).exp()).collect();
    let mut of_row = vec![Vec::new(); rows];
    let mut of_column = vec![Vec::new(); columns];
    for (at, (row, column, _)) in edges.iter().enumerate() {
        of_row[*row].push(at);
        of_column[*column].push(at);
    }
    let (mut from_row, mut from_column) = (vec![1.0; edges.len()], vec![1.0; edges.len()]);
    for _ in 0..MESSAGE_ROUNDS {
        let moved = pass(&of_row, &weight, &from_column, &mut from_row)
            + pass(&of_column, &weight, &from_row, &mut from_column);
        if moved < 1e-9 {
            break;
        }
    }
    let both = from_row.iter().zip(&from_column).zip(&weight).map(|((row, column), weight)| weight * row * column);
    both.map(|own| own / (1.0 + own)).collect()
}

/// New messages out of each node; the largest change. Sums before and after an edge are kept apart, so nothing is lost by
/// subtracting large numbers.
fn pass(nodes: &[Vec<usize>], weight: &[f64], incoming: &[f64], outgoing: &mut [f64]) -> f64 {
    let mut moved = 0.0f64;
    let mut after = Vec::new();
    for node in nodes {
        after.clear();
        after.resize(node.len() + 1, 0.0);
        for (place, edge) in node.iter().enumerate().rev() {
            after[place] = after[place + 1] + weight[*edge] * incoming[*edge];
        }
        let mut before = 0.0;
        for (place, edge) in node.iter().enumerate() {
            let new = 1.0 / (1.0 + before + after[place + 1]);
            // Half of the way: plain messages may swing between two values.
            let new = f64::midpoint(new, outgoing[*edge]);
            moved = moved.max((new - outgoing[*edge]).abs());
            outgoing[*edge] = new;
            before += weight[*edge] * incoming[*edge];
        }
    }
    moved
}

/// Rivals kept for each line.
const RIVALS_MAX: usize = 5;

/// The best rows of each column (`by_column`) or columns of each row, best first.
pub(super) fn ranked(candidates: &[Candidate], by_column: bool, none: f64) -> BTreeMap<u32, Vec<(u32, f64)>> {
    let mut ranked: BTreeMap<u32, Vec<(u32, f64)>> = BTreeMap::new();
    for c in candidates.iter().filter(|c| c.score > none - BELOW) {
        let (of, rival) = if by_column { (c.column, c.row) } else { (c.row, c.column) };
        ranked.entry(of).or_default().push((rival, c.score));
    }
    for rivals in ranked.values_mut() {
        rivals.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        rivals.truncate(RIVALS_MAX);
    }
    ranked
}

/// Rows to columns with the largest total of `value` (row-major), every row taken at most once; only gains are taken.
pub(super) fn best_total(value: &[f64], rows: usize, columns: usize) -> Vec<Option<usize>> {
    let edges: Vec<(usize, usize, f64)> =
        (0..rows * columns).filter(|at| value[*at] > 0.0).map(|at| (at / columns, at % columns, value[at])).collect();
    if rows * rows * (rows + columns) <= TOTAL_STEPS_MAX {
        exact(&edges, rows, columns, 0.0)
    } else {
        greedy(&edges, rows, columns, 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(scores: &[(u32, u32, f64)]) -> Vec<Candidate> {
        scores.iter().map(|(row, column, score)| Candidate { row: *row, column: *column, score: *score }).collect()
    }

    #[test]
    fn the_best_total_wins_over_the_best_pair() {
        let found = assign(&candidates(&[(0, 0, 9.0), (0, 1, 8.0), (1, 0, 8.5)]), 2.0, 1.0);
        assert_eq!(found.iter().map(|(row, m)| (*row, m.column)).collect::<Vec<_>>(), [(0, 1), (1, 0)]);
    }

    #[test]
    fn twins_share_the_confidence() {
        let found = assign(&candidates(&[(0, 0, 9.0), (0, 1, 9.0), (1, 0, 9.0), (1, 1, 9.0)]), 2.0, 1.0);
        assert!(found.values().all(|m| (m.confidence - 0.5).abs() < 0.02), "{found:?}");
    }

    #[test]
    fn below_the_threshold_there_is_no_pair() {
        assert!(assign(&candidates(&[(0, 0, 1.0)]), 2.0, 1.0).is_empty());
        assert!(assign(&candidates(&[(0, 0, 1.0), (0, 1, 1.5), (1, 1, 0.0)]), 2.0, 1.0).is_empty());
    }

    #[test]
    fn order_of_candidates_does_not_matter() {
        let scores = [(0, 0, 5.0), (0, 1, 5.5), (1, 1, 6.0), (2, 1, 5.9), (2, 2, 3.0), (3, 0, 4.0)];
        let forward = assign(&candidates(&scores), 2.0, 1.0);
        let backward: Vec<_> = scores.iter().rev().copied().collect();
        assert_eq!(forward, assign(&candidates(&backward), 2.0, 1.0));
    }
}
