//! What the drivers ask of the cloud, as plain data: the members that the real drivers set and read, no more (ebs.md §1.1, efs.md §1.1).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A request to EC2 or EFS.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CloudCall {
    DescribeAvailabilityZones,
    CreateVolume(NewVolume),
    CopyVolumes(NewCopy),
    DeleteVolume { volume_id: String },
    DescribeVolumes(VolumeQuery),
    DescribeVolumeStatus { volume_id: String },
    DescribeVolumesModifications { volume_id: String },
    ModifyVolume(Modify),
    DescribeInstances { instance_id: String },
    AttachVolume { volume_id: String, instance_id: String, device: String },
    DetachVolume { volume_id: String, instance_id: String },
    CreateTags { resource: String, tags: BTreeMap<String, String> },
    DeleteTags { resource: String, keys: Vec<String> },
    CreateSnapshot { volume_id: String, description: String, tags: BTreeMap<String, String> },
    DeleteSnapshot { snapshot_id: String },
    DescribeSnapshots(SnapshotQuery),
    CreateAccessPoint(NewAccessPoint),
    DeleteAccessPoint { access_point_id: String },
    DescribeAccessPoints { file_system_id: String, next_token: Option<String> },
    DescribeFileSystems { file_system_id: String },
}

impl CloudCall {
    /// The service and the operation, as the AWS SDK names them in its errors.
    pub fn operation(&self) -> (&'static str, &'static str) {
        match self {
            Self::DescribeAvailabilityZones => ("EC2", "DescribeAvailabilityZones"),
            Self::CreateVolume(_) => ("EC2", "CreateVolume"),
            Self::CopyVolumes(_) => ("EC2", "CopyVolumes"),
            Self::DeleteVolume { .. } => ("EC2", "DeleteVolume"),
            Self::DescribeVolumes(_) => ("EC2", "DescribeVolumes"),
            Self::DescribeVolumeStatus { .. } => ("EC2", "DescribeVolumeStatus"),
            Self::DescribeVolumesModifications { .. } => ("EC2", "DescribeVolumesModifications"),
            Self::ModifyVolume(_) => ("EC2", "ModifyVolume"),
            Self::DescribeInstances { .. } => ("EC2", "DescribeInstances"),
            Self::AttachVolume { .. } => ("EC2", "AttachVolume"),
            Self::DetachVolume { .. } => ("EC2", "DetachVolume"),
            Self::CreateTags { .. } => ("EC2", "CreateTags"),
            Self::DeleteTags { .. } => ("EC2", "DeleteTags"),
            Self::CreateSnapshot { .. } => ("EC2", "CreateSnapshot"),
            Self::DeleteSnapshot { .. } => ("EC2", "DeleteSnapshot"),
            Self::DescribeSnapshots(_) => ("EC2", "DescribeSnapshots"),
            Self::CreateAccessPoint(_) => ("EFS", "CreateAccessPoint"),
            Self::DeleteAccessPoint { .. } => ("EFS", "DeleteAccessPoint"),
            Self::DescribeAccessPoints { .. } => ("EFS", "DescribeAccessPoints"),
            Self::DescribeFileSystems { .. } => ("EFS", "DescribeFileSystems"),
        }
    }

    /// The error that AWS's answer to this call becomes.
    pub fn error(&self, status: u16, request_id: &str, code: &str, message: &str) -> CloudError {
        let (service, operation) = self.operation();
        CloudError::Api {
            operation: format!("{service}: {operation}"),
            status,
            request_id: request_id.into(),
            code: code.into(),
            message: message.into(),
        }
    }
}

/// What the cloud answered, by the kind of thing it told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CloudReply {
    /// Deletes, tags, attach and detach: nothing in the answer is read.
    Done,
    Zones(Vec<String>),
    /// CreateVolume, CopyVolumes (the one new volume).
    Volume(Volume),
    Volumes(Vec<Volume>),
    /// DescribeVolumeStatus: whether blocks of a restored volume are still being fetched; none: not told.
    VolumeStatus {
        initializing: Option<bool>,
    },
    /// ModifyVolume, DescribeVolumesModifications: the state of the latest modification; none: never modified.
    Modification(Option<String>),
    Instances(Vec<Instance>),
    Snapshot(Snapshot),
    Snapshots {
        snapshots: Vec<Snapshot>,
        next_token: Option<String>,
    },
    AccessPoint(AccessPoint),
    AccessPoints {
        access_points: Vec<AccessPoint>,
        next_token: Option<String>,
    },
    FileSystems(Vec<FileSystem>),
}

/// Why the cloud did not do it. `Display` is what the AWS SDK for Go prints, since the drivers put that into their messages.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum CloudError {
    /// AWS answered with an error. `operation` is `EC2: CreateVolume`.
    #[error("operation error {operation}, https response error StatusCode: {status}, RequestID: {request_id}, api error {code}: {message}")]
    Api { operation: String, status: u16, request_id: String, code: String, message: String },
    /// The request could not be sent, or what came back could not be read.
    #[error("operation error {operation}, {message}")]
    Transport { operation: String, message: String },
}

impl CloudError {
    /// The AWS error code; empty when AWS did not answer.
    pub fn code(&self) -> &str {
        match self {
            Self::Api { code, .. } => code,
            Self::Transport { .. } => "",
        }
    }

    /// The AWS error message; the reason when AWS did not answer.
    pub fn message(&self) -> &str {
        match self {
            Self::Api { message, .. } | Self::Transport { message, .. } => message,
        }
    }
}

/// CreateVolume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NewVolume {
    /// None on a dry run, where the SDK draws one.
    pub client_token: Option<String>,
    pub size_gib: i32,
    pub volume_type: String,
    pub availability_zone: Option<String>,
    pub availability_zone_id: Option<String>,
    pub encrypted: Option<bool>,
    pub kms_key_id: Option<String>,
    pub iops: Option<i32>,
    pub throughput: Option<i32>,
    pub snapshot_id: Option<String>,
    pub initialization_rate: Option<i32>,
    pub multi_attach: Option<bool>,
    pub tags: BTreeMap<String, String>,
    pub dry_run: bool,
}

/// CopyVolumes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NewCopy {
    pub source_volume_id: String,
    pub client_token: String,
    pub size_gib: i32,
    pub volume_type: String,
    pub multi_attach: bool,
    pub iops: Option<i32>,
    pub throughput: Option<i32>,
    pub tags: BTreeMap<String, String>,
}

/// ModifyVolume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Modify {
    pub volume_id: String,
    pub size_gib: Option<i32>,
    pub volume_type: Option<String>,
    pub iops: Option<i32>,
    pub throughput: Option<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VolumeQuery {
    Id(String),
    /// By the tag `CSIVolumeName`.
    Name(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SnapshotQuery {
    Id(String),
    /// By the tag `CSIVolumeSnapshotName`.
    Name(String),
    /// A page of all, or of one volume's.
    List {
        volume_id: Option<String>,
        max_results: i32,
        next_token: Option<String>,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Volume {
    pub volume_id: String,
    pub size_gib: i32,
    /// `creating`, `available`, …
    pub state: String,
    pub availability_zone: String,
    pub availability_zone_id: String,
    pub kms_key_id: String,
    pub volume_type: String,
    pub iops: Option<i32>,
    pub throughput: Option<i32>,
    pub multi_attach: bool,
    pub tags: BTreeMap<String, String>,
    pub attachments: Vec<Attachment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attachment {
    pub instance_id: String,
    /// `attaching`, `attached`, `detaching`, `detached`, `busy`.
    pub state: String,
    pub device: String,
    /// Time since AttachTime, computed by the shell, in seconds.
    pub age_seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Instance {
    pub instance_id: String,
    pub root_device_name: String,
    /// Device name and volume id of the block device mapping.
    pub block_devices: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Snapshot {
    pub snapshot_id: String,
    pub volume_id: String,
    pub size_gib: i32,
    /// Milliseconds since the Unix epoch.
    pub start_time_ms: i64,
    /// `pending`, `completed`, `error`.
    pub state: String,
}

/// CreateAccessPoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NewAccessPoint {
    pub client_token: String,
    pub file_system_id: String,
    pub uid: i64,
    pub gid: i64,
    pub path: String,
    /// As given in `directoryPerms`; empty when not given.
    pub permissions: String,
    pub tags: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AccessPoint {
    pub access_point_id: String,
    pub file_system_id: String,
    pub client_token: String,
    pub path: String,
    /// Uid and gid.
    pub posix_user: Option<(i64, i64)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileSystem {
    pub file_system_id: String,
    /// Set on One Zone file systems.
    pub availability_zone: Option<String>,
}
