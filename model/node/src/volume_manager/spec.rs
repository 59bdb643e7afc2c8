//! What the volume manager knows of a volume and of a pod's use of it, as plain data.

use std::collections::BTreeMap;
use std::sync::Arc;

use model_common::csi;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The unique volume name: `kubernetes.io/csi/<driver>^<handle>`.
pub type VolumeName = Arc<str>;
/// A pod's uid.
pub type PodUid = Arc<str>;

/// A PersistentVolume's access mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AccessMode {
    ReadWriteOnce,
    ReadOnlyMany,
    ReadWriteMany,
    ReadWriteOncePod,
}

impl AccessMode {
    /// The mode of the API's word.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "ReadWriteOnce" => Self::ReadWriteOnce,
            "ReadOnlyMany" => Self::ReadOnlyMany,
            "ReadWriteMany" => Self::ReadWriteMany,
            "ReadWriteOncePod" => Self::ReadWriteOncePod,
            _ => return None,
        })
    }

    /// The CSI mode, which depends on the driver's node capability SINGLE_NODE_MULTI_WRITER (`csi_client.go:501`).
    pub fn to_csi(self, single_node_multi_writer: bool) -> csi::AccessMode {
        match (self, single_node_multi_writer) {
            (Self::ReadOnlyMany, _) => csi::AccessMode::MultiNodeReaderOnly,
            (Self::ReadWriteMany, _) => csi::AccessMode::MultiNodeMultiWriter,
            (Self::ReadWriteOnce | Self::ReadWriteOncePod, false) => csi::AccessMode::SingleNodeWriter,
            (Self::ReadWriteOnce, true) => csi::AccessMode::SingleNodeMultiWriter,
            (Self::ReadWriteOncePod, true) => csi::AccessMode::SingleNodeSingleWriter,
        }
    }
}

/// `CSIDriver.spec.fsGroupPolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FsGroupPolicy {
    None,
    File,
    /// Only with a file system type and a single-node access mode.
    #[default]
    ReadWriteOnceWithFSType,
}

/// The claim behind a volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClaimRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// A CSI PersistentVolume as the kubelet uses it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VolumeSpec {
    pub name: VolumeName,
    /// The PersistentVolume's name.
    pub pv: String,
    pub driver: String,
    pub handle: String,
    pub claim: Option<ClaimRef>,
    /// `volumeMode: Block`.
    pub block: bool,
    pub fs_type: String,
    pub mount_options: Vec<String>,
    pub attributes: BTreeMap<String, String>,
    pub access_modes: Vec<AccessMode>,
    /// `CSIDriver.spec.attachRequired`; true without a CSIDriver object.
    pub attachable: bool,
    /// Bytes of the PersistentVolume.
    pub capacity: u64,
    /// Bytes in the claim's status.
    pub claim_capacity: u64,
    pub fs_group_policy: FsGroupPolicy,
    /// `CSIDriver.spec.podInfoOnMount`.
    pub pod_info: bool,
    /// `CSIDriver.spec.requiresRepublish`.
    pub republish: bool,
    /// Why the PersistentVolume's nodeAffinity does not fit this node.
    pub node_mismatch: Option<String>,
}

/// The unique name of a CSI volume.
pub fn unique_name(driver: &str, handle: &str) -> VolumeName {
    format!("kubernetes.io/csi/{driver}^{handle}").into()
}

/// The name of a volume's VolumeAttachment: `csi-` and the SHA-256 of handle, driver and node (`csi_attacher.go:593`).
pub fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", hex::encode(Sha256::digest(format!("{handle}{driver}{node}"))))
}

impl VolumeSpec {
    /// Only the first access mode is used by stage and publish.
    pub fn mode(&self, single_node_multi_writer: bool) -> csi::AccessMode {
        self.access_modes.first().copied().unwrap_or(AccessMode::ReadWriteOnce).to_csi(single_node_multi_writer)
    }

    /// Used by one pod in the whole cluster.
    pub fn single_pod(&self) -> bool {
        self.access_modes == [AccessMode::ReadWriteOncePod]
    }

    /// A spec that is known only from `vol_data.json`.
    pub fn from_vol_data(data: &VolData, block: bool) -> Self {
        Self {
            name: unique_name(&data.driver_name, &data.volume_handle),
            pv: data.spec_vol_id.clone(),
            driver: data.driver_name.clone(),
            handle: data.volume_handle.clone(),
            claim: None,
            block,
            fs_type: String::new(),
            mount_options: Vec::new(),
            attributes: BTreeMap::new(),
            access_modes: vec![AccessMode::ReadWriteOnce],
            attachable: true,
            capacity: 0,
            claim_capacity: 0,
            fs_group_policy: FsGroupPolicy::None,
            pod_info: false,
            republish: false,
            node_mismatch: None,
        }
    }
}

/// `vol_data.json`: what lies beside a mount, so that it can be undone without the API (§3.7).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolData {
    #[serde(rename = "specVolID", skip_serializing_if = "String::is_empty")]
    pub spec_vol_id: String,
    pub volume_handle: String,
    pub driver_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub volume_lifecycle_mode: String,
    #[serde(rename = "attachmentID", skip_serializing_if = "String::is_empty")]
    pub attachment_id: String,
}

/// A pod's use of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodVolume {
    /// The name in `pod.spec.volumes`.
    pub name: String,
    pub spec: Arc<VolumeSpec>,
    pub read_only: bool,
    pub fs_group: Option<u32>,
    /// `fsGroupChangePolicy: OnRootMismatch`.
    pub on_root_mismatch: bool,
}

/// A pod whose volumes shall be mounted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodWant {
    pub uid: PodUid,
    pub namespace: String,
    pub name: String,
    pub service_account: String,
    pub volumes: Vec<PodVolume>,
}

/// Where a node keeps what (§3.7). `root` is `/var/lib/kubelet`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Layout {
    pub root: String,
}

impl Layout {
    /// Where the kubelet keeps what it staged.
    pub fn plugins(&self) -> String {
        format!("{}/plugins/kubernetes.io/csi", self.root)
    }

    /// The directory of a volume's staging: holds `globalmount/` and `vol_data.json`.
    pub fn staging_dir(&self, driver: &str, handle: &str) -> String {
        format!("{}/{driver}/{}", self.plugins(), hex::encode(Sha256::digest(handle)))
    }

    /// Where NodeStage mounts a file system.
    pub fn global_mount(&self, driver: &str, handle: &str) -> String {
        format!("{}/globalmount", self.staging_dir(driver, handle))
    }

    /// The directory of a pod's volume: holds `mount/` and `vol_data.json`.
    pub fn pod_volume_dir(&self, pod: &str, pv: &str) -> String {
        format!("{}/pods/{pod}/volumes/kubernetes.io~csi/{pv}", self.root)
    }

    /// Where NodePublish mounts a file system.
    pub fn pod_mount(&self, pod: &str, pv: &str) -> String {
        format!("{}/mount", self.pod_volume_dir(pod, pv))
    }

    fn devices(&self) -> String {
        format!("{}/volumeDevices", self.plugins())
    }

    /// The staging directory of a block volume.
    pub fn block_staging(&self, pv: &str) -> String {
        format!("{}/staging/{pv}", self.devices())
    }

    /// Where NodePublish puts a pod's block device.
    pub fn block_publish(&self, pv: &str, pod: &str) -> String {
        format!("{}/publish/{pv}/{pod}", self.devices())
    }

    /// The directory that holds a block volume's `vol_data.json`.
    pub fn block_data_dir(&self, pv: &str) -> String {
        format!("{}/{pv}/data", self.devices())
    }

    /// The bind of a pod's block device that keeps it.
    pub fn block_map(&self, pv: &str, pod: &str) -> String {
        format!("{}/{pv}/dev/{pod}", self.devices())
    }

    /// The symlink in the pod's directory.
    pub fn block_link(&self, pod: &str, pv: &str) -> String {
        format!("{}/pods/{pod}/volumeDevices/kubernetes.io~csi/{pv}", self.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attachment_has_the_name_that_the_controller_gives() {
        // Computed with `printf vol-1ebs.csi.aws.comn1 | sha256sum`.
        let name = attachment_name("vol-1", "ebs.csi.aws.com", "n1");
        assert_eq!(name, format!("csi-{}", hex::encode(Sha256::digest("vol-1ebs.csi.aws.comn1"))));
        assert_eq!(name.len(), 68);
    }

    #[test]
    fn vol_data_is_written_with_upstreams_keys() {
        let data = VolData {
            spec_vol_id: "pv".into(),
            volume_handle: "vol-1".into(),
            driver_name: "d".into(),
            node_name: "n".into(),
            volume_lifecycle_mode: "Persistent".into(),
            attachment_id: "csi-1".into(),
        };
        let json = serde_json::to_value(&data).unwrap();
        let keys: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["specVolID", "volumeHandle", "driverName", "nodeName", "volumeLifecycleMode", "attachmentID"]);
        let staging: VolData = serde_json::from_str(r#"{"volumeHandle":"h","driverName":"d"}"#).unwrap();
        assert_eq!(serde_json::to_string(&staging).unwrap(), r#"{"volumeHandle":"h","driverName":"d"}"#);
    }

    #[test]
    fn access_modes_follow_the_drivers_capability() {
        assert_eq!(AccessMode::ReadWriteOncePod.to_csi(false), csi::AccessMode::SingleNodeWriter);
        assert_eq!(AccessMode::ReadWriteOnce.to_csi(true), csi::AccessMode::SingleNodeMultiWriter);
    }
}
