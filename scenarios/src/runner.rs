//! Plays a scenario in any world: one interpreter for virtual time and for real devices.

mod operations;
pub(crate) use operations::target_of;
mod teardown;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::engine::Engine;
use crate::invariants::{self, Facts, Violation};
use crate::language::{Op, Scenario, Step};
use crate::report::{Observer, OpReport, StepReport, Verdict};
use crate::variables::Variables;
use crate::world::Told;
use teardown::Ledger;

/// How long things that a scenario deleted may take to be gone at its end.
const SETTLE: Duration = Duration::from_secs(60);
/// The most looks at the end, whatever the pace of the world.
const LOOKS: u32 = 1200;

/// What a play gave.
#[derive(Debug)]
pub struct Played {
    pub passed: bool,
    pub steps: Vec<StepReport>,
    pub violations: Vec<Violation>,
    /// What kept the play from beginning.
    pub error: Option<String>,
    /// What the player did and found, in the world's time.
    pub story: Vec<Told>,
    /// Whoever started it ended it before it had passed.
    pub interrupted: bool,
    /// What could not be taken down.
    pub left: Vec<String>,
}

impl Played {
    pub(crate) fn not_begun(error: String) -> Self {
        let (steps, violations, story, left) = Default::default();
        Self { passed: false, steps, violations, error: Some(error), story, interrupted: false, left }
    }
}

/// Why an operation failed.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    /// Trying again cannot help.
    last: bool,
}

struct Player<'a, E> {
    engine: &'a mut E,
    observer: &'a mut dyn Observer,
    variables: Variables,
    ledger: Ledger,
    /// The invariants that the scenario watches; all when none.
    names: Option<&'a [String]>,
    violations: Vec<Violation>,
    story: Vec<Told>,
}

/// Plays all steps. After a failed step the rest is skipped; in a live world what was made is taken down.
pub async fn play<E: Engine>(scenario: &Scenario, engine: &mut E, observer: &mut dyn Observer) -> Played {
    let before = match engine.facts().await {
        Ok(facts) => facts,
        Err(error) => return Played::not_begun(error.to_string()),
    };
    let names = scenario.spec.invariants.as_deref();
    let variables = scenario.spec.variables.clone();
    let mut player = Player { engine, observer, variables, ledger: Ledger::default(), names, violations: Vec::new(), story: Vec::new() };
    let mut steps = Vec::new();
    let mut passed = true;
    let as_of = scenario.as_of();
    let played: Vec<&Step> = scenario.spec.steps.iter().filter(|step| step.unless.is_none_or(|fix| !as_of.fixes().has(fix))).collect();
    let of = played.len();
    for (index, step) in played.into_iter().enumerate() {
        if !passed {
            steps.push(StepReport {
                name: step.name.clone(),
                verdict: Verdict::Skipped,
                operations: Vec::new(),
                took: Duration::ZERO,
                inputs: None,
            });
            continue;
        }
        player.observer.step_started(index + 1, of, &step.name);
        let report = player.step(step).await;
        passed = report.verdict == Verdict::Passed && player.violations.is_empty();
        player.observer.step_done(&report);
        steps.push(report);
    }
    if passed && player.watches("no-leak") {
        let last = scenario.spec.steps.last().map_or(String::new(), |step| step.name.clone());
        for message in player.leaks(&before).await {
            player.violated("no-leak", message, &last);
        }
    }
    if passed {
        let last = scenario.spec.steps.last().map_or(String::new(), |step| step.name.clone());
        player.engine.settled().await;
        player.collect(&last).await;
        passed = player.violations.is_empty() && !player.engine.stopped();
    }
    let interrupted = player.engine.stopped() && !passed;
    let mut left = Vec::new();
    if !passed && player.engine.is_live() {
        if interrupted {
            player.observer.note("interrupted: taking down what this run made");
        }
        let clear = crate::language::Fault::Cluster(crate::language::Trouble::Clear {});
        if let Err(error) = player.engine.fault(&clear).await {
            player.observer.note(&format!("cannot end the faults: {error}"));
        }
        let ledger = std::mem::take(&mut player.ledger);
        left = teardown::take_down(&ledger, &before, player.engine, player.observer).await;
    }
    let (violations, story) = (player.violations, player.story);
    let (passed, error) = match scenario.expected() {
        None => (passed, None),
        Some(expect) if violations.iter().any(|violation| violation.invariant == expect.violated) => (true, None),
        Some(expect) if passed => (false, Some(format!("{} was expected not to hold, and held: {}", expect.violated, expect.because))),
        Some(_) => (false, None),
    };
    Played { passed, steps, violations, error, story, interrupted: interrupted && !passed, left }
}

impl<E: Engine> Player<'_, E> {
    fn watches(&self, name: &str) -> bool {
        self.names.is_none_or(|names| names.iter().any(|known| known == name))
    }

    fn violated(&mut self, name: &str, message: String, step: &str) {
        self.violated_at(self.engine.now(), name, message, step);
    }

    fn violated_at(&mut self, at: Duration, name: &str, message: String, step: &str) {
        if self.watches(name) {
            self.tell(at, "violation", format!("{name}: {message}"), true);
            self.violations.push(Violation { invariant: name.into(), message, step: step.into() });
        }
    }

    /// What the world itself saw not to hold.
    async fn collect(&mut self, step: &str) {
        for found in self.engine.violations().await {
            self.violated_at(found.at, found.invariant, format!("{} (at {})", found.message, crate::report::short(found.at)), step);
        }
    }

    fn tell(&mut self, at: Duration, lane: &str, what: String, failed: bool) {
        let at = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        self.story.push(Told { at, lane: lane.into(), what, failed, ..Told::default() });
    }

    /// An operation at its beginning, with what came of it.
    fn tell_operation(&mut self, start: Duration, report: &OpReport) {
        let details = if report.details.is_empty() { String::new() } else { format!(": {}", report.details.join(", ")) };
        let failure = report.failure.as_ref().map(|failure| format!(": FAILED after {}: {failure}", crate::report::short(report.took)));
        self.tell(start, "scenario", format!("{}{details}{}", report.what, failure.unwrap_or_default()), report.failure.is_some());
    }

    async fn step(&mut self, step: &Step) -> StepReport {
        let (start, before) = (self.engine.now(), self.engine.inputs());
        self.tell(start, "scenario", format!("step: {}", step.name), false);
        let mut operations = Vec::new();
        let passed = self.block(step, &step.attempt, &mut operations).await;
        if !passed && !self.engine.stopped() {
            self.block(step, &step.catch, &mut operations).await;
        }
        let finished = self.block(step, &step.finally, &mut operations).await;
        let verdict = if passed && finished { Verdict::Passed } else { Verdict::Failed };
        let inputs = self.engine.inputs().zip(before).map(|(now, before)| now - before);
        StepReport { name: step.name.clone(), verdict, operations, took: self.engine.now().saturating_sub(start), inputs }
    }

    /// Runs operations until one fails or an invariant does not hold; whether all went well.
    async fn block(&mut self, step: &Step, ops: &[Op], reports: &mut Vec<OpReport>) -> bool {
        for op in ops {
            let start = self.engine.now();
            let mut details = Vec::new();
            let result = match self.engine.stopped() {
                true => Err(operations::interrupted()),
                false => self.operation(op, &mut details).await,
            };
            let failure = result.err().map(|failure| failure.message);
            let report =
                OpReport { what: operations::title(op, &self.variables), failure, details, took: self.engine.now().saturating_sub(start) };
            self.observer.operation_done(&report);
            self.tell_operation(start, &report);
            let failed = report.failure.is_some();
            reports.push(report);
            self.collect(&step.name).await;
            if failed || !self.violations.is_empty() {
                return false;
            }
        }
        true
    }

    /// What is left at the end, after things had time to go.
    async fn leaks(&mut self, before: &Facts) -> Vec<String> {
        let start = self.engine.now();
        let mut found = Vec::new();
        for _ in 0..LOOKS {
            found = match self.engine.facts().await {
                Ok(after) => invariants::no_leak(before, &after),
                Err(error) => vec![error.to_string()],
            };
            if self.engine.stopped() {
                // What is left now is taken down, and says nothing.
                return Vec::new();
            }
            if found.is_empty() || self.engine.now().saturating_sub(start) >= SETTLE {
                break;
            }
            self.engine.pause(self.engine.poll_every()).await;
        }
        found
    }
}
