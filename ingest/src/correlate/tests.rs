//! The linker as a whole, on a made-up estate whose truth is known.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super as threadline_ingest_correlate;
use super::*;

#[path = "../../benches/support/estate.rs"]
mod estate;

use estate::{call_at, estate, unit};

/// Share of observations whose call holds exactly one true call, and share of those placed in a call at all.
fn purity(found: &Correlation, truth: &BTreeMap<Uuid, u64>) -> (f64, f64) {
    let mut members: BTreeMap<(usize, usize), BTreeSet<u64>> = BTreeMap::new();
    let mut placed = 0usize;
    for placement in &found.placements {
        if let (Some(session), Some(call)) = (placement.session, placement.call) {
            members.entry((session, call)).or_default().insert(truth[&placement.id]);
            placed += 1;
        }
    }
    let pure = found.placements.iter().filter(|placement| {
        let key = placement.session.zip(placement.call);
        key.is_some_and(|key| members[&key].len() == 1)
    });
    (pure.count() as f64 / placed.max(1) as f64, placed as f64 / truth.len() as f64)
}

fn run(mut observations: Vec<Observation>) -> Correlation {
    correlate(&mut observations, &Settings::default())
}

#[test]
fn calls_without_a_shared_id_come_together_over_clocks_that_are_seconds_apart() {
    for traces in [true, false] {
        let (observations, calls) = estate(400, traces);
        let truth = observations.iter().map(|o| o.id).zip(calls).collect();
        let (pure, placed) = purity(&run(observations), &truth);
        assert!(pure > 0.99 && placed > 0.98, "traces {traces}: {pure} {placed}");
    }
}

#[test]
fn ten_orders_of_arrival_give_the_same_links() {
    let (observations, _) = estate(150, false);
    let expected = run(observations.clone()).placements;
    for order in 0..10u64 {
        let mut shuffled = observations.clone();
        shuffled.sort_by(|a, b| {
            let key = |o: &Observation| unit(o.id.as_u128() as u64 ^ order.wrapping_mul(0x1234_5677));
            key(a).total_cmp(&key(b))
        });
        assert!(run(shuffled).placements == expected, "order {order}");
    }
}

#[test]
fn identical_concurrent_calls_are_ambiguous() {
    let (mut observations, _) = estate(200, false);
    // Two users do the same at the same moment; their workstations' clocks are known from all the rest.
    let twins: Vec<Observation> = [(900, 3, 0), (901, 3, 1)]
        .iter()
        .flat_map(|(number, server, ordinal)| {
            let mut call = call_at(*number, 5, *server, 30.05, 0.1, "K-same", false);
            for (place, observation) in call.iter_mut().enumerate() {
                observation.id = Uuid::from_u128(0xf000 + ordinal * 16 + place as u128);
                observation.twin = Some(7000 + *number);
            }
            call
        })
        .collect();
    let executions: Vec<Uuid> = twins.iter().filter(|o| o.act == Act::Execution).map(|o| o.id).collect();
    observations.extend(twins);
    let found = run(observations);
    for id in executions {
        let placement = found.placements.iter().find(|placement| placement.id == id).unwrap();
        assert_eq!((placement.parent, placement.session), (None, None), "{placement:?}");
        assert_eq!(placement.rivals.len(), 2, "{placement:?}");
    }
}

#[test]
fn a_replayed_frame_joins_nobody() {
    let (mut observations, _) = estate(200, false);
    let victim = observations.iter().find(|o| o.act == Act::Request).unwrap().clone();
    let mut replay = victim.clone();
    replay.id = Uuid::from_u128(1 << 127);
    replay.time_unix_nano += 9_000_000_000;
    (replay.subject, replay.addresses) = (Some("mallory".into()), vec!["10.6.6.6".into()]);
    observations.push(replay.clone());
    let found = run(observations);
    let place = |id: Uuid| found.placements.iter().find(|placement| placement.id == id).unwrap();
    let (true_place, forged) = (place(victim.id), place(replay.id));
    assert!(true_place.session.is_some() && true_place.parent.is_some());
    assert_eq!(forged.parent, None);
    let mates = found.placements.iter().filter(|p| p.session == forged.session && p.id != forged.id).count();
    assert!(forged.session.is_none() || mates == 0, "{mates}");
    let shared = found.findings.iter().find(|finding| finding.kind == FindingKind::SessionShared);
    assert!(victim.mcp_session.is_none() || shared.is_some_and(|finding| finding.records.contains(&replay.id)));
}

#[test]
fn arguments_that_changed_on_their_way_still_find_their_call() {
    let (mut observations, _) = estate(200, false);
    let at = observations.iter().position(|o| o.act == Act::Execution).unwrap();
    let request = observations[..at].iter().rposition(|o| o.act == Act::Request).unwrap();
    let (execution, request) = (observations[at].id, observations[request].id);
    observations[at].arguments.digests = vec!["another Unicode form of the same".into()];
    let found = run(observations);
    let placement = found.placements.iter().find(|placement| placement.id == execution).unwrap();
    assert_eq!(placement.parent, Some(request), "{placement:?}");
    assert!(placement.evidence.iter().any(|(what, _)| *what == "arguments_differ"));
}

#[test]
fn a_session_id_that_reaches_two_servers_where_none_does_is_a_finding() {
    let (mut observations, calls) = estate(400, false);
    for (observation, call) in observations.iter_mut().zip(calls) {
        observation.mcp_session = observation.mcp_session.take().map(|session| format!("{session}-{}", call / 60));
    }
    assert!(run(observations.clone()).findings.is_empty());
    let reused = observations.iter().find_map(|o| o.mcp_session.clone()).unwrap();
    let mut other = call_at(9000, 0, 3, 20.0, 0.1, "K-1", false);
    for (place, observation) in other.iter_mut().enumerate() {
        observation.id = Uuid::from_u128(0xe000 + place as u128);
        observation.mcp_session = observation.mcp_session.as_ref().map(|_| reused.clone());
    }
    observations.extend(other);
    let findings = run(observations).findings;
    let reached: Vec<&Finding> = findings.iter().filter(|finding| finding.kind == FindingKind::SessionReused).collect();
    assert!(matches!(reached[..], [finding] if finding.name == reused), "{findings:?}");
}

#[test]
fn a_conversation_id_names_two_conversations_of_one_user_only_where_ids_come_back() {
    let said = |number: u128, user: &str, id: &str, act: Act, model: &str| Observation {
        id: Uuid::from_u128(number),
        act,
        time_unix_nano: number as i64 * 1_000_000_000,
        clock: format!("laptop of {user}"),
        user: Some(user.into()),
        conversation: Some(id.into()),
        model: Some(model.into()),
        text: Some("What next".into()),
        ..Observation::default()
    };
    let own =
        [(10, Act::Prompt, "m-1"), (12, Act::Answer, "m-1"), (900, Act::Prompt, "m-2"), (902, Act::Answer, "m-2")];
    let mut all: Vec<Observation> =
        own.into_iter().map(|(number, act, model)| said(number, "ann", "7", act, model)).collect();
    let sessions = |all: &[Observation]| -> BTreeSet<Option<usize>> {
        let found = run(all.to_vec());
        found
            .placements
            .iter()
            .filter(|p| own.iter().any(|(n, ..)| p.id == Uuid::from_u128(*n)))
            .map(|p| p.session)
            .collect()
    };
    assert_eq!(sessions(&all).len(), 1);
    all.extend([said(20, "bob", "1", Act::Prompt, "m-1"), said(30, "eve", "1", Act::Prompt, "m-1")]);
    assert_eq!(sessions(&all).len(), 2);
    // One model throughout: a pause alone does not tear what an id holds together.
    all.iter_mut().for_each(|o| o.model = Some("m-1".into()));
    assert_eq!(sessions(&all).len(), 1);
}

#[test]
fn frames_of_a_tap_stand_below_what_called_them_by_whatever_clock() {
    let (mut observations, calls) = estate(200, false);
    let mut frames = Vec::new();
    let mut expected = BTreeMap::new();
    for (o, call) in observations.iter().zip(calls) {
        let (act, late) = match o.act {
            Act::Request => (Act::Called, 801_000_000),
            Act::Response => (Act::Returned, 799_000_000),
            _ => continue,
        };
        let id = Uuid::from_u128((1 << 120) | (u128::from(call) << 1) | u128::from(act == Act::Returned));
        if act == Act::Called {
            expected.insert(id, o.id);
        }
        frames.push(Observation {
            id,
            act,
            time_unix_nano: o.time_unix_nano + late,
            clock: "wire:tap".into(),
            connection: o.server.clone(),
            rpc_id: Some(call.to_string()),
            tool: o.tool.clone().map(|tool| format!("prefix-{tool}")),
            arguments: o.arguments.clone(),
            ..Observation::default()
        });
    }
    observations.extend(frames);
    let found = run(observations);
    let right = found.placements.iter().filter(|p| p.parent.is_some() && p.parent.as_ref() == expected.get(&p.id));
    assert!(right.count() >= 196);
    let frames: Vec<&Placement> = found.placements.iter().filter(|p| expected.contains_key(&p.id)).collect();
    let wrong = frames.iter().filter(|p| p.parent.is_some() && p.parent.as_ref() != expected.get(&p.id)).count();
    assert!(wrong == 0 && frames.iter().all(|p| p.session.is_none()), "{wrong}");
}

#[test]
fn a_server_that_logs_nothing_where_others_log_is_a_finding() {
    let (mut observations, _) = estate(400, false);
    let server = observations.iter().find_map(|o| o.server.clone().filter(|_| o.act == Act::Execution)).unwrap();
    let silent = |findings: Vec<Finding>| -> Vec<String> {
        let kind = FindingKind::SilentServer;
        findings.into_iter().filter(|finding| finding.kind == kind).map(|finding| finding.name).collect()
    };
    assert!(silent(run(observations.clone()).findings).is_empty());
    observations.retain(|o| o.act != Act::Execution || o.server.as_ref() != Some(&server));
    assert_eq!(silent(run(observations.clone()).findings), [server]);
    // Where nobody logs, nothing is expected.
    observations.retain(|o| o.act != Act::Execution);
    assert!(silent(run(observations).findings).is_empty());
}

/// Share of the HTTP lines of an estate that stand below their own execution, and how many stand below another; `change` makes
/// them otherwise, and adds lines that nobody's call caused.
fn http_found(change: impl Fn(&mut Observation, u64) -> Vec<Observation>) -> (f64, usize) {
    let (mut observations, calls) = estate(240, false);
    let executions: BTreeMap<u64, Uuid> = observations
        .iter()
        .zip(&calls)
        .filter(|(o, _)| o.act == Act::Execution)
        .map(|(o, call)| (*call, o.id))
        .collect();
    let (mut expected, mut strays) = (BTreeMap::new(), Vec::new());
    for (o, call) in observations.iter_mut().zip(&calls).filter(|(o, _)| o.act == Act::Http) {
        strays.extend(change(o, *call));
        expected.insert(o.id, executions[call]);
    }
    for (number, stray) in strays.iter_mut().enumerate() {
        stray.id = Uuid::from_u128((1 << 126) + number as u128);
    }
    let strange: BTreeSet<Uuid> = strays.iter().map(|o| o.id).collect();
    observations.extend(strays);
    let found = run(observations);
    let is_right = |p: &&Placement| p.parent.is_some() && p.parent.as_ref() == expected.get(&p.id);
    let right = found.placements.iter().filter(is_right).count();
    let lines = found.placements.iter().filter(|p| strange.contains(&p.id) || expected.contains_key(&p.id));
    let placed = lines.filter(|p| p.parent.is_some()).count();
    (right as f64 / expected.len() as f64, placed - right)
}

/// Everything in a line but its time that speaks for its call.
fn segments(o: &mut Observation, path: &[&str]) {
    let http = o.http.as_mut().unwrap();
    http.segments = path.iter().map(|segment| segment.to_string()).collect();
    http.path = format!("/{}", path.join("/"));
}

#[test]
fn paths_need_not_be_named_after_tools() {
    let (usual, _) = http_found(|_, _| Vec::new());
    let (found, wrong) = http_found(|o, _| {
        let value = o.http.as_ref().unwrap().segments[1].clone();
        segments(o, &["v2", "es", &value]);
        Vec::new()
    });
    assert!(found > usual - 0.1 && wrong < 24, "{usual} {found} {wrong}");
}

#[test]
fn ids_of_the_system_behind_are_no_contradiction() {
    let (found, wrong) = http_found(|o, call| {
        segments(o, &["spool", &format!("{:032x}", unit(call).to_bits())]);
        Vec::new()
    });
    // Nothing but time and the tool is left.
    assert!(found > 0.3 && wrong < 48, "{found} {wrong}");
}

#[test]
fn a_system_that_names_no_server_is_found_by_time_and_values() {
    let (usual, _) = http_found(|_, _| Vec::new());
    let (found, wrong) = http_found(|o, _| {
        o.server = None;
        Vec::new()
    });
    assert!(found > usual - 0.1 && wrong < 24, "{usual} {found} {wrong}");
    // Lines at times and with values that have nothing to do with any call are nobody's.
    let (found, wrong) = http_found(|o, call| {
        o.server = None;
        o.time_unix_nano += (unit(call ^ 0x5151) * 60.0) as i64 * 1_000_000_000;
        segments(o, &["thing", &format!("{:032x}", unit(call).to_bits())]);
        Vec::new()
    });
    assert!(found < 0.02 && wrong < 5, "{found} {wrong}");
}

/// [`http_found`] with a line beside each call that says the same at another time, and programs named.
fn polled(program: impl Fn(u64) -> Option<String>, poller: Option<&str>) -> (f64, usize) {
    http_found(|o, call| {
        let mut poll = o.clone();
        poll.time_unix_nano += (unit(call ^ 0x3131) * 40.0) as i64 * 1_000_000_000;
        poll.twin = Some(10_000 + call);
        o.http.as_mut().unwrap().agent = program(call);
        poll.http.as_mut().unwrap().agent = poller.map(str::to_string);
        vec![poll]
    })
}

#[test]
fn a_client_program_is_known_by_enough_lines_only() {
    let (unnamed, strays) = polled(|_| None, None);
    let (told, apart) = polled(|_| Some("server/1".into()), Some("monitor/2"));
    assert!(told > unnamed && apart == 0, "{unnamed} {strays}, {told} {apart}");
    // Two lines are chance, four hundred are not.
    let worth = |sure, all| downstream::worth_of_program(sure, all, 0.5);
    assert!(worth(0.0, 2.0).abs() < 0.2 && worth(2.0, 2.0).abs() < 0.2, "{} {}", worth(0.0, 2.0), worth(2.0, 2.0));
    assert!(worth(0.0, 400.0) < -3.0 && worth(400.0, 400.0) > 3.0);
}

#[test]
fn nothing_is_made_of_nothing_and_of_damage() {
    assert!(run(Vec::new()).placements.is_empty());
    let odd =
        Observation { time_unix_nano: i64::MIN, act: Act::Http, duration: Some(f64::MAX), ..Observation::default() };
    let later =
        Observation { time_unix_nano: i64::MAX, act: Act::Execution, id: Uuid::from_u128(1), ..Observation::default() };
    assert_eq!(run(vec![odd, later]).placements.len(), 2);
}

/// Share of observations that are placed in a call which holds exactly one true call.
fn placed_right(change: impl Fn(&mut Observation, u64)) -> f64 {
    let (mut observations, calls) = estate(300, false);
    observations.iter_mut().zip(&calls).for_each(|(observation, call)| change(observation, *call));
    let (mut kept, mut of) = (Vec::new(), BTreeMap::new());
    for (observation, call) in observations.into_iter().zip(calls).filter(|(o, _)| o.act != Act::Http) {
        if observation.tool_call_id.as_deref() != Some("gone") {
            of.insert(observation.id, call);
            kept.push(observation);
        }
    }
    let (pure, placed) = purity(&run(kept), &of);
    pure * placed
}

#[test]
fn calls_come_together_whatever_the_network_is_like() {
    // Each hop takes as long again, so that durations seen from further away are longer by far more than in a near network.
    for lag in [0.03, 0.1] {
        let right = placed_right(|o, call| {
            o.arguments.digests.iter_mut().for_each(|digest| *digest += &call.to_string());
            let nanos = (lag * 1e9) as i64;
            match o.act {
                Act::Request => o.time_unix_nano += nanos,
                Act::Execution => o.time_unix_nano += 2 * nanos,
                Act::Response => {
                    o.time_unix_nano += 3 * nanos;
                    o.duration = o.duration.map(|duration| duration + 2.0 * lag);
                }
                Act::Outcome => o.time_unix_nano += 4 * nanos,
                _ => {}
            }
        });
        assert!(right > 0.97, "{lag}: {right}");
    }
}

#[test]
fn hosts_of_whole_seconds_find_their_calls() {
    let right = placed_right(|o, call| {
        o.arguments.digests.iter_mut().for_each(|digest| *digest += &call.to_string());
        if matches!(o.act, Act::Choice | Act::Outcome) {
            o.time_unix_nano -= o.time_unix_nano.rem_euclid(1_000_000_000);
        }
    });
    assert!(right > 0.97, "{right}");
}

#[test]
fn a_gateway_may_tell_of_a_call_in_one_line() {
    let right = placed_right(|o, _| match o.act {
        Act::Request => o.duration = Some(0.154),
        Act::Response => o.tool_call_id = Some("gone".into()),
        _ => {}
    });
    assert!(right > 0.95, "{right}");
}

#[test]
fn without_a_gateway_hosts_and_servers_place_each_others_clocks() {
    let right = placed_right(|o, _| {
        if matches!(o.act, Act::Request | Act::Response) {
            o.tool_call_id = Some("gone".into());
        }
    });
    assert!(right > 0.95, "{right}");
}

#[test]
fn hosts_that_do_not_know_their_address_come_from_one_that_theirs_come_from() {
    let (mut observations, calls) = estate(300, false);
    let truth: BTreeMap<Uuid, u64> = observations.iter().map(|o| o.id).zip(calls).collect();
    for o in &mut observations {
        let user = o.subject.as_deref().and_then(|subject| subject.rsplit('-').next()).map(str::to_string);
        if let Some(user) = user {
            o.addresses = vec![format!("10.0.1.{user}")];
        }
    }
    let (pure, placed) = purity(&run(observations.clone()), &truth);
    assert!(pure > 0.99 && placed > 0.97, "{pure} {placed}");
    // One call whose own frame is lost, and a copy of it from elsewhere: not this host's.
    let at = observations.iter().position(|o| o.act == Act::Request && truth[&o.id] == 150).unwrap();
    observations[at].addresses = vec!["10.6.6.6".into()];
    let stranger = observations[at].id;
    let found = run(observations);
    let placement = found.placements.iter().find(|placement| placement.id == stranger).unwrap();
    assert_eq!(placement.parent, None, "{placement:?}");
}

#[test]
fn one_thing_under_two_names_is_one() {
    let names: [fn(&mut Observation); 3] = [
        |o| {
            if matches!(o.act, Act::Choice | Act::Outcome) {
                o.program = o.program.as_ref().map(|program| format!("desk {program}"));
            }
        },
        |o| {
            if o.act == Act::Execution {
                o.server = o.server.as_ref().map(|server| format!("{server}.internal"));
            }
        },
        |o| {
            if o.act == Act::Request {
                o.tool = o.tool.as_ref().map(|tool| format!("srv_{tool}"));
            }
        },
    ];
    for (number, rename) in names.into_iter().enumerate() {
        let right = placed_right(|o, call| {
            o.arguments.digests.iter_mut().for_each(|digest| *digest += &call.to_string());
            rename(o);
        });
        assert!(right > 0.97, "{number}: {right}");
    }
}

#[test]
fn names_that_both_sides_use_stay_apart() {
    // Two tools of one server that are called with the same small numbers.
    let (mut observations, _) = estate(300, false);
    let id = |n: u128| Uuid::from_u128((1 << 126) | n);
    let mut other = observations[0].clone();
    for n in 0..20u64 {
        let mut call = call_at(5000 + n, n % 12, 0, 5.0 * n as f64 + 0.15, 0.1, &format!("N-{n}"), false);
        call.retain(|o| o.act == Act::Choice);
        call.iter_mut().for_each(|o| (o.id, o.tool) = (id(u128::from(n)), Some("peek".into())));
        observations.append(&mut call);
    }
    other.id = id(999);
    observations.push(other);
    let found = run(observations.clone());
    let peeks: Vec<&Placement> = found.placements.iter().filter(|p| p.id.as_u128() >> 126 == 1).collect();
    assert_eq!(peeks.len(), 21);
    let mates = |p: &Placement| {
        found.placements.iter().filter(|o| p.call.is_some() && (o.session, o.call) == (p.session, p.call)).count()
    };
    assert!(peeks.iter().filter(|p| p.id != id(999)).all(|p| mates(p) <= 1));
}

/// A call's own arguments in place of those that many share.
fn own_arguments(o: &mut Observation, call: u64) {
    o.arguments.digests.iter_mut().for_each(|digest| *digest += &call.to_string());
}

fn later(o: &mut Observation, seconds: i64) {
    o.time_unix_nano += seconds * 1_000_000_000;
}

#[test]
fn clocks_in_another_time_zone_or_minutes_off_find_their_calls() {
    let off = |o: &Observation| match o.clock.as_str() {
        "gateway:0" => 3_600,
        "server:3" => -95,
        "host:4" => 19_800,
        _ => 0,
    };
    let right = placed_right(|o, call| {
        own_arguments(o, call);
        later(o, off(o));
    });
    assert!(right > 0.97, "{right}");
    let (mut observations, calls) = estate(300, false);
    observations.iter_mut().zip(calls).for_each(|(o, call)| {
        own_arguments(o, call);
        later(o, off(o));
    });
    let found = run(observations);
    let named: Vec<&str> =
        found.findings.iter().filter(|f| f.kind == FindingKind::ClockOff).map(|f| f.name.as_str()).collect();
    assert_eq!(named, ["gateway:0", "host:4", "server:3"]);
    let gateway = found.clocks.iter().find(|model| model.clock == "gateway:0").unwrap();
    assert!((gateway.track.segments[0].offset - 3_600.0).abs() < 3.0, "{gateway:?}");
}

#[test]
fn a_clock_that_is_set_right_in_between_is_another_one_afterwards() {
    let start = estate(1, false).0[0].time_unix_nano;
    let set = |o: &mut Observation| match o.clock.as_str() {
        "server:3" if o.time_unix_nano < start + 40_000_000_000 => later(o, -61),
        "gateway:0" if o.time_unix_nano > start + 55_000_000_000 => later(o, 33),
        _ => {}
    };
    let right = placed_right(|o, call| {
        own_arguments(o, call);
        set(o);
    });
    assert!(right > 0.93, "{right}");
    let (mut observations, calls) = estate(300, false);
    observations.iter_mut().zip(calls).for_each(|(o, call)| {
        own_arguments(o, call);
        set(o);
    });
    let found = run(observations);
    let server = &found.clocks.iter().find(|model| model.clock == "server:3").unwrap().track.segments;
    let (first, last) = (server[0].offset, server[server.len() - 1].offset);
    assert!((last - first - 61.0).abs() < 3.0, "{server:?}");
}

#[test]
fn what_is_replayed_an_hour_later_is_no_clock() {
    let (mut observations, calls) = estate(300, false);
    let mut replayed = Vec::new();
    for (place, (o, call)) in observations.iter_mut().zip(&calls).enumerate() {
        own_arguments(o, *call);
        // A user's lines from elsewhere, all that was said; a few of the true ones are lost.
        if o.user.as_deref() == Some("user-3") {
            let mut copy = o.clone();
            copy.id = Uuid::from_u128((1 << 126) | place as u128);
            copy.clock = "host:mallory".into();
            copy.workstation = Some("mallory".into());
            later(&mut copy, 3_600);
            replayed.push(copy);
        }
    }
    let forged: BTreeSet<Uuid> = replayed.iter().map(|o| o.id).collect();
    let mut count = 0;
    observations.retain(|o| {
        count += usize::from(o.user.as_deref() == Some("user-3"));
        o.user.as_deref() != Some("user-3") || !count.is_multiple_of(10)
    });
    observations.extend(replayed);
    let found = run(observations);
    assert!(found.findings.iter().all(|finding| finding.kind != FindingKind::ClockOff), "{:?}", found.findings);
    let sessions = |forged_ones: bool| -> BTreeSet<usize> {
        found.placements.iter().filter(|p| forged.contains(&p.id) == forged_ones).filter_map(|p| p.session).collect()
    };
    assert!(sessions(true).is_disjoint(&sessions(false)));
}

#[test]
fn a_tool_call_id_that_every_call_bears_joins_nothing_and_is_a_finding() {
    let constant = |o: &mut Observation, call: u64| {
        own_arguments(o, call);
        o.result.digests.iter_mut().for_each(|digest| *digest += &call.to_string());
        o.tool_call_id = o.tool_call_id.as_ref().map(|_| "call_0".into());
        if o.user.is_some() {
            // Two conversations side by side: answers come in another order than choices.
            o.conversation = None;
            o.tool = Some("same".into());
        }
        o.tool = o.tool.as_ref().map(|_| "same".into());
    };
    let right = placed_right(constant);
    assert!(right > 0.9, "{right}");
    let (mut observations, calls) = estate(300, false);
    assert!(run(observations.clone()).findings.is_empty());
    observations.iter_mut().zip(calls).for_each(|(o, call)| constant(o, call));
    let findings = run(observations).findings;
    let reused: Vec<&Finding> = findings.iter().filter(|f| f.kind == FindingKind::ToolCallReused).collect();
    assert!(matches!(reused[..], [finding] if finding.name == "call_0" && finding.count == 600), "{reused:?}");
}

#[test]
fn where_no_host_is_known_a_gateway_session_is_one_and_joins_another_only_in_its_midst() {
    let mut observations = Vec::new();
    // Of one client: (session, server, start).
    let calls = [
        ("a", 0, 1.0),
        ("b", 0, 2.0),
        ("a", 0, 5.0),
        ("b", 0, 6.0),
        // Two might be meant.
        ("c", 1, 4.5),
        // A pause, and two servers of one program that take turns; afterwards another at the first server.
        ("d", 0, 100.0),
        ("e", 1, 102.0),
        ("d", 0, 104.0),
        ("e", 1, 109.0),
        ("f", 0, 112.0),
    ];
    for (number, (session, server, start)) in calls.into_iter().enumerate() {
        let mut call = call_at(number as u64, 1, server, start, 0.1, &format!("N-{number}"), false);
        call.retain(|o| matches!(o.act, Act::Request | Act::Response));
        for (place, o) in call.iter_mut().enumerate() {
            o.id = Uuid::from_u128((number * 2 + place) as u128);
            o.mcp_session = Some(session.into());
        }
        observations.extend(call);
    }
    let found = run(observations.clone());
    let mut of: BTreeMap<&str, BTreeSet<Option<usize>>> = BTreeMap::new();
    for placement in &found.placements {
        let o = observations.iter().find(|o| o.id == placement.id).unwrap();
        of.entry(o.mcp_session.as_deref().unwrap()).or_default().insert(placement.session);
    }
    assert!(of.values().all(|sessions| sessions.len() == 1 && !sessions.contains(&None)), "{of:?}");
    assert_eq!(of["d"], of["e"]);
    let others: BTreeSet<_> = ["a", "b", "c", "d", "f"].iter().map(|name| &of[name]).collect();
    assert_eq!(others.len(), 5, "{of:?}");
}

#[test]
fn a_gateway_behind_another_sees_the_same_calls() {
    let (mut observations, calls) = estate(300, false);
    let (mut inner, mut truth) = (Vec::new(), BTreeMap::new());
    for (o, call) in observations.iter_mut().zip(&calls) {
        own_arguments(o, *call);
        truth.insert(o.id, *call);
        // The inner one serves half of the servers, by a clock of its own.
        if !matches!(o.act, Act::Request | Act::Response) || call % 2 == 1 {
            continue;
        }
        let mut copy = o.clone();
        let late = if o.act == Act::Request { 1_303 } else { 1_297 };
        copy.id = Uuid::from_u128((1 << 126) | (u128::from(*call) << 1) | u128::from(o.act == Act::Response));
        copy.time_unix_nano += late * 1_000_000;
        copy.duration = o.duration.map(|duration| duration - 0.006);
        (copy.clock, copy.gateway) = ("gateway:inner".into(), Some("inner".into()));
        (copy.program, copy.subject) = (Some("gateway".into()), Some("service".into()));
        (copy.mcp_session, copy.rpc_id) = (None, Some(format!("i-{call}")));
        truth.insert(copy.id, *call);
        inner.push((copy, o.id));
    }
    let outer: BTreeMap<Uuid, Uuid> = inner.iter().map(|(copy, id)| (copy.id, *id)).collect();
    observations.extend(inner.into_iter().map(|(copy, _)| copy));
    let executions: BTreeSet<Uuid> = observations.iter().filter(|o| o.act == Act::Execution).map(|o| o.id).collect();
    let found = run(observations);
    let (mut passed, mut ran) = (0, 0);
    for placement in &found.placements {
        let Some(parent) = placement.parent else { continue };
        passed += usize::from(placement.rule == Some(Rule::Chain));
        ran += usize::from(executions.contains(&placement.id) && outer.contains_key(&parent));
        assert!(placement.rule == Some(Rule::Downstream) || truth[&placement.id] == truth[&parent], "{placement:?}");
    }
    // Request below request, and response above response, of half the calls.
    assert!(passed > 290 && ran > 145, "{passed} {ran}");
}

#[test]
fn a_users_name_or_a_constant_is_no_conversation() {
    let name = |o: &mut Observation, call: u64| {
        own_arguments(o, call);
        o.conversation = o.conversation.take().and(o.user.clone());
    };
    let (mut observations, calls) = estate(300, false);
    observations.iter_mut().zip(calls).for_each(|(o, call)| name(o, call));
    let constant = |findings: Vec<Finding>| -> Vec<String> {
        let kind = FindingKind::ConversationConstant;
        findings.into_iter().filter(|finding| finding.kind == kind).map(|finding| finding.name).collect()
    };
    assert_eq!(constant(run(observations).findings).len(), 12);
    // Two conversations side by side, or one after the other.
    for (together, found) in [(true, vec!["c".to_string()]), (false, Vec::new())] {
        let said = |number: u128, act: Act, at: i64, call: u64| Observation {
            id: Uuid::from_u128(number),
            act,
            time_unix_nano: at * 1_000_000_000,
            clock: "host:1".into(),
            user: Some("ann".into()),
            conversation: Some("c".into()),
            tool_call_id: Some(format!("t-{call}")),
            tool: Some("search".into()),
            ..Observation::default()
        };
        let mut all = Vec::new();
        for turn in 0..5u64 {
            let (from, number) = (turn as i64 * 20, u128::from(turn) * 8);
            let second = if together { 2 } else { 10 };
            for (which, from) in [(0, from), (1, from + second)] {
                let call = turn * 2 + which;
                for (place, (act, at)) in
                    [(Act::Prompt, 0), (Act::Choice, 1), (Act::Outcome, 4)].into_iter().enumerate()
                {
                    all.push(said(number + u128::from(which) * 4 + place as u128, act, from + at, call));
                }
            }
        }
        assert_eq!(constant(run(all).findings), found, "{together}");
    }
}

#[test]
fn a_statement_hangs_below_no_execution_for_sure_where_no_request_found_its_call() {
    // Each execution runs a statement; the request that it ran for stands in a log that tells neither server nor value.
    let surest = |requests: bool| {
        let (observations, calls) = estate(200, false);
        let mut kept = Vec::new();
        let mut value = BTreeMap::new();
        for (o, call) in observations.iter().zip(&calls).filter(|(o, _)| o.act == Act::Http) {
            value.insert(*call, o.http.as_ref().unwrap().segments[1].clone());
        }
        for (mut o, call) in observations.into_iter().zip(calls) {
            if o.act == Act::Execution {
                let duration = o.duration.unwrap();
                kept.push(Observation {
                    id: Uuid::from_u128(o.id.as_u128() ^ (1 << 100)),
                    act: Act::Statement,
                    clock: format!("downstream:db-{}", o.clock),
                    time_unix_nano: o.time_unix_nano - (duration * 3e8) as i64,
                    duration: Some(duration * 0.2),
                    statement: Some(downstream_text::statement_line(&format!(
                        "SELECT * FROM thing WHERE key = '{}'",
                        value[&call]
                    ))),
                    server: o.server.clone(),
                    ..Observation::default()
                });
            }
            if let Some(http) = &mut o.http {
                (http.host, http.path, http.segments) = ("proxy".into(), "/x".into(), vec!["x".into()]);
                (o.server, o.clock) = (None, "downstream:proxy".into());
                o.time_unix_nano = 0;
            }
            if requests || o.act != Act::Http {
                kept.push(o);
            }
        }
        let statements: BTreeSet<Uuid> = kept.iter().filter(|o| o.act == Act::Statement).map(|o| o.id).collect();
        let found = run(kept);
        let placed = found.placements.iter().filter(|p| statements.contains(&p.id) && p.rule == Some(Rule::Downstream));
        placed.map(|p| p.confidence).fold(0.0, f64::max)
    };
    assert!(surest(false) > 0.9, "{}", surest(false));
    assert!(surest(true) < 0.9, "{}", surest(true));
}
