//! From a failing scenario to a short one that fails alike: operations are dropped (ddmin), then pauses and durations are shortened.

use std::num::NonZero;
use std::time::{Duration, Instant};

use super::plan::HAPPENS;
use crate::language::{Fault, Op, Scenario, Span, Trouble};
use crate::report::Report;
use crate::world;

/// What shrinking gave.
#[derive(Debug)]
pub struct Shrunk {
    pub scenario: Scenario,
    pub report: Report,
    /// How many runs it took.
    pub runs: u32,
}

/// The operations that shrinking may drop, pauses aside.
pub fn inputs(scenario: &Scenario) -> usize {
    ops(scenario).iter().filter(|op| !matches!(op, Op::Sleep(_))).count()
}

/// Shortens a failing scenario as long as its first violation stays the same, for at most `limit`, on all cores. A scenario without
/// violation, or without the step that a search makes, is given back as it is. The seed of what is given may be another: it is in the
/// report.
pub fn shrink(scenario: &Scenario, report: &Report, limit: Duration, progress: impl FnMut(usize)) -> Shrunk {
    shrink_if(scenario, report, limit, |_| true, progress)
}

/// The same, of shorter scenarios only those that are also `wanted`.
pub fn shrink_if(
    scenario: &Scenario,
    report: &Report,
    limit: Duration,
    mut wanted: impl FnMut(&Scenario) -> bool,
    mut progress: impl FnMut(usize),
) -> Shrunk {
    let seed = report.seed.unwrap_or(scenario.spec.seed);
    let best = Shrunk { scenario: scenario.clone(), report: report.clone(), runs: 0 };
    let Some(goal) = report.violations.first().map(|violation| violation.invariant.clone()) else { return best };
    let jobs = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut shrinker =
        Shrinker { best, seeds: vec![seed], goal, end: Instant::now() + limit, jobs, wanted: &mut wanted, progress: &mut progress };
    shrinker.ddmin();
    shrinker.shorten();
    // Shorter pauses may have made more superfluous.
    shrinker.ddmin();
    // What an interleaving still needs may be there only to keep this seed's latencies as they are.
    shrinker.seeds.extend((1..=OTHER_SEEDS).map(|more| seed.wrapping_add(more)));
    shrinker.ddmin();
    shrinker.best
}

/// How many other seeds a candidate is tried with at the end.
const OTHER_SEEDS: u64 = 3;

struct Shrinker<'a> {
    best: Shrunk,
    /// What candidates are played with; the first is the best one's.
    seeds: Vec<u64>,
    goal: String,
    end: Instant,
    jobs: usize,
    wanted: &'a mut dyn FnMut(&Scenario) -> bool,
    progress: &'a mut dyn FnMut(usize),
}

fn ops(scenario: &Scenario) -> &[Op] {
    scenario.spec.steps.iter().find(|step| step.name == HAPPENS).map_or(&[], |step| &step.attempt)
}

fn set(scenario: &mut Scenario, ops: Vec<Op>) {
    if let Some(step) = scenario.spec.steps.iter_mut().find(|step| step.name == HAPPENS) {
        step.attempt = ops;
    }
}

impl Shrinker<'_> {
    /// Takes the first of the candidates that fails alike, with any of the seeds.
    fn attempt(&mut self, candidates: &[Vec<Op>]) -> bool {
        let runs: Vec<(&Vec<Op>, u64)> = self.seeds.iter().flat_map(|seed| candidates.iter().map(move |ops| (ops, *seed))).collect();
        for runs in runs.chunks(self.jobs) {
            if Instant::now() >= self.end {
                return false;
            }
            self.best.runs += runs.len() as u32;
            let played: Vec<_> = std::thread::scope(|scope| {
                let played: Vec<_> = runs
                    .iter()
                    .map(|(ops, seed)| {
                        let mut scenario = self.best.scenario.clone();
                        set(&mut scenario, (*ops).clone());
                        scenario.spec.seed = *seed;
                        scope.spawn(move || (world::run(&scenario, *seed), scenario))
                    })
                    .collect();
                // A thread that panicked is a bug of the world's; the search itself shows it.
                played.into_iter().filter_map(|run| run.join().ok()).collect()
            });
            let alike = |report: &Report| report.violations.first().is_some_and(|violation| violation.invariant == self.goal);
            let found = played.into_iter().find(|(report, scenario)| alike(report) && (self.wanted)(scenario));
            if let Some((report, scenario)) = found {
                // The seed that served is tried first from now on.
                if let Some(at) = self.seeds.iter().position(|seed| Some(*seed) == report.seed) {
                    self.seeds.swap(0, at);
                }
                (self.best.scenario, self.best.report) = (scenario, report);
                (self.progress)(inputs(&self.best.scenario));
                return true;
            }
        }
        false
    }

    /// Drops chunks of operations, large ones first: with their pauses, or else without, so that the rest happens when it did.
    fn ddmin(&mut self) {
        let mut chunk = ops(&self.best.scenario).len() / 2;
        while chunk > 0 {
            let mut at = 0;
            let mut dropped = false;
            while at < ops(&self.best.scenario).len() {
                let all = ops(&self.best.scenario);
                let end = (at + chunk).min(all.len());
                let without = |between: Option<Op>| all[..at].iter().cloned().chain(between).chain(all[end..].iter().cloned()).collect();
                let mut candidates: Vec<Vec<Op>> = vec![without(None)];
                let pauses: Vec<Duration> = all[at..end].iter().filter_map(pause_of).collect();
                if !pauses.is_empty() && pauses.len() < end - at {
                    candidates.push(without(Some(Op::Sleep(Span(pauses.iter().sum())))));
                }
                let before = all.len();
                if self.attempt(&candidates) {
                    dropped = true;
                    // A pause that took the chunk's place has been looked at.
                    at += chunk - (before - ops(&self.best.scenario).len()).min(chunk);
                } else {
                    at += chunk;
                }
            }
            // The smallest chunk is tried again as long as it helps.
            chunk = if chunk == 1 && dropped { 1 } else { chunk / 2 };
        }
    }

    /// Halves pauses and durations.
    fn shorten(&mut self) {
        for at in 0..ops(&self.best.scenario).len() {
            loop {
                let mut candidate = ops(&self.best.scenario).to_vec();
                let Some(span) = candidate.get_mut(at).and_then(span_of) else { break };
                let half = Duration::from_secs_f64((span.0.as_secs_f64() / 2.0).round());
                if half == span.0 || span.0 <= Duration::from_secs(1) {
                    break;
                }
                *span = Span(half);
                if !self.attempt(&[candidate]) {
                    break;
                }
            }
        }
    }
}

fn pause_of(op: &Op) -> Option<Duration> {
    match op {
        Op::Sleep(span) => Some(span.0),
        _ => None,
    }
}

fn span_of(op: &mut Op) -> Option<&mut Span> {
    match op {
        Op::Sleep(span) => Some(span),
        Op::Fault(Fault::Cluster(trouble)) => match trouble {
            Trouble::Pause { duration, .. } => Some(duration),
            Trouble::Crash { duration, .. } | Trouble::Partition { duration, .. } | Trouble::WatchLag { duration, .. } => duration.as_mut(),
            Trouble::Stop { start_instances_after_duration: duration, .. } | Trouble::Rpc { delay: duration, .. } => duration.as_mut(),
            _ => None,
        },
        _ => None,
    }
}
