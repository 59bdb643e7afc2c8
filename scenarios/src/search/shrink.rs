//! From a failing scenario to a short one that fails alike: operations are dropped (ddmin), then pauses and durations are shortened.

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

/// Shortens a failing scenario as long as its first violation stays the same, for at most `limit`. A scenario without violation, or
/// without the step that a search makes, is given back as it is.
pub fn shrink(scenario: &Scenario, report: &Report, limit: Duration, mut progress: impl FnMut(usize)) -> Shrunk {
    let seed = report.seed.unwrap_or(scenario.spec.seed);
    let mut best = Shrunk { scenario: scenario.clone(), report: report.clone(), runs: 0 };
    let Some(goal) = report.violations.first().map(|violation| violation.invariant.clone()) else { return best };
    let end = Instant::now() + limit;
    let mut attempt = |best: &mut Shrunk, candidate: Vec<Op>| {
        if Instant::now() >= end {
            return false;
        }
        let mut scenario = best.scenario.clone();
        set(&mut scenario, candidate);
        best.runs += 1;
        let report = world::run(&scenario, seed);
        let fails = report.violations.first().is_some_and(|violation| violation.invariant == goal);
        if fails {
            best.scenario = scenario;
            best.report = report;
            progress(inputs(&best.scenario));
        }
        fails
    };
    ddmin(&mut best, &mut attempt);
    shorten(&mut best, &mut attempt);
    // Shorter pauses may have made more superfluous.
    ddmin(&mut best, &mut attempt);
    best
}

fn ops(scenario: &Scenario) -> &[Op] {
    scenario.spec.steps.iter().find(|step| step.name == HAPPENS).map_or(&[], |step| &step.attempt)
}

fn set(scenario: &mut Scenario, ops: Vec<Op>) {
    if let Some(step) = scenario.spec.steps.iter_mut().find(|step| step.name == HAPPENS) {
        step.attempt = ops;
    }
}

/// Drops chunks of operations, large ones first.
fn ddmin(best: &mut Shrunk, attempt: &mut impl FnMut(&mut Shrunk, Vec<Op>) -> bool) {
    let mut chunk = ops(&best.scenario).len() / 2;
    while chunk > 0 {
        let mut at = 0;
        let mut dropped = false;
        while at < ops(&best.scenario).len() {
            let all = ops(&best.scenario);
            let kept: Vec<Op> = all[..at].iter().chain(all.get(at + chunk..).unwrap_or_default()).cloned().collect();
            if attempt(best, kept) {
                dropped = true;
            } else {
                at += chunk;
            }
        }
        // The smallest chunk is tried again as long as it helps.
        chunk = if chunk == 1 && dropped { 1 } else { chunk / 2 };
    }
}

/// Halves pauses and durations.
fn shorten(best: &mut Shrunk, attempt: &mut impl FnMut(&mut Shrunk, Vec<Op>) -> bool) {
    for at in 0..ops(&best.scenario).len() {
        loop {
            let mut candidate = ops(&best.scenario).to_vec();
            let Some(span) = candidate.get_mut(at).and_then(span_of) else { break };
            let half = Duration::from_secs_f64((span.0.as_secs_f64() / 2.0).round());
            if half == span.0 || span.0 <= Duration::from_secs(1) {
                break;
            }
            *span = Span(half);
            if !attempt(best, candidate) {
                break;
            }
        }
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
