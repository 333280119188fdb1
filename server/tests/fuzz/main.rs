//! Hostile input from a seed: every parser that reads what a peer or a user sent takes mutated input, and its properties hold.
//!
//! A target is a parser with the properties of its results. Inputs start from data files and from encoded messages; what
//! makes a target answer in a new way is kept and mutated further, so the search goes deeper than damage to good input.
//! A run depends on its seed alone: docs/TESTING.md says how to make it long and how to repeat one.

mod ddl;
mod http;
mod mutate;
mod wire;

use std::collections::HashSet;
use std::panic::catch_unwind;
use std::path::PathBuf;

use mutate::Mutator;

/// Rounds of each target in an ordinary test run: some seconds in all.
const ROUNDS: u64 = 20_000;
/// Most inputs that are kept as a start for further ones.
const CORPUS_MAX: usize = 10_000;

/// A parser under test.
struct Target {
    name: &'static str,
    /// Inputs to start from.
    seeds: Vec<Vec<u8>>,
    /// Words that mean something to the parser.
    words: &'static [&'static [u8]],
    /// Feeds an input, panics if a property does not hold, returns in short what the parser answered.
    check: fn(&[u8]) -> String,
    /// Different answers that a run has to come to: fewer mean that it no longer reaches the parser's inside.
    answers_min: usize,
}

fn number_from(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

fn data_directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data")
}

/// Runs a target on its seeds as they are and then mutated.
fn run(target: Target) {
    let (seed, rounds) = (number_from("DFS_TESTS_SEED", 1), number_from("DFS_TESTS_FUZZ_ROUNDS", ROUNDS));
    let mut mutator = Mutator::new(seed, target.words);
    let mut corpus = target.seeds;
    assert!(!corpus.is_empty(), "{} has no seeds", target.name);
    let mut answers = HashSet::new();
    for (number, input) in corpus.iter().enumerate() {
        answers.insert(answer(target.name, target.check, input, &format!("seed input {number}")));
    }
    for round in 0..rounds {
        let input = mutator.mutate(&corpus);
        let answer =
            answer(target.name, target.check, &input, &format!("DFS_TESTS_SEED={seed}, round {round}"));
        if answers.insert(answer) && corpus.len() < CORPUS_MAX {
            corpus.push(input);
        }
    }
    eprintln!("{}: {rounds} rounds, {} different answers", target.name, answers.len());
    assert!(
        rounds < ROUNDS || answers.len() >= target.answers_min,
        "{} came to only {} answers",
        target.name,
        answers.len()
    );
}

fn answer(name: &str, check: fn(&[u8]) -> String, input: &[u8], place: &str) -> String {
    catch_unwind(|| check(input))
        .unwrap_or_else(|_| panic!("{name} breaks a property ({place}) on b\"{}\"", input.escape_ascii()))
}

/// Returns a number that depends on the input alone (FNV-1a), to split it somewhere.
fn place_in(input: &[u8]) -> usize {
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    usize::try_from(hash % (input.len() as u64 + 1)).expect("at most the input's length")
}

#[test]
fn http_requests() {
    run(http::target());
}

#[test]
fn metadata_texts() {
    run(ddl::text_target());
}

#[test]
fn binary_metadata() {
    run(ddl::binary_target());
}

#[test]
fn wire_messages() {
    run(wire::target());
}
