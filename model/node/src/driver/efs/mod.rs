//! The controller service of the EFS driver (efs.md §1.1, §1.5, §4.2): access points as volumes.

mod create;
mod delete;
mod handle;
mod parameters;
mod publish;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use model_common::csi::{Access, AccessMode, Code, ControllerCall, ControllerReply, Error, VolumeCapability};
use serde::{Deserialize, Serialize};

use super::{Awaits, CallId, Calls, Effect, Event, Input, Next, Reject, Timer};

pub use handle::Handle;
pub use publish::{Mount, plan};

/// The driver's name in CSI and in Kubernetes.
pub const DRIVER: &str = "efs.csi.aws.com";
/// The release whose behaviour this follows.
pub const VERSION: &str = "v3.4.1";

/// The driver's flags.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// `--tags`.
    pub tags: BTreeMap<String, String>,
    /// What the unique parts of directory names (`ensureUniqueDirectory`) are made from.
    pub seed: u64,
}

/// What all operations share.
#[derive(Debug, Clone, Default)]
struct Shared {
    options: Options,
    /// Access points being deleted, and by which call (`lockManager`).
    locked: BTreeMap<String, CallId>,
    /// The volumes made since the driver started and not deleted, by name. EFS has no sizes, so this is the only place where it is known
    /// that a name is asked for again with another one, which CSI has refused; after a restart it is not.
    sizes: BTreeMap<String, Made>,
}

/// A volume that was made.
#[derive(Debug, Clone)]
struct Made {
    bytes: u64,
    access_point_id: String,
}

#[derive(Debug, Clone)]
enum Op {
    Create(Box<create::Create>),
    Delete(delete::Delete),
    /// A call that is answered without asking anybody.
    Answered(Box<Result<ControllerReply, Error>>),
}

impl Op {
    fn new(request: ControllerCall) -> Self {
        let unimplemented = || Self::Answered(Box::new(Err(Error::new(Code::Unimplemented, ""))));
        match request {
            ControllerCall::CreateVolume { name, capacity, capabilities, parameters, .. } => {
                Self::Create(Box::new(create::Create::new(name, capacity, capabilities, parameters)))
            }
            ControllerCall::DeleteVolume { volume_id } => Self::Delete(delete::Delete::new(volume_id)),
            ControllerCall::ValidateVolumeCapabilities { volume_id, capabilities, .. } => {
                Self::Answered(Box::new(validate(&volume_id, &capabilities)))
            }
            ControllerCall::ControllerPublishVolume { .. }
            | ControllerCall::ControllerUnpublishVolume { .. }
            | ControllerCall::ControllerExpandVolume { .. }
            | ControllerCall::ControllerModifyVolume { .. }
            | ControllerCall::CreateSnapshot { .. }
            | ControllerCall::DeleteSnapshot { .. }
            | ControllerCall::ListSnapshots { .. } => unimplemented(),
        }
    }

    fn on(&mut self, shared: &mut Shared, id: CallId, event: Event<'_>) -> Next {
        match self {
            Self::Create(op) => op.on(shared, id, event),
            Self::Delete(op) => op.on(shared, id, event),
            Self::Answered(result) => Next::Done((**result).clone()),
        }
    }
}

/// The driver.
#[derive(Debug, Clone, Default)]
pub struct Efs {
    calls: Calls<Op>,
    shared: Shared,
}

impl Efs {
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
                let (_, awaits) = self.calls.active.remove(id).ok_or(Reject::NoSuchCall(*id))?;
                if awaits == Awaits::Timer {
                    out.push(Effect::Disarm(Timer(*id)));
                }
                self.shared.locked.retain(|_, owner| owner != id);
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
            self.shared.locked.retain(|_, owner| *owner != id);
        }
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, message)
}

fn access_denied() -> Error {
    Error::new(Code::Unauthenticated, "Access Denied. Please ensure you have the right AWS permissions: Access denied")
}

/// `isValidVolumeCapabilities`; also asked by the node service.
pub fn check_capabilities(capabilities: &[VolumeCapability]) -> Result<(), String> {
    let wrong: Vec<&str> = capabilities
        .iter()
        .filter_map(|capability| match capability.mode {
            AccessMode::SingleNodeWriter | AccessMode::MultiNodeMultiWriter => None,
            AccessMode::SingleNodeReaderOnly => Some("SINGLE_NODE_READER_ONLY"),
            AccessMode::MultiNodeReaderOnly => Some("MULTI_NODE_READER_ONLY"),
            AccessMode::MultiNodeSingleWriter => Some("MULTI_NODE_SINGLE_WRITER"),
            AccessMode::SingleNodeSingleWriter => Some("SINGLE_NODE_SINGLE_WRITER"),
            AccessMode::SingleNodeMultiWriter => Some("SINGLE_NODE_MULTI_WRITER"),
        })
        .collect();
    if !wrong.is_empty() {
        return Err(format!("invalid access mode: {}", wrong.join(",")));
    }
    for capability in capabilities {
        let Access::Mount { mount_flags, .. } = &capability.access else {
            return Err("only filesystem volumes are supported".to_owned());
        };
        if mount_flags.iter().any(|flag| flag == "crossaccount") {
            return Err("mount option 'crossaccount' cannot be set manually. The CSI driver automatically configures this based on \
                        Kubernetes secrets. See: https://github.com/kubernetes-sigs/aws-efs-csi-driver/tree/master/examples/\
                        kubernetes/efs/cross_account_mount"
                .to_owned());
        }
    }
    Ok(())
}

fn validate(volume_id: &str, capabilities: &[VolumeCapability]) -> Result<ControllerReply, Error> {
    if volume_id.is_empty() {
        return Err(invalid("Volume ID not provided"));
    }
    if capabilities.is_empty() {
        return Err(invalid("Volume capabilities not provided"));
    }
    Handle::parse(volume_id).map_err(|error| Error::new(Code::NotFound, format!("Volume not found, err: {error}")))?;
    Ok(ControllerReply::ValidateVolumeCapabilities { confirmed: check_capabilities(capabilities).is_ok(), message: String::new() })
}
