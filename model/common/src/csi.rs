//! The Container Storage Interface (v1.12) as plain data, so that machines can ask for a call and drivers can answer it
//! without gRPC. `emulator-common` converts to and from the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A gRPC status code; the numbers are gRPC's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Code {
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// The code of a gRPC number; unknown numbers are `Unknown`, as gRPC says.
    pub fn from_number(number: i32) -> Self {
        use Code::*;
        const ALL: [Code; 16] = [
            Canceled,
            Unknown,
            InvalidArgument,
            DeadlineExceeded,
            NotFound,
            AlreadyExists,
            PermissionDenied,
            ResourceExhausted,
            FailedPrecondition,
            Aborted,
            OutOfRange,
            Unimplemented,
            Internal,
            Unavailable,
            DataLoss,
            Unauthenticated,
        ];
        ALL.into_iter().find(|code| *code as i32 == number).unwrap_or(Unknown)
    }
}

impl std::fmt::Display for Code {
    /// As Go's gRPC prints it: the name of the variant.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A failed call. `Display` is what Go's `status.Error` prints, which Kubernetes copies into its events.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[error("rpc error: code = {code} desc = {message}")]
pub struct Error {
    pub code: Code,
    pub message: String,
}

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Topology segments: key to value.
pub type Segments = BTreeMap<String, String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AccessMode {
    SingleNodeWriter,
    SingleNodeReaderOnly,
    MultiNodeReaderOnly,
    MultiNodeSingleWriter,
    MultiNodeMultiWriter,
    SingleNodeSingleWriter,
    SingleNodeMultiWriter,
}

/// How a volume is presented.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Access {
    Block,
    Mount { fs_type: String, mount_flags: Vec<String>, volume_mount_group: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VolumeCapability {
    pub access: Access,
    pub mode: AccessMode,
}

/// Bytes asked for; 0 = not given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CapacityRange {
    pub required_bytes: u64,
    pub limit_bytes: u64,
}

/// What a new volume is filled from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ContentSource {
    Snapshot(String),
    Volume(String),
}

/// Requirements on where a volume must be accessible from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TopologyRequirement {
    pub requisite: Vec<Segments>,
    pub preferred: Vec<Segments>,
}

/// A volume as a driver describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Volume {
    pub volume_id: String,
    pub capacity_bytes: u64,
    pub volume_context: BTreeMap<String, String>,
    pub content_source: Option<ContentSource>,
    pub accessible_topology: Vec<Segments>,
}

/// A snapshot as a driver describes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Snapshot {
    pub snapshot_id: String,
    pub source_volume_id: String,
    pub size_bytes: u64,
    /// Milliseconds since the Unix epoch.
    pub creation_time_ms: i64,
    pub ready_to_use: bool,
}

/// A call to a driver's controller service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ControllerCall {
    CreateVolume {
        name: String,
        capacity: CapacityRange,
        capabilities: Vec<VolumeCapability>,
        parameters: BTreeMap<String, String>,
        mutable_parameters: BTreeMap<String, String>,
        content_source: Option<ContentSource>,
        topology: Option<TopologyRequirement>,
    },
    DeleteVolume {
        volume_id: String,
    },
    ControllerPublishVolume {
        volume_id: String,
        node_id: String,
        capability: VolumeCapability,
        readonly: bool,
        volume_context: BTreeMap<String, String>,
    },
    ControllerUnpublishVolume {
        volume_id: String,
        node_id: String,
    },
    ValidateVolumeCapabilities {
        volume_id: String,
        volume_context: BTreeMap<String, String>,
        capabilities: Vec<VolumeCapability>,
    },
    ControllerExpandVolume {
        volume_id: String,
        capacity: CapacityRange,
        capability: Option<VolumeCapability>,
    },
    ControllerModifyVolume {
        volume_id: String,
        mutable_parameters: BTreeMap<String, String>,
    },
    CreateSnapshot {
        name: String,
        source_volume_id: String,
        parameters: BTreeMap<String, String>,
    },
    DeleteSnapshot {
        snapshot_id: String,
    },
    ListSnapshots {
        snapshot_id: String,
        source_volume_id: String,
        max_entries: u32,
        starting_token: String,
    },
}

impl ControllerCall {
    /// The procedure's name in CSI.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CreateVolume { .. } => "CreateVolume",
            Self::DeleteVolume { .. } => "DeleteVolume",
            Self::ControllerPublishVolume { .. } => "ControllerPublishVolume",
            Self::ControllerUnpublishVolume { .. } => "ControllerUnpublishVolume",
            Self::ValidateVolumeCapabilities { .. } => "ValidateVolumeCapabilities",
            Self::ControllerExpandVolume { .. } => "ControllerExpandVolume",
            Self::ControllerModifyVolume { .. } => "ControllerModifyVolume",
            Self::CreateSnapshot { .. } => "CreateSnapshot",
            Self::DeleteSnapshot { .. } => "DeleteSnapshot",
            Self::ListSnapshots { .. } => "ListSnapshots",
        }
    }

    /// The volume, the volume's name, or the snapshot that it is about; empty where it is about none.
    pub fn subject(&self) -> &str {
        match self {
            Self::CreateVolume { name: subject, .. }
            | Self::DeleteVolume { volume_id: subject }
            | Self::ControllerPublishVolume { volume_id: subject, .. }
            | Self::ControllerUnpublishVolume { volume_id: subject, .. }
            | Self::ValidateVolumeCapabilities { volume_id: subject, .. }
            | Self::ControllerExpandVolume { volume_id: subject, .. }
            | Self::ControllerModifyVolume { volume_id: subject, .. }
            | Self::CreateSnapshot { source_volume_id: subject, .. }
            | Self::DeleteSnapshot { snapshot_id: subject }
            | Self::ListSnapshots { source_volume_id: subject, .. } => subject,
        }
    }
}

/// The answer to a [`ControllerCall`], variant for variant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ControllerReply {
    CreateVolume(Volume),
    DeleteVolume,
    ControllerPublishVolume {
        publish_context: BTreeMap<String, String>,
    },
    ControllerUnpublishVolume,
    /// `confirmed` false: `message` says why.
    ValidateVolumeCapabilities {
        confirmed: bool,
        message: String,
    },
    ControllerExpandVolume {
        capacity_bytes: u64,
        node_expansion_required: bool,
    },
    ControllerModifyVolume,
    CreateSnapshot(Snapshot),
    DeleteSnapshot,
    ListSnapshots {
        entries: Vec<Snapshot>,
        next_token: String,
    },
}

/// A call to a driver's node service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NodeCall {
    NodeStageVolume {
        volume_id: String,
        publish_context: BTreeMap<String, String>,
        staging_target_path: String,
        capability: VolumeCapability,
        volume_context: BTreeMap<String, String>,
    },
    NodeUnstageVolume {
        volume_id: String,
        staging_target_path: String,
    },
    NodePublishVolume {
        volume_id: String,
        publish_context: BTreeMap<String, String>,
        staging_target_path: String,
        target_path: String,
        capability: VolumeCapability,
        readonly: bool,
        volume_context: BTreeMap<String, String>,
    },
    NodeUnpublishVolume {
        volume_id: String,
        target_path: String,
    },
    NodeExpandVolume {
        volume_id: String,
        volume_path: String,
        staging_target_path: String,
        capacity: CapacityRange,
        capability: Option<VolumeCapability>,
    },
    NodeGetVolumeStats {
        volume_id: String,
        volume_path: String,
        staging_target_path: String,
    },
    NodeGetCapabilities,
    NodeGetInfo,
}

impl NodeCall {
    /// The procedure's name in CSI.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NodeStageVolume { .. } => "NodeStageVolume",
            Self::NodeUnstageVolume { .. } => "NodeUnstageVolume",
            Self::NodePublishVolume { .. } => "NodePublishVolume",
            Self::NodeUnpublishVolume { .. } => "NodeUnpublishVolume",
            Self::NodeExpandVolume { .. } => "NodeExpandVolume",
            Self::NodeGetVolumeStats { .. } => "NodeGetVolumeStats",
            Self::NodeGetCapabilities => "NodeGetCapabilities",
            Self::NodeGetInfo => "NodeGetInfo",
        }
    }

    /// The volume that it is about; empty where it is about none.
    pub fn volume_id(&self) -> &str {
        match self {
            Self::NodeStageVolume { volume_id, .. }
            | Self::NodeUnstageVolume { volume_id, .. }
            | Self::NodePublishVolume { volume_id, .. }
            | Self::NodeUnpublishVolume { volume_id, .. }
            | Self::NodeExpandVolume { volume_id, .. }
            | Self::NodeGetVolumeStats { volume_id, .. } => volume_id,
            Self::NodeGetCapabilities | Self::NodeGetInfo => "",
        }
    }
}

/// What a node service can do beyond publish and unpublish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NodeCapability {
    StageUnstageVolume,
    GetVolumeStats,
    ExpandVolume,
    VolumeCondition,
    SingleNodeMultiWriter,
    VolumeMountGroup,
}

/// What a controller service can do beyond nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ControllerCapability {
    CreateDeleteVolume,
    PublishUnpublishVolume,
    ListVolumes,
    GetCapacity,
    CreateDeleteSnapshot,
    ListSnapshots,
    CloneVolume,
    PublishReadonly,
    ExpandVolume,
    ListVolumesPublishedNodes,
    VolumeCondition,
    GetVolume,
    SingleNodeMultiWriter,
    ModifyVolume,
}

/// One line of a volume's usage.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Usage {
    /// `BYTES` or `INODES`.
    pub unit: UsageUnit,
    pub total: u64,
    pub used: u64,
    pub available: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UsageUnit {
    Bytes,
    Inodes,
}

/// The answer to a [`NodeCall`], variant for variant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NodeReply {
    NodeStageVolume,
    NodeUnstageVolume,
    NodePublishVolume,
    NodeUnpublishVolume,
    NodeExpandVolume { capacity_bytes: u64 },
    NodeGetVolumeStats(Vec<Usage>),
    NodeGetCapabilities(Vec<NodeCapability>),
    NodeGetInfo { node_id: String, max_volumes_per_node: i64, accessible_topology: Option<Segments> },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_grpc_numbers() {
        assert_eq!(Code::from_number(5), Code::NotFound);
        assert_eq!(Code::from_number(16), Code::Unauthenticated);
        assert_eq!(Code::from_number(99), Code::Unknown);
    }

    #[test]
    fn errors_read_as_in_go() {
        let error = Error::new(Code::NotFound, "Instance \"i-1\" not found");
        assert_eq!(error.to_string(), "rpc error: code = NotFound desc = Instance \"i-1\" not found");
    }
}
