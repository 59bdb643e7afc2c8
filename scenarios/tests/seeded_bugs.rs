//! Whether the search finds bugs: each is put into the machines, one at a time, and must be found from nothing, and shrunk.
//! In a process of its own, one test at a time, because a bug is in all machines of the process.

use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model_common::bugs::{self, Bug};
use scenarios::language::Scenario;
use scenarios::search::{OPEN, Options, inputs, of_seed, search, shrink_if};

fn options() -> Options {
    let names = scenarios::invariants::NAMES.iter().filter(|name| !OPEN.contains(name));
    Options { invariants: Some(names.map(|name| (*name).to_owned()).collect()), ..Options::default() }
}

/// Held by the test that runs.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was found of a bug.
struct Found {
    invariant: String,
    seed: u64,
    /// How long the search took, without shrinking.
    took: Duration,
    operations: usize,
}

/// Looks for a bug in the runs of these seeds. A run that fails without the bug as well shows nothing of it, and the search goes on
/// behind it; nor is a run shrunk to one that does.
fn look(bug: Bug, seeds: RangeInclusive<u64>, shrinking: Duration) -> Option<Found> {
    let options = options();
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let start = Instant::now();
    let holds_without = |scenario: &Scenario| {
        bugs::seed(None);
        let report = scenarios::world::run(scenario, scenario.spec.seed);
        bugs::seed(Some(bug));
        report.passed
    };
    let mut from = *seeds.start();
    bugs::seed(Some(bug));
    let found = loop {
        let outcome = search(from..=*seeds.end(), jobs, |seed| of_seed(seed, &options), |_| {});
        let Some((scenario, report)) = outcome.found else { break None };
        let seed = report.seed.unwrap_or_default();
        if !holds_without(&scenario) {
            from = seed + 1;
            continue;
        }
        let took = start.elapsed();
        let shrunk = shrink_if(&scenario, &report, shrinking, holds_without, |_| {});
        let invariant = report.violations.first().map(|violation| violation.invariant.clone()).unwrap_or_default();
        break Some(Found { invariant, seed, took, operations: inputs(&shrunk.scenario) });
    };
    bugs::seed(None);
    found
}

/// Those that a few runs show.
#[test]
fn a_search_finds_what_was_put_in() {
    let _turn = turn();
    let quick =
        [Bug::DetachUnannounced, Bug::HandshakeByWatch, Bug::DeletedClaimIsRefused, Bug::AdoptedNotWanted, Bug::DeletedWhileAttached];
    for bug in quick {
        assert!(look(bug, 1..=20, Duration::ZERO).is_some(), "{bug:?} was not found");
    }
}

/// The incidents of the library that the bugs are from do not hold with the bug. i10 does: our controller's cache also takes in the answer
/// to its own write, so that only a volume that comes into use between that and the read shows the bug, which a search finds at once.
#[test]
fn an_incident_happens_with_its_bug() {
    let _turn = turn();
    let incidents = [
        (Bug::DetachUnannounced, "i09"),
        (Bug::DetachedTwice, "i11"),
        (Bug::StageTimeoutIsFinal, "i24"),
        (Bug::UnstageTimeoutKeepsDevice, "i25"),
        (Bug::UnstageFailureKeepsDevice, "i26"),
        (Bug::DeletedClaimIsRefused, "i31"),
        (Bug::ReleasedByWatch, "i44"),
    ];
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/library/incidents");
    let files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut hidden = Vec::new();
    for (bug, incident) in incidents {
        let file = files.iter().find(|file| file.file_name().unwrap().to_str().unwrap().starts_with(incident)).unwrap();
        let scenario = scenarios::language::parse(incident, &std::fs::read_to_string(file).unwrap()).unwrap();
        bugs::seed(Some(bug));
        let report = scenarios::world::run(&scenario, scenario.spec.seed);
        bugs::seed(None);
        if report.passed {
            hidden.push(incident);
        }
    }
    assert!(hidden.is_empty(), "with their bugs these hold as well: {hidden:?}");
}

/// How many operations the shortest run that shows a bug may have.
const SHORT: usize = 15;

/// All, with what it took: `make test-long`. `EBBTIDE_BUG` names one, `EBBTIDE_SEEDS` says how many runs there are at most.
#[test]
#[ignore = "some minutes; make test-long runs it"]
fn each_seeded_bug_is_found_and_shrunk() {
    let _turn = turn();
    let most: u64 = std::env::var("EBBTIDE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let only = std::env::var("EBBTIDE_BUG").ok();
    let mut missed = Vec::new();
    for bug in Bug::ALL.into_iter().filter(|bug| only.as_ref().is_none_or(|only| *only == format!("{bug:?}"))) {
        let (mut from, mut searched) = (1, Duration::ZERO);
        // What does not become short is told, and the search goes on behind it.
        let short = loop {
            let Some(found) = look(bug, from..=most, Duration::from_secs(60)) else { break false };
            searched += found.took;
            let Found { invariant, seed, operations, .. } = found;
            println!("{bug:?}: {invariant} in {seed} runs, {searched:.1?}; {operations} operations");
            if operations <= SHORT {
                break true;
            }
            from = seed + 1;
        };
        if !short {
            println!("{bug:?}: nothing short in {most} runs");
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
