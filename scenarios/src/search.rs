//! The search for what goes wrong: random lives of pods and claims under random trouble, played in virtual time with every invariant
//! watched; what is found is shrunk to the few operations it needs, and is then a scenario as any other.

mod bytes;
mod campaign;
mod plan;
mod shrink;
#[cfg(test)]
mod tests;
mod trace;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use model_common::pick::Seeded;

use crate::language::Scenario;
use crate::report::Report;
use crate::world;

pub use bytes::{OPEN, Played, play};
pub use campaign::{Failed, NoMerge, Seeds, Shard, Tally};
pub use plan::{Options, plan};
pub use shrink::{Shrunk, inputs, shrink, shrink_if};
pub use trace::{NoTrace, Trace, difference};

/// How a search ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many seeds were played.
    pub played: u64,
    /// The virtual time of all of them.
    pub virtual_time: std::time::Duration,
    /// The inputs that the machines took in all of them.
    pub inputs: u64,
    /// Of the digests of all runs, whatever their order.
    pub digest: u64,
    /// The runs that failed, by seed.
    pub failed: Vec<Failed>,
    /// The failing run of the lowest seed.
    pub found: Option<(Scenario, Report)>,
}

impl Outcome {
    fn add(&mut self, seed: u64, scenario: Scenario, report: Report) {
        self.played += 1;
        self.virtual_time += report.virtual_time.unwrap_or_default();
        self.inputs += report.inputs.unwrap_or_default();
        self.digest = campaign::add_digest(self.digest, seed, &report);
        if report.passed {
            return;
        }
        if self.failed.iter().all(|known| seed < known.seed) {
            self.found = Some((scenario, report.clone()));
        }
        self.failed.push(Failed::of(seed, &report));
    }

    /// For a report, and to be merged with those of other shards.
    pub fn tally(&self, campaign: String, seeds: &Seeds, took: std::time::Duration) -> Tally {
        Tally {
            campaign,
            seeds: format!("{}..{}", seeds.range.start(), seeds.range.end()),
            shards: [seeds.shard].into(),
            played: self.played,
            inputs: self.inputs,
            virtual_seconds: self.virtual_time.as_secs_f64(),
            seconds: took.as_secs_f64(),
            digest: format!("{:016x}", self.digest),
            failed: self.failed.clone(),
        }
    }
}

/// Plays many seeds on several threads, until one fails unless it is to keep going. What is found does not depend on `jobs`: of several
/// that fail it is the lowest seed. `make` gives the scenario of a seed.
pub fn search(seeds: impl Into<Seeds>, jobs: usize, make: impl Fn(u64) -> Scenario + Sync, done: impl Fn(&Report) + Sync) -> Outcome {
    let seeds = seeds.into();
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let outcome: Mutex<Outcome> = Mutex::default();
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let Some(seed) = seeds.at(next.fetch_add(1, Ordering::Relaxed)) else { return };
            let scenario = make(seed);
            let report = world::run(&scenario, seed);
            done(&report);
            // Lower seeds are all taken already; those that still run may fail, too, and then come first.
            if !report.passed && !seeds.keep_going {
                stop.store(true, Ordering::Relaxed);
            }
            // A poisoned lock means that another thread panicked, which ends the search anyway.
            let Ok(mut outcome) = outcome.lock() else { return };
            outcome.add(seed, scenario, report);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(work);
        }
    });
    let mut outcome = outcome.into_inner().unwrap_or_default();
    outcome.failed.sort();
    outcome
}

/// The scenario of a seed under these options.
pub fn of_seed(seed: u64, options: &Options) -> Scenario {
    plan(&mut Seeded::new(seed).child("plan"), seed, options)
}
