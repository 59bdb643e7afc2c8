//! Whether the search finds bugs: each is put into the machines, one at a time, and must be found from nothing, and shrunk.
//! One test in a process of its own, because a bug is in all machines of the process.

use std::time::{Duration, Instant};

use model_common::bugs::{self, Bug};
use scenarios::search::{OPEN, Options, inputs, of_seed, search, shrink};

fn options() -> Options {
    let names = scenarios::invariants::NAMES.iter().filter(|name| !OPEN.contains(name));
    Options { invariants: Some(names.map(|name| (*name).to_owned()).collect()), ..Options::default() }
}

/// What was found of a bug.
struct Found {
    invariant: String,
    runs: u64,
    took: Duration,
    operations: usize,
    /// Whether the shrunk run holds without the bug.
    its_own: bool,
}

/// Looks for a bug in so many runs. A run that fails without the bug as well shows nothing of it, and the search goes on behind it.
fn look(bug: Bug, most: u64, shrinking: Duration) -> Option<Found> {
    let options = options();
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let start = Instant::now();
    let mut from = 1;
    while from <= most {
        bugs::seed(Some(bug));
        let outcome = search(from..=most, jobs, |seed| of_seed(seed, &options), |_| {});
        bugs::seed(None);
        let (scenario, report) = outcome.found?;
        let seed = report.seed.unwrap_or_default();
        if !scenarios::world::run(&scenario, seed).passed {
            from = seed + 1;
            continue;
        }
        let took = start.elapsed();
        bugs::seed(Some(bug));
        let shrunk = shrink(&scenario, &report, shrinking, |_| {});
        bugs::seed(None);
        let its_own = scenarios::world::run(&shrunk.scenario, seed).passed;
        let invariant = report.violations.first().map(|violation| violation.invariant.clone()).unwrap_or_default();
        return Some(Found { invariant, runs: seed, took, operations: inputs(&shrunk.scenario), its_own });
    }
    None
}

/// Those that a few runs show.
#[test]
fn a_search_finds_what_was_put_in() {
    let quick =
        [Bug::DetachUnannounced, Bug::HandshakeByWatch, Bug::DeletedClaimIsRefused, Bug::AdoptedNotWanted, Bug::DeletedWhileAttached];
    for bug in quick {
        let found = look(bug, 20, Duration::from_secs(10)).unwrap_or_else(|| panic!("{bug:?} was not found"));
        assert!(found.its_own, "{bug:?}: {} does not hold without it either", found.invariant);
    }
}

/// All, with what it took: `make test-long`.
#[test]
#[ignore = "some minutes; make test-long runs it"]
fn each_seeded_bug_is_found_and_shrunk() {
    let most: u64 = std::env::var("EBBTIDE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        match look(bug, most, Duration::from_secs(60)) {
            Some(Found { invariant, runs, took, operations, its_own: true }) => {
                println!("{bug:?}: {invariant} in {runs} runs, {took:.1?}; {operations} operations");
            }
            Some(found) => {
                println!("{bug:?}: {} after {} runs, which does not hold without it either", found.invariant, found.runs);
                missed.push(bug);
            }
            None => {
                println!("{bug:?}: not found in {most} runs");
                missed.push(bug);
            }
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
