//! Whether the search finds bugs: each is put into the machines, one at a time, and must be found from nothing, and shrunk.
//! One test in a process of its own, because a bug is in all machines of the process.

use std::time::{Duration, Instant};

use model_common::bugs::{self, Bug};
use scenarios::search::{Options, inputs, of_seed, search, shrink};

/// Invariants that the machines violate without any of these bugs, because upstream does, or that users violate by themselves.
const OPEN: [&str; 6] = ["single-attach", "no-leak", "deletion-ends", "finalizers-kept", "claim-outlives-pods", "retries-soon"];

fn options() -> Options {
    let names = scenarios::invariants::NAMES.iter().filter(|name| !OPEN.contains(name));
    Options { invariants: Some(names.map(|name| (*name).to_owned()).collect()), ..Options::default() }
}

#[test]
fn each_seeded_bug_is_found_and_shrunk() {
    let most: u64 = std::env::var("EBBTIDE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(400);
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        let options = options();
        bugs::seed(Some(bug));
        let start = Instant::now();
        let outcome = search(1..=most, jobs, |seed| of_seed(seed, &options), |_| {});
        let took = start.elapsed();
        let Some((scenario, report)) = outcome.found else {
            missed.push(bug);
            println!("{bug:?}: not found in {} runs, {took:.1?}", outcome.played);
            continue;
        };
        let shrunk = shrink(&scenario, &report, Duration::from_secs(60), |_| {});
        bugs::seed(None);
        let without = scenarios::world::run(&shrunk.scenario, report.seed.unwrap_or_default());
        println!(
            "{bug:?}: {} in {} runs, {took:.1?}; {} operations, shrunk from {}; without the bug: {}",
            report.violations.first().map_or("?", |violation| violation.invariant.as_str()),
            outcome.played,
            inputs(&shrunk.scenario),
            inputs(&scenario),
            if without.passed { "all holds" } else { "violated as well" },
        );
    }
    bugs::seed(None);
    assert!(missed.is_empty(), "not found: {missed:?}");
}
