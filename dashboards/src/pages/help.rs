//! Keys, marks and search words on one page.

use askama::Template;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::show;
use crate::chrome::{Chrome, Place};
use crate::words::{self, Mark};

#[derive(Template)]
#[template(path = "help.html")]
struct Page {
    chrome: Chrome,
    grades: Vec<(Mark, &'static str)>,
    lanes: &'static [Mark],
    keys: &'static [(&'static str, &'static str)],
}

const KEYS: &[(&str, &str)] = &[
    ("/", "go to the search box"),
    ("j  k", "next, previous row"),
    ("l  h", "open, close a row; on a closed row h goes to the row it belongs to"),
    ("Enter", "open or close a call; go to the page of a record"),
    ("u  d", "to what caused this row; to what it caused"),
    ("r", "exact bytes of the record"),
    ("y", "copy a link to this row"),
    ("f", "filter the rows"),
    ("g s", "go to the sessions"),
    ("g x", "go to the search"),
    ("?", "this page"),
    ("Arrows, Home, End", "as j k h l; these stay when letter keys are off"),
];

/// `GET /help`
pub(crate) async fn page(headers: HeaderMap) -> Response {
    let page = Page {
        chrome: Chrome::new(&headers, Place::Help, None),
        grades: words::GRADES.iter().map(|&grade| (words::grade(grade), words::grade_meaning(grade))).collect(),
        lanes: &words::LANES[..6],
        keys: KEYS,
    };
    show(StatusCode::OK, &page)
}
