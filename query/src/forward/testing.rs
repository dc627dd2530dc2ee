//! Events for tests of sinks.

use threadline_schemas::Kind;
use threadline_schemas::ocsf::samples;
use threadline_schemas::record::event_id;

use super::config::Common;
use super::event::Event;
use super::pairs::Told;
use super::position::Position;
use super::render::{Rendered, Renderer};

/// The `n`th event.
pub(crate) fn event(n: u32) -> Event {
    let mut record = samples::records().into_iter().find(|record| record.kind == Kind::Result).expect("a sample");
    record.event_id = event_id("t", &format!("own:{n}"));
    record.set_time(Some(1_784_900_000_123_456_789 + i64::from(n) * 1_000_000), 1_784_900_001_000_000);
    let told = Told::of(record, Position::before(0));
    match Renderer::new(&Common::default(), None).render(&told) {
        Rendered::Event(event) => *event,
        other => panic!("{other:?}"),
    }
}
