//! The unmount operations (§3.6): one pod's mount, then the device. `Unmap…` are the block volume's.

use std::sync::Arc;

use model_common::csi::{NodeCall, NodeCapability, NodeReply};
use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Step {
    ReadData,
    FindData,
    CleanSubPaths,
    UnmapDevice,
    Unpublish,
    Remove,
}

/// A running unmount of one pod's mount.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Unmount {
    step: Step,
    pod: PodUid,
    spec: Arc<VolumeSpec>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum DeviceStep {
    Refs,
    ReadData,
    Capabilities,
    Unstage,
    Remove,
}

/// A running unmount of a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct UnmountDevice {
    step: DeviceStep,
    spec: Arc<VolumeSpec>,
}

impl Unmount {
    fn go(mut self, step: Step, action: Action) -> Next {
        self.step = step;
        Next::Do(Op::Unmount(Box::new(self)), action)
    }

    fn clean_sub_paths(self) -> Next {
        let action = Action::CleanSubPaths { pod: self.pod.clone(), volume: self.spec.pv.clone() };
        self.go(Step::CleanSubPaths, action)
    }
}

impl UnmountDevice {
    fn go(mut self, step: DeviceStep, action: Action) -> Next {
        self.step = step;
        Next::Do(Op::UnmountDevice(Box::new(self)), action)
    }

    fn call(self, step: DeviceStep, call: NodeCall) -> Next {
        let driver = self.spec.driver.clone();
        self.go(step, Action::Csi { driver, call })
    }
}

impl VolumeManager {
    fn data_dir(&self, spec: &VolumeSpec, pod: &str) -> String {
        match spec.block {
            true => self.config.layout.block_data_dir(&spec.pv),
            false => self.config.layout.pod_volume_dir(pod, &spec.pv),
        }
    }

    pub(super) fn unmount_begin(&mut self, pod: PodUid, spec: Arc<VolumeSpec>) -> Next {
        let dir = self.data_dir(&spec, &pod);
        Unmount { step: Step::ReadData, pod, spec }.go(Step::ReadData, Action::ReadVolData { dir })
    }

    pub(super) fn unmount_step(&mut self, op: Unmount, result: Result<Answer, Failure>) -> Next {
        let layout = &self.config.layout;
        match (op.step, result) {
            (Step::ReadData, Ok(Answer::VolData(Some(_)))) if op.spec.block => {
                let action =
                    Action::UnmapDevice { map: layout.block_map(&op.spec.pv, &op.pod), link: layout.block_link(&op.pod, &op.spec.pv) };
                op.go(Step::UnmapDevice, action)
            }
            (Step::ReadData, Ok(Answer::VolData(Some(_)))) => op.clean_sub_paths(),
            (Step::ReadData, _) if self.finds_staged() && !op.spec.block => {
                let mount = layout.pod_mount(&op.pod, &op.spec.pv);
                op.go(Step::FindData, Action::FindVolData { mount })
            }
            (Step::FindData, Ok(Answer::VolData(Some(data)))) if reconstruct::is_of(&data, &op.spec.pv) => op.clean_sub_paths(),
            // Upstream reads the file before the operation begins: an error each 100 ms, without a backoff (#101378).
            (Step::ReadData | Step::FindData, _) => Next::End(End::Again),
            (Step::CleanSubPaths | Step::UnmapDevice, Ok(Answer::Done)) => {
                let target_path = match op.spec.block {
                    true => layout.block_publish(&op.spec.pv, &op.pod),
                    false => layout.pod_mount(&op.pod, &op.spec.pv),
                };
                let call = NodeCall::NodeUnpublishVolume { volume_id: op.spec.handle.clone(), target_path };
                let driver = op.spec.driver.clone();
                op.go(Step::Unpublish, Action::Csi { driver, call })
            }
            (Step::Unpublish, Ok(Answer::Csi(NodeReply::NodeUnpublishVolume))) => {
                let action = match op.spec.block {
                    true => Action::RemovePaths { paths: vec![layout.block_publish(&op.spec.pv, &op.pod)] },
                    false => Action::RemoveMount {
                        mount: layout.pod_mount(&op.pod, &op.spec.pv),
                        data_dir: layout.pod_volume_dir(&op.pod, &op.spec.pv),
                    },
                };
                op.go(Step::Remove, action)
            }
            // Still a mount point: upstream says nothing and counts it as unmounted (F2).
            (Step::Remove, Ok(Answer::Done | Answer::StillMounted)) => {
                if let Some(volume) = self.actual.get_mut(&op.spec.name) {
                    volume.pods.remove(&op.pod);
                }
                Next::End(End::Succeeded)
            }
            (Step::CleanSubPaths | Step::UnmapDevice | Step::Unpublish | Step::Remove, _) => {
                if let Some(mount) = self.actual.get_mut(&op.spec.name).and_then(|volume| volume.pods.get_mut(&op.pod)) {
                    mount.certain = false;
                }
                Next::End(End::Failed)
            }
        }
    }

    fn device_paths(&self, spec: &VolumeSpec) -> (String, String) {
        let layout = &self.config.layout;
        match spec.block {
            true => (layout.block_staging(&spec.pv), layout.block_data_dir(&spec.pv)),
            false => (layout.global_mount(&spec.driver, &spec.handle), layout.staging_dir(&spec.driver, &spec.handle)),
        }
    }

    pub(super) fn unmount_device_begin(&mut self, spec: Arc<VolumeSpec>) -> Next {
        let (mount, _) = self.device_paths(&spec);
        UnmountDevice { step: DeviceStep::Refs, spec }.go(DeviceStep::Refs, Action::MountRefs { mount })
    }

    pub(super) fn unmount_device_step(&mut self, op: UnmountDevice, result: Result<Answer, Failure>) -> Next {
        let (mount, data_dir) = self.device_paths(&op.spec);
        match (op.step, result) {
            (DeviceStep::Refs, Ok(Answer::Refs(refs))) if refs.is_empty() => {
                op.go(DeviceStep::ReadData, Action::ReadVolData { dir: data_dir })
            }
            // Still mounted by other references: nothing was tried, the state is what it was.
            (DeviceStep::Refs, _) => Next::End(End::Failed),
            // Without the file there was no stage, or it was undone (#114207); see also F11.
            (DeviceStep::ReadData, Ok(Answer::VolData(None))) => self.device_unmounted(&op.spec),
            (DeviceStep::ReadData, Ok(Answer::VolData(Some(_)))) => op.call(DeviceStep::Capabilities, NodeCall::NodeGetCapabilities),
            (DeviceStep::Capabilities, Ok(Answer::Csi(NodeReply::NodeGetCapabilities(capabilities)))) => {
                if capabilities.contains(&NodeCapability::StageUnstageVolume) {
                    let call = NodeCall::NodeUnstageVolume { volume_id: op.spec.handle.clone(), staging_target_path: mount };
                    op.call(DeviceStep::Unstage, call)
                } else {
                    self.remove_device(op, mount, data_dir)
                }
            }
            (DeviceStep::Unstage, Ok(Answer::Csi(NodeReply::NodeUnstageVolume))) => self.remove_device(op, mount, data_dir),
            (DeviceStep::Remove, Ok(Answer::Done | Answer::StillMounted)) => self.device_unmounted(&op.spec),
            (DeviceStep::Unstage, Err(failure))
                if match failure.class() {
                    Class::Uncertain => bugs::on(Bug::UnstageTimeoutKeepsDevice),
                    Class::Final | Class::Transient => bugs::on(Bug::UnstageFailureKeepsDevice),
                } =>
            {
                Next::End(End::Failed)
            }
            (DeviceStep::ReadData | DeviceStep::Capabilities | DeviceStep::Unstage | DeviceStep::Remove, _) => {
                if let Some(volume) = self.actual.get_mut(&op.spec.name) {
                    volume.device = Device::Uncertain;
                }
                Next::End(End::Failed)
            }
        }
    }

    fn remove_device(&self, op: UnmountDevice, mount: String, data_dir: String) -> Next {
        let action = match op.spec.block {
            true => {
                let publish = self.config.layout.block_publish(&op.spec.pv, "");
                let devices = self.config.layout.block_map(&op.spec.pv, "");
                Action::RemovePaths { paths: vec![mount, publish, devices, data_dir] }
            }
            false => Action::RemoveMount { mount, data_dir },
        };
        op.go(DeviceStep::Remove, action)
    }

    fn device_unmounted(&mut self, spec: &VolumeSpec) -> Next {
        if let Some(volume) = self.actual.get_mut(&spec.name) {
            volume.device = Device::NotMounted;
            volume.reconstructed = false;
        }
        Next::End(End::Succeeded)
    }
}
