//! The mount operation (§3.5), for file systems (`MountVolume`) and block devices (`MapVolume`).

mod attachment;
mod notes;

use std::collections::BTreeMap;
use std::sync::Arc;

use model_common::csi::{self, Access, NodeCall, NodeCapability, NodeReply};
use serde::{Deserialize, Serialize};

use super::*;

/// Where the operation stands: which action is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Step {
    Attachment,
    DeviceCapabilities,
    DeviceDir,
    Stage,
    StageCleanup,
    PodCapabilities,
    PodDir,
    Publish,
    PublishCleanup,
    FsGroup,
    MapDevice,
    ExpandBegin,
    Expand,
    ExpandEnd,
}

/// A running mount.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Mount {
    step: Step,
    want: Arc<PodWant>,
    volume: PodVolume,
    remount: bool,
    publish_context: BTreeMap<String, String>,
    capabilities: Vec<NodeCapability>,
}

impl Mount {
    fn has(&self, capability: NodeCapability) -> bool {
        self.capabilities.contains(&capability)
    }

    fn spec(&self) -> &VolumeSpec {
        &self.volume.spec
    }

    fn prefix(&self) -> &'static str {
        if self.spec().block { "MapVolume" } else { "MountVolume" }
    }

    /// The group that the driver applies itself.
    fn mount_group(&self) -> String {
        match self.volume.fs_group {
            Some(gid) if self.has(NodeCapability::VolumeMountGroup) => gid.to_string(),
            _ => String::new(),
        }
    }

    fn capability(&self) -> csi::VolumeCapability {
        let spec = self.spec();
        let access = if spec.block {
            Access::Block
        } else {
            Access::Mount { fs_type: spec.fs_type.clone(), mount_flags: spec.mount_options.clone(), volume_mount_group: self.mount_group() }
        };
        csi::VolumeCapability { access, mode: spec.mode(self.has(NodeCapability::SingleNodeMultiWriter)) }
    }

    fn go(mut self, step: Step, action: Action) -> Next {
        self.step = step;
        Next::Do(Op::Mount(Box::new(self)), action)
    }

    fn call(self, step: Step, call: NodeCall) -> Next {
        let driver = self.spec().driver.clone();
        self.go(step, Action::Csi { driver, call })
    }

    /// Whether the walk over the files is the kubelet's (`csi_mounter.go supportsFSGroup`).
    fn wants_fs_group(&self) -> Option<u32> {
        let spec = self.spec();
        let gid = self.volume.fs_group?;
        if self.volume.read_only || spec.block || self.has(NodeCapability::VolumeMountGroup) {
            return None;
        }
        let applies = match spec.fs_group_policy {
            FsGroupPolicy::None => false,
            FsGroupPolicy::File => true,
            FsGroupPolicy::ReadWriteOnceWithFSType => {
                let single = |mode: &AccessMode| matches!(mode, AccessMode::ReadWriteOnce | AccessMode::ReadWriteOncePod);
                !spec.fs_type.is_empty() && spec.access_modes.iter().any(single)
            }
        };
        applies.then_some(gid)
    }
}

impl VolumeManager {
    pub(super) fn mount_begin(&mut self, want: &Arc<PodWant>, volume: PodVolume, remount: bool, out: &mut Vec<Effect>) -> Next {
        let op = Mount {
            step: Step::Attachment,
            want: want.clone(),
            volume,
            remount,
            publish_context: BTreeMap::new(),
            capabilities: Vec::new(),
        };
        let spec = op.spec();
        if let Some(why) = &spec.node_mismatch {
            return self.mount_failed(&op, "NodeAffinity check", why, out);
        }
        let mounted_by_another = |actual: &Volume| actual.pods.keys().any(|pod| *pod != want.uid);
        if spec.single_pod() && self.actual.get(&spec.name).is_some_and(mounted_by_another) {
            let step = if spec.block { "SetUpDevice" } else { "SetUp" };
            return self.mount_failed(&op, step, "volume uses the ReadWriteOncePod access mode and is already in use by another pod", out);
        }
        if spec.attachable {
            let name = attachment_name(&spec.handle, &spec.driver, &self.config.node);
            return op.go(Step::Attachment, Action::ReadAttachment { name });
        }
        self.mount_device(op)
    }

    /// One answer.
    pub(super) fn mount_step(&mut self, mut op: Mount, result: Result<Answer, Failure>, out: &mut Vec<Effect>) -> Next {
        match op.step {
            Step::Attachment => match self.attachment(&op, result) {
                Ok(context) => {
                    op.publish_context = context;
                    self.mount_device(op)
                }
                Err(why) => self.mount_failed(&op, "WaitForAttach", &why, out),
            },
            Step::DeviceCapabilities => match result {
                Ok(Answer::Csi(NodeReply::NodeGetCapabilities(capabilities))) => {
                    op.capabilities = capabilities;
                    let action = self.device_dir(&op);
                    op.go(Step::DeviceDir, action)
                }
                other => self.stage_failed(op, other, out),
            },
            Step::DeviceDir => match result {
                Ok(Answer::Done) if op.has(NodeCapability::StageUnstageVolume) => self.stage(op),
                // Without STAGE there is nothing to stage; upstream leaves the empty directory (F3).
                Ok(Answer::Done) => self.device_mounted(op),
                other => self.stage_failed(op, other, out),
            },
            Step::Stage => match result {
                Ok(Answer::Csi(NodeReply::NodeStageVolume)) => self.device_mounted(op),
                other => self.stage_failed(op, other, out),
            },
            // The failure was recorded before; whether the directory went does not matter for what follows.
            Step::StageCleanup | Step::PublishCleanup => Next::End(End::Failed),
            Step::PodCapabilities => match result {
                Ok(Answer::Csi(NodeReply::NodeGetCapabilities(capabilities))) => {
                    op.capabilities = capabilities;
                    let action = self.pod_dir(&op);
                    op.go(Step::PodDir, action)
                }
                other => self.publish_failed(op, other, out),
            },
            Step::PodDir => match result {
                Ok(Answer::Done) => self.publish(op),
                other => self.publish_failed(op, other, out),
            },
            Step::Publish => match result {
                Ok(Answer::Csi(NodeReply::NodePublishVolume)) => self.published(op, out),
                other => self.publish_failed(op, other, out),
            },
            Step::FsGroup => match result {
                Ok(Answer::Done) => self.expand_during_mount(op, out),
                other => {
                    let why = format!("applyFSGroup failed for vol {}: {}", op.spec().handle, failure(other));
                    self.mount_uncertain(&op, "SetUp", &why, out)
                }
            },
            Step::MapDevice => match result {
                Ok(Answer::Done) => {
                    self.note_mapped(&op, out);
                    self.expand_during_mount(op, out)
                }
                other => self.mount_uncertain(&op, "MapBlockVolume", &failure(other).to_string(), out),
            },
            Step::ExpandBegin => match result {
                Ok(Answer::Done) => self.expand_call(op),
                other => self.mount_uncertain(&op, EXPANDING, &failure(other).to_string(), out),
            },
            Step::Expand => match result {
                Ok(Answer::Csi(NodeReply::NodeExpandVolume { capacity_bytes })) => {
                    let size = capacity_bytes.max(op.spec().capacity);
                    self.resized(&op.spec().name.clone(), size);
                    match op.spec().claim.clone() {
                        Some(claim) => {
                            let phase = ResizePhase::Finished(op.spec().capacity);
                            op.go(Step::ExpandEnd, Action::ClaimResize { claim, phase })
                        }
                        None => self.mounted(&op),
                    }
                }
                other => self.mount_uncertain(&op, EXPANDING, &failure(other).to_string(), out),
            },
            Step::ExpandEnd => match result {
                Ok(Answer::Done) => {
                    self.note_expanded(&op.want.uid, &op.volume.spec, out);
                    self.mounted(&op)
                }
                other => self.mount_uncertain(&op, EXPANDING, &failure(other).to_string(), out),
            },
        }
    }

    fn device(&self, op: &Mount) -> Device {
        self.actual.get(&op.spec().name).map_or(Device::NotMounted, |volume| volume.device)
    }

    /// `MountDevice`, unless it is done: a mounted device is never staged again.
    fn mount_device(&mut self, op: Mount) -> Next {
        match self.device(&op) {
            Device::Mounted => op.call(Step::PodCapabilities, NodeCall::NodeGetCapabilities),
            Device::NotMounted | Device::Uncertain => op.call(Step::DeviceCapabilities, NodeCall::NodeGetCapabilities),
        }
    }

    fn staging_path(&self, spec: &VolumeSpec) -> String {
        match spec.block {
            true => self.config.layout.block_staging(&spec.pv),
            false => self.config.layout.global_mount(&spec.driver, &spec.handle),
        }
    }

    fn target_path(&self, op: &Mount) -> String {
        match op.spec().block {
            true => self.config.layout.block_publish(&op.spec().pv, &op.want.uid),
            false => self.config.layout.pod_mount(&op.want.uid, &op.spec().pv),
        }
    }

    fn device_dir(&self, op: &Mount) -> Action {
        let spec = op.spec();
        let data = op.has(NodeCapability::StageUnstageVolume).then(|| match spec.block {
            true => (self.config.layout.block_data_dir(&spec.pv), self.vol_data(spec, "")),
            false => {
                let data = match self.finds_staged() {
                    true => VolData { node_name: String::new(), attachment_id: String::new(), ..self.vol_data(spec, "Persistent") },
                    false => VolData { volume_handle: spec.handle.clone(), driver_name: spec.driver.clone(), ..VolData::default() },
                };
                (self.config.layout.staging_dir(&spec.driver, &spec.handle), data)
            }
        });
        Action::MakeDir { dir: self.staging_path(spec), data }
    }

    fn pod_dir(&self, op: &Mount) -> Action {
        let spec = op.spec();
        let (dir, data_dir) = match spec.block {
            true => (self.config.layout.block_publish(&spec.pv, ""), self.config.layout.block_data_dir(&spec.pv)),
            false => {
                let dir = self.config.layout.pod_volume_dir(&op.want.uid, &spec.pv);
                (dir.clone(), dir)
            }
        };
        Action::MakeDir { dir, data: Some((data_dir, self.vol_data(spec, "Persistent"))) }
    }

    fn vol_data(&self, spec: &VolumeSpec, mode: &str) -> VolData {
        VolData {
            spec_vol_id: spec.pv.clone(),
            volume_handle: spec.handle.clone(),
            driver_name: spec.driver.clone(),
            node_name: self.config.node.clone(),
            volume_lifecycle_mode: mode.into(),
            attachment_id: attachment_name(&spec.handle, &spec.driver, &self.config.node),
        }
    }

    fn stage(&mut self, op: Mount) -> Next {
        let call = NodeCall::NodeStageVolume {
            volume_id: op.spec().handle.clone(),
            publish_context: op.publish_context.clone(),
            staging_target_path: self.staging_path(op.spec()),
            capability: op.capability(),
            volume_context: op.spec().attributes.clone(),
        };
        op.call(Step::Stage, call)
    }

    fn device_mounted(&mut self, op: Mount) -> Next {
        if let Some(volume) = self.actual.get_mut(&op.spec().name) {
            volume.device = Device::Mounted;
            volume.spec = op.volume.spec.clone();
            if volume.reconstructed {
                volume.reconstructed = false;
                volume.size = volume.size.max(op.spec().claim_capacity);
            }
        }
        op.call(Step::PodCapabilities, NodeCall::NodeGetCapabilities)
    }

    /// The table of §3.5 for the device.
    fn stage_failed(&mut self, op: Mount, result: Result<Answer, Failure>, out: &mut Vec<Effect>) -> Next {
        let failure = failure(result);
        let mut gone = false;
        if let Some(volume) = self.actual.get_mut(&op.spec().name) {
            match (failure.class(), volume.device) {
                (Class::Uncertain, Device::NotMounted) if bugs::on(Bug::StageTimeoutIsFinal) => gone = true,
                (Class::Uncertain, _) => volume.device = Device::Uncertain,
                (Class::Final, Device::NotMounted) => gone = true,
                (Class::Final, Device::Uncertain) if !volume.reconstructed => {
                    volume.device = Device::NotMounted;
                    gone = true;
                }
                (Class::Final, Device::Uncertain | Device::Mounted) | (Class::Transient, _) => {}
            }
        }
        let why = match &failure {
            Failure::NotRegistered(_) if !op.spec().block => {
                format!("kubernetes.io/csi: attacher.MountDevice failed to create newCsiDriverClient: {failure}")
            }
            Failure::NotRegistered(_) => format!("kubernetes.io/csi: blockMapper.SetUpDevice failed to get CSI client: {failure}"),
            Failure::Rpc(_) | Failure::Api(_) | Failure::Io(_) => failure.to_string(),
        };
        let end = self.mount_failed(&op, if op.spec().block { "SetUpDevice" } else { "MountDevice" }, &why, out);
        if !gone || op.step != Step::Stage {
            return end;
        }
        let spec = op.spec();
        let cleanup = match spec.block {
            true => Action::RemovePaths { paths: vec![self.staging_path(spec)] },
            false => {
                let data_dir = self.config.layout.staging_dir(&spec.driver, &spec.handle);
                Action::RemoveMount { mount: self.staging_path(spec), data_dir }
            }
        };
        op.go(Step::StageCleanup, cleanup)
    }

    fn publish(&mut self, op: Mount) -> Next {
        let spec = op.spec();
        let staged = op.has(NodeCapability::StageUnstageVolume);
        let mut volume_context = spec.attributes.clone();
        if spec.pod_info {
            let info = [
                ("pod.name", op.want.name.as_str()),
                ("pod.namespace", &op.want.namespace),
                ("pod.uid", &op.want.uid),
                ("serviceAccount.name", &op.want.service_account),
                ("ephemeral", "false"),
            ];
            volume_context.extend(info.map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value.to_owned())));
        }
        let call = NodeCall::NodePublishVolume {
            volume_id: spec.handle.clone(),
            publish_context: op.publish_context.clone(),
            staging_target_path: if staged { self.staging_path(spec) } else { String::new() },
            target_path: self.target_path(&op),
            capability: op.capability(),
            readonly: op.volume.read_only,
            volume_context,
        };
        op.call(Step::Publish, call)
    }

    /// The table of §3.5 for the pod.
    fn publish_failed(&mut self, op: Mount, result: Result<Answer, Failure>, out: &mut Vec<Effect>) -> Next {
        let failure = failure(result);
        // Upstream wraps the error of this probe so that its class is lost (F1).
        let class = if op.step == Step::PodCapabilities && matches!(failure, Failure::Rpc(_)) { Class::Final } else { failure.class() };
        let mut gone = false;
        if let Some(volume) = self.actual.get_mut(&op.spec().name) {
            match class {
                Class::Uncertain => self.mark_uncertain(&op),
                Class::Final => {
                    let keep = op.remount || volume.pods.get(&op.want.uid).is_some_and(|mount| mount.reconstructed);
                    if !keep {
                        volume.pods.remove(&op.want.uid);
                        gone = true;
                    }
                }
                Class::Transient => {}
            }
        }
        let why = match &failure {
            Failure::NotRegistered(_) if !op.spec().block => {
                format!("kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: {failure}")
            }
            Failure::NotRegistered(_) => format!("kubernetes.io/csi: blockMapper.MapPodDevice failed to get CSI client: {failure}"),
            Failure::Rpc(_) if op.step == Step::PodCapabilities => {
                format!("kubernetes.io/csi: mounter.SetUpAt failed to check for STAGE_UNSTAGE_VOLUME capability: {failure}")
            }
            Failure::Rpc(_) | Failure::Api(_) | Failure::Io(_) => failure.to_string(),
        };
        let end = self.mount_failed(&op, if op.spec().block { "MapPodDevice" } else { "SetUp" }, &why, out);
        if !gone || op.step != Step::Publish || op.spec().block {
            return end;
        }
        let data_dir = self.config.layout.pod_volume_dir(&op.want.uid, &op.spec().pv);
        let mount = self.target_path(&op);
        op.go(Step::PublishCleanup, Action::RemoveMount { mount, data_dir })
    }

    fn published(&mut self, op: Mount, out: &mut Vec<Effect>) -> Next {
        if op.spec().block {
            let layout = &self.config.layout;
            let (pv, pod) = (&op.spec().pv, &op.want.uid);
            let action = Action::MapDevice {
                publish: layout.block_publish(pv, pod),
                map: layout.block_map(pv, pod),
                link: layout.block_link(pod, pv),
            };
            return op.go(Step::MapDevice, action);
        }
        match op.wants_fs_group() {
            Some(gid) => {
                let path = self.target_path(&op);
                let on_root_mismatch = op.volume.on_root_mismatch;
                op.go(Step::FsGroup, Action::ApplyFsGroup { path, gid, on_root_mismatch })
            }
            None => self.expand_during_mount(op, out),
        }
    }

    fn expand_during_mount(&mut self, op: Mount, out: &mut Vec<Effect>) -> Next {
        let spec = op.spec();
        let Some(claim) = spec.claim.clone().filter(|_| spec.capacity > spec.claim_capacity && op.has(NodeCapability::ExpandVolume)) else {
            return self.mounted(&op);
        };
        if op.volume.read_only {
            self.note_read_only(&op.want.uid, &op.volume.spec, out);
            return self.mounted(&op);
        }
        op.go(Step::ExpandBegin, Action::ClaimResize { claim, phase: ResizePhase::InProgress })
    }

    fn expand_call(&mut self, op: Mount) -> Next {
        let spec = op.spec();
        let volume_path = if spec.block { self.config.layout.block_map(&spec.pv, &op.want.uid) } else { self.target_path(&op) };
        let call = NodeCall::NodeExpandVolume {
            volume_id: spec.handle.clone(),
            volume_path,
            staging_target_path: if op.has(NodeCapability::StageUnstageVolume) { self.staging_path(spec) } else { String::new() },
            capacity: csi::CapacityRange { required_bytes: spec.capacity, limit_bytes: 0 },
            capability: Some(op.capability()),
        };
        op.call(Step::Expand, call)
    }

    fn mounted(&mut self, op: &Mount) -> Next {
        if let Some(volume) = self.actual.get_mut(&op.spec().name) {
            volume.spec = op.volume.spec.clone();
            volume.expand_in_use = false;
            let spec = op.volume.spec.clone();
            volume.pods.insert(op.want.uid.clone(), PodMount { spec, certain: true, remount: false, reconstructed: false });
        }
        Next::End(End::Succeeded)
    }

    fn mark_uncertain(&mut self, op: &Mount) {
        if let Some(volume) = self.actual.get_mut(&op.spec().name) {
            let spec = op.volume.spec.clone();
            let unknown = PodMount { spec, certain: false, remount: false, reconstructed: false };
            volume.pods.entry(op.want.uid.clone()).or_insert(unknown).certain = false;
        }
    }

    /// An error after NodePublish succeeded.
    fn mount_uncertain(&mut self, op: &Mount, step: &str, why: &str, out: &mut Vec<Effect>) -> Next {
        self.mark_uncertain(op);
        self.mount_failed(op, step, why, out)
    }
}

const EXPANDING: &str = "Setup failed while expanding volume";

/// The failure in a result; an answer of another kind is one too.
pub(super) fn failure(result: Result<Answer, Failure>) -> Failure {
    match result {
        Err(failure) => failure,
        Ok(answer) => Failure::Io(format!("unexpected answer {answer:?}")),
    }
}
