use bytes::Bytes;
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

const UP: Direction = Direction::ClientToServer;
const DOWN: Direction = Direction::ServerToClient;

fn frame(direction: Direction, text: &str) -> Frame {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    Frame { direction, length: bytes.len() as u64, bytes, terminated: true, delivered: true, sha256: None }
}

fn pass(journal: &Journal, direction: Direction, time: i64, text: &str) {
    let ticket = journal.begin(direction, time);
    journal.finish(&ticket, vec![frame(direction, text)]);
}

fn batch(journal: &Journal) -> Vec<Observation> {
    match journal.take() {
        Next::Record(batch) => batch,
        other => panic!("expected a batch, got {other:?}"),
    }
}

fn check(batch: &[Observation], expected: Expect) {
    let lines = batch.iter().map(|Observation { sequence, time_unix_nano, event }| match event {
        Event::Frame(frame) => {
            format!("{sequence} @{time_unix_nano} {} {}", frame.direction.as_str(), frame.bytes.escape_ascii())
        }
        Event::Gap(gap) => format!(
            "{sequence} @{time_unix_nano} {} gap {} frames {} bytes {}..{} {}",
            gap.direction.as_str(),
            gap.frames,
            gap.bytes,
            gap.from_unix_nano,
            gap.to_unix_nano,
            gap.reason.as_str()
        ),
        other => format!("{sequence} @{time_unix_nano} {other:?}"),
    });
    expected.assert_eq(&lines.collect::<Vec<_>>().join("\n"));
}

#[test]
fn a_response_never_stands_before_its_request() {
    let journal = Journal::new(1 << 20, OnRecordFailure::Warn);
    let request = journal.begin(UP, 1);
    pass(&journal, DOWN, 2, "response");
    assert!(matches!(journal.take(), Next::Wait(Some(_))));
    journal.finish(&request, vec![frame(UP, "request")]);
    check(
        &batch(&journal),
        expect![[r#"
        0 @1 client_to_server request
        1 @2 server_to_client response"#]],
    );
}

#[test]
fn a_hanging_forward_does_not_hold_the_others_up() {
    let journal = Journal::new(1 << 20, OnRecordFailure::Warn);
    let hanging = journal.begin(DOWN, 1);
    pass(&journal, UP, 2, "request");
    let long_ago = Instant::now().checked_sub(Duration::from_millis(ORDER_HOLD_MS)).unwrap();
    journal.lock().forwarding[DOWN.index()] = Some((hanging.number, long_ago));
    check(&batch(&journal), expect!["0 @2 client_to_server request"]);
    journal.finish(&hanging, vec![frame(DOWN, "late")]);
    check(&batch(&journal), expect!["1 @1 server_to_client late"]);
}

#[test]
fn overflow_becomes_a_gap_where_it_happened() {
    let journal = Journal::new(2 * OBSERVATION_BYTES + 10, OnRecordFailure::Warn);
    pass(&journal, UP, 1, "the first one");
    pass(&journal, UP, 2, "second");
    pass(&journal, DOWN, 3, "third");
    pass(&journal, UP, 4, "fourth");
    // The gaps come at the first chance; a frame after them fits again once the first is durable.
    let first = batch(&journal);
    check(
        &first,
        expect![[r#"
        0 @1 client_to_server the first one
        1 @4 client_to_server gap 2 frames 12 bytes 2..4 overflow
        2 @3 server_to_client gap 1 frames 5 bytes 3..3 overflow"#]],
    );
    journal.recorded(&first);
    pass(&journal, UP, 5, "fifth");
    check(&batch(&journal), expect!["3 @5 client_to_server fifth"]);
    assert_eq!(journal.counts().0, Counts { frames: 5, bytes: 35 });
    assert_eq!(journal.counts().1, Counts { frames: 1, bytes: 13 });
}

#[test]
fn a_frame_larger_than_the_budget_is_admitted_when_nothing_waits() {
    let journal = Journal::new(4, OnRecordFailure::Warn);
    pass(&journal, UP, 1, "more than four");
    check(&batch(&journal), expect!["0 @1 client_to_server more than four"]);
}

#[test]
fn a_rejected_gap_waits_for_the_next_frame() {
    let journal = Journal::new(1 << 20, OnRecordFailure::Warn);
    pass(&journal, UP, 1, "bad");
    journal.rejected(batch(&journal).remove(0));
    let gap = batch(&journal);
    check(&gap, expect!["1 @1 client_to_server gap 1 frames 3 bytes 1..1 rejected"]);
    journal.rejected(gap.into_iter().next().unwrap());
    assert_eq!(journal.take(), Next::Wait(None));
    pass(&journal, UP, 2, "good");
    check(
        &batch(&journal),
        expect![[r#"
        2 @1 client_to_server gap 1 frames 3 bytes 1..1 rejected
        3 @2 client_to_server good"#]],
    );
}

#[test]
fn block_lets_nothing_through_while_recording_fails() {
    let journal = std::sync::Arc::new(Journal::new(1 << 20, OnRecordFailure::Block));
    pass(&journal, UP, 1, "before");
    let held = batch(&journal);
    let held = journal.failing(held);
    // Log lines of the server still pass.
    pass(&journal, Direction::ServerStderr, 2, "log");
    let (report, reports) = std::sync::mpsc::channel();
    let pump = std::thread::spawn({
        let journal = std::sync::Arc::clone(&journal);
        move || {
            report.send("started").unwrap();
            let ticket = journal.begin(UP, 3);
            report.send("passed").unwrap();
            journal.finish(&ticket, vec![frame(UP, "after")]);
        }
    });
    assert_eq!(reports.recv().unwrap(), "started");
    assert!(reports.try_recv().is_err());
    journal.recorded(&held);
    assert_eq!(reports.recv().unwrap(), "passed");
    pump.join().unwrap();
    check(
        &batch(&journal),
        expect![[r#"
        1 @2 server_stderr log
        2 @3 client_to_server after"#]],
    );
}

#[derive(Clone, Debug)]
enum Action {
    Read(usize),
    Forwarded(usize, Vec<u8>),
    Take,
    Durable,
    Refused,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        (0..3_usize).prop_map(Action::Read),
        (0..3_usize, prop::collection::vec(0..200_u8, 0..4)).prop_map(|(index, lines)| Action::Forwarded(index, lines)),
        Just(Action::Take),
        Just(Action::Durable),
        Just(Action::Refused),
    ]
}

proptest! {
    #[test]
    fn every_frame_is_recorded_or_counted(actions in prop::collection::vec(action(), 0..60)) {
        let journal = Journal::new(600, OnRecordFailure::Warn);
        let mut tickets: [Option<Ticket>; 3] = [None, None, None];
        let mut at_recorder: Vec<Observation> = Vec::new();
        let mut log: Vec<Observation> = Vec::new();
        let mut next_sequence = 0;
        let mut passed = 0_u64;
        let mut take = |at_recorder: &mut Vec<Observation>| {
            if let Next::Record(batch) = journal.take() {
                for observation in &batch {
                    assert_eq!(observation.sequence, next_sequence);
                    next_sequence += 1;
                }
                at_recorder.extend(batch);
            }
        };
        for action in actions {
            match action {
                Action::Read(index) if tickets[index].is_none() => {
                    tickets[index] = Some(journal.begin(Direction::ALL[index], 1));
                }
                Action::Forwarded(index, lines) => if let Some(ticket) = tickets[index].take() {
                    passed += lines.len() as u64;
                    let text = |length: &u8| "x".repeat(usize::from(*length));
                    journal.finish(&ticket, lines.iter().map(|l| frame(Direction::ALL[index], &text(l))).collect());
                },
                Action::Take if at_recorder.is_empty() => take(&mut at_recorder),
                Action::Durable => {
                    journal.recorded(&at_recorder);
                    log.append(&mut at_recorder);
                }
                Action::Refused => at_recorder.drain(..).for_each(|observation| journal.rejected(observation)),
                Action::Read(_) | Action::Take => {}
            }
            prop_assert!(journal.lock().held_bytes <= 600 + 3 * OBSERVATION_BYTES);
        }
        for (index, ticket) in tickets.into_iter().enumerate() {
            if let Some(ticket) = ticket {
                journal.finish(&ticket, vec![frame(Direction::ALL[index], "last")]);
                passed += 1;
            }
        }
        // A frame that is recorded makes rejected gaps welcome again.
        journal.recorded(&at_recorder);
        log.append(&mut at_recorder);
        for _ in 0..3 {
            take(&mut at_recorder);
            journal.recorded(&at_recorder);
            log.append(&mut at_recorder);
        }
        let counted: u64 = log.iter().map(|observation| match &observation.event {
            Event::Frame(_) => 1,
            Event::Gap(gap) => gap.frames,
            _ => 0,
        }).sum();
        prop_assert_eq!(counted, passed);
        prop_assert_eq!(journal.lock().held_bytes, 0);
    }
}

#[test]
fn many_small_frames_leave_in_parts_and_gaps_with_the_last() {
    let journal = Journal::new(3 * (BATCH_MAX + 5) * OBSERVATION_BYTES, OnRecordFailure::Warn);
    for n in 0..BATCH_MAX + 5 {
        pass(&journal, UP, n as i64, "x");
    }
    let mut state = journal.lock();
    let ticket = state.take_ticket();
    state.lose(ticket, gap_of(&frame(DOWN, "lost"), 7, GapReason::Overflow));
    drop(state);
    let first = batch(&journal);
    assert!(first.len() == BATCH_MAX && first.iter().all(|one| one.frame().is_some()), "{}", first.len());
    journal.recorded(&first);
    let second = batch(&journal);
    assert_eq!((second.len(), second.iter().filter(|one| one.frame().is_none()).count()), (6, 1));
    let sequences: Vec<u64> = first.iter().chain(&second).map(|one| one.sequence).collect();
    assert_eq!(sequences, (0..BATCH_MAX as u64 + 6).collect::<Vec<_>>());
}
