//! The invariants of a world that tells each thing that happens.

use std::time::Duration;

use super::seen::Seen;

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// When, in the world's time.
    pub at: Duration,
    /// The invariant's name.
    pub invariant: &'static str,
    /// What was seen.
    pub message: String,
}

/// All invariants at work on one run.
#[derive(Debug, Default)]
pub struct Watch {
    found: Vec<Found>,
}

impl Watch {
    /// Something happened.
    pub fn see(&mut self, _at: Duration, _seen: &Seen<'_>) {}

    /// The run is over and had time to settle: what must be gone is gone, what must have happened has happened.
    pub fn end(&mut self, _at: Duration) {}

    /// What did not hold, in the order it was seen; taken once.
    pub fn take(&mut self) -> Vec<Found> {
        std::mem::take(&mut self.found)
    }
}
