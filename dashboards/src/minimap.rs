//! The whole session at a glance: one path per lane, drawn on the server so that it is there without
//! JavaScript, in print and in both themes.

use crate::tree::{RowKind, Tree};
use crate::words;

/// Horizontal steps of the drawing.
pub(crate) const BINS: usize = 500;
/// Units per step; the drawing is `BINS * UNITS` wide.
const UNITS: usize = 2;
/// Height of a lane in units (and pixels).
const LANE_HEIGHT: usize = 10;

/// One lane of the drawing.
#[derive(Debug)]
pub(crate) struct Lane {
    /// Letter, word and colour.
    pub(crate) mark: words::Mark,
    /// Path data; digits and `M h` only.
    pub(crate) path: Path,
}

/// SVG path data of horizontal strokes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Path(String);

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Path {
    /// Whether nothing happened here.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The drawing: lanes prompt, host, wire, gateway, server, downstream, then what failed.
#[derive(Debug)]
pub(crate) struct Minimap {
    /// Lanes from top to bottom; empty ones are part of the picture.
    pub(crate) lanes: Vec<Lane>,
    /// Errors and denials, one more lane below.
    pub(crate) trouble: Path,
    /// Width of the drawing.
    pub(crate) width: usize,
    /// Height of the drawing.
    pub(crate) height: usize,
    /// Positions of folded idle time.
    pub(crate) breaks: Vec<u64>,
}

/// Draws `tree`.
pub(crate) fn draw(tree: &Tree) -> Minimap {
    const LANES: usize = 6;
    let mut filled = [[false; BINS]; LANES + 1];
    let length = tree.axis.length();
    let bin = |at: u64| usize::try_from(u128::from(at) * (BINS as u128 - 1) / u128::from(length)).unwrap_or(BINS - 1);
    for row in &tree.rows {
        let first = bin(row.at);
        let last = bin(row.at + row.width).min(BINS - 1);
        match row.kind {
            RowKind::Turn if row.lane == words::LANE_PROMPT => filled[0][first] = true,
            // Further observations of a prompt are no prompts.
            RowKind::Record if row.lane != words::LANE_PROMPT && usize::from(row.lane) < LANES => {
                filled[usize::from(row.lane)][first..=last].fill(true)
            }
            RowKind::Call if words::OUTCOMES[usize::from(row.outcome)].class == "o-bad" => {
                filled[LANES][first..=last].fill(true);
            }
            _ => {}
        }
    }
    let lanes = (0..LANES).map(|lane| Lane { mark: words::LANES[lane], path: path(&filled[lane], lane) }).collect();
    let units = (BINS * UNITS) as u64;
    let breaks = tree.axis.breaks().iter().map(|b| b.at.saturating_mul(units) / length).collect();
    Minimap {
        lanes,
        trouble: path(&filled[LANES], LANES),
        width: BINS * UNITS,
        height: (LANES + 1) * LANE_HEIGHT,
        breaks,
    }
}

fn path(filled: &[bool; BINS], lane: usize) -> Path {
    let y = lane * LANE_HEIGHT + LANE_HEIGHT / 2;
    let mut out = String::new();
    let mut from = None;
    for bin in 0..=BINS {
        match (from, filled.get(bin).copied().unwrap_or(false)) {
            (None, true) => from = Some(bin),
            (Some(start), false) => {
                out.push_str(&format!("M{} {y}h{}", start * UNITS, (bin - start) * UNITS));
                from = None;
            }
            _ => {}
        }
    }
    Path(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture, tree};

    #[test]
    fn runs_become_strokes() {
        let mut filled = [false; BINS];
        filled[3] = true;
        filled[4] = true;
        filled[BINS - 1] = true;
        assert_eq!(path(&filled, 1), Path("M6 15h4M998 15h2".into()));
    }

    #[test]
    fn each_prompt_is_marked_once_and_nothing_else() {
        let mut session = fixture::session();
        let marks = |session: &_| draw(&tree::build(session)).lanes[usize::from(words::LANE_PROMPT)].path.to_string();
        assert_eq!(marks(&session).matches('M').count() as u64, session.summary.prompts);
        session.turns.iter_mut().for_each(|turn| turn.prompt = None);
        assert_eq!(marks(&session), "");
        let turns = tree::build(&session).rows.into_iter().filter(|row| row.kind == RowKind::Turn);
        assert!(turns.map(|row| row.what).all(|what| what.as_str() == "without a prompt"));
    }

    #[test]
    fn empty_lanes_stay_visible() {
        let map = draw(&tree::build(&fixture::session()));
        let empty: Vec<&str> = map.lanes.iter().filter(|l| l.path.is_empty()).map(|l| l.mark.word).collect();
        assert_eq!(empty, ["gateway", "downstream"]);
        assert!(!map.trouble.is_empty(), "the crash is marked");
    }
}
