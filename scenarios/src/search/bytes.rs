//! A run as a string of bytes: what the fuzzer makes. The bytes are the choices of a plan (how many nodes, which trouble, what happens
//! when), which ends with them or after its time. Those left over are the latencies of the world, each as it is asked for; behind the
//! last byte latencies come from seed 0.

use std::time::Duration;

use model_common::pick::Bytes;

use super::{Options, plan};
use crate::invariants::Violation;
use crate::language::{AsOf, Scenario};
use crate::report::Report;
use crate::world::{self, Told};

/// Invariants that the machines violate because upstream does, or that users and faults violate by themselves: their violation in a
/// random run says nothing of the model.
pub const OPEN: [&str; 7] =
    ["single-attach", "no-leak", "deletion-ends", "finalizers-kept", "claim-outlives-pods", "retries-soon", "no-stale-detach"];

/// The seed of all that bytes do not decide: ids and uids.
const SEED: u64 = 0;

/// A run, and what it was.
#[derive(Debug, Clone)]
pub struct Played {
    pub scenario: Scenario,
    pub report: Report,
    /// What happened; empty where nobody asked.
    pub story: Vec<Told>,
}

/// Plays the run of these bytes with all invariants on: three minutes of trouble and the time to come to rest after it. Any bytes are
/// a run. With the changes that are proposed upstream: what they mend would hide what nobody knows.
pub fn play(bytes: &[u8], tell: bool) -> Played {
    let options = Options { nodes: 3, volumes: 2, span: Duration::from_secs(180), ..Options::default() };
    let mut choices = Bytes::new(bytes);
    let mut scenario = plan(&mut choices, SEED, &options);
    scenario.set_as_of(AsOf::fixed());
    let (report, story) = world::run_tape(&scenario, SEED, choices.rest().to_vec(), tell);
    Played { scenario, report, story }
}

impl Played {
    /// The first violation that nobody knows a reason for.
    pub fn unexplained(&self) -> Option<&Violation> {
        self.report.violations.iter().find(|violation| !OPEN.contains(&violation.invariant.as_str()))
    }
}
