//! Growing a mounted volume (§1.9): the claim is marked, the driver grows the file system, the claim shows the new size.

use std::sync::Arc;

use model_common::csi::{self, Access, NodeCall, NodeCapability, NodeReply};
use serde::{Deserialize, Serialize};

use super::mount::failure;
use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Step {
    Capabilities,
    Begin,
    Expand,
    Finish,
    /// The failure is being written to the claim.
    Note,
}

/// A running expansion.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Expand {
    step: Step,
    pod: PodUid,
    volume: PodVolume,
    capabilities: Vec<NodeCapability>,
}

impl Expand {
    fn go(mut self, step: Step, action: Action) -> Next {
        self.step = step;
        Next::Do(Op::Expand(Box::new(self)), action)
    }

    fn resize(self, step: Step, phase: ResizePhase) -> Next {
        match self.volume.spec.claim.clone() {
            Some(claim) => self.go(step, Action::ClaimResize { claim, phase }),
            // Only volumes with a claim are expanded.
            None => Next::End(End::Failed),
        }
    }
}

impl VolumeManager {
    pub(super) fn expand_begin(&mut self, want: &Arc<PodWant>, volume: PodVolume, out: &mut Vec<Effect>) -> Next {
        if volume.read_only {
            self.note_read_only(&want.uid, &volume.spec, out);
            self.resized(&volume.spec.name, volume.spec.capacity);
            return Next::End(End::Succeeded);
        }
        let driver = volume.spec.driver.clone();
        let op = Expand { step: Step::Capabilities, pod: want.uid.clone(), volume, capabilities: Vec::new() };
        op.go(Step::Capabilities, Action::Csi { driver, call: NodeCall::NodeGetCapabilities })
    }

    pub(super) fn expand_step(&mut self, mut op: Expand, result: Result<Answer, Failure>, out: &mut Vec<Effect>) -> Next {
        match (op.step, result) {
            (Step::Capabilities, Ok(Answer::Csi(NodeReply::NodeGetCapabilities(capabilities)))) => {
                if !capabilities.contains(&NodeCapability::ExpandVolume) {
                    self.resized(&op.volume.spec.name, op.volume.spec.capacity);
                    return Next::End(End::Succeeded);
                }
                op.capabilities = capabilities;
                op.resize(Step::Begin, ResizePhase::InProgress)
            }
            (Step::Begin, Ok(Answer::Done)) => {
                let (driver, call) = (op.volume.spec.driver.clone(), self.node_expand(&op));
                op.go(Step::Expand, Action::Csi { driver, call })
            }
            (Step::Expand, Ok(Answer::Csi(NodeReply::NodeExpandVolume { capacity_bytes }))) => {
                let wanted = op.volume.spec.capacity;
                self.resized(&op.volume.spec.name, wanted.max(capacity_bytes));
                op.resize(Step::Finish, ResizePhase::Finished(wanted))
            }
            (Step::Finish, Ok(Answer::Done)) => {
                self.note_expanded(&op.pod, &op.volume.spec, out);
                Next::End(End::Succeeded)
            }
            (Step::Finish, _) => {
                // The file system has grown, the claim does not say so yet: look again after the backoff.
                self.resized(&op.volume.spec.name, op.volume.spec.claim_capacity);
                Next::End(End::Failed)
            }
            (Step::Note, _) => Next::End(End::Failed),
            (Step::Expand, other) => {
                let failure = failure(other);
                if matches!(&failure, Failure::Rpc(error) if error.code == csi::Code::FailedPrecondition)
                    && let Some(volume) = self.actual.get_mut(&op.volume.spec.name)
                {
                    volume.expand_in_use = true;
                }
                let why = format!("Expander.NodeExpand failed to expand the volume : {failure}");
                self.note_failed(&op, &why, out);
                op.resize(Step::Note, ResizePhase::Failed(why))
            }
            (Step::Capabilities | Step::Begin, other) => {
                let why = failure(other).to_string();
                self.note_failed(&op, &why, out);
                Next::End(End::Failed)
            }
        }
    }

    fn node_expand(&self, op: &Expand) -> NodeCall {
        let spec = &op.volume.spec;
        let layout = &self.config.layout;
        let (volume_path, staging, access) = match spec.block {
            true => (layout.block_map(&spec.pv, &op.pod), layout.block_staging(&spec.pv), Access::Block),
            false => {
                let access = Access::Mount {
                    fs_type: spec.fs_type.clone(),
                    mount_flags: spec.mount_options.clone(),
                    volume_mount_group: String::new(),
                };
                (layout.pod_mount(&op.pod, &spec.pv), layout.global_mount(&spec.driver, &spec.handle), access)
            }
        };
        let staged = op.capabilities.contains(&NodeCapability::StageUnstageVolume);
        let mode = spec.mode(op.capabilities.contains(&NodeCapability::SingleNodeMultiWriter));
        NodeCall::NodeExpandVolume {
            volume_id: spec.handle.clone(),
            volume_path,
            staging_target_path: if staged { staging } else { String::new() },
            capacity: csi::CapacityRange { required_bytes: spec.capacity, limit_bytes: 0 },
            capability: Some(csi::VolumeCapability { access, mode }),
        }
    }

    pub(super) fn resized(&mut self, name: &VolumeName, size: u64) {
        if let Some(volume) = self.actual.get_mut(name) {
            volume.size = size;
        }
    }

    fn note_failed(&self, op: &Expand, why: &str, out: &mut Vec<Effect>) {
        out.push(Effect::Record(Event {
            target: Target::Pod(op.pod.clone()),
            warning: true,
            reason: "VolumeResizeFailed",
            message: format!("NodeExpandVolume.NodeExpandVolume failed for volume \"{}\" : {why}", op.volume.spec.pv),
        }));
    }

    pub(super) fn note_expanded(&self, pod: &PodUid, spec: &VolumeSpec, out: &mut Vec<Effect>) {
        let message = format!("MountVolume.NodeExpandVolume succeeded for volume \"{}\" {}", spec.pv, self.config.node);
        self.note_both(pod, spec, false, "FileSystemResizeSuccessful", message, out);
    }

    pub(super) fn note_read_only(&self, pod: &PodUid, spec: &VolumeSpec, out: &mut Vec<Effect>) {
        let message = format!("MountVolume.NodeExpandVolume failed for volume \"{}\" requested read-only file system", spec.pv);
        self.note_both(pod, spec, true, "FileSystemResizeFailed", message, out);
    }

    fn note_both(&self, pod: &PodUid, spec: &VolumeSpec, warning: bool, reason: &'static str, message: String, out: &mut Vec<Effect>) {
        let claim = spec.claim.clone().map(Target::Claim);
        for target in std::iter::once(Target::Pod(pod.clone())).chain(claim) {
            out.push(Effect::Record(Event { target, warning, reason, message: message.clone() }));
        }
    }
}
