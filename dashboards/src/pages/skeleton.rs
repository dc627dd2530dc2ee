//! The rows of a long session as columns of JSON, for the virtual treegrid: numbers, and short, already
//! visible texts of which each is sent once. Bodies stay on the pages of their records.

use std::collections::HashMap;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Params;
use super::problem::{self, Attempt};
use crate::answers::Answers;
use crate::believed::Believed;
use crate::text::Shown;
use crate::tree::{self, RowKind, Tree};
use crate::words;

/// Characters of a foreign text in the skeleton.
const SAYS_CHARS_MAX: usize = 80;

/// Entry `i` of every list is row `i`. `date` to `says` index `texts`, whose first is empty; `lane`,
/// `outcome` and `grade` index the vocabularies at the end. `href` is empty where it follows from the
/// anchor (records) or from the parent (bodies, gaps).
#[derive(Debug, Serialize)]
struct Skeleton<'a> {
    length: u64,
    kind: Vec<u8>,
    level: Vec<u8>,
    parent: Vec<i64>,
    cause: Vec<i64>,
    at: Vec<u64>,
    width: Vec<u64>,
    lane: Vec<u8>,
    seen: Vec<u8>,
    outcome: Vec<u8>,
    grade: Vec<i8>,
    time: Vec<&'a Shown>,
    date: Vec<usize>,
    duration: Vec<usize>,
    what: Vec<usize>,
    flag: Vec<usize>,
    says: Vec<usize>,
    anchor: Vec<&'a Shown>,
    href: Vec<&'a str>,
    texts: Vec<Shown>,
    lanes: Vec<[&'static str; 3]>,
    outcomes: Vec<[&'static str; 3]>,
    grades: Vec<[&'static str; 3]>,
}

/// `GET /sessions/{id}/skeleton`
pub(crate) async fn columns<E: Answers>(
    State(engine): State<E>,
    Path(id): Path<String>,
    headers: HeaderMap,
    params: Params,
) -> Response {
    let asked = async { engine.session(&id, &Believed::of(&params)?.options()).await };
    match asked.await {
        Ok(answer) => {
            let tree = tree::build(&answer.data);
            match serde_json::to_vec(&skeleton(&tree)) {
                Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
                Err(_) => axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }
        }
        Err(error) => problem::page(&headers, &error, &Attempt { how: &["as any id of a session"], what: &id }),
    }
}

/// Each text once.
#[derive(Default)]
struct Texts {
    places: HashMap<Shown, usize>,
}

impl Texts {
    fn place(&mut self, text: &Shown) -> usize {
        let next = self.places.len();
        match self.places.get(text) {
            Some(place) => *place,
            None => *self.places.entry(text.clone()).or_insert(next),
        }
    }

    fn in_order(self) -> Vec<Shown> {
        let mut texts: Vec<(usize, Shown)> = self.places.into_iter().map(|(text, place)| (place, text)).collect();
        texts.sort_unstable();
        texts.into_iter().map(|(_, text)| text).collect()
    }
}

fn skeleton(tree: &Tree) -> Skeleton<'_> {
    let index = |row: Option<usize>| row.and_then(|row| i64::try_from(row).ok()).unwrap_or(-1);
    let marks = |marks: &[words::Mark]| marks.iter().map(|m| [m.glyph, m.word, m.class]).collect();
    let rows = &tree.rows;
    let mut texts = Texts::default();
    texts.place(&Shown::default());
    let mut text_of = |of: &dyn Fn(&tree::Row) -> Shown| rows.iter().map(|row| texts.place(&of(row))).collect();
    Skeleton {
        length: tree.axis.length(),
        kind: rows.iter().map(|row| number(row.kind)).collect(),
        level: rows.iter().map(|row| row.level).collect(),
        parent: rows.iter().map(|row| index(row.parent)).collect(),
        cause: rows.iter().map(|row| index(row.cause)).collect(),
        at: rows.iter().map(|row| row.at).collect(),
        width: rows.iter().map(|row| row.width).collect(),
        lane: rows.iter().map(|row| row.lane).collect(),
        seen: rows.iter().map(|row| row.seen).collect(),
        outcome: rows.iter().map(|row| row.outcome).collect(),
        grade: rows.iter().map(|row| row.grade.map_or(-1, |grade| grade as i8)).collect(),
        time: rows.iter().map(|row| &row.time).collect(),
        date: text_of(&|row| row.date.clone()),
        duration: text_of(&|row| row.duration.clone().unwrap_or_default()),
        what: text_of(&|row| row.what.clone()),
        flag: text_of(&|row| Shown::line(row.flag)),
        says: text_of(&|row| Shown::short(row.says.as_str(), SAYS_CHARS_MAX)),
        anchor: rows.iter().map(|row| &row.anchor).collect(),
        href: rows.iter().map(href).collect(),
        texts: texts.in_order(),
        lanes: marks(&words::LANES),
        outcomes: marks(&words::OUTCOMES),
        grades: words::GRADES.iter().map(|&g| words::grade(g)).map(|m| [m.glyph, m.word, m.class]).collect(),
    }
}

fn href(row: &tree::Row) -> &str {
    match row.kind {
        RowKind::Record if !row.anchor.is_empty() => "",
        RowKind::Body | RowKind::Gap | RowKind::Group => "",
        _ => row.href.as_str(),
    }
}

/// How rows are told apart in the address space of the module: 0 turn, 1 call, 2 record, 3 body, 4 gap, 5 group.
pub(super) fn number(kind: RowKind) -> u8 {
    match kind {
        RowKind::Turn => 0,
        RowKind::Call => 1,
        RowKind::Record => 2,
        RowKind::Body => 3,
        RowKind::Gap => 4,
        RowKind::Group => 5,
    }
}
