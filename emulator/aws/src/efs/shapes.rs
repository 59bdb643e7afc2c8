//! The shapes of the EFS API, named as in the service model (botocore `efs/2015-02-01`).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use model_aws::At;
use model_aws::efs::{self, LifecyclePolicy, PerformanceMode, ThroughputMode};
use model_aws::world::World;
use model_common::agent;
use serde::{Deserialize, Serialize};

/// Whose everything is: for owners and ARNs.
#[derive(Clone, Copy)]
pub struct Owner<'a>(pub &'a World);

impl Owner<'_> {
    fn id(self) -> String {
        self.0.account.clone()
    }

    /// `arn:aws:elasticfilesystem:us-east-1:000000000000:file-system/fs-…`
    fn arn(self, kind: &str, id: &str) -> String {
        format!("arn:aws:elasticfilesystem:{}:{}:{kind}/{id}", self.0.region, self.0.account)
    }
}

/// A time as the protocol writes it: seconds with a fraction.
fn epoch(at: At) -> f64 {
    at.0 as f64 / 1000.0
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Tag {
    pub key: String,
    pub value: String,
}

pub fn tags(tags: &BTreeMap<String, String>) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag { key: key.clone(), value: value.clone() }).collect()
}

pub fn tag_map(tags: Vec<Tag>) -> BTreeMap<String, String> {
    tags.into_iter().map(|tag| (tag.key, tag.value)).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateFileSystem {
    pub creation_token: String,
    pub performance_mode: Option<PerformanceMode>,
    pub encrypted: Option<bool>,
    pub kms_key_id: Option<String>,
    #[serde(flatten)]
    pub throughput: Throughput,
    pub availability_zone_name: Option<String>,
    pub backup: Option<bool>,
    #[serde(default)]
    pub tags: Vec<Tag>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Throughput {
    pub throughput_mode: Option<ThroughputMode>,
    pub provisioned_throughput_in_mibps: Option<f64>,
}

impl Throughput {
    pub fn kibps(&self) -> Option<u64> {
        // A number that is negative or not finite becomes 0, which is out of the range that the machine allows.
        self.provisioned_throughput_in_mibps.map(|mibps| (mibps * 1024.0) as u64)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateMountTarget {
    pub file_system_id: String,
    pub subnet_id: String,
    pub ip_address: Option<String>,
    pub ipv6_address: Option<String>,
    pub ip_address_type: Option<String>,
    pub security_groups: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateAccessPoint {
    pub client_token: String,
    pub file_system_id: String,
    #[serde(default)]
    pub tags: Vec<Tag>,
    pub posix_user: Option<PosixUser>,
    pub root_directory: Option<RootDirectory>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PosixUser {
    pub uid: u32,
    pub gid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secondary_gids: Option<Vec<u32>>,
}

impl PosixUser {
    pub fn into_model(self) -> agent::PosixUser {
        agent::PosixUser { uid: self.uid, gid: self.gid, secondary_gids: self.secondary_gids.unwrap_or_default() }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RootDirectory {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_info: Option<CreationInfo>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreationInfo {
    pub owner_uid: u32,
    pub owner_gid: u32,
    pub permissions: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct FileSystemDescription {
    owner_id: String,
    creation_token: String,
    file_system_id: String,
    file_system_arn: String,
    creation_time: f64,
    life_cycle_state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    number_of_mount_targets: usize,
    size_in_bytes: FileSystemSize,
    performance_mode: PerformanceMode,
    encrypted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    kms_key_id: Option<String>,
    throughput_mode: ThroughputMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    provisioned_throughput_in_mibps: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    availability_zone_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    availability_zone_id: Option<String>,
    tags: Vec<Tag>,
    file_system_protection: Protection,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct FileSystemSize {
    value: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<f64>,
    #[serde(rename = "ValueInIA")]
    value_in_ia: u64,
    value_in_standard: u64,
    value_in_archive: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Protection {
    pub replication_overwrite_protection: &'static str,
}

impl Protection {
    pub fn of(on: bool) -> Self {
        Self { replication_overwrite_protection: if on { "ENABLED" } else { "DISABLED" } }
    }
}

pub fn file_system(owner: Owner<'_>, row: &efs::FileSystem, targets: usize) -> FileSystemDescription {
    FileSystemDescription {
        owner_id: owner.id(),
        creation_token: row.creation_token.clone(),
        file_system_id: row.id.clone(),
        file_system_arn: owner.arn("file-system", &row.id),
        creation_time: epoch(row.created),
        life_cycle_state: row.shown().as_str(),
        name: row.tags.get("Name").cloned(),
        number_of_mount_targets: targets,
        size_in_bytes: FileSystemSize {
            value: row.metered_bytes,
            timestamp: (row.metered > row.created).then(|| epoch(row.metered)),
            value_in_ia: 0,
            value_in_standard: row.metered_bytes,
            value_in_archive: 0,
        },
        performance_mode: row.performance_mode,
        encrypted: row.encrypted,
        kms_key_id: row.kms_key_id.clone(),
        throughput_mode: row.throughput_mode,
        provisioned_throughput_in_mibps: row.provisioned_kibps.map(|kibps| kibps as f64 / 1024.0),
        availability_zone_name: row.zone.as_ref().map(|(name, _)| name.clone()),
        availability_zone_id: row.zone.as_ref().map(|(_, id)| id.clone()),
        tags: tags(&row.tags),
        file_system_protection: Protection::of(row.overwrite_protection),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MountTargetDescription {
    owner_id: String,
    mount_target_id: String,
    file_system_id: String,
    subnet_id: String,
    life_cycle_state: &'static str,
    ip_address: Ipv4Addr,
    network_interface_id: String,
    availability_zone_id: String,
    availability_zone_name: String,
    vpc_id: String,
}

pub fn mount_target(owner: Owner<'_>, row: &efs::MountTarget) -> MountTargetDescription {
    MountTargetDescription {
        owner_id: owner.id(),
        mount_target_id: row.id.clone(),
        file_system_id: row.file_system_id.clone(),
        subnet_id: row.subnet_id.clone(),
        life_cycle_state: row.state.as_str(),
        ip_address: row.ip,
        network_interface_id: row.network_interface_id.clone(),
        availability_zone_id: row.zone.1.clone(),
        availability_zone_name: row.zone.0.clone(),
        vpc_id: row.vpc_id.clone(),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AccessPointDescription {
    client_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    tags: Vec<Tag>,
    access_point_id: String,
    access_point_arn: String,
    file_system_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    posix_user: Option<PosixUser>,
    root_directory: RootDirectory,
    owner_id: String,
    life_cycle_state: &'static str,
}

pub fn access_point(owner: Owner<'_>, row: &efs::AccessPoint) -> AccessPointDescription {
    let user = row.posix_user.as_ref().map(|user| PosixUser {
        uid: user.uid,
        gid: user.gid,
        secondary_gids: (!user.secondary_gids.is_empty()).then(|| user.secondary_gids.clone()),
    });
    let creation = row.creation.as_ref().map(|creation| CreationInfo {
        owner_uid: creation.owner_uid,
        owner_gid: creation.owner_gid,
        permissions: creation.permissions.clone(),
    });
    AccessPointDescription {
        client_token: row.client_token.clone(),
        name: row.tags.get("Name").cloned(),
        tags: tags(&row.tags),
        access_point_id: row.id.clone(),
        access_point_arn: owner.arn("access-point", &row.id),
        file_system_id: row.file_system_id.clone(),
        posix_user: user,
        root_directory: RootDirectory { path: Some(row.path.clone()), creation_info: creation },
        owner_id: owner.id(),
        life_cycle_state: row.state.as_str(),
    }
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct LifecycleConfiguration {
    pub lifecycle_policies: Vec<LifecyclePolicy>,
}
