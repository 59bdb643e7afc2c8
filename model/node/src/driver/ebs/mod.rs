//! The controller service of the EBS driver (ebs.md §1, §3.3, §3.5, §4).

mod attach;
mod create;
mod limits;
mod modify;
mod names;
mod parameters;
mod small;
mod snapshots;
mod tags;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use model_common::csi::{Access, AccessMode, Code, ControllerCall, Error, VolumeCapability};
use serde::{Deserialize, Serialize};

use super::{Awaits, CallId, Calls, Effect, Event, Input, Next, Reject, Timer};

pub use limits::max_volumes;
pub use names::DEVICE_NAMES;
pub use parameters::formatting_supported;

/// The driver's name in CSI and in Kubernetes.
pub const DRIVER: &str = "ebs.csi.aws.com";
/// The release whose behaviour this follows.
pub const VERSION: &str = "v1.64.0";
/// The key of the device's name in a publish context.
pub const DEVICE_PATH: &str = "devicePath";

const GIB: u64 = 1 << 30;

/// The driver's flags.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// `--k8s-tag-cluster-id`.
    pub cluster_id: Option<String>,
    /// `--extra-tags`.
    pub extra_tags: BTreeMap<String, String>,
}

/// What all operations share.
#[derive(Debug, Clone, Default)]
struct Shared {
    options: Options,
    /// The volume names, volume ids, volume+node pairs and snapshots that are being worked on, and by which call.
    in_flight: BTreeMap<String, CallId>,
    /// The latest suffix of a volume name's client token, where the first token is burned (ebs.md §1.3).
    token_numbers: BTreeMap<String, u32>,
    /// Highest IOPS by volume type and zone, as learnt from a dry run (ebs.md §1.5).
    iops_limits: BTreeMap<(String, String), i32>,
    names: names::Names,
    /// Who modifies a volume, and who waits for that, in order.
    modifying: BTreeMap<String, VecDeque<CallId>>,
}

impl Shared {
    /// Notes that `key` is being worked on; false when somebody else does.
    fn begin(&mut self, key: &str, id: CallId) -> bool {
        if self.in_flight.contains_key(key) {
            return false;
        }
        self.in_flight.insert(key.to_owned(), id);
        true
    }

    /// Forgets what an ended call held. Answers the call whose turn it is now.
    fn end(&mut self, id: CallId) -> Option<CallId> {
        self.in_flight.retain(|_, owner| *owner != id);
        self.names.release(id);
        let mut woken = None;
        self.modifying.retain(|_, queue| {
            if queue.front() == Some(&id) {
                queue.pop_front();
                woken = queue.front().copied();
            } else {
                queue.retain(|waiting| *waiting != id);
            }
            !queue.is_empty()
        });
        woken
    }
}

/// One call being worked on.
#[derive(Debug, Clone)]
enum Op {
    Create(Box<create::Create>),
    Publish(attach::Publish),
    Unpublish(attach::Unpublish),
    Modify(Box<modify::ModifyOp>),
    CreateSnapshot(snapshots::Create),
    ListSnapshots(snapshots::List),
    Small(small::Small),
}

impl Op {
    fn new(request: ControllerCall) -> Self {
        match request {
            request @ ControllerCall::CreateVolume { .. } => Self::Create(Box::new(create::Create::new(request))),
            ControllerCall::DeleteVolume { volume_id } => Self::Small(small::Small::DeleteVolume { volume_id }),
            ControllerCall::ControllerPublishVolume { volume_id, node_id, capability, readonly: _, volume_context } => {
                Self::Publish(attach::Publish::new(volume_id, node_id, capability, &volume_context))
            }
            ControllerCall::ControllerUnpublishVolume { volume_id, node_id } => Self::Unpublish(attach::Unpublish::new(volume_id, node_id)),
            ControllerCall::ValidateVolumeCapabilities { volume_id, capabilities, .. } => {
                Self::Small(small::Small::Validate { volume_id, capabilities })
            }
            ControllerCall::ControllerExpandVolume { volume_id, capacity, capability } => {
                Self::Modify(Box::new(modify::ModifyOp::expand(volume_id, capacity, capability)))
            }
            ControllerCall::ControllerModifyVolume { volume_id, mutable_parameters } => {
                Self::Modify(Box::new(modify::ModifyOp::modify(volume_id, mutable_parameters)))
            }
            ControllerCall::CreateSnapshot { name, source_volume_id, parameters } => {
                Self::CreateSnapshot(snapshots::Create::new(name, source_volume_id, parameters))
            }
            ControllerCall::DeleteSnapshot { snapshot_id } => Self::Small(small::Small::DeleteSnapshot { snapshot_id }),
            ControllerCall::ListSnapshots { snapshot_id, source_volume_id, max_entries, starting_token } => {
                Self::ListSnapshots(snapshots::List { snapshot_id, source_volume_id, max_entries, starting_token })
            }
        }
    }

    fn on(&mut self, shared: &mut Shared, id: CallId, event: Event<'_>) -> Next {
        match self {
            Self::Create(op) => op.on(shared, id, event),
            Self::Publish(op) => op.on(shared, id, event),
            Self::Unpublish(op) => op.on(shared, id, event),
            Self::Modify(op) => op.on(shared, id, event),
            Self::CreateSnapshot(op) => op.on(shared, id, event),
            Self::ListSnapshots(op) => op.on(event),
            Self::Small(op) => op.on(shared, id, event),
        }
    }
}

/// The driver.
#[derive(Debug, Clone, Default)]
pub struct Ebs {
    calls: Calls<Op>,
    shared: Shared,
}

impl Ebs {
    pub fn new(options: Options) -> Self {
        Self { calls: Calls::default(), shared: Shared { options, ..Shared::default() } }
    }

    /// Applies one input. On a reject nothing has changed.
    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Call { id, request } => {
                if self.calls.active.contains_key(id) {
                    return Err(Reject::SameCall(*id));
                }
                self.advance(*id, Op::new(request.clone()), Event::Start, out);
            }
            Input::Cloud { id, result } => {
                let op = self.calls.take(*id, Awaits::Cloud)?;
                self.advance(*id, op, Event::Answer(result), out);
            }
            Input::Fired(Timer(id)) => {
                let op = self.calls.take(*id, Awaits::Timer)?;
                self.advance(*id, op, Event::Go, out);
            }
            Input::Cancelled { id } => {
                let (op, awaits) = self.calls.active.remove(id).ok_or(Reject::NoSuchCall(*id))?;
                if awaits == Awaits::Timer {
                    out.push(Effect::Disarm(Timer(*id)));
                }
                if let Op::Publish(publish) = &op {
                    publish.abandoned(&mut self.shared, *id);
                }
                self.ended(*id, out);
            }
        }
        Ok(())
    }

    /// The calls that are being worked on.
    pub fn active(&self) -> impl Iterator<Item = CallId> + '_ {
        self.calls.active.keys().copied()
    }

    fn advance(&mut self, id: CallId, mut op: Op, event: Event<'_>, out: &mut Vec<Effect>) {
        let next = op.on(&mut self.shared, id, event);
        if self.calls.settle(id, op, next, out) {
            self.ended(id, out);
        }
    }

    /// A call is over: whoever waited for its turn goes on.
    fn ended(&mut self, id: CallId, out: &mut Vec<Effect>) {
        if let Some(next) = self.shared.end(id)
            && let Ok(op) = self.calls.take(next, Awaits::Turn)
        {
            self.advance(next, op, Event::Go, out);
        }
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, message)
}

/// What a second call for the same thing is told (`internal.VolumeOperationAlreadyExistsErrorMsg`).
fn already_working(what: &str) -> Next {
    Next::fail(Error::new(Code::Aborted, format!("An operation with the given Volume {what} already exists")))
}

/// `isValidCapability`.
fn supported(capability: &VolumeCapability) -> bool {
    match capability.mode {
        AccessMode::SingleNodeWriter => true,
        AccessMode::MultiNodeMultiWriter => capability.access == Access::Block,
        AccessMode::SingleNodeReaderOnly
        | AccessMode::MultiNodeReaderOnly
        | AccessMode::MultiNodeSingleWriter
        | AccessMode::SingleNodeSingleWriter
        | AccessMode::SingleNodeMultiWriter => false,
    }
}
