//! Taking down what a failed or interrupted run left in a world that outlives it.

mod ledger;
mod sweep;

use std::time::Duration;

pub(super) use ledger::Ledger;

use crate::engine::{Engine, EngineError};
use crate::invariants::{self, Facts};
use crate::report::Observer;

/// How long all of it may take to go. A kubelet waits up to two minutes for a call of a driver, and as long again before the next try.
const PATIENCE: Duration = Duration::from_secs(300);

/// A take-down on its way.
struct TakeDown<'a, E> {
    engine: &'a mut E,
    observer: &'a mut dyn Observer,
    /// In the world's time.
    deadline: Duration,
    left: Vec<String>,
}

/// Undoes what the ledger lists, newest first, then looks for what that left; returns what is still there.
pub(super) async fn take_down<E: Engine>(ledger: &Ledger, before: &Facts, engine: &mut E, observer: &mut dyn Observer) -> Vec<String> {
    let deadline = engine.now() + PATIENCE;
    let mut this = TakeDown { engine, observer, deadline, left: Vec::new() };
    this.change_back(ledger).await;
    this.delete_objects(ledger).await;
    this.sweep_objects(ledger, before).await;
    this.undo_calls(ledger).await;
    this.sweep_volumes(ledger, before).await;
    this.look(before).await;
    this.left
}

impl<E: Engine> TakeDown<'_, E> {
    fn late(&self) -> bool {
        self.engine.now() > self.deadline
    }

    async fn pause(&mut self) {
        self.engine.pause(self.engine.poll_every()).await;
    }

    /// Says what could not be done, and goes on with the rest.
    fn failed(&mut self, what: &str, error: &EngineError) {
        self.observer.note(&format!("cannot {what}: {error}"));
    }

    async fn change_back(&mut self, ledger: &Ledger) {
        for object in ledger.changes().rev() {
            let target = super::target_of(object);
            // Gone meanwhile: applied, it would be made anew.
            if matches!(self.engine.get(&target).await, Ok(None)) {
                continue;
            }
            match self.engine.apply(object).await {
                Ok(_) => self.observer.note(&format!("changing back {} {}", target.kind, target.name)),
                Err(error) => self.failed(&format!("change back {} {}", target.kind, target.name), &error),
            }
        }
    }

    async fn delete_objects(&mut self, ledger: &Ledger) {
        for target in ledger.objects().rev() {
            match self.engine.delete(target, None).await {
                Ok(()) => self.observer.note(&format!("taking down {} {}", target.kind, target.name)),
                Err(EngineError::Kubernetes { reason, .. }) if reason == "NotFound" => {}
                Err(error) => self.failed(&format!("take down {} {}", target.kind, target.name), &error),
            }
        }
        for target in ledger.objects().rev() {
            while matches!(self.engine.get(target).await, Ok(Some(_))) {
                if self.late() {
                    self.left.push(format!("{} {}", target.kind, target.name));
                    break;
                }
                self.pause().await;
            }
        }
    }

    async fn undo_calls(&mut self, ledger: &Ledger) {
        for call in ledger.calls().rev() {
            self.undo(call).await;
        }
    }

    async fn undo(&mut self, call: &ledger::Call) {
        loop {
            match self.engine.aws(call.service, call.command, &call.parameters).await {
                Ok(_) => self.observer.note(&format!("taking down: {call}")),
                Err(EngineError::Aws { code, .. }) if code.ends_with("NotFound") => {}
                // Still in use: what holds it is going.
                Err(EngineError::Aws { .. }) if !self.late() => {
                    self.pause().await;
                    continue;
                }
                Err(error) => self.failed(&format!("take down with {call}"), &error),
            }
            return;
        }
    }

    /// The last look, which gives what is going the time that is left.
    async fn look(&mut self, before: &Facts) {
        loop {
            let found = match self.engine.facts().await {
                Ok(after) => invariants::no_leak(before, &after),
                Err(error) => vec![format!("what is left is not known: {error}")],
            };
            if found.is_empty() {
                return;
            }
            if self.late() {
                self.left.extend(found);
                return;
            }
            self.pause().await;
        }
    }
}
