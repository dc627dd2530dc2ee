//! Sessions of hand-made records: when they began and ended, and what is named as missing.

use threadline_schemas::{Kind, Outcome, Record};

use super::{Options, reconstruct, sort};
use crate::line::parse_time;
use crate::links::Contest;
use crate::model::Session;
use crate::testing::make;

fn session(mut records: Vec<Record>) -> Session {
    sort(&mut records);
    reconstruct("s", &records, &Contest::default(), &Options::default()).session
}

/// From when to when, in milliseconds of `make`.
fn span(start: &str, end: &str) -> (i64, i64) {
    let ms = |text: &str| (parse_time(text).unwrap() - 1_795_170_000_000_000_000) / 1_000_000;
    (ms(start), ms(end))
}

#[test]
fn a_duration_counts_back_from_what_is_stamped_at_its_end() {
    let lasting = |ms: i64| move |record: &mut Record| record.duration_nano = Some(ms * 1_000_000);
    let told = make("told", Kind::Call, 500).host("c").tool("t", "refund").with(lasting(300));
    let told = told.with(|record| {
        record.attributes = Some(r#"{"threadline.time_is":"end"}"#.into());
        record.outcome = Some(Outcome::Ok);
    });
    let session = session(vec![make("ask", Kind::Prompt, 400).host("c").text("go").done(), told.done()]);
    assert_eq!(span(&session.summary.start, &session.summary.end), (200, 500));
    let call = session.turns.iter().flat_map(|turn| &turn.calls).next().unwrap();
    assert_eq!(span(&call.start, call.end.as_deref().unwrap()), (200, 500));
    assert_eq!(call.records[0].time_is.as_deref(), Some("end"));
}

#[test]
fn a_session_lasts_as_long_as_what_its_last_span_tells() {
    let span_of = make("span", Kind::Call, 100).server().trace("0af7651916cd43dd8448eb211c80319c");
    let span_of = span_of.with(|record| record.duration_nano = Some(5_000_000_000));
    let session = session(vec![span_of.done()]);
    assert_eq!(span(&session.summary.start, &session.summary.end), (100, 5100));
    assert_eq!(session.summary.duration_nano, 5_000_000_000);
}

fn gaps(session: &Session) -> Vec<(&str, &str)> {
    session.gaps.iter().map(|gap| (gap.kind.as_str(), gap.description.as_str())).collect()
}

#[test]
fn a_call_without_a_result_is_a_gap_that_says_what_is_known() {
    let call = || make("call", Kind::Call, 100).host("c").tool("t-1", "refund").done();
    let alone = session(vec![call()]);
    let [("no_result", said)] = gaps(&alone)[..] else { panic!("{:?}", alone.gaps) };
    assert!(
        said.contains("no result seen; nothing later of its session was recorded, so it may be running still"),
        "{said}"
    );
    let later = make("later", Kind::Prompt, 60_100).host("c").text("and now?").done();
    let went_on = session(vec![call(), later]);
    let [("no_result", said)] = gaps(&went_on)[..] else { panic!("{:?}", went_on.gaps) };
    assert!(said.contains("no result seen; its session went on until 2026-11-20T10:21:00.1"), "{said}");
}

#[test]
fn a_call_that_tells_its_own_end_lacks_no_result() {
    let timed = make("span", Kind::Call, 100).server().trace("0af7651916cd43dd8448eb211c80319c");
    let timed = timed.with(|record| record.duration_nano = Some(5_000_000)).done();
    assert!(gaps(&session(vec![timed])).iter().all(|(kind, _)| *kind != "no_result"));
    let refused = make("refused", Kind::Call, 100).host("c").tool("t-1", "refund");
    let refused = refused.with(|record| record.decision = Some(threadline_schemas::Decision::Deny)).done();
    assert!(gaps(&session(vec![refused])).is_empty());
}

#[test]
fn what_a_server_says_alone_tells_why_it_stands_alone() {
    let span = || make("span", Kind::Span, 100).server().trace("0af7651916cd43dd8448eb211c80319c");
    let alone =
        session(vec![span().with(|record| record.keys.push("trace:0af7651916cd43dd8448eb211c80319c".into())).done()]);
    let [("stands_alone", said)] = gaps(&alone)[..] else { panic!("{:?}", alone.gaps) };
    assert!(
        said.contains("no record of a host, gateway or tap bears the id that they bear: 'trace:0af7651916cd"),
        "{said}"
    );
    let called = session(vec![span().done(), make("ask", Kind::Prompt, 50).host("c").text("go").done()]);
    assert!(gaps(&called).is_empty(), "a caller is there");
}
