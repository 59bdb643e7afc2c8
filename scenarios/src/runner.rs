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
}

/// Plays all steps. After a failed step the rest is skipped; in a live world what was made is taken down.
pub async fn play<E: Engine>(scenario: &Scenario, engine: &mut E, observer: &mut dyn Observer) -> Played {
    let before = match engine.facts().await {
        Ok(facts) => facts,
        Err(error) => return Played { passed: false, steps: Vec::new(), violations: Vec::new(), error: Some(error.to_string()) },
    };
    let mut player = Player { engine, observer, variables: scenario.spec.variables.clone(), ledger: Ledger::default() };
    let watched = |name: &str| scenario.spec.invariants.as_ref().is_none_or(|names| names.iter().any(|known| known == name));
    let mut steps = Vec::new();
    let mut violations = Vec::new();
    let mut passed = true;
    let of = scenario.spec.steps.len();
    for (index, step) in scenario.spec.steps.iter().enumerate() {
        if !passed {
            steps.push(StepReport { name: step.name.clone(), verdict: Verdict::Skipped, operations: Vec::new(), took: Duration::ZERO });
            continue;
        }
        player.observer.step_started(index + 1, of, &step.name);
        let mut report = player.step(step).await;
        violations.extend(player.watched(&step.name, &watched).await);
        match player.engine.facts().await {
            Ok(facts) => {
                let found = invariants::safety(&facts).into_iter().filter(|(name, _)| watched(name));
                violations.extend(found.map(|(name, message)| Violation { invariant: name.into(), message, step: step.name.clone() }));
            }
            Err(error) => {
                report.verdict = Verdict::Failed;
                report.operations.push(OpReport {
                    what: "look at the world".into(),
                    failure: Some(error.to_string()),
                    details: Vec::new(),
                    took: Duration::ZERO,
                });
            }
        }
        passed = report.verdict == Verdict::Passed && violations.is_empty();
        player.observer.step_done(&report);
        steps.push(report);
    }
    if passed && watched("no-leak") {
        let last = scenario.spec.steps.last().map_or(String::new(), |step| step.name.clone());
        for message in player.leaks(&before).await {
            violations.push(Violation { invariant: "no-leak".into(), message, step: last.clone() });
        }
        passed = violations.is_empty();
    }
    if !passed && player.engine.is_live() {
        let ledger = std::mem::take(&mut player.ledger);
        teardown::take_down(ledger, player.engine, player.observer).await;
    }
    Played { passed, steps, violations, error: None }
}

impl<E: Engine> Player<'_, E> {
    /// What the world itself saw not to hold.
    async fn watched(&mut self, step: &str, watched: &impl Fn(&str) -> bool) -> Vec<Violation> {
        let found = self.engine.violations().await.into_iter().filter(|found| watched(found.invariant));
        found
            .map(|found| Violation {
                invariant: found.invariant.into(),
                message: format!("{} (at {})", found.message, crate::report::short(found.at)),
                step: step.into(),
            })
            .collect()
    }

    async fn step(&mut self, step: &Step) -> StepReport {
        let start = self.engine.now();
        let mut operations = Vec::new();
        let passed = self.block(&step.attempt, &mut operations).await;
        if !passed {
            self.block(&step.catch, &mut operations).await;
        }
        let finished = self.block(&step.finally, &mut operations).await;
        let verdict = if passed && finished { Verdict::Passed } else { Verdict::Failed };
        StepReport { name: step.name.clone(), verdict, operations, took: self.engine.now().saturating_sub(start) }
    }

    /// Runs operations until one fails; whether all went well.
    async fn block(&mut self, ops: &[Op], reports: &mut Vec<OpReport>) -> bool {
        for op in ops {
            let start = self.engine.now();
            let mut details = Vec::new();
            let result = self.operation(op, &mut details).await;
            let failure = result.err().map(|failure| failure.message);
            let report =
                OpReport { what: operations::title(op, &self.variables), failure, details, took: self.engine.now().saturating_sub(start) };
            self.observer.operation_done(&report);
            let failed = report.failure.is_some();
            reports.push(report);
            if failed {
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
            if found.is_empty() || self.engine.now().saturating_sub(start) >= SETTLE {
                break;
            }
            self.engine.pause(self.engine.poll_every()).await;
        }
        found
    }
}
