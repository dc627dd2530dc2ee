//! Every way in, with what was found before and with recorded traffic that is mutated: a thousand inputs each, other
//! ones in every run. `tests/soak/fuzz` goes on for hours, guided by coverage, with the same targets.

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use threadline_store::log as store_log;

use crate::support::repository;

#[path = "fuzz/targets.rs"]
mod targets;

use targets::Target;

/// Inputs per target; one takes some five milliseconds without optimisation.
const CASES: u32 = 1000;

/// Shown as text with escapes, so that it can be put into a file of `tests/fuzz/found`.
struct Input(Vec<u8>);

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// What makes formats stumble, whole or as a part.
const TOKENS: &[&[u8]] = &[
    b"\"",
    b"{",
    b"[",
    b"}",
    b"]",
    b":",
    b",",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\x1b[2J",
    b"null",
    b"-1",
    b"1e999",
    b"9223372036854775808",
    b"0.1",
    b"true",
    b"=",
    b" ",
    b"#",
    b"/",
    b"\xe2\x80\xae",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"data:",
    b"\"id\":1,",
    b"\"jsonrpc\":\"2.0\",",
    b"'",
    b"%00",
    b"[[",
    b"{{",
    b"\x7f",
];

#[derive(Debug, Clone)]
enum Mutation {
    Flip(usize, u8),
    Insert(usize, Vec<u8>),
    Token(usize, usize),
    Remove(usize, usize),
    Repeat(usize, usize),
    Move(usize, usize, usize),
    Splice(usize, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let (at, short) = (any::<usize>, 1..64_usize);
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Flip(at, byte)),
        2 => (at(), prop::collection::vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        4 => (at(), at()).prop_map(|(at, which)| Mutation::Token(at, which)),
        3 => (at(), short.clone()).prop_map(|(at, length)| Mutation::Remove(at, length)),
        2 => (at(), short.clone()).prop_map(|(at, length)| Mutation::Repeat(at, length)),
        2 => (at(), short, at()).prop_map(|(at, length, to)| Mutation::Move(at, length, to)),
        1 => (at(), at()).prop_map(|(at, seed)| Mutation::Splice(at, seed)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation, seeds: &[Vec<u8>]) {
    let length = bytes.len();
    let place = |at: usize| at % (length + 1);
    let range = |at: usize, wanted: usize| place(at)..(place(at) + wanted).min(length);
    match mutation {
        Mutation::Flip(at, byte) if length > 0 => bytes[at % length] ^= byte,
        Mutation::Flip(..) => {}
        Mutation::Insert(at, new) => drop(bytes.splice(place(*at)..place(*at), new.iter().copied())),
        Mutation::Token(at, which) => {
            let token = TOKENS[which % TOKENS.len()].iter().copied();
            drop(bytes.splice(place(*at)..place(*at), token));
        }
        Mutation::Remove(at, wanted) => drop(bytes.drain(range(*at, *wanted))),
        Mutation::Repeat(at, wanted) => {
            let part = bytes[range(*at, *wanted)].to_vec();
            drop(bytes.splice(place(*at)..place(*at), part));
        }
        Mutation::Move(at, wanted, to) => {
            let part: Vec<u8> = bytes.drain(range(*at, *wanted)).collect();
            let to = to % (bytes.len() + 1);
            drop(bytes.splice(to..to, part));
        }
        Mutation::Splice(at, seed) => {
            let other = &seeds[seed % seeds.len()];
            let from = place(*at);
            bytes.truncate(from);
            bytes.extend_from_slice(other.get(from..).unwrap_or_default());
        }
    }
}

fn fuzz(name: &str) {
    let target: &Target = targets::target(name);
    let found = repository("tests/fuzz/found").join(name);
    let mut tried = 0;
    for entry in std::fs::read_dir(&found).into_iter().flatten() {
        (target.run)(&std::fs::read(entry.expect("an entry").path()).expect("it can be read"));
        tried += 1;
    }
    let seeds = (target.seeds)(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(!seeds.is_empty(), "{name} has no seeds");
    let input = (any::<usize>(), prop::collection::vec(mutation(), 0..12)).prop_map(|(seed, mutations)| {
        let mut bytes = seeds[seed % seeds.len()].clone();
        mutations.iter().for_each(|mutation| mutate(&mut bytes, mutation, &seeds));
        Input(bytes)
    });
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: 500, ..Config::default() };
    let outcome = TestRunner::new(config).run(&input, |input| {
        (target.run)(&input.0);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{name}: {error}");
    }
    println!("{name}: {CASES} mutated inputs from {} seeds, {tried} that were found before", seeds.len());
}

#[test]
fn stdio() {
    fuzz("stdio");
}

#[test]
fn http() {
    fuzz("http");
}

#[test]
fn otlp_protobuf() {
    fuzz("otlp_protobuf");
}

#[test]
fn otlp_json() {
    fuzz("otlp_json");
}

#[test]
fn transcripts() {
    fuzz("transcripts");
}

#[test]
fn profile_toml() {
    fuzz("profile_toml");
}

#[test]
fn profile_lines() {
    fuzz("profile_lines");
}

#[test]
fn log() {
    fuzz("log");
}

#[test]
fn every_target_is_called_and_has_its_binary() {
    let sources = [include_str!("fuzz.rs"), include_str!("fuzz/Cargo.toml"), include_str!("soak/fuzz")];
    for target in targets::TARGETS {
        let [tests, manifest, soak] = sources;
        assert!(tests.contains(&format!("fuzz(\"{}\")", target.name)), "{} is not called", target.name);
        assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{} has no binary", target.name);
        assert!(soak.contains(target.name), "{} is not part of the soak", target.name);
    }
}
