//! The parameters of the commands, as the aws CLI names them in `--cli-input-json`. What is not here is refused by name.

use model_aws::efs;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Tag {
    pub key: String,
    #[serde(default)]
    pub value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct TagSpecification {
    pub resource_type: String,
    pub tags: Vec<Tag>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct CreateVolume {
    pub availability_zone: Option<String>,
    pub size: Option<u32>,
    pub volume_type: Option<String>,
    pub iops: Option<u32>,
    pub throughput: Option<u32>,
    #[serde(default)]
    pub encrypted: bool,
    pub kms_key_id: Option<String>,
    #[serde(default)]
    pub multi_attach_enabled: bool,
    pub snapshot_id: Option<String>,
    pub client_token: Option<String>,
    #[serde(default)]
    pub tag_specifications: Vec<TagSpecification>,
}

/// A describe of EC2; each takes its own list of ids.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Describe {
    #[serde(
        default,
        alias = "VolumeIds",
        alias = "SnapshotIds",
        alias = "InstanceIds",
        alias = "VpcIds",
        alias = "SubnetIds",
        alias = "GroupIds",
        alias = "ZoneNames"
    )]
    pub ids: Vec<String>,
    #[serde(default)]
    pub filters: Vec<Selection>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Selection {
    pub name: String,
    pub values: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Attach {
    pub volume_id: String,
    pub instance_id: Option<String>,
    pub device: Option<String>,
    #[serde(default)]
    pub force: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct CreateGroup {
    pub group_name: String,
    pub description: String,
    pub vpc_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Authorize {
    pub group_id: String,
    pub ip_permissions: Vec<Permission>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Permission {
    pub ip_protocol: String,
    pub from_port: Option<i32>,
    pub to_port: Option<i32>,
    #[serde(default)]
    pub ip_ranges: Vec<Range>,
    #[serde(default)]
    pub user_id_group_pairs: Vec<Pair>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Range {
    pub cidr_ip: String,
    pub description: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Pair {
    pub group_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct CreateFileSystem {
    pub creation_token: String,
    pub performance_mode: Option<efs::PerformanceMode>,
    pub throughput_mode: Option<efs::ThroughputMode>,
    pub encrypted: Option<bool>,
    pub availability_zone_name: Option<String>,
    #[serde(default)]
    pub tags: Vec<Tag>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct CreateMountTarget {
    pub file_system_id: String,
    pub subnet_id: String,
    pub ip_address: Option<String>,
    pub security_groups: Option<Vec<String>>,
}

/// The ids that EFS's describes and deletes take.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Ids {
    pub file_system_id: Option<String>,
    pub mount_target_id: Option<String>,
    pub access_point_id: Option<String>,
    pub creation_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct VolumeId {
    pub volume_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct GroupId {
    pub group_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct ModifyVolume {
    pub volume_id: String,
    pub size: Option<u32>,
    pub volume_type: Option<String>,
    pub iops: Option<u32>,
    pub throughput: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct CreateSnapshot {
    pub volume_id: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub tag_specifications: Vec<TagSpecification>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct SnapshotId {
    pub snapshot_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct CreateAccessPoint {
    pub client_token: String,
    pub file_system_id: String,
    pub posix_user: Option<User>,
    #[serde(default)]
    pub root_directory: RootDirectory,
    #[serde(default)]
    pub tags: Vec<Tag>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct User {
    pub uid: u32,
    pub gid: u32,
    #[serde(default)]
    pub secondary_gids: Vec<u32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct RootDirectory {
    pub path: Option<String>,
    pub creation_info: Option<CreationInfo>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct CreationInfo {
    pub owner_uid: u32,
    pub owner_gid: u32,
    pub permissions: String,
}
