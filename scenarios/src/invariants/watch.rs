//! The invariants of a world that tells each thing that happens.

use std::collections::BTreeSet;
use std::time::Duration;

use model_kube::object::Change;

use super::attach::Attach;
use super::calls::Calls;
use super::claims::Claims;
use super::known::Known;
use super::liveness::{Liveness, View};
use super::mounts::Mounts;
use super::order::Order;
use super::rest::Rest;
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
    claims: Claims,
    order: Order,
    liveness: Liveness,
    rest: Rest,
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
            claims: Claims::default(),
            order: Order::default(),
            liveness: Liveness::default(),
            rest: Rest::default(),
            log: Log { on, found: Vec::new(), told: BTreeSet::new() },
        }
    }

    /// Watches a world that can only be asked from time to time. Its objects say themselves since when they are so, and `at` is the
    /// time since the Unix epoch; what takes too long is found by [`pass`](Self::pass), after all that was seen at a time was told.
    pub fn of_a_cluster(names: Option<&[String]>) -> Self {
        let mut this = Self::new(names);
        this.liveness.dated = true;
        this
    }

    /// Until when something that began after `since` may still be due; none: nothing of it is.
    pub fn due(&self, since: Duration) -> Option<Duration> {
        let Self { known, mounts, attach, .. } = self;
        self.liveness.due(since, View { known, mounts, attach })
    }

    /// It is this late, and all that happened until now was told.
    pub fn pass(&mut self, at: Duration) {
        let Self { known, mounts, attach, liveness, log, .. } = self;
        liveness.tick(at, View { known, mounts, attach }, log);
    }

    /// Something happened.
    pub fn see(&mut self, at: Duration, seen: &Seen<'_>) {
        let Self { known, calls, mounts, attach, claims, order, liveness, rest, log } = self;
        if !liveness.dated {
            liveness.tick(at, View { known, mounts, attach }, log);
        }
        match *seen {
            Seen::Object(change) => {
                // A watch shows what was stored last, and with the last finalizers goes the object (pkg/registry/generic/registry/store.go,
                // `deleteWithoutFinalizers`): from outside it is the writes before that tell.
                if !liveness.dated {
                    finalizers(at, change, log);
                }
                if let Some(delta) = known.object(at, change) {
                    attach.object(at, &delta, known, mounts, log);
                    claims.object(at, &delta, known, log);
                    liveness.object(at, &delta, View { known, mounts, attach }, log);
                }
            }
            Seen::ControllerRpcBegan { rpc, driver, call: asked } => {
                let call = calls.controller_began(rpc, driver, asked, known);
                mounts.controller_began(at, &call, known, log);
                attach.began(at, &call, known, log);
                liveness.began(&call);
                claims.began(at, &call, asked, known, mounts, attach, log);
                order.began(at, rpc, &call, known, calls, log);
            }
            Seen::NodeRpcBegan { rpc, node, driver, call } => {
                let call = calls.node_began(rpc, node, driver, call, known);
                attach.node_began(at, &call, known, log);
                liveness.began(&call);
                order.began(at, rpc, &call, known, calls, log);
                mounts.began(at, rpc, &call, known, log);
            }
            Seen::ControllerRpcEnded { rpc, result } => {
                if let Some(call) = calls.ended(false, rpc) {
                    let error = result.as_ref().err();
                    attach.ended(&call, error, known);
                    order.result(at, &call, result, known, log);
                    order.ended(&call, error);
                    order.told(&call, error.filter(|_| call.told.is_none()));
                    match result {
                        Ok(reply) => claims.ended(&call, reply, known),
                        Err(error) => liveness.failed(at, &call, error),
                    }
                }
            }
            Seen::NodeRpcEnded { rpc, result } => {
                if let Some(call) = calls.ended(true, rpc) {
                    let error = result.as_ref().err();
                    mounts.ended(at, rpc, &call, error, known, log);
                    liveness.report(at, call.volume, call.node, View { known, mounts, attach });
                    order.ended(&call, error);
                    order.told(&call, error.filter(|_| call.told.is_none()));
                    match result {
                        Ok(reply) => claims.node_ended(&call, reply),
                        Err(error) => liveness.failed(at, &call, error),
                    }
                }
            }
            Seen::NodeRpcAnswered { rpc, result } => {
                mounts.answered(rpc, result.is_ok());
                if let Some(call) = calls.answered(true, rpc, result.is_ok()) {
                    order.told(&call, result.as_ref().err());
                    if let Err(error) = result {
                        liveness.failed(at, &call, error);
                    }
                }
            }
            Seen::ControllerRpcAnswered { rpc, result } => {
                if let Some(call) = calls.answered(false, rpc, result.is_ok()) {
                    order.told(&call, result.as_ref().err());
                }
            }
            Seen::VolumeMade { volume, multi_attach, tags } => {
                attach.made(volume, multi_attach, known);
                // What becomes of a volume that a driver made is judged by the calls to the driver, which a cluster does not show.
                if !liveness.dated {
                    claims.made(volume, tags, known);
                }
            }
            Seen::VolumeDeleted { volume } => {
                attach.deleted(volume, known);
                claims.gone(volume, known);
            }
            Seen::Attachments { volume, instances } => {
                let nodes = attach.attachments(at, volume, instances, known, log);
                liveness.attachments(at, volume, &nodes, View { known, mounts, attach });
            }
            Seen::Device { node, volume, bytes } => mounts.device(at, node, volume, bytes, known, log),
            Seen::Mounted { node, path, tree, read_only: _ } => mounts.mounted(at, node, path, tree, known, log),
            Seen::Unmounted { node, path, tree } => {
                mounts.unmounted(at, node, path, known, calls, log);
                if let Some((node, volume)) = known.names.find(node).zip(known.names.find(tree)) {
                    liveness.report(at, volume, node, View { known, mounts, attach });
                }
            }
            Seen::Path { node, path, pod, volume, there } => rest.path(node, path, pod, volume, there, known),
            Seen::IoHangs { node, tree } => liveness.io(at, node, tree, true, known),
            Seen::IoGoesOn { node, tree } => liveness.io(at, node, tree, false, known),
            Seen::Faults { active } => liveness.faults(at, active),
            Seen::Started { node, pod, container, volumes } => {
                mounts.started(at, node, pod, container, volumes, known, log);
                claims.started(at, volumes, known, log);
            }
            Seen::FileSystem { tree, bytes } => claims.file_system(tree, bytes, known),
            Seen::Cut { cut, digest } => claims.cut(cut, digest, known),
            Seen::Filled { volume, cut, digest } => claims.filled(at, volume, cut, digest, known, log),
            Seen::Ended { node, pod, container } => mounts.container_ended(node, pod, container, known),
            Seen::Wrote { node, pod: _, tree } => mounts.wrote(at, node, tree, known, log),
            Seen::Removed { node, path, tree } => mounts.removed(at, node, path, tree, log),
            Seen::PowerLost { node } => {
                calls.power_lost(node, known);
                mounts.power_lost(node, known);
                order.power_lost(node, known);
            }
            Seen::KubeletStopped { node } => calls.kubelet_stopped(node, known),
            Seen::Node { .. } | Seen::KubeletStarted { .. } | Seen::PowerBack { .. } | Seen::ByUser { .. } | Seen::WatchBehind { .. } => {}
        }
        known.happened(seen);
    }

    /// The run is over and had time to settle: what must be gone is gone, what must have happened has happened.
    pub fn end(&mut self, at: Duration) {
        let Self { known, calls, mounts, attach, claims, liveness, rest, log, .. } = self;
        liveness.tick(at, View { known, mounts, attach }, log);
        claims.end(at, known, calls, log);
        rest.end(at, known, mounts, attach, log);
    }

    /// What did not hold, in the order it was seen; taken once.
    pub fn take(&mut self) -> Vec<Found> {
        std::mem::take(&mut self.log.found)
    }
}

/// S29: an object with finalizers is not removed.
fn finalizers(at: Duration, change: &Change, log: &mut Log) {
    let Change::Deleted(object) = change else { return };
    if let Some(finalizers) = object.metadata().finalizers.as_ref().filter(|finalizers| !finalizers.is_empty()) {
        log.say(at, Rule::S29, || {
            let key = object.key();
            format!("{} {}/{} was removed with the finalizers {}", key.kind.kind_name(), key.namespace, key.name, finalizers.join(", "))
        });
    }
}
