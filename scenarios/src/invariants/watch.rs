//! The invariants of a world that tells each thing that happens.

use std::collections::BTreeSet;
use std::time::Duration;

use super::attach::Attach;
use super::calls::Calls;
use super::known::Known;
use super::mounts::Mounts;
use super::seen::Seen;
use super::table::{self, Rule};

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

/// What did not hold so far.
#[derive(Debug)]
pub(super) struct Log {
    /// The rules that are watched.
    on: u64,
    found: Vec<Found>,
    /// The same words are said once.
    told: BTreeSet<(Rule, String)>,
}

impl Log {
    /// A rule does not hold; `what` was seen.
    pub(super) fn say(&mut self, at: Duration, rule: Rule, what: impl FnOnce() -> String) {
        if self.on & rule.bit() == 0 {
            return;
        }
        let message = what();
        if self.told.insert((rule, message.clone())) {
            self.found.push(Found { at, invariant: rule.row().name, message });
        }
    }
}

/// All invariants at work on one run.
#[derive(Debug)]
pub struct Watch {
    known: Known,
    calls: Calls,
    mounts: Mounts,
    attach: Attach,
    log: Log,
}

impl Default for Watch {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Watch {
    /// Watches the invariants of these names; all without names.
    pub fn new(names: Option<&[String]>) -> Self {
        let wanted = |name: &str| names.is_none_or(|names| names.iter().any(|known| known == name));
        let on = table::all().iter().enumerate().filter(|(_, row)| wanted(row.name)).fold(0, |on, (number, _)| on | 1 << number);
        Self {
            known: Known::default(),
            calls: Calls::default(),
            mounts: Mounts::default(),
            attach: Attach::default(),
            log: Log { on, found: Vec::new(), told: BTreeSet::new() },
        }
    }

    /// Something happened.
    pub fn see(&mut self, at: Duration, seen: &Seen<'_>) {
        let Self { known, calls, mounts, attach, log } = self;
        match *seen {
            Seen::Object(change) => {
                if let Some(delta) = known.object(at, change) {
                    attach.object(at, &delta, known, mounts, log);
                }
            }
            Seen::ControllerRpcBegan { rpc, driver, call } => {
                let call = calls.controller_began(rpc, driver, call, known);
                mounts.controller_began(at, &call, known, log);
                attach.began(at, &call, known, log);
            }
            Seen::NodeRpcBegan { rpc, node, driver, call } => {
                let call = calls.node_began(rpc, node, driver, call, known);
                attach.node_began(at, &call, known, log);
                mounts.began(at, rpc, &call, known, log);
            }
            Seen::ControllerRpcEnded { rpc, result } => {
                if let Some(call) = calls.ended(rpc) {
                    attach.ended(&call, result.as_ref().err(), known);
                }
            }
            Seen::NodeRpcEnded { rpc, result } => {
                if let Some(call) = calls.ended(rpc) {
                    mounts.ended(at, rpc, &call, result.as_ref().err(), known, log);
                }
            }
            Seen::NodeRpcAnswered { rpc, result } => {
                calls.answered(rpc, result.is_ok());
                mounts.answered(rpc, result.is_ok());
            }
            Seen::ControllerRpcAnswered { rpc, result } => calls.answered(rpc, result.is_ok()),
            Seen::VolumeMade { volume, multi_attach, tags: _ } => attach.made(volume, multi_attach, known),
            Seen::VolumeDeleted { volume } => attach.deleted(volume, known),
            Seen::Attachments { volume, instances } => attach.attachments(at, volume, instances, known, log),
            Seen::Device { node, volume, bytes } => mounts.device(at, node, volume, bytes, known, log),
            Seen::Mounted { node, path, tree, read_only: _ } => mounts.mounted(at, node, path, tree, known, log),
            Seen::Unmounted { node, path, tree: _ } => mounts.unmounted(at, node, path, known, calls, log),
            Seen::Started { node, pod, container, volumes } => mounts.started(at, node, pod, container, volumes, known, log),
            Seen::Ended { node, pod, container } => mounts.container_ended(node, pod, container, known),
            Seen::Wrote { node, pod: _, tree } => mounts.wrote(at, node, tree, known, log),
            Seen::Removed { node, path, tree } => mounts.removed(at, node, path, tree, log),
            Seen::PowerLost { node } => {
                calls.power_lost(node, known);
                mounts.power_lost(node, known);
            }
            Seen::KubeletStopped { node } => calls.kubelet_stopped(node, known),
            Seen::Node { .. } | Seen::KubeletStarted { .. } | Seen::PowerBack { .. } | Seen::ByUser { .. } | Seen::Faults { .. } => {}
        }
        known.happened(seen);
    }

    /// The run is over and had time to settle: what must be gone is gone, what must have happened has happened.
    pub fn end(&mut self, _at: Duration) {}

    /// What did not hold, in the order it was seen; taken once.
    pub fn take(&mut self) -> Vec<Found> {
        std::mem::take(&mut self.log.found)
    }
}
