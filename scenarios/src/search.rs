//! The search for what goes wrong: random lives of pods and claims under random trouble, played in virtual time with every invariant
//! watched; what is found is shrunk to the few operations it needs, and is then a scenario as any other.

mod bytes;
mod plan;
mod shrink;
#[cfg(test)]
mod tests;
mod trace;

use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use model_common::pick::Seeded;

use crate::language::Scenario;
use crate::report::Report;
use crate::world;

pub use bytes::{OPEN, Played, play};
pub use plan::{Options, plan};
pub use shrink::{Shrunk, inputs, shrink};
pub use trace::{NoTrace, Trace, difference};

/// How a search ended.
#[derive(Debug)]
pub struct Outcome {
    /// How many seeds were played.
    pub played: u64,
    /// The virtual time of all of them.
    pub virtual_time: std::time::Duration,
    /// The failing run of the lowest seed.
    pub found: Option<(Scenario, Report)>,
}

/// What the threads of a search gather: the failing run with its seed.
#[derive(Default)]
struct Gathered {
    virtual_time: std::time::Duration,
    found: Option<(u64, Scenario, Report)>,
}

/// Plays many seeds on several threads until one fails or all are played. What it gives does not depend on `jobs`: of several that
/// fail it is the lowest seed. `make` gives the scenario of a seed.
pub fn search(seeds: RangeInclusive<u64>, jobs: usize, make: impl Fn(u64) -> Scenario + Sync, done: impl Fn(&Report) + Sync) -> Outcome {
    let next = AtomicU64::new(*seeds.start());
    let stop = AtomicBool::new(false);
    let played = AtomicU64::new(0);
    let state: Mutex<Gathered> = Mutex::default();
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > *seeds.end() {
                return;
            }
            let scenario = make(seed);
            let report = world::run(&scenario, seed);
            played.fetch_add(1, Ordering::Relaxed);
            done(&report);
            // A poisoned lock means that another thread panicked, which ends the search anyway.
            let Ok(mut state) = state.lock() else { return };
            state.virtual_time += report.virtual_time.unwrap_or_default();
            if !report.passed {
                // Lower seeds are all taken already; those that still run may fail, too, and then come first.
                stop.store(true, Ordering::Relaxed);
                if state.found.as_ref().is_none_or(|(known, ..)| seed < *known) {
                    state.found = Some((seed, scenario, report));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(work);
        }
    });
    let Gathered { virtual_time, found } = state.into_inner().unwrap_or_default();
    Outcome { played: played.into_inner(), virtual_time, found: found.map(|(_, scenario, report)| (scenario, report)) }
}

/// The scenario of a seed under these options.
pub fn of_seed(seed: u64, options: &Options) -> Scenario {
    plan(&mut Seeded::new(seed).child("plan"), seed, options)
}
